"""Counts the calls of Python functions that a call makes: work, as a number without noise.

The count is the same on every machine with the same Python and the same libraries. It sees calls
that were added, not loops that became hotter, nor what is done in C.

From Python 3.12 on, ``sys.monitoring`` counts in every thread. Before, each thread has a profile
function of its own, which a thread that runs already has to be asked to set. Both belong to the
whole process: where a debugger, a profiler or a coverage tool has taken them, nothing is counted
rather than theirs broken.
"""

from __future__ import annotations

import gc
import inspect
import itertools
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

_WARM_CALLS = 5
_TOOL = "pytest-perfguard"
# Of the two readings that a call is between, the second is seen.
_OWN_CALLS = 1

# Runs a function in a thread that is there already, such as a blocking portal's ``call``.
InThread = Callable[..., object]
_Read = Callable[[], int]


@dataclass(frozen=True, slots=True)
class CallCount:
    """How many Python functions a call calls.

    Attributes:
        calls: calls, and resumptions of generators and coroutines; None if it cannot be told.
        note: why it cannot, or what is not in it; else empty.
    """

    calls: int | None
    note: str = ""


def count_calls(
    call: Callable[[], Any], *, threads: Iterable[InThread] = (), repeats: int = _WARM_CALLS
) -> CallCount | Coroutine[Any, Any, CallCount]:
    """Count the calls of Python functions that a call makes: the fewest of some warm calls.

    If the result of the call has to be awaited, so does the count.

    Args:
        call: what is looked at. It is called once before, and should be warm already: caches that
            its first calls fill change the number.
        threads: for each thread that works for the call and is there already, what runs a function
            in it. Only needed before Python 3.12.
        repeats: how many calls are counted.
    """
    __tracebackhide__ = True
    result = call()
    if inspect.isawaitable(result):
        return _count_async(call, result, tuple(threads), repeats)
    del result
    with _counting(tuple(threads)) as (read, note):
        if read is None:
            return CallCount(None, note)
        counts = []
        for _ in range(repeats):
            before = read()
            call()
            counts.append(read() - before)
    return CallCount(min(counts) - _OWN_CALLS, note)


async def _count_async(
    call: Callable[[], Awaitable[Any]],
    pending: Awaitable[Any],
    threads: tuple[InThread, ...],
    repeats: int,
) -> CallCount:
    __tracebackhide__ = True
    await pending
    with _counting(threads) as (read, note):
        if read is None:
            return CallCount(None, note)
        counts = []
        for _ in range(repeats):
            before = read()
            await call()
            counts.append(read() - before)
    return CallCount(min(counts) - _OWN_CALLS, note)


@contextmanager
def _counting(threads: tuple[InThread, ...]) -> Iterator[tuple[_Read | None, str]]:
    """Count the calls of this process; give what reads the count, or why there is none."""
    if sys.version_info >= (3, 12):
        counter = _monitoring()
    else:
        counter = _profiling(threads)
    is_collecting = gc.isenabled()
    # What is disposed of may call back, at a moment that has nothing to do with the call.
    gc.collect()
    gc.disable()
    try:
        with counter as given:
            yield given
    finally:
        if is_collecting:
            gc.enable()


class _Tally:
    """A count that any thread may add to."""

    def __init__(self) -> None:
        self._steps = itertools.count()
        self._reads = itertools.count()

    def add(self) -> None:
        # One call into C, which no other thread can come in between.
        next(self._steps)

    def read(self) -> int:
        # To read the steps is to add one, which is taken off again.
        return next(self._steps) - next(self._reads)


if sys.version_info >= (3, 12):

    @contextmanager
    def _monitoring() -> Iterator[tuple[_Read | None, str]]:
        monitoring = sys.monitoring
        # The profilers' own place first, then those that belong to nobody.
        for tool in (monitoring.PROFILER_ID, 3, 4):
            try:
                monitoring.use_tool_id(tool, _TOOL)
                break
            except ValueError:
                continue
        else:
            taken = ", ".join(str(monitoring.get_tool(tool)) for tool in (2, 3, 4))
            yield None, f"every place in sys.monitoring is taken: {taken}"
            return
        tally = _Tally()
        add = tally.add
        events = monitoring.events

        def seen(_code: object, _offset: int) -> None:
            add()

        try:
            for event in (events.PY_START, events.PY_RESUME):
                monitoring.register_callback(tool, event, seen)
            monitoring.set_events(tool, events.PY_START | events.PY_RESUME)
            yield tally.read, ""
        finally:
            monitoring.set_events(tool, events.NO_EVENTS)
            for event in (events.PY_START, events.PY_RESUME):
                monitoring.register_callback(tool, event, None)
            monitoring.free_tool_id(tool)


@contextmanager
def _profiling(threads: tuple[InThread, ...]) -> Iterator[tuple[_Read | None, str]]:
    if sys.getprofile() is not None or threading.getprofile() is not None:
        yield None, f"another profile function is set: {sys.getprofile() or threading.getprofile()}"
        return
    tally = _Tally()
    is_active = True

    def seen(_frame: FrameType, event: str, _argument: object) -> None:
        if not is_active:
            # A thread that has started meanwhile and goes on.
            sys.setprofile(None)
        elif event == "call":
            tally.add()

    others = threading.active_count() - 1 - len(threads)
    note = (
        f"only Python 3.12 sees other threads that run already, of which there are {others}"
        if others > 0
        else ""
    )
    for in_thread in threads:
        in_thread(sys.setprofile, seen)
    threading.setprofile(seen)
    sys.setprofile(seen)
    try:
        yield tally.read, note
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        is_active = False
        for in_thread in threads:
            in_thread(sys.setprofile, None)
