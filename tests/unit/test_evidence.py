"""What is said of a timing that takes too long."""

from __future__ import annotations

import pytest

from pytest_perfguard.model import Tally
from pytest_perfguard.reports.evidence import evidence
from tests.unit import build


@pytest.mark.parametrize(
    ("metrics", "statistics", "advice"),
    [
        (["http_p95"], {"median": 0.002, "p95": 0.253}, "most rounds are far from that: look for"),
        (["http_max", "http_p99"], {"p99": 0.3, "max": 1.0}, "most rounds are far from that: look"),
        (["http_p95", "http_median"], {"p95": 0.253}, "it computes for most of that time: profile"),
        (["http_p95"], {"median": 0.2, "p95": 0.3}, "it waits for most of that time: look for"),
        (
            ["http_median"],
            {"median": 0.2, "cpu": 0.19},
            "it computes for most of that time: profil",
        ),
        (["time_mean"], {"median": 0.2, "mean": 0.2}, "it waits for most of that time: look for"),
        # pytest-benchmark takes no CPU times.
        (["time_median"], {"median": 0.2, "cpu": None}, "profile it (--perfguard-profile"),
    ],
)
def test_the_advice_depends_on_where_the_time_goes(
    metrics: list[str], statistics: dict[str, float | None], advice: str
) -> None:
    request = build.tally("GET /", probe="http", kind="request", label="GET /")
    known = {"median": 0.002, "cpu": 0.0015, **statistics}
    timing = {
        "rounds": 100,
        "repeated": 2,
        "concurrency": 1,
        "cold_wall": 0.5,
        "statistics": {name: value for name, value in known.items() if value is not None},
    }
    lines = evidence(build.span(request, name="GET /", kind="request", timing=timing), metrics)
    assert lines[0].startswith("GET /: 100 rounds, measured 3 times, the smallest of each: median ")
    assert lines[1:3] == [
        "    at app/crud.py:7 in rows",
        "    first, cold round: 500 ms, with the probes on",
    ]
    assert lines[3].startswith(f"    fix: {advice}")


def test_other_limits_of_a_timed_call_say_nothing_of_its_time() -> None:
    timing = {"rounds": 1, "repeated": 0, "concurrency": 1, "cold_wall": 1, "statistics": {}}
    assert evidence(build.span(timing=timing), ["http_requests", "response_bytes"]) == []


def test_an_index_that_begins_as_another_one_is_that_one() -> None:
    def scanning(operation: str, columns: str) -> Tally:
        index = f'op.create_index("ix", "t", [{columns}])'
        return build.tally(operation, sums={"full_scans": 1}, facts={"index": index})

    short = scanning("SELECT a FROM t", '"a"')
    others = [
        scanning("SELECT b FROM t", '"a", "b"'),
        scanning("SELECT c FROM t", '"ab"'),
        scanning("SELECT d FROM t", '"b", "a"'),
    ]
    lines = evidence(build.span(short, *others), ["sql_full_scans"])
    assert [line.partition("[")[2] for line in lines if "fix" in line] == [
        '"a", "b"])', '"a", "b"])', '"ab"])', '"b", "a"])',
    ]  # fmt: skip
