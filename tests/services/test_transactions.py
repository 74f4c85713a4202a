"""Transactions: what leaves the process inside one that has written, the longest, COMMITs in loops.

Requests are sent to a transport that answers by itself, so that they leave the application as far
as it can tell.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import func, insert, select, text
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from pytest_perfguard import Measurement, MetricError, Recorder
from pytest_perfguard.reports.evidence import evidence
from tests.services.models import User
from tests.services.support import Cache, Database, calls, done, here, place, tally_of

NUMBERS = iter(range(10**9))


def user() -> User:
    return User(name="A", email=f"new{next(NUMBERS)}@example.org")


def answer(_request: httpx.Request) -> httpx.Response:
    return httpx.Response(200)


@pytest.fixture
def charge() -> Iterator[Callable[[], object]]:
    """Call another service."""
    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        yield lambda: client.post("http://bank/charges/7")


def wrote(measured: Measurement) -> str:
    return tally_of(measured, "HTTP POST /charges/{id}").facts["wrote"]


# --- Calls inside a transaction that has written


def test_a_request_inside_a_transaction_that_has_written_is_named_with_both_lines(
    recorder: Recorder, engine: Engine, charge: Callable[[], object], users: int
) -> None:
    with recorder.measure("block") as measured, Session(engine) as session:
        session.add(user())
        session.flush()  # writes
        charge()  # calls
        session.commit()
    assert measured["tx_calls"] == 1
    called = tally_of(measured, "HTTP POST /charges/{id}")
    # The line of the lambda is the nearest; the test is where it was called from.
    assert called.site is not None
    assert called.site.callers[0].startswith(here("calls"))
    assert called.facts["wrote"].startswith(f"INSERT users at {here('writes')} in ")
    lines = evidence(done(measured), ["tx_calls"])
    assert lines[0].startswith(
        "1x HTTP POST /charges/{id} inside a transaction that had written: INSERT users at tests/"
    )
    assert "    fix: commit first and call then, or call first and write then" in lines


def test_after_the_commit_or_before_the_first_write_it_is_clean(
    recorder: Recorder, engine: Engine, charge: Callable[[], object], users: int
) -> None:
    with recorder.measure("block") as measured, Session(engine) as session:
        session.scalars(select(User)).all()
        charge()
        session.add(user())
        session.commit()
        charge()
        session.scalars(select(User)).all()
        charge()
        session.add(user())
        session.flush()
        session.rollback()
        charge()
    assert measured["tx_calls"] == 0
    assert measured["http_requests"] == 4


@pytest.mark.parametrize("how", ["autobegin", "begin", "engine"])
def test_core_transactions_are_watched_too(
    recorder: Recorder, engine: Engine, charge: Callable[[], object], users: int, how: str
) -> None:
    row = {"name": "A", "email": "core@example.org", "bio": ""}
    with recorder.measure("block") as measured, ExitStack() as stack:
        connection = stack.enter_context(engine.begin() if how == "engine" else engine.connect())
        if how == "begin":
            connection.begin()
        connection.execute(insert(User), row)
        charge()
        connection.commit()
        charge()
    assert measured["tx_calls"] == 1


def test_what_is_committed_statement_by_statement_holds_nothing(
    recorder: Recorder, postgres_database: Database, charge: Callable[[], object]
) -> None:
    engine = postgres_database.make_engine(isolation_level="AUTOCOMMIT")
    with recorder.measure("block") as measured, Session(engine) as session:
        session.add(user())
        session.flush()
        charge()
        session.commit()
    assert measured["tx_calls"] == 0
    assert "tx_longest" not in measured


def test_a_write_in_another_transaction_does_not_count(
    recorder: Recorder, postgres_database: Database, charge: Callable[[], object]
) -> None:
    engine = postgres_database.engine
    with recorder.measure("block") as measured, Session(engine) as one, Session(engine) as other:
        one.scalars(select(User)).all()
        other.add(user())
        other.commit()
        charge()
    assert measured["tx_calls"] == 0


def test_a_block_is_a_part_of_the_code_around_it(
    recorder: Recorder, engine: Engine, charge: Callable[[], object], users: int
) -> None:
    with recorder.measure("test", "test") as test, Session(engine) as session:
        with recorder.measure("write"):
            session.add(user())
            session.flush()
        charge()
        with recorder.measure("pay") as pay:
            charge()
        assert pay["tx_calls"] == 1
        session.commit()
        charge()
        with recorder.measure("after") as after:
            charge()
        assert after["tx_calls"] == 0
    assert done(test).tallies
    assert tally_of(test, "HTTP POST /charges/{id}").sums["tx_calls"] == 1


@pytest.mark.parametrize("kind", ["request", "task", "call"])
def test_what_a_test_wrote_to_arrange_is_none_of_what_it_calls(
    recorder: Recorder, engine: Engine, charge: Callable[[], object], users: int, kind: str
) -> None:
    with recorder.measure("test", "test") as test, Session(engine) as session:
        session.add(user())
        session.flush()
        with recorder.measure("only calls", kind) as calling:
            charge()
        assert calling["tx_calls"] == 0
        with recorder.measure("writes and calls", kind) as called:
            session.add(user())
            session.flush()  # the endpoint
            charge()
        assert called["tx_calls"] == 1
        assert wrote(called).startswith(f"INSERT users at {here('the endpoint')} in ")
        with recorder.measure("reads and calls", kind) as reading:
            session.scalars(select(User)).all()
            charge()
        assert reading["tx_calls"] == 0
        charge()
        assert test["tx_calls"] == 2
        with recorder.measure("commits and calls", kind) as committing:
            session.add(user())
            session.commit()
            charge()
        assert committing["tx_calls"] == 0
    assert recorder.leaves is None


def test_what_a_request_wrote_is_none_of_the_test_around_it(
    recorder: Recorder, engine: Engine, charge: Callable[[], object], users: int
) -> None:
    with Session(engine) as session, recorder.measure("test", "test") as test:
        with recorder.measure("request", "request"):
            session.add(user())
            session.flush()
        assert recorder.leaves is None
        charge()
    assert test["tx_calls"] == 0


@pytest.mark.parametrize("before", ["flush", "read"])
@pytest.mark.parametrize("mode", ["create_savepoint", "savepoint by hand", "an engine"])
def test_a_transaction_that_a_fixture_began_is_found(
    recorder: Recorder,
    sync_database: Database,
    charge: Callable[[], object],
    mode: str,
    before: str,
) -> None:
    engine = sync_database.engine
    with ExitStack() as stack:
        session = stack.enter_context(
            Session(engine) if mode == "an engine" else rolled_back(engine, mode)
        )
        if before == "flush":
            session.add(user())
            session.flush()
        else:
            session.execute(text("SELECT 1"))
        with recorder.measure("test", "test") as measured:
            charge()
            assert measured["tx_calls"] == 0
            session.add(user())
            session.flush()
            charge()
            assert measured["tx_calls"] == 1
            session.commit()
            charge()
            assert measured["tx_calls"] == 1
            session.add(user())
            session.flush()
            charge()
            assert measured["tx_calls"] == 2
            session.rollback()
            charge()
        assert measured["tx_calls"] == 2
        with recorder.measure("next", "test") as after:
            charge()
        assert after["tx_calls"] == 0
        session.rollback()


def test_a_session_that_several_tests_share_ends_what_each_of_them_wrote(
    recorder: Recorder, sync_database: Database, charge: Callable[[], object]
) -> None:
    with rolled_back(sync_database.engine, "create_savepoint") as session:
        for number in range(2):
            with recorder.measure(f"test {number}", "test") as first:
                with recorder.measure("block"):
                    session.add(user())
                    session.flush()
                charge()
            assert first["tx_calls"] == 1
        with recorder.measure("test", "test") as last:
            session.add(user())
            session.flush()
            session.commit()
            charge()
        assert last["tx_calls"] == 0
        assert recorder.leaves is None


LOCKS = [
    "SELECT name FROM users WHERE id = 1 FOR UPDATE",
    "SELECT name FROM users WHERE id = 1 FOR SHARE SKIP LOCKED",
    "SELECT name FROM users WHERE id = 1 FOR NO KEY UPDATE",
    "SELECT pg_advisory_xact_lock(77)",
    "SELECT pg_try_advisory_xact_lock_shared(77)",
    "LOCK TABLE users IN SHARE MODE",
    "EXPLAIN ANALYZE UPDATE users SET bio = 'b'",
    "EXPLAIN (ANALYZE, COSTS OFF) DELETE FROM users WHERE id = -1",
    "SELECT * INTO TEMP TABLE copied FROM users",
    "SELECT 1; UPDATE users SET bio = 'b' WHERE id = 1",
]


@pytest.mark.parametrize("statement", LOCKS)
@pytest.mark.usefixtures("users")
def test_a_read_that_locks_is_held_to_the_end_of_the_transaction(
    recorder: Recorder,
    postgres_database: Database,
    charge: Callable[[], object],
    statement: str,
) -> None:
    with recorder.measure("block") as measured, postgres_database.engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")
        charge()
        connection.exec_driver_sql(statement)
        charge()
        connection.rollback()
        charge()
    assert measured["tx_calls"] == 1


def test_a_row_that_is_loaded_for_update_is_locked(
    recorder: Recorder, postgres_database: Database, charge: Callable[[], object], users: int
) -> None:
    with recorder.measure("block") as measured, Session(postgres_database.engine) as session:
        session.get(User, 1, with_for_update=True)  # locks
        charge()
        session.rollback()
        charge()
    assert measured["tx_calls"] == 1
    assert wrote(measured).startswith(f"SELECT users (takes a lock) at {here('locks')} in ")


def test_a_connection_that_was_thrown_away_holds_nothing(
    recorder: Recorder, sync_database: Database, charge: Callable[[], object]
) -> None:
    engine = sync_database.engine
    with recorder.measure("block") as measured:
        engine.connect().execute(insert(User), {"name": "A", "email": "a@b.c", "bio": ""})
        gc.collect()
        charge()
    assert measured["tx_calls"] == 0


def test_a_thread_that_no_context_leads_to_is_watched_too(
    recorder: Recorder, sync_database: Database, charge: Callable[[], object]
) -> None:
    def work() -> None:
        with Session(sync_database.engine) as session:
            session.add(user())
            session.flush()
            charge()
            session.commit()
            charge()

    with recorder.measure("block") as measured, recorder.measure("request", "request"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert measured["tx_calls"] == 1


def test_nothing_is_asked_where_nothing_has_written(
    recorder: Recorder, engine: Engine, users: int
) -> None:
    asked = []
    with recorder.measure("block"), Session(engine) as session:
        asked.append(recorder.leaves)
        session.scalars(select(User)).all()
        asked.append(recorder.leaves)
        session.add(user())
        session.flush()
        assert recorder.leaves is not None
        session.commit()
        asked.append(recorder.leaves)
        session.add(user())
        session.flush()
    asked.append(recorder.leaves)
    assert asked == [None] * 4


def test_what_another_probe_tells_of_is_counted(
    recorder: Recorder, engine: Engine, users: int
) -> None:
    with recorder.measure("block") as measured, Session(engine) as session:
        session.add(user())
        session.flush()
        assert recorder.leaves is not None
        recorder.leaves("task", "mails.send", None)
        session.commit()
    assert measured["tx_calls"] == 1
    assert evidence(done(measured), ["tx_calls"])[0].startswith("1x task mails.send inside a ")


def test_cache_round_trips_count_one_for_a_pipeline(
    recorder: Recorder, sqlite_database: Database, sync_cache: Cache
) -> None:
    key = sync_cache.key("user")
    sync_cache.call(calls(("get", key)))
    with recorder.measure("block") as measured, Session(sqlite_database.engine) as session:
        sync_cache.call(calls(("get", key)))
        session.add(user())
        session.flush()
        sync_cache.call(calls(("get", key), ("set", key, "A", {"ex": 60})))
        pipe = sync_cache.client.pipeline(transaction=False)
        pipe.get(key)
        pipe.get(key)
        pipe.execute()  # pipes
        session.commit()
        sync_cache.call(calls(("get", key)))
    assert measured["tx_calls"] == 3
    assert place(tally_of(measured, "cache pipeline")) == here("pipes")


def test_an_asyncio_cache_counts_too(
    recorder: Recorder, async_database: Database, async_cache: Cache
) -> None:
    twin = async_database.async_engine
    key = async_cache.key("user")
    async_cache.call(calls(("get", key)))

    async def main() -> None:
        async with AsyncSession(twin) as session:
            await async_cache.client.get(key)
            session.add(user())
            await session.flush()
            await async_cache.client.get(key)  # asks
            await session.commit()
            await async_cache.client.get(key)

    with recorder.measure("block") as measured:
        # The cache belongs to the loop that it was used in first.
        async_cache.run(main())
        async_cache.run(twin.dispose()) if twin is not None else None
    assert measured["tx_calls"] == 1
    (called,) = [t for t in done(measured).tallies if t.sums.get("tx_calls")]
    assert place(called) == here("asks")


def test_tasks_that_run_at_the_same_time_are_told_apart(
    recorder: Recorder, async_database: Database
) -> None:
    import asyncio

    twin = async_database.async_engine
    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))

    async def main() -> None:
        has_written, may_commit = asyncio.Event(), asyncio.Event()

        async def write() -> None:
            async with AsyncSession(twin) as session:
                session.add(user())
                await session.flush()
                has_written.set()
                await may_commit.wait()
                await session.commit()

        async def call() -> None:
            await has_written.wait()
            await client.get("http://bank/")
            may_commit.set()

        await asyncio.gather(write(), call())
        async with AsyncSession(twin) as session:
            session.add(user())
            await session.flush()
            await asyncio.gather(client.get("http://bank/"), client.get("http://bank/"))
            await session.commit()
        await client.aclose()

    with recorder.measure("block") as measured:
        async_database.run(main())
    assert measured["http_requests"] == 3
    # Those that were awaited by the task that had written.
    assert measured["tx_calls"] == 2


# --- Tests that roll everything back


def test_an_async_session_inside_an_outer_transaction_ends_what_it_began(
    recorder: Recorder, async_database: Database, charge: Callable[[], object]
) -> None:
    twin = async_database.async_engine
    assert twin is not None
    found: list[float] = []

    async def main() -> None:
        async with twin.connect() as connection:
            outer = await connection.begin()
            async with AsyncSession(
                connection, join_transaction_mode="create_savepoint"
            ) as session:
                with recorder.measure("block") as measured:
                    session.add(user())
                    await session.commit()
                    charge()
                    found.append(measured["tx_calls"])
                    session.add(user())
                    await session.flush()
                    charge()
                    found.append(measured["tx_calls"])
            await outer.rollback()

    async_database.run(main())
    assert found == [0, 1]


@contextmanager
def rolled_back(engine: Engine, mode: Any) -> Iterator[Session]:
    """A session that takes a savepoint for its transaction, as fixtures make it."""
    with engine.connect() as connection:
        outer = connection.begin()
        if mode == "savepoint by hand":
            connection.begin_nested()
            session = Session(connection)
        else:
            session = Session(connection, join_transaction_mode=mode)
        yield session
        session.close()
        if outer.is_active:
            outer.rollback()


MODES = ["create_savepoint", "rollback_only", "control_fully", "savepoint by hand"]


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_the_commit_of_a_session_inside_an_outer_transaction_ends_what_it_began(
    recorder: Recorder,
    postgres_database: Database,
    charge: Callable[[], object],
    mode: str,
    inside: bool,
) -> None:
    with ExitStack() as stack:
        engine = postgres_database.engine
        if inside:
            measured = stack.enter_context(recorder.measure("block"))
        session = stack.enter_context(rolled_back(engine, mode))
        if not inside:
            measured = stack.enter_context(recorder.measure("block"))
        session.add(user())
        session.commit()
        charge()
        assert measured["tx_calls"] == 0
        session.add(user())
        session.flush()
        charge()
        assert measured["tx_calls"] == 1
        session.rollback()
        charge()
        assert measured["tx_calls"] == 1
        session.add(user())
        with session.begin_nested():
            session.add(user())
        charge()
        assert measured["tx_calls"] == 2
        session.commit()
        charge()
        assert measured["tx_calls"] == 2
        assert measured["http_requests"] == 5


def test_the_outer_transaction_of_a_fixture_is_none_of_the_block(
    recorder: Recorder, postgres_database: Database, charge: Callable[[], object]
) -> None:
    with rolled_back(postgres_database.engine, "create_savepoint") as session:
        session.add(user())
        session.flush()
        with recorder.measure("block") as measured:
            charge()
    assert measured["tx_calls"] == 0
    assert "tx_longest" not in measured


def test_a_savepoint_of_the_code_does_not_end_the_transaction(
    recorder: Recorder, postgres_database: Database, charge: Callable[[], object]
) -> None:
    with recorder.measure("block") as measured, Session(postgres_database.engine) as session:
        with session.begin_nested():
            session.add(user())
        charge()
        session.commit()
        charge()
    assert measured["tx_calls"] == 1


# --- The longest transaction


def test_the_longest_transaction_is_that_of_its_line(
    recorder: Recorder, engine: Engine, charge: Callable[[], object], users: int
) -> None:
    with recorder.measure("block") as measured, Session(engine) as session:
        assert "tx_longest" not in measured
        session.scalar(select(func.count()).select_from(User))
        session.rollback()
        first = measured["tx_longest"]
        session.scalars(select(User)).all()  # begins
        for _ in range(100):
            session.scalar(select(func.count()).select_from(User))
        charge()
        session.rollback()
    assert 0 < first < measured["tx_longest"] < done(measured).seconds
    told = done(measured).facts["tx_longest"].splitlines()
    assert told[0].startswith("a transaction was open for ")
    assert told[1].startswith(f"    at {here('begins')} in ")
    assert told[2] == "    meanwhile: 101x SELECT users · POST /charges/{id}"
    assert evidence(done(measured), ["tx_longest"])[0] == done(measured).facts["tx_longest"]


def test_a_transaction_that_is_still_open_counts_to_the_end_of_the_block(
    recorder: Recorder, engine: Engine, users: int
) -> None:
    session = Session(engine)
    with recorder.measure("block") as measured:
        session.scalars(select(User)).all()
    session.close()
    assert 0 < measured["tx_longest"] < done(measured).seconds
    with recorder.measure("next") as after:
        pass
    assert "tx_longest" not in after


def test_without_a_transaction_nothing_is_known(recorder: Recorder) -> None:
    with recorder.measure("block") as measured:
        pass
    with pytest.raises(MetricError, match="nothing was observed for 'tx_longest'"):
        measured["tx_longest"]


def test_a_transaction_in_two_phases_is_one_too(
    recorder: Recorder, postgres_database: Database, charge: Callable[[], object]
) -> None:
    with recorder.measure("block") as measured, postgres_database.engine.connect() as connection:
        transaction = connection.begin_twophase()
        connection.execute(insert(User), {"name": "A", "email": "a@b.c", "bio": ""})
        charge()
        transaction.rollback()
        charge()
    assert measured["tx_calls"] == 1
    assert measured["tx_longest"] > 0


# --- COMMITs in loops


def test_a_loop_that_commits_row_by_row_is_named_and_told_to_commit_once(
    recorder: Recorder, engine: Engine, users: int
) -> None:
    with recorder.measure("block") as measured, Session(engine) as session:
        session.add(user())
        session.commit()  # once
        for _ in range(6):
            session.add(user())
            session.commit()  # in a loop
    assert measured["sql_commits"] == 7
    lines = evidence(done(measured), ["sql_commits"])
    assert lines[0] == "6x COMMIT"
    assert lines[1].startswith(f"    at {here('in a loop')} in ")
    loop, once = (lines.index(f"{count}x COMMIT") for count in (6, 1))
    assert any(line.startswith("    fix: commit once, after the loop") for line in lines[loop:once])
    assert lines[once + 1].startswith(f"    at {here('once')} in ")
    assert not any("after the loop" in line for line in lines[once:])


def test_a_few_commits_are_no_loop(recorder: Recorder, engine: Engine, users: int) -> None:
    with recorder.measure("block") as measured, Session(engine) as session:
        for _ in range(4):
            session.execute(text("SELECT 1"))
            session.commit()
    lines = evidence(done(measured), ["sql_commits"])
    assert "    fix: commit once, when all of it is done" in lines
