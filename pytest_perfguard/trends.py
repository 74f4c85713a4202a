"""What a history says of a suite: the course of its numbers, and what creeps up.

Counts are judged in all runs, times and sizes in those of the newest run's environment. What all
times of a run have in common is taken out of them first: it is the machine, or what all tests
share, and says nothing of one of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from pytest_perfguard.creep import (
    CHANCE,
    FEWEST,
    Found,
    Kind,
    find_exact,
    find_varying,
    shared,
    varies,
)
from pytest_perfguard.history import History, Series, StoredRun
from pytest_perfguard.metrics import METRICS
from pytest_perfguard.model import Run
from pytest_perfguard.units import Unit, show

# Runs that are looked at, the newest of a branch: what is older has been lived with.
WINDOW = 100
# Runs of a trend in a report.
DRAWN = 30
# A test that was in none of so many runs is gone.
_RECENT = 10
# What is told by other metrics with less noise, or depends on how long a test was timed.
_UNSTEADY = ("_p95", "_p99", "_max", "_stddev", "_iqr")
_NOT_JUDGED = ("cpu_time", "cpu_percent")
# What is below is as good as that, by unit.
_FLOORS = {
    Unit.SECONDS: 1e-4,
    Unit.BYTES: 1024.0,
    Unit.SHARE: 0.01,
    Unit.COUNT: 1.0,
    Unit.NUMBER: 1.0,
}
JUDGED = tuple(
    name
    for name, metric in METRICS.items()
    if not metric.neutral and not name.endswith(_UNSTEADY) and name not in _NOT_JUDGED
)


@dataclass(frozen=True, slots=True)
class Worsening:
    """A series that has become worse.

    Attributes:
        runs: those that it was judged in, the oldest first.
        found: the values in it are what all runs have in common taken out.
    """

    series: Series
    found: Found
    runs: Sequence[StoredRun]

    @property
    def since(self) -> StoredRun:
        """The first run of the new level, or of the rise."""
        return self.runs[self.found.at]

    def __str__(self) -> str:
        metric = METRICS[self.series.metric]
        values = f"{show(self.found.before, metric.unit)} -> {show(self.found.after, metric.unit)}"
        if self.found.kind is Kind.STEP:
            how = f"since {place(self.since)}"
        elif self.found.rises:
            how = f"in {self.found.rises} steps since {place(self.since)}"
        else:
            how = f"little by little over {len(self.runs)} runs"
        return f"{metric.name} {values} {how}: {title(self.series)}"


@dataclass(frozen=True, slots=True)
class Checked:
    """The result of a check.

    Attributes:
        branch: the branch that was looked at.
        judged: how many series had enough values.
        short: how many varying ones had too few in this environment.
        together: what all times did, in words; they are not judged one by one by that.
    """

    branch: str
    runs: Sequence[StoredRun]
    worse: tuple[Worsening, ...] = ()
    judged: int = 0
    short: int = 0
    together: str = ""


def place(run: StoredRun) -> str:
    """Return what a run is called: its commit, else its number, and its day."""
    return f"{run.commit[:9] or f'run {run.id}'} ({run.started[:10]})"


def title(series: Series) -> str:
    """Return what a series is of; the kind of database belongs to it."""
    return series.nodeid + (f" on {series.databases}" if series.databases != "no database" else "")


def keep(
    run: Run, url: str, *, root: Path, days: int = 0, top: int = 5
) -> tuple[list[str], list[str], dict[str, Any]]:
    """Add a run to a history and look at what has become of its tests.

    Args:
        url: of the history; a relative file of SQLite is below ``root``.
        days: how long runs are kept; 0 for ever.
        top: how many series are told of.

    Returns:
        What was done, in words; what is to be said of the suite; and the data of :func:`drawable`.

    Raises:
        HistoryError: if the run cannot be added: there may be nothing to add.
        MissingExtraError: if SQLAlchemy is not installed.
    """
    history = History(url, root)
    kept = history.add(run, keep_days=days)
    said = f"run {kept.run:,} added to the history at {kept.where} ({kept.values:,} values)"
    if kept.cleared:
        said += f"; {kept.cleared:,} older than {days:,} days cleared"
    branch = run.source.get("branch", "")
    runs = newest_runs(history, branch=branch, since=None, limit=WINDOW)
    series = history.series(runs, metrics=JUDGED, changing=True)
    checked = judge(runs, series)
    nodeids = {record.nodeid for record in run.records}
    return [said], told(checked, top), drawable(checked, series, nodeids, DRAWN)


def told(checked: Checked, top: int) -> list[str]:
    """Return what a check found, as lines for a report."""
    lines = [f"warning: worse over many runs: {one}" for one in checked.worse[: max(top, 1)]]
    more = len(checked.worse) - len(lines)
    if more > 0:
        lines.append(f"warning: ... and {more:,} more (perfguard history --check)")
    return [*lines, *([checked.together] if checked.together else [])]


def check(
    history: History,
    *,
    branch: str | None = None,
    since: datetime | None = None,
) -> Checked:
    """Look for what has become worse in the runs of a branch, by default that of the newest run.

    Raises:
        HistoryError: if the history cannot be read, or has no such run.
    """
    runs = newest_runs(history, branch=branch, since=since, limit=WINDOW)
    series = history.series(runs, metrics=JUDGED, changing=True)
    return judge(runs, series)


def newest_runs(
    history: History, *, branch: str | None, since: datetime | None, limit: int
) -> list[StoredRun]:
    """Return the newest runs of a branch, the oldest of them first."""
    if branch is None:
        newest = history.runs(since=since, limit=1)
        branch = newest[0].branch if newest else ""
    return history.runs(branch=branch, since=since, limit=limit)


def judge(runs: Sequence[StoredRun], series: Iterable[Series]) -> Checked:
    """Look for what has become worse in series of some runs, the oldest run first."""
    if not runs:
        return Checked("", runs)
    order = {run.id: index for index, run in enumerate(runs)}
    recent = {run.id for run in runs[-_RECENT:]}
    here = {run.id for run in runs if run.environment == runs[-1].environment}
    exact, varying = [], []
    for one in series:
        first = order.get(one.accepted, 0)
        values = {run: value for run, value in one.values.items() if order[run] >= first}
        if recent.isdisjoint(values):
            continue
        if _is_exact(one.metric) and not varies(list(values.values())):
            exact.append((one, values))
        else:
            varying.append((one, {run: v for run, v in values.items() if run in here}))
    worse = []
    for one, values in exact:
        found = find_exact(
            list(values.values()),
            higher_is_better=METRICS[one.metric].higher_is_better,
            accepted=one.accepted in values,
        )
        if found is not None:
            worse.append(_worsening(runs, one, values, found))
    together, factors = _together(runs, [pair for pair in varying if _is_time(pair[0])])
    enough = [(one, values) for one, values in varying if len(values) >= FEWEST]
    for one, values in enough:
        own = {r: v / factors.get(r, 1.0) if _is_time(one) else v for r, v in values.items()}
        found = find_varying(
            list(own.values()),
            higher_is_better=METRICS[one.metric].higher_is_better,
            chance=CHANCE / len(enough),
            floor=_FLOORS[METRICS[one.metric].unit],
        )
        if found is not None:
            worse.append(_worsening(runs, one, values, found))
    worse.sort(key=lambda w: (not METRICS[w.series.metric].stored, w.series.nodeid))
    short = len(varying) - len(enough)
    return Checked(runs[-1].branch, runs, tuple(worse), len(exact) + len(enough), short, together)


def _is_exact(metric: str) -> bool:
    # Sizes differ by the digits of what is in them.
    return METRICS[metric].stored and METRICS[metric].unit is not Unit.BYTES


def _is_time(series: Series) -> bool:
    return METRICS[series.metric].unit is Unit.SECONDS


def _worsening(
    runs: Sequence[StoredRun], series: Series, values: Mapping[int, float], found: Found
) -> Worsening:
    return Worsening(series, found, [run for run in runs if run.id in values])


def _together(
    runs: Sequence[StoredRun], times: Sequence[tuple[Series, Mapping[int, float]]]
) -> tuple[str, dict[int, float]]:
    """Return what all times did, in words, and by how much each run was slower than usual."""
    factors = shared(dict(enumerate(values for _, values in times)))
    known = [run for run in runs if run.id in factors]
    found = find_varying([factors[run.id] for run in known])
    if found is None:
        return "", factors
    share = show(found.after / found.before - 1, Unit.SHARE)
    since = f" since {place(known[found.at])}" if found.kind is Kind.STEP else ""
    return (
        f"all times together are {share} higher{since}: the machine, or what all tests share",
        factors,
    )


def drawable(
    checked: Checked, series: Sequence[Series], nodeids: Collection[str], drawn: int
) -> dict[str, Any]:
    """Return how the numbers of some tests went, as JSON data that a report can be drawn from.

    ``runs`` are the newest of a branch, the oldest first, each with ``id``, ``started``,
    ``commit``, ``branch`` and ``environment``. ``series`` are ordered by ``nodeid`` and
    ``metric``, each with ``databases``, ``unit``, ``median`` and ``values``: one for each run, in
    the base unit and rounded to four digits, None where the test has none. ``change`` is None, or
    what was found: ``kind``, ``at`` (index into ``runs``), ``before``, ``after`` and ``text``. A
    metric that had the same value in all runs has no series.

    Args:
        checked: what was found in the series.
        nodeids: the tests that are wanted.
        drawn: how many runs.
    """
    changes = {id(worsening.series): worsening for worsening in checked.worse}
    shown = checked.runs[-drawn:]
    order = {run.id: index for index, run in enumerate(shown)}
    return {
        "runs": [
            {
                "id": run.id,
                "started": run.started,
                "commit": run.commit,
                "branch": run.branch,
                "environment": run.environment,
            }
            for run in shown
        ],
        "together": checked.together,
        "series": [
            {
                "nodeid": one.nodeid,
                "databases": one.databases,
                "metric": one.metric,
                "unit": str(METRICS[one.metric].unit),
                "median": _rounded(median(values)),
                "values": [_rounded(one.values.get(run.id)) for run in shown],
                "change": _change(changes.get(id(one)), order),
            }
            for one in series
            if one.nodeid in nodeids
            if (values := [one.values[run.id] for run in shown if run.id in one.values])
        ],
    }


def _change(worsening: Worsening | None, order: Mapping[int, int]) -> dict[str, Any] | None:
    if worsening is None:
        return None
    return {
        "kind": str(worsening.found.kind),
        # Before what is drawn, it is where that begins.
        "at": order.get(worsening.since.id, 0),
        "before": _rounded(worsening.found.before),
        "after": _rounded(worsening.found.after),
        "text": str(worsening),
    }


def _rounded(value: float | None) -> float | None:
    if value is None:
        return None
    short = float(f"{value:.4g}")
    return int(short) if short == int(short) else short
