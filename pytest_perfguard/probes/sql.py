"""The SQL probe: every statement of every SQLAlchemy engine of the process.

Its cost is what a measured suite feels, so the path of a statement that was seen before is one
walk to the user's line, one lookup and a few additions; everything that can be known once for
each statement and line is found out at the first sight of it (:meth:`SqlProbe._first_sight`).
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from time import perf_counter
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pytest_perfguard.callsite import outwards, waiting_frames
from pytest_perfguard.errors import PerfguardError
from pytest_perfguard.fingerprint import Fingerprint, Kind, fingerprint
from pytest_perfguard.metrics import UNCOUNTED
from pytest_perfguard.probes.sql_advice import describe, fix
from pytest_perfguard.probes.sql_ledger import Known, LiveTally, SqlLedger, compare
from pytest_perfguard.spans import MAX_MOMENTS, OpenSpan, Spans

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

_MAX_ALIASES = 4_096
_MAX_SAMPLES = 3
_MAX_SAMPLE_LENGTH = 500

_CONNECT = "connect"
_BACKSLASH_DIALECTS = ("mysql", "mariadb")


class SqlProbe:
    """Counts and times the statements of every SQLAlchemy engine, sync and async."""

    name = "sql"

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []
        self._flushes = 0
        self._engines: WeakKeyDictionary[Engine, tuple[str, str]] = WeakKeyDictionary()

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

        def count_rows(context: Any, rows: int) -> None:
            tally = context._perfguard_tally
            if tally is not None and not internals.is_implicit_returning(context):
                tally.rows += rows

        self._undo.append(internals.watch_rows(count_rows))
        self._undo.append(internals.watch_commits(self._commit(spans)))
        observe = self._observer(spans, internals)

        def do_execute(cursor: Any, statement: str, parameters: Any, context: Any) -> Any:
            __tracebackhide__ = True
            return observe(context.dialect.do_execute, cursor, statement, parameters, context)

        def do_executemany(cursor: Any, statement: str, parameters: Any, context: Any) -> Any:
            __tracebackhide__ = True
            return observe(context.dialect.do_executemany, cursor, statement, parameters, context)

        def do_execute_no_params(cursor: Any, statement: str, context: Any) -> Any:
            __tracebackhide__ = True

            def run(cursor: Any, statement: str, _parameters: Any, context: Any) -> None:
                context.dialect.do_execute_no_params(cursor, statement, context)

            return observe(run, cursor, statement, (), context)

        listen(Engine, "do_execute", do_execute)
        listen(Engine, "do_executemany", do_executemany)
        listen(Engine, "do_execute_no_params", do_execute_no_params)
        listen(Pool, "checkout", self._checkout(spans))
        listen(Session, "before_flush", self._count_flush)

    def stop(self) -> None:
        """Take every listener and wrapper away again."""
        while self._undo:
            self._undo.pop()()

    def _count_flush(self, *_: object) -> None:
        self._flushes += 1

    def _observer(  # noqa: C901, PLR0915 - see the module's docstring
        self, spans: Spans, internals: ModuleType
    ) -> Callable[..., Any]:
        innermost = spans.innermost
        is_user = spans.sites.is_user
        getframe = sys._getframe
        show_parameters = spans.settings.show_parameters

        def observe(  # noqa: C901, PLR0912, PLR0915 - calls would cost more than the work
            run: Any, cursor: Any, statement: str, parameters: Any, context: Any
        ) -> Any:
            __tracebackhide__ = True
            span = innermost()
            if span is None:
                return None
            tally = context._perfguard_tally
            if tally is None or tally.embedded:
                # This frame, the listener and two of SQLAlchemy's lie before the user's.
                frame: FrameType | None = getframe(4)
                while frame is not None and not is_user[frame.f_code.co_filename]:
                    frame = frame.f_back
                if frame is None:
                    frame = _waiting_user_frame(is_user)
                if frame is None:
                    key = (statement, 0, 0)
                else:
                    key = (statement, id(frame.f_code), frame.f_lasti)
                ledger = span.ledgers.get("sql")
                if ledger is None:
                    ledger = span.ledgers["sql"] = SqlLedger()
                known = ledger.known.get(key)
                if known is None or ledger.dialect is not context.dialect:
                    ledger.dialect = context.dialect
                    self._note_engine(spans, context.root_connection.engine)
                    if known is None:
                        known = ledger.known[key] = self._first_sight(
                            spans, internals, span, ledger, statement, parameters, context, frame
                        )
                tally = known.tally
                context._perfguard_tally = tally
                if known.counted and not (tally.batched and span.last is tally):
                    writes = known.writes
                    if writes is None or not self._same_flush(tally, internals):
                        tally.count += 1
                        if known.compared:
                            compare(ledger, known, parameters)
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
                tally.facts["error"] = describe(error, tally.operation)
                raise
            finally:
                took = perf_counter() - started
                tally.seconds += took
                tally.peak = max(tally.peak, took)
                moment = tally.moment
                if span.last is not tally and tally.shown:
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
        cause = internals.cause(context)
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
        known = Known(tally, frame and frame.f_code, statement if found.literal else found.text)
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
            tally.fix = fix(found, cause, internals.entity(context))
            if cause is not None:
                tally.facts["cause"] = cause.how
            if span.explain and kind in (Kind.READ, Kind.WRITE) and not context.executemany:
                _explain(span, tally, statement, parameters, context, found)
        if len(ledger.known) >= _MAX_ALIASES:
            ledger.known.clear()
        return known

    def _note_engine(self, spans: Spans, engine: Engine) -> None:
        if engine not in self._engines:
            url = engine.url.render_as_string(hide_password=True)
            identity = hashlib.blake2s(url.encode(), digest_size=6).hexdigest()
            self._engines[engine] = identity, f"{engine.dialect.name}+{engine.driver}"
        identity, label = self._engines[engine]
        spans.engines[identity] = label

    def _commit(self, spans: Spans) -> Callable[[], None]:
        def commit() -> None:
            span = spans.innermost()
            if span is None:
                return
            ledger = span.ledgers.get("sql")
            if ledger is None:
                ledger = span.ledgers["sql"] = SqlLedger()
            site = spans.sites.site(sys._getframe(1), "")
            ledger.tally("COMMIT", Kind.TRANSACTION, "COMMIT", site, None).commits += 1

        return commit

    def _checkout(self, spans: Spans) -> Callable[..., None]:
        def checkout(_connection: object, _record: object, proxy: Any) -> None:
            span = spans.innermost()
            if span is None:
                return
            pool = proxy._pool
            size, overflow = getattr(pool, "size", None), getattr(pool, "_max_overflow", None)
            if size is None or overflow is None:
                span.notes[
                    f"{type(pool).__name__} has no limit that pool_peak could be a share of"
                ] = None
            elif overflow < 0:
                span.notes[
                    "a pool with max_overflow=-1 has no limit that pool_peak could be a share of"
                ] = None
            else:
                span.level("pool_peak", pool.checkedout() / (size() + overflow))

        return checkout


def _explain(
    span: OpenSpan,
    tally: LiveTally,
    statement: str,
    parameters: Any,
    context: Any,
    found: Fingerprint,
) -> None:
    from pytest_perfguard.plans import UnknownPlanError, full_scan  # noqa: PLC0415 - if asked for

    try:
        plan = full_scan(context.root_connection, statement, parameters, found)
    except UnknownPlanError as error:
        span.notes[str(error)] = None
        tally.unplanned = 1
        return
    if plan:
        tally.full_scans = 1
        tally.facts["plan"] = plan


def _waiting_user_frame(is_user: Mapping[str, bool]) -> FrameType | None:
    for waiting in waiting_frames():
        frame: FrameType | None = waiting
        while frame is not None:
            if is_user[frame.f_code.co_filename]:
                return frame
            frame = frame.f_back
    return None
