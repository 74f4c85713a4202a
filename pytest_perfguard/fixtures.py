"""The ``perf`` fixture."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import iscoroutinefunction
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from pytest_perfguard.budgets import Budget, read_limits, requested
from pytest_perfguard.contracts import ColdWarm, cold_warm, stampede
from pytest_perfguard.endpoint_growth import scales_endpoints, walk
from pytest_perfguard.errors import CacheError, GrowthError, LimitError, TaskError
from pytest_perfguard.jobs import Job, Steps
from pytest_perfguard.load import Load, load
from pytest_perfguard.probes.cache import Watch
from pytest_perfguard.probes.cache_counters import counter_of
from pytest_perfguard.probes.cache_counters import name_of as name_of_cache
from pytest_perfguard.probes.tasks import Queue, TaskProbe
from pytest_perfguard.prometheus import Prometheus
from pytest_perfguard.recorder import Measurement
from pytest_perfguard.repeats import FEWEST_CALLS, repeat
from pytest_perfguard.rounds import Http, Timed, name_of, timed
from pytest_perfguard.scaling import CPU, SIZES, Scaled, read_contract, scales
from pytest_perfguard.spans import OpenSpan
from pytest_perfguard.task_policies import Backoff, Policy
from pytest_perfguard.task_policies import check as check_policy
from pytest_perfguard.units import Unit, parse, shown

_Cache = TypeVar("_Cache")

# Each call of a stampede is a thread.
_MOST_CALLS = 1_000
# What may be left out; what else has to be a function is always wanted.
_OPTIONAL = ("flush", "same")
_LONGEST_NAME = 100

if TYPE_CHECKING:
    import pytest

    from pytest_perfguard.guard import Guard


class Perf:
    """What a test asks of perfguard while it runs."""

    def __init__(
        self,
        guard: Guard,
        item: pytest.Item,
        ask_for_profile: Callable[[], object] = lambda: None,
    ) -> None:
        self._guard = guard
        self._item = item
        self._ask_for_profile = ask_for_profile

    def measure(self, name: str, /, **limits: float | str) -> Block:
        """Measure a block under a name, with budgets of its own.

        ``with perf.measure("report", sql_queries=5) as m:`` gives every metric as ``m["..."]``,
        inside the block and after it. Budgets are judged with those of the test, when it ends.

        Args:
            name: how the block is called in reports.
            limits: a limit for each metric that is budgeted, written as in ``perf_budget``.

        Raises:
            LimitError: if a metric is unknown or a limit cannot be read; all mistakes at once.
        """
        __tracebackhide__ = True
        name = _printable(name, "perf.measure needs a name first, as in measure('report')")
        where = self._where("perf.measure")
        budgets = _read(limits, where)
        block = Block(self._guard, self._item, name, budgets, where)
        self._guard.expect(
            self._item, block, f"{where}: the block was never entered: write 'with' before it"
        )
        return block

    @contextmanager
    def profile(self, name: str, /) -> Iterator[None]:
        """Profile a block: ``with perf.profile("report"):``.

        The test is run once more for it. In the run that counts and times this does nothing.

        Args:
            name: how the block is called in the profile and its files.

        Raises:
            MissingExtraError: if pyinstrument is not installed.
        """
        __tracebackhide__ = True
        if not isinstance(name, str):
            raise TypeError(
                f"perf.profile needs a name, as in profile('report'), not {shown(name)}"
            )
        self._ask_for_profile()
        if not self._guard.profiling:
            yield
            return
        recorder = self._guard.recorder
        span = recorder.open(name, "block")
        try:
            yield
        finally:
            recorder.close(span)

    @property
    def cache(self) -> Caches:
        """What is asked about caches that live in this process."""
        return Caches(self._guard, self._item)

    @overload
    def cold_warm(  # type: ignore[overload-overlap] # what can be awaited is an object too
        self,
        call: Callable[[], Awaitable[object]],
        *,
        flush: Callable[[], object] | None = None,
        cold: Mapping[str, float | str] | None = None,
        warm: Mapping[str, float | str] | None = None,
        same: Callable[[Any, Any], bool] | None = None,
        may_read: Collection[str] = (),
    ) -> Awaitable[ColdWarm]: ...
    @overload
    def cold_warm(
        self,
        call: Callable[[], object],
        *,
        flush: Callable[[], object] | None = None,
        cold: Mapping[str, float | str] | None = None,
        warm: Mapping[str, float | str] | None = None,
        same: Callable[[Any, Any], bool] | None = None,
        may_read: Collection[str] = (),
    ) -> ColdWarm: ...
    def cold_warm(
        self,
        call: Callable[[], object],
        *,
        flush: Callable[[], object] | None = None,
        cold: Mapping[str, float | str] | None = None,
        warm: Mapping[str, float | str] | None = None,
        same: Callable[[Any, Any], bool] | None = None,
        may_read: Collection[str] = (),
    ) -> ColdWarm | Awaitable[ColdWarm]:
        """Call twice, with an empty cache and with a full one, and hold the second to it.

        The warm call must hit the cache and miss nothing in it, must not repeat an SQL read of
        the cold call, and must return an equal result. Await it where the call is asynchronous.

        Args:
            call: does the same each time; a coroutine function, or what returns an awaitable,
                is awaited.
            flush: empties the cache before the cold call; what it does is not measured.
            cold: budgets of the cold call, by metric.
            warm: budgets of the warm call; they take the place of what is asked of it otherwise,
                as ``warm={"cache_misses": 1}`` lets one lookup miss.
            same: decides whether two results are equal, where ``==`` cannot; responses of HTTP
                clients are compared by status and body.
            may_read: SQL reads that the warm call may repeat, as the time line calls them, e.g.
                ``["SELECT users"]``.

        Returns:
            The measurements of both calls: ``cold, warm = perf.cold_warm(...)``.

        Raises:
            LimitError: if a budget cannot be read.
            CacheError: if the two results cannot be compared.
        """
        __tracebackhide__ = True
        where = self._where("perf.cold_warm")
        job = self._job(where, call=call, flush=flush, same=same)
        if not isinstance(may_read, Collection):
            raise CacheError(
                f"{where}: may_read is of type {type(may_read).__name__}: write the reads as the "
                "time line calls them, such as ['SELECT users']"
            )
        steps = cold_warm(
            job,
            call,
            flush=flush,
            cold=_read(cold or {}, f"{where}, cold"),
            warm=_read(warm or {}, f"{where}, warm"),
            same=same,
            may_read=[may_read] if isinstance(may_read, str) else may_read,
        )
        result: ColdWarm | Awaitable[ColdWarm] = job.run(steps)
        return result

    @overload
    def stampede(  # type: ignore[overload-overlap] # what can be awaited is an object too
        self,
        call: Callable[[], Awaitable[object]],
        *,
        concurrency: int = 8,
        flush: Callable[[], object] | None = None,
        limit: int = 1,
    ) -> Awaitable[Measurement]: ...
    @overload
    def stampede(
        self,
        call: Callable[[], object],
        *,
        concurrency: int = 8,
        flush: Callable[[], object] | None = None,
        limit: int = 1,
    ) -> Measurement: ...
    def stampede(
        self,
        call: Callable[[], object],
        *,
        concurrency: int = 8,
        flush: Callable[[], object] | None = None,
        limit: int = 1,
    ) -> Measurement | Awaitable[Measurement]:
        """Call many times at once with an empty cache: one of the calls is to do the work.

        The calls run in threads, or as tasks of the running event loop in an ``async`` test,
        where the contract is awaited. Each one is held at its first miss until the others have
        missed too (for a quarter of a second at most), so that the outcome is not luck. Work is
        an SQL read or a write to the cache that a further call, with a warm cache, does not do.

        Args:
            call: does the same each time; a coroutine function in an ``async`` test.
            concurrency: how many calls run at once.
            flush: empties the cache before; what it does is not measured.
            limit: how many of the calls may do the work.

        Returns:
            The measurement of all calls together, each of which is a block of its own in it.

        Raises:
            LimitError: if ``limit`` or ``concurrency`` makes no sense.
            CacheError: if the call is synchronous in an ``async`` test or the other way round.
        """
        __tracebackhide__ = True
        where = self._where("perf.stampede")
        try:
            calls = int(parse(concurrency, Unit.COUNT))
        except LimitError as error:
            raise LimitError(f"{where}: concurrency: {error}") from None
        if calls < 2:  # noqa: PLR2004 - one call alone is no stampede
            raise LimitError(f"{where}: concurrency={calls}: 2 or more")
        if calls > _MOST_CALLS:
            raise LimitError(f"{where}: concurrency={calls:,}: {_MOST_CALLS:,} at most")
        (budget,) = _read({"cache_recomputations": limit}, where)
        job = self._job(where, call=call, flush=flush)
        steps = stampede(job, call, concurrency=calls, flush=flush, limit=budget.limit)
        result: Measurement | Awaitable[Measurement] = job.run(steps)
        return result

    @overload
    def scales(  # type: ignore[overload-overlap] # what can be awaited is an object too
        self,
        populate: Callable[[int], object],
        run: Callable[[], Awaitable[object]],
        *,
        sizes: Sequence[int] = SIZES,
        flush: Callable[[], object] | None = None,
        session: object = None,
        **limits: str,
    ) -> Awaitable[Scaled]: ...
    @overload
    def scales(
        self,
        populate: Callable[[int], object],
        run: Callable[[], object],
        *,
        sizes: Sequence[int] = SIZES,
        flush: Callable[[], object] | None = None,
        session: object = None,
        **limits: str,
    ) -> Scaled: ...
    def scales(
        self,
        populate: Callable[[int], object],
        run: Callable[[], object],
        *,
        sizes: Sequence[int] = SIZES,
        flush: Callable[[], object] | None = None,
        session: object = None,
        **limits: str,
    ) -> Scaled | Awaitable[Scaled]:
        """Call with more and more data, and judge how what the call costs grows.

        At each size the data is made, the call is made once to warm up, and once measured. Counts
        must not grow with the data; rows and bytes may grow as it does. Await it where ``run`` or
        ``populate`` is asynchronous.

        Args:
            populate: brings the data to the size that it is given, which rises from call to call;
                with ``session``, makes as much as it is given, as factories do.
            run: what is measured; it has to do or to return more when there is more.
            sizes: two or more of them; three or more for other limits than ``O(1)``, five or more
                for ``cpu_time``, with the largest at least eight times the smallest.
            flush: empties caches before the measured call.
            session: a session of SQLAlchemy that the data is made with. What was made is rolled
                back to a savepoint after each size, and forgotten before each call, so that
                objects that the session holds save no statement.
            limits: how fast a metric may grow, as in ``sql_rows="O(1)"`` or
                ``cpu_time="O(n log n)"``: ``O(1)``, ``O(log n)``, ``O(n)``, ``O(n log n)`` or
                ``O(n^2)``. Time is only judged where it is asked for, and only where the
                measurement leaves no doubt.

        Returns:
            The measurements: ``scaled["sql_queries"]`` gives a metric's values by size, and
            printing it shows all of them as a table.

        Raises:
            GrowthError: if a limit or the sizes make no sense; all mistakes at once.
        """
        __tracebackhide__ = True
        where = self._where("perf.scales")
        job = self._job(where, populate=populate, run=run, flush=flush)
        contract = read_contract(sizes, limits, where)
        steps = scales(job, populate, run, contract, flush=flush, session=session)
        result: Scaled | Awaitable[Scaled] = job.run(steps)
        return result

    def scales_endpoints(
        self,
        app: Any,
        populate: Callable[[int], object],
        *,
        sizes: Sequence[int] = SIZES,
        urls: Mapping[str, str] | None = None,
        skip: Sequence[str] = (),
        client: Any = None,
        flush: Callable[[], object] | None = None,
        session: object = None,
        **limits: str,
    ) -> Any:
        """Ask for every GET route of an application with more and more data.

        Each endpoint is judged as :meth:`scales` judges a call; those that need more than their
        path, or refuse to answer, are listed as not judged. Await it where ``client`` or
        ``populate`` is asynchronous.

        Args:
            app: of FastAPI or Starlette.
            populate: as for :meth:`scales`.
            sizes: of the data.
            urls: what to ask for, by the path of a route, where its path is not enough:
                ``{"/users/{id}": "/users/1", "/search": "/search?q=a"}``.
            skip: paths of routes that are not asked for.
            client: asks the application; by default a new ``TestClient``, which starts it.
            flush: empties caches before each measured request.
            session: as for :meth:`scales`.
            limits: how fast a metric may grow.

        Returns:
            A :class:`ScaledEndpoints`: ``growing`` and ``judged`` endpoints, and as text a table
            for each.

        Raises:
            GrowthError: if there is nothing to walk, a route answers with a server error, or a
                limit, a size or a path makes no sense.
        """
        __tracebackhide__ = True
        where = self._where("perf.scales_endpoints")
        job = self._job(where, populate=populate, flush=flush)
        contract = read_contract(sizes, limits, where)
        if contract.cpu is not None:
            raise GrowthError(f"{where}: {CPU} is judged by perf.scales, for one call")
        endpoints = walk(job, app, urls or {}, skip)
        steps = scales_endpoints(
            job, endpoints, populate, contract,
            app=app, client=client, flush=flush, session=session,
        )  # fmt: skip
        return job.run(steps)

    def http(self, client: Any) -> Http:
        """Measure the requests of a client one by one, and time them.

        ``perf.http(client).get("/api/items", rounds=100)`` sends one request that is counted and
        then times 100 with the probes off. The client may be any that has verbs such as ``get``:
        of Starlette, httpx, httpx2, requests, Flask or Django, sync or async.
        """
        return Http(lambda: self._job(self._where("perf.http")), client)

    def time(
        self,
        function: Callable[[], Any],
        /,
        *,
        name: str | None = None,
        rounds: int = 100,
        warmup: int = 10,
        max_time: float | str | None = None,
        concurrency: int = 1,
        check: Callable[[Any], object] | None = None,
        **limits: float | str,
    ) -> Any:
        """Count one call of a function and time many; await it where the function is async.

        Args:
            function: takes no arguments; a coroutine function is awaited within the time.
            name: how it is called in reports; the function's own name by default.
            rounds: how many calls are timed, after the first one, which is counted, and the
                warm-up.
            warmup: calls before the rounds, which are thrown away.
            max_time: no round is started after that time, as in ``"5s"``.
            concurrency: how many calls of a coroutine function are under way at once.
            check: is given every result; it raises or returns False if one is wrong.
            limits: budgets of the call, as in ``time_p95="5ms"``, judged when the test ends.

        Returns:
            A :class:`Timed`: the metrics of the first call, and the timing.

        Raises:
            LimitError: if a budget cannot be read.
            TimingError: if the timing makes no sense, or has too few rounds for a budget.
            RoundError: if the check refuses a result.
        """
        __tracebackhide__ = True
        where = self._where("perf.time")
        job = self._job(where, function=function)
        budgets = self._guard.with_levels(self._item, _read(limits, where))
        title = self._guard.block_name(self._item, name or name_of(function))
        recorder = self._guard.recorder

        def begin() -> OpenSpan:
            recorder.start()
            return recorder.open(title, "call", asked=requested(budgets))

        def steps() -> Steps:
            measured: Timed = yield from timed(
                job, function, begin, group="time", budgets=budgets, rounds=rounds,
                warmup=warmup, max_time=max_time, concurrency=concurrency, check=check,
            )  # fmt: skip
            if measured.span is not None:
                job.judge(measured.span, budgets)
            return measured

        return job.run(steps(), lazily=iscoroutinefunction(function))

    def repeat(
        self,
        call: Callable[[], Any],
        /,
        *,
        times: int = 100,
        warmup: int | None = None,
        **limits: float | str,
    ) -> Any:
        """Call again and again and find memory that stays; await it where the call is async.

        ``perf.repeat(call, memory_growth="1KiB")`` counts one call and then makes many in two
        passes with the probes off, of which the second is traced and slow. Growth is a slope:
        see :mod:`pytest_perfguard.repeats`.

        Args:
            call: takes no arguments; a coroutine function is awaited.
            times: calls of each pass that are looked at.
            warmup: calls before those in each pass, which fill caches; as many as ``times`` if it
                is not given. A cache that holds more entries looks like a leak.
            limits: budgets, as in ``memory_growth="1KiB"`` (a call), ``alloc_peak="10MiB"`` or
                those of any other metric, of the first call. Judged when the test ends.

        Returns:
            A :class:`Repeated`: the metrics of the first call, and ``growth`` in bytes a call.

        Raises:
            LimitError: if a budget cannot be read, or ``times`` or ``warmup`` makes no sense.
            MissingExtraError: if psutil is not installed.
            TimingError: if another timing is under way.
        """
        __tracebackhide__ = True
        where = self._where("perf.repeat")
        job = self._job(where, call=call)
        budgets = self._guard.with_levels(self._item, _read(limits, where))
        numbers = {"times": times, "warmup": times if warmup is None else warmup}
        for name, value in numbers.items():
            try:
                numbers[name] = int(parse(value, Unit.COUNT))
            except LimitError as error:
                raise LimitError(f"{where}: {name}: {error}") from None
        if numbers["times"] < FEWEST_CALLS:
            raise LimitError(
                f"{where}: times={times}: {FEWEST_CALLS} or more, for a growth that is certain"
            )
        steps = repeat(job, call, name=name_of(call), **numbers, budgets=budgets)
        return job.run(steps, lazily=iscoroutinefunction(call))

    def task(
        self,
        task: Any,
        /,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        patch: Any,
        error: BaseException | type[BaseException] = ConnectionError,
        times: int | None = None,
        backoff: Backoff | None = None,
        max_retries: int | None = None,
        **limits: float | str,
    ) -> Policy:
        """Plant a failure in a task of Celery's, run it and its retries at once, and look.

        Nothing is published and nobody waits: ``policy.countdowns`` are the seconds that a worker
        would let pass before each retry.

        Args:
            task: the task itself.
            args: what it is called with.
            kwargs: likewise, by name.
            patch: what fails: the function that the task calls, by the name that the task finds
                it by, such as ``"app.tasks.fetch"``; or an object and the name of its attribute.
            error: what it raises.
            times: how often it fails before it works; every time by default.
            backoff: ``"exponential"`` asks that each countdown is twice the one before,
                ``"constant"`` that they are equal.
            max_retries: how often the task is to be retried before it gives up.
            limits: budgets of all tries together, as in ``sql_queries=8``.

        Returns:
            What the task did: ``outcome``, ``countdowns``, ``retries`` and ``error``.

        Raises:
            TaskError: if the task is not retried, swallows the error, never calls what fails, or
                is retried otherwise than was asked for; or if the check makes no sense.
            LimitError: if a budget cannot be read.
        """
        __tracebackhide__ = True
        where = self._where("perf.task")
        return check_policy(
            self._job(where), task, args, kwargs, patch=patch, error=error, times=times,
            backoff=backoff, max_retries=max_retries, budgets=_read(limits, where),
        )  # fmt: skip

    def load(
        self,
        locustfile: str | Path,
        /,
        *,
        host: str,
        users: int = 10,
        spawn_rate: float | None = None,
        run_time: float | str = "5s",
        processes: int = 1,
        user: str | Sequence[str] | None = None,
        instances: str | None = None,
        server: Any = None,
        during: Callable[[], object] | None = None,
        **limits: float | str,
    ) -> Load:
        """Put a load on a running server, by Locust in processes of its own.

        A request that fails fails the test, unless ``load_failures`` or ``load_errors`` is
        budgeted.

        Args:
            locustfile: path of it, from the root directory.
            host: where the server is, as in ``"http://127.0.0.1:8000"``.
            users: how many there are at once.
            spawn_rate: how many of them come in a second; all of them by default.
            run_time: how long the load lasts, in whole seconds.
            processes: workers of Locust, for more load than one core can make.
            user: the User class of the locustfile, or several; all of them by default.
            instances: header by which the instances of the service tell which one answered.
            server: the process of the server (its pid, or what ``Popen`` returned), of which the
                CPU time for each request is read, with the processes below it.
            during: called once, when all users are there and have got some answers: what disturbs
                the service. The load goes on for ``run_time`` after it has returned.
            limits: budgets, as in ``load_p95="200ms"`` or ``load_rps=20``.

        Returns:
            What was measured: ``load["load_p95"]``, ``load.endpoints`` and ``load.instances``.

        Raises:
            LoadError: if no server answers, the locustfile is broken, nothing was sent, or
                the load makes no sense.
            LimitError: if a budget cannot be read.
            MissingExtraError: if Locust, or psutil for ``server``, is not installed.
        """
        __tracebackhide__ = True
        where = self._where("perf.load")
        return load(
            self._job(where), locustfile, host=host, users=users, spawn_rate=spawn_rate,
            run_time=run_time, processes=processes, user=user, instances=instances,
            server=server, during=during, budgets=_read(limits, where),
        )  # fmt: skip

    def prometheus(
        self,
        source: Any,
        limits: Mapping[str, float | str] | None = None,
        /,
        *,
        path: str = "/metrics",
        absent: float | None = None,
    ) -> Prometheus:
        """Look at metrics of Prometheus before and after a span, and limit their change.

        ``with perf.prometheus(client, {"cache_misses_total": 0}) as prom:``, and afterwards
        ``prom("cache_hits_total", cache_type="response") >= 1``. What the looks cost is not
        measured, and what they add to the metrics is taken off.

        Args:
            source: a client whose ``get`` gives the page, a URL, or a registry of
                prometheus_client that is filled in this process.
            limits: by how much metrics may change at most, as ``3`` or ``"<= 3"``, or have to
                change at least, as ``">= 1"``; those of several series are added up, unless
                labels are given, as in ``'cache_hits_total{cache_type="response"}'``.
            path: where a client finds the page.
            absent: what a series has changed by that does not exist, where its metric does; by
                default that is an error.

        Returns:
            The span; call it, once it has ended, with the name of a metric and its labels.

        Raises:
            PrometheusError: if the page cannot be read, or there is no such metric or label.
            LimitError: if a limit cannot be read.
            MissingExtraError: if prometheus-client is not installed.
        """
        __tracebackhide__ = True
        job = self._job(self._where("perf.prometheus"))
        return Prometheus(job, source, limits or {}, path=path, absent=absent)

    def queue(self, queue: Queue) -> None:
        """Let the tasks of another queue library count, from now to the end of the session.

        Args:
            queue: has ``start(probe)`` and ``stop()``, and tells the probe what is published and
                what is run; see the page on tasks.

        Raises:
            TaskError: if it has no such methods.
        """
        __tracebackhide__ = True
        missing = [name for name in ("start", "stop") if not callable(getattr(queue, name, None))]
        if missing:
            raise TaskError(
                f"{self._where('perf.queue')}: what is of type {type(queue).__name__} has no "
                f"{' and no '.join(f'{name}()' for name in missing)}: pass an object with "
                "start(probe) and stop()"
            )
        self._guard.recorder.probe(TaskProbe).add(queue)

    def _job(self, where: str, **functions: object) -> Job:
        __tracebackhide__ = True
        for name, value in functions.items():
            if not callable(value) and not (value is None and name in _OPTIONAL):
                example = " cold, warm: cold == warm" if name == "same" else ": client.get('/')"
                raise CacheError(
                    f"{where}: {name} is of type {type(value).__name__}, which cannot be called: "
                    f"pass a function, such as lambda{example}"
                )
        return Job(self._guard, self._item, where, self._caller())

    def _caller(self) -> FrameType:
        """Return the frame of the test, or of what it called to ask us."""
        inner = sys._getframe(1)
        return self._guard.recorder.sites.nearest(inner) or inner

    def _where(self, name: str) -> str:
        """Return what was called, and the line of the test that called it."""
        frame = self._caller()
        file = self._guard.recorder.sites.show(frame.f_code.co_filename)
        return f"{name}, {file}:{frame.f_lineno}"


def _printable(name: object, problem: str) -> str:
    """Return a name that fits into a line of every report, whatever it was made from."""
    __tracebackhide__ = True
    if not isinstance(name, str):
        raise TypeError(f"{problem}, not {shown(name)}")
    text = "".join(character if character.isprintable() else " " for character in name)
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"


def _read(limits: Mapping[str, float | str], where: str) -> list[Budget]:
    __tracebackhide__ = True
    if not isinstance(limits, Mapping):
        raise LimitError(
            f"{where}: {shown(limits)} holds no budgets: write them as in {{'sql_queries': 3}}"
        )
    mistakes: list[str] = []
    budgets = read_limits(limits, where, mistakes)
    if mistakes:
        raise LimitError("\n".join(mistakes))
    return budgets


class Caches:
    """Caches that live in this process and count their hits and misses themselves."""

    def __init__(self, guard: Guard, item: pytest.Item) -> None:
        self._guard = guard
        self._item = item

    def watch(self, cache: _Cache, name: str | None = None) -> _Cache:
        """Let a cache's hits and misses count, from now to the end of the test.

        Args:
            cache: a function with ``functools.lru_cache`` or ``cachetools.cached(info=True)``, a
                dogpile.cache region, a cashews cache, or any object with counters of hits and
                misses.
            name: how it is called in reports; the function's or the class's name by default.

        Returns:
            The cache itself.

        Raises:
            CacheError: if it shows no counters, or the cache probe sees it already.
        """
        __tracebackhide__ = True
        sites = self._guard.recorder.sites
        title = _printable(
            name_of_cache(cache) if name is None else name,
            "perf.cache.watch takes a text as name=",
        )
        watch = Watch(
            title or name_of_cache(cache), counter_of(cache), sites.site(sys._getframe(1), "")
        )
        self._guard.watch(self._item, watch)
        return cache


class Block:
    """A named block that is measured between ``__enter__`` and ``__exit__``."""

    def __init__(
        self, guard: Guard, item: pytest.Item, name: str, budgets: list[Budget], where: str
    ) -> None:
        self._where = where
        self._guard = guard
        self._item = item
        self._name = name
        self._budgets = guard.with_levels(item, budgets)
        self._measurement: Measurement | None = None

    def __enter__(self) -> Measurement:
        if self._measurement is not None:
            raise RuntimeError(f"the block {self._name!r} has been entered already")
        recorder = self._guard.recorder
        recorder.start()
        span = recorder.open(
            self._guard.block_name(self._item, self._name),
            "block",
            asked=requested(self._budgets),
        )
        self._measurement = Measurement(recorder, span)
        self._guard.expect(self._item, self, f"{self._where}: the block was left open")
        return self._measurement

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._measurement is None:
            raise RuntimeError(f"the block {self._name!r} has not been entered")
        span = self._measurement.close()
        self._guard.expect(self._item, self, None)
        if error is None:
            self._guard.judge_block(self._item, span, self._budgets)
