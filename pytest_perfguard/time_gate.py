"""Judges the times of a session by stored ones, when all of its tests have been run.

Whoever is slower than the stored times say is measured again by a fresh process, and fails only if
that one says so as well. The verdicts come after the tests' own reports, so each failure is a
report of its own.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from pytest_perfguard.baselines import Tolerance
from pytest_perfguard.errors import StoreError
from pytest_perfguard.gate import (
    FEWEST_PROCESSES,
    GateStatus,
    judge,
    judge_waiting,
)
from pytest_perfguard.metrics import METRICS
from pytest_perfguard.model import Level, Record, Rule, Status, Verdict
from pytest_perfguard.options import option
from pytest_perfguard.processes import FreshProcessError, is_fresh, run_again
from pytest_perfguard.progress import note
from pytest_perfguard.times import Stored, Times, Timings, add, environment, forget, read
from pytest_perfguard.units import several
from pytest_perfguard.waive_marks import MarkedWaiver, this_day, waive

# Counts of Python calls vary by some tenths of a percent where threads take turns.
_SLACK_OF_CALLS = 1.02
_STATUS = {
    GateStatus.OK: Status.OK,
    GateStatus.SUSPECT: Status.REGRESSED,
    GateStatus.FASTER: Status.IMPROVED,
    GateStatus.UNDECIDED: Status.UNDECIDED,
    GateStatus.NEW: Status.NEW,
}
# A fresh process only measures: nothing that it finds may stop a test from being timed.
_ONLY_MEASURE = (
    "--perfguard-level=warn",
    "--perfguard-new=warn",
    "--perfguard-unproven=warn",
    "--perfguard-add-times",
)


@dataclass(slots=True)
class Measured:
    """What the processes that ran tests have measured.

    Attributes:
        timings: by node id and by the name of the timing.
        metrics: how the names of each timing's metrics begin.
        problems: why there are fewer windows of a test than there should be.
        not_pinned: why a process could not be bound to a core.
        tolerances: by node id and metric, for wall times that are compared by name.
        waivers: of tests' marks, by node id.
    """

    timings: dict[str, dict[str, Times]] = field(default_factory=dict)
    metrics: dict[str, dict[str, str]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    not_pinned: str = ""
    tolerances: dict[str, dict[str, Tolerance]] = field(default_factory=dict)
    waivers: dict[str, list[MarkedWaiver]] = field(default_factory=dict)

    def add(self, facts: Mapping[str, Any]) -> None:
        """Take over what one process has measured."""
        for nodeid, named in facts["timings"].items():
            self.timings[nodeid] = {n: Times.from_dict(data) for n, data in named.items()}
        self.metrics |= facts["metrics"]
        self.problems |= facts["problems"]
        self.not_pinned = self.not_pinned or facts["not_pinned"]
        for nodeid, named in facts["tolerances"].items():
            self.tolerances[nodeid] = {n: Tolerance(*pair) for n, pair in named.items()}
        for nodeid, waivers in facts["waivers"].items():
            self.waivers[nodeid] = [MarkedWaiver.from_dict(data) for data in waivers]


class TimeGate:
    """Compares what was measured with a store of times, and adds to it.

    Attributes:
        lines: what is to be said of it at the end of the session.
        problems: what could not be done.
    """

    def __init__(self, config: pytest.Config, level: Callable[[str, str], Level]) -> None:
        """Prepare to judge.

        Args:
            level: what a metric's breach does in a test, by node id and metric.
        """
        self._config = config
        self._level = level
        self._store = config.rootpath / option(config, "times")
        self._needed: int = option(config, "times_needed")
        self._undecided = Level(option(config, "undecided"))
        self._here: Mapping[str, str] = {}
        self.lines: list[str] = []
        self.problems: list[str] = []

    def settle(
        self, measured: Measured, records: Mapping[str, Record], *, green: bool
    ) -> list[Record]:
        """Judge or store the times; return the records that there are verdicts for.

        Args:
            records: of the tests, by node id.
            green: nothing in the session has failed by itself.
        """
        timings = {n: t for n, t in measured.timings.items() if n in records}
        if not timings:
            return []
        here = self._here = environment() | {"pinned": "no" if measured.not_pinned else "yes"}
        judged: list[Record] = []
        fresh = is_fresh()
        try:
            if wish := option(self._config, "update"):
                self._renew(timings, here, option(self._config, "processes"))
            elif not fresh:
                judged = self._judge(measured, timings, records, read(self._store, here))
            if not wish and option(self._config, "add_times"):
                red = not green or any(r.fails for r in (*records.values(), *judged))
                if fresh or not red:
                    add(self._store, here, timings)
                if not fresh:
                    told = "not added" if red else "added"
                    why = ", since the session is not green" if red else ""
                    self.lines.append(f"times {told} to {option(self._config, 'times')}{why}")
        except StoreError as error:
            self.problems.append(str(error))
        self._tell_of_problems(measured, timings)
        if measured.not_pinned:
            self.lines.append(f"times are noisier than they need to be: {measured.not_pinned}")
        return judged

    def _tell_of_problems(self, measured: Measured, timings: Timings) -> None:
        """Tell early of what will never be judged, not when enough processes are stored."""
        for nodeid in sorted(measured.problems.keys() & timings.keys()):
            self.lines.append(
                f"warning: {nodeid} did not pass when it was run for another window, so that its "
                f"times stay undecided: {measured.problems[nodeid]}"
            )

    def _renew(self, timings: Timings, here: Mapping[str, str], processes: int) -> None:
        """Store the times anew, of as many processes as are asked for."""
        if not processes:
            self.lines.append(
                "stored times are left as they are: --perfguard-processes=N renews them"
            )
            return
        forget(self._store, here, timings.keys())
        add(self._store, here, timings)
        done = 1
        for number in range(2, processes + 1):
            note(self._config, f"measuring times, process {number} of {processes}")
            try:
                run_again(self._config, timings, *_ONLY_MEASURE, f"--perfguard-times={self._store}")
                done += 1
            except FreshProcessError as error:
                self.problems.append(str(error))
                break
        self.lines.append(
            f"times recorded: {several(len(timings), 'test')} in {done} "
            f"process{'' if done == 1 else 'es'}"
            + ("" if done >= self._needed else f", {self._needed} are needed before they judge")
        )

    # -- judging ---------------------------------------------------------------------------

    def _judge(
        self,
        measured: Measured,
        timings: Timings,
        records: Mapping[str, Record],
        stored: Stored,
    ) -> list[Record]:
        found = {
            nodeid: list(self._verdicts(measured, nodeid, named, stored))
            for nodeid, named in timings.items()
        }
        suspects = [n for n, verdicts in found.items() if any(map(_is_suspect, verdicts))]
        if suspects:
            again = self._measure_again(suspects)
            for nodeid in suspects:
                found[nodeid] = list(
                    self._confirmed(measured, nodeid, again, stored, found[nodeid])
                )
        if not stored.processes and stored.others:
            self.lines += [f"warning: times are {other}" for other in stored.others[:1]]
        return [
            self._judged(records[nodeid], verdicts, measured.waivers.get(nodeid, ()))
            for nodeid, verdicts in found.items()
        ]

    def _judged(
        self, record: Record, verdicts: Iterable[Verdict], waivers: Sequence[MarkedWaiver]
    ) -> Record:
        """Return a record with its late verdicts, as the suite's settings and its marks have it."""
        levelled = [
            verdict
            if verdict.status is Status.UNDECIDED
            else replace(verdict, level=self._level(record.nodeid, verdict.metric))
            for verdict in verdicts
        ]
        added = replace(record, verdicts=(*record.verdicts, *levelled))
        return waive(added, waivers, this_day()) if waivers else added

    def _measure_again(self, suspects: Collection[str]) -> Timings:
        """Measure tests in a fresh process; nothing if it gives no result."""
        count = several(len(suspects), "test")
        note(self._config, f"measuring {count} again in a fresh process")
        with tempfile.TemporaryDirectory(prefix="perfguard-") as folder:
            store = Path(folder, "times")
            try:
                run_again(self._config, suspects, *_ONLY_MEASURE, f"--perfguard-times={store}")
                processes = read(store, self._here).processes
            except (FreshProcessError, StoreError) as error:
                self.problems.append(f"times could not be measured again: {error}")
                return {}
        return processes[-1].timings if processes else {}

    def _confirmed(
        self,
        measured: Measured,
        nodeid: str,
        again: Timings,
        stored: Stored,
        first: Iterable[Verdict],
    ) -> Iterator[Verdict]:
        """Yield the verdicts of a test that was measured again: a suspect has to be one twice."""
        verdicts = self._verdicts(measured, nodeid, again.get(nodeid, {}), stored)
        second = {(v.metric, v.span): v for v in verdicts}
        for verdict in first:
            if not _is_suspect(verdict):
                yield verdict
                continue
            other = second.get((verdict.metric, verdict.span))
            if other is None:
                reason = f"{verdict.reason}; a fresh process did not measure it again"
                yield replace(
                    verdict, status=Status.UNDECIDED, level=self._undecided, reason=reason
                )
            elif _is_suspect(other):
                least = min(verdict, other, key=lambda v: (v.value or 0) / (v.limit or 1))
                yield replace(least, reason=f"{least.reason}; a fresh process confirms it")
            else:
                reason = f"{verdict.reason}; not so in a fresh process: {other.reason}"
                yield replace(other, reason=reason)

    def _verdicts(
        self,
        measured: Measured,
        nodeid: str,
        named: Mapping[str, Times],
        stored: Stored,
    ) -> Iterator[Verdict]:
        for name, times in named.items():
            group = measured.metrics[nodeid].get(name, "time")
            known = stored.times(nodeid, name)
            yield self._cpu(f"{group}_cpu", name, times, known, measured.problems.get(nodeid, ""))
            waiting = judge_waiting(
                [one.sample for one in known], times.sample, times.kind, self._needed
            )
            if waiting is not None and waiting.status is not GateStatus.NEW:
                yield self._verdict(
                    f"{group}_waiting", name, waiting.seconds, waiting.limit or 0.0,
                    _STATUS[waiting.status], waiting.text,
                )  # fmt: skip
            yield from self._calls(name, times, known)
            yield from self._wall(group, name, times, known, measured.tolerances.get(nodeid, {}))

    def _cpu(
        self, metric: str, name: str, times: Times, known: Iterable[Times], problem: str
    ) -> Verdict:
        verdict = judge([one.sample for one in known], times.sample, self._needed)
        seconds = math.exp(times.sample.pooled.cpu)
        limit = seconds
        if verdict.ratio is not None and verdict.limit is not None:
            limit = seconds / verdict.ratio * verdict.limit
        status, text = _STATUS[verdict.status], verdict.text
        if problem and status is not Status.NEW:
            status = Status.UNDECIDED
            text = f"{text}; its test did not pass when it was run for another window: {problem}"
        return self._verdict(metric, name, seconds, limit, status, text)

    def _calls(self, name: str, times: Times, known: Iterable[Times]) -> Iterator[Verdict]:
        counts = [one.py_calls for one in known if one.py_calls is not None]
        if times.py_calls is None or len(counts) < FEWEST_PROCESSES:
            return
        worse = times.py_calls > max(counts) * _SLACK_OF_CALLS
        better = times.py_calls < min(counts) / _SLACK_OF_CALLS
        status = Status.REGRESSED if worse else Status.IMPROVED if better else Status.OK
        text = f"{len(counts)} stored processes counted {min(counts):,} to {max(counts):,}"
        yield self._verdict("py_calls", name, times.py_calls, max(counts), status, text)

    def _wall(
        self,
        group: str,
        name: str,
        times: Times,
        known: Collection[Times],
        tolerances: Mapping[str, Tolerance],
    ) -> Iterator[Verdict]:
        """Judge the wall times that a mark names, as it says; nothing else judges them."""
        for metric, tolerance in tolerances.items():
            statistic = metric.partition("_")[2]
            if not metric.startswith(f"{group}_") or statistic not in times.statistics:
                continue
            values = [o.statistics[statistic] for o in known if statistic in o.statistics]
            value = times.statistics[statistic]
            if len(values) < self._needed:
                text = f"new ({len(values)} of {self._needed} processes stored)"
                yield self._verdict(metric, name, value, value, Status.NEW, text)
                continue
            usual = median(values)
            limit = tolerance.limit(METRICS[metric], usual)
            status = Status.REGRESSED if value > limit else Status.OK
            text = f"median of {len(values)} stored processes, with what perf_baseline tolerates"
            yield self._verdict(metric, name, value, limit, status, text)

    def _verdict(
        self, metric: str, span: str, value: float, limit: float, status: Status, reason: str
    ) -> Verdict:
        level = self._undecided if status is Status.UNDECIDED else Level.FAIL
        where = f"stored times, {option(self._config, 'times')}"
        return Verdict(metric, span, value, limit, status, level, where, reason, Rule.TIMES)


def _is_suspect(verdict: Verdict) -> bool:
    return verdict.status is Status.REGRESSED
