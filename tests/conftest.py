"""What all tests share."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module

import pytest
from hypothesis import settings

# Inner runs forget what they have imported, and what is compiled may not survive a second import.
for _module in ("asyncpg", "psycopg"):
    with suppress(ImportError):
        import_module(_module)

# For environments that repeat what another one has tried out in full.
settings.register_profile("few", max_examples=10)

pytest_plugins = ["pytester"]


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let inner runs tell the platform nothing where these tests run on it."""
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
