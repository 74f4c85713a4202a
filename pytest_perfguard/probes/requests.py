"""The request probe: each request that an HTTP test client sends is a span of its own.

What a request ran is then judged by itself: two requests that each run the same statement repeat
nothing. The one place that every client of a library passes is wrapped on its class, so clients
made before and after are seen alike. Only libraries that are loaded already are wrapped.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from pytest_perfguard.spans import OpenSpan, Spans

_HEX = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}|[0-9a-fA-F]{16,}")

# Module, class, method, and whether the method is a coroutine function.
_SEAMS = (
    ("httpx2", "Client", "send", False),
    ("httpx2", "AsyncClient", "send", True),
    ("httpx", "Client", "send", False),
    ("httpx", "AsyncClient", "send", True),
    ("requests", "Session", "send", False),
    ("werkzeug.test", "Client", "open", False),
    ("django.test.client", "Client", "request", False),
    ("django.test.client", "AsyncClient", "request", True),
)


class RequestProbe:
    """Opens a span for each request of an HTTP client."""

    name = "requests"

    def __init__(self) -> None:
        self._undo: dict[tuple[type, str], Any] = {}

    def start(self, spans: Spans) -> None:
        """Wrap the clients of the libraries that have been loaded by now."""
        for module, class_name, method, is_async in _SEAMS:
            client = getattr(sys.modules.get(module), class_name, None)
            if client is None or (client, method) in self._undo:
                continue
            original = vars(client).get(method)
            if original is None:
                continue
            wrap = _wrap_async if is_async else _wrap
            self._undo[client, method] = original
            setattr(client, method, wrap(original, spans))

    def stop(self) -> None:
        """Put the original methods back."""
        for (client, method), original in self._undo.items():
            setattr(client, method, original)
        self._undo.clear()


def fold_path(path: str) -> str:
    """Return a path with its ids replaced: ``/users/42`` as ``/users/{id}``."""
    return "/".join(
        "{id}" if part.isdigit() or _HEX.fullmatch(part) else part for part in path.split("/")
    )


def _open(spans: Spans, client: object, args: Any, kwargs: Any) -> OpenSpan | None:
    """Open the request's span, unless nothing is measured or a redirect is being followed."""
    outer = spans.innermost()
    if outer is None or outer.owner is client:
        return None
    return spans.open(_name(args, kwargs), "request", owner=client)


def _name(args: Any, kwargs: Mapping[str, Any]) -> str:
    request = args[0] if args else kwargs.get("request")
    if "PATH_INFO" in kwargs:  # Django hands over a WSGI environment
        method, url = kwargs.get("REQUEST_METHOD"), kwargs["PATH_INFO"]
    elif request is None or isinstance(request, str):  # Werkzeug: open("/path", method="GET")
        method, url = kwargs.get("method"), request or kwargs.get("path", "")
    else:
        method = getattr(request, "method", None)
        url = getattr(request, "url", None) or getattr(request, "path", "")
    return f"{method or 'GET'} {fold_path(urlsplit(str(url)).path or '/')}"


def _wrap(original: Callable[..., Any], spans: Spans) -> Callable[..., Any]:
    @wraps(original)
    def send(self: object, *args: Any, **kwargs: Any) -> Any:
        span = _open(spans, self, args, kwargs)
        if span is None:
            return original(self, *args, **kwargs)
        try:
            return original(self, *args, **kwargs)
        finally:
            spans.close(span)

    return send


def _wrap_async(original: Callable[..., Any], spans: Spans) -> Callable[..., Any]:
    @wraps(original)
    async def send(self: object, *args: Any, **kwargs: Any) -> Any:
        span = _open(spans, self, args, kwargs)
        if span is None:
            return await original(self, *args, **kwargs)
        try:
            return await original(self, *args, **kwargs)
        finally:
            spans.close(span)

    return send
