"""Lets a worker in a process of its own tell a test what its tasks did.

``celery -A proj worker -I pytest_perfguard.celery_worker`` is all: Celery imports this module, and
it measures the tasks whose message asks for it, which only those do that were published in a
span with a budget that needs their runs. All others run as they would without it. What was
measured goes back through the broker, to a queue that the message names; it holds no arguments.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from pytest_perfguard.model import Span
from pytest_perfguard.probes import available
from pytest_perfguard.probes.celery_internals import due, expire_list
from pytest_perfguard.probes.celery_queue import HEADER, CeleryQueue, process
from pytest_perfguard.probes.tasks import TaskProbe
from pytest_perfguard.recorder import Recorder
from pytest_perfguard.spans import OpenSpan, Settings

# How long a record that nobody reads stays on Redis.
_UNREAD = 60
_log = logging.getLogger(__name__)


class _Reporter(CeleryQueue):
    """Measures the tasks that are asked for, and sends back what it has seen.

    It begins in the process that runs the tasks, so that nothing is shared by forks.
    """

    def __init__(self) -> None:
        super().__init__()
        self._process = ""
        self._recorders: dict[str, tuple[Recorder, TaskProbe]] = {}
        self._open: dict[tuple[str, int], tuple[OpenSpan, Recorder, TaskProbe, float]] = {}

    def start(self, probe: TaskProbe | None = None) -> None:
        """Connect to Celery's signals."""
        import celery.signals  # noqa: F401, PLC0415 - the worker has it

        super().start(probe)

    def _begins(self, task_id: str = "", task: Any = None, **others: Any) -> None:
        asked = _asked(task.request)
        if asked is None:
            if task.request.is_eager:
                super()._begins(task_id=task_id, task=task, **others)
            return
        recorder, probe = self._recorder(asked)
        recorder.start()
        span = recorder.open("worker", "block", asked=frozenset(asked["asked"]))
        self._open[task_id, task.request.retries or 0] = span, recorder, probe, time.time()
        self._probe = probe
        super()._begins(task_id=task_id, task=task, **others)

    def _ended(self, task_id: str = "", task: Any = None, state: Any = None, **others: Any) -> str:
        key = (task_id, task.request.retries or 0)
        asked = _asked(task.request)
        if asked is None or key not in self._open:
            return super()._ended(task_id=task_id, task=task, state=state, **others)
        span, recorder, probe, began = self._open.pop(key)
        self._probe = probe
        end = super()._ended(task_id=task_id, task=task, state=state, **others)
        sent = probe.take_sent(span)
        frozen = recorder.close(span)
        record = {
            "id": task_id,
            "number": key[1],
            "state": end,
            "began": began,
            "span": _inside(frozen).to_dict(),
            "sent": [
                [id_, message.name, message.site and message.site.to_dict()]
                for id_, message in sent.items()
            ],
        }
        try:
            _post(task.app, asked["reply"], record)
        except Exception:  # noqa: BLE001 - a task must not fail for us
            _log.warning(
                "perfguard: what task %s did could not be sent back", task.name, exc_info=True
            )
        return end

    def header(self, *_: object) -> dict[str, Any] | None:
        """Return the header of the task that publishes: whoever asked for it asks for this."""
        from celery import current_task  # noqa: PLC0415 - the worker has it

        asked = _asked(current_task.request) if current_task else None
        return None if asked is None else {**asked, "sent": time.time()}

    def latency(self, request: Any) -> float | None:
        """Return how long a message has waited since it was sent, or since it was due."""
        asked = _asked(request)
        if asked is None or request.retries:
            return None
        return max(time.time() - max(float(asked["sent"]), due(request)), 0.0)

    def _recorder(self, asked: dict[str, Any]) -> tuple[Recorder, TaskProbe]:
        if self._process != process():
            # What a fork has inherited belongs to its parent.
            self._process = process()
            self._recorders, self._open = {}, {}
        names = ("root", "packages", "n_plus_one_threshold", "key_words")
        key = repr([asked[name] for name in names])
        if key not in self._recorders:
            for recorder, _ in self._recorders.values():
                recorder.stop()
            settings = Settings(
                root=Path(asked["root"]),
                packages=tuple(asked["packages"]),
                n_plus_one_threshold=asked["n_plus_one_threshold"],
                key_words=frozenset(asked["key_words"]),
            )
            probe = TaskProbe()
            others = [each for each in available() if each.name != probe.name]
            self._recorders = {key: (Recorder(settings, [*others, probe]), probe)}
        return self._recorders[key]


def _asked(request: Any) -> dict[str, Any] | None:
    """Return what a message asks for; None if nothing, or if its publisher sees to it itself."""
    asked = getattr(request, HEADER, None)
    if not isinstance(asked, dict) or asked.get("process") == process():
        return None
    return asked


def _inside(span: Span) -> Span:
    """Return the try that a worker's span is made for."""
    return next((child for child in span.children if child.kind == "task"), span)


def _post(app: Any, queue: str, record: dict[str, Any]) -> None:
    with app.producer_or_acquire() as producer:
        producer.publish(record, exchange="", routing_key=queue, serializer="json", delivery_mode=1)
        if producer.connection.transport.driver_type == "redis":
            expire_list(producer.channel, queue, _UNREAD)


REPORTER = _Reporter()
REPORTER.start()
