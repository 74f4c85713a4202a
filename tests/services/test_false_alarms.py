"""What must not be called a candidate or a duplicate, and what must not be counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from sqlalchemy import MetaData, and_, insert, inspect, or_, select, text, tuple_
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from pytest_perfguard import Measurement, Recorder
from tests.services.models import TABLES, Resource, Tag, Unrelated, User, add_rows
from tests.services.support import Database, counts, done

PAGES, SIZE = 10, 3


def assert_no_findings(measured: Measurement) -> None:
    assert [f.tally.operation for f in done(measured).findings] == []
    assert measured["sql_n_plus_one"] == 0
    assert measured["sql_duplicates"] == 0


# --- Pages


def by_offset(session: Session, number: int, _last: Resource | None) -> Sequence[Resource]:
    ordered = select(Resource).order_by(Resource.rank.desc(), Resource.id.desc())
    return session.scalars(ordered.limit(SIZE).offset(number * SIZE)).all()


def by_key(session: Session, _number: int, last: Resource | None) -> Sequence[Resource]:
    page = select(Resource).order_by(Resource.id.desc()).limit(SIZE)
    if last is not None:
        page = page.where(Resource.id < last.id)
    return session.scalars(page).all()


def by_two_keys(session: Session, _number: int, last: Resource | None) -> Sequence[Resource]:
    page = select(Resource).order_by(Resource.rank.desc(), Resource.id.desc()).limit(SIZE)
    if last is not None:
        same_rank = and_(Resource.rank == last.rank, Resource.id < last.id)
        page = page.where(or_(Resource.rank < last.rank, same_rank))
    return session.scalars(page).all()


def by_row_value(session: Session, _number: int, last: Resource | None) -> Sequence[Resource]:
    page = select(Resource).order_by(Resource.rank.desc(), Resource.id.desc()).limit(SIZE)
    if last is not None:
        page = page.where(tuple_(Resource.rank, Resource.id) < tuple_(last.rank, last.id))
    return session.scalars(page).all()


def by_two_keys_of_a_filter(
    session: Session, _number: int, last: Resource | None
) -> Sequence[Resource]:
    page = select(Resource).where(Resource.status == "active", Resource.rank >= 0)
    page = page.order_by(Resource.rank.desc(), Resource.id.desc()).limit(SIZE)
    if last is not None:
        same_rank = and_(Resource.rank == last.rank, Resource.id < last.id)
        page = page.where(or_(Resource.rank < last.rank, same_rank))
    return session.scalars(page).all()


def by_text(session: Session, number: int, _last: Resource | None) -> Sequence[Resource]:
    page = text("SELECT * FROM resources ORDER BY rank DESC, id DESC LIMIT :size OFFSET :start")
    found = select(Resource).from_statement(page)
    return session.scalars(found, {"size": SIZE, "start": number * SIZE}).all()


def by_literals(session: Session, number: int, _last: Resource | None) -> Sequence[Resource]:
    start = number * SIZE
    page = f"SELECT * FROM resources ORDER BY rank DESC, id DESC LIMIT {SIZE} OFFSET {start}"  # noqa: S608 - literals are the point
    return session.scalars(select(Resource).from_statement(text(page))).all()


@pytest.mark.parametrize(
    "page",
    [
        by_offset,
        by_key,
        by_two_keys,
        by_row_value,
        by_two_keys_of_a_filter,
        by_text,
        by_literals,
    ],
)
def test_ten_pages_of_one_list_are_neither_candidate_nor_duplicates(
    recorder: Recorder,
    session: Session,
    engine: Engine,
    page: Callable[[Session, int, Resource | None], Sequence[Resource]],
) -> None:
    add_rows(engine, PAGES * SIZE)
    keys: list[int] = []
    last = None
    with recorder.measure("block") as measured:
        for number in range(PAGES):
            found = page(session, number, last)
            keys.extend(resource.id for resource in found)
            last = found[-1]
    assert keys == list(range(PAGES * SIZE, 0, -1))
    assert measured["sql_queries"] == PAGES
    assert_no_findings(measured)


def test_one_page_of_ten_lists_is_a_candidate(
    recorder: Recorder, session: Session, users: int
) -> None:
    with recorder.measure("block") as measured:
        for owner in range(1, users + 1):
            page = select(Resource).where(Resource.owner_id == owner).order_by(Resource.id)
            session.scalars(page.limit(SIZE)).all()
    assert measured["sql_n_plus_one"] == 1


def test_one_page_of_ten_lists_is_a_candidate_also_where_the_key_is_a_literal(
    recorder: Recorder, session: Session, users: int
) -> None:
    with recorder.measure("block") as measured:
        for owner in range(1, users + 1):
            page = f"SELECT id FROM resources WHERE owner_id = {owner} ORDER BY id LIMIT :size"  # noqa: S608 - literals are the point
            session.execute(text(page), {"size": SIZE}).all()
    assert measured["sql_n_plus_one"] == 1
    assert measured["sql_duplicates"] == 0


def test_the_same_page_again_is_a_duplicate(
    recorder: Recorder, session: Session, users: int
) -> None:
    with recorder.measure("block") as measured:
        by_offset(session, 1, None)
        by_offset(session, 1, None)
    assert measured["sql_duplicates"] == 1


# --- Batches


def test_insertmanyvalues_is_no_candidate(recorder: Recorder, engine: Engine) -> None:
    rows = [{"name": f"{n}"} for n in range(9_000)]
    with engine.connect() as connection, recorder.measure("block") as measured:
        connection.execute(insert(Tag).returning(Tag.id), rows)
    assert measured["sql_roundtrips"] >= 5
    assert_no_findings(measured)


def test_a_flush_of_many_objects_is_no_candidate(recorder: Recorder, session: Session) -> None:
    made = [
        User(name="n", email=f"{n}", bio="", resources=[Resource(title="t")]) for n in range(20)
    ]
    session.add_all(made)
    with recorder.measure("block") as measured:
        session.flush()
        for user in made:
            user.name += "!"
        session.flush()
    assert_no_findings(measured)


def test_deleting_many_objects_in_one_flush_is_no_candidate(
    recorder: Recorder, session: Session
) -> None:
    session.add_all(Tag(name=f"{n}") for n in range(20))
    session.flush()
    found = session.scalars(select(Tag)).all()
    with recorder.measure("block") as measured:
        for tag in found:
            session.delete(tag)
        session.flush()
    assert_no_findings(measured)


def test_rows_that_a_factory_made_before_the_block_do_not_count(
    recorder: Recorder, session: Session
) -> None:
    def make_user(number: int) -> User:
        user = User(name="n", email=f"{number}", bio="")
        session.add(user)
        session.commit()
        return user

    made = [make_user(number) for number in range(10)]
    with recorder.measure("block") as measured:
        assert len(session.scalars(select(User)).all()) == len(made)
    assert counts(measured) == {"queries": 1, "roundtrips": 1, "rows": len(made)}


# --- Schemas

expression_index = pytest.mark.filterwarnings("ignore:Skipped unsupported reflection")


def test_making_and_dropping_ten_tables_is_no_candidate(recorder: Recorder, engine: Engine) -> None:
    try:
        with recorder.measure("block") as measured:
            Unrelated.metadata.create_all(engine)
            with engine.begin() as connection:
                connection.execute(insert(TABLES[0]), {"name": "x"})
            Unrelated.metadata.drop_all(engine)
    finally:
        Unrelated.metadata.drop_all(engine)
    assert measured["sql_queries"] > 30
    assert_no_findings(measured)


@expression_index
def test_reflection_is_no_candidate(recorder: Recorder, engine: Engine) -> None:
    with recorder.measure("block") as measured:
        found = MetaData()
        found.reflect(engine)
    assert len(found.tables) > 8
    assert measured["sql_queries"] > 1
    assert_no_findings(measured)


@expression_index
def test_inspection_table_by_table_is_no_candidate(recorder: Recorder, engine: Engine) -> None:
    with recorder.measure("block") as measured:
        inspector = inspect(engine)
        for name in inspector.get_table_names():
            assert inspector.get_columns(name)
            assert inspector.get_pk_constraint(name)
            inspector.get_indexes(name)
            inspector.get_foreign_keys(name)
            inspector.has_table(name)
    assert measured["sql_queries"] > 20
    assert_no_findings(measured)


def test_inspecting_twice_is_no_duplicate(recorder: Recorder, engine: Engine) -> None:
    with recorder.measure("block") as measured:
        assert inspect(engine).has_table("users")
        assert inspect(engine).has_table("users")
    assert_no_findings(measured)


# --- Connections


def test_the_first_statement_of_an_engine_costs_what_the_second_costs(
    recorder: Recorder, database: Database, users: int
) -> None:
    engine = database.make_engine()

    def measure() -> dict[str, float]:
        with recorder.measure("block") as measured, engine.connect() as connection:
            connection.execute(select(User.id)).all()
            connection.commit()
        assert measured["sql_slowest"] <= measured["sql_time"]
        assert [m.label for m in done(measured).timeline] == ["SELECT users"]
        return counts(measured)

    first, second = measure(), measure()
    assert first == second == {"queries": 1, "roundtrips": 1, "rows": users, "commits": 1}


def test_the_first_connection_of_many_engines_is_no_candidate(
    recorder: Recorder, database: Database
) -> None:
    with recorder.measure("block") as measured:
        for _ in range(6):
            with database.make_engine().connect():
                pass
    assert counts(measured) == {}
    assert_no_findings(measured)


def test_the_first_statement_of_a_session_costs_what_the_second_costs(
    recorder: Recorder, database: Database, users: int
) -> None:
    engine = database.make_engine()
    costs = []
    for _ in range(2):
        with recorder.measure("block") as measured, Session(engine) as session:
            assert session.get(User, 1)
            session.commit()
        costs.append(counts(measured))
    assert costs[0] == costs[1] == {"queries": 1, "roundtrips": 1, "rows": 1, "commits": 1}
