"""The service's own Prometheus metrics, served at ``/metrics``.

Each application has a registry of its own, so several in one process, as in tests, do not add up.
What somebody else counts already is read when it is asked for: the cache's hits and misses, the
connections that are in use. CPU time and memory come as ``process_cpu_seconds_total`` and
``process_resident_memory_bytes``, which every Prometheus client calls so: a percentage of the CPU
is a rate over whatever time the one who asks is interested in. For who only looks at the page,
:mod:`sample_app.core.monitoring` sets two gauges every few seconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from sqlalchemy import Engine, event
from sqlalchemy.pool import QueuePool

from sample_app.core.cache import CacheCounters

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

_QUERY_TYPES: Final = frozenset({"select", "insert", "update", "delete"})
_STARTED: Final = "_sample_app_started"


class Metrics:
    """What is counted of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.request_duration = Histogram(
            "http_request_duration_seconds",
            "HTTP request duration in seconds, until the last byte was handed over.",
            ("method", "endpoint", "status"),
            registry=self.registry,
        )
        self.db_query_duration = Histogram(
            "db_query_duration_seconds",
            "Database query duration in seconds.",
            ("query_type",),
            registry=self.registry,
        )
        # Its number goes up and down, and names that end in _total are those of counters.
        self.db_connections = Gauge(
            "db_connections", "Database connections that are in use.", registry=self.registry
        )
        self.task_duration = Histogram(
            "task_duration_seconds",
            "Duration in seconds of the try that ended a background task.",
            ("task_type",),
            registry=self.registry,
        )
        self.task_success = Counter(
            "task_success",
            "Background tasks that did their work.",
            ("task_type",),
            registry=self.registry,
        )
        self.task_failure = Counter(
            "task_failure",
            "Background tasks that were given up, by the class of their last error.",
            ("task_type", "error_type"),
            registry=self.registry,
        )
        self.task_retries = Counter(
            "task_retries",
            "Tries of background tasks that were repeated, by the class of their error.",
            ("task_type", "error_type"),
            registry=self.registry,
        )
        self.cpu_usage = _unknown(
            Gauge(
                "cpu_usage_percent",
                "Share of one core that this process used since the reading before.",
                registry=self.registry,
            )
        )
        self.memory_usage = _unknown(
            Gauge(
                "memory_usage_bytes",
                "Memory that this process held at the last reading.",
                registry=self.registry,
            )
        )
        ProcessCollector(registry=self.registry)

    def render(self) -> bytes:
        """Give everything in the text format of Prometheus."""
        return generate_latest(self.registry)

    @contextmanager
    def watching(self, engine: Engine, cache: Callable[[], CacheCounters]) -> Iterator[None]:
        """Count what an engine and a cache do; let go of both at the end."""
        collector = _CacheCollector(cache)
        self.registry.register(collector)
        self.db_connections.set_function(lambda: cast("QueuePool", engine.pool).checkedout())
        listeners = {
            "before_cursor_execute": _start,
            "after_cursor_execute": self._end,
            "handle_error": self._failed,
        }
        for name, listener in listeners.items():
            event.listen(engine, name, listener)
        try:
            yield
        finally:
            self.registry.unregister(collector)
            for name, listener in listeners.items():
                event.remove(engine, name, listener)

    def _end(self, *arguments: Any) -> None:
        _connection, _cursor, statement, _parameters, context, _many = arguments
        self._observe(statement, context)

    def _failed(self, context: Any) -> None:
        """A query that fails has taken its time, too."""
        if context.statement is not None:
            self._observe(context.statement, context.execution_context)

    def _observe(self, statement: str, context: object) -> None:
        started = getattr(context, _STARTED, None)
        if started is not None:
            first = statement.split(None, 1)[0].lower() if statement else ""
            query_type = first if first in _QUERY_TYPES else "other"
            self.db_query_duration.labels(query_type).observe(time.perf_counter() - started)


class TaskObserver:
    """Notes how background tasks end."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def succeeded(self, task: str, seconds: float) -> None:
        """Count a task that did its work."""
        self._metrics.task_duration.labels(task).observe(seconds)
        self._metrics.task_success.labels(task).inc()

    def failed(self, task: str, seconds: float, error: str) -> None:
        """Count a task that was given up."""
        self._metrics.task_duration.labels(task).observe(seconds)
        self._metrics.task_failure.labels(task, error).inc()

    def repeated(self, task: str, seconds: float, error: str) -> None:  # noqa: ARG002 - of a try
        """Count a try that is to be repeated: the task has not ended."""
        self._metrics.task_retries.labels(task, error).inc()


def _unknown(gauge: Gauge) -> Gauge:
    """Let a gauge say that it has not been read yet; 0 would be an answer."""
    gauge.set(math.nan)
    return gauge


def _start(*arguments: Any) -> None:
    context = arguments[4]
    if context is not None:
        setattr(context, _STARTED, time.perf_counter())


class _CacheCollector(Collector):
    """Reads the cache's own counters."""

    def __init__(self, counters: Callable[[], CacheCounters]) -> None:
        self._counters = counters

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Give the hits and the misses, by what was asked for: a response or a query."""
        counters = self._counters()
        for name, counted in (("hits", counters.cache_hits), ("misses", counters.cache_misses)):
            help_ = f"Total number of cache {name}."
            family = CounterMetricFamily(f"cache_{name}", help_, labels=["cache_type"])
            for cache_type, number in sorted(counted.items()):
                family.add_metric([cache_type], number)
            yield family
