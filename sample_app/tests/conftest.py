"""A migrated, seeded database for the session, and an application for each test.

The database is a SQLite file in a temporary folder. With ``SAMPLE_APP_TEST_DATABASE_URL`` it is
made on that PostgreSQL server, under a name of its own, and dropped at the end. The cache is in
the process; with ``SAMPLE_APP_TEST_REDIS_URL`` it is on that Redis server, under a prefix of its
own, and removed. Either way each process makes its own, so that workers of pytest-xdist do not
meet, and each test finds the cache empty.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import uuid4

import pytest
import redis
from fastapi import FastAPI
from sqlalchemy import URL, create_engine, make_url, text
from sqlalchemy.orm import sessionmaker

from sample_app.core.config import Settings
from sample_app.core.database import Database
from sample_app.core.metrics import Metrics
from sample_app.core.migrate import upgrade
from sample_app.main import create_app
from sample_app.seed import seed
from sample_app.tests.running import RunningClient
from sample_app.tests.webhook import Webhook, running
from sample_app.worker.services import Services, lent


@contextmanager
def _postgresql_database(server: URL) -> Iterator[str]:
    name = f"sample_app_test_{uuid4().hex}"
    admin = create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        try:
            yield server.set(database=name).render_as_string(hide_password=False)
        finally:
            with admin.connect() as connection:
                connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        admin.dispose()


@pytest.fixture(scope="session")
def new_database_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """Make an empty database and give its URL; all are gone at the end of the session."""
    server = os.environ.get("SAMPLE_APP_TEST_DATABASE_URL")
    if server is not None and make_url(server).get_backend_name() != "postgresql":
        pytest.fail("SAMPLE_APP_TEST_DATABASE_URL must be the URL of a PostgreSQL server")
    with ExitStack() as stack:

        def make() -> str:
            if server is None:
                return f"sqlite:///{tmp_path_factory.mktemp('database') / 'sample_app.db'}"
            return stack.enter_context(_postgresql_database(make_url(server)))

        yield make


@pytest.fixture(scope="session")
def cache_place() -> Iterator[dict[str, Any]]:
    """Give the settings that say where the cache is."""
    url = os.environ.get("SAMPLE_APP_TEST_REDIS_URL")
    if url is None:
        yield {"redis_url": None}
        return
    prefix = f"sample_app_test_{uuid4().hex}-"
    with redis.Redis.from_url(url) as server:
        # The application would go on without it, and the tests would fail in strange ways.
        server.ping()
        # A machine that is busy with tests may take its time.
        yield {"redis_url": url, "redis_timeout": 10, "cache_prefix": prefix}
        for key in server.scan_iter(match=f"{prefix}*", count=1000):
            server.unlink(key)


@pytest.fixture(scope="session")
def settings(new_database_url: Callable[[], str], cache_place: dict[str, Any]) -> Settings:
    """Settings for the session's servers; traps come from the environment, as for the app."""
    return Settings(database_url=new_database_url(), **cache_place)


@pytest.fixture(scope="session")
def database(settings: Settings) -> Iterator[Database]:
    """Give the session's database; what a test writes there must not be committed."""
    database = Database.from_settings(settings)
    upgrade(database.engine, traps=settings.traps)
    seed(database.engine)
    yield database
    database.dispose()


@pytest.fixture
def isolated(database: Database) -> Iterator[Database]:
    """Give the database inside a transaction that is rolled back after the test.

    The application commits to a SAVEPOINT in it, and does not know.
    """
    with database.engine.connect() as connection:
        transaction = connection.begin()
        sessions = sessionmaker(
            connection, expire_on_commit=False, join_transaction_mode="create_savepoint"
        )
        yield Database(database.engine, sessions, sessions)
        transaction.rollback()


@pytest.fixture
def app(settings: Settings, isolated: Database) -> FastAPI:
    """Make an application whose writes are undone after the test."""
    return create_app(settings, isolated)


@pytest.fixture
def client(app: FastAPI) -> Iterator[RunningClient]:
    """Call an application whose writes are undone after the test, and whose cache is cold."""
    with RunningClient(app) as client:
        yield client


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    """Run a server that takes announcements."""
    with running() as webhook:
        yield webhook


@pytest.fixture
def telling(settings: Settings, isolated: Database, webhook: Webhook) -> Iterator[RunningClient]:
    """Call an application that tells the webhook of new resources."""
    settings = settings.model_copy(update={"webhook_url": webhook.url})
    with RunningClient(create_app(settings, isolated)) as client:
        yield client


@pytest.fixture
def services(settings: Settings, isolated: Database) -> Iterator[Services]:
    """Let tasks that are run here work with the test's database."""
    services = Services(settings, isolated, Metrics())
    with lent(services):
        yield services
