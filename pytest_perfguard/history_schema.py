"""The tables of a history, how they came to be, and how a database is opened.

This module imports SQLAlchemy, so it is imported where a history is used, and not before.

Every transaction that writes holds the row of the schema's version, so that two processes that
write at once do so one after the other, whatever the database is; SQLite locks all of itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import (
    URL,
    Column,
    Connection,
    Double,
    Engine,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    inspect,
    make_url,
    select,
    update,
)
from sqlalchemy.exc import (
    ArgumentError,
    IntegrityError,
    NoSuchModuleError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.pool import NullPool

from pytest_perfguard.errors import HistoryError

# Seconds: a database that does not answer must not hold up the end of a session for long.
_PATIENCE = 10
# Seconds for which one writer waits for another.
_TURN = 60
_HIDDEN = "***"

METADATA = MetaData()
SCHEMA = Table(
    "perfguard_schema",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
)
RUNS = Table(
    "perfguard_runs",
    METADATA,
    Column("id", Integer, primary_key=True),
    # ISO 8601 in UTC, whose order is that of time.
    Column("started", String(40), nullable=False),
    Column("commit_id", String(64), nullable=False),
    Column("branch", String(255), nullable=False),
    Column("dirty", Integer, nullable=False),
    # What times depend on, in words; and all that is known of it, as JSON.
    Column("environment", String(255), nullable=False),
    Column("details", Text, nullable=False),
    Column("tests", Integer, nullable=False),
    Index("perfguard_runs_by_branch", "branch", "started"),
)
TESTS = Table(
    "perfguard_tests",
    METADATA,
    Column("id", Integer, primary_key=True),
    # Node ids may be longer than what databases can have an index on.
    Column("digest", String(64), nullable=False, unique=True),
    Column("nodeid", Text, nullable=False),
    # The kinds of databases that it used: on another kind it is another series.
    Column("databases", String(255), nullable=False),
)
METRICS = Table(
    "perfguard_metrics",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", String(100), nullable=False, unique=True),
)
# Without an index besides its key, whose order is that of writing and of clearing.
VALUES = Table(
    "perfguard_values",
    METADATA,
    Column("run_id", ForeignKey(RUNS.c.id), primary_key=True),
    Column("test_id", ForeignKey(TESTS.c.id), primary_key=True),
    Column("metric_id", ForeignKey(METRICS.c.id), primary_key=True),
    Column("value", Double, nullable=False),
    sqlite_with_rowid=False,
)
# What a person has looked at: a series is judged from that run on.
ACCEPTED = Table(
    "perfguard_accepted",
    METADATA,
    Column("test_id", ForeignKey(TESTS.c.id), primary_key=True),
    Column("metric_id", ForeignKey(METRICS.c.id), primary_key=True),
    Column("run_id", Integer, nullable=False),
    Column("reason", Text, nullable=False),
)

Migration = Callable[[Connection], None]
# What leads from each version to the next one, the first from version 1 to 2. A store that is made
# new has the tables as they are above, so each change of them comes with an entry here.
MIGRATIONS: list[Migration] = []


def newest() -> int:
    """Return the version of the schema that this version of the plugin writes."""
    return len(MIGRATIONS) + 1


def read_url(text: str) -> URL:
    """Return a URL of a database.

    Raises:
        HistoryError: if it is none; it is not shown then, as there may be a password in it.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise HistoryError(
            "what was given for the history is not the URL of a database: write "
            "sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE"
        ) from None
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise HistoryError("a history in memory keeps nothing: write sqlite:///FILE")
    return url


def shown(url: URL) -> str:
    """Return a URL without anything in it that may be a secret."""
    bare = url.set(query=dict.fromkeys(url.query, _HIDDEN))
    if url.host and "@" in url.host:
        # A password with a bare @ in it ends up here.
        bare = bare.set(host=f"{_HIDDEN}@{url.host.rpartition('@')[2]}")
    return bare.render_as_string(hide_password=True).replace("%2A", "*")


def open_engine(url: URL, *, writes: bool) -> Engine:
    """Return an engine of its own, without a pool.

    Raises:
        HistoryError: if the driver cannot be used.
    """
    arguments: dict[str, Any] = {}
    backend = url.get_backend_name()
    if backend == "sqlite":
        arguments["timeout"] = _TURN
    try:
        if url.get_driver_name() in ("psycopg", "psycopg2", "pymysql", "mysqldb"):
            arguments["connect_timeout"] = _PATIENCE
        engine = create_engine(url, poolclass=NullPool, connect_args=arguments)
    except NoSuchModuleError:
        raise HistoryError(
            f"{shown(url)}: SQLAlchemy knows no database {url.drivername!r}"
        ) from None
    except ImportError as error:
        raise HistoryError(
            f"{shown(url)}: the driver is not installed ({error.name or error})"
        ) from None
    if engine.dialect.is_async:
        raise HistoryError(
            f"{shown(url)}: {url.drivername} is a driver for asyncio: take another one, such as "
            "postgresql+psycopg"
        )
    if backend == "sqlite":
        _take_turns(engine, writes=writes)
    return engine


def _take_turns(engine: Engine, *, writes: bool) -> None:
    """Let SQLite lock its file when a transaction begins, not when it first writes.

    What has read by then could not go on, since another one has written meanwhile.
    """

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _: object) -> None:
        # The driver would begin transactions by itself, and too late.
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def told(url: URL, what: str) -> Iterator[None]:
    """Tell what a database says as an error of a history, on one line and without a password.

    Raises:
        HistoryError: if anything goes wrong.
    """
    try:
        yield
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip()
        reason = re.sub(r"\s*\n\s*", "; ", reason)
        if url.password:
            reason = reason.replace(str(url.password), _HIDDEN)
        if url.host and "@" in url.host:
            reason = reason.replace(url.host, url.host.rpartition("@")[2])
        raise HistoryError(f"the history at {shown(url)} {what}: {reason}") from None


def prepare(engine: Engine) -> None:
    """Make the table of the version where there is none.

    Two processes may do so at once: whoever comes second finds what the first one has made.
    """
    for last in (False, True):
        try:
            with engine.begin() as connection:
                SCHEMA.create(connection, checkfirst=True)
                if connection.scalar(select(SCHEMA.c.version)) is None:
                    connection.execute(insert(SCHEMA).values(id=1, version=0))
        except (IntegrityError, ProgrammingError, OperationalError):
            if last:
                raise
        else:
            return


def lock(connection: Connection, url: URL) -> None:
    """Wait for other writers and bring the schema up to date, in a transaction that has begun.

    Raises:
        HistoryError: if a newer version of the plugin has made it; nothing is changed then.
    """
    version = connection.scalar(select(SCHEMA.c.version).with_for_update())
    _refuse_newer(version, url)
    if version == newest():
        return
    if not version:
        METADATA.create_all(connection)
    else:
        for migrate in MIGRATIONS[version - 1 :]:
            migrate(connection)
    connection.execute(update(SCHEMA).values(version=newest()))


def check_readable(connection: Connection, url: URL) -> None:
    """Refuse to read what there is not, or what cannot be understood.

    Raises:
        HistoryError: with what to do.
    """
    is_there = inspect(connection).has_table(SCHEMA.name)
    version = connection.scalar(select(SCHEMA.c.version)) if is_there else None
    if not version:
        raise HistoryError(
            f"there is no history at {shown(url)} yet: pytest --perfguard-history=URL writes one"
        )
    _refuse_newer(version, url)
    if version < newest():
        raise HistoryError(
            f"the history at {shown(url)} has schema {version}, this version reads {newest()}: "
            "the next pytest --perfguard-history brings it up to date"
        )


def _refuse_newer(version: int | None, url: URL) -> None:
    if version is not None and version > newest():
        raise HistoryError(
            f"the history at {shown(url)} has schema {version}, this version knows {newest()}: "
            "install the version of pytest-perfguard that has written it, or a newer one"
        )
