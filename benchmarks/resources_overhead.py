"""What it costs a test to be measured, and to have its memory and its event loop looked at.

One process runs all variants, told by this one to run a block of calls or of requests, the variants
in a new random order each round; each block is divided by what the bare block took in the same
round, and for the goals by what it took with the other probes only. Two processes of the same
program differ by a few percent, which is why no ratio is taken across them, and why the process is
replaced every few rounds.

CPU time is what the process worked, the threads that look included. Elapsed time is what the code
feels, which shares its processor and Python's lock with them.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import NamedTuple

from estimates import Estimate
from workers import Worker, last_cpu

ROUNDS_PER_PROCESS = 5
CLOCKS = ("cpu", "elapsed")
VARIANTS = {
    "bare": "bare",
    "bare-again": "bare again (the noise)",
    "others": "other probes only",
    "listening": "listening, not asked",
    "memory": "memory looked at",
    "loop": "event loop watched",
}


class Case(NamedTuple):
    """One kind of block, and the CPU time it may take, as a ratio to the other probes only."""

    label: str
    goals: Mapping[str, float]


CASES = {
    "compute": Case("a function that computes", {"listening": 1.02, "memory": 1.05, "loop": 1.05}),
    # Each request is a span of its own, which is what listening costs.
    "request": Case("a request, ASGITransport", {"listening": 1.1, "memory": 1.15, "loop": 1.15}),
}

# The seconds of each round, by clock, variant and case.
Times = Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]


def measure(rounds: int) -> Times:
    """Run the blocks."""
    order = list(VARIANTS)
    times: dict[str, dict[str, dict[str, list[float]]]] = {
        clock: {name: {case: [] for case in CASES} for name in order} for clock in CLOCKS
    }
    cpu = last_cpu()
    done = 0
    while done < rounds:
        with Worker(sys.executable, "resources_worker.py", "any", cpu) as worker:
            for _ in range(min(ROUNDS_PER_PROCESS, rounds - done)):
                for case in CASES:
                    random.shuffle(order)
                    for name in order:
                        answer = worker.run(f"{name} {case}")
                        for clock, seconds in zip(CLOCKS, answer, strict=True):
                            times[clock][name][case].append(seconds)
                done += 1
        print(f"\r{done} of {rounds} rounds", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return times


def compare(times: Times, clock: str, name: str, case: str, base: str = "bare") -> Estimate:
    """Return how many times as long as another a variant took, round by round."""
    pairs = zip(times[clock][name][case], times[clock][base][case], strict=True)
    return Estimate.of([a / b for a, b in pairs], ROUNDS_PER_PROCESS)


def table(times: Times, clock: str) -> str:
    """Return the ratios of one clock as text."""
    names = [name for name in VARIANTS if name != "bare"]
    heading = "".join(f"{VARIANTS[name]:>24}" for name in names)
    lines = [f"{clock + ' time':<28}{'bare':>10}{heading}"]
    for case, (label, _) in CASES.items():
        bare = 1e6 * median(times[clock]["bare"][case])
        ratios = "".join(f"{_ratio(compare(times, clock, name, case)):>24}" for name in names)
        lines.append(f"{label:<28}{bare:>7.0f} us{ratios}")
    return "\n".join(lines)


def _ratio(found: Estimate) -> str:
    return f"x{found.median:.3f} [{found.low:.3f}-{found.high:.3f}]"


def verdicts(times: Times) -> dict[str, str]:
    """Return each goal in words, and whether it is met: ``yes`` or ``NO``, and how surely."""
    found = {}
    for case, (label, goals) in CASES.items():
        for name, goal in goals.items():
            ratio = compare(times, "cpu", name, case, "others")
            line = f"{label}, {VARIANTS[name]}: {_ratio(ratio)} of {VARIANTS['others']}"
            line += f", CPU time, goal x{goal:.2f}"
            found[line] = ratio.verdict(goal)
    return found


def main() -> int:
    """Run the benchmark; the exit status is 1 if a goal is not met."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=100, help="rounds; five a process (100)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    times = measure(arguments.rounds)
    libraries = {name: version(name) for name in ("psutil", "httpx", "starlette")}
    shown = ", ".join(f"{name} {number}" for name, number in libraries.items())
    print(f"{shown}, CPython {sys.version.split()[0]}, {arguments.rounds} rounds")
    print("median of the ratios to bare and its 95 % interval\n")
    for clock in CLOCKS:
        print(table(times, clock), end="\n\n")
    goals = verdicts(times)
    for line, verdict in goals.items():
        print(f"{line}: {verdict}")
    if arguments.json:
        data = {
            "python": sys.version.split()[0],
            **libraries,
            "rounds": arguments.rounds,
            "bare_us": {
                clock: {case: 1e6 * median(times[clock]["bare"][case]) for case in CASES}
                for clock in CLOCKS
            },
            "ratios": {
                clock: {
                    name: {case: asdict(compare(times, clock, name, case)) for case in CASES}
                    for name in VARIANTS
                }
                for clock in CLOCKS
            },
            "goals": goals,
        }
        arguments.json.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    return 0 if all(verdict.startswith("yes") for verdict in goals.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
