"""The traps of the tasks themselves; the others are in :mod:`sample_app.broken`."""

from __future__ import annotations

from sample_app.core.metrics import TaskObserver
from sample_app.core.traps import Traps


def task_observer(traps: Traps) -> type[TaskObserver]:
    """Give what notes how tasks end."""
    return PerTryObserver if traps.enabled("task_metrics_per_try") else TaskObserver


def wait(traps: Traps, seconds: int) -> int:
    """``retry_at_once``: what is away is asked again while it is away."""
    return 0 if traps.enabled("retry_at_once") else seconds


class PerTryObserver(TaskObserver):
    """``task_metrics_per_try``: as in the guide, where each try of a task is counted as one.

    A task that succeeds at the third try has then failed twice before.
    """

    def repeated(self, task: str, seconds: float, error: str) -> None:
        """Count a try as a task that was given up."""
        self.failed(task, seconds, error)
