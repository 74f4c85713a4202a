"""Engines, threads, and other listeners of the same events."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import event, insert, select, text
from sqlalchemy.engine import Connection, Dialect, Engine
from sqlalchemy.engine import cursor as cursors
from sqlalchemy.engine.default import DefaultDialect, DefaultExecutionContext
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.pool import Pool

from pytest_perfguard import Recorder, Settings
from tests.services.models import Note, User
from tests.services.support import ROOT, Database, counts, done, tally_of

ONE = text("SELECT 1")


def run(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(ONE).all()


# --- Which engines are heard


def test_engines_made_before_and_after_the_recorder_are_heard(database: Database) -> None:
    before = database.make_engine()
    run(before)
    with Recorder(Settings(root=ROOT)) as recorder:
        after = database.make_engine()
        with recorder.measure("block") as measured:
            run(before)
            during = database.make_engine()
            run(after)
            run(during)
    assert measured["sql_queries"] == 3
    assert tally_of(measured, "SELECT ?").count == 3


def test_a_clone_of_an_engine_with_other_options_counts_once(
    recorder: Recorder, engine: Engine
) -> None:
    clone = engine.execution_options(stream_results=False)
    event.listen(clone, "before_cursor_execute", lambda *_: None)
    with recorder.measure("block") as measured:
        run(engine)
        run(clone)
        run(clone.execution_options(logging_token="x"))
    assert measured["sql_queries"] == 3


def test_every_engine_is_named_by_dialect_and_driver(
    recorder: Recorder, database: Database, sqlite_database: Database
) -> None:
    with recorder.measure("block") as measured:
        run(database.engine)
        run(sqlite_database.engine)
    assert measured["sql_queries"] == 2
    dialect, driver = database.engine.dialect.name, database.engine.driver
    assert sorted(recorder.engines.values()) == sorted(["sqlite+pysqlite", f"{dialect}+{driver}"])


def test_what_names_an_engine_holds_no_password(
    recorder: Recorder, postgres_database: Database
) -> None:
    url = postgres_database.url.set(password="s3cret")
    with recorder.measure("block"):
        run(postgres_database.make_engine(url=url))
    assert "s3cret" not in repr(recorder.engines)


def test_nothing_is_counted_outside_a_block(recorder: Recorder, engine: Engine) -> None:
    run(engine)
    with recorder.measure("block") as measured:
        pass
    run(engine)
    assert counts(measured) == {}


# --- At once


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Let threads take turns as often as the interpreter can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_statements_of_many_threads_are_all_counted(
    recorder: Recorder, sync_database: Database, eager_switching: None
) -> None:
    threads, each = 8, 150
    engine = sync_database.make_engine(pool_size=threads, max_overflow=0)
    together = Barrier(threads)

    def work(number: int) -> None:
        with engine.connect() as connection:
            together.wait()
            for turn in range(each):
                connection.execute(select(User.id).where(User.id == turn)).all()
                connection.execute(text(f"SELECT {number} AS thread_{number}")).all()

    with recorder.measure("block") as measured, ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    total = threads * each
    assert measured["sql_queries"] == measured["sql_roundtrips"] == 2 * total
    assert measured["sql_rows"] == total
    assert measured["pool_peak"] == 1
    shared = tally_of(measured, "SELECT users.id")
    assert (shared.count, shared.distinct) == (total, each)
    assert shared.duplicates == total - each
    own = [t for t in done(measured).tallies if "thread_" in t.operation]
    assert [t.count for t in own] == [each] * threads
    assert sum(moment.count for moment in done(measured).timeline) <= 2 * total


def test_statements_of_many_coroutines_are_all_counted(
    recorder: Recorder, async_database: Database
) -> None:
    tasks, each = 6, 30
    engine = async_database.async_twin(
        async_database.make_engine(pool_size=tasks, max_overflow=0)
        if not async_database.is_sqlite
        else async_database.engine
    )

    async def work() -> None:
        async with engine.connect() as connection:
            for turn in range(each):
                (await connection.execute(select(User.id).where(User.id == turn))).all()

    async def main() -> None:
        await asyncio.gather(*(work() for _ in range(tasks)))

    with recorder.measure("block") as measured:
        async_database.run(main())
    found = tally_of(measured, "SELECT users.id")
    assert measured["sql_queries"] == tasks * each
    assert (found.count, found.distinct, found.duplicates) == (
        tasks * each,
        each,
        tasks * each - each,
    )


# --- Other listeners


@contextmanager
def listening(
    target: Any, name: str, listener: Callable[..., Any], **options: Any
) -> Iterator[None]:
    event.listen(target, name, listener, **options)
    try:
        yield
    finally:
        event.remove(target, name, listener)


class Theirs:
    """A listener of ``do_execute`` and its kin, as other libraries have them."""

    def __init__(self, *, executes: bool) -> None:
        self.executes = executes
        self.heard: list[str] = []

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any) -> Any:
        self.heard.append(statement)
        if self.executes:
            cursor.execute(statement, parameters)
            return True
        return None

    def do_executemany(self, cursor: Any, statement: str, parameters: Any, context: Any) -> Any:
        self.heard.append(statement)
        if self.executes:
            cursor.executemany(statement, parameters)
            return True
        return None

    def do_execute_no_params(self, cursor: Any, statement: str, context: Any) -> Any:
        self.heard.append(statement)
        if self.executes:
            cursor.execute(statement)
            return True
        return None


def insert_one(connection: Connection) -> None:
    connection.execute(insert(Note), {"body": "a"})


def insert_three(connection: Connection) -> None:
    connection.execute(insert(Note), [{"body": body} for body in "abc"])


def insert_without_parameters(connection: Connection) -> None:
    connection.exec_driver_sql(
        "INSERT INTO notes (body) VALUES ('a')", execution_options={"no_parameters": True}
    )


@pytest.mark.parametrize("executes", [False, True], ids=["watches", "executes"])
@pytest.mark.parametrize("first", [True, False], ids=["before ours", "after ours"])
@pytest.mark.parametrize("of_class", [True, False], ids=["of Engine", "of an engine"])
@pytest.mark.parametrize(
    ("name", "write", "rows"),
    [
        ("do_execute", insert_one, 1),
        ("do_executemany", insert_three, 3),
        ("do_execute_no_params", insert_without_parameters, 1),
    ],
)
def test_a_listener_of_the_execution_is_called_once_and_the_statement_run_and_counted_once(
    engine: Engine,
    name: str,
    write: Callable[[Connection], None],
    rows: int,
    of_class: bool,
    first: bool,
    executes: bool,
) -> None:
    theirs = Theirs(executes=executes)
    target = Engine if of_class else engine
    recorder = Recorder(Settings(root=ROOT))
    with engine.connect() as connection:
        insert_one(connection)
        with ExitStack() as stack:
            heard = listening(target, name, getattr(theirs, name))
            for manager in (heard, recorder) if first else (recorder, heard):
                stack.enter_context(manager)
            with recorder.measure("block") as measured:
                write(connection)
        assert len(connection.execute(select(Note.id)).all()) == 1 + rows
    assert len(theirs.heard) == 1
    assert counts(measured) == {"queries": 1, "roundtrips": 1}


def test_every_one_of_several_listeners_of_the_execution_is_called(
    recorder: Recorder, engine: Engine
) -> None:
    one, two = Theirs(executes=False), Theirs(executes=True)
    with (
        engine.connect() as connection,
        listening(Engine, "do_execute", one.do_execute),
        listening(engine, "do_execute", two.do_execute),
        recorder.measure("block") as measured,
    ):
        insert_one(connection)
    assert len(one.heard) == len(two.heard) == 1
    assert counts(measured) == {"queries": 1, "roundtrips": 1}


def test_a_listener_that_rewrites_statements_is_heeded(recorder: Recorder, engine: Engine) -> None:
    def rewrite(
        _conn: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool
    ) -> Any:
        return f"/* route */ {statement.replace('1', '7')}", parameters

    with (
        listening(engine, "before_cursor_execute", rewrite, retval=True),
        recorder.measure("block") as measured,
        engine.connect() as connection,
    ):
        assert connection.scalar(ONE) == 7
    assert counts(measured) == {"queries": 1, "roundtrips": 1, "rows": 1}
    assert tally_of(measured, "SELECT ?").count == 1


@pytest.mark.parametrize("of_class", [True, False], ids=["of Engine", "of an engine"])
def test_a_listener_for_errors_is_called_once_and_may_replace_them(
    recorder: Recorder, engine: Engine, of_class: bool
) -> None:
    class TheirsError(Exception):
        pass

    heard: list[Any] = []

    def handle(context: Any) -> Exception:
        heard.append(context.original_exception)
        return TheirsError("theirs")

    with (
        listening(Engine if of_class else engine, "handle_error", handle),
        recorder.measure("block") as measured,
        engine.connect() as connection,
        pytest.raises(TheirsError),
    ):
        connection.execute(text("SELECT 1 FROM nowhere"))
    assert len(heard) == 1
    assert isinstance(heard[0], engine.dialect.dbapi.Error)  # type: ignore[union-attr] # it has one
    assert counts(measured) == {"queries": 1, "roundtrips": 1, "errors": 1}


def test_documented_events_around_a_statement_are_heard_in_order(
    recorder: Recorder, engine: Engine
) -> None:
    heard: list[str] = []
    names = ("before_execute", "before_cursor_execute", "after_cursor_execute", "after_execute")
    with engine.connect() as connection, recorder.measure("block") as measured:
        for name in names:
            event.listen(engine, name, lambda *_, name=name: heard.append(name))
        connection.execute(ONE).all()
    assert tuple(heard) == names
    assert measured["sql_queries"] == 1


def test_two_recorders_at_once_count_the_same(recorder: Recorder, engine: Engine) -> None:
    with recorder.measure("outer") as outer:
        with Recorder(Settings(root=ROOT)) as other, other.measure("inner") as inner:
            run(engine)
        run(engine)
    assert counts(inner) == {"queries": 1, "roundtrips": 1, "rows": 1}
    assert counts(outer) == {"queries": 2, "roundtrips": 2, "rows": 2, "duplicates": 1}


# --- Nothing is left behind

TOUCHED = (
    Connection,
    Engine,
    Dialect,
    DefaultDialect,
    DefaultExecutionContext,
    cursors.CursorFetchStrategy,
    cursors.BufferedRowCursorFetchStrategy,
    cursors.FullyBufferedCursorFetchStrategy,
    Pool,
    Session,
)


def attributes() -> dict[tuple[str, str], object]:
    return {
        (owner.__name__, name): value
        for owner in TOUCHED
        for name, value in vars(owner).items()
        # SQLAlchemy sets it with the first listener and never takes it back.
        if name != "_has_events"
    }


def listeners(engine: Engine) -> dict[str, list[object]]:
    connection_events = [
        *("before_execute", "before_cursor_execute", "after_cursor_execute", "after_execute"),
        *("begin", "commit", "rollback", "savepoint"),
    ]
    statement_events = ("do_execute", "do_executemany", "do_execute_no_params", "handle_error")
    return {
        **{name: list(getattr(engine.dispatch, name)) for name in connection_events},
        **{name: list(getattr(engine.dialect.dispatch, name)) for name in statement_events},
        **{name: list(getattr(engine.pool.dispatch, name)) for name in ("checkout", "checkin")},
        "before_flush": list(Session(engine).dispatch.before_flush),
        "do_orm_execute": list(Session(engine).dispatch.do_orm_execute),
    }


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(database: Database, engine: Engine, fails: bool) -> None:
    theirs = Theirs(executes=False)
    with listening(engine, "do_execute", theirs.do_execute):
        before = attributes(), listeners(engine)
        try:
            with Recorder(Settings(root=ROOT)) as recorder, recorder.measure("block") as measured:
                during = attributes(), listeners(engine)
                run(engine)
                made = database.make_engine()
                if fails:
                    run_bad_statement(engine)
        except DBAPIError:
            assert fails
        assert measured["sql_queries"] == 1 + fails
        assert during[0] != before[0]
        assert during[1] != before[1]
        assert (attributes(), listeners(engine)) == before
    assert not any(listeners(made).values())
    run(engine)
    assert measured["sql_queries"] == 1 + fails


def run_bad_statement(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("SELECT 1 FROM nowhere"))


def test_a_result_that_outlives_the_recorder_can_be_read_to_its_end(
    engine: Engine, users: int
) -> None:
    with engine.connect() as connection:
        with Recorder(Settings(root=ROOT)) as recorder, recorder.measure("block") as measured:
            result = connection.execute(select(User.id))
            assert result.fetchone()
        assert len(result.fetchall()) == users - 1
    assert measured["sql_rows"] == 1


def test_a_result_from_before_the_recorder_can_be_read_and_is_not_counted(
    engine: Engine, users: int
) -> None:
    with engine.connect() as connection:
        result = connection.execute(select(User.id))
        with Recorder(Settings(root=ROOT)) as recorder, recorder.measure("block") as measured:
            assert len(result.fetchall()) == users
    assert counts(measured) == {}


def test_a_recorder_can_be_started_again(engine: Engine) -> None:
    recorder = Recorder(Settings(root=ROOT))
    for _ in range(2):
        with recorder, recorder.measure("block") as measured:
            run(engine)
        assert counts(measured) == {"queries": 1, "roundtrips": 1, "rows": 1}
