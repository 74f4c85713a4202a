"""The service by itself, with one worker and with two, and a database that it may fill."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sample_app.core.config import Settings
from sample_app.core.database import Database
from sample_app.core.migrate import upgrade
from sample_app.seed import Size, seed
from sample_app.tests.load.live import THREADS, LiveServer, serving
from sample_app.tests.webhook import Webhook, running


@pytest.fixture(scope="session")
def session_webhook() -> Iterator[Webhook]:
    """Run a server that takes announcements, for all tests."""
    with running() as webhook:
        yield webhook


@pytest.fixture
def slow_webhook(session_webhook: Webhook) -> Iterator[Webhook]:
    """Let whoever is told of new resources take a while for it."""
    session_webhook.delay, session_webhook.most_at_once = 0.25, 0
    yield session_webhook
    session_webhook.delay = 0.0


@pytest.fixture(scope="session")
def environment(
    new_database_url: Callable[[], str],
    cache_place: dict[str, Any],
    settings: Settings,
    session_webhook: Webhook,
) -> Mapping[str, str]:
    """Give the service's settings, as environment variables. What a load writes there stays."""
    given = {
        "database_url": new_database_url(),
        "monitor_interval": 0,
        "threads": THREADS,
        "webhook_url": session_webhook.url,
        "webhook_timeout": 30,
        **cache_place,
    }
    database = Database.from_settings(Settings(**given))
    upgrade(database.engine, traps=settings.traps)
    seed(database.engine, Size(users=20, resources=200, related_items=400))
    database.dispose()
    named = {f"SAMPLE_APP_{name.upper()}": value for name, value in given.items()}
    return {name: str(value) for name, value in named.items() if value is not None}


@pytest.fixture(scope="session")
def one_worker(
    tmp_path_factory: pytest.TempPathFactory, environment: Mapping[str, str]
) -> Iterator[LiveServer]:
    """Run the service in one process."""
    with serving(_log(tmp_path_factory), environment, workers=1) as server:
        yield server


@pytest.fixture(scope="session")
def two_workers(
    tmp_path_factory: pytest.TempPathFactory, environment: Mapping[str, str]
) -> Iterator[LiveServer]:
    """Run the service in two processes behind one port."""
    with serving(_log(tmp_path_factory), environment, workers=2) as server:
        yield server


def _log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("service") / "uvicorn.log"
