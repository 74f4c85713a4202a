"""Commands that look at runs and at projects, and that their exit codes are never mixed up."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_perfguard import METRICS, Metric
from pytest_perfguard.cli import main
from pytest_perfguard.commands import explain
from pytest_perfguard.metrics import measure_all
from pytest_perfguard.model import Record, Run
from pytest_perfguard.runs import write_run
from tests.unit.build import span, tally

COMMAND = "from pytest_perfguard.cli import main; raise SystemExit(main())"


def written(path: Path, **queries: int) -> str:
    records = []
    for name, count in queries.items():
        measured = span(tally("SELECT a FROM t WHERE b = ?", count=count))
        records.append(
            Record(f"test_a.py::{name}", "passed", measured, metrics=measure_all(measured))
        )
    write_run(Run(records=tuple(records)), path)
    return str(path)


# -- compare -------------------------------------------------------------------------------


def test_compare_tells_what_is_worse_and_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = written(tmp_path / "a.json", test_list=1, test_same=1, test_gone=1)
    second = written(tmp_path / "b.json", test_list=5, test_same=1)
    assert main(["compare", first, second]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "worse: test_a.py::test_list",
        "  sql_queries  1 -> 5  +4",
        "  +4x SELECT a FROM t WHERE b = ?  at app/crud.py:7 in rows",
        "",
        "not comparable:",
        f"  test_a.py::test_gone: only in {first}",
        "",
        "2 tests compared: 1 worse, 1 the same; 1 not comparable",
    ]
    assert main(["compare", second, first]) == 0
    assert "better: test_a.py::test_list" in capsys.readouterr().out


def test_compare_writes_other_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = written(tmp_path / "a.json", test_list=1)
    second = written(tmp_path / "b.json", test_list=5)
    assert main(["compare", first, second, "--format=json"]) == 1
    (test,) = json.loads(capsys.readouterr().out)["tests"]
    assert (test["nodeid"], test["outcome"]) == ("test_a.py::test_list", "worse")
    target = tmp_path / "comment.md"
    assert main(["compare", first, second, "--format=markdown", "-o", str(target)]) == 1
    assert target.read_text("utf-8").startswith("**1 test compared: 1 worse, 0 the same**\n")
    assert capsys.readouterr().out == ""


def test_nothing_that_can_be_compared_is_a_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = written(tmp_path / "a.json", test_one=1)
    second = written(tmp_path / "b.json", test_two=1)
    assert main(["compare", first, second]) == 3
    assert "have no test in common that can be compared" in capsys.readouterr().err
    assert main(["compare", first, str(tmp_path / "none.json")]) == 3


def test_a_tolerance_that_is_none_is_wrong_usage(tmp_path: Path) -> None:
    first = written(tmp_path / "a.json", test_one=1)
    for wrong in ("much", "20ms", "-5%"):
        with pytest.raises(SystemExit) as caught:
            main(["compare", first, first, f"--times={wrong}"])
        assert caught.value.code == 2
    assert main(["compare", first, first, "--times=20%"]) == 0


# -- doctor --------------------------------------------------------------------------------


@pytest.fixture
def doctor(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str, str]]:
    """Run the command in a project; what it prints has its blanks folded."""
    for name in ("CI", "GITHUB_ACTIONS", "PERFGUARD_HISTORY_URL", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    # The plugins of this process's own pytest are not asked for anything.
    monkeypatch.chdir(pytester.path)

    def run(*arguments: str, ini: str = "") -> tuple[int, str, str]:
        if ini:
            pytester.makeini(f"[pytest]\n{ini}")
        capsys.readouterr()
        code = main(["doctor", *arguments])
        out, err = capsys.readouterr()
        return code, " ".join(out.split()), err

    return run


Doctor = Callable[..., tuple[int, str, str]]


def test_a_project_without_settings_is_fine(doctor: Doctor) -> None:
    code, out, _ = doctor()
    assert code == 0
    assert " sqlalchemy 2." in out
    assert "sql on cache on tasks on http on process on loop on profile not used" in out
    assert "baselines not used 0 files of baselines stored times not used history not used" in out
    assert out.endswith("nothing is off that the settings ask for")


def test_settings_are_told_with_their_place(doctor: Doctor, pytester: pytest.Pytester) -> None:
    code, out, _ = doctor(
        "--",
        "--perfguard-top=3",
        ini="addopts = --perfguard-history=postgresql+psycopg://me:sesame@127.0.0.1:1/x\n"
        "perfguard_budgets = *: sql_queries=3\nperfguard_level = sql_queries: warn\n",
    )
    assert code == 1
    assert "perfguard_top = 3 (command line)" in out
    assert f"perfguard_budgets = *: sql_queries=3 ({pytester.path}/tox.ini)" in out
    assert f"postgresql+psycopg://me:***@127.0.0.1:1/x (addopts in {pytester.path}/tox.ini)" in out
    assert "sesame" not in out
    assert "levels only warns sql_queries in * does not fail a test" in out
    assert "! history off the history at postgresql+psycopg://me:***@127.0.0.1:1/x cannot be" in out
    assert out.endswith("off, though the settings ask for it: history")


def test_gates_that_are_off_are_told(doctor: Doctor, pytester: pytest.Pytester) -> None:
    folder = pytester.mkdir("__perfguard__")
    (folder / "test_a.json").write_text("{}")
    (pytester.path / "setup.cfg").write_text("[tool:pytest]\nperfguard_new = fail\n")
    code, out, _ = doctor(
        "--json",
        ini="addopts = -n2\nperfguard_times = times\nperfguard_baseline = off\n"
        "perfguard_unproven = warn\n",
    )
    assert code == 1
    found = json.loads(out)
    off = {line["name"]: line["text"] for line in found["gates"] if line["state"] == "off"}
    assert set(off) == {"perfguard_new", "baselines", "stored times"}
    assert off["perfguard_new"].startswith(f"it stands in {pytester.path}/setup.cfg, which")
    assert "1 file of baselines" in off["baselines"]
    assert "under xdist" in off["stored times"]
    assert {line["name"] for line in found["gates"] if line["state"] == "only warns"} == {
        "unproven"
    }
    assert found["fine"] is False


def test_too_few_stored_times_and_a_missing_ci_variable(
    doctor: Doctor, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pytester.mkdir("__perfguard__")
    (folder / "test_a.json").write_text("{}")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    code, out, _ = doctor(ini="perfguard_times = times\n")
    assert code == 1
    assert "0 of 10 processes are stored for this environment, so no time is judged yet" in out
    assert "GITHUB_ACTIONS is set and CI is not" in out
    monkeypatch.setenv("CI", "true")
    assert "CI is not" not in doctor()[1]


def test_a_plugin_that_is_switched_off_is_told(doctor: Doctor) -> None:
    code, out, _ = doctor("--", "-p", "no:perfguard")
    assert code == 1
    assert "! plugin off pytest does not load it: look for -p no:perfguard" in out


def test_settings_that_pytest_refuses_are_told(doctor: Doctor) -> None:
    code, out, _ = doctor(ini="perfguard_budgets = *: sql_querys=3\n")
    assert code == 1
    assert "! settings off pytest refuses them: " in out
    assert "Did you mean 'sql_queries'?" in out


def test_where_pytest_does_not_start_nothing_can_be_told(
    doctor: Doctor, pytester: pytest.Pytester
) -> None:
    code, out, err = doctor("--", "--nonsense")
    assert (code, out) == (3, "")
    assert "perfguard: pytest does not start here (exit code 4):" in err
    pytester.makeconftest("1 / 0")
    code, out, err = doctor()
    assert (code, out) == (3, "")
    assert "ZeroDivisionError" in err


# -- all of them ---------------------------------------------------------------------------


def _fails(error: BaseException) -> Callable[[argparse.Namespace], int]:
    def run(_: argparse.Namespace) -> int:
        raise error

    return run


def test_an_error_that_nobody_has_foreseen_is_no_breach(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(explain, "_explain", _fails(ZeroDivisionError("of\nall things")))
    monkeypatch.delenv("PERFGUARD_DEBUG", raising=False)
    assert main(["explain"]) == 3
    assert capsys.readouterr().err == (
        "perfguard: it failed by itself: ZeroDivisionError: of all things "
        "(perfguard --traceback, or PERFGUARD_DEBUG=1, shows where)\n"
    )
    assert main(["--traceback", "explain"]) == 3
    assert "Traceback (most recent call last)" in capsys.readouterr().err
    monkeypatch.setenv("PERFGUARD_DEBUG", "1")
    assert main(["explain"]) == 3
    assert "in run" in capsys.readouterr().err


def test_an_interrupted_command_says_nothing_of_the_tests(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(explain, "_explain", _fails(KeyboardInterrupt()))
    assert main(["explain"]) == 3
    assert capsys.readouterr().err == "perfguard: interrupted\n"


@pytest.mark.parametrize(
    "command",
    ["report", "compare", "history", "doctor", "explain", "flamediff", "prune", "completion"],
)
def test_each_command_tells_its_exit_codes(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in ([command, "--help"], ["--help"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
        out = capsys.readouterr().out
        assert "exit codes: 0 " in out
        assert command in out


def test_a_terminal_that_cannot_show_everything_is_no_fault(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", **{"test_é→": 1})
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "report", path],
        env={"PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"test_\\xe9\\u2192" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_complete_commands_metrics_and_files(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in ("compare", "http_p95", "prune-before"))


def test_completion_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 3
    assert "shtab is not installed: install pytest-perfguard with the extra [completion]" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "metric",
    # What Prometheus metrics change by is limited by perf.prometheus, not by marks.
    [metric for metric in METRICS.values() if not metric.name.startswith("prom_")],
    ids=lambda metric: metric.name,
)
def test_explain_says_how_a_metric_is_measured_and_written(
    metric: Metric, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", metric.name]) == 0
    out = capsys.readouterr().out
    assert "\n  how     " in out
    mark = next(line for line in out.splitlines() if line.startswith("  write   "))
    code = mark.removeprefix("  write   @")
    budget = eval(code, {"pytest": pytest})  # noqa: S307 - what is explained is Python
    ((name, limit),) = budget.kwargs.items()
    from pytest_perfguard.units import parse

    assert name == metric.name
    assert parse(limit, metric.unit) >= 0
    if metric.guide:
        assert str(limit) == metric.guide


def test_a_new_metric_has_a_word_on_how_it_is_measured() -> None:
    from pytest_perfguard.measuring import how

    unknown = replace(METRICS["sql_queries"], name="moon_phase", probe="moon")
    assert how(unknown) == "by the probe 'moon'"
