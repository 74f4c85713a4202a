"""Lets each timed call of a test run in turns with the same call of another revision.

A plugin that only the workers of :mod:`pytest_perfguard.coordinator` load. Where a call has been
counted and its rounds have been run, the process waits until the other one has come to the same
call. Then both are pinned to one core, and each runs blocks of it when the coordinator says so.

A call that is awaited runs its blocks in the event loop of its test. Until the other side has come,
which may take seconds, the loop goes on running. From then on the process is stopped between its
blocks, with its loop: whatever else that has to do, it does within its own blocks, and never while
it is the other side's turn. A turn takes some milliseconds, or as long as a single call.

Garbage is collected before, and what is left is frozen. The collector stays switched on, as it is
for timed rounds.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pytest_perfguard.breaches import BudgetFailure
from pytest_perfguard.errors import DuetError
from pytest_perfguard.pinning import pinned
from pytest_perfguard.session_windows import in_a_line
from pytest_perfguard.timing import Clock
from pytest_perfguard.windows import frozen
from pytest_perfguard.wire import DESCRIPTOR, PROTOCOL, Wire, WireClosed

_CLOCK = Clock()
_THREADS = Path("/proc/self/task")
_MAX_REASON = 300
# The collector of others must not decide which tests there are, nor other processes run them, nor
# a failure on one side end it.
_SWITCHED_OFF: dict[str, object] = {"numprocesses": None, "dist": "no", "tx": [], "maxfail": 0}

Steps = Generator[Any, Any, Any]
# Nanoseconds: elapsed, of CPU time, and in which a thread could have run.
Times = tuple[int, int, int]


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Tell the coordinator that there is a worker."""
    # No process that a test starts shall take it for its own.
    number = os.environ.pop(DESCRIPTOR, "")
    if not number:
        raise pytest.UsageError(
            "perfguard: pytest_perfguard.turnstile is loaded by 'perfguard ab' only"
        )
    os.set_inheritable(int(number), False)
    for name, value in _SWITCHED_OFF.items():
        if hasattr(config.option, name):
            setattr(config.option, name, value)
    config.option.continue_on_collection_errors = True
    turnstile = Turnstile(Wire(socket.socket(fileno=int(number))), config.rootpath)
    config.pluginmanager.register(turnstile, "perfguard-turnstile")


class Turnstile:
    """What a worker and its coordinator say to each other."""

    def __init__(self, wire: Wire, root: Path) -> None:
        self._wire = wire
        self._root = root
        self._names: Counter[str] = Counter()
        self._problem = ""
        # Of the calls that were made last.
        self._times: Times = (0, 0, 0)
        # Why files could not be collected.
        self._errors: dict[str, str] = {}
        self._send("hello", protocol=PROTOCOL)
        self._wanted: list[str] = self._receive()["tests"]
        self._files = {nodeid.partition("::")[0] for nodeid in self._wanted}

    def _send(self, did: str, **more: Any) -> None:
        try:
            self._wire.send(did=did, **more)
        except WireClosed:
            _give_up()

    def _receive(self) -> dict[str, Any]:
        try:
            return self._wire.receive()
        except WireClosed:
            _give_up()
            raise

    # -- which tests there are ---------------------------------------------------------------

    def pytest_ignore_collect(self, collection_path: Path, config: pytest.Config) -> bool | None:
        """Leave out the files of which no test is wanted, but those named on the command line."""
        if collection_path.suffix != ".py" or not collection_path.is_relative_to(self._root):
            return None
        folder = config.invocation_params.dir
        if any(folder / str(name).partition("::")[0] == collection_path for name in config.args):
            return None
        return None if collection_path.relative_to(self._root).as_posix() in self._files else True

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note why tests are missing."""
        if report.failed:
            self._errors[report.nodeid] = in_a_line(report)[:_MAX_REASON]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Run the tests that both sides have, in the same order."""
        known = {item.nodeid: item for item in session.items}
        self._send("collected", tests=[n for n in self._wanted if n in known], errors=self._errors)
        session.items[:] = [known[nodeid] for nodeid in self._receive()["tests"]]
        return (yield)

    # -- a test --------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Begin a test together with the other side, and tell how it has ended."""
        self._send("begin", nodeid=item.nodeid)
        self._receive()
        result = yield
        self._send("end", nodeid=item.nodeid, problem=self._problem)
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """Forget an earlier run of the test, which another plugin may repeat."""
        self._names.clear()
        self._problem = ""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Note why a test has not passed; over budget it is as good as any for comparing times."""
        report = yield
        over = call.excinfo is not None and call.excinfo.errisinstance(BudgetFailure)
        if not (report.passed or over or self._problem):
            self._problem = in_a_line(report)[:_MAX_REASON]
        return report

    # -- a timed call --------------------------------------------------------------------------

    def take(
        self, item: pytest.Item, name: str, call: Callable[[], Any], *, awaited: bool = False
    ) -> Steps:
        """Run a call in turns with the other side; the steps of a job."""
        __tracebackhide__ = True
        self._send("arrive", nodeid=item.nodeid, call=self._label(name))
        if awaited:
            yield self._meet_async(call)
        else:
            self._meet(call)

    def take_now(self, item: pytest.Item, name: str, call: Callable[[], Any]) -> dict[str, Any]:
        """Run a call that is not awaited in turns with the other side; adds nothing to it."""
        __tracebackhide__ = True
        for _ in self.take(item, name, call):
            raise DuetError(f"{name} has to be awaited")
        return {}

    def decline(self, item: pytest.Item, name: str, reason: str) -> None:
        """Say why a timed call cannot be run in turns."""
        self._send("decline", nodeid=item.nodeid, call=self._label(name), reason=reason)

    def _label(self, name: str) -> str:
        self._names[name] += 1
        number = self._names[name]
        return f"{name} #{number}" if number > 1 else name

    def _meet(self, call: Callable[[], Any]) -> None:
        __tracebackhide__ = True
        with self._meeting() as turns:
            for calls in turns:
                loops, queued = range(calls), _queued()
                cpu_before, before = _CLOCK.cpu(), _CLOCK.wall()
                for _ in loops:
                    call()
                after, cpu_after = _CLOCK.wall(), _CLOCK.cpu()
                self._times = after - before, cpu_after - cpu_before, _since(queued)

    async def _meet_async(self, call: Callable[[], Awaitable[Any]]) -> None:
        __tracebackhide__ = True
        await self._until_met()
        with self._meeting() as turns:
            for calls in turns:
                loops, queued = range(calls), _queued()
                cpu_before, before = _CLOCK.cpu(), _CLOCK.wall()
                for _ in loops:
                    await call()
                after, cpu_after = _CLOCK.wall(), _CLOCK.cpu()
                self._times = after - before, cpu_after - cpu_before, _since(queued)

    @contextmanager
    def _meeting(self) -> Iterator[Iterator[int]]:
        """Give how many calls to make, as the coordinator says; tell it of what they raise."""
        __tracebackhide__ = True
        with closing(self._turns()) as turns:
            try:
                yield turns
            except BaseException as error:
                # Before anybody is told, the process is as it was.
                turns.close()
                if not isinstance(error, WireClosed | pytest.exit.Exception):
                    text = f"{type(error).__name__}: {error}".splitlines()[0].removesuffix(": ")
                    self._send("raised", text=text[:_MAX_REASON])
                raise

    async def _until_met(self) -> None:
        """Let the event loop run until the coordinator has something to say."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # another library's, which waits without running
            return
        spoken = asyncio.Event()
        try:
            loop.add_reader(self._wire.fileno(), spoken.set)
        except NotImplementedError:
            return
        try:
            await spoken.wait()
        finally:
            loop.remove_reader(self._wire.fileno())

    def _turns(self) -> Generator[int, None, None]:
        """Do as the coordinator says: yield how many calls to make, whose times are noted then."""
        with ExitStack() as stack:
            while True:
                order = self._receive()
                match order["do"]:
                    case "pin":
                        pinning = stack.enter_context(pinned(order["core"]))
                        stack.enter_context(frozen())
                        self._send("pin", reason=pinning.reason)
                    case "warm up":
                        fastest = yield from self._warm_up(order["calls"], order["seconds"])
                        self._send("warm up", wall=fastest)
                    case "run":
                        yield order["calls"]
                        wall, cpu, queued = self._times
                        self._send("run", wall=wall, cpu=cpu, queued=queued)
                    case _:
                        return

    def _warm_up(self, calls: int, seconds: float) -> Generator[int, None, int]:
        """Make calls as they come, for a limited time, and return how long the fastest took."""
        fastest, end = math.inf, _CLOCK.wall() + seconds * 1e9
        for number in range(calls):
            if number and _CLOCK.wall() > end:
                break
            yield 1
            fastest = min(fastest, self._times[0])
        return int(fastest)


def _queued() -> dict[str, int]:
    """Return how long each thread has waited for a core so far, in nanoseconds."""
    return dict(_read_queues())


def _read_queues() -> Iterator[tuple[str, int]]:
    try:
        threads = os.listdir(_THREADS)  # noqa: PTH208 - twice for each block, so it must be quick
    except OSError:
        return
    for thread in threads:
        with suppress(OSError, IndexError, ValueError):  # it has ended
            text = Path(_THREADS, thread, "schedstat").read_bytes()
            yield thread, int(text.split()[1])


def _since(before: dict[str, int]) -> int:
    """Return how long the process has waited for a core: as long as one of its threads, at most.

    A neighbour on the same core must not look as if a call waited for something itself. Threads
    that hand work to each other wait at the same time, so the sum would be too much.
    """
    return max((now - before.get(thread, 0) for thread, now in _read_queues()), default=0)


def _give_up() -> None:
    """End the session with all that its fixtures clean up: nobody is there to hear of it."""
    pytest.exit("perfguard: the process that compares the two sides has ended", returncode=3)
