"""Commands that fail, take too long or are given up: what is counted, and what the code is told."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import socket
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from pytest_perfguard import Recorder
from tests.services.support import (
    Cache,
    cache_counts,
    cache_tallies,
    calls,
    disconnect,
    done,
    free_ports,
    here,
    place,
)

Calls = Generator[Any, Any, Any]


def no_retry(cache: Cache, times: int = 0) -> dict[str, Any]:
    """Return options of a client that tells of each failure at once."""
    from redis.asyncio.retry import Retry as AsyncRetry
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return {"retry": (AsyncRetry if cache.is_async else Retry)(NoBackoff(), times)}


@pytest.fixture
def silent_port() -> Iterator[int]:
    """The port of a server that takes everything and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def elsewhere(cache: Cache, port: int, **options: Any) -> Any:
    """Make a client for another port, that sends nothing but the command."""
    import redis.asyncio

    library: Any = redis.asyncio if cache.is_async else redis
    known = inspect.signature(library.connection.AbstractConnection.__init__).parameters
    # Each of them asks for nothing to be told to the server of the client.
    silent = (
        {"driver_info": None}
        if "driver_info" in known
        else dict.fromkeys(("lib_name", "lib_version"))
    )
    pool = library.ConnectionPool(host="127.0.0.1", port=port, protocol=2, **silent, **options)
    return library.Redis(connection_pool=pool)


# --- What the server refuses


def test_an_error_of_the_server_is_counted_and_named_by_its_code(
    recorder: Recorder, cache: Cache
) -> None:
    from redis import ResponseError

    key = cache.key("list")
    cache.call(calls(("rpush", key, "value")))
    with recorder.measure("block") as measured:

        def script(client: Any) -> Calls:
            yield client.get(key)  # wrong type

        with pytest.raises(ResponseError, match="WRONGTYPE"):
            cache.call(script)
    (tally,) = cache_tallies(measured)
    assert cache_counts(measured) == {"commands": 1, "roundtrips": 1, "errors": 1}
    assert tally.facts["error"] == "ResponseError (WRONGTYPE)"
    assert place(tally) == here("wrong type")


def test_an_error_without_a_code_is_named_by_its_class(recorder: Recorder, cache: Cache) -> None:
    from redis import ResponseError

    key = cache.key("text")
    cache.call(calls(("set", key, "no number")))
    with recorder.measure("block") as measured, pytest.raises(ResponseError):
        cache.call(calls(("incr", key)))
    (tally,) = cache_tallies(measured)
    assert tally.facts["error"] == "ResponseError"


def test_errors_among_the_replies_of_a_pipeline_are_those_of_their_commands(
    recorder: Recorder, cache: Cache
) -> None:
    text, missing = cache.key("text", 1), cache.key("missing", 1)
    cache.call(calls(("set", text, "no number")))

    def script(client: Any) -> Calls:
        pipe = client.pipeline(transaction=False)
        pipe.incr(text)
        pipe.get(missing)
        pipe.lpush(text, "value")
        return (yield pipe.execute(raise_on_error=False))

    with recorder.measure("block") as measured:
        cache.call(script)
    errors = {
        tally.operation.split()[0]: (tally.sums.get("errors"), tally.facts.get("error"))
        for tally in cache_tallies(measured)
    }
    assert errors == {
        "INCRBY": (1, "ResponseError"),
        "GET": (None, None),
        "LPUSH": (1, "ResponseError (WRONGTYPE)"),
    }


def test_a_transaction_that_the_server_aborts_is_one_error(
    recorder: Recorder, cache: Cache
) -> None:
    from redis import RedisError

    def script(client: Any) -> Calls:
        pipe = client.pipeline()
        pipe.get(cache.key("a"))
        pipe.execute_command("NOT.A.COMMAND", cache.key("a"))
        with pytest.raises(RedisError):
            yield pipe.execute()

    with recorder.measure("block") as measured:
        cache.call(script)
    assert cache_counts(measured) == {"commands": 2, "roundtrips": 1, "errors": 1}


# --- What does not get to the server


def test_a_server_that_is_not_there(recorder: Recorder, fake_cache: Cache) -> None:
    import redis

    client = elsewhere(fake_cache, free_ports(1)[0], **no_retry(fake_cache))
    with recorder.measure("block") as measured:
        for steps in (calls(("get", "a")), piped_get):
            with pytest.raises(redis.ConnectionError):
                fake_cache.call(steps, client)
    assert cache_counts(measured) == {"commands": 2, "errors": 2}
    facts = [tally.facts.get("error") for tally in done(measured).tallies]
    assert facts.count("ConnectionError") == 2
    fake_cache.call(disconnect, client)


def piped_get(client: Any) -> Calls:
    pipe = client.pipeline()
    pipe.get("a")
    yield pipe.execute()


@pytest.mark.parametrize("retries", [0, 2])
def test_a_server_that_does_not_answer(
    recorder: Recorder, fake_cache: Cache, silent_port: int, retries: int
) -> None:
    import redis

    options = {**no_retry(fake_cache, retries), "retry_on_error": [redis.TimeoutError]}
    client = elsewhere(fake_cache, silent_port, socket_timeout=0.05, **options)
    with recorder.measure("block") as measured, pytest.raises(redis.TimeoutError):
        fake_cache.call(calls(("get", "a")), client)
    # Sent again each time; but the code asked once and was told of one failure.
    assert cache_counts(measured) == {"commands": 1, "roundtrips": 1 + retries, "errors": 1}
    (tally,) = cache_tallies(measured)
    assert tally.facts["error"] == "TimeoutError"
    fake_cache.call(disconnect, client)


def test_what_the_client_refuses_to_send_is_an_error_without_a_round_trip(
    recorder: Recorder, cache: Cache
) -> None:
    from redis import DataError

    with recorder.measure("block") as measured, pytest.raises(DataError):
        cache.call(calls(("set", cache.key("a"), {"no": "value"}, {"ex": 60})))
    assert cache_counts(measured) == {"commands": 1, "errors": 1}


class Unshowable:
    def __str__(self) -> str:
        raise AssertionError("nobody may ask for this")

    __repr__ = __str__


@pytest.mark.parametrize("position", ["key", "value", "field"])
def test_an_object_that_cannot_be_sent_is_never_asked_for_its_text(
    recorder: Recorder, cache: Cache, position: str
) -> None:
    from redis import DataError

    steps = {
        "key": ("get", Unshowable()),
        "value": ("set", cache.key("a"), Unshowable()),
        "field": ("hget", cache.key("a"), Unshowable()),
    }
    with recorder.measure("block") as measured, pytest.raises(DataError):
        cache.call(calls(steps[position]))
    assert cache_counts(measured) == {"commands": 1, "errors": 1}


@pytest.mark.parametrize("reply", [Unshowable(), [Unshowable()], {"a": Unshowable()}])
def test_a_reply_that_was_made_an_object_is_never_asked_for_its_text(
    recorder: Recorder, cache: Cache, reply: Any
) -> None:
    cache.client.set_response_callback("GET", lambda _found, **_options: reply)
    with recorder.measure("block") as measured:
        found = cache.call(calls(("get", cache.key("a"))))
    assert found[0] is reply
    assert cache_counts(measured) == {"hits": 1, "commands": 1, "roundtrips": 1}


def test_an_error_of_the_codes_own_callback_reaches_the_code(
    recorder: Recorder, cache: Cache
) -> None:
    def fail(_found: Any, **_options: Any) -> Any:
        raise LookupError("of the code")

    cache.client.set_response_callback("GET", fail)
    with recorder.measure("block") as measured, pytest.raises(LookupError, match="of the code"):
        cache.call(calls(("get", cache.key("a"))))
    assert cache_counts(measured) == {"commands": 1, "roundtrips": 1, "errors": 1}


# --- What is given up


def test_a_command_whose_task_is_cancelled(recorder: Recorder, async_cache: Cache) -> None:
    async def main() -> None:
        arrived = asyncio.Event()
        finished = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            arrived.set()
            await finished.wait()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        client = elsewhere(async_cache, server.sockets[0].getsockname()[1])
        task = asyncio.create_task(client.get("a"))  # cancelled
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        finished.set()
        for step in disconnect(client):
            await step
        server.close()
        await server.wait_closed()
        # What comes after it is counted where it belongs.
        await async_cache.client.get(async_cache.key("a"))

    with recorder.measure("block") as measured:
        async_cache.run(main())
    given_up, _ = cache_tallies(measured)
    assert place(given_up) == here("cancelled")
    assert (given_up.count, given_up.sums["roundtrips"]) == (1, 1)
    assert given_up.facts["error"] == "CancelledError"
    assert cache_counts(measured) == {"misses": 1, "commands": 2, "roundtrips": 2, "errors": 1}


def test_a_coroutine_that_is_never_awaited_sends_nothing(
    recorder: Recorder, async_cache: Cache
) -> None:
    with recorder.measure("block") as measured:
        async_cache.client.get(async_cache.key("a")).close()
        async_cache.call(calls(("get", async_cache.key("a"))))
    assert measured["cache_roundtrips"] == 1
    assert measured["cache_errors"] == 0


def test_a_coroutine_that_is_closed_elsewhere_ends_quietly(
    recorder: Recorder, async_cache: Cache, silent_port: int
) -> None:
    """As one is that waits for a reply when its loop is thrown away."""

    async def begin() -> Any:
        client = elsewhere(async_cache, silent_port)
        pending = client.get("a")
        contextvars.copy_context().run(pending.send, None)
        return client, pending

    with recorder.measure("block") as measured:
        client, pending = async_cache.run(begin())
        pending.close()
        del pending
        gc.collect()
        async_cache.call(disconnect, client)
    assert measured["cache_commands"] == 1
