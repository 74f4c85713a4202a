"""The failure that the README shows is the one that is printed today."""

from __future__ import annotations

import re
from pathlib import Path

from sample_app.tests.catches import JUDGED
from sample_app.tests.traps import run_tests

README = Path(__file__).parents[2] / "README.md"
_SHOWN = re.compile(r"<!-- what lazy_owner [^>]*-->\n\n```\n(.*?)\n```\n", re.DOTALL)


def test_the_failure_is_shown_as_it_is_printed() -> None:
    (shown,) = _SHOWN.findall(README.read_text("utf-8"))
    test = JUDGED["lazy_owner"].test
    section = run_tests(["lazy_owner"], [test], "--perfguard-baseline=off").section(test)
    assert f"\n{shown}\ntimeline: " in section
