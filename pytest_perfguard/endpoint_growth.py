"""Growth of a whole API: each endpoint that can be read without knowing more than its path."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pytest_perfguard.errors import GrowthError, MissingExtraError
from pytest_perfguard.jobs import Job, Steps
from pytest_perfguard.model import Span, Status, Verdict
from pytest_perfguard.scaling import (
    Clean,
    Contract,
    any_grows,
    growth_data,
    judge,
    table,
)

# {id:int} of Starlette.
_CONVERTER = re.compile(r"\{(\w+):[^{}]*\}")
_SUCCESS = range(200, 300)
_SERVER_ERROR = 500


@dataclass(slots=True)
class Endpoint:
    """What an endpoint did with more and more data.

    Attributes:
        name: as its requests are called, e.g. ``GET /api/users``.
        url: what was asked for.
        spans: of its request, one for each size.
        verdicts: one for each metric that was judged.
        is_skipped: it was not to be judged.
        reason: why it was not judged though it should have been; empty if it was.
    """

    name: str
    url: str
    is_skipped: bool = False
    spans: list[Span] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    reason: str = ""

    @property
    def grows(self) -> bool:
        """Whether something grows faster than it may."""
        return any(verdict.status is Status.OVER for verdict in self.verdicts)


@dataclass(frozen=True, slots=True)
class ScaledEndpoints:
    """What the endpoints of an application did; ``print`` shows it as tables."""

    contract: Contract
    endpoints: tuple[Endpoint, ...]

    @property
    def judged(self) -> tuple[Endpoint, ...]:
        """Those that could be judged."""
        return tuple(e for e in self.endpoints if not (e.reason or e.is_skipped))

    @property
    def growing(self) -> tuple[Endpoint, ...]:
        """Those that something of grows faster than it may."""
        return tuple(each for each in self.judged if each.grows)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        for endpoint in self.judged:
            same = "" if any_grows(endpoint.spans) else ": the same at every size"
            yield f"{endpoint.name}{': grows' if endpoint.grows else same}"
            lines = table(self.contract.sizes, endpoint.spans, self.contract.limits)
            yield from (f"  {line}" for line in lines)
        for endpoint in self.endpoints:
            if endpoint.is_skipped or endpoint.reason:
                yield f"{endpoint.name}: not judged: {endpoint.reason or 'in skip='}"


def walk(job: Job, app: Any, urls: Mapping[str, str], skip: Sequence[str]) -> list[Endpoint]:
    """Return the GET routes of an application, with what is asked of each.

    FastAPI's are those of its schema.

    Args:
        urls: what to ask for, by the path of a route, where that is not its path; a route that
            is not known otherwise is added.
        skip: paths that are not asked for.

    Raises:
        GrowthError: if the application has no routes that can be seen, or ``skip`` names a path
            that is none of them.
    """
    __tracebackhide__ = True
    paths = list(dict.fromkeys([*_paths(app), *urls]))
    if not paths:
        raise GrowthError(
            f"{job.where}: {type(app).__name__} has no GET routes that can be walked: pass an "
            "application of FastAPI or Starlette"
        )
    for unknown in (path for path in skip if path not in paths):
        raise GrowthError(f"{job.where}: {unknown!r} is no GET route; there are {', '.join(paths)}")
    return [_endpoint(path, urls.get(path, path), is_skipped=path in skip) for path in paths]


def _endpoint(path: str, url: str, *, is_skipped: bool) -> Endpoint:
    endpoint = Endpoint(f"GET {path}", url, is_skipped)
    if "{" in url:
        example = path.replace("{", "").replace("}", "")
        endpoint.reason = f"its path has parameters: give them in urls={{{path!r}: {example!r}}}"
    return endpoint


def _paths(app: Any, prefix: str = "") -> Iterator[str]:
    """Yield the GET routes of an application and of those that are mounted in it."""
    has_schema = callable(getattr(app, "openapi", None))
    if has_schema:
        paths = app.openapi().get("paths", {})
        yield from (prefix + path for path, operations in paths.items() if "get" in operations)
    for route in getattr(app, "routes", ()):
        path = prefix + getattr(route, "path", "")
        if type(route).__name__ == "Mount":
            yield from _paths(route.app, path)
        elif not has_schema and "GET" in (getattr(route, "methods", None) or ()):
            yield _CONVERTER.sub(r"{\1}", path)


def client_of(app: Any) -> AbstractContextManager[Any]:
    """Return a client that starts the application and stops it at the end of the block."""
    try:
        from starlette.testclient import TestClient  # noqa: PLC0415 - an optional library
    except (ImportError, RuntimeError):
        raise MissingExtraError("starlette with httpx", "http") from None
    return TestClient(app)


def scales_endpoints(
    job: Job,
    endpoints: Sequence[Endpoint],
    populate: Callable[[int], Any],
    contract: Contract,
    *,
    app: Any,
    client: Any,
    flush: Callable[[], Any] | None,
    session: Any,
) -> Steps:
    """Ask for each endpoint at each size of the data, and judge what grows."""
    __tracebackhide__ = True
    asked = [endpoint for endpoint in endpoints if not endpoint.is_skipped]
    with client_of(app) if client is None else nullcontext(client) as made:
        whole = job.open("scales_endpoints")
        try:
            for size in contract.sizes:
                clean = Clean(job, session)
                yield from clean.begin()
                yield from job.unmeasured(partial(populate, size))
                for endpoint in asked:
                    if not endpoint.reason:
                        yield from _ask(job, made, endpoint, contract, clean, flush, size)
                yield from clean.end()
        finally:
            whole.close()
    judged = [endpoint for endpoint in asked if not endpoint.reason]
    for endpoint in asked:
        if endpoint.reason:
            job.mistake(f"{endpoint.name} was not judged: {endpoint.reason}, or name it in skip=")
    grown = [endpoint for endpoint in judged if any_grows(endpoint.spans)]
    if not grown:
        job.mistake(
            f"no endpoint did or answered more at n = {contract.sizes[-1]:,} than at "
            f"n = {contract.sizes[0]:,}: does populate make what they read?"
        )
    for endpoint in judged:
        job.note(endpoint.spans[-1], endpoint.verdicts)
    return ScaledEndpoints(contract, tuple(endpoints))


def _ask(
    job: Job,
    client: Any,
    endpoint: Endpoint,
    contract: Contract,
    clean: Clean,
    flush: Callable[[], Any] | None,
    size: int,
) -> Steps:
    """Ask once to warm up and once measured, in a block that is called as the endpoint is."""
    __tracebackhide__ = True
    get = partial(client.get, endpoint.url)
    yield from clean.forget()
    yield from job.unmeasured(get)
    yield from clean.forget()
    yield from job.unmeasured(flush)
    measurement = job.open(f"{endpoint.name}, n = {size}", asked=contract.asked)
    try:
        response = yield get()
        endpoint.spans.append(job.guard.recorder.freeze(measurement.opened))
        status = int(response.status_code)
        if status >= _SERVER_ERROR:
            raise GrowthError(
                f"{job.where}: {endpoint.name} answered {status} at n = {size}: it has to work "
                f"before its growth can be judged, or skip=[{endpoint.name.partition(' ')[2]!r}]"
            )
        if status not in _SUCCESS:
            endpoint.reason = f"it answered {status}: give it what it needs in urls= or client="
        elif size == contract.sizes[-1]:
            measurement.opened.growth = growth_data(contract, endpoint.spans)
            endpoint.verdicts = judge(job.where, contract, endpoint.spans, measurement.opened)
    finally:
        measurement.close()
