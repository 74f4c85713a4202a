from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_perfguard.errors import LimitError
from pytest_perfguard.units import Unit, parse, show


@pytest.mark.parametrize(
    ("written", "unit", "value"),
    [
        (3, Unit.COUNT, 3),
        (3.0, Unit.COUNT, 3),
        ("3", Unit.COUNT, 3),
        (" 3 ", Unit.COUNT, 3),
        ("+3", Unit.COUNT, 3),
        ("1e3", Unit.COUNT, 1000),
        ("1_000", Unit.COUNT, 1000),
        (0, Unit.COUNT, 0),
        ("100ms", Unit.SECONDS, 0.1),
        ("100 ms", Unit.SECONDS, 0.1),
        ("1.5s", Unit.SECONDS, 1.5),
        (".5s", Unit.SECONDS, 0.5),
        ("2min", Unit.SECONDS, 120),
        ("50us", Unit.SECONDS, 50e-6),
        ("50µs", Unit.SECONDS, 50e-6),
        ("9ns", Unit.SECONDS, 9e-9),
        ("80%", Unit.SHARE, 0.8),
        ("80 %", Unit.SHARE, 0.8),
        ("120%", Unit.SHARE, 1.2),
        (0.8, Unit.SHARE, 0.8),
        ("0.8", Unit.SHARE, 0.8),
        (1, Unit.SHARE, 1),
        (20480, Unit.BYTES, 20480),
        ("7B", Unit.BYTES, 7),
        ("20kB", Unit.BYTES, 20_000),
        ("2MB", Unit.BYTES, 2_000_000),
        ("2GB", Unit.BYTES, 2_000_000_000),
        ("20KiB", Unit.BYTES, 20_480),
        ("2MiB", Unit.BYTES, 2 * 2**20),
        ("1.5GiB", Unit.BYTES, 1.5 * 2**30),
    ],
    ids=repr,
)
def test_a_limit_is_read_in_the_base_unit(written: object, unit: Unit, value: float) -> None:
    assert parse(written, unit) == pytest.approx(value, rel=1e-12, abs=0)


@pytest.mark.parametrize(
    ("written", "unit", "message"),
    [
        (None, Unit.COUNT, "None is not a limit: write a whole number such as 3"),
        (True, Unit.COUNT, "True is not a limit: write a whole number such as 3"),
        ([3], Unit.COUNT, "[3] is not a limit: write a whole number such as 3"),
        (1j, Unit.COUNT, "1j is not a limit: write a whole number such as 3"),
        ("", Unit.COUNT, "'' cannot be read: write a whole number such as 3"),
        ("few", Unit.COUNT, "'few' cannot be read: write a whole number such as 3"),
        ("1,5", Unit.COUNT, "'1,5' cannot be read: write a whole number such as 3"),
        ("<3", Unit.COUNT, "'<3' cannot be read: write a whole number such as 3"),
        (
            100,
            Unit.SECONDS,
            "100 has no unit: write a number with a unit such as '100ms' or '1.5s'",
        ),
        (
            "100",
            Unit.SECONDS,
            "'100' has no unit: write a number with a unit such as '100ms' or '1.5s'",
        ),
        ("100MB", Unit.SECONDS, "'MB' in '100MB' is not a unit of seconds"),
        ("100MS", Unit.SECONDS, "'MS' in '100MS' is not a unit of seconds"),
        ("3ms", Unit.COUNT, "'ms' in '3ms' is not a unit of count: write a whole number such as 3"),
        ("3%", Unit.COUNT, "'%' in '3%' is not a unit of count: write a whole number such as 3"),
        (
            "20kb",
            Unit.BYTES,
            "'kb' in '20kb' is not a unit of bytes: write a size such as '20KiB' or 20480",
        ),
        (float("inf"), Unit.COUNT, "inf is not a finite number: write a whole number such as 3"),
        (
            float("nan"),
            Unit.SHARE,
            "nan is not a finite number: write a share such as '80%' or 0.8",
        ),
        ("1e400", Unit.COUNT, "'1e400' is not a finite number: write a whole number such as 3"),
        (-1, Unit.COUNT, "-1 is negative: write a whole number such as 3"),
        (
            "-1ms",
            Unit.SECONDS,
            "'-1ms' is negative: write a number with a unit such as '100ms' or '1.5s'",
        ),
        (2.5, Unit.COUNT, "2.5 is not a whole number: write a whole number such as 3"),
        ("2.5", Unit.COUNT, "'2.5' is not a whole number: write a whole number such as 3"),
        (80, Unit.SHARE, "80 is more than 1: write a share such as '80%' or 0.8"),
        ("1.2", Unit.SHARE, "'1.2' is more than 1: write a share such as '80%' or 0.8"),
    ],
    ids=repr,
)
def test_a_limit_that_makes_no_sense_is_refused_with_an_example(
    written: object, unit: Unit, message: str
) -> None:
    with pytest.raises(LimitError) as caught:
        parse(written, unit)
    assert str(caught.value).startswith(message)
    assert "write " in str(caught.value)


@settings(deadline=None)
@given(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(),
        st.from_regex(r"[+-]?[\d_]*\.?\d*(?:[eE]-?\d+)?[a-zA-Z%]{0,3}", fullmatch=True),
    ),
    st.sampled_from(Unit),
)
@example("_1", Unit.COUNT)
@example("1__0", Unit.COUNT)
@example(10**400, Unit.COUNT)
def test_whatever_is_written_gives_a_limit_or_a_limit_error(written: object, unit: Unit) -> None:
    try:
        value = parse(written, unit)
    except LimitError:
        return
    assert 0 <= value < float("inf")


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (None, Unit.COUNT, "-"),
        (0, Unit.COUNT, "0"),
        (3, Unit.COUNT, "3"),
        (1234567, Unit.COUNT, "1,234,567"),
        (0, Unit.SECONDS, "0 s"),
        (0.1, Unit.SECONDS, "100 ms"),
        (0.0123456, Unit.SECONDS, "12.3 ms"),
        (1.5, Unit.SECONDS, "1.5 s"),
        (1234, Unit.SECONDS, "1,234 s"),
        (42e-6, Unit.SECONDS, "42 µs"),
        (5e-9, Unit.SECONDS, "5 ns"),
        (0.8, Unit.SHARE, "80 %"),
        (1, Unit.SHARE, "100 %"),
        (0, Unit.BYTES, "0 B"),
        (512, Unit.BYTES, "512 B"),
        (20480, Unit.BYTES, "20 KiB"),
        (1023 * 1024, Unit.BYTES, "1,023 KiB"),
        (1.5 * 2**20, Unit.BYTES, "1.5 MiB"),
        (3 * 2**30, Unit.BYTES, "3 GiB"),
    ],
)
def test_a_value_is_shown_with_three_digits_and_a_fitting_unit(
    value: float | None, unit: Unit, shown: str
) -> None:
    assert show(value, unit) == shown


@settings(deadline=None)
@given(st.floats(1e-3, 1e9), st.sampled_from(Unit))
@example(0.9999, Unit.SECONDS)
@example(999.7 * 1024, Unit.BYTES)
@example(12.5, Unit.SHARE)
def test_a_shown_value_is_never_written_with_an_exponent(value: float, unit: Unit) -> None:
    assert "e" not in show(value, unit)


@settings(deadline=None)
@given(st.floats(1e-6, 1e6), st.sampled_from((Unit.SECONDS, Unit.BYTES)))
def test_what_is_shown_can_be_written_as_a_limit(value: float, unit: Unit) -> None:
    assert parse(show(value, unit).replace(",", ""), unit) == pytest.approx(value, rel=0.005)
