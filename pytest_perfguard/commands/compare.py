"""``perfguard compare``: what one run does otherwise than another."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from pytest_perfguard.commands.exit_codes import BREACH, OK
from pytest_perfguard.commands.printing import add_output, deliver
from pytest_perfguard.errors import LimitError, RunFileError
from pytest_perfguard.reports.comparison_report import markdown, text
from pytest_perfguard.run_comparison import compare_runs
from pytest_perfguard.runs import read_run
from pytest_perfguard.units import Unit, parse


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "compare",
        help="tell what has changed between two runs",
        description="Compare the counts and sizes of two files that pytest --perfguard-json has "
        "written, test by test, with the operations that differ and their lines.",
        epilog="exit codes: 0 nothing is worse, 1 something is worse, 2 wrong usage, "
        "3 the files cannot be used, or have no test in common",
    )
    parser.add_argument("first", type=Path, metavar="A.json")
    parser.add_argument("second", type=Path, metavar="B.json")
    parser.add_argument(
        "--times",
        type=_share,
        metavar="SHARE",
        help="judge times, too: by how much they may be longer, such as 50%%; they are only told "
        "otherwise, as two runs know nothing of the noise of their machines",
    )
    add_output(parser, ("text", "markdown", "json"))
    parser.set_defaults(run=_compare)


def _share(written: str) -> float:
    try:
        return parse(written, Unit.SHARE)
    except LimitError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _compare(options: argparse.Namespace) -> int:
    first, second = read_run(options.first), read_run(options.second)
    found = compare_runs(
        first, second, times=options.times, names=(str(options.first), str(options.second))
    )
    match options.format:
        case "text":
            shown = text(found, width=shutil.get_terminal_size().columns)
        case "markdown":
            shown = markdown(found)
        case _:
            shown = json.dumps(found.to_dict(), indent=1, ensure_ascii=False) + "\n"
    deliver(shown, options)
    if not found.compared:
        raise RunFileError(
            f"{options.first} and {options.second} have no test in common that can be compared"
        )
    return BREACH if found.is_worse else OK
