from __future__ import annotations

import asyncio
import gc
import math
import time
import weakref
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pytest_perfguard import windows
from pytest_perfguard.errors import TimingError
from pytest_perfguard.references import References, make_references
from pytest_perfguard.samples import Readings
from pytest_perfguard.timing import Clock
from pytest_perfguard.windows import WindowPlan, measure_window

_MS = 10**6
_PLAN = WindowPlan(seconds=0.1, fewest=3, most=10, warmup=4)


class _Machine:
    """A machine whose time passes only when something is said to take it."""

    def __init__(self) -> None:
        self.now = 10**12
        self.used = 10**9
        self.clock = Clock(wall=lambda: self.now, cpu=lambda: self.used)
        self.seen: list[str] = []

    def work(self, name: str, cpu: int, waiting: int = 0) -> Callable[[], None]:
        def run() -> None:
            self.seen.append(name)
            self.used += cpu
            self.now += cpu + waiting

        return run

    def async_work(
        self, name: str, cpu: int, waiting: int = 0
    ) -> Callable[[], Coroutine[Any, Any, None]]:
        work = self.work(name, cpu, waiting)

        async def run() -> None:
            await asyncio.sleep(0)
            work()

        return run

    def references(self, *, awaited: bool = False) -> References:
        matched: Callable[[], Any] = (self.async_work if awaited else self.work)("a", 2 * _MS)
        calls = (matched, self.work("b", 3 * _MS), self.work("c", 4 * _MS))
        return References("function", "test", calls, (awaited, False, False))


@pytest.fixture
def machine() -> _Machine:
    return _Machine()


@pytest.fixture(autouse=True)
def no_queue(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    # How long the thread has waited for a core is another clock, which a test cannot set.
    monkeypatch.setattr(windows, "_QUEUE", tmp_path / "missing")


def _run(
    machine: _Machine, cpu: int, waiting: int = 0, *, awaited: bool, plan: WindowPlan = _PLAN
) -> Readings:
    work = machine.async_work if awaited else machine.work
    measured = measure_window(
        work("t", cpu, waiting), machine.references(awaited=awaited), plan, clock=machine.clock
    )
    if not awaited:
        assert isinstance(measured, Readings)
        return measured
    assert asyncio.iscoroutine(measured)
    found: Readings = asyncio.run(measured)
    return found


_both = pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])


@_both
def test_each_round_has_the_call_and_every_reference(machine: _Machine, *, awaited: bool) -> None:
    found = _run(machine, 1 * _MS, 5 * _MS, awaited=awaited)
    rounds = len(found.cpu)
    assert found == Readings(
        1,
        (6 * _MS,) * rounds,
        (1 * _MS,) * rounds,
        ((2 * _MS,) * rounds, (3 * _MS,) * rounds, (4 * _MS,) * rounds),
        (0,) * rounds,
    )


@_both
def test_all_are_warmed_up_and_then_rotate(machine: _Machine, *, awaited: bool) -> None:
    _run(machine, _MS, awaited=awaited, plan=WindowPlan(fewest=5, most=5, warmup=4))
    assert "".join(machine.seen) == "tttt" + "aaaabbbbcccc" + "tabc" + "abct" + "bcta" + "ctab" + (
        "tabc"
    )


@_both
def test_references_that_are_warm_are_not_warmed_up_again(
    machine: _Machine, *, awaited: bool
) -> None:
    references = machine.references(awaited=awaited)
    work = machine.async_work if awaited else machine.work
    for expected in (4 + 3, 3):
        machine.seen.clear()
        measured = measure_window(
            work("t", _MS), references, WindowPlan(fewest=3, most=3, warmup=4), clock=machine.clock
        )
        if asyncio.iscoroutine(measured):
            asyncio.run(measured)
        assert Counter(machine.seen) == {"t": 7, "a": expected, "b": expected, "c": expected}


@_both
def test_a_window_ends_when_its_time_is_over(machine: _Machine, *, awaited: bool) -> None:
    # A round takes 10 ms + 9 ms: the sixth begins after 95 ms, a seventh would after 114 ms.
    assert len(_run(machine, 10 * _MS, awaited=awaited).cpu) == 6


@_both
def test_a_window_has_a_fewest_and_a_most_rounds(machine: _Machine, *, awaited: bool) -> None:
    assert len(_run(machine, 500 * _MS, awaited=awaited).cpu) == 3
    assert len(_run(machine, 1, awaited=awaited, plan=WindowPlan(most=7)).cpu) == 7


@_both
def test_a_short_call_is_looped_and_its_references_are_not(
    machine: _Machine, *, awaited: bool
) -> None:
    found = _run(machine, 900, 100, awaited=awaited)
    assert found.loops == 50
    assert set(found.wall) == {50 * 1000}
    assert set(found.cpu) == {50 * 900}
    assert set(found.references[0]) == {2 * _MS}
    assert math.exp(found.window().cpu) == pytest.approx(900e-9)
    assert found.window().waiting == pytest.approx(100e-9)


@_both
def test_a_long_call_is_not_warmed_up_for_ever(machine: _Machine, *, awaited: bool) -> None:
    plan = WindowPlan(fewest=1, most=1, warmup=27, warmup_seconds=1)
    _run(machine, 600 * _MS, awaited=awaited, plan=plan)
    # The first call, two in the second that a warm-up may take, and the round.
    assert machine.seen.count("t") == 4


@_both
def test_an_error_of_the_call_is_passed_on_and_nothing_stays_frozen(
    machine: _Machine, *, awaited: bool
) -> None:
    calls = iter(range(6))

    def fail() -> None:
        if next(calls, None) is None:
            raise ZeroDivisionError

    async def fail_later() -> None:
        fail()

    with pytest.raises(ZeroDivisionError):
        asyncio.run(_awaitable(fail_later if awaited else fail, machine, awaited=awaited))
    assert gc.get_freeze_count() < windows._FROZEN_BY_PYTHON


async def _awaitable(call: Callable[[], Any], machine: _Machine, *, awaited: bool) -> None:
    measured = measure_window(call, machine.references(awaited=awaited), _PLAN, clock=machine.clock)
    if asyncio.iscoroutine(measured):
        await measured


def test_garbage_is_collected_before_and_what_is_left_is_frozen(machine: _Machine) -> None:
    class Node:
        pass

    node: Any = Node()
    node.itself = node
    alive = weakref.ref(node)
    del node
    frozen = []

    def call() -> None:
        machine.used += _MS
        machine.now += _MS
        frozen.append((gc.get_freeze_count() > windows._FROZEN_BY_PYTHON, alive() is None))

    measure_window(call, machine.references(), _PLAN, clock=machine.clock)
    assert frozen[-1] == (True, True)
    assert gc.get_freeze_count() < windows._FROZEN_BY_PYTHON


def test_what_somebody_else_has_frozen_stays_so(machine: _Machine) -> None:
    gc.freeze()
    try:
        before = gc.get_freeze_count()
        _run(machine, _MS, awaited=False)
        assert gc.get_freeze_count() >= before - 100  # some of it may be gone
    finally:
        gc.unfreeze()


def test_references_that_have_to_be_awaited_need_a_call_that_has_to_be(machine: _Machine) -> None:
    with pytest.raises(TimingError, match="the references 'test' have to be awaited"):
        measure_window(lambda: None, machine.references(awaited=True), clock=machine.clock)


def test_references_that_need_not_be_awaited_do_for_a_call_that_has_to_be(
    machine: _Machine,
) -> None:
    measured = measure_window(
        machine.async_work("t", _MS), machine.references(), _PLAN, clock=machine.clock
    )
    assert asyncio.iscoroutine(measured)
    found = asyncio.run(measured)
    assert set(found.references[0]) == {2 * _MS}


@pytest.mark.parametrize(
    "fields",
    [
        {"seconds": 0},
        {"seconds": math.nan},
        {"seconds": math.inf},
        {"warmup_seconds": -1},
        {"fewest": 0},
        {"fewest": 5, "most": 4},
        {"warmup": 0},
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(TimingError):
        WindowPlan(**fields)


def test_real_clocks_give_real_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    references = make_references()
    plan = WindowPlan(seconds=0.01, fewest=2, most=4, warmup=2)
    found = measure_window(lambda: time.sleep(0.002), references, plan)
    assert isinstance(found, Readings)
    window = found.window()
    assert window.waiting > 0.001
    assert window.wall > 0.002
    assert window.cpu < math.log(window.wall)


def test_an_awaited_window_runs_in_the_loop_that_awaits_it(machine: _Machine) -> None:
    loops = set()

    async def call() -> None:
        loops.add(asyncio.get_running_loop())
        machine.used += _MS
        machine.now += _MS

    async def run() -> None:
        measured = measure_window(call, machine.references(), _PLAN, clock=machine.clock)
        assert asyncio.iscoroutine(measured)
        await measured
        assert loops == {asyncio.get_running_loop()}

    asyncio.run(run())
