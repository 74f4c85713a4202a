"""What the plugin does where SQLAlchemy and redis-py are not installed."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

pytestmark = pytest.mark.skipif(
    any(find_spec(name) is not None for name in ("sqlalchemy", "redis")),
    reason="SQLAlchemy or redis-py is installed here",
)


@pytest.mark.parametrize("limit", [0, 3])
def test_a_sql_budget_names_the_extra(pytester: pytest.Pytester, limit: int) -> None:
    pytester.makepyfile(
        f"""
        import pytest

        @pytest.mark.perf_budget(sql_queries={limit})
        def test_it():
            pass
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*sqlalchemy is not installed: install pytest-perfguard with the extra [[]sql[]]"]
    )


def test_measuring_everything_works_without_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(perf):\n    with perf.measure('nothing') as m:\n        pass")
    result = pytester.runpytest_subprocess("--perfguard")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["1 test measured, 0 statements on 0 engines"])


def test_a_cache_budget_names_the_extra(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.perf_budget(cache_hit_ratio="80%")
        def test_it():
            pass
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*redis 5 or newer is not installed: install pytest-perfguard with the extra [[]cache[]]"]
    )


def test_caches_of_the_process_are_watched_without_redis(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import functools
        import pytest

        @functools.lru_cache
        def rate(currency):
            return currency

        @pytest.mark.perf_budget(cache_hit_ratio="50%", cache_misses=1)
        def test_budget(perf):
            perf.cache.watch(rate)
            rate("EUR")
            rate("EUR")

        def test_contracts(perf):
            perf.cache.watch(rate)
            perf.cold_warm(lambda: rate("USD"), flush=rate.cache_clear)
            perf.stampede(lambda: rate("USD"), flush=rate.cache_clear, limit=8)
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=2)


@pytest.mark.skipif(find_spec("psutil") is not None, reason="psutil is installed here")
@pytest.mark.parametrize("limit", [0, "'1MiB'"])
def test_a_budget_of_memory_names_the_extra(pytester: pytest.Pytester, limit: object) -> None:
    pytester.makepyfile(
        f"""
        import asyncio, pytest

        @pytest.mark.perf_budget(memory_growth={limit})
        def test_memory():
            pass

        @pytest.mark.perf_budget(cpu_time="1min", loop_stall="1min")
        def test_what_needs_no_library():
            asyncio.run(asyncio.sleep(0))
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["*psutil is not installed: install pytest-perfguard with the extra [[]process[]]"]
    )


def test_a_report_that_needs_a_library_names_the_extra(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(perf):\n    pass")
    result = pytester.runpytest_subprocess("--perfguard-openmetrics=perf.prom")
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    line = "warning: prometheus-client is not installed: install pytest-perfguard with the extra "
    assert f"{line}[prometheus]" in result.outlines
