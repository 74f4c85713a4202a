"""The two sides of a comparison: what is run on each of them, and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


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
