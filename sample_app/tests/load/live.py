"""The service as it runs in production: uvicorn in processes of its own, on a free port."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import psutil

INSTANCE: Final = "X-Instance"
LOCUSTFILE: Final = "sample_app/tests/load/locustfile.py"
# Of each worker: few, so that it takes few users to keep all of them busy.
THREADS: Final = 4
_ROOT: Final = Path(__file__).parents[3]
# A machine that is busy with tests may take its time.
_PATIENCE: Final = 60.0
# Between two looks at a service that starts.
_PAUSE: Final = 0.1
_ADDRESS: Final = re.compile(r"Uvicorn running on (http://[\w.:]+)")
_STARTED: Final = "Application startup complete."


@dataclass(frozen=True, slots=True)
class LiveServer:
    """A service that answers."""

    url: str
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """Of the process that has started the workers, or that is the only one."""
        return self.process.pid

    def workers(self) -> list[psutil.Process]:
        """Return the processes that answer requests."""
        below = psutil.Process(self.pid).children()
        return [each for each in below if any("spawn_main" in word for word in each.cmdline())]

    def replace_a_worker(self) -> None:
        """End a worker as a machine does that has no memory left, and wait for the next to answer.

        Uvicorn looks after its workers twice a second.
        """
        known = {str(worker.pid) for worker in self.workers()}
        self.workers()[0].kill()
        deadline = time.monotonic() + _PATIENCE
        while self.answering() in {"", *known}:
            assert time.monotonic() < deadline, f"nobody took its place in {_PATIENCE:.0f} s"
            time.sleep(_PAUSE)

    def answering(self) -> str:
        """Return who answers a request, by a new connection; empty if nobody does."""
        connection = HTTPConnection("127.0.0.1", urlsplit(self.url).port, timeout=_PATIENCE)
        with closing(connection), suppress(OSError, HTTPException):
            connection.request("GET", "/healthz")
            return connection.getresponse().headers.get(INSTANCE, "")
        return ""


@contextmanager
def serving(log: Path, environment: Mapping[str, str], workers: int) -> Iterator[LiveServer]:
    """Run the service until the block has ended; what it says is in ``log``."""
    with log.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 - the service itself
            [
                sys.executable, "-m", "uvicorn", "sample_app.main:app", "--host", "127.0.0.1",
                "--port", "0", "--workers", str(workers), "--no-access-log",
                "--timeout-graceful-shutdown", "1",
            ],
            cwd=_ROOT,
            env={**_own_environment(), "SAMPLE_APP_INSTANCE_HEADER": INSTANCE, **environment},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield _ready(process, log, workers)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _own_environment() -> dict[str, str]:
    """Return the environment without what would have the service measured, too."""
    unwanted = ("PYTEST", "COVERAGE", "COV_CORE")
    return {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}


def _ready(process: subprocess.Popen[bytes], log: Path, workers: int) -> LiveServer:
    """Return the service when all workers have started and one has answered."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        text = log.read_text("utf-8", "replace")
        address = _ADDRESS.search(text)
        if address is not None and text.count(_STARTED) >= workers:
            server = LiveServer(address[1], process)
            if server.answering():
                return server
        time.sleep(_PAUSE)
    msg = (
        f"the service was not ready within {_PATIENCE:.0f} s:\n{log.read_text('utf-8', 'replace')}"
    )
    raise RuntimeError(msg)
