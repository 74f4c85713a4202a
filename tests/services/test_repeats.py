"""Repeated statements: candidate N+1s, duplicates, their causes and what to write instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import Table, insert, select, text, update
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session, selectinload

from pytest_perfguard import Recorder, Settings
from tests.services import models
from tests.services.models import Document, Invoice, Note, Resource, Tag, User
from tests.services.support import ROOT, Database, candidate, counts, done, tally_of

USERS = cast("Table", User.__table__)


# --- Lazy loads: cause, fix, and that the fix helps


def owners(session: Session, load: Any) -> list[Any]:
    return [resource.owner.id for resource in session.scalars(load)]


def resources(session: Session, load: Any) -> list[Any]:
    return [len(user.resources) for user in session.scalars(load)]


def tags(session: Session, load: Any) -> list[Any]:
    return [len(resource.tags) for resource in session.scalars(load)]


def tags_of_loaded(session: Session, load: Any) -> list[Any]:
    return [[len(resource.tags) for resource in user.resources] for user in session.scalars(load)]


def lines(session: Session, load: Any) -> list[Any]:
    return [
        len(document.lines) for document in session.scalars(load) if isinstance(document, Invoice)
    ]


LAZY_LOADS = {
    "to one": (
        owners,
        select(Resource),
        "Resource.owner",
        "select(Resource).options(selectinload(Resource.owner))  # or joinedload",
    ),
    "to many": (
        resources,
        select(User),
        "User.resources",
        "select(User).options(selectinload(User.resources))",
    ),
    "many to many": (
        tags,
        select(Resource),
        "Resource.tags",
        "select(Resource).options(selectinload(Resource.tags))",
    ),
    "below a loaded one": (
        tags_of_loaded,
        select(User).options(selectinload(User.resources)),
        "Resource.tags",
        "select(User).options(selectinload(User.resources).selectinload(Resource.tags))",
    ),
    # SQLAlchemy knows which class has the attribute, not which one was selected.
    "inherited by what was selected": (
        owners,
        select(Invoice),
        "Document.owner",
        "select(Document).options(selectinload(Document.owner))  # or joinedload",
    ),
    "of a subclass of what was selected": (
        lines,
        select(Document),
        "Invoice.lines",
        "select(Invoice).options(selectinload(Invoice.lines))",
    ),
    "of a subclass that was selected": (
        lines,
        select(Invoice),
        "Invoice.lines",
        "select(Invoice).options(selectinload(Invoice.lines))",
    ),
}


@pytest.mark.parametrize("case", list(LAZY_LOADS))
def test_a_lazy_load_in_a_loop_is_a_candidate_that_names_relationship_and_fix(
    recorder: Recorder, session: Session, documents: int, case: str
) -> None:
    use, load, subject, fix = LAZY_LOADS[case]
    with recorder.measure("block") as measured:
        use(session, load)
    found = candidate(measured)
    assert found.subject == subject
    assert found.fix == fix
    assert found.facts["cause"].startswith("lazy")
    assert found.count == found.distinct == documents
    assert measured["sql_n_plus_one"] == 1
    assert measured["sql_duplicates"] == 0


# A select of a superclass needs selectin_polymorphic too, which nothing in the load tells.
@pytest.mark.parametrize(
    "case", [case for case in LAZY_LOADS if case != "of a subclass of what was selected"]
)
def test_the_options_of_the_fix_take_the_candidate_away(
    recorder: Recorder, engine: Engine, documents: int, case: str
) -> None:
    use, load, _, fix = LAZY_LOADS[case]
    names = {**vars(models), "selectinload": selectinload, "load": load}
    helped = eval("load" + fix[fix.index(".options(") :], names)  # noqa: S307 - a fix is code
    with Session(engine) as session:
        before = use(session, load)
    with Session(engine) as session, recorder.measure("block") as measured:
        assert use(session, helped) == before
    assert measured["sql_n_plus_one"] == 0
    assert measured["sql_queries"] <= 3


def test_a_chain_of_lazy_loads_is_told_from_the_query_that_began_it(
    recorder: Recorder, engine: Engine, users: int
) -> None:
    def fixes(load: Any) -> dict[str | None, str | None]:
        with Session(engine) as session, recorder.measure("block") as measured:
            assert tags_of_loaded(session, load) == [[2]] * users
        return {finding.tally.subject: finding.tally.fix for finding in done(measured).findings}

    both = "select(User).options(selectinload(User.resources).selectinload(Resource.tags))"
    assert fixes(select(User)) == {
        "User.resources": "select(User).options(selectinload(User.resources))",
        "Resource.tags": both,
    }
    first = selectinload(User.resources)
    assert fixes(select(User).options(first)) == {"Resource.tags": both}
    assert fixes(select(User).options(first.selectinload(Resource.tags))) == {}


def test_two_relationships_loaded_on_one_line_are_two_candidates(
    recorder: Recorder, session: Session, users: int
) -> None:
    with recorder.measure("block") as measured:
        assert [(r.owner.name, len(r.tags)) for r in session.scalars(select(Resource))]
    assert {f.tally.subject for f in done(measured).findings} == {"Resource.owner", "Resource.tags"}


def test_a_relationship_that_was_loaded_already_costs_nothing(
    recorder: Recorder, session: Session, users: int
) -> None:
    with recorder.measure("block") as measured:
        loaded = session.scalars(select(User)).all()
        assert owners(session, select(Resource)) == [user.id for user in loaded]
    assert counts(measured) == {"queries": 2, "roundtrips": 2, "rows": 2 * users}


# --- Attributes


def test_a_deferred_column_in_a_loop_is_a_candidate(
    recorder: Recorder, session: Session, users: int
) -> None:
    with recorder.measure("block") as measured:
        assert all(user.bio for user in session.scalars(select(User)))
    found = candidate(measured)
    assert (found.subject, found.facts["cause"], found.count) == ("User", "refresh", users)
    assert found.fix is not None
    assert "deferred" in found.fix


def test_attributes_that_expired_at_a_commit_are_a_candidate_in_a_loop(
    recorder: Recorder, session: Session, users: int
) -> None:
    found_users = session.scalars(select(User)).all()
    session.commit()
    with recorder.measure("block") as measured:
        assert all(user.name for user in found_users)
    found = candidate(measured)
    assert (found.subject, found.facts["cause"], found.count) == ("User", "refresh", users)
    assert found.fix is not None
    assert "commit" in found.fix


# --- Loops over statements of one's own


def get_each(session: Session, keys: range) -> None:
    for key in keys:
        assert session.get(User, key)


def select_each(session: Session, keys: range) -> None:
    for key in keys:
        session.scalars(select(User).where(User.email == f"{key}@example.org")).one()


def select_columns_each(session: Session, keys: range) -> None:
    for key in keys:
        assert session.execute(select(User.name, User.bio).where(User.id == key)).one()


def text_each(session: Session, keys: range) -> None:
    for key in keys:
        assert session.execute(text("SELECT name FROM users WHERE id = :id"), {"id": key}).one()


def driver_each(session: Session, keys: range) -> None:
    for key in keys:
        statement = f"SELECT name FROM users WHERE id = {key}"  # noqa: S608 - literals are the point
        assert session.connection().exec_driver_sql(statement).one()


def filter_each(session: Session, keys: range) -> None:
    for key in keys:
        session.scalars(select(Resource).where(Resource.rank > key, Resource.status == "x")).all()


def flush_each(session: Session, keys: range) -> None:
    for key in keys:
        session.add(User(name="n", email=f"{key}", bio=""))
        session.flush()


def insert_each(session: Session, keys: range) -> None:
    for key in keys:
        session.execute(insert(Tag).values(name=f"tag {key}"))


def update_each(session: Session, keys: range) -> None:
    for key in keys:
        session.connection().execute(update(USERS).where(User.id == key).values(name=f"n{key}"))


def flush_a_change_each(session: Session, keys: range) -> None:
    for user in session.scalars(select(User)):
        user.name += "!"
        session.flush()


BEFORE_THE_LOOP = "load them in one query before the loop"
INSERT_TOGETHER = (
    "insert them together: session.add_all(objects) and one flush, or "
    "session.execute(insert(Model), list_of_dicts)"
)
WRITE_TOGETHER = (
    "write them together: session.execute(update(Model), list_of_dicts), or one statement "
    "WHERE key IN (...)"
)


@pytest.mark.parametrize(
    ("run", "label", "fix"),
    [
        (get_each, "SELECT users", f"{BEFORE_THE_LOOP}: select(User).where(User.id.in_(keys))"),
        (
            select_each,
            "SELECT users",
            f"{BEFORE_THE_LOOP}: select(User).where(User.email.in_(keys))",
        ),
        (
            select_columns_each,
            "SELECT users",
            f"{BEFORE_THE_LOOP}: select(User).where(User.id.in_(keys))",
        ),
        (text_each, "SELECT users", f"{BEFORE_THE_LOOP}: ... WHERE id IN (...)"),
        (driver_each, "SELECT users", f"{BEFORE_THE_LOOP}: ... WHERE id IN (...)"),
        (filter_each, "SELECT resources", BEFORE_THE_LOOP),
        (flush_each, "INSERT users", INSERT_TOGETHER),
        (insert_each, "INSERT tags", INSERT_TOGETHER),
        (update_each, "UPDATE users", WRITE_TOGETHER),
        (flush_a_change_each, "UPDATE users", WRITE_TOGETHER),
    ],
)
def test_a_statement_in_a_loop_is_a_candidate_with_what_to_write_instead(
    recorder: Recorder,
    session: Session,
    users: int,
    run: Callable[[Session, range], None],
    label: str,
    fix: str,
) -> None:
    with recorder.measure("block") as measured:
        run(session, range(1, users + 1))
    found = candidate(measured)
    assert (found.label, found.subject, found.fix) == (label, None, fix)
    assert found.count == found.distinct == users
    assert found.site is not None
    assert found.site.function == run.__name__


def test_fewer_repeats_than_the_threshold_are_no_candidate(
    recorder: Recorder, session: Session, users: int
) -> None:
    with recorder.measure("block") as measured:
        get_each(session, range(1, 5))
    assert counts(measured) == {"queries": 4, "roundtrips": 4, "rows": 4}


def test_the_threshold_can_be_set(database: Database, session: Session, users: int) -> None:
    settings = Settings(root=ROOT, n_plus_one_threshold=3)
    with Recorder(settings) as recorder, recorder.measure("block") as measured:
        get_each(session, range(1, 4))
    assert measured["sql_n_plus_one"] == 1


def test_repeats_on_different_lines_are_no_candidate(
    recorder: Recorder, session: Session, users: int
) -> None:
    with recorder.measure("block") as measured:
        session.get(User, 1)
        session.get(User, 2)
        session.get(User, 3)
        session.get(User, 4)
        session.get(User, 5)
        session.get(User, 6)
    assert measured["sql_queries"] == 6
    assert measured["sql_n_plus_one"] == 0


def test_repeats_in_different_blocks_are_no_candidate(
    recorder: Recorder, session: Session, users: int
) -> None:
    with recorder.measure("all") as measured:
        for key in range(1, users + 1):
            with recorder.measure(f"user {key}"):
                get_each(session, range(key, key + 1))
    assert measured["sql_queries"] == users
    assert measured["sql_n_plus_one"] == 0


def test_a_loop_that_asks_for_batches_is_no_candidate(
    recorder: Recorder, session: Session, users: int
) -> None:
    with recorder.measure("block") as measured:
        for key in range(1, 7):
            keys = [key, key + 1, key + 2]
            session.scalars(select(User).where(User.id.in_(keys))).all()
    assert measured["sql_n_plus_one"] == 0


# --- Duplicates


def read(session: Session, key: int = 1) -> None:
    assert session.execute(select(User.name).where(User.id == key)).one()


def test_the_same_read_again_is_a_duplicate_and_no_candidate(
    recorder: Recorder, session: Session, users: int
) -> None:
    with recorder.measure("block") as measured:
        for _ in range(6):
            read(session)
    found = candidate(measured, "sql_duplicates")
    assert (found.count, found.distinct, found.duplicates) == (6, 1, 5)
    assert measured["sql_duplicates"] == 5
    assert measured["sql_n_plus_one"] == 0


def test_other_parameters_are_no_duplicates(
    recorder: Recorder, session: Session, users: int
) -> None:
    with recorder.measure("block") as measured:
        for key in range(1, users + 1):
            read(session, key)
    assert candidate(measured).duplicates == 0
    assert measured["sql_duplicates"] == 0


def test_a_loop_that_also_repeats_itself_is_both(
    recorder: Recorder, session: Session, users: int
) -> None:
    with recorder.measure("block") as measured:
        for key in [*range(1, users + 1), 1, 2]:
            read(session, key)
    assert measured["sql_n_plus_one"] == 1
    assert measured["sql_duplicates"] == 2


def test_the_same_read_on_another_line_is_a_duplicate(
    recorder: Recorder, session: Session, users: int
) -> None:
    statement = select(User.name).where(User.id == 1)
    with recorder.measure("block") as measured:
        session.execute(statement).one()
        session.execute(statement).one()
    assert measured["sql_duplicates"] == 1


def test_reads_that_differ_in_a_literal_only_are_no_duplicates(
    recorder: Recorder, engine: Engine, users: int
) -> None:
    with engine.connect() as connection, recorder.measure("block") as measured:
        for literal in ("1", "2", "1"):
            connection.exec_driver_sql(f"SELECT name FROM users WHERE id = {literal}").one()  # noqa: S608 - literals are the point
    assert measured["sql_duplicates"] == 1


def test_the_same_read_in_two_blocks_is_no_duplicate(
    recorder: Recorder, session: Session, users: int
) -> None:
    with recorder.measure("all") as measured:
        for name in ("first", "second"):
            with recorder.measure(name):
                read(session)
    assert measured["sql_duplicates"] == 0


def test_parameters_that_cannot_be_hashed_are_compared_too(
    recorder: Recorder, engine: Engine, database: Database, users: int
) -> None:
    class Bytes(bytearray):
        """SQLite and PostgreSQL take it as binary data; it has no hash."""

    if database.driver == "asyncpg":
        statement = "SELECT length($1::bytea) + 0"
    else:
        place = "?" if database.is_sqlite else "%s::bytea"
        statement = f"SELECT length({place}) + 0"
    with engine.connect() as connection, recorder.measure("block") as measured:
        for value in (b"1", b"2", b"1"):
            connection.exec_driver_sql(statement, (Bytes(value),)).all()
    assert measured["sql_duplicates"] == 1


def by_flush(session: Session) -> None:
    session.add(User(name="n", email="n", bio=""))
    session.flush()


def by_core(session: Session) -> None:
    session.connection().execute(update(USERS).where(User.id == 2).values(name="x"))


def by_text(session: Session) -> None:
    session.execute(text("UPDATE users SET name = 'x' WHERE id = 2"))


def by_executemany(session: Session) -> None:
    session.execute(insert(User), [{"name": "a", "email": f"m{n}", "bio": ""} for n in range(3)])


@pytest.mark.parametrize("write", [by_flush, by_core, by_text, by_executemany])
def test_a_read_after_a_write_to_its_table_is_no_duplicate(
    recorder: Recorder, session: Session, users: int, write: Callable[[Session], None]
) -> None:
    with recorder.measure("block") as measured:
        read(session)
        write(session)
        read(session)
    assert measured["sql_duplicates"] == 0


def test_a_read_of_a_join_after_a_write_to_one_of_its_tables_is_no_duplicate(
    recorder: Recorder, session: Session, users: int
) -> None:
    with recorder.measure("block") as measured:
        for _ in range(2):
            session.execute(select(Resource.id, User.name).join(Resource.owner)).all()
            by_core(session)
    assert measured["sql_duplicates"] == 0


def test_a_read_after_a_write_to_another_table_stays_a_duplicate(
    recorder: Recorder, session: Session, users: int
) -> None:
    with recorder.measure("block") as measured:
        read(session)
        session.add(Note(body="n"))
        session.flush()
        read(session)
    assert measured["sql_duplicates"] == 1


def test_a_write_that_is_repeated_is_no_duplicate(
    recorder: Recorder, session: Session, users: int
) -> None:
    with recorder.measure("block") as measured:
        for _ in range(6):
            by_core(session)
    assert measured["sql_queries"] == 6
    assert measured["sql_duplicates"] == 0
    assert measured["sql_n_plus_one"] == 0


def test_the_same_read_of_two_databases_is_no_duplicate(
    recorder: Recorder, sqlite_database: Database, tmp_path: Path
) -> None:
    other = sqlite_database.make_engine(url=f"sqlite:///{tmp_path}/other.db")
    with recorder.measure("block") as measured:
        for engine in (sqlite_database.engine, other):
            with engine.connect() as connection:
                connection.execute(text("SELECT 1")).all()
    assert measured["sql_queries"] == 2
    assert measured["sql_duplicates"] == 0


# --- What is not kept


def test_no_parameter_is_kept(recorder: Recorder, session: Session, users: int) -> None:
    with recorder.measure("block") as measured:
        for key in range(1, users + 1):
            session.scalars(select(User).where(User.email == f"{key}@example.org")).one()
        session.execute(text("SELECT 1 FROM users WHERE name = 'a literal'")).all()
    kept = repr(done(measured).to_dict())
    assert "example.org" not in kept
    assert "a literal" not in kept
    assert tally_of(measured, "SELECT ? FROM").operation.endswith("WHERE name = ?")


def test_parameters_of_the_first_statements_are_kept_where_asked_for(
    session: Session, users: int
) -> None:
    settings = Settings(root=ROOT, show_parameters=True)
    with Recorder(settings) as recorder, recorder.measure("block") as measured:
        select_each(session, range(1, users + 1))
    samples = candidate(measured).samples
    assert len(samples) == 3
    assert "1@example.org" in samples[0]
