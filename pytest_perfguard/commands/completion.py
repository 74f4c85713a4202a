"""``perfguard completion``: the script that lets a shell complete the command."""

from __future__ import annotations

import argparse
from pathlib import Path

from pytest_perfguard.commands.exit_codes import OK
from pytest_perfguard.errors import MissingExtraError
from pytest_perfguard.metrics import METRICS

_SHELLS = ("bash", "zsh", "tcsh", "fish")


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "completion",
        help="print what lets a shell complete perfguard",
        description="Print a script for a shell, made by shtab (extra [completion]): "
        'eval "$(perfguard completion bash)" in .bashrc.',
        epilog="exit codes: 0 fine, 2 wrong usage, 3 shtab is not installed",
    )
    parser.add_argument("shell", choices=_SHELLS, metavar="SHELL", help=", ".join(_SHELLS))
    parser.set_defaults(run=_completion)


def _completion(options: argparse.Namespace) -> int:
    try:
        import shtab  # noqa: PLC0415 - an optional library
    except ImportError:
        raise MissingExtraError("shtab", "completion") from None
    _describe(options.parser, shtab.FILE)
    print(shtab.complete(options.parser, options.shell))
    return OK


def _describe(parser: argparse.ArgumentParser, files: object) -> None:
    """Say of each argument what may stand there: for a file any file, for a metric its names."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _describe(command, files)
        elif action.type is Path:
            action.complete = files  # type: ignore[attr-defined] # shtab looks for it
        elif action.dest == "metric":
            action.choices = list(METRICS)
