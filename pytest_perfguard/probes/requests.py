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

# A number, a UUID or another long hexadecimal string, a token of letters and digits, or what holds
# an address or an escaped character.
_ID = re.compile(r"\d+|[0-9a-fA-F-]{16,}|(?=.*\d)(?=.*[A-Za-z])[\w.~-]{8,}|.*[@%=].*", re.DOTALL)

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
        self._wrapped: dict[tuple[type, str], tuple[Any, Any]] = {}

    def start(self, spans: Spans) -> None:
        """Wrap the clients of the libraries that have been loaded by now.

        What somebody else has put in the place of our wrapper since, is wrapped again.
        """
        for module, class_name, method, is_async in _SEAMS:
            client = getattr(sys.modules.get(module), class_name, None)
            if not isinstance(client, type):
                continue
            current = vars(client).get(method)
            if current is None or current is self._wrapped.get((client, method), (None, None))[1]:
                continue
            wrapper = (_wrap_async if is_async else _wrap)(current, spans)
            self._wrapped[client, method] = current, wrapper
            setattr(client, method, wrapper)

    def stop(self) -> None:
        """Put the original methods back, where our wrappers are still in their place."""
        for (client, method), (original, wrapper) in self._wrapped.items():
            if vars(client).get(method) is wrapper:
                setattr(client, method, original)
        self._wrapped.clear()


def fold_path(path: str) -> str:
    """Return a path with its ids replaced: ``/users/42`` as ``/users/{id}``."""
    return "/".join("{id}" if _ID.fullmatch(part) else part for part in path.split("/"))


def _open(spans: Spans, client: object, args: Any, kwargs: Any) -> OpenSpan | None:
    """Open the request's span, unless nothing is measured or a redirect is being followed."""
    around = spans.here()
    if spans.innermost() is None or (around is not None and around.owner is client):
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
