from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_perfguard.reports.lettering import columns, cut, cut_start, fit, fit_name, wrap, xml
from pytest_perfguard.visible import visible
from tests.unit.profiles import HOSTILE


@pytest.mark.parametrize(
    ("room", "shown"), [(20, "serialize"), (9, "serialize"), (8, "seriali…"), (3, "se…"), (2.9, "")]
)
def test_text_is_cut_and_then_hidden(room: float, shown: str) -> None:
    assert fit("serialize", room) == shown


@pytest.mark.parametrize(
    ("room", "shown"),
    [
        (24, "sqlalchemy.Session.flush"),
        (23, "Session.flush"),
        (12, "flush"),
        (4, "flu…"),
        (2, ""),
    ],
)
def test_of_a_name_the_function_is_kept(room: float, shown: str) -> None:
    assert fit_name("sqlalchemy.Session.flush", room) == shown


def test_a_dot_at_the_end_is_part_of_the_name() -> None:
    assert fit_name("serialize.", 5) == "seri…"


def test_wide_letters_take_two_columns() -> None:
    assert columns("a日") == 3
    assert fit("日本語", 5) == "日本…"


def test_of_a_path_the_end_is_kept() -> None:
    assert cut_start("a/very/long/path.py:31", 11) == "…path.py:31"


@given(HOSTILE | st.text(max_size=60), st.integers(3, 30))
def test_cut_text_is_never_wider_than_its_room(text: str, room: int) -> None:
    assert columns(cut(text, room)) <= room
    assert columns(fit(text, room)) <= room
    assert columns(fit_name(text, room)) <= room


@given(st.text(max_size=80), st.integers(3, 30), st.integers(1, 4))
def test_wrapped_lines_fit(text: str, width: int, most: int) -> None:
    lines = wrap(text, width, most)
    assert len(lines) <= most
    assert all(columns(line) <= width for line in lines)


def test_words_stay_whole_where_they_can() -> None:
    assert wrap("one two three", 8, 5) == ["one two", "three"]
    assert wrap("abcdefghij kl", 4, 5) == ["abcd", "efgh", "ij", "kl"]
    assert wrap("one two three", 8, 1) == ["one two…"]
    assert wrap("  ", 8, 2) == []


@given(HOSTILE)
def test_any_text_is_xml_and_one_line(text: str) -> None:
    element = ET.fromstring(f"<a>{xml(text)}</a>")  # noqa: S314 - our own
    assert (element.text or "") == visible(text)
    assert "\n" not in visible(text)
    assert xml(text).encode("utf-8").decode("utf-8") == xml(text)


@pytest.mark.parametrize(
    ("hidden", "shown"),
    [
        ("a\x1b[31m", "a\\x1b[31m"),
        ("caf\udce9", "caf\\udce9"),
        ("\u202e", "\\u202e"),
        ("\x85\u2028\ufeff\uffff", "\\x85\\u2028\\ufeff\\uffff"),
        ("naïve 日本", "naïve 日本"),
    ],
)
def test_what_cannot_be_seen_is_written_out(hidden: str, shown: str) -> None:
    assert visible(hidden) == shown
