"""Inline waivers: ``# perfguard: ignore[...] reason`` on the user's own line."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]
WriteShop = Callable[[str], int]


@pytest.fixture
def waive(pytester: pytest.Pytester) -> WriteShop:
    """Put a comment on the line of the N+1 and give the number of the line."""

    def write(comment: str) -> int:
        path = pytester.path / "shop.py"
        lines = path.read_text().splitlines()
        number = next(n for n, line in enumerate(lines) if "resource.owner.email" in line)
        lines[number] += f"  {comment}"
        path.write_text("\n".join(lines) + "\n")
        return number + 1

    return write


@pytest.fixture
def guarded(pytester: pytest.Pytester) -> None:
    """Write a test that allows no N+1, and one that stays away from the waived line."""
    pytester.makepyfile(
        test_guarded="""
        import pytest, shop

        @pytest.mark.perf_budget(sql_n_plus_one=0)
        def test_waived():
            shop.list_lazily()

        @pytest.mark.perf_budget(sql_n_plus_one=0)
        def test_other():
            shop.get_email(1)
        """
    )


@pytest.mark.usefixtures("guarded")
def test_a_waiver_with_a_reason_covers_its_line(run: Run, run_once: Run, waive: WriteShop) -> None:
    line = waive("# perfguard: ignore[sql_n_plus_one] the list is short by contract")

    result = run("--perfguard")

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines("1 candidate N+1 waived by a comment")
    assert "warning:" not in result.stdout.str()
    # What it does not name is judged as ever, and the waiver is told.
    over = run_once("--perfguard-budgets=sql_queries=3")
    over.assert_outcomes(passed=1, failed=1)
    expected = (
        f"waived: sql_n_plus_one at shop.py:{line} in list_lazily: the list is short by contract"
    )
    assert expected in over.outlines


@pytest.mark.usefixtures("guarded")
def test_a_waiver_on_the_line_above_and_between_lines_of_an_expression_covers_it(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    path = pytester.path / "shop.py"
    text = path.read_text()
    waiver = "# perfguard: ignore[sql_duplicates, sql_n_plus_one] - short"
    statement = "        return [(resource.name, resource.owner.email) for resource in resources]\n"
    path.write_text(text.replace(statement, f"        {waiver}\n{statement}", 1))
    run_once().assert_outcomes(passed=2)

    split = statement.replace("resource.owner.email", f"resource.owner  {waiver}\n.email")
    path.write_text(text.replace(statement, split, 1))
    run_once("-p", "no:cacheprovider").assert_outcomes(passed=2)


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize(
    ("comment", "problem"),
    [
        ("# perfguard: ignore[sql_n_plus_one]", "the waiver gives no reason"),
        ("# perfguard: ignore[sql_n_plus_one]  - ", "the waiver gives no reason"),
        ("# perfguard: ignore[] because", "the waiver names no metric"),
        ("# perfguard: ignore because", "this is not a waiver"),
        ("# perfguard: noqa", "this is not a waiver"),
        (
            "# perfguard: ignore[sql_n_plus_on] because",
            (
                "sql_n_plus_on cannot be waived on a line; sql_n_plus_one, sql_duplicates, "
                "cache_n_plus_one and task_n_plus_one can"
            ),
        ),
        (
            "# perfguard: ignore[sql_time] because",
            (
                "sql_time cannot be waived on a line; sql_n_plus_one, sql_duplicates, "
                "cache_n_plus_one and task_n_plus_one can"
            ),
        ),
    ],
)
def test_a_waiver_that_cannot_be_honoured_fails_the_tests_that_pass_its_line(
    run_once: Run, waive: WriteShop, comment: str, problem: str
) -> None:
    line = waive(comment)

    result = run_once()

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "perfguard: 1 of 1 budget exceeded, 1 mistake in test_waived",
            f"  shop.py:{line}: *",
            "  sql_n_plus_one  1 > 0 *",
            "*20x Resource.owner lazy-loaded one row at a time",
        ]
    )
    assert f"  shop.py:{line}: {problem}" in result.stdout.str()
    # What failed a test is told there, and not once more at the end.
    assert "warning:" not in result.stdout.str()


@pytest.mark.usefixtures("guarded")
def test_a_broken_waiver_fails_a_test_that_keeps_its_budgets(
    run_once: Run, waive: WriteShop
) -> None:
    waive("# perfguard: ignore[sql_n_plus_one]")

    result = run_once("--perfguard-n-plus-one=50")

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines("perfguard: 1 mistake in test_waived")


@pytest.mark.usefixtures("guarded")
def test_a_waiver_that_covers_nothing_any_more_is_told_on_a_whole_run(
    pytester: pytest.Pytester, run: Run
) -> None:
    path = pytester.path / "shop.py"
    path.write_text(
        path.read_text()
        + "\n\ndef unused():\n"
        + "    return get_email(1)  # perfguard: ignore[sql_n_plus_one, sql_duplicates] once true\n"
    )
    line = len(path.read_text().splitlines())

    result = run("--perfguard-n-plus-one=50")

    result.assert_outcomes(passed=2)
    assert _stale(result) == [
        f"warning: waiver for sql_duplicates at shop.py:{line} covers nothing any more: remove it",
        f"warning: waiver for sql_n_plus_one at shop.py:{line} covers nothing any more: remove it",
    ]
    assert _stale(run("-k", "test_other")) == []


@pytest.mark.usefixtures("guarded")
def test_a_stale_waiver_on_a_line_that_was_run_is_told_on_any_run(
    run_once: Run, waive: WriteShop
) -> None:
    line = waive("# perfguard: ignore[sql_n_plus_one] fixed by now")

    result = run_once("-k", "test_waived", "--perfguard-n-plus-one=50")

    result.assert_outcomes(passed=1, deselected=1)
    assert _stale(result) == [
        f"warning: waiver for sql_n_plus_one at shop.py:{line} covers nothing any more: remove it"
    ]


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize(
    "text",
    [
        'NOTE = "# perfguard: ignore[sql_n_plus_one]"',
        "# about perfguard: it guards",
        '"""\n# perfguard: ignore[] of a docstring\n"""',
        "x = 1  # perfguard measures this",
    ],
)
def test_text_that_is_no_waiver_is_left_alone(
    pytester: pytest.Pytester, run_once: Run, text: str
) -> None:
    path = pytester.path / "shop.py"
    path.write_text(f"{path.read_text()}\n{text}\n")

    result = run_once("--perfguard-n-plus-one=50")

    result.assert_outcomes(passed=2)
    assert "warning:" not in result.stdout.str()


def _stale(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if "covers nothing any more" in line]
