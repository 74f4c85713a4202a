"""Finds what has become worse over many runs, be it all at once or too little at a time to be seen.

Pure statistics of series, the oldest value first. What is the same in every run of the same code
is judged as it is: a level that was held for some runs and is not reached any more. What varies is
judged by Pettitt's test for a change point, which asks of every run whether the values from there
on are larger than those before, by their ranks alone: neither a spike nor how the noise is
distributed matters to it. With ``K`` the largest difference of the two over all runs, the
probability of as much by chance is about ``2 exp(-6 K^2 / (n^3 + n^2))``. Source: A. N. Pettitt,
"A non-parametric approach to the change-point problem", Applied Statistics 28 (1979).

Values of neighbouring runs resemble each other where the machine has busy days, which looks like
a change to every such test. So ``K`` is made smaller by the number of values that are independent,
``n (1 - r) / (1 + r)``, with the correlation ``r`` of neighbours that is left beside the change.
Source: G. V. Bayley and J. M. Hammersley, "The effective number of independent observations in an
autocorrelated time series", Supplement to the Journal of the Royal Statistical Society 8 (1946).

A significant change may still be too small to care for, so there is a least effect. A creep and a
step are told apart by which fits better: a straight line, or two levels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from statistics import median

from pytest_perfguard.stats import theil_sen

# Runs that a level has to be held for before it counts as one.
HELD = 3
# Runs that it takes before a varying series is judged: with fewer, no order of them is unlikely
# enough.
FEWEST = 20
# Share by which a varying value has to be worse.
LEAST = 0.1
# Probability of one false alarm or more among all series of a check that do not change.
CHANCE = 0.01
# Series that it takes to tell what they share, which is the machine.
SHARED_BY = 8
# A change by so many times the median deviation that is left beside it is no mood of the machine.
_CLEAR = 8.0
_TINY = 1e-12
_ROUNDING = 1e-6


class Kind(StrEnum):
    """How a series has become worse."""

    STEP = "step"
    CREEP = "creep"


@dataclass(frozen=True, slots=True)
class Found:
    """A change for the worse.

    Attributes:
        at: index of the first value of the new level, or of the first after which it rises.
        before: the level that it comes from, as ``after`` in the series' own unit.
        rises: how often an exact value has risen since; 0 where it varies.
    """

    kind: Kind
    at: int
    before: float
    after: float
    rises: int = 0


def find_exact(
    values: Sequence[float], *, higher_is_better: bool = False, accepted: bool = False
) -> Found | None:
    """Return what has become worse in a series of counts, however little it is.

    It is compared with the best level that was held for :data:`HELD` runs. A value that comes and
    goes is no level: as many runs have to be worse at the end, and none of them as good.

    Args:
        accepted: the first value is a level, since somebody has looked at it.
    """
    signed = [-value if higher_is_better else value for value in values]
    if len(signed) < (HELD + 1 if accepted else 2 * HELD) or varies(signed):
        return None
    starts = range(len(signed) - HELD + 1)
    levels = [signed[i] for i in starts if _is_level(signed[i : i + HELD])]
    levels += signed[:1] if accepted else []
    if not levels:
        return None
    best = min(levels)
    end = max(index for index, value in enumerate(signed) if value <= best + _ROUNDING) + 1
    rest = signed[end:]
    if len(rest) < HELD:
        return None
    after = min(rest[-HELD:])
    path = [best, *(min(value, after) for value in rest)]
    rises = sum(later > earlier for earlier, later in pairwise(path))
    sign = -1 if higher_is_better else 1
    kind = Kind.CREEP if rises > 1 else Kind.STEP
    return Found(kind, end, sign * best, sign * after, rises)


def varies(values: Sequence[float]) -> bool:
    """Return whether a count goes up and down by itself, as what depends on time or chance does."""
    most = 1 + len(values) // 10
    rises = sum(later > earlier for earlier, later in pairwise(values))
    falls = sum(later < earlier for earlier, later in pairwise(values))
    return min(rises, falls) > most


def _is_level(values: Sequence[float]) -> bool:
    return max(values) - min(values) <= _ROUNDING


def find_varying(
    values: Sequence[float],
    *,
    higher_is_better: bool = False,
    chance: float = CHANCE,
    least: float = LEAST,
    floor: float = _TINY,
) -> Found | None:
    """Return what has become worse in a series of times or sizes, if that is no chance.

    Args:
        values: none of them negative.
        chance: probability of a false alarm that is accepted, for this series.
        least: share by which it has to be worse.
        floor: what is below it is as good as that.
    """
    if len(values) < FEWEST:
        return None
    sign = -1 if higher_is_better else 1
    logs = [sign * math.log(max(value, floor)) for value in values]
    at, largest = _pettitt(logs)
    if _probability(largest, len(logs)) > chance:
        return None
    levels = median(logs[:at]), median(logs[at:])
    flat = [y - levels[index >= at] for index, y in enumerate(logs)]
    slope = theil_sen(range(len(logs)), logs).slope
    offset = median(y - slope * index for index, y in enumerate(logs))
    line = [y - offset - slope * index for index, y in enumerate(logs)]
    creeps = sum(map(abs, line)) < sum(map(abs, flat))
    beside = line if creeps else flat
    if creeps:
        levels = offset, offset + slope * (len(logs) - 1)
    rise = levels[1] - levels[0]
    if rise < math.log1p(least):
        return None
    if rise < _CLEAR * median(map(abs, beside)):
        likely = _probability(largest * math.sqrt(_independent(beside)), len(logs))
        if likely > chance:
            return None
    before, after = (math.exp(sign * level) for level in levels)
    return Found(Kind.CREEP, 0, before, after) if creeps else Found(Kind.STEP, at, before, after)


def _pettitt(values: Sequence[float]) -> tuple[int, float]:
    """Return where the values from there on are largest against those before, and by how much."""
    ranks, n = _ranks(values), len(values)
    at, largest, total = 1, -math.inf, 0.0
    for t, rank in enumerate(ranks[:-1], start=1):
        total += rank
        difference = t * (n + 1) - 2 * total
        if difference > largest:
            at, largest = t, difference
    return at, max(largest, 0.0)


def _ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value, from 1; equal ones share the mean of theirs."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for index in order[start:end]:
            ranks[index] = (start + end + 1) / 2
        start = end
    return ranks


def _probability(largest: float, n: int) -> float:
    # One-sided, as only what is worse is looked for.
    return math.exp(-6 * largest**2 / (n**3 + n**2))


def _independent(beside: Sequence[float]) -> float:
    """Return the share of the values that is independent of the one before.

    The correlation is that of ranks: spikes would hide one of the values themselves.
    """
    middle = (len(beside) + 1) / 2
    ranks = [rank - middle for rank in _ranks(beside)]
    square = sum(rank * rank for rank in ranks)
    if not square:
        return 1.0
    product = sum(one * other for one, other in pairwise(ranks))
    # What is left beside a fitted change seems less correlated than it is.
    correlation = min(max(product / square + 3 / len(beside), 0.0), 0.95)
    return (1 - correlation) / (1 + correlation)


def shared(series: Mapping[int, Mapping[int, float]]) -> dict[int, float]:
    """Return by how much all series were higher than usual in each run, as a factor.

    That is the machine, or what all tests have in common; what is left is their own.

    Args:
        series: values by run, by whatever number; fewer than :data:`SHARED_BY` tell nothing.
    """
    if len(series) < SHARED_BY:
        return {}
    logs: dict[int, list[float]] = {}
    for values in series.values():
        middle = median(math.log(max(value, _TINY)) for value in values.values())
        for run, value in values.items():
            logs.setdefault(run, []).append(math.log(max(value, _TINY)) - middle)
    return {run: math.exp(median(found)) for run, found in logs.items() if len(found) >= SHARED_BY}
