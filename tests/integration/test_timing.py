"""``perf.http(...).get(..., rounds=N)`` and ``perf.time``: counted once, timed many times."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Callable
from textwrap import dedent

import pytest

from pytest_perfguard.model import Record
from tests.integration.conftest import LEAN

Run = Callable[..., pytest.RunResult]
Failed = Callable[[pytest.RunResult], list[str]]
Records = Callable[[], dict[str, Record]]


@pytest.fixture(params=[(), ("-n2",)], ids=["one process", "xdist"])
def run(request: pytest.FixtureRequest, run_once: Run) -> Run:
    """Run pytest in a process of its own, once alone and once with two workers."""
    return lambda *arguments: run_once(*request.param, *arguments)


@pytest.fixture
def run_once(pytester: pytest.Pytester) -> Run:
    """Run pytest in a process of its own."""
    return lambda *arguments: pytester.runpytest_subprocess(*LEAN, *arguments)


def write(pytester: pytest.Pytester, **files: str) -> None:
    """Write files as they are, with parts that may be indented differently."""
    for name, text in files.items():
        (pytester.path / f"{name}.py").write_text(dedent(text), encoding="utf-8")


# What each endpoint was asked for is kept in a list.
APP = """
    import asyncio, itertools

    import fakeredis, redis, shop
    from fastapi import FastAPI, Request, Response
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
    from sqlalchemy.pool import NullPool

    app = FastAPI()
    async_engine = create_async_engine(
        f"sqlite+aiosqlite:///{shop.database}", poolclass=NullPool
    )
    cache = fakeredis.FakeRedis()
    calls = []
    busy = {"now": 0, "most": 0}

    @app.api_route("/users/{number}", methods=[
        "GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"
    ])
    def user(number: int, request: Request):
        calls.append((request.method, number))
        cache.get(f"user:{number}")
        return shop.get_email(1 + number % 20)

    @app.get("/async/users/{number}")
    async def async_user(number: int):
        calls.append(("GET", number))
        busy["now"] += 1
        busy["most"] = max(busy.values())
        async with AsyncSession(async_engine) as session:
            found = (await session.get(shop.User, number)).email
        for _ in range(20):
            await asyncio.sleep(0)
        busy["now"] -= 1
        return found

    @app.post("/echo")
    async def echo(request: Request):
        calls.append((str(request.url.query), request.headers.get("x-key"), await request.body()))
        return Response(status_code=201)

    # On the event loop, where calls arrive in the order of their rounds: threads take no turns.
    @app.get("/turns/{bad}")
    async def turns(bad: int):
        calls.append(bad)
        if len(calls) >= bad:
            return Response("out of stock " + "x" * 500, status_code=418)
        return 1

    @app.get("/raises/{bad}")
    def raises(bad: int):
        calls.append(bad)
        if len(calls) >= bad:
            raise LookupError("in a round")
        return 1

    @app.get("/burn/{loops}")
    def burn(loops: int):
        return sum(number * number for number in range(loops))
"""
HEAD = """
    import asyncio
    import httpx, httpx2, pytest, shop
    from application import app, busy, calls
    from pytest_perfguard.errors import RoundError, TimingError
    from starlette.testclient import TestClient

    @pytest.fixture
    def client():
        return TestClient(app)

    @pytest.fixture(autouse=True)
    def fresh():
        calls.clear()
        busy["most"] = 0

    def with_client(library, use):
        async def run():
            transport = library.ASGITransport(app)
            async with library.AsyncClient(transport=transport, base_url="http://t") as client:
                return await use(client)
        return asyncio.run(run())

    both = pytest.mark.parametrize("library", [httpx, httpx2])
"""


def write_tests(pytester: pytest.Pytester, text: str) -> None:
    """Write the application, and tests of it that have everything imported."""
    write(pytester, application=APP, test_timed=dedent(HEAD) + dedent(text))


def test_one_request_is_counted_and_the_rounds_are_sent_after_it(
    pytester: pytest.Pytester, run: Run, records: Records
) -> None:
    write_tests(
        pytester,
        """
        VERBS = ["get", "head", "options", "post", "put", "patch", "delete"]

        @pytest.mark.parametrize("verb", VERBS)
        def test_verbs(perf, client, verb):
            timed = getattr(perf.http(client), verb)("/users/3", rounds=5, warmup=2)
            assert calls == [(verb.upper(), 3)] * (1 + 2 + 5)
            assert timed["sql_queries"] == timed["http_requests"] == 1
            assert timed["cache_commands"] == 1
            assert timed.response.status_code == 200
            assert timed.timing.rounds == 5
            assert timed.timing.warmup == 2
            assert timed.timing.cold_wall > 0
            assert timed["http_median"] <= timed["http_max"]
            assert set(timed) >= {
                "http_mean", "http_median", "http_max", "http_stddev", "http_iqr", "http_cpu",
                "sql_queries", "response_bytes",
            }

        def test_request(perf, client):
            perf.http(client).request("GET", "/users/4", rounds=3, warmup=0)
            assert calls == [("GET", 4)] * 4

        @both
        def test_async(perf, library):
            async def use(client):
                return await perf.http(client).get("/async/users/3", rounds=5, warmup=2)
            timed = with_client(library, use)
            assert calls == [("GET", 3)] * 8
            assert busy["most"] == 1
            assert timed["sql_queries"] == timed["http_requests"] == 1

        @both
        @pytest.mark.parametrize("at_once", [2, 5])
        def test_concurrency(perf, library, at_once):
            async def use(client):
                return await perf.http(client).get(
                    "/async/users/3", rounds=20, warmup=5, concurrency=at_once
                )
            timed = with_client(library, use)
            assert busy["most"] == at_once
            assert len(calls) == 1 + 5 + 20
            assert timed["sql_queries"] == timed["http_requests"] == 1
            assert timed.timing.rounds == 20

        def test_concurrency_of_a_sync_client(perf, client):
            with pytest.raises(TimingError, match="concurrency=4 needs an async call"):
                perf.http(client).get("/users/3", rounds=20, concurrency=4)
            assert client.get("/users/5").status_code == 200

        def test_max_time(perf, client):
            timed = perf.http(client).get("/users/3", rounds=1_000_000, warmup=0, max_time="1us")
            # Each row has one round, however little time there is.
            assert timed.timing.rounds == 1
            assert timed.timing.plan.rounds == 1_000_000
            timed = perf.http(client).get("/users/3", rounds=3, max_time=60)
            assert timed.timing.rounds == 3

        def test_without_rounds(perf, client):
            assert perf.http(client).get("/users/3").json() == "4@shop"
            assert calls == [("GET", 3)]
        """,
    )

    result = run("--perfguard-json=run.json")

    result.assert_outcomes(passed=7 + 1 + 2 + 4 + 3)
    found = records()
    (span,) = found["test_verbs[get]"].span.children
    assert span.name == "GET /users/{number}"
    assert span.timing is not None
    assert span.timing["rounds"] == 5
    assert span.timing["planned"] == 5
    assert span.timing["warmup"] == 2
    assert len(span.timing["sample"]) == 5
    assert found["test_verbs[get]"].metrics["sql_queries"] == 1
    assert found["test_concurrency_of_a_sync_client"].metrics["sql_queries"] == 2


def test_what_is_sent_may_differ_from_round_to_round(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    write_tests(
        pytester,
        """
        from itertools import count

        def test_functions(perf, client):
            numbers = {name: count(start) for start, name in
                       enumerate(["url", "json", "params", "headers"])}
            perf.http(client).post(
                lambda: f"/echo?u={next(numbers['url'])}",
                json=lambda: {"number": next(numbers["json"])},
                headers=lambda: {"x-key": str(next(numbers["headers"]))},
                rounds=3, warmup=1,
            )
            assert calls == [
                (f"u={n}", str(n + 3), b'{"number":%d}' % (n + 1)) for n in range(5)
            ]

        def test_others(perf, client):
            numbers = count()
            perf.http(client).post(
                "/echo", params=lambda: {"n": next(numbers)}, content=lambda: b"body",
                rounds=1, warmup=0,
            )
            perf.http(client).post("/echo", data=lambda: {"n": str(next(numbers))})
            assert calls == [("n=0", None, b"body"), ("n=1", None, b"body"), ("", None, b"n=2")]

        def test_as_they_are(perf, client):
            perf.http(client).post(
                "/echo", headers={"x-key": "k"}, params={"a": 1}, rounds=2, warmup=0
            )
            assert calls == [("a=1", "k", b"")] * 3

        @both
        def test_async(perf, library):
            numbers = count()
            async def use(client):
                return await perf.http(client).post(
                    "/echo", json=lambda: next(numbers), rounds=8, warmup=4, concurrency=4
                )
            with_client(library, use)
            assert sorted(int(body) for *_, body in calls) == list(range(13))
        """,
    )

    run_once().assert_outcomes(passed=5)


# -- the probes are off --------------------------------------------------------------------------


def test_while_rounds_are_timed_nothing_of_perfguard_is_in_place(
    pytester: pytest.Pytester, run: Run
) -> None:
    write(
        pytester,
        # As they are before anything is measured.
        originals="""
        import fastapi.routing, httpx, httpx2, redis, redis.asyncio, requests, starlette.background
        import starlette.routing, werkzeug.test
        from sqlalchemy.engine import Connection

        PLACES = [
            (httpx.Client, "send"), (httpx.AsyncClient, "send"),
            (httpx2.Client, "send"), (httpx2.AsyncClient, "send"),
            (requests.Session, "send"), (werkzeug.test.Client, "open"),
            (redis.Redis, "execute_command"), (redis.asyncio.Redis, "execute_command"),
            (starlette.routing.Route, "handle"), (starlette.background.BackgroundTask, "__call__"),
            (Connection, "_commit_impl"),
        ]
        BEFORE = [vars(owner)[name] for owner, name in PLACES]

        def ours(function):
            return getattr(function, "__module__", "").startswith("pytest_perfguard")

        def look(engine):
            # Names everything of perfguard's that SQL, cache commands or requests pass through.
            found = {
                f"{owner.__module__}.{owner.__name__}.{name}"
                for (owner, name), before in zip(PLACES, BEFORE)
                if vars(owner)[name] is not before
            }
            from sqlalchemy.orm import Session
            for target in (engine, engine.pool, engine.dialect, Session()):
                for name in type(target.dispatch)._event_names:
                    if any(ours(listener) for listener in getattr(target.dispatch, name)):
                        found.add(name)
            return found
        """,
        test_off="""
        import asyncio
        from originals import look
        import fakeredis, fastapi, httpx, httpx2, pytest, shop
        from starlette.testclient import TestClient

        EXPECTED = {
            "do_execute", "do_executemany", "checkout", "before_flush",
            "redis.client.Redis.execute_command", "redis.asyncio.client.Redis.execute_command",
            "httpx.Client.send", "httpx.AsyncClient.send", "httpx2.Client.send",
            "httpx2.AsyncClient.send", "requests.sessions.Session.send",
            "werkzeug.test.Client.open", "starlette.routing.Route.handle",
            "starlette.background.BackgroundTask.__call__",
        }
        app = fastapi.FastAPI()
        cache = fakeredis.FakeRedis()
        seen = []

        @app.get("/look")
        def look_around():
            cache.get("key")
            shop.get_email(1)
            seen.append(look(shop.engine))

        @pytest.fixture(autouse=True)
        def fresh():
            seen.clear()

        def short(names):
            return {name.replace("httpx._client", "httpx").replace("httpx2._client", "httpx2")
                    for name in names}

        def check(timed, rounds):
            first, *others = seen
            # The eyes can see: with the probes on, there is something.
            assert short(first) >= EXPECTED
            assert others == [set()] * rounds
            # They are back, and count.
            assert look(shop.engine) == first

        def test_http(perf):
            timed = perf.http(TestClient(app)).get("/look", rounds=5, warmup=3)
            check(timed, 8)
            single = perf.http(TestClient(app)).get("/look", rounds=1, warmup=0)
            for name in ("sql_queries", "sql_rows", "cache_commands", "http_requests"):
                assert timed[name] == single[name] == 1

        @pytest.mark.parametrize("library", [httpx, httpx2])
        @pytest.mark.parametrize("at_once", [1, 3])
        def test_http_async(perf, library, at_once):
            async def use():
                transport = library.ASGITransport(app)
                async with library.AsyncClient(transport=transport, base_url="http://t") as client:
                    return await perf.http(client).get(
                        "/look", rounds=6, warmup=3, concurrency=at_once
                    )
            check(asyncio.run(use()), 9)

        def test_time(perf):
            timed = perf.time(look_around, rounds=5, warmup=3)
            check(timed, 8)
            assert timed["sql_queries"] == timed["cache_commands"] == 1

        def test_time_async(perf):
            async def call():
                look_around()
            check(asyncio.run(wait(perf.time(call, rounds=5, warmup=3))), 8)

        async def wait(what):
            return await what

        @pytest.mark.parametrize("rounds", [0, 5])
        def test_they_are_back_after_an_error_too(perf, rounds):
            calls = list(range(rounds))
            with pytest.raises(IndexError):
                perf.time(lambda: calls.pop(), rounds=20, warmup=0)
            assert short(look(shop.engine)) >= EXPECTED
            with perf.measure("after", sql_queries=1) as measured:
                shop.get_email(1)
            assert measured["sql_queries"] == 1

        def test_they_are_back_after_a_wrong_status(perf):
            with pytest.raises(Exception, match="status 200, expected 201"):
                perf.http(TestClient(app)).get("/look", rounds=20, status=201)
            assert short(look(shop.engine)) >= EXPECTED

        def test_what_is_timed_inside_a_block_is_counted_once(perf):
            with perf.measure("block", sql_queries=3) as measured:
                shop.get_email(1)
                perf.http(TestClient(app)).get("/look", rounds=5)
                shop.get_email(2)
            assert measured["sql_queries"] == 3
            assert measured["cache_commands"] == 1
        """,
    )

    result = run()

    result.assert_outcomes(passed=1 + 4 + 2 + 2 + 1 + 1)


def test_two_timings_at_once_are_refused(pytester: pytest.Pytester, run_once: Run) -> None:
    # Each of them would run with the probes that the other one switched on, and be counted.
    write_tests(
        pytester,
        """
        def test_at_once(perf):
            async def use(client):
                get = perf.http(client).get
                with pytest.raises(TimingError, match="test_timed.py:.*one after the other"):
                    await asyncio.gather(
                        get("/async/users/1", rounds=30), get("/async/users/2", rounds=30)
                    )
            with_client(httpx2, use)

        def test_one_inside_the_other(perf):
            with pytest.raises(TimingError, match="test_timed.py:.*one after the other"):
                perf.time(lambda: perf.time(lambda: None, rounds=2), rounds=2)

        def test_after(perf):
            for _ in range(2):
                assert perf.time(lambda: shop.get_email(1), rounds=2)["sql_queries"] == 1
        """,
    )

    run_once().assert_outcomes(passed=3)


# -- what ends a timing --------------------------------------------------------------------------


def test_the_status_is_checked_on_every_round(pytester: pytest.Pytester, run: Run) -> None:
    write_tests(
        pytester,
        """
        @pytest.mark.parametrize(("bad", "where"), [
            (1, "the first, cold round"), (2, "warm-up round 1 of 2"), (4, "round 1 of 5"),
            (8, "round 5 of 5"),
        ])
        def test_status(perf, client, bad, where):
            with pytest.raises(RoundError) as caught:
                perf.http(client).get(f"/turns/{bad}", rounds=5, warmup=2)
            text = str(caught.value)
            start = f"{where}: status 418, expected any of 200 to 299: out of stock xxx"
            assert text.startswith(start)
            assert len(text) < 300
            assert len(calls) == bad

        @both
        @pytest.mark.parametrize("at_once", [1, 2])
        def test_async(perf, library, at_once):
            async def use(client):
                with pytest.raises(RoundError, match=r"^round [2-5] of 6: status 418, expected"):
                    await perf.http(client).get(
                        "/turns/6", rounds=6, warmup=2, concurrency=at_once
                    )
            with_client(library, use)

        def test_expected(perf, client):
            perf.http(client).get("/turns/1", rounds=5, status=418)
            perf.http(client).get("/turns/3", rounds=5, status=(200, 418))
            with pytest.raises(RoundError, match="status 418, expected 200 or 204: out"):
                perf.http(client).get("/turns/1", rounds=5, status=[200, 204])
            with pytest.raises(RoundError, match="status 200, expected 201: "):
                perf.http(client).get("/users/1", rounds=5, status=201)

        def test_once(perf, client):
            # The test itself looks at a response that is sent once, unless it says what it wants.
            assert perf.http(client).get("/turns/1").status_code == 418
            assert perf.http(client).get("/turns/1", status=418).status_code == 418
            with pytest.raises(Exception, match="status 418, expected 200: out of stock"):
                perf.http(client).get("/turns/1", status=200)

        @pytest.mark.parametrize(("bad", "where"), [
            (1, "the first, cold round"), (2, "warm-up round 1 of 2"), (5, "round 2 of 5"),
        ])
        def test_raised(perf, client, bad, where):
            with pytest.raises(LookupError, match="in a round") as caught:
                perf.http(client).get(f"/raises/{bad}", rounds=5, warmup=2)
            assert caught.value.__notes__ == [f"perfguard: raised in {where} of a timing"]
            silent = TestClient(app, raise_server_exceptions=False)
            with pytest.raises(RoundError, match="cold round: status 500, expected any"):
                perf.http(silent).get(f"/raises/{bad}", rounds=5)
        """,
    )

    run().assert_outcomes(passed=4 + 4 + 1 + 1 + 3)


def test_fewer_rounds_than_a_percentile_needs_is_an_error_that_says_how_many(
    pytester: pytest.Pytester, run: Run, failed: Failed
) -> None:
    write_tests(
        pytester,
        """
        @pytest.mark.perf_budget(http_p95="60s")
        def test_mark(perf, client):
            perf.http(client).get("/users/1", rounds=19)

        @pytest.mark.perf_budget(http_p99="60s")
        def test_mark_p99(perf, client):
            perf.http(client).get("/users/1", rounds=99)

        def test_endpoint(perf, client):
            perf.http(client).post("/users/1", rounds=10)

        def test_limit(perf):
            perf.time(lambda: None, rounds=10, time_p95="60s")

        def test_limit_async(perf):
            async def call():
                pass
            async def use():
                await perf.time(call, rounds=1, time_stddev="60s")
            asyncio.run(use())

        @pytest.mark.perf_budget(http_p95="60s")
        def test_max_time(perf, client):
            perf.http(client).get("/users/1", rounds=100, max_time="1us")

        @pytest.mark.perf_budget(http_p95="60s")
        def test_enough(perf, client):
            timed = perf.http(client).get("/users/1", rounds=20)
            assert timed["http_p95"] > 0
            with pytest.raises(KeyError, match="http_p99 needs at least 100 rounds, not 20"):
                timed["http_p99"]
            perf.time(lambda: None, rounds=20, time_p95="60s", time_iqr="60s")
        """,
    )

    result = run("--perfguard-budgets=POST *: http_p95=60s")

    assert failed(result) == [
        "test_endpoint", "test_limit", "test_limit_async", "test_mark", "test_mark_p99",
        "test_max_time",
    ]  # fmt: skip
    result.assert_outcomes(passed=1, failed=6)
    output = result.stdout.str()
    output = re.sub(r"test_timed\.py:\d+", "FILE", output)
    for line in (
        "perf.http, FILE: http_p95 needs at least 20 rounds, not 19: write rounds=20",
        "perf.http, FILE: http_p99 needs at least 100 rounds, not 99: write rounds=100",
        (
            "perf.http, FILE: http_p95 needs at least 20 rounds, not 10: write rounds=20; "
            "its limit is that of perfguard_budgets, 'POST *: http_p95=60s'"
        ),
        "perf.time, FILE: time_p95 needs at least 20 rounds, not 10: write rounds=20",
        "perf.time, FILE: time_stddev needs at least 2 rounds, not 1: write rounds=2",
        "p95 needs at least 20 rounds, but max_time='1us' ended them after 1 of 100",
    ):
        assert line in output, line


def test_a_timing_that_makes_no_sense_is_refused_before_anything_is_sent(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    write_tests(
        pytester,
        """
        @pytest.mark.parametrize(("arguments", "message"), [
            ({"rounds": 0}, "rounds=0 is not a whole number of at least 1"),
            ({"rounds": 5, "warmup": -1}, "warmup=-1 is not"),
            ({"rounds": 5, "concurrency": 0}, "concurrency=0 is not"),
            ({"rounds": 5, "max_time": "5"}, "max_time: '5' has no unit"),
            ({"rounds": 5, "max_time": "0s"}, "is no time to run rounds in"),
            ({"rounds": 2.5}, "rounds=2.5 is not"),
        ])
        def test_refused(perf, client, arguments, message):
            with pytest.raises(TimingError, match=message):
                perf.http(client).get("/users/1", **arguments)
            with pytest.raises(TimingError, match=message):
                perf.time(lambda: calls.append(1), **arguments)
            assert calls == []
            assert client.get("/users/1").status_code == 200

        def test_limits(perf):
            for limits, message in (
                ({"time_p97": "1s"}, "perf.time, test_timed.py:.*: unknown metric 'time_p97'"),
                ({"time_p95": 3}, "time_p95: 3 has no unit"),
            ):
                with pytest.raises(ValueError, match=message):
                    perf.time(lambda: calls.append(1), **limits)
            for wrong in (5, None):
                with pytest.raises(TypeError, match="perf.time, .*: function is of type .*, which"):
                    perf.time(wrong)
            assert calls == []
        """,
    )

    run_once("--perfguard-json=run.json").assert_outcomes(passed=7)


def test_arguments_that_would_do_nothing_or_let_nothing_pass_are_refused(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    write_tests(
        pytester,
        """
        @pytest.mark.parametrize(("arguments", "message"), [
            ({"max_time": "5s"}, "nothing is timed, so max_time='5s' does nothing: write rounds="),
            ({"warmup": 3, "concurrency": 2}, "so warmup=3, concurrency=2 does nothing"),
            ({"rounds": 2, "status": "200"}, "status='200' is no status of HTTP: write status="),
            ({"rounds": 2, "status": "2xx"}, "status='2xx' is no status"),
            ({"status": True}, "status=True is no status"),
            ({"status": []}, r"status=\\[\\] is no status"),
            ({"status": [200, "404"]}, r"status=\\[200, '404'\\] is no status"),
            ({"status": 20}, "status=20 is no status"),
            ({"status": 2e2}, "status=200.0 is no status"),
        ])
        def test_refused(perf, client, arguments, message):
            with pytest.raises(TimingError, match="perf.http, test_timed.py:.*: .*" + message):
                perf.http(client).get("/users/1", **arguments)
            assert calls == []

        def test_allowed(perf, client):
            for status in (200, range(200, 300), {200, 404}, (200,)):
                perf.http(client).get("/users/1", status=status)
                perf.http(client).get("/users/1", rounds=1, warmup=0, status=status)
            assert len(calls) == 4 * 3
        """,
    )

    run_once().assert_outcomes(passed=10)


# -- perf.time -----------------------------------------------------------------------------------


def test_any_callable_and_any_coroutine_function_can_be_timed(
    pytester: pytest.Pytester, run: Run, failed: Failed, records: Records
) -> None:
    write_tests(
        pytester,
        """
        import functools

        class Call:
            def __call__(self):
                calls.append(1)
                return shop.get_email(1)

            def method(self):
                return self()

            async def later(self):
                await asyncio.sleep(0)
                return self()

        async def coroutine():
            return Call()()

        async def wait(what):
            return await what

        def check(timed):
            assert len(calls) == 1 + 10 + 5
            assert timed.result == "1@shop"
            assert timed["sql_queries"] == 1
            assert timed["time_mean"] > 0
            assert timed.timing.rounds == 5

        @pytest.mark.parametrize("call", [
            Call(), Call().method, lambda: Call()(), functools.partial(shop.get_email, 1)
        ])
        def test_callable(perf, call):
            timed = perf.time(call, rounds=5)
            if isinstance(call, functools.partial):
                assert timed["sql_queries"] == 1
            else:
                check(timed)

        @pytest.mark.parametrize("call", [
            coroutine, Call().later, lambda: coroutine(), functools.partial(coroutine)
        ])
        def test_coroutine_function(perf, call):
            check(asyncio.run(wait(later(perf, call))))

        async def later(perf, call):
            return await perf.time(call, rounds=5)

        def test_concurrency(perf):
            async def call():
                busy["now"] += 1
                busy["most"] = max(busy.values())
                for _ in range(10):
                    await asyncio.sleep(0)
                busy["now"] -= 1
            async def use():
                await perf.time(call, rounds=8, warmup=4, concurrency=4)
            asyncio.run(use())
            assert busy["most"] == 4

        def test_check(perf):
            with pytest.raises(RoundError, match="round 3 of 5: the check returned False for 14"):
                numbers = iter(range(100))
                perf.time(lambda: next(numbers), rounds=5, warmup=11, check=lambda n: n < 14)

        def test_names(perf):
            perf.time(shop.list_eagerly, rounds=1)
            perf.time(Call().method, rounds=1)
            perf.time(lambda: None, rounds=1, name="nothing")
            perf.time(lambda: None, rounds=1, name="nothing")

        def test_limits(perf):
            perf.time(shop.list_lazily, name="list", rounds=2, sql_queries=2, time_mean="60s",
                      sql_n_plus_one=0)

        def test_time_limit(perf):
            perf.time(Call(), rounds=20, time_p95="1ns", time_median="60s")
        """,
    )

    result = run("--perfguard-json=run.json")

    assert failed(result) == ["test_limits", "test_time_limit"]
    result.assert_outcomes(passed=4 + 4 + 3, failed=2)
    assert [span.name for span in records()["test_names"].span.children] == [
        "list_eagerly",
        "Call.method",
        "nothing",
        "nothing #2",
    ]
    result.stdout.re_match_lines_random(
        [
            r"perfguard: 2 of 3 budgets exceeded in list$",
            r"  sql_queries +21 > 2 +perf\.time, test_timed\.py:\d+$",
            r"perfguard: 1 of 2 budgets exceeded in Call$",
            r"  time_p95 +.* > 1 ns +perf\.time, test_timed\.py:\d+$",
            r"Call: 20 rounds, measured 3 times, the smallest of each: median .*, p95 .*, max",
            r"    first, cold round: .*, with the probes on$",
        ]
    )


def test_what_nobody_awaits_is_an_error(
    pytester: pytest.Pytester, run: Run, failed: Failed
) -> None:
    write_tests(
        pytester,
        """
        async def call():
            return shop.get_email(1)

        def test_time(perf):
            perf.time(call, rounds=5)

        def test_time_lambda(perf):
            perf.time(lambda: call(), rounds=5)

        @both
        @pytest.mark.parametrize("rounds", [None, 5])
        def test_http(perf, library, rounds):
            transport = library.ASGITransport(app)
            client = library.AsyncClient(transport=transport, base_url="http://t")
            perf.http(client).get("/users/1", rounds=rounds)

        def test_after(perf):
            with perf.measure("after", sql_queries=1) as measured:
                shop.get_email(1)
            assert measured["sql_queries"] == 1
        """,
    )

    result = run("-W", "ignore::RuntimeWarning")

    assert failed(result) == [
        "test_http[5-httpx2]", "test_http[5-httpx]", "test_http[None-httpx2]",
        "test_http[None-httpx]", "test_time", "test_time_lambda",
    ]  # fmt: skip
    result.assert_outcomes(passed=1, failed=6)
    output = result.stdout.str()
    not_awaited = r"  perf\.{}, test_timed\.py:\d+: not awaited: write 'await' before it"
    assert len(re.findall(not_awaited.format("http"), output)) == 4
    assert len(re.findall(not_awaited.format("time"), output)) == 2


# -- budgets on time ------------------------------------------------------------------------------


def test_a_real_breach_fails_after_it_was_measured_three_times(
    pytester: pytest.Pytester, run: Run, failed: Failed
) -> None:
    write_tests(
        pytester,
        """
        @pytest.mark.perf_budget(http_p95="1ns", http_max="60s")
        def test_over(perf, client):
            perf.http(client).get("/burn/10", rounds=20, warmup=1)

        @pytest.mark.perf_budget(http_p95="60s", http_cpu="60s", http_iqr="60s", sql_queries=1)
        def test_kept(perf, client):
            timed = perf.http(client).get("/users/1", rounds=20)
            assert timed.timing.repeated == 0
            assert len(calls) == 31

        @pytest.mark.perf_budget(http_mean="1us")
        def test_each_of_two(perf, client):
            perf.http(client).get("/burn/10", rounds=3)
            assert perf.http(client).get("/burn/10", rounds=3).timing.repeated == 2

        @both
        @pytest.mark.perf_budget(http_median="1us")
        def test_async(perf, library):
            async def use(client):
                await perf.http(client).get("/async/users/1", rounds=8, warmup=0, concurrency=4)
            with_client(library, use)
            assert len(calls) == 1 + 3 * 8

        @pytest.mark.perf_budget(time_max="1ns")
        def test_time(perf):
            timed = perf.time(lambda: calls.append(1), rounds=4, warmup=0)
            assert len(calls) == 1 + 3 * 4
            assert timed.timing.repeated == 2

        @pytest.mark.perf_budget(http_max="60s")
        def test_nothing_timed(perf, client):
            perf.http(client).get("/users/1")

        @pytest.mark.perf_budget(time_max="0s")
        def test_nothing_timed_at_all(perf):
            pass
        """,
    )

    result = run()

    assert failed(result) == [
        "test_async[httpx2]", "test_async[httpx]", "test_each_of_two", "test_nothing_timed",
        "test_nothing_timed_at_all", "test_over", "test_time",
    ]  # fmt: skip
    result.assert_outcomes(passed=1, failed=7)
    output = result.stdout.str()
    assert "perfguard: 1 of 2 budgets exceeded in GET /burn/{loops}\n" in output
    assert "GET /burn/{loops}: 20 rounds, measured 3 times, the smallest of each: " in output
    assert "GET /async/users/{number}: 8 rounds, 4 at once, measured 3 times, the s" in output
    assert "no timed round of a request was observed in test_nothing_timed, so the b" in output


def test_a_limit_on_time_may_only_warn(pytester: pytest.Pytester, run: Run) -> None:
    write_tests(
        pytester,
        """
        @pytest.mark.perf_budget(http_p95="1ns")
        def test_mark(perf, client):
            perf.http(client).get("/users/1", rounds=20)

        def test_time(perf):
            perf.time(lambda: None, rounds=20, time_p95="1ns")
        """,
    )

    result = run("--perfguard-level=http_p95: warn", "--perfguard-level=time_p95: warn")

    result.assert_outcomes(passed=2)
    result.stdout.re_match_lines_random(
        [
            r"warning: test_timed\.py::test_mark: 1 of 1 budget exceeded in GET /users/\{number\}",
            r"  http_p95 .* > 1 ns +perf_budget, test_timed\.py:\d+  \(only warns\)",
            r"warning: test_timed\.py::test_time: 1 of 1 budget exceeded in test_time.<lambda>",
            r"  time_p95 .* > 1 ns +perf\.time, test_timed\.py:\d+  \(only warns\)",
        ]
    )


# -- progress -------------------------------------------------------------------------------------

# The clock goes on by two seconds whenever it is asked for the time, so that each round is one
# after which a line is due.
SLOW_CLOCK = """
    import sys
    from itertools import count, repeat

    from pytest_perfguard.spans import Clock

    Clock.now = staticmethod(count(0.0, 2.0).__next__)

    def pytest_unconfigure():
        if "shop" in sys.modules:
            sys.modules["shop"].engine.dispose()
"""
LONG_TESTS = """
    import pytest

    def test_plain():
        pass

    def test_long(perf):
        perf.time(lambda: None, rounds=40)

    def test_cut_short(perf):
        perf.time(lambda: None, rounds=100_000_000, warmup=0, max_time="20ms")

    def test_ended_by_an_error(perf):
        numbers = list(range(25))
        with pytest.raises(IndexError):
            perf.time(lambda: numbers.pop(), rounds=40, warmup=0)

    def test_repeated(perf):
        perf.time(lambda: None, rounds=40, warmup=0, time_max="1ns")

    def test_last():
        pass
"""


def on_a_terminal(pytester: pytest.Pytester, **environment: str) -> str:
    """Return what pytest writes to a terminal."""
    leader, follower = pty.openpty()
    variables = {name: value for name, value in os.environ.items() if name not in _CI}
    process = subprocess.Popen(
        [sys.executable, "-mpytest", *LEAN, "-p", "no:cacheprovider", "--color=no"],
        cwd=pytester.path,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**variables, "TERM": "xterm", "COLUMNS": "100", **environment},
    )
    os.close(follower)
    written = b""
    while True:
        ready, _, _ = select.select([leader], [], [], 60)
        assert ready, f"nothing more was written after {written[-200:]!r}"
        try:
            part = os.read(leader, 65536)
        except OSError:  # Linux says so when the other end was closed
            part = b""
        if not part:
            break
        written += part
    os.close(leader)
    assert process.wait(60) in (0, 1)
    return written.decode()


_CI = ("CI", "BUILD_NUMBER", "GITHUB_ACTIONS", "PYTEST_XDIST_WORKER", "PYTEST_CURRENT_TEST")


def screen(written: str) -> list[str]:
    """Return what a terminal shows in the end, without times."""
    lines, row, column = [""], 0, 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[78]", "", written)
    for character in text:
        if character == "\r":
            column = 0
        elif character == "\b":
            column = max(column - 1, 0)
        elif character == "\n":
            row, column = row + 1, 0
            if row == len(lines):
                lines.append("")
        else:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + character + line[column + 1 :]
            column += 1
    return [_without_times(line.rstrip()) for line in lines]


def _without_times(line: str) -> str:
    """Return a line without its times, and without what they shift."""
    plain, times = re.subn(r"\d[\d.,]* ?[mµn]?s\b", "<time>", line)
    return re.sub(r"=+| +", " ", plain) if times else plain


@pytest.fixture
def long_tests(pytester: pytest.Pytester) -> None:
    """Write tests that take long by their clock."""
    write(pytester, conftest=SLOW_CLOCK, test_long=LONG_TESTS)


@pytest.mark.usefixtures("long_tests")
@pytest.mark.parametrize("arguments", ["", "-s", "-v", "-p no:terminalreporter"])
def test_progress_is_shown_on_a_terminal(pytester: pytest.Pytester, arguments: str) -> None:
    written = on_a_terminal(pytester, PYTEST_ADDOPTS=arguments)

    shown = re.findall(r"perfguard: perf\.time, test_long\.py:8 +(\d+) of 40 rounds", written)
    assert bool(shown) is ("no:terminalreporter" not in arguments)
    assert [int(number) for number in shown] == sorted({int(number) for number in shown})


@pytest.mark.usefixtures("long_tests")
@pytest.mark.parametrize("arguments", ["", "-s", "-v", "-q"])
def test_progress_leaves_the_terminal_as_it_would_be_without(
    pytester: pytest.Pytester, arguments: str
) -> None:
    with_progress = on_a_terminal(pytester, PYTEST_ADDOPTS=arguments)
    write(pytester, conftest=SLOW_CLOCK.replace("count(0.0, 2.0)", "repeat(0.0)"))
    without = on_a_terminal(pytester, PYTEST_ADDOPTS=arguments)

    assert "perfguard: perf.time" in with_progress
    assert "perfguard: perf.time" not in without
    ended = [line for line in screen(with_progress) if "of 40 rounds" in line]
    assert ended == []
    assert screen(with_progress) == screen(without)


@pytest.mark.usefixtures("long_tests")
def test_nothing_is_shown_where_a_log_is_written(pytester: pytest.Pytester, run: Run) -> None:
    result = run()
    result.assert_outcomes(passed=5, failed=1)
    assert " of 40 rounds" not in result.stdout.str()
    assert " of 40 rounds" not in run("-s").stdout.str() + run("-v").stdout.str()
    assert " of 40 rounds" not in on_a_terminal(pytester, CI="true")
    assert " of 40 rounds" not in on_a_terminal(pytester, PYTEST_ADDOPTS="-n2")
