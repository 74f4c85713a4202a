"""What a test does on two sides of a comparison, counted: pure functions of its records.

One side is to the other what a baseline is to a test, so it is the same that is compared, by the
same rules. A number that differs between two runs of one side proves nothing about the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pytest_perfguard.ab_results import Counts
from pytest_perfguard.baselines import (
    Entry,
    Held,
    bounds,
    changed_operations,
    compare,
    entry_of,
    widen,
)
from pytest_perfguard.metrics import METRICS
from pytest_perfguard.model import Level, Record, Status, Verdict
from pytest_perfguard.units import show


def compare_counts(base: Sequence[Record], head: Sequence[Record], where: str = "base") -> Counts:
    """Compare what a test did on both sides.

    Args:
        base: of one run, or of two.
        head: as many.
        where: what the base is called.
    """
    before, after = ([entry_of(record) for record in side] for side in (base, head))
    widest_before, widest_after = _widest(before), _widest(after)
    flaky = _flaky_metrics(widest_before, widest_after)
    noisy = _noisy_operations(before) | _noisy_operations(after)
    found = compare(before[0], head[0], {}, lambda _: Level.FAIL, lambda _: where)
    verdicts = []
    for verdict in found:
        if verdict.status is Status.OK or verdict.metric in flaky:
            continue
        probe = METRICS[verdict.metric].probe
        kept = tuple(
            str(change)
            for change in changed_operations(before[0], after[0], probe)
            if (change.text, change.function) not in noisy
        )
        changes = tuple(line for line in verdict.changes if line in kept or " used " in line)
        if verdict.status is Status.CHANGED and not changes:
            continue
        if verdict.status is Status.UNPROVEN:
            reason = "nothing of the kind was observed in head any more"
            verdicts.append(replace(verdict, changes=kept, reason=reason))
        else:
            verdicts.append(replace(verdict, changes=changes))
    told = {verdict.metric for verdict in verdicts} | flaky.keys()
    verdicts += [each for each in _newly_over(base, head, where) if each.metric not in told]
    return Counts(
        tuple(verdicts),
        len(found),
        tuple(_told(name, *pair) for name, pair in flaky.items()),
        head[0],
    )


def _newly_over(base: Sequence[Record], head: Sequence[Record], where: str) -> list[Verdict]:
    """Return the budgets that head exceeds in every run, and base in none.

    They tell of what is neither a count nor timed in turns, such as memory or a loop that stalls.
    """
    over = [{_key(v): v for v in record.verdicts if v.status is Status.OVER} for record in head]
    known = {_key(v): v for v in base[0].verdicts if v.status is Status.OK}
    broken = {_key(v) for record in base for v in record.verdicts if v.status is not Status.OK}
    found = []
    for key, verdict in over[0].items():
        metric = METRICS[verdict.metric]
        # Rounds are timed in turns instead.
        if metric.of_rounds or key in broken or key not in known:
            continue
        if all(key in each for each in over):
            before = known[key].value
            limit = show(verdict.limit, metric.unit)
            found.append(
                replace(
                    verdict,
                    status=Status.REGRESSED,
                    limit=verdict.limit if before is None else before,
                    reason=f"over its budget of {limit}, which base keeps",
                    where=where,
                )
            )
    return found


def _key(verdict: Verdict) -> tuple[str, str]:
    return verdict.metric, verdict.span


def _widest(entries: Sequence[Entry]) -> Entry:
    first, *more = entries
    for entry in more:
        first = widen(first, entry)
    return first


def _flaky_metrics(before: Entry, after: Entry) -> Mapping[str, tuple[Held, Held]]:
    """Return the metrics that differ between runs of one side, with what each side had."""
    found = {}
    for name in METRICS:
        held, now = before.metrics.get(name, 0), after.metrics.get(name, 0)
        low, high = (
            min(bounds(held)[0], bounds(now)[0]),
            max(bounds(held)[1], bounds(now)[1]),
        )
        varies = any(
            isinstance(value, tuple) and value[1] > value[0] * (1 + METRICS[name].slack)
            for value in (held, now)
        )
        if varies and low != high and not METRICS[name].neutral:
            found[name] = (held, now)
    return found


def _noisy_operations(entries: Sequence[Entry]) -> set[tuple[str, str]]:
    first, *more = entries
    return {
        (change.text, change.function)
        for entry in more
        for change in changed_operations(first, entry)
    }


def _told(name: str, held: Held, now: Held) -> str:
    unit = METRICS[name].unit

    def said(value: Held) -> str:
        low, high = bounds(value)
        return show(low, unit) if low == high else f"{show(low, unit)} to {show(high, unit)}"

    return f"{name}: {said(held)} in base, {said(now)} in head"
