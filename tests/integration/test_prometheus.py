from __future__ import annotations

import pytest

APP = """
import httpx2
import pytest
from fastapi import FastAPI, Response
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry, Counter, generate_latest
from sqlalchemy import create_engine, text

@pytest.fixture
def app():
    registry = CollectorRegistry()
    hits = Counter("hits", "Hits.", ["kind"], registry=registry)
    requests = Counter("requests", "Requests.", ["path"], registry=registry)
    app, engine = FastAPI(), create_engine("sqlite://")
    app.state.registry = registry

    @app.middleware("http")
    async def count(request, call_next):
        response = await call_next(request)
        requests.labels(request.url.path).inc()
        return response

    @app.get("/hit")
    async def hit(kind: str = "a"):
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        hits.labels(kind).inc()

    @app.get("/metrics")
    async def metrics():
        return Response(generate_latest(registry), media_type="text/plain")

    @app.get("/broken")
    async def broken():
        return Response(status_code=503)

    yield app
    engine.dispose()

@pytest.fixture
def client(app):
    return TestClient(app)
"""


def test_changes_are_judged(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(APP)
    pytester.makepyfile(
        """
        import asyncio
        import httpx2
        import pytest

        LIMITS = {'hits_total{kind="a"}': "<= 2", "requests_total": ">= 2"}

        def test_kept(perf, client, app):
            for source in (client, app.state.registry):
                with perf.prometheus(source, LIMITS) as prom:
                    client.get("/hit")
                    client.get("/hit")
                assert prom("hits_total") == prom("hits_total", kind="a") == 2
                # Neither the looks of this span nor those of the last one count.
                assert prom("requests_total") == prom["http_requests"] == prom["sql_queries"] == 2
            with perf.measure("all") as measured:
                with perf.prometheus(client) as prom:
                    pass
                assert prom("requests_total") == 0
            assert measured["http_requests"] == 0

        def test_broken(perf, client):
            with perf.prometheus(client, {**LIMITS, "requests_total": 3}):
                for kind in "aaab":
                    client.get(f"/hit?kind={kind}")

        @pytest.mark.perf_waive("prom_increase", reason="known", until="2999-12-31")
        def test_waived(perf, client):
            with perf.prometheus(client, {"requests_total": 0}):
                client.get("/hit")

        def test_awaited(perf, app):
            async def ask():
                transport = httpx2.ASGITransport(app)
                async with httpx2.AsyncClient(transport=transport, base_url="http://t") as client:
                    async with perf.prometheus(client, {"requests_total": 1}) as prom:
                        await client.get("/hit")
                    assert prom["http_requests"] == 1
                    with perf.prometheus(client):
                        pass

            with pytest.raises(LookupError, match="write 'async with'"):
                asyncio.run(ask())

        def test_unknown(perf, client):
            with perf.prometheus(client, {"hit_total": 0}):
                client.get("/hit")

        def test_error_of_its_own(perf, client):
            with perf.prometheus(client, {"hit_total": 0}):
                raise ZeroDivisionError

        def test_no_page(perf, client):
            for path, said in (("/broken", "answered 503"), ("/hit", "no page of metrics")):
                with pytest.raises(LookupError, match=said):
                    with perf.prometheus(client, path=path):
                        pass
            for source in ("localhost", 7):
                with pytest.raises(LookupError, match="is no URL|has no metrics"):
                    perf.prometheus(source)
            with pytest.raises(LookupError, match="cannot be read: .*refused"):
                with perf.prometheus("http://127.0.0.1:1/metrics"):
                    pass
            with pytest.raises(ValueError, match=r"(?s)a: 'x' cannot be read.*b b: .* no metric"):
                perf.prometheus(client, {"a": "x", "b b": 1})

        def test_too_early(perf, client):
            with perf.prometheus(client) as prom:
                with pytest.raises(LookupError, match="after the span has ended"):
                    prom("hits_total")
            with pytest.raises(LookupError, match="hits_total is known and has no value yet"):
                prom("hits_total")

        def test_loose(perf, client):
            perf.prometheus(client)
            with perf.prometheus(client):
                pass

        @pytest.mark.perf_budget(prom_increase=1)
        def test_elsewhere(client):
            client.get("/hit")
        """
    )
    result = pytester.runpytest_subprocess("-n2", "-p", "no:asyncio", "-rfp")
    lines = result.stdout.str()
    for name in ("kept", "waived", "awaited"):
        assert f"PASSED test_changes_are_judged.py::test_{name}" in lines
    result.stdout.fnmatch_lines_random(
        [
            "perfguard: 2 of 2 budgets exceeded in block 'prometheus'",
            "  prom_increase  3 > 2   perf.prometheus, test_changes_are_judged.py:22",
            '      hits_total{kind="a"}',
            "  prom_increase  4 > 3   perf.prometheus, test_changes_are_judged.py:22",
            '      requests_total: {path="/hit"} +4',
            "timeline: 4x SELECT",
            "*PrometheusError: perf.prometheus, *.py:45: there is no metric 'hit_total': did you*",
            "*ZeroDivisionError",
            "  perf.prometheus, *: the span was never entered: write 'with' before it",
            "  perf.prometheus, *: it has no limit, and nobody asked for a metric afterwards",
            "      no limit of perf.prometheus was observed in test_elsewhere, *",
        ]
    )
    result.assert_outcomes(passed=5, failed=5)
