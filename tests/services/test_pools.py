"""How much of a connection pool was in use at once."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from sqlalchemy import AsyncAdaptedQueuePool, NullPool, Pool, QueuePool, StaticPool, text

from pytest_perfguard import MetricError, Recorder
from tests.services.support import Database, done


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
