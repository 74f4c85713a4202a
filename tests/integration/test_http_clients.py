"""Requests of HTTP test clients: each is judged by itself, whatever library sends it."""

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

# What every application does. One user is one clean statement; a list is an N+1.
FASTAPI_APP = """
    from fastapi import FastAPI
    from fastapi.responses import RedirectResponse
    from pydantic import BaseModel, ConfigDict
    from sqlalchemy import select
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
    from sqlalchemy.orm import Session
    from sqlalchemy.pool import NullPool

    import shop

    app = FastAPI()
    async_engine = create_async_engine(
        f"sqlite+aiosqlite:///{shop.database}", poolclass=NullPool
    )


    class UserOut(BaseModel):
        model_config = ConfigDict(from_attributes=True)
        email: str


    class ResourceOut(BaseModel):
        model_config = ConfigDict(from_attributes=True)
        name: str
        owner: UserOut


    @app.get("/users/{number}")
    def user(number: int):
        return shop.get_email(number)

    @app.get("/async/users/{number}")
    async def async_user(number: int):
        async with AsyncSession(async_engine) as session:
            return (await session.get(shop.User, number)).email

    @app.get("/shops/{number}/resources")
    def resources(number: int):
        return shop.list_lazily()

    @app.get("/async/shops/{number}/resources")
    async def async_resources(number: int):
        async with AsyncSession(async_engine) as session:
            found = []
            for key in range(1, 21):
                found.append((await session.get(shop.User, key)).email)
            return found

    @app.get("/old/{number}")
    def old(number: int):
        shop.get_email(20)
        return RedirectResponse(f"/users/{number}")

    session = Session(shop.engine)

    @app.get("/serialised", response_model=list[ResourceOut])
    def serialised():
        return session.scalars(select(shop.Resource)).all()
"""


@pytest.fixture
def fastapi_app(pytester: pytest.Pytester) -> None:
    """Write a FastAPI application with sync and async endpoints."""
    pytester.makepyfile(application=FASTAPI_APP)


def names(span: Span) -> list[str]:
    """Return the spans below the test's."""
    return [part.name for part in span.walk()][1:]


@pytest.mark.usefixtures("fastapi_app")
def test_in_process_clients_of_an_asgi_application(
    pytester: pytest.Pytester, run: Run, failed: Failed, records: Records
) -> None:
    pytester.makepyfile(
        test_asgi="""
        import asyncio
        import httpx, httpx2, pytest
        from starlette.testclient import TestClient
        from application import app

        pytestmark = pytest.mark.perf_budget(sql_n_plus_one=0)

        @pytest.fixture
        def client():
            return TestClient(app)

        @pytest.mark.parametrize("path", ["/users", "/async/users"])
        def test_ten_clean(client, path):
            for number in range(1, 11):
                assert client.get(f"{path}/{number}").json() == f"{number}@shop"

        @pytest.mark.parametrize("prefix", ["/shops", "/async/shops"])
        def test_one_over(client, prefix):
            assert len(client.get(f"{prefix}/7/resources").json()) == 20

        def test_redirect(client):
            assert client.get("/old/3").json() == "3@shop"

        @pytest.mark.parametrize("library", [httpx, httpx2])
        @pytest.mark.parametrize("path", ["/users", "/async/users"])
        def test_ten_at_once(library, path):
            async def get_all():
                transport = library.ASGITransport(app)
                async with library.AsyncClient(transport=transport, base_url="http://t") as client:
                    return await asyncio.gather(
                        *(client.get(f"{path}/{number}") for number in range(1, 11))
                    )
            texts = [response.json() for response in asyncio.run(get_all())]
            assert texts == [f"{number}@shop" for number in range(1, 11)]

        @pytest.mark.parametrize("library", [httpx, httpx2])
        def test_one_of_several_at_once_over(library):
            async def get_all():
                transport = library.ASGITransport(app)
                async with library.AsyncClient(transport=transport, base_url="http://t") as client:
                    await asyncio.gather(
                        client.get("/users/1"),
                        client.get("/async/shops/2/resources"),
                        client.get("/async/users/3"),
                    )
            asyncio.run(get_all())
        """
    )

    result = run("--perfguard-json=run.json")

    assert failed(result) == [
        "test_one_of_several_at_once_over[httpx2]",
        "test_one_of_several_at_once_over[httpx]",
        "test_one_over[/async/shops]",
        "test_one_over[/shops]",
    ]
    output = result.stdout.str()
    assert "perfguard: 1 of 1 budget exceeded in GET /shops/{number}/resources\n" in output
    assert "perfguard: 1 of 1 budget exceeded in GET /async/shops/{number}/resources\n" in output
    assert "20x Resource.owner lazy-loaded one row at a time" in output
    found = records()
    assert names(found["test_ten_clean[/users]"].span) == ["GET /users/{number}"] * 10
    assert names(found["test_redirect"].span) == ["GET /old/{number}"]
    assert found["test_redirect"].metrics["sql_queries"] == 2
    for path in ("/users", "/async/users"):
        for library in ("httpx", "httpx2"):
            span = found[f"test_ten_at_once[{path}-{library}]"].span
            assert names(span) == [f"GET {path}/{{number}}"] * 10
            assert [METRICS["sql_queries"].measure(part) for part in span.children] == [1] * 10
    for library in ("httpx", "httpx2"):
        span = found[f"test_one_of_several_at_once_over[{library}]"].span
        assert {part.name: METRICS["sql_queries"].measure(part) for part in span.children} == {
            "GET /users/{number}": 1,
            "GET /async/shops/{number}/resources": 20,
            "GET /async/users/{number}": 1,
        }


@pytest.mark.usefixtures("fastapi_app")
def test_a_lazy_load_while_a_response_is_serialised_says_through_which_library(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    pytester.makepyfile(
        test_serialised="""
        import pytest
        from fastapi.testclient import TestClient
        from application import app

        @pytest.mark.perf_budget(sql_n_plus_one=0)
        def test_serialised():
            assert len(TestClient(app).get("/serialised").json()) == 20
        """
    )

    result = run_once()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "perfguard: 1 of 1 budget exceeded in GET /serialised",
            "20x Resource.owner lazy-loaded one row at a time",
            "    fix: select(Resource).options(selectinload(Resource.owner))*",
        ]
    )
    title = result.outlines.index("20x Resource.owner lazy-loaded one row at a time")
    assert re.search(r"application\.py|fastapi|pydantic", result.outlines[title + 1])


def test_in_process_clients_of_wsgi_applications(
    pytester: pytest.Pytester, run_once: Run, failed: Failed, records: Records
) -> None:
    pytester.makepyfile(
        flask_app="""
            import flask, shop

            app = flask.Flask(__name__)

            @app.get("/users/<int:number>")
            def user(number):
                return shop.get_email(number)

            @app.get("/shops/<int:number>/resources")
            def resources(number):
                return str(len(shop.list_lazily()))

            @app.get("/old/<int:number>")
            def old(number):
                shop.get_email(20)
                return flask.redirect(f"/users/{number}")
        """,
        django_app="""
            import sys
            import django, shop
            from django.conf import settings
            from django.http import HttpResponse, HttpResponseRedirect
            from django.urls import path

            if not settings.configured:
                settings.configure(
                    ALLOWED_HOSTS=["*"], ROOT_URLCONF="django_app", USE_TZ=True, SECRET_KEY="x"
                )
                django.setup()

            def user(request, number):
                return HttpResponse(shop.get_email(number))

            def resources(request, number):
                return HttpResponse(str(len(shop.list_lazily())))

            def old(request, number):
                shop.get_email(20)
                return HttpResponseRedirect(f"/users/{number}")

            urlpatterns = [
                path("users/<int:number>", user),
                path("shops/<int:number>/resources", resources),
                path("old/<int:number>", old),
            ]
        """,
        test_wsgi="""
            import asyncio
            import django_app, httpx, pytest
            from django.test import AsyncClient, Client
            from flask_app import app

            pytestmark = pytest.mark.perf_budget(sql_n_plus_one=0)

            def flask_get(path):
                return app.test_client().get(path, follow_redirects=True).text

            def httpx_get(path):
                transport = httpx.WSGITransport(app=app)
                with httpx.Client(
                    transport=transport, base_url="http://t", follow_redirects=True
                ) as client:
                    return client.get(path).text

            def django_get(path):
                return Client().get(path, follow=True).content.decode()

            def django_async_get(path):
                return asyncio.run(AsyncClient().get(path, follow=True)).content.decode()

            @pytest.fixture(params=["flask", "httpx", "django", "django_async"])
            def get(request):
                return globals()[f"{request.param}_get"]

            def test_ten_clean(get):
                for number in range(1, 11):
                    assert get(f"/users/{number}") == f"{number}@shop"

            def test_one_over(get):
                assert get("/shops/7/resources") == "20"

            def test_redirect(get):
                assert get("/old/3") == "3@shop"
        """,
    )

    result = run_once("--perfguard-json=run.json")

    clients = ["django", "django_async", "flask", "httpx"]
    assert failed(result) == sorted(f"test_one_over[{client}]" for client in clients)
    headline = "perfguard: 1 of 1 budget exceeded in GET /shops/{number}/resources"
    assert result.outlines.count(headline) == len(clients)
    found = records()
    # Django's clients follow a redirect after the request that it answers has ended.
    followed = ["GET /old/{number}", "GET /users/{number}"]
    redirects = {"django": followed, "django_async": followed}
    for client in clients:
        assert names(found[f"test_ten_clean[{client}]"].span) == ["GET /users/{number}"] * 10
        redirect = found[f"test_redirect[{client}]"]
        assert redirect.metrics["sql_queries"] == 2
        assert names(redirect.span) == redirects.get(client, ["GET /old/{number}"])


def test_requests_to_a_live_server_in_a_thread(
    pytester: pytest.Pytester, run_once: Run, failed: Failed, records: Records
) -> None:
    pytester.makepyfile(
        application=FASTAPI_APP,
        test_live="""
            import threading
            from wsgiref.simple_server import WSGIRequestHandler, make_server

            import httpx, pytest, requests, shop, uvicorn
            from application import app

            pytestmark = pytest.mark.perf_budget(sql_n_plus_one=0, sql_queries=21)

            def wsgi(environ, start_response):
                start_response("200 OK", [("Content-Type", "text/plain")])
                *_, kind, number, rest = f"{environ['PATH_INFO']}/".split("/", 3)
                body = str(shop.list_lazily()) if kind == "shops" else shop.get_email(int(number))
                return [body.encode()]

            class Silent(WSGIRequestHandler):
                def log_message(self, *args):
                    pass

            @pytest.fixture(scope="module")
            def wsgi_url():
                with make_server("127.0.0.1", 0, wsgi, handler_class=Silent) as server:
                    thread = threading.Thread(target=server.serve_forever)
                    thread.start()
                    yield f"http://127.0.0.1:{server.server_port}"
                    server.shutdown()
                    thread.join()

            @pytest.fixture(scope="module")
            def asgi_url():
                started = threading.Event()

                class Server(uvicorn.Server):
                    async def startup(self, sockets=None):
                        await super().startup(sockets)
                        started.set()

                config = uvicorn.Config(app, port=0, lifespan="off", log_level="error")
                server = Server(config)
                thread = threading.Thread(target=server.run)
                thread.start()
                assert started.wait(10)
                port = server.servers[0].sockets[0].getsockname()[1]
                yield f"http://127.0.0.1:{port}"
                server.should_exit = True
                thread.join()

            @pytest.fixture(params=["wsgi", "asgi"])
            def url(request):
                return request.getfixturevalue(f"{request.param}_url")

            @pytest.fixture(params=[requests, httpx], ids=["requests", "httpx"])
            def get(request):
                return request.param.get

            def test_ten_clean(get, url):
                for number in range(1, 11):
                    assert f"{number}@shop" in get(f"{url}/users/{number}").text

            def test_one_over(get, url):
                assert "resource 20" in get(f"{url}/shops/7/resources").text
        """,
    )

    result = run_once("--perfguard-json=run.json")

    combinations = [f"{library}-{server}" for library in LIVE for server in ("wsgi", "asgi")]
    assert failed(result) == sorted(f"test_one_over[{name}]" for name in combinations)
    # Nobody knows the routes of a bare WSGI application.
    templates = {"wsgi": "{id}", "asgi": "{number}"}
    for server in templates.values():
        headline = f"perfguard: 1 of 2 budgets exceeded in GET /shops/{server}/resources"
        assert result.outlines.count(headline) == len(LIVE)
    found = records()
    for name in combinations:
        template = templates[name.partition("-")[2]]
        assert names(found[f"test_ten_clean[{name}]"].span) == [f"GET /users/{template}"] * 10
        assert found[f"test_ten_clean[{name}]"].metrics["sql_queries"] == 10


LIVE = ("requests", "httpx")


@pytest.mark.usefixtures("fastapi_app")
def test_a_block_around_requests_counts_them_all(pytester: pytest.Pytester, run_once: Run) -> None:
    pytester.makepyfile(
        test_block="""
        from fastapi.testclient import TestClient
        from application import app

        def test_block(perf):
            client = TestClient(app)
            with perf.measure("two", sql_queries=1) as m:
                client.get("/users/1")
                client.get("/users/2")
            assert m["sql_queries"] == 2
        """
    )

    result = run_once()

    result.stdout.fnmatch_lines("perfguard: 1 of 1 budget exceeded in block 'two'")


# -- perf.http(client): any client, as it is -------------------------------------------------


@pytest.fixture(params=[(), ("-n2",)], ids=["one process", "xdist"])
def run_apart(request: pytest.FixtureRequest, pytester: pytest.Pytester) -> Run:
    """Run pytest in a process of its own, or with two workers: Django is set up only once."""

    def run(*arguments: str) -> pytest.RunResult:
        return pytester.runpytest_subprocess(*LEAN, *request.param, *arguments)

    return run


# One application for each way to call it; /echo tells what arrived.
EVERY_CLIENT = """
    import asyncio, io, json, threading
    from types import SimpleNamespace

    import django_app, flask_app, httpx, httpx2, pytest, requests, uvicorn
    from application import app
    from django.test import AsyncClient as DjangoAsyncClient
    from django.test import Client as DjangoClient
    from starlette.testclient import TestClient

    ASYNC = ("httpx_async", "httpx2_async", "django_async")

    class Own:
        # Nothing but what perf.http needs of a client.
        def get(self, url, **arguments):
            return TestClient(app).get(url, **arguments)

    class Requesting:
        def request(self, method, url, **arguments):
            return TestClient(app).request(method, url, **arguments)

    @pytest.fixture(scope="module")
    def live():
        started = threading.Event()

        class Server(uvicorn.Server):
            async def startup(self, sockets=None):
                await super().startup(sockets)
                started.set()

        server = Server(uvicorn.Config(app, port=0, lifespan="off", log_level="error"))
        thread = threading.Thread(target=server.run)
        thread.start()
        assert started.wait(10)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        server.should_exit = True
        thread.join()

    @pytest.fixture(
        params=[
            "starlette", "httpx", "httpx2", "httpx_live", "httpx2_live", "requests", "flask",
            "django", *ASYNC, "own", "requesting",
        ]
    )
    def name(request):
        return request.param

    @pytest.fixture
    def base(name, request):
        is_live = name in ("httpx_live", "httpx2_live", "requests")
        return request.getfixturevalue("live") if is_live else ""

    @pytest.fixture
    def client(name):
        def in_process(library):
            transport = library.WSGITransport(flask_app.app)
            return library.Client(transport=transport, base_url="http://t")

        def in_process_async(library):
            transport = library.ASGITransport(app)
            return library.AsyncClient(transport=transport, base_url="http://t")

        made = {
            "starlette": lambda: TestClient(app),
            "httpx": lambda: in_process(httpx),
            "httpx2": lambda: in_process(httpx2),
            "httpx_live": httpx.Client,
            "httpx2_live": httpx2.Client,
            "requests": requests.Session,
            "flask": flask_app.app.test_client,
            "django": DjangoClient,
            "httpx_async": lambda: in_process_async(httpx),
            "httpx2_async": lambda: in_process_async(httpx2),
            "django_async": DjangoAsyncClient,
            "own": Own,
            "requesting": Requesting,
        }[name]()
        yield made
        if name not in ASYNC and hasattr(made, "close"):
            made.close()

    def finish(value):
        async def wait():
            return await value
        return asyncio.run(wait()) if hasattr(value, "__await__") else value
"""
FLASK_APP = """
    import flask, shop

    app = flask.Flask(__name__)

    @app.get("/users/<int:number>")
    def user(number):
        return flask.jsonify(shop.get_email(number))

    @app.get("/shops/<int:number>/resources")
    def resources(number):
        return str(len(shop.list_lazily()))

    @app.route("/echo", methods=["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"])
    def echo():
        shop.get_email(1)
        return "", 201, {"X-Method": flask.request.method}
"""
DJANGO_APP = """
    import django, shop
    from django.conf import settings
    from django.http import HttpResponse, JsonResponse
    from django.urls import include, path, re_path
    from django.views.decorators.csrf import csrf_exempt

    if not settings.configured:
        settings.configure(
            ALLOWED_HOSTS=["*"], ROOT_URLCONF="django_app", USE_TZ=True, SECRET_KEY="x"
        )
        django.setup()

    def user(request, number, **others):
        return JsonResponse(shop.get_email(number), safe=False)

    def resources(request, number):
        return HttpResponse(str(len(shop.list_lazily())))

    def echo(request):
        shop.get_email(1)
        return HttpResponse(status=201, headers={"X-Method": request.method})

    def missing(request, slug):
        return HttpResponse(status=404)

    inner = [
        path("users/<int:number>", user),
        re_path(r"^old/(?P<number>[0-9]+)$", user),
        path("pages/<path:slug>", missing),
    ]
    urlpatterns = [
        path("users/<int:number>", user),
        path("shops/<int:number>/resources", resources),
        path("echo", echo),
        path("api/", include([path("v1/<slug:tenant>/", include(inner))])),
    ]
"""
ECHO = """
    from fastapi import Request, Response

    @app.api_route(
        "/echo", methods=["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "PURGE"]
    )
    async def echo(request: Request):
        shop.get_email(1)
        return Response(status_code=201, headers={"X-Method": request.method})
"""


@pytest.fixture
def applications(pytester: pytest.Pytester) -> None:
    """Write the same few endpoints for FastAPI, Flask and Django."""
    pytester.makepyfile(application=FASTAPI_APP + ECHO, flask_app=FLASK_APP, django_app=DJANGO_APP)


def write(pytester: pytest.Pytester, name: str, *parts: str) -> None:
    """Write a test file of several parts."""
    text = "\n".join(dedent(part) for part in parts)
    (pytester.path / f"{name}.py").write_text(text, encoding="utf-8")


CLIENTS = [
    "starlette", "httpx", "httpx2", "httpx_live", "httpx2_live", "requests", "flask", "django",
    "httpx_async", "httpx2_async", "django_async", "own", "requesting",
]  # fmt: skip


@pytest.mark.usefixtures("applications")
def test_any_client_is_wrapped_and_stays_as_it_was(
    pytester: pytest.Pytester, run_apart: Run, records: Records
) -> None:
    write(
        pytester,
        "test_every",
        EVERY_CLIENT,
        """
        def test_once(perf, client, name, base):
            def look():
                own = {key: value for key, value in vars(client).items() if callable(value)}
                return type(client), own, set(vars(client))

            before = look()
            response = finish(perf.http(client).get(f"{base}/users/7"))
            assert response.status_code == 200
            text = response.content if hasattr(response, "content") else response.data
            assert json.loads(text) == "7@shop"
            # Flask's keeps what is to be torn down at the first request.
            assert look()[:2] == before[:2]
            assert look()[2] - before[2] <= {"_context_stack", "exc_info"}
            # It still is a client by itself.
            assert finish(client.get(f"{base}/users/8") if hasattr(client, "get")
                          else client.request("GET", f"{base}/users/8")).status_code == 200

        def test_timed(perf, client, name, base):
            timed = finish(perf.http(client).get(f"{base}/users/7", rounds=20, warmup=2))
            assert timed["sql_queries"] == timed["http_requests"] == 1
            assert timed["http_errors"] == 0
            assert timed["http_median"] <= timed["http_p95"] <= timed["http_max"]
            assert timed.response.status_code == 200
            assert timed.timing.rounds == 20
        """,
    )

    result = run_apart("--perfguard-json=run.json")

    result.assert_outcomes(passed=2 * len(CLIENTS))
    found = records()
    for name in CLIENTS:
        once, timed = found[f"test_once[{name}]"], found[f"test_timed[{name}]"]
        assert names(once.span) == ["GET /users/{number}"] * 2, name
        assert names(timed.span) == ["GET /users/{number}"], name
        assert once.metrics["http_requests"] == once.metrics["sql_queries"] == 2, name
        # The rounds are not counted.
        assert timed.metrics["http_requests"] == timed.metrics["sql_queries"] == 1, name
        # Flask's answers end with a newline.
        newline = name in ("httpx", "httpx2", "flask")
        assert once.metrics["response_bytes"] == len('"7@shop"') + newline, name


@pytest.mark.usefixtures("applications")
def test_every_verb_of_every_client(
    pytester: pytest.Pytester, run_apart: Run, records: Records
) -> None:
    write(
        pytester,
        "test_verbs",
        EVERY_CLIENT,
        """
        VERBS = ["get", "head", "options", "post", "put", "patch", "delete"]

        def test_verbs(perf, client, name, base):
            http = perf.http(client)
            for verb in VERBS:
                if hasattr(client, verb) or name == "requesting":
                    response = finish(getattr(http, verb)(f"{base}/echo", status=201))
                    assert response.headers["X-Method"] == verb.upper()
                    timed = finish(getattr(http, verb)(f"{base}/echo", rounds=2, warmup=1))
                    assert timed["sql_queries"] == 1
                if hasattr(client, "request") or hasattr(client, verb):
                    response = finish(http.request(verb.upper(), f"{base}/echo"))
                    assert response.headers["X-Method"] == verb.upper()

        def test_a_method_without_a_verb(perf, live):
            response = perf.http(requests.Session()).request("PURGE", f"{live}/echo", status=201)
            assert response.headers["X-Method"] == "PURGE"
            response = perf.http(TestClient(app)).request("PURGE", "/echo", status=201)
            assert response.headers["X-Method"] == "PURGE"

        def test_trace(perf):
            assert perf.http(flask_app.app.test_client()).request("PROPFIND", "/echo").status_code
            assert perf.http(DjangoClient()).request("PROPFIND", "/echo", status=201)
        """,
    )

    result = run_apart("--perfguard-json=run.json")

    result.assert_outcomes(passed=len(CLIENTS) + 2)
    found = records()
    verbs = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]
    every = [f"{verb} /echo" for verb in verbs for _ in range(3)]
    assert names(found["test_verbs[own]"].span) == ["GET /echo"] * 3
    for name in set(CLIENTS) - {"own"}:
        assert names(found[f"test_verbs[{name}]"].span) == every, name
    assert names(found["test_a_method_without_a_verb"].span) == ["PURGE /echo"] * 2
    assert names(found["test_trace"].span) == ["PROPFIND /echo"] * 2


@pytest.mark.usefixtures("fastapi_app")
def test_what_is_no_client_is_an_error_with_its_line(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    pytester.makepyfile(
        test_no_client="""
        from types import SimpleNamespace

        def test_none(perf):
            perf.http(None).get("/")

        def test_no_status(perf):
            perf.http(SimpleNamespace(get=lambda url: "text")).get("/", rounds=2)
        """
    )

    result = run_once()

    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "E*TimingError: perf.http, test_no_client.py:4: None is no HTTP client: it has nei*",
            "E*perf.http, test_no_client.py:7: 'text' has no status_code to check",
        ]
    )


@pytest.mark.usefixtures("applications")
def test_everything_is_put_back_at_the_end_of_the_session(
    pytester: pytest.Pytester, run_apart: Run
) -> None:
    pytester.makeconftest(
        """
        import sys
        import flask, httpx, httpx2, redis, requests, starlette.background, starlette.routing
        import fastapi.routing, django.test.client, werkzeug.test

        PLACES = [
            (httpx.Client, "send"), (httpx.AsyncClient, "send"),
            (httpx2.Client, "send"), (httpx2.AsyncClient, "send"),
            (requests.Session, "send"), (werkzeug.test.Client, "open"),
            (django.test.client.Client, "request"), (django.test.client.AsyncClient, "request"),
            (starlette.routing.Route, "handle"), (fastapi.routing.APIRoute, "handle"),
            (starlette.background.BackgroundTask, "__call__"), (redis.Redis, "execute_command"),
        ]
        ORIGINALS = [vars(owner).get(name) for owner, name in PLACES]

        def places():
            return [vars(owner).get(name) for owner, name in PLACES]

        def pytest_unconfigure(config):
            if "shop" in sys.modules:
                sys.modules["shop"].engine.dispose()
            assert places() == ORIGINALS
            assert not flask.request_started.receivers
            if hasattr(config, "workerinput") or not config.getoption("numprocesses", 0):
                assert config.seen_wrapped == {True}
                print("everything is back")
        """
    )
    pytester.makepyfile(
        test_back="""
        import pytest
        from conftest import ORIGINALS, places
        from starlette.testclient import TestClient
        from application import app

        def test_measured(perf, request):
            perf.http(TestClient(app)).get("/users/1", rounds=3)
            wrapped = [now is not then for now, then in zip(places(), ORIGINALS) if then]
            request.config.seen_wrapped = {all(wrapped)}
        """
    )

    result = run_apart("-s", "-p", "no:cacheprovider")

    result.assert_outcomes(passed=1)
    assert result.ret == 0
    assert "Error" not in result.stderr.str()


# -- what is not a plain request and answer ---------------------------------------------------

SPECIAL_APP = """
    from fastapi import FastAPI, WebSocket
    from fastapi.responses import StreamingResponse

    import shop

    app = FastAPI()
    sent = []

    @app.websocket("/ws/{number}")
    async def ws(websocket: WebSocket, number: int):
        await websocket.accept()
        await websocket.send_text(shop.get_email(number))
        await websocket.close()

    @app.websocket("/refused")
    async def refused(websocket: WebSocket):
        await websocket.close()

    @app.get("/stream/{count}")
    def stream(count: int):
        def parts():
            for number in range(count):
                sent.append(number)
                yield f"{number}\\n" * 100
        return StreamingResponse(parts(), media_type="text/plain")

    @app.get("/broken/{number}")
    def broken(number: int):
        shop.get_email(number)
        raise LookupError("in an endpoint")

    @app.get("/async/broken/{number}")
    async def async_broken(number: int):
        shop.get_email(number)
        raise LookupError("in an endpoint")

    @app.get("/users/{number}")
    def user(number: int):
        return shop.get_email(number)
"""


@pytest.fixture
def special_app(pytester: pytest.Pytester) -> None:
    """Write an application with websockets, streams and errors."""
    pytester.makepyfile(application=SPECIAL_APP)


@pytest.mark.usefixtures("special_app")
def test_websockets_are_not_disturbed_and_are_no_errors(
    pytester: pytest.Pytester, run: Run, records: Records
) -> None:
    pytester.makepyfile(
        test_ws="""
        import pytest
        from application import app
        from starlette.testclient import TestClient
        from starlette.websockets import WebSocketDisconnect

        @pytest.mark.perf_budget(http_errors=0)
        def test_talk():
            client = TestClient(app)
            with client.websocket_connect("/ws/7") as websocket:
                assert websocket.receive_text() == "7@shop"
            assert client.get("/users/1").json() == "1@shop"

        @pytest.mark.performance
        def test_refused():
            with pytest.raises(WebSocketDisconnect):
                with TestClient(app).websocket_connect("/refused"):
                    pass
        """
    )

    result = run("--perfguard-json=run.json")

    result.assert_outcomes(passed=2)
    found = records()
    assert found["test_talk"].metrics["sql_queries"] == 2
    assert found["test_talk"].metrics["http_errors"] == 0
    assert names(found["test_talk"].span)[-1] == "GET /users/{number}"


@pytest.mark.usefixtures("special_app")
def test_streams_are_left_to_the_test(
    pytester: pytest.Pytester, run: Run, records: Records
) -> None:
    write(
        pytester,
        "test_stream",
        """
        import asyncio
        import flask, httpx, httpx2, pytest, requests, threading
        from application import app, sent
        from django.http import StreamingHttpResponse
        from wsgiref.simple_server import WSGIRequestHandler, make_server

        pytestmark = pytest.mark.performance
        taken = []

        def parts():
            for number in range(50):
                taken.append(number)
                yield b"%d\\n" % number * 1000

        @pytest.fixture
        def flask_client():
            flask_app = flask.Flask(__name__)

            @flask_app.get("/stream")
            def stream():
                return flask.Response(parts(), mimetype="text/plain")

            return flask_app.test_client()

        @pytest.fixture
        def live():
            class Silent(WSGIRequestHandler):
                def log_message(self, *args):
                    pass

            def answer(environ, start_response):
                start_response("200 OK", [("Content-Type", "text/plain")])
                return parts()

            with make_server("127.0.0.1", 0, answer, handler_class=Silent) as server:
                thread = threading.Thread(target=server.serve_forever)
                thread.start()
                yield f"http://127.0.0.1:{server.server_port}"
                server.shutdown()
                thread.join()

        def test_flask(flask_client):
            taken.clear()
            response = flask_client.get("/stream")
            assert len(taken) <= 2, "the stream was used up by somebody else"
            assert response.data.count(b"\\n") == 50_000

        @pytest.mark.parametrize("library", [httpx, httpx2])
        def test_httpx(live, library):
            with library.Client() as client, client.stream("GET", live) as response:
                assert not response.is_stream_consumed
                assert sum(len(part) for part in response.iter_raw()) == 140_000

        @pytest.mark.parametrize("library", [httpx, httpx2])
        def test_httpx_async(live, library):
            async def read():
                async with library.AsyncClient() as client:
                    async with client.stream("GET", live) as response:
                        assert not response.is_stream_consumed
                        return sum([len(part) async for part in response.aiter_raw()])
            assert asyncio.run(read()) == 140_000

        def test_requests(live, perf):
            with requests.Session() as session:
                for get in (session.get, perf.http(session).get):
                    with get(live, stream=True) as response:
                        assert response._content is False
                        assert sum(map(len, response.iter_content(1000))) == 140_000

        @pytest.mark.parametrize("library", [httpx, httpx2])
        def test_read(live, library):
            assert len(library.get(live).content) == 140_000

        def test_testclient(perf):
            from starlette.testclient import TestClient
            with TestClient(app).stream("GET", "/stream/3") as response:
                assert response.read().count(b"\\n") == 300
            assert len(perf.http(TestClient(app)).get("/stream/3").text) == 600
        """,
    )

    result = run("--perfguard-json=run.json")

    result.assert_outcomes(passed=9)
    found = records()
    for name in ("test_flask", "test_httpx[httpx]", "test_httpx_async[httpx2]", "test_requests"):
        # Nobody can know how long a stream will be.
        assert "response_bytes" not in found[name].metrics
    assert found["test_read[httpx]"].metrics["response_bytes"] == 140_000
    assert found["test_testclient"].metrics["response_bytes"] == 600


@pytest.mark.usefixtures("special_app")
def test_an_exception_in_an_endpoint_reaches_the_test_as_ever_and_is_an_error(
    pytester: pytest.Pytester, run: Run, records: Records
) -> None:
    pytester.makepyfile(
        test_broken="""
        import asyncio
        import flask, httpx, httpx2, pytest, shop
        from application import app
        from starlette.testclient import TestClient

        pytestmark = [
            pytest.mark.performance, pytest.mark.parametrize("path", ["/broken", "/async/broken"])
        ]

        def test_raised(path, perf):
            client = TestClient(app)
            for get in (client.get, perf.http(client).get):
                with pytest.raises(LookupError, match="^'in an endpoint'$|in an endpoint"):
                    get(f"{path}/1")
            assert client.get("/users/1").json() == "1@shop"

        def test_answered(path, perf):
            client = TestClient(app, raise_server_exceptions=False)
            for get in (client.get, perf.http(client).get):
                assert get(f"{path}/1").status_code == 500

        @pytest.mark.parametrize("library", [httpx, httpx2])
        @pytest.mark.parametrize("raises", [True, False])
        def test_async(path, library, raises, perf):
            async def send():
                transport = library.ASGITransport(app, raise_app_exceptions=raises)
                async with library.AsyncClient(transport=transport, base_url="http://t") as client:
                    for get in (client.get, perf.http(client).get):
                        if raises:
                            with pytest.raises(LookupError):
                                await get(f"{path}/1")
                        else:
                            assert (await get(f"{path}/1")).status_code == 500
            asyncio.run(send())

        @pytest.mark.parametrize("testing", [True, False])
        def test_flask(path, testing):
            flask_app = flask.Flask(__name__)
            flask_app.testing = testing

            @flask_app.get("/broken/<number>")
            def broken(number):
                shop.get_email(1)
                raise LookupError("in an endpoint")

            for _ in range(2):
                if testing:
                    with pytest.raises(LookupError):
                        flask_app.test_client().get("/broken/1")
                else:
                    assert flask_app.test_client().get("/broken/1").status_code == 500
        """
    )

    result = run("--perfguard-json=run.json")

    result.assert_outcomes(passed=16)
    for name, record in records().items():
        errors = 2
        assert record.metrics["http_errors"] == errors, name
        assert record.metrics["sql_queries"] == errors + ("test_raised" in name), name
        path = "/async/broken" if "/async" in name and "flask" not in name else "/broken"
        assert names(record.span)[:2] == [f"GET {path}/{{number}}"] * 2, name
        told = {t.facts["error"] for part in record.span.walk() for t in part.tallies
                if t.probe == "http" and "error" in t.facts}  # fmt: skip
        assert told <= {"LookupError", "status 500"}, name
        assert len(told) == 1, name


@pytest.mark.usefixtures("special_app")
def test_a_client_that_is_closed_says_so_itself(
    pytester: pytest.Pytester, run: Run, records: Records
) -> None:
    pytester.makepyfile(
        test_closed="""
        import asyncio
        import httpx, httpx2, pytest
        from application import app
        from starlette.testclient import TestClient

        @pytest.mark.parametrize("library", [httpx, httpx2])
        def test_closed(perf, library):
            client = library.Client()
            client.close()
            for arguments in ({}, {"rounds": 5}):
                with pytest.raises(RuntimeError, match="the client has been closed"):
                    perf.http(client).get("http://127.0.0.1:9/users/1", **arguments)
            # What comes after is measured as ever.
            assert TestClient(app).get("/users/1").json() == "1@shop"

        @pytest.mark.parametrize("library", [httpx, httpx2])
        def test_closed_async(perf, library):
            async def send():
                client = library.AsyncClient()
                await client.aclose()
                for arguments in ({}, {"rounds": 5, "concurrency": 2}):
                    with pytest.raises(RuntimeError, match="the client has been closed"):
                        await perf.http(client).get("http://127.0.0.1:9/users/1", **arguments)
            asyncio.run(send())
            assert TestClient(app).get("/users/1").json() == "1@shop"
        """
    )

    result = run("--perfguard-json=run.json")

    result.assert_outcomes(passed=4)
    for name, record in records().items():
        assert names(record.span) == ["GET /users/{id}"] * 2 + ["GET /users/{number}"], name
        assert record.metrics["http_errors"] == 2, name
        assert record.metrics["sql_queries"] == 1, name


@pytest.mark.usefixtures("fastapi_app")
def test_many_requests_at_once_are_told_apart_with_perf_http_and_without(
    pytester: pytest.Pytester, run: Run, records: Records
) -> None:
    pytester.makepyfile(
        test_gather="""
        import asyncio
        import httpx, httpx2, pytest
        from application import app

        pytestmark = [
            pytest.mark.perf_budget(sql_n_plus_one=0),
            pytest.mark.parametrize("library", [httpx, httpx2]),
            pytest.mark.parametrize("path", ["/users", "/async/users"]),
        ]

        async def get_all(wrap, library, path):
            transport = library.ASGITransport(app)
            async with library.AsyncClient(transport=transport, base_url="http://t") as client:
                get = wrap(client).get
                pending = [get(f"{path}/{number}") for number in range(1, 11)]
                return [response.json() for response in await asyncio.gather(*pending)]

        def test_wrapped(perf, library, path):
            found = asyncio.run(get_all(perf.http, library, path))
            assert found == [f"{number}@shop" for number in range(1, 11)]

        def test_bare(library, path):
            found = asyncio.run(get_all(lambda client: client, library, path))
            assert found == [f"{number}@shop" for number in range(1, 11)]

        def test_task_group(perf, library, path):
            async def get_all():
                transport = library.ASGITransport(app)
                async with library.AsyncClient(transport=transport, base_url="http://t") as client:
                    async with asyncio.TaskGroup() as tasks:
                        for number in range(1, 11):
                            tasks.create_task(perf.http(client).get(f"{path}/{number}"))
            asyncio.run(get_all())
        """
    )

    result = run("--perfguard-json=run.json")

    result.assert_outcomes(passed=12)
    for name, record in records().items():
        path = "/async/users" if "/async" in name else "/users"
        assert names(record.span) == [f"GET {path}/{{number}}"] * 10, name
        assert [METRICS["sql_queries"].measure(s) for s in record.span.children] == [1] * 10, name


def test_a_test_client_that_has_httpx_inside(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, records: Records
) -> None:
    pytester.makepyfile(
        application=FASTAPI_APP,
        sitecustomize_httpx="""
        import sys, warnings

        sys.modules["httpx2"] = None
        """,
        test_old="""
        import httpx, pytest, warnings
        from application import app
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from starlette.testclient import TestClient

        @pytest.mark.perf_budget(sql_n_plus_one=0)
        def test_old(perf):
            assert issubclass(TestClient, httpx.Client)
            client = TestClient(app)
            assert client.get("/users/1").json() == "1@shop"
            timed = perf.http(client).get("/async/users/1", rounds=3)
            assert timed["sql_queries"] == 1
        """,
    )

    # In a process of its own: this one has a TestClient already, with httpx2.
    result = pytester.runpytest_subprocess(
        "-p", "sitecustomize_httpx", "--perfguard-json=run.json", "-p", "no:asyncio"
    )

    result.assert_outcomes(passed=1)
    span = records()["test_old"].span
    assert names(span) == ["GET /users/{number}", "GET /async/users/{number}"]
