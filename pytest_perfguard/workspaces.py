"""Leaves nothing behind of a comparison of revisions, whatever ends it.

A comparison has a workspace: a temporary folder with a worktree for each side. The process that
compares removes it. Where it is killed before it can, a watcher does: a small process that reads
from a pipe that nobody writes to, and so learns when the other end is gone. It runs this file as a
script, in a session of its own that Ctrl-C does not reach, and knows the standard library alone. If
it is killed too, the next comparison finds what is left: the lock on a workspace is held for as
long as its process lives.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

PREFIX = "perfguard-ab-"
# In the environment of every process that is started on a side, with the workspace as its value.
MARKER = "PERFGUARD_AB_WORKSPACE"
LOCK = "lock"
SIDES = ("base", "head")
_OWNER = "owner.json"
_MADE_BY = "perfguard ab 1"
_GROUPS = "groups"
_PROCESSES = Path("/proc")
# Processes that are being killed may still start others.
_KILLING_SECONDS = 10.0
_EVERY = 0.02


def write_owner(workspace: Path, repository: Path) -> None:
    """Note that a folder is a workspace, and whose worktrees are in it.

    It is written first, since a folder without it is never removed with what is in it.
    """
    data = {"made_by": _MADE_BY, "repository": str(repository)}
    workspace.joinpath(_OWNER).write_text(json.dumps(data), encoding="utf-8")
    if workspace.is_relative_to(repository):
        # Temporary folders may be in the checkout, and this is no change of the user's.
        workspace.joinpath(".gitignore").write_text("*\n", encoding="ascii")


def is_workspace(folder: Path) -> bool:
    """Return whether a folder was made for a comparison of this user's: any other is left alone."""
    with suppress(OSError):
        return _is_own(folder, stat.S_IFDIR) and bool(_repository(folder))
    return False


def remove_unmade(folder: Path) -> None:
    """Remove what there is of a workspace whose making was cut short: an empty folder, no other."""
    owner = folder / _OWNER
    with suppress(OSError):
        if _is_own(folder, stat.S_IFDIR):
            if [*folder.iterdir()] == [owner] and not owner.lstat().st_size:
                owner.unlink()
            folder.rmdir()


def _repository(workspace: Path) -> str:
    """Return whose worktrees are in a workspace; nothing for a folder that is none."""
    owner = workspace / _OWNER
    with suppress(OSError, ValueError):
        if _is_own(owner, stat.S_IFREG):
            data = json.loads(owner.read_bytes())
            if isinstance(data, dict) and data.get("made_by") == _MADE_BY:
                return str(data.get("repository", ""))
    return ""


def _is_own(path: Path, kind: int) -> bool:
    """Return whether a path is a file or folder of this user's, and no link to one."""
    found = path.lstat()
    return stat.S_IFMT(found.st_mode) == kind and found.st_uid == getattr(os, "getuid", int)()


def note_group(workspace: Path, group: int) -> None:
    """Note a group of processes by its leader, which was just started and not waited for yet."""
    started = "-"
    with suppress(OSError):
        started = _Process.read(group).started
    with workspace.joinpath(_GROUPS).open("a", encoding="ascii") as file:
        file.write(f"{group} {started}\n")


def start(workspace: Path) -> subprocess.Popen[bytes]:
    """Start the watcher of a workspace; it acts when its input is closed."""
    return subprocess.Popen(  # noqa: S603 - this Python and this file
        [sys.executable, "-I", __file__, str(workspace)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=workspace.parent,
        start_new_session=True,
    )


def remove(workspace: Path, *, groups: bool = True) -> list[str]:
    """End what still runs in a workspace and remove it; what is gone already does not matter.

    Args:
        groups: also end processes that are known by their group or by their folder alone; the
            groups of a workspace that was left long ago may be those of others by now.

    Returns:
        What could not be removed, with the reason.
    """
    kill(workspace, groups=groups)
    problems = [problem for tree in _worktrees(workspace) if (problem := unregister(*tree))]
    return problems + _delete(workspace)


def _delete(folder: Path) -> list[str]:
    """Remove a folder; return why that was not possible."""
    if folder.is_symlink() or not folder.exists():
        return []
    # What a test has made read-only can be removed all the same once its folder is writable.
    for each, _, _ in os.walk(folder):
        with suppress(OSError):
            Path(each).chmod(0o700)
    failed: list[str] = []
    shutil.rmtree(folder, onerror=lambda _f, path, error: failed.append(f"{path}: {error[1]}"))
    return failed[:1] if folder.exists() else []


def kill(workspace: Path, *, groups: bool = True) -> None:
    """End every process that was started in a workspace, and wait until they have ended."""
    if not _PROCESSES.joinpath("self", "environ").exists():
        if groups:
            _kill_groups(workspace)
        return
    until = time.monotonic() + _KILLING_SECONDS
    beyond = set[int]()
    while time.monotonic() < until:
        found = [each for each in running(workspace, groups=groups) if each not in beyond]
        if not found:
            return
        for process in found:
            try:
                os.kill(process, signal.SIGKILL)
            except PermissionError:
                beyond.add(process)
            except ProcessLookupError:
                pass
        time.sleep(_EVERY)


def running(workspace: Path, *, groups: bool = True) -> Iterator[int]:
    """Yield the processes that were started in a workspace.

    Most are known by what is in their environment. One that has none of it, or has written over
    it, may still be in a group that was noted, or be at work in the workspace.

    Args:
        groups: whether those count, too.
    """
    known = _groups(workspace) if groups else frozenset[int]()
    for entry in _PROCESSES.iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with suppress(OSError, ValueError, IndexError):
                process = _Process.read(int(entry.name))
                if process.is_running and (
                    process.group in known
                    or _is_marked(entry, workspace)
                    or (groups and process.is_detached and _is_inside(entry, workspace))
                ):
                    yield process.number


def _is_marked(process: Path, workspace: Path) -> bool:
    with suppress(OSError):
        wanted = f"{MARKER}={workspace}".encode()
        return wanted in process.joinpath("environ").read_bytes().split(b"\0")
    return False


def _is_inside(process: Path, workspace: Path) -> bool:
    # Of a folder that was removed the kernel says so after the path.
    folder = str(process.joinpath("cwd").readlink()).removesuffix(" (deleted)")
    return Path(folder).is_relative_to(workspace)


class _Process(NamedTuple):
    """What the kernel tells of a process.

    Attributes:
        number: its own.
        is_running: whether it has not ended; one that has may not have been waited for.
        group: number of its group, which is that of the process that leads it.
        is_detached: whether it has no terminal. A shell in which somebody has a look at a workspace
            has one; what runs on a side has none.
        started: when it was started, since the machine was.
    """

    number: int
    is_running: bool
    group: int
    is_detached: bool
    started: str

    @classmethod
    def read(cls, number: int) -> Self:
        """Read it.

        Raises:
            OSError: if there is no such process, or nothing of the kind here.
        """
        told = _PROCESSES.joinpath(str(number), "stat").read_bytes().decode("ascii", "replace")
        # The name comes first, and may hold anything.
        state, _, group, _, terminal, *rest = told.rpartition(")")[2].split()
        return cls(number, state not in "ZX", int(group), terminal == "0", rest[14])


def _groups(workspace: Path) -> frozenset[int]:
    """Return the noted groups, but for those whose number has become that of another."""
    found = set()
    with suppress(OSError, ValueError):
        for line in workspace.joinpath(_GROUPS).read_text(encoding="ascii").splitlines():
            number, started = line.split()
            with suppress(FileNotFoundError):
                # A number is not given again as long as anything is left of its group.
                if _Process.read(int(number)).started != started:
                    continue
            found.add(int(number))
    return frozenset(found)


def _kill_groups(workspace: Path) -> None:
    with suppress(OSError, ValueError):
        for line in workspace.joinpath(_GROUPS).read_text(encoding="ascii").splitlines():
            with suppress(OSError):
                os.killpg(int(line.split()[0]), signal.SIGKILL)


def _worktrees(workspace: Path) -> list[tuple[Path, Path]]:
    """Return repository and path of each worktree that is registered in a workspace."""
    named = _repository(workspace)
    if not named:
        return []
    repository = Path(named)
    return [(repository, path) for path in registered(repository) if path.parent == workspace]


def registered(repository: Path) -> list[Path]:
    """Return the worktrees of comparisons that a repository knows, existing or not."""
    listed = git(repository, "worktree", "list", "--porcelain", "-z")
    paths = [
        Path(part.removeprefix("worktree "))
        for part in listed.stdout.split("\0")
        if part.startswith("worktree ")
    ]
    return [path for path in paths if path.parent.name.startswith(PREFIX) and path.name in SIDES]


def unregister(repository: Path, worktree: Path) -> str:
    """Make a repository forget a worktree and remove it; return why that was not possible."""
    # First, since git refuses to remove one in which a test has removed or changed ".git".
    _delete(worktree)
    # Given twice, it also removes one whose making was cut short, which is locked.
    done = git(repository, "worktree", "remove", "--force", "--force", str(worktree))
    if done.returncode and not _forget(repository, worktree):
        return f"{worktree}: {done.stderr.strip()}"
    return ""


def _forget(repository: Path, worktree: Path) -> bool:
    """Remove what a repository knows of one worktree: "git worktree prune" would do so of all."""
    found = git(repository, "rev-parse", "--path-format=absolute", "--git-common-dir")
    if found.returncode:
        return False
    known = Path(found.stdout.removesuffix("\n"), "worktrees")
    for place in known.glob("*/gitdir"):
        with suppress(OSError, ValueError):
            if Path(place.read_text(encoding="utf-8").removesuffix("\n")).parent == worktree:
                shutil.rmtree(place.parent)
                with suppress(OSError):
                    known.rmdir()
                return True
    return False


def git(
    folder: Path, *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run git in a folder, as if nothing in the environment told it of another repository.

    Raises:
        FileNotFoundError: if there is no git.
    """
    told = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", **(environment or {})}
    return subprocess.run(  # noqa: S603 - no shell
        ["git", "-C", str(folder), *arguments],  # noqa: S607 - whichever is on the path
        env={**without_repository(os.environ), **told},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
    )


def without_repository(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which git finds the repository by the folder that it is run in."""
    return {name: value for name, value in environment.items() if name not in _OF_A_REPOSITORY}


# What a hook of git has in its environment, as "git rev-parse --local-env-vars" lists it.
_OF_A_REPOSITORY = frozenset(
    {
        "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_CONFIG", "GIT_CONFIG_PARAMETERS",
        "GIT_CONFIG_COUNT", "GIT_OBJECT_DIRECTORY", "GIT_DIR", "GIT_WORK_TREE",
        "GIT_IMPLICIT_WORK_TREE", "GIT_GRAFT_FILE", "GIT_INDEX_FILE", "GIT_NO_REPLACE_OBJECTS",
        "GIT_REPLACE_REF_BASE", "GIT_PREFIX", "GIT_SHALLOW_FILE", "GIT_COMMON_DIR",
        "GIT_INTERNAL_SUPER_PREFIX",
    }
)  # fmt: skip


def _watch(workspace: Path) -> None:
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    sys.stdin.buffer.read()
    if workspace.exists():
        remove(workspace)


if __name__ == "__main__":
    _watch(Path(sys.argv[1]))
