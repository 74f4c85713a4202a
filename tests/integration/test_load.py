"""``perf.load`` by Locust, against a small server of the test's own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec

import psutil
import pytest

from pytest_perfguard.metrics import METRICS
from pytest_perfguard.model import Record, Span

pytestmark = pytest.mark.skipif(find_spec("locust") is None, reason="Locust is not installed")

SERVER = """
import os, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        if self.path == "/quit":
            os._exit(0)
        self.send_response(500 if self.path.startswith("/broken") else 200)
        self.send_header("Content-Length", "2")
        self.send_header("X-Instance", self.path.partition("-")[2][:1])
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""
LOCUSTFILE = """
from itertools import cycle
from locust import HttpUser, constant, task

class Reader(HttpUser):
    wait_time = constant(0.01)
    turn = cycle(["a", "a", "b", "a", "b"])

    @task
    def read(self):
        self.client.get(f"/items-{next(self.turn)}?token=secret", name="/items/7")

class Breaker(Reader):
    @task
    def break_it(self):
        self.client.get("/broken?token=secret")

class Raiser(Reader):
    @task
    def update(self):
        self.client.put(f"/items/{self.item_id}")

class Finisher(Reader):
    @task
    def finish(self):
        self.client.get("/quit")
"""


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    """Run a server that answers."""
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


@pytest.fixture(autouse=True)
def locustfile(pytester: pytest.Pytester) -> None:
    pytester.makefile(".py", locustfile=LOCUSTFILE, broken="from nowhere import nothing\n")


def test_a_load_is_judged(
    pytester: pytest.Pytester,
    run: Callable[..., pytest.RunResult],
    records: Callable[[], dict[str, Record]],
    host: str,
) -> None:
    """In one process, and under xdist, where two loads run at once."""
    pytester.makepyfile(
        f"""
        import pytest, sys, threading

        HOST = {host!r}

        @pytest.mark.perf_budget(load_failures=0, load_requests=6, sql_queries=0)
        def test_kept(perf):
            load = perf.load(
                "locustfile.py", host=HOST, user="Reader", users=4, run_time="2s", processes=2,
                instances="X-Instance", load_instances=2, load_imbalance="90%",
            )
            assert list(load.endpoints) == ["GET /items/{{id}}"]
            assert set(load.instances) == {{"a", "b"}}
            assert load["load_imbalance"] == pytest.approx(
                2 * max(load.instances.values()) / load.total.requests - 1
            )
            assert "locust" not in sys.modules and "gevent" not in sys.modules
            print(load)

        def test_broken(perf):
            perf.load(
                "locustfile.py", host=HOST, user="Breaker", users=2, run_time="1s",
                load_rps=100_000,
            )
        """
    )
    result = run(
        "--perfguard-json=run.json", "--perfguard-budgets=GET /*: load_errors=0", "-rP", "-v"
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "perfguard: 3 of 4 budgets exceeded in load of locustfile.py, GET /broken",
            "  load_rps  * < 100,000   perf.load, test_a_load_is_judged.py:*",
            "  load_failures  * > 0 %   perf.load, test_a_load_is_judged.py:*",
            "  load_errors  * > 0   perfguard_budgets, *",
            "* requests failed, the first of them GET /broken: status 500 Internal Server Error",
            "    at test_a_load_is_judged.py:* in test_broken",
        ],
        consecutive=False,
    )
    result.stdout.fnmatch_lines(["endpoint * requests  failed *", "GET /items/{id} *"])
    assert "secret" not in result.stdout.str()
    kept = records()["test_kept"]
    assert kept.metrics["load_requests"] >= 6
    assert kept.metrics["load_errors"] == kept.metrics["load_failures"] == 0
    (load,) = kept.span.children
    assert (load.kind, [child.kind for child in load.children]) == ("load", ["endpoint"])
    assert Span.from_dict(json.loads(json.dumps(load.to_dict()))) == load
    # Each of three runs was too slow, and every failure of them counts.
    assert records()["test_broken"].metrics["load_errors"] >= 3


def test_what_proves_nothing_is_an_error_that_says_why(
    pytester: pytest.Pytester, run_once: Callable[..., pytest.RunResult], host: str
) -> None:
    pytester.makepyfile(
        f"""
        import pytest

        def load(perf, file="locustfile.py", host={host!r}, **more):
            return perf.load(file, host=host, users=2, run_time="1s", **more)

        def test_dead_server(perf):
            load(perf, host="http://127.0.0.1:1")

        def test_broken_locustfile(perf):
            load(perf, "broken.py")

        def test_raising_user(perf):
            load(perf, user="Raiser", load_requests=1)

        async def coroutine(perf):
            load(perf)

        def test_event_loop(perf):
            import asyncio
            asyncio.run(coroutine(perf))

        def test_no_budget(perf):
            with perf.measure("block", load_p95="1s"):
                pass
        """
    )
    result = run_once()
    result.assert_outcomes(failed=5)
    result.stdout.fnmatch_lines(
        [
            "E*LoadError: perf.load, *.py:4: no server answers at http://127.0.0.1:1 (Connection*",
            "E*LoadError: perf.load, *.py:4: the locustfile is broken: ModuleNotFoundError: *",
            "E*    at broken.py:1 in <module>",
            "E*LoadError: perf.load, *.py:4: the locustfile raises, *: AttributeError: 'Raiser' *",
            "E*    at locustfile.py:20 in update",
            "E*LoadError: perf.load, *.py:4: it would hold up the running event loop until *",
            "      no load of perf.load was observed in block, so the budget proves nothing",
        ]
    )


def test_a_load_is_disturbed_and_nothing_outlives_it(
    pytester: pytest.Pytester, run_once: Callable[..., pytest.RunResult], host: str
) -> None:
    """What disturbs it is called when all users have answers; an interrupt ends all processes."""
    pytester.makepyfile(
        f"""
        import os, signal
        import psutil, pytest

        def load(perf, **more):
            return perf.load(
                "locustfile.py", host={host!r}, user="Reader", users=2, run_time="1s",
                processes=2, **more
            )

        def of_locust():
            return [p for p in psutil.Process().children(recursive=True) if "locust" in p.cmdline()]

        def test_nothing_fails(perf):
            seen = []
            found = load(
                perf, during=lambda: seen.append(len(of_locust())), instances="X-Instance",
                load_recovery="1min",
            )
            assert seen == [3], "a master and two workers"

        def test_server(perf):
            found = load(perf, server=os.getppid(), load_cpu="1min")
            assert found["load_cpu"] >= 0

        def test_interrupt(perf):
            started = []

            def interrupt():
                started.extend(of_locust())
                raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                load(perf, during=interrupt)
            assert len(started) == 3
            _, alive = psutil.wait_procs(started, 10)
            assert not alive
        """
    )
    result = run_once()
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "  load_recovery  unproven (limit 60 s)   perf.load, *",
            "      after during=: 2 instances answered before it, and no new one after it: none *",
        ]
    )


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_session_leaves_no_locust(
    pytester: pytest.Pytester, host: str, number: signal.Signals
) -> None:
    pytester.makepyfile(
        f"""
        import os
        from pathlib import Path
        import psutil

        def end():
            below = psutil.Process().children(recursive=True)
            locust = [str(each.pid) for each in below if "locust" in each.cmdline()]
            Path("started").write_text(" ".join(locust))
            os.kill(os.getpid(), {int(number)})

        def test_it(perf):
            perf.load(
                "locustfile.py", host={host!r}, user="Reader", users=2, run_time="1s",
                processes=2, during=end,
            )
        """
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:locust", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=pytester.path, capture_output=True, check=False)
    assert done.returncode == -number
    started = []
    for pid in (pytester.path / "started").read_text().split():
        with suppress(psutil.NoSuchProcess):
            started.append(psutil.Process(int(pid)))
    _, alive = psutil.wait_procs(started, 30)
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]


def test_a_server_that_dies_is_no_failed_request(
    pytester: pytest.Pytester, run_once: Callable[..., pytest.RunResult]
) -> None:
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        host = f"http://127.0.0.1:{int(process.stdout.readline())}"
        pytester.makepyfile(
            f"""
            def test_it(perf):
                perf.load(
                    "locustfile.py", host={host!r}, user="Finisher", users=2, run_time="1s",
                    load_failures="100%",
                )
            """
        )
        result = run_once()
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            [
                f"E*LoadError: perf.load, *: the server at {host} died under the load: Conn*",
                "E*requests failed, the first of them GET /*",
            ]
        )


def test_every_metric_of_a_load_belongs_to_it() -> None:
    assert {name for name, metric in METRICS.items() if metric.probe == "load"} == {
        name for name in METRICS if name.startswith("load_")
    }
