from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_perfguard.errors import TimingError
from pytest_perfguard.samples import (
    Readings,
    Sample,
    Window,
    faster_half,
    is_number,
    is_whole,
    pool,
)

_NS = st.integers(1, 10**9)
_ROUNDS = st.lists(st.tuples(_NS, _NS, _NS, _NS, _NS), min_size=1, max_size=20)


def _readings(rounds: list[tuple[int, ...]], loops: int = 1) -> Readings:
    cpu, a, b, c, waited = (tuple(times) for times in zip(*rounds, strict=True))
    wall = tuple(used + more for used, more in zip(cpu, waited, strict=True))
    return Readings(loops, wall, cpu, (a, b, c), (0,) * len(cpu))


def _same(*nanoseconds: int, loops: int = 1) -> Readings:
    return _readings([(1000, n, 1000, 1000, 0) for n in nanoseconds], loops)


def test_the_faster_half_has_the_middle_of_an_odd_number() -> None:
    assert faster_half([5.0]) == 5.0
    assert faster_half([9.0, 1.0]) == 1.0
    assert faster_half([9.0, 1.0, 3.0]) == 2.0
    assert faster_half([1.0, 3.0, 100.0, 200.0]) == 2.0


@settings(deadline=None)
@given(_ROUNDS)
def test_a_window_has_the_logarithms_of_the_faster_halves(rounds: list[tuple[int, ...]]) -> None:
    window = _readings(rounds).window()
    cpu, *references = (sorted(times) for times in zip(*[r[:4] for r in rounds], strict=True))
    half = (len(rounds) + 1) // 2
    assert math.exp(window.cpu) == pytest.approx(sum(cpu[:half]) / half / 1e9)
    for logarithm, times in zip(window.references, references, strict=True):
        assert math.exp(logarithm) == pytest.approx(sum(times[:half]) / half / 1e9)
    assert window.rounds == len(rounds)


@settings(deadline=None)
@given(_ROUNDS, st.integers(2, 1000))
def test_loops_are_taken_apart_again(rounds: list[tuple[int, ...]], loops: int) -> None:
    once = _readings(rounds).window()
    looped = _readings(
        [(cpu * loops, a, b, c, waited * loops) for cpu, a, b, c, waited in rounds], loops
    ).window()
    assert looped.cpu == pytest.approx(once.cpu)
    assert looped.references == once.references
    assert looped.waiting == pytest.approx(once.waiting)
    assert looped.wall == pytest.approx(once.wall)


def test_waiting_is_the_first_quarter_of_wall_less_cpu_and_queue() -> None:
    readings = Readings(
        loops=1,
        wall=(300, 220, 300, 5000),
        cpu=(90, 90, 90, 90),
        references=((1,) * 4,) * 3,
        queued=(200, 100, 0, 0),
    )
    window = readings.window()
    assert window.waiting == pytest.approx(10e-9)
    assert window.wall == pytest.approx(300e-9)


def test_clocks_that_are_not_read_at_once_make_no_negative_waiting() -> None:
    readings = Readings(1, (100,), (110,), ((1,), (1,), (1,)), (50,))
    assert readings.window().waiting == 0


@settings(deadline=None)
@given(_ROUNDS, _ROUNDS)
def test_pooled_windows_are_one_long_window(
    one: list[tuple[int, ...]], other: list[tuple[int, ...]]
) -> None:
    assert pool([_readings(one), _readings(other)]) == _readings(one + other).window()


def test_a_sample_has_each_window_and_all_of_them() -> None:
    first, second = _same(1000, 2000), _same(8000)
    sample = Sample.of("asgi", [first, second])
    assert sample.windows == (first.window(), second.window())
    assert sample.pooled == pool([first, second])
    assert sample.pooled.rounds == 3


def test_a_sample_of_nothing_is_an_error() -> None:
    with pytest.raises(TimingError, match="at least one window"):
        Sample.of("asgi", [])
    with pytest.raises(TimingError, match="at least one window"):
        Sample("asgi", _same(1).window(), ())


@settings(deadline=None)
@given(st.lists(_ROUNDS, min_size=1, max_size=3))
def test_a_sample_is_plain_data_and_back(windows: list[list[tuple[int, ...]]]) -> None:
    sample = Sample.of("testclient/asyncio", map(_readings, windows))
    data = json.loads(json.dumps(sample.to_dict(), allow_nan=False))
    assert Sample.from_dict(data) == sample


@pytest.mark.parametrize("change", [{"later": 1}, {"windows": []}, {"reference": 3}])
def test_what_is_no_sample_is_refused(change: dict[str, Any]) -> None:
    data = Sample.of("asgi", [_same(1)]).to_dict()
    with pytest.raises((TimingError, TypeError)):
        Sample.from_dict({**data, **change})


def test_numbers_are_told_from_what_only_looks_like_them() -> None:
    assert all(is_number(number) for number in (0, 1.5, -3))
    assert not any(
        is_number(other) for other in (math.nan, math.inf, 10**400, True, "1", None, [1])
    )
    assert is_number(1, 1, 1)
    assert not is_number(2, 1, 1)
    assert is_whole(0)
    assert not any(is_whole(other) for other in (-1, 1.0, True, None))


def test_a_window_is_plain_data() -> None:
    window = _same(1000).window()
    assert Window.from_dict(json.loads(json.dumps(window.to_dict()))) == window
