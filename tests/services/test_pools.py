"""Connection pools: the peak, waits, and connections that are not given back."""

from __future__ import annotations

import gc
import threading
from contextlib import ExitStack
from contextvars import copy_context
from typing import Any

import pytest
from sqlalchemy import (
    AsyncAdaptedQueuePool,
    NullPool,
    Pool,
    QueuePool,
    StaticPool,
    create_engine,
    text,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from pytest_perfguard import Measurement, MetricError, Recorder
from pytest_perfguard.metrics import METRICS
from pytest_perfguard.reports.evidence import evidence
from pytest_perfguard.units import Unit, parse
from tests.services.support import Database, done, here, place, tally_of


def queue(database: Database) -> type[Pool]:
    return AsyncAdaptedQueuePool if database.is_async else QueuePool


@pytest.mark.parametrize(
    ("size", "overflow", "used", "share"),
    [(4, 0, 1, 0.25), (4, 0, 3, 0.75), (2, 2, 2, 0.5), (2, 2, 4, 1.0), (1, 4, 2, 0.4)],
)
def test_the_peak_is_the_share_of_size_and_overflow(
    recorder: Recorder, database: Database, size: int, overflow: int, used: int, share: float
) -> None:
    engine = database.make_engine(poolclass=queue(database), pool_size=size, max_overflow=overflow)
    with recorder.measure("block") as measured, ExitStack() as stack:
        for _ in range(used):
            stack.enter_context(engine.connect())
    assert measured["pool_peak"] == pytest.approx(share)


def test_connections_that_were_given_back_no_longer_count(
    recorder: Recorder, database: Database
) -> None:
    engine = database.make_engine(poolclass=queue(database), pool_size=4, max_overflow=0)
    with recorder.measure("block") as measured:
        for _ in range(10):
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
    assert measured["pool_peak"] == pytest.approx(0.25)


def test_connections_taken_before_the_block_count(recorder: Recorder, database: Database) -> None:
    engine = database.make_engine(poolclass=queue(database), pool_size=4, max_overflow=0)
    with engine.connect(), engine.connect(), recorder.measure("block") as measured:
        engine.connect().close()
    assert measured["pool_peak"] == pytest.approx(0.75)


def test_each_pool_has_a_peak_of_its_own_and_the_highest_is_told(
    recorder: Recorder, database: Database
) -> None:
    small = database.make_engine(poolclass=queue(database), pool_size=2, max_overflow=0)
    large = database.make_engine(poolclass=queue(database), pool_size=10, max_overflow=0)
    with recorder.measure("block") as measured, ExitStack() as stack:
        stack.enter_context(small.connect())
        for _ in range(3):
            stack.enter_context(large.connect())
    assert measured["pool_peak"] == pytest.approx(0.5)


def test_the_highest_peak_of_blocks_inside_is_the_peak(
    recorder: Recorder, database: Database
) -> None:
    engine = database.make_engine(poolclass=queue(database), pool_size=4, max_overflow=0)
    with (
        recorder.measure("outer") as outer,
        engine.connect(),
        recorder.measure("inner") as inner,
        engine.connect(),
    ):
        engine.connect().close()
    assert inner["pool_peak"] == pytest.approx(0.75)
    assert outer["pool_peak"] == pytest.approx(0.75)
    assert done(outer).peaks["pool_peak"] == pytest.approx(0.25)


def test_concurrent_coroutines_share_a_pool(recorder: Recorder, async_database: Database) -> None:
    import asyncio

    engine = async_database.make_engine(
        poolclass=AsyncAdaptedQueuePool, pool_size=5, max_overflow=0
    )
    async_engine = async_database.async_twin(engine)

    async def main() -> None:
        all_have_one = asyncio.Barrier(3)

        async def work() -> None:
            async with async_engine.connect() as connection:
                await all_have_one.wait()
                await connection.execute(text("SELECT 1"))

        await asyncio.gather(work(), work(), work())

    with recorder.measure("block") as measured:
        async_database.run(main())
    assert measured["pool_peak"] == pytest.approx(0.6)


@pytest.mark.parametrize("poolclass", [NullPool, StaticPool])
def test_a_pool_without_a_limit_is_noted(
    recorder: Recorder, database: Database, poolclass: type[Pool]
) -> None:
    engine = database.make_engine(poolclass=poolclass)
    with recorder.measure("block") as measured, engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    assert "pool_peak" not in measured
    with pytest.raises(MetricError, match="nothing was observed for 'pool_peak'"):
        measured["pool_peak"]
    assert done(measured).notes == (
        f"{poolclass.__name__} has no limit that pool_peak could be a share of",
    )


def test_a_pool_of_unlimited_overflow_is_noted(recorder: Recorder, database: Database) -> None:
    engine = database.make_engine(poolclass=queue(database), pool_size=1, max_overflow=-1)
    with recorder.measure("block") as measured, engine.connect():
        pass
    assert "pool_peak" not in measured
    assert done(measured).notes == (
        "a pool with max_overflow=-1 has no limit that pool_peak could be a share of",
    )


def test_a_pool_of_unlimited_size_is_noted(recorder: Recorder, database: Database) -> None:
    engine = database.make_engine(poolclass=queue(database), pool_size=0, max_overflow=4)
    with recorder.measure("block") as measured, engine.connect():
        pass
    assert "pool_peak" not in measured
    assert len(done(measured).notes) == 1


def test_a_block_that_takes_no_connection_has_no_peak(
    recorder: Recorder, database: Database
) -> None:
    with recorder.measure("block") as measured:
        pass
    assert "pool_peak" not in measured
    assert done(measured).notes == ()


# --- The evidence of a peak


def test_four_of_five_connections_are_eighty_percent_and_their_lines_are_named(
    recorder: Recorder, database: Database
) -> None:
    engine = database.make_engine(poolclass=queue(database), pool_size=3, max_overflow=2)
    with recorder.measure("block") as measured, ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(engine.connect())  # three
        with Session(engine) as session:
            session.execute(text("SELECT 1"))  # one
        engine.connect().close()
    assert measured["pool_peak"] == 0.8
    assert METRICS["pool_peak"].keeps(measured["pool_peak"], parse("80%", Unit.SHARE))
    told = done(measured).facts["pool_peak"].splitlines()
    name = f"{engine.dialect.name}+{engine.dialect.driver}"
    assert told[:3] == [
        f"4 of 5 connections of {name} in use at once, checked out",
        f"    3x at {here('three')} in {FUNCTION}_their_lines_are_named",
        f"    1x at {here('one')} in {FUNCTION}_their_lines_are_named",
    ]
    assert told[3].startswith("    fix: ")
    assert len(told) == 4


FUNCTION = "test_four_of_five_connections_are_eighty_percent_and"


def test_connections_from_before_the_block_are_told_apart(
    recorder: Recorder, sqlite_database: Database
) -> None:
    engine = sqlite_database.make_engine(poolclass=QueuePool, pool_size=4, max_overflow=0)
    with engine.connect(), engine.connect(), recorder.measure("block") as measured:
        engine.connect().close()
    told = done(measured).facts["pool_peak"].splitlines()
    assert told[0].startswith("3 of 4 connections of sqlite+pysqlite ")
    assert told[2] == "    2x before it began, or not opened yet"


def test_of_several_blocks_the_highest_peak_is_explained(
    recorder: Recorder, sqlite_database: Database
) -> None:
    engine = sqlite_database.make_engine(poolclass=QueuePool, pool_size=4, max_overflow=0)
    with recorder.measure("outer") as outer:
        with recorder.measure("high"), engine.connect():
            engine.connect().close()
        with recorder.measure("low"):
            engine.connect().close()
    lines = evidence(done(outer), ["pool_peak"])
    assert lines[0].startswith("2 of 4 connections ")


def test_a_leak_of_before_the_block_is_told_by_its_line(
    recorder: Recorder, sqlite_database: Database
) -> None:
    engine = sqlite_database.make_engine(poolclass=QueuePool, pool_size=4, max_overflow=0)
    with recorder.measure("block") as leaking:
        left = engine.connect()  # left before
    with recorder.measure("block") as measured:
        engine.connect().close()
    left.close()
    assert (leaking["pool_leaks"], measured["pool_leaks"]) == (1, 0)
    told = done(measured).facts["pool_peak"].splitlines()
    assert told[0].startswith("2 of 4 connections of sqlite+pysqlite ")
    assert any(line.startswith(f"    1x at {here('left before')} in ") for line in told)
    assert not any("before it began" in line for line in told)


# --- Waits


def test_a_wait_that_ends_in_a_timeout_is_timed_at_its_line(
    recorder: Recorder, database: Database
) -> None:
    engine = database.make_engine(
        poolclass=queue(database), pool_size=1, max_overflow=0, pool_timeout=0.05
    )
    with recorder.measure("block") as measured, engine.connect():
        assert measured["pool_wait"] == 0
        with pytest.raises(PoolTimeoutError):
            engine.connect()  # waits in vain
    assert measured["pool_wait"] > 0.01
    waited = tally_of(measured, "wait")
    assert place(waited) == here("waits in vain")
    assert waited.sums["waits"] == 1
    assert measured["sql_queries"] == 0


def test_a_thread_that_waits_is_timed_until_it_has_a_connection(
    recorder: Recorder, sync_database: Database
) -> None:
    engine = sync_database.make_engine(poolclass=QueuePool, pool_size=1, max_overflow=0)
    pool: Any = engine.pool

    def work() -> None:
        engine.connect().close()  # waits

    with recorder.measure("block") as measured:
        with engine.connect():
            thread = threading.Thread(target=copy_context().run, args=(work,))
            thread.start()
            while not pool._pool.not_empty._waiters:
                assert thread.is_alive()
        thread.join()
    waited = tally_of(measured, "wait")
    assert waited.sums["waits"] == 1
    assert measured["pool_wait"] > 0
    assert place(waited) == here("waits")
    (line, *_), advice = evidence(done(measured), ["pool_wait"]), "    fix: give connections back"
    assert line.startswith("1x waited for a connection: ")
    assert any(each.startswith(advice) for each in evidence(done(measured), ["pool_wait"]))


def test_a_coroutine_that_waits_is_timed_until_it_has_a_connection(
    recorder: Recorder, async_database: Database
) -> None:
    import asyncio

    engine = async_database.make_engine(
        poolclass=AsyncAdaptedQueuePool, pool_size=1, max_overflow=0
    )
    async_engine = async_database.async_twin(engine)
    pool: Any = engine.pool

    async def work() -> None:
        async with async_engine.connect():  # awaits
            pass

    async def main() -> None:
        async with async_engine.connect():
            task = asyncio.create_task(work())
            while not pool._pool._queue._getters:
                assert not task.done()
                await asyncio.sleep(0)
        await task

    with recorder.measure("block") as measured:
        async_database.run(main())
    waited = tally_of(measured, "wait")
    assert waited.sums["waits"] == 1
    assert place(waited) == here("awaits")
    assert measured["pool_wait"] > 0


def test_to_connect_is_no_wait(recorder: Recorder, database: Database) -> None:
    engine = database.make_engine(poolclass=queue(database), pool_size=1, max_overflow=1)
    with recorder.measure("block") as measured, engine.connect(), engine.connect():
        pass
    with recorder.measure("again") as again, engine.connect(), engine.connect():
        pass
    assert measured["pool_wait"] == again["pool_wait"] == 0
    assert [t.operation for t in done(again).tallies if t.operation.startswith("wait")] == []


def test_the_queue_is_left_as_it_was(sqlite_database: Database) -> None:
    from sqlalchemy.engine import Connection
    from sqlalchemy.util import queue as queues

    def state() -> list[Any]:
        return [vars(queues.Queue)["get"], vars(queues.AsyncAdaptedQueue)["get"], *(
            vars(Connection)[f"_{action}{kind}_impl"]
            for action in ("begin", "commit", "rollback") for kind in ("", "_twophase")
        )]  # fmt: skip

    before = state()
    with Recorder() as recorder:
        assert not set(before) & set(state())
        assert recorder.watchers
        assert recorder.fixtures
    assert state() == before
    assert recorder.watchers == []
    assert recorder.fixtures == []


# --- Leaks


def test_a_connection_that_is_not_closed_is_a_leak_of_its_line(
    recorder: Recorder, database: Database
) -> None:
    engine = database.make_engine(poolclass=queue(database))
    with recorder.measure("block") as measured:
        connection = engine.connect()  # leaks
        connection.execute(text("SELECT 1"))
        engine.connect().close()
    connection.close()
    assert measured["pool_leaks"] == 1
    assert place(tally_of(measured, "connection not given back")) == here("leaks")
    lines = evidence(done(measured), ["pool_leaks"])
    assert lines[0] == "1x checked out a connection that was not given back"
    assert lines[1].startswith(f"    at {here('leaks')} in ")
    assert any("fix: close it: with Session(engine) as session" in line for line in lines)


def test_a_session_that_is_not_closed_is_a_leak_of_the_line_that_used_it_first(
    recorder: Recorder, database: Database
) -> None:
    engine = database.make_engine(poolclass=queue(database))
    with recorder.measure("block") as measured:
        session = Session(engine)
        session.execute(text("SELECT 1"))  # uses it
        session.execute(text("SELECT 2"))
    session.close()
    assert measured["pool_leaks"] == 1
    assert place(tally_of(measured, "connection not given back")) == here("uses it")


def test_an_async_session_that_is_not_closed_is_a_leak(
    recorder: Recorder, async_database: Database
) -> None:
    engine = async_database.make_engine(poolclass=AsyncAdaptedQueuePool)
    async_engine = async_database.async_twin(engine)
    left: list[AsyncSession] = []

    async def main() -> None:
        left.append(AsyncSession(async_engine))
        await left[0].execute(text("SELECT 1"))  # is left
        async with AsyncSession(async_engine) as session:
            await session.execute(text("SELECT 1"))

    with recorder.measure("block") as measured:
        async_database.run(main())
    async_database.run(left[0].close())
    assert measured["pool_leaks"] == 1
    assert place(tally_of(measured, "connection not given back")) == here("is left")


def test_what_is_closed_rolled_back_or_invalidated_is_no_leak(
    recorder: Recorder, database: Database
) -> None:
    engine = database.make_engine(poolclass=queue(database))
    with recorder.measure("block") as measured:
        with Session(engine) as session:
            session.execute(text("SELECT 1"))
        ended = Session(engine)
        ended.execute(text("SELECT 1"))
        ended.rollback()
        with engine.connect() as connection:
            connection.invalidate()
        with engine.begin() as connection:
            connection.execute(text("SELECT 1"))
        with pytest.raises(DBAPIError), Session(engine) as session:
            session.execute(text("SELECT nothing"))
    assert measured["pool_leaks"] == 0


def test_what_garbage_collection_gives_back_in_time_is_no_leak(
    recorder: Recorder, sync_database: Database
) -> None:
    engine = sync_database.make_engine(poolclass=QueuePool)
    with recorder.measure("block") as measured:
        Session(engine).execute(text("SELECT 1"))
        engine.connect()
        gc.collect()
    assert measured["pool_leaks"] == 0


def test_a_session_of_before_the_block_is_no_leak_of_it(
    recorder: Recorder, database: Database
) -> None:
    engine = database.make_engine(poolclass=queue(database))
    session = Session(engine)
    with recorder.measure("block") as measured:
        session.execute(text("SELECT 1"))
    session.close()
    assert measured["pool_leaks"] == 0


def test_what_a_block_hands_on_is_judged_by_the_one_around_it(
    recorder: Recorder, database: Database
) -> None:
    engine = database.make_engine(poolclass=queue(database))
    with recorder.measure("closes") as closes:
        session = Session(engine)
        with recorder.measure("inner"):
            session.execute(text("SELECT 1"))
        session.close()
    with recorder.measure("leaks") as leaks:
        session = Session(engine)
        with recorder.measure("inner") as inner:
            session.execute(text("SELECT 1"))  # handed on
    session.close()
    assert closes["pool_leaks"] == 0
    assert inner["pool_leaks"] == 0
    assert leaks["pool_leaks"] == 1
    assert place(tally_of(leaks, "connection not given back")) == here("handed on")


def test_what_a_registry_of_sessions_holds_is_no_leak(
    recorder: Recorder, database: Database
) -> None:
    engine = database.make_engine(poolclass=queue(database))
    by_thread = scoped_session(sessionmaker(engine))
    by_name = scoped_session(sessionmaker(engine), scopefunc=lambda: "name")
    with recorder.measure("block") as measured:
        by_thread.execute(text("SELECT 1"))
        by_name().execute(text("SELECT 1"))
        by_loop = async_scoped_session(async_sessionmaker(), scopefunc=lambda: "loop")
        by_loop().sync_session.bind = engine
        by_loop().sync_session.execute(text("SELECT 1"))
    by_thread.remove()
    by_name.remove()
    by_loop().sync_session.close()
    assert measured["pool_leaks"] == 0


def test_a_static_pool_leaks_nothing_that_is_closed(recorder: Recorder) -> None:
    engine = create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    with recorder.measure("block") as measured:
        with Session(engine) as outer:
            outer.execute(text("SELECT 1"))
            # No event tells that it has been closed, as another has had the same connection.
            closed = outer.connection().connection
            with recorder.measure("inner"), Session(engine) as inner:
                inner.execute(text("SELECT 1"))
            outer.execute(text("SELECT 1"))
        left = engine.connect()
        assert not closed.is_valid
    assert measured["pool_leaks"] == 1
    left.close()
    engine.dispose()


def test_a_thread_may_still_give_its_connection_back(
    recorder: Recorder, sync_database: Database
) -> None:
    engine = sync_database.make_engine(poolclass=QueuePool)
    has_one, may_end = threading.Event(), threading.Event()

    def work() -> None:
        with engine.connect():
            has_one.set()
            may_end.wait(30)

    with recorder.measure("block") as measured:
        thread = threading.Thread(target=work)
        thread.start()
        assert has_one.wait(30)
    may_end.set()
    thread.join()
    assert measured["pool_leaks"] == 0


def test_a_thread_that_has_ended_gives_nothing_back(
    recorder: Recorder, sync_database: Database
) -> None:
    engine = sync_database.make_engine(poolclass=QueuePool)
    left: list[Any] = []
    with recorder.measure("block") as measured:
        thread = threading.Thread(target=lambda: left.append(engine.connect()))
        thread.start()
        thread.join()
    left[0].close()
    assert measured["pool_leaks"] == 1


def test_a_task_that_still_runs_may_give_its_connection_back(
    recorder: Recorder, async_database: Database
) -> None:
    import asyncio

    engine = async_database.make_engine(poolclass=AsyncAdaptedQueuePool)
    async_engine = async_database.async_twin(engine)
    measured: list[Measurement] = []

    async def main() -> None:
        has_one, may_end = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            async with async_engine.connect():
                has_one.set()
                await may_end.wait()

        with recorder.measure("outer") as outer:
            with recorder.measure("inner") as inner:
                task = asyncio.create_task(work())
                await has_one.wait()
            may_end.set()
            await task
        measured.extend((inner, outer))

    async_database.run(main())
    assert [each["pool_leaks"] for each in measured] == [0, 0]
