"""Database transactions: how long they are open, and what leaves the process meanwhile.

A transaction that has written, or has asked for a lock, holds locks and its connection until it
ends: a request to another service inside it makes everybody wait for that service. A call is
judged by where the writes were, and not by where the transaction began, which in tests that roll
everything back is a fixture: an endpoint that has written is to commit before it calls, while
what a test wrote to arrange is none of the endpoint's. What leaves the process is told
of by the probes that see it, through ``spans.leaves``, which is None unless some transaction has
written.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextvars import ContextVar
from threading import Lock
from typing import TYPE_CHECKING
from weakref import ref

from pytest_perfguard.fingerprint import Kind
from pytest_perfguard.probes.sql_ledger import LiveTally, ledger_of
from pytest_perfguard.spans import Clock
from pytest_perfguard.units import Unit, show

if TYPE_CHECKING:
    from types import ModuleType

    from sqlalchemy.engine import Connection
    from sqlalchemy.orm import Session, SessionTransaction

    from pytest_perfguard.callsite import Places
    from pytest_perfguard.model import Site
    from pytest_perfguard.spans import OpenSpan, Spans

_MAX_MEANWHILE = 6
_READING = (Kind.READ, Kind.CATALOGUE)
# What the kinds of things that leave the process are called.
_KINDS = {"http": "HTTP"}
_FIX = "fix: read and compute before the first write, and commit before anything else is waited for"


# How far a span is: entries of its time line, how often the last of them was done, and spans that
# have been inside it.
Marks = tuple[int, float | str, int]


class OpenTransaction:
    """A transaction that is open.

    Attributes:
        span: where it has begun; None if that was where nothing was measured, as in a fixture.
        writes: the first statement that wrote, or locked, in each open span.
        latest: the span in which it wrote last.
        outer: the one that it is a savepoint of, where a session takes it for a transaction.
        marks: how far the span was when it began.
    """

    __slots__ = (
        "began", "connection", "ended", "latest", "marks", "outer", "site", "span", "writes",
    )  # fmt: skip

    def __init__(
        self,
        span: OpenSpan | None,
        connection: Connection,
        site: Site | None,
        outer: OpenTransaction | None,
    ) -> None:
        self.span = span
        self.connection = ref(connection)
        self.site = site
        self.outer = outer
        self.marks: Marks = (0, 0, 0) if span is None else _marks(span)
        self.writes: dict[OpenSpan, LiveTally] = {}
        self.latest: OpenSpan | None = None
        self.ended = False
        self.began = Clock.now()


class Transactions:
    """Watches the transactions of every connection; a watcher of spans.

    Attributes:
        by_connection: the innermost transaction of each connection, by its identity.
    """

    def __init__(self, spans: Spans, places: Places, internals: ModuleType) -> None:
        from sqlalchemy.engine import Connection  # noqa: PLC0415 - an optional library

        self._spans = spans
        self._places = places
        self._internals = internals
        self._connection_class = Connection
        self.by_connection: dict[int, OpenTransaction] = {}
        # Those that a session takes for its own, by the identity of its SessionTransaction.
        self._joined: dict[int, OpenTransaction] = {}
        # Those of this thread or task; asyncio's greenlets have the context of their task.
        self._here: ContextVar[tuple[OpenTransaction, ...]] = ContextVar(
            "perfguard_transactions", default=()
        )
        self._written: set[OpenTransaction] = set()
        self._lock = Lock()

    def clear(self) -> None:
        """Forget what is open, since it will not be seen to end."""
        for transaction in list(self.by_connection.values()):
            transaction.ended = True
        self.by_connection.clear()
        self._joined.clear()
        with self._lock:
            self._written.clear()
            self._spans.leaves = None

    # -- what SQLAlchemy tells ----------------------------------------------------------------

    def began(self, connection: Connection) -> None:
        """Take note of a BEGIN."""
        span = self._spans.innermost()
        if span is None or self._internals.commits_by_itself(connection):
            self.by_connection.pop(id(connection), None)
        else:
            self._open(span, connection, None)

    def committing(self) -> None:
        """Count a COMMIT; a line that does it again and again could do it once."""
        span = self._spans.innermost()
        if span is None:
            return
        site = self._places.site(sys._getframe(1))
        tally = ledger_of(span).tally("COMMIT", Kind.TRANSACTION, "COMMIT", site, None)
        tally.commits += 1
        if tally.commits >= self._spans.settings.n_plus_one_threshold:
            tally.fix = "commit once, after the loop: each COMMIT waits for the disk"

    def ended(self, connection: Connection) -> None:
        """Take note of a COMMIT or ROLLBACK."""
        transaction = self.by_connection.pop(id(connection), None)
        if transaction is not None:
            now = Clock.now()
            while transaction is not None:
                self._finish(transaction, now)
                transaction = transaction.outer

    def joined(self, session: Session, own: SessionTransaction, connection: Connection) -> None:
        """Take note of a session that has begun to use a connection.

        One that is bound to a connection takes a savepoint, or the transaction that is there, for
        its own, as in tests that roll everything back; its commit then ends what it has begun.
        """
        if own.parent is None and isinstance(session.bind, self._connection_class):
            span = self._spans.innermost()
            if span is not None:
                outer = self.by_connection.get(id(connection))
                self._joined[id(own)] = self._open(span, connection, outer)

    def left(self, session: Session, own: SessionTransaction) -> None:
        """Take note of what a session took for its transaction and has ended."""
        if own.parent is not None or not self.by_connection:
            return
        transaction = self._joined.pop(id(own), None)
        if (transaction is None or transaction.ended) and isinstance(
            session.bind, self._connection_class
        ):
            # What the session took for its transaction has begun where nothing was measured.
            found = self.by_connection.get(id(session.bind))
            transaction = found if found is not None and found.span is None else None
        if transaction is None:
            return
        self._finish(transaction, Clock.now())
        connection = transaction.connection()
        if connection is not None and self.by_connection.get(id(connection)) is transaction:
            self._uncover(id(connection), transaction)

    def wrote(
        self,
        transaction: OpenTransaction | None,
        connection: Connection,
        span: OpenSpan,
        tally: LiveTally,
    ) -> None:
        """Take note of a statement that writes or locks, in another span than the last one did.

        Args:
            transaction: the innermost one of the connection; None if it was not seen to begin.
        """
        if transaction is None or transaction.ended:
            if self._internals.commits_by_itself(connection):
                return
            transaction = self._open(None, connection, None)
        elif transaction not in self._here.get():
            self._remember(transaction)
        transaction.latest = span
        transaction.writes.setdefault(span, tally)
        with self._lock:
            self._written.add(transaction)
            self._spans.leaves = self._leaves

    # -- what others tell ---------------------------------------------------------------------

    def _leaves(
        self, kind: str, label: str, site: Site | None, span: OpenSpan | None = None
    ) -> None:
        """Count what leaves the process while a transaction of the same task has written."""
        span = span or self._spans.innermost()
        if span is None:
            return
        for transaction in reversed(self._here.get()):
            written = None if transaction.ended else _written_around(span, transaction)
            if written is not None and transaction.connection() is not None:
                name = f"{_KINDS.get(kind, kind)} {label}"
                tally = ledger_of(span).tally(name, Kind.TRANSACTION, name, site, None)
                tally.add("tx_calls", 1)
                what = " (takes a lock)" if written.kind in _READING else ""
                tally.facts["wrote"] = (
                    f"{written.label}{what} at {written.site or 'no line of your code'}"
                )
                return

    def opened(self, _span: OpenSpan) -> None:
        """Take no note of a span that is opened."""

    def closed(self, span: OpenSpan) -> None:
        """End what has begun in the span and is still open, and tell of the longest."""
        now = Clock.now()
        for each in list(self._written):
            _hand_on(each, span)
        for key, innermost in list(self.by_connection.items()):
            transaction: OpenTransaction | None = innermost
            while transaction is not None:
                if transaction.span is span:
                    self._leave(transaction, now)
                transaction = transaction.outer
            self._uncover(key, innermost)
        self._drop_unwritten()
        for own, each in list(self._joined.items()):
            if each.ended:
                self._joined.pop(own, None)
        ledger = span.ledgers.get("sql")
        if ledger is not None and ledger.longest is not None:
            span.facts["tx_longest"] = _describe(span, *ledger.longest)

    def _leave(self, transaction: OpenTransaction, now: float) -> None:
        """End what has begun in a span that closes, unless the code around it has written too."""
        # When a connection that was thrown away did end, is not known.
        transaction.ended |= transaction.connection() is None
        if transaction.writes and not transaction.ended:
            self._measure(transaction, now)
            transaction.span = None
        else:
            self._finish(transaction, now)

    def _drop_unwritten(self) -> None:
        """Forget those that have written in no span that is still open."""
        with self._lock:
            for each in list(self._written):
                if each.ended or not each.writes:
                    self._written.discard(each)
                    if each.span is None:
                        self._forget(each)
            if not self._written:
                self._spans.leaves = None

    # -- the one way in and out ---------------------------------------------------------------

    def _open(
        self, span: OpenSpan | None, connection: Connection, outer: OpenTransaction | None
    ) -> OpenTransaction:
        site = None if span is None else self._places.site(sys._getframe(2))
        transaction = OpenTransaction(span, connection, site, outer)
        self._remember(transaction)
        self.by_connection[id(connection)] = transaction
        return transaction

    def _remember(self, transaction: OpenTransaction) -> None:
        """Note that this thread or task has to do with a transaction."""
        here = self._here.get()
        self._here.set((*(each for each in here if not each.ended), transaction))

    def _forget(self, transaction: OpenTransaction) -> None:
        """Drop one that was not seen to begin; if it writes again it is found again."""
        transaction.ended = True
        for key, each in list(self.by_connection.items()):
            if each is transaction:
                self._uncover(key, each)

    def _finish(self, transaction: OpenTransaction, now: float) -> None:
        if transaction.writes:
            with self._lock:
                self._written.discard(transaction)
                if not self._written:
                    self._spans.leaves = None
        if transaction.ended:
            return
        transaction.ended = True
        self._measure(transaction, now)

    def _measure(self, transaction: OpenTransaction, now: float) -> None:
        """Tell the span in which a transaction began how long it was open there."""
        span = transaction.span
        took = now - transaction.began
        if span is not None and not span.closed and took > span.peaks.get("tx_longest", -1.0):
            span.peaks["tx_longest"] = took
            ledger_of(span).longest = (transaction, _marks(span))

    def _uncover(self, key: int, transaction: OpenTransaction | None) -> None:
        """Make the innermost transaction that is still open that of the connection."""
        while transaction is not None and transaction.ended:
            transaction = transaction.outer
        if transaction is None:
            self.by_connection.pop(key, None)
        else:
            self.by_connection[key] = transaction


def _is_part(span: OpenSpan) -> bool:
    """Return whether a span is a part of the code around it, as a block that a test measures is.

    A request, a task or a call that is timed is none, and neither is what a contract calls.
    """
    return span.kind == "block" and span.owner is None


def _written_around(span: OpenSpan, transaction: OpenTransaction) -> LiveTally | None:
    """Return what a transaction wrote first in the span, or around it in the same request."""
    around: OpenSpan | None = span
    while around is not None:
        written = transaction.writes.get(around)
        if written is not None:
            return written
        around = around.parent if _is_part(around) else None
    return None


def _hand_on(transaction: OpenTransaction, span: OpenSpan) -> None:
    """Hand what was written in a span that closes to the code that it is a part of."""
    written = transaction.writes.pop(span, None)
    if transaction.latest is span:
        transaction.latest = None
    if written is not None and span.parent is not None and _is_part(span):
        transaction.writes.setdefault(span.parent, written)


def _marks(span: OpenSpan) -> Marks:
    moments = span.moments
    return len(moments), moments[-1][1] if moments else 0, len(span.children)


def _describe(span: OpenSpan, transaction: OpenTransaction, until: Marks) -> str:
    """Say where the longest transaction began, and what was done while it was open."""
    took = show(span.peaks["tx_longest"], Unit.SECONDS)
    done = _meanwhile(span, transaction.marks, until)
    more = len(done) - _MAX_MEANWHILE
    told = [*done[:_MAX_MEANWHILE], *([f"... {more} more"] if more > 0 else [])]
    return "\n    ".join(
        (
            f"a transaction was open for {took}, begun",
            f"at {transaction.site or 'no line of your code'}",
            *([f"meanwhile: {' · '.join(told)}"] if told else []),
            _FIX,
        )
    )


def _meanwhile(span: OpenSpan, start: Marks, until: Marks) -> list[str]:
    """Return what was done between two marks: operations by their labels, then spans."""
    counts: Counter[str] = Counter()
    for number, (label, count, *_) in enumerate(span.moments[: until[0]], start=1):
        # The last one of each mark may have gone on since.
        before = count if number < start[0] else start[1] if number == start[0] else 0
        counts[str(label)] += int(until[1] if number == until[0] else count) - int(before)
    names = [child.name for child in span.children[start[2] : until[2]]]
    return [*(f"{count}x {label}" for label, count in counts.items() if count > 0), *names]
