"""The engine, the sessions, and the dependency that hands a session to an endpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Self, cast

from fastapi import Request
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session, sessionmaker

from sample_app.core.config import Settings

_WRITES: Final = "sample_app_writes"
"""The execution option of connections whose transactions are going to write."""


@dataclass(frozen=True, slots=True)
class Database:
    """An engine and the sessions on it. Tests give sessions that join their own transaction."""

    engine: Engine
    session: sessionmaker[Session]
    writing_session: sessionmaker[Session]

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Prepare the engine; nothing connects before the first query."""
        engine = make_engine(settings)
        # Responses are built after the commit: expiring would read every object again.
        return cls(
            engine,
            sessionmaker(engine, expire_on_commit=False),
            sessionmaker(engine.execution_options(**{_WRITES: True}), expire_on_commit=False),
        )

    def dispose(self) -> None:
        """Close the pooled connections."""
        self.engine.dispose()


def make_engine(settings: Settings) -> Engine:
    """Make the engine for SQLite or PostgreSQL, with a bounded pool for both."""
    url = make_url(settings.database_url)
    sqlite = url.get_backend_name() == "sqlite"
    if sqlite and url.database in {None, "", ":memory:"}:
        msg = "an in-memory SQLite database is not shared between threads: name a file"
        raise ValueError(msg)
    engine = create_engine(
        url,
        pool_size=settings.pool_size,
        max_overflow=settings.pool_overflow,
        pool_timeout=settings.pool_timeout,
        pool_pre_ping=not sqlite,
        # Errors are logged, and what users have entered is nothing for a log.
        hide_parameters=True,
        # A session may be opened and used by different worker threads, one after the other.
        connect_args={"check_same_thread": False} if sqlite else {},
    )
    if sqlite:
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(dbapi_connection: Any, _record: object) -> None:
    """Enforce foreign keys, let readers and a writer work side by side, wait for locks."""
    # The driver's own BEGIN comes too late for SAVEPOINT to nest: we send it ourselves, below.
    dbapi_connection.isolation_level = None
    cursor = dbapi_connection.cursor()
    for pragma in ("foreign_keys = ON", "journal_mode = WAL", "busy_timeout = 5000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """Take the write lock at once if it will be needed.

    SQLite refuses a transaction that reads and then writes when another has written in between,
    without waiting.
    """
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


async def get_sessions(request: Request) -> sessionmaker[Session]:
    """Give sessions for reading, to an endpoint that may not need one."""
    return _database(request).session


def get_db(request: Request) -> Iterator[Session]:
    """Give a request that reads its own session; closing it gives the connection back."""
    with _database(request).session() as session:
        yield session


def get_writing_db(request: Request) -> Iterator[Session]:
    """Give a request that writes its own session; what is not committed is rolled back."""
    with _database(request).writing_session() as session:
        yield session


def _database(request: Request) -> Database:
    return cast("Database", request.app.state.database)
