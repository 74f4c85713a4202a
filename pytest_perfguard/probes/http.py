"""The HTTP probe: each request that a client sends is a span of its own.

What a request ran is then judged by itself: two requests that each run the same statement repeat
nothing. The one place that every client of a library passes is wrapped on its class, so clients
made before and after are seen alike. A request is named by its method and the template of the
route that served it, where the framework runs in this process (see
:mod:`pytest_perfguard.probes.routes`), else by its path with ids folded. Only libraries that are
loaded already are wrapped.
"""

from __future__ import annotations

import gzip
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import wraps
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pytest_perfguard.model import Site, Tally
from pytest_perfguard.probes import routes

if TYPE_CHECKING:
    from pytest_perfguard.spans import OpenSpan, Spans

# A number, a UUID or another long hexadecimal string, a token of letters and digits, or what holds
# an address, or a character that is escaped or should be: a terminal would obey it.
_ID = re.compile(
    r"[+-]?\d[\d.,:-]*|[0-9a-fA-F-]{16,}|(?=.*\d)(?=.*[A-Za-z])[\w.~-]{8,}|.*[@%=\x00-\x1f\x7f].*",
    re.DOTALL,
)
_SERVER_ERROR = 500

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

# Clients and transports that hand requests to an application that they are given.
_TEST_CLIENTS = {"starlette.testclient", "werkzeug.test", "django.test.client"}
_IN_PROCESS_TRANSPORTS = {"ASGITransport", "WSGITransport"}

# Owner of a span that waits for the request that it was opened for.
UNCLAIMED = object()


class HttpLedger:
    """What became of the request of one span."""

    __slots__ = ("_span", "bytes", "decoded", "error", "routed", "sender", "site", "status")

    def __init__(self, span: OpenSpan, site: Site | None, sender: OpenSpan | None) -> None:
        self._span = span
        self.site = site
        self.sender = sender
        self.status = 0
        self.error = ""
        self.routed = False
        self.bytes: int | None = None
        self.decoded: int | None = None

    def answered(self, response: Any) -> None:
        """Note a response."""
        self.status = int(getattr(response, "status_code", 0) or 0)
        self.bytes, self.decoded = sizes(response)

    def tallies(self) -> Iterable[Tally]:
        """Return the request as a tally of its own, named as its span is by now."""
        name = self._span.name
        facts = {"status": str(self.status)} if self.status else {}
        failed = bool(self.error) or self.status >= _SERVER_ERROR
        if failed:
            facts["error"] = self.error or f"status {self.status}"
        sums: dict[str, float] = {"errors": failed}
        peaks: dict[str, float] = {}
        for measure, value in (("bytes", self.bytes), ("decoded", self.decoded)):
            if value is not None:
                sums[measure] = peaks[measure] = value
        return [
            Tally(
                probe="http",
                operation=name,
                kind="request",
                label=name,
                site=self.site,
                facts=facts,
                count=1,
                sums={key: value for key, value in sums.items() if value},
                peaks=peaks,
            )
        ]


class HttpProbe:
    """Opens a span for each request of an HTTP client and notes what was answered."""

    name = "http"

    def __init__(self) -> None:
        self._wrapped: dict[tuple[type, str], tuple[Any, Any]] = {}
        self._routes = routes.Routes()

    def start(self, spans: Spans) -> None:
        """Wrap the clients and the routers of the libraries that have been loaded by now.

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
        self._routes.start(spans)

    def stop(self) -> None:
        """Put the original methods back, where our wrappers are still in their place."""
        self._routes.stop()
        for (client, method), (original, wrapper) in self._wrapped.items():
            if vars(client).get(method) is wrapper:
                setattr(client, method, original)
        self._wrapped.clear()


def fold_path(path: str) -> str:
    """Return a path with its ids replaced: ``/users/42`` as ``/users/{id}``."""
    return "/".join("{id}" if _ID.fullmatch(part) else part for part in path.split("/"))


def open_request(spans: Spans, name: str, site: Site | None, owner: object) -> OpenSpan:
    """Open the span of a request."""
    sender = spans.innermost()
    span = spans.open(name, "request", owner=owner)
    span.ledgers["http"] = HttpLedger(span, site, sender)
    return span


def _begin(
    spans: Spans, client: object, args: Any, kwargs: Any
) -> tuple[OpenSpan, bool] | tuple[None, bool]:
    """Return the request's span, and whether it is to be closed with the request.

    There is none if nothing is measured, or if a redirect is being followed.
    """
    if spans.innermost() is None:
        return None, False
    around = spans.here()
    if around is not None and around.owner is client:
        return None, False
    name = _name(args, kwargs)
    if name is None:
        return None, False
    if around is not None and around.owner is UNCLAIMED:
        around.owner, around.name = client, name
        return around, False
    site = spans.sites.site(sys._getframe(2), "")
    return open_request(spans, name, site, client), True


def _name(args: Any, kwargs: Mapping[str, Any]) -> str | None:
    """Return what a request is called; None for what opens a websocket."""
    request = args[0] if args else kwargs.get("request")
    if "PATH_INFO" in kwargs:  # Django hands over a WSGI environment
        method, url = kwargs.get("REQUEST_METHOD"), kwargs["PATH_INFO"]
    elif request is None or isinstance(request, str):  # Werkzeug: open("/path", method="GET")
        method, url = kwargs.get("method"), request or kwargs.get("path", "")
    else:
        method = getattr(request, "method", None)
        url = getattr(request, "url", None) or getattr(request, "path", "")
    try:
        parts = urlsplit(str(url))
    except ValueError:  # such as a bracket in a host's place
        return f"{method or 'GET'} {{path}}"
    if parts.scheme in ("ws", "wss"):
        return None
    return f"{method or 'GET'} {fold_path(parts.path or '/')}"


def _wrap(original: Callable[..., Any], spans: Spans) -> Callable[..., Any]:
    @wraps(original)
    def send(self: object, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        span, is_ours = _begin(spans, self, args, kwargs)
        if span is None:
            return original(self, *args, **kwargs)
        try:
            response = original(self, *args, **kwargs)
            _answered(span, response)
        except BaseException as error:
            span.ledgers["http"].error = type(error).__name__
            raise
        finally:
            if is_ours:
                spans.close(span)
                _note_leaving(spans, self, span)
        return response

    return send


def _wrap_async(original: Callable[..., Any], spans: Spans) -> Callable[..., Any]:
    @wraps(original)
    async def send(self: object, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        span, is_ours = _begin(spans, self, args, kwargs)
        if span is None:
            return await original(self, *args, **kwargs)
        try:
            response = await original(self, *args, **kwargs)
            _answered(span, response)
        except BaseException as error:
            span.ledgers["http"].error = type(error).__name__
            raise
        finally:
            if is_ours:
                spans.close(span)
                _note_leaving(spans, self, span)
        return response

    return send


def _note_leaving(spans: Spans, client: object, span: OpenSpan) -> None:
    """Tell of a request that left the process: one that no application in it has answered."""
    leaves = spans.leaves
    ledger = span.ledgers["http"]
    if leaves is not None and not ledger.routed and not _is_in_process(client):
        leaves("http", span.name, ledger.site, ledger.sender)


def _is_in_process(client: object) -> bool:
    """Return whether a client hands its requests to an application of this process."""
    names = {kind.__name__ for kind in type(getattr(client, "_transport", None)).__mro__}
    modules = {kind.__module__ for kind in type(client).__mro__}
    return bool(names & _IN_PROCESS_TRANSPORTS or modules & _TEST_CLIENTS)


def _answered(span: OpenSpan, response: Any) -> None:
    """Note a response. One of a shape that nobody expects must not hinder the request."""
    with suppress(Exception):
        span.ledgers["http"].answered(response)
        routes.name_by_response(span, response)


def sizes(response: Any) -> tuple[int | None, int | None]:
    """Return the bytes of a response's body on the wire and decoded, those of redirects included.

    None where the body has not been read, as with streams.
    """
    wire = decoded = 0
    for part in (*getattr(response, "history", ()), response):
        one, other = _sizes(part)
        if one is None:
            return None, None
        wire += one
        decoded += one if other is None else other
    return wire, decoded


def _sizes(response: Any) -> tuple[int | None, int | None]:
    if hasattr(response, "num_bytes_downloaded"):  # httpx
        if not hasattr(response, "_content"):
            return None, None
        return response.num_bytes_downloaded or len(response.content), len(response.content)
    if hasattr(response, "iter_content"):  # requests
        if vars(response).get("_content") is False:
            return None, None
        return response.raw.tell() or len(response.content), len(response.content)
    # Werkzeug calls every response streamed that its client has not asked to buffer.
    endless = getattr(response, "is_streamed", False) and response.content_length is None
    if getattr(response, "streaming", False) or endless:
        return None, None
    body = response.get_data() if hasattr(response, "get_data") else response
    body = getattr(body, "content", body)
    return (len(body), _decoded(response, body)) if isinstance(body, bytes) else (None, None)


def _decoded(response: Any, body: bytes) -> int | None:
    """Return the size of a body of a client that does not decode it."""
    headers = getattr(response, "headers", {})
    encoding = str(headers.get("Content-Encoding", "")).lower()
    try:
        if encoding == "gzip":
            return len(gzip.decompress(body))
        if encoding == "deflate":
            return len(zlib.decompress(body))
    except (OSError, EOFError, zlib.error):
        return None
    return len(body)
