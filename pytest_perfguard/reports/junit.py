"""A run as JUnit XML: its measured tests, for a CI system that shows test results and no more.

pytest's own ``--junitxml`` tells all of this of the session that wrote it, and of tests that were
not measured too; this is for a run that is at hand as ``run.json``.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

from pytest_perfguard.metrics import METRICS
from pytest_perfguard.model import Record, Run
from pytest_perfguard.reports.evidence import failure, headline
from pytest_perfguard.visible import visible

PROPERTY = "perfguard."
"""How the names of properties begin, as in the files that pytest writes."""


def to_junit(run: Run) -> str:
    """Return the text of a JUnit file, of the dialect that pytest calls xunit2."""
    cases = [_case(record) for record in run.records]
    failed = [case for case in cases if case.find("failure") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    lost = [_lost(nodeid) for nodeid in run.lost]
    suite = ET.Element(
        "testsuite",
        name="perfguard",
        tests=str(len(cases) + len(lost)),
        failures=str(len(failed)),
        errors=str(len(lost)),
        skipped=str(len(skipped)),
        time=f"{sum(record.span.seconds for record in run.records):.3f}",
    )
    if started := run.source.get("started"):
        suite.set("timestamp", visible(started))
    suite.append(_properties({**run.environment, **run.source}))
    suite.extend([*cases, *lost])
    suites = ET.Element("testsuites", name="perfguard")
    suites.append(suite)
    ET.indent(suites, " ")
    return ET.tostring(suites, encoding="unicode", xml_declaration=False) + "\n"


def _case(record: Record) -> ET.Element:
    case = _named(record.nodeid)
    case.set("time", f"{record.span.seconds:.3f}")
    values = {PROPERTY + n: f"{v}" for n, v in record.metrics.items() if n in METRICS}
    case.append(_properties(values))
    if record.fails:
        text = failure(record)
        if record.raised:
            text = f"the test itself fails, too: {record.raised}, see pytest's own report\n{text}"
        _add(case, "failure", f"perfguard: {headline(record)}", text)
    elif record.outcome == "failed":
        _add(case, "failure", "the test itself failed: see pytest's own report", failure(record))
    elif record.outcome == "skipped":
        ET.SubElement(case, "skipped")
    elif record.breaches:
        ET.SubElement(case, "system-out").text = _lines(failure(record))
    return case


def _lost(nodeid: str) -> ET.Element:
    case = _named(nodeid)
    _add(case, "error", "the process that ran the test died", "nothing of it was recorded")
    return case


def _named(nodeid: str) -> ET.Element:
    """Return a test case that is called as pytest calls it."""
    path, _, names = nodeid.partition("[")[0].partition("::")
    *classes, name = names.split("::")
    parts = [path.removesuffix(".py").replace("/", "."), *classes]
    parameters = nodeid[len(path) + 2 + len(names) :] if names else ""
    return ET.Element(
        "testcase", classname=visible(".".join(parts)), name=visible(name + parameters)
    )


def _properties(values: dict[str, str]) -> ET.Element:
    properties = ET.Element("properties")
    for name, value in values.items():
        ET.SubElement(properties, "property", name=visible(name), value=visible(value))
    return properties


def _add(case: ET.Element, tag: str, message: str, text: str) -> None:
    ET.SubElement(case, tag, message=visible(message)).text = _lines(text)


def _lines(text: str) -> str:
    """Return the text without what XML forbids, which is in no line of it."""
    return "\n".join(visible(line) for line in text.splitlines())
