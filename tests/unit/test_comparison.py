from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_perfguard.comparison import differences
from pytest_perfguard.errors import CacheError

_AT = datetime(2026, 1, 2, 3, 4)  # noqa: DTZ001 - no point in time is meant
_SECRET = "planted"


@dataclass
class _Model:
    id: int
    note: Any = None


@dataclass(slots=True)
class _Slots:
    note: str


class _Row:
    """Equal to itself only, as an object of an ORM is."""

    def __init__(self, note: str = _SECRET) -> None:
        self.note = note

    def __repr__(self) -> str:
        return self.note


class _Broken:
    __hash__ = None  # type: ignore[assignment] # as that of an array

    def __eq__(self, other: object) -> bool:
        raise ValueError(_SECRET)


class _NoTruth:
    def __bool__(self) -> bool:
        raise ValueError(_SECRET)


class _Vague:
    """An array: it has no truth of its own."""

    __hash__ = None  # type: ignore[assignment] # as that of an array

    def __eq__(self, other: object) -> Any:
        return _NoTruth()


class _View(Mapping[str, int]):
    def __init__(self, **items: int) -> None:
        self._items = items

    def __getitem__(self, key: str) -> int:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(_json)
def test_what_comes_back_from_json_as_it_was_does_not_differ(value: Any) -> None:
    assert differences(value, json.loads(json.dumps(value))) == []


@given(_json, _json)
def test_what_is_not_equal_differs_somewhere(first: Any, second: Any) -> None:
    assert bool(differences(first, second)) is (first != second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (None, None),
        (_Model(1, [_AT]), _Model(1, [_AT])),
        (_View(a=1), _View(a=1)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({1, 2}, {2, 1}),
        (1, True),
        (Decimal("1.0"), 1),
        ({"a": 1}, OrderedDict(a=1)),
        (b"a", bytearray(b"a")),
    ],
)
def test_equality_is_pythons(first: object, second: object) -> None:
    assert differences(first, second) == []


def test_an_object_is_equal_to_itself_even_without_equality() -> None:
    row = _Row()
    assert differences([row], [row]) == []


@pytest.mark.parametrize(
    "holder",
    [lambda x: x, lambda x: {"x": x}, lambda x: [x]],
    ids=["alone", "mapping", "sequence"],
)
def test_what_is_no_number_does_not_differ_from_what_is_none_either(holder: Any) -> None:
    assert differences(holder(float("nan")), holder(float("nan"))) == []
    assert differences(holder(float("nan")), holder(1.0)) != []


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ("planted", "planted too", ["result: another str"]),
        (b"planted", b"planted too", ["result: another bytes"]),
        (1, "1", ["result: int when cold, str when warm"]),
        (None, [], ["result: NoneType when cold, list when warm"]),
        (_AT, str(_AT), ["result: datetime when cold, str when warm"]),
        (Decimal(1), "1", ["result: Decimal when cold, str when warm"]),
        ((1, 2), [1, 2], ["result: tuple when cold, list when warm"]),
        ([1, 2], [1, 3], ["result[1]: another int"]),
        ([1, 2], [1], ["result: 2 items when cold, 1 when warm"]),
        ([1], [2, 3], ["result: 1 items when cold, 2 when warm", "result[0]: another int"]),
        ({"id": 1}, {"id": 2}, ["result['id']: another int"]),
        ({"id": {"at": [_AT]}}, {"id": {"at": [""]}},
         ["result['id']['at'][0]: datetime when cold, str when warm"]),
        ({"a": 1, "b": 1}, {"a": 1}, ["result: 1 of its keys only when cold"]),
        ({"a": 1}, {"a": 1, "b": 1, "c": 1}, ["result: 2 of its keys only when warm"]),
        ({1: "a"}, {"1": "a"},
         ["result: 1 of its keys only when cold", "result: 1 of its keys only when warm"]),
        ({"planted@x": 1}, {"planted@x": 2}, ["result[…]: another int"]),
        ({7: 1}, {7: 2}, ["result[…]: another int"]),
        ({"planted"}, {"planted too"}, ["result: another set"]),
        (_Model(1, "planted"), _Model(1, "planted too"), ["result['note']: another str"]),
        (_Model(1, [1]), _Model(1, [2]), ["result['note'][0]: another int"]),
        (_Model(1), {"id": 1, "note": None}, ["result: _Model when cold, dict when warm"]),
        (_Slots("planted"), _Slots("planted too"), ["result: another _Slots"]),
        (SimpleNamespace(a=1), SimpleNamespace(), ["result: another SimpleNamespace"]),
        (_View(a=1), _View(a=2), ["result['a']: another int"]),
    ],
)  # fmt: skip
def test_differences_are_told_by_place_and_type(
    first: object, second: object, found: list[str]
) -> None:
    assert differences(first, second) == found
    assert _SECRET not in str(differences(first, second))


def test_very_deep_results_are_compared_to_a_depth_that_can_be_read() -> None:
    def nested(value: int) -> Any:
        found: Any = value
        for _ in range(100):
            found = [found]
        return found

    assert differences(nested(1), nested(1)) == []
    (found,) = differences(nested(1), nested(2))
    assert found.endswith("[0]: another list")


def test_a_result_that_holds_itself_is_an_error() -> None:
    first: list[Any] = []
    second: list[Any] = []
    first.append(first)
    second.append(second)
    with pytest.raises(CacheError, match="cannot be compared: RecursionError when two list"):
        differences(first, second)


@pytest.mark.parametrize(
    ("first", "second", "place"),
    [
        (_Row(), _Row(), "result"),
        ([1, _Row()], [1, _Row()], "result[1]"),
        ({"row": _Row()}, {"row": _Row()}, "result['row']"),
        (_Model(1, _Row()), _Model(1, _Row()), "result['note']"),
        ({"planted@x": _Row()}, {"planted@x": _Row()}, "result[…]"),
    ],
)
def test_objects_that_are_equal_to_themselves_only_are_an_error_with_the_remedy(
    first: object, second: object, place: str
) -> None:
    with pytest.raises(CacheError) as caught:
        differences(first, second)
    assert str(caught.value) == (
        f"{place} cannot be compared: objects of the class _Row are equal only to themselves. "
        "Return plain data from the call, or pass same=lambda cold, warm: ..."
    )


@pytest.mark.parametrize("kind", [_Broken, _Vague])
def test_objects_whose_comparison_fails_are_an_error_that_quotes_nothing(kind: type) -> None:
    with pytest.raises(CacheError) as caught:
        differences([kind()], [kind()])
    assert str(caught.value) == (
        f"result[0] cannot be compared: ValueError when two {kind.__name__} are. "
        "Return plain data from the call, or pass same=lambda cold, warm: ..."
    )


def test_objects_of_different_classes_need_no_equality() -> None:
    assert differences(_Row(), _Model(1)) == ["result: _Row when cold, _Model when warm"]


# -- responses ----------------------------------------------------------------------------------


def _response(body: bytes, status: int = 200, attribute: str = "content") -> object:
    """Make what an HTTP client returns: equal to itself only, and never twice the same."""

    class Response:
        def __init__(self) -> None:
            self.status_code = status
            self.elapsed = object()
            setattr(self, attribute, body)

    return Response()


@pytest.mark.parametrize("attribute", ["content", "data"])
@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        (b'{"a": 1, "b": [2]}', b'{"b":[2],"a":1}', []),
        (b"plain", b"plain", []),
        (b"", b"", []),
        (b"\xff\xfe", b"\xff\xfe", []),
        (b'{"a": {"b": 1}}', b'{"a": {"b": "1"}}',
         ["result['body']['a']['b']: int when cold, str when warm"]),
        (b"planted", b"planted too", ["result['body']: another bytes"]),
        (b'{"a": 1}', b"planted", ["result['body']: dict when cold, bytes when warm"]),
    ],
)  # fmt: skip
def test_responses_are_compared_by_their_bodies(
    attribute: str, first: bytes, second: bytes, found: list[str]
) -> None:
    pair = _response(first, attribute=attribute), _response(second, attribute=attribute)
    assert differences(*pair) == found


def test_responses_are_compared_by_their_status() -> None:
    found = differences(_response(b"{}"), _response(b"{}", 404))
    assert found == ["result['status']: another int"]


def test_what_only_looks_like_a_response_is_compared_as_it_is() -> None:
    first = SimpleNamespace(status_code="200", content=b"a")
    second = SimpleNamespace(status_code="200", content=b"b")
    assert differences(first, second) == ["result['content']: another bytes"]
    assert differences(SimpleNamespace(status_code=200), SimpleNamespace(status_code=201)) == [
        "result['status_code']: another int"
    ]
