"""What tasks work with: the database, the metrics, and where to announce things."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Self

from sample_app.core.config import Settings
from sample_app.core.database import Database
from sample_app.core.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Services:
    """What a task needs of the process that it runs in."""

    settings: Settings
    database: Database
    metrics: Metrics

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Prepare them; nothing connects before the first query."""
        return cls(settings, Database.from_settings(settings), Metrics())


_lent: ContextVar[Services | None] = ContextVar("sample_app_services", default=None)


@cache
def _own() -> Services:
    """Prepare them once for a worker, in the process that runs the tasks: after the fork."""
    return Services.from_settings(Settings())


def services() -> Services:
    """Give what the tasks that run here work with."""
    return _lent.get() or _own()


@contextmanager
def lent(services: Services) -> Iterator[None]:
    """Let tasks that run at once, in the process that asks for them, work with what it has."""
    token = _lent.set(services)
    try:
        yield
    finally:
        _lent.reset(token)
