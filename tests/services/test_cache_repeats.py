"""Repeated commands: candidate N+1s, what to send instead, and what is none."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pytest_perfguard import Recorder, Settings
from tests.services.support import (
    ROOT,
    Cache,
    Script,
    cache_counts,
    candidate,
    done,
    here,
    piped,
    place,
)

Calls = Generator[Any, Any, Any]

METRIC = "cache_n_plus_one"


def each(keys: list[str], method: str, *args: Any) -> Script[None]:
    """Return a script that asks for one key after the other."""

    def script(client: Any) -> Calls:
        for key in keys:
            yield getattr(client, method)(key, *args)  # the loop

    return script


def users(cache: Cache, count: int) -> list[str]:
    return [cache.key("user", number) for number in range(count)]


@pytest.mark.parametrize(
    ("method", "args", "operation", "advice"),
    [
        ("get", (), "GET", "client.mget(keys)"),
        ("exists", (), "EXISTS", "client.exists(*keys)"),
        ("hgetall", (), "HGETALL", "in a pipeline: pipe = client.pipeline(transaction=False)"),
        ("delete", (), "DEL", "client.delete(*keys)"),
        ("unlink", (), "UNLINK", "client.unlink(*keys)"),
        ("set", ("value", 60), "SET", "pipe = client.pipeline(transaction=False)"),
        ("ttl", (), "TTL", "pipe = client.pipeline(transaction=False)"),
        ("incr", (), "INCRBY", "pipe = client.pipeline(transaction=False)"),
        ("hget", ("name",), "HGET", "client.hmget(name, fields), or a pipeline"),
    ],
)
def test_a_line_that_sends_one_command_for_many_keys_is_a_candidate(
    recorder: Recorder, cache: Cache, method: str, args: tuple[Any, ...], operation: str,
    advice: str,
) -> None:  # fmt: skip
    with recorder.measure("block") as measured:
        cache.call(each(users(cache, 6), method, *args))
    tally = candidate(measured, METRIC)
    assert place(tally) == here("the loop")
    assert tally.operation.startswith(f"{operation} ")
    assert (tally.count, tally.repeats, tally.distinct) == (6, 6, 6)
    assert advice in str(tally.fix)
    assert measured[METRIC] == 1


def test_one_field_after_the_other_of_one_hash_is_a_candidate(
    recorder: Recorder, cache: Cache
) -> None:
    def script(client: Any) -> Calls:
        for number in range(6):
            yield client.hget(cache.key("user"), f"field {number}")

    with recorder.measure("block") as measured:
        cache.call(script)
    tally = candidate(measured, METRIC)
    assert "client.hmget(name, fields)" in str(tally.fix)


@pytest.mark.parametrize(("keys", "found"), [(4, 0), (5, 1)])
def test_the_threshold_is_five_keys(
    recorder: Recorder, cache: Cache, keys: int, found: int
) -> None:
    with recorder.measure("block") as measured:
        cache.call(each(users(cache, keys), "get"))
    assert measured[METRIC] == found


def test_the_threshold_is_a_setting(plain_cache: Cache) -> None:
    with (
        Recorder(Settings(root=ROOT, n_plus_one_threshold=3)) as recorder,
        recorder.measure("block") as measured,
    ):
        plain_cache.call(each(users(plain_cache, 3), "get"))
    assert measured[METRIC] == 1


def test_more_keys_than_are_remembered(recorder: Recorder, fake_cache: Cache) -> None:
    with recorder.measure("block") as measured:
        fake_cache.call(each(users(fake_cache, 1_500), "get"))
    tally = candidate(measured, METRIC)
    assert tally.count == tally.repeats == 1_500
    assert tally.distinct >= 1_000


# --- What is none


def test_the_same_key_again_is_none(recorder: Recorder, cache: Cache) -> None:
    with recorder.measure("block") as measured:
        cache.call(each([cache.key("user", 1)] * 20, "get"))
    assert measured[METRIC] == 0
    assert measured["cache_commands"] == 20


def test_the_same_key_in_text_and_bytes_is_none(fake_cache: Cache) -> None:
    written = "usér:1".encode()
    keys: list[Any] = ["usér:1", written, memoryview(written)]
    with (
        Recorder(Settings(root=ROOT, n_plus_one_threshold=2)) as recorder,
        recorder.measure("block") as measured,
    ):
        fake_cache.call(each(keys, "get"))
    assert cache_counts(measured) == {"misses": 3, "commands": 3, "roundtrips": 3}


@pytest.mark.parametrize("transaction", [False, True])
def test_a_pipeline_is_none(recorder: Recorder, cache: Cache, transaction: bool) -> None:
    steps = [("get", key) for key in users(cache, 20)]
    with recorder.measure("block") as measured:
        cache.call(piped(*steps, transaction=transaction))
    assert cache_counts(measured) == {"misses": 20, "commands": 20, "roundtrips": 1}


def test_many_pipelines_of_one_line_are_none(recorder: Recorder, cache: Cache) -> None:
    with recorder.measure("block") as measured:
        for key in users(cache, 6):
            cache.call(piped(("get", key), ("ttl", key)))
    assert measured[METRIC] == 0


def test_commands_of_several_keys_are_none(recorder: Recorder, cache: Cache) -> None:
    def script(client: Any) -> Calls:
        for number in range(10):
            yield client.mget([cache.key("user", number), cache.key("user", number + 1)])

    with recorder.measure("block") as measured:
        cache.call(script)
    assert measured[METRIC] == 0


def test_different_lines_are_none(recorder: Recorder, plain_cache: Cache) -> None:
    client = plain_cache.client
    with recorder.measure("block") as measured:
        client.get("user:1")
        client.get("user:2")
        client.get("user:3")
        client.get("user:4")
        client.get("user:5")
        client.get("user:6")
    assert measured[METRIC] == 0


def test_different_blocks_are_none(recorder: Recorder, cache: Cache) -> None:
    with recorder.measure("outer") as outer:
        for key in users(cache, 6):
            with recorder.measure("request", kind="request"):
                cache.call(each([key], "get"))
    assert outer[METRIC] == 0
    assert outer["cache_commands"] == 6


@pytest.mark.parametrize(
    "method", ["blpop", "xread", "sscan", "publish", "ping"], ids=lambda method: method
)
def test_what_makes_no_sense_in_a_pipeline_is_none(
    recorder: Recorder, cache: Cache, method: str
) -> None:
    def script(client: Any) -> Calls:
        for number in range(6):
            key = cache.key("list", number)
            if method == "blpop":
                yield client.rpush(key, "value")
                yield client.blpop(key, 1)
            elif method == "xread":
                yield client.xread({key: 0})
            elif method == "sscan":
                yield client.sscan(key)
            elif method == "publish":
                yield client.publish(key, "hello")
            else:
                yield client.ping()

    with recorder.measure("block") as measured:
        cache.call(script)
    operations = {finding.tally.operation.split()[0] for finding in done(measured).findings}
    assert operations <= {"RPUSH"}


def test_a_scan_of_many_pages_is_none(recorder: Recorder, cache: Cache) -> None:
    def fill(client: Any) -> Calls:
        yield client.mset({cache.key("user", number): "x" for number in range(500)})

    def scan(client: Any) -> Calls:
        cursor, found = 0, 0
        while True:
            cursor, keys = yield client.scan(cursor, match=cache.key("user:*"), count=20)
            found += len(keys)
            if not cursor:
                return found

    cache.call(fill)
    with recorder.measure("block") as measured:
        assert cache.call(scan) == 500
    assert measured[METRIC] == 0
    assert measured["cache_commands"] > 5


def test_a_lookup_in_several_threads_is_one_candidate(
    recorder: Recorder, sync_cache: Cache
) -> None:
    def work(key: str) -> None:
        sync_cache.client.get(key)  # threads

    with recorder.measure("block") as measured, ThreadPoolExecutor(4) as pool:
        list(pool.map(work, users(sync_cache, 20)))
    tally = candidate(measured, METRIC)
    assert place(tally) == here("threads")
    assert tally.distinct == 20


# --- Where it is, and who tolerates it


def find(client: Any, key: str) -> Any:
    return client.get(key)  # helper


def test_a_helper_is_named_with_its_caller(recorder: Recorder, plain_cache: Cache) -> None:
    with recorder.measure("block") as measured:
        for key in users(plain_cache, 6):
            find(plain_cache.client, key)  # caller
    tally = candidate(measured, METRIC)
    assert place(tally) == here("helper")
    assert tally.site is not None
    assert tally.site.function == "find"
    assert tally.site.callers[0].startswith(here("caller"))


def test_a_comprehension_is_named_by_its_function(recorder: Recorder, plain_cache: Cache) -> None:
    with recorder.measure("block") as measured:
        found = [
            plain_cache.client.get(key)  # comprehension
            for key in users(plain_cache, 6)
        ]
    assert found == [None] * 6
    tally = candidate(measured, METRIC)
    assert place(tally) == here("comprehension")
    assert tally.site is not None
    assert tally.site.function == "test_a_comprehension_is_named_by_its_function"


def test_a_waiver_on_the_line_tolerates_it(recorder: Recorder, plain_cache: Cache) -> None:
    client = plain_cache.client
    with recorder.measure("block") as measured:
        for key in users(plain_cache, 6):
            client.get(key)  # perfguard: ignore[cache_n_plus_one] few keys, never more
    (finding,) = done(measured).findings
    assert finding.waiver == "few keys, never more"
    assert measured[METRIC] == 0
    assert measured["cache_commands"] == 6


def test_a_waiver_of_another_metric_does_not(recorder: Recorder, plain_cache: Cache) -> None:
    client = plain_cache.client
    with recorder.measure("block") as measured:
        for key in users(plain_cache, 6):
            client.get(key)  # perfguard: ignore[sql_n_plus_one] the wrong one
    assert measured[METRIC] == 1


def test_a_waiver_above_an_awaited_line_tolerates_it(
    recorder: Recorder, async_cache: Cache
) -> None:
    client = async_cache.client

    async def main() -> None:
        for key in users(async_cache, 6):
            # perfguard: ignore[cache_n_plus_one] few keys, never more
            await client.get(key)

    with recorder.measure("block") as measured:
        async_cache.run(main())
    assert [finding.waiver for finding in done(measured).findings] == ["few keys, never more"]
    assert measured[METRIC] == 0
