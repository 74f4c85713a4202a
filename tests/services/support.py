"""What the tests of the SQL probe share: a database through one driver, and ways to look."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, create_engine
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util import greenlet_spawn

from pytest_perfguard import Measurement, Recorder
from pytest_perfguard.model import Span, Tally

ROOT = Path(__file__).parents[2]
ASYNC_DRIVERS = ("aiosqlite", "psycopg_async", "asyncpg")

T = TypeVar("T")


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
    opened = recorder.open("explained", "block")
    opened.explain = True
    measured = Measurement(recorder, opened)
    try:
        yield measured
    finally:
        measured.close()
