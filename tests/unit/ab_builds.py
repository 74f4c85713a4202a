"""Hand-made comparisons of revisions."""

from __future__ import annotations

from pytest_perfguard.ab_results import Apart, Compared, Comparison, Moved
from pytest_perfguard.count_changes import compare_counts
from pytest_perfguard.duet import DuetResult
from pytest_perfguard.meetings import Blocks, Meeting
from pytest_perfguard.metrics import measure_all
from pytest_perfguard.model import Record, Run, Tally
from tests.unit.build import site, span, tally

LAZY = "SELECT users.id FROM users WHERE users.id = ?"


def record(*tallies: Tally) -> Record:
    whole = span(*tallies)
    return Record("test_it", "passed", whole, measure_all(whole))


def statements(count: int, operation: str = "SELECT a FROM t", line: int = 7) -> Tally:
    sums = {"roundtrips": float(count)}
    return tally(operation, count=count, sums=sums, site=site(line))


def compared(
    nodeid: str = "tests/test_a.py::test_it",
    before: int = 0,
    after: int = 0,
    *duets: DuetResult,
    moved: tuple[Moved, ...] = (),
) -> Compared:
    base, head = (
        [record(statements(1), *([statements(count, LAZY, 31)] if count else []))]
        for count in (before, after)
    )
    return Compared(nodeid, compare_counts(base, head), duets, moved)


def duet(
    change: float, call: str = "GET /items", nodeid: str = "tests/test_a.py::test_it", why: str = ""
) -> DuetResult:
    base = Blocks((0.001,) * 40, (0.001,) * 40, (0.0,) * 40)
    head = Blocks((0.001 * (1 + change),) * 40, base.wall, base.waiting)
    return DuetResult.of(nodeid, call, [Meeting(base, head, 3, 0.5, why)] * 3)


def comparison(*tests: Compared, **fields: object) -> Comparison:
    known: dict[str, object] = {
        "base": "main (0123456789)",
        "head": "the working tree (1 uncommitted file)",
        "notes": (),
        "apart": (),
        "idle": (),
        "runs": (Run(), Run()),
        "seconds": 12.0,
    }
    return Comparison(compared=tests, **{**known, **fields})  # type: ignore[arg-type]


def apart(
    nodeid: str = "tests/test_b.py::test_new",
    reason: str = "exists in head only",
    is_lost: bool = False,
) -> Apart:
    return Apart(nodeid, reason, is_lost)
