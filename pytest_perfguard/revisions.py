"""Two revisions of a repository, side by side: a worktree for each in a temporary folder.

The user's checkout, index and stash are read and never written. What is not committed is made a
commit by an index of its own; it belongs to no branch, and git forgets it in time.
"""

from __future__ import annotations

import io
import os
import secrets
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout

from pytest_perfguard import workspaces
from pytest_perfguard.errors import ComparisonError, RevisionError
from pytest_perfguard.units import several

_SHORT = 10
# Seconds.
_BEING_MADE = 60
_WATCHER_SECONDS = 15.0
_ENDING = ("SIGTERM", "SIGHUP")
_IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "perfguard"), ("EMAIL", "perfguard@localhost"))
}


@dataclass(frozen=True, slots=True)
class Revision:
    """A state of the repository.

    Attributes:
        name: as it was asked for.
        commit: its full hash.
        changes: how many files differ from the last commit, for a state that is not committed.
    """

    name: str
    commit: str
    changes: int = 0

    def __str__(self) -> str:
        short = self.commit[:_SHORT]
        if self.changes:
            return f"{self.name} ({several(self.changes, 'uncommitted file')})"
        return short if self.commit.startswith(self.name) else f"{self.name} ({short})"


class Repository:
    """The repository that a folder is in.

    Attributes:
        top: its checkout.
        prefix: the folder, below the checkout.

    Raises:
        ComparisonError: if there is none, or no git.
    """

    def __init__(self, folder: Path) -> None:
        try:
            # One by one: a path may hold what would separate it from the next.
            found = workspaces.git(folder, "rev-parse", "--show-toplevel")
            prefix = workspaces.git(folder, "rev-parse", "--show-prefix")
        except FileNotFoundError:
            raise ComparisonError(
                "git is not installed, or not on the path: two revisions cannot be told without it"
            ) from None
        if found.returncode:
            raise ComparisonError(_not_a_checkout(folder, found.stderr.strip()))
        self.top = Path(found.stdout.removesuffix("\n"))
        self.prefix = PurePosixPath(prefix.stdout.removesuffix("\n"))

    def resolve(self, name: str) -> Revision:
        """Return the commit of a branch, tag or hash.

        Raises:
            RevisionError: if there is none of that name.
        """
        if name.startswith("-"):
            raise RevisionError(f"{name!r} is no revision: name a branch, a tag or a commit")
        found = self._try(
            "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"
        )
        if found.returncode:
            raise RevisionError(f"there is no revision {name!r} here: {self._remedy(name)}")
        return Revision(name, found.stdout.strip())

    def _remedy(self, name: str) -> str:
        if self._git("rev-parse", "--is-shallow-repository").strip() == "true":
            return (
                "this clone is shallow: fetch the rest with 'git fetch --unshallow' (in a workflow "
                "of GitHub: fetch-depth: 0)"
            )
        if self._git("rev-list", "--max-count=1", "--all").strip() == "":
            return "nothing has been committed yet"
        remotes = self._git("remote").split()
        for remote in remotes:
            if not self._try("rev-parse", "--verify", "--quiet", f"{remote}/{name}").returncode:
                return f"did you mean {remote}/{name}?"
        known = [remote for remote in remotes if name.startswith(f"{remote}/")]
        if known:
            return f"fetch it with 'git fetch {known[0]} {name.removeprefix(f'{known[0]}/')}'"
        return "see 'git branch --all' for those that there are" + (
            f", or 'git fetch {remotes[0]}' for new ones" if remotes else ""
        )

    def head(self, index: Path) -> Revision:
        """Return the state of the checkout, what is not committed or not added included.

        Args:
            index: where a new index is written.
        """
        last = self.resolve("HEAD").commit
        changes = self.changes()
        if not changes:
            return Revision("HEAD", last)
        told = self._git("rev-parse", "--path-format=absolute", "--git-path", "index")
        own = Path(told.removesuffix("\n"))
        with suppress(FileNotFoundError):
            # It knows which files have not changed, so that they need not be read: those that are
            # older than it. Were its copy any younger, what was just edited could be missed.
            shutil.copy2(own, index)
        where = {"GIT_INDEX_FILE": str(index)}
        self._git("add", "--all", "--", ":/", environment=where)
        tree = self._git("write-tree", environment=where).strip()
        commit = self._git(
            "commit-tree", "--no-gpg-sign", "-p", last, "-m", "What is not committed", tree,
            environment=_IDENTITY,
        )  # fmt: skip
        return Revision("the working tree", commit.strip(), len(changes))

    def changes(self) -> list[str]:
        """Return what is not committed, as git tells it in short."""
        # Without it git would write what it learns about unchanged files into the user's index.
        listed = self._git("--no-optional-locks", "status", "--porcelain=v1", "-z", "-unormal")
        return [entry for entry in listed.split("\0") if entry[2:3] == " "]

    def missed(self, base: Revision, head: Revision) -> int:
        """Return how many commits of the base are not in the head."""
        return int(self._git("rev-list", "--count", f"{head.commit}..{base.commit}"))

    def add_worktree(self, revision: Revision, path: Path) -> list[str]:
        """Check a revision out into a folder of its own.

        Returns:
            What a reader should know of it.
        """
        # A hook could do anything to the user's checkout.
        hooks = f"core.hooksPath={os.devnull}"
        made = self._try(
            "-c", hooks, "worktree", "add", "--quiet", "--detach", str(path), revision.commit
        )
        if made.returncode:
            raise ComparisonError(f"{revision} cannot be checked out: {made.stderr.strip()}")
        return self._add_submodules(path)

    def _add_submodules(self, tree: Path) -> list[str]:
        """Put the files of submodules into a worktree, as far as this clone has them."""
        listed = workspaces.git(tree, "ls-tree", "-r", "-z", "HEAD").stdout
        notes = []
        for entry in filter(None, listed.split("\0")):
            facts, _, path = entry.partition("\t")
            mode, _, commit = facts.split()
            if mode != "160000":
                continue
            own = self.top / path
            if not own.joinpath(".git").exists():
                notes.append(
                    f"the submodule {path} is not checked out here, so it is empty on both sides: "
                    "'git submodule update --init' first if the tests need it"
                )
                continue
            archive = subprocess.run(  # noqa: S603 - no shell
                ["git", "-C", str(own), "archive", "--format=tar", commit],  # noqa: S607
                env=workspaces.without_repository(os.environ),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
            if archive.returncode:
                raise ComparisonError(
                    f"the submodule {path} has no commit {commit[:_SHORT]} here: fetch it with "
                    f"'git -C {path} fetch'"
                )
            with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
                files.extractall(tree / path, filter="data")
            if workspaces.git(own, "--no-optional-locks", "status", "--porcelain").stdout:
                notes.append(f"what is not committed in the submodule {path} is left out")
        return notes

    def _try(
        self, *arguments: str, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return workspaces.git(self.top, *arguments, environment=environment)

    def _git(self, *arguments: str, environment: dict[str, str] | None = None) -> str:
        done = self._try(*arguments, environment=environment)
        if done.returncode:
            raise ComparisonError(f"git {arguments[0]}: {done.stderr.strip()}")
        return done.stdout


def _not_a_checkout(folder: Path, said: str) -> str:
    if "not a git repository" in said:
        return f"{folder} is in no git repository: run it where the project is checked out"
    if "must be run in a work tree" in said:
        return f"{folder} is a repository without a checkout: run it in a clone"
    return f"git cannot read the repository: {said}"


# -- the temporary folder --------------------------------------------------------------------


@contextmanager
def workspace(repository: Repository, left: list[str]) -> Iterator[Path]:
    """Give a temporary folder for worktrees; nothing of it is left, whatever happens inside.

    Args:
        left: what could not be removed all the same is added to it, with the reason: what was found
            is true nevertheless.
    """
    clear_leftovers(repository)
    # Its name is known before it is made, so that a signal cannot come between the two.
    name = f"{workspaces.PREFIX}{secrets.token_hex(6)}"
    folder = Path(tempfile.gettempdir()).resolve() / name
    lock = FileLock(folder / workspaces.LOCK)
    watcher = None
    with _ended_by_signals():
        try:
            folder.mkdir(mode=0o700)
            workspaces.write_owner(folder, repository.top)
            lock.acquire(timeout=0)
            watcher = workspaces.start(folder)
            yield folder
        finally:
            with _undisturbed():
                lock.release()
                left += _removed(folder, watcher)


def _removed(folder: Path, watcher: subprocess.Popen[bytes] | None) -> list[str]:
    """Remove a workspace; return what a reader should know of that."""
    problems: list[str] = []
    if watcher is not None or workspaces.is_workspace(folder):
        try:
            problems = workspaces.remove(folder)
        except OSError as error:
            problems = [str(error)]
    else:
        workspaces.remove_unmade(folder)
    if watcher is not None:
        try:
            watcher.communicate(timeout=_WATCHER_SECONDS)
        except subprocess.TimeoutExpired:
            # Somebody has stopped it. There is nothing left for it to do.
            watcher.kill()
            watcher.wait()
    return [f"not all could be removed: {'; '.join(problems)}: remove it yourself"] * bool(problems)


def clear_leftovers(repository: Repository) -> None:
    """Remove what comparisons have left whose processes are gone, and their watchers with them.

    Only what is proven to be of a comparison is: the name of a folder is no proof.
    """
    for folder in Path(tempfile.gettempdir()).resolve().glob(f"{workspaces.PREFIX}*"):
        with suppress(OSError):
            if not workspaces.is_workspace(folder):
                if _is_old(folder):
                    workspaces.remove_unmade(folder)
            elif _is_abandoned(folder):
                workspaces.remove(folder, groups=False)
    for worktree in workspaces.registered(repository.top):
        if not worktree.parent.exists():
            workspaces.unregister(repository.top, worktree)


def _is_abandoned(folder: Path) -> bool:
    lock = folder / workspaces.LOCK
    if not lock.exists():
        return _is_old(folder)
    try:
        with FileLock(lock, timeout=0):
            return True
    except Timeout:
        return False


def _is_old(folder: Path) -> bool:
    """Return whether a folder is not just being made."""
    return time.time() - folder.lstat().st_mtime > _BEING_MADE


@contextmanager
def _handled_by(handler: Any, *names: str) -> Iterator[None]:
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, known in before.items():
            signal.signal(number, known)


def _ended_by_signals() -> AbstractContextManager[None]:
    """Let signals that end a process do so as Ctrl-C does: by an exception."""
    return _handled_by(_raise, *_ENDING)


def _raise(number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def _undisturbed() -> AbstractContextManager[None]:
    """Let no signal stop what is inside; who kills the process has the watcher do the rest."""
    return _handled_by(signal.SIG_IGN, "SIGINT", *_ENDING)
