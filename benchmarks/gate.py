"""False alarms and power of the time gate, beside gates on raw times, on this machine as it is.

Fresh processes measure an endpoint through TestClient, one through ASGITransport and a plain
function: unchanged, and with 10, 20 and 50 % of work injected, on the machine as it is and with a
busy process on each core. What they found is appended to a file, so that a run can be made in
slices and resumed. Then each process is judged by others that were unchanged, drawn at random:

- by the time gate, with 5 and with 10 stored processes, once, and with the rule that only what a
  second fresh process confirms counts;
- by gates that compare the minimum, the median or the mean of the same rounds' wall times with
  those of one stored process, which is what pytest-benchmark's ``--benchmark-compare-fail`` does.

Work is injected in units, which are counted where they are run. What share of a call a unit is, is
found once for each file of samples by a calibration of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from pytest_perfguard.gate import FEWEST_PROCESSES, PROCESSES, GateStatus, judge
from pytest_perfguard.samples import Sample

HERE = Path(__file__).resolve().parent
BASE = {"testclient": 20, "asgi": 12, "function": 100}
LEVELS = (0, 10, 20, 50)
STATES = ("as it is", "busy")
STATISTICS = ("min", "median", "mean")
LIMITS = (10, 20)
CALIBRATIONS = 5
# How many sets of stored processes each process is judged by.
DRAWS = 10
# Processes in a row with the same neighbours.
BLOCK = 10
KINDS = {
    "suspect": "once",
    "confirmed": "confirmed by a second process",
    "undecided": "undecided",
}
GOAL_ALARMS, GOAL_POWER = 0.0001, 0.95
_Z = 1.96
# Ends with its parent, however that ends.
BUSY = """
import os, sys
if hasattr(os, "sched_setaffinity"): os.sched_setaffinity(0, {int(sys.argv[2])})
while os.getppid() == int(sys.argv[1]): sum(range(100_000))
"""


# Of a workload, a state and a level.
Gate = Callable[[str, str, int], "Rate"]


@dataclass(frozen=True, eq=False)
class Process:
    """What one process has found.

    Attributes:
        state: what its neighbours were; see :data:`STATES`.
        level: how many percent of work were injected.
        samples: by workload.
        raw: wall times in seconds by workload and statistic.
        calls: calls of Python functions by workload.
    """

    state: str
    level: int
    samples: dict[str, Sample]
    raw: dict[str, dict[str, float]]
    calls: dict[str, int]


@dataclass(frozen=True)
class Rate:
    """How often something happened, with its 95 % interval by Wilson."""

    share: float
    number: int

    def __str__(self) -> str:
        if not self.number:
            return "-"
        low, high = self.interval
        return f"{100 * self.share:.1f} ({100 * low:.1f}-{100 * high:.1f})"

    @property
    def interval(self) -> tuple[float, float]:
        """What the true rate may be."""
        n, p = self.number, self.share
        middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z / (1 + _Z**2 / n) * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
        return max(0.0, middle - half), min(1.0, middle + half)


def worker(*arguments: str) -> Any:
    """Run a process to its end, and return what it has found."""
    done = subprocess.run(  # noqa: S603 - our own worker
        [sys.executable, str(HERE / "gate_worker.py"), *arguments],
        check=False,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
    )
    if done.returncode:
        raise SystemExit(f"a worker failed:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout)


@contextmanager
def neighbours(state: str) -> Iterator[None]:
    """Keep each core busy, or leave the machine as it is."""
    cores = (
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )
    started: list[subprocess.Popen[bytes]] = []
    try:
        for core in cores if state == "busy" else ():
            command = [sys.executable, "-c", BUSY, str(os.getpid()), str(core)]
            started.append(subprocess.Popen(command))  # noqa: S603 - each is ended
        yield
        if any(process.poll() is not None for process in started):
            raise SystemExit("the machine was not busy all the time")
    finally:
        for process in started:
            process.kill()
            process.wait()


def calibrate() -> dict[str, Any]:
    """Return how many units each workload runs at each level, and what they add in percent."""
    shares = [worker("calibrate") for _ in range(CALIBRATIONS)]
    share = {name: median(one[name] for one in shares) for name in BASE}
    # All that the function does are its units; there is nothing to be measured.
    share["function"] = 1 / BASE["function"]
    units = {
        str(level): {name: base + round(level / 100 / share[name]) for name, base in BASE.items()}
        for level in LEVELS
    }
    added = {
        level: {
            name: round(100 * share[name] * (number - BASE[name]), 2)
            for name, number in named.items()
        }
        for level, named in units.items()
    }
    return {"calibration": shares, "units": units, "added_percent": added}


def jobs(unchanged: int, changed: int, done: Iterable[Process]) -> list[tuple[str, int]]:
    """Return what is left to be run, in blocks of the same state, all kinds at an even pace."""
    goals = {
        (state, level): changed if level else unchanged for state in STATES for level in LEVELS
    }
    count = dict.fromkeys(goals, 0)
    for process in done:
        count[process.state, process.level] += 1
    blocks: dict[str, list[tuple[float, str, int]]] = {state: [] for state in STATES}
    for (state, level), goal in goals.items():
        blocks[state] += [
            ((number + random.random()) / goal, state, level)  # noqa: S311 - an order
            for number in range(count[state, level], goal)
        ]
    ordered = {
        state: [(s, level) for _, s, level in sorted(left)] for state, left in blocks.items()
    }
    mixed = []
    while any(ordered.values()):
        for state in STATES:
            mixed += ordered[state][:BLOCK]
            del ordered[state][:BLOCK]
    return mixed


def collect(file: Path, unchanged: int, changed: int, minutes: float) -> None:
    """Run what is left to be run, as long as there is time."""
    end = time.monotonic() + 60 * minutes
    if not file.exists():
        append(file, {**calibrate(), "machine": machine()})
    head = json.loads(file.read_text(encoding="utf-8").partition("\n")[0])
    left = jobs(unchanged, changed, read(file))
    total = len(left)
    while left and time.monotonic() < end:
        state = left[0][0]
        with neighbours(state):
            while left and left[0][0] == state and time.monotonic() < end:
                level = left.pop(0)[1]
                units = head["units"][str(level)]
                found = worker("measure", json.dumps(units))
                for name, workload in found["workloads"].items():
                    if workload["units"] != units[name]:
                        raise SystemExit(f"{name} ran {workload['units']} units, not {units[name]}")
                append(
                    file,
                    {
                        "state": state,
                        "level": level,
                        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
                        **found,
                    },
                )
                print(
                    f"\r{total - len(left)} of {total} processes",
                    end="",
                    file=sys.stderr,
                    flush=True,
                )
    print(file=sys.stderr)


def machine() -> str:
    """Return what the numbers come from."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{python}, {platform.system()}, {os.cpu_count()} cores"


def append(file: Path, data: object) -> None:
    """Add a line."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(data) + "\n")


def read(file: Path) -> list[Process]:
    """Read what all processes have found."""
    processes = []
    for line in file.read_text(encoding="utf-8").splitlines()[1:]:
        data = json.loads(line)
        named = data["workloads"]
        processes.append(
            Process(
                data["state"],
                data["level"],
                {name: Sample.from_dict(found["sample"]) for name, found in named.items()},
                {name: found["raw"] for name, found in named.items()},
                {name: found["calls"] for name, found in named.items()},
            )
        )
    return processes


class Trial:
    """Judges all processes by stored ones that are drawn from some of those that were unchanged."""

    def __init__(self, processes: Sequence[Process], stored_in: Sequence[str]) -> None:
        self._processes = processes
        self._pool = [one for one in processes if not one.level and one.state in stored_in]
        self._judged: dict[tuple[str, str, int, int], dict[str, Rate]] = {}
        self._chance = random.Random(0)  # noqa: S311 - the same table for the same samples

    def _cases(
        self, state: str, level: int, number: int
    ) -> Iterator[tuple[Process, Process, list[Process]]]:
        """Yield each process with the next of its kind, and with stored ones that are neither."""
        those = [one for one in self._processes if (one.state, one.level) == (state, level)]
        for at, one in enumerate(those):
            second = those[(at + 1) % len(those)]
            pool = [other for other in self._pool if other is not one and other is not second]
            if len(pool) < number or second is one:
                continue
            for _ in range(DRAWS):
                yield one, second, self._chance.sample(pool, number)

    def raw(self, name: str, state: str, level: int, *, statistic: str, limit: int) -> Rate:
        """How often a gate on raw times is red."""
        red = [
            one.raw[name][statistic] > (1 + limit / 100) * stored[0].raw[name][statistic]
            for one, _, stored in self._cases(state, level, 1)
        ]
        return _rate(red)

    def gate(self, name: str, state: str, level: int, *, number: int, kind: str) -> Rate:
        """How often the time gate suspects, suspects twice, or cannot decide."""
        key = name, state, level, number
        if key not in self._judged:
            self._judged[key] = self._judge(*key)
        return self._judged[key][kind]

    def _judge(self, name: str, state: str, level: int, number: int) -> dict[str, Rate]:
        found: dict[str, list[bool]] = {kind: [] for kind in KINDS}
        for one, second, stored in self._cases(state, level, number):
            samples = [other.samples[name] for other in stored]
            first = judge(samples, one.samples[name], number).status
            found["suspect"].append(first is GateStatus.SUSPECT)
            found["undecided"].append(first is GateStatus.UNDECIDED)
            found["confirmed"].append(
                first is GateStatus.SUSPECT
                and judge(samples, second.samples[name], number).status is GateStatus.SUSPECT
            )
        return {kind: _rate(red) for kind, red in found.items()}


def _rate(red: Sequence[bool]) -> Rate:
    """Return a rate. The draws of one process are no independent trials: they count as one."""
    return Rate(fmean(red), len(red) // DRAWS) if red else Rate(0, 0)


def together(rates: Iterable[Rate]) -> Rate:
    """Return the rate over several workloads."""
    known = [rate for rate in rates if rate.number]
    number = sum(rate.number for rate in known)
    return (
        Rate(sum(rate.share * rate.number for rate in known) / number, number)
        if number
        else Rate(0, 0)
    )


def rows(trial: Trial) -> dict[str, Gate]:
    """Return each gate: how often it is red for a workload in a state at a level."""
    found: dict[str, Gate] = {}
    for statistic in STATISTICS:
        for limit in LIMITS:
            found[f"raw {statistic} > +{limit} %"] = partial(
                trial.raw, statistic=statistic, limit=limit
            )
    for number in (FEWEST_PROCESSES, PROCESSES):
        for kind, label in KINDS.items():
            found[f"time gate, {number} stored, {label}"] = partial(
                trial.gate, number=number, kind=kind
            )
    return found


def report(processes: Sequence[Process], head: dict[str, Any]) -> bool:
    """Print the tables; return whether the goals are met."""
    print(f"{head['machine']}; injected, in percent of a call's CPU time: {head['added_percent']}")
    for state in STATES:
        numbers = {
            level: sum((one.state, one.level) == (state, level) for one in processes)
            for level in LEVELS
        }
        print(
            f"processes {state}: " + ", ".join(f"{n} at +{level} %" for level, n in numbers.items())
        )
    _spread(processes)
    _seen(processes)
    columns = [(state, level) for level in LEVELS for state in STATES]
    heading = [
        f"+{level} %, {state}" if level else f"unchanged, {state}" for state, level in columns
    ]
    is_met = True
    for title, stored_in in (
        ("stored on the machine as it is", STATES[:1]),
        ("stored in either state", STATES),
    ):
        gates = rows(Trial(processes, stored_in))
        for names in (tuple(BASE), *((name,) for name in BASE)):
            print(f"\n{' and '.join(names)}, {title}; red in percent, with 95 % interval\n")
            print("| gate | " + " | ".join(heading) + " |\n|---|" + "---|" * len(columns))
            for label, gate in gates.items():
                shown = [
                    together(gate(name, state, level) for name in names) for state, level in columns
                ]
                print(f"| {label} | " + " | ".join(map(str, shown)) + " |", flush=True)
        is_met &= _goals(gates, title)
    return is_met


def _goals(gates: dict[str, Gate], title: str) -> bool:
    gate = gates[f"time gate, {PROCESSES} stored, confirmed by a second process"]
    alarms = together(gate(name, state, 0) for name in BASE for state in STATES)
    power = together(gate(name, state, 20) for name in BASE for state in STATES)
    if not alarms.number or not power.number:
        print("\ntoo few processes for the goals")
        return False
    print(f"\n{title}, {PROCESSES} stored, confirmed:")
    goals = (
        ("false alarms", alarms, GOAL_ALARMS, alarms.share <= GOAL_ALARMS),
        ("power at +20 %", power, GOAL_POWER, power.share >= GOAL_POWER),
    )
    for text, rate, goal, is_met in goals:
        low, high = rate.interval
        tail = ", but the interval contains the goal" if is_met and low < goal < high else ""
        print(f"{text} {rate} %, goal {100 * goal:g} %: {'yes' if is_met else 'NO'}{tail}")
    return all(is_met for *_, is_met in goals)


def _spread(processes: Sequence[Process]) -> None:
    """Print by how much unchanged processes differ."""
    print("standard deviation of the logarithm between unchanged processes:")
    for name in BASE:
        parts = []
        for state in STATES:
            those = [one for one in processes if not one.level and one.state == state]
            if len(those) < 2:  # noqa: PLR2004 - of one there is none
                continue
            pooled = [one.samples[name].pooled for one in those]
            values = {
                "raw median": [math.log(one.raw[name]["median"]) for one in those],
                "CPU": [window.cpu for window in pooled],
                "CPU over matched": [window.cpu - window.references[0] for window in pooled],
                "Python calls": [math.log(one.calls[name]) for one in those],
            }
            shown = ", ".join(f"{key} {stdev(found):.4f}" for key, found in values.items())
            parts.append(f"{state}: {shown}")
        print(f"  {name}: " + "; ".join(parts))


def _seen(processes: Sequence[Process]) -> None:
    """Print what the injected work adds in each state, to which it is not calibrated.

    A unit is a loop that stays in the caches; of the rest of a call, a busy machine makes more.
    """
    print("what the injected work adds relative to reference work, median over processes, percent:")
    for name in BASE:
        stored = [one.samples[name] for one in processes if not one.level]
        if len(stored) < FEWEST_PROCESSES:
            continue
        parts = []
        for state in STATES:
            ratio = {}
            for level in LEVELS:
                found = [
                    judge(stored, one.samples[name], FEWEST_PROCESSES).ratio
                    for one in processes
                    if (one.state, one.level) == (state, level)
                ]
                if found:
                    ratio[level] = median(one for one in found if one is not None)
            if 0 in ratio:
                shown = (
                    f"+{level} % is {100 * (ratio[level] / ratio[0] - 1):.1f}"
                    for level in LEVELS[1:]
                    if level in ratio
                )
                parts.append(f"{state}: {', '.join(shown)}")
        print(f"  {name}: " + "; ".join(parts))


def main() -> int:
    """Run the benchmark; the exit status is 1 if a goal is not met."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--samples", type=Path, default=Path("gate-samples.jsonl"), metavar="FILE",
                        help="where samples are kept; an existing file is added to")  # fmt: skip
    parser.add_argument("--minutes", type=float, default=math.inf,
                        help="start no further process after that time")  # fmt: skip
    parser.add_argument(
        "--unchanged", type=int, default=200, help="unchanged processes, in each state (200)"
    )
    parser.add_argument(
        "--changed", type=int, default=40, help="processes of each other condition (40)"
    )
    parser.add_argument("--quick", action="store_true", help="some minutes: 14 and 4 processes")
    parser.add_argument(
        "--report", action="store_true", help="only judge the samples that are there"
    )
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.unchanged, arguments.changed = 14, 4
    if not arguments.report:
        collect(arguments.samples, arguments.unchanged, arguments.changed, arguments.minutes)
    head = json.loads(arguments.samples.read_text(encoding="utf-8").partition("\n")[0])
    processes = read(arguments.samples)
    is_met = report(processes, head)
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
