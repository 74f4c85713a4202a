"""What is kept of a call that was timed beside reference work: plain numbers, one set a process.

A time means little without the state of the machine that it was taken in, so each window of rounds
has four: of the call, and of the three references that ran between its rounds. They are kept as
logarithms, because what a slow machine does to a time is to multiply it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from pytest_perfguard import stats
from pytest_perfguard.errors import TimingError

# The call's own kind, a light one, a mix of the standard library.
REFERENCES = 3
_NS = 1e9
_LARGEST = 1e15
# A time beyond all that clocks can tell.
_LARGEST_LOG = 50.0


@dataclass(frozen=True, slots=True)
class Readings:
    """The clocks' readings of a window, in nanoseconds and one for each round.

    Attributes:
        loops: how many calls a round had; its times are those of all of them.
        wall: elapsed time of the call.
        cpu: CPU time of the process meanwhile, all threads.
        references: CPU time of each reference.
        queued: how long the thread waited for a core meanwhile; 0 where the system does not tell.
    """

    loops: int
    wall: tuple[int, ...]
    cpu: tuple[int, ...]
    references: tuple[tuple[int, ...], ...]
    queued: tuple[int, ...]

    def window(self) -> Window:
        """Return what is kept of it.

        Raises:
            TimingError: if the clock has seen no time pass.
        """
        return pool([self])


@dataclass(frozen=True, slots=True)
class Window:
    """What is kept of a window, or of all windows of a process together.

    Attributes:
        cpu: logarithm of the seconds of CPU time that a call took: the mean of the faster half.
        references: the same of each reference.
        waiting: seconds that a call waited for something: the 25th percentile of wall time less
            CPU time, and less the time in which it could have run, had there been a core for it.
        wall: median wall time of a call in seconds.
        rounds: how many there were.

    Raises:
        TimingError: if a number makes no sense.
    """

    cpu: float
    references: tuple[float, float, float]
    waiting: float
    wall: float
    rounds: int

    def __post_init__(self) -> None:
        if len(self.references) != REFERENCES:
            raise TimingError(f"{len(self.references)} references, not {REFERENCES}")
        for logarithm in (self.cpu, *self.references):
            if not is_number(logarithm, -_LARGEST_LOG, _LARGEST_LOG):
                raise TimingError(f"{logarithm!r} is no logarithm of a time")
        if not is_number(self.wall, 0) or not is_number(self.waiting, 0) or not self.wall:
            raise TimingError(f"a wall time of {self.wall!r} s, {self.waiting!r} s of it waiting")
        if not is_whole(self.rounds, 1):
            raise TimingError(f"{self.rounds!r} is no number of rounds")

    def to_dict(self) -> dict[str, Any]:
        """Return this object as JSON data."""
        return {**asdict(self), "references": list(self.references)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote."""
        return cls(**{**data, "references": tuple(data["references"])})


@dataclass(frozen=True, slots=True)
class Sample:
    """What one process has measured of one call.

    Attributes:
        reference: name of the references; times beside others are not comparable.
        pooled: all rounds of all windows taken together.
        windows: each window by itself.

    Raises:
        TimingError: if it has no window.
    """

    reference: str
    pooled: Window
    windows: tuple[Window, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.reference, str):
            raise TimingError(f"{self.reference!r} is no name of references")
        if not self.windows:
            raise TimingError("a sample needs at least one window")

    @classmethod
    def of(cls, reference: str, readings: Iterable[Readings]) -> Self:
        """Sum up the windows of a process.

        Raises:
            TimingError: if there is none, or if the clock has seen no time pass in one.
        """
        measured = tuple(readings)
        windows = tuple(each.window() for each in measured)
        if not windows:
            raise TimingError("a sample needs at least one window")
        return cls(reference, pool(measured), windows)

    def to_dict(self) -> dict[str, Any]:
        """Return this object as JSON data."""
        return {
            "reference": self.reference,
            "pooled": self.pooled.to_dict(),
            "windows": [window.to_dict() for window in self.windows],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote."""
        return cls(
            **{
                **data,
                "pooled": Window.from_dict(data["pooled"]),
                "windows": tuple(map(Window.from_dict, data["windows"])),
            }
        )


def pool(readings: Sequence[Readings]) -> Window:
    """Sum up all rounds of several windows as if they were one.

    Raises:
        TimingError: if the clock has seen no time pass.
    """
    cpu, wall, waiting = [], [], []
    references: list[list[float]] = [[] for _ in range(REFERENCES)]
    for one in readings:
        per_call = _NS * one.loops
        cpu += [ns / per_call for ns in one.cpu]
        wall += [ns / per_call for ns in one.wall]
        for elapsed, used, queued in zip(one.wall, one.cpu, one.queued, strict=True):
            # The clocks are not read in the same instant.
            waiting.append(max(0, elapsed - used - queued) / per_call)
        for pooled, times in zip(references, one.references, strict=True):
            pooled += [ns / _NS for ns in times]
    first, second, third = (_log(times) for times in references)
    return Window(
        cpu=_log(cpu),
        references=(first, second, third),
        waiting=stats.percentile(waiting, 25),
        wall=stats.median(wall),
        rounds=len(cpu),
    )


def faster_half(times: Sequence[float]) -> float:
    """Return the mean of the faster half: others can only add to a time, and do so in bursts."""
    ordered = sorted(times)
    return math.fsum(ordered[: (len(ordered) + 1) // 2]) / ((len(ordered) + 1) // 2)


def _log(times: Sequence[float]) -> float:
    if not times or (mean := faster_half(times)) <= 0:
        raise TimingError(
            "the clock has seen no CPU time pass: it is too coarse for this call, or was frozen"
        )
    return math.log(mean)


def is_number(value: object, least: float = -_LARGEST, most: float = _LARGEST) -> bool:
    """Return whether a value is a number that can be calculated with, and within bounds."""
    # Not a number (NaN) is within no bounds.
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def is_whole(value: object, least: int = 0) -> bool:
    """Return whether a value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
