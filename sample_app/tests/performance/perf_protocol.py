"""What these tests use of the plugin's ``perf`` fixture."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Protocol


class Perf(Protocol):
    """Measures blocks of a test."""

    def measure(
        self, name: str, **budgets: float | str
    ) -> AbstractContextManager[Mapping[str, float]]:
        """Measure a block; it fails over its budgets, and its metrics can be read after it."""
