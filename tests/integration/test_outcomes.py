"""Budgets beside everything else that decides about a test: xfail, reruns, unittest, ..."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from xml.etree import ElementTree as ET

import pytest

from pytest_perfguard.model import Record

Run = Callable[..., pytest.RunResult]
Failed = Callable[[pytest.RunResult], list[str]]
Records = Callable[[], dict[str, Record]]

MARKS = """
    import pytest, shop

    @pytest.mark.xfail(reason="known")
    @pytest.mark.perf_budget(sql_queries=2)
    def test_xfail_over():
        shop.list_lazily()

    @pytest.mark.xfail(reason="known")
    @pytest.mark.perf_budget(sql_queries=2)
    def test_xfail_kept():
        shop.list_eagerly()

    @pytest.mark.xfail(reason="known", strict=True)
    @pytest.mark.perf_budget(sql_queries=2)
    def test_strict_xfail_over():
        shop.list_lazily()

    @pytest.mark.xfail(reason="known", strict=True)
    @pytest.mark.perf_budget(sql_queries=2)
    def test_strict_xfail_kept():
        shop.list_eagerly()

    @pytest.mark.xfail(reason="known", raises=ZeroDivisionError)
    @pytest.mark.perf_budget(sql_queries=2)
    def test_xfail_of_another_error():
        shop.list_lazily()

    @pytest.mark.skip(reason="not now")
    @pytest.mark.perf_budget(sql_queries=2)
    def test_skip():
        shop.list_lazily()

    @pytest.mark.skipif(True, reason="not here")
    @pytest.mark.perf_budget(sql_queries=2)
    def test_skipif():
        shop.list_lazily()

    @pytest.mark.perf_budget(sql_queries=2)
    def test_skip_inside():
        shop.list_lazily()
        pytest.skip("seen enough")

    @pytest.mark.perf_budget(sql_queries=2)
    def test_xfail_inside():
        shop.list_lazily()
        pytest.xfail("known")

    @pytest.fixture
    def broken():
        raise LookupError("in set-up")

    @pytest.fixture
    def broken_after():
        yield
        raise LookupError("in teardown")

    @pytest.mark.perf_budget(sql_queries=2)
    def test_set_up(broken):
        shop.list_lazily()

    @pytest.mark.perf_budget(sql_queries=2)
    def test_teardown_kept(broken_after):
        shop.list_eagerly()

    @pytest.mark.perf_budget(sql_queries=2)
    def test_teardown_over(broken_after):
        shop.list_lazily()
"""


def test_budgets_go_with_xfail_skip_and_failing_fixtures(
    pytester: pytest.Pytester, run: Run, failed: Failed, records: Records
) -> None:
    pytester.makepyfile(test_marks=MARKS)

    result = run("--perfguard-json=run.json")

    result.assert_outcomes(xfailed=3, xpassed=1, skipped=3, failed=3, passed=1, errors=3)
    assert failed(result) == [
        "test_strict_xfail_kept",
        "test_teardown_over",
        "test_xfail_of_another_error",
    ]
    assert {name: record.outcome for name, record in records().items()} == {
        "test_xfail_over": "skipped",
        "test_xfail_kept": "passed",
        "test_strict_xfail_over": "skipped",
        "test_strict_xfail_kept": "failed",
        "test_xfail_of_another_error": "failed",
        "test_skip_inside": "skipped",
        "test_xfail_inside": "skipped",
        "test_teardown_kept": "passed",
        "test_teardown_over": "failed",
    }


def test_the_first_breach_ends_the_session_where_that_is_asked_for(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    pytester.makepyfile(
        """
        import pytest, shop

        @pytest.mark.perf_budget(sql_queries=2)
        def test_over():
            shop.list_lazily()

        def test_after():
            pass
        """
    )

    run_once("-x").assert_outcomes(failed=1)


def test_the_last_failures_can_be_run_again(
    pytester: pytest.Pytester, run_once: Run, failed: Failed
) -> None:
    path = pytester.makepyfile(
        """
        import pytest, shop

        @pytest.mark.perf_budget(sql_queries=2)
        def test_over():
            shop.list_lazily()

        @pytest.mark.perf_budget(sql_queries=2)
        def test_kept():
            shop.list_eagerly()
        """
    )

    assert failed(run_once()) == ["test_over"]
    again = run_once("--lf")
    again.assert_outcomes(failed=1)
    path.write_text(path.read_text().replace("list_lazily", "list_eagerly  "))
    run_once("--lf").assert_outcomes(passed=1)


@pytest.mark.skipif(find_spec("pytest_rerunfailures") is None, reason="not installed")
def test_the_record_of_the_last_rerun_counts(
    pytester: pytest.Pytester, run: Run, failed: Failed, records: Records
) -> None:
    pytester.makepyfile(
        test_flaky="""
        import pytest, shop

        runs = []

        @pytest.mark.perf_budget(sql_queries=2)
        def test_flaky(perf):
            runs.append(1)
            with perf.measure("list", sql_queries=2):
                shop.list_lazily() if len(runs) < 3 else shop.list_eagerly()

        @pytest.mark.perf_budget(sql_queries=2)
        def test_over():
            shop.list_lazily()
        """
    )

    result = run("--reruns=2", "--perfguard-json=run.json", "--junitxml=junit.xml")

    assert result.parseoutcomes() == {"passed": 1, "failed": 1, "rerun": 4}
    assert failed(result) == ["test_over"]
    found = records()
    assert found["test_flaky"].metrics["sql_queries"] == 2
    assert [verdict.value for verdict in found["test_flaky"].verdicts] == [2, 2]
    result.stdout.fnmatch_lines(
        "2 tests measured, 23 statements on * 3 budgets judged: 2 ok, 1 over budget"
    )
    last = {
        case.attrib["name"]: [
            entry.attrib["value"]
            for entry in case.iter("property")
            if entry.attrib["name"] == "perfguard.sql_queries"
        ]
        for case in ET.parse(pytester.path / "junit.xml").iter("testcase")  # noqa: S314 - ours
    }
    assert last == {"test_flaky": ["2"], "test_over": ["21"]}


def test_unittest_classes_are_measured_without_their_set_up(
    pytester: pytest.Pytester, run: Run, failed: Failed, records: Records
) -> None:
    pytester.makepyfile(
        test_cases="""
        import unittest
        import pytest, shop

        @pytest.mark.perf_budget(sql_queries=2)
        class TestCase(unittest.TestCase):
            @classmethod
            def setUpClass(cls):
                shop.list_lazily()

            def setUp(self):
                shop.get_email(1)

            def tearDown(self):
                shop.get_email(1)

            def test_kept(self):
                shop.list_eagerly()

            def test_over(self):
                shop.list_lazily()

            @pytest.mark.perf_budget(sql_queries=21)
            def test_own(self):
                shop.list_lazily()

            @pytest.mark.perf_budget(sql_queries=3)
            def test_sub_over(self):
                for number in (1, 2):
                    with self.subTest(number=number):
                        shop.list_eagerly()

            @unittest.skip("not now")
            def test_skipped(self):
                shop.list_lazily()

            @unittest.expectedFailure
            def test_expected_failure(self):
                shop.list_lazily()
                self.fail()

        class TestAsyncCase(unittest.IsolatedAsyncioTestCase):
            async def asyncSetUp(self):
                shop.get_email(1)

            @pytest.mark.perf_budget(sql_queries=2)
            async def test_async_kept(self):
                shop.list_eagerly()

            @pytest.mark.perf_budget(sql_queries=2)
            async def test_async_over(self):
                shop.list_lazily()
        """
    )

    result = run("--perfguard-json=run.json")

    found = records()
    assert {name: record.metrics["sql_queries"] for name, record in found.items()} == {
        "test_kept": 2,
        "test_over": 21,
        "test_own": 21,
        "test_sub_over": 4,
        "test_expected_failure": 21,
        "test_async_kept": 2,
        "test_async_over": 21,
    }
    assert failed(result) == ["test_async_over", "test_over", "test_sub_over"]


def test_subtests_are_measured_as_one_test(
    pytester: pytest.Pytester, run: Run, records: Records
) -> None:
    pytester.makepyfile(
        """
        import pytest, shop

        @pytest.mark.perf_budget(sql_queries=4)
        def test_kept(subtests):
            for number in (1, 2):
                with subtests.test(number=number):
                    shop.list_eagerly()

        @pytest.mark.perf_budget(sql_queries=3)
        def test_over(subtests):
            for number in (1, 2):
                with subtests.test(number=number):
                    shop.list_eagerly()

        @pytest.mark.perf_budget(sql_queries=3)
        def test_over_and_failing(subtests):
            with subtests.test("one"):
                shop.list_lazily()
                assert False, "of the subtest"
        """
    )

    result = run("--perfguard-json=run.json", "--junitxml=junit.xml")

    assert {
        name: (record.metrics["sql_queries"], record.outcome) for name, record in records().items()
    } == {
        "test_kept": (4, "passed"),
        "test_over": (4, "failed"),
        "test_over_and_failing": (21, "failed"),
    }
    output = result.stdout.str()
    assert "perfguard: 1 of 1 budget exceeded in test_over\n" in output
    assert "of the subtest" in output
    result.stdout.fnmatch_lines("3 tests measured, 29 statements on *")


def test_doctests_are_measured(pytester: pytest.Pytester, run_once: Run, records: Records) -> None:
    pytester.makepyfile(
        documented='''
        """
        >>> len(shop.list_lazily())
        20
        """
        import shop

        def one():
            """
            >>> shop.get_email(1)
            '1@shop'
            """
        '''
    )

    result = run_once(
        "--doctest-modules", "documented.py", "--perfguard-json=run.json",
        "--perfguard-budgets=sql_queries=20",
    )  # fmt: skip

    result.assert_outcomes(passed=1, failed=1)
    assert {name: record.metrics["sql_queries"] for name, record in records().items()} == {
        "documented": 21,
        "documented.one": 1,
    }
    result.stdout.fnmatch_lines("perfguard: 1 of 1 budget exceeded in documented")


HOSTILE = {
    "unicode": "Größe-数据-🐘",
    "brackets": "a[b]c::d[",
    "newline": "one\\ntwo",
    "quote": 'it\'s \\"quoted\\" <b>&amp;',
    "long": "x" * 300,
    "percent": "100%s {0} {name}",
}


def test_hostile_node_ids_go_through_every_report(
    pytester: pytest.Pytester, run: Run, records: Records
) -> None:
    ids = ", ".join(f'"{text}"' for text in HOSTILE.values())
    pytester.makepyfile(
        test_ids=f"""
        import pytest, shop

        @pytest.mark.parametrize("limit", [1, 1, 1, 1, 1, 1], ids=[{ids}])
        @pytest.mark.perf_budget(sql_queries=1)
        def test_over(limit, perf):
            with perf.measure("[block] {{0}} %s"):
                shop.list_eagerly()
        """
    )

    result = run("--perfguard", "--perfguard-json=run.json", "--junitxml=junit.xml")

    result.assert_outcomes(failed=len(HOSTILE))
    assert "INTERNALERROR" not in result.stdout.str()
    data = json.loads((pytester.path / "run.json").read_text(encoding="utf-8"))
    assert len({record["nodeid"] for record in data["records"]}) == len(HOSTILE)
    assert len(list(ET.parse(pytester.path / "junit.xml").iter("testcase"))) == 6  # noqa: S314
    result.stdout.fnmatch_lines("6 tests measured, 12 statements on *")
