"""The application: ``uvicorn sample_app.main:app``."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import cache
from typing import Any, Final, cast

from anyio import to_thread
from fastapi import FastAPI, Request, Response, status
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from sample_app import broken
from sample_app.api import resources, users
from sample_app.core.config import Settings
from sample_app.core.database import Database
from sample_app.core.limits import BodyLimit
from sample_app.core.metrics import CONTENT_TYPE, Metrics
from sample_app.core.middleware import InstanceMiddleware
from sample_app.crud.base import UnknownFieldError
from sample_app.crud.resource import UnknownOwnerError
from sample_app.worker.queue import Tasks
from sample_app.worker.services import Services

logger = logging.getLogger(__name__)

_SHOWN: Final = ("type", "loc", "msg")
# Below this the headers of a compressed response outweigh what it saves.
_COMPRESSED_FROM: Final = 1_000


def create_app(settings: Settings | None = None, database: Database | None = None) -> FastAPI:
    """Make the application. A database that is given stays open; its own is closed at the end."""
    settings = settings or Settings()
    own = database is None
    database = database or Database.from_settings(settings)
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = settings.threads
        # The client belongs to the event loop of the server, which runs by now.
        async with aclosing(broken.cache_class(settings.traps).from_settings(settings)) as cache:
            app.state.cache = cache
            monitor = broken.monitor_class(settings.traps)(metrics, settings.monitor_interval)
            with monitor, metrics.watching(database.engine, lambda: cache.counters):
                yield
        if own:
            database.dispose()

    app = FastAPI(title="Sample app", lifespan=lifespan)
    app.state.database = database
    app.state.metrics = metrics
    app.state.tasks = Tasks(Services(settings, database, metrics))
    app.add_middleware(BodyLimit)
    app.add_middleware(broken.compression(settings.traps), minimum_size=_COMPRESSED_FROM)
    # Added last, it is the outermost: compressing is part of the time.
    app.add_middleware(broken.metrics_middleware(settings.traps), metrics=metrics)
    if settings.instance_header is not None:
        app.add_middleware(InstanceMiddleware, header=settings.instance_header)
    app.include_router(resources.router)
    app.include_router(users.router)
    app.add_api_route("/healthz", healthz, tags=["health"])
    app.add_api_route("/metrics", show_metrics, include_in_schema=False)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(UnknownFieldError, _unknown_field)
    app.add_exception_handler(UnknownOwnerError, _unknown_owner)
    if settings.traps:
        logger.warning("traps are switched on: %s", ", ".join(sorted(settings.traps.names)))
        broken.install(app, settings.traps)
    return app


async def healthz() -> dict[str, str]:
    """Tell that the process answers; a database that is down is no reason to restart it."""
    return {"status": "ok"}


async def show_metrics(request: Request) -> Response:
    """Show Prometheus what this process has counted."""
    metrics: Metrics = request.app.state.metrics
    return Response(metrics.render(), media_type=CONTENT_TYPE)


async def _invalid_request(_request: Request, error: Exception) -> JSONResponse:
    error = cast("RequestValidationError", error)
    return _unprocessable(*({key: each[key] for key in _SHOWN} for each in error.errors()))


async def _unknown_field(_request: Request, error: Exception) -> JSONResponse:
    error = cast("UnknownFieldError", error)
    where = ("query", error.parameter)
    return _unprocessable({"type": "unknown_field", "loc": where, "msg": str(error)})


async def _unknown_owner(_request: Request, error: Exception) -> JSONResponse:
    where = ("body", "owner_id")
    return _unprocessable({"type": "unknown_owner", "loc": where, "msg": str(error)})


def _unprocessable(*errors: dict[str, Any]) -> JSONResponse:
    """Say what is wrong without echoing it: input may be secret, or not even be valid JSON."""
    return JSONResponse({"detail": errors}, status.HTTP_422_UNPROCESSABLE_CONTENT)


@cache
def _default_app() -> FastAPI:
    return create_app()


def __getattr__(name: str) -> FastAPI:
    """Make ``app`` when a server asks for it: importing this module reads no settings."""
    if name == "app":
        return _default_app()
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
