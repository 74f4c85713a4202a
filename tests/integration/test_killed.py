"""Sessions and processes that are killed: no file is torn, and what was lost is named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_perfguard import read_run

Run = Callable[..., pytest.RunResult]
_posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

_SUITE = """
import os, signal, pytest

pytestmark = pytest.mark.performance

def test_before():
    pass

def test_fatal():
    if os.environ.get("KILL") == "self":
        os.kill(os.getpid(), signal.SIGKILL)
    if os.environ.get("KILL") == "parent":
        os.kill(os.getppid(), signal.SIGKILL)

def test_after():
    pass
"""


def _killed(pytester: pytest.Pytester, whom: str, *options: str) -> int:
    """Run the suite in a process group of its own and kill a process of it from within."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
    done = subprocess.run(
        [*command, "--perfguard-json=run.json"],
        cwd=pytester.path,
        env={**os.environ, "KILL": whom},
        capture_output=True,
        check=False,
    )
    return done.returncode


@_posix
@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "xdist"])
def test_a_killed_session_leaves_the_old_file_and_is_told_of(
    pytester: pytest.Pytester, run_once: Run, workers: tuple[str, ...]
) -> None:
    pytester.makepyfile(_SUITE)
    run_once("--perfguard-json=run.json")
    before = (pytester.path / "run.json").read_bytes()

    assert _killed(pytester, "parent" if workers else "self", *workers) == -signal.SIGKILL

    assert (pytester.path / "run.json").read_bytes() == before
    result = run_once("--perfguard-json=run.json")
    result.stdout.fnmatch_lines(
        ["warning: the session of * UTC was killed before it wrote run.json: *"]
    )
    if not workers:
        result.stdout.fnmatch_lines(
            ["*: what 1 test had measured is lost (the last was *::test_before); *"]
        )
    (notice,) = read_run(pytester.path / "run.json").notices
    assert "was killed before it wrote run.json" in notice
    # Told once, and nothing is left of it.
    run_once("--perfguard-json=run.json").stdout.no_fnmatch_line("*was killed*")
    assert not (pytester.path / ".perfguard").exists()


@_posix
def test_a_session_without_options_tells_it_too(pytester: pytest.Pytester, run_once: Run) -> None:
    pytester.makepyfile(_SUITE)
    assert _killed(pytester, "self") == -signal.SIGKILL
    run_once().stdout.fnmatch_lines(["warning: the session of * was killed before it wrote *"])


@_posix
def test_the_test_of_a_killed_worker_is_named(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(_SUITE)

    assert _killed(pytester, "self", "-n2") == pytest.ExitCode.TESTS_FAILED

    run = read_run(pytester.path / "run.json")
    (lost,) = run.lost
    assert lost.endswith("::test_fatal")
    assert [r.nodeid.partition("::")[2] for r in run.records] == ["test_after", "test_before"]
    assert run.notices == (
        f"warning: the process that ran {lost} died: nothing of that test was recorded",
    )


def test_a_session_that_is_still_running_is_not_told_of(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    pytester.makepyfile(
        test_outer="""
        import subprocess, sys, pytest

        @pytest.mark.performance
        def test_it():
            command = [sys.executable, "-m", "pytest", "test_inner.py", "--perfguard-json=in.json"]
            told = subprocess.run(command, capture_output=True, text=True).stdout
            assert "1 passed" in told and "killed" not in told
        """,
        test_inner="def test_it(): pass",
    )
    run_once("--perfguard-json=run.json", "test_outer.py").assert_outcomes(passed=1)
    assert not Path(pytester.path, ".perfguard").exists()
