"""Baselines: what a test cost when somebody last looked, and what it costs now against that.

An entry holds every metric of a test that is the same in each run, and the operations behind
them, so that a change is not only seen but explained, and an equal number that is made of other
statements is seen too. Lines of code are kept to be read, not to be compared: a test must not go
red because something was added above a query.

Pure functions of data; :mod:`pytest_perfguard.baseline_files` reads and writes them.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pytest_perfguard.fingerprint import shorten
from pytest_perfguard.metrics import METRICS, UNCOUNTED, Metric
from pytest_perfguard.model import Level, Record, Rule, Status, Verdict, encodable
from pytest_perfguard.units import show

NO_DATABASE = "no database"
NO_LINE = "no line of your code"
# How much of a statement is shown; what is left of a longer one is told apart by a checksum.
_WIDTH = 120
_SITE = re.compile(r"(?P<file>.*):\d+ in (?P<function>.*)", re.DOTALL)
# The metric that stands for all that a probe has seen.
_TOTALS = {
    "sql": "sql_queries",
    "cache": "cache_commands",
    "http": "http_requests",
    "tasks": "task_published",
}

# A value that is the same in every run, or the smallest and the largest of several runs.
Held = float | tuple[float, float]
# Operations by probe, text and line: how often each was done.
Operations = Mapping[str, Mapping[str, Mapping[str, int]]]


@dataclass(frozen=True, slots=True)
class Entry:
    """What a baseline holds of one test on one kind of database.

    Attributes:
        metrics: values in base units, of every metric whose probe had anything to see.
        operations: what was done, by probe, text and line.
        note: why some of the values are ranges.
        plans: which indexes each statement used, by its text, where its plan was asked for.
    """

    metrics: Mapping[str, Held] = field(default_factory=dict)
    operations: Operations = field(default_factory=dict)
    note: str = ""
    plans: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.metrics)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """By how much a metric may be worse than its baseline: a share of it, and an amount."""

    share: float = 0.0
    amount: float = 0.0

    def limit(self, metric: Metric, held: Held) -> float:
        """Return the worst value that is still accepted."""
        low, high = bounds(held)
        if metric.higher_is_better:
            return low * (1 - self.share) - self.amount
        return high * (1 + self.share) + self.amount


def bounds(held: Held) -> tuple[float, float]:
    """Return the smallest and the largest value that were recorded."""
    return held if isinstance(held, tuple) else (held, held)


def databases(record: Record) -> str:
    """Return which kinds of databases a test used: its baseline is told apart by them."""
    kinds = {label.partition("+")[0] for label in record.engines.values()}
    return "+".join(sorted(kinds)) or NO_DATABASE


def pick(entries: Mapping[str, Entry], kind: str) -> Entry | None:
    """Return the entry that a test on that kind of database is to be compared with.

    A test that uses no database any more is compared with what it did on any, and one that has
    begun to use one with what it did without.
    """
    if kind in entries:
        return entries[kind]
    if kind == NO_DATABASE:
        return entries[min(entries)] if entries else None
    return entries.get(NO_DATABASE)


def entry_of(record: Record) -> Entry:
    """Return what a baseline holds of a test's record; empty where nothing was observed."""
    operations = _operations(record)
    metrics = {
        name: _plain(value)
        for name, value in record.metrics.items()
        if METRICS[name].stored
        and (not METRICS[name].tallied or value or METRICS[name].probe in operations)
    }
    plans = {
        outline(tally.operation): encodable(tally.facts["indexes"])
        for span in record.span.walk()
        for tally in span.tallies
        if "indexes" in tally.facts
    }
    return Entry(metrics, operations, plans=plans)


def _plain(value: float) -> float:
    return int(value) if value == int(value) else round(value, 6)


def _operations(record: Record) -> dict[str, dict[str, dict[str, int]]]:
    found: dict[str, dict[str, dict[str, int]]] = {}
    for span in record.span.walk():
        for tally in span.tallies:
            if tally.count and tally.kind not in UNCOUNTED:
                lines = found.setdefault(tally.probe, {}).setdefault(outline(tally.operation), {})
                line = encodable(str(tally.site)) if tally.site else NO_LINE
                lines[line] = lines.get(line, 0) + tally.count
    return found


def outline(operation: str) -> str:
    """Return the text that an operation has in a baseline.

    Of a long statement the columns are left out, so that a column that is added to a model is no
    change of every statement that loads it.
    """
    operation = encodable(operation)
    text = shorten(operation, _WIDTH)
    if not text.endswith("…"):
        return text
    _, source, rest = operation.partition(" FROM ")
    return f"{text} #{zlib.crc32((rest if source else operation).encode()):08x}"


def widen(first: Entry, second: Entry) -> Entry:
    """Return an entry that two runs of the same code both keep, with a note where they differ."""
    metrics: dict[str, Held] = {}
    for name in {**first.metrics, **second.metrics}:
        found = [e.metrics[name] for e in (first, second) if name in e.metrics]
        if len(found) == 1 and METRICS[name].tallied and not METRICS[name].on_request:
            # Nothing of its probe was seen in the other run. A ratio or a level has no value then.
            found.append(0)
        values = [value for held in found for value in bounds(held)]
        low, high = min(values), max(values)
        metrics[name] = low if low == high else (low, high)
    return Entry(metrics, first.operations, _note(metrics), first.plans)


def renew(held: Entry | None, now: Entry) -> Entry:
    """Return what is recorded of a test: what it does now, and what is held where that covers it.

    One run cannot tell that a value does not vary any more.
    """
    if held is None or not held.note:
        return now
    metrics = {
        name: _renewed(held.metrics.get(name, value), value) for name, value in now.metrics.items()
    }
    if metrics == held.metrics:
        return held
    return Entry(metrics, now.operations, _note(metrics), now.plans)


def _renewed(held: Held, now: Held) -> Held:
    (low, high), (least, most) = bounds(held), bounds(now)
    return held if low <= least and most <= high else now


def _note(metrics: Mapping[str, Held]) -> str:
    varying = sorted(name for name, value in metrics.items() if isinstance(value, tuple))
    return f"differed between two runs: {', '.join(varying)}" if varying else ""


def tighten(held: Entry, now: Entry) -> Entry:
    """Return the entry with the better of both values of each metric."""
    metrics = dict(held.metrics)
    for name, value in now.metrics.items():
        metric = METRICS[name]
        better = max if metric.higher_is_better else min
        if name not in metrics or metric.neutral:
            metrics[name] = value
        elif not isinstance(metrics[name], tuple):
            metrics[name] = better(metrics[name], value, key=lambda v: bounds(v)[0])
    return Entry(metrics, now.operations, held.note, now.plans)


# -- judging -------------------------------------------------------------------------------


def compare(
    held: Entry,
    record: Record,
    tolerances: Mapping[str, Tolerance],
    level: Callable[[str], Level],
    where: Callable[[str], str],
) -> tuple[Verdict, ...]:
    """Return a verdict for each metric that the entry or the test has something of.

    Args:
        tolerances: by metric; others may exceed the baseline by their slack alone.
        level: what a metric's regression does.
        where: where the baseline of a metric stands.
    """
    now = entry_of(record)
    changes = {probe: tuple(differences(held, now, probe)) for probe in _TOTALS}
    verdicts: list[Verdict] = []
    unseen: set[str] = set()
    for name in METRICS:
        metric = METRICS[name]
        if not metric.stored or metric.neutral or metric.probe in unseen:
            continue
        verdict = _compare(metric, held, record, tolerances, level(name), where(name))
        if verdict is None:
            continue
        if verdict.status is Status.UNPROVEN and metric.tallied:
            # One line says that nothing was seen of a probe.
            unseen.add(metric.probe)
        verdicts.append(verdict)
    return tuple(_with_plans(_with_changes(verdicts, held, changes), plan_changes(held, now)))


def _with_plans(verdicts: Iterable[Verdict], changes: Sequence[str]) -> Iterable[Verdict]:
    """Tell of indexes that are used no more where scans are judged."""
    for verdict in verdicts:
        if verdict.metric != "sql_full_scans" or not changes:
            yield verdict
            continue
        status = Status.CHANGED if verdict.status is Status.OK else verdict.status
        yield replace(verdict, status=status, changes=(*changes, *verdict.changes))


def _held(metric: Metric, entry: Entry) -> Held | None:
    held = entry.metrics.get(metric.name)
    if held is not None or not metric.tallied or metric.on_request:
        return held
    # Nothing of its probe was seen then, which is a value; else the metric is a newer one.
    probes = {METRICS[name].probe for name in entry.metrics}
    return None if metric.probe in probes or metric.higher_is_better else 0


def _compare(
    metric: Metric,
    entry: Entry,
    record: Record,
    tolerances: Mapping[str, Tolerance],
    level: Level,
    where: str,
) -> Verdict | None:
    held = _held(metric, entry)
    if held is None:
        return None
    low, high = bounds(held)
    value = record.metrics.get(metric.name)
    limit = tolerances.get(metric.name, Tolerance(metric.slack)).limit(metric, held)
    if not value and not high and metric.name not in entry.metrics:
        return None
    listened = metric.probe in record.span.probes
    status, reason = Status.OK, ""
    if value is None or not listened or (high and not metric.observed(record.span)):
        if not high:
            return None
        status, reason = Status.UNPROVEN, _why_unproven(metric, high, record)
    elif not metric.keeps(value, limit) and not _same(value, limit):
        status, reason = Status.REGRESSED, _tolerated(metric, limit, held)
    elif _is_better(metric, value, low, high):
        status = Status.IMPROVED
    shown = low if metric.higher_is_better else high
    return Verdict(
        metric.name, record.span.name, value, shown, status, level, where, reason, Rule.BASELINE
    )


def _tolerated(metric: Metric, limit: float, held: Held) -> str:
    if limit in bounds(held):
        return ""
    return f"{show(limit, metric.unit)} would be tolerated"


def _same(value: float, limit: float) -> bool:
    # Ratios are kept with six digits.
    return abs(value - limit) < 1e-6  # noqa: PLR2004 - see _plain


def _is_better(metric: Metric, value: float, low: float, high: float) -> bool:
    if metric.higher_is_better:
        return value > high and not _same(value, high)
    return value < low * (1 - metric.slack) and not _same(value, low)


def _why_unproven(metric: Metric, high: float, record: Record) -> str:
    had = f"where the baseline has {show(high, metric.unit)}"
    if metric.on_request and record.metrics.get(metric.name) is None:
        return f"{metric.name} is only measured where it is budgeted, and it is not any more"
    return (
        f"nothing was observed for it in {record.span.name}, {had}: if that is right, approve it "
        "with --perfguard-update"
    )


def _with_changes(
    verdicts: Iterable[Verdict], held: Entry, changes: Mapping[str, tuple[str, ...]]
) -> Iterable[Verdict]:
    """Give the changed operations to the first verdict of each probe that they explain.

    Where the number varies, so does what it is made of.
    """
    verdicts = list(verdicts)
    moved = {METRICS[v.metric].probe for v in verdicts if v.status is not Status.OK}
    told: set[str] = set()
    for verdict in verdicts:
        probe = METRICS[verdict.metric].probe
        found = changes.get(probe, ())
        if not found or probe in told:
            yield verdict
        elif verdict.status in (Status.REGRESSED, Status.IMPROVED):
            told.add(probe)
            yield replace(verdict, changes=found)
        elif (
            probe not in moved
            and verdict.metric == _TOTALS[probe]
            and not isinstance(held.metrics.get(verdict.metric), tuple)
        ):
            told.add(probe)
            yield replace(verdict, status=Status.CHANGED, changes=found)
        else:
            yield verdict


@dataclass(frozen=True, slots=True)
class Change:
    """An operation that is done more or less often than before.

    Attributes:
        text: of the operation.
        function: that it came from.
        line: of that function, the one that does it most often.
        count: how much more often it is done now; less often if it is negative.
    """

    text: str
    function: str
    line: str
    count: int

    def __str__(self) -> str:
        return f"{self.count:+,}x {self.text}  at {self.line}"


def changed_operations(held: Entry, now: Entry, probe: str | None = None) -> list[Change]:
    """Return what is done more or less often than before, the largest change first.

    Operations are told apart by their text and the function that they came from.
    """
    before, after = _by_function(held, probe), _by_function(now, probe)
    found = []
    for key in {**before, **after}:
        count = sum(after.get(key, {}).values()) - sum(before.get(key, {}).values())
        if count:
            lines = after.get(key) or before[key]
            line = max(lines, key=lambda line: (lines[line], line))
            found.append(Change(*key, line, count))
    return sorted(found, key=lambda change: (-abs(change.count), change.text, str(change)))


def differences(held: Entry, now: Entry, probe: str | None = None) -> list[str]:
    """Return :func:`changed_operations` as lines."""
    return [str(change) for change in changed_operations(held, now, probe)]


def plan_changes(held: Entry, now: Entry) -> list[str]:
    """Return which statements use an index no more that they used."""
    return [
        f"{shorten(text, _WIDTH)} used {held.plans[text]} when the baseline was recorded and uses "
        f"{used or 'none'} now"
        for text, used in sorted(now.plans.items())
        if set(held.plans.get(text, used).split(", ")) - set(used.split(", ")) - {""}
    ]


def _by_function(entry: Entry, probe: str | None) -> dict[tuple[str, str], Counter[str]]:
    found: dict[tuple[str, str], Counter[str]] = {}
    for name, operations in entry.operations.items():
        if probe in (None, name):
            for text, lines in operations.items():
                for line, count in lines.items():
                    found.setdefault((text, function_of(line)), Counter())[line] += count
    return found


def function_of(line: str) -> str:
    """Return a place without its line number."""
    match = _SITE.fullmatch(line)
    return f"{match['file']} in {match['function']}" if match else line


def is_same(first: Entry, second: Entry) -> bool:
    """Return whether two entries differ in nothing but lines."""
    return (
        first.metrics == second.metrics
        and first.plans == second.plans
        and not differences(first, second)
    )
