from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_perfguard import work
from pytest_perfguard.work import CallCount, count_calls

_monitoring: Any = getattr(sys, "monitoring", None)
_monitors = _monitoring is not None


def _down(number: int) -> int:
    return 0 if number == 0 else _down(number - 1)


def _numbers() -> Iterator[int]:
    yield 1
    yield 2


def _count(call: Callable[[], Any]) -> int:
    counted = count_calls(call)
    assert isinstance(counted, CallCount)
    assert counted.calls is not None
    return counted.calls


def _tools() -> list[str | None]:
    return [_monitoring.get_tool(tool) for tool in range(6)] if _monitors else []


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    before = sys.getprofile(), threading.getprofile(), _tools(), gc.isenabled()
    yield
    assert (sys.getprofile(), threading.getprofile(), _tools(), gc.isenabled()) == before


@pytest.mark.parametrize(
    ("call", "calls"),
    [
        (lambda: None, 1),
        (lambda: _down(9), 11),
        (lambda: len(range(100)), 1),
        # The start of the generator, and each time it goes on.
        (lambda: list(_numbers()), 4),
    ],
    ids=["nothing", "recursion", "C", "generator"],
)
def test_calls_and_resumptions_are_counted(call: Callable[[], Any], calls: int) -> None:
    assert _count(call) == calls


def test_a_count_is_the_same_each_time() -> None:
    assert len({_count(lambda: sorted(map(str, range(50)), key=len)) for _ in range(5)}) == 1


def test_the_first_call_is_not_counted_and_of_the_others_the_fewest() -> None:
    depth = iter([500, 40, 20, 30, 10, 50])

    assert _count(lambda: _down(next(depth))) == 12
    assert next(depth, None) is None


def test_an_awaited_call_is_counted_with_what_it_awaits() -> None:
    async def call() -> None:
        _down(9)

    async def run() -> CallCount:
        counted = count_calls(call)
        assert asyncio.iscoroutine(counted)
        found: CallCount = await counted
        return found

    assert asyncio.run(run()).calls == 11


def test_a_coroutine_that_goes_on_is_counted_again() -> None:
    async def run(times: int) -> CallCount:
        async def call() -> None:
            for _ in range(times):
                await asyncio.sleep(0)

        counted = count_calls(call)
        assert asyncio.iscoroutine(counted)
        found: CallCount = await counted
        return found

    few, many = asyncio.run(run(1)), asyncio.run(run(2))
    assert few.calls is not None
    assert many.calls is not None
    assert many.calls > few.calls


def test_threads_that_a_call_starts_are_counted() -> None:
    def call(depth: int) -> None:
        thread = threading.Thread(target=_down, args=(depth,))
        thread.start()
        thread.join()

    # What starting a thread calls may depend on who is faster, so the fewest of many are compared.
    shallow = min(_count(lambda: call(0)) for _ in range(5))
    deep = min(_count(lambda: call(300)) for _ in range(5))
    assert 290 <= deep - shallow <= 310


class _Worker:
    """A thread that runs what it is given."""

    def __init__(self) -> None:
        self._job: Callable[[], object] | None = None
        self._has_job, self._is_done = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        while self._has_job.acquire() and self._job is not None:
            self._job()
            self._is_done.release()

    def call(self, function: Callable[..., object], *args: object) -> None:
        self._job = lambda: function(*args)
        self._has_job.release()
        self._is_done.acquire()

    def end(self) -> None:
        self._job = None
        self._has_job.release()
        self._thread.join()


@pytest.fixture
def worker() -> Iterator[_Worker]:
    made = _Worker()
    yield made
    made.end()


def test_a_thread_that_runs_already_is_counted_where_it_can_be_asked(worker: _Worker) -> None:
    counted = count_calls(lambda: worker.call(_down, 300), threads=[worker.call])
    assert isinstance(counted, CallCount)
    assert counted.calls is not None
    assert 301 <= counted.calls <= 340
    found = []
    worker.call(lambda: found.append(sys.getprofile()))
    assert found == [None]


@pytest.mark.skipif(_monitors, reason="every thread is seen")
def test_a_thread_that_cannot_be_seen_is_told_of(worker: _Worker) -> None:
    counted = count_calls(lambda: worker.call(_down, 300))
    assert isinstance(counted, CallCount)
    assert counted.calls is not None
    assert counted.calls < 30
    others = threading.active_count() - 1
    assert counted.note == (
        f"only Python 3.12 sees other threads that run already, of which there are {others}"
    )


@pytest.mark.skipif(not _monitors, reason="needs sys.monitoring")
def test_every_thread_is_seen(worker: _Worker) -> None:
    counted = count_calls(lambda: worker.call(_down, 300))
    assert isinstance(counted, CallCount)
    assert counted.calls is not None
    assert counted.calls > 300


@pytest.mark.skipif(_monitors, reason="counts by sys.setprofile")
@pytest.mark.parametrize("module", [sys, threading])
def test_another_profile_function_is_left_alone(module: Any) -> None:
    def profile(*_: object) -> None:
        pass

    module.setprofile(profile)
    try:
        counted = count_calls(lambda: None)
        assert module.getprofile() is profile
    finally:
        module.setprofile(None)
    assert isinstance(counted, CallCount)
    assert counted.calls is None
    assert counted.note.startswith("another profile function is set: ")


@pytest.mark.skipif(not _monitors, reason="needs sys.monitoring")
def test_another_place_is_found_where_a_profiler_has_taken_its_own() -> None:
    _monitoring.use_tool_id(_monitoring.PROFILER_ID, "profiler")
    try:
        assert _count(lambda: _down(9)) == 11
    finally:
        _monitoring.free_tool_id(_monitoring.PROFILER_ID)


@pytest.mark.skipif(not _monitors, reason="needs sys.monitoring")
def test_nothing_is_counted_where_every_place_is_taken() -> None:
    taken = (2, 3, 4)
    for tool in taken:
        _monitoring.use_tool_id(tool, f"tool {tool}")
    try:
        counted = count_calls(lambda: None)
    finally:
        for tool in taken:
            _monitoring.free_tool_id(tool)
    assert counted == CallCount(
        None, "every place in sys.monitoring is taken: tool 2, tool 3, tool 4"
    )


def test_an_error_is_passed_on() -> None:
    results = iter([1, 0])
    with pytest.raises(ZeroDivisionError):
        count_calls(lambda: 1 / next(results))


def test_an_error_of_an_awaited_call_is_passed_on() -> None:
    results = iter([1, 0])

    async def call() -> float:
        return 1 / next(results)

    async def run() -> None:
        counted = count_calls(call)
        assert asyncio.iscoroutine(counted)
        await counted

    with pytest.raises(ZeroDivisionError):
        asyncio.run(run())


def test_the_garbage_collector_stays_out_of_it() -> None:
    seen = []
    count_calls(lambda: seen.append(gc.isenabled()))
    assert seen == [True] + [False] * work._WARM_CALLS


def test_the_garbage_collector_stays_off_where_it_was() -> None:
    gc.disable()
    try:
        count_calls(lambda: None)
        assert not gc.isenabled()
    finally:
        gc.enable()
