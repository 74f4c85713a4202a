"""What is drawn where: stacks of one or more profiles as one tree, and its frames as boxes.

Stacks are sorted, so every frame of the tree is a run of neighbours, and its time a difference of
two running sums. What is too narrow to be seen is never looked into: time and memory go by what is
drawn, not by how many stacks there are. Nothing recurses, however deep a stack is.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from itertools import accumulate
from operator import eq, itemgetter

from pytest_perfguard.stacks import Frame, Profile

_Path = tuple[int, ...]
_Slice = tuple[int, int]


@dataclass(slots=True)
class Node:
    """A frame below its callers.

    Attributes:
        frame: None for the root.
        parent: its number; -1 for the root.
        times: seconds in it and in what it called, in each profile.
        own: those of the frame itself, in each profile.
        repeats: how often in a row it is on the stack at most, calling itself.
        narrow: how many frames that it called are too narrow, and the seconds in them.
        deeper: whether what it called is below the last row.
    """

    frame: Frame | None
    parent: int
    depth: int
    times: tuple[float, ...]
    own: tuple[float, ...] = ()
    repeats: int = 1
    narrow: int = 0
    narrow_times: tuple[float, ...] = ()
    deeper: bool = False


@dataclass(frozen=True, slots=True)
class Box:
    """A place in the picture; ``x`` and ``width`` are in seconds.

    Attributes:
        node: what is drawn there, or what called the frames that are too narrow or too deep.
        left_out: how many frames stand here that are not drawn; 0 for a frame.
    """

    node: Node
    row: int
    x: float
    width: float
    left_out: int = 0


@dataclass(slots=True)
class _Sorted:
    """The stacks of one profile as numbers of the tree's functions."""

    paths: list[_Path]
    sums: list[float]
    repeats: dict[int, tuple[list[int], list[int]]] = field(default_factory=dict)

    def seconds(self, part: _Slice) -> float:
        return self.sums[part[1]] - self.sums[part[0]]

    def most_repeats(self, depth: int, part: _Slice) -> int:
        if depth not in self.repeats:
            return 1
        numbers, counts = self.repeats[depth]
        return max(counts[bisect_left(numbers, part[0]) : bisect_left(numbers, part[1])], default=1)


def grow(profiles: Sequence[Profile], *, by_line: bool, least: float, rows: int) -> list[Node]:
    """Return the frames of a tree, each after its caller, siblings by name.

    Args:
        by_line: the user's functions are told apart by their lines. Lines of libraries never are.
        least: seconds that a frame needs in one of the profiles to be in it.
        rows: how deep it is at most, the root included.
    """
    table, numbers = _functions(profiles, by_line=by_line)
    sides = [_sorted(profile, numbers) for profile in profiles]
    nodes: list[Node] = []
    whole: list[_Slice] = [(0, len(side.paths)) for side in sides]
    waiting: list[tuple[int, int | None, list[_Slice]]] = [(-1, None, whole)]
    while waiting:
        parent, number, parts = waiting.pop()
        depth = nodes[parent].depth + 1 if nodes else 0
        node = Node(
            None if number is None else table[number],
            parent,
            depth,
            tuple([side.seconds(part) for side, part in zip(sides, parts, strict=True)]),
        )
        if number is not None:
            node.repeats = max(
                side.most_repeats(depth - 1, part) for side, part in zip(sides, parts, strict=True)
            )
        here = len(nodes)
        nodes.append(node)
        callees, node.own = _callees(sides, parts, depth)
        if depth + 1 >= rows:
            node.deeper = bool(callees)
            continue
        kept: list[tuple[int, int | None, list[_Slice]]] = []
        narrow = [0.0] * len(sides)
        for callee, slices in callees:
            times = [side.seconds(part) for side, part in zip(sides, slices, strict=True)]
            if max(times) >= least:
                kept.append((here, callee, slices))
            else:
                node.narrow += 1
                narrow = [sum(pair) for pair in zip(narrow, times, strict=True)]
        node.narrow_times = tuple(narrow)
        waiting.extend(reversed(kept))
    return nodes


def place(
    nodes: Sequence[Node],
    width: Callable[[Node], float],
    narrow: Callable[[Node], tuple[int, float]],
    least: float,
    most: int,
) -> tuple[list[Box], float]:
    """Return the boxes of a tree, callers first, and the width that a frame needed to get one.

    Args:
        width: of a frame.
        narrow: how many it called that are not in the tree, and their width together.
        least: width that a frame needs.
        most: how many frames get a box; the widest do.
    """
    widths = [width(node) for node in nodes]
    if len(nodes) > most:
        # One more, to know what does not get in; of equal ones all or none.
        least = max(least, nlargest(most + 1, widths)[-1] * (1 + 1e-9))
    boxes: list[Box] = []
    starts: dict[int, float] = {-1: 0.0}
    left_out: defaultdict[int, list[float]] = defaultdict(list)
    for number, node in enumerate(nodes):
        if node.parent not in starts:
            continue
        if widths[number] < least and node.parent >= 0:
            left_out[node.parent].append(widths[number])
            continue
        x = starts[node.parent]
        boxes.append(Box(node, node.depth, x, widths[number]))
        starts[node.parent] += widths[number]
        starts[number] = x
    drawn = [number for number in starts if number >= 0]
    for number in drawn:
        node = nodes[number]
        count, inside = narrow(node)
        inside += sum(left_out[number])
        count += sum(1 for part in left_out[number] if part)
        if node.deeper:
            own = max(0.0, widths[number] - inside)
            boxes.append(Box(node, node.depth + 1, starts[number], own, -1))
        elif count and inside > 0:
            boxes.append(Box(node, node.depth + 1, starts[number], inside, count))
    return boxes, least


def _functions(profiles: Iterable[Profile], *, by_line: bool) -> tuple[list[Frame], dict[int, int]]:
    """Return the functions, sorted, and the number of the function of each frame object."""
    objects = {
        id(frame): frame
        for profile in profiles
        for stack in profile.stacks
        for frame in stack.frames
    }
    lines: defaultdict[tuple[str, str, int], set[Frame]] = defaultdict(set)
    for frame in objects.values():
        lines[_identity(frame, by_line=by_line)].add(frame)
    shown = {key: _representative(frames) for key, frames in lines.items()}
    ordered = sorted(shown, key=lambda key: (shown[key].name, key))
    position = {key: number for number, key in enumerate(ordered)}
    numbers = {key: position[_identity(frame, by_line=by_line)] for key, frame in objects.items()}
    return [shown[key] for key in ordered], numbers


def _identity(frame: Frame, *, by_line: bool) -> tuple[str, str, int]:
    return frame.function, frame.file, frame.line if by_line and frame.user else 0


def _representative(frames: set[Frame]) -> Frame:
    first = min(frames)
    if len(frames) == 1 or first.user:
        return first
    return Frame(first.function, first.file, 0, first.user)


def _sorted(profile: Profile, numbers: dict[int, int]) -> _Sorted:
    times: defaultdict[_Path, list[float]] = defaultdict(list)
    runs: dict[_Path, dict[int, int]] = {}
    for stack in profile.stacks:
        path = tuple([numbers[id(frame)] for frame in stack.frames])
        if any(map(eq, path, path[1:])):
            path, repeated = _without_repeats(path)
            known = runs.setdefault(path, {})
            for depth, count in repeated:
                known[depth] = max(count, known.get(depth, 1))
        times[path].append(stack.seconds)
    paths = sorted(times)
    sums = list(accumulate((sum(times[path]) for path in paths), initial=0.0))
    found = _Sorted(paths, sums)
    if runs:
        for number, path in enumerate(paths):
            for depth, count in runs.get(path, {}).items():
                places, counts = found.repeats.setdefault(depth, ([], []))
                places.append(number)
                counts.append(count)
    return found


def _without_repeats(path: _Path) -> tuple[_Path, list[tuple[int, int]]]:
    """Return a path with each function that calls itself once, and how often it was there."""
    kept: list[int] = []
    counts: list[int] = []
    for number in path:
        if kept and kept[-1] == number:
            counts[-1] += 1
        else:
            kept.append(number)
            counts.append(1)
    return tuple(kept), [(depth, count) for depth, count in enumerate(counts) if count > 1]


def _callees(
    sides: Sequence[_Sorted], parts: Sequence[_Slice], depth: int
) -> tuple[list[tuple[int, list[_Slice]]], tuple[float, ...]]:
    """Return what is called from the frames at a depth, by number, and what is spent in them."""
    found: dict[int, list[_Slice]] = {}
    own = []
    at_depth = itemgetter(depth)
    for which, (side, (start, end)) in enumerate(zip(sides, parts, strict=True)):
        paths = side.paths
        at = start
        # A path that ends here comes before those that go on, and there is only one.
        if at < end and len(paths[at]) == depth:
            at += 1
        own.append(side.seconds((start, at)))
        while at < end:
            number = paths[at][depth]
            after = at + 1
            if after < end and paths[after][depth] == number:
                after = bisect_right(paths, number, after, end, key=at_depth)
            if which == 0:
                found[number] = [(at, after), *[(0, 0)] * (len(sides) - 1)]
            else:
                found.setdefault(number, [(0, 0)] * len(sides))[which] = (at, after)
            at = after
    return sorted(found.items()), tuple(own)
