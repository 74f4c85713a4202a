"""False alarms, power and cost of ``perfguard ab``'s verdicts on time, on this machine.

Two sides run endpoints of the sample service, through TestClient and in the event loop, and a
plain function: with the same work, and with 5, 7, 10 and 20 % more of it on one side; on the
machine as it is, and with a process that keeps each core busy. A trial is a whole comparison, with
the fresh processes that the rule asks for: either of two sides with the same work, or of sides
where every call has a level of its own. All kinds advance at an even pace.

Work is injected in units, which are counted where they are run. What share of a call a unit is, is
found once for each log, by a calibration with the same processes.

Each trial is noted in the log, and the same command goes on where an earlier one has stopped. What
the sources are is noted too: trials of other sources do not count.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from gate import Rate, append, machine, neighbours

from pytest_perfguard.coordinator import run_duets
from pytest_perfguard.duet import DuetResult, Verdict, cpu_rule
from pytest_perfguard.sides import Side

HERE = Path(__file__).resolve().parent
WORKER = "benchmarks/duet_worker.py"
# As in duet_worker, which imports much.
BASE = {
    "test_testclient_query": 10,
    "test_testclient_cached": 10,
    "test_asgi_query": 10,
    "test_asgi_cached": 10,
    "test_function": 200,
}
LEVELS = (0, 5, 7, 10, 20)
STATES = ("as it is", "busy")
CALIBRATIONS = 3
# Trials in a row with the same neighbours.
BLOCK = 5
GOAL_POWER, GOAL_LEVEL, GOAL_SECONDS, GOAL_CALLS = 0.95, 10, 1.0, 300


@dataclass(frozen=True)
class Trial:
    """What came of one call in one comparison.

    Attributes:
        effects: shares by which head's CPU time was more, of each pair of processes.
        seconds: how long all pairs of processes took turns for it.
    """

    state: str
    level: int
    name: str
    verdict: str
    effects: tuple[float, ...]
    seconds: float

    @property
    def is_red(self) -> bool:
        """Whether it would fail."""
        return self.verdict == Verdict.SLOWER

    @property
    def is_suspected(self) -> bool:
        """Whether the first pair of processes alone found it slower."""
        return bool(self.effects) and self.effects[0] > cpu_rule(pinned=True).limit


def environment(folder: str, **more: str) -> dict[str, str]:
    """Return what workers are told; what they compile they share."""
    path = os.pathsep.join((str(HERE), str(HERE.parent)))
    cache = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": folder}
    return {**cache, "PYTHONPATH": path, **more}


def calibrate(folder: str) -> dict[str, float]:
    """Return which share of a call one unit is, of each workload."""
    shares: dict[str, list[float]] = {name: [] for name in BASE}
    for number in range(CALIBRATIONS):
        print(f"\rcalibration {number + 1} of {CALIBRATIONS}", end="", file=sys.stderr, flush=True)
        file = Path(folder, f"shares-{number}")
        done = subprocess.run(  # noqa: S603 - our own worker
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", WORKER],
            cwd=HERE.parent,
            env={**os.environ, **environment(folder, DUET_SHARES=str(file))},
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"the calibration failed:\n{done.stdout}{done.stderr}")
        for line in file.read_text(encoding="utf-8").splitlines():
            name, share = json.loads(line)
            shares[name].append(share)
    found = {name: median(values) for name, values in shares.items()}
    # All that the function does are its units; there is nothing to be measured.
    found["test_function"] = 1 / BASE["test_function"]
    return found


def sources() -> str:
    """Return what tells these sources from others."""
    digest = hashlib.sha256()
    for folder in ("pytest_perfguard", "sample_app"):
        for path in sorted((HERE.parent / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    for path in (HERE / "duet.py", HERE / "duet_worker.py", HERE / "gate_worker.py"):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def read(file: Path) -> list[Trial]:
    """Read the trials of these sources."""
    known, trials = sources(), []
    for line in file.read_text(encoding="utf-8").splitlines()[1:]:
        data = json.loads(line)
        if data["sources"] == known:
            trials += [
                Trial(**{**one, "state": data["state"], "effects": tuple(one["effects"])})
                for one in data["calls"]
            ]
    return trials


def draw(trials: Iterable[Trial], goals: dict[int, int], state: str) -> dict[str, int]:
    """Return a level for each workload: one that is furthest from its goal.

    All are the same work, or none is.
    """
    count = Counter((one.name, one.level) for one in trials if one.state == state)
    done = {
        name: {level: count[name, level] / goal for level, goal in goals.items()} for name in BASE
    }
    more = {
        name: {level: shares[level] for level in goals if level} for name, shares in done.items()
    }
    if min(shares[0] for shares in done.values()) < min(
        min(each.values()) for each in more.values()
    ):
        return dict.fromkeys(BASE, 0)
    return {
        name: random.choice([one for one in shares if shares[one] == min(shares.values())])  # noqa: S311 - an order
        for name, shares in more.items()
    }


def left(trials: Iterable[Trial], goals: dict[int, int], state: str) -> int:
    """Return how many trials are missing."""
    count = Counter((one.name, one.level) for one in trials if one.state == state)

    def missing(levels: Iterable[int]) -> int:
        return max(sum(max(0, goals[one] - count[name, one]) for one in levels) for name in BASE)

    return missing([0]) + missing(level for level in goals if level)


def trial(folder: str, levels: dict[str, int], share: dict[str, float]) -> dict[str, Any]:
    """Compare two sides, and return what came of it."""
    units = {name: BASE[name] + round(level / 100 / share[name]) for name, level in levels.items()}
    python = Path(sys.executable)
    sides = (
        Side("base", HERE.parent, python, environment(folder, DUET_UNITS=json.dumps(BASE))),
        Side("head", HERE.parent, python, environment(folder, DUET_UNITS=json.dumps(units))),
    )
    tests = [f"{WORKER}::{name}" for name in BASE]
    started = time.monotonic()
    results = run_duets(sides, tests, pytest_args=["-p", "no:cacheprovider", WORKER])
    calls = [_noted(one, levels) for one in results.values()]
    if len(calls) != len(BASE):
        raise SystemExit(f"{len(calls)} calls were compared, not {len(BASE)}")
    return {"calls": calls, "took": time.monotonic() - started, "units": units}


def _noted(result: DuetResult, levels: dict[str, int]) -> dict[str, Any]:
    name = result.nodeid.rpartition("::")[2]
    if result.cpu is None:
        raise SystemExit(f"{name}: {result.text}")
    return {
        "name": name,
        "level": levels[name],
        "verdict": str(result.verdict),
        "effects": list(result.cpu.effects),
        "seconds": sum(meeting.seconds for meeting in result.meetings),
    }


def collect(
    file: Path, goals: dict[int, int], minutes: float, states: Sequence[str] = STATES
) -> None:
    """Make the trials that are left in these states, as long as there is time."""
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory(prefix="perfguard-duet-") as folder:
        if not file.exists():
            append(file, {"share": calibrate(folder), "machine": machine()})
        share = json.loads(file.read_text(encoding="utf-8").partition("\n")[0])["share"]
        trials = read(file)
        while any(left(trials, goals, state) for state in states):
            for state in states:
                with neighbours(state):
                    for _ in range(min(BLOCK, left(trials, goals, state))):
                        if time.monotonic() > end:
                            print(file=sys.stderr)
                            return
                        levels = draw(trials, goals, state)
                        found = trial(folder, levels, share)
                        append(
                            file,
                            {
                                "sources": sources(),
                                "state": state,
                                "load": os.getloadavg()[0],
                                **found,
                            },
                        )
                        trials = read(file)
                        todo = sum(left(trials, goals, one) for one in states)
                        print(
                            f"\r{len(trials)} calls compared, {todo} comparisons left ",
                            end="",
                            file=sys.stderr,
                            flush=True,
                        )
    print(file=sys.stderr)


def rate(trials: Sequence[Trial], of: Callable[[Trial], bool]) -> Rate:
    """Return how often something happened."""
    return Rate(sum(map(of, trials)) / len(trials), len(trials)) if trials else Rate(0, 0)


def report(file: Path) -> bool:
    """Print the table; return whether the goals are met."""
    head = json.loads(file.read_text(encoding="utf-8").partition("\n")[0])
    trials = read(file)
    percent = {name: round(100 * share, 3) for name, share in head["share"].items()}
    print(f"{head['machine']}; a unit of work is of a call, in percent: {percent}")
    print("red in percent of the comparisons, with 95 % interval\n")
    print(
        "| call | work | machine | comparisons | red | undecided | first pair above the limit "
        "| seconds a call |\n|---|---|---|---|---|---|---|---|"
    )
    for names in (tuple(BASE), *((name,) for name in BASE)):
        title = "all" if len(names) > 1 else names[0].removeprefix("test_").replace("_", " ")
        for level in LEVELS:
            for state in STATES:
                those = [
                    one
                    for one in trials
                    if one.name in names and (one.level, one.state) == (level, state)
                ]
                if those:
                    red, undecided, first = (
                        rate(those, of)
                        for of in (
                            lambda one: one.is_red,
                            lambda one: one.verdict == Verdict.UNDECIDED,
                            lambda one: one.is_suspected,
                        )
                    )
                    seconds = median(one.seconds for one in those)
                    print(
                        f"| {title} | {f'+{level} %' if level else 'the same'} | {state} "
                        f"| {len(those)} | {red} | {undecided} | {first} | {seconds:.2f} |"
                    )
    return _goals(trials)


def _goals(trials: Sequence[Trial]) -> bool:
    same = [one for one in trials if not one.level]
    more = [one for one in trials if one.level == GOAL_LEVEL]
    quiet = [one for one in same if one.state == STATES[0]]
    if not (more and quiet):
        print("\ntoo few comparisons for the goals")
        return False
    alarms = sum(one.is_red for one in same)
    power = rate(more, lambda one: one.is_red)
    seconds = median(one.seconds for one in quiet)
    enough = len(same) >= GOAL_CALLS
    goals = (
        (
            f"{alarms} red in {len(same)} comparisons of the same work, goal 0 in {GOAL_CALLS}",
            not alarms and enough,
        ),
        (
            f"{power} % found at +{GOAL_LEVEL} %, goal {100 * GOAL_POWER:g} %",
            power.share >= GOAL_POWER,
        ),
        (
            f"{seconds:.2f} s a call of the same work, goal below {GOAL_SECONDS:g} s",
            seconds < GOAL_SECONDS,
        ),
    )
    print()
    for text, is_met in goals:
        print(f"{text}: {'yes' if is_met else 'NO'}")
    unseen = 1 - 0.05 ** (1 / len(same))
    print(f"(what {len(same)} comparisons do not show may still happen in {unseen:.1%}, at 95 %)")
    return all(is_met for _, is_met in goals)


def main() -> int:
    """Run the benchmark; the exit status is 1 if a goal is not met."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--log", type=Path, default=Path("duet-log.jsonl"), metavar="FILE",
                        help="where trials are noted; an existing file is added to")  # fmt: skip
    parser.add_argument("--minutes", type=float, default=math.inf,
                        help="begin no further comparison after that time")  # fmt: skip
    parser.add_argument("--same", type=int, default=32,
                        help="comparisons of each call in each state, same work (32)")  # fmt: skip
    parser.add_argument("--more", type=int, default=8,
                        help="the same at each other level (8)")  # fmt: skip
    parser.add_argument("--state", choices=STATES, action="append",
                        help="only that state of the machine")  # fmt: skip
    parser.add_argument("--report", action="store_true", help="only print what is in the log")
    arguments = parser.parse_args()
    goals = {level: arguments.more if level else arguments.same for level in LEVELS}
    if not arguments.report:
        collect(arguments.log, goals, arguments.minutes, arguments.state or STATES)
    return 0 if report(arguments.log) else 1


if __name__ == "__main__":
    sys.exit(main())
