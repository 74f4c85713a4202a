"""What differs between two runs, for people: in the terminal, and in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from pytest_perfguard.fingerprint import shorten
from pytest_perfguard.metrics import METRICS
from pytest_perfguard.reports.escaping import fenced, folded, html_code, prose
from pytest_perfguard.run_comparison import Change, ChangedTest, Outcome, RunComparison
from pytest_perfguard.units import Unit, several, show
from pytest_perfguard.visible import visible

# Operations of one test that are shown, and times of tests that differ in nothing else.
_OPERATIONS = 8
_TIMES = 5
# Seconds: a shorter time that was taken once says nothing.
_SHORT = 1e-3


def text(comparison: RunComparison, *, width: int = 100) -> str:
    """Return what a terminal shows: the worse tests first, how many there are last."""
    lines: list[str] = []
    for test in _telling(comparison):
        lines.append(f"{test.outcome}: {visible(test.nodeid)}")
        judged, informing = _parted(test)
        lines += [f"  {line}" for line in _table([_row(change) for change in judged])]
        lines += [f"  {shorten(visible(line), width - 2)}" for line in _operations(test)]
        if informing:
            lines.append("  not judged:")
            lines += [f"    {line}" for line in _table([_row(change) for change in informing])]
        lines.append("")
    if times := _most_moved(comparison):
        lines.append("times of other tests that differ most (not judged):")
        rows = _table([_row(change) for _, change in times])
        lines += [f"  {row}  {visible(t)}" for row, (t, _) in zip(rows, times, strict=True)]
        lines.append("")
    if comparison.not_comparable:
        lines.append("not comparable:")
        apart = comparison.not_comparable.items()
        lines += [f"  {visible(nodeid)}: {visible(reason)}" for nodeid, reason in apart]
        lines.append("")
    return "\n".join([*lines, summary(comparison)]) + "\n"


def markdown(comparison: RunComparison) -> str:
    """Return what a pull request shows: a table for each test, those that are not worse folded."""
    lines = [f"**{summary(comparison)}**", ""]
    for test in _telling(comparison):
        judged, informing = _parted(test)
        body = _markdown_table(judged)
        if operations := _operations(test):
            body += [*fenced(operations, "diff"), ""]
        if informing:
            body += ["Not judged:", "", *_markdown_table(informing)]
        heading = html_code(test.nodeid)
        lines += _section(f"{test.outcome}: {heading}", body, test.outcome)
    if times := _most_moved(comparison):
        head, rule, *rows, end = _markdown_table([change for _, change in times])
        rows = [f"{row} {prose(t)} |" for row, (t, _) in zip(rows, times, strict=True)]
        body = [f"{head} |", f"{rule}---|", *rows, end]
        lines += _section("times of other tests that differ most (not judged)", body, Outcome.TOLD)
    if comparison.not_comparable:
        named = comparison.not_comparable.items()
        body = [f"- {prose(nodeid)}: {prose(reason)}" for nodeid, reason in named]
        lines += _section("not comparable", [*body, ""], Outcome.TOLD)
    return "\n".join(lines).rstrip("\n") + "\n"


def summary(comparison: RunComparison) -> str:
    """Return how many tests there are of each kind, in one sentence."""
    number = comparison.compared
    parts = [
        f"{count:,} {name}"
        for outcome, name in (
            (Outcome.WORSE, "worse"),
            (Outcome.CHANGED, "changed"),
            (Outcome.BETTER, "better"),
            (Outcome.TOLD, "with nothing but other times"),
        )
        if (count := sum(test.outcome is outcome for test in comparison.tests))
    ]
    parts.append(f"{comparison.same:,} the same")
    said = f"{several(number, 'test')} compared: {', '.join(parts)}"
    if apart := len(comparison.not_comparable):
        said += f"; {apart:,} not comparable"
    return said


def _telling(comparison: RunComparison) -> list[ChangedTest]:
    """Return the tests that are told of one by one: some time is another one in almost each."""
    return [test for test in comparison.tests if test.outcome is not Outcome.TOLD]


def _most_moved(comparison: RunComparison) -> list[tuple[str, Change]]:
    """Return the times that moved most where nothing else did, by test."""
    moved = [
        (test.nodeid, change)
        for test in comparison.tests
        if test.outcome is Outcome.TOLD
        for change in test.changes
        if change.before and change.after and _is_notable(change)
    ]
    moved.sort(key=lambda pair: -abs(math.log((pair[1].after or 1) / (pair[1].before or 1))))
    return moved[:_TIMES]


def _is_notable(change: Change) -> bool:
    metric = METRICS[change.metric]
    if metric.unit is not Unit.SECONDS or metric.of_rounds:
        return True
    return max(change.before or 0, change.after or 0) >= _SHORT


def _parted(test: ChangedTest) -> tuple[list[Change], list[Change]]:
    """Return the changes that are judged and those that only inform."""
    judged = [change for change in test.changes if change.outcome is not Outcome.TOLD]
    told = [change for change in test.changes if change.outcome is Outcome.TOLD]
    return judged, [change for change in told if _is_notable(change)]


def _row(change: Change) -> tuple[str, str, str, str, str]:
    unit = METRICS[change.metric].unit
    outcome = "" if change.outcome in (Outcome.TOLD, Outcome.WORSE) else str(change.outcome)
    before, after = show(change.before, unit), show(change.after, unit)
    return change.metric, before, after, _difference(change), outcome


def _difference(change: Change) -> str:
    unit = METRICS[change.metric].unit
    if change.before is None or change.after is None:
        return "not measured " + ("before" if change.before is None else "any more")
    by = change.after - change.before
    if unit is Unit.COUNT:
        return f"{by:+,.0f}"
    sign = "+" if by > 0 else "-"
    if unit is Unit.SHARE or not change.before:
        return f"{sign}{show(abs(by), unit)}"
    return f"{sign}{show(abs(by) / change.before, Unit.SHARE)}"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    if not rows:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        (
            f"{name:<{widths[0]}}  {before:>{widths[1]}} -> {after:<{widths[2]}}  "
            f"{by:>{widths[3]}}  {outcome}"
        ).rstrip()
        for name, before, after, by, outcome in rows
    ]


def _operations(test: ChangedTest) -> list[str]:
    lines = [*test.plans, *test.operations]
    more = len(lines) - _OPERATIONS
    return lines[:_OPERATIONS] + ([f"... and {more:,} more"] if more > 0 else [])


def _markdown_table(changes: Iterable[Change]) -> list[str]:
    rows = [_row(change) for change in changes]
    if not rows:
        return []
    head = ["| metric | before | after | | |", "|---|--:|--:|--:|---|"]
    return [*head, *(f"| `{row[0]}` | {' | '.join(row[1:])} |" for row in rows), ""]


def _section(heading: str, body: Sequence[str], outcome: Outcome) -> list[str]:
    if outcome is Outcome.WORSE:
        return [f"#### {heading}", "", *body]
    return [*folded(heading, body), ""]
