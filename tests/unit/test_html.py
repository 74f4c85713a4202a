from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from pytest_perfguard.errors import MissingExtraError
from pytest_perfguard.model import Level, Moment, Record, Rule, Run, Status, Verdict
from pytest_perfguard.reports.formats import render
from pytest_perfguard.reports.html import MAX_DETAILS, to_html
from tests.unit.build import HOSTILE, finding, site, span, tally
from tests.unit.profiles import library, profile, user
from tests.unit.strategies import RUNS

pytest.importorskip("jinja2")

_OVER = Verdict("sql_queries", "test_it", 21, 2, Status.OVER, Level.FAIL, "perf_budget, a.py:1")
_OK = Verdict("sql_rows", "test_it", 3, 4, Status.OK, Level.FAIL, "perf_budget, a.py:1")
_BASELINE = Verdict(
    "sql_rows", "test_it", 3, 3, Status.OK, Level.FAIL, "baseline, b.json:3", rule=Rule.BASELINE
)


class _Page(HTMLParser):
    """What is in a report, as a browser reads it."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.contents: dict[str, str] = {}
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        name = dict(attrs).get("id") or tag
        self._inside = name if tag in ("script", "style", "title") else ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.contents[self._inside] = self.contents.get(self._inside, "") + data

    @property
    def tests(self) -> list[list[Any]]:
        found: list[list[Any]] = json.loads(self.contents["index"])["tests"]
        return found

    def unpacked(self, kind: str = "details") -> list[Any]:
        parts = json.loads(self.contents[kind])
        return [json.loads(zlib.decompress(base64.b64decode(part))) for part in parts]

    def details(self, number: int = 0) -> dict[str, Any]:
        place = self.tests[number][-2]
        found: dict[str, Any] = self.unpacked()[place[0]][place[1]]
        return found


def _record(nodeid: str = "a.py::test_it", *verdicts: Verdict, **fields: Any) -> Record:
    return Record(nodeid, "passed", span(tally()), {"sql_queries": 1}, verdicts, **fields)


def page(*records: Record, **about: Any) -> _Page:
    return _Page(to_html(Run(records=records, **about)))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(run=RUNS)
def test_any_run_is_survived(run: Run) -> None:
    text = to_html(run)
    found = _Page(text)
    assert len(found.tests) == len(run.records)
    assert sum(map(len, found.unpacked())) == len(run.records)
    assert text == to_html(Run.from_dict(json.loads(json.dumps(run.to_dict()))))


def test_a_format_by_name() -> None:
    run = Run(records=(_record(),))
    assert render(run, "html") == to_html(run)


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_ends_a_script_or_begins_an_element(text: str) -> None:
    plain = page(_record("a.py::plain", _OVER), source={"branch": "main"}, notices=("a",))
    hostile = tally(text, label=text, site=site(file=text), subject=text, fix=text, repeats=9)
    inside = span(
        hostile,
        name=text,
        findings=(finding(tally=hostile),),
        timeline=(Moment(text, 1, 0.0, 0.1),),
        notes=(text,),
    )
    record = Record(
        text, "failed", inside, {}, (replace(_OVER, span=text, where=text, reason=text),), (text,)
    )
    drawn = profile(((user(text),), 1.0), name=text)
    found = page(
        record,
        environment={text: text},
        source={"branch": text, "commit": text},
        notices=(text,),
        profiles={text: (drawn.to_dict(),)},
    )
    names = [tag for tag, _ in found.tags]
    assert names.count("script") == [tag for tag, _ in plain.tags].count("script")
    assert "img" not in names
    handlers = [key for _, attributes in found.tags for key in attributes if key.startswith("on")]
    assert handlers == []
    assert found.details()["lines"]


def test_what_is_not_seen_is_written_out() -> None:
    found = page(_record("a.py::\x1b[31m\u202e\udce9"))
    assert found.tests[0][0] == r"a.py::\x1b[31m\u202e\udce9"


def test_a_statement_of_a_megabyte_is_cut() -> None:
    long = tally("SELECT " + "x" * 1_000_000)
    text = to_html(Run(records=(replace(_record(), span=span(long)),)))
    assert len(text) < 200_000
    (operation,) = _Page(text).details()["operations"]
    assert operation["text"].endswith("more characters")


def test_only_the_scripts_and_styles_of_the_page_run() -> None:
    found = page(_record())
    (policy,) = [a["content"] for _, a in found.tags if a.get("http-equiv")]
    assert policy is not None
    for kind in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(found.contents[kind].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert not [
        a for _, a in found.tags if {"src", "style"} & a.keys() or "http" in str(a.get("href"))
    ]


def test_failures_are_told_as_the_terminal_tells_them() -> None:
    repeated = tally(repeats=20, count=20, distinct=20, fix="selectinload(T.a)")
    record = Record(
        "a.py::test_it",
        "failed",
        span(repeated, findings=(finding(tally=repeated),)),
        {"sql_queries": 21},
        (_OVER,),
    )
    lines = page(record).details()["lines"]
    assert ["title", "1 of 1 budget exceeded in test_it"] in lines
    assert ["fix", "fix: selectinload(T.a)"] in lines
    assert lines[1] == ["breach", "sql_queries  21 > 2   perf_budget, a.py:1"]


def test_a_metric_has_its_limit_and_its_baseline_in_one_row() -> None:
    found = page(_record("a.py::test_it", _OK, _BASELINE)).details()
    (row,) = found["metrics"]
    assert (row["name"], row["value"]) == ("sql_rows", "3")
    assert (row["budget"]["limit"], row["budget"]["used"]) == ("4", 0.75)
    assert (row["baseline"]["limit"], row["baseline"]["status"]) == ("3", "ok")
    assert [name for name, _, _ in found["others"]] == ["sql_queries"]


@pytest.mark.parametrize(
    ("record", "status"),
    [
        (_record("a.py::b", _OVER), 0),
        (replace(_record(), outcome="failed"), 0),
        (_record("a.py::b", replace(_OVER, level=Level.WARN)), 1),
        (_record("a.py::b", replace(_OVER, waiver="until 2027-01-01: known")), 2),
        (replace(_record(), span=span(findings=(finding(),))), 3),
        (replace(_record(), span=span(findings=(finding(waiver="known"),))), 6),
        (_record("a.py::b", replace(_OK, status=Status.IMPROVED)), 4),
        (_record("a.py::b", _OK), 5),
        (_record(), 6),
        (replace(_record(), outcome="skipped"), 7),
    ],
)
def test_every_test_has_one_status(record: Record, status: int) -> None:
    assert page(record).tests[0][1] == status


def test_the_time_line_has_the_spans_where_they_began() -> None:
    inner = span(
        tally(label="SELECT users"),
        name="GET /",
        kind="request",
        start=0.2,
        seconds=0.3,
        timeline=(Moment("SELECT users", 20, 0.25, 0.1),),
    )
    outer = span(
        tally(label="COMMIT"),
        seconds=1.0,
        children=(span(name="GET /", kind="endpoint"), inner),
        timeline=(Moment("COMMIT", 1, 0.1, 0.01),),
    )
    rows = page(replace(_record(), span=outer)).details()["timeline"]
    assert [row[:5] for row in rows] == [
        [0, "test", "test_it", 0.0, 1.0],
        [1, "m sql", "COMMIT", 0.1, 0.01],
        [1, "request", "GET /", 0.2, 0.3],
        [2, "m sql", "20x SELECT users", 0.25, 0.1],
    ]


def test_the_time_line_ends_where_timed_rounds_begin() -> None:
    outer = span(tally(), seconds=10.0, timeline=(Moment("SELECT t", 1, 0.1, 0.1),))
    end = page(replace(_record(), span=outer)).details()["end"]
    assert end == {"seconds": 0.2, "text": "200 ms", "until": "10 s"}


def test_timings_and_growth_are_there() -> None:
    timing = {
        "rounds": 3, "concurrency": 1, "repeated": 0, "cold_wall": 0.5,
        "statistics": {"median": 0.2}, "sample": [0.1, 0.2, 0.3],
    }  # fmt: skip
    limit = Verdict("http_median", "GET /", 0.2, 0.1, Status.OVER, Level.FAIL, "here")
    growth = {"sizes": [2, 4], "metrics": {"sql_queries": {"values": [1, 2], "limit": "O(1)"}}}
    call = span(tally(), name="GET /", kind="request", timing=timing, growth=growth)
    found = page(replace(_record("a.py::b", limit), span=span(children=(call,)))).details()
    (timed,) = found["timings"]
    assert timed["sample"] == [0.1, 0.2, 0.3]
    assert timed["limits"] == [["http_median", 0.1, "100 ms", "bad"]]
    (grown,) = found["growth"]
    assert grown["rows"][0]["values"] == ["1", "2"]


def test_profiles_are_drawn_without_scripts_and_styles_of_their_own() -> None:
    drawn = profile(((user("view"), library("dumps")), 0.5), ((user("view"),), 0.5))
    found = page(_record(), profiles={"a.py::test_it": (drawn.to_dict(), {"format": "other"})})
    ((picture,),) = found.unpacked("pictures")
    assert "view" in picture["svg"]
    assert not re.search(r"<script|<style|style=", picture["svg"])
    assert found.tests[0][-1] == 0


def test_earlier_values_are_drawn_where_they_are_known() -> None:
    series = {
        "nodeid": "a.py::test_it",
        "metric": "sql_queries",
        "values": [2, None, 3],
        "change": {"text": "2 became 3"},
    }
    runs = [{"commit": "abc"}, {"commit": "abd"}, {"commit": None, "started": "2026-01-01"}]
    found = page(_record(), trends={"runs": runs, "series": [series]}).details()
    points = [["abc", 2, "2"], ["2026-01-01", 3, "3"]]
    assert found["trends"] == [{"name": "sql_queries", "points": points, "change": "2 became 3"}]


def test_a_thousand_tests_are_small() -> None:
    def record(number: int) -> Record:
        statements = [
            tally(f"CALL procedure_{number % 90}_{n}(?, ?, ?)", site=site(n)) for n in range(25)
        ]
        moments = tuple(Moment(f"SELECT t{n}", 1, n / 7, number / 999) for n in range(25))
        verdicts = [replace(_OK, metric=m, value=number) for m in ("sql_queries", "sql_rows")]
        inside = span(*statements, seconds=number / 7, timeline=moments)
        name = f"services/shop_{number % 30}/tests/test_orders.py::test_{number}"
        return Record(name, "passed", inside, {"sql_queries": number}, tuple(verdicts))

    text = to_html(Run(records=tuple(map(record, range(1_000)))))
    assert len(text.encode()) < 3_000_000
    assert all(test[-2] != -1 for test in _Page(text).tests)


def test_where_there_is_no_room_tests_that_need_a_look_keep_their_details(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pytest_perfguard.reports.html.MAX_DETAILS", 4_000)
    monkeypatch.setattr("pytest_perfguard.reports.html._PART", 1)
    assert MAX_DETAILS > 4_000
    kept = [_record(f"a.py::test_{n}", _OK) for n in range(20)]
    found = page(*kept, _record("a.py::zzz", _OVER))
    places = [test[-2] for test in found.tests]
    assert places[-1] == [0, 0]
    assert places.count(-1) > 0


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"Jinja2 is not installed.*\[html\]"):
        to_html(Run())
