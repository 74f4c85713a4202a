"""``perfguard prune``: remove the baselines of tests that are gone."""

from __future__ import annotations

import argparse
import sys

from pytest_perfguard.commands.exit_codes import FAULT, OK


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "prune",
        help="remove the baselines of tests that are gone",
        description="Collect the whole suite and remove the baselines of tests that it does not "
        "have.",
        epilog="exit codes: 0 fine, 2 wrong usage, 3 it cannot tell which tests are gone, or a "
        "file cannot be written",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    parser.add_argument(
        "arguments", nargs="*", metavar="-- PYTEST_ARGS", help="as the whole suite is run"
    )
    parser.set_defaults(run=_prune)


def _prune(options: argparse.Namespace) -> int:
    from pytest_perfguard.pruning import prune_suite  # noqa: PLC0415 - it loads pytest

    approval = prune_suite(options.arguments, dry_run=options.dry_run)
    print("\n".join(approval.lines or ["no baseline is of a test that is gone"]))
    for problem in approval.problems:
        print(f"perfguard: {problem}", file=sys.stderr)
    return FAULT if approval.problems else OK
