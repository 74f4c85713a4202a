"""How the sides of a comparison are prepared, in folders that are no repositories."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_perfguard import workspaces
from pytest_perfguard.errors import ComparisonError
from pytest_perfguard.observed import Observed
from pytest_perfguard.side_setup import set_up, with_settings
from pytest_perfguard.sides import Side, environment_of

NOTHING = Observed({}, {}, {}, (), frozenset(), frozenset(), Path(), None)


@pytest.fixture
def side(tmp_path: Path) -> Side:
    tmp_path.joinpath("base").mkdir()
    tmp_path.joinpath("head").mkdir()
    environment = {workspaces.MARKER: str(tmp_path)}
    return Side("base", tmp_path / "base", Path(sys.executable), environment)


# -- settings ----------------------------------------------------------------------------------


def given_settings(side: Side, name: str) -> str:
    head = side.folder.parent / "head"
    after = replace(NOTHING, root=head, ini=head / name)
    return with_settings(side, side.folder, after, head).environment["PYTEST_ADDOPTS"]


def test_settings_are_not_written_behind_a_link(side: Side, tmp_path: Path) -> None:
    own = tmp_path / "own.ini"
    own.write_text("[pytest]\nxfail_strict = true\n")
    side.folder.joinpath("pytest.ini").symlink_to(own)
    side.folder.joinpath("perfguard-tox.ini").symlink_to(own)
    for name in ("pytest.ini", "tox.ini"):
        tmp_path.joinpath("head", name).write_text("[pytest]\nconsole_output_style = classic\n")
    assert f"-c {side.folder}/pytest.ini" in given_settings(side, "pytest.ini")
    assert f"-c {side.folder}/perfguard-tox.ini" in given_settings(side, "tox.ini")
    assert own.read_text() == "[pytest]\nxfail_strict = true\n"
    for name in ("pytest.ini", "perfguard-tox.ini"):
        assert "classic" in side.folder.joinpath(name).read_text()
        assert not side.folder.joinpath(name).is_symlink()


def test_settings_may_be_in_a_folder_that_only_head_has(side: Side, tmp_path: Path) -> None:
    tmp_path.joinpath("head", "conf").mkdir()
    tmp_path.joinpath("head", "conf", "pytest.ini").write_text("[pytest]\n")
    assert f"-c {side.folder}/conf/pytest.ini" in given_settings(side, "conf/pytest.ini")
    assert side.folder.joinpath("conf", "pytest.ini").read_text() == "[pytest]\n"


def test_settings_that_head_links_to_are_those_of_head(side: Side, tmp_path: Path) -> None:
    tmp_path.joinpath("head", "real.ini").write_text("[pytest]\n")
    tmp_path.joinpath("head", "pytest.ini").symlink_to("real.ini")
    side.folder.joinpath("real.ini").write_text("[pytest]\nxfail_strict = true\n")
    given_settings(side, "pytest.ini")
    assert side.folder.joinpath("pytest.ini").read_text() == "[pytest]\n"


# -- processes -----------------------------------------------------------------------------------


def test_git_is_not_told_of_the_users_repository(
    side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"):
        monkeypatch.setenv(name, str(tmp_path / "other"))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "me")
    known = environment_of(side)
    assert not known.keys() & {"GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"}
    assert known["GIT_AUTHOR_NAME"] == "me"
    set_up(side, "env > environment", tmp_path)
    lines = side.folder.joinpath("environment").read_text().splitlines()
    assert not [line for line in lines if line.startswith(("GIT_DIR=", "GIT_INDEX_FILE="))]


def test_what_a_setup_leaves_running_is_not_waited_for(side: Side, tmp_path: Path) -> None:
    began = time.monotonic()
    try:
        set_up(side, "sleep 20 & echo started", tmp_path)
        with pytest.raises(ComparisonError, match=r"exit code 3\):\nno such server$"):
            set_up(side, "sleep 20 & echo no such server; exit 3", tmp_path)
        assert time.monotonic() - began < 10
    finally:
        workspaces.kill(tmp_path)


def test_only_the_end_of_what_a_setup_says_is_told(side: Side, tmp_path: Path) -> None:
    script = "import sys; print('start' + 'ä' * 10_000 + 'end'); sys.exit(1)"
    with pytest.raises(ComparisonError) as caught:
        set_up(side, f'PYTHONUTF8=1 {sys.executable} -c "{script}"', tmp_path)
    said = str(caught.value)
    assert said.endswith("äend")
    assert "start" not in said
    assert len(said) < 3_000
