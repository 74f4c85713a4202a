"""``perf.prometheus``: how much metrics of Prometheus change over a span, and limits for that."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from inspect import isawaitable
from typing import Any, Final, Self

from pytest_perfguard.errors import LimitError, PrometheusError
from pytest_perfguard.jobs import Job
from pytest_perfguard.metrics import METRICS
from pytest_perfguard.model import Level, Status, Verdict
from pytest_perfguard.recorder import Measurement
from pytest_perfguard.scrapes import Change, Scrape, Selector, change, less_own
from pytest_perfguard.spans import OpenSpan
from pytest_perfguard.units import parse, shown

MOST, LEAST = "prom_increase", "prom_increase_least"
_LIMIT: Final = re.compile(r"\s*(<=|>=)\s*(.*)", re.DOTALL)
_SECONDS: Final = 10
# Looks, each of which may have to be awaited.
_Looks = Generator[Any, Any, Scrape]


class Prometheus:
    """A span, with what metrics of Prometheus were before it and after it.

    Use it as a context manager (``async with``, where the client is asynchronous), and call it
    afterwards with the name of a metric and its labels. ``prom["sql_queries"]`` is what
    perfguard itself has seen in the span.
    """

    def __init__(
        self,
        job: Job,
        source: Any,
        limits: Mapping[str, float | str],
        *,
        path: str,
        absent: float | None,
    ) -> None:
        __tracebackhide__ = True
        self._job = job
        self._limits = _read(limits, job.where)
        self._absent = absent
        self._look, self._is_page = _look(source, path, job.where)
        self._before: Scrape | None = None
        self._after: Scrape | None = None
        self._measured: Measurement | None = None
        self._expect("the span was never entered: write 'with' before it")

    def __call__(self, name: str, /, **labels: object) -> float:
        """Return by how much a metric has changed: the sum of all series that have the labels.

        Args:
            name: of a sample as the page shows it, such as ``cache_hits_total`` or
                ``http_request_duration_seconds_count``.
            labels: those that the series have; others may have any value.

        Raises:
            PrometheusError: if there is no such metric or label, or the span has not ended.
        """
        __tracebackhide__ = True
        return self._change(Selector.parse(name, labels)).value

    def __getitem__(self, name: str) -> float:
        """Return a metric of perfguard's, of what happened in the span."""
        __tracebackhide__ = True
        if self._measured is None:
            raise PrometheusError(f"{self._job.where}: the span has not been entered")
        return self._measured[name]

    def __enter__(self) -> Self:
        __tracebackhide__ = True
        self._expect(None)
        self._before = self._at_once(self._first())
        return self._begin()

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        __tracebackhide__ = True
        with self._ended(judged=error_type is None):
            if error_type is None:
                self._after = self._at_once(self._look())

    async def __aenter__(self) -> Self:
        __tracebackhide__ = True
        self._expect(None)
        self._before = await self._awaited(self._first())
        return self._begin()

    async def __aexit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        __tracebackhide__ = True
        with self._ended(judged=error_type is None):
            if error_type is None:
                self._after = await self._awaited(self._look())

    # -- looking ---------------------------------------------------------------------------

    def _first(self) -> _Looks:
        first: Scrape = yield from self._look()
        if not self._is_page:
            return first
        return less_own(first, (yield from self._look()))

    def _at_once(self, looks: _Looks) -> Scrape:
        __tracebackhide__ = True
        with self._job.guard.recorder.unmeasured(self):
            try:
                value = next(looks)
                while not isawaitable(value):
                    value = looks.send(value)
            except StopIteration as done:
                scrape: Scrape = done.value
                return scrape
        if hasattr(value, "close"):
            value.close()
        raise PrometheusError(
            f"{self._job.where}: the client has to be awaited: write 'async with' for 'with'"
        )

    async def _awaited(self, looks: _Looks) -> Scrape:
        __tracebackhide__ = True
        with self._job.guard.recorder.unmeasured(self):
            try:
                value = next(looks)
                while True:
                    value = looks.send(await value if isawaitable(value) else value)
            except StopIteration as done:
                scrape: Scrape = done.value
                return scrape

    # -- judging ---------------------------------------------------------------------------

    def _begin(self) -> Self:
        self._measured = self._job.open("prometheus")
        self._expect("the span was left open")
        return self

    @contextmanager
    def _ended(self, *, judged: bool) -> Iterator[None]:
        """End the span after the last look, and judge it."""
        __tracebackhide__ = True
        if self._measured is None:
            raise PrometheusError(f"{self._job.where}: the span has not been entered")
        self._expect(None)
        verdicts: list[Verdict] = []
        try:
            yield
            if judged:
                verdicts = self._verdicts(self._measured.opened)
        finally:
            span = self._measured.close()
        if judged and not self._limits:
            self._expect("it has no limit, and nobody asked for a metric afterwards")
        self._job.note(span, verdicts)

    def _verdicts(self, span: OpenSpan) -> list[Verdict]:
        __tracebackhide__ = True
        verdicts = []
        for selector, name, limit in self._limits:
            found = self._change(selector)
            value, metric = found.value, METRICS[name]
            known = span.peaks.get(name, value)
            span.peaks[name] = min(known, value) if metric.higher_is_better else max(known, value)
            status = Status.OK if metric.keeps(value, limit) else Status.OVER
            verdicts.append(
                Verdict(
                    name, span.name, value, limit, status, Level.FAIL, self._job.where, str(found)
                )
            )
        return verdicts

    def _change(self, selector: Selector) -> Change:
        __tracebackhide__ = True
        if self._before is None or self._after is None:
            raise PrometheusError(f"{self._job.where}: ask for {selector} after the span has ended")
        self._expect(None)
        try:
            return change(self._before, self._after, selector, self._absent)
        except PrometheusError as error:
            raise PrometheusError(f"{self._job.where}: {error}") from None

    def _expect(self, problem: str | None) -> None:
        told = problem and f"{self._job.where}: {problem}"
        self._job.guard.expect(self._job.item, self, told)


def _look(source: Any, path: str, where: str) -> tuple[Callable[[], _Looks], bool]:
    """Return what looks at a source, and whether a look is a request that is counted itself."""
    __tracebackhide__ = True
    if callable(getattr(source, "collect", None)):
        return lambda: _registry(source), False
    if isinstance(source, str):
        if not source.startswith(("http://", "https://")):
            raise PrometheusError(f"{where}: {shown(source)} is no URL: it begins with http://")
        return lambda: _url(source, where), True
    if callable(getattr(source, "get", None)):
        return lambda: _client(source, path, where), True
    raise PrometheusError(
        f"{where}: what is of type {type(source).__name__} has no metrics: pass a registry of "
        "prometheus_client, a client with get(), or the URL of the page"
    )


def _registry(registry: Any) -> _Looks:
    yield None
    return Scrape.of(registry.collect())


def _url(url: str, where: str) -> _Looks:
    __tracebackhide__ = True
    import urllib.request  # noqa: PLC0415 - costly, and every `perf` loads this module

    yield None
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as response:  # noqa: S310 - checked
            text = response.read().decode()
    except (OSError, ValueError) as error:
        said = getattr(error, "reason", error)
        raise PrometheusError(f"{where}: {url} cannot be read: {said}") from None
    return _page(text, url, where)


def _client(client: Any, path: str, where: str) -> _Looks:
    __tracebackhide__ = True
    response = yield client.get(path)
    status = getattr(response, "status_code", None)
    if status != HTTPStatus.OK:
        raise PrometheusError(f"{where}: {path} answered {status}: say where it is, with path=")
    text = response.text
    # Werkzeug's is an attribute, Django's has none.
    return _page(text() if callable(text) else text, path, where)


def _page(text: str, place: str, where: str) -> Scrape:
    __tracebackhide__ = True
    try:
        return Scrape.read(text)
    except PrometheusError as error:
        raise PrometheusError(f"{where}: {place}: {error}") from None


def _read(limits: Mapping[str, float | str], where: str) -> list[tuple[Selector, str, float]]:
    """Read ``{'cache_hits_total{cache_type="response"}': ">= 1"}``; all mistakes at once."""
    __tracebackhide__ = True
    if not isinstance(limits, Mapping):
        raise LimitError(f"{where}: {shown(limits)} holds no limits: write {{'name': '>= 1'}}")
    found, mistakes = [], []
    for text, limit in limits.items():
        sign, number = "<=", limit
        if isinstance(limit, str) and (match := _LIMIT.fullmatch(limit)):
            sign, number = match.groups()
        metric = MOST if sign == "<=" else LEAST
        try:
            found.append((Selector.parse(text), metric, parse(number, METRICS[metric].unit)))
        except (PrometheusError, LimitError) as error:
            mistakes.append(f"{where}: {text}: {error}")
    if mistakes:
        raise LimitError("\n".join(mistakes))
    return found
