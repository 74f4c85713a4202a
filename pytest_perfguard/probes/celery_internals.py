"""Everything perfguard uses of Celery and kombu that is not in their documented interface.

Each use has a fallback, or a test that runs on the lowest and the highest supported version, so
that a release that moves one of these names is noticed here and nowhere else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from functools import wraps
from types import FrameType
from typing import Any

from pytest_perfguard.callsite import outwards

# What Celery publishes for itself.
PLUMBING = frozenset(
    {"celery.accumulate", "celery.backend_cleanup", "celery.chord_unlock", "celery.ping"}
)
_GROUPS = ("group.", "_chord.", "chord.")


def library() -> str:
    """Return the folder of Celery, whose own functions are not worth naming."""
    file = getattr(sys.modules.get("celery"), "__file__", None) or ""
    return file.replace("\\", "/").rpartition("/")[0]


def publishing_app(frame: FrameType) -> Any:
    """Return the app whose ``send_task`` is under way; the current one if that is not seen."""
    for outer in outwards(frame):
        if outer.f_code.co_name == "send_task" and "self" in outer.f_locals:
            return outer.f_locals["self"]
    return sys.modules["celery"].current_app


def is_in_group(frame: FrameType) -> bool:
    """Return whether a group or a chord publishes, as seen from a frame inside Celery."""
    inside = library()
    for outer in outwards(frame):
        code = outer.f_code
        if not code.co_filename.replace("\\", "/").startswith(inside):
            return False
        if code.co_qualname.startswith(_GROUPS) and code.co_filename.endswith("canvas.py"):
            return True
    return False


def due(request: Any) -> float:
    """Return when a task was to start, in seconds since the epoch; 0.0 if at once."""
    try:
        return datetime.fromisoformat(request.eta).timestamp() if request.eta else 0.0
    except (TypeError, ValueError):
        return 0.0


def expire_list(channel: Any, queue: str, seconds: int) -> None:
    """Let what was sent to a queue of Redis vanish: there, nobody deletes a list for good.

    A record that comes after its reader has gone would stay for ever. RabbitMQ drops it.
    """
    client = getattr(channel, "client", None)
    if client is not None and hasattr(client, "expire"):
        client.expire(queue, seconds)


class Publishing:
    """Surrounds what kombu does to publish a message: on Redis, that is sent by a Redis client.

    Args:
        around: makes the context manager that each message is published in.
    """

    def __init__(self, around: Callable[[], AbstractContextManager[object]]) -> None:
        self._around = around
        self._wrapped: tuple[Any, Any, Any] | None = None

    def start(self) -> None:
        """Wrap kombu's producer, if it has been loaded by now."""
        producer = getattr(sys.modules.get("kombu.messaging"), "Producer", None)
        if producer is None or self._wrapped is not None:
            return
        original, around = producer.publish, self._around

        @wraps(original)
        def publish(*args: Any, **options: Any) -> Any:
            __tracebackhide__ = True
            with around():
                return original(*args, **options)

        producer.publish = publish
        self._wrapped = producer, original, publish

    def stop(self) -> None:
        """Put the original back, where our wrapper is still in its place."""
        if self._wrapped is not None:
            producer, original, publish = self._wrapped
            if producer.publish is publish:
                producer.publish = original
            self._wrapped = None


@contextmanager
def without_jitter() -> Iterator[list[int]]:
    """Let ``autoretry_for=`` wait as long as it would at most, where it draws the time.

    Yields:
        A list that grows with each time that would have been drawn.
    """
    from celery.app import autoretry  # noqa: PLC0415 - loaded only if it is used

    drawn: list[int] = []
    original = autoretry.get_exponential_backoff_interval

    def longest(*args: Any, full_jitter: bool = False, **kwargs: Any) -> int:
        seconds: int = original(*args, full_jitter=False, **kwargs)
        if full_jitter:
            drawn.append(seconds)
        return seconds

    autoretry.get_exponential_backoff_interval = longest
    try:
        yield drawn
    finally:
        autoretry.get_exponential_backoff_interval = original
