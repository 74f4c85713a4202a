from __future__ import annotations

import pytest

from pytest_perfguard.findings import WAIVABLE, find, place
from pytest_perfguard.model import Finding, Site
from tests.unit.build import finding, site, tally


@pytest.mark.parametrize(("distinct", "found"), [(4, False), (5, True), (6, True)])
def test_as_many_different_parameter_sets_as_the_threshold_are_a_candidate(
    distinct: int, found: bool
) -> None:
    repeated = tally(count=distinct, repeats=distinct, distinct=distinct)
    assert [f.metric for f in find([repeated], 5)] == ["sql_n_plus_one"] * found


def test_equal_parameters_are_duplicates_and_no_n_plus_one() -> None:
    (only,) = find([tally(count=20, repeats=20, distinct=1, duplicates=19)], 5)
    assert (only.metric, only.weight) == ("sql_duplicates", 19)


def test_one_tally_can_be_both() -> None:
    both = tally(count=12, repeats=12, distinct=6, duplicates=6)
    assert {f.metric: f.weight for f in find([both], 5)} == {
        "sql_n_plus_one": 1,
        "sql_duplicates": 6,
    }


def test_the_most_repeated_comes_first() -> None:
    tallies = [tally(f"q{count}", count=count, distinct=count) for count in (6, 50, 9)]
    assert [f.tally.count for f in find(tallies, 5)] == [50, 9, 6]


def test_findings_are_named_after_the_probe_that_saw_them() -> None:
    found = find([tally(probe="cache", distinct=5, duplicates=1)], 5)
    assert {f.metric for f in found} == {"cache_n_plus_one", "cache_duplicates"}


def test_nothing_repeated_is_no_finding() -> None:
    assert find([tally(), tally("other")], 5) == ()


def test_what_is_found_can_be_waived() -> None:
    repeated = (tally(probe=probe, distinct=5) for probe in ("cache", "tasks"))
    found = find([tally(distinct=5, duplicates=1), *repeated], 5)
    assert {f.metric for f in found} == set(WAIVABLE)


def test_two_findings_of_the_same_line_operation_and_subject_share_their_place() -> None:
    first = finding(tally=tally(count=5, subject="User.posts"))
    second = finding(tally=tally(count=9, subject="User.posts"), weight=2)
    assert place(first) == place(second)


@pytest.mark.parametrize(
    "other",
    [
        finding("sql_duplicates"),
        finding(tally=tally("SELECT b FROM t")),
        finding(tally=tally(site=site(8))),
        finding(tally=tally(site=site(file="app/other.py"))),
        finding(tally=tally(site=None)),
        finding(tally=tally(subject="User.posts")),
    ],
    ids=["metric", "operation", "line", "file", "no line", "subject"],
)
def test_findings_that_differ_in_one_respect_have_different_places(other: Finding) -> None:
    assert place(finding()) != place(other)


def test_the_last_line_and_the_callers_are_no_part_of_the_place() -> None:
    elsewhere: Site = site(end_line=9, callers=("app/api.py:1 in get",))
    assert place(finding()) == place(finding(tally=tally(site=elsewhere)))
