"""The report in a browser: found, sorted, opened and read, by hand and by keyboard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jinja2")

from pytest_perfguard.model import Level, Moment, Record, Run, Span, Status, Verdict
from pytest_perfguard.reports.html import to_html
from tests.browser.conftest import Page
from tests.unit.build import HOSTILE, finding, site, span, tally
from tests.unit.profiles import library, profile, user

Show = Callable[..., Page]

_TIMING = {
    "rounds": 40, "concurrency": 1, "repeated": 0, "cold_wall": 0.05,
    "statistics": {"median": 0.012, "p95": 0.03, "max": 0.04},
    "sample": [0.01 + n * n / 40_000 for n in range(35)],
}  # fmt: skip
_GROWTH = {
    "sizes": [2, 10, 50],
    "metrics": {
        "sql_queries": {"values": [3, 11, 51], "limit": "O(1)"},
        "response_bytes": {"values": [100, 500, 2_500], "limit": "O(n)"},
    },
}


def _verdict(metric: str, value: float, limit: float, **fields: Any) -> Verdict:
    status = Status.OK if value <= limit else Status.OVER
    where = f"perf_budget, {'a_folder/' * 6}test_orders.py:9"
    return Verdict(metric, "test_it", value, limit, status, Level.FAIL, where, **fields)


def _failing(nodeid: str, text: str = "SELECT users") -> Record:
    repeated = tally(
        f"{text} WHERE users.id = ? " + "AND a_column = ? " * 30,
        label=text,
        subject="Order.user",
        site=site(31, callers=("app/api.py:3 in view",)),
        fix="select(Order).options(selectinload(Order.user))",
        count=20,
        repeats=20,
        distinct=20,
        sums={"seconds": 0.01, "rows": 20},
    )
    request = span(
        repeated,
        tally("SELECT orders", label="SELECT orders", site=site(12)),
        tally("GET", probe="cache", label="GET orders:{int}", kind="read"),
        name="GET /api/orders",
        kind="request",
        start=0.01,
        seconds=0.05,
        findings=(finding(tally=repeated, weight=1),),
        timing=_TIMING,
        growth=_GROWTH,
        timeline=(
            Moment("SELECT orders", 1, 0.015, 0.002),
            Moment("GET orders:{int}", 1, 0.02, 0.001),
            Moment(text, 20, 0.022, 0.03),
        ),
    )
    verdicts = (_verdict("sql_queries", 21, 2), _verdict("http_p95", 0.03, 0.2))
    return Record(
        nodeid,
        "failed",
        Span("test_it", "test", seconds=0.07, children=(request,), probes=("sql",)),
        {"sql_queries": 21, "cache_commands": 1, "http_requests": 1, "sql_time": 0.01},
        verdicts,
    )


def _kept(nodeid: str, queries: int = 3) -> Record:
    # What the request itself and its SQL take is the same in all of them.
    inside = span(
        tally(label="SELECT orders"), seconds=queries / 1_000, timeline=(Moment("a", 1, 0, 0.001),)
    )
    verdicts = (_verdict("sql_queries", queries, 100),)
    return Record(nodeid, "passed", inside, {"sql_queries": queries}, verdicts)


def _few() -> Run:
    candidate = replace(_failing("app/test_c.py::test_candidate"), outcome="passed", verdicts=())
    drawn = profile(
        ((user("view"), library("dumps")), 0.5),
        ((user("view"),), 0.5),
        name="test_with_a_name_that_is_longer_than_a_narrow_window_is_wide",
    )
    return Run(
        environment={"python": "3.11.0"},
        source={
            "branch": "main",
            "commit": "0123456789abcdef",
            "started": "2026-01-02T03:04:05+00:00",
        },
        tests=5,
        notices=("warning: something about the suite",),
        records=(
            _kept("app/test_a.py::test_few", 2),
            _kept("app/test_a.py::test_many", 90),
            _failing("app/test_b.py::test_orders[a/b c&d=é]"),
            candidate,
            Record("app/test_d.py::test_bare", "passed", span()),
        ),
        profiles={"app/test_b.py::test_orders[a/b c&d=é]": (drawn.to_dict(),)},
    )


def _many() -> Run:
    failing = [_failing(f"services/test_f.py::test_failing_{n}") for n in range(150)]
    kept = [
        _kept(f"services/shop_{n % 9}/test_k.py::test_kept_{n}", n % 97 + 1) for n in range(850)
    ]
    return Run(records=(*failing, *kept), tests=1_000)


@pytest.fixture(scope="module")
def few() -> str:
    return to_html(_few())


@pytest.fixture(scope="module")
def many() -> str:
    return to_html(_many())


@pytest.fixture
def page(show: Show, few: str) -> Page:
    return show(few, name="report.html")


def rows(page: Page) -> list[str]:
    found: list[str] = page.run(
        "return [...document.querySelectorAll('#rows a')].map((a) => a.textContent)"
    )
    return found


def opened(page: Page, name: str) -> None:
    """Wait until all details of a test are there."""
    from selenium.webdriver.support.wait import WebDriverWait

    wanted = """
        const detail = document.getElementById("detail");
        return !detail.hidden && (detail.dataset.shown || "").endsWith(arguments[0]);
        """
    WebDriverWait(page.driver, 20, 0.05).until(lambda _: page.run(wanted, name))


def listed(page: Page) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    hidden = "return document.getElementById('detail').hidden"
    WebDriverWait(page.driver, 20, 0.05).until(lambda _: page.run(hidden))


def at(page: Page, fragment: str) -> None:
    """Open the page anew, at a place in it."""
    url = page.driver.current_url.partition("#")[0]
    page.driver.get("about:blank")
    page.driver.get(f"{url}#{fragment}")


def text(page: Page, selector: str) -> str:
    found: str = page.run("return document.querySelector(arguments[0]).innerText", selector)
    return found


def test_what_needs_a_look_comes_first(page: Page) -> None:
    assert text(page, "h1") == "1 of 5 tests failing"
    assert rows(page) == [
        "test_orders[a/b c&d=é]", "test_candidate", "test_many", "test_few", "test_bare",
    ]  # fmt: skip
    assert "40x Order.user lazy" not in text(page, ".causes")
    assert "fix: select(Order).options(selectinload(Order.user))" in text(page, ".causes")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("MANY", ["test_many"]),
        ("users app/crud.py:31 orders", ["test_orders[a/b c&d=é]", "test_candidate"]),
        ("/api/orders test_c.py", ["test_candidate"]),
        ("nothing like that", []),
    ],
)
def test_a_search_finds_names_endpoints_tables_and_lines(
    page: Page, words: str, found: list[str]
) -> None:
    page.press("/", words)
    assert rows(page) == found
    assert text(page, "#count") == f"{len(found)} of 5 tests"


def test_a_search_that_finds_nothing_leads_back(page: Page) -> None:
    page.press("/", "nothing like that")
    page.run("document.querySelector('#rows button').click()")
    assert len(rows(page)) == 5


def test_a_click_on_a_heading_sorts_and_another_one_reverses(page: Page) -> None:
    heading = "document.querySelector('#head [data-key=sql]').click()"
    page.run(heading)
    assert rows(page)[0] == "test_many"
    assert page.run("return document.querySelector('[aria-sort]').textContent") == "SQL"
    page.run(heading)
    assert rows(page)[-1] == "test_many"
    page.run("document.querySelector('#head [data-key=id]').click()")
    assert rows(page)[0] == "test_few"


def test_statuses_and_kinds_filter(page: Page) -> None:
    page.run("document.querySelector('[data-status=failing]').click()")
    page.run("document.querySelector('[data-status=candidate]').click()")
    assert rows(page) == ["test_orders[a/b c&d=é]", "test_candidate"]
    page.run("document.querySelector('[data-status=failing]').click()")
    assert rows(page) == ["test_candidate"]
    page.run(
        """
        document.querySelector('[data-status=candidate]').click();
        const facet = document.getElementById("facet");
        facet.value = [...facet.options].find((o) => o.textContent === "timed rounds").value;
        facet.dispatchEvent(new Event("change"));
        """
    )
    assert rows(page) == ["test_orders[a/b c&d=é]", "test_candidate"]


def test_a_cause_leads_to_its_tests(page: Page) -> None:
    page.run("document.querySelector('.causes .find').click()")
    assert rows(page) == ["test_orders[a/b c&d=é]", "test_candidate"]
    page.run("document.querySelector('.breached .find').click()")
    assert rows(page) == ["test_orders[a/b c&d=é]"]
    assert page.run("return document.getElementById('search').value") == "over:sql_queries"


def test_a_test_shows_all_that_is_known_of_it(page: Page) -> None:
    page.run("document.querySelector('#rows a').click()")
    opened(page, "test_orders[a/b c&d=é]")
    headings = page.run(
        "return [...document.querySelectorAll('#detail h2')].map((h) => h.textContent)"
    )
    assert headings == [
        "Why", "Metrics", "Growth", "Times of rounds", "Time line", "Operations", "Flame graphs",
    ]  # fmt: skip
    shown = text(page, "#detail")
    for part in (
        "1 of 2 budgets exceeded",
        "fix: select(Order).options(selectinload(Order.user))",
        "≤ 200 ms",
        "n = 50",
        "median 12 ms",
        "20x SELECT users",
        "app/crud.py:31 in rows",
    ):
        assert part in shown
    assert page.found() == []
    assert page.run("return document.querySelectorAll('#detail .chart .f').length") == 3


def test_a_flame_graph_zooms_in_the_report(page: Page) -> None:
    page.run("document.querySelector('#rows a').click()")
    opened(page, "test_orders[a/b c&d=é]")
    page.click("json.dumps")
    assert page.visible()["json.dumps"] == pytest.approx((0, 1), abs=1e-3)


def test_the_time_line_looks_closer_at_a_span(page: Page) -> None:
    page.run("document.querySelector('#rows a').click()")
    opened(page, "test_orders[a/b c&d=é]")
    width = """
        const row = [...document.querySelectorAll(".fall .m")]
          .find((r) => r.textContent.includes("20x"));
        return parseFloat(row.querySelector("i").style.width);
        """
    assert page.run(width) == pytest.approx(0.03 / 0.07 * 100, abs=1)
    page.run("document.querySelector('.fall .request button').click()")
    assert page.run(width) == pytest.approx(0.03 / 0.05 * 100, abs=1)
    page.run("document.querySelector('.whole').click()")
    assert page.run(width) == pytest.approx(0.03 / 0.07 * 100, abs=1)


def test_a_link_leads_to_a_test_and_back(page: Page) -> None:
    at(page, "test=app%2Ftest_b.py%3A%3Atest_orders%5Ba%2Fb%20c%26d%3D%C3%A9%5D")
    opened(page, "test_orders[a/b c&d=é]")
    assert text(page, "#detail h1") == "test_orders[a/b c&d=é]"
    at(page, "test=gone.py::test_gone")
    assert text(page, "#detail h1") == "No such test"
    page.run("document.getElementById('back').click()")
    listed(page)
    assert len(rows(page)) == 5


def test_the_keyboard_leads_everywhere(page: Page) -> None:
    from selenium.webdriver import Keys

    focused = "return document.activeElement.textContent"
    page.press("j")
    assert page.run(focused) == "test_orders[a/b c&d=é]"
    page.press("j")
    assert page.run(focused) == "test_candidate"
    page.press(Keys.ENTER)
    opened(page, "test_candidate")
    page.press("j")
    opened(page, "test_many")
    page.press("k")
    opened(page, "test_candidate")
    page.press(Keys.ESCAPE)
    listed(page)
    assert page.run(focused) == "test_candidate"
    page.press("/")
    assert page.run("return document.activeElement.id") == "search"
    page.press("few", Keys.ENTER)
    assert page.run(focused) == "test_few"
    page.press("?")
    assert page.run("return document.getElementById('help').open") is True
    page.press(Keys.ESCAPE)
    assert page.run("return document.getElementById('help').open") is False


@pytest.mark.parametrize("dark", [True, False])
def test_colours_follow_the_machine_and_the_switch(show: Show, few: str, *, dark: bool) -> None:
    page = show(few, dark=dark, name="report.html")
    ground = "return getComputedStyle(document.body).backgroundColor"
    light, black = "rgb(245, 246, 248)", "rgb(19, 21, 25)"
    assert page.run(ground) == (black if dark else light)
    page.press("t")
    assert page.run(ground) == light
    page.press("t")
    assert page.run(ground) == black
    page.press("t")
    assert page.run(ground) == (black if dark else light)


# Every element with text of its own against the nearest ground that is painted behind it.
_CONTRASTS = """
    const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => {
      const part = (byte) => {
        const c = byte / 255;
        return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
      };
      return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
    };
    const ground = (e) => {
      for (let at = e; at; at = at.parentElement) {
        const found = rgb(getComputedStyle(at).backgroundColor);
        if (found.length < 4 || found[3] === 1) return found;
      }
      return [255, 255, 255];
    };
    return [...document.querySelectorAll("body *")].flatMap((e) => {
      const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
      if (!own || !e.checkVisibility() || e.closest("svg, script, style") || e.disabled) return [];
      const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))];
      const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      const told = `${e.className} ${e.textContent.slice(0, 30)} ${ratio.toFixed(2)}`;
      return ratio < 4.5 ? [told] : [];
    });
    """


@pytest.mark.parametrize("dark", [True, False])
def test_all_text_has_enough_contrast(show: Show, few: str, *, dark: bool) -> None:
    page = show(few, dark=dark, name="report.html")
    page.run("document.querySelector('[data-status=failing]').click()")
    assert page.run(_CONTRASTS) == []
    page.run("document.querySelector('#rows a').click()")
    opened(page, "test_orders[a/b c&d=é]")
    assert page.run(_CONTRASTS) == []


# What is wider than the page, and text that its own box cuts off where no ellipsis tells of it.
_OVERFLOWS = """
    const shown = [...document.querySelectorAll("body *")]
      .filter((e) => e.checkVisibility() && !e.closest("svg, .scroll, .hidden, .skip"));
    const wide = shown.filter((e) => e.getBoundingClientRect().right > innerWidth + 1);
    const cut = shown.filter((e) => {
      const style = getComputedStyle(e);
      const hides = style.textOverflow !== "ellipsis" && style.overflowX === "hidden";
      return hides && e.scrollWidth > e.clientWidth + 1;
    });
    // A name that is broken within a word has several lines.
    cut.push(...[...document.querySelectorAll("#detail .scroll .name")]
      .filter((e) => e.checkVisibility() && e.firstChild && e.scrollHeight > 60));
    return [...wide, ...cut].map((e) => `${e.tagName} ${e.className} ${e.textContent}`);
    """


@pytest.mark.parametrize("width", [1400, 400])
def test_no_text_leaves_the_page(show: Show, few: str, width: int) -> None:
    page = show(few, width=width, name="report.html")
    assert page.run(_OVERFLOWS) == []
    page.run("document.querySelector('#rows a').click()")
    opened(page, "test_orders[a/b c&d=é]")
    assert page.run(_OVERFLOWS) == []
    heads = page.run(
        """
        const svg = document.querySelector("#detail .pgf");
        const right = svg.getBoundingClientRect().right;
        return [...svg.querySelectorAll(":scope > text")]
          .filter((t) => t.getBoundingClientRect().right > right).map((t) => t.textContent);
        """
    )
    assert heads == []


def test_a_thousand_tests_are_listed_page_by_page(show: Show, many: str) -> None:
    assert len(many.encode()) < 3_000_000
    page = show(many, name="report.html")
    assert page.run("return performance.getEntriesByName('perfguard-ready').length") == 1
    # What makes a page slow is how much of it is laid out.
    assert len(rows(page)) == 100
    assert page.run("return document.querySelectorAll('*').length") < 4_000
    assert text(page, "#count") == "1,000 tests"
    assert text(page, "#pages").replace("\n", " ") == "Previous 1 to 100 of 1,000 Next"
    page.run("document.querySelector('#pages button:last-child').click()")
    assert "101 to 200" in text(page, "#pages")
    page.press("/", "kept_849")
    assert rows(page) == ["test_kept_849"]
    page.run("document.querySelector('#rows a').click()")
    opened(page, "test_kept_849")
    assert "SELECT orders" in text(page, "#detail")


def test_paper_has_all_tests_and_no_buttons(show: Show, many: str) -> None:
    page = show(many, dark=True, name="report.html")
    page.run("dispatchEvent(new Event('beforeprint'))")
    assert len(rows(page)) == 1_000
    scheme = {"name": "prefers-color-scheme", "value": "dark"}
    page.driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"media": "print", "features": [scheme]}
    )
    style = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    assert page.run(style, "body", "backgroundColor") == "rgb(255, 255, 255)"
    assert page.run(style, ".tests td", "color") == "rgb(27, 31, 36)"
    assert page.run(style, ".tools", "display") == "none"
    page.run("dispatchEvent(new Event('afterprint'))")
    assert len(rows(page)) == 100


def test_nothing_is_asked_for_and_nothing_complains(show: Show) -> None:
    records = [_failing(hostile, hostile) for hostile in HOSTILE]
    drawn = profile(((user(HOSTILE[0]),), 1.0), name=HOSTILE[0])
    run = Run(
        records=tuple(
            replace(r, errors=(hostile,)) for r, hostile in zip(records, HOSTILE, strict=True)
        ),
        notices=tuple(HOSTILE),
        environment=dict(zip(HOSTILE, HOSTILE, strict=True)),
        profiles={hostile: (drawn.to_dict(),) for hostile in HOSTILE},
    )
    page = show(to_html(run), name="hostile name & #1.html")
    assert len(rows(page)) == len(HOSTILE)
    for number in range(len(HOSTILE)):
        page.run("document.querySelectorAll('#rows a')[arguments[0]].click()", number)
        opened(page, "")
        assert "Flame graphs" in text(page, "#detail")
        page.run("document.getElementById('back').click()")
        listed(page)
    assert page.complaints() == []
    assert {url.partition("#")[0] for url in page.requests()} == {
        page.driver.current_url.partition("#")[0]
    }
    assert "owned" not in page.driver.title


def test_the_policy_forbids_what_is_not_of_the_page(page: Page) -> None:
    page.run(
        """
        document.body.insertAdjacentHTML("beforeend", "<img src='https://example.invalid/x.png'>");
        const script = document.createElement("script");
        script.textContent = "document.title = 'owned'";
        document.body.append(script);
        """
    )
    assert page.driver.title != "owned"
    assert [entry for entry in page.complaints() if "Content Security Policy" in entry["message"]]


def test_without_scripts_it_says_so_and_names_what_fails(show: Show, few: str) -> None:
    page = show(few, scripts=False, name="report.html")
    body = text(page, "main")
    assert "Scripts are switched off" in body
    assert "app/test_b.py::test_orders[a/b c&d=é]" in body
    assert "fix: select(Order)" in body
    assert "Sort by" not in body


def test_a_run_of_nothing_says_what_to_do(show: Show, tmp_path: Path) -> None:
    page = show(to_html(Run()), name="report.html")
    assert text(page, "h1") == "No test was measured"
    assert "--perfguard" in text(page, "#rows")
    assert page.complaints() == []
