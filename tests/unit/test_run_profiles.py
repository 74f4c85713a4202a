from __future__ import annotations

import json

from pytest_perfguard.run_profiles import MAX_BYTES, MAX_PROFILES, MAX_RUN_BYTES, bounded, keepable
from pytest_perfguard.stacks import Profile
from tests.unit.profiles import library, profile, user


def test_the_main_one_comes_first_and_few_others_after_it() -> None:
    profiles = [profile(((user(f"f{n}"),), 1.0), name=f"GET /{n}") for n in range(9)]
    kept = keepable(profiles, profiles[5])
    assert [data["name"] for data in kept] == ["GET /5", "GET /0", "GET /1", "GET /2"]
    assert len(kept) == MAX_PROFILES


def test_what_is_kept_can_be_read_and_quotes_nothing() -> None:
    one = profile(((user("view"), library("dumps")), 1.0), name="GET /?token=s3cret")
    (data,) = keepable([one], one)
    (stack,) = Profile.from_dict(data).stacks
    assert [frame.function for frame in stack.frames] == ["view", "dumps"]
    assert "s3cret" not in json.dumps(data)


def test_a_large_profile_becomes_small_by_what_is_narrow() -> None:
    stacks = [((user("view"), user(f"narrow_{n}")), 1.0) for n in range(3_000)]
    large = profile(((user("view"), user("wide")), 3_000.0), *stacks)
    (data,) = keepable([large], large)
    assert len(json.dumps(data, separators=(",", ":"))) <= MAX_BYTES
    assert {frame[0] for frame in data["frames"]} == {"view", "wide"}
    assert sum(seconds for seconds, _ in data["stacks"]) == 6_000


def test_one_that_cannot_be_small_is_left_out() -> None:
    deep = profile((tuple(user(f"frame_{n}") for n in range(5_000)), 1.0))
    assert keepable([deep], deep) == []


def test_a_run_has_room_for_so_many() -> None:
    each = [{"frames": "x" * (MAX_RUN_BYTES // 3)}]
    kept, left_out = bounded(dict.fromkeys("abcd", each))
    assert list(kept) == ["a", "b"]
    assert left_out == 2
