"""Nothing of a value, and nothing of a key but its pattern, is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import Any

import pytest

from pytest_perfguard import Recorder, Settings
from pytest_perfguard.model import Span
from tests.services.support import ROOT, Cache, Script, cache_tallies, calls, done, piped

Calls = Generator[Any, Any, Any]

# Each of them, and what it could be told by.
SECRETS = {
    "word": ("zebrafish", "zebra"),
    "upper-case word": ("ZEBRAFISH", "zebra"),
    "words": ("zebra-fish_zebra", "zebra"),
    "name and number": ("zebra_4711", "zebra 4711"),
    "email": ("zebra.fish+tag@zoo.example", "zebra fish zoo"),
    "token": ("q8Zt71xKpLw0sVbNm3Rr", "q8zt 71x vbn 3rr"),
    "base64": ("emVicmE6ZmlzaA4711==", "emvicm 4711"),
    "JSON web token": ("eyJhbGciOi.eyJzdWIi.zebraSIGNATURE", "eyj zebra"),
    "UUID": ("9f1c2a7e-0b1d-4c3e-8f5a-6b7c8d9e0f1a", "9f1c 0b1d 6b7c"),
    "hash": ("5f4dcc3b5aa765d61d8327deb882cf99", "5f4d cf99"),
    "number": ("4111111111111111", "411 1111"),
    "phone": ("+49 30 4711 4711", "49 4711"),
    "object": ("<zoo.Zebra fish='zebrafish' at 0x7f00deadbeef>", "fish deadbeef"),
    "call": ("(User(id=4711, name='zebra'), ['fish'])", "4711 zebra fish"),
    "JSON": ('{"zebra": "fish", "4711": [1, 2]}', "4711 zebra fish"),
    "address": ("https://zebra:fish@zoo.example/4711?zebra=fish#zebra", "zebra fish zoo 4711"),
    "path": ("/home/zebra/fish|4711", "zebra fish 4711"),
    "other letters": ("zébrafish", "fish"),
    "another script": ("\N{CJK UNIFIED IDEOGRAPH-9A6C}", "\N{CJK UNIFIED IDEOGRAPH-9A6C}"),
    "digits of another script": ("v\N{ARABIC-INDIC DIGIT FOUR}", "\N{ARABIC-INDIC DIGIT FOUR}"),
    "lines": ("zebra\nfish\r\n4711", "zebra fish 4711"),
    "quotes": ("zebra'; \"fish\"", "zebra fish"),
    "empty parts": ("::zebra::fish::", "zebra fish"),
    "placeholder": ("{int}zebra{…}", "zebra"),
    "long": ("zebra" * 500, "zebra"),
}  # fmt: skip
BINARY = {
    "bytes": b"\xff\xfezebra\x00fish",
    "text in bytes": "zébrafish".encode(),
    "memoryview": memoryview(b"zebrafish4711"),
}
SEPARATORS = set(":/|.#")


def texts(data: Any) -> Iterator[str]:
    """Yield every text of what has been recorded; times are none, and hold any digits."""
    if isinstance(data, dict):
        for name, value in data.items():
            yield name
            yield from texts(value)
    elif isinstance(data, list):
        for item in data:
            yield from texts(item)
    elif isinstance(data, str):
        yield data


def seen(span: Span, tells: str) -> list[str]:
    """Return what is seen of a secret in all that was recorded."""
    told = "\n".join(texts(json.loads(json.dumps(span.to_dict())))).lower()
    return [tell for tell in tells.split() if tell in told]


def run(script: Script[Any], cache: Cache) -> Span:
    """Return the span of a script, whatever becomes of it."""
    with Recorder(Settings(root=ROOT)) as recorder, recorder.measure("block") as measured:
        with suppress(Exception):
            cache.call(script)
        assert measured["cache_commands"] > 0
    return done(measured)


PLACES: dict[str, Callable[[str], Script[Any]]] = {
    "key": lambda secret: calls(("get", f"user:{secret}")),
    "whole key": lambda secret: calls(("get", unnamed(secret))),
    "last part of a key": lambda secret: calls(("get", f"user:1:{secret}")),
    "middle of a key": lambda secret: calls(("get", f"user:{secret}:profile:1")),
    "part that begins as a name": lambda secret: calls(("get", f"user:user_{secret}")),
    "key in bytes": lambda secret: calls(("get", f"user:{secret}".encode())),
    "several keys": lambda secret: calls(
        ("mget", [f"user:{secret}", "user:1", unnamed(secret)])
    ),
    "value": lambda secret: calls(("set", "user:1", secret), ("get", "user:1")),
    "values": lambda secret: calls(("mset", {"mapping": {"user:1": secret, "user:2": secret}})),
    "field": lambda secret: calls(
        ("hset", "user:1", {"mapping": {secret: secret}}),
        ("hget", "user:1", secret),
        ("hgetall", "user:1"),
        ("hmget", "user:1", [secret]),
    ),
    "member": lambda secret: calls(
        ("sadd", "users", secret), ("zadd", "scores", {"mapping": {secret: 1}}),
        ("sismember", "users", secret), ("zscore", "scores", secret),
    ),
    "pipeline": lambda secret: piped(
        ("set", f"user:{secret}", secret), ("get", f"user:{secret}"), transaction=True
    ),
    "failed pipeline": lambda secret: piped(
        ("set", f"user:{secret}", secret), ("incr", f"user:{secret}")
    ),
    "wrong type": lambda secret: calls(
        ("rpush", f"user:{secret}", secret), ("get", f"user:{secret}")
    ),
    "script": lambda secret: calls(
        ("eval", f"--[===[{secret}]===]", 1, f"user:{secret}", secret),
    ),
    "error of a script": lambda secret: calls(
        ("eval", "return redis.error_reply(ARGV[1])", 1, "user:1", secret),
    ),
    "error of a script in a pipeline": lambda secret: piped(
        ("eval", "return redis.error_reply(ARGV[1])", 1, "user:1", secret), raise_on_error=False
    ),
    "channel": lambda secret: calls(("publish", secret, secret)),
    "echo": lambda secret: calls(("echo", secret)),
    "search": lambda secret: calls(("scan", 0, f"*{secret}*"), ("keys", f"*{secret}*")),
    "command in one text": lambda secret: calls(("execute_command", f"GET user:{secret}")),
    "many words in one text": lambda secret: calls(
        ("execute_command", f"SET user:1 {secret} EX 60")
    ),
    "lock": lambda secret: lock(f"user:{secret}"),
    "refused value": lambda secret: calls(("set", f"user:{secret}", [secret])),
}  # fmt: skip


def unnamed(secret: str) -> str:
    """Return a key that is the secret alone, if no part of it could be taken for its name."""
    return f"user:{secret}" if SEPARATORS & set(secret) else secret


def lock(name: str) -> Script[None]:
    def script(client: Any) -> Calls:
        held = client.lock(name, timeout=60)
        yield held.acquire()
        yield held.release()

    return script


@pytest.mark.parametrize("make", PLACES.values(), ids=list(PLACES))
def test_a_secret_is_not_kept_wherever_it_is_sent(
    fake_cache: Cache, make: Callable[[str], Script[Any]]
) -> None:
    kept = {
        name: found
        for name, (secret, tells) in SECRETS.items()
        if (found := seen(run(make(secret), fake_cache), tells))
    }
    assert kept == {}


@pytest.mark.parametrize("secret", BINARY.values(), ids=list(BINARY))
def test_a_secret_in_bytes_is_not_kept(fake_cache: Cache, secret: Any) -> None:
    key = b"user:" + bytes(secret)
    steps = (("set", key, secret), ("get", key), ("hset", "users", key, secret))
    assert seen(run(calls(*steps), fake_cache), "zebra fish") == []


@pytest.mark.parametrize(
    "words",
    [
        ("AUTH", "zebra:fish"),
        ("AUTH", "zebra:fish", "zebra:fish"),
        ("AUTH zebra:fish",),
        ("HELLO", "3", "AUTH", "zebra:fish", "zebra:fish"),
        ("ACL SETUSER", "zebra:fish", ">zebra:fish"),
        ("ACL", "SETUSER", "zebra:fish", ">zebra:fish"),
        ("CONFIG SET", "requirepass", "zebra:fish"),
        ("CONFIG SET requirepass zebra:fish",),
        ("CLIENT SETNAME", "zebra:fish"),
    ],
    ids=", ".join,
)
def test_a_password_is_not_kept_though_it_looks_like_a_key(
    plain_cache: Cache, words: tuple[str, ...]
) -> None:
    with (
        Recorder(Settings(root=ROOT)) as recorder,
        recorder.measure("block") as measured,
        suppress(Exception),
    ):
        plain_cache.call(calls(("execute_command", *words)))
    assert seen(done(measured), "zebra fish") == []


def test_of_a_key_its_first_word_and_the_kinds_of_its_parts_are_kept(
    recorder: Recorder, plain_cache: Cache
) -> None:
    with recorder.measure("block") as measured:
        plain_cache.call(calls(("get", "user:42:zebrafish:q8Zt71x")))
    assert [tally.operation for tally in cache_tallies(measured)] == ["GET user:{int}:{word}:{id}"]
    assert [moment.label for moment in done(measured).timeline] == ["GET user:{int}:{word}:{id}"]


def test_words_that_the_user_names_may_be_shown(plain_cache: Cache) -> None:
    settings = Settings(root=ROOT, key_words=frozenset({"profile"}))
    with Recorder(settings) as recorder, recorder.measure("block") as measured:
        plain_cache.call(calls(("get", "user:42:profile"), ("get", "user:42:zebrafish")))
    assert [tally.operation for tally in cache_tallies(measured)] == [
        "GET user:{int}:profile",
        "GET user:{int}:{word}",
    ]


def test_several_patterns_of_one_command_are_named_up_to_three(
    recorder: Recorder, plain_cache: Cache
) -> None:
    with recorder.measure("block") as measured:
        plain_cache.call(
            calls(("mget", ["a:1", "b:1", "a:2"]), ("mget", [f"{c}:1" for c in "abcde"]))
        )
    assert [tally.operation for tally in cache_tallies(measured)] == [
        "MGET a:{int}, b:{int}",
        "MGET a:{int}, b:{int}, c:{int}, …",
    ]


def test_words_are_kept_where_the_user_asks_for_them(plain_cache: Cache) -> None:
    settings = Settings(root=ROOT, show_parameters=True)
    with Recorder(settings) as recorder, recorder.measure("block") as measured:
        for number in range(5):
            plain_cache.client.set(f"user:{number}", "zebrafish" * 100)
    (tally,) = cache_tallies(measured)
    assert len(tally.samples) == 3
    assert "user:0" in tally.samples[0]
    assert "zebrafish" in tally.samples[0]
    assert all(len(sample) <= 500 for sample in tally.samples)


def test_a_parameter_that_cannot_be_shown_is_named_by_its_class(plain_cache: Cache) -> None:
    class Unshowable:
        def __repr__(self) -> str:
            raise AssertionError("nobody may ask for this")

        __str__ = __repr__

    settings = Settings(root=ROOT, show_parameters=True)
    with (
        Recorder(settings) as recorder,
        recorder.measure("block") as measured,
        suppress(Exception),
    ):
        plain_cache.client.set("user:1", Unshowable())
    assert measured["cache_errors"] == 1
