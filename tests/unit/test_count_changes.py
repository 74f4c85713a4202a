from __future__ import annotations

from dataclasses import replace

from pytest_perfguard.ab_results import Compared, Grade
from pytest_perfguard.count_changes import compare_counts
from pytest_perfguard.metrics import measure_all
from pytest_perfguard.model import Level, Record, Status, Tally, Verdict
from tests.unit.build import site, span, tally

USERS = "SELECT id FROM users WHERE id = ?"


def record(*tallies: Tally) -> Record:
    whole = span(*tallies)
    return Record("test_it", "passed", whole, measure_all(whole))


def one(count: int = 1, operation: str = "SELECT a FROM t", line: int = 7) -> Tally:
    sums = {"roundtrips": float(count)}
    return tally(operation, count=count, sums=sums, site=site(line))


def test_what_is_the_same_is_no_finding() -> None:
    found = compare_counts([record(one())], [record(one(line=9))])
    assert not found.differ
    assert found.compared > 1
    assert Compared("test_it", found).grade is Grade.SAME


def test_what_is_done_more_often_is_named_with_its_line() -> None:
    found = compare_counts([record(one())], [record(one(), one(20, USERS, line=31))])
    first = found.verdicts[0]
    assert (first.metric, first.limit, first.value) == ("sql_queries", 1, 21)
    assert first.changes == (f"+20x {USERS}  at app/crud.py:31 in rows",)
    assert Compared("test_it", found).grade is Grade.COSTLIER


def test_what_is_done_less_often_is_cheaper() -> None:
    found = compare_counts([record(one(3))], [record(one())])
    assert {v.status for v in found.verdicts} == {Status.IMPROVED}
    assert Compared("test_it", found).grade is Grade.CHEAPER


def test_other_operations_of_the_same_number_are_a_change() -> None:
    found = compare_counts([record(one())], [record(one(operation=USERS))])
    assert [v.status for v in found.verdicts] == [Status.CHANGED]
    assert len(found.verdicts[0].changes) == 2
    assert Compared("test_it", found).grade is Grade.CHANGED


def test_what_is_not_done_any_more_is_never_the_same() -> None:
    found = compare_counts([record(one())], [record()])
    assert [v.status for v in found.verdicts] == [Status.UNPROVEN]
    assert found.verdicts[0].changes == ("-1x SELECT a FROM t  at app/crud.py:7 in rows",)
    assert Compared("test_it", found).grade is Grade.CHANGED


def test_what_differs_between_two_runs_of_one_side_is_flaky_and_no_verdict() -> None:
    found = compare_counts([record(one(3)), record(one(4))], [record(one(5)), record(one(5))])
    assert not found.differ
    assert found.flaky[0] == "sql_queries: 3 to 4 in base, 5 in head"
    assert Compared("test_it", found).grade is Grade.FLAKY


def test_a_flaky_number_does_not_hide_another_one() -> None:
    base = [record(tally(count=1, sums={"rows": n})) for n in (10.0, 12.0)]
    head = [record(tally(count=4, sums={"rows": n})) for n in (10.0, 10.0)]
    found = compare_counts(base, head)
    assert [v.metric for v in found.costlier] == ["sql_queries"]
    assert [line.partition(":")[0] for line in found.flaky] == ["sql_rows"]


def test_an_operation_that_comes_and_goes_is_no_part_of_a_change() -> None:
    base = [record(one(), one(operation="A")), record(one(), one(operation="B"))]
    head = [record(one(4), one(operation="B")), record(one(4), one(operation="A"))]
    found = compare_counts(base, head)
    assert found.verdicts[0].changes == ("+3x SELECT a FROM t  at app/crud.py:7 in rows",)
    assert not compare_counts(base, base[::-1]).differ


def over(value: float, status: Status, metric: str = "loop_stall") -> Record:
    verdict = Verdict(metric, "test_it", value, 0.05, status, Level.WARN, "perf_budget, a.py:7")
    return replace(record(one()), verdicts=(verdict,))


def test_a_budget_that_only_head_exceeds_is_a_cost() -> None:
    kept, broken = over(0.001, Status.OK), over(0.2, Status.OVER)
    found = compare_counts([kept, kept], [broken, broken])
    (verdict,) = found.costlier
    assert (verdict.metric, verdict.limit, verdict.value) == ("loop_stall", 0.001, 0.2)
    assert verdict.reason == "over its budget of 50 ms, which base keeps"
    for base, head in (([kept, broken], [broken, broken]), ([kept, kept], [broken, kept])):
        assert not compare_counts(base, head).differ
    loaded = over(0.4, Status.OK, "load_p95"), over(2, Status.OVER, "load_p95")
    (verdict,) = compare_counts([loaded[0]], [loaded[1]]).costlier
    assert verdict.metric == "load_p95"
    # Rounds are timed in turns instead.
    for metric in ("http_p95", "time_cpu", "http_waiting"):
        fast, slow = over(0.01, Status.OK, metric), over(1, Status.OVER, metric)
        assert not compare_counts([fast], [slow]).differ
