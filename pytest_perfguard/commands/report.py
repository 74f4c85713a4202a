"""``perfguard report``: a run once more, in any format."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from pytest_perfguard.commands.exit_codes import BREACH, OK
from pytest_perfguard.commands.printing import add_output, deliver
from pytest_perfguard.errors import RunFileError
from pytest_perfguard.reports.formats import FORMATS, render
from pytest_perfguard.reports.terminal import text
from pytest_perfguard.runs import read_run


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "report",
        help="show a run as the session showed it",
        description="Show a file that pytest --perfguard-json has written, in any format.",
        epilog="exit codes: 0 every budget was kept, 1 one was not, 2 wrong usage, 3 the file "
        "cannot be used",
    )
    parser.add_argument(
        "file", type=Path, metavar="RUN.json", help="what pytest --perfguard-json=RUN.json wrote"
    )
    add_output(parser, FORMATS)
    parser.add_argument("--top", type=int, default=5, metavar="N", help="length of lists in text")
    parser.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> int:
    run = read_run(options.file)
    try:
        if options.format == "text":
            shown = text(run, top=options.top, width=shutil.get_terminal_size().columns)
        else:
            shown = render(run, options.format)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunFileError(
            f"{options.file} holds what no run of this version does: {error!r}"
        ) from error
    deliver(shown, options)
    return BREACH if run.fails else OK
