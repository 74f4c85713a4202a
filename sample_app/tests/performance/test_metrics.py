"""What Prometheus reads: its size must not depend on how much the service is used."""

from __future__ import annotations

import re
from typing import cast

import pytest
from fastapi import FastAPI

from sample_app.tests.running import RunningClient

pytestmark = [pytest.mark.performance, pytest.mark.perf_budget(sql_queries=0)]


@pytest.fixture
def visited(reader: RunningClient) -> RunningClient:
    """Call an application that has been asked for many things, be they there or not."""
    for id_ in range(1, 61):
        reader.get(f"/api/resources/{id_}")
        reader.get(f"/nothing/there/{id_}")
    return reader


@pytest.mark.perf_budget(response_bytes="4KiB", response_bytes_decoded="32KiB")
# What the page says of the process differs from run to run.
@pytest.mark.perf_baseline(response_bytes="50%", response_bytes_decoded="50%")
def test_metrics_do_not_grow_with_the_ids(visited: RunningClient) -> None:
    """A time series for each route, not for each path. Trap: raw_path_labels."""
    assert visited.get("/metrics").status_code == 200


@pytest.mark.perf_budget(http_errors=2)
def test_what_raises_is_observed_too(reader: RunningClient) -> None:
    """Who watches the error rate would see none. Trap: base_http_middleware."""
    cast("FastAPI", reader.app).add_api_route("/broken", _broken)
    for _ in range(2):
        assert reader.get("/broken").status_code == 500
    errors = (
        r'^http_request_duration_seconds_count\{endpoint="/broken",method="GET",status="500"\} 2'
    )
    assert re.search(errors, reader.get("/metrics").text, re.MULTILINE), (
        "requests that raised were not observed: "
        "observe in a finally clause, where the application is called"
    )


async def _broken() -> None:
    raise ZeroDivisionError
