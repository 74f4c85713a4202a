"""The files for CI that a session writes, and what it tells GitHub Actions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from pytest_perfguard.cli import main

Run = Callable[..., pytest.RunResult]
FILES = {
    "--perfguard-json": ("run.json", "json"),
    "--perfguard-summary": ("summary.md", "markdown"),
    "--perfguard-sarif": ("perf.sarif", "sarif"),
    "--perfguard-openmetrics": ("perf.prom", "openmetrics"),
}


@pytest.fixture(autouse=True)
def suite(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_list="""
        import pytest, shop

        @pytest.mark.perf_budget(sql_queries=2, sql_n_plus_one=0)
        def test_lazily():
            shop.list_lazily()

        @pytest.mark.perf_budget(sql_queries=2)
        @pytest.mark.perf_waive("sql_queries", reason="to do", until="2999-12-31")
        def test_waived():
            shop.list_lazily()

        def test_unmeasured():
            pass
        """
    )


@pytest.fixture
def summary(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the session run in a step of GitHub Actions; return the file of its summary."""
    path = pytester.path / "step"
    path.write_text("# of another step", encoding="utf-8")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    return path


def test_each_file_is_what_the_command_makes_of_the_run(
    pytester: pytest.Pytester, run: Run, summary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"{flag}={name}" for flag, (name, _) in FILES.items()]
    result = run(*given, "--junitxml=junit.xml")

    result.assert_outcomes(failed=1, passed=2)
    texts = {}
    for name, output in FILES.values():
        capsys.readouterr()
        assert main(["report", "run.json", "--format", output]) == 1
        texts[output] = (pytester.path / name).read_text("utf-8")
        assert texts[output] == capsys.readouterr().out
    assert summary.read_text("utf-8") == f"# of another step\n{texts['markdown']}"
    assert "### 20x Resource.owner lazy-loaded one row at a time" in texts["markdown"]
    assert "| until 2999-12-31: to do | `sql_queries 21 > 2` |" in texts["markdown"]
    commands = [line for line in result.outlines if line.startswith("::")]
    assert main(["report", "run.json", "--format", "github"]) == 1
    assert commands == capsys.readouterr().out.splitlines()
    (command,) = commands
    line = (
        pytester.path.joinpath("shop.py")
        .read_text()
        .splitlines()
        .index("        return [(resource.name, resource.owner.email) for resource in resources]")
    )
    assert command.startswith(f"::error file=shop.py,line={line + 1},title=perfguard%3A 20x Resou")
    found = json.loads(texts["sarif"])["runs"][0]["results"]
    assert [(r["ruleId"], "suppressions" in r) for r in found] == [
        ("sql_queries", False), ("sql_n_plus_one", False), ("sql_queries", True),
    ]  # fmt: skip
    test = found[0]["relatedLocations"][0]["physicalLocation"]
    assert test["region"]["startLine"] == 3
    assert 'perfguard_verdicts{status="waived"} 1.0' in texts["openmetrics"].splitlines()
    (case,) = [
        case
        for case in ET.parse(pytester.path / "junit.xml").iter("testcase")  # noqa: S314 - inner
        if case.attrib["name"] == "test_lazily"
    ]
    (failed,) = case.iter("failure")
    headline = "perfguard: 2 of 2 budgets exceeded in test_lazily"
    assert failed.attrib["message"] == f"Failed: {headline}"
    assert failed.text is not None
    assert failed.text.splitlines()[0] == headline
    assert any("fix: select(Resource)" in line for line in failed.text.splitlines())
    values = {entry.attrib["name"]: entry.attrib["value"] for entry in case.iter("property")}
    assert float(values["perfguard.sql_queries"]) == 21


def test_github_is_told_nothing_where_that_is_switched_off(
    pytester: pytest.Pytester, run_once: Run, summary: Path
) -> None:
    pytester.makeini("[pytest]\nperfguard_github = off\n")

    result = run_once()

    assert not [line for line in result.outlines if line.startswith("::")]
    assert summary.read_text("utf-8") == "# of another step"


def test_github_is_told_nothing_of_a_session_without_measured_tests(
    run_once: Run, summary: Path
) -> None:
    run_once("-k", "unmeasured")

    assert summary.read_text("utf-8") == "# of another step"


def test_a_summary_that_cannot_be_written_is_told_and_no_failure(
    pytester: pytest.Pytester, run_once: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(pytester.path))

    result = run_once("-k", "waived")

    assert result.ret == 0
    said = f"warning: the step's summary {pytester.path} cannot be written: Is a directory"
    assert said in result.outlines


def test_a_summary_that_is_full_is_left_as_it_is(run_once: Run, summary: Path) -> None:
    summary.write_bytes(b"x" * (1 << 20))

    result = run_once("-k", "waived")

    line = "warning: the step's summary is full: the report of this session is not in it"
    assert line in result.outlines
    assert summary.stat().st_size == 1 << 20


def test_a_fresh_process_leaves_telling_to_the_session_that_started_it(
    run_once: Run, summary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERFGUARD_FRESH_PROCESS", "1")

    result = run_once("--perfguard-sarif=perf.sarif")

    assert not [line for line in result.outlines if line.startswith("::")]
    assert summary.read_text("utf-8") == "# of another step"
    assert not summary.with_name("perf.sarif").exists()
