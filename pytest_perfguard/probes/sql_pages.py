"""Reads that bring far more rows than a page, or pass over them to get to one."""

from __future__ import annotations

import re
from typing import Any

from pytest_perfguard.fingerprint import Fingerprint, Kind

# Rows that one execution has to bring on the average for a missing LIMIT to be told, and that an
# OFFSET has to skip. Ten of the largest pages that the guide allows (100 rows).
MANY_ROWS = 1_000
# Stands for an OFFSET that is written into the statement, as no parameter has that name.
_LITERAL = ""
_LIMITED = re.compile(r"\b(?:LIMIT|TOP|FETCH\s+(?:FIRST|NEXT))\b", re.IGNORECASE)
_WRITTEN = re.compile(r"\bOFFSET\s+(\d+)|\bLIMIT\s+(\d+)\s*,", re.IGNORECASE)


def offset_of(statement: str, found: Fingerprint) -> int | str | None:
    """Return the parameter that says how many rows a statement skips, if that may be many."""
    if found.offset is not None:
        return found.offset
    match = _WRITTEN.search(statement) if found.literal else None
    deep = match is not None and int(match[1] or match[2]) >= MANY_ROWS
    return _LITERAL if deep else None


def is_deep(parameters: Any, offset: int | str) -> bool:
    """Return whether an execution skips many rows."""
    if offset == _LITERAL:
        return True
    try:
        value = parameters[offset]
    except (LookupError, TypeError):
        return False
    return type(value) is int and value >= MANY_ROWS


def is_unbounded(context: Any, found: Fingerprint) -> bool:
    """Return whether nothing but the table's size limits what a read brings at once.

    Keys that are listed and ranges with two ends limit it, and rows that are fetched in parts
    (``yield_per``, ``stream_results``) are not there at once.
    """
    options = context.execution_options
    return (
        found.kind is Kind.READ
        and not found.batched
        and not _LIMITED.search(found.text)
        and not (options.get("yield_per") or options.get("stream_results"))
    )
