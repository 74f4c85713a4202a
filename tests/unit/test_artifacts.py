"""What files are called, whatever a test is called."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_perfguard.naming import safe_name
from pytest_perfguard.reports.pages import offline

WINDOWS = ["CON", "con", "nul.txt", "Aux.svg", "COM1", "lpt9.html", "PRN"]


@pytest.mark.parametrize("name", ["test_a", "test_a.py", "a-b_c.1", "_"])
def test_a_name_that_is_safe_is_kept(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.parametrize("name", [*WINDOWS, "", ".", "..", "a/b", "a\\b", "<script>", "\ud800"])
def test_a_name_that_is_not_gets_a_hash(name: str) -> None:
    made = safe_name(name)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", made)
    assert re.search(r"[0-9a-f]{8}$", made)
    reserved = {"con", "prn", "aux", "nul", "com1", "lpt9"}
    assert made.partition(".")[0].casefold() not in reserved


@given(st.lists(st.text(max_size=120), min_size=2, max_size=6, unique=True))
def test_two_texts_never_share_a_file(texts: list[str]) -> None:
    names = [safe_name(text) for text in texts]
    assert len({name.casefold() for name in names}) == len(texts)
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,69}", name)
        assert Path("folder", name).parent == Path("folder")


def test_long_names_that_begin_alike_are_told_apart() -> None:
    first, second = (safe_name("x" * 300 + end) for end in "ab")
    assert first != second
    assert len(first) == len(second) < 80


PAGE = """<!DOCTYPE html><html><head><meta charset="utf-8"></head><body>
<script>o.href="https://fonts.googleapis.com/css?family=Source+Code+Pro:400&display=swap",f(o)</script>
<script>
    const sessionData = {"name": "test[</script><script>alert(1)</script>]"};
    pyinstrumentHTMLRenderer.render(document.getElementById('app'), sessionData);
</script></body></html>"""


def test_a_page_loads_nothing_and_runs_nothing_that_a_name_holds() -> None:
    page = offline(PAGE)
    assert "http" not in page.replace("http-equiv", "")
    assert "default-src 'none'" in page
    assert page.count("<script") == page.count("</script>") == 2
    assert r"\u003cscript>alert(1)" in page
