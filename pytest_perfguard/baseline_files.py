"""Files of baselines: one for each test module, beside it, made to be read in a pull request.

``tests/__perfguard__/test_api.json`` holds one value a line, sorted, and nothing that differs
between machines or days, so that a change of one test is a change of its lines, and branches that
change other tests merge. A file that is not exactly that is an error that names the line and what
to do: a baseline that is passed over in silence would let everything through.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_perfguard.baselines import Entry, Held, Operations, bounds
from pytest_perfguard.errors import BaselineError
from pytest_perfguard.metrics import METRICS
from pytest_perfguard.model import encodable
from pytest_perfguard.writing import replace_file

FOLDER = "__perfguard__"
SCHEMA = 1
_CONFLICT = re.compile(r"^(?:<{7}|={7}|>{7}|\|{7})(?: |$)", re.MULTILINE)
_RESTORE = "restore it from version control, or delete it and record it again (--perfguard-update)"

# Entries by test, and by the kind of database that the test used.
Tests = Mapping[str, Mapping[str, Entry]]


@dataclass(frozen=True, slots=True)
class BaselineFile:
    """What stands in one file.

    Attributes:
        tests: entries by test and kind of database; a test is named by its node id without the
            path of its module.
        lines: 1-based line of each metric, by test, kind of database and name.
    """

    tests: Tests = field(default_factory=dict)
    lines: Mapping[tuple[str, str, str], int] = field(default_factory=dict)


def file_of(module: Path) -> Path:
    """Return where the baselines of a test module are."""
    name = module.stem if module.suffix == ".py" else module.name
    return module.parent / FOLDER / f"{name}.json"


def name_of(nodeid: str) -> str:
    """Return what a test is called in the file of its module."""
    path, separator, test = nodeid.partition("::")
    return encodable(test if separator else path.rpartition("/")[2])


def render(tests: Tests) -> str:
    """Return the text of a file."""
    data = {
        "schema": SCHEMA,
        "tests": {
            test: {kind: _entry_data(entry) for kind, entry in entries.items()}
            for test, entries in tests.items()
            if entries
        },
    }
    return encodable(json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def _entry_data(entry: Entry) -> dict[str, Any]:
    data: dict[str, Any] = {
        "metrics": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in entry.metrics.items()
        },
        "operations": entry.operations,
    }
    more = {"note": entry.note, "plans": entry.plans}
    return data | {name: value for name, value in more.items() if value}


def read(path: Path) -> BaselineFile:
    """Read a file; one that is not there is empty.

    Raises:
        BaselineError: if it is there and cannot be used.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return BaselineFile()
    except UnicodeDecodeError as error:
        raise BaselineError(path, f"is not UTF-8: {error.reason}", _RESTORE) from None
    except OSError as error:
        raise BaselineError(
            path, f"cannot be read: {error.strerror}", "check its permissions"
        ) from None
    return parse(text, path)


def parse(text: str, path: Path) -> BaselineFile:
    """Read the text of a file.

    Raises:
        BaselineError: if it is not what :func:`render` writes, as far as it matters.
    """
    if not text.strip():
        raise BaselineError(path, "is empty", _RESTORE)
    if conflict := _CONFLICT.search(text):
        line = text.count("\n", 0, conflict.start()) + 1
        raise BaselineError(
            path,
            f"holds the marks of a merge conflict, in line {line}",
            "resolve it: either side will do, and --perfguard-update then records what is true",
        )
    try:
        data = json.loads(text, object_pairs_hook=_refuse_twins)
    except json.JSONDecodeError as error:
        raise BaselineError(
            path, f"is not JSON: {error.msg} in line {error.lineno}", _RESTORE
        ) from None
    except (ValueError, RecursionError) as error:
        raise BaselineError(path, f"cannot be used: {error}", _RESTORE) from None
    schema = data.get("schema") if isinstance(data, dict) else None
    if isinstance(schema, int) and not isinstance(schema, bool) and schema > SCHEMA:
        raise BaselineError(
            path,
            f"has schema {schema}, this version of pytest-perfguard reads {SCHEMA}",
            "use the version that wrote it, or a newer one",
        )
    if schema != SCHEMA or isinstance(schema, bool) or set(data) != {"schema", "tests"}:
        raise BaselineError(path, "is not a file of baselines", _RESTORE)
    try:
        tests = {
            test: {kind: _entry(found) for kind, found in _dict(entries).items()}
            for test, entries in _dict(data["tests"]).items()
        }
    except _UnknownMetricError as error:
        raise BaselineError(
            path,
            f"has a metric that this version of pytest-perfguard does not compare: {error}",
            f"use the version that wrote it, or a newer one; else {_RESTORE}",
        ) from None
    except (_FormatError, RecursionError) as error:
        raise BaselineError(path, f"is not a file of baselines: {error}", _RESTORE) from None
    return BaselineFile(tests, _lines(text))


class _FormatError(ValueError):
    pass


class _UnknownMetricError(_FormatError):
    pass


def _refuse_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twin!r} stands in it twice, as after a merge")
    return found


def _dict(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise _FormatError(f"{_short(data)} where names and values should be")
    return data


def _entry(data: Any) -> Entry:
    fields = _dict(data)
    if unknown := set(fields) - {"metrics", "operations", "note", "plans"}:
        raise _FormatError(f"unknown {_short(min(unknown))}")
    if not isinstance(fields.get("note", ""), str):
        raise _FormatError(f"{_short(fields['note'])} is not a note")
    metrics = {name: _held(name, value) for name, value in _dict(fields.get("metrics")).items()}
    plans = _dict(fields.get("plans", {}))
    if any(not isinstance(used, str) for used in plans.values()):
        raise _FormatError(f"{_short(plans)} does not name the indexes of statements")
    return Entry(metrics, _operations(fields.get("operations")), fields.get("note", ""), plans)


def _held(name: str, value: Any) -> Held:
    if name not in METRICS or not METRICS[name].stored:
        raise _UnknownMetricError(_short(name))
    values = value if isinstance(value, list) else [value]
    numbers = [
        v
        for v in values
        if isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= sys.float_info.max
    ]
    if not 0 < len(numbers) == len(values) <= 2 or sorted(numbers) != numbers:  # noqa: PLR2004 - a range
        raise _FormatError(f"{_short(value)} is no value of {name}")
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


def _operations(data: Any) -> Operations:
    found: dict[str, dict[str, dict[str, int]]] = {}
    for probe, operations in _dict(data).items():
        for text, lines in _dict(operations).items():
            for line, count in _dict(lines).items():
                if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                    raise _FormatError(f"{_short(count)} is no number of operations")
                found.setdefault(probe, {}).setdefault(text, {})[line] = count
    return found


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"  # noqa: PLR2004 - fits on a line


_KEY = re.compile(r'^( *)("(?:[^"\\]|\\.)*"): (.*)')
_METRIC_DEPTH = 5


def _lines(text: str) -> dict[tuple[str, str, str], int]:
    """Return the line of each metric; none of a file that was laid out in another way."""
    found: dict[tuple[str, str, str], int] = {}
    names: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        if match := _KEY.match(line):
            depth = len(match[1])
            names[depth - 1 :] = [json.loads(match[2])] if depth <= len(names) + 1 else []
            if len(names) == _METRIC_DEPTH and names[0] == "tests" and names[3] == "metrics":
                found[names[1], names[2], names[4]] = number
    return found


# -- writing -------------------------------------------------------------------------------


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other sessions from writing a file between reading and writing it.

    The lock is a file among the temporary ones, so that nothing is left in the project.

    Raises:
        BaselineError: if it cannot be locked.
    """
    from filelock import FileLock  # noqa: PLC0415 - only whoever writes needs it

    user = getattr(os, "getuid", int)()
    name = f"perfguard-{user}-{zlib.crc32(os.fsencode(path.resolve())):08x}.lock"
    place = Path(tempfile.gettempdir())
    lock = FileLock(place / name)
    try:
        lock.acquire()
    except OSError as error:
        raise BaselineError(
            path, f"cannot be locked: {error.strerror}", f"check the permissions of {place}"
        ) from None
    try:
        yield
    finally:
        lock.release()


def write(path: Path, tests: Tests) -> None:
    """Write a file whole or not at all; one without any test is removed.

    Raises:
        BaselineError: if it cannot be written.
    """
    try:
        if any(tests.values()):
            replace_file(path, render(tests))
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise BaselineError(
            path, f"cannot be written: {error.strerror}", "check the permissions of its folder"
        ) from None


def held_text(value: Held) -> str:
    """Return a value as it is shown in a list of changes."""
    low, high = bounds(value)
    return f"{low:,g}" if low == high else f"{low:,g} to {high:,g}"
