"""A profile as a file for speedscope, the viewer."""

from __future__ import annotations

import json
from typing import Any

from pytest_perfguard.stacks import Frame, Profile
from pytest_perfguard.visible import visible

# The format wants to be named by this address. Nothing is fetched from it.
_SCHEMA = "https://www.speedscope.app/file-format-schema.json"


def speedscope(profile: Profile) -> str:
    """Return a file with one sampled profile, weighted in seconds."""
    frames = sorted({frame for stack in profile.stacks for frame in stack.frames})
    numbers = {frame: number for number, frame in enumerate(frames)}
    name = visible(profile.name)
    data = {
        "$schema": _SCHEMA,
        "name": name,
        "exporter": "pytest-perfguard",
        "activeProfileIndex": 0,
        "shared": {"frames": [_frame(frame) for frame in frames]},
        "profiles": [
            {
                "type": "sampled",
                "name": name,
                "unit": "seconds",
                "startValue": 0,
                "endValue": profile.total,
                "samples": [[numbers[frame] for frame in s.frames] for s in profile.stacks],
                "weights": [stack.seconds for stack in profile.stacks],
            }
        ],
    }
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False) + "\n"


def _frame(frame: Frame) -> dict[str, Any]:
    found: dict[str, Any] = {"name": visible(frame.name)}
    if frame.file:
        found["file"] = visible(frame.file)
    if frame.line:
        found["line"] = frame.line
    return found
