"""``perf.cold_warm``: the same call with an empty cache and with a full one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import pytest

from pytest_perfguard.model import Record
from tests.integration.cached_shop import real_redis, write

Run = Callable[..., pytest.RunResult]
Failed = Callable[[pytest.RunResult], list[str]]
Records = Callable[[], dict[str, Record]]

IMPORTS = """
import asyncio, functools, hashlib, itertools, json, time, uuid
from datetime import datetime, timezone

import pytest, shop
from sqlalchemy.orm import Session

import cached_shop
from cached_shop import NAME, cached, cached_async, client, connect_async, flush, load


def through(key, stored=None):
    found = client.get(key)
    if found is not None:
        return json.loads(found)
    value = load()
    client.set(stored or key, json.dumps(value), ex=60)
    return value
"""


@pytest.fixture
def run(run_once: Run) -> Run:
    """Run pytest in one process: a contract is judged where its test runs.

    That workers of pytest-xdist send on what it found is a test of its own.
    """
    return run_once


@pytest.fixture
def name(pytester: pytest.Pytester) -> str:
    """Write the shop with its cache; the name under which its keys stand."""
    return write(pytester)


@pytest.fixture(params=["fakeredis", "Redis"])
def name_on_both(request: pytest.FixtureRequest, pytester: pytest.Pytester) -> Iterator[str]:
    """The same, once on a Redis of the process itself and once on a real one."""
    if request.param == "fakeredis":
        yield write(pytester)
    else:
        with real_redis() as url:
            yield write(pytester, url)


@pytest.fixture
def suite(pytester: pytest.Pytester) -> Callable[..., None]:
    """Write a test file that has everything imported."""

    def make(text: str, name: str = "test_calls") -> None:
        pytester.makepyfile(**{name: IMPORTS})
        path = pytester.path / f"{name}.py"
        path.write_text(f"{path.read_text()}\n{text}", encoding="utf-8")

    return make


def failures(result: pytest.RunResult) -> dict[str, str]:
    """Return the text of each failure, by the test's name."""
    text = result.stdout.str().partition("= FAILURES =")[2].partition("\n= ")[0]
    parts = re.split(r"^_{3,} (\S.*?) _{3,}$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def statuses(record: Record) -> dict[str, str]:
    """Return how each budget of the warm call was judged."""
    return {v.metric: str(v.status) for v in record.verdicts if v.span.startswith("warm")}


KEPT = dict.fromkeys(
    ("cache_hits", "cache_misses", "cache_unstable_keys", "cache_rereads", "cache_differences"),
    "ok",
)


@pytest.mark.usefixtures("name_on_both")
def test_a_right_cache_keeps_the_contract(
    suite: Callable[..., None], run: Run, records: Records
) -> None:
    suite(
        """
class Watched:
    hits = misses = 0
    value = None

    def get(self):
        if self.value is None:
            self.misses += 1
            self.value = load()
        else:
            self.hits += 1
        return self.value


def test_sync(perf):
    client.set(f"{NAME}:7", '"what was there before"', ex=60)
    cold, warm = perf.cold_warm(
        cached, flush=flush, cold={"sql_queries": 1}, warm={"sql_queries": 0, "cache_commands": 1}
    )
    assert (cold["cache_misses"], cold["cache_hits"], cold["sql_queries"]) == (1, 0, 1)
    assert (warm["cache_misses"], warm["cache_hits"], warm["sql_queries"]) == (0, 1, 0)
    assert (cold["cache_commands"], warm["cache_commands"]) == (2, 1)
    assert (warm["cache_rereads"], warm["cache_differences"]) == (0, 0)


@pytest.mark.perf_budget(sql_queries=1, cache_commands=3)
class TestClass:
    def test_method(self, perf):
        perf.cold_warm(cached, flush=flush)


def test_several_keys_and_pipelines(perf):
    keys = [f"{NAME}:{n}" for n in (1, 2, 3)]

    def call():
        found = client.mget(keys)
        if None in found:
            found = [json.dumps(load(n)) for n in (1, 2, 3)]
            with client.pipeline() as pipeline:
                for key, value in zip(keys, found):
                    pipeline.set(key, value, ex=60)
                pipeline.execute()
        return [json.loads(value) for value in found]

    cold, warm = perf.cold_warm(call, flush=flush)
    assert (cold["cache_misses"], warm["cache_hits"], warm["cache_roundtrips"]) == (3, 3, 1)


def test_hash(perf):
    def call():
        found = client.hgetall(f"{NAME}:7")
        if not found:
            client.hset(f"{NAME}:7", mapping=load())
            client.expire(f"{NAME}:7", 60)
        return client.hget(f"{NAME}:7", "name")

    perf.cold_warm(call, flush=flush)


def test_two_calls(perf):
    perf.cold_warm(lambda: cached(1), flush=flush)
    perf.cold_warm(lambda: cached(2), flush=flush)


def test_in_process(perf):
    cache = perf.cache.watch(Watched())
    cold, warm = perf.cold_warm(cache.get)
    assert (cold["cache_misses"], warm["cache_hits"]) == (1, 1)


def test_a_lock_and_a_second_look(perf):
    def call():
        if client.get(f"{NAME}:7") is None:
            return cached()
        return cached()

    perf.cold_warm(call, flush=flush)


def test_what_the_flush_does_is_not_measured(perf):
    def empty():
        flush()
        shop.list_lazily()

    cold, warm = perf.cold_warm(cached, flush=empty)
    assert (cold["sql_queries"], cold["cache_commands"], warm["sql_queries"]) == (1, 2, 0)


@pytest.mark.perf_budget(sql_queries=1, cache_commands=3)
def test_nor_does_the_test_pay_for_it(perf):
    def empty():
        flush()
        shop.list_lazily()

    perf.cold_warm(cached, flush=empty)


def test_async_call(perf):
    async def main():
        async with connect_async() as redis:
            return await perf.cold_warm(lambda: cached_async(redis), flush=flush)

    cold, warm = asyncio.run(main())
    assert (cold["sql_queries"], warm["sql_queries"], warm["cache_hits"]) == (1, 0, 1)


def test_async_flush(perf):
    async def main():
        async with connect_async() as redis:
            await cached_async(redis)

            async def empty():
                await redis.delete(f"{NAME}:7")
                shop.list_lazily()

            return await perf.cold_warm(lambda: cached_async(redis), flush=empty)

    cold, warm = asyncio.run(main())
    assert (cold["sql_queries"], cold["cache_commands"], warm["cache_hits"]) == (1, 2, 1)


def test_sync_call_with_async_flush(perf):
    async def main():
        async def empty():
            flush()

        return await perf.cold_warm(cached, flush=empty)

    cold, warm = asyncio.run(main())
    assert (cold["cache_misses"], warm["cache_hits"]) == (1, 1)


def test_in_a_task_of_its_own(perf):
    async def main():
        async with connect_async() as redis:
            async def call():
                return await asyncio.create_task(cached_async(redis))

            await perf.cold_warm(call, flush=flush)

    asyncio.run(main())
"""
    )

    result = run("--perfguard-json=run.json")

    assert failures(result) == {}
    found = records()
    assert len(found) == 13
    for record in found.values():
        assert set(statuses(record).values()) == {"ok"}
    assert statuses(found["test_in_process"]) == KEPT
    assert [part.name for part in found["test_two_calls"].span.children] == [
        "cold", "warm", "cold #2", "warm #2",
    ]  # fmt: skip
    (one, budgets), *_ = ((v.where, v.limit) for v in found["test_method"].verdicts)
    assert one.startswith("perf_budget, test_calls.py:")
    assert budgets == 1


@pytest.mark.usefixtures("name")
def test_through_the_clients_of_web_frameworks(
    suite: Callable[..., None], run: Run, records: Records
) -> None:
    suite(
        """
import httpx
from fastapi import FastAPI, Header
from fastapi.testclient import TestClient
from flask import Flask, jsonify

app = FastAPI()


@app.get("/resources/{number}")
def resource(number: int):
    return cached(number)


@app.get("/async/resources/{number}")
async def async_resource(number: int):
    async with connect_async() as redis:
        return await cached_async(redis, number)


@app.get("/changed/{number}")
def changed(number: int):
    found = client.get(f"{NAME}:{number}")
    if found is not None:
        return {"id": number, "at": "2026-01-01T00:00:00"}
    client.set(f"{NAME}:{number}", "x", ex=60)
    return {"id": number, "at": "2026-01-01 00:00:00"}


@app.get("/forgotten/{number}")
def forgotten(number: int):
    return through(f"{NAME}:{uuid.uuid4()}")


flask_app = Flask(__name__)


@flask_app.get("/resources/<int:number>")
def flask_resource(number):
    return jsonify(cached(number))


@flask_app.get("/changed/<int:number>")
def flask_changed(number):
    if client.get(f"{NAME}:{number}") is not None:
        return "warm", 203
    client.set(f"{NAME}:{number}", "x", ex=60)
    return "cold", 200


@pytest.mark.parametrize("path", ["/resources/7", "/async/resources/7"])
def test_starlette(perf, path):
    get = TestClient(app).get
    cold, warm = perf.cold_warm(lambda: get(path), flush=flush, cold={"sql_queries": 1})
    assert (cold["cache_misses"], warm["cache_hits"], warm["sql_queries"]) == (1, 1, 0)


@pytest.mark.parametrize("path", ["/resources/7", "/async/resources/7"])
def test_httpx(perf, path):
    async def main():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as http:
            return await perf.cold_warm(lambda: http.get(path), flush=flush)

    cold, warm = asyncio.run(main())
    assert (cold["sql_queries"], warm["cache_hits"], warm["sql_queries"]) == (1, 1, 0)


def test_flask(perf):
    get = flask_app.test_client().get
    cold, warm = perf.cold_warm(lambda: get("/resources/7"), flush=flush)
    assert (cold["sql_queries"], warm["cache_hits"], warm["sql_queries"]) == (1, 1, 0)


def test_starlette_changed(perf):
    get = TestClient(app).get
    perf.cold_warm(lambda: get("/changed/7"), flush=flush)


def test_starlette_forgotten(perf):
    get = TestClient(app).get
    perf.cold_warm(lambda: get("/forgotten/7"), flush=flush)


def test_httpx_changed(perf):
    async def main():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as http:
            await perf.cold_warm(lambda: http.get("/changed/7"), flush=flush)

    asyncio.run(main())


def test_flask_changed(perf):
    get = flask_app.test_client().get
    perf.cold_warm(lambda: get("/changed/7"), flush=flush)
"""
    )

    result = run("--perfguard-json=run.json")

    found = failures(result)
    assert sorted(found) == [
        "test_flask_changed",
        "test_httpx_changed",
        "test_starlette_changed",
        "test_starlette_forgotten",
    ]
    for name in ("test_starlette_changed", "test_httpx_changed"):
        assert "\n    result['body']['at']: another str\n" in found[name]
        assert "cache_differences  1 > 0" in found[name]
    assert "\n    result['status']: another int\n" in found["test_flask_changed"]
    assert "\n    result['body']: another bytes\n" in found["test_flask_changed"]
    assert "part 2 is a UUID, made anew for each call\n" in found["test_starlette_forgotten"]
    (cold, warm) = records()["test_starlette[/resources/7]"].span.children
    assert [part.name for part in (*cold.children, *warm.children)] == [
        "GET /resources/{number}"
    ] * 2


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
@pytest.mark.usefixtures("name_on_both")
def test_in_async_tests_under_both_async_plugins(
    pytester: pytest.Pytester,
    suite: Callable[..., None],
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


async def test_right(perf):
    async with connect_async() as redis:
        cold, warm = await perf.cold_warm(
            lambda: cached_async(redis), flush=flush, cold={{"sql_queries": 1}}
        )
    assert (cold["cache_misses"], warm["cache_hits"], warm["sql_queries"]) == (1, 1, 0)


async def test_sync_call(perf):
    cold, warm = perf.cold_warm(cached, flush=flush)
    assert (warm["cache_hits"], warm["cache_blocking_calls"]) == (1, 1)


async def test_forgotten(perf):
    async with connect_async() as redis:
        async def call():
            await redis.get(f"{{NAME}}:7")
            return load()

        await perf.cold_warm(call, flush=flush)


async def test_not_awaited(perf):
    async with connect_async() as redis:
        perf.cold_warm(lambda: cached_async(redis), flush=flush)


async def test_raises(perf):
    async def call():
        raise LookupError("of the call")

    with pytest.raises(LookupError, match="of the call"):
        await perf.cold_warm(call)
    with perf.measure("after", sql_queries=1) as after:
        shop.get_email(1)
    assert after["sql_queries"] == 1
"""
    )

    # These tests run where every warning is an error, that of Python itself here too.
    result = pytester.runpytest_inprocess(
        *arguments, *workers, "-p", "no:hypothesispytest", "-Wignore:coroutine:RuntimeWarning"
    )

    found = failures(result)
    result.assert_outcomes(passed=3, failed=2)
    assert "the cold call looked this up and stored nothing under it\n" in found["test_forgotten"]
    assert re.search(
        r"perf\.cold_warm, test_calls\.py:\d+: not awaited: write 'await' before it",
        found["test_not_awaited"],
    )


@pytest.mark.usefixtures("name_on_both")
def test_a_key_that_changes_from_call_to_call_is_told_by_what_changes(
    suite: Callable[..., None], run: Run, records: Records
) -> None:
    suite(
        """
sessions = []


class Filter:
    def method(self):
        pass


def session():
    sessions.append(Session(shop.engine))
    return sessions[-1]


def function():
    sessions.append(Filter())
    return sessions[-1].method


def alternate(*values):
    turns = itertools.cycle(values)
    return lambda: next(turns)


numbers = itertools.count()


@pytest.mark.parametrize("part", [
    pytest.param(session, id="session"),
    pytest.param(function, id="method"),
    pytest.param(time.time_ns, id="ns"),
    pytest.param(time.time, id="float"),
    pytest.param(uuid.uuid4, id="uuid"),
    pytest.param(lambda: hashlib.sha256(uuid.uuid4().bytes).hexdigest(), id="hash"),
    pytest.param(alternate("a=1&b=2", "b=2&a=1"), id="order"),
    pytest.param(alternate("{1, 2}", "{2, 1}"), id="set"),
    pytest.param(lambda: next(numbers), id="number"),
    pytest.param(alternate("anna", "berta"), id="word"),
    pytest.param(alternate("7", "7:more"), id="longer"),
])
def test_key(perf, part):
    perf.cold_warm(lambda: through(f"{NAME}:{part()}"), flush=flush)
"""
    )

    result = run("--perfguard-json=run.json")

    explained = {
        name: re.findall("^the key changed between two identical calls: (.*)", text, re.MULTILINE)
        for name, text in failures(result).items()
    }
    one = "1 of 2 parts differs: part 2"
    address = "holds the address of an object"
    anew = "another one in each call"
    assert explained == {
        "test_key[session]": [f"{one} {address} (sqlalchemy.orm.session.Session), {anew}"],
        "test_key[method]": [f"{one} {address} (test_calls.Filter), {anew}"],
        "test_key[ns]": [f"{one} looks like a time"],
        "test_key[float]": [f"{one} looks like a time"],
        "test_key[uuid]": [f"{one} is a UUID, made anew for each call"],
        "test_key[hash]": [f"{one} is a hash: what it is taken of is not the same in both calls"],
        "test_key[order]": [f"{one} holds the same in another order"],
        "test_key[set]": [f"{one} holds the same in another order"],
        "test_key[number]": [f"{one} is {{int}}, with another value in each call"],
        "test_key[word]": [f"{one} is {{word}}, with another value in each call"],
        "test_key[longer]": ["1 of 3 parts differs: part 3 is missing from one of them"],
    }
    found = records()
    for name in explained:
        unstable = "over budget" if name in ("test_key[session]", "test_key[method]") else "ok"
        assert statuses(found[name]) == {
            "cache_hits": "over budget",
            "cache_misses": "over budget",
            "cache_unstable_keys": unstable,
            "cache_rereads": "over budget",
            "cache_differences": "ok",
        }
    text = failures(result)["test_key[uuid]"]
    assert re.search(r"made anew for each call\n    at test_calls.py:\d+ in through\n", text)
    assert "\n    fix: build the key from what the result depends on, not from objects that" in text
    assert "  cache_hits     0 < 1   perf.cold_warm, test_calls.py:" in text


@pytest.mark.usefixtures("name")
@pytest.mark.parametrize("made", ["isoformat()", "strftime('%H:%M:%S.%f')"])
def test_a_time_in_a_key_is_known_where_it_holds_colons(
    suite: Callable[..., None], run: Run, made: str
) -> None:
    suite(
        f"""
def test_key(perf):
    perf.cold_warm(
        lambda: through(f"{{NAME}}:{{datetime.now(timezone.utc).{made}}}"), flush=flush
    )
"""
    )

    text = failures(run())["test_key"]

    assert re.search("^the key changed between .* looks like a time$", text, re.MULTILINE), text


@pytest.mark.usefixtures("name_on_both")
def test_a_key_with_an_address_is_refused_even_where_the_object_stays_the_same(
    suite: Callable[..., None], run: Run, failed: Failed
) -> None:
    suite(
        """
fixed = object()


def test_hits_by_luck(perf):
    perf.cold_warm(lambda: through(f"{NAME}:{fixed}"), flush=flush)
"""
    )

    result = run()

    assert failed(result) == ["test_hits_by_luck"]
    result.stdout.fnmatch_lines(
        [
            "perfguard: 1 of 5 budgets exceeded in block 'warm'",
            "  cache_unstable_keys  1 > 0   perf.cold_warm, test_calls.py:*",
            "GET resources_*:{…}: the key holds the address of an object (object)",
        ]
    )


@pytest.mark.usefixtures("name_on_both")
def test_a_warm_call_that_misses_says_why(suite: Callable[..., None], run: Run) -> None:
    suite(
        """
def test_stored_elsewhere(perf):
    perf.cold_warm(lambda: through(f"{NAME}:7", f"{NAME}:7:json"), flush=flush)


def test_not_stored(perf):
    def call():
        return load() if client.get(f"{NAME}:7") is None else 1

    perf.cold_warm(call, flush=flush)


def test_deleted(perf):
    def call():
        value = cached()
        client.delete(f"{NAME}:7")
        return value

    perf.cold_warm(call, flush=flush)


def test_expired(perf):
    def call():
        value = cached()
        client.pexpire(f"{NAME}:7", -1)
        return value

    perf.cold_warm(call, flush=flush)


def test_one_of_two_not_stored(perf):
    def call():
        value = cached()
        client.get(f"{NAME}:7:extra")
        return value

    perf.cold_warm(call, flush=flush)


def test_never_looked_up(perf):
    perf.cold_warm(load)


def test_stored_and_never_looked_up(perf):
    def call():
        value = load()
        client.set(f"{NAME}:7", json.dumps(value), ex=60)
        return value

    perf.cold_warm(call, flush=flush)
"""
    )

    found = failures(run())

    assert len(found) == 7
    elsewhere = found["test_stored_elsewhere"]
    assert (
        "\nthe cold call stored under another key than it looked up: 1 of 3 parts differs: "
        "part 3 is missing from one of them\n" in elsewhere
    )
    assert "\n    fix: build both keys in one place\n" in elsewhere
    nothing = "\nthe cold call looked this up and stored nothing under it\n"
    assert f"{nothing}    at test_calls.py:" in found["test_not_stored"]
    assert "\n    fix: store the result\n" in found["test_not_stored"]
    gone = "\nwhat the cold call stored could not be found again\n    at cached_shop.py:"
    for name in ("test_deleted", "test_expired"):
        assert gone in found[name], name
        assert nothing not in found[name], name
        assert "\n    fix: look for what deletes or overwrites it, or for an expiry" in found[name]
    extra = found["test_one_of_two_not_stored"]
    assert nothing in extra
    assert "cache_misses  1 > 0" in extra
    assert "cache_hits" not in extra
    for name in ("test_never_looked_up", "test_stored_and_never_looked_up"):
        assert "cache_hits" in found[name]
        assert "cache_rereads" in found[name]
    assert (
        "\n      no command to a cache was observed in warm, so the budget proves nothing\n"
        in found["test_never_looked_up"]
    )


@pytest.mark.usefixtures("name")
def test_a_script_that_may_have_stored_is_named(suite: Callable[..., None], run: Run) -> None:
    suite(
        """
def test_locked_and_not_stored(perf):
    def call():
        if client.get(f"{NAME}:7") is None:
            client.eval("return redis.call('EXISTS', KEYS[1])", 1, f"{NAME}:7")
        return load()

    perf.cold_warm(call, flush=flush)
"""
    )

    text = failures(run())["test_locked_and_not_stored"]

    assert (
        "\nthe cold call looked this up and stored nothing under it, unless a script did\n" in text
    )
    assert "\n    fix: store the result, or look at what the script does with it\n" in text


@pytest.mark.usefixtures("name")
def test_the_cause_is_not_sought_in_a_key_that_was_found(
    suite: Callable[..., None], run: Run
) -> None:
    suite(
        """
def test_one_of_two_deleted(perf):
    # What was there before, as a login is, is not what was missed.
    client.set(f"{NAME}:login", "anna", ex=60)

    def call():
        client.get(f"{NAME}:login")
        value = cached()
        client.delete(f"{NAME}:7")
        return value

    perf.cold_warm(call, flush=lambda: client.delete(f"{NAME}:7"))
"""
    )

    text = failures(run())["test_one_of_two_deleted"]

    assert "cache_misses   1 > 0" in text
    assert "\nthe cold call looked this up and stored nothing under it\n" not in text
    assert "\nwhat the cold call stored could not be found again\n    at cached_shop.py:" in text


@pytest.mark.usefixtures("name")
def test_a_second_look_of_the_cold_call_is_no_change_of_the_key(
    suite: Callable[..., None], run: Run
) -> None:
    suite(
        """
def test_twice_and_another(perf):
    def call():
        if client.get(f"{NAME}:7") is None:
            cached()
        client.get(f"{NAME}:7:extra")

    perf.cold_warm(call, flush=flush)
"""
    )

    text = failures(run())["test_twice_and_another"]

    assert "the key changed" not in text
    assert "\nthe cold call looked this up and stored nothing under it\n" in text
    assert re.search(r"\n    GET resources_\w+:\{int\}:\{word\}\n", text)


@pytest.mark.usefixtures("name")
def test_sql_that_is_read_again_is_told_with_its_line_and_may_be_let_pass(
    suite: Callable[..., None], run: Run, failed: Failed
) -> None:
    suite(
        """
def logged_in():
    shop.get_email(1)
    return cached()


def twice():
    shop.get_email(1)
    shop.get_email(2)
    return cached()


def test_again(perf):
    cold, warm = perf.cold_warm(logged_in, flush=flush)
    assert warm["cache_rereads"] == 1


def test_again_twice(perf):
    cold, warm = perf.cold_warm(twice, flush=flush)
    assert warm["cache_rereads"] == 2


def test_may_read(perf):
    perf.cold_warm(logged_in, flush=flush, may_read=["SELECT users"])


def test_may_read_as_text(perf):
    perf.cold_warm(logged_in, flush=flush, may_read="SELECT users")


def test_may_read_something_else(perf):
    perf.cold_warm(logged_in, flush=flush, may_read=["SELECT resources"])


def test_limit(perf):
    perf.cold_warm(logged_in, flush=flush, warm={"cache_rereads": 1})


def test_another_statement(perf):
    calls = itertools.count()

    def call():
        if next(calls):
            shop.get_email(1)
        return cached()

    perf.cold_warm(call, flush=flush)


def test_writes(perf):
    def call():
        with Session(shop.engine) as session:
            session.get(shop.User, 20).email = f"{uuid.uuid4()}@shop"
            session.commit()
        return cached()

    perf.cold_warm(call, flush=flush, may_read=["SELECT users"])
"""
    )

    result = run()

    assert failed(result) == ["test_again", "test_again_twice", "test_may_read_something_else"]
    found = failures(result)
    assert re.search(
        r"\n1x SELECT users read again by the warm call\n"
        r"    at shop\.py:\d+ in get_email\n"
        r"    SELECT users\.id, users\.email FROM users WHERE users\.id = \?\n"
        r"    fix: look into the cache before this query runs, or let it pass with "
        r"may_read=\['SELECT users'\]\n",
        found["test_again"],
    )
    assert "\n2x SELECT users read again by the warm call\n" in found["test_again_twice"]
    assert "cache_rereads  2 > 0" in found["test_again_twice"]


@pytest.mark.usefixtures("name")
def test_another_result_is_told_by_place_and_type(
    pytester: pytest.Pytester, suite: Callable[..., None], run: Run, failed: Failed
) -> None:
    suite(
        """
from dataclasses import dataclass


@dataclass
class Out:
    id: int
    at: object


def two(cold, warm):
    def call():
        if client.get(f"{NAME}:7") is not None:
            return warm
        client.set(f"{NAME}:7", "x", ex=60)
        return cold

    return call


at = datetime(2026, 1, 2)


@pytest.mark.parametrize(("cold", "warm"), [
    pytest.param({"at": at, "id": 7}, {"at": at.isoformat(), "id": 7}, id="datetime"),
    pytest.param([(1, 2)], [[1, 2]], id="tuple"),
    pytest.param({1: "a"}, {"1": "a"}, id="keys"),
    pytest.param(Out(1, at), Out(1, str(at)), id="dataclass"),
    pytest.param(Out(1, at), {"id": 1, "at": at}, id="model"),
    pytest.param({"rows": [{"id": 1}, {"id": 2}]}, {"rows": [{"id": 1}, {"id": 3}]}, id="deep"),
    pytest.param({"rows": [1, 2, 3]}, {"rows": [1, 2]}, id="fewer"),
    pytest.param([1] * 9, [2] * 9, id="many"),
    pytest.param("cold-0815", "warm-4711", id="text"),
    pytest.param(None, {}, id="nothing"),
])
def test_differs(perf, cold, warm):
    perf.cold_warm(two(cold, warm), flush=flush)


@pytest.mark.parametrize(("cold", "warm"), [
    pytest.param(Out(1, at), Out(1, datetime(2026, 1, 2)), id="dataclass"),
    pytest.param({"a": 1, "b": 2}, {"b": 2, "a": 1}, id="order"),
    pytest.param(None, None, id="nothing"),
])
def test_equal(perf, cold, warm):
    perf.cold_warm(two(cold, warm), flush=flush)


def orm(number=1):
    with Session(shop.engine) as session:
        return session.get(shop.User, number)


def test_objects_without_equality(perf):
    perf.cold_warm(two([orm()], [orm()]), flush=flush)


def test_same(perf):
    perf.cold_warm(
        two(orm(), orm()), flush=flush, same=lambda cold, warm: cold.email == warm.email
    )


def test_not_the_same(perf):
    perf.cold_warm(two(7, 7), flush=flush, same=lambda cold, warm: False)


def test_limit(perf):
    perf.cold_warm(two(1, 2), flush=flush, warm={"cache_differences": 1})
"""
    )

    result = run()

    found = failures(result)
    told = {
        name: re.findall(r"^    (result.*|\.\.\. and .*|same=.*)", text, re.MULTILINE)
        for name, text in found.items()
        if "the warm call returned another result:" in text
    }
    assert told == {
        "test_differs[datetime]": ["result['at']: datetime when cold, str when warm"],
        "test_differs[tuple]": ["result[0]: tuple when cold, list when warm"],
        "test_differs[keys]": [
            "result: 1 of its keys only when cold",
            "result: 1 of its keys only when warm",
        ],
        "test_differs[dataclass]": ["result['at']: datetime when cold, str when warm"],
        "test_differs[model]": ["result: Out when cold, dict when warm"],
        "test_differs[deep]": ["result['rows'][1]['id']: another int"],
        "test_differs[fewer]": ["result['rows']: 3 items when cold, 2 when warm"],
        "test_differs[many]": [
            *(f"result[{n}]: another int" for n in range(3)),
            "... and 6 more places",
        ],
        "test_differs[text]": ["result: another str"],
        "test_differs[nothing]": ["result: NoneType when cold, dict when warm"],
        "test_not_the_same": ["same= says that the two results are not the same"],
    }
    assert "0815" not in result.stdout.str()
    assert "4711" not in result.stdout.str()
    assert sorted(found) == sorted([*told, "test_objects_without_equality"])
    assert (
        "CacheError: result[0] cannot be compared: objects of the class User are equal only to "
        "themselves. Return plain data from the call, or pass same=lambda cold, warm: ..."
        in found["test_objects_without_equality"]
    )


@pytest.mark.usefixtures("name_on_both")
def test_a_cold_call_that_finds_a_warm_cache_proves_nothing(
    suite: Callable[..., None], run: Run
) -> None:
    suite(
        """
def test_no_flush(perf):
    cached()
    perf.cold_warm(cached)


def test_flushes_something_else(perf):
    cached()
    perf.cold_warm(cached, flush=lambda: client.delete(f"{NAME}:8"))


def test_no_flush_and_an_empty_cache(perf):
    flush()
    perf.cold_warm(cached)


def test_finds_a_part(perf):
    # A login that stays is no warm cache.
    client.set(f"{NAME}:login", "anna", ex=60)

    def call():
        client.get(f"{NAME}:login")
        return cached()

    perf.cold_warm(call, flush=lambda: client.delete(f"{NAME}:7"))
"""
    )

    found = failures(run())

    assert sorted(found) == ["test_flushes_something_else", "test_no_flush"]
    start = r"\nperfguard: 1 mistake in \w+\n  perf\.cold_warm, test_calls\.py:\d+: "
    all_found = "the cold call found all that it looked up: "
    assert re.search(f"{start}{all_found}empty the cache with flush=\n", found["test_no_flush"])
    assert re.search(
        f"{start}{all_found}flush= did not empty the cache\n",
        found["test_flushes_something_else"],
    )


@pytest.mark.usefixtures("name")
def test_an_object_that_is_hashed_into_the_key_is_found_whatever_its_address(
    suite: Callable[..., None], run: Run
) -> None:
    suite(
        """
class Request:
    pass


class Slotted:
    __slots__ = ("a", "b", "c", "d", "e", "f", "g", "h")


def at_the_same_address(make, addresses):
    # where one was before, if that place is free
    made = [make() for _ in range(50)]
    found = next((each for each in made if id(each) in addresses), made[0])
    addresses.add(id(found))
    return found


@pytest.mark.parametrize("make", [object, Request, Slotted, lambda: Session(shop.engine)])
def test_hashed(perf, make):
    addresses = set()

    def call():
        digest = hashlib.sha256(str(at_the_same_address(make, addresses)).encode()).hexdigest()
        return through(f"{NAME}:{digest}")

    perf.cold_warm(call, flush=flush)
"""
    )

    result = run()

    result.assert_outcomes(failed=4)
    assert result.stdout.str().count("is a hash: what it is taken of is not the same in both") == 4


@pytest.mark.usefixtures("name")
def test_each_side_has_budgets_of_its_own(
    pytester: pytest.Pytester, suite: Callable[..., None], run: Run, records: Records
) -> None:
    suite(
        """
def twice():
    client.get(f"{NAME}:8")
    return cached()


def test_cold_over(perf):
    perf.cold_warm(cached, flush=flush, cold={"sql_queries": 0})


def test_warm_over(perf):
    perf.cold_warm(cached, flush=flush, warm={"cache_commands": 0, "cache_hits": 2})


def test_both_over(perf):
    perf.cold_warm(
        cached, flush=flush, cold={"cache_commands": "1"}, warm={"cache_commands": 0}
    )


def test_a_default_is_in_force(perf):
    perf.cold_warm(twice, flush=flush)


def test_a_default_is_overridden(perf):
    cold, warm = perf.cold_warm(twice, flush=flush, warm={"cache_misses": 1})
    assert warm["cache_misses"] == 1


def test_the_other_defaults_stay(perf):
    perf.cold_warm(load, warm={"cache_misses": 1, "cache_hits": 0})


@pytest.mark.perf_budget(sql_queries=0)
def test_mark_beside(perf):
    perf.cold_warm(cached, flush=flush)


def test_full_scans(perf):
    from sqlalchemy import text

    def call():
        with shop.engine.connect() as connection:
            connection.execute(text("SELECT name FROM resources WHERE name = 'a'")).all()
        return cached()

    perf.cold_warm(
        call, flush=flush, cold={"sql_full_scans": 0}, may_read=["SELECT resources"]
    )


def test_unreadable_cold(perf):
    perf.cold_warm(cached, cold={"sql_querys": 1, "sql_time": 3})


def test_unreadable_warm(perf):
    perf.cold_warm(cached, warm={"cache_hits": -1})


def test_not_callable(perf):
    perf.cold_warm(cached())


def test_flush_not_callable(perf):
    perf.cold_warm(cached, flush=flush())


def test_flush_of_a_wrong_type(perf):
    perf.cold_warm(cached, flush="all")


def test_no_call(perf):
    perf.cold_warm(None, flush=flush)


def test_same_of_a_wrong_type(perf):
    perf.cold_warm(cached, flush=flush, same=True)


def test_reads_of_a_wrong_type(perf):
    perf.cold_warm(cached, flush=flush, may_read=3)


def test_no_mapping(perf):
    perf.cold_warm(cached, flush=flush, warm=["sql_queries=0"])


def test_metric_without_a_name(perf):
    perf.cold_warm(cached, flush=flush, cold={3: 1})
"""
    )

    result = run("--perfguard-json=run.json")

    found = failures(result)
    assert sorted(found) == sorted(
        [
            "test_cold_over", "test_warm_over", "test_both_over", "test_a_default_is_in_force",
            "test_the_other_defaults_stay", "test_mark_beside", "test_full_scans",
            "test_unreadable_cold", "test_unreadable_warm", "test_not_callable",
            "test_flush_of_a_wrong_type", "test_no_call", "test_same_of_a_wrong_type",
            "test_reads_of_a_wrong_type", "test_no_mapping", "test_metric_without_a_name",
        ]
    )  # fmt: skip
    where = r"perf\.cold_warm, test_calls\.py:\d+"
    for name, line in {
        "test_cold_over": rf"  sql_queries  1 > 0   {where}, cold\n",
        "test_warm_over": rf"  cache_hits      1 < 2   {where}, warm\n",
        "test_both_over": rf"  cache_commands  2 > 1   {where}, cold\n"
        rf"  cache_commands  1 > 0   {where}, warm\n",
        "test_a_default_is_in_force": rf"  cache_misses  1 > 0   {where}\n",
        "test_the_other_defaults_stay": rf"  cache_rereads +1 > 0   {where}\n",
        "test_mark_beside": r"  sql_queries  1 > 0   perf_budget, test_calls\.py:\d+\n",
        "test_full_scans": rf"  sql_full_scans  1 > 0   {where}, cold\n",
        "test_unreadable_cold": rf"LimitError: {where}, cold: unknown metric 'sql_querys'. "
        rf"Did you mean 'sql_queries'\?\nE +{where}, cold: sql_time: 3 has no unit",
        "test_unreadable_warm": rf"LimitError: {where}, warm: cache_hits: -1 is negative",
        "test_not_callable": rf"CacheError: {where}: call is .*cannot be called: pass a "
        "function, such as lambda: client.get",
        "test_flush_of_a_wrong_type": rf"CacheError: {where}: flush is .*cannot be called: pass a "
        "function, such as lambda: client.get",
        "test_no_call": rf"CacheError: {where}: call is of type NoneType, which cannot be called: ",
        "test_same_of_a_wrong_type": rf"CacheError: {where}: same is of type bool, which cannot be "
        "called: pass a function, such as lambda cold, warm: cold == warm",
        "test_reads_of_a_wrong_type": rf"CacheError: {where}: may_read is of type int: ",
        "test_no_mapping": rf"LimitError: {where}, warm: \['sql_queries=0'\] holds no budgets: ",
        "test_metric_without_a_name": rf"LimitError: {where}, cold: unknown metric 3\. ",
    }.items():
        assert re.search(line, found[name]), (line, found[name])
    assert "in block 'cold', block 'warm'\n" in found["test_both_over"]
    overridden = {v.metric: v for v in records()["test_a_default_is_overridden"].verdicts}
    assert overridden["cache_misses"].limit == 1
    assert list(statuses(records()["test_a_default_is_overridden"])) == [
        "cache_hits", "cache_unstable_keys", "cache_rereads", "cache_differences", "cache_misses",
    ]  # fmt: skip


@pytest.mark.usefixtures("name")
def test_an_error_of_the_call_is_the_tests_and_leaves_no_block_open(
    suite: Callable[..., None], run: Run, records: Records
) -> None:
    suite(
        """
def failing_at(turn):
    turns = itertools.count(1)

    def call():
        load()
        if next(turns) == turn:
            raise LookupError("of the call")
        return cached()

    return call


@pytest.mark.parametrize("turn", [1, 2])
def test_raises(perf, turn):
    perf.cold_warm(failing_at(turn), flush=flush)


def test_flush_raises(perf):
    perf.cold_warm(cached, flush=failing_at(1))


@pytest.mark.parametrize("turn", [1, 2])
@pytest.mark.perf_budget(sql_queries=9)
def test_caught(perf, turn):
    with pytest.raises(LookupError):
        perf.cold_warm(failing_at(turn), flush=flush)
    with perf.measure("after", sql_queries=1):
        shop.get_email(1)


@pytest.mark.perf_budget(sql_queries=1)
def test_flush_caught(perf):
    with pytest.raises(LookupError):
        perf.cold_warm(cached, flush=failing_at(1))
    shop.get_email(1)


def test_async_caught(perf):
    async def main():
        calls = failing_at(2)

        async def call():
            return calls()

        with pytest.raises(LookupError):
            await perf.cold_warm(call, flush=flush)
        with perf.measure("after", sql_queries=1):
            shop.get_email(1)

    asyncio.run(main())


def test_same_raises(perf):
    def same(cold, warm):
        raise LookupError("of same")

    with pytest.raises(LookupError):
        perf.cold_warm(cached, flush=flush, same=same)
    with perf.measure("after", sql_queries=1):
        shop.get_email(1)


def test_cancelled(perf):
    async def main():
        async def call():
            started.set()
            await asyncio.Event().wait()

        started = asyncio.Event()
        task = asyncio.create_task(perf.cold_warm(call))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with perf.measure("after", sql_queries=1):
            shop.get_email(1)

    async def start():
        await main()

    asyncio.run(start())
"""
    )

    result = run("--perfguard-json=run.json")

    found = failures(result)
    assert sorted(found) == ["test_flush_raises", "test_raises[1]", "test_raises[2]"]
    for text in found.values():
        assert "LookupError: of the call" in text
        assert "exceeded" not in text
    for name in ("test_caught[1]", "test_caught[2]", "test_async_caught", "test_same_raises"):
        children = records()[name].span.children
        names = [part.name for part in children]
        assert (names[0], names[-1]) == ("cold", "after")
        assert sum(tally.count for tally in children[-1].tallies) == 1
    assert [part.name for part in records()["test_cancelled"].span.children] == ["cold", "after"]
    assert records()["test_raises[1]"].verdicts == ()
    assert records()["test_flush_caught"].metrics["sql_queries"] == 1


@pytest.mark.usefixtures("name")
def test_in_the_set_up_of_a_fixture_it_is_judged_there(
    suite: Callable[..., None], run: Run
) -> None:
    suite(
        """
@pytest.fixture
def right(perf):
    return perf.cold_warm(cached, flush=flush, cold={"sql_queries": 1})


@pytest.fixture
def forgotten(perf):
    perf.cold_warm(lambda: through(f"{NAME}:{uuid.uuid4()}"), flush=flush)


@pytest.fixture
def over(perf):
    perf.cold_warm(cached, flush=flush, cold={"sql_queries": 0})


@pytest.fixture
def warm_already(perf):
    cached()
    perf.cold_warm(cached)


@pytest.fixture
def torn_down(perf):
    yield
    perf.cold_warm(lambda: through(f"{NAME}:{uuid.uuid4()}"), flush=flush)


@pytest.mark.perf_budget(sql_queries=0, cache_misses=0)
def test_right(right):
    cold, warm = right
    assert (cold["cache_misses"], warm["cache_hits"]) == (1, 1)


def test_forgotten(forgotten):
    pass


def test_over(over):
    pass


def test_warm_already(warm_already):
    pass


def test_torn_down(torn_down):
    pass
"""
    )

    result = run()

    result.assert_outcomes(passed=2, errors=4)
    text = result.stdout.str()
    errors = dict(
        re.findall(
            r"^_+ ERROR at \w+ of (\w+) _+$(.*?)(?=^_{3,} |^={3,} )", text, re.MULTILINE | re.DOTALL
        )
    )
    assert sorted(errors) == ["test_forgotten", "test_over", "test_torn_down", "test_warm_already"]
    assert "part 2 is a UUID, made anew for each call" in errors["test_forgotten"]
    assert "part 2 is a UUID, made anew for each call" in errors["test_torn_down"]
    assert "perfguard: 1 of 1 budget exceeded in block 'cold'\n" in errors["test_over"]
    assert (
        ": the cold call found all that it looked up: empty the cache with flush="
        in errors["test_warm_already"]
    )


@pytest.mark.usefixtures("name")
def test_breaches_may_be_expected_or_only_warn(
    suite: Callable[..., None], pytester: pytest.Pytester, run: Run, failed: Failed
) -> None:
    suite(
        """
def forgotten():
    return through(f"{NAME}:{uuid.uuid4()}")


@pytest.mark.xfail(strict=True)
def test_expected(perf):
    perf.cold_warm(forgotten, flush=flush)


@pytest.mark.xfail(strict=True)
def test_expected_in_vain(perf):
    perf.cold_warm(cached, flush=flush)


def test_warns(perf):
    perf.cold_warm(forgotten, flush=flush)


def test_warns_in_part(perf):
    perf.cold_warm(forgotten, flush=flush)
"""
    )
    pytester.makeini(
        "[pytest]\nperfguard_level =\n    *test_warns: warn\n"
        "    *test_warns_in_part cache_hits: warn\n    *test_warns_in_part cache_misses: warn\n"
    )

    result = run()

    result.assert_outcomes(passed=1, xfailed=1, failed=2)
    assert failed(result) == ["test_expected_in_vain", "test_warns_in_part"]
    result.stdout.fnmatch_lines(
        [
            "warning: *::test_warns: 3 of 5 budgets exceeded in block 'warm'",
            "  cache_hits     0 < 1   perf.cold_warm, test_calls.py:*  (only warns)",
            "the key changed between two identical calls: *",
        ]
    )
    assert "cache_rereads  1 > 0" in failures(result)["test_warns_in_part"]
