"""What is counted of commands: one table, on every kind of client and on a server that agrees."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import pytest

from pytest_perfguard import Recorder
from tests.services.support import Cache, Script, cache_counts, cache_tallies, calls, piped

Calls = Generator[Any, Any, Any]

NOTHING = calls()
ADD = "return redis.call('GET', KEYS[1]) + ARGV[1]"
# 50 bytes of it, to be told from framing in the sums.
LONG = "0123456789" * 5


@dataclass(frozen=True)
class Row:
    """Commands, and what is to be counted of them.

    Attributes:
        given: what is done before the block.
        do: what is measured.
        trips: round trips.
        sent: bytes of the words of all commands.
        received: bytes of the values of all replies.
        lasting: writes that leave a key without an expiry.
        server: what the server counts as keyspace hits and misses, where that is not the same on
            purpose: it counts a hash as found whichever field was asked for, and every command
            that reads a key, while a hit here is a value that the code was looking for.
    """

    name: str
    do: Script[Any]
    given: Script[Any] = NOTHING
    hits: int = 0
    misses: int = 0
    commands: int = 1
    trips: int = 1
    sent: int = 0
    received: int = 0
    lasting: int = 0
    errors: int = 0
    server: tuple[int, int] | None = None


def value(text: str = "hello") -> Script[Any]:
    return calls(("set", "a", text, {"ex": 60}))


def two_fields() -> Script[Any]:
    return calls(("hset", "h", {"mapping": {"f": "one", "g": "two"}}))


def raw(*words: Any) -> Script[Any]:
    """Return a script of one command as it is sent, for what redis-py calls by another name."""
    return calls(("execute_command", *words))


def optimistic(client: Any) -> Calls:
    pipe = client.pipeline()
    yield pipe.watch("a")
    found = yield pipe.get("a")
    pipe.multi()
    pipe.set("a", int(found) + 1, ex=60)
    pipe.get("a")
    yield pipe.execute()


def unwatched(client: Any) -> Calls:
    pipe = client.pipeline()
    yield pipe.watch("a")
    yield pipe.unwatch()
    yield pipe.reset()


def lost_race(client: Any) -> Calls:
    from redis import WatchError

    pipe = client.pipeline()
    yield pipe.watch("a")
    yield client.set("a", "other", ex=60)
    pipe.multi()
    pipe.get("a")
    with pytest.raises(WatchError):
        yield pipe.execute()


def lock(client: Any) -> Calls:
    held = client.lock("lock", timeout=60)
    yield held.acquire()
    yield held.release()


def scripted(times: int) -> Script[Any]:
    def script(client: Any) -> Calls:
        add = client.register_script(ADD)
        for _ in range(times):
            assert (yield add(keys=["a"], args=[2])) == 42

    return script


def scripted_in_pipeline(client: Any) -> Calls:
    add = client.register_script(ADD)
    pipe = client.pipeline()
    yield add(keys=["a"], args=[2], client=pipe)
    pipe.get("a")
    assert (yield pipe.execute())[0] == 42


def loaded(client: Any) -> Calls:
    yield client.set("a", 40, ex=60)
    yield client.script_load(ADD)


def unloaded(client: Any) -> Calls:
    yield client.set("a", 40, ex=60)
    yield client.script_flush()


def missing_script_in_pipeline(client: Any) -> Calls:
    pipe = client.pipeline(transaction=False)
    pipe.evalsha("0" * 40, 1, "a", 2)
    pipe.get("a")
    yield pipe.execute(raise_on_error=False)


def failing_pipeline(client: Any) -> Calls:
    from redis import ResponseError

    pipe = client.pipeline(transaction=False)
    pipe.get("a")
    pipe.incr("a")
    with pytest.raises(ResponseError, match="INCRBY"):
        yield pipe.execute()


def wrong_type(client: Any) -> Calls:
    from redis import ResponseError

    with pytest.raises(ResponseError):
        yield client.get("h")


def scan(client: Any) -> Calls:
    cursor = 0
    while True:
        cursor, _ = yield client.scan(cursor, match="a*", count=100)
        if not cursor:
            return


def emptied_pipeline(client: Any) -> Calls:
    pipe = client.pipeline()
    pipe.get("a")
    yield pipe.reset()
    yield pipe.execute()


def reused_pipeline(client: Any) -> Calls:
    pipe = client.pipeline()
    pipe.get("a")
    yield pipe.execute()
    pipe.get("b")
    yield pipe.execute()


def together(*scripts: Script[Any]) -> Script[Any]:
    def script(client: Any) -> Calls:
        for each in scripts:
            yield from each(client)

    return script


ROWS = [
    # Lookups
    Row("get, found", calls(("get", "a")), value(), hits=1, sent=3 + 1, received=5),
    Row("get, missing", calls(("get", "a")), misses=1, sent=3 + 1),
    Row("get, empty", calls(("get", "a")), value(""), hits=1, sent=3 + 1),
    Row("get, lower case", raw("get", "a"), value(), hits=1, sent=3 + 1, received=5),
    Row("get, name in bytes", raw(b"GET", "a"), value(), hits=1, sent=3 + 1, received=5),
    Row("get, in one text", raw("GET a"), value(), hits=1, sent=3 + 1, received=5),
    Row(
        "getex", calls(("getex", "a", {"ex": 60})), value(),
        hits=1, sent=5 + 1 + 2 + 2, received=5,
    ),
    Row("getdel, found", calls(("getdel", "a")), value(), hits=1, sent=6 + 1, received=5),
    Row("getdel, missing", calls(("getdel", "a")), misses=1, sent=6 + 1),
    Row(
        "mget", calls(("mget", ["a", "b", "a"])), value(),
        hits=2, misses=1, sent=4 + 3, received=10,
    ),
    Row("exists", calls(("exists", "a", "b", "a")), value(), hits=2, misses=1,
        sent=6 + 3, received=1),
    Row("hget, found", calls(("hget", "h", "f")), two_fields(), hits=1,
        sent=4 + 1 + 1, received=3),
    Row("hget, no such field", calls(("hget", "h", "x")), two_fields(), misses=1,
        sent=4 + 1 + 1, server=(1, 0)),
    Row("hget, no such hash", calls(("hget", "h", "f")), misses=1, sent=4 + 1 + 1),
    Row("hmget", calls(("hmget", "h", ["f", "x", "g"])), two_fields(), hits=2, misses=1,
        sent=5 + 1 + 3, received=6, server=(1, 0)),
    Row("hmget, no such hash", calls(("hmget", "h", ["f", "g"])), misses=2,
        sent=5 + 1 + 2, server=(0, 1)),
    Row("hgetall, found", calls(("hgetall", "h")), two_fields(), hits=1,
        sent=7 + 1, received=1 + 3 + 1 + 3),
    Row("hgetall, missing", calls(("hgetall", "h")), misses=1, sent=7 + 1),
    # Reads that look nothing up
    Row("strlen", calls(("strlen", "a")), value(), sent=6 + 1, received=1, server=(1, 0)),
    Row("getrange", calls(("getrange", "a", 0, 1)), value(), sent=8 + 3, received=2,
        server=(1, 0)),
    Row("ttl", calls(("ttl", "a")), value(), sent=3 + 1, received=2, server=(1, 0)),
    Row("ttl, missing", calls(("ttl", "a")), sent=3 + 1, received=2, server=(0, 1)),
    Row("hexists, missing", calls(("hexists", "h", "x")), two_fields(), sent=7 + 2,
        server=(1, 0)),
    Row("smembers", calls(("smembers", "s")), calls(("sadd", "s", "one", "two")),
        sent=8 + 1, received=6, server=(1, 0)),
    Row("lrange", calls(("lrange", "l", 0, -1)), calls(("rpush", "l", "one", "two")),
        sent=6 + 1 + 1 + 2, received=6, server=(1, 0)),
    Row("zrange", calls(("zrange", "z", 0, -1)), calls(("zadd", "z", {"mapping": {"one": 1}})),
        sent=6 + 1 + 1 + 2, received=3, server=(1, 0)),
    Row("scan", scan, value(), sent=4 + 1 + 5 + 2 + 5 + 3, received=1 + 1),
    Row("ping", calls(("ping",)), sent=4),
    Row("publish", calls(("publish", "channel", "hello")), sent=7 + 7 + 5, received=1),
    # Writes
    Row("set", calls(("set", "a", "hello")), sent=3 + 1 + 5, lasting=1),
    Row("set, number", calls(("set", "a", 1234)), sent=3 + 1 + 4, lasting=1),
    Row("set, more bytes than letters", calls(("set", "é", "日本")), sent=3 + 2 + 6, lasting=1),
    Row("set, bytes", calls(("set", b"a", memoryview(b"hello"))), sent=3 + 1 + 5, lasting=1),
    Row("set ex", calls(("set", "a", "hello", {"ex": 60})), sent=3 + 1 + 5 + 2 + 2),
    Row("set px", calls(("set", "a", "hello", {"px": 60_000})), sent=3 + 1 + 5 + 2 + 5),
    Row("set exat", calls(("set", "a", "hello", {"exat": 9_999_999_999})),
        sent=3 + 1 + 5 + 4 + 10),
    Row("set pxat", calls(("set", "a", "hello", {"pxat": 9_999_999_999_999})),
        sent=3 + 1 + 5 + 4 + 13),
    Row("set ex, bytes", raw("SET", "a", "hello", b"EX", 60), sent=3 + 1 + 5 + 2 + 2),
    Row("set keepttl", calls(("set", "a", "other", {"keepttl": True})), value(),
        sent=3 + 1 + 5 + 7),
    Row("set nx, written", calls(("set", "a", "hello", {"nx": True})),
        sent=3 + 1 + 5 + 2, lasting=1),
    Row("set nx, kept", calls(("set", "a", "other", {"nx": True})), value(),
        sent=3 + 1 + 5 + 2),
    Row("set xx, written", calls(("set", "a", "other", {"xx": True})), value(),
        sent=3 + 1 + 5 + 2, lasting=1),
    Row("set xx, nothing there", calls(("set", "a", "other", {"xx": True})),
        sent=3 + 1 + 5 + 2),
    Row("set get, old value", calls(("set", "a", "other", {"get": True})), value(),
        sent=3 + 1 + 5 + 3, received=5, lasting=1, server=(1, 0)),
    Row("set get, none", calls(("set", "a", "other", {"get": True})),
        sent=3 + 1 + 5 + 3, lasting=1, server=(0, 1)),
    Row("set nx get, kept", calls(("set", "a", "other", {"nx": True, "get": True})), value(),
        sent=3 + 1 + 5 + 2 + 3, received=5, server=(1, 0)),
    Row("set nx get, written", calls(("set", "a", "other", {"nx": True, "get": True})),
        sent=3 + 1 + 5 + 2 + 3, lasting=1, server=(0, 1)),
    Row("set xx get, nothing there", calls(("set", "a", "other", {"xx": True, "get": True})),
        sent=3 + 1 + 5 + 2 + 3, server=(0, 1)),
    Row("setex", raw("SETEX", "a", 60, "hello"), sent=5 + 1 + 2 + 5),
    Row("psetex", raw("PSETEX", "a", 60_000, "hello"), sent=6 + 1 + 5 + 5),
    Row("setnx, written", raw("SETNX", "a", "hello"), sent=5 + 1 + 5, lasting=1),
    Row("setnx, kept", raw("SETNX", "a", "hello"), value(), sent=5 + 1 + 5),
    Row("getset", raw("GETSET", "a", "other"), value(), sent=6 + 1 + 5, received=5,
        lasting=1, server=(1, 0)),
    Row("mset", calls(("mset", {"mapping": {"a": "one", "b": "two"}})), sent=4 + 2 + 6,
        lasting=2),
    Row("msetnx, written", calls(("msetnx", {"mapping": {"a": "one", "b": "two"}})),
        sent=6 + 2 + 6, lasting=2),
    Row("msetnx, kept", calls(("msetnx", {"mapping": {"a": "one", "b": "two"}})), value(),
        sent=6 + 2 + 6),
    Row("incr", calls(("incr", "n")), sent=6 + 1 + 1, received=1),
    Row("hset", two_fields(), sent=4 + 1 + 1 + 3 + 1 + 3, received=1),
    Row("delete", calls(("delete", "a", "b")), value(), sent=3 + 2, received=1),
    Row("expire", calls(("expire", "a", 60)), value(), sent=6 + 1 + 2),
    # Pipelines
    Row("pipeline", piped(("get", "a"), ("get", "b"), ("set", "b", "hello")), value(),
        hits=1, misses=1, commands=3, sent=4 + 4 + 3 + 1 + 5, received=5, lasting=1),
    Row("transaction",
        piped(("get", "a"), ("get", "b"), ("set", "b", "hello"), transaction=True), value(),
        hits=1, misses=1, commands=3, sent=4 + 4 + 3 + 1 + 5, received=5, lasting=1),
    Row("pipeline of nothing", piped(), commands=0, trips=0),
    Row("transaction of nothing", piped(transaction=True), commands=0, trips=0),
    Row("pipeline that was emptied", emptied_pipeline, commands=0, trips=0),
    Row("pipeline that is used again", reused_pipeline, value(), hits=1, misses=1,
        commands=2, trips=2, sent=4 + 4, received=5),
    Row("pipeline of many", piped(*itertools.repeat(("get", "a"), 500)), value(LONG),
        hits=500, commands=500, sent=500 * 4, received=500 * 50),
    Row("pipeline, an error among replies",
        piped(("get", "a"), ("incr", "a"), ("get", "a"), raise_on_error=False), value(),
        hits=2, commands=3, sent=4 + 6 + 1 + 1 + 4, received=10, errors=1),
    Row("transaction, an error among replies",
        piped(("get", "a"), ("incr", "a"), ("get", "a"), transaction=True, raise_on_error=False),
        value(), hits=2, commands=3, sent=4 + 6 + 1 + 1 + 4, received=10, errors=1),
    # The replies before the error are lost to the code as well.
    Row("pipeline, an error raised", failing_pipeline, value(),
        commands=2, sent=4 + 6 + 1 + 1, errors=1, server=(1, 0)),
    # Transactions that watch: WATCH, GET, then the rest in one.
    Row("optimistic transaction", optimistic, value("41"), hits=2, commands=3, trips=2,
        sent=4 + 3 + 1 + 2 + 2 + 2 + 4, received=2 + 2),
    Row("watch without a transaction", unwatched, commands=0, trips=0),
    Row("optimistic transaction, lost", lost_race, value("41"), commands=2, trips=2,
        sent=3 + 1 + 5 + 2 + 2 + 4, errors=0),
    # Scripts; the reply of a missing one is the client's affair.
    Row("script, first use", scripted(1), unloaded, sent=7 + 40 + 1 + 1 + 1, received=2,
        server=(1, 0)),
    Row("script, later use", scripted(1), loaded, sent=7 + 40 + 1 + 1 + 1, received=2,
        server=(1, 0)),
    Row("script, both", scripted(2), unloaded, commands=2, trips=2,
        sent=2 * (7 + 40 + 1 + 1 + 1), received=2 * 2, server=(2, 0)),
    Row("script in a pipeline, first use", scripted_in_pipeline, unloaded, hits=1, commands=2,
        sent=7 + 40 + 1 + 1 + 1 + 4, received=2 + 2, server=(2, 0)),
    Row("script in a pipeline, later use", scripted_in_pipeline, loaded, hits=1, commands=2,
        sent=7 + 40 + 1 + 1 + 1 + 4, received=2 + 2, server=(2, 0)),
    # Nobody sends this one again.
    Row("script that is missing in a pipeline", missing_script_in_pipeline, unloaded,
        hits=1, commands=2, sent=7 + 40 + 1 + 1 + 1 + 4, received=2, errors=1),
    # SET lock <32 letters> NX PX 60000; EVALSHA <sha> 1 lock <32 letters>
    Row("lock", lock, commands=2, trips=2,
        sent=3 + 4 + 32 + 2 + 2 + 5 + 7 + 40 + 1 + 4 + 32, received=1, server=(1, 0)),
    # Errors
    Row("get, wrong type", wrong_type, two_fields(), sent=3 + 1, errors=1, server=(1, 0)),
    # Expiry that comes later, or goes
    Row("set, then expire", calls(("set", "a", "hello"), ("expire", "a", 60)),
        commands=2, trips=2, sent=3 + 1 + 5 + 6 + 1 + 2),
    Row("set, then an expire that does nothing",
        calls(("set", "a", "hello"), ("expire", "a", 60, {"xx": True})),
        commands=2, trips=2, sent=3 + 1 + 5 + 6 + 1 + 2 + 2, lasting=1),
    Row("expire, then set", calls(("expire", "a", 60), ("set", "a", "hello")), value(),
        commands=2, trips=2, sent=3 + 1 + 5 + 6 + 1 + 2, lasting=1),
    Row("set, then pexpireat", calls(("set", "a", "hello"), ("pexpireat", "a", 9_999_999_999_999)),
        commands=2, trips=2, sent=3 + 1 + 5 + 9 + 1 + 13),
    Row("set, then getex", calls(("set", "a", "hello"), ("getex", "a", {"ex": 60})),
        hits=1, commands=2, trips=2, sent=3 + 1 + 5 + 5 + 1 + 2 + 2, received=5),
    Row("set, then getex without an expiry", calls(("set", "a", "hello"), ("getex", "a")),
        hits=1, commands=2, trips=2, sent=3 + 1 + 5 + 5 + 1, received=5, lasting=1),
    Row("set, then getdel", calls(("set", "a", "hello"), ("getdel", "a")),
        hits=1, commands=2, trips=2, sent=3 + 1 + 5 + 6 + 1, received=5),
    Row("set, then delete", calls(("set", "a", "hello"), ("delete", "a")),
        commands=2, trips=2, sent=3 + 1 + 5 + 3 + 1, received=1),
    Row("set, then set ex", calls(("set", "a", "hello"), ("set", "a", "hello", {"ex": 60})),
        commands=2, trips=2, sent=3 + 1 + 5 + 3 + 1 + 5 + 2 + 2),
    Row("set, then setex", together(calls(("set", "a", "hello")), raw("SETEX", "a", 60, "hello")),
        commands=2, trips=2, sent=3 + 1 + 5 + 5 + 1 + 2 + 5),
    Row("set, then set keepttl",
        calls(("set", "a", "hello"), ("set", "a", "hello", {"keepttl": True})),
        commands=2, trips=2, sent=3 + 1 + 5 + 3 + 1 + 5 + 7, lasting=1),
    Row("set twice", calls(("set", "a", "hello"), ("set", "a", "other")),
        commands=2, trips=2, sent=2 * (3 + 1 + 5), lasting=1),
    Row("mset, then expire of one",
        calls(("mset", {"mapping": {"a": "one", "b": "two"}}), ("expire", "a", 60)),
        commands=2, trips=2, sent=4 + 2 + 6 + 6 + 1 + 2, lasting=1),
    Row("setnx, then expire, in bytes",
        together(raw("SETNX", "a", "hello"), raw("EXPIRE", b"a", 60)),
        commands=2, trips=2, sent=5 + 1 + 5 + 6 + 1 + 2),
    Row("set and expire in a pipeline",
        piped(("set", "a", "hello"), ("expire", "a", 60), transaction=True),
        commands=2, sent=3 + 1 + 5 + 6 + 1 + 2),
]  # fmt: skip


def assert_counts(recorder: Recorder, cache: Cache, row: Row, client: Any = None) -> None:
    with recorder.measure("block") as measured:
        cache.call(row.do, client)
    expected = {
        "hits": row.hits,
        "misses": row.misses,
        "commands": row.commands,
        "roundtrips": row.trips,
        "writes_without_ttl": row.lasting,
        "errors": row.errors,
    }
    assert cache_counts(measured) == {name: count for name, count in expected.items() if count}
    tallies = cache_tallies(measured)
    assert sum(tally.sums.get("bytes_out", 0) for tally in tallies) == row.sent
    assert sum(tally.sums.get("bytes_in", 0) for tally in tallies) == row.received
    assert measured["cache_bytes"] == row.sent + row.received


rows = pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])


@pytest.fixture
def server_counts(own_redis_port: int) -> Any:
    """Return what the server has counted since it was last asked."""
    import redis

    with redis.Redis(port=own_redis_port) as admin:
        seen = [0, 0]

        def count() -> tuple[int, int]:
            info = admin.info("stats")
            now = [info["keyspace_hits"], info["keyspace_misses"]]
            new = (now[0] - seen[0], now[1] - seen[1])
            seen[:] = now
            return new

        count()
        yield count


@rows
def test_redis_counts_and_agrees(
    recorder: Recorder, own_cache: Cache, row: Row, server_counts: Any
) -> None:
    own_cache.call(row.given)
    server_counts()
    assert_counts(recorder, own_cache, row)
    expected = (row.hits, row.misses) if row.server is None else row.server
    assert server_counts() == expected


@rows
def test_fakeredis_counts_the_same(recorder: Recorder, fake_cache: Cache, row: Row) -> None:
    fake_cache.call(row.given)
    assert_counts(recorder, fake_cache, row)


@pytest.mark.parametrize(
    "options",
    [
        {"protocol": 2, "single_connection_client": True},
        {"protocol": 3, "decode_responses": True},
    ],
    ids=["RESP2, one connection", "RESP3, decoded"],
)
@rows
def test_options_of_the_client_change_no_count(
    recorder: Recorder, own_cache: Cache, row: Row, options: dict[str, Any]
) -> None:
    own_cache.call(row.given)
    assert_counts(recorder, own_cache, row, own_cache.make_client(**options))


@pytest.mark.parametrize(
    "key", ["user:1", b"user:1", memoryview(b"user:1")], ids=lambda key: type(key).__name__
)
@pytest.mark.parametrize(
    "written", [b"\xff\xfe", memoryview(b"\xff\xfe")], ids=lambda value: type(value).__name__
)
def test_keys_and_values_of_every_type_are_the_same_key_and_as_long(
    recorder: Recorder, fake_cache: Cache, key: Any, written: Any
) -> None:
    def script(client: Any) -> Calls:
        yield client.set(key, written)
        assert (yield client.get("user:1")) == b"\xff\xfe"
        yield client.expire("user:1", 60)

    with recorder.measure("block") as measured:
        fake_cache.call(script)
    assert cache_counts(measured) == {"hits": 1, "commands": 3, "roundtrips": 3}
    assert [tally.operation for tally in cache_tallies(measured)] == [
        "SET user:{int}", "GET user:{int}", "EXPIRE user:{int}"
    ]  # fmt: skip
    assert measured["cache_bytes"] == (3 + 6 + 2) + (3 + 6 + 2) + (6 + 6 + 2)


def test_numbers_are_as_long_as_they_are_sent(recorder: Recorder, fake_cache: Cache) -> None:
    with recorder.measure("block") as measured:
        fake_cache.call(calls(("set", 42, 2.5, {"ex": 60}), ("get", "42")))
    assert measured["cache_hits"] == 1
    assert measured["cache_bytes"] == (3 + 2 + 3 + 2 + 2) + (3 + 2 + 3)


def test_values_larger_than_any_buffer_are_one_round_trip(recorder: Recorder, cache: Cache) -> None:
    large = b"x" * 5_000_000
    first, second = cache.key("a"), cache.key("b")
    with recorder.measure("block") as measured:
        cache.call(calls(("set", first, large, {"ex": 60}), ("get", first)))
        cache.call(piped(("set", second, large, {"ex": 60}), ("get", second)))
    assert cache_counts(measured) == {"hits": 2, "commands": 4, "roundtrips": 3}
    names = 2 * (3 + len(first) + 2 + 2 + 3 + len(first))
    assert measured["cache_bytes"] == 4 * len(large) + names


def test_sums_of_many_commands_are_exact(recorder: Recorder, fake_cache: Cache) -> None:
    # More lines and patterns than are kept: the rest is added up.
    def script(client: Any) -> Calls:
        for number in range(2_000):
            yield client.get("".join(chr(ord("a") + int(digit)) for digit in str(number)) + ":1")

    with recorder.measure("block") as measured:
        fake_cache.call(script)
    assert cache_counts(measured) == {"misses": 2_000, "commands": 2_000, "roundtrips": 2_000}
    assert len(cache_tallies(measured)) <= 1_001
