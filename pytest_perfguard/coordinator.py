"""Runs the timed calls of two sides in turns, and judges them.

Two worker processes, one of each side, run the tests in lock-step and whatever they time in turns:
see :mod:`pytest_perfguard.lockstep`. When all tests have run, those with a call that seems to have
changed are run again by two fresh processes, and once more: see :mod:`pytest_perfguard.duet`.

A side that does not come to a call, comes to another one, fails or dies makes the call not
comparable, with the reason; after one that hangs or has died, both are started again for the tests
that are left.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pytest_perfguard.duet import DuetResult
from pytest_perfguard.errors import DuetError
from pytest_perfguard.guardian import Guardian
from pytest_perfguard.lockstep import Found, Limits, LostError, Session
from pytest_perfguard.side_processes import SideProcess, end_all
from pytest_perfguard.sides import Side

_ARGUMENTS = ("--perfguard", "--perfguard-profile=never", "--perfguard-time=off")
# What the random order of blocks begins with, so that a run can be repeated.
_SEED = 1


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it has got.

    Attributes:
        pair: which pair of fresh processes is at work; the second and third one have few tests.
        done: tests of this pair that have been run.
        total: tests of this pair.
        nodeid: the test that is run; empty while tests are collected.
        call: the call that is timed; empty between two of them.
    """

    pair: int
    done: int
    total: int
    nodeid: str = ""
    call: str = ""


OnProgress = Callable[[Progress], object]


def run_duets(
    sides: tuple[Side, Side],
    tests: Sequence[str],
    *,
    pytest_args: Sequence[str] = (),
    on_progress: OnProgress | None = None,
    noise_floor: float | None = None,
    limits: Limits | None = None,
) -> dict[str, DuetResult]:
    """Time every call of the tests on both sides, and judge it.

    Args:
        sides: base and head.
        tests: node ids of the tests to run, of those that the arguments select.
        pytest_args: arguments of pytest, the same for both.
        on_progress: is told how far it has got.
        noise_floor: share by which calls of the same code differ here, which widens the limit.
        limits: how long a side is waited for.

    Returns:
        By node id and call, what is said of it; by node id alone where a test cannot be compared.

    Raises:
        DuetError: if no test could be run on both sides.
    """
    duets = _Duets(sides, pytest_args, on_progress, noise_floor, limits or Limits())
    return duets.run(tests)


class _Duets:
    """All pairs of fresh processes, one after the other."""

    def __init__(
        self,
        sides: tuple[Side, Side],
        arguments: Sequence[str],
        on_progress: OnProgress | None,
        noise_floor: float | None,
        limits: Limits,
    ) -> None:
        self._sides = sides
        self._arguments = (*_ARGUMENTS, *arguments)
        self._on_progress = on_progress
        self._noise_floor = noise_floor
        self._limits = limits
        self._found = Found()
        self._chance = random.Random(_SEED)  # noqa: S311 - an order

    def run(self, tests: Sequence[str]) -> dict[str, DuetResult]:
        """Run the tests, and again those that may have changed."""
        left = list(dict.fromkeys(tests))
        order = {nodeid: number for number, nodeid in enumerate(left)}
        found = self._found
        with Guardian() as guardian:
            for pair in itertools.count(1):
                self._run_pair(guardian, pair, left)
                for key in found.wanted or ():
                    # Whatever keeps it from being measured again must not look like a verdict.
                    if len(found.meetings[key]) < pair:
                        found.refuse(*key, f"pair {pair} of the processes did not come to it")
                results = found.results(self._noise_floor)
                again = [one for one in results.values() if one.is_open]
                if not again:
                    return dict(sorted(results.items(), key=lambda one: order[one[1].nodeid]))
                found.wanted = {(one.nodeid, one.call) for one in again}
                left = list(dict.fromkeys(one.nodeid for one in again))
        raise AssertionError

    def _run_pair(self, guardian: Guardian, pair: int, tests: list[str]) -> None:
        """Run tests by fresh processes; by others from where one of them was lost."""
        left = tests
        while left:
            done = len(tests) - len(left)

            def tell(at: int, nodeid: str = "", call: str = "", done: int = done) -> None:
                if self._on_progress is not None:
                    self._on_progress(Progress(pair, done + at, len(tests), nodeid, call))

            session = Session(self._limits, self._found, self._chance, self._noise_floor)
            processes: list[SideProcess] = []
            politely = True
            tell(0)
            try:
                for side in self._sides:
                    # One by one, so that the first one is ended if there is no second.
                    processes.append(SideProcess(side, self._arguments, guardian))  # noqa: PERF401
                session.start(processes, left)
                session.run(tell)
                politely = False
            except LostError as error:
                if not session.tests:
                    if pair == 1 and left == tests:
                        raise DuetError(str(error)) from None
                    for nodeid in left:
                        self._found.refuse_test(nodeid, str(error))
                    return
                self._found.refuse_test(session.tests[session.at], str(error))
            finally:
                end_all(processes, politely=politely)
            left = session.tests[session.at + 1 :]
