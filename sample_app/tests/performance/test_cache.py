"""The cache: what a warm answer costs, and that only one request pays for a cold one."""

from __future__ import annotations

import pytest

from pytest_perfguard import Perf
from sample_app.tests.running import RunningClient

pytestmark = [
    pytest.mark.performance,
    pytest.mark.perf_baseline,
    pytest.mark.perf_budget(cache_errors=0, cache_n_plus_one=0),
]

HIT = {"sql_queries": 0, "cache_commands": 1, "cache_misses": 0}


def test_a_warm_page_takes_no_sql(reader: RunningClient, perf: Perf) -> None:
    """The same question is found under the same key. Trap: session_in_key."""
    perf.cold_warm(
        lambda: reader.get("/api/resources"),
        flush=reader.flush,
        cold={"sql_queries": 3, "cache_roundtrips": 3},
        warm=HIT | {"cache_bytes": "16KiB"},
    )


def test_a_warm_empty_page_takes_no_sql(reader: RunningClient, perf: Perf) -> None:
    perf.cold_warm(lambda: reader.get("/api/resources?page=1000"), flush=reader.flush, warm=HIT)


def test_a_warm_row_takes_no_sql(client: RunningClient, perf: Perf) -> None:
    """And it is whole: its owner and its items come with it. Trap: pickled_rows."""
    perf.cold_warm(
        lambda: client.get("/api/resources/7"),
        flush=client.flush,
        cold={"sql_queries": 2, "cache_roundtrips": 3},
        warm=HIT | {"cache_bytes": "1KiB"},
    )


def test_that_there_is_no_row_is_kept(reader: RunningClient, perf: Perf) -> None:
    """Nothing is an answer, too. Trap: falsy_is_a_miss."""
    perf.cold_warm(
        lambda: reader.get("/api/resources/999999"),
        flush=reader.flush,
        cold={"sql_queries": 1},
        warm=HIT,
    )


@pytest.mark.perf_budget(cache_hit_ratio="90%", sql_queries=3)
def test_a_page_that_many_ask_for_is_loaded_once(reader: RunningClient) -> None:
    """Trap: session_in_key."""
    for _ in range(10):
        assert reader.get("/api/resources").status_code == 200


# Those who wait look again until the answer is there: how often is up to the machine.
@pytest.mark.perf_baseline(
    cache_misses=50,
    cache_commands=50,
    cache_roundtrips=50,
    cache_bytes="1MiB",
    cache_hit_ratio="100%",
)
@pytest.mark.parametrize("path", ["", "/7", "/999999"], ids=["page", "row", "no row"])
def test_one_loads_for_all_who_ask_at_once(reader: RunningClient, perf: Perf, path: str) -> None:
    """Trap: stampede."""
    perf.stampede(lambda: reader.get(f"/api/resources{path}"), flush=reader.flush)


@pytest.mark.perf_budget(cache_blocking_calls=0, cache_commands=7)
def test_nobody_waits_while_one_asks_the_cache(reader: RunningClient) -> None:
    """Trap: blocking_redis."""
    for path in ("", "", "/7"):
        assert reader.get(f"/api/resources{path}").status_code == 200


@pytest.mark.perf_budget(sql_queries=0, cache_commands=0)
@pytest.mark.parametrize("query", ["page=0", "sort_by=owner", "metadata=1", "status=lost"])
def test_bad_requests_do_not_reach_the_cache(reader: RunningClient, query: str) -> None:
    assert reader.get(f"/api/resources?{query}").status_code == 422


@pytest.mark.perf_budget(cache_writes_without_ttl=0, cache_misses=2)
def test_what_is_kept_expires(reader: RunningClient) -> None:
    """The guide's 300 s. Trap: kept_for_ever."""
    assert reader.get("/api/resources").status_code == 200
    assert reader.get("/api/resources/3").status_code == 200


@pytest.mark.perf_budget(sql_queries=3, cache_roundtrips=2)
def test_a_write_asks_redis_twice(client: RunningClient) -> None:
    """What is listed for the collection, and to delete it: however much it is."""
    assert client.put("/api/resources/7", json={"name": "new"}).status_code == 200


def test_a_write_leaves_what_has_not_changed(client: RunningClient, perf: Perf) -> None:
    paths = ("/api/resources/7", "/api/resources/8", "/api/resources")
    for path in paths:
        client.get(path)
    client.put(paths[0], json={"name": "new"})
    with perf.measure("changed", sql_queries=2):
        assert client.get(paths[0]).json()["name"] == "new"
    with perf.measure("not changed", sql_queries=0, cache_hits=1, cache_misses=0):
        client.get(paths[1])
    with perf.measure("all", sql_queries=3):
        assert client.get(paths[2]).json()["items"][6]["name"] == "new"
