"""Profiles in files: our own, and those of other profilers that come down to stacks.

Our own are JSON, written whole or not at all. pyinstrument's sessions and speedscope's files can
be compared too; where a frame's file belongs is then told by its path alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from pytest_perfguard.errors import ProfileFileError
from pytest_perfguard.runs import write_whole
from pytest_perfguard.stacks import PROFILE_FORMAT, PROFILE_SCHEMA, Frame, Profile

_AGAIN = "write it again"
_KINDS = "a profile of perfguard, a session of pyinstrument or a file of speedscope is needed"
_LIBRARY = re.compile(r"^.*/(?:site-packages|dist-packages|lib/python\d\.\d+)/", re.IGNORECASE)
_WINDOWS_LIBRARY = re.compile(r"^[a-z]:/.*?/lib/(?=[^/])", re.IGNORECASE)
_SECONDS = {"nanoseconds": 1e-9, "microseconds": 1e-6, "milliseconds": 1e-3, "seconds": 1.0}


def write_profile(profile: Profile, path: Path) -> None:
    """Write a profile.

    Raises:
        ProfileFileError: if it cannot be written.
    """
    write_artefact(json.dumps(profile.to_dict(), separators=(",", ":"), ensure_ascii=False), path)


def write_artefact(text: str, path: Path) -> None:
    """Write the text of a profile or of a picture of one.

    Raises:
        ProfileFileError: if it cannot be written.
    """
    try:
        write_whole(path, text if text.endswith("\n") else f"{text}\n")
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ProfileFileError(
            f"{path} cannot be written: {reason}: name another place for it"
        ) from error


def read_profile(path: Path | str) -> Profile:
    """Read a profile of any kind that is known.

    Raises:
        ProfileFileError: if it is not there, not whole, of another kind or of a newer schema.
    """
    try:
        data = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise ProfileFileError(
            f"{path} cannot be read: {error.strerror}: check the path, or {_AGAIN}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ProfileFileError(
            f"{path} is not JSON: {error}: it was cut off, or is something else; {_AGAIN}"
        ) from error
    if not isinstance(data, dict):
        raise ProfileFileError(f"{path} is not a profile: {_KINDS}")
    try:
        return _profile(data, path)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ProfileFileError(
            f"{path} is a broken profile ({type(error).__name__}: {error}): {_AGAIN}"
        ) from error


def _profile(data: Mapping[str, Any], path: Path | str) -> Profile:
    if data.get("format") == PROFILE_FORMAT:
        schema = data.get("schema")
        if isinstance(schema, int) and schema > PROFILE_SCHEMA:
            raise ProfileFileError(
                f"{path} has schema {schema}, this version reads up to {PROFILE_SCHEMA}: "
                f"update pytest-perfguard, or {_AGAIN} with this one"
            )
        if schema != PROFILE_SCHEMA:
            raise ProfileFileError(
                f"{path} has schema {schema!r}, this version reads {PROFILE_SCHEMA}: {_AGAIN}"
            )
        return Profile.from_dict(data)
    name = PurePath(path).stem
    if "frame_records" in data:
        return Profile.build(name, "session", _pyinstrument(data), seconds=_duration(data))
    if "shared" in data and "profiles" in data:
        return Profile.build(str(data.get("name") or name), "session", _speedscope(data))
    raise ProfileFileError(f"{path} is not a profile: {_KINDS}")


def _duration(data: Mapping[str, Any]) -> float:
    sampled = sum(float(seconds) for _, seconds in data["frame_records"])
    return max(float(data["duration"]), sampled)


def _pyinstrument(data: Mapping[str, Any]) -> Iterator[tuple[list[Frame], float]]:
    known: dict[str, Frame | None] = {}
    for identifiers, seconds in data["frame_records"]:
        frames = []
        for identifier in identifiers:
            if identifier not in known:
                known[identifier] = _pyinstrument_frame(identifier)
            frame = known[identifier]
            if frame is not None:
                frames.append(frame)
        yield frames, float(seconds)


def _pyinstrument_frame(identifier: str) -> Frame | None:
    """Read ``function NUL file NUL line``, followed by attributes that are named by a letter."""
    place, *attributes = identifier.split("\x01")
    function, file, line = place.split("\x00")
    if file == "<thread>":
        return None
    facts = {part[0]: part[1:] for part in attributes if part}
    if "c" in facts:
        function = f"{facts['c']}.{function}"
    return _frame(function, file, int(facts.get("l") or line))


def _speedscope(data: Mapping[str, Any]) -> Iterator[tuple[list[Frame], float]]:
    frames = [
        _frame(frame["name"], frame.get("file") or "", int(frame.get("line") or 0))
        for frame in data["shared"]["frames"]
    ]
    for profile in data["profiles"]:
        if profile["type"] != "sampled" or profile["unit"] not in _SECONDS:
            raise ValueError(
                f"{profile['type']} in {profile['unit']} where samples in seconds are needed"
            )
        scale = _SECONDS[profile["unit"]]
        for stack, weight in zip(profile["samples"], profile["weights"], strict=True):
            yield [frames[number] for number in stack], weight * scale


def _frame(function: str, file: str, line: int) -> Frame:
    path = file.replace("\\", "/")
    short = _WINDOWS_LIBRARY.sub("", _LIBRARY.sub("", path))
    if short != path or path.startswith("<"):
        return Frame(function, short, line, user=False)
    here = f"{Path.cwd().as_posix()}/"
    return Frame(function, path.removeprefix(here), line, user=bool(path))
