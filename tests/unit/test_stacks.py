from __future__ import annotations

import json
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_perfguard.stacks import Frame, Profile, Stack, merge, movers
from tests.unit.profiles import library, profile, profiles, user

_VIEW = user("view", 3)
_SERIALIZE = user("serialize", 31)
_DUMPS = library("dumps", file="json/__init__.py")
_ENCODE = library("JSONEncoder.encode")


def test_each_stack_is_there_once_and_in_order() -> None:
    found = profile(((_VIEW, _SERIALIZE), 0.25), ((_SERIALIZE,), 1.0), ((_VIEW, _SERIALIZE), 0.5))
    assert found.stacks == (Stack((_SERIALIZE,), 1.0), Stack((_VIEW, _SERIALIZE), 0.75))
    assert found.seconds == 1.75


def test_a_profile_made_by_hand_is_put_in_order() -> None:
    stacks = (Stack((_VIEW,), 1.0), Stack((_SERIALIZE,), 2.0), Stack((_VIEW,), 3.0))
    assert Profile("a", "b", 6.0, stacks).stacks == (
        Stack((_SERIALIZE,), 2.0),
        Stack((_VIEW,), 4.0),
    )


@settings(deadline=None)
@given(profiles(), st.randoms(use_true_random=False))
def test_the_order_of_the_samples_does_not_matter(found: Profile, random: Random) -> None:
    samples = [(stack.frames, stack.seconds / 2) for stack in found.stacks for _ in range(2)]
    random.shuffle(samples)
    again = Profile.build("a", "b", samples)
    assert again.stacks == found.stacks


@settings(deadline=None)
@given(profiles())
def test_what_is_written_is_read(found: Profile) -> None:
    data = json.loads(json.dumps(found.to_dict(), ensure_ascii=False).encode("utf-8"))
    assert Profile.from_dict(data).to_dict() == found.to_dict()


def test_the_plain_form_is_small_and_times_are_kept_to_the_microsecond() -> None:
    found = profile(*(((_VIEW, _SERIALIZE, user("f", n)), 0.1234567) for n in range(100)))
    data = found.to_dict()
    assert {seconds for seconds, _ in data["stacks"]} == {0.123457}
    assert len(data["frames"]) == 102
    assert len(json.dumps(data, separators=(",", ":"))) < 100 * 60


@pytest.mark.parametrize(
    "change",
    [
        {"frames": [["f", "a.py", -1, 1]]},
        {"frames": [["f", "a.py", "1", 1]]},
        {"frames": [[1, "a.py", 1, 1]]},
        {"frames": [["f", "a.py", 1]]},
        {"stacks": [[0.1, [0]]], "frames": []},
        {"stacks": [[-0.1, [0]]]},
        {"stacks": [[float("nan"), [0]]]},
        {"stacks": [[0.1, [-1]]]},
        {"stacks": [[0.1, [True]]]},
        {"seconds": "1"},
        {"seconds": float("inf")},
        {"name": None},
        {"notes": [1]},
    ],
    ids=str,
)
def test_what_is_not_a_profile_is_not_read(change: dict[str, object]) -> None:
    data = profile(((_VIEW,), 0.1), notes=["a"]).to_dict() | change
    with pytest.raises((KeyError, TypeError, ValueError, IndexError)):
        Profile.from_dict(data)


def test_the_users_line_gets_the_time_of_the_libraries_it_called() -> None:
    found = profile(
        ((_VIEW, _SERIALIZE, _DUMPS, _ENCODE), 0.5),
        ((_VIEW, _SERIALIZE), 0.11),
        ((_VIEW, library("get")), 0.29),
        ((library("main"),), 0.1),
    )
    assert [str(hot) for hot in found.hottest()] == [
        "`serialize` app/crud.py:31 61 %",
        "`view` app/crud.py:3 29 %",
    ]
    assert [hot.frame for hot in found.hottest(1)] == [_SERIALIZE]


def test_shares_are_shares_of_all_time_even_where_it_was_not_sampled() -> None:
    found = replace(profile(((_VIEW,), 0.5)), seconds=2.0)
    assert [hot.share for hot in found.hottest()] == [0.25]
    assert profile(((_VIEW,), 0.0)).hottest() == ()


def test_lines_of_one_function_are_told_apart() -> None:
    found = profile(((user("f", 1),), 0.25), ((user("f", 2),), 0.75))
    assert [(hot.frame.line, hot.share) for hot in found.hottest()] == [(2, 0.75), (1, 0.25)]


def test_movers_name_the_library_and_who_called_it() -> None:
    base = profile(((_VIEW, _SERIALIZE, _DUMPS, _ENCODE), 0.1), ((_VIEW,), 0.2))
    moved = replace(_SERIALIZE, line=40)
    head = profile(
        ((_VIEW, moved, _DUMPS, _ENCODE), 0.1),
        ((_VIEW, moved, _DUMPS), 0.038),
        ((_VIEW,), 0.19),
    )
    assert [str(mover) for mover in movers(base, head)] == [
        "+38 ms in `json.dumps` under `serialize`",
        "-10 ms in `view`",
    ]
    assert [str(mover) for mover in movers(base, head, 1)] == [
        "+38 ms in `json.dumps` under `serialize`"
    ]


def test_movers_tell_what_is_new_and_what_is_gone() -> None:
    base = profile(((_VIEW,), 0.1), ((library("run"),), 0.002))
    head = profile(((_SERIALIZE,), 0.3))
    assert [str(mover) for mover in movers(base, head)] == [
        "+300 ms in `serialize` (new)",
        "-100 ms in `view` (gone)",
        "-2 ms in `json.run` (gone)",
    ]


@settings(deadline=None)
@given(profiles())
def test_nothing_moves_between_a_profile_and_itself(found: Profile) -> None:
    assert movers(found, found) == ()


@settings(deadline=None)
@given(profiles(), profiles())
def test_movers_add_up_to_the_whole_change(base: Profile, head: Profile) -> None:
    total = sum(mover.seconds for mover in movers(base, head, 1000))
    # A stack without a frame is in nothing.
    empty = [sum(s.seconds for s in p.stacks if not s.frames) for p in (base, head)]
    expected = head.sampled - empty[1] - base.sampled + empty[0]
    assert total == pytest.approx(expected, abs=1e-4)


@settings(deadline=None)
@given(st.lists(profiles(), min_size=1, max_size=3))
def test_profiles_are_merged_in_whatever_order(parts: list[Profile]) -> None:
    whole = merge(parts, "all")
    assert whole == merge(reversed(parts), "all")
    assert whole.name == "all"
    assert whole.sampled == pytest.approx(sum(part.sampled for part in parts))
    assert whole.seconds == pytest.approx(sum(part.seconds for part in parts))
    assert set(whole.notes) == {note for part in parts for note in part.notes}


def test_merging_nothing_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="no profile"):
        merge([])


def test_what_is_kept_in_a_repository_quotes_nothing_that_was_sent() -> None:
    found = replace(
        profile(((_VIEW,), 1.0), notes=["token=s3cret"]), name="GET /items?token=s3cret"
    )
    kept = found.without_values()
    assert "s3cret" not in json.dumps(kept.to_dict())
    assert (kept.name, kept.stacks) == ("GET /items", found.stacks)


@pytest.mark.parametrize(
    ("frame", "name"),
    [
        (_DUMPS, "json.dumps"),
        (library("Session.get", file="sqlalchemy/orm/session.py"), "sqlalchemy.Session.get"),
        (library("wraps", file="functools.py"), "functools.wraps"),
        (library("json.dumps", file="json/__init__.py"), "json.dumps"),
        (library("sort", file="<built-in>"), "sort"),
        (library("f", file=""), "f"),
        (user("serialize"), "serialize"),
    ],
)
def test_a_librarys_function_is_named_with_its_package(frame: Frame, name: str) -> None:
    assert frame.name == name


def test_a_name_cannot_act_on_a_terminal() -> None:
    evil = user("\x1b[2Jclear\n", file="\u202egnp.py")
    found = profile(((evil,), 1.0))
    texts = [str(found.hottest()[0]), str(movers(profile(), found)[0])]
    assert texts == [
        "`\\x1b[2Jclear\\n` \\u202egnp.py:1 100 %",
        "+1 s in `\\x1b[2Jclear\\n` (new)",
    ]


def test_a_deep_stack_is_like_any_other() -> None:
    deep = profile(((_VIEW,) * 2000, 1.0), (([_VIEW] * 1999 + [_DUMPS]), 0.5))
    assert Profile.from_dict(json.loads(json.dumps(deep.to_dict()))) == deep
    assert movers(deep, merge([deep, deep]))[0].seconds == 1.0


def test_rounds_are_compared_by_the_call() -> None:
    ten = replace(profile(((_VIEW, _SERIALIZE), 1.0)), calls=10)
    twenty = replace(profile(((_VIEW, _SERIALIZE), 3.0)), calls=20)
    (mover,) = movers(ten.per_call(), twenty.per_call())
    assert str(mover) == "+50 ms in `serialize`"
    assert ten.per_call().notes == ("the mean of 10 calls",)
    assert merge([ten, twenty]).calls == 30
    assert Profile.from_dict(ten.to_dict()) == ten
    # Files of before are about one call.
    assert Profile.from_dict({k: v for k, v in ten.to_dict().items() if k != "calls"}).calls == 1


def test_what_is_kept_of_a_profile_is_small_and_moves_nothing() -> None:
    wide = [((_VIEW, user("serialize", line), _DUMPS), 1.0) for line in range(31, 131)]
    load = user("load", 12)
    narrow = [((_VIEW, load, user(f"f{n}")), 0.01) for n in range(100)]
    found = profile(*wide, *narrow)
    kept = found.small()
    assert kept.total == pytest.approx(found.total)
    assert [(stack.frames, round(stack.seconds, 6)) for stack in kept.stacks] == [
        ((_VIEW, load), 1.0),
        ((_VIEW, user("serialize", 31), replace(_DUMPS, line=0)), 100.0),
    ]
    assert kept.small() == kept


@settings(deadline=None)
@given(profiles())
def test_what_is_kept_adds_up_to_the_same(found: Profile) -> None:
    kept = found.small(0.0)
    assert kept.sampled == pytest.approx(found.sampled)
    assert movers(found, kept) == ()
    assert found.small(1.0).sampled == pytest.approx(found.sampled)
