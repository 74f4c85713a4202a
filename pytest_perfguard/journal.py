"""What a session leaves behind when it is killed, so that the next one can tell what was lost.

A file is written whole or not at all, so after a ``kill -9`` there is the one of the run before,
which looks like today's. While a session has files to write, its journal stands in the folder of
artefacts, and the operating system holds a lock on it for as long as the process lives.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from filelock import FileLock

_FOLDER = "running"


class Journal:
    """The tests that a session has measured, one a line, until it has written its files.

    Args:
        artifacts: folder for the files that explain a run.
        files: what the session will write, as the user named it.
    """

    def __init__(self, artifacts: Path, started: datetime, files: Sequence[str]) -> None:
        stem = f"{started:%Y%m%dT%H%M%S}-{os.getpid()}"
        self._folder = artifacts / _FOLDER
        self._path = self._folder / f"{stem}.txt"
        self._lock = _lock(self._path)
        self._file: TextIO | None = None
        self._head = f"{started:%Y-%m-%d %H:%M:%S} UTC\t{', '.join(files)}\n"

    def begin(self) -> None:
        """Begin; a folder that cannot be written costs the session nothing but this."""
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(blocking=False)
            self._file = self._path.open("w", encoding="utf-8", errors="backslashreplace")
            self._write(self._head)

    def note(self, nodeid: str) -> None:
        """Note that a test was measured."""
        self._write(nodeid.replace("\n", " ") + "\n")

    def _write(self, line: str) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.write(line)
                self._file.flush()

    def end(self) -> None:
        """End: the files are written."""
        if self._file is not None:
            self._file.close()
            _remove(self._path, self._lock)


def lost_sessions(artifacts: Path) -> list[str]:
    """Return what sessions that were killed have lost, one a line, and forget them."""
    said = []
    for path in sorted((artifacts / _FOLDER).glob("*.txt")):
        from filelock import Timeout  # noqa: PLC0415 - rarely needed

        lock = _lock(path)
        try:
            lock.acquire(blocking=False)
        except (Timeout, OSError):
            # It is running.
            continue
        with suppress(OSError):
            said.append(_told(path.read_text(encoding="utf-8", errors="replace").splitlines()))
        _remove(path, lock)
    return said


def _told(lines: Sequence[str]) -> str:
    head, *tests = lines or [""]
    started, _, files = head.partition("\t")
    one = len(tests) == 1
    measured = f"what {len(tests):,} test{'' if one else 's'} had measured is lost"
    last = f" (the last was {tests[-1]})" if tests else ""
    return (
        f"the session of {started or 'an unknown time'} was killed before it wrote "
        f"{files or 'its files'}: {'nothing had been measured' if not tests else measured + last}; "
        "a file that is there is of an earlier session"
    )


def _lock(path: Path) -> FileLock:
    from filelock import FileLock  # noqa: PLC0415 - rarely needed

    return FileLock(path.with_suffix(".lock"))


def _remove(path: Path, lock: FileLock) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)
    lock.release()
    with suppress(OSError):
        Path(lock.lock_file).unlink(missing_ok=True)
        # If there is nothing else in them.
        path.parent.rmdir()
        path.parent.parent.rmdir()
