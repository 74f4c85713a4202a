"""The sample service's traps, judged by its baselines alone: the table of ``--baselines``."""

from __future__ import annotations

import pytest

from pytest_perfguard.baseline_files import read
from pytest_perfguard.model import Level, Record, Rule, Status, Verdict
from sample_app.tests import traps
from sample_app.tests.catches import ROOT, SUITE
from sample_app.tests.traps import COUNTED, Caught, caught, main
from tests.unit.build import span, tally

_TEST = f"{SUITE}/test_list.py::test_a_page"


def _record(outcome: str = "failed", rule: Rule = Rule.BASELINE) -> Record:
    root = span(tally(count=23, site=None))
    over = Verdict(
        "sql_queries", root.name, 23, 3, Status.REGRESSED, Level.FAIL, "baseline, x.json:7",
        rule=rule, changes=("+20x SELECT users  at app/crud.py:7 in rows",),
    )  # fmt: skip
    return Record(_TEST, outcome, root, {"sql_queries": 23}, (over,))


def test_a_red_test_is_told_with_its_first_metric() -> None:
    assert caught("lazy", [_record("passed"), _record()]) == Caught(
        "lazy",
        "test_list.py::test_a_page",
        "sql_queries 23 > 3",
        "no line of your code: run by a library on a thread of its own",
        "20x SELECT users  at app/crud.py:7 in rows",
    )


def test_a_green_suite_catches_nothing() -> None:
    assert caught("lazy", [_record("passed")]) is None


def test_a_test_that_fails_by_itself_is_not_put_down_to_a_baseline() -> None:
    found = caught("pickled", [_record(rule=Rule.BUDGET)])
    assert found is not None
    assert (found.metric, found.advice) == ("-", "the test fails by itself")


@pytest.mark.parametrize(("stays_green", "code"), [("", 0), ("lazy_owner", 1)])
def test_a_trap_that_stays_green_is_a_failure(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stays_green: str,
    code: int,
) -> None:
    def run(trap: str) -> tuple[Record, ...]:
        return (_record("passed" if trap in {"", stays_green} else "failed"),)

    monkeypatch.setattr(traps, "run_suite", run)
    assert main(["--baselines"]) == code
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[0] == "trap"
    assert [row.split()[0] for row in rows] == list(COUNTED)
    assert [row.split()[0] for row in rows if "STAYS GREEN" in row] == stays_green.split()


def test_a_suite_that_is_red_without_a_trap_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(traps, "run_suite", lambda _: (_record(),))
    assert main(["--baselines"]) == 1
    assert "red without any trap" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["no_such_trap"])


def test_every_module_of_the_suite_has_baselines_for_both_databases() -> None:
    """Those of tests that use one; what is refused before it uses none."""
    modules = sorted((ROOT / SUITE).glob("test_*.py"))
    compared = [module for module in modules if "perf_baseline" in module.read_text("utf-8")]
    # Rounds are about times; drivers and exported metrics have limits of their own.
    assert len(compared) >= len(modules) - 3
    for module in compared:
        held = read(module.parent / "__perfguard__" / f"{module.stem}.json").tests
        assert held
        kinds = {frozenset(entries) for entries in held.values()}
        assert kinds <= {frozenset({"sqlite", "postgresql"}), frozenset({"no database"})}


@pytest.mark.parametrize(
    ("trap", "metric", "line"),
    [
        ("lazy_owner", "sql_queries", "sample_app/crud/resource.py"),
        ("session_in_key", "sql_queries", "sample_app/"),
    ],
)
def test_a_trap_is_caught_by_baselines_alone(trap: str, metric: str, line: str) -> None:
    found = caught(trap, traps.run_suite(trap))
    assert found is not None
    assert found.metric.split()[0] == metric
    assert found.line.startswith(line)
    assert found.advice != "-"
