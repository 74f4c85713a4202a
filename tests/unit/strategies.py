"""Strategies for every kind of data that a run is made of."""

from __future__ import annotations

from hypothesis import strategies as st

from pytest_perfguard.findings import WAIVABLE
from pytest_perfguard.metrics import METRICS
from pytest_perfguard.model import (
    Finding,
    Level,
    Moment,
    Record,
    Rule,
    Run,
    Site,
    Span,
    Status,
    Tally,
    Verdict,
)
from pytest_perfguard.stacks import Frame, Profile

# What is markup, an escape or a command to one of those who read a report.
HOSTILE = (
    "</script><b onclick=x>", "a|b`c``", "@someone #1 www.x.y", "\x1b[31m\x00", "a\r\n::error::x",
    "%0A,:", "]]>&amp;", "{0}[x](http://x.y)", "```\n# x", "\u202e\u2028\ufffe", "\\\n", "- 1. <!",
)  # fmt: skip
_TEXT = st.text(max_size=6) | st.sampled_from(HOSTILE)
_MAYBE_TEXT = st.none() | _TEXT
_COUNT = st.integers(0, 2**53)
_NUMBER = _COUNT | st.floats(allow_nan=False, allow_infinity=False)


def _several(items: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(items, max_size=2).map(tuple)


def _named(
    values: st.SearchStrategy[object], names: st.SearchStrategy[str] = _TEXT
) -> st.SearchStrategy[dict[str, object]]:
    return st.dictionaries(names, values, max_size=2)


_METRICS = st.sampled_from(sorted(METRICS))
_NAMES = st.sampled_from(["test_it", "GET /"]) | _TEXT
_SUMS = ("rows", "seconds", "errors", "full_scans", "commits", "hits", "misses", "runs", "waits")
_FILES = st.sampled_from(["app/crud.py", "/usr/lib/a.py", "C:/a.py", "../a.py"]) | _TEXT
SITES = st.builds(Site, _FILES, _COUNT, _TEXT, _COUNT, through=_MAYBE_TEXT, callers=_several(_TEXT))
TALLIES = st.builds(
    Tally,
    probe=st.sampled_from(["sql", "cache", "http", "tasks"]) | _TEXT,
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
    sums=_named(_NUMBER, st.sampled_from(_SUMS)) | _named(_NUMBER),
    peaks=_named(_NUMBER, st.sampled_from(["seconds", "bytes", "decoded"])) | _named(_NUMBER),
)
_FOUND = st.sampled_from(sorted(WAIVABLE)) | _TEXT
FINDINGS = st.builds(Finding, _FOUND, TALLIES, _COUNT, _MAYBE_TEXT)
_TIMINGS = st.fixed_dictionaries(
    {
        "rounds": _COUNT,
        "repeated": _COUNT,
        "concurrency": _COUNT,
        "cold_wall": _NUMBER,
        "statistics": st.fixed_dictionaries({"median": _NUMBER}, optional={"p95": _NUMBER}),
    }
)
_LEAVES = st.builds(
    Span,
    name=_NAMES,
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
    facts=_named(_TEXT, _METRICS),
    timing=st.none() | _TIMINGS,
    growth=st.none() | _named(_NUMBER),
)
SPANS = st.recursive(
    _LEAVES,
    lambda children: st.builds(Span, _NAMES, _TEXT, children=_several(children)),
    max_leaves=3,
)
VERDICTS = st.builds(
    Verdict,
    metric=_METRICS,
    span=_NAMES,
    value=st.none() | _NUMBER,
    limit=_NUMBER,
    status=st.sampled_from(Status),
    level=st.sampled_from(Level),
    where=_TEXT,
    reason=_TEXT,
    rule=st.sampled_from(Rule),
    changes=_several(_TEXT),
    waiver=_TEXT,
)
RECORDS = st.builds(
    Record,
    nodeid=st.sampled_from(["test_a.py::test_b[1]", "../test_a.py::C::test_b"]) | _TEXT,
    outcome=st.sampled_from(["passed", "failed", "skipped"]) | _TEXT,
    span=SPANS,
    metrics=_named(_NUMBER, _METRICS | _TEXT),
    verdicts=_several(VERDICTS),
    errors=_several(_TEXT),
    waivers=_named(st.booleans()),
    engines=_named(_TEXT),
    baseline=_TEXT,
    is_new=st.booleans(),
    line=_COUNT,
)
_FRAMES = st.builds(Frame, _TEXT, _TEXT, st.integers(0, 9_999), st.booleans())
_STACKS = st.tuples(st.lists(_FRAMES, max_size=3), st.floats(0, 1e3))
PROFILES = st.builds(Profile.build, _TEXT, _TEXT, st.lists(_STACKS, max_size=3)).map(
    Profile.to_dict
)
RUNS = st.builds(
    Run,
    environment=_named(_TEXT),
    source=_named(_TEXT, st.sampled_from(["commit", "branch", "started", "folder"]) | _TEXT),
    tests=st.integers(0, 10_000),
    notices=_several(_TEXT),
    lost=_several(_TEXT),
    records=_several(RECORDS),
    profiles=_named(_several(PROFILES)),
)
