"""The paper that flame graphs are drawn on: a head of text, and frames below it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from pytest_perfguard.reports.icicle import Box
from pytest_perfguard.reports.lettering import (
    ADVANCE,
    FONT_SIZE,
    columns,
    cut,
    fit,
    fit_name,
    wrap,
    xml,
)
from pytest_perfguard.reports.palette import rules, rules_by_scheme
from pytest_perfguard.units import Unit, several, show
from pytest_perfguard.visible import visible

MAX_ROWS = 250
"""How deep a picture is; a function that calls itself takes one row, however often it does."""
NAME_COLUMNS = 160
"""What is kept of a name."""

_WIDTH = 1200
_CHART_WIDTH = 0.98 * _WIDTH
_ROW = 18
_PAD = 4
# What fits at 400 pixels.
_HEAD_COLUMNS = 52
# With the margins of a page and a card around it.
_EMBEDDED_COLUMNS = 44
_TITLE_SIZE = 15
_TITLE_COLUMNS = 41
_LINE = 17
_NOTES = 4
_SHARE_DIGITS = 6
_START = 'flamegraph(document.currentScript.closest("svg"));\n'
_HINTS = ("Hover over a frame for its time and share.", "With scripts: click to zoom, / to search.")


def ratio(part: float, whole: float) -> float:
    """Return a part as a share, 0 of nothing."""
    return part / whole if whole else 0.0


def share(part: float, whole: float) -> str:
    """Return a part as a person writes it, e.g. ``61.2 %``."""
    return show(ratio(part, whole), Unit.SHARE)


@dataclass(slots=True)
class Sheet:
    """A picture in the making: the head grows downwards, the frames come below it.

    Attributes:
        embedded: it is a part of a page that has :func:`embedded_style` and
            :func:`embedded_script`, whose policy forbids others, and which tells the title.
    """

    title: str
    total: float
    embedded: bool = False
    head: list[str] = field(default_factory=list)
    frames: list[str] = field(default_factory=list)
    height: float = 0
    rows: int = 0

    def __post_init__(self) -> None:
        self.height = 6
        if self.embedded:
            return
        for line in wrap(visible(self.title), _TITLE_COLUMNS, 3):
            self.height += 20
            self.head.append(f'<text x="1%" y="{self.height}" class="title">{xml(line)}</text>')
        self.height += 3

    def line(self, text: str, indent: str = "", most: int = 3) -> None:
        """Add text to the head, in as many lines as it needs, up to ``most``."""
        room = (_EMBEDDED_COLUMNS if self.embedded else _HEAD_COLUMNS) - 2
        for number, part in enumerate(wrap(visible(text), room, most)):
            self.height += _LINE
            hang = "  " if number else indent
            self.head.append(f'<text x="1%" y="{self.height}">{hang}{xml(part)}</text>')

    def lines(self, heading: str, texts: Iterable[str]) -> None:
        """Add a list to the head, or nothing where it is empty."""
        kept = list(texts)
        if kept:
            self.line(heading)
        for text in kept:
            self.line(text, "  ")

    def notes(self, notes: Sequence[str]) -> None:
        """Add the notes of a profile to the head, the first few of many."""
        for note in notes[:_NOTES]:
            self.line(note)
        if len(notes) > _NOTES:
            self.line(f"and {len(notes) - _NOTES} more notes")

    def legend(self, *entries: tuple[str, str]) -> None:
        """Add a row of classes of frames, each with what it stands for."""
        self.height += _LINE + 3
        parts = []
        x = 1.0
        for kind, text in entries:
            parts.append(
                f'<rect x="{x:g}" y="{self.height - 11}" width="12" height="12" class="{kind}"/>'
                f'<text x="{x + 18:g}" y="{self.height}">{text}</text>'
            )
            x += 18 + round((columns(text) + 2) * ADVANCE)
        self.head.append(f'<svg x="1%" width="98%" class="legend">{"".join(parts)}</svg>')
        self.height += 2

    def left_out(self, boxes: Sequence[Box], least: float) -> None:
        """Tell how much was left out, if anything was."""
        narrow = [box for box in boxes if box.left_out > 0]
        deep = [box for box in boxes if box.left_out < 0]
        if narrow:
            count = sum(box.left_out for box in narrow)
            seconds = sum(box.width for box in narrow)
            self.line(
                f"Not drawn: {several(count, 'frame')} of less than "
                f"{share(least, self.total)} each, and what they called: "
                f"{share(seconds, self.total)} of the time.",
            )
        if deep:
            seconds = sum(box.width for box in deep)
            self.line(
                f"Not drawn: what is more than {MAX_ROWS} rows down: "
                f"{share(seconds, self.total)} of the time."
            )

    def frame(self, box: Box, kind: str, lines: Sequence[str], *, start: float = 0.0) -> None:
        """Add a frame: its classes, and the lines of its hover text.

        The first line stands on it, the second too where it is coloured and there is room.
        """
        x, width = start + box.x, box.width
        if not self.total:
            x, width = 0, 1
        whole = self.total or 1
        room = (width / whole * _CHART_WIDTH - 2 * _PAD) / ADVANCE
        both = f"{lines[0]}  {lines[1]}"
        if kind[0] in "ugs" and columns(both) <= room:
            shown = both
        else:
            shown = (fit if "root" in kind else fit_name)(lines[0], room)
        body = f'<text x="{_PAD}" y="13">{xml(shown)}</text>' if shown else ""
        title = "\n".join(map(xml, lines))
        # Both edges are rounded, and not the width, so that neighbours never overlap.
        left, right = round(x / whole, _SHARE_DIGITS), round((x + width) / whole, _SHARE_DIGITS)
        self.frames.append(
            f'<svg class="f {kind}" x="{_percent(left)}" y="{box.row * _ROW}"'
            f' width="{_percent(right - left)}" height="{_ROW - 1}">'
            f'<title>{title}</title><rect width="100%" height="{_ROW - 1}"/>{body}</svg>'
        )
        self.rows = max(self.rows, box.row + 1)

    def text(self) -> str:
        """Return the file, or the part of a page."""
        bar = self.height + 10
        details = bar + 30
        chart = details + 2 * _LINE + 8
        height = chart + self.rows * _ROW + 8
        return "\n".join(
            [
                (
                    '<svg xmlns="http://www.w3.org/2000/svg" class="pgf" width="100%"'
                    + ("" if self.embedded else f' style="aspect-ratio:{_WIDTH}/{height:g}"')
                    + f' viewBox="0 0 {_WIDTH} {height:g}" preserveAspectRatio="xMinYMin meet"'
                    f' role="group" data-height="{height:g}">'
                ),
                f"<title>{xml(cut(visible(self.title), NAME_COLUMNS))}</title>",
                *([] if self.embedded else [f"<style>{_style(rules())}</style>"]),
                '<rect class="page" width="100%" height="100%"/>',
                *self.head,
                f'<g class="bar" data-y="{bar:g}"/>',
                *(
                    f'<text class="details muted" x="1%" y="{details + 13 + number * _LINE:g}">'
                    f"{hint}</text>"
                    for number, hint in enumerate(_HINTS)
                ),
                f'<svg class="chart" x="1%" y="{chart:g}" width="98%" height="{self.rows * _ROW}">',
                *self.frames,
                "</svg>",
                *([] if self.embedded else [f"<script><![CDATA[\n{_script()}{_START}]]></script>"]),
                "</svg>",
                "",
            ]
        )


def _percent(part: float) -> str:
    return f"{part * 100:.{_SHARE_DIGITS - 2}f}".rstrip("0").rstrip(".") + "%"


def embedded_style() -> str:
    """Return the style of pictures in a page that has a colour scheme of its own."""
    return _style(rules_by_scheme())


def embedded_script() -> str:
    """Return the script that declares ``flamegraph``, to be called with each picture."""
    return _script()


@cache
def _style(colours: str) -> str:
    return f"""
.pgf text,.pgf input,.pgf button,.pgf .status{{font:{FONT_SIZE}px DejaVu Sans Mono,Menlo,Consolas,\
Liberation Mono,monospace}}
.pgf text{{white-space:pre}}
.pgf .title{{font-size:{_TITLE_SIZE}px;font-weight:bold}}
.pgf .u text{{font-weight:bold}}
.pgf rect{{stroke-width:.6px}}
.pgf .o rect,.pgf rect.o{{stroke-width:1px;stroke-dasharray:1 2}}
.pgf .new rect,.pgf rect.new,.pgf .gone rect,.pgf rect.gone{{stroke-width:2px;stroke-dasharray:4 3}}
.pgf .f:hover rect,.pgf .f:focus rect{{stroke-width:3px;stroke-dasharray:none}}
.pgf .f{{outline:none;overflow:hidden}}
.pgf .legend{{overflow:visible}}
.pgf.js .f{{cursor:pointer}}
.pgf .a rect{{fill-opacity:.5}}
.pgf .bar div{{display:flex;gap:8px;align-items:center}}
.pgf input,.pgf button{{box-sizing:border-box;height:24px;margin:0;padding:0 6px;border-radius:3px}}
.pgf input{{width:150px}}
.pgf button:disabled{{opacity:.5}}
.pgf foreignObject{{overflow:visible}}
@media (max-width:900px){{.pgf:not(.js){{min-width:900px}}}}
.pgf:not(.js){{height:auto}}
@media print{{.pgf .bar,.pgf .details{{display:none}}}}
{colours}
"""


@cache
def _script() -> str:
    return files("pytest_perfguard.reports").joinpath("flamegraph.js").read_text("utf-8")
