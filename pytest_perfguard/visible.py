"""Text of unknown origin, made safe to show.

Names of files and functions can hold anything that a file's name can: an escape sequence would
act on a terminal, a control character is not XML, and marks of direction let a name look like
another one.
"""

from __future__ import annotations

import unicodedata

# Control and format characters, halves of surrogate pairs, separators of lines and paragraphs.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_NEVER_XML = "\ufffe\uffff"


def visible(text: str) -> str:
    """Return the text with every character that is not seen written out as Python writes it."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in _HIDDEN or character in _NEVER_XML
        else character
        for character in text
    )
