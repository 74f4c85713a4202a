"""Captures a profile of every span while it is open: where its time goes, in whatever thread.

pyinstrument sees only the thread that it is started in, while a request may pass through three:
the test's, the event loop's and one of a pool. So each span has a sampler in the thread that opens
it, and one more wherever :mod:`pytest_perfguard.probes.bridges` finds that its work goes on. Each
sample is that of the innermost span, and of those around it. Time in which one thread only waits
for another, whose samples there are, is counted once: as the other's.

This slows down what it looks at, so it runs in a pass of its own and never in one that counts.
"""

from __future__ import annotations

import asyncio
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Self

from pytest_perfguard.probes import pyinstrument_internals as pyinstrument
from pytest_perfguard.probes.bridges import Bridges
from pytest_perfguard.spans import Clock, OpenSpan, Spans
from pytest_perfguard.stacks import Frame, Profile

FEW_SAMPLES = 100
_LEAST_SECONDS = 1e-6
# The file of what is no code, such as the time in which a coroutine waits.
_NOWHERE = "<await>"
_INNER_SCOPES = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")
_PACKAGE = f"{Path(__file__).parents[1]}"
# What runs the user's code and says nothing about it, where a stack begins with it.
_RUNNERS = ("_pytest/", "anyio/", "asyncio/", "concurrent/", "pluggy/", "pytest_asyncio/")
_RUNNER_FILES = ("threading.py", "selectors.py", "contextlib.py", "<thread>")
# Functions in C in which a thread waits for another.
_WAITING = frozenset(
    {
        pyinstrument.AWAIT, "lock.acquire", "RLock.acquire", "SimpleQueue.get", "epoll.poll",
        "poll.poll", "select", "kqueue.control", "socket.accept", "socket.recv",
        "socket.recv_into", "sleep",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Captured:
    """The profile of all spans of one name.

    Attributes:
        profile: their stacks.
        records: the same samples in the order in which they were taken, for pyinstrument.
        cpu: CPU seconds of the process meanwhile.
    """

    profile: Profile
    records: tuple[pyinstrument.Record, ...]
    cpu: float

    def html(self) -> str:
        """Return pyinstrument's page."""
        return pyinstrument.html(self.records, self.profile.name, self.profile.seconds, self.cpu)


class _Anchor(NamedTuple):
    """A frame of ours that a span's code runs inside, and which one of its kind from outside."""

    frame: str
    number: int


class _Sample(NamedTuple):
    stack: tuple[str, ...]
    seconds: float
    ended: float
    anchors: tuple[_Anchor, ...]


@dataclass(eq=False, slots=True)
class _Part:
    """What has been seen of one span."""

    span: OpenSpan
    outer: _Part | None
    home: int
    seconds: float = 0.0
    cpu: float = 0.0
    cpu_before: float = field(default_factory=time.process_time)
    anchors: tuple[_Anchor, ...] = ()
    samples: list[_Sample] = field(default_factory=list)
    # How many spans inside this one are open in each thread: what is seen there is theirs.
    inner: Counter[int] = field(default_factory=Counter)
    # Threads that have a sampler for this span, and what they were busy with: from when to when.
    threads: set[int] = field(default_factory=set)
    busy: list[tuple[int, float, float]] = field(default_factory=list)

    def and_around(self) -> Iterator[_Part]:
        part: _Part | None = self
        while part is not None:
            yield part
            part = part.outer


class _Sampling:
    """The sampler of one span in one thread."""

    def __init__(self, part: _Part, anchors: tuple[_Anchor, ...], reader: _Reader) -> None:
        self._part = part
        self._reader = reader
        self._thread = threading.get_ident()
        self._anchors = anchors
        self._samples: list[_Sample] = []
        self._started = Clock.now()
        # A coroutine's time is that in which it waits, too; a function's that of its thread.
        self._sampler = pyinstrument.Sampler(
            self._saw, follow=asyncio._get_running_loop() is not None
        )
        part.threads.add(self._thread)
        self._sampler.start()

    def _saw(self, stack: list[str], seconds: float) -> None:
        if not self._part.inner[self._thread]:
            shared = self._reader.shared(stack)
            self._samples.append(_Sample(shared, seconds, Clock.now(), self._anchors))

    def stop(self) -> None:
        """Take no more samples, and give those taken to the span and to those around it."""
        self._sampler.stop()
        now = Clock.now()
        part = self._part
        part.threads.discard(self._thread)
        others = [(a, b) for thread, a, b in part.busy if thread != self._thread]
        samples = self._samples
        if others:
            samples = list(_without_waiting(samples, others, self._reader))
        for each in part.and_around():
            each.samples += samples
            if each.home != self._thread:
                each.busy.append((self._thread, self._started, now))


def _without_waiting(
    samples: Iterable[_Sample], busy: list[tuple[float, float]], reader: _Reader
) -> Iterator[_Sample]:
    """Leave out the time in which a thread waited while others were busy for it.

    It may wait for Python's lock, too, in any function of the libraries that connect the threads.
    """
    spells: list[tuple[float, float]] = []
    for start, end in sorted(busy):
        if spells and start <= spells[-1][1]:
            spells[-1] = spells[-1][0], max(end, spells[-1][1])
        else:
            spells.append((start, end))
    for sample in samples:
        if not reader.waits(sample):
            yield sample
            continue
        began = sample.ended - sample.seconds
        covered = sum(max(0.0, min(b, sample.ended) - max(a, began)) for a, b in spells)
        if sample.seconds - covered > _LEAST_SECONDS:
            yield sample._replace(seconds=sample.seconds - covered)


class Capture:
    """Profiles the spans that are opened while it is under way.

    Raises:
        MissingExtraError: when the module is imported, if pyinstrument is not installed.
    """

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self._lock = threading.Lock()
        self._parts: dict[OpenSpan, _Part] = {}
        self._own: dict[OpenSpan, _Sampling] = {}
        self._reader = _Reader(spans)
        self._bridges = Bridges(spans, self.elsewhere)

    def __enter__(self) -> Self:
        self._spans.watchers.append(self)
        self._bridges.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._spans.watchers.remove(self)
        self._bridges.stop()
        for span in list(self._own):
            self._leave(span)

    def opened(self, span: OpenSpan) -> None:
        """Begin to profile a span; that of a test waits for :meth:`inside`."""
        self._bridges.start()
        outer = span.parent
        while outer is not None and outer not in self._parts:
            outer = outer.parent
        part = _Part(span, self._parts[outer] if outer is not None else None, threading.get_ident())
        with self._lock:
            for around in part.and_around():
                if around is not part:
                    around.inner[part.home] += 1
            self._parts[span] = part
        if span.kind != "test":
            self._enter(part)

    def closed(self, span: OpenSpan) -> None:
        """Stop profiling a span."""
        part = self._parts.get(span)
        if part is None:
            return
        if span.kind != "test":
            part.seconds = Clock.now() - span.started
            part.cpu = time.process_time() - part.cpu_before
        self._leave(span)
        with self._lock:
            for around in part.and_around():
                if around is not part:
                    around.inner[part.home] -= 1

    def _enter(self, part: _Part) -> None:
        part.anchors = _anchors()
        self._own[part.span] = _Sampling(part, part.anchors, self._reader)

    def _leave(self, span: OpenSpan) -> None:
        sampling = self._own.pop(span, None)
        if sampling is not None:
            sampling.stop()

    @contextmanager
    def inside(self, span: OpenSpan | None) -> Iterator[None]:
        """Profile the span of a test from here on: what runs the test is no part of it."""
        part = self._parts.get(span) if span is not None else None
        if part is None or part.span in self._own:
            yield
            return
        self._enter(part)
        started, cpu_before = Clock.now(), time.process_time()
        try:
            yield
        finally:
            part.seconds += Clock.now() - started
            part.cpu += time.process_time() - cpu_before
            self._leave(part.span)

    @contextmanager
    def elsewhere(self, span: OpenSpan | None) -> Iterator[None]:
        """Profile what is done for a span in another thread than its own."""
        part = self._parts.get(span) if span is not None else None
        thread = threading.get_ident()
        if part is None or part.home == thread or thread in part.threads:
            yield
            return
        sampling = _Sampling(part, _anchors(), self._reader)
        try:
            yield
        finally:
            sampling.stop()

    def profiles(self) -> list[Captured]:
        """Return a profile for each kind and name of spans, the longest first."""
        groups: dict[tuple[str, str], list[_Part]] = {}
        for part in self._parts.values():
            groups.setdefault((part.span.kind, part.span.name), []).append(part)
        found = [self._reader.captured(kind, name, parts) for (kind, name), parts in groups.items()]
        return sorted(found, key=lambda each: (-each.profile.seconds, each.profile.name))


def _anchors() -> tuple[_Anchor, ...]:
    """Return the frames of ours on the stack, the innermost first, as records identify them."""
    counts: Counter[str] = Counter()
    found = []
    for frame in map(_identifier, pyinstrument.stack_of(sys._getframe(1))):
        if _PACKAGE in frame:
            counts[frame] += 1
            found.append(_Anchor(frame, counts[frame]))
    return tuple(reversed(found))


def _identifier(frame: str) -> str:
    return frame.partition("\x01")[0]


class _Cut(NamedTuple):
    """What is worth showing of a stack, as records have it and as it is shown."""

    stack: list[str]
    frames: list[Frame]


_NOTHING = _Cut([], [])


class _Reader:
    """Turns samples into stacks: from the span's own code inwards, without frames of ours."""

    def __init__(self, spans: Spans) -> None:
        self._sites = spans.sites
        self._frames: dict[str, Frame | None] = {}
        # Very deep stacks are seen again and again: each is kept and read once.
        self._texts: dict[str, str] = {}
        self._stacks: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._cuts: dict[tuple[tuple[str, ...], tuple[_Anchor, ...]], _Cut] = {}

    def shared(self, stack: list[str]) -> tuple[str, ...]:
        """Return a stack as the same object whenever it is the same."""
        texts = tuple(map(self._texts.setdefault, stack, stack))
        return self._stacks.setdefault(texts, texts)

    def captured(self, kind: str, name: str, parts: Iterable[_Part]) -> Captured:
        """Return the profile of spans of one name."""
        records: list[pyinstrument.Record] = []
        times: dict[int, list[float]] = {}
        frames: dict[int, list[Frame]] = {}
        seconds, cpu, calls = 0.0, 0.0, 0
        for part in parts:
            calls += 1
            seconds += part.seconds
            cpu += part.cpu
            for sample in part.samples:
                cut = self._cut(sample, part.anchors)
                if cut.stack:
                    records.append((cut.stack, sample.seconds))
                    frames[id(cut)] = cut.frames
                    times.setdefault(id(cut), []).append(sample.seconds)
                else:
                    # What perfguard does itself is no time of the user's.
                    seconds -= sample.seconds
        few = len(records) < FEW_SAMPLES
        notes = [f"only {len(records)} samples: the shares are rough"] if few else []
        samples = [(frames[key], math.fsum(spent)) for key, spent in times.items()]
        profile = Profile.build(
            name, kind, samples, seconds=max(seconds, 0.0), notes=notes, calls=calls
        )
        return Captured(profile, tuple(records), cpu)

    def waits(self, sample: _Sample) -> bool:
        """Return whether a sample was taken while its thread had nothing of the user's to do."""
        if pyinstrument.read(sample.stack[-1]).function in _WAITING:
            return True
        return not any(frame.user for frame in self._cut(sample, ()).frames)

    def _cut(self, sample: _Sample, anchors: tuple[_Anchor, ...]) -> _Cut:
        """Return the frames that are worth showing; none for what perfguard itself did."""
        anchors = (*anchors, *sample.anchors)
        key = sample.stack, anchors
        cut = self._cuts.get(key)
        if cut is None:
            cut = self._cuts[key] = self._cut_anew(sample.stack, anchors)
        return cut

    def _cut_anew(self, whole: tuple[str, ...], anchors: Iterable[_Anchor]) -> _Cut:
        stack = whole[self._start(whole, anchors) :]
        inner = stack[-1] if stack and "<built-in>" not in stack[-1] else "".join(stack[-2:-1])
        if inner and self._frame(inner) is None:
            return _NOTHING
        kept = [frame for frame in stack if self._frame(frame) is not None]
        first = 0
        while first < len(kept) - 1 and self._runs(kept[first]):
            first += 1
        kept = kept[first:]
        return _Cut(kept, self._frames_of(kept))

    def _start(self, stack: tuple[str, ...], anchors: Iterable[_Anchor]) -> int:
        """Return where the frames begin that are inside the first of the anchors on the stack."""
        own = [place for place, frame in enumerate(stack) if self._frame(frame) is None]
        for anchor in anchors:
            places = [place for place in own if _identifier(stack[place]) == anchor.frame]
            if len(places) >= anchor.number:
                return places[anchor.number - 1] + 1
        return 0

    def _runs(self, frame: str) -> bool:
        file = self._known(frame).file
        return file.startswith(_RUNNERS) or file in _RUNNER_FILES

    def _frames_of(self, stack: list[str]) -> list[Frame]:
        frames: list[Frame] = []
        functions: dict[str, str] = {}
        for text in stack:
            frame = self._known(text)
            if frame.function in _INNER_SCOPES and frame.file in functions:
                # A comprehension is a function of its own before Python 3.12.
                key = f"{text}\x01{functions[frame.file]}"
                named = self._frames.setdefault(key, replace(frame, function=functions[frame.file]))
                assert named is not None
                if (frames[-1].function, frames[-1].file) == (named.function, named.file):
                    # It calls nothing but its own code: no recursion is to be seen there.
                    frames.pop()
                frames.append(named)
            else:
                functions[frame.file] = frame.function
                frames.append(frame)
        return frames

    def _known(self, text: str) -> Frame:
        frame = self._frame(text)
        assert frame is not None
        return frame

    def _frame(self, text: str) -> Frame | None:
        """Read a frame; None for one of perfguard's own."""
        if text not in self._frames:
            function, file, line = pyinstrument.read(text)
            self._frames[text] = (
                None if file.startswith(_PACKAGE) else self._shown(function, file, line)
            )
        return self._frames[text]

    def _shown(self, function: str, file: str, line: int) -> Frame:
        if not file or file.startswith("<"):
            return Frame(function, file or _NOWHERE, 0, user=False)
        if self._sites.is_user[file]:
            return Frame(function, self._sites.show(file), line, user=True)
        return Frame(function, self._sites.show_library(file), line, user=False)
