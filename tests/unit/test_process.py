"""CPU time and memory of spans."""

from __future__ import annotations

import gc
import mmap
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from pytest_perfguard.model import Span
from pytest_perfguard.probes import resident
from pytest_perfguard.probes.process import PERIOD, SHORTEST, ProcessProbe
from pytest_perfguard.recorder import Recorder
from pytest_perfguard.spans import Clock, OpenSpan

MIB = 2**20
ALL = ("memory_peak", "memory_growth", "memory_percent")


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    before = set(threading.enumerate())
    with Recorder(probes=[ProcessProbe()]) as recorder:
        yield recorder
        recorder.abandon()
        assert set(threading.enumerate()) == before
    assert not recorder.watchers


def begin(recorder: Recorder, *asked: str, kind: str = "block") -> OpenSpan:
    pytest.importorskip("psutil")
    return recorder.open("block", kind, asked=frozenset(asked))


def sampler_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "perfguard-memory"]


def use_cpu(seconds: float) -> None:
    until = Clock.cpu() + seconds * 1e9
    while Clock.cpu() < until:
        sum(range(1000))


def test_cpu_time_is_that_of_the_span(recorder: Recorder) -> None:
    use_cpu(0.05)
    with recorder.measure("busy") as busy:
        use_cpu(0.05)
        assert busy["cpu_time"] >= 0.05
    assert busy["cpu_time"] >= 0.05
    assert busy.span is not None
    assert busy["cpu_percent"] == pytest.approx(busy["cpu_time"] / busy.span.seconds, rel=0.1)
    assert "cpu_percent" not in busy.span.facts


def test_cpu_time_of_threads_counts(recorder: Recorder) -> None:
    with recorder.measure("busy") as busy:
        thread = threading.Thread(target=use_cpu, args=(0.05,))
        thread.start()
        thread.join()
    assert busy["cpu_time"] >= 0.05


def test_a_span_around_another_has_the_cpu_time_of_both(recorder: Recorder) -> None:
    with recorder.measure("outer") as outer, recorder.measure("inner") as inner:
        use_cpu(0.03)
    assert outer["cpu_time"] >= inner["cpu_time"] >= 0.03


def test_a_short_span_has_no_share_and_says_so(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = [0.0]
    monkeypatch.setattr(Clock, "now", lambda: times[0])
    assert SHORTEST == 2 * PERIOD
    short = recorder.open("short", "block")
    times[0] = SHORTEST * 0.99
    frozen = recorder.close(short)
    assert "cpu_percent" not in frozen.peaks
    assert frozen.facts["cpu_percent"].startswith("short took less than 20 ms, too short")
    long = recorder.open("long", "block")
    times[0] += SHORTEST
    assert "cpu_percent" in recorder.close(long).peaks


def test_memory_is_not_looked_at_unless_it_is_asked_for(recorder: Recorder) -> None:
    span = recorder.open("block", "block", asked=frozenset({"py_calls"}))
    assert not sampler_threads()
    assert not set(recorder.close(span).peaks) & set(ALL)


def test_a_peak_that_is_given_back_is_seen(recorder: Recorder) -> None:
    span = begin(recorder, *ALL)
    block = b"x" * (50 * MIB)
    del block
    frozen = recorder.close(span)
    assert frozen.peaks["memory_peak"] == pytest.approx(50 * MIB, abs=5 * MIB)
    assert frozen.peaks["memory_growth"] < 5 * MIB
    assert "resident memory rose from" in frozen.facts["memory_peak"]
    assert 0 < frozen.peaks["memory_percent"] < 1
    assert " at most, of " in frozen.facts["memory_percent"]


def test_memory_that_stays_is_growth(recorder: Recorder) -> None:
    span = begin(recorder, "memory_growth")
    kept = b"x" * (50 * MIB)
    frozen = recorder.close(span)
    assert frozen.peaks["memory_growth"] == pytest.approx(len(kept), abs=5 * MIB)
    assert "perf.repeat" in frozen.facts["memory_growth"]
    assert set(frozen.peaks) & set(ALL) == {"memory_growth"}


def test_memory_that_is_given_back_is_no_negative_growth(recorder: Recorder) -> None:
    kept = b"x" * (50 * MIB)
    span = begin(recorder, "memory_growth")
    del kept
    assert recorder.close(span).peaks["memory_growth"] == 0


def test_garbage_in_cycles_is_no_growth_even_where_gc_is_disabled(recorder: Recorder) -> None:
    gc.disable()
    try:
        span = begin(recorder, "memory_growth")
        cycle: list[object] = [b"x" * (50 * MIB)]
        cycle.append(cycle)
        del cycle
        assert recorder.close(span).peaks["memory_growth"] < 5 * MIB
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_where_the_kernel_has_no_mark_the_thread_sees_the_peak(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident, "_PROC", Path("/nowhere"))
    span = begin(recorder, "memory_peak")
    looked = _looks(recorder, monkeypatch)
    block = b"x" * (50 * MIB)
    looked.wait(10)
    del block
    frozen = recorder.close(span)
    assert frozen.peaks["memory_peak"] == pytest.approx(50 * MIB, abs=5 * MIB)
    assert "a look every 10 ms" in frozen.facts["memory_peak"]


def _looks(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return an event that is set when the thread has looked after this."""
    looked = threading.Event()
    now = resident.Resident.now

    def look(self: resident.Resident) -> int:
        seen = now(self)
        if threading.current_thread().name == "perfguard-memory":
            looked.set()
        return seen

    monkeypatch.setattr(resident.Resident, "now", look)
    looked.wait(10)
    looked.clear()
    return looked


def touch(size: int) -> None:
    """Use memory that the system gives for it: the heap may have as much that nobody needs."""
    with mmap.mmap(-1, size) as memory:
        for _ in range(size // MIB):
            memory.write(b"x" * MIB)


def test_one_thread_serves_spans_that_nest_and_ends_with_the_last(recorder: Recorder) -> None:
    outer = begin(recorder, "memory_peak")
    touch(40 * MIB)
    inner = begin(recorder, "memory_peak")
    assert len(sampler_threads()) == 1
    touch(20 * MIB)
    inside = recorder.close(inner)
    assert len(sampler_threads()) == 1
    around = recorder.close(outer)
    assert not sampler_threads()
    assert inside.peaks["memory_peak"] == pytest.approx(20 * MIB, abs=5 * MIB)
    assert around.peaks["memory_peak"] == pytest.approx(40 * MIB, abs=5 * MIB)


def test_what_was_left_open_ends_the_thread_when_it_is_abandoned(recorder: Recorder) -> None:
    begin(recorder, "memory_peak")
    assert sampler_threads()
    recorder.abandon()
    assert not sampler_threads()


def test_the_thread_rests_while_calls_are_timed_and_the_peak_is_still_seen(
    recorder: Recorder,
) -> None:
    span = begin(recorder, "memory_peak")
    forgotten = begin(recorder, "memory_peak")
    recorder.stop()
    assert not sampler_threads()
    recorder.close(forgotten)
    block = b"x" * (50 * MIB)
    recorder.start()
    assert sampler_threads()
    del block
    assert recorder.close(span).peaks["memory_peak"] == pytest.approx(50 * MIB, abs=5 * MIB)


def test_a_request_is_looked_at_where_budgets_of_endpoints_ask_for_it(
    recorder: Recorder,
) -> None:
    pytest.importorskip("psutil")
    test = recorder.open("test", "test", asked=frozenset(ALL))
    assert not set(recorder.close(recorder.open("GET /", "request")).peaks) & set(ALL)
    recorder.asked_of_requests = frozenset(ALL)
    request = recorder.open("GET /", "request")
    block = recorder.open("block", "block")
    assert not set(recorder.close(block).peaks) & set(ALL)
    frozen = recorder.close(request)
    assert set(frozen.peaks) & set(ALL) == {"memory_peak", "memory_percent"}
    assert frozen.facts["memory_growth"].endswith("not of a request")
    recorder.close(test)


def test_without_psutil_the_span_says_what_to_install(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    span = recorder.open("block", "block", asked=frozenset(ALL))
    frozen = recorder.close(span)
    assert not set(frozen.peaks) & set(ALL)
    for name in ALL:
        assert frozen.facts[name].endswith("install pytest-perfguard with the extra [process]")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # there are threads
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_inside_a_span_disturbs_neither_process(recorder: Recorder) -> None:
    span = begin(recorder, *ALL)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            inner = recorder.open("inner", "block", asked=frozenset(ALL))
            peaks = recorder.close(inner).peaks
            outer = recorder.close(span)
            status = 0 if "memory_peak" in peaks and "memory_peak" not in outer.peaks else 2
        finally:
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(ended) == 0
    assert sampler_threads()
    assert "memory_peak" in recorder.close(span).peaks


def test_spans_of_many_threads_are_all_measured(recorder: Recorder) -> None:
    pytest.importorskip("psutil")
    done: list[Span] = []

    def work() -> None:
        done.extend(recorder.close(begin(recorder, "memory_peak")) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 80
    assert all("memory_peak" in span.peaks for span in done)
    assert not sampler_threads()


def fail(*_: object, **__: object) -> NoReturn:
    raise PermissionError("no")


@pytest.mark.parametrize("when", ["before", "inside"])
def test_memory_that_cannot_be_read_is_unknown_and_says_why(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    psutil = pytest.importorskip("psutil")
    with monkeypatch.context() as replaced:
        span = begin(recorder, *ALL) if when == "inside" else None
        replaced.setattr(psutil.Process, "memory_info", fail)
        replaced.setattr(Path, "read_text", fail)
        span = span or begin(recorder, *ALL)
        frozen = recorder.close(span)
    assert not set(frozen.peaks) & set(ALL)
    for name in ALL:
        assert "the memory of the process could not be read" in frozen.facts[name]
    assert not sampler_threads()
    # The next one can be read again.
    assert set(recorder.close(begin(recorder, *ALL)).peaks) >= set(ALL)


def test_the_thread_goes_on_where_a_look_fails_and_the_mark_knows_all(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not _has_mark():
        pytest.skip("the kernel keeps no mark here that this process may set back")
    span = begin(recorder, "memory_peak")
    failed = threading.Event()

    def look(_: resident.Resident) -> NoReturn:
        failed.set()
        raise resident.UnreadableError("nothing")

    with monkeypatch.context() as replaced:
        replaced.setattr(resident.Resident, "now", look)
        block = b"x" * (50 * MIB)
        assert failed.wait(10)
        del block
    assert sampler_threads()
    frozen = recorder.close(span)
    assert frozen.peaks["memory_peak"] == pytest.approx(50 * MIB, abs=5 * MIB)
    assert "by the kernel's mark" in frozen.facts["memory_peak"]


@pytest.mark.parametrize("when", ["before", "inside"])
def test_a_mark_that_cannot_be_read_leaves_the_peak_unknown(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    if not _has_mark():
        pytest.skip("the kernel keeps no mark here that this process may set back")
    recorder.close(begin(recorder, "memory_peak"))
    span = begin(recorder, "memory_peak") if when == "inside" else None
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "x")
    span = span or begin(recorder, "memory_peak")
    frozen = recorder.close(span)
    assert "memory_peak" not in frozen.peaks
    assert "nothing of the kernel's mark" in frozen.facts["memory_peak"]


def test_a_mark_that_was_set_back_unread_is_lost_to_the_spans_around(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not _has_mark():
        pytest.skip("the kernel keeps no mark here that this process may set back")
    outer = begin(recorder, "memory_peak")
    with monkeypatch.context() as replaced:
        replaced.setattr(resident.Resident, "highest", lambda _: 0)
        inner = begin(recorder, "memory_peak")
    recorder.close(inner)
    frozen = recorder.close(outer)
    assert "memory_peak" not in frozen.peaks
    assert "nothing of the kernel's mark" in frozen.facts["memory_peak"]


def _has_mark() -> bool:
    pytest.importorskip("psutil")
    return resident.Resident().has_mark


def test_another_getpid_in_os_leaves_no_thread(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    span = begin(recorder, "memory_peak")
    monkeypatch.setattr(os, "getpid", lambda: 4242)
    assert "memory_peak" in recorder.close(span).peaks
    assert not sampler_threads()
