from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from typing import Any, Protocol

import pytest
from hypothesis import given, settings

from pytest_perfguard import model
from pytest_perfguard.model import Level, Record, Run, Span, Status, Verdict
from tests.unit.build import finding, site, span, tally
from tests.unit.strategies import RUNS, SPANS


class _Data(Protocol):
    def to_dict(self) -> dict[str, Any]: ...


_VERDICT = Verdict("sql_queries", "test_it", 3, 2, Status.OVER, Level.WARN, "here")


@settings(deadline=None, max_examples=50)
@given(RUNS)
def test_a_run_is_the_same_after_its_way_through_json(run: Run) -> None:
    assert Run.from_dict(json.loads(json.dumps(run.to_dict()))) == run


@pytest.mark.parametrize(
    "data",
    [
        site(callers=("a:1 in b",), through="lib.call"),
        tally(facts={"cause": "lazy"}, sums={"rows": 2}, samples=("(1,)",)),
        tally(site=None),
        finding(waiver="known"),
        span(tally(), findings=(finding(),), children=(span(name="GET /"),), notes=("a",)),
        _VERDICT,
        replace(_VERDICT, value=None, status=Status.UNPROVEN, reason="no SQL"),
        Record("a.py::b", "passed", span(), {"sql_rows": 3}, (_VERDICT,), ("oops",), {"a": True}),
        Run(environment={"python": "3.11.0"}, records=(Record("a.py::b", "passed", span()),)),
    ],
    ids=["site", "tally", "tally of no line", "finding", "span", "verdict", "unproven verdict",
         "record", "run"],
)  # fmt: skip
def test_data_is_the_same_after_its_way_through_json(data: _Data) -> None:
    copy = type(data).from_dict(json.loads(json.dumps(data.to_dict())))  # type: ignore[attr-defined]
    assert copy == data
    assert type(copy) is type(data)


def test_every_field_is_in_the_plain_form() -> None:
    plain = span(tally()).to_dict()
    assert list(plain) == [field.name for field in fields(Span)]
    assert plain["tallies"][0]["site"]["file"] == "app/crud.py"


def test_the_plain_form_is_made_of_plain_types() -> None:
    plain = Record("a.py::b", "passed", span(), verdicts=(_VERDICT,)).to_dict()
    assert type(plain["verdicts"]) is list
    assert type(plain["verdicts"][0]["status"]) is str
    assert type(plain["verdicts"][0]["level"]) is str


_LONE = "caf\udce9"


@pytest.mark.parametrize(
    "data",
    [
        tally(_LONE),
        tally(facts={"error": _LONE}),
        tally(samples=(_LONE,)),
        tally(site=site(file=_LONE)),
        Record(_LONE, "passed", span()),
        Record("a.py::b", "passed", span(), waivers={f"{_LONE}.py:3 sql_n_plus_one": True}),
    ],
    ids=["statement", "fact", "sample", "file", "node id", "key"],
)
def test_a_lone_surrogate_does_not_break_a_pipe(data: _Data) -> None:
    plain = json.dumps(data.to_dict(), ensure_ascii=False).encode("utf-8")
    assert rb"caf\\udce9" in plain


@settings(deadline=None)
@given(SPANS)
def test_a_walk_yields_every_span_once_parents_first(whole: Span) -> None:
    spans = list(whole.walk())
    assert spans[0] is whole
    inside = [part for child in whole.children for part in child.walk()]
    assert [id(part) for part in spans[1:]] == [id(part) for part in inside]


@pytest.mark.parametrize("status", Status)
def test_what_is_kept_or_only_told_is_no_breach(status: Status) -> None:
    harmless = (Status.OK, Status.IMPROVED, Status.CHANGED, Status.NEW)
    assert replace(_VERDICT, status=status).breached is (status not in harmless)


def test_what_is_tolerated_is_no_breach() -> None:
    over = replace(_VERDICT, status=Status.OVER)
    assert over.breached
    assert not replace(over, waiver="until 2027-03-01: known").breached


@pytest.mark.parametrize("status", Status)
def test_a_verdict_that_has_been_read_is_breached_as_before(status: Status) -> None:
    verdict = replace(_VERDICT, status=status)
    copy = Verdict.from_dict(json.loads(json.dumps(verdict.to_dict())))
    assert copy.breached is verdict.breached
    assert (type(copy.status), type(copy.level)) == (Status, Level)


def test_an_unproven_default_of_a_pattern_is_idle_and_not_against_the_test() -> None:
    idle = replace(_VERDICT, status=Status.UNPROVEN, where="perfguard_budgets, '*: sql_queries=2'")
    assert (idle.idle, idle.breached) == (True, False)
    over = replace(idle, status=Status.OVER)
    assert (over.idle, over.breached) == (False, True)
    by_mark = replace(idle, where="perf_budget, test_a.py:3")
    assert (by_mark.idle, by_mark.breached) == (False, True)


@pytest.mark.parametrize(
    ("levels", "errors", "fails"),
    [
        ((), (), False),
        ((Level.WARN,), (), False),
        ((Level.WARN, Level.FAIL), (), True),
        ((), ("oops",), True),
    ],
)
def test_a_record_fails_for_a_breach_that_does_not_only_warn_or_for_a_mistake(
    levels: tuple[Level, ...], errors: tuple[str, ...], fails: bool
) -> None:
    over = tuple(replace(_VERDICT, level=level) for level in levels)
    kept = replace(_VERDICT, status=Status.OK, level=Level.FAIL)
    record = Record("a.py::b", "passed", span(), verdicts=(kept, *over), errors=errors)
    assert record.breaches == over
    assert record.fails is fails


def test_the_fields_of_a_run_begin_with_what_a_reader_needs_first() -> None:
    names = [field.name for field in fields(Run)]
    assert names == [
        "schema", "environment", "source", "tests", "notices", "lost", "records", "trends",
        "profiles",
    ]  # fmt: skip


def test_a_site_is_shown_as_editors_read_it() -> None:
    assert str(site(31, "app/crud.py", function="serialize")) == "app/crud.py:31 in serialize"


@pytest.mark.parametrize(
    "kind",
    [value for value in vars(model).values() if is_dataclass(value)],
    ids=lambda kind: kind.__name__,
)
def test_data_is_frozen_and_has_slots(kind: type) -> None:
    assert "__dict__" not in dir(kind)
    with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
        setattr(object.__new__(kind), fields(kind)[0].name, 1)
