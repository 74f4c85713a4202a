"""Runs pytest on a side of a comparison and reads what came of it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pytest_perfguard import side_plugin, workspaces
from pytest_perfguard.errors import ComparisonError, RevisionError, RunFileError
from pytest_perfguard.observed import Observed, observed
from pytest_perfguard.runs import read_run
from pytest_perfguard.sides import Side, end_of, environment_of

# The two revisions are judged by each other alone.
UNJUDGED = (
    "--perfguard-baseline=off",
    "--perfguard-level=warn",
    "--perfguard-unproven=warn",
)
_WHOLE = ("--perfguard-time=off", "--maxfail=0", "--continue-on-collection-errors")  # fmt: skip
_WRONG_USAGE, _NOTHING_COLLECTED = 4, 5
# pytest takes a conftest.py that cannot be imported for wrong usage.
_BROKEN_CONFTEST = "while loading conftest"
_EVERY = 0.1


@dataclass(slots=True)
class SideRuns:
    """Starts pytest on the sides of a comparison.

    Attributes:
        workspace: where what they write goes.
        arguments: of pytest, as the user gave them.
        on_test: called with the number of tests that have ended, while they run.
    """

    workspace: Path
    arguments: Sequence[str]
    on_test: Callable[[int], object] = field(default=lambda _: None)
    _count: int = 0

    def count(self, side: Side) -> Observed:
        """Run all tests of a side once that the arguments select, to see what they do.

        Raises:
            RevisionError: if pytest does not understand its arguments.
            ComparisonError: if it ended without a result.
        """
        folder = self.folder(f"{side.label}-counts")
        result = folder / "run.json"
        output, code = self._run(
            side, folder, (), "--perfguard", f"--perfguard-json={result}",
            "--perfguard-profile=never", *UNJUDGED, *_WHOLE,
        )  # fmt: skip
        if code == _WRONG_USAGE and _BROKEN_CONFTEST not in output:
            raise RevisionError(
                f"pytest refuses its arguments on the side {side.label}:\n{_refusal(output)}"
            )
        told = _told(folder)
        if not told:
            raise ComparisonError(_no_result(side, code, output))
        try:
            run = read_run(result)
        except RunFileError:
            if code == _NOTHING_COLLECTED or not any(each["tests"] for each in told):
                return observed((), told)
            raise ComparisonError(_no_result(side, code, output)) from None
        return observed(run.records, told)

    def profile(self, side: Side, tests: Iterable[str]) -> Path:
        """Profile some tests of a side, and return the folder with the profiles.

        Raises:
            ComparisonError: if it ended without a result.
        """
        folder = self.folder(f"{side.label}-profiles")
        output, code = self._run(
            side, folder, tests, "--perfguard", "--perfguard-profile=all",
            f"--perfguard-artifacts={folder}", *UNJUDGED, *_WHOLE,
        )  # fmt: skip
        if not folder.joinpath("profiles").is_dir():
            raise ComparisonError(_no_result(side, code, output))
        return folder / "profiles"

    def folder(self, name: str) -> Path:
        """Make a folder for what a run writes."""
        self._count += 1
        folder = self.workspace / "reports" / f"{self._count}-{name}"
        folder.mkdir(parents=True)
        return folder

    def _run(
        self, side: Side, folder: Path, tests: Iterable[str], *options: str
    ) -> tuple[str, int]:
        arguments = [*self.arguments, *options]
        if chosen := [*tests]:
            # Chosen among what the arguments select, since an id may hold anything.
            folder.joinpath(side_plugin.CHOSEN).write_text(json.dumps(chosen), encoding="utf-8")
        output = folder / "output.txt"
        with output.open("wb") as file:
            process = subprocess.Popen(  # noqa: S603 - the user's pytest
                [str(side.python), "-m", "pytest", *arguments],
                cwd=side.folder,
                env=environment_of(with_reports(side, folder)),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            workspaces.note_group(self.workspace, process.pid)
            progress = folder / side_plugin.PROGRESS
            while True:
                with suppress(subprocess.TimeoutExpired):
                    code = process.wait(_EVERY)
                    break
                with suppress(OSError):
                    self.on_test(progress.stat().st_size)
        with output.open("rb") as file:
            return end_of(file), code


def _refusal(output: str) -> str:
    """Return what pytest says of its arguments, without what else it prints."""
    lines = output.splitlines()
    errors = [line for line in lines if "error:" in line.lower() and "usage:" not in line]
    return "\n".join(errors or lines)


def with_reports(side: Side, folder: Path) -> Side:
    """Return the side with its processes reporting into another folder."""
    wish = json.loads(side.environment[side_plugin.VARIABLE])
    told = json.dumps({**wish, "folder": str(folder)})
    return replace(side, environment={**side.environment, side_plugin.VARIABLE: told})


def origins(folder: Path) -> tuple[Mapping[str, str], ...]:
    """Return what each process that reported into a folder has loaded."""
    return tuple(each["origins"] for each in _told(folder))


def _told(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in sorted(folder.glob("process-*.json"))]


def _no_result(side: Side, code: int, output: str) -> str:
    return f"pytest (exit code {code}) gave no result on the side {side.label}:\n{output}"
