from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_perfguard.references import (
    References,
    ReferenceShelf,
    client_kind,
    hot_loop,
    light,
    make_references,
    standard_mix,
)


def _fake(module: str, name: str = "Client", **attributes: object) -> Any:
    return type(name, (), {"__module__": module, **attributes})()


class ASGITransport:
    pass


class WSGITransport:
    pass


@pytest.mark.parametrize(
    ("client", "kind"),
    [
        (None, "function"),
        (_fake("starlette.testclient", "TestClient"), "testclient"),
        (_fake("httpx", "AsyncClient", _transport=ASGITransport()), "asgi"),
        (_fake("httpx2._client", "AsyncClient", _transport=ASGITransport()), "asgi"),
        (_fake("httpx", "Client", _transport=WSGITransport()), "wsgi"),
        (_fake("httpx", "Client", _transport=object()), "url"),
        (_fake("httpx", "AsyncClient"), "url"),
        (_fake("requests.sessions", "Session"), "url"),
        (_fake("werkzeug.test"), "flask"),
        (_fake("django.test.client"), "django"),
        (_fake("httpxtras"), "unknown"),
        (object(), "unknown"),
    ],
)
def test_clients_are_told_apart_by_their_modules(client: object, kind: str) -> None:
    assert client_kind(client) == kind


def test_a_subclass_is_of_the_sort_of_its_base() -> None:
    class Ours(type(_fake("werkzeug.test"))):  # type: ignore[misc]
        pass

    assert client_kind(Ours()) == "flask"


@pytest.fixture
def made() -> Iterator[Callable[..., References]]:
    opened: list[References] = []

    def make(*args: Any, **kwargs: Any) -> References:
        opened.append(make_references(*args, **kwargs))
        return opened[-1]

    yield make
    for references in opened:
        references.close()


def _names(body: Any) -> list[str]:
    rows = json.loads(body) if isinstance(body, bytes | str) else body
    return [row["name"] for row in rows]


_FIVE = [f"the item called {n}" for n in range(8, 13)]


def test_functions_have_a_hot_loop(made: Callable[..., References]) -> None:
    references = made()
    assert references.kind == references.name == "function"
    assert references.calls == (hot_loop, light, standard_mix)
    assert not any(references.awaits)


def test_the_same_work_is_done_each_time() -> None:
    for work in (hot_loop, light, standard_mix):
        assert work() == work() > 0


def test_reference_work_does_not_depend_on_the_hash_seed_or_on_settings() -> None:
    code = (
        "import decimal; context = decimal.getcontext(); context.prec = 2\n"
        "context.traps[decimal.Inexact] = True\n"
        "from pytest_perfguard.references import *\n"
        "print(hot_loop(), light(), standard_mix())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert seen == {f"{hot_loop()} {light()} {standard_mix()}\n"}


def test_an_unknown_client_has_the_bare_application(made: Callable[..., References]) -> None:
    references = made(object())
    assert references.kind == "unknown"
    assert references.name.startswith("app/")
    (body,) = references.calls[0]()
    assert _names(body) == _FIVE


def test_nothing_is_imported_that_is_not_loaded() -> None:
    code = (
        "import sys; from pytest_perfguard.references import make_references\n"
        "references = make_references(object()); references.calls[0](); references.close()\n"
        "print(references.name, {'sqlalchemy', 'httpx', 'httpx2', 'starlette', 'pytest'} "
        "& set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True
    )
    assert done.stdout == "app/sqlite3 set()\n"


@pytest.fixture
def testclient() -> Any:
    testclient = pytest.importorskip("starlette.testclient")
    applications = pytest.importorskip("starlette.applications")
    return testclient.TestClient(applications.Starlette())


def test_a_testclient_has_a_testclient(made: Callable[..., References], testclient: Any) -> None:
    references = made(testclient)
    assert references.name.startswith("testclient-not-entered/asyncio/starlette/")
    assert _names(references.calls[0]().content) == _FIVE
    assert not any(references.awaits)


def test_a_testclient_that_keeps_its_event_loop_has_one_that_does(
    made: Callable[..., References], testclient: Any
) -> None:
    with testclient:
        references = made(testclient)
        assert references.name.startswith("testclient/asyncio/starlette/")
        assert _names(references.calls[0]().content) == _FIVE


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
def test_an_async_client_has_one_of_the_same_library(
    made: Callable[..., References], library: str
) -> None:
    httpx: Any = pytest.importorskip(library)

    async def app(*_: object) -> None:
        raise AssertionError

    client = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test")
    references = made(client, awaited=True)
    assert (references.kind, references.awaits) == ("asgi", (True, False, False))
    assert references.name.startswith(f"asgi/{library}/")

    async def run() -> list[str]:
        return _names((await references.calls[0]()).content)

    # It belongs to no event loop.
    assert asyncio.run(run()) == asyncio.run(run()) == _FIVE


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
def test_a_client_of_a_real_address_has_the_closest_that_stays_in_the_process(
    made: Callable[..., References], library: str
) -> None:
    httpx: Any = pytest.importorskip(library)
    with httpx.Client() as client:
        references = made(client)
    assert (references.kind, references.name.rpartition("/")[0]) == ("url", f"wsgi/{library}")
    assert _names(references.calls[0]().content) == _FIVE
    references = made(httpx.AsyncClient(), awaited=True)
    assert references.kind == "url"
    assert references.name.startswith(f"asgi/{library}/")


def test_what_is_not_awaited_has_no_references_that_are(made: Callable[..., References]) -> None:
    httpx: Any = pytest.importorskip("httpx2")

    async def app(*_: object) -> None:
        raise AssertionError

    client = httpx.AsyncClient(transport=httpx.ASGITransport(app=app))
    references = made(client, awaited=False)
    assert not any(references.awaits)
    assert references.name.startswith("app/")


def test_a_flask_client_has_a_flask_client(made: Callable[..., References]) -> None:
    flask: Any = pytest.importorskip("flask")
    references = made(flask.Flask("test").test_client())
    assert references.name.startswith("flask/")
    assert _names(references.calls[0]().get_data()) == _FIVE


def test_a_django_client_has_a_request_and_a_response_of_django() -> None:
    pytest.importorskip("django")
    # Django has one configuration for a process.
    code = (
        "from django.conf import settings; settings.configure()\n"
        "from django.test.client import Client\n"
        "from pytest_perfguard.references import make_references\n"
        "references = make_references(Client()); print(references.name)\n"
        "print(references.calls[0]().decode()); references.close()"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    name, body = done.stdout.splitlines()
    assert name == "django/sqlite3"
    assert _names(json.dumps(json.loads(body)["rows"])) == _FIVE


def test_sqlalchemy_is_used_where_it_is_loaded(made: Callable[..., References]) -> None:
    pytest.importorskip("sqlalchemy.orm")
    references = made(object())
    assert references.name == "app/sqlalchemy"
    assert _names(b"".join(references.calls[0]())) == _FIVE


def test_a_shelf_keeps_one_of_each_sort_and_closes_them() -> None:
    shelf = ReferenceShelf()
    functions = shelf.get()
    assert shelf.get() is functions
    others = shelf.get(object())
    assert others is not functions
    assert shelf.get(object()) is others
    shelf.close()
    assert shelf.get() is not functions


def test_a_shelf_tells_testclients_apart_by_their_event_loop(testclient: Any) -> None:
    shelf = ReferenceShelf()
    without = shelf.get(testclient)
    with testclient:
        entered = shelf.get(testclient)
    assert entered is not without
    assert shelf.get(testclient) is without
    shelf.close()


def test_what_was_opened_is_closed(testclient: Any) -> None:
    import threading

    before = threading.active_count()
    with testclient:
        references = make_references(testclient)
        assert threading.active_count() > before + 1
        references.close()
    assert threading.active_count() == before
