"""The tests that ``duet.py`` runs on both sides: endpoints of the sample service, and a function.

``$DUET_UNITS`` says how many units of work each runs beside what it does anyway, by the test's
name. Every test counts them where they are run, before it times anything: how much was injected
rests on no clock. With ``$DUET_SHARES`` they time nothing and write into that file which share of
a call one unit is.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Coroutine, Iterator
from contextvars import copy_context
from pathlib import Path
from time import process_time_ns
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient
from gate_worker import function, knob, unit

from pytest_perfguard import Perf
from pytest_perfguard.pinning import pinned
from pytest_perfguard.samples import faster_half
from sample_app.core.config import Settings
from sample_app.core.database import Database
from sample_app.core.migrate import upgrade
from sample_app.main import create_app
from sample_app.seed import seed

# Units that both sides run; more of them for the calibration.
BASE = {
    "test_testclient_query": 10,
    "test_testclient_cached": 10,
    "test_asgi_query": 10,
    "test_asgi_cached": 10,
    "test_function": 200,
}
MORE = 20
CALIBRATION_ROUNDS = 120
ROUNDS = 20
QUERY, CACHED = "/api/resources/after", "/api/resources"


class Knob:
    """An ASGI application before another one, which runs the units of work for each request."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Run the units, and let the other application answer."""
        if scope["type"] == "http":
            for _ in range(knob.units):
                unit()
        await self._app(scope, receive, send)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Give the sample service with a seeded database of its own."""
    url = f"sqlite:///{tmp_path_factory.mktemp('database') / 'sample_app.db'}"
    settings = Settings(database_url=url, monitor_interval=0)
    database = Database.from_settings(settings)
    upgrade(database.engine, traps=settings.traps)
    seed(database.engine)
    yield create_app(settings, database)
    database.dispose()


@pytest.fixture(autouse=True)
def units(request: pytest.FixtureRequest) -> None:
    """Set how many units each call runs."""
    name = request.node.name
    knob.units = json.loads(os.environ.get("DUET_UNITS", "{}")).get(name, BASE[name])


def shares(name: str, times: dict[int, list[float]]) -> None:
    """Write which share of a call a unit is."""
    few, many = (faster_half(times[level]) for level in sorted(times))
    with Path(os.environ["DUET_SHARES"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps([name, (many - few) / MORE / few]) + "\n")


def levels(name: str) -> Iterator[list[float]]:
    """Yield where the times of each round belong, the number of units having been set."""
    times: dict[int, list[float]] = {BASE[name]: [], BASE[name] + MORE: []}
    with pinned():
        for _ in range(CALIBRATION_ROUNDS):
            for knob.units, kept in times.items():
                yield kept
    shares(name, times)


def run_sync(name: str, call: Callable[[], object], time: Callable[[], object]) -> None:
    """Count the units of a call and time it, or calibrate."""
    knob.done = 0
    call()
    assert knob.done == knob.units
    if "DUET_SHARES" not in os.environ:
        time()
        return
    for times in levels(name):
        before = process_time_ns()
        call()
        times.append(process_time_ns() - before)


async def run_async(
    name: str,
    call: Callable[[], Coroutine[Any, Any, object]],
    time: Callable[[], Coroutine[Any, Any, object]],
) -> None:
    """Count the units of a call and time it, or calibrate."""
    knob.done = 0
    await call()
    assert knob.done == knob.units
    if "DUET_SHARES" not in os.environ:
        await time()
        return
    for times in levels(name):
        before = process_time_ns()
        await call()
        times.append(process_time_ns() - before)


def by_testclient(name: str, app: Any, perf: Perf, url: str) -> None:
    """Call an endpoint by TestClient."""
    with TestClient(Knob(app)) as client:
        run_sync(name, lambda: client.get(url), lambda: perf.http(client).get(url, rounds=ROUNDS))


def in_loop(name: str, app: Any, perf: Perf, url: str) -> None:
    """Call an endpoint in the event loop of the service."""

    async def run() -> None:
        transport = httpx2.ASGITransport(app=Knob(app))
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            await run_async(
                name, lambda: client.get(url), lambda: perf.http(client).get(url, rounds=ROUNDS)
            )

    with asyncio.Runner() as runner:
        # The runner's own context knows nothing of the test that is measured.
        runner.run(run(), context=copy_context())


def test_testclient_query(app: Any, perf: Perf) -> None:
    """Query a page."""
    by_testclient("test_testclient_query", app, perf, QUERY)


def test_testclient_cached(app: Any, perf: Perf) -> None:
    """Take a page from the cache."""
    by_testclient("test_testclient_cached", app, perf, CACHED)


def test_asgi_query(app: Any, perf: Perf) -> None:
    """Query a page."""
    in_loop("test_asgi_query", app, perf, QUERY)


def test_asgi_cached(app: Any, perf: Perf) -> None:
    """Take a page from the cache."""
    in_loop("test_asgi_cached", app, perf, CACHED)


def test_function(perf: Perf) -> None:
    """Run nothing but the units of work."""
    run_sync("test_function", function, lambda: perf.time(function, name="function", rounds=ROUNDS))
