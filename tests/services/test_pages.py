"""Pages far from the start, and reads that nothing limits."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import bindparam, func, insert, select, text
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session, selectinload

from pytest_perfguard import Recorder
from tests.services.models import Resource, Tag, User, add_rows
from tests.services.support import Database, here, place, tally_of

NAMES = select(Tag.id, Tag.name)
PAGE = NAMES.order_by(Tag.id).limit(10)

DEEP = {
    "parameter": PAGE.offset(1_000),
    "expression": PAGE.offset(bindparam("skipped", 5_000)),
    "text": text("SELECT id FROM tags ORDER BY id LIMIT :n OFFSET :skipped").bindparams(
        n=10, skipped=1_000
    ),
    "literal": text("SELECT id FROM tags ORDER BY id LIMIT 10 OFFSET 1000"),
}
NEAR = {
    "parameter": PAGE.offset(999),
    "literal": text("SELECT id FROM tags ORDER BY id LIMIT 10 OFFSET 999"),
    "large limit": NAMES.order_by(Tag.id).limit(5_000).offset(0),
    "keyset": PAGE.where(Tag.id > 5_000),
}


@pytest.mark.parametrize("statement", DEEP.values(), ids=DEEP)
def test_a_page_behind_many_rows_is_a_candidate(
    recorder: Recorder, session: Session, statement: Any
) -> None:
    with recorder.measure("block") as measured:
        for _ in range(2):
            session.execute(statement)  # deep
    assert measured["sql_deep_offsets"] == 1
    tally = tally_of(measured, "SELECT")
    assert tally.sums["deep_offsets"] == 2
    assert place(tally) == here("deep")


@pytest.mark.parametrize("statement", NEAR.values(), ids=NEAR)
def test_a_page_near_the_start_is_none(
    recorder: Recorder, session: Session, statement: Any
) -> None:
    with recorder.measure("block") as measured:
        session.execute(statement)
    assert measured["sql_deep_offsets"] == 0
    assert measured["sql_queries"] == 1


@pytest.fixture
def tags(database: Database) -> int:
    """How many tags there are now."""
    database.call(_add_tags, database.engine)
    return 1_000


def _add_tags(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(insert(Tag), [{"name": f"tag {n}"} for n in range(1_000)])


def test_many_rows_without_a_limit_are_a_candidate(
    recorder: Recorder, session: Session, tags: int
) -> None:
    with recorder.measure("block") as measured:
        assert len(session.execute(NAMES).all()) == tags  # all
    assert measured["sql_unbounded"] == 1
    assert place(tally_of(measured, "SELECT")) == here("all")


BOUNDED = {
    "limit": NAMES.limit(1_000),
    "keys": NAMES.where(Tag.id.in_(range(1, 2_000))),
    "range": NAMES.where(Tag.id.between(1, 2_000)),
    "fewer": NAMES.where(Tag.id > 1),
    "aggregate": select(func.count()).select_from(Tag),
    "in parts": NAMES.execution_options(yield_per=100),
    "streamed": NAMES.execution_options(stream_results=True),
}


@pytest.mark.parametrize("statement", BOUNDED.values(), ids=BOUNDED)
def test_what_something_limits_is_none(
    recorder: Recorder, session: Session, tags: int, statement: Any
) -> None:
    with recorder.measure("block") as measured:
        session.execute(statement).all()
    assert measured["sql_unbounded"] == 0


def test_many_small_reads_are_none(recorder: Recorder, session: Session, tags: int) -> None:
    with recorder.measure("block") as measured:
        for number in range(101):
            session.execute(NAMES.where(Tag.id > 990)).all()
            assert number < 101
    assert measured["sql_rows"] >= 1_000
    assert measured["sql_unbounded"] == 0


def test_what_is_loaded_along_is_limited_by_its_parents(
    recorder: Recorder, sync_database: Database
) -> None:
    add_rows(sync_database.engine, 2, resources_each=600, tags_each=0)
    with Session(sync_database.engine) as session, recorder.measure("block") as measured:
        owners = session.scalars(select(User).limit(2).options(selectinload(User.resources))).all()
        assert sum(len(owner.resources) for owner in owners) == 1_200
    assert measured["sql_unbounded"] == 0
    with Session(sync_database.engine) as session, recorder.measure("block") as measured:
        assert len(session.scalars(select(Resource)).all()) == 1_200
    assert measured["sql_unbounded"] == 1
