"""``perfguard flamediff``: what moved between two profiles."""

from __future__ import annotations

import argparse
from pathlib import Path

from pytest_perfguard.commands.exit_codes import OK
from pytest_perfguard.flamediff import flamediff


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "flamediff",
        help="compare two profiles: what moved, and a picture of it",
        description="Tell what takes more or less of the time than before, and draw it.",
        epilog="exit codes: 0 fine, 2 wrong usage, 3 a profile cannot be used",
    )
    parser.add_argument("base", type=Path, metavar="BASE", help="the profile from before")
    parser.add_argument("head", type=Path, metavar="HEAD", help="the profile from now")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("flamediff.svg"),
        metavar="FILE",
        help="where the picture goes (default: %(default)s)",
    )
    parser.add_argument(
        "--normalised",
        action="store_true",
        help="colour by the share of all time instead of by seconds",
    )
    parser.add_argument("--top", type=int, default=5, metavar="N", help="length of the list")
    parser.set_defaults(run=_flamediff)


def _flamediff(options: argparse.Namespace) -> int:
    words = flamediff(
        options.base, options.head, options.output, normalised=options.normalised, top=options.top
    )
    print(words)
    return OK
