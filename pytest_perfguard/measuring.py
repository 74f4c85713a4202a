"""How each metric is measured, in words, and how a budget for it is written: for people.

By groups of metrics, the first whose pattern a name matches.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from pytest_perfguard.metrics import Metric
from pytest_perfguard.units import Unit

_EXECUTIONS = (
    "by SQLAlchemy's events do_execute, do_executemany and do_execute_no_params, around the "
    "driver's own call, on every engine, synchronous or asyncio"
)
_HOW = {
    "sql_rows": "at SQLAlchemy's results, as rows are fetched from a cursor",
    "sql_commits": "at the COMMIT that SQLAlchemy sends to the driver",
    "sql_full_scans": "by EXPLAIN after the span, as if an index were always the better choice",
    "sql_sorts": "by EXPLAIN after the span, as if an index were always the better choice",
    "sql_*": _EXECUTIONS,
    "pool_wait": "around the call in which a pool of SQLAlchemy waits for a connection",
    "pool_*": "by the events checkout and checkin of SQLAlchemy's pools",
    "tx_calls": "by what the other probes see while a transaction that has written is open",
    "tx_*": "at the BEGIN, COMMIT and ROLLBACK that SQLAlchemy sends to the driver",
    "cache_rereads": "by perf.cold_warm, which compares the statements of two calls",
    "cache_differences": "by perf.cold_warm, which compares the results of two calls",
    "cache_recomputations": "by perf.stampede, which makes the same call many times at once",
    "cache_roundtrips": "around send_packed_command of redis-py's connections",
    "cache_*": (
        "around execute_command of redis-py's clients and execute of its pipelines, with or "
        "without asyncio, in a cluster or not; of caches in the process by perf.cache.watch"
    ),
    "response_*": "at the body that the HTTP client has read, before or after decompression",
    "http_requests": "around the send of the client's class, as the test sees it",
    "http_errors": "around the send of the client's class, as the test sees it",
    "*_waiting": "in windows of rounds, from the wall clock and the CPU clock of the process",
    "*_cpu": "by the CPU clock of the process around each round",
    "http_*": "by rounds of perf.http, with a monotonic clock around each of them",
    "time_*": "by rounds of perf.time or benchmark, with a monotonic clock around each of them",
    "task_latency": "by Celery's signals, from the publishing to the first try",
    "task_*": "by Celery's signals, and by what a worker sends back of its runs",
    "py_calls": "in calls of its own, by sys.monitoring, or before Python 3.12 a profile function",
    "cpu_*": "by the CPU clock of the process when the span opens and when it closes",
    "alloc_peak": "by tracemalloc, in a call of its own",
    "memory_percent": "by psutil and the kernel, against the limits of the control groups",
    "memory_*": "by psutil and the kernel's mark of the highest, while the span is open",
    "load_*": "by Locust in processes of its own, which perf.load runs",
    "loop_stall": "by a thread that posts beats into every running event loop",
}
# Parts of names of what there should be none of.
_FAULTS = (
    "n_plus_one", "errors", "leaks", "failures", "retries", "duplicates", "scans", "sorts",
    "unstable", "blocking", "without_ttl", "rereads", "differences", "recomputations",
    "unbounded", "deep_offsets", "tx_calls",
)  # fmt: skip
_COMMON = {
    Unit.COUNT: "3",
    Unit.NUMBER: "20",
    Unit.SECONDS: "100ms",
    Unit.SHARE: "80%",
    Unit.BYTES: "20KiB",
}


def how(metric: Metric) -> str:
    """Return how a metric is measured."""
    for pattern, words in _HOW.items():
        if fnmatchcase(metric.name, pattern):
            return words
    return f"by the probe {metric.probe!r}"


def example(metric: Metric) -> str:
    """Return a mark with a budget for the metric: the guide's limit where it has one."""
    if metric.probe == "prometheus":
        limit = '">= 1"' if metric.higher_is_better else "0"
        return f'with perf.prometheus(client, {{"cache_hits_total": {limit}}}):'
    limit = metric.guide or _COMMON[metric.unit]
    if metric.unit is Unit.COUNT and any(part in metric.name for part in _FAULTS):
        limit = "0"
    written = limit if limit.isdecimal() else f'"{limit}"'
    return f"@pytest.mark.perf_budget({metric.name}={written})"
