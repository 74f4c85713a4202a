from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_perfguard.baseline_files import (
    SCHEMA,
    Tests,
    file_of,
    held_text,
    locked,
    name_of,
    parse,
    read,
    render,
    write,
)
from pytest_perfguard.baselines import Entry
from pytest_perfguard.errors import BaselineError
from pytest_perfguard.metrics import METRICS

_PATH = Path("tests/__perfguard__/test_api.json")
_ENTRY = Entry(
    {"sql_queries": 3, "sql_rows": (40, 42), "cache_hit_ratio": 0.333333},
    {"sql": {"SELECT a FROM t": {"app/crud.py:7 in rows": 3}}},
    "differed between two runs: sql_rows",
    {"SELECT a FROM t": "ix_t_a"},
)
_TESTS: Tests = {
    "test_a": {"sqlite": _ENTRY, "postgresql": Entry({"sql_queries": 1})},
    'TestB::test_c[ü-"x"-a\\n]': {"no database": Entry({"cache_commands": 2})},
}

_NUMBERS = st.integers(0, 2**53) | st.floats(0, 1e15).map(lambda value: round(value, 6))
_HELD = _NUMBERS | st.tuples(_NUMBERS, _NUMBERS).map(lambda both: (min(both), max(both)))
_STORED = st.sampled_from([metric.name for metric in METRICS.values() if metric.stored])
_TEXT = st.text(max_size=8)


def _named(values: st.SearchStrategy[Any], least: int = 0) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(_TEXT, values, min_size=least, max_size=3)


_ENTRIES = st.builds(
    Entry,
    st.dictionaries(_STORED, _HELD, min_size=1, max_size=4),
    _named(_named(_named(st.integers(1, 2**53), 1), 1)),
    _TEXT,
    _named(_TEXT),
)
_ALL_TESTS = _named(_named(_ENTRIES, 1))
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["schema", "tests", "metrics", "operations", "note", "sql_queries"])
            | _TEXT,
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


def _data(**fields: Any) -> dict[str, Any]:
    """Return a file with one entry, with some of its fields replaced."""
    entry = {"metrics": {"sql_queries": 3}, "operations": {}, **fields}
    return {"schema": SCHEMA, "tests": {"test_a": {"sqlite": entry}}}


# -- what is written is read back ------------------------------------------------------------


@given(_ALL_TESTS)
def test_what_is_written_is_read_back(tests: dict[str, Any]) -> None:
    text = render(tests)

    found = parse(text, _PATH)

    assert found.tests == tests
    assert render(found.tests) == text


@given(_ALL_TESTS)
def test_the_line_of_each_metric_is_known(tests: dict[str, Any]) -> None:
    text = render(tests)
    lines = text.split("\n")

    found = parse(text, _PATH).lines

    expected = {
        (test, kind, name)
        for test, entries in tests.items()
        for kind, entry in entries.items()
        for name in entry.metrics
    }
    assert set(found) == expected
    for (_, _, name), number in found.items():
        assert lines[number - 1].startswith(f'     "{name}": ')


def test_a_file_is_sorted_and_has_one_value_a_line() -> None:
    backwards = {test: dict(reversed(list(entries.items()))) for test, entries in _TESTS.items()}

    text = render(dict(reversed(backwards.items())))

    assert text == render(_TESTS)
    assert text.startswith(
        '{\n "schema": 1,\n "tests": {\n  "TestB::test_c[ü-\\"x\\"-a\\\\n]": {\n'
    )
    assert text.endswith("}\n")
    assert '\n     "cache_hit_ratio": 0.333333,\n     "sql_queries": 3,\n' in text
    assert all(line.count(":") <= 1 or '"' in line for line in text.splitlines())


def test_a_lone_surrogate_is_written_as_text() -> None:
    tests = {"test_a[\ud800]": {"sqlite": Entry({"sql_queries": 1})}}
    render(tests).encode("utf-8")


def test_a_file_that_was_laid_out_by_hand_has_no_lines_and_the_same_data() -> None:
    found = parse(json.dumps(json.loads(render(_TESTS))), _PATH)
    assert found.tests == _TESTS
    assert not found.lines


def test_line_ends_of_another_system_make_no_difference(tmp_path: Path) -> None:
    path = tmp_path / "test_x.json"
    path.write_bytes(render(_TESTS).replace("\n", "\r\n").encode())
    assert read(path).tests == _TESTS


# -- any other content is an error -------------------------------------------------------------


def _parse_or_refuse(text: str) -> None:
    """Read any text: what can be read must survive being written, and the rest be refused."""
    try:
        found = parse(text, _PATH)
    except BaselineError:
        return
    else:
        assert parse(render(found.tests), _PATH).tests == {
            test: entries for test, entries in found.tests.items() if entries
        }


@given(st.binary(max_size=200))
def test_any_bytes_are_an_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    with pytest.raises(BaselineError):
        read(path)


@given(st.text(max_size=200))
def test_any_text_is_an_error(text: str) -> None:
    with pytest.raises(BaselineError):
        parse(text, _PATH)


@given(_JSON)
def test_any_json_is_an_error_or_data(data: object) -> None:
    _parse_or_refuse(json.dumps(data))


@given(_JSON)
def test_any_json_in_place_of_the_tests_is_an_error_or_data(data: object) -> None:
    _parse_or_refuse(json.dumps({"schema": SCHEMA, "tests": data}))


@given(_JSON, st.sampled_from(["metrics", "operations", "note", "plans", "other"]))
def test_any_json_in_an_entry_is_an_error_or_data(data: object, place: str) -> None:
    _parse_or_refuse(json.dumps(_data(**{place: data})))


@given(_JSON)
def test_any_json_as_a_value_is_an_error_or_a_number(data: object) -> None:
    _parse_or_refuse(json.dumps(_data(metrics={"sql_queries": data})))


@given(st.data())
def test_a_truncated_file_is_an_error(data: st.DataObject) -> None:
    text = render(_TESTS)
    length = data.draw(st.integers(0, len(text) - 2))
    with pytest.raises(BaselineError):
        parse(text[:length], _PATH)


@given(st.data())
def test_a_changed_character_is_never_a_crash(data: st.DataObject) -> None:
    text = render(_TESTS)
    at = data.draw(st.integers(0, len(text) - 1))
    _parse_or_refuse(text[:at] + data.draw(st.characters()) + text[at + 1 :])


@given(st.data())
def test_a_line_that_is_gone_or_there_twice_is_never_a_crash(data: st.DataObject) -> None:
    lines = render(_TESTS).splitlines(keepends=True)
    at = data.draw(st.integers(0, len(lines) - 1))
    _parse_or_refuse("".join(lines[:at] + lines[at + 1 :]))
    _parse_or_refuse("".join(lines[:at] + lines[at : at + 1] + lines[at:]))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty: restore it from version control, or delete it"),
        (" \n", "is empty"),
        ("{", "is not JSON: Expecting property name enclosed in double quotes in line 1"),
        ("[]", "is not a file of baselines"),
        ("null", "is not a file of baselines"),
        ("{}", "is not a file of baselines"),
        ('{"schema": 1}', "is not a file of baselines"),
        ('{"schema": 0, "tests": {}}', "is not a file of baselines"),
        ('{"schema": true, "tests": {}}', "is not a file of baselines"),
        ('{"schema": "1", "tests": {}}', "is not a file of baselines"),
        ('{"schema": NaN, "tests": {}}', "is not a file of baselines"),
        ('{"schema": 1, "tests": {}, "more": 1}', "is not a file of baselines"),
        (
            '{"schema": 2, "tests": {}}',
            "has schema 2, this version of pytest-perfguard reads 1: use the version that wrote it",
        ),
        ('{"schema": 1, "tests": []}', "[] where names and values should be"),
        (
            '{"schema": 1, "schema": 1, "tests": {}}',
            "'schema' stands in it twice, as after a merge",
        ),
        ("[" * 100_000, "cannot be used: "),
    ],
)
def test_a_foreign_file_is_refused_with_the_reason_and_the_remedy(
    content: str, reason: str
) -> None:
    with pytest.raises(BaselineError) as caught:
        parse(content, _PATH)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        True,
        None,
        "3",
        -1,
        float("nan"),
        float("inf"),
        10**400,
        [],
        [1, 2, 3],
        [2, 1],
        [1, True],
        {},
    ],
)
def test_a_value_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(BaselineError, match="is no value of sql_queries"):
        parse(json.dumps(_data(metrics={"sql_queries": value})), _PATH)


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "1", None])
def test_a_number_of_operations_that_is_none_is_refused(count: object) -> None:
    with pytest.raises(BaselineError, match="is no number of operations"):
        parse(json.dumps(_data(operations={"sql": {"SELECT 1": {"a.py:1 in f": count}}})), _PATH)


@pytest.mark.parametrize("name", ["sql_querries", "sql_time"])
def test_a_metric_that_is_not_compared_is_refused(name: str) -> None:
    """It may be one of a newer version: passed over, it would guard nothing."""
    with pytest.raises(BaselineError, match=rf"'{name}': use the version that wrote it"):
        parse(json.dumps(_data(metrics={name: 1})), _PATH)


@pytest.mark.parametrize("marks", ["<<<<<<< HEAD", "=======", ">>>>>>> theirs", "||||||| base"])
def test_the_marks_of_a_conflict_are_named(marks: str) -> None:
    lines = render(_TESTS).splitlines()
    text = "\n".join([*lines[:4], marks, *lines[4:]])
    with pytest.raises(BaselineError, match="marks of a merge conflict, in line 5: resolve it"):
        parse(text, _PATH)


def test_a_test_that_stands_in_it_twice_is_named() -> None:
    text = render(_TESTS).replace('"TestB::test_c[ü-\\"x\\"-a\\\\n]"', '"test_a"')
    with pytest.raises(BaselineError, match="'test_a' stands in it twice, as after a merge"):
        parse(text, _PATH)


def test_what_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "test_x.json"
    folder.mkdir()
    with pytest.raises(
        BaselineError, match="cannot be read: Is a directory: check its permissions"
    ):
        read(folder)

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(BaselineError, match="cannot be read: Permission denied"):
        read(tmp_path / "test_y.json")


def test_what_is_not_there_is_empty(tmp_path: Path) -> None:
    assert read(tmp_path / "test_x.json").tests == {}


def test_what_is_not_utf_8_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "test_x.json"
    path.write_bytes(render(_TESTS).encode("utf-16"))
    with pytest.raises(BaselineError, match="is not UTF-8: "):
        read(path)


# -- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "file"),
    [
        ("tests/test_x.py", "tests/__perfguard__/test_x.json"),
        ("tests/guide.txt", "tests/__perfguard__/guide.txt.json"),
        ("a/b.c/test_x.y.py", "a/b.c/__perfguard__/test_x.y.json"),
    ],
)
def test_each_module_has_a_file_beside_it(module: str, file: str) -> None:
    assert file_of(Path(module)) == Path(file)


@pytest.mark.parametrize(
    ("nodeid", "test"),
    [
        ("tests/test_x.py::test_a", "test_a"),
        ("tests/test_x.py::TestB::test_c[a::b/c]", "TestB::test_c[a::b/c]"),
        ("docs/guide.txt", "guide.txt"),
        ("test_x.py::test_a[\ud800]", "test_a[\\ud800]"),
    ],
)
def test_a_test_is_named_without_its_module(nodeid: str, test: str) -> None:
    assert name_of(nodeid) == test


def test_values_are_shown_as_ranges() -> None:
    assert [held_text(value) for value in (3, 0.25, 12_000, (3, 4.5))] == [
        "3", "0.25", "12,000", "3 to 4.5",
    ]  # fmt: skip


# -- writing -----------------------------------------------------------------------------------


def test_a_file_without_any_test_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "__perfguard__" / "test_x.json"
    write(path, _TESTS)
    assert read(path).tests == _TESTS
    write(path, {"test_a": {}})
    assert not path.exists()
    write(path, {})
    assert not path.exists()


def test_what_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "__perfguard__").write_text("a file where a folder should be")
    with pytest.raises(BaselineError, match=r"cannot be written: .*: check the permissions"):
        write(tmp_path / "__perfguard__" / "test_x.json", _TESTS)
    assert [path.name for path in tmp_path.iterdir()] == ["__perfguard__"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "test_x.json"
    write(path, _TESTS)
    before = path.read_bytes()

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(BaselineError, match="cannot be written: No space left on device"):
        write(path, {"test_b": {"sqlite": _ENTRY}})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("moment", ["before the move", "half of the text"])
def test_a_killed_writer_leaves_the_old_file(tmp_path: Path, moment: str) -> None:
    path = tmp_path / "test_x.json"
    write(path, _TESTS)
    before = path.read_bytes()
    script = f"""
        import io, os, signal
        from pathlib import Path
        from pytest_perfguard.baseline_files import write
        from pytest_perfguard.baselines import Entry

        def die(*_):
            os.kill(os.getpid(), signal.SIGKILL)

        if {moment!r} == "before the move":
            Path.replace = die
        else:
            os.fsync = die
        write(Path({str(path)!r}), {{"test_b": {{"sqlite": Entry({{"sql_queries": 1}})}}}})
    """
    done = subprocess.run([sys.executable, "-c", dedent(script)], check=False)
    assert done.returncode < 0
    assert path.read_bytes() == before
    # What it has left behind is in nobody's way.
    write(path, {"test_b": {"sqlite": _ENTRY}})
    assert read(path).tests == {"test_b": {"sqlite": _ENTRY}}


def test_a_lock_is_for_one_file(tmp_path: Path) -> None:
    with locked(tmp_path / "test_x.json"), locked(tmp_path / "test_y.json"):
        assert not list(tmp_path.iterdir())


def test_a_lock_that_cannot_be_had_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    lock = locked(tmp_path / "test_x.json")
    with pytest.raises(BaselineError, match="cannot be locked: Permission denied: check the"):
        lock.__enter__()


def test_writers_wait_for_each_other(tmp_path: Path) -> None:
    """Each adds a test to what it has read: none of them may be lost."""
    path = tmp_path / "test_x.json"
    script = f"""
        import sys
        from pathlib import Path
        from pytest_perfguard.baseline_files import locked, read, write
        from pytest_perfguard.baselines import Entry

        path = Path({str(path)!r})
        for n in range(20):
            with locked(path):
                name = f"test_{{sys.argv[1]}}_{{n}}"
                write(path, {{**read(path).tests, name: {{"sqlite": Entry({{"sql_queries": 1}})}}}})
    """
    writers = [
        subprocess.Popen([sys.executable, "-c", dedent(script), name]) for name in ("a", "b")
    ]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(read(path).tests) == 40
