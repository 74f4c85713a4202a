"""``perf_waive`` marks: breaches that are known and tolerated, for a reason and for a while.

``@pytest.mark.perf_waive("sql_queries", reason="...", until="2027-03-01", cap=60, url=...)``
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime
from typing import Any, Self

from pytest_perfguard.errors import LimitError, MetricError
from pytest_perfguard.metrics import METRICS, lookup
from pytest_perfguard.model import Record, Status, Verdict
from pytest_perfguard.units import parse, show, shown

_EXAMPLE = 'write perf_waive("sql_queries", reason="...", until="2027-03-01", cap=60)'
_KNOWN = ("reason", "until", "cap", "url")


@dataclass(frozen=True, slots=True)
class MarkedWaiver:
    """A mark that was read.

    Attributes:
        until: last day on which it holds.
        cap: worst value that it covers, in the metric's base unit; None for any.
        where: ``file:line`` of the mark.
    """

    metric: str
    reason: str
    until: date
    cap: float | None
    url: str
    where: str

    @property
    def key(self) -> str:
        """How it is called among the waivers of a record."""
        return f"{self.where} {self.metric}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**asdict(self), "until": self.until.isoformat()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote."""
        return cls(**{**data, "until": date.fromisoformat(data["until"])})

    def __str__(self) -> str:
        reason = f"{self.reason} ({self.url})" if self.url else self.reason
        return f"until {self.until}: {reason}"


def read_waiver(
    args: Sequence[Any], given: Mapping[str, Any], where: str, mistakes: list[str]
) -> list[MarkedWaiver]:
    """Return a waiver for each metric that a mark names; what is wrong goes to ``mistakes``."""
    found = [f"takes {', '.join(_KNOWN)}, not {name}" for name in given if name not in _KNOWN]
    found += [f"has no {name}: {_EXAMPLE}" for name in ("reason", "until") if name not in given]
    reason, url = given.get("reason", "-"), given.get("url", "")
    if not isinstance(reason, str) or not reason.strip():
        found.append(f"reason={shown(reason)} says nothing: {_EXAMPLE}")
    if not isinstance(url, str):
        found.append(f"url={shown(url)} is no text")
    until = _date(given.get("until", date.min))
    if until is None:
        found.append(f"until={shown(given['until'])} is no date: write until='2027-03-01'")
    caps = _caps(args, given.get("cap"), found)
    mistakes += [f"perf_waive, {where}: {problem}" for problem in dict.fromkeys(found)]
    if found or until is None:
        return []
    reason = reason.strip()
    return [MarkedWaiver(name, reason, until, cap, url, where) for name, cap in caps.items()]


def _caps(names: Sequence[Any], cap: object, mistakes: list[str]) -> dict[str, float | None]:
    """Return the cap of each metric that is named, in its base unit."""
    caps = {}
    if not names or not all(isinstance(name, str) for name in names):
        mistakes.append(f"names no metric: {_EXAMPLE}")
        return {}
    for name in names:
        try:
            metric = lookup(name)
            caps[metric.name] = None if cap is None else parse(cap, metric.unit)
        except MetricError as error:
            mistakes.append(str(error))
        except LimitError as error:
            mistakes.append(f"cap: {error}")
    return caps


def _date(value: object) -> date | None:
    if isinstance(value, datetime):
        return value.date()
    if isinstance(value, date):
        return value
    try:
        return date.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None


def apply(
    verdicts: Iterable[Verdict], waivers: Sequence[MarkedWaiver], today: date
) -> tuple[tuple[Verdict, ...], set[MarkedWaiver]]:
    """Return the verdicts, with the breaches that waivers cover, and the waivers that were met.

    A waiver that has expired, or whose cap is exceeded, covers nothing: the breach says so.
    """
    met: set[MarkedWaiver] = set()
    judged = []
    for verdict in verdicts:
        found = verdict
        for waiver in waivers:
            if waiver.metric != verdict.metric or verdict.status not in _WAIVABLE:
                continue
            met.add(waiver)
            problem = _problem(waiver, verdict, today)
            if problem and problem not in verdict.reason:
                known = f"{verdict.reason}; " if verdict.reason else ""
                found = replace(verdict, reason=f"{known}{problem}")
            elif not problem:
                found = replace(verdict, waiver=str(waiver))
            if not problem:
                break
        judged.append(found)
    return tuple(judged), met


_WAIVABLE = (Status.OVER, Status.REGRESSED)


def _problem(waiver: MarkedWaiver, verdict: Verdict, today: date) -> str:
    if today > waiver.until:
        return f"the waiver at {waiver.where} ended on {waiver.until}: {waiver.reason}"
    metric, cap = METRICS[waiver.metric], waiver.cap
    if cap is not None and verdict.value is not None and not metric.keeps(verdict.value, cap):
        covered = show(cap, metric.unit)
        return f"the waiver at {waiver.where} covers no more than {covered}: {waiver.reason}"
    return ""


def waive(record: Record, waivers: Sequence[MarkedWaiver], today: date) -> Record:
    """Return a record with the breaches that its test's marks tolerate, and which were needed.

    It may be called again when verdicts have been added.
    """
    verdicts, met = apply(record.verdicts, waivers, today)
    needed = {waiver.key: waiver in met for waiver in waivers}
    return replace(record, verdicts=verdicts, waivers={**record.waivers, **needed})


def this_day() -> date:
    """Return the day that waivers are judged by: where the tests run, not in UTC."""
    return datetime.now().astimezone().date()


def expired(waivers: Iterable[MarkedWaiver], today: date) -> list[str]:
    """Return a line for each waiver that has ended, whether anything needs it or not."""
    return [
        f"{w.where}: perf_waive for {w.metric} ended on {w.until}: remove it, or renew it"
        for w in waivers
        if today > w.until
    ]
