"""What explains the value of a metric: for each probe, which of its tallies, and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pytest_perfguard.metrics import IN_PROCESS, UNCOUNTED
from pytest_perfguard.model import Tally
from pytest_perfguard.units import Unit, show

PROFILE = "profile it (--perfguard-profile=failed)"
_MAX_LISTED = 5


@dataclass(frozen=True, slots=True)
class Cause:
    """What drives a metric up, in a person's words.

    Attributes:
        tally: the evidence: which operation, from which line.
        fix: what to do about it.
        remark: what is to be known of the operation's parameters.
    """

    title: str
    tally: Tally
    fix: str | None = None
    remark: str = ""


_Explained = list[tuple[str, Tally, str | None]]
_Explain = Callable[[Iterable[Tally]], _Explained]


def _each(name: str, title: Callable[[Tally], str], advice: str | None = None) -> _Explain:
    """Return what names every tally that has a sum of a name, with how much it is."""

    def each(tallies: Iterable[Tally]) -> _Explained:
        return [(f"{t.sums[name]:.0f}x {title(t)}", t, advice) for t in tallies if t.sums.get(name)]

    return each


def _error(tally: Tally) -> str:
    return f"{tally.label} failed: {tally.facts.get('error', '?')}"


_failed = _each(
    "errors",
    _error,
    "check what the query is built from before it is sent, or catch the error and roll back",
)
_command_failed = _each("errors", _error)
_request_failed = _each(
    "errors",
    _error,
    "let what was raised through, to see where: raise_server_exceptions=True, app.testing",
)
_leaked = _each(
    "leaks",
    lambda _: "checked out a connection that was not given back",
    "close it: with Session(engine) as session: ..., or with engine.connect() as connection: ...",
)
_lasting = _each(
    "lasting",
    lambda tally: f"{tally.label} without an expiry",
    "give it one: ex=300 (seconds), or EXPIRE in the same pipeline",
)
# The commands that held up an event loop.
blocked = _each(
    "blocking",
    lambda tally: f"{tally.label} held up the event loop",
    "await a client of redis.asyncio, or send it from a thread: await asyncio.to_thread()",
)


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
    ranked = sorted(counted(tallies), key=lambda t: -t.peaks.get("seconds", 0.0))
    return [
        (f"slowest: {t.label} took {show(t.peaks.get('seconds'), Unit.SECONDS)}", t, None)
        for t in ranked[:1]
    ]


def _largest(tallies: Iterable[Tally]) -> _Explained:
    ranked = sorted(counted(tallies), key=lambda t: -t.sums.get("rows", 0))
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
    ranked = sorted(counted(tallies), key=lambda t: -t.sums.get("roundtrips", 0))
    lines: _Explained = []
    for t in ranked[:_MAX_LISTED]:
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
    sent = [t for t in counted(tallies) if t.kind != IN_PROCESS]
    return [
        (f"{t.count or t.sums.get('roundtrips', 0):.0f}x {t.label}", t, None)
        for t in sorted(sent, key=lambda t: -max(t.count, t.sums.get("roundtrips", 0)))
    ]


def unstable(tallies: Iterable[Tally]) -> _Explained:
    """Name the lookups by such keys; the writes have them from the same place."""
    advice = "build the key from what the result depends on, not from the objects at hand"
    found = [t for t in tallies if t.sums.get("unstable")]
    looked_up = [t for t in found if t.kind != "write"]
    return [
        (f"{t.label}: the key holds the address of an object ({t.facts.get('object')})", t, advice)
        for t in looked_up or found
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


def _requested(tallies: Iterable[Tally]) -> _Explained:
    ranked = sorted((t for t in tallies if t.kind == "request"), key=lambda t: -t.count)
    return [(f"{t.count}x {t.label}", t, None) for t in ranked]


def _heaviest(tallies: Iterable[Tally]) -> _Explained:
    def weight(tally: Tally) -> float:
        return tally.sums.get("bytes_out", 0) + tally.sums.get("bytes_in", 0)

    return [
        (f"{show(weight(t), Unit.BYTES)} by {t.count}x {t.label}", t, None)
        for t in sorted(counted(tallies), key=lambda t: -weight(t))[:2]
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
EXPLAINS = {
    "sql_n_plus_one": {*_REPEATS, "sql_rows", "sql_n_plus_one"},
    "sql_duplicates": {*_REPEATS, "sql_rows", "sql_duplicates"},
    "cache_n_plus_one": {"cache_commands", "cache_roundtrips", "cache_n_plus_one"},
    "task_n_plus_one": {"task_published", "task_runs", "task_n_plus_one"},
}
EXPLANATIONS: tuple[tuple[str, set[str], _Explain], ...] = (
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
    ("cache", {"cache_blocking_calls"}, blocked),
    ("cache", {"cache_errors"}, _command_failed),
    ("cache", {"cache_unstable_keys"}, unstable),
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
            "seconds", "slowest: {} took {}", f"{PROFILE}, or split it into smaller tasks"
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
LISTS = (_listed, _sent, _looked_up, _published, _tried)


def counted(tallies: Iterable[Tally]) -> list[Tally]:
    """Return those that metrics count."""
    return [tally for tally in tallies if tally.kind not in UNCOUNTED]
