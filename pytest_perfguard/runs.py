"""``run.json``: the one exchange format. Every report is a function of it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pytest_perfguard.errors import RunFileError
from pytest_perfguard.model import SCHEMA_VERSION, Record, Run, encodable
from pytest_perfguard.reports.plain import to_json
from pytest_perfguard.writing import write_whole

_NAMED_DISTRIBUTIONS = ("pytest", "pytest-perfguard", "sqlalchemy")
# Variables of GitHub, GitLab and whoever sets them; a pull request's branch before its merge's.
_TOLD = {
    "commit": ("GITHUB_SHA", "CI_COMMIT_SHA"),
    "branch": ("GITHUB_HEAD_REF", "GITHUB_REF_NAME", "CI_COMMIT_REF_NAME"),
}
# Seconds: a repository on a slow disk must not hold up the end of a session.
_PATIENCE = 5


def environment() -> dict[str, str]:
    """Return what the numbers of a run depend on: interpreter, machine, versions."""
    known = {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": platform.system(),
        "machine": platform.machine(),
    }
    for name in _NAMED_DISTRIBUTIONS:
        try:
            known[name] = version(name)
        except PackageNotFoundError:
            continue
    return known


def source(root: Path, started: datetime) -> dict[str, str]:
    """Return of what and when a run is: time, commit, branch, folder, whether files differ from it.

    What continuous integration says of branch and commit comes first: what is checked out there is
    often a merge that nobody has a name for.
    """
    known = {"started": started.isoformat(timespec="seconds")}
    known |= _asked_of_git(root)
    top = next((folder for folder in (root, *root.parents) if (folder / ".git").exists()), root)
    if folder := root.relative_to(top).as_posix().strip("."):
        known["folder"] = folder
    for name, variables in _TOLD.items():
        told = next(filter(None, map(os.environ.get, variables)), None)
        if told:
            known[name] = told
    return known


def _asked_of_git(root: Path) -> dict[str, str]:
    """Ask git once; nothing is known where there is none, or no repository."""
    command = [
        # Without it git would write what it learns about unchanged files into the user's index.
        "git", "--no-optional-locks", "status", "--porcelain=v2", "--branch",
        "--untracked-files=no",
    ]  # fmt: skip
    try:
        done = subprocess.run(  # noqa: S603 - nothing of the user's is in it
            command,
            cwd=root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_PATIENCE,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    lines = done.stdout.splitlines()
    heads = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# branch."))
    known = {"dirty": "yes"} if any(not line.startswith("#") for line in lines) else {}
    for name, head in (("commit", "branch.oid"), ("branch", "branch.head")):
        # Before the first commit, and where no branch is checked out.
        if not heads.get(head, "(none)").startswith("("):
            known[name] = heads[head]
    return known


def make_run(records: Iterable[Record], **about: Any) -> Run:
    """Return a run of the given records, ordered by node id, made here and now.

    Args:
        records: of all tests that were measured.
        about: the other fields of the run.
    """
    ordered = sorted(records, key=lambda record: record.nodeid)
    return Run(environment=environment(), records=tuple(ordered), **about)


def write_run(run: Run, path: Path) -> None:
    """Write a run as ``run.json``; see :func:`write_report`."""
    write_report(to_json(run), path)


def write_report(text: str, path: Path) -> None:
    """Write a file that was asked for: it is the old one or the whole new one, never a part.

    Raises:
        RunFileError: if it cannot be written.
    """
    try:
        write_whole(path, encodable(text))
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunFileError(f"{path} cannot be written: {reason}") from error


def read_run(path: Path | str) -> Run:
    """Read a run.

    Raises:
        RunFileError: if it is not there, not whole, or of a schema that is not known here.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RunFileError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RunFileError(f"{path} is not JSON: {error}") from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA_VERSION:
        raise RunFileError(
            f"{path} has schema {schema!r}, this version reads {SCHEMA_VERSION}: "
            "write it again with --perfguard-json"
        )
    try:
        return Run.from_dict(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunFileError(f"{path} is not a run: {error!r}") from error
