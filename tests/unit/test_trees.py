from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from pytest_perfguard import trees
from pytest_perfguard.errors import RevisionError
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
    spaces = fill("namespaces", "src/acme/shop/stock.py", "scripts/run.py", "docs/index.md")
    assert import_roots(spaces) == [spaces / "src", spaces]
    assert names_under_test(import_roots(spaces)) == {"acme"}


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


@pytest.mark.parametrize("path", [".", "", "../base", "tests/../..", ".git", ".GIT/x"])
def test_only_a_part_of_a_tree_is_put_into_another(fill: Fill, path: str) -> None:
    head, base = fill("head", ".git", "app.py"), fill("base", ".git", "app.py")
    with pytest.raises(RevisionError, match="is no part of a revision"):
        overlay(head, base, [PurePosixPath(path)])
    assert sorted(each.name for each in base.iterdir()) == [".git", "app.py"]


def test_a_path_of_the_checkout_itself_is_left_there(fill: Fill) -> None:
    own = fill("own", **{"tests/test_a.py": "mine"})
    head, base = fill("head", "app.py"), fill("base", "app.py")
    with pytest.raises(RevisionError, match="is no part of a revision"):
        overlay(head, base, [PurePosixPath(own / "tests")])
    assert own.joinpath("tests", "test_a.py").read_text() == "mine"


def test_an_option_names_a_part_of_a_tree(fill: Fill, tmp_path: Path) -> None:
    own = fill("own", "service/tests/test_a.py")
    linked = tmp_path / "linked"
    linked.symlink_to(own)

    def named(given: str, prefix: str = "service") -> str:
        return str(trees.named_path("--tests", given, PurePosixPath(prefix), own))

    assert named("tests") == named("./x/../tests/") == "service/tests"
    assert named("../shared/tests") == "shared/tests"
    assert named(f"{own}/service/tests") == named(f"{linked}/service/tests/") == "service/tests"
    for whole in (".", "", "..", "../service", str(own), str(own / "service")):
        with pytest.raises(
            RevisionError, match=r"--tests .*the whole of .*, such as --tests tests"
        ):
            named(whole)
    for outside in ("../..", "../../base", str(tmp_path), str(tmp_path / "other"), "../.git"):
        with pytest.raises(
            RevisionError, match=r"--tests .* nothing inside a revision: name files"
        ):
            named(outside)


# -- links ---------------------------------------------------------------------------------


def test_nothing_is_written_behind_a_link(fill: Fill, tmp_path: Path) -> None:
    own = fill("own", **{"real/conftest.py": "mine", "real/old.py": "mine", "one.py": "mine"})
    head = fill("head", **{"linked/deep/test_new.py": "head", "one.py": "head"})
    fill("head", **{"linked/conftest.py": "head", "code/tests/test_a.py": "head"})
    base = fill("base", **{"real/tests/test_a.py": "base", "real/core.py": "base"})
    base.joinpath("linked").symlink_to(own / "real")
    base.joinpath("one.py").symlink_to(own / "one.py")
    base.joinpath("code").symlink_to("real")
    paths = ["linked/deep/test_new.py", "linked/conftest.py", "one.py", "code/tests"]
    overlay(head, base, map(PurePosixPath, paths))
    assert {p.relative_to(own).as_posix(): p.read_text() for p in own.rglob("*.py")} == {
        "real/conftest.py": "mine", "real/old.py": "mine", "one.py": "mine",
    }  # fmt: skip
    assert {p.relative_to(base).as_posix(): p.read_text() for p in base.rglob("*.py")} == {
        "linked/deep/test_new.py": "head", "linked/conftest.py": "head", "one.py": "head",
        # What it linked to inside the tree is code of base, which stays.
        "code/tests/test_a.py": "head", "code/core.py": "base",
        "real/tests/test_a.py": "base", "real/core.py": "base",
    }  # fmt: skip
    assert not any(path.is_symlink() for path in base.rglob("*"))


def test_links_in_a_circle_are_replaced_too(fill: Fill) -> None:
    head = fill("head", **{"up/test_a.py": "head", "loop/test_b.py": "head"})
    base = fill("base", "app.py")
    base.joinpath("up").symlink_to(".")
    base.joinpath("loop").symlink_to("loop")
    overlay(head, base, [PurePosixPath("up/test_a.py"), PurePosixPath("loop/test_b.py")])
    assert sorted(p.relative_to(base).as_posix() for p in base.rglob("*.py")) == [
        "app.py", "loop/test_b.py", "up/test_a.py",
    ]  # fmt: skip


def test_what_both_link_to_outside_of_them_is_left_as_it_is(fill: Fill) -> None:
    own = fill("own", **{"test_a.py": "mine", "support.py": "mine"})
    head, base = fill("head", "app.py"), fill("base", "app.py")
    for tree in (head, base):
        tree.joinpath("common").symlink_to(own)
    overlay(head, base, [PurePosixPath("common/test_a.py")])
    assert sorted(path.name for path in own.iterdir()) == ["support.py", "test_a.py"]
    assert base.joinpath("common", "test_a.py").read_text() == "mine"


def test_tests_that_a_link_inside_head_leads_to_are_those_of_head(fill: Fill) -> None:
    head, base = (
        fill("head", **{"all/test_a.py": "head"}),
        fill("base", **{"all/test_a.py": "base"}),
    )
    for tree in (head, base):
        tree.joinpath("tests").symlink_to("all")
    overlay(head, base, [PurePosixPath("tests")])
    assert base.joinpath("tests", "test_a.py").read_text() == "head"
    assert base.joinpath("all", "test_a.py").read_text() == "base"


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
