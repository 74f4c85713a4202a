"""What is known of Redis commands by their names; how replies are read, and how long words are."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_perfguard.probes.redis_commands import command, payload


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (("GET", "a"), ["a"]),
        (("get", "a"), ["a"]),
        ((b"GET", b"a"), [b"a"]),
        (("SET", "a", "value", "EX", 60), ["a"]),
        (("HGET", "h", "field"), ["h"]),
        (("HMGET", "h", "f", "g"), ["h"]),
        (("MGET", "a", "b"), ["a", "b"]),
        (("EXISTS", "a", "b"), ["a", "b"]),
        (("DEL", "a", "b"), ["a", "b"]),
        (("UNLINK", "a"), ["a"]),
        (("WATCH", "a", "b"), ["a", "b"]),
        (("MSET", "a", 1, "b", 2), ["a", "b"]),
        (("MSETNX", "a", 1), ["a"]),
        (("EVAL", "return 1", 2, "a", "b", "argument"), ["a", "b"]),
        (("EVALSHA", "0" * 40, "1", "a", "argument"), ["a"]),
        (("FCALL", "name", 0, "argument"), []),
        (("EVAL", "return 1"), []),
        (("EVAL", "return 1", "no number", "a"), []),
        (("EVAL", "return 1", 5, "a"), ["a"]),
        (("GET",), []),
        (("MGET",), []),
        (("PING", "text"), []),
        (("PUBLISH", "channel", "text"), []),
        (("SCAN", 0, "MATCH", "a*"), []),
        (("KEYS", "a*"), []),
        (("CLIENT LIST",), []),
        (("CLIENT SETNAME", "name"), []),
        (("CONFIG", "GET", "save"), []),
        (("AUTH", "name", "password"), []),
        (("HELLO", 3, "AUTH", "name", "password"), []),
        (("SELECT", 3), []),
        (("MEMORY USAGE", "a"), ["a"]),
        (("XINFO STREAM", "a"), ["a"]),
        (("SOME.MODULE", "a", "b"), ["a"]),
    ],
)
def test_keys(words: tuple[Any, ...], keys: list[Any]) -> None:
    assert list(command(words[0]).keys(words)) == keys


@pytest.mark.parametrize(
    ("words", "reply", "hits", "misses"),
    [
        (("GET", "a"), b"x", 1, 0),
        (("GET", "a"), b"", 1, 0),
        (("GET", "a"), 0, 1, 0),
        (("GET", "a"), None, 0, 1),
        (("GETEX", "a"), None, 0, 1),
        (("GETDEL", "a"), b"x", 1, 0),
        (("HGET", "h", "f"), b"x", 1, 0),
        (("JSON.GET", "a"), None, 0, 1),
        (("JSON.GET", "a"), [], 1, 0),
        (("MGET", "a", "b", "c"), [b"x", None, b""], 2, 1),
        (("MGET", "a"), [None], 0, 1),
        (("HMGET", "h", "f", "g"), [None, b"x"], 1, 1),
        (("HGETEX", "h", "FIELDS", 2, "f", "g"), [None, b"x"], 1, 1),
        (("HGETDEL", "h", "FIELDS", 1, "f"), [b"x"], 1, 0),
        (("HGETALL", "h"), {}, 0, 1),
        (("HGETALL", "h"), {b"f": b"x"}, 1, 0),
        (("HGETALL", "h"), [], 0, 1),
        (("HGETALL", "h"), [b"f", b"x"], 1, 0),
        (("EXISTS", "a", "b", "c"), 1, 1, 2),
        (("EXISTS", "a"), 0, 0, 1),
        (("EXISTS", "a"), True, 1, 0),
    ],
)
def test_hits_and_misses(words: tuple[Any, ...], reply: Any, hits: int, misses: int) -> None:
    known = command(words[0])
    assert known.lookup is not None
    assert known.lookup(words, reply) == (hits, misses)


@pytest.mark.parametrize(
    "name", ["SET", "HEXISTS", "STRLEN", "TTL", "LRANGE", "SMEMBERS", "DEL", "EVALSHA", "PING"]
)
def test_other_commands_look_nothing_up(name: str) -> None:
    assert command(name).lookup is None


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("GET", "read"),
        ("MGET", "read"),
        ("HGETALL", "read"),
        ("TTL", "read"),
        ("SET", "write"),
        ("SETEX", "write"),
        ("HSET", "write"),
        ("MSET", "write"),
        ("DEL", "other"),
        ("EXPIRE", "other"),
        ("EVALSHA", "other"),
        ("PING", "other"),
        ("NOT.KNOWN", "other"),
        # not the code's affair
        ("AUTH", "connect"),
        ("HELLO", "connect"),
        ("SELECT", "connect"),
        ("MULTI", "connect"),
        ("EXEC", "connect"),
        ("DISCARD", "connect"),
        ("WATCH", "connect"),
        ("UNWATCH", "connect"),
        ("SCRIPT LOAD", "connect"),
        ("SCRIPT", "connect"),
        ("CLUSTER SLOTS", "connect"),
        ("COMMAND", "connect"),
    ],
)
def test_kind(name: str, kind: str) -> None:
    assert command(name).kind == command(name.lower()).kind == command(name.encode()).kind == kind


@pytest.mark.parametrize(
    "name",
    ["WATCH", "BLPOP", "BRPOPLPUSH", "BZMPOP", "XREAD", "XREADGROUP", "SCAN", "HSCAN", "SSCAN",
     "ZSCAN", "PING", "PUBLISH", "CLIENT LIST", "SCRIPT LOAD", "EXEC", "INFO", "KEYS"],
)  # fmt: skip
def test_what_makes_no_sense_in_a_pipeline_has_no_advice(name: str) -> None:
    assert command(name).advice is None


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("GET", "mget("),
        ("EXISTS", "exists(*keys)"),
        ("HGET", "hmget("),
        ("HGETALL", "pipeline"),
        ("DEL", "delete(*keys)"),
        ("UNLINK", "unlink(*keys)"),
        ("HSET", "mapping="),
        ("SET", "pipeline"),
        ("ZADD", "pipeline"),
        ("NOT.KNOWN", "pipeline"),
    ],
)
def test_advice(name: str, advice: str) -> None:
    assert advice in str(command(name).advice)


def test_fields_are_told_apart_where_a_command_names_one() -> None:
    by_field = {name for name in ("HGET", "HSET", "ZSCORE", "SISMEMBER", "GET", "SET", "HGETALL",
                                  "HMGET") if command(name).by_field}  # fmt: skip
    assert by_field == {"HGET", "HSET", "ZSCORE", "SISMEMBER"}


@pytest.mark.parametrize(
    ("words", "is_lock"),
    [
        (("SET", "lock", "token", "NX"), True),
        (("SET", "lock", "token", "PX", 1000, "nx"), True),
        (("SET", "lock", "token", b"NX"), True),
        (("SET", "a", "NX"), False),
        (("SET", "NX", "value", "XX"), False),
        (("SETNX", "a", "value"), False),
        (("GET", "NX"), False),
    ],
)
def test_a_set_that_writes_only_what_is_not_there_may_be_a_lock(
    words: tuple[Any, ...], is_lock: bool
) -> None:
    assert command(words[0]).is_lock(words) is is_lock


@given(st.text(max_size=20) | st.binary(max_size=20))
@settings(deadline=None)
def test_any_name_is_known_somehow(name: str | bytes) -> None:
    known = command(name)
    assert known.kind in ("read", "write", "other", "connect")
    assert list(known.keys((name,))) == []
    assert command(name) is known


# --- Lengths


class Unshowable:
    def __str__(self) -> str:
        raise AssertionError("nobody may ask for this")

    __repr__ = __str__


@pytest.mark.parametrize(
    ("value", "length"),
    [
        ("hello", 5),
        ("", 0),
        ("é", 2),
        ("日本", 6),
        ("\udc80", 3),
        (b"\xff\xfe", 2),
        (bytearray(b"abc"), 3),
        (memoryview(b"abc"), 3),
        (memoryview(b"abcd")[::2], 2),
        (42, 2),
        (-1, 2),
        (1.5, 3),
        (None, 0),
        (True, 0),
        (False, 0),
        (ValueError("text"), 0),
        ([], 0),
        ([b"a", ["bc", None], (b"d",), {b"ef"}], 6),
        ({b"field": b"value", "x": [1, 22]}, 5 + 5 + 1 + 3),
        # what a client made of a reply, and not what was sent
        (datetime(2024, 1, 1, tzinfo=UTC), 0),
        (Unshowable(), 0),
        ([Unshowable(), b"a"], 1),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else str(value),
)
def test_payload(value: Any, length: int) -> None:
    assert payload(value) == length


_REPLIES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.binary(), inner, max_size=3),
    max_leaves=10,
)


@settings(deadline=None)
@given(st.text(), st.lists(_REPLIES, max_size=4))
def test_text_is_as_long_as_its_bytes_and_a_list_as_its_items(
    text: str, replies: list[Any]
) -> None:
    assert payload(text) == payload(text.encode("utf-8", "surrogatepass"))
    assert payload(replies) == sum(map(payload, replies))
    assert payload({"": replies}) == payload(tuple(replies)) == payload(replies)
