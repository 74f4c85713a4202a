from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from pytest_perfguard import trees
from pytest_perfguard.trees import (
    Elsewhere,
    dependency_changes,
    import_roots,
    loaded_code,
    loaded_elsewhere,
    moved_path,
    names_under_test,
    overlay,
    same_settings,
)

Fill = Callable[..., Path]


@pytest.fixture
def fill(tmp_path: Path) -> Fill:
    """Make a folder with files."""

    def fill(name: str, *files: str, **texts: str) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for file, text in {**dict.fromkeys(files, ""), **texts}.items():
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        return folder

    return fill


def test_code_is_imported_from_src_and_from_the_folder_itself(fill: Fill) -> None:
    flat = fill("flat", "app/__init__.py", "single.py", "setup.py", "tests/__init__.py")
    assert import_roots(flat) == [flat]
    assert names_under_test(import_roots(flat)) == {"app", "single"}
    src = fill("src-layout", "src/app/__init__.py", "conftest.py", "test_app.py")
    assert import_roots(src, ["lib", "lib"]) == [src / "lib", src / "src", src]
    assert names_under_test(import_roots(src)) == {"app"}


BASE, HEAD, OWN = Path("/t/base"), Path("/t/head"), Path("/home/me/app")


@pytest.mark.parametrize(
    ("file", "place"),
    [
        ("/t/base/app/core.py", None),
        ("/t/base/.venv/lib/python3.12/site-packages/app/core.py", None),
        ("/t/head/app/core.py", "the other side"),
        ("/home/me/app/src/app/core.py", "your checkout"),
        ("/home/me/app/.venv/lib/python3.12/site-packages/app/core.py", "an installed package"),
        ("/usr/lib/python3/dist-packages/app/core.py", "an installed package"),
        ("/elsewhere/app/core.py", "another folder"),
    ],
)
def test_code_of_the_side_is_told_from_any_other(file: str, place: str | None) -> None:
    found = loaded_elsewhere({"app.core": file}, BASE, HEAD, OWN, {"app"})
    assert found == ([Elsewhere("app.core", file, place)] if place else [])


@pytest.mark.parametrize(
    ("module", "file"),
    [
        ("app", "/me/lib/app/__init__.py"),
        ("app.core", "/me/lib/app/core.py"),
        ("app.core", "/me/lib/app/core/__init__.py"),
        ("single", "/me/lib/single.py"),
    ],
)
def test_where_code_is_imported_from_follows_from_a_file(module: str, file: str) -> None:
    assert trees.root_of(Elsewhere(module, file, "your checkout")) == Path("/me/lib")


def test_libraries_may_be_installed_anywhere() -> None:
    library = {"redis": "/home/me/app/.venv/lib/python3.12/site-packages/redis/__init__.py"}
    assert not loaded_elsewhere(library, BASE, HEAD, OWN, {"app"})


def test_the_tool_itself_is_the_same_on_both_sides() -> None:
    tool = {"pytest_perfguard.ab": "/home/me/app/pytest_perfguard/ab.py"}
    assert not loaded_elsewhere(tool, BASE, HEAD, OWN, {"pytest_perfguard"})


def test_tests_are_not_the_code_under_test() -> None:
    origins = {
        "app": "/t/base/app/__init__.py",
        "tests.test_app": "/t/base/tests/test_app.py",
        "conftest": "/t/base/conftest.py",
        "library": "/t/base/.venv/lib/python3.12/site-packages/library.py",
        "other": "/t/head/other.py",
    }
    assert loaded_code(origins, BASE, [BASE / "tests"]) == ["app"]


def test_a_test_belongs_with_the_outermost_folder_of_tests(fill: Fill) -> None:
    root = Path("/t/head")
    files = [root / "app/tests/perf/test_a.py", root / "app/tests/test_b.py", root / "test_c.py"]
    conftests = [root / "conftest.py", root / "app/tests/conftest.py", Path("/t/other/conftest.py")]
    assert trees.test_paths(root, files, conftests) == [
        PurePosixPath("app/tests"),
        PurePosixPath("conftest.py"),
        PurePosixPath("test_c.py"),
    ]


def test_tests_of_one_tree_take_the_place_of_those_of_another(fill: Fill) -> None:
    head = fill("head", **{"tests/new.py": "new", "tests/test_a.py": "head", "app.py": "head"})
    base = fill("base", **{"tests/old.py": "old", "tests/test_a.py": "base", "app.py": "base"})
    fill("base", "conftest.py")
    overlay(head, base, [PurePosixPath("tests"), PurePosixPath("conftest.py")])
    left = {p.relative_to(base).as_posix(): p.read_text() for p in base.rglob("*.py")}
    assert left == {"tests/new.py": "new", "tests/test_a.py": "head", "app.py": "base"}


@pytest.mark.parametrize(
    ("name", "first", "second", "same"),
    [
        ("pyproject.toml", "[tool.pytest]\na=1\n[x]\ny=1", "[x]\ny=2\n[tool.pytest]\na=1", True),
        ("pyproject.toml", "[tool.pytest]\na=1", "[tool.pytest]\na=2", False),
        ("pytest.toml", "[pytest]\na=1", "[pytest]\na=2", False),
        ("tox.ini", "[tox]\na=1\n[pytest]\nb=1", "[tox]\na=2\n[pytest]\nb=1", True),
        ("setup.cfg", "[tool:pytest]\nb=1", "[tool:pytest]\nb=2", False),
        ("pytest.ini", "not an ini file", "not an ini file", True),
        ("pytest.ini", "not an ini file", "nor this", False),
    ],
)
def test_only_what_pytest_reads_of_a_file_counts(
    fill: Fill, name: str, first: str, second: str, same: bool
) -> None:
    head, base = fill("head", **{name: first}), fill("base", **{name: second})
    assert same_settings(head / name, base / name) is same
    assert not same_settings(head / name, base / "missing.ini")


def test_what_both_depend_on_is_compared(fill: Fill) -> None:
    project = '[project]\ndependencies = ["redis{}"]\nversion = "{}"'
    base = fill("base", **{"uv.lock": "1", "pyproject.toml": project.format("", 1)})
    head = fill("head", **{"uv.lock": "1", "pyproject.toml": project.format("", 2)})
    assert dependency_changes(base, head) == []
    fill("head", **{"uv.lock": "2", "requirements.txt": "a"})
    fill("head", **{"pyproject.toml": project.format(">=5", 2)})
    assert dependency_changes(base, head) == [
        "requirements.txt",
        "uv.lock",
        "pyproject.toml (project.dependencies)",
    ]


def test_a_search_path_is_moved_into_a_tree() -> None:
    value = os.pathsep.join(["/home/me/app/lib", "", "/usr/share/lib", "/home/me/application"])
    assert moved_path(value, OWN, BASE).split(os.pathsep) == [
        "/t/base/lib",
        "/usr/share/lib",
        "/home/me/application",
    ]
