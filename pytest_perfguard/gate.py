"""Judges a time by those that processes have stored: pure statistics on samples.

No stored time is compared as it is. Of each the share that the machine had in it is taken off: with
logarithms of CPU times, ``y = t - w·r`` for a call's time ``t``, the references' ``r`` and a mix
``w`` of them, the one by which the stored windows spread least. The new time is compared with the
mean of the stored ones, in which those count most that were taken in a like state of the machine.
The limit is a minimum effect, not a significance: processes of the same code differ by some percent
for good. It widens where no stored process has seen a state like today's, and where it would have
to be too wide to be of use, the judge says so instead.

A suspect is not slower yet: it is to be measured again by a fresh process, and is slower if that
one is a suspect as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from pytest_perfguard.errors import TimingError
from pytest_perfguard.samples import REFERENCES, Sample, Window, is_whole
from pytest_perfguard.units import Unit, show

FEWEST_PROCESSES = 5
PROCESSES = 10

# The recipe; its numbers were found by experiment and frozen before they were tried on other data.
_SMALLEST_EFFECT = math.log(1.13)
_UNDECIDED = math.log(1.25)
_FREE_DISTANCE = 0.10
_WIDENING = 0.4
_SOFTENING = 0.08
_STEPS = 4
_SPREAD = 1.25
_PREFER_MATCHED = 0.004

# Where waiting can be told from noise: where the calls do not cross threads.
WAITING_KINDS = frozenset({"function", "asgi"})
_WAITING_SECONDS = 0.0002
_WAITING_SHARE = 0.10

Weights = tuple[float, float, float]


class GateStatus(StrEnum):
    """What is said of a time."""

    OK = "ok"
    SUSPECT = "suspect"
    FASTER = "faster"
    UNDECIDED = "undecided"
    NEW = "new"


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """What is said of a call's CPU time.

    Attributes:
        status: what to do about it.
        ratio: how many times the stored time it is; None if nothing comparable is stored.
        limit: the ratio above which it is a suspect; None as well.
        distance: how far the machine is from the nearest stored state, as a logarithm.
        weights: the mix of references that was used.
        stored: comparable processes that are stored.
        needed: how many are needed before it is judged.
        text: all of that in a line.
    """

    status: GateStatus
    ratio: float | None
    limit: float | None
    distance: float | None
    weights: Weights | None
    stored: int
    needed: int
    text: str


@dataclass(frozen=True, slots=True)
class WaitingVerdict:
    """What is said of the time that a call waits.

    Attributes:
        status: ``ok``, ``suspect``, ``faster`` or ``new``.
        seconds: the time that it waited.
        baseline: what it waited in the stored processes; None if there are none.
        limit: the time above which it is a suspect; None as well.
        stored: comparable processes that are stored.
        needed: how many are needed before it is judged.
        text: all of that in a line.
    """

    status: GateStatus
    seconds: float
    baseline: float | None
    limit: float | None
    stored: int
    needed: int
    text: str


def judge(stored: Sequence[Sample], new: Sample, needed: int = PROCESSES) -> GateVerdict:
    """Judge the CPU time of a process by those of others.

    Args:
        stored: one sample of each process; those beside other references are left out.
        new: the sample to judge.
        needed: how many processes have to be stored.

    Raises:
        TimingError: if fewer than :data:`FEWEST_PROCESSES` are needed.
    """
    _check(needed)
    known = _comparable(stored, new)
    if not known:
        return GateVerdict(
            GateStatus.NEW, None, None, None, None, 0, needed, _new(0, len(stored), needed)
        )
    weights = _fit(known)
    distances = [_distance(new.pooled, one.pooled) for one in known]
    nearness = [1 / (_SOFTENING + distance) ** 2 for distance in distances]
    usual = math.fsum(
        near * _relative(one.pooled, weights) for near, one in zip(nearness, known, strict=True)
    ) / math.fsum(nearness)
    effect = _relative(new.pooled, weights) - usual
    distance = min(distances)
    threshold = _SMALLEST_EFFECT + _WIDENING * max(0.0, distance - _FREE_DISTANCE)
    if len(known) < needed:
        status = GateStatus.NEW
    elif threshold > _UNDECIDED:
        status = GateStatus.UNDECIDED
    elif effect > threshold:
        status = GateStatus.SUSPECT
    elif effect < -threshold:
        status = GateStatus.FASTER
    else:
        status = GateStatus.OK
    ratio, limit = math.exp(effect), math.exp(threshold)
    text = (
        _new(len(known), len(stored), needed, ratio)
        if status is GateStatus.NEW
        else _text(status, ratio, limit, distance, len(known))
    )
    return GateVerdict(status, ratio, limit, distance, weights, len(known), needed, text)


def judge_waiting(
    stored: Sequence[Sample], new: Sample, kind: str, needed: int = PROCESSES
) -> WaitingVerdict | None:
    """Judge the time that a call waits, of which CPU time knows nothing.

    Returns:
        None for a kind of call whose waiting is noise; see :data:`WAITING_KINDS`.

    Raises:
        TimingError: if fewer than :data:`FEWEST_PROCESSES` are needed.
    """
    _check(needed)
    if kind not in WAITING_KINDS:
        return None
    known = _comparable(stored, new)
    seconds = new.pooled.waiting
    if not known:
        return WaitingVerdict(
            GateStatus.NEW, seconds, None, None, 0, needed, _new(0, len(stored), needed)
        )
    baseline = median(one.pooled.waiting for one in known)
    allowance = max(_WAITING_SECONDS, _WAITING_SHARE * baseline)
    limit = baseline + allowance
    if len(known) < needed:
        status = GateStatus.NEW
    elif seconds > limit:
        status = GateStatus.SUSPECT
    elif seconds < baseline - allowance:
        status = GateStatus.FASTER
    else:
        status = GateStatus.OK
    shown = [show(value, Unit.SECONDS) for value in (seconds, baseline, limit)]
    text = (
        _new(len(known), len(stored), needed)
        if status is GateStatus.NEW
        else f"waits {shown[0]}, {shown[1]} in {len(known)} stored processes, limit {shown[2]}"
    )
    return WaitingVerdict(status, seconds, baseline, limit, len(known), needed, text)


def _check(needed: int) -> None:
    if not is_whole(needed, FEWEST_PROCESSES):
        raise TimingError(
            f"{needed!r} stored processes are too few to judge by: at least {FEWEST_PROCESSES}"
        )


def _comparable(stored: Sequence[Sample], new: Sample) -> list[Sample]:
    return [one for one in stored if one.reference == new.reference]


def _mixes() -> list[Weights]:
    """Return every mix of the references in steps of a quarter."""
    return [
        (a / _STEPS, b / _STEPS, (_STEPS - a - b) / _STEPS)
        for a in range(_STEPS, -1, -1)
        for b in range(_STEPS - a, -1, -1)
    ]


_MIXES = _mixes()


def _fit(stored: Sequence[Sample]) -> Weights:
    """Return the mix by which the stored windows spread least; the matched reference in doubt."""
    windows = [window for one in stored for window in one.windows]

    def cost(weights: Weights) -> float:
        values = [_relative(window, weights) for window in windows]
        middle = median(values)
        spread = math.fsum(abs(value - middle) for value in values) / len(values)
        return _SPREAD * spread + _PREFER_MATCHED * (1 - weights[0])

    return min(_MIXES, key=cost)


def _relative(window: Window, weights: Weights) -> float:
    """Return a time without the share that the machine had in it."""
    return window.cpu - math.fsum(
        weight * time for weight, time in zip(weights, window.references, strict=True)
    )


def _distance(one: Window, other: Window) -> float:
    """Return how far two states of the machine are apart."""
    return max(abs(one.references[j] - other.references[j]) for j in range(REFERENCES))


def _new(known: int, stored: int, needed: int, ratio: float | None = None) -> str:
    seen = f", {ratio:.2f}x of them so far" if ratio is not None else ""
    others = f"; {stored - known} stored beside other reference work" if stored > known else ""
    return f"new ({known} of {needed} processes stored{seen}{others})"


def _text(status: GateStatus, ratio: float, limit: float, distance: float, stored: int) -> str:
    against = f"CPU time {ratio:.2f}x of {stored} stored processes, relative to reference work"
    state = f"the machine differs by {math.exp(distance) - 1:.0%} from its nearest stored state"
    if status is GateStatus.UNDECIDED:
        return f"{against}: undecided, {state}"
    told = f"limit {1 / limit:.2f}x" if status is GateStatus.FASTER else f"limit {limit:.2f}x"
    return f"{against}, {told}" + (f", because {state}" if distance > _FREE_DISTANCE else "")
