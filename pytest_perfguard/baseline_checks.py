"""Compares tests with their baselines while they run, in the process that runs them.

Nothing is written here: that is done by the process that has the reports of all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pytest_perfguard.baseline_files import BaselineFile, file_of, name_of, read
from pytest_perfguard.baselines import Entry, Tolerance, compare, databases, entry_of, pick
from pytest_perfguard.budgets import matches
from pytest_perfguard.errors import BaselineError, LimitError, MetricError, SettingError
from pytest_perfguard.metrics import METRICS, Metric, lookup
from pytest_perfguard.model import Level, Record
from pytest_perfguard.options import option
from pytest_perfguard.stats import STATISTICS
from pytest_perfguard.units import Unit, parse

MODES = ("all", "marked", "off")
_UPDATE = "record it with --perfguard-update, and commit the file"


@dataclass(frozen=True, slots=True)
class ModeRule:
    """A line of ``perfguard_baseline``."""

    pattern: str
    mode: str


def read_modes(lines: Iterable[str]) -> list[ModeRule]:
    """Read the lines of ``perfguard_baseline``: ``MODE`` or ``PATTERN: MODE``.

    Raises:
        SettingError: with every mistake in every line.
    """
    rules, mistakes = [], []
    for line in lines:
        pattern, _, mode = (part.strip() for part in line.rpartition(":"))
        if mode not in MODES:
            mistakes.append(
                f"perfguard_baseline, {line!r}: {mode!r} is none of {', '.join(MODES)}: write "
                "'MODE' or 'PATTERN: MODE'"
            )
        rules.append(ModeRule(pattern or "*", mode))
    if mistakes:
        raise SettingError("\n".join(mistakes))
    return rules


def read_tolerances(
    args: tuple[Any, ...],
    given: Mapping[str, Any],
    where: str,
    mistakes: list[str],
    *,
    times: bool,
) -> dict[str, Tolerance]:
    """Return what a ``perf_baseline`` mark tolerates, by metric.

    Args:
        times: whether times are stored, so that wall times may be named.
    """
    example = 'write perf_baseline, or perf_baseline(sql_rows="10%")'
    if args:
        mistakes.append(f"{where}: takes keywords only: {example}")
    found = {}
    for name, value in given.items():
        try:
            metric = lookup(name)
            if not metric.stored and not (times and is_wall_time(metric)):
                mistakes.append(
                    f"{where}: {name} differs between machines and runs, so that no baseline "
                    "holds it: give it a perf_budget"
                    + (", or store times (perfguard_times)" if is_wall_time(metric) else "")
                )
            found[name] = _tolerance(metric, value)
        except MetricError as error:
            mistakes.append(f"{where}: {error}")
        except LimitError as error:
            mistakes.append(f"{where}: {name}: {error}")
    return found


def is_wall_time(metric: Metric) -> bool:
    """Return whether it is a statistic of the wall times of rounds."""
    group, _, statistic = metric.name.partition("_")
    return group in ("http", "time") and statistic in STATISTICS and statistic != "cpu"


def _tolerance(metric: Metric, value: object) -> Tolerance:
    if isinstance(value, str) and value.rstrip().endswith("%") and metric.unit is not Unit.SHARE:
        return Tolerance(share=parse(value, Unit.SHARE))
    return Tolerance(amount=parse(value, metric.unit))


class Baselines:
    """The baselines of the tests of one process.

    Attributes:
        updating: whether baselines are recorded, not compared.
        switched_off: marked tests whose baselines are switched off by an option.

    Raises:
        SettingError: if an option cannot be read.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._modes = read_modes(option(config, "baseline"))
        self._root = config.rootpath
        self._files: dict[Path, BaselineFile | BaselineError] = {}
        self.updating: bool = bool(option(config, "update"))
        self._new = _new_level(option(config, "new"))
        self._times = bool(option(config, "times"))
        self.switched_off: set[str] = set()
        self._is_wanted = False

    @property
    def has_rules(self) -> bool:
        """Whether tests without a mark may have baselines."""
        return any(rule.mode == "all" for rule in self._modes)

    @property
    def is_used(self) -> bool:
        """Whether any test is compared, or all that are recorded are to be approved."""
        return self._is_wanted or self.updating

    def mode(self, item: pytest.Item) -> str:
        """Return which of :data:`MODES` a test is in; later lines win."""
        mode = "marked"
        for rule in self._modes:
            if matches(rule.pattern, item.nodeid):
                mode = rule.mode
        return mode

    def wanted(self, item: pytest.Item) -> bool:
        """Return whether a test is to be compared with its baseline."""
        mode = self.mode(item)
        marked = item.get_closest_marker("perf_baseline") is not None
        if marked and mode == "off":
            self.switched_off.add(item.nodeid)
        wanted = mode == "all" or (marked and mode == "marked")
        self._is_wanted |= wanted
        return wanted

    def requested(self, item: pytest.Item) -> frozenset[str]:
        """Return what the baseline of a test holds that is only measured on request."""
        try:
            entries = self._file(item).tests.get(name_of(item.nodeid), {})
        except BaselineError:
            return frozenset()
        names = {name for entry in entries.values() for name in entry.metrics}
        return frozenset(name for name in names if METRICS[name].on_request)

    def check(
        self,
        item: pytest.Item,
        record: Record,
        tolerances: Mapping[str, Tolerance],
        level: Callable[[str], Level],
    ) -> Record:
        """Return the record with what comes of comparing it with the test's baseline."""
        path = file_of(item.path)
        record = replace(record, baseline=self._shown(path))
        try:
            file = self._file(item)
        except BaselineError as error:
            return self._refused(record, error.below(self._root))
        test, kind = name_of(item.nodeid), databases(record)
        entries = file.tests.get(test, {})
        held = pick(entries, kind)
        if not entry_of(record) and (held is None or self.updating):
            if item.get_closest_marker("perf_baseline") is not None:
                return self._nothing(record)
            if held is None:
                # One of a whole suite that does nothing that could be counted.
                return replace(record, baseline="")
        if held is None or self.updating:
            return record if self.updating else self._first(record, entries, kind)

        def where(metric: str) -> str:
            stored_as = next((k for k, entry in entries.items() if entry is held), kind)
            line = file.lines.get((test, stored_as, metric))
            return f"baseline, {record.baseline}" + (f":{line}" if line else "")

        verdicts = compare(held, record, tolerances, level, where)
        return replace(record, verdicts=(*record.verdicts, *verdicts))

    def _refused(self, record: Record, problem: str) -> Record:
        return replace(record, errors=(*record.errors, problem))

    def _nothing(self, record: Record) -> Record:
        """Refuse a marked test in which nothing was counted, unless its times are compared."""
        timed = any(span.timing is not None for span in record.span.walk())
        if timed and self._times:
            return replace(record, baseline="")
        remedy = "compare its times (perfguard_times)" if timed else "mend the test"
        return self._refused(
            record,
            "perf_baseline: nothing was observed that a baseline could hold: no SQL, no command to "
            f"a cache, no request: take the mark away, or {remedy}",
        )

    def _first(self, record: Record, entries: Mapping[str, Entry], kind: str) -> Record:
        record = replace(record, is_new=True)
        if self._new is Level.WARN:
            return record
        others = f" for {kind}, only for {', '.join(sorted(entries))}" if entries else ""
        return self._refused(record, f"{record.baseline}: no baseline{others}: {_UPDATE}")

    def _file(self, item: pytest.Item) -> BaselineFile:
        path = file_of(item.path)
        if path not in self._files:
            try:
                self._files[path] = read(path)
            except BaselineError as error:
                self._files[path] = error
        found = self._files[path]
        if isinstance(found, BaselineError):
            raise found
        return found

    def file(self, item: pytest.Item) -> str:
        """Return the name of the file of a test's baseline, below the root where it is there."""
        return self._shown(file_of(item.path))

    def _shown(self, path: Path) -> str:
        below = path.is_relative_to(self._root)
        return (path.relative_to(self._root) if below else path).as_posix()


def _new_level(chosen: str) -> Level:
    """Return what a test without a baseline does: in CI nobody would see a warning."""
    if chosen == "auto":
        in_ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
        return Level.FAIL if in_ci else Level.WARN
    return Level(chosen)
