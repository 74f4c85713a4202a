"""Budgets of CPU time, memory and event loops."""

from __future__ import annotations

import sys
import threading
from asyncio.base_events import BaseEventLoop
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import pytest

from pytest_perfguard.model import Record

pytest.importorskip("psutil")
starlette = pytest.importorskip("starlette.applications")

Run = Callable[..., pytest.RunResult]
Failed = Callable[[pytest.RunResult], list[str]]
Records = Callable[[], dict[str, Record]]

MIB = 2**20
API = """
import asyncio, time

from fastapi import FastAPI

app = FastAPI()


def ask_somebody():
    time.sleep(0.3)


@app.get("/held")
async def held():
    ask_somebody()
    return 1


@app.get("/thread")
def in_a_thread():
    ask_somebody()
    return 1


@app.get("/awaits")
async def awaits():
    await asyncio.sleep(0.1)
    return 1
"""


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    patched = [(BaseEventLoop, "run_forever"), (starlette.Starlette, "__call__")]
    before = [vars(owner)[name] for owner, name in patched]
    yield
    # Other plugins of inner runs leave threads of theirs.
    assert [t.name for t in threading.enumerate() if t.name.startswith("perfguard")] == []
    assert [vars(owner)[name] for owner, name in patched] == before


@pytest.fixture
def api(pytester: pytest.Pytester) -> None:
    (pytester.path / "api.py").write_text(API, encoding="utf-8")


def test_memory_over_its_budgets_says_how_it_rose(
    pytester: pytest.Pytester, run_once: Run, failed: Failed, records: Records
) -> None:
    pytester.makepyfile(
        test_memory="""
        import pytest

        kept = []

        @pytest.mark.perf_budget(memory_peak="10MiB")
        def test_peak():
            block = b"x" * (50 * 2**20)
            del block

        @pytest.mark.perf_budget(memory_peak="10MiB", memory_growth="10MiB", memory_percent="99%")
        def test_kept():
            b"x" * 1000

        @pytest.mark.perf_budget(memory_growth="10MiB")
        def test_growth():
            kept.append(b"x" * (50 * 2**20))

        @pytest.mark.perf_budget(memory_percent=0.0001)
        def test_share(): ...

        def test_block(perf):
            with perf.measure("report", memory_peak="10MiB") as m:
                block = b"x" * (50 * 2**20)
                del block
                assert m["memory_peak"] > 40 * 2**20
            assert m["memory_peak"] > 40 * 2**20
        """
    )

    result = run_once("--perfguard-json=run.json")

    assert failed(result) == ["test_block", "test_growth", "test_peak", "test_share"]
    result.stdout.fnmatch_lines(
        [
            "perfguard: 1 of 1 budget exceeded in test_peak",
            "  memory_peak * MiB > 10 MiB   perf_budget, test_memory.py:5",
            "resident memory rose from * MiB to * MiB, by *",
            "    fix: hold less at once: *",
            "  memory_growth * MiB > 10 MiB   perf_budget, test_memory.py:14",
            "resident memory: * MiB at the start, * MiB at the end, each after gc.collect()",
            "    fix: *perf.repeat(call, memory_growth=...) tells what stays of each call*",
            "  memory_percent * % > 0.01 %   perf_budget, test_memory.py:18",
            "resident memory: * at most, of * GiB, *",
            "perfguard: 1 of 1 budget exceeded in block 'report'",
        ]
    )
    metrics = {name: record.metrics for name, record in records().items()}
    assert metrics["test_peak"]["memory_peak"] == pytest.approx(50 * MIB, abs=5 * MIB)
    assert metrics["test_growth"]["memory_growth"] == pytest.approx(50 * MIB, abs=5 * MIB)
    assert set(metrics["test_kept"]) >= {"memory_peak", "memory_growth", "memory_percent"}
    assert "memory_growth" not in metrics["test_peak"]


def test_cpu_over_its_budgets_says_how_much_of_the_time_it_was(
    pytester: pytest.Pytester, run: Run, failed: Failed
) -> None:
    pytester.makepyfile(
        test_cpu="""
        import threading, time
        import pytest

        def compute():
            until = time.process_time() + 0.1
            while time.process_time() < until:
                pass

        @pytest.mark.perf_budget(cpu_time="50ms", cpu_percent="1%")
        def test_computes():
            compute()

        @pytest.mark.perf_budget(cpu_time="50ms")
        def test_in_a_thread():
            thread = threading.Thread(target=compute)
            thread.start()
            thread.join()

        @pytest.mark.perf_budget(cpu_time="90ms")
        def test_rounds(perf):
            perf.time(compute, rounds=1, warmup=0)

        @pytest.mark.perf_budget(cpu_time="10s", cpu_percent="99%")
        def test_waits():
            threading.Event().wait(0.05)

        @pytest.mark.perf_budget(cpu_percent="99%")
        def test_short(): ...
        """
    )

    result = run()

    assert failed(result) == ["test_computes", "test_in_a_thread", "test_rounds", "test_short"]
    result.stdout.fnmatch_lines(
        [
            "perfguard: 2 of 2 budgets exceeded in test_computes",
            "  cpu_time * ms > 50 ms   perf_budget, test_cpu.py:9",
            "  cpu_percent * % > 1 %   perf_budget, test_cpu.py:9",
            "* of CPU time in *, all threads of the process and timed rounds included",
            "    fix: profile it (--perfguard-profile=failed), *",
            "perfguard: 1 of 1 budget unproven in test_short",
            "      test_short took less than 20 ms, too short for a share of its time: *",
        ]
    )


def test_a_test_that_crashes_inside_leaves_no_thread(
    pytester: pytest.Pytester, run: Run, failed: Failed
) -> None:
    pytester.makepyfile(
        """
        import threading
        import pytest

        everything = {"memory_peak": "1GiB", "memory_growth": "1GiB", "loop_stall": "1s"}

        def ours():
            return {t.name for t in threading.enumerate() if t.name.startswith("perfguard")}

        @pytest.mark.perf_budget(**everything)
        def test_crashes(perf):
            perf.measure("left open", **everything).__enter__()
            assert ours() == {"perfguard-memory", "perfguard-loop"}
            raise SystemError("in the middle")

        def test_nothing_is_left():
            assert ours() == set()

        @pytest.mark.performance
        def test_nothing_is_asked():
            assert ours() == set()
        """
    )

    result = run("--dist=loadfile") if run.__name__ == "run" else run()

    assert failed(result) == ["test_crashes"]
    result.stdout.fnmatch_lines(["*SystemError: in the middle"])


@pytest.mark.usefixtures("api")
def test_a_request_that_holds_the_loop_is_named_with_its_line(
    pytester: pytest.Pytester, run: Run, failed: Failed, records: Records
) -> None:
    pytester.makepyfile(
        test_loop="""
        import pytest
        from api import app
        from fastapi.testclient import TestClient

        @pytest.fixture(scope="module")
        def entered():
            with TestClient(app) as client:
                yield client

        @pytest.mark.perf_budget(loop_stall="150ms")
        @pytest.mark.parametrize("path", ["/held", "/thread", "/awaits"])
        def test_client(path):
            TestClient(app).get(path)

        @pytest.mark.perf_budget(loop_stall="150ms")
        @pytest.mark.parametrize("path", ["/held", "/thread", "/awaits"])
        def test_portal(entered, path):
            entered.get(path)

        @pytest.mark.perf_budget(loop_stall="150ms")
        def test_rounds(perf, entered):
            perf.http(entered).get("/held", rounds=1, warmup=0)
        """,
        test_none="""
        import pytest

        @pytest.mark.perf_budget(loop_stall="150ms")
        def test_nothing(): ...
        """,
    )

    result = run("--perfguard-json=run.json")

    held = ["test_client[/held]", "test_portal[/held]", "test_rounds"]
    assert failed(result) == sorted([*held, "test_nothing"])
    result.stdout.fnmatch_lines(
        [
            "perfguard: 1 of 1 budget exceeded in GET /held",
            "  loop_stall * ms > 150 ms   perf_budget, test_loop.py:10",
            "the event loop stood still for * ms",
            "    at api.py:10 in ask_somebody",
            "       from api.py:15 in held",
            "    fix: await it, *await asyncio.to_thread(...)",
        ]
    )
    result.stdout.fnmatch_lines(
        [
            "  loop_stall  unproven (limit 150 ms)   perf_budget, test_none.py:3",
            "      no running event loop was seen in test_nothing",
        ]
    )
    found = records()
    for name in held:
        assert found[name].metrics["loop_stall"] == pytest.approx(0.3, abs=0.06), name


@pytest.mark.usefixtures("api")
def test_budgets_of_endpoints_may_be_about_the_loop_and_memory(
    pytester: pytest.Pytester, run: Run, failed: Failed
) -> None:
    pytester.makeini(
        """
        [pytest]
        perfguard_budgets =
            GET /*: loop_stall=150ms, memory_peak=100MiB
        """
    )
    pytester.makepyfile(
        """
        from api import app
        from fastapi.testclient import TestClient

        def test_held():
            TestClient(app).get("/held")

        def test_awaits():
            TestClient(app).get("/awaits")
        """
    )

    result = run()

    assert failed(result) == ["test_held"]
    result.stdout.fnmatch_lines(["    at api.py:10 in ask_somebody", "*4 budgets judged: 3 ok, *"])


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
@pytest.mark.usefixtures("api")
def test_asynchronous_tests_are_watched(
    pytester: pytest.Pytester,
    failed: Failed,
    records: Records,
    plugin: str,
    arguments: tuple[str, ...],
    workers: tuple[str, ...],
) -> None:
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(
        test_async=f"""
        import asyncio, time
        import httpx
        import pytest
        from api import app

        pytestmark = pytest.mark.{plugin}

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        def client():
            return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")

        @pytest.mark.perf_budget(loop_stall="150ms")
        async def test_itself():
            time.sleep(0.3)

        @pytest.mark.perf_budget(loop_stall="150ms")
        async def test_request():
            async with client() as c:
                await c.get("/held")

        @pytest.mark.perf_budget(loop_stall="150ms")
        async def test_awaits():
            async with client() as c:
                await c.get("/awaits")

        async def test_block(perf):
            with perf.measure("calm", loop_stall="150ms"):
                await asyncio.to_thread(time.sleep, 0.3)
            with perf.measure("held", loop_stall="150ms", memory_peak="1GiB") as held:
                time.sleep(0.3)
            assert held["loop_stall"] > 0.2
        """
    )

    result = pytester.runpytest_inprocess(
        *arguments, *workers, "-p", "no:hypothesispytest", "--perfguard-json=run.json"
    )

    assert failed(result) == ["test_block", "test_itself", "test_request"]
    result.stdout.fnmatch_lines(
        ["    at api.py:10 in ask_somebody"]
        if workers
        else ["    at test_async.py:17 in test_itself", "    at api.py:10 in ask_somebody"]
    )
    result.stdout.fnmatch_lines(["perfguard: 1 of 3 budgets exceeded in block 'held'"])
    found = records()
    for name in ("test_itself", "test_request"):
        assert found[name].metrics["loop_stall"] == pytest.approx(0.3, abs=0.06)


def test_without_psutil_a_budget_of_memory_names_the_extra(
    pytester: pytest.Pytester, run_once: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.perf_budget(memory_growth=0, memory_peak="1MiB")
        def test_memory(): ...

        def test_repeat(perf):
            perf.repeat(lambda: None)

        @pytest.mark.perf_budget(cpu_time="1min")
        def test_cpu(): ...
        """
    )

    result = run_once()

    result.assert_outcomes(failed=2, passed=1)
    says = "*psutil is not installed: install pytest-perfguard with the extra [[]process[]]"
    result.stdout.fnmatch_lines(
        ["perfguard: 2 of 2 budgets unproven in test_memory", says, says, f"*{says}"]
    )


def test_memory_is_told_in_a_profile_pass_too(pytester: pytest.Pytester, run_once: Run) -> None:
    pytest.importorskip("pyinstrument")
    pytester.makepyfile(
        """
        import time
        import pytest

        @pytest.mark.perf_profile
        @pytest.mark.perf_budget(memory_peak="1GiB")
        def test_it(perf):
            perf.repeat(lambda: sum(range(1000)), memory_growth="1GiB")
        """
    )

    run_once().assert_outcomes(passed=1)


def test_the_loop_of_a_sessions_server_is_watched_in_the_first_test_as_in_others(
    pytester: pytest.Pytester, run: Run, failed: Failed
) -> None:
    pytester.makepyfile(
        test_server="""
        import asyncio, socket, threading, time
        import pytest

        @pytest.fixture(scope="session")
        def server():
            loop = asyncio.new_event_loop()
            begun, ended, port = threading.Event(), asyncio.Event(), []

            async def handle(reader, writer):
                await reader.readline()
                time.sleep(0.4)
                writer.write(b"ok")
                writer.close()

            async def serve():
                async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
                    port.append(server.sockets[0].getsockname()[1])
                    begun.set()
                    await ended.wait()

            thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
            thread.start()
            begun.wait(10)
            yield port[0]
            loop.call_soon_threadsafe(ended.set)
            thread.join()
            loop.close()

        @pytest.mark.perf_budget(loop_stall="150ms")
        @pytest.mark.parametrize("time", ["first", "second"])
        def test_it(server, time):
            with socket.create_connection(("127.0.0.1", server), timeout=10) as connection:
                connection.sendall(b"x\\n")
                assert connection.recv(2) == b"ok"
        """
    )

    result = run()

    assert failed(result) == ["test_it[first]", "test_it[second]"]
    result.stdout.fnmatch_lines(["    at test_server.py:11 in server.handle"] * 2)
    result.stdout.no_fnmatch_line("*unproven*")
