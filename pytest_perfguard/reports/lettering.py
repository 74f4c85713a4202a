"""How text gets into a picture: escaped, measured, shortened, wrapped.

An SVG file cannot ask how wide its text is, so text is set in a monospaced font and counted in
columns. Whatever may be drawn wider than a Latin letter counts as two.
"""

from __future__ import annotations

from xml.sax.saxutils import escape

from pytest_perfguard.visible import visible

FONT_SIZE = 12
# No common monospaced font is wider: they have 0.55 to 0.602 em.
ADVANCE = 0.604 * FONT_SIZE
_FIRST_WIDE = 0x1100
_PUNCTUATION = (0x2000, 0x2190)
_FEWEST = 3


def columns(text: str) -> int:
    """Return how many columns a text takes at most."""
    if text.isascii():
        return len(text)
    return sum(1 + _is_wide(ord(character)) for character in text)


def _is_wide(code: int) -> bool:
    # Dashes, dots and quotation marks are as narrow as letters.
    return code >= _FIRST_WIDE and not _PUNCTUATION[0] <= code < _PUNCTUATION[1]


def fit(text: str, room: float) -> str:
    """Return as much of the text as fits into so many columns, or nothing where that says nothing.

    What was left out at the end is told by an ellipsis.
    """
    if columns(text) <= room:
        return text
    return cut(text, room) if room >= _FEWEST else ""


def fit_name(name: str, room: float) -> str:
    """Return as much of a dotted name as fits: what is left out first is where it comes from."""
    while columns(name) > room and (tail := name.partition(".")[2]):
        name = tail
    return fit(name, room)


def cut(text: str, room: float) -> str:
    """Return the beginning of the text, shortened to so many columns where it is longer."""
    if columns(text) <= room:
        return text
    taken = 1
    for number, character in enumerate(text):
        taken += columns(character)
        if taken > room:
            return f"{text[:number].rstrip()}…"
    return text


def cut_start(text: str, room: int) -> str:
    """Return the end of the text, which tells most of a path."""
    return cut(text[::-1], room)[::-1]


def wrap(text: str, width: int, most: int) -> list[str]:
    """Return the text in lines of at most ``width`` columns, at most so many of them.

    Words are kept whole where a line is long enough for them.
    """
    lines: list[str] = []
    rest = text.strip()
    while rest and len(lines) < most:
        if len(lines) == most - 1:
            lines.append(cut(rest, width))
            break
        line = _first_line(rest, width)
        lines.append(line.rstrip())
        rest = rest[len(line) :].lstrip()
    return lines


def _first_line(text: str, width: int) -> str:
    taken = 0
    for number, character in enumerate(text):
        taken += columns(character)
        if taken > width:
            space = text.rfind(" ", 0, number + 1)
            # At least one character, or nothing would ever be taken.
            return text[: space if space > 0 else max(number, 1)]
    return text


def xml(text: str) -> str:
    """Return the text as the content of an XML element, whatever is in it."""
    return escape(visible(text))
