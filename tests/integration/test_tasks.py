"""Budgets of background tasks: run at once, and by a worker in a thread of the same process."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_perfguard.model import Record

# Celery binds shared tasks to every app that is made later, of other inner runs too; a broker in
# memory is one for all of them.
JOBS = """
from uuid import uuid4

from celery import Celery, group
from celery.contrib.testing.worker import start_worker
from sqlalchemy import text

from shop import engine, get_email

app = Celery("jobs", broker="memory://", backend="cache+memory://", set_as_current=False)
app.conf.task_default_queue = uuid4().hex
app.conf.broker_transport_options = {"polling_interval": 0.01}


def worker():
    return start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=60)


@app.task(shared=False)
def send_mail(number):
    return get_email(number)


@app.task(shared=False)
def send_mails(numbers):
    return [get_email(number) for number in numbers]


@app.task(shared=False)
def crash():
    raise ValueError("a secret")


@app.task(bind=True, max_retries=2, shared=False)
def flaky(self):
    try:
        raise ConnectionError("a secret")
    except ConnectionError as error:
        raise self.retry(exc=error, countdown=0)


@app.task(shared=False)
def fan_out(count):
    for number in range(1, count + 1):
        send_mail.delay(number)


@app.task(bind=True, shared=False)
def step_aside(self):
    return self.replace(send_mail.s(1))


def checkout(count):
    for number in range(1, count + 1):
        send_mail.delay(number)


def checkout_at_once(count):
    return group(send_mail.s(number) for number in range(1, count + 1)).apply_async()
"""
# How tests get their tasks run: at once, or by a worker.
WHERE = {
    "eager": """
import jobs
import pytest

@pytest.fixture(autouse=True, scope="module")
def run_tasks():
    jobs.app.conf.task_always_eager = True
""",
    "worker": """
import jobs
import pytest

@pytest.fixture(autouse=True, scope="module")
def run_tasks():
    with jobs.worker():
        yield
""",
}


@pytest.fixture(autouse=True)
def jobs(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(jobs=JOBS)


@pytest.fixture(params=WHERE)
def where(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_counts(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult], where: str
) -> None:
    pytester.makepyfile(
        WHERE[where]
        + """
def numbers(measured):
    names = "published n_plus_one runs retries failures".split()
    return [measured[f"task_{name}"] for name in names]

def measure(perf, call):
    with perf.measure("block", task_runs=99, task_slowest="60s") as measured:
        call()
    return measured

def test_one_by_one(perf):
    measured = measure(perf, lambda: jobs.checkout(6))
    assert numbers(measured) == [6, 1, 6, 0, 0]
    assert measured["sql_queries"] == 6
    assert measured["sql_n_plus_one"] == 0  # each task is judged by itself

def test_four_are_not_many(perf):
    assert numbers(measure(perf, lambda: jobs.checkout(4))) == [4, 0, 4, 0, 0]

def test_a_group(perf):
    assert numbers(measure(perf, lambda: jobs.checkout_at_once(6))) == [6, 0, 6, 0, 0]

def test_one_for_all(perf):
    measured = measure(perf, lambda: jobs.send_mails.delay([1, 2, 3, 4, 5, 6]))
    assert numbers(measured) == [1, 0, 1, 0, 0]
    assert measured["sql_n_plus_one"] == 1

def test_chunks(perf):
    measured = measure(perf, lambda: jobs.send_mail.chunks([(n,) for n in range(1, 7)], 2)())
    assert numbers(measured) == [3, 0, 3, 0, 0]
    assert measured["sql_queries"] == 6

def test_failures(perf):
    assert numbers(measure(perf, jobs.crash.delay)) == [1, 0, 1, 0, 1]

def test_retries(perf):
    assert numbers(measure(perf, jobs.flaky.delay)) == [1, 0, 3, 2, 1]

def test_tasks_of_tasks(perf):
    measured = measure(perf, lambda: jobs.fan_out.delay(6))
    assert numbers(measured) == [7, 1, 7, 0, 0]
    assert measured["sql_queries"] == 6

def test_a_chain(perf):
    call = jobs.fan_out.si(1) | jobs.send_mail.si(2)
    assert numbers(measure(perf, call.delay)) == [3, 0, 3, 0, 0]

@pytest.mark.perf_budget(task_runs=1, sql_queries=1)
def test_a_budget_of_the_test():
    jobs.send_mail.delay(1)
"""
    )
    run("-q").assert_outcomes(passed=10)


def test_a_task_that_is_called_as_a_function_is_none(
    pytester: pytest.Pytester, run_once: Callable[..., pytest.RunResult]
) -> None:
    pytester.makepyfile(
        """
        import jobs
        import pytest

        @pytest.mark.perf_budget(task_published=0, task_runs=0, sql_queries=1)
        def test_it():
            jobs.send_mail(1)
        """
    )
    run_once("-q").assert_outcomes(passed=1)


def test_spans_are_named_by_their_task_and_lie_where_they_were_published(
    pytester: pytest.Pytester,
    run: Callable[..., pytest.RunResult],
    records: Callable[[], dict[str, Record]],
    where: str,
) -> None:
    pytester.makepyfile(
        WHERE[where]
        + """
def test_it(perf):
    with perf.measure("first", task_runs=1):
        jobs.send_mail.delay(1)
    with perf.measure("second", task_runs=2):
        jobs.send_mails.delay([1, 2])
        jobs.send_mail.delay(1)
"""
    )
    run("-q", "--perfguard-json=run.json").assert_outcomes(passed=1)
    span = records()["test_it"].span
    assert [(part.kind, part.name) for part in span.walk()] == [
        ("test", "test_it"),
        ("block", "first"),
        ("task", "task jobs.send_mail"),
        ("block", "second"),
        ("task", "task jobs.send_mails"),
        ("task", "task jobs.send_mail"),
    ]
    assert [tally.count for tally in span.children[1].children[0].tallies if tally.count] == [2]


def test_the_failure_names_the_task_the_line_and_the_remedy(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult], where: str
) -> None:
    pytester.makepyfile(
        WHERE[where]
        + """
@pytest.mark.perf_budget(task_n_plus_one=0, task_published=5)
def test_n_plus_one():
    jobs.checkout(6)

@pytest.mark.perf_budget(task_failures=0, task_retries=0)
def test_failures():
    jobs.crash.delay()
    jobs.flaky.delay()

@pytest.mark.perf_budget(task_slowest="1us")
def test_slow():
    jobs.crash.delay()
"""
    )
    result = run("-q", "--perfguard-json=run.json")
    result.assert_outcomes(failed=3)
    file = "test_the_failure_names_the_task_the_line_and_the_remedy.py"
    line = {"eager": {"crash": 14, "flaky": 15}, "worker": {"crash": 15, "flaky": 16}}[where]
    result.stdout.fnmatch_lines(
        [
            "perfguard: 2 of 2 budgets exceeded in test_n_plus_one",
            "6x jobs.send_mail published one at a time",
            "    at jobs.py:54 in checkout",
            "    fix: publish one send_mail for all ids, or group(send_mail.s(id) for id in ids)",
            "timeline: *publish jobs.send_mail*",
        ]
    )
    result.stdout.fnmatch_lines(["perfguard: 2 of 2 budgets exceeded in test_failures"])
    result.stdout.fnmatch_lines_random(
        [
            "1x jobs.crash failed: ValueError",
            "1x jobs.flaky failed: ConnectionError",
            "2x jobs.flaky retried: ConnectionError",
            f"    at {file}:{line['crash']} in *",
            f"    at {file}:{line['flaky']} in *",
            "    fix: handle ValueError in the task, or let it be tried again: autoretry_for=(Val*",
            "slowest: jobs.* took *s",
        ]
    )
    # Celery's own log quotes the error; nothing of ours does.
    assert "a secret" not in (pytester.path / "run.json").read_text("utf-8")


def test_a_waiver_on_the_line_that_publishes(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult], where: str
) -> None:
    pytester.makepyfile(
        WHERE[where]
        + """
@pytest.mark.perf_budget(task_n_plus_one=0, task_runs=6)
def test_it():
    for number in range(1, 7):
        jobs.send_mail.delay(number)  # perfguard: ignore[task_n_plus_one] few, and far between
"""
    )
    run("-q").assert_outcomes(passed=1)


def test_what_no_worker_runs_is_unproven(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]
) -> None:
    pytester.makepyfile(
        """
        import jobs
        import pytest

        @pytest.mark.perf_budget(task_runs=9, task_failures=0, task_published=2)
        def test_it():
            jobs.crash.delay()
            jobs.crash.delay()

        def test_nobody_waits(perf):
            with perf.measure("block", task_published=1) as measured:
                jobs.crash.delay()
            with pytest.raises(KeyError, match="nobody waited for 1 of 1 messages of jobs"):
                measured["task_runs"]
        """
    )
    result = run("-q", "--perfguard-task-timeout=0")
    result.assert_outcomes(failed=1, passed=1)
    why = (
        "1 of 1 messages of jobs.crash published at test_what_no_worker_runs_is_unproven.py:6; "
        "1 of 1 messages of jobs.crash published at test_what_no_worker_runs_is_unproven.py:7: "
        "not run within 0 s, or no worker told of it: start the worker with -I "
        "pytest_perfguard.celery_worker, raise perfguard_task_timeout, or let tasks run at once: "
        "task_always_eager"
    )
    result.stdout.fnmatch_lines(
        [
            "perfguard: 2 of 3 budgets unproven in test_it",
            "  task_runs      unproven (limit 9)   perf_budget, *:4",
            f"      {why}",
            "  task_failures  unproven (limit 0)   perf_budget, *:4",
            f"      {why}",
        ]
    )


def test_a_budget_without_a_task_is_unproven(
    pytester: pytest.Pytester, run_once: Callable[..., pytest.RunResult]
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.perf_budget(task_runs=1)
        def test_runs():
            pass

        @pytest.mark.perf_budget(task_latency="1s")
        def test_latency():
            import jobs
            jobs.send_mail.apply((1,))
        """
    )
    result = run_once("-q")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*no task was observed in test_runs, so the budget proves*"])
    result.stdout.fnmatch_lines(
        ["*no task that a worker ran was observed in test_latency, so the*"]
    )


def test_the_latency_of_a_worker(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]
) -> None:
    pytester.makepyfile(
        WHERE["worker"]
        + """
@pytest.mark.perf_budget(task_latency="60s")
def test_long_enough():
    jobs.send_mail.delay(1)

@pytest.mark.perf_budget(task_latency="1us")
def test_too_short():
    jobs.send_mail.delay(1)
"""
    )
    result = run("-q")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["longest wait: jobs.send_mail began * after it was published"])


def test_a_request_is_judged_with_its_tasks(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult], where: str
) -> None:
    pytester.makepyfile(
        api="""
        from fastapi import FastAPI
        import jobs

        app = FastAPI()

        @app.post("/orders/{count}")
        def order(count: int):
            jobs.checkout(count)
        """
    )
    pytester.makepyfile(
        WHERE[where]
        + """
from fastapi.testclient import TestClient
from api import app

def test_it(perf):
    client = TestClient(app)
    client.post("/orders/2")
    client.post("/orders/6")
"""
    )
    result = run("-q", "--perfguard-budgets=POST /orders/*: task_runs=5, task_n_plus_one=0")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "perfguard: 2 of 2 budgets exceeded in POST /orders/{count}",
            "  task_runs        6 > 5   perfguard_budgets, *",
            "  task_n_plus_one  1 > 0   perfguard_budgets, *",
            "6x jobs.send_mail published one at a time",
        ]
    )


def test_baselines_hold_what_is_published(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult], where: str
) -> None:
    test = (
        WHERE[where]
        + """
@pytest.mark.perf_baseline
@pytest.mark.perf_budget(task_runs=9)
def test_it():
    jobs.checkout({count})
"""
    )
    pytester.makepyfile(test.format(count=2))
    run("-q", "--perfguard-update").assert_outcomes(passed=1)
    run("-q").assert_outcomes(passed=1)
    pytester.makepyfile(test.format(count=3))
    result = run("-q")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["  task_published  3 > 2   *"])


def test_nothing_is_left_behind(
    pytester: pytest.Pytester, run_once: Callable[..., pytest.RunResult]
) -> None:
    pytester.makepyfile(
        WHERE["worker"]
        + """
@pytest.mark.perf_budget(task_runs=1)
def test_it():
    jobs.send_mail.delay(1)
"""
    )
    from celery import signals

    names = ("before_task_publish", "task_prerun", "task_retry", "task_failure", "task_postrun")

    def receivers() -> list[int]:
        return [len(getattr(signals, name).receivers or ()) for name in names]

    before = receivers()
    run_once("-q").assert_outcomes(passed=1)
    assert receivers() == before


def test_a_session_that_knows_no_celery_does_not_load_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys
        import pytest

        @pytest.mark.perf_budget(task_runs=0)
        def test_it(perf):
            assert "celery" not in sys.modules and "kombu" not in sys.modules
        """
    )
    pytester.runpytest_subprocess("-q", "-p", "no:asyncio").assert_outcomes(passed=1)


def test_what_is_published_before_the_commit_is_named(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult], where: str
) -> None:
    """A worker may look before the row is there, or for one that is then rolled back."""
    pytester.makepyfile(
        WHERE[where]
        + """
from sqlalchemy import update

from shop import User, engine

CHANGE = update(User).where(User.id == 1).values(email="new")

@pytest.mark.perf_budget(tx_calls=0)
def test_early():
    with engine.begin() as connection:
        connection.execute(CHANGE)
        jobs.send_mails.delay([])

@pytest.mark.perf_budget(tx_calls=0)
def test_late():
    with engine.begin() as connection:
        connection.execute(CHANGE)
    jobs.send_mails.delay([])
"""
    )
    result = run()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "1x task jobs.send_mails inside a transaction that had written: UPDATE users at *",
            "    at test_*:* in test_early",
            "    fix: commit first and call then*",
        ]
    )


def test_a_task_that_is_replaced_ends(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult], where: str
) -> None:
    """What comes after it is the test's own; its replacement has its identity."""
    pytester.makepyfile(
        WHERE[where]
        + """
@pytest.mark.perf_budget(sql_queries=2, task_runs=1)
def test_it():
    jobs.step_aside.delay()
    jobs.get_email(1)
    jobs.get_email(2)

@pytest.mark.perf_budget(sql_queries=0)
def test_next():
    jobs.get_email(1)
"""
    )
    result = run("-q")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines_random(
        [
            "perfguard: 2 of 2 budgets exceeded in test_it",
            "  sql_queries  3 > 2   *",
            "  task_runs    2 > 1   *",
            "perfguard: 1 of 1 budget exceeded in test_next",
        ]
    )


def test_what_is_no_queue_is_told_where_it_is_given(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]
) -> None:
    pytester.makepyfile(
        """
        import pytest

        def test_it(perf):
            perf.queue(object())

        def test_half(perf):
            class Half:
                def start(self, probe):
                    pass
            perf.queue(Half())

        @pytest.mark.perf_budget(sql_queries=0)
        def test_next(perf):
            from shop import get_email
            get_email(1)
        """
    )
    result = run("-q")
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines_random(
        [
            "*TaskError: perf.queue, test_*.py:4: what is of type object has no *",
            "*TaskError: perf.queue, test_*.py:10: what is of type Half has no stop(): *",
            "perfguard: 1 of 1 budget exceeded in test_next",
        ]
    )
