"""The hits and misses of caches that live in the process, whatever library made them.

A method is looked through to its function, a property to its getter, a decorated function to what
it wraps; the first of them that shows two counters is read from then on:

=======================  ======================================================================
what is watched          where its counters come from, the first that has both
=======================  ======================================================================
a dogpile.cache region   counted here, see :class:`RegionCounter`
a cashews cache          counted here, see :class:`CashewsCounter`
diskcache, cacheout      ``stats``, switched on for as long as it is watched
anything else            its own attributes; then those, or the keys, of what ``cache_info``,
                         ``info`` and ``stats`` are, or return when called without arguments
=======================  ======================================================================

Counters are ints, or methods without arguments that return them, and are named ``hits`` and
``misses`` or ``hit_count`` and ``miss_count``; as ``hit`` and ``miss`` they have to be ints, since
methods of these names would count.

Redis is not counted here: the Redis probe sees every client without being handed one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property, partial, wraps
from importlib.metadata import version
from inspect import iscoroutine, signature
from threading import Lock, get_ident
from types import MethodType
from typing import Any, Protocol, TypeGuard

from pytest_perfguard.errors import CacheError

_SOURCES = ("cache_info", "info", "stats")
_NAMES = (("hits", "misses"), ("hit_count", "miss_count"), ("hit", "miss"))
_NEVER_CALLED = ("hit", "miss")
_ABSENT = object()
_LEAST_CASHEWS = (7, 5)

Pair = tuple[int, int]
Source = Callable[[Any], Pair | None]


class Counter(Protocol):
    """Counts the lookups in one cache; any thread may read it."""

    def read(self) -> tuple[int, int]:
        """Return hits and misses so far; they never go back."""

    def close(self) -> None:
        """Leave the cache as it was; the last of several counters of one cache goes first."""


def counter_of(cache: object) -> Counter:
    """Return a counter of the lookups in a cache.

    Raises:
        CacheError: it shows no counters, or the Redis probe counts the same lookups.
    """
    __tracebackhide__ = True
    if _is_of(cache, "dogpile.cache.region"):
        return RegionCounter(cache)
    if _is_of(cache, "cashews.wrapper"):
        return CashewsCounter(cache)
    if _is_of(cache, "diskcache") and hasattr(cache, "stats"):
        return _of_diskcache(cache)
    if _is_of(cache, "cacheout") and hasattr(cache, "stats"):
        return _of_cacheout(cache)
    return _of_names(cache)


def name_of(cache: object) -> str:
    """Return a name for a cache: that of a function, without its module, or that of its type."""
    for layer in _layers(cache):
        name = _attribute(layer, "__qualname__")
        if isinstance(name, str):
            break
    else:
        name = type(cache).__qualname__
    return name.replace("<locals>.", "")


class SampledCounter:
    """Reads the counters that a cache keeps itself.

    A count that is lower than the last one says that the cache was reset in between; what was
    counted until then stays counted. Counts that have grown as high again would hide a reset, so
    ``cache_clear()`` reads them before and after.

    Reading calls methods of the cache, also while it computes a value: if it does that under a
    lock that these methods take, the lock has to be reentrant.
    """

    def __init__(self, sample: Callable[[], Pair]) -> None:
        self.undo: list[Callable[[], object]] = []
        self._sample = sample
        self._lock = Lock()
        self._turn = 0
        self._last = (0, 0)
        self._before_reset = (0, 0)
        self.read()

    def read(self) -> tuple[int, int]:
        """Return hits and misses so far; they never go back."""
        while True:
            # The cache is not asked under our lock: it may wait for a lock of its own, held by a
            # thread that is about to read. An answer that has been overtaken by that of another
            # thread could look like a reset, so the cache is asked again.
            turn = self._turn
            now = self._sample()
            with self._lock:
                if turn == self._turn:
                    self._turn += 1
                    if now[0] < self._last[0] or now[1] < self._last[1]:
                        self._before_reset = _add(self._before_reset, self._last)
                    self._last = now
                    return _add(self._before_reset, now)

    def close(self) -> None:
        """Leave the cache as it was."""
        while self.undo:
            self.undo.pop()()

    def listen_to_clear(self, cache: Any) -> None:
        """Read before and after each ``cache_clear()`` of an object that lets it be replaced."""
        original = _attribute(cache, "cache_clear")
        if not callable(original):
            return

        @wraps(original)
        def cache_clear(*args: Any, **kwargs: Any) -> Any:
            self.read()
            try:
                return original(*args, **kwargs)
            finally:
                self.read()

        with suppress(AttributeError, TypeError):  # an object without a __dict__
            self.undo.append(_put(cache, "cache_clear", cache_clear))


class RegionCounter:
    """Counts the lookups in a dogpile.cache region, at the public methods of this one region.

    What the code asks the region for is a lookup, and not what the region asks its backend for:
    ``get_or_create`` asks twice for what is not there, and what is there may have expired. A miss
    is a value that is absent, expired or invalidated, or that has to be created. A value that
    another thread has created meanwhile is a hit, and so is an expired one that is returned while
    an ``async_creation_runner`` renews it in another thread.

    The region may be configured later. Lookups on a Redis backend are left to the Redis probe.
    """

    def __init__(self, region: Any) -> None:
        from dogpile.cache.api import NO_VALUE  # noqa: PLC0415 - loaded, since there is a region

        if _is_on_redis(region):
            raise CacheError(
                f"this {name_of(region)} need not be watched: it is on Redis, and the commands of "
                "every Redis client are counted already"
            )
        self._region = region
        self._lock = Lock()
        self._counts = (0, 0)
        wrappers = {
            "get": self._get(region.get, lambda value: [value is NO_VALUE]),
            "get_value_metadata": self._get(
                region.get_value_metadata, lambda found: [found is None]
            ),
            "get_multi": self._get(region.get_multi, lambda all_: [v is NO_VALUE for v in all_]),
            "get_or_create": self._get_or_create(region.get_or_create),
            "get_or_create_multi": self._get_or_create_multi(region.get_or_create_multi),
        }
        self._undo = [_put(region, name, wrapper) for name, wrapper in wrappers.items()]

    def read(self) -> tuple[int, int]:
        """Return hits and misses so far; they never go back."""
        return self._counts

    def close(self) -> None:
        """Leave the region as it was."""
        while self._undo:
            self._undo.pop()()

    def _count(self, hits: int, misses: int) -> None:
        if not _is_on_redis(self._region):
            with self._lock:
                self._counts = _add(self._counts, (hits, misses))

    def _get(self, original: Any, absent: Callable[[Any], list[bool]]) -> Any:
        @wraps(original)
        def get(*args: Any, **kwargs: Any) -> Any:
            answer = original(*args, **kwargs)
            missed = absent(answer)
            self._count(missed.count(False), missed.count(True))
            return answer

        return get

    def _get_or_create(self, original: Any) -> Any:
        @wraps(original)
        def get_or_create(key: Any, creator: Any, *args: Any, **kwargs: Any) -> Any:
            created: list[int] = []
            creator = self._watched(creator, created, lambda _: 1)
            value = original(key, creator, *args, **kwargs)
            self._count(0 if created else 1, 0)
            return value

        return get_or_create

    def _get_or_create_multi(self, original: Any) -> Any:
        @wraps(original)
        def get_or_create_multi(keys: Any, creator: Any, *args: Any, **kwargs: Any) -> Any:
            created: list[int] = []
            values = original(keys, self._watched(creator, created, len), *args, **kwargs)
            self._count(max(len(set(keys)) - sum(created), 0), 0)
            return values

        return get_or_create_multi

    def _watched(self, creator: Any, created: list[int], values: Callable[[Any], int]) -> Any:
        """Return a creator that counts the values that it has to create in this thread."""
        thread = get_ident()

        @wraps(creator)
        def create(*args: Any, **kwargs: Any) -> Any:
            if get_ident() == thread:
                created.append(values(args))
                self._count(0, created[-1])
            return creator(*args, **kwargs)

        return create


class CashewsCounter:
    """Counts what a cashews cache is asked for, in a middleware of it; its decorators ask too.

    Lookups on a Redis backend are left to the Redis probe.
    """

    def __init__(self, cache: Any) -> None:
        if tuple(map(int, version("cashews").split(".")[:2])) < _LEAST_CASHEWS:
            # It would not call a middleware that comes after its setup().
            raise CacheError("only of cashews 7.5 or newer can a cache be watched")
        self._middlewares = cache._default_middlewares  # it has no way to take one away
        self._lock = Lock()
        self._counts = (0, 0)
        cache.add_middleware(self._ask)

    def read(self) -> tuple[int, int]:
        """Return hits and misses so far; they never go back."""
        return self._counts

    def close(self) -> None:
        """Leave the cache as it was."""
        with suppress(ValueError):
            self._middlewares.remove(self._ask)

    async def _ask(self, call: Any, command: Any, backend: Any, *args: Any, **kwargs: Any) -> Any:
        behind = getattr(backend, "_backend", backend)  # in a transaction
        if "default" not in kwargs or _is_of(behind, "cashews.backends.redis"):
            return await call(*args, **kwargs)
        default = kwargs.pop("default")
        answer = await call(*args, default=_ABSENT, **kwargs)
        values = answer if command.value == "get_many" else (answer,)
        misses = sum(value is _ABSENT for value in values)
        with self._lock:
            self._counts = _add(self._counts, (len(values) - misses, misses))
        found = tuple(default if value is _ABSENT else value for value in values)
        return found if values is answer else found[0]


def _of_names(cache: object) -> SampledCounter:
    """Return a counter that finds its numbers by their names, as the table above says."""
    __tracebackhide__ = True
    if isinstance(cache, type) or _is_of(cache, "redis"):
        raise CacheError(_remedy(cache))
    sources: list[Source] = [_own, *(partial(_told, name) for name in _SOURCES)]
    for layer in _layers(cache):
        for source in sources:
            if source(layer) is not None:
                counter = SampledCounter(partial(_still, source, layer))
                counter.listen_to_clear(layer)
                return counter
    raise CacheError(_remedy(cache))


def _of_diskcache(cache: Any) -> SampledCounter:
    # Reading switches it on. Where nothing says whether it was on before, it is left on.
    was_on = bool(getattr(cache, "statistics", True))
    counter = SampledCounter(cache.stats)
    counter.undo.append(partial(cache.stats, enable=was_on))
    return counter


def _of_cacheout(cache: Any) -> SampledCounter:
    counter = _of_names(cache.stats)
    if not cache.stats.is_enabled():
        cache.stats.enable()
        counter.undo.append(cache.stats.disable)
    return counter


def _layers(cache: Any) -> Iterator[Any]:
    """Yield an object and what it wraps."""
    while cache is not None:
        if isinstance(cache, MethodType):
            cache = cache.__func__
        yield cache
        if isinstance(cache, property):
            cache = cache.fget
        elif isinstance(cache, cached_property):
            cache = cache.func
        else:
            cache = _attribute(cache, "__wrapped__")


def _own(layer: Any) -> Pair | None:
    """Return the counters that an object has itself, unless ``functools.wraps`` copied them."""
    found = _pair(partial(_ask, layer))
    is_copy = found and _pair(partial(_ask, _attribute(layer, "__wrapped__")))
    return None if is_copy else found


def _told(name: str, layer: Any) -> Pair | None:
    """Return the counters of what one of an object's attributes is or returns."""
    told = _ask(layer, name)
    return _pair(told.get if isinstance(told, Mapping) else partial(_ask, told))


def _still(source: Source, layer: Any) -> Pair:
    pair = source(layer)
    if pair is None:
        raise CacheError(f"{name_of(layer)} no longer shows its hits and misses as int")
    return pair


def _pair(value_of: Callable[[str], object]) -> Pair | None:
    for names in _NAMES:
        hits, misses = (value_of(name) for name in names)
        if _is_count(hits) and _is_count(misses):
            return hits, misses
    return None


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _ask(holder: object, name: str) -> object:
    """Return an attribute, or what it returns if it is a method without arguments; or None."""
    value = _attribute(holder, name)
    if not callable(value) or name in _NEVER_CALLED:
        return value
    try:
        answer = value()
    except TypeError:
        try:
            signature(value).bind()
        except (TypeError, ValueError):
            return None
        raise
    if iscoroutine(answer):
        answer.close()
        return None
    return answer


def _attribute(holder: object, name: str) -> Any:
    """Return an attribute or None, also of an object whose ``__getattr__`` raises what it likes."""
    try:
        return getattr(holder, name, None)
    except Exception:  # noqa: BLE001 - then there is nothing to be seen
        return None


def _remedy(cache: object) -> str:
    """Say why a cache cannot be watched, and what to write instead."""
    name = name_of(cache)
    if _is_of(cache, "redis"):
        return f"{name} need not be watched: the commands of every Redis client are counted already"
    if isinstance(cache, type):
        return f"{name} is a class: watch the object that caches, or the method that is cached"
    if isinstance(cache, cached_property):
        return (
            f"{name} is a functools.cached_property, which counts nothing: "
            "write @property over @functools.lru_cache"
        )
    if _is_of(cache, "cachetools") or any(
        "cache_key" in (_attribute(layer, "__dict__") or ()) for layer in _layers(cache)
    ):
        return (
            f"{name} counts nothing: write @cachetools.cached(..., info=True) or "
            "@cachetools.cachedmethod(..., info=True), and watch the function, or the method of "
            "one object"
        )
    if isinstance(_attribute(cache, "__qualname__"), str) or isinstance(cache, property):
        return (
            f"{name} is a function that counts nothing: write @functools.lru_cache or "
            "@cachetools.cached(..., info=True) on it, or watch the cache that it uses"
        )
    return (
        f"{name} shows no hits and misses: give it int attributes of these names, or a method "
        "cache_info(), info() or stats() that returns an object or mapping with them"
    )


def _is_on_redis(region: Any) -> bool:
    if not region.is_configured:
        return False
    backend = region.backend
    while hasattr(backend, "proxied"):
        backend = backend.proxied
    return _is_of(backend, "dogpile.cache.backends.redis")


def _is_of(value: object, package: str) -> bool:
    """Return whether a class of the package is among those of an object."""
    return any(f"{cls.__module__}.".startswith(f"{package}.") for cls in type(value).__mro__)


def _put(holder: Any, name: str, wrapper: object) -> Callable[[], None]:
    """Put an attribute on one object; returns the undo."""
    own = vars(holder)
    was_there, before = name in own, own.get(name)
    setattr(holder, name, wrapper)

    def undo() -> None:
        if vars(holder).get(name) is not wrapper:
            return  # somebody else has put something in its place
        if was_there:
            setattr(holder, name, before)
        else:
            delattr(holder, name)

    return undo


def _add(one: Pair, other: Pair) -> Pair:
    return one[0] + other[0], one[1] + other[1]
