from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from pytest_perfguard.model import Level, Record, Status, Verdict
from pytest_perfguard.observed import Observed, is_busy, not_comparable
from tests.unit.build import span


def ended(**endings: str) -> Observed:
    records: Mapping[str, Record] = {}
    nothing: frozenset[Path] = frozenset()
    return Observed(records, endings, {}, (), nothing, nothing, Path(), None)


@pytest.mark.parametrize(
    ("was", "now", "is_lost"),
    [
        ("passed", "failed: AssertionError", True),
        ("passed", "setup failed: KeyError", True),
        ("passed", "skipped: not here", False),
        ("passed", "xfailed: known", False),
        ("failed: AssertionError", "passed", False),
    ],
)
def test_a_test_is_lost_that_fails_in_head_only(was: str, now: str, is_lost: bool) -> None:
    (found,) = not_comparable(ended(test_it=was), ended(test_it=now))
    assert found.is_lost is is_lost
    (new,) = not_comparable(ended(), ended(test_it=now))
    assert not new.is_lost


def test_what_is_measured_for_a_limit_is_no_test_of_nothing() -> None:
    whole = span()
    limit = Verdict("load_p95", "test_it", 0.4, 1.0, Status.OK, Level.FAIL, "a.py:7")
    assert is_busy(Record("test_it", "passed", whole, {}, (limit,)))
    assert not is_busy(Record("test_it", "passed", whole, {}))
