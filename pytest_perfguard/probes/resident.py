"""The memory that this process holds, as the operating system counts it, and how much it may hold.

It is read with psutil, which knows every system. On Linux the kernel also keeps a mark of the
highest it has been ("VmHWM", see proc(5)), which writing 5 to ``clear_refs`` sets back: what was
taken and given back between two looks is seen by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

# By name: a test that puts another getpid into os is about its own code.
from os import getpid
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pytest_perfguard.errors import MissingExtraError, PerfguardError

_PROC = Path("/proc/self")
_GROUPS = Path("/sys/fs/cgroup")
_RESET = "5"
_HIGHEST = "VmHWM:"


class Limit(NamedTuple):
    """What a process may hold, in bytes, and what says so."""

    size: int
    what: str


class UnreadableError(PerfguardError):
    """The system does not say how much memory the process holds, or a test has put itself between.

    Args:
        reason: what came instead.
    """

    def __init__(self, reason: object) -> None:
        named = reason if isinstance(reason, str) else f"{type(reason).__name__}: {reason}"
        found = " ".join(named.split())
        super().__init__(
            f"the memory of the process could not be read ({found:.120}): it is read from the "
            "system's files by psutil, so do not replace open(), the file system or psutil where "
            "memory is budgeted"
        )


class Resident:
    """Reads the resident memory of the process that makes it.

    Attributes:
        pid: of the process. After a fork the other process has to leave this one alone.
        has_mark: whether the system keeps a mark of the highest, and lets us set it back.

    Raises:
        MissingExtraError: if psutil is not installed.
        UnreadableError: if it does not say anything of this process.
    """

    def __init__(self) -> None:
        try:
            import psutil  # noqa: PLC0415 - only loaded where memory is asked for
        except ImportError:
            raise MissingExtraError("psutil", "process") from None
        self.pid = getpid()
        # Whatever a test has put in the place of files or of psutil may raise anything.
        try:
            self._process = psutil.Process(self.pid)
            self._physical = _size(psutil.virtual_memory().total)
        except Exception as error:
            raise UnreadableError(error) from error
        self.now()
        self.has_mark = self.reset()

    def now(self) -> int:
        """Return the resident memory in bytes.

        Raises:
            UnreadableError: if nobody says.
        """
        try:
            return _size(self._process.memory_info().rss)
        except Exception as error:
            raise UnreadableError(error) from error

    def highest(self) -> int:
        """Return the highest resident memory since :meth:`reset` in bytes, 0 if nobody knows."""
        with suppress(Exception):  # a test may have replaced what reads files
            for line in _PROC.joinpath("status").read_text("ascii", "replace").splitlines():
                if line.startswith(_HIGHEST):
                    return int(line.split()[1]) * 1024
        return 0

    def reset(self) -> bool:
        """Set the kernel's mark back to what is resident now; return whether that was done."""
        try:
            _PROC.joinpath("clear_refs").write_text(_RESET, "ascii")
        except Exception:  # noqa: BLE001 - a test may have replaced what writes files
            return False
        return self.highest() > 0

    def limit(self) -> Limit:
        """Return the smallest of the limits of the process's control groups, else what there is."""
        limits = [Limit(self._physical, "the physical memory of the machine")]
        with suppress(Exception):  # as above
            limits += group_limits(_PROC, _GROUPS)
        return min(limits, key=lambda limit: limit.size)


def _size(size: object) -> int:
    if not isinstance(size, int) or size <= 0:
        raise TypeError(f"{size!r:.60} is no size")
    return size


def group_limits(proc: Path, groups: Path) -> Iterator[Limit]:
    """Yield the limits of the control groups that a process is in, and of those around them.

    A path that is not there inside a container is that of the host; the group of the container is
    then what it sees as the outermost.

    Args:
        proc: the process's folder, such as ``/proc/self``.
        groups: where control groups are mounted.
    """
    try:
        lines = proc.joinpath("cgroup").read_text("utf-8", "replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not controllers:
            file, mounts = "memory.max", [groups, groups / "unified"]
        elif "memory" in controllers.split(","):
            file, mounts = "memory.limit_in_bytes", [groups / "memory"]
        else:
            continue
        inside = PurePosixPath("/", *(part for part in path.split("/") if part not in ("", "..")))
        for group in (inside, *inside.parents):
            for mount in mounts:
                # Where there is no limit, version 2 says "max" and version 1 a number beyond all.
                with suppress(OSError, ValueError):
                    text = mount.joinpath(*group.parts[1:], file).read_text("ascii")
                    yield Limit(int(text), f"{file} of the control group {group}")
