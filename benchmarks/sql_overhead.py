"""What recording costs for each SQL statement, against bare SQLAlchemy and against the peers.

Every variant runs in processes of its own, because listeners leave traces on SQLAlchemy's
classes. This process tells one worker at a time to run a block of statements, the variants in a
new random order each round, and divides by what bare SQLAlchemy took in the same round. Workers
are replaced every few rounds: two processes of the same program differ by a few percent.

The peers are installed into an environment that is made for the run and removed after it.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

from estimates import Estimate
from workers import Worker, last_cpu

ROUNDS_PER_PROCESS = 5
GOALS = {"core": 1.15, "orm": 1.12}

# How each peer is called here, and what is installed for it.
PEERS = {
    "queryguard": "pytest-queryguard==0.4.1",
    "querycount": "pytest-querycount==0.4.0",
    "queryspy": "queryspy==0.6.0",
}
OWN = {
    "bare": "bare SQLAlchemy",
    "bare-again": "bare SQLAlchemy again (the noise)",
    "timer": "two listeners that read the clock",
    "perfguard": "pytest-perfguard, recording",
    "perfguard-idle": "pytest-perfguard, no span open",
}
JOBS = ("core", "orm", "request", "span")


@dataclass(frozen=True)
class Result:
    """What one variant cost; the last are CPU microseconds on top of bare."""

    core: Estimate
    orm: Estimate
    request: Estimate
    core_us: float
    orm_us: float
    request_us: float
    span_us: float


@contextmanager
def environment(requirements: Iterable[str]) -> Iterator[str]:
    """Yield the Python of a new environment that has the requirements, and remove it after."""
    with tempfile.TemporaryDirectory(prefix="perfguard-peers-") as directory:
        python = str(Path(directory, "bin", "python"))
        uv = shutil.which("uv")
        if uv is not None:
            _call(uv, "venv", "--quiet", "--python", sys.executable, "--clear", directory)
            _call(uv, "pip", "install", "--quiet", "--python", python, *requirements)
        else:
            venv.create(directory, with_pip=True)
            _call(python, "-m", "pip", "install", "--quiet", *requirements)
        yield python


def _call(*command: str) -> None:
    subprocess.run(command, check=True)  # noqa: S603 - our own commands


def measure(python: str, variants: Iterable[str], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return the CPU seconds of each round, by variant and job."""
    order = list(variants)
    times: dict[str, dict[str, list[float]]] = {name: {job: [] for job in JOBS} for name in order}
    cpu = last_cpu()
    done = 0
    while done < rounds:
        with ExitStack() as stack:
            workers = {
                name: stack.enter_context(Worker(python, "sql_worker.py", name, cpu))
                for name in order
            }
            for _ in range(min(ROUNDS_PER_PROCESS, rounds - done)):
                random.shuffle(order)
                for job in JOBS:
                    for name in order:
                        times[name][job].append(workers[name].run(job))
                done += 1
        print(f"\r{done} of {rounds} rounds", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return times


def compare(
    times: Mapping[str, Mapping[str, Sequence[float]]], name: str, other: str, job: str
) -> Estimate:
    """Return how many times as long as another a variant took, round by round."""
    pairs = zip(times[name][job], times[other][job], strict=True)
    return Estimate.of([a / b for a, b in pairs], ROUNDS_PER_PROCESS)


def summarise(times: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, Result]:
    """Compare every variant with bare, round by round."""
    bare = times["bare"]

    def extra(name: str, job: str) -> float:
        pairs = zip(times[name][job], bare[job], strict=True)
        return 1e6 * median(a - b for a, b in pairs)

    return {
        name: Result(
            core=compare(times, name, "bare", "core"),
            orm=compare(times, name, "bare", "orm"),
            request=compare(times, name, "bare", "request"),
            core_us=extra(name, "core"),
            orm_us=extra(name, "orm"),
            request_us=extra(name, "request"),
            span_us=extra(name, "span"),
        )
        for name in times
        if name != "bare"
    }


def table(results: Mapping[str, Result], bare: Mapping[str, Sequence[float]]) -> str:
    """Return the results as text, cheapest Core statement first."""
    labels = OWN | PEERS
    titles = ("Core statement", "ORM statement", "session + write")
    lines = [_row("variant", titles, "one-statement span")]
    lines.append(_row(OWN["bare"], [_us(bare[job]) for job in JOBS[:3]], _us(bare["span"])))
    for name, result in sorted(results.items(), key=lambda item: item[1].core.median):
        ratios = [_ratio(each) for each in (result.core, result.orm, result.request)]
        lines.append(_row(labels[name], ratios, f"{result.span_us:+.0f} us"))
    return "\n".join(lines)


def _row(label: str, cells: Iterable[str], last: str) -> str:
    return " ".join([f"{label:<36}", *(f"{cell:<22}" for cell in cells), f"{last:>18}"])


def _ratio(found: Estimate) -> str:
    return f"x{found.median:.3f} [{found.low:.3f}-{found.high:.3f}]"


def _us(seconds: Sequence[float]) -> str:
    return f"{1e6 * median(seconds):.1f} us"


def verdicts(times: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, str]:
    """Return each goal in words, and whether it is met: ``yes`` or ``NO``, and how surely.

    A peer is compared round by round too: that is finer than to compare two ratios to bare.
    """
    goals = {("bare", job): goal for job, goal in GOALS.items()}
    goals |= {(name, job): 1.0 for name in PEERS if name in times for job in GOALS}
    found = {}
    for (name, job), goal in goals.items():
        ratio = compare(times, "perfguard", name, job)
        label = PEERS.get(name, name)
        line = f"{job:<4} against {label}: {_ratio(ratio)}, goal x{goal:.2f}"
        found[line] = ratio.verdict(goal)
    return found


def main() -> int:
    """Run the benchmark; the exit status is 1 if a goal is not met."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=60, help="rounds; five a process (60)")
    parser.add_argument("--no-peers", action="store_true", help="install and run no peers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    sqlalchemy = f"sqlalchemy=={version('sqlalchemy')}"
    if arguments.no_peers:
        times = measure(sys.executable, OWN, arguments.rounds)
    else:
        with environment([sqlalchemy, "pytest", *PEERS.values()]) as python:
            times = measure(python, [*OWN, *PEERS], arguments.rounds)
    results = summarise(times)
    print(f"{sqlalchemy}, CPython {sys.version.split()[0]}, {arguments.rounds} rounds")
    print("median of the ratios to bare and its 95 % interval; spans: on top of bare\n")
    print(table(results, times["bare"]), end="\n\n")
    goals = verdicts(times)
    for line, verdict in goals.items():
        print(f"{line}: {verdict}")
    if arguments.json:
        data = {
            "python": sys.version.split()[0],
            "sqlalchemy": version("sqlalchemy"),
            "rounds": arguments.rounds,
            "bare_us": {job: 1e6 * median(times["bare"][job]) for job in JOBS},
            "variants": {name: asdict(result) for name, result in results.items()},
            "goals": goals,
        }
        arguments.json.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    return 0 if all(verdict.startswith("yes") for verdict in goals.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
