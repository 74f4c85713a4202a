"""Two fresh processes, one of each side, run the same tests in lock-step.

Where both have come to the same timed call, both are pinned to one core, with all their threads.
Each warms it up, and then they run short blocks of it, in random order within each pair of blocks
and never both at once, until there is enough to judge by.

Nothing is waited for without a limit.
"""

from __future__ import annotations

import math
import os
import random
import selectors
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any

from pytest_perfguard.duet import DuetResult, is_enough, rules
from pytest_perfguard.meetings import Blocks, Meeting
from pytest_perfguard.side_processes import SideProcess
from pytest_perfguard.wire import PROTOCOL, WireClosed, WireSilent

# Python specialises code by its first few calls.
_WARMUP_CALLS = 27
_WARMUP_SECONDS = 1.0
# Shorter blocks would measure the change of turns.
_BLOCK_SECONDS = 0.003
# Digits that are kept of a time; more say nothing.
_DIGITS = 6
_NS = 1e9
# A block may take so many times as long as was expected of it.
_SLOWER_BLOCK = 50
_OTHER_VERSION = (
    "{} has another version of pytest-perfguard, so the two cannot be compared: "
    "let both sides use the same"
)

Message = dict[str, Any]
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Limits:
    """How many seconds are waited for a side, before what it does is given up.

    Attributes:
        start: until it has collected its tests.
        test: until either side has come to a timed call, or to the end of its test.
        meet: until the other side has, too, or has run a block.
        slower: how many times as long as the other one it may take beside that.
        finish: until it has ended by itself after its last test.
    """

    start: float = 300.0
    test: float = 600.0
    meet: float = 30.0
    slower: float = 20.0
    finish: float = 30.0


class LostError(Exception):
    """A side has died, or hangs: both have to be started again."""


class _RaisedError(Exception):
    """A side's call has raised an exception in the middle of its turns."""

    def __init__(self, process: SideProcess, text: str) -> None:
        super().__init__(text)
        self.process = process


@dataclass(slots=True)
class Found:
    """What is known of the tests so far.

    Attributes:
        meetings: what has been measured, of each call.
        refused: why a call, or a test, cannot be compared.
        wanted: the calls that fresh processes are to measure again; what is known of others
            stands. None while all are measured for the first time.
    """

    meetings: dict[Key, list[Meeting]] = field(default_factory=dict)
    refused: dict[Key, str] = field(default_factory=dict)
    wanted: Collection[Key] | None = None

    def wants(self, nodeid: str, call: str) -> bool:
        """Return whether a call is still to be measured."""
        return self.wanted is None or (nodeid, call) in self.wanted

    def refuse(self, nodeid: str, call: str, reason: str) -> None:
        """Note why something cannot be compared; what was said first stands."""
        if self.wants(nodeid, call):
            self.refused.setdefault((nodeid, call), reason)

    def refuse_test(self, nodeid: str, reason: str) -> None:
        """Note why nothing that a test has timed can be compared."""
        calls = [call for name, call in (*self.meetings, *self.refused) if name == nodeid]
        for call in calls or [""]:
            self.refuse(nodeid, call, reason)

    def results(self, noise_floor: float | None) -> dict[str, DuetResult]:
        """Return what is said of each call."""
        found = [
            DuetResult(*key, tuple(self.meetings.get(key, ())), reason=reason)
            for key, reason in self.refused.items()
        ]
        found += [
            DuetResult.of(*key, meetings, noise_floor=noise_floor)
            for key, meetings in self.meetings.items()
            if key not in self.refused
        ]
        return {one.key: one for one in found}


class Session:
    """Two fresh processes and their tests.

    Attributes:
        tests: those that both have, in the order in which they are run.
        at: number of the one that is run.
    """

    def __init__(
        self,
        limits: Limits,
        found: Found,
        chance: random.Random,
        noise_floor: float | None,
    ) -> None:
        self._limits = limits
        self._found = found
        self._chance = chance
        self._noise_floor = noise_floor
        self._processes: Sequence[SideProcess] = ()
        self.tests: list[str] = []
        self.at = 0

    # -- messages ------------------------------------------------------------------------------

    def _receive(self, process: SideProcess, seconds: float, what: str) -> Message:
        """Return what a side says next.

        Args:
            what: what it is waited for.
        """
        try:
            return process.wire.receive(seconds)
        except WireSilent:
            raise LostError(f"{process.label} did not {what} in {seconds:,.0f} s") from None
        except WireClosed:
            raise LostError(
                f"{process.label} {process.how_ended()} before it could {what}"
            ) from None

    def _send(self, process: SideProcess, do: str, **more: Any) -> None:
        # Whoever does not hear it will not answer either, and that is noticed.
        with suppress(WireClosed):
            process.wire.send(do=do, **more)

    def _ask(self, process: SideProcess, do: str, patience: float, **more: Any) -> Message:
        """Let a side do something, and return its answer."""
        self._send(process, do, **more)
        answer = self._receive(process, patience, f"{do} its call")
        if answer["did"] == "raised":
            raise _RaisedError(process, answer["text"])
        return answer

    # -- the start -----------------------------------------------------------------------------

    def start(self, processes: Sequence[SideProcess], tests: Sequence[str]) -> None:
        """Find out which of the tests both sides have."""
        self._processes = processes
        collected = {}
        try:
            for process in processes:
                hello = self._receive(process, self._limits.start, "start")
                if hello["protocol"] != PROTOCOL:
                    raise LostError(_OTHER_VERSION.format(process.label))  # noqa: TRY301 - with what it printed
                self._send(process, "collect", tests=list(tests))
            for process in processes:
                collected[process] = self._receive(process, self._limits.start, "collect its tests")
        except LostError as error:
            printed = "\n".join(_printed(processes))
            raise LostError(f"{error}\n{printed}".strip()) from None
        known = {process: set(answer["tests"]) for process, answer in collected.items()}
        for nodeid in tests:
            without = [process for process in processes if nodeid not in known[process]]
            if without:
                self._found.refuse_test(
                    nodeid,
                    "; ".join(
                        f"{process.label} has no such test{_because(collected[process], nodeid)}"
                        for process in without
                    ),
                )
        both = set.intersection(*known.values())
        # The order of head, whose tests they are.
        self.tests = [nodeid for nodeid in collected[processes[-1]]["tests"] if nodeid in both]
        for process in processes:
            self._send(process, "run tests", tests=self.tests)

    def run(self, tell: Callable[..., None]) -> None:
        """Run the tests that both have."""
        for at, nodeid in enumerate(self.tests):
            self.at = at
            tell(at, nodeid)
            self._run_test(nodeid, partial(tell, at, nodeid))
        tell(len(self.tests))
        end = monotonic() + self._limits.finish
        for process in self._processes:
            process.ended(max(0.0, end - monotonic()))

    # -- a test --------------------------------------------------------------------------------

    def _run_test(self, nodeid: str, tell: Callable[[str], None]) -> None:
        for process in self._processes:
            self._receive(process, self._limits.test, f"begin {nodeid}")
        for process in self._processes:
            self._send(process, "begin")
        ended: dict[SideProcess, Message] = {}
        while len(ended) < len(self._processes):
            events = {**ended, **self._events(nodeid, ended)}
            calls = {
                process: event["call"]
                for process, event in events.items()
                if event["did"] == "arrive"
            }
            ended = {process: event for process, event in events.items() if event["did"] == "end"}
            if len(calls) == len(self._processes) and len(set(calls.values())) == 1:
                self._meet(nodeid, next(iter(calls.values())), tell)
            else:
                self._part(nodeid, calls)
        problems = [
            f"{p.label}: {event['problem']}" for p, event in ended.items() if event["problem"]
        ]
        if problems:
            self._found.refuse_test(nodeid, "the test did not pass on " + "; on ".join(problems))

    def _events(
        self, nodeid: str, ended: Mapping[SideProcess, Message]
    ) -> dict[SideProcess, Message]:
        """Wait until each side that goes on has come to a call, or to its end."""
        awaited = [process for process in self._processes if process not in ended]
        events: dict[SideProcess, Message] = {}
        began = monotonic()
        end = began + self._limits.test
        while len(events) < len(awaited):
            late = [process for process in awaited if process not in events]
            for process in _spoken(late, end - monotonic()):
                event = self._receive(process, self._limits.meet, f"end {nodeid}")
                if event["did"] == "decline":
                    self._found.refuse(nodeid, event["call"], event["reason"])
                    continue
                events[process] = event
                took = monotonic() - began
                end = min(end, began + self._limits.slower * took + self._limits.meet)
            if monotonic() >= end and len(events) < len(awaited):
                raise LostError(_what_hangs(late, events, monotonic() - began))
        return events

    def _part(self, nodeid: str, calls: Mapping[SideProcess, str]) -> None:
        """Let sides go on that have not come to the same call."""
        for process, call in calls.items():
            other = next(one for one in self._processes if one is not process)
            came = calls.get(other)
            instead = f"times {came} at that point" if came else "ends its test without it"
            self._found.refuse(nodeid, call, f"{process.label} times it, {other.label} {instead}")
            self._send(process, "leave")

    # -- a call --------------------------------------------------------------------------------

    def _meet(self, nodeid: str, call: str, tell: Callable[[str], None]) -> None:
        """Let both sides run blocks of a call in turns."""
        if not self._found.wants(nodeid, call):
            for process in self._processes:
                self._send(process, "leave")
            return
        tell(call)
        raised: _RaisedError | None = None
        try:
            meeting = self._measure()
            self._found.meetings.setdefault((nodeid, call), []).append(meeting)
        except _RaisedError as error:
            raised = error
            self._found.refuse(nodeid, call, f"{error.process.label} raised {error}")
        except ValueError as error:
            self._found.refuse(nodeid, call, str(error))
        for process in self._processes:
            if raised is None or process is not raised.process:
                self._send(process, "leave")
        tell("")

    def _measure(self) -> Meeting:
        """Return the blocks of both sides.

        Raises:
            ValueError: if the clock is too coarse for them.
        """
        began, patience = monotonic(), self._limits.meet
        core = _core()
        reasons = [
            self._ask(process, "pin", patience, core=core)["reason"] for process in self._processes
        ]
        not_pinned = next(filter(None, reasons), "")
        fastest = min(
            self._ask(
                process,
                "warm up",
                patience + _WARMUP_SECONDS * _SLOWER_BLOCK,
                calls=_WARMUP_CALLS,
                seconds=_WARMUP_SECONDS,
            )["wall"]
            for process in self._processes
        )
        calls = max(1, math.ceil(_BLOCK_SECONDS * _NS / max(fastest, 1)))
        patience += _SLOWER_BLOCK * calls * fastest / _NS
        blocks = {process: _Running(calls) for process in self._processes}
        order = list(self._processes)
        first = monotonic()
        next_look = 0.0
        while True:
            self._chance.shuffle(order)
            for process in order:
                blocks[process].add(self._ask(process, "run", patience, calls=calls))
            seconds = monotonic() - first
            if seconds < next_look:
                continue
            base, head = (blocks[process].blocks() for process in self._processes)
            meeting = Meeting(base, head, calls, round(monotonic() - began, 3), not_pinned)
            cpu, waiting = rules([meeting], self._noise_floor)
            if is_enough(meeting, seconds, cpu, waiting):
                return meeting
            next_look = max(next_look, math.floor(seconds / cpu.first_look) * cpu.first_look)
            next_look += cpu.first_look


@dataclass(slots=True)
class _Running:
    """The blocks of a side, as they come."""

    calls: int
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    waiting: list[float] = field(default_factory=list)

    def add(self, times: Message) -> None:
        """Keep the times of a block, which come in nanoseconds."""
        wall, cpu, queued = times["wall"], times["cpu"], times["queued"]
        if cpu <= 0:
            raise ValueError("the clock has seen no CPU time pass in a block of its calls")
        # The clocks are not read in the same instant.
        for kept, ns in ((self.cpu, cpu), (self.wall, wall), (self.waiting, wall - cpu - queued)):
            kept.append(float(f"{ns / self.calls / _NS:.{_DIGITS}g}"))

    def blocks(self) -> Blocks:
        """Return those that have come so far."""
        return Blocks(tuple(self.cpu), tuple(self.wall), tuple(self.waiting))


def _core() -> int:
    """Return the core that both sides share: the last one, as the first serve most interrupts."""
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0


def _spoken(processes: Iterable[SideProcess], seconds: float) -> list[SideProcess]:
    """Return the sides that have something to say, when one has or the time is over."""
    waited_for = list(processes)
    if ready := [process for process in waited_for if process.wire.has_message()]:
        return ready
    with selectors.DefaultSelector() as selector:
        for process in waited_for:
            selector.register(process.wire.fileno(), selectors.EVENT_READ, process)
        return [key.data for key, _ in selector.select(max(0.0, seconds))]


def _what_hangs(
    late: Sequence[SideProcess], events: Mapping[SideProcess, Message], seconds: float
) -> str:
    who = " and ".join(process.label for process in late)
    call = next((event["call"] for event in events.values() if event["did"] == "arrive"), "")
    there = " and ".join(process.label for process in events)
    what = f"to {call}, where {there} waited" if call else "to the end of the test"
    return f"{who} did not come {what}, within {seconds:,.0f} s"


def _because(collected: Message, nodeid: str) -> str:
    """Return why a side lacks a test, if it has said so."""
    errors: dict[str, str] = collected["errors"]
    reason = errors.get(nodeid.partition("::")[0])
    return f" ({reason})" if reason else ""


def _printed(processes: Iterable[SideProcess]) -> list[str]:
    """Return what sides have printed."""
    return [f"{one.label} printed:\n{text}" for one in processes if (text := one.output())]
