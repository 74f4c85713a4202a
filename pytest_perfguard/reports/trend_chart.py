"""The course of a number over many runs, drawn with the letters of a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_perfguard.units import Unit, show

_BLOCKS = " ▁▂▃▄▅▆▇█"
_HASHES = " #"
_HEIGHT = 6
# Share of the largest value that the axis spans at least, so that noise does not look like news.
_LEAST = 0.2


def chart(
    values: Sequence[float], unit: Unit, *, width: int, mark: int | None = None, plain: bool = False
) -> list[str]:
    """Return the lines of a chart with a column for each value, the newest on the right.

    Args:
        values: the oldest first; of more than there are columns for, the newest are drawn.
        width: of the terminal.
        mark: index of a value to point at.
        plain: draw with ASCII alone.
    """
    low, high = _axis(values)
    if unit is Unit.COUNT:
        low = 0
    labels = [show(low + (high - low) * row / _HEIGHT, unit) for row in (_HEIGHT, 0)]
    margin = max(map(len, labels))
    room = max(width - margin - 4, 10)
    shown = values[-room:]
    blocks, bar = (_HASHES, "|") if plain else (_BLOCKS, "│")
    steps = len(blocks) - 1
    filled = [round((value - low) / (high - low) * _HEIGHT * steps) for value in shown]
    lines = []
    for row in reversed(range(_HEIGHT)):
        label = labels[0] if row == _HEIGHT - 1 else labels[1] if not row else ""
        # The smallest value is seen, too.
        heights = [max(count, 1) if not row else count for count in filled]
        cells = "".join(blocks[min(max(count - row * steps, 0), steps)] for count in heights)
        lines.append(f"{label:>{margin}} {bar} {cells}")
    if mark is not None and mark >= len(values) - len(shown):
        column = mark - (len(values) - len(shown))
        lines.append(f"{'':{margin}}   {'':{column}}^")
    return lines


def _axis(values: Sequence[float]) -> tuple[float, float]:
    """Return where the axis begins and ends: not at nought where all values are far from it."""
    least, most = min(values), max(values)
    if not most:
        return 0.0, 1.0
    span = max(most - least, _LEAST * most)
    return max(0.0, least - span / 2), most
