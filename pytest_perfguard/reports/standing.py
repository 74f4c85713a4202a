"""How close a run came to its limits, and what of it nobody judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pytest_perfguard.metrics import METRICS
from pytest_perfguard.model import Record, Rule, Run, Status, Verdict
from pytest_perfguard.units import Unit, several, show


def used(verdict: Verdict) -> float:
    """Return the share of a limit that a value has used up; above 1 it is exceeded.

    Of a floor it is the limit as a share of the value: what is just kept has used all of it.
    A limit of 0 says nothing of how close a value is, nor does a value that was not observed: 0.
    """
    value, limit = verdict.value, verdict.limit
    if METRICS[verdict.metric].higher_is_better:
        value, limit = limit, verdict.value or 0.0
    return value / limit if value and limit else 0.0


def of_limit(verdict: Verdict) -> str:
    """Return a value beside its limit, e.g. ``http_p95 41 ms of 200 ms``."""
    metric = METRICS[verdict.metric]
    least = "at least " if metric.higher_is_better else ""
    value, limit = show(verdict.value, metric.unit), show(verdict.limit, metric.unit)
    return f"{verdict.metric} {value} of {least}{limit}"


def closest(records: Iterable[Record]) -> list[tuple[float, Record, list[Verdict]]]:
    """Return the tests whose budgets were kept, those first that came closest to a limit.

    Counts are exact, so to use all of a budget is what they are for: what may exceed it tomorrow
    with no change of the code comes first.

    Returns:
        The largest share used, the test, and its budgets by how much of them is used.
    """
    found = []
    for record in records:
        if record.outcome == "failed":
            continue
        kept = [v for v in record.verdicts if v.rule is Rule.BUDGET and v.status is Status.OK]
        kept = sorted((v for v in kept if used(v)), key=lambda v: (_is_exact(v), -used(v)))
        # Of several spans of a test, the one that came closest.
        nearest: dict[str, Verdict] = {}
        for verdict in kept:
            nearest.setdefault(verdict.metric, verdict)
        if nearest:
            first, *_ = nearest.values()
            found.append((used(first), record, list(nearest.values())))
    return sorted(found, key=lambda entry: (_is_exact(entry[2][0]), -entry[0], entry[1].nodeid))


def _is_exact(verdict: Verdict) -> bool:
    metric = METRICS[verdict.metric]
    return metric.stored and metric.unit in (Unit.COUNT, Unit.SHARE)


def not_judged(run: Run) -> list[str]:
    """Return what nobody judged and why, one reason a line."""
    lines = []
    if run.tests > len(run.records) + len(run.lost):
        count = run.tests - len(run.records) - len(run.lost)
        lines.append(f"{several(count, 'test')} of {run.tests:,}: not measured, or not run")
    bare = [record for record in run.records if not record.verdicts and not record.is_new]
    # Where nobody has set a limit yet, it goes without saying.
    if 0 < len(bare) < len(run.records):
        lines.append(f"{several(len(bare), 'test')} measured without any limit")
    new = sum(record.is_new for record in run.records)
    if new:
        lines.append(f"{several(new, 'test')} without a baseline yet")
    verdicts = [verdict for record in run.records for verdict in record.verdicts]
    idle = sum(verdict.idle for verdict in verdicts)
    if idle:
        lines.append(
            f"{several(idle, 'default')} of perfguard_budgets in tests where there was nothing to "
            "observe"
        )
    reasons = Counter(
        verdict.reason.partition(",")[0] or str(verdict.status)
        for verdict in verdicts
        if verdict.status is Status.UNDECIDED
    )
    lines += [f"{count:,} undecided: {reason}" for reason, count in sorted(reasons.items())]
    if run.lost:
        lines.append(f"{several(len(run.lost), 'test')} lost with the process that ran them")
    return lines
