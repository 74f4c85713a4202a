from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pytest_perfguard.errors import TimingError
from pytest_perfguard.gate import (
    FEWEST_PROCESSES,
    PROCESSES,
    GateStatus,
    GateVerdict,
    WaitingVerdict,
    judge,
    judge_waiting,
)
from pytest_perfguard.samples import Readings, Sample, Window

_UNDER = 1e-9
_LIMIT = math.log(1.13)


def _window(
    cpu: float, a: float = -7.0, b: float = -8.0, c: float = -7.5, waiting: float = 0.0
) -> Window:
    return Window(cpu, (a, b, c), waiting, 0.001, 50)


def _sample(*windows: Window, reference: str = "function") -> Sample:
    return Sample(reference, windows[0], windows)


def _stored(number: int = PROCESSES, cpu: float = -7.0) -> list[Sample]:
    return [_sample(_window(cpu)) for _ in range(number)]


def _slower(sample: Sample, by: float) -> Sample:
    """Return what the process would have measured, had the call taken longer."""
    return replace(
        sample,
        pooled=replace(sample.pooled, cpu=sample.pooled.cpu + by),
        windows=tuple(replace(window, cpu=window.cpu + by) for window in sample.windows),
    )


def _on_another_machine(sample: Sample, by: float) -> Sample:
    """Return what it would have measured on a machine on which everything takes longer."""

    def moved(window: Window) -> Window:
        a, b, c = window.references
        return replace(window, cpu=window.cpu + by, references=(a + by, b + by, c + by))

    return replace(sample, pooled=moved(sample.pooled), windows=tuple(map(moved, sample.windows)))


_LOG = st.integers(-1000, -400).map(lambda n: n / 100)
_WINDOWS = st.builds(_window, _LOG, _LOG, _LOG, _LOG)
_SAMPLES = st.lists(_WINDOWS, min_size=1, max_size=3).map(lambda windows: _sample(*windows))
_MANY = st.lists(_SAMPLES, min_size=FEWEST_PROCESSES, max_size=8)


class _Recipe:
    """The recipe as it is written, term by term."""

    def __init__(self, stored: Sequence[Sample], new: Sample) -> None:
        self._windows = [window for sample in stored for window in sample.windows]
        self._stored = [sample.pooled for sample in stored]
        self._new = new.pooled
        self._distances = [
            max(abs(r - s) for r, s in zip(self._new.references, one.references, strict=True))
            for one in self._stored
        ]

    @staticmethod
    def _y(window: Window, w: Sequence[float]) -> float:
        return window.cpu - sum(x * r for x, r in zip(w, window.references, strict=True))

    def objective(self, w: Sequence[float]) -> float:
        values = [self._y(window, w) for window in self._windows]
        middle = median(values)
        return 1.25 * sum(abs(v - middle) for v in values) / len(values) + 0.004 * (1 - w[0])

    def least(self) -> float:
        steps = range(5)
        mixes = [(a, b, 4 - a - b) for a in steps for b in steps if a + b <= 4]
        return min(self.objective([quarter / 4 for quarter in mix]) for mix in mixes)

    def effect(self, w: Sequence[float]) -> float:
        k = [1 / (0.08 + distance) ** 2 for distance in self._distances]
        usual = sum(near * self._y(one, w) for near, one in zip(k, self._stored, strict=True))
        return self._y(self._new, w) - usual / sum(k)

    @property
    def threshold(self) -> float:
        return math.log(1.13) + 0.4 * max(0, min(self._distances) - 0.10)


@settings(deadline=None)
@given(_MANY, _SAMPLES)
def test_the_verdict_is_that_of_the_recipe(stored: list[Sample], new: Sample) -> None:
    recipe = _Recipe(stored, new)
    verdict = judge(stored, new, FEWEST_PROCESSES)
    assert verdict.ratio is not None
    assert verdict.limit is not None
    assert verdict.weights is not None
    assert sum(verdict.weights) == 1
    assert recipe.objective(verdict.weights) == pytest.approx(recipe.least(), abs=1e-12)
    effect, threshold = recipe.effect(verdict.weights), recipe.threshold
    assert math.log(verdict.ratio) == pytest.approx(effect, abs=1e-9)
    assert math.log(verdict.limit) == pytest.approx(threshold, abs=1e-9)
    assume(abs(abs(effect) - threshold) > 1e-9)
    if threshold > math.log(1.25):
        assert verdict.status is GateStatus.UNDECIDED
    elif effect > threshold:
        assert verdict.status is GateStatus.SUSPECT
    elif effect < -threshold:
        assert verdict.status is GateStatus.FASTER
    else:
        assert verdict.status is GateStatus.OK


@settings(deadline=None)
@given(_MANY, _SAMPLES, st.integers(-100, 100).map(lambda n: n / 50))
def test_a_faster_or_slower_machine_changes_nothing(
    stored: list[Sample], new: Sample, by: float
) -> None:
    before = judge(stored, new, FEWEST_PROCESSES)
    after = judge(
        [_on_another_machine(one, by) for one in stored],
        _on_another_machine(new, by),
        FEWEST_PROCESSES,
    )
    if before.weights != after.weights:  # two mixes that fit equally well
        return
    assert after.ratio == pytest.approx(before.ratio, rel=1e-9)
    assert after.limit == pytest.approx(before.limit, rel=1e-9)


@settings(deadline=None)
@given(_MANY, _SAMPLES, st.randoms(use_true_random=False))
def test_the_order_of_the_stored_processes_does_not_matter(
    stored: list[Sample], new: Sample, random: Any
) -> None:
    shuffled = list(stored)
    random.shuffle(shuffled)
    assert judge(shuffled, new, FEWEST_PROCESSES) == judge(stored, new, FEWEST_PROCESSES)


_ORDER = [GateStatus.FASTER, GateStatus.OK, GateStatus.SUSPECT]


@settings(deadline=None)
@given(_MANY, _SAMPLES, st.integers(1, 200).map(lambda n: n / 100))
def test_a_slower_call_is_never_judged_better(stored: list[Sample], new: Sample, by: float) -> None:
    before = judge(stored, new, FEWEST_PROCESSES)
    after = judge(stored, _slower(new, by), FEWEST_PROCESSES)
    assert before.ratio is not None
    assert after.ratio is not None
    assert after.ratio / before.ratio == pytest.approx(math.exp(by), rel=1e-9)
    assert after.limit == before.limit
    if before.status is GateStatus.UNDECIDED:
        assert after.status is GateStatus.UNDECIDED
    else:
        assert _ORDER.index(after.status) >= _ORDER.index(before.status)


@settings(deadline=None)
@given(_MANY, _SAMPLES)
def test_nothing_is_suspect_below_thirteen_percent(stored: list[Sample], new: Sample) -> None:
    verdict = judge(stored, new, FEWEST_PROCESSES)
    assert verdict.ratio is not None
    assert verdict.limit is not None
    assert verdict.limit >= 1.13 - _UNDER
    if verdict.ratio <= 1.13 - _UNDER:
        assert verdict.status is not GateStatus.SUSPECT


@settings(deadline=None)
@given(_SAMPLES, st.integers(FEWEST_PROCESSES, 12), st.integers(-300, 300).map(lambda n: n / 1000))
def test_among_equal_processes_in_the_same_state_only_the_effect_counts(
    sample: Sample, number: int, by: float
) -> None:
    assume(abs(abs(by) - _LIMIT) > 1e-6)
    verdict = judge([sample] * number, _slower(sample, by), FEWEST_PROCESSES)
    assert verdict.ratio == pytest.approx(math.exp(by), rel=1e-9)
    expected = GateStatus.OK
    if abs(by) > _LIMIT:
        expected = GateStatus.SUSPECT if by > 0 else GateStatus.FASTER
    assert verdict.status is expected


@pytest.mark.parametrize(
    ("by", "status"),
    [
        (math.log(1.12), GateStatus.OK),
        (math.log(1.14), GateStatus.SUSPECT),
        (-math.log(1.12), GateStatus.OK),
        (-math.log(1.14), GateStatus.FASTER),
    ],
)
def test_the_smallest_effect_is_thirteen_percent(by: float, status: GateStatus) -> None:
    assert judge(_stored(), _sample(_window(-7.0 + by))).status is status


@pytest.mark.parametrize(
    ("distance", "limit"), [(0.0, 1.13), (0.10, 1.13), (0.20, 1.13 * math.exp(0.04))]
)
def test_the_limit_widens_where_no_stored_process_has_seen_such_a_state(
    distance: float, limit: float
) -> None:
    new = _sample(_window(-7.0, a=-7.0 + distance))
    verdict = judge(_stored(), new)
    assert verdict.distance == pytest.approx(distance)
    assert verdict.limit == pytest.approx(limit)


def test_a_state_too_far_from_all_is_undecided_however_slow_the_call_is() -> None:
    for cpu in (-9.0, -7.0, -5.0):
        verdict = judge(_stored(), _sample(_window(cpu, a=-6.6)))
        assert verdict.status is GateStatus.UNDECIDED
        assert "undecided, the machine differs by 49% from its nearest stored state" in verdict.text


def test_one_near_process_keeps_the_limit_narrow() -> None:
    stored = [*_stored(PROCESSES - 1), _sample(_window(-6.6, a=-6.6))]
    verdict = judge(stored, _sample(_window(-6.6, a=-6.6)))
    assert verdict.distance == 0
    assert verdict.limit == pytest.approx(1.13)


def test_processes_in_a_near_state_count_most() -> None:
    near = [_sample(_window(-7.0)) for _ in range(5)]
    far = [_sample(_window(-7.3, a=-6.5, b=-8.4)) for _ in range(5)]
    verdict = judge([*near, *far], _sample(_window(-7.0)))
    assert verdict.ratio == pytest.approx(1.0, abs=0.02)


def test_the_mix_is_the_one_by_which_the_stored_times_spread_least() -> None:
    # The call is slowed down as the third reference is, and the others stay as they are.
    stored = [_sample(_window(-7.0 + n / 20, c=-7.5 + n / 20)) for n in range(PROCESSES)]
    verdict = judge(stored, stored[3])
    assert verdict.weights == (0.0, 0.0, 1.0)
    assert verdict.ratio == pytest.approx(1.0)


def test_in_doubt_the_matched_reference_is_used_alone() -> None:
    verdict = judge(_stored(), _sample(_window(-7.0)))
    assert verdict.weights == (1.0, 0.0, 0.0)


def test_what_is_told_names_numbers_that_a_person_understands() -> None:
    assert judge(_stored(), _sample(_window(-7.0 + math.log(1.31)))).text == (
        "CPU time 1.31x of 10 stored processes, relative to reference work, limit 1.13x"
    )
    assert judge(_stored(), _sample(_window(-7.0 - math.log(2)))).text == (
        "CPU time 0.50x of 10 stored processes, relative to reference work, limit 0.88x"
    )
    widened = judge(_stored(), _sample(_window(-7.0, b=-7.8)))
    assert widened.text == (
        "CPU time 1.00x of 10 stored processes, relative to reference work, limit 1.18x, "
        "because the machine differs by 22% from its nearest stored state"
    )


@pytest.mark.parametrize("known", range(PROCESSES))
def test_too_few_stored_processes_judge_nothing(known: int) -> None:
    verdict = judge(_stored(known), _sample(_window(0.0)))
    assert verdict.status is GateStatus.NEW
    assert (verdict.stored, verdict.needed) == (known, PROCESSES)
    assert verdict.text.startswith(f"new ({known} of 10 processes stored")


def test_a_new_time_is_told_beside_those_that_are_there() -> None:
    verdict = judge(_stored(3), _sample(_window(-7.0 + math.log(2))))
    assert verdict.text == "new (3 of 10 processes stored, 2.00x of them so far)"
    assert judge([], _sample(_window(-7.0))) == GateVerdict(
        GateStatus.NEW, None, None, None, None, 0, 10, "new (0 of 10 processes stored)"
    )


def test_times_beside_other_references_are_left_out() -> None:
    others = [_sample(_window(-7.0), reference="asgi/httpx") for _ in range(4)]
    verdict = judge([*others, *_stored(2)], _sample(_window(-7.0)))
    assert verdict.status is GateStatus.NEW
    assert verdict.text == (
        "new (2 of 10 processes stored, 1.00x of them so far; 4 stored beside other reference work)"
    )


@pytest.mark.parametrize("needed", [4, 0, -1, True, 5.0, "10"])
def test_fewer_than_five_processes_may_not_judge(needed: Any) -> None:
    for judged in (
        lambda: judge(_stored(), _sample(_window(-7.0)), needed),
        lambda: judge_waiting(_stored(), _sample(_window(-7.0)), "asgi", needed),
    ):
        with pytest.raises(TimingError, match="are too few to judge by: at least 5"):
            judged()


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, None, "1", True, 51.0, -51.0])
@pytest.mark.parametrize("place", range(4))
def test_what_is_no_logarithm_of_a_time_is_refused(number: Any, place: int) -> None:
    numbers: list[Any] = [-7.0, -7.0, -8.0, -7.5]
    numbers[place] = number
    cpu, *references = numbers
    with pytest.raises(TimingError, match="is no logarithm of a time"):
        Window(cpu, tuple(references), 0.0, 0.001, 50)


@pytest.mark.parametrize(
    "fields",
    [
        {"waiting": -1.0},
        {"waiting": math.nan},
        {"wall": 0.0},
        {"wall": math.inf},
        {"rounds": 0},
        {"rounds": 1.5},
        {"rounds": True},
        {"references": (-7.0, -7.0)},
    ],
)
def test_a_window_with_a_number_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(TimingError):
        replace(_window(-7.0), **fields)


def test_a_time_of_zero_is_refused() -> None:
    ones = (1,) * 4
    zeros = (0,) * 4
    for cpu, references in ((zeros, (ones, ones, ones)), (ones, (ones, zeros, ones))):
        readings = Readings(1, ones, cpu, references, zeros)
        with pytest.raises(TimingError, match="the clock has seen no CPU time pass"):
            readings.window()


def _waiting(seconds: float) -> Sample:
    return _sample(_window(-7.0, waiting=seconds))


def _judge_waiting(stored: Sequence[float], new: float, kind: str = "asgi") -> WaitingVerdict:
    verdict = judge_waiting([_waiting(seconds) for seconds in stored], _waiting(new), kind)
    assert verdict is not None
    return verdict


@pytest.mark.parametrize(
    ("baseline", "new", "status"),
    [
        (0.0, 0.00019, GateStatus.OK),
        (0.0, 0.00021, GateStatus.SUSPECT),
        (0.050, 0.0549, GateStatus.OK),
        (0.050, 0.0551, GateStatus.SUSPECT),
        (0.050, 0.0451, GateStatus.OK),
        (0.050, 0.0449, GateStatus.FASTER),
        (0.001, 0.0007, GateStatus.FASTER),
    ],
)
@pytest.mark.parametrize("kind", ["function", "asgi"])
def test_waiting_has_an_allowance(
    kind: str, baseline: float, new: float, status: GateStatus
) -> None:
    verdict = _judge_waiting([baseline] * PROCESSES, new, kind)
    assert verdict.status is status
    assert verdict.limit == pytest.approx(baseline + max(0.0002, 0.1 * baseline))


def test_the_baseline_of_waiting_is_the_median_of_the_processes() -> None:
    verdict = _judge_waiting([0.001] * 6 + [0.5] * 4, 0.0013)
    assert verdict.baseline == 0.001
    assert verdict.status is GateStatus.SUSPECT
    assert verdict.text == "waits 1.3 ms, 1 ms in 10 stored processes, limit 1.2 ms"


@pytest.mark.parametrize("kind", ["testclient", "flask", "url", "unknown"])
def test_waiting_is_not_judged_where_it_is_noise(kind: str) -> None:
    stored = [_waiting(0.0)] * PROCESSES
    assert judge_waiting(stored, _waiting(1.0), kind) is None


@pytest.mark.parametrize("known", [0, 1, 9])
def test_waiting_needs_as_many_processes(known: int) -> None:
    verdict = _judge_waiting([0.0] * known, 1.0)
    assert verdict.status is GateStatus.NEW
    assert verdict.text == f"new ({known} of 10 processes stored)"
