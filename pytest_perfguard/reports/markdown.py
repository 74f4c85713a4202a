"""A run for a comment on a pull request, or for the summary of a job: Markdown as GitHub reads it.

What fails comes first, by cause; the rest is folded. Text of unknown origin is never markup: names
and statements may hold anything that a test was given.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from pytest_perfguard.model import Run
from pytest_perfguard.reports.escaping import code, fenced, folded, prose
from pytest_perfguard.reports.problems import (
    Breach,
    Problem,
    in_repository,
    moved,
    problems,
    waivers,
)
from pytest_perfguard.reports.standing import closest, not_judged, of_limit
from pytest_perfguard.reports.terminal import denominator
from pytest_perfguard.units import several

LIMIT = 60_000
"""Characters: a comment may have 65,536, and more may stand in it."""
_WIDTH = 100
_MAX_TOLD = 500
_MAX_ROWS = 20
# Problems that come before all lists.
_FIRST = 10
_MAX_BUDGETS = 3
# Room for the line that says what was cut.
_RESERVE = 500


def to_markdown(run: Run) -> str:
    """Return a run as Markdown that fits into a comment on GitHub."""
    found = problems(run)
    parts = [
        *_head(run),
        *chain(*(_problem(run, problem, number) for number, problem in enumerate(found))),
        *_facts("Waived", "waiver", _waivers(run)),
        *_facts("Different from the baseline", "change", _moved(run)),
        *_facts("Not judged", "line", [(f"- {prose(line)}",) for line in _unjudged(run)]),
        *_closest(run),
    ]
    return _fitted(parts)


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of the text that is there as a whole or not at all.

    Attributes:
        what: how it is called when it was cut.
        rank: those of a lower one are the first to find room.
    """

    what: str
    lines: Sequence[str]
    rank: int = 0

    @property
    def text(self) -> str:
        return "\n".join([*self.lines, "", ""])

    @property
    def size(self) -> int:
        """How long it is where characters beyond the first plane count twice."""
        return len(self.text.encode("utf-16-le", "surrogatepass")) // 2


def _fitted(parts: Sequence[_Part]) -> str:
    """Return the parts that fit, in their order, and a line that says what was cut."""
    kept: set[int] = set()
    cut: dict[str, int] = {}
    left = LIMIT - _RESERVE
    for number, part in sorted(enumerate(parts), key=lambda entry: entry[1].rank):
        # What follows something that was cut would look as if it were all there is.
        if part.size <= left and part.what not in cut:
            kept.add(number)
            left -= part.size
        else:
            cut[part.what] = cut.get(part.what, 0) + 1
    text = "".join(part.text for number, part in enumerate(parts) if number in kept)
    if cut:
        told = ", ".join(several(count, what) for what, count in cut.items())
        text += (
            f"*Cut to {LIMIT:,} characters, without {told}. All of it: "
            "`perfguard report RUN.json`, of the file that `--perfguard-json` wrote.*\n"
        )
    return text.rstrip("\n") + "\n"


# -- the parts -----------------------------------------------------------------------------


def _head(run: Run) -> list[_Part]:
    failing = sum(record.fails for record in run.records)
    selfmade = _failed_itself(run)
    if not run.records:
        verdict = "no test was measured"
    elif failing:
        verdict = f"{failing:,} of {several(len(run.records), 'measured test')} over the limits"
    else:
        verdict = f"{several(len(run.records), 'measured test')} within the limits"
    if run.lost:
        verdict += f", {len(run.lost):,} lost"
    if selfmade:
        verdict += f", {selfmade:,} failed for other reasons"
    told = prose(denominator(run), _MAX_TOLD)
    if "commit" in run.source:
        told += f" · commit {code(run.source['commit'][:12])}"
    if "branch" in run.source:
        told += f" of {code(run.source['branch'])}"
    sign = "❌" if run.fails or selfmade else "✅" if run.records else "⚠️"
    return [_Part("heading", [f"## {sign} perfguard: {verdict}", "", told])]


def _problem(run: Run, problem: Problem, number: int) -> list[_Part]:
    """Return one cause: what, which line, how to mend it, and the tests that it concerns."""
    place = problem.worst.place
    where = code(in_repository(run, place.file) + (f":{place.line}" if place.line else ""))
    if place.function:
        where += f" in {code(place.function)}"
    tests = several(len(problem.tests), "test")
    worst = f", worst in {code(problem.worst.record.nodeid)}" if len(problem.tests) > 1 else ""
    warns = "" if problem.fails else " (only warns)"
    lines = [
        f"### {prose(problem.title)}{warns}",
        "",
        f"{where} · {tests}{worst}: {', '.join(map(code, problem.limits[:_MAX_ROWS]))}",
        "",
        *fenced(problem.lines(_WIDTH)),
    ]
    of_tests: dict[str, list[Breach]] = {}
    for breach in problem.breaches:
        of_tests.setdefault(breach.record.nodeid, []).append(breach)
    rows = [
        (code(nodeid), code(", ".join(dict.fromkeys(b.text for b in found))), code(_limit(found)))
        for nodeid, found in of_tests.items()
    ]
    table = _folded(f"{tests}, {several(len(problem.breaches), 'limit')}", rows)
    rank = 0 if number < _FIRST else 2
    return [_Part("problem", lines, rank), _Part("table", table, rank=3)]


def _limit(breaches: Iterable[Breach]) -> str:
    """Return where the first of the limits was written."""
    return next((breach.verdict.where for breach in breaches if breach.verdict), "")


def _waivers(run: Run) -> list[tuple[str, ...]]:
    return [(prose(why), code(what), code(where)) for why, what, where in waivers(run)]


def _moved(run: Run) -> list[tuple[str, ...]]:
    return [(code(nodeid), code(what)) for what, nodeid in moved(run)]


def _unjudged(run: Run) -> list[str]:
    return [*not_judged(run), *run.notices]


def _failed_itself(run: Run) -> int:
    return sum(record.outcome == "failed" and not record.fails for record in run.records)


_TITLES = {"waiver": ("until and why", "what", "where"), "change": ("test", "what")}


def _facts(title: str, what: str, rows: Sequence[tuple[str, ...]]) -> list[_Part]:
    """Return a list or a table under a title of its own, none of it folded."""
    if not rows:
        return []
    shown = rows[:_MAX_ROWS]
    lines = _table(_TITLES[what], shown) if what in _TITLES else list(chain(*shown))
    more = len(rows) - len(shown)
    lines += ["", f"... and {more:,} more"] if more else []
    return [_Part("list", [f"### {title}", "", *lines], rank=1)]


def _closest(run: Run) -> list[_Part]:
    rows = [
        (
            f"{share:.0%}",
            code(record.nodeid),
            code(" · ".join(of_limit(verdict) for verdict in verdicts[:_MAX_BUDGETS])),
        )
        for share, record, verdicts in closest(run.records)
    ]
    if not rows:
        return []
    title = f"Closest to the limits that were kept ({several(len(rows), 'test')})"
    lines = _folded(title, rows, ("used", "test", "budgets"))
    return [_Part("table", lines, rank=3)]


def _folded(
    summary: str,
    rows: Sequence[tuple[str, ...]],
    titles: tuple[str, ...] = ("test", "over its limits", "first written at"),
) -> list[str]:
    """Return a table that is shown on a click; the summary must be safe."""
    shown = rows[:_MAX_ROWS]
    more = len(rows) - len(shown)
    rest = ["", f"... and {more:,} more"] if more else []
    return folded(summary, [*_table(titles, shown), *rest])


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(titles)} |",
        f"|{'---|' * len(titles)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
