from __future__ import annotations

import re
import time
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings

from pytest_perfguard.reports.flamegraph import (
    MAX_BYTES,
    MAX_FRAMES,
    MIN_SHARE,
    differential,
    flamegraph,
)
from pytest_perfguard.reports.lettering import ADVANCE, columns
from pytest_perfguard.reports.sheet import MAX_ROWS
from pytest_perfguard.stacks import Frame, Profile, merge
from tests.unit.drawings import Drawing, Drawn, read
from tests.unit.profiles import library, profile, profiles, user

_VIEW = user("view", 3)
_SERIALIZE = user("serialize", 31)
_DUMPS = library("dumps", file="json/__init__.py")
_PROFILE = profile(((_VIEW, _SERIALIZE, _DUMPS), 0.6), ((_VIEW, _SERIALIZE), 0.1), ((_VIEW,), 0.3))
# Half of the last of four places that shares are written with.
_ROUNDING = 1e-4


def check_layout(drawing: Drawing) -> None:
    """Everything is inside, below its caller, and beside its siblings."""
    rows: dict[int, list[Drawn]] = {}
    for frame in drawing.frames:
        rows.setdefault(frame.row, []).append(frame)
        assert frame.x >= 0
        assert frame.x + frame.width <= 100 + _ROUNDING
        room = frame.width / 100 * 0.98 * 1200 - 8
        assert columns(frame.label) * ADVANCE <= max(room, 0)
    for number, row in rows.items():
        row.sort(key=lambda frame: frame.x)
        for left, right in pairwise(row):
            assert left.x + left.width <= right.x + _ROUNDING
        for frame in row if number else []:
            assert any(
                above.x <= frame.x + _ROUNDING
                and above.x + above.width >= frame.x + frame.width - _ROUNDING
                for above in rows[number - 1]
            )


def test_widths_are_in_proportion_and_callers_above() -> None:
    drawing = read(flamegraph(_PROFILE))
    check_layout(drawing)
    assert [(frame.name, frame.row, frame.width) for frame in drawing.frames] == [
        ("GET /", 0, 100),
        ("view", 1, 100),
        ("serialize", 2, 70),
        ("json.dumps", 3, 60),
    ]


def test_hover_text_has_the_place_time_and_share() -> None:
    drawing = read(flamegraph(_PROFILE))
    assert drawing.named("serialize").lines == [
        "serialize",
        "app/crud.py:31",
        "700 ms, 70 % (itself 100 ms, 10 %)",
    ]
    assert drawing.named("json.dumps").lines[1:] == ["json/__init__.py:1", "600 ms, 60 %"]


def test_the_head_tells_the_total_and_the_hottest_lines() -> None:
    head = read(flamegraph(replace(_PROFILE, notes=("3 rounds",)))).head
    assert head[:2] == ["GET /", "1 s in all. Callers are above what they call."]
    assert "  `serialize` app/crud.py:31 70 %" in head
    assert "3 rounds" in head
    assert not any("Not drawn" in line for line in head)


def test_libraries_are_grey_and_the_users_frames_say_where() -> None:
    drawing = read(flamegraph(_PROFILE))
    assert drawing.named("json.dumps").kind.startswith("l")
    assert drawing.named("json.dumps").label == "json.dumps"
    assert drawing.named("serialize").kind.startswith("u")
    assert drawing.named("serialize").label == "serialize  app/crud.py:31"


def test_lines_are_told_apart_for_the_user_and_not_for_libraries() -> None:
    found = profile(
        ((user("f", 1), library("g", 1)), 1.0),
        ((user("f", 2), library("g", 2)), 1.0),
        ((user("f", 2), library("g", 3)), 1.0),
    )
    drawing = read(flamegraph(found))
    assert [f.lines[1] for f in drawing.frames if f.name == "f"] == [
        "app/crud.py:1",
        "app/crud.py:2",
    ]
    assert [f.lines[1] for f in drawing.frames if f.name == "json.g"] == [
        "json/encoder.py:1",
        "json/encoder.py",
    ]


def test_siblings_stand_in_the_order_of_their_names() -> None:
    found = profile(*(((user(name),), seconds) for name, seconds in [("c", 3), ("a", 1), ("b", 2)]))
    assert [frame.name for frame in read(flamegraph(found)).frames] == ["GET /", "a", "b", "c"]


def test_time_that_no_sample_covers_is_left_blank_and_told() -> None:
    drawing = read(flamegraph(replace(_PROFILE, seconds=2.0)))
    assert drawing.named("view").width == 50
    assert "No sample covers 1 s (50 %)." in drawing.head


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_a_profile_without_samples_is_a_picture_too(seconds: float) -> None:
    drawing = read(flamegraph(Profile("GET /", "request", seconds)))
    assert [(frame.name, frame.width) for frame in drawing.frames] == [("GET /", 100)]


@settings(deadline=None, max_examples=60)
@given(profiles())
def test_any_profile_is_drawn_well(found: Profile) -> None:
    text = flamegraph(found)
    check_layout(read(text))
    assert text == flamegraph(replace(found, stacks=tuple(reversed(found.stacks))))
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\ufffe\uffff]", text
    )
    assert len(re.findall("<script", text)) == 1


@settings(deadline=None, max_examples=60)
@given(profiles(), profiles())
def test_any_difference_is_drawn_well(base: Profile, head: Profile) -> None:
    text = differential(base, head)
    check_layout(read(text))
    assert text == differential(base, head)
    assert text.encode("utf-8")


def test_a_function_that_calls_itself_takes_one_row() -> None:
    fib, leaf = user("fib"), library("sort", file="<built-in>")
    found = profile(((_VIEW, *[fib] * 1998, leaf), 1.0), ((_VIEW, *[fib] * 3, leaf), 1.0))
    drawing = read(flamegraph(found))
    assert [(f.name, f.row, f.width) for f in drawing.frames] == [
        ("GET /", 0, 100),
        ("view", 1, 100),
        ("fib \N{MULTIPLICATION SIGN}1,998", 2, 100),
        ("sort", 3, 100),
    ]


def test_functions_that_call_each_other_end_at_the_last_row() -> None:
    found = profile(((user("ping"), user("pong")) * 1000, 2.0), ((user("ping"),), 2.0))
    drawing = read(flamegraph(found))
    assert max(frame.row for frame in drawing.frames) == MAX_ROWS
    assert drawing.frames[-1].lines == ["deeper", "more than 250 rows down: 2 s, 50 %"]
    assert drawing.height < 18 * MAX_ROWS + 500
    assert any(
        line.startswith("Not drawn: what is more than 250 rows down") for line in drawing.head
    )


def test_what_is_too_narrow_is_summed_up() -> None:
    narrow = [((_VIEW, user(f"f{number}")), 0.0005) for number in range(100)]
    drawing = read(flamegraph(profile(((_VIEW, _SERIALIZE), 0.95), *narrow)))
    assert [(f.name, f.width) for f in drawing.frames[2:]] == [("serialize", 95), ("100 narrow", 5)]
    assert drawing.frames[-1].lines[1] == "too narrow to draw: 50 ms, 5 %"
    told = " ".join(line.strip() for line in drawing.head)
    assert (
        "Not drawn: 100 frames of less than 0.1 % each, and what they called: 5 % of the time."
    ) in told


def test_there_are_never_more_frames_than_can_be_shown() -> None:
    rows = [[user(f"f{row}.{n}") for n in range(500)] for row in range(20)]
    found = profile(*((tuple(row[n] for row in rows), 0.001 + n / 1e6) for n in range(500)))
    drawing = read(flamegraph(found))
    check_layout(drawing)
    assert MAX_FRAMES / 2 < len([f for f in drawing.frames if f.kind != "o"]) <= MAX_FRAMES
    assert any(line.startswith("Not drawn: ") for line in drawing.head)


def test_a_file_stays_small_whatever_is_in_the_names() -> None:
    frames = [user("&\U0001f389" * 100 + str(n), file="<\U0001f389>" * 100) for n in range(900)]
    chains = [tuple(replace(frame, line=row) for row in range(10)) for frame in frames]
    text = flamegraph(profile(*((chain, 1.0 + n / 1e4) for n, chain in enumerate(chains))))
    assert 100_000 < len(text.encode("utf-8")) <= MAX_BYTES
    check_layout(read(text))


def test_two_hundred_thousand_stacks_are_no_more_than_what_is_seen_of_them() -> None:
    shared = tuple(library(f"outer_{number}") for number in range(40))
    samples = [((*shared, user(f"f{n % 40}"), user(f"g{n}")), 0.001) for n in range(200_000)]
    found = profile(*samples)
    assert len(found.stacks) == 200_000
    before = time.process_time()
    text = flamegraph(found)
    # Not a limit of its own, only far from what looking at every frame would take.
    assert time.process_time() - before < 60
    assert len(text.encode("utf-8")) < 100_000
    assert [f.kind for f in read(text).frames].count("o") == 40


def test_a_picture_asks_for_nothing_outside_itself() -> None:
    for text in (flamegraph(_PROFILE), differential(_PROFILE, _PROFILE)):
        addresses = set(re.findall(r"\w+://[^\"']+", text))
        assert addresses == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xhtml"}
        assert not re.search(r"@import|url\(|href|src=|fetch\(|XMLHttp", text)


def changed(*stacks: tuple[tuple[Frame, ...], float]) -> Profile:
    return profile(*stacks, ((user("idle"),), 0.5))


def test_what_grew_and_what_shrank_have_hues_of_their_own() -> None:
    base = changed(((_VIEW, _DUMPS), 0.1), ((_SERIALIZE,), 0.4))
    head = changed(((_VIEW, _DUMPS), 0.3), ((_SERIALIZE,), 0.2))
    drawing = read(differential(base, head))
    assert drawing.named("json.dumps").kind == "g3"
    assert drawing.named("view").kind == "g3 u"
    assert drawing.named("serialize").kind == "s3 u"
    assert drawing.named("idle").kind == "l0 u"
    assert drawing.named("json.dumps").label == "json.dumps  +200 ms"
    assert drawing.named("serialize").label == "serialize  -200 ms"
    assert drawing.named("idle").label == "idle"


def test_widths_are_those_of_head_and_hover_text_has_both() -> None:
    base, head = changed(((_VIEW,), 0.25)), changed(((_VIEW,), 0.5))
    drawing = read(differential(base, head))
    assert [(f.name, f.width) for f in drawing.frames] == [
        ("GET /", 100),
        ("idle", 50),
        ("view", 50),
    ]
    assert drawing.named("view").lines == [
        "view",
        "+250 ms",
        "app/crud.py:3",
        "base 250 ms, 33.3 %",
        "head 500 ms, 50 %",
        "+250 ms, +16.7 points of share",
    ]


def test_seconds_and_shares_are_told_apart() -> None:
    base = changed(((_VIEW,), 0.5))
    twice = merge([base, base], base.name)
    absolute, normalised = differential(base, twice), differential(base, twice, normalised=True)
    assert read(absolute).named("view").kind == "g3 u"
    assert read(normalised).named("view").kind == "l0 u"
    assert "Colours: change in seconds (absolute)." in read(absolute).head
    assert "Colours: change in share of time (normalised)." in read(normalised).head
    moved = differential(base, changed(((_VIEW,), 1.5)), normalised=True)
    assert read(moved).named("view").label == "view  +25.0 points"


def test_what_is_new_is_marked_and_what_is_gone_stands_beside() -> None:
    base = changed(((_VIEW, _SERIALIZE, _DUMPS), 0.5), ((_VIEW,), 0.5))
    head = changed(((_VIEW,), 0.5), ((_VIEW, library("flush")), 0.5))
    drawing = read(differential(base, head))
    check_layout(drawing)
    assert drawing.named("json.flush").kind == "g3 new"
    assert drawing.named("json.flush").lines[1] == "new, +500 ms"
    assert (drawing.named("serialize").kind, drawing.named("serialize").lines[1]) == (
        "s3 gone u",
        "gone, -500 ms",
    )
    # At the scale of the rest: 0.5 of 1.5 and 0.5 seconds.
    beside = drawing.frames[-4:]
    assert [(f.name, f.row, f.x, f.width) for f in beside] == [
        ("gone", 0, 75, 25),
        ("view", 1, 75, 25),
        ("serialize", 2, 75, 25),
        ("json.dumps", 3, 75, 25),
    ]
    assert beside[1].kind == "l1"
    assert beside[1].lines[1] == "no longer calls what took 500 ms"


def test_the_head_of_a_difference_has_the_top_movers() -> None:
    base = changed(((_VIEW, _SERIALIZE, _DUMPS), 0.1))
    head = replace(changed(((_VIEW, _SERIALIZE, _DUMPS), 0.138)), name="GET /other")
    assert read(differential(base, head)).head[:5] == [
        "GET / → GET /other",
        "600 ms became 638 ms: +38 ms, +6 %.",
        "Colours: change in seconds (absolute).",
        "Largest changes:",
        "  +38 ms in `json.dumps` under `serialize`",
    ]


def test_an_edit_above_a_line_is_no_change() -> None:
    base, head = changed(((_VIEW,), 0.5)), changed(((replace(_VIEW, line=99),), 0.5))
    drawing = read(differential(base, head))
    assert {frame.kind.split()[0] for frame in drawing.frames} == {"l0"}
    assert len(drawing.frames) == 3


def test_the_documented_minimum_is_a_thousandth() -> None:
    assert MIN_SHARE == 0.001
