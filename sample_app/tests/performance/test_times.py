"""The guide's benchmark: under 200 ms for each endpoint, in a hundred rounds.

It asks for the 95th percentile, as a mean hides that some wait, and leaves the first, cold request
out, which is counted instead.
"""

from __future__ import annotations

from itertools import count, cycle

import pytest

from pytest_perfguard import Perf
from sample_app.tests.running import RunningClient

pytestmark = [
    pytest.mark.performance,
    pytest.mark.perf_budget(http_p95="200ms", sql_n_plus_one=0, sql_errors=0, cache_errors=0),
]

URL = "/api/resources"
ROUNDS = 100
PAGES = 250


@pytest.fixture
def warm(reader: RunningClient) -> RunningClient:
    """Call an application that has cached the first page; fixtures are not counted."""
    reader.get(URL)
    return reader


@pytest.mark.perf_budget(sql_queries=3, cache_roundtrips=3, response_bytes="3KiB")
def test_list(reader: RunningClient, perf: Perf) -> None:
    """Another page each time: the database is asked, and the answer compressed."""
    pages = cycle(range(1, PAGES + 1))
    timed = perf.http(reader).get(lambda: f"{URL}?page={next(pages)}", rounds=ROUNDS)
    assert len(timed.response.json()["items"]) == 20
    assert timed["response_bytes"] < timed["response_bytes_decoded"]


@pytest.mark.perf_budget(sql_queries=0, cache_roundtrips=1, cache_misses=0, response_bytes="3KiB")
def test_list_from_the_cache(warm: RunningClient, perf: Perf) -> None:
    """Trap: mean_hides_outlier."""
    timed = perf.http(warm).get(URL, rounds=ROUNDS)
    # This is all that the guide asks for.
    assert timed["http_mean"] < 0.2


@pytest.mark.perf_budget(sql_queries=2, cache_roundtrips=3, response_bytes="1KiB")
def test_get(reader: RunningClient, perf: Perf) -> None:
    ids = count(7)
    perf.http(reader).get(lambda: f"{URL}/{next(ids)}", rounds=ROUNDS)


@pytest.mark.perf_budget(sql_queries=2, sql_commits=1, cache_roundtrips=2, response_bytes="1KiB")
def test_create(client: RunningClient, perf: Perf) -> None:
    names = (f"new {number}" for number in count())
    perf.http(client).post(
        URL, json=lambda: {"name": next(names), "owner_id": 3}, rounds=ROUNDS, status=201
    )


@pytest.mark.perf_budget(sql_queries=3, sql_commits=1, cache_roundtrips=2, response_bytes="1KiB")
def test_update(client: RunningClient, perf: Perf) -> None:
    names = (f"new {number}" for number in count())
    timed = perf.http(client).put(f"{URL}/7", json=lambda: {"name": next(names)}, rounds=ROUNDS)
    assert timed.response.json()["name"] == "new 0"
