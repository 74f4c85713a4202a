"""The table of metrics.

One entry is all that a metric needs to be a keyword of ``perf_budget``, a name in ini files, a
column in reports and a line of ``perfguard explain``.
A metric is a pure function of a span and everything inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches

from pytest_perfguard.errors import MetricError
from pytest_perfguard.findings import place
from pytest_perfguard.model import Span, Tally
from pytest_perfguard.units import Unit

# Kinds of statements that no metric counts: what a database or its driver needs for itself.
UNCOUNTED = ("transaction", "connect")
# Kind of the lookups in caches of the process itself, which send nothing.
IN_PROCESS = "memory"
_SLACK_OF_SIZES = 0.05


@dataclass(frozen=True, slots=True)
class Metric:
    """A named number of a span.

    Attributes:
        measure: returns the value in the base unit, or None where nothing was observed that it
            could be taken from.
        probe: name of the probe that it rests on.
        help: what is counted, in one sentence.
        guide: the limit that the performance guide gives, as it would be written in a budget.
        higher_is_better: a budget is a floor, not a ceiling.
        on_request: costs extra work in the run, so it is only measured where it is budgeted.
        needs: what has to be seen for it to have a value, if that is more than anything at all
            of its probe, as in ``no lookup in a cache``.
        tallied: its value is made of tallies, so that without any it proves nothing; False for
            levels, which are None where nothing was observed.
        stored: a baseline holds it: it is the same in every run on every machine.
        neutral: neither more nor less of it is better by itself, so a baseline only shows it.
    """

    name: str
    unit: Unit
    probe: str
    measure: Callable[[Span], float | None]
    help: str
    guide: str | None = None
    higher_is_better: bool = False
    on_request: bool = False
    tallied: bool = True
    needs: str = ""
    stored: bool = True
    neutral: bool = False

    @property
    def of_rounds(self) -> bool:
        """Whether it is a time of many rounds of a request or a call, which are timed for it."""
        return self.unit is Unit.SECONDS and self.name.startswith(("http_", "time_"))

    @property
    def slack(self) -> float:
        """Share of a baseline's value by which it may be exceeded.

        Nothing for counts. Sizes vary with what is in them: the digits of a time or an id, and
        how well they compress.
        """
        return _SLACK_OF_SIZES if self.unit is Unit.BYTES else 0.0

    def observed(self, span: Span) -> bool:
        """Return whether the span holds anything that this metric is about."""
        value = self.measure(span)
        if value is None or not self.tallied:
            return value is not None
        return bool(value) or any(True for _ in _tallies(span, self.probe))

    def keeps(self, value: float, limit: float) -> bool:
        """Return whether the value is within the limit."""
        return value >= limit if self.higher_is_better else value <= limit


def _tallies(span: Span, probe: str) -> Iterator[Tally]:
    for part in span.walk():
        for tally in part.tallies:
            if tally.probe == probe and tally.kind not in UNCOUNTED:
                yield tally


def _count(span: Span) -> float:
    return sum(tally.count for tally in _tallies(span, "sql"))


def _sum(*names: str, probe: str = "sql") -> Callable[[Span], float]:
    return lambda span: sum(
        tally.sums.get(name, 0) for tally in _tallies(span, probe) for name in names
    )


def _total(name: str) -> Callable[[Span], float]:
    """Return the sum over all tallies, those of transaction control included."""
    return lambda span: sum(t.sums.get(name, 0) for part in span.walk() for t in part.tallies)


def _commands(span: Span) -> float:
    return sum(tally.count for tally in _tallies(span, "cache") if tally.kind != IN_PROCESS)


def _hit_ratio(span: Span) -> float | None:
    hits, misses = _hits(span), _misses(span)
    return hits / (hits + misses) if hits + misses else None


_hits = _sum("hits", probe="cache")
_misses = _sum("misses", probe="cache")


def _peak(name: str) -> Callable[[Span], float]:
    return lambda span: max((t.peaks.get(name, 0.0) for t in _tallies(span, "sql")), default=0.0)


def _places(metric: str) -> Callable[[Span], float]:
    def measure(span: Span) -> float:
        return len(
            {
                place(finding)
                for part in span.walk()
                for finding in part.findings
                if finding.metric == metric and finding.waiver is None
            }
        )

    return measure


def _weight(metric: str) -> Callable[[Span], float]:
    return lambda span: sum(
        finding.weight
        for part in span.walk()
        for finding in part.findings
        if finding.metric == metric and finding.waiver is None
    )


def _planned(name: str) -> Callable[[Span], float | None]:
    """Return what counts statements by what their plans say."""

    def measure(span: Span) -> float | None:
        tallies = list(_tallies(span, "sql"))
        # A statement that fails cannot be explained either, which says nothing of the others.
        if "plans" not in span.probes or any(
            t.sums.get("unplanned") and not t.sums.get("errors") for t in tallies
        ):
            return None
        return len({tally.operation for tally in tallies if tally.sums.get(name)})

    return measure


def _lines(name: str) -> Callable[[Span], float]:
    """Return what counts the lines that ran a statement of which something was noted."""
    return lambda span: len(
        {
            (t.operation, t.site and (t.site.file, t.site.line))
            for t in _tallies(span, "sql")
            if t.sums.get(name)
        }
    )


def _timed(kind: str, statistic: str) -> Callable[[Span], float | None]:
    """Return the largest value of a statistic among what was timed in a span."""

    def measure(span: Span) -> float | None:
        found = [
            part.timing["statistics"].get(statistic)
            for part in span.walk()
            if part.timing is not None and part.kind == kind
        ]
        # Where one of them has too few rounds for it, the largest is not known.
        return max(found) if found and None not in found else None

    return measure


def _noted(name: str, kind: str | None = None) -> Callable[[Span], float | None]:
    """Return the largest of what was noted of timings besides their statistics."""

    def measure(span: Span) -> float | None:
        found = [
            part.timing[name]
            for part in span.walk()
            if part.timing is not None
            and kind in (None, part.kind)
            and part.timing.get(name) is not None
        ]
        return max(found, default=None)

    return measure


def _level(name: str, of: Callable[..., float | None] = max) -> Callable[[Span], float | None]:
    return lambda span: of(
        (part.peaks[name] for part in span.walk() if name in part.peaks), default=None
    )


def _own(name: str) -> Callable[[Span], float | None]:
    """Return a level of the span itself: those of the spans inside it are part of it, or apart."""
    return lambda span: span.peaks.get(name)


def _growth(span: Span) -> float | None:
    """Return the growth by call where there is any: a test that repeats is held to that."""
    by_call = _level("memory_growth_by_call")(span)
    return span.peaks.get("memory_growth") if by_call is None else by_call


def _largest(name: str) -> Callable[[Span], float | None]:
    return lambda span: max(
        (t.peaks[name] for t in _tallies(span, "http") if name in t.peaks), default=None
    )


def _of_runs(measure: Callable[[Span], float | None]) -> Callable[[Span], float | None]:
    """Return a measure of tasks that is not known where the run of a published one is not."""

    def known(span: Span) -> float | None:
        if any(tally.sums.get("unheard") for tally in _tallies(span, "tasks")):
            return None
        return measure(span)

    return known


def _longest(name: str) -> Callable[[Span], float | None]:
    return lambda span: max(
        (t.peaks[name] for t in _tallies(span, "tasks") if name in t.peaks), default=None
    )


def _load(name: str, of: Callable[[list[float]], float] = sum) -> Callable[[Span], float | None]:
    """Return what makes one number of a level of all loads in a span, or of an endpoint's own."""

    def measure(span: Span) -> float | None:
        parts = [span] if span.kind == "endpoint" else span.walk()
        found = [
            part.peaks[name]
            for part in parts
            if name in part.peaks and (part.kind == "load" or part is span)
        ]
        return of(found) if found else None

    return measure


def _load_failures(span: Span) -> float | None:
    requests = _load("load_requests")(span)
    return (_load("load_errors")(span) or 0) / requests if requests else None


# Each in its own words; the definitions are in pytest_perfguard.stats.
_STATISTICS = {
    "mean": "Mean",
    "median": "Median",
    "p95": "95th percentile (nearest rank, from 20 rounds)",
    "p99": "99th percentile (nearest rank, from 100 rounds)",
    "max": "Maximum",
    "stddev": "Standard deviation",
    "iqr": "Interquartile range",
}


def _times(group: str, kind: str, what: str, guide: str | None = None) -> Iterator[Metric]:
    needs = f"no timed round of a {kind}"
    for statistic, title in _STATISTICS.items():
        yield Metric(
            f"{group}_{statistic}",
            Unit.SECONDS,
            "http" if kind == "request" else "time",
            _timed(kind, statistic),
            f"{title} of the wall times of {what}, without the first one; the largest where "
            "several were timed.",
            guide=guide if statistic not in ("stddev", "iqr") else None,
            tallied=False,
            needs=needs,
            stored=False,
        )
    yield Metric(
        f"{group}_cpu",
        Unit.SECONDS,
        "http" if kind == "request" else "time",
        _timed(kind, "cpu"),
        f"Mean of the CPU times of {what}: what the whole process used meanwhile, servers in "
        "threads of it included.",
        tallied=False,
        needs=needs,
        stored=False,
    )
    yield Metric(
        f"{group}_waiting",
        Unit.SECONDS,
        "http" if kind == "request" else "time",
        _noted("waiting", kind),
        f"Time in which {what} neither used a processor nor could have: the 25th percentile of "
        "what is left of the wall time. Taken where times are compared with stored ones.",
        tallied=False,
        needs="no window of rounds (perfguard_times)",
        stored=False,
    )


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "sql_queries",
            Unit.COUNT,
            "sql",
            _count,
            "Statements that the code asked for. A flush, an executemany, an insertmanyvalues or "
            "a select-in load counts once, however many batches it is sent in; a failed "
            "statement counts; transaction control (BEGIN, SAVEPOINT, COMMIT, ...) does not.",
        ),
        Metric(
            "sql_roundtrips",
            Unit.COUNT,
            "sql",
            _sum("roundtrips"),
            "Cursor executions: each batch of a statement is one.",
        ),
        Metric(
            "sql_rows",
            Unit.COUNT,
            "sql",
            _sum("rows"),
            "Rows fetched by the code. Keys that a database returns for inserted rows are not "
            "counted.",
        ),
        Metric(
            "sql_time",
            Unit.SECONDS,
            "sql",
            _sum("seconds"),
            "Wall time spent in cursor executions, all statements together.",
            stored=False,
        ),
        Metric(
            "sql_slowest",
            Unit.SECONDS,
            "sql",
            _peak("seconds"),
            "Wall time of the slowest cursor execution.",
            guide="100ms",
            stored=False,
        ),
        Metric(
            "sql_n_plus_one",
            Unit.COUNT,
            "sql",
            _places("sql_n_plus_one"),
            "Candidate N+1s: lines that ran one statement again and again within one span, each "
            "time with other parameters.",
        ),
        Metric(
            "sql_duplicates",
            Unit.COUNT,
            "sql",
            _weight("sql_duplicates"),
            "Reads that repeated an earlier read of the same span, with the same parameters, "
            "while nothing had been written to their tables in between.",
        ),
        Metric(
            "sql_commits",
            Unit.COUNT,
            "sql",
            _total("commits"),
            "COMMITs sent to a database. The end of a savepoint is none.",
        ),
        Metric(
            "sql_errors",
            Unit.COUNT,
            "sql",
            _sum("errors"),
            "Statements that failed in the database or its driver.",
        ),
        Metric(
            "sql_full_scans",
            Unit.COUNT,
            "sql",
            _planned("full_scans"),
            "Different statements with a WHERE that no index could serve, as the database plans "
            "them. Asked by EXPLAIN, and only where this metric is budgeted.",
            on_request=True,
        ),
        Metric(
            "sql_sorts",
            Unit.COUNT,
            "sql",
            _planned("sorts"),
            "Different statements that sort all rows to return the first few of them (ORDER BY "
            "with a LIMIT), as no index has them in that order. Asked by EXPLAIN, and only where "
            "this metric or sql_full_scans is budgeted.",
            on_request=True,
        ),
        Metric(
            "sql_deep_offsets",
            Unit.COUNT,
            "sql",
            _lines("deep_offsets"),
            "Lines that read a page behind an OFFSET of 1,000 rows or more: the database reads "
            "them all and drops them.",
        ),
        Metric(
            "sql_unbounded",
            Unit.COUNT,
            "sql",
            _lines("unbounded"),
            "Lines that fetched 1,000 rows or more at once by a SELECT without a LIMIT, a list of "
            "keys or a range with two ends, and not in parts (yield_per).",
        ),
        Metric(
            "pool_peak",
            Unit.SHARE,
            "sql",
            _level("pool_peak"),
            "Largest share of a connection pool (size + overflow) that was in use at once.",
            guide="80%",
            tallied=False,
            stored=False,
        ),
        Metric(
            "pool_wait",
            Unit.SECONDS,
            "sql",
            _total("pool_wait"),
            "Time spent waiting for a connection because its pool had none left, all waits "
            "together; the time to connect is not in it.",
            stored=False,
        ),
        Metric(
            "pool_leaks",
            Unit.COUNT,
            "sql",
            _total("leaks"),
            "Connections that were checked out and not given back when the span ended. What a "
            "session holds that is older than the span, or a task that still runs, is none.",
        ),
        Metric(
            "tx_longest",
            Unit.SECONDS,
            "sql",
            _level("tx_longest"),
            "Longest time that one database transaction was open, from BEGIN to COMMIT or "
            "ROLLBACK, or to the end of the span that it began in.",
            tallied=False,
            stored=False,
            needs="no database transaction",
        ),
        Metric(
            "tx_calls",
            Unit.COUNT,
            "sql",
            _total("tx_calls"),
            "HTTP requests, cache round trips and task publishes made while a database "
            "transaction was open and had written.",
        ),
        Metric(
            "cache_hits",
            Unit.COUNT,
            "cache",
            _hits,
            "Lookups that found something: values for GET and its kin, each value of MGET and "
            "HMGET, each key of EXISTS, hashes for HGETALL; and hits of watched caches. A budget "
            "is a floor.",
            higher_is_better=True,
            neutral=True,
        ),
        Metric(
            "cache_misses",
            Unit.COUNT,
            "cache",
            _misses,
            "Lookups that found nothing.",
        ),
        Metric(
            "cache_hit_ratio",
            Unit.SHARE,
            "cache",
            _hit_ratio,
            "Hits out of all lookups. A budget is a floor, and unproven without a lookup.",
            higher_is_better=True,
            needs="no lookup in a cache",
        ),
        Metric(
            "cache_commands",
            Unit.COUNT,
            "cache",
            _commands,
            "Commands that the code asked for, each one of a pipeline too; MULTI, EXEC, WATCH and "
            "what sets up a connection are none.",
        ),
        Metric(
            "cache_roundtrips",
            Unit.COUNT,
            "cache",
            _sum("roundtrips", probe="cache"),
            "Times that something was sent to a cache server for those commands: once for a "
            "pipeline, not at all where a client-side cache answers.",
        ),
        Metric(
            "cache_bytes",
            Unit.BYTES,
            "cache",
            _sum("bytes_out", "bytes_in", probe="cache"),
            "Bytes of the words of the commands and of the values in the replies, without the "
            "protocol's framing.",
        ),
        Metric(
            "cache_n_plus_one",
            Unit.COUNT,
            "cache",
            _places("cache_n_plus_one"),
            "Candidate N+1s: lines that sent one command for one key after another, outside a "
            "pipeline, within one span.",
        ),
        Metric(
            "cache_writes_without_ttl",
            Unit.COUNT,
            "cache",
            _sum("lasting", probe="cache"),
            "Writes by SET, SETNX, GETSET, MSET and MSETNX that left a key without an expiry, and "
            "no EXPIRE or DEL of the same span took care of it.",
        ),
        Metric(
            "cache_unstable_keys",
            Unit.COUNT,
            "cache",
            _sum("unstable", probe="cache"),
            "Keys that were looked up or written and hold the address of an object, such as a "
            "database session's: they are found again by chance only.",
        ),
        Metric(
            "cache_blocking_calls",
            Unit.COUNT,
            "cache",
            _sum("blocking", probe="cache"),
            "Commands of a synchronous client that were sent on the thread of a running event "
            "loop, which stands still until the reply is there.",
        ),
        Metric(
            "cache_errors",
            Unit.COUNT,
            "cache",
            _sum("errors", probe="cache"),
            "Commands that failed in the server or on the way to it.",
        ),
        Metric(
            "cache_rereads",
            Unit.COUNT,
            "cache",
            _level("cache_rereads"),
            "SQL reads of the cold call of perf.cold_warm that the warm call did again.",
            tallied=False,
            needs="no warm call of perf.cold_warm",
        ),
        Metric(
            "cache_differences",
            Unit.COUNT,
            "cache",
            _level("cache_differences"),
            "Places where the result of the warm call of perf.cold_warm differs from that of the "
            "cold call.",
            tallied=False,
            needs="no warm call of perf.cold_warm",
        ),
        Metric(
            "cache_recomputations",
            Unit.COUNT,
            "cache",
            _level("cache_recomputations"),
            "How many of the concurrent calls of perf.stampede did the work that one would have "
            "done for all.",
            tallied=False,
            needs="no concurrent calls of perf.stampede",
        ),
        Metric(
            "http_requests",
            Unit.COUNT,
            "http",
            lambda span: sum(tally.count for tally in _tallies(span, "http")),
            "Requests sent by HTTP clients. Redirects that a client follows belong to the request "
            "that began them; timed rounds are not counted.",
        ),
        Metric(
            "http_errors",
            Unit.COUNT,
            "http",
            _sum("errors", probe="http"),
            "Requests that raised an exception or were answered with a status of 500 or more.",
        ),
        Metric(
            "response_bytes",
            Unit.BYTES,
            "http",
            _largest("bytes"),
            "Body of the largest response as it came over the wire, compressed if it was, with the "
            "redirects before it.",
            needs="no response that was read to its end",
        ),
        Metric(
            "response_bytes_decoded",
            Unit.BYTES,
            "http",
            _largest("decoded"),
            "Body of the largest response after decompression.",
            needs="no response that was read to its end",
        ),
        *_times("http", "request", "a request's rounds", guide="200ms"),
        *_times("time", "call", "the rounds of a call that perf.time or benchmark timed"),
        Metric(
            "task_published",
            Unit.COUNT,
            "tasks",
            lambda span: sum(tally.count for tally in _tallies(span, "tasks")),
            "Tasks that the code asked for: messages sent, each one of a group too, and calls that "
            "ran at once. Retries are none.",
        ),
        Metric(
            "task_n_plus_one",
            Unit.COUNT,
            "tasks",
            _places("task_n_plus_one"),
            "Candidate N+1s: lines that published one task again and again within one span, not "
            "as a group.",
        ),
        Metric(
            "task_runs",
            Unit.COUNT,
            "tasks",
            _of_runs(_sum("runs", probe="tasks")),
            "Tries of tasks that were run; each retry is one. Not known where the run of a task "
            "that was published is not; waited for where it is budgeted, as are all that follow.",
            on_request=True,
        ),
        Metric(
            "task_slowest",
            Unit.SECONDS,
            "tasks",
            _of_runs(_longest("seconds")),
            "Wall time of the longest try of a task.",
            guide="5s",
            on_request=True,
            tallied=False,
            needs="no run of a task",
            stored=False,
        ),
        Metric(
            "task_latency",
            Unit.SECONDS,
            "tasks",
            _of_runs(_longest("latency")),
            "Longest time from the publishing of a task, or from when it was due, to the start of "
            "its first try in a worker.",
            on_request=True,
            tallied=False,
            needs="no task that a worker ran",
            stored=False,
        ),
        Metric(
            "task_retries",
            Unit.COUNT,
            "tasks",
            _of_runs(_sum("retries", probe="tasks")),
            "Tries of tasks that ended in a retry.",
            on_request=True,
        ),
        Metric(
            "task_failures",
            Unit.COUNT,
            "tasks",
            _of_runs(_sum("failures", probe="tasks")),
            "Tasks that failed for good: with an error that is not retried, or after the last "
            "retry.",
            on_request=True,
        ),
        Metric(
            "load_requests",
            Unit.COUNT,
            "load",
            _load("load_requests"),
            "Requests that the users of perf.load sent. A budget is a floor.",
            higher_is_better=True,
            neutral=True,
            tallied=False,
            stored=False,
        ),
        Metric(
            "load_errors",
            Unit.COUNT,
            "load",
            _load("load_errors"),
            "Requests of perf.load that failed: that were not answered, were answered with a "
            "status of 400 or more, or that the locustfile calls failed.",
            tallied=False,
            stored=False,
        ),
        Metric(
            "load_failures",
            Unit.SHARE,
            "load",
            _load_failures,
            "Share of the requests of perf.load that failed. It is 0 where neither this nor "
            "load_errors is budgeted.",
            tallied=False,
            stored=False,
        ),
        Metric(
            "load_rps",
            Unit.NUMBER,
            "load",
            _load("load_rps", min),
            "Requests per second of perf.load, those that failed included; the smallest where "
            "there were several loads. A budget is a floor.",
            higher_is_better=True,
            tallied=False,
            stored=False,
        ),
        *(
            Metric(
                f"load_{statistic}",
                Unit.SECONDS,
                "load",
                _level(f"load_{statistic}"),
                f"{title} of the times of perf.load's requests, at the slowest endpoint that has "
                "so many; as Locust rounds them, to two digits above 100 ms.",
                guide="200ms",
                tallied=False,
                stored=False,
            )
            for statistic, title in _STATISTICS.items()
            if statistic in ("p95", "p99")
        ),
        Metric(
            "load_cpu",
            Unit.SECONDS,
            "load",
            _load("load_cpu", max),
            "CPU time of the server's processes for each request of perf.load, where server= says "
            "which they are.",
            tallied=False,
            stored=False,
            needs="no load of a server that is known (server=)",
        ),
        Metric(
            "load_instances",
            Unit.COUNT,
            "load",
            _load("load_instances", min),
            "Instances of the service that answered requests of perf.load, where instances= says "
            "how they are told apart. A budget is a floor.",
            higher_is_better=True,
            neutral=True,
            tallied=False,
            stored=False,
            needs="no instance that is told apart (instances=)",
        ),
        Metric(
            "load_imbalance",
            Unit.SHARE,
            "load",
            _load("load_imbalance", max),
            "By how much the busiest instance answered more requests of perf.load than its share: "
            "20 % where one of two answered 60 of 100.",
            tallied=False,
            stored=False,
            needs="no two instances that are told apart (instances=)",
        ),
        Metric(
            "load_recovery",
            Unit.SECONDS,
            "load",
            _load("load_recovery", max),
            "Time from what during= of perf.load did until no request failed any more and as many "
            "instances answered as before.",
            tallied=False,
            stored=False,
            needs="no disturbance of a load (during=)",
        ),
        Metric(
            "py_calls",
            Unit.COUNT,
            "time",
            _noted("py_calls"),
            "Python functions that a warm call calls, generators and coroutines that it resumes "
            "included: the fewest of five calls; the largest where several calls were timed. It "
            "sees calls that were added, not loops that became hotter. Only counted where it is "
            "budgeted or compared; the same only with the same Python and libraries.",
            on_request=True,
            tallied=False,
            stored=False,
            needs="no timed call whose calls could be counted",
        ),
        Metric(
            "cpu_time",
            Unit.SECONDS,
            "process",
            _own("cpu_time"),
            "CPU time of the process, user and system, with all its threads and with timed rounds.",
            tallied=False,
            stored=False,
        ),
        Metric(
            "cpu_percent",
            Unit.SHARE,
            "process",
            _own("cpu_percent"),
            "CPU time as a share of the wall time, 100 % being one core: the average over the "
            "span, of 20 ms or more.",
            guide="70%",
            tallied=False,
            stored=False,
        ),
        Metric(
            "memory_peak",
            Unit.BYTES,
            "process",
            _own("memory_peak"),
            "Highest resident memory of the process above where it was when the span began. Only "
            "looked at where it is budgeted.",
            on_request=True,
            tallied=False,
            stored=False,
        ),
        Metric(
            "memory_growth",
            Unit.BYTES,
            "process",
            _growth,
            "Resident memory that stays, after a garbage collection before and after the span; "
            "where perf.repeat was called, the memory that stays after each call, by regression. "
            "Only looked at where it is budgeted.",
            on_request=True,
            tallied=False,
            stored=False,
        ),
        Metric(
            "memory_percent",
            Unit.SHARE,
            "process",
            _own("memory_percent"),
            "Highest resident memory of the process as a share of what it may have: the smallest "
            "limit of its control groups, else the machine's memory. Only looked at where it is "
            "budgeted.",
            guide="80%",
            on_request=True,
            tallied=False,
            stored=False,
        ),
        Metric(
            "alloc_peak",
            Unit.BYTES,
            "process",
            _level("alloc_peak"),
            "Most memory that one call of perf.repeat had allocated at once, in Python, above "
            "where it was before the call.",
            tallied=False,
            stored=False,
            needs="no call of perf.repeat",
        ),
        Metric(
            "loop_stall",
            Unit.SECONDS,
            "loop",
            _own("loop_stall"),
            "Longest time in which a running event loop of asyncio could not turn. Only looked at "
            "where it is budgeted.",
            on_request=True,
            tallied=False,
            stored=False,
            needs="no running event loop",
        ),
        *(
            Metric(
                name,
                Unit.NUMBER,
                "prometheus",
                measure,
                f"{which} Prometheus metrics that perf.prometheus is to hold to a limit such as "
                f"'{limit}'.",
                higher_is_better=higher,
                tallied=False,
                stored=False,
                needs="no limit of perf.prometheus",
            )
            for name, measure, which, limit, higher in (
                ("prom_increase", _level("prom_increase"), "Largest change of", "<= 3", False),
                (
                    "prom_increase_least",
                    _level("prom_increase_least", min),
                    "Smallest change of",
                    ">= 1",
                    True,
                ),
            )
        ),
    )
}


def lookup(name: str) -> Metric:
    """Return the metric of that name.

    Raises:
        MetricError: if there is none, with the nearest names.
    """
    __tracebackhide__ = True
    try:
        return METRICS[name]
    except KeyError:
        close = get_close_matches(str(name), METRICS, 1, cutoff=0.5)
        hint = f"Did you mean {close[0]!r}?" if close else f"Known metrics: {', '.join(METRICS)}."
        raise MetricError(f"unknown metric {name!r}. {hint}") from None


def measure_all(span: Span) -> dict[str, float]:
    """Return every metric that the span gives a value for."""
    values = ((name, metric.measure(span)) for name, metric in METRICS.items())
    return {name: value for name, value in values if value is not None}
