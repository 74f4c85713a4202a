"""``perfguard explain``: what a metric is."""

from __future__ import annotations

import argparse
from textwrap import fill, wrap

from pytest_perfguard.commands.exit_codes import OK
from pytest_perfguard.measuring import example, how
from pytest_perfguard.metrics import METRICS, Metric, lookup
from pytest_perfguard.units import EXAMPLES


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "explain",
        help="say what a metric is, or list all of them",
        description="Say what a metric is, how it is measured and how a budget for it is written.",
        epilog="exit codes: 0 fine, 2 there is no such metric",
    )
    parser.add_argument(
        "metric", nargs="?", metavar="METRIC", help="its name; without one, all are listed"
    )
    parser.set_defaults(run=_explain)


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
    measured = how(metric) + ("; only where it is asked for" if metric.on_request else "")
    lines += wrap(measured, 70, initial_indent="  how     ", subsequent_indent=" " * 10)
    held = "the same in every run: held by baselines" if metric.stored else "differs between runs"
    lines.append(f"  noise   {held}")
    lines.append(f"  write   {example(metric)}")
    return "\n".join(lines)
