"""The queue of background tasks: ``celery -A sample_app.core.celery_app worker -Q main-queue``.

Without a broker the tasks run at once where they are asked for, in the process of the service.
Nothing is read or connected to when this module is imported.
"""

from __future__ import annotations

from typing import Any, Final

from celery import Celery

from sample_app.core.config import Settings
from sample_app.worker.measured import MeasuredTask

MAIN_QUEUE: Final = "main-queue"
HIGH_PRIORITY_QUEUE: Final = "high-priority-queue"
# Who asks for a result asks soon.
_RESULT_EXPIRES: Final = 3600
# What has waited for so long has been asked for again, or nobody needs it any more.
_TASK_EXPIRES: Final = 3600
# The longest that a task may run: by the first it is told to stop, by the second it is killed.
_SOFT_TIME_LIMIT: Final = 5
_TIME_LIMIT: Final = 10


def configuration(settings: Settings) -> dict[str, Any]:
    """Return what Celery is to be told."""
    main = settings.queue_prefix + MAIN_QUEUE
    high_priority = settings.queue_prefix + HIGH_PRIORITY_QUEUE
    return {
        "broker_url": settings.broker_url or "memory://",
        "result_backend": settings.result_backend,
        "task_always_eager": settings.broker_url is None,
        # The first pattern that matches counts: the narrower one has to come first.
        "task_routes": {
            "sample_app.worker.high_priority.*": {"queue": high_priority},
            "sample_app.worker.*": {"queue": main},
        },
        "task_default_queue": main,
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "result_expires": _RESULT_EXPIRES,
        "task_annotations": {"*": {"expires": _TASK_EXPIRES}},
        "task_soft_time_limit": _SOFT_TIME_LIMIT,
        "task_time_limit": _TIME_LIMIT,
        # A task whose worker dies is run again, so each one has to bear being run twice.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        # Those that wait for a busy worker should wait where an idle one finds them.
        "worker_prefetch_multiplier": 1,
        "broker_connection_retry_on_startup": True,
        # Publishing fails soon rather than holding up a request.
        "task_publish_retry_policy": {"max_retries": 2, "interval_start": 0.1},
    }


celery_app = Celery(
    "sample_app",
    task_cls=MeasuredTask,
    include=["sample_app.worker.tasks", "sample_app.worker.high_priority"],
)
# Asked for when the first task is: the settings come from the environment of whoever runs it.
celery_app.add_defaults(lambda: configuration(Settings()))
