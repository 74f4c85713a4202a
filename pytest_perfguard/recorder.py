"""A recorder: spans, and the probes that fill them; usable without pytest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self, TypeVar

from pytest_perfguard.errors import MetricError
from pytest_perfguard.metrics import lookup, measure_all
from pytest_perfguard.model import Span
from pytest_perfguard.probes import available
from pytest_perfguard.spans import OpenSpan, Probe, Settings, Spans

_Probe = TypeVar("_Probe", bound=Probe)


class Recorder(Spans):
    """Holds the probes and the open spans of one process.

    Use it as a context manager: probes listen inside the ``with`` block.

    >>> with Recorder() as recorder, recorder.measure("nothing") as measured:
    ...     pass
    >>> measured["sql_queries"]
    0

    Args:
        settings: see :class:`Settings`; the defaults suit most projects.
        probes: what listens; by default every probe whose library is installed.
    """

    def __init__(
        self, settings: Settings | None = None, probes: Sequence[Probe] | None = None
    ) -> None:
        super().__init__(settings or Settings())
        self._probes = list(available() if probes is None else probes)
        self._started: list[Probe] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the probes; calling it again lets them see libraries loaded since."""
        for probe in self._probes:
            if probe not in self._started:
                self._started.append(probe)
                self.listening.append(probe.name)
            probe.start(self)

    def probe(self, kind: type[_Probe]) -> _Probe:
        """Return the probe of a class, which may have been started; a new one if there is none."""
        for known in self._probes:
            if isinstance(known, kind):
                return known
        made = kind()
        self._probes.append(made)
        if self._started:
            self.start()
        return made

    def stop(self) -> None:
        """Stop the probes, the last started first."""
        while self._started:
            self._started.pop().stop()
        self.listening.clear()

    @contextmanager
    def unmeasured(self, owner: object = None) -> Iterator[None]:
        """Let what is done inside belong to no measurement."""
        span = self.open("unmeasured", "block", owner=owner)
        try:
            yield
        finally:
            self.close(span, keep=False)

    @contextmanager
    def measure(self, name: str, kind: str = "block") -> Iterator[Measurement]:
        """Measure a block of code."""
        measurement = Measurement(self, self.open(name, kind))
        try:
            yield measurement
        finally:
            measurement.close()


class Measurement(Mapping[str, float]):
    """The metrics of a block, by name, while it runs and after it has ended.

    Attributes:
        opened: the block itself.
        span: what was measured; None until the block has ended.
    """

    def __init__(self, recorder: Recorder, opened: OpenSpan) -> None:
        self._recorder = recorder
        self.opened = opened
        self.span: Span | None = None

    def close(self) -> Span:
        """End the block and return what was measured."""
        self.span = self._recorder.close(self.opened)
        return self.span

    def _current(self) -> Span:
        return self.span or self._recorder.freeze(self.opened)

    def __getitem__(self, name: str) -> float:
        """Return a metric's value in its base unit.

        Raises:
            MetricError: if there is no metric of that name, or nothing was observed for it.
        """
        __tracebackhide__ = True
        metric = lookup(name)
        value = metric.measure(self._current())
        if value is None:
            raise MetricError(
                self._current().facts.get(name)
                or f"nothing was observed for {name!r} in {self._current().name!r}"
            )
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(measure_all(self._current()))

    def __len__(self) -> int:
        return len(measure_all(self._current()))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value:g}" for name, value in self.items() if value)
        return f"<Measurement {self.opened.name!r}: {shown}>"
