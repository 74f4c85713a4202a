"""How a number grows with the size of the data, as far as a few sizes can tell.

What is said here is about the sizes that were measured, and no proof for others. Counts are exact,
so two sizes are enough to see that one grows; times are not, so they are only judged where enough
sizes, far enough apart, leave no doubt.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from pytest_perfguard.errors import LimitError
from pytest_perfguard.model import Span, Status, Tally

# What a count may differ from a straight line by rounding, and a size by how it is encoded.
_COUNT_TOLERANCE, _SIZE_TOLERANCE = 0.10, 0.25
_COUNT_SLACK, _SIZE_SLACK = 1.0, 64.0
# Resident memory: what an allocator takes and keeps in steps of its own.
RESIDENT_SLACK = 4.0 * 2**20
# One more, once, is a branch that small data does not take. Two more is growth.
_LEAST_GROWTH = 2
# Different operations at one line: so many more, and more still with the largest data, are one that
# is written otherwise each time. Fewer may be what little data has no use for.
_LEAST_SPREAD = 5
FEWEST_SIZES = 3
FEWEST_TIMED = 5
# The largest size over the smallest: a machine that slows down meanwhile by a third, which is as
# much as they do, then shifts the exponent by less than 0.15.
LEAST_RANGE = 8
# By how much the exponent of a time must exceed the one allowed: twice that shift.
_MARGIN = 0.3
_RESAMPLES = 400
_TAIL = 0.025


@dataclass(frozen=True, slots=True)
class Growth:
    """A class of growth, such as ``O(n)``."""

    name: str
    of: Callable[[float], float]

    @property
    def is_constant(self) -> bool:
        """Whether nothing may be added, however large the data is."""
        return self.name == "O(1)"

    def exponent(self, small: float, large: float) -> float:
        """Return the power of n that it looks like between two sizes."""
        return math.log(self.of(large) / self.of(small)) / math.log(large / small)


GROWTHS: Mapping[str, Growth] = {
    growth.name: growth
    for growth in (
        Growth("O(1)", lambda _: 1.0),
        Growth("O(log n)", lambda n: math.log(n + 1)),
        Growth("O(n)", float),
        Growth("O(n log n)", lambda n: n * math.log(n + 1)),
        Growth("O(n^2)", lambda n: float(n) ** 2),
    )
}
_SPELLINGS = {"n*n": "n^2", "n²": "n^2", "n**2": "n^2", "nlogn": "n log n", "logn": "log n"}


def read_growth(value: object) -> Growth:
    """Return the class of growth that is written, e.g. ``"O(n log n)"``.

    Raises:
        LimitError: if it is none.
    """
    if isinstance(value, str):
        inner = re.sub(r"^O\((.*)\)$", r"\1", value.strip(), flags=re.IGNORECASE).lower()
        inner = re.sub(r"[\s()]|\*(?=log)", "", inner)
        known = GROWTHS.get(f"O({_SPELLINGS.get(inner, inner)})")
        if known is not None:
            return known
    raise LimitError(f"{value!r:.80} is no growth: write one of {', '.join(GROWTHS)}")


@dataclass(frozen=True, slots=True)
class Operation:
    """What an operation at a line adds to a metric, by size.

    Attributes:
        tally: what the largest size that did it has of it.
        values: of the metric, one for each size.
    """

    tally: Tally
    values: tuple[float, ...]

    @property
    def rise(self) -> float:
        """How much more it is with the largest data than with the smallest."""
        return self.values[-1] - self.values[0]

    @property
    def grows(self) -> bool:
        """Whether there was more and more of it: more than one once, and not far less at last."""
        return self.rise >= _LEAST_GROWTH and self.values[-1] * 2 >= max(self.values)


def slopes(sizes: Sequence[float], values: Sequence[float]) -> list[float]:
    """Return by how much the values rise for each that the size does, from one to the next."""
    pairs = zip(sizes, values, strict=True)
    before = next(pairs)
    found = []
    for pair in pairs:
        found.append((pair[1] - before[1]) / (pair[0] - before[0]))
        before = pair
    return found


def operations(spans: Sequence[Span], measure: Callable[[Span], float | None]) -> list[Operation]:
    """Return what makes up a metric in the span of each size, what rises most first."""
    found: dict[tuple[object, ...], tuple[Tally, list[float]]] = {}
    for number, span in enumerate(spans):
        for part in span.walk():
            for tally in part.tallies:
                value = measure(Span("", "block", tallies=(tally,)))
                if not value:
                    continue
                site = tally.site
                place = site and (site.file, site.line)
                key = (tally.probe, tally.operation, tally.kind, place, tally.subject)
                _, values = found.setdefault(key, (tally, [0.0] * len(spans)))
                values[number] += value
                found[key] = tally, values
    every = [Operation(tally, tuple(values)) for tally, values in found.values()]
    return sorted(every, key=lambda operation: -operation.rise)


def growing(parts: Sequence[Operation]) -> list[Operation]:
    """Return what grows among the operations, those of a line that only do so together as one."""
    found = [part for part in parts if part.grows]
    lines: dict[object, list[Operation]] = {}
    for part in parts:
        if not part.grows and part.rise > 0:
            site = part.tally.site
            place = site and (site.file, site.line)
            lines.setdefault((part.tally.probe, place), []).append(part)
    for others in lines.values():
        values = tuple(map(sum, zip(*(part.values for part in others), strict=True)))
        if values[-1] - values[0] >= _LEAST_SPREAD and values[-1] > values[-2]:
            label = f"{len(others)} different operations"
            tally = replace(others[0].tally, label=label, operation=label, subject=None, fix=None)
            found.append(Operation(tally, values))
    return found


def allowed(
    growth: Growth,
    sizes: Sequence[int],
    values: Sequence[float],
    *,
    is_size: bool,
    slack: float | None = None,
) -> float:
    """Return the most that the last value may be if it grows no faster than it may.

    It may grow as it did before in proportion to the class's function, or in proportion to its
    increase, whichever allows more, and a little over: 10 % for counts, 25 % for sizes in bytes,
    which vary with how well they compress.

    Args:
        values: one for each size, the sizes rising.
        is_size: they are bytes.
        slack: what may be added in any case; one for counts and 64 for bytes by default.
    """
    tolerance = 1 + (_SIZE_TOLERANCE if is_size else _COUNT_TOLERANCE)
    if slack is None:
        slack = _SIZE_SLACK if is_size else _COUNT_SLACK
    if growth.is_constant:
        return values[0] * (tolerance if is_size else 1) + slack
    scaled = [growth.of(size) for size in sizes]
    proportional = max(v / g for v, g in zip(values[:-1], scaled[:-1], strict=True)) * scaled[-1]
    steepest = max(0.0, *slopes(scaled[:-1], values[:-1]))
    rising = values[-2] + steepest * (scaled[-1] - scaled[-2])
    return max(proportional, rising) * tolerance + slack


@dataclass(frozen=True, slots=True)
class Fit:
    """How a time grows: as a power of n, with its 95 % interval."""

    exponent: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"n^{self.exponent:.2f} (95 % interval {self.low:.2f} to {self.high:.2f})"


def fit(sizes: Sequence[int], times: Sequence[Sequence[float]]) -> Fit:
    """Fit a power of n to times that were measured several times at each size.

    The exponent is the slope of a straight line through the logarithms of the medians, by least
    squares. Its interval is that of a bootstrap (percentile method; Efron & Tibshirani, *An
    Introduction to the Bootstrap*, 1993, chapter 13) that draws the times of each size anew. The
    generator has a fixed seed: the same times give the same interval.

    Args:
        times: in seconds, some for each size.
    """
    draw = random.Random(0)  # noqa: S311 - no secret
    drawn = sorted(
        _slope(sizes, [median(draw.choices(of_size, k=len(of_size))) for of_size in times])
        for _ in range(_RESAMPLES)
    )
    edge = int(_RESAMPLES * _TAIL)
    return Fit(_slope(sizes, list(map(median, times))), drawn[edge], drawn[-1 - edge])


def _slope(sizes: Sequence[int], times: Sequence[float]) -> float:
    x = [math.log(size) for size in sizes]
    # A clock that has not moved has measured something, only no more than its own step.
    y = [math.log(max(time, 1e-9)) for time in times]
    middle = sum(x) / len(x)
    spread = sum((value - middle) ** 2 for value in x)
    return sum((value - middle) * each for value, each in zip(x, y, strict=True)) / spread


def judge_fit(growth: Growth, sizes: Sequence[int], found: Fit) -> Status:
    """Return whether a time grows as it may; ``UNDECIDED`` where that is not clear.

    It is only over if the whole interval lies above the power that the class looks like at these
    sizes and a margin of 0.3, which no drift of a machine makes up.
    """
    if sizes[-1] < sizes[0] * LEAST_RANGE:
        return Status.UNDECIDED
    most = growth.exponent(sizes[0], sizes[-1]) + _MARGIN
    if found.low > most:
        return Status.OVER
    return Status.OK if found.high <= most else Status.UNDECIDED
