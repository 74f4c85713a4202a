"""``perf.stampede``: many identical calls at once on an empty cache."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import pytest

from pytest_perfguard.model import Record, Span
from tests.integration.cached_shop import real_redis, write

Run = Callable[..., pytest.RunResult]
Failed = Callable[[pytest.RunResult], list[str]]
Records = Callable[[], dict[str, Record]]

IMPORTS = """
import asyncio, functools, json, threading

import pytest, shop

import cached_shop
from cached_shop import NAME, cached, cached_async, client, connect_async, flush, load

KEY = f"{NAME}:7"
"""


@pytest.fixture
def run(run_once: Run) -> Run:
    """Run pytest in one process: a contract is judged where its test runs.

    That workers of pytest-xdist send on what it found is a test of its own.
    """
    return run_once


@pytest.fixture
def suite(pytester: pytest.Pytester) -> Callable[[str], None]:
    """Write a test file that has everything imported, and the shop with its cache."""
    write(pytester)

    def make(text: str) -> None:
        (pytester.path / "test_calls.py").write_text(f"{IMPORTS}\n{text}", encoding="utf-8")

    return make


@pytest.fixture(params=["fakeredis", "Redis"])
def suite_on_both(
    request: pytest.FixtureRequest, pytester: pytest.Pytester, suite: Callable[[str], None]
) -> Iterator[Callable[[str], None]]:
    """The same, once on a Redis of the process itself and once on a real one."""
    if request.param == "fakeredis":
        yield suite
    else:
        with real_redis() as url:
            write(pytester, url)
            yield suite


ONE_FAILS = """
class OneFails:
    def __init__(self):
        self.turns = iter(range(100))
        self.lock = threading.Lock()
        self.under_way = 0

    def begin(self):
        with self.lock:
            self.under_way += 1
            return next(self.turns)

    def end(self):
        with self.lock:
            self.under_way -= 1

    def __call__(self):
        turn = self.begin()
        try:
            if turn == 3:
                raise LookupError("of the call")
            return cached()
        finally:
            self.end()


"""


def failures(result: pytest.RunResult) -> dict[str, str]:
    """Return the text of each failure, by the test's name."""
    text = result.stdout.str().partition("= FAILURES =")[2].partition("\n= ")[0]
    parts = re.split(r"^_{3,} (\S.*?) _{3,}$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def recomputations(record: Record) -> float:
    """Return what the only stampede of a test came to."""
    (verdict,) = (v for v in record.verdicts if v.metric == "cache_recomputations")
    assert verdict.value is not None
    return verdict.value


def queries(span: Span) -> int:
    """Return how many statements ran in a span and those inside it."""
    return sum(t.count for part in span.walk() for t in part.tallies if t.probe == "sql")


WITHOUT_A_LOCK = """
@pytest.mark.parametrize("turn", range(20))
def test_threads(perf, turn):
    perf.stampede(cached, flush=flush)


@pytest.mark.parametrize("turn", range(20))
def test_tasks(perf, turn):
    async def main():
        async with connect_async() as redis:
            await perf.stampede(lambda: cached_async(redis), flush=flush)

    asyncio.run(main())
"""


def test_a_cache_without_a_lock_is_found_every_time(
    suite_on_both: Callable[[str], None], run: Run, records: Records
) -> None:
    suite_on_both(WITHOUT_A_LOCK)

    result = run("--perfguard-json=run.json")

    result.assert_outcomes(failed=40)
    counts = {name: recomputations(record) for name, record in records().items()}
    # Each of them is held until all have missed; a machine that halts for longer may let some go.
    assert min(counts.values()) > 1
    assert max(counts.values()) == 8
    many = next(count for name, count in counts.items() if name == "test_threads[0]")
    text = failures(result)["test_threads[0]"]
    assert re.search(
        r"perfguard: 1 of 1 budget exceeded in block 'stampede'\n"
        rf"  cache_recomputations  {many} > 1   perf\.stampede, test_calls\.py:\d+\n"
        rf"SELECT resources by {many} of 8 concurrent calls; one could have done it for all\n"
        r"    at cached_shop\.py:\d+ in load\n"
        r"    SELECT .*\n"
        r"    fix: let one call compute while the others wait: a lock for each key, and a second "
        r"lookup once it is held; in Redis if there are several processes\n",
        text,
    ), text


def test_calls_that_would_not_meet_are_held_until_they_do(
    suite: Callable[[str], None], run: Run, records: Records
) -> None:
    # Each begins when the one before it would be done. The pauses are what is tested here: they
    # are far shorter than the time for which a call is held.
    suite(
        """
import itertools, time


def test_threads(perf):
    turns = itertools.count()

    def call():
        time.sleep(0.03 * next(turns))
        return cached()

    perf.stampede(call, flush=flush, concurrency=3)


def test_tasks(perf):
    async def main():
        turns = itertools.count()
        async with connect_async() as redis:
            async def call():
                await asyncio.sleep(0.03 * next(turns))
                return await cached_async(redis)

            await perf.stampede(call, flush=flush, concurrency=3)

    asyncio.run(main())
"""
    )

    result = run("--perfguard-json=run.json")

    result.assert_outcomes(failed=2)
    assert min(recomputations(record) for record in records().values()) > 1


def test_a_cache_with_a_lock_is_never_blamed(
    suite_on_both: Callable[[str], None], run: Run, records: Records
) -> None:
    suite_on_both(
        """
lock = threading.Lock()


def locked_before_the_lookup():
    with lock:
        return cached()


def locked_after_the_lookup():
    found = client.get(KEY)
    if found is not None:
        return json.loads(found)
    with lock:
        return cached()


def locked_in_redis():
    found = client.get(KEY)
    if found is not None:
        return json.loads(found)
    with client.lock(f"{NAME}:lock", timeout=30, sleep=0.005):
        return cached()


@pytest.mark.parametrize("turn", range(3))
@pytest.mark.parametrize(
    "call", [locked_before_the_lookup, locked_after_the_lookup, locked_in_redis]
)
def test_threads(perf, call, turn):
    measured = perf.stampede(call, flush=flush)
    assert measured["cache_recomputations"] == 1
    assert measured["sql_queries"] == 1


@pytest.mark.parametrize("turn", range(3))
@pytest.mark.parametrize("when", ["before the lookup", "after the lookup", "in Redis"])
def test_tasks(perf, when, turn):
    async def main():
        lock = asyncio.Lock()
        async with connect_async() as redis:
            async def call():
                if when != "before the lookup":
                    found = await redis.get(KEY)
                    if found is not None:
                        return json.loads(found)
                if when == "in Redis":
                    lock_in_redis = redis.lock(f"{NAME}:lock", timeout=30, sleep=0.005)
                    async with lock_in_redis:
                        return await cached_async(redis)
                async with lock:
                    return await cached_async(redis)

            measured = await perf.stampede(call, flush=flush)
        assert measured["cache_recomputations"] == 1
        assert measured["sql_queries"] == 1

    asyncio.run(main())
"""
    )

    result = run("--perfguard-json=run.json")

    result.assert_outcomes(passed=18)
    assert {recomputations(record) for record in records().values()} == {1}


def test_the_second_lookup_is_not_forgotten(
    suite: Callable[[str], None], run: Run, records: Records
) -> None:
    suite(
        """
lock = threading.Lock()


def test_threads(perf):
    def call():
        found = client.get(KEY)
        if found is not None:
            return json.loads(found)
        with lock:
            value = load()
            client.set(KEY, json.dumps(value), ex=60)
            return value

    perf.stampede(call, flush=flush)


def test_tasks(perf):
    async def main():
        lock = asyncio.Lock()
        async with connect_async() as redis:
            async def call():
                found = await redis.get(KEY)
                if found is not None:
                    return json.loads(found)
                async with lock:
                    value = load()
                    await redis.set(KEY, json.dumps(value), ex=60)
                    return value

            await perf.stampede(call, flush=flush)

    asyncio.run(main())
"""
    )

    result = run("--perfguard-json=run.json")

    result.assert_outcomes(failed=2)
    assert {recomputations(record) for record in records().values()} == {8}


def test_how_many_call_and_how_many_may_compute(
    suite: Callable[[str], None], run: Run, failed: Failed, records: Records
) -> None:
    suite(
        """
def two_at_once():
    with two:
        return cached()


two = threading.Semaphore(2)


def test_two_over(perf):
    perf.stampede(two_at_once, flush=flush)


def test_two_allowed(perf):
    assert perf.stampede(two_at_once, flush=flush, limit=2)["cache_recomputations"] == 2


def test_three_calls(perf):
    perf.stampede(cached, flush=flush, concurrency=3)


def test_all_allowed(perf):
    perf.stampede(cached, flush=flush, concurrency="3", limit=3)


def test_one_by_one(perf):
    perf.stampede(two_at_once, flush=flush, limit=2)
    perf.stampede(two_at_once, flush=flush, limit=2)


@pytest.mark.perf_budget(sql_queries=2)
def test_mark_beside(perf):
    perf.stampede(cached, flush=flush, concurrency=3, limit=3)


class TestClass:
    def test_method(self, perf):
        perf.stampede(cached, flush=flush, concurrency=2)
"""
    )

    result = run("--perfguard-json=run.json")

    assert failed(result) == [
        "test_mark_beside",
        "test_method",
        "test_three_calls",
        "test_two_over",
    ]
    found = failures(result)
    assert "cache_recomputations  2 > 1   perf.stampede" in found["test_two_over"]
    assert "cache_recomputations  3 > 1   perf.stampede" in found["test_three_calls"]
    assert "SELECT resources by 3 of 3 concurrent calls" in found["test_three_calls"]
    assert "sql_queries  3 > 2   perf_budget" in found["test_mark_beside"]
    first, second = records()["test_one_by_one"].span.children
    assert (first.name, second.name) == ("stampede", "stampede #2")
    (whole,) = records()["test_three_calls"].span.children
    assert sorted(call.name for call in whole.children) == ["call 1", "call 2", "call 3"]
    assert [queries(call) for call in whole.children] == [1, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("concurrency=1", "concurrency=1: 2 or more"),
        ("concurrency=0", "concurrency=0: 2 or more"),
        ("concurrency=1_001", "concurrency=1,001: 1,000 at most"),
        ("concurrency=-2", "concurrency: -2 is negative: write a whole number such as 3"),
        ("concurrency=2.5", "concurrency: 2.5 is not a whole number: "),
        ("concurrency='many'", "concurrency: 'many' cannot be read: "),
        ("concurrency=None", "concurrency: None is not a limit: "),
        ("limit=-1", "cache_recomputations: -1 is negative: write a whole number such as 3"),
        ("limit='100ms'", "cache_recomputations: 'ms' in '100ms' is not a unit of count: "),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_line(
    suite: Callable[[str], None], run_once: Run, arguments: str, message: str
) -> None:
    suite(f"def test_it(perf):\n    perf.stampede(cached, {arguments})\n")

    result = run_once()

    result.assert_outcomes(failed=1)
    line = len(IMPORTS.splitlines()) + 3
    assert f"LimitError: perf.stampede, test_calls.py:{line}: {message}" in result.stdout.str()


def test_calls_that_cannot_be_made_at_once_are_errors_with_a_remedy(
    suite: Callable[[str], None], run: Run
) -> None:
    suite(
        """
async def asynchronous():
    load()


class Awaitable:
    def __await__(self):
        yield


def test_async_call(perf):
    perf.stampede(asynchronous, flush=flush)


def test_awaitable(perf):
    perf.stampede(Awaitable, flush=flush)


def test_sync_call(perf):
    async def main():
        await perf.stampede(cached, flush=flush)

    asyncio.run(main())


def test_after_the_error(perf):
    for call in (asynchronous, Awaitable):
        with pytest.raises(TypeError):
            perf.stampede(call)
    with perf.measure("after", sql_queries=1):
        shop.get_email(1)


def test_not_callable(perf):
    perf.stampede(cached())


def test_not_awaited(perf):
    async def main():
        perf.stampede(asynchronous, flush=flush)

    asyncio.run(main())
"""
    )

    found = failures(run("-Wignore:coroutine:RuntimeWarning"))

    assert sorted(found) == [
        "test_async_call",
        "test_awaitable",
        "test_not_awaited",
        "test_not_callable",
        "test_sync_call",
    ]
    where = r"CacheError: perf\.stampede, test_calls\.py:\d+: "
    waiting = (
        f"{where}the call returned something to await, and no event loop is running: use it in an "
        "'async def' test and await it"
    )
    assert re.search(waiting, found["test_async_call"])
    assert re.search(waiting, found["test_awaitable"])
    assert re.search(
        f"{where}the call is synchronous, so it would hold up the running event loop: use it in a "
        "plain 'def' test",
        found["test_sync_call"],
    )
    assert re.search(f"{where}call is .*cannot be called: pass a fu", found["test_not_callable"])
    assert re.search(
        r"  perf\.stampede, test_calls\.py:\d+: not awaited: write 'await' before it\n",
        found["test_not_awaited"],
    )


def test_an_error_of_a_call_is_the_tests_and_leaves_no_block_open(
    suite: Callable[[str], None], run: Run, records: Records
) -> None:
    suite(
        ONE_FAILS
        + """
def test_raises(perf):
    perf.stampede(OneFails(), flush=flush)


def test_all_raise(perf):
    def call():
        raise LookupError("of the call")

    perf.stampede(call, flush=flush)


def test_caught(perf):
    calls = OneFails()
    with pytest.raises(LookupError):
        perf.stampede(calls, flush=flush)
    assert calls.under_way == 0
    with perf.measure("after", sql_queries=1):
        shop.get_email(1)


def test_the_last_call_raises(perf):
    calls = iter(range(100))

    def call():
        if next(calls) == 8:
            raise LookupError("of the last call")
        return cached()

    with pytest.raises(LookupError):
        perf.stampede(call, flush=flush)
    with perf.measure("after", sql_queries=1):
        shop.get_email(1)


def test_flush_raises(perf):
    def empty():
        raise LookupError("of flush")

    with pytest.raises(LookupError):
        perf.stampede(cached, flush=empty)
    with perf.measure("after", sql_queries=1):
        shop.get_email(1)
"""
    )

    result = run("--perfguard-json=run.json")

    found = failures(result)
    assert sorted(found) == ["test_all_raise", "test_raises"]
    for text in found.values():
        assert "E   " in text
        assert "LookupError: of the call" in text
        assert "exceeded" not in text
    for name in ("test_caught", "test_the_last_call_raises"):
        whole, after = records()[name].span.children
        assert (whole.name, after.name) == ("stampede", "after")
        assert len(whole.children) == 8
        assert queries(after) == 1


def test_no_call_goes_on_after_the_error_of_another(
    suite: Callable[[str], None], run: Run, records: Records
) -> None:
    suite(
        ONE_FAILS
        + """
def test_caught_in_tasks(perf):
    async def main():
        calls = OneFails()
        async with connect_async() as redis:
            async def call():
                turn = calls.begin()
                try:
                    if turn == 3:
                        raise LookupError("of the call")
                    return await cached_async(redis)
                finally:
                    calls.end()

            with pytest.raises(LookupError):
                await perf.stampede(call, flush=flush)
            assert calls.under_way == 0, "none of the other calls goes on"
        with perf.measure("after", sql_queries=1):
            shop.get_email(1)

    asyncio.run(main())
"""
    )

    run("--perfguard-json=run.json").assert_outcomes(passed=1)

    whole, after = records()["test_caught_in_tasks"].span.children
    assert len(whole.children) == 8
    assert queries(after) == 1


def test_work_that_a_warm_call_does_too_is_not_counted(
    suite_on_both: Callable[[str], None], run: Run, failed: Failed, records: Records
) -> None:
    suite_on_both(
        """
lock = threading.Lock()


def locked():
    with lock:
        return cached()


def test_login(perf):
    def call():
        shop.get_email(1)
        client.set(f"{NAME}:seen", "now", ex=60)
        return locked()

    assert perf.stampede(call, flush=flush)["cache_recomputations"] == 1


def test_login_without_a_lock(perf):
    def call():
        shop.get_email(1)
        return cached()

    assert perf.stampede(call, flush=flush)["cache_recomputations"] > 1


def test_once_more_than_a_warm_call(perf):
    # The cold calls run the statement of the login once more.
    def call():
        shop.get_email(1)
        found = client.get(KEY)
        if found is None:
            client.set(KEY, shop.get_email(2), ex=60)

    assert perf.stampede(call, flush=flush)["cache_recomputations"] > 1


def test_stored_by_each(perf):
    # Without a database, what is stored tells who computed.
    def call():
        if client.get(KEY) is None:
            client.set(KEY, "computed", ex=60)

    assert perf.stampede(call, flush=flush)["cache_recomputations"] > 1


def test_stored_by_one(perf):
    def call():
        with lock:
            if client.get(KEY) is None:
                client.set(KEY, "computed", ex=60)

    assert perf.stampede(call, flush=flush)["cache_recomputations"] == 1
"""
    )

    result = run("--perfguard-json=run.json")

    assert failed(result) == [
        "test_login_without_a_lock", "test_once_more_than_a_warm_call", "test_stored_by_each",
    ]  # fmt: skip
    found = failures(result)
    assert "\nSELECT resources by " in found["test_login_without_a_lock"]
    assert "\nSELECT users by " in found["test_once_more_than_a_warm_call"]
    assert re.search(r"\nSET resources_\w+:\{int\} by ", found["test_stored_by_each"])


def test_a_cache_that_never_hits_is_found_too(
    suite: Callable[[str], None], run: Run, records: Records
) -> None:
    suite(
        """
def test_no_cache(perf):
    perf.stampede(load, flush=flush)


def test_never_stored(perf):
    def call():
        client.get(KEY)
        return load()

    perf.stampede(call, flush=flush)


def test_another_key_each_time(perf):
    keys = iter(range(100))

    def call():
        number = next(keys)
        found = client.get(f"{KEY}:{number}")
        if found is None:
            found = json.dumps(load())
            client.set(f"{KEY}:{number}", found, ex=60)
        return json.loads(found)

    perf.stampede(call, flush=flush)
"""
    )

    result = run("--perfguard-json=run.json")

    result.assert_outcomes(failed=3)
    assert {recomputations(record) for record in records().values()} == {8}


def test_a_warm_cache_proves_nothing(suite_on_both: Callable[[str], None], run: Run) -> None:
    suite_on_both(
        """
def test_no_flush(perf):
    cached()
    perf.stampede(cached)


def test_flushes_something_else(perf):
    cached()
    perf.stampede(cached, flush=lambda: client.delete(f"{NAME}:8"))


def test_nothing_to_do(perf):
    perf.stampede(lambda: None, flush=flush)


@pytest.fixture
def warm_already(perf):
    cached()
    perf.stampede(cached)


def test_in_a_fixture(warm_already):
    pass
"""
    )

    result = run()

    result.assert_outcomes(failed=3, errors=1)
    nothing = (
        "none of the calls read from a database, stored anything in the cache or missed a watched "
        "one: "
    )
    found = failures(result)
    start = r"\n  perf\.stampede, test_calls\.py:\d+: "
    assert re.search(f"{start}{nothing}empty the cache with flush=\n", found["test_no_flush"])
    for name in ("test_flushes_something_else", "test_nothing_to_do"):
        assert re.search(f"{start}{nothing}it was not empty\n", found[name])
    assert f"CacheError: perf.stampede, test_calls.py:{nothing}" in re.sub(
        r"\.py:\d+: none", ".py:none", result.stdout.str()
    )


def test_in_a_fixture_it_is_judged_there(suite: Callable[[str], None], run: Run) -> None:
    suite(
        """
lock = threading.Lock()


def locked():
    with lock:
        return cached()


@pytest.fixture
def right(perf):
    return perf.stampede(locked, flush=flush)


@pytest.fixture
def without(perf):
    perf.stampede(cached, flush=flush)


def test_right(right):
    assert right["cache_recomputations"] == 1


def test_without(without):
    pass
"""
    )

    result = run()

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at setup of test_without*",
            "perfguard: 1 of 1 budget exceeded in block 'stampede'",
            "SELECT resources by * of 8 concurrent calls; one could have done it for all",
        ]
    )


def test_breaches_may_be_expected_or_only_warn(
    pytester: pytest.Pytester, suite: Callable[[str], None], run: Run
) -> None:
    suite(
        """
@pytest.mark.xfail(strict=True)
def test_expected(perf):
    perf.stampede(cached, flush=flush)


def test_warns(perf):
    perf.stampede(cached, flush=flush)
"""
    )
    pytester.makeini("[pytest]\nperfguard_level = *test_warns cache_recomputations: warn\n")

    result = run()

    result.assert_outcomes(passed=1, xfailed=1)
    result.stdout.fnmatch_lines(["  cache_recomputations  * > 1   perf.stampede, *  (only warns)"])


def test_through_the_clients_of_web_frameworks(
    suite: Callable[[str], None], run: Run, failed: Failed, records: Records
) -> None:
    suite(
        """
import httpx
from fastapi import FastAPI
from fastapi.testclient import TestClient
from flask import Flask, jsonify

app = FastAPI()
lock = threading.Lock()


@app.get("/resources/{number}")
def resource(number: int):
    return cached(number)


@app.get("/locked/{number}")
def locked(number: int):
    with lock:
        return cached(number)


@app.get("/async/resources/{number}")
async def async_resource(number: int):
    async with connect_async() as redis:
        return await cached_async(redis, number)


flask_app = Flask(__name__)


@flask_app.get("/resources/<int:number>")
def flask_resource(number):
    return jsonify(cached(number))


@pytest.mark.parametrize("path", ["/resources/7", "/async/resources/7", "/locked/7"])
def test_starlette(perf, path):
    get = TestClient(app).get
    perf.stampede(lambda: get(path), flush=flush, concurrency=4)


@pytest.mark.parametrize("path", ["/resources/7", "/async/resources/7", "/locked/7"])
def test_httpx(perf, path):
    async def main():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as http:
            await perf.stampede(lambda: http.get(path), flush=flush, concurrency=4)

    asyncio.run(main())


def test_flask(perf):
    perf.stampede(
        lambda: flask_app.test_client().get("/resources/7"), flush=flush, concurrency=4
    )
"""
    )

    result = run("--perfguard-json=run.json")

    assert failed(result) == sorted(
        [
            "test_flask",
            *(
                f"test_{client}[{path}/resources/7]"
                for client in ("httpx", "starlette")
                for path in ("", "/async")
            ),
        ]
    )
    found = records()
    for client in ("httpx", "starlette"):
        assert recomputations(found[f"test_{client}[/locked/7]"]) == 1
        (whole,) = found[f"test_{client}[/resources/7]"].span.children
        assert [[part.name for part in call.children] for call in whole.children] == [
            ["GET /resources/{number}"]
        ] * 4


WATCHED = """
# All of them compute at once, as they would if it took longer.
gate = threading.Barrier(4)
lock = threading.Lock()


@functools.lru_cache
def with_sql():
    value = load()
    gate.wait()
    return value


@functools.lru_cache
def without_sql():
    gate.wait()
    return 42


@functools.lru_cache
def quick():
    return 42


def locked():
    with lock:
        return quick()


"""


def test_watched_caches_of_the_process(
    suite: Callable[[str], None], run: Run, failed: Failed, records: Records
) -> None:
    suite(
        WATCHED
        + """
def test_sql(perf):
    perf.cache.watch(with_sql)
    perf.stampede(with_sql, flush=with_sql.cache_clear, concurrency=4)


def test_locked(perf):
    perf.cache.watch(quick)
    assert perf.stampede(locked, flush=quick.cache_clear)["cache_recomputations"] == 1


def test_warm(perf):
    perf.cache.watch(quick)
    quick()
    perf.stampede(locked)
"""
    )

    result = run("--perfguard-json=run.json")

    assert failed(result) == ["test_sql", "test_warm"]
    assert recomputations(records()["test_sql"]) == 4
    assert "empty the cache with flush=" in failures(result)["test_warm"]


def test_misses_of_watched_caches_are_recomputations_without_sql_too(
    suite: Callable[[str], None], run: Run, records: Records
) -> None:
    suite(
        WATCHED
        + """
def test_no_sql(perf):
    perf.cache.watch(without_sql)
    perf.stampede(without_sql, flush=without_sql.cache_clear, concurrency=4)
"""
    )

    run("--perfguard-json=run.json").assert_outcomes(failed=1)

    assert recomputations(records()["test_no_sql"]) == 4


@pytest.mark.parametrize(
    ("plugin", "arguments"),
    [
        ("anyio", ("-p", "no:asyncio")),
        pytest.param(
            "asyncio",
            ("-p", "no:anyio"),
            marks=pytest.mark.skipif(
                find_spec("pytest_asyncio") is None, reason="pytest-asyncio is not installed"
            ),
        ),
    ],
)
@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["one process", "xdist"])
def test_in_async_tests_under_both_async_plugins(
    pytester: pytest.Pytester,
    suite: Callable[[str], None],
    plugin: str,
    arguments: tuple[str, ...],
    workers: tuple[str, ...],
) -> None:
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    suite(
        f"""
pytestmark = pytest.mark.{plugin}


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def redis():
    async with connect_async() as redis:
        yield redis


async def test_without_a_lock(perf, redis):
    await perf.stampede(lambda: cached_async(redis), flush=flush)


async def test_with_a_lock(perf, redis):
    lock = asyncio.Lock()

    async def call():
        async with lock:
            return await cached_async(redis)

    measured = await perf.stampede(call, flush=flush)
    assert measured["cache_recomputations"] == 1


async def test_async_flush(perf, redis):
    await cached_async(redis)

    async def empty():
        await redis.delete(KEY)

    measured = await perf.stampede(lambda: cached_async(redis), flush=empty, limit=8)
    assert measured["cache_recomputations"] > 1


async def test_sync_call(perf):
    await perf.stampede(cached, flush=flush)


async def test_in_threads(perf, redis):
    await asyncio.to_thread(perf.stampede, cached, flush=flush, limit=8)
"""
    )
    if plugin == "asyncio":
        path = pytester.path / "test_calls.py"
        text = path.read_text().replace("@pytest.fixture\nasync", "@pytest_asyncio.fixture\nasync")
        path.write_text(f"import pytest_asyncio\n{text}", encoding="utf-8")

    result = pytester.runpytest_inprocess(*arguments, *workers, "-p", "no:hypothesispytest")

    result.assert_outcomes(passed=3, failed=2)
    found = failures(result)
    assert "\nSELECT resources by " in found["test_without_a_lock"]
    assert "the call is synchronous, so it would hold up the" in found["test_sync_call"]
