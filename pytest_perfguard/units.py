"""Units of metrics: how a limit is written and how a value is shown.

Values are kept in one base unit for each kind: seconds, bytes, a share of one, or a plain count.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from enum import StrEnum

from pytest_perfguard.errors import LimitError


class Unit(StrEnum):
    """The base unit that a metric's value is kept in."""

    COUNT = "count"
    SECONDS = "seconds"
    SHARE = "share"
    BYTES = "bytes"
    NUMBER = "number"


_SCALES: dict[Unit, dict[str, float]] = {
    Unit.COUNT: {"": 1},
    Unit.NUMBER: {"": 1},
    Unit.SECONDS: {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "min": 60},
    Unit.SHARE: {"": 1, "%": 0.01},
    Unit.BYTES: {
        "": 1,
        "B": 1,
        "kB": 1e3,
        "MB": 1e6,
        "GB": 1e9,
        "KiB": 2**10,
        "MiB": 2**20,
        "GiB": 2**30,
    },
}
_LARGEST = 1e15
EXAMPLES = {
    Unit.COUNT: "a whole number such as 3",
    Unit.NUMBER: "a number such as 3 or 0.5",
    Unit.SECONDS: "a number with a unit such as '100ms' or '1.5s'",
    Unit.SHARE: "a share such as '80%' or 0.8",
    Unit.BYTES: "a size such as '20KiB' or 20480",
}
_QUANTITY = re.compile(r"\s*([+-]?(?:\d+(?:_\d+)*)?\.?\d+(?:[eE][+-]?\d+)?)\s*([a-zA-Zµ%]*)\s*")


def parse(value: object, unit: Unit) -> float:
    """Return ``value`` in the base unit, e.g. ``"100ms"`` as ``0.1``.

    A bare number is accepted where it cannot be misread: for counts, bytes and shares (0 to 1).
    Times need a unit, because ``sql_slowest=100`` could mean seconds or milliseconds.

    Raises:
        LimitError: if it is not a number, has another kind of unit, is negative or not finite.
    """
    example = f"write {EXAMPLES[unit]}"
    number, suffix = _split(value, example)
    scales = _SCALES[unit]
    if suffix not in scales:
        if not suffix:
            raise LimitError(f"{shown(value)} has no unit: {example}")
        raise LimitError(f"{suffix!r} in {shown(value)} is not a unit of {unit}: {example}")
    if number < 0:
        raise LimitError(f"{shown(value)} is negative: {example}")
    if unit is Unit.COUNT and number != int(number):
        raise LimitError(f"{shown(value)} is not a whole number: {example}")
    if unit is Unit.SHARE and not suffix and number > 1:
        raise LimitError(f"{shown(value)} is more than 1: {example}")
    return int(number) if unit is Unit.COUNT else number * scales[suffix]


def shown(value: object, length: int = 80) -> str:
    """Return what a value looks like, whatever its class does when it is asked."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a __repr__ of the user's
        return f"<{type(value).__name__}>"
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _split(value: object, example: str) -> tuple[float, str]:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise LimitError(f"{shown(value)} is not a limit: {example}")
    number, suffix = value, ""
    if isinstance(number, str):
        match = _QUANTITY.fullmatch(number)
        if not match:
            raise LimitError(f"{shown(value)} cannot be read: {example}")
        number, suffix = float(match[1]), match[2]
    if isinstance(number, float) and not math.isfinite(number):
        raise LimitError(f"{shown(value)} is not a finite number: {example}")
    if number > _LARGEST:
        raise LimitError(f"{shown(value)} is larger than any limit: {example}")
    return number, suffix


def show(value: float | None, unit: Unit) -> str:
    """Return ``value`` as a person writes it: three significant digits and a fitting unit."""
    if value is None:
        return "-"
    match unit:
        case Unit.COUNT:
            return f"{value:,.0f}"
        case Unit.NUMBER:
            sign, size = "-" if value < 0 else "", abs(value)
            return sign + (f"{size:,.0f}" if size == int(size) else _digits(size))
        case Unit.SHARE:
            return f"{_digits(value * 100)} %"
        case Unit.BYTES:
            return _scaled(value, (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("B", 1)))
        case Unit.SECONDS:
            return _scaled(value, (("s", 1), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)))


def several(count: int, noun: str) -> str:
    """Return how many of something there are, e.g. ``1 test`` or ``2,000 tests``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _scaled(value: float, scales: tuple[tuple[str, float], ...]) -> str:
    fitting = [pair for pair in scales if value >= pair[1]]
    base = next(pair for pair in scales if pair[1] == 1)
    suffix, scale = fitting[0] if fitting else scales[-1] if value else base
    return f"{_digits(value / scale)} {suffix}"


def _digits(number: float) -> str:
    """Return three significant digits, without an exponent."""
    if number >= 999.5:  # noqa: PLR2004 - what would be rounded to 1e+03
        return f"{number:,.0f}"
    return f"{Decimal(f'{number:.3g}'):f}"
