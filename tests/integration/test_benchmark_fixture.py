"""pytest-benchmark's fixture in measured tests: counted once, and otherwise what it always is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from textwrap import dedent
from typing import Any

import pytest

from pytest_perfguard.model import Record
from tests.integration.conftest import LEAN

pytest.importorskip("pytest_benchmark")

Run = Callable[..., pytest.RunResult]
Failed = Callable[[pytest.RunResult], list[str]]
Records = Callable[[], dict[str, Record]]

# As few and as short rounds as it takes.
QUICK = (
    "--benchmark-min-time=0.000001",
    "--benchmark-max-time=0.000001",
    "--benchmark-min-rounds=5",
    "--benchmark-warmup=off",
)
XDIST = ("-n2", "-W", "ignore::pytest_benchmark.logger.PytestBenchmarkWarning")


@pytest.fixture(autouse=True)
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let inner runs not believe that they are workers, for whom it is switched off."""
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run_once(pytester: pytest.Pytester) -> Run:
    """Run pytest in a process of its own."""
    return lambda *arguments: pytester.runpytest_subprocess(*LEAN, *QUICK, *arguments)


def write(pytester: pytest.Pytester, text: str) -> None:
    """Write tests that look at what pytest-benchmark is given and gives."""
    head = """
        import functools
        import pytest, shop
        from pytest_perfguard.errors import TimingError

        calls = []

        def email(number=1):
            calls.append(number)
            return shop.get_email(number)

        @pytest.fixture(autouse=True)
        def fresh():
            calls.clear()
    """
    path = pytester.path / "test_bench.py"
    path.write_text(dedent(head) + dedent(text), encoding="utf-8")


def benchmarks(pytester: pytest.Pytester) -> dict[str, dict[str, Any]]:
    """Read the file of pytest-benchmark, by the test's name."""
    data = json.loads((pytester.path / "bench.json").read_text(encoding="utf-8"))
    return {entry["name"]: entry for entry in data["benchmarks"]}


def test_one_call_is_counted_apart_and_the_statistics_are_metrics(
    pytester: pytest.Pytester, run_once: Run, records: Records
) -> None:
    write(
        pytester,
        """
        @pytest.mark.perf_budget(sql_queries=1, sql_n_plus_one=0, time_median="60s")
        def test_call(benchmark):
            assert benchmark(email, 3) == "3@shop"
            assert calls == [3] * len(calls)
            assert benchmark.extra_info["sql_queries"] == 1
            assert benchmark.extra_info["sql_rows"] == 1

        @pytest.mark.performance
        def test_as_a_decorator(benchmark):
            @benchmark
            def found():
                return email(4)
            assert found == "4@shop"

        @pytest.mark.performance
        @pytest.mark.parametrize("call", [functools.partial(email, 5), lambda: email(5)])
        def test_others(benchmark, call):
            benchmark.extra_info["mine"] = "kept"
            assert benchmark(call) == "5@shop"

        @pytest.mark.performance
        def test_exactly(benchmark):
            benchmark.pedantic(email, args=(6,), kwargs={}, rounds=7, iterations=1)
            # One of them is ours.
            assert len(calls) == 1 + 7

        @pytest.mark.performance
        def test_iterations(benchmark):
            benchmark.pedantic(email, rounds=3, iterations=4, warmup_rounds=2)
            assert len(calls) >= 1 + 2 * 4 + 3 * 4

        def test_not_measured(benchmark):
            benchmark(email)
            assert benchmark.extra_info == {}
            assert type(benchmark).__name__ == "BenchmarkFixture"

        def test_beside_perf(benchmark, perf):
            with perf.measure("block", sql_queries=2) as measured:
                shop.get_email(1)
                benchmark(email)
            assert measured["sql_queries"] == 2
            assert measured["time_median"] > 0
        """,
    )

    result = run_once("--benchmark-json=bench.json", "--perfguard-json=run.json")

    result.assert_outcomes(passed=8)
    found, theirs = records(), benchmarks(pytester)
    for name in ("test_call", "test_as_a_decorator", "test_others[<lambda>]", "test_exactly"):
        (span,) = found[name].span.children
        assert span.kind == "call"
        assert span.timing is not None
        entry = theirs[name]
        # The rounds are theirs; what was counted is one call.
        assert span.timing["rounds"] == entry["stats"]["rounds"]
        for ours, their in (("mean", "mean"), ("median", "median"), ("max", "max")):
            value = found[name].metrics[f"time_{ours}"]
            assert value == pytest.approx(entry["stats"][their]), name
            assert span.timing["statistics"][ours] == value
        assert found[name].metrics["time_stddev"] == pytest.approx(entry["stats"]["stddev"])
        assert found[name].metrics["sql_queries"] == 1
        assert entry["extra_info"]["sql_queries"] == 1
        assert entry["extra_info"]["sql_roundtrips"] == 1
        # No clock has a part in what is compared from machine to machine.
        assert not {key for key in entry["extra_info"] if "time" in key or "slowest" in key}
    assert theirs["test_exactly"]["stats"]["rounds"] == 7
    assert theirs["test_others[<lambda>]"]["extra_info"]["mine"] == "kept"
    assert theirs["test_not_measured"]["extra_info"] == {}
    assert [found[n].span.children[0].name for n in ("test_call", "test_as_a_decorator")] == [
        "email",
        "test_as_a_decorator.found",
    ]


def test_budgets_are_judged(pytester: pytest.Pytester, run_once: Run, failed: Failed) -> None:
    write(
        pytester,
        """
        @pytest.mark.perf_budget(sql_queries=2, sql_n_plus_one=0)
        def test_counts(benchmark):
            benchmark(shop.list_lazily)

        @pytest.mark.perf_budget(time_median="1ns", time_mean="60s", sql_queries=1)
        def test_time(benchmark):
            benchmark(email)

        @pytest.mark.perf_budget(time_p95="60s")
        def test_too_few_rounds(benchmark):
            benchmark.pedantic(email, rounds=19)

        @pytest.mark.perf_budget(time_p95="60s")
        def test_enough_rounds(benchmark):
            benchmark.pedantic(email, rounds=20)

        @pytest.mark.perf_budget(time_cpu="60s")
        def test_cpu(benchmark):
            benchmark(email)

        @pytest.mark.perf_budget(sql_queries=1)
        def test_kept(benchmark):
            benchmark(email)
        """,
    )

    result = run_once()

    assert failed(result) == ["test_counts", "test_cpu", "test_time", "test_too_few_rounds"]
    result.assert_outcomes(passed=2, failed=4)
    result.stdout.re_match_lines_random(
        [
            r"  sql_queries +21 > 2 +perf_budget, test_bench\.py:\d+",
            r"20x Resource\.owner lazy-loaded one row at a time",
            r"perfguard: 1 of 3 budgets exceeded in test_time",
            r"  time_median .* > 1 ns +perf_budget, test_bench\.py:\d+",
            r" +time_p95 needs at least 20 rounds, and pytest-benchmark ran 19: ask it for more",
            r" +pytest-benchmark's fixture takes no CPU times: use perf\.time",
        ]
    )


def test_a_rule_of_the_suite_holds_too_and_a_level_may_be_lower(
    pytester: pytest.Pytester, run_once: Run, failed: Failed
) -> None:
    write(
        pytester,
        """
        def test_rule(benchmark):
            benchmark(email)
        """,
    )
    rule = "--perfguard-budgets=time_median=1ns, sql_queries=1"

    assert failed(run_once(rule)) == ["test_rule"]
    warned = run_once(rule, "--perfguard-level=time_median: warn")
    warned.assert_outcomes(passed=1)
    assert "1 of 2 budgets exceeded in test_rule" in warned.stdout.str()


def test_the_probes_are_off_while_it_times(pytester: pytest.Pytester, run_once: Run) -> None:
    write(
        pytester,
        """
        import redis, httpx2
        from sqlalchemy.engine import Engine

        BEFORE = redis.Redis.execute_command, httpx2.Client.send
        seen = []

        def look():
            listeners = [getattr(listener, "__module__", "")
                         for listener in shop.engine.dialect.dispatch.do_execute]
            now = redis.Redis.execute_command, httpx2.Client.send
            seen.append((any(n.startswith("pytest_perfguard") for n in listeners), now == BEFORE))

        @pytest.mark.performance
        @pytest.mark.parametrize("pedantic", [False, True])
        def test_off(benchmark, pedantic):
            seen.clear()
            if pedantic:
                benchmark.pedantic(look, rounds=5)
            else:
                benchmark(look)
            look()
            first, *others, last = seen
            assert first == last == (True, False)
            assert set(others) == {(False, True)}
            assert len(others) >= 5

        @pytest.mark.performance
        def test_back_after_an_error(benchmark):
            count = iter(range(3))
            with pytest.raises(ZeroDivisionError):
                benchmark(lambda: 1 / (2 - next(count)))
            look()
            assert seen[-1] == (True, False)
        """,
    )

    run_once().assert_outcomes(passed=3)


def test_pedantic_with_setup_and_teardown(pytester: pytest.Pytester, run_once: Run) -> None:
    write(
        pytester,
        """
        @pytest.mark.perf_budget(sql_queries=1)
        def test_both(benchmark):
            did = []

            def setup():
                did.append("setup")
                shop.list_lazily()
                return (len(did),), {"key": "value"}

            def target(number, key):
                assert key == "value"
                did.append(number)
                return email(1 + number % 20)

            def teardown(number, key):
                assert key == "value"
                did.append("teardown")

            benchmark.pedantic(target, setup=setup, teardown=teardown, rounds=3)
            turns = [did[index:index + 3] for index in range(0, len(did), 3)]
            assert len(turns) >= 4
            for index, (before, number, after) in enumerate(turns):
                assert (before, number, after) == ("setup", 3 * index + 1, "teardown")
            assert benchmark.extra_info["sql_queries"] == 1

        @pytest.mark.perf_budget(sql_queries=1)
        def test_setup_that_returns_nothing(benchmark):
            did = []
            benchmark.pedantic(email, args=(7,), setup=lambda: did.append(1), rounds=3)
            assert set(calls) == {7}
            assert len(did) == len(calls)

        @pytest.mark.performance
        def test_what_is_refused_stays_refused(benchmark):
            with pytest.raises((ValueError, TypeError)):
                benchmark.pedantic(email, setup=lambda: None, rounds=3, iterations=5)
        """,
    )

    run_once().assert_outcomes(passed=3)


def test_a_second_use_has_the_error_that_it_always_had(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    write(
        pytester,
        """
        from pytest_benchmark.fixture import FixtureAlreadyUsed

        @pytest.mark.parametrize("first", ["call", "pedantic"])
        @pytest.mark.parametrize("second", ["call", "pedantic"])
        @pytest.mark.performance
        def test_twice(benchmark, first, second):
            use = {"call": lambda: benchmark(email), "pedantic": lambda: benchmark.pedantic(email)}
            use[first]()
            with pytest.raises(FixtureAlreadyUsed):
                use[second]()
            assert benchmark.extra_info["sql_queries"] == 1
        """,
    )

    run_once().assert_outcomes(passed=4)


@pytest.mark.parametrize("disabled", [False, True])
def test_a_coroutine_function_is_an_error_that_points_to_perf_time(
    pytester: pytest.Pytester, run_once: Run, failed: Failed, disabled: bool
) -> None:
    write(
        pytester,
        """
        async def fetch():
            return shop.get_email(1)

        class Fetch:
            async def __call__(self):
                return shop.get_email(1)

        @pytest.mark.performance
        @pytest.mark.parametrize("call", [
            fetch, lambda: fetch(), functools.partial(fetch), Fetch()
        ])
        def test_async(benchmark, call):
            benchmark(call)

        @pytest.mark.performance
        def test_pedantic(benchmark):
            benchmark.pedantic(fetch, rounds=2)
        """,
    )

    result = run_once(*(["--benchmark-disable"] if disabled else []))

    result.assert_outcomes(failed=5)
    output = result.stdout.str()
    told = re.findall(r"^E +\S+TimingError: benchmark cannot await", output, re.MULTILINE)
    assert len(told) == 5
    assert "write 'await perf.time(...)' in an async test" in output
    assert "never awaited" not in output


GATED = """
    @pytest.mark.perf_budget(time_median="60s", sql_queries=1)
    def test_kept(benchmark):
        assert benchmark(email, 2) == "2@shop"

    @pytest.mark.perf_budget(sql_queries=2)
    def test_counts(benchmark):
        benchmark(shop.list_lazily)

    @pytest.mark.perf_budget(time_median="60s")
    def test_pedantic(benchmark):
        benchmark.pedantic(email, rounds=3)

    def test_plain(benchmark):
        assert benchmark(email, 2) == "2@shop"

    @pytest.mark.perf_budget(time_max="1ns")
    def test_timed_by_us(benchmark, perf):
        benchmark(email)
        perf.time(lambda: None, rounds=2)
"""


@pytest.mark.parametrize("off", [("--benchmark-disable",), XDIST], ids=["disabled", "xdist"])
def test_a_gate_that_is_off_says_so_and_counts_still_gate(
    pytester: pytest.Pytester, run_once: Run, failed: Failed, off: tuple[str, ...]
) -> None:
    write(pytester, GATED)

    result = run_once(*off)

    # What was timed all the same is judged all the same.
    assert failed(result) == ["test_counts", "test_timed_by_us"]
    result.assert_outcomes(passed=3, failed=2)
    output = result.stdout.str()
    assert "  sql_queries  21 > 2" in output
    reason = (
        "      nothing was timed: pytest-benchmark is switched off, by --benchmark-disable or "
        "because pytest-xdist is on"
    )
    for name in ("test_kept", "test_pedantic"):
        assert f"warning: test_bench.py::{name}: 1 of " in output
    assert result.outlines.count(reason) == 2
    assert "  time_median  unproven (limit 60 s)" in output


def test_its_own_options_keep_working(
    pytester: pytest.Pytester, run_once: Run, failed: Failed
) -> None:
    write(
        pytester,
        """
        @pytest.mark.perf_budget(sql_queries=1)
        def test_measured(benchmark):
            benchmark(email)

        @pytest.mark.perf_budget(sql_queries=2)
        def test_over(benchmark):
            benchmark(shop.list_lazily)

        @pytest.mark.perf_budget(sql_queries=0)
        def test_other():
            email()

        @pytest.mark.benchmark(group="mine", min_rounds=9)
        @pytest.mark.performance
        def test_marked(benchmark):
            benchmark(email)
        """,
    )

    only = run_once("--benchmark-only", "--benchmark-json=bench.json")
    only.assert_outcomes(passed=2, failed=1, skipped=1)
    assert failed(only) == ["test_over"]
    found = benchmarks(pytester)
    assert found["test_marked"]["group"] == "mine"
    assert found["test_marked"]["stats"]["rounds"] >= 9
    assert found["test_measured"]["extra_info"]["sql_queries"] == 1
    only.stdout.fnmatch_lines(["*benchmark 'mine': 1 tests*", "test_marked *"])

    skip = run_once("--benchmark-skip")
    skip.assert_outcomes(skipped=3, failed=1)
    assert failed(skip) == ["test_other"]

    saved = run_once("--benchmark-save=first", "--benchmark-storage=store", "-k", "measured")
    saved.assert_outcomes(passed=1, deselected=3)
    compared = run_once(
        "--benchmark-compare", "--benchmark-storage=store", "--benchmark-columns=rounds,median",
        "--benchmark-sort=name", "-k", "measured or marked", "--benchmark-disable-gc",
        "--benchmark-warmup=on", "--benchmark-warmup-iterations=2", "--benchmark-verbose",
        "--benchmark-cprofile=tottime",
    )  # fmt: skip
    compared.assert_outcomes(passed=2, deselected=2)
    assert "test_measured (0001_first)" in compared.stdout.str()
    assert "cProfile" in compared.stdout.str()
    pytester.path.joinpath("bench.json").unlink()
    # The option of both at once that it refuses itself.
    assert run_once("--benchmark-only", "--benchmark-skip").ret != 0


def test_all_tests_can_be_measured_with_it(
    pytester: pytest.Pytester, run_once: Run, records: Records
) -> None:
    write(pytester, "def test_plain(benchmark):\n    benchmark(email)\n")

    result = run_once("--perfguard", "--perfguard-json=run.json", "--benchmark-json=bench.json")

    result.assert_outcomes(passed=1)
    assert records()["test_plain"].metrics["sql_queries"] == 1
    assert benchmarks(pytester)["test_plain"]["extra_info"]["sql_queries"] == 1


@pytest.mark.parametrize("arguments", [(), ("-n2",)], ids=["one process", "xdist"])
def test_nothing_breaks_without_it(
    pytester: pytest.Pytester, failed: Failed, arguments: tuple[str, ...]
) -> None:
    write(
        pytester,
        """
        @pytest.mark.perf_budget(sql_queries=1)
        def test_measured():
            email()

        @pytest.mark.perf_budget(time_median="60s")
        def test_timed(perf):
            perf.time(email, rounds=3)

        @pytest.mark.perf_budget(sql_queries=1)
        def test_asks_for_it(benchmark):
            benchmark(email)
        """,
    )

    result = pytester.runpytest_subprocess(*LEAN, "-p", "no:benchmark", *arguments)

    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["E*fixture 'benchmark' not found"])
    assert "INTERNALERROR" not in result.stdout.str()


# pytest-benchmark itself refuses to share the name.
@pytest.mark.parametrize("plugin", [(), ("-n2",)], ids=["one process", "xdist"])
def test_a_fixture_of_that_name_that_is_somebody_elses_is_left_alone(
    pytester: pytest.Pytester, failed: Failed, plugin: tuple[str, ...]
) -> None:
    write(
        pytester,
        """
        @pytest.fixture
        def benchmark():
            return lambda function: [function(), function()]

        @pytest.mark.perf_budget(sql_queries=2)
        def test_theirs(benchmark):
            assert benchmark(email) == ["1@shop"] * 2

        @pytest.mark.perf_budget(sql_queries=1)
        def test_over(benchmark):
            benchmark(email)
        """,
    )

    result = pytester.runpytest_subprocess(*LEAN, "-p", "no:benchmark", *plugin)

    assert failed(result) == ["test_over"]
    result.assert_outcomes(passed=1, failed=1)
