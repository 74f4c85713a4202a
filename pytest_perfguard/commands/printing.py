"""What a command prints; its exit code is about the tests, not about who stops reading."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO, cast

from pytest_perfguard.runs import write_report
from pytest_perfguard.visible import visible


class _Patient:
    """Standard output that writes nowhere once its reader has seen enough, as head has."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text, or pretend to."""
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self.stop()
            return len(text)

    def flush(self) -> None:
        """Write what has been held back."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self.stop()

    def stop(self) -> None:
        """Send what is still to come nowhere: Python must not flush into the pipe at exit."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def patient_output() -> Iterator[None]:
    """Let commands print whether or not anybody reads it."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123 - no place for a file
        # Python has none where it was started with a closed one.
        stdout, stderr = (stream or nowhere for stream in (sys.stdout, sys.stderr))
        with redirect_stdout(cast("TextIO", _Patient(stdout))), redirect_stderr(stderr):
            yield


def complain(error: object) -> None:
    """Say on standard error what is wrong; what programs have said in it acts on no terminal."""
    first, *more = str(error).splitlines() or [""]
    lines = [f"perfguard: {first}", *more]
    # Nobody to tell it to changes no exit code.
    with suppress(OSError, ValueError):
        print("\n".join(map(visible, lines)), file=sys.stderr, flush=True)


def _say_in(encoding: str, text: str) -> None:
    """Print a file format in its encoding, whatever that of the terminal is."""
    buffer = getattr(sys.stdout, "buffer", None)
    if buffer is None:
        sys.stdout.write(text)
        return
    sys.stdout.flush()
    try:
        buffer.write(text.encode(encoding, "backslashreplace"))
        buffer.flush()
    except BrokenPipeError:
        cast("_Patient", sys.stdout).stop()


def add_output(parser: argparse.ArgumentParser, formats: Sequence[str]) -> None:
    """Add the options of a command that prints one of several formats, or writes it."""
    parser.add_argument(
        "--format", choices=formats, default="text", help="what it becomes (default: %(default)s)"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="where it goes (default: printed)"
    )


def deliver(text: str, options: argparse.Namespace) -> None:
    """Print or write what was asked for by the options of :func:`add_output`.

    Raises:
        RunFileError: if the file cannot be written.
    """
    if options.output is not None:
        write_report(text, options.output)
    elif options.format == "text":
        print(text, end="")
    else:
        _say_in("utf-8", text)
