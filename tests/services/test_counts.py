"""What counts as one statement, and how many round trips and rows it was."""

from __future__ import annotations

import pytest
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session, joinedload, selectinload, subqueryload

from pytest_perfguard import Recorder
from tests.services.models import (
    Note,
    Place,
    Resource,
    Ticket,
    User,
    add_rows,
)
from tests.services.support import Database, counts, done, here, place, tally_of


def new_users(count: int) -> list[dict[str, str]]:
    return [{"name": f"name {n}", "email": f"new{n}@example.org", "bio": ""} for n in range(count)]


# --- Rows


def test_a_select_is_one_statement_one_round_trip_and_its_rows(
    recorder: Recorder, session: Session, users: int
) -> None:
    with recorder.measure("block") as measured:
        assert len(session.scalars(select(User)).all()) == users
    assert counts(measured) == {"queries": 1, "roundtrips": 1, "rows": users}


def test_a_scalar_is_one_row(recorder: Recorder, session: Session, users: int) -> None:
    with recorder.measure("block") as measured:
        assert session.scalar(select(func.count()).select_from(User)) == users
    assert counts(measured) == {"queries": 1, "roundtrips": 1, "rows": 1}


def test_a_select_that_finds_nothing_has_no_rows(recorder: Recorder, session: Session) -> None:
    with recorder.measure("block") as measured:
        assert session.scalars(select(User)).all() == []
    assert counts(measured) == {"queries": 1, "roundtrips": 1}


def test_fetchone_counts_the_rows_it_was_asked_for(
    recorder: Recorder, engine: Engine, users: int
) -> None:
    with engine.connect() as connection, recorder.measure("block") as measured:
        result = connection.execute(select(User.id))
        result.fetchone()
        result.fetchone()
        result.close()
    assert counts(measured) == {"queries": 1, "roundtrips": 1, "rows": 2}


def test_fetchmany_counts_the_rows_it_was_asked_for(
    recorder: Recorder, engine: Engine, users: int
) -> None:
    with engine.connect() as connection, recorder.measure("block") as measured:
        result = connection.execute(select(User.id))
        assert len(result.fetchmany(4)) == 4
        result.close()
    assert counts(measured) == {"queries": 1, "roundtrips": 1, "rows": 4}


@pytest.mark.parametrize("options", [{}, {"stream_results": True}, {"yield_per": 4}])
def test_partitions_count_every_row_once(
    recorder: Recorder, engine: Engine, users: int, options: dict[str, object]
) -> None:
    with engine.connect() as connection, recorder.measure("block") as measured:
        result = connection.execution_options(**options).execute(select(User.id))
        assert [len(part) for part in result.partitions(4)] == [4, users - 4]
    assert counts(measured) == {"queries": 1, "roundtrips": 1, "rows": users}


@pytest.mark.parametrize("options", [{}, {"stream_results": True}, {"yield_per": 2}])
def test_a_core_result_that_is_walked_through_counts_every_row_once(
    recorder: Recorder, engine: Engine, users: int, options: dict[str, object]
) -> None:
    with engine.connect() as connection, recorder.measure("block") as measured:
        result = connection.execution_options(**options).execute(select(User.id))
        assert len(list(result)) == users
    assert counts(measured) == {"queries": 1, "roundtrips": 1, "rows": users}


def test_yield_per_of_the_orm_counts_every_row_once(
    recorder: Recorder, session: Session, users: int
) -> None:
    with recorder.measure("block") as measured:
        assert len(list(session.scalars(select(User).execution_options(yield_per=4)))) == users
    assert counts(measured) == {"queries": 1, "roundtrips": 1, "rows": users}


def test_streaming_in_a_coroutine_counts_every_row_once(
    recorder: Recorder, async_database: Database
) -> None:
    async_database.call(add_rows, async_database.engine, 10)

    async def main() -> int:
        assert async_database.async_engine is not None
        async with async_database.async_engine.connect() as connection:
            result = await connection.stream(select(User.id))
            return len([row async for row in result])

    with recorder.measure("block") as measured:
        assert async_database.run(main()) == 10
    assert counts(measured) == {"queries": 1, "roundtrips": 1, "rows": 10}


def test_a_block_in_which_nothing_happens_counts_nothing(
    recorder: Recorder, session: Session, users: int
) -> None:
    session.scalars(select(User)).all()
    with recorder.measure("block") as measured:
        pass
    assert counts(measured) == {}
    assert done(measured).tallies == ()


# --- Writes


def test_a_flush_of_twenty_new_objects_is_one_statement(
    recorder: Recorder, session: Session, cursor_calls: list[str]
) -> None:
    session.add_all(User(**row) for row in new_users(20))
    with recorder.measure("block") as measured:
        session.flush()
    assert counts(measured) == {"queries": 1, "roundtrips": len(cursor_calls)}


def test_a_flush_of_two_classes_is_two_statements(
    recorder: Recorder, session: Session, cursor_calls: list[str]
) -> None:
    session.add_all(
        User(**row, resources=[Resource(title="a"), Resource(title="b")]) for row in new_users(20)
    )
    with recorder.measure("block") as measured:
        session.flush()
    assert counts(measured) == {"queries": 2, "roundtrips": len(cursor_calls)}


def test_two_flushes_are_two_statements(recorder: Recorder, session: Session) -> None:
    rows = new_users(10)
    with recorder.measure("block") as measured:
        session.add_all(User(**row) for row in rows[:5])
        session.flush()
        session.add_all(User(**row) for row in rows[5:])
        session.flush()
    assert measured["sql_queries"] == 2


def test_an_executemany_is_one_statement(
    recorder: Recorder, engine: Engine, cursor_calls: list[str]
) -> None:
    with engine.connect() as connection, recorder.measure("block") as measured:
        connection.execute(insert(User), new_users(50))
    assert counts(measured) == {"queries": 1, "roundtrips": 1}
    assert len(cursor_calls) == 1


def test_a_bulk_insert_of_the_orm_is_one_statement(recorder: Recorder, session: Session) -> None:
    with recorder.measure("block") as measured:
        session.execute(insert(User), new_users(50))
    assert counts(measured) == {"queries": 1, "roundtrips": 1}


def test_insertmanyvalues_is_one_statement_however_many_batches_it_takes(
    recorder: Recorder, engine: Engine, cursor_calls: list[str]
) -> None:
    statement = insert(User).returning(User.id)
    with engine.connect() as connection, recorder.measure("block") as measured:
        assert len(connection.execute(statement, new_users(2_500)).all()) == 2_500
    assert len(cursor_calls) > 1
    assert counts(measured) == {"queries": 1, "roundtrips": len(cursor_calls), "rows": 2_500}


def test_an_orm_insert_with_returning_is_one_statement(
    recorder: Recorder, session: Session, cursor_calls: list[str]
) -> None:
    with recorder.measure("block") as measured:
        found = session.scalars(insert(User).returning(User), new_users(20)).all()
        assert len(found) == 20
    assert counts(measured) == {"queries": 1, "roundtrips": len(cursor_calls), "rows": 20}


def test_an_insert_of_many_values_in_one_statement_is_one_statement(
    recorder: Recorder, engine: Engine
) -> None:
    with engine.connect() as connection, recorder.measure("block") as measured:
        connection.execute(insert(User).values(new_users(20)))
    assert counts(measured) == {"queries": 1, "roundtrips": 1}


def test_a_flush_of_twenty_changed_objects_is_one_statement(
    recorder: Recorder, session: Session, engine: Engine, cursor_calls: list[str]
) -> None:
    add_rows(engine, 20)
    changed = session.scalars(select(User)).all()
    cursor_calls.clear()
    for user in changed:
        user.name += "!"
    with recorder.measure("block") as measured:
        session.flush()
    assert counts(measured) == {"queries": 1, "roundtrips": len(cursor_calls)}


def test_a_flush_of_two_kinds_of_change_is_two_statements_however_they_alternate(
    recorder: Recorder, session: Session, engine: Engine, cursor_calls: list[str]
) -> None:
    add_rows(engine, 20)
    changed = session.scalars(select(User).order_by(User.id)).all()
    cursor_calls.clear()
    for number, user in enumerate(changed):
        if number % 2:
            user.name += "!"
        else:
            user.email += "!"
    with recorder.measure("block") as measured:
        session.flush()
    assert len(cursor_calls) > 2
    assert counts(measured) == {"queries": 2, "roundtrips": len(cursor_calls)}


def test_a_flush_of_deleted_objects_is_one_statement(
    recorder: Recorder, session: Session, cursor_calls: list[str]
) -> None:
    session.add_all(Note(body=f"note {n}", state="old") for n in range(20))
    session.flush()
    cursor_calls.clear()
    for note in session.scalars(select(Note)).all():
        session.delete(note)
    cursor_calls.clear()
    with recorder.measure("block") as measured:
        session.flush()
    assert counts(measured) == {"queries": 1, "roundtrips": len(cursor_calls)}


@pytest.mark.parametrize(
    "statement",
    [
        update(Resource).where(Resource.rank == 0).values(title="x"),
        delete(Resource).where(Resource.rank > 100),
    ],
    ids=["update", "delete"],
)
def test_a_write_by_a_criterion_is_one_statement(
    recorder: Recorder, session: Session, users: int, statement: object
) -> None:
    with recorder.measure("block") as measured:
        session.execute(statement)  # type: ignore[call-overload] # either kind
    assert measured["sql_queries"] == 1


def test_a_default_of_the_database_that_is_read_back_is_no_second_statement_of_the_insert(
    recorder: Recorder, session: Session
) -> None:
    session.add_all(Note(body=f"note {n}") for n in range(5))
    with recorder.measure("block") as measured:
        session.flush()
    assert measured["sql_queries"] == 1


def test_a_default_of_the_database_that_is_read_on_access_is_a_statement(
    recorder: Recorder, engine: Engine
) -> None:
    with Session(engine, expire_on_commit=False) as session:
        note = Note(body="note")
        session.add(note)
        session.flush()
        session.expire(note, ["state"])
        with recorder.measure("block") as measured:
            assert note.state == "new"
    assert counts(measured) == {"queries": 1, "roundtrips": 1, "rows": 1}


@pytest.mark.parametrize("entity", [Ticket, Place], ids=["sequence", "select"])
def test_a_statement_that_only_makes_a_key_is_a_round_trip_but_no_statement(
    recorder: Recorder,
    session: Session,
    entity: type[Ticket | Place],
    cursor_calls: list[str],
) -> None:
    session.add(entity(title="a"))
    with recorder.measure("block") as measured:
        session.flush()
    embedded = [call for call in cursor_calls if not call.startswith("INSERT")]
    if entity is Place or session.get_bind().dialect.supports_sequences:
        assert len(embedded) == 1
    assert tally_of(measured, "INSERT").count == 1
    assert measured["sql_queries"] == 1
    assert measured["sql_roundtrips"] == len(cursor_calls)


# --- Loads


def test_a_joined_load_is_one_statement(recorder: Recorder, session: Session, users: int) -> None:
    with recorder.measure("block") as measured:
        for user in session.scalars(select(User).options(joinedload(User.resources))).unique():
            assert len(user.resources) == 1
    assert counts(measured) == {"queries": 1, "roundtrips": 1, "rows": users}


@pytest.mark.parametrize("load", [selectinload, subqueryload])
def test_a_load_in_a_second_statement_is_two(
    recorder: Recorder, session: Session, users: int, load: object
) -> None:
    with recorder.measure("block") as measured:
        for user in session.scalars(select(User).options(load(User.resources))):  # type: ignore[operator] # a loader option
            assert len(user.resources) == 1
    assert counts(measured) == {"queries": 2, "roundtrips": 2, "rows": 2 * users}


@pytest.mark.parametrize("parents", [500, 3_000])
def test_a_select_in_load_is_one_statement_however_many_batches_it_takes(
    recorder: Recorder, session: Session, engine: Engine, cursor_calls: list[str], parents: int
) -> None:
    add_rows(engine, parents, tags_each=0)
    cursor_calls.clear()
    with recorder.measure("block") as measured:
        found = session.scalars(select(User).options(selectinload(User.resources))).all()
        assert {len(user.resources) for user in found} == {1}
    assert len(cursor_calls) == 1 + parents // 500
    assert counts(measured) == {
        "queries": 2,
        "roundtrips": len(cursor_calls),
        "rows": 2 * parents,
    }


def test_a_select_in_load_to_one_is_one_statement_however_many_batches_it_takes(
    recorder: Recorder, session: Session, engine: Engine, cursor_calls: list[str]
) -> None:
    add_rows(engine, 3_000, tags_each=0)
    cursor_calls.clear()
    with recorder.measure("block") as measured:
        session.scalars(select(Resource).options(selectinload(Resource.owner))).all()
    assert len(cursor_calls) == 7
    assert counts(measured) == {"queries": 2, "roundtrips": 7, "rows": 6_000}


def test_two_select_in_loads_are_one_statement_each(
    recorder: Recorder, session: Session, engine: Engine, cursor_calls: list[str]
) -> None:
    add_rows(engine, 1_200, tags_each=1)
    cursor_calls.clear()
    loads = (selectinload(Resource.owner), selectinload(Resource.tags))
    with recorder.measure("block") as measured:
        session.scalars(select(Resource).options(*loads)).all()
    assert len(cursor_calls) == 7
    assert counts(measured) == {"queries": 3, "roundtrips": 7, "rows": 3_600}


def test_a_select_in_load_below_another_is_one_statement_however_many_batches_both_take(
    recorder: Recorder, session: Session, engine: Engine, cursor_calls: list[str]
) -> None:
    add_rows(engine, 1_200, tags_each=1)
    cursor_calls.clear()
    load = selectinload(User.resources).selectinload(Resource.tags)
    with recorder.measure("block") as measured:
        session.scalars(select(User).options(load)).all()
    assert len(cursor_calls) == 7
    assert counts(measured) == {"queries": 3, "roundtrips": 7, "rows": 3_600}


def test_the_same_select_in_load_of_two_selects_is_two_statements(
    recorder: Recorder, engine: Engine, users: int
) -> None:
    with recorder.measure("block") as measured:
        for _ in range(2):
            with Session(engine) as session:
                session.scalars(select(User).options(selectinload(User.resources))).all()
    assert measured["sql_queries"] == 4


# --- Statements as text


def test_a_text_counts(recorder: Recorder, session: Session, users: int) -> None:
    with recorder.measure("block") as measured:
        session.execute(text("SELECT name FROM users WHERE id = :id"), {"id": 1}).all()
    assert counts(measured) == {"queries": 1, "roundtrips": 1, "rows": 1}


def test_a_statement_of_the_driver_counts(recorder: Recorder, engine: Engine, users: int) -> None:
    with engine.connect() as connection, recorder.measure("block") as measured:
        connection.exec_driver_sql("SELECT name FROM users").all()
    assert counts(measured) == {"queries": 1, "roundtrips": 1, "rows": users}


def test_a_statement_that_takes_no_parameters_counts(
    recorder: Recorder, engine: Engine, users: int
) -> None:
    with engine.connect() as connection, recorder.measure("block") as measured:
        connection.exec_driver_sql(
            "SELECT name FROM users WHERE name LIKE '%1'",
            execution_options={"no_parameters": True},
        ).all()
    assert counts(measured) == {"queries": 1, "roundtrips": 1, "rows": 1}
    assert tally_of(measured, "SELECT").operation == "SELECT name FROM users WHERE name LIKE ?"


def test_a_statement_in_a_common_table_expression_counts_as_what_it_does(
    recorder: Recorder, session: Session, users: int
) -> None:
    found = select(User.id).where(User.id < 3).cte("found")
    with recorder.measure("block") as measured:
        session.execute(select(found.c.id)).all()
    assert counts(measured) == {"queries": 1, "roundtrips": 1, "rows": 2}
    assert tally_of(measured, "WITH").kind == "read"


# --- Transactions


def test_a_savepoint_is_no_statement(recorder: Recorder, session: Session, users: int) -> None:
    with recorder.measure("block") as measured:
        with session.begin_nested():
            session.execute(select(User.id)).all()
        with session.begin_nested() as nested:
            session.execute(select(Resource.id)).all()
            nested.rollback()
    assert counts(measured) == {"queries": 2, "roundtrips": 2, "rows": 2 * users}


def test_a_session_inside_an_outer_transaction_counts_only_its_own_statements(
    recorder: Recorder, engine: Engine, users: int
) -> None:
    with engine.connect() as connection, connection.begin() as outer:
        with (
            Session(connection, join_transaction_mode="create_savepoint") as session,
            recorder.measure("block") as measured,
        ):
            session.execute(select(User.id)).all()
            session.commit()
            session.add(Note(body="a", state="old"))
            session.commit()
        outer.rollback()
    assert counts(measured) == {"queries": 2, "roundtrips": 2, "rows": users}


def test_transaction_control_as_text_is_no_statement(
    recorder: Recorder, database: Database
) -> None:
    if database.is_sqlite:
        options: dict[str, object] = {}
    else:
        # The driver begins transactions itself otherwise.
        options = {"isolation_level": "AUTOCOMMIT"}
    engine = database.make_engine(**options)
    with engine.connect() as connection, recorder.measure("block") as measured:
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql("SELECT 1").all()
        connection.exec_driver_sql("COMMIT")
    assert counts(measured) == {"queries": 1, "roundtrips": 1, "rows": 1}


def test_a_commit_of_core_is_counted_at_its_line(recorder: Recorder, engine: Engine) -> None:
    with engine.connect() as connection, recorder.measure("block") as measured:
        connection.execute(insert(Note), {"body": "a", "state": "old"})
        connection.commit()  # the commit
    assert counts(measured) == {"queries": 1, "roundtrips": 1, "commits": 1}
    assert place(tally_of(measured, "COMMIT")) == here("the commit")


def test_the_end_of_a_begin_block_is_a_commit(recorder: Recorder, engine: Engine) -> None:
    with recorder.measure("block") as measured, engine.begin() as connection:
        connection.execute(insert(Note), {"body": "a", "state": "old"})
    assert counts(measured) == {"queries": 1, "roundtrips": 1, "commits": 1}


def test_commits_of_the_orm_are_counted(recorder: Recorder, session: Session) -> None:
    with recorder.measure("block") as measured:
        for number in range(3):
            session.add(Note(body=f"{number}", state="old"))
            session.commit()
    assert measured["sql_commits"] == 3


def test_a_rollback_is_neither_statement_nor_commit(recorder: Recorder, session: Session) -> None:
    with recorder.measure("block") as measured:
        session.add(Note(body="a", state="old"))
        session.flush()
        session.rollback()
    assert counts(measured) == {"queries": 1, "roundtrips": 1}


def test_a_commit_of_a_session_that_did_nothing_is_none(
    recorder: Recorder, session: Session
) -> None:
    with recorder.measure("block") as measured:
        session.commit()
    assert counts(measured) == {}
