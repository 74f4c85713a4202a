"""Writing a file so that it is either the old one or the whole new one, whatever happens."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path


def replace_file(target: Path, text: str) -> None:
    """Write ``text`` to ``target``, making its folder where there is none.

    Raises:
        OSError: if it cannot be written; what was there is still there then.
    """
    # Beside the target, so that it can be moved onto it; opened plainly, so that the umask holds.
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with draft.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            # Who may read it is for its owner to say.
            draft.chmod(stat.S_IMODE(target.stat().st_mode))
        draft.replace(target)
    except OSError:
        with suppress(OSError):
            draft.unlink()
        raise


def write_whole(path: Path, text: str) -> None:
    """Write what a user has named: a file as :func:`replace_file` does, a device or a pipe plainly.

    Raises:
        OSError, ValueError, RuntimeError: if it cannot be written.
    """
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
    else:
        replace_file(path.resolve(), text)
