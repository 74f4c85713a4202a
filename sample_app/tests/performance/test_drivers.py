"""The service's queries, through asynchronous drivers: they cost what they cost in the service.

The service itself is synchronous: on PostgreSQL it runs on psycopg. Its queries are those of any
driver, so who moves it to asyncio keeps them, and their budgets.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, Final

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from sample_app.core.database import Database
from sample_app.crud.resource import CRUDResource, serialize
from sample_app.crud.user import CRUDUser
from sample_app.schemas.resource import ResourceCreate, ResourceUpdate

# As conftest.py finds the server.
DRIVERS: Final = (
    ("psycopg", "asyncpg") if "SAMPLE_APP_TEST_DATABASE_URL" in os.environ else ("aiosqlite",)
)
pytestmark = pytest.mark.performance

_resources = CRUDResource()


def _page(db: Session) -> None:
    found = _resources.get_multi(db, sort_by="name", filters={"owner_id": 3})
    assert [serialize(row) for row in found.items]


def _after(db: Session) -> None:
    rows, following = _resources.get_page_after(db, after=100)
    assert [serialize(row).id for row in rows][-1] == following


def _one(db: Session) -> None:
    row = _resources.get_with_relations(db, 7)
    assert row is not None
    assert serialize(row).id == row.id


def _created(db: Session) -> None:
    assert serialize(_resources.create(db, ResourceCreate(name="new", owner_id=3))).name == "new"


def _changed(db: Session) -> None:
    row = _resources.get_with_relations(db, 7)
    assert row is not None
    assert serialize(_resources.update(db, row, ResourceUpdate(name="new"))).name == "new"


def _by_email(db: Session) -> None:
    assert CRUDUser().get_by_email(db, "NOBODY@example.com") is None


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    """Give each driver in turn."""
    name: str = request.param
    return name


@pytest.fixture
def run(database: Database, driver: str) -> Callable[[Callable[[Session], None]], None]:
    """Give what runs queries on a connection of the driver, and takes them back."""
    url = database.engine.url
    url = url.set(drivername=f"{url.get_backend_name()}+{driver}")

    async def ask(queries: Callable[[Session], Any]) -> None:
        engine = create_async_engine(url)
        try:
            async with AsyncSession(engine, expire_on_commit=False) as session:
                await session.run_sync(queries)
        finally:
            await engine.dispose()

    return lambda queries: asyncio.run(ask(queries))


@pytest.mark.parametrize(
    "queries",
    [
        pytest.param(_page, marks=pytest.mark.perf_budget(sql_queries=3)),
        pytest.param(_after, marks=pytest.mark.perf_budget(sql_queries=2)),
        pytest.param(_one, marks=pytest.mark.perf_budget(sql_queries=2)),
        pytest.param(_created, marks=pytest.mark.perf_budget(sql_queries=2)),
        pytest.param(_changed, marks=pytest.mark.perf_budget(sql_queries=3)),
        pytest.param(_by_email, marks=pytest.mark.perf_budget(sql_queries=1)),
    ],
)
@pytest.mark.perf_budget(sql_n_plus_one=0, sql_duplicates=0, sql_slowest="100ms", sql_errors=0)
def test_queries(
    run: Callable[[Callable[[Session], None]], None], queries: Callable[[Session], None]
) -> None:
    run(queries)
