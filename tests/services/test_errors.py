"""Statements that fail or are cancelled."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from sqlalchemy import event, insert, select, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session

from pytest_perfguard import Recorder
from pytest_perfguard.metrics import METRICS
from tests.services.models import User
from tests.services.support import Database, counts, done, here, place, tally_of

SECRETS = {
    "plain": "s3cret-value",
    "single quote": "s3cret'more s3cret",
    "double quote": 's3cret"more s3cret',
    "both quotes": """s3cret'"'more s3cret""",
    "new line": "s3cret\nmore s3cret",
    "parenthesis": "s3cret) more=(s3cret",
    "number": "7351942068",
}


def user(email: str) -> dict[str, str]:
    return {"name": "n", "email": email, "bio": ""}


def assert_counted_once(measured: Any, start: str) -> None:
    assert counts(measured) == {"queries": 1, "roundtrips": 1, "errors": 1}
    failed = tally_of(measured, start)
    assert (failed.count, failed.sums["errors"]) == (1, 1)


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_an_integrity_error_at_a_flush_is_one_failed_statement_without_its_values(
    recorder: Recorder, session: Session, secret: str
) -> None:
    session.execute(insert(User).values(user(secret)))
    session.add(User(**user(secret)))
    with recorder.measure("block") as measured, pytest.raises(IntegrityError):
        session.flush()
    assert_counted_once(measured, "INSERT")
    for part in ("s3cret", "more", "7351942068"):
        assert part not in repr(done(measured).to_dict())


def test_an_integrity_error_is_named_by_what_the_driver_raised(
    recorder: Recorder, engine: Engine, database: Database
) -> None:
    with engine.connect() as connection:
        connection.execute(insert(User), user("a"))
        with recorder.measure("block") as measured, pytest.raises(IntegrityError) as raised:
            connection.execute(insert(User), user("a"))
    error = tally_of(measured, "INSERT").facts["error"]
    if database.is_sqlite:
        assert error == "IntegrityError: UNIQUE constraint failed: users.email"
    else:
        assert error.startswith(f"{type(raised.value.orig).__name__}: ")
        assert "duplicate key value violates unique constraint" in error
    assert_counted_once(measured, "INSERT")


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_a_value_that_the_database_cannot_read_is_not_in_the_error(
    recorder: Recorder, engine: Engine, database: Database, secret: str
) -> None:
    if database.is_sqlite:
        statement, given = "SELECT json(:given)", secret + "{"
    else:
        statement, given = "SELECT CAST(CAST(:given AS TEXT) AS DATE)", secret
    with (
        engine.connect() as connection,
        recorder.measure("block") as measured,
        pytest.raises(DBAPIError),
    ):
        connection.execute(text(statement), {"given": given}).all()
    assert measured["sql_errors"] == 1
    for part in ("s3cret", "more", "7351942068"):
        assert part not in repr(done(measured).to_dict())


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_a_value_of_the_wrong_type_is_not_in_the_error(
    recorder: Recorder, engine: Engine, database: Database, secret: str
) -> None:
    if database.is_sqlite:
        statement, given = "SELECT :given", {secret}
    else:
        statement, given = "SELECT CAST(:given AS DATE)", secret  # type: ignore[assignment] # any
    with (
        engine.connect() as connection,
        recorder.measure("block") as measured,
        pytest.raises(DBAPIError),
    ):
        connection.execute(text(statement), {"given": given}).all()
    assert measured["sql_errors"] == 1
    for part in ("s3cret", "more", "7351942068"):
        assert part not in repr(done(measured).to_dict())


@pytest.mark.parametrize("statement", ["SELECT 1 FROM nowhere", "SELECT no_such_column FROM users"])
def test_bad_sql_is_one_failed_statement_that_says_what_is_missing(
    recorder: Recorder, engine: Engine, statement: str
) -> None:
    missing = "nowhere" if "nowhere" in statement else "no_such_column"
    with (
        engine.connect() as connection,
        recorder.measure("block") as measured,
        pytest.raises(DBAPIError),
    ):
        connection.execute(text(statement))  # the bad statement
    assert_counted_once(measured, "SELECT")
    failed = tally_of(measured, "SELECT")
    assert missing in failed.facts["error"]
    assert place(failed) == here("the bad statement")


def test_a_literal_of_bad_sql_is_not_in_the_error(recorder: Recorder, engine: Engine) -> None:
    with (
        engine.connect() as connection,
        recorder.measure("block") as measured,
        pytest.raises(DBAPIError),
    ):
        connection.exec_driver_sql("SELECT 's3cret' 's3cret-too' 7351942068 FROM")
    assert_counted_once(measured, "SELECT")
    assert "s3cret" not in repr(done(measured).to_dict())
    assert "7351942068" not in repr(done(measured).to_dict())


def test_a_failed_executemany_is_one_failed_statement(recorder: Recorder, engine: Engine) -> None:
    with (
        engine.connect() as connection,
        recorder.measure("block") as measured,
        pytest.raises(IntegrityError),
    ):
        connection.execute(insert(User), [user("a"), user("b"), user("a")])
    assert_counted_once(measured, "INSERT")


def test_a_failed_statement_that_takes_no_parameters_is_one_failed_statement(
    recorder: Recorder, engine: Engine
) -> None:
    with (
        engine.connect() as connection,
        recorder.measure("block") as measured,
        pytest.raises(DBAPIError),
    ):
        connection.exec_driver_sql(
            "SELECT 1 FROM nowhere", execution_options={"no_parameters": True}
        )
    assert_counted_once(measured, "SELECT")


def test_what_never_reaches_the_driver_is_no_statement(
    recorder: Recorder, session: Session
) -> None:
    with recorder.measure("block") as measured, pytest.raises(StatementError):
        session.execute(text("SELECT :given"), {})
    assert counts(measured) == {}


def test_a_failed_statement_in_a_savepoint_leaves_the_rest_to_be_counted(
    recorder: Recorder, session: Session
) -> None:
    with recorder.measure("block") as measured:
        session.execute(insert(User).values(user("a")))
        with pytest.raises(IntegrityError), session.begin_nested():
            session.execute(insert(User).values(user("a")))
        assert len(session.scalars(select(User)).all()) == 1
    assert measured["sql_queries"] == 3
    assert measured["sql_errors"] == 1


def test_the_error_reaches_the_user_as_it_was(recorder: Recorder, engine: Engine) -> None:
    def cause() -> DBAPIError:
        with engine.connect() as connection, pytest.raises(DBAPIError) as raised:
            connection.execute(text("SELECT 1 FROM nowhere WHERE 1 = :given"), {"given": 1})
        return raised.value

    plain = cause()
    with recorder.measure("block"):
        measured = cause()
    assert type(measured) is type(plain)
    assert str(measured) == str(plain)
    assert type(measured.orig) is type(plain.orig)


# --- Cancelled


async def _cancel_blocked_sqlite(engine: AsyncEngine) -> None:
    """Cancel a statement while the database is known to be working on it."""
    started, finish = threading.Event(), threading.Event()

    def block() -> int:
        started.set()
        assert finish.wait(60)
        return 1

    @event.listens_for(engine.sync_engine, "connect")
    def connect(connection: Any, _record: object) -> None:
        connection.run_async(lambda driver: driver.create_function("block", 0, block))

    async def blocked() -> None:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT block()"))

    task = asyncio.create_task(blocked())
    working = asyncio.create_task(asyncio.to_thread(started.wait, 60))
    try:
        await asyncio.wait({task, working}, return_when=asyncio.FIRST_COMPLETED)
        assert started.is_set()
        task.cancel()
    finally:
        # What waits is cancelled already; the connection is only closed when its thread is free.
        finish.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await working


async def _cancel_blocked_postgres(engine: AsyncEngine) -> None:
    async def blocked() -> None:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(735194)"))

    waiting = text(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 735194"
        " AND NOT granted"
    )
    async with engine.connect() as holder:
        await holder.exec_driver_sql("SELECT pg_advisory_xact_lock(735194) IS NULL")
        task = asyncio.create_task(blocked())
        while not await holder.scalar(waiting):
            assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def test_a_cancelled_statement_is_one_failed_statement(
    recorder: Recorder, async_database: Database
) -> None:
    engine = async_database.async_engine
    assert engine is not None
    if async_database.is_sqlite:
        cancel, start = _cancel_blocked_sqlite, "SELECT block()"
    else:
        cancel, start = _cancel_blocked_postgres, "SELECT pg_advisory_xact_lock(?)"
    with recorder.measure("block") as measured:
        async_database.run(cancel(engine))
    found = [t for t in done(measured).tallies if t.operation == start]
    assert [(t.count, t.sums["errors"], t.facts["error"]) for t in found] == [
        (1, 1, "CancelledError")
    ]
    assert METRICS["sql_errors"].measure(done(measured)) == 1


def test_a_measured_block_goes_on_after_a_cancelled_statement(
    recorder: Recorder, async_database: Database
) -> None:
    engine = async_database.async_engine
    assert engine is not None

    async def main() -> None:
        assert engine is not None
        await (
            _cancel_blocked_sqlite(engine)
            if async_database.is_sqlite
            else _cancel_blocked_postgres(engine)
        )
        async with engine.connect() as connection:
            await connection.execute(select(User.id))

    with recorder.measure("block") as measured:
        async_database.run(main())
    after = tally_of(measured, "SELECT users.id")
    assert (after.count, after.sums.get("errors", 0)) == (1, 0)
