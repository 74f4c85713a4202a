"""Times a call beside reference work, a window of rounds at a time.

Each round runs the call and three references back to back, each time beginning with another of
them, so that all four meet the same machine: the clock speed, the caches, the neighbours of that
moment. What a process then knows is how the call's CPU time relates to theirs. The windows of one
call are best spread over the session: the state of a machine changes more between seconds than
within one.

A call of some microseconds is put into a loop, so that the reading of the clocks does not matter.
Garbage is collected before a window and what is left is frozen, so that the collector does not
walk through what other tests have left behind.
"""

from __future__ import annotations

import gc
import inspect
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_perfguard.errors import TimingError
from pytest_perfguard.references import References
from pytest_perfguard.samples import Readings
from pytest_perfguard.timing import Clock

_CLOCK = Clock()
# Python 3.12 starts with some hundred objects frozen; whoever freezes, freezes many thousands.
_FROZEN_BY_PYTHON = 2000
_QUEUE = Path("/proc/thread-self/schedstat")


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """How long a window is.

    Attributes:
        seconds: no further round is started after that time...
        fewest: ...unless there have been fewer rounds than these.
        most: rounds that are always enough.
        warmup: calls before the first round; Python specialises code by its first few calls.
        warmup_seconds: no further call of the warm-up is started after that time.
        shortest: seconds that a round's calls should take at least; shorter ones are repeated.
    """

    seconds: float = 0.35
    fewest: int = 5
    most: int = 400
    warmup: int = 27
    warmup_seconds: float = 1.0
    shortest: float = 50e-6

    def __post_init__(self) -> None:
        if not (0 < self.seconds < math.inf and 0 <= self.warmup_seconds < math.inf):
            raise TimingError(f"{self.seconds!r} s and {self.warmup_seconds!r} s are no times")
        if not (1 <= self.fewest <= self.most and self.warmup >= 1):
            raise TimingError("a window needs a call to warm up and a round")


class _Job:
    """A window under way, whoever makes the calls: its warm-up, its loops, its rounds."""

    def __init__(
        self, call: Callable[[], Any], references: References, plan: WindowPlan, clock: Clock
    ) -> None:
        self.call = call
        self.plan = plan
        self.clock = clock
        self.runs = [call, *references.calls]
        # Which of them are to be awaited; of the call it is known after the first one.
        self.awaits = [False, *references.awaits]
        self.warm = references.warm
        self.loops = 1
        self._fastest = math.inf
        self._walls: list[int] = []
        self._times: list[list[int]] = [[] for _ in self.runs]
        self._queued: list[int] = []

    def warmup(self, done: int = 0) -> Iterator[int]:
        """Yield the number of what to call next before anything is timed."""
        end = self.clock.wall() + self.plan.warmup_seconds * 1e9
        for number in range(done, self.plan.warmup):
            if number and self.clock.wall() > end:
                break
            started = self.clock.wall()
            yield 0
            self._fastest = min(self._fastest, self.clock.wall() - started)
        if not self.warm:
            for number in range(1, len(self.runs)):
                for _ in range(self.plan.warmup):
                    yield number
            self.warm.append(True)
        # Where only a single call was made it was the cold one, which says too much.
        if 0 < self._fastest < math.inf:
            self.loops = max(1, math.ceil(self.plan.shortest * 1e9 / self._fastest))

    def rounds(self) -> Iterator[list[int]]:
        """Yield the order of each round; its times have been added when it goes on."""
        plan = self.plan
        order = list(range(len(self.runs)))
        end = self.clock.wall() + plan.seconds * 1e9
        for number in range(plan.most):
            if number >= plan.fewest and self.clock.wall() > end:
                return
            yield order
            order.append(order.pop(0))

    def add(self, number: int, wall: int, cpu: int, queued: int) -> None:
        """Keep the times of a run."""
        self._times[number].append(cpu)
        if number == 0:
            self._walls.append(wall)
            self._queued.append(queued)

    def readings(self) -> Readings:
        """Return what has been kept."""
        own, *references = map(tuple, self._times)
        return Readings(self.loops, tuple(self._walls), own, tuple(references), tuple(self._queued))


def measure_window(
    call: Callable[[], Any],
    references: References,
    plan: WindowPlan | None = None,
    *,
    clock: Clock = _CLOCK,
) -> Readings | Coroutine[Any, Any, Readings]:
    """Measure a call for the length of a window.

    The first call tells of which kind it is: if its result has to be awaited, so does the window.
    Pin the process meanwhile (:func:`pytest_perfguard.pinning.pinned`), and take the probes away.

    Args:
        call: what is timed; it should have been run before, so that it is warm.
        references: what it is timed beside.
        plan: how long.
        clock: what times are read from.

    Raises:
        TimingError: if a reference has to be awaited and the call does not.
        Exception: whatever the call raises.
    """
    __tracebackhide__ = True
    job = _Job(call, references, plan or WindowPlan(), clock)
    result = call()
    if inspect.isawaitable(result):
        job.awaits[0] = True
        return _run_async(job, result)
    if any(job.awaits):
        raise TimingError(
            f"the references {references.name!r} have to be awaited, and the call does not"
        )
    del result
    return _run(job)


def _run(job: _Job) -> Readings:
    __tracebackhide__ = True
    for number in job.warmup(1):
        job.runs[number]()
    with frozen(), _queue() as queued:
        for order in job.rounds():
            for number in order:
                _time(job, number, queued)
    return job.readings()


def _time(job: _Job, number: int, queued: Callable[[], int]) -> None:
    __tracebackhide__ = True
    run, wall, cpu = job.runs[number], job.clock.wall, job.clock.cpu
    if number:
        cpu_before = cpu()
        run()
        cpu_after = cpu()
        job.add(number, 0, cpu_after - cpu_before, 0)
        return
    loops = range(job.loops)
    queued_before = queued()
    before, cpu_before = wall(), cpu()
    for _ in loops:
        run()
    cpu_after, after = cpu(), wall()
    job.add(number, after - before, cpu_after - cpu_before, queued() - queued_before)


async def _run_async(job: _Job, pending: Awaitable[Any]) -> Readings:
    __tracebackhide__ = True
    await pending
    for number in job.warmup(1):
        result = job.runs[number]()
        if job.awaits[number]:
            await result
    with frozen(), _queue() as queued:
        for order in job.rounds():
            for number in order:
                await _time_async(job, number, queued)
    return job.readings()


async def _time_async(job: _Job, number: int, queued: Callable[[], int]) -> None:
    __tracebackhide__ = True
    run, wall, cpu = job.runs[number], job.clock.wall, job.clock.cpu
    if not job.awaits[number]:
        _time(job, number, queued)
        return
    loops = range(1 if number else job.loops)
    queued_before = queued()
    before, cpu_before = wall(), cpu()
    for _ in loops:
        await run()
    cpu_after, after = cpu(), wall()
    job.add(number, after - before, cpu_after - cpu_before, queued() - queued_before)


@contextmanager
def frozen() -> Iterator[None]:
    """Keep the garbage collector from walking through what is there already."""
    gc.collect()
    # Whoever has frozen everything keeps it so: it could not be told from ours afterwards.
    ours = gc.get_freeze_count() < _FROZEN_BY_PYTHON
    if ours:
        gc.freeze()
    try:
        yield
    finally:
        if ours:
            gc.unfreeze()


@contextmanager
def _queue() -> Iterator[Callable[[], int]]:
    """Give a function that tells how long this thread has waited for a core, in nanoseconds.

    A neighbour on the same core makes every longer call wait for milliseconds, which must not look
    as if it waited for something itself.
    """
    try:
        file = _QUEUE.open("rb", buffering=0)
    except OSError:
        yield lambda: 0
        return
    with file:

        def queued() -> int:
            file.seek(0)
            return int(file.read(100).split()[1])

        yield queued
