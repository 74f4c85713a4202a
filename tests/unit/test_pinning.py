from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from pytest_perfguard.pinning import Pinning, pinned

_can_pin = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="threads can be bound to a core on Linux only"
)


class _Thread:
    """A thread that waits until it is told to end."""

    def __init__(self) -> None:
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._end.wait)
        self._thread.start()
        assert self._thread.native_id is not None
        self.id = self._thread.native_id

    def end(self) -> None:
        self._end.set()
        self._thread.join()


@pytest.fixture
def thread() -> Iterator[_Thread]:
    made = _Thread()
    yield made
    made.end()


@_can_pin
def test_every_thread_is_pinned_to_the_last_core_and_released(thread: _Thread) -> None:
    before = os.sched_getaffinity(0)
    with pinned() as pinning_:
        assert pinning_ == Pinning(max(before))
        assert pinning_
        assert os.sched_getaffinity(0) == {max(before)}
        assert os.sched_getaffinity(thread.id) == {max(before)}
    assert os.sched_getaffinity(0) == before
    assert os.sched_getaffinity(thread.id) == before


@_can_pin
def test_a_thread_that_starts_meanwhile_is_pinned_and_released_too() -> None:
    before = os.sched_getaffinity(0)
    with pinned():
        thread = _Thread()
        assert os.sched_getaffinity(thread.id) == {max(before)}
    try:
        assert os.sched_getaffinity(thread.id) == before
    finally:
        thread.end()


@_can_pin
def test_each_thread_is_restored_to_what_it_was_allowed_before(thread: _Thread) -> None:
    first = min(os.sched_getaffinity(0))
    os.sched_setaffinity(thread.id, {first})
    with pinned():
        pass
    assert os.sched_getaffinity(thread.id) == {first}


@_can_pin
def test_threads_are_restored_after_an_error_and_after_nesting() -> None:
    before = os.sched_getaffinity(0)
    with pinned() as outer:
        with pytest.raises(ZeroDivisionError), pinned() as inner:
            _ = outer == inner and 1 / 0
        assert os.sched_getaffinity(0) == {outer.core}
    assert os.sched_getaffinity(0) == before


@_can_pin
def test_a_thread_that_ends_meanwhile_is_no_error() -> None:
    thread = _Thread()
    with pinned():
        thread.end()


@_can_pin
def test_a_core_that_is_not_there_is_a_reason_and_nothing_is_pinned() -> None:
    before = os.sched_getaffinity(0)
    with pinned(4095) as pinning_:
        assert not pinning_
        assert pinning_.reason.startswith("core 4095 is not to be had: ")
        assert os.sched_getaffinity(0) == before
    assert os.sched_getaffinity(0) == before


@_can_pin
def test_where_one_thread_cannot_be_pinned_none_is(
    thread: _Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.sched_getaffinity(0)
    pin = os.sched_setaffinity

    def refuse(number: int, cores: set[int]) -> None:
        if number == thread.id:
            raise PermissionError(1, "not allowed")
        pin(number, cores)

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    with pinned() as pinning:
        assert pinning == Pinning(None, f"core {max(before)} is not to be had: not allowed")
        assert os.sched_getaffinity(0) == before


def test_a_platform_without_affinity_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with pinned() as pinning_:
        assert pinning_ == Pinning(None, "this platform cannot bind a thread to a core")
        assert not pinning_


@_can_pin
def test_only_allowed_cores_are_chosen() -> None:
    code = (
        "import os; from pytest_perfguard.pinning import pinned\n"
        "first = min(os.sched_getaffinity(0)); os.sched_setaffinity(0, {first})\n"
        "with pinned() as pinning: assert pinning.core == first\n"
        "assert os.sched_getaffinity(0) == {first}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
