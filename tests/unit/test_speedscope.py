"""Files for speedscope, held against its format's documentation, which is spelt out here."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings

from pytest_perfguard.reports.speedscope import speedscope
from pytest_perfguard.stacks import Profile
from tests.unit.profiles import library, profile, profiles, user

# By key: whether it has to be there, and what it has to be.
Schema = dict[str, tuple[bool, Callable[[Any], bool]]]
PROFILE: Schema = {
    "type": (True, lambda v: v == "sampled"),
    "name": (True, lambda v: isinstance(v, str)),
    "unit": (True, lambda v: v == "seconds"),
    "startValue": (True, lambda v: isinstance(v, int | float)),
    "endValue": (True, lambda v: isinstance(v, int | float)),
    "samples": (True, lambda v: all(isinstance(n, int) for stack in v for n in stack)),
    "weights": (True, lambda v: all(isinstance(weight, int | float) for weight in v)),
}
FRAME: Schema = {
    "name": (True, lambda v: isinstance(v, str)),
    "file": (False, lambda v: isinstance(v, str)),
    "line": (False, lambda v: isinstance(v, int) and v > 0),
    "col": (False, lambda v: isinstance(v, int)),
}
FILE: Schema = {
    "$schema": (True, lambda v: v == "https://www.speedscope.app/file-format-schema.json"),
    "shared": (True, lambda v: check(v, {"frames": (True, every_frame)})),
    "profiles": (True, lambda v: isinstance(v, list) and all(check(p, PROFILE) for p in v)),
    "name": (False, lambda v: isinstance(v, str)),
    "activeProfileIndex": (False, lambda v: isinstance(v, int)),
    "exporter": (False, lambda v: isinstance(v, str)),
}


def every_frame(value: Any) -> bool:
    return isinstance(value, list) and all(check(frame, FRAME) for frame in value)


def check(value: Any, schema: Schema) -> bool:
    assert isinstance(value, dict)
    assert value.keys() <= schema.keys()
    for key, (needed, test) in schema.items():
        assert key in value or not needed, key
        assert key not in value or test(value[key]), key
    return True


@settings(deadline=None)
@given(profiles())
def test_any_profile_is_a_valid_file(found: Profile) -> None:
    text = speedscope(found)
    data = json.loads(text.encode("utf-8"))
    assert check(data, FILE)
    (written,) = data["profiles"]
    assert len(written["samples"]) == len(written["weights"])
    numbers = {number for stack in written["samples"] for number in stack}
    assert numbers <= set(range(len(data["shared"]["frames"])))
    assert written["endValue"] >= written["startValue"]
    assert written["endValue"] >= sum(written["weights"]) - 1e-6
    assert text == speedscope(found)


def test_stacks_are_outermost_first_and_weighted_in_seconds() -> None:
    data = json.loads(speedscope(profile(((user("view", 3), library("dumps")), 0.25))))
    frames = data["shared"]["frames"]
    (stack,) = data["profiles"][0]["samples"]
    assert [frames[number] for number in stack] == [
        {"name": "view", "file": "app/crud.py", "line": 3},
        {"name": "json.dumps", "file": "json/encoder.py", "line": 1},
    ]
    assert data["profiles"][0]["weights"] == [0.25]


def test_the_check_can_fail() -> None:
    data = json.loads(speedscope(profile(((user("view"),), 1.0))))
    data["profiles"][0]["unit"] = "parsecs"
    with pytest.raises(AssertionError, match="unit"):
        check(data["profiles"][0], PROFILE)
