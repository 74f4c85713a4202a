"""How a task is retried, found out without waiting: ``perf.task`` plants a failure in it."""

from __future__ import annotations

import inspect
import logging
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from types import FunctionType
from typing import Any, Literal

from pytest_perfguard.budgets import Budget
from pytest_perfguard.errors import TaskError
from pytest_perfguard.jobs import Job
from pytest_perfguard.probes.celery_internals import without_jitter

# Tries after which a task is taken for one that is retried for ever.
_MOST_TRIES = 200
# How many times as long as the one before a countdown is, where it is to be twice as long. Steps
# of equal length, such as 1, 2 and 3 seconds, do not pass.
_TWICE = (1.6, 2.4)
Backoff = Literal["constant", "exponential"]


@dataclass(frozen=True, slots=True)
class Policy:
    """What a task did about a failure.

    Attributes:
        outcome: ``succeeded`` or ``failed``; ``rejected`` or ``ignored`` if the task said so.
        countdowns: seconds before each retry; where Celery's ``retry_jitter`` draws them, the
            longest that each may be.
        jitter: whether Celery draws them.
        error: class of the error that it failed with at last.
        failures: how often the planted failure happened.
    """

    outcome: str
    countdowns: tuple[float, ...]
    jitter: bool
    error: str | None
    failures: int

    @property
    def retries(self) -> int:
        """How often it was retried."""
        return len(self.countdowns)


def check(
    job: Job,
    task: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None,
    *,
    patch: Any,
    error: BaseException | type[BaseException],
    times: int | None,
    backoff: Backoff | None,
    max_retries: int | None,
    budgets: Sequence[Budget],
) -> Policy:
    """Run a task at once, with a failure in it, and hold it to what is expected of it."""
    __tracebackhide__ = True
    where = job.where
    if not callable(getattr(task, "apply", None)) or not hasattr(task, "request_stack"):
        raise TaskError(
            f"{where}: the task is of type {type(task).__name__}: pass a task of Celery's itself, "
            "such as process_data, neither its result nor a signature"
        )
    if times is not None and max_retries is not None:
        raise TaskError(
            f"{where}: max_retries= is only found out where it never succeeds: leave out times="
        )
    if times is not None and times < 1:
        raise TaskError(f"{where}: times={times!r}: 1 or more, or leave it out for every time")
    if backoff not in (None, "constant", "exponential"):
        raise TaskError(f"{where}: backoff={backoff!r}: 'exponential' or 'constant'")
    failure = _Failure(where, error, times)
    measured = job.open(f"retries of {task.name}", budgets)
    try:
        with failure.planted(patch), without_jitter() as drawn:
            outcome, countdowns, raised = _run(where, task, args, kwargs)
    finally:
        span = measured.close()
    policy = Policy(outcome, tuple(countdowns), bool(drawn), raised, failure.happened)
    at = f"{where}: task {task.name} ({_place(job, task)})"
    _hold(at, policy, failure, task, backoff, max_retries)
    job.judge(span, budgets)
    return policy


class _Failure:
    """A failure that takes the place of a function of the user's."""

    def __init__(
        self, where: str, error: BaseException | type[BaseException], times: int | None
    ) -> None:
        self._where = where
        self._times = times
        self.error = self._made(error)
        self.name = type(self.error).__name__
        self.target = ""
        self.calls = 0

    @property
    def happened(self) -> int:
        return self.calls if self._times is None else min(self.calls, self._times)

    def _made(self, error: BaseException | type[BaseException]) -> BaseException:
        __tracebackhide__ = True
        if isinstance(error, type) and issubclass(error, BaseException):
            try:
                return error("planted by perf.task")
            except TypeError:
                raise TaskError(
                    f"{self._where}: {error.__name__} cannot be made of a text: pass error= an "
                    "instance of it"
                ) from None
        if not isinstance(error, BaseException):
            raise TaskError(
                f"{self._where}: error= is of type {type(error).__name__}: pass an exception, "
                "such as ConnectionError"
            )
        return error

    @contextmanager
    def planted(self, patch: Any) -> Iterator[None]:
        __tracebackhide__ = True
        from unittest import mock  # noqa: PLC0415 - costly

        owner, name = self._resolved(patch)
        original = getattr(owner, name)

        def fail(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            self.calls += 1
            if self._times is None or self.calls <= self._times:
                raise self.error
            return original(*args, **kwargs)

        async def fail_awaited(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            found = fail(*args, **kwargs)
            return await found

        planted: Any = fail_awaited if inspect.iscoroutinefunction(original) else fail
        if isinstance(vars(owner).get(name), staticmethod | classmethod):
            # What is found in the class has no more need of it.
            planted = staticmethod(planted)
        with mock.patch.object(owner, name, planted):
            yield

    def _resolved(self, patch: Any) -> tuple[Any, str]:
        """Return the object that holds the function to take the place of, and its name."""
        __tracebackhide__ = True
        example = "such as patch='app.tasks.fetch', the name that the task calls"
        match patch:
            case str() if "." in patch:
                holder, _, name = patch.rpartition(".")
                self.target = patch
                try:
                    owner = pkgutil.resolve_name(holder)
                except (ImportError, AttributeError, ValueError) as error:
                    raise TaskError(f"{self._where}: patch={patch!r}: {error}") from None
            case (owner, str() as name):
                self.target = f"{getattr(owner, '__name__', type(owner).__name__)}.{name}"
            case _:
                raise TaskError(
                    f"{self._where}: patch= is of type {type(patch).__name__}: say what is to "
                    f"fail, {example}"
                )
        found = getattr(owner, name, None)
        if found is None:
            raise TaskError(
                f"{self._where}: patch: {self.target} does not exist: name a function, {example}"
            )
        if not callable(found):
            raise TaskError(
                f"{self._where}: patch: {self.target} is of type {type(found).__name__}, which "
                f"nobody can call: name a function, {example}"
            )
        return owner, name


def _run(
    where: str, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None
) -> tuple[str, list[float], str | None]:
    """Run a task and its retries; return the outcome, the countdowns and the last error's class."""
    __tracebackhide__ = True
    signals: Any = sys.modules["celery.signals"]
    countdowns: list[float] = []
    again: list[Any] = []
    ours: set[str] = set()

    def retried(request: Any = None, reason: Any = None, **_: Any) -> None:
        if request.id in ours:
            countdowns.append(_seconds(reason.when))
            again.append(reason.sig)
            # Celery itself would run it inside this run, and those that follow inside that.
            reason.sig = None

    def begun(task_id: str = "", task: Any = None, **_: Any) -> None:
        if not ours and task.request.is_eager:
            ours.add(task_id)

    signals.task_retry.connect(retried, weak=False)
    signals.task_prerun.connect(begun, weak=False)
    # It would log each planted failure with its traceback.
    log = logging.getLogger("celery.app.trace")
    quiet, log.disabled = log.disabled, True
    try:
        result = task.apply(tuple(args), dict(kwargs or {}), throw=False)
        while again:
            if len(countdowns) >= _MOST_TRIES:
                raise TaskError(
                    f"{where}: task {task.name} was retried {_MOST_TRIES} times and had not given "
                    "up: give it max_retries=, or say with times= how often the failure happens"
                )
            signature = again.pop()
            result = signature.apply(retries=len(countdowns), throw=False)
    finally:
        log.disabled = quiet
        signals.task_retry.disconnect(retried)
        signals.task_prerun.disconnect(begun)
    outcomes = {"SUCCESS": "succeeded", "FAILURE": "failed"}
    raised = type(result.result).__name__ if result.state == "FAILURE" else None
    return outcomes.get(result.state, result.state.lower()), countdowns, raised


def _seconds(when: Any) -> float:
    """Return a countdown, also of a retry that was given a time of day."""
    if isinstance(when, datetime):
        return round((when - datetime.now(when.tzinfo)).total_seconds(), 1)
    return when or 0


def _hold(
    at: str,
    policy: Policy,
    failure: _Failure,
    task: Any,
    backoff: Backoff | None,
    max_retries: int | None,
) -> None:
    __tracebackhide__ = True
    if not failure.calls:
        raise TaskError(
            f"{at} never called {failure.target}, so nothing failed: name the function as the task "
            f"finds it, such as patch='{task.run.__module__}.…'"
        )
    again = f"autoretry_for=({failure.name},), or raise self.retry(exc=error) where it is caught"
    if not policy.retries and max_retries != 0:
        if policy.outcome == "succeeded":
            raise TaskError(
                f"{at} swallowed {failure.name}: {failure.target} raised it, and the task ended as "
                f"if nothing had happened. Let it through, or retry: {again}"
            )
        raise TaskError(f"{at} was not retried: it {policy.outcome} at the first try. Use {again}")
    shown = ", ".join(f"{seconds:g}" for seconds in policy.countdowns)
    if max_retries is not None and policy.retries != max_retries:
        raise TaskError(
            f"{at} was retried {policy.retries} times, not {max_retries} (after {shown or 'no'} "
            f"seconds): set max_retries={max_retries} on the task"
        )
    if backoff is not None:
        _hold_backoff(at, policy.countdowns, shown, task, backoff)


def _hold_backoff(
    at: str, countdowns: Sequence[float], shown: str, task: Any, backoff: Backoff
) -> None:
    __tracebackhide__ = True
    if len(countdowns) < 2:  # noqa: PLR2004 - one alone grows by nothing
        raise TaskError(
            f"{at} was retried {len(countdowns)} time, which proves no {backoff} backoff: let the "
            "failure happen more often (times=), or allow more retries (max_retries= on the task)"
        )
    most = getattr(task, "retry_backoff_max", 600)
    if backoff == "constant":
        fits, remedy = len(set(countdowns)) == 1, "self.retry(countdown=10)"
    else:
        fits = all(
            (b == most and a >= most / 2) or (a > 0 and _TWICE[0] <= b / a <= _TWICE[1])
            for a, b in pairwise(countdowns)
        )
        remedy = "retry_backoff=True, or self.retry(countdown=2**self.request.retries)"
    if not fits:
        raise TaskError(
            f"{at} waits {shown} seconds, which is no {backoff} backoff: write {remedy}"
        )


def _place(job: Job, task: Any) -> str:
    """Return where the function of a task is written."""
    function: Callable[..., Any] = inspect.unwrap(task.run)
    function = getattr(function, "__func__", function)
    if not isinstance(function, FunctionType):
        return task.__module__ or "?"
    code = function.__code__
    return f"{job.guard.recorder.sites.show(code.co_filename)}:{code.co_firstlineno}"
