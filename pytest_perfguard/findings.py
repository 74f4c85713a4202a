"""Patterns among the tallies of one span; pure functions of data.

Both patterns are looked for inside one span and never across two: two requests that each run the
same statement once repeat nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from pytest_perfguard.model import Finding, Tally

N_PLUS_ONE = "n_plus_one"
DUPLICATES = "duplicates"
WAIVABLE = (
    f"sql_{N_PLUS_ONE}",
    f"sql_{DUPLICATES}",
    f"cache_{N_PLUS_ONE}",
    f"task_{N_PLUS_ONE}",
)
# How the names of a probe's metrics begin, where that is not the name of the probe.
_GROUPS = {"tasks": "task"}


def find(tallies: Iterable[Tally], threshold: int) -> tuple[Finding, ...]:
    """Return the candidates among the tallies of one span, the most repeated first.

    Args:
        threshold: how many different parameter sets one operation needs, from one line, to be a
            candidate N+1.
    """
    found: list[Finding] = []
    for tally in tallies:
        group = _GROUPS.get(tally.probe, tally.probe)
        if tally.distinct >= threshold:
            found.append(Finding(f"{group}_{N_PLUS_ONE}", tally, weight=1))
        if tally.duplicates:
            found.append(Finding(f"{group}_{DUPLICATES}", tally, weight=tally.duplicates))
    return tuple(sorted(found, key=lambda finding: -finding.tally.count))


def place(finding: Finding) -> tuple[str, str, str, int, str | None]:
    """Return what makes two findings of different spans one: operation, line and subject."""
    tally = finding.tally
    site = tally.site
    file, line = (site.file, site.line) if site else ("", 0)
    return (finding.metric, tally.operation, file, line, tally.subject)
