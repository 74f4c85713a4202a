"""Background tasks: what they do, how they are tried again, and how they are counted."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import uuid4

import psutil
import pytest
import redis
from celery import Celery
from fastapi import FastAPI
from kombu import serialization
from kombu.exceptions import ContentDisallowed
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from sample_app.core.celery_app import (
    HIGH_PRIORITY_QUEUE,
    MAIN_QUEUE,
    celery_app,
    configuration,
)
from sample_app.core.config import Settings
from sample_app.core.database import Database
from sample_app.core.metrics import Metrics
from sample_app.core.migrate import upgrade
from sample_app.core.monitoring import Monitor
from sample_app.models import ResourceSummary
from sample_app.seed import seed
from sample_app.tests.running import RunningClient
from sample_app.tests.webhook import Webhook
from sample_app.worker import tasks
from sample_app.worker.services import Services

PROCESS = "/api/resources/process"
_PICKLE = "application/x-python-serialize"


def summaries(database: Database) -> dict[int, tuple[int, int]]:
    with database.session() as db:
        rows = db.scalars(select(ResourceSummary)).all()
        return {row.resource_id: (row.words, row.items) for row in rows}


def counted(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0


def test_resources_are_summarized(client: RunningClient, isolated: Database) -> None:
    response = client.post(PROCESS, json={"ids": [1, 2, 2, 999_999]})
    assert (response.status_code, response.json()) == (202, {"queued": 3})
    found = summaries(isolated)
    assert sorted(found) == [1, 2]
    shown = client.get("/api/resources/1").json()
    words = len(f"{shown['name']} {shown['description'] or ''}".split())
    assert found[1] == (words, len(shown["related_items"]))


def test_a_task_may_be_run_twice(client: RunningClient, isolated: Database) -> None:
    for _ in range(2):
        assert client.post(PROCESS, json={"ids": [1, 2]}).status_code == 202
    assert len(summaries(isolated)) == 2


@pytest.mark.parametrize("ids", [[], list(range(1, 102)), ["x"], [0], None])
def test_what_cannot_be_processed_is_refused(client: RunningClient, ids: object) -> None:
    assert client.post(PROCESS, json={"ids": ids}).status_code == 422


def test_new_resources_are_announced(telling: RunningClient, webhook: Webhook) -> None:
    made = telling.post("/api/resources", json={"name": "new", "owner_id": 3}).json()
    assert webhook.received == [{"id": made["id"], "name": "new"}]


def test_nobody_is_told_of_what_was_refused(telling: RunningClient, webhook: Webhook) -> None:
    telling.post("/api/resources", json={"name": "new", "owner_id": 999_999})
    assert webhook.received == []


def test_a_webhook_that_is_busy_is_asked_again(telling: RunningClient, webhook: Webhook) -> None:
    webhook.answers += [503, 500]
    telling.post("/api/resources", json={"name": "new", "owner_id": 3})
    assert len(webhook.received) == 3


def test_a_webhook_that_fails_does_not_fail_the_request(
    telling: RunningClient, webhook: Webhook
) -> None:
    webhook.answers += [503] * 10
    response = telling.post("/api/resources", json={"name": "new", "owner_id": 3})
    assert response.status_code == 201
    assert len(webhook.received) == 4


class Failing:
    """Fails some times before it works."""

    def __init__(self, times: int, error: Exception) -> None:
        self.calls = 0
        self._times = times
        self._error = error

    def __call__(self, _ids: object) -> int:
        self.calls += 1
        if self.calls <= self._times:
            raise self._error
        return 1


AWAY = OperationalError("SELECT 1", None, Exception("the server is away"))


def test_a_task_is_counted_once_however_often_it_was_tried(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "process_data_impl", Failing(2, AWAY))
    assert tasks.process_data.delay(7).get() == 1
    task = tasks.process_data.name
    assert counted(services.metrics, "task_success_total", task_type=task) == 1
    assert counted(services.metrics, "task_duration_seconds_count", task_type=task) == 1
    labels = {"task_type": task, "error_type": "OperationalError"}
    assert counted(services.metrics, "task_retries_total", **labels) == 2
    assert counted(services.metrics, "task_failure_total", **labels) == 0


@pytest.mark.parametrize(
    ("error", "tries"), [(AWAY, 4), (ZeroDivisionError(), 1)], ids=["transient", "a bug"]
)
def test_a_task_is_given_up_in_the_end(
    services: Services, monkeypatch: pytest.MonkeyPatch, error: Exception, tries: int
) -> None:
    failing = Failing(10, error)
    monkeypatch.setattr(tasks, "process_data_impl", failing)
    with pytest.raises(type(error)):
        tasks.process_many.delay([7]).get()
    assert failing.calls == tries
    task = tasks.process_many.name
    labels = {"task_type": task, "error_type": type(error).__name__}
    assert counted(services.metrics, "task_failure_total", **labels) == 1
    assert counted(services.metrics, "task_retries_total", **labels) == tries - 1
    assert counted(services.metrics, "task_success_total", task_type=task) == 0


def test_the_wait_doubles() -> None:
    assert [tasks.backoff(retries) for retries in range(tasks.MAX_RETRIES)] == [1, 2, 4]


# -- the queue ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "queue"),
    [
        ("sample_app.worker.tasks.process_data", "main-queue"),
        ("sample_app.worker.high_priority.announce", "high-priority-queue"),
    ],
)
def test_tasks_go_to_their_queue(task: str, queue: str) -> None:
    """The guide's patterns, in its order, would send both to the main queue."""
    assert celery_app.amqp.router.route({}, task)["queue"].name == queue


def test_only_json_is_taken() -> None:
    known = configuration(Settings(broker_url="memory://"))
    assert known["accept_content"] == ["json"]
    with pytest.raises(ContentDisallowed):
        serialization.loads(b"", _PICKLE, "binary", accept=["json"])


def test_tasks_run_at_once_where_there_is_no_broker() -> None:
    assert configuration(Settings())["task_always_eager"]
    assert not configuration(Settings(broker_url="redis://"))["task_always_eager"]


@contextmanager
def worker(settings: Settings) -> Iterator[None]:
    """Run a worker of its own until the end of the block."""
    told = {
        f"SAMPLE_APP_{name}": str(getattr(settings, name.lower()))
        for name in ("DATABASE_URL", "BROKER_URL", "QUEUE_PREFIX", "RESULT_BACKEND")
    }
    queues = [settings.queue_prefix + name for name in (MAIN_QUEUE, HIGH_PRIORITY_QUEUE)]
    process = subprocess.Popen(  # noqa: S603 - this Python and this service
        [
            sys.executable, "-m", "celery", "-A", "sample_app.core.celery_app", "worker",
            "-Q", ",".join(queues), "-c", "1", "--loglevel", "WARNING",
            "--without-mingle", "--without-gossip",
        ],
        env={**os.environ, **told},
    )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("variable", ["SAMPLE_APP_TEST_AMQP_URL", "SAMPLE_APP_TEST_REDIS_URL"])
def test_a_worker_of_its_own_does_the_work(
    variable: str, new_database_url: Callable[[], str]
) -> None:
    broker = os.environ.get(variable)
    if broker is None:
        pytest.skip(f"{variable} names no broker")
    settings = Settings(
        database_url=new_database_url(),
        broker_url=broker,
        queue_prefix=f"sample_app_test_{uuid4().hex}-",
        result_backend="rpc://" if broker.startswith("amqp") else broker,
    )
    database = Database.from_settings(settings)
    upgrade(database.engine)
    seed(database.engine)
    with Celery("test", set_as_current=False) as publisher:
        publisher.conf.update(configuration(settings))
        with worker(settings):
            asked = publisher.send_task(tasks.process_many.name, [[1, 2, 999_999]])
            assert asked.get(timeout=60) == 2
            asked.forget()
        publisher.backend.result_consumer.stop()
        with publisher.connection_for_write() as connection:
            for queue in (MAIN_QUEUE, HIGH_PRIORITY_QUEUE):
                connection.default_channel.queue_delete(settings.queue_prefix + queue)
    if broker.startswith("redis"):
        with redis.Redis.from_url(broker) as server:
            # Names of queues that are gone stay listed there.
            for key in server.scan_iter(match=f"*{settings.queue_prefix}*", count=1000):
                server.unlink(key)
    assert sorted(summaries(database)) == [1, 2]
    database.dispose()


# -- the monitor ----------------------------------------------------------------------------------


def test_the_monitor_reads_until_it_is_stopped() -> None:
    metrics = Metrics()
    before = threading.active_count()
    with Monitor(metrics, 60) as monitor:
        assert threading.active_count() == before + 1
        # Nothing is known yet, and 0 % would be a lie.
        for name in ("cpu_usage_percent", "memory_usage_bytes"):
            value = counted(metrics, name)
            assert value != value  # noqa: PLR0124 - not a number
        monitor.read()
        assert counted(metrics, "memory_usage_bytes") == pytest.approx(
            psutil.Process().memory_info().rss, rel=0.5
        )
        assert counted(metrics, "cpu_usage_percent") >= 0
    assert threading.active_count() == before


def test_a_monitor_without_an_interval_has_no_thread(app: FastAPI) -> None:
    before = threading.active_count()
    with Monitor(app.state.metrics, 0):
        assert threading.active_count() == before
