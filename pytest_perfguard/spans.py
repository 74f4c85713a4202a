"""The spans that are open in this process, and what probes may do with them.

An event belongs to the innermost span open where it happened. "Where" is a context variable, so
concurrent requests in one event loop and endpoints in a thread pool are told apart; code that no
context reaches (a thread of the user's own, a server's thread) falls back to the span that the
process opened last and has not closed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pytest_perfguard.callsite import CallSites
from pytest_perfguard.findings import find
from pytest_perfguard.folding import fold
from pytest_perfguard.model import Moment, Site, Span, Tally
from pytest_perfguard.waivers import Waiver, Waivers

# What one span keeps of each thing. Counts stay exact beyond these limits; only the detail is
# folded, so that a test of a million statements needs no more memory than one of a thousand.
MAX_TALLIES = 1_000
MAX_MOMENTS = 500
MAX_CHILDREN = 200
# Requests are judged one by one where endpoints have budgets.
MAX_REQUESTS = 2_000
MAX_DEPTH = 50
# The metrics that databases are asked for their plans for.
PLANNED = frozenset({"sql_full_scans", "sql_sorts"})


class Clock:
    """The clock that spans and probes read.

    Libraries that freeze time for tests replace the clocks that they find in modules; a duration
    must not be frozen with them, so it is held where they do not look.
    """

    now = staticmethod(time.perf_counter)
    wall = staticmethod(time.perf_counter_ns)
    cpu = staticmethod(time.process_time_ns)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a recorder needs to know; every field has a default that suits most projects.

    Attributes:
        root: directory that file names are shown relative to.
        packages: installed packages that count as the user's own code.
        n_plus_one_threshold: different parameter sets that make a repeated operation a
            candidate N+1.
        show_parameters: keep the parameters of the first operations of each kind.
        key_words: words that may be shown in the patterns of cache keys.
        task_timeout: seconds for which the runs of published tasks are waited for.
    """

    root: Path = field(default_factory=Path.cwd)
    packages: tuple[str, ...] = ()
    n_plus_one_threshold: int = 5
    show_parameters: bool = False
    key_words: frozenset[str] = frozenset()
    task_timeout: float = 10.0


class LiveTally(Protocol):
    """A tally that is still being added to, as far as the time line needs to know it."""

    label: str
    shown: bool
    seconds: float
    peak: float
    moment: list[Any]


class Pause(Protocol):
    """Holds up calls that looked something up in a cache and did not find it."""

    def wait(self) -> None:
        """Hold up this thread."""

    async def wait_async(self) -> None:
        """Hold up this task."""


class Ledger(Protocol):
    """What one probe has seen in one open span; only the probe knows what else it holds."""

    def tallies(self) -> Iterable[Tally]:
        """Return it as data; may be called more than once."""


class Probe(Protocol):
    """Listens to one kind of source and writes into the open span.

    A probe is started before each span that is measured, so that it can listen to libraries
    that were loaded since, and stopped once, after the last span has closed. Between spans
    ``spans.innermost()`` is None and it must do nothing.
    """

    name: str

    def start(self, spans: Spans) -> None:
        """Begin to listen."""

    def stop(self) -> None:
        """Leave everything as it was before :meth:`start`."""


class Watcher(Protocol):
    """Is told of every span as it is opened and before it is closed."""

    def opened(self, span: OpenSpan) -> None:
        """Take note of a span that has been opened, in this thread and context."""

    def closed(self, span: OpenSpan) -> None:
        """Take note of a span that is about to be closed."""


class Leaves(Protocol):
    """Takes note of something that leaves the process."""

    def __call__(
        self, kind: str, label: str, site: Site | None, span: OpenSpan | None = None
    ) -> None:
        """Take note of it."""


class OpenSpan:
    """A span that is still being measured.

    Attributes:
        asked: metrics that are only measured on request, and that this span is asked for.
        wanted: those, and the ones that the spans around this one are asked for.
    """

    __slots__ = (
        "asked", "children", "closed", "depth", "facts", "folded", "growth", "kind", "last",
        "ledgers", "moments", "name", "notes", "on_miss", "origin", "owner", "parent", "peaks",
        "rest", "started", "trace", "wanted",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        kind: str,
        parent: OpenSpan | None,
        owner: object = None,
        asked: frozenset[str] = frozenset(),
    ) -> None:
        self.name = name
        self.kind = kind
        self.parent = parent
        self.owner = owner
        self.asked = asked
        self.wanted: frozenset[str] = parent.wanted | asked if parent else asked
        # What is done after a miss; the keys looked up and written, for as long as a contract
        # compares them. Both hold for the spans inside this one too.
        self.on_miss: Pause | None = parent.on_miss if parent else None
        self.trace: list[tuple[Any, str, tuple[object, ...]]] | None = (
            parent.trace if parent else None
        )
        self.depth: int = parent.depth + 1 if parent else 0
        self.closed = False
        self.ledgers: dict[str, Any] = {}
        self.peaks: dict[str, float] = {}
        self.notes: dict[str, None] = {}
        self.facts: dict[str, str] = {}
        self.growth: Mapping[str, Any] | None = None
        self.children: list[Span] = []
        self.folded: Span | None = None
        # [label, count, seconds since the outermost span began, seconds it took]; whose is last
        self.moments: list[list[float | str]] = []
        self.last: object = None
        # Takes up what comes after the time line is full.
        self.rest: list[float | str] = ["", 0, 0.0, 0.0]
        self.started = Clock.now()
        self.origin: float = parent.origin if parent else self.started

    def level(self, name: str, value: float) -> None:
        """Note a level; the highest is kept."""
        if value > self.peaks.get(name, -1.0):
            self.peaks[name] = value

    def advance(self, tally: LiveTally, started: float, took: float) -> None:
        """Add the time that an operation took, to its tally and on the time line."""
        tally.seconds += took
        if took > tally.peak:  # noqa: PLR1730 - max() takes longer
            tally.peak = took
        moment = tally.moment
        if self.last is not tally and tally.shown:
            self.last = tally
            if len(self.moments) < MAX_MOMENTS:
                moment = [tally.label, 0, started - self.origin, 0.0]
                self.moments.append(moment)
            else:
                moment = self.rest
            tally.moment = moment
        moment[1] += 1
        moment[3] += took

    def adopt(self, child: Span) -> None:
        """Keep a closed child; beyond :data:`MAX_CHILDREN` they are added up."""
        most = MAX_REQUESTS if child.kind == "request" else MAX_CHILDREN
        if len(self.children) < most or child.timing is not None:
            self.children.append(child)
        elif self.folded is None:
            self.folded = child
        else:
            name = f"{self.folded.calls + 1} more"
            self.folded = fold(name, self.folded, child, max_tallies=MAX_TALLIES)


def _nothing() -> None:
    """Do nothing."""


class Spans:
    """The open spans of one process.

    Attributes:
        listening: names of the probes that have been started.
        engines: labels of the database engines seen, by an identity; cleared by whoever reads it.
        readings: called with the span that what happened since the last call belongs to, for
            sources that count by themselves.
        passed_waivers: inline waivers on lines that events came from, and the metrics that each
            one covered a finding of; cleared by whoever reads it.
        watchers: are told of the spans that are opened and closed.
        asked_of_requests: metrics that are only measured on request, and that every request is
            asked for, by budgets of endpoints.
        fixtures: called when a fixture is set up inside a span; what each returns is called when
            that is done.
        leaves: None, or to be called where something leaves the process: with what it is
            (``http``, ``cache`` or ``task``), a label, the line that sent it, and the span in
            which that was, by default the innermost. It is None unless a transaction of a
            database has written, so to ask costs next to nothing.
        aside: makes a context manager; what is sent to a cache inside it, by this thread or task,
            is nobody's: neither a command nor something that leaves the process.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.sites = CallSites(settings.root, settings.packages)
        self.waivers = Waivers(settings.root)
        self.listening: list[str] = []
        self.engines: dict[str, str] = {}
        self.readings: list[Callable[[OpenSpan | None], None]] = []
        self.passed_waivers: dict[Waiver, set[str]] = {}
        self.watchers: list[Watcher] = []
        self.asked_of_requests: frozenset[str] = frozenset()
        self.fixtures: list[Callable[[], Callable[[], None]]] = []
        self.leaves: Leaves | None = None
        self.aside: Callable[[], AbstractContextManager[object]] = nullcontext
        self._open: list[OpenSpan] = []
        # Whether a timing is under way, for which the probes are off.
        self.timing = False
        self._context: ContextVar[OpenSpan | None] = ContextVar("perfguard_span", default=None)
        # Nearly always what innermost() returns, at a fraction of its cost: unless it is None, or
        # a span that has been closed.
        self.nearest: Callable[[], OpenSpan | None] = self._context.get

    def here(self) -> OpenSpan | None:
        """Return the innermost open span of this thread's or task's own context, or None."""
        span = self._context.get()
        while span is not None and span.closed:
            span = span.parent
        return span

    def innermost(self) -> OpenSpan | None:
        """Return the span that an event belongs to here and now, or None."""
        span = self._context.get()
        while span is not None:
            if not span.closed:
                return span
            span = span.parent
        opened = self._open
        return opened[-1] if opened else None

    def open(
        self,
        name: str,
        kind: str,
        owner: object = None,
        asked: frozenset[str] = frozenset(),
        parent: OpenSpan | None = None,
    ) -> OpenSpan:
        """Open a span inside the innermost one.

        Where no context says which that is, a request that happens to run elsewhere is none.

        Args:
            asked: metrics that are only measured on request, and are to be measured in it.
            parent: the span that it is inside of, where that is known better than by context.
        """
        self._read(self.innermost())
        parent = parent or self.here()
        if parent is None:
            around = [span for span in list(self._open) if span.kind != "request"]
            parent = around[-1] if around else None
        if kind == "request":
            asked |= self.asked_of_requests
        span = OpenSpan(name, kind, parent, owner, asked)
        self._open.append(span)
        self._context.set(span)
        for watcher in self.watchers:
            watcher.opened(span)
        return span

    def close(self, span: OpenSpan, *, keep: bool = True) -> Span:
        """Close a span and return it as data; the nearest span around it that is open keeps it.

        It is closed even if a watcher fails; its error goes on when all of them have been told.

        Args:
            keep: False for what belongs to no measurement, such as the emptying of a cache.
        """
        seconds = Clock.now() - span.started
        untold = iter(self.watchers)
        try:
            for watcher in untold:
                watcher.closed(span)
            self._read(span)
        except BaseException:
            for watcher in untold:
                with suppress(Exception):
                    watcher.closed(span)
            raise
        finally:
            span.closed = True
            # A task may end in its own thread just when its test does, which closes what is open.
            with suppress(ValueError):
                self._open.remove(span)
            self._context.set(span.parent)
        frozen = self.freeze(span, seconds)
        if span.depth > MAX_DEPTH:
            # A tree that deep would end every reader of it: what is inside is added up.
            nothing = Span(frozen.name, frozen.kind, frozen.start, calls=0)
            frozen = fold(frozen.name, frozen, nothing, max_tallies=MAX_TALLIES)
        if keep:
            self.keep(span, frozen)
        return frozen

    def keep(self, span: OpenSpan, frozen: Span) -> None:
        """Hand what became of a closed span to the nearest span around it that is open."""
        heir = span.parent
        while heir is not None and heir.closed:
            heir = heir.parent
        if heir is not None:
            heir.adopt(frozen)

    def begin_fixture(self) -> Callable[[], None]:
        """Note that a fixture is being set up, and return what is to be called when it is.

        What it takes meanwhile it gives back when it is torn down, after the span.
        """
        if self.innermost() is None:
            return _nothing
        ends = [begin() for begin in self.fixtures]

        def end() -> None:
            for each in ends:
                each()

        return end

    def skip(self) -> None:
        """Forget what sources have counted by themselves since they were read last."""
        self._read(None)

    def _read(self, span: OpenSpan | None) -> None:
        for reading in self.readings:
            reading(span)

    def abandon(self) -> None:
        """Close whatever has been left open, so that nothing is recorded into it any more."""
        for span in reversed(list(self._open)):
            try:
                self.close(span)
            except BaseException:
                # Those around it would take up what the next tests do.
                self.abandon()
                raise

    def freeze(self, span: OpenSpan, seconds: float | None = None) -> Span:
        """Return what the span holds so far."""
        if not span.closed:
            self._read(span)
        tallies = tuple(tally for ledger in span.ledgers.values() for tally in ledger.tallies())
        findings = self.waivers.apply(find(tallies, self.settings.n_plus_one_threshold))
        for waiver in self.waivers.passed(tallies):
            self.passed_waivers.setdefault(waiver, set())
        for finding in findings:
            for waiver in self.waivers.passed((finding.tally,)):
                if finding.waiver is not None and finding.metric in waiver.metrics:
                    self.passed_waivers[waiver].add(finding.metric)
        return Span(
            name=span.name,
            kind=span.kind,
            start=span.started - span.origin,
            seconds=Clock.now() - span.started if seconds is None else seconds,
            tallies=tallies,
            peaks=dict(span.peaks),
            findings=findings,
            timeline=tuple(
                Moment(str(label), int(count), float(start), float(took))
                for label, count, start, took in span.moments
            ),
            timeline_dropped=int(span.rest[1]),
            probes=((*self.listening, "plans") if PLANNED & span.wanted else tuple(self.listening)),
            notes=tuple(span.notes),
            facts=dict(span.facts),
            growth=span.growth,
            children=tuple(span.children) + ((span.folded,) if span.folded else ()),
        )
