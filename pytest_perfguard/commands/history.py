"""``perfguard history``: how numbers went over many runs, and what has crept up."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

from pytest_perfguard.commands.exit_codes import BREACH, OK
from pytest_perfguard.creep import FEWEST, HELD
from pytest_perfguard.errors import HistoryError, UsageError
from pytest_perfguard.history import DEFAULT, History, Series, StoredRun
from pytest_perfguard.metrics import METRICS, lookup
from pytest_perfguard.reports.trend_chart import chart
from pytest_perfguard.trends import Worsening, check, newest_runs, place, title
from pytest_perfguard.units import Unit, several, show

_LISTED = 20
_DRAWN = 100
_MOVES = 10


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "history",
        help="show how a number went over many runs, and find what has crept up",
        description="Without a metric, list the runs. With one, draw how it went in a test: both "
        "may be a part of a name. The history is what pytest --perfguard-history has written.",
        epilog="exit codes: 0 fine, 1 something has become worse (--check), 2 wrong usage, "
        "3 the history cannot be used",
    )
    parser.add_argument("metric", nargs="?", metavar="METRIC", help="metric, or a part of its name")
    parser.add_argument("test", nargs="?", metavar="TEST", help="a part of the test's node id")
    parser.add_argument(
        "--url",
        default=DEFAULT,
        help="of the database (default: PERFGUARD_HISTORY_URL, else .perfguard/history.db)",
    )
    parser.add_argument(
        "--branch", metavar="NAME", help="its runs alone (default: that of the newest run)"
    )
    parser.add_argument(
        "--since", type=_moment, metavar="WHEN", help="a day such as 2026-03-01, or 30d for days"
    )
    parser.add_argument("--limit", type=_number, metavar="N", help="the newest N runs alone")
    work = parser.add_mutually_exclusive_group()
    work.add_argument(
        "--check", action="store_true", help="tell what has become worse over many runs"
    )
    work.add_argument(
        "--accept", metavar="REASON", help="judge METRIC of TEST from the newest run on"
    )
    work.add_argument(
        "--prune-before", type=_moment, metavar="WHEN", help="remove the runs that are older"
    )
    parser.set_defaults(run=_history)


def _moment(text: str) -> datetime:
    try:
        if text.endswith("d"):
            return datetime.now(UTC) - timedelta(days=int(text[:-1]))
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no day: write 2026-03-01, or 30d") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _number(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of runs")
    return int(text)


def _history(options: argparse.Namespace) -> int:
    history = History(options.url, Path.cwd())
    if options.prune_before:
        if options.metric:
            raise UsageError("--prune-before removes whole runs: leave out the metric")
        gone = history.clear_before(options.prune_before)
        print(f"{several(gone, 'run')} removed")
        return OK
    if options.accept is not None:
        return _accept(history, options)
    if options.check:
        return _check(history, options)
    if options.metric is None:
        return _list(history, options)
    return _draw(history, options)


def _list(history: History, options: argparse.Namespace) -> int:
    runs = history.runs(branch=options.branch, since=options.since, limit=options.limit or _LISTED)
    if not runs:
        raise _no_runs(history, options)
    rows = [("run", "started", "commit", "branch", "tests", "environment")]
    rows += [
        (
            f"{run.id}",
            run.started[:16].replace("T", " "),
            (run.commit[:9] or "-") + "+" * run.dirty,
            run.branch or "-",
            f"{run.tests:,}",
            run.environment,
        )
        for run in runs
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    if any(run.dirty for run in runs):
        print("+ with changes that were not committed")
    return OK


def _no_runs(history: History, options: argparse.Namespace) -> HistoryError:
    branches = sorted({run.branch or "-" for run in history.runs()})
    asked = f" of branch {options.branch!r}" if options.branch is not None else ""
    asked += f" since {options.since:%Y-%m-%d %H:%M}" if options.since else ""
    return HistoryError(
        f"there is no run{asked} in {history.where}; branches: {', '.join(branches) or 'none'}"
    )


def _check(history: History, options: argparse.Namespace) -> int:
    wanted = _wanted(history, options)
    checked = check(history, branch=options.branch, since=options.since)
    if not checked.runs:
        raise _no_runs(history, options)
    if wanted is not None:
        metric, nodeids = wanted
        found = [
            one
            for one in checked.worse
            if one.series.metric == metric and one.series.nodeid in nodeids
        ]
        checked = replace(checked, worse=tuple(found))
    for found_one in (*checked.worse, *filter(None, [checked.together])):
        print(found_one)
    runs = several(len(checked.runs), "run")
    summary = f"{runs} of {checked.branch or 'no branch'}: "
    if len(checked.runs) < 2 * HELD:
        print(f"{summary}nothing is judged before there are {2 * HELD}")
        return OK
    summary += f"{checked.judged:,} numbers that changed judged, {len(checked.worse):,} worse"
    if checked.short:
        summary += f"; {checked.short:,} that vary have fewer than {FEWEST} runs so far"
    print(summary)
    return BREACH if checked.worse else OK


def _wanted(history: History, options: argparse.Namespace) -> tuple[str, Collection[str]] | None:
    """Return the metric and all tests that were named; None for everything."""
    if options.metric is None:
        return None
    known, nodeids = history.names()
    metric = _metric(options.metric, known)
    tests = [nodeid for nodeid in nodeids if (options.test or "") in nodeid]
    if not tests:
        raise UsageError(f"no test in {history.where} matches {options.test!r}")
    return metric, tests


def _metric(name: str, known: Sequence[str]) -> str:
    if name in known:
        return name
    found = [metric for metric in known if name in metric]
    if not found:
        # Either there is none of that name, or none in the history.
        lookup(name)
        raise UsageError(f"the history has no value of {name}")
    if len(found) > 1:
        raise UsageError(_ambiguous(f"several metrics match {name!r}", found))
    return found[0]


def _ambiguous(what: str, found: Sequence[str]) -> str:
    lines = [f"{what}:", *(f"  {name}" for name in found[:_LISTED])]
    if len(found) > _LISTED:
        lines.append(f"  ... and {len(found) - _LISTED:,} more")
    return "\n".join(lines)


def _one_test(
    history: History, options: argparse.Namespace
) -> tuple[list[StoredRun], list[Series]]:
    """Return the series of the one test that was named: one for each kind of database."""
    known, _ = history.names()
    metric = _metric(options.metric, known)
    runs = newest_runs(
        history, branch=options.branch, since=options.since, limit=options.limit or _DRAWN
    )
    if not runs:
        raise _no_runs(history, options)
    series = history.series(runs, metrics=[metric])
    wanted = options.test or ""
    whole = [one for one in series if f"::{one.nodeid}".endswith(f"::{wanted}")] if wanted else []
    series = whole or [one for one in series if wanted in one.nodeid]
    tests = sorted({one.nodeid for one in series})
    if not tests:
        raise UsageError(f"no test with {metric} in these runs matches {options.test!r}")
    if len(tests) > 1:
        what = f"several tests match {options.test!r}" if options.test else "name a test"
        raise UsageError(_ambiguous(f"{what}, of those that have {metric}", tests))
    return runs, series


def _accept(history: History, options: argparse.Namespace) -> int:
    if not options.metric or not options.test:
        raise UsageError("--accept needs a metric and a test")
    if not options.accept.strip():
        raise UsageError("--accept needs a reason")
    runs, series = _one_test(history, options)
    for one in series:
        history.accept(one, runs[-1].id, options.accept)
        print(f"{one.metric} of {title(one)} is judged from {place(runs[-1])} on")
    return OK


def _draw(history: History, options: argparse.Namespace) -> int:
    runs, series = _one_test(history, options)
    by_id = {run.id: run for run in runs}
    checked = check(history, branch=runs[-1].branch, since=options.since)
    worse = {(w.series.nodeid, w.series.databases, w.series.metric): w for w in checked.worse}
    for number, one in enumerate(series):
        if number:
            print()
        of_series = [by_id[run] for run in one.values]
        print(
            "\n".join(_drawing(one, of_series, worse.get((one.nodeid, one.databases, one.metric))))
        )
    return OK


def _drawing(series: Series, runs: Sequence[StoredRun], worse: Worsening | None) -> list[str]:
    metric, values = METRICS[series.metric], list(series.values.values())
    number = several(len(values), "run")
    lines = [f"{metric.name} of {title(series)}, {number} of {runs[0].branch or 'no branch'}"]
    mark = runs.index(worse.since) if worse is not None and worse.since in runs else None
    lines += chart(
        values,
        metric.unit,
        width=shutil.get_terminal_size().columns,
        mark=mark,
        plain=not _shows_blocks(),
    )
    lines.append(f"from {place(runs[0])} to {place(runs[-1])}")
    if metric.stored:
        lines += _moves(values, runs, metric.unit)
    if worse is not None:
        lines.append(f"worse: {worse}")
    return lines


def _moves(values: Sequence[float], runs: Sequence[StoredRun], unit: Unit) -> list[str]:
    """Return where an exact value has changed, the newest changes."""
    moves = [
        f"  {show(before, unit)} -> {show(after, unit)} at {place(run)}"
        for (before, after), run in zip(pairwise(values), runs[1:], strict=True)
        if before != after
    ]
    if not moves:
        return [f"always {show(values[0], unit)}"]
    head = "changes:" if len(moves) <= _MOVES else f"newest of {len(moves):,} changes:"
    return [head, *moves[-_MOVES:]]


def _shows_blocks() -> bool:
    """Return whether what is printed can hold the letters that a chart is drawn with."""
    try:
        "█│".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
