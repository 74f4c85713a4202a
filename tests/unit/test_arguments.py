from __future__ import annotations

from pathlib import Path

import pytest

from pytest_perfguard.arguments import relative, stripped, without_place


def test_what_is_about_results_is_left_out() -> None:
    given = ["-x", "--junitxml", "a.xml", "tests", "--html=b", "-k", "c", "--lf", "--maxfail", "1"]
    assert stripped(given) == ["tests", "-k", "c"]


def test_where_settings_are_is_told_from_the_rest() -> None:
    given = ["-c", "a.ini", "tests", "--rootdir=.", "-q"]
    assert without_place(given) == (["-c", "a.ini", "--rootdir=."], ["tests", "-q"])


@pytest.mark.parametrize(
    ("given", "is_now"),
    [
        ("/home/me/app/tests/test_a.py::test_a[/x]", "tests/test_a.py::test_a[/x]"),
        ("--ignore=/home/me/app/tests/slow", "--ignore=tests/slow"),
        ("/home/me/other", "/home/me/other"),
        ("tests/test_a.py", "tests/test_a.py"),
        ("-q", "-q"),
        ("--color=yes", "--color=yes"),
    ],
)
def test_a_path_in_the_checkout_becomes_relative(given: str, is_now: str) -> None:
    checkout = Path("/home/me/app")
    assert relative(given, checkout, checkout) == is_now


def test_a_path_is_relative_to_the_folder_that_it_is_asked_in() -> None:
    assert relative("/home/me/app/tests", Path("/home/me/app"), Path("/home/me/app/src")) == (
        "../tests"
    )
