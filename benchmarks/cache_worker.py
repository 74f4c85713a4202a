"""One process of ``cache_overhead.py``: runs commands under any variant and answers the times.

It reads one job a line from its standard input, a name of ``VARIANTS`` and one of ``JOBS``, and
writes one line of JSON for each: CPU seconds and elapsed seconds of one GET, or of one pipeline.
Where nothing is recorded, the methods of the clients are the original ones again.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from time import perf_counter, process_time

import fakeredis
import redis
import redis.asyncio

from pytest_perfguard import Recorder

URL = os.environ["PERFGUARD_TEST_REDIS_URL"]
PREFIX = f"perfguard-benchmark-{os.getpid()}"
DEPTH = 10
GETS = 200
# All keys have been seen by then, and the interpreter has specialised itself.
WARM_UP = 100
PIPELINES = 40
PIPELINED = 20
KEYS = [f"{PREFIX}:{n}" for n in range(50)]
VALUE = b"x" * 100

# Opens a recording and yields a function that tells how many commands it has seen; None where
# nothing is recorded.
Variant = Callable[[Recorder], AbstractContextManager[Callable[[], float] | None]]
# CPU seconds and elapsed seconds.
Times = tuple[float, float]


@contextmanager
def _bare(recorder: Recorder) -> Iterator[None]:
    recorder.stop()
    yield None


@contextmanager
def _idle(recorder: Recorder) -> Iterator[None]:
    recorder.start()
    yield None


@contextmanager
def _recording(recorder: Recorder) -> Iterator[Callable[[], float]]:
    recorder.start()
    with recorder.measure("block") as measured:
        yield lambda: measured["cache_commands"]


VARIANTS: dict[str, Variant] = {
    "bare": _bare,
    "bare-again": _bare,
    "perfguard": _recording,
    "perfguard-idle": _idle,
}


def _now() -> Times:
    return process_time(), perf_counter()


def _since(started: Times) -> Times:
    return process_time() - started[0], perf_counter() - started[1]


def _deep(depth: int, call: Callable[[int], Times], number: int) -> Times:
    """Call below ``depth`` more frames, as an endpoint would be."""
    return _deep(depth - 1, call, number) if depth else call(number)


async def _deep_async(depth: int, call: Callable[[int], Awaitable[Times]], number: int) -> Times:
    if depth:
        return await _deep_async(depth - 1, call, number)
    return await call(number)


class Program:
    """Reads a cache through clients that stay open, as a service does."""

    def __init__(self) -> None:
        self._recorder = Recorder()
        # Under which the next job is run.
        self.variant: Variant = _bare
        self._runner = asyncio.Runner()
        self._fake = fakeredis.FakeRedis()
        self._fake_async = fakeredis.FakeAsyncRedis()
        self._real = redis.Redis.from_url(URL)
        self._real_async = redis.asyncio.Redis.from_url(URL)
        self._numbers = count()
        for client in (self._fake, self._real):
            for key in KEYS:
                client.set(key, VALUE, ex=3600)
        self._runner.run(self._fill())

    async def _fill(self) -> None:
        for key in KEYS:
            await self._fake_async.set(key, VALUE, ex=3600)

    def close(self) -> None:
        """Leave nothing on the server."""
        self._real.delete(*KEYS)

    def fake(self) -> Times:
        """GET from fakeredis."""
        return self._block(lambda number: self._gets(self._fake, number), GETS)

    def fake_new(self) -> Times:
        """GET from fakeredis what is not there: another key each time."""
        return self._block(self._new, GETS)

    def fake_async(self) -> Times:
        """GET from fakeredis in an event loop."""
        return self._block_async(lambda number: self._gets_async(self._fake_async, number), GETS)

    def real(self) -> Times:
        """GET from a Redis server."""
        return self._block(lambda number: self._gets(self._real, number), GETS)

    def real_async(self) -> Times:
        """GET from a Redis server in an event loop."""
        return self._block_async(lambda number: self._gets_async(self._real_async, number), GETS)

    def pipeline(self) -> Times:
        """GET many keys from a Redis server at once."""
        return self._block(self._pipelines, PIPELINES, PIPELINED)

    def _gets(self, client: redis.Redis, number: int) -> Times:
        started = _now()
        for n in range(number):
            client.get(KEYS[n % len(KEYS)])
        return _since(started)

    async def _gets_async(self, client: redis.asyncio.Redis, number: int) -> Times:
        started = _now()
        for n in range(number):
            await client.get(KEYS[n % len(KEYS)])
        return _since(started)

    def _new(self, number: int) -> Times:
        keys = [f"{PREFIX}:{next(self._numbers)}:new" for _ in range(number)]
        started = _now()
        for key in keys:
            self._fake.get(key)
        return _since(started)

    def _pipelines(self, number: int) -> Times:
        started = _now()
        for _ in range(number):
            with self._real.pipeline(transaction=False) as pipe:
                for key in KEYS[:PIPELINED]:
                    pipe.get(key)
                pipe.execute()
        return _since(started)

    def _block(self, call: Callable[[int], Times], number: int, commands: int = 1) -> Times:
        """Return what one call takes, once the line has been seen."""
        with self.variant(self._recorder) as seen:
            _deep(DEPTH, call, WARM_UP)
            cpu, elapsed = _deep(DEPTH, call, number)
            _check(seen, (WARM_UP + number) * commands)
        return cpu / number, elapsed / number

    def _block_async(self, call: Callable[[int], Awaitable[Times]], number: int) -> Times:
        with self.variant(self._recorder) as seen:
            self._runner.run(_deep_async(DEPTH, call, WARM_UP))
            cpu, elapsed = self._runner.run(_deep_async(DEPTH, call, number))
            _check(seen, WARM_UP + number)
        return cpu / number, elapsed / number


def _check(seen: Callable[[], float] | None, run: int) -> None:
    if seen is not None and seen() != run:
        raise SystemExit(f"{run} commands were run and {seen()} recorded")


JOBS: dict[str, Callable[[Program], Times]] = {
    "fake": Program.fake,
    "fake-new": Program.fake_new,
    "fake-async": Program.fake_async,
    "real": Program.real,
    "real-async": Program.real_async,
    "pipeline": Program.pipeline,
}


def main() -> None:
    """Answer jobs until there are no more."""
    program = Program()
    for program.variant in VARIANTS.values():
        for job in JOBS.values():
            job(program)
    gc.disable()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        variant, job_name = line.split()
        program.variant = VARIANTS[variant]
        times = JOBS[job_name](program)
        gc.collect()
        print(json.dumps(times), flush=True)
    program.close()


if __name__ == "__main__":
    main()
