"""What recording costs for each task that runs at once, against the bare call.

One process runs all variants, in a new random order each round; each block is divided by what the
bare calls took in the same round. The task itself does nothing, so all of it is Celery's and ours.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import process_time

import celery
from estimates import Estimate

from pytest_perfguard import Recorder

CALLS = 200
WARM_UP = 3
# Of a task that does nothing: the most unfavourable there is.
GOAL = 2.5
ROUNDS_PER_BATCH = 5
VARIANTS = {
    "bare": "bare",
    "bare-again": "bare again (the noise)",
    "perfguard-idle": "no span open",
    "perfguard": "recording",
}


def _nothing() -> None:
    """Do nothing."""


APP = celery.Celery("benchmark", broker="memory://", set_as_current=False)
TASK = APP.task(name="benchmark.nothing")(_nothing)


def _block() -> float:
    """Return the CPU seconds of one call."""
    gc.collect()
    started = process_time()
    for _ in range(CALLS):
        TASK.apply()
    return (process_time() - started) / CALLS


def run(recorder: Recorder, variant: str) -> float:
    """Run one block under a variant; return the CPU seconds of one call."""
    if variant.startswith("bare"):
        recorder.stop()
        return _block()
    recorder.start()
    if variant == "perfguard-idle":
        return _block()
    with recorder.measure("block") as measured:
        seconds = _block()
    if measured["task_runs"] != CALLS:
        raise SystemExit(f"{measured['task_runs']} of {CALLS} calls were seen")
    return seconds


def main() -> int:
    """Run the benchmark; the exit status is 1 if the goal is not met."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=100, help="rounds (100)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    recorder = Recorder()
    order = list(VARIANTS)
    times: dict[str, list[float]] = {name: [] for name in order}
    for number in range(-WARM_UP, arguments.rounds):
        random.shuffle(order)
        for name in order:
            seconds = run(recorder, name)
            if number >= 0:
                times[name].append(seconds)
    recorder.stop()
    ratios = {
        name: Estimate.of(
            [a / b for a, b in zip(times[name], times["bare"], strict=True)], ROUNDS_PER_BATCH
        )
        for name in VARIANTS
        if name != "bare"
    }
    print(
        f"celery {version('celery')}, CPython {sys.version.split()[0]}, {arguments.rounds} rounds"
    )
    print(f"an eager task, bare: {1e6 * median(times['bare']):.1f} us of CPU time")
    for name, found in ratios.items():
        print(f"{VARIANTS[name]:<24} x{found.median:.3f} [{found.low:.3f}-{found.high:.3f}]")
    verdict = ratios["perfguard"].verdict(GOAL)
    print(f"goal x{GOAL:.2f}: {verdict}")
    if arguments.json:
        data = {
            "celery": version("celery"),
            "python": sys.version.split()[0],
            "rounds": arguments.rounds,
            "bare_us": 1e6 * median(times["bare"]),
            "ratios": {name: asdict(found) for name, found in ratios.items()},
            "goal": verdict,
        }
        arguments.json.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    return 0 if verdict.startswith("yes") else 1


if __name__ == "__main__":
    sys.exit(main())
