from __future__ import annotations

from collections.abc import Callable

import pytest

# Celery binds shared tasks to every app that is made later, of other inner runs too.
JOBS = """
from datetime import datetime, timedelta, timezone

from celery import Celery

app = Celery("jobs", broker="memory://", set_as_current=False)


def fetch(number):
    return number


class Client:
    def get(self):
        return 1

    @staticmethod
    def put():
        return 2

    @classmethod
    def head(cls):
        return cls

client = Client()


@app.task(bind=True, max_retries=3, shared=False)
def doubling(self, number):
    try:
        return fetch(number)
    except ConnectionError as error:
        raise self.retry(exc=error, countdown=2**self.request.retries)


@app.task(bind=True, max_retries=4, shared=False)
def steady(self):
    try:
        return client.get()
    except ConnectionError as error:
        raise self.retry(exc=error, countdown=7)


@app.task(bind=True, max_retries=4, shared=False)
def linear(self):
    try:
        return Client.put(), Client.head()
    except ConnectionError as error:
        raise self.retry(exc=error, countdown=1 + self.request.retries)


@app.task(bind=True, max_retries=1, shared=False)
def later(self):
    try:
        return fetch(1)
    except ConnectionError as error:
        raise self.retry(exc=error, eta=datetime.now(timezone.utc) + timedelta(seconds=30))


@app.task(autoretry_for=(ConnectionError,), retry_backoff=3, retry_backoff_max=20, max_retries=5,
          retry_jitter=False, shared=False)
def automatic(number=0):
    return fetch(number)


@app.task(autoretry_for=(ConnectionError,), retry_backoff=True, max_retries=3, shared=False)
def jittered():
    return fetch(1)


@app.task(bind=True, max_retries=None, shared=False)
def endless(self):
    try:
        return fetch(1)
    except ConnectionError as error:
        raise self.retry(exc=error, countdown=1)


@app.task(shared=False)
def swallows():
    try:
        return fetch(1)
    except ConnectionError:
        return None


@app.task(shared=False)
def fragile():
    return fetch(1)
"""


@pytest.fixture(autouse=True)
def jobs(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(jobs=JOBS)


def test_countdowns_and_outcomes(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]
) -> None:
    pytester.makepyfile(
        """
        import jobs
        import pytest

        def test_retry(perf):
            policy = perf.task(
                jobs.doubling, args=(42,), patch="jobs.fetch", backoff="exponential", max_retries=3
            )
            assert policy.countdowns == (1, 2, 4)
            assert (policy.retries, policy.outcome) == (3, "failed")
            assert policy.error == "ConnectionError"
            assert (policy.jitter, policy.failures) == (False, 4)

        def test_it_works_in_the_end(perf):
            policy = perf.task(jobs.doubling, kwargs={"number": 1}, patch="jobs.fetch", times=2)
            assert (policy.countdowns, policy.outcome) == ((1, 2), "succeeded")
            assert (policy.error, policy.failures) == (None, 2)

        def test_constant(perf):
            policy = perf.task(jobs.steady, patch="jobs.Client.get", backoff="constant")
            assert policy.countdowns == (7, 7, 7, 7)

        def test_attribute_of_an_object(perf):
            policy = perf.task(jobs.steady, patch=(jobs.client, "get"), times=1)
            assert policy.countdowns == (7,)
            assert "get" not in vars(jobs.client)

        @pytest.mark.parametrize("name", ["put", "head"])
        def test_static_and_class_methods(perf, name):
            policy = perf.task(jobs.linear, patch=f"jobs.Client.{name}", times=2)
            assert (policy.countdowns, policy.outcome) == ((1, 2), "succeeded")
            assert jobs.Client.put() == 2 and jobs.Client.head() is jobs.Client

        def test_eta(perf):
            (countdown,) = perf.task(jobs.later, patch="jobs.fetch").countdowns
            assert 29 <= countdown <= 30

        def test_autoretry(perf):
            policy = perf.task(jobs.automatic, patch="jobs.fetch", backoff="exponential")
            assert policy.countdowns == (3, 6, 12, 20, 20)
            assert not policy.jitter

        def test_jitter_is_shown_by_its_longest(perf):
            policy = perf.task(jobs.jittered, patch="jobs.fetch", backoff="exponential")
            assert policy.countdowns == (1, 2, 4)
            assert policy.jitter

        def test_no_retry_is_asked_for(perf):
            policy = perf.task(
                jobs.fragile, patch="jobs.fetch", error=KeyError("secret"), max_retries=0
            )
            assert (policy.retries, policy.error) == (0, "KeyError")

        def test_eager_apps_that_let_errors_through(perf):
            jobs.app.conf.task_eager_propagates = True
            try:
                assert perf.task(jobs.doubling, (1,), patch="jobs.fetch").countdowns == (1, 2, 4)
            finally:
                jobs.app.conf.task_eager_propagates = False

        def test_limits(perf):
            perf.task(jobs.doubling, (1,), patch="jobs.fetch", task_retries=3, task_runs=4,
                      task_failures=1)
        """
    )
    run("-q").assert_outcomes(passed=12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            "jobs.fragile, patch='jobs.fetch'",
            ("task jobs.fragile (jobs.py:86) was not retried: it failed at the first try. Use "
            "autoretry_for=(ConnectionError,), or raise self.retry(exc=error) where it is caught"),
        ),
        (
            "jobs.swallows, patch='jobs.fetch'",
            ("task jobs.swallows (jobs.py:78) swallowed ConnectionError: jobs.fetch raised it, and "
            "the task ended as if nothing had happened. Let it through, or retry: "),
        ),
        (
            "jobs.fragile, patch='jobs.Client.get'",
            ("task jobs.fragile (jobs.py:86) never called jobs.Client.get, so nothing failed: name "
            "the function as the task finds it, such as patch='jobs.…'"),
        ),
        (
            "jobs.endless, patch='jobs.fetch'",
            "task jobs.endless was retried 200 times and had not given up: give it max_retries=",
        ),
        (
            "jobs.doubling, (1,), patch='jobs.fetch', max_retries=5",
            "was retried 3 times, not 5 (after 1, 2, 4 seconds): set max_retries=5 on the task",
        ),
        (
            "jobs.fragile, patch='jobs.fetch', max_retries=1",
            "was not retried",
        ),
        (
            "jobs.steady, patch='jobs.Client.get', backoff='exponential'",
            "waits 7, 7, 7, 7 seconds, which is no exponential backoff: write retry_backoff=True",
        ),
        (
            "jobs.linear, patch='jobs.Client.put', backoff='exponential'",
            "waits 1, 2, 3, 4 seconds, which is no exponential backoff",
        ),
        (
            "jobs.doubling, (1,), patch='jobs.fetch', backoff='constant'",
            "waits 1, 2, 4 seconds, which is no constant backoff: write self.retry(countdown=10)",
        ),
        (
            "jobs.doubling, (1,), patch='jobs.fetch', times=1, backoff='exponential'",
            "was retried 1 time, which proves no exponential backoff: let the failure happen more",
        ),
        ("jobs.fetch, patch='jobs.fetch'", "the task is of type function: pass a task of Celery's"),
        ("jobs.fragile.s(), patch='jobs.fetch'", "the task is of type Signature: pass a task of"),
        ("jobs.fragile, patch='jobs.nothing'", "patch: jobs.nothing does not exist: name a func"),
        ("jobs.fragile, patch='nowhere.fetch'", "patch='nowhere.fetch': No module named 'nowhere'"),
        ("jobs.fragile, patch='jobs.client'", "patch: jobs.client is of type Client, which nobody"),
        ("jobs.fragile, patch=jobs.fetch", "patch= is of type function: say what is to fail, such"),
        ("jobs.fragile, patch='jobs.fetch', error='x'", "error= is of type str: pass an exception"),
        (
            "jobs.fragile, patch='jobs.fetch', error=UnicodeDecodeError",
            "UnicodeDecodeError cannot be made of a text: pass error= an instance of it",
        ),
        ("jobs.fragile, patch='jobs.fetch', times=0", "times=0: 1 or more, or leave it out"),
        (
            "jobs.fragile, patch='jobs.fetch', times=1, max_retries=1",
            "max_retries= is only found out where it never succeeds: leave out times=",
        ),
        ("jobs.fragile, patch='jobs.fetch', backoff='linear'", "backoff='linear': 'exponential' o"),
        ("jobs.fragile, patch='jobs.fetch', task_runz=1", "unknown metric 'task_runz'. Did you"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_the_line_and_the_remedy(
    pytester: pytest.Pytester, run_once: Callable[..., pytest.RunResult], call: str, message: str
) -> None:
    pytester.makepyfile(f"import jobs\n\ndef test_it(perf):\n    perf.task({call})\n")
    result = run_once("-q")
    result.assert_outcomes(failed=1)
    shown = " ".join(result.stdout.str().split())
    assert "perf.task, test_what_is_wrong_is_said_with_the_line_and_the_remedy.py:4" in shown
    # pytest breaks no lines, but marks them.
    assert message in shown.replace(" E ", " ")


def test_a_limit_on_the_tries_is_judged(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]
) -> None:
    pytester.makepyfile(
        """
        import jobs

        def test_it(perf):
            perf.task(jobs.doubling, (1,), patch="jobs.fetch", task_retries=2)
        """
    )
    result = run("-q")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "perfguard: 1 of 1 budget exceeded in block 'retries of jobs.doubling'",
            "  task_retries  3 > 2   perf.task, test_a_limit_on_the_tries_is_judged.py:4",
            "3x jobs.doubling retried: ConnectionError",
        ]
    )
