"""Switches the traps on, one by one or together, and prints what the suite says of each.

``python -m sample_app.tests.traps`` runs the test that each trap must turn red and prints a table:
trap, test, metric, line, and the first line of advice. With ``--together`` all traps are on at
once; with ``--baselines`` nothing but what the tests cost before is there to judge them by. Names
choose some of the traps.

It ends with 1 if a trap leaves its test green or another line is named than the one to blame.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pytest_perfguard import read_run
from pytest_perfguard.errors import RunFileError
from pytest_perfguard.model import Record, Rule
from pytest_perfguard.reports.evidence import failure, table
from sample_app.core.traps import KNOWN
from sample_app.tests.catches import APART, CATCHES, ROOT, SUITE, Raised, node_id, place_of

_BLANKS = re.compile(" +")
_SERVERS = ("SAMPLE_APP_TEST_DATABASE_URL", "SAMPLE_APP_TEST_REDIS_URL")


@dataclass(frozen=True, slots=True)
class Caught:
    """What was seen of a trap: a row of the table, and what is wrong with it."""

    trap: str
    test: str
    metric: str = ""
    line: str = ""
    advice: str = ""
    wrong: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """What stands in the table."""
        return (self.trap, self.test, self.metric, self.line, self.advice)


# Those that change no count: a budget on time or memory sees them, a baseline of counts cannot; and
# those that only a load shows.
UNCOUNTED = (
    "mean_hides_outlier", "leaking_dict", "sleep_in_loop", "locust_without_id", "one_at_a_time",
    "retry_at_once", "slow_checksum",
)  # fmt: skip
COUNTED = tuple(trap for trap in KNOWN if trap not in UNCOUNTED)


class BrokenSuiteError(Exception):
    """The suite could not be run."""


@dataclass(frozen=True, slots=True)
class Ran:
    """A session with traps: what it printed, and what it measured."""

    text: str
    records: tuple[Record, ...]

    def section(self, test: str) -> str:
        """Return what is said of the failure of a test; nothing if it has not failed."""
        name = ".".join(node_id(test).split("::")[1:])
        return self.text.partition(f"_ {name} _")[2].partition("\n____")[0]


def run_tests(traps: Iterable[str], tests: Iterable[str], *options: str) -> Ran:
    """Run tests of the suite with traps switched on; one process, SQLite, the cache in it.

    Raises:
        BrokenSuiteError: if it has no result.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "run.json")
        command = [
            sys.executable, "-m", "pytest", *map(node_id, tests), "-q", "-p", "no:cacheprovider",
            f"--perfguard-json={file}", *options,
        ]  # fmt: skip
        done = subprocess.run(  # noqa: S603 - this Python and this suite
            command,
            cwd=ROOT,
            env=_environment(traps),
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
    return Ran(done.stdout + done.stderr, records)


def _environment(traps: Iterable[str]) -> Mapping[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PYTEST") and name not in _SERVERS
    }
    told = {"SAMPLE_APP_TRAPS": ",".join(traps), "PYTHONIOENCODING": "utf-8", "COLUMNS": "200"}
    return kept | told


# -- by budgets, and by what the service asserts of itself ---------------------------------


def check(trap: str, ran: Ran) -> Caught:
    """Return what a session says of a trap, compared with what it must say."""
    seen = CATCHES[trap]
    section = ran.section(seen.test)
    if not section:
        return Caught(trap, "STAYS GREEN", wrong=f"{seen.test} should be red")
    place = place_of(seen)
    if isinstance(seen, Raised):
        advice = _first(section.splitlines(), "E ").strip().partition(" (Background")[0]
        blamed = f"\n{place}: " in section
        return Caught(trap, seen.test, "-", place, advice, "" if blamed else _unnamed(place))
    metric = seen.breach.split()[0]
    lines = [_BLANKS.sub(" ", line) for line in section.splitlines()]
    breach = _first(lines, f" {metric} ").partition(" perf")[0]
    blamed = not place or any(re.match(rf" at {re.escape(place)}\b", line) for line in lines)
    advised = any(line.startswith(f" {seen.advice.splitlines()[0]}") for line in lines)
    wrong = ""
    if not breach:
        wrong = f"{metric} is not named"
    elif not blamed:
        wrong = _unnamed(place)
    elif not advised:
        wrong = f"the advice is another one than {seen.advice!r}"
    told = seen.advice.splitlines()[0].removeprefix("fix: ")
    return Caught(trap, seen.test, f"{metric} {breach}", place or "-", told, wrong)


def _unnamed(place: str) -> str:
    return f"{place} is not named"


def each_alone(traps: Sequence[str]) -> list[Caught]:
    """Run the test of each trap with this one switched on."""

    def tried(trap: str) -> Caught:
        seen = CATCHES[trap]
        return check(trap, run_tests([trap], [seen.test], "--perfguard-baseline=off"))

    loads = [trap for trap in traps if APART.get(trap, ("", ""))[0] == "load"]
    # Others wait for processes; a load is to be alone.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        others = [trap for trap in traps if trap not in loads]
        found = dict(zip(others, pool.map(tried, others), strict=True))
    found |= {trap: tried(trap) for trap in loads}
    return [found[trap] for trap in traps]


def all_together(traps: Sequence[str]) -> list[Caught]:
    """Run the tests of all traps with all of them on, in as few sessions as :data:`APART` needs."""
    sessions: dict[str, list[str]] = {}
    for trap in traps:
        session, _ = APART.get(trap, ("first", ""))
        sessions.setdefault(session, []).append(trap)
    found: dict[str, Caught] = {}
    for group in sessions.values():
        tests = dict.fromkeys(CATCHES[trap].test for trap in group)
        ran = run_tests(group, tests, "--perfguard-baseline=off")
        found |= {trap: check(trap, ran) for trap in group}
    return [found[trap] for trap in traps]


# -- by baselines alone --------------------------------------------------------------------


def run_suite(trap: str) -> tuple[Record, ...]:
    """Run the suite with a trap, or with none, budgets off, until a test fails."""
    traps = [trap] if trap else []
    return run_tests(traps, [""], "-x", "--perfguard-level=budgets: warn").records


def by_baselines(traps: Sequence[str]) -> list[Caught]:
    """Run the suite with each trap.

    Raises:
        BrokenSuiteError: if it is red without any.
    """
    if red := caught("no trap", run_suite("")):
        raise BrokenSuiteError(f"red without any trap: {' '.join(red.cells)}")
    return [caught(trap, run_suite(trap)) or _green(trap) for trap in traps]


def _green(trap: str) -> Caught:
    return Caught(trap, "STAYS GREEN", wrong="no test of the suite is red")


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


def main(arguments: Sequence[str]) -> int:
    """Try the traps and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m sample_app.tests.traps")
    parser.add_argument("traps", nargs="*", metavar="TRAP", help="which ones (default: all)")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--together", action="store_true", help="all of them at once")
    way.add_argument("--baselines", action="store_true", help="judged by their baselines alone")
    options = parser.parse_args(arguments)
    if unknown := set(options.traps) - set(KNOWN):
        parser.error(f"unknown trap {min(unknown)!r}; known: {', '.join(KNOWN)}")
    try:
        if options.baselines:
            rows = by_baselines(options.traps or COUNTED)
        elif options.together:
            rows = all_together(options.traps or [*KNOWN])
        else:
            rows = each_alone(options.traps or [*KNOWN])
    except BrokenSuiteError as error:
        print(error, file=sys.stderr)
        return 1
    cells = [("trap", "test that goes red", "metric", "line", "advice"), *(r.cells for r in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        padded = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        print("  ".join(padded).rstrip())
    wrong = [f"{row.trap}: {row.wrong}" for row in rows if row.wrong]
    print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
