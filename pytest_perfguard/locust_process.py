"""Runs Locust: always as processes of its own, because importing it patches what a process has.

It gets a process group of its own, which is killed as a whole however the run ends: when it has
outlived its time, when the test is interrupted, and for what its workers may have left behind.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pytest_perfguard.errors import LoadError, MissingExtraError
from pytest_perfguard.guardian import Guardian
from pytest_perfguard.load_stats import EndpointLoad, Notes, read_stats

_LISTENER = Path(__file__).with_name("locust_listener.py")
# Seconds that Locust may take besides the run: to be imported on a busy machine, to gather its
# workers, for users to end what they have begun.
_START = 60
_STOP = 5
_POLL = 0.02
# Answers by user before what disturbs a load is called, so that it is known who answers.
_ANSWERS = 5
_MAX_OUTPUT = 2_000
# More than that is no test any more, but a campaign, which Locust is run for by itself.
MOST_SECONDS = 600
_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+)(?:, in (?P<function>.+))?$')
# What would make Locust's processes measure themselves, or take them for pytest's.
_UNWANTED = ("PYTEST", "COVERAGE", "COV_CORE")


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked of Locust.

    Attributes:
        user: classes of the locustfile; all of them if there are none.
        instances: header by which the instances of the service are told apart.
    """

    where: str
    locustfile: Path
    host: str
    users: int
    spawn_rate: float
    seconds: int
    processes: int
    user: tuple[str, ...]
    instances: str | None
    folder: Path


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of it; ``disturbed`` is when ``during`` was called, as a time of day."""

    endpoints: tuple[EndpointLoad, ...]
    notes: Notes
    disturbed: float | None


def require_locust() -> None:
    """Make sure that Locust is installed, without importing it, and has not been imported here.

    Raises:
        MissingExtraError: if it is not.
        LoadError: if it has been imported.
    """
    __tracebackhide__ = True
    if "locust" in sys.modules:
        raise LoadError(
            "Locust has been imported into the process of the tests, which gevent has patched: "
            "keep imports of it in locustfiles, and its own pytest plugin out with -p no:locust"
        )
    if find_spec("locust") is None:
        raise MissingExtraError("locust", "load")


def run_locust(ask: Ask, during: Callable[[], object] | None) -> Ran:
    """Run Locust and return what it has counted.

    Raises:
        LoadError: if it ends without a result.
    """
    __tracebackhide__ = True
    with tempfile.TemporaryDirectory(prefix="perfguard-load-") as name:
        folder = Path(name)
        output = folder / "output"
        with output.open("wb") as file, _guarded() as watch:
            process = subprocess.Popen(  # noqa: S603 - the user's own locustfile
                _command(ask, folder, during),
                cwd=ask.folder,
                env=_environment(ask, folder),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            watch(process.pid)
            try:
                disturbed = _wait(ask, process, folder, during)
            finally:
                _kill(process)
        said = output.read_text("utf-8", "replace")
        result = folder / "stats.json"
        if not result.exists():
            raise LoadError(f"{ask.where}: {why_it_ended(ask, process.returncode, said)}")
        notes = Notes.read(path.read_text("utf-8") for path in sorted(folder.glob("notes-*.json")))
        endpoints = read_stats(result.read_text("utf-8"), notes.started)
        return Ran(endpoints, notes, disturbed)


@contextmanager
def _guarded() -> Iterator[Callable[[int], object]]:
    """Give what has a group of processes ended with this process, however that ends."""
    if not hasattr(os, "killpg"):
        yield lambda _: None
        return
    with Guardian() as guardian:
        yield guardian.watch


def _command(ask: Ask, folder: Path, during: Callable[[], object] | None) -> list[str]:
    distributed = ["--processes", str(ask.processes)] if ask.processes > 1 else []
    if distributed:
        # A port that no other master has: two tests may run at once.
        port = str(_free_port())
        distributed += ["--master-bind-port", port, "--master-port", port]
        distributed += ["--master-bind-host", "127.0.0.1", "--expect-workers-max-wait", str(_START)]
    return [
        sys.executable, "-m", "locust", "--headless", "--skip-log-setup", "--only-summary",
        "-f", f"{ask.locustfile},{_LISTENER}",
        "--json-file", str(folder / "stats"),
        "--host", ask.host,
        "--users", str(ask.users),
        "--spawn-rate", f"{ask.spawn_rate:g}",
        "--run-time", f"{ask.seconds if during is None else MOST_SECONDS}s",
        "--stop-timeout", str(_STOP),
        *distributed,
        *ask.user,
    ]  # fmt: skip


def _free_port() -> int:
    import socket  # noqa: PLC0415 - only needed here

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _environment(ask: Ask, folder: Path) -> dict[str, str]:
    kept = {name: v for name, v in os.environ.items() if not name.startswith(_UNWANTED)}
    kept["PERFGUARD_LOAD_NOTES"] = str(folder)
    kept["PERFGUARD_LOAD_INSTANCES"] = ask.instances or ""
    kept["PERFGUARD_LOAD_UNDER_WAY"] = str(_ANSWERS * -(-ask.users // ask.processes))
    return {**kept, "PYTHONIOENCODING": "utf-8"}


def _wait(
    ask: Ask, process: subprocess.Popen[bytes], folder: Path, during: Callable[[], object] | None
) -> float | None:
    """Wait for the end; what disturbs the load is called when it is under way, and ends it."""
    __tracebackhide__ = True
    disturbed = None
    if during is None:
        _ends_within(process, ask.seconds)
    elif _await(process, _START, lambda: _is_under_way(ask, folder)):
        disturbed = time.time()
        during()
        _ends_within(process, ask.seconds)
        process.terminate()
    elif process.poll() is None:
        raise LoadError(
            f"{ask.where}: during= was not called, because within {_START} s {ask.users} users had "
            f"not got {_ANSWERS} answers each: let them wait less (wait_time), or come faster "
            "(spawn_rate=)"
        )
    if not _ends_within(process, _START + _STOP):
        raise LoadError(
            f"{ask.where}: Locust had not ended {_START + _STOP} s after its time of {ask.seconds} "
            "s, and was killed: does a user wait for ever (timeout=), or does a LoadTestShape of "
            "the locustfile go on?"
        )
    return disturbed


def _await(process: subprocess.Popen[bytes], seconds: float, condition: Callable[[], bool]) -> bool:
    """Wait until a condition holds; False if the process has ended before, or the time is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        if _ends_within(process, _POLL):
            return False
    return False


def _ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait for the end of a process; whether it has come."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.returncode is not None


def _is_under_way(ask: Ask, folder: Path) -> bool:
    """Return whether all users are there, and each process of Locust has got answers."""
    started = len(list(folder.glob("under-way-*")))
    return folder.joinpath("spawned").exists() and started >= ask.processes


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it has started."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def why_it_ended(ask: Ask, code: int, output: str) -> str:
    """Return why there is no result, from what Locust has printed."""
    name = ask.locustfile.name
    # Where it finds none, Locust takes the file for tests of pytest's, which may fail in turn.
    if "No User class found" in output or "in load_locustfile_pytest" in output:
        return f"{name} has no User class: write class APIUser(HttpUser) with a @task"
    if "Unknown User(s)" in output:
        return f"{name} has no User class that is called {' or '.join(ask.user)} (user=)"
    if "Traceback (most recent call last)" in output:
        place, error = last_traceback(output, ask.locustfile)
        place = place.removeprefix(f"{ask.folder}{os.sep}")
        return f"the locustfile is broken: {error}\n    at {place}"
    said = output.strip()[-_MAX_OUTPUT:] or "nothing"
    return f"Locust ended with exit code {code} and no result. It said:\n{said}"


def last_traceback(output: str, locustfile: Path) -> tuple[str, str]:
    """Return the line where the last traceback leads to, in the locustfile if it does, and why."""
    lines = output.partition("Traceback (most recent call last)")[2].splitlines()
    frames = [match for line in lines if (match := _FRAME.match(line))]
    own = [frame for frame in frames if Path(frame["file"]) == locustfile]
    near = own or [f for f in frames if not _is_installed(f["file"])] or frames
    error = next(
        (line for line in lines if re.match(r"[\w.]+(?:Error|Exception|Exit|Interrupt)\b", line)),
        next((line for line in reversed(lines) if line.strip()), "?"),
    )
    if not near:
        return str(locustfile), error
    last = near[-1]
    function = f" in {last['function']}" if last["function"] else ""
    return f"{last['file']}:{last['line']}{function}", error


def _is_installed(file: str) -> bool:
    return "site-packages" in file or file.startswith("<") or "importlib" in file
