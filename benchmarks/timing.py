"""What ``perf.http`` adds to the rounds that it times, and how well its medians repeat.

The endpoint keeps the processor busy for about 3 ms. It is called by FastAPI's TestClient, and by
httpx's AsyncClient in the application's event loop.

Overhead: within one process, blocks of a bare loop and of ``perf.http`` take turns. The endpoint
itself notes when it is entered: from one entry to the next is a whole round, whoever makes it.
What ``perf.http`` reports for a round is compared with the same bare loop.

Spread: fresh processes, those of ``perf.http`` and of pytest-benchmark in a new random order each
round; how far are the medians apart that the processes of one of them report?
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from estimates import Estimate
from timing_worker import BLOCK_ROUNDS, BLOCKS, ROUNDS, work

HERE = Path(__file__).resolve().parent
SECONDS = 0.003
GOAL = 1.02
CLIENTS = {"sync": "TestClient", "async": "AsyncClient in the event loop"}
OWN, PEER = "perf.http", "pytest-benchmark, as many rounds"
# The test that times with each, and the plugin that it needs.
TIMERS = {
    OWN: ("test_http", "pytest_perfguard.plugin"),
    PEER: ("test_pedantic", "pytest_benchmark.plugin"),
    "pytest-benchmark, its defaults": ("test_default", "pytest_benchmark.plugin"),
}
RESAMPLES = 4_000
FEWEST = 4

# By client and timer, what each process reported.
Medians = Mapping[str, Mapping[str, Sequence[float]]]
# By client, what each process found in each of its blocks: seconds, by variant and clock.
Blocks = Mapping[str, Sequence[Sequence[Mapping[str, Mapping[str, float]]]]]


def run(test: str, client: str, plugin: str, repetitions: int) -> Any:
    """Run one test in a pytest of its own, and return what it found."""
    with tempfile.TemporaryDirectory(prefix="perfguard-timing-") as directory:
        result = Path(directory, "result.json")
        done = subprocess.run(  # noqa: S603 - our own test
            [
                *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
                *("-c", os.devnull, f"--rootdir={HERE}", "-p", plugin),
                f"{HERE / 'timing_worker.py'}::{test}[{client}]",
            ],
            check=False,
            capture_output=True,
            encoding="utf-8",
            cwd=directory,
            env={
                **os.environ,
                "PYTHONPATH": str(HERE.parent),
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
                "PYTEST_ADDOPTS": "",
                "RESULT": str(result),
                "WORK": str(repetitions),
            },
        )
        if done.returncode:
            raise SystemExit(f"{test}[{client}] failed:\n{done.stdout}{done.stderr}")
        return json.loads(result.read_text(encoding="utf-8"))


def calibrate() -> int:
    """Return how often the endpoint has to work for its 3 ms; the same for all processes."""
    return max(1, round(SECONDS / min(timeit.repeat(work, number=10, repeat=50)) * 10))


def measure(processes: int, repetitions: int) -> tuple[Blocks, Medians]:
    """Run everything, in a new random order each time."""
    blocks: dict[str, list[Any]] = {client: [] for client in CLIENTS}
    medians: dict[str, dict[str, list[float]]] = {
        client: {timer: [] for timer in TIMERS} for client in CLIENTS
    }
    order = [(client, timer) for client in CLIENTS for timer in (None, *TIMERS)]
    for done in range(processes):
        random.shuffle(order)
        for client, timer in order:
            if timer is None:
                found = run("test_overhead", client, "pytest_perfguard.plugin", repetitions)
                blocks[client].append(found)
            else:
                medians[client][timer].append(run(*_job(timer, client), repetitions))
        print(f"\r{done + 1} of {processes} rounds", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return blocks, medians


def _job(timer: str, client: str) -> tuple[str, str, str]:
    test, plugin = TIMERS[timer]
    return test, client, plugin


def overhead(blocks: Sequence[Sequence[Mapping[str, Mapping[str, float]]]]) -> dict[str, Estimate]:
    """Compare every variant with the bare loop, block by block."""

    def ratio(kind: str, clock: str, bare: str) -> Estimate:
        ratios = [block[kind][clock] / block["bare"][bare] for part in blocks for block in part]
        return Estimate.of(ratios, BLOCKS)

    return {
        "bare loop again (the noise)": ratio("again", "median", "median"),
        "perf.http, a whole round": ratio("rounds", "median", "median"),
        "perf.http, what it reports": ratio("rounds", "reported", "median"),
        "perf.http, a round / what it reports": Estimate.of(
            [
                block["rounds"]["median"] / block["rounds"]["reported"]
                for part in blocks
                for block in part
            ],
            BLOCKS,
        ),
        "bare loop again, CPU time": ratio("again", "cpu", "cpu"),
        "perf.http, a whole round, CPU time": ratio("rounds", "cpu", "cpu"),
    }


def spread(values: Sequence[float]) -> float:
    """Return the robust standard deviation of the logarithms: 0.01 is about one percent."""
    logs = [math.log(value) for value in values]
    middle = median(logs)
    # The factor makes it what stdev() is where the values are distributed normally.
    return 1.4826 * median(abs(value - middle) for value in logs)


def bootstrap(number: int, statistic: Callable[[Sequence[int]], float]) -> Estimate:
    """Estimate a statistic of so many processes, given by their numbers, from resamples."""
    chance = random.Random(0)  # noqa: S311 - the same interval for the same values
    found = sorted(statistic(chance.choices(range(number), k=number)) for _ in range(RESAMPLES))
    low, high = found[int(0.025 * RESAMPLES)], found[int(0.975 * RESAMPLES)]
    return Estimate(statistic(range(number)), low, high)


def spread_of(values: Sequence[float]) -> Estimate:
    """Estimate the spread of medians."""
    return bootstrap(len(values), lambda chosen: spread([values[n] for n in chosen]))


def compare(values: Sequence[float], others: Sequence[float]) -> Estimate:
    """Estimate how many times as wide one spread is as another.

    The processes of one round ran one after the other, so they are drawn together.
    """

    def ratio(chosen: Sequence[int]) -> float:
        other = spread([others[n] for n in chosen])
        return spread([values[n] for n in chosen]) / other if other else math.inf

    return bootstrap(len(values), ratio)


def _verdict(ratio: Estimate) -> str:
    """Say whether a spread is wider than another, where its interval can tell."""
    if ratio.low > 1:
        return "NO"
    return "yes" if ratio.high <= 1 else "cannot tell, the interval contains 1"


def goals(costs: Mapping[str, Mapping[str, Estimate]], medians: Medians) -> dict[str, str]:
    """Return each goal in words, and whether it is met."""
    found = {}
    for client in CLIENTS:
        cost = costs[client]["perf.http, a whole round"]
        found[f"{client}: a whole round at most x{GOAL} of a bare one"] = cost.verdict(GOAL)
        ratio = compare(medians[client][OWN], medians[client][PEER])
        shown = f"x{ratio.median:.2f} [{ratio.low:.2f}-{ratio.high:.2f}]"
        found[f"{client}: spread no wider than {PEER}: {shown}"] = _verdict(ratio)
    return found


def report(blocks: Blocks, costs: Mapping[str, Mapping[str, Estimate]], medians: Medians) -> None:
    """Print the tables."""
    for client, label in CLIENTS.items():
        bare = median(block["bare"]["median"] for part in blocks[client] for block in part)
        print(f"{label}: a bare round takes {1e3 * bare:.2f} ms")
        for variant, found in costs[client].items():
            print(f"  {variant:<38} x{found.median:.4f} [{found.low:.4f}-{found.high:.4f}]")
        print(f"  {'spread of the medians':<38} {'middle':>8}  max-min  robust sd")
        for timer, values in medians[client].items():
            middle, found = median(values), spread_of(values)
            width = (max(values) - min(values)) / middle
            print(
                f"  {timer:<38} {1e3 * middle:5.2f} ms  {width:7.2%}  "
                f"{found.median:.2%} [{found.low:.2%}-{found.high:.2%}]"
            )
        print()


def main() -> int:
    """Run the benchmark; the exit status is 1 if a goal is not met."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--processes", type=int, default=10, help="processes of each kind (10)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    arguments = parser.parse_args()
    if arguments.processes < FEWEST:
        parser.error(f"--processes must be at least {FEWEST}: fewer tell nothing of a spread")
    repetitions = calibrate()
    load = os.getloadavg()[0]
    blocks, medians = measure(arguments.processes, repetitions)
    costs = {client: overhead(parts) for client, parts in blocks.items()}
    print(
        f"CPython {sys.version.split()[0]}, pytest-benchmark {version('pytest-benchmark')}, "
        f"{arguments.processes} processes of each kind, load {load:.1f} before"
    )
    print(
        f"overhead: blocks of {BLOCK_ROUNDS} rounds, ratio to the bare loop and its 95 % interval; "
        f"spread: medians of {ROUNDS} rounds\n"
    )
    report(blocks, costs, medians)
    judged = goals(costs, medians)
    for line, verdict in judged.items():
        print(f"{line}: {verdict}")
    if arguments.json:
        data = {
            "load": load,
            "costs": {
                client: {name: asdict(found) for name, found in cost.items()}
                for client, cost in costs.items()
            },
            "medians": medians,
            "goals": judged,
        }
        arguments.json.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    return 1 if any(verdict.startswith("NO") for verdict in judged.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
