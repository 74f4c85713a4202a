"""The tests that ``timing.py`` runs, each in a pytest of its own: one endpoint, timed in some way.

Every test writes what it has found to the file ``$RESULT`` as JSON. ``$WORK`` says how much the
endpoint has to do for each request.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
from collections.abc import Callable, Iterator
from contextvars import copy_context
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from time import perf_counter_ns, process_time_ns
from typing import Any, Protocol

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from pytest_perfguard import Perf

ROUNDS = 100
WARMUP = 10
BLOCK_ROUNDS = 50
BLOCKS = 6
ROWS = [{"id": n, "name": f"an item called {n}", "price": n / 7} for n in range(20)]

app = FastAPI()
# Wall and CPU nanoseconds at the start of every request: from one to the next is a whole round,
# with all that is done between two calls.
entries: list[tuple[int, int]] = []
repetitions = int(os.environ.get("WORK", "1"))


def work() -> None:
    """Do what endpoints spend their time with: make objects, and text from them."""
    json.loads(json.dumps(ROWS))


@app.get("/")
async def endpoint() -> int:
    """Keep the processor busy, in the event loop."""
    entries.append((perf_counter_ns(), process_time_ns()))
    for _ in range(repetitions):
        work()
    return len(ROWS)


class Caller(Protocol):
    """Calls the endpoint with one kind of client."""

    def once(self) -> object:
        """Call it as somebody would who can only use plain functions."""

    def loop(self, rounds: int) -> None:
        """Call it again and again, and do nothing else."""

    def timed(self, perf: Perf, rounds: int) -> Any:
        """Let ``perf.http`` time it."""

    def close(self) -> None:
        """Close the client."""


class SyncCaller:
    """Calls it with FastAPI's TestClient, whose event loop runs in a thread."""

    def __init__(self) -> None:
        self._client = TestClient(app)
        self._client.__enter__()

    def once(self) -> object:
        """Call it."""
        return self._client.get("/")

    def loop(self, rounds: int) -> None:
        """Call it again and again."""
        for _ in range(rounds):
            self._client.get("/")

    def timed(self, perf: Perf, rounds: int) -> Any:
        """Let ``perf.http`` time it."""
        return perf.http(self._client).get("/", rounds=rounds, warmup=WARMUP)

    def close(self) -> None:
        """End the event loop."""
        self._client.__exit__()


class AsyncCaller:
    """Calls it with httpx's AsyncClient, in the event loop that the application runs in."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        transport = httpx.ASGITransport(app)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://test")

    def once(self) -> object:
        """Call it from outside the event loop, as pytest-benchmark has to."""
        return self._runner.get_loop().run_until_complete(self._client.get("/"))

    def loop(self, rounds: int) -> None:
        """Call it again and again."""

        async def run() -> None:
            for _ in range(rounds):
                await self._client.get("/")

        self._runner.run(run())

    def timed(self, perf: Perf, rounds: int) -> Any:
        """Let ``perf.http`` time it."""

        async def run() -> Any:
            return await perf.http(self._client).get("/", rounds=rounds, warmup=WARMUP)

        # The runner's own context knows nothing of the test that is measured.
        return self._runner.run(run(), context=copy_context())

    def close(self) -> None:
        """Close the client and the event loop."""
        self._runner.run(self._client.aclose())
        self._runner.close()


@pytest.fixture(params=[SyncCaller, AsyncCaller], ids=["sync", "async"])
def caller(request: pytest.FixtureRequest) -> Iterator[Caller]:
    """Give each kind of client."""
    made: Caller = request.param()
    yield made
    made.close()


def test_overhead(caller: Caller, perf: Perf, request: pytest.FixtureRequest) -> None:
    """Take turns: the bare loop, the same again, and ``perf.http``."""
    guard: Any = request.config.pluginmanager.get_plugin("perfguard-guard")

    def bare() -> None:
        guard.recorder.stop()
        caller.loop(1 + WARMUP)
        gc.collect()
        caller.loop(BLOCK_ROUNDS)

    def rounds() -> float:
        found: float = caller.timed(perf, BLOCK_ROUNDS)["http_median"]
        return found

    kinds: dict[str, Callable[[], float | None]] = {
        "bare": bare,
        "again": bare,
        "rounds": rounds,
    }
    order = list(kinds)
    blocks = []
    for _ in range(BLOCKS):
        random.shuffle(order)
        block = {}
        for kind in order:
            entries.clear()
            reported = kinds[kind]()
            assert len(entries) == 1 + WARMUP + BLOCK_ROUNDS
            block[kind] = _times(reported)
        blocks.append(block)
    save(blocks)


def _times(reported: float | None) -> dict[str, float]:
    """Return the seconds of a round of the last block."""
    measured = entries[-BLOCK_ROUNDS:]
    pairs = list(pairwise(measured))
    times = {
        "median": median(after[0] - before[0] for before, after in pairs) / 1e9,
        "cpu": fmean(after[1] - before[1] for before, after in pairs) / 1e9,
    }
    return times if reported is None else {**times, "reported": reported}


def test_http(caller: Caller, perf: Perf) -> None:
    """Time it with ``perf.http``."""
    save(caller.timed(perf, ROUNDS)["http_median"])


def test_pedantic(caller: Caller, benchmark: Any) -> None:
    """Time it with pytest-benchmark, as often as with ``perf.http``."""
    benchmark.pedantic(caller.once, rounds=ROUNDS, warmup_rounds=WARMUP)
    save(benchmark.stats.stats.median)


def test_default(caller: Caller, benchmark: Any) -> None:
    """Time it with pytest-benchmark, which decides how often: for about a second."""
    benchmark(caller.once)
    save(benchmark.stats.stats.median)


def save(found: object) -> None:
    """Hand over what has been found."""
    Path(os.environ["RESULT"]).write_text(json.dumps(found), encoding="utf-8")
