"""What is drawn where: stacks of one or more profiles as one tree, and its frames as boxes.

Stacks are sorted, so those that begin alike are neighbours, and their time is a difference of two
running sums. What is too narrow to be seen is never looked into: time and memory go by what is
drawn, not by how many stacks there are. Nothing recurses, however deep a stack is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from heapq import nlargest
from itertools import accumulate
from typing import NamedTuple

from pytest_perfguard.stacks import Frame, Profile


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


class _Run(NamedTuple):
    """Neighbouring stacks of one profile that are alike down to a depth."""

    side: int
    start: int
    end: int
    depth: int


@dataclass(slots=True)
class _Callee:
    frame: Frame
    runs: list[_Run]


def grow(profiles: Sequence[Profile], *, by_line: bool, least: float, rows: int) -> list[Node]:
    """Return the frames of a tree, each after its caller, siblings by name.

    Args:
        by_line: the user's functions are told apart by their lines. Lines of libraries never are.
        least: seconds that a frame needs in one of the profiles to be in it.
        rows: how deep it is at most, the root included.
    """
    tree = _Tree(profiles, by_line=by_line)
    nodes: list[Node] = []
    whole = [_Run(side, 0, len(paths), 0) for side, paths in enumerate(tree.paths) if paths]
    waiting: list[tuple[int, Frame | None, list[_Run]]] = [(-1, None, whole)]
    while waiting:
        parent, frame, runs = waiting.pop()
        depth = nodes[parent].depth + 1 if nodes else 0
        node = Node(frame, parent, depth, tree.seconds(runs))
        here = len(nodes)
        nodes.append(node)
        callees = tree.look_into(node, runs)
        if depth + 1 >= rows:
            node.deeper = bool(callees)
            continue
        kept = []
        narrow = [0.0] * len(profiles)
        for callee in callees:
            times = tree.seconds(callee.runs)
            if max(times) >= least:
                kept.append(callee)
            else:
                node.narrow += 1
                narrow = [before + more for before, more in zip(narrow, times, strict=True)]
        node.narrow_times = tuple(narrow)
        kept.sort(key=lambda callee: (callee.frame.name, callee.frame), reverse=True)
        waiting.extend((here, callee.frame, callee.runs) for callee in kept)
    return nodes


class _Tree:
    """Finds out what was called from where, run by run."""

    def __init__(self, profiles: Sequence[Profile], *, by_line: bool) -> None:
        self.paths = [[stack.frames for stack in profile.stacks] for profile in profiles]
        self._sums = [
            list(accumulate((stack.seconds for stack in profile.stacks), initial=0.0))
            for profile in profiles
        ]
        self._by_line = by_line
        self._numbers: dict[tuple[str, str, int], int] = {}
        # By identity: stacks share their frames, and hashing a frame costs much more.
        self._known: dict[int, int] = {}

    def seconds(self, runs: Sequence[_Run]) -> tuple[float, ...]:
        """Return the time of some runs in each profile."""
        if len(self._sums) == 1 and len(runs) == 1:
            (_, start, end, _), sums = runs[0], self._sums[0]
            return (sums[end] - sums[start],)
        found = [0.0] * len(self._sums)
        for side, start, end, _ in runs:
            found[side] += self._sums[side][end] - self._sums[side][start]
        return tuple(found)

    def look_into(self, node: Node, runs: Sequence[_Run]) -> list[_Callee]:
        """Return what is called from a frame; tell the node what is its own.

        A function that calls itself stays the same node, with one more repeat.
        """
        itself = -1 if node.frame is None else self._number(node.frame)
        own = [0.0] * len(self.paths)
        found: dict[int, _Callee] = {}
        waiting = [(run, 1) for run in runs]
        while waiting:
            (side, start, end, depth), repeats = waiting.pop()
            node.repeats = max(node.repeats, repeats)
            paths = self.paths[side]
            at = start
            # A stack that ends here comes before those that go on.
            while at < end and len(paths[at]) == depth:
                at += 1
            own[side] += self._sums[side][at] - self._sums[side][start]
            while at < end:
                frame = paths[at][depth]
                after = _end_of_run(paths, at, end, depth)
                run = _Run(side, at, after, depth + 1)
                number = self._number(frame)
                if number == itself:
                    waiting.append((run, repeats + 1))
                elif number in found:
                    callee = found[number]
                    callee.runs.append(run)
                    callee.frame = _both(callee.frame, frame)
                else:
                    found[number] = _Callee(frame, [run])
                at = after
        node.own = tuple(own)
        return list(found.values())

    def _number(self, frame: Frame) -> int:
        number = self._known.get(id(frame))
        if number is None:
            line = frame.line if self._by_line and frame.user else 0
            identity = (frame.function, frame.file, line)
            number = self._numbers.setdefault(identity, len(self._numbers))
            self._known[id(frame)] = number
        return number


def _end_of_run(paths: Sequence[tuple[Frame, ...]], start: int, end: int, depth: int) -> int:
    """Return where the neighbours end that have the same frame at a depth as the first has."""
    frame = paths[start][depth]
    step = 1
    inside = start
    # Leaps of doubled length, then halves between the last one inside and the first one outside.
    while inside + step < end and paths[inside + step][depth] is frame:
        inside += step
        step *= 2
    outside = min(inside + step, end)
    while outside - inside > 1:
        between = (inside + outside) // 2
        if paths[between][depth] is frame:
            inside = between
        else:
            outside = between
    return outside


def _both(first: Frame, second: Frame) -> Frame:
    """Return one frame for two of the same function: the first line of the user's, or none."""
    if first.line == second.line:
        return first
    return replace(first, line=min(first.line, second.line) if first.user else 0)


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
