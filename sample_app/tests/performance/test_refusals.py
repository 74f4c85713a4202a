"""Bad requests: refused before they cost a statement.

The answers are tested elsewhere. Here the budget alone has to notice.
"""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

pytestmark = [
    pytest.mark.performance,
    pytest.mark.perf_baseline,
    pytest.mark.perf_budget(sql_queries=0, sql_errors=0),
]


def test_sorting_by_a_relationship_reaches_no_database(reader: TestClient) -> None:
    """Trap: open_fields."""
    reader.get("/api/resources?sort_by=owner")


def test_filtering_by_any_attribute_reaches_no_database(reader: TestClient) -> None:
    """Trap: open_fields."""
    reader.get("/api/resources?metadata=1")


def test_page_zero_reaches_no_database(reader: TestClient) -> None:
    """Trap: unchecked_page."""
    reader.get("/api/resources?page=0")


@pytest.mark.perf_budget(sql_rows=0)
def test_the_whole_table_is_no_page(reader: TestClient) -> None:
    """Trap: unclamped_page_size."""
    reader.get("/api/resources?page_size=5000")


@pytest.mark.parametrize("query", ["page_size=101", "status=lost", "owner_id=0", "sort_order=up"])
def test_other_bad_queries_reach_no_database(reader: TestClient, query: str) -> None:
    reader.get(f"/api/resources?{query}")


def test_health_reaches_no_database(reader: TestClient) -> None:
    assert reader.get("/healthz").status_code == 200
