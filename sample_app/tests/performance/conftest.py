"""A client for tests that only read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sample_app.core.config import Settings
from sample_app.core.database import Database
from sample_app.main import create_app
from sample_app.tests.running import RunningClient


@pytest.fixture
def reader(settings: Settings, database: Database) -> Iterator[RunningClient]:
    """Call the application as deployed, with its own pool. Errors come back as a 500.

    The cache is cold. Nothing is undone after the test: for requests that do not write.
    """
    app = create_app(settings, database)
    with RunningClient(app, raise_server_exceptions=False) as client:
        yield client
