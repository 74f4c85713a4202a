"""A comparison of two revisions as Markdown, for a pull request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from pytest_perfguard import duet
from pytest_perfguard.ab_results import BY_STATUS, BY_VERDICT, Compared, Comparison, Grade
from pytest_perfguard.reports.ab_text import about_times, brief, change, explained, worse
from pytest_perfguard.visible import visible

# GitHub refuses summaries above a megabyte, and comments above 65,536 characters.
_MAX_EXPLAINED = 20
_MAX_ROWS = 100
_SIGNS = {
    Grade.COSTLIER: "❌",
    Grade.SLOWER: "❌",
    Grade.UNDECIDED: "❔",
    Grade.FLAKY: "❔",
    Grade.CHANGED: "🔁",
    Grade.CHEAPER: "✅",
    Grade.FASTER: "✅",
}


def markdown(comparison: Comparison) -> str:
    """Return the whole of it; what is the same is only counted."""
    verdict = "❌ Costlier or slower" if comparison.fails else "✅ Nothing is costlier or slower"
    lines = [
        f"## perfguard: {verdict}",
        "",
        f"{_code(comparison.base)} against {_code(comparison.head)}. {comparison.totals}.",
        "",
    ]
    notes = [*comparison.notes, *about_times(comparison)]
    lines += [f"> {_plain(note)}" + "  " for note in notes]
    rows = [row for test in comparison.compared for row in _rows(test)]
    if rows:
        lines += ["", "| | test | what | base → head |", "|---|---|---|---|", *rows[:_MAX_ROWS]]
        if len(rows) > _MAX_ROWS:
            lines += ["", f"... and {len(rows) - _MAX_ROWS:,} more."]
    failing = [test for test in comparison.compared if test.fails]
    for test in failing[:_MAX_EXPLAINED]:
        title = f"{test.nodeid}: {' and '.join(worse(test))}"
        lines += _folded(title, explained(test), is_open=len(failing) == 1)
    others = [test for test in comparison.compared if not test.fails]
    for test in others[:_MAX_EXPLAINED]:
        if told := brief(test):
            lines += _folded(f"{test.nodeid}: {test.grade}", told)
    if comparison.apart:
        told = [f"{each.nodeid}: {each.reason}" for each in comparison.apart]
        lines += _folded(f"{len(told):,} not comparable", told)
    return "\n".join(lines) + "\n"


def _rows(test: Compared) -> Iterable[str]:
    name = _code(test.nodeid)
    for verdict in test.counts.verdicts:
        sign = _SIGNS[BY_STATUS[verdict.status]]
        values = _plain(change(verdict).replace("->", "→"))
        yield f"| {sign} | {name} | {verdict.metric} | {values} |"
    for each in test.duets:
        if each.verdict is not duet.Verdict.SAME:
            sign = _SIGNS[BY_VERDICT[each.verdict]]
            yield f"| {sign} | {name} | {_code(each.call or 'times')} | {_plain(each.text)} |"
    for line in test.counts.flaky:
        metric, _, values = line.partition(": ")
        yield f"| {_SIGNS[Grade.FLAKY]} | {name} | {metric} | flaky: {_plain(values)} |"


def _folded(title: str, lines: Sequence[str], *, is_open: bool = False) -> list[str]:
    body = "\n".join(map(visible, lines))
    # A fence has to be longer than any in what it holds.
    fence = "`" * max(3, _longest_run(body) + 1)
    opened = " open" if is_open else ""
    return [
        "",
        f"<details{opened}><summary>{escape(visible(title))}</summary>",
        "",
        fence,
        body,
        fence,
        "",
        "</details>",
    ]


def _longest_run(text: str) -> int:
    longest = run = 0
    for character in text:
        run = run + 1 if character == "`" else 0
        longest = max(longest, run)
    return longest


def _code(text: str) -> str:
    """Return a text as code, within a cell of a table."""
    text = visible(text).replace("|", "\\|")
    fence = "`" * (_longest_run(text) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _plain(text: str) -> str:
    """Return a text of which nothing is taken for Markdown or HTML."""
    return "".join(f"\\{c}" if c in "\\`*_[]|~#" else _ENTITIES.get(c, c) for c in visible(text))


_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "@": "&#64;"}
