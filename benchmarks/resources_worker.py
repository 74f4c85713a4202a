"""One process of ``resources_overhead.py``: runs work under any variant and answers the times.

It reads one job a line from its standard input, a name of ``VARIANTS`` and one of ``JOBS``, and
writes one line of JSON for each: CPU seconds and elapsed seconds of one call. Where nothing
listens, the classes of the libraries are the original ones again.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from time import perf_counter, process_time

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from pytest_perfguard import Recorder
from pytest_perfguard.probes import available

CALLS = 20
REQUESTS = 100
WARM_UP = 3
_STEPS = 20_000

# CPU seconds and elapsed seconds.
Times = tuple[float, float]
Variant = Callable[[Recorder], AbstractContextManager[None]]


@contextmanager
def _bare(recorder: Recorder) -> Iterator[None]:
    recorder.stop()
    yield


@contextmanager
def _without(recorder: Recorder) -> Iterator[None]:
    """Listen as without the probes that this is about."""
    recorder.stop()
    others = [probe for probe in available() if probe.name not in ("process", "loop")]
    with Recorder(probes=others) as without, without.measure("block"):
        yield


@contextmanager
def _listening(recorder: Recorder, *asked: str) -> Iterator[None]:
    recorder.start()
    span = recorder.open("block", "block", asked=frozenset(asked))
    try:
        yield
    finally:
        recorder.close(span)


VARIANTS: dict[str, Variant] = {
    "bare": _bare,
    "bare-again": _bare,
    "others": _without,
    "listening": _listening,
    "memory": lambda recorder: _listening(recorder, "memory_peak", "memory_percent"),
    "loop": lambda recorder: _listening(recorder, "loop_stall"),
}


def compute() -> int:
    """Compute without a pause, in Python."""
    total = 0
    for number in range(_STEPS):
        total += number * number % 7
    return total


async def endpoint(_: Request) -> JSONResponse:
    """Answer a request."""
    return JSONResponse([{"number": number} for number in range(20)])


def _now() -> Times:
    return process_time(), perf_counter()


def _since(started: Times, calls: int) -> Times:
    return (process_time() - started[0]) / calls, (perf_counter() - started[1]) / calls


class Program:
    """A function and an application, in a loop that stays open."""

    def __init__(self) -> None:
        self._recorder = Recorder()
        self._runner = asyncio.Runner()
        app = Starlette(routes=[Route("/", endpoint)])
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://benchmark"
        )
        self.jobs: dict[str, Callable[[Variant], Times]] = {
            "compute": self._compute,
            "request": lambda variant: self._runner.run(self._requests(variant)),
        }

    def _compute(self, variant: Variant) -> Times:
        with variant(self._recorder):
            started = _now()
            for _ in range(CALLS):
                compute()
            return _since(started, CALLS)

    async def _requests(self, variant: Variant) -> Times:
        with variant(self._recorder):
            started = _now()
            for _ in range(REQUESTS):
                await self._client.get("/")
            return _since(started, REQUESTS)

    def run(self, variant: str, job: str) -> Times:
        """Run one block, with nothing left of the blocks before."""
        gc.collect()
        gc.disable()
        try:
            return self.jobs[job](VARIANTS[variant])
        finally:
            gc.enable()


def main() -> None:
    """Answer jobs until the input ends."""
    program = Program()
    for _ in range(WARM_UP):
        for variant in VARIANTS:
            for job in program.jobs:
                program.run(variant, job)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(program.run(*line.split())), flush=True)


if __name__ == "__main__":
    main()
