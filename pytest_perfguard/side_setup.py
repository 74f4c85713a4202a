"""Makes the sides of a comparison: which Python runs them, and what is in its environment."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest_perfguard
from pytest_perfguard import side_plugin, trees, workspaces
from pytest_perfguard.errors import ComparisonError
from pytest_perfguard.observed import Observed
from pytest_perfguard.sides import SIDE, Side, end_of, environment_of


def make_side(
    label: str,
    folder: Path,
    *,
    workspace: Path,
    checkout: Path,
    asked_in: Path,
    roots: Sequence[Path],
    names: Iterable[str],
) -> Side:
    """Return a side that runs in this environment, with its own code first on the path.

    Args:
        folder: where its tests are run.
        checkout: the user's, which it must not load code from.
        asked_in: the folder of the checkout that the comparison was asked for in.
        roots: what its code is imported from.
        names: of the packages and modules under test.
    """
    tree = workspace / label
    tool = workspace / "tool"
    if not tool.exists():
        tool.mkdir()
        with suppress(OSError):
            # First on the path: neither side's environment, nor its tree, brings its own.
            tool.joinpath("pytest_perfguard").symlink_to(
                Path(pytest_perfguard.__file__).parent, target_is_directory=True
            )
    known = trees.moved_path(os.environ.get("PYTHONPATH", ""), checkout, tree)
    search = [str(tool), *filter(None, [known]), *map(str, roots)]
    both = [workspace / "base", workspace / "head", checkout]
    environment = {
        workspaces.MARKER: str(workspace),
        SIDE: label,
        # What a session tells a workflow is told of the comparison instead.
        "GITHUB_ACTIONS": "",
        "GITHUB_STEP_SUMMARY": "",
        "PERFGUARD_AB_CHECKOUT": str(asked_in),
        "PYTHONPATH": os.pathsep.join(search),
        side_plugin.VARIABLE: side_plugin.described(workspace, both, sorted(names)),
    }
    return with_options(Side(label, folder, Path(sys.executable), environment), ())


def with_options(side: Side, options: Iterable[str]) -> Side:
    """Return a side whose pytest reports, and has some more options."""
    own = shlex.join(["-p", side_plugin.PLUGIN, *options])
    known = os.environ.get("PYTEST_ADDOPTS", "")
    return replace(
        side, environment={**side.environment, "PYTEST_ADDOPTS": f"{known} {own}".strip()}
    )


def with_settings(side: Side, tree: Path, after: Observed, head: Path) -> Side:
    """Return a side whose pytest has the settings of head, in the same place of its own tree.

    Args:
        after: what a run of head has shown.
        head: its tree.
    """
    options = []
    if after.root.is_relative_to(head):
        options.append(f"--rootdir={tree / after.root.relative_to(head)}")
    if after.ini is not None and after.ini.is_relative_to(head):
        own = tree / after.ini.relative_to(head)
        if own != after.ini and not trees.same_settings(after.ini, own):
            if not after.ini.name.lstrip(".").startswith("pytest."):
                # What else is in such a file is about the code, which has its own.
                own = own.with_name(f"perfguard-{after.ini.name}")
            place = PurePosixPath(own.relative_to(tree).as_posix())
            trees.put(after.ini.resolve(), tree, place)
        options += ["-c", str(own)]
    return with_options(side, options)


def set_up(side: Side, command: str, workspace: Path) -> Side:
    """Run a command of the user's on a side, and use the ``.venv`` that it may have made.

    Raises:
        ComparisonError: if it fails.
    """
    # A file, since a pipe would have no end while something runs that it has started.
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(  # noqa: S602 - the user's own command, as a shell understands it
            command,
            shell=True,
            cwd=side.folder,
            env=environment_of(side),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        workspaces.note_group(workspace, process.pid)
        if process.wait():
            raise ComparisonError(
                f"--setup failed on the side {side.label} (exit code {process.returncode}):\n"
                f"{end_of(output)}"
            )
    for python in (".venv/bin/python", ".venv/Scripts/python.exe"):
        if (side.folder / python).exists():
            return replace(side, python=side.folder / python)
    return side


def ready(side: Side) -> Side:
    """Return a side whose own environment comes first, if pytest and perfguard are in it.

    Raises:
        ComparisonError: if they are not.
    """
    if side.python == Path(sys.executable):
        return side
    environment = {
        **side.environment,
        "VIRTUAL_ENV": str(side.python.parent.parent),
        "PATH": f"{side.python.parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    found = subprocess.run(  # noqa: S603 - the side's own Python
        [str(side.python), "-c", _ASKS],
        cwd=side.folder,
        env=environment_of(replace(side, environment=environment)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if found.returncode:
        last = (found.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise ComparisonError(
            f"the environment of {side.label} cannot run the tests: {last}: let --setup install "
            "pytest-perfguard into it, too"
        )
    return replace(side, environment=environment)


_ASKS = (
    "import filelock, pytest; from importlib.metadata import version; version('pytest-perfguard')"
)
