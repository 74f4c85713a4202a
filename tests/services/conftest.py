"""Databases for the tests of the SQL probe, caches for those of the cache probe.

Every test that asks for ``database`` runs on each driver. Those of asyncio drivers run inside
SQLAlchemy's greenlet, so that one test body serves synchronous and asynchronous engines alike.
PostgreSQL is found by PERFGUARD_TEST_POSTGRES_URL or at its standard port on this machine.

Every test that asks for ``cache`` runs on Redis and on fakeredis, with synchronous and asyncio
clients. Redis is found by PERFGUARD_TEST_REDIS_URL or at its standard port on this machine; what
needs a server for itself starts one, if there is a ``redis-server`` on the path.

Tasks are published to RabbitMQ, found by PERFGUARD_TEST_AMQP_URL or at its standard port on this
machine, and to the same Redis; ``broker`` is each of them.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import pytest
import redis
from kombu import Connection, pools
from sqlalchemy import create_engine, event, make_url
from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from pytest_perfguard import Recorder, Settings
from tests.services.models import Base, add_documents, add_rows
from tests.services.support import ASYNC_DRIVERS, ROOT, Cache, Database, Shop, redis_server

STANDARD_POSTGRES = "postgresql://postgres@127.0.0.1:5432/postgres"
# Many times faster than TRUNCATE of tables that hold next to nothing.
EMPTY_POSTGRES = f"""
{";".join(str(table.delete()) for table in reversed(Base.metadata.sorted_tables))};
SELECT setval(oid, 1, false) FROM pg_class
WHERE relkind = 'S' AND relnamespace = current_schema()::regnamespace
"""  # noqa: S608 - names of tables
USERS = 6

STANDARD_REDIS = "redis://127.0.0.1:6379/9"
STANDARD_AMQP = "amqp://guest:guest@127.0.0.1:5672//"
BROKERS = {
    "redis": ("PERFGUARD_TEST_REDIS_URL", STANDARD_REDIS),
    "amqp": ("PERFGUARD_TEST_AMQP_URL", STANDARD_AMQP),
}
CACHES = ("redis", "redis-asyncio", "fakeredis", "fakeredis-asyncio")

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


def _client_class(*, is_async: bool) -> Any:
    if is_async:
        import redis.asyncio

        return redis.asyncio.Redis
    import redis

    return redis.Redis


@pytest.fixture(scope="session")
def redis_url() -> str:
    """Where Redis is; its database is shared, so every key there needs a name of its own."""
    given = os.environ.get("PERFGUARD_TEST_REDIS_URL")
    if find_spec("redis") is None:
        _unavailable("redis is not installed")
    import redis

    url = given or STANDARD_REDIS
    with redis.Redis.from_url(url, socket_connect_timeout=5) as client:
        try:
            client.ping()
        except redis.RedisError as error:
            place = "PERFGUARD_TEST_REDIS_URL" if given else "the standard local port"
            _unavailable(f"no Redis at {place}: {error}")
    return url


@pytest.fixture(scope="session")
def redis_program() -> str:
    """The program of a Redis server."""
    program = shutil.which("redis-server")
    if program is None or find_spec("redis") is None:
        _unavailable("redis-server is not installed" if program is None else "redis is not")
    return program


@pytest.fixture(scope="session")
def own_redis_port(redis_program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server that nobody else uses."""
    options = ("--port", "{port}", "--save", "", "--bind", "127.0.0.1")
    with redis_server(
        redis_program, tmp_path_factory.mktemp("redis"), *options, ready="Ready to accept"
    ) as port:
        yield port


@pytest.fixture(scope="session")
def cluster_port(redis_program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a cluster of one node."""
    import redis

    options = (
        "--port", "{port}", "--cluster-port", "{other}", "--save", "", "--bind", "127.0.0.1",
        "--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1",
    )  # fmt: skip
    with (
        redis_server(
            redis_program, tmp_path_factory.mktemp("cluster"), *options, ready="Ready to accept"
        ) as port,
        redis.Redis(port=port) as admin,
    ):
        admin.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        deadline = time.monotonic() + 30
        # A node that has just started waits for others; it does not say when it is through.
        while admin.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
            assert time.monotonic() < deadline, "the cluster did not start"
            time.sleep(0.05)
        yield port


def _make_fake(*, is_async: bool) -> Callable[..., Any]:
    if find_spec("fakeredis") is None:
        _unavailable("fakeredis is not installed")
    import fakeredis

    make: Any = fakeredis.FakeAsyncRedis if is_async else fakeredis.FakeRedis
    server = fakeredis.FakeServer()

    def make_fake(**options: Any) -> Any:
        return make(server=server, **options)

    return make_fake


def _open_cache(name: str, request: pytest.FixtureRequest) -> Iterator[Cache]:
    is_async = name.endswith("asyncio")
    # Letters alone, and as many in every process.
    prefix = "".join(chr(ord("a") + byte % 26) for byte in uuid.uuid4().bytes[:12]) + ":"
    if name.startswith("fakeredis"):
        with closing(Cache(name, _make_fake(is_async=is_async), prefix)) as cache:
            yield cache
        return
    url = request.getfixturevalue("redis_url")

    def make_client(**options: Any) -> Any:
        return _client_class(is_async=is_async).from_url(url, **options)

    with (
        _client_class(is_async=False).from_url(url) as admin,
        closing(Cache(name, make_client, prefix)) as cache,
    ):
        yield cache
        for key in admin.scan_iter(match=f"{prefix}*", count=1_000):
            admin.unlink(key)


@pytest.fixture(params=CACHES)
def cache(request: pytest.FixtureRequest) -> Iterator[Cache]:
    """An empty cache, through each kind of client."""
    yield from _open_cache(request.param, request)


@pytest.fixture(params=[name for name in CACHES if name.endswith("asyncio")])
def async_cache(request: pytest.FixtureRequest) -> Iterator[Cache]:
    """An empty cache, through an asyncio client."""
    yield from _open_cache(request.param, request)


@pytest.fixture(params=[name for name in CACHES if not name.endswith("asyncio")])
def sync_cache(request: pytest.FixtureRequest) -> Iterator[Cache]:
    """An empty cache, through a client that may be used from any thread."""
    yield from _open_cache(request.param, request)


@pytest.fixture(params=[name for name in CACHES if name.startswith("fakeredis")])
def fake_cache(request: pytest.FixtureRequest) -> Iterator[Cache]:
    """An empty cache of this process."""
    yield from _open_cache(request.param, request)


@pytest.fixture
def plain_cache(request: pytest.FixtureRequest) -> Iterator[Cache]:
    """An empty cache, for what does not depend on the client."""
    yield from _open_cache("fakeredis", request)


@pytest.fixture(params=["redis", "redis-asyncio"])
def own_cache(request: pytest.FixtureRequest, own_redis_port: int) -> Iterator[Cache]:
    """An empty cache on a server that nobody else uses; its keys need no prefix."""

    def make_client(**options: Any) -> Any:
        is_async = request.param.endswith("asyncio")
        return _client_class(is_async=is_async)(port=own_redis_port, **options)

    with closing(Cache(request.param, make_client)) as cache:
        yield cache
    with _client_class(is_async=False)(port=own_redis_port) as admin:
        admin.flushdb()


def _open_cluster(name: str, port: int) -> Iterator[Cache]:
    from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
    from redis.cluster import RedisCluster

    make: Any = AsyncRedisCluster if name.endswith("asyncio") else RedisCluster

    def make_client(**options: Any) -> Any:
        return make(host="127.0.0.1", port=port, **options)

    with closing(Cache(name, make_client)) as cache:
        yield cache
    with _client_class(is_async=False)(port=port) as admin:
        admin.flushdb()


@pytest.fixture(params=["cluster", "cluster-asyncio"])
def cluster(request: pytest.FixtureRequest, cluster_port: int) -> Iterator[Cache]:
    """An empty cluster, which nobody else uses."""
    yield from _open_cluster(request.param, cluster_port)


@pytest.fixture
def sync_cluster(cluster_port: int) -> Iterator[Cache]:
    """An empty cluster, for what redis-py's asyncio clients have not."""
    yield from _open_cluster("cluster", cluster_port)


@pytest.fixture(scope="session")
def sentinel_port(
    own_redis_port: int, redis_program: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    """The port of a sentinel that watches over the server that nobody else uses."""
    folder = tmp_path_factory.mktemp("sentinel")
    # It keeps what it learns there.
    (folder / "sentinel.conf").write_text(f"sentinel monitor main 127.0.0.1 {own_redis_port} 1\n")
    options = ("sentinel.conf", "--sentinel", "--port", "{port}", "--bind", "127.0.0.1")
    with redis_server(redis_program, folder, *options, ready="+monitor master") as port:
        yield port


@pytest.fixture(scope="module", params=BROKERS)
def broker(request: pytest.FixtureRequest) -> Iterator[Shop]:
    """A Celery app on a real broker."""
    name, standard = BROKERS[request.param]
    url = os.environ.get(name, standard)
    try:
        with Connection(url, connect_timeout=5) as connection:
            connection.connect()
    except (OSError, redis.ConnectionError) as error:
        place = name if name in os.environ else "the standard local port"
        _unavailable(f"no broker at {place}: {type(error).__name__}")
    with closing(Shop(request.param, url, f"perfguard_{uuid.uuid4().hex[:12]}")) as shop:
        yield shop
    # They are shared by all apps with the same broker.
    pools.reset()
