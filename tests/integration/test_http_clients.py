"""Requests of HTTP test clients: each is judged by itself, whatever library sends it."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from pytest_perfguard.model import Record, Span

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
    assert "perfguard: 1 of 1 budget exceeded in GET /shops/{id}/resources\n" in output
    assert "perfguard: 1 of 1 budget exceeded in GET /async/shops/{id}/resources\n" in output
    assert "20x Resource.owner lazy-loaded one row at a time" in output
    found = records()
    assert names(found["test_ten_clean[/users]"].span) == ["GET /users/{id}"] * 10
    assert names(found["test_redirect"].span) == ["GET /old/{id}"]
    assert found["test_redirect"].metrics["sql_queries"] == 2
    for path in ("/users", "/async/users"):
        for library in ("httpx", "httpx2"):
            span = found[f"test_ten_at_once[{path}-{library}]"].span
            assert names(span) == [f"GET {path}/{{id}}"] * 10
            assert [sum(t.count for t in part.tallies) for part in span.children] == [1] * 10
    for library in ("httpx", "httpx2"):
        span = found[f"test_one_of_several_at_once_over[{library}]"].span
        assert {
            part.name: sum(tally.count for tally in part.tallies) for part in span.children
        } == {
            "GET /users/{id}": 1,
            "GET /async/shops/{id}/resources": 20,
            "GET /async/users/{id}": 1,
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
    headline = "perfguard: 1 of 1 budget exceeded in GET /shops/{id}/resources"
    assert result.outlines.count(headline) == len(clients)
    found = records()
    for client in clients:
        assert names(found[f"test_ten_clean[{client}]"].span) == ["GET /users/{id}"] * 10
        redirect = found[f"test_redirect[{client}]"]
        assert redirect.metrics["sql_queries"] == 2
        assert all(not span.children for span in redirect.span.children)


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
    headline = "perfguard: 1 of 2 budgets exceeded in GET /shops/{id}/resources"
    assert result.outlines.count(headline) == len(combinations)
    found = records()
    for name in combinations:
        assert names(found[f"test_ten_clean[{name}]"].span) == ["GET /users/{id}"] * 10
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
