from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from pytest_perfguard.ab_results import Grade, Moved, not_pinned
from pytest_perfguard.duet import DuetResult, Verdict
from pytest_perfguard.model import Status
from pytest_perfguard.reports.ab_markdown import markdown
from pytest_perfguard.reports.ab_page import histograms, page
from pytest_perfguard.reports.ab_text import explained, text
from pytest_perfguard.reports.escaping import html_code
from tests.unit.ab_builds import LAZY, apart, compared, comparison, duet

WORSE = compared("tests/test_a.py::test_list", 0, 20)


def test_the_worst_grade_is_told_first() -> None:
    both = compared("t", 5, 1, duet(0.5))
    assert both.grades == {Grade.CHEAPER, Grade.SLOWER}
    assert both.grade is Grade.SLOWER
    assert comparison(both).fails
    assert not comparison(compared("t", 5, 1, duet(0.0))).fails
    assert not comparison(compared("t", 1, 1)).fails


def test_a_timed_call_that_cannot_be_compared_is_never_the_same() -> None:
    lost = DuetResult("t", "", reason="head was killed")
    assert lost.verdict is Verdict.NOT_COMPARABLE
    test = compared("t", 1, 1, lost)
    assert test.grade is Grade.NOT_TIMED
    assert "  times: not comparable: head was killed\n" in text(comparison(test))
    assert comparison(test).timed == 0
    assert markdown(comparison(test)).startswith(
        "## perfguard: ❔ Nothing is costlier or slower, but 1 test not timed\n"
    )


def test_what_fails_in_head_only_is_no_good_end() -> None:
    lost = apart("tests/test_b.py::test_it", "passes in base only; in head: failed: KeyError", True)
    shown = markdown(comparison(compared("t", 1, 1), apart=(apart(), lost)))
    assert shown.startswith(
        "## perfguard: ❔ Nothing is costlier or slower, but 1 test failing in head only\n"
    )
    assert "<details open><summary>2 not comparable" in shown
    assert "```text\ntests/test_b.py::test_it: passes in base only" in shown


def test_text_names_what_is_worse_with_its_cause() -> None:
    shown = text(comparison(WORSE, compared("tests/test_a.py::test_one", 1, 1), apart=(apart(),)))
    assert shown.startswith(
        "perfguard ab: main (0123456789) against the working tree (1 uncommitted file)\n"
        "note: no test times anything on both sides, so that only counts are compared\n"
        "\n"
        "COSTLIER tests/test_a.py::test_list\n"
        "  sql_queries     1 -> 21\n"
        "  sql_roundtrips  1 -> 21\n"
        f"      +20x {LAZY}  at app/crud.py:31 in rows\n"
    )
    assert shown.endswith(
        "\n"
        "not comparable (1):\n"
        "  tests/test_b.py::test_new: exists in head only\n"
        "\n"
        "2 tests compared: 1 costlier, 1 same; 1 not comparable (12 s)\n"
    )


def test_what_costs_more_is_told_before_what_costs_less() -> None:
    test = compared("t", 0, 20)
    cheaper = replace(test.counts.verdicts[0], metric="sql_errors", status=Status.IMPROVED)
    counts = replace(test.counts, verdicts=(cheaper, *test.counts.verdicts))
    assert explained(replace(test, counts=counts))[0].split() == ["sql_queries", "1", "->", "21"]


def test_a_cause_that_many_tests_have_is_told_once() -> None:
    shown = text(comparison(WORSE, compared("tests/test_a.py::test_other", 0, 5)))
    assert shown.count("  for the cause see tests/test_a.py::test_list\n") == 1
    assert f"      +20x {LAZY}" in shown
    assert f"      +5x {LAZY}" in shown


def test_text_tells_times_with_what_moved() -> None:
    moved = Moved("GET /items", ("profiled: 1 ms became 2 ms", "+1 ms in `slow`"), "<svg/>")
    test = compared("tests/test_a.py::test_it", 1, 1, duet(0.5), duet(0.0, "GET /"), moved=(moved,))
    shown = text(comparison(test, noise_floor=0.06))
    assert "note: head against itself differed by up to 6.0 %: that is the limit here\n" in shown
    shown = text(comparison(test, noise_floor=0.026))
    assert "note: head against itself differed by up to 2.6 %: the limit stays at 5 %\n" in shown
    assert (
        "SLOWER tests/test_a.py::test_it\n"
        "  GET /items: slower by 50 % (CPU time of a call 1 ms -> 1.5 ms)\n"
        "      profiled: 1 ms became 2 ms\n"
        "      +1 ms in `slow`\n"
    ) in shown
    assert "GET /:" not in shown


@pytest.mark.parametrize(
    ("test", "title"),
    [
        (compared("t", 5, 1), "cheaper (1):\n  t\n    sql_queries     6 -> 2\n"),
        (compared("t", 1, 1, duet(-0.4)), "faster (1):\n  t\n    GET /items: faster by 40 % "),
    ],
)
def test_text_tells_what_is_better(test: object, title: str) -> None:
    assert title in text(comparison(test))  # type: ignore[arg-type]


def test_what_could_not_be_pinned_is_said() -> None:
    result = duet(0.0, why="no affinity here")
    test = compared("t", 1, 1, result)
    assert not_pinned([result]) == "no affinity here"
    shown = text(comparison(test, not_pinned=not_pinned([result])))
    assert "note: the sides could not share a core (no affinity here), so that only larger" in shown


def test_lists_are_cut() -> None:
    tests = [compared(f"t{number}", 5, 1) for number in range(30)]
    shown = text(comparison(*tests, apart=tuple(apart(f"x{n}") for n in range(30))))
    assert shown.count("  ... and 20 more\n") == 2


def test_nothing_acts_on_a_terminal() -> None:
    assert "\x1b" not in text(comparison(apart=(apart("t[\x1b[31m]"),)))


def test_markdown_has_a_row_for_each_change_and_its_cause_folded() -> None:
    test = compared("tests/test_a.py::test_list[a|b]", 0, 20, duet(0.5))
    shown = markdown(comparison(test, notes=("a *note*",), apart=(apart(reason="<b>"),)))
    assert shown.startswith("## perfguard: ❌ Costlier or slower\n")
    assert "> a \\*note\\*  \n" in shown
    name = html_code(test.nodeid)
    assert f"| ❌ | {name} | sql_queries | 1 → 21 |\n" in shown
    assert "| `GET /items` | slower by 50 % (CPU time of a call 1 ms → 1.5 ms) |\n" in shown
    assert f"<details open><summary>{name}: costlier and slower</summary>" in shown
    assert f"      +20x {LAZY}  at app/crud.py:31 in rows\n" in shown
    assert "```text\ntests/test_b.py::test_new: <b>\n```" in shown


def test_markdown_of_a_comparison_without_a_finding_is_short() -> None:
    shown = markdown(comparison(compared("t", 1, 1, duet(0.0))))
    assert shown == (
        "## perfguard: ✅ Nothing is costlier or slower\n\n"
        "`main (0123456789)` against `the working tree (1 uncommitted file)`. "
        "1 test compared (1 call timed): 1 same.\n\n"
    )


def test_a_fence_cannot_be_closed_from_inside() -> None:
    shown = markdown(comparison(apart=(apart(reason="```` is longer"),)))
    assert "\n`````\n" in shown


class _Page(HTMLParser):
    """Collects what a page would load, and whether its tags are balanced."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta", "rect", "line"}:
            self.open.append(tag)
        self.loads += [value or "" for name, value in attributes if name in {"src", "href"}]

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """One that closes itself leaves nothing open."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_shows_both_distributions_and_loads_nothing() -> None:
    moved = Moved("GET /items", ("+1 ms in `slow`",), '<svg onload="x">&amp;</svg>')
    test = compared("t[<script>]", 0, 20, duet(0.5), moved=(moved,))
    shown = page(comparison(test, compared("u", 1, 1), apart=(apart(),)))
    read = _Page()
    read.feed(shown)
    assert read.open == []
    assert read.loads == []
    assert "<script>" not in shown
    assert 'srcdoc="&lt;svg onload=&quot;x&quot;&gt;&amp;amp;&lt;/svg&gt;"' in shown
    assert "slower by 50 %" in shown
    assert 'base">base 1 ms</span>' in shown
    assert 'head">head 1.5 ms</span>' in shown
    assert "tests/test_b.py::test_new: exists in head only" in shown
    # What is the same has nothing to show.
    assert "<h2>u: same" not in shown


def test_distributions_share_their_axes() -> None:
    drawn = histograms([1.0, 1.0, 2.0], [2.0, 2.0, 3.0])
    groups = re.findall(r'<g class="(\w+)">(.*?)</g>', drawn)
    assert [name for name, _ in groups] == ["base", "head"]
    bars = [re.findall(r'<rect x="([\d.]+)" y="([\d.]+)"', shapes) for _, shapes in groups]
    # Two of three are at 1 s on one side and at 2 s on the other: the tallest bars, apart.
    assert bars[0][0] == ("0.0", "0.0")
    assert bars[1][0][1] == "0.0"
    assert float(bars[1][0][0]) > 0
    assert histograms([1.0], [1.0])
