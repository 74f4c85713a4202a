"""Where time went: call stacks, each with the seconds that were spent in it.

A :class:`Profile` is what any profiler's samples come down to, and all that the pictures, the
failure text and a stored baseline need. It holds names of code and times, never a value of a
variable. Its plain form is small: a table of frames, and each stack as numbers of that table.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import nsmallest
from itertools import accumulate, pairwise
from operator import attrgetter
from typing import Any, Self

from pytest_perfguard.model import encodable
from pytest_perfguard.units import Unit, show
from pytest_perfguard.visible import visible

PROFILE_FORMAT = "perfguard-profile"
PROFILE_SCHEMA = 1
SMALLEST_SHARE = 0.001
"""What is kept of a profile that others are compared with, as a share of its time."""
_MICROSECOND_DIGITS = 6
_fields = attrgetter("function", "file", "line", "user")


@dataclass(frozen=True, slots=True, order=True)
class Frame:
    """A function on the stack, at a line.

    Attributes:
        function: its name, qualified where that is known.
        file: below the root directory with forward slashes; of a library, from its package on,
            e.g. ``sqlalchemy/orm/session.py``.
        line: 1-based; 0 where it is not known.
        user: whether it is the user's own code.
    """

    function: str
    file: str
    line: int
    user: bool

    def __post_init__(self) -> None:
        # In the order of frames they must be what they are when they have been written and read.
        if not (self.function.isascii() and self.file.isascii()):
            object.__setattr__(self, "function", encodable(self.function))
            object.__setattr__(self, "file", encodable(self.file))

    @property
    def name(self) -> str:
        """Its short name: a library's function with the package that it comes from."""
        package = self.file.partition("/")[0].removesuffix(".py")
        named = self.function.startswith(f"{package}.")
        if self.user or named or not package.isidentifier():
            return self.function
        return f"{package}.{self.function}"

    @property
    def place(self) -> str:
        """Where to find it, as ``file:line``."""
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Stack:
    """Frames that were on the stack together, outermost first, and for how long."""

    frames: tuple[Frame, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Hot:
    """A line of the user's code with the time spent in it and in the libraries it called."""

    frame: Frame
    seconds: float
    share: float

    def __str__(self) -> str:
        where = visible(f"`{self.frame.function}` {self.frame.place}")
        return f"{where} {self.share * 100:.0f} %"


@dataclass(frozen=True, slots=True)
class Mover:
    """What takes longer, or less long, than it did.

    Attributes:
        frame: the library function that the user's code called, or the user's own function.
        under: the user's function that called it; None where it is the user's own.
        base: seconds before.
        head: seconds now.
    """

    frame: Frame
    under: Frame | None
    base: float
    head: float

    @property
    def seconds(self) -> float:
        """By how much it grew; negative where it shrank."""
        return self.head - self.base

    @property
    def remark(self) -> str:
        """Whether it is on one side only."""
        if not self.base:
            return "new"
        return "" if self.head else "gone"

    @property
    def text(self) -> str:
        """By how much it changed, and where, without a word on whether it was there at all."""
        change = f"{'+' if self.seconds >= 0 else '-'}{show(abs(self.seconds), Unit.SECONDS)}"
        under = f" under `{self.under.function}`" if self.under else ""
        return visible(f"{change} in `{self.frame.name}`{under}")

    def __str__(self) -> str:
        return f"{self.text} ({self.remark})" if self.remark else self.text


@dataclass(frozen=True, slots=True)
class Profile:
    """Where the time of one span went, or of all rounds of an endpoint.

    Attributes:
        name: of the span or endpoint.
        kind: of the span, e.g. ``request``.
        seconds: all of it; more than its stacks add up to where the profiler saw nothing.
        stacks: each distinct tuple of frames once, in the order of their frames.
        notes: what a reader should know of how it was made.
        calls: how many spans of this name it adds up.
    """

    name: str
    kind: str
    seconds: float
    stacks: tuple[Stack, ...] = ()
    notes: tuple[str, ...] = ()
    calls: int = 1

    def __post_init__(self) -> None:
        if any(before.frames >= after.frames for before, after in pairwise(self.stacks)):
            samples = [(stack.frames, stack.seconds) for stack in self.stacks]
            object.__setattr__(self, "stacks", aggregate(samples))

    @classmethod
    def build(
        cls,
        name: str,
        kind: str,
        samples: Iterable[tuple[Sequence[Frame], float]],
        *,
        seconds: float | None = None,
        notes: Iterable[str] = (),
        calls: int = 1,
    ) -> Self:
        """Return the profile of samples in any order, each the frames and the seconds in them.

        Args:
            seconds: all of the time; what the samples add up to where it is not given.
            calls: how many spans it adds up.
        """
        stacks = aggregate(samples)
        total = math.fsum(stack.seconds for stack in stacks) if seconds is None else seconds
        return cls(name, kind, total, stacks, tuple(dict.fromkeys(notes)), calls)

    @property
    def sampled(self) -> float:
        """The seconds that its stacks add up to."""
        return math.fsum(stack.seconds for stack in self.stacks)

    @property
    def total(self) -> float:
        """What shares are shares of: all of the time, and never less than was sampled."""
        return max(self.seconds, self.sampled)

    def hottest(self, n: int = 3) -> tuple[Hot, ...]:
        """Return the lines of the user's code that most time was spent in.

        The time of a stack belongs to its innermost line of the user's: what a library does is
        done for the line that called it. A stack without any is nobody's.
        """
        times: defaultdict[Frame, float] = defaultdict(float)
        for stack in self.stacks:
            for frame in reversed(stack.frames):
                if frame.user:
                    times[frame] += stack.seconds
                    break
        total = self.total
        hottest = nsmallest(n, times, key=lambda frame: (-times[frame], frame))
        return tuple(
            Hot(frame, times[frame], times[frame] / total) for frame in hottest if times[frame] > 0
        )

    def per_call(self) -> Self:
        """Return it as that of one call, so that as many rounds as there was time for compare."""
        if self.calls == 1:
            return self
        stacks = tuple(replace(stack, seconds=stack.seconds / self.calls) for stack in self.stacks)
        notes = (*self.notes, f"the mean of {self.calls:,} calls")
        return replace(self, seconds=self.seconds / self.calls, stacks=stacks, notes=notes, calls=1)

    def without_values(self) -> Self:
        """Return it as it may be kept in a repository: names of code and times, nothing else.

        A name loses its query string, and notes are left out: both may quote what was sent.
        """
        return replace(self, name=self.name.partition("?")[0], notes=())

    def small(self, least: float = SMALLEST_SHARE) -> Self:
        """Return it small enough to be kept: as much as a comparison of functions needs.

        A function has one line, and what is narrower than a share of all time is its caller's.
        """
        # By identity first, as in _table.
        objects = {id(frame): frame for stack in self.stacks for frame in stack.frames}
        first: dict[tuple[str, str], int] = {}
        for frame in objects.values():
            line = frame.line if frame.user else 0
            key = frame.function, frame.file
            first[key] = min(line, first.get(key, line))
        plain = {
            known: replace(frame, line=first[frame.function, frame.file])
            for known, frame in objects.items()
        }
        folded = aggregate(
            ([plain[id(frame)] for frame in stack.frames], stack.seconds) for stack in self.stacks
        )
        depths = _depths(folded, self.total * least)
        samples = [
            (stack.frames[:depth], stack.seconds)
            for stack, depth in zip(folded, depths, strict=True)
        ]
        return replace(self, stacks=aggregate(samples))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON data, times to the microsecond."""
        table, indices = _table(stack.frames for stack in self.stacks)
        return {
            "format": PROFILE_FORMAT,
            "schema": PROFILE_SCHEMA,
            "name": encodable(self.name),
            "kind": encodable(self.kind),
            "calls": self.calls,
            "seconds": round(self.seconds, _MICROSECOND_DIGITS),
            "notes": [encodable(note) for note in self.notes],
            "frames": [
                [encodable(frame.function), encodable(frame.file), frame.line, int(frame.user)]
                for frame in table
            ],
            "stacks": [
                [round(stack.seconds, _MICROSECOND_DIGITS), list(numbers)]
                for stack, numbers in zip(self.stacks, indices, strict=True)
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: if it is anything else.
        """
        frames = [
            Frame(_text(function), _text(file), _whole(line), bool(user))
            for function, file, line, user in data["frames"]
        ]
        samples = [
            ([frames[_whole(number)] for number in numbers], _time(seconds))
            for seconds, numbers in data["stacks"]
        ]
        return cls.build(
            _text(data["name"]),
            _text(data["kind"]),
            samples,
            seconds=_time(data["seconds"]),
            notes=[_text(note) for note in data["notes"]],
            calls=_whole(data.get("calls", 1)) or 1,
        )


def aggregate(samples: Iterable[tuple[Sequence[Frame], float]]) -> tuple[Stack, ...]:
    """Return each distinct stack once with all of its time, in the order of their frames."""
    kept = list(samples)
    table, indices = _table(frames for frames, _ in kept)
    times: defaultdict[tuple[int, ...], list[float]] = defaultdict(list)
    for numbers, (_, seconds) in zip(indices, kept, strict=True):
        times[numbers].append(seconds)
    # The table is sorted, so that comparing numbers is comparing frames.
    return tuple(
        Stack(tuple([table[number] for number in numbers]), math.fsum(times[numbers]))
        for numbers in sorted(times)
    )


def _depths(stacks: Sequence[Stack], least: float) -> list[int]:
    """Return how many frames of each stack are on the stack for some seconds at least.

    Args:
        stacks: as they come from :func:`aggregate`, in which the same frame is one object.
    """
    sums = [0.0, *accumulate(stack.seconds for stack in stacks)]
    depths = [len(stack.frames) for stack in stacks]
    waiting = [(0, len(stacks), 0)]
    while waiting:
        at, end, depth = waiting.pop()
        while at < end:
            frames = stacks[at].frames
            after = at + 1
            if len(frames) > depth:
                # Stacks are sorted: those that begin alike are neighbours.
                while after < end and stacks[after].frames[depth] is frames[depth]:
                    after += 1
                if sums[after] - sums[at] < least:
                    depths[at:after] = [depth] * (after - at)
                else:
                    waiting.append((at, after, depth + 1))
            at = after
    return depths


def merge(profiles: Iterable[Profile], name: str | None = None) -> Profile:
    """Return one profile of several, e.g. of all rounds of an endpoint, in whatever order.

    Raises:
        ValueError: if there is none.
    """
    parts = list(profiles)
    if not parts:
        raise ValueError("there is no profile to merge")
    kinds = sorted({part.kind for part in parts})
    return Profile.build(
        min(part.name for part in parts) if name is None else name,
        kinds[0] if len(kinds) == 1 else "several",
        [(stack.frames, stack.seconds) for part in parts for stack in part.stacks],
        seconds=math.fsum(part.seconds for part in parts),
        notes=sorted({note for part in parts for note in part.notes}),
        calls=sum(part.calls for part in parts),
    )


def movers(base: Profile, head: Profile, n: int = 3) -> tuple[Mover, ...]:
    """Return what the time between two profiles went to, the largest change first.

    Stacks are added up by the innermost function of the user's and the library function that it
    called. Lines are not compared: they move with every edit above them.
    """
    before, after = _by_call(base), _by_call(head)
    found = []
    for key in before.keys() | after.keys():
        frame, under = (after if key in after else before)[key][0]
        found.append(Mover(frame, under, _sum(before, key), _sum(after, key)))
    found = [mover for mover in found if round(mover.seconds, _MICROSECOND_DIGITS)]
    found.sort(key=lambda mover: (-abs(mover.seconds), mover.frame, mover.under or mover.frame))
    return tuple(found[:n])


_Call = tuple[Frame, Frame | None]
_Calls = dict[tuple[str, ...], tuple[_Call, list[float]]]


def _by_call(profile: Profile) -> _Calls:
    calls: _Calls = {}
    for stack in profile.stacks:
        if not stack.frames:
            continue
        frame, under = _call(stack.frames)
        key = (frame.function, frame.file, *((under.function, under.file) if under else ()))
        calls.setdefault(key, ((frame, under), []))[1].append(stack.seconds)
    return calls


def _call(frames: tuple[Frame, ...]) -> _Call:
    """Return the library function that the user's innermost one called, and that one."""
    for depth in range(len(frames) - 1, -1, -1):
        if frames[depth].user:
            innermost = depth == len(frames) - 1
            return (frames[depth], None) if innermost else (frames[depth + 1], frames[depth])
    return frames[-1], None


def _sum(calls: _Calls, key: tuple[str, ...]) -> float:
    return math.fsum(calls[key][1]) if key in calls else 0.0


def _table(
    stacks: Iterable[Sequence[Frame]],
) -> tuple[list[Frame], list[tuple[int, ...]]]:
    """Return all distinct frames, sorted, and each stack as their numbers."""
    kept = list(stacks)
    # By identity first: stacks share their frames, and hashing or comparing one costs much more.
    objects: dict[int, Frame] = {}
    for frames in kept:
        objects.update(zip(map(id, frames), frames, strict=True))
    distinct = {_fields(frame): frame for frame in objects.values()}
    ordered = sorted(distinct)
    numbers = {fields: number for number, fields in enumerate(ordered)}
    by_object = {key: numbers[_fields(frame)] for key, frame in objects.items()}
    paths = [tuple(map(by_object.__getitem__, map(id, frames))) for frames in kept]
    return [distinct[fields] for fields in ordered], paths


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a number to count with")
    return value


def _time(value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{value!r} is not a time")
    return float(value)
