"""What a cache key looks like without what it holds: ``Resource:{int}`` for ``Resource:42``.

A key is read as parts between ``:``, ``/``, ``|``, ``.`` and ``#``. Of its words, only the first is
kept, and only where something follows it: that is the name under which a program files its keys.
Every other part is replaced by what kind of thing it is:

========== =====================================================================
``{int}``  digits
``{uuid}`` a UUID, with or without hyphens
``{hex}``  16 or more hexadecimal digits
``{word}`` letters, hyphens and underscores
``{id}``   letters and digits mixed
``{…}``    from here on anything else: brackets, quotes, blanks, other scripts
========== =====================================================================

Versions (``v2``) are kept, digits after a kept word are told apart from it (``user_{int}``), and
so are words that the user names as harmless.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import zip_longest

_SEPARATOR = re.compile(r"([:/|.#]+)")
_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}|[0-9a-fA-F]{32}")
_HEX = re.compile(r"(?=.*\d)[0-9a-fA-F]{16,}")
# What fits the whole of a part first is its kind.
_KIND = re.compile(
    rf"""
    (?P<version> v\d{{1,3}} )
    | (?P<int> \d+ )
    | (?P<uuid> {_UUID.pattern} )
    | (?P<hex> {_HEX.pattern} )
    | (?P<word> [A-Za-z][A-Za-z_-]* )
    | (?P<numbered> (?P<name> [A-Za-z][A-Za-z_-]*?[_-] ) \d+ )
    | (?P<id> [\w~+=-]+ )
    """,
    re.ASCII | re.VERBOSE,
)
# Whose key begins with an e-mail address is somebody's, not a program's.
_SOMEBODY = re.compile(r"[^:/|#]*@")
_LONGEST_NAME = 40
_MAX_PARTS = 12
_REST = "{…}"

# How Python shows an object that does not say how to be shown, and a function: the end of it, and
# what may stand before.
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_OBJECT = re.compile(
    r"<(?:(?:bound method|function|coroutine object|generator object) )?([\w.]+)[^<>]*"
)
_LONGEST_OBJECT = 300
_LONGEST_KEY = 4_096
_LONGEST_SEPARATOR = 3
_OPENING, _CLOSING, _QUOTES = "([{<", ")]}>", "'\""
# A time of day with its colons; bare numbers between colons may be anything.
_CLOCK = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d[\d:.]*(?:Z|[+-]\d\d:?\d\d)?|\d\d:\d\d:\d\d\.\d+"
_TIME = re.compile(rf"\d{{10,19}}(?:\.\d+)?|\d{{4}}-\d\d-\d\d[T ].*|{_CLOCK}")
_IN_CLOCK = re.compile(_CLOCK)


def key_pattern(key: object, words: Collection[str] = ()) -> str:
    """Return the pattern of a key.

    Args:
        key: what was sent to the cache: text, bytes or a number.
        words: words that may be shown wherever they stand.
    """
    text = as_text(key)[:_LONGEST_KEY]
    pieces = _SEPARATOR.split(text)
    parts = pieces[::2]
    shown: list[str] = []
    named = _SOMEBODY.match(text) is not None
    for index, part in enumerate(parts):
        if index == _MAX_PARTS:
            shown.append(_REST)
            break
        kind = _kind(part, words, is_name=not named and any(parts[index + 1 :]))
        named |= bool(part) and not kind.startswith("{")
        shown.append(kind)
        if kind == _REST:
            break
        if index < len(parts) - 1:
            shown.append(pieces[2 * index + 1][:_LONGEST_SEPARATOR])
    return "".join(shown)


def _kind(part: str, words: Collection[str], *, is_name: bool) -> str:
    if not part or part in words:
        return part
    match = _KIND.fullmatch(part)
    if match is None:
        return _REST
    kind = match.lastgroup
    shows_name = is_name and len(part) <= _LONGEST_NAME
    if kind == "version" or (kind == "word" and shows_name):
        return part
    if kind == "numbered":
        return f"{match['name']}{{int}}" if shows_name else "{id}"
    return f"{{{kind}}}"


def as_text(key: object) -> str:
    """Return a key as text: the same for text and its bytes.

    What no client would send is not asked for its text, which may do or fail in anything.
    """
    if type(key) is str:
        return key
    match key:
        case str():
            return str(key)
        case bytes() | bytearray() | memoryview():
            return bytes(key).decode("utf-8", "surrogateescape")
        case int() | float():
            return repr(key)
        case _:
            return f"<{type(key).__name__}>"


def held_object(key: object) -> str | None:
    """Return the class of an object whose address stands in a key, if there is one.

    Such a key is another one for each object, and now and then that of an object long gone.
    """
    return next((name for name, _ in _objects(as_text(key))), None)


def _objects(text: str) -> Iterator[tuple[str, str]]:
    """Yield the class of each object that stands in a text, and what shows it."""
    for match in _ADDRESS.finditer(text[:_LONGEST_KEY]):
        end = match.start()
        start = text.rfind("<", max(end - _LONGEST_OBJECT, 0), end)
        shown = _OBJECT.fullmatch(text, start, end) if start >= 0 else None
        if shown:
            yield shown[1], text[start : match.end()]


def difference(first: object, second: object) -> str:
    """Return in what two keys of identical calls differ, without what they hold.

    Like ``1 of 3 parts differs: part 2 holds the address of an object (Session)``. Parts are what
    stands between colons outside brackets and quotes.
    """
    pairs = list(zip_longest(_parts(as_text(first)), _parts(as_text(second))))
    differing = [(n, a, b) for n, (a, b) in enumerate(pairs, start=1) if a != b]
    verb = "differs" if len(differing) == 1 else "differ"
    details = "; ".join(f"part {n} {_describe(a, b)}" for n, a, b in differing[:3])
    return f"{len(differing)} of {len(pairs)} parts {verb}: {details}"


def _parts(key: str) -> Sequence[str]:
    parts, start, depth, quote = [], 0, 0, ""
    clocks = {n for found in _IN_CLOCK.finditer(key) for n in range(*found.span())}
    for index, character in enumerate(key):
        if quote:
            quote = "" if character == quote else quote
        elif character in _QUOTES:
            quote = character
        elif character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth = max(depth - 1, 0)
        elif character == ":" and not depth and index not in clocks:
            parts.append(key[start:index])
            start = index + 1
    return [*parts, key[start:]]


def _describe(first: str | None, second: str | None) -> str:  # noqa: PLR0911 - a table
    if not first or not second:
        return "is missing from one of them"
    for ours, theirs in zip(_objects(first), _objects(second), strict=False):
        if ours != theirs:
            return f"holds the address of an object ({ours[0]}), another one in each call"
    if sorted(first) == sorted(second):
        return "holds the same in another order"
    if _TIME.fullmatch(first) and _TIME.fullmatch(second):
        return "looks like a time"
    if "-" in first and _UUID.fullmatch(first) and _UUID.fullmatch(second):
        return "is a UUID, made anew for each call"
    if _HEX.fullmatch(first) and _HEX.fullmatch(second):
        return "is a hash: what it is taken of is not the same in both calls"
    kinds = {_kind(part, (), is_name=False) for part in (first, second)}
    return f"is {' and '.join(sorted(kinds))}, with another value in each call"
