"""What a span of very many statements holds."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy.engine import Connection

from pytest_perfguard import Recorder
from pytest_perfguard.spans import MAX_MOMENTS, MAX_TALLIES
from tests.services.support import Database, done

MANY = 100_000
# Caches and what is known of statements are emptied or renewed at this size, so that what is
# held after one such round and after the next can be compared.
ROUND = 4_096
MIB = 2**20


def run_and_return_growth(run: Callable[[int], None], count: int, last: int = ROUND) -> int:
    """Run so many statements; return by how many bytes the last round made memory grow."""
    for number in range(count - 2 * last):
        run(number)
    tracemalloc.start()
    try:
        for number in range(count - 2 * last, count - last):
            run(number)
        before, _ = tracemalloc.get_traced_memory()
        for number in range(count - last, count):
            run(number)
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


@pytest.fixture
def connection(sqlite_database: Database) -> Iterator[Connection]:
    with sqlite_database.engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")
        yield connection


@pytest.mark.parametrize("where", ["in the text", "as a parameter"])
def test_a_hundred_thousand_statements_of_one_line_are_counted_exactly_in_bounded_memory(
    recorder: Recorder, connection: Connection, where: str
) -> None:
    def run(number: int) -> None:
        if where == "in the text":
            connection.exec_driver_sql(f"SELECT {number} WHERE 'a literal {number}' = ''")
        else:
            connection.exec_driver_sql("SELECT ? WHERE 1 = 0", (number,))

    with recorder.measure("block") as measured:
        growth = run_and_return_growth(run, MANY)
    assert growth < MIB
    assert measured["sql_queries"] == measured["sql_roundtrips"] == MANY
    assert len(done(measured).tallies) == 1
    assert sum(m.count for m in done(measured).timeline) + done(measured).timeline_dropped == MANY
    assert measured["sql_n_plus_one"] == 1
    assert measured["sql_duplicates"] == 0


def test_different_statements_without_end_are_counted_exactly_in_bounded_memory(
    recorder: Recorder, connection: Connection
) -> None:
    def run(number: int) -> None:
        connection.exec_driver_sql(f"SELECT 1 AS column_{number} WHERE 1 = 0")

    with recorder.measure("block") as measured:
        growth = run_and_return_growth(run, 3 * ROUND)
    assert len(done(measured).tallies) <= MAX_TALLIES + 1
    assert len(done(measured).timeline) <= MAX_MOMENTS
    assert measured["sql_queries"] == measured["sql_roundtrips"] == 3 * ROUND
    assert measured["sql_duplicates"] == 0
    assert growth < MIB


def test_very_long_statements_are_not_kept(recorder: Recorder, connection: Connection) -> None:
    # The driver holds the last 128 itself.
    count, length = 1_000, 50_000
    tracemalloc.start()
    try:
        with recorder.measure("block") as measured:
            for number in range(count):
                literal = f"{number:05}" * (length // 5)
                connection.exec_driver_sql(f"SELECT 1 WHERE '{literal}' = ''")
            held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert measured["sql_queries"] == count
    assert measured["sql_duplicates"] == 0
    assert held < count * length / 4


def test_blocks_without_end_are_added_up_in_bounded_memory(
    recorder: Recorder, connection: Connection
) -> None:
    def run(number: int) -> None:
        with recorder.measure(f"block {number}"):
            connection.exec_driver_sql("SELECT ? WHERE 1 = 0", (number,))

    with recorder.measure("outer") as measured:
        growth = run_and_return_growth(run, 3_000, 1_000)
    assert growth < MIB
    assert measured["sql_queries"] == 3_000
    assert sum(child.calls for child in done(measured).children) == 3_000
    assert measured["sql_n_plus_one"] == 0
