"""What it costs a test to be measured, and to have its memory and its event loop looked at.

CPU time is what the process worked, the threads that look included. Elapsed time is what the code
feels, which shares its processor and Python's lock with them. How the variants are compared is said
in ``ratios.py``; the goals are about what a block takes with the other probes only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ratios import Comparison, Times, compare, run, shown

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
COMPARISON = Comparison(
    "resources_worker.py",
    VARIANTS,
    {name: case.label for name, case in CASES.items()},
    ("psutil", "httpx", "starlette"),
)


def goals(times: Times) -> Iterator[tuple[str, str]]:
    """Yield each goal in words, and whether it is met."""
    for case, (label, limits) in CASES.items():
        for name, goal in limits.items():
            ratio = compare(times, "cpu", name, case, "others")
            line = f"{label}, {VARIANTS[name]}: {shown(ratio)} of {VARIANTS['others']}"
            yield f"{line}, CPU time, goal x{goal:.2f}", ratio.verdict(goal)


if __name__ == "__main__":
    assert __doc__ is not None
    sys.exit(run(__doc__.partition("\n")[0], COMPARISON, goals))
