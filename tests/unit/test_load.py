from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pytest_perfguard import locust_process
from pytest_perfguard.budgets import Budget
from pytest_perfguard.errors import LoadError, MissingExtraError
from pytest_perfguard.load import (
    ALL,
    combined,
    keeps,
    levels,
    read_ask,
    refuse_what_proves_nothing,
)
from pytest_perfguard.load_evidence import facts_of, facts_of_all, table
from pytest_perfguard.load_stats import EndpointLoad, Note, Notes, total
from pytest_perfguard.locust_process import Ask, Ran, last_traceback, require_locust, why_it_ended
from pytest_perfguard.metrics import lookup

WHERE = "perf.load, test_it.py:9"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    tmp_path.joinpath("locustfile.py").touch()
    return tmp_path


def ask(root: Path, **fields: Any) -> Ask:
    given = {
        "locustfile": "locustfile.py",
        "host": "http://127.0.0.1:1/",
        "users": 10,
        "spawn_rate": None,
        "run_time": "5s",
        "processes": 1,
        "user": (),
        "instances": None,
    }
    return read_ask(WHERE, root, **{**given, **fields})


def endpoint(name: str = "GET /", failures: int = 0, times: Any = None) -> EndpointLoad:
    times = times or {0.01: 20}
    return EndpointLoad(name, sum(times.values()), failures, 10.0, times)


def ran(*endpoints: EndpointLoad, disturbed: float | None = None, **notes: Any) -> Ran:
    return Ran(endpoints, Notes(**notes), disturbed)


def test_what_is_asked_for(root: Path) -> None:
    found = ask(root, users=20, run_time="1min", user=("APIUser",), instances="X-Instance")
    assert (found.users, found.spawn_rate, found.seconds) == (20, 20, 60)
    assert (found.host, found.locustfile) == ("http://127.0.0.1:1", root / "locustfile.py")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"locustfile": "nothing.py"}, "there is no locustfile "),
        ({"locustfile": int}, "<class 'int'> is no path: pass that of the locustfile"),
        ({"host": "127.0.0.1:8000"}, "host='127.0.0.1:8000' is no address"),
        ({"host": None}, "host=None is no address"),
        ({"users": 0}, "users=0: 1 to 1,000"),
        ({"users": 1_001}, "users=1,001: 1 to 1,000; for more, run Locust by itself"),
        ({"users": "many"}, "users: 'many' cannot be read"),
        ({"processes": 33}, "processes=33: 1 to 32"),
        ({"spawn_rate": 0}, "spawn_rate=0: users a second"),
        ({"spawn_rate": True}, "spawn_rate=True: users a second"),
        ({"run_time": 5}, "run_time: 5 has no unit"),
        ({"run_time": "500ms"}, "run_time='500ms': whole seconds"),
        ({"run_time": "11min"}, "run_time='11min': whole seconds, from '1s' to '10min'"),
        ({"user": ("API User",)}, "user=('API User',): write the name of a User class"),
        ({"instances": ""}, "instances='': write the name of a header"),
    ],
)
def test_what_makes_no_sense_is_refused(root: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(LoadError) as raised:
        ask(root, **fields)
    assert str(raised.value).startswith(f"{WHERE}: {said}")


def test_locust_may_not_be_imported_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "locust", ModuleType("locust"))
    with pytest.raises(LoadError, match="keep imports of it in locustfiles, and its own pytest"):
        require_locust()


def test_a_missing_locust_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "locust", raising=False)
    monkeypatch.setattr(locust_process, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError) as raised:
        require_locust()
    assert str(raised.value) == (
        "locust is not installed: install pytest-perfguard with the extra [load]"
    )


TRACEBACK = """\
Traceback (most recent call last):
  File "/venv/lib/python3.11/site-packages/locust/main.py", line 9, in main
    load()
  File "{root}/locustfile.py", line 3, in APIUser
    wait_time = betwen(1, 2)
                ^^^^^^
  File "{root}/waits.py", line 7, in betwen
    return nothing
NameError: name 'nothing' is not defined
"""


def test_a_broken_locustfile_is_named_with_its_line(root: Path) -> None:
    said = why_it_ended(ask(root), 1, TRACEBACK.format(root=root))
    assert said == (
        "the locustfile is broken: NameError: name 'nothing' is not defined\n"
        "    at locustfile.py:3 in APIUser"
    )


def test_an_error_outside_of_the_locustfile_has_the_nearest_line_that_is_not_installed() -> None:
    output = TRACEBACK.replace("{root}/locustfile.py", "/app/other.py").format(root="/app")
    assert last_traceback(output, Path("/app/locustfile.py")) == (
        "/app/waits.py:7 in betwen",
        "NameError: name 'nothing' is not defined",
    )


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("No User class found!", "locustfile.py has no User class: write class"),
        ("Traceback (most recent call last)\n in load_locustfile_pytest", "locustfile.py has no U"),
        ("Unknown User(s): Nobody", "locustfile.py has no User class that is called Nobody (user"),
        ("the port is taken", "Locust ended with exit code 1 and no result. It said:\nthe port is"),
        ("", "Locust ended with exit code 1 and no result. It said:\nnothing"),
    ],
)
def test_other_reasons_to_end(root: Path, output: str, said: str) -> None:
    assert why_it_ended(ask(root, user=("Nobody",)), 1, output).startswith(said)


def test_what_was_measured() -> None:
    slow = endpoint("POST /", failures=1, times={0.3: 5})
    instances = {"1": Note(15, 0, 9), "2": Note(10, 0, 9)}
    found = levels(ran(endpoint(), slow, instances=instances), cpu=0.5, with_instances=True)
    assert found == {
        "GET /": {"load_requests": 20, "load_errors": 0, "load_rps": 10, "load_p95": 0.01},
        "POST /": {"load_requests": 5, "load_errors": 1, "load_rps": 10},
        ALL: {
            "load_requests": 25, "load_errors": 1, "load_rps": 20, "load_p95": 0.3,
            "load_cpu": 0.02, "load_instances": 2, "load_imbalance": pytest.approx(0.2),
        },
    }  # fmt: skip


def test_a_disturbance_is_measured() -> None:
    failed = {"GET /": Note(1, 12.0, 12.0, "status 500")}
    found = levels(ran(endpoint(), disturbed=10.0, failures=failed), None, with_instances=False)
    assert found[ALL]["load_recovery"] == 2


def test_of_several_runs_the_best_times_count_and_all_failures() -> None:
    first = {ALL: {"load_requests": 10.0, "load_errors": 1.0, "load_rps": 5.0, "load_p95": 0.3}}
    second = {ALL: {"load_requests": 20.0, "load_errors": 0.0, "load_rps": 4.0, "load_p95": 0.2}}
    assert combined(first, second) == {
        ALL: {"load_requests": 30, "load_errors": 1, "load_rps": 5, "load_p95": 0.2}
    }
    assert combined({}, first) == first


@pytest.mark.parametrize(
    ("metric", "limit", "kept"),
    [
        ("load_p95", 0.2, False),  # one endpoint is slower
        ("load_p95", 0.3, True),
        ("load_rps", 20, True),  # which one endpoint alone need not reach
        ("load_rps", 21, False),
        ("load_cpu", 0.001, True),  # not known
        ("load_errors", 0, True),  # no time: it is not tried again
    ],
)
def test_which_limits_are_tried_again(metric: str, limit: float, kept: bool) -> None:
    best = {
        ALL: {"load_p95": 0.1, "load_rps": 20.0, "load_errors": 3.0},
        "GET /": {"load_p95": 0.3, "load_rps": 10.0},
    }
    assert keeps(best, Budget(lookup(metric), limit, WHERE)) is kept


def test_users_that_raise_prove_nothing(root: Path) -> None:
    errors = {
        "KeyError: 'id'": Note(3, 0, 1, "", f"{root}/locustfile.py:7 in task"),
        "ValueError: x": Note(1, 0, 1),
    }
    with pytest.raises(LoadError) as raised:
        refuse_what_proves_nothing(ask(root), ran(endpoint(failures=2), errors=errors))
    assert str(raised.value) == (
        f"{WHERE}: the locustfile raises, so its users do not do what they should: "
        "KeyError: 'id' (3 times)\n"
        "    at locustfile.py:7 in task\n"
        "    and 1 other error\n"
        "    2 of 20 requests failed"
    )


def test_no_request_proves_nothing(root: Path) -> None:
    with pytest.raises(LoadError, match="10 users sent no request within 5 s"):
        refuse_what_proves_nothing(ask(root), ran())


def test_a_server_that_is_gone_is_no_failed_request(root: Path) -> None:
    failures = {"GET /": Note(20, 0, 1, "ConnectionRefusedError: [Errno 111] Connection refused")}
    with pytest.raises(LoadError) as raised:
        refuse_what_proves_nothing(ask(root), ran(endpoint(failures=20), failures=failures))
    died, _, failed = str(raised.value).partition("\n")
    assert died.startswith(f"{WHERE}: the server at http://127.0.0.1:1 died under the load: Conn")
    assert failed == (
        "    20 of 20 requests failed, the first of them GET /: ConnectionRefusedError: "
        "[Errno 111] Connection refused"
    )


def test_what_is_said_of_times(root: Path) -> None:
    known = {"load_requests": 60.0, "load_p95": 0.25}
    facts = facts_of(endpoint(), known, ask(root), "    at test_it.py:9 in test_it")
    assert facts["load_p95"].splitlines()[:2] == [
        "GET /: p95 250 ms of 60 requests, by 10 users at once",
        "    at test_it.py:9 in test_it",
    ]
    assert facts["load_p99"].startswith("load_p99 needs at least 100 requests of GET /, not 20")
    whole = facts_of(total([endpoint()]), known, ask(root), "")
    assert whole["load_p99"].startswith("load_p99 needs at least 100 requests, not 20")


def test_what_is_said_of_failures(root: Path) -> None:
    failures = {"GET /a": Note(1, 5, 5, "status 404"), "GET /": Note(2, 7, 9, "status 500")}
    text = facts_of_all(
        ask(root), ran(endpoint(failures=3), failures=failures), {"load_rps": 9.0}, "    at here"
    )["load_failures"]
    assert text.splitlines() == [
        "3 of 20 requests failed, the first of them GET /a: status 404",
        "    2x GET /: status 500",
        "    1x GET /a: status 404",
        "    at here",
        "    fix: look for it in the server's log",
    ]


@pytest.mark.parametrize(
    ("instances", "said"),
    [
        ({}, "no response has a header X-Instance, so nothing was shared"),
        ({"1": Note(9, 0, 1)}, "one instance answered, so nothing was shared"),
        ({"1": Note(9, 0, 1), "2": Note(30, 0, 1)}, "2 instances answered 30, 9 requests\n"),
    ],
)
def test_what_is_said_of_instances(root: Path, instances: Any, said: str) -> None:
    asked = ask(root, instances="X-Instance")
    facts = facts_of_all(asked, ran(endpoint(), instances=instances), {"load_rps": 9.0}, "")
    assert facts["load_imbalance"].startswith(said)


def test_the_table_of_endpoints() -> None:
    assert table([endpoint("GET /items/{id}"), endpoint(failures=1)]) == [
        "endpoint         requests  failed   rps    p95  p99",
        "GET /items/{id}        20       0  10.0  10 ms    -",
        "GET /                  20       1  10.0  10 ms    -",
    ]
