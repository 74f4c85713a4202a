"""The ``perfguard`` command.

Exit codes: 0 fine, 1 a budget was not kept, 2 wrong usage, 3 a file that cannot be used.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from pytest_perfguard import __version__
from pytest_perfguard.errors import MetricError, ProfileFileError, RunFileError
from pytest_perfguard.flamediff import flamediff
from pytest_perfguard.metrics import METRICS, Metric, lookup
from pytest_perfguard.reports.evidence import failure
from pytest_perfguard.reports.terminal import summary
from pytest_perfguard.runs import read_run
from pytest_perfguard.units import EXAMPLES

OK, BREACH, USAGE, FAULT = range(4)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except MetricError as error:
        print(f"perfguard: {error}", file=sys.stderr)
        return USAGE
    except (RunFileError, ProfileFileError) as error:
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

    explain = commands.add_parser("explain", help="say what a metric is, or list all of them")
    explain.add_argument("metric", nargs="?", metavar="METRIC")
    explain.set_defaults(run=_explain)

    report = commands.add_parser("report", help="show a run as --perfguard shows it")
    report.add_argument("file", type=Path, metavar="RUN.json")
    report.add_argument("--top", type=int, default=5, metavar="N", help="length of the lists")
    report.set_defaults(run=_report)

    diff = commands.add_parser(
        "flamediff", help="compare two profiles: what moved, and a picture of it"
    )
    diff.add_argument("base", type=Path, metavar="BASE")
    diff.add_argument("head", type=Path, metavar="HEAD")
    diff.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("flamediff.svg"),
        metavar="FILE",
        help="where the picture goes (default: %(default)s)",
    )
    diff.add_argument(
        "--normalised",
        action="store_true",
        help="colour by the share of all time instead of by seconds",
    )
    diff.add_argument("--top", type=int, default=5, metavar="N", help="length of the list")
    diff.set_defaults(run=_flamediff)
    return parser


def _explain(options: argparse.Namespace) -> int:
    if options.metric is not None:
        print(_description(lookup(options.metric)))
        return OK
    width = max(map(len, METRICS))
    for metric in METRICS.values():
        print(f"{metric.name:<{width}}  {metric.help.partition('. ')[0].rstrip('.')}")
    return OK


def _description(metric: Metric) -> str:
    direction = "higher is better: a budget is a floor" if metric.higher_is_better else "a ceiling"
    lines = [
        metric.name,
        fill(metric.help, 78, initial_indent="  ", subsequent_indent="  "),
        f"  unit    {metric.unit}, written as {EXAMPLES[metric.unit]}",
        f"  budget  {direction}",
    ]
    if metric.guide:
        lines.append(f"  guide   {metric.guide}")
    return "\n".join(lines)


def _report(options: argparse.Namespace) -> int:
    run = read_run(options.file)
    width = shutil.get_terminal_size().columns
    failing = [record for record in run.records if record.fails]
    for record in failing:
        print(f"{record.nodeid}\n{failure(record, width)}\n")
    print("\n".join(summary(run, top=options.top, full=True, width=width)))
    return BREACH if failing else OK


def _flamediff(options: argparse.Namespace) -> int:
    words = flamediff(
        options.base, options.head, options.output, normalised=options.normalised, top=options.top
    )
    print(words)
    return OK
