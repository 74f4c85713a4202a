"""``perfguard explain``: what a metric is."""

from __future__ import annotations

import argparse
from textwrap import fill

from pytest_perfguard.commands.exit_codes import OK
from pytest_perfguard.metrics import METRICS, Metric, lookup
from pytest_perfguard.units import EXAMPLES


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("explain", help="say what a metric is, or list all of them")
    parser.add_argument("metric", nargs="?", metavar="METRIC")
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
    return "\n".join(lines)
