from __future__ import annotations

import inspect
import re

import pytest

from pytest_perfguard.errors import MetricError
from pytest_perfguard.metrics import METRICS, lookup, measure_all
from pytest_perfguard.model import Span
from pytest_perfguard.units import parse
from tests.unit.build import finding, site, span, tally

_CHILD = span(
    tally(
        "SELECT b FROM u",
        count=2,
        sums={"roundtrips": 3, "rows": 5, "seconds": 0.25, "errors": 1, "full_scans": 1},
        peaks={"seconds": 0.2},
    ),
    tally("COMMIT", kind="transaction", count=0, sums={"commits": 2}),
    name="GET /",
    kind="request",
    peaks={"pool_peak": 0.75},
    findings=(finding("sql_duplicates", weight=4), finding(tally=tally(site=site(8)))),
)
_WHOLE = span(
    tally(
        count=20,
        sums={"roundtrips": 20, "rows": 40, "seconds": 0.5},
        peaks={"seconds": 0.1},
    ),
    tally("UPDATE t SET a = ?", kind="write", sums={"roundtrips": 1, "full_scans": 1}),
    tally("SAVEPOINT a", kind="transaction", count=9, sums={"roundtrips": 9, "seconds": 9.0}),
    tally("SELECT version()", kind="connect", count=9, sums={"roundtrips": 9, "rows": 9}),
    tally("GET", probe="cache", kind="get", count=99, sums={"roundtrips": 99}),
    peaks={"pool_peak": 0.5},
    findings=(
        finding(),
        finding("sql_duplicates", weight=3),
        finding("sql_duplicates", weight=30, waiver="known"),
        finding(tally=tally(site=site(9)), waiver="known"),
    ),
    probes=("sql", "plans"),
    children=(_CHILD,),
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sql_queries", 23),
        ("sql_roundtrips", 24),
        ("sql_rows", 45),
        ("sql_time", 0.75),
        ("sql_slowest", 0.2),
        ("sql_n_plus_one", 2),
        ("sql_duplicates", 7),
        ("sql_commits", 2),
        ("sql_errors", 1),
        ("sql_full_scans", 2),
        ("pool_peak", 0.75),
    ],
)
def test_a_metric_is_taken_from_the_span_and_those_inside_it(name: str, value: float) -> None:
    assert METRICS[name].measure(_WHOLE) == value


def test_every_metric_is_measured_above() -> None:
    (mark,) = test_a_metric_is_taken_from_the_span_and_those_inside_it.pytestmark  # type: ignore[attr-defined]
    assert {name for name, _ in mark.args[1]} == set(METRICS)


@pytest.mark.parametrize("name", METRICS)
def test_an_empty_span_gives_nothing_or_none(name: str) -> None:
    assert METRICS[name].measure(span()) in (0, None)
    assert not METRICS[name].observed(span())


@pytest.mark.parametrize("name", METRICS)
def test_the_entry_of_a_metric_is_complete(name: str) -> None:
    metric = METRICS[name]
    assert metric.name == name
    assert name.isidentifier()
    assert re.fullmatch(r"[A-Z].*[^.]\.", metric.help)
    assert metric.help == inspect.cleandoc(metric.help)
    assert metric.probe
    assert metric.guide is None or parse(metric.guide, metric.unit) > 0


def test_the_limits_of_the_guide_are_those_of_the_guide() -> None:
    guides = {name: metric.guide for name, metric in METRICS.items() if metric.guide}
    assert guides == {"sql_slowest": "100ms", "pool_peak": "80%"}


def test_one_line_that_repeats_in_two_requests_is_one_n_plus_one() -> None:
    requests = tuple(span(findings=(finding(),), name=f"GET /{n}") for n in range(2))
    assert METRICS["sql_n_plus_one"].measure(span(children=requests)) == 1


def test_scans_are_only_known_where_plans_were_asked_for() -> None:
    scanning = tally(sums={"full_scans": 1})
    assert METRICS["sql_full_scans"].measure(span(scanning, probes=("sql",))) is None
    assert METRICS["sql_full_scans"].measure(span(scanning, probes=("sql", "plans"))) == 1


def test_a_statement_that_scans_at_two_lines_is_one_scan() -> None:
    scanning = [tally(sums={"full_scans": 1}, site=site(line)) for line in (1, 2)]
    assert METRICS["sql_full_scans"].measure(span(*scanning, probes=("sql", "plans"))) == 1


@pytest.mark.parametrize(
    ("sums", "value"), [({"unplanned": 1}, None), ({"unplanned": 1, "errors": 1}, 0)]
)
def test_a_statement_without_a_plan_makes_scans_unknown_unless_it_failed(
    sums: dict[str, float], value: float | None
) -> None:
    whole = span(tally(sums=sums), probes=("sql", "plans"))
    assert METRICS["sql_full_scans"].measure(whole) == value


@pytest.mark.parametrize(
    ("seen", "observed"),
    [
        (span(tally()), True),
        (span(children=(span(tally()),)), True),
        (span(tally(count=0, sums={"errors": 1})), True),
        (span(tally("BEGIN", kind="transaction")), False),
        (span(tally("SELECT version()", kind="connect")), False),
        (span(tally(probe="cache")), False),
        (span(peaks={"pool_peak": 0.5}), False),
    ],
    ids=["statement", "in a child", "failed", "transaction", "connect", "cache", "pool"],
)
def test_a_count_needs_a_statement_to_be_observed(seen: Span, observed: bool) -> None:
    assert METRICS["sql_queries"].observed(seen) is observed


def test_a_commit_is_something_that_commits_are_about() -> None:
    committed = span(tally("COMMIT", kind="transaction", count=0, sums={"commits": 1}))
    assert METRICS["sql_commits"].observed(committed)


def test_a_level_is_observed_where_it_was_noted() -> None:
    assert METRICS["pool_peak"].observed(span(children=(span(peaks={"pool_peak": 0.5}),)))
    assert not METRICS["pool_peak"].observed(span(tally()))


def test_all_metrics_with_a_value_are_measured() -> None:
    assert set(measure_all(_WHOLE)) == set(METRICS)
    assert set(measure_all(span())) == set(METRICS) - {"sql_full_scans", "pool_peak"}


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_found_by_its_name(name: str) -> None:
    assert lookup(name) is METRICS[name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sql_querys", "unknown metric 'sql_querys'. Did you mean 'sql_queries'?"),
        ("n_plus_one", "unknown metric 'n_plus_one'. Did you mean 'sql_n_plus_one'?"),
        ("SQL", "unknown metric 'SQL'. Known metrics: sql_queries, "),
    ],
)
def test_an_unknown_metric_is_refused_with_what_may_be_meant(name: str, message: str) -> None:
    with pytest.raises(MetricError) as caught:
        lookup(name)
    assert str(caught.value).startswith(message)
