"""Contracts of caches: the same call, cold and warm, and many times at once.

Each contract runs the call itself, be it a function or a coroutine function.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from inspect import isawaitable
from typing import Any, NamedTuple

from pytest_perfguard.budgets import Budget
from pytest_perfguard.comparison import differences
from pytest_perfguard.errors import CacheError
from pytest_perfguard.fingerprint import shorten
from pytest_perfguard.jobs import Job, Steps
from pytest_perfguard.key_patterns import difference
from pytest_perfguard.metrics import IN_PROCESS, lookup, measure_all
from pytest_perfguard.model import Span, Tally
from pytest_perfguard.recorder import Measurement
from pytest_perfguard.spans import OpenSpan

_Trace = list[tuple[Any, str, tuple[object, ...]]]

# How long a call that missed is held for the others to miss too. Where a lock lets only one of
# them look, this is what the contract costs.
_PATIENCE = 0.25
_MAX_SHOWN = 3
# Makes an object of each size in which Python hands out memory: steps of 16 bytes up to 512.
_SIZES: tuple[Callable[[], object], ...] = (
    object,
    complex,
    *(partial(bytes, block - 33) for block in range(48, 513, 16)),
)
_OF_EACH = 300
# What a cache is there to save.
_WORK = (("sql", "read"), ("cache", "write"), ("cache", IN_PROCESS))


class ColdWarm(NamedTuple):
    """What a call cost with an empty cache, and what it cost the second time."""

    cold: Measurement
    warm: Measurement


def cold_warm(
    job: Job,
    call: Callable[[], Any],
    *,
    flush: Callable[[], Any] | None,
    cold: Sequence[Budget],
    warm: Sequence[Budget],
    same: Callable[[Any, Any], bool] | None,
    may_read: Collection[str],
) -> Steps:
    """Call twice, the first time with an empty cache, and compare."""
    __tracebackhide__ = True
    yield from job.unmeasured(flush)
    asked_cold: _Trace = []
    first = job.open("cold", cold)
    first.opened.trace = asked_cold
    try:
        cold_result = yield call()
    finally:
        cold_span = first.close()
    taken = _take_addresses()
    asked_warm: _Trace = []
    second = job.open("warm", warm)
    second.opened.trace = asked_warm
    try:
        try:
            warm_result = yield call()
        except Exception as error:
            error.add_note(
                f"perfguard: raised by the warm call of {job.where}, not by the cold one"
            )
            raise
        warm_span = job.guard.recorder.freeze(second.opened)
        _note_misses(second.opened, warm_span, asked_cold, asked_warm)
        _note_rereads(second.opened, cold_span, warm_span, may_read)
        _note_differences(second.opened, cold_result, warm_result, same)
    finally:
        warm_span = second.close()
    del taken
    cold_metrics = measure_all(cold_span)
    if cold_metrics.get("cache_hits") and not cold_metrics.get("cache_misses"):
        job.mistake(
            "the cold call found all that it looked up: "
            + ("flush= did not empty the cache" if flush else "empty the cache with flush=")
        )
    job.judge(cold_span, cold)
    own = {budget.metric.name for budget in warm}
    defaults = (
        ("cache_hits", 1),
        ("cache_misses", 0),
        ("cache_unstable_keys", 0),
        ("cache_rereads", 0),
        ("cache_differences", 0),
    )
    job.judge(
        warm_span,
        [
            *(
                Budget(lookup(name), limit, job.where)
                for name, limit in defaults
                if name not in own
            ),
            *warm,
        ],
    )
    return ColdWarm(first, second)


def _take_addresses() -> list[object]:
    """Hold the memory of small objects that are gone, so that new ones have other addresses.

    A key that is made of an object's address, or of its hash, would else be the same for both
    calls by luck: what the cold call has freed is what the warm call is given.
    """
    return [make() for make in _SIZES for _ in range(_OF_EACH)]


def _note_misses(span: OpenSpan, warm: Span, cold: _Trace, warm_asked: _Trace) -> None:
    """Say why the warm call missed, as far as it can be known from the keys."""
    metrics = measure_all(warm)
    if metrics.get("cache_hits") and not metrics.get("cache_misses"):
        return
    text = _why_missed(cold, warm_asked)
    if text:
        span.facts["cache_misses" if metrics.get("cache_misses") else "cache_hits"] = text


def _why_missed(cold: _Trace, warm: _Trace) -> str:
    asked, asked_again = _lookups(cold), _lookups(warm)
    written, scripted = _stored(cold, "write"), _stored(cold, "script")
    before = {key for _, key in asked}
    again = {key for _, key in asked_again}
    gone = [key for _, key in asked if key not in again]
    new = [(tally, key) for tally, key in asked_again if key not in before]
    if gone and new:
        tally, key = new[0]
        return _explain(
            f"the key changed between two identical calls: {difference(gone[0], key)}",
            tally,
            "build the key from what the result depends on, not from objects that are made "
            "for each call",
        )
    missed = _lookups(warm, ("miss",))
    for tally, key in missed:
        if key in written:
            continue
        if key in scripted:
            return _explain(
                "the cold call looked this up and stored nothing under it, unless a script did",
                tally,
                "store the result, or look at what the script does with it",
            )
        others = [other for other in (*written, *scripted) if other not in before]
        if others:
            return _explain(
                f"the cold call stored under another key than it looked up: "
                f"{difference(key, others[0])}",
                tally,
                "build both keys in one place",
            )
        return _explain(
            "the cold call looked this up and stored nothing under it", tally, "store the result"
        )
    if missed:
        tally, _ = missed[0]
        return _explain(
            "what the cold call stored could not be found again",
            tally,
            "look for what deletes or overwrites it, or for an expiry that is too short",
        )
    return ""


def _stored(trace: _Trace, use: str) -> dict[object, None]:
    return dict.fromkeys(_plain(key) for _, done, keys in trace if done == use for key in keys)


def _lookups(
    trace: _Trace, outcomes: Collection[str] = ("hit", "miss")
) -> list[tuple[Any, object]]:
    asked = [(tally, keys) for tally, use, keys in trace if use in outcomes]
    return [(tally, _plain(key)) for tally, keys in asked for key in keys]


def _plain(key: object) -> object:
    if isinstance(key, bytes | bytearray | memoryview):
        return bytes(key).decode("utf-8", "replace")
    return str(key)


def _note_rereads(span: OpenSpan, cold: Span, warm: Span, may_read: Collection[str]) -> None:
    before = {tally.operation for tally in _reads(cold)}
    again = [
        tally for tally in _reads(warm) if tally.operation in before and tally.label not in may_read
    ]
    span.level("cache_rereads", sum(tally.count for tally in again))
    if again:
        span.facts["cache_rereads"] = "\n".join(
            _explain(
                f"{tally.count}x {tally.label} read again by the warm call",
                tally,
                "look into the cache before this query runs, or let it pass with "
                f"may_read=[{tally.label!r}]",
            )
            for tally in again[:_MAX_SHOWN]
        )


def _reads(span: Span) -> list[Tally]:
    return [
        tally
        for part in span.walk()
        for tally in part.tallies
        if tally.probe == "sql" and tally.kind == "read"
    ]


def _note_differences(
    span: OpenSpan, cold: object, warm: object, same: Callable[[Any, Any], bool] | None
) -> None:
    __tracebackhide__ = True
    if same is not None:
        verdict: object = same(cold, warm)
        if verdict is None or verdict is NotImplemented or isawaitable(verdict):
            raise CacheError("same= gave no answer: it is a function that returns True or False")
        found = [] if verdict else ["same= says that the two results are not the same"]
    else:
        found = differences(cold, warm)
    span.level("cache_differences", len(found))
    if found:
        hidden = len(found) - _MAX_SHOWN
        span.facts["cache_differences"] = "\n    ".join(
            [
                "the warm call returned another result:",
                *found[:_MAX_SHOWN],
                *([f"... and {hidden} more places"] if hidden > 0 else []),
            ]
        )


def _explain(title: str, tally: Any, fix: str) -> str:
    """Return what happened, at which line, and what to do, as a failure shows it."""
    lines = [title, f"    at {tally.site}" if tally.site else "    at no line of your code"]
    if tally.operation not in title:
        lines.append(f"    {shorten(tally.operation, 96)}")
    return "\n".join([*lines, f"    fix: {fix}"])


class _Gathering:
    """Holds calls that missed until all of them have, or have ended, or patience has.

    Without it, calls that are started together may still run one after the other, and a stampede
    would be a matter of luck.
    """

    def __init__(self, calls: int) -> None:
        self._lock = threading.Lock()
        self._expected = calls
        self._wake: list[Callable[[], object]] = []

    def arrive(self, wake: Callable[[], object]) -> None:
        """Note that one more call has missed or ended; ``wake`` is called when all have."""
        with self._lock:
            self._expected -= 1
            self._wake.append(wake)
            everybody = self._expected <= 0
        if everybody:
            self.give_up()

    def give_up(self) -> None:
        """Let everybody go."""
        with self._lock:
            woken, self._wake = self._wake, []
        for waiting in woken:
            waiting()


class _Held:
    """One call's place in a gathering, taken at its first miss."""

    def __init__(self, gathering: _Gathering) -> None:
        self._gathering = gathering
        self._arrived = False

    def wait(self) -> None:
        """Hold up this thread."""
        if not self._arrived:
            self._arrived = True
            everybody = threading.Event()
            self._gathering.arrive(everybody.set)
            if not everybody.wait(_PATIENCE):
                self._gathering.give_up()

    async def wait_async(self) -> None:
        """Hold up this task."""
        if not self._arrived:
            self._arrived = True
            loop = asyncio.get_running_loop()
            everybody = asyncio.Event()
            self._gathering.arrive(lambda: loop.call_soon_threadsafe(everybody.set))
            try:
                await asyncio.wait_for(everybody.wait(), _PATIENCE)
            except TimeoutError:
                self._gathering.give_up()

    def end(self) -> None:
        """Do not let the others wait for a call that has ended."""
        if not self._arrived:
            self._arrived = True
            self._gathering.arrive(lambda: None)


def stampede(  # noqa: PLR0915 - for threads and for tasks
    job: Job,
    call: Callable[[], Any],
    *,
    concurrency: int,
    flush: Callable[[], Any] | None,
    limit: float,
) -> Steps:
    """Call many times at once with an empty cache and count who does the work."""
    recorder = job.guard.recorder
    yield from job.unmeasured(flush)
    whole = job.open("stampede")
    gathering = _Gathering(concurrency)
    spans: list[Span] = []

    def begin(number: int) -> tuple[OpenSpan, _Held]:
        span = recorder.open(f"call {number}", "block")
        span.on_miss = held = _Held(gathering)
        return span, held

    def one(number: int, start: threading.Barrier) -> None:
        span, held = begin(number)
        try:
            start.wait()
            result = call()
            if isawaitable(result):
                if isinstance(result, Coroutine):
                    result.close()
                raise CacheError(
                    f"{job.where}: the call returned something to await, and no event loop "
                    "is running: use it in an 'async def' test and await it"
                )
        finally:
            held.end()
            spans.append(recorder.close(span))

    async def one_async(number: int) -> None:
        span, held = begin(number)
        try:
            result = call()
            if not isawaitable(result):
                raise CacheError(
                    f"{job.where}: the call is synchronous, so it would hold up the running "
                    "event loop: use it in a plain 'def' test"
                )
            await result
        finally:
            held.end()
            spans.append(recorder.close(span))

    try:
        if asyncio._get_running_loop() is None:
            _in_threads(one, concurrency)
        else:
            yield _in_tasks(one_async, concurrency)
        # What a call does with a warm cache is not part of the work.
        after = recorder.open("unmeasured", "block")
        try:
            yield call()
        finally:
            warm = recorder.close(after, keep=False)
        _note_recomputations(whole.opened, spans, warm)
    finally:
        span = whole.close()
    if not span.peaks.get("cache_recomputations"):
        job.mistake(
            "none of the calls read from a database, stored anything in the cache or missed a "
            "watched one: " + ("it was not empty" if flush else "empty the cache with flush=")
        )
    job.judge(span, [Budget(lookup("cache_recomputations"), limit, job.where)])
    return whole


def _in_threads(one: Callable[[int, threading.Barrier], None], concurrency: int) -> None:
    start = threading.Barrier(concurrency)
    with ThreadPoolExecutor(concurrency, "perfguard-stampede") as threads:
        try:
            calls = [
                threads.submit(copy_context().run, one, number, start)
                for number in range(1, concurrency + 1)
            ]
        except RuntimeError:
            # Where no more threads can be had, those that are there would wait for them for ever.
            start.abort()
            raise
    for finished in calls:
        finished.result()


async def _in_tasks(one: Callable[[int], Awaitable[None]], concurrency: int) -> None:
    calls = [asyncio.ensure_future(one(number)) for number in range(1, concurrency + 1)]
    try:
        await asyncio.gather(*calls)
    finally:
        # None goes on after the error of another.
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


def _note_recomputations(span: OpenSpan, calls: Sequence[Span], warm: Span) -> None:
    """Find the work that most of the calls did, though one could have done it for all."""
    usual = _work(warm) if measure_all(warm).get("cache_hits") else {}
    doers: dict[_Work, list[Tally]] = {}
    for call in calls:
        for work, tallies in _work(call).items():
            if tallies[0].kind != IN_PROCESS and _amount(tallies) > _amount(usual.get(work, ())):
                doers.setdefault(work, []).append(tallies[0])
    # Whose misses they were is not known of caches that count by themselves.
    for work, tallies in _work(Span("", "block", children=tuple(calls))).items():
        more = _amount(tallies) - len(calls) * _amount(usual.get(work, ()))
        if tallies[0].kind == IN_PROCESS and more > 0:
            doers[work] = tallies[:1] * min(int(more), len(calls))
    # What the database did says more than what was stored afterwards.
    most = max(doers.values(), key=lambda tallies: (len(tallies), tallies[0].probe), default=[])
    span.level("cache_recomputations", len(most))
    if len(most) > 1:
        span.facts["cache_recomputations"] = _explain(
            f"{most[0].label} by {len(most)} of {len(calls)} concurrent calls; one could have done "
            "it for all",
            most[0],
            "let one call compute while the others wait: a lock for each key, and a second lookup "
            "once it is held; in Redis if there are several processes",
        )


_Work = tuple[str, str]


def _work(span: Span) -> dict[_Work, list[Tally]]:
    """Return what was read from databases, stored in caches, or missed in watched ones."""
    found: dict[_Work, list[Tally]] = {}
    for part in span.walk():
        for tally in part.tallies:
            if (tally.probe, tally.kind) in _WORK:
                found.setdefault((tally.probe, tally.operation), []).append(tally)
    return found


def _amount(tallies: Iterable[Tally]) -> float:
    return sum(t.sums.get("misses", 0) if t.kind == IN_PROCESS else t.count for t in tallies)
