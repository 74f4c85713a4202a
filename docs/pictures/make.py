"""Makes the pictures of the report that the README shows: ``python docs/pictures/make.py``.

The sample service's performance suite is run with a trap, so that there is something to see, and its
report opened in Chromium, which has to be installed with its driver (as for ``tox -e browser``).
The node id of the test that is shown is in ``TEST``; what is written stands beside this file.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

from selenium import webdriver
from selenium.webdriver.support.wait import WebDriverWait

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
SUITE = "sample_app/tests/performance"
TEST = f"{SUITE}/test_list.py::test_a_page_takes_three_statements"
WIDTH = 1280
MOST_BYTES = 200_000
# File, place in the report, and height in pixels.
PICTURES = (("report.png", "", 900), ("report-test.png", f"#test={quote(TEST, safe='')}", 900))


def make_report(path: Path) -> None:
    """Run the suite with a relationship that is loaded row by row; it fails, as it should."""
    subprocess.run(
        [sys.executable, "-m", "pytest", SUITE, "-q", "--perfguard", f"--perfguard-html={path}"],
        cwd=ROOT,
        env={**os.environ, "SAMPLE_APP_TRAPS": "lazy_owner", "GITHUB_REF_NAME": "main"},
        check=False,
    )
    if not path.exists():
        sys.exit("no report was written: see above")


def browser() -> webdriver.Chrome:
    """Start Chromium without a window."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(flag)
    return webdriver.Chrome(
        options=options, service=webdriver.ChromeService(shutil.which("chromedriver"))
    )


def main() -> None:
    """Write the pictures."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.html")
        if len(sys.argv) > 1:
            shutil.copy(sys.argv[1], report)
        else:
            make_report(report)
        driver = browser()
        try:
            for name, place, height in PICTURES:
                size = {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
                driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
                driver.get("about:blank")
                driver.get(f"{report.as_uri()}{place}")
                if place:
                    shown = "return Boolean(document.getElementById('detail').dataset.shown)"
                    WebDriverWait(driver, 20).until(lambda driver: driver.execute_script(shown))
                data = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
                picture = base64.b64decode(data)
                if len(picture) > MOST_BYTES:
                    sys.exit(f"{name} has {len(picture):,} bytes: make it smaller")
                (FOLDER / name).write_bytes(picture)
                print(f"{name}: {len(picture):,} bytes")
        finally:
            driver.quit()


if __name__ == "__main__":
    main()
