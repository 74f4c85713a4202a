"""pytest's arguments, for a session that repeats another one: without what is about its results."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

# Options that say what becomes of a session's results, which one that repeats it has none of, or
# that choose tests by what an earlier session found. Those in the first row take their value from
# the next argument where it is not in the same.
_WITH_VALUE = (
    "--perfguard-json", "--perfguard-html", "--perfguard-summary", "--perfguard-sarif",
    "--perfguard-openmetrics",
    "--perfguard-processes", "--junitxml", "--junit-xml", "--html",
    "--json-report-file", "--report-log", "--cov-report", "--log-file", "--alluredir",
    "--benchmark-json", "--benchmark-save", "--maxfail", "--lfnf", "--last-failed-no-failures",
)  # fmt: skip
_PLAIN = (
    "--perfguard", "--perfguard-update", "--perfguard-ratchet", "--perfguard-add-times", "-x",
    "--exitfirst", "--lf", "--last-failed", "--ff", "--failed-first", "--nf", "--new-first",
    "--sw", "--stepwise", "--sw-skip", "--stepwise-skip", "--sw-reset", "--stepwise-reset",
    "--pdb", "--trace", "--benchmark-autosave", "--pastebin",
)  # fmt: skip
_PLACE = ("--rootdir", "-c", "--config-file")


def stripped(arguments: Iterable[str]) -> list[str]:
    """Return the arguments without those that are about results or depend on earlier sessions."""
    return _split(arguments, _WITH_VALUE, _PLAIN)[1]


def without_place(arguments: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the arguments that say where the settings are, and the others."""
    return _split(arguments, _PLACE, ())


def _split(
    arguments: Iterable[str], with_value: tuple[str, ...], plain: tuple[str, ...]
) -> tuple[list[str], list[str]]:
    found, others, follows = list[str](), list[str](), False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if follows or name in with_value or name in plain:
            found.append(argument)
            follows = not follows and name in with_value and not equals
        else:
            others.append(argument)
    return found, others


def relative(argument: str, checkout: Path, folder: Path) -> str:
    """Return an argument with a path inside a checkout as it is relative to a folder of it."""
    option, equals, value = (
        argument.partition("=") if argument.startswith("-") else ("", "", argument)
    )
    path, colons, name = value.partition("::")
    if os.path.isabs(path) and Path(path).is_relative_to(checkout):  # noqa: PTH117 - it may be no path
        value = f"{os.path.relpath(path, folder)}{colons}{name}"
    return f"{option}{equals}{value}"
