"""What is known when a session ends: the records of all its processes, and the loose ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_perfguard.budgets import is_endpoint
from pytest_perfguard.errors import RunFileError
from pytest_perfguard.model import Record, Run, Status
from pytest_perfguard.options import option
from pytest_perfguard.reports.terminal import summary
from pytest_perfguard.runs import make_run, write_run


class Suite:
    """Gathers records and facts; belongs to the process that pytest reports in."""

    def __init__(self) -> None:
        self._records: dict[str, Mapping[str, Any]] = {}
        self._rules: dict[str, int] = {}
        self._waivers: set[str] = set()
        self._broken_waivers: set[str] = set()
        self._written = ""
        self._profiles: list[Sequence[str]] = []

    def add_record(self, record: Mapping[str, Any]) -> None:
        """Keep the record of a test; a rerun's replaces the one before."""
        self._records[record["nodeid"]] = record

    def add_profiles(self, profiles: Iterable[Sequence[str]]) -> None:
        """Keep what is to be said of the profiles of tests that have not failed."""
        self._profiles += profiles

    def add_facts(self, facts: Mapping[str, Any]) -> None:
        """Keep what one process knows of the suite; every worker collects all of it."""
        for line, tests in facts["rules"].items():
            self._rules[line] = max(tests, self._rules.get(line, 0))
        self._waivers.update(facts["waivers"])
        self._broken_waivers.update(facts["broken_waivers"])

    def run(self) -> Run:
        """Return all records as a run."""
        return make_run(Record.from_dict(record) for record in self._records.values())

    def write(self, path: Path) -> bool:
        """Write ``run.json``; the report tells where, or why not.

        Returns:
            Whether it was written.
        """
        try:
            write_run(self.run(), path)
        except RunFileError as error:
            self._written = f"warning: {error}"
            return False
        self._written = f"records written to {path}"
        return True

    def report(self, config: pytest.Config, terminal: pytest.TerminalReporter) -> None:
        """Write the summary in pytest's own style."""
        run = self.run()
        full = bool(option(config, ""))
        notices = self._notices(run, whole=is_whole(config, terminal))
        told = notices or full or self._written or self._profiles
        if not (run.records or told) or config.getoption("collectonly"):
            return
        lines = summary(
            run,
            top=option(config, "top"),
            full=full,
            notices=notices,
            width=terminal._tw.fullwidth,
        )
        lines += self._told_of_profiles(config)
        if self._written:
            lines.append(self._written)
        terminal.write_sep("=", "perfguard")
        for line in lines:
            markup = {"yellow": True} if line.startswith("warning:") else {}
            terminal.write_line(line, **markup)

    def _told_of_profiles(self, config: pytest.Config) -> list[str]:
        top = option(config, "top")
        lines = [line for profile in self._profiles[:top] for line in profile]
        more = len(self._profiles) - top
        if more > 0:
            folder = config.rootpath / option(config, "artifacts") / "profiles"
            lines.append(f"{more} {'more ' if top else ''}profile{'s' * (more > 1)} in {folder}")
        return lines

    def _notices(self, run: Run, *, whole: bool) -> list[str]:
        notices: list[str] = []
        told = {error for record in run.records for error in record.errors}
        notices += [f"warning: {waiver}" for waiver in sorted(self._broken_waivers - told)]
        used = {key for record in run.records for key, covered in record.waivers.items() if covered}
        passed = {key for record in run.records for key in record.waivers}
        # A part of the suite cannot tell that a waiver is not needed, unless its line was run.
        stale = (self._waivers if whole else passed) - used
        notices += [
            f"warning: waiver for {key.rpartition(' ')[2]} at {key.rpartition(' ')[0]} covers "
            "nothing any more: remove it"
            for key in sorted(stale)
        ]
        return notices + (self._idle_rules(run) if whole else [])

    def _idle_rules(self, run: Run) -> list[str]:
        judged: dict[str, set[Status]] = {}
        for record in run.records:
            for verdict in record.verdicts:
                judged.setdefault(verdict.where, set()).add(verdict.status)
        notices = []
        for line, tests in self._rules.items():
            if not tests:
                what = "request" if is_endpoint(line) else "test"
                notices.append(f"warning: perfguard_budgets, {line!r}: matches no {what}")
            elif judged.get(f"perfguard_budgets, {line!r}") == {Status.UNPROVEN}:
                notices.append(
                    f"warning: perfguard_budgets, {line!r}: proves nothing, since nothing was "
                    f"observed in any of the {'requests' if is_endpoint(line) else 'tests'} that "
                    f"it covers ({tests})"
                )
        return notices


_SELECTING = ("keyword", "markexpr", "lf", "failedfirst", "newfirst", "stepwise", "deselect")


def is_whole(config: pytest.Config, terminal: pytest.TerminalReporter) -> bool:
    """Return whether the session ran the whole suite: nothing selected, left out or cut short."""
    return not (
        config.args_source is config.ArgsSource.ARGS
        # Under xdist the workers select, and do not say so: the options do.
        or any(config.getoption(name, None) for name in _SELECTING)
        or terminal.stats.get("deselected")
        or getattr(terminal._session, "shouldstop", False)
        or getattr(terminal._session, "shouldfail", False)
    )
