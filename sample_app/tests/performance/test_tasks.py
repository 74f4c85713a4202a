"""Background tasks: how many are published, what each costs, and when it is tried again."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import OperationalError

from pytest_perfguard import Perf
from sample_app.tests.running import RunningClient
from sample_app.tests.webhook import Webhook
from sample_app.worker.services import Services
from sample_app.worker.tasks import MAX_RETRIES, process_data

pytestmark = [pytest.mark.performance, pytest.mark.perf_baseline]


@pytest.mark.perf_budget(
    task_published=1, task_runs=1, task_slowest="5s", task_retries=0, task_failures=0,
    task_n_plus_one=0, sql_queries=4, sql_commits=1, sql_n_plus_one=0,
)  # fmt: skip
def test_fifty_resources_are_one_task(client: RunningClient) -> None:
    """The guide's limit: less than 5 s. Trap: task_per_row."""
    answer = client.post("/api/resources/process", json={"ids": list(range(1, 51))})
    assert answer.json() == {"queued": 50}


@pytest.mark.perf_budget(tx_calls=0, task_published=1, sql_commits=1, http_errors=0)
def test_others_are_told_when_it_is_committed(telling: RunningClient, webhook: Webhook) -> None:
    """Trap: http_in_transaction."""
    answer = telling.post("/api/resources", json={"name": "new", "owner_id": 3})
    assert answer.status_code == 201
    assert [told["name"] for told in webhook.received] == ["new"]


AWAY = OperationalError("SELECT 1", None, Exception("the server is away"))


@pytest.mark.usefixtures("services")
def test_a_database_that_is_away_is_waited_for_ever_longer(perf: Perf) -> None:
    """The guide's retries: three at most, and each wait twice the one before.

    Trap: retry_at_once.
    """
    policy = perf.task(
        process_data,
        args=[7],
        patch="sample_app.worker.tasks.process_data_impl",
        error=AWAY,
        backoff="exponential",
        task_retries=MAX_RETRIES,
    )
    assert policy.countdowns == (1, 2, 4)


def test_a_task_is_counted_when_it_has_ended(services: Services, perf: Perf) -> None:
    """Trap: task_metrics_per_try."""
    perf.task(
        process_data,
        args=[7],
        patch="sample_app.worker.tasks.process_data_impl",
        error=AWAY,
        times=2,
    )
    read = services.metrics.registry.get_sample_value
    task = {"task_type": process_data.name}
    failures = read("task_failure_total", task | {"error_type": "OperationalError"})
    assert failures is None, (
        f"a task that succeeded at its third try is counted as {failures:.0f} failures: "
        "count it when it has ended"
    )
    assert read("task_success_total", task) == read("task_duration_seconds_count", task) == 1
