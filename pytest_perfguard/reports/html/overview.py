"""What is said of a whole run, and the line that each of its tests has in the list."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pytest_perfguard.metrics import METRICS
from pytest_perfguard.model import Level, Record, Rule, Run, Span, Status, Verdict
from pytest_perfguard.reports.causes import EXPLAINS
from pytest_perfguard.reports.evidence import (
    cache_faults,
    cause,
    headline,
    merged_findings,
    open_candidates,
)
from pytest_perfguard.reports.standing import of_limit
from pytest_perfguard.reports.terminal import denominator
from pytest_perfguard.units import Unit, several, show
from pytest_perfguard.visible import visible

# From what needs a look to what does not: the list is sorted by it. Each with what it says.
STATUSES = {
    "failing": ("Failing", "a budget or a baseline is not kept, or the test itself fails"),
    "warning": ("Warning", "a limit is not kept, which only warns here"),
    "waived": ("Waived", "a limit is not kept, which a mark tolerates for a time"),
    "candidate": ("Candidate", "every limit is kept, and something repeats that need not"),
    "changed": ("Changed", "better than the baseline, other than it, or new"),
    "kept": ("Kept", "every limit is kept"),
    "measured": ("Measured", "nothing is limited"),
    "skipped": ("Skipped", "the test did not run to its end"),
}
_ORDER = list(STATUSES)
_COLUMNS = ("sql_queries", "cache_commands", "http_requests")
# Larger ones would be infinite once they are rounded.
_HUGE = 1e300
_MAX_CAUSES = 5
_MAX_BREACHED = 8
# What is written before a metric to find the tests that exceed it.
_OVER = "over:"
_MAX_WORDS = 600
_MAX_NOTICES = 50
# Statements as long as that say no more than their beginning.
_WIDTH = 160
# What a test can be filtered by, beyond its status: whether it holds anything of a kind.
FACETS = ("sql", "cache", "http", "tasks", "timing", "growth", "waiver")


def known(run: Run) -> Run:
    """Return the run without what this version does not know, such as metrics of another one."""
    return replace(run, records=tuple(map(_known, run.records)))


def _known(record: Record) -> Record:
    return replace(
        record,
        span=_known_span(record.span),
        verdicts=tuple(v for v in record.verdicts if v.metric in METRICS),
    )


def _known_span(span: Span) -> Span:
    timing, growth = span.timing, span.growth
    return replace(
        span,
        findings=tuple(f for f in span.findings if f.metric in EXPLAINS),
        timing=timing if timing and "statistics" in timing else None,
        growth=growth if growth and {"sizes", "metrics"} <= growth.keys() else None,
        children=tuple(map(_known_span, span.children)),
    )


def overview(run: Run) -> dict[str, Any]:
    """Return what stands above the list, and the rows of the list."""
    rows = [_row(record) for record in run.records]
    counts = Counter(row[1] for row in rows)
    return {
        "title": _title(run),
        "fails": run.fails or any(record.outcome == "failed" for record in run.records),
        "source": _source(run.source),
        "environment": [(visible(k), visible(v)) for k, v in run.environment.items()],
        "sentence": denominator(run),
        "statuses": [
            {"name": name, "title": title, "help": text, "count": counts[number]}
            for number, (name, (title, text)) in enumerate(STATUSES.items())
        ],
        "tiles": _tiles(run),
        "notices": [visible(notice) for notice in run.notices[:_MAX_NOTICES]],
        "more_notices": max(0, len(run.notices) - _MAX_NOTICES),
        "causes": _causes(run.records),
        "breached": _breached(run.records),
        "tests": rows,
    }


def _title(run: Run) -> str:
    failing = sum(status_of(record) == "failing" for record in run.records)
    if failing:
        return f"{failing:,} of {several(len(run.records), 'test')} failing"
    if not run.records:
        return "No test was measured"
    return f"{several(len(run.records), 'test')} measured, none failing"


def _source(source: Mapping[str, str]) -> list[tuple[str, str]]:
    shown = dict(source)
    commit = shown.get("commit", "")[:12]
    if commit:
        shown["commit"] = commit + (" and changes" if shown.pop("dirty", "") else "")
    if "started" in shown:
        shown["started"] = shown["started"].replace("T", " ").replace("+00:00", " UTC")
    names = ["branch", "commit", "started"]
    return [(name, visible(shown[name])) for name in names if shown.get(name)]


def _tiles(run: Run) -> list[dict[str, str]]:
    """Return the numbers that a reader looks for first, each with what it is out of."""
    verdicts = [v for record in run.records for v in record.verdicts if not v.idle]
    tiles = []
    for rule, title in (
        (Rule.BUDGET, "Budgets kept"),
        (Rule.BASELINE, "Baseline values kept"),
        (Rule.TIMES, "Times kept"),
    ):
        judged = [v for v in verdicts if v.rule is rule]
        if judged:
            kept = sum(not v.breached and not v.waiver for v in judged)
            tone = "bad" if any(v.breached for v in judged) else "good"
            missed = len(judged) - kept
            of = f"of {len(judged):,}" + (f", {missed:,} not" if missed else "")
            tiles.append(_tile(title, f"{kept:,}", of, tone))
    waived = sum(bool(verdict.waiver) for verdict in verdicts)
    if waived:
        tiles.append(_tile("Waived", f"{waived:,}", "for a time"))
    for metric, title in (
        ("sql_queries", "SQL statements"),
        ("cache_commands", "Cache commands"),
        ("http_requests", "HTTP requests"),
        ("task_runs", "Task runs"),
    ):
        tests = [r.metrics[metric] for r in run.records if r.metrics.get(metric)]
        if tests:
            tiles.append(_tile(title, f"{sum(tests):,.0f}", f"in {several(len(tests), 'test')}"))
    return tiles


def _tile(title: str, value: str, remark: str, tone: str = "") -> dict[str, str]:
    return {"title": title, "value": value, "remark": remark, "tone": tone}


def _causes(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Return what to look at first: what repeats in the most places, with line and fix."""
    open_ones = open_candidates(records)
    found = []
    for finding, tests in open_ones[:_MAX_CAUSES]:
        site = finding.tally.site
        found.append(
            {
                "lines": shown_lines(cause(finding, _WIDTH)),
                "tests": several(tests, "test"),
                "search": visible(f"{site.file}:{site.line}") if site else "",
            }
        )
    more = len(open_ones) - len(found)
    if more > 0:
        found.append({"lines": [("more", f"and {several(more, 'more candidate')}")], "tests": ""})
    whole = Span("", "block", children=tuple(record.span for record in records))
    found += [
        {"lines": shown_lines(lines), "tests": "", "search": ""}
        for lines in cache_faults(whole)[:_MAX_CAUSES]
    ]
    return found


def _breached(records: Iterable[Record]) -> list[tuple[str, str, str]]:
    """Return the metrics that are over in the most tests, each with how many and the search."""
    counts = Counter(name for record in records for name in _over(record))
    ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:_MAX_BREACHED]
    return [(name, several(count, "test"), f"{_OVER}{name}") for name, count in ranked]


def _over(record: Record) -> list[str]:
    return list(dict.fromkeys(verdict.metric for verdict in record.breaches))


def shown_lines(lines: Iterable[str]) -> list[tuple[str, str]]:
    """Return lines as the terminal has them, each with what kind of line it is."""
    return [
        (_kind(line), visible(_bounded(line.removeprefix("perfguard: ").strip(), _MAX_LINE)))
        for line in lines
    ]


_MAX_LINE = 2_000


def _kind(line: str) -> str:
    text = line.strip()
    for begins, kind in (
        ("fix: ", "fix"), ("at ", "site"), ("from ", "caller"), ("timeline: ", "timeline"),
        ("waived", "waived"), ("since the baseline", "head"), ("perfguard: ", "title"),
    ):  # fmt: skip
        if text.startswith(begins):
            return kind
    if line.startswith("  ") and not line.startswith("   "):
        return "breach"
    return "code" if line.startswith("    ") else "cause"


def _bounded(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}… and {len(text) - most:,} more characters"


def bounded(text: str, most: int = _MAX_LINE) -> str:
    """Return text of unknown origin and length as it may be shown."""
    return visible(_bounded(text, most))


def status_of(record: Record) -> str:  # noqa: PLR0911 - one for each status
    """Return under which of :data:`STATUSES` a test is listed."""
    if record.fails or record.outcome == "failed":
        return "failing"
    if record.breaches:
        return "warning"
    if record.outcome == "skipped":
        return "skipped"
    if any(verdict.waiver for verdict in record.verdicts):
        return "waived"
    if any(f.waiver is None for span in record.span.walk() for f in span.findings):
        return "candidate"
    moved = (Status.IMPROVED, Status.CHANGED)
    if record.is_new or any(verdict.status in moved for verdict in record.verdicts):
        return "changed"
    return "kept" if any(not verdict.idle for verdict in record.verdicts) else "measured"


def _row(record: Record) -> list[Any]:
    """Return what the list shows of a test and what it is searched by."""
    status = status_of(record)
    ratio, text = _closest(record)
    spans = list(record.span.walk())
    return [
        bounded(record.nodeid),
        _ORDER.index(status),
        _why(record, status),
        finite(min(ratio, 1e6)),
        text,
        *(finite(record.metrics.get(metric, 0)) for metric in _COLUMNS),
        finite(record.span.seconds),
        show(record.span.seconds, Unit.SECONDS),
        " ".join([*(f"{_OVER}{name}" for name in _over(record)), _words(spans)]).strip(),
        "".join(str(number) for number, facet in enumerate(FACETS) if _has(record, spans, facet)),
    ]


def finite(value: float) -> float:
    """Return a number as JSON can hold it, and no more of it than is looked at."""
    return float(f"{max(-_HUGE, min(value, _HUGE)):.6g}") if math.isfinite(value) else 0


def _has(record: Record, spans: list[Span], facet: str) -> bool:
    match facet:
        case "timing":
            return any(span.timing for span in spans)
        case "growth":
            return any(span.growth for span in spans)
        case "waiver":
            waived = (f.waiver for span in spans for f in span.findings)
            return any(v.waiver for v in record.verdicts) or any(waived)
    return any(tally.probe == facet for span in spans for tally in span.tallies)


def _why(record: Record, status: str) -> str:  # noqa: PLR0911 - one for each reason
    """Return in one line why a test is listed where it is."""
    if record.breaches or record.errors:
        return bounded(headline(record), 300)
    if status == "failing":
        return bounded(f"the test itself fails: {record.raised or 'a late report'}", 300)
    if status == "waived":
        waivers = dict.fromkeys(v.waiver for v in record.verdicts if v.waiver)
        return bounded(f"waived {', '.join(waivers)}", 300)
    if status == "candidate":
        findings = [f for f in merged_findings(record.span.walk()) if f.waiver is None]
        more = f", and {len(findings) - 1} more" if len(findings) > 1 else ""
        return bounded(cause(findings[0])[0] + more, 300)
    for verdict in record.verdicts:
        if verdict.status is Status.IMPROVED:
            unit = METRICS[verdict.metric].unit
            was, now = show(verdict.limit, unit), show(verdict.value, unit)
            return f"better than the baseline: {verdict.metric} {was} → {now}"
    if status == "changed":
        return "no baseline yet" if record.is_new else "other operations than in the baseline"
    return ""


def _closest(record: Record) -> tuple[float, str]:
    """Return how much of a budget is used, of the one that is closest to its limit."""
    best: tuple[float, str] = (-1.0, "")
    unproven = [v for v in record.verdicts if v.status is Status.UNPROVEN and v.breached]
    if unproven:
        return 1e6, f"{unproven[0].metric} unproven"
    for verdict in record.verdicts:
        ratio = used(verdict)
        if verdict.rule is Rule.BUDGET and ratio is not None and ratio > best[0]:
            best = ratio, of_limit(verdict)
    return best


def used(verdict: Verdict) -> float | None:
    """Return the share of a limit that is used; None where there is no saying."""
    value, limit = verdict.value, verdict.limit
    if value is None or verdict.idle:
        return None
    if METRICS[verdict.metric].higher_is_better:
        value, limit = limit, value
    if limit <= 0:
        return 1e6 if value > 0 else None
    return value / limit


def _words(spans: Iterable[Span]) -> str:
    """Return what else a test is found by: endpoints, tables, lines."""
    words: dict[str, None] = {}
    for span in spans:
        if span.kind in ("request", "task"):
            words[span.name] = None
        for tally in span.tallies:
            words[tally.label] = None
            if tally.subject:
                words[tally.subject] = None
            if tally.site:
                words[f"{tally.site.file}:{tally.site.line}"] = None
    text = ""
    for word in words:
        if len(text) + len(word) > _MAX_WORDS:
            break
        text += f" {word}"
    return visible(text.strip())


def level_text(verdict: Verdict) -> str:
    """Return what a verdict says, in a word or two."""
    if verdict.waiver:
        return "waived"
    only_warns = verdict.breached and verdict.level is Level.WARN
    return f"{verdict.status}{', only warns' if only_warns else ''}"
