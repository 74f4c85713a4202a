"""Query plans: the common listings are served by the guide's indexes."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

pytestmark = [
    pytest.mark.performance,
    pytest.mark.perf_baseline,
    pytest.mark.perf_budget(sql_full_scans=0),
]


def test_newest_of_a_status_is_served_by_an_index(reader: TestClient) -> None:
    """The composite index finds the status and gives the order. Trap: missing_index."""
    page = reader.get("/api/resources?status=draft&sort_by=created_at&sort_order=desc").json()
    assert {item["status"] for item in page["items"]} == {"draft"}


def test_newest_of_an_owner_is_served_by_an_index(reader: TestClient) -> None:
    page = reader.get("/api/resources?owner_id=7&sort_by=created_at&sort_order=desc").json()
    assert {item["owner"]["id"] for item in page["items"]} == {7}


def test_one_resource_is_served_by_an_index(reader: TestClient) -> None:
    assert reader.get("/api/resources/7").status_code == 200
