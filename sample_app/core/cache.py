"""Answers kept in Redis: of endpoints (:func:`cache_response`) and of rows (:func:`get_cached`).

**Keys.** ``<endpoint>:<its parameters as JSON>`` and ``<model>:<id>``, after a prefix of ours.
Only what a request declares is in a key; services such as a session never are.

**Values** are JSON, read back by a schema: what does not fit it is a miss, and nothing that Redis
holds is ever run. ``None`` and empty pages are answers and are kept like any other.

**Expiry.** Each entry lives its ``ttl``, give or take 10 %: what was filled together, say after a
deployment, does not expire together.

**One recomputation.** Who misses takes a *lease* on the key (``SET NX`` with an expiry) and
loads; the others wait, in the same process for its lock, in others by asking again, and find the
answer. Nobody waits longer than :attr:`Cache.longest_wait` for another process.

**Invalidation.** The responses of a collection are listed in an index (a sorted set, by expiry):
a write deletes those and its row, and leaves all else. It deletes the leases, too, and an answer
is only kept under a lease that still stands. So what somebody read before the write and comes to
store after it is not stored: deleting alone would leave it there for its whole life. It takes
two round trips for each write, and none of it is paid by the readers: a hit is one GET. (With a
generation counter in the key instead, each hit would have to ask for the counter first.)

**Failures.** Where Redis fails the answer is loaded as if there were no cache, and the failure is
counted. A write whose invalidation fails leaves old answers until they expire; so does a server
that is so short of memory that it evicts an index.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Generic, Literal, Self, TypeVar
from uuid import uuid4
from weakref import WeakValueDictionary

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from sample_app.core.config import Settings

if TYPE_CHECKING:
    from fakeredis import FakeServer

logger = logging.getLogger(__name__)

T = TypeVar("T")
CacheType = Literal["response", "query"]
Loader = Callable[[], Awaitable[T]]

_FAILURES: Final = (RedisError, OSError)
_JITTER: Final = 0.1
_LEASE_SECONDS: Final = 10.0
"""After this a lease is given to somebody else: whoever took it may be gone."""
_CONNECTIONS: Final = 50

# Scripts run as a whole: nothing comes in between.

# Keys: entry, lease and (for responses) index. Arguments: token, and in milliseconds the lease's
# life and the longest that the entry may be there. Returns the entry; or else 1 if the lease was
# taken now, 0 if somebody else has it.
_TAKE_LEASE: Final = """
local found = redis.call('GET', KEYS[1])
if found then return found end
if not redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return 0 end
if KEYS[3] then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
  redis.call('ZADD', KEYS[3], now + ARGV[3], KEYS[1])
  if redis.call('PTTL', KEYS[3]) < tonumber(ARGV[3]) then
    redis.call('PEXPIRE', KEYS[3], ARGV[3])
  end
end
return 1
"""

# Keys: entry, lease. Arguments: token and, if there is something to keep, it and its life.
_END_LEASE: Final = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('UNLINK', KEYS[2])
if ARGV[2] then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1
"""


@dataclass(slots=True)
class CacheCounters:
    """What the cache did: one hit or one miss for each question, and the failures."""

    cache_hits: Counter[CacheType] = field(default_factory=Counter)
    cache_misses: Counter[CacheType] = field(default_factory=Counter)
    cache_errors: Counter[str] = field(default_factory=Counter)
    """By the class of the error: a ``ValidationError`` is an entry that does not fit its schema."""


@dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    """What is kept under a name. ``collection`` is what a response was made from."""

    name: str
    schema: TypeAdapter[T]
    ttl: float
    cache_type: CacheType
    collection: str | None = None


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """Something known. A row known not to be there is ``Answer(None)``, not ``None``."""

    value: T


class Cache:
    """A client of Redis, for the event loop that it is first used in."""

    longest_wait: ClassVar[float] = 2.0
    """Seconds to wait for what another process is loading, before loading it as well."""
    poll_interval: ClassVar[float] = 0.02

    def __init__(self, redis: Redis, prefix: str) -> None:
        self.counters = CacheCounters()
        self._redis = redis
        self._prefix = prefix
        self._take = redis.register_script(_TAKE_LEASE)
        self._end = redis.register_script(_END_LEASE)
        # A lock is here as long as somebody holds it or waits for it, and no longer.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Prepare the client; nothing connects before the first command."""
        return cls(make_redis(settings), settings.cache_prefix)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def fetch(self, entry: Entry[T], load: Loader[T]) -> T:
        """Give what is kept; or else load it, and keep it."""

        async def loaded() -> T:
            self.counters.cache_misses[entry.cache_type] += 1
            return await load()

        deadline = time.monotonic() + self.longest_wait
        try:
            answer = await self._look_up(entry)
        except _FAILURES as error:
            self._failed(error)
            return await loaded()
        if answer is None:
            async with self._lock(entry.name):
                answer = await self._load_alone(entry, loaded, deadline)
        # Nobody waits in line for the lock while others load without a lease.
        return await loaded() if answer is None else answer.value

    async def invalidate(self, model: str, id_: int) -> None:
        """Forget a row and the responses made from its collection. Call it after the commit."""
        index = self._index(model)
        try:
            listed: list[Any] = await self._redis.zrange(index, 0, -1)
            keys = [self._key(row_name(model, id_)), *(key.decode() for key in listed)]
            # In this order, so that what is cut short can be done again.
            async with self._redis.pipeline() as pipeline:
                pipeline.unlink(*keys, *map(_lease, keys))
                if listed:
                    pipeline.zrem(index, *listed)
                await pipeline.execute()
        except _FAILURES as error:
            self._failed(error)

    async def clear(self) -> None:
        """Forget everything that begins with the prefix. Walks through all keys of the server."""
        async for key in self._redis.scan_iter(match=f"{self._prefix}*", count=1000):
            await self._redis.unlink(key)

    async def _look_up(self, entry: Entry[T]) -> Answer[T] | None:
        content: Any = await self._redis.get(self._key(entry.name))
        return await self._read(entry, content)

    async def _load_alone(
        self, entry: Entry[T], load: Loader[T], deadline: float
    ) -> Answer[T] | None:
        """Load and keep; ``None`` if it is not our turn and will not be soon."""
        try:
            lease = await self._take_lease(entry, deadline)
        except _FAILURES as error:
            self._failed(error)
            return None
        if not isinstance(lease, str):
            return lease
        try:
            answer = Answer(await load())
        except Exception:
            await self._end_lease(entry, lease)
            raise
        await self._keep(entry, lease, answer)
        return answer

    async def _take_lease(self, entry: Entry[T], deadline: float) -> Answer[T] | str | None:
        """Give a lease's token; or the answer, if somebody else was faster."""
        token = uuid4().hex
        keys = [key := self._key(entry.name), _lease(key)]
        if entry.collection is not None:
            keys.append(self._index(entry.collection))
        life = _LEASE_SECONDS + entry.ttl * (1 + _JITTER)
        arguments: list[Any] = [token, _milliseconds(_LEASE_SECONDS), _milliseconds(life)]
        while True:
            found: Any = await self._take(keys, arguments)
            if isinstance(found, bytes):
                # What cannot be read is gone by now, and asked for once more.
                if (answer := await self._read(entry, found)) is not None:
                    return answer
            elif found:
                return token
            elif time.monotonic() > deadline:
                return None
            else:
                await asyncio.sleep(self.poll_interval)

    async def _keep(self, entry: Entry[T], lease: str, answer: Answer[T]) -> None:
        spread = random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - no secret
        content = entry.schema.dump_json(answer.value)
        await self._end_lease(entry, lease, content, _milliseconds(entry.ttl * spread))

    async def _end_lease(self, entry: Entry[Any], lease: str, *content: bytes | int) -> None:
        key = self._key(entry.name)
        try:
            await self._end([key, _lease(key)], [lease, *content])
        except _FAILURES as error:
            self._failed(error)

    async def _read(self, entry: Entry[T], content: bytes | None) -> Answer[T] | None:
        if content is None:
            return None
        try:
            answer = Answer(entry.schema.validate_json(content))
        except ValidationError as error:
            self._failed(error)
            await self._redis.unlink(self._key(entry.name))
            return None
        self.counters.cache_hits[entry.cache_type] += 1
        return answer

    def _failed(self, error: Exception) -> None:
        self.counters.cache_errors[type(error).__name__] += 1
        logger.warning("the cache is passed over: %s: %s", type(error).__name__, error)

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def _key(self, name: str) -> str:
        return f"{self._prefix}{name}"

    def _index(self, collection: str) -> str:
        return self._key(f"responses:{collection}")


def row_name(model: str, id_: int) -> str:
    """Name what is kept of a row."""
    return f"{model}:{id_}"


def _lease(key: str) -> str:
    return f"{key}:lease"


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def make_redis(settings: Settings) -> Redis:
    """Make a client of the settings' server, or of one in this process that they all share."""
    if not settings.redis_url:
        # Only who has no server needs the package.
        from fakeredis import FakeAsyncRedis  # noqa: PLC0415

        return FakeAsyncRedis(server=fake_server())
    pool = BlockingConnectionPool.from_url(
        settings.redis_url,
        max_connections=_CONNECTIONS,
        timeout=settings.redis_timeout,
        socket_timeout=settings.redis_timeout,
        socket_connect_timeout=settings.redis_timeout,
        # A cache that keeps a request waiting is worse than none.
        retry=Retry(NoBackoff(), 0),
    )
    return Redis.from_pool(pool)


@functools.cache
def fake_server() -> FakeServer:
    """Make the Redis that lives and dies with this process."""
    from fakeredis import FakeServer  # noqa: PLC0415

    return FakeServer()


async def get_cache(request: Request) -> Cache:
    """Give the application's cache."""
    cache: Cache | None = getattr(request.app.state, "cache", None)
    if cache is None:
        msg = (
            "the cache is opened when the application starts, which it has not:"
            " in a test, use `with TestClient(app) as client`"
        )
        raise RuntimeError(msg)
    return cache


CacheDependency = Annotated[Cache, Depends(get_cache)]


class NotInKey:
    """Marks a parameter of a cached endpoint as a service, in ``Annotated[..., NotInKey]``.

    All others are taken to be part of the question: to forget one would give somebody the answer
    to another question.
    """


def cache_response(
    ttl: float = 300, *, collection: str
) -> Callable[[Callable[..., T]], Callable[..., Awaitable[T]]]:
    """Keep what an endpoint returns for ``ttl`` seconds, or until its collection is written to.

    The endpoint is a plain function, which runs in a thread on a miss; a hit needs none. Its
    return type is the schema.
    """

    def decorate(endpoint: Callable[..., T]) -> Callable[..., Awaitable[T]]:
        signature = inspect.signature(endpoint, eval_str=True)
        schema: TypeAdapter[T] = TypeAdapter(signature.return_annotation)
        question = {
            parameter.name: _key_part(endpoint, parameter)
            for parameter in signature.parameters.values()
            if NotInKey not in getattr(parameter.annotation, "__metadata__", ())
        }

        @functools.wraps(endpoint)
        async def cached(*, cache: Cache, **arguments: Any) -> T:
            values = {
                name: part.dump_python(arguments[name], mode="json")
                for name, part in question.items()
            }
            text = json.dumps(values, sort_keys=True, separators=(",", ":"))
            entry = Entry(f"{endpoint.__name__}:{text}", schema, ttl, "response", collection)
            load = functools.partial(run_in_threadpool, endpoint, **arguments)
            return await cache.fetch(entry, load)

        own = inspect.Parameter("cache", inspect.Parameter.KEYWORD_ONLY, annotation=CacheDependency)
        # FastAPI reads from it what to pass.
        cached.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*signature.parameters.values(), own]
        )
        return cached

    return decorate


def _key_part(endpoint: Callable[..., Any], parameter: inspect.Parameter) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(parameter.annotation)
    except PydanticSchemaGenerationError as error:
        msg = (
            f"parameter {parameter.name!r} of {endpoint.__qualname__} cannot be part of a cache"
            " key: if it is a service and not part of the question, mark its type with NotInKey"
        )
        raise TypeError(msg) from error


async def get_cached(
    cache: Cache,
    model: str,
    id_: int,
    load: Callable[[], T],
    schema: TypeAdapter[T],
    ttl: float = 300,
) -> T:
    """Give what is kept of a row; or else run ``load`` in a thread, and keep what it returns."""
    entry = Entry(row_name(model, id_), schema, ttl, "query")
    return await cache.fetch(entry, functools.partial(run_in_threadpool, load))
