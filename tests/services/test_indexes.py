"""Pairs of a schema and a query with the known right answer, and what trying an index leaves."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from sqlalchemy import (
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    delete,
    func,
    insert,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.engine import Connection, Engine

from pytest_perfguard import Recorder
from pytest_perfguard.model import Tally
from tests.services.support import Database, counts, done, explained

METADATA = MetaData()
PEOPLE = Table(
    "people",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("email", String(100)),
    Column("name", String(100)),
    Column("city", String(100)),
    Column("born", Integer),
    Column("active", Boolean),
    Index("ix_people_email", "email", unique=True),
)
ORDERS = Table(
    "orders",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("person_id", ForeignKey("people.id")),
    Column("status", String(20)),
    Column("made", Integer),
    Column("total", Integer),
    Index("ix_orders_made_status", "made", "status"),
    Index(
        "ix_orders_open", "total", sqlite_where=text("status = 'open'"),
        postgresql_where=text("status = 'open'"),
    ),
)  # fmt: skip
LINES = Table(
    "lines",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("order_id", ForeignKey("orders.id"), index=True),
    Column("sku", String(20)),
)
PERSON, ORDER, LINE = PEOPLE.c, ORDERS.c, LINES.c
OTHER = PEOPLE.alias()
INNER = select(PEOPLE).subquery()


class Pair(NamedTuple):
    """A query, and what is right to say of it.

    Attributes:
        scans: how many statements no index could serve.
        advice: the indexes to add, as code; with another one for PostgreSQL where that differs.
        sorts: whether all rows are sorted for a few.
        says: a piece of what is said besides the code.
    """

    query: Any
    scans: int = 0
    advice: str = ""
    postgresql: str = ""
    sorts: int = 0
    says: str = ""


def add(name: str, table: str, *columns: str, options: str = "") -> str:
    parts = ", ".join(c if c.startswith("sa.") else f'"{c}"' for c in columns)
    return f'op.create_index("{name}", "{table}", [{parts}]{options})'


PAIRS = {
    # An index serves it.
    "primary key": Pair(select(PERSON.name).where(PERSON.id == 7)),
    "unique index": Pair(select(PERSON.name).where(PERSON.email == "7@example.org")),
    "first of a composite index": Pair(select(ORDER.total).where(ORDER.made > 7)),
    "keyset page": Pair(
        select(ORDER.id, ORDER.made)
        .where(tuple_(ORDER.made, ORDER.id) < (70, 7))
        .order_by(ORDER.made.desc(), ORDER.id.desc())
        .limit(5)
    ),
    "partial index": Pair(
        select(ORDER.id).where(ORDER.status == text("'open'")).order_by(ORDER.total).limit(5)
    ),
    "no condition": Pair(select(PERSON.name).order_by(PERSON.name)),
    "whole table joined": Pair(
        select(PERSON.name).join_from(PEOPLE, ORDERS, isouter=True).where(ORDER.id.is_(None)),
        1,
        add("ix_orders_person_id", "orders", "person_id"),
    ),
    # One could.
    "one column": Pair(
        select(PERSON.id).where(PERSON.city == "x"), 1, add("ix_people_city", "people", "city")
    ),
    "two columns": Pair(
        select(PERSON.id).where(PERSON.city == "x", PERSON.name == "y"),
        1,
        add("ix_people_city_name", "people", "city", "name"),
    ),
    "range before equality": Pair(
        select(PERSON.id).where(PERSON.born > 7, PERSON.city == "x"),
        1,
        add("ix_people_city_born", "people", "city", "born"),
    ),
    "range": Pair(
        select(PERSON.id).where(PERSON.born.between(7, 9)),
        1,
        add("ix_people_born", "people", "born"),
    ),
    "newest of one": Pair(
        select(ORDER.id)
        .where(ORDER.person_id == 7)
        .order_by(ORDER.made.desc(), ORDER.id.desc())
        .limit(5),
        1,
        add("ix_orders_person_id_made", "orders", "person_id", "made"),
    ),
    "order both ways": Pair(
        select(ORDER.id)
        .where(ORDER.person_id == 7)
        .order_by(ORDER.made.desc(), ORDER.total)
        .limit(5),
        1,
        add(
            "ix_orders_person_id_made_total", "orders", "person_id", 'sa.text("made DESC")', "total"
        ),
        sorts=1,
    ),
    "columns in another order": Pair(
        select(ORDER.total).where(ORDER.status == "x").order_by(ORDER.made).limit(5),
        1,
        add("ix_orders_status_made", "orders", "status", "made"),
        says="# ix_orders_made_status has them in another order: made, status",
    ),
    "second of a composite index": Pair(
        select(ORDER.total).where(ORDER.status == "x"),
        1,
        add("ix_orders_status", "orders", "status"),
        says="# ix_orders_made_status has status behind made",
    ),
    "function of a column": Pair(
        select(PERSON.id).where(func.lower(PERSON.email) == "x"),
        1,
        add("ix_people_email_lower", "people", 'sa.text("lower(email)")'),
        says="# ix_people_email is on email, what is compared is lower(email)",
    ),
    "sum of columns": Pair(
        select(ORDER.id).where(ORDER.total + ORDER.made == 7),
        1,
        add("ix_orders_total_made", "orders", 'sa.text("(total + made)")'),
    ),
    "start of a string": Pair(
        select(PERSON.id).where(PERSON.name.like("x%")),
        1,
        add("ix_people_name_nocase", "people", 'sa.text("name COLLATE NOCASE")'),
        add(
            "ix_people_name_pattern",
            "people",
            "name",
            options=', postgresql_ops={"name": "text_pattern_ops"}',
        ),
    ),
    "list of values": Pair(
        select(PERSON.id).where(PERSON.city.in_(["x", "y"])),
        1,
        add("ix_people_city", "people", "city"),
    ),
    "null": Pair(
        select(PERSON.id).where(PERSON.born.is_(None)), 1, add("ix_people_born", "people", "born")
    ),
    "flag": Pair(
        select(PERSON.name).where(PERSON.active), 1, add("ix_people_active", "people", "active")
    ),
    "either of two": Pair(
        select(PERSON.id).where(or_(PERSON.city == "x", PERSON.name == "y")),
        1,
        add("ix_people_city", "people", "city") + " and " + add("ix_people_name", "people", "name"),
    ),
    "the key or another": Pair(
        select(PERSON.id).where(or_(PERSON.id == 7, PERSON.name == "y")),
        1,
        add("ix_people_name", "people", "name"),
    ),
    "foreign key of a join": Pair(
        select(ORDER.id).join_from(ORDERS, PEOPLE).where(PERSON.email == "7@example.org"),
        1,
        add("ix_orders_person_id", "orders", "person_id"),
    ),
    "inside a subquery": Pair(
        select(PERSON.name).where(
            PERSON.id.in_(select(ORDER.person_id).where(ORDER.person_id == 7))
        ),
        1,
        add("ix_orders_person_id", "orders", "person_id"),
    ),
    "through a subquery": Pair(
        select(INNER.c.id).where(INNER.c.city == "x"),
        1,
        add("ix_people_city", "people", "city"),
    ),
    "an alias": Pair(
        select(OTHER.c.id).where(OTHER.c.city == "x"), 1, add("ix_people_city", "people", "city")
    ),
    "update": Pair(
        update(PEOPLE).where(PERSON.city == "x").values(name="z"),
        1,
        add("ix_people_city", "people", "city"),
    ),
    "delete": Pair(delete(LINES).where(LINE.sku == "x"), 1, add("ix_lines_sku", "lines", "sku")),
    "sorted page of all": Pair(
        select(PERSON.id, PERSON.name).order_by(PERSON.name).limit(5),
        0,
        add("ix_people_name", "people", "name"),
        sorts=1,
    ),
    "the same table twice": Pair(
        select(PERSON.id)
        .join_from(PEOPLE, OTHER, OTHER.c.city == PERSON.city)
        .where(PERSON.email == "7@example.org"),
        1,
        add("ix_people_city", "people", "city"),
    ),
    "two queries": Pair(
        select(PERSON.id).where(PERSON.city == "x").union(select(LINE.id).where(LINE.sku == "y")),
        1,
        add("ix_people_city", "people", "city") + " and " + add("ix_lines_sku", "lines", "sku"),
    ),
    # None could.
    "one column is another": Pair(
        select(PERSON.id).where(PERSON.name == PERSON.city),
        1,
        says="no index that was tried",
    ),
    "end of a string": Pair(
        select(PERSON.id).where(PERSON.name.like("%x")),
        1,
        says="a LIKE that begins with a wildcard",
    ),
    "inside a string": Pair(
        select(PERSON.id).where(PERSON.name.contains("x")),
        1,
        says="a LIKE that begins with a wildcard",
    ),
    "all but one": Pair(
        select(PERSON.id).where(PERSON.name != "x"),
        1,
        says="no index that was tried changes the plan",
    ),
    "text": Pair(text("SELECT id FROM people WHERE city = 'x'"), 1),
}


@pytest.fixture
def shop(sync_database: Database) -> Iterator[Engine]:
    """Three tables with a few rows."""
    make(sync_database.engine)
    yield sync_database.engine
    METADATA.drop_all(sync_database.engine)


def make(engine: Engine) -> None:
    with engine.begin() as connection:
        METADATA.drop_all(connection)
        METADATA.create_all(connection)
        connection.execute(
            insert(PEOPLE),
            [
                {"email": f"{n}@example.org", "name": f"name {n}", "city": f"city {n}", "born": n}
                for n in range(1, 31)
            ],
        )
        connection.execute(
            insert(ORDERS),
            [{"person_id": n, "status": "x", "made": n, "total": n} for n in range(1, 31)],
        )
        connection.execute(text("ANALYZE people"))


def measure(recorder: Recorder, connection: Connection, query: Any) -> tuple[Tally, int, int]:
    with explained(recorder) as measured:
        connection.execute(query)
    (tally,) = done(measured).tallies
    assert counts(measured)["roundtrips"] == 1
    return tally, int(measured["sql_full_scans"]), int(measured["sql_sorts"])


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_the_answer_is_right_and_the_advice_changes_the_plan(
    recorder: Recorder, sync_database: Database, shop: Engine, pair: Pair
) -> None:
    with shop.connect() as connection:
        tally, scans, sorts = measure(recorder, connection, pair.query)
        connection.rollback()
        advice = tally.facts.get("index", "")
        code, _, remark = advice.partition("  # ")
        if not code.startswith("op."):
            code, remark = "", advice
        right = pair.advice if sync_database.is_sqlite else pair.postgresql or pair.advice
        assert (scans, code) == (pair.scans, right), tally.facts
        assert pair.says.removeprefix("# ") in remark
        if not code:
            return
        for one in code.split(" and "):
            apply(connection, one)
        tally, scans, sorts = measure(recorder, connection, pair.query)
        connection.rollback()
        assert (scans, sorts) == (0, 0), tally.facts


def apply(connection: Connection, code: str) -> None:
    """Run what was advised, as a migration would."""
    operations = pytest.importorskip("alembic.operations")
    migration = pytest.importorskip("alembic.runtime.migration")
    context = migration.MigrationContext.configure(connection)
    eval(code, {"op": operations.Operations(context), "sa": sa})  # noqa: S307 - our own code


def test_there_are_enough_pairs() -> None:
    assert len(PAIRS) >= 20


# --- Nothing is left behind


UNSERVED = select(PERSON.id).where(PERSON.city == "city 7")
RIGHT = add("ix_people_city", "people", "city")
# A savepoint of the code's that has written nothing is given a number, and so a lock on that: by
# being DISTINCT, it is left out here.
POSTGRES_STATE = """
SELECT txid_current_if_assigned() IS NOT NULL, current_setting('enable_seqscan'),
    current_setting('lock_timeout'), current_setting('search_path'),
    (SELECT string_agg(DISTINCT concat_ws(' ', locktype, relation::regclass, mode), ', ')
        FROM pg_locks WHERE pid = pg_backend_pid() AND locktype <> 'virtualxid'),
    (SELECT last_value FROM people_id_seq), (SELECT count(*) FROM people),
    (SELECT count(*) FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace)
"""
SQLITE_STATE = """
SELECT (SELECT count(*) FROM people), (SELECT group_concat(name) FROM sqlite_master),
    total_changes(), (SELECT schema_version FROM pragma_schema_version)
"""


def state(database: Database, connection: Connection) -> list[Any]:
    driver: Any = connection.connection.driver_connection
    inside = driver.in_transaction if database.is_sqlite else None
    query = SQLITE_STATE if database.is_sqlite else POSTGRES_STATE
    return [inside, *connection.execute(text(query)).one()]


WRITE = update(PEOPLE).where(PERSON.id == 1).values(name="z")


@pytest.mark.parametrize("before", ["read", "write", "savepoint", "autocommit"])
def test_trying_an_index_leaves_no_trace(
    recorder: Recorder, database: Database, before: str
) -> None:
    make(database.engine)
    options = {"isolation_level": "AUTOCOMMIT"} if before == "autocommit" else {}
    states = []
    for way in ("plain", "explained"):
        with database.make_engine(**options).connect() as connection:
            if before in ("write", "savepoint"):
                connection.execute(WRITE)
            if before == "savepoint":
                connection.begin_nested()
            if way == "plain":
                connection.execute(UNSERVED).all()
            else:
                tally, scans, _ = measure(recorder, connection, UNSERVED)
                assert (scans, tally.facts.get("index")) == (1, RIGHT)
            states.append(state(database, connection))
            assert connection.scalar(select(PERSON.name).where(PERSON.id == 1)) == (
                "z" if before in ("write", "savepoint") else "name 1"
            )
    assert states[0] == states[1]
    METADATA.drop_all(database.engine)


def test_who_holds_a_lock_is_not_waited_for(
    recorder: Recorder, sync_database: Database, shop: Engine
) -> None:
    with shop.connect() as other, shop.connect() as connection:
        other.execute(WRITE)
        tally, scans, _ = measure(recorder, connection, UNSERVED)
        assert scans == 1
        # SQLite has a copy to try it on.
        assert tally.facts.get("index") == (RIGHT if sync_database.is_sqlite else None)
        assert connection.scalar(select(PERSON.name).where(PERSON.id == 1)) == "name 1"


def test_a_large_table_gets_no_index_and_it_is_said(
    recorder: Recorder, postgres_database: Database
) -> None:
    engine = postgres_database.engine
    make(engine)
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE pg_class SET reltuples = 200000 WHERE oid = 'people'::regclass")
        )
    with engine.connect() as connection:
        tally, scans, _ = measure(recorder, connection, UNSERVED)
    assert scans == 1
    assert tally.facts["index"] == f"{RIGHT}  # not tried: people has about 200,000 rows"
    METADATA.drop_all(engine)


def test_an_engine_with_one_connection_keeps_it(
    recorder: Recorder, postgres_database: Database
) -> None:
    make(postgres_database.engine)
    with postgres_database.engine.connect() as only:
        engine = sa.create_engine(
            "postgresql+psycopg://",
            creator=lambda: only.connection.driver_connection,
            poolclass=sa.StaticPool,
        )
        with engine.connect() as connection:
            tally, scans, _ = measure(recorder, connection, UNSERVED)
            assert (scans, "index" in tally.facts) == (1, False)
            assert connection.scalar(select(PERSON.name).where(PERSON.id == 1)) == "name 1"
    METADATA.drop_all(postgres_database.engine)


def test_statistics_of_a_small_table_say_nothing_of_a_large_one(
    recorder: Recorder, sqlite_database: Database
) -> None:
    """SQLite would rather read three rows than an index, and says so only when analysed."""
    metadata = MetaData()
    small = Table(
        "small", metadata, Column("id", Integer, primary_key=True), Column("kind", Integer),
        Index("ix_small_kind", "kind"),
    )  # fmt: skip
    with sqlite_database.engine.connect() as connection:
        metadata.create_all(connection)
        connection.execute(insert(small), [{"kind": 1}, {"kind": 1}, {"kind": 1}])
        connection.execute(text("ANALYZE"))
        connection.commit()
    with sqlite_database.make_engine().connect() as connection:
        query = select(small.c.id).where(small.c.kind >= 1)
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", (1,)).one()[3]
        _, scans, _ = measure(recorder, connection, query)
    assert scans == 0, plan


def test_an_index_is_tried_once(
    recorder: Recorder, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(sqlite_database.engine)
    copies = []
    connect = sqlite3.connect

    def copying(*args: Any, **options: Any) -> Any:
        copies.append(args)
        return connect(*args, **options)

    by_name = [select(PERSON.id).where(PERSON.name.like(name)) for name in ("%x", "x%", "y%")]
    with sqlite_database.engine.connect() as connection:
        monkeypatch.setattr(sqlite3, "connect", copying)
        told = [measure(recorder, connection, UNSERVED)[0].facts["index"] for _ in range(3)]
        assert len(copies) == 1
        assert set(told) == {RIGHT}
        # The text is the same, what it asks for is not.
        told = [measure(recorder, connection, query)[0].facts["index"] for query in by_name]
        assert len(copies) == 3
    assert "wildcard" in told[0]
    assert told[1].startswith("op.create_index")
    assert told[2] == told[1]
