"""The ``perfguard`` command; each of its commands is a file in :mod:`pytest_perfguard.commands`.

Exit codes: 0 fine, 1 a budget was not kept or something is worse, 2 wrong usage, 3 the tool itself
failed. Whatever happens, none of them stands for another: an error that nobody has foreseen is 3,
not the 1 that Python would exit with.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from pytest_perfguard import __version__
from pytest_perfguard.commands import (
    ab,
    compare,
    completion,
    doctor,
    explain,
    flamediff,
    history,
    prune,
    report,
)
from pytest_perfguard.commands.exit_codes import FAULT, USAGE
from pytest_perfguard.commands.printing import complain, patient_output
from pytest_perfguard.errors import MetricError, PerfguardError, UsageError

_COMMANDS = (report, compare, ab, history, doctor, explain, flamediff, prune, completion)


# Set to anything, it shows the traceback of an unforeseen error.
_DEBUG = "PERFGUARD_DEBUG"
_EPILOG = (
    "exit codes: 0 fine; 1 a budget was not kept, or something has become worse; 2 wrong usage; "
    "3 the tool itself failed, or a file cannot be used, so nothing is said of the tests. "
    "'perfguard COMMAND --help' tells more of each."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    # What a terminal cannot show is written out, not refused.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    with patient_output():
        return _run(sys.argv[1:] if arguments is None else [*arguments])


def _run(arguments: list[str]) -> int:
    own, after = ab.split(arguments)
    options = _parser().parse_args(own)
    options.pytest_arguments = after
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except (MetricError, UsageError) as error:
        complain(error)
        return USAGE
    except PerfguardError as error:
        complain(error)
        return FAULT
    except OSError as error:
        complain(f"what was to be said cannot be written: {error}")
        return FAULT
    except KeyboardInterrupt:
        complain("interrupted")
        return FAULT
    except Exception as error:  # noqa: BLE001 - Python would exit with 1, which is a breach
        _tell(error, in_full=options.traceback or bool(os.environ.get(_DEBUG)))
        return FAULT
    return code


def _tell(error: Exception, *, in_full: bool) -> None:
    """Say on one line what nobody has foreseen, and how to learn more."""
    if in_full:
        traceback.print_exception(error)
        return
    words = " ".join(f"{type(error).__name__}: {error}".split())
    complain(f"it failed by itself: {words} (perfguard --traceback, or {_DEBUG}=1, shows where)")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="perfguard",
        description="Read what pytest --perfguard wrote, and look after it.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"perfguard {__version__}")
    parser.add_argument(
        "--traceback", action="store_true", help="show where an unforeseen error comes from"
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.register(commands)
    # Completion describes all of it.
    parser.set_defaults(parser=parser)
    return parser
