"""The ``perfguard`` command: what it prints and how it exits."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_perfguard import METRICS
from pytest_perfguard.cli import main

Run = Callable[..., pytest.RunResult]
_COMMAND = [sys.executable, "-c", "from pytest_perfguard.cli import main; raise SystemExit(main())"]


@pytest.fixture
def written(pytester: pytest.Pytester, run_once: Run) -> Callable[..., Path]:
    """Run tests that list lazily under budgets and return the file that they wrote."""

    def write(*arguments: str, limit: int) -> Path:
        pytester.makepyfile(
            test_list=f"""
            import pytest, shop

            @pytest.mark.perf_budget(sql_queries={limit})
            def test_lazily():
                shop.list_lazily()

            @pytest.mark.perf_budget(sql_queries=2)
            def test_eagerly():
                shop.list_eagerly()
            """
        )
        run_once("--perfguard-json=run.json", *arguments)
        return pytester.path / "run.json"

    return write


def test_explain_lists_every_metric(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(METRICS)


@pytest.mark.parametrize("name", METRICS)
def test_explain_says_what_a_metric_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == name
    assert [line.split()[0] for line in lines if line.startswith(("  unit ", "  budget "))] == [
        "unit",
        "budget",
    ]


def test_an_example_of_a_limit_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    main(["explain", "sql_slowest"])
    assert (
        "  unit    seconds, written as a number with a unit such as '100ms' or '1.5s'\n"
        "  budget  a ceiling\n"
    ) in capsys.readouterr().out


def test_an_unknown_metric_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "sql_querys"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "perfguard: unknown metric 'sql_querys'. Did you mean 'sql_queries'?\n"


@pytest.mark.parametrize("arguments", [[], ["reports"], ["report"], ["report", "a", "--top=few"]])
def test_wrong_arguments_are_wrong_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: perfguard")


def test_report_shows_the_failures_first(
    written: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(limit=3)
    capsys.readouterr()

    assert main(["report", str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "test_list.py::test_lazily",
        "perfguard: 1 of 1 budget exceeded in test_lazily",
        "  sql_queries  21 > 3   perf_budget, test_list.py:3",
        "20x Resource.owner lazy-loaded one row at a time",
    ]
    timeline = lines.index("timeline: 1x SELECT resources · 20x SELECT users")
    assert lines[timeline + 1 : timeline + 3] == [
        "",
        "closest to their budgets:",
    ]
    assert lines[-1] == (
        "2 tests measured, 23 statements on 1 engine, 2 budgets judged: 1 ok, 1 over budget"
    )
    assert "test_list.py::test_eagerly" not in lines


def test_report_of_a_run_that_kept_its_budgets_is_fine(
    written: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(limit=21)
    capsys.readouterr()

    assert main(["report", str(path), "--top", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "closest to their budgets:",
        "  100%  sql_queries 2 of 2",
    ]
    at = lines.index("most statements:")
    assert lines[at + 1 : at + 3] == ["  21  test_list.py::test_lazily", "most time in SQL:"]
    assert lines[-1].endswith("2 budgets judged: 2 ok")


def test_report_of_a_breach_that_only_warns_is_fine_and_tells_it(
    written: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = written("--perfguard-level=warn", limit=3)
    capsys.readouterr()

    assert main(["report", str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[:3] == [
        "warning: test_list.py::test_lazily: 1 of 1 budget exceeded in test_lazily",
        "  sql_queries  21 > 3   perf_budget, test_list.py:3  (only warns)",
        "20x Resource.owner lazy-loaded one row at a time",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read: "), ("{", "is not JSON: "), ("{}", "has schema None, ")],
)
def test_a_file_that_cannot_be_used_is_a_fault(
    content: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.json"
    if content is not None:
        path.write_text(content)

    assert main(["report", str(path)]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"perfguard: {path} {message}")


def test_the_exit_code_is_that_of_the_process(written: Callable[..., Path]) -> None:
    path = written(limit=3)
    result = subprocess.run([*_COMMAND, "report", path], capture_output=True, check=False)
    assert result.returncode == 1
    assert result.stdout.startswith(b"test_list.py::test_lazily")
    assert result.stderr == b""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes")
def test_a_reader_that_has_seen_enough_is_no_fault() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = subprocess.run(
            [*_COMMAND, "explain"], stdout=writer, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(writer)
    assert result.stderr == b""
    assert result.returncode == 0


def test_who_stops_reading_does_not_change_the_exit_code(written: Callable[..., Path]) -> None:
    path = written(limit=3)
    with subprocess.Popen([*_COMMAND, "report", str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
    assert process.returncode == 1


def test_formats_of_files_are_the_same_on_any_terminal(written: Callable[..., Path]) -> None:
    path = written(limit=3)
    written_file = path.with_name("report.md")
    arguments = ["report", str(path), "--format", "markdown"]
    subprocess.run([*_COMMAND, *arguments, "-o", str(written_file)], check=False)
    printed = subprocess.run(
        [*_COMMAND, *arguments],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert printed.stdout == written_file.read_bytes()
    assert not printed.stdout.isascii()


def test_what_authors_write_cannot_act_on_the_terminal(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    pytester.makepyfile(
        """
        import pytest, shop

        @pytest.mark.perf_waive("sql_queries", reason="a\\n::error::x\\x1b[31m", until="2999-01-01")
        @pytest.mark.perf_budget(sql_queries=0)
        def test_it():
            shop.get_email(1)
        """
    )
    result = run_once()
    assert not [line for line in result.outlines if line.startswith("::error")]
    assert "\x1b" not in result.stdout.str()
