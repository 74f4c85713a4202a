"""A client for tests that only read."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from sample_app.core.config import Settings
from sample_app.core.database import Database
from sample_app.main import create_app


@pytest.fixture
def reader(settings: Settings, database: Database) -> TestClient:
    """Call the application as deployed, with its own pool. Errors come back as a 500.

    Nothing is undone after the test: for requests that do not write.
    """
    return TestClient(create_app(settings, database), raise_server_exceptions=False)
