"""How tasks are observed: once each, when it has ended, however many tries it took."""

from __future__ import annotations

import time
from typing import Any

from celery import Task

from sample_app.core.metrics import TaskObserver
from sample_app.worker.broken import task_observer
from sample_app.worker.services import services


class MeasuredTask(Task):
    """Observes how tasks end.

    Celery tells of a try that is to be repeated, too. Such a try is neither a success nor a
    failure: it is counted as a retry, and what it took is not how long the task takes.
    """

    abstract = True

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:  # noqa: ARG002
        """Note when a try begins."""
        self.request.update(started=time.perf_counter())

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:  # noqa: ARG002
        """Count a task that has done its work."""
        self._observer.succeeded(self.name, self._took())

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:  # noqa: ARG002
        """Count a task that is given up."""
        self._observer.failed(self.name, self._took(), type(exc).__name__)

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:  # noqa: ARG002
        """Count a try that is going to be repeated."""
        self._observer.repeated(self.name, self._took(), type(exc).__name__)

    @property
    def _observer(self) -> TaskObserver:
        known = services()
        return task_observer(known.settings.traps)(known.metrics)

    def _took(self) -> float:
        return time.perf_counter() - getattr(self.request, "started", time.perf_counter())
