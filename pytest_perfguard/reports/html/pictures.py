"""The flame graphs of a report: those of a file of their own, drawn smaller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_perfguard.reports.flamegraph import flamegraph
from pytest_perfguard.stacks import Profile
from pytest_perfguard.units import Unit, show
from pytest_perfguard.visible import visible

_SMALLEST_SHARE = 0.005
_MAX_FRAMES = 800


def picture(data: Mapping[str, Any]) -> dict[str, str] | None:
    """Return a profile that a run holds as a picture with its name; None if it is none."""
    try:
        profile = Profile.from_dict(data)
    except (KeyError, TypeError, ValueError, IndexError):
        return None
    return {
        "name": visible(f"{profile.kind} {profile.name}".strip()),
        "seconds": show(profile.total, Unit.SECONDS),
        "svg": flamegraph(
            profile, min_share=_SMALLEST_SHARE, max_frames=_MAX_FRAMES, embedded=True
        ),
    }
