"""The files that are written beside a run: which there are of a profile, and where they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pytest_perfguard.errors import ProfileFileError
from pytest_perfguard.model import encodable
from pytest_perfguard.naming import safe_name
from pytest_perfguard.probes.profiling import Captured
from pytest_perfguard.profile_files import write_artefact
from pytest_perfguard.reports.flamegraph import flamegraph
from pytest_perfguard.reports.pages import offline
from pytest_perfguard.reports.speedscope import speedscope

# What is written of each profile, by the ending of the file.
FORMATS: dict[str, Callable[[Captured], str]] = {
    "svg": lambda captured: flamegraph(captured.profile),
    "html": lambda captured: offline(captured.html()),
    "speedscope.json": lambda captured: speedscope(captured.profile),
    "profile.json": lambda captured: json.dumps(captured.profile.to_dict()),
}


@dataclass(frozen=True, slots=True)
class Written:
    """The files of a profile.

    Attributes:
        files: by their endings.
        problems: why others are missing.
    """

    files: dict[str, Path]
    problems: tuple[str, ...]


def write_profile(directory: Path, captured: Captured) -> Written:
    """Write a profile in every format: that one of them fails is no reason to lose the others."""
    stem = safe_name(f"{captured.profile.kind} {captured.profile.name}")
    files, problems = {}, []
    for ending, render in FORMATS.items():
        path = directory / f"{stem}.{ending}"
        try:
            text = render(captured)
        except Exception as error:  # noqa: BLE001 - a library's, and no fault of the test
            problems.append(f"{path.name} could not be made: {type(error).__name__}: {error}")
            continue
        try:
            write_artefact(encodable(text), path)
        except ProfileFileError as error:
            problems.append(str(error))
        else:
            files[ending] = path
    return Written(files, tuple(problems))
