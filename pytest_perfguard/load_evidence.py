"""What is said of a load: the texts that explain its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pytest_perfguard import stats
from pytest_perfguard.load_stats import (
    ALL_REQUESTS,
    PERCENTILES,
    EndpointLoad,
    Notes,
    recovery,
    total,
)
from pytest_perfguard.locust_process import Ask, Ran
from pytest_perfguard.units import Unit, several, show

_MAX_SHOWN = 5


def failed(whole: EndpointLoad, notes: Notes) -> str:
    """Return how many requests failed, and what the first of them said."""
    text = f"{whole.failures:,} of {whole.requests:,} requests failed"
    first = notes.first_failure()
    return text if first is None else f"{text}, the first of them {first[0]}: {first[1].text}"


def facts_of(
    endpoint: EndpointLoad, known: Mapping[str, float], ask: Ask, at: str
) -> dict[str, str]:
    """Return what is said of the times of an endpoint, or why there are none.

    Args:
        known: its values by metric, the best where the load was repeated.
        at: the line that the load was asked for in.
    """
    facts: dict[str, str] = {}
    values = [
        f"{name} {show(known[f'load_{name}'], Unit.SECONDS)}"
        for name in PERCENTILES
        if f"load_{name}" in known
    ]
    for name in PERCENTILES:
        if f"load_{name}" in known:
            facts[f"load_{name}"] = (
                f"{endpoint.name}: {', '.join(values)} of {known['load_requests']:,.0f} requests, "
                f"by {several(ask.users, 'user')} at once\n{at}\n    fix: compare it with one user "
                "(users=1): what is fast then waits for others: look for a lock, a full pool "
                "(pool_wait), or a call that blocks the event loop (loop_stall)"
            )
        else:
            fewest = stats.lookup(name).fewest
            of = "" if endpoint.name == ALL_REQUESTS else f" of {endpoint.name}"
            facts[f"load_{name}"] = (
                f"load_{name} needs at least {fewest} requests{of}, not {endpoint.requests}: write "
                "a longer run_time=, or more users="
            )
    return facts


def facts_of_all(ask: Ask, ran: Ran, known: Mapping[str, float], at: str) -> dict[str, str]:
    """Return what is said of the other metrics, of all requests together."""
    whole, facts = total(ran.endpoints), {}
    if whole.failures:
        others = [
            f"    {note.count:,}x {name}: {note.text}"
            for name, note in sorted(ran.notes.failures.items(), key=lambda item: -item[1].count)
        ]
        lines = [failed(whole, ran.notes), *others[:_MAX_SHOWN], at]
        facts["load_failures"] = "\n".join([*lines, "    fix: look for it in the server's log"])
        facts["load_errors"] = facts["load_failures"]
    facts["load_rps"] = (
        f"{known['load_rps']:.1f} requests a second, by {several(ask.users, 'user')} who wait for "
        f"each answer and for their wait_time\n{at}"
    )
    if ask.instances is not None:
        facts |= _facts_of_instances(ask, ran.notes, at)
    if ran.disturbed is not None:
        _, text = recovery(ran.disturbed, ran.notes, with_instances=ask.instances is not None)
        facts["load_recovery"] = f"after during=: {text}"
    return facts


def _facts_of_instances(ask: Ask, notes: Notes, at: str) -> dict[str, str]:
    counts = sorted((note.count for note in notes.instances.values()), reverse=True)
    if len(counts) > 1:
        shares = ", ".join(f"{count:,}" for count in counts[:_MAX_SHOWN])
        return {
            "load_imbalance": (
                f"{len(counts)} instances answered {shares} requests\n{at}\n    fix: a connection "
                "that is kept open stays with the instance that has accepted it: let clients open "
                "new ones now and then, or balance requests instead of connections"
            )
        }
    seen = "one instance answered" if counts else f"no response has a header {ask.instances}"
    return {"load_imbalance": f"{seen}, so nothing was shared"}


def table(endpoints: Iterable[EndpointLoad]) -> list[str]:
    """Return a line for each endpoint."""
    rows: list[tuple[str, ...]] = [("endpoint", "requests", "failed", "rps", "p95", "p99")]
    rows += [
        (
            each.name,
            f"{each.requests:,}",
            f"{each.failures:,}",
            f"{each.rps:.1f}",
            *(show(each.percentile(name), Unit.SECONDS) for name in PERCENTILES),
        )
        for each in endpoints
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:<{width}}" if not number else f"{cell:>{width}}"
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
