"""What is against a run: each breach with its cause and line, those of one cause as one problem.

One line of code can make every test of a page fail. Whoever reads a pull request wants that line
once, and which tests it fails, so every report for such readers is made of this.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath

from pytest_perfguard.metrics import METRICS
from pytest_perfguard.model import Level, Record, Run, Span, Status, Tally, Verdict
from pytest_perfguard.reports.causes import Cause
from pytest_perfguard.reports.evidence import (
    causes,
    changed,
    compared,
    evidence,
    judged_span,
    merged_tallies,
    repeats,
    told_of,
)
from pytest_perfguard.units import Unit, show

# What can be blamed on a line of code.
_MEASURED = (Status.OVER, Status.REGRESSED)
_TOLD_PLACE = re.compile(r"([^\s:]+\.py):(\d+): ")
_MAX_CAUSE = 2_000


@dataclass(frozen=True, slots=True)
class Place:
    """A line in the repository; 0 where only the file is known."""

    file: str
    line: int
    function: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where} in {self.function}" if self.function else where


@dataclass(frozen=True, slots=True)
class Breach:
    """A limit that a test did not keep, or a mistake that makes its judgement void.

    Attributes:
        text: what is wrong, e.g. ``sql_queries 21 > 2``.
        verdict: None for a mistake.
        cause: what drove the value up, where a line can be blamed.
    """

    record: Record
    text: str
    verdict: Verdict | None = None
    cause: Cause | None = None

    @property
    def fails(self) -> bool:
        """Whether the test has to fail for it."""
        return self.verdict is None or self.verdict.level is Level.FAIL

    @property
    def place(self) -> Place:
        """The line of the user's code that is to blame; else the mistake's own, else the test."""
        site = self.cause.tally.site if self.cause else None
        if site is not None and site.line and is_below(site.file):
            return Place(site.file, site.line, site.function)
        told = _TOLD_PLACE.match(self.text) if self.verdict is None else None
        if told and is_below(told[1]):
            return Place(told[1], int(told[2]))
        return of_record(self.record)


@dataclass(frozen=True, slots=True)
class Problem:
    """All breaches that have one cause; without a known one, those of one test."""

    breaches: tuple[Breach, ...]

    @property
    def fails(self) -> bool:
        """Whether any test has to fail for it."""
        return any(breach.fails for breach in self.breaches)

    @property
    def tests(self) -> tuple[str, ...]:
        """The node ids of its tests."""
        return tuple(dict.fromkeys(breach.record.nodeid for breach in self.breaches))

    @property
    def worst(self) -> Breach:
        """The breach in which the cause did the most."""
        return max(self.breaches, key=lambda b: (b.fails, b.cause.tally.count if b.cause else 0))

    @property
    def title(self) -> str:
        """What is wrong, in one line."""
        worst = self.worst
        return worst.cause.title if worst.cause else worst.text

    @property
    def fix(self) -> str:
        """What to do about it, where that is known."""
        worst = self.worst
        return (worst.cause.fix or "") if worst.cause else ""

    @property
    def limits(self) -> tuple[str, ...]:
        """The breaches of its worst test, e.g. ``sql_queries 21 > 2``."""
        nodeid = self.worst.record.nodeid
        return tuple(dict.fromkeys(b.text for b in self.breaches if b.record.nodeid == nodeid))

    def lines(self, width: int = 100) -> list[str]:
        """Return what explains it: what was done, from which line, and what to do instead."""
        worst = self.worst
        verdicts = [b.verdict for b in self.breaches if b.verdict and b.record is worst.record]
        if worst.cause:
            lines = told_of(worst.cause, width)
        else:
            lines = [worst.text, *(f"    {v.reason}" for v in verdicts if v.reason)]
            names = {v.metric for v in verdicts if v.status in _MEASURED}
            span = judged_span(worst.record, verdicts[0]) if verdicts else None
            lines += evidence(span, names, width) if span and names else []
        return [line[:_MAX_CAUSE] for line in (*lines, *changed(verdicts))]


def problems(run: Run) -> list[Problem]:
    """Return what is against the run: what fails first, then what concerns most tests."""
    grouped: dict[tuple[object, ...], list[Breach]] = {}
    for breach in breaches(run.records):
        grouped.setdefault(_key(breach), []).append(breach)
    found = [Problem(tuple(group)) for group in grouped.values()]
    return sorted(found, key=lambda problem: (not problem.fails, -len(problem.tests)))


def breaches(records: Iterable[Record], *, waived: bool = False) -> Iterator[Breach]:
    """Yield the breaches of all tests; those that marks tolerate instead, on request."""
    for record in records:
        if not waived:
            yield from (Breach(record, error) for error in record.errors)
        for verdict in record.verdicts:
            if bool(verdict.waiver) if waived else verdict.breached:
                yield Breach(record, _text(verdict), verdict, _cause(record, verdict))


def of_record(record: Record) -> Place:
    """Return the line of a test."""
    return Place(record.nodeid.partition("::")[0], record.line)


def _text(verdict: Verdict) -> str:
    return " ".join((verdict.metric, compared(verdict)))


def _cause(record: Record, verdict: Verdict) -> Cause | None:
    if verdict.status not in _MEASURED:
        return None
    span = judged_span(record, verdict)
    if span is None:
        return None
    metrics = [verdict.metric]
    # What a whole span consists of is no cause while there is something that is known to be one.
    found = repeats(span, metrics) or _added(record, span, verdict) or causes(span, metrics)
    return next((cause for cause in found if cause.tally.site), None)


def _added(record: Record, span: Span, verdict: Verdict) -> list[Cause]:
    """Return what is done more often than when the baseline was recorded, for a count."""
    metric = METRICS[verdict.metric]
    if metric.unit is not Unit.COUNT or not metric.stored:
        return []
    lines = [line for known in record.verdicts for line in known.changes]
    more, less = (
        {line.rpartition("  at ")[2] for line in lines if line.startswith(sign)} for sign in "+-"
    )
    return [
        Cause(f"{tally.count}x {tally.label}, more than in the baseline", tally, tally.fix)
        for tally in merged_tallies(span)
        # A line that runs another statement instead of one has not added any.
        if tally.probe == metric.probe and str(tally.site) in more - less
    ]


def _key(breach: Breach) -> tuple[object, ...]:
    if breach.cause is None:
        mistake = breach.text if breach.verdict is None else ""
        return (breach.record.nodeid, mistake)
    return operation_key(breach.cause.tally)


def operation_key(tally: Tally) -> tuple[object, ...]:
    """Return what makes two causes one: what was done, from which line, for what."""
    site = tally.site
    return (tally.probe, tally.operation, tally.subject, site and (site.file, site.line))


def waivers(run: Run) -> list[tuple[str, str, str]]:
    """Return what is tolerated: until when and why, what it is, and where.

    Those that end first come first, those that never do last.
    """
    found = {
        (f"{verdict.waiver}", _text(verdict), record.nodeid): None
        for record in run.records
        for verdict in record.verdicts
        if verdict.waiver
    }
    for record in run.records:
        for span in record.span.walk():
            for finding in span.findings:
                if finding.waiver is not None:
                    where = str(finding.tally.site or "no line of your code")
                    found[(f"without an end: {finding.waiver}", finding.metric, where)] = None
    return sorted(found, key=lambda entry: (not entry[0].startswith("until "), *entry))


def moved(run: Run) -> list[tuple[str, str]]:
    """Return what differs from the baselines and is no breach: what differs, and the test."""
    return [
        (_moved(verdict), record.nodeid)
        for record in run.records
        for verdict in record.verdicts
        if verdict.status in (Status.IMPROVED, Status.CHANGED)
    ]


def _moved(verdict: Verdict) -> str:
    unit = METRICS[verdict.metric].unit
    limit, value = show(verdict.limit, unit), show(verdict.value, unit)
    if limit == value:
        return f"{verdict.metric} {value}, by other operations"
    return f"{verdict.metric} {limit} -> {value}, {verdict.status}"


def is_below(file: str) -> bool:
    """Return whether a file is named by a path below the root directory."""
    absolute = PurePosixPath(file).is_absolute() or PureWindowsPath(file).is_absolute()
    return bool(file) and not absolute and ".." not in PurePosixPath(file).parts


def in_repository(run: Run, file: str) -> str:
    """Return a path below the root directory as it is below the top of the repository."""
    folder = run.source.get("folder", "")
    return f"{folder}/{file}" if folder and is_below(file) else file
