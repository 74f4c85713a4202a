"""Connection pools: how much of one is in use at once, what waits for it, what is not given back.

A connection that is still checked out when a span ends was leaked by it, unless somebody who was
there before, or who still runs, is going to give it back. In doubt it is handed on to the span
around, and judged when that one ends.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any
from weakref import ref

from pytest_perfguard.fingerprint import Kind
from pytest_perfguard.probes.sql_ledger import ledger_of

if TYPE_CHECKING:
    from types import ModuleType

    from pytest_perfguard.callsite import Places
    from pytest_perfguard.model import Site
    from pytest_perfguard.spans import OpenSpan, Spans

LEAK = "connection not given back"
WAIT = "wait for a connection"
_FIX = (
    "fix: give each connection back before the next is taken, or let the pool have more "
    "(pool_size, max_overflow)"
)
# Checkouts that are looked through for those that have ended without a word.
_MANY = 1_000


class _Checkout:
    """A connection that has been checked out of its pool.

    Attributes:
        span: that it is to be judged by; None where it is not, or has been.
        proxy: what stands for it while it is checked out.
        site: the line that checked it out.
        session: number of the Session that did, if one did.
        thread: that did, if no context leads from there to the span.
        task: that did, if one of asyncio's did.
    """

    __slots__ = ("pool", "proxy", "session", "site", "span", "task", "thread")

    def __init__(self, span: OpenSpan, proxy: Any, pool: int, site: Site | None) -> None:
        self.span: OpenSpan | None = span
        self.proxy = ref(proxy)
        self.pool = pool
        self.site = site
        self.session: int | None = None
        self.thread: threading.Thread | None = None
        self.task: asyncio.Task[Any] | None = None

    def is_held(self) -> bool:
        """Return whether the connection has not been given back, nor taken from the pool."""
        proxy = self.proxy()
        return proxy is not None and proxy.is_valid and not proxy.is_detached

    def is_expected(self, since: float) -> bool:
        """Return whether somebody is going to give it back: who was there before, or still runs.

        Args:
            since: number that the sessions of the span exceed.
        """
        if self.session is not None and self.session < since:
            return True
        if self.thread is not None and self.thread.is_alive():
            return True
        return self.task is not None and not self.task.done() and self.task is not _task()


class Pools:
    """Watches the connections of every pool; a watcher of spans."""

    def __init__(self, spans: Spans, places: Places, internals: ModuleType) -> None:
        self._spans = spans
        self._places = places
        self._internals = internals
        # By the identity of the proxy; the proxy of each record, which is all that is known of a
        # connection that is given back.
        self._held: dict[int, _Checkout] = {}
        self._proxies: dict[int, int] = {}
        # Sessions with a smaller number are older than the span.
        self._since: dict[OpenSpan, int] = {}
        # Numbers of the sessions that fixtures have made since the outermost span began.
        self._fixtures: list[range] = []

    def opened(self, span: OpenSpan) -> None:
        """Note which sessions are older than the span."""
        for ended in [known for known in list(self._since) if known.closed]:
            self._since.pop(ended, None)
        self._since[span] = self._internals.next_session()
        if span.parent is None:
            self._fixtures.clear()

    def fixture(self) -> Callable[[], None]:
        """Leave what is taken from now on, until what is returned is called, to a fixture."""
        first, before = self._internals.next_session(), set(self._held)

        def end() -> None:
            self._fixtures.append(range(first, self._internals.next_session()))
            for key, held in list(self._held.items()):
                if key not in before:
                    held.span = None

        return end

    def closed(self, span: OpenSpan) -> None:
        """Count what was checked out in the span and has not been given back."""
        since: float = self._since.pop(span, inf)
        heir = span.parent
        while heir is not None and heir.closed:
            heir = heir.parent
        leaked = []
        for key, held in list(self._held.items()):
            if held.span is not span:
                continue
            # Whoever asks later for the lines that hold connections is told of this one too.
            held.span = None
            if not held.is_held():
                self._held.pop(key, None)
            elif held.is_expected(since) or any(held.session in made for made in self._fixtures):
                held.span = heir
            else:
                leaked.append(held)
        scoped = self._internals.scoped_sessions() if any(each.session for each in leaked) else ()
        for held in leaked:
            if held.session not in scoped:
                leaks = ledger_of(span).tally(LEAK, Kind.TRANSACTION, LEAK, held.site, None)
                leaks.add("leaks", 1)

    def clear(self) -> None:
        """Forget what is checked out, since it will not be seen to be given back."""
        self._held.clear()
        self._proxies.clear()

    def checkout(self, _connection: object, record: Any, proxy: Any) -> None:
        """Take note of a connection that has been checked out."""
        here = self._spans.here()
        span = here or self._spans.innermost()
        if span is None:
            return
        pool = self._internals.pool_of(proxy)
        if len(self._held) > _MANY:
            for key in [key for key, held in list(self._held.items()) if not held.is_held()]:
                self._held.pop(key, None)
        held = _Checkout(span, proxy, id(pool), self._places.site(sys._getframe(1)))
        if here is None:
            held.thread = threading.current_thread()
        held.task = _task()
        self._held[id(proxy)] = held
        self._proxies[id(record)] = id(proxy)
        limit = self._internals.capacity(pool)
        if isinstance(limit, str):
            span.notes[limit] = None
            return
        used = pool.checkedout()
        if used > span.peaks.get("pool_peak", 0.0) * limit:
            span.peaks["pool_peak"] = used / limit
            span.facts["pool_peak"] = self._describe(pool, used, limit)

    def checkin(self, _connection: object, record: Any) -> None:
        """Take note of a connection that has been given back."""
        key = self._proxies.pop(id(record), None)
        if key is not None:
            self._held.pop(key, None)

    def begun(self, session: Any, _own: object, connection: Any) -> None:
        """Take note of the session that a connection was checked out for."""
        held = self._held.get(id(connection.connection))
        if held is not None and held.session is None:
            held.session = session.hash_key

    def waiting(self) -> Callable[[float], None] | None:
        """Take note that a connection is waited for; returns what to do when there is one."""
        span = self._spans.innermost()
        if span is None:
            return None
        site = self._places.site(sys._getframe(1))
        tally = ledger_of(span).tally(WAIT, Kind.TRANSACTION, WAIT, site, None)

        def waited(seconds: float) -> None:
            tally.add("waits", 1)
            tally.add("pool_wait", seconds)

        return waited

    def _describe(self, pool: Any, used: int, limit: int) -> str:
        """Say how many connections of which engine are in use, and by which lines."""
        lines: Counter[str] = Counter()
        for held in list(self._held.values()):
            if held.pool == id(pool) and held.is_held():
                lines[str(held.site) if held.site else "no line of your code"] += 1
        earlier = used - lines.total()
        name = self._internals.label(pool)
        return "\n    ".join(
            (
                f"{used} of {limit} connections of {name} in use at once, checked out",
                *(f"{count}x at {line}" for line, count in lines.most_common()),
                *([f"{earlier}x before it began, or not opened yet"] if earlier > 0 else []),
                _FIX,
            )
        )


def _task() -> asyncio.Task[Any] | None:
    return None if asyncio._get_running_loop() is None else asyncio.current_task()
