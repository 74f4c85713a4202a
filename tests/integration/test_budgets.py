"""Budgets on functions, classes, modules and paths: which limit holds, and what a breach does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_perfguard.model import Record

Run = Callable[..., pytest.RunResult]
Failed = Callable[[pytest.RunResult], list[str]]
Records = Callable[[], dict[str, Record]]


def test_a_budget_holds_for_what_it_is_written_on_and_the_closest_wins_for_each_metric(
    pytester: pytest.Pytester, run: Run, failed: Failed, records: Records
) -> None:
    pytester.makepyfile(
        test_function="""
            import pytest, shop

            @pytest.mark.perf_budget(sql_queries=2)
            def test_kept():
                shop.list_eagerly()

            @pytest.mark.perf_budget(sql_queries=1)
            def test_function_over():
                shop.list_eagerly()

            def test_free():
                shop.list_lazily()
        """,
        test_module="""
            import pytest, shop

            pytestmark = [
                pytest.mark.slow,
                pytest.mark.perf_budget(
                    sql_rows=1000,
                    sql_queries=1,
                ),
            ]

            def test_module_over():
                shop.list_eagerly()

            @pytest.mark.perf_budget(sql_queries=2)
            class TestClass:
                def test_class_wins(self):
                    shop.list_eagerly()

                @pytest.mark.perf_budget(sql_queries=1)
                def test_method_over(self):
                    shop.list_eagerly()

                @pytest.mark.perf_budget(sql_commits=0)
                def test_other_metrics_stay(self):
                    shop.list_eagerly()

                class TestInner:
                    @pytest.mark.perf_budget(
                        sql_duplicates=0,
                        sql_queries=3,
                    )
                    def test_inner_wins(self):
                        shop.get_email(1)
                        shop.list_eagerly()
        """,
    )

    result = run("--perfguard-json=run.json", "-Wignore::pytest.PytestUnknownMarkWarning")

    result.assert_outcomes(passed=5, failed=3)
    assert failed(result) == ["test_function_over", "test_method_over", "test_module_over"]
    written = {
        name: {verdict.metric: verdict.where for verdict in record.verdicts}
        for name, record in records().items()
    }
    module = "perf_budget, test_module.py"
    assert written == {
        "test_kept": {"sql_queries": "perf_budget, test_function.py:3"},
        "test_function_over": {"sql_queries": "perf_budget, test_function.py:7"},
        "test_module_over": {"sql_rows": f"{module}:6", "sql_queries": f"{module}:7"},
        "test_class_wins": {"sql_rows": f"{module}:6", "sql_queries": f"{module}:14"},
        "test_method_over": {"sql_rows": f"{module}:6", "sql_queries": f"{module}:19"},
        "test_other_metrics_stay": {
            "sql_rows": f"{module}:6",
            "sql_queries": f"{module}:14",
            "sql_commits": f"{module}:23",
        },
        "test_inner_wins": {
            "sql_rows": f"{module}:6",
            "sql_duplicates": f"{module}:29",
            "sql_queries": f"{module}:30",
        },
    }


def test_the_line_is_that_of_the_mark_that_won_among_several_on_one_function(
    pytester: pytest.Pytester, run_once: Run, records: Records
) -> None:
    pytester.makepyfile(
        """
        import pytest, shop

        @pytest.mark.perf_budget(sql_queries=30)
        @pytest.mark.perf_budget(sql_queries=1)
        def test_stacked():
            shop.list_eagerly()
        """
    )

    run_once("--perfguard-json=run.json")

    (verdict,) = records()["test_stacked"].verdicts
    assert verdict.limit == 1
    assert verdict.where.endswith("the_mark_that_won_among_several_on_one_function.py:4")


def test_each_parameter_set_may_have_a_budget_of_its_own(
    pytester: pytest.Pytester, run_once: Run, failed: Failed, records: Records
) -> None:
    pytester.makepyfile(
        test_sets="""
        import pytest, shop

        @pytest.mark.parametrize("number", [
            pytest.param(1, marks=pytest.mark.perf_budget(sql_queries=1)),
            pytest.param(3, marks=pytest.mark.perf_budget(sql_queries=2)),
        ])
        def test_emails(number):
            for key in range(number):
                shop.get_email(key + 1)
        """
    )

    result = run_once("--perfguard-json=run.json")

    assert failed(result) == ["test_emails[3]"]
    assert [
        (name, verdict.value, verdict.limit, verdict.where)
        for name, record in records().items()
        for verdict in record.verdicts
    ] == [
        ("test_emails[1]", 1, 1, "perf_budget, test_sets.py:4"),
        ("test_emails[3]", 3, 2, "perf_budget, test_sets.py:5"),
    ]


def test_a_budget_inherited_from_a_base_class_holds(
    pytester: pytest.Pytester, run_once: Run, failed: Failed
) -> None:
    pytester.makepyfile(
        base="""
            import pytest

            @pytest.mark.perf_budget(sql_queries=1)
            class Guarded:
                pass
        """,
        test_derived="""
            import shop
            from base import Guarded

            class TestDerived(Guarded):
                def test_over(self):
                    shop.list_eagerly()
        """,
    )

    assert failed(run_once()) == ["test_over"]


def test_green_tests_stay_green_and_quiet(pytester: pytest.Pytester, run_once: Run) -> None:
    pytester.makepyfile("import shop\ndef test_free(): shop.list_lazily()")

    result = run_once()

    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*perfguard*===*")
    assert "measured" not in result.stdout.str()


def test_kept_budgets_add_one_line_to_the_report(pytester: pytest.Pytester, run_once: Run) -> None:
    pytester.makepyfile(
        """
        import pytest, shop

        @pytest.mark.perf_budget(sql_queries=2, sql_n_plus_one=0)
        def test_kept():
            shop.list_eagerly()
        """
    )

    result = run_once()

    result.stdout.fnmatch_lines(
        [
            "*= perfguard =*",
            "1 test measured, 2 statements on 1 engine, 2 budgets judged: 2 ok",
            "*= 1 passed in *",
        ],
        consecutive=True,
    )


# -- defaults by path ----------------------------------------------------------------------

PATHS = {
    "api/test_api.py": "import shop\ndef test_api(): shop.list_eagerly()\n",
    "api/deep/test_deep.py": "import shop\ndef test_deep(): shop.list_eagerly()\n",
    "api/test_marked.py": (
        "import pytest, shop\n"
        "@pytest.mark.perf_budget(sql_queries=2)\n"
        "def test_marked(): shop.list_eagerly()\n"
    ),
    "api/test_calm.py": "def test_calm(): pass\n",
    "test_free.py": "import shop\ndef test_free(): shop.list_lazily()\n",
}


@pytest.fixture
def paths(pytester: pytest.Pytester) -> None:
    """Write tests in several directories."""
    for name, text in PATHS.items():
        path = pytester.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.usefixtures("paths")
@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("pytest.ini", "[pytest]\nperfguard_budgets =\n  api: sql_queries=5\n  api/*: {limit}\n"),
        ("pytest.toml", "[pytest]\nperfguard_budgets = ['api: sql_queries=5', 'api/*: {limit}']\n"),
        (
            "pyproject.toml",
            "[tool.pytest]\nperfguard_budgets = ['api: sql_queries=5', 'api/*: {limit}']\n",
        ),
    ],
)
def test_defaults_by_path_come_from_the_ini_file_where_later_lines_and_marks_win(
    pytester: pytest.Pytester,
    run_once: Run,
    failed: Failed,
    records: Records,
    file: str,
    text: str,
) -> None:
    (pytester.path / file).write_text(text.format(limit="sql_queries=1, sql_n_plus_one=0"))

    result = run_once("--perfguard-json=run.json")

    assert failed(result) == ["test_api", "test_deep"]
    assert {
        (name, verdict.metric, verdict.limit)
        for name, record in records().items()
        for verdict in record.verdicts
    } == {
        (name, metric, limit)
        for name in ("test_api", "test_deep", "test_marked", "test_calm")
        for metric, limit in (
            ("sql_queries", 2 if name == "test_marked" else 1),
            ("sql_n_plus_one", 0),
        )
    }
    assert "perfguard_budgets, 'api/*: sql_queries=1, sql_n_plus_one=0'" in result.stdout.str()


@pytest.mark.usefixtures("paths")
def test_the_command_line_wins_over_the_ini_file_and_a_mark_over_both(
    pytester: pytest.Pytester, run_once: Run, failed: Failed, records: Records
) -> None:
    pytester.makeini("[pytest]\nperfguard_budgets = api: sql_queries=1\n")

    result = run_once(
        "--perfguard-json=run.json",
        "--perfguard-budgets=api/*: sql_queries=4",
        "--perfguard-budgets=sql_n_plus_one=0",
    )

    assert failed(result) == ["test_free"]
    found = records()
    limits = {name: {v.metric: v.limit for v in found[name].verdicts} for name in found}
    assert limits["test_api"] == {"sql_queries": 4, "sql_n_plus_one": 0}
    assert limits["test_marked"] == {"sql_queries": 2, "sql_n_plus_one": 0}
    assert limits["test_free"] == {"sql_n_plus_one": 0}


@pytest.mark.usefixtures("paths")
def test_a_pattern_may_name_a_test_by_its_node_id(
    run_once: Run, failed: Failed, records: Records
) -> None:
    result = run_once("--perfguard-json=run.json", "--perfguard-budgets=*::test_deep: sql_rows=1")

    assert failed(result) == ["test_deep"]
    assert {name for name, record in records().items() if record.verdicts} == {
        "test_deep",
        "test_marked",
    }


@pytest.mark.usefixtures("paths")
def test_a_pattern_that_matches_nothing_or_proves_nothing_is_warned_of_on_a_whole_run(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makeini(
        """
        [pytest]
        perfguard_budgets =
            apo: sql_queries=9
            *calm*: sql_queries=9
            api: sql_rows=99
            *api*: sql_rows=98, cache_hits=1, time_p95=1s
        """
    )

    whole = run()
    part = run("-k", "test_api or test_calm")

    whole.assert_outcomes(passed=5)
    assert _warnings(whole) == [
        "warning: perfguard_budgets, 'apo: sql_queries=9': matches no test",
        (
            "warning: perfguard_budgets, '*calm*: sql_queries=9': proves nothing, since nothing "
            "was observed in any of the tests that it covers (1)"
        ),
        (
            "warning: perfguard_budgets, '*api*: sql_rows=98, cache_hits=1, time_p95=1s': the "
            "limit on cache_hits and time_p95 proves nothing, since nothing was observed for it "
            "in any of the tests that it covers (4)"
        ),
    ]
    assert _warnings(part) == []


# -- levels --------------------------------------------------------------------------------


@pytest.mark.usefixtures("paths")
@pytest.mark.parametrize(
    ("lines", "arguments", "expected"),
    [
        ((), (), ["test_api", "test_deep", "test_marked"]),
        (("warn",), (), []),
        (("sql_queries: warn",), (), ["test_marked"]),
        (("api/deep: warn",), (), ["test_api", "test_marked"]),
        (("api/* sql_queries: warn",), (), ["test_marked"]),
        (("warn", "api/test_api.py: fail"), (), ["test_api"]),
        (("warn",), ("--perfguard-level=fail",), ["test_api", "test_deep", "test_marked"]),
        ((), ("--perfguard-level=api/deep sql_queries: warn",), ["test_api", "test_marked"]),
    ],
)
def test_the_level_is_chosen_by_metric_by_path_and_by_both(
    pytester: pytest.Pytester,
    run_once: Run,
    failed: Failed,
    lines: tuple[str, ...],
    arguments: tuple[str, ...],
    expected: list[str],
) -> None:
    (pytester.path / "api/test_marked.py").write_text(
        "import pytest, shop\n"
        "@pytest.mark.perf_budget(sql_queries=2, sql_rows=1)\n"
        "def test_marked(): shop.list_eagerly()\n"
    )
    levels = "".join(f"\n  {line}" for line in lines)
    pytester.makeini(
        f"[pytest]\nperfguard_budgets = api/*: sql_queries=1\nperfguard_level = {levels}\n"
    )

    result = run_once(*arguments)

    assert failed(result) == expected


def test_a_breach_that_only_warns_is_told_with_its_numbers(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    pytester.makepyfile(
        test_warned="""
        import pytest, shop

        @pytest.mark.perf_budget(sql_queries=1, sql_rows=1000)
        def test_warned():
            shop.list_eagerly()
        """
    )

    result = run_once("--perfguard-level=warn")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "warning: test_warned.py::test_warned: 1 of 2 budgets exceeded in test_warned",
            "  sql_queries  2 > 1   perf_budget, test_warned.py:3  (only warns)",
            "1x SELECT resources",
        ],
        consecutive=True,
    )
    result.stdout.fnmatch_lines(
        [
            "timeline: 1x SELECT resources · 1x SELECT users",
            "1 test measured, 2 statements on 1 engine, 2 budgets judged: 1 ok, 1 over budget",
        ],
        consecutive=True,
    )


def test_a_breach_that_only_warns_is_told_with_its_cause(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makepyfile(
        test_warned="""
        import pytest, shop

        @pytest.mark.perf_budget(sql_queries=2)
        def test_warned():
            shop.list_lazily()
        """
    )

    result = run("--perfguard-level=warn")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "warning: test_warned.py::test_warned: 1 of 1 budget exceeded in test_warned",
            "  sql_queries  21 > 2   perf_budget, test_warned.py:3  (only warns)",
            "20x Resource.owner lazy-loaded one row at a time",
            "    at shop.py:* in list_lazily",
        ],
        consecutive=True,
    )
    result.stdout.fnmatch_lines(
        [
            "    fix: select(Resource).options(selectinload(Resource.owner))*",
            "timeline: 1x SELECT resources · 20x SELECT users",
        ],
        consecutive=True,
    )


def test_a_breach_that_only_warns_stands_in_the_table_of_a_test_that_fails(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    pytester.makepyfile(
        test_both="""
        import pytest, shop

        @pytest.mark.perf_budget(sql_queries=1, sql_rows=9)
        def test_both():
            shop.list_eagerly()
        """
    )

    result = run_once("--perfguard-level=sql_rows: warn")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "perfguard: 2 of 2 budgets exceeded in test_both",
            "  sql_queries   2 > 1   perf_budget, test_both.py:3",
            "  sql_rows     40 > 9   perf_budget, test_both.py:3  (only warns)",
            "rows fetched by 1x SELECT *: 20",
        ],
        consecutive=True,
    )
    assert (
        "    fix: no statement repeats: join what belongs together, or decide without the database"
    ) in result.outlines
    assert _warnings(result) == []


# -- unproven ------------------------------------------------------------------------------

CALM = """
    import pytest, shop

    @pytest.mark.perf_budget(sql_queries=3)
    def test_calm():
        pass

    @pytest.mark.perf_budget(sql_queries=0, sql_n_plus_one=0, sql_rows=0)
    def test_nothing_wanted():
        pass

    @pytest.mark.perf_budget(pool_peak="50%")
    def test_no_pool():
        shop.list_eagerly()
"""


def test_a_budget_that_saw_nothing_fails_unless_nothing_was_allowed(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makepyfile(test_calm=CALM)

    result = run()

    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "perfguard: 1 of 1 budget unproven in test_calm",
            "  sql_queries  unproven (limit 3)   perf_budget, test_calm.py:3",
            "      no SQL was observed in test_calm, so the budget proves nothing",
        ],
        consecutive=True,
    )
    result.stdout.fnmatch_lines("3 tests measured, 2 statements*: 4 ok, 1 unproven")


def test_a_budget_that_saw_nothing_may_be_made_to_warn(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    pytester.makepyfile(test_calm=CALM)

    result = run_once("--perfguard-unproven=warn")

    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        [
            "warning: test_calm.py::test_calm: 1 of 1 budget unproven in test_calm",
            "  sql_queries  unproven (limit 3)   perf_budget, test_calm.py:3  (only warns)",
        ],
        consecutive=True,
    )


def test_a_default_by_path_only_informs_where_it_saw_nothing(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    pytester.makepyfile(
        test_mixed="import shop\ndef test_calm(): pass\ndef test_sql(): shop.get_email(1)"
    )

    result = run_once("--perfguard-budgets=sql_queries=3")

    result.assert_outcomes(passed=2)
    assert _warnings(result) == []
    assert "unproven" not in result.stdout.str()
    result.stdout.fnmatch_lines("2 tests measured*1 budget judged: 1 ok")


def _warnings(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if line.startswith("warning: ")]
