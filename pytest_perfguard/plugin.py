"""pytest's hooks.

Every pytest with the plugin installed loads this module, so it imports nothing that a session
without a measured test would not need; the rest is imported in the hook that finds it needed.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from pytest_perfguard.errors import PerfguardError, ServiceError, ServiceMissingError
from pytest_perfguard.options import (
    add_options,
    is_asked_for,
    option,
    refuse_unread_table,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager

    from pytest_perfguard.fixtures import Perf
    from pytest_perfguard.guard import Guard
    from pytest_perfguard.profiles import Profiles
    from pytest_perfguard.scale_marks import ScaleMarks
    from pytest_perfguard.services import Service
    from pytest_perfguard.suite import Suite

_MARKERS = (
    "perf_budget(METRIC=LIMIT, ...): fail the test if it costs more; see 'perfguard explain'.",
    "perf_baseline(METRIC=TOLERANCE, ...): fail the test if it costs more than its baseline.",
    "perf_waive(METRIC, reason=..., until='YYYY-MM-DD', cap=..., url=...): tolerate a breach.",
    "perf_profile(rerun=True): run once more for a profile; rerun=False keeps the fixtures.",
    "perf_scales(POPULATE, sizes=(2, 10, 50), METRIC='O(1)', ...): run with more and more data.",
    "performance: measure the test; perfguard gives it to every test that it measures.",
)
# Those that cannot be added any more once a test has begun, and those that can.
_LIMITS = ("perf_budget", "perf_baseline", "perf_waive")
_MEASURED = (*_LIMITS, "perf_profile", "perf_scales", "performance")
# What xdist calls the phase of a test whose worker died in it.
_DIED = "???"
_GUARD = pytest.StashKey["Guard"]()
_MISTAKES = pytest.StashKey[dict[str, tuple[str, ...]]]()
_PROFILES = pytest.StashKey["Profiles"]()
_SCALES = pytest.StashKey["ScaleMarks"]()
_SUITE = pytest.StashKey["Suite"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the options."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, and read the options now if any of them is used."""
    for line in _MARKERS:
        config.addinivalue_line("markers", line)
    try:
        refuse_unread_table(config)
        if is_asked_for(config):
            _guard(config)
            _suite(config).check(config)
        if option(config, "profile") not in ("marked", "never"):
            _profiles(config)
    except PerfguardError as error:
        raise pytest.UsageError(f"perfguard: {error}") from None
    config.pluginmanager.register(_Reports(config), "perfguard-reports")


def _guard(config: pytest.Config) -> Guard:
    """Return the guard of this process, making it at first use."""
    guard = config.stash.get(_GUARD, None)
    if guard is None:
        from pytest_perfguard.guard import Guard  # noqa: PLC0415

        guard = config.stash[_GUARD] = Guard(config)
        config.pluginmanager.register(guard, "perfguard-guard")
    return guard


def collected(config: pytest.Config) -> dict[str, dict[str, bool]]:
    """Return which tests were found, by file, and whether each is compared with a baseline."""
    return _guard(config).collected


def _profiles(config: pytest.Config) -> Profiles:
    """Return what profiles tests of this process, making it at first use."""
    profiles = config.stash.get(_PROFILES, None)
    if profiles is None:
        from pytest_perfguard.profiles import Profiles  # noqa: PLC0415

        profiles = config.stash[_PROFILES] = Profiles(config, _guard(config))
        config.pluginmanager.register(profiles, "perfguard-profiles")
    return profiles


def _ask_for_profile(config: pytest.Config, item: pytest.Item | None) -> None:
    """Profile a test that is running, or those that are marked, unless that is switched off."""
    if option(config, "profile") != "never":
        profiles = _profiles(config)
        if item is not None:
            profiles.asked(item)


def _scales(config: pytest.Config) -> ScaleMarks:
    """Return what makes contracts of marked tests, making it at first use."""
    marks = config.stash.get(_SCALES, None)
    if marks is None:
        from pytest_perfguard.scale_marks import ScaleMarks  # noqa: PLC0415

        marks = config.stash[_SCALES] = ScaleMarks(_guard(config))
        config.pluginmanager.register(marks, "perfguard-scales")
    return marks


def _suite(config: pytest.Config) -> Suite:
    """Return what is known of the whole session, making it at first use."""
    suite = config.stash.get(_SUITE, None)
    if suite is None:
        from pytest_perfguard.suite import Suite  # noqa: PLC0415

        suite = config.stash[_SUITE] = Suite()
    return suite


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Find the tests to measure, before ``-m performance`` selects them."""
    config.stash[_MISTAKES] = _plan(config, items)
    guard = config.stash.get(_GUARD, None)
    if guard is not None:
        guard.note_collected(items)


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say if times that should be compared are not."""
    if not option(config, "times"):
        return None
    from pytest_perfguard.time_mode import why_not_compared  # noqa: PLC0415

    reason = why_not_compared(config)
    return f"perfguard: {reason}" if reason else None


def pytest_collection_finish(session: pytest.Session) -> None:
    """Take in marks that other plugins added, and report every budget that cannot be read."""
    mistakes: dict[str, list[str]] = {}
    # A test that was deselected since still has its mistake.
    early = session.config.stash.get(_MISTAKES, None) or {}
    for nodeid, found in {**early, **_plan(session.config, session.items)}.items():
        mistakes.setdefault(nodeid.partition("::")[0], []).extend(found)
    for nodeid, lines in mistakes.items():
        from pytest_perfguard.guard import mistakes_report  # noqa: PLC0415

        session.ihook.pytest_collectreport(report=mistakes_report(lines, nodeid))


def _plan(config: pytest.Config, items: list[pytest.Item]) -> dict[str, tuple[str, ...]]:
    """Read what is wanted of each test, and return what cannot be read, by node id."""
    guard = config.stash.get(_GUARD, None)
    mistakes = {}
    for item in items:
        if guard is None and _is_measured(item):
            guard = _guard(config)
        plan = guard.plan(item) if guard and (guard.has_rules or _is_measured(item)) else None
        if plan is not None and plan.mistakes:
            mistakes[item.nodeid] = plan.mistakes
        if plan is not None and item.get_closest_marker("perf_scales") is not None:
            problem = _scales(config).read(item)
            if problem:
                mistakes[item.nodeid] = (*plan.mistakes, problem)
        if plan is not None and item.get_closest_marker("perf_profile") is not None:
            try:
                _ask_for_profile(config, item=None)
            except PerfguardError as error:
                mistakes[item.nodeid] = (*plan.mistakes, f"perf_profile: {error}")
    return mistakes


def _is_measured(item: pytest.Item) -> bool:
    return "perf" in getattr(item, "fixturenames", ()) or any(
        mark.name in _MEASURED for mark in item.iter_markers()
    )


@pytest.fixture
def perf(request: pytest.FixtureRequest) -> Perf:
    """Measure blocks of a test: ``with perf.measure("name", sql_queries=5) as m``."""
    from pytest_perfguard.fixtures import Perf  # noqa: PLC0415

    item, config = request.node, request.config
    return Perf(_guard(config), item, lambda: _ask_for_profile(config, item))


@pytest.fixture(scope="session")
def perf_postgres(request: pytest.FixtureRequest) -> Generator[Service]:
    """An empty PostgreSQL database: ``perf_postgres.url``; skips where there is no server."""
    from pytest_perfguard.services import postgres  # noqa: PLC0415

    yield from _service(request.config, postgres)


@pytest.fixture(scope="session")
def perf_redis(request: pytest.FixtureRequest) -> Generator[Service]:
    """An empty Redis database: ``perf_redis.url``; skips where there is no server."""
    from pytest_perfguard.services import redis  # noqa: PLC0415

    yield from _service(request.config, redis)


def _service(
    config: pytest.Config, service: Callable[[], AbstractContextManager[Service]]
) -> Generator[Service]:
    from pytest_perfguard.services import REQUIRE  # noqa: PLC0415

    guard = config.stash.get(_GUARD, None)
    with ExitStack() as stack:
        found, problem, may_skip = None, "", False
        try:
            # What it takes to get one is nobody's, also where a test asks for it while it runs.
            with guard.recorder.aside() if guard else nullcontext():
                found = stack.enter_context(service())
        except ServiceError as error:
            problem, may_skip = f"perfguard: {error}", isinstance(error, ServiceMissingError)
        if found is None and may_skip and not os.environ.get(REQUIRE):
            pytest.skip(problem)
        if found is None:
            why = f" ({REQUIRE} is set)" if may_skip else ""
            pytest.fail(problem + why, pytrace=False)
        yield found


class _Reports:
    """Gathers records where reports arrive, be it from this process or from xdist's workers."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._is_worker = hasattr(config, "workerinput")

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> None:
        """Refuse a budget that came when nobody measured any more; runs after the test."""
        if item.own_markers and self._config.stash.get(_GUARD, None) is None:
            for mark in item.own_markers:
                if mark.name in _LIMITS:
                    from pytest_perfguard.guard import LATE_MARK  # noqa: PLC0415

                    pytest.fail(f"perfguard: {LATE_MARK}", pytrace=False)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Compare times with stored ones after all tests: failures of these are late reports."""
        # Any session that measures something tells what a killed one has lost.
        if self._config.stash.get(_GUARD, None) is not None and not self._is_worker:
            _suite(self._config).begin(self._config)
        result = yield
        suite = self._config.stash.get(_SUITE, None)
        if suite is not None and not self._is_worker and option(self._config, "times"):
            # That there is a guard follows from the option.
            guard = _guard(self._config)
            suite.judge_times(session, guard.times(), guard.late_level)
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what a measured test sent with its report."""
        if str(report.when) == _DIED and self._config.stash.get(_SUITE, None) is not None:
            _suite(self._config).add_lost_test(report.nodeid)
        record = report.__dict__.get("perfguard")
        if record is not None and not self._is_worker:
            _suite(self._config).add_record(record)
        profiles = report.__dict__.get("perfguard_profiles")
        if profiles is not None and not self._is_worker:
            _suite(self._config).add_profiles(profiles)
        stacks = report.__dict__.get("perfguard_stacks")
        if stacks is not None and not self._is_worker:
            _suite(self._config).add_stacks(stacks)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Stop listening, gather what is known of the whole suite, and write ``run.json``."""
        guard = self._config.stash.get(_GUARD, None)
        facts = None
        if guard is not None:
            facts = guard.facts()
            if self._is_worker:
                facts["times"] = guard.times()
            guard.close()
        if self._is_worker:
            if facts is not None:
                self._config.workeroutput["perfguard"] = facts  # type: ignore[attr-defined] # xdist's
            return
        if facts is not None:
            _suite(self._config).add_facts(facts)
        suite = self._config.stash.get(_SUITE, None)
        if suite is not None and not suite.settle(self._config, session):
            session.exitstatus = session.exitstatus or pytest.ExitCode.INTERNAL_ERROR
        if suite is None:
            return
        suite.close(session, self._config.pluginmanager.get_plugin("terminalreporter"))
        if not suite.write(self._config):
            # What was asked for is not there: whoever relies on it must not see a success.
            session.exitstatus = session.exitstatus or pytest.ExitCode.INTERNAL_ERROR

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Take over what an xdist worker knew."""
        facts = getattr(node, "workeroutput", {}).get("perfguard")
        if facts is not None:
            _suite(self._config).add_facts(facts)
        elif error is not None:
            _suite(self._config).add_lost_worker()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what was measured and what needs attention."""
        suite = self._config.stash.get(_SUITE, None)
        if suite is not None and not self._is_worker:
            suite.report(self._config, terminalreporter)
