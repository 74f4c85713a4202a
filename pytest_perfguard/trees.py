"""What is in the trees of two revisions: code to import, tests, and what they depend on.

Pure functions of folders and paths, but for :func:`overlay`, which puts the tests of one tree into
another, and :func:`put`.
"""

from __future__ import annotations

import configparser
import filecmp
import os
import shutil
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pytest_perfguard.errors import RevisionError

_TEST_FOLDERS = ("tests", "test")
_LOCK_FILES = (
    "uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock", "Pipfile", "pixi.lock", "pylock.toml",
    "conda-lock.yml", "environment.yml", "requirements*.txt", "requirements/*.txt",
    "constraints*.txt",
)  # fmt: skip
# What a project depends on, in pyproject.toml.
_DEPENDENCIES = (
    ("project", "dependencies"), ("project", "optional-dependencies"),
    ("project", "requires-python"), ("dependency-groups",), ("build-system", "requires"),
    ("tool", "poetry", "dependencies"), ("tool", "poetry", "group"),
)  # fmt: skip


# -- code --------------------------------------------------------------------------------------


def import_roots(folder: Path, given: Iterable[str] = ()) -> list[Path]:
    """Return the folders that code is imported from: those given, ``src``, and the folder itself.

    Args:
        given: relative to the folder.
    """
    roots = [folder / path for path in given]
    if any(_packages(folder / "src")):
        roots.append(folder / "src")
    return list(dict.fromkeys([*roots, folder]))


def names_under_test(roots: Iterable[Path]) -> set[str]:
    """Return the packages and modules at the import roots, but for tests and what builds them."""
    return {
        name
        for root in roots
        for name in _packages(root)
        if name not in {*_TEST_FOLDERS, "conftest", "setup", "noxfile", "tasks", "manage", "docs"}
    }


def _packages(root: Path) -> Iterable[str]:
    # A folder without an __init__.py may be anything, but in src it is a package all the same.
    mark = "**/*.py" if root.name == "src" else "__init__.py"
    with suppress(OSError):
        for entry in sorted(root.iterdir()):
            if entry.suffix == ".py" and entry.stem.isidentifier():
                if not entry.stem.startswith("test_"):
                    yield entry.stem
            elif entry.name.isidentifier() and any(entry.glob(mark)):
                yield entry.name


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A module that a side has loaded from where it must not be.

    Attributes:
        module: its name.
        file: where it was loaded from.
        place: whose that is: ``your checkout``, ``the other side`` or ``an installed package``.
    """

    module: str
    file: str
    place: str


def root_of(loaded: Elsewhere) -> Path:
    """Return the folder that a module is imported from."""
    path = Path(loaded.file)
    depth = loaded.module.count(".") + (path.name == "__init__.py")
    return path.parents[depth]


def loaded_elsewhere(
    origins: Mapping[str, str], tree: Path, other: Path, checkout: Path, names: Iterable[str]
) -> list[Elsewhere]:
    """Return the modules of the code under test that a side has loaded from outside its tree.

    Args:
        origins: file of each loaded module, by name.
        names: of the packages and modules under test.
    """
    wanted = frozenset(names)
    found = []
    for module, file in sorted(origins.items()):
        path = Path(file)
        if path.is_relative_to(tree) or module.partition(".")[0] == "pytest_perfguard":
            # The tool is the same on both sides, also where its own repository is compared.
            continue
        if path.is_relative_to(other):
            found.append(Elsewhere(module, file, "the other side"))
        elif is_installed(path):
            if module.partition(".")[0] in wanted:
                found.append(Elsewhere(module, file, "an installed package"))
        elif path.is_relative_to(checkout):
            found.append(Elsewhere(module, file, "your checkout"))
        elif module.partition(".")[0] in wanted:
            found.append(Elsewhere(module, file, "another folder"))
    return found


def is_installed(path: Path) -> bool:
    """Return whether a file is of a library: an environment may well be inside a checkout."""
    return "site-packages" in path.parts or "dist-packages" in path.parts


def loaded_code(origins: Mapping[str, str], tree: Path, tests: Iterable[Path]) -> list[str]:
    """Return the modules of a tree that a side has loaded, without tests and conftest files.

    Args:
        tests: paths of tests in the tree.
    """
    folders = tuple(tests)
    return sorted(
        module
        for module, file in origins.items()
        if (path := Path(file)).is_relative_to(tree)
        and not is_installed(path)
        and path.name != "conftest.py"
        and not any(path.is_relative_to(folder) for folder in folders)
    )


# -- tests -------------------------------------------------------------------------------------


def test_paths(root: Path, files: Iterable[Path], conftests: Iterable[Path]) -> list[PurePosixPath]:
    """Return what of a tree belongs to its tests, relative to it.

    A test belongs with the whole of the outermost folder called ``tests`` that it is in, because it
    may import what is beside it and read what is there; without such a folder it stands alone. A
    ``conftest.py`` belongs to the tests wherever it is.
    """
    found: set[PurePosixPath] = set()
    for file in {*files, *conftests}:
        if not file.is_relative_to(root):
            continue
        path = PurePosixPath(file.relative_to(root).as_posix())
        folders = [parent for parent in path.parents if parent.name in _TEST_FOLDERS]
        found.add(folders[-1] if folders else path)
    return sorted(path for path in found if not any(other in path.parents for other in found))


def named_path(option: str, given: str, prefix: PurePosixPath, checkout: Path) -> PurePosixPath:
    """Return the part of a tree that the value of an option names, relative to the tree.

    Args:
        given: relative to the folder that the comparison was asked for in, or inside the checkout.
        prefix: that folder, below the checkout.
        checkout: the user's.

    Raises:
        RevisionError: if it is not inside a tree, or the whole of that folder.
    """
    example = f"such as {option} {_TEST_FOLDERS[0]}"
    if os.path.isabs(given):  # noqa: PTH117 - an empty value is none, and no folder either
        named = Path(os.path.normpath(given))
        if not named.is_relative_to(checkout):
            # A shell may know the checkout by a link to it.
            named = named.parent.resolve() / named.name
        path = named.relative_to(checkout) if named.is_relative_to(checkout) else named
    else:
        path = Path(os.path.normpath(prefix / given))
    part = PurePosixPath(path.as_posix())
    if part == prefix or part in prefix.parents:
        raise RevisionError(
            f"{option} {given} is the whole of what is compared, code and all: name only what "
            f"belongs to the tests, {example}"
        )
    if not _is_part(part):
        raise RevisionError(
            f"{option} {given} is nothing inside a revision: name files or folders of {checkout}, "
            f"{example}"
        )
    return part


def _is_part(path: PurePosixPath) -> bool:
    """Return whether a path leads to something in a tree: not out of it, nor to all of it."""
    parts = path.parts
    if not parts or path.is_absolute() or Path(path).anchor or ".." in parts:
        return False
    # What tells git whose worktree it is; some file systems do not tell letters apart by case.
    return parts[0].lower() != ".git"


def overlay(source: Path, target: Path, paths: Iterable[PurePosixPath]) -> None:
    """Put files and folders of one tree into another, in place of what is there.

    Raises:
        RevisionError: if one of them is not inside a tree.
    """
    for path in paths:
        if _is_part(path) and _is_shared(source, target, path):
            continue
        theirs, top = source / path, _real(source)
        if (real := _real(theirs)).is_relative_to(top) and real != top:
            # A link that was copied as one would lead to what the other tree has there.
            theirs = real
        put(theirs, target, path)


def put(theirs: Path, tree: Path, path: PurePosixPath) -> None:
    """Put a file or folder into a tree, in place of what is there.

    A revision may have links, and these may lead to the user's own files: nothing is ever written
    or removed behind one.

    Raises:
        RevisionError: if the path is not inside a tree.
    """
    if not _is_part(path):
        raise RevisionError(f"{path} is no part of a revision: name files or folders inside it")
    for folder in reversed(path.parents[:-1]):
        _make_folder(tree, folder)
    ours = tree / path
    if ours.is_dir() and not ours.is_symlink():
        shutil.rmtree(ours)
    else:
        ours.unlink(missing_ok=True)
    if theirs.is_dir() and not theirs.is_symlink():
        shutil.copytree(theirs, ours, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    elif theirs.exists():
        shutil.copy2(theirs, ours, follow_symlinks=False)


def _make_folder(tree: Path, path: PurePosixPath) -> None:
    """Let there be a folder, and no link to one; those above it are folders already."""
    folder, top = tree / path, _real(tree)
    real = _real(folder)
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink(missing_ok=True)
        # What is linked to inside a tree is code of its own, which it keeps.
        if real.is_dir() and real.is_relative_to(top) and not (top / path).is_relative_to(real):
            shutil.copytree(real, folder, symlinks=True)
    folder.mkdir(exist_ok=True)


def _is_shared(source: Path, target: Path, path: PurePosixPath) -> bool:
    """Return whether a path leads both trees to one place outside of them, by the same link."""
    for each in (*reversed(path.parents[:-1]), path):
        theirs, ours = source / each, target / each
        if theirs.is_symlink() or ours.is_symlink():
            same = (
                ours.is_symlink() and theirs.is_symlink() and theirs.readlink() == ours.readlink()
            )
            return same and not _real(ours).is_relative_to(_real(target))
    return False


def _real(path: Path) -> Path:
    # Unlike Path.resolve() it does not mind links that lead in a circle.
    return Path(os.path.realpath(path))


def same_settings(first: Path, second: Path) -> bool:
    """Return whether two configuration files say the same to pytest."""
    if not second.is_file():
        return False
    with suppress(OSError, ValueError, configparser.Error):
        return _settings(first) == _settings(second)
    return filecmp.cmp(first, second, shallow=False)


def _settings(file: Path) -> object:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".toml":
        data = tomllib.loads(text)
        return (
            data if file.name in {"pytest.toml", ".pytest.toml"} else _at(data, ("tool", "pytest"))
        )
    parser = configparser.RawConfigParser()
    parser.read_string(text)
    sections = ("pytest", "tool:pytest")
    return {name: dict(parser[name]) for name in sections if parser.has_section(name)}


# -- what they depend on -----------------------------------------------------------------------


def dependency_changes(base: Path, head: Path) -> list[str]:
    """Return which files say that two trees depend on different libraries."""
    names = {
        path.relative_to(tree).as_posix()
        for tree in (base, head)
        for pattern in _LOCK_FILES
        for path in tree.glob(pattern)
    }
    changed = sorted(name for name in names if _bytes(base / name) != _bytes(head / name))
    before, after = _pyproject(base), _pyproject(head)
    tables = [keys for keys in _DEPENDENCIES if _at(before, keys) != _at(after, keys)]
    if tables:
        changed.append(f"pyproject.toml ({', '.join('.'.join(keys) for keys in tables)})")
    return changed


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _pyproject(tree: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        return tomllib.loads(tree.joinpath("pyproject.toml").read_text(encoding="utf-8"))
    return {}


def _at(data: object, keys: Sequence[str]) -> object:
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def moved_path(value: str, checkout: Path, tree: Path) -> str:
    """Return a search path with the entries that are inside the checkout as they are in a tree."""
    return os.pathsep.join(
        str(tree / Path(entry).relative_to(checkout))
        if Path(entry).is_relative_to(checkout)
        else entry
        for entry in value.split(os.pathsep)
        if entry
    )
