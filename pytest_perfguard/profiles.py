"""Runs tests once more under a profiler; loaded when a profile is asked for.

The run that counts or times is never the one that is profiled. A test that is to be explained is
run again once its report has been made: its fixtures are torn down and set up again, its rounds
are few, and nothing of that pass is reported but the profile. Where running it again so is not
safe, its function alone is called again, with the fixtures that it had.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import partial, wraps
from inspect import iscoroutinefunction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.unittest import TestCaseFunction

from pytest_perfguard.artifacts import write_profile
from pytest_perfguard.baseline_profiles import keep, kept_profiles
from pytest_perfguard.benchmark_fixture import is_benchmark
from pytest_perfguard.breaches import BudgetFailure
from pytest_perfguard.errors import ProfileFileError, SettingError
from pytest_perfguard.explanations import compared, directory_of, explained, shown_path
from pytest_perfguard.guard import PLAN, Guard, Plan, count_marks
from pytest_perfguard.metrics import METRICS
from pytest_perfguard.model import Level, Status, Verdict
from pytest_perfguard.options import option
from pytest_perfguard.probes.profiling import Capture
from pytest_perfguard.reports.profile import main_of
from pytest_perfguard.run_profiles import keepable
from pytest_perfguard.session_windows import VISIT
from pytest_perfguard.stacks import Profile
from pytest_perfguard.units import Unit, show, shown

if TYPE_CHECKING:
    from _pytest.outcomes import Exit as _Exit
else:
    _Exit = pytest.exit.Exception

_WHEN = ("marked", "never", "failed", "slow", "all")
_SLOWEST = 5
# Of one test; a suite that sends a request to every endpoint it has in one test wants the longest.
_MAX_PROFILES = 20
_MAX_ERROR = 200
_ASKED = pytest.StashKey[bool]()
_TOLD = pytest.StashKey[list[list[str]]]()


@dataclass(frozen=True, slots=True)
class When:
    """Which tests get a profile: a word of :data:`_WHEN`, and how many if it is ``slow``."""

    word: str
    number: int = 0

    @classmethod
    def read(cls, text: str) -> When:
        """Read the option.

        Raises:
            SettingError: if it is none of its values.
        """
        word, colon, number = text.partition(":")
        if word not in _WHEN or (colon and word != "slow"):
            raise SettingError(
                f"perfguard_profile = {text!r}: one of {', '.join(_WHEN)}, or slow:N"
            )
        if colon and not (number.isascii() and number.isdecimal() and int(number)):
            raise SettingError(
                f"perfguard_profile = {text!r}: N is a number of tests, as in slow:5"
            )
        return cls(word, int(number) if colon else _SLOWEST)


@dataclass(slots=True)
class _Pass:
    """One more run of a test.

    Attributes:
        started: whether the test itself began.
        remarks: what a reader should know of how it went.
    """

    item: pytest.Function
    capture: Capture
    started: bool = False
    remarks: list[str] = field(default_factory=list)


class Profiles:
    """Profiles tests of one process.

    Raises:
        SettingError: if the option cannot be read.
        MissingExtraError: if pyinstrument is not installed; when this module is imported.
    """

    def __init__(self, config: pytest.Config, guard: Guard) -> None:
        self._when = When.read(option(config, "profile"))
        self._config = config
        if not option(config, "artifacts").strip():
            raise SettingError("perfguard_artifacts is empty: name a folder, such as .perfguard")
        # Asked for by both options together: the times in it are those of one day.
        asked = config.getoption("perfguard_profile") is not None
        self._kept: bool = asked and bool(option(config, "update"))
        self._guard = guard
        self._pass: _Pass | None = None
        self._times: dict[pytest.Function, float] = {}
        # Errors of fixtures that were torn down before their time, for when it has come.
        self._torn: dict[pytest.Item, BaseException] = {}
        # What the run is to keep, by node id, until the next report takes it along.
        self._stacks: dict[str, list[dict[str, Any]]] = {}

    def asked(self, item: pytest.Item) -> None:
        """Note that a running test has a block to profile."""
        item.stash[_ASKED] = True

    # -- the run that is reported ----------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Refuse a mark that cannot be read; in a pass, profile the function of the test."""
        _fresh(item)
        if self._pass is None or self._pass.item is not item:
            return (yield)
        with self._wrapped(self._pass):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Explain a test by a profile before its report is seen, if it is one to explain."""
        report = yield
        if report.when == "teardown" and (told := item.stash.get(_TOLD, None)):
            report.perfguard_profiles = told  # type: ignore[attr-defined] # extra data is kept
            self._hand_over_stacks(report)
        windows = self._guard.windows
        returns = windows is not None and windows.is_return(item)
        if self._pass is not None or report.when != "call" or returns:
            return report
        verdicts = _red(item, call)
        wanted = self._wanted(item, verdicts)
        if hasattr(report, "wasxfail") or report.skipped or not isinstance(item, pytest.Function):
            return report
        if report.failed and not _is_budget(call):
            if _asks(item):
                _add(report, ["no profile: the test itself fails"])
            return report
        if wanted:
            try:
                _add(report, self._explain(item, verdicts, failed=report.failed))
                self._hand_over_stacks(report)
            except (KeyboardInterrupt, _Exit):
                # What had been found out before is not lost with the pass.
                item.ihook.pytest_runtest_logreport(report=report)
                raise
        elif self._when.word == "slow":
            self._times[item] = call.duration
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        """Profile the slowest tests before the last one takes down what all tests share."""
        if self._pass is None and nextitem is None and self._times:
            self._explain_slowest(item)
        result = yield
        if self._pass is None and item in self._torn:
            raise self._torn.pop(item)
        return result

    def _hand_over_stacks(self, report: pytest.TestReport) -> None:
        if self._stacks:
            report.perfguard_stacks = self._stacks  # type: ignore[attr-defined] # extra data is kept
            self._stacks = {}

    def _wanted(self, item: pytest.Item, verdicts: list[Verdict]) -> bool:
        match self._when.word:
            case "all":
                return PLAN in item.stash
            case "failed" if verdicts:
                return True
        return _asks(item)

    # -- the pass --------------------------------------------------------------------------

    def _explain(
        self, item: pytest.Function, verdicts: list[Verdict], *, failed: bool
    ) -> list[str]:
        """Run a test again and return what is to be said of it."""
        why = _unsafe(item)
        run = _Pass(item, Capture(self._guard.recorder))
        if why:
            run.remarks.append(f"the function of the test alone was run again: {why}")
        with self._passing(run):
            if why:
                self._call_alone(run)
            elif self._tear_down(run):
                self._run_again(run, item.parent)
        return self._told(run, verdicts, failed=failed)

    def _explain_slowest(self, last: pytest.Item) -> None:
        """Profile the slowest tests of this process; the report of the last one carries it."""
        if last.session.shouldfail or last.session.shouldstop:
            return
        ranked = sorted(self._times, key=lambda item: -self._times[item])[: self._when.number]
        durations, self._times = self._times, {}
        told = []
        before = _Saved(last)
        failed = _attempt(
            lambda: last.ihook.pytest_runtest_teardown(item=last, nextitem=last.parent), "teardown"
        )
        before.restore()
        if failed is not None:
            self._torn[last] = failed
        for item in ranked:
            run = _Pass(item, Capture(self._guard.recorder))
            if why := _unsafe(item):
                run.remarks.append(f"it was not run again: {why}")
            else:
                failed = _attempt(
                    partial(last.session._setupstate.teardown_exact, item), "teardown"
                )
                if failed is not None:
                    self._torn.setdefault(last, failed)
                with self._passing(run):
                    self._run_again(run, item.parent)
            seconds = show(durations[item], Unit.SECONDS)
            told.append([f"{item.nodeid}, {seconds}:", *self._told(run)])
        last.stash[_TOLD] = told

    def _run_again(self, run: _Pass, around: Any) -> None:
        """Set up a test, run it and tear it down, all for the profile alone."""
        item, hook = run.item, run.item.ihook
        item._initrequest()
        failed = _phase(item, "setup", lambda: hook.pytest_runtest_setup(item=item))
        if failed is None:
            benchmark: Any = item.funcargs.get("benchmark")
            if is_benchmark(benchmark):
                # It may be called, and would otherwise add this run to its table.
                benchmark.disabled = True
            failed = _phase(item, "call", lambda: hook.pytest_runtest_call(item=item))
        if failed is not None:
            run.remarks.append(_ended(failed, started=run.started))
        failed = _phase(
            item, "teardown", lambda: hook.pytest_runtest_teardown(item=item, nextitem=around)
        )
        if failed is not None:
            run.remarks.append(f"its fixtures could not be torn down again: {_error(failed)}")

    def _tear_down(self, run: _Pass) -> bool:
        """Tear down the fixtures of a test whose time has not come yet, so that new ones are made.

        Returns:
            Whether that was without an error; where it was not, it is the test's, later.
        """
        item = run.item
        failed = _attempt(
            lambda: item.ihook.pytest_runtest_teardown(item=item, nextitem=item.parent), "teardown"
        )
        if failed is not None:
            self._torn[item] = failed
            run.remarks.append("no profile: its fixtures could not be torn down for one more run")
        return failed is None

    def _call_alone(self, run: _Pass) -> None:
        item = run.item
        recorder = self._guard.recorder
        self._guard.begin(item, item.stash[PLAN])
        root = item.stash[PLAN].root
        assert root is not None
        try:
            with self._wrapped(run):
                failed = _attempt(item.runtest, "call")
        finally:
            if not root.closed:
                recorder.close(root)
        if isinstance(item, TestCaseFunction):
            # unittest tells pytest of errors by this list.
            errors, item._excinfo = item._excinfo, None
            failed = failed or (errors[0].value if errors else None)
        if failed is not None:
            run.remarks.append(_ended(failed, started=run.started))

    @contextmanager
    def _passing(self, run: _Pass) -> Iterator[None]:
        """Keep the reported run as it was, whatever the pass does."""
        saved = _Saved(run.item)
        plan = run.item.stash.get(PLAN, None)
        run.item.stash[PLAN] = Plan(marks=plan.marks if plan else count_marks(run.item))
        if VISIT in run.item.stash:
            # What has been taken of its times would be forgotten when it is set up again.
            del run.item.stash[VISIT]
        self._pass = run
        self._guard.profiling = True
        try:
            with warnings.catch_warnings(record=True), run.capture:
                yield
        finally:
            self._guard.profiling = False
            self._pass = None
            self._guard.recorder.abandon()
            saved.restore()

    @contextmanager
    def _wrapped(self, run: _Pass) -> Iterator[None]:
        """Let the function of a test be profiled, rather than what calls it."""
        item = run.item
        original = function = item.obj
        recorder, capture = self._guard.recorder, run.capture
        if isinstance(item, TestCaseFunction):
            # The guard has put a measuring one into its place.
            function = getattr(function, "__wrapped__", function)

        @wraps(function)
        def profiled(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            run.started = True
            with capture.inside(recorder.innermost()):
                return function(*args, **kwargs)

        @wraps(function)
        async def profiled_async(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            run.started = True
            with capture.inside(recorder.innermost()):
                return await function(*args, **kwargs)

        wrapper = profiled_async if iscoroutinefunction(function) else profiled
        item.obj = wrapper
        if isinstance(item, TestCaseFunction):
            setattr(item.instance, item.name, wrapper)
        try:
            yield
        finally:
            item.obj = original

    # -- what came of it -------------------------------------------------------------------

    def _told(
        self, run: _Pass, verdicts: Sequence[Verdict] = (), *, failed: bool = False
    ) -> list[str]:
        """Write the profiles of a pass and return what is to be said of the one that matters."""
        captured = [each for each in run.capture.profiles() if each.records][:_MAX_PROFILES]
        lines = []
        if captured:
            profiles = [each.profile for each in captured]
            main = main_of(profiles, verdicts)
            self._stacks[run.item.nodeid] = keepable(profiles, main)
            folder = directory_of(self._config, run.item.nodeid)
            files: dict[str, Path] = {}
            problems: list[str] = []
            for each in captured:
                written = write_profile(folder, each)
                files = written.files if each.profile is main else files
                problems += written.problems
            # If the folder cannot be written to, none of the files can.
            run.remarks += problems[:1]
            lines = explained(self._config, main, files)
            if failed:
                item = run.item
                svg = files.get("svg")
                lines += compared(self._config, item.path, item.nodeid, main, svg)
            if self._kept and not failed:
                run.remarks += self._keep(run.item, profiles)
        elif not run.remarks:
            run.remarks.append("no profile: the test took too little time to be seen")
        return [*lines, *(f"    {remark}" for remark in dict.fromkeys(run.remarks))]

    def _keep(self, item: pytest.Item, profiles: list[Profile]) -> list[str]:
        folder = kept_profiles(item.path, item.nodeid)
        try:
            keep(folder, profiles)
        except ProfileFileError as error:
            return [f"no baseline profile: {error}"]
        return [f"baseline profile: {shown_path(self._config, folder)}"]


class _Saved:
    """What a pass would change of a test, as it was."""

    def __init__(self, item: pytest.Item) -> None:
        self._item = item
        self._stash = dict(item.stash._storage)
        # Of a unittest method the guard holds the plan itself.
        self._plan = copy(item.stash.get(PLAN, None))
        self._sections = list(item._report_sections)
        self._properties = list(item.user_properties)
        self._attributes = {
            name: value
            for name, value in vars(item).items()
            if name in ("_request", "funcargs", "_obj", "_instance")
        }

    def restore(self) -> None:
        """Put it back."""
        item = self._item
        item.stash._storage.clear()
        item.stash._storage.update(self._stash)
        if self._plan is not None:
            item.stash[PLAN] = self._plan
        item._report_sections[:] = self._sections
        item.user_properties[:] = self._properties
        vars(item).update(self._attributes)


def _attempt(call: Callable[[], object], when: Any) -> BaseException | None:
    """Return what a call raises, unless it is meant to end the session."""
    info = pytest.CallInfo.from_call(call, when=when, reraise=(KeyboardInterrupt, _Exit))
    return info.excinfo.value if info.excinfo is not None else None


def _phase(item: pytest.Item, when: Any, call: Callable[[], object]) -> BaseException | None:
    """Run one phase of a pass as pytest runs it, short of letting anybody see the report.

    Fixtures, such as ``tmp_path``, look at how the phases before went.
    """
    info = pytest.CallInfo.from_call(call, when=when, reraise=(KeyboardInterrupt, _Exit))
    broken = _attempt(lambda: item.ihook.pytest_runtest_makereport(item=item, call=info), when)
    return info.excinfo.value if info.excinfo is not None else broken


def _ended(error: BaseException, *, started: bool) -> str:
    if not started:
        return f"no profile: it could not be set up for one more run: {_error(error)}"
    if isinstance(error, BudgetFailure):
        return "the profiled pass kept no budget either"
    return f"the profiled pass ended early, with {_error(error)}"


def _error(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= _MAX_ERROR else f"{text[: _MAX_ERROR - 1]}…"


def _fresh(item: pytest.Item) -> bool:
    """Return whether a test may be set up once more, by its mark."""
    fresh = True
    for mark in item.iter_markers("perf_profile"):
        fresh &= bool(mark.kwargs.get("rerun", True))
        unknown = [*mark.args, *(name for name in mark.kwargs if name != "rerun")]
        if unknown:
            given = ", ".join(map(shown, unknown))
            pytest.fail(
                f"perfguard: perf_profile takes nothing but rerun=False, not {given}",
                pytrace=False,
            )
    return fresh


def _asks(item: pytest.Item) -> bool:
    return item.get_closest_marker("perf_profile") is not None or _ASKED in item.stash


def _unsafe(item: pytest.Item) -> str:
    """Return why a test is not to be set up once more, if there is a reason."""
    if not _fresh(item):
        return "perf_profile(rerun=False)"
    if isinstance(item, TestCaseFunction):
        return "it is a method of a unittest.TestCase"
    if hasattr(item, "execution_count") or item.get_closest_marker("flaky") is not None:
        return "another plugin reruns it"
    if item.config.getoption("usepdb", False):
        return "the debugger is to see its fixtures"
    return ""


def _is_budget(call: pytest.CallInfo[None]) -> bool:
    return call.excinfo is not None and isinstance(call.excinfo.value, BudgetFailure)


def _red(item: pytest.Item, call: pytest.CallInfo[None]) -> list[Verdict]:
    """Return the breaches of a failed test that more time or CPU than allowed has caused."""
    plan = item.stash.get(PLAN, None)
    if plan is None or plan.record is None or not _is_budget(call):
        return []
    return [
        verdict
        for verdict in plan.record.breaches
        if verdict.level is Level.FAIL
        and verdict.status is not Status.UNPROVEN
        and (METRICS[verdict.metric].unit is Unit.SECONDS or verdict.metric.startswith("cpu_"))
    ]


def _add(report: pytest.TestReport, lines: list[str]) -> None:
    """Tell of a profile: in the text of a failure, and at the end of the session otherwise."""
    if not lines:
        return
    entries = getattr(getattr(report.longrepr, "reprtraceback", None), "reprentries", None)
    if report.failed and entries:
        entries[-1].lines += lines
    elif report.failed:
        report.sections.append(("perfguard", "\n".join(lines)))
    else:
        report.perfguard_profiles = [[f"{report.nodeid}:", *lines]]  # type: ignore[attr-defined]
