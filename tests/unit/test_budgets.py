from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from pytest_perfguard.budgets import Budget, Rules, judge, matches, read_limits
from pytest_perfguard.errors import SettingError
from pytest_perfguard.metrics import METRICS, Metric
from pytest_perfguard.model import Level, Rule, Span, Status, Verdict
from pytest_perfguard.units import Unit
from tests.unit.build import span, tally

_HERE = "perf_budget, tests/test_api.py:9"
_HIT_RATIO = Metric(
    "cache_hit_ratio",
    Unit.SHARE,
    "cache",
    lambda whole: whole.peaks.get("hit_ratio"),
    "Share of reads that the cache served.",
    higher_is_better=True,
    tallied=False,
)


# -- reading ------------------------------------------------------------------------------------


def test_limits_are_read_in_base_units() -> None:
    mistakes: list[str] = []
    budgets = read_limits({"sql_queries": 3, "sql_slowest": "100ms"}, _HERE, mistakes)
    assert budgets == [
        Budget(METRICS["sql_queries"], 3, _HERE),
        Budget(METRICS["sql_slowest"], 0.1, _HERE),
    ]
    assert mistakes == []


def test_every_mistake_is_told_with_its_place_and_what_is_right_is_kept() -> None:
    mistakes: list[str] = []
    limits = {"sql_querys": 3, "sql_rows": 5, "sql_slowest": 100, "sql_errors": -1}
    budgets = read_limits(limits, _HERE, mistakes)
    assert [budget.metric.name for budget in budgets] == ["sql_rows"]
    assert mistakes == [
        f"{_HERE}: unknown metric 'sql_querys'. Did you mean 'sql_queries'?",
        (
            f"{_HERE}: sql_slowest: 100 has no unit: "
            "write a number with a unit such as '100ms' or '1.5s'"
        ),
        f"{_HERE}: sql_errors: -1 is negative: write a whole number such as 3",
    ]


@pytest.mark.parametrize("limit", ["_1", "1__0", 10**400], ids=["_1", "1__0", "huge"])
def test_a_number_that_python_cannot_hold_is_a_mistake_like_any_other(limit: object) -> None:
    mistakes: list[str] = []
    assert read_limits({"sql_queries": limit}, _HERE, mistakes) == []
    assert len(mistakes) == 1


# -- patterns -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "covers"),
    [
        ("*", True),
        ("tests", True),
        ("tests/", True),
        ("tests/api", True),
        ("tests/api/test_users.py", True),
        ("tests/*", True),
        ("*/test_users.py", True),
        ("tests/*/test_users.py", True),
        ("*test_list*", True),
        ("tests/api/test_users.py::test_list", True),
        ("*::test_list", True),
        ("test", False),
        ("api", False),
        ("tests/ap", False),
        ("tests/api/test_users", False),
        ("*::test_lis", False),
        ("Tests/*", False),
    ],
)
def test_a_pattern_is_compared_with_the_node_id_and_its_path(pattern: str, covers: bool) -> None:
    assert matches(pattern, "tests/api/test_users.py::test_list") is covers


@pytest.mark.parametrize("nodeid", ["test_a.py::test_b[1]", "test_a.py::TestC::test_b[x-[y]]"])
def test_a_node_id_that_is_copied_covers_its_own_test(nodeid: str) -> None:
    assert matches(nodeid, nodeid)


# -- the suite's defaults -----------------------------------------------------------------------


def _limits(rules: Rules, nodeid: str) -> dict[str, float]:
    return {name: budget.limit for name, budget in rules.defaults(nodeid).items()}


def test_later_lines_win_metric_by_metric() -> None:
    rules = Rules.read(
        [
            "sql_queries=50, sql_n_plus_one=0",
            "tests/api: sql_queries = 10, sql_slowest = '100ms',",
            "tests/api/test_b.py::test_c: sql_queries=1",
        ],
        [],
    )
    assert _limits(rules, "tests/x.py::test_a") == {"sql_queries": 50, "sql_n_plus_one": 0}
    api = {"sql_queries": 10, "sql_n_plus_one": 0, "sql_slowest": 0.1}
    assert _limits(rules, "tests/api/test_b.py::test_a") == api
    assert _limits(rules, "tests/api/test_b.py::test_c") == api | {"sql_queries": 1}
    assert [rule.tests for rule in rules.budgets] == [3, 2, 1]


def test_a_default_says_which_line_it_comes_from() -> None:
    line = "tests/*: sql_queries=3"
    budget = Rules.read([line], []).defaults("tests/test_a.py::test_b")["sql_queries"]
    assert budget.rule == line
    assert budget.where == f"perfguard_budgets, {line!r}"


@pytest.mark.parametrize(
    ("line", "mistake"),
    [
        ("tests/*", "write 'PATTERN: METRIC=LIMIT, METRIC=LIMIT'"),
        ("tests/*:", "write 'PATTERN: METRIC=LIMIT, METRIC=LIMIT'"),
        ("tests/*: =3", "write 'PATTERN: METRIC=LIMIT, METRIC=LIMIT'"),
        ("", "write 'PATTERN: METRIC=LIMIT, METRIC=LIMIT'"),
        ("tests/*: sql_queries=3, sql_rows", "'sql_rows' has no limit: write METRIC=LIMIT"),
        ("sql_queries=", "sql_queries: '' cannot be read: write a whole number such as 3"),
        (
            "sql_queries=3ms",
            "sql_queries: 'ms' in '3ms' is not a unit of count: write a whole number such as 3",
        ),
        ("sql_querys=3", "unknown metric 'sql_querys'. Did you mean 'sql_queries'?"),
    ],
)
def test_a_budget_line_that_cannot_be_read_is_refused(line: str, mistake: str) -> None:
    with pytest.raises(SettingError) as caught:
        Rules.read([line], [])
    assert str(caught.value) == f"perfguard_budgets, {line!r}: {mistake}"


@pytest.mark.parametrize(
    ("line", "levels"),
    [
        ("warn", {"sql_queries": "warn", "sql_rows": "warn"}),
        ("fail", {"sql_queries": "fail", "sql_rows": "fail"}),
        ("sql_rows: warn", {"sql_queries": "fail", "sql_rows": "warn"}),
        (" sql_rows :warn ", {"sql_queries": "fail", "sql_rows": "warn"}),
        ("tests/*: warn", {"sql_queries": "warn", "sql_rows": "warn"}),
        ("tests/a.py::test_b: warn", {"sql_queries": "warn", "sql_rows": "warn"}),
        ("tests/* sql_rows: warn", {"sql_queries": "fail", "sql_rows": "warn"}),
        ("other/*: warn", {"sql_queries": "fail", "sql_rows": "fail"}),
        ("other/* sql_rows: warn", {"sql_queries": "fail", "sql_rows": "fail"}),
    ],
)
def test_a_level_is_set_for_a_metric_for_a_pattern_for_both_or_for_all(
    line: str, levels: dict[str, str]
) -> None:
    rules = Rules.read([], [line])
    assert {name: rules.level("tests/a.py::test_b", name) for name in levels} == levels


@pytest.mark.parametrize(
    ("line", "levels"),
    [
        ("budgets: warn", ["warn", "fail", "warn"]),
        ("baselines: warn", ["fail", "warn", "fail"]),
        ("tests/ budgets: warn", ["warn", "fail", "warn"]),
        ("other/ budgets: warn", ["fail", "fail", "fail"]),
        ("budgets sql_rows: warn", ["fail", "fail", "warn"]),
        ("tests/ baselines sql_queries: warn", ["fail", "warn", "fail"]),
        # A directory of that name is written as one.
        ("budgets/: warn", ["fail", "fail", "fail"]),
    ],
)
def test_budgets_and_baselines_may_have_levels_of_their_own(line: str, levels: list[str]) -> None:
    rules = Rules.read([], [line])
    assert levels == [
        rules.level("tests/a.py::test_b", metric, judged_by=rule)
        for metric, rule in (
            ("sql_queries", Rule.BUDGET),
            ("sql_queries", Rule.BASELINE),
            ("sql_rows", Rule.BUDGET),
        )
    ]


def test_the_last_level_that_applies_wins() -> None:
    rules = Rules.read([], ["warn", "tests/*: fail", "sql_rows: warn"])
    assert rules.level("tests/a.py::test_b", "sql_rows") is Level.WARN
    assert rules.level("tests/a.py::test_b", "sql_queries") is Level.FAIL
    assert rules.level("other/a.py::test_b", "sql_queries") is Level.WARN


@pytest.mark.parametrize(
    ("line", "mistake"),
    [
        ("sql_queries: loud", "'loud' is not a level: write 'PATTERN METRIC: fail' or 'warn'"),
        ("sql_queries", "'sql_queries' is not a level: write 'PATTERN METRIC: fail' or 'warn'"),
        ("", "'' is not a level: write 'PATTERN METRIC: fail' or 'warn'"),
        ("a/* b/*: warn", "write 'PATTERN METRIC: LEVEL'"),
        (
            "sql_querys: warn",
            (
                "unknown metric 'sql_querys'. Did you mean 'sql_queries'? "
                "A directory is written 'sql_querys/'."
            ),
        ),
    ],
)
def test_a_level_line_that_cannot_be_read_is_refused(line: str, mistake: str) -> None:
    with pytest.raises(SettingError) as caught:
        Rules.read([], [line])
    assert str(caught.value) == f"perfguard_level, {line!r}: {mistake}"


def test_the_mistakes_of_all_lines_are_told_at_once() -> None:
    with pytest.raises(SettingError) as caught:
        Rules.read(["a", "sql_querys=1, sql_rows=-1", "sql_rows=1"], ["loud"])
    assert len(str(caught.value).splitlines()) == 4


# -- judging ------------------------------------------------------------------------------------


@pytest.fixture
def verdict() -> Callable[..., Verdict]:
    """Judge a span by one budget for statements, changed as asked."""

    def judge_one(
        whole: Span, limit: float, unproven: Level = Level.FAIL, **fields: object
    ) -> Verdict:
        budget = Budget(METRICS["sql_queries"], limit, _HERE)
        (only,) = judge(whole, [replace(budget, **fields)], unproven)  # type: ignore[arg-type]
        return only

    return judge_one


@pytest.mark.parametrize(
    ("limit", "status"),
    [(0, Status.OVER), (2, Status.OVER), (3, Status.OK), (4, Status.OK)],
)
@pytest.mark.parametrize("level", Level)
def test_a_value_above_the_limit_is_over_budget(
    verdict: Callable[..., Verdict], limit: float, status: Status, level: Level
) -> None:
    assert verdict(span(tally(count=3)), limit, level=level) == Verdict(
        "sql_queries", "test_it", 3, limit, status, level, _HERE
    )


def test_a_limit_is_not_shown_to_be_kept_where_nothing_was_observed(
    verdict: Callable[..., Verdict],
) -> None:
    found = verdict(span(), 3)
    assert (found.status, found.level, found.breached) == (Status.UNPROVEN, Level.FAIL, True)
    assert found.reason == "no SQL was observed in test_it, so the budget proves nothing"


def test_a_limit_of_zero_is_kept_where_nothing_was_observed(
    verdict: Callable[..., Verdict],
) -> None:
    found = verdict(span(), 0)
    assert (found.status, found.value, found.breached) == (Status.OK, 0, False)


@pytest.mark.parametrize("limit", [0, 3])
def test_no_limit_is_shown_to_be_kept_where_nobody_listened(
    verdict: Callable[..., Verdict], limit: float
) -> None:
    found = verdict(span(probes=("requests",)), limit)
    assert (found.status, found.level) == (Status.UNPROVEN, Level.FAIL)
    assert found.reason == (
        "sqlalchemy is not installed: install pytest-perfguard with the extra [sql]"
    )


@pytest.mark.parametrize(
    ("unproven", "fields"),
    [
        (Level.WARN, {}),
        (Level.FAIL, {"level": Level.WARN}),
        (Level.FAIL, {"rule": "tests/*: sql_queries=3"}),
    ],
    ids=["by option", "by the budget's level", "by a pattern's default"],
)
def test_an_unproven_budget_only_informs(
    verdict: Callable[..., Verdict], unproven: Level, fields: dict[str, object]
) -> None:
    found = verdict(span(), 3, unproven, **fields)
    assert (found.status, found.level) == (Status.UNPROVEN, Level.WARN)


def test_what_an_unproven_budget_does_is_not_what_a_breach_does(
    verdict: Callable[..., Verdict],
) -> None:
    rule = "tests/*: sql_queries=0"
    found = verdict(span(tally()), 0, Level.WARN, rule=rule)
    assert (found.status, found.level) == (Status.OVER, Level.FAIL)


def test_a_commit_alone_is_over_a_budget_of_none(verdict: Callable[..., Verdict]) -> None:
    committed = span(tally("COMMIT", kind="transaction", count=0, sums={"commits": 1}))
    assert verdict(committed, 0, metric=METRICS["sql_commits"]).status is Status.OVER


def test_a_level_that_nobody_noted_is_unproven_for_the_reason_noted(
    verdict: Callable[..., Verdict],
) -> None:
    pool = METRICS["pool_peak"]
    noted = span(tally(), notes=("NullPool has no limit", "so be it"))
    assert verdict(noted, 0.8, metric=pool).reason == "NullPool has no limit; so be it"
    bare = verdict(span(tally()), 0.8, metric=pool)
    assert (bare.status, bare.value) == (Status.UNPROVEN, None)
    assert bare.reason == "nothing was observed for it in test_it"


def test_a_note_on_a_pool_is_no_reason_for_a_lack_of_statements(
    verdict: Callable[..., Verdict],
) -> None:
    found = verdict(span(notes=("StaticPool has no limit that pool_peak could be a share of",)), 3)
    assert found.reason.startswith("no SQL was observed in test_it")


@pytest.mark.parametrize(
    ("peaks", "limit", "status"),
    [
        ({"hit_ratio": 0.5}, 0.8, Status.OVER),
        ({"hit_ratio": 0.8}, 0.8, Status.OK),
        ({"hit_ratio": 0.9}, 0.8, Status.OK),
        ({"hit_ratio": 0.0}, 0.0, Status.OK),
        ({}, 0.8, Status.UNPROVEN),
        ({}, 0.0, Status.UNPROVEN),
    ],
)
def test_a_budget_is_a_floor_where_higher_is_better(
    verdict: Callable[..., Verdict], peaks: dict[str, float], limit: float, status: Status
) -> None:
    whole = span(peaks=peaks, probes=("cache",))
    assert verdict(whole, limit, metric=_HIT_RATIO).status is status


def test_each_budget_gets_its_verdict_in_order() -> None:
    names = ("sql_rows", "sql_queries", "sql_errors")
    budgets = [Budget(METRICS[name], 1, _HERE) for name in names]
    verdicts = judge(span(tally(count=2)), budgets, Level.FAIL)
    assert [(found.metric, found.status) for found in verdicts] == [
        ("sql_rows", Status.OK),
        ("sql_queries", Status.OVER),
        ("sql_errors", Status.OK),
    ]
