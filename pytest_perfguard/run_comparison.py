"""Two runs side by side: which test costs more or less than before, and what it does otherwise.

Pure functions of two runs. Counts and sizes are the same wherever the same code runs, so each
difference of them is a change of the code, judged as against a baseline. Times are told and not
judged, unless a tolerance for them is given: two runs know nothing of the state that their machines
were in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from pytest_perfguard.baselines import (
    NO_DATABASE,
    compare,
    databases,
    differences,
    entry_of,
    plan_changes,
)
from pytest_perfguard.metrics import METRICS, Metric
from pytest_perfguard.model import Level, Record, Run, Status, _Data
from pytest_perfguard.units import show

# Share by which a time has to differ to be told of: what is less is seldom more than noise.
NOTABLE = 0.1


class Outcome(StrEnum):
    """What became of a metric, or of a test: of all that changed in it, the first of these."""

    WORSE = "worse"
    CHANGED = "changed"
    BETTER = "better"
    TOLD = "told"
    SAME = "same"


@dataclass(frozen=True, slots=True)
class Change(_Data):
    """One metric of a test that has another value than before.

    Attributes:
        before: in the metric's base unit, as ``after``; None where it was not measured.
        outcome: ``changed`` where neither more nor less is better, and where nothing at all is
            observed any more, which is told of one metric of a probe; ``told`` for a time that is
            not judged, and for a metric that only one side measured.
    """

    metric: str
    before: float | None
    after: float | None
    outcome: Outcome

    @property
    def is_count(self) -> bool:
        """Whether it is the same in every run of the same code: a count, a share or a size."""
        return METRICS[self.metric].stored

    def __str__(self) -> str:
        unit = METRICS[self.metric].unit
        return f"{self.metric} {show(self.before, unit)} -> {show(self.after, unit)}"


@dataclass(frozen=True, slots=True)
class ChangedTest(_Data):
    """A test that both runs measured and that differs between them.

    Attributes:
        changes: the metrics that differ, counts and sizes first.
        operations: what is done more or less often than before, each with its line, the largest
            change first; they may differ where no number does.
        plans: statements that do not use an index any more that they used.
    """

    nodeid: str
    outcome: Outcome
    changes: tuple[Change, ...] = ()
    operations: tuple[str, ...] = ()
    plans: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunComparison(_Data):
    """What differs between two runs.

    Attributes:
        tests: those that differ, the worse ones first, then by node id.
        same: how many tests do not differ.
        not_comparable: why a test cannot be compared, by node id: measured by one run only,
            failed, or on another kind of database.
    """

    tests: tuple[ChangedTest, ...] = ()
    same: int = 0
    not_comparable: Mapping[str, str] = field(default_factory=dict)

    @property
    def compared(self) -> int:
        """How many tests were compared."""
        return len(self.tests) + self.same

    @property
    def is_worse(self) -> bool:
        """Whether anything costs more than before."""
        return any(test.outcome is Outcome.WORSE for test in self.tests)


def compare_runs(
    before: Run,
    after: Run,
    *,
    times: float | None = None,
    names: tuple[str, str] = ("the first run", "the second run"),
) -> RunComparison:
    """Return what differs between two runs.

    Args:
        times: share by which a time may be higher than before; None judges no time.
        names: what the two are called where a test is in one of them only.
    """
    first = {record.nodeid: record for record in before.records}
    second = {record.nodeid: record for record in after.records}
    tests: list[ChangedTest] = []
    apart: dict[str, str] = {}
    for nodeid in sorted({**first, **second}):
        reason = _why_not(first.get(nodeid), second.get(nodeid), names)
        if reason:
            apart[nodeid] = reason
        else:
            tests.append(compare_records(first[nodeid], second[nodeid], times=times))
    differing = [test for test in tests if test.outcome is not Outcome.SAME]
    order = list(Outcome)
    differing.sort(key=lambda test: (order.index(test.outcome), test.nodeid))
    return RunComparison(tuple(differing), len(tests) - len(differing), apart)


def compare_records(before: Record, after: Record, *, times: float | None = None) -> ChangedTest:
    """Return what differs between two records of one test; see :func:`compare_runs`."""
    held, now = entry_of(before), entry_of(after)
    changes = tuple(_changes(before, after, times))
    operations, plans = tuple(differences(held, now)), tuple(plan_changes(held, now))
    outcomes = {change.outcome for change in changes}
    if plans or (operations and not any(change.is_count for change in changes)):
        outcomes.add(Outcome.CHANGED)
    outcome = next((known for known in Outcome if known in outcomes), Outcome.SAME)
    return ChangedTest(before.nodeid, outcome, changes, operations, plans)


def is_whole(record: Record) -> bool:
    """Return whether a test came to its end: by passing, or by failing for a limit.

    The numbers of a part of a test are those of no test.
    """
    return record.outcome == "passed" or (bool(record.breaches) and not record.raised)


def _why_not(before: Record | None, after: Record | None, names: tuple[str, str]) -> str:
    if before is None or after is None:
        return f"only in {names[after is not None]}"
    for record, name in ((before, names[0]), (after, names[1])):
        if not is_whole(record):
            return f"{record.outcome or 'not finished'} in {name}"
    kinds = databases(before), databases(after)
    if kinds[0] != kinds[1] and NO_DATABASE not in kinds:
        return f"{kinds[0]} in {names[0]}, {kinds[1]} in {names[1]}"
    return ""


_OUTCOMES = {
    Status.REGRESSED: Outcome.WORSE,
    Status.IMPROVED: Outcome.BETTER,
    # It may have become free, or nobody sees it any more.
    Status.UNPROVEN: Outcome.CHANGED,
}


def _changes(before: Record, after: Record, times: float | None) -> Iterator[Change]:
    """Yield what differs: counts and sizes first, each in the order of the table."""
    verdicts = compare(entry_of(before), after, {}, lambda _: Level.FAIL, lambda _: "")
    judged = {verdict.metric: _OUTCOMES.get(verdict.status) for verdict in verdicts}
    unseen = {METRICS[v.metric].probe for v in verdicts if v.status is Status.UNPROVEN}
    for metric in sorted(_measured(before, after), key=lambda metric: not metric.stored):
        one, other = (_value(metric, record) for record in (before, after))
        outcome: Outcome | None = None
        if one is None and other is None:
            continue
        if one is None or other is None:
            # Not measured is not zero: it may have been asked for on one side only.
            outcome = Outcome.TOLD
        elif not metric.stored:
            outcome = _of_time(metric, one, other, times)
        elif metric.name in judged:
            outcome = judged[metric.name]
        elif one != other and metric.probe not in unseen:
            outcome = Outcome.CHANGED
        if outcome is not None:
            yield Change(metric.name, one, other, outcome)


def _of_time(metric: Metric, before: float, after: float, times: float | None) -> Outcome | None:
    by = abs(after - before)
    if by <= NOTABLE * min(before, after):
        return None
    if times is None or by <= times * before:
        return Outcome.TOLD
    if metric.neutral:
        return Outcome.CHANGED
    return Outcome.BETTER if metric.keeps(after, before) else Outcome.WORSE


def _measured(*records: Record) -> Iterable[Metric]:
    return [m for name, m in METRICS.items() if any(name in r.metrics for r in records)]


def _value(metric: Metric, record: Record) -> float | None:
    """Return a metric's value; a probe that listened and saw nothing has counted nought."""
    if metric.stored and metric.probe not in record.span.probes:
        return None
    value = record.metrics.get(metric.name)
    if value is None and metric.tallied and not metric.on_request and metric.stored:
        return None if metric.higher_is_better else 0
    return value
