"""A run as OpenMetrics text, by prometheus_client: for a textfile collector or a push gateway.

Every family is a gauge: what a run saw is a state that the next one replaces, and collectors that
read the older text format know no other type that would fit.

Raises:
    MissingExtraError: when the module is imported, if prometheus_client is not installed.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime

from pytest_perfguard.errors import MissingExtraError
from pytest_perfguard.metrics import METRICS, Metric
from pytest_perfguard.model import Record, Run, Status, Verdict
from pytest_perfguard.units import Unit
from pytest_perfguard.visible import visible

try:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.openmetrics.exposition import generate_latest
    from prometheus_client.registry import Collector
except ImportError:
    raise MissingExtraError("prometheus-client", "prometheus") from None

# A base unit as its convention names it, and the words in names of metrics that say the same.
_UNITS = {
    Unit.COUNT: ("", ()),
    Unit.NUMBER: ("", ()),
    Unit.SECONDS: ("seconds", ()),
    Unit.SHARE: ("ratio", ("ratio", "percent")),
    Unit.BYTES: ("bytes", ("bytes",)),
}
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9]+")
_MAX_LABEL = 300

_Labels = tuple[tuple[str, str], ...]
_Samples = dict[_Labels, float]


def to_openmetrics(run: Run) -> str:
    """Return a run as OpenMetrics text."""
    registry = CollectorRegistry()
    registry.register(_Families(run))
    text: bytes = generate_latest(registry)  # type: ignore[no-untyped-call] # it has none
    return text.decode("utf-8")


def family(metric: Metric, *, limit: bool = False) -> tuple[str, str]:
    """Return the name of a metric's family, or of that of its limits, and its unit."""
    unit, said = _UNITS[metric.unit]
    words = [word for word in metric.name.split("_") if word not in said]
    words += ["limit"] if limit else []
    return "_".join(["perfguard", *words, *([unit] if unit else [])]), unit


class _Families(Collector):
    """What the registry asks for the families of a run."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield what is known of the run, then each metric that any of its tests has."""
        yield from _about(self._run)
        for metric in METRICS.values():
            if values := _values(self._run.records, metric):
                yield _family(*family(metric), metric.help, values)
            if limits := _limits(self._run.records, metric):
                kind = "Floors" if metric.higher_is_better else "Ceilings"
                yield _family(*family(metric, limit=True), f"{kind} of {metric.name}.", limits)


def _family(name: str, unit: str, told: str, samples: _Samples) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(name, told, unit=unit)
    for labels, value in samples.items():
        gauge.add_sample(name, dict(labels), value)
    return gauge


def _about(run: Run) -> Iterator[GaugeMetricFamily]:
    """Yield the families that say what the run is and how it ended."""
    about = {_name(key): _label(value) for key, value in {**run.environment, **run.source}.items()}
    yield _family("perfguard_run_info", "", "What was run, and where.", {(*about.items(),): 1})
    try:
        started = datetime.fromisoformat(run.source["started"]).timestamp()
    except (KeyError, ValueError, OverflowError):
        pass
    else:
        name = "perfguard_run_started_timestamp_seconds"
        yield _family(name, "seconds", "When the run began.", {(): started})
    states = {
        "found": max(run.tests, len(run.records)),
        "measured": len(run.records),
        "failing": sum(record.fails for record in run.records),
        "lost": len(run.lost),
    }
    tests: _Samples = {(("state", state),): count for state, count in states.items()}
    yield _family("perfguard_tests", "", "Tests: found, measured, over a limit, lost.", tests)
    counted = Counter(
        "waived" if verdict.waiver else verdict.status.name.lower()
        for record in run.records
        for verdict in record.verdicts
        if not verdict.idle
    )
    names = [*(status.name.lower() for status in Status), "waived"]
    verdicts: _Samples = {(("status", name),): counted[name] for name in names}
    yield _family("perfguard_verdicts", "", "Limits that were judged, by how.", verdicts)
    fails: _Samples = {
        (("test", _label(record.nodeid)),): float(record.fails) for record in run.records
    }
    if fails:
        yield _family("perfguard_test_failing", "", "Whether a test is over a limit.", fails)


def _values(records: Iterable[Record], metric: Metric) -> _Samples:
    """Return the value of each test, and those of its blocks and requests that were judged."""
    values: _Samples = {}
    for record in records:
        test = ("test", _label(record.nodeid))
        if metric.name in record.metrics:
            values[(test,)] = record.metrics[metric.name]
        for verdict in _inside(record, metric):
            if verdict.value is not None:
                labels = (test, ("span", _label(verdict.span)))
                values[labels] = _worse(metric, verdict.value, values.get(labels))
    return values


def _limits(records: Iterable[Record], metric: Metric) -> _Samples:
    """Return the limits of each test and span; of several by one rule, the strictest."""
    limits: _Samples = {}
    for record in records:
        inside = _inside(record, metric)
        for verdict in record.verdicts:
            if verdict.metric == metric.name and not verdict.idle:
                span = [("span", _label(verdict.span))] if verdict in inside else []
                labels = (("test", _label(record.nodeid)), *span, ("rule", str(verdict.rule)))
                known = limits.get(labels, verdict.limit)
                strictest = max if metric.higher_is_better else min
                limits[labels] = strictest(known, verdict.limit)
    return limits


def _inside(record: Record, metric: Metric) -> list[Verdict]:
    """Return the verdicts on what is inside a test; those on the whole of it need no span."""
    return [v for v in record.verdicts if v.metric == metric.name and v.span != record.span.name]


def _worse(metric: Metric, value: float, known: float | None) -> float:
    if known is None:
        return value
    return min(value, known) if metric.higher_is_better else max(value, known)


def _name(text: str) -> str:
    """Return a name for a label."""
    name = _NOT_IN_NAMES.sub("_", text).strip("_")
    return name if name[:1].isalpha() else f"x_{name}".rstrip("_")


def _label(text: str) -> str:
    """Return the value of a label, of a length that a collector takes, and like no other one."""
    shown = visible(text)
    if len(shown) <= _MAX_LABEL:
        return shown
    digest = hashlib.sha256(shown.encode()).hexdigest()[:8]
    return f"{shown[:_MAX_LABEL]}…{digest}"
