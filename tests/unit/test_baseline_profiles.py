"""Profiles that are kept beside baselines, and what is told of a later one by them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_perfguard.approval import Gone, prune
from pytest_perfguard.baseline_files import file_of
from pytest_perfguard.baseline_profiles import compare, forget, keep, kept_profiles
from pytest_perfguard.errors import ProfileFileError
from tests.unit.profiles import library, profile, user

_VIEW, _DUMPS = user("view", 3), library("dumps", file="json/__init__.py")
_BASE = replace(profile(((_VIEW, _DUMPS), 1.0), name="GET /a?token=s3cret"), calls=10)
_HEAD = replace(profile(((_VIEW, _DUMPS), 3.0), name="GET /a?token=s3cret"), calls=15)


def test_they_are_beside_the_baselines_of_the_module(tmp_path: Path) -> None:
    module = tmp_path / "test_api.py"
    folders = {kept_profiles(module, f"tests/test_api.py::{test}") for test in ("test_a", "test_A")}
    assert len(folders) == 2
    assert {folder.parent for folder in folders} == {tmp_path / "__perfguard__" / "profiles"}


def test_what_moved_is_told_by_the_call_and_drawn(tmp_path: Path) -> None:
    keep(tmp_path / "kept", [_BASE])
    picture = tmp_path / "a.diff.svg"
    assert compare(tmp_path / "kept", _HEAD, picture, "a.diff.svg") == [
        "    since the baseline profile, per call: 100 ms became 200 ms: +100 ms, +100 %.",
        "        +100 ms in `json.dumps` under `view`",
        "    what moved: a.diff.svg",
    ]
    text = picture.read_text("utf-8")
    assert "the mean of 15 calls" in text
    (file,) = (tmp_path / "kept").iterdir()
    assert "s3cret" not in file.read_text("utf-8")
    assert json.loads(file.read_text("utf-8"))["calls"] == 10


def test_a_test_with_rounds_keeps_those_and_not_all_of_its_time(tmp_path: Path) -> None:
    whole = replace(profile(((_VIEW,), 3.0), name="test_a"), kind="test")
    keep(tmp_path / "kept", [whole, _BASE])
    assert [path.name[:7] for path in (tmp_path / "kept").iterdir()] == ["request"]
    keep(tmp_path / "kept", [whole])
    assert [path.name[:4] for path in (tmp_path / "kept").iterdir()] == ["test"]


def test_nothing_is_told_where_none_was_kept(tmp_path: Path) -> None:
    assert compare(tmp_path / "kept", _HEAD, None, "") == []


def test_one_that_cannot_be_read_costs_only_the_comparison(tmp_path: Path) -> None:
    keep(tmp_path / "kept", [_BASE])
    (file,) = (tmp_path / "kept").iterdir()
    file.write_text("<<<<<<< HEAD")
    (line,) = compare(tmp_path / "kept", _HEAD, None, "")
    assert line.startswith(f"    not compared with the baseline profile: {file} is not JSON")


def test_one_that_cannot_be_kept_is_told(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file")
    with pytest.raises(ProfileFileError):
        keep(tmp_path / "kept", [_BASE])


def test_those_of_a_test_that_is_gone_go_with_its_baseline(tmp_path: Path) -> None:
    module = tmp_path / "test_api.py"
    baselines = file_of(module)
    baselines.parent.mkdir()
    baselines.write_text(
        '{"schema": 1, "tests": {"test_a": {"none": {"metrics": {}, "operations": {}}}}}'
    )
    keep(kept_profiles(module, "test_api.py::test_a"), [_BASE])
    keep(kept_profiles(module, "test_api.py::test_b"), [_BASE])

    prune(tmp_path, [Gone(baselines, "test_a", "is gone")])

    assert not kept_profiles(module, "test_api.py::test_a").exists()
    assert kept_profiles(module, "test_api.py::test_b").exists()
    forget(baselines, "test_b")
    assert not list(tmp_path.rglob("*profiles*"))
