"""Statements that no index could serve, as the databases plan them."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Update, and_, delete, func, insert, or_, select, text, update
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session, selectinload

from pytest_perfguard import MetricError, Recorder
from tests.services.models import Resource, User, add_rows
from tests.services.support import Database, counts, done, explained, tally_of


@pytest.fixture
def rows(database: Database) -> int:
    """How many users and resources there are now."""
    database.call(add_rows, database.engine, 200, tags_each=0)
    return 200


SERVED = {
    "primary key": select(User.name).where(User.id == 7),
    "unique index": select(User.name).where(User.email == "7@example.org"),
    "many keys": select(User.name).where(User.id.in_([1, 2, 3])),
    "range of an index": select(User.name).where(User.id.between(7, 9)),
    "two indexes": select(User.name).where(or_(User.id == 7, User.email == "7@example.org")),
    "an index and a filter": select(User.email).where(User.id == 7, User.name == "x"),
    "first of a composite index": select(Resource.title).where(Resource.status == "x"),
    "both of a composite index": select(Resource.title).where(
        and_(Resource.rank == 7, Resource.status == "x")
    ),
    "expression with an index": select(Resource.rank).where(func.upper(Resource.title) == "X"),
    "join by indexes": select(Resource.title)
    .join(Resource.owner)
    .where(User.email == "7@example.org"),
    "no condition": select(User.name).order_by(User.name),
    "update": update(User).where(User.id == 7).values(name="x"),
    "delete": delete(Resource).where(Resource.id == 7),
}

SCANNED = {
    "no index": select(User.id).where(User.name == "x"),
    "second of a composite index": select(Resource.title).where(Resource.rank == 7),
    "expression without an index": select(User.name).where(func.lower(User.email) == "x"),
    "end of a string": select(User.name).where(User.email.like("%7")),
    "one of two has no index": select(User.email).where(or_(User.id == 7, User.name == "x")),
    "first by the key of those without an index": select(User.email)
    .where(User.name == "x")
    .order_by(User.id)
    .limit(1),
    "inside a subquery": select(Resource.title).where(
        Resource.owner_id.in_(select(User.id).where(User.name == "x"))
    ),
    "update": update(User).where(User.name == "x").values(bio="x"),
    "delete": delete(Resource).where(Resource.title == "x"),
}


@pytest.mark.parametrize("statement", SERVED.values(), ids=SERVED)
def test_a_statement_that_an_index_serves_is_no_full_scan(
    recorder: Recorder, session: Session, rows: int, statement: Any
) -> None:
    with explained(recorder) as measured:
        session.execute(statement)
    assert [t.facts.get("plan") for t in done(measured).tallies] == [None]
    assert measured["sql_full_scans"] == 0
    assert measured["sql_queries"] == measured["sql_roundtrips"] == 1


@pytest.mark.parametrize("statement", SCANNED.values(), ids=SCANNED)
def test_a_statement_that_no_index_serves_is_a_full_scan_that_names_the_table(
    recorder: Recorder, session: Session, rows: int, statement: Any
) -> None:
    with explained(recorder) as measured:
        session.execute(statement)
    plans = [t.facts.get("plan", "") for t in done(measured).tallies]
    assert len(plans) == 1
    assert "users" in plans[0] or "resources" in plans[0]
    assert measured["sql_full_scans"] == 1
    assert measured["sql_queries"] == measured["sql_roundtrips"] == 1


def test_plans_are_only_asked_for_where_they_are_wanted(
    recorder: Recorder, session: Session, rows: int
) -> None:
    with recorder.measure("block") as measured:
        session.execute(SCANNED["no index"])
    with pytest.raises(MetricError, match="nothing was observed for 'sql_full_scans'"):
        measured["sql_full_scans"]


def test_a_statement_that_is_run_again_is_one_full_scan(
    recorder: Recorder, session: Session, rows: int
) -> None:
    with explained(recorder) as measured:
        for name in ("a", "b", "a"):
            session.execute(select(User.id).where(User.name == name))
    assert measured["sql_full_scans"] == 1
    assert measured["sql_queries"] == 3


def test_two_statements_are_two_full_scans(recorder: Recorder, session: Session, rows: int) -> None:
    with explained(recorder) as measured:
        session.execute(SCANNED["no index"])
        session.execute(SCANNED["end of a string"])
        session.execute(SERVED["primary key"])
    assert measured["sql_full_scans"] == 2


def test_blocks_inside_are_explained_too(recorder: Recorder, session: Session, rows: int) -> None:
    with explained(recorder) as measured, recorder.measure("inner") as inner:
        session.execute(SCANNED["no index"])
    assert inner["sql_full_scans"] == 1
    assert measured["sql_full_scans"] == 1


def test_loads_and_batches_of_the_orm_are_explained(
    recorder: Recorder, session: Session, rows: int
) -> None:
    with explained(recorder) as measured:
        found = select(User).where(User.id < 5).options(selectinload(User.resources))
        for user in session.scalars(found):
            user.name += "!"
        session.flush()
    assert [t.facts.get("plan") for t in done(measured).tallies] == [None] * 3
    assert measured["sql_full_scans"] == 0


@pytest.mark.parametrize("options", [{"stream_results": True}, {"yield_per": 20}])
def test_a_streamed_result_is_explained_and_complete(
    recorder: Recorder, engine: Engine, rows: int, options: dict[str, Any]
) -> None:
    with engine.connect() as connection, explained(recorder) as measured:
        streamed = connection.execution_options(**options)
        found = streamed.execute(select(User.id).where(User.name != "x"))
        first = found.fetchone()
        streamed.execute(select(Resource.id).where(Resource.title == "x")).all()
        assert first is not None
        assert len(found.fetchall()) == rows - 1
    assert measured["sql_full_scans"] == 2


def test_a_statement_as_text_is_explained(recorder: Recorder, engine: Engine, rows: int) -> None:
    with engine.connect() as connection, explained(recorder) as measured:
        connection.execute(text("SELECT id FROM users WHERE name = :name"), {"name": "x"})
    assert measured["sql_full_scans"] == 1


def test_a_statement_that_takes_no_parameters_is_explained(
    recorder: Recorder, engine: Engine, rows: int
) -> None:
    with engine.connect() as connection, explained(recorder) as measured:
        found = connection.exec_driver_sql(
            "SELECT id FROM users WHERE name LIKE '%1'", execution_options={"no_parameters": True}
        )
        assert len(found.all()) == 20
    assert measured["sql_full_scans"] == 1
    assert counts(measured) == {"queries": 1, "roundtrips": 1, "rows": 20}


# --- The transaction is left as it was


APPEND: Update = update(User).where(User.name == "name 7").values(name=User.name + "!")


def name_of_seven(connection: Connection) -> str:
    name = connection.scalar(text("SELECT name FROM users WHERE id = 7"))
    assert isinstance(name, str)
    return name


def setting(database: Database, connection: Connection) -> str | None:
    return None if database.is_sqlite else connection.scalar(text("SHOW enable_seqscan"))


def test_a_write_is_done_once_and_can_be_rolled_back(
    recorder: Recorder, database: Database, engine: Engine, rows: int
) -> None:
    with engine.connect() as connection:
        before = setting(database, connection)
        with explained(recorder) as measured:
            assert connection.execute(APPEND).rowcount == 1
        assert name_of_seven(connection) == "name 7!"
        assert setting(database, connection) == before
        connection.rollback()
        assert name_of_seven(connection) == "name 7"
    assert measured["sql_full_scans"] == 1


def test_a_write_is_done_once_and_can_be_committed(
    recorder: Recorder, database: Database, engine: Engine, rows: int
) -> None:
    with engine.connect() as connection, explained(recorder):
        connection.execute(APPEND)
        connection.commit()
    with database.make_engine().connect() as connection:
        assert name_of_seven(connection) == "name 7!"


def test_a_savepoint_of_the_user_goes_on_as_it_was(
    recorder: Recorder, engine: Engine, rows: int
) -> None:
    with Session(engine) as session, explained(recorder) as measured:
        connection = session.connection()
        session.execute(text("UPDATE users SET name = 'outer' WHERE id = 7"))
        with session.begin_nested() as nested:
            session.execute(text("UPDATE users SET name = 'inner' WHERE id = 7"))
            session.execute(SCANNED["no index"])
            assert name_of_seven(connection) == "inner"
            nested.rollback()
        assert name_of_seven(connection) == "outer"
    assert measured["sql_full_scans"] == 1


def test_a_read_is_in_a_transaction_only_if_it_would_be_alone(
    recorder: Recorder, database: Database, engine: Engine, rows: int
) -> None:
    def state() -> object:
        driver: Any = connection.connection.driver_connection
        if database.is_sqlite:
            return driver.in_transaction
        return driver.is_in_transaction() if database.driver == "asyncpg" else driver.info.status

    with engine.connect() as connection:
        connection.execute(SCANNED["no index"]).all()
        alone = state()
        connection.rollback()
        with explained(recorder):
            connection.execute(SCANNED["no index"]).all()
        assert state() == alone


@pytest.mark.parametrize("way", ["plain", "explained"])
def test_a_statement_that_fails_when_it_is_run_fails_as_it_would_alone(
    recorder: Recorder, engine: Engine, rows: int, way: str
) -> None:
    clash = update(User).where(User.name == "name 7").values(email="8@example.org")
    block = explained(recorder) if way == "explained" else recorder.measure("block")
    with engine.connect() as connection, block as measured:
        connection.execute(text("UPDATE users SET name = 'kept' WHERE id = 9"))
        with pytest.raises(IntegrityError), connection.begin_nested():
            connection.execute(clash)
        assert connection.scalar(text("SELECT name FROM users WHERE id = 9")) == "kept"
        connection.commit()
    failed = tally_of(measured, "UPDATE users SET email")
    assert (failed.count, failed.sums["errors"]) == (1, 1)
    assert (measured["sql_queries"], measured["sql_errors"]) == (3, 1)


@pytest.mark.parametrize(
    "statement", ["SELECT 1 FROM nowhere WHERE 1 = :given", "SELECT 1 WHERE nothing = :given"]
)
def test_a_statement_that_cannot_be_explained_fails_as_it_would_alone(
    recorder: Recorder, engine: Engine, rows: int, statement: str
) -> None:
    def fail(connection: Connection) -> DBAPIError:
        with pytest.raises(DBAPIError) as raised, connection.begin_nested():
            connection.execute(text(statement), {"given": 1})
        return raised.value

    with engine.connect() as connection:
        alone = fail(connection)
        with explained(recorder) as measured:
            failed = fail(connection)
        assert connection.scalar(text("SELECT 1")) == 1
    assert type(failed) is type(alone)
    assert str(failed.orig) == str(alone.orig)
    assert counts(measured) == {"queries": 1, "roundtrips": 1, "errors": 1}


def test_what_the_database_cannot_explain_is_run_and_makes_the_metric_unknown(
    recorder: Recorder, postgres_database: Database
) -> None:
    # A COPY has a WHERE like any other statement, and no plan.
    with postgres_database.engine.connect() as connection, explained(recorder) as measured:
        connection.execute(SERVED["primary key"]).all()
        connection.exec_driver_sql("COPY users (name) FROM '/dev/null' WHERE name <> ''")
        assert connection.scalar(text("SELECT 1")) == 1
    assert counts(measured) == {"queries": 3, "roundtrips": 3, "rows": 1}
    assert "sql_full_scans" not in measured


@pytest.fixture
def autocommit(database: Database) -> Engine:
    return database.make_engine(isolation_level="AUTOCOMMIT")


def test_a_write_in_autocommit_mode_is_done_once_and_kept(
    recorder: Recorder, database: Database, autocommit: Engine, rows: int
) -> None:
    with autocommit.connect() as connection:
        before = setting(database, connection)
        with explained(recorder) as measured:
            connection.execute(APPEND)
        with database.engine.connect() as other:
            assert name_of_seven(other) == "name 7!"
        assert setting(database, connection) == before
        connection.rollback()
        assert name_of_seven(connection) == "name 7!"
    assert measured["sql_full_scans"] == 1
    assert measured["sql_queries"] == 1


def test_a_read_in_autocommit_mode_leaves_no_transaction_open(
    recorder: Recorder, database: Database, autocommit: Engine, rows: int
) -> None:
    with autocommit.connect() as connection:
        with explained(recorder) as measured:
            connection.execute(SCANNED["no index"]).all()
            connection.execute(SERVED["primary key"]).all()
        if database.is_sqlite:
            driver_connection: Any = connection.connection.driver_connection
            assert not driver_connection.in_transaction
        else:
            mine = connection.scalar(text("SELECT pg_backend_pid()"))
            with database.engine.connect() as other:
                state = text("SELECT state FROM pg_stat_activity WHERE pid = :pid")
                assert other.scalar(state, {"pid": mine}) == "idle"
    assert measured["sql_full_scans"] == 1


def test_a_statement_that_fails_in_autocommit_mode_fails_as_it_would_alone(
    recorder: Recorder, autocommit: Engine, rows: int
) -> None:
    clash = update(User).where(User.name == "name 7").values(email="8@example.org")
    with autocommit.connect() as connection, explained(recorder) as measured:
        with pytest.raises(IntegrityError):
            connection.execute(clash)
        connection.execute(insert(User), {"name": "n", "email": "n", "bio": ""})
        assert connection.scalar(text("SELECT count(*) FROM users")) == rows + 1
    assert (measured["sql_queries"], measured["sql_errors"]) == (3, 1)
