from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest

from pytest_perfguard.model import Level, Status, Verdict
from pytest_perfguard.waive_marks import MarkedWaiver, apply, expired, read_waiver

_TODAY = date(2027, 3, 1)
_WHERE = "test_x.py:7"


def _read(*names: Any, **given: Any) -> tuple[list[MarkedWaiver], list[str]]:
    mistakes: list[str] = []
    return read_waiver(names, given, _WHERE, mistakes), mistakes


def _waiver(metric: str = "sql_queries", **fields: Any) -> MarkedWaiver:
    return MarkedWaiver(
        **{
            "metric": metric,
            "reason": "waits for the mailer",
            "until": _TODAY,
            "cap": None,
            "url": "",
            "where": _WHERE,
            **fields,
        }
    )


def _over(value: float | None = 51, **fields: Any) -> Verdict:
    return Verdict(
        **{
            "metric": "sql_queries",
            "span": "test_it",
            "value": value,
            "limit": 3,
            "status": Status.OVER,
            "level": Level.FAIL,
            "where": "perf_budget, test_x.py:6",
            **fields,
        }
    )


def test_a_mark_gives_a_waiver_for_each_metric() -> None:
    found, mistakes = _read(
        "sql_queries", "sql_rows", reason=" slow mailer ", until="2027-03-01", cap=60, url="t/7"
    )
    assert not mistakes
    assert found == [
        MarkedWaiver(name, "slow mailer", _TODAY, 60, "t/7", _WHERE)
        for name in ("sql_queries", "sql_rows")
    ]
    assert str(found[0]) == "until 2027-03-01: slow mailer (t/7)"
    assert found[0].key == "test_x.py:7 sql_queries"


def test_a_cap_is_in_the_unit_of_its_metric() -> None:
    found, _ = _read("cache_bytes", reason="r", until="2027-03-01", cap="2KiB")
    assert found[0].cap == 2048
    assert str(found[0]) == "until 2027-03-01: r"


@pytest.mark.parametrize(
    "until",
    [_TODAY, "2027-03-01", datetime(2027, 3, 1, 12, tzinfo=UTC)],
    ids=["date", "text", "datetime"],
)
def test_the_end_may_be_a_date(until: object) -> None:
    found, mistakes = _read("sql_queries", reason="r", until=until)
    assert not mistakes
    verdicts, _ = apply([_over()], found, _TODAY)
    assert verdicts[0].waiver == "until 2027-03-01: r"


@pytest.mark.parametrize(
    ("names", "given", "mistake"),
    [
        (("sql_queries",), {"until": "2027-03-01"}, "has no reason: write perf_waive("),
        (("sql_queries",), {"reason": "r"}, "has no until: write perf_waive("),
        (("sql_queries",), {"reason": " ", "until": _TODAY}, "reason=' ' says nothing"),
        (("sql_queries",), {"reason": 7, "until": _TODAY}, "reason=7 says nothing"),
        (("sql_queries",), {"reason": "r", "until": "soon"}, "until='soon' is no date: write"),
        (("sql_queries",), {"reason": "r", "until": "2027-02-30"}, "is no date"),
        (("sql_queries",), {"reason": "r", "until": 2027}, "until=2027 is no date"),
        (("sql_queries",), {"reason": "r", "until": None}, "until=None is no date"),
        ((), {"reason": "r", "until": _TODAY}, "names no metric"),
        ((60,), {"reason": "r", "until": _TODAY}, "names no metric"),
        (("sql_querys",), {"reason": "r", "until": _TODAY}, "sql_querys"),
        (("sql_queries",), {"reason": "r", "until": _TODAY, "cap": "many"}, "cap: "),
        (("sql_queries",), {"reason": "r", "until": _TODAY, "cap": -1}, "cap: "),
        (("sql_queries",), {"reason": "r", "until": _TODAY, "cap": float("nan")}, "cap: "),
        (("sql_queries",), {"reason": "r", "until": _TODAY, "cap": True}, "cap: "),
        (("sql_queries",), {"reason": "r", "until": _TODAY, "url": 7}, "url=7 is no text"),
        (
            ("sql_queries",),
            {"reason": "r", "until": _TODAY, "untill": 7},
            "takes reason, until, cap, url, not untill",
        ),
    ],
)
def test_a_mark_that_cannot_be_read_waives_nothing(
    names: tuple[object, ...], given: dict[str, Any], mistake: str
) -> None:
    found, mistakes = _read(*names, **given)
    assert not found
    assert any(mistake in line for line in mistakes), mistakes
    assert all(line.startswith("perf_waive, test_x.py:7: ") for line in mistakes)


def test_every_mistake_is_told_once() -> None:
    _, mistakes = _read("sql_queries", "sql_rows", cap="x" * 3)
    assert len(mistakes) == len(set(mistakes)) >= 3


@pytest.mark.parametrize("status", [Status.OVER, Status.REGRESSED])
def test_a_breach_is_tolerated_and_is_none_then(status: Status) -> None:
    waiver = _waiver(cap=51)
    verdicts, met = apply([_over(status=status)], [waiver], _TODAY)
    assert verdicts[0].waiver == "until 2027-03-01: waits for the mailer"
    assert not verdicts[0].breached
    assert met == {waiver}


@pytest.mark.parametrize(
    ("waiver", "today", "reason"),
    [
        (
            _waiver(cap=50),
            _TODAY,
            "the waiver at test_x.py:7 covers no more than 50: waits for the mailer",
        ),
        (
            _waiver(),
            date(2027, 3, 2),
            "the waiver at test_x.py:7 ended on 2027-03-01: waits for the mailer",
        ),
    ],
)
def test_above_its_cap_and_after_its_end_a_waiver_covers_nothing(
    waiver: MarkedWaiver, today: date, reason: str
) -> None:
    verdicts, met = apply([_over()], [waiver], today)
    assert verdicts[0].breached
    assert verdicts[0].reason == reason
    assert met == {waiver}


def test_a_cap_of_a_ratio_is_a_floor() -> None:
    low = _over(0.4, metric="cache_hit_ratio", limit=0.9)
    waiver = _waiver("cache_hit_ratio", cap=0.5)
    assert apply([low], [waiver], _TODAY)[0][0].breached
    assert not apply([_over(0.6, metric="cache_hit_ratio")], [waiver], _TODAY)[0][0].breached


@pytest.mark.parametrize("status", [Status.OK, Status.UNPROVEN, Status.IMPROVED, Status.CHANGED])
def test_what_is_no_excess_needs_no_waiver(status: Status) -> None:
    verdicts, met = apply([_over(status=status)], [_waiver()], _TODAY)
    assert not verdicts[0].waiver
    assert not met


def test_another_metric_is_not_covered() -> None:
    verdicts, met = apply([_over(metric="sql_rows")], [_waiver()], _TODAY)
    assert verdicts[0].breached
    assert not met


def test_what_has_ended_is_told_whether_anything_needs_it_or_not() -> None:
    assert not expired([_waiver()], _TODAY)
    assert expired([_waiver()], date(2027, 3, 2)) == [
        "test_x.py:7: perf_waive for sql_queries ended on 2027-03-01: remove it, or renew it"
    ]
