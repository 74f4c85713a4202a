"""Listing: the cost of a page must not depend on what is on it."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from pytest_perfguard import Perf

pytestmark = [pytest.mark.performance, pytest.mark.perf_baseline]


@pytest.mark.perf_budget(
    sql_queries=3, sql_n_plus_one=0, sql_duplicates=0, sql_slowest="100ms", pool_peak="80%"
)
def test_a_page_takes_three_statements(reader: TestClient) -> None:
    """Total, rows with their owners, related items. Traps: lazy_owner, lazy_related."""
    items = reader.get("/api/resources").json()["items"]
    assert len(items) == 20
    # Without many owners and items on the page, loading them one by one would hardly show.
    assert len({item["owner"]["id"] for item in items}) >= 10
    assert sum(bool(item["related_items"]) for item in items) >= 10


@pytest.mark.perf_budget(sql_queries=3, sql_n_plus_one=0, sql_rows=500, sql_time="100ms")
def test_the_largest_page_takes_no_more(reader: TestClient) -> None:
    """Trap: counted_in_memory."""
    assert len(reader.get("/api/resources?page_size=100").json()["items"]) == 100


@pytest.mark.perf_budget(sql_queries=30, sql_n_plus_one=0, sql_duplicates=0, sql_errors=0)
def test_ten_pages_are_no_n_plus_one(reader: TestClient) -> None:
    """Ten requests run the same statements, and none of them runs one twice."""
    for page in range(1, 11):
        assert reader.get(f"/api/resources?page={page}").status_code == 200


@pytest.mark.perf_budget(response_bytes="3KiB", response_bytes_decoded="10KiB")
def test_a_page_is_compressed(reader: TestClient) -> None:
    """The guide's limit: what is longer than 1 KB is compressed. Trap: uncompressed."""
    assert reader.get("/api/resources").status_code == 200


def test_filters_and_sorting_add_no_statement(reader: TestClient, perf: Perf) -> None:
    with perf.measure("plain", sql_queries=3) as plain:
        reader.get("/api/resources")
    with perf.measure("narrowed", sql_queries=3) as narrowed:
        reader.get("/api/resources?status=draft&owner_id=1&sort_by=name&sort_order=desc")
    assert narrowed["sql_queries"] == plain["sql_queries"] == 3
    assert 0 < narrowed["sql_rows"] < plain["sql_rows"]


@pytest.mark.perf_budget(
    sql_queries=2, sql_n_plus_one=0, sql_duplicates=0, sql_full_scans=0, sql_deep_offsets=0
)
class TestKeyset:
    """Walking by key: no total, no OFFSET, and every page found by the primary key.

    Trap: deep_offset.
    """

    def test_near_the_start(self, reader: TestClient) -> None:
        assert len(reader.get("/api/resources/after?after=20").json()["items"]) == 20

    def test_near_the_end(self, reader: TestClient) -> None:
        assert len(reader.get("/api/resources/after?after=4900").json()["items"]) == 20

    def test_backwards(self, reader: TestClient) -> None:
        page = reader.get("/api/resources/after?after=4900&sort_order=desc").json()
        assert page["next_after"] == 4880
