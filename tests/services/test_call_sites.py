"""Which line a statement is said to come from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from pytest_perfguard import Recorder
from tests.services.models import Resource, User, add_rows
from tests.services.support import Database, candidate, done, here, place, tally_of

ONE = select(User.id).where(User.id == 1)


def test_the_line_of_a_statement_of_core(recorder: Recorder, engine: Engine) -> None:
    with engine.connect() as connection, recorder.measure("block") as measured:
        connection.execute(ONE)  # core
    tally = tally_of(measured, "SELECT")
    assert place(tally) == here("core")
    assert tally.site is not None
    assert tally.site.function == "test_the_line_of_a_statement_of_core"


def test_the_line_of_a_flush_is_the_one_that_made_it_happen(
    recorder: Recorder, session: Session
) -> None:
    with recorder.measure("block") as measured:
        session.add(User(name="n", email="e", bio=""))
        session.scalars(select(User)).all()  # autoflush
    assert place(tally_of(measured, "INSERT")) == here("autoflush")


def test_the_line_of_a_lazy_load_is_the_one_that_reads_the_attribute(
    recorder: Recorder, session: Session, users: int
) -> None:
    with recorder.measure("block") as measured:
        for resource in session.scalars(select(Resource)):
            name = (
                resource.owner  # the attribute
                .name
            )  # fmt: skip
            assert name
    assert place(candidate(measured)) == here("the attribute")


def test_a_call_of_many_lines_is_named_by_its_first_and_last(
    recorder: Recorder, engine: Engine
) -> None:
    with engine.connect() as connection, recorder.measure("block") as measured:
        connection.execute(  # first line
            ONE,
        )  # last line
    site = tally_of(measured, "SELECT").site
    assert site is not None
    assert f"{site.file}:{site.line}" == here("first line")
    assert f"{site.file}:{site.end_line}" == here("last line")


def test_the_line_inside_a_comprehension(recorder: Recorder, session: Session, users: int) -> None:
    with recorder.measure("block") as measured:
        found = [
            session.get(User, key)  # comprehension
            for key in range(1, users + 1)
        ]
    assert all(found)
    tally = candidate(measured)
    assert place(tally) == here("comprehension")
    assert tally.site is not None
    assert tally.site.function == "test_the_line_inside_a_comprehension"


@pytest.mark.parametrize("kind", ["generator", "lambda"])
def test_the_line_inside_other_small_scopes(
    recorder: Recorder, session: Session, users: int, kind: str
) -> None:
    keys = range(1, users + 1)
    with recorder.measure("block") as measured:
        if kind == "generator":
            assert all(session.get(User, key) for key in keys)  # generator
        else:
            assert all(map(lambda key: session.get(User, key), keys))  # noqa: C417  # lambda
    assert place(candidate(measured)) == here(kind)


def load(session: Session, key: int) -> User | None:
    return session.get(User, key)  # helper


def test_a_helper_that_is_called_in_a_loop_is_named_with_its_caller(
    recorder: Recorder, session: Session, users: int
) -> None:
    with recorder.measure("block") as measured:
        for key in range(1, users + 1):
            load(session, key)  # caller
    tally = candidate(measured)
    assert place(tally) == here("helper")
    assert tally.site is not None
    assert tally.site.function == "load"
    caller = "test_a_helper_that_is_called_in_a_loop_is_named_with_its_caller"
    assert tally.site.callers[0] == f"{here('caller')} in {caller}"


def test_two_statements_on_one_line_are_two(recorder: Recorder, engine: Engine) -> None:
    with engine.connect() as connection, recorder.measure("block") as measured:
        for key in range(5):
            connection.execute(ONE), connection.execute(text(f"SELECT {key}"))
    assert sorted(t.operation[:10] for t in done(measured).tallies) == ["SELECT ?", "SELECT use"]


# --- Coroutines


def test_the_line_of_a_coroutine(recorder: Recorder, async_database: Database) -> None:
    engine = async_database.async_engine
    assert engine is not None

    async def main() -> None:
        assert engine is not None
        async with engine.connect() as connection:
            await connection.execute(ONE)  # await
        async with AsyncSession(engine) as session:
            await session.scalars(select(Resource))  # await of a session

    with recorder.measure("block") as measured:
        async_database.run(main())
    assert place(tally_of(measured, "SELECT users")) == here("await")
    assert place(tally_of(measured, "SELECT resources")) == here("await of a session")
    site = tally_of(measured, "SELECT users").site
    assert site is not None
    assert site.function == "test_the_line_of_a_coroutine.main"


async def load_in_coroutine(session: AsyncSession, key: int) -> User | None:
    return await session.get(User, key)  # coroutine helper


def test_a_coroutine_that_is_awaited_in_a_loop_is_named_with_its_caller(
    recorder: Recorder, async_database: Database
) -> None:
    async_database.call(add_rows, async_database.engine, 6)

    async def main() -> None:
        async with AsyncSession(async_database.async_engine) as session:
            for key in range(1, 7):
                await load_in_coroutine(session, key)  # coroutine caller

    with recorder.measure("block") as measured:
        async_database.run(main())
    tally = candidate(measured)
    assert place(tally) == here("coroutine helper")
    assert tally.site is not None
    assert tally.site.callers[0].startswith(here("coroutine caller"))


def test_the_line_inside_run_sync(recorder: Recorder, async_database: Database) -> None:
    async_database.call(add_rows, async_database.engine, 6)

    def load_all(session: Session) -> list[str]:
        return [
            resource.owner.name  # run_sync
            for resource in session.scalars(select(Resource))
        ]

    async def main() -> None:
        async with AsyncSession(async_database.async_engine) as session:
            assert len(await session.run_sync(load_all)) == 6  # caller of run_sync

    with recorder.measure("block") as measured:
        async_database.run(main())
    tally = candidate(measured)
    assert place(tally) == here("run_sync")
    assert tally.site is not None
    assert any(c.startswith(here("caller of run_sync")) for c in tally.site.callers)


def test_the_lines_of_coroutines_that_run_at_once(
    recorder: Recorder, async_database: Database
) -> None:
    engine = async_database.async_engine
    assert engine is not None

    async def first(engine: AsyncEngine) -> None:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))  # first coroutine

    async def second(engine: AsyncEngine) -> None:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))  # second coroutine

    async def main() -> None:
        assert engine is not None
        await asyncio.gather(*(task(engine) for task in [first, second] * 3))

    with recorder.measure("block") as measured:
        async_database.run(main())
    found = {(place(t), t.count) for t in done(measured).tallies if t.operation == "SELECT ?"}
    assert found == {(here("first coroutine"), 3), (here("second coroutine"), 3)}


# --- Threads


def in_pool(function: Callable[[], None]) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(function).result()


def in_thread_of_the_loop(function: Callable[[], None]) -> None:
    asyncio.run(asyncio.to_thread(function))


@pytest.mark.parametrize("run", [in_pool, in_thread_of_the_loop])
def test_the_line_in_another_thread(
    recorder: Recorder, sync_database: Database, run: Callable[[Callable[[], None]], None]
) -> None:
    def work() -> None:
        connection: Connection
        with sync_database.engine.connect() as connection:
            connection.execute(ONE)  # thread

    with recorder.measure("block") as measured:
        run(work)
    tally = tally_of(measured, "SELECT")
    assert place(tally) == here("thread")
    assert tally.count == 1


def test_a_function_of_the_library_that_is_run_in_a_thread_has_no_line(
    recorder: Recorder, sync_database: Database
) -> None:
    with (
        sync_database.engine.connect() as connection,
        ThreadPoolExecutor(1) as pool,
        recorder.measure("block") as measured,
    ):
        results: list[Any] = list(pool.map(connection.execute, [text("SELECT 1")] * 2))
        for result in results:
            result.close()
    tally = tally_of(measured, "SELECT ?")
    assert tally.site is None
    assert tally.count == 2
