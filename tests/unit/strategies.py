"""Strategies for every kind of data that a run is made of."""

from __future__ import annotations

from hypothesis import strategies as st

from pytest_perfguard.model import (
    Finding,
    Level,
    Moment,
    Record,
    Run,
    Site,
    Span,
    Status,
    Tally,
    Verdict,
)

_TEXT = st.text(max_size=6)
_MAYBE_TEXT = st.none() | _TEXT
_COUNT = st.integers(0, 2**53)
_NUMBER = _COUNT | st.floats(allow_nan=False, allow_infinity=False)


def _several(items: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(items, max_size=2).map(tuple)


def _named(values: st.SearchStrategy[object]) -> st.SearchStrategy[dict[str, object]]:
    return st.dictionaries(_TEXT, values, max_size=2)


SITES = st.builds(Site, _TEXT, _COUNT, _TEXT, _COUNT, through=_MAYBE_TEXT, callers=_several(_TEXT))
TALLIES = st.builds(
    Tally,
    probe=_TEXT,
    operation=_TEXT,
    kind=_TEXT,
    label=_TEXT,
    site=st.none() | SITES,
    subject=_MAYBE_TEXT,
    fix=_MAYBE_TEXT,
    facts=_named(_TEXT),
    count=_COUNT,
    repeats=_COUNT,
    distinct=_COUNT,
    duplicates=_COUNT,
    sums=_named(_NUMBER),
    peaks=_named(_NUMBER),
)
FINDINGS = st.builds(Finding, _TEXT, TALLIES, _COUNT, _MAYBE_TEXT)
_LEAVES = st.builds(
    Span,
    name=_TEXT,
    kind=_TEXT,
    seconds=_NUMBER,
    calls=_COUNT,
    tallies=_several(TALLIES),
    peaks=_named(_NUMBER),
    findings=_several(FINDINGS),
    timeline=_several(st.builds(Moment, _TEXT, _COUNT, _NUMBER, _NUMBER)),
    timeline_dropped=_COUNT,
    probes=_several(_TEXT),
    notes=_several(_TEXT),
)
SPANS = st.recursive(
    _LEAVES,
    lambda children: st.builds(Span, _TEXT, _TEXT, children=_several(children)),
    max_leaves=3,
)
VERDICTS = st.builds(
    Verdict,
    metric=_TEXT,
    span=_TEXT,
    value=st.none() | _NUMBER,
    limit=_NUMBER,
    status=st.sampled_from(Status),
    level=st.sampled_from(Level),
    where=_TEXT,
    reason=_TEXT,
)
RECORDS = st.builds(
    Record,
    nodeid=_TEXT,
    outcome=_TEXT,
    span=SPANS,
    metrics=_named(_NUMBER),
    verdicts=_several(VERDICTS),
    errors=_several(_TEXT),
    waivers=_named(st.booleans()),
    engines=_named(_TEXT),
)
RUNS = st.builds(
    Run,
    environment=_named(_TEXT),
    source=_named(_TEXT),
    tests=st.integers(0, 10_000),
    notices=_several(_TEXT),
    lost=_several(_TEXT),
    records=_several(RECORDS),
)
