"""Flame graphs as SVG files that need nothing but themselves.

The root is at the top and what a function called below it, so a picture is read from where it
begins. Siblings stand in the order of their names: a function is at the same place in two pictures
of the same code. Every frame is a clipped picture of its own, placed in shares of the whole, so
text cannot leave its frame at any size of the window. All of it is there without scripts; the
script adds zoom, search and the keyboard, and labels that follow the window's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

from pytest_perfguard.reports.icicle import Box, Node, grow, place
from pytest_perfguard.reports.lettering import cut, cut_start
from pytest_perfguard.reports.sheet import MAX_ROWS, NAME_COLUMNS, Sheet, ratio, share
from pytest_perfguard.stacks import Frame, Profile, movers
from pytest_perfguard.units import Unit, show
from pytest_perfguard.visible import visible

MIN_SHARE = 0.001
"""The share of the picture's width that a frame needs to be drawn."""
MAX_FRAMES = 5_000
"""How many frames a picture has; with more, the narrowest are left out."""
MAX_BYTES = 1_900_000
"""How large a file is."""

# Changes below a share of the whole are nobody's; from the others on they are shown stronger.
_STEPS = (0.01, 0.05, 0.2)
_SAME = "l0"
_MOVERS = 5
_TIMES = "\N{MULTIPLICATION SIGN}"


def flamegraph(
    profile: Profile,
    *,
    min_share: float = MIN_SHARE,
    max_frames: int = MAX_FRAMES,
    embedded: bool = False,
) -> str:
    """Return the flame graph of a profile, an SVG file of less than 2 MB.

    Args:
        min_share: of the width; frames that have less are left out, and more are where there are
            too many. The picture says how many were.
        max_frames: how many it has at most.
        embedded: it is a part of a page, which has its style and its script.
    """
    total = profile.total
    least = total * min_share
    nodes = grow([profile], by_line=True, least=least, rows=MAX_ROWS)
    most = max_frames
    while True:
        boxes, drawn = place(
            nodes,
            lambda node: node.times[0] if node.frame else total,
            lambda node: (node.narrow, node.narrow_times[0] if node.narrow_times else 0.0),
            least,
            most,
        )
        sheet = Sheet(_title(profile), total, embedded)
        sheet.line(f"{_seconds(total)} in all. Callers are above what they call.")
        sheet.legend(("u0", "your code"), ("l0", "libraries"), *_not_drawn(boxes))
        sheet.lines("Most time in lines of your code:", map(str, profile.hottest()))
        sheet.left_out(boxes, drawn)
        if profile.seconds > profile.sampled:
            unseen = profile.seconds - profile.sampled
            if unseen >= least:
                sheet.line(f"No sample covers {_seconds(unseen)} ({share(unseen, total)}).")
        sheet.notes(profile.notes)
        for box in boxes:
            sheet.frame(box, *_plain(box, profile.name, total))
        text = sheet.text()
        if len(text.encode()) <= MAX_BYTES or most < 2:  # noqa: PLR2004 - the root is left
            return text
        most //= 2


def differential(
    base: Profile, head: Profile, *, normalised: bool = False, min_share: float = MIN_SHARE
) -> str:
    """Return the flame graph of what changed from one profile to another, as an SVG file.

    Frames are as wide as their time in ``head``. What is only in ``base`` stands beside them, at
    the same scale.

    Args:
        normalised: colours tell changes of a function's share of all time, not of its seconds: of
            use where one run had more to do, or the machine was slower.
    """
    change = Change(base.total, head.total, normalised)
    least = max(base.total, head.total) * min_share
    nodes = grow([base, head], by_line=False, least=least, rows=MAX_ROWS)
    gone = _gone(nodes)
    lost = gone[id(nodes[0])]
    whole = head.total + lost
    least = max(least, whole * min_share)
    most = MAX_FRAMES
    while True:
        boxes, drawn = place(
            nodes,
            lambda node: node.times[1] if node.frame else head.total,
            lambda node: (node.narrow, node.narrow_times[1] if node.narrow_times else 0.0),
            least,
            most,
        )
        beside, _ = place(nodes, lambda node: gone[id(node)], lambda _: (0, 0.0), least, most)
        sheet = Sheet(_title(head, base), whole)
        sheet.line(change.headline)
        sheet.line(change.basis)
        sheet.legend(("g2", "grew"), ("s2", "shrank"), ("l0", "the same"), *_not_drawn(boxes))
        sheet.legend(("g2 new", "new"), ("s2 gone", "gone, at the right"))
        sheet.lines("Largest changes:", map(str, movers(base, head, _MOVERS)))
        sheet.left_out(boxes, drawn)
        sheet.notes([*head.notes, *(f"base: {note}" for note in base.notes)])
        for box in boxes:
            sheet.frame(box, *_changed(box, head.name, change))
        if lost and lost >= least:
            for box in beside:
                sheet.frame(box, *_vanished(box, gone, change), start=head.total)
        text = sheet.text()
        if len(text.encode()) <= MAX_BYTES or most < 2:  # noqa: PLR2004 - the roots are left
            return text
        most //= 2


@dataclass(frozen=True, slots=True)
class Change:
    """How much a frame changed, in words and in colours."""

    base_total: float
    head_total: float
    normalised: bool

    @property
    def headline(self) -> str:
        """Return the whole of it in one sentence."""
        base, head = self.base_total, self.head_total
        grown = f", {(head / base - 1) * 100:+.0f} %" if base else ""
        return f"{_seconds(base)} became {_seconds(head)}: {_signed(head - base)}{grown}."

    @property
    def basis(self) -> str:
        """Return what the colours stand for."""
        if self.normalised:
            return "Colours: change in share of time (normalised)."
        return "Colours: change in seconds (absolute)."

    def of(self, base: float, head: float) -> float:
        """Return the change as a share of the whole, negative where it shrank."""
        if self.normalised:
            return ratio(head, self.head_total) - ratio(base, self.base_total)
        return ratio(head - base, max(self.base_total, self.head_total))

    def kind(self, base: float, head: float) -> str:
        """Return the class of a frame: in which way it changed and how strongly."""
        change = self.of(base, head)
        strength = sum(abs(change) >= step for step in _STEPS)
        return f"{'g' if change > 0 else 's'}{strength}" if strength else _SAME

    def label(self, base: float, head: float) -> str:
        """Return what stands on a frame beside its name."""
        if self.normalised:
            return f"{self.of(base, head) * 100:+.1f} points"
        return _signed(head - base)

    def lines(self, base: float, head: float) -> list[str]:
        """Return both sides of it, and both differences."""
        points = ratio(head, self.head_total) - ratio(base, self.base_total)
        return [
            f"base {_seconds(base)}, {share(base, self.base_total)}",
            f"head {_seconds(head)}, {share(head, self.head_total)}",
            f"{_signed(head - base)}, {points * 100:+.1f} points of share",
        ]


def _gone(nodes: Sequence[Node]) -> dict[int, float]:
    """Return by node the seconds that are in the base only, in it or somewhere below it."""
    found = dict.fromkeys(map(id, nodes), 0.0)
    for node in reversed(nodes):
        if not node.times[1]:
            found[id(node)] = node.times[0]
        if node.parent >= 0:
            found[id(nodes[node.parent])] += found[id(node)]
    return found


def _not_drawn(boxes: Sequence[Box]) -> list[tuple[str, str]]:
    return [("o", "not drawn")] if any(box.left_out for box in boxes) else []


def _plain(box: Box, root: str, total: float) -> tuple[str, list[str]]:
    node = box.node
    if box.left_out:
        return _rest(box, total)
    times = f"{_seconds(box.width)}, {share(box.width, total)}"
    if node.frame is None:
        return "l0 root", [_name(root), times]
    if node.own[0] and node.own[0] < node.times[0]:
        times += f" (itself {_seconds(node.own[0])}, {share(node.own[0], total)})"
    lines = [_called(node), _file(node.frame), times]
    kind = f"{'u' if node.frame.user else 'l'}{crc32(lines[0].encode()) % 2}"
    return kind, lines


def _changed(box: Box, root: str, change: Change) -> tuple[str, list[str]]:
    node = box.node
    if box.left_out:
        return _rest(box, change.head_total)
    if node.frame is None:
        base, head = change.base_total, change.head_total
        label = change.label(base, head)
        kind = f"{change.kind(base, head)} root"
        return kind, [_name(root), label, *change.lines(base, head)]
    base, head = node.times
    kind, label = change.kind(base, head), change.label(base, head)
    if not base:
        # What is too little to have a colour is not worth an outline.
        kind, label = f"{kind}{'' if kind == _SAME else ' new'}", f"new, {label}"
    name = _called(node)
    lines = [name, label, _file(node.frame), *change.lines(base, head)]
    return f"{kind}{' u' if node.frame.user else ''}", lines


def _vanished(box: Box, gone: dict[int, float], change: Change) -> tuple[str, list[str]]:
    node = box.node
    seconds = gone[id(node)]
    if box.left_out:
        return _rest(box, change.base_total)
    if node.frame is None:
        return "l0 root", ["gone", f"{_seconds(seconds)} in base only"]
    name = _called(node)
    if node.times[1]:
        # It is still there: it stands here for what it no longer calls.
        lines = [name, _file(node.frame), f"no longer calls what took {_seconds(seconds)}"]
        return "l1", lines
    kind = change.kind(node.times[0], 0.0)
    label = f"gone, {change.label(node.times[0], 0.0)}"
    lines = [name, label, _file(node.frame), *change.lines(node.times[0], 0.0)]
    outline = "" if kind == _SAME else " gone"
    return f"{kind}{outline}{' u' if node.frame.user else ''}", lines


def _rest(box: Box, total: float) -> tuple[str, list[str]]:
    count = box.left_out
    name = "deeper" if count < 0 else f"{count:,} narrow"
    what = f"more than {MAX_ROWS} rows down" if count < 0 else "too narrow to draw"
    times = f"{_seconds(box.width)}, {share(box.width, total)}"
    return "o", [name, f"{what}: {times}"]


def _called(node: Node) -> str:
    assert node.frame is not None
    name = _name(node.frame.name) or "?"
    return f"{name} {_TIMES}{node.repeats:,}" if node.repeats > 1 else name


def _name(text: str) -> str:
    return cut(visible(text), NAME_COLUMNS)


def _file(frame: Frame) -> str:
    return cut_start(visible(frame.place), NAME_COLUMNS)


def _title(head: Profile, base: Profile | None = None) -> str:
    if base is None or base.name == head.name:
        return head.name or head.kind or "profile"
    return f"{base.name} → {head.name}"


def _seconds(seconds: float) -> str:
    return show(seconds, Unit.SECONDS)


def _signed(seconds: float) -> str:
    return f"{'-' if seconds < 0 else '+'}{_seconds(abs(seconds))}"
