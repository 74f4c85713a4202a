"""Tasks that workers in processes of their own run, over real brokers."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pytest_perfguard import Measurement, Recorder, Settings
from pytest_perfguard.probes.celery_queue import HEADER
from pytest_perfguard.probes.tasks import NEED_RUNS
from tests.services.support import ROOT, Shop, counts, done, here, place

TOLD = "--include=pytest_perfguard.celery_worker"


@pytest.fixture(params=["solo", "prefork"], scope="module")
def shop(broker: Shop, request: pytest.FixtureRequest) -> Iterator[Shop]:
    """An app with a worker that tells what its tasks did."""
    with broker.worker(request.param, TOLD):
        yield broker


@pytest.fixture
def idle(broker: Shop) -> Iterator[Shop]:
    """An app that has no worker."""
    with closing(broker.another()) as shop:
        yield shop


def measured_by(
    call: Callable[[], object], *, timeout: float = 60, asked: tuple[str, ...] = NEED_RUNS
) -> Measurement:
    """Measure a call in a block that has budgets for what is asked of it."""
    with Recorder(Settings(root=ROOT, task_timeout=timeout)) as recorder:
        measured = Measurement(recorder, recorder.open("block", "block", asked=frozenset(asked)))
        try:
            call()
        finally:
            measured.close()
    return measured


def tasks(measured: Measurement) -> dict[str, float]:
    """Return what is counted of tasks, without what is 0."""
    names = ("published", "n_plus_one", "runs", "retries", "failures")
    return {name: value for name in names if (value := measured.get(f"task_{name}"))}


def test_a_task_in_a_worker_is_counted_with_what_it_runs(shop: Shop) -> None:
    def checkout() -> None:
        shop.task("look").delay(1)  # publishes

    measured = measured_by(checkout)
    assert tasks(measured) == {"published": 1, "runs": 1}
    assert (
        counts(measured) == {"queries": 1, "roundtrips": 1, "rows": 0}
        or counts(measured)["queries"] == 1
    )
    (task,) = done(measured).children
    assert (task.kind, task.name) == ("task", "task shop.look")
    assert [place(t) for t in task.tallies if t.probe == "tasks"] == [here("publishes")]
    assert 0 < measured["task_slowest"] < 60
    assert 0 <= measured["task_latency"] < 60


def test_an_n_plus_one_inside_a_task_is_found_at_the_line_of_the_task(shop: Shop) -> None:
    measured = measured_by(lambda: shop.task("look_at_all").delay(6))
    assert measured["sql_n_plus_one"] == 1
    (finding,) = done(measured).children[0].findings
    assert finding.tally.site is not None
    assert finding.tally.site.file == "tests/services/task_app.py"
    assert finding.tally.count == 6


def test_many_messages(shop: Shop) -> None:
    def checkout() -> None:
        for number in range(12):
            shop.task("look").delay(number)

    measured = measured_by(checkout)
    assert tasks(measured) == {"published": 12, "n_plus_one": 1, "runs": 12}
    assert counts(measured)["queries"] == 12
    assert measured["sql_n_plus_one"] == 0


def test_retries_are_waited_for(shop: Shop) -> None:
    measured = measured_by(shop.task("flaky").delay)
    assert tasks(measured) == {"published": 1, "runs": 3, "retries": 2, "failures": 1}
    ends = {t.kind: t.subject for span in done(measured).walk() for t in span.tallies if t.subject}
    assert ends == {"retry": "ConnectionError", "failure": "ConnectionError"}


def test_tasks_of_tasks_are_waited_for(shop: Shop) -> None:
    measured = measured_by(lambda: shop.task("fan_out").delay(6))
    assert tasks(measured) == {"published": 7, "n_plus_one": 1, "runs": 7}


def test_an_eager_call_inside_a_task_is_counted(shop: Shop) -> None:
    measured = measured_by(shop.task("call_eagerly").delay)
    assert tasks(measured) == {"published": 2, "runs": 2}
    assert counts(measured)["queries"] == 1


def test_records_hold_no_argument_and_no_text_of_an_error(shop: Shop) -> None:
    measured = measured_by(lambda: shop.task("crash").delay("an argument"))
    assert tasks(measured) == {"published": 1, "runs": 1, "failures": 1}
    plain = json.dumps(done(measured).to_dict())
    assert "a secret" not in plain
    assert "an argument" not in plain
    assert "ValueError" in plain


def test_only_messages_whose_runs_are_asked_for_carry_a_header(shop: Shop) -> None:
    shop.headers.clear()
    unasked = measured_by(lambda: shop.task("look").delay(1), asked=())
    asked = measured_by(lambda: shop.task("look").delay(1), asked=("task_runs",))
    shop.task("look").delay(1)
    assert [HEADER in headers for headers in shop.headers] == [False, True, False]
    assert tasks(unasked) == {"published": 1}
    assert tasks(asked) == {"published": 1, "runs": 1}


def test_nothing_is_left_on_the_broker_and_in_this_process(shop: Shop) -> None:
    def checkout() -> None:
        shop.task("look").delay(1)
        reply = shop.headers[-1][HEADER]["reply"]
        # Redis knows no queue without a message.
        assert shop.kind == "redis" or shop.left(reply)

    measured_by(checkout)
    before = _resources()
    measured_by(checkout)
    threads, files = _resources()
    assert threads == before[0]
    assert files <= before[1]
    assert not shop.left(shop.headers[-1][HEADER]["reply"])


def _resources() -> tuple[set[str], int]:
    threads = {thread.name for thread in threading.enumerate()}
    files = Path("/proc/self/fd")
    return threads, len(os.listdir(files)) if files.exists() else 0  # noqa: PTH208


def test_a_record_that_nobody_waited_for_does_not_stay(shop: Shop) -> None:
    """The worker runs the task when its publisher has gone."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        measured = measured_by(lambda: shop.task("meet").delay(port), timeout=0)
        assert "task_runs" not in measured
        connection, _ = server.accept()
        connection.sendall(b"x")
        # The next task of the same worker begins when the record has been sent.
        with connection:
            assert connection.recv(1) == b""
    measured_by(lambda: [shop.task("look").delay(1) for _ in range(2)])
    reply = shop.headers[-3][HEADER]["reply"]
    if shop.kind == "amqp":
        assert not shop.left(reply)
    elif shop.left(reply):
        with shop.app.connection_for_read() as connection:
            assert 0 < connection.default_channel.client.ttl(reply) <= 60


def test_two_workers_share_the_work(idle: Shop) -> None:
    with (
        idle.worker("solo", TOLD),
        idle.worker("solo", TOLD),
        socket.create_server(("127.0.0.1", 0)) as server,
    ):

        def answer() -> None:
            """Let two tasks end when both have begun, as no one worker can make them."""
            met = [server.accept()[0] for _ in range(2)]
            for connection in met:
                connection.sendall(b"x")
                connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        port = server.getsockname()[1]
        measured = measured_by(lambda: [idle.task("meet").delay(port) for _ in range(2)])
        thread.join()
    assert tasks(measured) == {"published": 2, "runs": 2}


def test_a_worker_that_does_not_tell_leaves_the_runs_unproven(idle: Shop) -> None:
    with idle.worker("solo"):
        measured = measured_by(lambda: idle.task("look").delay(1), timeout=1)  # unheard
    assert tasks(measured) == {"published": 1}
    assert done(measured).facts["task_runs"] == (
        f"1 of 1 messages of shop.look published at {here('unheard')}: not run within 1 s, or no "
        "worker told of it: start the worker with -I pytest_perfguard.celery_worker, raise "
        "perfguard_task_timeout, or let tasks run at once: task_always_eager"
    )


@pytest.mark.parametrize("pool", ["solo", "prefork"])
def test_a_worker_that_is_killed_leaves_the_runs_unproven(idle: Shop, pool: str) -> None:
    with idle.worker(pool, TOLD):

        def checkout() -> None:
            idle.task("look").delay(1)
            idle.task("die").delay()

        measured = measured_by(checkout, timeout=3)
    assert tasks(measured) == {"published": 2}
    assert (
        done(measured)
        .facts["task_failures"]
        .startswith("1 of 1 messages of shop.die published at ")
    )


def test_a_worker_tells_nothing_of_tasks_that_nobody_asked_for(idle: Shop) -> None:
    with idle.worker("solo", TOLD):
        idle.task("look").delay(1)
        measured = measured_by(lambda: idle.task("look").delay(1))
    assert tasks(measured) == {"published": 1, "runs": 1}


def test_each_app_has_a_queue_of_its_own(shop: Shop, idle: Shop) -> None:
    with idle.worker("solo", TOLD):
        shop.headers.clear()
        measured = measured_by(lambda: [s.task("look").delay(1) for s in (shop, idle)])
    assert tasks(measured) == {"published": 2, "runs": 2}
    assert len({headers[HEADER]["reply"] for headers in shop.headers}) == 2


def test_what_the_broker_is_sent_is_no_command_of_the_user(shop: Shop) -> None:
    """Redis as a broker is used through the client that caches are used through."""
    measured = measured_by(lambda: shop.task("look").delay(1))
    assert tasks(measured) == {"published": 1, "runs": 1}
    assert measured["cache_commands"] == 0
    assert [t.label for t in done(measured).tallies if t.probe == "cache"] == []


def test_what_a_task_replaces_itself_by_is_a_run_of_its_own(shop: Shop) -> None:
    measured = measured_by(shop.task("step_aside").delay)
    assert tasks(measured) == {"published": 2, "runs": 2}
    assert counts(measured)["queries"] == 1
