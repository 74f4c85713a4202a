"""The template of the route that served a request, as the web framework knows it.

Starlette and FastAPI, Flask and Django know it once they have matched a path, in the same process
if the test's client calls the application directly or a server runs in a thread. A background task
of Starlette's is a span of its own inside its request.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_perfguard.spans import OpenSpan, Spans

# A converter before or after a name: <int:id> of Flask and Django, {id:int} of Starlette.
_FLASK = re.compile(r"<(?:[^:<>]+:)?(\w+)>")
_STARLETTE = re.compile(r"\{(\w+):[^{}]*\}")
# What only a route that is written as a regular expression holds.
_REGEX = re.compile(r"[\\^$()?*+|]")


class Routes:
    """Listens to the routers of the frameworks that are loaded."""

    def __init__(self) -> None:
        self._wrapped: dict[tuple[type, str], tuple[Any, Any]] = {}
        self._undo: list[Callable[[], object]] = []

    def start(self, spans: Spans) -> None:
        """Begin to listen to the frameworks that have been loaded by now."""
        for module, class_name, method, wrap in (
            ("starlette.routing", "Route", "handle", _wrap_route),
            ("fastapi.routing", "APIRoute", "handle", _wrap_route),
            ("starlette.background", "BackgroundTask", "__call__", _wrap_task),
        ):
            owner = getattr(sys.modules.get(module), class_name, None)
            current = vars(owner).get(method) if isinstance(owner, type) else None
            if owner is None or current is None:
                continue
            if current is self._wrapped.get((owner, method), (None, None))[1]:
                continue
            wrapper = wrap(current, spans)
            self._wrapped[owner, method] = current, wrapper
            setattr(owner, method, wrapper)
        flask = sys.modules.get("flask")
        if flask is not None and not self._undo:

            def matched(*_: object, **__: object) -> None:
                rule = flask.request.url_rule
                if rule is not None:
                    rename(spans, flask.request.method, _plain(_FLASK, rule.rule))

            flask.request_started.connect(matched)
            self._undo.append(lambda: flask.request_started.disconnect(matched))

    def stop(self) -> None:
        """Leave everything as it was, where our wrappers are still in their place."""
        for (owner, method), (original, wrapper) in self._wrapped.items():
            if vars(owner).get(method) is wrapper:
                setattr(owner, method, original)
        self._wrapped.clear()
        while self._undo:
            self._undo.pop()()


def rename(spans: Spans, method: str, template: str) -> None:
    """Give the request that is being served the name of the first route that served it.

    Those that follow are what redirects led to.
    """
    span = spans.innermost()
    while span is not None and span.kind != "request":
        span = span.parent
    ledger = span.ledgers.get("http") if span is not None else None
    if span is not None and ledger is not None and not ledger.routed:
        ledger.routed = True
        span.name = f"{method} {template}"


def name_by_response(span: OpenSpan, response: Any) -> None:
    """Name a request by its route, where it is the response that knows it, as Django's does."""
    # The response's own one resolves the path again, and raises where nothing serves it.
    request = getattr(response, "wsgi_request", None) or getattr(response, "asgi_request", None)
    match = getattr(request, "resolver_match", None)
    route = getattr(match, "route", None)
    if isinstance(route, str) and not _REGEX.search(route):
        method = span.name.partition(" ")[0]
        span.name = f"{method} /{_plain(_FLASK, route).lstrip('/')}"


def _plain(parameter: re.Pattern[str], template: str) -> str:
    """Return a template with its parameters as ``{name}``, whatever the framework writes.

    What a terminal would obey, such as a line break, is left out.
    """
    return parameter.sub(r"{\1}", "".join(filter(str.isprintable, template)))


def _wrap_route(original: Callable[..., Any], spans: Spans) -> Callable[..., Any]:
    @wraps(original)
    async def handle(self: Any, scope: Any, receive: Any, send: Any) -> None:
        __tracebackhide__ = True
        if spans.innermost() is not None:
            template = _template(self, scope)
            if template:
                rename(spans, scope.get("method", "GET"), template)
        await original(self, scope, receive, send)

    return handle


def _template(route: Any, scope: Any) -> str:
    """Return the whole template: that of the route below the paths it is mounted at."""
    # FastAPI keeps the routes of included routers as they are, and their prefixes beside them.
    effective = scope.get("fastapi", {}).get("effective_route_context")
    template: str = getattr(effective, "path_format", "") or getattr(route, "path_format", "")
    root = scope.get("root_path", "")
    mounted: str = root[len(scope.get("app_root_path", root)) :]
    # Mounts leave only the values of their parameters in the path.
    own = getattr(route, "param_convertors", {})
    names = {str(v): f"{{{n}}}" for n, v in scope.get("path_params", {}).items() if n not in own}
    prefix = "/".join(names.get(part, part) for part in mounted.split("/"))
    return prefix + _plain(_STARLETTE, template)


def _wrap_task(original: Callable[..., Any], spans: Spans) -> Callable[..., Any]:
    @wraps(original)
    async def run(self: Any) -> None:
        __tracebackhide__ = True
        if spans.innermost() is None:
            await original(self)
            return
        function = getattr(self.func, "__qualname__", type(self.func).__qualname__)
        span = spans.open(f"background task {function}", "task")
        try:
            await original(self)
        finally:
            spans.close(span)

    return run
