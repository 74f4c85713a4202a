"""How far a long timing is: one line on a terminal, nothing where a log is written."""

from __future__ import annotations

import os
from contextlib import nullcontext

import pytest

from pytest_perfguard.spans import Clock

_FIRST_AFTER = 1.0
_EVERY = 0.2
_WIDTH = 60


def progress(config: pytest.Config, title: str) -> Progress | None:
    """Return what is to be told of each round, or None where nobody watches."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not reporter.isatty or os.environ.get("CI"):
        return None
    return Progress(config, reporter, title)


def note(config: pytest.Config, text: str) -> None:
    """Tell of something that takes minutes, on a line of its own."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        if reporter._tw.width_of_current_line:
            reporter._tw.line()
        reporter.write_line(f"perfguard: {text}")


class Progress:
    """Text after what stands on the line, shown once a timing has lasted a second."""

    def __init__(
        self, config: pytest.Config, reporter: pytest.TerminalReporter, title: str
    ) -> None:
        self._capture = config.pluginmanager.get_plugin("capturemanager")
        self._writer = reporter._tw
        self._title = title
        self._started = Clock.now()
        self._shown = 0.0
        self._length = 0

    def __call__(self, number: int, rounds: int) -> None:
        """Tell that a round has ended."""
        now = Clock.now()
        if now - self._started > _FIRST_AFTER and now - self._shown > _EVERY:
            self._shown = now
            self._write(f"perfguard: {self._title[: _WIDTH - 30]} {number:,} of {rounds:,} rounds")

    def wipe(self) -> None:
        """Leave the line as it was."""
        if self._length:
            self._write("")

    def _write(self, text: str) -> None:
        room = self._writer.fullwidth - self._writer.width_of_current_line - 1
        text = text[: max(room, 0)]
        line = text.ljust(self._length)
        self._length = len(text)
        disabled = self._capture.global_and_fixture_disabled() if self._capture else nullcontext()
        with disabled:
            # Past the writer, which keeps count of the columns that pytest has used.
            self._writer._file.write(line + "\b" * len(line))
            self._writer.flush()
