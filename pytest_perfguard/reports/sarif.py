"""A run as SARIF 2.1.0, the format of static analysis that code hosts show beside the code.

Each metric is a rule, and each cause that drives it over a limit a result, however many tests it
concerns. A result is known again by what was done in which function, so it survives that its line
moves. What is tolerated is a result too, suppressed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from pytest_perfguard.metrics import METRICS, Metric
from pytest_perfguard.model import Record, Run
from pytest_perfguard.reports.evidence import of_finding
from pytest_perfguard.reports.problems import (
    Breach,
    Place,
    Problem,
    breaches,
    in_repository,
    is_below,
    of_record,
)
from pytest_perfguard.units import EXAMPLES
from pytest_perfguard.visible import visible

_SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
_ROOT = "%SRCROOT%"
_FINGERPRINT = "perfguard/v1"
_MAX_LINE = 1_000
_MAX_TESTS = 20
_RULES = {name: number for number, name in enumerate(METRICS)}


def to_sarif(run: Run) -> str:
    """Return a run as the text of a SARIF file."""
    driver: dict[str, Any] = {
        "name": "pytest-perfguard",
        "rules": [_rule(metric) for metric in METRICS.values()],
    }
    if version := run.environment.get("pytest-perfguard"):
        driver["version"] = visible(version)
    told = {
        "tool": {"driver": driver},
        "invocations": [_invocation(run)],
        "originalUriBaseIds": {_ROOT: {"description": _text(["The top of the repository."])}},
        "results": [_result(run, group) for group in _groups(run)],
        "columnKind": "unicodeCodePoints",
    }
    log = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [told]}
    return json.dumps(log, indent=1, ensure_ascii=False) + "\n"


# -- rules ---------------------------------------------------------------------------------


def _rule(metric: Metric) -> dict[str, Any]:
    direction = "at least" if metric.higher_is_better else "at most"
    limit = f"A budget is {direction} the given limit, {EXAMPLES[metric.unit]}."
    guide = [f"Guide: {metric.guide}."] if metric.guide else []
    return {
        "id": metric.name,
        "shortDescription": _text([metric.help.partition(". ")[0].rstrip(".") + "."]),
        "fullDescription": _text([metric.help]),
        "help": _text([metric.help, limit, *guide]),
        "defaultConfiguration": {"level": "error"},
        "properties": {"tags": ["performance"], "unit": str(metric.unit)},
    }


# -- results -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Group:
    """Breaches of one metric that have one cause, and are tolerated for one reason or not."""

    metric: str
    problem: Problem
    fingerprint: str
    waiver: str = ""
    in_source: bool = False


def _groups(run: Run) -> Iterator[_Group]:
    """Yield what becomes a result."""
    grouped: dict[tuple[str, str, str, bool], list[Breach]] = {}
    for breach in (*breaches(run.records), *breaches(run.records, waived=True)):
        if breach.verdict is not None:
            verdict = breach.verdict
            key = (verdict.metric, _fingerprint(breach), verdict.waiver, False)
            grouped.setdefault(key, []).append(breach)
    for record in run.records:
        for metric, reason, breach in _waived_lines(record):
            key = (metric, _fingerprint(breach), reason, True)
            grouped.setdefault(key, []).append(breach)
    for (metric, fingerprint, waiver, in_source), found in grouped.items():
        yield _Group(metric, Problem(tuple(found)), fingerprint, waiver, in_source)


def _waived_lines(record: Record) -> Iterator[tuple[str, str, Breach]]:
    """Yield what comments in the source tolerate: metric, reason, and what it is."""
    for span in record.span.walk():
        for finding in span.findings:
            if finding.waiver is not None and finding.metric in METRICS:
                found = of_finding(finding)
                yield finding.metric, finding.waiver, Breach(record, found.title, cause=found)


def _fingerprint(breach: Breach) -> str:
    """Return what stays the same of a cause when lines are added above it."""
    if breach.cause is None:
        known = [breach.record.nodeid, breach.verdict.span if breach.verdict else ""]
    else:
        tally, place = breach.cause.tally, breach.place
        known = [tally.operation, place.file, place.function, tally.subject or ""]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def _result(run: Run, group: _Group) -> dict[str, Any]:
    problem = group.problem
    tests = problem.tests
    more = f", and in {len(tests) - 1:,} more test{'s' * (len(tests) > 2)}" * (len(tests) > 1)  # noqa: PLR2004
    told = f"{', '.join(problem.limits)} in {problem.worst.record.nodeid}{more}"
    related = {test.nodeid: test for test in (b.record for b in problem.breaches)}
    result: dict[str, Any] = {
        "ruleId": group.metric,
        "ruleIndex": _RULES[group.metric],
        "level": "error" if problem.fails else "warning",
        "message": _text([told, *problem.lines()]),
        "locations": _locations(run, problem.worst.place),
        "relatedLocations": [
            {"id": number, "message": _text([test.nodeid]), **location}
            for number, test in enumerate([*related.values()][:_MAX_TESTS], start=1)
            for location in _locations(run, of_record(test))
        ],
        "occurrenceCount": len(tests),
        "partialFingerprints": {_FINGERPRINT: group.fingerprint},
    }
    if group.waiver:
        kind = "inSource" if group.in_source else "external"
        result["suppressions"] = [
            {"kind": kind, "status": "accepted", "justification": visible(group.waiver)}
        ]
    return result


def _locations(run: Run, place: Place) -> list[dict[str, Any]]:
    """Return where something is, if that is a file of the repository."""
    if not is_below(place.file):
        return []
    where: dict[str, Any] = {
        "artifactLocation": {
            "uri": quote(visible(in_repository(run, place.file))),
            "uriBaseId": _ROOT,
        }
    }
    if place.line:
        where["region"] = {"startLine": place.line}
    location: dict[str, Any] = {"physicalLocation": where}
    if place.function:
        location["logicalLocations"] = [
            {"fullyQualifiedName": visible(place.function), "kind": "function"}
        ]
    return [location]


# -- the session ---------------------------------------------------------------------------


def _invocation(run: Run) -> dict[str, Any]:
    """Return what is to be said of the session itself: it failed if a process of it died."""
    mistakes = [breach for breach in breaches(run.records) if breach.verdict is None]
    told: dict[str, Any] = {
        "executionSuccessful": not run.lost,
        "toolConfigurationNotifications": [
            {
                "level": "error",
                "message": _text([f"{breach.text}, in {breach.record.nodeid}"]),
                "locations": _locations(run, breach.place),
            }
            for breach in mistakes
        ],
        "toolExecutionNotifications": [
            *(_notification("error", f"lost with its process: {test}") for test in run.lost),
            *(
                _notification("warning" if line.startswith("warning:") else "note", line)
                for line in run.notices
            ),
        ],
        "properties": {visible(name): visible(value) for name, value in run.source.items()},
    }
    try:
        started = datetime.fromisoformat(run.source["started"]).astimezone(UTC)
    except (KeyError, ValueError, OverflowError):
        return told
    return {**told, "startTimeUtc": f"{started:%Y-%m-%dT%H:%M:%SZ}"}


def _notification(level: str, text: str) -> dict[str, Any]:
    return {"level": level, "message": _text([text])}


def _text(lines: Iterable[str]) -> dict[str, str]:
    """Return a message: no line of it is a link or a placeholder of the format."""
    shown = [
        visible(part[:_MAX_LINE]).replace("{", "{{").replace("}", "}}").replace("](", "] (")
        for line in lines
        for part in line.splitlines() or [""]
    ]
    return {"text": "\n".join(shown)}
