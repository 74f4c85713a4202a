"""Mistakes in budgets and settings: all are shown at once, and none lets a test pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def mistakes(pytester: pytest.Pytester) -> None:
    """Write budgets that cannot be read, in two modules, and a test without any."""
    pytester.makepyfile(
        test_one="""
        import pytest, shop

        @pytest.mark.perf_budget(sql_querys=3)
        def test_unknown():
            shop.list_eagerly()

        @pytest.mark.perf_budget(
            sql_queries="3ms",
            sql_slowest=100,
        )
        def test_units():
            shop.list_eagerly()

        class TestClass:
            pytestmark = pytest.mark.perf_budget(sql_rows=-1)

            @pytest.mark.perf_budget(sql_queries=True)
            def test_method(self):
                shop.list_eagerly()
        """,
        test_two="""
        import pytest, shop

        @pytest.mark.perf_budget(3)
        def test_positional():
            shop.list_eagerly()

        @pytest.mark.perf_budget()
        def test_called_empty():
            shop.list_eagerly()

        @pytest.mark.perf_budget(sql_rows=2.5, sql_time="soon", sql_duplicates=None)
        def test_values():
            shop.list_eagerly()

        def test_fine():
            shop.list_eagerly()
        """,
    )


COUNT = "write a whole number such as 3"
SECONDS = "write a number with a unit such as '100ms'"
MISTAKES = [
    "perf_budget, test_one.py:3: unknown metric 'sql_querys'. Did you mean 'sql_queries'?",
    f"perf_budget, test_one.py:8: sql_queries: 'ms' in '3ms' is not a unit of count: {COUNT}",
    f"perf_budget, test_one.py:9: sql_slowest: 100 has no unit: {SECONDS} or '1.5s'",
    f"perf_budget, test_one.py:15: sql_rows: -1 is negative: {COUNT}",
    f"perf_budget, test_one.py:17: sql_queries: True is not a limit: {COUNT}",
    "perf_budget, test_two.py:3: takes keywords only, as in sql_queries=3; got 3",
    "perf_budget, test_two.py:7: has no limit, as in sql_queries=3",
    f"perf_budget, test_two.py:11: sql_rows: 2.5 is not a whole number: {COUNT}",
    f"perf_budget, test_two.py:11: sql_time: 'soon' cannot be read: {SECONDS}",
    f"perf_budget, test_two.py:11: sql_duplicates: None is not a limit: {COUNT}",
]


@pytest.mark.usefixtures("mistakes")
def test_every_mistake_is_a_collection_error_and_all_are_shown_at_once(run: Run) -> None:
    result = run()

    output = result.stdout.str()
    assert [line for line in MISTAKES if line not in output] == []
    for file in ("test_one.py", "test_two.py"):
        lines = [line for line in MISTAKES if f", {file}:" in line]
        assert sorted(lines, key=output.index) == lines
    assert "INTERNALERROR" not in output
    # pytest-xdist runs the rest of the suite after any error in a collection.
    assert result.ret in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.TESTS_FAILED)
    assert result.parseoutcomes().get("passed", 0) == (
        1 if result.ret == pytest.ExitCode.TESTS_FAILED else 0
    )
    result.stdout.fnmatch_lines(
        ["*ERROR collecting test_one.py*", "*ERROR collecting test_two.py*"]
    )
    result.stdout.fnmatch_lines(["ERROR test_one.py*", "ERROR test_two.py*"])


@pytest.mark.usefixtures("mistakes")
def test_no_test_with_a_mistake_passes_when_collection_errors_are_passed_over(run: Run) -> None:
    result = run("--continue-on-collection-errors")

    outcomes = result.parseoutcomes()
    assert outcomes.get("passed") == 1
    assert outcomes.get("failed") == 6
    assert outcomes.get("errors") == 2
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    output = result.stdout.str()
    assert [line for line in MISTAKES if line not in output] == []


@pytest.mark.usefixtures("mistakes")
@pytest.mark.parametrize("arguments", [("--collect-only",), ("-x",), ("--maxfail=1",)])
def test_mistakes_are_shown_whatever_is_asked_of_the_session(
    run_once: Run, arguments: tuple[str, ...]
) -> None:
    result = run_once(*arguments)

    assert result.ret not in (pytest.ExitCode.OK, pytest.ExitCode.INTERNAL_ERROR)
    assert MISTAKES[0] in result.stdout.str()
    assert "INTERNALERROR" not in result.stdout.str()


@pytest.mark.usefixtures("mistakes")
def test_a_deselected_mistake_is_still_an_error(run_once: Run) -> None:
    result = run_once("-k", "test_fine")

    assert result.ret == pytest.ExitCode.INTERRUPTED


@pytest.mark.usefixtures("mistakes")
def test_junit_reports_the_mistakes(pytester: pytest.Pytester, run_once: Run) -> None:
    run_once("--junitxml=junit.xml")

    assert "Did you mean" in (pytester.path / "junit.xml").read_text()


def test_a_mark_without_parentheses_is_told_with_its_line(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    pytester.makepyfile(
        test_bare="""
        import pytest, shop

        @pytest.mark.perf_budget
        def test_bare():
            shop.list_eagerly()
        """
    )

    result = run_once()

    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines("*perf_budget, test_bare.py:3: has no limit, as in sql_queries=3")


# -- settings ------------------------------------------------------------------------------


def test_every_mistake_in_ini_lines_is_a_usage_error(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("def test_fine(): pass")
    pytester.makeini(
        """
        [pytest]
        perfguard_budgets =
            tests: sql_querys=3
            api: sql_time=3
            api: nothing
            api: sql_rows=1, sql_queries
        perfguard_level =
            sql_querys: warn
            api: loud
        """
    )

    result = run()

    output = result.stdout.str() + result.stderr.str()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    expected = [
        "perfguard_budgets, 'tests: sql_querys=3': unknown metric 'sql_querys'. Did you mean 'sql_",
        "perfguard_budgets, 'api: sql_time=3': sql_time: '3' has no unit",
        "perfguard_budgets, 'api: nothing': write 'PATTERN: METRIC=LIMIT, METRIC=LIMIT'",
        "'sql_queries' has no limit: write METRIC=LIMIT",
        "perfguard_level, 'sql_querys: warn': unknown metric 'sql_querys'.",
        (
            "perfguard_level, 'api: loud': 'loud' is not a level: "
            "write 'PATTERN METRIC: fail' or 'warn'"
        ),
    ]
    assert [line for line in expected if line not in output] == []
    assert "INTERNALERROR" not in output
    assert "Traceback" not in output
    assert "1 passed" not in output


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("perfguard_unproven = maybe", "perfguard_unproven = 'maybe': one of fail, warn"),
        ("perfguard_phases = teardown", "perfguard_phases = 'teardown': one of call, setup+call"),
        ("perfguard_n_plus_one = 1", "perfguard_n_plus_one = 1: 2 or more"),
        ("perfguard_top = -1", "perfguard_top = -1: 0 or more"),
        ("perfguard_n_plus_one = many", "many"),
        ("perfguard_top = few", "few"),
        ("perfguard = perhaps", "perhaps"),
        ("perfguard_show_parameters = perhaps", "perhaps"),
    ],
)
@pytest.mark.parametrize("measured", [False, True], ids=["nothing measured", "measured"])
def test_a_wrong_value_in_the_ini_file_is_a_usage_error(
    pytester: pytest.Pytester, run_once: Run, line: str, message: str, measured: bool
) -> None:
    pytester.makepyfile(f"def test_fine({'perf' if measured else ''}): pass")
    pytester.makeini(f"[pytest]\n{line}\n")

    result = run_once()

    output = result.stdout.str() + result.stderr.str()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in output
    assert "collected" not in output
    assert "INTERNALERROR" not in output


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--perfguard-unproven=maybe", "maybe"),
        ("--perfguard-phases=teardown", "teardown"),
        ("--perfguard-n-plus-one=0", "perfguard_n_plus_one = 0: 2 or more"),
        ("--perfguard-top=-1", "perfguard_top = -1: 0 or more"),
        ("--perfguard-n-plus-one=many", "many"),
        ("--perfguard-budgets=sql_querys=1", "Did you mean 'sql_queries'?"),
        ("--perfguard-level=loud", "'loud' is not a level: write 'PATTERN METRIC: fail' or 'warn'"),
    ],
)
def test_a_wrong_value_on_the_command_line_is_a_usage_error(
    pytester: pytest.Pytester, run_once: Run, argument: str, message: str
) -> None:
    pytester.makepyfile("def test_fine(): pass")

    result = run_once(argument)

    output = result.stdout.str() + result.stderr.str()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in output
    assert "collected" not in output
    assert "INTERNALERROR" not in output


def test_a_wrong_value_is_told_in_a_native_table_too(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    pytester.makepyfile("def test_fine(): pass")
    (pytester.path / "pytest.toml").write_text("[pytest]\nperfguard_budgets = 'sql_queries=1'\n")

    result = run_once()

    output = result.stdout.str() + result.stderr.str()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "perfguard_budgets" in output
    assert "INTERNALERROR" not in output
