from __future__ import annotations

from typing import Any

import pytest

from pytest_perfguard.model import Level, Record, Rule, Run, Status, Verdict
from pytest_perfguard.reports.standing import closest, not_judged, of_limit, used
from pytest_perfguard.reports.terminal import summary
from tests.unit.build import span


def kept(
    metric: str, value: float | None, limit: float, name: str = "test", **more: Any
) -> Verdict:
    known = {"status": Status.OK, "level": Level.FAIL, "where": "here", **more}
    return Verdict(metric, name, value, limit, **known)


def record(nodeid: str, *verdicts: Verdict, **more: Any) -> Record:
    return Record(nodeid, "passed", span(), verdicts=verdicts, **more)


@pytest.mark.parametrize(
    ("verdict", "share", "told"),
    [
        (kept("sql_queries", 3, 4), 0.75, "sql_queries 3 of 4"),
        (kept("http_p95", 0.041, 0.2), 0.205, "http_p95 41 ms of 200 ms"),
        # A floor is used up where the value has come down to it.
        (
            kept("cache_hit_ratio", 0.8, 0.8),
            1.0,
            "cache_hit_ratio 80 % of at least 80 %",
        ),
        (kept("cache_hit_ratio", 1.0, 0.5), 0.5, "cache_hit_ratio 100 % of at least 50 %"),
        (kept("cache_hit_ratio", 0.0, 0.0), 0.0, "cache_hit_ratio 0 % of at least 0 %"),
        (kept("sql_queries", 0, 0), 0.0, "sql_queries 0 of 0"),
        (kept("sql_queries", 2, 0), 0.0, "sql_queries 2 of 0"),
        (kept("sql_queries", None, 3), 0.0, "sql_queries - of 3"),
    ],
)
def test_how_much_of_a_limit_is_used(verdict: Verdict, share: float, told: str) -> None:
    assert used(verdict) == pytest.approx(share)
    assert of_limit(verdict) == told


def test_what_may_be_exceeded_tomorrow_comes_first() -> None:
    exact = record("exact", kept("sql_queries", 3, 3))
    near = record("near", kept("sql_queries", 3, 3), kept("http_p95", 0.19, 0.2))
    far = record("far", kept("http_p95", 0.02, 0.2))
    found = closest([exact, far, near])
    assert [entry[1].nodeid for entry in found] == ["near", "far", "exact"]
    assert [verdict.metric for verdict in found[0][2]] == ["http_p95", "sql_queries"]


def test_a_metric_is_told_once_by_its_closest_span() -> None:
    both = record("a", kept("sql_rows", 1, 10, "one"), kept("sql_rows", 9, 10, "two"))
    ((share, _, verdicts),) = closest([both])
    assert share == pytest.approx(0.9)
    assert [verdict.span for verdict in verdicts] == ["two"]


def test_limits_that_were_exceeded_or_are_baselines_are_told_elsewhere() -> None:
    assert not closest(
        [
            record("over", kept("sql_queries", 5, 3, status=Status.OVER)),
            record("baseline", kept("sql_queries", 3, 3, rule=Rule.BASELINE)),
            record("bare"),
        ]
    )


def test_what_nobody_judged_is_told_with_the_reason() -> None:
    where = "perfguard_budgets, 'tests/*: sql_queries=5'"
    run = Run(
        tests=9,
        lost=("gone",),
        records=(
            record("judged", kept("sql_queries", 1, 2)),
            record("bare"),
            record("new", is_new=True),
            record("idle", kept("sql_queries", None, 5, status=Status.UNPROVEN, where=where)),
            record("noisy", kept("time_cpu", 1, 2, status=Status.UNDECIDED, reason="too noisy, 1")),
        ),
    )
    assert not_judged(run) == [
        "3 tests of 9: not measured, or not run",
        "1 test measured without any limit",
        "1 test without a baseline yet",
        "1 default of perfguard_budgets in tests where there was nothing to observe",
        "1 undecided: too noisy",
        "1 test lost with the process that ran them",
    ]
    assert not not_judged(Run(tests=1, records=run.records[:1]))


def _shown(verbosity: int, *, full: bool = True, width: int = 100) -> list[str]:
    records = [record(f"t{n}", kept("http_p95", n / 100, 0.2)) for n in range(1, 9)]
    run = Run(tests=8, records=tuple(records), notices=("warning: mind this",))
    return summary(run, top=2, full=full, width=width, verbosity=verbosity)


def test_verbosity_decides_how_many_budgets_are_shown() -> None:
    assert sum(" in t" in line for line in _shown(0)) == 2
    assert sum(" in t" in line for line in _shown(1, full=False)) == 8
    assert not [line for line in _shown(0, full=False) if " in t" in line]
    assert _shown(-1) == _shown(0)
    first, last = _shown(-2)
    assert first == "warning: mind this"
    assert last.startswith("8 tests measured, ")


def test_a_closer_span_of_a_metric_stays_first() -> None:
    both = record(
        "a",
        kept("response_bytes", 90, 100, "one"),
        kept("http_p95", 0.1, 0.2),
        kept("response_bytes", 10, 100, "two"),
    )
    ((share, _, verdicts),) = closest([both])
    assert share == pytest.approx(0.9)
    assert [(v.metric, v.span) for v in verdicts] == [
        ("response_bytes", "one"),
        ("http_p95", "test"),
    ]
