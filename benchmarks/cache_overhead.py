"""What recording costs for each command of a cache, against the bare client.

Two times are compared. CPU time is what the client's process worked; it is all there is to
fakeredis. A real server makes the client wait: elapsed time is what the code that asks feels. How
the variants are compared is said in ``ratios.py``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from typing import NamedTuple

import redis
from ratios import Comparison, Times, compare, run, shown

STANDARD_URL = "redis://127.0.0.1:6379/0"


class Case(NamedTuple):
    """One kind of block; ``clock`` tells which time its goal is about."""

    label: str
    clock: str
    goal: float | None


CASES = {
    "fake": Case("fakeredis GET", "cpu", 1.15),
    "fake-async": Case("fakeredis GET, asyncio", "cpu", 1.15),
    "fake-new": Case("fakeredis GET, each key new", "cpu", None),
    "real": Case("Redis GET", "elapsed", 1.10),
    "real-async": Case("Redis GET, asyncio", "elapsed", 1.10),
    "pipeline": Case("Redis pipeline of 20 GETs", "elapsed", None),
}
COMPARISON = Comparison(
    "cache_worker.py",
    {
        "bare": "bare",
        "bare-again": "bare again (the noise)",
        "perfguard-idle": "no span open",
        "perfguard": "recording",
    },
    {name: case.label for name, case in CASES.items()},
    ("redis", "fakeredis"),
)


def goals(times: Times) -> Iterator[tuple[str, str]]:
    """Yield each goal in words, and whether it is met."""
    for name, (label, clock, goal) in CASES.items():
        if goal is not None:
            ratio = compare(times, clock, "perfguard", name)
            line = f"{label}, {clock} time: {shown(ratio)}, goal x{goal:.2f}"
            yield line, ratio.verdict(goal)


def need_redis(parser: argparse.ArgumentParser) -> None:
    """Refuse to go on without a server."""
    url = os.environ.setdefault("PERFGUARD_TEST_REDIS_URL", STANDARD_URL)
    try:
        redis.Redis.from_url(url).ping()
    except redis.ConnectionError as error:
        parser.error(f"no Redis to compare with; set PERFGUARD_TEST_REDIS_URL: {error}")


if __name__ == "__main__":
    assert __doc__ is not None
    sys.exit(run(__doc__.partition("\n")[0], COMPARISON, goals, need_redis))
