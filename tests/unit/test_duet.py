from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from statistics import stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_perfguard.duet import (
    DuetResult,
    Outcome,
    Rule,
    Verdict,
    cpu_rule,
    is_enough,
    judge,
    judge_waiting,
    middle_mean,
    noise_floor,
    rules,
    standard_error,
    waiting_rule,
)
from pytest_perfguard.errors import DuetError
from pytest_perfguard.meetings import Blocks, Meeting

CPU, WAITING = cpu_rule(pinned=True), waiting_rule(pinned=True)
BASE = 0.001
# Between pairs of blocks, and between pairs of processes: the worst that was seen of two that are
# pinned.
BLOCK_NOISE, PROCESS_NOISE = 0.08, 0.017


def seeded(number: int) -> random.Random:
    return random.Random(number)  # noqa: S311 - no secret


def steady(share: float, blocks: int = 8) -> list[float]:
    """Return the logarithms of pairs of blocks that all differ by a share."""
    return [math.log1p(share)] * blocks


def meeting(
    share: float = 0.0, waits: float = 0.0, blocks: int = 8, not_pinned: str = ""
) -> Meeting:
    cpu = BASE * (1 + share)
    base = Blocks((BASE,) * blocks, (BASE,) * blocks, (0.0,) * blocks)
    head = Blocks((cpu,) * blocks, (cpu + waits,) * blocks, (waits,) * blocks)
    return Meeting(base, head, 3, 0.6, not_pinned)


def verdict(*shares: float, rule: Rule = CPU) -> Verdict:
    return judge([steady(share) for share in shares], rule).verdict


# -- statistics ----------------------------------------------------------------------------


def test_the_middle_half_knows_nothing_of_the_outer_quarters() -> None:
    assert middle_mean([1e6, 4, -1e6, 2, 3, 5, 1e6, -1e6]) == 3.5
    assert middle_mean([1, 2, 6]) == 3


def test_the_standard_error_is_that_of_many_repetitions() -> None:
    chance = seeded(7)

    def noise() -> list[float]:
        # One block in ten is hit by a neighbour.
        return [chance.gauss(0, 1) + (5 if chance.random() < 0.1 else 0) for _ in range(60)]

    samples = [noise() for _ in range(600)]
    seen = stdev(map(middle_mean, samples))
    told = sum(map(standard_error, samples)) / len(samples)

    assert told == pytest.approx(seen, rel=0.15)
    assert standard_error([1.0, 1.0, 1.0]) == math.inf


# -- the rule ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ((0.0,), Verdict.SAME),
        ((0.049,), Verdict.SAME),
        ((-0.045,), Verdict.SAME),
        ((0.051,), Verdict.UNDECIDED),
        ((0.30, 0.30), Verdict.UNDECIDED),
        ((0.30, 0.30, 0.30), Verdict.SLOWER),
        ((0.051, 0.051, 0.051), Verdict.SLOWER),
        ((0.30, 0.30, 0.049), Verdict.SAME),
        ((0.30, 0.049), Verdict.SAME),
        ((-0.10, -0.10, -0.10), Verdict.FASTER),
        ((-0.10, 0.10, 0.10), Verdict.UNDECIDED),
    ],
)
def test_a_call_has_changed_if_all_pairs_of_processes_say_so(
    shares: tuple[float, ...], expected: Verdict
) -> None:
    assert verdict(*shares) is expected


def test_what_varies_too_much_is_undecided_however_large_it_is() -> None:
    wild = [0.0, 0.4] * 10

    outcome = judge([wild, wild, wild])

    assert outcome.verdict is Verdict.UNDECIDED
    assert outcome.reason == "the times of its blocks vary too much"


def test_what_is_large_enough_need_not_be_known_well() -> None:
    wild = [0.6, 1.0] * 10

    assert standard_error(wild) > CPU.unsure_above
    assert judge([wild, wild, wild]).verdict is Verdict.SLOWER


def test_blocks_go_on_for_a_while_where_too_little_can_be_said() -> None:
    noisy = meeting(blocks=20)
    cpu = tuple(BASE * (1 + 0.4 * (n % 2)) for n in range(20))
    noisy = replace(noisy, head=replace(noisy.head, cpu=cpu))

    assert not is_enough(noisy, 2, CPU, WAITING)
    assert is_enough(noisy, CPU.patience, CPU, WAITING)


def test_few_blocks_of_a_long_call_are_undecided() -> None:
    outcome = judge([steady(0.0, blocks=7)])

    assert outcome.verdict is Verdict.UNDECIDED
    assert "fewer than 8 blocks" in outcome.reason


def test_nothing_is_no_verdict() -> None:
    with pytest.raises(DuetError, match="not met"):
        judge([])
    with pytest.raises(DuetError, match="without a block"):
        judge([[]])


def test_processes_that_are_not_pinned_have_a_wider_rule() -> None:
    cpu, waiting = rules([meeting(), meeting(not_pinned="this platform cannot")])

    assert (cpu, waiting) == (cpu_rule(pinned=False), waiting_rule(pinned=False))
    assert verdict(0.19, 0.19, 0.19, rule=cpu) is Verdict.SAME
    assert verdict(0.21, 0.21, 0.21, rule=cpu) is Verdict.SLOWER


def test_a_noise_floor_widens_the_limit_and_never_narrows_it() -> None:
    assert cpu_rule(pinned=True, noise_floor=0.01) == CPU
    wider = cpu_rule(pinned=True, noise_floor=0.10)
    assert wider.limit == 0.10
    assert wider.passes_below == pytest.approx(0.06)
    assert verdict(0.09, 0.09, 0.09, rule=wider) is Verdict.SAME
    with pytest.raises(DuetError, match="no noise floor"):
        cpu_rule(pinned=True, noise_floor=math.inf)


# -- the looks -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "seconds", "expected"),
    [
        (0.0, 0.4, False),
        (0.0, 0.5, True),
        (0.029, 0.5, True),
        (0.031, 0.5, False),
        (0.031, 1.9, False),
        (0.031, 2.0, True),
        (-0.04, 0.5, True),
        (-0.06, 0.5, False),
        (0.60, 2.0, True),
    ],
)
def test_it_is_looked_again_while_it_is_unclear(
    share: float, seconds: float, *, expected: bool
) -> None:
    assert is_enough(meeting(share), seconds, CPU, WAITING) is expected


def test_a_long_call_goes_on_until_there_are_enough_blocks() -> None:
    assert not is_enough(meeting(blocks=7), 29, CPU, WAITING)
    assert is_enough(meeting(blocks=7), 30, CPU, WAITING)
    assert is_enough(meeting(blocks=8), 29, CPU, WAITING)
    assert not is_enough(meeting(blocks=0), 1000, CPU, WAITING)


def test_waiting_is_looked_at_as_well() -> None:
    assert is_enough(meeting(waits=0.00005), 0.5, CPU, WAITING)
    assert not is_enough(meeting(waits=0.00020), 0.5, CPU, WAITING)


# -- waiting -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waits", "expected"),
    [(0.0, "same"), (0.000099, "same"), (0.0003, "slower by 30 %")],
)
def test_waiting_is_judged_as_a_share_of_all_that_a_call_takes(waits: float, expected: str) -> None:
    assert judge_waiting([meeting(waits=waits)] * 3).text == expected


def test_waiting_that_is_not_seen_to_have_changed_is_the_same() -> None:
    noisy = meeting(blocks=20)
    waits = tuple(0.002 * (-1) ** n for n in range(20))
    noisy = replace(noisy, head=replace(noisy.head, waiting=waits))

    assert judge_waiting([noisy]).verdict is Verdict.SAME


def test_a_call_that_waits_longer_is_slower_though_it_needs_no_more_of_a_core() -> None:
    result = DuetResult.of("test_it.py::test", "GET /", [meeting(waits=0.0005)] * 3)

    assert (result.verdict, result.text) == (
        Verdict.SLOWER,
        "slower by 50 % (waiting 0 s -> 500 µs in a call of 1 ms)",
    )


# -- results -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "verdict"), [(0.9, Verdict.SAME), (1.1, Verdict.SLOWER), (-0.4, Verdict.SAME)]
)
def test_what_a_call_computes_that_waits_has_to_change_by_a_share_of_all_of_it(
    more: float, verdict: Verdict
) -> None:
    """It computes for 1 ms of 100 ms, so that twice as much is the limit."""
    waits = (0.099,) * 8
    base = Blocks((0.001,) * 8, (0.1,) * 8, waits)
    head = Blocks((0.001 * (1 + more),) * 8, (0.1 + 0.001 * more,) * 8, waits)
    result = DuetResult.of("t", "c", [Meeting(base, head, 1, 2.0)] * 3)
    assert result.verdict is verdict
    assert result.cpu is not None
    assert result.cpu.limit == pytest.approx(1.0)


def test_a_result_says_how_large_a_change_is() -> None:
    meetings = [meeting(share) for share in (0.118, 0.091, 0.10)]
    result = DuetResult.of("test_it.py::test", "GET /", meetings)

    assert result.text == "slower by 9-12 % (CPU time of a call 1 ms -> 1.1 ms)"
    assert DuetResult.of("t", "c", [meeting(-0.08)] * 3).text.startswith("faster by 8 % (")
    both = DuetResult.of("t", "c", [meeting(0.2, waits=0.0005)] * 3)
    assert both.text == (
        "slower by 20 % (CPU time of a call 1 ms -> 1.2 ms), "
        "slower by 50 % (waiting 0 s -> 500 µs in a call of 1 ms)"
    )


def test_a_result_tells_whether_other_processes_may_settle_it() -> None:
    assert DuetResult.of("t", "c", [meeting(0.1)]).is_open
    assert DuetResult.of("t", "c", [meeting(0.1)] * 2).is_open
    assert not DuetResult.of("t", "c", [meeting(0.1)] * 3).is_open
    assert not DuetResult.of("t", "c", [meeting()]).is_open
    assert not DuetResult.of("t", "c", [meeting(blocks=3)]).is_open
    assert not DuetResult("t", "c", reason="base died").is_open


def test_what_cannot_be_compared_is_neither_the_same_nor_without_a_reason() -> None:
    result = DuetResult("test_it.py::test", "", reason="base has no such test")

    assert result.verdict is Verdict.NOT_COMPARABLE
    assert result.text == "not comparable: base has no such test"
    assert result.key == "test_it.py::test"


_TIMES = st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=5).map(tuple)
_MEETINGS = _TIMES.map(
    lambda times: Meeting(Blocks(times, times, times), Blocks(times, times, times), 2, 0.5)
)


@given(st.text(), st.text(), st.lists(_MEETINGS, min_size=1, max_size=3))
def test_a_result_survives_as_plain_data(nodeid: str, call: str, meetings: list[Meeting]) -> None:
    result = DuetResult.of(nodeid, call, meetings)

    assert DuetResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_a_result_without_a_verdict_survives_too() -> None:
    result = DuetResult("t", "", reason="base died")

    assert DuetResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_the_noise_floor_is_what_calls_of_the_same_code_have_differed_by() -> None:
    def result(share: float) -> DuetResult:
        return DuetResult("t", "c", cpu=Outcome(Verdict.SAME, (share,), 0.05))

    # Of few it is more than the largest, of many the largest.
    assert noise_floor([result(0.01), result(-0.01)]) == pytest.approx(0.03, rel=0.02)
    assert noise_floor([result(0.0)] * 50 + [result(0.2)]) == pytest.approx(0.2)
    with pytest.raises(DuetError, match="no call was timed on both sides"):
        noise_floor([DuetResult("t", "", reason="base died")])


# -- false alarms and power ----------------------------------------------------------------


def simulate(chance: random.Random, share: float, pairs: int = 3) -> Outcome:
    """Return what is said of a call that takes so much longer, measured as often as needed."""
    measured: list[Sequence[float]] = []
    while True:
        bias = math.log1p(share) + chance.gauss(0, PROCESS_NOISE)
        # One block in five is hit by a neighbour.
        measured.append(
            [
                chance.gauss(bias, BLOCK_NOISE)
                + (chance.choice((-1, 1)) if chance.random() < 0.2 else 0)
                for _ in range(160)
            ]
        )
        outcome = judge(measured)
        if outcome.verdict is not Verdict.UNDECIDED or len(measured) == pairs:
            return outcome


def test_no_false_alarm_in_a_thousand_calls_of_the_same_code() -> None:
    chance = seeded(1)

    found = [simulate(chance, 0.0).verdict for _ in range(1000)]

    assert found.count(Verdict.SLOWER) == found.count(Verdict.FASTER) == 0
    assert found.count(Verdict.UNDECIDED) == 0


@pytest.mark.parametrize(("share", "power"), [(0.07, 0.60), (0.10, 0.95), (0.20, 1.0)])
def test_the_power_is_that_of_the_experiment(share: float, power: float) -> None:
    chance = seeded(2)

    found = [simulate(chance, share).verdict for _ in range(200)]

    assert found.count(Verdict.SLOWER) >= power * len(found)
    assert found.count(Verdict.FASTER) == 0
