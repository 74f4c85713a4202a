"""A thread that does something every so many seconds, for as long as somebody wants it."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Periodic:
    """Acts from a thread of its own, under a lock of its owner's.

    Args:
        name: of the thread.
        period: seconds between two acts.
        lock: held during each act; that of the owner, who calls :meth:`run` and :meth:`halted`
            with it.
        act: what is done.
    """

    def __init__(
        self, name: str, period: float, lock: threading.RLock, act: Callable[[], object]
    ) -> None:
        self._name = name
        self._period = period
        self._lock = lock
        self._act = act
        self._thread: threading.Thread | None = None
        self._halt = threading.Event()

    @property
    def runs(self) -> bool:
        """Whether there is a thread that has not been told to end."""
        return self._thread is not None

    def run(self) -> None:
        """Begin to act, if it does not already."""
        if self._thread is None:
            self._halt = threading.Event()
            self._thread = threading.Thread(
                target=self._repeat, args=(self._halt,), name=self._name, daemon=True
            )
            self._thread.start()

    def halted(self) -> threading.Thread | None:
        """Tell the thread to end; it has to be joined without the lock, which it may wait for."""
        self._halt.set()
        thread, self._thread = self._thread, None
        return thread

    def _repeat(self, halt: threading.Event) -> None:
        while not halt.wait(self._period):
            with self._lock:
                if halt.is_set():
                    return
                self._act()


def join(thread: threading.Thread | None) -> None:
    """Wait for the end of a thread, if there is one."""
    if thread is not None:
        thread.join()
