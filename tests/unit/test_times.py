from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_perfguard import times as store_of_times
from pytest_perfguard.errors import StoreError, TimingError
from pytest_perfguard.samples import Sample, Window
from pytest_perfguard.times import (
    ENVIRONMENT_FILE,
    KEEP,
    SCHEMA_VERSION,
    OtherEnvironment,
    Stored,
    Times,
    add,
    digest,
    environment,
    read,
)

_HERE = {"python": "3.11.7", "cpu": "a fast one", "starlette": "1.0"}
_THERE = {"python": "3.12.1", "cpu": "a fast one", "httpx": "0.28"}
_TEST = "tests/test_api.py::test_list"
_GET = "http GET /items"

_TIME = st.floats(0, 1e6)
_LOG = st.floats(-50, 50)
_WINDOWS = st.builds(
    Window, _LOG, st.tuples(_LOG, _LOG, _LOG), _TIME, st.floats(1e-9, 1e6), st.integers(1, 1000)
)
_SAMPLES = st.builds(
    Sample, st.text(), _WINDOWS, st.lists(_WINDOWS, min_size=1, max_size=3).map(tuple)
)
_TIMES = st.builds(
    Times,
    st.text(),
    _SAMPLES,
    st.dictionaries(st.text(), _TIME, max_size=2),
    st.none() | st.integers(0, 10**9),
)
_NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_TIMINGS = st.dictionaries(_NAMES, st.dictionaries(_NAMES, _TIMES, max_size=2), max_size=2)


def _times(cpu: float = -7.0) -> Times:
    window = Window(cpu, (-7.0, -8.0, -7.5), 0.0, 0.001, 50)
    return Times("asgi", Sample("asgi/httpx", window, (window,)), {"median": 0.001}, 1234)


def _timings(cpu: float = -7.0) -> dict[str, dict[str, Times]]:
    return {_TEST: {_GET: _times(cpu)}}


def _files(store: Path, of: dict[str, str]) -> list[Path]:
    return sorted(set((store / digest(of)).iterdir()) - {store / digest(of) / ENVIRONMENT_FILE})


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "times"


def test_a_store_that_is_not_there_is_empty(store: Path) -> None:
    assert read(store, _HERE) == Stored()
    assert not store.exists()


def test_what_is_added_is_read(store: Path) -> None:
    add(store, _HERE, _timings())
    stored = read(store, _HERE)
    assert [process.timings for process in stored.processes] == [_timings()]
    assert stored.times(_TEST, _GET) == (_times(),)
    assert stored.samples(_TEST, _GET) == (_times().sample,)
    assert stored.times(_TEST, "another") == stored.times("another", _GET) == ()


@settings(deadline=None, max_examples=50)
@given(timings=_TIMINGS)
def test_any_times_are_written_and_read(
    tmp_path_factory: pytest.TempPathFactory, timings: dict[str, dict[str, Times]]
) -> None:
    store = tmp_path_factory.mktemp("times")
    add(store, _HERE, timings)
    (process,) = read(store, _HERE).processes
    assert process.timings == timings


def test_a_folder_says_in_words_what_it_is_of(store: Path) -> None:
    file = add(store, _HERE, _timings())
    assert file.parent == store / digest(_HERE)
    data = json.loads((file.parent / ENVIRONMENT_FILE).read_text(encoding="utf-8"))
    assert data == {"schema": SCHEMA_VERSION, "digest": digest(_HERE), "environment": _HERE}


def test_each_process_has_a_file_and_the_oldest_is_first(store: Path) -> None:
    for cpu in (-7.0, -6.0, -5.0):
        add(store, _HERE, _timings(cpu))
    assert len(_files(store, _HERE)) == 3
    assert [sample.pooled.cpu for sample in read(store, _HERE).samples(_TEST, _GET)] == [
        -7.0,
        -6.0,
        -5.0,
    ]


def test_the_newest_are_kept(store: Path) -> None:
    for cpu in range(-10, -3):
        add(store, _HERE, _timings(float(cpu)), keep=4)
    kept = [sample.pooled.cpu for sample in read(store, _HERE).samples(_TEST, _GET)]
    assert kept == [-7.0, -6.0, -5.0, -4.0]


def test_other_environments_lose_nothing(store: Path) -> None:
    for _ in range(3):
        add(store, _THERE, _timings())
    add(store, _HERE, _timings(), keep=1)
    assert len(_files(store, _THERE)) == 3


def test_thirty_are_kept_unless_told_otherwise() -> None:
    assert KEEP == 30


@pytest.mark.parametrize("keep", [0, -1])
def test_at_least_one_is_kept(store: Path, keep: int) -> None:
    with pytest.raises(StoreError, match="keep at least 1"):
        add(store, _HERE, _timings(), keep=keep)
    assert not store.exists()


def test_stores_are_merged_by_copying(store: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for cpu, into in ((-7.0, store), (-6.0, other), (-5.0, store), (-4.0, other)):
        add(into, _HERE, _timings(cpu))
    for file in _files(other, _HERE):
        (store / digest(_HERE) / file.name).write_bytes(file.read_bytes())
    merged = [sample.pooled.cpu for sample in read(store, _HERE).samples(_TEST, _GET)]
    assert merged == [-7.0, -6.0, -5.0, -4.0]


def test_another_environment_is_told_of_and_not_judged_by(store: Path) -> None:
    for _ in range(12):
        add(store, _THERE, _timings())
    stored = read(store, _HERE)
    assert stored.processes == ()
    (other,) = stored.others
    assert str(other) == (
        "not comparable: 12 processes of another environment (python 3.12.1 instead of 3.11.7, "
        "starlette missing instead of 1.0, httpx 0.28 instead of none)"
    )


def test_of_one_process_it_is_told_in_the_singular() -> None:
    assert str(OtherEnvironment(1, ("cpu a instead of b",))) == (
        "not comparable: 1 process of another environment (cpu a instead of b)"
    )


def test_the_environment_with_most_processes_is_told_of_first(store: Path) -> None:
    for version, number in (("3.12", 1), ("3.13", 3), ("3.14", 2)):
        for _ in range(number):
            add(store, {**_HERE, "python": version}, _timings())
    assert [other.processes for other in read(store, _HERE).others] == [3, 2, 1]


def test_an_environment_names_what_times_depend_on() -> None:
    known = environment()
    assert known["python"] == platform.python_version()
    assert known["implementation"] == platform.python_implementation()
    assert {"build", "system", "machine", "cpu", "tracing", "pytest-perfguard"} <= set(known)
    assert all(isinstance(value, str) for value in known.values())
    assert "pytest" not in known


def test_an_environment_tells_whether_python_is_slowed_down_by_a_tool() -> None:
    def profile(*_: object) -> None:
        pass

    sys.setprofile(profile)
    try:
        assert "profile" in environment()["tracing"]
    finally:
        sys.setprofile(None)
    assert "profile" not in environment()["tracing"]


def test_a_digest_depends_on_the_content_and_not_on_the_order() -> None:
    assert digest(dict(reversed(_HERE.items()))) == digest(_HERE)
    assert digest({**_HERE, "python": "3.11.8"}) != digest(_HERE)
    assert store_of_times._DIGEST.fullmatch(digest(_HERE))


_GOOD = {
    "schema": SCHEMA_VERSION,
    "written": "2027-01-01T00:00:00+00:00",
    "timings": {_TEST: {_GET: _times().to_dict()}},
}


def _with_times(**fields: Any) -> bytes:
    timings = {_TEST: {_GET: {**_times().to_dict(), **fields}}}
    return json.dumps({**_GOOD, "timings": timings}).encode()


def _with_window(**fields: Any) -> bytes:
    sample = _times().sample.to_dict()
    return _with_times(sample={**sample, "pooled": {**sample["pooled"], **fields}})


def _with(**fields: Any) -> bytes:
    return json.dumps({**_GOOD, **fields}).encode()


def test_the_good_content_is_good(store: Path) -> None:
    file = add(store, _HERE, _timings())
    file.write_bytes(_with())
    assert read(store, _HERE).times(_TEST, _GET) == (_times(),)


_BAD = {
    "empty": (b"", "is not JSON"),
    "truncated": (_with()[:-20], "is not JSON"),
    "no UTF-8": (b"\xff\xfe{}", "is not JSON"),
    "too deep": (b"[" * 100_000, "is not JSON"),
    "a number": (b"3", "does not belong into a store of times"),
    "a list": (b"[]", "does not belong into a store of times"),
    "foreign": (b"{}", "does not belong into a store of times"),
    "newer": (_with(schema=2), "has schema 2, this version reads 1: use the version of"),
    "schema as text": (_with(schema="1"), "has schema '1', which is none"),
    "schema as a boolean": (_with(schema=True), "has schema True, which is none"),
    "another field": (_with(later=1), "has later, schema, timings, written, not schema, "),
    "a field less": (b'{"schema": 1}', "has schema, not schema, "),
    "no timings": (_with(timings=None), "does not hold the times of a process"),
    "timings as a list": (_with(timings=[1]), "does not hold the times of a process"),
    "a test without names": (_with(timings={"a": 3}), "does not hold the times of a process"),
    "no time stamp": (_with(written=3), "does not hold the times of a process"),
    "a bad time stamp": (_with(written="yesterday"), "does not hold the times of a process"),
    "the first day": (
        _with(written="0001-01-01T00:00:00+23:59"),
        "does not hold the times of a process",
    ),
    "part of times": (_with(timings={"a": {"b": {}}}), "does not hold the times of a process"),
    "another field of times": (_with_times(later=1), "does not hold the times of a process"),
    "kind as a number": (_with_times(kind=1), "does not hold the times of a process"),
    "calls as text": (_with_times(py_calls="1"), "does not hold the times of a process"),
    "statistics as a list": (_with_times(statistics=[1]), "does not hold the times of a process"),
    "a negative time": (
        _with_times(statistics={"median": -1}),
        "does not hold the times of a process",
    ),
    "no window": (
        _with_times(sample={**_times().sample.to_dict(), "windows": []}),
        "does not hold the times of a process",
    ),
    "not a number": (_with_window(cpu=float("nan")), "does not hold the times of a process"),
    "infinite": (_with_window(wall=float("inf")), "does not hold the times of a process"),
    "huge": (_with_window(cpu=10**400), "does not hold the times of a process"),
    "two references": (_with_window(references=[1, 2]), "does not hold the times of a process"),
    "references as text": (_with_window(references="abc"), "does not hold the times of a process"),
}


@pytest.mark.parametrize(("content", "message"), _BAD.values(), ids=_BAD)
def test_a_file_that_holds_no_times_is_an_error_and_is_left_as_it_was(
    store: Path, content: bytes, message: str
) -> None:
    file = add(store, _HERE, _timings())
    file.write_bytes(content)
    for use in (lambda: read(store, _HERE), lambda: add(store, _HERE, _timings(), keep=1)):
        with pytest.raises(StoreError) as caught:
            use()
        assert str(caught.value).startswith(f"{file} {message}")
        assert "delete it" in str(caught.value) or "use the version" in str(caught.value)
        assert file.read_bytes() == content
        assert _files(store, _HERE) == [file]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"schema": 2}',
        json.dumps({"schema": 1, "digest": digest(_THERE), "environment": _THERE}).encode(),
        json.dumps({"schema": 1, "digest": digest(_HERE), "environment": _THERE}).encode(),
        json.dumps({"schema": 1, "digest": digest(_HERE), "environment": [1]}).encode(),
        json.dumps({"schema": 1, "digest": digest(_HERE), "environment": {"a": 1}}).encode(),
        None,
    ],
)
@pytest.mark.parametrize("reader", [_HERE, _THERE], ids=["own", "other"])
def test_an_environment_that_is_not_that_of_its_folder_is_an_error(
    store: Path, content: bytes | None, reader: dict[str, str]
) -> None:
    file = add(store, _HERE, _timings()).parent / ENVIRONMENT_FILE
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    with pytest.raises(StoreError) as caught:
        read(store, reader)
    assert str(caught.value).startswith(f"{file} ")
    assert content is None or file.read_bytes() == content


_NEW = json.dumps({"schema": 1, "written": "2027-01-01T00:00:00+00:00", "timings": {}})
_ALMOST = st.builds(
    lambda at, byte: _with()[: at % len(_with())] + byte + _with()[at % len(_with()) + 1 :],
    st.integers(0, 10**6),
    st.binary(max_size=3),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=300)
@given(content=st.binary() | _ALMOST | st.text().map(str.encode))
def test_any_bytes_are_an_error_or_the_data(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    store = tmp_path_factory.getbasetemp() / "any"
    for old in _files(store, _HERE) if store.exists() else ():
        old.unlink()
    file = add(store, _HERE, _timings())
    file.write_bytes(content)
    try:
        processes = read(store, _HERE).processes
    except StoreError as error:
        problem = str(error)
        assert problem.startswith(f"{file} ")
    else:
        (process,) = processes
        assert {
            nodeid: {name: times.to_dict() for name, times in named.items()}
            for nodeid, named in process.timings.items()
        } == json.loads(content)["timings"]
    assert file.read_bytes() == content


@settings(deadline=None, max_examples=100)
@given(content=st.binary() | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["schema", "digest", "environment", "a"]), inner, max_size=4),
).map(lambda data: json.dumps(data).encode()))  # fmt: skip
def test_any_bytes_in_place_of_the_environment_are_an_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    store = tmp_path_factory.getbasetemp() / "any-environment"
    folder = store / digest(_HERE)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.json").write_text(_NEW, encoding="utf-8")
    (folder / ENVIRONMENT_FILE).write_bytes(content)
    for reader in (_HERE, _THERE):
        with pytest.raises(StoreError):
            read(store, reader)
    assert (folder / ENVIRONMENT_FILE).read_bytes() == content


@pytest.mark.parametrize("name", ["README.md", "0123456789ab", "notes"])
def test_what_does_not_belong_into_a_store_is_named(store: Path, name: str) -> None:
    add(store, _HERE, _timings())
    foreign = store / name
    foreign.write_text("", encoding="utf-8")
    with pytest.raises(StoreError) as caught:
        read(store, _HERE)
    assert (
        str(caught.value) == f"{foreign} does not belong into a store of times: move it elsewhere"
    )


def test_what_does_not_belong_into_a_folder_is_named(store: Path) -> None:
    foreign = add(store, _HERE, _timings()).parent / "notes.txt"
    foreign.write_text("", encoding="utf-8")
    for reader in (_HERE, _THERE):
        with pytest.raises(StoreError) as caught:
            read(store, reader)
        assert str(caught.value).startswith(f"{foreign} does not belong into a store of times")


def test_hidden_files_are_let_be(store: Path) -> None:
    file = add(store, _HERE, _timings())
    (store / ".gitignore").write_text("*", encoding="utf-8")
    (file.parent / ".draft.json.123").write_text("{", encoding="utf-8")
    assert len(read(store, _HERE).processes) == 1


def test_what_cannot_be_written_is_an_error_with_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StoreError) as caught:
        add(tmp_path / "file" / "times", _HERE, _timings())
    assert str(caught.value).startswith(f"{tmp_path / 'file' / 'times'}")


def test_nothing_is_left_beside_the_files(store: Path) -> None:
    file = add(store, _HERE, _timings())
    assert sorted(file.parent.iterdir()) == sorted([file, file.parent / ENVIRONMENT_FILE])


@pytest.mark.parametrize(
    "fields",
    [
        {"statistics": {"median": float("nan")}},
        {"statistics": {"median": -1.0}},
        {"py_calls": -1},
        {"py_calls": 1.5},
        {"kind": None},
    ],
)
def test_times_that_make_no_sense_are_refused(fields: dict[str, Any]) -> None:
    sample = _times().sample
    with pytest.raises(TimingError):
        Times(**{"kind": "asgi", "sample": sample, **fields})
