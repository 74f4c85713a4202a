"""A comparison of two revisions as Markdown, for a pull request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pytest_perfguard import duet
from pytest_perfguard.ab_results import BY_STATUS, BY_VERDICT, Compared, Comparison, Grade
from pytest_perfguard.reports.ab_text import (
    about_times,
    apart,
    brief,
    change,
    explained,
    headline,
    worse,
)
from pytest_perfguard.reports.escaping import code, fenced, folded, html_code, prose

# GitHub refuses summaries above a megabyte, and comments above 65,536 characters.
_MAX_EXPLAINED = 20
_MAX_ROWS = 100
_SIGNS = {
    Grade.COSTLIER: "❌",
    Grade.SLOWER: "❌",
    Grade.UNDECIDED: "❔",
    Grade.NOT_TIMED: "❔",
    Grade.FLAKY: "❔",
    Grade.CHANGED: "🔁",
    Grade.CHEAPER: "✅",
    Grade.FASTER: "✅",
}


def no_result(error: object) -> str:
    """Return why there is no comparison, where one was to be."""
    return "\n".join(["## perfguard: ❔ No result", "", *fenced([str(error)]), ""])


def markdown(comparison: Comparison) -> str:
    """Return the whole of it; what is the same is only counted."""
    lines = [
        f"## perfguard: {headline(comparison)}",
        "",
        f"{code(comparison.base)} against {code(comparison.head)}. {comparison.totals}.",
        "",
    ]
    notes = [*comparison.notes, *about_times(comparison)]
    lines += [f"> {prose(note)}" + "  " for note in notes]
    rows = [row for test in comparison.compared for row in _rows(test)]
    if rows:
        lines += ["", "| | test | what | base → head |", "|---|---|---|---|", *rows[:_MAX_ROWS]]
        if len(rows) > _MAX_ROWS:
            lines += ["", f"... and {len(rows) - _MAX_ROWS:,} more."]
    failing = [test for test in comparison.compared if test.fails]
    for test in failing[:_MAX_EXPLAINED]:
        title = f"{html_code(test.nodeid)}: {' and '.join(worse(test))}"
        lines += _explained(title, explained(test), is_open=len(failing) == 1)
    others = [test for test in comparison.compared if not test.fails]
    for test in others[:_MAX_EXPLAINED]:
        if told := brief(test):
            lines += _explained(f"{html_code(test.nodeid)}: {test.grade}", told)
    if comparison.apart:
        told = apart(comparison)
        if more := len(told[_MAX_ROWS:]):
            told[_MAX_ROWS:] = [f"... and {more:,} more"]
        lost = any(each.is_lost for each in comparison.apart)
        lines += _explained(f"{len(comparison.apart):,} not comparable", told, is_open=lost)
    return "\n".join(lines) + "\n"


def _rows(test: Compared) -> Iterable[str]:
    name = code(test.nodeid)
    for verdict in test.counts.verdicts:
        sign = _SIGNS[BY_STATUS[verdict.status]]
        values = prose(change(verdict).replace("->", "→"))
        yield f"| {sign} | {name} | {verdict.metric} | {values} |"
    for each in test.duets:
        if each.verdict is not duet.Verdict.SAME:
            sign = _SIGNS[BY_VERDICT[each.verdict]]
            said = prose(each.text.replace("->", "→"))
            yield f"| {sign} | {name} | {code(each.call or 'times')} | {said} |"
    for line in test.counts.flaky:
        metric, _, values = line.partition(": ")
        yield f"| {_SIGNS[Grade.FLAKY]} | {name} | {metric} | flaky: {prose(values)} |"


def _explained(title: str, lines: Sequence[str], *, is_open: bool = False) -> list[str]:
    return ["", *folded(title, fenced(lines), is_open=is_open)]
