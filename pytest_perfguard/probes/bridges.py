"""Where the work of a span goes on in another thread: each such place is a seam to profile at.

An ASGI application runs in the event loop's thread, a synchronous endpoint or dependency of it in
one of a pool's, a task of Celery's wherever its worker is. Only libraries that are loaded already
are wrapped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_perfguard.spans import OpenSpan, Spans

Elsewhere = Callable[["OpenSpan | None"], AbstractContextManager[None]]


class Bridges:
    """Follows spans into other threads.

    Args:
        elsewhere: profiles what is done inside it for a span, if that is another thread.
    """

    def __init__(self, spans: Spans, elsewhere: Elsewhere) -> None:
        self._spans = spans
        self._elsewhere = elsewhere
        self._wrapped: dict[tuple[Any, str], tuple[Any, Any]] = {}
        self._tasks: dict[str, OpenSpan] = {}
        self._signals: list[tuple[Any, Any]] = []

    def start(self) -> None:
        """Wrap what has been loaded by now."""
        for module, path, name, wrap in (
            ("starlette.applications", "Starlette", "__call__", self._wrap_app),
            ("anyio.to_thread", "", "run_sync", self._wrap_to_thread),
            ("asyncio.threads", "", "to_thread", self._wrap_to_thread),
            ("asyncio", "", "to_thread", self._wrap_to_thread),
        ):
            owner = sys.modules.get(module)
            owner = getattr(owner, path, None) if path else owner
            current = vars(owner).get(name) if owner is not None else None
            if current is None or current is self._wrapped.get((owner, name), (None, None))[1]:
                continue
            wrapper = wrap(current)
            self._wrapped[owner, name] = current, wrapper
            setattr(owner, name, wrapper)
        celery = sys.modules.get("celery.signals")
        if celery is not None and not self._signals:
            self._signals = [
                (celery.task_prerun, self._task_begins),
                (celery.task_postrun, self._task_ended),
            ]
            for signal, receiver in self._signals:
                signal.connect(receiver, weak=False)

    def stop(self) -> None:
        """Leave everything as it was, where our wrappers are still in their place."""
        for (owner, name), (original, wrapper) in self._wrapped.items():
            if vars(owner).get(name) is wrapper:
                setattr(owner, name, original)
        self._wrapped.clear()
        while self._signals:
            signal, receiver = self._signals.pop()
            signal.disconnect(receiver)

    def _wrap_app(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        async def call(app: Any, scope: Any, receive: Any, send: Any) -> None:
            __tracebackhide__ = True
            if scope.get("type") != "http":
                await original(app, scope, receive, send)
                return
            with self._elsewhere(self._spans.innermost()):
                await original(app, scope, receive, send)

        return call

    def _wrap_to_thread(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        async def to_thread(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            span = self._spans.innermost()

            @wraps(function)
            def in_thread(*given: Any, **named: Any) -> Any:
                __tracebackhide__ = True
                with self._elsewhere(span):
                    return function(*given, **named)

            return await original(in_thread, *args, **kwargs)

        return to_thread

    def _task_begins(self, task_id: str = "", task: Any = None, **_: Any) -> None:
        """Open a span for a task of Celery's, unless the task probe does so."""
        if "tasks" not in self._spans.listening and self._spans.innermost() is not None:
            name = getattr(task, "name", None) or type(task).__name__
            self._tasks[task_id] = self._spans.open(f"task {name}", "task")

    def _task_ended(self, task_id: str = "", **_: Any) -> None:
        span = self._tasks.pop(task_id, None)
        if span is not None and not span.closed:
            self._spans.close(span)
