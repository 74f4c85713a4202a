"""Two sides timed in turns by real processes: the same files, which do more work on one side."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from pytest_perfguard.coordinator import Progress, run_duets
from pytest_perfguard.duet import DuetResult, Verdict
from pytest_perfguard.errors import DuetError
from pytest_perfguard.lockstep import Limits
from pytest_perfguard.sides import Side

# Nothing of another pytest, which many options would come from.
INI = (
    "[pytest]\naddopts = -p no:cacheprovider -p no:anyio -p no:asyncio -p no:hypothesispytest -x\n"
)
CALLS = '''
import asyncio
import contextvars
import json
import os
import signal
import threading
import time

import pytest

SIDE = os.environ["PERFGUARD_SIDE"]
IS_HEAD = SIDE == "head"
calls = []


def work(n):
    return sum(i * i for i in range(n))


def note(begun):
    """Note when a call ran, and on which cores it could have."""
    calls.append((begun, time.monotonic_ns(), sorted(os.sched_getaffinity(0))))


def test_slower(perf):
    perf.time(lambda: work(4800 if IS_HEAD else 3000), name="work", rounds=5)
    perf.time(lambda: work(3000), name="work", rounds=5)


def test_turns(perf):
    def call():
        begun = time.monotonic_ns()
        work(3000)
        note(begun)

    perf.time(call, name="call", rounds=5)
    with open(f"{SIDE}.json", "w") as file:
        json.dump([calls, sorted(os.sched_getaffinity(0))], file)


def test_async(perf):
    async def call():
        work(3000)
        await asyncio.sleep(0)

    async def main():
        await perf.time(call, name="call", rounds=5)
        await perf.time(call, name="at once", rounds=5, concurrency=2)

    with asyncio.Runner() as runner:
        runner.run(main(), context=contextvars.copy_context())


@pytest.mark.perf_budget(time_max="1ns")
def test_over_budget_on_both_sides(perf):
    perf.time(lambda: work(3000), name="work", rounds=5)


def test_benchmark(benchmark):
    benchmark.pedantic(work, args=(3000,), rounds=5)


def test_set_up_each_time(benchmark):
    benchmark.pedantic(work, setup=lambda: ((3000,), {}), rounds=5)


def test_times_nothing():
    pass


def test_other_call(perf):
    perf.time(lambda: work(3000), name=f"call of {SIDE}", rounds=5)
    perf.time(lambda: work(3000), name="call", rounds=5)


def test_lacks_a_call(perf):
    if IS_HEAD:
        perf.time(lambda: work(3000), name="new", rounds=5)


def test_fails_on_base(perf):
    perf.time(lambda: work(3000), name="work", rounds=5)
    assert IS_HEAD, "not there yet"


def test_raises_in_its_turn(perf):
    left = iter(range(50))

    def call():
        work(3000)
        if IS_HEAD and next(left, None) is None:
            raise ValueError("used up")

    perf.time(call, name="call", rounds=5)


def test_runs_out(perf):
    left = iter(range(25))

    def call():
        work(3000)
        next(left)

    perf.time(call, name="call", rounds=5)


if IS_HEAD:

    def test_only_in_head(perf):
        pass


def test_dies(perf):
    if not IS_HEAD:
        os.kill(os.getpid(), signal.SIGKILL)
    perf.time(lambda: work(3000), name="work", rounds=5)


def test_hangs(perf):
    if IS_HEAD:
        threading.Event().wait()
    perf.time(lambda: work(3000), name="work", rounds=5)


def test_after_all_of_that(perf):
    perf.time(lambda: work(3000), name="work", rounds=5)
'''
NAMES = [
    line.removeprefix("def ").partition("(")[0]
    for line in map(str.strip, CALLS.splitlines())
    if line.startswith("def test_")
]


def sides(folder: Path, environment: Mapping[str, str]) -> tuple[Side, Side]:
    python = Path(sys.executable)
    base, head = (Side(label, folder, python, environment) for label in ("base", "head"))
    return base, head


@pytest.fixture(scope="module")
def environment(bytecode: Path) -> dict[str, str]:
    """Let workers keep what they compile, or each would compile again what all of them import."""
    return {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(bytecode)}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("duet")
    (folder / "pytest.ini").write_text(INI)
    (folder / "test_calls.py").write_text(CALLS)
    (folder / "test_broken.py").write_text("import nowhere\n")
    return folder


@pytest.fixture(scope="module")
def seen() -> list[Progress]:
    return []


@pytest.fixture(scope="module")
def results(
    project: Path, environment: dict[str, str], seen: list[Progress]
) -> dict[str, DuetResult]:
    """Run every test on both sides; the results by name of the test and call."""
    nodeids = [*(f"test_calls.py::{name}" for name in NAMES), "test_broken.py::test_it"]
    found = run_duets(
        sides(project, environment),
        nodeids,
        pytest_args=["-n2"],
        on_progress=seen.append,
        limits=Limits(meet=5, slower=3),
    )
    assert [one.key for one in found.values()] == list(found)
    assert list(dict.fromkeys(one.nodeid for one in found.values())) == [
        nodeid for nodeid in nodeids if "times_nothing" not in nodeid
    ]
    return {key.rpartition("::")[2]: one for key, one in found.items()}


def test_more_work_is_slower_and_the_same_work_beside_it_is_the_same(
    results: dict[str, DuetResult],
) -> None:
    slower, same = results["test_slower work"], results["test_slower work #2"]

    assert slower.verdict is Verdict.SLOWER
    assert slower.cpu is not None
    assert len(slower.cpu.effects) == len(slower.meetings) == 3
    assert all(0.3 < effect < 0.9 for effect in slower.cpu.effects)
    assert same.verdict is Verdict.SAME


@pytest.mark.parametrize(
    "key",
    [
        "test_turns call",
        "test_async call",
        "test_benchmark work",
        "test_over_budget_on_both_sides work",
        "test_after_all_of_that work",
    ],
)
def test_the_same_code_is_the_same(results: dict[str, DuetResult], key: str) -> None:
    assert results[key].verdict is Verdict.SAME
    assert all(meeting.base.cpu and meeting.head.wall for meeting in results[key].meetings)


def test_both_sides_have_the_same_core_and_never_run_at_once(
    results: dict[str, DuetResult], project: Path
) -> None:
    if not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) == 1:
        pytest.skip("only where there are several cores can it be seen")
    assert not results["test_turns call"].meetings[0].not_pinned
    turns, cores = [], set()
    for side in ("base", "head"):
        calls, after = json.loads((project / f"{side}.json").read_text())
        assert set(after) == os.sched_getaffinity(0)
        pinned = [call for call in calls if len(call[2]) == 1]
        assert pinned
        cores |= {call[2][0] for call in pinned}
        turns += [(begun, ended, side) for begun, ended, _ in pinned]
    turns.sort()

    assert len(cores) == 1
    assert all(one[1] <= other[0] for one, other in pairwise(turns))
    # They alternate all the time, not once.
    changes = sum(one[2] != other[2] for one, other in pairwise(turns))
    assert changes > 8


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("test_async at once", "calls that run at once are not compared"),
        ("test_set_up_each_time work", "sets each call up or tears it down"),
        (
            "test_other_call call of base",
            "base times it, head times call of head at that point",
        ),
        ("test_lacks_a_call new", "head times it, base ends its test without it"),
        ("test_fails_on_base work", "the test did not pass on base: AssertionError: not there yet"),
        ("test_raises_in_its_turn call", "head raised ValueError: used up"),
        # Which ends loops of the turnstile's own, too, if it is not told from theirs.
        ("test_runs_out call", "raised StopIteration"),
        ("test_only_in_head", "base has no such test"),
        ("test_dies", "base was killed (SIGKILL) before it could end test_calls.py::test_dies"),
        ("test_hangs", "head did not come to work, where base waited, within"),
        ("test_it", "base has no such test (ModuleNotFoundError: No module named 'nowhere')"),
    ],
)
def test_what_is_not_comparable_is_named_with_the_reason(
    results: dict[str, DuetResult], key: str, reason: str
) -> None:
    assert results[key].verdict is Verdict.NOT_COMPARABLE
    assert reason in results[key].reason


def test_calls_meet_again_after_one_that_only_one_side_has(results: dict[str, DuetResult]) -> None:
    assert results["test_other_call call"].verdict is Verdict.SAME
    assert not any(key.startswith("test_times_nothing") for key in results)


def test_fresh_processes_run_only_what_is_suspected(
    results: dict[str, DuetResult], seen: list[Progress]
) -> None:
    again = [one for one in seen if one.pair > 1]

    measured_again = {key for key, one in results.items() if len(one.meetings) > 1}
    assert "test_slower work" in measured_again
    assert {f"{one.nodeid} {one.call}" for one in again if one.call} == {
        f"test_calls.py::{key}" for key in measured_again
    }
    assert {one.pair for one in seen} == {1, 2, 3}
    assert [one for one in seen if one.pair == 1][-1].done == seen[0].total


CLIENTS = """
import asyncio
import contextvars
import os

import httpx
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient


async def page(request):
    return PlainTextResponse(str(sum(i * i for i in range(3000))))


ROUNDS = 5
ALL = 1 + ROUNDS + ROUNDS
app = Starlette(routes=[Route("/page", page)])


def test_client(perf):
    with TestClient(app) as client:
        perf.http(client).get("/page", rounds=5)


def test_in_loop(perf):
    async def main():
        seen = 0

        async def call():
            nonlocal seen
            seen += 1
            return sum(i * i for i in range(3000))

        async def when_it_waits_for_head():
            while seen < ALL:
                await asyncio.sleep(0)
            with open(os.environ["FIFO"], "w"):
                pass

        if os.environ["PERFGUARD_SIDE"] == "base":
            # Its loop has to go on, or head never comes to the call.
            waiting = asyncio.create_task(when_it_waits_for_head())
        else:
            with open(os.environ["FIFO"]):
                pass
        await perf.time(call, name="call", rounds=ROUNDS, warmup=ROUNDS)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            await perf.http(client).get("/page", rounds=5)

    with asyncio.Runner() as runner:
        runner.run(main(), context=contextvars.copy_context())
"""


def test_clients_take_turns_be_they_awaited_or_not(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "pytest.ini").write_text(INI)
    (tmp_path / "test_app.py").write_text(CLIENTS)

    os.mkfifo(tmp_path / "fifo")

    found = run_duets(
        sides(tmp_path, {**environment, "FIFO": str(tmp_path / "fifo")}),
        ["test_app.py::test_client", "test_app.py::test_in_loop"],
    )

    assert {key.partition("::")[2]: one.text for key, one in found.items()} == {
        "test_client GET /page": "same",
        "test_in_loop call": "same",
        "test_in_loop GET /page": "same",
    }


def test_a_side_that_does_not_start_is_an_error_with_what_it_printed(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "conftest.py").write_text("import nowhere\n")

    with pytest.raises(DuetError, match=r"(?s)base ended with exit code 4.*No module named 'nowhe"):
        run_duets(sides(tmp_path, environment), ["test_it.py::test"])


def test_an_interpreter_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    base = Side("base", tmp_path, tmp_path / "python", {})

    with pytest.raises(DuetError, match=r"base: .*python cannot be started"):
        run_duets((base, base), ["test_it.py::test"])


# -- what is left --------------------------------------------------------------------------

STUCK = """
import os
import subprocess
import sys


def test_stuck():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open("told", "w") as told:
        told.write(f"{os.getpid()} {child.pid}\\n")
    child.wait()
"""
COORDINATOR = """
import signal
import sys
from pathlib import Path

# Whoever runs the tests in the background of a shell has it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

from pytest_perfguard.coordinator import run_duets
from pytest_perfguard.sides import Side

base, head = (Side(n, Path.cwd() / n, Path(sys.executable), {}) for n in ("base", "head"))
run_duets((base, head), ["test_it.py::test_stuck"])
"""


@pytest.fixture
def stuck(
    tmp_path: Path, environment: dict[str, str]
) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """Start a coordinator whose workers hang in a test, each with a process of its own."""
    for side in ("base", "head"):
        folder = tmp_path / side
        folder.mkdir()
        (folder / "pytest.ini").write_text(INI)
        (folder / "test_it.py").write_text(STUCK)
        os.mkfifo(folder / "told")
    process = subprocess.Popen(
        [sys.executable, "-c", COORDINATOR],
        cwd=tmp_path,
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    started = []
    try:
        for side in ("base", "head"):
            # Waits until somebody writes.
            numbers = (tmp_path / side / "told").read_text().split()
            started += [psutil.Process(int(number)) for number in numbers]
        started += psutil.Process(process.pid).children()
        yield process, started
    finally:
        process.kill()
        process.communicate()
        for one in started:
            if one.is_running():
                one.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_coordinator_that_is_ended_leaves_no_process(
    stuck: tuple[subprocess.Popen[str], list[psutil.Process]], number: signal.Signals
) -> None:
    process, started = stuck
    assert len(set(started)) == 5  # two workers, what they have started, and the guardian

    process.send_signal(number)
    process.wait(60)

    gone, alive = psutil.wait_procs(started, timeout=30)
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]
    assert gone
