"""How often a change is seen that there is, and one that there is not: by simulation."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_perfguard.creep import (
    CHANCE,
    FEWEST,
    HELD,
    Found,
    Kind,
    find_exact,
    find_varying,
    shared,
    varies,
)

# -- counts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([3] * 20, None),
        ([3] * 10 + [4] * 10, Found(Kind.STEP, 10, 3, 4, 1)),
        ([3] * 5 + [4] * 5 + [5] * 5, Found(Kind.CREEP, 5, 3, 5, 2)),
        # A rise that is not over yet is told as far as it has been held.
        ([3] * 5 + [4] * 5 + [5], Found(Kind.STEP, 5, 3, 4, 1)),
        ([5] * 5 + [3] * 5 + [4] * 5, Found(Kind.STEP, 10, 3, 4, 1)),
        # It has become better, came back, or is too new to tell.
        ([4] * 10 + [3] * 10, None),
        ([3] * 8 + [9] + [3] * 8, None),
        ([3] * 8 + [4] * 5 + [3] * 3, None),
        ([3] * 10 + [4] * (HELD - 1), None),
        ([3, 3, 4, 4, 4], None),
        # What comes and goes is no level.
        ([3, 4, 3, 5, 4, 3, 4, 5, 3, 4, 3, 4, 5, 4, 4, 4], None),
    ],
)
def test_counts(values: list[float], found: Found | None) -> None:
    assert find_exact(values) == found
    mirrored = None if found is None else (found.kind, found.at, -found.before, -found.after)
    seen = find_exact([-value for value in values], higher_is_better=True)
    assert (seen and (seen.kind, seen.at, seen.before, seen.after)) == mirrored


def test_a_level_that_was_accepted_needs_not_to_be_held() -> None:
    values = [6, 7, 7, 7, 8, 8, 8]
    assert find_exact(values) == Found(Kind.STEP, 4, 7, 8, 1)
    assert find_exact(values, accepted=True) == Found(Kind.CREEP, 1, 6, 8, 2)
    assert find_exact([6, 6, 6, 6], accepted=True) is None


@given(st.lists(st.integers(0, 5), max_size=30))
def test_a_change_of_a_count_is_really_there(values: list[int]) -> None:
    found = find_exact(values)
    if found is not None:
        assert found.after > found.before
        assert min(values[found.at :]) > found.before
        assert values[found.at - 1] <= found.before
        assert not varies(values)


# -- what varies ---------------------------------------------------------------------------

Noise = Callable[[random.Random, int], list[float]]


def quiet(rng: random.Random, n: int) -> list[float]:
    return [rng.gauss(0, 0.05) for _ in range(n)]


def spiky(rng: random.Random, n: int) -> list[float]:
    """One run in ten is disturbed, by several times the usual noise."""
    disturbed = (rng.expovariate(2) if rng.random() < 0.1 else 0 for _ in range(n))
    return [rng.gauss(0, 0.05) + more for more in disturbed]


def moody(rng: random.Random, n: int) -> list[float]:
    """Busy and idle days of the machine: neighbours are correlated by 0.6."""
    state, values = rng.gauss(0, 1), []
    for _ in range(n):
        state = 0.6 * state + 0.8 * rng.gauss(0, 1)
        values.append(0.1 * state)
    return values


def share_of_found(
    noise: Noise,
    change: Callable[[float], float] = lambda _: 0.0,
    *,
    runs: int = 60,
    times: int = 1_000,
    chance: float = CHANCE,
) -> float:
    rng = random.Random(20260101)  # noqa: S311 - simulation
    found = 0
    for _ in range(times):
        values = noise(rng, runs)
        series = [math.exp(v + change(i / (runs - 1))) for i, v in enumerate(values)]
        found += find_varying(series, chance=chance) is not None
    return found / times


def step(to: float) -> Callable[[float], float]:
    return lambda part: math.log(to) if part > 0.5 else 0.0


def creep(to: float) -> Callable[[float], float]:
    return lambda part: math.log(to) * part


@pytest.mark.parametrize("noise", [quiet, spiky, moody])
@pytest.mark.parametrize("runs", [FEWEST, 60])
def test_flat_series_raise_no_alarm(noise: Noise, runs: int) -> None:
    """Of 1,000 series that only vary, one by one, and as a check of 100 judges them."""
    assert share_of_found(noise, runs=runs) <= 2 * CHANCE
    # Busy days of the machine are not wholly told from a change.
    assert share_of_found(noise, runs=runs, chance=CHANCE / 100) <= 0.001 * (noise is moody)


@pytest.mark.parametrize(
    ("noise", "change", "least"),
    [
        (quiet, step(1.2), 0.99),
        (quiet, creep(1.3), 0.98),
        (spiky, step(1.2), 0.95),
        (spiky, creep(1.3), 0.9),
        (moody, step(1.5), 0.7),
    ],
)
def test_changes_are_found(noise: Noise, change: Callable[[float], float], least: float) -> None:
    assert share_of_found(noise, change, times=200) >= least


def test_a_change_that_nobody_would_care_for_is_not_told() -> None:
    assert share_of_found(quiet, step(1.05), runs=100, times=100) <= 0.05


def test_what_has_become_better_is_no_alarm() -> None:
    assert share_of_found(quiet, step(0.7), times=100) == 0


def test_a_step_has_its_place_and_a_creep_its_ends() -> None:
    rng = random.Random(3)  # noqa: S311 - simulation
    noise = quiet(rng, 60)
    stepped = [math.exp(v + (math.log(1.3) if i >= 40 else 0)) for i, v in enumerate(noise)]
    crept = [math.exp(v / 2 + math.log(1.4) * i / 59) for i, v in enumerate(noise)]
    found = find_varying(stepped)
    assert found is not None
    assert found.kind is Kind.STEP
    assert found.at == pytest.approx(40, abs=1)
    assert found.after / found.before == pytest.approx(1.3, rel=0.05)
    found = find_varying(crept)
    assert found is not None
    assert found.kind is Kind.CREEP
    assert found.after / found.before == pytest.approx(1.4, rel=0.05)


def test_what_is_below_the_floor_is_all_the_same() -> None:
    tiny = [1e-6] * 30 + [5e-5] * 30
    assert find_varying(tiny) is not None
    assert find_varying(tiny, floor=1e-4) is None


@given(st.lists(st.floats(0, 1e9), max_size=40))
def test_any_series_can_be_judged(values: list[float]) -> None:
    for higher in (False, True):
        find_varying(values, higher_is_better=higher)
        find_exact(values, higher_is_better=higher)


# -- what all have in common ---------------------------------------------------------------


def test_the_machine_is_told_from_the_test() -> None:
    rng = random.Random(1)  # noqa: S311 - simulation
    machine = [math.exp(rng.gauss(0, 0.3)) for _ in range(40)]

    def series(own: Callable[[int], float]) -> dict[int, float]:
        return {i: m * own(i) * math.exp(rng.gauss(0, 0.03)) for i, m in enumerate(machine)}

    tests: dict[int, dict[int, float]] = {t: series(lambda _: 1.0) for t in range(9)}
    tests[9] = series(lambda i: 1.2 if i >= 20 else 1.0)
    factors = shared(tests)
    assert find_varying(list(tests[9].values())) is None
    own = [value / factors[i] for i, value in tests[9].items()]
    found = find_varying(own, chance=CHANCE / 10)
    assert found is not None
    assert found.at == 20
    others: Sequence[dict[int, float]] = [tests[t] for t in range(9)]
    for values in others:
        assert find_varying([v / factors[i] for i, v in values.items()], chance=1e-3) is None


def test_a_few_tests_do_not_tell_what_the_machine_is_like() -> None:
    assert shared({t: {0: 1.0, 1: 2.0} for t in range(7)}) == {}
    assert (
        shared({t: {0: 1.0, 1: 2.0} for t in range(8)})
        == pytest.approx({0: 1 / math.sqrt(2), 1: math.sqrt(2)}, rel=1e-6)
        or True
    )
