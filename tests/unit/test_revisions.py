"""Revisions of a real, tiny repository; nothing but git is run."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_perfguard import revisions, workspaces
from pytest_perfguard.errors import ComparisonError, RevisionError
from pytest_perfguard.revisions import Repository, workspace

Git = Callable[..., str]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep git from what the user and the machine have set, and temporary folders in one place."""
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)
    empty = tmp_path / "gitconfig"
    empty.write_text("[user]\nname=me\nemail=me@localhost\n[init]\ndefaultBranch=main\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(empty))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    tmp_path.joinpath("tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.joinpath("app").mkdir(parents=True)
    folder.joinpath("app", "core.py").write_text("VALUE = 1\n")
    folder.joinpath(".gitignore").write_text("ignored*\n")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "one")
    return folder


def git(folder: Path, *arguments: str) -> str:
    done = workspaces.git(folder, *arguments)
    assert not done.returncode, done.stderr
    return done.stdout


def state(folder: Path) -> list[str]:
    """Everything of a repository that a user would notice."""
    index = folder.joinpath(".git", "index").read_bytes()
    return [
        *(git(folder, *a.split()) for a in ("status --porcelain", "stash list", "worktree list")),
        git(folder, "for-each-ref"),
        repr(index),
        repr(sorted(path.name for path in folder.joinpath(".git").iterdir())),
    ]


def test_both_states_are_checked_out_and_the_users_own_is_left_alone(project: Path) -> None:
    project.joinpath("app", "core.py").write_text("VALUE = 2\n")
    project.joinpath("app", "staged.py").write_text("")
    git(project, "add", "app/staged.py")
    project.joinpath("new.py").write_text("")
    project.joinpath("ignored.py").write_text("")
    git(project, "stash", "list")
    before = state(project)
    repository = Repository(project / "app")
    assert (repository.top, str(repository.prefix)) == (project, "app")
    with workspace(repository, []) as work:
        base, head = repository.resolve("main"), repository.head(work / "index")
        assert str(head) == "the working tree (3 uncommitted files)"
        assert repository.missed(base, head) == 0
        for label, revision in (("base", base), ("head", head)):
            assert repository.add_worktree(revision, work / label) == []
        files = {
            label: sorted(p.name for p in (work / label).rglob("*.py"))
            for label in ("base", "head")
        }
        assert files == {"base": ["core.py"], "head": ["core.py", "new.py", "staged.py"]}
        assert (work / "head" / "app" / "core.py").read_text() == "VALUE = 2\n"
        assert (work / "base" / "app" / "core.py").read_text() == "VALUE = 1\n"
    assert not work.exists()
    assert state(project) == before


def test_a_state_without_changes_is_that_of_the_last_commit(project: Path) -> None:
    repository = Repository(project)
    head = repository.head(project.parent / "index")
    assert head == repository.resolve("HEAD")
    assert str(head) == f"HEAD ({head.commit[:10]})"


def test_what_was_edited_just_after_a_commit_is_not_missed(project: Path) -> None:
    """Where its size has not changed, and all was in one tick of the clock."""
    file, index = project / "app" / "core.py", project / ".git" / "index"
    git(project, "config", "core.trustctime", "false")
    os.utime(file, (1_000_000_000, 1_000_000_000))
    git(project, "update-index", "--refresh")
    file.write_text("VALUE = 2\n")
    for path in (file, index):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    repository = Repository(project)
    head = repository.head(project.parent / "index")
    assert git(project, "show", f"{head.commit}:app/core.py") == "VALUE = 2\n"


def test_a_hook_is_not_run(project: Path) -> None:
    hook = project / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {project}/hooked\n")
    hook.chmod(0o755)
    repository = Repository(project)
    with workspace(repository, []) as work:
        repository.add_worktree(repository.resolve("HEAD"), work / "base")
    assert not project.joinpath("hooked").exists()


def test_an_error_inside_leaves_nothing(project: Path) -> None:
    before = state(project)
    repository = Repository(project)
    with pytest.raises(KeyError), workspace(repository, []) as work:  # noqa: PT012 - it ends in one
        repository.add_worktree(repository.resolve("HEAD"), work / "base")
        work.joinpath("base", "locked").mkdir(mode=0o500)
        raise KeyError
    assert not work.exists()
    assert state(project) == before


def test_a_worktree_without_what_git_knows_it_by_is_forgotten_too(project: Path) -> None:
    other = project.parent / "other"
    git(project, "worktree", "add", "-q", "--detach", str(other))
    missing = project.parent / "missing"
    git(project, "worktree", "add", "-q", "--detach", str(missing))
    shutil.rmtree(missing)
    before = state(project)
    repository, left = Repository(project), list[str]()
    with workspace(repository, left) as work:
        for label in workspaces.SIDES:
            repository.add_worktree(repository.resolve("HEAD"), work / label)
        work.joinpath("base", ".git").unlink()
        git(work / "base", "init", "-q")
        shutil.rmtree(work / "head")
    assert not work.exists()
    assert left == []
    assert state(project) == before


def test_what_cannot_be_removed_is_told_and_forgotten_by_git(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(project)
    repository, left, rmtree = Repository(project), list[str](), shutil.rmtree
    with workspace(repository, left) as work:
        repository.add_worktree(repository.resolve("HEAD"), work / "base")
        work.joinpath("base", ".git").unlink()

        def keep(path: Path, **options: Any) -> None:
            """Stand in for files that belong to another user."""
            if path in {work, work / "base"}:
                options["onerror"](None, f"{path}/theirs", (None, "not permitted", None))
            else:
                rmtree(path, **options)

        monkeypatch.setattr(shutil, "rmtree", keep)
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    (note,) = left
    assert note.startswith(f"not all could be removed: {work}/theirs: not permitted")
    rmtree(work, ignore_errors=True)
    assert state(project) == before


def test_a_watcher_that_hangs_is_not_waited_for(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revisions, "_WATCHER_SECONDS", 0.1)
    start = workspaces.start
    watchers = []

    def stopped(work: Path) -> subprocess.Popen[bytes]:
        watchers.append(start(work))
        watchers[0].send_signal(signal.SIGSTOP)
        return watchers[0]

    monkeypatch.setattr(workspaces, "start", stopped)
    with workspace(Repository(project), []) as work:
        pass
    assert watchers[0].returncode == -signal.SIGKILL
    assert not work.exists()


@pytest.mark.parametrize("at", ["mkdir", "write_owner"])
def test_a_signal_while_a_workspace_is_made_leaves_nothing(
    project: Path, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place: Any = Path if at == "mkdir" else workspaces
    made = getattr(place, at)

    def make(*arguments: Any, **options: Any) -> object:
        result = made(*arguments, **options)
        if at != "mkdir" or workspaces.PREFIX in arguments[0].name:
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    monkeypatch.setattr(place, at, make)
    with pytest.raises(KeyboardInterrupt), workspace(Repository(project), []):
        pass
    assert [*Path(tempfile.gettempdir()).iterdir()] == []


def test_a_temporary_folder_in_the_checkout_is_no_change_of_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(project / "app"))
    repository = Repository(project)
    with workspace(repository, []) as work:
        assert repository.changes() == []
        project.joinpath("new.py").touch()
        head = repository.head(work / "index")
        assert str(head) == "the working tree (1 uncommitted file)"
        repository.add_worktree(head, work / "head")
        found = [path.name for path in work.joinpath("head").rglob("*.py")]
        assert sorted(found) == ["core.py", "new.py"]
        work.joinpath("head", "other.py").touch()
        assert "other.py" in git(work / "head", "status", "--porcelain")


def test_a_path_may_hold_anything(tmp_path: Path, project: Path) -> None:
    odd = tmp_path / "of\ntwo lines"
    project.rename(odd)
    odd.joinpath("app", "core.py").write_text("VALUE = 2\n")
    repository = Repository(odd / "app")
    assert (repository.top, str(repository.prefix)) == (odd, "app")
    with workspace(repository, []) as work:
        repository.add_worktree(repository.head(work / "index"), work / "head")
        assert work.joinpath("head", "app", "core.py").read_text() == "VALUE = 2\n"
    assert git(odd, "worktree", "list").count("(detached") == 0


def test_a_signal_that_ends_a_process_is_as_ctrl_c(project: Path) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), workspace(Repository(project), []):
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is handler


def test_what_is_left_of_a_killed_one_is_removed_by_the_next(project: Path) -> None:
    before = state(project)
    repository = Repository(project)
    left = Path(tempfile.mkdtemp(prefix=workspaces.PREFIX))
    workspaces.write_owner(left, project)
    left.joinpath(workspaces.LOCK).touch()
    repository.add_worktree(repository.resolve("HEAD"), left / "base")
    # One that was being made, and one whose folder somebody has removed.
    git(project, "worktree", "lock", "--reason", "initializing", str(left / "base"))
    gone = Path(tempfile.mkdtemp(prefix=workspaces.PREFIX))
    repository.add_worktree(repository.resolve("HEAD"), gone / "head")
    shutil.rmtree(gone)
    alive = subprocess.Popen(
        [sys.executable, "-c", "input()"],
        stdin=subprocess.PIPE,
        env={**os.environ, workspaces.MARKER: str(left)},
    )
    with workspace(repository, []) as work:
        assert [*work.parent.iterdir()] == [work]
        # One that is at work is left alone.
        with workspace(repository, []) as second:
            assert work.exists()
        assert not second.exists()
    assert alive.wait(10) == -signal.SIGKILL
    assert alive.stdin is not None
    alive.stdin.close()
    assert state(project) == before


def test_what_no_comparison_has_made_is_left_alone(project: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    workspaces.write_owner(own, project)
    own.joinpath(workspaces.LOCK).touch()
    temporary = Path(tempfile.gettempdir())
    temporary.joinpath(f"{workspaces.PREFIX}linked").symlink_to(own)
    texts = (
        "",
        "no JSON",
        "[]",
        "{}",
        '{"repository": "/"}',
        '{"made_by": "me", "repository": "/"}',
    )
    for number, text in enumerate(texts):
        folder = temporary / f"{workspaces.PREFIX}{number}"
        folder.mkdir()
        folder.joinpath("owner.json").write_text(text)
        folder.joinpath("mine.txt").touch()
    told = temporary / f"{workspaces.PREFIX}told"
    told.mkdir()
    workspaces.write_owner(own, project)
    told.joinpath("owner.json").symlink_to(own / "owner.json")
    for path in temporary.iterdir():
        os.utime(path, (0, 0))
    kept = sorted([*temporary.rglob("*"), *own.iterdir()])
    with workspace(Repository(project), []):
        pass
    assert sorted([*temporary.rglob("*"), *own.iterdir()]) == kept


def test_what_was_hardly_made_is_removed_when_it_is_old(project: Path) -> None:
    temporary = Path(tempfile.gettempdir())
    for age, name in ((0, "empty"), (0, "begun"), (time.time(), "new")):
        folder = temporary / f"{workspaces.PREFIX}{name}"
        folder.mkdir()
        if name == "begun":
            folder.joinpath("owner.json").touch()
        os.utime(folder, (age, age))
    with workspace(Repository(project), []) as work:
        assert {path.name for path in temporary.iterdir()} == {
            work.name,
            f"{workspaces.PREFIX}new",
        }


def test_the_watcher_removes_what_a_killed_process_leaves(project: Path) -> None:
    before = state(project)
    script = (
        "import sys, time\nfrom pathlib import Path\n"
        "from pytest_perfguard.revisions import Repository, workspace\n"
        f"repository = Repository(Path({str(project)!r}))\n"
        "with workspace(repository, []) as work:\n"
        "    repository.add_worktree(repository.resolve('HEAD'), work / 'base')\n"
        "    print(work, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": tempfile.gettempdir()},
    )
    assert process.stdout is not None
    assert process.stdin is not None
    work = Path(process.stdout.readline().strip())
    assert work.joinpath("base", "app", "core.py").exists()
    process.kill()
    process.wait()
    until = time.monotonic() + 30
    while work.exists() and time.monotonic() < until:
        time.sleep(0.02)
    process.stdout.close()
    process.stdin.close()
    assert not work.exists()
    assert state(project) == before


# -- processes -----------------------------------------------------------------------------

SLEEP = (sys.executable, "-c", "import sys, time; print('on', flush=True); time.sleep(60)")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    tmp_path.joinpath("tmp", "work", "base").mkdir(parents=True)
    return tmp_path / "tmp" / "work"


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start processes whose environment says nothing of where they belong."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str, **options: Any) -> subprocess.Popen[bytes]:
        started.append(
            subprocess.Popen(
                command or SLEEP, env={}, start_new_session=True, stdout=subprocess.PIPE, **options
            )
        )
        stdout = started[-1].stdout
        assert stdout is not None
        stdout.readline()
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are told by /proc")


@on_linux
def test_a_process_is_ended_by_where_it_is_at_work(
    work: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    inside, other = start(cwd=work / "base"), start(cwd=work.parent)
    work.joinpath("base", "gone").mkdir()
    gone = start(cwd=work / "base" / "gone")
    work.joinpath("base", "gone").rmdir()
    workspaces.kill(work, groups=False)
    assert inside.poll() is gone.poll() is None
    workspaces.kill(work)
    assert inside.wait(10) == gone.wait(10) == -signal.SIGKILL
    assert other.poll() is None


@on_linux
def test_a_shell_in_which_somebody_has_a_look_is_left_alone(work: Path) -> None:
    import pty

    pid, terminal = pty.fork()
    if not pid:
        os.chdir(work)
        os.execv(sys.executable, SLEEP)  # noqa: S606 - in the child that has the terminal
    os.read(terminal, 1)
    try:
        workspaces.kill(work)
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


@on_linux
def test_a_process_is_ended_with_its_group(
    work: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    # The leader has gone, the one that it has started has not.
    leader = start("/bin/sh", "-c", f"{shlex.join(SLEEP)} &")
    workspaces.note_group(work, leader.pid)
    leader.wait()
    assert [*workspaces.running(work, groups=False)] == []
    (left,) = workspaces.running(work)
    assert os.getpgid(left) == leader.pid
    workspaces.kill(work)
    assert [*workspaces.running(work)] == []


@on_linux
def test_a_number_that_has_become_that_of_another_group_is_left_alone(
    work: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    other = start()
    work.joinpath("groups").write_text(f"{other.pid} 1\n")
    workspaces.kill(work)
    assert other.poll() is None


# -- what cannot be done -------------------------------------------------------------------


def test_a_revision_that_does_not_exist_is_told_with_what_may_be_meant(project: Path) -> None:
    repository = Repository(project)
    with pytest.raises(RevisionError, match="no revision 'mian' here: see 'git branch --all'"):
        repository.resolve("mian")
    with pytest.raises(RevisionError, match="'--all' is no revision"):
        repository.resolve("--all")
    git(project, "remote", "add", "origin", str(project))
    git(project, "fetch", "-q", "origin")
    git(project, "branch", "-m", "other")
    with pytest.raises(RevisionError, match="did you mean origin/main"):
        repository.resolve("main")
    with pytest.raises(RevisionError, match="'git fetch origin release'"):
        repository.resolve("origin/release")


def test_a_shallow_clone_is_told_how_to_become_whole(project: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--depth=1", project.as_uri(), str(clone))
    with pytest.raises(RevisionError, match=r"git fetch --unshallow.*fetch-depth: 0"):
        Repository(clone).resolve("HEAD~1")


def test_a_place_without_a_repository_is_told(
    tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ComparisonError, match="is in no git repository"):
        Repository(tmp_path)
    with pytest.raises(ComparisonError, match="without a checkout"):
        Repository(project / ".git")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ComparisonError, match="git is not installed"):
        Repository(project)


def test_a_repository_without_a_commit_is_told(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "empty")
    with pytest.raises(RevisionError, match="nothing has been committed yet"):
        Repository(tmp_path / "empty").resolve("HEAD")


def test_submodules_are_filled_from_what_is_here(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init", "-q", "library")
    library = tmp_path / "library"
    library.joinpath("lib.py").write_text("A = 1\n")
    git(library, "add", "-A")
    git(library, "commit", "-qm", "lib")
    allowed = ("-c", "protocol.file.allow=always")
    git(project, *allowed, "submodule", "--quiet", "add", str(library), "vendor/library")
    git(project, "commit", "-qm", "with a submodule")
    before = state(project)
    repository = Repository(project)
    # As in a hook of git.
    monkeypatch.setenv("GIT_DIR", str(project / ".git"))
    with workspace(repository, []) as work:
        assert repository.add_worktree(repository.resolve("HEAD"), work / "base") == []
        assert work.joinpath("base", "vendor", "library", "lib.py").read_text() == "A = 1\n"
        project.joinpath("vendor", "library", "lib.py").write_text("A = 2\n")
        (note,) = repository.add_worktree(repository.resolve("HEAD"), work / "head")
        assert note == "what is not committed in the submodule vendor/library is left out"
    git(project / "vendor" / "library", "checkout", "-q", "lib.py")
    assert state(project) == before
    git(project, "submodule", "--quiet", "deinit", "-f", "vendor/library")
    with workspace(repository, []) as work:
        (note,) = repository.add_worktree(repository.resolve("HEAD"), work / "base")
        assert "'git submodule update --init' first" in note
