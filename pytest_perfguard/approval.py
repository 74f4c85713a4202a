"""What a session does to the files of baselines when it ends: record, tighten, tell what is gone.

Only the process that has all reports does this, under a lock, so that the bytes do not depend on
how the tests were spread or ordered.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import pytest

from pytest_perfguard.baseline_files import (
    FOLDER,
    Tests,
    file_of,
    held_text,
    locked,
    name_of,
    read,
    render,
    write,
)
from pytest_perfguard.baseline_profiles import forget
from pytest_perfguard.baselines import (
    NO_DATABASE,
    Entry,
    databases,
    differences,
    entry_of,
    is_same,
    pick,
    plan_changes,
    renew,
    tighten,
    widen,
)
from pytest_perfguard.errors import BaselineError
from pytest_perfguard.model import Record, Status

_MAX_CHANGES = 8
Entries = Mapping[str, Entry]
# Of every test that was found whether it is compared with a baseline, by file and name.
Collected = Mapping[str, Mapping[str, bool]]


@dataclass(slots=True)
class Approval:
    """What was done, as lines for the report.

    Attributes:
        problems: what could not be done; the session must not look like a success.
    """

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def record_all(
    root: Path, records: Iterable[Record], again: Mapping[str, Record] | None = None
) -> Approval:
    """Record what the tests cost now as their baselines.

    Args:
        root: directory that the files' names are below.
        again: a second measurement of the same tests, by node id; where it differs a range is
            recorded.
    """
    records = [record for record in records if record.baseline]
    approval = Approval()
    passed = [record for record in records if record.outcome == "passed" and not record.errors]
    left = [record.nodeid for record in records if record.outcome == "failed" or record.errors]

    def approve(entries: Entries, record: Record) -> tuple[Entries, list[str]]:
        now, kind = entry_of(record), databases(record)
        held = pick(entries, kind)
        if again is None:
            now = renew(held, now)
        elif record.nodeid in again:
            now = widen(now, entry_of(again[record.nodeid]))
        else:
            return entries, ["      not recorded: it did not pass when it was run once more"]
        if not now:
            return {}, ["      removed: nothing is counted in it any more"]
        if kind in entries and held is not None and is_same(held, now) and held.note == now.note:
            return entries, []
        kept = {} if kind == NO_DATABASE else _of_databases(entries)
        return {**kept, kind: now}, changes(held, now)

    _change(root, passed, approve, approval, "baselines recorded")
    approval.lines += [f"  not recorded, because it failed: {nodeid}" for nodeid in left]
    return approval


def _of_databases(entries: Entries) -> Entries:
    """Return the entries of a test that uses a database, and may have begun to just now."""
    return {kind: entry for kind, entry in entries.items() if kind != NO_DATABASE}


def tighten_all(root: Path, records: Iterable[Record]) -> Approval:
    """Lower the baselines of tests that have become better than them."""
    approval = Approval()
    better = [
        record
        for record in records
        if record.outcome == "passed"
        and not record.breaches
        and any(verdict.status is Status.IMPROVED for verdict in record.verdicts)
    ]

    def lower(entries: Entries, record: Record) -> tuple[Entries, list[str]]:
        kind = databases(record)
        held = pick(entries, kind)
        if held is None:
            return entries, []
        tight = tighten(held, entry_of(record))
        kept = entries if kind == NO_DATABASE else _of_databases(entries)
        return {**kept, kind: tight}, [] if is_same(held, tight) else changes(held, tight)

    _change(root, better, lower, approval, "baselines tightened")
    return approval


def _change(
    root: Path,
    records: Iterable[Record],
    renewed: Callable[[Entries, Record], tuple[Entries, list[str]]],
    approval: Approval,
    title: str,
) -> None:
    by_file: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: record.nodeid):
        by_file.setdefault(record.baseline, []).append(record)
    if not by_file:
        return
    unchanged, lines = 0, []
    for name, of_file in sorted(by_file.items()):
        path = root / name
        told = []
        try:
            with locked(path):
                held = read(path).tests
                tests: dict[str, Entries] = dict(held)
                for record in of_file:
                    test = name_of(record.nodeid)
                    tests[test], changed = renewed(tests.get(test, {}), record)
                    told += [f"    {test}", *changed] if changed else []
                    unchanged += not changed
                if render(tests) != render(held):
                    write(path, tests)
        except BaselineError as error:
            approval.problems.append(error.below(root))
        else:
            lines += [f"  {name}", *told] if told else []
    known = f" ({unchanged:,} unchanged)" if unchanged else ""
    if lines or unchanged:
        approval.lines += [f"{title}{known}:" if lines else f"{title}: {unchanged:,} unchanged"]
        approval.lines += lines


def changes(held: Entry | None, now: Entry) -> list[str]:
    """Return what differs between two entries, as a diff that is read line by line."""
    if held is None:
        shown = [f"{name} {held_text(value)}" for name, value in now.metrics.items() if value]
        lines = [f"new: {', '.join(shown)}"]
    else:
        names = sorted({**held.metrics, **now.metrics})
        pairs = [(name, held.metrics.get(name), now.metrics.get(name)) for name in names]
        moved = [(name, old, new) for name, old, new in pairs if old != new]
        width = max((len(name) for name, _, _ in moved), default=0)
        lines = [
            f"{name:<{width}}  {'-' if old is None else held_text(old)} -> "
            f"{'-' if new is None else held_text(new)}"
            for name, old, new in moved
        ]
        done = [*plan_changes(held, now), *differences(held, now)]
        lines += done[:_MAX_CHANGES]
        if len(done) > _MAX_CHANGES:
            lines.append(f"... and {len(done) - _MAX_CHANGES} more")
        lines = lines or ["other lines"]
    lines += [now.note] if now.note else []
    return [f"      {line}" for line in lines]


# -- what is gone --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gone:
    """An entry that no test is compared with any more.

    Attributes:
        file: where it stands.
        test: what the test was called.
        why: ``is gone``, ``was renamed to test_b?``, ``has no perf_baseline any more``.
    """

    file: Path
    test: str
    why: str

    def told(self, root: Path) -> str:
        """Return it as a line."""
        path = self.file.relative_to(root) if self.file.is_relative_to(root) else self.file
        return f"{path.as_posix()}: {self.test} {self.why}"


def find_gone(
    config: pytest.Config, collected: Collected, records: Iterable[Record] = ()
) -> list[Gone]:
    """Return the entries that belong to no test of those that the session was to collect.

    Args:
        collected: whether a test is compared with a baseline, by its file and its name there.
        records: of the tests that ran; new ones may be old ones under another name.
    """
    places = [Path(config.invocation_params.dir, argument) for argument in config.args]
    skip = config.getini("norecursedirs")
    known = {config.rootpath / file: tests for file, tests in collected.items()}
    new = {record.nodeid: entry_of(record) for record in records if record.is_new}
    gone = []
    for path in sorted({*known, *_files_below(places, skip)}):
        try:
            held = read(path).tests
        except BaselineError:
            continue  # whoever uses it is told
        if path in known:
            tests = known[path]
            missing = [test for test in held if not tests.get(test)]
        elif _module_exists(path):
            continue
        else:
            tests, missing = {}, list(held)
        gone += [Gone(path, test, _why(test, held[test], test in tests, new)) for test in missing]
    return gone


def _why(test: str, entries: Entries, exists: bool, new: Mapping[str, Entry]) -> str:  # noqa: FBT001 - a fact of the test
    if exists:
        return "is compared with its baseline no more: nothing asks for it"
    held = entries.values()
    alike = [nodeid for nodeid, now in new.items() if any(is_same(old, now) for old in held)]
    # Of the variants of a test, that with the same parameters.
    variant = test.partition("[")[2]
    alike = [nodeid for nodeid in alike if nodeid.partition("[")[2] == variant] or alike
    return f"is gone: renamed to {alike[0]}?" if len(alike) == 1 else "is gone"


def _module_exists(path: Path) -> bool:
    folder, name = path.parent.parent, path.stem
    return any(folder.joinpath(candidate).exists() for candidate in (f"{name}.py", name))


def _files_below(places: Iterable[Path], skip: Sequence[str]) -> Iterator[Path]:
    for place in places:
        if place.is_file():
            yield from [path] if (path := file_of(place)).exists() else []
            continue
        for folder, below, files in os.walk(place):
            below[:] = [
                name
                for name in below
                if not any(fnmatch(name, pattern) for pattern in skip)
                and not Path(folder, name, "pyvenv.cfg").exists()
            ]
            if Path(folder).name == FOLDER:
                yield from (Path(folder, name) for name in files if name.endswith(".json"))


def prune(root: Path, gone: Iterable[Gone]) -> Approval:
    """Take the entries of tests that are gone out of their files."""
    approval = Approval()
    by_file: dict[Path, list[Gone]] = {}
    for entry in gone:
        by_file.setdefault(entry.file, []).append(entry)
    if not by_file:
        return approval
    lines: list[str] = []
    for path, entries in by_file.items():
        try:
            with locked(path):
                tests: Tests = read(path).tests
                names = {entry.test for entry in entries}
                write(path, {test: found for test, found in tests.items() if test not in names})
        except BaselineError as error:
            approval.problems.append(error.below(root))
        else:
            for entry in entries:
                forget(path, entry.test)
                lines.append(f"  {entry.told(root)}")
    approval.lines += ["baselines removed:", *lines] if lines else []
    return approval
