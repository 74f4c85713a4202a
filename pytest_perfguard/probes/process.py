"""The process probe: CPU time of every span, and the memory of those that ask for it.

CPU time is that of the whole process, all its threads, whatever of it the span is about: what runs
beside it counts too. Memory is the resident memory of the process, which one thread looks at every
:data:`PERIOD` seconds while a span that asked for it is open. It is looked at when such a span
opens and closes as well, and the kernel's own mark of the highest is used where there is one, so
that nothing passes between two looks.

While calls are timed nothing is listened to, so the thread rests. The kernel's mark goes on.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterable

# By name: a test that puts another getpid into os is about its own code.
from os import getpid
from typing import TYPE_CHECKING

from pytest_perfguard.errors import MissingExtraError
from pytest_perfguard.probes.periodic import Periodic, join
from pytest_perfguard.probes.resident import Limit, Resident, UnreadableError
from pytest_perfguard.spans import Clock
from pytest_perfguard.units import Unit, show

if TYPE_CHECKING:
    from pytest_perfguard.model import Tally
    from pytest_perfguard.spans import OpenSpan, Spans

# Seconds between two looks at the memory. Each takes some 20 µs, so this is 0.2 % of a core.
PERIOD = 0.01
# A clock of CPU time may be as coarse as that, so a share of anything shorter is chance.
SHORTEST = 2 * PERIOD
MEMORY = frozenset({"memory_peak", "memory_growth", "memory_percent"})
# The level of a span in which perf.repeat found how much stays of each call.
BY_CALL = "memory_growth_by_call"
_NANO = 1e-9


class ProcessProbe:
    """Takes the CPU time of each span, and the memory of the process where it is asked for."""

    name = "process"

    def __init__(self) -> None:
        self._spans: Spans | None = None
        self._sampler: _Sampler | None = None
        self._lock = threading.Lock()

    def start(self, spans: Spans) -> None:
        """Watch the spans; look at memory again for those that asked for it and are still open."""
        if self._spans is None:
            self._spans = spans
            spans.watchers.append(self)
            if self._sampler is not None:
                self._sampler.resume()

    def stop(self) -> None:
        """Watch no more spans, and end the thread."""
        if self._spans is not None:
            self._spans.watchers.remove(self)
            self._spans = None
        if self._sampler is not None:
            self._sampler.rest()

    def opened(self, span: OpenSpan) -> None:
        """Begin to measure a span."""
        usage = _Usage(span, MEMORY & span.asked, self._take)
        if usage.asked:
            self._begin(span, usage)
        span.ledgers[self.name] = usage
        usage.wall, usage.cpu = Clock.now(), Clock.cpu()

    def closed(self, span: OpenSpan) -> None:
        """Note what a span has used."""
        usage = span.ledgers.get(self.name)
        if usage is None:
            return
        self._take_time(span, usage)
        usage.span = None
        if "cpu_percent" not in span.peaks and span.kind != "request":
            span.facts["cpu_percent"] = (
                f"{span.name} took less than {show(SHORTEST, Unit.SECONDS)}, too short for a share "
                "of its time: measure a longer span, or budget cpu_time"
            )
        if self._sampler is not None and span in self._sampler:
            self._end(span, usage)

    def _take(self, span: OpenSpan, usage: _Usage) -> None:
        """Note what an open span has used so far."""
        self._take_time(span, usage)
        sampling = self._sampler.look(span) if self._sampler is not None else None
        if sampling is not None:
            _note(span, usage, sampling)

    @staticmethod
    def _take_time(span: OpenSpan, usage: _Usage) -> None:
        cpu = max(0, Clock.cpu() - usage.cpu) * _NANO
        wall = Clock.now() - usage.wall
        span.level("cpu_time", cpu)
        if wall >= SHORTEST:
            span.peaks["cpu_percent"] = cpu / wall

    def _begin(self, span: OpenSpan, usage: _Usage) -> None:
        if "memory_growth" in usage.asked and span.kind == "request":
            # Two full collections for each request would be most of what a test does.
            span.facts["memory_growth"] = (
                "memory_growth is measured of tests, blocks and perf.repeat, not of a request"
            )
            usage.asked -= {"memory_growth"}
        try:
            sampler = self._sampler
            if sampler is None:
                with self._lock:
                    sampler = self._sampler = self._sampler or _Sampler()
        except (MissingExtraError, UnreadableError) as error:
            _give_up(span, usage, error)
            return
        if "memory_growth" in usage.asked:
            gc.collect()
            # The collection is none of the span's work.
            now = Clock.now()
            span.origin = now if span.origin == span.started else span.origin
            span.started = now
        try:
            is_ours = sampler.begin(span)
        except UnreadableError as error:
            _give_up(span, usage, error)
            return
        if not is_ours:
            self._sampler = None
            self._begin(span, usage)

    def _end(self, span: OpenSpan, usage: _Usage) -> None:
        assert self._sampler is not None
        sampling = self._sampler.end(span)
        if sampling is None:
            left = "the span was closed in another process than it was opened in"
            span.facts.update(dict.fromkeys(usage.asked, left))
            return
        _note(span, usage, sampling)
        repeated = any(BY_CALL in part.peaks for child in span.children for part in child.walk())
        if "memory_growth" in usage.asked and not repeated:
            gc.collect()
            try:
                after = self._sampler.resident.now()
            except UnreadableError as error:
                span.facts["memory_growth"] = str(error)
                return
            span.level("memory_growth", max(0, after - sampling.start))
            span.facts["memory_growth"] = (
                f"resident memory: {_size(sampling.start)} at the start, {_size(after)} at the end,"
                " each after gc.collect()\n"
                "    fix: let go of what is done with; all of the test counts here: "
                "perf.repeat(call, memory_growth=...) tells what stays of each call, and the line"
            )


class _Usage:
    """What one span has been measured from; the span itself takes up the results.

    Attributes:
        span: None once it has been closed.
    """

    __slots__ = ("_take", "asked", "cpu", "span", "wall")

    def __init__(
        self,
        span: OpenSpan,
        asked: frozenset[str],
        take: Callable[[OpenSpan, _Usage], None],
    ) -> None:
        self.span: OpenSpan | None = span
        self.asked = asked
        self.wall = 0.0
        self.cpu = 0
        self._take = take

    def tallies(self) -> Iterable[Tally]:
        """Take a reading where the span is still open; levels say it all, so nothing is listed."""
        if self.span is not None:
            self._take(self.span, self)
        return ()


class _Sampling:
    """The memory of the process during one span, in bytes.

    Attributes:
        is_marked: whether the kernel's mark was set back when it began, and read before each time
            that it was set back again.
        is_whole: whether that mark was read last, so that no look that failed has missed anything.
        unread: why the last look that failed did.
    """

    __slots__ = ("highest", "is_marked", "is_whole", "limit", "start", "unread")

    def __init__(self, start: int, limit: Limit, *, is_marked: bool) -> None:
        self.start = start
        self.highest = start
        self.limit = limit
        self.is_marked = self.is_whole = is_marked
        self.unread: UnreadableError | None = None


class _Sampler:
    """One thread that looks at the memory of the process, for all spans that asked for it.

    Attributes:
        resident: what is looked at.

    Raises:
        MissingExtraError: if psutil is not installed.
    """

    def __init__(self) -> None:
        self.resident = Resident()
        # A destructor that runs in the middle of anything here may close a span.
        self._lock = threading.RLock()
        self._samplings: dict[OpenSpan, _Sampling] = {}
        self._limit = Limit(0, "")
        self._thread = Periodic("perfguard-memory", PERIOD, self._lock, self._take)

    def __contains__(self, span: OpenSpan) -> bool:
        return span in self._samplings

    def begin(self, span: OpenSpan) -> bool:
        """Look at memory for a span too; False in another process than the sampler's own.

        Raises:
            UnreadableError: if nobody says how much it is.
        """
        if self._is_foreign():
            return False
        with self._lock:
            self._take_highest()
            # What could not be read of the mark is lost when it is set back.
            for sampling in self._samplings.values():
                sampling.is_marked = sampling.is_whole
            is_marked = self.resident.has_mark and self.resident.reset()
            start = self.resident.now()
            # Nobody changes it in the middle, and it takes as long as a request to find.
            self._limit = self._limit if self._samplings else self.resident.limit()
            sampling = self._samplings[span] = _Sampling(start, self._limit, is_marked=is_marked)
            if self.resident.has_mark and not is_marked:
                sampling.unread = _no_mark()
            self._thread.run()
        return True

    def look(self, span: OpenSpan) -> _Sampling | None:
        """Return what has been seen for a span so far."""
        if span not in self._samplings or self._is_foreign():
            return None
        with self._lock:
            self._take_highest()
            return self._samplings.get(span)

    def end(self, span: OpenSpan) -> _Sampling | None:
        """Return what was seen for a span; with the last one the thread ends."""
        if self._is_foreign():
            return None
        with self._lock:
            self._take_highest()
            sampling = self._samplings.pop(span, None)
            thread = None if self._samplings else self._thread.halted()
        join(thread)
        return sampling

    def rest(self) -> None:
        """End the thread."""
        if self._is_foreign():
            return
        with self._lock:
            thread = self._thread.halted()
        join(thread)

    def resume(self) -> None:
        """Look again, for the spans that are still open."""
        if self._is_foreign():
            return
        with self._lock:
            self._samplings = {s: seen for s, seen in self._samplings.items() if not s.closed}
            if self._samplings:
                self._thread.run()

    def _is_foreign(self) -> bool:
        """Return whether this is a child of the process: it has neither the thread nor the lock."""
        return getpid() != self.resident.pid

    def _take(self) -> None:
        try:
            size = self.resident.now()
        except UnreadableError as error:
            for sampling in self._samplings.values():
                sampling.unread = error
            return
        for sampling in self._samplings.values():
            sampling.highest = max(sampling.highest, size)

    def _take_highest(self) -> None:
        self._take()
        marked = [sampling for sampling in self._samplings.values() if sampling.is_marked]
        mark = self.resident.highest() if marked else 0
        for sampling in marked:
            sampling.highest = max(sampling.highest, mark)
            sampling.is_whole = mark > 0
            # Where there is a mark, nobody may count on looks alone.
            sampling.unread = sampling.unread if mark else _no_mark()


def _no_mark() -> UnreadableError:
    return UnreadableError("nothing of the kernel's mark of the highest")


def _give_up(span: OpenSpan, usage: _Usage, error: Exception) -> None:
    span.facts.update(dict.fromkeys(usage.asked, str(error)))
    usage.asked = frozenset()


def _note(span: OpenSpan, usage: _Usage, sampling: _Sampling) -> None:
    if sampling.unread is not None and not sampling.is_whole:
        for metric in ("memory_peak", "memory_percent"):
            if metric in usage.asked:
                span.peaks.pop(metric, None)
                span.facts[metric] = str(sampling.unread)
        return
    start, highest, limit = sampling.start, sampling.highest, sampling.limit
    looks = f"a look every {show(PERIOD, Unit.SECONDS)}"
    how = "the kernel's mark" if sampling.is_whole else looks
    if "memory_peak" in usage.asked:
        span.level("memory_peak", highest - start)
        span.facts["memory_peak"] = (
            f"resident memory rose from {_size(start)} to {_size(highest)}, by {how}\n"
            "    fix: hold less at once: read in pages, stream (yield_per, iter_bytes), or let go "
            "of what is done with"
        )
    if "memory_percent" in usage.asked:
        span.level("memory_percent", highest / limit.size)
        span.facts["memory_percent"] = (
            f"resident memory: {_size(highest)} at most, of {_size(limit.size)}, {limit.what}"
        )


def _size(size: float) -> str:
    return show(size, Unit.BYTES)
