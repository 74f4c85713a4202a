"""Pictures opened in a real browser, as files, the way a user opens them.

Chromium and its driver are found on the path. Where they are not, the tests skip with the reason,
or fail if PERFGUARD_TEST_REQUIRE_BROWSER is set. Nothing is ever fetched for them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_NO_SCRIPTS = 2


@dataclass
class Page:
    """One picture in the browser."""

    driver: Any

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def visible(self) -> dict[str, tuple[float, float]]:
        """Return where each frame that is shown starts and ends, in shares of the chart."""
        return {
            name: (left, right)
            for name, left, right in self.run(
                """
                const chart = document.querySelector(".chart").width.baseVal.value;
                return [...document.querySelectorAll(".f")]
                  .filter((f) => getComputedStyle(f).display !== "none")
                  .map((f) => {
                    const x = f.x.baseVal.value, width = f.width.baseVal.value;
                    const name = f.querySelector("title").textContent.split("\\n")[0];
                    return [name, x / chart, (x + width) / chart];
                  });
                """
            )
        }

    def labels(self) -> list[str]:
        found: list[str] = self.run(
            """
            return [...document.querySelectorAll(".f text")].map((t) => t.textContent)
              .filter((t) => t);
            """
        )
        return found

    def found(self) -> list[str]:
        names: list[str] = self.run(
            """
            return [...document.querySelectorAll(".m title")]
              .map((t) => t.textContent.split("\\n")[0]);
            """
        )
        return names

    def text(self, selector: str) -> str:
        content: str = self.run("return document.querySelector(arguments[0]).textContent", selector)
        return content

    def focused(self) -> str:
        """Return the name of the frame that has the focus, or of another element."""
        name: str = self.run(
            """
            const e = document.activeElement;
            const title = e && e.querySelector(":scope > title");
            return title ? title.textContent.split("\\n")[0] : e ? e.localName : "";
            """
        )
        return name

    def click(self, name: str) -> None:
        frame = self.run(
            """
            return [...document.querySelectorAll(".f")].find(
              (f) => f.querySelector("title").textContent.split("\\n")[0] === arguments[0]);
            """,
            name,
        )
        frame.click()

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def chord(self, modifier: str, key: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).key_down(modifier).send_keys(key).key_up(modifier).perform()

    def complaints(self) -> list[Any]:
        return list(self.driver.get_log("browser"))

    def requests(self) -> list[str]:
        """Return the addresses of everything that was asked for since the last time."""
        messages = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]


def unavailable(reason: str) -> NoReturn:
    if os.environ.get("PERFGUARD_TEST_REQUIRE_BROWSER"):
        pytest.fail(f"{reason}, and PERFGUARD_TEST_REQUIRE_BROWSER is set", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Start a browser, with scripts or without; one of each for all tests."""
    try:
        from selenium import webdriver
    except ImportError:
        unavailable("selenium is not installed")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    service = shutil.which("chromedriver")
    if browser is None or service is None:
        unavailable(f"no {'Chromium' if browser is None else 'chromedriver'} on the path")
    started: dict[bool, Any] = {}

    def start(*, scripts: bool) -> Any:
        if scripts not in started:
            options = webdriver.ChromeOptions()
            options.binary_location = browser
            for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
                options.add_argument(flag)
            options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
            if not scripts:
                settings = {"profile.managed_default_content_settings.javascript": _NO_SCRIPTS}
                options.add_experimental_option("prefs", settings)
            started[scripts] = webdriver.Chrome(
                options=options, service=webdriver.ChromeService(service)
            )
        return started[scripts]

    yield start
    for driver in started.values():
        driver.quit()


@pytest.fixture
def show(start: Callable[..., Any], tmp_path: Path) -> Callable[..., Page]:
    """Write a picture to a file and open it."""

    def show(
        text: str,
        *,
        width: int = 1200,
        dark: bool = False,
        scripts: bool = True,
        name: str = "a.svg",
    ) -> Page:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        driver = start(scripts=scripts)
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": [scheme]})
        driver.get("about:blank")
        driver.get_log("performance")
        driver.get_log("browser")
        driver.get(path.as_uri())
        return Page(driver)

    return show
