"""Processes that run the tests of a side, and their end.

Each is the leader of a group of its own, so that Ctrl-C reaches only the coordinator, and whatever
its tests have started ends with it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress

from pytest_perfguard.errors import DuetError
from pytest_perfguard.guardian import Guardian
from pytest_perfguard.sides import Side, end_of, environment_of
from pytest_perfguard.wire import DESCRIPTOR, Wire

_PATIENCE = 5.0
_EVERY = 0.02


class SideProcess:
    """A pytest that runs the tests of one side, with a turnstile.

    Attributes:
        side: which one.
        wire: what it says.
    """

    def __init__(self, side: Side, arguments: Sequence[str], guardian: Guardian) -> None:
        if not hasattr(socket, "AF_UNIX") or not hasattr(os, "killpg"):
            raise DuetError("two sides can be timed on Linux and macOS only")
        self.side = side
        self._guardian = guardian
        # It has no name that would have to be removed.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by end()
        ours, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the user's own tests
                [str(side.python), "-m", "pytest", "-p", "pytest_perfguard.turnstile", *arguments],
                cwd=side.folder,
                env={**environment_of(side), DESCRIPTOR: str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            self._output.close()
            raise DuetError(f"{side.label}: {side.python} cannot be started: {error}") from None
        finally:
            theirs.close()
        self.wire = Wire(ours)
        guardian.watch(self._process.pid)

    @property
    def label(self) -> str:
        """What it is called."""
        return self.side.label

    def ended(self, seconds: float) -> bool:
        """Wait for its end; return whether it has come in that time."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def how_ended(self) -> str:
        """Say how it has ended, for one whose wire has."""
        self.ended(_PATIENCE)
        code = self._process.returncode
        if code is None:
            return "has closed its wire"
        if code >= 0:
            return f"ended with exit code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"was killed ({name})"

    def output(self) -> str:
        """Return the end of what it has printed."""
        return end_of(self._output)

    def interrupt(self) -> None:
        """Ask it to clean up and end."""
        if self._process.poll() is None:
            with suppress(OSError):
                self._process.send_signal(signal.SIGINT)

    def end(self) -> None:
        """End it with all that it has started."""
        with suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._guardian.forget(self._process.pid)
        self.wire.close()
        self._output.close()


def end_all(processes: Iterable[SideProcess], *, politely: bool) -> None:
    """End processes.

    Args:
        politely: let them clean up before, for a limited time.
    """
    started = list(processes)
    try:
        if politely:
            for process in started:
                process.interrupt()
            end = time.monotonic() + _PATIENCE
            while time.monotonic() < end and not all(one.ended(_EVERY) for one in started):
                pass
    finally:
        for process in started:
            process.end()
