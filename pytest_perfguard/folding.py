"""Adds spans up: what a span with very many children keeps of those it cannot list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from pytest_perfguard.findings import place
from pytest_perfguard.model import Finding, Moment, Span, Tally


def fold(name: str, first: Span, second: Span, *, max_tallies: int) -> Span:
    """Return one span, called ``name``, that stands for two and all that is inside them.

    Sums are exact. Lists are limited: beyond ``max_tallies`` different operations the rest are
    added up under one of them, and time lines are dropped.
    """
    return Span(
        name=name,
        kind=first.kind,
        start=min(first.start, second.start),
        seconds=first.seconds + second.seconds,
        calls=first.calls + second.calls,
        tallies=_fold_tallies(_all_tallies(first, second), max_tallies),
        peaks=_highest(peaks for span in (first, second) for peaks in _peaks(span)),
        findings=_fold_findings(first, second),
        timeline_dropped=_operations(first) + _operations(second),
        probes=first.probes,
        notes=tuple(dict.fromkeys(first.notes + second.notes)),
        facts=told((first, second)),
    )


def told(spans: Iterable[Span]) -> dict[str, str]:
    """Return the facts of several spans; of two about one level, that about the higher."""
    facts: dict[str, str] = {}
    levels: dict[str, float] = {}
    for span in spans:
        for name, fact in span.facts.items():
            level = span.peaks.get(name, 0.0)
            if name not in facts or level > levels[name]:
                facts[name], levels[name] = fact, level
    return facts


def _all_tallies(*spans: Span) -> Iterable[Tally]:
    return (tally for span in spans for part in span.walk() for tally in part.tallies)


def _peaks(span: Span) -> Iterable[Mapping[str, float]]:
    return (part.peaks for part in span.walk())


def _operations(span: Span) -> int:
    return sum(
        part.timeline_dropped + sum(moment.count for moment in part.timeline)
        for part in span.walk()
    )


def _fold_tallies(tallies: Iterable[Tally], max_tallies: int) -> tuple[Tally, ...]:
    folded: dict[tuple[object, ...], Tally] = {}
    for tally in tallies:
        site = tally.site
        key: tuple[object, ...] = (
            tally.probe,
            tally.operation,
            tally.kind,
            site and (site.file, site.line),
            tally.subject,
        )
        if key not in folded and len(folded) >= max_tallies:
            key = (tally.probe, tally.kind)
            folded_into = Tally(tally.probe, "(other operations)", tally.kind, "(other)")
            folded[key] = add(folded.get(key, folded_into), tally)
            continue
        known = folded.get(key)
        folded[key] = tally if known is None else add(known, tally)
    return tuple(folded.values())


def add(first: Tally, second: Tally) -> Tally:
    """Return the sum of two tallies of the same operation in different spans."""
    return replace(
        first,
        count=first.count + second.count,
        repeats=first.repeats + second.repeats,
        # Repeats are judged inside one span, so what counts is the worst of them.
        distinct=max(first.distinct, second.distinct),
        duplicates=first.duplicates + second.duplicates,
        sums={
            name: first.sums.get(name, 0) + second.sums.get(name, 0)
            for name in {**first.sums, **second.sums}
        },
        peaks=_highest((first.peaks, second.peaks)),
    )


def _highest(levels: Iterable[Mapping[str, float]]) -> dict[str, float]:
    highest: dict[str, float] = {}
    for level in levels:
        for name, value in level.items():
            highest[name] = max(value, highest.get(name, value))
    return highest


def _fold_findings(*spans: Span) -> tuple[Finding, ...]:
    folded: dict[tuple[object, ...], Finding] = {}
    for span in spans:
        for part in span.walk():
            for finding in part.findings:
                key = (*place(finding), finding.waiver)
                known = folded.get(key)
                if known is None:
                    folded[key] = finding
                else:
                    weight = (
                        1
                        if known.weight == 1 and "n_plus_one" in finding.metric
                        else known.weight + finding.weight
                    )
                    folded[key] = replace(
                        known, tally=add(known.tally, finding.tally), weight=weight
                    )
    return tuple(folded.values())


def folded_timeline(span: Span) -> list[tuple[str, int]]:
    """Return the span's operations and those inside it, in order, as ``(label, count)``."""
    lines: list[tuple[str, int]] = []
    moments: list[Moment] = sorted(
        (moment for part in span.walk() for moment in part.timeline), key=lambda m: m.start
    )
    for moment in moments:
        if lines and lines[-1][0] == moment.label:
            lines[-1] = (moment.label, lines[-1][1] + moment.count)
        else:
            lines.append((moment.label, moment.count))
    return lines
