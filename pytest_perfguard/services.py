"""PostgreSQL and Redis for tests: the fixtures ``perf_postgres`` and ``perf_redis``.

There are three places that they come from, in this order: a server that the environment names; a
container that testcontainers starts; nowhere, which is an error with the reason that a skip shows.

What a test gets is an empty database that belongs to its process alone, and so to one worker of
pytest-xdist. On a server that is named it is made at the beginning and removed at the end. Of
containers each process starts one of its own: a shared one would be stopped by whoever started
it, while others still use it.
"""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit
from uuid import uuid4

from pytest_perfguard.errors import MissingExtraError, ServiceError, ServiceMissingError

REQUIRE: Final = "PERFGUARD_REQUIRE_SERVICES"
"""Set in the environment, it makes an error of what would be a skip."""

_EXTRA: Final = "services"
_CONNECT_SECONDS: Final = 5
# A claim on a database outlives a process that was killed by so long.
_CLAIM_SECONDS: Final = 24 * 3600
# What a server that does not tell has by default.
_REDIS_DATABASES: Final = 16


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of server, and where one is found.

    Attributes:
        variable: names a server in the environment.
        image_variable: names another image than ``image``, which is started where there is none.
        module: of testcontainers, where the class is found.
    """

    name: str
    variable: str
    image_variable: str
    image: str
    module: str
    container: str


POSTGRES: Final = Kind(
    "PostgreSQL",
    "PERFGUARD_POSTGRES_URL",
    "PERFGUARD_POSTGRES_IMAGE",
    "postgres:17.5-alpine",
    "postgres",
    "PostgresContainer",
)
REDIS: Final = Kind(
    "Redis",
    "PERFGUARD_REDIS_URL",
    "PERFGUARD_REDIS_IMAGE",
    "redis:7.4.2-alpine",
    "redis",
    "RedisContainer",
)


@dataclass(frozen=True, slots=True, repr=False)
class Service:
    """An empty database that nobody else uses.

    Attributes:
        url: where it is, with its password.
        source: the variable that names the server, or the image that was started.
    """

    url: str
    source: str

    def with_driver(self, driver: str) -> str:
        """Return the URL for another driver of SQLAlchemy's, such as ``asyncpg``; "" for none."""
        scheme, _, rest = self.url.partition("://")
        dialect = scheme.partition("+")[0]
        return f"{dialect}+{driver}://{rest}" if driver else f"{dialect}://{rest}"

    def __repr__(self) -> str:
        # pytest shows the arguments of a test that fails.
        return f"<{type(self).__name__} {redacted(self.url)} from {self.source}>"


def postgres() -> AbstractContextManager[Service]:
    """Give an empty PostgreSQL database until the end of the block.

    Raises:
        ServiceMissingError: if there is no server, when the block is entered.
        ServiceError: if there is one that cannot be used.
    """
    if given := os.environ.get(POSTGRES.variable):
        return _postgres_database(given)
    # The class would take what is not said here from variables that may be there for a server.
    return _container(
        POSTGRES,
        lambda container: str(container.get_connection_url()),
        username="perfguard",
        password=uuid4().hex,
        dbname="perfguard",
        driver="psycopg",
    )


def redis() -> AbstractContextManager[Service]:
    """Give an empty Redis database until the end of the block.

    Raises:
        ServiceMissingError: if there is no server, when the block is entered.
        ServiceError: if there is one that cannot be used.
    """
    if given := os.environ.get(REDIS.variable):
        return _redis_database(given)
    return _container(REDIS, _redis_url)


def redacted(url: str) -> str:
    """Return a URL as it may be shown: without its password and its options."""
    try:
        parts = urlsplit(url)
        user, host, port = parts.username or "", parts.hostname or "", parts.port
    except ValueError:
        return "a URL that cannot be read"
    if parts.password is not None:
        user += ":***"
    place = f"{user}@{host}" if user else host
    return f"{parts.scheme}://{place}{f':{port}' if port else ''}{parts.path}"


# -- servers that are named -----------------------------------------------------------------------


@contextmanager
def _postgres_database(url: str) -> Iterator[Service]:
    """Make a database on a server, and drop it."""
    try:
        import psycopg  # noqa: PLC0415 - optional
        from psycopg import conninfo, sql  # noqa: PLC0415
    except ImportError:
        raise ServiceError(f"{POSTGRES.variable} is set: {_missing('psycopg')}") from None
    parts = _split(url, POSTGRES, ("postgresql", "postgres"))
    dialect, _, driver = parts.scheme.partition("+")
    name = f"perfguard_{uuid4().hex[:12]}"

    def run(command: str) -> None:
        plain = parts._replace(scheme=dialect).geturl()
        known = conninfo.conninfo_to_dict(plain)
        known.setdefault("connect_timeout", _CONNECT_SECONDS)
        with psycopg.connect(autocommit=True, **known) as connection:  # type: ignore[arg-type]
            connection.execute(sql.SQL(command).format(sql.Identifier(name)))

    with _told_by(POSTGRES, url, psycopg.Error):
        run("CREATE DATABASE {}")
    own = parts._replace(scheme=f"postgresql+{driver or 'psycopg'}", path=f"/{name}")
    try:
        yield Service(own.geturl(), POSTGRES.variable)
    finally:
        with _told_by(POSTGRES, url, psycopg.Error):
            # What tests have left open must not keep it.
            run("DROP DATABASE {} WITH (FORCE)")


@contextmanager
def _redis_database(url: str) -> Iterator[Service]:
    """Claim an empty database of a server, and empty it.

    Claims stand in the database that the URL names, which is therefore never given to a test.
    """
    try:
        from redis import Redis, RedisError  # noqa: PLC0415 - optional
    except ImportError:
        raise ServiceError(f"{REDIS.variable} is set: {_missing('redis')}") from None
    parts = _split(url, REDIS, ("redis", "rediss", "unix"))
    token = uuid4().hex

    def connect(place: str) -> Any:
        return stack.enter_context(Redis.from_url(place, socket_connect_timeout=_CONNECT_SECONDS))

    with ExitStack() as stack:
        with _told_by(REDIS, url, (RedisError, ValueError, OSError)):
            keeper = connect(url)
            keeper.ping()
            taken = keeper.connection_pool.connection_kwargs.get("db") or 0
            for number in range(_count_databases(keeper, RedisError)):
                claim = f"perfguard:database:{number}"
                if number == taken or not keeper.set(claim, token, nx=True, ex=_CLAIM_SECONDS):
                    continue
                own = _with_database(parts, number)
                client = connect(own)
                if not client.dbsize():
                    break
                # Whoever it belongs to may still want what is in it.
                keeper.delete(claim)
            else:
                raise ServiceError(
                    f"{REDIS.variable}: no database of {redacted(url)} is empty and free: name a "
                    "server that is there for tests, or empty what tests that were killed have left"
                )
        try:
            yield Service(own, REDIS.variable)
        finally:
            with _told_by(REDIS, url, (RedisError, OSError)):
                client.flushdb()
                if keeper.get(claim) in (token, token.encode()):
                    keeper.delete(claim)


def _count_databases(client: Any, errors: type[Exception]) -> int:
    with suppress(errors, KeyError, ValueError):
        return int(client.config_get("databases")["databases"])
    return _REDIS_DATABASES


def _with_database(parts: SplitResult, number: int) -> str:
    """Return the URL of another database of the same server."""
    options = [(name, value) for name, value in parse_qsl(parts.query) if name != "db"]
    if parts.scheme == "unix":
        # Its path is that of a socket, and geturl() would leave out the slashes before it.
        return f"unix://{parts.netloc}{parts.path}?{urlencode([*options, ('db', number)])}"
    return parts._replace(path=f"/{number}", query=urlencode(options)).geturl()


def _split(url: str, kind: Kind, schemes: tuple[str, ...]) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ServiceError(f"{kind.variable} cannot be read: {error}") from None
    if parts.scheme.partition("+")[0] not in schemes:
        raise ServiceError(
            f"{kind.variable} is not the URL of a {kind.name} server: write it as in "
            f"{schemes[0]}://user@127.0.0.1"
        )
    return parts


@contextmanager
def _told_by(
    kind: Kind, url: str, errors: type[Exception] | tuple[type[Exception], ...]
) -> Iterator[None]:
    """Say which server it was that a library has an error of, in one line without the password."""
    try:
        yield
    except errors as error:
        said = _one_line(error)
        if password := urlsplit(url).password:
            said = said.replace(password, "***")
        raise ServiceError(f"{kind.variable}: {redacted(url)} cannot be used: {said}") from None


# -- containers -----------------------------------------------------------------------------------


@contextmanager
def _container(kind: Kind, url: Callable[[Any], str], **arguments: Any) -> Iterator[Service]:
    """Run a container until the end of the block.

    Ryuk, which testcontainers starts beside it, removes it where this process is killed.
    """
    image = os.environ.get(kind.image_variable) or kind.image
    remedy = f"or name a server in {kind.variable}"
    try:
        with _quiet():
            made = _container_class(kind)
    except ImportError as error:
        name = "testcontainers" if error.name is None else error.name.partition(".")[0]
        raise ServiceMissingError(f"{_missing(name)}, {remedy}") from None
    container, said = _made(lambda: made(image, **arguments))
    if container is None:
        raise ServiceMissingError(f"no Docker engine for {kind.name}: {said}. Start one, {remedy}")
    with ExitStack() as stack:
        try:
            with _quiet():
                stack.enter_context(container)
                service = Service(url(container), image)
        except Exception as error:
            # There is an engine, so this is no machine without one.
            raise ServiceError(
                f"Docker does not give {kind.name} by {image}: {_one_line(error)}. Name another "
                f"image in {kind.image_variable}, {remedy}"
            ) from error
        yield service


def _redis_url(container: Any) -> str:
    return f"redis://{container.get_container_host_ip()}:{container.get_exposed_port(6379)}/0"


def _container_class(kind: Kind) -> Callable[..., Any]:
    """Return the class of a container, from where it is since 4.15 or from where it was."""
    try:
        module = import_module(f"testcontainers.community.{kind.module}")
    except ModuleNotFoundError as error:
        if error.name != "testcontainers.community":
            raise
        module = import_module(f"testcontainers.{kind.module}")
    made: Callable[..., Any] = getattr(module, kind.container)
    return made


def _made(make: Callable[[], Any]) -> tuple[Any, str]:
    """Make a container; where no engine answers, return what docker says of it."""
    from docker.errors import APIError, DockerException  # noqa: PLC0415 - of testcontainers

    try:
        return make(), ""
    except APIError:
        raise
    except DockerException as error:
        said = _one_line(error)
    with warnings.catch_warnings():
        # It leaves a socket to the garbage collector, who would warn in the middle of a test.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    return None, said


@contextmanager
def _quiet() -> Iterator[None]:
    """Pass over what testcontainers warns of itself: a test that is strict would fail by it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _missing(library: str) -> str:
    return str(MissingExtraError(library, _EXTRA))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
