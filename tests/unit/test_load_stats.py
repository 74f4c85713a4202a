from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_perfguard.errors import LoadError
from pytest_perfguard.load_stats import (
    EndpointLoad,
    Note,
    Notes,
    endpoint_name,
    imbalance,
    read_stats,
    recovery,
    total,
)


def entry(name: str = "/items/1", method: str | None = "GET", **fields: Any) -> dict[str, Any]:
    """Return an entry as Locust 2.47 writes it."""
    return {
        "name": name,
        "method": method,
        "last_request_timestamp": 1004.0,
        "start_time": 1000.5,
        "num_requests": 4,
        "num_none_requests": 0,
        "num_failures": 0,
        "total_response_time": 160.0,
        "max_response_time": 120.2,
        "min_response_time": 9.5,
        "total_content_length": 28,
        "response_times": {"10": 3, "120": 1},
        "num_reqs_per_sec": {"1000": 4},
        "num_fail_per_sec": {},
        **fields,
    }


def load(times: dict[float, int]) -> EndpointLoad:
    return EndpointLoad("GET /", sum(times.values()), 0, 1.0, times)


def notes(**instances: tuple[float, float]) -> Notes:
    found = {name: Note(1, first, last) for name, (first, last) in instances.items()}
    return Notes(instances=found)


def test_an_endpoint_is_read() -> None:
    (found,) = read_stats(json.dumps([entry(num_failures=1)]), started=1000.0)
    assert found == EndpointLoad("GET /items/{id}", 4, 1, 1.0, {0.01: 3, 0.12: 1})


def test_urls_that_differ_by_an_id_are_one_endpoint_and_the_busiest_comes_first() -> None:
    entries = [entry("/"), entry("/items/1"), entry("/items/2?page=3", num_failures=2)]
    found = read_stats(json.dumps(entries))
    assert [(e.name, e.requests, e.failures) for e in found] == [
        ("GET /items/{id}", 8, 2),
        ("GET /", 4, 0),
    ]
    assert found[0].times == {0.01: 6, 0.12: 2}


def test_without_a_start_the_load_began_when_the_first_request_had_ended() -> None:
    (found,) = read_stats(json.dumps([entry()]))
    assert found.rps == 4 / 3.5


def test_what_has_no_request_is_none() -> None:
    assert read_stats("[]") == ()
    assert read_stats(json.dumps([entry(num_requests=0)])) == ()
    assert total(()).requests == 0


@pytest.mark.parametrize("text", ["", "{", "{}", "[1]", '[{"name": "/"}]', "null"])
def test_what_locust_does_not_write_is_refused(text: str) -> None:
    if text == "{}":
        assert read_stats(text) == ()  # no entry at all
        return
    with pytest.raises(LoadError, match="the JSON that Locust has written cannot be read"):
        read_stats(text)


@pytest.mark.parametrize(
    ("method", "name", "expected"),
    [
        ("GET", "/a/17/b?token=secret", "GET /a/{id}/b"),
        ("GET", "a page of 20", "GET a page of 20"),
        ("", "a task of one's own", "a task of one's own"),
    ],
)
def test_endpoints_are_called_as_those_of_test_clients(
    method: str, name: str, expected: str
) -> None:
    assert endpoint_name(method, name) == expected


@pytest.mark.parametrize(
    ("times", "p95", "p99"),
    [
        ({0.01: 19}, None, None),
        ({0.01: 19, 0.2: 1}, 0.01, None),
        ({0.01: 18, 0.2: 2}, 0.2, None),
        ({0.01: 99, 0.2: 1}, 0.01, 0.01),
        ({0.01: 98, 0.2: 2}, 0.01, 0.2),
        ({0.2: 50, 0.1: 50}, 0.2, 0.2),
    ],
)
def test_percentiles_are_nearest_ranks_of_enough_requests(
    times: dict[float, int], p95: float | None, p99: float | None
) -> None:
    assert (load(times).p95, load(times).p99) == (p95, p99)


def test_all_requests_together() -> None:
    whole = total([load({0.01: 15}), load({0.01: 4, 0.3: 1})])
    assert (whole.requests, whole.rps, whole.p95) == (20, 2.0, 0.01)


def test_notes_of_all_processes_are_added_up() -> None:
    def text(count: int, first: float, last: float, said: str, started: list[float]) -> str:
        note = {"count": count, "first": first, "last": last}
        return json.dumps(
            {
                "started": started,
                "failures": {"GET /items/1": {**note, "text": said}},
                "errors": {"KeyError: 'id'": {**note, "place": f"{said}.py:1"}},
                "instances": {"71": note},
            }
        )

    found = Notes.read([text(2, 5, 6, "late", [4.0]), text(1, 3, 4, "early", [2.0])])
    assert found.started == 2.0
    assert found.failures == {"GET /items/{id}": Note(3, 3, 6, "early")}
    assert found.errors == {"KeyError: 'id'": Note(3, 3, 6, "", "early.py:1")}
    assert found.instances == {"71": Note(3, 3, 6)}
    assert found.first_failure() == ("GET /items/{id}", Note(3, 3, 6, "early"))
    assert Notes.read([]) == Notes()
    assert Notes().first_failure() is None


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([], None), ([9], None), ([50, 50], 0), ([60, 40], 0.2), ([30, 30, 90], 0.8), ([9, 0], 1)],
)
def test_the_imbalance_is_what_the_busiest_has_above_its_share(
    counts: list[int], expected: float | None
) -> None:
    assert imbalance(counts) == (None if expected is None else pytest.approx(expected))


def test_a_service_is_whole_again_when_the_last_request_has_failed() -> None:
    failed = Notes(failures={"GET /": Note(3, 9.0, 12.5), "GET /a": Note(1, 2.0, 2.0)})
    assert recovery(10.0, failed, with_instances=False) == (
        2.5,
        "requests failed until 2.5 s after it",
    )
    assert recovery(13.0, failed, with_instances=False) == (0, "none failed")


def test_a_service_is_whole_again_when_as_many_answer_as_before() -> None:
    seconds, text = recovery(
        10.0, notes(a=(1.0, 10.1), b=(1.0, 20.0), c=(14.0, 20.0)), with_instances=True
    )
    assert seconds == 4.0
    assert text == "none failed; 1 instance went, the new one answered 4.0 s after it"


def test_a_service_is_not_whole_where_nobody_took_a_place() -> None:
    seconds, text = recovery(10.0, notes(a=(1.0, 10.1), b=(1.0, 20.0)), with_instances=True)
    assert seconds is None
    assert text.startswith("2 instances answered before it, and no new one after it")


def test_a_service_is_not_whole_where_fewer_came_than_went() -> None:
    seconds, text = recovery(
        10.0, notes(a=(1.0, 10.1), b=(1.0, 10.2), c=(14.0, 20.0)), with_instances=True
    )
    assert (seconds, text) == (None, "2 instances went, and only 1 took their places")
