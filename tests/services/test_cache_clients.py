"""Which clients are seen, what they do on their own account, and what is left behind."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from contextlib import closing
from functools import wraps
from types import ModuleType
from typing import Any

import pytest

from pytest_perfguard import Recorder, Settings
from tests.services.support import (
    ROOT,
    Cache,
    cache_counts,
    cache_tallies,
    calls,
    disconnect,
    done,
    piped,
)

Calls = Generator[Any, Any, Any]

# redis-py 6.0 says this of a call of its own.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*'cluster_error_retry_attempts':DeprecationWarning"
)


# --- Which clients are seen


def test_clients_made_before_and_after_the_recorder_are_seen(cache: Cache) -> None:
    key = cache.key("a")
    before = cache.make_client()
    pipe_before = before.pipeline()
    cache.call(calls(("set", key, "hello", {"ex": 60})), before)
    with Recorder(Settings(root=ROOT)) as recorder:
        after = cache.make_client()
        with recorder.measure("block") as measured:
            during = cache.make_client()
            for client in (before, after, during):
                cache.call(calls(("get", key)), client)
                cache.call(piped(("get", key)), client)
            pipe_before.get(key)
            cache.call(lambda _: iter_once(pipe_before.execute()))
    assert cache_counts(measured) == {"hits": 7, "commands": 7, "roundtrips": 7}


def iter_once(step: Any) -> Calls:
    return (yield step)


def test_methods_that_were_bound_before_the_recorder_are_seen(plain_cache: Cache) -> None:
    get = plain_cache.client.get
    with Recorder(Settings(root=ROOT)) as recorder, recorder.measure("block") as measured:
        get("a")
    assert measured["cache_misses"] == 1


def test_nothing_is_counted_outside_a_block(recorder: Recorder, cache: Cache) -> None:
    cache.call(calls(("get", cache.key("a"))))
    with recorder.measure("block") as measured:
        pass
    cache.call(calls(("get", cache.key("a"))))
    assert cache_counts(measured) == {}


def test_what_was_queued_before_the_block_is_counted_where_it_is_sent(
    recorder: Recorder, cache: Cache
) -> None:
    pipe = cache.client.pipeline()
    pipe.get(cache.key("a"))
    with recorder.measure("block") as measured:
        cache.call(lambda _: iter_once(pipe.execute()))
    assert cache_counts(measured) == {"misses": 1, "commands": 1, "roundtrips": 1}


def test_what_is_only_queued_is_not_counted(recorder: Recorder, cache: Cache) -> None:
    pipe = cache.client.pipeline()
    with recorder.measure("block") as measured:
        pipe.get(cache.key("a"))
    assert cache_counts(measured) == {}
    cache.call(lambda _: iter_once(pipe.reset()))


def test_a_subclass_that_asks_twice_is_counted_as_what_it_sends(
    recorder: Recorder, own_redis_port: int
) -> None:
    import redis

    class Prefixed(redis.Redis):
        def execute_command(self, *args: Any, **options: Any) -> Any:
            parent: Any = super()
            return parent.execute_command(args[0], f"app:{args[1]}", *args[2:], **options)

    with Prefixed(port=own_redis_port) as client, recorder.measure("block") as measured:
        client.get("user")
    (tally,) = cache_tallies(measured)
    assert tally.operation == "GET app:{word}"
    assert cache_counts(measured) == {"misses": 1, "commands": 1, "roundtrips": 1}


def test_several_clients_of_one_block_are_added_up(recorder: Recorder, cache: Cache) -> None:
    key = cache.key("a")
    with recorder.measure("block") as measured:
        cache.call(calls(("set", key, "hello", {"ex": 60})))
        for _ in range(3):
            cache.call(calls(("get", key)), cache.make_client())
    assert cache_counts(measured) == {"hits": 3, "commands": 4, "roundtrips": 4}


# --- Cluster clients


def test_the_first_command_of_a_cluster_client_is_all_that_counts(
    recorder: Recorder, cluster: Cache
) -> None:
    with recorder.measure("block") as measured:
        cluster.call(calls(("get", "a")), cluster.make_client())
    assert cache_counts(measured) == {"misses": 1, "commands": 1, "roundtrips": 1}
    assert measured["cache_bytes"] == 3 + 1


def test_commands_of_a_cluster_client(recorder: Recorder, cluster: Cache) -> None:
    cluster.call(calls(("set", "a", "hello")))
    steps = (
        ("get", "a"),
        ("get", "b"),
        ("exists", "a"),
        ("set", "b", "other"),
        ("expire", "b", 60),
        ("hset", "h", {"mapping": {"f": "one"}}),
        ("hmget", "h", ["f", "x"]),
        ("sadd", "s", "one"),
    )
    with recorder.measure("block") as measured:
        cluster.call(calls(*steps))
    assert cache_counts(measured) == {"hits": 3, "misses": 2, "commands": 8, "roundtrips": 8}
    assert [tally.operation for tally in cache_tallies(measured)] == [
        "GET {word}",
        "EXISTS {word}",
        "SET {word}",
        "EXPIRE {word}",
        "HSET {word}",
        "HMGET {word}",
        "SADD {word}",
    ]


def test_a_cluster_client_may_ask_which_words_are_keys(recorder: Recorder, cluster: Cache) -> None:
    with recorder.measure("block") as measured:
        cluster.call(calls(*[("execute_command", "XREAD", "STREAMS", "s", 0)] * 2))
    assert cache_counts(measured) == {"commands": 2, "roundtrips": 2}


def test_a_command_of_many_keys_is_one_for_each_slot(recorder: Recorder, cluster: Cache) -> None:
    cluster.call(calls(("set", "a{1}", "hello"), ("set", "b{1}", "hello")))

    def script(client: Any) -> Calls:
        yield client.mget(["a{1}", "b{1}", "c{1}"])
        yield client.mget_nonatomic(["a{1}", "b{1}", "d{2}"])
        yield client.delete("a{1}", "b{1}", "d{2}")

    with recorder.measure("block") as measured:
        cluster.call(script)
    counts = cache_counts(measured)
    # An asyncio client sends all to a node at once, a synchronous one does so since redis-py 6.
    assert counts.pop("roundtrips") in (3, 5)
    assert counts == {"hits": 4, "misses": 2, "commands": 5}


def test_a_pipeline_of_a_cluster_client(recorder: Recorder, cluster: Cache) -> None:
    cluster.call(calls(("set", "a", "hello")))

    def script(client: Any) -> Calls:
        pipe = client.pipeline()
        pipe.get("a")
        pipe.get("b")
        pipe.set("c", "hello")
        pipe.lpush("a", "no list")
        return (yield pipe.execute(raise_on_error=False))

    with recorder.measure("block") as measured:
        replies = cluster.call(script)
    assert replies[:3] == [b"hello", None, True]
    assert cache_counts(measured) == {
        "hits": 1,
        "misses": 1,
        "commands": 4,
        "roundtrips": 1,
        "writes_without_ttl": 1,
        "errors": 1,
    }
    assert measured["cache_bytes"] == (3 + 1 + 5) + (3 + 1) + (3 + 1 + 5) + (5 + 1 + 7)


def test_a_first_pipeline_of_a_cluster_client_is_all_that_counts(
    recorder: Recorder, cluster: Cache
) -> None:
    def script(client: Any) -> Calls:
        pipe = client.pipeline()
        pipe.get("a")
        return (yield pipe.execute())

    with recorder.measure("block") as measured:
        cluster.call(script, cluster.make_client())
    assert cache_counts(measured) == {"misses": 1, "commands": 1, "roundtrips": 1}


def test_an_empty_pipeline_of_a_cluster_client(recorder: Recorder, cluster: Cache) -> None:
    with recorder.measure("block") as measured:
        cluster.call(lambda client: iter_once(client.pipeline().execute()))
    assert cache_counts(measured) == {}


def test_a_script_of_a_cluster_client(recorder: Recorder, sync_cluster: Cache) -> None:
    def script(client: Any) -> Calls:
        yield client.script_flush()
        found = client.register_script("return redis.call('GET', KEYS[1])")
        yield found(keys=["a"])
        yield found(keys=["a"])

    with recorder.measure("block") as measured:
        sync_cluster.call(script)
    assert cache_counts(measured) == {"commands": 2, "roundtrips": 2}


def test_a_lock_of_a_cluster_client(recorder: Recorder, cluster: Cache) -> None:
    def script(client: Any) -> Calls:
        lock = client.lock("lock", timeout=60)
        yield lock.acquire()
        yield lock.release()

    with recorder.measure("block") as measured:
        cluster.call(script)
    assert cache_counts(measured) == {"commands": 2, "roundtrips": 2}


def test_a_transaction_of_a_cluster_client(recorder: Recorder, sync_cluster: Cache) -> None:
    try:
        pipe = sync_cluster.client.pipeline(transaction=True)
    except Exception as error:  # noqa: BLE001 - another one in each version
        pytest.skip(f"this redis-py has none: {error}")
    with recorder.measure("block") as measured:
        pipe.set("a", "hello")
        pipe.get("a")
        assert pipe.execute()[1] == b"hello"
    assert cache_counts(measured) == {
        "hits": 1,
        "commands": 2,
        "roundtrips": 1,
        "writes_without_ttl": 1,
    }


# --- Client-side caching


def test_a_hit_of_a_client_side_cache_takes_no_round_trip(
    recorder: Recorder, own_redis_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import redis

    caching = pytest.importorskip("redis.cache", reason="this redis-py has no client-side cache")
    connection = pytest.importorskip("redis.connection")
    # The server at hand may be one that redis-py is not sure of; it does track keys.
    monkeypatch.setattr(connection.CacheProxyConnection, "MIN_ALLOWED_VERSION", "6.0.0")
    with (
        closing(
            redis.Redis(port=own_redis_port, protocol=3, cache_config=caching.CacheConfig())
        ) as client,
        redis.Redis(port=own_redis_port) as other,
    ):
        client.set("a", "hello", ex=60)
        with recorder.measure("block") as measured:
            client.get("a")
            with recorder.measure("again") as again:
                assert [client.get("a") for _ in range(3)] == [b"hello"] * 3
            other.set("a", "other", ex=60)
            # What is told by the server arrives before the reply to a later command.
            client.ping()
            assert client.get("a") == b"other"
        other.delete("a")
    assert cache_counts(again) == {"hits": 3, "commands": 3}
    # Asked and told: GET, 3 out of the cache, SET, PING, GET.
    assert cache_counts(measured) == {"hits": 5, "commands": 7, "roundtrips": 4}
    assert again["cache_bytes"] == 3 * (3 + 1 + 5)


# --- What clients do on their own account


@pytest.fixture
def server_calls(own_redis_port: int) -> Iterator[Any]:
    """Return how often the server has been sent each command since then."""
    import redis

    with redis.Redis(port=own_redis_port) as admin:
        admin.config_resetstat()

        def count() -> dict[str, int]:
            stats = admin.info("commandstats")
            return {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}

        yield count


def test_what_sets_up_a_connection_is_not_counted(
    recorder: Recorder, own_cache: Cache, server_calls: Any
) -> None:
    user = {"username": "reader", "password": "s3cret"}
    everything = {"keys": ["*"], "commands": ["+@all"]}
    own_cache.call(
        calls(("acl_setuser", "reader", {"enabled": True, "passwords": ["+s3cret"], **everything}))
    )
    client = own_cache.make_client(**user, db=5, client_name="tests", protocol=3)
    piping = own_cache.make_client(**user, db=5, client_name="tests", protocol=2)
    with recorder.measure("block") as measured:
        own_cache.call(calls(("get", "a")), client)
        own_cache.call(piped(("get", "a"), ("get", "b"), transaction=True), piping)
    sent = server_calls()
    assert sent["hello"] >= 1
    assert sent["auth"] >= 1
    assert sent["select"] == sent["client|setname"] == 2
    assert cache_counts(measured) == {"misses": 3, "commands": 3, "roundtrips": 2}
    assert measured["cache_bytes"] == 3 * (3 + 1)
    assert len(done(measured).tallies) == 3  # two of GET, one of the pipeline


def test_health_checks_are_not_counted(
    recorder: Recorder, own_cache: Cache, server_calls: Any
) -> None:
    client = own_cache.make_client(health_check_interval=3600)
    own_cache.call(calls(("ping",)), client)
    # From here on it checks before every command.
    (connection,) = client.connection_pool._available_connections
    connection.health_check_interval = 1e-9
    connection.next_health_check = 0
    before = server_calls()["ping"]
    with recorder.measure("block") as measured:
        own_cache.call(calls(*[("get", "a")] * 5), client)
        own_cache.call(piped(("get", "a"), ("get", "b")), client)
    assert server_calls()["ping"] == before + 6
    assert cache_counts(measured) == {"misses": 7, "commands": 7, "roundtrips": 6}


@pytest.mark.parametrize("single", [False, True])
def test_a_connection_that_was_dropped_is_made_anew_and_not_counted(
    recorder: Recorder, own_cache: Cache, server_calls: Any, single: bool
) -> None:
    import redis
    from redis.asyncio.retry import Retry as AsyncRetry
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    client = own_cache.make_client(
        retry=(AsyncRetry if own_cache.is_async else Retry)(NoBackoff(), 3),
        retry_on_error=[redis.ConnectionError],
        single_connection_client=single,
        db=5,
    )
    (number,) = own_cache.call(calls(("client_id",)), client)
    own_cache.call(calls(("client_kill_filter", {"_id": number, "skipme": False})))
    before = server_calls()["select"]
    with recorder.measure("block") as measured:
        assert own_cache.call(calls(("get", "a")), client) == [None]
    assert server_calls()["select"] == before + 1
    counts = cache_counts(measured)
    # Whoever takes the connection from a pool may find out before it sends, and sends once then.
    assert counts.pop("roundtrips") in ({2} if single else {1, 2})
    assert counts == {"misses": 1, "commands": 1}


def test_what_a_sentinel_is_asked_is_not_counted(
    recorder: Recorder, own_cache: Cache, sentinel_port: int
) -> None:
    from redis.asyncio.sentinel import Sentinel as AsyncSentinel
    from redis.sentinel import Sentinel

    kind: Any = AsyncSentinel if own_cache.is_async else Sentinel
    sentinel = kind([("127.0.0.1", sentinel_port)])

    def script(_: Any) -> Calls:
        client = sentinel.master_for("main")
        yield client.get("a")
        yield client.connection_pool.disconnect()
        yield client.get("a")
        for each in (client, *sentinel.sentinels):
            yield from disconnect(each)

    with recorder.measure("block") as measured:
        own_cache.call(script)
    assert cache_counts(measured) == {"misses": 2, "commands": 2, "roundtrips": 2}


def test_subscriptions_are_not_seen(recorder: Recorder, own_cache: Cache) -> None:
    def script(client: Any) -> Calls:
        heard = client.pubsub()
        yield heard.subscribe("channel")
        yield heard.get_message(timeout=5)
        yield client.publish("channel", "hello")
        message = yield heard.get_message(timeout=5)
        assert message["data"] == b"hello"
        yield getattr(heard, "aclose", heard.close)()

    with recorder.measure("block") as measured:
        own_cache.call(script)
    assert cache_counts(measured) == {"commands": 1, "roundtrips": 1}


# --- What is left behind, and who else is there


def methods() -> dict[tuple[type, str], object]:
    """Return every method of every class of the libraries."""
    modules = [
        module
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in ("redis", "fakeredis") and isinstance(module, ModuleType)
    ]
    return {
        (owner, name): value
        for module in modules
        for owner in vars(module).values()
        if isinstance(owner, type)
        for name, value in vars(owner).items()
        if callable(value)
    }


def test_the_classes_are_as_before_once_the_recorder_is_gone(plain_cache: Cache) -> None:
    with Recorder(Settings(root=ROOT)):
        pass  # what is imported lazily is there now
    before = methods()
    with Recorder(Settings(root=ROOT)) as recorder, recorder.measure("block"):
        assert methods() != before
        plain_cache.client.get("a")
    assert methods() == before


def test_the_wrappers_look_like_what_they_wrap(recorder: Recorder) -> None:
    import redis

    command = redis.Redis.execute_command
    assert command.__name__ == "execute_command"
    assert command.__module__ == "redis.client"


def test_a_wrapper_on_top_of_ours_stays_and_counts_once(cache: Cache) -> None:
    import redis.asyncio

    owner: Any = redis.asyncio.Redis if cache.is_async else redis.Redis
    original = owner.execute_command
    heard = []
    recorder = Recorder(Settings(root=ROOT))
    try:
        recorder.start()
        ours = owner.execute_command

        @wraps(ours)
        def foreign(client: Any, *args: Any, **options: Any) -> Any:
            heard.append(args[0])
            return ours(client, *args, **options)

        owner.execute_command = foreign
        recorder.start()
        with recorder.measure("block") as measured:
            cache.call(calls(("get", cache.key("a"))))
        recorder.stop()
        assert owner.execute_command is foreign
        cache.call(calls(("get", cache.key("a"))))
    finally:
        owner.execute_command = original
    assert cache_counts(measured) == {"misses": 1, "commands": 1, "roundtrips": 1}
    assert heard == ["GET", "GET"]


def test_what_somebody_else_puts_in_our_place_is_wrapped_again(cache: Cache) -> None:
    import redis.asyncio

    owner: Any = redis.asyncio.Redis if cache.is_async else redis.Redis
    original = owner.execute_command
    with Recorder(Settings(root=ROOT)) as recorder:
        # As a library does that came first, and goes first.
        owner.execute_command = original
        recorder.start()
        with recorder.measure("block") as measured:
            cache.call(calls(("get", cache.key("a"))))
    assert owner.execute_command is original
    assert cache_counts(measured) == {"misses": 1, "commands": 1, "roundtrips": 1}


def test_two_recorders_count_each_for_itself(cache: Cache) -> None:
    before = methods()
    steps = (("get", cache.key("a")), ("set", cache.key("a"), "hello", {"ex": 60}))
    with Recorder(Settings(root=ROOT)) as first, first.measure("first") as whole:
        cache.call(calls(*steps))
        with Recorder(Settings(root=ROOT)) as second, second.measure("second") as part:
            cache.call(calls(*steps))
            cache.call(piped(*steps))
        cache.call(calls(*steps))
    assert cache_counts(part) == {"hits": 2, "commands": 4, "roundtrips": 3}
    assert cache_counts(whole) == {"hits": 3, "misses": 1, "commands": 8, "roundtrips": 7}
    assert methods() == before


@pytest.fixture
def restored() -> Iterator[None]:
    """Put every method of the libraries back, whoever replaced it."""
    before = methods()
    yield
    for (owner, name), method in before.items():
        if vars(owner)[name] is not method:
            setattr(owner, name, method)


@pytest.mark.usefixtures("restored")
def test_recorders_that_end_in_the_order_they_began_do_not_count_twice(
    plain_cache: Cache,
) -> None:
    first, second = Recorder(Settings(root=ROOT)), Recorder(Settings(root=ROOT))
    first.start()
    second.start()
    first.stop()
    with second.measure("second") as measured:
        plain_cache.client.get("a")
    second.stop()
    assert cache_counts(measured) == {"misses": 1, "commands": 1, "roundtrips": 1}
    with Recorder(Settings(root=ROOT)) as third, third.measure("third") as after:
        plain_cache.client.get("a")
    assert cache_counts(after) == {"misses": 1, "commands": 1, "roundtrips": 1}
