"""What a person needs to see of a span: the cause first, then the rest on one time line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from pytest_perfguard.findings import place
from pytest_perfguard.fingerprint import shorten
from pytest_perfguard.folding import add, folded_timeline, told
from pytest_perfguard.metrics import IN_PROCESS, METRICS, UNCOUNTED
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
from pytest_perfguard.stats import STATISTICS
from pytest_perfguard.units import Unit, show

_MAX_CAUSES = 5
_MAX_MOMENTS = 12
_OVER = (Status.OVER, Status.REGRESSED)
# How the names of statistics of rounds begin.
_TIMED = ("http", "time")
# Statistics that a few slow rounds decide on, and how many times as slow as the others they are.
_TAIL = {"p95", "p99", "max", "stddev", "iqr"}
_APART = 2
_PROFILE = "profile it (--perfguard-profile=failed)"


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
    budgets = f"of {total} budget{'' if total == 1 else 's'}"
    parts = [
        text.format(number=number, budgets=budgets, s="" if number == 1 else "s")
        for key, text in _HEADLINES.items()
        if (number := statuses.count(key))
    ]
    if record.is_new and record.errors:
        parts.append("no baseline to compare with")
    if errors := len(record.errors) - record.is_new:
        parts.append(f"{errors} mistake{'' if errors == 1 else 's'}")
    if not parts:
        parts.append(f"{record.metrics.get('sql_queries', 0):,.0f} statements")
    where = [_where(span) for span in _judged_spans(record)] or [_where(record.span)]
    return f"{', '.join(parts)} in {', '.join(where)}"


def _judged_spans(record: Record) -> list[Span]:
    """Return the span of each breach; of several requests of one name, the one that was judged."""
    found: dict[str, Span] = {}
    for verdict in record.breaches:
        metric = METRICS[verdict.metric]
        spans = [span for span in record.span.walk() if span.name == verdict.span]
        judged = [span for span in spans if metric.measure(span) == verdict.value]
        for span in (judged or spans)[:1]:
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
        remark = "" if verdict.level is Level.FAIL else "  (only warns)"
        lines.append(f"  {name:<{name_width}}  {value:>{value_width}}   {where}{remark}")
        if verdict.reason:
            lines.append(f"      {verdict.reason}")
    return lines


def _cells(verdict: Verdict) -> tuple[str, str, str]:
    metric = METRICS[verdict.metric]
    limit = show(verdict.limit, metric.unit)
    if verdict.status is Status.UNPROVEN:
        kind = "limit" if verdict.rule is Rule.BUDGET else "was"
        return verdict.metric, f"unproven ({kind} {limit})", verdict.where
    sign = "<" if metric.higher_is_better else ">"
    if verdict.status in (Status.OK, Status.UNDECIDED):
        return verdict.metric, f"{show(verdict.value, metric.unit)} of {limit}", verdict.where
    return verdict.metric, f"{show(verdict.value, metric.unit)} {sign} {limit}", verdict.where


def evidence(span: Span, metrics: Iterable[str], width: int = 100) -> list[str]:
    """Return what explains the values of the metrics in a span, the likeliest cause first."""
    wanted = set(metrics)
    findings = merged_findings(span.walk())
    candidates = [f for f in findings if f.waiver is None and wanted & _EXPLAINS[f.metric]]
    lines = [line for finding in candidates[:_MAX_CAUSES] for line in cause(finding, width)]
    if len(candidates) > _MAX_CAUSES:
        lines.append(f"... and {len(candidates) - _MAX_CAUSES} more candidates")
    facts = told(map(_with_values, span.walk()))
    # What explains several metrics is said once.
    lines += dict.fromkeys(facts[name] for name in METRICS if name in wanted and name in facts)
    lines += _computed(span) if wanted & {"cpu_time", "cpu_percent"} else []
    parts = (name.partition("_") for name in wanted)
    if times := {name for group, _, name in parts if group in _TIMED and name in STATISTICS}:
        lines += [line for part in span.walk() for line in _rounds(part, times)]
    tallies = _merged(span)
    shown: list[list[str]] = []
    explained = {finding.tally.probe for finding in candidates}
    for probe, names, explain in _EXPLANATIONS:
        # What is explained already would only be buried by a list of everything.
        if wanted & names and not (
            explain in _LISTS and (probe in explained or names & facts.keys())
        ):
            of_probe = [tally for tally in tallies if tally.probe == probe]
            for title, tally, advice in explain(of_probe)[:_MAX_CAUSES]:
                block = [title, *_site(tally), *_statement(tally, width)]
                if block in shown:  # one response may be the largest in two ways
                    continue
                shown.append(block)
                lines += block
                lines += [f"    fix: {advice}"] if advice else []
    lines += [
        f"waived: {f.metric} at {_line(f.tally.site)}: {f.waiver}" for f in findings if f.waiver
    ]
    order = timeline(span) if wanted and _counted(tallies) else ""
    return [*lines, f"timeline: {order}"] if order else lines


def _computed(span: Span) -> list[str]:
    """Return what the process's CPU time says."""
    used, taken = show(span.peaks.get("cpu_time"), Unit.SECONDS), show(span.seconds, Unit.SECONDS)
    return [
        f"{used} of CPU time in {taken}, all threads of the process and timed rounds included",
        f"    fix: {_PROFILE}, and compute less, or once for all (cache it)",
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
        return f"{_PROFILE}, and do less for each round, or wait for less"
    if known["cpu"] > median / _APART:
        return f"it computes for most of that time: {_PROFILE}, and do less for each round"
    return "it waits for most of that time: look for what it waits for, and for how often"


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
    tally = finding.tally
    if "n_plus_one" in finding.metric:
        title = f"{tally.repeats}x {_repeated(tally)}"
        what = "keys" if tally.probe == "cache" else "parameter sets"
        sets = f"{tally.distinct} different {what}" if tally.probe != "tasks" else ""
        fix = tally.fix
    else:
        title = f"{finding.weight}x {tally.label} read again with the same parameters"
        sets = f"{tally.count} times in all"
        fix = "read it once and pass the result on, or cache it for the request"
    lines = [title, *_site(tally), *_statement(tally, width, sets)]
    if fix:
        lines.append(f"    fix: {fix}")
    return lines


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


_Explained = list[tuple[str, Tally, str | None]]
_Explain = Callable[[Iterable[Tally]], _Explained]


def _failed(tallies: Iterable[Tally]) -> _Explained:
    advice = (
        "check what the query is built from before it is sent, or catch the error and roll back"
    )
    return [
        (f"{t.sums['errors']:.0f}x {t.label} failed: {t.facts.get('error', '?')}", t, advice)
        for t in tallies
        if t.sums.get("errors")
    ]


def _scanned(tallies: Iterable[Tally]) -> _Explained:
    advice = "an index that begins with the columns that its WHERE compares"
    return _planned(
        [t for t in tallies if t.sums.get("full_scans")],
        lambda t: f"{t.label}: no index could serve it ({t.facts.get('plan', '?')})",
        advice,
    )


def _sorted(tallies: Iterable[Tally]) -> _Explained:
    advice = "an index on what its WHERE compares for equality, and then what it is sorted by"
    return _planned(
        [t for t in tallies if t.sums.get("sorts")],
        lambda t: f"{t.label} sorts all rows for a few ({t.facts.get('sort', '?')})",
        advice,
    )


def _planned(tallies: list[Tally], title: Callable[[Tally], str], advice: str) -> _Explained:
    """Say what was asked and which index would help; one that begins as another is that one."""
    advised = [t.facts.get("index", advice) for t in tallies]
    found: _Explained = []
    for t, fix in zip(tallies, advised, strict=True):
        begins = _COLUMNS.search(fix)
        longer = [o for o in advised if begins and _begins(begins, _COLUMNS.search(o))]
        asked = f": {t.facts['asked']}" if "asked" in t.facts else ""
        found.append((title(t) + asked, t, max(longer, key=len, default=fix)))
    return found


_COLUMNS = re.compile(r"^op\.create_index\(\"\w+\", \"(.+?)\", \[(.+)\]\)")


def _begins(short: re.Match[str], long: re.Match[str] | None) -> bool:
    return long is not None and short[1] == long[1] and long[2].startswith(f"{short[2]}, ")


def _skipped(tallies: Iterable[Tally]) -> _Explained:
    found: _Explained = []
    for t in tallies:
        if times := t.sums.get("deep_offsets"):
            order = _ORDER.search(t.operation)
            title = f"{times:.0f}x {t.label} behind an OFFSET of 1,000 rows or more, which are read"
            found.append((f"{title} and dropped", t, f"keyset pagination{_keyset(order)}"))
    return found


_ORDER = re.compile(r" ORDER BY ([^()]+?) (?:LIMIT|OFFSET) ", re.IGNORECASE)


def _keyset(order: re.Match[str] | None) -> str:
    """Return how a page is asked for by the last row of the one before."""
    if order is None:
        return ": sort by a key, and ask for what comes after that of the last row"
    columns = re.sub(r" (?:ASC|DESC)\b", "", order[1])
    sign = "<" if re.match(r"\S+ DESC\b", order[1]) else ">"
    last = "that" if "," not in columns else "those"
    return f": WHERE ({columns}) {sign} ({last} of the last row) ORDER BY ... LIMIT, and no OFFSET"


def _unbounded(tallies: Iterable[Tally]) -> _Explained:
    advice = (
        "a LIMIT, as a page has one; or, where all rows are needed, fetch them in parts: "
        ".execution_options(yield_per=1_000)"
    )
    return [
        (f"{t.count}x {t.label} without a LIMIT: {t.sums.get('rows', 0):,.0f} rows", t, advice)
        for t in tallies
        if t.sums.get("unbounded")
    ]


def _slowest(tallies: Iterable[Tally]) -> _Explained:
    ranked = sorted(_counted(tallies), key=lambda t: -t.peaks.get("seconds", 0.0))
    return [
        (f"slowest: {t.label} took {show(t.peaks.get('seconds'), Unit.SECONDS)}", t, None)
        for t in ranked[:1]
    ]


def _largest(tallies: Iterable[Tally]) -> _Explained:
    ranked = sorted(_counted(tallies), key=lambda t: -t.sums.get("rows", 0))
    return [
        (
            f"rows fetched by {t.count}x {t.label}: {t.sums.get('rows', 0):,.0f}",
            t,
            "fetch only what is used: a LIMIT, a narrower WHERE, or the count instead of the rows",
        )
        for t in ranked[:1]
    ]


def _listed(tallies: Iterable[Tally]) -> _Explained:
    """List the statements; where none repeats, they were all asked for on purpose."""
    ranked = sorted(_counted(tallies), key=lambda t: -t.sums.get("roundtrips", 0))
    lines: _Explained = []
    for t in ranked[:_MAX_CAUSES]:
        trips = t.sums.get("roundtrips", 0)
        sent = f" in {trips:.0f} round trips" if trips > t.count else ""
        lines.append((f"{t.count}x {t.label}{sent}", t, None))
    if lines and all(t.count == 1 for t in ranked):
        title, last, _ = lines[-1]
        advice = "no statement repeats: join what belongs together, or decide without the database"
        lines[-1] = (title, last, advice)
    return lines


def _committed(tallies: Iterable[Tally]) -> _Explained:
    """List the lines that commit, those that do it again and again first."""
    committing = [t for t in tallies if t.sums.get("commits")]
    advice = "commit once, when all of it is done"
    return [
        (f"{t.sums['commits']:.0f}x COMMIT", t, t.fix or advice)
        for t in sorted(committing, key=lambda t: (not t.fix, -t.sums["commits"]))
    ]


def _waited(tallies: Iterable[Tally]) -> _Explained:
    advice = (
        "give connections back before what takes long, or let the pool have more (pool_size, "
        "max_overflow)"
    )
    waited = [t for t in tallies if t.sums.get("waits")]
    return [
        (
            f"{t.sums['waits']:.0f}x waited for a connection: {_seconds(t, 'pool_wait')} in all",
            t,
            advice,
        )
        for t in sorted(waited, key=lambda t: -t.sums["pool_wait"])
    ]


def _seconds(tally: Tally, name: str) -> str:
    return show(tally.sums[name], Unit.SECONDS)


def _leaked(tallies: Iterable[Tally]) -> _Explained:
    advice = (
        "close it: with Session(engine) as session: ..., or with engine.connect() as connection: "
        "..."
    )
    return [
        (f"{t.sums['leaks']:.0f}x checked out a connection that was not given back", t, advice)
        for t in tallies
        if t.sums.get("leaks")
    ]


def _called_out(tallies: Iterable[Tally]) -> _Explained:
    """List what was waited for while locks were held."""
    advice = "commit first and call then, or call first and write then"
    calls = [t for t in tallies if t.sums.get("tx_calls")]
    return [
        (
            f"{t.sums['tx_calls']:.0f}x {t.label} inside a transaction that had written: "
            + t.facts.get("wrote", "?"),
            t,
            advice,
        )
        for t in sorted(calls, key=lambda t: -t.sums["tx_calls"])
    ]


def _sent(tallies: Iterable[Tally]) -> _Explained:
    sent = [t for t in _counted(tallies) if t.kind != IN_PROCESS]
    return [
        (f"{t.count or t.sums.get('roundtrips', 0):.0f}x {t.label}", t, None)
        for t in sorted(sent, key=lambda t: -max(t.count, t.sums.get("roundtrips", 0)))
    ]


def _blocked(tallies: Iterable[Tally]) -> _Explained:
    advice = "await a client of redis.asyncio, or send it from a thread: await asyncio.to_thread()"
    return [
        (f"{t.sums['blocking']:.0f}x {t.label} held up the event loop", t, advice)
        for t in tallies
        if t.sums.get("blocking")
    ]


def _command_failed(tallies: Iterable[Tally]) -> _Explained:
    return [
        (f"{t.sums['errors']:.0f}x {t.label} failed: {t.facts.get('error', '?')}", t, None)
        for t in tallies
        if t.sums.get("errors")
    ]


def _unstable(tallies: Iterable[Tally]) -> _Explained:
    """Name the lookups by such keys; the writes have them from the same place."""
    advice = "build the key from what the result depends on, not from the objects at hand"
    found = [t for t in tallies if t.sums.get("unstable")]
    looked_up = [t for t in found if t.kind != "write"]
    return [
        (f"{t.label}: the key holds the address of an object ({t.facts.get('object')})", t, advice)
        for t in looked_up or found
    ]


def cache_faults(span: Span) -> list[list[str]]:
    """Return what no budget has to ask for to be wrong, each with its line and the fix."""
    tallies = [tally for tally in _merged(span) if tally.probe == "cache"]
    return [
        [title, *_site(tally), f"    fix: {advice}"]
        for title, tally, advice in (*_blocked(tallies), *_unstable(tallies))
    ]


def _lasting(tallies: Iterable[Tally]) -> _Explained:
    advice = "give it one: ex=300 (seconds), or EXPIRE in the same pipeline"
    return [
        (f"{t.sums['lasting']:.0f}x {t.label} without an expiry", t, advice)
        for t in tallies
        if t.sums.get("lasting")
    ]


def _looked_up(tallies: Iterable[Tally]) -> _Explained:
    """List the lookups, those that missed most often first."""
    looked_up = [t for t in tallies if t.sums.get("hits") or t.sums.get("misses")]
    lines: _Explained = []
    for t in sorted(looked_up, key=lambda t: -t.sums.get("misses", 0)):
        hits, misses = t.sums.get("hits", 0), t.sums.get("misses", 0)
        lines.append((f"{t.label}: {hits:,.0f} of {hits + misses:,.0f} lookups hit", t, None))
    return lines


def _largest_response(measure: str) -> _Explain:
    """Return what names the request with the largest response, on the wire or decoded."""

    def largest(tallies: Iterable[Tally]) -> _Explained:
        answered = [t for t in tallies if measure in t.peaks]
        found: _Explained = []
        for t in sorted(answered, key=lambda t: -t.peaks[measure])[:1]:
            wire, decoded = t.peaks.get("bytes", 0), t.peaks.get("decoded", 0)
            size = show(wire, Unit.BYTES)
            if wire < decoded:
                size += f" on the wire, {show(decoded, Unit.BYTES)} decoded"
            advice = "answer with less: fewer rows to a page, or fewer fields"
            if measure == "bytes" and wire == decoded:
                advice = f"compress it, as Starlette's GZipMiddleware does, or {advice}"
            found.append((f"largest response: {t.label}, {size}", t, advice))
        return found

    return largest


def _request_failed(tallies: Iterable[Tally]) -> _Explained:
    advice = "let what was raised through, to see where: raise_server_exceptions=True, app.testing"
    return [
        (f"{t.sums['errors']:.0f}x {t.label} failed: {t.facts.get('error', '?')}", t, advice)
        for t in tallies
        if t.sums.get("errors")
    ]


def _requested(tallies: Iterable[Tally]) -> _Explained:
    ranked = sorted((t for t in tallies if t.kind == "request"), key=lambda t: -t.count)
    return [(f"{t.count}x {t.label}", t, None) for t in ranked]


def _heaviest(tallies: Iterable[Tally]) -> _Explained:
    def weight(tally: Tally) -> float:
        return tally.sums.get("bytes_out", 0) + tally.sums.get("bytes_in", 0)

    return [
        (f"{show(weight(t), Unit.BYTES)} by {t.count}x {t.label}", t, None)
        for t in sorted(_counted(tallies), key=lambda t: -weight(t))[:2]
        if weight(t)
    ]


def _published(tallies: Iterable[Tally]) -> _Explained:
    ranked = sorted((t for t in tallies if t.kind == "publish"), key=lambda t: -t.count)
    return [(f"{t.count}x {t.label} published", t, None) for t in ranked]


def _tried(tallies: Iterable[Tally]) -> _Explained:
    ranked = sorted((t for t in tallies if t.sums.get("runs")), key=lambda t: -t.sums["runs"])
    ends = {"retry": "that ended in a retry", "failure": "that failed"}
    return [
        (f"{t.sums['runs']:.0f}x {t.label} run {ends.get(t.kind, '')}".rstrip(), t, None)
        for t in ranked
    ]


def _longest_task(name: str, title: str, advice: str) -> _Explain:
    """Return what names the task with the longest of one kind of time."""

    def longest(tallies: Iterable[Tally]) -> _Explained:
        ranked = sorted((t for t in tallies if name in t.peaks), key=lambda t: -t.peaks[name])
        return [
            (title.format(t.label, show(t.peaks[name], Unit.SECONDS)), t, advice)
            for t in ranked[:1]
        ]

    return longest


def _ended_badly(name: str, title: str, advice: str) -> _Explain:
    """Return what names the tasks of which tries were retried, or failed for good."""

    def ended(tallies: Iterable[Tally]) -> _Explained:
        return [
            (
                f"{t.sums[name]:.0f}x {t.label} {title}: {t.subject or '?'}",
                t,
                advice.format(error=t.subject or "Error"),
            )
            for t in tallies
            if t.sums.get(name)
        ]

    return ended


# Which metrics a candidate drives up, and what explains the others: the first that fits comes
# first in the text.
_REPEATS = {"sql_queries", "sql_roundtrips", "sql_time"}
_EXPLAINS = {
    "sql_n_plus_one": {*_REPEATS, "sql_rows", "sql_n_plus_one"},
    "sql_duplicates": {*_REPEATS, "sql_rows", "sql_duplicates"},
    "cache_n_plus_one": {"cache_commands", "cache_roundtrips", "cache_n_plus_one"},
    "task_n_plus_one": {"task_published", "task_runs", "task_n_plus_one"},
}
_EXPLANATIONS: tuple[tuple[str, set[str], _Explain], ...] = (
    ("sql", {"sql_errors"}, _failed),
    ("sql", {"sql_full_scans"}, _scanned),
    ("sql", {"tx_calls"}, _called_out),
    ("sql", {"pool_leaks"}, _leaked),
    ("sql", {"pool_wait"}, _waited),
    ("sql", {"sql_sorts"}, _sorted),
    ("sql", {"sql_deep_offsets"}, _skipped),
    ("sql", {"sql_unbounded"}, _unbounded),
    ("sql", {"sql_slowest", "sql_time"}, _slowest),
    ("sql", {"sql_rows"}, _largest),
    ("sql", {"sql_commits"}, _committed),
    ("sql", {"sql_queries", "sql_roundtrips"}, _listed),
    ("cache", {"cache_blocking_calls"}, _blocked),
    ("cache", {"cache_errors"}, _command_failed),
    ("cache", {"cache_unstable_keys"}, _unstable),
    ("cache", {"cache_hits", "cache_misses", "cache_hit_ratio"}, _looked_up),
    ("cache", {"cache_writes_without_ttl"}, _lasting),
    ("cache", {"cache_bytes"}, _heaviest),
    ("cache", {"cache_commands", "cache_roundtrips"}, _sent),
    ("http", {"http_errors"}, _request_failed),
    ("http", {"response_bytes"}, _largest_response("bytes")),
    ("http", {"response_bytes_decoded"}, _largest_response("decoded")),
    ("http", {"http_requests"}, _requested),
    (
        "tasks",
        {"task_failures"},
        _ended_badly(
            "failures",
            "failed",
            "handle {error} in the task, or let it be tried again: autoretry_for=({error},)",
        ),
    ),
    (
        "tasks",
        {"task_retries"},
        _ended_badly(
            "retries",
            "retried",
            "do what raises {error} less often, or retry less often: max_retries=",
        ),
    ),
    (
        "tasks",
        {"task_slowest"},
        _longest_task(
            "seconds", "slowest: {} took {}", f"{_PROFILE}, or split it into smaller tasks"
        ),
    ),
    (
        "tasks",
        {"task_latency"},
        _longest_task(
            "latency",
            "longest wait: {} began {} after it was published",
            "more worker processes, or a queue of its own for what must not wait",
        ),
    ),
    ("tasks", {"task_published"}, _published),
    ("tasks", {"task_runs"}, _tried),
)
_LISTS = (_listed, _sent, _looked_up, _published, _tried)


def _counted(tallies: Iterable[Tally]) -> list[Tally]:
    return [tally for tally in tallies if tally.kind not in UNCOUNTED]


def _merged(span: Span) -> list[Tally]:
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
