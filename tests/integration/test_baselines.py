"""Baselines: what a test cost when somebody last looked, against what it costs now.

What a test does is chosen by the environment, so that the same module costs more in the next run.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_perfguard.metrics import METRICS
from pytest_perfguard.model import Record, Status

Run = Callable[..., pytest.RunResult]
Records = Callable[[], dict[str, Record]]
Held = Callable[..., dict[str, Any]]
# Metrics that a baseline holds of a test that only runs statements.
KEPT = sum(
    m.probe == "sql" and m.stored and m.tallied and not m.on_request for m in METRICS.values()
)
# Statements: list_eagerly 2, list_lazily 21, get_email 1.
GUARDED = """
    import os, pytest, shop

    def do(name, default):
        for call in os.environ.get(name, default).split():
            shop.get_email(int(call)) if call.isdigit() else getattr(shop, call)()

    @pytest.mark.perf_baseline
    def test_list():
        do("LIST", "list_eagerly")

    @pytest.mark.perf_baseline
    def test_email():
        do("EMAIL", "1")

    def test_unmarked():
        do("UNMARKED", "2")
"""
ONE = """
    import pytest, shop

    @pytest.mark.perf_baseline
    def test_one():
        shop.get_email(1)
"""
FILE = "__perfguard__/test_guarded.json"


@pytest.fixture(autouse=True)
def outside_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let new tests warn, as on a developer's machine."""
    monkeypatch.delenv("CI", raising=False)


@pytest.fixture
def guarded(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_guarded=GUARDED)


@pytest.fixture
def recorded(guarded: None, run_once: Run) -> None:
    run_once("--perfguard-update").assert_outcomes(passed=3)


@pytest.fixture
def held(pytester: pytest.Pytester) -> Held:
    """Read the metrics of each test from a file of baselines."""

    def read(file: str = FILE) -> dict[str, Any]:
        tests = json.loads((pytester.path / file).read_text("utf-8"))["tests"]
        return {
            test: {
                name: value for entry in kinds.values() for name, value in entry["metrics"].items()
            }
            for test, kinds in tests.items()
        }

    return read


def lines_after(result: pytest.RunResult, title: str) -> list[str]:
    """Return the lines that follow a title and are indented more."""
    lines = result.outlines
    start = lines.index(title) + 1
    end = next(n for n, line in enumerate(lines[start:], start) if not line.startswith("  "))
    return lines[start:end]


# -- record ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("guarded")
def test_baselines_are_recorded_beside_their_module(run: Run, run_once: Run, held: Held) -> None:
    result = run("--perfguard-update")

    result.assert_outcomes(passed=3)
    assert result.ret == 0
    assert lines_after(result, "baselines recorded:") == [
        f"  {FILE}",
        "    test_email",
        "      new: sql_queries 1, sql_roundtrips 1, sql_rows 1",
        "    test_list",
        "      new: sql_queries 2, sql_roundtrips 2, sql_rows 40",
    ]
    assert {test: values["sql_queries"] for test, values in held().items()} == {
        "test_email": 1,
        "test_list": 2,
    }
    again = run_once()
    again.assert_outcomes(passed=3)
    assert f"2 baselines compared: {2 * KEPT} ok" in again.outlines[-2]
    assert "warning:" not in again.stdout.str()


def test_the_bytes_do_not_depend_on_workers_or_order(
    pytester: pytest.Pytester, run_once: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        test_many="""
        import pytest, shop

        pytestmark = pytest.mark.perf_baseline

        @pytest.mark.parametrize("n", range(12))
        def test_email(n):
            for number in range(n):
                shop.get_email(number + 1)
            shop.list_eagerly()
        """,
    )
    conftest = pytester.path / "conftest.py"
    conftest.write_text(
        conftest.read_text()
        + "\n\ndef pytest_collection_modifyitems(items):\n"
        + "    import os, random\n"
        + "    random.Random(os.environ['ORDER']).shuffle(items)\n"
    )
    path = pytester.path / "__perfguard__" / "test_many.json"
    found = set()
    for order, workers in (("1", "-n0"), ("2", "-n0"), ("3", "-n2"), ("4", "-n4")):
        monkeypatch.setenv("ORDER", order)
        run_once(workers, "--perfguard-update").assert_outcomes(passed=12)
        found.add(path.read_bytes())
        path.unlink()
    assert len(found) == 1


@pytest.mark.usefixtures("recorded")
def test_recording_again_changes_no_byte(pytester: pytest.Pytester, run: Run) -> None:
    before = (pytester.path / FILE).stat().st_mtime_ns, (pytester.path / FILE).read_bytes()
    result = run("--perfguard-update")
    assert "baselines recorded: 2 unchanged" in result.outlines
    assert (
        (pytester.path / FILE).stat().st_mtime_ns,
        (pytester.path / FILE).read_bytes(),
    ) == before


@pytest.mark.usefixtures("recorded")
def test_other_lines_are_no_change(pytester: pytest.Pytester, run: Run) -> None:
    shop = pytester.path / "shop.py"
    shop.write_text(f"# a comment\n\n{shop.read_text()}")
    before = (pytester.path / FILE).read_bytes()

    result = run("--perfguard-update")

    assert "baselines recorded: 2 unchanged" in result.outlines
    assert (pytester.path / FILE).read_bytes() == before


# -- judge -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("recorded")
def test_more_than_before_fails_with_the_cause(
    pytester: pytest.Pytester, run: Run, monkeypatch: pytest.MonkeyPatch, failed: Any
) -> None:
    monkeypatch.setenv("LIST", "list_lazily")

    result = run()

    result.assert_outcomes(passed=2, failed=1)
    assert failed(result) == ["test_list"]
    lines = (pytester.path / FILE).read_text().splitlines()
    of_test = lines.index('  "test_list": {')
    number = next(
        n for n, line in enumerate(lines[of_test:], of_test + 1) if '"sql_queries": 2' in line
    )
    source = (pytester.path / "shop.py").read_text().splitlines()
    line = next(n for n, text in enumerate(source, 1) if "resource.owner.email" in text)
    result.stdout.fnmatch_lines(
        [
            "perfguard: 3 metrics worse than the baseline in test_list",
            f"  sql_queries     21 > 2   baseline, {FILE}:{number}",
            "since the baseline:",
            f"    +20x SELECT users.id, * WHERE users.id = ?  at shop.py:{line} in list_lazily",
            "    -1x SELECT users.id, * WHERE users.id IN (...)  at shop.py:* in list_eagerly",
            "20x Resource.owner lazy-loaded one row at a time",
            f"    at shop.py:{line} in list_lazily",
            "    fix: select(Resource).options(selectinload(Resource.owner))*",
        ],
        consecutive=False,
    )
    result.stdout.fnmatch_lines("FAILED test_guarded.py::test_list - *3 metrics worse than the*")


@pytest.mark.usefixtures("recorded")
def test_less_than_before_is_told_and_passes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIST", "1")
    result = run()
    result.assert_outcomes(passed=3)
    title = "better than the baseline (--perfguard-update keeps it so):"
    assert "  sql_queries 2 -> 1 in test_guarded.py::test_list" in lines_after(result, title)


@pytest.mark.usefixtures("recorded")
def test_as_much_by_other_statements_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIST", "1 2")
    # They fetch fewer rows, which hides nothing of what they are.
    result = run()
    result.assert_outcomes(passed=3)
    told = lines_after(result, "other operations than in the baseline: test_guarded.py::test_list")
    assert told[0].startswith("  +2x SELECT users.id, ")
    assert [line[:6] for line in told[1:]] == ["  -1x ", "  -1x "]


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("mode", ["marked", "all"])
def test_what_does_no_sql_any_more_proves_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv("LIST", "")
    result = run(f"--perfguard-baseline={mode}", "-k", "test_list")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "perfguard: 1 baseline unproven in test_list",
            f"  sql_queries  unproven (was 2)   baseline, {FILE}:*",
            "      nothing was observed for it in test_list, where the baseline has 2: if that is*",
        ]
    )


def test_the_first_use_of_a_cache_is_a_regression(
    pytester: pytest.Pytester, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        test_cached="""
        import os, fakeredis, pytest, shop

        client = fakeredis.FakeRedis()

        @pytest.mark.perf_baseline
        def test_cached():
            shop.get_email(1)
            for n in range(int(os.environ.get("LOOKUPS", "0"))):
                client.get(f"user:{n}")
        """
    )
    run("--perfguard-update").assert_outcomes(passed=1)
    monkeypatch.setenv("LOOKUPS", "3")
    result = run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["  cache_commands *3 > 0   baseline, __perfguard__/test_cached.json"]
    )
    result.stdout.fnmatch_lines(
        ["since the baseline:", "    +3x GET user:{int}  at test_cached.py:*"]
    )


@pytest.mark.parametrize("where", ["test", "class", "module"])
def test_tolerances_are_read_from_the_nearest_mark(
    pytester: pytest.Pytester, run: Run, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = 'pytest.mark.perf_baseline(sql_queries="100%", sql_roundtrips=1, sql_rows=5)'
    marks = {place: f"@{mark}" if place == where else "" for place in ("class", "test")}
    pytester.makepyfile(
        test_tolerant=f"""
        import os, pytest, shop

        {f"pytestmark = {mark}" if where == "module" else ""}

        {marks["class"]}
        class TestIt:
            {marks["test"]}
            def test_it(self):
                for n in range(int(os.environ.get("TIMES", "1"))):
                    shop.get_email(n + 1)
        """
    )
    run("--perfguard-update").assert_outcomes(passed=1)
    monkeypatch.setenv("TIMES", "2")
    run().assert_outcomes(passed=1)
    monkeypatch.setenv("TIMES", "3")
    result = run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["  sql_queries     3 > 1 *", "      2 would be tolerated", "  sql_roundtrips  3 > 1 *"]
    )


@pytest.mark.parametrize(
    ("arguments", "mistake"),
    [
        ("5", "takes keywords only: write perf_baseline, or perf_baseline(sql_rows=*"),
        ("sql_querys=1", "*sql_querys*"),
        ("sql_time='1s'", "sql_time differs between machines and runs*"),
        ("sql_rows=-1", "sql_rows: *"),
        ("sql_rows='lots'", "sql_rows: *"),
        ("sql_rows='-10%'", "sql_rows: *"),
    ],
)
def test_a_tolerance_that_cannot_be_read_is_an_error(
    pytester: pytest.Pytester, run_once: Run, arguments: str, mistake: str
) -> None:
    pytester.makepyfile(
        test_x=f"""
        import pytest

        @pytest.mark.perf_baseline({arguments})
        def test_x():
            pass
        """
    )
    result = run_once()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"  perf_baseline, test_x.py:3: {mistake}"])


@pytest.mark.usefixtures("recorded")
def test_a_level_makes_a_regression_warn(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIST", "list_lazily")
    result = run("--perfguard-level=test_guarded.py: warn")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        [
            "warning: test_guarded.py::test_list: 3 metrics worse than the baseline in test_list",
            "  sql_queries     21 > 2   baseline, *  (only warns)",
        ]
    )


@pytest.mark.usefixtures("recorded")
def test_baselines_and_budgets_may_have_levels_of_their_own(
    run_once: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIST", "list_lazily")
    budget = "--perfguard-budgets=*test_list: sql_queries=5"
    both = run_once(budget)
    both.assert_outcomes(passed=2, failed=1)
    run_once(budget, "--perfguard-level=baselines: warn").assert_outcomes(passed=2, failed=1)
    run_once(budget, "--perfguard-level=budgets: warn").assert_outcomes(passed=2, failed=1)
    neither = run_once(
        budget, "--perfguard-level=baselines: warn", "--perfguard-level=test_*.py budgets: warn"
    )
    neither.assert_outcomes(passed=3)
    assert neither.stdout.str().count("(only warns)") == 4


# -- new ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("guarded")
def test_a_new_test_is_told_and_passes(pytester: pytest.Pytester, run: Run) -> None:
    result = run()
    result.assert_outcomes(passed=3)
    assert lines_after(result, "2 tests without a baseline (--perfguard-update records it):") == [
        "  test_guarded.py::test_email",
        "  test_guarded.py::test_list",
    ]
    assert not (pytester.path / FILE).exists()


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize(
    ("in_ci", "option", "failures"),
    [
        ("true", "auto", 2),
        ("false", "auto", 0),
        ("true", "warn", 0),
        ("", "fail", 2),
    ],
)
def test_a_new_test_fails_in_ci(
    run_once: Run, monkeypatch: pytest.MonkeyPatch, in_ci: str, option: str, failures: int
) -> None:
    monkeypatch.setenv("CI", in_ci)
    result = run_once(f"-operfguard_new={option}")
    result.assert_outcomes(passed=3 - failures, failed=failures)
    if failures:
        result.stdout.fnmatch_lines(
            [
                "perfguard: no baseline to compare with in test_list",
                f"  {FILE}: no baseline: record it with --perfguard-update, and commit the file",
            ]
        )


@pytest.mark.usefixtures("guarded")
def test_a_new_test_is_recorded_in_ci_too_when_asked(
    run_once: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    run_once("--perfguard-update").assert_outcomes(passed=3)
    run_once().assert_outcomes(passed=3)


@pytest.mark.usefixtures("recorded")
def test_a_baseline_of_another_database_is_none(
    pytester: pytest.Pytester, run_once: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pytester.path / FILE
    path.write_text(path.read_text().replace('"sqlite"', '"postgresql"'))
    monkeypatch.setenv("CI", "true")
    result = run_once()
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines([f"  {FILE}: no baseline for sqlite, only for postgresql: record*"])


# -- which tests -------------------------------------------------------------------------------


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize(
    ("lines", "tests"),
    [
        ("all", ["test_email", "test_list", "test_unmarked"]),
        ("marked", ["test_email", "test_list"]),
        ("off", []),
        ("test_guarded.py: all", ["test_email", "test_list", "test_unmarked"]),
        ("all\n    *test_email: off", ["test_list", "test_unmarked"]),
        ("off\n    *test_email: marked", ["test_email"]),
        ("other/: all", ["test_email", "test_list"]),
    ],
)
def test_modes_say_which_tests_are_compared(
    pytester: pytest.Pytester, run_once: Run, held: Held, lines: str, tests: list[str]
) -> None:
    pytester.makeini(f"[pytest]\nperfguard_baseline =\n    {lines}\n")
    run_once("--perfguard-update").assert_outcomes(passed=3)
    assert (sorted(held()) if tests else []) == tests
    assert (pytester.path / FILE).exists() == bool(tests)


@pytest.mark.usefixtures("recorded")
def test_what_is_switched_off_is_told_in_each_run(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIST", "list_lazily")
    result = run("--perfguard-baseline=off")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        "warning: baselines are switched off for 2 marked tests (perfguard_baseline)"
    )


@pytest.mark.usefixtures("recorded")
def test_what_is_switched_off_is_not_gone(pytester: pytest.Pytester, run: Run, held: Held) -> None:
    for options in ((), ("--perfguard-update",)):
        result = run("--perfguard-baseline=*test_email: off", *options)
        assert "is gone" not in result.stdout.str()
        assert "nothing asks for it" not in result.stdout.str()
    assert set(held()) == {"test_list", "test_email"}


@pytest.mark.parametrize("line", ["everything", "tests: alll", ":"])
def test_a_mode_that_cannot_be_read_is_an_error(run_once: Run, line: str) -> None:
    result = run_once(f"--perfguard-baseline={line}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(f"*perfguard_baseline, '{line}': *is none of all, marked, off*")


def test_a_suite_with_no_edits_has_baselines_of_what_counts_only(
    pytester: pytest.Pytester, run: Run, held: Held
) -> None:
    pytester.makepyfile(
        test_plain="""
        import unittest, shop

        def test_nothing():
            pass

        class TestIt:
            def test_email(self):
                shop.get_email(1)

        class Case(unittest.TestCase):
            def setUp(self):
                shop.list_lazily()

            def test_email(self):
                shop.get_email(1)
        """
    )
    run("--perfguard-baseline=all", "--perfguard-update").assert_outcomes(passed=3)
    found = held("__perfguard__/test_plain.json")
    assert {test: values["sql_queries"] for test, values in found.items()} == {
        "TestIt::test_email": 1,
        "Case::test_email": 1,
    }
    result = run("--perfguard-baseline=all")
    result.assert_outcomes(passed=3)
    assert "without a baseline" not in result.stdout.str()


@pytest.mark.usefixtures("recorded")
def test_a_suite_with_no_edits_forgets_what_counts_no_more_when_asked(
    run: Run, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("--perfguard-baseline=all", "--perfguard-update")
    monkeypatch.setenv("UNMARKED", "")
    result = run("--perfguard-baseline=all")
    result.assert_outcomes(passed=2, failed=1)
    run("--perfguard-baseline=all", "--perfguard-update").assert_outcomes(passed=3)
    assert set(held()) == {"test_list", "test_email"}
    run("--perfguard-baseline=all").assert_outcomes(passed=3)


def test_a_marked_test_that_does_nothing_cannot_be_recorded(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makepyfile(
        test_idle="""
        import pytest

        @pytest.mark.perf_baseline
        def test_idle():
            pass
        """
    )
    for options in ((), ("--perfguard-update",)):
        result = run(*options)
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            ["  perf_baseline: nothing was observed that a baseline could*"]
        )
    assert not (pytester.path / "__perfguard__").exists()


# -- approve -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("selection", [("-k", "test_list"), ("test_guarded.py::test_list",)])
def test_an_update_keeps_what_it_did_not_run(
    run: Run, held: Held, monkeypatch: pytest.MonkeyPatch, selection: tuple[str, ...]
) -> None:
    monkeypatch.setenv("LIST", "list_lazily")
    monkeypatch.setenv("EMAIL", "1 2 3")

    result = run(*selection, "--perfguard-update")

    # What is deselected is known to the workers of xdist alone.
    assert (result.ret, result.parseoutcomes()["passed"]) == (0, 1)
    assert [line for line in lines_after(result, "baselines recorded:") if "->" in line][:1] == [
        "      sql_n_plus_one  0 -> 1"
    ]
    assert {test: values["sql_queries"] for test, values in held().items()} == {
        "test_list": 21,
        "test_email": 1,
    }
    why = "-k" if "-k" in selection else "single tests were named"
    result.stdout.fnmatch_lines(f"baselines of tests that are gone are kept: {why} (*")


@pytest.mark.usefixtures("recorded")
def test_an_update_does_not_record_what_fails(
    pytester: pytest.Pytester, run: Run, held: Held
) -> None:
    path = pytester.path / "test_guarded.py"
    path.write_text(
        path.read_text() + "\n\ntest_list.__code__ = (lambda: shop.list_lazily() / 0).__code__\n"
    )

    result = run("--perfguard-update")

    result.assert_outcomes(passed=2, failed=1)
    assert "  not recorded, because it failed: test_guarded.py::test_list" in result.outlines
    assert held()["test_list"]["sql_queries"] == 2


@pytest.mark.usefixtures("recorded")
def test_a_gain_is_kept_by_the_ratchet(
    pytester: pytest.Pytester, run: Run, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeini("[pytest]\nperfguard_ratchet = true\n")
    monkeypatch.setenv("LIST", "1")
    result = run()
    result.assert_outcomes(passed=3)
    assert "      sql_queries     2 -> 1" in lines_after(result, "baselines tightened:")
    assert held()["test_list"]["sql_queries"] == 1
    monkeypatch.delenv("LIST")
    run().assert_outcomes(passed=2, failed=1)


@pytest.mark.usefixtures("recorded")
def test_a_failing_test_is_not_tightened(
    pytester: pytest.Pytester, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (pytester.path / FILE).read_bytes()
    monkeypatch.setenv("LIST", "1")
    result = run("--perfguard-ratchet", "--perfguard-budgets=*test_list: sql_queries=0")
    result.assert_outcomes(passed=2, failed=1)
    assert (pytester.path / FILE).read_bytes() == before


NOISY = """
    import os, random, pytest, shop

    @pytest.mark.perf_baseline
    def test_noisy():
        # Another process, another hash seed: more or less of it by chance.
        with open("runs", "a") as file:
            file.write("x")
        for n in range(os.path.getsize("runs") % 2 + 1):
            shop.get_email(n + 1)

    @pytest.mark.perf_baseline
    def test_steady():
        shop.get_email(1)
"""


def test_verify_stores_a_range_where_two_runs_differ(
    pytester: pytest.Pytester, run: Run, run_once: Run, held: Held
) -> None:
    pytester.makepyfile(test_noisy=NOISY)
    file = "__perfguard__/test_noisy.json"

    result = run("--perfguard-update=verify")

    result.assert_outcomes(passed=2)
    assert held(file)["test_noisy"]["sql_queries"] == [1, 2]
    assert held(file)["test_steady"]["sql_queries"] == 1
    told = lines_after(result, "baselines recorded:")
    assert "      differed between two runs: sql_queries, sql_roundtrips, sql_rows" in told
    # From here on neither is a change, for the better or the worse.
    before = (pytester.path / file).read_bytes()
    for _ in range(2):
        again = run_once()
        again.assert_outcomes(passed=2)
        assert "better than" not in again.stdout.str()
        assert "other operations" not in again.stdout.str()
        run_once("--perfguard-update", "-k", "steady or noisy")
    assert (pytester.path / file).read_bytes() == before


def test_verify_asks_with_the_options_of_the_session(
    pytester: pytest.Pytester, run_once: Run, held: Held
) -> None:
    pytester.makepyfile(test_noisy=NOISY)
    pytester.makeini("[pytest]\naddopts = -k noisy\n")
    run_once("-q", "--lf", "-x", "test_noisy.py", "--perfguard-json=run.json",
             "--perfguard-update=verify").assert_outcomes(passed=2, deselected=0)  # fmt: skip
    assert held("__perfguard__/test_noisy.json")["test_noisy"]["sql_queries"] == [1, 2]
    assert json.loads((pytester.path / "run.json").read_text())["records"]


def test_verify_that_cannot_be_done_records_nothing_and_fails(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    pytester.makepyfile(
        test_once="""
        import os, pytest, shop

        @pytest.mark.perf_baseline
        def test_once():
            shop.get_email(1)
            assert not os.path.exists("runs")
            open("runs", "w").close()
        """
    )
    result = run_once("--perfguard-update=verify")
    result.assert_outcomes(passed=1)
    told = lines_after(result, "baselines recorded:")
    assert told[-1] == "      not recorded: it did not pass when it was run once more"
    assert not (pytester.path / "__perfguard__").exists()


# -- files that cannot be used -------------------------------------------------------------------


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("options", [(), ("--perfguard-update",), ("--perfguard-ratchet",)])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        ('{"schema": 1, "te', "is not JSON: *"),
        ('{"schema": 2, "tests": {}}', "has schema 2, *"),
        ('{"version": 3}', "is not a file of baselines"),
        ("<<<<<<< HEAD\n{}", "holds the marks of a merge conflict, in line 1"),
    ],
    ids=["empty", "truncated", "newer", "foreign", "conflict"],
)
def test_a_broken_file_fails_closed_and_stays(
    pytester: pytest.Pytester,
    run_once: Run,
    options: tuple[str, ...],
    content: str,
    reason: str,
) -> None:
    path = pytester.path / FILE
    path.write_text(content)
    result = run_once(*options)
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines([f"  {FILE} {reason}: *"])
    assert path.read_text() == content


@pytest.mark.usefixtures("recorded")
def test_a_broken_file_fails_in_every_worker(pytester: pytest.Pytester, run_once: Run) -> None:
    (pytester.path / FILE).write_bytes(b"\xff\xfe\x00")
    result = run_once("-n2")
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines([f"  {FILE} is not UTF-8: *: restore it from version control*"])


@pytest.mark.usefixtures("recorded")
def test_a_file_that_breaks_meanwhile_is_a_failure_of_the_session(
    pytester: pytest.Pytester, run: Run
) -> None:
    path = pytester.path / "test_guarded.py"
    path.write_text(f"{path.read_text()}\n    open({FILE!r}, 'w').close()\n")
    result = run("--perfguard-update")
    result.assert_outcomes(passed=3)
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    result.stdout.fnmatch_lines(f"warning: {FILE} is empty: restore it*")
    assert (pytester.path / FILE).read_bytes() == b""


@pytest.mark.usefixtures("guarded")
def test_a_folder_that_cannot_be_made_is_a_failure_of_the_session(
    pytester: pytest.Pytester, run: Run
) -> None:
    # As little can be written here as into a folder that is read-only, by whichever user.
    pytester.makeconftest(
        """
        import pathlib

        def pytest_sessionfinish(session):
            if not hasattr(session.config, "workerinput"):
                pathlib.Path("__perfguard__").touch()
        """
    )
    result = run("--perfguard-update")
    result.assert_outcomes(passed=3)
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    result.stdout.fnmatch_lines(f"warning: {FILE} cannot be *: check *permissions*")


@pytest.mark.usefixtures("guarded")
@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere"
)
def test_a_read_only_folder_is_a_failure_of_the_session(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    folder = pytester.mkdir("__perfguard__")
    folder.chmod(0o500)
    result = run_once("--perfguard-update")
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    result.stdout.fnmatch_lines(f"warning: {FILE} cannot be written: Permission denied: check*")


# -- what is gone --------------------------------------------------------------------------------


def rename(pytester: pytest.Pytester, old: str, new: str) -> None:
    path = pytester.path / "test_guarded.py"
    path.write_text(path.read_text().replace(f"def {old}(", f"def {new}("))


@pytest.mark.usefixtures("recorded")
def test_a_renamed_test_is_named_with_its_new_name(
    pytester: pytest.Pytester, run: Run, held: Held
) -> None:
    rename(pytester, "test_list", "test_all_of_them")
    result = run()
    result.assert_outcomes(passed=3)
    told = f"{FILE}: test_list is gone: renamed to test_guarded.py::test_all_of_them?"
    assert f"warning: baseline: {told}" in result.outlines
    assert set(held()) == {"test_list", "test_email"}


@pytest.mark.usefixtures("recorded")
def test_a_test_that_is_gone_is_removed_by_a_whole_green_update(
    pytester: pytest.Pytester, run: Run, held: Held
) -> None:
    rename(pytester, "test_list", "helper_list")
    before = (pytester.path / FILE).read_bytes()
    assert f"warning: baseline: {FILE}: test_list is gone" in run().outlines
    assert (pytester.path / FILE).read_bytes() == before

    result = run("--perfguard-update")

    assert lines_after(result, "baselines removed:") == [f"  {FILE}: test_list is gone"]
    assert set(held()) == {"test_email"}


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("-k", "test"), "-k"),
        (("-m", "performance"), "-m"),
        (("--lf",), "--lf"),
        (("--sw",), "--stepwise"),
        (("--deselect", "test_guarded.py::test_email"), "--deselect"),
        (("--ignore", "other"), "--ignore"),
        (("test_guarded.py::test_email",), "single tests were named"),
        (("--setup-only",), "--setup-only"),
    ],
)
def test_nothing_is_removed_where_a_part_ran(
    pytester: pytest.Pytester, run_once: Run, held: Held, options: tuple[str, ...], why: str
) -> None:
    rename(pytester, "test_list", "helper_list")
    result = run_once("--perfguard-update", *options)
    told = f"baselines of tests that are gone are kept: {why} (perfguard prune removes them)"
    assert told in result.outlines
    assert set(held()) == {"test_list", "test_email"}


@pytest.mark.usefixtures("recorded")
def test_nothing_is_removed_by_a_run_that_only_collects(
    pytester: pytest.Pytester, run_once: Run, held: Held
) -> None:
    rename(pytester, "test_list", "helper_list")
    run_once("--perfguard-update", "--collect-only")
    assert set(held()) == {"test_list", "test_email"}


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("options", [(), ("-x",)])
def test_nothing_is_removed_after_a_failure(
    pytester: pytest.Pytester, run: Run, held: Held, options: tuple[str, ...]
) -> None:
    rename(pytester, "test_list", "helper_list")
    path = pytester.path / "test_guarded.py"
    path.write_text(f"{path.read_text()}\n    assert False\n")
    result = run("--perfguard-update", *options)
    if not options:
        assert f"warning: baseline: {FILE}: test_list is gone" in result.outlines
        told = "baselines of tests that are gone are kept: a test failed (perfguard prune*"
        result.stdout.fnmatch_lines(told)
    assert set(held()) == {"test_list", "test_email"}


@pytest.mark.usefixtures("recorded")
def test_nothing_is_removed_after_a_worker_was_lost(
    pytester: pytest.Pytester, run_once: Run, held: Held
) -> None:
    rename(pytester, "test_list", "helper_list")
    path = pytester.path / "test_guarded.py"
    path.write_text(f"{path.read_text()}\n    os._exit(3)\n")
    run_once("-n2", "--perfguard-update")
    assert set(held()) == {"test_list", "test_email"}


@pytest.mark.usefixtures("recorded")
def test_nothing_is_gone_where_a_module_cannot_be_imported_or_is_skipped(
    pytester: pytest.Pytester, run: Run, held: Held
) -> None:
    path = pytester.path / "test_guarded.py"
    source = path.read_text()
    pytester.makepyfile(test_other=ONE)
    for line in ("import nothing_of_the_kind", "pytest.skip('not here', allow_module_level=True)"):
        path.write_text(
            source.replace("import os, pytest, shop", f"import os, pytest, shop\n{line}")
        )
        result = run("--perfguard-update", "--continue-on-collection-errors")
        assert "is gone" not in result.stdout.str()
        assert set(held()) == {"test_list", "test_email"}


def test_the_baselines_of_a_module_that_is_gone_are_named(
    pytester: pytest.Pytester, run: Run, guarded: None
) -> None:
    pytester.makepyfile(**{"test_other": ONE, "node_modules/test_dep": ONE})
    run("--perfguard-update", "node_modules/test_dep.py").assert_outcomes(passed=1)
    run("--perfguard-update").assert_outcomes(passed=4)
    (pytester.path / "test_other.py").unlink()
    (pytester.path / "node_modules" / "test_dep.py").unlink()

    result = run()
    gone = [line for line in result.outlines if "is gone" in line]
    # Nobody looks for tests in node_modules.
    assert gone == ["warning: baseline: __perfguard__/test_other.json: test_one is gone"]
    # Who runs one module is not told of others.
    assert "is gone" not in run("test_guarded.py").stdout.str()

    run("--perfguard-update")
    assert not (pytester.path / "__perfguard__" / "test_other.json").exists()
    assert (pytester.path / FILE).exists()


@pytest.mark.usefixtures("recorded")
def test_the_last_baseline_that_nothing_asks_for_is_removed(
    pytester: pytest.Pytester, run: Run
) -> None:
    path = pytester.path / "test_guarded.py"
    path.write_text(path.read_text().replace("@pytest.mark.perf_baseline\n", "\n"))
    result = run("--perfguard-update")
    assert lines_after(result, "baselines removed:") == [
        f"  {FILE}: {test} is compared with its baseline no more: nothing asks for it"
        for test in ("test_email", "test_list")
    ]
    assert not (pytester.path / FILE).exists()


def prune(pytester: pytest.Pytester, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("perfguard"), "prune", *arguments],
        cwd=pytester.path,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


@pytest.mark.usefixtures("recorded")
def test_prune_removes_without_running(pytester: pytest.Pytester, held: Held) -> None:
    rename(pytester, "test_list", "helper_list")
    path = pytester.path / "test_guarded.py"
    path.write_text(f"{path.read_text()}\n    assert False\n")

    dry = prune(pytester, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert dry.stdout == f"baselines to be removed:\n  {FILE}: test_list is gone\n"
    assert set(held()) == {"test_list", "test_email"}

    done = prune(pytester)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"baselines removed:\n  {FILE}: test_list is gone\n"
    assert set(held()) == {"test_email"}
    assert prune(pytester).stdout == "no baseline is of a test that is gone\n"


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--", "test_guarded.py::test_email"], "single tests were named"),
        (["--", "--lf"], "--lf"),
        (["--", "--no-such-option"], "the tests cannot be collected"),
        (["--", "no_such_file.py"], "the tests cannot be collected"),
    ],
)
def test_prune_refuses_what_hides_tests(
    pytester: pytest.Pytester, held: Held, arguments: list[str], error: str
) -> None:
    rename(pytester, "test_list", "helper_list")
    done = prune(pytester, *arguments)
    assert done.returncode == 3
    assert error in done.stderr
    assert set(held()) == {"test_list", "test_email"}


@pytest.mark.usefixtures("recorded")
def test_prune_may_be_asked_of_a_part_and_with_selections(
    pytester: pytest.Pytester, held: Held
) -> None:
    """What is deselected was found, and is not taken for gone."""
    rename(pytester, "test_list", "helper_list")
    done = prune(pytester, "--", "test_guarded.py", "-k", "nothing", "-n2")
    assert done.returncode == 0, done.stderr
    assert set(held()) == {"test_email"}


@pytest.mark.usefixtures("recorded")
def test_prune_of_a_suite_that_cannot_be_imported_removes_nothing(
    pytester: pytest.Pytester, held: Held
) -> None:
    (pytester.path / "test_guarded.py").write_text("import nothing_of_the_kind\n")
    done = prune(pytester)
    assert done.returncode == 3
    assert "nothing_of_the_kind" in done.stderr
    assert set(held()) == {"test_list", "test_email"}


# -- names and places ----------------------------------------------------------------------------


def test_any_id_is_found_again(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        test_ids=r"""
        import pytest, shop

        @pytest.mark.perf_baseline
        @pytest.mark.parametrize(
            "name",
            ['a"b', "n\nl", "[x]", "ü", "\ud800", "a::b", "\U0001f4a5", "\\", "a/b", " ", "\0"],
        )
        def test_id(name):
            shop.get_email(1)
        """
    )
    run("--perfguard-update").assert_outcomes(passed=11)
    result = run("--perfguard-new=fail")
    result.assert_outcomes(passed=11)
    assert f"11 baselines compared: {11 * KEPT} ok" in result.stdout.str()
    assert "is gone" not in result.stdout.str()


def test_unicode_ids_may_be_written_as_they_are(
    pytester: pytest.Pytester, run: Run, held: Held
) -> None:
    pytester.makeini(
        "[pytest]\ndisable_test_id_escaping_and_forfeit_all_rights_to_community_support = true\n"
    )
    pytester.makepyfile(
        test_ids=r"""
        import pytest, shop

        @pytest.mark.perf_baseline
        @pytest.mark.parametrize("name", ["größe", "\U0001f4a5", "a\u2028b"])
        def test_id(name):
            shop.get_email(1)
        """
    )
    run("--perfguard-update").assert_outcomes(passed=3)
    assert "test_id[größe]" in held("__perfguard__/test_ids.json")
    result = run("--perfguard-new=fail")
    result.assert_outcomes(passed=3)


def test_modules_of_the_same_name_have_files_of_their_own(
    pytester: pytest.Pytester, run: Run, held: Held
) -> None:
    source = "import pytest, shop\n@pytest.mark.perf_baseline\ndef test_x():\n    shop.{}\n"
    for folder, call in (("a", "get_email(1)"), ("b", "list_eagerly()")):
        pytester.mkpydir(folder)
        (pytester.path / folder / "test_same.py").write_text(source.format(call))
    run("--perfguard-update").assert_outcomes(passed=2)
    assert held("a/__perfguard__/test_same.json")["test_x"]["sql_queries"] == 1
    assert held("b/__perfguard__/test_same.json")["test_x"]["sql_queries"] == 2
    run("--perfguard-new=fail").assert_outcomes(passed=2)


def test_modules_outside_the_root_have_files_beside_them(
    pytester: pytest.Pytester, run: Run, held: Held
) -> None:
    """Even where one inside has the same name, which is not taken for it."""
    source = (
        "import pytest, shop\n@pytest.mark.perf_baseline\ndef test_{}():\n    shop.get_email(1)\n"
    )
    outside, root = pytester.mkdir("outside"), pytester.mkdir("root")
    (root / "pytest.ini").write_text("[pytest]\npythonpath = ..\n")
    (outside / "test_same.py").write_text(source.format("outside"))
    (root / "test_same.py").write_text(source.format("inside"))
    options = ("--rootdir=root", "-croot/pytest.ini", "--import-mode=importlib")
    run(*options, "root/test_same.py", "--perfguard-update").assert_outcomes(passed=1)

    result = run(*options, "outside/test_same.py", "--perfguard-update")

    result.assert_outcomes(passed=1)
    assert "is gone" not in result.stdout.str()
    assert set(held("outside/__perfguard__/test_same.json")) == {"test_outside"}
    assert set(held("root/__perfguard__/test_same.json")) == {"test_inside"}
    both = run(*options, "outside/test_same.py", "root/test_same.py", "--perfguard-new=fail")
    both.assert_outcomes(passed=2)


def test_doctests_may_have_baselines(pytester: pytest.Pytester, run: Run, held: Held) -> None:
    pytester.maketxtfile(test_guide=">>> import shop\n>>> shop.get_email(1)\n'1@shop'\n")
    pytester.makepyfile(
        documented='''
        import shop

        def email():
            """
            >>> import shop
            >>> shop.get_email(1)
            '1@shop'
            """
        '''
    )
    options = ("--doctest-modules", "--perfguard-baseline=all", "--ignore=shop.py")
    run(*options, "--perfguard-update").assert_outcomes(passed=2)
    assert held("__perfguard__/test_guide.txt.json")["test_guide.txt"]["sql_queries"] == 1
    assert held("__perfguard__/documented.json")["documented.email"]["sql_queries"] == 1
    result = run(*options, "--perfguard-new=fail")
    result.assert_outcomes(passed=2)
    assert "2 baselines compared" in result.stdout.str()


def test_methods_and_inherited_tests_have_baselines(
    pytester: pytest.Pytester, run: Run, held: Held
) -> None:
    pytester.makepyfile(
        base="import shop\nclass Base:\n    def test_it(self):\n        shop.get_email(1)\n",
        test_classes="""
        import unittest, pytest, shop
        from base import Base

        @pytest.mark.perf_baseline
        class TestInherited(Base):
            pass

        @pytest.mark.perf_baseline
        class TestOld(unittest.TestCase):
            def setUp(self):
                shop.list_lazily()

            def test_it(self):
                shop.get_email(1)
        """,
    )
    run("--perfguard-update").assert_outcomes(passed=2)
    found = held("__perfguard__/test_classes.json")
    assert {test: values["sql_queries"] for test, values in found.items()} == {
        "TestInherited::test_it": 1,
        "TestOld::test_it": 1,
    }
    run("--perfguard-new=fail").assert_outcomes(passed=2)


# -- outcomes ------------------------------------------------------------------------------------


def test_a_skipped_test_keeps_its_baseline_and_an_expected_failure_has_none(
    pytester: pytest.Pytester, run: Run, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        test_outcomes="""
        import os, pytest, shop

        pytestmark = pytest.mark.perf_baseline

        @pytest.mark.skipif("os.environ.get('SKIP')")
        def test_skipped():
            shop.get_email(1)

        @pytest.mark.xfail
        def test_expected():
            shop.get_email(1)
            assert False

        def test_email():
            shop.get_email(1)
        """
    )
    file = "__perfguard__/test_outcomes.json"
    run("--perfguard-update").assert_outcomes(passed=2, xfailed=1)
    assert set(held(file)) == {"test_skipped", "test_email"}
    monkeypatch.setenv("SKIP", "1")
    result = run("--perfguard-update")
    result.assert_outcomes(passed=1, skipped=1, xfailed=1)
    assert "is gone" not in result.stdout.str()
    assert set(held(file)) == {"test_skipped", "test_email"}


def test_the_last_run_of_a_test_that_is_run_again_is_recorded(
    pytester: pytest.Pytester, run: Run, held: Held
) -> None:
    pytester.makepyfile(
        test_flaky="""
        import os, pytest, shop

        @pytest.mark.perf_baseline
        def test_flaky():
            shop.get_email(1)
            if not os.path.exists("failed"):
                open("failed", "w").close()
                shop.list_lazily()
                assert False
        """
    )
    result = run("--reruns=1", "--perfguard-update")
    result.assert_outcomes(passed=1)
    assert held("__perfguard__/test_flaky.json")["test_flaky"]["sql_queries"] == 1
    assert "not recorded" not in result.stdout.str()


@pytest.mark.usefixtures("recorded")
def test_verdicts_are_in_the_run_file(
    run: Run, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIST", "list_lazily")
    run("--perfguard-json=run.json")
    found = records()
    assert set(found) == {"test_list", "test_email"}
    statuses = {v.metric: v.status for v in found["test_list"].verdicts}
    assert statuses["sql_queries"] is Status.REGRESSED
    assert found["test_list"].baseline == FILE


# -- several sessions, several branches ------------------------------------------------------------


MANY = """
    import os, pytest, shop

    pytestmark = pytest.mark.perf_baseline

    @pytest.mark.parametrize("n", range(8))
    def test_email(n):
        for number in range(int(os.environ.get("TIMES", "1"))):
            shop.get_email(number + 1)
"""


def test_two_sessions_at_the_same_time_lose_nothing(pytester: pytest.Pytester, held: Held) -> None:
    """Each waits, when its tests are done, until the other's are: both then write at once."""
    pytester.makepyfile(test_many=MANY)
    pytester.makeconftest(
        """
        import os, time, pytest

        @pytest.hookimpl(tryfirst=True)
        def pytest_sessionfinish(session):
            open(f"done-{os.environ['NAME']}", "w").close()
            while not os.path.exists(f"done-{os.environ['OTHER']}"):
                time.sleep(0.001)
        """
    )
    halves = {"low": "0] or 1] or 2] or 3]", "high": "4] or 5] or 6] or 7]"}
    sessions = [
        subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "--perfguard-update", "-k", halves[name]],
            cwd=pytester.path,
            env={**os.environ, "NAME": name, "OTHER": other, "TIMES": str(len(name))},
            stdout=subprocess.PIPE,
        )
        for name, other in (("low", "high"), ("high", "low"))
    ]
    for session in sessions:
        output, _ = session.communicate(timeout=120)
        assert session.returncode == 0, output
    found = held("__perfguard__/test_many.json")
    assert [found[f"test_email[{n}]"]["sql_queries"] for n in range(8)] == [3] * 4 + [4] * 4


def git(pytester: pytest.Pytester, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-c", "user.name=A", "-c", "user.email=a@example.org", *arguments],
        cwd=pytester.path,
        env={**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_branches_that_update_other_tests_merge(
    pytester: pytest.Pytester, run_once: Run, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(test_many=MANY)
    run_once("--perfguard-update").assert_outcomes(passed=8)
    file = "__perfguard__/test_many.json"
    git(pytester, "init", "-q", "-b", "main")
    git(pytester, "add", file, "test_many.py")
    git(pytester, "commit", "-q", "-m", "Record")
    for branch, test, times in (("left", "1]", "5"), ("right", "5]", "7")):
        git(pytester, "checkout", "-q", "-b", branch, "main")
        monkeypatch.setenv("TIMES", times)
        run_once("--perfguard-update", "-k", test).assert_outcomes(passed=1, deselected=7)
        numbers = git(pytester, "diff", "--numstat").split()
        # The values that moved, and the count of the one statement.
        assert numbers == ["6", "6", file] or int(numbers[0]) <= 8, numbers
        git(pytester, "commit", "-q", "-a", "-m", branch)

    git(pytester, "merge", "-q", "-m", "Merge", "left")

    found = held(file)
    assert [found[f"test_email[{n}]"]["sql_queries"] for n in range(8)] == [1, 5, 1, 1, 1, 7, 1, 1]
    monkeypatch.delenv("TIMES")
    assert not re.search("[<>=]{7}", (pytester.path / file).read_text())
