"""Endpoints: how requests are named, what belongs to them, and how they are judged and told."""

from __future__ import annotations

import re
from collections.abc import Callable
from textwrap import dedent

import pytest

from pytest_perfguard.metrics import METRICS
from pytest_perfguard.model import Record, Span
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


def requests_of(record: Record) -> list[Span]:
    """Return the requests of a test."""
    return [span for span in record.span.walk() if span.kind == "request"]


def names(record: Record) -> list[str]:
    """Return the names of the requests of a test."""
    return [span.name for span in requests_of(record)]


def values(record: Record, metric: str) -> list[float | None]:
    """Return a metric of each request of a test."""
    return [METRICS[metric].measure(span) for span in requests_of(record)]


def endpoints(result: pytest.RunResult) -> dict[str, list[str]]:
    """Return the cells of the table of endpoints, by their names."""
    found = {}
    for line in result.outlines[result.outlines.index("endpoints:") + 2 :]:
        row = re.fullmatch(r"  +(\d[\d,]*)  +(\S+)  +(\S+)  +(\S+(?: [KM]?i?B)?)  +"
                           r"(\S+ \S+?s(?: timed)?)  +(\d+)  (.*)", line)  # fmt: skip
        if row:
            *cells, name = row.groups()
            found[name] = cells
        elif not line.startswith("  "):
            break
    return found


# -- names ---------------------------------------------------------------------------------

ROUTED = """
    from fastapi import APIRouter, FastAPI, Response
    from fastapi.responses import RedirectResponse
    from fastapi.staticfiles import StaticFiles
    from starlette.applications import Starlette
    from starlette.endpoints import HTTPEndpoint
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.responses import PlainTextResponse
    from starlette.routing import Host, Mount, Route, Router

    async def plain(request):
        return PlainTextResponse("plain")

    class Things(HTTPEndpoint):
        async def get(self, request):
            return PlainTextResponse("a thing")

    inner = APIRouter(prefix="/{tenant}/inner")

    @inner.get("/deep/{key}")
    def deep(tenant: str, key: int):
        return key

    outer = APIRouter(prefix="/outer")
    outer.include_router(inner, prefix="/middle")

    sub = FastAPI()

    @sub.get("/items/{key}")
    def sub_item(key: int):
        return key

    sub_router = APIRouter(prefix="/routed")

    @sub_router.get("/{key}")
    async def sub_routed(key: int):
        return key

    sub.include_router(sub_router)
    below = FastAPI()

    @below.get("/leaf/{key}")
    def leaf(key: int):
        return key

    sub.mount("/below", below)

    tenants = Starlette(routes=[Route("/users/{user}", plain)])
    starlette_app = Starlette(
        routes=[
            Route("/plain/{key:int}", plain),
            Route("/things/{key:uuid}", Things),
            Mount("/group", routes=[Mount("/inner", routes=[Route("/{key:float}", plain)])]),
            Mount("/tenants/{tenant}", app=tenants),
        ]
    )

    app = FastAPI()
    app.include_router(outer, prefix="/api/v1")

    with_mount = APIRouter()
    with_mount.mount("/mounted", Starlette(routes=[Route("/plain/{key}", plain)]))
    app.include_router(with_mount, prefix="/with")

    @app.get("/users/{number}")
    async def user(number: int):
        return number

    @app.post("/users/")
    async def create():
        return 1

    @app.get("/files/{path:path}")
    async def files(path: str):
        return path

    @app.get("/old/{number}")
    async def old(number: int):
        return RedirectResponse(f"/users/{number}")

    @app.get("/away")
    async def away():
        return RedirectResponse("/users/7", status_code=303)

    @app.get("/refused/{number}")
    async def refused(number: int):
        return Response(status_code=403)

    app.mount("/sub", sub)
    app.mount("/starlette", starlette_app)

    async def pass_on(request, call_next):
        if request.url.path.startswith("/stopped"):
            return PlainTextResponse("stopped", status_code=429)
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
"""
ROUTED_REQUESTS = [
    ("GET", "/users/7", 200, "GET /users/{number}"),
    ("GET", "/users/7?page=3&size=4", 200, "GET /users/{number}"),
    ("GET", "/users/seven", 422, "GET /users/{number}"),
    ("GET", "/files/a/b/c.txt", 200, "GET /files/{path}"),
    ("GET", "/api/v1/outer/middle/acme/inner/deep/7", 200,
     "GET /api/v1/outer/middle/{tenant}/inner/deep/{key}"),
    ("GET", "/sub/items/7", 200, "GET /sub/items/{key}"),
    ("GET", "/sub/routed/7", 200, "GET /sub/routed/{key}"),
    ("GET", "/sub/below/leaf/7", 200, "GET /sub/below/leaf/{key}"),
    ("GET", "/starlette/plain/7", 200, "GET /starlette/plain/{key}"),
    ("GET", "/starlette/things/7d444840-9dc0-11d1-b245-5ffdce74fad2", 200,
     "GET /starlette/things/{key}"),
    ("GET", "/starlette/group/inner/1.5", 200, "GET /starlette/group/inner/{key}"),
    ("GET", "/starlette/plain/x", 404, "GET /starlette/plain/x"),
    ("GET", "/with/mounted/plain/7", 200, "GET /with/mounted/plain/{key}"),
    ("GET", "/nowhere/7", 404, "GET /nowhere/{id}"),
    ("POST", "/users/7", 405, "POST /users/{number}"),
    ("DELETE", "/api/v1/outer/middle/acme/inner/deep/7", 405,
     "DELETE /api/v1/outer/middle/{tenant}/inner/deep/{key}"),
    ("GET", "/refused/7", 403, "GET /refused/{number}"),
    ("GET", "/stopped/7", 429, "GET /stopped/{id}"),
    # The router itself sends these on, and no route has served them before.
    ("GET", "/users/7/", 200, "GET /users/{number}"),
    ("POST", "/users", 200, "POST /users/"),
    # What a client follows belongs to the request that began it.
    ("GET", "/old/7", 200, "GET /old/{number}"),
    ("GET", "/away", 200, "GET /away"),
]  # fmt: skip


@pytest.mark.parametrize("through", ["client", "perf.http(client)"])
def test_a_request_is_named_by_the_template_of_its_route(
    pytester: pytest.Pytester, run: Run, records: Records, through: str
) -> None:
    write(
        pytester,
        application=ROUTED,
        test_names=f"""
        import pytest
        from application import app
        from starlette.testclient import TestClient

        REQUESTS = {[request[:3] for request in ROUTED_REQUESTS]!r}

        @pytest.mark.parametrize(("method", "path", "status"), REQUESTS)
        def test_name(perf, method, path, status):
            client = TestClient(app)
            assert {through}.request(method, path).status_code == status
        """,
    )

    result = run("--perfguard-json=run.json")

    result.assert_outcomes(passed=len(ROUTED_REQUESTS))
    found = records()
    wrong = {}
    for method, path, status, name in ROUTED_REQUESTS:
        named = names(found[f"test_name[{method}-{path}-{status}]"])
        if named != [name]:
            wrong[f"{method} {path}"] = named
    assert wrong == {}


def test_what_a_mount_takes_from_the_path_does_not_make_a_name_for_each_value(
    pytester: pytest.Pytester, run_once: Run, records: Records
) -> None:
    write(
        pytester,
        application=ROUTED,
        test_tenants="""
        from application import app
        from starlette.testclient import TestClient

        def test_tenants(perf):
            for tenant in (17, 18, "acme"):
                path = f"/starlette/tenants/{tenant}/users/7"
                assert TestClient(app).get(path).text == "plain"
        """,
    )

    run_once("--perfguard-json=run.json").assert_outcomes(passed=1)

    found = names(records()["test_tenants"])
    assert len(set(found)) == 1
    assert re.fullmatch(r"GET /starlette/tenants/\{\w+\}/users/\{user\}", found[0])


def test_a_proxys_prefix_is_not_part_of_a_name(
    pytester: pytest.Pytester, run_once: Run, records: Records
) -> None:
    write(
        pytester,
        application=ROUTED + "\n    app.root_path = '/proxied'\n",
        test_root="""
        from application import app
        from starlette.testclient import TestClient

        def test_root(perf):
            client = TestClient(app)
            for path in ("/users/7", "/proxied/sub/items/7", "/proxied/users/7"):
                assert client.get(path).json() == 7
        """,
    )

    run_once("--perfguard-json=run.json").assert_outcomes(passed=1)

    assert names(records()["test_root"]) == [
        "GET /users/{number}",
        "GET /sub/items/{key}",
        "GET /users/{number}",
    ]


FLASK = """
    import flask

    app = flask.Flask(__name__)
    v1 = flask.Blueprint("v1", __name__, url_prefix="/v1/<tenant>")
    inner = flask.Blueprint("inner", __name__, url_prefix="/inner")

    @app.get("/users/<int:number>")
    def user(number):
        return str(number)

    @app.get("/users/")
    def users():
        return "users"

    @app.get("/files/<path:name>")
    def files(name):
        return name

    @app.get("/lang/<string(length=2):lang>/<any(a, b):letter>")
    def lang(lang, letter):
        return lang + letter

    @app.get("/old/<int:number>")
    def old(number):
        return flask.redirect(f"/users/{number}")

    @app.get("/broken/<int:number>")
    def broken(number):
        flask.abort(503)

    @inner.get("/items/<uuid:key>")
    def items(tenant, key):
        return "item"

    v1.register_blueprint(inner)
    app.register_blueprint(v1, url_prefix="/api/<tenant>")
"""
FLASK_REQUESTS = [
    ("GET", "/users/7", 200, "GET /users/{number}"),
    ("GET", "/files/a/b/c.txt", 200, "GET /files/{name}"),
    ("GET", "/lang/de/a", 200, "GET /lang/{lang}/{letter}"),
    ("GET", "/api/acme/inner/items/7d444840-9dc0-11d1-b245-5ffdce74fad2", 200,
     "GET /api/{tenant}/inner/items/{key}"),
    ("GET", "/broken/7", 503, "GET /broken/{number}"),
    ("GET", "/nowhere/7", 404, "GET /nowhere/{id}"),
    ("POST", "/users/7", 405, "POST /users/{id}"),
    ("GET", "/users", 200, "GET /users/"),
    ("GET", "/old/7", 200, "GET /old/{number}"),
]  # fmt: skip
DJANGO = """
    import django
    from django.conf import settings
    from django.http import HttpResponse, HttpResponseRedirect
    from django.urls import include, path, re_path

    settings.configure(
        ALLOWED_HOSTS=["*"], ROOT_URLCONF="django_app", USE_TZ=True, SECRET_KEY="x",
        MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    )
    django.setup()

    def view(request, **parameters):
        return HttpResponse("view")

    def old(request, number):
        return HttpResponseRedirect(f"/users/{number}")

    inner = [
        path("items/<uuid:key>", view),
        re_path(r"^years/(?P<year>[0-9]{4})/$", view),
    ]
    urlpatterns = [
        path("users/<int:number>", view),
        path("pages/", view),
        path("files/<path:name>", view),
        path("old/<int:number>", old),
        path("api/", include([path("v1/<slug:tenant>/", include(inner))])),
    ]
"""
DJANGO_REQUESTS = [
    ("GET", "/users/7", 200, ["GET /users/{number}"]),
    ("POST", "/users/7", 200, ["POST /users/{number}"]),
    ("GET", "/files/a/b/c.txt", 200, ["GET /files/{name}"]),
    ("GET", "/api/v1/acme/items/7d444840-9dc0-11d1-b245-5ffdce74fad2", 200,
     ["GET /api/v1/{tenant}/items/{key}"]),
    # A regular expression is nothing to read, and ids are folded.
    ("GET", "/api/v1/acme/years/2024/", 200, ["GET /api/v1/acme/years/{id}/"]),
    ("GET", "/nowhere/7", 404, ["GET /nowhere/{id}"]),
    ("GET", "/pages", 200, ["GET /pages", "GET /pages/"]),
    ("GET", "/old/7", 200, ["GET /old/{number}", "GET /users/{number}"]),
]  # fmt: skip


def test_flask_and_django_tell_their_routes_too(
    pytester: pytest.Pytester, run: Run, records: Records
) -> None:
    write(
        pytester,
        flask_app=FLASK,
        django_app=DJANGO,
        test_names=f"""
        import django_app, flask_app, httpx2, pytest
        from django.test import Client

        FLASK = {[request[:3] for request in FLASK_REQUESTS]!r}
        DJANGO = {[request[:3] for request in DJANGO_REQUESTS]!r}

        @pytest.mark.performance
        @pytest.mark.parametrize(("method", "path", "status"), FLASK)
        def test_flask(method, path, status):
            client = flask_app.app.test_client()
            response = client.open(path, method=method, follow_redirects=True)
            assert response.status_code == status

        @pytest.mark.parametrize(("method", "path", "status"), FLASK)
        def test_flask_wrapped(perf, method, path, status):
            http = perf.http(flask_app.app.test_client())
            assert http.request(method, path, follow_redirects=True, status=status)

        @pytest.mark.parametrize(("method", "path", "status"), FLASK)
        def test_flask_by_httpx(perf, method, path, status):
            transport = httpx2.WSGITransport(app=flask_app.app)
            with httpx2.Client(
                transport=transport, base_url="http://t", follow_redirects=True
            ) as client:
                assert client.request(method, path).status_code == status

        @pytest.mark.performance
        @pytest.mark.parametrize(("method", "path", "status"), DJANGO)
        def test_django(method, path, status):
            response = getattr(Client(), method.lower())(path, follow=True)
            assert response.status_code == status

        @pytest.mark.parametrize(("method", "path", "status"), DJANGO)
        def test_django_wrapped(perf, method, path, status):
            assert perf.http(Client()).request(method, path, follow=True, status=status)
        """,
    )

    result = run("--perfguard-json=run.json")

    result.assert_outcomes(passed=3 * len(FLASK_REQUESTS) + 2 * len(DJANGO_REQUESTS))
    found = records()
    wrong = {}
    for method, path, status, name in FLASK_REQUESTS:
        for client in ("flask", "flask_wrapped", "flask_by_httpx"):
            named = names(found[f"test_{client}[{method}-{path}-{status}]"])
            if named != [name]:
                wrong[f"{client} {method} {path}"] = named
    for method, path, status, expected in DJANGO_REQUESTS:
        # Its client follows by further requests, which belong to the one that was asked for.
        for client, wanted in (("django", expected), ("django_wrapped", expected[:1])):
            named = names(found[f"test_{client}[{method}-{path}-{status}]"])
            if named != wanted:
                wrong[f"{client} {method} {path}"] = named
    assert wrong == {}


def test_a_request_that_an_endpoint_sends_is_inside_it_and_keeps_its_own_name(
    pytester: pytest.Pytester, run: Run, records: Records
) -> None:
    write(
        pytester,
        application="""
        import httpx2, shop
        from fastapi import FastAPI

        app, backend = FastAPI(), FastAPI()

        @backend.get("/stock/{key}")
        async def stock(key: int):
            return shop.get_email(key)

        @app.get("/parts/{number}")
        async def part(number: int):
            shop.get_email(1)
            transport = httpx2.ASGITransport(backend)
            async with httpx2.AsyncClient(transport=transport, base_url="http://b") as client:
                found = [(await client.get(f"/stock/{n}")).json() for n in (1, 2)]
            shop.get_email(1)
            return found
        """,
        test_inside="""
        from application import app
        from starlette.testclient import TestClient

        def test_inside(perf):
            timed = perf.http(TestClient(app)).get("/parts/7", rounds=2)
            assert timed["http_requests"] == 3
            assert timed["sql_queries"] == 4
        """,
    )

    run("--perfguard-json=run.json").assert_outcomes(passed=1)

    outer, *inner = requests_of(records()["test_inside"])
    assert outer.name == "GET /parts/{number}"
    assert [span.name for span in inner] == ["GET /stock/{key}"] * 2
    assert outer.children == tuple(inner)


# -- what belongs to a request -----------------------------------------------------------------

BUSY = """
    import asyncio

    import fakeredis, shop
    from fastapi import BackgroundTasks, FastAPI, Response
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
    from sqlalchemy.orm import Session
    from sqlalchemy.pool import NullPool
    from starlette.middleware.gzip import GZipMiddleware

    app = FastAPI()
    app.add_middleware(GZipMiddleware, minimum_size=500)
    async_engine = create_async_engine(
        f"sqlite+aiosqlite:///{shop.database}", poolclass=NullPool
    )
    cache = fakeredis.FakeRedis()
    async_cache = fakeredis.FakeAsyncRedis()

    @app.get("/threads/{number}")
    def threads(number: int):
        cache.get(f"user:{number}")
        cache.set(f"user:{number}", 1, ex=60)
        cache.get(f"user:{number}")
        return shop.get_email(number)

    @app.get("/async/{number}")
    async def on_the_loop(number: int):
        await async_cache.get(f"user:{number}:async")
        async with AsyncSession(async_engine) as session:
            return (await session.get(shop.User, number)).email

    @app.get("/tasks/{number}")
    async def tasks(number: int):
        async with asyncio.TaskGroup() as group:
            for key in (number, number + 1):
                group.create_task(on_the_loop(key))
        return number

    def send_mail(number):
        shop.get_email(number)
        shop.get_email(number + 1)

    async def write_log(number):
        async with AsyncSession(async_engine) as session:
            await session.get(shop.User, number)

    class Report:
        def __call__(self, number):
            shop.get_email(number)

    @app.post("/orders/{number}", status_code=201)
    def order(number: int, background: BackgroundTasks):
        background.add_task(send_mail, number)
        background.add_task(write_log, number)
        background.add_task(write_log, number + 1)
        return shop.get_email(number)

    @app.post("/reports/{number}")
    async def report(number: int, background: BackgroundTasks):
        background.add_task(Report(), number)

    @app.get("/lists/{number}")
    def lists(number: int):
        return shop.list_lazily() if number > 1 else shop.list_eagerly()

    @app.get("/large/{size}")
    def large(size: int):
        return Response("x" * size, media_type="text/plain")

    @app.get("/empty")
    def empty():
        return Response(status_code=204)

    @app.get("/failing/{status}")
    def failing(status: int):
        shop.get_email(1)
        return Response(status_code=status)

    @app.get("/pool")
    def pool():
        with shop.engine.connect(), shop.engine.connect():
            return 1
"""


def test_sql_cache_and_pool_events_belong_to_the_request_that_they_happen_in(
    pytester: pytest.Pytester, run: Run, records: Records
) -> None:
    write(
        pytester,
        application=BUSY,
        test_busy="""
        import asyncio
        import httpx2, pytest, shop
        from application import app
        from starlette.testclient import TestClient

        pytestmark = pytest.mark.perf_budget(sql_n_plus_one=0, cache_n_plus_one=0)

        def test_in_turn():
            client = TestClient(app)
            for number in range(1, 7):
                client.get(f"/threads/{number}")
                client.get(f"/async/{number}")
                shop.get_email(1 + number % 2)

        def test_at_once():
            async def get_all():
                transport = httpx2.ASGITransport(app)
                async with httpx2.AsyncClient(transport=transport, base_url="http://t") as client:
                    pending = [client.get(f"/{kind}/{number}") for number in range(1, 7)
                               for kind in ("threads", "async", "tasks")]
                    assert all(r.status_code == 200 for r in await asyncio.gather(*pending))
            asyncio.run(get_all())

        def test_pool(perf):
            timed = perf.http(TestClient(app)).get("/pool", rounds=2)
            # Two of 5 + 10 connections.
            assert timed["pool_peak"] == pytest.approx(2 / 15)
        """,
    )

    result = run("--perfguard-json=run.json")

    result.assert_outcomes(passed=3)
    found = records()
    in_turn = found["test_in_turn"]
    assert names(in_turn) == ["GET /threads/{number}", "GET /async/{number}"] * 6
    assert values(in_turn, "sql_queries") == [1] * 12
    assert values(in_turn, "cache_commands") == [3, 1] * 6
    assert values(in_turn, "cache_hits") == [1, 0] * 6
    assert values(in_turn, "cache_misses") == [1, 1] * 6
    assert in_turn.metrics["sql_queries"] == 12 + 6
    at_once = found["test_at_once"]
    costs = {"GET /threads/{number}": (1, 3), "GET /async/{number}": (1, 1)}
    costs["GET /tasks/{number}"] = (2, 2)
    assert sorted(names(at_once)) == sorted([*costs] * 6)
    for name, queries, commands in zip(
        names(at_once),
        values(at_once, "sql_queries"),
        values(at_once, "cache_commands"),
        strict=True,
    ):
        assert (queries, commands) == costs[name]


def test_background_tasks_belong_to_their_request_and_are_shown_apart(
    pytester: pytest.Pytester, run: Run, records: Records
) -> None:
    write(
        pytester,
        application=BUSY,
        test_tasks="""
        import asyncio
        import httpx2, pytest
        from application import app
        from starlette.testclient import TestClient

        def test_tasks():
            for number in (1, 2, 3):
                assert TestClient(app).post(f"/orders/{number}").status_code == 201
            TestClient(app).post("/reports/1")

        @pytest.mark.perf_budget(sql_n_plus_one=0)
        def test_at_once():
            async def post_all():
                transport = httpx2.ASGITransport(app)
                async with httpx2.AsyncClient(transport=transport, base_url="http://t") as client:
                    await asyncio.gather(*(client.post(f"/orders/{n}") for n in range(1, 11)))
            asyncio.run(post_all())
        """,
    )

    result = run("--perfguard", "--perfguard-json=run.json")

    result.assert_outcomes(passed=2)
    for record in records().values():
        for span in requests_of(record):
            if span.name.startswith("POST /orders"):
                tasks = [(task.kind, task.name) for task in span.children]
                log = ("task", "background task write_log")
                assert tasks == [("task", "background task send_mail"), log, log]
                counts = [METRICS["sql_queries"].measure(task) for task in span.children]
                assert counts == [2, 1, 1]
                assert METRICS["sql_queries"].measure(span) == 5
    result.stdout.re_match_lines(
        [
            r" +13 +5/5/5 .* POST /orders/\{number\}$",
            r" +\+ 13x background task send_mail$",
            r" +\+ 26x background task write_log$",
            r" +1 +1/1/1 .* POST /reports/\{number\}$",
            r" +\+ 1x background task Report$",
        ],
        consecutive=True,
    )


def test_a_candidate_is_looked_for_inside_a_request(
    pytester: pytest.Pytester, run: Run, failed: Failed
) -> None:
    write(
        pytester,
        application=BUSY,
        test_lists="""
        import pytest
        from application import app
        from starlette.testclient import TestClient

        pytestmark = pytest.mark.perf_budget(sql_n_plus_one=0)

        def test_ten_clean():
            for _ in range(10):
                assert TestClient(app).get("/lists/1").status_code == 200

        def test_one_is_not(perf):
            perf.http(TestClient(app)).get("/lists/2")

        def test_one_of_ten_is_not():
            for number in (1,) * 9 + (2,):
                TestClient(app).get(f"/lists/{number}")
        """,
    )

    result = run()

    assert failed(result) == ["test_one_is_not", "test_one_of_ten_is_not"]
    result.stdout.fnmatch_lines(["    at shop.py:* in list_lazily"])


# -- what is known of each request ---------------------------------------------------------------


def test_bytes_on_the_wire_and_decoded_status_and_errors_of_each_request(
    pytester: pytest.Pytester, run: Run, records: Records
) -> None:
    write(
        pytester,
        application=BUSY,
        flask_app="""
        import flask, gzip

        app = flask.Flask(__name__)

        @app.get("/large/<int:size>")
        def large(size):
            body = b"x" * size
            if "gzip" in flask.request.headers.get("Accept-Encoding", "") and size > 500:
                return gzip.compress(body), 200, {"Content-Encoding": "gzip"}
            return body
        """,
        test_sizes="""
        import asyncio, threading
        import flask_app, httpx, httpx2, pytest, requests
        from application import app
        from starlette.testclient import TestClient

        def test_live(perf):
            from wsgiref.simple_server import WSGIRequestHandler, make_server

            class Silent(WSGIRequestHandler):
                def log_message(self, *args):
                    pass

            with make_server("127.0.0.1", 0, flask_app.app, handler_class=Silent) as server:
                thread = threading.Thread(target=server.serve_forever)
                thread.start()
                for get in (requests.get, httpx.get, httpx2.get):
                    url = f"http://127.0.0.1:{server.server_port}/large/100000"
                    assert len(get(url, headers={"Accept-Encoding": "gzip"}).content) == 100_000
                server.shutdown()
                thread.join()

        def test_sizes(perf):
            client = TestClient(app)
            for path in ("/large/10", "/large/100000", "/empty"):
                client.get(path)
            client.get("/large/1000", headers={"Accept-Encoding": "identity"})
            client.head("/large/1000", follow_redirects=False)

        @pytest.mark.performance
        @pytest.mark.parametrize("library", [httpx, httpx2])
        def test_async(library):
            async def get_all():
                transport = library.ASGITransport(app)
                async with library.AsyncClient(transport=transport, base_url="http://t") as client:
                    await client.get("/large/10")
                    await client.get("/large/100000")
            asyncio.run(get_all())

        @pytest.mark.performance
        def test_flask():
            client = flask_app.app.test_client()
            client.get("/large/10")
            client.get("/large/100000", headers={"Accept-Encoding": "gzip"})

        @pytest.mark.performance
        def test_statuses():
            client = TestClient(app)
            for status in (200, 301, 404, 422, 499, 500, 503):
                client.get(f"/failing/{status}", follow_redirects=False)
        """,
    )

    result = run("--perfguard-json=run.json")

    result.assert_outcomes(passed=6)
    found = records()
    live = values(found["test_live"], "response_bytes")
    assert values(found["test_live"], "response_bytes_decoded") == [100_000] * 3
    assert 20 < min(size or 0 for size in live) <= max(size or 0 for size in live) < 1000
    sizes = found["test_sizes"]
    wire, decoded = values(sizes, "response_bytes"), values(sizes, "response_bytes_decoded")
    assert decoded == [10, 100_000, 0, 1000, 0]
    assert (wire[0], *wire[2:]) == (10, 0, 1000, 0)
    assert 20 < (wire[1] or 0) < 1000
    assert sizes.metrics["response_bytes_decoded"] == 100_000
    assert sizes.metrics["response_bytes"] == 1000
    for name in ("test_async[httpx]", "test_async[httpx2]", "test_flask"):
        assert values(found[name], "response_bytes_decoded") == [10, 100_000], name
        assert 20 < found[name].metrics["response_bytes"] < 1000, name
    statuses = found["test_statuses"]
    assert values(statuses, "http_errors") == [0, 0, 0, 0, 0, 1, 1]
    assert statuses.metrics["http_errors"] == 2
    assert statuses.metrics["http_requests"] == 7
    told = [
        tally.facts["status"]
        for span in requests_of(statuses)
        for tally in span.tallies
        if tally.probe == "http"
    ]
    assert told == ["200", "301", "404", "422", "499", "500", "503"]


TABLE_TESTS = """
    import pytest
    from application import app
    from starlette.testclient import TestClient

    @pytest.fixture
    def client():
        return TestClient(app, raise_server_exceptions=False)

    @pytest.mark.parametrize("number", [1, 1, 2])
    def test_lists(client, number):
        client.get(f"/lists/{number}")

    def test_others(client):
        for number in (1, 2, 3):
            client.get(f"/threads/{number}")
        client.get("/failing/500")
        client.get("/failing/200")
        client.get("/empty")
        client.get("/large/2048", headers={"Accept-Encoding": "identity"})

    def test_more(client, perf):
        perf.http(client).get("/threads/1", rounds=3)
        client.get("/nowhere/1")
"""


def test_the_table_of_endpoints_is_about_the_whole_suite(
    pytester: pytest.Pytester, run: Run
) -> None:
    write(pytester, application=BUSY, test_table=TABLE_TESTS)

    result = run("--perfguard", "--perfguard-top=10")

    result.assert_outcomes(passed=5)
    result.stdout.re_match_lines(
        [r"  calls  SQL \(min/med/max\)  cache \(hit/miss\)  +bytes  +time  errors$"]
    )
    table = endpoints(result)
    assert {name: cells[:2] for name, cells in table.items()} == {
        "GET /lists/{number}": ["3", "2/2/21"],
        "GET /threads/{number}": ["4", "1/1/1"],
        "GET /failing/{status}": ["2", "1/1/1"],
        "GET /empty": ["1", "0/0/0"],
        "GET /large/{size}": ["1", "0/0/0"],
        "GET /nowhere/{id}": ["1", "0/0/0"],
    }
    hits, misses = table["GET /threads/{number}"][2].split("/")
    assert int(hits) + int(misses) == 8
    assert int(hits) >= 4
    assert table["GET /large/{size}"][3] == "2 KiB"
    assert table["GET /empty"][3] == "0 B"
    # A time that was measured in many rounds is the better one to show.
    assert [name for name, cells in table.items() if cells[4].endswith(" timed")] == [
        "GET /threads/{number}"
    ]
    assert {name: cells[5] for name, cells in table.items() if cells[5] != "0"} == {
        "GET /failing/{status}": "1"
    }


def test_the_table_has_the_asked_length_the_costliest_first_and_only_on_request(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    write(pytester, application=BUSY, test_table=TABLE_TESTS)

    short = run_once("--perfguard", "--perfguard-top=2")
    assert [*endpoints(short)] == ["GET /lists/{number}", "GET /failing/{status}"]
    assert "  ... and 4 more" in short.outlines
    assert "endpoints:" not in run_once().outlines


def test_many_requests_of_one_test_are_all_in_the_table(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    write(
        pytester,
        application=BUSY,
        test_many="""
        from application import app
        from starlette.testclient import TestClient

        def test_many():
            client = TestClient(app)
            for number in range(300):
                client.get("/failing/200")
            client.get("/empty")
        """,
    )

    table = endpoints(run_once("--perfguard"))

    assert {name: cells[:2] for name, cells in table.items()} == {
        "GET /failing/{status}": ["300", "1/1/1"],
        "GET /empty": ["1", "0/0/0"],
    }


# -- budgets for endpoints ---------------------------------------------------------------------

BUDGET_TESTS = """
    import pytest
    from application import app
    from starlette.testclient import TestClient

    @pytest.fixture
    def client():
        return TestClient(app)

    def test_lists(client):
        for number in (1, 2, 1):
            client.get(f"/lists/{number}")

    def test_clean(client):
        client.get("/lists/1")

    def test_post(client):
        client.post("/orders/1")

    def test_time(client, perf):
        perf.http(client).get("/empty", rounds=20, status=204)

    def test_nothing():
        pass
"""
AS_INI = """
    [pytest]
    perfguard_budgets =
        GET /lists/*: sql_queries=2, sql_n_plus_one=0
        POST *: sql_queries=1
        GET /empty: http_p95=60s, http_max=1ns
    perfguard_level =
        POST * sql_queries: warn
"""
AS_INI_OPTIONS = """
    [tool.pytest.ini_options]
    perfguard_budgets = [
        "GET /lists/*: sql_queries=2, sql_n_plus_one=0",
        "POST *: sql_queries=1",
        "GET /empty: http_p95=60s, http_max=1ns",
    ]
    perfguard_level = ["POST * sql_queries: warn"]
"""
AS_TOML = AS_INI_OPTIONS.replace("ini_options", "").replace("pytest.]", "pytest]")
AS_TABLE = """
    [tool.perfguard.budgets]
    "GET /lists/*" = { sql_queries = 2, sql_n_plus_one = 0 }
    "POST *" = { sql_queries = 1, level = "warn" }

    [tool.perfguard.budgets."GET /empty"]
    http_p95 = "60s"
    http_max = "1ns"
    level = "fail"
"""
needs_pytest_9 = pytest.mark.skipif(
    pytest.version_tuple < (9,), reason="pytest reads this table from version 9 on"
)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        pytest.param("pytest.ini", AS_INI, id="ini"),
        pytest.param("pyproject.toml", AS_INI_OPTIONS, id="ini_options"),
        pytest.param("pyproject.toml", AS_TOML, id="pytest 9", marks=needs_pytest_9),
        pytest.param("pyproject.toml", AS_TABLE, id="table alone"),
        pytest.param(
            "pyproject.toml",
            "[tool.pytest.ini_options]\nperfguard_top = 5\n" + dedent(AS_TABLE),
            id="table beside ini_options",
        ),
        pytest.param(
            "pyproject.toml",
            "[tool.pytest]\nperfguard_top = 5\n" + dedent(AS_TABLE),
            id="table beside pytest 9",
            marks=needs_pytest_9,
        ),
    ],
)
def test_endpoints_have_budgets_whichever_test_calls_them(
    pytester: pytest.Pytester, run: Run, failed: Failed, file: str, text: str
) -> None:
    write(pytester, application=BUSY, test_budgets=BUDGET_TESTS)
    (pytester.path / file).write_text(dedent(text), encoding="utf-8")

    result = run()

    assert failed(result) == ["test_lists", "test_time"]
    result.assert_outcomes(passed=3, failed=2)
    output = result.stdout.str()
    # Of several requests, the worst is judged and shown; each endpoint once.
    assert "perfguard: 2 of 2 budgets exceeded in GET /lists/{number}\n" in output
    assert output.count("20x Resource.owner lazy-loaded one row at a time") == 1
    result.stdout.fnmatch_lines(
        [
            "  sql_queries     21 > 2   *GET /lists/[*]*",
            "  sql_n_plus_one   1 > 0   *GET /lists/[*]*",
        ]
    )
    assert "perfguard: 1 of 2 budgets exceeded in GET /empty\n" in output
    assert "GET /empty: 20 rounds, measured 3 times, the smallest of each:" in output
    result.stdout.fnmatch_lines(
        [
            "warning: test_budgets.py::test_post: 1 of 1 budget exceeded in POST /orders/{number}",
            "  sql_queries  5 > 1   *POST [*]*(only warns)",
        ]
    )


def test_later_lines_and_the_command_line_win_and_a_kept_budget_is_quiet(
    pytester: pytest.Pytester, run_once: Run, failed: Failed
) -> None:
    write(pytester, application=BUSY, test_budgets=BUDGET_TESTS)
    (pytester.path / "pyproject.toml").write_text(
        dedent(
            """
            [tool.pytest.ini_options]
            perfguard_budgets = ["GET /lists/*: sql_queries=21"]

            [tool.perfguard.budgets]
            "* /lists/*" = { sql_queries = 1 }
            """
        ),
        encoding="utf-8",
    )

    assert failed(run_once()) == []
    assert failed(run_once("--perfguard-budgets=GET /lists/{number}: sql_queries=2")) == [
        "test_lists"
    ]
    # A level is for the endpoint, not for the test that calls it.
    strict = "--perfguard-budgets=* /*: sql_queries=1"
    assert failed(run_once(strict)) == ["test_clean", "test_lists", "test_post"]
    assert failed(run_once(strict, "--perfguard-level=GET /lists/* sql_queries: warn")) == [
        "test_post"
    ]
    assert failed(run_once(strict, "--perfguard-level=GET /lists/*: warn")) == ["test_post"]


def test_a_level_in_a_table_is_that_of_its_own_limits(
    pytester: pytest.Pytester, run_once: Run, failed: Failed
) -> None:
    write(pytester, application=BUSY, test_budgets=BUDGET_TESTS)
    (pytester.path / "pyproject.toml").write_text(
        dedent(
            """
            [tool.perfguard.budgets]
            "* /*" = { sql_queries = 1, level = "warn" }
            "POST /orders/*" = { sql_queries = 4 }
            """
        ),
        encoding="utf-8",
    )

    result = run_once()

    # The second entry says nothing of a level: a breach of it fails.
    assert failed(result) == ["test_post"]
    result.stdout.fnmatch_lines(["  sql_queries  5 > 4   *POST /orders/[*]*"])


def test_an_endpoint_among_very_many_requests_is_judged_too(
    pytester: pytest.Pytester, run_once: Run, failed: Failed
) -> None:
    write(
        pytester,
        application=BUSY,
        test_many="""
        from application import app
        from starlette.testclient import TestClient

        def test_many():
            client = TestClient(app)
            for number in range(250):
                client.get(f"/lists/{2 if number == 230 else 1}")

        def test_timed_at_last(perf):
            client = TestClient(app)
            for number in range(250):
                client.get("/pool")
            perf.http(client).get("/empty", rounds=1, status=204)
        """,
    )

    result = run_once(
        "--perfguard-budgets=GET /lists/*: sql_queries=2",
        "--perfguard-budgets=GET /empty: http_max=1ns",
    )

    assert failed(result) == ["test_many", "test_timed_at_last"]
    result.stdout.fnmatch_lines(["  sql_queries  21 > 2   *GET /lists/[*]*"])


@pytest.mark.parametrize("as_table", [False, True], ids=["line", "table"])
def test_a_rule_that_matches_no_request_is_warned_of_at_the_end_of_a_whole_run(
    pytester: pytest.Pytester, run: Run, as_table: bool
) -> None:
    write(pytester, application=BUSY, test_budgets=BUDGET_TESTS)
    text = (
        '[tool.perfguard.budgets]\n"GET /gone/*" = { sql_queries = 1 }\n'
        '"GET /lists/*" = { sql_queries = 21 }\n'
        if as_table
        else "[tool.pytest.ini_options]\nperfguard_budgets = "
        '["GET /gone/*: sql_queries=1", "GET /lists/*: sql_queries=21"]\n'
    )
    (pytester.path / "pyproject.toml").write_text(text, encoding="utf-8")

    result = run()

    result.assert_outcomes(passed=5)
    warnings = [line for line in result.outlines if line.startswith("warning:")]
    assert len(warnings) == 1
    assert "GET /gone/*" in warnings[0]
    assert "matches no request" in warnings[0]
    # A part of the suite cannot tell.
    assert "matches no" not in run("-k", "clean").stdout.str()


TABLE_MISTAKES = [
    ('"GET /*" = { sql_querys = 1 }', "unknown metric 'sql_querys'. Did you mean 'sql_queries'?"),
    ('"GET /*" = { sql_queries = -1 }', "is negative"),
    ('"GET /*" = { http_p95 = 3 }', "has no unit"),
    ('"GET /*" = { sql_queries = [1, 2] }', "sql_queries"),
    ('"GET /*" = { sql_queries = 1, level = "wran" }', "'wran' is not a level"),
    ('"GET /*" = { level = "warn" }', "GET /*"),
    ('"GET /*" = {}', "GET /*"),
    ('"GET /*" = 5', 'write "GET /*" = { sql_queries = 5 }'),
    ('"GET /*" = "sql_queries=5"', 'write "GET /*" = { sql_queries = 5 }'),
    ('"GET /*" = { sql_queries = 1 ', "line"),
]


@pytest.mark.parametrize(("entry", "message"), TABLE_MISTAKES)
def test_a_table_that_cannot_be_read_stops_the_run_and_names_the_file(
    pytester: pytest.Pytester, run_once: Run, entry: str, message: str
) -> None:
    write(pytester, test_nothing="def test_nothing():\n    pass\n")
    pytester.makeini("[pytest]\n")
    text = f"[tool.perfguard.budgets]\n{entry}\n"
    (pytester.path / "pyproject.toml").write_text(text, encoding="utf-8")

    result = run_once()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    told = result.stderr.str() + result.stdout.str()
    assert message in told
    assert "pyproject.toml" in told
    assert "Traceback" not in told
    assert "passed" not in told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool.perfguard]\nbudget = {}\n", "has a table 'budgets' and nothing else, not 'budget'"),
        ("[tool.perfguard]\nbudgets = 5\n", "has a table 'budgets' and nothing else"),
        ("[tool]\nperfguard = 5\n# tool.perfguard\n", "tool.perfguard"),
    ],
)
def test_a_table_of_another_shape_stops_the_run(
    pytester: pytest.Pytester, run_once: Run, text: str, message: str
) -> None:
    write(pytester, test_nothing="def test_nothing():\n    pass\n")
    (pytester.path / "pyproject.toml").write_text(text, encoding="utf-8")

    result = run_once()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    told = result.stderr.str()
    assert message in told
    assert "pyproject.toml" in told
    assert "Traceback" not in told


def test_a_project_without_such_a_table_is_left_alone(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    write(pytester, test_nothing="def test_nothing():\n    pass\n")
    for text in ("# tool.perfguard\n", '[tool.other]\nx = "tool.perfguard"\n'):
        (pytester.path / "pyproject.toml").write_text(text, encoding="utf-8")

        result = run_once()

        result.assert_outcomes(passed=1)
        assert "perfguard ====" not in result.stdout.str()
