"""Settings, read from environment variables that start with ``SAMPLE_APP_``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from sample_app.core.traps import Traps


def _traps(value: object) -> object:
    return Traps.parse(value) if isinstance(value, str) else value


class Settings(BaseSettings):
    """Everything that differs from one deployment to the next."""

    model_config = SettingsConfigDict(
        env_prefix="SAMPLE_APP_",
        frozen=True,
        # What cannot be read may be a URL with a password.
        hide_input_in_errors=True,
    )

    database_url: str = "sqlite:///sample_app.db"
    pool_size: int = Field(default=10, ge=1)
    pool_overflow: int = Field(default=10, ge=0)
    pool_timeout: float = Field(default=5.0, gt=0)
    """Seconds to wait for a connection: failing soon beats a queue of stalled requests."""
    threads: int = Field(default=40, ge=1)
    """How many requests of a process may be at work in threads at once; the others wait."""
    instance_header: str | None = Field(default=None, pattern=r"^[A-Za-z0-9-]+$")
    """In which header a response tells the process that has made it; without it, in none."""
    redis_url: str | None = None
    """Where the cache is; without it, in this process alone."""
    redis_timeout: float = Field(default=0.25, gt=0)
    """Seconds to wait for Redis: loading without the cache takes less than waiting for it."""
    cache_prefix: str = Field(default="sample_app-", pattern=r"^[\w.:-]+$")
    """How the keys begin; others may use the same server."""
    broker_url: str | None = None
    """Where tasks wait for a worker; without it they run at once, where they are asked for."""
    queue_prefix: str = Field(default="", pattern=r"^[\w.:-]*$")
    """How the names of the queues begin; others may use the same broker."""
    result_backend: str | None = None
    """Where workers leave results, for who asks; nobody in the service does."""
    webhook_url: str | None = None
    """What is told of each new resource; without it, nobody is."""
    webhook_timeout: float = Field(default=2.0, gt=0)
    """Seconds to wait for an answer."""
    monitor_interval: float = Field(default=5.0, ge=0)
    """Seconds between two readings of what the process uses; 0 for none."""
    profiling: bool = False
    """Log a profile of each call of what is decorated so; for development, it slows them down."""
    traps: Annotated[Traps, NoDecode, BeforeValidator(_traps)] = Traps()
    """``SAMPLE_APP_TRAPS=lazy_owner,open_fields`` switches these two on."""

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Show the settings without what is secret: they end up in logs and tracebacks."""
        for name, value in super().__repr_args__():
            shown = redacted(value) if isinstance(value, str) and "://" in value else value
            yield name, shown


def redacted(url: str) -> str:
    """Give a URL as it may be shown: without the password, the query and the fragment.

    Each of these may hold a token, and so may the path of a webhook. What cannot be taken apart
    is not shown at all.
    """
    try:
        parts = urlsplit(url)
        place, path = parts.netloc.rpartition("@")[2], parts.path
        if parts.username is not None or parts.password is not None:
            secret = ":***" if parts.password is not None else ""
            place = f"{parts.username or ''}{secret}@{place}"
    except ValueError:
        return "***"
    if parts.scheme in {"http", "https"} and path.strip("/"):
        path = "/***"
    return f"{parts.scheme}://{place}{path}"
