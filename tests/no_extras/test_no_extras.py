"""What the plugin does where SQLAlchemy is not installed."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

pytestmark = pytest.mark.skipif(
    find_spec("sqlalchemy") is not None, reason="SQLAlchemy is installed here"
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
