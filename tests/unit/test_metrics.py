from __future__ import annotations

import inspect
import re

import pytest

from pytest_perfguard.errors import MetricError
from pytest_perfguard.metrics import IN_PROCESS, METRICS, lookup, measure_all
from pytest_perfguard.model import Span
from pytest_perfguard.units import parse
from tests.unit.build import finding, site, span, tally

_TIMES = {
    "mean": 0.02, "median": 0.03, "p95": 0.04, "p99": 0.05, "max": 0.06, "stddev": 0.07,
    "iqr": 0.08, "cpu": 0.09,
}  # fmt: skip
# Known where something was timed, or asked of a contract, or answered.
_UNKNOWN = {
    "sql_full_scans", "sql_sorts", "pool_peak", "tx_longest", "cache_hit_ratio",
    "cache_rereads", "cache_differences", "cache_recomputations",
    "response_bytes", "response_bytes_decoded", "http_waiting", "time_waiting", "py_calls",
    "cpu_time", "cpu_percent", "memory_peak", "memory_growth", "memory_percent", "alloc_peak",
    "loop_stall",
    "task_slowest", "task_latency",
    "load_requests", "load_errors", "load_failures", "load_rps", "load_p95", "load_p99",
    "load_cpu", "load_instances", "load_imbalance", "load_recovery",
    "prom_increase", "prom_increase_least",
    *(f"{group}_{statistic}" for group in ("http", "time") for statistic in _TIMES),
}  # fmt: skip
_CHILD = span(
    tally(
        "SELECT b FROM u",
        count=2,
        sums={"roundtrips": 3, "rows": 5, "seconds": 0.25, "errors": 1, "full_scans": 1,
              "sorts": 1, "deep_offsets": 1, "unbounded": 1},
        peaks={"seconds": 0.2},
    ),
    tally("COMMIT", kind="transaction", count=0, sums={"commits": 2}),
    tally("wait", kind="transaction", count=0, sums={"waits": 1, "pool_wait": 0.5}),
    tally("leak", kind="transaction", count=0, sums={"leaks": 1}),
    tally("HTTP POST /", kind="transaction", count=0, sums={"tx_calls": 3}),
    tally(
        "GET Resource:{int}",
        probe="cache",
        count=6,
        sums={"hits": 2, "misses": 4, "roundtrips": 6, "bytes_out": 90, "bytes_in": 40,
              "blocking": 6, "unstable": 1},
    ),
    tally(
        "GET /",
        probe="http",
        kind="request",
        count=1,
        sums={"errors": 1},
        peaks={"bytes": 900, "decoded": 4000},
    ),
    tally(
        "app.send", probe="tasks", kind="retry", count=0, sums={"runs": 2, "retries": 2},
        peaks={"seconds": 0.5, "latency": 4.0},
    ),
    name="GET /",
    kind="request",
    timing={"statistics": _TIMES},
    peaks={"pool_peak": 0.75, "tx_longest": 0.5, "cache_differences": 1, "cache_recomputations": 2,
           "cpu_time": 9.0, "cpu_percent": 9.0, "memory_peak": 9e9, "memory_percent": 9.0,
           "loop_stall": 9.0, "alloc_peak": 4096, "memory_growth": 9e9},
    findings=(
        finding("sql_duplicates", weight=4),
        finding(tally=tally(site=site(8))),
        finding("cache_n_plus_one", tally=tally("GET Resource:{int}", probe="cache")),
    ),
)  # fmt: skip
_QUICKER = {name: value / 2 for name, value in _TIMES.items()}
_SLOWER = {name: value * 2 for name, value in _TIMES.items()}
_SLOWEST = {"statistics": _SLOWER, "waiting": 0.02, "py_calls": 7}
_WHOLE = span(
    tally(
        count=20,
        sums={"roundtrips": 20, "rows": 40, "seconds": 0.5},
        peaks={"seconds": 0.1},
    ),
    tally(
        "UPDATE t SET a = ?",
        kind="write",
        sums={"roundtrips": 1, "full_scans": 1, "deep_offsets": 3},
    ),
    tally("SAVEPOINT a", kind="transaction", count=9, sums={"roundtrips": 9, "seconds": 9.0}),
    tally("wait", kind="transaction", count=0, sums={"waits": 2, "pool_wait": 0.25}),
    tally("leak", kind="transaction", count=0, sums={"leaks": 2}),
    tally("SELECT version()", kind="connect", count=9, sums={"roundtrips": 9, "rows": 9}),
    tally(
        "SET Resource:{int}",
        probe="cache",
        kind="write",
        count=10,
        sums={"bytes_out": 800, "lasting": 3, "errors": 2, "seconds": 9.0},
    ),
    tally("pipeline", probe="cache", kind="pipeline", count=0, sums={"roundtrips": 1}),
    tally(
        "GET /big", probe="http", kind="request", count=3, peaks={"bytes": 1200, "decoded": 1200}
    ),
    tally("app.send", probe="tasks", kind="publish", count=3),
    tally(
        "app.send", probe="tasks", kind="failure", count=0, sums={"runs": 1, "failures": 1},
        peaks={"seconds": 0.25, "latency": 5.0},
    ),
    tally("get_rates", probe="cache", kind=IN_PROCESS, count=9, sums={"hits": 7, "misses": 2}),
    tally(
        "HELLO",
        probe="cache",
        kind="connect",
        count=1,
        sums={"roundtrips": 1, "bytes_out": 7, "errors": 1},
    ),
    peaks={
        "pool_peak": 0.5,
        "tx_longest": 0.25,
        "cache_rereads": 5,
        "cache_differences": 3,
        "cpu_time": 0.5,
        "cpu_percent": 0.25,
        "memory_peak": 1e6,
        "memory_percent": 0.01,
        "memory_growth": 5e5,
        "loop_stall": 0.3,
        "alloc_peak": 1024,
        "prom_increase": -2.5,
        "prom_increase_least": 4,
    },
    findings=(
        finding(),
        finding("sql_duplicates", weight=3),
        finding("sql_duplicates", weight=30, waiver="known"),
        finding(tally=tally(site=site(9)), waiver="known"),
        finding("cache_n_plus_one", tally=tally("HGET h", probe="cache")),
        finding("task_n_plus_one", tally=tally("app.send", probe="tasks")),
        finding("cache_n_plus_one", tally=tally("DEL a", probe="cache"), waiver="known"),
    ),
    probes=("sql", "plans", "cache"),
    children=(
        _CHILD,
        span(name="GET /other", kind="request", timing={"statistics": _QUICKER, "waiting": 0.01}),
        span(name="quick", kind="call", timing={"statistics": _TIMES}),
        span(name="prometheus", kind="block", peaks={"prom_increase_least": 2}),
        span(
            name="slow", kind="call", timing={"statistics": _SLOWER, "waiting": 0.02, "py_calls": 7}
        ),
        span(
            name="load of locustfile.py",
            kind="load",
            peaks={"load_requests": 60, "load_errors": 3, "load_rps": 30, "load_p95": 0.1,
                   "load_p99": 0.3, "load_cpu": 0.01, "load_instances": 2, "load_imbalance": 0.25},
            children=(
                span(
                    name="GET /",
                    kind="endpoint",
                    peaks={"load_requests": 40, "load_errors": 2, "load_rps": 20, "load_p95": 0.2},
                ),
            ),
        ),
        span(
            name="load of locustfile.py #2",
            kind="load",
            peaks={"load_requests": 40, "load_errors": 1, "load_rps": 40, "load_p95": 0.05,
                   "load_cpu": 0.02, "load_instances": 3, "load_imbalance": 0.5,
                   "load_recovery": 1.5},
        ),
    ),
)  # fmt: skip


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
        ("sql_sorts", 1),
        ("sql_deep_offsets", 2),
        ("sql_unbounded", 1),
        ("pool_peak", 0.75),
        ("pool_wait", 0.75),
        ("pool_leaks", 3),
        ("tx_longest", 0.5),
        ("tx_calls", 3),
        ("cache_hits", 9),
        ("cache_misses", 6),
        ("cache_hit_ratio", 0.6),
        ("cache_commands", 16),
        ("cache_roundtrips", 7),
        ("cache_bytes", 930),
        ("cache_n_plus_one", 2),
        ("cache_writes_without_ttl", 3),
        ("cache_unstable_keys", 1),
        ("cache_blocking_calls", 6),
        ("cache_errors", 2),
        ("cache_rereads", 5),
        ("cache_differences", 3),
        ("cache_recomputations", 2),
        ("cpu_time", 0.5),
        ("cpu_percent", 0.25),
        ("memory_peak", 1e6),
        ("memory_growth", 5e5),
        ("memory_percent", 0.01),
        ("alloc_peak", 4096),
        ("loop_stall", 0.3),
        ("http_requests", 4),
        ("http_errors", 1),
        ("response_bytes", 1200),
        ("response_bytes_decoded", 4000),
        ("http_mean", 0.02),
        ("http_median", 0.03),
        ("http_p95", 0.04),
        ("http_p99", 0.05),
        ("http_max", 0.06),
        ("http_stddev", 0.07),
        ("http_iqr", 0.08),
        ("http_cpu", 0.09),
        ("http_waiting", 0.01),
        ("time_mean", 0.04),
        ("time_median", 0.06),
        ("time_p95", 0.08),
        ("time_p99", 0.10),
        ("time_max", 0.12),
        ("time_stddev", 0.14),
        ("time_iqr", 0.16),
        ("time_cpu", 0.18),
        ("time_waiting", 0.02),
        ("py_calls", 7),
        ("task_published", 3),
        ("task_n_plus_one", 1),
        ("task_runs", 3),
        ("task_slowest", 0.5),
        ("task_latency", 5.0),
        ("task_retries", 2),
        ("task_failures", 1),
        ("load_requests", 100),
        ("load_errors", 4),
        ("load_failures", 0.04),
        ("load_rps", 30),
        ("load_p95", 0.2),
        ("load_p99", 0.3),
        ("load_cpu", 0.02),
        ("load_instances", 2),
        ("load_imbalance", 0.5),
        ("load_recovery", 1.5),
        ("prom_increase", -2.5),
        ("prom_increase_least", 2),
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
    assert re.fullmatch(r"[A-Z0-9].*[^.]\.", metric.help)
    assert metric.help == inspect.cleandoc(metric.help)
    assert metric.probe
    assert metric.guide is None or parse(metric.guide, metric.unit) > 0


def test_the_limits_of_the_guide_are_those_of_the_guide() -> None:
    guides = {name: metric.guide for name, metric in METRICS.items() if metric.guide}
    assert guides == {
        "sql_slowest": "100ms",
        "pool_peak": "80%",
        "task_slowest": "5s",
        **dict.fromkeys(("http_mean", "http_median", "http_p95", "http_p99", "http_max"), "200ms"),
        **dict.fromkeys(("load_p95", "load_p99"), "200ms"),
        "cpu_percent": "70%",
        "memory_percent": "80%",
    }


def test_what_a_load_did_at_one_endpoint_is_that_of_the_endpoint() -> None:
    (load,) = (part for part in _WHOLE.children if part.name == "load of locustfile.py")
    (endpoint,) = load.children
    found = {name: METRICS[name].measure(endpoint) for name in ("load_requests", "load_failures")}
    assert found == {"load_requests": 40, "load_failures": 0.05}
    assert METRICS["load_cpu"].measure(endpoint) is None


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


def test_what_is_taken_of_the_process_is_that_of_the_span_itself() -> None:
    inside = span(peaks={"memory_peak": 5.0, "loop_stall": 5.0, "memory_growth": 5.0})
    for name in inside.peaks:
        assert METRICS[name].measure(span(children=(inside,))) is None
        assert METRICS[name].observed(inside)


def test_the_growth_of_a_test_that_repeats_is_the_largest_growth_by_call() -> None:
    repeated = [span(peaks={"memory_growth_by_call": size}) for size in (0.0, 7.0)]
    whole = span(peaks={"memory_growth": 5e6}, children=tuple(repeated))
    assert METRICS["memory_growth"].measure(whole) == 7
    assert METRICS["memory_growth"].measure(span(children=(repeated[0],))) == 0


def test_all_metrics_with_a_value_are_measured() -> None:
    assert set(measure_all(_WHOLE)) == set(METRICS)
    assert set(measure_all(span())) == set(METRICS) - _UNKNOWN


def test_a_statistic_that_one_of_the_timed_has_too_few_rounds_for_is_not_known() -> None:
    few = {name: value for name, value in _TIMES.items() if name != "p95"}
    parts = (span(kind="request", timing={"statistics": kept}) for kept in (_TIMES, few))
    both = span(children=tuple(parts))
    assert METRICS["http_p95"].measure(both) is None
    assert METRICS["http_mean"].measure(both) == 0.02


def test_a_ratio_needs_a_lookup_and_not_just_a_command() -> None:
    stored = tally("SET a", probe="cache", kind="write")
    missed = tally("GET a", probe="cache", sums={"misses": 1})
    ratio = METRICS["cache_hit_ratio"]
    assert ratio.measure(span(stored)) is None
    assert not ratio.observed(span(stored))
    assert ratio.measure(span(stored, missed)) == 0
    assert ratio.observed(span(stored, missed))


def test_the_metrics_of_contracts_are_observed_where_a_contract_noted_them() -> None:
    for name in ("cache_rereads", "cache_differences", "cache_recomputations"):
        assert METRICS[name].observed(span(children=(span(peaks={name: 0}),)))
        assert not METRICS[name].observed(span(tally("GET a", probe="cache", sums={"hits": 1})))


@pytest.mark.parametrize(
    ("name", "value", "limit", "kept"),
    [
        ("cache_hits", 1, 1, True),
        ("cache_hits", 0, 1, False),
        ("cache_hit_ratio", 0.8, 0.8, True),
        ("cache_hit_ratio", 0.79, 0.8, False),
        ("cache_hit_ratio", 1.0, 0.8, True),
        ("cache_misses", 1, 1, True),
        ("cache_misses", 2, 1, False),
    ],
)
def test_what_is_better_when_higher_has_a_floor_and_all_else_a_ceiling(
    name: str, value: float, limit: float, kept: bool
) -> None:
    assert METRICS[name].keeps(value, limit) is kept


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
