"""``perf_waive`` marks: breaches of budgets and baselines that are tolerated for a while."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_perfguard.model import Record
from tests.integration.test_baselines import KEPT

Run = Callable[..., pytest.RunResult]
Write = Callable[[str], None]

WAIVER = (
    '"sql_queries", "sql_roundtrips", "sql_n_plus_one", reason="slow mailer", until="2199-01-01"'
)


@pytest.fixture(autouse=True)
def outside_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)


@pytest.fixture
def waived(pytester: pytest.Pytester) -> Write:
    """Write a test of 21 statements with a budget of 2, and a mark of waiver, from line 4 on."""

    def write(arguments: str) -> None:
        pytester.makepyfile(
            test_waived=f"""
            import os, pytest, shop

            @pytest.mark.perf_budget(sql_queries=2)
            @pytest.mark.perf_waive({arguments})
            def test_list():
                getattr(shop, os.environ.get("LIST", "list_lazily"))()
            """
        )

    return write


@pytest.fixture
def recorded(pytester: pytest.Pytester, run_once: Run, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Record a test of 2 statements that will have 21, with a mark of waiver."""

    def write(arguments: str) -> None:
        pytester.makepyfile(
            test_waived=f"""
            import os, pytest, shop

            @pytest.mark.perf_baseline
            @pytest.mark.perf_waive({arguments})
            def test_list():
                getattr(shop, os.environ.get("LIST", "list_lazily"))()
            """
        )
        monkeypatch.setenv("LIST", "list_eagerly")
        run_once("--perfguard-update").assert_outcomes(passed=1)
        monkeypatch.delenv("LIST")

    return write


def test_a_budget_is_waived_in_the_open(
    run: Run, waived: Write, records: Callable[[], dict[str, Record]]
) -> None:
    waived('"sql_queries", reason="slow mailer", until="2199-01-01", cap=21, url="https://t/7"')
    result = run("--perfguard-json=run.json")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "waived until 2199-01-01: slow mailer (https://t/7)",
            "  sql_queries 21 > 2 in test_waived.py::test_list",
            "1 test measured, 21 statements on 1 engine, 1 budget judged: 1 waived",
        ]
    )
    assert "warning:" not in result.stdout.str()
    (verdict,) = records()["test_list"].verdicts
    assert verdict.waiver == "until 2199-01-01: slow mailer (https://t/7)"


def test_a_baseline_is_waived_in_the_open(run: Run, recorded: Write) -> None:
    recorded(WAIVER)
    result = run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "waived until 2199-01-01: slow mailer",
            "  sql_queries 21 > 2 in test_waived.py::test_list",
            "  sql_roundtrips 21 > 2 in test_waived.py::test_list",
            "  sql_n_plus_one 1 > 0 in test_waived.py::test_list",
            f"*1 baseline compared: {KEPT - 3} ok, 3 waived",
        ]
    )
    assert "warning:" not in result.stdout.str()


def test_a_waiver_of_one_metric_covers_no_other(run: Run, recorded: Write) -> None:
    recorded('"sql_queries", reason="slow mailer", until="2199-01-01"')
    result = run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines("perfguard: 2 metrics worse than the baseline in test_list")


@pytest.mark.parametrize("kind", ["waived", "recorded"])
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            f"{WAIVER}, cap=20",
            "      the waiver at test_waived.py:4 covers no more than 20: slow mailer",
        ),
        (
            WAIVER.replace("2199", "2020"),
            "      the waiver at test_waived.py:4 ended on 2020-01-01: slow mailer",
        ),
    ],
    ids=["above its cap", "after its end"],
)
def test_what_a_waiver_does_not_cover_fails(
    run_once: Run, request: pytest.FixtureRequest, kind: str, arguments: str, reason: str
) -> None:
    request.getfixturevalue(kind)(arguments)
    result = run_once()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["  sql_queries *21 > 2 *", reason])


def test_a_waiver_that_has_ended_is_told_though_nothing_needs_it(
    run: Run, waived: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    waived('"sql_queries", reason="slow mailer", until="2020-01-01"')
    monkeypatch.setenv("LIST", "list_eagerly")
    result = run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        "warning: test_waived.py:4: perf_waive for sql_queries ended on 2020-01-01: remove it, "
        "or renew it"
    )


def test_a_waiver_that_nothing_needs_is_told(
    run: Run, waived: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    waived('"sql_queries", "sql_rows", reason="slow mailer", until="2199-01-01"')
    result = run()
    result.assert_outcomes(passed=1)
    told = "warning: waiver for {} at test_waived.py:4 covers nothing any more: remove it"
    assert told.format("sql_rows") in result.outlines
    assert told.format("sql_queries") not in result.outlines
    monkeypatch.setenv("LIST", "list_eagerly")
    result = run("test_waived.py::test_list")
    assert told.format("sql_queries") in result.outlines


def test_a_test_that_fails_by_itself_does_not_tell_that_a_waiver_is_not_needed(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makepyfile(
        test_waived=f"""
        import pytest, shop

        @pytest.mark.perf_budget(sql_queries=2)
        @pytest.mark.perf_waive({WAIVER})
        def test_list():
            assert False
            shop.list_lazily()
        """
    )
    result = run()
    result.assert_outcomes(failed=1)
    assert "covers nothing" not in result.stdout.str()


@pytest.mark.parametrize(
    ("arguments", "mistake"),
    [
        ('"sql_queries", until="2199-01-01"', "has no reason: write perf_waive(*"),
        ('"sql_queries", reason="r"', "has no until: write perf_waive(*"),
        ('reason="r", until="2199-01-01"', "names no metric: *"),
        ('"sql_querys", reason="r", until="2199-01-01"', "*sql_querys*"),
        ('"sql_queries", reason="r", until="01.03.2199"', "until='01.03.2199' is no date: *"),
        ('"sql_queries", reason="r", until="2199-01-01", cap="1s"', "cap: *"),
        ('"sql_queries", reason="r", untill="2199-01-01"', "takes reason, *, not untill"),
    ],
)
def test_a_waiver_that_cannot_be_read_is_an_error(
    run_once: Run, waived: Write, arguments: str, mistake: str
) -> None:
    waived(arguments)
    result = run_once()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"  perf_waive, test_waived.py:4: {mistake}"])


def test_waivers_stand_on_classes_and_modules_and_the_nearest_wins(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makepyfile(
        test_nested="""
        import pytest, shop

        pytestmark = [
            pytest.mark.perf_budget(sql_queries=2),
            pytest.mark.perf_waive("sql_queries", reason="module", until="2199-01-01", cap=10),
        ]

        @pytest.mark.perf_waive("sql_queries", reason="class", until="2199-01-01", cap=30)
        class TestList:
            def test_class(self):
                shop.list_lazily()

            @pytest.mark.perf_waive("sql_queries", reason="test", until="2199-01-01")
            def test_test(self):
                shop.list_lazily()

        def test_module():
            shop.list_lazily()
        """
    )
    result = run()
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*the waiver at test_nested.py:5 covers no more than 10: module",
            "waived until 2199-01-01: class",
            "  sql_queries 21 > 2 in test_nested.py::TestList::test_class",
            "waived until 2199-01-01: test",
            "  sql_queries 21 > 2 in test_nested.py::TestList::test_test",
        ]
    )


def test_a_waived_breach_is_not_recorded_by_the_ratchet(
    pytester: pytest.Pytester, run_once: Run, recorded: Write
) -> None:
    recorded(WAIVER)
    path = pytester.path / "__perfguard__" / "test_waived.json"
    before = path.read_bytes()
    run_once("--perfguard-ratchet").assert_outcomes(passed=1)
    assert path.read_bytes() == before


def test_a_waiver_alone_measures_and_judges_nothing(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        test_alone=f"""
        import pytest, shop

        @pytest.mark.perf_waive({WAIVER})
        def test_list():
            shop.list_lazily()
        """
    )
    result = run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        "warning: waiver for sql_queries at test_alone.py:3 covers nothing*"
    )
