"""What is known when a session ends: the records of all its processes, and the loose ends."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import pytest

from pytest_perfguard.approval import Approval, find_gone, prune, record_all, tighten_all
from pytest_perfguard.budgets import is_endpoint
from pytest_perfguard.errors import HistoryError, MissingExtraError, RunFileError, SettingError
from pytest_perfguard.explanations import LateProfiles
from pytest_perfguard.github_actions import add_to_summary, commands, is_told
from pytest_perfguard.journal import Journal, lost_sessions
from pytest_perfguard.late_reports import report_late
from pytest_perfguard.model import Level, Record, Run, Status
from pytest_perfguard.options import option
from pytest_perfguard.processes import FreshProcessError, is_fresh, run_again
from pytest_perfguard.reports.formats import render
from pytest_perfguard.reports.plain import public
from pytest_perfguard.reports.terminal import summary
from pytest_perfguard.run_profiles import bounded
from pytest_perfguard.runs import make_run, source, write_report
from pytest_perfguard.time_mode import why_not_compared
from pytest_perfguard.units import several

# The options that name a file to write, each with the format that it gets.
OUTPUTS = {
    "json": "json",
    "html": "html",
    "summary": "markdown",
    "sarif": "sarif",
    "openmetrics": "openmetrics",
}


class Suite:
    """Gathers records and facts; belongs to the process that pytest reports in."""

    def __init__(self) -> None:
        self._started = datetime.now(UTC)
        self._journal: Journal | None = None
        self._lost_sessions: list[str] = []
        self._records: dict[str, Record] = {}
        self._rules: dict[str, int] = {}
        self._waivers: set[str] = set()
        self._broken_waivers: set[str] = set()
        self._written: list[str] = []
        self._run: Run | None = None
        self._tests = 0
        self._lost: list[str] = []
        self._collected: dict[str, dict[str, bool]] = {}
        self._switched_off: set[str] = set()
        self._lost_workers = 0
        # What each process has timed for the comparison with stored times.
        self._timed: list[Mapping[str, Any]] = []
        # What was done to baselines, and what could not be done.
        self._approvals: list[Approval] = []
        self._gone: list[str] = []
        self._profiles: list[Sequence[str]] = []
        self._in_history = True
        self._stacks: dict[str, Sequence[Mapping[str, Any]]] = {}

    @staticmethod
    def check(config: pytest.Config) -> None:
        """Refuse two files of one name: the second would take the place of the first.

        Raises:
            SettingError: if there are any.
        """
        files: dict[str, str] = {}
        for name in OUTPUTS:
            path = option(config, name)
            if path:
                place = os.path.normpath(config.invocation_params.dir / path)
                if place in files:
                    raise SettingError(
                        f"--perfguard-{files[place]} and --perfguard-{name} both name {path}"
                    )
                files[place] = name

    def begin(self, config: pytest.Config) -> None:
        """Look for what killed sessions have left, and leave what tells of this one if it is."""
        if config.getoption("collectonly") or is_fresh():
            return
        artifacts = config.rootpath / option(config, "artifacts")
        self._lost_sessions = lost_sessions(artifacts)
        files = [str(path) for path in (option(config, name) for name in OUTPUTS) if path]
        if files:
            self._journal = Journal(artifacts, self._started, files)
            self._journal.begin()

    def add_record(self, record: Mapping[str, Any]) -> None:
        """Keep the record of a test; a rerun's replaces the one before."""
        self._records[record["nodeid"]] = Record.from_dict(record)
        if self._journal is not None:
            self._journal.note(record["nodeid"])

    def add_profiles(self, profiles: Iterable[Sequence[str]]) -> None:
        """Keep what is to be said of the profiles of tests that have not failed."""
        self._profiles += profiles

    def add_stacks(self, stacks: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Keep the profiles of tests, by node id; a rerun's replace those before."""
        self._stacks.update(stacks)

    def add_facts(self, facts: Mapping[str, Any]) -> None:
        """Keep what one process knows of the suite; every worker collects all of it."""
        for line, tests in facts["rules"].items():
            self._rules[line] = max(tests, self._rules.get(line, 0))
        self._waivers.update(facts["waivers"])
        self._broken_waivers.update(facts["broken_waivers"])
        for file, tests in facts["collected"].items():
            self._collected.setdefault(file, {}).update(tests)
        self._switched_off.update(facts["switched_off"])
        self._tests = max(self._tests, facts["tests"])
        if facts.get("times"):
            self._timed.append(facts["times"])

    def add_lost_worker(self) -> None:
        """Note that a process ended before it had reported."""
        self._lost_workers += 1

    def add_lost_test(self, nodeid: str) -> None:
        """Note that a process ended while it ran a test."""
        self._lost.append(nodeid)

    def judge_times(
        self,
        session: pytest.Session,
        own: Mapping[str, Any],
        level: Callable[[str, str], Level],
    ) -> None:
        """Compare times with stored ones; what fails by them is a report of its own.

        Args:
            own: what this process has timed itself; its workers have told before.
            level: what a metric's breach does in a test, by node id and metric.
        """
        from pytest_perfguard.time_gate import Measured, TimeGate  # noqa: PLC0415 - rarely needed

        config = session.config
        measured = Measured()
        for timed in [*self._timed, own]:
            if timed:
                measured.add(timed)
        if reason := why_not_compared(config):
            self._approvals.append(Approval([f"warning: {reason}"]))
        gate, late_ones = TimeGate(config, level), dict[str, Record]()
        known = dict(self._records)
        for record in gate.settle(measured, known, green=not session.testsfailed):
            late = record.fails and not known[record.nodeid].fails
            self._records[record.nodeid] = replace(record, outcome="failed") if late else record
            if late:
                late_ones[record.nodeid] = record
        profiles = LateProfiles(config, self._profiles)
        self.add_stacks(profiles.make(late_ones))
        self._profiles = [p for p in self._profiles if p[0].removesuffix(":") not in late_ones]
        told = [(record, profiles.lines(record, record.breaches)) for record in late_ones.values()]
        report_late(config, told)
        self._approvals.append(Approval(gate.lines, gate.problems))
        terminal = config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None and late_ones:
            # Otherwise pytest's last line would count them twice.
            passed = terminal.stats.get("passed", [])
            passed[:] = [report for report in passed if report.nodeid not in late_ones]

    def settle(self, config: pytest.Config, session: pytest.Session) -> bool:
        """Record or tighten baselines, and look for those of tests that are gone.

        Returns:
            Whether all that was asked for could be done.
        """
        if not self._collected or config.getoption("collectonly"):
            return not any(approval.problems for approval in self._approvals)
        root, records = config.rootpath, self.records()
        if wish := option(config, "update"):
            again = self._again(config, records) if wish == "verify" else None
            self._approvals.append(record_all(root, records, again))
        elif option(config, "ratchet"):
            self._approvals.append(tighten_all(root, records))
        reasons = self._partial(config, session)
        gone = [] if reasons else find_gone(config, self._collected, records)
        if session.testsfailed:
            reasons.append("a test failed")
        if gone and wish and not reasons:
            self._approvals.append(prune(root, gone))
        else:
            self._gone = [entry.told(root) for entry in gone]
            if wish and reasons and (gone or not session.testsfailed):
                kept = f"baselines of tests that are gone are kept: {', '.join(reasons)}"
                self._approvals.append(Approval([f"{kept} (perfguard prune removes them)"]))
        return not any(approval.problems for approval in self._approvals)

    def _again(self, config: pytest.Config, records: Iterable[Record]) -> dict[str, Record]:
        """Measure the tests that are recorded once more, in a fresh process."""
        tests = [r.nodeid for r in records if r.baseline and r.outcome == "passed"]
        if not tests:
            return {}
        try:
            run = run_again(config, tests, "--perfguard-baseline=off")
        except FreshProcessError as error:
            self._approvals.append(Approval(problems=[str(error)]))
            return {}
        return {record.nodeid: record for record in run.records if record.outcome == "passed"}

    def _partial(self, config: pytest.Config, session: pytest.Session) -> list[str]:
        """Return why the session cannot tell which tests there are."""
        reasons = selections(config)
        if session.exitstatus == pytest.ExitCode.INTERRUPTED:
            reasons.append("the run was interrupted")
        if session.shouldstop or session.shouldfail:
            reasons.append(f"{session.shouldstop or session.shouldfail}")
        if self._lost_workers:
            reasons.append("a worker was lost")
        return reasons

    def records(self) -> list[Record]:
        """Return what was measured so far."""
        return list(self._records.values())

    def close(self, session: pytest.Session, terminal: pytest.TerminalReporter | None) -> None:
        """Put together what there is to say of the session; nothing is added after that."""
        config = session.config
        records = self.records()
        interrupted = session.exitstatus == pytest.ExitCode.INTERRUPTED
        notices = ["warning: the session was interrupted"] if interrupted else []
        notices += self._notices(records, whole=terminal is not None and is_whole(config, terminal))
        for approval in self._approvals:
            notices += approval.lines
            notices += [f"warning: {problem}" for problem in approval.problems]
        asked = is_told(config) or any(option(config, name) for name in (*OUTPUTS, "history"))
        stacks, left_out = bounded(self._stacks)
        if left_out and asked:
            folder = config.rootpath / option(config, "artifacts") / "profiles"
            notices.append(
                f"the run has no room for the profiles of {several(left_out, 'test')}: they are "
                f"in {folder} only"
            )
        self._run = make_run(
            records,
            source=source(config.rootpath, self._started) if asked else {},
            tests=self._tests,
            notices=tuple(notices),
            lost=tuple(sorted(self._lost)),
            profiles=stacks,
        )
        if option(config, "history") and not is_fresh() and not config.getoption("collectonly"):
            self._add_to_history(config, self._run)

    def _add_to_history(self, config: pytest.Config, run: Run) -> None:
        """Add the run to the history, and to the run what the history tells of it."""
        from pytest_perfguard.trends import keep  # noqa: PLC0415 - rarely needed

        try:
            lines, notices, trends = keep(
                run,
                option(config, "history"),
                root=config.rootpath,
                days=option(config, "history_keep"),
                top=option(config, "top"),
            )
        except (HistoryError, MissingExtraError) as error:
            self._written.append(f"warning: {error}")
            self._in_history = False
        else:
            self._written += lines
            self._run = replace(run, notices=(*run.notices, *notices), trends=trends)

    def write(self, config: pytest.Config) -> bool:
        """Write the files that were asked for; the report tells where each is, or why not.

        Returns:
            Whether all of them were written, and the run was added to the history.
        """
        asked = {name: option(config, name) for name in OUTPUTS}
        if is_fresh():
            # The session that started this process reports.
            asked = {"json": asked["json"]}
        complete = self._in_history
        for name, path in asked.items():
            if not path:
                continue
            try:
                text = render(self._public, OUTPUTS[name])
                write_report(text, config.invocation_params.dir / path)
            except (RunFileError, MissingExtraError) as error:
                self._written.append(f"warning: {error}")
                complete = False
            else:
                what = "records" if name == "json" else "report"
                place = os.path.normpath(config.invocation_params.dir / path)
                self._written.append(f"{what} written to {place}")
        if self._speaks(config) and is_told(config):
            self._written += filter(None, [add_to_summary(self._public)])
        if self._journal is not None:
            self._journal.end()
        return complete

    def _speaks(self, config: pytest.Config) -> bool:
        """Return whether there is anything to be said of the session."""
        run, asked = self._finished(), bool(option(config, ""))
        said = run.notices or asked or self._written or self._profiles or self._approvals
        return bool(run.records or said) and not config.getoption("collectonly")

    @cached_property
    def _public(self) -> Run:
        """The run as it may stand in files; it does not change once the session is closed."""
        return public(self._finished())

    def _finished(self) -> Run:
        if self._run is None:
            raise RuntimeError("the session has not ended yet")
        return self._run

    def report(self, config: pytest.Config, terminal: pytest.TerminalReporter) -> None:
        """Write the summary in pytest's own style."""
        run = self._finished()
        full = bool(option(config, ""))
        if not self._speaks(config):
            return
        lines = summary(
            run,
            top=option(config, "top"),
            full=full,
            width=terminal._tw.fullwidth,
            verbosity=config.get_verbosity(),
        )
        lines += [*self._told_of_profiles(config), *self._written]
        warned = any(line.startswith("warning:") for line in lines)
        colour = "red" if run.fails else "yellow" if warned else "green"
        terminal.write_sep("=", "perfguard", **{colour: True})
        for line in lines:
            # Titles of lists stand out as pytest's own do.
            title = line.endswith(":") and not line.startswith(" ")
            markup = {"yellow": True} if line.startswith("warning:") else {"bold": title}
            terminal.write_line(line, **markup)
        for command in commands(self._public) if is_told(config) else ():
            terminal.write_line(command)

    def _told_of_profiles(self, config: pytest.Config) -> list[str]:
        top = option(config, "top")
        lines = [line for profile in self._profiles[:top] for line in profile]
        more = len(self._profiles) - top
        if more > 0:
            folder = config.rootpath / option(config, "artifacts") / "profiles"
            lines.append(f"{more} {'more ' if top else ''}profile{'s' * (more > 1)} in {folder}")
        return lines

    def _notices(self, records: Sequence[Record], *, whole: bool) -> list[str]:
        notices = [f"warning: {line}" for line in self._lost_sessions]
        notices += [
            f"warning: the process that ran {nodeid} died: nothing of that test was recorded"
            for nodeid in sorted(self._lost)
        ]
        told = {error for record in records for error in record.errors}
        notices += [f"warning: {waiver}" for waiver in sorted(self._broken_waivers - told)]
        used = {key for record in records for key, covered in record.waivers.items() if covered}
        passed = {key for record in records for key in record.waivers}
        # A part of the suite cannot tell that a waiver is not needed, unless its line was run.
        stale = (self._waivers | passed if whole else passed) - used
        notices += [
            f"warning: waiver for {key.rpartition(' ')[2]} at {key.rpartition(' ')[0]} covers "
            "nothing any more: remove it"
            for key in sorted(stale)
        ]
        notices += [f"warning: baseline: {line}" for line in self._gone]
        if self._switched_off:
            marked = several(len(self._switched_off), "marked test")
            notices.append(f"warning: baselines are switched off for {marked} (perfguard_baseline)")
        return notices + (self._idle_rules(records) if whole else [])

    def _idle_rules(self, records: Iterable[Record]) -> list[str]:
        judged: dict[str, dict[str, set[Status]]] = {}
        for record in records:
            for verdict in record.verdicts:
                statuses = judged.setdefault(verdict.where, {}).setdefault(verdict.metric, set())
                statuses.add(verdict.status)
        notices = []
        for line, tests in self._rules.items():
            if not tests:
                what = "request" if is_endpoint(line) else "test"
                notices.append(f"warning: perfguard_budgets, {line!r}: matches no {what}")
                continue
            metrics = judged.get(f"perfguard_budgets, {line!r}", {})
            idle = [name for name, found in metrics.items() if found == {Status.UNPROVEN}]
            if idle:
                # One limit that is kept says nothing of the others.
                part = len(idle) < len(metrics)
                notices.append(
                    f"warning: perfguard_budgets, {line!r}: "
                    f"{f'the limit on {_and(idle)} ' if part else ''}proves nothing, since nothing "
                    f"was observed {'for it ' if part else ''}in any of the "
                    f"{'requests' if is_endpoint(line) else 'tests'} that it covers ({tests})"
                )
        return notices


def _and(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def selections(config: pytest.Config) -> list[str]:
    """Return what keeps tests from being found or run, as it is written on the command line."""
    flags = [flag for name, flag in _SELECTING.items() if config.getoption(name, None)]
    return [*flags, *(["single tests were named"] if names_tests(config) else [])]


def names_tests(config: pytest.Config) -> bool:
    """Return whether single tests were asked for, not files and folders."""
    return any("::" in argument for argument in config.args)


_SELECTING = {
    "keyword": "-k",
    "markexpr": "-m",
    "lf": "--lf",
    "stepwise": "--stepwise",
    "deselect": "--deselect",
    "ignore": "--ignore",
    "ignore_glob": "--ignore-glob",
    "setuponly": "--setup-only",
    "setupplan": "--setup-plan",
}
# These run all tests, but a run that is cut short has not seen those that come last.
_ORDERING = ("failedfirst", "newfirst")


def is_whole(config: pytest.Config, terminal: pytest.TerminalReporter) -> bool:
    """Return whether the session ran the whole suite: nothing selected, left out or cut short."""
    return not (
        config.args_source is config.ArgsSource.ARGS
        # Under xdist the workers select, and do not say so: the options do.
        or any(config.getoption(name, None) for name in (*_SELECTING, *_ORDERING))
        or terminal.stats.get("deselected")
        or getattr(terminal._session, "shouldstop", False)
        or getattr(terminal._session, "shouldfail", False)
    )
