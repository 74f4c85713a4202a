"""Reference work: what a call's CPU time is compared with, so that the machine drops out of it.

There are three: one of the call's own kind, a tiny application with a query of five rows reached
by the same sort of client; a light one that fits into the smallest caches; and a broad mix of the
standard library. A busy machine slows down each of them in another way, and a judge can find the
mix that behaves as the call does. They never change with what the tests do; where they depend on a
library that is loaded, their name says so, and times beside references of another name are not
comparable.

Clients are told apart by the modules of their classes, and libraries used only where they have been
loaded already.
"""

from __future__ import annotations

import decimal
import json
import re
import sqlite3
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

# By the module of a client's class or by its package.
_KINDS = {
    "starlette.testclient": "testclient",
    "werkzeug.test": "flask",
    "django.test.client": "django",
    "requests": "url",
    "aiohttp": "url",
    "urllib3": "url",
}
_HTTPX = ("httpx", "httpx2")
_TRANSPORTS = {"ASGITransport": "asgi", "WSGITransport": "wsgi"}

_HOST = "http://reference"
_PATH = "/rows"
_ROWS = [(n, f"the item called {n}", n / 7) for n in range(1, 51)]
_LIMIT = 5
_COLUMNS = ("id", "name", "price")
_QUERY = "SELECT id, name, price FROM items WHERE price > ? ORDER BY id LIMIT ?"

Rows = Callable[[], list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class References:
    """Three calls that are timed beside another one.

    They must not be used by two threads at once. Whoever has made them closes them.

    Attributes:
        kind: sort of the call that they were made for; see :func:`client_kind`.
        name: what they are, e.g. ``testclient/starlette/sqlite3``.
        calls: the matched one, the light one, the mix of the standard library.
        awaits: which of them return something to be awaited.
        warm: not empty once they have been run often enough.
    """

    kind: str
    name: str
    calls: tuple[Callable[[], Any], Callable[[], Any], Callable[[], Any]]
    awaits: tuple[bool, bool, bool] = (False, False, False)
    warm: list[bool] = field(default_factory=list, compare=False)
    _open: ExitStack = field(default_factory=ExitStack, compare=False, repr=False)

    def close(self) -> None:
        """End what they keep running."""
        self._open.close()


def client_kind(client: object | None) -> str:
    """Return of which sort a client is.

    Returns:
        ``function`` if there is none; ``testclient`` (Starlette's and FastAPI's), ``asgi`` (an
        AsyncClient on an ASGITransport), ``wsgi`` (a Client on a WSGITransport), ``flask``,
        ``django``; ``url`` if it talks to a real address; else ``unknown``.
    """
    if client is None:
        return "function"
    for cls in type(client).__mro__:
        package = cls.__module__.partition(".")[0]
        if package in _HTTPX:
            transport = type(getattr(client, "_transport", None)).__name__
            return _TRANSPORTS.get(transport, "url")
        kind = _KINDS.get(cls.__module__) or _KINDS.get(package)
        if kind:
            return kind
    return "unknown"


def make_references(client: object | None = None, *, awaited: bool = False) -> References:
    """Make the references for calls by a client; take the probes away before.

    For a client of a real address it is the closest client of the same library that stays in the
    process, and where there is none, the bare application.

    Args:
        client: what the calls are made by; None for plain functions.
        awaited: whether the calls are awaited; only then the references may be.
    """
    kind = client_kind(client)
    opened = ExitStack()
    try:
        matched, name, is_async = _matched(client, kind, opened, awaited=awaited)
    except BaseException:
        opened.close()
        raise
    return References(
        kind, name, (matched, light, standard_mix), (is_async, False, False), _open=opened
    )


class ReferenceShelf:
    """Keeps references, so that calls of one sort share them."""

    def __init__(self) -> None:
        self._kept: dict[object, References] = {}

    def get(self, client: object | None = None, *, awaited: bool = False) -> References:
        """Return the references for calls by such a client, made once; see `make_references`."""
        key = (type(client), client_kind(client), _variant(client), awaited)
        if key not in self._kept:
            self._kept[key] = make_references(client, awaited=awaited)
        return self._kept[key]

    def close(self) -> None:
        """Close all of them."""
        while self._kept:
            self._kept.popitem()[1].close()


def _variant(client: object | None) -> tuple[object, ...]:
    """Return what makes one TestClient another sort than the next."""
    if client_kind(client) != "testclient":
        return ()
    backend = getattr(client, "async_backend", {})
    return (
        getattr(client, "portal", None) is not None,
        backend.get("backend", "asyncio"),
        repr(backend.get("backend_options", {})),
    )


Matched = tuple[Callable[[], Any], str, bool]


def _matched(client: object | None, kind: str, opened: ExitStack, *, awaited: bool) -> Matched:
    if kind == "function":
        return hot_loop, "function", False
    rows, library = _rows(opened)
    package = _httpx_package(client)
    if kind == "testclient":
        matched = _by_testclient(client, rows, library, opened)
    elif package and awaited:
        matched = _by_async_client(package, rows, library)
    elif package and kind != "asgi":
        matched = _by_wsgi_client(package, rows, library, opened)
    elif kind == "flask":
        matched = _by_werkzeug(rows, library)
    elif kind == "django":
        matched = _by_django(rows, library)
    else:
        app = _wsgi_app(rows)
        matched = (lambda: app({"PATH_INFO": _PATH}, _ignore)), f"app/{library}", False
    return matched


def _httpx_package(client: object | None) -> str:
    for cls in type(client).__mro__:
        package = cls.__module__.partition(".")[0]
        if package in _HTTPX:
            return package
    return ""


def _by_testclient(client: object | None, rows: Rows, library: str, opened: ExitStack) -> Matched:
    is_entered, backend, _ = _variant(client)
    starlette: Any = sys.modules["starlette.testclient"]
    made = starlette.TestClient(
        _asgi_app(rows)[0], base_url=_HOST, **getattr(client, "async_backend", {})
    )
    if is_entered:
        # Its event loop runs in a thread of its own; otherwise one is made for each request.
        opened.enter_context(made)
    opened.callback(made.close)
    how = "" if is_entered else "-not-entered"
    return (lambda: made.get(_PATH)), f"testclient{how}/{backend}/starlette/{library}", False


def _by_async_client(package: str, rows: Rows, library: str) -> Matched:
    httpx: Any = sys.modules[package]
    app, framework = _asgi_app(rows)
    # It keeps nothing open: there is no connection, and it belongs to no event loop.
    made = httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url=_HOST, trust_env=False
    )
    return (lambda: made.get(_PATH)), f"asgi/{package}/{framework}/{library}", True


def _by_wsgi_client(package: str, rows: Rows, library: str, opened: ExitStack) -> Matched:
    httpx: Any = sys.modules[package]
    made = httpx.Client(
        transport=httpx.WSGITransport(app=_wsgi_app(rows)), base_url=_HOST, trust_env=False
    )
    opened.callback(made.close)
    return (lambda: made.get(_PATH)), f"wsgi/{package}/{library}", False


def _by_werkzeug(rows: Rows, library: str) -> Matched:
    flask: Any = sys.modules.get("flask")
    if flask is None:
        werkzeug: Any = sys.modules["werkzeug.test"]
        made = werkzeug.Client(_wsgi_app(rows))
        return (lambda: made.get(_PATH)), f"werkzeug/{library}", False
    app = flask.Flask("reference", root_path="/", static_folder=None)
    app.add_url_rule(_PATH, "rows", rows)
    made = app.test_client()
    return (lambda: made.get(_PATH)), f"flask/{library}", False


def _by_django(rows: Rows, library: str) -> Matched:
    """Do what Django's handler does but for the routing, which needs settings of its own."""
    from django.http import JsonResponse  # noqa: PLC0415 - it is loaded
    from django.test.client import RequestFactory  # noqa: PLC0415

    factory = RequestFactory()

    def request() -> object:
        asked = factory.get(_PATH)
        return JsonResponse({"path": asked.path, "rows": rows()}).content

    return request, f"django/{library}", False


def _rows(opened: ExitStack) -> tuple[Rows, str]:
    """Return a query, and the library that it goes through."""
    if "sqlalchemy.orm" in sys.modules:
        return _rows_by_sqlalchemy(opened), "sqlalchemy"
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    opened.enter_context(closing(connection))
    connection.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT, price REAL)")
    connection.executemany("INSERT INTO items VALUES (?, ?, ?)", _ROWS)

    def rows() -> list[dict[str, Any]]:
        found = connection.execute(_QUERY, (1, _LIMIT))
        return [dict(zip(_COLUMNS, row, strict=True)) for row in found]

    return rows, "sqlite3"


def _rows_by_sqlalchemy(opened: ExitStack) -> Rows:
    from sqlalchemy import create_engine, insert, select  # noqa: PLC0415 - it is loaded
    from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column  # noqa: PLC0415
    from sqlalchemy.pool import StaticPool  # noqa: PLC0415

    class Base(DeclarativeBase):
        pass

    class Item(Base):
        __tablename__ = "items"
        __annotations__ = {"id": Mapped[int], "name": Mapped[str], "price": Mapped[float]}
        id = mapped_column(primary_key=True)
        name = mapped_column()
        price = mapped_column()

    engine = create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    opened.callback(engine.dispose)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(Item), [dict(zip(_COLUMNS, row, strict=True)) for row in _ROWS])
    query = select(Item).where(Item.price > 1).order_by(Item.id).limit(_LIMIT)

    def rows() -> list[dict[str, Any]]:
        with Session(engine) as session:
            return [
                {"id": item.id, "name": item.name, "price": item.price}
                for item in session.scalars(query)
            ]

    return rows


def _asgi_app(rows: Rows) -> tuple[Any, str]:
    """Return an application and what it is built with: Starlette where that is loaded."""
    if "starlette.applications" in sys.modules:
        from starlette.applications import Starlette  # noqa: PLC0415 - it is loaded
        from starlette.responses import JSONResponse  # noqa: PLC0415
        from starlette.routing import Route  # noqa: PLC0415

        async def endpoint(_request: object) -> JSONResponse:
            return JSONResponse(rows())

        return Starlette(routes=[Route(_PATH, endpoint)]), "starlette"

    async def app(
        _scope: Mapping[str, Any],
        receive: Callable[[], Awaitable[Mapping[str, Any]]],
        send: Callable[[Mapping[str, Any]], Awaitable[None]],
    ) -> None:
        await receive()
        body = json.dumps(rows()).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app, "plain"


def _wsgi_app(rows: Rows) -> Callable[[Any, Any], Iterable[bytes]]:
    def app(_environ: Mapping[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        body = json.dumps(rows()).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response("200 OK", headers)
        return [body]

    return app


def _ignore(*_: object) -> None:
    pass


def hot_loop() -> int:
    """Do what a plain function does in its loops: numbers, lists, dicts."""
    seen: dict[int, int] = {}
    values = list(range(64))
    total = 0
    for n in range(4000):
        total = (total * 31 + values[n & 63] + n) & 0xFFFF
        if total & 7 == 0:
            seen[total & 255] = n
            values[total & 63] = total & 1023
    return total + len(seen)


class _Counter:
    """Counts, by a method."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def add(self, number: int) -> int:
        self.value = (self.value + number) & 0xFFFF
        return self.value


def light() -> int:
    """Call methods in a loop that fits into the smallest caches."""
    counter = _Counter()
    for n in range(2500):
        counter.add(n)
    return counter.value


@dataclass(frozen=True, slots=True)
class _Item:
    id: int
    name: str
    price: decimal.Decimal
    at: datetime


_RECORDS = [
    {"id": n, "name": f"item {n * 7919 % 101}", "price": n / 7, "tags": ["a", "b", str(n)]}
    for n in range(24)
]
_WORD = re.compile(r"[a-z]+|\d+\.\d+")
_MONEY = decimal.Context(prec=12)
_START = datetime(2024, 2, 29, 12, 30, tzinfo=UTC)


def standard_mix() -> int:
    """Use the standard library broadly: JSON, regular expressions, sorting, text, decimals."""
    text = json.dumps(_RECORDS)
    records = json.loads(text)
    words = Counter(_WORD.findall(text))
    items = [
        _Item(
            record["id"],
            record["name"].title(),
            _MONEY.create_decimal(f"{record['price']:.2f}"),
            _START + timedelta(hours=record["id"]),
        )
        for record in records
    ]
    items = [
        replace(item, price=_MONEY.multiply(item.price, decimal.Decimal("1.19"))) for item in items
    ]
    items.sort(key=lambda item: (item.name, -item.id))
    lines = [f"{item.name:<12}|{item.price:>10}|{item.at.isoformat()}" for item in items]
    merged = {**{line[:12].strip(): line for line in lines}, **dict.fromkeys(words, "")}
    days = {datetime.fromisoformat(line.rpartition("|")[2]).date() for line in lines}
    joined = "\n".join(sorted(merged)).encode().decode()
    return len(joined.replace("item", "thing").split()) + len(days)
