"""The files that are written beside a run: which there are of a profile, and what they are called.

A node id may hold anything, and a file's name very little: what is lost on the way is made up for
by a hash, so that two tests never share a file, whatever worker writes it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pytest_perfguard.errors import ProfileFileError
from pytest_perfguard.probes.profiling import Captured
from pytest_perfguard.profile_files import write_artefact
from pytest_perfguard.reports.flamegraph import flamegraph
from pytest_perfguard.reports.pages import offline
from pytest_perfguard.reports.speedscope import speedscope

_MAX_NAME = 60
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
# What Windows keeps for itself, with any ending.
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)

# What is written of each profile, by the ending of the file.
FORMATS: dict[str, Callable[[Captured], str]] = {
    "svg": lambda captured: flamegraph(captured.profile),
    "html": lambda captured: offline(captured.html()),
    "speedscope.json": lambda captured: speedscope(captured.profile),
    "profile.json": lambda captured: json.dumps(captured.profile.to_dict()),
}


def safe_name(text: str) -> str:
    """Return a name for a file or folder, the same for the same text and for no other."""
    name = _UNSAFE.sub("-", text).strip("-._")[:_MAX_NAME].strip("-._")
    # Two names that differ in case alone are one on some systems.
    if name and name == text == name.lower() and not _RESERVED.fullmatch(name):
        return name
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    # In front of a dot, what Windows keeps for itself would be recognised.
    return f"{name.replace('.', '_') if _RESERVED.fullmatch(name) else name}-{digest}".lstrip("-")


@dataclass(frozen=True, slots=True)
class Written:
    """The files of a profile.

    Attributes:
        files: by their endings.
        problems: why others are missing.
    """

    files: dict[str, Path]
    problems: tuple[str, ...]


def write_profile(folder: Path, nodeid: str, captured: Captured) -> Written:
    """Write a profile in every format: that one of them fails is no reason to lose the others."""
    directory = folder / "profiles" / safe_name(nodeid)
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
            # A lone surrogate in the name of a test is in no encoding.
            write_artefact(text.encode("utf-8", "backslashreplace").decode("utf-8"), path)
        except ProfileFileError as error:
            problems.append(str(error))
        else:
            files[ending] = path
    return Written(files, tuple(problems))
