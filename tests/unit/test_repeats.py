"""What counts as growth, of readings that are known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest

from pytest_perfguard.probes.resident import UnreadableError
from pytest_perfguard.repeats import (
    CHECKPOINTS,
    LEAST_RESIDENT,
    LEAST_TRACED,
    _judge,
    _pass,
    _Readings,
)


def readings(size: Callable[[int], float]) -> _Readings:
    found = _Readings()
    for number in range(CHECKPOINTS + 1):
        found.add(4 * number, int(size(4 * number)))
    return found


FLAT = readings(lambda _: 5e6)


@pytest.mark.parametrize(
    ("traced", "growth"),
    [
        (lambda calls: 1e6 + 10_240 * calls, 10_240),
        (lambda calls: 1e6 + LEAST_TRACED * calls, LEAST_TRACED),
        (lambda calls: 1e6 + (LEAST_TRACED - 1) * calls, 0),
        (lambda calls: 1e6 - 10_240 * calls, 0),
        (lambda calls: 1e6 if calls < 50 else 9e6, 0),
        (lambda calls: 1e6 * (calls // 34), 0),
        (lambda calls: 10_240 * min(calls, 70), 0),
        (lambda calls: 10_240 * min(calls, 50) + 1_000_000 * (calls == 80), 0),
        (lambda calls: 1e6 + calls * 7919 % 5000, 0),
    ],
    ids=[
        "a leak", "the least", "less than that", "a fall", "a step", "two steps",
        "a cache that gets full", "one with a spike", "noise",
    ],
)  # fmt: skip
def test_what_is_traced_is_growth_where_it_rises_to_the_end(
    traced: Callable[[int], float], growth: float
) -> None:
    found = _judge(readings(traced), FLAT)
    assert found.slope == growth
    assert found.source == "traced"


@pytest.mark.parametrize(
    ("resident", "growth"),
    [
        (lambda calls: 9e7 + 50_000 * calls, 50_000),
        (lambda calls: 9e7 + (LEAST_RESIDENT - 1) * calls, 0),
        (lambda calls: 9e7 + 2**20 * (calls // 30), 0),
        (lambda calls: 9e7 + 50_000 * min(calls, 60), 0),
    ],
    ids=["a leak", "less than a page", "arenas", "a cache that gets full"],
)
def test_resident_memory_is_growth_where_nothing_that_is_traced_grows(
    resident: Callable[[int], float], growth: float
) -> None:
    found = _judge(FLAT, readings(resident))
    assert found.slope == growth
    assert found.source == ("resident" if growth else "traced")


def test_what_is_traced_comes_first_unless_it_is_the_least_of_it() -> None:
    found = _judge(readings(lambda calls: 30_000 * calls), readings(lambda calls: 50_000 * calls))
    assert (found.slope, found.source) == (30_000, "traced")
    assert found.resident.slope == 50_000
    found = _judge(readings(lambda calls: 100 * calls), readings(lambda calls: 50_000 * calls))
    assert (found.slope, found.source) == (50_000, "resident")
    assert found.traced.slope == 100


@pytest.mark.parametrize("times", [20, 24, 25, 26, 100, 1000])
def test_a_pass_reads_at_as_many_points_as_there_are_calls_for(times: int) -> None:
    calls = itertools.count()
    steps = _pass(lambda: next(calls), times, 3, lambda: 10 * next(calls))
    try:
        while True:
            next(steps)
    except StopIteration as done:
        found = done.value
    assert found.count == min(times, CHECKPOINTS) + 1
    points = list(found.calls[: found.count])
    assert points == sorted(set(points))
    assert (points[0], points[-1]) == (0, times)
    gaps = {b - a for a, b in itertools.pairwise(points)}
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(("times", "every"), [(100, 12), (800, 100)])
def test_a_leak_that_comes_now_and_then_is_growth_where_it_comes_8_times(
    times: int, every: int
) -> None:
    for phase in range(every):
        found = _Readings()
        for number in range(CHECKPOINTS + 1):
            calls = number * times // CHECKPOINTS
            found.add(calls, 100_000 * ((calls + phase) // every))
        assert _judge(found, FLAT).slope == pytest.approx(100_000 / every, rel=0.2)


def test_without_resident_memory_a_leak_can_be_seen_and_its_absence_not() -> None:
    unread = UnreadableError("nothing")
    leak = _judge(readings(lambda calls: 10_240 * calls), unread)
    assert leak.slope == 10_240
    assert math.isnan(leak.resident.slope)
    assert math.isnan(_judge(FLAT, unread).slope)
