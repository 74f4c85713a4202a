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


# Neighbouring stacks that are alike down to a depth: which profile, from where to where, how deep.
_Run = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class _Callee:
    frame: Frame
    runs: list[_Run]
    times: tuple[float, ...]


def grow(profiles: Sequence[Profile], *, by_line: bool, least: float, rows: int) -> list[Node]:
    """Return the frames of a tree, each after its caller, siblings by name.

    Args:
        by_line: the user's functions are told apart by their lines. Lines of libraries never are.
        least: seconds that a frame needs in one of the profiles to be in it.
        rows: how deep it is at most, the root included.
    """
    tree = _Tree(profiles, by_line=by_line, least=least)
    nodes = [Node(None, -1, 0, tree.total)]
    waiting = [(0, [(side, 0, len(paths), 0) for side, paths in enumerate(tree.paths)])]
    while waiting:
        here, runs = waiting.pop()
        node = nodes[here]
        callees = tree.look_into(node, runs)
        if node.depth + 1 >= rows:
            node.deeper = bool(callees) or node.narrow > 0
            node.narrow, node.narrow_times = 0, ()
            continue
        callees.sort(key=lambda callee: (callee.frame.name, callee.frame))
        for callee in callees:
            waiting.append((len(nodes), callee.runs))
            nodes.append(Node(callee.frame, here, node.depth + 1, callee.times))
    return nodes


class _Tree:
    """Finds out what was called from where, run by run."""

    def __init__(self, profiles: Sequence[Profile], *, by_line: bool, least: float) -> None:
        self.paths = [[stack.frames for stack in profile.stacks] for profile in profiles]
        self._sums = [
            list(accumulate((stack.seconds for stack in profile.stacks), initial=0.0))
            for profile in profiles
        ]
        self._by_line = by_line
        self._least = least
        self._numbers: dict[tuple[str, str, int], int] = {}
        # By identity: stacks share their frames, and hashing a frame costs much more.
        self._known: dict[int, int] = {}

    @property
    def total(self) -> tuple[float, ...]:
        """The sampled time of each profile."""
        return tuple(sums[-1] for sums in self._sums)

    def look_into(self, node: Node, runs: list[_Run]) -> list[_Callee]:
        """Return what is called from a frame; tell the node what is its own, and what is narrow.

        A function that calls itself stays the same node, with one more repeat.
        """
        itself = -1 if node.frame is None else self._number(node.frame)
        own = [0.0] * len(self.paths)
        # Most callees of a wide frame may be narrow: nothing is built for them.
        frames: dict[int, Frame] = {}
        first: dict[int, _Run] = {}
        more: defaultdict[int, list[_Run]] = defaultdict(list)
        times: list[dict[int, float]] = [{} for _ in self.paths]
        waiting = [(run, 1) for run in runs]
        while waiting:
            (side, start, end, depth), repeats = waiting.pop()
            node.repeats = max(node.repeats, repeats)
            paths, sums, seconds = self.paths[side], self._sums[side], times[side]
            at = start
            # A stack that ends here comes before those that go on.
            while at < end and len(paths[at]) == depth:
                at += 1
            own[side] += sums[at] - sums[start]
            while at < end:
                frame = paths[at][depth]
                after = _end_of_run(paths, at, end, depth)
                number = self._number(frame)
                run = (side, at, after, depth + 1)
                if number == itself:
                    waiting.append((run, repeats + 1))
                else:
                    seconds[number] = seconds.get(number, 0.0) + sums[after] - sums[at]
                    if number in first:
                        more[number].append(run)
                        frames[number] = _both(frames[number], frame)
                    else:
                        first[number] = run
                        frames[number] = frame
                at = after
        node.own = tuple(own)
        wide = [n for n in first if any(side.get(n, 0.0) >= self._least for side in times)]
        found = [
            _Callee(
                frames[number],
                [first[number], *more.get(number, ())],
                tuple(side.get(number, 0.0) for side in times),
            )
            for number in wide
        ]
        node.narrow = len(first) - len(wide)
        node.narrow_times = tuple(
            sum(side.values()) - sum(callee.times[which] for callee in found)
            for which, side in enumerate(times)
        )
        return found

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
    # A frame, then what it called, then what stands at its right.
    boxes.sort(key=lambda box: (box.x, box.row))
    return boxes, least
