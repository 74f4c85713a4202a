"""The part of the plugin that runs tests under measurement; loaded when there is one to measure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from inspect import iscoroutinefunction, unwrap
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.unittest import TestCaseFunction

from pytest_perfguard.baseline_checks import Baselines, read_tolerances
from pytest_perfguard.baseline_files import name_of
from pytest_perfguard.baselines import Tolerance
from pytest_perfguard.benchmark_fixture import attach, is_benchmark
from pytest_perfguard.breaches import BudgetFailure
from pytest_perfguard.budgets import Budget, Rules, judge, read_limits, requested
from pytest_perfguard.errors import SettingError
from pytest_perfguard.metrics import METRICS, lookup, measure_all
from pytest_perfguard.model import Level, Record, Rule, Span, Status, Verdict
from pytest_perfguard.options import option, tables
from pytest_perfguard.places import mark_line
from pytest_perfguard.recorder import Recorder
from pytest_perfguard.reports.evidence import failure
from pytest_perfguard.spans import MAX_REQUESTS, OpenSpan, Settings
from pytest_perfguard.stats import STATISTICS
from pytest_perfguard.time_mode import times_are_compared, under_xdist
from pytest_perfguard.units import shown
from pytest_perfguard.waive_marks import MarkedWaiver, expired, read_waiver, this_day, waive
from pytest_perfguard.waivers import loaded_files

_PROPERTY = "perfguard."

if TYPE_CHECKING:
    from _pytest.nodes import Node

    from pytest_perfguard.probes.cache import Watch
    from pytest_perfguard.session_windows import SessionWindows
    from pytest_perfguard.turnstile import Turnstile


@dataclass(slots=True)
class Plan:
    """What is to be done with one test, and what has come of it."""

    budgets: tuple[Budget, ...] = ()
    waivers: tuple[MarkedWaiver, ...] = ()
    # By how much each metric may be worse than its baseline; None where it is not compared.
    tolerances: dict[str, Tolerance] | None = None
    mistakes: tuple[str, ...] = ()
    root: OpenSpan | None = None
    verdicts: list[Verdict] = field(default_factory=list)
    blocks: Counter[str] = field(default_factory=Counter)
    # Blocks that have been made and not yet left, by what is wrong with them if they stay so.
    pending: dict[object, str] = field(default_factory=dict)
    # What is only measured on request, and asked for.
    asked: frozenset[str] = frozenset()
    marks: int = 0
    # Whether pytest-benchmark is switched off, so that no limit on time can be proved.
    times_nothing: bool = False
    record: Record | None = None


PLAN = pytest.StashKey[Plan]()
MARKS = ("perf_budget", "perf_baseline", "perf_waive")
_WATCHES = pytest.StashKey[list["Watch"]]()
LATE_MARK = (
    "a mark of perfguard was added while the test ran, too late to be judged: write it on the "
    "test, or add it in a hook or a fixture"
)


class Guard:
    """Measures and judges the tests of one process.

    Raises:
        SettingError: if an option cannot be read.
    """

    def __init__(self, config: pytest.Config) -> None:
        budgets, levels = tables(config)
        try:
            Rules.read(budgets, levels)
        except SettingError as error:
            file = config.rootpath / "pyproject.toml"
            raise SettingError(f"{file}, [tool.perfguard.budgets]:\n{error}") from None
        self.rules = Rules.read(
            [*budgets, *option(config, "budgets")], [*levels, *option(config, "level")]
        )
        self.baselines = Baselines(config)
        self.measure_all: bool = option(config, "")
        self.unproven = Level(option(config, "unproven"))
        self.has_rules = self.measure_all or bool(self.rules.budgets) or self.baselines.has_rules
        self.with_setup = option(config, "phases") == "setup+call"
        # Whether a test is run once more for its profile, so that no time is worth judging.
        self.profiling = False
        self._root = config.rootpath
        self.stores_times = _stores_times(config)
        self.windows: SessionWindows | None = None
        if self.stores_times and times_are_compared(config):
            from pytest_perfguard.session_windows import SessionWindows  # noqa: PLC0415 - costly

            self.windows = SessionWindows(
                spread=not under_xdist(config), is_compared=self._is_compared
            )
            config.pluginmanager.register(self.windows, "perfguard-windows")
        # Where calls are run in turns with those of another revision.
        self.turnstile: Turnstile | None = config.pluginmanager.get_plugin("perfguard-turnstile")
        # Every test that was found, before any was deselected, by the file of its baseline:
        # whether it is compared with it.
        self.collected: dict[str, dict[str, bool]] = {}
        # What is tolerated of wall times, by node id and metric, as share and amount.
        self.wall_tolerances: dict[str, dict[str, tuple[float, float]]] = {}
        # Marked waivers by node id, for what is judged when all tests have run.
        self.waivers: dict[str, tuple[MarkedWaiver, ...]] = {}
        # Lines about marked waivers that have ended.
        self.ended: dict[str, None] = {}
        self.recorder = Recorder(
            Settings(
                root=config.rootpath,
                packages=tuple(option(config, "packages")),
                n_plus_one_threshold=option(config, "n_plus_one"),
                show_parameters=option(config, "show_parameters"),
                key_words=frozenset(option(config, "key_words")),
                task_timeout=option(config, "task_timeout"),
            )
        )

        self.recorder.asked_of_requests = self.rules.requested

    # -- collection ------------------------------------------------------------------------

    def plan(self, item: pytest.Item) -> Plan | None:
        """Read what is wanted of a test; None if it is not to be measured.

        May be called again, for marks that were added since.
        """
        known = item.stash.get(PLAN, None)
        # The nearest come first.
        marks = [(node, mark) for node, mark in item.iter_markers_with_node() if mark.name in MARKS]
        if known is not None and known.marks == len(marks):
            return known
        budgets = self.rules.defaults(item.nodeid, count=known is None)
        compared = self.baselines.wanted(item)
        wanted = (
            self.measure_all
            # Any test may send the requests that they are about.
            or self.rules.endpoints
            or bool(marks or budgets)
            or compared
            or any(
                item.get_closest_marker(name)
                for name in ("performance", "perf_profile", "perf_scales")
            )
            or "perf" in getattr(item, "fixturenames", ())
        )
        if not wanted:
            return None
        plan = known or Plan()
        mistakes: list[str] = []
        tolerances: dict[str, Tolerance] = {}
        waivers: list[MarkedWaiver] = []
        for node, mark in reversed(marks):
            match mark.name:
                case "perf_budget":
                    for budget in self._read_mark(item, node, mark, mistakes):
                        budgets[budget.metric.name] = budget
                case "perf_baseline":
                    where = self.where(item, node, mark.name)
                    tolerances |= read_tolerances(
                        mark.args, mark.kwargs, where, mistakes, times=self.stores_times
                    )
                case _:
                    told = ("reason", mark.kwargs["reason"]) if "reason" in mark.kwargs else ()
                    where = self.where(item, node, mark.name, *told)
                    place = where.removeprefix(f"{mark.name}, ")
                    # One on the test takes the place of one on its class.
                    found = read_waiver(mark.args, mark.kwargs, place, mistakes)
                    names = {waiver.metric for waiver in found}
                    waivers = [w for w in waivers if w.metric not in names] + found
        plan.budgets = self.with_levels(item, budgets.values())
        plan.waivers = tuple(waivers)
        if waivers:
            self.waivers[item.nodeid] = plan.waivers
        plan.tolerances = tolerances if compared else None
        held = self.baselines.requested(item) if compared else frozenset()
        plan.asked = requested(plan.budgets) | held
        if wall := {n: t for n, t in tolerances.items() if not METRICS[n].stored}:
            self.wall_tolerances[item.nodeid] = {n: (t.share, t.amount) for n, t in wall.items()}
        plan.mistakes = tuple(mistakes)
        plan.marks = len(marks)
        item.stash[PLAN] = plan
        if item.get_closest_marker("performance") is None:
            item.add_marker("performance")
        return plan

    def _read_mark(
        self,
        item: pytest.Item,
        node: Node,
        mark: pytest.Mark,
        mistakes: list[str],
    ) -> Iterable[Budget]:
        if mark.args:
            where = self.where(item, node, mark.name)
            given = ", ".join(map(shown, mark.args))
            mistakes.append(f"{where}: takes keywords only, as in sql_queries=3; got {given}")
        elif not mark.kwargs:
            where = self.where(item, node, mark.name)
            mistakes.append(f"{where}: has no limit, as in sql_queries=3")
        for name, value in mark.kwargs.items():
            where = self.where(item, node, mark.name, name, value)
            yield from read_limits({name: value}, where, mistakes)

    def where(
        self,
        item: pytest.Item,
        node: Node,
        mark: str,
        keyword: str | None = None,
        value: object = None,
    ) -> str:
        """Return where a mark was written, as ``MARK, file:line``."""
        names = [
            getattr(part, "originalname", None) or part.name
            for part in node.listchain()
            if isinstance(part, pytest.Class | pytest.Function)
        ]
        path = item.path
        function = unwrap(node.function) if isinstance(node, pytest.Function) else None
        if isinstance(function, FunctionType):
            # A test may be inherited from a class in another file.
            path, names = Path(function.__code__.co_filename), function.__qualname__.split(".")
        line = mark_line(path, tuple(names), mark, keyword, value)
        name = path.relative_to(self._root) if path.is_relative_to(self._root) else path
        return f"{mark}, {name.as_posix()}" + (f":{line}" if line else "")

    def note_collected(self, items: Iterable[pytest.Item]) -> None:
        """Take down which tests there are, so that baselines of others are known to be stale."""
        for item in items:
            plan = item.stash.get(PLAN, None)
            compared = plan is not None and plan.tolerances is not None
            tests = self.collected.setdefault(self.baselines.file(item), {})
            tests[name_of(item.nodeid)] = compared or self.baselines.mode(item) == "off"

    def _is_compared(self, item: pytest.Item) -> bool:
        plan = item.stash.get(PLAN, None)
        return plan is not None and plan.tolerances is not None

    def counts_calls(self, item: pytest.Item, budgets: Iterable[Budget]) -> bool:
        """Return whether the Python calls of what a test times are asked for."""
        plan = item.stash.get(PLAN, None)
        known = [*budgets, *(plan.budgets if plan else ())]
        return (self.windows is not None and self._is_compared(item)) or any(
            budget.metric.name == "py_calls" for budget in known
        )

    def late_level(self, nodeid: str, metric: str) -> Level:
        """Return what a breach of stored times does in a test: they are baselines, too."""
        return self.rules.level(nodeid, metric, judged_by=Rule.BASELINE)

    def times(self) -> dict[str, Any]:
        """Return what this process has timed for the comparison with stored times."""
        if self.windows is None:
            return {}
        waivers = {n: [waiver.to_dict() for waiver in found] for n, found in self.waivers.items()}
        return {**self.windows.facts(), "tolerances": self.wall_tolerances, "waivers": waivers}

    # -- running ---------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Begin to measure here where fixtures count too."""
        plan = item.stash.get(PLAN, None)
        if plan is not None:
            plan.verdicts.clear()
            plan.blocks.clear()
            plan.pending.clear()
            plan.record = plan.root = None
            if self.with_setup:
                self.begin(item, plan)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Measure the test, and fail it if it passed without keeping its budgets."""
        # A fixture may have added a mark; a test without one is not looked at twice.
        plan = self.plan(item) if PLAN in item.stash or _has_mark(item) else None
        if plan is None:
            return (yield)
        if plan.mistakes:
            pytest.fail("perfguard: " + "\n".join(plan.mistakes), pytrace=False)
        benchmark = getattr(item, "funcargs", {}).get("benchmark")
        if is_benchmark(benchmark):
            self._count_benchmark(item, benchmark, plan)
        if isinstance(item, TestCaseFunction) and plan.root is None:
            self._measure_method(item, plan)
        elif plan.root is None:
            self.begin(item, plan)
        passed = False
        try:
            result = yield
            passed = True
        finally:
            if plan.root is not None and not plan.root.closed:
                self.end(item, plan)
        returned = self.windows is not None and self.windows.is_return(item)
        if passed and plan.record is not None and not returned:
            _raise_breaches(plan.record)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self) -> Generator[None, object, object]:
        """Tell what a fixture takes, and gives back when it is torn down, from the test's own."""
        end = self.recorder.begin_fixture()
        try:
            return (yield)
        finally:
            end()

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        """Close what a failed set-up or a careless test has left open; runs after fixtures."""
        watches = item.stash.get(_WATCHES, [])
        try:
            while watches:
                watch = watches.pop()
                self.recorder.readings.remove(watch)
                watch.close()
        finally:
            self.recorder.abandon()

    def _measure_method(self, item: TestCaseFunction, plan: Plan) -> None:
        """Measure a ``unittest`` method alone: its set-up runs in the call phase too."""
        method = getattr(item.instance, item.name)

        @wraps(method)
        def measured(*args: Any, **kwargs: Any) -> Any:
            self.begin(item, plan)
            try:
                return method(*args, **kwargs)
            finally:
                self.end(item, plan)

        @wraps(method)
        async def measured_async(*args: Any, **kwargs: Any) -> Any:
            self.begin(item, plan)
            try:
                return await method(*args, **kwargs)
            finally:
                self.end(item, plan)

        wrapper = measured_async if iscoroutinefunction(method) else measured
        # pytest takes a plain method from the item, unittest a coroutine method from the object.
        item.obj = wrapper
        setattr(item.instance, item.name, wrapper)

    def _count_benchmark(self, item: pytest.Item, benchmark: Any, plan: Plan) -> None:
        """Let pytest-benchmark's fixture count a call; where it times nothing, say so and pass."""
        compare = refuse = None
        if self.turnstile is not None:
            compare = partial(self.turnstile.take_now, item)
            refuse = partial(self.turnstile.decline, item)
        elif self.counts_calls(item, ()):
            from pytest_perfguard.session_windows import compare_benchmark  # noqa: PLC0415 - costly

            compare = partial(compare_benchmark, self.windows, item)
        attach(benchmark, self.recorder, compare, refuse)
        plan.times_nothing = bool(benchmark.disabled)

    def begin(self, item: pytest.Item, plan: Plan) -> None:
        """Open the span of a test."""
        self.recorder.start()
        self.recorder.engines.clear()
        self.recorder.passed_waivers.clear()
        plan.root = self.recorder.open(item.name, "test", asked=plan.asked)

    def end(self, item: pytest.Item, plan: Plan) -> None:
        """Close the span of a test and judge it."""
        assert plan.root is not None
        span = self.recorder.close(plan.root)
        passed = self.recorder.passed_waivers
        errors = [f"{w.file}:{w.line}: {w.problem}" for w in passed if w.problem]
        errors += plan.pending.values()
        if count_marks(item) != plan.marks:
            errors.append(LATE_MARK)
        if self.rules.endpoints and any(p.kind == "request" and p.calls > 1 for p in span.walk()):
            errors.append(
                f"more than {MAX_REQUESTS:,} requests, of which the last cannot be judged by "
                "budgets of endpoints: split the test"
            )
        record = Record(
            nodeid=item.nodeid,
            outcome="",
            span=span,
            metrics=measure_all(span),
            verdicts=(
                *(
                    _excused(v) if plan.times_nothing else v
                    for v in judge(span, plan.budgets, self.unproven)
                ),
                *plan.verdicts,
                *self._judge_endpoints(item, span),
            ),
            errors=tuple(errors),
            waivers={
                f"{waiver.file}:{waiver.line} {metric}": metric in covered
                for waiver, covered in passed.items()
                for metric in waiver.metrics
            },
            engines=dict(self.recorder.engines),
            line=_line(item),
        )
        if plan.tolerances is not None:
            record = self.baselines.check(
                item,
                record,
                plan.tolerances,
                partial(self.rules.level, item.nodeid, judged_by=Rule.BASELINE),
            )
        plan.record = self._waive(record, plan.waivers)
        item.user_properties[:] = [
            *(pair for pair in item.user_properties if not pair[0].startswith(_PROPERTY)),
            *((_PROPERTY + name, value) for name, value in plan.record.metrics.items()),
        ]

    def _waive(self, record: Record, waivers: Sequence[MarkedWaiver]) -> Record:
        """Return the record with the breaches that the test's own marks tolerate."""
        if not waivers:
            return record
        today = this_day()
        self.ended.update(dict.fromkeys(expired(waivers, today)))
        return waive(record, waivers, today)

    def with_levels(
        self, item: pytest.Item, budgets: Iterable[Budget], endpoint: str | None = None
    ) -> tuple[Budget, ...]:
        """Return the budgets with what a breach of each does in this test, or at an endpoint."""
        return tuple(
            replace(budget, level=self.rules.level(item.nodeid, budget.metric.name, endpoint))
            for budget in budgets
        )

    def expect(self, item: pytest.Item, block: object, problem: str | None) -> bool:
        """Note what is wrong with a block of a running test if nothing more happens to it.

        Returns:
            Whether there is a running test to note it with.
        """
        plan = item.stash.get(PLAN, None)
        if plan is None:
            return False
        plan.pending.pop(block, None)
        running = plan.root is not None and not plan.root.closed
        if problem is not None and running:
            plan.pending[block] = problem
        return running

    def watch(self, item: pytest.Item, watch: Watch) -> None:
        """Take readings of a cache until the test has been torn down."""
        item.stash.setdefault(_WATCHES, []).append(watch)
        self.recorder.readings.append(watch)

    def block_name(self, item: pytest.Item, name: str) -> str:
        """Return a name for a block that no other block of the test has."""
        plan = item.stash.get(PLAN, None)
        if plan is None:
            return name
        plan.blocks[name] += 1
        return name if plan.blocks[name] == 1 else f"{name} #{plan.blocks[name]}"

    def time_limits(
        self, item: pytest.Item, group: str, name: str, budgets: Iterable[Budget] = ()
    ) -> dict[str, Budget]:
        """Return the budgets that are about a timing's statistics: the strictest of each.

        Args:
            group: ``http`` or ``time``, as the names of the metrics begin.
            name: of the endpoint or the call.
        """
        plan = item.stash.get(PLAN, None)
        known = [*budgets, *(plan.budgets if plan else ()), *self.rules.endpoint(name)]
        strictest: dict[str, Budget] = {}
        for budget in sorted(known, key=lambda budget: budget.limit):
            metric, _, statistic = budget.metric.name.partition("_")
            if metric == group and statistic in STATISTICS:
                strictest.setdefault(statistic, budget)
        return strictest

    def _judge_endpoints(self, item: pytest.Item, root: Span) -> list[Verdict]:
        """Judge each endpoint that the suite's rules are about, by its costliest request."""
        worst: dict[tuple[str, str], Verdict] = {}
        for span in root.walk():
            if span.kind != "request" or not self.rules.endpoints:
                continue
            budgets = self.with_levels(item, self.rules.endpoint(span.name, count=True), span.name)
            for verdict in judge(span, budgets, self.unproven):
                key = (span.name, verdict.metric)
                known = worst.get(key)
                if known is None or _is_worse(verdict, known):
                    worst[key] = verdict
        return list(worst.values())

    def judge_block(self, item: pytest.Item, span: Span, budgets: Sequence[Budget]) -> None:
        """Judge a named block: with its test, or at once where there is no test to wait for."""
        self.note(item, span, judge(span, budgets, self.unproven))

    def note(self, item: pytest.Item, span: Span, verdicts: Iterable[Verdict]) -> None:
        """Add verdicts to those of a test, or fail by them where there is none to wait for."""
        plan = item.stash.get(PLAN, None)
        if plan is not None and plan.root is not None and not plan.root.closed:
            plan.verdicts += verdicts
        else:
            _raise_breaches(Record(item.nodeid, "", span, verdicts=tuple(verdicts)))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Send the record with the report; keep a test's own failure first."""
        report = yield
        plan = item.stash.get(PLAN, None)
        if plan is None or plan.record is None:
            return report
        if report.when == "call":
            record = replace(plan.record, outcome=report.outcome)
            if call.excinfo and not call.excinfo.errisinstance(BudgetFailure):
                # It may not have come to what the others cover, so they are not known to be idle.
                used = {key: True for key, covered in record.waivers.items() if covered}
                raised = call.excinfo.typename if report.failed else ""
                record = replace(record, waivers=used, raised=raised)
            if call.excinfo and call.excinfo.errisinstance(BudgetFailure):
                _locate(report, item)
            elif report.failed and (record.breaches or record.span.findings):
                report.sections.append(("perfguard", failure(record)))
            report.perfguard = record.to_dict()  # type: ignore[attr-defined] # extra data is kept
        return report

    # -- the end of the session ------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """Return what this process knows of the suite as a whole, as plain data."""
        sites = self.recorder.sites
        # What lies elsewhere belongs to another project, which other runs are about.
        files = [
            file
            for file in loaded_files()
            if Path(file).is_relative_to(self._root) and sites.is_user[file]
        ]
        waivers = self.recorder.waivers.in_files((sites.show(file), file) for file in files)
        return {
            "rules": {rule.line: rule.tests for rule in self.rules.budgets},
            "waivers": [f"{w.file}:{w.line} {metric}" for w in waivers for metric in w.metrics],
            "broken_waivers": [
                *(f"{w.file}:{w.line}: {w.problem}" for w in waivers if w.problem),
                *self.ended,
            ],
            "collected": self.collected if self.baselines.is_used else {},
            "switched_off": sorted(self.baselines.switched_off),
            "tests": sum(map(len, self.collected.values())),
        }

    def close(self) -> None:
        """Stop listening."""
        self.recorder.stop()


def _line(item: pytest.Item) -> int:
    """Return the line of a test; 0 for one that is inherited from another file."""
    file, line, _ = item.location
    inherited = file.replace("\\", "/") != item.nodeid.partition("::")[0]
    return 0 if inherited or line is None else line + 1


def _locate(report: pytest.TestReport, item: pytest.Item) -> None:
    """Give the test's own line and the headline to whoever wants one line of a failure.

    That is pytest's short summary, ``--tb=line``, JUnit's message and the annotations of CI
    systems, which would name a line of this module and repeat the whole text.
    """
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        crash.message = crash.message.partition("\n")[0]
        crash.path = str(item.path)
        crash.lineno = (item.location[1] or 0) + 1


def _stores_times(config: pytest.Config) -> bool:
    """Return whether times are stored.

    Raises:
        SettingError: if an option needs them to be.
    """
    if option(config, "times"):
        if option(config, "processes") and not option(config, "update"):
            raise SettingError("--perfguard-processes: store them with --perfguard-update")
        return True
    for name in ("add_times", "processes"):
        if option(config, name):
            flag = f"--perfguard-{name.replace('_', '-')}"
            raise SettingError(f"{flag}: say where times are stored, with --perfguard-times=DIR")
    return False


def _excused(verdict: Verdict) -> Verdict:
    """Let a limit on time only warn where it could not be proved."""
    if verdict.status is Status.UNPROVEN and METRICS[verdict.metric].probe == "time":
        return replace(verdict, level=Level.WARN)
    return verdict


def _is_worse(verdict: Verdict, known: Verdict) -> bool:
    if verdict.value is None or known.value is None:
        return known.value is None and verdict.value is not None
    higher = lookup(verdict.metric).higher_is_better
    return verdict.value < known.value if higher else verdict.value > known.value


def count_marks(item: pytest.Item) -> int:
    """Return how many marks a test has that are judged by."""
    return sum(mark.name in MARKS for mark in item.iter_markers())


def _has_mark(item: pytest.Item) -> bool:
    return any(mark.name in MARKS for mark in item.own_markers)


def _raise_breaches(record: Record) -> None:
    if record.fails:
        raise BudgetFailure(failure(record), pytrace=False)


def mistakes_report(mistakes: Iterable[str], nodeid: str) -> pytest.CollectReport:
    """Return a failed collection that shows every mistake of a module at once."""
    lines = dict.fromkeys(mistakes)
    text = "\n".join(["perfguard: budgets that cannot be read", *(f"  {line}" for line in lines)])
    return pytest.CollectReport(nodeid, "failed", text, [])
