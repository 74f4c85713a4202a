"""``perfguard ab``: two revisions against each other, on this machine."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_perfguard.commands.exit_codes import BREACH, FAULT, OK, USAGE
from pytest_perfguard.commands.printing import complain
from pytest_perfguard.errors import PerfguardError, RevisionError

if TYPE_CHECKING:
    from pytest_perfguard.ab_results import Comparison

_EVERY = 0.2
_SURE_AFTER = 2.0
_MINUTES = 90.0


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "ab",
        help="compare two revisions: head's tests against the code of both, here and now",
        usage="perfguard ab [options] BASE [HEAD] [-- PYTEST_ARGS]",
    )
    parser.add_argument("base", metavar="BASE", help="a branch, a tag or a commit")
    parser.add_argument(
        "head", nargs="?", metavar="HEAD", help="another one (default: the working tree as it is)"
    )
    parser.add_argument(
        "--tests",
        action="append",
        default=[],
        metavar="PATH",
        help="what belongs to the tests and is taken from head on both sides (default: the tests "
        "that run, with the folders 'tests' that they are in, and every conftest.py)",
    )
    parser.add_argument(
        "--path",
        action="append",
        default=[],
        metavar="DIR",
        help="folder that code is imported from, beside 'src' and this one (may be repeated)",
    )
    parser.add_argument(
        "--setup",
        default="",
        metavar="COMMAND",
        help="run in the tree of each side first; if it makes a .venv there, that is used",
    )
    parser.add_argument(
        "--aa",
        action="store_true",
        help="time head against itself first, and tell only what is above that noise",
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write it for a pull request")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write it as a page")
    parser.add_argument(
        "--json",
        type=Path,
        metavar="DIR",
        help="write result.json, base/run.json, head/run.json, times.json and pictures",
    )
    parser.add_argument(
        "--undecided",
        choices=("report", "fail"),
        default="report",
        help="whether a time that cannot be judged makes the exit code 1 (default: %(default)s)",
    )
    parser.set_defaults(run=_ab)


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the arguments of the command line, and those of pytest that come after ``--``.

    argparse forgets where that was, and would take one of them for HEAD. Other commands keep all.
    """
    if arguments[:1] != ["ab"] or "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def _ab(options: argparse.Namespace) -> int:
    from pytest_perfguard.ab import Wish, compare_revisions  # noqa: PLC0415 - costly
    from pytest_perfguard.ab_results import Grade  # noqa: PLC0415

    progress = _Progress()
    wish = Wish(
        base=options.base,
        head=options.head,
        arguments=tuple(options.pytest_arguments),
        tests=tuple(options.tests),
        paths=tuple(options.path),
        setup=options.setup,
        self_check=options.aa,
    )
    try:
        comparison = compare_revisions(wish, Path.cwd(), progress)
    except PerfguardError as error:
        progress.wipe()
        complain(error)
        _write_failure(error, options.markdown)
        return USAGE if isinstance(error, RevisionError) else FAULT
    except KeyboardInterrupt:
        progress.wipe()
        complain("interrupted: nothing was compared, and nothing is left")
        return FAULT
    finally:
        progress.wipe()
    _write(comparison, options)
    undecided = options.undecided == "fail" and comparison.of(Grade.UNDECIDED, Grade.NOT_TIMED)
    return BREACH if comparison.fails or undecided else OK


def _write_failure(error: PerfguardError, file: Path | None) -> None:
    """Tell where the result would have been read that there is none."""
    from pytest_perfguard.github_actions import append_to_summary  # noqa: PLC0415
    from pytest_perfguard.reports.ab_markdown import no_result  # noqa: PLC0415
    from pytest_perfguard.runs import write_report  # noqa: PLC0415

    if file is not None:
        with suppress(PerfguardError):
            write_report(no_result(error), file)
    append_to_summary(no_result(error))


def _write(comparison: Comparison, options: argparse.Namespace) -> None:
    from pytest_perfguard.github_actions import append_to_summary  # noqa: PLC0415
    from pytest_perfguard.naming import safe_name  # noqa: PLC0415
    from pytest_perfguard.reports.ab_markdown import markdown  # noqa: PLC0415
    from pytest_perfguard.reports.ab_page import page  # noqa: PLC0415
    from pytest_perfguard.reports.ab_text import text  # noqa: PLC0415
    from pytest_perfguard.runs import write_report, write_run  # noqa: PLC0415

    print(text(comparison, shutil.get_terminal_size().columns), end="", flush=True)
    summary = markdown(comparison)
    if options.markdown:
        write_report(summary, options.markdown)
    if options.html:
        write_report(page(comparison), options.html)
    if options.json:
        for label, run in zip(("base", "head"), comparison.runs, strict=True):
            write_run(run, options.json / label / "run.json")
        result = json.dumps(comparison.to_dict(), indent=1, ensure_ascii=False)
        write_report(f"{result}\n", options.json / "result.json")
        timed = [duet.to_dict() for test in comparison.compared for duet in test.duets]
        write_report(json.dumps(timed, indent=1) + "\n", options.json / "times.json")
        for test in comparison.compared:
            for moved in test.moved:
                if moved.picture:
                    name = safe_name(f"{test.nodeid} {moved.call}")
                    write_report(moved.picture, options.json / f"{name}.svg")
    told = append_to_summary(summary)
    if told.startswith("warning: "):
        # Nobody has asked for it, so no result is lost by it.
        complain(told)


class _Progress:
    """How far a comparison is: one line on a terminal, a line for each step elsewhere."""

    def __init__(self) -> None:
        self._is_shown = sys.stderr.isatty() and not os.environ.get("CI")
        self._step = ""
        self._began = self._told = 0.0
        self._length = 0

    def __call__(self, step: str, done: int, total: int) -> None:
        """Tell of a step, and how much of it is done."""
        now = time.monotonic()
        if step != self._step:
            self._step, self._began, self._told = step, now, 0.0
            if not self._is_shown:
                print(f"perfguard: {step}", file=sys.stderr, flush=True)
        if self._is_shown and now - self._told > _EVERY:
            self._told = now
            self._show(f"perfguard: {step}{_how_far(done, total, now - self._began)}")

    def wipe(self) -> None:
        """Take the line away."""
        if self._length:
            self._show("")

    def _show(self, text: str) -> None:
        text = text[: shutil.get_terminal_size().columns - 1]
        sys.stderr.write(f"\r{text.ljust(self._length)}" + ("" if text else "\r"))
        sys.stderr.flush()
        self._length = len(text)


def _how_far(done: int, total: int, seconds: float) -> str:
    if not done:
        return ""
    if not total:
        return f", {done:,} tests"
    told = f", {done:,} of {total:,}"
    if seconds < _SURE_AFTER or done >= total:
        return told
    left = seconds / done * (total - done)
    return (
        f"{told}, about "
        + (f"{left / 60:.0f} min" if left > _MINUTES else f"{left:.0f} s")
        + " left"
    )
