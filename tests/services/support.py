"""What the tests share: a database through one driver, a cache through one client, ways to look."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import redis
from celery import signals as celery_signals
from sqlalchemy import URL, create_engine
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util import greenlet_spawn

from pytest_perfguard import Measurement, Recorder
from pytest_perfguard.model import Span, Tally

ROOT = Path(__file__).parents[2]
ASYNC_DRIVERS = ("aiosqlite", "psycopg_async", "asyncpg")

T = TypeVar("T")

# What is done with a client: each thing that is yielded is done, and its result sent back. So one
# script serves synchronous and asyncio clients alike.
Script = Callable[[Any], Generator[Any, Any, T]]


class Database:
    """One database through one driver.

    Attributes:
        engine: the engine, or the synchronous side of an asynchronous one.
        async_engine: the asynchronous engine, if it is one.
    """

    def __init__(self, driver: str, url: URL, connect_args: dict[str, Any]) -> None:
        self.driver = driver
        self.is_async = driver in ASYNC_DRIVERS
        self.is_sqlite = "sqlite" in driver
        self.url = url
        self._connect_args = connect_args
        self._runner = asyncio.Runner() if self.is_async else None
        self._made: list[tuple[Engine, AsyncEngine | None]] = []
        self.engine = self.make_engine()
        self.async_engine = self._made[0][1]

    def make_engine(self, **options: Any) -> Engine:
        """Make one more engine for the same database."""
        options.setdefault("connect_args", self._connect_args)
        if self.is_async:
            async_engine = create_async_engine(options.pop("url", self.url), **options)
            self._made.append((async_engine.sync_engine, async_engine))
        else:
            self._made.append((create_engine(options.pop("url", self.url), **options), None))
        return self._made[-1][0]

    def async_twin(self, engine: Engine) -> AsyncEngine:
        """Return the asynchronous engine that a synchronous one belongs to."""
        return next(twin for made, twin in self._made if made is engine and twin)

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a function where the engine may be used."""
        if self._runner is None:
            return function(*args, **kwargs)
        return self._runner.run(greenlet_spawn(function, *args, **kwargs))

    def run(self, coroutine: Any) -> Any:
        """Run a coroutine in the loop that the asynchronous engine belongs to."""
        assert self._runner is not None
        return self._runner.run(coroutine)

    def close(self) -> None:
        for engine, _ in self._made:
            self.call(engine.dispose)
        if self._runner is not None:
            self._runner.close()


class Cache:
    """One cache server through one kind of client.

    Attributes:
        client: a client of it.
        prefix: what the keys of this test begin with.
    """

    def __init__(self, name: str, make: Callable[..., Any], prefix: str = "") -> None:
        self.name = name
        self.is_async = name.endswith("asyncio")
        self.is_real = name.startswith("redis")
        self.prefix = prefix
        self._make = make
        self._runner = asyncio.Runner() if self.is_async else None
        self._made: list[Any] = []
        self.client = self.make_client()

    def make_client(self, **options: Any) -> Any:
        """Make one more client of the same server."""
        self._made.append(self._make(**options))
        return self._made[-1]

    def key(self, *parts: object) -> str:
        """Return a key that no other test has."""
        return self.prefix + ":".join(map(str, parts))

    def call(self, script: Script[T], client: Any = None) -> T:
        """Run a script with a client, by default with the first."""
        steps = script(self.client if client is None else client)
        return _take(steps) if self._runner is None else self.run(_take_async(steps))

    def run(self, coroutine: Any) -> Any:
        """Run a coroutine in the loop that the clients belong to."""
        assert self._runner is not None
        # By itself it would stay in the context, and so in the span, of its first coroutine.
        return self._runner.run(coroutine, context=copy_context())

    def close(self) -> None:
        for client in self._made:
            self.call(disconnect, client)
        if self._runner is not None:
            self._runner.close()


def disconnect(client: Any) -> Generator[Any, Any, None]:
    """Close a client and its connections, as a script."""
    # What closes an asyncio client was called otherwise before redis-py 5.0.1.
    yield getattr(client, "aclose", client.close)()
    if hasattr(client, "connection_pool"):
        yield client.connection_pool.disconnect()


def _take(steps: Generator[Any, Any, T]) -> T:
    result = None
    while True:
        try:
            result = steps.send(result)
        except StopIteration as end:
            value: T = end.value
            return value


async def _take_async(steps: Generator[Any, Any, T]) -> T:
    proceed: Callable[[], Any] = partial(next, steps)
    while True:
        try:
            result = proceed()
        except StopIteration as end:
            value: T = end.value
            return value
        try:
            proceed = partial(steps.send, await result if inspect.isawaitable(result) else result)
        except Exception as error:  # noqa: BLE001 - the script decides
            proceed = partial(steps.throw, error)


def calls(*steps: tuple[Any, ...]) -> Script[list[Any]]:
    """Return a script of calls: name of the method, its arguments, and a dict of its options."""

    def script(client: Any) -> Generator[Any, Any, list[Any]]:
        results: list[Any] = []
        for step in steps:
            result = yield _called(client, *step)
            results += [result]
        return results

    return script


def piped(
    *steps: tuple[Any, ...], transaction: bool = False, raise_on_error: bool = True
) -> Script[Any]:
    """Return a script of calls that are sent in one pipeline."""

    def script(client: Any) -> Generator[Any, Any, Any]:
        pipe = client.pipeline(transaction=transaction)
        for step in steps:
            _called(pipe, *step)
        return (yield pipe.execute(raise_on_error=raise_on_error))

    return script


def _called(client: Any, method: str, *args: Any) -> Any:
    if args and isinstance(args[-1], dict):
        return getattr(client, method)(*args[:-1], **args[-1])
    return getattr(client, method)(*args)


@contextmanager
def redis_server(program: str, folder: Path, *options: str, ready: str) -> Iterator[int]:
    """Run a server of our own until the end of the block; gives its port.

    Args:
        ready: what it says once it can be used.
    """
    for _ in range(10):
        port, other = free_ports(2)
        numbered = [option.format(port=port, other=other) for option in options]
        with subprocess.Popen(
            [program, *numbered], cwd=folder, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if ready in line:
                    try:
                        yield port
                    finally:
                        process.kill()
                    return
        # The port was taken by somebody else in the meantime.
        if not any("in use" in line for line in said):
            break
    raise RuntimeError("the server did not start:\n" + "".join(said))


class Shop:
    """A Celery app on a real broker, with a queue of its own.

    Attributes:
        headers: those of all messages of this process, one after the other.
    """

    def __init__(self, kind: str, url: str, queue: str) -> None:
        from tests.services.task_app import make_app

        self.kind = kind
        self.queue = queue
        self.headers: list[dict[str, Any]] = []
        self._url = url
        self._options = {"global_keyprefix": f"{queue}:"} if kind == "redis" else {}
        self.app = make_app(url, queue, self._options)

        # Celery before 5.6 takes the methods of two objects for one receiver.
        def note(headers: dict[str, Any], **_: Any) -> None:
            self.headers.append(headers)

        self._note = note
        celery_signals.before_task_publish.connect(note, weak=False)

    def another(self) -> Shop:
        """Make one more app on the same broker."""
        return Shop(self.kind, self._url, f"{self.queue}_{uuid4().hex[:6]}")

    def task(self, name: str) -> Any:
        """Return a task by its short name."""
        return self.app.tasks[f"shop.{name}"]

    @contextmanager
    def worker(self, pool: str = "solo", *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Run a worker in a process of its own."""
        command = [
            sys.executable, "-m", "tests.services.task_app", self._url, self.queue,
            json.dumps(self._options), f"--pool={pool}", "--concurrency=2", *arguments,
        ]  # fmt: skip
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            assert process.stdout is not None
            too_long = threading.Timer(60, process.kill)
            too_long.start()
            try:
                said = process.stdout.readline()
                while said and "READY" not in said:
                    said = process.stdout.readline()
                too_long.cancel()
                assert said, "the worker ended before it was ready"
                yield process
            finally:
                too_long.cancel()
                process.stdout.close()
                # The whole group: a pool's processes outlive a parent that is killed.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def left(self, queue: str) -> bool:
        """Return whether the broker knows a queue."""
        with self.app.connection_for_read() as connection:
            channel = connection.default_channel
            if self.kind == "redis":
                return bool(channel.client.exists(queue))
            try:
                channel.queue_declare(queue, passive=True)
            except connection.channel_errors as error:
                # A queue of another connection's own is locked.
                return bool(error.code != HTTPStatus.NOT_FOUND)
            return True

    def close(self) -> None:
        celery_signals.before_task_publish.disconnect(self._note)
        with self.app.connection_for_write() as connection:
            channel = connection.default_channel
            if self.kind == "redis":
                client = redis.Redis.from_url(self._url)
                keys = list(client.scan_iter(f"{self.queue}:*"))
                if keys:
                    client.delete(*keys)
                client.close()
            else:
                channel.queue_delete(self.queue)
                channel.exchange_delete(self.queue)
        self.app.close()


def free_ports(count: int) -> list[int]:
    """Return ports of this machine that nobody listens on at the moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def cache_counts(measured: Measurement) -> dict[str, float]:
    """Return what is counted of cache commands, without what is 0."""
    names = (
        "hits", "misses", "commands", "roundtrips", "n_plus_one", "writes_without_ttl",
        "blocking_calls", "errors",
    )  # fmt: skip
    return {name: value for name in names if (value := measured[f"cache_{name}"])}


def cache_tallies(measured: Measurement) -> list[Tally]:
    """Return the tallies of the block's own cache commands."""
    return [
        tally
        for tally in done(measured).tallies
        if tally.probe == "cache" and tally.kind not in ("connect", "pipeline")
    ]


def done(measured: Measurement) -> Span:
    """Return what was measured in a block that has ended."""
    assert measured.span is not None
    return measured.span


def counts(measured: Measurement) -> dict[str, float]:
    """Return what is counted of statements, without what is 0."""
    names = ("queries", "roundtrips", "rows", "n_plus_one", "duplicates", "errors", "commits")
    return {name: value for name in names if (value := measured[f"sql_{name}"])}


def candidate(measured: Measurement, metric: str = "sql_n_plus_one") -> Tally:
    """Return the evidence of the only finding."""
    findings = done(measured).findings
    assert [finding.metric for finding in findings] == [metric]
    return findings[0].tally


def tally_of(measured: Measurement, start: str) -> Tally:
    """Return the only tally of statements that begin so."""
    found = [t for t in done(measured).tallies if t.operation.startswith(start)]
    assert len(found) == 1, [t.operation for t in done(measured).tallies]
    return found[0]


def here(mark: str) -> str:
    """Return ``file:line`` of the line of the calling file that ends with the comment."""
    file = Path(sys._getframe(1).f_code.co_filename)
    lines = file.read_text("utf-8").splitlines()
    found = [n for n, text in enumerate(lines, start=1) if text.endswith(f"# {mark}")]
    assert len(found) == 1, f"{len(found)} lines are marked {mark!r}"
    return f"{file.relative_to(ROOT).as_posix()}:{found[0]}"


def place(tally: Tally) -> str:
    """Return ``file:line`` of a tally."""
    assert tally.site is not None
    return f"{tally.site.file}:{tally.site.line}"


@contextmanager
def explained(recorder: Recorder) -> Iterator[Measurement]:
    """Measure a block in which databases are asked for their plans."""
    opened = recorder.open("explained", "block", asked=frozenset({"sql_full_scans"}))
    measured = Measurement(recorder, opened)
    try:
        yield measured
    finally:
        measured.close()
