"""In what two results differ, told by place and type and never by value."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pytest_perfguard.errors import CacheError

_MAX_DEPTH = 20


def differences(first: object, second: object) -> list[str]:
    """Return where the result of a warm call differs from that of a cold one.

    Responses of HTTP clients are compared by status and body, JSON bodies value by value.

    Raises:
        CacheError: if they are of a type that cannot tell equal objects from others.
    """
    # pytest would show what the frames of an error were called with: the values.
    __tracebackhide__ = True
    return list(_compare(_content(first), _content(second), "result", 0))


def _content(result: Any) -> object:
    """Return status and body of a response, and anything else as it is."""
    status = getattr(result, "status_code", None)
    if not isinstance(status, int):
        return result
    body = getattr(result, "content", None)
    if not isinstance(body, bytes):
        body = getattr(result, "data", None)  # Werkzeug's
    if not isinstance(body, bytes):
        return result
    try:
        return {"status": status, "body": json.loads(body)}
    except ValueError:
        return {"status": status, "body": body}


def _compare(first: Any, second: Any, place: str, depth: int) -> Iterator[str]:
    __tracebackhide__ = True
    nested = depth < _MAX_DEPTH and type(first) is type(second)
    is_mapping = nested and isinstance(first, Mapping)
    is_sequence = nested and isinstance(first, Sequence) and not isinstance(first, str | bytes)
    # What holds others is compared part by part, so that the place is known.
    if first is second or (not (is_mapping or is_sequence) and _equal(first, second, place)):
        return
    if type(first) is not type(second):
        yield f"{place}: {_type(first)} when cold, {_type(second)} when warm"
    elif is_mapping:
        yield from _compare_mappings(first, second, place, depth)
    elif is_sequence:
        if len(first) != len(second):
            yield f"{place}: {len(first):,} items when cold, {len(second):,} when warm"
        for index, (ours, theirs) in enumerate(zip(first, second, strict=False)):
            yield from _compare(ours, theirs, f"{place}[{index}]", depth + 1)
    elif depth < _MAX_DEPTH and getattr(first, "__dict__", None) and second.__dict__:
        found = list(_compare_mappings(vars(first), vars(second), place, depth))
        yield from found or [f"{place}: another {_type(first)}"]
    else:
        yield f"{place}: another {_type(first)}"


def _compare_mappings(
    first: Mapping[Any, Any], second: Mapping[Any, Any], place: str, depth: int
) -> Iterator[str]:
    __tracebackhide__ = True
    for count, side in (
        (len(first.keys() - second.keys()), "cold"),
        (len(second.keys() - first.keys()), "warm"),
    ):
        if count:
            yield f"{place}: {count} of its keys only when {side}"
    for key in first:
        if key in second:
            # A name is part of the code, other keys may be data.
            shown = repr(key) if isinstance(key, str) and key.isidentifier() else "…"
            yield from _compare(first[key], second[key], f"{place}[{shown}]", depth + 1)


def _equal(first: Any, second: Any, place: str) -> bool:
    __tracebackhide__ = True
    by_identity: object = object.__eq__
    if type(first).__eq__ is by_identity and type(first) is type(second):
        raise CacheError(
            f"{place} cannot be compared: objects of the class {_type(first)} are equal only to "
            "themselves. Return plain data from the call, or pass same=lambda cold, warm: ..."
        )
    try:
        # A number that is none (NaN) is not even equal to itself.
        return bool(first == second or (first != first and second != second))  # noqa: PLR0124
    except Exception as error:  # noqa: BLE001 - it is told by its class alone
        raise CacheError(
            f"{place} cannot be compared: {type(error).__name__} when two {_type(first)} are. "
            "Return plain data from the call, or pass same=lambda cold, warm: ..."
        ) from None


def _type(value: object) -> str:
    return type(value).__qualname__
