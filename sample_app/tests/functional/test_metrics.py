"""The service's own metrics, and the compression of what it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace

import httpx2
import pytest
from fastapi import BackgroundTasks, FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import Message

from sample_app.core.config import Settings
from sample_app.core.database import Database
from sample_app.core.metrics import Metrics
from sample_app.core.middleware import MetricsMiddleware
from sample_app.main import create_app
from sample_app.tests.running import RunningClient

DURATION = "http_request_duration_seconds"


def value(app: FastAPI, name: str, **labels: str) -> float:
    """Return a metric of an application; 0 if it has never been counted."""
    metrics: Metrics = app.state.metrics
    return metrics.registry.get_sample_value(name, labels) or 0


def observed(app: FastAPI) -> dict[tuple[str, str, str], float]:
    """Return how many requests there were, by method, endpoint and status."""
    metrics: Metrics = app.state.metrics
    return {
        (sample.labels["method"], sample.labels["endpoint"], sample.labels["status"]): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == f"{DURATION}_count"
    }


@pytest.fixture
def app(settings: Settings, isolated: Database) -> FastAPI:
    """Make an application with an endpoint that raises."""

    async def broken() -> None:
        raise ZeroDivisionError

    async def cut_short() -> StreamingResponse:
        def parts() -> Iterator[bytes]:
            yield b"a part"
            raise ZeroDivisionError

        return StreamingResponse(parts())

    app = create_app(settings, isolated)
    app.add_api_route("/broken", broken)
    app.add_api_route("/cut-short", cut_short)
    return app


@pytest.fixture
def forgiving(app: FastAPI) -> Iterator[RunningClient]:
    with RunningClient(app, raise_server_exceptions=False) as client:
        yield client


def test_requests_are_observed_by_route_and_status(app: FastAPI, forgiving: TestClient) -> None:
    for id_ in (1, 2, 3, 999_999):
        forgiving.get(f"/api/resources/{id_}")
    forgiving.get("/api/resources/x")
    forgiving.get("/api/resources?page=1")
    forgiving.delete("/api/resources/1")
    one = "/api/resources/{resource_id}"
    assert observed(app) == {
        ("GET", one, "200"): 3,
        ("GET", one, "404"): 1,
        ("GET", one, "422"): 1,
        ("GET", "/api/resources", "200"): 1,
        ("DELETE", one, "405"): 1,
    }


def test_nobody_can_make_time_series_up(app: FastAPI, forgiving: TestClient) -> None:
    for number in range(3):
        forgiving.get(f"/made/up/{number}")
        forgiving.request(f"MADE{number}", "/up")
    assert observed(app) == {("GET", "no route", "404"): 3, ("other", "no route", "404"): 3}


@pytest.mark.parametrize("path", ["/broken", "/cut-short"])
def test_what_raises_is_observed_too(app: FastAPI, forgiving: TestClient, path: str) -> None:
    forgiving.get(path)
    assert observed(app) == {("GET", path, "500"): 1}


def test_background_tasks_are_no_part_of_the_duration(monkeypatch: pytest.MonkeyPatch) -> None:
    """The response is complete before they begin: the clock has stopped by then."""
    now = [100.0]
    clock = SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr("sample_app.core.middleware.time", clock)
    metrics = Metrics()

    async def pass_time(seconds: float) -> None:
        now[0] += seconds

    async def endpoint(tasks: BackgroundTasks) -> str:
        await pass_time(1)
        tasks.add_task(pass_time, 10)
        return "done"

    app = FastAPI()
    app.add_api_route("/", endpoint)
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    assert TestClient(app).get("/").status_code == 200
    labels = {"method": "GET", "endpoint": "/", "status": "200"}
    assert now == [111]
    assert metrics.registry.get_sample_value(f"{DURATION}_sum", labels) == 1


def test_a_request_is_served_in_the_task_that_it_came_in(app: FastAPI) -> None:
    """No middleware starts one of its own, as each ``BaseHTTPMiddleware`` does."""
    tasks: list[asyncio.Task[object] | None] = []

    async def note() -> None:
        tasks.append(asyncio.current_task())

    async def request() -> None:
        await note()
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            await client.get("/note")

    app.add_api_route("/note", note)
    asyncio.run(request())
    assert len(tasks) == 2
    assert tasks[0] is tasks[1]


def test_what_is_no_request_passes_through() -> None:
    metrics = Metrics()
    seen: list[str] = []

    async def inner(scope: Message, _receive: object, _send: object) -> None:
        seen.append(scope["type"])

    middleware = MetricsMiddleware(inner, metrics)
    asyncio.run(middleware({"type": "websocket"}, None, None))  # type: ignore[arg-type]
    assert seen == ["websocket"]
    assert DURATION + "_count{" not in metrics.render().decode()


def test_queries_connections_and_the_cache_are_counted(
    app: FastAPI, client: RunningClient, database: Database
) -> None:
    before = value(app, "db_connections")
    for _ in range(2):
        client.get("/api/resources")
        client.get("/api/resources/7")
    client.put("/api/resources/7", json={"name": "new"})
    duration = "db_query_duration_seconds_count"
    # 3 for the page, 2 for the row, 2 to change it.
    assert value(app, duration, query_type="select") == 7
    assert value(app, duration, query_type="update") == 1
    assert value(app, duration, query_type="insert") == 0
    for cache_type in ("response", "query"):
        assert value(app, "cache_hits_total", cache_type=cache_type) == 1
        assert value(app, "cache_misses_total", cache_type=cache_type) == 1
    with database.engine.connect():
        assert value(app, "db_connections") == before + 1


def test_a_query_that_fails_is_counted_too(settings: Settings, database: Database) -> None:
    app = create_app(settings, database)
    with RunningClient(app), database.engine.connect() as connection:
        with pytest.raises(Exception, match="nowhere"):
            connection.execute(text("SELECT * FROM nowhere"))
        assert value(app, "db_query_duration_seconds_count", query_type="select") == 1


def test_applications_do_not_add_up_and_leave_the_engine_alone(
    settings: Settings, database: Database
) -> None:
    apps = [create_app(settings, database) for _ in range(2)]
    for app in apps:
        for _ in range(2):  # one may be started again
            with RunningClient(app) as client:
                assert client.get("/api/resources?page=1").status_code == 200
                hits = client.get("/metrics").text
                assert hits.count('cache_misses_total{cache_type="response"}') == 1
    with database.engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    for app in apps:
        assert value(app, "db_query_duration_seconds_count", query_type="select") == 6


def test_metrics_are_served(client: TestClient) -> None:
    client.get("/api/resources/7")
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    for name in (
        f"{DURATION}_bucket{{",
        "db_query_duration_seconds_bucket{",
        "\ndb_connections ",
        "cache_hits_total",
        "cache_misses_total{",
    ):
        assert name in response.text


@pytest.mark.parametrize(("size", "encoding"), [(999, None), (1_000, "gzip")])
def test_answers_are_compressed_from_a_thousand_bytes_on(
    app: FastAPI, forgiving: TestClient, size: int, encoding: str | None
) -> None:
    async def text() -> PlainTextResponse:
        return PlainTextResponse("x" * size)

    app.add_api_route("/text", text)
    response = forgiving.get("/text")
    assert response.headers.get("content-encoding") == encoding
    assert response.text == "x" * size


def test_who_cannot_read_it_gets_it_plain(client: TestClient) -> None:
    response = client.get("/api/resources", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in response.headers
    assert len(response.json()["items"]) == 20
