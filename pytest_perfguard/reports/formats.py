"""The formats of a report by name: each is a function from a run to a string."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import cast

from pytest_perfguard.model import Run

# Loaded at first use: most sessions write none of them, and some need a library.
_RENDERERS = {
    "text": "terminal:text",
    "json": "plain:to_json",
    "html": "html:to_html",
    "markdown": "markdown:to_markdown",
    "github": "github:to_annotations",
    "sarif": "sarif:to_sarif",
    "junit": "junit:to_junit",
    "openmetrics": "openmetrics:to_openmetrics",
}
FORMATS = tuple(_RENDERERS)


def render(run: Run, name: str) -> str:
    """Return a run in one of :data:`FORMATS`.

    The same run gives the same string, whenever and wherever it is called.

    Raises:
        MissingExtraError: if the format needs a library that is not installed.
    """
    module, _, function = _RENDERERS[name].partition(":")
    renderer = getattr(import_module(f"pytest_perfguard.reports.{module}"), function)
    return cast("Callable[[Run], str]", renderer)(run)
