"""``perfguard ab`` on the sample service: a branch with each trap against the one without.

A temporary repository holds the service. A branch for each trap switches it on by default; one more
changes nothing but comments, and must be the same in everything. Prints a table, and exits with 1
if a trap is not told or the comments are.

What is compared is the file of tests that the trap must be seen in, the one test of a trap that
hides others or has them wait, and all of the suite for the comments.

    python benchmarks/ab_traps.py                        # all: twenty minutes
    python benchmarks/ab_traps.py lazy_owner comments    # some
    python benchmarks/ab_traps.py --whole lazy_owner     # by the whole suite
    python benchmarks/ab_traps.py --counts lazy_owner    # without what is timed
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from pytest_perfguard.ab import Wish, compare_revisions
from pytest_perfguard.ab_results import Compared, Comparison
from pytest_perfguard.errors import PerfguardError
from pytest_perfguard.reports.ab_text import explained, text, worse
from sample_app.core.traps import KNOWN
from sample_app.tests.catches import APART, CATCHES, SUITE, node_id, place_of

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "sample_app/core/config.py"
DEFAULT = "BeforeValidator(_traps)] = Traps()"
COMMENTS = "comments"
# Those of the tests themselves: head's are run on both sides.
OF_TESTS = ("locust_without_id",)
# Verdicts of a trap that has not been found.
NOT_TOLD = ("same", "not compared", "undecided", "flaky")


@dataclass(frozen=True, slots=True)
class Row:
    """What was told of a branch."""

    branch: str
    verdict: str
    test: str = ""
    what: str = ""
    cause: str = ""
    line: str = ""
    seconds: str = ""


def git(folder: Path, *arguments: str) -> None:
    """Run git as somebody."""
    somebody = ("-c", "user.name=somebody", "-c", "user.email=somebody@localhost")
    command = ["git", "-C", str(folder), *somebody, *arguments]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603


def make_repository(folder: Path, branches: Sequence[str]) -> None:
    """Make a repository of the service, with a branch for each trap."""
    shutil.copytree(
        ROOT / "sample_app", folder / "sample_app", ignore=shutil.ignore_patterns("__pycache__")
    )
    settings = ROOT.joinpath("pyproject.toml").read_text("utf-8")
    own = settings[settings.index("[tool.pytest]") : settings.index("[tool.coverage")]
    folder.joinpath("pyproject.toml").write_text(own, "utf-8")
    folder.joinpath(".gitignore").write_text("__pycache__\n", "utf-8")
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "The service")
    config = folder / CONFIG
    for branch in branches:
        git(folder, "checkout", "-q", "-b", branch, "main")
        if branch == COMMENTS:
            for module in folder.joinpath("sample_app").rglob("*.py"):
                if "tests" not in module.parts and "versions" not in module.parts:
                    with module.open("a", encoding="utf-8") as file:
                        file.write("# A comment.\n")
        else:
            source = config.read_text("utf-8")
            if DEFAULT not in source:
                raise SystemExit(f"{CONFIG} has no line with {DEFAULT!r} any more")
            switched = DEFAULT.replace("Traps()", f'Traps.of(["{branch}"])')
            config.write_text(source.replace(DEFAULT, switched), "utf-8")
        git(folder, "commit", "-qam", branch)
    git(folder, "checkout", "-q", "main")


def told(branch: str, comparison: Comparison) -> Row:
    """Return what was told of a branch: the test that it must be seen in, or its worst one."""
    wanted = node_id(CATCHES[branch].test) if branch in CATCHES else ""
    compared = sorted(comparison.compared, key=lambda test: test.nodeid != wanted)
    worst = next((t for t in compared if t.fails), None)
    if worst is not None:
        return Row(branch, " and ".join(worse(worst)), _name(worst.nodeid), *_cause(worst))
    for each in sorted(comparison.apart, key=lambda each: each.nodeid != wanted):
        if each.reason.startswith("passes in base only"):
            return Row(branch, "fails", _name(each.nodeid), each.reason)
    other = next((t for t in compared if t.grades), None)
    if other is not None:
        return Row(branch, str(other.grade), _name(other.nodeid), *_cause(other))
    return Row(branch, "same", f"all of {len(compared)}")


def blamed(branch: str, shown: str) -> str:
    """Return whether the line that a trap breaks is named, for one that breaks a line."""
    place = place_of(CATCHES[branch]) if branch in CATCHES else ""
    return "" if not place else "named" if place in shown else "not named"


def compared_by(branch: str, options: argparse.Namespace) -> tuple[str, ...]:
    """Return pytest's arguments."""
    whole = options.whole or branch == COMMENTS
    place = SUITE if whole else node_id(CATCHES[branch].test)
    if branch not in APART:
        place = place.partition("::")[0]
    return (place, "-k", "not test_times") if options.counts else (place,)


def _name(nodeid: str) -> str:
    return nodeid.removeprefix(f"{SUITE}/")


def _cause(test: Compared) -> tuple[str, str]:
    """Return the first line of what is told of a test, and the first that names an operation."""
    lines = [" ".join(line.split()) for line in explained(test)]
    cause = next((line for line in lines if line.startswith(("+", "-", "fix:"))), "")
    return lines[0] if lines else "", cause


def main() -> int:
    """Compare the branches and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("branches", nargs="*", metavar="TRAP")
    parser.add_argument("--counts", action="store_true", help="leave out what is timed")
    parser.add_argument("--whole", action="store_true", help="run the whole suite for each")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="write each comparison's text")
    options = parser.parse_args()
    branches = options.branches or [COMMENTS, *(trap for trap in KNOWN if trap not in OF_TESTS)]
    if unknown := set(branches) - {COMMENTS, *KNOWN}:
        parser.error(f"unknown trap {min(unknown)!r}; known: {', '.join(KNOWN)}")
    rows = [Row("branch", "verdict", "first test", "what", "cause", "line", "time")]
    missed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        make_repository(folder, branches)
        for branch in branches:
            began = time.monotonic()
            try:
                wish = Wish("main", branch, compared_by(branch, options))
                comparison = compare_revisions(wish, folder)
            except PerfguardError as error:
                row, shown = Row(branch, "not compared", what=str(error)), str(error)
            else:
                row, shown = told(branch, comparison), text(comparison)
            took = f"{time.monotonic() - began:.0f} s"
            row = replace(row, line=blamed(branch, shown), seconds=took)
            rows.append(row)
            missed |= row.verdict != "same" if branch == COMMENTS else row.verdict in NOT_TOLD
            print(
                f"{branch}: {row.verdict} {row.what} ({row.seconds})", file=sys.stderr, flush=True
            )
            if options.keep:
                options.keep.mkdir(parents=True, exist_ok=True)
                options.keep.joinpath(f"{branch}.txt").write_text(shown, "utf-8")
    widths = [max(map(len, column)) for column in zip(*map(astuple, rows), strict=True)]
    for row in rows:
        cells = zip(astuple(row), widths, strict=True)
        print("  ".join(f"{cell:<{width}}" for cell, width in cells).rstrip())
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
