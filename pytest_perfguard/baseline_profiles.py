"""Profiles that are kept beside the baselines of a test, to tell what has moved when it fails.

They are written when baselines are recorded and profiles asked for on the command line, and they
are small: stacks of functions and seconds, each test and span in a file of its own. No verdict
depends on them, so one that is missing or broken costs nothing but the comparison.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pytest_perfguard.baseline_files import file_of, name_of
from pytest_perfguard.errors import ProfileFileError
from pytest_perfguard.naming import safe_name
from pytest_perfguard.profile_files import read_profile, write_artefact, write_profile
from pytest_perfguard.stacks import Profile, movers

_FOLDER = "profiles"
_MOVERS = 3


def profiles_beside(baselines: Path, test: str) -> Path:
    """Return where the profiles of a test are kept.

    Args:
        baselines: the file of its module's baselines.
        test: what it is called there.
    """
    return baselines.parent / _FOLDER / safe_name(f"{baselines.stem}::{test}")


def kept_profiles(module: Path, nodeid: str) -> Path:
    """Return where the profiles of a test of a module are kept."""
    return profiles_beside(file_of(module), name_of(nodeid))


def forget(baselines: Path, test: str) -> None:
    """Remove the profiles of a test that is gone; see :func:`profiles_beside`."""
    shutil.rmtree(profiles_beside(baselines, test), ignore_errors=True)
    with suppress(OSError):
        # Only an empty folder goes.
        (baselines.parent / _FOLDER).rmdir()


def keep(folder: Path, profiles: Iterable[Profile]) -> None:
    """Keep the profiles of a test, in place of those that were kept before.

    Raises:
        ProfileFileError: if they cannot be written.
    """
    found = list(profiles)
    if any(profile.calls > 1 for profile in found):
        # How many rounds there are in the test depends on the day, and with it all of its time.
        found = [profile for profile in found if profile.kind != "test"]
    shutil.rmtree(folder, ignore_errors=True)
    for profile in found:
        write_profile(profile.without_values().small(), _file(folder, profile))


def compare(folder: Path, profile: Profile, picture: Path | None, shown: str) -> list[str]:
    """Return what has moved since a profile was kept, as lines; nothing if none was.

    Args:
        folder: where the profiles of its test are kept.
        picture: where the differential flame graph goes; None where nothing can be written.
        shown: how that place is told.
    """
    file = _file(folder, profile)
    if not file.exists():
        return []
    from pytest_perfguard.reports.flamegraph import Change, differential  # noqa: PLC0415 - costly

    try:
        # Their own notes stand elsewhere, or were about another day.
        base = replace(read_profile(file), notes=()).per_call()
        head = replace(profile, name=base.name, notes=()).per_call()
        change = Change(base.total, head.total, normalised=False)
        each = ", per call" if profile.calls > 1 else ""
        lines = [f"    since the baseline profile{each}: {change.headline}"]
        lines += [f"        {mover}" for mover in movers(base, head, _MOVERS)]
        if picture is not None:
            write_artefact(differential(base, head), picture)
            lines.append(f"    what moved: {shown}")
    except ProfileFileError as error:
        return [f"    not compared with the baseline profile: {error}"]
    return lines


def _file(folder: Path, profile: Profile) -> Path:
    kept = profile.without_values()
    return folder / f"{safe_name(f'{kept.kind} {kept.name}')}.json"
