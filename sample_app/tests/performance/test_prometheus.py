"""What the service exports: it must agree with what was really done."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pytest_perfguard import Perf
from sample_app.tests.running import RunningClient

pytestmark = pytest.mark.performance

LIST = "/api/resources"
ONE = "/api/resources/{resource_id}"


def test_the_page_can_be_read(reader: RunningClient) -> None:
    """Every metric has a help text and a type, and no series is there twice."""
    reader.get(LIST)
    families = list(text_string_to_metric_families(reader.get("/metrics").text))
    series = [
        (s.name, tuple(sorted(s.labels.items()))) for family in families for s in family.samples
    ]
    assert len(series) == len(set(series))
    for family in families:
        # The client library writes one for each counter that says when it began.
        if not family.name.endswith("_created"):
            assert family.documentation
            assert family.type != "unknown"


@pytest.mark.perf_budget(sql_queries=8, cache_commands=24)
def test_what_is_exported_is_what_was_done(client: RunningClient, perf: Perf) -> None:
    """A page and a row, each cold and warm, and a write that makes the row cold again."""
    with perf.prometheus(client, absent=0) as prom:
        for _ in range(2):
            client.get(LIST)
            client.get(f"{LIST}/7")
        client.put(f"{LIST}/7", json={"name": "new"})
        client.get(f"{LIST}/999999999999")
    assert prom("http_request_duration_seconds_count") == prom["http_requests"] == 6
    assert prom("http_request_duration_seconds_count", endpoint=ONE, status="422") == 1
    # SQLite's BEGIN is sent like a query and counted as another one, as it takes time, too.
    counted = "db_query_duration_seconds_count"
    queries = [prom(counted, query_type=kind) for kind in ("select", "insert", "update", "delete")]
    assert queries == [7, 0, 1, 0]
    assert sum(queries) == prom["sql_queries"]
    assert prom("cache_hits_total") == prom["cache_hits"] == 2
    for cache_type in ("response", "query"):
        assert prom("cache_hits_total", cache_type=cache_type) == 1
        assert prom("cache_misses_total", cache_type=cache_type) == 1
    # One request asks the database, however often it looks into Redis before.
    assert prom("cache_misses_total") == 2 <= prom["cache_misses"]


def test_a_warm_page_is_a_hit_in_the_metrics_too(reader: RunningClient, perf: Perf) -> None:
    """Trap: session_in_key."""
    reader.get(LIST)
    limits: dict[str, float | str] = {
        'cache_hits_total{cache_type="response"}': ">= 1",
        'cache_misses_total{cache_type="response"}': 0,
        "db_query_duration_seconds_count": 0,
        f'http_request_duration_seconds_count{{endpoint="{LIST}"}}': "<= 1",
        f'http_request_duration_seconds_bucket{{endpoint="{LIST}",le="0.25"}}': ">= 1",
    }
    with perf.prometheus(reader, limits, absent=0):
        assert reader.get(LIST).status_code == 200
