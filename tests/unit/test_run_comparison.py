from __future__ import annotations

from typing import Any

import pytest

from pytest_perfguard.metrics import measure_all
from pytest_perfguard.model import Level, Record, Run, Status, Verdict
from pytest_perfguard.run_comparison import Outcome, compare_records, compare_runs
from tests.unit.build import site, span, tally

USERS = "SELECT users.id FROM users WHERE users.id = ?"


def record(*tallies: Any, nodeid: str = "test_a.py::test_it", **fields: Any) -> Record:
    measured = fields.pop("span", None) or span(*tallies)
    known = {"outcome": "passed", "span": measured, "metrics": measure_all(measured), **fields}
    return Record(**{"nodeid": nodeid, **known})


def lazily(count: int, line: int = 7) -> Record:
    return record(tally(USERS, count=count, sums={"roundtrips": count}, site=site(line)))


def test_more_statements_are_worse_and_named_with_their_line() -> None:
    found = compare_records(lazily(1), lazily(21))
    assert found.outcome is Outcome.WORSE
    assert [str(change) for change in found.changes] == [
        "sql_queries 1 -> 21",
        "sql_roundtrips 1 -> 21",
    ]
    assert found.operations == (f"+20x {USERS}  at app/crud.py:7 in rows",)


def test_fewer_statements_are_better() -> None:
    found = compare_records(lazily(21), lazily(1))
    assert {change.outcome for change in found.changes} == {Outcome.BETTER}
    assert found.outcome is Outcome.BETTER


def test_a_line_that_moved_is_no_difference() -> None:
    assert compare_records(lazily(3, line=7), lazily(3, line=99)).outcome is Outcome.SAME


def test_as_many_other_statements_are_told() -> None:
    found = compare_records(lazily(1), record(tally("SELECT a FROM t", sums={"roundtrips": 1})))
    assert found.changes == ()
    assert found.outcome is Outcome.CHANGED
    assert [line[:3] for line in found.operations] == ["+1x", "-1x"]


def test_what_is_not_seen_any_more_is_not_called_better() -> None:
    found = compare_records(lazily(3), record())
    assert found.outcome is Outcome.CHANGED
    assert {change.outcome for change in found.changes} == {Outcome.CHANGED}


def test_a_probe_that_did_not_listen_has_not_counted_nought() -> None:
    deaf = record(span=span(probes=()))
    assert {change.outcome for change in compare_records(lazily(3), deaf).changes} == {Outcome.TOLD}


@pytest.mark.parametrize(
    ("before", "after", "times", "outcome"),
    [
        (0.010, 0.020, None, Outcome.TOLD),
        (0.010, 0.020, 0.5, Outcome.WORSE),
        (0.020, 0.010, 0.4, Outcome.BETTER),
        (0.010, 0.014, 0.5, Outcome.TOLD),
        (0.010, 0.0105, 0.01, Outcome.SAME),
    ],
)
def test_times_are_judged_where_a_tolerance_is_given(
    before: float, after: float, times: float | None, outcome: Outcome
) -> None:
    one, other = (record(metrics={"http_median": value}) for value in (before, after))
    assert compare_records(one, other, times=times).outcome is outcome


def test_a_higher_hit_ratio_is_better() -> None:
    sides = [
        record(
            span=span(
                tally("GET k", probe="cache", sums={"hits": hits, "misses": 10 - hits}),
                probes=("cache",),
            )
        )
        for hits in (2, 8)
    ]
    by_metric = {c.metric: c.outcome for c in compare_records(*sides).changes}
    assert by_metric["cache_hit_ratio"] is Outcome.BETTER
    assert by_metric["cache_hits"] is Outcome.CHANGED


def test_tests_that_cannot_be_compared_are_listed_with_the_reason() -> None:
    over = Verdict("sql_queries", "test_it", 21, 3, Status.OVER, Level.FAIL, "here")
    before = Run(
        records=(
            record(nodeid="gone"),
            record(nodeid="broken"),
            record(nodeid="moved", engines={"1": "sqlite+pysqlite"}),
            record(nodeid="over"),
        )
    )
    after = Run(
        records=(
            record(nodeid="new"),
            record(nodeid="broken", outcome="failed"),
            record(nodeid="moved", engines={"1": "postgresql+psycopg"}),
            record(nodeid="over", outcome="failed", verdicts=(over,)),
        )
    )
    found = compare_runs(before, after, names=("base", "head"))
    assert found.not_comparable == {
        "broken": "failed in head",
        "gone": "only in base",
        "moved": "sqlite in base, postgresql in head",
        "new": "only in head",
    }
    assert (found.tests, found.same, found.compared, found.is_worse) == ((), 1, 1, False)


def test_the_worse_tests_come_first() -> None:
    def named(nodeid: str, count: int) -> Record:
        return record(tally(USERS, count=count), nodeid=nodeid)

    found = compare_runs(
        Run(records=(named("a", 5), named("b", 1), named("c", 1))),
        Run(records=(named("a", 1), named("b", 5), named("c", 1))),
    )
    assert [(test.nodeid, str(test.outcome)) for test in found.tests] == [
        ("b", "worse"),
        ("a", "better"),
    ]
    assert found.is_worse
    assert found.to_dict()["tests"][0]["changes"][0]["metric"] == "sql_queries"
