"""Pools and transactions of services that tests call through their clients."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_perfguard.metrics import METRICS
from pytest_perfguard.model import Record, Span
from tests.integration.conftest import LEAN

Run = Callable[..., pytest.RunResult]
Failed = Callable[[pytest.RunResult], list[str]]
Records = Callable[[], dict[str, Record]]

API = """
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from threading import Thread

import httpx
from fastapi import Depends, FastAPI
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import shop

KEPT = []
# What is written must be new, or it is not written.
NUMBERS = count()


class Bank(BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Bank)
Thread(target=server.serve_forever, daemon=True).start()
bank = f"http://127.0.0.1:{server.server_address[1]}"
client = httpx.Client(trust_env=False)
async_engine = create_async_engine(str(shop.engine.url).replace("sqlite:", "sqlite+aiosqlite:"))


def charge():
    assert client.post(bank + "/charges/7").status_code == 200


def get_session():
    with Session(shop.engine) as session:
        yield session


async def get_async_session():
    async with AsyncSession(async_engine) as session:
        yield session


@asynccontextmanager
async def lifespan(app):
    yield
    await async_engine.dispose()


app = FastAPI(lifespan=lifespan)


@app.post("/early")
def early(session=Depends(get_session)):
    session.get(shop.User, 1).email = f"early{next(NUMBERS)}@shop"
    session.flush()
    charge()
    session.commit()


@app.post("/late")
def late(session=Depends(get_session)):
    session.get(shop.User, 1).email = f"late{next(NUMBERS)}@shop"
    session.commit()
    charge()


@app.post("/async-early")
async def async_early(session=Depends(get_async_session)):
    (await session.get(shop.User, 2)).email = f"early{next(NUMBERS)}@shop"
    await session.flush()
    async with httpx.AsyncClient(trust_env=False) as client:
        await client.post(bank + "/charges/7")
    await session.commit()


@app.post("/async-late")
async def async_late(session=Depends(get_async_session)):
    (await session.get(shop.User, 2)).email = f"late{next(NUMBERS)}@shop"
    await session.commit()
    async with httpx.AsyncClient(trust_env=False) as client:
        await client.post(bank + "/charges/7")


@app.post("/only-calls")
def only_calls(session=Depends(get_session)):
    session.get(shop.User, 3)
    charge()


@app.get("/leaky")
def leaky():
    session = Session(shop.engine)
    KEPT.append(session)
    return session.get(shop.User, 3).id


@app.get("/tidy")
def tidy(session=Depends(get_session)):
    return session.get(shop.User, 3).id


@app.get("/async-tidy")
async def async_tidy(session=Depends(get_async_session)):
    return (await session.get(shop.User, 3)).id


@app.post("/row-by-row")
def row_by_row(session=Depends(get_session)):
    for user in session.scalars(select(shop.User)).all()[:8]:
        user.email = "new@shop"
        session.commit()
"""
CONFTEST = """
import sys

import pytest


@pytest.fixture
def client():
    import api
    from fastapi.testclient import TestClient

    with TestClient(api.app) as client:
        yield client
    while api.KEPT:
        api.KEPT.pop().close()


def pytest_unconfigure():
    if "api" in sys.modules:
        sys.modules["api"].server.shutdown()
        sys.modules["api"].server.server_close()
        sys.modules["api"].client.close()
    if "shop" in sys.modules:
        sys.modules["shop"].engine.dispose()
"""


@pytest.fixture
def run_once(pytester: pytest.Pytester) -> Run:
    """Run pytest on a service, in a process of its own."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(api=API)
    return lambda *arguments: pytester.runpytest_subprocess(*LEAN, *arguments)


def line_of(text: str, after: str) -> int:
    """Return the number of the first line of the service with the text, after another."""
    lines = API.splitlines()[1:]
    start = next(number for number, line in enumerate(lines) if after in line)
    return next(n for n, line in enumerate(lines[start:], start=start + 1) if text in line)


def request_of(record: Record) -> Span:
    """Return the request that the test sent to the service."""
    (request,) = [span for span in record.span.children if span.kind == "request"]
    return request


def test_what_an_endpoint_does_inside_its_transaction_is_named(
    pytester: pytest.Pytester, run: Run, failed: Failed
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize(
            "path", ["early", "late", "async-early", "async-late", "tidy", "async-tidy"]
        )
        @pytest.mark.perf_budget(tx_calls=0, pool_leaks=0, pool_wait="1s", tx_longest="10s")
        def test_call(client, path):
            if path.endswith("tidy"):
                client.get(f"/{path}")
            else:
                client.post(f"/{path}")
        """
    )

    result = run("--perfguard-json=run.json")

    assert failed(result) == ["test_call[async-early]", "test_call[early]"]
    flush, charge = line_of("session.flush()", "def early"), line_of("client.post", "def charge")
    result.stdout.fnmatch_lines(
        [
            "perfguard: 1 of 4 budgets exceeded in *",
            "  tx_calls  1 > 0   perf_budget, test_*",
            f"1x HTTP POST /charges/* had written: UPDATE users at api.py:{flush} in early",
            f"    at api.py:{charge} in charge",
            f"       from api.py:{line_of('charge()', 'def early')} in early",
            "    fix: commit first and call then, or call first and write then",
        ]
    )
    flush = line_of("session.flush()", "def async_early")
    result.stdout.fnmatch_lines(
        [
            f"*UPDATE users at api.py:{flush} in async_early",
            f"    at api.py:{line_of('client.post', 'def async_early')} in async_early",
        ]
    )


def test_what_an_endpoint_leaves_open_is_named_and_the_next_is_clean(
    pytester: pytest.Pytester, run: Run, failed: Failed, records: Records
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("path", ["leaky", "tidy", "async-tidy"])
        @pytest.mark.perf_budget(pool_leaks=0)
        def test_call(client, path):
            client.get(f"/{path}")
        """
    )

    result = run("--perfguard-json=run.json")

    assert failed(result) == ["test_call[leaky]"]
    result.stdout.fnmatch_lines(
        [
            "1x checked out a connection that was not given back",
            f"    at api.py:{line_of('session.get', 'def leaky')} in leaky",
            "    fix: close it: with Session(engine) as session: *",
        ]
    )
    leaks = {
        name: METRICS["pool_leaks"].measure(request_of(record))
        for name, record in records().items()
    }
    assert leaks == {"test_call[leaky]": 1, "test_call[tidy]": 0, "test_call[async-tidy]": 0}


def test_a_loop_that_commits_row_by_row_is_named(
    pytester: pytest.Pytester, run: Run, failed: Failed
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.perf_budget(sql_commits=1)
        def test_call(client):
            client.post("/row-by-row")
        """
    )

    result = run()

    assert failed(result) == ["test_call"]
    result.stdout.fnmatch_lines(
        [
            "8x COMMIT",
            f"    at api.py:{line_of('session.commit()', 'def row_by_row')} in row_by_row",
            "    fix: commit once, after the loop*",
        ]
    )


# What a test's session shares with the application must not be taken for its own.
SHARED = """
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

import api, shop


@pytest.fixture
def session(client):
    with Session(shop.engine) as session:
        api.app.dependency_overrides[api.get_session] = lambda: session
        yield session
        api.app.dependency_overrides.clear()


@pytest.fixture
def joined(client):
    with shop.engine.connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            api.app.dependency_overrides[api.get_session] = lambda: session
            yield session
            api.app.dependency_overrides.clear()
        outer.rollback()


@pytest.mark.perf_budget(pool_leaks=0, tx_calls=0)
def test_session_of_a_fixture(client, session):
    session.get(shop.User, 5).email = f"test{next(api.NUMBERS)}@shop"
    session.flush()
    client.get("/tidy")
    client.get("/missing")


@pytest.mark.perf_budget(pool_leaks=0, tx_calls=0)
def test_used_by_the_application_first(client, session):
    client.get("/tidy")
    session.get(shop.User, 5)


@pytest.mark.perf_budget(pool_leaks=0, tx_calls=0)
def test_session_of_the_test(client):
    with Session(shop.engine) as session:
        api.app.dependency_overrides[api.get_session] = lambda: session
        client.get("/tidy")
    api.app.dependency_overrides.clear()


@pytest.mark.perf_budget(pool_leaks=0, tx_calls=0)
def test_joined_and_late(client, joined):
    client.post("/late")


@pytest.mark.perf_budget(tx_calls=0)
def test_joined_and_early(client, joined):
    client.post("/early")


@pytest.fixture
def arranged(joined):
    joined.get(shop.User, 6).email = f"fixture{next(api.NUMBERS)}@shop"
    joined.flush()
    return joined


@pytest.mark.perf_budget(tx_calls=0)
def test_arranged_and_early(client, arranged):
    client.post("/early")


@pytest.mark.perf_budget(tx_calls=0)
def test_arranged_and_early_in_the_test(arranged):
    arranged.get(shop.User, 7).email = f"test{next(api.NUMBERS)}@shop"
    arranged.flush()
    api.charge()


@pytest.mark.perf_budget(tx_calls=0)
def test_arranged_by_the_test_and_early(client, joined):
    joined.get(shop.User, 7).email = f"test{next(api.NUMBERS)}@shop"
    joined.flush()
    client.post("/early")


@pytest.mark.perf_budget(tx_calls=0)
def test_arranged_by_the_test_and_late(client, arranged):
    arranged.get(shop.User, 7).email = f"test{next(api.NUMBERS)}@shop"
    arranged.flush()
    client.post("/late")


@pytest.mark.perf_budget(tx_calls=0)
def test_arranged_by_the_test_and_no_write(client, arranged):
    arranged.get(shop.User, 7).email = f"test{next(api.NUMBERS)}@shop"
    arranged.flush()
    client.post("/only-calls")


@pytest.mark.perf_budget(tx_calls=0)
def test_block_and_early(arranged, perf):
    arranged.get(shop.User, 7).email = f"test{next(api.NUMBERS)}@shop"
    arranged.flush()
    with perf.measure("pay"):
        api.charge()


def scaled(perf, session, run):
    def populate(size):
        session.add_all(shop.User(email=f"{size}-{n}@shop") for n in range(size))
        session.flush()

    perf.scales(
        populate, run, session=session, http_requests="O(n)", sql_queries="O(n)",
        sql_n_plus_one="O(n)", tx_calls="O(1)",
    )


def test_scales_and_early(arranged, perf):
    def run():
        for user in arranged.scalars(select(shop.User)).all():
            user.email = f"new-{user.email}"
            arranged.flush()
            api.charge()

    scaled(perf, arranged, run)


def test_scales_and_late(arranged, perf):
    def run():
        users = arranged.scalars(select(shop.User)).all()
        for user in users:
            api.charge()
        users[0].email = f"new-{users[0].email}"
        arranged.flush()
        api.charge()

    scaled(perf, arranged, run)
"""


@pytest.mark.parametrize("phases", ["call", "setup+call"])
def test_sessions_of_tests_and_fixtures_are_told_from_the_applications(
    pytester: pytest.Pytester, run: Run, failed: Failed, phases: str
) -> None:
    pytester.makepyfile(SHARED)

    result = run("-o", f"perfguard_phases={phases}")

    assert failed(result) == [
        "test_arranged_and_early",
        "test_arranged_and_early_in_the_test",
        "test_arranged_by_the_test_and_early",
        "test_block_and_early",
        "test_joined_and_early",
        "test_scales_and_early",
    ]
    result.assert_outcomes(passed=7, failed=6)


def test_a_fixture_that_is_asked_for_late_may_give_its_connection_back(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    pytester.makepyfile(
        """
        import pytest, shop

        @pytest.fixture
        def connection():
            with shop.engine.connect() as connection:
                yield connection

        @pytest.mark.perf_budget(pool_leaks=0)
        def test_late(request):
            connection = request.getfixturevalue("connection")
            connection.exec_driver_sql("SELECT 1")
        """
    )

    result = run_once()

    result.assert_outcomes(passed=1)
