"""What the cache probe has to know of Redis commands: keys, hits and misses, expiry, advice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from typing import Any

from pytest_perfguard.key_patterns import as_text

Args = Sequence[Any]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ALL_KEYS = _names("DEL EXISTS MGET PFCOUNT SDIFF SINTER SUNION TOUCH UNLINK WATCH")
_KEY_VALUE_PAIRS = _names("MSET MSETNX")
_SCRIPTS = _names("EVAL EVALSHA EVAL_RO EVALSHA_RO FCALL FCALL_RO")
_KEYLESS = _names("""
    ACL ASKING AUTH BGREWRITEAOF BGSAVE CLIENT CLUSTER COMMAND CONFIG DBSIZE DISCARD ECHO EXEC
    FLUSHALL FLUSHDB FUNCTION HELLO INFO KEYS LASTSAVE LATENCY MODULE MONITOR MULTI PING PUBLISH
    PUBSUB RANDOMKEY ROLE SAVE SCAN SCRIPT SELECT SENTINEL SHUTDOWN SLOWLOG SPUBLISH SWAPDB TIME
    UNWATCH WAIT
""")
# Their second word belongs to their name.
_GROUPS = _names("""
    ACL CLIENT CLUSTER COMMAND CONFIG FUNCTION LATENCY MEMORY MODULE OBJECT PUBSUB SCRIPT SENTINEL
    SLOWLOG XGROUP XINFO
""")
# What a client sends on its own account: to set up a connection, to learn of a cluster, to load a
# script that the server does not know yet; and what frames a transaction.
_OF_THE_CLIENT = _names("""
    ASKING AUTH CLUSTER COMMAND DISCARD EXEC HELLO MULTI QUIT READONLY READWRITE SCRIPT SELECT
    SENTINEL UNWATCH WATCH
""")
_READS = _names("""
    EXISTS GET GETBIT GETEX GETRANGE HEXISTS HGET HGETALL HKEYS HLEN HMGET HVALS JSON.GET LINDEX
    LLEN LRANGE MGET PTTL SCARD SISMEMBER SMEMBERS STRLEN TTL TYPE ZCARD ZRANGE ZRANGEBYSCORE ZRANK
    ZREVRANGE ZSCORE
""")
_STORES = _names("GETSET HMSET HSET HSETEX JSON.SET MSET PSETEX SET SETEX")
_REMOVES = _names("DEL GETDEL UNLINK")
_EXPIRES = _names("EXPIRE EXPIREAT PEXPIRE PEXPIREAT PSETEX SETEX")
# Each of these takes away whatever expiry its keys had.
_PLAIN_STORES = _names("GETSET MSET MSETNX SETNX")
_SET_EXPIRIES = _names("EX EXAT PX PXAT")
# One of these in a pipeline would make no sense, or it waits for somebody else.
_ALONE = _names("HSCAN SSCAN WATCH XREAD XREADGROUP ZSCAN")
_WAITING = ("BL", "BR", "BZ")
_BY_FIELD = _names("HDEL HEXISTS HGET HINCRBY HSET SISMEMBER ZSCORE")

# What an error of the server begins with; a script's own may begin with anything.
ERROR_CODES = _names("""
    ASK BUSY BUSYGROUP BUSYKEY CLUSTERDOWN CROSSSLOT EXECABORT IOERR LOADING MASTERDOWN MISCONF
    MOVED NOAUTH NOGROUP NOPERM NOREPLICAS NOSCRIPT NOTBUSY OOM READONLY TRYAGAIN UNKILLABLE
    WRONGPASS WRONGTYPE
""")

_PIPELINE = "send them together: pipe = client.pipeline(transaction=False); ...; pipe.execute()"
_ADVICE = {
    "GET": "ask once: client.mget(keys), or a pipeline where the keys are on several nodes",
    "EXISTS": "ask once: client.exists(*keys), or a pipeline to know of each",
    "HGET": "ask once: client.hmget(name, fields), or a pipeline for several hashes",
    "HGETALL": "ask once, in a pipeline: pipe = client.pipeline(transaction=False); ...",
    "DEL": "delete them together: client.delete(*keys)",
    "UNLINK": "delete them together: client.unlink(*keys)",
    "HSET": "write them together: client.hset(name, mapping=...), or a pipeline",
}


def _first_value(_args: Args, reply: Any) -> tuple[int, int]:
    return (0, 1) if reply is None else (1, 0)


def _each_value(_args: Args, reply: Any) -> tuple[int, int]:
    misses = sum(value is None for value in reply)
    return len(reply) - misses, misses


def _any_value(_args: Args, reply: Any) -> tuple[int, int]:
    return (1, 0) if reply else (0, 1)


def _keys_found(args: Args, reply: Any) -> tuple[int, int]:
    return int(reply), len(args) - 1 - int(reply)


_LOOKUPS: dict[str, Callable[[Args, Any], tuple[int, int]]] = {
    "GET": _first_value,
    "GETEX": _first_value,
    "GETDEL": _first_value,
    "HGET": _first_value,
    "JSON.GET": _first_value,
    "MGET": _each_value,
    "HMGET": _each_value,
    "HGETEX": _each_value,
    "HGETDEL": _each_value,
    "HGETALL": _any_value,
    "EXISTS": _keys_found,
}


def _no_keys(_args: Args) -> Args:
    return ()


def _script_keys(args: Args) -> Args:
    count = int(args[2]) if len(args) > 2 and str(args[2]).isdigit() else 0  # noqa: PLR2004 - EVAL script numkeys
    return args[3 : 3 + count]


_second_word = itemgetter(slice(1, 2))
_KEYS: dict[str, Callable[[Args], Args]] = {
    **dict.fromkeys(_KEYLESS, _no_keys),
    **dict.fromkeys(_ALL_KEYS, itemgetter(slice(1, None))),
    **dict.fromkeys(_KEY_VALUE_PAIRS, itemgetter(slice(1, None, 2))),
    **dict.fromkeys(_SCRIPTS, _script_keys),
}


def _always(_args: Args, _reply: Any) -> bool:
    return True


def _if_done(_args: Args, reply: Any) -> bool | None:
    return True if reply else None


def _never(_args: Args, _reply: Any) -> bool:
    return False


def _never_if_done(_args: Args, reply: Any) -> bool | None:
    return False if reply else None


def _as_set(args: Args, reply: Any) -> bool | None:
    options = _options(args[3:])
    if "GET" not in options:
        written = bool(reply)
    else:  # the reply is the old value
        written = ("NX" if reply is not None else "XX") not in options
    return None if not written or "KEEPTTL" in options else bool(options & _SET_EXPIRIES)


def _as_read(args: Args, _reply: Any) -> bool | None:
    return True if _options(args[2:]) & _SET_EXPIRIES else None


_EXPIRY: dict[str, Callable[[Args, Any], bool | None]] = {
    **dict.fromkeys(_REMOVES, _always),
    **dict.fromkeys(_EXPIRES, _if_done),
    **dict.fromkeys(_PLAIN_STORES, _never_if_done),
    "GETSET": _never,
    "SET": _as_set,
    "GETEX": _as_read,
}


@dataclass(frozen=True, slots=True)
class Command:
    """What is known of a command by its name.

    Attributes:
        kind: ``read``, ``write`` (stores a value), ``other``, or ``connect`` for what a client
            needs for itself.
        lookup: returns hits and misses of a reply; None for commands that look nothing up.
        advice: what to send instead where one key after the other is sent; None where nothing
            would be better.
        by_field: two fields of one key are two different things.
        words: what its name is sent as, where that is several words.
        size: bytes of its name.
        has_one_key: its second word is its only key.
        is_single: it looks one value up, and nothing but a null reply is a miss.
        keys: returns the keys among its words.
        expires: returns whether its keys go away by themselves now, or are gone, and None where
            they are as before; None for commands that always leave that as it was.
    """

    name: str
    kind: str
    lookup: Callable[[Args, Any], tuple[int, int]] | None
    advice: str | None
    by_field: bool
    words: tuple[str, ...]
    size: int
    has_one_key: bool
    is_single: bool
    keys: Callable[[Args], Args]
    expires: Callable[[Args, Any], bool | None] | None

    @property
    def is_script(self) -> bool:
        """Whether it runs a script on the server."""
        return self.name in _SCRIPTS

    def is_lock(self, args: Args) -> bool:
        """Return whether it takes a lock rather than stores a value."""
        return self.name == "SET" and "NX" in _options(args[3:])


def _options(words: Args) -> set[str]:
    return {as_text(word).upper() for word in words}


def _words(name: str) -> tuple[str, ...]:
    """Return the words that a name is sent as, with those that belong together in the first."""
    first, *rest = name.split() or [""]
    if rest and first.upper() in _GROUPS:
        first, *rest = f"{first} {rest[0]}", *rest[1:]
    return (first, *rest)


@cache
def command(name: str | bytes) -> Command:
    """Return what is known of a command."""
    words = _words(as_text(name))
    text = as_text(name).upper()
    group = text.partition(" ")[0]
    kind = "other"
    if group in _OF_THE_CLIENT:
        kind = "connect"
    elif text in _READS:
        kind = "read"
    elif text in _STORES:
        kind = "write"
    keys = _KEYS.get(text) or _KEYS.get(group, _second_word)
    alone = (
        kind == "connect"
        or group in _KEYLESS
        or text in _ALONE
        or text.startswith(("BL", "BR", "BZ"))
    )
    return Command(
        name=text,
        kind=kind,
        lookup=_LOOKUPS.get(text),
        advice=None if alone else _ADVICE.get(text, _PIPELINE),
        by_field=text in _BY_FIELD,
        words=words if len(words) > 1 else (),
        size=payload(name),
        has_one_key=keys is _second_word and len(words) == 1,
        is_single=_LOOKUPS.get(text) is _first_value,
        keys=keys,
        expires=_EXPIRY.get(text),
    )


def payload(value: Any) -> int:  # noqa: PLR0911 - a table
    """Return how many bytes of text a word of a command or a reply holds.

    The protocol's framing is not counted, nor are ``OK`` and the null reply, so the number is the
    same for every version of the protocol and of the client.
    """
    # What nearly all of them are, told first: a pattern of a class takes longer.
    if type(value) is str and value.isascii():
        return len(value)
    match value:
        case bytes():
            return len(value)
        case str():
            return len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
        case None | bool() | Exception():
            return 0
        case list() | tuple() | set() | frozenset():
            return sum(map(payload, value))
        case dict():
            return sum(payload(key) + payload(item) for key, item in value.items())
        case bytearray() | memoryview():
            return len(bytes(value))
        case int() | float():
            return len(repr(value))
        case _:  # what a callback of the code has made of a reply
            return 0
