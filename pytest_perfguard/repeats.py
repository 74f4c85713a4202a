"""``perf.repeat``: the same call again and again, to find memory that stays after each of them.

The first call is counted, with the probes on. Then they are taken away, because what they keep
would look like a leak, and the call is made in two passes. Each one begins with calls that nobody
looks at, in which caches are filled; then memory is read after a garbage collection at
:data:`CHECKPOINTS` points, and the growth is the slope of a line through them
(:func:`pytest_perfguard.stats.theil_sen`), never the difference of two numbers.

- The first pass reads the resident memory of the process: it sees what no Python object holds, and
  says little of what is smaller than a page for each call.
- The second pass reads what ``tracemalloc`` has traced, to the byte. It is traced from before its
  first call, because an entry of a full cache that takes the place of one that was not traced
  would look like growth.

What is traced counts as growth where both the whole line and its later half rise for certain (99 %)
and it is :data:`LEAST_TRACED` bytes a call or more. A cache that gets full in the middle stops to
rise. Resident memory counts instead where the whole and the later half of it rise for certain by
more than :data:`LEAST_RESIDENT` bytes a call, a page, and by more than twice of what is traced:
that is a leak of native memory, as a rule beside a small object of Python's that holds it.
Otherwise the growth is 0. The least values are ours: less cannot be told from tables that grow with
the process and from what an allocator keeps for later.
"""

from __future__ import annotations

import gc
import linecache
import logging
import math
import tracemalloc
import warnings
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from pytest_perfguard.budgets import Budget, requested
from pytest_perfguard.errors import TimingError
from pytest_perfguard.jobs import Job, Steps
from pytest_perfguard.model import Span
from pytest_perfguard.probes.process import BY_CALL
from pytest_perfguard.probes.resident import Resident, UnreadableError
from pytest_perfguard.recorder import Measurement, Recorder
from pytest_perfguard.spans import OpenSpan
from pytest_perfguard.stats import Slope, theil_sen
from pytest_perfguard.units import Unit, show

CHECKPOINTS = 25
# Fewer than that say nothing for certain in the later half.
FEWEST_CALLS = 20
# Bytes a call: a small object is that large, and a page.
LEAST_TRACED = 64
LEAST_RESIDENT = 4096
# How many times as much as what is traced grows in the process before most of it is native: what
# Python allocates takes some more, for the allocator's own sake.
_APART = 2
# Frames that are kept of each allocation: the user's line lies behind those of libraries.
_FRAMES = 16
# Calls that are made where only their profile is wanted.
_PROFILED = 10
_PACKAGE = str(Path(__file__).parent)
_LONGEST_LINE = 96
# So many lines are named, until they make up that share of what stays; and none of less than that.
_NAMED = 3
_MOST_OF_IT = 0.8
_WORTH_NAMING = 0.1


@dataclass(frozen=True, slots=True)
class Growth:
    """What stays of a call, in bytes a call.

    Attributes:
        slope: the growth; 0 where there is none for certain, and not a number where that cannot
            be said because resident memory could not be read.
        low: lower end of its 99 % interval, as measured.
        high: upper end of it.
        source: ``traced`` by Python, or ``resident`` in the process.
        traced: the slope of what Python has allocated, for certain or not.
        resident: that of the resident memory.
    """

    slope: float
    low: float
    high: float
    source: str
    traced: Slope
    resident: Slope


class Repeated(Measurement):
    """What the first call cost, and what stays of each of the others.

    Attributes:
        growth: memory that stays, by call.
        result: what the first call returned.
    """

    def __init__(
        self, recorder: Recorder, opened: OpenSpan, span: Span, growth: Growth, result: Any
    ) -> None:
        super().__init__(recorder, opened)
        self.span = span
        self.growth = growth
        self.result = result


class _Line(NamedTuple):
    """A line that allocates what stays, with the bytes and blocks of all calls together."""

    shown: str
    text: str
    size: int
    blocks: int


class _Readings:
    """What was read in one pass: memory in bytes after so many calls.

    They are made before the first call, so that they are not part of what they read.
    """

    def __init__(self) -> None:
        self.calls = array("d", bytes(8 * (CHECKPOINTS + 1)))
        self.sizes = array("d", bytes(8 * (CHECKPOINTS + 1)))
        self.count = 0

    def add(self, calls: int, size: int) -> None:
        """Keep a reading."""
        self.calls[self.count] = calls
        self.sizes[self.count] = size
        self.count += 1

    def slope(self) -> Slope:
        """Return how memory rises with the calls."""
        return theil_sen(self.calls[: self.count], self.sizes[: self.count])

    def least(self) -> float:
        """Return what it rises by for certain, in the whole and in the later half."""
        half = self.count // 2
        later = theil_sen(self.calls[half : self.count], self.sizes[half : self.count])
        return min(self.slope().low, later.low)


def repeat(
    job: Job,
    call: Callable[[], Any],
    *,
    name: str,
    times: int,
    warmup: int,
    budgets: Sequence[Budget],
) -> Steps:
    """Call again and again; the generator returns a :class:`Repeated`."""
    __tracebackhide__ = True
    recorder = job.guard.recorder
    if recorder.timing:
        raise TimingError(
            f"{job.where}: another timing is under way, and each would disturb the other: make "
            "one after the other"
        )
    resident = _resident()
    recorder.start()
    # What stays of a single call is not what is asked.
    asked = requested(budgets) - {"memory_growth"}
    name = job.guard.block_name(job.item, name)
    recorder.timing = True
    opened = None
    try:
        opened = recorder.open(name, "call", asked=asked)
        try:
            result = yield call()
            job.refuse_error(result, "the first call")
        finally:
            span = recorder.close(opened, keep=False)
        if job.guard.profiling:
            for _ in range(min(times, _PROFILED)):
                yield call()
            growth = _judge(_no_growth(), _no_growth())
        else:
            recorder.stop()
            with _nothing_kept():
                from_system = yield from _resident_pass(resident, call, times, warmup)
                passed = _Traced(recorder, job.where)
                try:
                    traced = yield from _pass(call, times, warmup, passed.now, passed)
                    lines = passed.lines(times)
                finally:
                    passed.stop()
            growth = _judge(traced, from_system)
            facts = _facts(growth, lines, passed.peak, times, warmup)
            if isinstance(from_system, UnreadableError):
                facts.setdefault("memory_growth", str(from_system))
            by_call = {} if math.isnan(growth.slope) else {BY_CALL: growth.slope}
            span = replace(
                span,
                peaks={**span.peaks, **by_call, "alloc_peak": passed.peak},
                facts={**span.facts, **facts},
            )
    finally:
        recorder.timing = False
        # What watched caches have counted meanwhile belongs to nobody.
        recorder.skip()
        recorder.start()
        if opened is not None:
            recorder.keep(opened, span)
    job.judge(span, budgets)
    return Repeated(recorder, opened, span, growth, result)


def _resident() -> Resident | UnreadableError:
    """Return what reads resident memory, or why nothing can."""
    try:
        return Resident()
    except UnreadableError as error:
        return error


def _resident_pass(
    resident: Resident | UnreadableError, call: Callable[[], Any], times: int, warmup: int
) -> Steps:
    """Make the pass that reads resident memory; return the readings, or why there are none."""
    if isinstance(resident, UnreadableError):
        return resident
    try:
        return (yield from _pass(call, times, warmup, resident.now))
    except UnreadableError as error:
        return error


def _pass(
    call: Callable[[], Any],
    times: int,
    warmup: int,
    now: Callable[[], int],
    traced: _Traced | None = None,
) -> Steps:
    """Call ``warmup`` times, then ``times`` more with readings in between; return these."""
    readings = _Readings()
    with _quick_collections():
        for _ in range(warmup):
            yield call()
        gc.collect()
        if traced is not None:
            traced.begin()
            gc.collect()
        readings.add(0, now())
        due = 1
        for number in range(1, times + 1):
            if traced is not None:
                traced.before()
            yield call()
            if traced is not None:
                traced.after()
            if number * CHECKPOINTS >= due * times:
                due = number * CHECKPOINTS // times + 1
                gc.collect()
                readings.add(number, now())
    return readings


@contextmanager
def _quick_collections() -> Iterator[None]:
    """Let collections pass over all that there is already: it takes a tenth of a second to look at.

    What the calls for the caches make is not there yet. Where somebody has frozen objects, they
    stay as they are, and collections are slow.
    """
    is_ours = not gc.get_freeze_count()
    if is_ours:
        gc.freeze()
    try:
        yield
    finally:
        if is_ours:
            gc.unfreeze()


class _Traced:
    """The allocations of Python's own allocators, by the lines that made them.

    Attributes:
        peak: bytes that one call had allocated at once, at most.

    Args:
        where: what asks, with its line.
    """

    def __init__(self, recorder: Recorder, where: str) -> None:
        self._sites = recorder.sites
        self._where = where
        # Somebody else's tracing goes on afterwards, with as many frames as they asked for.
        self._is_ours = not tracemalloc.is_tracing()
        if self._is_ours:
            tracemalloc.start(_FRAMES)
        # It is known as long as nobody ends the tracing, begins it anew, or forgets what it found.
        self._witness = bytearray(1)
        self._before: tracemalloc.Snapshot | None = None
        self._level = 0
        self.peak = 0

    @staticmethod
    def now() -> int:
        """Return what is allocated now, in bytes."""
        return tracemalloc.get_traced_memory()[0]

    def begin(self) -> None:
        """Remember what there is before the calls that are looked at."""
        self._refuse_gaps()
        self._before = _snapshot()

    def before(self) -> None:
        """Look at what is allocated before a call."""
        tracemalloc.reset_peak()
        self._level = self.now()

    def after(self) -> None:
        """Look at what was allocated at most during a call.

        Raises:
            TimingError: if the call has put an end to the tracing.
        """
        self._refuse_gaps()
        self.peak = max(self.peak, tracemalloc.get_traced_memory()[1] - self._level)

    def _refuse_gaps(self) -> None:
        if tracemalloc.get_object_traceback(self._witness) is None:
            raise TimingError(
                f"{self._where}: the call stops tracemalloc or clears its traces, which tell what "
                "stays of each call: leave out tracemalloc.stop() and tracemalloc.clear_traces() "
                "in what is repeated"
            )

    def lines(self, times: int) -> list[_Line]:
        """Return the lines that allocate what stays, those of the most bytes first."""
        assert self._before is not None
        found: dict[tuple[str, int], list[int]] = {}
        for difference in _snapshot().compare_to(self._before, "traceback"):
            sums = found.setdefault(self._place(difference.traceback), [0, 0])
            sums[0] += difference.size_diff
            sums[1] += difference.count_diff
        ranked = sorted(found.items(), key=lambda item: -item[1][0])
        total = sum(size for _, (size, _) in ranked if size > 0)
        lines: list[_Line] = []
        for place, (size, blocks) in ranked[:_NAMED]:
            named = sum(line.size for line in lines)
            if size < max(times, total * _WORTH_NAMING) or named >= total * _MOST_OF_IT:
                break
            text = linecache.getline(*place).strip()[:_LONGEST_LINE]
            lines.append(_Line(self._show(*place), text, size, blocks))
        return lines

    def _place(self, traceback: tracemalloc.Traceback) -> tuple[str, int]:
        """Return the innermost line of the user's code; else the innermost of all."""
        frames = list(reversed(traceback))  # the most recent one comes last
        own = [frame for frame in frames if self._sites.is_user[frame.filename]]
        frame = (own or frames)[0]
        return frame.filename, frame.lineno

    def _show(self, file: str, line: int) -> str:
        if self._sites.is_user[file]:
            return f"at {self._sites.show(file)}:{line}"
        return f"at no line of your code: at {self._sites.show_library(file)}:{line}"

    def stop(self) -> None:
        """Trace no more, unless somebody else began it."""
        if self._is_ours:
            tracemalloc.stop()


def _snapshot() -> tracemalloc.Snapshot:
    """Return what is allocated, but for what we and the tracing itself have allocated."""
    return tracemalloc.take_snapshot().filter_traces(
        [
            tracemalloc.Filter(inclusive=False, filename_pattern=f"{_PACKAGE}/*"),
            tracemalloc.Filter(inclusive=False, filename_pattern=tracemalloc.__file__),
        ]
    )


@contextmanager
def _nothing_kept() -> Iterator[None]:
    """Keep pytest from keeping the log and the warnings of each call, which would look like a leak.

    The first call has shown them already.
    """
    logger = logging.getLogger()
    handlers = [h for h in logger.handlers if type(h).__module__.startswith("_pytest.")]
    for handler in handlers:
        logger.removeHandler(handler)
    try:
        # The filters stay as they are: what is an error is raised.
        with warnings.catch_warnings():
            warnings.showwarning = _forget
            yield
    finally:
        for handler in handlers:
            logger.addHandler(handler)


def _forget(*_: object, **__: object) -> None:
    pass


def _no_growth() -> _Readings:
    readings = _Readings()
    for number in range(CHECKPOINTS + 1):
        readings.add(number, 0)
    return readings


def _judge(traced: _Readings, resident: _Readings | UnreadableError) -> Growth:
    """Return the growth, by what is traced or else by what is resident.

    Without resident memory there may be a leak that is traced; that there is none cannot be said.
    """
    inside = traced.slope()
    is_traced = traced.least() > 0 and inside.slope >= LEAST_TRACED
    slope = inside.slope if is_traced else 0.0
    if isinstance(resident, UnreadableError):
        unknown = Slope(math.nan, math.nan, math.nan)
        return Growth(slope or math.nan, inside.low, inside.high, "traced", inside, unknown)
    outside = resident.slope()
    least = max(LEAST_RESIDENT, _APART * inside.high if is_traced else 0)
    if resident.least() > least:
        return Growth(outside.slope, outside.low, outside.high, "resident", inside, outside)
    return Growth(slope, inside.low, inside.high, "traced", inside, outside)


def _facts(
    growth: Growth, lines: Iterable[_Line], peak: int, times: int, warmup: int
) -> dict[str, str]:
    """Return what a failure says of the growth and of the peak."""
    facts = {
        "alloc_peak": f"one of {times:,} calls had allocated {_size(peak)} at once\n"
        "    fix: hold less at once: read in pages, stream, or let go of what is done with"
    }
    if math.isnan(growth.slope) or not growth.slope:
        return facts
    found = (
        f"each call leaves {_size(growth.slope)} behind ({_size(max(growth.low, 0))} to "
        f"{_size(growth.high)}, 99 % interval), over {times:,} calls after {warmup:,} others"
    )
    if growth.source == "resident":
        facts["memory_growth"] = (
            f"{found}\n    resident memory: Python's allocators do not hold it, so a library does\n"
            "    fix: close or free what the library hands out, or look for a newer version of it"
        )
        return facts
    shown = [found]
    for line in lines:
        each = f"{_size(line.size / times)} in {line.blocks / times:.3g} blocks a call"
        shown += [f"    {line.shown}, {each}", *([f"    {line.text}"] if line.text else [])]
    shown.append(
        "    fix: bound what is kept, as functools.lru_cache(maxsize=...) does, remove it from its "
        "container when it is done with, or close what is opened"
    )
    facts["memory_growth"] = "\n".join(shown)
    return facts


def _size(size: float) -> str:
    return show(size, Unit.BYTES)
