"""Pins the process to one core while it is timed.

A thread that is moved from core to core finds cold caches and another clock speed each time, and
two threads that hand work to each other are faster or slower by where they happen to run. On one
core they always do the same. All threads of the process are pinned: those of a test client's event
loop are running already; those that start meanwhile inherit it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_THREADS = Path("/proc/self/task")
# Threads may start while others are being pinned.
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Pinning:
    """Whether a process is pinned.

    Attributes:
        core: number of the core; None if it is not.
        reason: why it is not; empty if it is.
    """

    core: int | None
    reason: str = ""

    def __bool__(self) -> bool:
        return self.core is not None


@contextmanager
def pinned(core: int | None = None) -> Iterator[Pinning]:
    """Pin the process with all of its threads to one core, and let each go where it could before.

    Args:
        core: which one; by default the last that is allowed: the first ones serve most interrupts.
    """
    if not hasattr(os, "sched_setaffinity") or not _THREADS.is_dir():
        yield Pinning(None, "this platform cannot bind a thread to a core")
        return
    own = os.sched_getaffinity(0)
    chosen = max(own) if core is None else core
    allowed: dict[int, set[int]] = {}
    try:
        try:
            _pin_all(chosen, allowed)
        except (OSError, ValueError) as error:
            _release(allowed, own)
            allowed.clear()
            reason = getattr(error, "strerror", None) or error
            pinning = Pinning(None, f"core {chosen} is not to be had: {reason}")
        else:
            pinning = Pinning(chosen)
        yield pinning
    finally:
        _release(allowed, own)


def _pin_all(core: int, allowed: dict[int, set[int]]) -> None:
    """Pin every thread, and note where each was allowed before."""
    for _ in range(_ATTEMPTS):
        new = [thread for thread in _threads() if thread not in allowed]
        if not new:
            return
        for thread in new:
            with suppress(ProcessLookupError):  # it has ended
                before = os.sched_getaffinity(thread)
                os.sched_setaffinity(thread, {core})
                allowed[thread] = before


def _release(allowed: Mapping[int, set[int]], own: set[int]) -> None:
    """Let every thread go where it could before; those that are new, where this one could."""
    if not allowed:
        return
    for thread in _threads():
        with suppress(OSError):
            os.sched_setaffinity(thread, allowed.get(thread, own))


def _threads() -> list[int]:
    return [int(entry.name) for entry in _THREADS.iterdir()]
