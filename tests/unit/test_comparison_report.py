from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pytest_perfguard.reports.comparison_report import markdown, text
from pytest_perfguard.reports.escaping import html_code
from pytest_perfguard.run_comparison import Change, ChangedTest, Outcome, RunComparison

COMPARISON = RunComparison(
    tests=(
        ChangedTest(
            "test_a.py::test_list",
            Outcome.WORSE,
            (
                Change("sql_queries", 1, 21, Outcome.WORSE),
                Change("response_bytes", 10_240, 5_120, Outcome.BETTER),
                Change("http_median", 0.01, 0.02, Outcome.TOLD),
                Change("sql_time", 0.0001, 0.0002, Outcome.TOLD),
                Change("sql_full_scans", None, 1, Outcome.TOLD),
            ),
            ("+20x SELECT users.id FROM users WHERE users.id = ?  at app/crud.py:7 in rows",),
        ),
        ChangedTest(
            "test_a.py::test_get", Outcome.TOLD, (Change("http_cpu", 0.01, 0.02, Outcome.TOLD),)
        ),
    ),
    same=3,
    not_comparable={"test_a.py::test_new": "only in b.json"},
)


def test_text_tells_the_numbers_the_operations_and_the_rest() -> None:
    assert text(COMPARISON, width=100).splitlines() == [
        "worse: test_a.py::test_list",
        "  sql_queries          1 -> 21       +20",
        "  response_bytes  10 KiB -> 5 KiB  -50 %  better",
        "  +20x SELECT users.id FROM users WHERE users.id = ?  at app/crud.py:7 in rows",
        "  not judged:",
        "    http_median     10 ms -> 20 ms               +100 %",
        "    sql_full_scans      - -> 1      not measured before",
        "",
        "times of other tests that differ most (not judged):",
        "  http_cpu  10 ms -> 20 ms  +100 %  test_a.py::test_get",
        "",
        "not comparable:",
        "  test_a.py::test_new: only in b.json",
        "",
        "5 tests compared: 1 worse, 1 with nothing but other times, 3 the same; 1 not comparable",
    ]


def test_markdown_folds_what_is_not_worse() -> None:
    shown = markdown(COMPARISON)
    assert f"#### worse: {html_code('test_a.py::test_list')}\n" in shown
    assert "| `sql_queries` | 1 | 21 | +20 |  |" in shown
    assert "```diff\n+20x SELECT users.id" in shown
    assert shown.count("<details>") == shown.count("</details>") == 2
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(shown)
    assert html.count("<table>") == 3


def test_nothing_that_differs_is_one_line() -> None:
    assert text(RunComparison(same=2)) == "2 tests compared: 2 the same\n"
    assert markdown(RunComparison(same=1)) == "**1 test compared: 1 the same**\n"


hostile = st.sampled_from(
    [
        "</details><script>alert(1)</script>",
        "```\n# x",
        "\x1b[31mred",
        "a|b",
        "\u202e",
        "[x](y)",
        "&lt;",
    ]
) | st.text(max_size=30)


@given(hostile, hostile, hostile)
def test_hostile_names_change_nothing_but_themselves(
    nodeid: str, operation: str, reason: str
) -> None:
    comparison = RunComparison(
        tests=(
            ChangedTest(
                nodeid, Outcome.WORSE, (Change("sql_queries", 1, 2, Outcome.WORSE),), (operation,)
            ),
            ChangedTest(nodeid, Outcome.TOLD, (Change("http_cpu", 1, 2, Outcome.TOLD),)),
        ),
        not_comparable={nodeid: reason},
    )
    assert "\x1b" not in text(comparison) + markdown(comparison)
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown(comparison))
    tags = re.findall(r"</?([a-z0-9]+)", html)
    assert set(tags) <= {
        "p", "strong", "h4", "table", "thead", "tbody", "tr", "th", "td", "code", "pre", "details",
        "summary", "ul", "li",
    }  # fmt: skip
    assert tags.count("details") == 4
    ET.fromstring(f"<div>{html.replace('&quot;', '')}</div>")  # noqa: S314 - our own
