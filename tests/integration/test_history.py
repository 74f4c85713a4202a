"""Sessions that add to a history, and the command that reads it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.dialects import postgresql

from pytest_perfguard.cli import main
from pytest_perfguard.history import History
from pytest_perfguard.recorder import Recorder
from pytest_perfguard.runs import read_run

# Inner runs forget what they import, which this does not survive.
assert postgresql.__name__

Run = Callable[..., pytest.RunResult]

TESTS = """
    import os, pytest, shop

    @pytest.mark.performance
    def test_many():
        for number in range(int(os.environ["NUMBER"])):
            shop.get_email(number + 1)

    @pytest.mark.perf_budget(sql_queries=1)
    def test_one():
        shop.get_email(1)

    def test_unmeasured():
        pass
    """


@pytest.fixture(autouse=True)
def tests(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBER", "3")
    monkeypatch.setenv("GITHUB_SHA", "0123456789abcdef")
    monkeypatch.setenv("GITHUB_REF_NAME", "main")
    pytester.makepyfile(test_shop=TESTS)


def read(history: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(history)) as connection:
        return connection.execute(
            "SELECT run_id, nodeid, databases, name, value FROM perfguard_values"
            " JOIN perfguard_tests t ON t.id = test_id JOIN perfguard_metrics m ON m.id = metric_id"
            " WHERE name = 'sql_queries' ORDER BY run_id, nodeid"
        ).fetchall()


def test_a_run_is_added_once_whoever_ran_the_tests(
    pytester: pytest.Pytester, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened = []
    for owner, name in ((History, "add"), (Recorder, "stop")):
        original = getattr(owner, name)

        def noted(
            *arguments: object, name: str = name, run: object = original, **more: object
        ) -> object:
            happened.append(name)
            return run(*arguments, **more)  # type: ignore[operator] # a method

        monkeypatch.setattr(owner, name, noted)
    result = run("--perfguard-history")
    result.assert_outcomes(passed=3)
    path = pytester.path / ".perfguard" / "history.db"
    result.stdout.re_match_lines(
        [rf"run 1 added to the history at sqlite:///{path} \(\d+ values\)"]
    )
    assert read(path) == [
        (1, "test_shop.py::test_many", "sqlite", "sql_queries", 3.0),
        (1, "test_shop.py::test_one", "sqlite", "sql_queries", 1.0),
    ]
    # What the history itself runs is not measured.
    assert happened[-2:] == ["stop", "add"]
    assert happened.count("add") == 1


def test_a_creep_is_a_warning_of_the_session_and_in_its_run(
    pytester: pytest.Pytester,
    run_once: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = f"sqlite:///{pytester.path}/runs.db"
    history = History(url, pytester.path)
    from tests.services.test_history import run as made

    for day, queries in enumerate([3, 3, 3, 4, 4, 4, 5, 5]):
        one = made(day, {"test_shop.py::test_many": queries})
        history.add(one)
    monkeypatch.setenv("NUMBER", "5")
    result = run_once(
        f"--perfguard-history={url}", "--perfguard-json=run.json", "--perfguard-history-keep=9999"
    )
    result.assert_outcomes(passed=3)
    warning = (
        "warning: worse over many runs: sql_queries 3 -> 5 in 2 steps since 000000000 "
        "(2026-01-04): test_shop.py::test_many on sqlite"
    )
    result.stdout.fnmatch_lines([warning])
    written = read_run(pytester.path / "run.json")
    assert warning in written.notices
    (series,) = [s for s in written.trends["series"] if s["metric"] == "sql_queries"]
    assert series["values"][:8] == [3, 3, 3, 4, 4, 4, 5, 5]
    assert series["change"]["kind"] == "creep"
    capsys.readouterr()

    assert main(["history", "--url", url, "--check"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0] == warning.removeprefix("warning: worse over many runs: ")
    assert main(["history", "sql_queries", "many", "--url", url]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "sql_queries of test_shop.py::test_many on sqlite, 9 runs of main"
    assert "  3 -> 4 at 000000000 (2026-01-04)" in out
    for metric in ("sql_queries", "sql_roundtrips", "sql_duplicates"):
        main(["history", metric, "many", "--url", url, "--accept", "three more fields"])
    capsys.readouterr()
    assert main(["history", "--url", url, "--check"]) == 0
    assert main(["history", "--url", url, "--prune-before", "2026-01-06"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "5 runs removed"


@pytest.mark.parametrize(
    "url", ["sqlite:////proc/nothing/history.db", "postgresql+psycopg://me:sesame@127.0.0.1:1/none"]
)
def test_a_history_that_cannot_be_written_is_no_success(run_once: Run, url: str) -> None:
    result = run_once("--perfguard-history", url, "-k", "test_one")
    result.assert_outcomes(passed=1, deselected=2)
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    result.stdout.fnmatch_lines(["warning: the history at * cannot be written: *"])
    assert "sesame" not in result.stdout.str() + result.stderr.str()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nonsense://me:sesame@here", "SQLAlchemy knows no database 'nonsense'"),
        ("postgresql+asyncpg://me:sesame@here/none", "is a driver for asyncio: take another one"),
        ("postgresql+psycopg://here/none?password=sesame&port=1", "cannot be written: "),
        ("sqlite://", "a history in memory keeps nothing"),
        ("me:sesame@here", "what was given for the history is not the URL of a database"),
        (f"sqlite:///{__file__}", "file is not a database"),
    ],
)
def test_a_url_that_is_no_use_is_told_without_its_password(
    url: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["history", "--url", url, "--prune-before", "1d"]) == 3
    error = capsys.readouterr().err
    assert told.replace("written", "read") in error
    assert "sesame" not in error
    assert error.count("\n") == 1


def test_nothing_that_was_measured_is_no_success(run_once: Run) -> None:
    result = run_once("--perfguard-history", "-k", "unmeasured")
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    result.stdout.fnmatch_lines(["warning: nothing was added to the history at *"])


def test_a_path_is_not_taken_for_a_url(pytester: pytest.Pytester, run_once: Run) -> None:
    result = run_once("--perfguard-history", "test_shop.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*perfguard_history = 'test_shop.py': a URL such as sqlite:///FILE*"]
    )
    assert run_once("--perfguard-history=me:sesame@here").ret == pytest.ExitCode.USAGE_ERROR


def test_fresh_processes_and_collecting_add_nothing(
    pytester: pytest.Pytester, run_once: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_once("--perfguard-history", "--collect-only").ret == 0
    monkeypatch.setenv("PERFGUARD_FRESH_PROCESS", "1")
    assert run_once("--perfguard-history").ret == 0
    assert not (pytester.path / ".perfguard" / "history.db").exists()


def test_the_variable_names_the_history_of_both(
    pytester: pytest.Pytester,
    run_once: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PERFGUARD_HISTORY_URL", "sqlite:///team.db")
    pytester.makeini("[pytest]\nperfguard_history = default\n")
    run_once()
    assert (pytester.path / "team.db").is_file()
    capsys.readouterr()
    assert main(["history"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "started", "commit", "branch", "tests", "environment"]
    assert row.split()[0] == "1"
    assert "012345678" in row


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["sql"], 2, "several metrics match 'sql':\n  sql_commits\n"),
        (["sql_querys"], 2, "unknown metric 'sql_querys'. Did you mean 'sql_queries'?"),
        (
            ["sql_queries", "test"],
            2,
            "of those that have sql_queries:\n  test_shop.py::test_many\n",
        ),
        (["sql_queries"], 2, "name a test, of those that have sql_queries:\n"),
        (["sql_queries", "nothing"], 2, "no test with sql_queries in these runs matches 'nothing'"),
        (["--branch", "mian"], 3, "there is no run of branch 'mian' in sqlite:///"),
        (["--since", "2100-01-01"], 3, "since 2100-01-01 00:00 in sqlite:///"),
        (["--url", "sqlite:///none.db"], 3, "there is no history at sqlite:///"),
        (["--accept", "x"], 2, "--accept needs a metric and a test"),
    ],
)
def test_what_the_command_cannot_do(
    pytester: pytest.Pytester,
    shared_history: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    told: str,
) -> None:
    assert main(["history", "--url", f"sqlite:///{shared_history}", *arguments]) == code
    assert told in capsys.readouterr().err
    assert not (pytester.path / "none.db").exists()


@pytest.fixture(scope="session")
def shared_history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.services.test_history import run as made

    path = tmp_path_factory.mktemp("history") / "history.db"
    names = ("test_shop.py::test_many", "test_shop.py::test_one")
    History(f"sqlite:///{path}", path).add(made(0, dict.fromkeys(names, 2)))
    return path
