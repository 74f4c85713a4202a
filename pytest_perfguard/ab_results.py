"""What comes of comparing two revisions: plain data that every report of it is a function of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from pytest_perfguard import duet
from pytest_perfguard.duet import DuetResult
from pytest_perfguard.model import Record, Run, Status, Verdict
from pytest_perfguard.units import several


class Grade(StrEnum):
    """What is said of a test as a whole; of several, the first of these."""

    COSTLIER = "costlier"
    SLOWER = "slower"
    UNDECIDED = "undecided"
    NOT_TIMED = "not timed"
    FLAKY = "flaky"
    CHANGED = "changed"
    CHEAPER = "cheaper"
    FASTER = "faster"
    SAME = "same"

    @property
    def fails(self) -> bool:
        """Whether it is against head."""
        return self in (Grade.COSTLIER, Grade.SLOWER)


@dataclass(frozen=True, slots=True)
class Counts:
    """A test's counts on both sides.

    Attributes:
        verdicts: of metrics that differ.
        compared: how many metrics were compared.
        flaky: what differs between two runs of one side, in words.
        head: what head did, to explain it by.
    """

    verdicts: tuple[Verdict, ...]
    compared: int
    flaky: tuple[str, ...]
    head: Record

    @property
    def costlier(self) -> tuple[Verdict, ...]:
        """Those by which head is worse."""
        return tuple(v for v in self.verdicts if v.status is Status.REGRESSED)

    @property
    def differ(self) -> bool:
        """Whether anything differs for certain."""
        return bool(self.verdicts)


@dataclass(frozen=True, slots=True)
class Moved:
    """Where the time went that a call takes more of.

    Attributes:
        call: which call of the test.
        lines: in words, or why that is not known.
        picture: the differential flame graph, as SVG; empty if there is none.
    """

    call: str
    lines: tuple[str, ...]
    picture: str = ""


@dataclass(frozen=True, slots=True)
class Compared:
    """A test that passes on both sides, compared.

    Attributes:
        counts: what it does.
        duets: what is said of its timed calls.
        moved: where the time of those went that are slower.
    """

    nodeid: str
    counts: Counts
    duets: tuple[DuetResult, ...] = ()
    moved: tuple[Moved, ...] = ()

    @property
    def grades(self) -> frozenset[Grade]:
        """Everything that is to be said of it."""
        found = {BY_STATUS[v.status] for v in self.counts.verdicts if v.status in BY_STATUS}
        found |= {BY_VERDICT[each.verdict] for each in self.duets if each.verdict in BY_VERDICT}
        return frozenset(found | ({Grade.FLAKY} if self.counts.flaky else set()))

    @property
    def fails(self) -> bool:
        """Whether head is slower or costlier in anything of it."""
        return any(grade.fails for grade in self.grades)

    def to_dict(self) -> dict[str, Any]:
        """Return what is said of it as JSON data: values in base units, times as shares."""
        return {
            "nodeid": self.nodeid,
            "grades": [str(grade) for grade in Grade if grade in (self.grades or {Grade.SAME})],
            "counts": [
                {
                    "metric": verdict.metric,
                    "grade": str(BY_STATUS[verdict.status]),
                    "base": verdict.limit,
                    "head": verdict.value,
                    "changes": list(verdict.changes),
                }
                for verdict in self.counts.verdicts
            ],
            "flaky": list(self.counts.flaky),
            "calls": [
                {
                    "call": each.call,
                    "verdict": str(each.verdict),
                    "text": each.text,
                    "cpu": each.cpu and each.cpu.to_dict(),
                    "waiting": each.waiting and each.waiting.to_dict(),
                }
                for each in self.duets
            ],
        }

    @property
    def grade(self) -> Grade:
        """What is to be said of it first."""
        found = self.grades
        return next((grade for grade in Grade if grade in found), Grade.SAME)


BY_STATUS = {
    Status.REGRESSED: Grade.COSTLIER,
    Status.IMPROVED: Grade.CHEAPER,
    Status.CHANGED: Grade.CHANGED,
    # What is not done any more is a change that somebody should look at, and no cost.
    Status.UNPROVEN: Grade.CHANGED,
}
BY_VERDICT = {
    duet.Verdict.SLOWER: Grade.SLOWER,
    duet.Verdict.FASTER: Grade.FASTER,
    duet.Verdict.UNDECIDED: Grade.UNDECIDED,
    duet.Verdict.NOT_COMPARABLE: Grade.NOT_TIMED,
}


@dataclass(frozen=True, slots=True)
class Apart:
    """A test, or a file of tests, that cannot be compared.

    Attributes:
        is_lost: whether it passes in base, and fails in head.
    """

    nodeid: str
    reason: str
    is_lost: bool = False


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two revisions, compared.

    Attributes:
        base: what it is called.
        head: the same.
        notes: what a reader should know of how they were compared.
        compared: every test that was, by node id.
        apart: those that were not.
        idle: tests that pass on both sides, and in which nothing was observed.
        runs: what was counted of each side, base first.
        noise_floor: share by which times of the same code differed, if that was tried first.
        not_pinned: why the processes that were timed did not share a core; empty if they did.
        seconds: how long it took.
    """

    base: str
    head: str
    notes: tuple[str, ...]
    compared: tuple[Compared, ...]
    apart: tuple[Apart, ...]
    idle: tuple[str, ...]
    runs: tuple[Run, Run]
    noise_floor: float | None = None
    not_pinned: str = ""
    seconds: float = 0.0

    @property
    def fails(self) -> bool:
        """Whether head is slower or costlier in anything."""
        return any(test.fails for test in self.compared)

    @property
    def timed(self) -> int:
        """How many calls were timed on both sides."""
        return sum(each.cpu is not None for test in self.compared for each in test.duets)

    def of(self, *grades: Grade) -> list[Compared]:
        """Return the tests of which one of the grades is the first to be told."""
        return [test for test in self.compared if test.grade in grades]

    def to_dict(self) -> dict[str, Any]:
        """Return what is said of it as JSON data; the runs are files of their own."""
        return {
            "base": self.base,
            "head": self.head,
            "fails": self.fails,
            "totals": self.totals,
            "notes": list(self.notes),
            "noise_floor": self.noise_floor,
            "not_pinned": self.not_pinned,
            "seconds": round(self.seconds, 3),
            "tests": [test.to_dict() for test in self.compared],
            "not_comparable": [asdict(each) for each in self.apart],
            "idle": list(self.idle),
        }

    @property
    def doubts(self) -> list[str]:
        """What keeps a comparison without a finding from being all right, in words."""
        found = [
            (self._count(Grade.UNDECIDED), "undecided"),
            (self._count(Grade.NOT_TIMED), "not timed"),
            (sum(each.is_lost for each in self.apart), "failing in head only"),
        ]
        return [f"{several(number, 'test')} {what}" for number, what in found if number]

    def _count(self, grade: Grade) -> int:
        return sum(grade in (test.grades or {Grade.SAME}) for test in self.compared)

    @property
    def totals(self) -> str:
        """Return how many tests there are of each grade, in words; some may have several."""
        parts = [f"{number:,} {grade}" for grade in Grade if (number := self._count(grade))]
        timed = f" ({several(self.timed, 'call')} timed)" if self.timed else ""
        told = [f"{several(len(self.compared), 'test')} compared{timed}: {', '.join(parts)}"]
        if self.apart:
            told.append(f"{len(self.apart):,} not comparable")
        if self.idle:
            told.append(f"{len(self.idle):,} without anything to compare")
        return "; ".join(told)


def not_pinned(results: Iterable[DuetResult]) -> str:
    """Return why the processes of a duet did not share a core; empty if all did."""
    found = (meeting.not_pinned for result in results for meeting in result.meetings)
    return next(filter(None, found), "")
