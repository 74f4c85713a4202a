"""Observes every request: how long it took, and how it ended.

A plain ASGI callable: it costs two calls, where ``BaseHTTPMiddleware`` starts a task and passes
each message through a stream. Requests that raise are observed like any other, as a 500.
"""

from __future__ import annotations

import os
import time
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sample_app.core.metrics import Metrics

NO_ROUTE: Final = "no route"

# Anybody may send a method of his own, and each would be a time series for ever.
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class MetricsMiddleware:
    """Observes how long requests take, by method, route and status.

    The clock stops with the last byte of the response: what runs in the background after it keeps
    nobody waiting.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500  # what the server answers for an application that does not
        ended: float | None = None

        async def observed(message: Message) -> None:
            nonlocal status, ended
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                ended = time.perf_counter()

        try:
            await self._app(scope, receive, observed)
        except Exception:
            status = 500  # whatever it had begun to answer
            raise
        finally:
            duration = (ended or time.perf_counter()) - started
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.request_duration.labels(method, self.endpoint(scope), status).observe(
                duration
            )

    def endpoint(self, scope: Scope) -> str:
        """Give the template of the route: the path would make one time series for every id."""
        return route_template(scope)


class InstanceMiddleware:
    """Tells in each response which process has made it, so that shares of a load can be seen."""

    def __init__(self, app: ASGIApp, header: str) -> None:
        self._app = app
        self._header = header

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[self._header] = str(os.getpid())
            await send(message)

        await self._app(scope, receive, told if scope["type"] == "http" else send)


def route_template(scope: Scope) -> str:
    """Give the template of the route that a request was served by."""
    return getattr(scope.get("route"), "path", NO_ROUTE)
