"""``run.json``: the one exchange format. Every report is a function of it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pytest_perfguard.errors import RunFileError
from pytest_perfguard.model import SCHEMA_VERSION, Record, Run

_NAMED_DISTRIBUTIONS = ("pytest", "pytest-perfguard", "sqlalchemy")


def environment() -> dict[str, str]:
    """Return what the numbers of a run depend on: interpreter, machine, versions."""
    known = {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": platform.system(),
        "machine": platform.machine(),
    }
    for name in _NAMED_DISTRIBUTIONS:
        try:
            known[name] = version(name)
        except PackageNotFoundError:
            continue
    return known


def make_run(records: Iterable[Record]) -> Run:
    """Return a run of the given records, ordered by node id, made here and now."""
    ordered = sorted(records, key=lambda record: record.nodeid)
    return Run(environment=environment(), records=tuple(ordered))


def write_run(run: Run, path: Path) -> None:
    """Write a run; the file is either the old one or the whole new one, never a part.

    Parameters that were kept for the terminal are left out.

    Raises:
        RunFileError: if it cannot be written.
    """
    text = json.dumps(_without_samples(run.to_dict()), indent=1, ensure_ascii=False) + "\n"
    try:
        write_whole(path, text)
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunFileError(f"{path} cannot be written: {reason}") from error


def write_whole(path: Path, text: str) -> None:
    """Write a file, so that it is either the old one or the whole new one.

    Raises:
        OSError, ValueError, RuntimeError: if it cannot be written.
    """
    if path.exists() and not path.is_file():
        # A device or a pipe is written to, not replaced.
        path.write_text(text, encoding="utf-8")
    else:
        _replace(path.resolve(), text)


def _replace(target: Path, text: str) -> None:
    # Beside the target, so that it can be moved onto it; opened plainly, so that the umask holds.
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    except OSError:
        with suppress(OSError):
            draft.unlink()
        raise


def read_run(path: Path | str) -> Run:
    """Read a run.

    Raises:
        RunFileError: if it is not there, not whole, or of a schema that is not known here.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RunFileError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RunFileError(f"{path} is not JSON: {error}") from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA_VERSION:
        raise RunFileError(
            f"{path} has schema {schema!r}, this version reads {SCHEMA_VERSION}: "
            "write it again with --perfguard-json"
        )
    try:
        return Run.from_dict(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunFileError(f"{path} is not a run: {error!r}") from error


def _without_samples(data: Any) -> Any:
    if isinstance(data, dict):
        return {
            key: [] if key == "samples" else _without_samples(item) for key, item in data.items()
        }
    if isinstance(data, list):
        return [_without_samples(item) for item in data]
    return data
