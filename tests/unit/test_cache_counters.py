from __future__ import annotations

import asyncio
import functools
import sys
import threading
from collections import Counter as Tallied
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import NonCallableMock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_perfguard.errors import CacheError
from pytest_perfguard.probes.cache_counters import Counter, counter_of, name_of


@contextmanager
def counted(cache: object) -> Iterator[Counter]:
    counter = counter_of(cache)
    try:
        yield counter
    finally:
        counter.close()


@functools.lru_cache
def double(x: int) -> int:
    return 2 * x


def plain(x: int) -> int:
    return x


def decorated(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


class Doubler:
    @functools.lru_cache  # noqa: B019 - it lives as long as the class
    def method(self, x: int) -> int:
        return 2 * x

    @classmethod
    @functools.lru_cache
    def of_class(cls, x: int) -> int:
        return 2 * x

    @staticmethod
    @functools.lru_cache
    def static(x: int) -> int:
        return 2 * x

    @property
    @functools.lru_cache  # noqa: B019 - it lives as long as the class
    def prop(self) -> int:
        return 2

    @functools.cached_property
    def once(self) -> int:
        return 2

    def plain(self) -> int:
        return 2


twice = decorated(decorated(double))
doubler = Doubler()


# --- functools


@pytest.mark.parametrize(
    ("cache", "call"),
    [
        (double, lambda: double(1)),
        (twice, lambda: twice(1)),
        (doubler.method, lambda: doubler.method(1)),
        (Doubler.method, lambda: doubler.method(1)),
        (Doubler.of_class, lambda: Doubler.of_class(1)),
        (vars(Doubler)["of_class"], lambda: Doubler.of_class(1)),
        (Doubler.static, lambda: Doubler.static(1)),
        (Doubler.prop, lambda: doubler.prop),
    ],
    ids=["function", "decorated", "bound", "unbound", "class", "raw class", "static", "property"],
)
def test_lookups_of_an_lru_cache_are_counted(cache: Any, call: Callable[[], object]) -> None:
    with counted(cache) as counter:
        call()
        before = counter.read()
        call()
        assert counter.read() == (before[0] + 1, before[1])


@pytest.mark.parametrize("is_bound", [False, True])
def test_what_was_counted_before_a_reset_stays_counted(is_bound: bool) -> None:
    class Loader:
        @functools.lru_cache  # noqa: B019 - it lives as long as the test
        def load(self, x: int) -> int:
            return x

    loader, function = Loader(), Loader.load
    loader.load(1)
    with counted(loader.load if is_bound else function) as counter:
        assert counter.read() == (0, 1)
        function.cache_clear()
        loader.load(1)
        assert counter.read() == (0, 2), "the new counts are as high as the old ones"
        loader.load(1)
        loader.load(1)
        function.cache_clear()
        assert counter.read() == (2, 2)
    assert "cache_clear" not in vars(function)
    assert function.cache_info().misses == 0


@given(st.lists(st.sampled_from(["a", "b", "clear", "read"])))
def test_every_lookup_is_counted_once_whatever_is_cleared_and_read_between(
    steps: list[str],
) -> None:
    @functools.lru_cache
    def load(key: str) -> str:
        return key

    known: set[str] = set()
    expected: Tallied[str] = Tallied()
    with counted(load) as counter:
        for step in steps:
            if step == "clear":
                load.cache_clear()
                known.clear()
            elif step == "read":
                assert counter.read() == (expected["hit"], expected["miss"])
            else:
                load(step)
                expected["hit" if step in known else "miss"] += 1
                known.add(step)
        assert counter.read() == (expected["hit"], expected["miss"])


# --- objects with counters


class Attributes:
    def __init__(self, hits: Any = 3, misses: Any = 2) -> None:
        self.hits = hits
        self.misses = misses

    def hit(self) -> None:
        self.hits += 1

    def miss(self) -> None:
        self.misses += 1


class Defaults:
    hits = 0
    misses = 0


class Methods:
    def hits(self) -> int:
        return 3

    def misses(self) -> int:
        return 2


class Recording:
    def hit(self) -> int:
        raise AssertionError

    miss = hit


class Slots:
    __slots__ = ("told",)

    def __init__(self, told: Any) -> None:
        self.told = told

    def cache_info(self) -> Any:
        return self.told

    def cache_clear(self) -> None:
        self.told = {"hits": 0, "misses": 0}


class Stats:
    def __init__(self, told: Any) -> None:
        self.told = told

    def stats(self, *, reset: bool = False) -> Any:
        return self.told


class Dict(dict[str, int]):
    def info(self) -> Any:
        return {"hits": 3, "misses": 2, "size": 9}


class Asynchronous:
    async def stats(self) -> Any:
        return {"hits": 3, "misses": 2}


class Unbound:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


class WithArgument:
    def info(self, message: str) -> Any:
        raise AssertionError


@pytest.mark.parametrize(
    "cache",
    [
        Attributes(),
        Methods(),
        SimpleNamespace(hit=3, miss=2),
        SimpleNamespace(hit_count=3, miss_count=2),
        Slots({"hits": 3, "misses": 2}),
        Slots(Attributes()),
        Stats({"hit": 3, "miss": 2}),
        Stats(Methods()),
        SimpleNamespace(stats=Attributes()),
        SimpleNamespace(info={"hit_count": 3, "miss_count": 2}),
        Dict(hits=1, misses=1),
        SimpleNamespace(hits=3, misses=2, stats={"hits": 1, "misses": 1}),
        SimpleNamespace(hit=3, miss=2, info=WithArgument().info),
        SimpleNamespace(hits=True, misses=2, stats={"hits": 3, "misses": 2}),
    ],
    ids=[
        "attributes", "methods", "hit and miss", "hit_count and miss_count",
        "cache_info(): mapping", "cache_info(): object", "stats(): mapping", "stats(): methods",
        "stats: object", "info: mapping", "info() of a mapping", "attributes first",
        "argument passed over", "bool passed over",
    ],
)  # fmt: skip
def test_counters_are_found_by_their_names(cache: object) -> None:
    with counted(cache) as counter:
        assert counter.read() == (3, 2)


def test_a_count_that_drops_says_that_the_cache_was_reset() -> None:
    cache = Attributes()
    with counted(cache) as counter:
        cache.hits, cache.misses = 4, 0
        assert counter.read() == (7, 2)
        cache.hits, cache.misses = 0, 5
        assert counter.read() == (7, 7)
        assert counter.read() == (7, 7)


def test_an_object_with_slots_is_read_without_listening_to_its_clear() -> None:
    cache = Slots({"hits": 3, "misses": 2})
    with counted(cache) as counter:
        cache.cache_clear()
        assert counter.read() == (3, 2)


def test_copies_that_functools_wraps_makes_of_counts_are_looked_through() -> None:
    def load() -> None:
        vars(load)["hits"] += 1

    vars(load).update(hits=0, misses=0)
    with counted(decorated(load)) as counter:
        load()
        assert counter.read() == (1, 0)


def test_a_cache_that_no_longer_shows_its_counters_is_an_error() -> None:
    cache = Attributes()
    with counted(cache) as counter:
        cache.hits = None
        with pytest.raises(CacheError, match="Attributes no longer shows its hits and misses"):
            counter.read()


def test_an_error_of_the_cache_itself_is_not_hidden() -> None:
    class Broken:
        def info(self) -> int:
            return len(3)  # type: ignore[arg-type]

    with pytest.raises(TypeError, match="has no len"):
        counter_of(Broken())


_GENERIC = "shows no hits and misses: give it int attributes"


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        (plain, "plain is a function that counts nothing: write @functools.lru_cache or"),
        (doubler.plain, "Doubler.plain is a function that counts nothing: write @functools.lru_"),
        (len, "len is a function that counts nothing"),
        (property(plain), "plain is a function that counts nothing"),
        (
            vars(Doubler)["once"],
            "Doubler.once is a functools.cached_property, which counts nothing: write @property",
        ),
        (Defaults, "Defaults is a class: watch the object that caches"),
        (None, f"NoneType {_GENERIC}"),
        ({"hits": 3, "misses": 2}, f"dict {_GENERIC}"),
        (Attributes(hits=True), f"Attributes {_GENERIC}"),
        (Attributes(hits="3"), f"Attributes {_GENERIC}"),
        (Attributes(hits=3.0), f"Attributes {_GENERIC}"),
        (SimpleNamespace(hits=3), f"SimpleNamespace {_GENERIC}"),
        (SimpleNamespace(hits=3, miss=2), f"SimpleNamespace {_GENERIC}"),
        (Recording(), f"Recording {_GENERIC}"),
        (Stats((3, 2)), f"Stats {_GENERIC}"),
        (Stats(None), f"Stats {_GENERIC}"),
        (Asynchronous(), f"Asynchronous {_GENERIC}"),
        (WithArgument(), f"WithArgument {_GENERIC}"),
        (Unbound(), f"Unbound {_GENERIC}"),
        (NonCallableMock(), f"NonCallableMock {_GENERIC}"),
    ],
    ids=[
        "function", "method", "builtin", "property", "cached_property", "class", "None", "dict",
        "bool", "str", "float", "half", "mixed names", "methods that record", "tuple", "nothing",
        "coroutine function", "argument", "unbound proxy", "mock",
    ],
)  # fmt: skip
def test_what_shows_no_counters_is_refused_with_a_remedy(cache: object, message: str) -> None:
    with pytest.raises(CacheError) as caught:
        counter_of(cache)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("cache", "name"),
    [
        (double, "double"),
        (twice, "double"),
        (doubler.method, "Doubler.method"),
        (Doubler.of_class, "Doubler.of_class"),
        (Doubler.prop, "Doubler.prop"),
        (vars(Doubler)["once"], "Doubler.once"),
        (decorated, "decorated"),
        (lambda: None, "<lambda>"),
        (Attributes(), "Attributes"),
        (functools.partial(double, 1), "partial"),
        (NonCallableMock(), "NonCallableMock"),
        ({"secret": 1}, "dict"),
        (None, "NoneType"),
    ],
    ids=[
        "function", "decorated", "method", "class method", "property", "cached_property", "plain",
        "lambda", "object", "partial", "mock", "dict", "None",
    ],
)  # fmt: skip
def test_a_cache_is_named_by_its_function_or_its_type(cache: object, name: str) -> None:
    assert name_of(cache) == name


def test_a_local_name_says_what_it_is_local_to() -> None:
    class Local:
        def method(self) -> None: ...

    here = "test_a_local_name_says_what_it_is_local_to"
    assert name_of(Local()) == f"{here}.Local"
    assert name_of(Local().method) == f"{here}.Local.method"


# --- threads


def test_threads_may_read_while_others_look_up_and_clear() -> None:
    @functools.lru_cache
    def load(x: int) -> int:
        return x

    lookups, threads = 2_000, 4
    with counted(load) as counter, ThreadPoolExecutor(threads + 1) as pool:
        looking = [
            pool.submit(lambda: [load(n % 50) for n in range(lookups)]) for _ in range(threads)
        ]
        reads = [(0, 0)]
        while not all(future.done() for future in looking):
            reads.append(counter.read())
        for future in looking:
            future.result()
        assert sum(counter.read()) == lookups * threads
    assert reads == sorted(reads)
    assert all(one[1] <= two[1] for one, two in pairwise(reads))


def test_a_thread_that_waits_for_the_cache_does_not_hinder_one_inside_it_from_reading() -> None:
    asked = threading.Event()

    class Locking:
        def __init__(self) -> None:
            self.lock = threading.RLock()

        def info(self) -> dict[str, int]:
            asked.set()
            # Only with a deadlock does it wait that long.
            assert self.lock.acquire(timeout=20)
            self.lock.release()
            return {"hits": 1, "misses": 1}

    cache = Locking()
    with counted(cache) as counter, ThreadPoolExecutor(1) as pool:
        with cache.lock:
            asked.clear()
            waiting = pool.submit(counter.read)
            assert asked.wait(20)
            assert counter.read() == (1, 1)
        assert waiting.result() == (1, 1)


def test_an_answer_that_another_thread_has_overtaken_is_no_reset() -> None:
    asked, overtaken = threading.Event(), threading.Event()
    cache = SimpleNamespace(count=1)

    def info() -> dict[str, int]:
        answer = {"hits": cache.count, "misses": 0}
        if threading.current_thread() is not threading.main_thread():
            asked.set()
            assert overtaken.wait(20)
        return answer

    cache.info = info
    with counted(cache) as counter, ThreadPoolExecutor(1) as pool:
        late = pool.submit(counter.read)
        assert asked.wait(20)
        cache.count = 2
        assert counter.read() == (2, 0)
        overtaken.set()
        assert late.result() == (2, 0)


# --- cachetools


@pytest.fixture
def cachetools() -> Any:
    return pytest.importorskip("cachetools")


@pytest.mark.parametrize("lock", [None, threading.Lock()], ids=["no lock", "lock"])
def test_a_cachetools_function_with_info_is_counted(cachetools: Any, lock: Any) -> None:
    @cachetools.cached(cachetools.LRUCache(10), lock=lock, info=True)  # type: ignore[untyped-decorator]
    def load(x: int) -> int:
        return x

    clear = load.cache_clear
    with counted(load) as counter:
        load(1)
        load(1)
        load.cache_clear()
        load(1)
        assert counter.read() == (1, 2)
    assert load.cache_clear == clear
    assert name_of(load).endswith(".load")


def test_a_cachetools_method_with_info_is_counted_for_one_object(cachetools: Any) -> None:
    try:
        cached = cachetools.cachedmethod(lambda self: self.cache, info=True)
    except TypeError:
        pytest.skip("this version of cachetools counts no methods")

    class Loader:
        def __init__(self) -> None:
            self.cache: dict[Any, Any] = {}

        @cached  # type: ignore[untyped-decorator]
        def load(self, x: int) -> int:
            return x

    one, other = Loader(), Loader()
    with counted(one.load) as counter:
        one.load(1)
        one.load(1)
        other.load(1)
        assert counter.read() == (1, 1)
    with pytest.raises(CacheError, match="the method of one object"):
        counter_of(Loader.load)


def test_cachetools_without_info_is_refused_with_what_to_write(cachetools: Any) -> None:
    class Loader:
        @cachetools.cachedmethod(vars)  # type: ignore[untyped-decorator]
        def load(self, x: int) -> int:
            return x

    @cachetools.cached({})  # type: ignore[untyped-decorator]
    def load(x: int) -> int:
        return x

    for cache in (load, Loader().load, cachetools.LRUCache(10)):
        with pytest.raises(
            CacheError, match=r"counts nothing: write @cachetools\.cached\(\.\.\., inf"
        ):
            counter_of(cache)


# --- caches that are switched on


@pytest.mark.parametrize("kind", ["Cache", "FanoutCache"])
def test_a_diskcache_is_switched_on_while_it_is_watched(kind: str, tmp_path: Path) -> None:
    diskcache = pytest.importorskip("diskcache")
    with getattr(diskcache, kind)(tmp_path) as cache:
        cache.get("a")
        with counted(cache) as counter:
            cache.get("a")
            cache.set("a", 1)
            cache.get("a")
            assert counter.read() == (1, 1)
        assert not cache.statistics
        assert name_of(cache) == kind
        cache.stats(enable=True)
        with counted(cache) as counter:
            assert counter.read() == (1, 1)
        assert cache.statistics


def test_a_cacheout_is_switched_on_while_it_is_watched() -> None:
    cacheout = pytest.importorskip("cacheout")
    for on_before in (False, True):
        cache = cacheout.Cache(enable_stats=on_before)
        with counted(cache) as counter:
            cache.get("a")
            cache.set("a", 1)
            cache.get("a")
            assert counter.read() == (1, 1)
        assert cache.stats.is_enabled() is on_before


# --- Redis


def test_a_redis_client_is_refused_since_it_is_seen_anyway() -> None:
    client = pytest.importorskip("redis").Redis(port=1)  # where nothing listens
    with pytest.raises(CacheError, match="Redis need not be watched: the commands of every Redis"):
        counter_of(client)


# --- dogpile.cache


@pytest.fixture
def dogpile() -> Any:
    pytest.importorskip("dogpile.cache")
    import dogpile.cache.api
    import dogpile.cache.proxy

    return dogpile.cache


@pytest.fixture
def region(dogpile: Any) -> Any:
    return dogpile.make_region().configure("dogpile.cache.memory")


def _expired(dogpile: Any) -> Any:
    return dogpile.api.CachedValue("old", {"ct": 1, "v": 2})


def test_lookups_of_a_region_are_counted(region: Any, dogpile: Any) -> None:
    before = dict(vars(region))
    with counted(region) as counter:
        assert region.get("a") is dogpile.api.NO_VALUE
        region.set("a", None)
        assert region.get("a") is None
        assert counter.read() == (1, 1)
        assert region.get_value_metadata("a").payload is None
        assert region.get_value_metadata("b") is None
        assert counter.read() == (2, 2)
        assert region.get_multi(["a", "b", "c"]) == [None, *2 * [dogpile.api.NO_VALUE]]
        assert region.get_multi([]) == []
        assert counter.read() == (3, 4)
    assert vars(region) == before
    region.get("a")
    assert counter.read() == (3, 4)


def test_get_or_create_is_one_lookup_although_the_backend_is_asked_twice(
    region: Any, dogpile: Any
) -> None:
    asked = []

    class Asked(dogpile.proxy.ProxyBackend):  # type: ignore[misc]
        def get(self, key: str) -> Any:
            asked.append(key)
            return self.proxied.get(key)

    region.wrap(Asked)
    with counted(region) as counter:
        assert region.get_or_create("a", lambda: 1) == 1
        assert counter.read() == (0, 1)
        assert asked == ["a", "a"]
        assert region.get_or_create(key="a", creator=lambda: 2) == 1
        assert counter.read() == (1, 1)
        assert region.get_or_create("b", plain, None, lambda _: False, ((3,), {})) == 3
        assert region.get_or_create("b", plain, creator_args=((4,), {})) == 4
        assert counter.read() == (1, 3)


def test_a_miss_is_counted_before_the_value_is_created(region: Any) -> None:
    with counted(region) as counter:
        assert region.get_or_create("a", counter.read) == (0, 1)
        with pytest.raises(ZeroDivisionError):
            region.get_or_create("b", lambda: 1 // 0)
        assert counter.read() == (0, 2)


def test_get_or_create_multi_counts_each_key_once(region: Any) -> None:
    with counted(region) as counter:
        assert region.get_or_create_multi(["a", "b"], lambda *keys: keys) == ["a", "b"]
        assert counter.read() == (0, 2)
        region.get_or_create_multi(keys=["b", "b", "c"], creator=lambda *keys: keys)
        assert counter.read() == (1, 3)
        region.get_or_create_multi(iter(["d"]), lambda *keys: keys)
        assert counter.read() == (1, 4)


def test_an_expired_value_is_a_miss(dogpile: Any) -> None:
    region = dogpile.make_region().configure(
        "dogpile.cache.memory",
        expiration_time=60,
        arguments={"cache_dict": {key: _expired(dogpile) for key in "abc"}},
    )
    with counted(region) as counter:
        assert region.get("a") is dogpile.api.NO_VALUE
        assert region.get_or_create("b", lambda: "new") == "new"
        assert region.get_or_create_multi(["b", "c"], lambda *keys: keys) == ["new", "c"]
        assert counter.read() == (1, 3)
        assert region.get("a", ignore_expiration=True) == "old"
        assert counter.read() == (2, 3)


@pytest.mark.parametrize(("elsewhere", "counts"), [(True, (1, 0)), (False, (0, 1))])
def test_an_expired_value_that_another_thread_renews_is_a_hit(
    dogpile: Any, elsewhere: bool, counts: tuple[int, int]
) -> None:
    def run(region: Any, key: str, creator: Callable[[], object], mutex: Any) -> None:
        region.set(key, pool.submit(creator).result() if elsewhere else creator())
        mutex.release()

    region = dogpile.make_region(async_creation_runner=run).configure(
        "dogpile.cache.memory",
        expiration_time=60,
        arguments={"cache_dict": {"a": _expired(dogpile)}},
    )
    with ThreadPoolExecutor(1) as pool, counted(region) as counter:
        assert region.get_or_create("a", lambda: "new") == "old"
        assert counter.read() == counts
        assert region.get("a") == "new"


def test_a_value_that_another_thread_creates_meanwhile_is_a_hit(region: Any, dogpile: Any) -> None:
    creating, asked = threading.Event(), threading.Event()

    class Asked(dogpile.proxy.ProxyBackend):  # type: ignore[misc]
        def get(self, key: str) -> Any:
            value = self.proxied.get(key)
            if creating.is_set():
                asked.set()
            return value

    def create() -> str:
        creating.set()
        assert asked.wait(20)
        return "mine"

    region.wrap(Asked)
    with counted(region) as counter, ThreadPoolExecutor(1) as pool:
        first = pool.submit(region.get_or_create, "a", create)
        assert creating.wait(20)
        assert region.get_or_create("a", lambda: "another") == "mine"
        assert first.result() == "mine"
        assert counter.read() == (1, 1)


def test_functions_cached_by_a_region_are_counted(region: Any) -> None:
    @region.cache_on_arguments()  # type: ignore[untyped-decorator]
    def load(x: int) -> int:
        return x

    with counted(region) as counter:
        assert [load(1), load(1), load(2)] == [1, 1, 2]
        assert counter.read() == (1, 2)
        load.refresh(1)
        assert counter.read() == (1, 2)
        load.get(1)
        assert counter.read() == (2, 2)
    with pytest.raises(CacheError, match=r"load is a function .* or watch the cache that it uses"):
        counter_of(load)


def test_a_region_may_be_configured_and_replaced_while_it_is_watched(dogpile: Any) -> None:
    region = dogpile.make_region()
    with counted(region) as counter:
        with pytest.raises(dogpile.exception.RegionNotConfigured):
            region.get("a")
        assert counter.read() == (0, 0)
        region.configure("dogpile.cache.memory")
        region.get_or_create("a", lambda: 1)
        region.configure("dogpile.cache.memory_pickle", replace_existing_backend=True)
        region.get_or_create("a", lambda: 1)
        region.get("a")
        assert counter.read() == (1, 2)


def test_counters_of_one_region_are_closed_the_last_one_first(region: Any) -> None:
    before = dict(vars(region))
    with counted(region) as outer:
        with counted(region) as inner:
            region.get("a")
        region.get("a")
        assert (inner.read(), outer.read()) == ((0, 1), (0, 2))
    assert vars(region) == before


def test_what_was_put_in_the_place_of_a_wrapper_is_left_there(region: Any) -> None:
    counter = counter_of(region)
    region.get = plain
    counter.close()
    counter.close()
    assert region.get is plain


@pytest.fixture
def busy_threads() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("busy_threads")
def test_lookups_in_threads_are_all_counted(region: Any) -> None:
    threads, lookups = 8, 5_000
    with counted(region) as counter, ThreadPoolExecutor(threads) as pool:
        for _ in range(threads):
            pool.submit(lambda: [region.get("a") for _ in range(lookups)])
        pool.shutdown()
        assert counter.read() == (0, threads * lookups)


def test_a_region_on_redis_is_refused_and_one_that_moves_there_is_left_to_its_probe(
    region: Any, dogpile: Any
) -> None:
    fakeredis = pytest.importorskip("fakeredis")
    on_redis: dict[str, Any] = {
        "backend": "dogpile.cache.redis",
        "arguments": {"connection_pool": fakeredis.FakeRedis().connection_pool},
    }
    moved = dogpile.make_region()
    with counted(moved) as counter:
        moved.configure(**on_redis)
        assert moved.get_or_create("a", lambda: 1) == 1
        assert moved.get("a") == 1
        assert counter.read() == (0, 0)
    moved.wrap(dogpile.proxy.ProxyBackend)
    with pytest.raises(CacheError, match="this CacheRegion need not be watched: it is on Redis"):
        counter_of(moved)


# --- cashews


@pytest.fixture
def cashews() -> Any:
    pytest.importorskip("cashews")
    import cashews

    cache = cashews.Cache()
    cache.setup("mem://")
    return cache


def test_lookups_of_a_cashews_cache_are_counted(cashews: Any) -> None:
    async def look_up() -> None:
        assert await cashews.get("a") is None
        assert counter.read() == (0, 1)
        await cashews.set("a", None)
        assert await cashews.get("a", default=3) is None
        assert counter.read() == (1, 1)
        assert await cashews.get_many("a", "b", default=3) == (None, 3)
        assert counter.read() == (2, 2)
        assert await cashews.get_or_set("c", default=4) == 4
        assert await cashews.get_or_set("c", default=5) == 4
        assert counter.read() == (3, 3)
        async with cashews.transaction():
            assert await cashews.get("a", default=3) is None
            assert await cashews.get("b", default=3) == 3
        assert counter.read() == (4, 4)
        await cashews.exists("a")
        await cashews.delete("a")
        await cashews.incr("n")
        assert counter.read() == (4, 4)

    with counted(cashews) as counter:
        asyncio.run(look_up())


@pytest.mark.parametrize("kind", ["cache", "early", "soft", "hit"])
def test_decorators_of_a_cashews_cache_look_up(cashews: Any, kind: str) -> None:
    more = {"soft": {"soft_ttl": 9}, "hit": {"cache_hits": 9}}.get(kind, {})

    async def double(x: int) -> int:
        return 2 * x

    twice = getattr(cashews, kind)(ttl=60, key="double:{x}", **more)(double)

    async def look_up() -> None:
        assert await twice(2) == 4
        assert counter.read() == (0, 1)
        assert await twice(2) == 4
        assert counter.read() == (1, 1)

    with counted(cashews) as counter:
        asyncio.run(look_up())


def test_a_cashews_cache_is_left_as_it_was(cashews: Any) -> None:
    before = list(cashews._default_middlewares)
    with counted(cashews) as counter, counted(cashews) as other:
        asyncio.run(cashews.get("a"))
        assert counter.read() == other.read() == (0, 1)
    assert cashews._default_middlewares == before
    asyncio.run(cashews.get("a"))
    assert counter.read() == (0, 1)
    counter.close()


def test_lookups_of_a_cashews_cache_on_redis_are_left_to_its_probe(cashews: Any) -> None:
    backend = cashews.setup("redis://127.0.0.1:1", prefix="redis:", safe=True, suppress=True)

    async def nothing(*_args: object, **kwargs: object) -> object:
        return kwargs["default"]

    backend.get = nothing
    with counted(cashews) as counter:
        assert asyncio.run(cashews.get("redis:a", default=3)) == 3
        assert counter.read() == (0, 0)
        assert asyncio.run(cashews.get("a", default=3)) == 3
        assert counter.read() == (0, 1)


def test_a_cashews_cache_that_would_not_be_seen_is_refused(
    cashews: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_perfguard.probes.cache_counters.version", lambda _: "7.4.1")
    with pytest.raises(CacheError, match=r"only of cashews 7\.5 or newer"):
        counter_of(cashews)
