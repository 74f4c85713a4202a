"""Variants of the same blocks of work, compared round by round with the bare one.

One process runs all variants, told by this one to run a block, the variants in a new random order
each round, and is replaced every few rounds: two processes of the same program differ by a few
percent.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

from estimates import Estimate
from workers import Worker, last_cpu

ROUNDS_PER_PROCESS = 5
CLOCKS = ("cpu", "elapsed")

# The seconds of each round, by clock, variant and case.
Times = Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Attributes:
        script: the worker, which answers ``VARIANT CASE`` with seconds by each of the clocks.
        variants: their labels; the first is called ``bare``.
        cases: kinds of blocks, and their labels.
        libraries: whose versions the numbers depend on.
    """

    script: str
    variants: Mapping[str, str]
    cases: Mapping[str, str]
    libraries: Sequence[str]

    def measure(self, rounds: int) -> Times:
        """Run the blocks."""
        order = list(self.variants)
        times: dict[str, dict[str, dict[str, list[float]]]] = {
            clock: {name: {case: [] for case in self.cases} for name in order} for clock in CLOCKS
        }
        cpu = last_cpu()
        done = 0
        while done < rounds:
            with Worker(sys.executable, self.script, "any", cpu) as worker:
                for _ in range(min(ROUNDS_PER_PROCESS, rounds - done)):
                    for case in self.cases:
                        random.shuffle(order)
                        for name in order:
                            answer = worker.run(f"{name} {case}")
                            for clock, seconds in zip(CLOCKS, answer, strict=True):
                                times[clock][name][case].append(seconds)
                    done += 1
            print(f"\r{done} of {rounds} rounds", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        return times

    def table(self, times: Times, clock: str) -> str:
        """Return the ratios of one clock as text."""
        names = [name for name in self.variants if name != "bare"]
        heading = "".join(f"{self.variants[name]:>24}" for name in names)
        lines = [f"{clock + ' time':<28}{'bare':>10}{heading}"]
        for case, label in self.cases.items():
            bare = 1e6 * median(times[clock]["bare"][case])
            ratios = "".join(f"{shown(compare(times, clock, name, case)):>24}" for name in names)
            lines.append(f"{label:<28}{bare:>7.1f} us{ratios}")
        return "\n".join(lines)

    def data(self, times: Times) -> dict[str, object]:
        """Return the numbers as plain data."""
        return {
            "bare_us": {
                clock: {case: 1e6 * median(times[clock]["bare"][case]) for case in self.cases}
                for clock in CLOCKS
            },
            "ratios": {
                clock: {
                    name: {case: asdict(compare(times, clock, name, case)) for case in self.cases}
                    for name in self.variants
                }
                for clock in CLOCKS
            },
        }


def compare(times: Times, clock: str, name: str, case: str, base: str = "bare") -> Estimate:
    """Return how many times as long as another a variant took, round by round."""
    pairs = zip(times[clock][name][case], times[clock][base][case], strict=True)
    return Estimate.of([a / b for a, b in pairs], ROUNDS_PER_PROCESS)


def shown(ratio: Estimate) -> str:
    """Return a ratio with its interval."""
    return f"x{ratio.median:.3f} [{ratio.low:.3f}-{ratio.high:.3f}]"


def run(
    title: str,
    comparison: Comparison,
    goals: Callable[[Times], Iterable[tuple[str, str]]],
    prepare: Callable[[argparse.ArgumentParser], object] = lambda _: None,
) -> int:
    """Run a benchmark from the command line; the exit status is 1 if a goal is not met.

    Args:
        goals: returns each goal in words, and whether it is met: ``yes`` or ``NO``, how surely.
        prepare: is given the parser, to refuse to go on.
    """
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--rounds", type=int, default=100, help="rounds; five a process (100)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    prepare(parser)
    times = comparison.measure(arguments.rounds)
    libraries = {name: version(name) for name in comparison.libraries}
    named = ", ".join(f"{name} {number}" for name, number in libraries.items())
    print(f"{named}, CPython {sys.version.split()[0]}, {arguments.rounds} rounds")
    print("median of the ratios to bare and its 95 % interval\n")
    for clock in CLOCKS:
        print(comparison.table(times, clock), end="\n\n")
    verdicts = dict(goals(times))
    for line, verdict in verdicts.items():
        print(f"{line}: {verdict}")
    if arguments.json:
        data = {
            "python": sys.version.split()[0],
            **libraries,
            "rounds": arguments.rounds,
            **comparison.data(times),
            "goals": verdicts,
        }
        arguments.json.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    return 0 if all(verdict.startswith("yes") for verdict in verdicts.values()) else 1
