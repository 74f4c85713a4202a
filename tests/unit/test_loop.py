"""Event loops that cannot turn."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from asyncio.base_events import BaseEventLoop
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pytest_perfguard.model import Span
from pytest_perfguard.probes.loop import LoopProbe
from pytest_perfguard.recorder import Recorder
from pytest_perfguard.spans import OpenSpan, Settings

ROOT = Path(__file__).parents[2]
STALL = 0.3
ABOUT = pytest.approx(STALL, abs=0.06)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    before = set(threading.enumerate())
    original = BaseEventLoop.run_forever
    with Recorder(Settings(root=ROOT), probes=[LoopProbe()]) as recorder:
        yield recorder
        recorder.abandon()
        assert set(threading.enumerate()) == before
    assert BaseEventLoop.run_forever is original
    assert not recorder.watchers


def begin(recorder: Recorder, kind: str = "block") -> OpenSpan:
    return recorder.open("block", kind, asked=frozenset({"loop_stall"}))


def watchdogs() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "perfguard-loop"]


def hold_up() -> None:
    time.sleep(STALL)


async def stalls() -> None:
    await asyncio.sleep(0.03)
    hold_up()
    await asyncio.sleep(0.03)


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0.01)


def during(recorder: Recorder, work: Callable[[], object]) -> Span:
    span = begin(recorder)
    try:
        work()
    finally:
        frozen = recorder.close(span)
    return frozen


def line_of(function: Callable[..., object], offset: int = 1) -> str:
    return f"{Path(__file__).relative_to(ROOT)}:{function.__code__.co_firstlineno + offset}"


def run_uvloop(coroutine: Coroutine[Any, Any, None]) -> None:
    pytest.importorskip("uvloop").run(coroutine)


@pytest.mark.parametrize("run", [asyncio.run, run_uvloop], ids=["asyncio", "uvloop"])
def test_a_loop_that_stood_still_is_seen_with_the_line_that_held_it(
    recorder: Recorder, run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    if run is run_uvloop:
        pytest.importorskip("uvloop")
        recorder.start()  # as it is before each span
    frozen = during(recorder, lambda: run(stalls()))
    assert frozen.peaks["loop_stall"] == ABOUT
    title, at, *_, fix = frozen.facts["loop_stall"].splitlines()
    assert title.startswith("the event loop stood still for ")
    assert title.endswith(" ms")
    assert at == f"    at {line_of(hold_up)} in hold_up"
    assert "asyncio.to_thread" in fix


def test_a_loop_that_turns_did_not_stand_still(recorder: Recorder) -> None:
    frozen = during(recorder, lambda: asyncio.run(turns()))
    assert 0 <= frozen.peaks["loop_stall"] < STALL / 2


def test_the_first_thing_that_a_loop_does_may_hold_it(recorder: Recorder) -> None:
    async def at_once() -> None:
        hold_up()

    assert during(recorder, lambda: asyncio.run(at_once())).peaks["loop_stall"] == ABOUT


def test_a_callback_that_stops_the_loop_may_hold_it(recorder: Recorder) -> None:
    loop = asyncio.new_event_loop()

    def last() -> None:
        loop.stop()
        hold_up()

    def run() -> None:
        loop.call_soon(last)
        loop.run_forever()

    try:
        assert during(recorder, run).peaks["loop_stall"] == ABOUT
        # The beat that has not run runs now, in another span, and says nothing of it.
        again = during(recorder, lambda: loop.run_until_complete(turns()))
        assert again.peaks["loop_stall"] < STALL / 2
    finally:
        loop.close()


def test_without_a_running_loop_nothing_is_known(recorder: Recorder) -> None:
    loop = asyncio.new_event_loop()
    frozen = during(recorder, loop.close)
    assert "loop_stall" not in frozen.peaks
    assert frozen.facts["loop_stall"] == "no running event loop was seen in block"


def test_a_loop_is_not_watched_unless_it_is_asked_for(recorder: Recorder) -> None:
    span = recorder.open("block", "block", asked=frozenset({"py_calls"}))
    asyncio.run(turns())
    assert not watchdogs()
    frozen = recorder.close(span)
    assert "loop_stall" not in frozen.peaks
    assert "loop_stall" not in frozen.facts


def test_a_span_inside_a_running_loop_sees_what_it_does_itself(recorder: Recorder) -> None:
    async def measured() -> tuple[Span, Span]:
        calm = begin(recorder)
        await turns()
        before = recorder.close(calm)
        held = begin(recorder)
        hold_up()
        return before, recorder.close(held)

    calm, held = asyncio.run(measured())
    assert calm.peaks["loop_stall"] < STALL / 2
    assert held.peaks["loop_stall"] == ABOUT
    assert f"at {line_of(hold_up)} in hold_up" in held.facts["loop_stall"]


def test_a_loop_that_ran_before_anybody_listened_is_learnt_from_a_span_inside_it() -> None:
    async def measured() -> Span:
        with Recorder(Settings(root=ROOT), probes=[LoopProbe()]) as recorder:
            span = begin(recorder)
            hold_up()
            return recorder.close(span)

    assert asyncio.run(measured()).peaks["loop_stall"] == ABOUT
    assert not watchdogs()


def test_spans_that_nest_are_each_given_their_own(recorder: Recorder) -> None:
    async def measured() -> tuple[Span, Span]:
        outer = begin(recorder)
        hold_up()
        await asyncio.sleep(0)
        inner = begin(recorder)
        assert len(watchdogs()) == 1
        await turns()
        inside = recorder.close(inner)
        assert len(watchdogs()) == 1
        return recorder.close(outer), inside

    outer, inner = asyncio.run(measured())
    assert outer.peaks["loop_stall"] == ABOUT
    assert inner.peaks["loop_stall"] < STALL / 2
    assert not watchdogs()


def test_what_stood_still_before_a_span_was_opened_is_not_its_own(recorder: Recorder) -> None:
    async def measured() -> tuple[Span, Span]:
        outer = begin(recorder)
        hold_up()
        inside = recorder.close(begin(recorder))
        return recorder.close(outer), inside

    outer, inner = asyncio.run(measured())
    assert outer.peaks["loop_stall"] == ABOUT
    assert inner.peaks["loop_stall"] < STALL / 2


def test_a_loop_in_another_thread_is_watched(recorder: Recorder) -> None:
    """As a server's or a test client's is, which has begun before the span."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        frozen = during(
            recorder, lambda: asyncio.run_coroutine_threadsafe(stalls(), loop).result(10)
        )
        assert frozen.peaks["loop_stall"] == ABOUT
        assert f"at {line_of(hold_up)} in hold_up" in frozen.facts["loop_stall"]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_a_loop_that_is_closed_in_the_middle_is_forgotten(recorder: Recorder) -> None:
    def two_loops() -> None:
        asyncio.run(turns())
        asyncio.run(turns())

    span = begin(recorder)
    two_loops()
    assert not recorder._probes[0]._watchdog._running  # type: ignore[attr-defined] # that is it
    assert recorder.close(span).peaks["loop_stall"] < STALL / 2


def test_a_stall_in_a_library_has_no_line_of_what_started_the_loop(recorder: Recorder) -> None:
    async def starts() -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0.03)
        loop.call_soon(time.sleep, STALL)
        await asyncio.sleep(STALL + 0.05)

    frozen = during(recorder, lambda: asyncio.run(starts()))
    assert frozen.peaks["loop_stall"] == ABOUT
    assert frozen.facts["loop_stall"].splitlines()[1] == "    at no line of your code that was seen"


def test_nothing_is_posted_while_calls_are_timed(recorder: Recorder) -> None:
    async def timed() -> Span:
        span = begin(recorder)
        await turns()
        recorder.stop()
        assert not watchdogs()
        hold_up()
        await asyncio.sleep(0)
        recorder.start()
        assert watchdogs()
        await turns()
        return recorder.close(span)

    assert asyncio.run(timed()).peaks["loop_stall"] < STALL / 2


def test_what_was_left_open_ends_the_thread_when_it_is_abandoned(recorder: Recorder) -> None:
    async def leaves_it_open() -> None:
        begin(recorder)
        await turns()

    asyncio.run(leaves_it_open())
    assert watchdogs()
    recorder.abandon()
    assert not watchdogs()


def test_a_span_that_was_closed_while_calls_were_timed_is_forgotten(recorder: Recorder) -> None:
    span = begin(recorder)
    recorder.stop()
    recorder.close(span)
    recorder.start()
    assert not watchdogs()


def test_a_request_is_watched_where_budgets_of_endpoints_ask_for_it(
    recorder: Recorder,
) -> None:
    async def measured() -> tuple[Span, Span]:
        request, block = recorder.open("GET /", "request"), recorder.open("block", "block")
        hold_up()
        inner = recorder.close(block)
        return recorder.close(request), inner

    recorder.asked_of_requests = frozenset({"loop_stall"})
    request, block = asyncio.run(measured())
    assert request.peaks["loop_stall"] == ABOUT
    assert "loop_stall" not in block.peaks


def test_what_was_seen_so_far_is_known_before_the_end(recorder: Recorder) -> None:
    async def measured() -> None:
        with recorder.measure("block") as block:
            recorder.open("inner", "block", asked=frozenset({"loop_stall"}))
            hold_up()
            inner = recorder.innermost()
            assert inner is not None
            assert recorder.freeze(inner).peaks["loop_stall"] == ABOUT
            recorder.close(inner)
            assert "loop_stall" not in block

    asyncio.run(measured())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # there are threads
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_inside_a_span_disturbs_neither_process(recorder: Recorder) -> None:
    span = begin(recorder)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            seen = during(recorder, lambda: asyncio.run(stalls()))
            recorder.close(span)
            status = 0 if seen.peaks["loop_stall"] > STALL / 2 else 2
        finally:
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(ended) == 0
    asyncio.run(turns())
    assert "loop_stall" in recorder.close(span).peaks


def test_a_wrapper_that_somebody_put_around_ours_is_left_alone() -> None:
    original = BaseEventLoop.run_forever
    probe = LoopProbe()
    recorder = Recorder(probes=[probe])
    recorder.start()
    ours = BaseEventLoop.run_forever

    def theirs(loop: BaseEventLoop) -> None:
        ours(loop)

    try:
        BaseEventLoop.run_forever = theirs  # type: ignore[method-assign,assignment]
        recorder.start()
        assert BaseEventLoop.run_forever is theirs
        recorder.stop()
        assert BaseEventLoop.run_forever is theirs
        asyncio.run(turns())
    finally:
        BaseEventLoop.run_forever = original  # type: ignore[method-assign]


def test_spans_of_many_threads_are_all_watched(recorder: Recorder) -> None:
    done: list[Span] = []

    async def some() -> None:
        for _ in range(10):
            span = begin(recorder)
            await asyncio.sleep(0)
            done.append(recorder.close(span))

    threads = [threading.Thread(target=asyncio.run, args=(some(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 40
    assert all("loop_stall" in span.peaks for span in done)
    assert not watchdogs()


@contextmanager
def loop_elsewhere() -> Iterator[tuple[asyncio.AbstractEventLoop, Callable[[], None]]]:
    """Run a loop in a thread, which nobody sees begin; yield it and what ends it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(10)

    def end() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    try:
        yield loop, end
    finally:
        end()


def test_a_loop_in_another_thread_that_ran_before_anybody_listened_is_watched() -> None:
    settings = Settings(root=ROOT)
    with loop_elsewhere() as (loop, _), Recorder(settings, probes=[LoopProbe()]) as recorder:
        for _ in range(2):
            held = during(
                recorder, lambda: asyncio.run_coroutine_threadsafe(stalls(), loop).result(10)
            )
            assert held.peaks["loop_stall"] == ABOUT
            assert f"at {line_of(hold_up)} in hold_up" in held.facts["loop_stall"]
        # As after rounds that were timed.
        span = begin(recorder)
        recorder.stop()
        recorder.start()
        asyncio.run_coroutine_threadsafe(stalls(), loop).result(10)
        assert recorder.close(span).peaks["loop_stall"] == ABOUT
    assert not watchdogs()


def test_a_loop_whose_end_nobody_saw_stood_still_no_longer_than_it_ran() -> None:
    with loop_elsewhere() as (_, end), Recorder(probes=[LoopProbe()]) as recorder:

        def ends() -> None:
            end()
            hold_up()

        assert during(recorder, ends).peaks["loop_stall"] < STALL / 2
        # It is not one that ran in the next.
        assert "loop_stall" not in during(recorder, hold_up).peaks


def test_another_getpid_in_os_leaves_no_thread(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def replaced() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(os, "getpid", lambda: 4242)
            await stalls()

    def both() -> None:
        asyncio.run(replaced())
        monkeypatch.setattr(os, "getpid", lambda: 4242)

    assert during(recorder, both).peaks["loop_stall"] == ABOUT
    assert not watchdogs()
