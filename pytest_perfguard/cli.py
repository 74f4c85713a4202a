"""The ``perfguard`` command; each of its commands is a file in :mod:`pytest_perfguard.commands`.

Exit codes: 0 fine, 1 a budget was not kept, 2 wrong usage, 3 the tool itself failed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from pytest_perfguard import __version__
from pytest_perfguard.commands import compare, doctor, explain, flamediff, history, prune, report
from pytest_perfguard.commands.exit_codes import FAULT, OK, USAGE
from pytest_perfguard.errors import MetricError, PerfguardError, UsageError

_COMMANDS = (report, compare, history, doctor, explain, flamediff, prune)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except (MetricError, UsageError) as error:
        print(f"perfguard: {error}", file=sys.stderr)
        return USAGE
    except PerfguardError as error:
        print(f"perfguard: {error}", file=sys.stderr)
        return FAULT
    except BrokenPipeError:
        # Whoever reads has seen enough, as head has. Python must not flush into the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="perfguard", description="Read what pytest --perfguard wrote."
    )
    parser.add_argument("--version", action="version", version=f"perfguard {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.register(commands)
    return parser
