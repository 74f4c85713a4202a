"""Cache keys without what they hold: tables, and what holds for any key."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_perfguard.key_patterns import difference, held_object, key_pattern

UUID = "9f1c2a7e-0b1d-4c3e-8f5a-6b7c8d9e0f1a"


@pytest.mark.parametrize(
    ("key", "pattern"),
    [
        # the name, and what follows it
        ("Resource:42", "Resource:{int}"),
        ("Resource:-1", "Resource:{id}"),
        ("user:42:profile", "user:{int}:{word}"),
        ("get_resources:all", "get_resources:{word}"),
        ("app-cache:1", "app-cache:{int}"),
        # a word that nothing follows is no name
        ("greeting", "{word}"),
        ("greeting:", "{word}:"),
        ("greeting:::", "{word}:::"),
        (":greeting", ":{word}"),
        # kinds
        (f"user:{UUID}", "user:{uuid}"),
        (f"user:{UUID.upper()}", "user:{uuid}"),
        (f"user:{UUID.replace('-', '')}", "user:{uuid}"),
        (f"user:{'ab12' * 4}", "user:{hex}"),
        (f"user:{'ab12' * 16}", "user:{hex}"),
        ("user:1234567890123456789", "user:{int}"),
        ("user:ab12", "user:{id}"),
        ("session:q8Zt71x", "session:{id}"),
        ("session:q8_Zt-71=~+x", "session:{id}"),
        ("user:deadbeefdeadbeef", "user:{word}"),
        # separators
        ("cache/user/42", "cache/{word}/{int}"),
        ("cache.user.42", "cache.{word}.{int}"),
        ("cache|user|42", "cache|{word}|{int}"),
        ("cache#user#42", "cache#{word}#{int}"),
        ("laravel::user::42", "laravel::{word}::{int}"),
        ("/users/42/", "/users/{int}/"),
        # digits after a name
        ("user_42:profile", "user_{int}:{word}"),
        ("user-42:profile", "user-{int}:{word}"),
        ("user42:profile", "{id}:{word}"),
        ("cart:user_42", "cart:{id}"),
        ("user_42", "{id}"),
        # versions
        ("v2:user:42", "v2:{word}:{int}"),
        ("user:v2:42", "user:v2:{int}"),
        ("user:v2024:42", "user:{id}:{int}"),
        ("user:version2:42", "user:{id}:{int}"),
        # anything else ends it
        ("user:alice@example.org:cart", "user:{…}"),
        ("alice.jones@example.org:cart", "{word}.{…}"),
        ("alice@example.org", "{…}"),
        ("cache.user:alice.jones@example.org", "cache.{word}:{word}.{…}"),
        ("get_resources:(<Session at 0x7f00>, 'bob')", "get_resources:{…}"),
        ("user:O'Brien:42", "user:{…}"),
        ("user:two words:42", "user:{…}"),
        ("user:josé:42", "user:{…}"),
        ("日本:42", "{…}"),
        ("user:٤٢", "user:{…}"),
        ("user:{42}", "user:{…}"),
        ("user:{int}", "user:{…}"),
        ("user:a\nb", "user:{…}"),
        ("user:42\n", "user:{…}"),
        # too long for a name, too many parts
        (f"{'a' * 40}:1", f"{'a' * 40}:{{int}}"),
        (f"{'a' * 41}:1", "{word}:{int}"),
        (f"{'a' * 40}_1:1", "{id}:{int}"),
        (":".join("a" * 12), "a" + ":{word}" * 11),
        (":".join("a" * 13), "a" + ":{word}" * 11 + ":{…}"),
        # what is no text
        ("", ""),
        (b"user:42", "user:{int}"),
        (b"user:\xff", "user:{…}"),
        (bytearray(b"user:42"), "user:{int}"),
        (memoryview(b"user:42"), "user:{int}"),
        (42, "{int}"),
        (1.5, "{int}.{int}"),
    ],
)  # fmt: skip
def test_pattern(key: object, pattern: str) -> None:
    assert key_pattern(key) == pattern


def test_digits_of_another_script_are_no_version() -> None:
    assert key_pattern("user:v٤٢") == "user:{…}"


@pytest.mark.parametrize(
    ("key", "pattern"),
    [
        ("user:42:profile", "user:{int}:profile"),
        ("profile", "profile"),
        ("profile:user:42", "profile:{word}:{int}"),
        ("user:profiles:Profile", "user:{word}:{word}"),
        ("user:éé:42", "user:éé:{int}"),
    ],
)
def test_words_of_the_user_are_shown_wherever_they_stand(key: str, pattern: str) -> None:
    assert key_pattern(key, {"profile", "éé"}) == pattern


# --- What holds for any key

PLACEHOLDERS = ("{int}", "{uuid}", "{hex}", "{word}", "{id}", "{…}")
SEPARATORS = re.compile(r"[:/|.#]+")
# Text of the signs that keys are made of, next to any text at all.
KEY_TEXT = st.text("abzABZ019_-:/|.# v'\"<>(){}éß٤", max_size=40) | st.text(max_size=60)
KEYS: st.SearchStrategy[Any] = st.one_of(
    KEY_TEXT, st.binary(max_size=60), st.integers(), st.floats(), KEY_TEXT.map(str.encode)
)


@settings(deadline=None)
@given(KEYS)
def test_a_pattern_holds_one_word_of_the_key_at_most(key: Any) -> None:
    parts = [part for part in SEPARATORS.split(key_pattern(key)) if part]
    shown = [part for part in parts if part not in PLACEHOLDERS]
    words = [part for part in shown if not re.fullmatch("v[0-9]{1,3}", part)]
    assert len(words) <= 1
    for word in words:
        assert re.fullmatch(r"[A-Za-z][A-Za-z_-]{0,39}(\{int\})?", word)
        # It is a name because something follows.
        assert parts[-1] != word


@settings(deadline=None)
@given(KEYS)
def test_no_digit_survives_but_in_a_version(key: Any) -> None:
    pattern = re.sub(r"(?<![^:/|.#])v[0-9]{1,3}(?![^:/|.#])", "", key_pattern(key))
    assert not any(character.isdigit() for character in pattern)


@settings(deadline=None)
@given(
    st.text("abcdefXYZ0123456789", min_size=6, max_size=40).filter(
        lambda text: any(c.isdigit() for c in text) and not text.isdigit()
    ),
    st.lists(st.sampled_from(["user", "profile", "42", "v2", UUID]), max_size=4),
    st.integers(0, 4),
    st.sampled_from([":", "/", "|", ".", "#", "::"]),
)
def test_no_part_of_a_secret_with_digits_survives(
    secret: str, parts: list[str], position: int, separator: str
) -> None:
    parts = [*parts[:position], secret, *parts[position:]]
    pattern = key_pattern(separator.join(parts))
    runs = [secret[start : start + 3] for start in range(len(secret) - 2)]
    assert not any(run in pattern for run in runs)


@settings(deadline=None)
@given(KEY_TEXT)
def test_text_and_its_bytes_have_one_pattern(key: str) -> None:
    written = key.encode("utf-8", "surrogateescape" if "\udc80" in key else "ignore")
    text = written.decode("utf-8")
    assert key_pattern(text) == key_pattern(written) == key_pattern(memoryview(written))


@settings(deadline=None)
@given(st.lists(st.integers(0), min_size=2, max_size=2), st.uuids(), st.uuids())
def test_keys_that_differ_in_ids_have_one_pattern(numbers: list[int], one: Any, two: Any) -> None:
    patterns = {
        key_pattern(f"user:{number}:cart_{number % 7}:{uuid}")
        for number, uuid in zip(numbers, (one, two), strict=True)
    }
    assert patterns == {"user:{int}:{id}:{uuid}"}


@settings(deadline=None)
@given(KEYS)
def test_asking_again_gives_the_same(key: Any) -> None:
    assert key_pattern(key) == key_pattern(key)


@settings(deadline=None)
@given(st.text(":/ab1é", max_size=3).map(lambda text: text * 1_000))
def test_a_pattern_is_short_however_long_the_key(key: str) -> None:
    assert len(key_pattern(key)) < 200


@pytest.mark.parametrize("text", ["a", "1", "a1", "a-", "é", ":", "a:", "<a", "<a."])
def test_a_very_long_key_is_read_in_no_time(text: str) -> None:
    """Nothing is timed here: what is read more than once in every place would never end."""
    key = text * 100_000
    assert len(key_pattern(f"user:{key}")) < 1_000_000
    assert held_object(f"<{key}") is None


# --- Objects in keys


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("get:(<app.Session object at 0x7f00aa>,)", "app.Session"),
        ("get:<Session at 0x7f00aa>", "Session"),
        ("get:<function load at 0x7f00aa>", "load"),
        ("get:<function load.<locals>.<lambda> at 0x7f00aa>", None),
        ("get:<bound method Repo.get of <app.Repo object at 0x7f00aa>>", "app.Repo"),
        ("get:<coroutine object load at 0x7f00aa>", "load"),
        (b"get:<app.Session object at 0x7f00aa>", "app.Session"),
        ("get:<User 42>", None),
        ("get:0x7f00aa", None),
        ("get:User(id=1)", None),
        (42, None),
    ],
)
def test_held_object(key: object, name: str | None) -> None:
    assert held_object(key) == name


# --- Differences of two keys

ANOTHER = "with another value in each call"


@pytest.mark.parametrize(
    ("first", "second", "count", "reason"),
    [
        (
            "get:(<app.Session object at 0x7f01>, 1)",
            "get:(<app.Session object at 0x7f02>, 1)",
            "1 of 2 parts differs",
            "part 2 holds the address of an object (app.Session), another one in each call",
        ),
        (
            "get:(1, 2):x",
            "get:(2, 1):x",
            "1 of 3 parts differs",
            "part 2 holds the same in another order",
        ),
        (
            "get:a=1&b=2",
            "get:b=2&a=1",
            "1 of 2 parts differs",
            "part 2 holds the same in another order",
        ),
        ("at:1700000000.25", "at:1700000001.5", "1 of 2 parts differs", "part 2 looks like a time"),
        ("at:1700000000", "at:1700000001", "1 of 2 parts differs", "part 2 looks like a time"),
        (
            f"get:{UUID}",
            f"get:{UUID[:-1]}b",
            "1 of 2 parts differs",
            "part 2 is a UUID, made anew for each call",
        ),
        (
            f"get:{'ab12' * 5}",
            f"get:{'12cd' * 5}",
            "1 of 2 parts differs",
            "part 2 is a hash: what it is taken of is not the same in both calls",
        ),
        (
            "get:1:2",
            "get:2:1",
            "2 of 3 parts differ",
            f"part 2 is {{int}}, {ANOTHER}; part 3 is {{int}}, {ANOTHER}",
        ),
        (
            "get:alice",
            "get:42",
            "1 of 2 parts differs",
            f"part 2 is {{int}} and {{word}}, {ANOTHER}",
        ),
        (
            "get:'2024-01-01 10:00'",
            "get:'2024-01-01 10:01'",
            "1 of 2 parts differs",
            f"part 2 is {{…}}, {ANOTHER}",
        ),
        ("get:1", "get:1:2", "1 of 3 parts differs", "part 3 is missing from one of them"),
        ("get::2", "get:1:2", "1 of 3 parts differs", "part 2 is missing from one of them"),
        (b"get:1", "get:2", "1 of 2 parts differs", f"part 2 is {{int}}, {ANOTHER}"),
        # colons in brackets and quotes are none between parts
        (
            "get:{'a:b': 1}:x",
            "get:{'a:c': 1}:x",
            "1 of 3 parts differs",
            f"part 2 is {{…}}, {ANOTHER}",
        ),
        (
            "1:2:3:4:5",
            "6:7:8:9:0",
            "5 of 5 parts differ",
            "; ".join(f"part {number} is {{int}}, {ANOTHER}" for number in (1, 2, 3)),
        ),
    ],
)
def test_difference(first: object, second: object, count: str, reason: str) -> None:
    assert difference(first, second) == difference(second, first) == f"{count}: {reason}"


@settings(deadline=None)
@given(KEYS, KEYS)
def test_a_difference_holds_no_digit_of_a_key(first: Any, second: Any) -> None:
    told = difference(first, second)
    if "address" in told:
        return  # the name of a class, which may hold any
    told = re.sub(r"\d+ of \d+ parts|part \d+|\bv[0-9]{1,3}\b", "", told)
    assert not any(character.isdigit() for character in told)


@settings(deadline=None)
@given(st.lists(KEY_TEXT, min_size=2, max_size=5))
def test_differences_name_parts_that_there_are(keys: list[str]) -> None:
    for first, second in pairwise(keys):
        told = difference(first, second)
        count = int(re.findall(r"of (\d+) parts", told)[0])
        assert all(1 <= int(part) <= count for part in re.findall(r"part (\d+)", told))
