"""What perfguard leaves alone: sessions that do not use it, crashed workers, SQLAlchemy itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_perfguard.model import Record

Run = Callable[..., pytest.RunResult]
Records = Callable[[], dict[str, Record]]


def test_a_crashed_worker_loses_one_record_only(
    pytester: pytest.Pytester, run_once: Run, records: Records
) -> None:
    pytester.makepyfile(
        """
        import os
        import pytest, shop

        @pytest.mark.parametrize("number", range(8))
        def test_many(number):
            if number == 3:
                os._exit(7)
            shop.get_email(1)
        """
    )

    result = run_once("-n2", "--perfguard", "--perfguard-json=run.json")

    result.assert_outcomes(passed=7, failed=1)
    assert list(records()) == [f"test_many[{number}]" for number in range(8) if number != 3]
    result.stdout.fnmatch_lines("7 tests measured, 7 statements on *")
    assert "INTERNALERROR" not in result.stdout.str()


def test_what_ini_patterns_cover_is_known_after_a_crash(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    pytester.makeini("[pytest]\nperfguard_budgets = *: sql_queries=9\n")
    pytester.makepyfile("import os\ndef test_crash(): os._exit(7)")

    result = run_once("-n1")

    result.assert_outcomes(failed=1)
    assert "INTERNALERROR" not in result.stdout.str()
    assert "matches no test" not in result.stdout.str()


def test_marked_tests_run_without_the_plugin(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest, shop

        @pytest.mark.performance
        @pytest.mark.perf_budget(sql_queries=2)
        def test_marked():
            shop.list_lazily()
        """
    )

    result = pytester.runpytest_subprocess("-p", "no:perfguard")

    result.assert_outcomes(passed=1, warnings=2)


def test_caches_are_tested_without_the_plugin_at_the_cost_of_the_fixture(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        """
        import fakeredis, pytest

        @pytest.mark.perf_budget(cache_hit_ratio="80%", cache_blocking_calls=0)
        def test_marked():
            fakeredis.FakeRedis().get("resource:7")

        def test_contract(perf):
            perf.cold_warm(dict)
        """
    )

    result = pytester.runpytest_subprocess("-p", "no:perfguard")

    result.assert_outcomes(passed=1, errors=1, warnings=1)
    result.stdout.fnmatch_lines("*fixture 'perf' not found")


@pytest.mark.parametrize("stub", ["None", "types.ModuleType('redis')", "unittest.mock.MagicMock()"])
def test_something_else_in_place_of_redis_does_not_matter(
    pytester: pytest.Pytester, stub: str
) -> None:
    pytester.makeconftest(
        f"import sys, types, unittest.mock\nsys.modules['redis'] = {stub}\nimport shop"
    )
    pytester.makepyfile(
        """
        import functools, sys
        import pytest, shop

        @functools.lru_cache
        def email(number):
            return shop.get_email(number)

        @pytest.mark.perf_budget(sql_queries=1, cache_hit_ratio=0.5, cache_commands=0)
        def test_goes_on(perf):
            perf.cache.watch(email)
            assert email(1) == email(1)

        @pytest.mark.perf_budget(cache_commands=1)
        def test_proves_nothing():
            pass

        def test_puts_it_back():
            del sys.modules["redis"]

        @pytest.mark.perf_budget(cache_commands=0)
        def test_is_seen_then():
            import fakeredis
            fakeredis.FakeRedis().get("resource:7")
        """
    )

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(
        ["*cache_commands  unproven (limit 1)*", "*cache_commands  1 > 0 *"]
    )


def test_a_session_that_measures_nothing_loads_nothing(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("")
    pytester.makepyfile(
        """
        import sys

        def test_light():
            heavy = {"sqlalchemy", "greenlet", "httpx", "httpx2", "json.tool", "asyncio"}
            assert heavy & set(sys.modules) == set()
            own = {name for name in sys.modules if name.startswith("pytest_perfguard")}
            assert own == {
                "pytest_perfguard",
                "pytest_perfguard.errors",
                "pytest_perfguard.options",
                "pytest_perfguard.plugin",
            }
        """
    )

    result = pytester.runpytest_subprocess(
        "-p", "no:anyio", "-p", "no:asyncio", "-p", "no:xdist", "-p", "no:hypothesispytest",
        "-p", "no:rerunfailures",
    )  # fmt: skip

    result.assert_outcomes(passed=1)


def test_a_session_that_stores_no_times_loads_nothing_of_their_gate(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_timed(perf):
            perf.time(lambda: None, rounds=2)
            gate = "session_windows", "time_gate", "windows", "references", "times", "gate", "work"
            assert {f"pytest_perfguard.{name}" for name in gate} & set(sys.modules) == set()
        """
    )

    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_nothing_of_the_listening_is_left_after_the_session(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    pytester.makepyfile(
        test_list="""
        import httpx, pytest, shop

        @pytest.mark.perf_budget(sql_queries=21)
        def test_list():
            shop.list_lazily()
            assert "wrapped" in repr(shop.state())
        """
    )
    path = pytester.path / "shop.py"
    path.write_text(path.read_text() + STATE)
    pytester.makeconftest(
        """
        import sys

        def pytest_configure():
            import shop
            shop.before = shop.state()

        def pytest_unconfigure():
            import shop
            shop.engine.dispose()
            print("\\nsame as before:", shop.state() == shop.before)
        """
    )

    result = run_once("-s")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines("same as before: True")


STATE = '''

def state():
    """What perfguard listens by: wrapped methods and listeners."""
    import httpx, httpx2, requests
    from sqlalchemy.engine import Connection, Engine, cursor, default
    from sqlalchemy.pool import Pool

    found = {}
    for owner in (
        httpx.Client, httpx.AsyncClient, httpx2.Client, httpx2.AsyncClient, requests.Session,
        Connection, default.DefaultExecutionContext, cursor.CursorFetchStrategy,
        cursor.BufferedRowCursorFetchStrategy, cursor.FullyBufferedCursorFetchStrategy,
    ):
        for name, value in vars(owner).items():
            wrapped = " wrapped" if hasattr(value, "__wrapped__") else ""
            found[f"{owner.__name__}.{name}"] = f"{id(value)}{wrapped}"
    for target in (Engine, Session, Pool):
        for name in dir(target.dispatch):
            if not name.startswith("_"):
                listeners = getattr(target.dispatch, name)
                known = getattr(listeners, "_clslevel", {}).get(target, ())
                found[f"{target.__name__} {name}"] = len(known)
    return found
'''


def test_sessions_one_after_the_other_in_one_process_do_not_meet(
    pytester: pytest.Pytester, run_once: Run, records: Records
) -> None:
    pytester.makepyfile("import shop\ndef test_list(): shop.list_lazily()")

    for _ in range(2):
        run_once("--perfguard", "--perfguard-json=run.json").assert_outcomes(passed=1)
        assert records()["test_list"].metrics["sql_queries"] == 21


def test_the_options_and_marks_are_listed(pytester: pytest.Pytester, run_once: Run) -> None:
    markers = run_once("--markers")
    markers.stdout.fnmatch_lines(
        ["@pytest.mark.perf_budget(METRIC=LIMIT, ...): *", "@pytest.mark.performance: *"]
    )
    run_once("--help").stdout.fnmatch_lines(["performance budgets (pytest-perfguard):"])
    strict = run_once("--strict-markers", "--strict-config", "--fixtures")
    strict.stdout.fnmatch_lines(["perf -- *", "    Measure blocks of a test: *"])
