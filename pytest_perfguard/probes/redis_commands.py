"""What the cache probe has to know of Redis commands: keys, hits and misses, expiry, advice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
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
    """

    name: str
    kind: str
    lookup: Callable[[Args, Any], tuple[int, int]] | None
    advice: str | None
    by_field: bool

    @property
    def is_script(self) -> bool:
        """Whether it runs a script on the server."""
        return self.name in _SCRIPTS

    def keys(self, args: Args) -> Args:
        """Return the keys among the words of the command."""
        name = self.name
        if name in _ALL_KEYS:
            return args[1:]
        if name in _KEY_VALUE_PAIRS:
            return args[1::2]
        if name in _SCRIPTS:
            count = int(args[2]) if len(args) > 2 and str(args[2]).isdigit() else 0  # noqa: PLR2004 - EVAL script numkeys
            return args[3 : 3 + count]
        if name.partition(" ")[0] in _KEYLESS:
            return ()
        return args[1:2]

    def expires(self, args: Args, reply: Any) -> bool | None:
        """Return whether its keys go away by themselves now, or are gone; None if as before."""
        if self.name in _REMOVES:
            return True
        if self.name in _PLAIN_STORES:
            return False if reply or self.name == "GETSET" else None
        if self.name == "SET":
            options = _options(args[3:])
            if "GET" not in options:
                written = bool(reply)
            else:  # the reply is the old value
                written = ("NX" if reply is not None else "XX") not in options
            return None if not written or "KEEPTTL" in options else bool(options & _SET_EXPIRIES)
        if self.name == "GETEX":
            return True if _options(args[2:]) & _SET_EXPIRIES else None
        return True if reply and self.name in _EXPIRES else None

    def is_lock(self, args: Args) -> bool:
        """Return whether it takes a lock rather than stores a value."""
        return self.name == "SET" and "NX" in _options(args[3:])


def _options(words: Args) -> set[str]:
    return {as_text(word).upper() for word in words}


def words(args: Args) -> Args:
    """Return a command word by word, as it is sent: the first may be several."""
    name, *rest = as_text(args[0]).split() or [""]
    if not rest:
        return args
    if name.upper() in _GROUPS:
        name, *rest = f"{name} {rest[0]}", *rest[1:]
    return (name, *rest, *args[1:])


@cache
def command(name: str | bytes) -> Command:
    """Return what is known of a command."""
    text = name.decode("ascii", "replace") if isinstance(name, bytes) else name
    text = text.upper()
    group = text.partition(" ")[0]
    kind = "other"
    if group in _OF_THE_CLIENT:
        kind = "connect"
    elif text in _READS:
        kind = "read"
    elif text in _STORES:
        kind = "write"
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
    )


def payload(value: Any) -> int:  # noqa: PLR0911 - a table
    """Return how many bytes of text a word of a command or a reply holds.

    The protocol's framing is not counted, nor are ``OK`` and the null reply, so the number is the
    same for every version of the protocol and of the client.
    """
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
