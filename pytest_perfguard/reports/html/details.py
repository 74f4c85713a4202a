"""What the report shows of one test: plain data, every value as a person reads it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from pytest_perfguard.metrics import METRICS, UNCOUNTED
from pytest_perfguard.model import Moment, Record, Rule, Span, Tally, Verdict
from pytest_perfguard.reports.evidence import cause, failure, merged_findings, merged_tallies
from pytest_perfguard.reports.html.overview import bounded, finite, level_text, shown_lines, used
from pytest_perfguard.units import Unit, show

# How a metric of a test went over the last runs, as the history tells it, with those runs.
Series = tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]

_WIDTH = 400
_MAX_CANDIDATES = 10
_MAX_ROWS = 300
_MAX_OPERATIONS = 150
_MAX_TIMINGS = 20
_MAX_STATEMENT = 3_000
_MAX_CHANGES = 40
# How many times as long a test is as all that its time line has.
_IDLE = 2.5
_MAX_TREND = 200
_COMMIT = 10
_TIMELINE_PROBES = {"sql": "sql", "cache": "cache", "http": "http", "tasks": "task"}
_TASKS = {"publish": "published", "retry": "ended in a retry", "failure": "failed"}
_BY_RULE = {Rule.BUDGET: "budget", Rule.BASELINE: "baseline", Rule.TIMES: "times"}


def details(record: Record, trends: Iterable[Series] = ()) -> dict[str, Any]:
    """Return the details of a test; what there is nothing of is left out."""
    spans = list(record.span.walk())
    rows = list(islice(_timeline(record.span, 0), _MAX_ROWS + 1))
    operations = _operations(record.span)
    lines = _lines(record)
    found = {
        "outcome": bounded(record.outcome),
        "lines": lines,
        "candidates": _candidates(record, lines),
        "metrics": _judged(record),
        "others": _unjudged(record),
        "timeline": rows[:_MAX_ROWS],
        "cut": sum(span.timeline_dropped for span in spans),
        "more_rows": len(rows) > _MAX_ROWS,
        "end": _end(record.span, spans),
        "operations": operations[:_MAX_OPERATIONS],
        "more_operations": max(0, len(operations) - _MAX_OPERATIONS),
        "timings": [_timing(record, s) for s in spans if s.timing][:_MAX_TIMINGS],
        "changes": _changes(record),
        "growth": [_growth(record, span) for span in spans if span.growth],
        "notes": [bounded(note) for span in spans for note in span.notes],
        "baseline": bounded(record.baseline),
        "trends": [found for each in trends if (found := _trend(*each))],
    }
    return {key: value for key, value in found.items() if value}


def _lines(record: Record) -> list[tuple[str, str]]:
    """Return what the terminal says of a test that has something against it."""
    lines = []
    if record.raised:
        lines.append(f"the test itself fails, too: {record.raised}, see pytest's own report")
    if record.breaches or record.errors:
        lines += failure(record, _WIDTH).splitlines()
    return shown_lines(lines)


def _candidates(record: Record, lines: list[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """Return what repeats, unless a failure tells of it already."""
    told = {text for _, text in lines}
    found = []
    for finding in merged_findings(record.span.walk())[:_MAX_CANDIDATES]:
        lines = shown_lines(cause(finding, _WIDTH))
        if lines[0][1] not in told:
            if finding.waiver is not None:
                lines.append(("waived", bounded(f"waived: {finding.waiver}")))
            found.append(lines)
    return found


def _judged(record: Record) -> list[dict[str, Any]]:
    """Return a row for each metric and span that was judged, those that are not kept first."""
    rows: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in record.verdicts:
        if not verdict.idle:
            rows.setdefault((verdict.metric, verdict.span), []).append(verdict)
    order = list(METRICS)
    ranked = sorted(
        rows.items(),
        key=lambda row: (not any(v.breached for v in row[1]), order.index(row[0][0]), row[0][1]),
    )
    return [_judged_row(record, *key, verdicts) for key, verdicts in ranked]


def _judged_row(
    record: Record, name: str, span: str, verdicts: Iterable[Verdict]
) -> dict[str, Any]:
    metric = METRICS[name]
    row: dict[str, Any] = {"name": name, "help": metric.help}
    if span != record.span.name:
        row["span"] = bounded(span, 300)
    worst = "ok"
    for verdict in verdicts:
        row["value"] = show(verdict.value, metric.unit)
        ratio = used(verdict)
        tone = _tone(verdict)
        worst = max(worst, tone, key=["ok", "good", "waived", "warn", "bad"].index)
        row[_BY_RULE[verdict.rule]] = {
            "limit": show(verdict.limit, metric.unit),
            "sign": "≥" if metric.higher_is_better else "≤",
            "used": None if ratio is None else finite(min(ratio, 9.99)),
            "status": level_text(verdict),
            "tone": tone,
            "where": bounded(verdict.where, 300),
            "reason": bounded(verdict.waiver or verdict.reason, 500),
        }
    row["tone"] = worst
    return row


def _tone(verdict: Verdict) -> str:
    if verdict.waiver:
        return "waived"
    if verdict.breached:
        return "bad" if verdict.level == "fail" else "warn"
    return "good" if verdict.status == "improved" else "ok"


def _changes(record: Record) -> list[str]:
    """Return what differs from the baseline where that is no breach, which tells of it itself."""
    lines = [line for v in record.verdicts if not v.breached for line in v.changes]
    return [bounded(line, _WIDTH) for line in lines[:_MAX_CHANGES]]


def _unjudged(record: Record) -> list[tuple[str, str, str]]:
    """Return the other metrics that were observed, with their help; zeros say nothing."""
    judged = {v.metric for v in record.verdicts if v.span == record.span.name and not v.idle}
    return [
        (name, show(record.metrics[name], metric.unit), metric.help)
        for name, metric in METRICS.items()
        if record.metrics.get(name) and name not in judged
    ]


def _timeline(span: Span, depth: int) -> Iterator[list[Any]]:
    """Yield the rows of the time line: spans, and inside them what happened, in order."""
    probes = {tally.label: tally.probe for tally in span.tallies}
    calls = f", {span.calls:,} calls" if span.calls > 1 else ""
    yield _bar(depth, span.kind, f"{span.name}{calls}", span.start, span.seconds)
    # What an endpoint got of a load has no time of its own.
    children = [child for child in span.children if child.kind != "endpoint"]
    inside: list[Moment | Span] = [*span.timeline, *children]
    for part in sorted(inside, key=lambda part: part.start):
        if isinstance(part, Span):
            yield from _timeline(part, depth + 1)
        else:
            # What is published has the task's label in tallies.
            probe = probes.get(part.label) or probes.get(part.label.removeprefix("publish "), "")
            kind = _TIMELINE_PROBES.get(probe, "other")
            name = f"{part.count:,}x {part.label}" if part.count > 1 else part.label
            yield _bar(depth + 1, f"m {kind}", name, part.start, part.seconds)


def _bar(depth: int, kind: str, name: str, start: float, seconds: float) -> list[Any]:
    times = [finite(start), finite(seconds), show(start, Unit.SECONDS)]
    return [
        min(depth, 12),
        bounded(kind, 20),
        bounded(name, 300),
        *times,
        show(seconds, Unit.SECONDS),
    ]


def _end(root: Span, spans: Sequence[Span]) -> dict[str, Any]:
    """Return when the time line ends.

    Where a test went on for long after the last of what there is to draw, as with timed rounds,
    it ends before the test does, or all would be drawn at its very beginning.
    """
    ends = [moment.start + moment.seconds for span in spans for moment in span.timeline]
    ends += [span.start + span.seconds for span in spans if span is not root]
    last, whole = max(ends, default=0.0), root.start + root.seconds
    cut = 0 < last * _IDLE < whole
    end = last if cut else max(last, whole)
    found = {"seconds": finite(end), "text": show(end, Unit.SECONDS)}
    return {**found, "until": show(whole, Unit.SECONDS)} if cut else found


def _operations(span: Span) -> list[dict[str, Any]]:
    """Return what was done, by fingerprint and line, what was done most often first."""
    tallies = [tally for tally in merged_tallies(span) if tally.kind not in UNCOUNTED]
    ranked = sorted(tallies, key=lambda tally: (-tally.count, -tally.sums.get("seconds", 0.0)))
    return [_operation(tally) for tally in ranked if tally.count or tally.sums]


def _operation(tally: Tally) -> dict[str, Any]:
    site = tally.site
    found: dict[str, Any] = {
        "probe": bounded(tally.probe, 20),
        "label": bounded(tally.label, 300),
        "count": tally.count or finite(tally.sums.get("runs", 0)),
        "seconds": finite(tally.sums.get("seconds", 0.0)),
        "time": show(tally.sums.get("seconds"), Unit.SECONDS) if "seconds" in tally.sums else "",
        "rows": finite(tally.sums.get("rows", 0)),
        "site": bounded(f"{site.file}:{site.line}", 300) if site else "no line of your code",
    }
    if site:
        found["function"] = bounded(site.function, 200)
        found["callers"] = [bounded(caller, 300) for caller in site.callers[:2]]
    if tally.operation != tally.label:
        found["text"] = bounded(tally.operation, _MAX_STATEMENT)
    remarks = _remarks(tally)
    if remarks:
        found["remarks"] = remarks
    return found


def _remarks(tally: Tally) -> list[str]:
    """Return what else is worth a word of an operation."""
    sums = tally.sums
    words = [
        (tally.subject or "", True),
        (_TASKS.get(tally.kind, ""), tally.probe == "tasks"),
        (f"{sums.get('hits', 0):,.0f} hit, {sums.get('misses', 0):,.0f} missed",
         sums.get("hits") or sums.get("misses")),
        (f"{sums.get('roundtrips', 0):,.0f} round trips", sums.get("roundtrips", 0) > tally.count),
        (f"{tally.duplicates:,} with the same parameters", tally.duplicates),
        (f"{tally.distinct:,} parameter sets", tally.distinct > 1),
        (f"{sums.get('errors', 0):,.0f} failed: {tally.facts.get('error', '?')}",
         sums.get("errors")),
        (f"plan: {tally.facts.get('plan', '')}", "plan" in tally.facts),
        (f"sorts: {tally.facts.get('sort', '')}", "sort" in tally.facts),
        (f"index: {tally.facts.get('index', '')}", "index" in tally.facts),
        (f"uses {tally.facts.get('indexes', '')}", tally.facts.get("indexes")),
        (f"through {site.through}" if (site := tally.site) and site.through else "", True),
    ]  # fmt: skip
    return [bounded(text, 500) for text, said in words if text and said]


def _timing(record: Record, span: Span) -> dict[str, Any]:
    timing: Mapping[str, Any] = span.timing or {}
    statistics = timing["statistics"]
    prefix = "http" if span.kind == "request" else "time"
    limits = [
        (v.metric, finite(v.limit), show(v.limit, Unit.SECONDS), _tone(v))
        for v in record.verdicts
        if v.rule is Rule.BUDGET
        and v.metric.partition("_")[0] == prefix
        and v.span in (span.name, record.span.name)
        and METRICS[v.metric].unit is Unit.SECONDS
    ]
    return {
        "name": bounded(span.name, 300),
        "rounds": timing.get("rounds", 0),
        "at_once": timing.get("concurrency", 1),
        "repeated": timing.get("repeated", 0),
        "cold": show(timing.get("cold_wall"), Unit.SECONDS),
        "statistics": [
            (name, finite(value), show(value, Unit.SECONDS)) for name, value in statistics.items()
        ],
        "sample": [finite(value) for value in timing.get("sample", ())],
        "ends": [
            show(value, Unit.SECONDS)
            for value in (timing["sample"][0], timing["sample"][-1])
        ] if timing.get("sample") else [],
        "limits": limits,
    }  # fmt: skip


def _growth(record: Record, span: Span) -> dict[str, Any]:
    growth: Mapping[str, Any] = span.growth or {}
    judged = {v.metric: v for v in record.verdicts if v.span == span.name}
    rows = []
    for name, found in growth["metrics"].items():
        unit = METRICS[name].unit if name in METRICS else Unit.COUNT
        verdict = judged.get(name)
        rows.append(
            {
                "name": bounded(name, 100),
                "values": [show(value, unit) for value in found["values"]],
                "raw": [finite(value) for value in found["values"]],
                "limit": bounded(found["limit"], 40),
                "status": level_text(verdict) if verdict else "",
                "tone": _tone(verdict) if verdict else "ok",
            }
        )
    rows.sort(key=lambda row: row["tone"] not in ("bad", "warn"))
    return {"name": bounded(span.name, 300), "sizes": list(growth["sizes"]), "rows": rows}


def by_test(trends: Mapping[str, Any]) -> dict[str, list[Series]]:
    """Return the series of a run's trends, by node id."""
    found: dict[str, list[Series]] = {}
    for series in trends.get("series", ()):
        found.setdefault(series["nodeid"], []).append((series, trends["runs"]))
    return found


def _trend(series: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    metric = series["metric"]
    unit = METRICS[metric].unit if metric in METRICS else Unit.COUNT
    points = [
        (_run_name(run), finite(value), show(value, unit))
        for run, value in zip(runs, series["values"], strict=False)
        if value is not None
    ]
    if not points:
        return None
    change = (series.get("change") or {}).get("text", "")
    return {"name": bounded(metric, 100), "points": points[-_MAX_TREND:], "change": bounded(change)}


def _run_name(run: Mapping[str, Any]) -> str:
    commit, started = run.get("commit") or "", run.get("started") or ""
    return bounded(commit[:_COMMIT] or started, 40)
