"""What the plugin costs a suite that hardly uses it: each unmeasured test, and the start.

Fresh pytest processes, with and without the plugin, in a new random order each round; the CPU
time of each is compared with that of the process without it in the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median

from estimates import Estimate

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = "pytest_perfguard.plugin"
GOAL_TEST_US = 10.0
GOAL_IMPORT_MS = 5.0

# Notes the CPU time that collecting and running the tests took, without start and end, and
# without the first test, which is the measured one where there is any. What a measured test loads
# is loaded before, so that it is not spread over the others; the sum of the process shows it.
CONFTEST = """
import gc, json, os, time
gc.disable()
import sqlalchemy.orm
from pytest_perfguard import guard, recorder
marks = []
def pytest_collection():
    marks.append(time.process_time())
def pytest_collection_finish():
    marks.append(time.process_time())
def pytest_runtest_logfinish():
    if len(marks) == 2:
        marks.append(time.process_time())
def pytest_sessionfinish(session):
    seconds = (marks[1] - marks[0]) + (time.process_time() - marks[2])
    plugins = session.config.pluginmanager
    found = {"seconds": seconds, "guard": plugins.has_plugin("perfguard-guard")}
    with open(os.environ["RESULT"], "w", encoding="utf-8") as file:
        json.dump(found, file)
"""
FIRST = """
import pytest
@pytest.mark.performance
def test_measured(): pass
"""
IMPORT = f"""
import time
import pytest
started = time.process_time()
import {PLUGIN}
print(time.process_time() - started)
"""

# Options of pytest, and the suite's folder.
VARIANTS = {
    "without the plugin": (("-p", "no:perfguard"), "unmeasured"),
    "without the plugin again (the noise)": (("-p", "no:perfguard"), "unmeasured"),
    "with the plugin": (("-p", PLUGIN), "unmeasured"),
    "with the plugin, one test measured": (("-p", PLUGIN), "measured"),
}
BARE, AGAIN, LOADED, MEASURED = VARIANTS


def write_suites(directory: Path, number: int) -> None:
    """Write the suites: equal but for the mark of their first test, and one of a single test."""
    tests = "".join(f"def test_{n}(): pass\n" for n in range(number))
    sources = {
        "unmeasured": FIRST.replace("@pytest.mark.performance", "") + tests,
        "measured": FIRST + tests,
        "single": "def test_it(): pass\n",
    }
    for name, source in sources.items():
        suite = directory / name
        suite.mkdir()
        suite.joinpath("pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        suite.joinpath("test_suite.py").write_text(source, encoding="utf-8")
        if name != "single":
            suite.joinpath("conftest.py").write_text(CONFTEST, encoding="utf-8")


def run(directory: Path, suite: str, options: Sequence[str]) -> float:
    """Run pytest on a suite and return the CPU seconds of the process."""
    started = _children()
    subprocess.run(  # noqa: S603 - our own suite
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options],
        check=True,
        cwd=directory / suite,
        stdout=subprocess.DEVNULL,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTEST_ADDOPTS": "",
            "RESULT": str(directory / "result.json"),
        },
    )
    return _children() - started


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_tests(directory: Path, variant: str) -> float:
    """Run a large suite and return the CPU seconds of its tests."""
    options, suite = VARIANTS[variant]
    run(directory, suite, options)
    found = json.loads((directory / "result.json").read_text(encoding="utf-8"))
    if found["guard"] is not (variant == MEASURED):
        raise SystemExit(f"{variant!r}: measuring was expected to be {variant == MEASURED}")
    seconds: float = found["seconds"]
    return seconds


def suites(directory: Path, rounds: int) -> dict[str, list[float]]:
    """Return the CPU seconds of the tests, by variant and round."""
    order = list(VARIANTS)
    times: dict[str, list[float]] = {name: [] for name in order}
    for done in range(rounds):
        random.shuffle(order)
        for name in order:
            times[name].append(run_tests(directory, name))
        print(f"\r{done + 1} of {rounds} rounds", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return times


def starts(directory: Path, rounds: int) -> dict[str, list[float]]:
    """Return the CPU seconds of a pytest with a single test, by variant and round."""
    order = [BARE, AGAIN, LOADED]
    times: dict[str, list[float]] = {name: [] for name in order}
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            times[name].append(run(directory, "single", VARIANTS[name][0]))
    return times


def imports(rounds: int) -> list[float]:
    """Return the CPU seconds of importing the plugin into a process that has pytest."""
    command = [sys.executable, "-c", IMPORT]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return [
        float(subprocess.run(command, check=True, capture_output=True, env=env).stdout)  # noqa: S603
        for _ in range(rounds)
    ]


def differences(times: Mapping[str, Sequence[float]], scale: float) -> dict[str, Estimate]:
    """Return what the rounds took longer than those without the plugin, scaled."""
    return {
        name: Estimate.of([scale * (a - b) for a, b in zip(values, times[BARE], strict=True)])
        for name, values in times.items()
        if name != BARE
    }


def _shown(found: Estimate) -> str:
    return f"{found.median:8.2f} [{found.low:.2f} to {found.high:.2f}]"


def main() -> int:
    """Run the benchmark; the exit status is 1 if a goal is not met."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=20, help="rounds (20)")
    parser.add_argument("--tests", type=int, default=2_000, help="tests in the suite (2000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # processes inherit it
    with tempfile.TemporaryDirectory(prefix="perfguard-suite-") as name:
        directory = Path(name)
        write_suites(directory, arguments.tests)
        imports(1)  # writes the byte code
        loading = Estimate.of([1e3 * seconds for seconds in imports(2 * arguments.rounds)])
        starting = starts(directory, 2 * arguments.rounds)
        testing = suites(directory, arguments.rounds)
    per_test = differences(testing, 1e6 / arguments.tests)
    per_start = differences(starting, 1e3)
    print(
        f"CPython {sys.version.split()[0]}; CPU time, median of the rounds and its 95 % interval\n"
    )
    print(f"each of {arguments.tests:,} empty tests, microseconds", end="")
    print(f" (without the plugin: {1e6 * median(testing[BARE]) / arguments.tests:.0f})")
    for variant, found in per_test.items():
        print(f"  {variant:<38} {_shown(found)}")
    print("start and end of pytest with one test, milliseconds", end="")
    print(f" (without the plugin: {1e3 * median(starting[BARE]):.0f})")
    for variant, found in per_start.items():
        print(f"  {variant:<38} {_shown(found)}")
    print("import of the plugin after pytest, milliseconds")
    print(f"  {PLUGIN:<38} {_shown(loading)}\n")
    goals = {
        f"unmeasured test: goal {GOAL_TEST_US:g} us": per_test[LOADED].verdict(GOAL_TEST_US),
        f"the same beside a measured one: goal {GOAL_TEST_US:g} us": per_test[MEASURED].verdict(
            GOAL_TEST_US
        ),
        f"import: goal {GOAL_IMPORT_MS:g} ms": loading.verdict(GOAL_IMPORT_MS),
    }
    for line, verdict in goals.items():
        print(f"{line}: {verdict}")
    if arguments.json:
        data = {
            "test_us": {name: asdict(found) for name, found in per_test.items()},
            "start_ms": {name: asdict(found) for name, found in per_start.items()},
            "import_ms": asdict(loading),
            "goals": goals,
        }
        arguments.json.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    return 0 if all(verdict.startswith("yes") for verdict in goals.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
