"""The metrics: what is observed, under which labels, and when."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from fastapi import BackgroundTasks
from fastapi.testclient import TestClient
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError
from starlette.types import Message, Receive, Scope, Send

from sample_app.core.config import Settings
from sample_app.core.database import Database
from sample_app.core.metrics import Metrics
from sample_app.core.middleware import MetricsMiddleware
from sample_app.main import create_app
from sample_app.tests.running import RunningClient, counted

URL = "/api/resources"
QUERIES = "db_query_duration_seconds_count"


def requests(metrics: Metrics) -> Counter[tuple[str, ...]]:
    """The requests that were observed, by method, endpoint and status."""
    (family,) = metrics.request_duration.collect()
    return Counter(
        {
            (labels["method"], labels["endpoint"], labels["status"]): int(number)
            for name, labels, number, *_ in family.samples
            if name.endswith("_count")
        }
    )


def queries(metrics: Metrics, query_type: str) -> float | None:
    return metrics.registry.get_sample_value(QUERIES, {"query_type": query_type})


@pytest.fixture
def tolerant(settings: Settings, isolated: Database) -> Iterator[RunningClient]:
    """A client that is sent a 500 where the application raises."""
    app = create_app(settings, isolated)
    with RunningClient(app, raise_server_exceptions=False, follow_redirects=False) as client:
        yield client


# --- Requests


@pytest.mark.parametrize(
    ("method", "path", "endpoint", "status"),
    [
        ("GET", f"{URL}?page=2", URL, 200),
        ("GET", f"{URL}/7", f"{URL}/{{resource_id}}", 200),
        ("GET", f"{URL}/999999", f"{URL}/{{resource_id}}", 404),
        ("GET", f"{URL}/x", f"{URL}/{{resource_id}}", 422),
        ("DELETE", f"{URL}/7", f"{URL}/{{resource_id}}", 405),
        ("GET", "/made-up/7", "unmatched", 404),
        ("GET", f"{URL}/", "unmatched", 307),
        ("MADE-UP", "/healthz", "/healthz", 405),
    ],
)
def test_labels_take_few_values(
    tolerant: RunningClient, method: str, path: str, endpoint: str, status: int
) -> None:
    for _ in range(2):
        assert tolerant.request(method, path).status_code == status
    label = "OTHER" if method == "MADE-UP" else method
    assert requests(tolerant.metrics) == {(label, endpoint, str(status)): 2}


def test_an_error_is_a_500(tolerant: RunningClient) -> None:
    def fail() -> None:
        raise LookupError

    tolerant.application.add_api_route("/fails/{way}", fail)
    assert tolerant.get("/fails/badly").status_code == 500
    assert requests(tolerant.metrics) == {("GET", "/fails/{way}", "500"): 1}


def test_an_error_after_the_response_is_none_of_the_request(tolerant: RunningClient) -> None:
    def fail() -> None:
        raise LookupError

    def answer(tasks: BackgroundTasks) -> None:
        tasks.add_task(fail)

    tolerant.application.add_api_route("/answers", answer)
    assert tolerant.get("/answers").status_code == 200
    assert requests(tolerant.metrics) == {("GET", "/answers", "200"): 1}


def test_a_stream_is_passed_on_and_ends_with_its_last_part() -> None:
    """Everything that is sent arrives before the application goes on."""
    metrics = Metrics()
    seen: list[tuple[str, int]] = []

    async def application(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 201})
        for more in (True, True, False):
            await send({"type": "http.response.body", "body": b".", "more_body": more})
            seen.append(("goes on", requests(metrics).total()))

    asyncio.run(send_through(MetricsMiddleware(application, metrics), seen))
    assert seen == [
        ("http.response.start", 0),
        *[("http.response.body", 0), ("goes on", 0)] * 2,
        ("http.response.body", 0),
        ("goes on", 1),
    ]
    assert requests(metrics) == {("GET", "unmatched", "201"): 1}


def test_a_stream_that_breaks_is_a_500() -> None:
    metrics = Metrics()

    async def application(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b".", "more_body": True})
        raise LookupError

    with pytest.raises(LookupError):
        asyncio.run(send_through(MetricsMiddleware(application, metrics), []))
    assert requests(metrics) == {("GET", "unmatched", "500"): 1}


async def send_through(middleware: MetricsMiddleware, seen: list[tuple[str, int]]) -> None:
    """Note each message that comes out, and how many requests have been observed by then."""

    async def send(message: Message) -> None:
        seen.append((message["type"], observed()))

    async def receive() -> Message:
        raise NotImplementedError

    def observed() -> int:
        (family,) = middleware._duration.collect()
        return sum(int(s.value) for s in family.samples if s.name.endswith("_count"))

    await middleware({"type": "http", "method": "GET"}, receive, send)


# --- Statements and connections


def test_statements_are_timed_by_what_they_do(client: RunningClient) -> None:
    client.get(URL)
    assert queries(client.metrics, "SELECT") == 3
    client.post(URL, json={"name": "new", "owner_id": 3})
    assert queries(client.metrics, "INSERT") == 1
    client.put(f"{URL}/7", json={"name": "new"})
    assert queries(client.metrics, "UPDATE") == 1


def test_a_statement_that_fails_is_timed(client: RunningClient, database: Database) -> None:
    with database.engine.connect() as connection:
        with pytest.raises(DatabaseError):
            connection.execute(text("SELECT nothing FROM nowhere"))
        assert queries(client.metrics, "SELECT") == 1
        connection.rollback()
        connection.execute(text("VALUES (1)"))
    assert queries(client.metrics, "SELECT") == 1


def test_connections_are_used_or_idle(client: RunningClient, database: Database) -> None:
    def connections(state: str) -> float | None:
        return client.metrics.registry.get_sample_value("db_connections", {"state": state})

    used, idle = connections("used"), connections("idle")
    assert used is not None
    assert idle is not None
    with database.engine.connect(), database.engine.connect():
        assert connections("used") == used + 2
    assert connections("used") == used
    assert (connections("idle") or 0) >= 2


@contextmanager
def started(settings: Settings, database: Database) -> Iterator[RunningClient]:
    with RunningClient(create_app(settings, database)) as client:
        yield client


def test_each_application_has_its_own(settings: Settings, database: Database) -> None:
    with started(settings, database) as first:
        first.get(f"{URL}/7")
        first.get(f"{URL}/7")
    with started(settings, database) as second:
        second.get(f"{URL}/8")
        assert counted(second.metrics.cache_misses) == {"query": 1}
        assert not counted(second.metrics.cache_hits)
    assert counted(first.metrics.cache_hits) == {"query": 1}
    # The first one is gone and listens no more, though the engine is the same.
    assert queries(first.metrics, "SELECT") == queries(second.metrics, "SELECT") == 2


# --- What is shown


def shown(client: TestClient) -> dict[str, Metric]:
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    return {family.name: family for family in text_string_to_metric_families(response.text)}


def test_all_are_shown(client: RunningClient) -> None:
    client.get(f"{URL}/7")
    client.get(f"{URL}/7")
    families = shown(client)
    assert {
        "http_request_duration_seconds": "histogram",
        "db_query_duration_seconds": "histogram",
        "db_connections": "gauge",
        "cache_hits": "counter",
        "cache_misses": "counter",
        "cache_errors": "counter",
    }.items() <= {name: family.type for name, family in families.items()}.items()
    hits = {s.name: (s.labels, s.value) for s in families["cache_hits"].samples}
    assert hits["cache_hits_total"] == ({"cache_type": "query"}, 1)


@pytest.mark.parametrize(
    ("family", "limit"),
    [("http_request_duration_seconds", "0.2"), ("db_query_duration_seconds", "0.1")],
)
def test_the_limits_are_buckets(client: RunningClient, family: str, limit: str) -> None:
    client.get(URL)
    assert limit in {sample.labels.get("le") for sample in shown(client)[family].samples}


# --- Compression


@pytest.mark.parametrize(
    ("path", "accepted", "encoding"),
    [
        (URL, "gzip", "gzip"),
        (URL, "identity", None),
        (f"{URL}?page_size=1", "gzip", None),
    ],
)
def test_large_answers_are_compressed_where_that_is_understood(
    client: RunningClient, path: str, accepted: str, encoding: str | None
) -> None:
    response = client.get(path, headers={"accept-encoding": accepted})
    assert response.headers.get("content-encoding") == encoding
    assert response.json()["total"] > 0
