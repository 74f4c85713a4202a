"""Whether the sample service's performance suite is red when, and only when, something is wrong.

A/A: the whole suite, many times in a row, nothing changed: every red run is a false alarm.
A/B: with each trap switched on, as often, the test that is to catch it: every run in which it
does not fail by the metric it is about is a miss. With ``--busy``, a process for each core keeps
the machine busy meanwhile.

The whole of it takes hours. With ``--log`` each run is noted in a file, and the same command goes
on where an earlier one has stopped, be it after the time of ``--minutes`` or because it was ended.
What the sources are is noted too: runs of other sources do not count.

Both use the servers that the tests would use; a test that catches a trap always uses SQLite and
fakeredis, which is what its trap was written for.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_perfguard import read_run

ROOT = Path(__file__).resolve().parent.parent
SUITE = "sample_app/tests/performance"
UNCHANGED = "nothing changed"
SERVERS = ("SAMPLE_APP_TEST_DATABASE_URL", "SAMPLE_APP_TEST_REDIS_URL")
# Ends with its parent, however that ends.
BUSY = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): sum(range(100_000))"

sys.path.insert(0, str(ROOT))
from sample_app.core.traps import KNOWN  # noqa: E402 - found on the path only now
from sample_app.tests.catches import CATCHES, JUDGED, node_id  # noqa: E402


@dataclass
class Tally:
    """What came of the runs of one kind."""

    red: int = 0
    green: int = 0
    seconds: float = 0
    reasons: set[str] = field(default_factory=set)

    @property
    def runs(self) -> int:
        """How many there were."""
        return self.red + self.green

    def add(self, result: Mapping[str, Any]) -> None:
        """Count a run."""
        self.seconds += result["seconds"]
        if result["red"]:
            self.red += 1
            self.reasons.update(result["reasons"])
        else:
            self.green += 1


class Log:
    """The runs that have been made, in a file if there is one: a line of JSON for each."""

    def __init__(self, file: Path | None, *, kept_busy: bool) -> None:
        self._file = file
        self._about = {"sources": sources(), "busy": kept_busy}

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the runs of these sources on a machine that was as busy."""
        lines = self._file.read_text("utf-8") if self._file and self._file.exists() else ""
        for line in lines.splitlines():
            result = json.loads(line)
            if self._about.items() <= result.items():
                yield result

    def write(self, result: Mapping[str, Any]) -> None:
        """Note a run."""
        if self._file is not None:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**self._about, **result}) + "\n")


def sources() -> str:
    """Return what tells these sources from others."""
    digest = hashlib.sha256()
    for folder in ("pytest_perfguard", "sample_app"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep so many cores busy."""
    command = [sys.executable, "-c", BUSY, str(os.getpid())]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(processes):
            started.append(subprocess.Popen(command))  # noqa: PERF401, S603 - each is ended
        yield
        if any(process.poll() is not None for process in started):
            raise SystemExit("the machine was not busy all the time")
    finally:
        for process in started:
            process.kill()
            process.wait()


def run(trap: str) -> tuple[bool, list[str]]:
    """Run the suite, or the test that catches a trap.

    Returns:
        Whether it was red, in the way that the trap is to be seen, and why.
    """
    seen = CATCHES.get(trap)
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PYTEST") and not (trap and name in SERVERS)
    }
    with tempfile.TemporaryDirectory(prefix="perfguard-alarms-") as directory:
        file = Path(directory, "run.json")
        done = subprocess.run(  # noqa: S603 - our own suite
            [
                *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
                *(node_id(seen.test) if seen else SUITE, f"--perfguard-json={file}"),
            ],
            check=False,
            capture_output=True,
            encoding="utf-8",
            cwd=ROOT,
            env={**environment, "SAMPLE_APP_TRAPS": trap, "PYTHONIOENCODING": "utf-8"},
        )
        text = done.stdout + done.stderr
        if done.returncode not in (0, 1):
            raise SystemExit(f"pytest could not run the suite:\n{text}")
        records = read_run(file).records
    failed = [record for record in records if record.outcome == "failed"]
    breached = {
        verdict.metric for record in failed for verdict in record.verdicts if verdict.breached
    }
    if done.returncode and not trap:
        print(text, flush=True)
    is_red = done.returncode == 1
    if trap in JUDGED:
        is_red = bool(failed) and JUDGED[trap].breach.partition(" ")[0] in breached
    return is_red, sorted(breached) or ["an error"]


def repeat(names: Sequence[str], runs: int, log: Log, deadline: float) -> dict[str, Tally]:
    """Run every kind until there are so many of it, in turns, and say how each run ended."""
    tallies = {name: Tally() for name in names}
    for result in log.read():
        tally = tallies.get(result["name"])
        if tally is not None and tally.runs < runs:
            tally.add(result)
    for number in range(1, runs + 1):
        for name, tally in tallies.items():
            if tally.runs >= number:
                continue
            if time.monotonic() > deadline:
                return tallies
            started = time.perf_counter()
            is_red, reasons = run("" if name == UNCHANGED else name)
            seconds = time.perf_counter() - started
            result = {"name": name, "red": is_red, "reasons": reasons, "seconds": seconds}
            tally.add(result)
            log.write(result)
            colour = "red" if is_red else "green"
            print(f"{name}, run {number} of {runs}: {colour}, {seconds:.1f} s", flush=True)
    return tallies


def table(tallies: dict[str, Tally]) -> str:
    """Return the counts as text."""
    lines = [f"{'':<20} {'red':>4} {'green':>6} {'seconds a run':>14}  red by"]
    for name, tally in tallies.items():
        seconds = tally.seconds / tally.runs if tally.runs else 0
        lines.append(
            f"{name:<20} {tally.red:>4} {tally.green:>6} {seconds:>14.1f}  "
            f"{', '.join(sorted(tally.reasons))}".rstrip()
        )
    return "\n".join(lines)


def verdict(tallies: dict[str, Tally], runs: int) -> tuple[bool, Iterable[str]]:
    """Return whether all is as it should be, and the goals in words."""
    unchanged = tallies[UNCHANGED]
    alarms = unchanged.red
    trapped = [tally for name, tally in tallies.items() if name != UNCHANGED]
    missed = sum(tally.green for tally in trapped)
    lines = [f"{alarms} false alarms in {unchanged.runs} runs, goal 0: {'NO' if alarms else 'yes'}"]
    if trapped:
        number = sum(tally.runs for tally in trapped)
        lines.append(f"{missed} misses in {number} runs, goal 0: {'NO' if missed else 'yes'}")
    if unchanged.runs:
        unseen = 1 - 0.05 ** (1 / unchanged.runs)
        lines.append(
            f"(what {unchanged.runs} runs do not show may still happen in {unseen:.1%} of all, "
            "at 95 %)"
        )
    left = sum(runs - tally.runs for tally in tallies.values())
    if left:
        lines.append(f"not finished: {left} runs are left; the same command goes on with them")
    return not (alarms or missed or left), lines


def main() -> int:
    """Run everything; the exit status is 1 for a false alarm, a miss, or runs that are left."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=30, help="runs of each kind (30)")
    parser.add_argument("--busy", action="store_true", help="keep every core busy meanwhile")
    parser.add_argument(
        "--traps", nargs="*", choices=KNOWN, default=list(KNOWN), metavar="NAME",
        help="traps to switch on (all of them); none to run the suite as it is only",
    )  # fmt: skip
    parser.add_argument("--log", type=Path, metavar="FILE", help="note each run here, and go on")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no run after these")
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error("--runs must be at least 1")
    if arguments.minutes < math.inf and not arguments.log:
        parser.error("--minutes needs a --log to go on with")
    for trap in arguments.traps:
        if trap not in CATCHES:
            print(f"no test is said to catch {trap}: the whole suite is run, for any failure")
    log = Log(arguments.log, kept_busy=arguments.busy)
    deadline = time.monotonic() + 60 * arguments.minutes
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with busy(cores or 1 if arguments.busy else 0):
        tallies = repeat([UNCHANGED], arguments.runs, log, deadline)
        tallies |= repeat(arguments.traps, arguments.runs, log, deadline)
    kept = "all cores" if arguments.busy else "no core"
    print(f"\nruns of each: {arguments.runs}; {kept} kept busy\n")
    print(table(tallies), end="\n\n")
    is_met, lines = verdict(tallies, arguments.runs)
    print("\n".join(lines))
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
