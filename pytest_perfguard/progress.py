"""How far a long timing is: one line on a terminal, nothing where a log is written."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from pytest_perfguard.spans import Clock

_FIRST_AFTER = 1.0
_EVERY = 0.2
_WIDTH = 60


def progress(config: pytest.Config, title: str) -> Callable[[int, int], None] | None:
    """Return what is to be told of each round, or None where nobody watches.

    The line shows once a timing has lasted a second, and is wiped when it ends.
    """
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not reporter.isatty or os.environ.get("CI"):
        return None
    capture = config.pluginmanager.get_plugin("capturemanager")
    writer = reporter._tw
    started = Clock.now()
    shown = 0.0

    def write(text: str) -> None:
        line = f"\r{text:<{_WIDTH}}\r"
        if capture is None:
            writer.write(line, flush=True)
            return
        with capture.global_and_fixture_disabled():
            writer.write(line, flush=True)

    def tell(round_number: int, rounds: int) -> None:
        nonlocal shown
        now = Clock.now()
        if round_number == rounds:
            if shown:
                write("")
        elif now - started > _FIRST_AFTER and now - shown > _EVERY:
            shown = now
            write(f"perfguard: {title[: _WIDTH - 30]} {round_number:,} of {rounds:,} rounds")

    return tell
