"""Where the time of slower calls went: profiles of both sides, compared."""

from __future__ import annotations

from pathlib import Path

from pytest_perfguard.ab_results import Moved
from pytest_perfguard.errors import ProfileFileError
from pytest_perfguard.naming import safe_name
from pytest_perfguard.profile_files import read_profile
from pytest_perfguard.reports.flamegraph import Change, differential
from pytest_perfguard.stacks import Profile, movers

_MOVERS = 3
_FILES = "*.profile.json"


def what_moved(base: Path, head: Path, nodeid: str, call: str) -> Moved:
    """Compare the profiles of a call.

    Args:
        base: folder with the profiles of the tests of base.
        head: the same of head.
        call: its name, as the duet has it.
    """
    try:
        before, after = (_of_call(folder / safe_name(nodeid), call) for folder in (base, head))
    except ProfileFileError as error:
        return Moved(call, (f"no profile: {error}",))
    if before is None or after is None:
        return Moved(call, ("no profile: none was made when the test was run once more",))
    before, after = before.per_call(), after.per_call()
    change = Change(before.total, after.total, normalised=False)
    found = [f"{mover}" for mover in movers(before, after, _MOVERS)]
    return Moved(
        call,
        (f"profiled: {change.headline}", *(found or ["nothing moved in the profile"])),
        differential(before, after),
    )


def _of_call(folder: Path, call: str) -> Profile | None:
    """Return the profile of a call, or that of the whole test if there is none of its own."""
    profiles = [read_profile(path) for path in sorted(folder.glob(_FILES))]
    name = call.partition(" #")[0]
    return next(
        (each for each in profiles if each.kind != "test" and each.name == name),
        next((each for each in profiles if each.kind == "test"), None),
    )
