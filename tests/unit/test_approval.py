"""What is written when a session ends, without pytest: records go in, files and lines come out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from pytest_perfguard.approval import Gone, changes, prune, record_all, tighten_all
from pytest_perfguard.baseline_files import Tests, read, render
from pytest_perfguard.baselines import Entry
from pytest_perfguard.metrics import METRICS, measure_all
from pytest_perfguard.model import Level, Record, Rule, Status, Verdict
from tests.unit.build import span, tally

_FILE = "__perfguard__/test_x.json"
Held = Callable[[], Tests]


@pytest.fixture
def held(tmp_path: Path) -> Held:
    """Read what is recorded."""
    return lambda: read(tmp_path / _FILE).tests


def _record(count: int = 3, test: str = "test_a", **fields: Any) -> Record:
    root = span(*([tally(count=count, sums={"roundtrips": count})] if count else []))
    return Record(
        **{
            "nodeid": f"test_x.py::{test}",
            "outcome": "passed",
            "span": root,
            "metrics": measure_all(root),
            "engines": {"1": "sqlite+pysqlite"} if count else {},
            "baseline": _FILE,
            **fields,
        }
    )


def _improved(record: Record) -> Record:
    better = Verdict("sql_queries", "", 1, 3, Status.IMPROVED, Level.FAIL, "", rule=Rule.BASELINE)
    return replace(record, verdicts=(better,))


def test_what_is_recorded_is_told_like_a_diff(tmp_path: Path, held: Held) -> None:
    first = record_all(tmp_path, [_record(3)])
    assert first.lines == [
        "baselines recorded:",
        f"  {_FILE}",
        "    test_a",
        "      new: sql_queries 3, sql_roundtrips 3",
    ]
    assert record_all(tmp_path, [_record(3)]).lines == ["baselines recorded: 1 unchanged"]

    more = record_all(tmp_path, [_record(51), _record(1, "test_b")])

    assert more.lines == [
        "baselines recorded:",
        f"  {_FILE}",
        "    test_a",
        "      sql_queries     3 -> 51",
        "      sql_roundtrips  3 -> 51",
        "      +48x SELECT a FROM t  at app/crud.py:7 in rows",
        "    test_b",
        "      new: sql_queries 1, sql_roundtrips 1",
    ]
    assert set(held()) == {"test_a", "test_b"}
    assert not more.problems


def test_what_did_not_run_is_kept(tmp_path: Path, held: Held) -> None:
    record_all(tmp_path, [_record(3), _record(4, "test_b")])
    record_all(tmp_path, [_record(5)])
    assert held()["test_b"]["sqlite"].metrics["sql_queries"] == 4
    assert held()["test_a"]["sqlite"].metrics["sql_queries"] == 5


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"outcome": "failed"}, True),
        ({"errors": ("a mistake",)}, True),
        ({"outcome": "skipped"}, False),
        ({"baseline": ""}, False),
    ],
)
def test_what_did_not_pass_is_not_recorded(
    tmp_path: Path, held: Held, fields: dict[str, Any], told: bool
) -> None:
    approval = record_all(tmp_path, [_record(3, **fields)])
    assert not held()
    lines = ["  not recorded, because it failed: test_x.py::test_a"] if told else []
    assert approval.lines == lines


def test_a_test_has_an_entry_for_each_database(tmp_path: Path, held: Held) -> None:
    record_all(tmp_path, [_record(3)])
    record_all(tmp_path, [_record(4, engines={"1": "postgresql+psycopg"})])
    assert set(held()["test_a"]) == {"sqlite", "postgresql"}


def test_a_test_that_begins_to_use_a_database_has_no_entry_without_one(
    tmp_path: Path, held: Held
) -> None:
    root = span(tally("GET a", probe="cache", sums={"roundtrips": 1}))
    record_all(tmp_path, [replace(_record(0), span=root, metrics=measure_all(root))])
    assert set(held()["test_a"]) == {"no database"}
    record_all(tmp_path, [_record(3)])
    assert set(held()["test_a"]) == {"sqlite"}


def test_a_test_in_which_nothing_is_counted_any_more_has_no_entry(
    tmp_path: Path, held: Held
) -> None:
    record_all(tmp_path, [_record(3), _record(3, "test_b")])
    approval = record_all(tmp_path, [_record(0)])
    assert set(held()) == {"test_b"}
    assert approval.lines[-2:] == [
        "    test_a",
        "      removed: nothing is counted in it any more",
    ]


def test_two_runs_that_differ_are_recorded_as_a_range(tmp_path: Path, held: Held) -> None:
    approval = record_all(tmp_path, [_record(3)], {"test_x.py::test_a": _record(5)})
    assert held()["test_a"]["sqlite"].metrics["sql_queries"] == (3, 5)
    assert approval.lines[-2:] == [
        "      new: sql_queries 3 to 5, sql_roundtrips 3 to 5",
        "      differed between two runs: sql_queries, sql_roundtrips",
    ]


def test_an_update_that_a_range_covers_leaves_it(tmp_path: Path, held: Held) -> None:
    record_all(tmp_path, [_record(3)], {"test_x.py::test_a": _record(5)})
    before = (tmp_path / _FILE).read_bytes()

    assert record_all(tmp_path, [_record(4)]).lines == ["baselines recorded: 1 unchanged"]
    assert (tmp_path / _FILE).read_bytes() == before
    # Two runs that agree say that it does not vary any more.
    record_all(tmp_path, [_record(4)], {"test_x.py::test_a": _record(4)})
    assert held()["test_a"]["sqlite"] == replace(
        held()["test_a"]["sqlite"], note="", metrics=_of(4)
    )


def _of(count: int) -> dict[str, Any]:
    held = (m for m in METRICS.values() if m.probe == "sql" and m.stored and not m.on_request)
    zeros = {metric.name: 0 for metric in held}
    return {**zeros, "sql_queries": count, "sql_roundtrips": count}


def test_what_did_not_pass_a_second_time_is_not_recorded(tmp_path: Path, held: Held) -> None:
    approval = record_all(tmp_path, [_record(3)], {})
    assert not held()
    assert approval.lines[-1] == "      not recorded: it did not pass when it was run once more"


def test_the_bytes_do_not_depend_on_the_order(tmp_path: Path) -> None:
    records = [_record(n, f"test_{n}[{chr(200 + n)}]") for n in range(1, 30)]
    record_all(tmp_path, records)
    expected = (tmp_path / _FILE).read_bytes()
    for seed in range(5):
        (tmp_path / _FILE).unlink()
        Random(seed).shuffle(records)  # noqa: S311
        record_all(tmp_path, records)
        assert (tmp_path / _FILE).read_bytes() == expected


def test_a_broken_file_is_a_problem_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / _FILE
    path.parent.mkdir()
    path.write_text("{")
    other = "__perfguard__/test_y.json"
    records = [_record(3), _record(3, baseline=other)]

    approval = record_all(tmp_path, records)
    approval.problems += tighten_all(tmp_path, map(_improved, records[:1])).problems
    approval.problems += prune(tmp_path, [Gone(path, "test_a", "is gone")]).problems

    assert len(approval.problems) == 3
    for problem in approval.problems:
        assert problem.startswith(f"{_FILE} is not JSON: ")
        assert "restore it from version control" in problem
    assert path.read_text() == "{"
    assert (tmp_path / other).exists()
    assert "test_x" not in "\n".join(approval.lines)


def test_what_cannot_be_written_is_not_told_as_recorded(tmp_path: Path) -> None:
    (tmp_path / "__perfguard__").write_text("")
    approval = record_all(tmp_path, [_record(3)])
    assert not approval.lines
    assert "cannot be" in approval.problems[0]


def test_a_better_test_tightens_its_baseline_once(tmp_path: Path, held: Held) -> None:
    record_all(tmp_path, [_record(3)])

    approval = tighten_all(tmp_path, [_improved(_record(1))])

    assert held()["test_a"]["sqlite"].metrics["sql_queries"] == 1
    assert approval.lines[:5] == [
        "baselines tightened:",
        f"  {_FILE}",
        "    test_a",
        "      sql_queries     3 -> 1",
        "      sql_roundtrips  3 -> 1",
    ]
    # Another session has written the same meanwhile.
    assert tighten_all(tmp_path, [_improved(_record(1))]).lines == [
        "baselines tightened: 1 unchanged"
    ]


@pytest.mark.parametrize(
    "fields", [{"outcome": "failed"}, {"verdicts": ()}], ids=["failed", "not better"]
)
def test_what_is_not_better_or_has_failed_tightens_nothing(
    tmp_path: Path, held: Held, fields: dict[str, Any]
) -> None:
    record_all(tmp_path, [_record(3)])
    approval = tighten_all(tmp_path, [replace(_improved(_record(1)), **fields)])
    assert not approval.lines
    assert held()["test_a"]["sqlite"].metrics["sql_queries"] == 3


def test_what_is_gone_is_taken_out(tmp_path: Path, held: Held) -> None:
    record_all(tmp_path, [_record(3), _record(3, "test_b")])
    path = tmp_path / _FILE

    approval = prune(tmp_path, [Gone(path, "test_a", "is gone")])

    assert approval.lines == ["baselines removed:", f"  {_FILE}: test_a is gone"]
    assert set(held()) == {"test_b"}
    prune(tmp_path, [Gone(path, "test_b", "is gone")])
    assert not path.exists()
    assert not prune(tmp_path, []).lines


def test_changes_are_as_few_as_can_be_read() -> None:
    operations = {"sql": {f"SELECT {n}": {"app.py:1 in f": 1} for n in range(20)}}
    lines = changes(Entry({"sql_queries": 0}), Entry({"sql_queries": 20}, operations))
    assert lines[0] == "      sql_queries  0 -> 20"
    assert len(lines) == 10
    assert lines[-1] == "      ... and 12 more"


def test_a_value_that_comes_or_goes_is_told() -> None:
    lines = changes(Entry({"sql_rows": 2}), Entry({"sql_queries": 1}))
    assert lines == ["      sql_queries  - -> 1", "      sql_rows     2 -> -"]


def test_a_file_that_would_not_change_is_not_written(
    tmp_path: Path, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_all(tmp_path, [_record(3)])
    text = (tmp_path / _FILE).read_text("utf-8")
    assert render(held()) == text

    def refuse(*_: object) -> None:
        pytest.fail("it was written")

    monkeypatch.setattr("pytest_perfguard.approval.write", refuse)
    record_all(tmp_path, [_record(3)])
    record_all(tmp_path, [_record(3)], {})
