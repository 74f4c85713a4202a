"""The cache: what it keeps, for how long, and what happens where Redis does not help."""

from __future__ import annotations

import asyncio
import pickle
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Annotated, Any

import pytest
from anyio import to_thread
from fastapi import Depends
from fastapi.testclient import TestClient
from pydantic import TypeAdapter
from sqlalchemy import event
from sqlalchemy.orm import Session

from sample_app.core.cache import Answer, Cache, Entry, NotInKey, cache_response, make_redis
from sample_app.core.config import Settings
from sample_app.core.database import Database
from sample_app.main import create_app
from sample_app.seed import Size
from sample_app.tests.running import RunningClient

URL = "/api/resources"

NUMBERS: Entry[list[int] | None] = Entry(
    "numbers", TypeAdapter(list[int] | None), 300, "response", "Number"
)


class Loader:
    """Loads an answer, and counts how often it is asked to."""

    def __init__(self, answer: Any, *, before: Callable[[], Awaitable[None]] | None = None) -> None:
        self.answer = answer
        self.calls = 0
        self._before = before

    async def __call__(self) -> Any:
        self.calls += 1
        if self._before is not None:
            await self._before()
        return self.answer


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Cache]:
    """Give a cache in this event loop, and leave nothing of it."""
    async with aclosing(Cache.from_settings(settings)) as cache:
        yield cache
        await cache.clear()


def with_cache(settings: Settings, test: Callable[[Cache], Awaitable[None]]) -> None:
    async def run() -> None:
        async with opened(settings) as cache:
            await test(cache)

    asyncio.run(run())


@pytest.fixture
def statements(database: Database) -> Iterator[list[str]]:
    """The statements that reach the database."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith(("SAVEPOINT", "RELEASE", "ROLLBACK", "BEGIN")):
            seen.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    yield seen
    event.remove(database.engine, "before_cursor_execute", note)


# --- What is kept


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("?page_size=5&sort_by=name", 200),
        ("?page=1000", 200),
        ("/7", 200),
        ("/999999", 404),
    ],
    ids=["page", "empty page", "row", "no row"],
)
def test_the_second_answer_is_the_same_and_takes_no_sql(
    client: RunningClient, statements: list[str], path: str, status: int
) -> None:
    first = client.get(URL + path)
    assert first.status_code == status
    assert statements
    statements.clear()
    second = client.get(URL + path)
    assert (second.status_code, second.content) == (first.status_code, first.content)
    assert statements == []
    kind = "query" if path.startswith("/") else "response"
    assert client.cache.counters.cache_misses == client.cache.counters.cache_hits == {kind: 1}
    assert not client.cache.counters.cache_errors


def test_a_walk_by_key_is_not_kept(client: RunningClient) -> None:
    client.get(f"{URL}/after")
    assert keys_of(client) == set()
    assert not client.cache.counters.cache_misses


def test_none_and_empty_are_answers(settings: Settings) -> None:
    async def test(cache: Cache) -> None:
        answers: list[Any] = [None, []]
        for answer in answers:
            entry = Entry(f"of {answer}", NUMBERS.schema, 300, "query")
            load = Loader(answer)
            assert [await cache.fetch(entry, load) for _ in range(3)] == [answer] * 3
            assert load.calls == 1

    with_cache(settings, test)


def test_entries_expire_within_a_tenth_of_their_time_but_not_together(settings: Settings) -> None:
    async def test(cache: Cache) -> None:
        for number in range(20):
            entry = Entry(f"numbers {number}", NUMBERS.schema, 100, "query")
            await cache.fetch(entry, Loader([number]))
        lives = [await cache._redis.pttl(cache._key(f"numbers {number}")) for number in range(20)]
        # A little has gone by since they were made.
        assert all(85_000 <= life <= 110_000 for life in lives)
        assert max(lives) - min(lives) > 3_000

    with_cache(settings, test)


# --- Keys


def keys_of(client: RunningClient) -> set[str]:
    async def read() -> set[str]:
        cache = client.cache
        keys = [key async for key in cache._redis.scan_iter(match=f"{cache._prefix}*")]
        return {key.decode().removeprefix(cache._prefix) for key in keys}

    assert client.portal is not None
    return client.portal.call(read)


def test_keys_hold_what_was_asked_and_nothing_else(client: RunningClient) -> None:
    client.get(f"{URL}?owner_id=3&status=draft&page=2")
    client.get(f"{URL}/7")
    question = (
        '{"filters":{"filters":{"owner_id":3,"status":"draft"},"sort_by":null,"sort_order":"asc"},'
        '"pagination":{"page":2,"page_size":20}}'
    )
    assert keys_of(client) == {
        f"list_resources:{question}",
        "Resource:7",
        "responses:Resource",
    }


def test_the_same_question_in_other_words_is_a_hit(client: RunningClient) -> None:
    client.get(f"{URL}?owner_id=3&status=draft")
    client.get(f"{URL}?status=draft&owner_id=3&page=1&page_size=20&sort_order=asc")
    assert client.cache.counters.cache_hits == {"response": 1}


@pytest.mark.parametrize(
    "query",
    ["page=2", "page_size=10", "sort_by=name", "sort_order=desc", "status=draft", "owner_id=1"],
)
def test_another_question_gets_its_own_answer(client: RunningClient, query: str) -> None:
    plain = client.get(URL).json()
    assert client.get(f"{URL}?{query}").json() != plain
    assert client.cache.counters.cache_misses == {"response": 2}


@pytest.mark.parametrize("query", ["sort_by=owner", "metadata=1", "page=0"])
def test_a_bad_question_does_not_reach_the_cache(client: RunningClient, query: str) -> None:
    assert client.get(f"{URL}?{query}").status_code == 422
    assert not client.cache.counters.cache_misses
    assert keys_of(client) == set()


def test_a_parameter_that_cannot_be_in_a_key_is_refused_at_once() -> None:
    def endpoint(db: Annotated[Session, Depends()], page: int) -> list[int]:
        raise NotImplementedError

    with pytest.raises(TypeError, match=r"parameter 'db' of .*endpoint cannot .* with NotInKey"):
        cache_response(collection="Number")(endpoint)


def test_a_service_is_not_in_the_key(settings: Settings) -> None:
    @cache_response(collection="Number")
    def count(start: int, step: Annotated[Callable[[], int], NotInKey]) -> list[int]:
        return [start, start + step()]

    async def test(cache: Cache) -> None:
        for start in (1, 1, 2):
            answer = await count(start=start, step=lambda: 1, cache=cache)
            assert answer == [start, start + 1]
        assert cache.counters.cache_misses == {"response": 2}

    with_cache(settings, test)


def test_others_on_the_same_server_are_left_alone(settings: Settings) -> None:
    theirs = settings.model_copy(update={"cache_prefix": f"{settings.cache_prefix[:-1]}_2-"})

    async def test(cache: Cache) -> None:
        async with opened(theirs) as other:
            for each, answer in ((cache, [1]), (other, [2])):
                assert await each.fetch(NUMBERS, Loader(answer)) == answer
            await cache.clear()
            assert await other.fetch(NUMBERS, Loader([3])) == [2]

    with_cache(settings, test)


# --- Invalidation


def test_a_change_is_seen_at_once(client: RunningClient) -> None:
    row, page, none = (f"{URL}/7", f"{URL}?page_size=10", f"{URL}?page=1000")
    before = [client.get(path).json() for path in (row, page, none)]
    client.put(row, json={"name": "new"})
    assert client.get(row).json()["name"] == "new"
    assert client.get(page).json()["items"][6]["name"] == "new"
    assert client.get(none).json() == before[2]
    assert client.cache.counters.cache_misses == {"query": 2, "response": 4}


def test_a_change_leaves_other_rows(client: RunningClient) -> None:
    client.get(f"{URL}/8")
    client.put(f"{URL}/7", json={"name": "new"})
    client.get(f"{URL}/8")
    assert client.cache.counters.cache_hits == {"query": 1}


def test_a_new_row_is_seen_where_there_was_none(client: RunningClient) -> None:
    data = {"name": "new", "owner_id": 3}
    last = client.post(URL, json=data).json()["id"]
    assert client.get(URL).json()["total"] == Size().resources + 1
    assert client.get(f"{URL}/{last + 1}").status_code == 404
    created = client.post(URL, json=data).json()
    assert created["id"] == last + 1
    assert client.get(f"{URL}/{last + 1}").json() == created
    assert client.get(URL).json()["total"] == Size().resources + 2


@pytest.mark.parametrize("collection", ["Number", None], ids=["response", "row"])
def test_what_was_read_before_a_write_is_not_kept_after_it(
    settings: Settings, collection: str | None
) -> None:
    name = "Number:1" if collection is None else "numbers"
    entry = Entry(name, NUMBERS.schema, 300, "query", collection)

    async def test(cache: Cache) -> None:
        async def write() -> None:
            await cache.invalidate("Number", 1)

        assert await cache.fetch(entry, Loader([1], before=write)) == [1]
        assert await cache.fetch(entry, Loader([2])) == [2]
        assert await cache.fetch(entry, Loader([3])) == [2]

    with_cache(settings, test)


def test_the_list_of_responses_does_not_grow_for_ever(settings: Settings) -> None:
    async def test(cache: Cache) -> None:
        index = cache._index("Number")
        await cache._redis.zadd(index, {"expired long ago": 1_000_000})
        await cache.fetch(NUMBERS, Loader([1]))
        assert await cache._redis.zrange(index, 0, -1) == [cache._key("numbers").encode()]
        # It is there as long as any of them, and then goes, too.
        life = await cache._redis.pttl(cache._key("numbers"))
        assert life < await cache._redis.pttl(index) <= 1.1 * 300_000 + 10_000
        await cache.invalidate("Number", 1)
        assert await cache._redis.exists(index) == 0

    with_cache(settings, test)


def test_a_response_that_lives_shortly_does_not_shorten_the_list(settings: Settings) -> None:
    async def test(cache: Cache) -> None:
        await cache.fetch(NUMBERS, Loader([1]))
        await cache.fetch(Entry("soon", NUMBERS.schema, 1, "response", "Number"), Loader([1]))
        assert await cache._redis.pttl(cache._index("Number")) > 270_000

    with_cache(settings, test)


# --- Concurrency


def test_one_loads_for_all_in_one_process_and_in_others(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two caches with connections of their own are what two processes are to each other."""

    async def test(cache: Cache) -> None:
        everybody = asyncio.Event()
        missed: list[str] = []
        lock = Cache._lock

        def note(cache: Cache, name: str) -> asyncio.Lock:
            missed.append(name)
            if len(missed) == 8:
                everybody.set()
            return lock(cache, name)

        async def until_all_missed() -> None:
            await everybody.wait()

        monkeypatch.setattr(Cache, "_lock", note)
        load = Loader([1], before=until_all_missed)
        async with aclosing(Cache.from_settings(settings)) as other:
            asking = [each.fetch(NUMBERS, load) for each in (cache, other) * 4]
            assert await asyncio.gather(*asking) == [[1]] * 8
            assert load.calls == 1
            counters = cache.counters, other.counters
            assert sum((each.cache_misses for each in counters), Counter()) == {"response": 1}
            assert sum((each.cache_hits for each in counters), Counter()) == {"response": 7}

    with_cache(settings, test)


def test_locks_and_leases_are_gone_afterwards(settings: Settings) -> None:
    async def test(cache: Cache) -> None:
        async def fail() -> None:
            assert len(cache._locks) == 1
            raise LookupError

        for _ in range(2):
            with pytest.raises(LookupError):
                await cache.fetch(NUMBERS, Loader(None, before=fail))
            # The second one would have to wait for a lease that is still there.
            assert await cache._redis.exists(cache._key("numbers:lease")) == 0
        await asyncio.gather(*(cache.fetch(NUMBERS, Loader([1])) for _ in range(5)))
        assert len(cache._locks) == 0
        assert await cache._redis.exists(cache._key("numbers:lease")) == 0

    with_cache(settings, test)


def test_nobody_waits_for_ever_for_another_process(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cache, "longest_wait", 0.0)

    async def test(cache: Cache) -> None:
        await cache._redis.set(cache._key("numbers:lease"), "of somebody slow", px=60_000)
        answers = await asyncio.gather(*(cache.fetch(NUMBERS, Loader([n])) for n in range(3)))
        assert answers == [[0], [1], [2]]
        # What is loaded without a lease may be old by now.
        assert await cache._redis.exists(cache._key("numbers")) == 0

    with_cache(settings, test)


def test_a_hit_needs_no_thread(client: RunningClient) -> None:
    borrowers = [object() for _ in range(100)]

    async def occupy_all_threads() -> None:
        limiter = to_thread.current_default_thread_limiter()
        limiter.total_tokens = len(borrowers)
        for borrower in borrowers:
            limiter.acquire_on_behalf_of_nowait(borrower)

    async def give_them_back() -> None:
        for borrower in borrowers:
            to_thread.current_default_thread_limiter().release_on_behalf_of(borrower)

    for path in (URL, f"{URL}/7"):
        client.get(path)
    assert client.portal is not None
    client.portal.call(occupy_all_threads)
    answers: list[int] = []
    asking = threading.Thread(
        target=lambda: answers.extend(
            client.get(path).status_code for path in (URL, f"{URL}/7", "/healthz")
        ),
        daemon=True,
    )
    asking.start()
    asking.join(timeout=30)
    client.portal.call(give_them_back)
    assert answers == [200, 200, 200]


# --- Failures


@pytest.fixture
def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"redis://127.0.0.1:{server.getsockname()[1]}/0"


@contextmanager
def without_redis(settings: Settings, database: Database, url: str) -> Iterator[TestClient]:
    settings = settings.model_copy(update={"redis_url": url, "redis_timeout": 0.1})
    with TestClient(create_app(settings, database)) as client:
        yield client


def errors_of(client: TestClient) -> Counter[str]:
    cache: Cache = client.app.state.cache  # type: ignore[attr-defined]
    return cache.counters.cache_errors


def test_without_redis_all_goes_on(
    settings: Settings, isolated: Database, closed_port: str
) -> None:
    with without_redis(settings, isolated, closed_port) as client:
        page = client.get(URL).json()
        assert client.get(URL).json() == page
        assert client.get(f"{URL}/7").json() == page["items"][6]
        assert errors_of(client) == {"ConnectionError": 3}
        assert client.put(f"{URL}/7", json={"name": "new"}).status_code == 200
        assert client.get(f"{URL}/7").json()["name"] == "new"
        assert client.post(URL, json={"name": "new", "owner_id": 1}).status_code == 201
        assert errors_of(client) == {"ConnectionError": 6}


def test_a_redis_that_does_not_answer_is_waited_for_once(
    settings: Settings, isolated: Database
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        with without_redis(settings, isolated, url) as client:
            assert client.get(URL).status_code == 200
            assert errors_of(client) == {"TimeoutError": 1}
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_a_redis_that_goes_away_in_between(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, closed_port: str
) -> None:
    """Nobody is made to wait in line for the lock by somebody who cannot get a lease."""
    gone = make_redis(settings.model_copy(update={"redis_url": closed_port}))

    async def test(cache: Cache) -> None:
        monkeypatch.setattr(cache._redis, "evalsha", gone.evalsha)
        together = asyncio.Barrier(3)
        load = Loader([1], before=lambda: meet(together))
        async with asyncio.timeout(30):
            answers = await asyncio.gather(*(cache.fetch(NUMBERS, load) for _ in range(3)))
        assert answers == [[1]] * 3
        assert cache.counters.cache_errors == {"ConnectionError": 3}
        monkeypatch.undo()
        monkeypatch.setattr(cache, "_take_lease", lease_of_nobody)
        monkeypatch.setattr(cache._redis, "evalsha", gone.evalsha)
        assert await cache.fetch(NUMBERS, Loader([2])) == [2]
        assert cache.counters.cache_errors == {"ConnectionError": 4}

    with_cache(settings, test)


async def meet(barrier: asyncio.Barrier) -> None:
    await barrier.wait()


async def lease_of_nobody(*_: object) -> str:
    return "token"


class Bomb:
    """Does something when it is unpickled."""

    exploded = False

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return setattr, (Bomb, "exploded", True)


@pytest.mark.parametrize(
    "content", [b'["no", "numbers"]', b"[1", b"\xff", b"", pickle.dumps(Bomb())]
)
def test_what_does_not_fit_the_schema_is_replaced(settings: Settings, content: bytes) -> None:
    async def test(cache: Cache) -> None:
        await cache._redis.set(cache._key("numbers"), content, px=60_000)
        assert await cache.fetch(NUMBERS, Loader([1])) == [1]
        assert await cache.fetch(NUMBERS, Loader([2])) == [1]
        assert cache.counters.cache_errors == {"ValidationError": 1}
        assert not Bomb.exploded

    with_cache(settings, test)


def test_what_somebody_else_left_while_we_waited_is_checked_too(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(cache: Cache) -> None:
        look_up = cache._look_up

        async def then_spoil(entry: Entry[Any]) -> Answer[Any] | None:
            found = await look_up(entry)
            await cache._redis.set(cache._key("numbers"), b"[1", px=60_000)
            return found

        monkeypatch.setattr(cache, "_look_up", then_spoil)
        assert await cache.fetch(NUMBERS, Loader([1])) == [1]

    with_cache(settings, test)


def test_an_application_that_was_not_started_says_so(settings: Settings) -> None:
    with pytest.raises(RuntimeError, match=r"use `with TestClient\(app\) as client`"):
        TestClient(create_app(settings)).get(URL)


def test_the_settings_name_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPLE_APP_REDIS_URL", "redis://redis.example:1234/5")
    pool = make_redis(Settings()).connection_pool
    assert pool.connection_kwargs["host"] == "redis.example"
    assert (pool.connection_kwargs["port"], pool.connection_kwargs["db"]) == (1234, 5)


@pytest.mark.parametrize("prefix", ["", "*", "a b"])
def test_a_prefix_that_would_match_others_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="cache_prefix"):
        Settings(cache_prefix=prefix)
