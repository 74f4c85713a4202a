"""Spans, threads, tasks and requests: whose commands are whose."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from threading import Barrier, Thread
from typing import Any, ClassVar

import pytest

from pytest_perfguard import Recorder
from pytest_perfguard.model import Span
from tests.services.support import (
    Cache,
    cache_counts,
    cache_tallies,
    calls,
    done,
    here,
    piped,
    place,
)

Calls = Generator[Any, Any, Any]


def own_counts(span: Span) -> dict[str, float]:
    """Return hits, misses and commands of a span without those inside it."""
    tallies = [tally for tally in span.tallies if tally.probe == "cache"]
    sums = {
        "hits": sum(tally.sums.get("hits", 0) for tally in tallies),
        "misses": sum(tally.sums.get("misses", 0) for tally in tallies),
        "roundtrips": sum(tally.sums.get("roundtrips", 0) for tally in tallies),
    }
    return {name: count for name, count in sums.items() if count}


# --- Spans


def test_a_command_belongs_to_the_innermost_block(recorder: Recorder, cache: Cache) -> None:
    steps = calls(("get", cache.key("a")))
    with recorder.measure("outer") as outer:
        cache.call(steps)
        with recorder.measure("inner") as inner:
            cache.call(steps)
            cache.call(piped(("get", cache.key("a"))))
        cache.call(steps)
    assert cache_counts(inner) == {"misses": 2, "commands": 2, "roundtrips": 2}
    assert cache_counts(outer) == {"misses": 4, "commands": 4, "roundtrips": 4}
    assert own_counts(done(outer)) == {"misses": 2, "roundtrips": 2}


def test_what_outlives_its_block_counts_in_the_one_that_is_open(
    recorder: Recorder, cache: Cache
) -> None:
    steps = calls(("get", cache.key("a")))
    with recorder.measure("first") as first:
        context = copy_context()
        context.run(cache.call, steps)
    with recorder.measure("second") as second:
        context.run(cache.call, steps)
    context.run(cache.call, steps)
    expected = {"misses": 1, "commands": 1, "roundtrips": 1}
    assert cache_counts(first) == cache_counts(second) == expected


def test_the_time_line_shows_a_pipeline_as_one(recorder: Recorder, plain_cache: Cache) -> None:
    with recorder.measure("block") as measured:
        plain_cache.call(calls(("get", "user:1"), ("get", "user:2")))
        plain_cache.call(piped(("get", "user:1"), ("get", "user:2"), ("set", "a", 1, {"ex": 1})))
        plain_cache.call(calls(("get", "user:1")))
    moments = [(moment.label, moment.count) for moment in done(measured).timeline]
    assert moments == [("GET user:{int}", 2), ("pipeline", 1), ("GET user:{int}", 1)]


def test_time_is_measured_for_commands_and_pipelines(recorder: Recorder, cache: Cache) -> None:
    with recorder.measure("block") as measured:
        cache.call(calls(("get", cache.key("a"))))
        cache.call(piped(("get", cache.key("a"))))
    span = done(measured)
    (get,) = [t for t in span.tallies if t.operation.startswith("GET") and t.sums.get("seconds")]
    (pipeline,) = [tally for tally in span.tallies if tally.operation == "pipeline"]
    for tally in (get, pipeline):
        assert 0 < tally.peaks["seconds"] <= tally.sums["seconds"] <= span.seconds


# --- Threads


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Let threads take turns as often as the interpreter can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("eager_switching")
def test_commands_of_many_threads_are_all_counted(recorder: Recorder, sync_cache: Cache) -> None:
    threads, each = 8, 100
    key = sync_cache.key("shared")
    sync_cache.client.set(key, "hello", ex=60)
    together = Barrier(threads)

    def work(number: int) -> None:
        client = sync_cache.client
        together.wait()
        for turn in range(each):
            client.get(key)
            client.mget([key, sync_cache.key("missing", number, turn)])
            pipe = client.pipeline(transaction=False)
            pipe.get(key)
            pipe.set(sync_cache.key("own", turn), "hello")
            pipe.execute()

    with recorder.measure("block") as measured, ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    total = threads * each
    counts = cache_counts(measured)
    # What one thread writes the next one writes over: a key stays without an expiry once.
    assert counts.pop("writes_without_ttl") >= each
    assert counts == {
        "hits": 3 * total,
        "misses": total,
        "commands": 4 * total,
        "roundtrips": 3 * total,
    }
    missing = sum(
        len(sync_cache.key("missing", number, turn))
        for number in range(threads)
        for turn in range(each)
    )
    own = threads * sum(len(sync_cache.key("own", turn)) for turn in range(each))
    sent = total * ((3 + len(key)) + (4 + len(key)) + (3 + len(key)) + (3 + 5)) + missing + own
    assert measured["cache_bytes"] == sent + total * 3 * 5
    moments = done(measured).timeline
    assert sum(m.count for m in moments) + done(measured).timeline_dropped <= 3 * total


@pytest.mark.usefixtures("eager_switching")
def test_first_sights_at_once_make_one_tally_each(recorder: Recorder, plain_cache: Cache) -> None:
    threads, names = 8, 40
    together = Barrier(threads)

    def work(_: int) -> None:
        for number in range(names):
            together.wait()
            plain_cache.client.get("".join(chr(97 + int(digit)) for digit in str(number)) + ":1")

    with recorder.measure("block") as measured, ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    tallies = cache_tallies(measured)
    assert [tally.count for tally in tallies] == [threads] * names
    assert len({tally.operation for tally in tallies}) == names


@pytest.mark.usefixtures("eager_switching")
def test_the_first_commands_of_a_block_at_once_are_all_counted(
    recorder: Recorder, plain_cache: Cache
) -> None:
    threads, blocks = 4, 100
    together = Barrier(threads)

    def work(number: int) -> None:
        together.wait()
        plain_cache.client.get("user:1")

    with ThreadPoolExecutor(threads) as pool:
        for _ in range(blocks):
            with recorder.measure("block") as measured:
                list(pool.map(work, range(threads)))
            assert measured["cache_commands"] == threads


class Awaited(str):
    """Text whose length is known once another thread asks for a length too."""

    __slots__ = ()
    others: ClassVar[Barrier]

    def isascii(self) -> bool:
        self.others.wait(timeout=30)
        return super().isascii()


def test_threads_that_add_up_at_the_same_time_lose_nothing(
    recorder: Recorder, plain_cache: Cache
) -> None:
    Awaited.others = Barrier(2)
    client = plain_cache.client
    client.set_response_callback("GET", lambda _found, **_options: Awaited("hello"))
    with recorder.measure("block") as measured, ThreadPoolExecutor(2) as pool:
        list(pool.map(client.get, [Awaited("user:1")] * 2))
    assert measured["cache_bytes"] == 2 * (3 + 6 + 5)


def test_a_thread_of_the_users_own_counts_in_the_block_opened_last(
    recorder: Recorder, sync_cache: Cache
) -> None:
    def work() -> None:
        sync_cache.client.get(sync_cache.key("a"))  # thread

    with recorder.measure("outer"), recorder.measure("inner") as inner:
        thread = Thread(target=work)
        thread.start()
        thread.join()
    (tally,) = cache_tallies(inner)
    assert (place(tally), tally.count) == (here("thread"), 1)


def test_a_pool_that_was_filled_before_the_block_counts_in_it(
    recorder: Recorder, sync_cache: Cache
) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: None, range(2)))
        with recorder.measure("block") as measured:
            keys = [sync_cache.key("user", number) for number in range(6)]
            list(pool.map(sync_cache.client.get, keys))
    (tally,) = cache_tallies(measured)
    assert tally.site is None
    assert (tally.count, tally.distinct) == (6, 6)
    assert "concurrent" not in tally.facts.get("through", "")


# --- Coroutines


def test_coroutines_that_run_at_once_are_all_counted(
    recorder: Recorder, async_cache: Cache
) -> None:
    client, key = async_cache.client, async_cache.key("a")

    async def one(number: int) -> None:
        await client.set(key, "hello", ex=60)
        await client.get(key)  # within a task
        pipe = client.pipeline()
        pipe.get(key)
        pipe.get(async_cache.key("missing", number))
        await pipe.execute()

    async def main() -> None:
        await asyncio.gather(*(one(number) for number in range(20)))

    with recorder.measure("block") as measured:
        async_cache.run(main())
    assert cache_counts(measured) == {
        "hits": 40,
        "misses": 20,
        "commands": 80,
        "roundtrips": 60,
    }
    (get,) = [tally for tally in cache_tallies(measured) if tally.count == 20 and tally.repeats
              and tally.operation.startswith("GET")]  # fmt: skip
    assert place(get) == here("within a task")


def test_the_line_of_a_command_is_the_one_that_made_the_coroutine(
    recorder: Recorder, async_cache: Cache
) -> None:
    client, key = async_cache.client, async_cache.key

    async def main() -> None:
        await client.get(key("await"))  # await
        await asyncio.gather(
            client.mget([key("gather")]),  # gather
            client.ttl(key("gather")),  # gather too
        )
        task = asyncio.create_task(client.exists(key("task")))  # task
        await asyncio.sleep(0)
        await task
        later = client.strlen(key("later"))  # coroutine
        await asyncio.wait_for(later, 60)
        pipe = client.pipeline()
        pipe.getdel(key("pipe"))
        waiting = pipe.execute()  # pipeline
        await waiting
        async for _ in client.scan_iter(match=key("nothing")):  # iteration
            pass

    with recorder.measure("block") as measured:
        async_cache.run(main())
    lines = {tally.operation.split()[0]: place(tally) for tally in cache_tallies(measured)}
    assert lines == {
        "GET": here("await"),
        "MGET": here("gather"),
        "TTL": here("gather too"),
        "EXISTS": here("task"),
        "STRLEN": here("coroutine"),
        "GETDEL": here("pipeline"),
        "SCAN": here("iteration"),
    }


def test_a_task_belongs_to_the_block_that_it_was_made_in(
    recorder: Recorder, async_cache: Cache
) -> None:
    client, key = async_cache.client, async_cache.key("a")

    async def work(may_go: asyncio.Event) -> None:
        await may_go.wait()
        await client.get(key)

    async def main() -> tuple[Any, Any]:
        may_go = asyncio.Event()
        with recorder.measure("first") as first:
            task = asyncio.create_task(work(may_go))
            with recorder.measure("second") as second:
                may_go.set()
                await task
        return first, second

    first, second = async_cache.run(main())
    assert cache_counts(second) == {}
    assert cache_counts(first) == {"misses": 1, "commands": 1, "roundtrips": 1}


def test_commands_in_flight_at_once_have_their_own_round_trips(
    recorder: Recorder, async_cache: Cache
) -> None:
    """Each task finds its own tally, whatever the others have under way meanwhile."""
    client, key = async_cache.client, async_cache.key

    async def main() -> None:
        await asyncio.gather(
            client.get(key("a", 1)), client.mget([key("b", 1)]), client.get(key("a", 2))
        )

    with recorder.measure("block") as measured:
        async_cache.run(main())
    trips = {t.operation.split()[0]: t.sums["roundtrips"] for t in cache_tallies(measured)}
    assert trips == {"GET": 2, "MGET": 1}


# --- A synchronous client on the thread of an event loop


def test_a_synchronous_client_in_a_coroutine_blocks_and_the_line_is_named(
    recorder: Recorder, sync_cache: Cache
) -> None:
    client, key = sync_cache.client, sync_cache.key("a")

    async def main() -> None:
        client.get(key)  # blocks
        pipe = client.pipeline()
        pipe.get(key)
        pipe.get(key)
        pipe.execute()  # blocks once

    with recorder.measure("block") as measured:
        asyncio.run(main())
    assert measured["cache_blocking_calls"] == 2
    blocking = {
        place(tally): tally.sums["blocking"]
        for tally in done(measured).tallies
        if tally.sums.get("blocking")
    }
    assert blocking == {here("blocks"): 1, here("blocks once"): 1}


def test_a_script_that_has_to_be_loaded_blocks_once(recorder: Recorder, sync_cache: Cache) -> None:
    script = sync_cache.client.register_script("return redis.call('GET', KEYS[1])")
    sync_cache.client.script_flush()

    async def main() -> None:
        script(keys=[sync_cache.key("a")])

    with recorder.measure("block") as measured:
        asyncio.run(main())
    assert cache_counts(measured) == {"commands": 1, "roundtrips": 1, "blocking_calls": 1}


def test_a_synchronous_client_in_a_thread_of_the_loop_does_not_block(
    recorder: Recorder, sync_cache: Cache
) -> None:
    with recorder.measure("block") as measured:
        asyncio.run(asyncio.to_thread(sync_cache.client.get, sync_cache.key("a")))
    assert cache_counts(measured) == {"misses": 1, "commands": 1, "roundtrips": 1}


def test_a_synchronous_client_without_a_loop_does_not_block(
    recorder: Recorder, sync_cache: Cache
) -> None:
    with recorder.measure("block") as measured:
        sync_cache.client.get(sync_cache.key("a"))
    assert measured["cache_blocking_calls"] == 0


def test_an_asyncio_client_does_not_block(recorder: Recorder, async_cache: Cache) -> None:
    with recorder.measure("block") as measured:
        async_cache.call(calls(("get", async_cache.key("a"))))
        async_cache.call(piped(("get", async_cache.key("a"))))
    assert measured["cache_blocking_calls"] == 0


# --- Requests


@pytest.fixture
def application(sync_cache: Cache) -> Any:
    """An application with endpoints of each kind."""
    fastapi = pytest.importorskip("fastapi", reason="FastAPI is not installed")
    app = fastapi.FastAPI()
    client, key = sync_cache.client, sync_cache.key

    def endpoint(number: int) -> None:
        client.get(key("user", number))

    async def blocking_endpoint(number: int) -> None:
        client.get(key("user", number))  # blocking endpoint

    def pipeline_endpoint(number: int) -> None:
        pipe = client.pipeline()
        pipe.get(key("user", number))
        pipe.get(key("user", number + 1))
        pipe.execute()

    app.add_api_route("/sync/{number}", endpoint)
    app.add_api_route("/blocking/{number}", blocking_endpoint)
    app.add_api_route("/pipeline/{number}", pipeline_endpoint)
    return app


def test_commands_of_an_endpoint_belong_to_its_request(
    recorder: Recorder, application: Any
) -> None:
    from fastapi.testclient import TestClient

    recorder.start()  # the library of the client has been loaded since
    with TestClient(application) as client, recorder.measure("block") as measured:
        for number in range(6):
            client.get(f"/sync/{number}")
        client.get("/pipeline/1")
        client.get("/blocking/1")
    requests = done(measured).children
    assert all(request.name.startswith("GET /sync/") for request in requests[:6])
    assert [own_counts(request) for request in requests] == [
        *[{"misses": 1, "roundtrips": 1}] * 6,
        {"misses": 2, "roundtrips": 1},
        {"misses": 1, "roundtrips": 1},
    ]
    assert own_counts(done(measured)) == {}
    # Six keys, but each in a request of its own.
    assert cache_counts(measured) == {
        "misses": 9,
        "commands": 9,
        "roundtrips": 8,
        "blocking_calls": 1,
    }
    (blocking,) = [tally for tally in requests[-1].tallies if tally.probe == "cache"]
    assert place(blocking) == here("blocking endpoint")


def test_commands_of_asyncio_endpoints_that_run_at_once_belong_to_their_requests(
    recorder: Recorder, async_cache: Cache
) -> None:
    fastapi = pytest.importorskip("fastapi", reason="FastAPI is not installed")
    httpx = pytest.importorskip("httpx", reason="httpx is not installed")
    recorder.start()
    app = fastapi.FastAPI()
    client, key = async_cache.client, async_cache.key
    both_are_there: list[Any] = []

    async def endpoint(number: int) -> None:
        await client.get(key("user", number))
        await both_are_there[0].wait()
        await asyncio.gather(*(client.get(key("user", n)) for n in range(number)))

    app.add_api_route("/users/{number}", endpoint)

    async def main() -> None:
        both_are_there.append(asyncio.Barrier(2))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            await asyncio.gather(http.get("/users/2"), http.get("/users/4"))

    with recorder.measure("block") as measured:
        async_cache.run(main())
    assert sorted(own_counts(request)["misses"] for request in done(measured).children) == [3, 5]
    assert cache_counts(measured) == {"misses": 8, "commands": 8, "roundtrips": 8}
