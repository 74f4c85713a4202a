"""Which indexes are tried, in which order, and what they are called."""

from __future__ import annotations

import pytest

from pytest_perfguard.indexes import (
    Asked,
    Condition,
    How,
    Index,
    Part,
    candidates,
    hopeless,
    reason,
)

A, B, C = Part("a"), Part("b"), Part("c")
LOWER = Part("a", "lower(a)")


def equal(*parts: Part) -> tuple[Condition, ...]:
    return tuple(Condition(part, How.EQUAL) for part in parts)


def codes(asked: Asked, dialect: str = "sqlite", *there: Index) -> list[str]:
    """The columns of each candidate of one index."""
    found = candidates(asked, dialect, there)
    return [" + ".join(", ".join(map(str, i.parts)) for i in indexes) for indexes in found]


@pytest.mark.parametrize(
    ("asked", "first"),
    [
        (Asked("t", equal(A)), "a"),
        (Asked("t", equal(A, B)), "a, b"),
        (Asked("t", (Condition(A, How.RANGE), *equal(B))), "b, a"),
        (Asked("t", (Condition(A, How.MANY), *equal(B))), "b, a"),
        (Asked("t", equal(A), order=((B, True),)), "a, b"),
        (Asked("t", equal(A), order=((B, True), (C, True)), key=("c",)), "a, b"),
        (Asked("t", equal(A), order=((B, True), (C, False))), "a, b DESC, c"),
        (Asked("t", (*equal(A), Condition(B, How.RANGE)), order=((C, False),)), "a, c"),
        (Asked("t", (Condition(A, How.RANGE),), order=((A, True), (B, True))), "a, b"),
        (Asked("t", (Condition(A, How.JOIN), *equal(B))), "b"),
        (Asked("t", equal(LOWER)), "lower(a)"),
        (Asked("t", either=((*equal(A), *equal(B)),)), "a + b"),
        (Asked("t", either=((*equal(A), *equal(B)),), key=("a",)), "b"),
        (Asked("t", order=((A, False),)), "a"),
        # One row is found by the key, whatever else is asked of it.
        (Asked("t", equal(A, B), key=("a",)), "b"),
    ],
)
def test_columns_that_are_known_come_before_others(asked: Asked, first: str) -> None:
    assert codes(asked)[0] == first


def test_an_index_that_is_there_is_not_tried() -> None:
    assert codes(Asked("t", equal(A)), "sqlite", Index("t", (A,), "ix")) == []
    assert codes(Asked("t", equal(A)), "sqlite", Index("u", (A,), "ix")) == ["a"]


def test_what_no_index_can_hold_is_not_tried() -> None:
    assert codes(Asked("t", (Condition(A, How.OTHER, usable=False),))) == []


@pytest.mark.parametrize(
    ("dialect", "last"), [("sqlite", "a COLLATE NOCASE"), ("postgresql", "a"), ("other", "a")]
)
def test_a_pattern_needs_an_index_of_its_own(dialect: str, last: str) -> None:
    asked = Asked("t", (Condition(A, How.PATTERN),))
    assert codes(asked, dialect)[-1] == last


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ((A, B), 'op.create_index("ix_t_a_b", "t", ["a", "b"])'),
        ((LOWER,), 'op.create_index("ix_t_a_lower", "t", [sa.text("lower(a)")])'),
        (
            (A, Part("b", "b DESC")),
            'op.create_index("ix_t_a_b", "t", ["a", sa.text("b DESC")])',
        ),
        (
            (Part("a", opclass="text_ops"),),
            'op.create_index("ix_t_a_pattern", "t", ["a"], postgresql_ops={"a": "text_ops"})',
        ),
    ],
)
def test_the_code_is_what_a_migration_runs(parts: tuple[Part, ...], code: str) -> None:
    assert Index("t", parts).code == code


def test_a_long_name_is_cut_to_what_postgresql_keeps() -> None:
    name = Index("t" * 40, (Part("a" * 40),)).code.split('"')[1]
    assert len(name) == 63


def test_it_is_told_which_index_only_seems_to_be_there() -> None:
    asked = Asked("t", equal(A), order=((B, False),))
    turned, other = Index("t", (B, A), "ix"), Index("u", (B, A), "ux")
    assert reason(asked, [Index("t", (A, B))], [other, turned]) == (
        "ix has them in another order: b, a"
    )
    assert reason(asked, [Index("t", (A,))], [turned]) == "ix has a behind b"
    assert reason(asked, [Index("t", (A,))], [Index("t", (C,), "ix")]) == ""


def test_what_is_asked_is_told_without_values() -> None:
    asked = Asked("t", (*equal(A), Condition(B, How.JOIN)), ((*equal(B), *equal(C)),), ((C, True),))
    assert str(asked) == "t by a =, b = or c =, ORDER BY c DESC"
    assert "trigrams" in hopeless([Asked("t", (Condition(A, How.OTHER, wildcard=True),))])
    assert "no index that was tried" in hopeless([asked])
