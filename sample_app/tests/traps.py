"""Runs the performance suite with each trap, judged by its baselines alone, and prints a table.

``python -m sample_app.tests.traps`` tries all traps that change a count, or those that are named.
Budgets only warn meanwhile. It ends with 1 if a trap leaves the suite green, or if the suite is
red without any.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from pytest_perfguard import read_run
from pytest_perfguard.errors import RunFileError
from pytest_perfguard.model import Record, Rule
from pytest_perfguard.reports.evidence import failure, table
from sample_app.core.traps import KNOWN

ROOT = Path(__file__).parents[2]
SUITE = "sample_app/tests/performance"


@dataclass(frozen=True, slots=True)
class Caught:
    """What was seen of a trap: cells of a row of the table."""

    trap: str
    test: str
    metric: str = ""
    line: str = ""
    advice: str = ""


# Those that change no count: a budget on time or memory sees them, a baseline of counts cannot.
UNCOUNTED = ("mean_hides_outlier", "leaking_dict", "sleep_in_loop")
COUNTED = tuple(trap for trap in KNOWN if trap not in UNCOUNTED)


class BrokenSuiteError(Exception):
    """The suite could not be run."""


def run_suite(trap: str, *options: str) -> tuple[Record, ...]:
    """Run the suite with a trap, budgets off, until a test fails.

    Raises:
        BrokenSuiteError: if it has no result.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "run.json")
        command = [
            sys.executable, "-m", "pytest", SUITE, "-q", "-x", "-p", "no:cacheprovider",
            "--perfguard-level=budgets: warn", f"--perfguard-json={file}", *options,
        ]  # fmt: skip
        done = subprocess.run(  # noqa: S603 - this Python and this suite
            command,
            cwd=ROOT,
            env=_environment(trap),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        try:
            records = read_run(file).records
        except RunFileError:
            records = ()
    if not records:
        raise BrokenSuiteError(f"the suite cannot be run:\n{done.stdout}{done.stderr}")
    return records


def _environment(trap: str) -> Mapping[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return {**kept, "SAMPLE_APP_TRAPS": trap, "PYTHONIOENCODING": "utf-8"}


def caught(trap: str, records: Iterable[Record]) -> Caught | None:
    """Return what baselines say of a trap; None if no test is red."""
    for record in records:
        if record.outcome != "failed":
            continue
        test = record.nodeid.removeprefix(f"{SUITE}/")
        breaches = [v for v in record.breaches if v.rule is Rule.BASELINE]
        if not breaches:
            return Caught(trap, test, "-", "-", "the test fails by itself")
        first, *_ = table(breaches[:1])
        metric = " ".join(first.partition("   ")[0].split()) or first.strip()
        shown = failure(record).splitlines()
        return Caught(
            trap,
            test,
            metric,
            _first(shown, "    at ") or "-",
            _first(shown, "    fix: ") or _first(shown, "    +") or "-",
        )
    return None


def _first(lines: Iterable[str], start: str) -> str:
    return next((line.removeprefix(start) for line in lines if line.startswith(start)), "")


def main(names: Sequence[str]) -> int:
    """Try the traps and return the exit code."""
    if unknown := set(names) - set(KNOWN):
        print(f"unknown trap {min(unknown)!r}; known: {', '.join(KNOWN)}", file=sys.stderr)
        return 2
    try:
        red = caught("no trap", run_suite(""))
        found = {} if red else {trap: caught(trap, run_suite(trap)) for trap in names or COUNTED}
    except BrokenSuiteError as error:
        print(error, file=sys.stderr)
        return 1
    if red:
        print(f"red without any trap: {' '.join(astuple(red))}", file=sys.stderr)
        return 1
    rows = [Caught("trap", "test that goes red", "metric", "line", "advice")]
    rows += [row or Caught(trap, "STAYS GREEN") for trap, row in found.items()]
    widths = [max(map(len, column)) for column in zip(*map(astuple, rows), strict=True)]
    for row in rows:
        cells = zip(astuple(row), widths, strict=True)
        print("  ".join(f"{cell:<{width}}" for cell, width in cells).rstrip())
    return 0 if all(found.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
