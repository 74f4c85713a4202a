"""The tasks that somebody waits for."""

from __future__ import annotations

import logging
import ssl
from functools import cache
from typing import Final

import httpx2
from celery import Task

from sample_app.core.celery_app import celery_app
from sample_app.models import Resource
from sample_app.worker.services import services
from sample_app.worker.tasks import MAX_RETRIES, backoff

_SERVER_ERROR: Final = 500
# It logs the URL of each request at INFO, and that of a webhook is as good as a password.
logging.getLogger("httpx2").setLevel(logging.WARNING)


class RefusedError(Exception):
    """The webhook could not take the announcement; it may do so later."""


@celery_app.task(bind=True, max_retries=MAX_RETRIES)
def announce(self: Task, resource_id: int) -> None:
    """Tell the webhook of a resource."""
    known = services()
    # The connection goes back before the network is waited for.
    with known.database.session() as db:
        resource = db.get(Resource, resource_id)
        name = None if resource is None else resource.name
    url = known.settings.webhook_url
    if name is None or url is None:
        return
    try:
        post(url, {"id": resource_id, "name": name}, known.settings.webhook_timeout)
    except (httpx2.TransportError, RefusedError) as error:
        raise self.retry(exc=error, countdown=backoff(self.request.retries)) from error


def post(url: str, content: dict[str, object], timeout: float) -> None:
    """Send an announcement.

    Raises:
        RefusedError: if the webhook answers with an error of its own.
        httpx2.TransportError: if it does not answer.
    """
    response = httpx2.post(url, json=content, timeout=timeout, verify=_certificates())
    if response.status_code >= _SERVER_ERROR:
        raise RefusedError(f"status {response.status_code}")


@cache
def _certificates() -> ssl.SSLContext:
    """Read the certificates of the machine once: it takes more CPU time than an announcement."""
    return ssl.create_default_context()
