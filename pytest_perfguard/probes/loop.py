"""The loop probe: how long a running event loop of asyncio could not turn.

While a span that asked for it is open, a thread posts a beat into every running loop, the next one
:data:`PERIOD` seconds after the last has run. What is measured is the time from the posting of a
beat to its running, so that a thread that comes late posts late and makes no stall. While a beat is
overdue, the thread looks at what the loop's own thread is doing, as a profiler does: the innermost
line of the user's code that is met most often is the one that holds the loop.

A loop is learnt from when it begins to run, which is seen on the class; one that ran before, from
the frames of its thread when a span is opened. uvloop's have no frames: one of them that ran before
is learnt from a span that is opened inside it or from a request that Starlette serves in it. Debug
mode is not needed, and no task or callback of the loop is looked at.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from asyncio.base_events import BaseEventLoop
from collections import Counter
from collections.abc import Callable, Iterable
from functools import wraps

# By name: a test that puts another getpid into os is about its own code.
from os import getpid
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from pytest_perfguard.probes.periodic import Periodic, join
from pytest_perfguard.spans import Clock
from pytest_perfguard.units import Unit, show

if TYPE_CHECKING:
    from pytest_perfguard.model import Site, Tally
    from pytest_perfguard.spans import OpenSpan, Spans

METRIC = "loop_stall"
# Seconds between two beats, and how late one is before it is looked at who holds the loop: a stall
# that is long enough to meet a thread that wakes every 20 ms has its line.
PERIOD = 0.02
_OVERDUE = 0.01
_MAX_LINES = 200
# The methods of asyncio's loops in whose frames a loop is while it runs.
_RUNS = frozenset({"run_forever", "_run_once"})
_FIX = (
    "await it, as asyncio.sleep and a client made for asyncio do, or run it in a thread: "
    "await asyncio.to_thread(...)"
)

_Line = tuple[CodeType, int]


class LoopProbe:
    """Watches the event loops of the process where a span asks for it."""

    name = "loop"

    def __init__(self) -> None:
        self._spans: Spans | None = None
        self._watchdog: _Watchdog | None = None
        self._wrapped: list[tuple[type, str, Any, Any]] = []

    def start(self, spans: Spans) -> None:
        """Watch the spans and the loops; what has been loaded since is wrapped now."""
        if self._spans is None:
            self._spans = spans
            spans.watchers.append(self)
            if self._watchdog is None:
                self._watchdog = _Watchdog(spans)
            self._watchdog.resume()
        assert self._watchdog is not None
        for owner, method, wrap in (
            (BaseEventLoop, "run_forever", self._watchdog.wrap_run),
            (_loaded("uvloop", "Loop"), "run_forever", self._watchdog.wrap_run),
            (_loaded("starlette.applications", "Starlette"), "__call__", self._watchdog.wrap_app),
        ):
            # What others put around our wrapper calls it still.
            if owner is None or any(known is owner for known, *_ in self._wrapped):
                continue
            wrapper = wrap(getattr(owner, method))
            self._wrapped.append((owner, method, vars(owner).get(method), wrapper))
            setattr(owner, method, wrapper)

    def stop(self) -> None:
        """Put the original methods back, where our wrappers are in their place; end the thread."""
        if self._spans is not None:
            self._spans.watchers.remove(self)
            self._spans = None
        while self._wrapped:
            owner, method, original, wrapper = self._wrapped.pop()
            if vars(owner).get(method) is wrapper:
                if original is None:
                    delattr(owner, method)
                else:
                    setattr(owner, method, original)
        if self._watchdog is not None:
            self._watchdog.rest()

    def opened(self, span: OpenSpan) -> None:
        """Begin to watch for a span that asked for it."""
        if METRIC in span.asked and self._watchdog is not None:
            self._watchdog.begin(span)
            span.ledgers[self.name] = _Readings(span, self._watchdog)

    def closed(self, span: OpenSpan) -> None:
        """Note how long the loops stood still at most."""
        if self._watchdog is not None and span in self._watchdog:
            self._watchdog.end(span)


def _loaded(module: str, name: str) -> type | None:
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) else None


def _loop_of(frame: FrameType | None) -> Any:
    """Return the innermost loop that runs in the frames of a thread, None if none does."""
    while frame is not None:
        if frame.f_code.co_name in _RUNS:
            loop = frame.f_locals.get("self")
            if isinstance(loop, asyncio.AbstractEventLoop):
                return loop if loop.is_running() else None
        frame = frame.f_back
    return None


class _Readings:
    """What is known of a span while it is open; the span itself takes it up."""

    def __init__(self, span: OpenSpan, watchdog: _Watchdog) -> None:
        self._span = span
        self._watchdog = watchdog

    def tallies(self) -> Iterable[Tally]:
        """Take a reading where the span is still open; its level says it all."""
        if self._span in self._watchdog:
            self._watchdog.note(self._span)
        return ()


class _Running:
    """A loop that runs.

    Attributes:
        posted: when the beat was posted that has not run yet; None if there is none.
        lines: where the loop's thread was met while the beat was overdue, and how often.
        is_entered: it was seen to begin, so that its end is seen too.
        seen: when it was seen to run last, if its end would not be seen.
    """

    __slots__ = ("is_entered", "lines", "loop", "posted", "seen", "thread")

    def __init__(self, loop: Any, thread: int, *, is_entered: bool) -> None:
        self.loop = loop
        self.thread = thread
        self.seen = Clock.now()
        self.is_entered = is_entered
        self.posted: float | None = None
        self.lines: Counter[_Line | None] = Counter()


class _Watched:
    """What has been seen for one span.

    Attributes:
        longest: seconds that a loop stood still at most; None while no running loop was seen.
    """

    __slots__ = ("longest", "since", "site")

    def __init__(self) -> None:
        self.since = Clock.now()
        self.longest: float | None = None
        self.site: Site | None = None


class _Watchdog:
    """The thread that posts beats into loops, for all spans that asked for it.

    Attributes:
        spans: whose lines are named.
    """

    def __init__(self, spans: Spans) -> None:
        self.spans = spans
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Forget all; a child of the process has neither the thread nor the loops."""
        self._pid = getpid()
        # A destructor that runs in the middle of anything here may close a span.
        self._lock = threading.RLock()
        self._running: dict[Any, _Running] = {}
        self._watched: dict[OpenSpan, _Watched] = {}
        self._sites: dict[_Line, Site | None] = {}
        self._thread = Periodic("perfguard-loop", PERIOD, self._lock, self._watch)

    def __contains__(self, span: OpenSpan) -> bool:
        return span in self._watched

    @property
    def is_foreign(self) -> bool:
        """Whether this is a child of the process, which has neither the thread nor the lock."""
        return getpid() != self._pid

    # -- spans -----------------------------------------------------------------------------

    def begin(self, span: OpenSpan) -> None:
        """Watch for a span too."""
        if self.is_foreign:
            self._begin_anew()
        with self._lock:
            self._watched[span] = _Watched()
            self.learn()
            self.learn_others()
            for running in list(self._running.values()):
                if running.posted is None:
                    self._post(running)
            self._thread.run()

    def note(self, span: OpenSpan) -> None:
        """Write what has been seen so far into the span."""
        if self.is_foreign:
            return
        with self._lock:
            watched, now = self._watched[span], Clock.now()
            for running in list(self._running.values()):
                if self._runs(running, now) and running.posted is not None:
                    self._stood_still(watched, running, now)
        if watched.longest is None:
            span.facts[METRIC] = f"no running event loop was seen in {span.name}"
            return
        span.level(METRIC, watched.longest)
        where = ["    at no line of your code that was seen"]
        if (site := watched.site) is not None:
            where = [f"    at {site}", *(f"       from {caller}" for caller in site.callers[:2])]
        took = show(watched.longest, Unit.SECONDS)
        span.facts[METRIC] = "\n".join(
            [f"the event loop stood still for {took}", *where, f"    fix: {_FIX}"]
        )

    def end(self, span: OpenSpan) -> None:
        """Write what was seen into the span; with the last one the thread ends."""
        if self.is_foreign:
            return
        self.note(span)
        with self._lock:
            del self._watched[span]
            thread = None if self._watched else self._halted()
        join(thread)

    # -- loops -----------------------------------------------------------------------------

    def learn(self) -> None:
        """Take note of the loop that runs in this thread, if one does."""
        loop = asyncio._get_running_loop()
        if loop is not None and loop not in self._running:
            self._running[loop] = _Running(loop, threading.get_ident(), is_entered=False)

    def learn_others(self) -> None:
        """Take note of the loops that run in other threads and began before anybody watched."""
        for thread, frame in sys._current_frames().items():
            if thread == threading.get_ident():
                continue  # what runs here is known by learn(), and asyncio knows it better
            loop = _loop_of(frame)
            if loop is not None and loop not in self._running:
                self._running[loop] = _Running(loop, thread, is_entered=False)

    def wrap_run(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap the method in which a loop runs."""

        # The name is where the search for the user's line ends: what lies beyond started the loop.
        @wraps(original)
        def run_forever(loop: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            running = self._enter(loop)
            try:
                return original(loop, *args, **kwargs)
            finally:
                self._leave(running)

        return run_forever

    def wrap_app(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap an application, whose loop may have run before anybody watched."""

        @wraps(original)
        async def call(app: Any, scope: Any, receive: Any, send: Any) -> None:
            __tracebackhide__ = True
            if self._watched and not self.is_foreign:
                with self._lock:
                    known = len(self._running)
                    self.learn()
                    if len(self._running) > known:
                        self._post(self._running[asyncio.get_running_loop()])
            await original(app, scope, receive, send)

        return call

    def _enter(self, loop: Any) -> _Running:
        if self.is_foreign:
            self._begin_anew()
        with self._lock:
            running = self._running[loop] = _Running(loop, threading.get_ident(), is_entered=True)
            if self._watched and self._thread.runs:
                self._post(running)
        return running

    def _leave(self, running: _Running) -> None:
        if self.is_foreign:
            return
        with self._lock:
            self._ended(running)
            if self._running.get(running.loop) is running:
                del self._running[running.loop]

    def _post(self, running: _Running) -> None:
        """Post a beat."""
        loop = running.loop
        if not self._runs(running, Clock.now()):
            return
        posted = running.posted = Clock.now()
        running.lines.clear()
        try:
            loop.call_soon_threadsafe(self._beat, running, posted)
        except RuntimeError:  # it has been closed
            running.posted = None
            self._running.pop(loop, None)

    def _beat(self, running: _Running, posted: float) -> None:
        """Run in the loop: it turns."""
        if self.is_foreign:
            return
        with self._lock:
            # One that was left in a loop that stopped, and runs again, is of no interest.
            if running.posted == posted:
                self._ended(running)

    def _runs(self, running: _Running, now: float) -> bool:
        """Return whether a loop runs still; where nobody saw its end, it ran until it was seen."""
        if running.is_entered or running.loop.is_running():
            running.seen = now
            return True
        self._ended(running, running.seen)
        if self._running.get(running.loop) is running:
            del self._running[running.loop]
        return False

    def _ended(self, running: _Running, now: float | None = None) -> None:
        now = Clock.now() if now is None else now
        if running.posted is not None:
            for watched in self._watched.values():
                self._stood_still(watched, running, now)
        running.posted = None

    def _stood_still(self, watched: _Watched, running: _Running, until: float) -> None:
        assert running.posted is not None
        if until < watched.since:
            return
        seconds = until - max(running.posted, watched.since)
        if watched.longest is None or seconds > watched.longest:
            watched.longest = max(seconds, 0.0)
            found = running.lines.most_common(1)
            line = found[0][0] if found else None
            watched.site = None if line is None else self._sites.get(line)

    # -- the thread ------------------------------------------------------------------------

    def rest(self) -> None:
        """End the thread."""
        if self.is_foreign:
            return
        with self._lock:
            thread = self._halted()
        join(thread)

    def _halted(self) -> threading.Thread | None:
        """Tell the thread to end; it has to be joined without the lock, which it may wait for."""
        thread = self._thread.halted()
        # What was posted before is not waited for: nobody looks at it any more.
        for running in self._running.values():
            self._ended(running)
        # Of the others nobody would learn when they end.
        self._running = {loop: run for loop, run in self._running.items() if run.is_entered}
        self._sites.clear()
        return thread

    def resume(self) -> None:
        """Watch again, for the spans that are still open."""
        if self.is_foreign:
            return
        with self._lock:
            self._watched = {s: seen for s, seen in self._watched.items() if not s.closed}
            if self._watched:
                self.learn()
                self.learn_others()
                self._thread.run()

    def _watch(self) -> None:
        for running in list(self._running.values()):
            if running.posted is None:
                self._post(running)
            elif self._runs(running, Clock.now()) and Clock.now() - running.posted > _OVERDUE:
                self._look(running)

    def _look(self, running: _Running) -> None:
        """Look at what holds a loop."""
        frame = self._held_by(sys._current_frames().get(running.thread))
        if frame is None:
            running.lines[None] += 1
            return
        line = (frame.f_code, frame.f_lineno)
        if line not in self._sites and len(self._sites) < _MAX_LINES:
            self._sites[line] = self.spans.sites.site(frame, "")
        running.lines[line] += 1

    def _held_by(self, frame: FrameType | None) -> FrameType | None:
        """Return the innermost frame of the user's code that the loop runs, not what runs it."""
        while frame is not None and frame.f_code.co_name != "run_forever":
            if self.spans.sites.is_user[frame.f_code.co_filename]:
                return frame
            frame = frame.f_back
        return None
