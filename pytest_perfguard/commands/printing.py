"""What a command prints; its exit code is about the tests, not about who stops reading."""

from __future__ import annotations

import os
import sys


def say(text: str, *, encoding: str | None = None) -> None:
    """Print text that ends with its own newline.

    Whoever reads may have seen enough, as head has: then the rest goes nowhere.

    Args:
        text: what to print.
        encoding: that of a file format, whatever the terminal's is.
    """
    buffer = getattr(sys.stdout, "buffer", None)
    try:
        if encoding is None or buffer is None:
            sys.stdout.write(text)
        else:
            sys.stdout.flush()
            buffer.write(text.encode(encoding, "backslashreplace"))
        sys.stdout.flush()
    except BrokenPipeError:
        # Python must not flush into the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
