"""Statistics of timed rounds, and when a limit on one of them counts as exceeded.

All values are in seconds. A limit that a measurement exceeds is not a breach yet: the rounds are
measured again, at most :data:`ATTEMPTS` times in all, and each statistic is judged by its smallest
value. Other processes can only add to a time, never take from it, so

- a real breach exceeds the limit in every measurement and fails, however often it is repeated;
- noise fails a test only if it disturbs all of them.

Bursts seldom do. Neighbours that are busy all the time do: they take a core for some milliseconds
at a time, which a limit has to leave room for, above all one on ``p95``, ``p99`` or ``max``; the
median needs the least. Nothing else excuses a time above the limit. Too little CPU time does not:
code that waits too long for a database needs none. Nor does the time that a thread waited for a
core: a database on the same machine may have been at work for it meanwhile.

What happens more rarely than once in a measurement may be missed: to catch one slow round in a
thousand, time some thousands.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from pytest_perfguard.errors import TimingError

ATTEMPTS = 3


def mean(times: Sequence[float]) -> float:
    """Return the sum of all times over their number."""
    return statistics.fmean(times)


def median(times: Sequence[float]) -> float:
    """Return the middle of the sorted times; of an even number, the mean of the two middle ones."""
    return statistics.median(times)


def percentile(times: Sequence[float], percent: int) -> float:
    """Return the shortest of the times that at least ``percent`` % of them do not exceed.

    This is the nearest-rank method, the inverse of the cumulative distribution: the result is a
    time that was measured, and "p95 is within the limit" says just that at least 95 % of the
    rounds were. Methods that interpolate between two ranks give a time that no round took.
    """
    rank = -(-percent * len(times) // 100)  # rounded up, in whole numbers: 0.07 * 100 is above 7
    return sorted(times)[rank - 1]


def stddev(times: Sequence[float]) -> float:
    """Return the standard deviation, with n - 1 in the denominator: the rounds are a sample."""
    return statistics.stdev(times)


def iqr(times: Sequence[float]) -> float:
    """Return the interquartile range: :func:`percentile` 75 less :func:`percentile` 25."""
    return percentile(times, 75) - percentile(times, 25)


@dataclass(frozen=True, slots=True)
class Statistic:
    """A number that sums up rounds.

    Attributes:
        of: the definition.
        fewest: how many rounds it needs. A percentile needs as many as keep it from being the
            slowest round under another name.
        cpu: it is taken of the process's CPU times, not of the wall times.
    """

    of: Callable[[Sequence[float]], float]
    fewest: int
    cpu: bool = False


# One slow round in 20 or more lies beyond the 95th percentile, one in 100 or more beyond the 99th.
STATISTICS: dict[str, Statistic] = {
    "mean": Statistic(mean, 1),
    "median": Statistic(median, 1),
    "p95": Statistic(lambda times: percentile(times, 95), 20),
    "p99": Statistic(lambda times: percentile(times, 99), 100),
    "max": Statistic(max, 1),
    "stddev": Statistic(stddev, 2),
    "iqr": Statistic(iqr, 4),
    # User and system time of all threads. Its clock may be coarse, which a mean evens out.
    "cpu": Statistic(mean, 1, cpu=True),
}


def lookup(name: str) -> Statistic:
    """Return a statistic by its name.

    Raises:
        TimingError: if there is none of that name.
    """
    try:
        return STATISTICS[name]
    except KeyError:
        close = get_close_matches(str(name), STATISTICS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(STATISTICS)}"
        raise TimingError(f"there is no statistic {name!r}: {hint}") from None


def describe(wall: Sequence[float], cpu: Sequence[float]) -> dict[str, float]:
    """Return every statistic that there are enough rounds for, by name."""
    return {
        name: statistic.of(cpu if statistic.cpu else wall)
        for name, statistic in STATISTICS.items()
        if len(wall) >= statistic.fewest
    }


def smallest(measured: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the smallest value of each statistic in measurements of the same thing.

    They need not come from the same measurement, and still fit together: whichever of two
    statistics is never above the other in one measurement is not above it here either.
    """
    least: dict[str, float] = {}
    for one in measured:
        for name, value in one.items():
            least[name] = min(value, least.get(name, value))
    return least


def exceeded(measured: Mapping[str, float], limits: Mapping[str, float]) -> tuple[str, ...]:
    """Return the names of the statistics that are above their limit."""
    return tuple(name for name, limit in limits.items() if measured[name] > limit)


def conclusive(measured: Sequence[Mapping[str, float]], limits: Mapping[str, float]) -> bool:
    """Return whether the measurements made so far are enough to judge by."""
    return len(measured) >= ATTEMPTS or not exceeded(smallest(measured), limits)


@dataclass(frozen=True, slots=True)
class Slope:
    """How steeply values rise, with its confidence interval."""

    slope: float
    low: float
    high: float


# Quantile of the normal distribution for an interval of 99 %.
_Z_99 = 2.5758


def theil_sen(xs: Sequence[float], ys: Sequence[float]) -> Slope:
    """Return the slope of a straight line through the points, unmoved by single steps and spikes.

    It is the median of the slopes ``(y_j - y_i) / (x_j - x_i)`` of all N pairs of points. Its 99 %
    interval is from the slope of rank ``(N - C) / 2`` to that of rank ``(N + C) / 2 + 1``, with
    ``C = 2.576 * sqrt(n (n - 1) (2 n + 5) / 18)``, from the variance of Kendall's S; equal values
    make it wider than need be. Source: P. K. Sen, "Estimates of the regression coefficient based
    on Kendall's tau", Journal of the American Statistical Association 63 (1968), and H. Theil
    (1950) for the estimate.

    Args:
        xs: in ascending order, no two of them the same.
        ys: as many, four at least.
    """
    n = len(xs)
    slopes = sorted((ys[j] - ys[i]) / (xs[j] - xs[i]) for i in range(n) for j in range(i + 1, n))
    margin = _Z_99 * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    low = max(1, math.floor((len(slopes) - margin) / 2))
    high = min(len(slopes), math.ceil((len(slopes) + margin) / 2 + 1))
    return Slope(statistics.median(slopes), slopes[low - 1], slopes[high - 1])
