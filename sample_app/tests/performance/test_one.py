"""One resource: reading and writing it."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

pytestmark = [pytest.mark.performance, pytest.mark.perf_baseline]


@pytest.mark.perf_budget(sql_queries=2, sql_n_plus_one=0, sql_duplicates=0, sql_slowest="100ms")
def test_get(reader: TestClient) -> None:
    """The row with its owner, and the related items."""
    assert reader.get("/api/resources/7").status_code == 200


@pytest.mark.perf_budget(sql_queries=1)
def test_get_what_does_not_exist(reader: TestClient) -> None:
    assert reader.get("/api/resources/999999").status_code == 404


@pytest.mark.perf_budget(sql_queries=2, sql_commits=1, sql_duplicates=0, sql_errors=0)
def test_create(client: TestClient) -> None:
    """The owner, and the new row: nothing is read back for the response."""
    response = client.post("/api/resources", json={"name": "new", "owner_id": 3})
    assert response.status_code == 201


@pytest.mark.perf_budget(sql_queries=1, sql_commits=0)
def test_create_for_nobody(client: TestClient) -> None:
    response = client.post("/api/resources", json={"name": "new", "owner_id": 999_999})
    assert response.status_code == 422


@pytest.mark.perf_budget(sql_queries=3, sql_commits=1, sql_duplicates=0, sql_errors=0)
class TestUpdate:
    """The row with its owner, the related items, and the change."""

    def test_a_name(self, client: TestClient) -> None:
        response = client.put("/api/resources/7", json={"name": "new"})
        assert response.json()["name"] == "new"

    @pytest.mark.perf_budget(sql_queries=4)
    def test_a_new_owner_is_looked_up(self, client: TestClient) -> None:
        response = client.put("/api/resources/7", json={"owner_id": 200})
        assert response.json()["owner"]["id"] == 200

    @pytest.mark.perf_budget(sql_queries=2)
    def test_no_change_writes_nothing(self, client: TestClient) -> None:
        assert client.put("/api/resources/7", json={}).status_code == 200
