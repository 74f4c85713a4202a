"""``perf.repeat``: memory that stays after each call."""

from __future__ import annotations

import sys
import threading
import tracemalloc
from collections.abc import Callable
from importlib.util import find_spec

import pytest

from pytest_perfguard.model import Record

pytest.importorskip("psutil")

Run = Callable[..., pytest.RunResult]
Failed = Callable[[pytest.RunResult], list[str]]
Records = Callable[[], dict[str, Record]]

KIB = 2**10
LEAKY = """
import functools, itertools, json, logging, warnings

numbers = itertools.count()
kept = {}


def leaks():
    kept[next(numbers)] = bytes(10 * 1024)


def uses_as_much():
    bytes(10 * 1024)


def through_a_library():
    kept[next(numbers)] = json.loads('["' + 5000 * "ä" + '"]')


@functools.lru_cache(maxsize=95)
def cached(number):
    return bytes(10 * 1024)


def uses_a_cache():
    cached(next(numbers))


async def leaks_async():
    leaks()


def logs_and_warns():
    logging.getLogger("leaky").warning("a warning of 1 KiB: %s", "x" * 1024)
    warnings.warn("x" * 1024, UserWarning)


def leaves_garbage():
    cycle = [bytes(10 * 1024)]
    cycle.append(cycle)
"""


@pytest.fixture(autouse=True)
def leaky(pytester: pytest.Pytester) -> None:
    (pytester.path / "leaky.py").write_text(LEAKY, encoding="utf-8")


def test_a_leak_is_named_with_its_size_its_line_and_the_fix(
    pytester: pytest.Pytester, run: Run, failed: Failed, records: Records
) -> None:
    pytester.makepyfile(
        test_leaks="""
        import pytest
        from leaky import *

        def test_leaks(perf):
            growth = perf.repeat(leaks, memory_growth="1KiB").growth
            assert growth.low <= growth.slope <= growth.high
            assert growth.source == "traced"

        @pytest.mark.perf_budget(memory_growth="1KiB")
        def test_marked(perf):
            perf.repeat(leaks, times=20, warmup=0)

        def test_library(perf):
            perf.repeat(through_a_library, memory_growth=0)

        @pytest.mark.parametrize(
            "call", [uses_as_much, uses_a_cache, logs_and_warns, leaves_garbage]
        )
        @pytest.mark.filterwarnings("always")
        def test_none(perf, call):
            assert perf.repeat(call, memory_growth=0)["memory_growth"] == 0
        """
    )

    result = run("--perfguard-json=run.json")

    assert failed(result) == ["test_leaks", "test_library", "test_marked"]
    result.stdout.fnmatch_lines(
        [
            "perfguard: 1 of 1 budget exceeded in leaks",
            "  memory_growth  10.* KiB > 1 KiB   perf.repeat, test_leaks.py:5",
            "each call leaves 10.* KiB behind (* KiB to * KiB, 99 % interval), over 100 calls*",
            "    at leaky.py:9, 10.* KiB in * blocks a call",
            "    kept[[]next(numbers)[]] = bytes(10 * 1024)",
            "    fix: bound what is kept, as functools.lru_cache(maxsize=...) does, *",
        ]
    )
    result.stdout.fnmatch_lines(
        [
            "perfguard: 1 of 1 budget exceeded in test_marked",
            "  memory_growth  10.* KiB > 1 KiB   perf_budget, test_leaks.py:9",
            "    at leaky.py:9, *",
        ]
    )
    result.stdout.fnmatch_lines(
        ["perfguard: 1 of 1 budget exceeded in through_a_library", "    at leaky.py:17, *"]
    )
    found = records()
    assert found["test_leaks"].metrics["memory_growth"] == pytest.approx(10 * KIB, abs=2 * KIB)


def test_a_leak_of_10_kib_is_found_20_times_of_20_and_its_absence_too(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    pytester.makepyfile(
        """
        from leaky import leaks, uses_as_much

        def test_it(perf):
            for _ in range(20):
                growth = perf.repeat(leaks, times=25, warmup=10).growth
                assert abs(growth.slope - 10 * 1024) < 2 * 1024
                assert growth.source == "traced"
                assert perf.repeat(uses_as_much, times=25, warmup=10).growth.slope == 0
        """
    )

    run_once().assert_outcomes(passed=1)


def test_memory_that_no_object_of_pythons_holds_is_a_leak_too(
    pytester: pytest.Pytester, run_once: Run, failed: Failed
) -> None:
    pytester.makepyfile(
        """
        import mmap

        kept = []

        def native():
            block = mmap.mmap(-1, 256 * 1024)
            block.write(256 * 1024 * b"x")
            kept.append(block)

        def test_native(perf):
            growth = perf.repeat(native, memory_growth="16KiB").growth
            assert growth.source == "resident"
            assert abs(growth.slope - 256 * 1024) < 64 * 1024
        """
    )

    result = run_once()

    assert failed(result) == ["test_native"]
    result.stdout.fnmatch_lines(
        [
            "each call leaves 2?? KiB behind *",
            "    resident memory: Python's allocators do not hold it, so a library does",
            "    fix: close or free *",
        ]
    )


def test_the_peak_of_a_call_and_its_other_metrics_have_budgets(
    pytester: pytest.Pytester, run: Run, failed: Failed, records: Records
) -> None:
    pytester.makepyfile(
        test_peak="""
        import pytest, shop

        def big():
            bytes(2**20)

        def test_peak(perf):
            perf.repeat(big, times=20, alloc_peak="512KiB")

        @pytest.mark.perf_budget(alloc_peak="2MiB")
        def test_kept(perf):
            assert perf.repeat(big, times=20)["alloc_peak"] >= 2**20

        def test_statements(perf):
            m = perf.repeat(shop.list_lazily, times=20, warmup=2, sql_queries=2)
            assert m["sql_queries"] == 21
            assert len(m.result) == 20

        @pytest.mark.perf_budget(alloc_peak="2MiB")
        def test_nothing(): ...
        """
    )

    result = run("--perfguard-json=run.json")

    assert failed(result) == ["test_nothing", "test_peak", "test_statements"]
    result.stdout.fnmatch_lines(
        [
            "  alloc_peak * MiB > 512 KiB   perf.repeat, test_peak.py:7",
            "one of 20 calls had allocated * MiB at once",
        ]
    )
    result.stdout.fnmatch_lines(
        [
            "perfguard: 1 of 1 budget exceeded in list_lazily",
            "20x Resource.owner lazy-loaded one row at a time",
        ]
    )
    result.stdout.fnmatch_lines(
        ["      no call of perf.repeat was observed in test_nothing, so the budget proves *"]
    )
    # What is counted is the first call, however many there are.
    assert records()["test_statements"].metrics["sql_queries"] == 21


@pytest.mark.parametrize(
    ("plugin", "arguments"),
    [
        ("anyio", ("-p", "no:asyncio")),
        pytest.param(
            "asyncio",
            ("-p", "no:anyio"),
            marks=pytest.mark.skipif(
                find_spec("pytest_asyncio") is None, reason="pytest-asyncio is not installed"
            ),
        ),
    ],
)
@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["one process", "xdist"])
def test_asynchronous_calls_are_repeated_too(
    pytester: pytest.Pytester,
    failed: Failed,
    plugin: str,
    arguments: tuple[str, ...],
    workers: tuple[str, ...],
) -> None:
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(
        f"""
        import asyncio
        import pytest
        from leaky import leaks_async

        pytestmark = pytest.mark.{plugin}

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        async def test_leaks(perf):
            repeated = await perf.repeat(leaks_async, times=25, memory_growth="1KiB")
            assert abs(repeated.growth.slope - 10 * 1024) < 2 * 1024

        async def test_none(perf):
            await perf.repeat(lambda: asyncio.sleep(0), times=25, memory_growth="1KiB")

        async def test_forgotten(perf):
            perf.repeat(leaks_async)
        """
    )

    result = pytester.runpytest_inprocess(
        *arguments, *workers, "-p", "no:hypothesispytest", "-Wignore:coroutine:RuntimeWarning"
    )

    assert failed(result) == ["test_forgotten", "test_leaks"]
    result.stdout.fnmatch_lines(["    at leaky.py:9, *"])
    result.stdout.fnmatch_lines(["*perf.repeat, *.py:19: not awaited: write 'await' before it"])


def test_somebody_elses_tracing_goes_on_and_ours_does_not(
    pytester: pytest.Pytester, run_once: Run, failed: Failed
) -> None:
    pytester.makepyfile(
        """
        import tracemalloc
        from leaky import leaks, uses_as_much

        def test_ours(perf):
            perf.repeat(leaks, times=20)
            assert not tracemalloc.is_tracing()

        def test_theirs(perf):
            tracemalloc.start(2)
            try:
                assert perf.repeat(uses_as_much, times=20).growth.slope == 0
                assert perf.repeat(leaks, times=20).growth.slope > 8 * 1024
                assert tracemalloc.is_tracing()
                assert tracemalloc.get_traceback_limit() == 2
            finally:
                tracemalloc.stop()

        def test_error(perf):
            calls = iter(range(50))
            perf.repeat(lambda: next(calls), times=20)
        """
    )

    result = run_once()

    assert failed(result) == ["test_error"]
    result.stdout.fnmatch_lines(["*StopIteration*"])
    assert not tracemalloc.is_tracing()


def test_what_makes_no_sense_is_refused(pytester: pytest.Pytester, run_once: Run) -> None:
    pytester.makepyfile(
        test_refused="""
        import pytest
        from pytest_perfguard import CacheError, LimitError, TimingError

        @pytest.mark.parametrize(
            ("arguments", "message"),
            [
                ({"times": 19}, "perf.repeat, test_refused.py:16: times=19: 20 or more"),
                ({"times": "many"}, "test_refused.py:16: times: 'many' cannot be read"),
                ({"warmup": -1}, "test_refused.py:16: warmup: -1 is negative"),
                ({"memory_groth": 1}, "Did you mean 'memory_growth'"),
                ({"memory_growth": "1s"}, "'s' in '1s' is not a unit of bytes"),
            ],
        )
        def test_arguments(perf, arguments, message):
            with pytest.raises(LimitError, match=message):
                perf.repeat(print, **arguments)

        def test_call(perf):
            with pytest.raises(CacheError, match="call is of type int, which cannot be called"):
                perf.repeat(3)

        def test_inside(perf):
            with pytest.raises(TimingError, match="another timing is under way"):
                perf.repeat(lambda: perf.repeat(print))
        """
    )

    run_once().assert_outcomes(passed=7)


def test_repeating_inside_spans_that_ask_leaves_nothing(
    pytester: pytest.Pytester, run_once: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        """
        import logging, threading, warnings
        import pytest
        from leaky import uses_as_much

        @pytest.mark.perf_budget(memory_peak="1GiB", memory_growth="9KiB", memory_percent="99%")
        def test_it(perf, caplog):
            handlers = list(logging.getLogger().handlers)
            show = warnings.showwarning
            with perf.measure("block", memory_peak="1GiB") as block:
                def during():
                    uses_as_much()
                    names.append([t.name for t in threading.enumerate()])

                names = []
                perf.repeat(uses_as_much, times=20)
                perf.repeat(during, times=20, warmup=0)
            # The first call is measured, the others are not.
            assert "perfguard-memory" in names[0]
            assert not any("perfguard-memory" in found for found in names[1:])
            assert set(logging.getLogger().handlers) == set(handlers)
            assert warnings.showwarning is show
            assert block["memory_peak"] >= 0
        """
    )

    run_once("-W", "error").assert_outcomes(passed=1)
    assert not any(thread.name.startswith("perfguard") for thread in threading.enumerate())
    assert "perfguard" not in str(sys.getprofile())


def test_a_call_that_ends_the_tracing_is_refused(
    pytester: pytest.Pytester, run_once: Run, failed: Failed
) -> None:
    pytester.makepyfile(
        test_stops="""
        import tracemalloc
        import pytest

        def stops():
            tracemalloc.stop()

        def begins_anew():
            if tracemalloc.is_tracing():
                tracemalloc.stop()
                tracemalloc.start()

        @pytest.mark.parametrize("call", [stops, begins_anew, tracemalloc.clear_traces])
        @pytest.mark.parametrize("warmup", [0, 1])
        def test_it(perf, call, warmup):
            perf.repeat(call, times=20, warmup=warmup)

        def test_nothing_is_left():
            assert not tracemalloc.is_tracing()
        """
    )

    result = run_once("-p", "no:randomly")

    result.assert_outcomes(passed=1, failed=6)
    result.stdout.fnmatch_lines(
        ["*TimingError: perf.repeat, test_stops.py:15: the call stops tracemalloc or clears its *"]
    )
    result.stdout.no_fnmatch_line("*RuntimeError*")


def test_the_lines_that_make_up_most_of_a_leak_are_named(
    pytester: pytest.Pytester, run_once: Run, failed: Failed
) -> None:
    pytester.makepyfile(
        test_several="""
        kept = []

        def several():
            kept.append(bytes(30_000))
            kept.append(bytes(25_000))
            kept.append(bytes(20_000))
            kept.append(bytes(15_000))

        def mostly_one():
            kept.append(bytes(90_000))
            kept.append(bytes(10_000))

        def test_several(perf):
            perf.repeat(several, times=40, memory_growth="1KiB")

        def test_mostly_one(perf):
            perf.repeat(mostly_one, times=40, memory_growth="1KiB")
        """
    )

    result = run_once()

    assert failed(result) == ["test_mostly_one", "test_several"]
    named = [line.strip() for line in result.outlines if " blocks a call" in line]
    assert [line.split(",")[0] for line in named] == [
        *(f"at test_several.py:{number}" for number in (4, 5, 6)),
        "at test_several.py:10",
    ]
    result.stdout.fnmatch_lines(["    kept.append(bytes(25_000))"])


def test_without_resident_memory_it_is_unknown_whether_nothing_stays(
    pytester: pytest.Pytester, run: Run, failed: Failed
) -> None:
    pytester.makepyfile(
        """
        import math
        import psutil
        import pytest
        from leaky import leaks, uses_as_much

        @pytest.fixture
        def unread(monkeypatch):
            def fails(self):
                raise PermissionError("no")

            return lambda: monkeypatch.setattr(psutil.Process, "memory_info", fails)

        def test_leak(perf, unread):
            unread()
            perf.repeat(leaks, times=20, memory_growth="1KiB")

        def test_none(perf, unread):
            unread()
            perf.repeat(uses_as_much, times=20, memory_growth="1KiB")

        def test_in_the_middle(perf, unread):
            calls = iter(range(1000))

            def call():
                if next(calls) == 30:
                    unread()

            perf.repeat(call, times=20, memory_growth="1KiB")

        def test_not_asked(perf, unread):
            unread()
            repeated = perf.repeat(uses_as_much, times=20, alloc_peak="1MiB")
            assert math.isnan(repeated.growth.slope)
        """
    )

    result = run()

    assert failed(result) == ["test_in_the_middle", "test_leak", "test_none"]
    result.stdout.fnmatch_lines(
        [
            "perfguard: 1 of 1 budget exceeded in leaks",
            "    at leaky.py:9, *",
        ]
    )
    for name in ("uses_as_much", "test_in_the_middle.call"):
        result.stdout.fnmatch_lines(
            [
                f"perfguard: 1 of 1 budget unproven in {name}",
                "*the memory of the process could not be read (PermissionError: no)*",
            ]
        )
