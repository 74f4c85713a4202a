"""The task probe: each try of a background task is a span of its own.

What a task ran is then judged by itself, wherever it ran: at once where it was called (eagerly),
in a worker in a thread of this process, or in a worker of its own that sends back what it has
measured. A queue library is listened to by a :class:`Queue`, which tells the probe what is
published, what begins and what ends; Celery's is in :mod:`pytest_perfguard.probes.celery_queue`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

# By name: a test that puts another getpid into os is about its own code.
from os import getpid
from threading import Condition
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from pytest_perfguard.callsite import Places
from pytest_perfguard.model import Site, Span
from pytest_perfguard.probes.task_ledger import PublishedTally, Run, TaskLedger
from pytest_perfguard.spans import Clock
from pytest_perfguard.visible import visible

if TYPE_CHECKING:
    from pytest_perfguard.spans import OpenSpan, Spans

# Metrics that need the runs of what was published, wherever it runs.
NEED_RUNS = ("task_runs", "task_slowest", "task_latency", "task_retries", "task_failures")
# Messages whose runs are waited for at most; those beyond are not known.
_MAX_SENT = 10_000
# How often a wait looks whether a thread of this process has done the rest.
_LOOK = 0.02
# Anything can be given to a task for its name.
_LONGEST_NAME = 200
_log = logging.getLogger(__name__)


def shown_name(name: str) -> str:
    """Return the name of a task as it is shown: printable, and no longer than a few lines."""
    text = visible(name[: _LONGEST_NAME + 1])
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"


class Post(Protocol):
    """Brings back what workers in other processes have measured."""

    def receive(self, timeout: float) -> Iterable[Mapping[str, Any]]:
        """Return the records that have come, waiting for one for so many seconds at most.

        Raises:
            ConnectionError: if what would bring them has gone; it names why.
        """

    def close(self) -> None:
        """Leave nothing on the broker, and no connection to it."""


class Queue(Protocol):
    """Listens to one queue library and tells a :class:`TaskProbe` what it hears."""

    def start(self, probe: TaskProbe) -> None:
        """Begin to listen, if the library has been loaded by now; may be called again."""

    def stop(self) -> None:
        """Leave everything as it was before :meth:`start`."""


@dataclass(slots=True)
class Sent:
    """A message that has been published and whose run is not known yet.

    Attributes:
        tries: numbers of the tries that are known, which need not come in order.
        last: number of the last one, once that is known.
    """

    name: str
    site: Site | None
    at: float
    span: OpenSpan
    tally: PublishedTally
    tries: set[int] = field(default_factory=set)
    last: int | None = None


@dataclass(slots=True, eq=False)
class _Try:
    """A try that is under way, and the message that it was begun by, if we know that."""

    span: OpenSpan
    message: Sent | None


class TaskProbe:
    """Counts what is published, and opens a span for each try of a task.

    Args:
        queues: the libraries that are listened to.
    """

    name = "tasks"

    def __init__(self, queues: Sequence[Queue] = ()) -> None:
        self._queues = list(queues)
        self._spans: Spans | None = None
        self._process = 0
        self._sent: dict[Hashable, Sent] = {}
        # The tries under way by their key, the innermost last: a task that replaces itself, and
        # runs at once, has begun again under its own identity before it has ended.
        self._running: dict[Hashable, list[_Try]] = {}
        # What has come from workers before it was known that it was published.
        self._early: dict[Hashable, list[Mapping[str, Any]]] = {}
        # The lines that publish, by the folder of the library that they call.
        self._places: dict[str, Places] = {}
        self._changed = Condition()
        self.post: Post | None = None

    def start(self, spans: Spans) -> None:
        """Listen to the libraries that have been loaded by now."""
        self._spans = spans
        self._process = getpid()
        if self not in spans.watchers:
            spans.watchers.append(self)
        for queue in self._queues:
            queue.start(self)

    def add(self, queue: Queue) -> None:
        """Listen to one more library, from now on."""
        if not any(known is queue for known in self._queues):
            # One that cannot be started would fail every test from now on.
            if self._spans is not None:
                queue.start(self)
            self._queues.append(queue)

    def stop(self) -> None:
        """Stop listening. What is under way in an open span is still waited for when it closes."""
        for queue in self._queues:
            try:
                queue.stop()
            except Exception:  # noqa: BLE001 - the session's report would be lost for it
                _log.warning(
                    "perfguard: %s.stop() failed: what it has begun may be left behind",
                    type(queue).__name__,
                    exc_info=True,
                )
        if self._spans is not None and self._spans.innermost() is None:
            self._spans.watchers.remove(self)
            self._sent.clear()
            self._running.clear()
            self._places.clear()
            self._close_post()
            self._spans = None

    # -- what a queue tells ------------------------------------------------------------------------

    def settings(self) -> dict[str, Any]:
        """Return what a worker in another process needs to know to measure as this one does."""
        assert self._spans is not None
        settings = self._spans.settings
        return {
            "root": str(settings.root),
            "packages": list(settings.packages),
            "n_plus_one_threshold": settings.n_plus_one_threshold,
            "key_words": sorted(settings.key_words),
        }

    def aside(self) -> AbstractContextManager[object]:
        """Return a context in which what is sent to a cache is no command of the user's."""
        return nullcontext() if self._spans is None else self._spans.aside()

    def span(self) -> OpenSpan | None:
        """Return the span that something published here belongs to; None if nothing is measured.

        A process that was forked from the measured one measures nothing.
        """
        if self._spans is None or getpid() != self._process:
            return None
        return self._spans.innermost()

    def publish(
        self,
        name: str,
        frame: FrameType,
        *,
        library: str = "",
        key: Hashable = None,
        in_group: bool = False,
        group: str = "",
    ) -> Site | None:
        """Note a message, or a call that runs at once.

        Args:
            name: of the task.
            frame: where it was seen; the user's line is looked for from there.
            library: folder of the queue's package, whose functions are not worth naming.
            key: what its runs will be known by; None for a call that runs at once.
            in_group: it is one of many that were published by one call.
            group: how many are published by one call, to be written instead of many calls.

        Returns:
            The user's line; None where it is not known, or if nothing is measured.
        """
        span = self.span()
        if span is None:
            return None
        assert self._spans is not None
        name = shown_name(name)
        ledger = _ledger(span)
        if library not in self._places:
            self._places[library] = Places(self._spans.sites, library)
        site = self._places[library].site(frame)
        leaves = self._spans.leaves
        if leaves is not None:
            leaves("task", name, site, span)
        now = Clock.now()
        with self._changed:
            tally = ledger.published(name, site)
            tally.count += 1
            tally.alone += not in_group
            tally.group = group or tally.group
            span.advance(tally, now, 0.0)
            if key is not None:
                tally.unheard += 1
                self._send(key, Sent(name, site, now, span, tally))
        return site

    def _send(self, key: Hashable, sent: Sent) -> None:
        if len(self._sent) >= _MAX_SENT:
            return
        known = self._sent.pop(key, None)
        if known is not None:
            # A task is replaced while it runs, and its own end is still to be waited for.
            self._sent[_replaced(key, known)] = known
        self._sent[key] = sent

    def asked(self, span: OpenSpan) -> frozenset[str]:
        """Return the metrics that the span needs the runs of its tasks for, wherever they run."""
        return span.wanted.intersection(NEED_RUNS)

    def begin(
        self,
        name: str,
        key: Hashable,
        *,
        sent: Hashable = None,
        number: int = 0,
        latency: float | None = None,
        site: Site | None = None,
    ) -> None:
        """Open the span of a try.

        Args:
            name: of the task.
            key: tells the try from every other one.
            sent: what it was published by; None for a call that runs at once.
            number: of the try: 0 for the first, 1 for the first retry.
            latency: seconds since it was published, where this process did not publish it.
            site: the user's line that called it, if it runs at once.
        """
        if self.span() is None:
            return
        assert self._spans is not None
        name = shown_name(name)
        message = self._sent.get(sent) if sent is not None else None
        parent = None
        if message is not None:
            site = message.site
            parent = None if message.span.closed else message.span
            if latency is None:
                latency = Clock.now() - message.at
        span = self._spans.open(f"task {name}", "task", parent=parent)
        _ledger(span).run = Run(name, site, None if number else latency)
        self._running.setdefault(key, []).append(_Try(span, message))

    def end(
        self,
        key: Hashable,
        state: str = "run",
        error: str | None = None,
        *,
        sent: Hashable = None,
        number: int = 0,
    ) -> None:
        """Close the span of a try.

        Args:
            key: as it was begun by.
            state: ``run``, ``retry`` (it will be tried again) or ``failure`` (it will not).
            error: class of what it raised.
            sent: what it was published by; None for a call that ran at once.
            number: of the try.
        """
        under_way = self._try(key)
        if under_way is None or getpid() != self._process:
            return
        self._running[key].remove(under_way)
        if not self._running[key]:
            del self._running[key]
        span = under_way.span
        if span.closed:
            return
        assert self._spans is not None
        run = _ledger(span).run
        assert run is not None
        run.state, run.error = state, None if error is None else shown_name(error)
        run.seconds = Clock.now() - span.started
        self._spans.close(span)
        # A task that replaces itself has published another message of its own identity.
        if sent is not None and under_way.message is not None:
            self._heard(sent, under_way.message, number, state)

    def _try(self, key: Hashable) -> _Try | None:
        """Return the innermost try of a key, of this thread or task if it has one."""
        tries = self._running.get(key)
        if not tries:
            return None
        around = self._spans.here() if self._spans is not None else None
        while around is not None:
            for each in tries:
                if each.span is around:
                    return each
            around = around.parent
        return tries[-1]

    def site(self, key: Hashable) -> Site | None:
        """Return the line that published a try that is under way."""
        under_way = self._try(key)
        run = _ledger(under_way.span).run if under_way is not None else None
        return run.site if run is not None else None

    def take_sent(self, span: OpenSpan) -> dict[Hashable, Sent]:
        """Return what was published in a span and is not known to have run, and forget it."""
        with self._changed:
            found = {key: sent for key, sent in self._sent.items() if sent.span is span}
            for key, sent in found.items():
                sent.tally.unheard -= 1
                del self._sent[key]
        return found

    def _heard(self, key: Hashable, sent: Sent, number: int, state: str) -> None:
        """Note a try of a message; with the last one of all, no more is to be waited for."""
        with self._changed:
            if self._sent.get(key) is not sent:
                key = _replaced(key, sent)
            if key not in self._sent:
                return
            sent.tries.add(number)
            if state != "retry":
                sent.last = number
            if sent.last is not None and sent.tries.issuperset(range(sent.last)):
                sent.tally.unheard -= 1
                del self._sent[key]
                self._changed.notify_all()

    # -- the end of a span -------------------------------------------------------------------------

    def opened(self, span: OpenSpan) -> None:
        """Do nothing: what belongs to a span comes later."""

    def closed(self, span: OpenSpan) -> None:
        """Wait for the tasks that were published in a span, if a budget needs their runs."""
        try:
            self._settle(span)
        finally:
            if span.parent is None:
                self._close_post()

    def _settle(self, span: OpenSpan) -> None:
        if not any(sent.span is span for sent in list(self._sent.values())):
            return
        around = _outside_tasks(span)
        if around is not span:
            # A worker that waited here for what it has to do next would wait for ever.
            self._hand_over(span, around)
        else:
            asked = self.asked(span)
            lost = None
            try:
                if asked:
                    assert self._spans is not None
                    lost = self._wait(span, self._spans.settings.task_timeout)
            finally:
                self._explain(span, waited=bool(asked), lost=lost)

    def _hand_over(self, span: OpenSpan, around: OpenSpan | None) -> None:
        with self._changed:
            for key, sent in list(self._sent.items()):
                if sent.span is not span:
                    continue
                if around is None:
                    del self._sent[key]
                    continue
                sent.tally.unheard -= 1
                sent.span = around
                sent.tally = _ledger(around).published(sent.name, sent.site)
                sent.tally.unheard += 1

    def _wait(self, span: OpenSpan, limit: float) -> str | None:
        """Wait for the runs; return why no more of them can be told of, if that is so."""
        deadline = Clock.now() + limit
        while any(sent.span is span for sent in list(self._sent.values())):
            left = deadline - Clock.now()
            if left <= 0:
                break
            if self.post is None:
                with self._changed:
                    self._changed.wait(min(left, _LOOK))
                continue
            try:
                with self.aside():
                    records = self.post.receive(min(left, _LOOK))
            except ConnectionError as error:
                return str(error)
            for record in records:
                self._take(record)
        return None

    def _take(self, record: Mapping[str, Any]) -> None:
        """Keep what a worker in another process has measured in one try."""
        key = record["id"]
        sent = self._sent.get(key)
        # What a task replaces itself by has its key, and may be quicker than it.
        if sent is None or record["span"]["name"] != f"task {sent.name}":
            self._early.setdefault(key, []).append(record)
            return
        span = sent.span
        frozen = _placed(Span.from_dict(record["span"]), sent.site, _begun(span, record["began"]))
        span.adopt(frozen)
        self._heard(key, sent, record["number"], record["state"])
        with self._changed:
            for other, told, site in record["sent"]:
                name = shown_name(told)
                place = None if site is None else Site.from_dict(site)
                tally = _ledger(span).published(name, place)
                tally.unheard += 1
                self._send(other, Sent(name, place, Clock.now(), span, tally))
        for other, _, _ in record["sent"]:
            for early in self._early.pop(other, ()):
                self._take(early)

    def _explain(self, span: OpenSpan, *, waited: bool, lost: str | None = None) -> None:
        """Say whose runs are not known, and no longer wait for them."""
        with self._changed:
            left = [sent for sent in self._sent.values() if sent.span is span]
            self._sent = {k: sent for k, sent in self._sent.items() if sent.span is not span}
        if not left:
            return
        reasons = []
        for tally in dict.fromkeys(sent.tally for sent in left):
            number = sum(sent.tally is tally for sent in left)
            of = f"{number} of {max(tally.count, number)} messages of {tally.name}"
            at = f"published at {tally.site.file}:{tally.site.line}" if tally.site else "published"
            reasons.append(f"{of} {at}")
        listed = "; ".join(reasons)
        if lost is not None:
            text = (
                f"{listed}: the connection to the broker was lost ({lost}) while they were waited "
                "for: look why the broker has gone, or let tasks run at once: task_always_eager"
            )
        elif waited:
            assert self._spans is not None
            seconds = self._spans.settings.task_timeout
            text = (
                f"{listed}: not run within {seconds:g} s, or no worker told of it: start the "
                "worker with -I pytest_perfguard.celery_worker, raise perfguard_task_timeout, or "
                "let tasks run at once: task_always_eager"
            )
        else:
            text = f"nobody waited for {listed}: that is only done where a budget needs their runs"
        span.facts.update(dict.fromkeys(NEED_RUNS, text))

    def _close_post(self) -> None:
        if self.post is not None:
            post, self.post = self.post, None
            self._early.clear()
            with self.aside():
                post.close()


def _replaced(key: Hashable, sent: Sent) -> str:
    """Return what a message is kept by when another one has been given its key."""
    return f"{key} {id(sent)}"


def _ledger(span: OpenSpan) -> TaskLedger:
    ledger: TaskLedger | None = span.ledgers.get("tasks")
    if ledger is None:
        # Another thread may be here as well: what it has made is kept.
        ledger = span.ledgers.setdefault("tasks", TaskLedger())
    assert ledger is not None
    return ledger


def _outside_tasks(span: OpenSpan) -> OpenSpan | None:
    """Return the span itself if it is in no task, else the open one around the outermost task."""
    found: OpenSpan | None = span
    outer: OpenSpan | None = span
    while outer is not None:
        if outer.kind == "task":
            found = outer.parent
        outer = outer.parent
    while found is not None and found.closed:
        found = found.parent
    return found


def _begun(span: OpenSpan, began: float) -> float:
    """Return how long after the beginning of our outermost span a worker began, in seconds."""
    return max(Clock.now() - span.origin - (time.time() - began), 0.0)


def _placed(span: Span, site: Site | None, later: float) -> Span:
    """Return the span of a worker with the line that published it, on our time line."""
    return replace(
        span,
        start=span.start + later,
        tallies=tuple(
            replace(tally, site=site, facts={} if site else tally.facts)
            if tally.probe == "tasks" and tally.kind != "publish"
            else tally
            for tally in span.tallies
        ),
        timeline=tuple(replace(m, start=m.start + later) for m in span.timeline),
        children=tuple(
            _placed(child, site, later) if child.kind != "task" else child
            for child in span.children
        ),
    )
