"""The summary at the end of a session."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from statistics import median

from pytest_perfguard.fingerprint import shorten
from pytest_perfguard.metrics import IN_PROCESS, METRICS, UNCOUNTED
from pytest_perfguard.model import Record, Rule, Run, Span, Status, Tally, Verdict
from pytest_perfguard.reports.evidence import (
    cache_faults,
    cause,
    compared,
    failure,
    merged_findings,
    open_candidates,
)
from pytest_perfguard.reports.standing import closest, not_judged, of_limit
from pytest_perfguard.units import Unit, several, show
from pytest_perfguard.visible import visible

# Verbosity of -qq.
_SILENT = -2
# Columns below which the name of a row goes on a line of its own.
_NARROW = 80
_MAX_BUDGETS = 3


def text(run: Run, *, top: int = 5, width: int = 100) -> str:
    """Return what a session says of the run in the terminal: its failures, then its summary."""
    lines = []
    for record in run.records:
        if record.fails:
            lines += [record.nodeid, *failure(record, width).splitlines(), ""]
        elif record.outcome == "failed":
            lines += [record.nodeid, f"the test itself failed: {record.raised}", ""]
    told = [*map(visible, lines), *summary(run, top=top, full=True, width=width)]
    return "\n".join(told) + "\n"


def summary(run: Run, *, top: int, full: bool, width: int = 100, verbosity: int = 0) -> list[str]:
    """Return the lines of the summary.

    Args:
        top: length of each list.
        full: show the top lists and every candidate, not only what needs attention.
        width: columns of the terminal.
        verbosity: as pytest counts it: from 1 on the budgets of all tests are shown, at -2 and
            below only what needs attention.
    """
    lines = [*run.notices, *_warnings(run.records, width)]
    if verbosity <= _SILENT:
        return [*map(visible, lines), *_parameters(run.records, top, width), denominator(run)]
    lines += _baselines(run.records, top, width)
    if full or verbosity > 0:
        lines += _budgets(run.records, len(run.records) if verbosity > 0 else top)
    if full and run.records:
        lines += _top_list("most statements", run, top, "sql_queries", Unit.COUNT)
        lines += _top_list("most time in SQL", run, top, "sql_time", Unit.SECONDS)
        lines += _most_repeats(run, top, width)
        lines += _candidates(run, top, width)
        lines += _cache_faults(run, top)
        lines += _lookups(run, top)
        lines += _endpoints(run, top, width)
    if unjudged := not_judged(run) if full else []:
        lines += ["not judged:", *(f"  {line}" for line in unjudged)]
    # Reasons of waivers and names of tests hold what their authors wrote.
    told = [*map(visible, lines), *_parameters(run.records, top, width)]
    return [*told, denominator(run)]


def denominator(run: Run) -> str:
    """Return what all numbers of the run are out of."""
    queries = sum(record.metrics.get("sql_queries", 0) for record in run.records)
    engines = {key for record in run.records for key in record.engines}
    judged = [v for record in run.records for v in record.verdicts if not v.idle]
    parts = [
        f"{several(len(run.records), 'test')} measured",
        f"{several(int(queries), 'statement')} on {several(len(engines), 'engine')}",
    ]
    commands = sum(record.metrics.get("cache_commands", 0) for record in run.records)
    if commands:
        parts.append(several(int(commands), "cache command"))
    budgets = [verdict for verdict in judged if verdict.rule is Rule.BUDGET]
    if budgets:
        parts.append(f"{several(len(budgets), 'budget')} judged: {_counts(budgets)}")
    compared = [record for record in run.records if record.baseline and not record.is_new]
    baselines = [verdict for verdict in judged if verdict.rule is Rule.BASELINE]
    times = [verdict for verdict in judged if verdict.rule is Rule.TIMES]
    if times:
        parts.append(f"{several(len(times), 'time')} compared: {_counts(times)}")
    if baselines:
        parts.append(f"{several(len(compared), 'baseline')} compared: {_counts(baselines)}")
    return ", ".join(parts)


def _counts(verdicts: Iterable[Verdict]) -> str:
    counted = Counter("waived" if v.waiver else str(v.status) for v in verdicts)
    names = [*map(str, Status), "waived"]
    return ", ".join(f"{counted[name]:,} {name}" for name in names if counted[name])


def _warnings(records: Iterable[Record], width: int) -> list[str]:
    """Tell of breaches that only warn; those of a test that fails stand in its failure."""
    lines: list[str] = []
    for record in records:
        if record.breaches and not record.fails:
            first, *rest = failure(record, width).splitlines()
            lines.append(f"warning: {record.nodeid}: {first.removeprefix('perfguard: ')}")
            lines += rest
    return lines


def _baselines(records: Iterable[Record], top: int, width: int) -> list[str]:
    """Tell of tests that have no baseline yet, that are better than it, or are made otherwise."""
    records = list(records)
    new = [record.nodeid for record in records if record.is_new and not record.errors]
    lines = []
    if new:
        lines.append(
            f"{several(len(new), 'test')} without a baseline (--perfguard-update records it):"
        )
        lines += _some([f"  {nodeid}" for nodeid in new], top)
    verdicts = [(record, verdict) for record in records for verdict in record.verdicts]
    # Up to the ratio so far, which differs from test to test.
    unjudged = Counter(
        v.reason.partition(",")[0].rstrip(")") for _, v in verdicts if v.status is Status.NEW
    )
    for reason, count in sorted(unjudged.items()):
        lines.append(f"{several(count, 'time')} not judged yet: {reason})")
    better = [
        f"  {v.metric} {show(v.limit, unit)} -> {show(v.value, unit)} in {record.nodeid}"
        for record, v in verdicts
        if v.status is Status.IMPROVED
        for unit in [METRICS[v.metric].unit]
    ]
    if better:
        lines.append("better than the baseline (--perfguard-update keeps it so):")
        lines += _some(better, top)
    for record, verdict in verdicts:
        if verdict.changes and verdict.status in (Status.CHANGED, Status.IMPROVED):
            lines.append(f"other operations than in the baseline: {record.nodeid}")
            lines += _some([f"  {shorten(line, width - 2)}" for line in verdict.changes], top)
    waived: dict[str, list[str]] = {}
    for record, verdict in verdicts:
        if verdict.waiver:
            waived.setdefault(f"waived {verdict.waiver}", []).append(
                f"  {verdict.metric} {compared(verdict)} in {record.nodeid}"
            )
    for title, breaches in waived.items():
        lines += [title, *_some(breaches, top)]
    return lines


def _some(lines: list[str], top: int) -> list[str]:
    shown = lines[: max(top, 1)]
    more = len(lines) - len(shown)
    return shown + ([f"  ... and {more:,} more"] if more else [])


def _budgets(records: Iterable[Record], top: int) -> list[str]:
    """List budgets that were kept, those first that came closest to their limit."""
    found = closest(records)
    lines = ["closest to their budgets:"] if found[:top] else []
    for share, record, verdicts in found[:top]:
        told = " · ".join(of_limit(verdict) for verdict in verdicts[:_MAX_BUDGETS])
        more = len(verdicts) - _MAX_BUDGETS
        lines.append(f"  {share:>4.0%}  {told}{f' and {more} more' if more > 0 else ''}")
        lines.append(f"        in {record.nodeid}")
    return lines


def _top_list(title: str, run: Run, top: int, metric: str, unit: Unit) -> list[str]:
    ranked = sorted(run.records, key=lambda record: -record.metrics.get(metric, 0))
    rows = [
        (show(record.metrics[metric], unit), record.nodeid)
        for record in ranked[:top]
        if record.metrics.get(metric)
    ]
    width = max((len(value) for value, _ in rows), default=0)
    return (
        [f"{title}:", *(f"  {value:>{width}}  {nodeid}" for value, nodeid in rows)] if rows else []
    )


def _most_repeats(run: Run, top: int, width: int) -> list[str]:
    most: dict[tuple[str, str], tuple[int, str]] = {}
    for record in run.records:
        for span in record.span.walk():
            for tally in span.tallies:
                if tally.count > 1 and tally.kind not in (*UNCOUNTED, IN_PROCESS, "request"):
                    line = _line(tally)
                    most[line] = max(most.get(line, (0, "")), (tally.count, record.nodeid))
    ranked = sorted(most.items(), key=lambda entry: -entry[1][0])[:top]
    lines = ["most repeats in one span:"] if ranked else []
    for (operation, site), (count, nodeid) in ranked:
        lines.append(f"  {count:,}x {shorten(operation, width - 10)}")
        lines.append(f"      at {site}, in {nodeid}")
    return lines


def _candidates(run: Run, top: int, width: int) -> list[str]:
    open_ones = [each for each in open_candidates(run.records) if "n_plus_one" in each[0].metric]
    lines = [f"{several(len(open_ones), 'candidate N+1')}:"] if open_ones else []
    for finding, tests in open_ones[: max(top, 1)]:
        first, *rest = cause(finding, width - 2)
        lines.append(f"  {first}, in {several(tests, 'test')}")
        lines += [f"  {line}" for line in rest]
    if len(open_ones) > top:
        lines.append(f"  ... and {len(open_ones) - top} more")
    spans = (span for record in run.records for span in record.span.walk())
    waived = sum("n_plus_one" in f.metric and f.waiver is not None for f in merged_findings(spans))
    if waived:
        lines.append(f"{several(waived, 'candidate N+1')} waived by a comment")
    return lines


def _cache_faults(run: Run, top: int) -> list[str]:
    """List commands that held up an event loop, and keys that hold an object's address."""
    whole = Span("", "block", children=tuple(record.span for record in run.records))
    found = cache_faults(whole)
    lines = [f"{several(len(found), 'fault')} with caches:"] if found else []
    lines += [f"  {line}" for fault in found[: max(top, 1)] for line in fault]
    if len(found) > top:
        lines.append(f"  ... and {len(found) - top} more")
    return lines


def _lookups(run: Run, top: int) -> list[str]:
    """List hits and misses by pattern of keys, the patterns that missed most often first."""
    found: dict[str, tuple[float, float]] = {}
    for record in run.records:
        for span in record.span.walk():
            for tally in span.tallies:
                hits, misses = tally.sums.get("hits", 0), tally.sums.get("misses", 0)
                if tally.probe == "cache" and (hits or misses):
                    before = found.get(tally.label, (0, 0))
                    found[tally.label] = before[0] + hits, before[1] + misses
    ranked = sorted(found.items(), key=lambda entry: (-entry[1][1], -entry[1][0], entry[0]))[:top]
    unit = Unit.SHARE
    rows = [
        (f"{hits:,.0f}", f"{misses:,.0f}", show(hits / (hits + misses), unit), label)
        for label, (hits, misses) in ranked
    ]
    if not rows:
        return []
    rows = [("hits", "misses", "ratio", ""), *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [
        "cache lookups, by command and key:",
        *(
            "  "
            + "  ".join(f"{cell:>{size}}" for cell, size in zip(row, widths, strict=False))
            + (f"  {row[3]}" if row[3] else "")
            for row in rows
        ),
    ]


def _endpoints(run: Run, top: int, width: int) -> list[str]:
    """List the endpoints that were called, those with the most SQL in one call first."""
    calls: dict[str, list[Span]] = {}
    tasks: dict[str, dict[str, int]] = {}
    for record in run.records:
        for span in record.span.walk():
            # Those that were folded together have no name of their own.
            if span.kind == "request" and span.calls == 1:
                calls.setdefault(span.name, []).append(span)
                for inner in span.children:
                    if inner.kind == "task":
                        of_endpoint = tasks.setdefault(span.name, {})
                        of_endpoint[inner.name] = of_endpoint.get(inner.name, 0) + 1
    rows = {name: _endpoint(spans) for name, spans in calls.items()}
    ranked = sorted(rows, key=lambda name: (-_most_queries(calls[name]), name))
    shown = [(name, rows[name]) for name in ranked[:top]]
    if not shown:
        return []
    head = ("calls", "SQL (min/med/max)", "cache (hit/miss)", "bytes", "time", "errors")
    table = [head, *(cells for _, cells in shown)]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    names = ["", *(name for name, _ in shown)]
    lines = ["endpoints:"]
    for name, cells in zip(names, table, strict=True):
        row = "  ".join(f"{cell:>{size}}" for cell, size in zip(cells, widths, strict=True))
        if width < _NARROW and name:
            lines += [f"  {name}", f"  {row}"]
        else:
            lines.append(f"  {row}  {name}".rstrip())
        lines += [
            f"  {'':{sum(widths) + 2 * len(widths) - 2}}  + {count}x {task}"
            for task, count in tasks.get(name, {}).items()
        ]
    if len(rows) > top:
        lines.append(f"  ... and {len(rows) - top} more")
    return lines


def _most_queries(spans: Iterable[Span]) -> float:
    return max(METRICS["sql_queries"].measure(span) or 0 for span in spans)


def _endpoint(spans: list[Span]) -> tuple[str, ...]:
    """Return the cells of an endpoint's row."""

    def each(metric: str) -> list[float]:
        values = (METRICS[metric].measure(span) for span in spans)
        return [value for value in values if value is not None]

    queries, sizes = each("sql_queries"), each("response_bytes")
    timed = [span.timing["statistics"]["median"] for span in spans if span.timing]
    seconds = median(timed or [span.seconds for span in spans])
    hits, misses = sum(each("cache_hits")), sum(each("cache_misses"))
    return (
        f"{len(spans):,}",
        "/".join(f"{value:.0f}" for value in (min(queries), median(queries), max(queries))),
        f"{hits:,.0f}/{misses:,.0f}" if hits or misses else "-",
        show(max(sizes, default=None), Unit.BYTES),
        show(seconds, Unit.SECONDS) + (" timed" if timed else ""),
        f"{sum(each('http_errors')):,.0f}",
    )


def _parameters(records: Iterable[Record], top: int, width: int) -> list[str]:
    """Show the parameters that were kept: here only, since what a test prints goes into files."""
    lines: list[str] = []
    for record in records:
        tallies = [t for span in record.span.walk() for t in span.tallies if t.samples]
        if tallies:
            lines.append(f"parameters in {record.nodeid}:")
        for tally in sorted(tallies, key=lambda tally: -tally.count)[:top]:
            lines.append(f"  {tally.count}x {shorten(tally.operation, width - 8)}")
            lines += [f"      {sample}" for sample in tally.samples]
    return lines


def _line(tally: Tally) -> tuple[str, str]:
    return (tally.operation, str(tally.site or "no line of your code"))
