"""What is selected, and what is reported: the terminal's section, ``run.json``, JUnit XML."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from pytest_perfguard import METRICS
from pytest_perfguard.model import Record
from pytest_perfguard.reports.formats import render
from pytest_perfguard.run_comparison import is_whole
from pytest_perfguard.runs import read_run

Run = Callable[..., pytest.RunResult]
Failed = Callable[[pytest.RunResult], list[str]]
Records = Callable[[], dict[str, Record]]


@pytest.fixture
def suite(pytester: pytest.Pytester) -> None:
    """Write tests that are measured, each for another reason, and one that is not."""
    pytester.makepyfile(
        test_marks="""
        import pytest, shop

        @pytest.mark.perf_budget(sql_queries=2)
        def test_budgeted():
            shop.list_eagerly()

        @pytest.mark.performance
        def test_bare():
            shop.list_lazily()

        def test_fixture(perf):
            shop.get_email(1)

        def test_unmeasured():
            shop.get_email(1)
        """,
        test_paths="""
        import shop

        def test_by_path():
            shop.get_email(1)
        """,
    )
    pytester.makeini("[pytest]\nperfguard_budgets = test_paths.py: sql_queries=1\n")


@pytest.mark.usefixtures("suite")
def test_the_performance_marker_selects_every_measured_test(run: Run, run_once: Run) -> None:
    result = run("-m", "performance", "-v")

    result.assert_outcomes(passed=4)
    result.stdout.no_fnmatch_line("*test_unmeasured*")
    run_once("-m", "not performance").assert_outcomes(passed=1, deselected=4)


@pytest.mark.usefixtures("suite")
def test_a_bare_mark_measures_without_judging(run_once: Run, records: Records) -> None:
    run_once("--perfguard-json=run.json")

    found = records()
    assert sorted(found) == ["test_bare", "test_budgeted", "test_by_path", "test_fixture"]
    assert found["test_bare"].metrics["sql_queries"] == 21
    assert found["test_bare"].verdicts == ()


@pytest.mark.usefixtures("suite")
def test_all_tests_are_measured_and_ranked_on_request(run: Run) -> None:
    result = run("--perfguard")

    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(
        [
            "*= perfguard =*",
            "most statements:",
            "  21  test_marks.py::test_bare",
            "   2  test_marks.py::test_budgeted",
            "most time in SQL:",
            "most repeats in one span:",
            "  20x SELECT users.id, users.email FROM users WHERE users.id = ?",
            "      at shop.py:* in list_lazily, in test_marks.py::test_bare",
            "1 candidate N+1:",
            "  20x Resource.owner lazy-loaded one row at a time, in 1 test",
            "      at shop.py:* in list_lazily",
            "      fix: select(Resource).options(selectinload(Resource.owner))*",
            "5 tests measured, 26 statements on * engine*, * judged: * ok",
        ]
    )


@pytest.mark.usefixtures("suite")
@pytest.mark.parametrize("ini", [False, True], ids=["option", "ini"])
def test_the_lists_have_the_asked_length(
    pytester: pytest.Pytester, run_once: Run, ini: bool
) -> None:
    if ini:
        pytester.makeini("[pytest]\nperfguard = true\nperfguard_top = 1\n")

    result = run_once() if ini else run_once("--perfguard", "--perfguard-top=1")

    lines = result.outlines
    start = lines.index("most statements:")
    assert lines[start + 1].split() == ["21", "test_marks.py::test_bare"]
    assert lines[start + 2] == "most time in SQL:"


def test_the_file_is_written_where_no_test_was_measured(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makepyfile("def test_nothing(): pass")

    result = run("--perfguard-json=run.json")

    result.assert_outcomes(passed=1)
    assert _read(pytester.path / "run.json")["records"] == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "1 test measured, 0 statements on 0 engines"),
        (("-k", "other"), "0 tests measured, 0 statements on 0 engines"),
    ],
)
def test_the_last_line_says_so_where_nothing_was_seen(
    pytester: pytest.Pytester, run_once: Run, arguments: tuple[str, ...], line: str
) -> None:
    pytester.makepyfile("def test_nothing(): pass")

    run_once("--perfguard", *arguments).stdout.fnmatch_lines(line)


# -- run.json ------------------------------------------------------------------------------


@pytest.mark.usefixtures("suite")
def test_the_file_holds_the_same_with_and_without_workers(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    run_once("--perfguard", "--perfguard-json=one.json")
    run_once("-n2", "--perfguard", "--perfguard-json=deep/er/two.json")

    one = _read(pytester.path / "one.json")
    two = _read(pytester.path / "deep/er/two.json")
    assert one["schema"] == 2
    assert {"python", "implementation", "system", "machine", "pytest", "sqlalchemy"} <= set(
        one["environment"]
    )
    nodeids = [record["nodeid"] for record in one["records"]]
    assert nodeids == sorted(nodeids)
    assert len(nodeids) == 5
    assert {record["outcome"] for record in one["records"]} == {"passed"}
    assert _without_times(one) == _without_times(two)


def test_the_page_of_a_run_can_be_made_later_and_has_its_profiles(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("pyinstrument")
    pytester.makepyfile(
        """
        import json
        import pytest

        @pytest.mark.perf_profile
        def test_marked():
            json.dumps([{"a": number} for number in range(30_000)])

        @pytest.mark.performance
        def test_other():
            pass
        """
    )
    run_once("-n2", "--perfguard-json=run.json", "--perfguard-html=report.html").assert_outcomes(
        passed=2
    )
    path = pytester.path / "run.json"
    (nodeid,) = read_run(path).profiles
    assert nodeid.endswith("::test_marked")
    page = (pytester.path / "report.html").read_text(encoding="utf-8")
    assert nodeid in page
    assert render(read_run(path), "html") == page


def test_a_page_that_needs_a_library_names_the_extra(
    pytester: pytest.Pytester, run_once: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    pytester.makepyfile("def test_nothing(): pass")
    result = run_once("--perfguard-html=report.html")
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    result.stdout.fnmatch_lines(
        "warning: Jinja2 is not installed: install pytest-perfguard with the extra [[]html]"
    )


@pytest.mark.usefixtures("suite")
def test_a_file_that_cannot_be_written_is_told_and_hides_nothing(
    pytester: pytest.Pytester, run: Run
) -> None:
    (pytester.path / "file").write_text("in the way")

    result = run("--perfguard-json=file/run.json")

    result.assert_outcomes(passed=5)
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR  # without an internal error
    result.stdout.fnmatch_lines(
        ["4 tests measured, *", "warning: *run.json cannot be written: *", "*5 passed*"]
    )
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()


def test_a_file_that_cannot_be_written_does_not_hide_that_a_test_failed(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    pytester.makepyfile("def test_wrong(): assert False")
    (pytester.path / "file").write_text("in the way")

    assert run_once("--perfguard-json=file/run.json").ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.usefixtures("suite")
def test_the_report_tells_where_the_file_is(pytester: pytest.Pytester, run: Run) -> None:
    result = run("--perfguard-json=deep/run.json")

    assert result.ret == pytest.ExitCode.OK
    assert f"records written to {pytester.path / 'deep/run.json'}" in result.outlines


@pytest.mark.usefixtures("suite")
def test_the_file_is_relative_to_where_pytest_was_started(
    pytester: pytest.Pytester, run_once: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pytester.path / "below").mkdir()
    monkeypatch.chdir(pytester.path / "below")

    run_once("--rootdir", str(pytester.path), "--perfguard-json=run.json", str(pytester.path))

    assert len(_read(pytester.path / "below" / "run.json")["records"]) >= 3


# -- JUnit ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("suite")
def test_junit_has_every_metric_as_a_property_of_its_test(
    pytester: pytest.Pytester, run: Run
) -> None:
    run("--junitxml=junit.xml")

    cases = properties(pytester.path / "junit.xml")
    assert sorted(cases) == [
        "test_bare",
        "test_budgeted",
        "test_by_path",
        "test_fixture",
        "test_unmeasured",
    ]
    assert cases["test_unmeasured"] == []
    found = dict(cases["test_bare"])
    names = {name.removeprefix("perfguard.") for name in found}
    # Nothing was timed, no cache was asked and no response read: there is no value to give.
    assert names <= METRICS.keys()
    unasked = {"sql_full_scans", "sql_sorts"}
    assert {name for name in METRICS if name.startswith("sql_")} - names == unasked
    assert not {"http_p95", "time_mean", "cache_hit_ratio", "response_bytes"} & names
    assert float(found["perfguard.sql_queries"]) == 21
    assert float(found["perfguard.sql_n_plus_one"]) == 1


def properties(path: Path) -> dict[str, list[tuple[str, str]]]:
    """Return the properties of every test case."""
    return {
        case.attrib["name"]: [
            (entry.attrib["name"], entry.attrib["value"]) for entry in case.iter("property")
        ]
        for case in ET.parse(path).iter("testcase")  # noqa: S314 - written by the inner run
    }


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _without_times(data: Any) -> Any:
    """Leave out what differs between two runs: times, and engines, whose files are new."""
    timed = {
        "seconds", "start", "sql_time", "sql_slowest", "tx_longest", "engines", "cpu_time",
        "cpu_percent", "started",
    }  # fmt: skip
    if isinstance(data, dict):
        return {key: _without_times(value) for key, value in data.items() if key not in timed}
    if isinstance(data, list):
        # In one process the outer test's own lines are on the stack too.
        return [_without_times(item) for item in data if not str(item).startswith("/")]
    return data


# -- what a test fails for -----------------------------------------------------------------


def test_a_failure_of_its_own_is_kept_beside_the_limits(
    pytester: pytest.Pytester, run: Run, records: Records
) -> None:
    pytester.makepyfile(
        """
        import pytest, shop

        @pytest.mark.perf_budget(sql_queries=0)
        def test_both():
            shop.get_email(1)
            assert False

        @pytest.mark.perf_budget(sql_queries=0)
        def test_limit():
            shop.get_email(1)
        """
    )
    run("--perfguard-json=run.json")
    found = records()
    assert {name: record.raised for name, record in found.items()} == {
        "test_both": "AssertionError",
        "test_limit": "",
    }
    assert [is_whole(found[name]) for name in ("test_both", "test_limit")] == [False, True]


def test_two_files_of_one_name_are_refused(pytester: pytest.Pytester, run_once: Run) -> None:
    pytester.makepyfile("def test_nothing(): pass")
    result = run_once("--perfguard-json=out/run", "--perfguard-summary=out/../out/run")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*--perfguard-json and --perfguard-summary both name out/../out/run"]
    )
