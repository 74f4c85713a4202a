"""What a flame graph does where scripts run, and that it is complete where they do not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_perfguard.reports.flamegraph import differential, flamegraph
from pytest_perfguard.stacks import Frame, Profile
from tests.browser.conftest import Page
from tests.unit.profiles import library, profile, user

Show = Callable[..., Page]

_VIEW, _SERIALIZE, _LOAD = user("view", 3), user("serialize", 31), user("load", 12)
_DUMPS = library("dumps", file="json/__init__.py")
_ENCODE = library("JSONEncoder.encode")
_QUERY = library("Session.execute", file="sqlalchemy/orm/session.py")
_PROFILE = profile(
    ((_VIEW, _SERIALIZE, _DUMPS, _ENCODE), 0.5),
    ((_VIEW, _SERIALIZE), 0.1),
    ((_VIEW, _LOAD, _QUERY), 0.4),
)
_HOSTILE = [
    "<script>document.title='owned'</script>",
    "\"'&]]>",
    "\x1b[31m\x00",
    "caf\udce9",
    "\u202egnp",
    "日本語の関数",
    "W" * 300,
    "a." * 200,
    "",
]
_WHOLE = pytest.approx((0, 1), abs=1e-3)


def hostile() -> Profile:
    frames = [Frame(name, f"{name}.py", 1, user=n % 2 == 0) for n, name in enumerate(_HOSTILE)]
    samples = [(frames[: n + 1], 1.0) for n in range(len(frames))]
    return profile(*samples, ((frames[0],), 3.0), *(((f,), 0.5) for f in frames), name=_HOSTILE[0])


@pytest.fixture
def page(show: Show) -> Page:
    return show(flamegraph(_PROFILE))


def test_a_click_zooms_in_and_reset_out_again(page: Page) -> None:
    before = page.visible()
    assert before["serialize"] == pytest.approx((0.4, 1), abs=1e-3)
    page.click("serialize")
    assert page.visible() == {
        "GET /": _WHOLE,
        "view": _WHOLE,
        "serialize": _WHOLE,
        "json.dumps": pytest.approx((0, 5 / 6), abs=1e-3),
        "json.JSONEncoder.encode": pytest.approx((0, 5 / 6), abs=1e-3),
    }
    page.run("document.querySelector('.bar button').click()")
    assert page.visible() == before


def test_a_click_on_a_caller_zooms_out_to_it(page: Page) -> None:
    before = page.visible()
    page.click("json.dumps")
    page.click("view")
    assert page.visible() == before


def test_what_is_zoomed_to_gets_its_label(show: Show) -> None:
    narrow = user("narrow_function")
    page = show(flamegraph(profile(((_VIEW, narrow), 0.01), ((_VIEW,), 0.99))))
    assert not any("narrow" in label for label in page.labels())
    page.click("narrow_function")
    assert "narrow_function  app/crud.py:1" in page.labels()


def test_a_slash_searches_and_escape_ends_it(page: Page) -> None:
    page.press("/")
    assert page.focused() == "input"
    page.press("JSON")
    assert page.found() == ["json.dumps", "json.JSONEncoder.encode"]
    assert page.text(".status") == "2 found, 50.0 %"
    from selenium.webdriver import Keys

    page.press(Keys.ESCAPE)
    assert page.found() == []
    assert page.text(".status") == ""
    assert page.focused() == "GET /"


def test_control_f_searches_here_at_first(page: Page) -> None:
    from selenium.webdriver import Keys

    page.chord(Keys.CONTROL, "f")
    assert page.focused() == "input"


def test_places_are_searched_and_times_are_not(page: Page) -> None:
    page.press("/", "orm/session")
    assert page.found() == ["sqlalchemy.Session.execute"]
    page.press("\ue009a\ue000", " ms")
    assert page.found() == []


def test_enter_goes_to_what_was_found(page: Page) -> None:
    from selenium.webdriver import Keys

    page.press("/", "execute", Keys.ENTER)
    assert page.focused() == "sqlalchemy.Session.execute"


def test_all_frames_are_reached_by_the_keyboard(page: Page) -> None:
    from selenium.webdriver import Keys

    page.press(Keys.TAB, Keys.TAB)
    assert page.focused() == "GET /"
    page.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert page.focused() == "serialize"
    page.press(Keys.ARROW_LEFT)
    assert page.focused() == "load"
    page.press(Keys.ARROW_RIGHT, Keys.ENTER)
    assert page.visible()["serialize"] == _WHOLE
    assert "load" not in page.visible()
    page.press(Keys.ARROW_UP)
    assert page.focused() == "view"
    page.press(Keys.ESCAPE)
    assert page.visible()["load"] == pytest.approx((0, 0.4), abs=1e-3)


def test_the_frame_that_has_the_focus_is_told(page: Page) -> None:
    page.click("serialize")
    assert page.run(
        "return [...document.querySelectorAll('.details')].map((d) => d.textContent)"
    ) == [
        "serialize  app/crud.py:31",
        "600 ms, 60 % (itself 100 ms, 10 %)",
    ]


@pytest.mark.parametrize("scripts", [True, False])
def test_nothing_is_asked_for_and_nothing_complains(show: Show, *, scripts: bool) -> None:
    page = show(flamegraph(hostile()), scripts=scripts, name="hostile name & #1.svg")
    assert page.complaints() == []
    (only,) = page.requests()
    assert only.startswith("file:///")
    assert page.driver.title != "owned"


def test_without_scripts_labels_and_times_are_there(show: Show) -> None:
    page = show(flamegraph(_PROFILE), scripts=False)
    assert page.run("return document.querySelector('.pgf').classList.contains('js')") is False
    assert page.labels() == [
        "GET /",
        "view  app/crud.py:3",
        "load  app/crud.py:12",
        "sqlalchemy.Session.execute",
        "serialize  app/crud.py:31",
        "json.dumps",
        "json.JSONEncoder.encode",
    ]
    titles = page.run("return [...document.querySelectorAll('.f title')].map((t) => t.textContent)")
    assert "json.dumps\njson/__init__.py:1\n500 ms, 50 %" in titles
    assert page.run("return document.querySelectorAll('input, button').length") == 0


_PICTURES = {
    "plain": lambda: flamegraph(_PROFILE),
    "hostile": lambda: flamegraph(hostile()),
    "difference": lambda: differential(_PROFILE, hostile()),
    "recursion": lambda: flamegraph(profile(((user("a"), user("b")) * 1000, 1.0))),
}


@pytest.mark.parametrize("scripts", [True, False])
@pytest.mark.parametrize("width", [1400, 400])
@pytest.mark.parametrize("picture", _PICTURES)
def test_no_text_leaves_its_frame_or_the_page(
    show: Show, picture: str, width: int, *, scripts: bool
) -> None:
    page = show(_PICTURES[picture](), width=width, scripts=scripts)
    frames, head, wide, share = page.run(
        """
        const svg = document.querySelector(".pgf");
        // Without scripts the whole picture is scaled.
        const scale = svg.viewBox.baseVal ? svg.getScreenCTM().a : 1;
        const right = svg.width.baseVal.value / scale;
        const over = (t, room) => t.getBBox().x + t.getComputedTextLength() > room;
        return [
          [...document.querySelectorAll(".f text")]
            .filter((t) => getComputedStyle(t.parentNode).display !== "none")
            .filter((t) => over(t, t.parentNode.width.baseVal.value)).map((t) => t.textContent),
          [...document.querySelectorAll(".pgf > text, .legend text")]
            .filter((t) => over(t, right)).map((t) => t.textContent),
          right * scale, 1200 * scale / svg.width.baseVal.value,
        ];
        """
    )
    assert frames == []
    assert head == []
    assert wide >= min(width, 900) - 20
    assert scripts or share == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("dark", [True, False])
def test_colours_follow_the_page(show: Show, *, dark: bool) -> None:
    page = show(flamegraph(_PROFILE), dark=dark)
    fill = "return getComputedStyle(document.querySelector(arguments[0])).fill"
    assert page.run(fill, ".page") == ("rgb(22, 24, 29)" if dark else "rgb(255, 255, 255)")
    assert page.run(fill, ".f text") == ("rgb(244, 244, 244)" if dark else "rgb(27, 27, 27)")


def test_paper_is_white_and_has_no_buttons(show: Show) -> None:
    page = show(flamegraph(_PROFILE), dark=True)
    scheme = {"name": "prefers-color-scheme", "value": "dark"}
    page.driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"media": "print", "features": [scheme]}
    )
    style = "const s = getComputedStyle(document.querySelector(arguments[0])); return s.%s"
    assert page.run(style % "fill", ".page") == "rgb(255, 255, 255)"
    assert page.run(style % "display", ".bar") == "none"


def test_labels_follow_the_width_of_the_window(show: Show) -> None:
    page = show(flamegraph(_PROFILE), width=1200)
    assert "load  app/crud.py:12" in page.labels()
    size = {"width": 300, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.driver.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0]))")
    assert "load" in page.labels()
    assert "load  app/crud.py:12" not in page.labels()


def test_large_pictures_can_be_used(show: Show) -> None:
    rows = [[user(f"f{row}.{n}") for n in range(400)] for row in range(12)]
    text = flamegraph(profile(*((tuple(row[n] for row in rows), 1 + n) for n in range(400))))
    page = show(text)
    page.press("/", "f11.399")
    assert page.found() == ["f11.399"]
    page.click("f3.399")
    assert page.visible()["f3.399"] == _WHOLE
    assert page.complaints() == []


def test_a_picture_works_inside_a_page(show: Show) -> None:
    text = f"<!DOCTYPE html><title>report</title><h1>f</h1>{flamegraph(_PROFILE)}<p>/</p>"
    page = show(text, name="report.html")
    page.click("serialize")
    assert page.visible()["serialize"] == _WHOLE
    page.press("/", "json")
    assert page.found() == ["json.dumps", "json.JSONEncoder.encode"]
    assert page.complaints() == []
