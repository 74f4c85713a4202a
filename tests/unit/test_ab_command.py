"""The command line of ``perfguard ab``, and the workflow in the docs that uses it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_perfguard import cli
from pytest_perfguard.commands.ab import _how_far, split
from tests.unit.ab_builds import compared, comparison

WORKFLOW = Path(__file__).parents[2] / "docs" / "ab-workflow.yml"


def parse(arguments: list[str]) -> tuple[Any, list[str]]:
    own, after = split(arguments)
    return cli._parser().parse_args(own), after


@pytest.mark.parametrize(
    ("given", "head", "after"),
    [
        ("ab main", None, []),
        ("ab main -- tests/perf -k a", None, ["tests/perf", "-k", "a"]),
        ("ab main feature -- -- x", "feature", ["--", "x"]),
        ("ab --aa main feature", "feature", []),
    ],
)
def test_what_comes_after_the_dashes_is_for_pytest(
    given: str, head: str | None, after: list[str]
) -> None:
    options, others = parse(given.split())
    assert (options.base, options.head, others) == ("main", head, after)


def test_other_commands_keep_their_dashes() -> None:
    assert split(["prune", "--", "tests"]) == (["prune", "--", "tests"], [])


@pytest.mark.parametrize("given", ["ab", "ab main feature third", "ab main --no-such-option"])
def test_wrong_usage_is_refused(given: str) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(given.split())
    assert caught.value.code == 2


def test_how_it_is_used_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["ab", "--help"])
    assert "usage: perfguard ab [options] BASE [HEAD] [-- PYTEST_ARGS]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("done", "total", "seconds", "told"),
    [
        (0, 10, 5, ""),
        (3, 0, 5, ", 3 tests"),
        (3, 10, 1, ", 3 of 10"),
        (3, 10, 6, ", 3 of 10, about 14 s left"),
        (1, 100, 10, ", 1 of 100, about 16 min left"),
        (10, 10, 60, ", 10 of 10"),
    ],
)
def test_progress_tells_the_time_that_is_left(
    done: int, total: int, seconds: float, told: str
) -> None:
    assert _how_far(done, total, seconds) == told


def test_the_workflow_is_what_the_command_understands() -> None:
    workflow = yaml.safe_load(WORKFLOW.read_text("utf-8"))
    # YAML 1.1 takes "on" for a boolean.
    assert workflow[True] == "pull_request"
    steps = workflow["jobs"]["ab"]["steps"]
    checkout = next(step for step in steps if step.get("uses", "").startswith("actions/checkout"))
    assert checkout["with"]["fetch-depth"] == 0
    (command,) = [step["run"] for step in steps if "perfguard ab" in step.get("run", "")]
    name, *arguments = shlex.split(os.path.expandvars(command.replace("$GITHUB_BASE_REF", "main")))
    assert name == "perfguard"
    options, after = parse(arguments)
    assert (options.base, options.head, after) == ("origin/main", "HEAD", ["tests"])
    upload = next(step for step in steps if "upload-artifact" in step.get("uses", ""))
    written = (options.markdown, options.html, options.json)
    assert all(str(path).startswith(upload["with"]["path"]) for path in written)


def test_a_result_that_cannot_be_written_is_one_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = comparison(compared("test_a.py::test_it", 0, 20))
    monkeypatch.setattr("pytest_perfguard.ab.compare_revisions", lambda *_: found)
    summary, report = tmp_path / "summary.md", tmp_path / "ab.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert cli.main(["ab", "main", f"--markdown={report}", f"--html={tmp_path}"]) == 3
    told = capsys.readouterr()
    assert "1 test compared: 1 costlier" in told.out
    assert str(tmp_path) in told.err
    assert report.read_text("utf-8").startswith("## perfguard: ❌ Costlier or slower\n")
    assert not summary.exists()
