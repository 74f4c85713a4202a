"""What a session tells GitHub Actions: annotations, and the summary of its step.

The platform says where it is by variables; nothing of this happens anywhere else.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_perfguard.model import Run, encodable
from pytest_perfguard.options import option
from pytest_perfguard.processes import is_fresh
from pytest_perfguard.reports.formats import render

_ANNOTATED = "GITHUB_ACTIONS"
_SUMMARY = "GITHUB_STEP_SUMMARY"
# Bytes that the platform takes of a step's summary; it drops the whole of a longer one.
_MOST = 1 << 20


def is_told(config: pytest.Config) -> bool:
    """Return whether the session runs there and has something to tell."""
    there = os.environ.get(_ANNOTATED) or os.environ.get(_SUMMARY)
    # The session that started a fresh process tells of both.
    return bool(there) and option(config, "github") != "off" and not is_fresh()


def commands(run: Run) -> list[str]:
    """Return the commands to print, which put each problem beside the code."""
    return render(run, "github").splitlines() if os.environ.get(_ANNOTATED) else []


def add_to_summary(run: Run) -> str:
    """Add the run to the summary of the step, and return a line that says so, or why not."""
    return append_to_summary("\n" + render(run, "markdown")) if os.environ.get(_SUMMARY) else ""


def append_to_summary(text: str) -> str:
    """Add Markdown to the summary of the step, if there is one; return a line as above."""
    name = os.environ.get(_SUMMARY)
    if not name:
        return ""
    path, data = Path(name), encodable(text).encode("utf-8")
    try:
        if (path.stat().st_size if path.exists() else 0) + len(data) > _MOST:
            return "warning: the step's summary is full: the report of this session is not in it"
        with path.open("ab") as file:
            file.write(data)
    except OSError as error:
        return f"warning: the step's summary {path} cannot be written: {error.strerror or error}"
    return "report added to the step's summary"
