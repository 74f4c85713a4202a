"""Ends what this process has started when it cannot do so itself any more.

A guardian is a small process that does nothing but wait for the end of the one that started it,
and ends the groups of processes that are left then: also where that one was killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from typing import Self

# Its input ends when there is no process left that holds the other end.
_GUARDIAN = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
def send(number):
    for group in list(groups):
        try:
            os.killpg(group, number)
        except OSError:
            groups.discard(group)
send(signal.SIGINT)
end = time.monotonic() + 2
while groups and time.monotonic() < end:
    time.sleep(0.02)
    send(0)
send(signal.SIGKILL)
"""


class Guardian:
    """Ends groups of processes when this process has ended."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own text
            [sys.executable, "-I", "-S", "-c", _GUARDIAN],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=os.sep,
            start_new_session=True,
            encoding="ascii",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        self._process.wait()

    def watch(self, group: int) -> None:
        """End that group if this process ends before it says otherwise."""
        self._tell(f"+{group}")

    def forget(self, group: int) -> None:
        """Leave a group alone that has ended: its number may become that of another."""
        self._tell(f"-{group}")

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        # Without a guardian the processes still end with this one, if it can end them.
        with suppress(OSError):
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
