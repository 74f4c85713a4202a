"""The two sides of a comparison: what is run on each of them, and where."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pytest_perfguard import workspaces


@dataclass(frozen=True, slots=True)
class Side:
    """One of two revisions, ready to be run.

    Attributes:
        label: what it is called in messages, such as ``base`` or ``head``.
        folder: where its tests are run: the working directory.
        python: the interpreter that runs them.
        environment: variables that are set for it, beside those of this process.
    """

    label: str
    folder: Path
    python: Path
    environment: Mapping[str, str]


_MAX_OUTPUT = 2_000


def end_of(output: BinaryIO) -> str:
    """Return the last lines of what a process has printed into a file."""
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - _MAX_OUTPUT))
    told = output.read().decode("utf-8", "replace").strip()
    # Of the first line a part may be missing, which is better than nothing if there is no other.
    return (size > _MAX_OUTPUT and told.partition("\n")[2]) or told


# Which side a process is; tests may read it, to keep what both use apart.
SIDE = "PERFGUARD_SIDE"
# What another pytest has told its own processes.
_NOT_PASSED_ON = frozenset(
    {
        "PYTEST_CURRENT_TEST",
        "PYTEST_XDIST_TESTRUNUID",
        "PYTEST_XDIST_WORKER",
        "PYTEST_XDIST_WORKER_COUNT",
    }
)


def environment_of(side: Side) -> dict[str, str]:
    """Return the environment of the processes of a side: this one's, and its own over it."""
    known = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON}
    # A git that a test or a setup runs is not to work on the user's own index.
    known = workspaces.without_repository(known)
    return {**known, SIDE: side.label, **side.environment}
