"""What a person needs to see of a span: the cause first, then the rest on one time line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pytest_perfguard.findings import place
from pytest_perfguard.fingerprint import shorten
from pytest_perfguard.folding import add, folded_timeline
from pytest_perfguard.metrics import METRICS, UNCOUNTED
from pytest_perfguard.model import Finding, Record, Site, Span, Status, Tally, Verdict
from pytest_perfguard.units import Unit, show

_MAX_CAUSES = 5
_MAX_MOMENTS = 12
# Metrics whose value a repeated statement drives up; others have causes of their own.
_DRIVEN_BY_REPEATS = {
    "sql_queries", "sql_roundtrips", "sql_rows", "sql_time", "sql_n_plus_one", "sql_duplicates",
}  # fmt: skip


def failure(record: Record, verdicts: Sequence[Verdict], width: int = 100) -> str:
    """Return the text of a test that failed by the given verdicts, or by errors alone."""
    lines = [f"perfguard: {headline(record, verdicts)}"]
    lines += [f"  {error}" for error in record.errors]
    lines += table(verdicts)
    for span in _judged_spans(record, verdicts):
        names = {v.metric for v in verdicts if v.span == span.name and v.status is Status.OVER}
        lines += evidence(span, names, width)
    return "\n".join(lines)


def headline(record: Record, verdicts: Sequence[Verdict]) -> str:
    """Return how many budgets were not kept, and where."""
    over = sum(verdict.status is Status.OVER for verdict in verdicts)
    unproven = sum(verdict.status is Status.UNPROVEN for verdict in verdicts)
    total = len(record.verdicts)
    parts = []
    if over:
        parts.append(f"{over} of {total} budget{'s'[: total > 1]} exceeded")
    if unproven:
        parts.append(f"{unproven} of {total} budget{'s'[: total > 1]} unproven")
    if record.errors:
        parts.append(f"{len(record.errors)} mistake{'s'[: len(record.errors) > 1]}")
    spans = _judged_spans(record, verdicts)
    return f"{', '.join(parts)} in {', '.join(_where(span) for span in spans) or record.span.name}"


def _judged_spans(record: Record, verdicts: Sequence[Verdict]) -> list[Span]:
    names = {verdict.span for verdict in verdicts}
    found: dict[str, Span] = {}
    for span in record.span.walk():
        if span.name in names:
            found.setdefault(span.name, span)
    return list(found.values())


def _where(span: Span) -> str:
    requests = [part for part in span.walk() if part.kind == "request"]
    if span.kind == "test" and len(requests) == 1 and requests[0].calls == 1:
        return requests[0].name
    return f"block {span.name!r}" if span.kind == "block" else span.name


def table(verdicts: Iterable[Verdict]) -> list[str]:
    """Return a line for each verdict: metric, value against limit, where the limit was written."""
    rows = [(verdict, *_cells(verdict)) for verdict in verdicts]
    name_width = max((len(row[1]) for row in rows), default=0)
    value_width = max((len(row[2]) for row in rows), default=0)
    lines = []
    for verdict, name, value, where in rows:
        lines.append(f"  {name:<{name_width}}  {value:>{value_width}}   {where}")
        if verdict.reason and verdict.status is Status.UNPROVEN:
            lines.append(f"      {verdict.reason}")
    return lines


def _cells(verdict: Verdict) -> tuple[str, str, str]:
    metric = METRICS[verdict.metric]
    limit = show(verdict.limit, metric.unit)
    if verdict.status is Status.UNPROVEN:
        return verdict.metric, f"unproven (limit {limit})", verdict.where
    sign = "<" if metric.higher_is_better else ">"
    if verdict.status is Status.OK:
        return verdict.metric, f"{show(verdict.value, metric.unit)} of {limit}", verdict.where
    return verdict.metric, f"{show(verdict.value, metric.unit)} {sign} {limit}", verdict.where


def evidence(span: Span, metrics: Iterable[str], width: int = 100) -> list[str]:
    """Return what explains the values of the metrics in a span, the likeliest cause first."""
    wanted = set(metrics)
    lines: list[str] = []
    found = merged_findings(part for part in span.walk())
    explained = False
    if wanted & _DRIVEN_BY_REPEATS:
        relevant = [
            finding
            for finding in found
            if finding.waiver is None
            and (finding.metric in wanted or "n_plus_one" in finding.metric or len(wanted) > 1
                 or "sql_duplicates" not in finding.metric or "sql_queries" in wanted)
        ]
        for finding in relevant[:_MAX_CAUSES]:
            lines += cause(finding, width)
        if len(relevant) > _MAX_CAUSES:
            lines.append(f"... and {len(relevant) - _MAX_CAUSES} more candidates")
        explained = any("n_plus_one" in finding.metric for finding in relevant) or (
            "sql_duplicates" in wanted and bool(relevant)
        )
    tallies = _counted(span)
    if "sql_errors" in wanted:
        lines += _each((t for t in tallies if t.sums.get("errors")), _failed, width)
    if "sql_full_scans" in wanted:
        lines += _each((t for t in tallies if t.sums.get("full_scans")), _scanned, width)
    if wanted & {"sql_slowest", "sql_time"}:
        slowest = sorted(tallies, key=lambda t: -t.peaks.get("seconds", 0.0))[:1]
        lines += _each(slowest, _timed, width)
    if "sql_rows" in wanted:
        most = sorted(tallies, key=lambda t: -t.sums.get("rows", 0))[:2]
        lines += _each(most, _fetched, width)
    if wanted & {"sql_queries", "sql_roundtrips"} and not explained and "sql_errors" not in wanted:
        most = sorted(tallies, key=lambda t: -t.sums.get("roundtrips", 0))[:_MAX_CAUSES]
        lines += _each(most, _counted_line, width)
        if not any(t.distinct > 1 for t in tallies):
            lines.append("no statement repeats with other parameters: each of these is asked for on its own")
    if "sql_commits" in wanted:
        commits = [t for part in span.walk() for t in part.tallies if t.sums.get("commits")]
        lines += [f"{t.sums['commits']:.0f}x COMMIT\n    at {_line(t.site)}" for t in commits]
    lines += [f"waived: {f.metric} at {_line(f.tally.site)}: {f.waiver}" for f in found if f.waiver]
    if tallies:
        lines.append(f"timeline: {timeline(span)}")
    return lines


def merged_findings(spans: Iterable[Span]) -> list[Finding]:
    """Return the findings of several spans, those of the same line as one, the heaviest first."""
    merged: dict[tuple[object, ...], Finding] = {}
    for span in spans:
        for finding in span.findings:
            key = (*place(finding), finding.waiver)
            known = merged.get(key)
            merged[key] = finding if known is None else Finding(
                finding.metric, add(known.tally, finding.tally), known.weight + finding.weight, finding.waiver
            )
    order = sorted(merged.values(), key=lambda f: ("n_plus_one" not in f.metric, -f.tally.count))
    # A line that is a candidate N+1 needs no second entry for the duplicates among its reads.
    return order


def cause(finding: Finding, width: int = 100) -> list[str]:
    """Return a candidate as a person should read it: what, where, which statement, what to do."""
    tally = finding.tally
    if "n_plus_one" in finding.metric:
        title = f"{tally.repeats}x {_repeated(tally)}"
        sets = f"{tally.distinct} different parameter sets"
        fix = tally.fix
    else:
        title = f"{finding.weight}x {tally.label} read again with the same parameters"
        sets = f"{tally.count} times in all"
        fix = "read it once and pass the result on, or cache it for the request"
    lines = [title, *_site(tally.site), *_statement(tally, width, sets)]
    if fix:
        lines.append(f"    fix: {fix}")
    return lines


def _repeated(tally: Tally) -> str:
    match tally.facts.get("cause", "").split():
        case ["lazy", *_]:
            return f"{tally.subject} lazy-loaded one row at a time"
        case ["refresh"]:
            return f"{tally.subject} refreshed one row at a time"
    if tally.kind == "write":
        return f"{tally.label} written one row at a time"
    return f"{tally.label} run one at a time with other parameters"


def _site(site: Site | None) -> list[str]:
    if site is None:
        return ["    at no line of your code: a library ran it on a thread of its own"]
    lines = [f"    at {site}" + (f", through {site.through}" if site.through else "")]
    lines += [f"       from {caller}" for caller in site.callers[:2]]
    return lines


def _line(site: Site | None) -> str:
    return str(site) if site else "no line of your code"


def _statement(tally: Tally, width: int, remark: str = "") -> list[str]:
    space = width - 4 - (len(remark) + 4 if remark else 0)
    lines = [f"    {shorten(tally.operation, max(space, 40))}" + (f"    {remark}" if remark else "")]
    lines += [f"    parameters: {sample}" for sample in tally.samples]
    return lines


def _each(tallies: Iterable[Tally], title: object, width: int) -> list[str]:
    lines: list[str] = []
    for tally in list(tallies)[:_MAX_CAUSES]:
        lines += [title(tally), *_site(tally.site), *_statement(tally, width)]  # type: ignore[operator]
    return lines


def _failed(tally: Tally) -> str:
    return f"{tally.sums['errors']:.0f}x {tally.label} failed: {tally.facts.get('error', '?')}"


def _scanned(tally: Tally) -> str:
    return f"{tally.label}: no index could serve it ({tally.facts.get('plan', '?')})"


def _timed(tally: Tally) -> str:
    return f"slowest: {tally.label} took {show(tally.peaks.get('seconds'), Unit.SECONDS)}"


def _fetched(tally: Tally) -> str:
    return f"{tally.sums.get('rows', 0):,.0f} rows fetched by {tally.count}x {tally.label}"


def _counted_line(tally: Tally) -> str:
    trips = tally.sums.get("roundtrips", 0)
    sent = f" in {trips:.0f} round trips" if trips > tally.count else ""
    return f"{tally.count}x {tally.label}{sent}"


def _counted(span: Span) -> list[Tally]:
    """Return the tallies of a span and those inside it, added up by line, without COMMITs."""
    merged: dict[tuple[object, ...], Tally] = {}
    for part in span.walk():
        for tally in part.tallies:
            if tally.kind in UNCOUNTED:
                continue
            site = tally.site
            key = (tally.operation, site and (site.file, site.line), tally.subject)
            merged[key] = add(merged[key], tally) if key in merged else tally
    return list(merged.values())


def timeline(span: Span) -> str:
    """Return what happened in order: ``1x SELECT resources · 20x SELECT users``."""
    moments = folded_timeline(span)
    shown = [f"{count}x {label}" for label, count in moments[:_MAX_MOMENTS]]
    hidden = sum(count for _, count in moments[_MAX_MOMENTS:])
    hidden += sum(part.timeline_dropped for part in span.walk())
    return " · ".join([*shown, f"... {hidden:,} more"] if hidden else shown)
