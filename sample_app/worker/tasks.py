"""The tasks of the main queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from celery import Task
from sqlalchemy.exc import IntegrityError, OperationalError

from sample_app.core.celery_app import celery_app
from sample_app.crud.summary import summarize
from sample_app.worker.broken import wait
from sample_app.worker.services import services

MAX_RETRIES: Final = 3
# The database is away, locked, or somebody else has just written what this task was to write.
_TRANSIENT: Final = (OperationalError, IntegrityError, ConnectionError)


def backoff(retries: int) -> int:
    """Return how many seconds to wait before the next try: 1, 2, 4."""
    seconds: int = 2**retries
    return seconds


@celery_app.task(bind=True, max_retries=MAX_RETRIES)
def process_data(self: Task, data_id: int) -> int:
    """Summarize one resource."""
    return _process(self, [data_id])


@celery_app.task(bind=True, max_retries=MAX_RETRIES)
def process_many(self: Task, data_ids: Sequence[int]) -> int:
    """Summarize many resources in as many statements as one."""
    return _process(self, data_ids)


def _process(task: Task, data_ids: Sequence[int]) -> int:
    try:
        return process_data_impl(data_ids)
    except _TRANSIENT as error:
        countdown = wait(services().settings.traps, backoff(task.request.retries))
        raise task.retry(exc=error, countdown=countdown) from error


def process_data_impl(data_ids: Sequence[int]) -> int:
    """Summarize resources; return how many there were."""
    with services().database.writing_session() as db:
        found = summarize(db, data_ids)
        db.commit()
        return found
