from __future__ import annotations

import json
import os
import platform
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from pytest_perfguard.errors import RunFileError
from pytest_perfguard.model import SCHEMA_VERSION, Record, Run
from pytest_perfguard.runs import _TOLD, environment, make_run, read_run, source, write_run
from tests.unit.build import finding, span, tally
from tests.unit.strategies import RUNS

_RUN = Run(environment={"python": "3.11.0"}, records=(Record("a.py::b", "passed", span(tally())),))
_posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX files")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.json"


@settings(deadline=None, max_examples=25)
@given(run=RUNS)
def test_what_is_written_is_read(run: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "run.json"
    write_run(run, path)
    assert read_run(path) == run


def test_the_file_is_json_for_people_and_tools(path: Path) -> None:
    write_run(Run(records=(Record("é.py::b", "passed", span()),)), path)
    text = path.read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert "é.py::b" in text
    assert json.loads(text)["schema"] == SCHEMA_VERSION


def test_parameters_kept_for_the_terminal_are_never_written(path: Path) -> None:
    secret = tally(samples=("('s3cret',)",))
    inside = span(secret, findings=(finding(tally=secret),))
    write_run(Run(records=(Record("a.py::b", "passed", span(secret, children=(inside,))),)), path)
    assert "s3cret" not in path.read_text(encoding="utf-8")
    (record,) = read_run(path).records
    assert record.span.children[0].findings[0].tally.samples == ()


@pytest.mark.parametrize("where", ["nodeid", "key"])
def test_a_lone_surrogate_can_be_written(path: Path, where: str) -> None:
    lone = "caf\udce9.py"
    if where == "nodeid":
        record = Record(lone, "passed", span())
    else:
        record = Record("a.py::b", "passed", span(), waivers={f"{lone}:3 sql_duplicates": True})
    write_run(Run(records=(record,)), path)
    assert r"caf\\udce9.py" in path.read_text(encoding="utf-8")


def test_missing_directories_are_made(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "today" / "run.json"
    write_run(_RUN, path)
    assert read_run(path) == _RUN


@_posix
def test_a_reader_of_the_old_file_never_sees_a_part_of_the_new_one(path: Path) -> None:
    write_run(Run(environment={"run": "old"}), path)
    with path.open(encoding="utf-8") as reader:
        write_run(Run(environment={"run": "new"}), path)
        assert json.load(reader)["environment"] == {"run": "old"}
    assert read_run(path).environment == {"run": "new"}


@_posix
def test_who_may_read_a_file_stays_as_it_was(path: Path) -> None:
    path.touch(mode=0o600)
    write_run(_RUN, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_nothing_is_left_beside_the_file(path: Path) -> None:
    write_run(_RUN, path)
    write_run(_RUN, path)
    assert list(path.parent.iterdir()) == [path]


def test_what_cannot_be_written_is_an_error_with_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    path = tmp_path / "file" / "run.json"
    with pytest.raises(RunFileError) as caught:
        write_run(_RUN, path)
    assert str(caught.value).startswith(f"{path} cannot be written: ")


def test_a_failed_write_leaves_nothing_behind(path: Path) -> None:
    path.mkdir()
    with pytest.raises(RunFileError):
        write_run(_RUN, path)
    assert list(path.parent.iterdir()) == [path]


@_posix
def test_the_file_may_be_read_by_whom_the_umask_allows(path: Path) -> None:
    old = os.umask(0o022)
    try:
        write_run(_RUN, path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def _changed(**fields: Any) -> bytes:
    return json.dumps({**_RUN.to_dict(), **fields}).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: "),
        (b"", "is not JSON: "),
        (_changed()[:-20], "is not JSON: "),
        (b"\xff\xfe{}", "is not JSON: "),
        (b"[" * 100_000, "is not JSON: "),
        (b"[]", "has schema None, this version reads 2: write it again with --perfguard-json"),
        (b"3", "has schema None, "),
        (b"{}", "has schema None, "),
        (_changed(schema=3), "has schema 3, this version reads 2: "),
        (_changed(schema="2"), "has schema '2', this version reads 2: "),
        (b'{"schema": 2}', "is not a run: "),
        (_changed(records=None), "is not a run: "),
        (_changed(records=[3]), "is not a run: "),
        (_changed(records=[{"nodeid": "a"}]), "is not a run: "),
        (_changed(later="field"), "is not a run: "),
        (_changed(records=[_RUN.records[0].to_dict() | {"span": {}}]), "is not a run: "),
    ],
    ids=["missing", "empty", "truncated", "no UTF-8", "too deep", "list", "number", "foreign",
         "newer", "schema as text", "no records", "null records", "record as number",
         "part of a record", "unknown field", "part of a span"],
)  # fmt: skip
def test_a_file_that_is_no_run_is_an_error_with_the_path(
    path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunFileError) as caught:
        read_run(path)
    assert str(caught.value).startswith(f"{path} {message}")


def test_a_run_is_read_by_the_name_of_its_file_too(path: Path) -> None:
    write_run(_RUN, path)
    assert read_run(str(path)) == _RUN


def test_a_directory_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunFileError, match="cannot be read: "):
        read_run(tmp_path)


def test_a_run_is_ordered_by_node_id_and_says_where_it_was_made() -> None:
    records = [Record(nodeid, "passed", span()) for nodeid in ("b.py::a", "a.py::b", "a.py::a")]
    run = make_run(records)
    assert [record.nodeid for record in run.records] == ["a.py::a", "a.py::b", "b.py::a"]
    assert run.environment == environment()


def test_the_environment_names_the_interpreter_and_the_libraries_that_are_there() -> None:
    known = environment()
    assert known["python"] == platform.python_version()
    assert known["pytest"] == pytest.__version__
    assert {"implementation", "system", "machine", "pytest-perfguard"} <= set(known)


# -- of what a run is ----------------------------------------------------------------------

_NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a repository with one commit, as on a machine that is no CI."""
    for name in [name for names in _TOLD.values() for name in names]:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "a.py").write_text("a = 1\n")
    for command in (
        ("init", "-q", "-b", "trunk"),
        ("add", "."),
        ("-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "-qm", "Begin"),
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def test_a_run_knows_its_commit_and_branch(repository: Path) -> None:
    known = source(repository, _NOON)
    assert known["branch"] == "trunk"
    assert len(known["commit"]) == 40
    assert known["started"] == "2026-11-28T12:00:00+00:00"
    assert "dirty" not in known
    (repository / "a.py").write_text("a = 2\n")
    assert source(repository, _NOON)["dirty"] == "yes"


def test_to_ask_for_it_does_not_write_the_index(repository: Path) -> None:
    index = repository.joinpath(".git", "index").read_bytes()
    # Unchanged, and yet git has to read it to know that.
    os.utime(repository / "a.py", (1, 1))
    assert "dirty" not in source(repository, _NOON)
    assert repository.joinpath(".git", "index").read_bytes() == index


def test_what_the_pipeline_says_comes_first(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_REF_NAME", "7/merge")
    monkeypatch.setenv("GITHUB_HEAD_REF", "faster")
    assert source(repository, _NOON)["branch"] == "faster"


def test_where_there_is_no_repository_the_time_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for name in [name for names in _TOLD.values() for name in names]:
        monkeypatch.delenv(name, raising=False)
    assert source(tmp_path, _NOON) == {"started": "2026-11-28T12:00:00+00:00"}
    monkeypatch.setenv("PATH", "")
    assert source(tmp_path, _NOON) == {"started": "2026-11-28T12:00:00+00:00"}
