from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_perfguard.folding import add, fold, folded_timeline
from pytest_perfguard.metrics import METRICS
from pytest_perfguard.model import Moment, Span, Tally
from tests.unit.build import finding, site, span, tally


def _request(*tallies: Tally, **fields: Any) -> Span:
    return span(*tallies, **{"name": "GET /", "kind": "request", **fields})


_TALLIES = st.builds(
    tally,
    st.sampled_from(["SELECT a FROM t", "SELECT b FROM u", "UPDATE t SET a = ?"]),
    site=st.one_of(st.none(), st.builds(site, st.integers(1, 3))),
    kind=st.sampled_from(["read", "write", "transaction"]),
    subject=st.sampled_from([None, "User.posts"]),
    count=st.integers(0, 9),
    repeats=st.integers(0, 9),
    distinct=st.integers(0, 9),
    duplicates=st.integers(0, 9),
    sums=st.dictionaries(st.sampled_from(["roundtrips", "rows", "errors"]), st.integers(0, 9)),
    peaks=st.dictionaries(st.just("seconds"), st.sampled_from([0.25, 0.5, 2.0])),
)
_LEAVES = st.builds(
    lambda tallies, seconds, calls, peaks: _request(
        *tallies, seconds=seconds, calls=calls, peaks=peaks
    ),
    st.lists(_TALLIES, max_size=5),
    st.integers(0, 9),
    st.integers(1, 3),
    st.dictionaries(st.just("pool_peak"), st.sampled_from([0.25, 0.5, 1.0])),
)
_SPANS = st.builds(
    lambda leaf, children: span(
        *leaf.tallies, seconds=leaf.seconds, peaks=leaf.peaks, children=tuple(children)
    ),
    _LEAVES,
    st.lists(_LEAVES, max_size=2),
)
_ADDED = ("sql_queries", "sql_roundtrips", "sql_rows", "sql_errors")
_HIGHEST = ("sql_slowest", "pool_peak")


@settings(deadline=None)
@given(_SPANS, _SPANS, st.integers(1, 4))
def test_no_limit_on_lists_changes_a_sum_or_a_peak(
    first: Span, second: Span, max_tallies: int
) -> None:
    folded = fold("2 more", first, second, max_tallies=max_tallies)
    for name in _ADDED:
        parts = [METRICS[name].measure(part) or 0 for part in (first, second)]
        assert METRICS[name].measure(folded) == sum(parts)
    for name in _HIGHEST:
        values = [METRICS[name].measure(part) for part in (first, second)]
        known = [value for value in values if value is not None]
        assert METRICS[name].measure(folded) == max(known, default=None)
    assert folded.seconds == first.seconds + second.seconds
    assert folded.calls == first.calls + second.calls


@settings(deadline=None)
@given(_SPANS, _SPANS, st.integers(1, 4))
def test_the_lists_are_limited(first: Span, second: Span, max_tallies: int) -> None:
    folded = fold("2 more", first, second, max_tallies=max_tallies)
    others = [part for part in folded.tallies if part.operation == "(other operations)"]
    assert len(folded.tallies) - len(others) <= max_tallies
    assert len(others) == len({(part.probe, part.kind) for part in others})
    assert folded.children == ()
    assert folded.timeline == ()


def test_one_operation_of_one_line_stays_one_tally() -> None:
    folded = fold("2 more", _request(tally(count=2)), _request(tally(count=3)), max_tallies=10)
    assert folded.tallies == (tally(count=5),)


@pytest.mark.parametrize(
    "other",
    [
        tally("SELECT b FROM t"),
        tally(site=site(8)),
        tally(site=None),
        tally(subject="User.posts"),
        tally(probe="cache"),
    ],
    ids=["operation", "line", "no line", "subject", "probe"],
)
def test_operations_that_differ_stay_apart(other: Tally) -> None:
    folded = fold("2 more", _request(tally()), _request(other), max_tallies=10)
    assert folded.tallies == (tally(), other)


def test_what_is_beyond_the_limit_is_named_after_none_of_its_parts() -> None:
    late = tally(
        "SELECT b FROM u",
        label="SELECT u",
        subject="User.posts",
        fix="select(User)",
        facts={"error": "IntegrityError"},
        samples=("(1,)",),
    )
    folded = fold("2 more", _request(tally()), _request(late), max_tallies=1)
    assert folded.tallies[1] == tally("(other operations)", label="(other)", site=None)


def test_repeats_are_judged_inside_one_span() -> None:
    total = add(
        tally(count=4, repeats=4, distinct=4, duplicates=1),
        tally(count=3, repeats=3, distinct=3, duplicates=2),
    )
    assert (total.count, total.repeats, total.distinct, total.duplicates) == (7, 7, 4, 3)


def test_a_sum_that_only_one_of_the_two_has_is_kept() -> None:
    total = add(
        tally(sums={"rows": 2, "errors": 1}, peaks={"seconds": 0.5}),
        tally(sums={"rows": 3, "roundtrips": 4}, peaks={"seconds": 0.25, "bytes": 9}),
    )
    assert total.sums == {"rows": 5, "errors": 1, "roundtrips": 4}
    assert total.peaks == {"seconds": 0.5, "bytes": 9}


def test_a_line_that_repeats_in_both_stays_one_n_plus_one() -> None:
    parts = [_request(findings=(finding(tally=tally(count=count)),)) for count in (6, 8)]
    (only,) = fold("2 more", *parts, max_tallies=10).findings
    assert (only.weight, only.tally.count) == (1, 14)


def test_duplicates_of_both_are_added() -> None:
    parts = [_request(findings=(finding("sql_duplicates", weight=weight),)) for weight in (1, 1, 3)]
    two = fold("2 more", parts[0], parts[1], max_tallies=10)
    (only,) = fold("3 more", two, parts[2], max_tallies=10).findings
    assert only.weight == 5


def test_a_waived_finding_is_not_added_to_one_that_is_not() -> None:
    waived = _request(findings=(finding(waiver="known"),))
    open_ = _request(findings=(finding(),))
    folded = fold("2 more", waived, open_, max_tallies=10)
    assert {found.waiver for found in folded.findings} == {None, "known"}


def test_the_operations_of_dropped_time_lines_are_counted() -> None:
    child = _request(timeline=(Moment("SELECT t", 3, 0.0, 0.1),))
    first = _request(timeline=(Moment("SELECT t", 2, 0.0, 0.1),), children=(child,))
    second = _request(timeline_dropped=4)
    assert fold("2 more", first, second, max_tallies=10).timeline_dropped == 9


def test_notes_are_kept_once() -> None:
    first, second = _request(notes=("a", "b")), _request(notes=("b", "c"))
    assert fold("2 more", first, second, max_tallies=10).notes == ("a", "b", "c")


def test_a_time_line_is_read_in_order_across_the_spans_inside() -> None:
    child = _request(timeline=(Moment("SELECT u", 1, 2.0, 0.1), Moment("SELECT t", 2, 3.0, 0.1)))
    whole = span(
        timeline=(Moment("SELECT t", 1, 1.0, 0.1), Moment("SELECT t", 4, 4.0, 0.1)),
        children=(child,),
    )
    assert folded_timeline(whole) == [("SELECT t", 1), ("SELECT u", 1), ("SELECT t", 6)]
