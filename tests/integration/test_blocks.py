"""``perf.measure``: named blocks inside tests and fixtures, sync and async."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import pytest

from pytest_perfguard.model import Record

Run = Callable[..., pytest.RunResult]
Failed = Callable[[pytest.RunResult], list[str]]
Records = Callable[[], dict[str, Record]]


def test_the_budgets_of_blocks_are_judged_with_those_of_the_test_when_it_ends(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makepyfile(
        test_blocks="""
        import pytest, shop

        @pytest.mark.perf_budget(sql_queries=20)
        def test_blocks(perf):
            with perf.measure("list", sql_queries=2, sql_n_plus_one=0):
                shop.list_lazily()
            with perf.measure("kept", sql_queries=2):
                shop.list_eagerly()
            print("the test ran on")
        """
    )

    result = run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "perfguard: 3 of 4 budgets exceeded in test_blocks, block 'list'",
            "  sql_queries     23 > 20   perf_budget, test_blocks.py:3",
            "  sql_queries      21 > 2   perf.measure, test_blocks.py:5",
            "  sql_n_plus_one    1 > 0   perf.measure, test_blocks.py:5",
            "20x Resource.owner lazy-loaded one row at a time",
            "the test ran on",
            "*4 budgets judged: 1 ok, 3 over budget",
        ]
    )


def test_values_can_be_read_inside_the_block_and_after_it(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    pytester.makepyfile(
        """
        import pytest, shop
        from pytest_perfguard import MetricError

        def test_values(perf):
            with perf.measure("report") as m:
                assert m["sql_queries"] == 0
                shop.get_email(1)
                assert m["sql_queries"] == 1
                shop.list_eagerly()
            shop.get_email(2)
            assert m["sql_queries"] == 3
            assert m["sql_rows"] == 41
            assert m["sql_n_plus_one"] == 0
            assert dict(m)["sql_roundtrips"] == 3
            assert "sql_queries=3" in repr(m)
            with pytest.raises(MetricError, match="Did you mean 'sql_queries'"):
                m["sql_querys"]
        """
    )

    run_once().assert_outcomes(passed=1)


def test_nested_blocks_count_in_their_parents_and_one_name_may_be_used_twice(
    pytester: pytest.Pytester, run_once: Run, failed: Failed, records: Records
) -> None:
    pytester.makepyfile(
        test_nested="""
        import shop

        def test_nested(perf):
            with perf.measure("outer", sql_queries=3) as outer:
                shop.list_eagerly()
                with perf.measure("inner", sql_queries=1) as inner:
                    shop.get_email(1)
            assert (outer["sql_queries"], inner["sql_queries"]) == (3, 1)

        def test_twice_over(perf):
            with perf.measure("same", sql_queries=2) as first:
                shop.list_eagerly()
            with perf.measure("same", sql_queries=2) as second:
                shop.list_lazily()
            assert (first["sql_queries"], second["sql_queries"]) == (2, 21)
        """
    )

    result = run_once("--perfguard-json=run.json")

    assert failed(result) == ["test_twice_over"]
    result.stdout.fnmatch_lines(
        [
            "perfguard: 1 of 2 budgets exceeded in block 'same #2'",
            "  sql_queries  21 > 2   perf.measure, test_nested.py:13",
            "20x Resource.owner lazy-loaded one row at a time",
        ],
        consecutive=True,
    )
    (outer,) = records()["test_nested"].span.children
    assert [child.name for child in outer.children] == ["inner"]


def test_a_block_in_a_fixture_is_judged_there_and_does_not_count_in_the_test(
    pytester: pytest.Pytester, run_once: Run, records: Records
) -> None:
    pytester.makepyfile(
        test_fixture="""
        import pytest, shop

        @pytest.fixture
        def prepared(perf):
            with perf.measure("prepare", sql_queries=2):
                shop.list_eagerly()

        @pytest.fixture
        def prepared_badly(perf):
            with perf.measure("prepare", sql_queries=2):
                shop.list_lazily()

        @pytest.fixture
        def cleaned(perf):
            yield
            with perf.measure("clean", sql_queries=2):
                shop.list_lazily()

        @pytest.mark.perf_budget(sql_queries=1)
        def test_kept(prepared):
            shop.get_email(1)

        def test_set_up(prepared_badly):
            pass

        def test_tear_down(cleaned):
            pass
        """
    )

    result = run_once("--perfguard-json=run.json")

    result.assert_outcomes(passed=2, errors=2)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at setup of test_set_up*",
            "perfguard: 1 of 1 budget exceeded in block 'prepare'",
            "  sql_queries  21 > 2   perf.measure, test_fixture.py:10",
            "*ERROR at teardown of test_tear_down*",
            "perfguard: 1 of 1 budget exceeded in block 'clean'",
        ]
    )
    assert records()["test_kept"].metrics["sql_queries"] == 1


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ("sql_querys=1, sql_rows=-1", "unknown metric 'sql_querys'. Did you mean 'sql_queries'?"),
        ("sql_querys=1, sql_rows=-1", "sql_rows: -1 is negative"),
        ("sql_time=3", "sql_time: 3 has no unit"),
    ],
)
def test_mistakes_in_the_limits_of_a_block_fail_the_test_with_its_line(
    pytester: pytest.Pytester, run_once: Run, limits: str, message: str
) -> None:
    pytester.makepyfile(
        test_mistake=f"def test_mistake(perf):\n    with perf.measure('x', {limits}):\n        pass"
    )

    result = run_once()

    result.assert_outcomes(failed=1)
    assert f"perf.measure, test_mistake.py:2: {message}" in result.stdout.str()


def test_an_error_in_a_block_is_the_tests_failure_and_the_block_is_not_judged(
    pytester: pytest.Pytester, run_once: Run, records: Records
) -> None:
    pytester.makepyfile(
        """
        import shop

        def test_error(perf):
            with perf.measure("list", sql_queries=1):
                shop.list_eagerly()
                raise LookupError("of the test")

        def test_after(perf):
            with perf.measure("list", sql_queries=1):
                shop.get_email(1)
        """
    )

    result = run_once("--perfguard-json=run.json")

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines("E*LookupError: of the test")
    assert records()["test_error"].verdicts == ()


def test_the_fixture_may_be_asked_for_while_the_test_runs(
    pytester: pytest.Pytester, run: Run, failed: Failed, records: Records
) -> None:
    pytester.makepyfile(
        """
        import pytest, shop

        @pytest.mark.parametrize("number", [1, 2])
        def test_over(request, number):
            perf = request.getfixturevalue("perf")
            with perf.measure("list", sql_queries=2) as m:
                shop.list_lazily()
            assert m["sql_queries"] == 21

        def test_kept(request):
            shop.list_lazily()
            with request.getfixturevalue("perf").measure("list", sql_queries=2):
                shop.list_eagerly()

        @pytest.mark.perf_budget(sql_queries=2)
        def test_marked(request):
            with request.getfixturevalue("perf").measure("one", sql_queries=1):
                shop.get_email(1)
        """
    )

    result = run("--perfguard-json=run.json")

    assert failed(result) == ["test_over[1]", "test_over[2]"]
    assert "test_marked" in records()


@pytest.mark.parametrize("limit", [1, 2])
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
def test_async_tests_are_measured_under_both_async_plugins(
    pytester: pytest.Pytester, plugin: str, arguments: tuple[str, ...], limit: int
) -> None:
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(
        test_async=f"""
        import asyncio
        import pytest
        from sqlalchemy import text
        from sqlalchemy.ext.asyncio import create_async_engine

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        async def ask(engine, number):
            async with engine.connect() as connection:
                await connection.execute(text("SELECT :number"), {{"number": number}})

        @pytest.mark.{plugin}
        @pytest.mark.perf_budget(sql_queries={limit + 1})
        async def test_async(perf):
            engine = create_async_engine("sqlite+aiosqlite://")
            with perf.measure("both", sql_queries={limit}) as m:
                await ask(engine, 1)
                await asyncio.create_task(ask(engine, 2))
            await ask(engine, 3)
            await engine.dispose()
            assert m["sql_queries"] == 2
        """
    )

    result = pytester.runpytest_inprocess(*arguments, "-p", "no:hypothesispytest")

    if limit == 1:
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            [
                "perfguard: 2 of 2 budgets exceeded in test_async, block 'both'",
                "  sql_queries  3 > 2   perf_budget, test_async.py:15",
                "  sql_queries  2 > 1   perf.measure, test_async.py:18",
            ],
            consecutive=True,
        )
        result.stdout.fnmatch_lines(["    at test_async.py:12 in ask"])
    else:
        result.assert_outcomes(passed=1)
