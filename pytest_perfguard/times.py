"""The store of times: what processes have measured, kept apart by the environment they ran in.

A store is a folder with one folder for each environment, named by a digest of it, which has an
``environment.json`` that says in words what it is, and a file for each process. The files have
random names and are never changed, so that stores are merged by copying. Times of another Python,
processor or library version are not comparable; they can be told of, not judged by.

Nothing that is wrong with a store is passed over: a file that is truncated, of something else or of
a newer version is an error that names it, and is left as it was.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import secrets
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from pytest_perfguard.errors import StoreError, TimingError
from pytest_perfguard.samples import Sample, is_number, is_whole
from pytest_perfguard.writing import replace_file

SCHEMA_VERSION = 1
KEEP = 30
ENVIRONMENT_FILE = "environment.json"

# Distributions that requests and queries run through, drivers and event loops included. What counts
# is whether they are installed: what is loaded depends on which tests are run.
_DISTRIBUTIONS = (
    "pytest-perfguard",
    *("starlette", "fastapi", "flask", "werkzeug", "django", "djangorestframework", "litestar"),
    *("httpx", "httpx2", "httpcore", "h11", "requests", "urllib3", "aiohttp"),
    *("anyio", "uvloop", "trio", "greenlet", "asgiref"),
    *("pydantic", "pydantic-core", "msgspec", "orjson", "jinja2", "marshmallow"),
    *("sqlalchemy", "sqlmodel", "alembic", "asyncpg", "psycopg", "psycopg2", "psycopg2-binary"),
    *("aiosqlite", "mysqlclient", "pymysql", "aiomysql", "asyncmy", "oracledb", "pyodbc"),
    *("redis", "hiredis", "fakeredis", "celery", "cachetools", "dogpile.cache"),
)
_DIGEST_LENGTH = 12
_DIGEST = re.compile(rf"[0-9a-f]{{{_DIGEST_LENGTH}}}")
_REMEDY = "delete it, or restore it from where the store comes from"

Environment = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Times:
    """What one process has measured of one timing.

    Attributes:
        kind: sort of client; see :func:`pytest_perfguard.references.client_kind`.
        sample: CPU time beside reference work, and the time spent waiting.
        statistics: wall times in seconds by the name of their statistic; they are shown, not
            judged.
        py_calls: calls of Python functions; None where they could not be counted.
    """

    kind: str
    sample: Sample
    statistics: Mapping[str, float] = field(default_factory=dict)
    py_calls: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str):
            raise TimingError(f"{self.kind!r} is no sort of client")
        for name, value in self.statistics.items():
            if not is_number(value, 0):
                raise TimingError(f"{name}={value!r} is no time")
        if self.py_calls is not None and not is_whole(self.py_calls):
            raise TimingError(f"py_calls={self.py_calls!r} is no number of calls")

    def to_dict(self) -> dict[str, Any]:
        """Return this object as JSON data."""
        return {
            "kind": self.kind,
            "sample": self.sample.to_dict(),
            "statistics": dict(self.statistics),
            "py_calls": self.py_calls,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote."""
        return cls(**{**data, "sample": Sample.from_dict(data["sample"])})


# By node id and by the name of the timing.
Timings = Mapping[str, Mapping[str, Times]]


@dataclass(frozen=True, slots=True)
class Process:
    """What one process has measured.

    Attributes:
        written: when, as ISO 8601 in UTC, which is how the newest are told.
        timings: by node id and by the name of the timing.
    """

    written: str
    timings: Timings


@dataclass(frozen=True, slots=True)
class OtherEnvironment:
    """Processes that ran somewhere else.

    Attributes:
        processes: how many are stored.
        differences: in what it differs, e.g. ``python 3.12.1 instead of 3.11.7``.
    """

    processes: int
    differences: tuple[str, ...]

    def __str__(self) -> str:
        number = f"{self.processes} process{'' if self.processes == 1 else 'es'}"
        return f"not comparable: {number} of another environment ({', '.join(self.differences)})"


@dataclass(frozen=True, slots=True)
class Stored:
    """What a store knows for one environment.

    Attributes:
        processes: those of that environment, the oldest first.
        others: the other environments that processes are stored of, those with most first.
    """

    processes: tuple[Process, ...] = ()
    others: tuple[OtherEnvironment, ...] = ()

    def times(self, nodeid: str, name: str) -> tuple[Times, ...]:
        """Return what each process has measured of a timing, where it has."""
        return tuple(
            process.timings[nodeid][name]
            for process in self.processes
            if name in process.timings.get(nodeid, {})
        )

    def samples(self, nodeid: str, name: str) -> tuple[Sample, ...]:
        """Return what the gate judges by."""
        return tuple(times.sample for times in self.times(nodeid, name))


def environment() -> dict[str, str]:
    """Return what CPU times depend on, even beside reference work: as readable data."""
    known = {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "build": f"{' '.join(platform.python_build())}, {platform.python_compiler()}",
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": _cpu(),
        "libc": " ".join(platform.libc_ver()).strip(),
        "optimize": str(sys.flags.optimize),
        "tracing": _tracing(),
    }
    for name in _DISTRIBUTIONS:
        with suppress(PackageNotFoundError):
            known[name] = version(name)
    return known


def digest(of: Environment) -> str:
    """Return the name of an environment's folder."""
    text = json.dumps(dict(of), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_LENGTH]


def add(store: Path, of: Environment, timings: Timings, keep: int = KEEP) -> Path:
    """Add a process to a store and return its file; the oldest of its environment go.

    Args:
        store: the folder; it is made if it is not there.
        of: the environment that it ran in.
        timings: what it has measured.
        keep: how many processes of one environment are kept.

    Raises:
        StoreError: if something cannot be written, or if what is stored for that environment
            cannot be read. Nothing is written then.
    """
    if keep < 1:
        raise StoreError(f"{keep} processes to keep leave nothing to judge by: keep at least 1")
    folder = store / digest(of)
    known = _read_folder(folder, of)
    written = datetime.now(UTC).isoformat(timespec="microseconds")
    file = folder / f"{secrets.token_hex(8)}.json"
    data = _process_data(written, timings)
    try:
        if not (folder / ENVIRONMENT_FILE).exists():
            _write(folder / ENVIRONMENT_FILE, {"schema": SCHEMA_VERSION, **_plain(of)})
        _write(file, data)
        oldest = sorted(known, key=lambda path: (known[path].written, path.name))
        for path in oldest[: max(0, len(oldest) + 1 - keep)]:
            path.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        raise StoreError(f"{file} cannot be written: {_reason(error)}") from error
    return file


def forget(store: Path, of: Environment, nodeids: Collection[str]) -> None:
    """Take tests out of what is stored for an environment, because they cost something else now.

    Raises:
        StoreError: if a file cannot be read or written.
    """
    for path, process in _read_folder(store / digest(of), of).items():
        kept = {nodeid: named for nodeid, named in process.timings.items() if nodeid not in nodeids}
        try:
            if not kept:
                path.unlink(missing_ok=True)
            elif len(kept) < len(process.timings):
                _write(path, _process_data(process.written, kept))
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {_reason(error)}") from error


def _process_data(written: str, timings: Timings) -> dict[str, Any]:
    return {
        "schema": SCHEMA_VERSION,
        "written": written,
        "timings": {
            nodeid: {name: times.to_dict() for name, times in sorted(named.items())}
            for nodeid, named in sorted(timings.items())
        },
    }


def read(store: Path, of: Environment) -> Stored:
    """Read what a store knows for an environment; nothing if it is not there.

    Raises:
        StoreError: if something in it is not what it should be.
    """
    own = digest(of)
    others = []
    for folder in _folders(store):
        if folder.name != own:
            other = _read_environment(folder)
            if number := len(_files(folder)):
                others.append(OtherEnvironment(number, tuple(_differences(other, of))))
    processes = _read_folder(store / own, of)
    return Stored(
        tuple(
            processes[path]
            for path in sorted(processes, key=lambda path: (processes[path].written, path.name))
        ),
        tuple(sorted(others, key=lambda other: (-other.processes, other.differences))),
    )


def _cpu() -> str:
    """Return the model of the processor; on ARM, the numbers that stand for it."""
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        lines = (line.partition(":") for line in reversed(text.splitlines()))
        found = {key.strip(): value.strip() for key, _, value in lines}
        for names in (("model name",), ("CPU implementer", "CPU part", "CPU variant"), ("uarch",)):
            if known := " ".join(found[name] for name in names if found.get(name)):
                return known
    return platform.processor()


def _tracing() -> str:
    """Return what slows Python down, coverage above all: times with and without do not compare."""
    found = [name for name in ("trace", "profile") if getattr(sys, f"get{name}")() is not None]
    if sys.version_info >= (3, 12):
        tools = (sys.monitoring.get_tool(tool) for tool in range(6))
        found += [f"monitoring by {tool}" for tool in tools if tool is not None]
    return ", ".join(found) or "none"


def _differences(other: Environment, own: Environment) -> Iterator[str]:
    for name in [*own, *sorted(other.keys() - own.keys())]:
        if other.get(name) != own.get(name):
            yield f"{name} {other.get(name, 'missing')} instead of {own.get(name, 'none')}"


def _plain(of: Environment) -> dict[str, Any]:
    return {"digest": digest(of), "environment": dict(of)}


def _write(path: Path, data: object) -> None:
    replace_file(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def _folders(store: Path) -> list[Path]:
    """Return the folders of all environments."""
    folders = []
    for path in _entries(store):
        if not path.is_dir() or not _DIGEST.fullmatch(path.name):
            raise StoreError(f"{path} does not belong into a store of times: move it elsewhere")
        folders.append(path)
    return folders


def _files(folder: Path) -> list[Path]:
    """Return the files of an environment's processes."""
    files = []
    for path in _entries(folder):
        if path.name == ENVIRONMENT_FILE:
            continue
        if path.suffix != ".json" or path.is_dir():
            raise StoreError(f"{path} does not belong into a store of times: move it elsewhere")
        files.append(path)
    return files


def _entries(folder: Path) -> list[Path]:
    """Return what is in a folder, but for hidden files such as those that are being written."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"{folder} cannot be read: {_reason(error)}") from error


def _read_folder(folder: Path, of: Environment) -> dict[Path, Process]:
    files = _files(folder)
    if not files and not (folder / ENVIRONMENT_FILE).exists():
        return {}
    found = _read_environment(folder)
    if found != dict(of):
        raise StoreError(f"{folder / ENVIRONMENT_FILE} is of another environment: {_REMEDY}")
    processes = {}
    for path in files:
        with suppress(FileNotFoundError):  # one that was the oldest a moment ago
            processes[path] = _read_process(path)
    return processes


def _read_environment(folder: Path) -> dict[str, str]:
    path = folder / ENVIRONMENT_FILE
    try:
        data = _load(path, {"digest", "environment"})
    except FileNotFoundError as error:
        raise StoreError(f"{path} is missing: {_REMEDY}") from error
    found = data["environment"]
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise StoreError(f"{path} holds no environment: {_REMEDY}")
    if not data["digest"] == digest(found) == folder.name:
        raise StoreError(f"{path} is of another environment than its folder: {_REMEDY}")
    return dict(found)


def _read_process(path: Path) -> Process:
    data = _load(path, {"written", "timings"})
    try:
        # In one form, so that the newest can be told by their text.
        written = datetime.fromisoformat(data["written"]).astimezone(UTC)
        return Process(
            written.isoformat(timespec="microseconds"),
            {
                nodeid: {name: Times.from_dict(times) for name, times in named.items()}
                for nodeid, named in data["timings"].items()
            },
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise StoreError(
            f"{path} does not hold the times of a process: {error!r}: {_REMEDY}"
        ) from error


def _load(path: Path, fields: set[str]) -> dict[str, Any]:
    """Read a file of the store, which has its schema and these fields.

    Raises:
        FileNotFoundError: if it is not there.
        StoreError: if it is not JSON, or of a schema that is not known here.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {_reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is not JSON: {error}: {_REMEDY}") from error
    if not isinstance(data, dict) or "schema" not in data:
        raise StoreError(f"{path} does not belong into a store of times: {_REMEDY}")
    schema = data["schema"]
    if not is_whole(schema, 1):
        raise StoreError(f"{path} has schema {schema!r}, which is none: {_REMEDY}")
    if schema != SCHEMA_VERSION:
        raise StoreError(
            f"{path} has schema {schema}, this version reads {SCHEMA_VERSION}: use the version of "
            "pytest-perfguard that wrote it, or another store"
        )
    if data.keys() != {"schema", *fields}:
        raise StoreError(
            f"{path} has {', '.join(sorted(data))}, not schema, {', '.join(sorted(fields))}: "
            f"{_REMEDY}"
        )
    return data


def _reason(error: Exception) -> object:
    return getattr(error, "strerror", None) or error
