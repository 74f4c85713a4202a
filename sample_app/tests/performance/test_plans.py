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
    """The composite index finds the status and gives the order.

    Traps: missing_index, index_order.
    """
    page = reader.get("/api/resources?status=draft&sort_by=created_at&sort_order=desc").json()
    assert {item["status"] for item in page["items"]} == {"draft"}


def test_newest_of_an_owner_is_served_by_an_index(reader: TestClient) -> None:
    page = reader.get("/api/resources?owner_id=7&sort_by=created_at&sort_order=desc").json()
    assert {item["owner"]["id"] for item in page["items"]} == {7}


def test_one_resource_is_served_by_an_index(reader: TestClient) -> None:
    assert reader.get("/api/resources/7").status_code == 200


def test_a_user_is_found_by_an_address_in_any_case(reader: TestClient) -> None:
    """Trap: lower_email."""
    owner = reader.get("/api/resources/7").json()["owner"]
    found = reader.get("/api/users/by-email", params={"email": owner["email"].upper()})
    assert found.json() == owner
