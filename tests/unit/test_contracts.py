from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Thread
from typing import Any

import pytest

from pytest_perfguard import contracts
from pytest_perfguard.contracts import _Gathering, _Held, _note_recomputations
from pytest_perfguard.contracts import _in_threads as _in_threads_at_once
from pytest_perfguard.metrics import IN_PROCESS
from pytest_perfguard.model import Span, Tally
from pytest_perfguard.spans import OpenSpan
from tests.unit.build import site, span, tally

# Longer than any test may take: whoever waits that long was not woken.
_FOREVER = 3600.0
_LONG = 60


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody run out of patience."""
    monkeypatch.setattr(contracts, "_PATIENCE", _FOREVER)


def _in_threads(functions: Iterable[Callable[[], object]]) -> list[bool]:
    """Run each in a thread of its own; return whether each has come to its end."""
    threads = [Thread(target=function, daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_LONG)
    return [not thread.is_alive() for thread in threads]


# -- calls that wait for each other -------------------------------------------------------------


@pytest.mark.usefixtures("endless")
def test_threads_that_missed_go_on_when_all_have() -> None:
    gathering = _Gathering(5)
    assert _in_threads(_Held(gathering).wait for _ in range(5)) == [True] * 5


@pytest.mark.usefixtures("endless")
def test_tasks_that_missed_go_on_when_all_have() -> None:
    async def main() -> None:
        gathering = _Gathering(5)
        held = [_Held(gathering).wait_async() for _ in range(5)]
        await asyncio.wait_for(asyncio.gather(*held), _LONG)

    asyncio.run(main())


@pytest.mark.usefixtures("endless")
def test_calls_in_threads_and_in_tasks_may_be_held_together() -> None:
    async def main() -> None:
        gathering = _Gathering(2)
        thread = asyncio.to_thread(_Held(gathering).wait)
        await asyncio.wait_for(asyncio.gather(thread, _Held(gathering).wait_async()), _LONG)

    asyncio.run(main())


@pytest.mark.usefixtures("endless")
def test_a_call_that_ended_without_a_miss_is_not_waited_for() -> None:
    gathering = _Gathering(3)
    _Held(gathering).end()
    assert _in_threads(_Held(gathering).wait for _ in range(2)) == [True] * 2


@pytest.mark.usefixtures("endless")
def test_a_call_is_held_once_and_counted_once() -> None:
    gathering = _Gathering(2)
    first, second = _Held(gathering), _Held(gathering)
    first_ends: list[str] = []

    def call() -> None:
        first.wait()
        first.wait()
        first.end()
        first_ends.append("done")

    waiting = Thread(target=call, daemon=True)
    waiting.start()
    second.end()
    second.end()
    waiting.join(_LONG)
    assert first_ends == ["done"]
    asyncio.run(asyncio.wait_for(first.wait_async(), _LONG))


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contracts, "_PATIENCE", 0.001)
    assert _in_threads([_Held(_Gathering(2)).wait]) == [True]
    asyncio.run(asyncio.wait_for(_Held(_Gathering(2)).wait_async(), _LONG))


def test_who_runs_out_of_patience_lets_all_go(monkeypatch: pytest.MonkeyPatch) -> None:
    gathering = _Gathering(3)
    patient, impatient = _Held(gathering), _Held(gathering)
    waiting = Thread(target=patient.wait, daemon=True)
    monkeypatch.setattr(contracts, "_PATIENCE", _FOREVER)
    waiting.start()
    while not gathering._wake:  # the patient one has read how long to wait
        waiting.join(0.001)
    monkeypatch.setattr(contracts, "_PATIENCE", 0.001)
    impatient.wait()
    waiting.join(_LONG)
    assert not waiting.is_alive()


# -- who did the work ---------------------------------------------------------------------------


def test_where_no_more_threads_can_be_had_the_others_do_not_wait_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[int] = []
    original = ThreadPoolExecutor.submit

    def submit(self: ThreadPoolExecutor, *args: Any, **kwargs: Any) -> Any:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(1)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", submit)
    errors: list[str] = []

    def one(_number: int, start: Barrier) -> None:
        start.wait()

    def run() -> None:
        try:
            _in_threads_at_once(one, 8)
        except RuntimeError as error:
            errors.append(str(error))

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert errors == ["can't start new thread"]


def _read(operation: str = "SELECT a FROM t", **fields: object) -> Tally:
    return tally(operation, label=operation, **fields)


def _stored(**fields: object) -> Tally:
    return tally("SET key:{int}", probe="cache", kind="write", label="SET key:{int}", **fields)


def _hit(count: int = 1) -> Tally:
    return tally("GET key:{int}", probe="cache", kind="read", sums={"hits": count})


def _judged(calls: Iterable[Span], warm: Span) -> tuple[float, str]:
    whole = OpenSpan("stampede", "block", None)
    _note_recomputations(whole, list(calls), warm)
    return whole.peaks["cache_recomputations"], whole.facts.get("cache_recomputations", "")


def test_those_that_did_what_a_warm_call_does_not_are_counted() -> None:
    count, fact = _judged([span(_read())] * 3 + [span(_hit())] * 5, span(_hit()))
    assert count == 3
    assert fact == (
        "SELECT a FROM t by 3 of 8 concurrent calls; one could have done it for all\n"
        "    at app/crud.py:7 in rows\n"
        "    fix: let one call compute while the others wait: a lock for each key, and a second "
        "lookup once it is held; in Redis if there are several processes"
    )


@pytest.mark.parametrize("doers", [0, 1])
def test_one_or_none_needs_no_explanation(doers: int) -> None:
    assert _judged([span(_read())] * doers + [span(_hit())] * 7, span(_hit())) == (doers, "")


def test_what_a_warm_call_does_as_often_is_none_of_it() -> None:
    login = _read("SELECT b FROM users")
    assert _judged([span(login)] * 8, span(login, _hit())) == (0, "")
    assert _judged([span(login, _read())] + [span(login)] * 7, span(login, _hit())) == (1, "")


def test_what_a_warm_call_does_less_often_is_counted() -> None:
    login, twice = _read("SELECT b FROM users"), _read("SELECT b FROM users", count=2)
    assert _judged([span(twice)] * 4 + [span(login)] * 4, span(login, _hit()))[0] == 4


def test_the_same_statement_at_two_lines_is_one_work() -> None:
    first, second = _read(site=site(1)), _read(site=site(2))
    assert _judged([span(first, second)] * 2, span(second, _hit()))[0] == 2
    assert _judged([span(first)] * 2, span(second, _hit()))[0] == 0


def test_where_a_warm_call_hits_nothing_all_work_counts() -> None:
    assert _judged([span(_read())] * 8, span(_read()))[0] == 8


@pytest.mark.parametrize(
    ("seen", "count"),
    [
        (_read(), 8),
        (_stored(), 8),
        (tally("get_rates", probe="cache", kind=IN_PROCESS, sums={"misses": 1}), 8),
        (tally("get_rates", probe="cache", kind=IN_PROCESS, sums={"hits": 1}), 0),
        (tally("UPDATE t", kind="write"), 0),
        (tally("COMMIT", kind="transaction"), 0),
        (tally("SET lock:{word}", probe="cache", kind="other"), 0),
        (tally("GET key:{int}", probe="cache", kind="read", sums={"misses": 1}), 0),
    ],
    ids=["SQL read", "stored", "in-process miss", "in-process hit", "SQL write", "commit", "lock",
         "lookup"],
)  # fmt: skip
def test_what_counts_as_work(seen: Tally, count: int) -> None:
    assert _judged([span(seen)] * 8, span(_hit()))[0] == count


def test_work_inside_requests_belongs_to_the_call() -> None:
    request = span(_read(), name="GET /", kind="request")
    assert _judged([span(children=(request, request))] * 4, span(_hit()))[0] == 4


def test_the_work_that_most_calls_did_is_what_counts() -> None:
    reads, stores = span(_read()), span(_stored())
    assert _judged([reads] * 3 + [stores] * 5, span(_hit()))[0] == 5
    assert _judged([reads] * 3 + [stores] * 5, span(_hit()))[1].startswith("SET key:{int} by 5")


def test_of_equals_the_database_is_named() -> None:
    for order in ((_read(), _stored()), (_stored(), _read())):
        assert _judged([span(*order)] * 4, span(_hit()))[1].startswith("SELECT a FROM t by 4 of 4")
