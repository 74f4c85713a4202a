"""The guide's load test, with budgets.

Times have generous limits here: Locust, the service and whoever else is at work share the cores of
one machine. On a machine of its own the guide's 200 ms would be written. What fails, what is sent
and who answers is counted, and needs no room.
"""

from __future__ import annotations

import pytest

from pytest_perfguard import Perf
from sample_app.tests.load.live import LOCUSTFILE, LiveServer

pytestmark = [pytest.mark.performance]


@pytest.mark.perf_budget(load_failures=0, load_p95="5s", load_requests=15, load_rps=1)
def test_users_of_the_api(one_worker: LiveServer, perf: Perf) -> None:
    """Trap: locust_without_id."""
    load = perf.load(LOCUSTFILE, host=one_worker.url, user="APIUser", users=5, run_time="6s")
    assert sorted(load.endpoints) == [
        "GET /api/resources", "POST /api/resources", "PUT /api/resources/{id}",
    ]  # fmt: skip


@pytest.mark.usefixtures("slow_webhook")
def test_writers_do_not_wait_for_each_other(one_worker: LiveServer, perf: Perf) -> None:
    """Eight write at once, and each has somebody told, who takes a quarter of a second.

    Four threads take two turns; one at a time would take eight. Trap: one_at_a_time.
    """
    url = one_worker.url
    perf.load(LOCUSTFILE, host=url, user="Writer", users=8, run_time="8s", load_p95="1.6s")
