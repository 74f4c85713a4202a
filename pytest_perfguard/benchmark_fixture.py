"""pytest-benchmark's fixture, with one call counted before it is timed.

The fixture keeps all that it does. Its class is replaced by a subclass of it, since
pytest-benchmark accepts nothing but an instance of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from inspect import iscoroutine, iscoroutinefunction
from typing import Any

from pytest_perfguard import stats
from pytest_perfguard.errors import TimingError
from pytest_perfguard.metrics import METRICS, measure_all
from pytest_perfguard.model import Span
from pytest_perfguard.recorder import Recorder
from pytest_perfguard.units import Unit

_SWITCHED_OFF = (
    "nothing was timed: pytest-benchmark is switched off, by --benchmark-disable or because "
    "pytest-xdist is on"
)
_NOT_ALONE = "benchmark.pedantic sets each call up or tears it down, so it cannot be repeated alone"


def is_benchmark(fixture: object) -> bool:
    """Return whether it is pytest-benchmark's fixture, not another of that name."""
    module = sys.modules.get("pytest_benchmark.fixture")
    return module is not None and isinstance(fixture, module.BenchmarkFixture)


# Times a call beside reference work, under a name; returns what else is known of its timing.
Compare = Callable[[str, Callable[[], Any]], Mapping[str, Any]]
# Is told the name of a call that cannot be compared, and why.
Refuse = Callable[[str, str], object]


def attach(
    fixture: Any,
    recorder: Recorder,
    compare: Compare | None = None,
    refuse: Refuse | None = None,
) -> None:
    """Let the fixture count one call of what it is given.

    Args:
        compare: times the call for the comparison with other times, if it is compared.
        refuse: is told of a call that cannot be.
    """
    fixture.__class__ = _counting(type(fixture))
    fixture.perfguard = recorder
    fixture.perfguard_compare = compare
    fixture.perfguard_refuse = refuse


def _counting(base: type[Any]) -> type[Any]:
    """Return a subclass of pytest-benchmark's own class."""

    class CountingBenchmark(base):  # type: ignore[misc] # known when it runs
        """Counts one call, with the probes on, and lets the rest be timed without them."""

        perfguard: Recorder | None
        perfguard_compare: Compare | None
        perfguard_refuse: Refuse | None

        def __call__(self, function_to_benchmark: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            return self._counted(
                lambda: super(CountingBenchmark, self).__call__(
                    function_to_benchmark, *args, **kwargs
                ),
                function_to_benchmark,
                args,
                kwargs,
            )

        def pedantic(
            self,
            target: Any,
            args: Sequence[Any] = (),
            kwargs: Mapping[str, Any] | None = None,
            setup: Callable[[], Any] | None = None,
            teardown: Callable[..., object] | None = None,
            **options: Any,
        ) -> Any:
            __tracebackhide__ = True

            def timed() -> Any:
                __tracebackhide__ = True
                return super(CountingBenchmark, self).pedantic(
                    target, args, kwargs, setup=setup, teardown=teardown, **options
                )

            return self._counted(timed, target, args, kwargs or {}, setup, teardown)

        def _counted(
            self,
            timed: Callable[[], Any],
            function: Callable[..., Any],
            args: Sequence[Any],
            kwargs: Mapping[str, Any],
            setup: Callable[[], Any] | None = None,
            teardown: Callable[..., object] | None = None,
        ) -> Any:
            __tracebackhide__ = True
            recorder, self.perfguard = self.perfguard, None
            if recorder is None:  # a second use, which pytest-benchmark refuses itself
                return timed()
            if iscoroutinefunction(function):
                raise _asynchronous(function)
            args, kwargs = (setup and _unmeasured(recorder, setup)) or (args, kwargs)
            name = getattr(function, "__qualname__", type(function).__qualname__)
            opened = recorder.open(name.replace("<locals>.", ""), "call")
            try:
                result = function(*args, **kwargs)
            finally:
                span = recorder.close(opened, keep=False)
            if iscoroutine(result):
                result.close()
                raise _asynchronous(function)
            if teardown is not None:
                _unmeasured(recorder, lambda: teardown(*args, **kwargs))
            self.extra_info.update(_counts(span))
            recorder.stop()
            more: Mapping[str, Any] = {}
            # What has to be set up for each call cannot be called again and again.
            alone = setup is teardown is None
            compare = self.perfguard_compare if alone else None
            if self.perfguard_refuse is not None and not alone:
                self.perfguard_refuse(span.name, _NOT_ALONE)
            try:
                value = timed()
                more = compare(span.name, lambda: function(*args, **kwargs)) if compare else {}
                return value
            finally:
                recorder.skip()
                recorder.start()
                recorder.keep(opened, _with_times(span, self, more))

    return CountingBenchmark


def _unmeasured(recorder: Recorder, call: Callable[[], Any]) -> Any:
    """Call what only the counted call needs, and the test has not asked for."""
    with recorder.unmeasured():
        return call()


def _asynchronous(function: object) -> TimingError:
    name = getattr(function, "__qualname__", "the function")
    return TimingError(
        f"benchmark cannot await {name}, it would time how long it takes to make a coroutine: "
        "write 'await perf.time(...)' in an async test"
    )


def _counts(span: Span) -> dict[str, float]:
    """Return the metrics of the counted call that no clock has a part in."""
    return {
        name: value
        for name, value in measure_all(span).items()
        if METRICS[name].unit is not Unit.SECONDS and METRICS[name].observed(span)
    }


def _with_times(span: Span, fixture: Any, more: Mapping[str, Any]) -> Span:
    times = list(fixture.stats.stats.data) if fixture.stats is not None else []
    known = {
        name: statistic.of(times)
        for name, statistic in stats.STATISTICS.items()
        if not statistic.cpu and len(times) >= statistic.fewest
    }
    facts = {
        f"time_{name}": _why_missing(name, statistic, len(times))
        for name, statistic in stats.STATISTICS.items()
        # CPU times are taken beside reference work where they are compared.
        if name not in known and not (statistic.cpu and more)
    }
    timing = {
        "rounds": len(times),
        "planned": len(times),
        "repeated": 0,
        "warmup": 0,
        "concurrency": 1,
        "cold_wall": span.seconds,
        "cold_cpu": 0.0,
        "statistics": known,
        "sample": [],
        **more,
    }
    return replace(span, facts={**span.facts, **facts}, timing=timing if times else None)


def _why_missing(name: str, statistic: stats.Statistic, rounds: int) -> str:
    if not rounds:
        return _SWITCHED_OFF
    if statistic.cpu:
        return "pytest-benchmark's fixture takes no CPU times: use perf.time"
    return (
        f"time_{name} needs at least {statistic.fewest} rounds, and pytest-benchmark ran {rounds}: "
        "ask it for more, as in --benchmark-min-rounds"
    )
