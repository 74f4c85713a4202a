from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_perfguard.baselines import (
    NO_DATABASE,
    NO_LINE,
    Entry,
    Tolerance,
    bounds,
    compare,
    databases,
    differences,
    entry_of,
    function_of,
    is_same,
    outline,
    pick,
    renew,
    tighten,
    widen,
)
from pytest_perfguard.metrics import METRICS, lookup, measure_all
from pytest_perfguard.model import Level, Record, Rule, Status, Tally, Verdict
from tests.unit.build import site, span, tally

_SITE = "app/crud.py:7 in rows"
_A, _B = "SELECT a FROM t", "SELECT b FROM t"


def _record(
    *tallies: Tally, probes: tuple[str, ...] = ("sql", "cache", "http"), **fields: Any
) -> Record:
    root = span(*tallies, probes=probes)
    return Record("test_x.py::test_it", "passed", root, measure_all(root), **fields)


def _entry(*tallies: Tally, **metrics: Any) -> Entry:
    """Return what is recorded of a test, with some of its metrics replaced."""
    found = entry_of(_record(*tallies))
    return replace(found, metrics={**found.metrics, **metrics})


def _compare(
    held: Entry,
    record: Record,
    tolerances: Mapping[str, Tolerance] | None = None,
    level: Level = Level.FAIL,
) -> dict[str, Verdict]:
    found = compare(held, record, tolerances or {}, lambda _: level, lambda name: f"at {name}")
    assert all(verdict.rule is Rule.BASELINE for verdict in found)
    return {verdict.metric: verdict for verdict in found}


def _statuses(held: Entry, record: Record, **tolerances: Tolerance) -> dict[str, Status]:
    found = _compare(held, record, tolerances)
    return {name: verdict.status for name, verdict in found.items()}


def _selects(count: int = 1, operation: str = _A, **fields: Any) -> Tally:
    return tally(operation, **{"count": count, "sums": {"roundtrips": count}, **fields})


def _gets(count: int = 1, **fields: Any) -> Tally:
    return tally(
        "GET user:{int}",
        **{
            "probe": "cache",
            "label": "GET",
            "count": count,
            "sums": {"roundtrips": count},
            **fields,
        },
    )


# -- what is held ------------------------------------------------------------------------------


def test_an_entry_holds_what_its_probes_saw_and_zeros_of_the_same_probe() -> None:
    found = entry_of(_record(_selects(3), _selects(2, _B, site=None)))

    assert found.metrics["sql_queries"] == 5
    assert found.metrics["sql_n_plus_one"] == 0
    assert not any(METRICS[name].probe == "cache" for name in found.metrics)
    assert found.operations == {"sql": {_A: {_SITE: 3}, _B: {NO_LINE: 2}}}


def test_an_entry_holds_nothing_that_differs_between_runs() -> None:
    record = _record(_selects(sums={"roundtrips": 1, "seconds": 0.2}, peaks={"seconds": 0.2}))
    assert record.metrics["sql_time"] == 0.2
    assert not {"sql_time", "sql_slowest", "pool_peak"} & set(entry_of(record).metrics)


def test_transactions_and_connections_are_no_operations() -> None:
    record = _record(
        _selects(), tally("BEGIN", kind="transaction"), tally("PRAGMA", kind="connect")
    )
    assert entry_of(record).operations == {"sql": {_A: {_SITE: 1}}}


def test_an_entry_of_nothing_is_false() -> None:
    assert not entry_of(_record())
    assert entry_of(_record(_selects()))


def test_a_ratio_is_kept_with_six_digits() -> None:
    record = _record(_gets(3, sums={"hits": 2, "misses": 1}))
    assert entry_of(record).metrics["cache_hit_ratio"] == 0.666667


def test_columns_of_a_long_statement_make_no_difference_and_the_rest_does() -> None:
    columns = "SELECT " + ", ".join(f"users.column_{n}" for n in range(40))
    plain = outline(columns + " FROM users WHERE users.id = ?")
    more = outline(columns + ", users.new FROM users WHERE users.id = ?")
    other = outline(columns + " FROM users WHERE users.name = ?")

    assert plain == more != other
    assert len(plain) < 140
    assert outline("SELECT 1") == "SELECT 1"
    assert outline("é" * 500) != outline("é" * 501)


def test_a_test_is_told_apart_by_the_kinds_of_its_databases() -> None:
    def of(*labels: str) -> str:
        return databases(_record(engines={str(n): label for n, label in enumerate(labels)}))

    assert of() == NO_DATABASE
    assert of("sqlite+pysqlite", "sqlite+aiosqlite") == "sqlite"
    assert of("sqlite+pysqlite", "postgresql+psycopg") == "postgresql+sqlite"


def test_the_entry_of_the_same_database_is_picked() -> None:
    lite, post, none = (Entry({"sql_queries": n}) for n in (1, 2, 3))
    both = {"sqlite": lite, "postgresql": post}

    assert pick(both, "sqlite") is lite
    assert pick(both, "mysql") is None
    assert pick({}, "sqlite") is pick({}, NO_DATABASE) is None
    # A test that has begun to use a database, or stopped, is compared with what it did before.
    assert pick({NO_DATABASE: none}, "sqlite") is none
    assert pick(both, NO_DATABASE) is post


@pytest.mark.parametrize(
    ("place", "function"),
    [
        ("app/crud.py:7 in Rows.all", "app/crud.py in Rows.all"),
        ("C:/a b.py:7 in f", "C:/a b.py in f"),
        ("a\nb.py:7 in <lambda>", "a\nb.py in <lambda>"),
        (NO_LINE, NO_LINE),
    ],
)
def test_a_place_without_its_line(place: str, function: str) -> None:
    assert function_of(place) == function


# -- judging -----------------------------------------------------------------------------------


def test_the_same_again_is_ok_wherever_its_lines_are() -> None:
    held = _entry(_selects(3))
    moved = _record(_selects(3, site=site(line=99)))
    assert set(_statuses(held, moved).values()) == {Status.OK}


def test_more_is_a_regression_that_names_what_was_added() -> None:
    held = _entry(_selects(3))
    found = _compare(held, _record(_selects(2), _selects(49, _B)))

    queries = found["sql_queries"]
    assert (queries.status, queries.value, queries.limit) == (Status.REGRESSED, 51, 3)
    assert queries.where == "at sql_queries"
    assert queries.breached
    assert queries.changes == (f"+49x {_B}  at {_SITE}", f"-1x {_A}  at {_SITE}")
    # The others of the probe do not tell it again.
    assert found["sql_roundtrips"].status is Status.REGRESSED
    assert not found["sql_roundtrips"].changes


def test_less_is_an_improvement_and_no_breach() -> None:
    found = _compare(_entry(_selects(3)), _record(_selects(2)))["sql_queries"]
    assert found.status is Status.IMPROVED
    assert not found.breached
    assert found.changes == (f"-1x {_A}  at {_SITE}",)


def test_as_many_by_other_statements_is_a_change() -> None:
    found = _compare(_entry(_selects(3)), _record(_selects(2), _selects(1, _B)))
    assert found["sql_queries"].status is Status.CHANGED
    assert found["sql_queries"].changes == (f"-1x {_A}  at {_SITE}", f"+1x {_B}  at {_SITE}")
    assert not found["sql_queries"].breached
    assert [v.status for v in found.values()].count(Status.CHANGED) == 1


def test_the_same_statement_from_another_function_is_a_change() -> None:
    moved = _record(_selects(3, site=site(function="others")))
    assert _statuses(_entry(_selects(3)), moved)["sql_queries"] is Status.CHANGED


def test_other_statements_of_a_number_that_varies_are_no_change() -> None:
    held = _entry(_selects(3), sql_queries=(2, 4))
    assert _statuses(held, _record(_selects(2), _selects(1, _B)))["sql_queries"] is Status.OK


@pytest.mark.parametrize(
    ("count", "status"),
    [(1, Status.IMPROVED), (2, Status.OK), (4, Status.OK), (5, Status.REGRESSED)],
)
def test_a_range_holds_what_is_within(count: int, status: Status) -> None:
    held = _entry(_selects(3), sql_queries=(2, 4), sql_roundtrips=(2, 4))
    assert _statuses(held, _record(_selects(count)))["sql_queries"] is status


def test_nothing_of_what_the_baseline_has_is_unproven_and_said_once() -> None:
    held = _entry(_selects(3))
    for record in (_record(), _record(probes=()), _record(_gets())):
        found = _compare(held, record)
        unproven = [name for name, v in found.items() if v.status is Status.UNPROVEN]
        assert unproven == ["sql_queries"]
        assert found["sql_queries"].breached
        assert "where the baseline has 3" in found["sql_queries"].reason


def test_zeros_of_a_probe_that_does_not_listen_are_no_verdict() -> None:
    held = Entry({"sql_queries": 0, "sql_errors": 0})
    assert not _compare(held, _record(probes=()))


def test_the_first_use_of_a_probe_is_a_regression() -> None:
    found = _compare(_entry(_selects(3)), _record(_selects(3), _gets(2)))
    assert found["cache_commands"].status is Status.REGRESSED
    assert (found["cache_commands"].value, found["cache_commands"].limit) == (2, 0)
    assert found["cache_commands"].changes == (f"+2x GET user:{{int}}  at {_SITE}",)


def test_a_metric_that_is_newer_than_the_baseline_is_not_compared() -> None:
    held = _entry(_selects(3))
    without = replace(held, metrics={k: v for k, v in held.metrics.items() if k != "sql_errors"})
    failing = _record(_selects(3, sums={"roundtrips": 3, "errors": 2}))

    assert "sql_errors" not in _compare(without, failing)
    assert _statuses(held, failing)["sql_errors"] is Status.REGRESSED


def test_an_entry_without_values_lets_nothing_through() -> None:
    assert _statuses(Entry(), _record(_selects(1)))["sql_queries"] is Status.REGRESSED


def test_a_plan_that_is_asked_for_no_more_is_unproven() -> None:
    found = _compare(_entry(_selects(3), sql_full_scans=2), _record(_selects(3)))
    assert found["sql_full_scans"].status is Status.UNPROVEN
    assert "only measured where it is budgeted" in found["sql_full_scans"].reason


@pytest.mark.parametrize(
    ("hits", "status"), [(2, Status.REGRESSED), (3, Status.OK), (4, Status.IMPROVED)]
)
def test_a_ratio_is_better_when_it_is_higher(hits: int, status: Status) -> None:
    def of(count: int) -> Tally:
        return _gets(6, sums={"hits": count, "misses": 6 - count, "roundtrips": 6})

    found = _statuses(_entry(of(3)), _record(of(hits)))
    assert found["cache_hit_ratio"] is status
    assert "cache_hits" not in found


def test_a_ratio_is_its_own_rounded_baseline() -> None:
    lookups = _gets(3, sums={"hits": 2, "misses": 1, "roundtrips": 3})
    assert _statuses(_entry(lookups), _record(lookups))["cache_hit_ratio"] is Status.OK


@pytest.mark.parametrize(
    ("size", "status"),
    [(949, Status.IMPROVED), (951, Status.OK), (1050, Status.OK), (1051, Status.REGRESSED)],
)
def test_sizes_have_some_slack(size: int, status: Status) -> None:
    def of(count: int) -> Tally:
        return _gets(1, sums={"bytes_in": count, "roundtrips": 1})

    assert _statuses(_entry(of(1000)), _record(of(size)))["cache_bytes"] is status


@pytest.mark.parametrize(
    ("tolerance", "count", "status"),
    [
        (Tolerance(share=0.1), 11, Status.OK),
        (Tolerance(share=0.1), 12, Status.REGRESSED),
        (Tolerance(amount=2), 12, Status.OK),
        (Tolerance(amount=2), 13, Status.REGRESSED),
        (Tolerance(), 11, Status.REGRESSED),
        # It says how much worse, and does not hide what is better.
        (Tolerance(amount=2), 9, Status.IMPROVED),
    ],
)
def test_a_tolerance_lets_a_metric_be_worse(
    tolerance: Tolerance, count: int, status: Status
) -> None:
    found = _statuses(_entry(_selects(10)), _record(_selects(count)), sql_queries=tolerance)
    assert found["sql_queries"] is status


def test_a_tolerance_of_a_ratio_lowers_it() -> None:
    ratio = lookup("cache_hit_ratio")
    assert Tolerance(amount=0.05).limit(ratio, 0.9) == pytest.approx(0.85)
    assert Tolerance(share=0.1).limit(ratio, (0.5, 0.9)) == pytest.approx(0.45)


def test_what_is_done_within_a_tolerance_is_told_as_a_change() -> None:
    held = _entry(_selects(10))
    more = _record(_selects(10), _selects(1, _B))
    tolerances = {name: Tolerance(amount=1) for name in held.metrics}
    found = _compare(held, more, tolerances)
    assert found["sql_queries"].status is Status.CHANGED
    assert found["sql_queries"].changes == (f"+1x {_B}  at {_SITE}",)


def test_the_level_is_that_of_the_metric() -> None:
    found = _compare(_entry(_selects(1)), _record(_selects(2)), level=Level.WARN)
    assert {verdict.level for verdict in found.values()} == {Level.WARN}


_TALLIES = st.lists(
    st.builds(
        lambda count, operation, line, function: _selects(
            count, operation, site=site(line, function=function)
        ),
        st.integers(1, 5),
        st.sampled_from([_A, _B, "SELECT c FROM t"]),
        st.integers(1, 3),
        st.sampled_from(["rows", "others"]),
    ),
    min_size=1,
    max_size=4,
)


@given(_TALLIES)
def test_what_was_recorded_is_kept_by_the_same_again(tallies: list[Tally]) -> None:
    record = _record(*tallies)
    found = compare(entry_of(record), record, {}, lambda _: Level.FAIL, str)
    assert {verdict.status for verdict in found} == {Status.OK}


@given(_TALLIES, _TALLIES)
def test_a_difference_is_never_passed_over(before: list[Tally], after: list[Tally]) -> None:
    held, record = entry_of(_record(*before)), _record(*after)
    found = compare(held, record, {}, lambda _: Level.FAIL, str)
    same = is_same(held, entry_of(record))
    assert same == ({verdict.status for verdict in found} == {Status.OK})
    changed = [line for verdict in found for line in verdict.changes]
    assert changed == differences(held, entry_of(record))


@given(_TALLIES, _TALLIES)
def test_both_of_two_runs_keep_what_is_recorded_of_them(
    first: list[Tally], second: list[Tally]
) -> None:
    records = _record(*first), _record(*second)
    wide = widen(*map(entry_of, records))
    for record in records:
        found = compare(wide, record, {}, lambda _: Level.FAIL, str)
        assert not [verdict for verdict in found if verdict.breached]
        assert not [v for v in found if v.status is Status.IMPROVED]


@given(_TALLIES, _TALLIES)
def test_a_tightened_baseline_is_never_wider(before: list[Tally], after: list[Tally]) -> None:
    held, now = entry_of(_record(*before)), entry_of(_record(*after))
    tight = tighten(held, now)
    for name, value in held.metrics.items():
        assert bounds(tight.metrics[name])[1] <= bounds(value)[1]
    assert is_same(tighten(tight, now), tight)


# -- changing what is held -----------------------------------------------------------------------


def test_the_largest_difference_comes_first_with_the_line_of_today() -> None:
    held = _entry(_selects(3), _selects(1, _B))
    now = _entry(_selects(2, site=site(line=8)), _selects(51, _B, site=site(line=9)))
    assert differences(held, now) == [
        f"+50x {_B}  at app/crud.py:9 in rows",
        f"-1x {_A}  at app/crud.py:8 in rows",
    ]
    assert not differences(held, now, "cache")
    # What is done no more is told with the line that it had.
    assert differences(held, _entry(_selects(3))) == [f"-1x {_B}  at {_SITE}"]


def test_where_two_runs_differ_a_range_is_kept_with_a_note() -> None:
    wide = widen(_entry(_selects(3), sql_rows=5), _entry(_selects(4), sql_rows=5))
    assert (wide.metrics["sql_queries"], wide.metrics["sql_rows"]) == ((3, 4), 5)
    assert wide.note == "differed between two runs: sql_queries, sql_roundtrips"
    assert not widen(_entry(_selects(3)), _entry(_selects(3))).note


def test_what_only_one_run_saw_may_be_nothing() -> None:
    wide = widen(_entry(_selects(3)), _entry(_selects(3), _gets(2)))
    assert (wide.metrics["cache_commands"], wide.metrics["sql_queries"]) == ((0, 2), 3)


def test_what_is_measured_on_request_is_not_nothing_where_nobody_asked() -> None:
    wide = widen(_entry(_selects(3), sql_full_scans=2), _entry(_selects(3)))
    assert wide.metrics["sql_full_scans"] == 2
    assert not wide.note


def test_a_range_stays_where_it_covers_what_is_approved() -> None:
    held = widen(_entry(_selects(3)), _entry(_selects(5)))

    assert renew(held, _entry(_selects(4))) is held
    # Approving something else does not make it a fixed number.
    more = renew(held, _entry(_selects(4), sql_rows=7))
    assert (more.metrics["sql_queries"], more.metrics["sql_rows"]) == ((3, 5), 7)
    assert more.note == held.note
    beyond = renew(held, _entry(_selects(9)))
    assert beyond.metrics["sql_queries"] == 9
    assert not beyond.note
    assert renew(None, beyond) is renew(beyond, beyond) is beyond


def test_tightening_takes_the_better_value_and_leaves_ranges() -> None:
    held = _entry(_selects(10), sql_rows=(5, 9), sql_commits=1, cache_hit_ratio=0.5)
    now = _entry(_selects(8), sql_rows=6, sql_commits=2, cache_hit_ratio=0.75)

    tight = tighten(held, now)

    expected = {"sql_queries": 8, "sql_rows": (5, 9), "sql_commits": 1, "cache_hit_ratio": 0.75}
    assert {name: tight.metrics[name] for name in expected} == expected
    assert tight.operations == now.operations


def test_lines_alone_are_no_difference() -> None:
    assert is_same(_entry(_selects(3)), _entry(_selects(3, site=site(line=99))))
    assert not is_same(_entry(_selects(3)), _entry(_selects(3, _B)))
    assert not is_same(_entry(_selects(3)), _entry(_selects(3), sql_rows=1))


def _planned(used: str, **sums: float) -> Tally:
    return tally(_A, facts={"indexes": used}, sums=sums)


def _judged(held: str, now: str, **sums: float) -> Verdict:
    probes = ("sql", "plans", "cache", "http")
    before, after = (
        _record(_planned(used, **more), probes=probes) for used, more in ((held, {}), (now, sums))
    )
    return _compare(entry_of(before), after)["sql_full_scans"]


@pytest.mark.parametrize(
    ("held", "now", "told"),
    [
        ("ix_a", "ix_a", ""),
        ("ix_a", "ix_a, ix_b", ""),
        ("", "ix_a", ""),
        ("ix_a", "", f"{_A} used ix_a when the baseline was recorded and uses none now"),
        (
            "ix_a, ix_b",
            "ix_b",
            f"{_A} used ix_a, ix_b when the baseline was recorded and uses ix_b now",
        ),
    ],
)
def test_an_index_that_is_used_no_more_is_told(held: str, now: str, told: str) -> None:
    verdict = _judged(held, now)
    assert verdict.changes == ((told,) if told else ())
    assert verdict.status is (Status.CHANGED if told else Status.OK)
    assert not verdict.breached


def test_a_scan_is_told_with_the_index_that_it_used() -> None:
    verdict = _judged("ix_a", "", full_scans=1)
    assert verdict.status is Status.REGRESSED
    assert verdict.changes[0].startswith(f"{_A} used ix_a when")


def test_another_index_is_another_entry() -> None:
    held, now = (entry_of(_record(_planned(used))) for used in ("ix_a", ""))
    assert not is_same(held, now)
    assert tighten(held, now).plans == renew(held, now).plans == {_A: ""}
