"""How numbers grow with the size of the data, as far as a few sizes can tell."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_perfguard.errors import GrowthError, LimitError
from pytest_perfguard.growth import (
    GROWTHS,
    allowed,
    fit,
    growing,
    judge_fit,
    operations,
    read_growth,
    slopes,
)
from pytest_perfguard.model import Site, Span, Status, Tally
from pytest_perfguard.scaling import read_contract

SIZES = (2, 10, 50)
WIDE = (100, 200, 400, 800, 1600)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("O(1)", "O(1)"), ("1", "O(1)"), (" o( N ) ", "O(n)"), ("n", "O(n)"),
        ("O(n log n)", "O(n log n)"), ("O(n*log(n))", "O(n log n)"), ("nlogn", "O(n log n)"),
        ("O(log n)", "O(log n)"), ("O(log(n))", "O(log n)"),
        ("O(n^2)", "O(n^2)"), ("O(n²)", "O(n^2)"), ("O(n**2)", "O(n^2)"), ("n*n", "O(n^2)"),
    ],
)  # fmt: skip
def test_growths_are_read_as_people_write_them(written: str, name: str) -> None:
    assert read_growth(written) is GROWTHS[name]


@pytest.mark.parametrize(
    "written", ["", "O(x)", "O(n^3)", "O(2^n)", "linear", 1, None, "O(n) O(n)"]
)
def test_what_is_no_growth_is_refused(written: object) -> None:
    with pytest.raises(LimitError, match=r"is no growth: write one of O\(1\), O\(log n\)"):
        read_growth(written)


@given(st.text())
def test_any_text_is_a_growth_or_an_error(written: str) -> None:
    with suppress(LimitError):
        assert read_growth(written) in GROWTHS.values()


CURVES: dict[str, Callable[[float], float]] = {
    "constant": lambda _: 7,
    "log": lambda n: 3 + 5 * math.log(n),
    "linear": lambda n: 4 + 3 * n,
    "linear less": lambda n: n - 2,
    "n log n": lambda n: 2 + n * math.log(n + 1),
    "square": lambda n: n**2,
    "cube": lambda n: n**3,
}


@pytest.mark.parametrize(
    ("curve", "limit", "keeps"),
    [
        ("constant", "O(1)", True),
        ("log", "O(1)", False),
        ("linear", "O(1)", False),
        ("constant", "O(log n)", True),
        ("log", "O(log n)", True),
        ("linear", "O(log n)", False),
        ("constant", "O(n)", True),
        ("log", "O(n)", True),
        ("linear", "O(n)", True),
        ("linear less", "O(n)", True),
        ("square", "O(n)", False),
        ("linear", "O(n log n)", True),
        ("n log n", "O(n log n)", True),
        ("square", "O(n log n)", False),
        ("square", "O(n^2)", True),
        ("cube", "O(n^2)", False),
    ],
)
@pytest.mark.parametrize("sizes", [SIZES, (5, 25, 125), (10, 100, 1000)])
def test_counts_are_told_apart(curve: str, limit: str, keeps: bool, sizes: Sequence[int]) -> None:
    values = [round(CURVES[curve](size)) for size in sizes]
    most = allowed(GROWTHS[limit], sizes, values, is_size=False)
    assert (values[-1] <= most) == keeps, (values, most)


def test_a_step_is_no_growth() -> None:
    """At the smallest size nothing may be there that the second statement is for."""
    assert allowed(GROWTHS["O(1)"], SIZES, [2, 3, 3], is_size=False) >= 3
    assert allowed(GROWTHS["O(1)"], SIZES, [2, 4, 4], is_size=False) < 4


def test_sizes_may_vary_with_what_is_in_them() -> None:
    assert allowed(GROWTHS["O(n)"], SIZES, [300, 1000, 6000], is_size=True) >= 6000
    assert allowed(GROWTHS["O(n)"], SIZES, [300, 1000, 12000], is_size=True) < 12000
    assert allowed(GROWTHS["O(1)"], SIZES, [1000, 1000, 1100], is_size=True) >= 1100
    assert allowed(GROWTHS["O(1)"], SIZES, [1000, 1000, 2000], is_size=True) < 2000


def test_slopes_are_exact() -> None:
    assert slopes(SIZES, [3, 11, 51]) == [1, 1]
    assert slopes(SIZES, [3, 3, 23]) == [0, 0.5]


def _span(**counts: int) -> Span:
    return Span(
        "n",
        "block",
        tallies=tuple(
            Tally("sql", name, "read", name, Site("a.py", 1, "f", 1), count=count)
            for name, count in counts.items()
        ),
    )


def _count(span: Span) -> float:
    return sum(tally.count for tally in span.tallies)


def test_what_grows_is_named_first_and_a_single_new_statement_does_not() -> None:
    spans = [_span(a=1, b=2), _span(a=1, b=10, c=1), _span(a=1, b=50, c=1)]
    found = operations(spans, _count)
    assert [(each.tally.label, each.values) for each in found] == [
        ("b", (2, 10, 50)),
        ("c", (0, 1, 1)),
        ("a", (1, 1, 1)),
    ]
    assert [each.grows for each in found] == [True, False, False]


def test_other_statements_of_one_line_grow_together() -> None:
    spans = [_span(**{f"t{n}": 1 for n in range(size)}) for size in SIZES]
    (found,) = growing(operations(spans, _count))
    assert (found.tally.label, found.values) == ("48 different operations", (0, 8, 48))


def test_what_little_data_has_no_use_for_does_not_grow() -> None:
    """The items and the tags of the first two are empty: nothing is loaded of either."""
    spans = [_span(a=1), _span(a=1, b=1, c=1, d=1), _span(a=1, b=1, c=1, d=1)]
    assert growing(operations(spans, _count)) == []


def test_a_count_that_is_not_largest_at_last_still_grows() -> None:
    (found,) = operations([_span(a=2), _span(a=60), _span(a=55)], _count)
    assert found.grows


def test_what_becomes_less_does_not_grow() -> None:
    (found,) = operations([_span(a=10), _span(a=30), _span(a=12)], _count)
    assert not found.grows


# -- times ---------------------------------------------------------------------------------------


def seeded(number: int) -> random.Random:
    return random.Random(number)  # noqa: S311 - no secret


def noisy(
    curve: Callable[[float], float], draw: random.Random, noise: float, drift: float = 0
) -> list[list[float]]:
    """Return times of nine calls at each size, with noise and a machine that slows down."""
    return [
        [
            curve(size) * 1e-6 * (1 + drift * place) * math.exp(abs(draw.gauss(0, noise)))
            for _ in range(9)
        ]
        for place, size in enumerate(WIDE)
    ]


def test_the_exponent_of_exact_times_is_exact() -> None:
    found = fit(WIDE, [[size**2.0] * 3 for size in WIDE])
    assert (found.exponent, found.low, found.high) == pytest.approx((2, 2, 2))
    assert str(found) == "n^2.00 (95 % interval 2.00 to 2.00)"


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("drift", [0.0, 0.08, -0.05])
def test_noise_never_fails_what_grows_as_it_may(noise: float, drift: float) -> None:
    draw = seeded(1)
    for _ in range(5):
        for curve, limit in (
            (float, "O(n)"),
            (lambda _: 50.0, "O(1)"),
            (lambda n: n * math.log(n), "O(n log n)"),
            (lambda n: n**2, "O(n^2)"),
        ):
            found = fit(WIDE, noisy(curve, draw, noise, drift))
            assert judge_fit(GROWTHS[limit], WIDE, found) is not Status.OVER, (limit, found)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
def test_what_grows_faster_fails_in_spite_of_noise(noise: float) -> None:
    draw = seeded(2)
    for _ in range(5):
        for curve, limit in (
            (float, "O(1)"),
            (lambda n: n**2, "O(n)"),
            (lambda n: n**2, "O(n log n)"),
        ):
            found = fit(WIDE, noisy(curve, draw, noise))
            assert judge_fit(GROWTHS[limit], WIDE, found) is Status.OVER, (limit, found)


def test_what_the_times_cannot_tell_is_undecided() -> None:
    draw = seeded(3)
    statuses = {
        judge_fit(GROWTHS["O(n)"], WIDE, fit(WIDE, noisy(lambda n: n**1.3, draw, 1.0)))
        for _ in range(20)
    }
    assert Status.UNDECIDED in statuses
    assert (
        judge_fit(GROWTHS["O(1)"], (100, 200), fit((100, 200), [[1.0], [9.0]])) is Status.UNDECIDED
    )


def test_the_same_times_give_the_same_interval() -> None:
    times = noisy(float, seeded(4), 0.5)
    assert fit(WIDE, times) == fit(WIDE, times)


def test_a_clock_that_stands_still_is_no_error() -> None:
    assert fit(WIDE, [[0.0]] * len(WIDE)).exponent == pytest.approx(0)


# -- what is asked for ---------------------------------------------------------------------------


def growths(limits: dict[str, object], sizes: Sequence[int] = SIZES) -> dict[str, str]:
    contract = read_contract(sizes, limits, "here")
    return {limit.metric.name: limit.growth.name for limit in contract.limits}


def test_counts_may_not_grow_and_sizes_may_as_the_data_does() -> None:
    known = growths({})
    for name in ("sql_queries", "sql_roundtrips", "sql_commits", "cache_commands", "cache_misses"):
        assert known[name] == "O(1)"
    for name in ("sql_rows", "cache_bytes", "response_bytes", "response_bytes_decoded"):
        assert known[name] == "O(n)"
    for name in ("sql_time", "cache_hits", "cache_hit_ratio", "pool_peak", "http_p95", "py_calls"):
        assert name not in known


def test_what_is_asked_for_takes_the_place_of_the_default() -> None:
    known = growths({"sql_queries": "O(n)", "sql_rows": "O(1)"})
    assert (known["sql_queries"], known["sql_rows"]) == ("O(n)", "O(1)")
    # Each statement is a round trip.
    assert known["sql_roundtrips"] == "O(n)"
    assert growths({"sql_queries": "O(n)", "sql_roundtrips": "O(1)"})["sql_roundtrips"] == "O(1)"


@pytest.mark.parametrize(
    ("limits", "sizes", "problem"),
    [
        ({"sql_querys": "O(1)"}, SIZES, "unknown metric 'sql_querys'. Did you mean 'sql_queries'?"),
        ({"sql_queries": 3}, SIZES, "sql_queries: 3 is no growth: write one of"),
        ({"sql_slowest": "O(n)"}, SIZES, "sql_slowest: counts, sizes and cpu_time can grow"),
        ({"pool_peak": "O(n)"}, SIZES, "pool_peak: counts, sizes and cpu_time can grow"),
        ({"cache_hits": "O(n)"}, SIZES, "cache_hits: more of it is better"),
        ({"sql_rows": "O(n)"}, (2, 10), "sql_rows: O(n) needs 3 sizes"),
        ({"cpu_time": "O(n)"}, SIZES, "cpu_time: a time needs 5 sizes, not 3"),
        ({"cpu_time": "O(n)"}, (1, 2, 3, 4, 5), "the largest at least 8 times the smallest"),
        ({}, (2,), "sizes=(2,): two at least"),
        ({}, (), "sizes=(): two at least"),
        ({}, (10, 2), "sizes=(10, 2): they do not rise"),
        ({}, (2, 2), "sizes=(2, 2): they do not rise"),
        ({}, (0, 2), "sizes=(0, 2): write rising whole numbers, as in sizes=(2, 10, 50)"),
        ({}, (1.5, 2), "sizes=(1.5, 2): write rising whole numbers"),
        ({}, "12", "sizes='12': write rising whole numbers"),
        ({}, 5, "sizes=5: write rising whole numbers"),
    ],
)
def test_what_makes_no_sense_is_refused(
    limits: dict[str, object], sizes: Sequence[int], problem: str
) -> None:
    with pytest.raises(GrowthError) as raised:
        read_contract(sizes, limits, "here")
    assert f"here: {problem}" in str(raised.value) or problem in str(raised.value)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(GrowthError) as raised:
        read_contract((2, 1), {"nothing": "O(1)", "sql_rows": "O(0)"}, "here")
    assert len(str(raised.value).splitlines()) == 3
