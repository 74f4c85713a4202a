from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest

from pytest_perfguard.history import Series, StoredRun
from pytest_perfguard.history_rows import environment_key
from pytest_perfguard.metrics import METRICS
from pytest_perfguard.trends import DRAWN, JUDGED, drawable, judge, told

PYTHON = "CPython 3.12 Linux x86_64"


def runs(number: int, *, environment: str = PYTHON, first: int = 1) -> list[StoredRun]:
    return [
        StoredRun(i, f"2026-01-{i:02}T00:00:00+00:00", f"{i:040x}", "main", False, environment, 9)
        for i in range(first, first + number)
    ]


def series(
    values: Sequence[float], metric: str = "sql_queries", nodeid: str = "t::a", **fields: int
) -> Series:
    return Series(nodeid, "sqlite", metric, dict(enumerate(values, start=1)), **fields)


def noisy(number: int, *, step: float = 1.0, at: int = 0, seed: int = 1) -> list[float]:
    rng = random.Random(seed)  # noqa: S311 - simulation
    values = (0.01 * math.exp(rng.gauss(0, 0.05)) for _ in range(number))
    return [value * (step if i >= at else 1) for i, value in enumerate(values)]


def test_metrics_that_say_the_same_with_more_noise_are_not_judged() -> None:
    assert {"sql_queries", "http_median", "http_cpu", "response_bytes"} <= set(JUDGED)
    assert not {"http_p95", "time_stddev", "cpu_time", "cache_hits"} & set(JUDGED)


def test_counts_are_judged_wherever_they_come_from() -> None:
    known = [*runs(6), *runs(6, environment="PyPy", first=7)]
    checked = judge(known, [series([3] * 6 + [4] * 6)])
    assert [str(one) for one in checked.worse] == [
        "sql_queries 3 -> 4 since 000000000 (2026-01-07): t::a on sqlite"
    ]
    assert (checked.branch, checked.judged, checked.short) == ("main", 1, 0)


def test_times_are_judged_in_the_newest_environment_alone() -> None:
    here, values = runs(15, first=16), noisy(30, step=1.5, at=15)
    there = runs(15, environment="PyPy")
    checked = judge([*there, *here], [series(values, "http_median")])
    assert (checked.worse, checked.judged, checked.short) == ((), 0, 1)
    (found,) = judge([*runs(15), *here], [series(values, "http_median")]).worse
    assert found.since.id == pytest.approx(16, abs=1)
    assert str(found).startswith("http_median ")


def test_a_count_that_varies_is_judged_as_what_varies() -> None:
    rng = random.Random(1)  # noqa: S311 - simulation
    flaky = [float(rng.randint(10, 14)) for _ in range(25)]
    checked = judge(runs(50), [series(flaky + [v + 10 for v in flaky])])
    assert [one.found.rises for one in checked.worse] == [0]
    assert judge(runs(25), [series(flaky)]).worse == ()


def test_a_test_that_is_gone_is_not_told_of() -> None:
    values = [3.0] * 6 + [4.0] * 6
    assert judge(runs(12), [series(values)]).worse
    assert not judge(runs(30), [series(values)]).worse


def test_what_was_accepted_is_judged_from_then_on() -> None:
    values = [3.0] * 6 + [4.0] * 6
    assert not judge(runs(12), [series(values, accepted=7)]).worse
    assert judge(runs(15), [series([*values, 5, 5, 5], accepted=7)]).worse


def test_what_all_tests_have_in_common_is_told_once() -> None:
    slower = [
        series(noisy(40, step=1.4, at=20, seed=n), "http_median", f"t::{n}") for n in range(20)
    ]
    checked = judge(runs(40), slower)
    assert checked.worse == ()
    (line,) = told(checked, top=5)
    assert line.startswith("all times together are 4")
    assert line.endswith(": the machine, or what all tests share")
    slower.append(
        series(
            [v * 1.5 if i > 25 else v for i, v in enumerate(noisy(40, step=1.4, at=20))],
            "http_median",
            "t::own",
        )
    )
    assert [one.series.nodeid for one in judge(runs(40), slower).worse] == ["t::own"]


def test_only_so_many_are_told_of() -> None:
    many = [series([3.0] * 6 + [4.0] * 6, nodeid=f"t::{n}") for n in range(9)]
    lines = told(judge(runs(12), many), top=3)
    assert len(lines) == 4
    assert lines[-1] == "warning: ... and 6 more (perfguard history --check)"


def test_trends_are_plain_data() -> None:
    known = runs(DRAWN + 5)
    values = [3.0] * DRAWN + [4.0] * 5
    short = Series("t::b", "no database", "http_cpu", {1: 0.1, DRAWN + 2: 0.0123456})
    found = [series(values), short, series([1.0], nodeid="t::other")]
    data = drawable(judge(known, found), found, {"t::a", "t::b"}, DRAWN)
    assert len(data["runs"]) == DRAWN
    assert data["runs"][-1] == {
        "id": DRAWN + 5,
        "started": "2026-01-35T00:00:00+00:00",
        "commit": f"{DRAWN + 5:040x}",
        "branch": "main",
        "environment": PYTHON,
    }
    first, second = data["series"]
    assert first["values"] == [3] * (DRAWN - 5) + [4] * 5
    assert (first["unit"], first["median"]) == ("count", 3)
    assert first["change"] == {
        "kind": "step",
        "at": DRAWN - 5,
        "before": 3,
        "after": 4,
        "text": "sql_queries 3 -> 4 since 000000000 (2026-01-31): t::a on sqlite",
    }
    assert second["values"][DRAWN - 4] == 0.01235
    assert second["values"].count(None) == DRAWN - 1
    assert second["change"] is None


def test_there_may_be_no_run() -> None:
    assert judge([], []).worse == ()
    assert drawable(judge([], []), [], set(), DRAWN)["series"] == []


def test_the_environment_of_times_is_told_in_words() -> None:
    known = {"python": "3.12.1", "implementation": "CPython", "system": "Linux", "machine": "arm64"}
    assert environment_key({**known, "sqlalchemy": "2.1"}) == "CPython 3.12 Linux arm64"
    assert environment_key({}) == ""


def test_every_judged_metric_is_in_the_table() -> None:
    assert set(JUDGED) < set(METRICS)
