"""Judges a call by blocks of it that two revisions have run in turns: pure statistics.

Two fresh processes, one of each side, have run short blocks of the same call alternately on one
core. Each pair of blocks gives ``d = log(head / base)`` of the mean CPU time of a call, and a
meeting of two processes gives an effect ``e``: the mean of the middle half of its ``d``.

What is judged is a minimum effect, not a significance. Where the parts of a program happen to lie
in memory makes every process a percent or two faster or slower for good, and a test against "no
difference" would find just that. It goes away only with other processes, so a call that seems to
have changed is measured again by two more pairs of them, and has changed only if all agree.

Waiting is judged by itself, since CPU time is blind to it: by how much more a call takes because
of what it waits for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from itertools import chain
from statistics import fmean, median, pstdev
from typing import Any, Self

from pytest_perfguard.errors import DuetError
from pytest_perfguard.meetings import Meeting
from pytest_perfguard.units import Unit, show

# A standard error of a single pair of blocks is none.
_FEWEST_FOR_ERROR = 4
# A limit that is widened keeps its distance from where a call passes at once.
_PASSES_BELOW = 0.6
_NOISE_DEVIATIONS = 3
# Share of the whole time of a call that its CPU time has to change by: what a call computes that
# hardly does anything but wait may double, and nobody will ever notice.
_OF_ALL = 0.01
# Standard errors by which an effect has to exceed the limit where it is not known well.
_SURELY = 2


class Verdict(StrEnum):
    """What is said of a call of both sides."""

    SAME = "same"
    SLOWER = "slower"
    FASTER = "faster"
    UNDECIDED = "undecided"
    NOT_COMPARABLE = "not comparable"


_CHANGED = (Verdict.SLOWER, Verdict.FASTER)


@dataclass(frozen=True, slots=True)
class Rule:
    """When a call passes, and when it has changed.

    Attributes:
        passes_below: share by which it may seem slower and still pass at the first look.
        limit: share above which it is a suspect, either way.
        unsure_above: standard error of an effect that says too little, as a share.
        first_look: seconds after which it may pass; it is looked at again after as many.
        last_look: seconds after which no more blocks are run...
        patience: ...but while too little can be said; then after these.
        fewest: pairs of blocks that every look needs.
        longest: seconds after which there are no more, even if there are fewer than that.
        meetings: pairs of fresh processes that have to agree that it has changed.
        smallest: seconds of a call that a change needs, too.
    """

    passes_below: float = 0.03
    limit: float = 0.05
    unsure_above: float = 0.025
    first_look: float = 0.5
    last_look: float = 2.0
    patience: float = 6.0
    fewest: int = 8
    longest: float = 30.0
    meetings: int = 3
    smallest: float = 0.0


_CPU = Rule()
# Two processes that may run anywhere differ by 5 to 10 % (one standard deviation).
_CPU_NOT_PINNED = Rule(passes_below=0.12, limit=0.20, unsure_above=0.10)
# A scheduler's slices leave traces in what looks like waiting.
_WAITING = Rule(passes_below=0.06, limit=0.10, unsure_above=0.05, smallest=0.0001)
_WAITING_NOT_PINNED = Rule(passes_below=0.15, limit=0.25, unsure_above=0.10, smallest=0.0005)


def cpu_rule(*, pinned: bool, noise_floor: float | None = None) -> Rule:
    """Return the rule for CPU times.

    Args:
        pinned: whether both sides ran on the same core.
        noise_floor: share by which calls of the same code have differed here; see `noise_floor`.
    """
    rule = _CPU if pinned else _CPU_NOT_PINNED
    if noise_floor is None or noise_floor <= rule.limit:
        return rule
    if not math.isfinite(noise_floor):
        raise DuetError(f"{noise_floor!r} is no noise floor: give a share, such as 0.07")
    return Rule(_PASSES_BELOW * noise_floor, noise_floor, noise_floor / 2)


def waiting_rule(*, pinned: bool) -> Rule:
    """Return the rule for the time that a call waits, as a share of all the time that it takes."""
    return _WAITING if pinned else _WAITING_NOT_PINNED


# -- statistics ----------------------------------------------------------------------------


def middle_mean(values: Sequence[float]) -> float:
    """Return the mean of the middle half: a quarter is left out at either end."""
    cut = len(values) // 4
    return fmean(sorted(values)[cut : len(values) - cut])


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of :func:`middle_mean`; infinite for a few values.

    It is that of a trimmed mean: the standard deviation with each tail replaced by its innermost
    value, over the share that is kept and the root of the number. Source: J. W. Tukey and
    D. H. McLaughlin, Sankhya A 25 (1963).
    """
    number = len(values)
    if number < _FEWEST_FOR_ERROR:
        return math.inf
    cut = number // 4
    kept = sorted(values)[cut : number - cut]
    winsorized = [kept[0]] * cut + kept + [kept[-1]] * cut
    deviation = pstdev(winsorized) * math.sqrt(number / (number - 1))
    return deviation / (len(kept) / number * math.sqrt(number))


@dataclass(frozen=True, slots=True)
class _Estimate:
    """What a meeting says: the effect as a logarithm, and its standard error."""

    effect: float
    error: float
    enough: bool = True

    def is_sure(self, rule: Rule) -> bool:
        """Return whether it is precise enough, or so large that it need not be."""
        surely = abs(self.effect) - _SURELY * self.error
        return self.error <= rule.unsure_above or surely > math.log1p(rule.limit)

    def verdict(self, rule: Rule) -> Verdict:
        if not self.enough or not self.is_sure(rule):
            return Verdict.UNDECIDED
        if abs(self.effect) <= math.log1p(rule.limit):
            return Verdict.SAME
        return Verdict.SLOWER if self.effect > 0 else Verdict.FASTER


def _estimate(ratios: Sequence[float], rule: Rule) -> _Estimate:
    if not ratios:
        raise DuetError("a meeting without a block says nothing")
    return _Estimate(middle_mean(ratios), standard_error(ratios), len(ratios) >= rule.fewest)


def _waiting(meeting: Meeting, rule: Rule) -> _Estimate:
    """Return by how much longer a call takes because of what it waits for."""
    needed, more = meeting.base.needed, meeting.waits_more
    effect, error = middle_mean(more), standard_error(more) / needed
    if abs(effect) < rule.smallest:
        effect = 0.0
    # However little of it is left, it is something.
    return _Estimate(math.log(max(1 + effect / needed, 1e-6)), error, len(more) >= rule.fewest)


def is_enough(meeting: Meeting, seconds: float, cpu: Rule, waiting: Rule) -> bool:
    """Return whether two processes need not run any more blocks, as far as has been seen.

    Args:
        seconds: time since the first block.
    """
    if not meeting.base.cpu:
        return False
    if len(meeting.base.cpu) < cpu.fewest:
        return seconds >= cpu.longest
    if seconds < cpu.first_look:
        return False
    known = _estimate(meeting.ratios, cpu), _waiting(meeting, waiting)
    if seconds >= cpu.last_look:
        return known[0].is_sure(cpu) or seconds >= cpu.patience
    return all(
        estimate.error <= rule.unsure_above
        and -math.log1p(rule.limit) <= estimate.effect < math.log1p(rule.passes_below)
        for estimate, rule in zip(known, (cpu, waiting), strict=True)
    )


# -- verdicts ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the meetings of a call say together.

    Attributes:
        effects: by which share head's call takes longer, of each meeting; below 0 if it is faster.
        limit: the share above which it has changed.
        reason: why it is undecided; else empty.
    """

    verdict: Verdict
    effects: tuple[float, ...]
    limit: float
    reason: str = ""

    @property
    def text(self) -> str:
        """The verdict with its size, as in ``slower by 9-12 %``."""
        if self.verdict not in _CHANGED:
            return str(self.verdict)
        sizes = [abs(effect) for effect in self.effects]
        low, high = (f"{100 * size:,.0f}" for size in (min(sizes), max(sizes)))
        return f"{self.verdict} by {low if low == high else f'{low}-{high}'} %"

    def to_dict(self) -> dict[str, Any]:
        """Return this object as JSON data."""
        return {**asdict(self), "verdict": str(self.verdict), "effects": list(self.effects)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote."""
        verdict, effects = Verdict(data["verdict"]), tuple(data["effects"])
        return cls(**{**data, "verdict": verdict, "effects": effects})


def judge(pairs: Sequence[Sequence[float]], rule: Rule | None = None) -> Outcome:
    """Judge the CPU time of a call.

    Args:
        pairs: of each meeting, the logarithms of head's time over base's.
        rule: by default that for sides that are pinned to the same core.

    Raises:
        DuetError: if there is nothing to judge.
    """
    rule = rule or _CPU
    return _decide([_estimate(ratios, rule) for ratios in pairs], rule)


def judge_waiting(meetings: Sequence[Meeting], rule: Rule | None = None) -> Outcome:
    """Judge the time that a call waits, as a share of all the time that it takes.

    Busy neighbours make it vary, so that it is the same unless it is seen to have changed.

    Raises:
        DuetError: if there is nothing to judge.
    """
    rule = rule or _WAITING
    estimates = [_waiting(meeting, rule) for meeting in meetings]
    return _decide(
        [
            replace(one, error=0.0) if abs(one.effect) <= math.log1p(rule.limit) else one
            for one in estimates
        ],
        rule,
    )


def _decide(estimates: Sequence[_Estimate], rule: Rule) -> Outcome:
    if not estimates:
        raise DuetError("there is nothing to judge: the two sides have not met")
    effects = tuple(math.expm1(estimate.effect) for estimate in estimates)
    found = [estimate.verdict(rule) for estimate in estimates]
    verdict, reason = Verdict.UNDECIDED, ""
    if Verdict.SAME in found:
        verdict = Verdict.SAME
    elif {Verdict.SLOWER, Verdict.FASTER} <= set(found):
        reason = "one pair of processes found it slower, another one faster"
    elif Verdict.UNDECIDED in found:
        few = not estimates[found.index(Verdict.UNDECIDED)].enough
        reason = (
            f"a call takes so long that there were fewer than {rule.fewest} blocks of each side"
            if few
            else "the times of its blocks vary too much"
        )
    elif len(found) < rule.meetings:
        reason = f"{len(found)} of {rule.meetings} pairs of processes have found a change"
    else:
        verdict = found[0]
    return Outcome(verdict, effects, rule.limit, reason)


@dataclass(frozen=True, slots=True)
class DuetResult:
    """What is said of one timed call of a test.

    Attributes:
        nodeid: the test.
        call: which of its calls, such as ``GET /items`` or ``GET /items #2``; empty if the test
            as a whole cannot be compared.
        meetings: what each pair of fresh processes has measured.
        cpu: what is said of its CPU time; None if it cannot be compared.
        waiting: what is said of the time that it waits; None as well.
        reason: why it cannot be compared, or is undecided.
    """

    nodeid: str
    call: str
    meetings: tuple[Meeting, ...] = ()
    cpu: Outcome | None = None
    waiting: Outcome | None = None
    reason: str = ""

    @classmethod
    def of(
        cls,
        nodeid: str,
        call: str,
        meetings: Sequence[Meeting],
        *,
        noise_floor: float | None = None,
    ) -> Self:
        """Judge what was measured of a call."""
        cpu_by, waiting_by = rules(meetings, noise_floor)
        cpu = judge([meeting.ratios for meeting in meetings], cpu_by)
        waiting = judge_waiting(meetings, waiting_by)
        return cls(nodeid, call, tuple(meetings), cpu, waiting, cpu.reason or waiting.reason)

    @property
    def key(self) -> str:
        """What tells it from others: the node id and the call."""
        return f"{self.nodeid} {self.call}".rstrip()

    @property
    def verdict(self) -> Verdict:
        """What is said of both together."""
        if self.cpu is None or self.waiting is None:
            return Verdict.NOT_COMPARABLE
        found = {self.cpu.verdict, self.waiting.verdict}
        worst = (Verdict.SLOWER, Verdict.UNDECIDED, Verdict.FASTER, Verdict.SAME)
        return next(verdict for verdict in worst if verdict in found)

    @property
    def text(self) -> str:
        """The verdict with its size or its reason, in a line."""
        if self.cpu is None or self.waiting is None:
            return f"{self.verdict}: {self.reason}"
        if self.verdict is Verdict.UNDECIDED:
            return f"{self.verdict}: {self.reason}"
        cpu = " -> ".join(show(seconds, Unit.SECONDS) for seconds in self._cpu)
        # Of what waits now and then, the middle one may not wait at all.
        before = max(0.0, fmean(middle_mean(meeting.base.waiting) for meeting in self.meetings))
        after = before + fmean(middle_mean(meeting.waits_more) for meeting in self.meetings)
        waits = f"{show(before, Unit.SECONDS)} -> {show(max(0.0, after), Unit.SECONDS)}"
        whole = show(median(meeting.base.needed for meeting in self.meetings), Unit.SECONDS)
        changed = [
            f"{outcome.text} ({of})"
            for outcome, of in (
                (self.cpu, f"CPU time of a call {cpu}"),
                (self.waiting, f"waiting {waits} in a call of {whole}"),
            )
            if outcome.verdict in _CHANGED
        ]
        return ", ".join(changed) or str(self.verdict)

    @property
    def growth(self) -> float:
        """How many times as long head's call takes, in time that it computes or waits."""
        base, head = (
            median(getattr(meeting, side).needed for meeting in self.meetings)
            for side in ("base", "head")
        )
        return float(head / base)

    @property
    def _cpu(self) -> tuple[float, float]:
        """CPU seconds of a call of base and of head: of all blocks the middle one."""
        base = median(chain.from_iterable(meeting.base.cpu for meeting in self.meetings))
        head = median(chain.from_iterable(meeting.head.cpu for meeting in self.meetings))
        return base, head

    @property
    def is_open(self) -> bool:
        """Whether another pair of fresh processes may settle it."""
        # Others would have as few blocks of a call that takes so long.
        few = any(len(meeting.base.cpu) < _CPU.fewest for meeting in self.meetings)
        undecided = self.verdict is Verdict.UNDECIDED
        return undecided and not few and len(self.meetings) < _CPU.meetings

    def to_dict(self) -> dict[str, Any]:
        """Return this object as JSON data."""
        return {
            "nodeid": self.nodeid,
            "call": self.call,
            "meetings": [meeting.to_dict() for meeting in self.meetings],
            "cpu": self.cpu and self.cpu.to_dict(),
            "waiting": self.waiting and self.waiting.to_dict(),
            "reason": self.reason,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote."""
        read = {
            name: Outcome.from_dict(data[name]) if data[name] else None
            for name in ("cpu", "waiting")
        }
        meetings = tuple(map(Meeting.from_dict, data["meetings"]))
        return cls(**{**data, **read, "meetings": meetings})


def rules(meetings: Iterable[Meeting], noise_floor: float | None = None) -> tuple[Rule, Rule]:
    """Return the rules for CPU time and for waiting; the wider ones if a meeting was not pinned."""
    met = list(meetings)
    pinned = not any(meeting.not_pinned for meeting in met)
    floor = max((_OF_ALL / one.base.computes for one in met if one.base.cpu), default=0.0)
    if noise_floor is not None:
        floor = max(floor, noise_floor)
    return cpu_rule(pinned=pinned, noise_floor=floor), waiting_rule(pinned=pinned)


def noise_floor(results: Iterable[DuetResult]) -> float:
    """Return by which share calls of the same code on both sides have differed.

    It is the largest difference that was seen, or three times their root mean square where that is
    more: a few calls do not show the largest one.

    Raises:
        DuetError: if none was compared.
    """
    found = [
        math.log1p(effect) for one in results if one.cpu is not None for effect in one.cpu.effects
    ]
    if not found:
        raise DuetError(
            "no call was timed on both sides, so there is no noise floor: name tests that use "
            "perf.http(...).get(..., rounds=...), perf.time or benchmark"
        )
    deviation = math.sqrt(fmean(one**2 for one in found))
    return math.expm1(max(_NOISE_DEVIATIONS * deviation, *map(abs, found)))
