"""Medians with what is known of their precision, and goals judged by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import median


@dataclass(frozen=True)
class Estimate:
    """A median and its 95 % interval, by order statistics: of few values, the extremes."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float], group: int = 1) -> Estimate:
        """Estimate from independent values, or from groups of ``group`` that depend on each other.

        Rounds of the same processes do: two processes of one program differ by a few percent.
        """
        medians = [median(values[at : at + group]) for at in range(0, len(values), group)]
        ordered = sorted(medians)
        cut = max(0, int(len(ordered) / 2 - 0.98 * sqrt(len(ordered))))
        return cls(median(medians), ordered[cut], ordered[-1 - cut])

    def verdict(self, goal: float) -> str:
        """Say whether the goal is kept, and whether the measurement can tell."""
        kept = "yes" if self.median <= goal else "NO"
        return (
            f"{kept}, but the interval contains the goal" if self.low <= goal < self.high else kept
        )
