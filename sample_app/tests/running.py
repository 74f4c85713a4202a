"""A client of an application that has been started."""

from __future__ import annotations

from typing import cast

from fastapi import FastAPI
from fastapi.testclient import TestClient

from sample_app.core.cache import Cache


class RunningClient(TestClient):
    """Starts the application, as its cache belongs to one event loop. Leaves the cache empty."""

    def __exit__(self, *args: object) -> None:
        """Take away what was cached, and stop the application."""
        self.flush()
        super().__exit__(*args)

    @property
    def cache(self) -> Cache:
        """The application's own cache."""
        return cast("Cache", cast("FastAPI", self.app).state.cache)

    def flush(self) -> None:
        """Empty the cache, so that the next request finds it cold."""
        assert self.portal is not None
        self.portal.call(self.cache.clear)
