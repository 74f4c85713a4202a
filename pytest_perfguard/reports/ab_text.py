"""A comparison of two revisions as lines of text: what is worse first, each with its cause."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from pytest_perfguard import duet
from pytest_perfguard.ab_results import Compared, Comparison, Grade
from pytest_perfguard.metrics import METRICS
from pytest_perfguard.model import Status, Verdict
from pytest_perfguard.reports.evidence import evidence
from pytest_perfguard.units import Unit, show
from pytest_perfguard.visible import visible

_MAX_LISTED = 10
_MAX_CHANGES = 10
_TITLES = {
    Grade.UNDECIDED: "undecided",
    Grade.NOT_TIMED: "not timed on both sides",
    Grade.FLAKY: "flaky: differs between two runs of one side, and is not judged",
    Grade.CHANGED: "changed, at no cost",
    Grade.CHEAPER: "cheaper",
    Grade.FASTER: "faster",
}


def text(comparison: Comparison, width: int = 100) -> str:
    """Return the whole of it."""
    lines = [
        f"perfguard ab: {comparison.base} against {comparison.head}",
        *(f"note: {note}" for note in comparison.notes),
        *(f"note: {note}" for note in about_times(comparison)),
    ]
    explained_by: dict[frozenset[str], str] = {}
    for test in comparison.compared:
        if test.fails:
            # What one function does is often seen by many tests.
            moved = operations(test)
            first = explained_by.setdefault(moved, test.nodeid) if moved else ""
            lines += ["", f"{' and '.join(worse(test)).upper()} {test.nodeid}"]
            lines += explained(test, width, first if first != test.nodeid else "")
    for grade, title in _TITLES.items():
        lines += _listed(title, comparison.of(grade), lambda test: [test.nodeid, *brief(test)])
    if comparison.apart:
        told = apart(comparison)
        lines += ["", f"not comparable ({len(told):,}):", *_some([[line] for line in told])]
    lines += ["", f"{comparison.totals} ({show(comparison.seconds, Unit.SECONDS)})"]
    return "".join(f"{visible(line)}\n" for line in lines)


def headline(comparison: Comparison) -> str:
    """Return what is said of the whole of it, with a sign."""
    if comparison.fails:
        return "❌ Costlier or slower"
    if doubts := comparison.doubts:
        return f"❔ Nothing is costlier or slower, but {', '.join(doubts)}"
    return "✅ Nothing is costlier or slower"


def apart(comparison: Comparison) -> list[str]:
    """Return what is not comparable with its reason, a line each: what fails in head only first."""
    ordered = sorted(comparison.apart, key=lambda each: not each.is_lost)
    return [f"{each.nodeid}: {each.reason}" for each in ordered]


def about_times(comparison: Comparison) -> list[str]:
    """Return what a reader should know of the times."""
    notes = []
    if comparison.timed == 0:
        notes.append("no test times anything on both sides, so that only counts are compared")
    if comparison.not_pinned:
        notes.append(
            f"the sides could not share a core ({comparison.not_pinned}), so that only larger "
            "differences are told"
        )
    if comparison.noise_floor is not None:
        limits = [each.cpu.limit for test in comparison.compared for each in test.duets if each.cpu]
        noise = comparison.noise_floor
        notes.append(
            f"head against itself differed by up to {100 * noise:.1f} %: "
            + (
                "that is the limit here"
                if noise >= min(limits, default=0.0)
                else f"the limit stays at {100 * min(limits):.0f} %"
            )
        )
    return notes


def worse(test: Compared) -> list[str]:
    """Return in which ways a test is worse."""
    return [str(grade) for grade in Grade if grade.fails and grade in test.grades]


def operations(test: Compared) -> frozenset[str]:
    """Return which operations a test does more or less often, without how much more."""
    return frozenset(
        line.partition("x ")[2] for verdict in test.counts.verdicts for line in verdict.changes
    )


def explained(test: Compared, width: int = 100, same_as: str = "") -> list[str]:
    """Return why a test is worse: its counts first, with their cause, and then its times.

    Args:
        same_as: another test in which the same operations have changed, and which says why.
    """
    costlier = test.counts.costlier
    others = [verdict for verdict in test.counts.verdicts if verdict not in costlier]
    lines = counts([*costlier, *others])
    over = [verdict.metric for verdict in costlier]
    if same_as:
        lines.append(f"  for the cause see {same_as}")
    elif over:
        lines += [f"  {line}" for line in evidence(test.counts.head.span, over, width)]
    moved = {each.call: each for each in test.moved}
    for each in test.duets:
        if each.verdict is not duet.Verdict.SAME:
            lines.append(f"  {each.call or 'times'}: {each.text}")
        if each.call in moved:
            lines += [f"      {line}" for line in moved[each.call].lines]
    return lines + [f"  flaky, not judged: {line}" for line in test.counts.flaky]


def counts(verdicts: Sequence[Verdict]) -> list[str]:
    """Return what changed in what a test does, a line for each metric, and then each operation."""
    rows = [(verdict.metric, change(verdict), verdict) for verdict in verdicts]
    names = max((len(name) for name, _, _ in rows), default=0)
    changes = max((len(shown) for _, shown, _ in rows), default=0)
    lines = []
    for name, shown, verdict in rows:
        lines.append(f"  {name:<{names}}  {shown:>{changes}}   {verdict.reason}".rstrip())
    told = [f"      {line}" for verdict in verdicts for line in verdict.changes]
    more = len(told) - _MAX_CHANGES
    return [*lines, *told[:_MAX_CHANGES], *([f"      ... and {more:,} more"] if more > 0 else [])]


def change(verdict: Verdict) -> str:
    """Return both values of a metric."""
    unit = METRICS[verdict.metric].unit
    if verdict.status is Status.CHANGED:
        return f"{show(verdict.limit, unit)}, by others"
    now = "none" if verdict.value is None else show(verdict.value, unit)
    return f"{show(verdict.limit, unit)} -> {now}"


def brief(test: Compared) -> list[str]:
    """Return what is to be said of a test that is no worse."""
    return [
        *counts(test.counts.verdicts),
        *(f"  {line}" for line in test.counts.flaky),
        *(
            f"  {each.call or 'times'}: {each.text}"
            for each in test.duets
            if each.verdict is not duet.Verdict.SAME
        ),
    ]


def _listed(
    title: str, tests: Sequence[Compared], lines: Callable[[Compared], list[str]]
) -> list[str]:
    if not tests:
        return []
    return ["", f"{title} ({len(tests):,}):", *_some(map(lines, tests))]


def _some(blocks: Iterable[list[str]]) -> list[str]:
    kept = list(blocks)
    shown = [f"  {line}" for block in kept[:_MAX_LISTED] for line in block]
    more = len(kept) - _MAX_LISTED
    return [*shown, *([f"  ... and {more:,} more"] if more > 0 else [])]
