from __future__ import annotations

import asyncio
import gc
import json
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_perfguard import stats, timing
from pytest_perfguard.errors import PerfguardError, RoundError, TimingError
from pytest_perfguard.timing import (
    SAMPLE,
    Clock,
    Plan,
    Rounds,
    Summary,
    Timing,
    measure,
    measure_sync,
)

_MS = 10**6


class _Machine:
    """A machine whose time passes only when something is said to take it."""

    def __init__(self) -> None:
        self.now = 10**12
        self.used = 10**9
        self.clock = Clock(wall=lambda: self.now, cpu=lambda: self.used)

    def spend(self, wall: int, cpu: int = 0) -> None:
        self.now += wall
        self.used += cpu

    def work(self, *milliseconds: int) -> Callable[[], int]:
        """Return a call that takes these wall times, the last one again and again."""
        times = list(milliseconds)

        def call() -> int:
            duration = times.pop(0) if len(times) > 1 else times[0]
            self.spend(duration * _MS, duration * _MS // 2)
            return duration

        return call

    def async_work(self, *milliseconds: int) -> Callable[[], Coroutine[Any, Any, int]]:
        call = self.work(*milliseconds)

        async def async_call() -> int:
            await asyncio.sleep(0)
            return call()

        return async_call


@pytest.fixture
def machine() -> _Machine:
    return _Machine()


_Run = Callable[..., Timing]


def _run_sync(machine: _Machine, milliseconds: tuple[int, ...], **options: Any) -> Timing:
    return measure_sync(machine.work(*milliseconds), clock=machine.clock, **options)


def _run_either(machine: _Machine, milliseconds: tuple[int, ...], **options: Any) -> Timing:
    timed = measure(machine.work(*milliseconds), clock=machine.clock, **options)
    assert isinstance(timed, Timing)
    return timed


def _run_async(machine: _Machine, milliseconds: tuple[int, ...], **options: Any) -> Timing:
    timed = measure(machine.async_work(*milliseconds), clock=machine.clock, **options)
    assert asyncio.iscoroutine(timed)
    return asyncio.run(timed)


@pytest.fixture(params=[_run_sync, _run_either, _run_async], ids=["sync", "either", "async"])
def run(request: pytest.FixtureRequest) -> _Run:
    found: _Run = request.param
    return found


def test_rounds_are_timed_one_by_one_and_the_cold_one_and_the_warm_up_apart(
    machine: _Machine, run: _Run
) -> None:
    timed = run(machine, (900, 80, 70, 10, 20, 30), plan=Plan(rounds=3, warmup=2))
    assert timed.cold_wall == 0.9
    assert timed.cold_cpu == 0.45
    assert timed.warmup == 2
    assert timed.measurements == (Rounds((0.01, 0.02, 0.03), (0.005, 0.01, 0.015)),)
    assert timed.rounds == 3
    assert timed.repeated == 0


@settings(deadline=None, max_examples=8)  # each one collects garbage three times
@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=30))
def test_the_first_round_is_never_mixed_in(milliseconds: list[int]) -> None:
    for run in (_run_sync, _run_either, _run_async):
        plan = Plan(rounds=len(milliseconds), warmup=0)
        timed = run(_Machine(), (10**9, *milliseconds), plan=plan)
        assert timed.measurements[0].wall == tuple(ms / 1e3 for ms in milliseconds)
        assert timed["max"] == max(milliseconds) / 1e3


def test_what_happens_between_rounds_is_in_no_time(machine: _Machine, run: _Run) -> None:
    def between(*_: object) -> None:
        machine.spend(500 * _MS, 500 * _MS)

    timed = run(machine, (10,), plan=Plan(rounds=3), check=between, progress=between)
    assert timed.cold_wall == 0.01
    assert timed.measurements == (Rounds((0.01,) * 3, (0.005,) * 3),)


def test_a_result_is_disposed_of_between_rounds(machine: _Machine) -> None:
    class Result:
        def __del__(self) -> None:
            machine.spend(500 * _MS)

    def call() -> Result:
        machine.spend(10 * _MS)
        return Result()

    async def async_call() -> Result:
        return call()

    def both() -> Iterator[Timing]:
        plan = Plan(rounds=3)
        yield measure_sync(call, plan, clock=machine.clock)
        pending = measure(async_call, plan, clock=machine.clock)
        assert not isinstance(pending, Timing)
        yield asyncio.run(pending)

    for timed in both():
        assert timed.cold_wall == timed["max"] == 0.01


def test_no_result_is_kept_until_the_next_round(machine: _Machine) -> None:
    class Connection:
        pass

    def call() -> Connection:
        machine.spend(_MS)
        held.append(len(connections))
        connection = Connection()
        connections.add(connection)
        return connection

    async def async_call() -> Connection:
        return call()

    connections: weakref.WeakSet[Connection] = weakref.WeakSet()
    held: list[int] = []
    plan = Plan(rounds=3, warmup=0)
    measure_sync(call, plan, clock=machine.clock)
    measure(call, plan, clock=machine.clock)
    _measure_async(async_call, plan, clock=machine.clock)
    assert held == [0] * 12


def test_the_time_until_a_timing_is_awaited_is_not_that_of_the_cold_round(
    machine: _Machine,
) -> None:
    def begin() -> Awaitable[int]:
        machine.spend(3 * _MS, 1 * _MS)
        return machine.async_work(20)()

    pending = measure(begin, Plan(rounds=1), clock=machine.clock)
    assert not isinstance(pending, Timing)
    machine.spend(700 * _MS, 700 * _MS)
    timed = asyncio.run(pending)
    assert timed.cold_wall == 0.023
    assert timed.cold_cpu == 0.011
    assert timed.measurements == (Rounds((0.023,), (0.011,)),)


def test_whatever_can_be_awaited_is_awaited(machine: _Machine) -> None:
    class Later:
        def __await__(self) -> Generator[None]:
            yield
            machine.spend(10 * _MS)

    def begin() -> asyncio.Task[int]:
        return asyncio.get_running_loop().create_task(machine.async_work(20)())

    async def both() -> list[float]:
        found = []
        for call in (Later, begin):
            pending = measure(call, Plan(rounds=2), clock=machine.clock)
            assert not isinstance(pending, Timing)
            found.append((await pending)["mean"])
        return found

    assert asyncio.run(both()) == [0.01, 0.02]


class _Later:
    def __await__(self) -> Generator[None]:
        yield

    def __repr__(self) -> str:
        return "<later 0x1>"


async def _fetch() -> int:
    return 1


async def _fetch_nothing() -> Coroutine[Any, Any, int]:
    return _fetch()


def _rows() -> Iterator[int]:
    yield 1


async def _async_rows() -> AsyncIterator[int]:
    yield 1


async def _rows_later() -> Iterator[int]:
    return _rows()


def _measure_all(call: Callable[[], Any]) -> Timing:
    timed = measure(call, Plan(rounds=2))
    return timed if isinstance(timed, Timing) else asyncio.run(timed)


@pytest.mark.parametrize(
    ("entry", "call", "message"),
    [
        (measure_sync, _fetch, "<coroutine object _fetch at 0x…>, which nobody has awaited"),
        (measure_sync, _Later, "<later 0x…>, which nobody has awaited"),
        (measure_sync, _rows, "<generator object _rows at 0x…>, which has not run yet: time a "),
        (measure_sync, _async_rows, "<async_generator object _async_rows at 0x…>, which has not"),
        (_measure_all, _fetch_nothing, "<coroutine object _fetch at 0x…>, which nobody has"),
        (_measure_all, _rows, "<generator object _rows at 0x…>, which has not run yet: time a"),
        (_measure_all, _rows_later, "<generator object _rows at 0x…>, which has not run yet"),
        (_measure_all, _async_rows, "<async_generator object _async_rows at 0x…>, which has"),
    ],
)
def test_work_that_has_not_been_done_is_an_error(
    entry: Callable[[Callable[[], Any]], Timing], call: Callable[[], Any], message: str
) -> None:
    with pytest.raises(TimingError) as caught:
        entry(call)
    said, _, rest = str(caught.value).partition("0x")
    assert f"{said}0x…{rest[rest.index('>') :]}".startswith(
        f"the first, cold round returned {message}"
    )
    assert "time a function that" in rest or "time an async function that" in rest


def test_a_later_round_that_returns_a_coroutine_is_an_error(machine: _Machine) -> None:
    results: list[Any] = [1, 2, 3]

    def call() -> Any:
        machine.spend(_MS)
        return results.pop() if results else _fetch()

    for entry in (measure_sync, measure):
        results[:] = [1, 2, 3]
        with pytest.raises(TimingError, match=r"^round 2 of 5 returned <coroutine object _fetch"):
            entry(call, Plan(rounds=5, warmup=1), clock=machine.clock)


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        (0, "the first, cold round"),
        (1, "warm-up round 1 of 2"),
        (2, "warm-up round 2 of 2"),
        (3, "round 1 of 3"),
        (5, "round 3 of 3"),
        (6, "round 1 of 3, repetition 1"),
        (9, "round 1 of 3, repetition 2"),
    ],
)
def test_every_round_is_checked_and_the_first_wrong_one_ends_the_timing(
    machine: _Machine, run: _Run, wrong: int, where: str
) -> None:
    seen: list[int] = []

    def check(result: int) -> None:
        seen.append(result)
        if result == 500 + wrong:
            raise ValueError(f"status {result}: no such table")

    durations = tuple(500 + n for n in range(12))
    plan = Plan(rounds=3, warmup=2, limits={"mean": 0.1})
    with pytest.raises(RoundError) as caught:
        run(machine, durations, plan=plan, check=check)
    assert str(caught.value) == f"{where}: status {500 + wrong}: no such table"
    assert caught.value.round == where
    assert isinstance(caught.value.__cause__, ValueError)
    assert isinstance(caught.value, PerfguardError)
    assert seen == [500 + n for n in range(wrong + 1)]


def test_a_check_without_a_message_is_named_by_its_error(machine: _Machine) -> None:
    def check(_: object) -> None:
        raise KeyError

    with pytest.raises(RoundError, match=r"^the first, cold round: KeyError$"):
        _run_sync(machine, (1,), check=check)


def test_a_check_that_returns_false_has_failed(machine: _Machine, run: _Run) -> None:
    with pytest.raises(RoundError, match=r"^round 1 of 2: the check returned False for 7$"):
        run(machine, (1, 7), plan=Plan(rounds=2, warmup=0), check=lambda result: result < 7)
    assert run(machine, (1,), plan=Plan(rounds=2), check=lambda result: result < 7)["max"] == 0.001


def test_an_async_check_is_an_error(machine: _Machine, run: _Run) -> None:
    async def check(_: object) -> None: ...

    with pytest.raises(TimingError, match="the check is async, and nothing waits for it"):
        run(machine, (1,), check=check)


@pytest.mark.parametrize(
    ("failing", "where"),
    [(0, "the first, cold round"), (1, "warm-up round 1 of 1"), (3, "round 2 of 5")],
)
def test_an_error_of_the_call_stays_what_it_is_and_names_the_round(
    machine: _Machine, failing: int, where: str
) -> None:
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        machine.spend(_MS)
        if calls == failing + 1:
            raise ConnectionError("refused")

    async def async_call() -> None:
        call()

    def run_async() -> None:
        pending = measure(async_call, plan, clock=machine.clock)
        assert not isinstance(pending, Timing)
        asyncio.run(pending)

    plan = Plan(rounds=5, warmup=1)
    for attempt in (
        lambda: measure_sync(call, plan, clock=machine.clock),
        lambda: measure(call, plan, clock=machine.clock),
        run_async,
    ):
        calls = 0
        with pytest.raises(ConnectionError, match="refused") as caught:
            attempt()
        assert caught.value.__notes__ == [f"perfguard: raised in {where} of a timing"]
        assert calls == failing + 1


def test_progress_is_told_after_each_measured_round(machine: _Machine, run: _Run) -> None:
    told: list[tuple[int, int]] = []

    def progress(number: int, rounds: int) -> None:
        told.append((number, rounds))

    run(machine, (10,), plan=Plan(rounds=3, warmup=2), progress=progress)
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_no_round_is_started_after_max_time(machine: _Machine, run: _Run) -> None:
    timed = run(machine, (10, 400), plan=Plan(rounds=50, warmup=9, max_time="1s"))
    assert timed.warmup == 3
    assert timed.rounds == 3
    assert timed.summary().rounds == 3
    assert timed.summary().planned == 50
    assert run(machine, (400,), plan=Plan(rounds=50, max_time=0.1)).rounds == 1
    assert run(machine, (400,), plan=Plan(rounds=50, max_time=1)).rounds == 3
    assert run(machine, (400,), plan=Plan(rounds=2, max_time="1min")).rounds == 2


def test_max_time_counts_what_happens_between_rounds(machine: _Machine, run: _Run) -> None:
    plan = Plan(rounds=50, warmup=0, max_time="1s")
    assert run(machine, (1,), plan=plan, check=lambda _: machine.spend(500 * _MS)).rounds == 2


def test_too_few_rounds_for_a_limit_within_max_time_name_both(machine: _Machine, run: _Run) -> None:
    plan = Plan(rounds=100, max_time="2s", limits={"mean": 0.1, "p95": 0.1})
    with pytest.raises(TimingError) as caught:
        run(machine, (250,), plan=plan)
    assert str(caught.value) == (
        "p95 needs at least 20 rounds, but max_time='2s' ended them after 8 of 100: "
        "give it more time, or budget the mean or the median"
    )


def test_a_repetition_that_max_time_ends_early_cannot_pass_for_a_percentile(
    machine: _Machine, run: _Run
) -> None:
    plan = Plan(rounds=20, warmup=0, max_time="2s", limits={"p95": 0.05})
    timed = run(machine, (100,) * 21 + (1999, 1), plan=plan)
    assert [len(measured.wall) for measured in timed.measurements] == [20, 2, 20]
    assert timed["p95"] == 0.001
    timed = run(machine, (100,) * 21 + (1999, 1, 1999, 1), plan=plan)
    assert [len(measured.wall) for measured in timed.measurements] == [20, 2, 2]
    assert timed["p95"] == 0.1
    assert timed.rounds == 20


def test_a_statistic_is_asked_for_by_its_name(machine: _Machine) -> None:
    timed = _run_sync(machine, (1, 10, 20, 60), plan=Plan(rounds=3, warmup=0))
    assert timed["mean"] == 0.03
    assert timed["median"] == 0.02
    assert timed["max"] == 0.06
    assert timed["cpu"] == 0.015


def test_a_statistic_without_enough_rounds_says_how_many_it_needs(machine: _Machine) -> None:
    timed = _run_sync(machine, (10,), plan=Plan(rounds=99))
    assert timed["p95"] == 0.01
    with pytest.raises(TimingError) as caught:
        timed["p99"]
    assert str(caught.value) == "p99 needs at least 100 rounds, not 99: write rounds=100"
    timed = _run_sync(machine, (10,), plan=Plan(rounds=100, max_time="50ms"))
    with pytest.raises(TimingError) as caught:
        timed["p95"]
    assert str(caught.value).startswith(
        "p95 needs at least 20 rounds, but max_time='50ms' ended them after 5 of 100: "
    )
    with pytest.raises(TimingError, match="there is no statistic 'p98': did you mean 'p9"):
        timed["p98"]


def test_a_limit_that_is_kept_needs_no_repetition(machine: _Machine, run: _Run) -> None:
    timed = run(machine, (10,), plan=Plan(rounds=5, limits={"mean": 0.01, "max": 0.01}))
    assert timed.repeated == 0


def test_a_measurement_is_repeated_when_noise_exceeds_a_limit(machine: _Machine, run: _Run) -> None:
    plan = Plan(rounds=5, warmup=0, limits={"max": 0.02})
    timed = run(machine, (10, 10, 10, 90, 10, 10, 12), plan=plan)
    assert timed.repeated == 1
    assert [max(measured.wall) for measured in timed.measurements] == [0.09, 0.012]
    assert timed["max"] == 0.012
    assert timed.summary().repeated == 1


def test_a_real_breach_is_measured_three_times_and_no_more(machine: _Machine, run: _Run) -> None:
    plan = Plan(rounds=5, warmup=0, limits={"mean": 0.02})
    timed = run(machine, (30,) * 6 + (22,) * 5 + (25,), plan=plan)
    assert timed.repeated == 2
    assert timed["mean"] == pytest.approx(0.022)
    assert stats.exceeded(timed.statistics, plan.limits) == ("mean",)


def test_without_limits_nothing_is_repeated(machine: _Machine, run: _Run) -> None:
    assert run(machine, (10,)).repeated == 0


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"rounds": 0}, "rounds=0 is not a whole number of at least 1"),
        ({"rounds": 2.0}, "rounds=2.0 is not a whole number of at least 1"),
        ({"rounds": True}, "rounds=True is not a whole number of at least 1"),
        ({"rounds": "10"}, "rounds='10' is not a whole number of at least 1"),
        ({"warmup": -1}, "warmup=-1 is not a whole number of at least 0"),
        ({"concurrency": 0}, "concurrency=0 is not a whole number of at least 1"),
        ({"max_time": "2"}, "max_time: '2' has no unit: write a number with a unit such as"),
        ({"max_time": "2MB"}, "max_time: 'MB' in '2MB' is not a unit of seconds"),
        ({"max_time": True}, "max_time: True is not a limit: write a number with a unit"),
        ({"max_time": 0}, "max_time=0 is no time to run rounds in: write '2s'"),
        ({"max_time": "0s"}, "max_time='0s' is no time to run rounds in: write '2s'"),
        ({"max_time": -1.0}, "max_time=-1.0 is no time to run rounds in: write '2s'"),
        ({"max_time": float("nan")}, "max_time=nan is no time to run rounds in: write '2s'"),
        ({"max_time": float("inf")}, "max_time=inf is no time to run rounds in: write '2s'"),
        ({"limits": {"p9": 1.0}}, "there is no statistic 'p9': did you mean 'p9"),
        (
            {"rounds": 19, "limits": {"p95": 1.0}},
            "p95 needs at least 20 rounds, not 19: write rounds=20",
        ),
        (
            {"rounds": 99, "limits": {"mean": 1.0, "p99": 1.0}},
            "p99 needs at least 100 rounds, not 99: write rounds=100",
        ),
        (
            {"rounds": 5, "concurrency": 6},
            "concurrency=6 needs at least as many rounds, not 5",
        ),
    ],
    ids=repr,
)
def test_a_plan_that_makes_no_sense_is_refused(plan: dict[str, Any], message: str) -> None:
    with pytest.raises(TimingError) as caught:
        Plan(**plan)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_all_mistakes_of_a_plan_are_shown_at_once() -> None:
    with pytest.raises(TimingError) as caught:
        Plan(rounds=0, warmup=-1, max_time="soon", concurrency=0, limits={"speed": 1.0})
    assert len(str(caught.value).splitlines()) == 5


class _Server:
    """An async call that knows how many rounds are in flight."""

    def __init__(self, machine: _Machine) -> None:
        self._machine = machine
        self._in_flight = 0
        self.calls = 0
        self.peak = 0

    async def __call__(self) -> int:
        self.calls += 1
        number = self.calls
        self._in_flight += 1
        self.peak = max(self.peak, self._in_flight)
        for _ in range(3):
            await asyncio.sleep(0)
        self._machine.spend(_MS, _MS)
        self._in_flight -= 1
        return number


def _measure_async(call: Callable[[], Awaitable[Any]], plan: Plan, **options: Any) -> Timing:
    timed = measure(call, plan, **options)
    assert not isinstance(timed, Timing)
    return asyncio.run(timed)


@pytest.mark.parametrize("concurrency", [1, 2, 7])
def test_as_many_rounds_as_asked_for_are_in_flight_at_once(
    machine: _Machine, concurrency: int
) -> None:
    server = _Server(machine)
    told: list[tuple[int, int]] = []
    timed = _measure_async(
        server,
        Plan(rounds=20, warmup=5, concurrency=concurrency),
        clock=machine.clock,
        progress=lambda number, rounds: told.append((number, rounds)),
    )
    assert server.peak == concurrency
    assert timed.rounds == 20
    assert timed.warmup == max(5, concurrency)
    assert server.calls == 1 + timed.warmup + 20
    assert timed.summary().concurrency == concurrency
    assert told == [(number, 20) for number in range(1, 21)]


def test_rounds_at_once_share_the_cpu_time_that_they_used_together(machine: _Machine) -> None:
    plan = Plan(rounds=3, warmup=0, concurrency=2)
    timed = _measure_async(machine.async_work(1, 10, 20, 31), plan, clock=machine.clock)
    assert timed.measurements[0].cpu == pytest.approx((0.0305 / 3,) * 3)
    assert timed["cpu"] == pytest.approx(0.0305 / 3)


def test_a_round_that_holds_up_the_event_loop_is_felt_by_those_that_wait(
    machine: _Machine,
) -> None:
    async def blocking() -> None:
        machine.spend(100 * _MS)

    plan = Plan(rounds=12, warmup=0, concurrency=4)
    timed = _measure_async(blocking, plan, clock=machine.clock)
    assert timed.cold_wall == 0.1
    assert timed.measurements[0].wall == (0.1, 0.2, 0.3, *(0.4,) * 9)


def test_no_concurrent_round_is_started_after_max_time(machine: _Machine) -> None:
    plan = Plan(rounds=50, warmup=0, concurrency=4, max_time="10ms")
    timed = _measure_async(_Server(machine), plan, clock=machine.clock)
    assert 10 <= timed.rounds <= 13


def test_a_wrong_result_ends_all_rounds_that_are_in_flight(machine: _Machine) -> None:
    server = _Server(machine)

    def check(result: int) -> None:
        if result == 8:
            raise ValueError("status 500")

    with pytest.raises(RoundError, match=r"^round 3 of 20: status 500$") as caught:
        _measure_async(
            server,
            Plan(rounds=20, warmup=4, concurrency=4),
            clock=machine.clock,
            check=check,
        )
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value.__context__ is caught.value.__cause__
    assert server.calls <= 12


def test_an_error_of_a_concurrent_call_stays_what_it_is(machine: _Machine) -> None:
    server = _Server(machine)

    async def call() -> None:
        number = await server()
        if number >= 8:
            raise ConnectionError("refused")

    with pytest.raises(ConnectionError, match="refused") as caught:
        _measure_async(call, Plan(rounds=20, warmup=4, concurrency=4), clock=machine.clock)
    assert len(caught.value.__notes__) == 1
    assert caught.value.__notes__[0].startswith("perfguard: raised in round ")


def test_concurrency_needs_an_async_call(machine: _Machine) -> None:
    plan = Plan(rounds=20, concurrency=2)
    for entry in (measure, measure_sync):
        with pytest.raises(TimingError, match=r"^concurrency=2 needs an async call"):
            entry(machine.work(1), plan, clock=machine.clock)


def test_concurrency_needs_asyncio(machine: _Machine) -> None:
    async def call() -> None:
        machine.spend(_MS)

    pending = measure(call, Plan(rounds=20, concurrency=2), clock=machine.clock)
    assert not isinstance(pending, Timing)
    with pytest.raises(TimingError, match="concurrency needs asyncio, not another event loop"):
        pending.send(None)


def test_without_concurrency_any_event_loop_will_do(machine: _Machine) -> None:
    async def call() -> None:
        machine.spend(_MS)

    pending = measure(call, Plan(rounds=20), clock=machine.clock)
    assert not isinstance(pending, Timing)
    with pytest.raises(StopIteration) as caught:
        pending.send(None)
    assert caught.value.value["max"] == 0.001


class _Cycle:
    def __init__(self) -> None:
        self.me = self


def test_garbage_of_before_is_collected_before_the_rounds(machine: _Machine) -> None:
    def leave_garbage(*_: object) -> None:
        garbage.append(weakref.ref(_Cycle()))

    def call() -> None:
        machine.spend(_MS)
        alive.append(sum(reference() is not None for reference in garbage))
        leave_garbage()

    garbage: list[weakref.ref[_Cycle]] = []
    alive: list[int] = []
    gc.disable()
    try:
        measure_sync(call, Plan(rounds=2, warmup=1, limits={"max": 0.0}), clock=machine.clock)
    finally:
        gc.enable()
    cold_and_warmup, measurements = alive[:2], alive[2:]
    assert cold_and_warmup == [0, 1]
    assert measurements == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_stays_as_it_is(machine: _Machine, run: _Run, enabled: bool) -> None:
    seen: set[bool] = set()

    def check(_: object) -> None:
        seen.add(gc.isenabled())

    threshold, frozen = gc.get_threshold(), gc.get_freeze_count()
    if not enabled:
        gc.disable()
    try:
        run(machine, (1,), plan=Plan(rounds=3), check=check)
        seen.add(gc.isenabled())
        with pytest.raises(RoundError):
            run(machine, (1, 2), plan=Plan(rounds=3), check=lambda result: result < 2)
        seen.add(gc.isenabled())
    finally:
        gc.enable()
    assert seen == {enabled}
    assert (gc.get_threshold(), gc.get_freeze_count()) == (threshold, frozen)


def test_a_clock_that_stands_still_is_an_error(run: _Run) -> None:
    with pytest.raises(TimingError, match="the clock stands still, because time was frozen"):
        run(_Machine(), (0,), plan=Plan(rounds=3))


def test_freezing_time_does_not_freeze_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("perf_counter_ns", "perf_counter", "process_time_ns", "monotonic_ns"):
        real = getattr(time, name)
        monkeypatch.setattr(time, name, lambda: 0)
        for module in (timing, stats):
            for attribute, value in list(vars(module).items()):
                if value is real:
                    monkeypatch.setattr(module, attribute, lambda: 0)
    timed = measure_sync(lambda: sum(range(1000)), Plan(rounds=3))
    assert timed["max"] > 0
    assert timed.cold_wall > 0


def test_a_summary_is_plain_data_that_is_read_back(machine: _Machine) -> None:
    plan = Plan(rounds=20, warmup=0, limits={"max": 0.02})
    timed = _run_sync(machine, (70, *(30,) * 20, *range(1, 21)), plan=plan)
    summary = timed.summary()
    data = summary.to_dict()
    assert Summary.from_dict(json.loads(json.dumps(data))) == summary
    assert data == {
        "rounds": 20,
        "planned": 20,
        "repeated": 1,
        "warmup": 0,
        "concurrency": 1,
        "cold_wall": 0.07,
        "cold_cpu": 0.035,
        "statistics": pytest.approx(
            {
                "mean": 0.0105,
                "median": 0.0105,
                "p95": 0.019,
                "max": 0.02,
                "stddev": 0.0,
                "iqr": 0.0,
                "cpu": 0.00525,
            }
        ),
        "sample": [ms / 1e3 for ms in range(1, 21)],
        "py_calls": None,
        "waiting": None,
    }


@settings(deadline=None)
@given(st.integers(1, 350))
def test_a_sample_is_bounded_and_spans_the_measurement(rounds: int) -> None:
    durations = [(number * 7919) % rounds + 1 for number in range(rounds)]
    wall = tuple(float(duration) for duration in durations)
    sample = Timing(Plan(rounds=rounds), 0, 0.0, 0.0, (Rounds(wall, wall),)).summary().sample
    assert len(sample) == min(rounds, SAMPLE)
    assert list(sample) == sorted(sample)
    assert set(sample) <= set(wall)
    assert sample[0] == min(wall)
    assert sample[-1] == max(wall)


def test_a_timing_shows_its_statistics(machine: _Machine) -> None:
    timed = _run_sync(machine, (10, 30), plan=Plan(rounds=1, warmup=0, limits={"max": 0.02}))
    assert repr(timed) == (
        "<Timing of 1 rounds, repeated 2x: mean 30 ms, median 30 ms, max 30 ms, cpu 15 ms>"
    )
