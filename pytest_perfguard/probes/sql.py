"""The SQL probe: every statement of every SQLAlchemy engine of the process.

Its cost is what a measured suite feels, so the path of a statement that was seen before is one
walk to the user's line, one lookup and a few additions; everything that can be known once for
each statement and line is found out at the first sight of it (:meth:`SqlProbe._first_sight`).
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pytest_perfguard.callsite import Places, outwards, waiting_user_frame
from pytest_perfguard.errors import PerfguardError
from pytest_perfguard.fingerprint import Fingerprint, Kind, fingerprint, varying_text
from pytest_perfguard.metrics import UNCOUNTED
from pytest_perfguard.probes.pool import Pools
from pytest_perfguard.probes.sql_advice import describe, fix
from pytest_perfguard.probes.sql_ledger import (
    Key,
    Known,
    LiveTally,
    SqlLedger,
    compare,
    hashes_by_identity,
)
from pytest_perfguard.probes.sql_pages import is_deep, is_unbounded, offset_of
from pytest_perfguard.probes.transactions import Transactions
from pytest_perfguard.spans import PLANNED, Clock, OpenSpan, Spans
from pytest_perfguard.units import shown

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from pytest_perfguard.plans import Answers

_MAX_KNOWN = 4_096
# Longer statements are known by their hash, so that none of them is held.
_LONG = 4_096
_MAX_SAMPLES = 3
_MAX_SAMPLE_LENGTH = 500

_CONNECT = "connect"
_BACKSLASH_DIALECTS = ("mysql", "mariadb")
# A read of a function's value: each call may have another, and an effect.
_CALL = re.compile(r"SELECT [\w.]+\([^()]*\)(?: AS \w+)?$", re.IGNORECASE)
_PROCEDURES = ("CALL", "DO", "EXEC", "EXECUTE")


_NUMBERS = count(1)


class SqlProbe:
    """Counts and times the statements of every SQLAlchemy engine, sync and async."""

    name = "sql"

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []
        self._flushes = 0
        # Where the tally of a statement is left on its execution context; one name for each
        # probe, so that two may listen at once.
        self._attribute = f"_perfguard_{next(_NUMBERS)}"
        self._engines: WeakKeyDictionary[Engine, tuple[str, str]] = WeakKeyDictionary()
        self._watched: tuple[Spans, Pools, Transactions] | None = None
        self._answers: WeakKeyDictionary[Engine, Answers] = WeakKeyDictionary()

    def start(self, spans: Spans) -> None:
        """Listen on the classes, so that engines made before and after are heard alike.

        The ``do_execute`` family of events is used because one call then brackets the driver's
        own: it costs half of the ``before_cursor_execute``/``after_cursor_execute`` pair, and
        a statement that fails or is cancelled ends in the same place as one that succeeds.
        """
        if self._undo:
            return
        import sqlalchemy  # noqa: PLC0415 - an optional library
        from sqlalchemy import event  # noqa: PLC0415
        from sqlalchemy.engine import Engine  # noqa: PLC0415
        from sqlalchemy.orm import Session  # noqa: PLC0415
        from sqlalchemy.pool import Pool  # noqa: PLC0415

        if sqlalchemy.__version__.startswith("1."):
            raise PerfguardError(
                f"SQLAlchemy {sqlalchemy.__version__} is installed; 2.0 or newer can be measured"
            )
        from pytest_perfguard.probes import sqlalchemy_internals as internals  # noqa: PLC0415

        def listen(target: type, name: str, listener: Any) -> None:
            event.listen(target, name, listener)
            self._undo.append(lambda: event.remove(target, name, listener))

        pools, transactions = self._watch(spans, internals)
        observe = self._observer(spans, internals, transactions)

        def do_execute(cursor: Any, statement: str, parameters: Any, context: Any) -> Any:
            __tracebackhide__ = True
            dialect = context.dialect
            listeners = dialect.dispatch.do_execute
            run = dialect.do_execute
            if len(listeners) > 1:
                run = _after(do_execute, listeners, run)
            return observe(run, cursor, statement, parameters, context)

        def do_executemany(cursor: Any, statement: str, parameters: Any, context: Any) -> Any:
            __tracebackhide__ = True
            dialect = context.dialect
            run = _after(do_executemany, dialect.dispatch.do_executemany, dialect.do_executemany)
            return observe(run, cursor, statement, parameters, context)

        def do_execute_no_params(cursor: Any, statement: str, context: Any) -> Any:
            __tracebackhide__ = True
            dialect = context.dialect
            rest = _after(
                do_execute_no_params,
                dialect.dispatch.do_execute_no_params,
                dialect.do_execute_no_params,
            )

            def run(cursor: Any, statement: str, _parameters: None, context: Any) -> None:
                rest(cursor, statement, context)

            return observe(run, cursor, statement, None, context)

        self._undo.append(internals.watch_rows(self._attribute, _count_rows))
        self._undo.append(
            internals.watch_transactions(
                transactions.began, transactions.committing, transactions.ended
            )
        )
        self._undo.append(internals.watch_waits(pools.waiting, Clock.now))
        for listener in (do_execute, do_executemany, do_execute_no_params):
            self._undo.append(internals.listen_first(Engine, listener.__name__, listener))
        listen(Pool, "checkout", pools.checkout)
        listen(Pool, "checkin", pools.checkin)
        listen(Session, "before_flush", self._count_flush)

        listen(Session, "after_begin", pools.begun)
        listen(Session, "after_begin", transactions.joined)
        listen(Session, "after_transaction_end", transactions.left)

    def stop(self) -> None:
        """Take every listener and wrapper away again."""
        while self._undo:
            self._undo.pop()()

    def _watch(self, spans: Spans, internals: ModuleType) -> tuple[Pools, Transactions]:
        """Begin to watch the spans for what has to do with pools and transactions."""
        if self._watched is None or self._watched[0] is not spans:
            places = Places(spans.sites, internals.LIBRARY)
            self._watched = (
                spans,
                Pools(spans, places, internals),
                Transactions(spans, places, internals),
            )
        _, pools, transactions = self._watched
        spans.watchers += [pools, transactions]
        spans.fixtures.append(pools.fixture)

        def leave() -> None:
            spans.fixtures.remove(pools.fixture)
            for watcher in (pools, transactions):
                spans.watchers.remove(watcher)
                watcher.clear()

        self._undo.append(leave)
        return pools, transactions

    def _count_flush(self, *_: object) -> None:
        self._flushes += 1

    def _observer(  # noqa: C901, PLR0915 - see the module's docstring
        self, spans: Spans, internals: ModuleType, transactions: Transactions
    ) -> Callable[..., Any]:
        open_transactions = transactions.by_connection
        innermost = spans.innermost
        is_user = spans.sites.is_user
        getframe = sys._getframe
        clock = Clock.now
        attribute = self._attribute
        show_parameters = spans.settings.show_parameters

        def observe(  # noqa: C901, PLR0912, PLR0915 - calls would cost more than the work
            run: Any, cursor: Any, statement: str, parameters: Any, context: Any
        ) -> Any:
            __tracebackhide__ = True
            span = innermost()
            if span is None:
                return None
            tally = getattr(context, attribute)
            if tally is None or tally.embedded:
                # This frame, the listener and two of SQLAlchemy's lie before the user's.
                frame: FrameType | None = getframe(4)
                while frame is not None and not is_user[frame.f_code.co_filename]:
                    frame = frame.f_back
                if frame is None:
                    frame = waiting_user_frame(is_user)
                if frame is None:
                    key: Key = (statement, 0, 0)
                else:
                    key = (statement, id(frame.f_code), frame.f_lasti)
                ledger = span.ledgers.get("sql")
                if ledger is None:
                    # Another thread may be here as well: what it has made is kept.
                    ledger = span.ledgers.setdefault("sql", SqlLedger())
                dialect = context.dialect
                knowns = ledger.by_dialect.get(dialect)
                if knowns is None:
                    knowns = ledger.by_dialect.setdefault(dialect, {})
                    self._note_engine(spans, context.root_connection.engine)
                known = knowns.get(key)
                if known is None and len(statement) > _LONG:
                    key = (hash(statement), *key[1:])
                    known = knowns.get(key)
                if known is None:
                    known = self._first_sight(
                        spans, internals, span, ledger, statement, parameters, context, frame
                    )
                    if len(knowns) >= _MAX_KNOWN:
                        knowns.clear()
                    knowns[key] = known
                tally = known.tally
                setattr(context, attribute, tally)
                writes = known.writes
                if known.holds:
                    connection = context.root_connection
                    transaction = open_transactions.get(id(connection))
                    if transaction is None or transaction.latest is not span:
                        transactions.wrote(transaction, connection, span, tally)
                if (
                    known.counted
                    and not (tally.batched and span.last is tally)
                    and (writes is None or not self._same_flush(tally, internals))
                ):
                    tally.count += 1
                    if known.repeatable or known.reads is not None:
                        compare(ledger, known, parameters)
                    if known.offset is not None:
                        tally.deep_offsets += is_deep(parameters, known.offset)
                    if writes is not None:
                        ledger.forget_reads(writes)
                    if show_parameters and len(tally.samples) < _MAX_SAMPLES:
                        tally.samples.append(shown(parameters, _MAX_SAMPLE_LENGTH))
            # Otherwise this is a further batch of a statement that has been counted.
            tally.roundtrips += 1
            started = clock()
            try:
                run(cursor, statement, parameters, context)
            except BaseException as error:
                tally.errors += 1
                tally.facts["error"] = describe(error, tally.operation)
                raise
            finally:
                took = clock() - started
                span.advance(tally, started, took)
            return True

        return observe

    def _same_flush(self, tally: LiveTally, internals: ModuleType) -> bool:
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
        spans: Spans,
        internals: ModuleType,
        span: OpenSpan,
        ledger: SqlLedger,
        statement: str,
        parameters: Any,
        context: Any,
        frame: FrameType | None,
    ) -> Known:
        """Find out what can be known once of a statement text and the place it is run from."""
        inner = sys._getframe(3)
        found = fingerprint(
            statement, backslash_escapes=context.dialect.name in _BACKSLASH_DIALECTS
        )
        cause = ledger.chained(internals.cause(context))
        entity = internals.entity(context)
        if cause is None and entity is not None:
            ledger.selected.add(entity)
        kind = _CONNECT if internals.is_first_connect(outwards(inner)) else found.kind
        tally = ledger.tally(
            found.text,
            kind,
            found.label,
            spans.sites.site(inner, internals.LIBRARY),
            cause.subject if cause else None,
        )
        if tally.site is None:
            through = spans.sites.through(inner, internals.LIBRARY)
            if through is not None:
                tally.facts["through"] = through
        tally.shown = kind not in UNCOUNTED
        tally.embedded = internals.is_embedded(inner)
        tally.batched = internals.is_batched_load(outwards(inner))
        engine = id(context.dialect)
        known = Known(tally, frame and frame.f_code, engine)
        known.counted = not tally.embedded
        # Neither is the text itself, of which there may be megabytes.
        known.exact = hash((engine, statement if found.literal else found.text))
        known.basis = hash((engine, varying_text(statement))) if found.literal else known.exact
        known.by_repr = hashes_by_identity(parameters)
        if kind == Kind.READ and not _CALL.match(found.text):
            known.reads = ledger.reads(hash((engine, found.text)), found.tables)
            known.paging = found.paging
            known.offset = offset_of(statement, found)
            tally.unbounded = is_unbounded(context, found)
        elif kind in (Kind.WRITE, Kind.SCHEMA) or found.label in _PROCEDURES:
            known.writes = found.tables
        known.holds = known.writes is not None or (found.locks and kind != _CONNECT)
        known.repeatable = (
            kind in (Kind.READ, Kind.WRITE)
            and not context.executemany
            and not found.batched
            and not (_CALL.match(found.text) and not found.tables)
            and tally.operation == found.text
        )
        if tally.fix is None:
            tally.fix = fix(found, cause, entity)
            if cause is not None:
                tally.facts["cause"] = cause.how
            if PLANNED & span.wanted and kind in (Kind.READ, Kind.WRITE):
                first = parameters[0] if context.executemany and parameters else parameters
                known_plans = self._answers.setdefault(context.root_connection.engine, {})
                _explain(span, tally, statement, first, context, found, known_plans)
        return known

    def _note_engine(self, spans: Spans, engine: Engine) -> None:
        if engine not in self._engines:
            url = engine.url.render_as_string(hide_password=True)
            identity = hashlib.blake2s(url.encode(), digest_size=6).hexdigest()
            self._engines[engine] = identity, f"{engine.dialect.name}+{engine.driver}"
        identity, label = self._engines[engine]
        spans.engines[identity] = label


def _after(
    own: Callable[..., Any], listeners: Iterable[Callable[..., Any]], run: Callable[..., Any]
) -> Callable[..., None]:
    """Return what SQLAlchemy would do after ``own``: ask the other listeners, then execute."""

    def rest(*arguments: Any) -> None:
        __tracebackhide__ = True
        passed = False
        for listener in listeners:
            if passed and listener(*arguments):
                return
            passed |= listener is own
        run(*arguments)

    return rest


def _count_rows(tally: LiveTally, rows: int) -> None:
    tally.rows += rows


def _explain(
    span: OpenSpan,
    tally: LiveTally,
    statement: str,
    parameters: Any,
    context: Any,
    found: Fingerprint,
    known: Answers,
) -> None:
    # Only if it is asked for.
    from pytest_perfguard.plans import UnknownPlanError, look_at  # noqa: PLC0415
    from pytest_perfguard.probes import sql_conditions as conditions  # noqa: PLC0415
    from pytest_perfguard.probes import sqlalchemy_internals as internals  # noqa: PLC0415

    connection = context.root_connection
    try:
        answer = look_at(
            connection,
            statement,
            parameters,
            found,
            partial(conditions.asked_of, context),
            partial(internals.connect_beside, connection),
            known,
        )
    except UnknownPlanError as error:
        span.notes[str(error)] = None
        tally.unplanned = 1
        return
    if answer is None:
        return
    tally.full_scans = int(bool(answer.scan))
    tally.sorts = int(bool(answer.sort))
    said = {
        "plan": answer.scan, "sort": answer.sort, "asked": answer.asked, "index": answer.advice,
    }  # fmt: skip
    tally.facts |= {name: text for name, text in said.items() if text}
    tally.facts["indexes"] = answer.used
