"""What a run of pytest on a side of a comparison has shown, and what of two of them compares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_perfguard.ab_results import Apart
from pytest_perfguard.model import Record


@dataclass(frozen=True, slots=True)
class Observed:
    """What a run of pytest on a side has shown.

    Attributes:
        records: of tests that passed, by node id.
        endings: how each test ended, by node id: ``passed``, or why it did not.
        collect_errors: why files could not be collected, by path.
        origins: file of each module of interest, by name; of those that processes of the run have
            loaded from different files, all of them.
        files: of the tests that were found, but for code that a doctest is in.
        conftests: that were loaded.
        root: pytest's root directory.
        ini: the file that pytest was configured by; None if there is none.
    """

    records: Mapping[str, Record]
    endings: Mapping[str, str]
    collect_errors: Mapping[str, str]
    origins: tuple[Mapping[str, str], ...]
    files: frozenset[Path]
    conftests: frozenset[Path]
    root: Path
    ini: Path | None


def observed(records: Iterable[Record], told: Sequence[Mapping[str, Any]]) -> Observed:
    """Return what a run has shown.

    Args:
        records: that it has written.
        told: what each of its processes has reported.
    """
    endings: dict[str, str] = {}
    for each in told:
        for nodeid, phases in each["outcomes"].items():
            endings[nodeid] = _ending(phases)
    first = told[0]
    return Observed(
        records={r.nodeid: r for r in records if endings.get(r.nodeid) == "passed"},
        endings=endings,
        collect_errors={k: v for each in told for k, v in each["collect_errors"].items()},
        origins=tuple(each["origins"] for each in told),
        files=frozenset(Path(file) for each in told for file in each["files"]),
        conftests=frozenset(Path(file) for each in told for file in each["conftests"]),
        root=Path(first["root"]),
        ini=Path(first["ini"]) if first["ini"] else None,
    )


def _ending(phases: Mapping[str, str]) -> str:
    """Return how a test ended: the first of its phases that did not pass tells."""
    for phase, said in phases.items():
        if said != "passed":
            return said if phase == "call" or said.startswith("skipped") else f"{phase} {said}"
    return "passed" if "call" in phases else "it did not run"


def is_timed(record: Record) -> bool:
    """Return whether a test times something."""
    return any(span.timing is not None for span in record.span.walk())


def is_busy(record: Record) -> bool:
    """Return whether anything was observed in a test, or measured for a limit of its own."""
    return any(tally.count for span in record.span.walk() for tally in span.tallies) or any(
        verdict.value is not None and not verdict.idle for verdict in record.verdicts
    )


# Somebody has said that it does not have to pass.
_LET_BE = ("skipped", "xfailed")


def not_comparable(before: Observed, after: Observed) -> list[Apart]:
    """Return what cannot be compared, with the reason."""
    found = [
        Apart(path, f"cannot be collected in head: {error}")
        for path, error in after.collect_errors.items()
    ]
    found += [
        Apart(path, f"cannot be collected with the code of base: {error}")
        for path, error in before.collect_errors.items()
        if path not in after.collect_errors
    ]
    broken = {each.nodeid for each in found}
    for nodeid in before.endings.keys() | after.endings.keys():
        was, now = before.endings.get(nodeid), after.endings.get(nodeid)
        if (was is None or now is None) and nodeid.partition("::")[0] in broken:
            continue
        if reason := _reason(was, now):
            is_lost = was == "passed" and now is not None and not now.startswith(_LET_BE)
            found.append(Apart(nodeid, reason, is_lost))
        elif nodeid not in before.records or nodeid not in after.records:
            found.append(Apart(nodeid, "is not measured"))
    return found


def _reason(was: str | None, now: str | None) -> str:
    if was is None or now is None:
        return f"exists in {'head' if was is None else 'base'} only"
    if was == now:
        return "" if was == "passed" else f"on both sides: {now}"
    if "passed" in (was, now):
        return (
            f"passes in base only; in head: {now}"
            if was == "passed"
            else f"passes in head only; in base: {was}"
        )
    return f"in base: {was}; in head: {now}"
