"""Where the time of slower calls went: profiles of both sides, compared."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from pytest_perfguard.ab_results import Moved
from pytest_perfguard.duet import DuetResult
from pytest_perfguard.errors import ProfileFileError
from pytest_perfguard.naming import safe_name
from pytest_perfguard.profile_files import read_profile
from pytest_perfguard.reports.flamegraph import Change, differential
from pytest_perfguard.stacks import Profile, movers

_MOVERS = 3
# How many times as much, or as little, the profiles may differ as the call does.
_WITHIN = 2.0
# Share of what the call grew by that a cause of it has to be.
_FAIR_PART = 0.2
# The profiler's frames are no more the user's than ours.
_OURS = ("pyinstrument/", "pytest_perfguard/")
_FILES = "*.profile.json"


def what_moved(base: Path, head: Path, result: DuetResult) -> Moved:
    """Compare the profiles of a call that is slower.

    How much slower it is has been measured without a profiler, whose samples of a short call are
    few. Profiles that show anything else than that say nothing of the cause.

    Args:
        base: folder with the profiles of the tests of base.
        head: the same of head.
        result: what is said of the call.
    """
    call = result.call
    try:
        found = [_profiles(folder / safe_name(result.nodeid)) for folder in (base, head)]
    except ProfileFileError as error:
        return Moved(call, (f"no profile: {error}",))
    # Of a call that is short there may be none, and then that of its test has to do, on both sides.
    pairs = [[_of_call(side, call) for side in found], [_of_test(side) for side in found]]
    before, after = next((pair for pair in pairs if None not in pair), (None, None))
    if before is None or after is None:
        return Moved(call, ("no profile: none was made when the test was run once more",))
    before, after = before.per_call(), after.per_call()
    change = Change(before.total, after.total, normalised=False)
    grown = after.total - before.total
    least, most = 0.0, math.inf
    if before.kind != "test":
        # A test does other things, too, and there is no saying by how much these grow.
        wanted = (result.growth - 1) * before.total
        least, most = wanted / _WITHIN, wanted * _WITHIN
    causes = [
        mover.text
        for mover in movers(before, after, _MOVERS)
        if mover.seconds >= _FAIR_PART * grown and not mover.frame.file.startswith(_OURS)
    ]
    if not (least < grown < most and causes):
        return Moved(call, ("profiled, but the profiles do not show where",))
    return Moved(call, (f"profiled: {change.headline}", *causes), differential(before, after))


def _profiles(folder: Path) -> list[Profile]:
    return [read_profile(path) for path in sorted(folder.glob(_FILES))]


def _of_call(profiles: Iterable[Profile], call: str) -> Profile | None:
    # The second call of a name in a test is numbered, and its profile is that of all of them.
    name = call.partition(" #")[0]
    return next((each for each in profiles if each.kind != "test" and each.name == name), None)


def _of_test(profiles: Iterable[Profile]) -> Profile | None:
    return next((each for each in profiles if each.kind == "test"), None)
