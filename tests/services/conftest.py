"""Databases for the tests of the SQL probe.

Every test that asks for ``database`` runs on each driver. Those of asyncio drivers run inside
SQLAlchemy's greenlet, so that one test body serves synchronous and asynchronous engines alike.
PostgreSQL is found by PERFGUARD_TEST_POSTGRES_URL or at its standard port on this machine.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import pytest
from sqlalchemy import create_engine, event, make_url
from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from pytest_perfguard import Recorder, Settings
from tests.services.models import Base, add_documents, add_rows
from tests.services.support import ASYNC_DRIVERS, ROOT, Database

STANDARD_POSTGRES = "postgresql://postgres@127.0.0.1:5432/postgres"
# Many times faster than TRUNCATE of tables that hold next to nothing.
EMPTY_POSTGRES = f"""
{";".join(str(table.delete()) for table in reversed(Base.metadata.sorted_tables))};
SELECT setval(oid, 1, false) FROM pg_class
WHERE relkind = 'S' AND relnamespace = current_schema()::regnamespace
"""  # noqa: S608 - names of tables
USERS = 6

DRIVERS = {
    "pysqlite": "sqlite+pysqlite",
    "aiosqlite": "sqlite+aiosqlite",
    "psycopg": "postgresql+psycopg",
    "psycopg_async": "postgresql+psycopg_async",
    "asyncpg": "postgresql+asyncpg",
}


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run the test where its database may be used."""
    database = pyfuncitem.funcargs.get("database")
    if not isinstance(database, Database) or not database.is_async:
        return None
    names = pyfuncitem._fixtureinfo.argnames
    database.call(pyfuncitem.obj, **{name: pyfuncitem.funcargs[name] for name in names})
    return True


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with empty tables."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    engine = create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    engine.dispose()
    return path


def _unavailable(reason: str) -> NoReturn:
    """Skip with the reason, or fail with it where the services have to be there."""
    if os.environ.get("PERFGUARD_TEST_REQUIRE_SERVICES"):
        pytest.fail(f"perfguard service: {reason}", pytrace=False)
    pytest.skip(f"perfguard service: {reason}")


@pytest.fixture(scope="session")
def postgres_admin() -> Iterator[tuple[Engine, str]]:
    """An engine and a schema with empty tables, of this process alone."""
    given = os.environ.get("PERFGUARD_TEST_POSTGRES_URL")
    url = make_url(given or STANDARD_POSTGRES).set(drivername="postgresql+psycopg")
    if find_spec("psycopg") is None:
        _unavailable("psycopg is not installed")
    schema = f"perfguard_{uuid.uuid4().hex[:12]}"
    options = f"-csearch_path={schema} -csynchronous_commit=off"
    engine = create_engine(url, connect_args={"options": options, "connect_timeout": 5})
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
    except OperationalError as error:
        place = "PERFGUARD_TEST_POSTGRES_URL" if given else "the standard local port"
        cause = " ".join(str(error.orig).split())
        _unavailable(f"no PostgreSQL at {place} ({url.render_as_string()}): {cause}")
    try:
        Base.metadata.create_all(engine)
        yield engine, schema
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP SCHEMA {schema} CASCADE")
        engine.dispose()


def _open(driver: str, request: pytest.FixtureRequest, directory: Path) -> Database:
    if find_spec(driver.removesuffix("_async")) is None and driver != "pysqlite":
        _unavailable(f"{driver} is not installed")
    if "sqlite" in driver:
        path = directory / f"{uuid.uuid4().hex}.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        return Database(driver, make_url(f"{DRIVERS[driver]}:///{path}"), {})
    admin, schema = request.getfixturevalue("postgres_admin")
    with admin.begin() as connection:
        connection.exec_driver_sql(EMPTY_POSTGRES)
    settings = {"search_path": schema, "synchronous_commit": "off"}
    if driver == "asyncpg":
        arguments: dict[str, Any] = {"server_settings": settings}
    else:
        arguments = {"options": " ".join(f"-c{key}={value}" for key, value in settings.items())}
    return Database(driver, admin.url.set(drivername=DRIVERS[driver]), arguments)


@pytest.fixture(params=list(DRIVERS))
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database; the test runs where its engine may be used."""
    with closing(_open(request.param, request, tmp_path)) as database:
        yield database


@pytest.fixture(params=ASYNC_DRIVERS)
def async_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database; the test drives its own coroutines by ``run``."""
    with closing(_open(request.param, request, tmp_path)) as database:
        yield database


@pytest.fixture(params=["pysqlite", "psycopg"])
def sync_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database, of a driver that may be used from any thread."""
    with closing(_open(request.param, request, tmp_path)) as database:
        yield database


@pytest.fixture
def sqlite_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database, for what does not depend on the driver."""
    with closing(_open("pysqlite", request, tmp_path)) as database:
        yield database


@pytest.fixture
def postgres_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database, for what only PostgreSQL has."""
    with closing(_open("psycopg", request, tmp_path)) as database:
        yield database


@pytest.fixture
def engine(database: Database) -> Engine:
    return database.engine


@pytest.fixture
def session(database: Database, engine: Engine) -> Iterator[Session]:
    session = Session(engine)
    yield session
    database.call(session.close)


@pytest.fixture
def users(database: Database) -> int:
    """How many users there are now; each has one resource, and each of those two tags."""
    database.call(add_rows, database.engine, USERS)
    return USERS


@pytest.fixture
def documents(database: Database, users: int) -> int:
    """How many invoices there are now, each with two lines, and as many plain documents."""
    database.call(add_documents, database.engine, users)
    return users


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with Recorder(Settings(root=ROOT)) as recorder:
        yield recorder


@pytest.fixture
def cursor_calls(engine: Engine) -> list[str]:
    """The statements that reach a cursor, as SQLAlchemy's documented event tells them."""
    calls: list[str] = []

    def before_cursor_execute(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        calls.append(statement)

    event.listen(engine, "before_cursor_execute", before_cursor_execute)
    return calls
