from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_perfguard.reports.trend_chart import chart
from pytest_perfguard.units import Unit


def test_a_chart_has_a_column_for_each_run_and_points_at_one() -> None:
    assert chart([3, 3, 4, 6], Unit.COUNT, width=40, mark=2) == [
        "6 │    █",
        "  │    █",
        "  │   ██",
        "  │ ████",
        "  │ ████",
        "0 │ ████",
        "      ^",
    ]


def test_ascii_will_do() -> None:
    lines = chart([0.01, 0.02], Unit.SECONDS, width=40, plain=True)
    assert lines[0] == "20 ms |  #"
    assert all(line.isascii() for line in lines)


def test_of_more_runs_than_fit_the_newest_are_drawn() -> None:
    lines = chart([1.0] * 100 + [9.0], Unit.COUNT, width=30, mark=3)
    assert max(map(len, lines)) <= 30
    assert lines[0].endswith("█")
    assert not any("^" in line for line in lines)


def test_noise_does_not_look_like_news() -> None:
    lines = chart([100, 101, 100, 99], Unit.SECONDS, width=40)
    assert all(line.endswith("████") for line in lines[1:])


@given(
    st.lists(st.just(0.0) | st.floats(1e-9, 1e12), min_size=1, max_size=80),
    st.sampled_from(Unit),
    st.integers(1, 200),
)
def test_any_values_can_be_drawn(values: list[float], unit: Unit, width: int) -> None:
    lines = chart(values, unit, width=width, mark=len(values) - 1)
    assert len(lines) == 7
    assert max(map(len, lines)) <= max(width, 40)


@pytest.mark.parametrize("values", [[0, 0], [5], [0, 1]])
def test_values_that_are_always_the_same_are_seen(values: list[float]) -> None:
    assert chart(values, Unit.COUNT, width=40)[-1].strip(" 0123456789│")
