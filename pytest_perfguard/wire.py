"""The wire between a coordinator and a turnstile: a pair of sockets, a line of JSON a message.

The worker inherits its end, so there is no address that others could reach and no file to be
removed. When either process ends, however that happens, the other one reads the end of it.
"""

from __future__ import annotations

import json
import socket
import time
from typing import Any

# Both sides have to run versions of perfguard that speak alike.
PROTOCOL = 1
# Number of the worker's end of the wire.
DESCRIPTOR = "PERFGUARD_TURNSTILE"
_CHUNK = 1 << 16


class WireClosed(Exception):  # noqa: N818 - it is how a wire ends, too
    """The other process has ended."""


class WireSilent(Exception):  # noqa: N818 - the one who waits decides whether it is an error
    """Nothing has come in time."""


class Wire:
    """One end of it."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._read = b""

    def fileno(self) -> int:
        """Return what can be waited for."""
        return self._end.fileno()

    def send(self, **message: Any) -> None:
        """Send a message.

        Raises:
            WireClosed: if there is nobody to read it.
        """
        try:
            self._end.settimeout(None)
            self._end.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            raise WireClosed from None

    def has_message(self) -> bool:
        """Return whether a message has been read already, and need not be waited for."""
        return b"\n" in self._read

    def receive(self, seconds: float | None = None) -> dict[str, Any]:
        """Return the next message.

        Args:
            seconds: how long it is waited for; by default for ever.

        Raises:
            WireClosed: if there will be no more.
            WireSilent: if none has come in that time.
        """
        end = None if seconds is None else time.monotonic() + seconds
        while not self.has_message():
            try:
                self._end.settimeout(None if end is None else max(end - time.monotonic(), 1e-3))
                chunk = self._end.recv(_CHUNK)
            except TimeoutError:
                raise WireSilent from None
            except OSError:
                raise WireClosed from None
            if not chunk:
                raise WireClosed
            self._read += chunk
        line, _, self._read = self._read.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def close(self) -> None:
        """Close this end."""
        self._end.close()
