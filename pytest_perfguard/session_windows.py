"""Takes windows of timed calls while a session runs, for the comparison with stored times.

The first window of a call is taken where its test runs. Further ones are spread over the session:
after the other tests of its module the test is run again, unreported, and whatever it times is
timed for another window. What that run does otherwise counts nowhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from pytest_perfguard.errors import TimingError
from pytest_perfguard.pinning import pinned
from pytest_perfguard.references import References, ReferenceShelf, client_kind
from pytest_perfguard.samples import Readings, Sample
from pytest_perfguard.times import Times
from pytest_perfguard.windows import measure_window
from pytest_perfguard.work import CallCount, count_calls

WINDOWS = 3
# Scopes of fixtures that are not made anew for each test or class.
_OUTLIVING = frozenset({"module", "package", "session"})

Steps = Generator[Any, Any, Any]


@dataclass(slots=True)
class Taken:
    """What has been measured of one timing so far.

    Attributes:
        metrics: how the names of its metrics begin, ``http`` or ``time``.
        given: what the first run gave the test, for the runs that only take windows.
    """

    kind: str
    reference: str
    metrics: str
    readings: list[Readings] = field(default_factory=list)
    statistics: dict[str, float] = field(default_factory=dict)
    py_calls: int | None = None
    given: Any = None

    def times(self) -> Times:
        """Return what is stored of it."""
        sample = Sample.of(self.reference, self.readings)
        return Times(self.kind, sample, self.statistics, self.py_calls)


@dataclass(slots=True)
class Visit:
    """A test's runs.

    Attributes:
        number: which one it is; only the first is reported.
        passed: the first one has passed.
        names: how many timings of each name this run has had so far.
        taken: by the name of the timing.
        problem: what went wrong in a later one.
    """

    number: int = 0
    passed: bool = False
    names: Counter[str] = field(default_factory=Counter)
    taken: dict[str, Taken] = field(default_factory=dict)
    problem: str = ""


VISIT = pytest.StashKey[Visit]()


class _Return(pytest.Item):
    """Stands for a further run of a test.

    If the test stood there itself, pytest would take it for its own successor, and leave its
    fixtures as they are between the two runs.
    """

    def __init__(self, *, test: pytest.Item, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.test = test

    def runtest(self) -> None:
        """Do nothing; the test is run in its place."""


class SessionWindows:
    """Takes windows of the tests that are compared with stored times.

    Args:
        spread: take the windows of a call at several times in the session; not possible where
            others decide which test runs when, as under xdist.
        is_compared: whether a test is compared with stored times.
    """

    def __init__(self, *, spread: bool, is_compared: Callable[[pytest.Item], bool]) -> None:
        self._spread = spread
        self._is_compared = is_compared
        self._shelf = ReferenceShelf()
        self._visits: dict[str, Visit] = {}
        self.reason_not_pinned = ""

    # -- the runs of a test ----------------------------------------------------------------

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Let the tests of each module that are compared come again after the others."""
        if not self._spread or session.config.getoption("collectonly"):
            return (yield)
        tests = list(session.items)
        session.items[:] = list(self._with_returns(tests))
        try:
            return (yield)
        finally:
            session.items[:] = tests

    def _with_returns(self, items: list[pytest.Item]) -> Iterator[pytest.Item]:
        for _, group in groupby(items, key=_place):
            tests = list(group)
            yield from tests
            again = [test for test in tests if self._is_compared(test) and _can_return(test)]
            for _ in range(WINDOWS - 1):
                for test in again:
                    assert test.parent is not None  # only the session has none
                    yield _Return.from_parent(test.parent, name=test.name, test=test)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> object:
        """Run a test that has been run before, if it has timed anything, and tell nobody."""
        if not isinstance(item, _Return):
            if self._is_compared(item):
                item.stash[VISIT] = self._visits[item.nodeid] = Visit()
            return None
        visit = item.test.stash.get(VISIT, None)
        if visit is None or not (visit.passed and visit.taken and not visit.problem):
            # What would be torn down by the run has to be so without it.
            item.session._setupstate.teardown_exact(nextitem)
            return True
        visit.number += 1
        for report in runtestprotocol(item.test, log=False, nextitem=nextitem):
            if not (report.passed or visit.problem):
                visit.problem = in_a_line(report)
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Begin a run; one that another plugin repeats takes the place of that before."""
        visit = item.stash.get(VISIT, None)
        if visit is not None:
            visit.names.clear()
            if not visit.number:
                visit.taken.clear()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note which tests have passed."""
        visit = self._visits.get(report.nodeid)
        if visit is not None and report.when == "call":
            visit.passed = report.passed

    # -- a timing --------------------------------------------------------------------------

    def is_return(self, item: pytest.Item) -> bool:
        """Return whether a test is run for further windows only."""
        visit = item.stash.get(VISIT, None)
        return visit is not None and visit.number > 0

    def take(
        self,
        item: pytest.Item,
        name: str,
        call: Callable[[], Any],
        *,
        metrics: str = "time",
        client: object | None = None,
        awaited: bool = False,
    ) -> Steps:
        """Take a window of a call, or all of them where they cannot be spread.

        Returns:
            What has been taken of it; None if its test is not compared.
        """
        visit = item.stash.get(VISIT, None)
        if visit is None:
            return None
        visit.names[name] += 1
        if visit.names[name] > 1:
            name = f"{name} #{visit.names[name]}"
        references = self._shelf.get(client, awaited=awaited)
        taken = visit.taken.get(name)
        if taken is None:
            taken = Taken(client_kind(client), references.name, metrics)
            visit.taken[name] = taken
        for _ in range(1 if self._spread and _can_return(item) else WINDOWS):
            yield from self._window(taken, call, references)
        return taken

    def _window(self, taken: Taken, call: Callable[[], Any], references: References) -> Steps:
        with pinned() as pinning:
            self.reason_not_pinned = pinning.reason
            readings: Readings = yield measure_window(call, references)
        taken.readings.append(readings)

    # -- the end ---------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """Return what has been measured, as plain data, and close what was opened for it."""
        self._shelf.close()
        timings: dict[str, dict[str, Any]] = {}
        problems: dict[str, str] = {}
        metrics: dict[str, dict[str, str]] = {}
        for nodeid, visit in self._visits.items():
            if visit.problem:
                problems[nodeid] = visit.problem
            if not visit.passed:
                continue
            for name, taken in visit.taken.items():
                try:
                    timings.setdefault(nodeid, {})[name] = taken.times().to_dict()
                    metrics.setdefault(nodeid, {})[name] = taken.metrics
                except TimingError as error:
                    problems[nodeid] = str(error)
        return {
            "timings": timings,
            "metrics": metrics,
            "problems": problems,
            "not_pinned": self.reason_not_pinned,
        }


def compare_benchmark(
    windows: SessionWindows | None, item: pytest.Item, name: str, call: Callable[[], Any]
) -> dict[str, Any]:
    """Count the Python calls of what pytest-benchmark has timed, and take all windows of it."""
    counted = count_calls(call)
    assert isinstance(counted, CallCount)  # a coroutine function was refused before
    known: dict[str, Any] = {"py_calls": counted.calls}
    taken: Taken | None = None
    if windows is not None:
        taken = _all_of(windows.take(item, name, call))
    if taken is not None:
        taken.py_calls = counted.calls
        known["waiting"] = taken.readings[0].window().waiting
    return known


def _all_of(steps: Steps) -> Any:
    """Run steps of which none has to be awaited."""
    value = None
    while True:
        try:
            value = steps.send(value)
        except StopIteration as done:
            return done.value


def _can_return(item: pytest.Item) -> bool:
    """Return whether a test may be run again: pytest-benchmark keeps statistics of each run."""
    return "benchmark" not in getattr(item, "fixturenames", ())


def _place(item: pytest.Item) -> tuple[object, ...]:
    """Return what neighbours have to share, so that no run lets a fixture be made once more.

    That is the module, and the parameters of fixtures that outlive it.
    """
    call = getattr(item, "callspec", None)
    if call is None:
        return (item.path,)
    scopes = call._arg2scope
    outliving = {name: call.indices[name] for name in scopes if scopes[name].value in _OUTLIVING}
    return (item.path, outliving)


def in_a_line(report: pytest.CollectReport | pytest.TestReport) -> str:
    """Return why a run did not pass."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    crash = getattr(report.longrepr, "reprcrash", None)
    text = (crash.message if crash else report.longreprtext).strip().splitlines()
    # Of a crash the first line says what it was; of any other text the last.
    return (
        str(text[0 if crash else -1]).removeprefix("E  ").strip()
        if text
        else f"its {report.when} {report.outcome}"
    )
