"""What pyinstrument's page shows as it is written for a test, and that it asks nobody."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("pyinstrument")

from pytest_perfguard.probes import pyinstrument_internals as pyinstrument
from pytest_perfguard.probes.profiling import Captured
from pytest_perfguard.reports.pages import offline
from pytest_perfguard.stacks import Profile
from tests.browser.conftest import Page

Show = Callable[..., Page]
_HOSTILE = "test[</script><script>document.title='owned'</script>]"
_RECORDS = (
    (
        [
            "<thread>\x00MainThread\x001",
            "view\x00/app/api.py\x003\x01l4",
            "dumps\x00/app/crud.py\x0031",
        ],
        0.75,
    ),
    (
        [
            "<thread>\x00MainThread\x001",
            "view\x00/app/api.py\x003\x01l5",
            f"{_HOSTILE}\x00/app/crud.py\x0050",
        ],
        0.25,
    ),
)


def page(title: str) -> str:
    profile = Profile(title, "request", 1.0)
    return offline(Captured(profile, _RECORDS, 0.5).html())


@pytest.mark.parametrize("title", ["GET /items/{id}", _HOSTILE])
def test_the_calls_are_shown_and_no_request_leaves_the_page(show: Show, title: str) -> None:
    opened = show(page(title), name="a.html")

    text = opened.run("return document.body.innerText")
    for shown in (title, "view", "dumps", "0.750", "50%"):
        assert shown in text
    assert _HOSTILE in text
    assert opened.run("return document.title") != "owned"
    own, *others = opened.requests()
    assert own.startswith("file:")
    assert [address for address in others if not address.startswith("data:")] == []
    assert opened.complaints() == []


def test_without_a_policy_fonts_would_be_asked_for() -> None:
    """Otherwise what the page must not do could not be seen to fail."""
    assert "fonts.googleapis.com" in pyinstrument.html(_RECORDS, "GET /", 1.0, 0.5)
