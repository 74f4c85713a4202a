"""What a run keeps of its profiles: enough to draw them, and not more than a file can bear."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_perfguard.stacks import SMALLEST_SHARE, Profile

# Of one test, the one to look at first and the longest of the others.
MAX_PROFILES = 4
MAX_BYTES = 24_000
"""How large one profile is, as JSON."""
MAX_RUN_BYTES = 2_000_000
"""How large all profiles of a run are together, as JSON."""

Kept = tuple[Mapping[str, Any], ...]


def keepable(profiles: Sequence[Profile], main: Profile) -> list[dict[str, Any]]:
    """Return the profiles of a test as plain data, without anything that may quote a value.

    What is narrow is added to its caller until a profile is small enough; one that would not be,
    such as a stack of very many frames, is left out.

    Args:
        profiles: of all its spans.
        main: the one to look at first.
    """
    others = [profile for profile in profiles if profile is not main]
    found = (_within(profile.without_values()) for profile in [main, *others][:MAX_PROFILES])
    return [data for data in found if data is not None]


def _within(profile: Profile) -> dict[str, Any] | None:
    least = SMALLEST_SHARE
    while least < 1:
        data = profile.small(least).to_dict()
        if _size(data) <= MAX_BYTES:
            return data
        least *= 2
    return None


def bounded(profiles: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[dict[str, Kept], int]:
    """Return as many profiles as a run has room for, and how many tests had to be left out."""
    kept: dict[str, Kept] = {}
    room = MAX_RUN_BYTES
    for nodeid, each in sorted(profiles.items()):
        size = _size(each)
        if size <= room:
            kept[nodeid] = tuple(each)
            room -= size
    return kept, len(profiles) - len(kept)


def _size(data: object) -> int:
    return len(json.dumps(data, separators=(",", ":")))
