"""Compares two revisions: the tests of head, run against the code of both.

Counts come first and are exact. What is timed is timed by :mod:`pytest_perfguard.coordinator`,
both sides in turns. What is slower is profiled once more, so that the verdict has its cause.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from pytest_perfguard import trees
from pytest_perfguard.ab_results import Apart, Compared, Comparison, Counts, not_pinned
from pytest_perfguard.arguments import relative, stripped, without_place
from pytest_perfguard.count_changes import compare_counts
from pytest_perfguard.duet import DuetResult, Verdict, noise_floor
from pytest_perfguard.errors import ComparisonError, RevisionError
from pytest_perfguard.model import Run
from pytest_perfguard.moved import what_moved
from pytest_perfguard.observed import Observed, is_busy, is_timed, not_comparable
from pytest_perfguard.revisions import Repository, Revision, workspace
from pytest_perfguard.runs import make_run
from pytest_perfguard.side_runs import UNJUDGED, SideRuns, origins, with_reports
from pytest_perfguard.side_setup import make_side, ready, set_up, with_options, with_settings
from pytest_perfguard.sides import SIDE, Side
from pytest_perfguard.units import several

# How a step is told: what it does, how much of it is done, and how much there is (0: unknown).
Tell = Callable[[str, int, int], object]
_MAX_NAMED = 5


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be compared, and how.

    Attributes:
        base: a revision.
        head: another one; the working tree if it is None.
        arguments: of pytest.
        tests: what belongs to the tests, relative to the folder; found out if there is none.
        paths: folders that code is imported from, relative to the folder.
        setup: a command that prepares each side; none if it is empty.
        self_check: whether head is timed against itself first.
    """

    base: str
    head: str | None = None
    arguments: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    setup: str = ""
    self_check: bool = False


def compare_revisions(wish: Wish, folder: Path, tell: Tell = lambda *_: None) -> Comparison:
    """Compare two revisions of the repository that a folder is in.

    Args:
        folder: where pytest would be run; the same folder of both trees is.

    Raises:
        RevisionError: if the wish cannot be understood.
        ComparisonError: if they cannot be compared.
    """
    started = time.monotonic()
    repository = Repository(folder)
    base = repository.resolve(wish.base)
    left: list[str] = []
    with workspace(repository, left) as work:
        head = repository.resolve(wish.head) if wish.head else repository.head(work / "index")
        comparing = _Comparing(wish, repository, folder, work, tell)
        try:
            found = comparing.run(base, head)
        except ComparisonError as error:
            # They may well be the reason.
            raise ComparisonError("\n".join([str(error), *comparing.told])) from error
    return replace(found, notes=(*found.notes, *left), seconds=time.monotonic() - started)


class _Comparing:
    """One comparison, step by step."""

    def __init__(
        self, wish: Wish, repository: Repository, folder: Path, work: Path, tell: Tell
    ) -> None:
        self._wish = wish
        self._repository = repository
        self._folder = folder
        self._work = work
        self._tell = tell
        self._notes: list[str] = []
        # Those of what differs between the sides and is not compared.
        self._differing: list[str] = []
        self._trees = {label: work / label for label in ("base", "head")}
        given = [relative(each, repository.top, folder) for each in stripped(wish.arguments)]
        self._place, arguments = without_place(given)
        self._runs = SideRuns(work, arguments)
        # Of both trees: what is new in head is not in base.
        self._names: set[str] = set()
        # What belongs to the tests, relative to a tree.
        self._tests: list[PurePosixPath] = [
            trees.named_path("--tests", each, repository.prefix, repository.top)
            for each in wish.tests
        ]

    @property
    def told(self) -> list[str]:
        """What both sides have in common that they should not, a line each."""
        return [f"note: {note}" for note in self._differing]

    def run(self, base: Revision, head: Revision) -> Comparison:
        self._note_history(base, head)
        self._check_out(base, head)
        sides = {label: self._side(label) for label in self._trees}
        if self._wish.setup:
            for label, side in sides.items():
                self._tell(f"setting up {label}", 0, 0)
                sides[label] = ready(set_up(side, self._wish.setup, self._work))
        after = self._count(sides["head"], "counting", self._place)
        self._share_tests(after)
        sides = {
            label: with_settings(side, self._trees[label], after, self._trees["head"])
            for label, side in sides.items()
        }
        before = self._count(sides["base"], "counting", (), len(after.endings))
        shared, idle = self._comparable(before, after)
        counts = {
            name: compare_counts([before.records[name]], [after.records[name]]) for name in shared
        }
        unsteady: list[Apart] = []
        if any(each.differ for each in counts.values()):
            counts, unsteady = self._count_again(sides, before, after, counts)
            if not counts:
                raise ComparisonError(_nothing_compared(unsteady))
        duets, floor = self._time(sides, before, after, list(counts))
        compared = [
            Compared(name, found, tuple(duets.get(name, ()))) for name, found in counts.items()
        ]
        compared = self._explained(sides, compared)
        return Comparison(
            base=str(base),
            head=str(head),
            notes=(*self._notes, *self._differing),
            compared=tuple(sorted(compared, key=lambda test: test.nodeid)),
            apart=tuple(
                sorted([*self._apart(before, after), *unsteady], key=lambda each: each.nodeid)
            ),
            idle=tuple(idle),
            runs=(_run(before, base), _run(after, head)),
            noise_floor=floor,
            not_pinned=not_pinned(each for found in duets.values() for each in found),
        )

    # -- the two trees -----------------------------------------------------------------------

    def _note_history(self, base: Revision, head: Revision) -> None:
        if base.commit == head.commit:
            self._notes.append("both sides are the same commit: whatever differs is noise")
        if missed := self._repository.missed(base, head):
            names = shlex.join([base.name, self._wish.head or "HEAD"])
            self._notes.append(
                f"{base.name} has {several(missed, 'commit')} that head has not, so their changes "
                f"show the wrong way round: to leave them out, compare with "
                f"$(git merge-base {names})"
            )
        changes = len(self._repository.changes()) if self._wish.head else 0
        if changes and head.commit == self._repository.resolve("HEAD").commit:
            self._notes.append(
                f"what is not committed ({several(changes, 'file')}) is left out, since "
                f"{self._wish.head} was named"
            )

    def _check_out(self, base: Revision, head: Revision) -> None:
        self._tell("checking out both revisions", 0, 0)
        found: list[str] = []
        for label, revision in (("base", base), ("head", head)):
            found += self._repository.add_worktree(revision, self._trees[label])
        self._notes += dict.fromkeys(found)
        for label in self._trees:
            self._names |= trees.names_under_test(self._roots(label))
            if not self._inside(label).is_dir():
                raise ComparisonError(
                    f"{label} has no folder {self._repository.prefix}: run it in one that both have"
                )
        for path in self._wish.paths:
            if not any(self._inside(label).joinpath(path).is_dir() for label in self._trees):
                raise RevisionError(f"--path {path}: neither revision has such a folder")
        changed = trees.dependency_changes(self._inside("base"), self._inside("head"))
        if changed and not self._wish.setup:
            verb = "differs" if len(changed) == 1 else "differ"
            self._differing.append(
                f"{', '.join(changed)} {verb}, and both sides run in this environment: give each "
                "its own with --setup COMMAND"
            )

    def _inside(self, label: str) -> Path:
        return self._trees[label] / self._repository.prefix

    def _roots(self, label: str) -> list[Path]:
        return trees.import_roots(self._inside(label), self._wish.paths)

    def _side(self, label: str) -> Side:
        return make_side(
            label,
            self._inside(label),
            workspace=self._work,
            checkout=self._repository.top,
            asked_in=self._folder,
            roots=self._roots(label),
            names=self._names,
        )

    def _share_tests(self, after: Observed) -> None:
        """Put head's tests into base, and keep in mind which these are."""
        base, head = self._trees["base"], self._trees["head"]
        for path in self._tests:
            if not head.joinpath(path).exists():
                raise RevisionError(f"--tests {path}: there is no such path in head")
        self._tests = self._tests or trees.test_paths(head, after.files, after.conftests)
        trees.overlay(head, base, self._tests)

    # -- counts ------------------------------------------------------------------------------

    def _count(self, side: Side, what: str, place: Sequence[str], total: int = 0) -> Observed:
        if place:
            side = with_options(side, place)
        told = f"{what} {side.label}"
        self._tell(told, 0, total)
        self._runs.on_test = lambda done: self._tell(told, done, total)
        observed = self._runs.count(side)
        if not observed.endings and side.label == "head":
            if observed.collect_errors:
                path, error = next(iter(observed.collect_errors.items()))
                raise ComparisonError(f"no test of head could be collected: {path}: {error}")
            shown = shlex.join(self._wish.arguments) or "without arguments"
            raise ComparisonError(
                f"no test was found in head by pytest {shown}: what comes after -- selects them"
            )
        if observed.endings:
            tree = self._trees[side.label]
            files, conftests = observed.files, observed.conftests
            # All of it is head's on both sides, so it proves nothing of the code.
            shared = self._tests or trees.test_paths(tree, files, conftests)
            tests = [*files, *conftests, *map(tree.joinpath, shared)]
            self._prove(side.label, observed.origins, tests)
        return observed

    def _count_again(
        self,
        sides: Mapping[str, Side],
        before: Observed,
        after: Observed,
        counts: Mapping[str, Counts],
    ) -> tuple[dict[str, Counts], list[Apart]]:
        """Look whether what differs between the sides does so between two runs of one, too.

        All tests run again, since what one counts may depend on those before it.
        """
        total = len(after.endings)
        again = {
            label: self._count(side, "counting again", (), total) for label, side in sides.items()
        }
        found, unsteady = {}, []
        for name, first in counts.items():
            second = [again[label].records.get(name) for label in ("base", "head")]
            if not first.differ:
                found[name] = first
            elif None in second:
                unsteady.append(Apart(name, "passed once, and not when it was run again"))
            else:
                found[name] = compare_counts(
                    [before.records[name], again["base"].records[name]],
                    [after.records[name], again["head"].records[name]],
                )
        return found, unsteady

    def _comparable(self, before: Observed, after: Observed) -> tuple[list[str], list[str]]:
        """Return the tests that can be compared, and those in which nothing was observed.

        Raises:
            ComparisonError: if there is nothing to compare.
        """
        both = sorted(before.records.keys() & after.records.keys())
        found, idle = list[str](), list[str]()
        for name in both:
            tells = any(
                is_timed(side.records[name]) or is_busy(side.records[name])
                for side in (before, after)
            )
            (found if tells else idle).append(name)
        if not found:
            raise ComparisonError(_nothing_compared(self._apart(before, after), len(both)))
        return found, idle

    def _apart(self, before: Observed, after: Observed) -> list[Apart]:
        """Return what cannot be compared; reasons name files as they are in a tree."""
        found = []
        for each in not_comparable(before, after):
            reason = each.reason
            for tree in self._trees.values():
                reason = reason.replace(f"{tree}{os.sep}", "")
            found.append(replace(each, reason=reason))
        return found

    def _prove(
        self, label: str, loaded: Iterable[Mapping[str, str]], tests: Iterable[Path] = ()
    ) -> None:
        """Refuse a side that has loaded code under test from anywhere but its tree.

        Raises:
            ComparisonError: with what was loaded, and what to do.
        """
        tree, other = self._trees[label], self._trees["base" if label == "head" else "head"]
        loaded = list(loaded)
        for each in loaded:
            wrong = trees.loaded_elsewhere(each, tree, other, self._repository.top, self._names)
            if wrong:
                shown = [f"  {w.module}: {w.file} ({w.place})" for w in wrong[:_MAX_NAMED]]
                raise ComparisonError(
                    "\n".join(
                        [
                            f"{label} does not run the code of {label}:",
                            *shown,
                            _REMEDY.format(self._likely_path(wrong) or "DIR"),
                        ]
                    )
                )
        if tests and not any(trees.loaded_code(each, tree, tests) for each in loaded):
            raise ComparisonError(
                f"nothing was loaded from the tree of {label} but tests, so that both sides would "
                f"run the same code:\n{_REMEDY.format('DIR')}; where code is in a folder of tests, "
                "name what belongs to the tests with --tests PATH"
            )

    def _likely_path(self, wrong: Iterable[trees.Elsewhere]) -> str:
        """Return the folder that code of the checkout is imported from, if that is known."""
        for each in wrong:
            root = trees.root_of(each)
            if root.is_relative_to(self._folder) and root != self._folder:
                return root.relative_to(self._folder).as_posix()
        return ""

    # -- times -------------------------------------------------------------------------------

    def _time(
        self, sides: Mapping[str, Side], before: Observed, after: Observed, names: Sequence[str]
    ) -> tuple[dict[str, list[DuetResult]], float | None]:
        """Time what is timed on both sides; what is on one side only is a result, too."""
        tests = list[str]()
        found: dict[str, list[DuetResult]] = {}
        for name in names:
            timed = [is_timed(side.records[name]) for side in (before, after)]
            if all(timed):
                tests.append(name)
            elif any(timed):
                side = "base" if timed[0] else "head"
                found[name] = [DuetResult(name, "", reason=f"it is timed in {side} only")]
        if not tests:
            return found, None
        floor = None
        if self._wish.self_check:
            environment = {**sides["head"].environment, SIDE: "base"}
            again = replace(sides["head"], label="base", environment=environment)
            same = (again, sides["head"])
            floor = noise_floor(self._duets(same, tests, "timing head against itself").values())
        pair = (sides["base"], sides["head"])
        results = self._duets(pair, tests, "timing", floor)
        for result in results.values():
            found.setdefault(result.nodeid, []).append(result)
        return found, floor

    def _duets(
        self, sides: tuple[Side, Side], tests: Sequence[str], what: str, floor: float | None = None
    ) -> dict[str, DuetResult]:
        from pytest_perfguard.coordinator import Progress, run_duets  # noqa: PLC0415 - few need it

        def progress(now: Progress) -> None:
            pair = f", pair {now.pair} of processes" if now.pair > 1 else ""
            self._tell(f"{what}{pair}", now.done, now.total)

        self._tell(what, 0, len(tests))
        folders = [self._runs.folder(f"{side.label}-times") for side in sides]
        reporting = [with_reports(*pair) for pair in zip(sides, folders, strict=True)]
        results = run_duets(
            (reporting[0], reporting[1]),
            tests,
            pytest_args=(*self._runs.arguments, *UNJUDGED),
            on_progress=progress,
            noise_floor=floor,
        )
        for side, folder in zip(sides, folders, strict=True):
            # By its folder: head may be on both sides.
            label = "head" if side.folder == self._inside("head") else "base"
            self._prove(label, origins(folder))
        return results

    def _explained(self, sides: Mapping[str, Side], compared: list[Compared]) -> list[Compared]:
        """Profile what is slower, on both sides."""
        slow = {
            test.nodeid: [each for each in test.duets if each.verdict is Verdict.SLOWER]
            for test in compared
        }
        tests = [nodeid for nodeid, results in slow.items() if results]
        if not tests:
            return compared
        folders = {}
        for label, side in sides.items():
            self._tell(f"profiling what is slower, {label}", 0, 0)
            self._runs.on_test = lambda _: None
            try:
                folders[label] = self._runs.profile(side, tests)
            except ComparisonError as error:
                self._notes.append(
                    f"what is slower could not be profiled: {' '.join(str(error).split())}"
                )
                return compared
        return [
            replace(
                test,
                moved=tuple(
                    what_moved(folders["base"], folders["head"], result)
                    for result in slow[test.nodeid]
                ),
            )
            for test in compared
        ]


def _nothing_compared(apart: Sequence[Apart], idle: int = 0) -> str:
    reasons = [f"  {each.nodeid}: {each.reason}" for each in apart[:_MAX_NAMED]]
    told = f"  {idle:,} that pass on both sides do nothing that is counted or timed"
    return "\n".join(["no test can be compared:", *reasons, *([told] if idle else [])])


_REMEDY = (
    "name the folder that the code is imported from with --path {}, or give each side an "
    "environment that has its own code: --setup 'python -m venv .venv && .venv/bin/pip install -r "
    "requirements.txt -e .'"
)


def _run(observed: Observed, revision: Revision) -> Run:
    source = {"commit": revision.commit, **({"dirty": "yes"} if revision.changes else {})}
    return make_run(observed.records.values(), source=source, tests=len(observed.endings))
