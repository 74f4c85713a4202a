"""Contracts of growth: the same call with more and more data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from operator import index
from statistics import median
from typing import Any, NamedTuple

from pytest_perfguard.errors import GrowthError, LimitError, MetricError
from pytest_perfguard.findings import WAIVABLE, place
from pytest_perfguard.fingerprint import shorten
from pytest_perfguard.growth import (
    FEWEST_SIZES,
    FEWEST_TIMED,
    GROWTHS,
    LEAST_RANGE,
    RESIDENT_SLACK,
    Fit,
    Growth,
    Operation,
    allowed,
    fit,
    growing,
    judge_fit,
    operations,
    read_growth,
    slopes,
)
from pytest_perfguard.jobs import Job, Steps
from pytest_perfguard.metrics import METRICS, Metric, lookup
from pytest_perfguard.model import Finding, Level, Span, Status, Verdict
from pytest_perfguard.recorder import Measurement
from pytest_perfguard.spans import Clock, OpenSpan
from pytest_perfguard.units import Unit, show

SIZES = (2, 10, 50)
CPU = "cpu_time"
# How often a call is repeated at each size where its time is judged.
_TIMED_CALLS = 9
_MAX_SHOWN = 3
_MAX_LEAVES = 100_000
_NANO = 1e-9
# What may grow with the data where nothing else is said: what is fetched and sent.
_LINEAR = ("sql_rows",)
# Candidates are shown with what grows; errors have budgets of their own.
_UNJUDGED = ("http_errors", "sql_errors", "cache_errors", "task_failures", *WAIVABLE)
# What grows as the other does, by how it is made: the limit of the one is that of the other.
_FOLLOW = {"sql_roundtrips": "sql_queries", "cache_roundtrips": "cache_commands"}
_ADVICE = {
    "sql": "load all of them in one statement: a join, selectinload(), or WHERE ... IN (...)",
    "cache": "ask for all of them at once: MGET, or a pipeline",
    "http": "ask for all of them in one request",
    "tasks": "publish one task for all of them",
}


class Limit(NamedTuple):
    """How fast a metric may grow."""

    metric: Metric
    growth: Growth
    is_default: bool = False


class Contract(NamedTuple):
    """What is asked of a call at several sizes."""

    sizes: tuple[int, ...]
    limits: tuple[Limit, ...]

    @property
    def asked(self) -> frozenset[str]:
        """What has to be measured that is not measured otherwise."""
        return frozenset(limit.metric.name for limit in self.limits if limit.metric.on_request)

    @property
    def cpu(self) -> Growth | None:
        """How fast CPU time may grow, if that is asked for."""
        return next((limit.growth for limit in self.limits if limit.metric.name == CPU), None)


def read_contract(sizes: Sequence[int], limits: Mapping[str, object], where: str) -> Contract:
    """Read what is asked for.

    Raises:
        GrowthError: with every mistake, if there are any.
    """
    __tracebackhide__ = True
    with suppress(TypeError):  # they are refused below
        sizes = tuple(map(index, sizes))
    mistakes = list(_wrong_sizes(sizes))
    # Counts may not grow, sizes may grow as the data does. What is set here takes their place.
    asked = {
        name: Limit(metric, GROWTHS["O(n)" if _is_amount(metric) else "O(1)"], is_default=True)
        for name, metric in METRICS.items()
        # Two sizes cannot tell a straight line from what rises faster.
        if _is_judged(metric) and (not _is_amount(metric) or mistakes or len(sizes) >= FEWEST_SIZES)
    }
    for name, value in limits.items():
        try:
            metric = lookup(name)
            growth = read_growth(value)
        except MetricError as error:
            mistakes.append(str(error))
            continue
        except LimitError as error:
            mistakes.append(f"{name}: {error}")
            continue
        if metric.unit is Unit.SHARE or (metric.unit is Unit.SECONDS and name != CPU):
            mistakes.append(f"{name}: counts, sizes and {CPU} can grow; this cannot be judged so")
        elif metric.higher_is_better:
            mistakes.append(f"{name}: more of it is better, so that it may grow needs no limit")
        elif not mistakes:
            mistakes += _too_few(name, growth, sizes)
        asked[name] = Limit(metric, growth)
    for follower, leader in _FOLLOW.items():
        if leader in limits and follower not in limits and leader in asked:
            asked[follower] = asked[follower]._replace(growth=asked[leader].growth)
    if mistakes:
        raise GrowthError("\n".join(f"{where}: {mistake}" for mistake in mistakes))
    return Contract(tuple(sizes), tuple(asked.values()))


def _wrong_sizes(sizes: Any) -> Iterator[str]:
    example = f"write rising whole numbers, as in sizes={SIZES}"
    is_list = isinstance(sizes, Sequence) and not isinstance(sizes, str)
    if not is_list or not all(type(size) is int and size > 0 for size in sizes):
        yield f"sizes={sizes!r:.80}: {example}"
    elif len(sizes) < 2:  # noqa: PLR2004 - one size cannot grow
        yield f"sizes={sizes!r:.80}: two at least: {example}"
    elif list(sizes) != sorted(set(sizes)):
        yield f"sizes={sizes!r:.80}: they do not rise: {example}"


def _too_few(name: str, growth: Growth, sizes: Sequence[int]) -> Iterator[str]:
    if name == CPU and len(sizes) < FEWEST_TIMED:
        yield f"{name}: a time needs {FEWEST_TIMED} sizes, not {len(sizes)}"
    elif name == CPU and sizes[-1] < LEAST_RANGE * sizes[0]:
        yield (
            f"{name}: a time needs sizes that are further apart: the largest at least "
            f"{LEAST_RANGE} times the smallest"
        )
    elif not growth.is_constant and len(sizes) < FEWEST_SIZES:
        yield f"{name}: {growth.name} needs {FEWEST_SIZES} sizes to be told from a straight line"


def _is_amount(metric: Metric) -> bool:
    return metric.unit is Unit.BYTES or metric.name in _LINEAR


def _is_judged(metric: Metric) -> bool:
    """Return whether a metric is part of every contract."""
    return (
        metric.unit in (Unit.COUNT, Unit.BYTES)
        and metric.stored
        and metric.tallied
        and not metric.on_request
        and not metric.higher_is_better
        and not metric.neutral
        and metric.name not in _UNJUDGED
    )


@dataclass(frozen=True, slots=True)
class Scaled:
    """What a call did with more and more data; ``print`` shows it as a table.

    Attributes:
        sizes: of the data.
        measurements: of the call, one for each size: ``scaled.measurements[-1]["sql_queries"]``.
    """

    sizes: tuple[int, ...]
    measurements: tuple[Measurement, ...]
    limits: tuple[Limit, ...]

    def __getitem__(self, name: str) -> tuple[float, ...]:
        """Return a metric's values, one for each size.

        Raises:
            MetricError: if there is no metric of that name, or nothing was observed for it.
        """
        __tracebackhide__ = True
        return tuple(measured[name] for measured in self.measurements)

    def __str__(self) -> str:
        spans = [measured.span for measured in self.measurements if measured.span is not None]
        return "\n".join(table(self.sizes, spans, self.limits))


def scales(
    job: Job,
    populate: Callable[[int], Any],
    run: Callable[[], Any],
    contract: Contract,
    *,
    flush: Callable[[], Any] | None,
    session: Any,
) -> Steps:
    """Call with each size of the data, and judge how what it costs grows."""
    __tracebackhide__ = True
    spans: list[Span] = []
    measurements: list[Measurement] = []
    results: list[float | None] = []
    times: list[list[float]] = []
    verdicts: list[Verdict] = []
    whole = job.open("scales")
    try:
        for size in contract.sizes:
            clean = Clean(job, session)
            yield from clean.begin()
            yield from job.unmeasured(partial(populate, size))
            yield from clean.forget()
            yield from job.unmeasured(run)
            times.append([])
            for _ in range(_TIMED_CALLS if contract.cpu else 0):
                yield from clean.forget()
                yield from job.unmeasured(flush)
                times[-1].append((yield from _timed(job, run)))
            yield from clean.forget()
            yield from job.unmeasured(flush)
            is_last = size == contract.sizes[-1]
            # Before the block, which is not to be charged with it.
            fitted = fit(contract.sizes, times) if contract.cpu and is_last else None
            measurement = job.open(f"n = {size}", asked=contract.asked)
            try:
                result = yield run()
                job.refuse_error(result, f"n = {size}")
                results.append(_amount(result))
                del result
                spans.append(job.guard.recorder.freeze(measurement.opened))
                if is_last:
                    verdicts = judge(job.where, contract, spans, measurement.opened)
                    verdicts += _judge_times(job.where, contract, spans[-1], times, fitted)
            finally:
                measurement.close()
            measurements.append(measurement)
            yield from clean.end()
        whole.opened.growth = growth_data(contract, spans)
    finally:
        whole.close()
    if not any_grows(spans) and not _is_more(results):
        job.mistake(
            f"nothing that was done or returned at n = {contract.sizes[-1]:,} is more than at "
            f"n = {contract.sizes[0]:,}: does populate make what the call reads, and does the "
            "page have room for it?"
        )
    job.note(spans[-1], verdicts)
    return Scaled(contract.sizes, tuple(measurements), contract.limits)


@dataclass(slots=True)
class Clean:
    """Keeps what is made for one size out of the next, where there is a session to do it with."""

    job: Job
    session: Any
    nested: Any = None

    def begin(self) -> Steps:
        """Begin what is rolled back at the end."""
        if self.session is not None:
            self.nested = yield self.session.begin_nested()

    def forget(self) -> Steps:
        """Let a call load what it uses: what the session still holds would cost it nothing."""
        if self.session is not None:
            yield from self.job.unmeasured(self.session.flush)
            self.session.expunge_all()

    def end(self) -> Steps:
        """Take back what was made.

        Raises:
            GrowthError: if it has been committed meanwhile.
        """
        if self.session is None:
            return
        if not self.nested.is_active:
            raise GrowthError(
                f"{self.job.where}: the session was committed or rolled back inside, so the data "
                "of this size is there to stay: flush instead, or leave session= out and let "
                "populate bring the data from one size to the next"
            )
        yield self.nested.rollback()
        self.session.expunge_all()


def _timed(job: Job, run: Callable[[], Any]) -> Steps:
    """Return the CPU time of a call, in seconds, that belongs to no measurement."""
    with job.guard.recorder.unmeasured():
        started = Clock.cpu()
        yield run()
        return (Clock.cpu() - started) * _NANO


def _amount(result: Any) -> float | None:
    """Return how much a call has returned: bytes of a response, or else what it is made of."""
    if isinstance(getattr(result, "status_code", None), int):
        with suppress(Exception):  # a stream that has not been read
            body = result.content if hasattr(result, "content") else result.data
            return len(body)
        return None
    if isinstance(result, int):
        return result
    if isinstance(result, Mapping | Sequence | set | frozenset):
        return _leaves(result, _MAX_LEAVES)
    with suppress(Exception):  # what has no length
        return len(result)
    return None


def _leaves(value: Any, most: int) -> int:
    """Return how many values there are in nested containers, as far as ``most`` of them tell.

    Containers count as well: one that holds itself has no end.
    """
    waiting, found = [value], 0
    while waiting and found < most:
        value = waiting.pop()
        found += len(value) if isinstance(value, str | bytes) else 1
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list | tuple | set | frozenset):
            waiting += value
    return found


def _is_more(results: Sequence[float | None]) -> bool:
    first, last = results[0], results[-1]
    return first is not None and last is not None and last > first


def any_grows(spans: Sequence[Span]) -> bool:
    """Return whether any count or size is larger in the last span than in the first."""
    return any(
        (metric.measure(spans[-1]) or 0) > (metric.measure(spans[0]) or 0)
        for metric in METRICS.values()
        if _is_judged(metric)
    )


def growth_data(contract: Contract, spans: Sequence[Span]) -> dict[str, Any]:
    """Return the values of each metric, by size, and how fast it may grow, as plain data."""
    metrics = {}
    for limit in contract.limits:
        values = _values(limit.metric, spans)
        if values is not None and any(values):
            metrics[limit.metric.name] = {"values": values, "limit": limit.growth.name}
    return {"sizes": list(contract.sizes), "metrics": metrics}


# -- judging -------------------------------------------------------------------------------------


def judge(
    where: str,
    contract: Contract,
    spans: Sequence[Span],
    last: OpenSpan,
) -> list[Verdict]:
    """Return the verdicts on what was measured, about the largest size.

    Args:
        spans: one for each size.
        last: the last of them, which is told why it is over its limits.
    """
    verdicts: list[Verdict] = []
    told: list[list[str]] = []
    for verdict, lines in _judged(where, contract, spans):
        verdicts.append(verdict)
        # What is made up of the same operations needs to be told once.
        if lines and lines[1:] not in told:
            told.append(lines[1:])
            last.facts[verdict.metric] = "\n".join(lines)
    return verdicts


def _judged(
    where: str,
    contract: Contract,
    spans: Sequence[Span],
) -> Iterator[tuple[Verdict, list[str]]]:
    for limit in contract.limits:
        if limit.metric.name == CPU:
            continue
        values = _values(limit.metric, spans)
        if values is None:
            if not limit.is_default:
                yield _unproven(where, limit, spans[-1]), []
        elif any(values) or not limit.is_default:
            yield _judge(where, limit, contract.sizes, spans, values)


def _values(metric: Metric, spans: Sequence[Span]) -> list[float] | None:
    values = [metric.measure(span) for span in spans]
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else None


def _unproven(where: str, limit: Limit, span: Span) -> Verdict:
    needs = limit.metric.needs or "nothing that it is about"
    return Verdict(
        limit.metric.name,
        span.name,
        None,
        0,
        Status.UNPROVEN,
        Level.FAIL,
        f"{where}, {limit.growth.name}",
        f"{needs} was observed at each of the sizes, so the limit proves nothing",
    )


def _judge(
    where: str, limit: Limit, sizes: Sequence[int], spans: Sequence[Span], values: Sequence[float]
) -> tuple[Verdict, list[str]]:
    metric = limit.metric
    parts = operations(spans, metric.measure)
    steep = growing(parts)
    if limit.growth.is_constant and parts and metric.unit is Unit.COUNT:
        # Each operation by itself: one more of several, once, is no growth.
        most = values[-1] - sum(part.rise for part in steep)
    else:
        slack = RESIDENT_SLACK if metric.probe == "process" else None
        most = allowed(limit.growth, sizes, values, is_size=metric.unit is Unit.BYTES, slack=slack)
    over = values[-1] > most
    verdict = Verdict(
        metric.name,
        spans[-1].name,
        values[-1],
        min(most, values[-1]) if over else max(most, values[-1]),
        Status.OVER if over else Status.OK,
        Level.FAIL,
        f"{where}, {limit.growth.name}",
    )
    if not over:
        return verdict, []
    explained = {place(finding)[1:] for part in spans[-1].walk() for finding in part.findings}
    return verdict, list(_told(limit, sizes, values, steep or parts, explained))


def _told(
    limit: Limit,
    sizes: Sequence[int],
    values: Sequence[float],
    parts: Sequence[Operation],
    explained: Collection[tuple[object, ...]],
) -> Iterator[str]:
    """Yield what grows: the metric in one line, then the operations that make it up.

    Args:
        explained: what is a candidate besides, and shown as one, with its line.
    """
    unit = limit.metric.unit
    shown = ", ".join(show(value, unit) for value in values)
    at = ", ".join(f"{size:,}" for size in sizes)
    yield f"{limit.metric.name}: {shown} at n = {at}: grows by more than {limit.growth.name}"
    for part in parts[:_MAX_SHOWN]:
        tally = part.tally
        counts = ", ".join(show(value, unit) for value in part.values)
        steepest = max(slopes(sizes, part.values))
        what = tally.label if tally.subject is None else f"{tally.subject} ({tally.label})"
        yield f"    {what}: {counts}: {_rate(steepest, unit)} more for each"
        if place(Finding(limit.metric.name, tally, 1))[1:] in explained:
            continue
        yield f"    at {tally.site}" if tally.site else "    at no line of your code"
        if tally.operation != tally.label:
            yield f"    {shorten(tally.operation, 96)}"
        advice = tally.fix or _ADVICE.get(tally.probe)
        # It is about what is done again and again, not about what comes of it.
        if advice and limit.growth.is_constant and not _is_amount(limit.metric):
            yield f"    fix: {advice}"


def _rate(slope: float, unit: Unit) -> str:
    return f"{slope:.3g}" if unit is Unit.COUNT else show(slope, unit)


def _judge_times(
    where: str,
    contract: Contract,
    span: Span,
    times: Sequence[Sequence[float]],
    found: Fit | None,
) -> list[Verdict]:
    """Return the verdict on CPU time, if it is asked for."""
    growth, sizes = contract.cpu, contract.sizes
    if growth is None or found is None:
        return []
    status = judge_fit(growth, sizes, found)
    first, last = median(times[0]), median(times[-1])
    most = first * growth.of(sizes[-1]) / growth.of(sizes[0])
    reason = "" if status is Status.OK else f"it grows as {found} at these sizes"
    if status is Status.UNDECIDED:
        reason += ": too uncertain to say more"
    return [
        Verdict(
            CPU,
            span.name,
            last,
            most if status is Status.OVER else max(most, last),
            status,
            Level.WARN if status is Status.UNDECIDED else Level.FAIL,
            f"{where}, {growth.name}",
            reason,
        )
    ]


def table(sizes: Sequence[int], spans: Sequence[Span], limits: Sequence[Limit]) -> list[str]:
    """Return a line for each metric that was observed: its values, and how steeply it rises."""
    rows = [("metric", *(f"n = {size:,}" for size in sizes), "for each more", "may grow")]
    for limit in limits:
        values = _values(limit.metric, spans)
        if values is None or not any(values):
            continue
        unit = limit.metric.unit
        cells = (show(value, unit) for value in values)
        rows.append(
            (
                limit.metric.name,
                *cells,
                _rate(max(slopes(sizes, values)), unit),
                limit.growth.name,
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return [*lines, "observed at these sizes; no proof for others"]
