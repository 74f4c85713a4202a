"""What two processes have measured of a call that they ran in turns: plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks of one side in their order: seconds a call, the mean of each block.

    Attributes:
        cpu: CPU time of the process, all threads.
        wall: elapsed time.
        waiting: elapsed time in which no thread ran, nor could have run had there been a core; a
            little below 0 where threads hand work to each other.
    """

    cpu: tuple[float, ...]
    wall: tuple[float, ...]
    waiting: tuple[float, ...]

    @property
    def needed(self) -> float:
        """Seconds that a call needs where nobody is in its way: on a core, or waiting."""
        return median(self.cpu) + max(0.0, median(self.waiting))

    @property
    def computes(self) -> float:
        """Share of that time in which it is on a core."""
        return median(self.cpu) / self.needed

    def to_dict(self) -> dict[str, Any]:
        """Return this object as JSON data."""
        return {name: list(values) for name, values in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote."""
        return cls(**{name: tuple(values) for name, values in data.items()})


@dataclass(frozen=True, slots=True)
class Meeting:
    """What two fresh processes, one of each side, have measured of a call.

    Attributes:
        calls: how many a block has.
        seconds: how long the two took for it, the warm-up included.
        not_pinned: why they did not run on the same core; empty if they did.
    """

    base: Blocks
    head: Blocks
    calls: int
    seconds: float
    not_pinned: str = ""

    @property
    def ratios(self) -> tuple[float, ...]:
        """The logarithms of head's CPU time over base's, of each pair of blocks."""
        return tuple(
            math.log(head / base) for base, head in zip(self.base.cpu, self.head.cpu, strict=True)
        )

    @property
    def waits_more(self) -> tuple[float, ...]:
        """By how many seconds a call of head waits longer, of each pair of blocks."""
        return tuple(
            head - base for base, head in zip(self.base.waiting, self.head.waiting, strict=True)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return this object as JSON data."""
        return {
            "base": self.base.to_dict(),
            "head": self.head.to_dict(),
            "calls": self.calls,
            "seconds": self.seconds,
            "not_pinned": self.not_pinned,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote."""
        sides = {side: Blocks.from_dict(data[side]) for side in ("base", "head")}
        return cls(**{**data, **sides})
