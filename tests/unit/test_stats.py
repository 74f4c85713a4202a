from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_perfguard import stats
from pytest_perfguard.errors import TimingError
from pytest_perfguard.stats import (
    ATTEMPTS,
    STATISTICS,
    Slope,
    conclusive,
    describe,
    exceeded,
    iqr,
    mean,
    median,
    percentile,
    smallest,
    stddev,
    theil_sen,
)

# Whole numbers, so that sums and differences of them are exact.
_TIME = st.integers(0, 10**9).map(float)
_TIMES = st.lists(_TIME, min_size=1, max_size=250)
_WALL_STATISTICS_THAT_NOISE_CANNOT_LOWER = ("mean", "median", "p95", "p99", "max")


@settings(deadline=None)
@given(_TIMES)
def test_the_mean_is_the_sum_over_the_number(times: list[float]) -> None:
    exact = sum(map(Fraction, times)) / len(times)
    assert mean(times) == pytest.approx(float(exact), rel=1e-12)


@settings(deadline=None)
@given(_TIMES)
def test_half_of_the_times_are_on_either_side_of_the_median(times: list[float]) -> None:
    middle = median(times)
    assert sum(time <= middle for time in times) >= len(times) / 2
    assert sum(time >= middle for time in times) >= len(times) / 2


def test_the_median_of_an_even_number_lies_between_the_two_in_the_middle() -> None:
    assert median([1.0, 2.0, 4.0, 9.0]) == 3.0


@settings(deadline=None)
@given(_TIMES, st.integers(1, 100))
def test_a_percentile_is_the_shortest_time_that_enough_rounds_did_not_exceed(
    times: list[float], percent: int
) -> None:
    value = percentile(times, percent)
    assert value in times
    assert 100 * sum(time <= value for time in times) >= percent * len(times)
    for shorter in times:
        if shorter < value:
            assert 100 * sum(time <= shorter for time in times) < percent * len(times)


@pytest.mark.parametrize(
    ("percent", "number", "rank"),
    [(95, 20, 19), (95, 100, 95), (95, 101, 96), (99, 100, 99), (99, 101, 100), (7, 100, 7)],
)
def test_a_percentile_has_the_nearest_rank(percent: int, number: int, rank: int) -> None:
    assert percentile(range(1, number + 1), percent) == rank


@pytest.mark.parametrize("name", ["p95", "p99"])
def test_a_percentile_needs_enough_rounds_not_to_be_the_slowest(name: str) -> None:
    statistic = STATISTICS[name]
    enough = range(statistic.fewest)
    assert statistic.of(enough) < max(enough)
    assert statistic.of(enough[:-1]) == max(enough[:-1])


@settings(deadline=None)
@given(st.lists(_TIME, min_size=2, max_size=250))
def test_the_standard_deviation_is_that_of_a_sample(times: list[float]) -> None:
    center = sum(map(Fraction, times)) / len(times)
    variance = sum((Fraction(time) - center) ** 2 for time in times) / (len(times) - 1)
    assert stddev(times) == pytest.approx(math.sqrt(variance), rel=1e-9)


def test_the_interquartile_range_holds_the_middle_half() -> None:
    assert iqr([4.0, 1.0, 3.0, 2.0]) == 2.0
    assert iqr([float(n) for n in range(1, 101)]) == 50.0
    assert iqr([5.0] * 99 + [1000.0]) == 0.0


def test_the_statistics_and_the_rounds_that_each_needs() -> None:
    assert {name: statistic.fewest for name, statistic in STATISTICS.items()} == {
        "mean": 1,
        "median": 1,
        "p95": 20,
        "p99": 100,
        "max": 1,
        "stddev": 2,
        "iqr": 4,
        "cpu": 1,
    }


@settings(deadline=None)
@given(_TIMES)
def test_a_description_has_every_statistic_that_there_are_enough_rounds_for(
    times: list[float],
) -> None:
    described = describe(times, [time / 2 for time in times])
    assert set(described) == {n for n, s in STATISTICS.items() if s.fewest <= len(times)}
    assert described["cpu"] == pytest.approx(described["mean"] / 2, rel=1e-12)


@settings(deadline=None)
@given(st.lists(_TIME, min_size=100, max_size=250))
def test_statistics_are_in_order(times: list[float]) -> None:
    described = describe(times, times)
    assert min(times) <= described["median"] <= described["p95"] <= described["p99"]
    assert described["p99"] <= described["max"] == max(times)
    assert described["iqr"] <= described["max"] - min(times)


@settings(deadline=None)
@given(st.randoms(use_true_random=False), st.lists(_TIME, min_size=100, max_size=150))
def test_the_order_of_the_rounds_does_not_matter(random: object, times: list[float]) -> None:
    shuffled = list(times)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert describe(shuffled, shuffled) == describe(times, times)


@settings(deadline=None)
@given(st.lists(st.lists(_TIME, min_size=100, max_size=120), min_size=1, max_size=3))
def test_the_smallest_of_each_statistic_still_fit_together(measured: list[list[float]]) -> None:
    described = [describe(times, times) for times in measured]
    least = smallest(described)
    assert all(least[name] == min(one[name] for one in described) for name in STATISTICS)
    assert least["median"] <= least["p95"] <= least["p99"] <= least["max"]
    assert least["mean"] <= least["max"]


def test_the_smallest_is_of_those_that_have_the_statistic() -> None:
    assert smallest([{"mean": 3.0, "p95": 4.0}, {"mean": 2.0}]) == {"mean": 2.0, "p95": 4.0}


def test_a_limit_is_exceeded_only_above_it() -> None:
    measured = {"mean": 0.2, "p95": 0.3, "max": 0.5}
    assert exceeded(measured, {"mean": 0.2, "p95": 0.29, "max": 0.4}) == ("p95", "max")
    assert exceeded(measured, {}) == ()


def test_a_kept_limit_needs_one_measurement_and_a_breach_needs_all() -> None:
    limits = {"p95": 0.2}
    slow, fast = {"p95": 0.3}, {"p95": 0.1}
    assert ATTEMPTS == 3
    assert conclusive([fast], limits)
    assert not conclusive([slow], limits)
    assert not conclusive([slow, slow], limits)
    assert conclusive([slow, fast], limits)
    assert conclusive([slow, slow, slow], limits)
    assert conclusive([slow], {})


def test_each_limit_may_be_kept_by_another_measurement() -> None:
    limits = {"p95": 0.2, "max": 0.4}
    measured = [{"p95": 0.3, "max": 0.3}, {"p95": 0.1, "max": 0.9}]
    assert not conclusive(measured[:1], limits)
    assert conclusive(measured, limits)
    assert exceeded(smallest(measured), limits) == ()


@settings(deadline=None, max_examples=30)
@given(st.data(), st.lists(_TIME, min_size=100, max_size=110))
def test_no_noise_hides_a_real_breach(data: st.DataObject, times: list[float]) -> None:
    true = describe(times, times)
    limits = {name: true[name] - 0.5 for name in _WALL_STATISTICS_THAT_NOISE_CANNOT_LOWER}
    noise = st.lists(_TIME, min_size=len(times), max_size=len(times))
    measured: list[dict[str, float]] = []
    while not measured or not conclusive(measured, limits):
        noisy = [time + more for time, more in zip(times, data.draw(noise), strict=True)]
        measured.append(describe(noisy, noisy))
    assert len(measured) == ATTEMPTS
    assert set(exceeded(smallest(measured), limits)) == set(limits)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("medain", "there is no statistic 'medain': did you mean 'median'?"),
        (
            "total",
            (
                "there is no statistic 'total': "
                "there are mean, median, p95, p99, max, stddev, iqr, cpu"
            ),
        ),
    ],
)
def test_an_unknown_statistic_is_an_error_that_names_the_others(name: str, message: str) -> None:
    with pytest.raises(TimingError) as caught:
        stats.lookup(name)
    assert str(caught.value) == message


def test_the_slope_of_a_straight_line_is_certain() -> None:
    assert theil_sen(range(25), [7.0 + 3 * x for x in range(25)]) == Slope(3, 3, 3)


def test_the_interval_of_a_slope_is_that_of_ranks() -> None:
    # n = 10: 45 slopes, C = 2.5758 * sqrt(125) = 28.80, so the ranks are 8 and 38.
    ys = [0, 3, 1, 4, 9, 2, 6, 5, 12, 7]
    slopes = sorted((ys[j] - ys[i]) / (j - i) for i in range(10) for j in range(i + 1, 10))
    found = theil_sen(range(10), ys)
    assert found == Slope(slopes[22], slopes[7], slopes[37])
    assert found.low < found.slope < found.high


@pytest.mark.parametrize(
    "values",
    [
        [0.0] * 12 + [9e6] * 13,
        [0.0] * 3 + [1e6] * 8 + [2e6] * 14,
        [0.0] * 5 + [9e6] + [0.0] * 19,
        [9e6, *[0.0] * 24],
        [float(x * 7919 % 13) for x in range(25)],
    ],
    ids=["one step", "two steps", "a spike", "a fall", "noise"],
)
def test_a_step_a_spike_and_noise_are_no_certain_rise(values: list[float]) -> None:
    assert theil_sen(range(25), values).low <= 0


def test_a_rise_below_noise_and_spikes_is_certain_all_the_same() -> None:
    values = [10.0 * x + (x * 7919 % 13) for x in range(25)]
    values[4] += 1e6
    values[20] -= 1e6
    found = theil_sen(range(25), values)
    assert found.slope == pytest.approx(10, abs=1)
    assert 5 < found.low < 10 < found.high < 15
