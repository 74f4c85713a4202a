"""``perf.http`` and ``perf.time``: a call that is counted once and timed many times.

The first call is counted, with the probes on, and is the cold round of the timing. Then the probes
are taken away, so that what is timed is what runs in production.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass, replace
from inspect import isawaitable, iscoroutinefunction
from typing import TYPE_CHECKING, Any

from pytest_perfguard import stats
from pytest_perfguard.budgets import Budget
from pytest_perfguard.errors import TimingError
from pytest_perfguard.jobs import Job, Steps
from pytest_perfguard.model import Span
from pytest_perfguard.probes.http import UNCLAIMED, fold_path, open_request
from pytest_perfguard.progress import progress
from pytest_perfguard.recorder import Measurement, Recorder
from pytest_perfguard.spans import OpenSpan
from pytest_perfguard.timing import Plan, Timing, measure
from pytest_perfguard.units import shown

if TYPE_CHECKING:
    from pytest_perfguard.session_windows import Taken
    from pytest_perfguard.work import CallCount

_MAX_BODY = 200
_WARMUP = 10
# How long rounds go on for a profile: some thousand samples.
_PROFILED_SECONDS = 2.0
# Arguments of a request that may differ from round to round.
_PER_ROUND = ("json", "data", "params", "content", "headers")


class Timed(Measurement):
    """What the first call cost, and how long the others took.

    Attributes:
        result: what the first call returned.
        timing: the rounds.
    """

    def __init__(
        self,
        recorder: Recorder,
        opened: OpenSpan,
        span: Span | None,
        timing: Timing,
        result: Any,
    ) -> None:
        super().__init__(recorder, opened)
        self.span = span
        self.timing = timing
        self.result = result

    @property
    def response(self) -> Any:
        """The first response, where requests were timed."""
        return self.result


class _FirstCall:
    """The first call of a timing, which is counted: with the probes on, in a span of its own.

    Attributes:
        span: what was counted; None until the call has ended.
        limits: highest values of the statistics, known once the call has told which endpoint it
            is that they are for.
    """

    def __init__(
        self,
        job: Job,
        call: Callable[[], Any],
        begin: Callable[[], OpenSpan],
        limits_of: Callable[[str], dict[str, float]],
    ) -> None:
        self._job = job
        self._call = call
        self._begin = begin
        self._limits_of = limits_of
        self.limits: dict[str, float] = {}
        self.awaited = False
        self.opened: OpenSpan | None = None
        self.span: Span | None = None
        self.result: Any = None

    def __call__(self) -> Any:
        __tracebackhide__ = True
        if self.opened is not None:
            return self._call()
        self.opened = self._begin()
        try:
            self.result = self._call()
        except BaseException:
            self._end()
            raise
        if isawaitable(self.result):
            self.awaited = True
            return self._finish(self.result)
        self._end()
        return self.result

    async def _finish(self, pending: Awaitable[Any]) -> Any:
        __tracebackhide__ = True
        try:
            self.result = await pending
        finally:
            self._end()
        return self.result

    def _end(self) -> None:
        __tracebackhide__ = True
        assert self.opened is not None
        recorder = self._job.guard.recorder
        self.span = recorder.close(self.opened, keep=False)
        recorder.stop()
        self.limits.update(self._limits_of(self.span.name))


def timed(
    job: Job,
    call: Callable[[], Any],
    begin: Callable[[], OpenSpan],
    *,
    group: str,
    budgets: Iterable[Budget] = (),
    rounds: int,
    warmup: int,
    max_time: float | str | None,
    concurrency: int,
    check: Callable[[Any], object] | None,
    client: object | None = None,
) -> Steps:
    """Count a call once and time it; the generator returns a :class:`Timed`.

    Args:
        client: what the call is sent by, if it is a request.
    """
    __tracebackhide__ = True
    recorder = job.guard.recorder
    if job.guard.profiling:
        plan = Plan(rounds, 0, max_time or _PROFILED_SECONDS, concurrency)
        return (yield from _profiled(recorder, call, begin, plan, group, check))

    def limits_of(name: str) -> dict[str, float]:
        __tracebackhide__ = True
        limits = job.guard.time_limits(job.item, group, name, budgets)
        for statistic, budget in limits.items():
            fewest = stats.lookup(statistic).fewest
            if rounds < fewest:
                raise TimingError(
                    f"{job.where}: {group}_{statistic} needs at least {fewest} rounds, not "
                    f"{rounds}: write rounds={fewest}; its limit is that of {budget.where}"
                )
        return {statistic: budget.limit for statistic, budget in limits.items()}

    first = _FirstCall(job, call, begin, limits_of)
    plan = Plan(rounds, warmup, max_time, concurrency, first.limits)
    if recorder.timing:
        raise TimingError(
            f"{job.where}: another timing is under way, and each would disturb the other: make "
            "one after the other, or ask for concurrency="
        )
    found = _Found()
    recorder.timing = True
    try:
        yield from _after_the_first(job, first, call, plan, found, group, budgets, check, client)
    finally:
        recorder.timing = False
        # What watched caches have counted meanwhile belongs to nobody.
        recorder.skip()
        recorder.start()
        if first.opened is not None and first.span is not None:
            if found.timing is not None:
                first.span = _with_timing(first.span, found, group)
            recorder.keep(first.opened, first.span)
    assert first.opened is not None
    if found.timing is None:
        # The test is given what it was given the first time, but for the response.
        assert found.taken is not None
        span, timing = found.taken.given
        return Timed(recorder, first.opened, span, timing, first.result)
    if found.taken is not None:
        found.taken.statistics, found.taken.py_calls = found.timing.statistics, found.calls
        found.taken.given = (first.span, found.timing)
    return Timed(recorder, first.opened, first.span, found.timing, first.result)


@dataclass(slots=True)
class _Found:
    """What is measured of a call after it has been counted.

    Attributes:
        timing: None in a run that only takes another window.
        taken: for the comparison with stored times, if there is one.
        calls: of Python functions, if they are counted.
    """

    timing: Timing | None = None
    taken: Taken | None = None
    calls: int | None = None


def _after_the_first(
    job: Job,
    first: _FirstCall,
    call: Callable[[], Any],
    plan: Plan,
    found: _Found,
    group: str,
    budgets: Iterable[Budget],
    check: Callable[[Any], object] | None,
    client: object | None,
) -> Steps:
    """Make the first call and the rounds, count Python calls, take a window: what is asked for."""
    __tracebackhide__ = True
    windows = job.guard.windows
    alone = plan.concurrency == 1
    if alone and windows is not None and windows.is_return(job.item):
        yield first()
    else:
        shown = progress(job.item.config, job.where)
        try:
            found.timing = yield measure(first, plan, check=check, progress=shown)
        finally:
            if shown is not None:
                shown.wipe()
        if job.guard.counts_calls(job.item, budgets):
            from pytest_perfguard.work import count_calls  # noqa: PLC0415 - rarely needed

            counted: CallCount = yield count_calls(call, threads=_threads_of(client))
            found.calls = counted.calls
    if first.span is None:
        return
    name = first.span.name
    looked_at = _checked(call, check, awaited=first.awaited) if group == "http" else call
    turnstile = job.guard.turnstile
    if turnstile is not None and alone:
        yield from turnstile.take(job.item, name, looked_at, awaited=first.awaited)
    elif turnstile is not None:
        turnstile.decline(job.item, name, "calls that run at once are not compared")
    if alone and windows is not None:
        found.taken = yield from windows.take(
            job.item, name, looked_at, metrics=group, client=client, awaited=first.awaited
        )


def _checked(
    call: Callable[[], Any], check: Callable[[Any], object] | None, *, awaited: bool
) -> Callable[[], Any]:
    """Return the call with a look at what it returns, for rounds that nobody else looks at."""
    if check is None:
        return call

    async def checked_async() -> None:
        __tracebackhide__ = True
        check(await call())

    def checked() -> None:
        __tracebackhide__ = True
        check(call())

    return checked_async if awaited else checked


def _threads_of(client: object | None) -> tuple[Callable[..., object], ...]:
    """Return what runs a function in the thread that a client's application runs in."""
    portal = getattr(client, "portal", None)  # Starlette's TestClient, where it has been entered
    return () if portal is None else (portal.call,)


class _EachCall:
    """A call in a pass that is profiled: each time in a span of its own, with the probes on.

    Attributes:
        opened: the span of the first call; None before it.
        span: what became of it.
        result: what the first call returned.
    """

    def __init__(
        self, recorder: Recorder, call: Callable[[], Any], begin: Callable[[], OpenSpan]
    ) -> None:
        self._recorder = recorder
        self._call = call
        self._begin = begin
        self.opened: OpenSpan | None = None
        self.span: Span | None = None
        self.result: Any = None

    def __call__(self) -> Any:
        __tracebackhide__ = True
        span = self._begin()
        try:
            result = self._call()
        except BaseException:
            self._recorder.close(span)
            raise
        if isawaitable(result):
            return self._finish(span, result)
        return self._end(span, result)

    async def _finish(self, span: OpenSpan, pending: Awaitable[Any]) -> Any:
        __tracebackhide__ = True
        try:
            result = await pending
        except BaseException:
            self._recorder.close(span)
            raise
        return self._end(span, result)

    def _end(self, span: OpenSpan, result: Any) -> Any:
        frozen = self._recorder.close(span)
        if self.opened is None:
            self.opened, self.span, self.result = span, frozen, result
        return result


def _profiled(
    recorder: Recorder,
    call: Callable[[], Any],
    begin: Callable[[], OpenSpan],
    plan: Plan,
    group: str,
    check: Callable[[Any], object] | None,
) -> Steps:
    """Run rounds for their profile: for a short time only, since none is judged by it."""
    __tracebackhide__ = True
    each = _EachCall(recorder, call, begin)
    timing: Timing = yield measure(each, plan, check=check)
    assert each.opened is not None
    assert each.span is not None
    return Timed(
        recorder, each.opened, _with_timing(each.span, _Found(timing), group), timing, each.result
    )


def _with_timing(span: Span, found: _Found, group: str) -> Span:
    """Return the span with its timing, and with the reason for each statistic that is missing."""
    timing, missing = found.timing, {}
    assert timing is not None
    for name in stats.STATISTICS:
        try:
            timing[name]
        except TimingError as error:
            missing[f"{group}_{name}"] = f"{group}_{error}"
    waiting = found.taken.readings[0].window().waiting if found.taken is not None else None
    summary = replace(timing.summary(), waiting=waiting, py_calls=found.calls)
    return replace(span, timing=summary.to_dict(), facts={**span.facts, **missing})


class Http:
    """A client whose requests are measured one by one; ``perf.http(client)`` makes it.

    It has the verbs of the client. Without ``rounds`` a request is sent once and its response
    returned. The client itself is not changed.
    """

    def __init__(self, make_job: Callable[[], Job], client: Any) -> None:
        self._make_job = make_job
        self._client = client

    def request(
        self,
        method: str,
        url: str | Callable[[], str],
        *,
        rounds: int | None = None,
        warmup: int | None = None,
        max_time: float | str | None = None,
        concurrency: int | None = None,
        status: int | Collection[int] | None = None,
        **arguments: Any,
    ) -> Any:
        """Send a request, or time it; await the result where the client is asynchronous.

        Args:
            method: as in ``"GET"``.
            url: what the client takes for it. A function is called for each round, as are
                functions given for ``json``, ``data``, ``params``, ``content`` and ``headers``.
            rounds: how often it is timed, after a first, cold request that is counted, and the
                warm-up; None to send it once.
            warmup: requests before the rounds, which are thrown away; 10 if it is not given.
            max_time: no round is started after that time, as in ``"5s"``.
            concurrency: how many requests of an asynchronous client are under way at once; one
                after the other if it is not given.
            status: the status expected of every response, or several; any of 200 to 299 where
                requests are timed.
            arguments: handed on to the client.

        Returns:
            The client's response; a :class:`Timed` if there are rounds.

        Raises:
            RoundError: if a response has another status: with its round and the start of its body.
            TimingError: if the timing makes no sense, or has too few rounds for a budget.
        """
        __tracebackhide__ = True
        job = self._make_job()
        send = _sender(self._client, method, job.where)
        varying = [name for name in _PER_ROUND if callable(arguments.get(name))]
        path = url.partition("?")[0] if isinstance(url, str) else ""
        recorder = job.guard.recorder

        def call() -> Any:
            __tracebackhide__ = True
            given = arguments
            if varying:
                given = {**arguments, **{name: arguments[name]() for name in varying}}
            return send(url() if callable(url) else url, **given)

        def begin() -> OpenSpan:
            recorder.start()
            name = f"{method} {fold_path(path or '/')}"
            return open_request(recorder, name, job.site(), UNCLAIMED)

        expected = _expected(status, job.where)
        if rounds is None:
            given = {"warmup": warmup, "max_time": max_time, "concurrency": concurrency}
            if idle := [f"{name}={shown(value)}" for name, value in given.items() if value]:
                raise TimingError(
                    f"{job.where}: nothing is timed, so {', '.join(idle)} does nothing: write "
                    "rounds=100"
                )
            steps = _once(job, call, begin, expected if status is not None else None)
        else:
            steps = timed(
                job,
                call,
                begin,
                group="http",
                rounds=rounds,
                warmup=_WARMUP if warmup is None else warmup,
                max_time=max_time,
                concurrency=1 if concurrency is None else concurrency,
                check=expected,
                client=self._client,
            )
        # In a context of its own where it is awaited, so that requests of one gather() are apart.
        return job.run(steps, lazily=iscoroutinefunction(send))

    def get(self, url: str | Callable[[], str], **arguments: Any) -> Any:
        """Send or time a GET; see :meth:`request`."""
        __tracebackhide__ = True
        return self.request("GET", url, **arguments)

    def head(self, url: str | Callable[[], str], **arguments: Any) -> Any:
        """Send or time a HEAD; see :meth:`request`."""
        __tracebackhide__ = True
        return self.request("HEAD", url, **arguments)

    def options(self, url: str | Callable[[], str], **arguments: Any) -> Any:
        """Send or time an OPTIONS; see :meth:`request`."""
        __tracebackhide__ = True
        return self.request("OPTIONS", url, **arguments)

    def post(self, url: str | Callable[[], str], **arguments: Any) -> Any:
        """Send or time a POST; see :meth:`request`."""
        __tracebackhide__ = True
        return self.request("POST", url, **arguments)

    def put(self, url: str | Callable[[], str], **arguments: Any) -> Any:
        """Send or time a PUT; see :meth:`request`."""
        __tracebackhide__ = True
        return self.request("PUT", url, **arguments)

    def patch(self, url: str | Callable[[], str], **arguments: Any) -> Any:
        """Send or time a PATCH; see :meth:`request`."""
        __tracebackhide__ = True
        return self.request("PATCH", url, **arguments)

    def delete(self, url: str | Callable[[], str], **arguments: Any) -> Any:
        """Send or time a DELETE; see :meth:`request`."""
        __tracebackhide__ = True
        return self.request("DELETE", url, **arguments)


def _once(
    job: Job,
    call: Callable[[], Any],
    begin: Callable[[], OpenSpan],
    check: Callable[[Any], object] | None,
) -> Steps:
    __tracebackhide__ = True
    span = begin()
    try:
        response = yield call()
    finally:
        job.guard.recorder.close(span)
    if check is not None:
        check(response)
    return response


def _sender(client: Any, method: str, where: str) -> Callable[..., Any]:
    """Return what sends a request of that method by a client of any library."""
    verb: Callable[..., Any] | None = getattr(client, method.lower(), None)
    if callable(verb):
        return verb
    if callable(getattr(client, "open", None)):  # Werkzeug
        return lambda url, **arguments: client.open(url, method=method, **arguments)
    if callable(getattr(client, "generic", None)):  # Django
        return lambda url, **arguments: client.generic(method, url, **arguments)
    if callable(getattr(client, "request", None)):
        return lambda url, **arguments: client.request(method, url, **arguments)
    raise TimingError(
        f"{where}: {shown(client)} is no HTTP client: it has neither .{method.lower()}() nor "
        ".request()"
    )


def _expected(status: int | Collection[int] | None, where: str) -> Callable[[Any], object]:
    """Return a check of a response's status."""
    allowed: Any = (status,) if isinstance(status, int) else status
    if allowed is not None and not (
        isinstance(allowed, Collection) and allowed and all(map(_is_status, allowed))
    ):
        raise TimingError(
            f"{where}: status={shown(status)} is no status of HTTP: write status=201, or several, "
            "as in status=[200, 404]"
        )
    told = "any of 200 to 299" if allowed is None else " or ".join(map(str, allowed))

    def check(response: Any) -> None:
        __tracebackhide__ = True
        found = getattr(response, "status_code", None)
        if not isinstance(found, int):
            raise TimingError(f"{where}: {shown(response)} has no status_code to check")
        if not (200 <= found < 300 if allowed is None else found in allowed):  # noqa: PLR2004 - HTTP's own
            raise TimingError(f"status {found}, expected {told}: {_start(response)}")

    return check


def _is_status(value: object) -> bool:
    return isinstance(value, int) and 100 <= value <= 599  # noqa: PLR2004 - HTTP's own


def _start(response: Any) -> str:
    body = response.get_data() if hasattr(response, "get_data") else None
    body = getattr(response, "content", b"") if body is None else body
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body)
    return text if len(text) <= _MAX_BODY else f"{text[: _MAX_BODY - 1]}…"


def name_of(function: Callable[..., Any]) -> str:
    """Return what a function is called in reports."""
    name = getattr(function, "__qualname__", None) or getattr(
        getattr(function, "func", None), "__qualname__", type(function).__qualname__
    )
    return str(name).replace("<locals>.", "")
