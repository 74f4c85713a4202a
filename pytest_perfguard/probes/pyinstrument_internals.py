"""What is used of pyinstrument beyond its documented interface, in one place.

Its ``Profiler`` cannot run inside another one of the same context, and hands out its samples only
as a whole. The sampler below it can: each sample is handed over as it is taken, so that it can be
given to the span that it belongs to.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any, NamedTuple

from pytest_perfguard.callsite import waiting_frames
from pytest_perfguard.errors import MissingExtraError

try:
    from pyinstrument.frame import AWAIT_FRAME_IDENTIFIER
    from pyinstrument.frame_info import parse_frame_info
    from pyinstrument.renderers import HTMLRenderer
    from pyinstrument.session import Session
    from pyinstrument.stack_sampler import (
        active_profiler_context_var,
        build_call_stack,
        get_stack_sampler,
    )
except ImportError:
    raise MissingExtraError("pyinstrument", "profile") from None

INTERVAL = 0.001
AWAIT = "[await]"
# Frames that are kept of a stack at either end.
_DEEPEST = 150

# Frames of one sample, outermost first, as pyinstrument writes them, and the seconds it stands for.
Record = tuple[list[str], float]
Saw = Callable[[list[str], float], None]


class Code(NamedTuple):
    """A frame of a record, read.

    Attributes:
        function: with its class in front of it, where it is a method.
        file: of the code; in angle brackets where there is none.
        line: the line that ran; 0 where it is not known.
    """

    function: str
    file: str
    line: int


def read(frame: str) -> Code:
    """Read a frame of a record."""
    identifier, attributes = parse_frame_info(frame)
    function, file, first = [*identifier.split("\x00"), "", ""][:3]
    named = {attribute[:1]: attribute[1:] for attribute in attributes}
    if "c" in named:
        function = f"{named['c']}.{function}"
    line = named.get("l") or first
    return Code(function, file, int(line) if line.isdecimal() else 0)


class Sampler:
    """Takes samples of the thread that starts it, until the same thread stops it.

    Args:
        saw: is given each sample.
        follow: stay with the coroutine that starts it, and count the time in which it waits as
            its own, rather than whatever runs in the thread.
    """

    def __init__(self, saw: Saw, *, follow: bool) -> None:
        self._saw = saw
        self._follow = follow
        self._outer: object = None

    def start(self) -> None:
        """Begin to take samples."""
        if self._follow:
            # Each context has room for one; the one around this one is put back afterwards.
            self._outer = active_profiler_context_var.get()
            active_profiler_context_var.set(None)
        get_stack_sampler().subscribe(
            self._sample, desired_interval=INTERVAL, use_async_context=self._follow
        )

    def stop(self) -> bool:
        """Take no more samples.

        Returns:
            Whether this is the thread that started it.
        """
        sampler = get_stack_sampler()
        try:
            sampler.unsubscribe(self._sample)
        except sampler.SubscriberNotFound:
            return False
        if self._follow:
            active_profiler_context_var.set(self._outer)
        return True

    def _sample(self, stack: list[str], seconds: float, state: Any) -> None:
        if state is not None and state.state == "out_of_context_awaited":
            self._saw([*state.info, AWAIT_FRAME_IDENTIFIER], seconds)
        else:
            self._saw(_with_waiting(stack), seconds)


def _with_waiting(stack: list[str]) -> list[str]:
    """Return the stack with what waits for the greenlet in which it ends before it."""
    if "greenlet" not in sys.modules:
        return stack
    whole: list[str] = []
    for frame in reversed(list(waiting_frames())):
        whole += stack_of(frame)[1:]
    return [*stack[:1], *whole, *stack[1:]] if whole else stack


def stack_of(frame: FrameType | None) -> list[str]:
    """Return the frames around one, outermost first; the thread comes before all."""
    return build_call_stack(frame, "initial", None)


def _folded(stack: list[str]) -> list[str]:
    """Leave out the middle of a very deep stack: the page is made by recursion."""
    if len(stack) <= 2 * _DEEPEST:
        return stack
    middle = "... more frames\x00<left out>\x000"
    return [*stack[:_DEEPEST], middle, *stack[-_DEEPEST:]]


def html(records: Iterable[Record], title: str, seconds: float, cpu: float) -> str:
    """Return pyinstrument's page of the records."""
    kept: list[Record] = []
    samples = 0
    for stack, spent in records:
        samples += 1
        folded = _folded(stack)
        if kept and kept[-1][0] == folded:
            spent += kept.pop()[1]  # noqa: PLW2901 - one after the other they are one
        kept.append((folded, spent))
    session = Session.from_json(
        {
            "frame_records": kept,
            "start_time": time.time(),
            "duration": seconds,
            "min_interval": INTERVAL,
            "max_interval": INTERVAL,
            "sample_count": samples,
            "start_call_stack": [""],
            "target_description": title,
            "cpu_time": cpu,
        }
    )
    page: str = HTMLRenderer().render(session)
    return page
