from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_perfguard.moved import what_moved
from pytest_perfguard.naming import safe_name
from pytest_perfguard.profile_files import write_profile
from pytest_perfguard.stacks import Frame, Profile
from tests.unit.ab_builds import duet

TEST = "tests/test_a.py::test_it"
UNSHOWN = ("profiled, but the profiles do not show where",)
# Three times as long.
SLOWER = duet(2.0, "GET /items #2", TEST)


def write(folder: Path, name: str, kind: str, seconds: float, file: str = "app.py") -> None:
    frames = [Frame("test_it", "tests/test_a.py", 1, user=True)]
    frames.append(Frame("work", file, 7, user=file == "app.py"))
    profile = Profile.build(name, kind, [(frames, seconds)])
    write_profile(profile, folder / safe_name(TEST) / f"{kind}.profile.json")


def test_the_profile_of_the_call_is_compared(tmp_path: Path) -> None:
    base, head = tmp_path / "base", tmp_path / "head"
    for side, seconds in ((base, 0.01), (head, 0.03)):
        write(side, "test_it", "test", 1.0)
        write(side, "GET /items", "request", seconds)
    moved = what_moved(base, head, SLOWER)
    assert moved.lines == (
        "profiled: 10 ms became 30 ms: +20 ms, +200 %.",
        "+20 ms in `work`",
    )
    assert moved.picture.lstrip().startswith("<")


@pytest.mark.parametrize("seconds", [0.009, 0.0101, 0.019, 0.06])
def test_profiles_that_show_something_else_are_no_cause(tmp_path: Path, seconds: float) -> None:
    base, head = tmp_path / "base", tmp_path / "head"
    for side, taken in ((base, 0.01), (head, seconds)):
        write(side, "GET /items", "request", taken)
    moved = what_moved(base, head, SLOWER)
    assert (moved.lines, moved.picture) == (UNSHOWN, "")


@pytest.mark.parametrize("file", ["pyinstrument/stack_sampler.py", "pytest_perfguard/spans.py"])
def test_what_the_profiler_takes_is_no_cause(tmp_path: Path, file: str) -> None:
    base, head = tmp_path / "base", tmp_path / "head"
    for side, taken in ((base, 0.01), (head, 0.03)):
        write(side, "GET /items", "request", taken, file)
    assert what_moved(base, head, SLOWER).lines == UNSHOWN


def test_where_one_side_has_none_of_the_call_both_show_their_test(tmp_path: Path) -> None:
    base, head = tmp_path / "base", tmp_path / "head"
    for side, seconds in ((base, 0.1), (head, 0.2)):
        write(side, "test_it", "test", seconds)
    write(head, "GET /items", "request", 0.05)
    assert what_moved(base, head, SLOWER).lines[0].startswith("profiled: 100 ms became")


def test_a_missing_or_broken_profile_is_said(tmp_path: Path) -> None:
    base, head = tmp_path / "base", tmp_path / "head"
    other = replace(SLOWER, call="x")
    assert what_moved(base, head, other).lines == (
        "no profile: none was made when the test was run once more",
    )
    write(base, "test_it", "test", 1.0)
    broken = base / safe_name(TEST) / "broken.profile.json"
    broken.write_text("{")
    assert "is not JSON" in what_moved(base, head, other).lines[0]
