"""``perf.load``: many users of a server that runs, by Locust, judged by what it has counted.

The load is bounded in users and time. A limit on time that is exceeded is not a breach yet: the
load is put on again, at most :data:`pytest_perfguard.stats.ATTEMPTS` times in all, and the best of
each time counts, for the same reasons as in :mod:`pytest_perfguard.stats`. Failures of all of them
count together.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pytest_perfguard import stats
from pytest_perfguard.budgets import Budget
from pytest_perfguard.errors import LimitError, LoadError, MissingExtraError, TimingError
from pytest_perfguard.guard import PLAN
from pytest_perfguard.jobs import Job
from pytest_perfguard.load_evidence import facts_of, facts_of_all, failed, table
from pytest_perfguard.load_stats import (
    PERCENTILES,
    EndpointLoad,
    imbalance,
    recovery,
    total,
)
from pytest_perfguard.locust_process import (
    MOST_SECONDS,
    Ask,
    Ran,
    require_locust,
    run_locust,
)
from pytest_perfguard.metrics import lookup
from pytest_perfguard.model import Span
from pytest_perfguard.recorder import Measurement, Recorder
from pytest_perfguard.spans import OpenSpan
from pytest_perfguard.units import Unit, parse, several, shown

MOST_USERS = 1_000
MOST_PROCESSES = 32
_CONNECT = 5.0
# What other processes can only make worse, never better.
_TIMES = ("load_p95", "load_p99", "load_rps", "load_cpu")


class Load(Measurement):
    """What a load has shown; ``load["load_p95"]`` is a metric, and ``print`` shows a table.

    Attributes:
        endpoints: what each of them got, by name; of the last run where there were several.
        total: all requests together.
        instances: how many requests each instance answered, where ``instances=`` tells them apart.
        repeated: how often the load was put on again because a time exceeded its limit.
    """

    def __init__(
        self, recorder: Recorder, opened: OpenSpan, span: Span, ran: Ran, repeated: int
    ) -> None:
        super().__init__(recorder, opened)
        self.span = span
        self.endpoints = {endpoint.name: endpoint for endpoint in ran.endpoints}
        self.total = total(ran.endpoints)
        self.instances = {name: note.count for name, note in ran.notes.instances.items()}
        self.repeated = repeated

    def __str__(self) -> str:
        return "\n".join(table([*self.endpoints.values(), self.total]))


def load(
    job: Job,
    locustfile: str | Path,
    *,
    host: str,
    users: int,
    spawn_rate: float | None,
    run_time: float | str,
    processes: int,
    user: str | Sequence[str] | None,
    instances: str | None,
    server: Any,
    during: Callable[[], object] | None,
    budgets: Sequence[Budget],
) -> Load:
    """Put a load on a server, and judge what became of it."""
    __tracebackhide__ = True
    where, recorder = job.where, job.guard.recorder
    if user is None:
        user = ()
    ask = read_ask(
        where, job.item.config.rootpath, locustfile, host, users, spawn_rate, run_time, processes,
        tuple(user) if isinstance(user, list | tuple) else (user,), instances,
    )  # fmt: skip
    if asyncio._get_running_loop() is not None:
        raise LoadError(
            f"{where}: it would hold up the running event loop until the load has ended: call it "
            "in a plain 'def' test"
        )
    if recorder.timing:
        raise TimingError(
            f"{where}: a timing is under way, and each would disturb the other: make one after "
            "the other"
        )
    require_locust()
    counted = _server(where, server)
    _refuse_dead_server(where, ask.host)
    plan = job.item.stash.get(PLAN, None)
    known = [*budgets, *(plan.budgets if plan else ())]
    if not any(budget.metric.name in ("load_failures", "load_errors") for budget in known):
        budgets = [*budgets, Budget(lookup("load_failures"), 0.0, where)]
    recorder.start()
    span = recorder.open(
        job.guard.block_name(job.item, f"load of {ask.locustfile.name}"), "load", owner=job
    )
    recorder.timing = True
    # What a server in this process does meanwhile is the load's, and to watch it would slow it.
    recorder.stop()
    try:
        ran, repeated = _run(job, ask, during, counted, known, span)
    finally:
        recorder.timing = False
        recorder.skip()
        recorder.start()
        closed = recorder.close(span)
    job.judge(closed, budgets)
    _judge_endpoints(job, closed)
    return Load(recorder, span, closed, ran, repeated)


def read_ask(
    where: str,
    root: Path,
    locustfile: object,
    host: object,
    users: object,
    spawn_rate: object,
    run_time: object,
    processes: object,
    user: tuple[object, ...],
    instances: object,
) -> Ask:
    """Read what is asked for.

    Raises:
        LoadError: if it makes no sense, or is more than a test may ask for.
    """
    __tracebackhide__ = True
    if not isinstance(locustfile, str | Path):
        raise LoadError(
            f"{where}: {shown(locustfile)} is no path: pass that of the locustfile, and name a "
            "User class with user='APIUser'; importing it would patch the process of the tests"
        )
    path = root / locustfile
    if not path.is_file():
        raise LoadError(f"{where}: there is no locustfile {path}: paths begin at {root}")
    if "," in str(path):
        raise LoadError(f"{where}: Locust takes no path that has a comma in it: {path}")
    names = tuple(name for name in user if isinstance(name, str) and name.isidentifier())
    if names != user:
        raise LoadError(f"{where}: user={shown(user)}: write the name of a User class, 'APIUser'")
    if not isinstance(host, str) or not _is_address(host):
        raise LoadError(
            f"{where}: host={shown(host)} is no address: write it as in 'http://127.0.0.1:8000'"
        )
    number = _whole(where, "users", users, MOST_USERS)
    rate: object = number if spawn_rate is None else spawn_rate
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not rate > 0:
        raise LoadError(f"{where}: spawn_rate={shown(rate)}: users a second, more than 0")
    if instances is not None and not (isinstance(instances, str) and instances):
        raise LoadError(
            f"{where}: instances={shown(instances)}: write the name of a header, 'X-Instance'"
        )
    return Ask(
        where=where,
        locustfile=path.resolve(),
        host=host.rstrip("/"),
        users=number,
        spawn_rate=rate,
        seconds=_seconds(where, run_time),
        processes=_whole(where, "processes", processes, MOST_PROCESSES),
        user=names,
        instances=instances,
        folder=root,
    )


def _is_address(host: str) -> bool:
    parts = urlsplit(host)
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _whole(where: str, name: str, value: object, most: int) -> int:
    __tracebackhide__ = True
    try:
        number = int(parse(value, Unit.COUNT))
    except LimitError as error:
        raise LoadError(f"{where}: {name}: {error}") from None
    if not 1 <= number <= most:
        raise LoadError(
            f"{where}: {name}={number:,}: 1 to {most:,}; for more, run Locust by itself"
        )
    return number


def _seconds(where: str, run_time: object) -> int:
    __tracebackhide__ = True
    try:
        seconds = parse(run_time, Unit.SECONDS)
    except LimitError as error:
        raise LoadError(f"{where}: run_time: {error}") from None
    if seconds != int(seconds) or not 1 <= seconds <= MOST_SECONDS:
        raise LoadError(
            f"{where}: run_time={shown(run_time)}: whole seconds, from '1s' to "
            f"'{MOST_SECONDS // 60}min'; for more, run Locust by itself"
        )
    return int(seconds)


def _server(where: str, server: Any) -> Any:
    __tracebackhide__ = True
    if server is None:
        return None
    pid = getattr(server, "pid", server)
    if isinstance(pid, bool) or not isinstance(pid, int):
        raise LoadError(
            f"{where}: server={shown(server)} is no process: pass its pid, or what Popen returned"
        )
    try:
        import psutil  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingExtraError("psutil", "process") from None
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        raise LoadError(f"{where}: server={pid}: there is no such process") from None


def _cpu(process: Any) -> float:
    """Return the CPU time of a process and all below it, those that have ended included."""
    import psutil  # noqa: PLC0415 - an extra

    seconds = 0.0
    for each in (process, *process.children(recursive=True)):
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        seconds += times.user + times.system
        seconds += getattr(times, "children_user", 0) + getattr(times, "children_system", 0)
    return seconds


def _listens(host: str) -> str:
    """Return why nobody can be reached at a host; nothing if somebody can."""
    parts = urlsplit(host)
    address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    try:
        socket.create_connection(address, _CONNECT).close()
    except OSError as error:
        return f"{type(error).__name__}: {error.strerror or error}"
    return ""


def _refuse_dead_server(where: str, host: str) -> None:
    __tracebackhide__ = True
    if why := _listens(host):
        raise LoadError(
            f"{where}: no server answers at {host} ({why}): start it, and wait until it is ready"
        )


def _run(
    job: Job,
    ask: Ask,
    during: Callable[[], object] | None,
    server: Any,
    budgets: Sequence[Budget],
    span: OpenSpan,
) -> tuple[Ran, int]:
    """Put the load on, again where a time exceeds its limit, and note it in the span."""
    __tracebackhide__ = True
    # What is disturbed cannot be repeated, and what is only profiled need not be.
    attempts = 1 if during is not None or job.guard.profiling else stats.ATTEMPTS
    best: Levels = {}
    repeated = -1
    while repeated < attempts - 1:
        repeated += 1
        before = _cpu(server) if server is not None else 0.0
        ran = run_locust(ask, during)
        used = _cpu(server) - before if server is not None else None
        refuse_what_proves_nothing(ask, ran)
        best = combined(best, levels(ran, used, with_instances=ask.instances is not None))
        if all(keeps(best, budget) for budget in budgets) and _keep_theirs(job, best):
            break
    for name, value in best[ALL].items():
        span.level(name, value)
    site = job.site()
    at = f"    at {site}" if site is not None else f"    by {job.where}"
    whole = total(ran.endpoints)
    for name, fact in facts_of(whole, best[ALL], ask, at).items():
        # What is as slow at one endpoint is told of that.
        if not any(best[e.name].get(name, 0) >= best[ALL].get(name, 1) for e in ran.endpoints):
            span.facts[name] = fact
    span.facts.update(facts_of_all(ask, ran, best[ALL], at))
    for endpoint in ran.endpoints:
        facts = facts_of(endpoint, best[endpoint.name], ask, at)
        span.adopt(Span(endpoint.name, "endpoint", peaks=best[endpoint.name], facts=facts))
    return ran, repeated


def _judge_endpoints(job: Job, load: Span) -> None:
    """Judge each endpoint by the suite's budgets for it."""
    guard = job.guard
    for endpoint in load.children:
        rules = guard.rules.endpoint(endpoint.name, count=True)
        budgets = [budget for budget in rules if budget.metric.probe == "load"]
        if budgets:
            levelled = guard.with_levels(job.item, budgets, endpoint.name)
            guard.judge_block(job.item, endpoint, levelled)


# -- what was measured -----------------------------------------------------------------------------

ALL = ""
# Values of metrics by endpoint; those of all requests together under ALL.
Levels = Mapping[str, Mapping[str, float]]


def levels(ran: Ran, cpu: float | None, *, with_instances: bool) -> Levels:
    """Return what was measured in one run.

    Args:
        cpu: seconds that the server's processes used.
    """
    found = {endpoint.name: _levels(endpoint) for endpoint in ran.endpoints}
    whole = total(ran.endpoints)
    found[ALL] = _levels(whole)
    if cpu is not None:
        found[ALL]["load_cpu"] = cpu / whole.requests
    if with_instances:
        counts = [note.count for note in ran.notes.instances.values()]
        found[ALL]["load_instances"] = len(counts)
        if (share := imbalance(counts)) is not None:
            found[ALL]["load_imbalance"] = share
    if ran.disturbed is not None:
        seconds, _ = recovery(ran.disturbed, ran.notes, with_instances=with_instances)
        if seconds is not None:
            found[ALL]["load_recovery"] = seconds
    return found


def _levels(endpoint: EndpointLoad) -> dict[str, float]:
    known = {
        "load_requests": float(endpoint.requests),
        "load_errors": float(endpoint.failures),
        "load_rps": endpoint.rps,
    }
    for name in PERCENTILES:
        if (value := endpoint.percentile(name)) is not None:
            known[f"load_{name}"] = value
    return known


def combined(first: Levels, second: Levels) -> Levels:
    """Return what two runs have shown: the best of what time is part of, and the sum of counts."""
    names = {**first, **second}
    return {name: _combined(first.get(name, {}), second.get(name, {})) for name in names}


def _combined(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    both = {**first, **second}
    for name in first.keys() & second.keys():
        if name in ("load_requests", "load_errors"):
            both[name] = first[name] + second[name]
        else:
            both[name] = (max if lookup(name).higher_is_better else min)(first[name], second[name])
    return both


def keeps(best: Levels, budget: Budget) -> bool:
    """Return whether a limit on a time is kept, everywhere that it is known."""
    name = budget.metric.name
    if name not in _TIMES:
        return True
    found = [best[ALL]] if name == "load_rps" else best.values()
    return all(budget.metric.keeps(known[name], budget.limit) for known in found if name in known)


def _keep_theirs(job: Job, best: Levels) -> bool:
    """Return whether each endpoint keeps the suite's limits on its times."""
    return all(
        keeps({ALL: known}, budget)
        for name, known in best.items()
        if name != ALL
        for budget in job.guard.rules.endpoint(name)
    )


# -- what proves nothing, and what explains the rest ----------------------------------------------


def refuse_what_proves_nothing(ask: Ask, ran: Ran) -> None:
    """Refuse a run of which no number is worth judging.

    Raises:
        LoadError: if the locustfile is broken, nothing was asked for, or the server has died.
    """
    __tracebackhide__ = True
    whole = total(ran.endpoints)
    if ran.notes.errors:
        (error, note), *others = sorted(ran.notes.errors.items(), key=lambda item: -item[1].count)
        more = f"\n    and {several(len(others), 'other error')}" if others else ""
        # A user that raises may do so because of the answer that it got.
        more += f"\n    {failed(whole, ran.notes)}" if whole.failures else ""
        place = (note.place or str(ask.locustfile)).removeprefix(f"{ask.folder}{os.sep}")
        raise LoadError(
            f"{ask.where}: the locustfile raises, so its users do not do what they should: "
            f"{error} ({note.count} times)\n    at {place}{more}"
        )
    if not whole.requests:
        raise LoadError(
            f"{ask.where}: {ask.users} users sent no request within {ask.seconds} s: does a User "
            "class have a @task that asks for something, and is wait_time shorter than run_time?"
        )
    if whole.failures and (why := _listens(ask.host)):
        raise LoadError(
            f"{ask.where}: the server at {ask.host} died under the load: {why}\n"
            f"    {failed(whole, ran.notes)}"
        )
