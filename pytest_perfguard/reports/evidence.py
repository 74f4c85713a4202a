"""What a person needs to see of a span: the cause first, then the rest on one time line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from pytest_perfguard.findings import place
from pytest_perfguard.fingerprint import shorten
from pytest_perfguard.folding import add, folded_timeline, told
from pytest_perfguard.metrics import METRICS
from pytest_perfguard.model import (
    Finding,
    Level,
    Record,
    Rule,
    Site,
    Span,
    Status,
    Tally,
    Verdict,
)
from pytest_perfguard.reports.causes import (
    EXPLAINS,
    EXPLANATIONS,
    LISTS,
    PROFILE,
    Cause,
    blocked,
    counted,
    unstable,
)
from pytest_perfguard.stats import STATISTICS
from pytest_perfguard.units import Unit, several, show

_MAX_CAUSES = 5
_MAX_MOMENTS = 12
_OVER = (Status.OVER, Status.REGRESSED)
# How the names of statistics of rounds begin.
_TIMED = ("http", "time")
# Statistics that a few slow rounds decide on, and how many times as slow as the others they are.
_TAIL = {"p95", "p99", "max", "stddev", "iqr"}
_APART = 2


def failure(record: Record, width: int = 100) -> str:
    """Return the text for a test that has breaches or mistakes against it.

    Without any of them it is the evidence beside a failure of the test's own.
    """
    breaches = record.breaches
    lines = [f"perfguard: {headline(record)}"]
    lines += [f"  {error}" for error in record.errors]
    lines += table(breaches)
    if not breaches and not record.errors:
        lines += evidence(record.span, ("sql_n_plus_one", "sql_duplicates"), width)
    lines += changed(breaches)
    for span in _judged_spans(record):
        over = [v.metric for v in breaches if v.span == span.name and v.status in _OVER]
        lines += evidence(span, over, width)
    return "\n".join(lines)


def changed(verdicts: Iterable[Verdict]) -> list[str]:
    """Return what is done more or less often than when a baseline was recorded."""
    lines = [line for verdict in verdicts for line in verdict.changes]
    shown = lines[: 2 * _MAX_CAUSES]
    more = len(lines) - len(shown)
    return [
        *(["since the baseline:"] if lines else []),
        *(f"    {line}" for line in shown),
        *([f"    ... and {more} more"] if more else []),
    ]


_HEADLINES = {
    (Rule.BUDGET, Status.OVER): "{number} {budgets} exceeded",
    (Rule.BUDGET, Status.UNPROVEN): "{number} {budgets} unproven",
    (Rule.BUDGET, Status.UNDECIDED): "{number} {budgets} undecided",
    (Rule.BASELINE, Status.REGRESSED): "{number} metric{s} worse than the baseline",
    (Rule.TIMES, Status.REGRESSED): "{number} metric{s} worse than the stored times",
    (Rule.TIMES, Status.UNDECIDED): "{number} time{s} undecided",
    (Rule.BASELINE, Status.UNPROVEN): "{number} baseline{s} unproven",
}


def headline(record: Record) -> str:
    """Return how many budgets and baselines were not kept, and where."""
    statuses = [(verdict.rule, verdict.status) for verdict in record.breaches]
    total = sum(v.rule is Rule.BUDGET and not v.idle for v in record.verdicts)
    budgets = f"of {several(total, 'budget')}"
    parts = [
        text.format(number=number, budgets=budgets, s="" if number == 1 else "s")
        for key, text in _HEADLINES.items()
        if (number := statuses.count(key))
    ]
    if record.is_new and record.errors:
        parts.append("no baseline to compare with")
    if errors := len(record.errors) - record.is_new:
        parts.append(several(errors, "mistake"))
    if not parts:
        parts.append(f"{record.metrics.get('sql_queries', 0):,.0f} statements")
    where = [_where(span) for span in _judged_spans(record)] or [_where(record.span)]
    return f"{', '.join(parts)} in {', '.join(where)}"


def _judged_spans(record: Record) -> list[Span]:
    """Return the span of each breach; of several requests of one name, the one that was judged."""
    found: dict[str, Span] = {}
    for verdict in record.breaches:
        if span := judged_span(record, verdict):
            found.setdefault(span.name, span)
    return list(found.values())


def judged_span(record: Record, verdict: Verdict) -> Span | None:
    """Return the span that a verdict is about: of several of one name, the one with its value."""
    spans = [span for span in record.span.walk() if span.name == verdict.span]
    metric = METRICS[verdict.metric]
    judged = (span for span in spans if metric.measure(span) == verdict.value)
    return next(judged, spans[0] if spans else None)


def _where(span: Span) -> str:
    requests = [part for part in span.walk() if part.kind == "request"]
    if span.kind == "test" and len(requests) == 1 and requests[0].calls == 1:
        return requests[0].name
    return f"block {span.name!r}" if span.kind == "block" else span.name


def table(verdicts: Iterable[Verdict]) -> list[str]:
    """Return a line for each verdict: metric, value against limit, where the limit was written."""
    rows = [(verdict, verdict.metric, compared(verdict), verdict.where) for verdict in verdicts]
    name_width = max((len(row[1]) for row in rows), default=0)
    value_width = max((len(row[2]) for row in rows), default=0)
    lines = []
    for verdict, name, value, where in rows:
        remark = "" if verdict.level is Level.FAIL else "  (only warns)"
        lines.append(f"  {name:<{name_width}}  {value:>{value_width}}   {where}{remark}")
        if verdict.reason:
            lines.append(f"      {verdict.reason}")
    return lines


def compared(verdict: Verdict) -> str:
    """Return a value against its limit, e.g. ``21 > 2``."""
    metric = METRICS[verdict.metric]
    limit = show(verdict.limit, metric.unit)
    if verdict.status is Status.UNPROVEN:
        kind = "limit" if verdict.rule is Rule.BUDGET else "was"
        return f"unproven ({kind} {limit})"
    if verdict.status in (Status.OK, Status.UNDECIDED):
        return f"{show(verdict.value, metric.unit)} of {limit}"
    return f"{show(verdict.value, metric.unit)} {'<' if metric.higher_is_better else '>'} {limit}"


def evidence(span: Span, metrics: Iterable[str], width: int = 100) -> list[str]:
    """Return what explains the values of the metrics in a span, the likeliest cause first."""
    wanted = set(metrics)
    found = merged_findings(span.walk())
    repeated = _candidates(found, wanted)
    lines = [line for finding in repeated[:_MAX_CAUSES] for line in cause(finding, width)]
    if len(repeated) > _MAX_CAUSES:
        lines.append(f"... and {len(repeated) - _MAX_CAUSES} more candidates")
    facts = _facts(span)
    # What explains several metrics is said once.
    lines += dict.fromkeys(facts[name] for name in METRICS if name in wanted and name in facts)
    lines += _computed(span) if wanted & {"cpu_time", "cpu_percent"} else []
    parts = (name.partition("_") for name in wanted)
    if times := {name for group, _, name in parts if group in _TIMED and name in STATISTICS}:
        lines += [line for part in span.walk() for line in _rounds(part, times)]
    shown: list[Cause] = []
    for known in _explained(span, wanted, repeated, facts):
        # One response may be the largest in two ways.
        if (same := replace(known, fix=None)) not in shown:
            shown.append(same)
            lines += told_of(known, width)
    lines += [f"waived: {f.metric} at {_line(f.tally.site)}: {f.waiver}" for f in found if f.waiver]
    order = timeline(span) if wanted and counted(merged_tallies(span)) else ""
    return [*lines, f"timeline: {order}"] if order else lines


def causes(span: Span, metrics: Iterable[str]) -> list[Cause]:
    """Return what can be blamed on a line for the values of the metrics, the likeliest first."""
    wanted = set(metrics)
    repeated = _candidates(merged_findings(span.walk()), wanted)
    return [*map(of_finding, repeated), *_explained(span, wanted, repeated, _facts(span))]


def repeats(span: Span, metrics: Iterable[str]) -> list[Cause]:
    """Return those causes that do one thing again and again: each is known to be one."""
    return [*map(of_finding, _candidates(merged_findings(span.walk()), set(metrics)))]


def _candidates(findings: Iterable[Finding], wanted: set[str]) -> list[Finding]:
    return [f for f in findings if f.waiver is None and wanted & EXPLAINS.get(f.metric, set())]


def _facts(span: Span) -> dict[str, str]:
    return told(map(_with_values, span.walk()))


def _explained(
    span: Span, wanted: set[str], repeated: Iterable[Finding], facts: Mapping[str, str]
) -> Iterator[Cause]:
    tallies = merged_tallies(span)
    explained = {finding.tally.probe for finding in repeated}
    for probe, names, explain in EXPLANATIONS:
        # What is explained already would only be buried by a list of everything.
        if wanted & names and not (
            explain in LISTS and (probe in explained or names & facts.keys())
        ):
            of_probe = [tally for tally in tallies if tally.probe == probe]
            for title, tally, advice in explain(of_probe)[:_MAX_CAUSES]:
                yield Cause(title, tally, advice)


def _computed(span: Span) -> list[str]:
    """Return what the process's CPU time says."""
    used, taken = show(span.peaks.get("cpu_time"), Unit.SECONDS), show(span.seconds, Unit.SECONDS)
    return [
        f"{used} of CPU time in {taken}, all threads of the process and timed rounds included",
        f"    fix: {PROFILE}, and compute less, or once for all (cache it)",
    ]


def _with_values(span: Span) -> Span:
    """Return the span without facts that say why something has no value: they explain none."""
    known = {
        name: fact
        for name, fact in span.facts.items()
        if name in METRICS and METRICS[name].measure(span) is not None
    }
    return replace(span, facts=known)


def _rounds(span: Span, wanted: set[str]) -> list[str]:
    """Return what a timing says besides the values that are over their limits."""
    timing = span.timing
    if timing is None:
        return []
    known = timing["statistics"]
    names = [name for name in ("median", "p95", "p99", "max", "cpu") if name in known]
    values = ", ".join(f"{name} {show(known[name], Unit.SECONDS)}" for name in names)
    repeated = timing["repeated"]
    times = f", measured {repeated + 1} times, the smallest of each:" if repeated else ":"
    at_once = f", {timing['concurrency']} at once" if timing["concurrency"] > 1 else ""
    sites = [_site(tally) for tally in span.tallies if tally.kind == "request"]
    return [
        f"{span.name}: {timing['rounds']:,} rounds{at_once}{times} {values}",
        *(sites[0] if sites else ()),
        f"    first, cold round: {show(timing['cold_wall'], Unit.SECONDS)}, with the probes on",
        f"    fix: {_faster(known, wanted & known.keys())}",
    ]


def _faster(known: Mapping[str, float], wanted: set[str]) -> str:
    """Return where to look for the time that the statistics over their limits are about."""
    median = known["median"]
    if wanted and all(name in _TAIL and known[name] > _APART * median for name in wanted):
        return (
            "most rounds are far from that: look for what only some of them do, such as a lock, "
            "a full pool, or work that others have put off"
        )
    if "cpu" not in known:
        return f"{PROFILE}, and do less for each round, or wait for less"
    if known["cpu"] > median / _APART:
        return f"it computes for most of that time: {PROFILE}, and do less for each round"
    return "it waits for most of that time: look for what it waits for, and for how often"


def open_candidates(records: Iterable[Record]) -> list[tuple[Finding, int]]:
    """Return what repeats and is not waived, the heaviest first, each with how many tests do it."""
    tests: dict[tuple[object, ...], set[str]] = {}
    spans = []
    for record in records:
        for span in record.span.walk():
            spans.append(span)
            for finding in span.findings:
                if finding.waiver is None:
                    tests.setdefault(place(finding), set()).add(record.nodeid)
    open_ones = [finding for finding in merged_findings(spans) if finding.waiver is None]
    return [(finding, len(tests[place(finding)])) for finding in open_ones]


def merged_findings(spans: Iterable[Span]) -> list[Finding]:
    """Return the findings of several spans, those of the same line as one, the heaviest first."""
    merged: dict[tuple[object, ...], Finding] = {}
    for span in spans:
        for finding in span.findings:
            key = (*place(finding), finding.waiver)
            known = merged.get(key)
            merged[key] = (
                finding
                if known is None
                else Finding(
                    finding.metric,
                    add(known.tally, finding.tally),
                    known.weight + finding.weight,
                    finding.waiver,
                )
            )
    return sorted(merged.values(), key=lambda f: ("n_plus_one" not in f.metric, -f.tally.count))


def cause(finding: Finding, width: int = 100) -> list[str]:
    """Return a candidate as a person should read it: what, where, which statement, what to do."""
    return told_of(of_finding(finding), width)


def told_of(known: Cause, width: int = 100) -> list[str]:
    """Return a cause as a person should read it."""
    tally = known.tally
    lines = [known.title, *_site(tally), *_statement(tally, width, known.remark)]
    return [*lines, f"    fix: {known.fix}"] if known.fix else lines


def of_finding(finding: Finding) -> Cause:
    """Return a candidate as a cause."""
    tally = finding.tally
    if "n_plus_one" in finding.metric:
        what = "keys" if tally.probe == "cache" else "parameter sets"
        sets = f"{tally.distinct} different {what}" if tally.probe != "tasks" else ""
        return Cause(f"{tally.repeats}x {_repeated(tally)}", tally, tally.fix, sets)
    return Cause(
        f"{finding.weight}x {tally.label} read again with the same parameters",
        tally,
        "read it once and pass the result on, or cache it for the request",
        f"{tally.count} times in all",
    )


def _repeated(tally: Tally) -> str:
    match tally.facts.get("cause", "").split():
        case ["lazy", *_]:
            return f"{tally.subject} lazy-loaded one row at a time"
        case ["refresh"]:
            return f"{tally.subject} refreshed one row at a time"
    if tally.probe == "cache":
        return f"{tally.label} sent for one key at a time"
    if tally.probe == "tasks":
        return f"{tally.label} published one at a time"
    if tally.kind == "write":
        return f"{tally.label} written one row at a time"
    return f"{tally.label} run one at a time with other parameters"


def _site(tally: Tally) -> list[str]:
    site = tally.site
    if site is None:
        by = tally.facts.get("through", "a library on a thread of its own")
        return [f"    at no line of your code: run by {by}"]
    lines = [f"    at {site}" + (f", through {site.through}" if site.through else "")]
    lines += [f"       from {caller}" for caller in site.callers[:2]]
    return lines


def _line(site: Site | None) -> str:
    return str(site) if site else "no line of your code"


def _statement(tally: Tally, width: int, remark: str = "") -> list[str]:
    if tally.operation == tally.label:  # a COMMIT says it all
        return [f"    {remark}"] if remark else []
    remark = remark and f"    {remark}"
    return [f"    {shorten(tally.operation, max(width - 4 - len(remark), 40))}{remark}"]


def cache_faults(span: Span) -> list[list[str]]:
    """Return what no budget has to ask for to be wrong, each with its line and the fix."""
    tallies = [tally for tally in merged_tallies(span) if tally.probe == "cache"]
    return [
        [title, *_site(tally), f"    fix: {advice}"]
        for title, tally, advice in (*blocked(tallies), *unstable(tallies))
    ]


def merged_tallies(span: Span) -> list[Tally]:
    """Return the tallies of a span and those inside it, added up by line."""
    merged: dict[tuple[object, ...], Tally] = {}
    for part in span.walk():
        for tally in part.tallies:
            site = tally.site
            key = (
                tally.probe,
                tally.operation,
                tally.kind,
                site and (site.file, site.line),
                tally.subject,
            )
            merged[key] = add(merged[key], tally) if key in merged else tally
    return list(merged.values())


def timeline(span: Span) -> str:
    """Return what happened in order: ``1x SELECT resources · 20x SELECT users``."""
    moments = folded_timeline(span)
    shown = [f"{count}x {label}" for label, count in moments[:_MAX_MOMENTS]]
    hidden = sum(count for _, count in moments[_MAX_MOMENTS:])
    hidden += sum(part.timeline_dropped for part in span.walk())
    return " · ".join([*shown, f"... {hidden:,} more"] if hidden else shown)
