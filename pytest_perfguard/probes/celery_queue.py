"""Celery, as the task probe hears it: by its signals, in this process.

A message that is published where a budget needs the runs of tasks carries a header: who asks, for
which metrics, and the queue to which a worker that has ``pytest_perfguard.celery_worker`` sends
what it has measured.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pytest_perfguard.probes.celery_internals import (
    PLUMBING,
    Publishing,
    is_in_group,
    library,
    publishing_app,
)
from pytest_perfguard.probes.tasks import shown_name

if TYPE_CHECKING:
    from pytest_perfguard.model import Site
    from pytest_perfguard.probes.tasks import TaskProbe
    from pytest_perfguard.spans import OpenSpan

HEADER = "perfguard"
_TOKEN = uuid4().hex
_LEFT_ALONE = 600


def process() -> str:
    """Return what tells this process from every other one, forks of it included."""
    return f"{os.getpid()}-{_TOKEN}"


class CeleryQueue:
    """Tells a task probe what Celery does in this process."""

    def __init__(self) -> None:
        self._probe: TaskProbe | None = None
        self._connected: list[tuple[Any, Any]] = []
        # Whether a try will be retried or has failed, and the class of its error.
        self._ends: dict[tuple[str, int], tuple[str, str | None]] = {}
        # The line that called a task which runs at once, for its retries.
        self._called: dict[str, Site | None] = {}
        self._publishing = Publishing(self._aside)

    def start(self, probe: TaskProbe | None) -> None:
        """Connect to the signals, if Celery has been loaded by now."""
        self._probe = probe
        signals = sys.modules.get("celery.signals")
        if signals is None or self._connected:
            return
        self._connected = [
            (signals.before_task_publish, self._publishes),
            (signals.task_prerun, self._begins),
            (signals.task_retry, self._retries),
            (signals.task_failure, self._fails),
            (signals.task_postrun, self._ended),
        ]
        for signal, receiver in self._connected:
            signal.connect(receiver, weak=False)

    def stop(self) -> None:
        """Disconnect."""
        while self._connected:
            signal, receiver = self._connected.pop()
            signal.disconnect(receiver)
        self._publishing.stop()
        self._ends.clear()
        self._called.clear()

    def _aside(self) -> AbstractContextManager[object]:
        return nullcontext() if self._probe is None else self._probe.aside()

    # -- signals -----------------------------------------------------------------------------------

    def _publishes(self, sender: str = "", headers: dict[str, Any] | None = None, **_: Any) -> None:
        probe = self._probe
        if probe is None or headers is None or sender in PLUMBING or "id" not in headers:
            return
        span = probe.span()
        if span is None:
            return
        # Whoever publishes has loaded what it is published with.
        self._publishing.start()
        if not headers.get("retries"):
            self._publish(probe, sender, sys._getframe(1), headers["id"], headers.get("group"))
        with probe.aside():
            header = self.header(probe, span, sys._getframe(1))
        if header is not None:
            headers[HEADER] = header

    def _publish(
        self, probe: TaskProbe, name: str, frame: FrameType, key: str | None, group: object
    ) -> Site | None:
        short = shown_name(name).rpartition(".")[2]
        return probe.publish(
            name,
            frame,
            library=library(),
            key=key,
            in_group=bool(group) or is_in_group(frame),
            group=f"group({short}.s(id) for id in ids)",
        )

    def header(self, probe: TaskProbe, span: OpenSpan, frame: FrameType) -> dict[str, Any] | None:
        """Return what a message has to carry; None if nobody needs to know of its runs."""
        asked = probe.asked(span)
        if not asked:
            return None
        if probe.post is None:
            probe.post = CeleryPost()
        post = probe.post
        reply = post.reply(publishing_app(frame)) if isinstance(post, CeleryPost) else None
        if reply is None:
            return None
        return {
            "process": process(),
            "reply": reply,
            "sent": time.time(),
            "asked": sorted(asked),
            **probe.settings(),
        }

    def _begins(self, task_id: str = "", task: Any = None, **_: Any) -> None:
        probe = self._probe
        if probe is None or task.name in PLUMBING or probe.span() is None:
            return
        request = task.request
        number = request.retries or 0
        site = None
        if request.is_eager and number:
            site = self._called.pop(task_id, None)
        elif request.is_eager:
            site = self._publish(probe, task.name, sys._getframe(1), None, request.group)
        probe.begin(
            task.name,
            (task_id, number),
            sent=None if request.is_eager else task_id,
            number=number,
            latency=self.latency(request),
            site=site,
        )

    def latency(self, _request: Any) -> float | None:
        """Return how long a message has waited, where this process has not published it."""
        return None

    def _retries(self, request: Any = None, reason: Any = None, **_: Any) -> None:
        if request.is_eager and self._probe is not None:
            self._called[request.id] = self._probe.site((request.id, request.retries or 0))
        error = type(reason.exc).__name__ if getattr(reason, "exc", None) is not None else "Retry"
        self._ends[request.id, request.retries or 0] = "retry", error

    def _fails(
        self, sender: Any = None, task_id: str = "", exception: Any = None, **_: Any
    ) -> None:
        retries = sender.request.retries if sender is not None else 0
        self._ends[task_id, retries or 0] = "failure", type(exception).__name__

    def _ended(self, task_id: str = "", task: Any = None, state: Any = None, **_: Any) -> str:
        key = (task_id, task.request.retries or 0)
        end, error = self._ends.pop(key, ("run", None))
        if state is None:
            # What an eager task raises is let through without a word, if the app wants it so.
            raised = sys.exc_info()[1]
            cause = getattr(raised, "exc", None)
            end = "retry" if type(raised).__name__ == "Retry" else "failure"
            error = type(raised if cause is None else cause).__name__
        if self._probe is not None:
            sent = None if task.request.is_eager else task_id
            self._probe.end(key, end, error, sent=sent, number=key[1])
        return end


class CeleryPost:
    """The queues to which workers send what they have measured, one for each app that asks."""

    def __init__(self) -> None:
        self._inboxes: dict[int, _Inbox | None] = {}

    def reply(self, app: Any) -> str | None:
        """Return the name of the queue for an app's workers; None if they are in this process."""
        if id(app) not in self._inboxes:
            self._inboxes[id(app)] = _Inbox.of(app)
        inbox = self._inboxes[id(app)]
        return None if inbox is None else inbox.name

    def receive(self, timeout: float) -> Iterable[Mapping[str, Any]]:
        """Return the records that have come, waiting for one for so many seconds at most.

        Raises:
            ConnectionError: if a broker has gone; it names the class of the error.
        """
        found: list[Mapping[str, Any]] = []
        inboxes = [inbox for inbox in self._inboxes.values() if inbox is not None]
        for inbox in inboxes:
            found += inbox.receive(timeout / len(inboxes))
        return found

    def close(self) -> None:
        """Delete the queues and leave the connections."""
        for inbox in self._inboxes.values():
            if inbox is not None:
                inbox.close()
        self._inboxes.clear()


class _Inbox:
    """A queue of this process, and the connection that reads it."""

    def __init__(self, connection: Any) -> None:
        kombu: Any = sys.modules["kombu"]
        self.name = f"perfguard.{uuid4().hex}"
        self._connection = connection
        self._records: list[Mapping[str, Any]] = []
        # What is raised where the broker has gone.
        self._lost = (*connection.connection_errors, *connection.channel_errors)
        is_amqp = connection.transport.driver_type == "amqp"
        # RabbitMQ deletes it with the connection, however this process ends.
        self._queue = kombu.Queue(
            self.name, exchange="", routing_key=self.name, durable=False,
            exclusive=is_amqp, auto_delete=True,
            queue_arguments={"x-expires": 1000 * _LEFT_ALONE} if is_amqp else None,
        )  # fmt: skip
        self._channel = connection.channel()
        self._consumer = kombu.Consumer(
            self._channel,
            [self._queue],
            no_ack=True,
            accept=["json"],
            on_message=self._came,
        )
        self._consumer.consume()

    @classmethod
    def of(cls, app: Any) -> _Inbox | None:
        """Make one on the broker of an app; None if no other process could reach it."""
        connection = app.connection_for_read()
        if connection.transport.driver_type in ("memory", "filesystem"):
            connection.release()
            return None
        return cls(connection)

    def _came(self, message: Any) -> None:
        self._records.append(message.payload)

    def receive(self, timeout: float) -> list[Mapping[str, Any]]:
        try:
            self._connection.drain_events(timeout=timeout)
        except TimeoutError:
            pass
        except self._lost as error:
            raise ConnectionError(type(error).__name__) from error
        found, self._records = self._records, []
        return found

    def close(self) -> None:
        # The broker may have gone in the meantime, and the queue with it.
        with suppress(*self._lost):
            self._consumer.cancel()
            bound = self._queue(self._channel)
            bound.purge()
            bound.delete()
        with suppress(*self._lost):
            self._connection.release()
