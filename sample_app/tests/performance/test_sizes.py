"""What goes over the wire: no more than a page, and compressed from 1,000 bytes."""

from __future__ import annotations

import pytest

from sample_app.tests.running import RunningClient

pytestmark = pytest.mark.performance


@pytest.mark.perf_budget(response_bytes="2KiB", response_bytes_decoded="16KiB")
def test_a_page_is_compressed(reader: RunningClient) -> None:
    """Trap: no_gzip."""
    assert reader.get("/api/resources").status_code == 200


@pytest.mark.perf_budget(response_bytes="8KiB", response_bytes_decoded="64KiB")
def test_the_largest_page_is_compressed(reader: RunningClient) -> None:
    assert reader.get("/api/resources?page_size=100").status_code == 200


@pytest.mark.perf_budget(response_bytes="1KiB")
def test_one_resource_is_small(reader: RunningClient) -> None:
    assert reader.get("/api/resources/7").status_code == 200
