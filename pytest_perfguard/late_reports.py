"""Failures that come when all tests have run: as pytest shows them, and its JUnit file.

What pytest knows of the cases of that file is not documented, and used nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pytest
from _pytest._code.code import ReprFileLocation, TerminalRepr
from _pytest.junitxml import xml_key

from pytest_perfguard.model import Record
from pytest_perfguard.reports.evidence import failure, headline

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from _pytest._io import TerminalWriter


class _Failure(TerminalRepr):
    """The text of a failure, with its headline for whoever wants one line of it."""

    def __init__(self, text: str, crash: ReprFileLocation) -> None:
        self.text = text
        self.reprcrash = crash

    def toterminal(self, tw: TerminalWriter) -> None:
        """Write it."""
        tw.line(self.text)


def report_late(config: pytest.Config, late: Iterable[tuple[Record, Iterable[str]]]) -> None:
    """Report the failures of tests by their times, which were judged after all tests had run.

    Args:
        late: the records, each with the lines about its profile.
    """
    count = 0
    for record, explanation in late:
        config.hook.pytest_runtest_logreport(report=_report(record, explanation))
        count += 1
    if xml := config.stash.get(xml_key, None):
        _join_cases(xml, count)


def _report(record: Record, explanation: Iterable[str]) -> pytest.TestReport:
    path, _, name = record.nodeid.partition("::")
    text = "\n".join([failure(record), *explanation])
    crash = ReprFileLocation(path, record.line or 1, f"perfguard: {headline(record)}")
    return pytest.TestReport(
        nodeid=record.nodeid,
        location=(path, record.line - 1 if record.line else None, name.replace("::", ".")),
        keywords={},
        outcome="failed",
        longrepr=_Failure(text, crash),
        when="call",
    )


def _join_cases(xml: Any, late: int) -> None:
    """Move late failures into the cases that their tests have already.

    pytest has closed these cases long before, and would write second ones of the same names: one
    has passed, one has failed.
    """
    reporters = xml.node_reporters_ordered
    split = len(reporters) - late
    known = {_key(reporter.to_xml()): reporter.to_xml() for reporter in reporters[:split]}
    for reporter in reporters[split:]:
        case = reporter.to_xml()
        before = known.get(_key(case))
        if before is not None:
            # The schema has failures behind the properties, and before what was printed.
            start = sum(child.tag == "properties" for child in before)
            for failed in case.findall("failure"):
                before.insert(start, failed)
            reporters.remove(reporter)
            xml.stats["passed"] -= 1


def _key(case: Element) -> tuple[str | None, str | None]:
    return case.get("classname"), case.get("name")
