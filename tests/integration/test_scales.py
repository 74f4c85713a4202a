"""``perf.scales``: the same call with more and more data."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import dedent

import pytest

from pytest_perfguard.model import Record, Status

Run = Callable[..., pytest.RunResult]
Failed = Callable[[pytest.RunResult], list[str]]
Records = Callable[[], dict[str, Record]]

GROWING = '''
import shop
from shop import Resource, Session, User, engine, list_eagerly, list_lazily
from sqlalchemy import func, select


def populate(n):
    """Bring the number of resources to n."""
    with Session(engine) as session:
        for number in range(session.scalar(select(func.count(Resource.id))) + 1, n + 1):
            session.add(Resource(id=number, name=f"r{number}", owner=User(email=f"{number}@shop")))
        session.commit()


async def populate_async(n):
    populate(n)


def empty():
    with Session(engine) as session:
        session.query(Resource).delete()
        session.query(User).delete()
        session.commit()


empty()
'''
IMPORTS = """
import pytest
from growing import *

SIZES = (2, 10, 50)
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> Callable[..., None]:
    """Write a test file that has everything imported."""

    def make(text: str, name: str = "test_growth") -> None:
        pytester.makefile(".py", growing=GROWING)
        pytester.makefile(".py", **{name: IMPORTS + dedent(text)})

    return make


def over(record: Record) -> set[str]:
    return {v.metric for v in record.verdicts if v.status is Status.OVER}


def test_what_grows_is_named_with_its_line_and_its_fix(
    suite: Callable[..., None], run: Run, failed: Failed, records: Records
) -> None:
    suite(
        """
        def test_lazy(perf):
            perf.scales(populate, list_lazily, sizes=SIZES)

        def test_eager(perf):
            empty()
            scaled = perf.scales(populate, list_eagerly, sizes=SIZES)
            assert scaled["sql_queries"] == (2, 2, 2)
            assert scaled["sql_rows"][-1] > scaled["sql_rows"][0]
        """
    )
    result = run("--perfguard-json=run.json")
    assert failed(result) == ["test_lazy"]
    result.stdout.fnmatch_lines(
        [
            "perfguard: 2 of * budgets exceeded in block 'n = 50'",
            "  sql_queries     51 > *   perf.scales, test_growth.py:7, O(1)",
            "50x Resource.owner lazy-loaded one row at a time",
            "    at shop.py:*",
            "    fix: select(Resource).options(selectinload(Resource.owner))*",
            "sql_queries: *, 51 at n = 2, 10, 50: grows by more than O(1)",
            "    Resource.owner (SELECT users): *, 50: * more for each",
        ]
    )
    record = records()["test_lazy"]
    assert over(record) == {"sql_queries", "sql_roundtrips"}
    (block,) = [part for part in record.span.walk() if part.name == "scales"]
    assert block.growth is not None
    assert block.growth["sizes"] == [2, 10, 50]
    assert block.growth["metrics"]["sql_queries"] == {"values": [3, 11, 51], "limit": "O(1)"}
    assert [part.name for part in block.children] == ["n = 2", "n = 10", "n = 50"]


def test_the_table_shows_every_metric(suite: Callable[..., None], run_once: Run) -> None:
    suite(
        """
        def test_eager(perf):
            print(perf.scales(populate, list_eagerly, sizes=SIZES))
        """
    )
    run_once("-s", "-q").stdout.fnmatch_lines(
        [
            "metric          n = 2  n = 10  n = 50  for each more  may grow",
            "sql_queries         2       2       2              0      O(1)",
            "sql_roundtrips      2       2       2              0      O(1)",
            "sql_rows            4      20     100              2      O(n)",
            "observed at these sizes; no proof for others",
        ]
    )


def test_limits_by_metric(
    suite: Callable[..., None], run_once: Run, failed: Failed, records: Records
) -> None:
    suite(
        """
        def test_allowed(perf):
            perf.scales(populate, list_lazily, sizes=SIZES, sql_queries="O(n)")

        def test_not_allowed(perf):
            empty()
            perf.scales(populate, list_eagerly, sizes=SIZES, sql_rows="O(1)")

        def test_pairs(perf):
            empty()

            def run():
                with Session(engine) as session:
                    pairs = select(Resource.id, User.id).join(User, User.id > 0)
                    return session.execute(pairs).all()

            perf.scales(populate, run, sizes=SIZES)
        """
    )
    result = run_once("--perfguard-json=run.json")
    assert failed(result) == ["test_not_allowed", "test_pairs"]
    result.stdout.fnmatch_lines(["sql_rows: 4, 20, 100 at n = 2, 10, 50: grows by more than O(1)"])
    result.stdout.fnmatch_lines(
        ["sql_rows: 4, 100, 2,500 at n = 2, 10, 50: grows by more than O(n)"]
    )
    assert over(records()["test_pairs"]) == {"sql_rows"}


@pytest.mark.parametrize("plugin", ["asyncio", "anyio"])
def test_coroutine_functions_are_awaited(
    suite: Callable[..., None], pytester: pytest.Pytester, records: Records, plugin: str
) -> None:
    suite(
        f"""
        @pytest.mark.{plugin}
        async def test_lazy(perf):
            async def run():
                return list_lazily()

            scaled = await perf.scales(populate_async, run, sizes=SIZES)
            assert scaled["sql_queries"] == (3, 11, 51)

        @pytest.mark.{plugin}
        async def test_not_awaited(perf):
            perf.scales(populate_async, list_eagerly, sizes=SIZES)
        """
    )
    if plugin == "anyio":
        pytester.makeconftest(
            "import pytest\n@pytest.fixture\ndef anyio_backend(): return 'asyncio'"
        )
    result = pytester.runpytest_inprocess(
        "-p", "no:hypothesispytest", "--perfguard-json=run.json", "-W", "ignore::RuntimeWarning",
        *(("-p", "no:asyncio") if plugin == "anyio" else ("-o", "asyncio_mode=strict")),
    )  # fmt: skip
    assert over(records()["test_lazy"]) == {"sql_queries", "sql_roundtrips"}
    result.stdout.fnmatch_lines(["*perf.scales, test_growth.py:*: not awaited: write 'await'*"])


@pytest.mark.parametrize("made", ["Session(engine)", "Session(engine.connect())"])
def test_a_session_is_brought_back_after_each_size(
    suite: Callable[..., None], run_once: Run, failed: Failed, made: str
) -> None:
    """Factories add to what is there, and what they have made is in the session already."""
    suite(
        f"""
        def factory(session):
            def create_batch(n):
                made = [Resource(name="r", owner=User(email="x")) for _ in range(n)]
                session.add_all(made)
                session.flush()
                kept.append(made)
            return create_batch

        kept = []

        def test_factory(perf):
            with {made} as session:
                def run():
                    return [(r.name, r.owner.email) for r in session.scalars(select(Resource))]

                perf.scales(factory(session), run, sizes=SIZES, session=session)

        def test_nothing_is_left():
            with Session(engine) as session:
                assert session.scalar(select(func.count(Resource.id))) == 0
        """
    )
    result = run_once()
    assert failed(result) == ["test_factory"]
    result.stdout.fnmatch_lines(["sql_queries: 3, 11, 51 at n = 2, 10, 50*"])


def test_a_session_that_is_committed_inside_is_an_error(
    suite: Callable[..., None], run_once: Run
) -> None:
    suite(
        """
        def test_commits(perf):
            with Session(engine) as session:
                def make(n):
                    session.add(User(email="x"))
                    session.commit()

                perf.scales(make, lambda: session.scalars(select(User)).all(), session=session)
        """
    )
    run_once().stdout.fnmatch_lines(
        ["E*GrowthError: perf.scales, test_growth.py:*: the session was committed or rolled back*"]
    )


def test_async_sessions_are_brought_back(
    suite: Callable[..., None], pytester: pytest.Pytester, failed: Failed
) -> None:
    suite(
        """
        from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

        @pytest.mark.asyncio
        async def test_factory(perf):
            async_engine = create_async_engine(f"sqlite+aiosqlite:///{shop.database}")
            async with AsyncSession(async_engine, expire_on_commit=False) as session:
                async def make(n):
                    session.add_all(User(email="x") for _ in range(n))
                    await session.flush()

                async def run():
                    found = (await session.scalars(select(User.id))).all()
                    return [(await session.get(User, id)).email for id in found]

                await perf.scales(make, run, sizes=SIZES, session=session)
            await async_engine.dispose()
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:hypothesispytest", "-o", "asyncio_mode=strict")
    assert failed(result) == ["test_factory"]
    result.stdout.fnmatch_lines(["sql_queries: 3, 11, 51 at n = 2, 10, 50*"])


@pytest.mark.parametrize(
    "call",
    [
        "lambda: 1",
        "lambda: get_one()",
        "lambda: [1, 2, 3]",
    ],
)
def test_a_call_that_does_no_more_with_more_proves_nothing(
    suite: Callable[..., None], run_once: Run, failed: Failed, call: str
) -> None:
    suite(
        f"""
        def get_one():
            with Session(engine) as session:
                return session.scalars(select(Resource.name).limit(1)).all()

        def test_same(perf):
            perf.scales(populate, {call}, sizes=SIZES)
        """
    )
    result = run_once()
    assert failed(result) == ["test_same"]
    result.stdout.fnmatch_lines(
        ["  perf.scales, test_growth.py:*: nothing that was done or returned at n = 50 is more*"]
    )


def test_a_call_that_returns_more_is_enough(suite: Callable[..., None], run_once: Run) -> None:
    suite(
        """
        def test_plain(perf):
            data = []
            perf.scales(lambda n: data.append(n), lambda: list(data), sizes=SIZES)
        """
    )
    run_once().assert_outcomes(passed=1)


def test_warm_up_and_population_are_not_counted(
    suite: Callable[..., None], run_once: Run, records: Records
) -> None:
    suite(
        """
        calls = []

        def test_eager(perf):
            def run():
                calls.append("run")
                return list_eagerly()

            perf.scales(populate, run, flush=lambda: calls.append("flush"), sizes=(2, 10))
            assert calls == ["run", "flush", "run"] * 2
        """
    )
    run_once("--perfguard-json=run.json").assert_outcomes(passed=1)
    assert records()["test_eager"].metrics["sql_queries"] == 4


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        ("perf.scales(populate, list_eagerly, sizes=(2,))", "sizes=(2,): two at least"),
        ("perf.scales(populate, list_eagerly, sql_querys='O(1)')", "Did you mean 'sql_queries'?"),
        ("perf.scales(populate, list_eagerly())", "run is of type list, which cannot be called"),
        ("perf.scales(None, list_eagerly)", "populate is of type NoneType, which cannot be called"),
        ("perf.scales(populate, list_eagerly, tx='O(1)')", "unknown metric 'tx'"),
    ],
)
def test_mistakes_are_told_at_the_call(
    suite: Callable[..., None], run_once: Run, call: str, problem: str
) -> None:
    suite(f"\ndef test_wrong(perf):\n    {call}\n")
    result = run_once()
    result.assert_outcomes(failed=1)
    assert problem in result.stdout.str()
    assert "test_growth.py:7" in result.stdout.str()


def test_an_error_of_the_call_is_its_own(suite: Callable[..., None], run_once: Run) -> None:
    suite(
        """
        def run():
            raise ZeroDivisionError("mine")

        def test_raises(perf):
            perf.scales(populate, run)

        def test_next(perf):
            with perf.measure("block", sql_queries=2):
                list_eagerly()
        """
    )
    result = run_once()
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["E*ZeroDivisionError: mine"])


def test_levels_and_waivers_hold_for_growth(
    suite: Callable[..., None], run_once: Run, records: Records
) -> None:
    suite(
        """
        def test_warned(perf):
            perf.scales(populate, list_lazily, sizes=SIZES)
        """
    )
    result = run_once("--perfguard-level=warn", "--perfguard-json=run.json")
    result.assert_outcomes(passed=1)
    assert over(records()["test_warned"]) == {"sql_queries", "sql_roundtrips"}


def test_requests_to_others_are_named_too(suite: Callable[..., None], run_once: Run) -> None:
    suite(
        """
        import httpx

        def answer(request):
            return httpx.Response(200, json={"price": 1})

        prices = httpx.Client(transport=httpx.MockTransport(answer), base_url="http://prices")

        def run():
            with Session(engine) as session:
                ids = session.scalars(select(Resource.id)).all()
            return [prices.get(f"/prices/{id}").json() for id in ids]

        def test_prices(perf):
            perf.scales(populate, run, sizes=SIZES)
        """
    )
    result = run_once()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "  http_requests  50 > 2   perf.scales, test_growth.py:*, O(1)",
            "http_requests: 2, 10, 50 at n = 2, 10, 50: grows by more than O(1)",
            "    GET /prices/{id}: 2, 10, 50: 1 more for each",
            "    at test_growth.py:* in run",
            "    fix: ask for all of them in one request",
        ]
    )


def test_memory_is_judged_where_it_is_asked_for(
    suite: Callable[..., None], run_once: Run, failed: Failed
) -> None:
    suite(
        """
        def grow(perf, mebibytes, limit):
            size = [0]

            def populate(n):
                size[0] = n

            def run():
                held = bytearray(mebibytes(size[0]) * 2**20)
                return [0] * size[0] if held else []

            perf.scales(populate, run, sizes=(5, 10, 20), memory_peak=limit)

        def test_square(perf):
            grow(perf, lambda n: n * n // 4, "O(n)")

        def test_line(perf):
            grow(perf, lambda n: n, "O(n)")

        def test_little(perf):
            grow(perf, lambda n: 1 + n // 10, "O(1)")
        """
    )
    result = run_once()
    assert failed(result) == ["test_square"]
    result.stdout.fnmatch_lines(["  memory_peak  * MiB > *   perf.scales, test_growth.py:*, O(n)"])


TIMED = """
from itertools import cycle


def burn(units):
    for _ in range(units):
        sum(range(200))


def timed(perf, cost, limit):
    size = [0]

    def populate(n):
        size[0] = n

    def run():
        burn(cost(size[0]))
        return [0] * size[0]

    perf.scales(populate, run, sizes=(20, 40, 80, 160, 320), cpu_time=limit)


"""


def test_time_is_judged_where_it_is_asked_for(
    suite: Callable[..., None], run_once: Run, records: Records
) -> None:
    suite(
        TIMED
        + dedent("""
        def test_square(perf):
            timed(perf, lambda n: n * n // 4, "O(n)")

        def test_line(perf):
            timed(perf, lambda n: 10 * n, "O(n)")

        def test_anything(perf):
            costs = cycle([1, 60, 3, 1, 80])
            timed(perf, lambda n: n * next(costs), "O(n)")
        """)
    )
    result = run_once("--perfguard-json=run.json")
    result.assert_outcomes(passed=2, failed=1)
    found = {name: record.verdicts[0].status for name, record in records().items()}
    assert found == {
        "test_square": Status.OVER,
        "test_line": Status.OK,
        "test_anything": Status.UNDECIDED,
    }
    result.stdout.fnmatch_lines(
        [
            "  cpu_time  * > *   perf.scales, test_growth.py:*, O(n)",
            "      it grows as n^[12].* (95 % interval * to *) at these sizes",
            "warning: test_growth.py::test_anything: 1 of 1 budget undecided in block 'n = 320'",
            "      it grows as n^* at these sizes: too uncertain to say more",
        ]
    )


# -- the mark ------------------------------------------------------------------------------------


def test_a_marked_test_is_the_call(
    suite: Callable[..., None], run: Run, failed: Failed, records: Records
) -> None:
    suite(
        """
        @pytest.fixture
        def make_resources():
            empty()
            return populate

        @pytest.mark.perf_scales("make_resources")
        def test_lazy():
            list_lazily()

        @pytest.mark.perf_scales("make_resources", sizes=(2, 10), sql_rows="O(1)")
        class TestEager:
            def test_it(self):
                list_eagerly()

        @pytest.mark.parametrize("extra", [1, 2])
        @pytest.mark.perf_scales(populate="make_resources", sql_queries="O(n)")
        def test_parametrized(extra):
            list_lazily()
        """
    )
    result = run("--perfguard-json=run.json")
    assert failed(result) == ["test_it", "test_lazy"]
    result.stdout.fnmatch_lines(["  sql_queries * 51 > 3   perf_scales, test_growth.py:11, O(1)"])
    result.stdout.fnmatch_lines(["  sql_rows  20 > *   perf_scales, test_growth.py:15, O(1)"])
    assert over(records()["test_lazy"]) == {"sql_queries", "sql_roundtrips"}


@pytest.mark.parametrize("plugin", ["asyncio", "anyio"])
def test_marked_coroutine_functions(
    suite: Callable[..., None], pytester: pytest.Pytester, records: Records, plugin: str
) -> None:
    suite(
        f"""
        @pytest.fixture
        def make_resources():
            empty()
            return populate_async

        @pytest.mark.{plugin}
        @pytest.mark.perf_scales("make_resources", flush="nothing", session="no_session")
        async def test_lazy():
            list_lazily()

        @pytest.fixture
        def nothing():
            return lambda: None

        @pytest.fixture
        def no_session():
            return None
        """
    )
    if plugin == "anyio":
        pytester.makeconftest(
            "import pytest\n@pytest.fixture\ndef anyio_backend(): return 'asyncio'"
        )
    pytester.runpytest_inprocess(
        "-p", "no:hypothesispytest", "--perfguard-json=run.json",
        *(("-p", "no:asyncio") if plugin == "anyio" else ("-o", "asyncio_mode=strict")),
    )  # fmt: skip
    assert over(records()["test_lazy"]) == {"sql_queries", "sql_roundtrips"}


@pytest.mark.parametrize(
    ("mark", "problem"),
    [
        ("perf_scales()", "write the name of a fixture that gives populate(n)"),
        ("perf_scales('a', 'b')", "write the name of a fixture that gives populate(n)"),
        (
            "perf_scales(populate=len)",
            "populate is <built-in function len>, not the name of a fixture",
        ),
        ("perf_scales('make', sizes=(1,))", "sizes=(1,): two at least"),
        ("perf_scales('make', sql_querys='O(1)')", "unknown metric 'sql_querys'. Did you mean"),
        ("perf_scales('make', flush=3)", "flush is 3, not the name of a fixture"),
    ],
)
def test_mistakes_in_marks_are_told_at_collection(
    suite: Callable[..., None], run_once: Run, mark: str, problem: str
) -> None:
    suite(f"\n@pytest.mark.{mark}\ndef test_wrong():\n    pass\n")
    result = run_once()
    result.assert_outcomes(errors=1)
    assert f"perf_scales, test_growth.py:6: {problem}" in result.stdout.str()


def test_marks_on_what_cannot_be_called_again(suite: Callable[..., None], run_once: Run) -> None:
    suite(
        """
        import unittest

        @pytest.mark.perf_scales("make")
        class TestCase(unittest.TestCase):
            def test_method(self):
                pass
        """
    )
    run_once().stdout.fnmatch_lines(["*only test functions and methods of plain classes*"])


def test_a_fixture_that_is_no_function(suite: Callable[..., None], run_once: Run) -> None:
    suite(
        """
        @pytest.fixture
        def make():
            return [1]

        @pytest.mark.perf_scales("make")
        def test_it():
            pass

        @pytest.mark.perf_scales("nowhere")
        def test_missing():
            pass
        """
    )
    result = run_once()
    result.stdout.fnmatch_lines(["E*the fixture 'make' gives list, not a function to call"])
    result.stdout.fnmatch_lines(["E*fixture 'nowhere' not found"])


# -- a whole API ----------------------------------------------------------------------------------

API = """
from fastapi import FastAPI, HTTPException

api = FastAPI()


@api.get("/lazy")
def lazy():
    return list_lazily()


@api.get("/eager")
async def eager():
    return list_eagerly()


@api.get("/one/{number}")
def one(number: int):
    return shop.get_email(number)


@api.get("/search")
def search(text: str):
    return list_eagerly()


@api.get("/secret")
def secret():
    raise HTTPException(401)


@api.post("/lazy")
def change():
    return 1


URLS = {"/one/{number}": "/one/1", "/search": "/search?text=a"}
"""


def test_the_endpoints_that_grow_are_named(
    suite: Callable[..., None], run: Run, failed: Failed, records: Records
) -> None:
    suite(
        API
        + dedent("""
        def test_api(perf):
            found = perf.scales_endpoints(api, populate, urls=URLS, skip=["/secret"])
            assert [each.name for each in found.growing] == ["GET /lazy"]
            assert len(found.judged) == 4
            assert "GET /secret: not judged: in skip=" in str(found)
        """)
    )
    result = run("--perfguard-json=run.json")
    assert failed(result) == ["test_api"]
    result.stdout.fnmatch_lines(
        [
            "perfguard: 2 of * budgets exceeded in block 'GET /lazy, n = 50'",
            "50x Resource.owner lazy-loaded one row at a time",
            "sql_queries: 3, 11, 51 at n = 2, 10, 50: grows by more than O(1)",
        ]
    )
    assert over(records()["test_api"]) == {"sql_queries", "sql_roundtrips"}


def test_what_could_not_be_judged_is_no_success(suite: Callable[..., None], run_once: Run) -> None:
    suite(
        API
        + dedent("""
        def test_api(perf):
            perf.scales_endpoints(api, populate, skip=["/lazy"])
        """)
    )
    result = run_once()
    result.assert_outcomes(failed=1)
    for text in (
        "GET /one/{number} was not judged: its path has parameters: give them in urls={",
        "GET /search was not judged: it answered 422: give it what it needs in urls= or client=",
        "GET /secret was not judged: it answered 401",
    ):
        assert text in result.stdout.str()


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        ("perf.scales_endpoints(object(), populate)", "object has no GET routes"),
        ("perf.scales_endpoints(api, populate, skip=['/x'])", "'/x' is no GET route; there are"),
        ("perf.scales_endpoints(api, None)", "populate is of type NoneType"),
        ("perf.scales_endpoints(broken, populate)", "GET /broken answered 500 at n = 2"),
        ("perf.scales_endpoints(still, populate)", "no endpoint did or answered more at n = 50"),
        (
            "perf.scales_endpoints(api, populate, sizes=(1, 2, 4, 8, 16), cpu_time='O(n)')",
            "cpu_time",
        ),
    ],
)
def test_mistakes_with_endpoints(
    suite: Callable[..., None], run_once: Run, call: str, problem: str
) -> None:
    suite(
        API
        + dedent(f"""
        from fastapi import Response
        broken, still = FastAPI(), FastAPI()
        broken.get("/broken")(lambda: Response(status_code=500))
        still.get("/still")(lambda: 1)

        def test_api(perf):
            {call}
        """)
    )
    result = run_once()
    result.assert_outcomes(failed=1)
    assert problem in result.stdout.str()


def test_routes_of_starlette_and_a_client_of_ones_own(
    suite: Callable[..., None], pytester: pytest.Pytester, failed: Failed
) -> None:
    suite(
        """
        import httpx
        from starlette.applications import Starlette
        from starlette.responses import JSONResponse
        from starlette.routing import Mount, Route

        async def lazy(request):
            return JSONResponse(list_lazily())

        async def number(request):
            return JSONResponse(request.path_params["n"])

        app = Starlette(routes=[
            Mount("/api", routes=[Route("/lazy", lazy), Route("/n/{n:int}", number)]),
            Route("/lazy", lazy, methods=["POST"]),
        ])

        @pytest.mark.asyncio
        async def test_api(perf):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                found = await perf.scales_endpoints(
                    app, populate_async, client=client, urls={"/api/n/{n}": "/api/n/1"}
                )
            assert [each.name for each in found.judged] == ["GET /api/lazy", "GET /api/n/{n}"]
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:hypothesispytest", "-o", "asyncio_mode=strict")
    assert failed(result) == ["test_api"]
    result.stdout.fnmatch_lines(
        ["perfguard: 2 of * budgets exceeded in block 'GET /api/lazy, n = 50'"]
    )


@pytest.mark.parametrize(
    "call",
    [
        "perf.scales(populate, lambda: client.get('/rows'), sizes=(2, 10))",
        "perf.repeat(lambda: client.get('/nowhere'), times=20, warmup=0, memory_growth='1KiB')",
    ],
)
def test_what_an_error_costs_says_nothing(
    suite: Callable[..., None], run_once: Run, call: str
) -> None:
    suite(
        f"""
        from fastapi import FastAPI
        from fastapi.testclient import TestClient

        app = FastAPI()

        @app.get("/rows")
        def rows():
            found = list_eagerly()
            return found if len(found) < 10 else 1 / 0

        def test_error(perf):
            with TestClient(app, raise_server_exceptions=False) as client:
                {call}
        """
    )
    result = run_once()
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([r"E .*RoundError: perf\.\w+, .*: it answered (404|500): what an"])
