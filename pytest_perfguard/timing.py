"""Times a call round after round: one that returns, or one that has to be awaited.

A timing is a row of rounds: the first, cold one, which is reported apart; the warm-up, whose times
are thrown away; and a measurement, repeated while it exceeds a limit (see
:mod:`pytest_perfguard.stats`). Between two readings of the clocks there is nothing but the call,
and its ``await`` where it has one; everything else is done between rounds.

Garbage is collected before each measurement, so that what went before is not charged to it. During
the rounds the collector stays as it is, by default switched on: users wait for it too, and without
it the garbage of each round would slow down those that follow.

Each round is one call, and reading the clock costs some 0.1 µs: what takes less than a few
microseconds has to be put into a loop by the one who times it.
"""

from __future__ import annotations

import gc
import inspect
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from pytest_perfguard import spans, stats
from pytest_perfguard.errors import LimitError, PerfguardError, RoundError, TimingError
from pytest_perfguard.units import Unit, parse, show, shown

Check = Callable[[Any], object]
Progress = Callable[[int, int], object]

# How many wall times a summary keeps: enough to draw their distribution.
SAMPLE = 100


@dataclass(frozen=True, slots=True)
class Clock:
    """The clocks that rounds are timed by, in nanoseconds: wall time, and CPU time of the process.

    Libraries that freeze time for tests replace the clocks that they find in modules, so these are
    held in an object; and read from a module that is loaded before a test can have frozen it.
    """

    wall: Callable[[], int] = spans.Clock.wall
    cpu: Callable[[], int] = spans.Clock.cpu


_CLOCK = Clock()


@dataclass(frozen=True, slots=True)
class Plan:
    """How a call is to be timed.

    Attributes:
        rounds: how many rounds are measured.
        warmup: how many are run before them and after the cold one.
        max_time: no further round is started after that time, e.g. ``"2s"`` or a number of
            seconds; it bounds the warm-up and each measurement, which still have one round each.
        concurrency: how many rounds of an async call are in flight at once. A warm-up then has at
            least one round for each.
        limits: highest values of statistics in seconds; a measurement that exceeds one is
            repeated.

    Raises:
        TimingError: with all that makes no sense.
    """

    rounds: int = 100
    warmup: int = 10
    max_time: float | str | None = None
    concurrency: int = 1
    limits: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        mistakes = [
            f"{name}={shown(value)} is not a whole number of at least {least}"
            for name, value, least in (
                ("rounds", self.rounds, 1),
                ("warmup", self.warmup, 0),
                ("concurrency", self.concurrency, 1),
            )
            if not _whole(value, least)
        ]
        try:
            _seconds(self.max_time)
        except TimingError as error:
            mistakes.append(str(error))
        for name in self.limits:
            try:
                stats.lookup(name)
            except TimingError as error:
                mistakes.append(str(error))
        if not mistakes:
            mistakes = [
                f"{name} needs at least {fewest} rounds, not {self.rounds}: write rounds={fewest}"
                for name in self.limits
                if self.rounds < (fewest := stats.lookup(name).fewest)
            ]
            if self.concurrency > self.rounds:
                mistakes.append(
                    f"concurrency={self.concurrency} needs at least as many rounds, not "
                    f"{self.rounds}"
                )
        if mistakes:
            raise TimingError("\n".join(mistakes))

    @property
    def seconds(self) -> float:
        """The ``max_time`` in seconds; infinite if there is none."""
        return _seconds(self.max_time)


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _seconds(max_time: object) -> float:
    """Read a ``max_time``; unlike a limit's, its bare number can only mean seconds."""
    if max_time is None:
        return math.inf
    if isinstance(max_time, int | float) and not isinstance(max_time, bool):
        seconds = float(max_time)
    else:
        try:
            seconds = parse(max_time, Unit.SECONDS)
        except LimitError as error:
            raise TimingError(f"max_time: {error}") from None
    if not 0 < seconds < math.inf:
        raise TimingError(f"max_time={shown(max_time)} is no time to run rounds in: write '2s'")
    return seconds


@dataclass(frozen=True, slots=True)
class Rounds:
    """The times of a measurement's rounds in seconds, in the order in which they ended.

    Attributes:
        wall: from the start of the call to its end. Of rounds that run at once, the time that one
            waits for its turn in the event loop is part of it, as it is for a user.
        cpu: CPU time that the process used meanwhile, user and system, all threads. Rounds that
            run at once cannot be told apart: each has an equal share of what they used together.
    """

    wall: tuple[float, ...]
    cpu: tuple[float, ...]

    @property
    def statistics(self) -> dict[str, float]:
        """Every statistic that there are enough rounds for, by name."""
        return stats.describe(self.wall, self.cpu)


@dataclass(frozen=True, slots=True)
class Summary:
    """What is kept of a timing: plain data.

    Attributes:
        rounds: rounds of a measurement; of repeated ones, of that which had the most.
        planned: rounds that were asked for; ``max_time`` may have stopped it before.
        repeated: how often the measurement was repeated because it exceeded a limit.
        warmup: rounds run before and thrown away.
        cold_wall: wall time of the first round.
        cold_cpu: CPU time of the first round.
        statistics: see :data:`pytest_perfguard.stats.STATISTICS`, in seconds; of repeated
            measurements the smallest of each.
        sample: up to :data:`SAMPLE` wall times of the measurement with the smallest median,
            sorted, at equal distances from the shortest to the longest.
        waiting: seconds that a call waits for something, where that was measured.
        py_calls: Python functions that a call calls, where they were counted.
    """

    rounds: int
    planned: int
    repeated: int
    warmup: int
    concurrency: int
    cold_wall: float
    cold_cpu: float
    statistics: Mapping[str, float]
    sample: tuple[float, ...]
    waiting: float | None = None
    py_calls: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return this object as JSON data."""
        return {**asdict(self), "sample": list(self.sample)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote."""
        return cls(**{**data, "sample": tuple(data["sample"])})


@dataclass(frozen=True, slots=True, repr=False)
class Timing:
    """What was measured; ``timing["p95"]`` is a statistic in seconds.

    Attributes:
        plan: what was asked for.
        warmup: warm-up rounds that were run.
        cold_wall: wall time of the first round, which is in no statistic.
        cold_cpu: CPU time of the first round.
        measurements: the rounds, and those of each repetition.
    """

    plan: Plan
    warmup: int
    cold_wall: float
    cold_cpu: float
    measurements: tuple[Rounds, ...]

    @property
    def rounds(self) -> int:
        """How many rounds a measurement had; of repeated ones, that which had the most."""
        return max(len(measured.wall) for measured in self.measurements)

    @property
    def repeated(self) -> int:
        """How often the measurement was repeated because it exceeded a limit."""
        return len(self.measurements) - 1

    @property
    def statistics(self) -> dict[str, float]:
        """Every statistic that there are enough rounds for; the smallest where repeated."""
        return stats.smallest(measured.statistics for measured in self.measurements)

    def __getitem__(self, name: str) -> float:
        """Return a statistic in seconds.

        Raises:
            TimingError: if there is none of that name, or too few rounds for it.
        """
        fewest = stats.lookup(name).fewest
        if self.rounds < fewest:
            raise _too_few(name, fewest, self.plan, self.rounds)
        return self.statistics[name]

    def summary(self) -> Summary:
        """Return what is worth keeping."""
        typical = min(self.measurements, key=lambda measured: stats.median(measured.wall))
        return Summary(
            rounds=self.rounds,
            planned=self.plan.rounds,
            repeated=self.repeated,
            warmup=self.warmup,
            concurrency=self.plan.concurrency,
            cold_wall=self.cold_wall,
            cold_cpu=self.cold_cpu,
            statistics=self.statistics,
            sample=_sample(typical.wall),
        )

    def __repr__(self) -> str:
        values = ", ".join(f"{n} {show(v, Unit.SECONDS)}" for n, v in self.statistics.items())
        repeated = f", repeated {self.repeated}x" if self.repeated else ""
        return f"<Timing of {self.rounds} rounds{repeated}: {values}>"


def _sample(times: Sequence[float]) -> tuple[float, ...]:
    ordered = sorted(times)
    if len(ordered) <= SAMPLE:
        return tuple(ordered)
    return tuple(ordered[i * (len(ordered) - 1) // (SAMPLE - 1)] for i in range(SAMPLE))


def _too_few(name: str, fewest: int, plan: Plan, rounds: int) -> TimingError:
    needs = f"{name} needs at least {fewest} rounds"
    if rounds == plan.rounds:
        return TimingError(f"{needs}, not {rounds}: write rounds={fewest}")
    return TimingError(
        f"{needs}, but max_time={plan.max_time!r} ended them after {rounds} of {plan.rounds}: "
        "give it more time, or budget the mean or the median"
    )


class _Row:
    """Rounds of one kind: the cold one, those of the warm-up, those of a measurement."""

    def __init__(
        self, job: _Job, rounds: int, title: str, progress: Progress | None = None
    ) -> None:
        self._job = job
        self._progress = progress
        self._rounds = rounds
        self._title = title
        self._started = 0
        self._deadline = math.inf
        self.wall: list[int] = []
        self.cpu: list[int] = []

    def start(self) -> int:
        """Return the number of the round to run next, or 0 if there is none."""
        now = self._job.clock.wall()
        if not self._started:
            self._deadline = now + self._job.plan.seconds * 1e9
        elif self._started == self._rounds or now >= self._deadline:
            return 0
        self._started += 1
        return self._started

    def title(self, number: int) -> str:
        """Return what a round is called in messages."""
        return self._title.format(number)

    def done(self, number: int, result: object, wall: int, cpu: int) -> None:
        """Check the result of a round and keep its times."""
        __tracebackhide__ = True
        if unfinished := _unfinished(result):
            raise TimingError(f"{self.title(number)} returned {unfinished}")
        if self._job.check is not None:
            self._verify(self._job.check, result, self.title(number))
        self.wall.append(wall)
        self.cpu.append(cpu)
        if self._progress is not None:
            self._progress(len(self.wall), self._rounds)

    def _verify(self, check: Check, result: object, title: str) -> None:
        __tracebackhide__ = True
        try:
            answer = check(result)
        except PerfguardError as error:
            raise RoundError(title, error) from None
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise RoundError(title, reason) from error
        if answer is False:
            raise RoundError(title, f"the check returned False for {shown(result)}")
        if _unfinished(answer):
            raise TimingError("the check is async, and nothing waits for it: make it a function")

    def times(self) -> Rounds:
        """Return the times of the rounds that were run."""
        return Rounds(tuple(ns / 1e9 for ns in self.wall), tuple(ns / 1e9 for ns in self.cpu))


class _Job:
    """A timing under way: which rows of rounds it has, whoever runs them."""

    def __init__(
        self, plan: Plan, check: Check | None, progress: Progress | None, clock: Clock
    ) -> None:
        self.plan = plan
        self.check = check
        self.progress = progress
        self.clock = clock
        self._began = clock.wall()
        self.cold = _Row(self, 1, "the first, cold round")
        self._warmup = 0
        self._measurements: list[Rounds] = []

    def rows(self) -> Iterator[_Row]:
        """Yield each row after the cold round; go on when its rounds have been run."""
        plan = self.plan
        if plan.warmup:
            rounds = max(plan.warmup, plan.concurrency)
            row = _Row(self, rounds, f"warm-up round {{}} of {rounds}")
            yield row
            self._warmup = len(row.wall)
        measured: list[dict[str, float]] = []
        while not measured or not stats.conclusive(measured, plan.limits):
            repeated = f", repetition {len(measured)}" if measured else ""
            row = _Row(self, plan.rounds, f"round {{}} of {plan.rounds}{repeated}", self.progress)
            gc.collect()
            yield row
            times = row.times()
            self._measurements.append(times)
            measured.append(times.statistics)
            for name in plan.limits:
                # A repetition that got fewer rounds than the first says nothing new.
                if name not in measured[0]:
                    raise _too_few(name, stats.lookup(name).fewest, plan, len(times.wall))

    def timing(self) -> Timing:
        """Return the result, once all rows have been run.

        Raises:
            TimingError: if no time has passed.
        """
        if self.clock.wall() == self._began:
            raise TimingError(
                "the clock stands still, because time was frozen when perfguard was loaded: "
                "write 'import pytest_perfguard.timing' into conftest.py"
            )
        cold = self.cold.times()
        return Timing(self.plan, self._warmup, cold.wall[0], cold.cpu[0], tuple(self._measurements))


def measure_sync(
    call: Callable[[], Any],
    plan: Plan | None = None,
    *,
    check: Check | None = None,
    progress: Progress | None = None,
    clock: Clock = _CLOCK,
) -> Timing:
    """Time a call that does its work before it returns.

    Args:
        call: what is timed.
        plan: how often, and so on.
        check: is given the result of every round, the cold one and the warm-up included; it raises
            an exception or returns False if the result is wrong.
        progress: is called after each measured round with its number and how many there are.
        clock: what times are read from.

    Raises:
        TimingError: if the call returns something that has yet to be awaited or iterated over, or
            if there were too few rounds for a limit.
        RoundError: if the check refuses a result.
        Exception: whatever the call raises, with a note that names the round.
    """
    __tracebackhide__ = True
    job = _Job(plan or Plan(), check, progress, clock)
    _refuse_concurrency(job.plan)
    _run(job.cold, call, clock)
    return _finish(job, call)


def measure(
    call: Callable[[], Any],
    plan: Plan | None = None,
    *,
    check: Check | None = None,
    progress: Progress | None = None,
    clock: Clock = _CLOCK,
) -> Timing | Coroutine[Any, Any, Timing]:
    """Time a call of either kind; see :func:`measure_sync`.

    The first round tells which kind it is: if its result has to be awaited, so does the timing,
    and each ``await`` is part of its round's time.

    Raises:
        TimingError: also if ``concurrency`` is asked for and the call is not async.
    """
    __tracebackhide__ = True
    job = _Job(plan or Plan(), check, progress, clock)
    number = job.cold.start()
    try:
        cpu_before, before = clock.cpu(), clock.wall()
        result = call()
        after, cpu_after = clock.wall(), clock.cpu()
    except Exception as error:
        _name_round(error, job.cold, number)
        raise
    wall, cpu = after - before, cpu_after - cpu_before
    if inspect.isawaitable(result):
        return _finish_async(job, call, result, wall, cpu)
    _refuse_concurrency(job.plan)
    job.cold.done(number, result, wall, cpu)
    del result
    return _finish(job, call)


def _refuse_concurrency(plan: Plan) -> None:
    if plan.concurrency > 1:
        raise TimingError(
            f"concurrency={plan.concurrency} needs an async call: one that is not holds up the "
            "event loop until it returns"
        )


def _finish(job: _Job, call: Callable[[], Any]) -> Timing:
    __tracebackhide__ = True
    for row in job.rows():
        _run(row, call, job.clock)
    return job.timing()


def _run(row: _Row, call: Callable[[], Any], clock: Clock) -> None:
    __tracebackhide__ = True
    wall, cpu = clock.wall, clock.cpu
    while number := row.start():
        try:
            cpu_before, before = cpu(), wall()
            result = call()
            after, cpu_after = wall(), cpu()
        except Exception as error:
            _name_round(error, row, number)
            raise
        row.done(number, result, after - before, cpu_after - cpu_before)
        # Otherwise it would be disposed of within the next round's time.
        del result


async def _finish_async(
    job: _Job, call: Callable[[], Awaitable[Any]], pending: Awaitable[Any], wall: int, cpu: int
) -> Timing:
    __tracebackhide__ = True
    clock, at_once = job.clock, job.plan.concurrency
    try:
        cpu_before, before = clock.cpu(), clock.wall()
        result = await pending
        after, cpu_after = clock.wall(), clock.cpu()
    except Exception as error:
        _name_round(error, job.cold, 1)
        raise
    job.cold.done(1, result, wall + after - before, cpu + cpu_after - cpu_before)
    del result, pending
    for row in job.rows():
        if at_once > 1:
            await _run_at_once(row, call, clock, at_once)
        else:
            await _run_async(row, call, clock)
    return job.timing()


async def _run_async(row: _Row, call: Callable[[], Awaitable[Any]], clock: Clock) -> None:
    __tracebackhide__ = True
    wall, cpu = clock.wall, clock.cpu
    while number := row.start():
        try:
            cpu_before, before = cpu(), wall()
            result = await call()
            after, cpu_after = wall(), cpu()
        except Exception as error:
            _name_round(error, row, number)
            raise
        row.done(number, result, after - before, cpu_after - cpu_before)
        del result


async def _run_at_once(
    row: _Row, call: Callable[[], Awaitable[Any]], clock: Clock, at_once: int
) -> None:
    __tracebackhide__ = True
    import asyncio  # noqa: PLC0415 - whoever gets here has loaded it

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise TimingError("concurrency needs asyncio, not another event loop") from None

    async def work() -> None:
        __tracebackhide__ = True
        while number := row.start():
            try:
                before = clock.wall()
                # A call that never lets go of the event loop makes the others wait; without this
                # turn they would not have begun, and it would look as fast as it is alone.
                await asyncio.sleep(0)
                result = await call()
                after = clock.wall()
            except Exception as error:
                _name_round(error, row, number)
                raise
            row.done(number, result, after - before, 0)
            del result

    cpu_before = clock.cpu()
    failure: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(at_once):
                tasks.create_task(work())
    except BaseExceptionGroup as group:
        # The others were cancelled because of the first.
        failure = group.exceptions[0]
    if failure is not None:
        raise failure
    row.cpu = [(clock.cpu() - cpu_before) // len(row.wall)] * len(row.wall)


def _name_round(error: Exception, row: _Row, number: int) -> None:
    error.add_note(f"perfguard: raised in {row.title(number)} of a timing")


def _unfinished(result: object) -> str:
    """Return why a result is not one yet, and what to do; an empty string if it is one."""
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()  # or Python would warn on top of the error
        return (
            f"{shown(result)}, which nobody has awaited: time a function that awaits it, and "
            "await the timing"
        )
    if inspect.isgenerator(result):
        return (
            f"{shown(result)}, which has not run yet: time a function that uses it up, such as "
            "lambda: list(rows())"
        )
    if inspect.isasyncgen(result):
        return (
            f"{shown(result)}, which has not run yet: time an async function that uses it up, "
            "as in [row async for row in rows()]"
        )
    return ""
