"""The SQL probe: every statement of every SQLAlchemy engine of the process.

Its cost is what a measured suite feels, so the path of a statement that was seen before is one
walk to the user's line, one lookup and a few additions; everything that can be known once for
each statement and line is found out at the first sight of it (:meth:`_Ledger.first_sight`).
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from time import perf_counter
from types import CodeType, FrameType, ModuleType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pytest_perfguard.callsite import outwards, waiting_frames
from pytest_perfguard.fingerprint import Fingerprint, Kind, fingerprint, varying_values
from pytest_perfguard.model import Site, Tally
from pytest_perfguard.recorder import MAX_MOMENTS, MAX_TALLIES, OpenSpan, Recorder

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine

# Parameter sets are remembered as hashes to tell duplicates from repeats. A span remembers this
# many for each statement, and fewer once it holds many altogether.
_MAX_SETS = 1_024
_MANY_SETS = 50_000
_FEW_SETS = 64
_MAX_ALIASES = 4_096
_MAX_SAMPLES = 3
_MAX_SAMPLE_LENGTH = 500

_CONNECT = "connect"
_BACKSLASH_DIALECTS = ("mysql", "mariadb")
_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"|\b\d+\b")


class _LiveTally:
    """A tally that is still being added to."""

    __slots__ = (
        "batched", "commits", "count", "distinct", "duplicates", "embedded", "errors", "fix",
        "facts", "flush", "full_scans", "kind", "label", "moment", "operation", "peak", "repeats",
        "roundtrips", "rows", "samples", "seconds", "site", "subject",
    )  # fmt: skip

    def __init__(self, operation: str, kind: str, label: str, site: Site | None = None) -> None:
        self.operation = operation
        self.kind = kind
        self.label = label
        self.site = site
        self.subject: str | None = None
        self.fix: str | None = None
        self.facts: dict[str, str] = {}
        # Sent in several batches by the ORM: those that follow each other are one.
        self.batched = False
        # Run on behalf of another statement, such as a sequence for its key.
        self.embedded = False
        self.flush = -1
        self.count = 0
        self.repeats = 0
        self.distinct: set[int] = set()
        self.duplicates = 0
        self.roundtrips = 0
        self.rows = 0
        self.seconds = 0.0
        self.peak = 0.0
        self.errors = 0
        self.commits = 0
        self.full_scans = 0
        self.samples: list[str] = []
        self.moment: list[Any] = []

    def freeze(self) -> Tally:
        sums = {
            "roundtrips": self.roundtrips,
            "rows": self.rows,
            "seconds": self.seconds,
            "errors": self.errors,
            "commits": self.commits,
            "full_scans": self.full_scans,
        }
        return Tally(
            probe="sql",
            operation=self.operation,
            kind=self.kind,
            label=self.label,
            site=self.site,
            subject=self.subject,
            fix=self.fix,
            facts=dict(self.facts),
            count=self.count,
            repeats=self.repeats,
            distinct=len(self.distinct),
            duplicates=self.duplicates,
            sums={name: value for name, value in sums.items() if value},
            peaks={"seconds": self.peak} if self.peak else {},
            samples=tuple(self.samples),
        )


class _Known:
    """What is known of one statement text from one place in the code."""

    __slots__ = (
        "basis", "code", "compared", "counted", "paging", "reads", "repeatable", "tally", "writes"
    )  # fmt: skip

    def __init__(self, tally: _LiveTally, code: CodeType | None, basis: str) -> None:
        self.tally = tally
        # Held so that its id, which is part of the key, is not given to another.
        self.code = code
        self.basis = basis
        self.paging: frozenset[int | str] = frozenset()
        self.reads: set[int] | None = None
        self.writes: frozenset[str] | None = None
        self.counted = True
        self.repeatable = False
        self.compared = False


class _Ledger:
    """What the probe has seen in one span."""

    __slots__ = ("_by_table", "_reads", "_tallies", "dialect", "kept", "known")

    def __init__(self) -> None:
        self.known: dict[tuple[str, int, int], _Known] = {}
        self.kept = 0
        self.dialect: object = None
        self._reads: dict[str, set[int]] = {}
        self._by_table: dict[str, list[set[int]]] = {}
        self._tallies: dict[tuple[object, ...], _LiveTally] = {}

    def tallies(self) -> Iterable[Tally]:
        """Return what has been added up so far."""
        return [tally.freeze() for tally in list(self._tallies.values())]

    def tally(self, operation: str, kind: str, label: str, site: Site | None, subject: str | None) -> _LiveTally:
        """Return the tally of an operation at a line, a new one at first sight."""
        key = (operation, kind, site and (site.file, site.line), subject)
        if key not in self._tallies:
            if len(self._tallies) >= MAX_TALLIES:
                operation, label, site, subject = "(other statements)", "(other)", None, None
                key = (operation, kind, site, subject)
            tally = self._tallies.setdefault(key, _LiveTally(operation, kind, label, site))
            tally.subject = subject
        return self._tallies[key]

    def reads(self, found: Fingerprint) -> set[int]:
        """Return the parameter sets that a read has been run with."""
        if found.text not in self._reads:
            self._reads[found.text] = seen = set()
            for table in found.tables or ("",):
                self._by_table.setdefault(table, []).append(seen)
        return self._reads[found.text]

    def forget_reads(self, tables: frozenset[str]) -> None:
        """Forget what was read of tables that are written to now; of all if none is named."""
        for table in (*tables, "") if tables else tuple(self._by_table):
            for seen in self._by_table.get(table, ()):
                seen.clear()

    def remember(self, seen: set[int], value: int) -> None:
        """Add a parameter set, within the limits of what a span may hold."""
        if len(seen) < (_MAX_SETS if self.kept < _MANY_SETS else _FEW_SETS):
            seen.add(value)
            self.kept += 1


class SqlProbe:
    """Counts and times the statements of every SQLAlchemy engine, sync and async."""

    name = "sql"

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []
        self._flushes = 0
        self._engines: WeakKeyDictionary[Engine, tuple[str, str]] = WeakKeyDictionary()

    def start(self, recorder: Recorder) -> None:
        """Listen on the classes, so that engines made before and after are heard alike.

        The ``do_execute`` family of events is used because one call then brackets the driver's
        own: it costs half of the ``before_cursor_execute``/``after_cursor_execute`` pair, and
        a statement that fails or is cancelled ends in the same place as one that succeeds.
        """
        from sqlalchemy import event  # noqa: PLC0415 - an optional library
        from sqlalchemy.engine import Engine  # noqa: PLC0415
        from sqlalchemy.orm import Session  # noqa: PLC0415
        from sqlalchemy.pool import Pool  # noqa: PLC0415

        from pytest_perfguard.probes import sqlalchemy_internals as internals  # noqa: PLC0415

        def listen(target: type, name: str, listener: Any) -> None:
            event.listen(target, name, listener)
            self._undo.append(lambda: event.remove(target, name, listener))

        def count_rows(context: Any, rows: int) -> None:
            tally = context._perfguard_tally
            if tally is not None and not internals.is_implicit_returning(context):
                tally.rows += rows

        self._undo.append(internals.watch_rows(count_rows))
        self._undo.append(internals.watch_commits(self._commit(recorder)))
        observe = self._observer(recorder, internals)

        def do_execute(cursor: Any, statement: str, parameters: Any, context: Any) -> Any:
            return observe(context.dialect.do_execute, cursor, statement, parameters, context)

        def do_executemany(cursor: Any, statement: str, parameters: Any, context: Any) -> Any:
            return observe(context.dialect.do_executemany, cursor, statement, parameters, context)

        def do_execute_no_params(cursor: Any, statement: str, context: Any) -> Any:
            def run(cursor: Any, statement: str, _parameters: Any, context: Any) -> None:
                context.dialect.do_execute_no_params(cursor, statement, context)

            return observe(run, cursor, statement, (), context)

        listen(Engine, "do_execute", do_execute)
        listen(Engine, "do_executemany", do_executemany)
        listen(Engine, "do_execute_no_params", do_execute_no_params)
        listen(Pool, "checkout", self._checkout(recorder))
        listen(Session, "before_flush", self._count_flush)

    def stop(self) -> None:
        """Take every listener and wrapper away again."""
        while self._undo:
            self._undo.pop()()

    def _count_flush(self, *_: object) -> None:
        self._flushes += 1

    def _observer(self, recorder: Recorder, internals: ModuleType) -> Callable[..., Any]:
        innermost = recorder.innermost
        is_user = recorder.sites.is_user
        getframe = sys._getframe
        show_parameters = recorder.settings.show_parameters

        def observe(run: Any, cursor: Any, statement: str, parameters: Any, context: Any) -> Any:
            __tracebackhide__ = True
            span = innermost()
            if span is None:
                return None
            tally = context._perfguard_tally
            if tally is None or tally.embedded:
                # This frame, the listener and two of SQLAlchemy's lie before the user's.
                frame = getframe(4)
                while frame is not None and not is_user[frame.f_code.co_filename]:
                    frame = frame.f_back  # type: ignore[assignment] # ends the loop
                if frame is None:
                    frame = _waiting_user_frame(is_user)
                if frame is None:
                    key = (statement, 0, 0)
                else:
                    key = (statement, id(frame.f_code), frame.f_lasti)
                ledger = span.ledgers.get("sql")
                if ledger is None:
                    ledger = span.ledgers["sql"] = _Ledger()
                known = ledger.known.get(key)
                if known is None or ledger.dialect is not context.dialect:
                    ledger.dialect = context.dialect
                    self._note_engine(recorder, context.root_connection.engine)
                    if known is None:
                        known = ledger.known[key] = self._first_sight(
                            recorder, internals, span, ledger, statement, parameters, context, frame
                        )
                tally = known.tally
                context._perfguard_tally = tally
                if known.counted and not (tally.batched and span.last is tally):
                    writes = known.writes
                    if writes is None or not self._same_flush(tally, internals):
                        tally.count += 1
                        if known.compared:
                            _compare(ledger, known, parameters)
                        if writes is not None:
                            ledger.forget_reads(writes)
                        if show_parameters and len(tally.samples) < _MAX_SAMPLES:
                            tally.samples.append(repr(parameters)[:_MAX_SAMPLE_LENGTH])
            # Otherwise this is a further batch of a statement that has been counted.
            tally.roundtrips += 1
            started = perf_counter()
            try:
                run(cursor, statement, parameters, context)
            except BaseException as error:
                tally.errors += 1
                tally.facts["error"] = _describe(error, tally.operation)
                raise
            finally:
                took = perf_counter() - started
                tally.seconds += took
                if took > tally.peak:
                    tally.peak = took
                moment = tally.moment
                if span.last is not tally:
                    span.last = tally
                    moment = tally.moment = [tally.label, 0, started - span.origin, 0.0]
                    if len(span.moments) < MAX_MOMENTS:
                        span.moments.append(moment)
                    else:
                        span.dropped += 1
                moment[1] += 1
                moment[3] += took
            return True

        return observe

    def _same_flush(self, tally: _LiveTally, internals: ModuleType) -> bool:
        """Return whether the tally's last statement was sent by the flush that runs now.

        A flush may send the same UPDATE row by row, which is the ORM's affair.
        """
        if tally.flush != self._flushes:
            tally.flush = self._flushes
            return False
        in_flush: bool = internals.in_flush(sys._getframe(2))
        return in_flush

    def _first_sight(
        self,
        recorder: Recorder,
        internals: ModuleType,
        span: OpenSpan,
        ledger: _Ledger,
        statement: str,
        parameters: Any,
        context: Any,
        frame: FrameType | None,
    ) -> _Known:
        """Find out what can be known once of a statement text and the place it is run from."""
        inner = sys._getframe(3)
        found = _fingerprint(statement, context.dialect.name in _BACKSLASH_DIALECTS)
        cause = internals.cause(context)
        kind = _CONNECT if internals.is_first_connect(outwards(inner)) else found.kind
        tally = ledger.tally(
            found.text,
            kind,
            found.label,
            recorder.sites.site(inner, internals.LIBRARY),
            cause.subject if cause else None,
        )
        tally.embedded = internals.is_embedded(inner)
        tally.batched = internals.is_batched_load(outwards(inner))
        known = _Known(tally, frame and frame.f_code, statement if found.literal else found.text)
        known.counted = not tally.embedded
        if kind == Kind.READ:
            known.reads = ledger.reads(found)
            known.paging = found.paging
        elif kind in (Kind.WRITE, Kind.OTHER, Kind.SCHEMA):
            known.writes = found.tables
        known.repeatable = (
            kind in (Kind.READ, Kind.WRITE) and not context.executemany and not found.batched
        )
        known.compared = known.repeatable or known.reads is not None
        if tally.fix is None:
            tally.fix = _fix(found, cause, internals.entity(context))
            if cause is not None:
                tally.facts["cause"] = cause.how
            if span.explain and kind in (Kind.READ, Kind.WRITE) and not context.executemany:
                from pytest_perfguard.plans import full_scan  # noqa: PLC0415 - only where asked for

                scan = full_scan(context.root_connection, statement, parameters, found)
                if scan:
                    tally.full_scans = 1
                    tally.facts["plan"] = scan
        if len(ledger.known) >= _MAX_ALIASES:
            ledger.known.clear()
        return known

    def _note_engine(self, recorder: Recorder, engine: Engine) -> None:
        if engine not in self._engines:
            url = engine.url.render_as_string(hide_password=True)
            identity = hashlib.blake2s(url.encode(), digest_size=6).hexdigest()
            self._engines[engine] = identity, f"{engine.dialect.name}+{engine.driver}"
        identity, label = self._engines[engine]
        recorder.engines[identity] = label

    def _commit(self, recorder: Recorder) -> Callable[[], None]:
        def commit() -> None:
            span = recorder.innermost()
            if span is None:
                return
            ledger = span.ledgers.get("sql")
            if ledger is None:
                ledger = span.ledgers["sql"] = _Ledger()
            site = recorder.sites.site(sys._getframe(1), "")
            ledger.tally("COMMIT", Kind.TRANSACTION, "COMMIT", site, None).commits += 1

        return commit

    def _checkout(self, recorder: Recorder) -> Callable[..., None]:
        def checkout(_connection: object, _record: object, proxy: Any) -> None:
            span = recorder.innermost()
            if span is None:
                return
            pool = proxy._pool
            size, overflow = getattr(pool, "size", None), getattr(pool, "_max_overflow", None)
            if size is None or overflow is None:
                span.notes[f"{type(pool).__name__} has no limit that pool_peak could be a share of"] = None
            elif overflow < 0:
                span.notes["a pool with max_overflow=-1 has no limit that pool_peak could be a share of"] = None
            else:
                span.level("pool_peak", pool.checkedout() / (size() + overflow))

        return checkout


def _compare(ledger: _Ledger, known: _Known, parameters: Any) -> None:
    """Compare the parameters with those that the statement was run with before."""
    tally = known.tally
    try:
        if type(parameters) is dict:
            value = hash((known.basis, *parameters.values()))
        else:
            value = hash((known.basis, parameters))
    except TypeError:
        # There is a list, a dict or another mutable value among them.
        value = hash((known.basis, repr(parameters)))
    seen = known.reads
    if seen is not None:
        if value in seen:
            tally.duplicates += 1
        else:
            ledger.remember(seen, value)
    if known.repeatable:
        tally.repeats += 1
        if known.paging:
            value = hash(repr(varying_values(parameters, known.paging)))
        if value not in tally.distinct:
            ledger.remember(tally.distinct, value)


def _describe(error: BaseException, operation: str) -> str:
    return f"{type(error).__name__}: {_without_values(str(error), operation)}"


def _without_values(message: str, operation: str) -> str:
    """Return the first line of a driver's message without what may be data.

    What the statement's own text names, such as a column, is kept.
    """

    def replacement(match: re.Match[str]) -> str:
        inside = match[1] or match[2]
        return match[0] if inside and inside in operation else "?"

    return _QUOTED.sub(replacement, message.strip().partition("\n")[0])[:200]


def _waiting_user_frame(is_user: Mapping[str, bool]) -> FrameType | None:
    for waiting in waiting_frames():
        frame: FrameType | None = waiting
        while frame is not None:
            if is_user[frame.f_code.co_filename]:
                return frame
            frame = frame.f_back
    return None


@lru_cache(_MAX_ALIASES)
def _fingerprint(statement: str, backslash_escapes: bool) -> Fingerprint:
    return fingerprint(statement, backslash_escapes=backslash_escapes)


_EQUALS = re.compile(r"WHERE (?:\S+\.)?\"?(\w+)\"? = \?(?: |$)")


def _fix(found: Fingerprint, cause: Any, entity: str | None) -> str | None:
    """Return what to write instead, should the statement turn out to be repeated."""
    if cause is not None:
        if cause.how == "refresh":
            return (
                f"the attributes of {cause.subject} had expired (commit) or were deferred: read what "
                "is needed before the commit, or load all rows again with one select()"
            )
        fix: str = cause.fix
        return f"{fix}  # or joinedload" if cause.how == "lazy to-one" else fix
    if found.kind is Kind.READ:
        column = _EQUALS.search(found.text)
        if entity and column:
            return (
                "load them in one query before the loop: "
                f"select({entity}).where({entity}.{column[1]}.in_(keys))"
            )
        if column:
            return f"load them in one query before the loop: ... WHERE {column[1]} IN (...)"
        return "load them in one query before the loop"
    if found.kind is Kind.WRITE:
        if found.label.startswith("INSERT"):
            return (
                "insert them together: session.add_all(objects) and one flush, or "
                "session.execute(insert(Model), list_of_dicts)"
            )
        return (
            "write them together: session.execute(update(Model), list_of_dicts), or one statement "
            "WHERE key IN (...)"
        )
    return None
