"""Text of unknown origin in Markdown as GitHub reads it: seen as it is, and never markup.

Names, statements and reasons may hold anything that a test was given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pytest_perfguard.visible import visible

_MAX_TEXT = 300
_MAX_LINE = 500
# What could be markup; the ends of links only where they could be some.
_SPECIAL = re.compile(r"""[!"#$&*+<=>?@\[\\\]^_`{|}~]|:(?=//)|(?<=www)\.""", re.IGNORECASE)
_SIGN = re.compile(r"[!-/:-@\[-`{-~]")
_LINK = re.compile(r"@|:(?=//)|(?<=www)\.", re.IGNORECASE)
# Mentions, references and addresses are looked for in what Markdown has become: it ends them.
_WORD_JOINER = "&#8288;"


def clipped(text: str, length: int) -> str:
    """Return the text in one line of at most ``length`` characters, all of which are seen."""
    shown = visible(text[: length + 1])
    return shown if len(shown) <= length else f"{shown[: length - 1]}…"


def prose(text: str, length: int = _MAX_TEXT) -> str:
    """Return the text as plain words: no markup, no link, and nobody is mentioned."""
    shown = _SPECIAL.sub(_escaped, clipped(text, length))
    # What would begin a list.
    return re.sub(r"^(\s*\d*)([-.)])", r"\1\\\2", shown)


def _escaped(match: re.Match[str]) -> str:
    return f"\\{match[0]}{_WORD_JOINER if match[0] in '@#:.' else ''}"


def code(text: str, length: int = _MAX_TEXT) -> str:
    """Return the text as code within a line, which may be a row of a table."""
    shown = clipped(text, length)
    if not shown:
        return ""
    if shown.isprintable() and not set(shown) & set("`|\\") and shown == shown.strip():
        return f"`{shown}`"
    return html_code(text, length)


def html_code(text: str, length: int = _MAX_TEXT) -> str:
    """Return the text as code where Markdown is not read, as in the summary of what is folded."""
    shown = clipped(text, length)
    links = {match.start() for match in _LINK.finditer(shown)}

    def sign(match: re.Match[str]) -> str:
        return f"&#{ord(match[0])};{_WORD_JOINER if match.start() in links else ''}"

    return f"<code>{_SIGN.sub(sign, shown)}</code>"


def fenced(lines: Iterable[str], language: str = "text") -> list[str]:
    """Return the lines as a block of code that none of them can end."""
    shown = [clipped(line, _MAX_LINE) for text in lines for line in text.splitlines() or [""]]
    longest = max((len(run) for line in shown for run in re.findall("`+", line)), default=0)
    fence = "`" * max(longest + 1, 3)
    return [f"{fence}{language}", *shown, fence]


def folded(summary: str, body: Sequence[str], *, is_open: bool = False) -> list[str]:
    """Return lines that are shown on a click; the summary, which is HTML, must be safe."""
    opened = " open" if is_open else ""
    return [f"<details{opened}><summary>{summary}</summary>", "", *body, "", "</details>"]
