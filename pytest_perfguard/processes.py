"""Runs some of a session's tests once more, in a fresh process, as the session itself was run.

What differs between two runs of the same code shows in a process of its own: hash seeds, warm
caches, what other tests left behind.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from pytest_perfguard.errors import RunFileError
from pytest_perfguard.model import Run
from pytest_perfguard.runs import read_run

# Options that say what becomes of a session's results, which a fresh process has none of, or that
# choose tests by what an earlier session found. Those in the first row take their value from the
# next argument where it is not in the same.
_WITH_VALUE = (
    "--perfguard-json", "--perfguard-summary", "--perfguard-sarif", "--perfguard-openmetrics",
    "--perfguard-processes", "--junitxml", "--junit-xml", "--html",
    "--json-report-file", "--report-log", "--cov-report", "--log-file", "--alluredir",
    "--benchmark-json", "--benchmark-save", "--maxfail", "--lfnf", "--last-failed-no-failures",
)  # fmt: skip
_PLAIN = (
    "--perfguard", "--perfguard-update", "--perfguard-ratchet", "--perfguard-add-times", "-x",
    "--exitfirst", "--lf", "--last-failed", "--ff", "--failed-first", "--nf", "--new-first",
    "--sw", "--stepwise", "--sw-skip", "--stepwise-skip", "--sw-reset", "--stepwise-reset",
    "--pdb", "--trace", "--benchmark-autosave", "--pastebin",
)  # fmt: skip
_FRESH = "PERFGUARD_FRESH_PROCESS"
_MAX_OUTPUT = 2_000


class FreshProcessError(Exception):
    """A fresh process gave no result; the message ends with what it printed."""


def is_fresh() -> bool:
    """Return whether this process was started by another session, which judges what comes of it."""
    return bool(os.environ.get(_FRESH))


def run_again(config: pytest.Config, nodeids: Iterable[str], *options: str) -> Run:
    """Run tests in a fresh process and return what was measured; whether they pass is not asked.

    Raises:
        FreshProcessError: if it ended without a result.
    """
    with tempfile.TemporaryDirectory(prefix="perfguard-") as folder:
        tests, result = Path(folder, "tests"), Path(folder, "run.json")
        paths = (f"{config.rootpath}{os.sep}{nodeid}" for nodeid in nodeids)
        tests.write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
        command = [
            sys.executable, "-m", "pytest", *_arguments(config), *_place(config), "--perfguard",
            "--perfguard-profile=never", "--maxfail=0", *options, f"--perfguard-json={result}",
            f"@{tests}",
        ]  # fmt: skip
        done = subprocess.run(  # noqa: S603 - the command that started this session
            command,
            cwd=config.invocation_params.dir,
            env={**os.environ, _FRESH: "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        try:
            return read_run(result)
        except RunFileError:
            output = (done.stdout + done.stderr).strip()[-_MAX_OUTPUT:]
            raise FreshProcessError(
                f"a fresh process (exit code {done.returncode}) gave no result:\n{output}"
            ) from None


def _place(config: pytest.Config) -> list[str]:
    """Return where the session found its settings; which tests are named must not matter."""
    place = [f"--rootdir={config.rootpath}"]
    return place if config.inipath is None else [*place, "-c", str(config.inipath)]


def _arguments(config: pytest.Config) -> list[str]:
    """Return the arguments of the session, without its tests and without its results."""
    named = set(config.args)
    kept, skip = [], False
    for argument in map(str, config.invocation_params.args):
        name, equals, _ = argument.partition("=")
        if skip or argument in named or argument.startswith("@") or name in _PLAIN:
            skip = False
        elif name in _WITH_VALUE:
            skip = not equals
        else:
            kept.append(argument)
    if config.pluginmanager.has_plugin("xdist"):
        kept.append("-n0")
    return kept
