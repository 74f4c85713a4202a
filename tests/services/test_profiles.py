"""Where the profiler sees code run: three functions of 60, 30 and 10 % of the work, everywhere."""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
from collections.abc import Callable, Iterator

import celery
import httpx
import pytest
from celery.contrib.testing.worker import start_worker
from sqlalchemy.util import greenlet_spawn

from pytest_perfguard import Recorder, Settings
from pytest_perfguard.probes import pyinstrument_internals
from pytest_perfguard.probes.profiling import Capture
from pytest_perfguard.stacks import Profile

pytest.importorskip("fastapi")
uvicorn = pytest.importorskip("uvicorn")

from fastapi import FastAPI  # noqa: E402 - only where it is
from fastapi.testclient import TestClient  # noqa: E402 - only where it is

UNIT = 1_000
ROUNDS = 25
POINTS = 0.08


def large() -> None:
    for _ in range(60 * UNIT):
        math.sqrt(2)


def middle() -> None:
    for _ in range(30 * UNIT):
        math.sqrt(2)


def small() -> None:
    for _ in range(10 * UNIT):
        math.sqrt(2)


PLANTED = {large: 0.6, middle: 0.3, small: 0.1}


def work() -> None:
    # In turns, so that a disturbance of some milliseconds meets all of them alike.
    for function in PLANTED:
        function()


app = FastAPI()


@app.get("/sync/{number}")
def sync_endpoint(number: int) -> int:
    work()
    return number


@app.get("/async/{number}")
async def async_endpoint(number: int) -> int:
    work()
    await asyncio.sleep(0)
    return number


@app.get("/waits/{seconds}")
async def waiting_endpoint(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


def in_test_client(path: str) -> None:
    with TestClient(app) as client:
        for number in range(ROUNDS):
            assert client.get(path.format(number=number)).json() == number


def in_loop(path: str) -> None:
    async def send() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for number in range(ROUNDS):
                assert (await client.get(path.format(number=number))).json() == number

    asyncio.run(send())


def captured(run: Callable[[], object]) -> dict[str, Profile]:
    """Run something as a test would be run, and return the profiles by their names."""
    with Recorder(Settings()) as recorder, Capture(recorder) as capture:
        root = recorder.open("the test", "test")
        try:
            with capture.inside(root):
                run()
        finally:
            recorder.close(root)
    return {each.profile.name: each.profile for each in capture.profiles()}


def check_shares(profile: Profile) -> None:
    """Hold the profile to the planted shares, by function and by line."""
    seconds = dict.fromkeys(PLANTED, 0.0)
    for stack in profile.stacks:
        for function in PLANTED:
            if any(f.function == function.__name__ and f.user for f in stack.frames):
                seconds[function] += stack.seconds
    total = sum(seconds.values())
    for function, share in PLANTED.items():
        assert seconds[function] / total == pytest.approx(share, abs=POINTS), function
    # Nearly all of the time is theirs, and is counted once.
    assert total > profile.total / 2
    assert profile.sampled <= profile.seconds * 1.1
    hottest = profile.hottest(3)
    assert [hot.frame.function for hot in hottest] == [f.__name__ for f in PLANTED]
    for hot, function in zip(hottest, PLANTED, strict=True):
        _, first = inspect.getsourcelines(function)
        assert hot.frame.file == "tests/services/test_profiles.py"
        assert hot.frame.line in (first + 1, first + 2)


@pytest.mark.parametrize("client", [in_test_client, in_loop])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_endpoint_is_seen_in_whatever_thread_it_runs(
    client: Callable[[str], None], kind: str
) -> None:
    profiles = captured(lambda: client(f"/{kind}/{{number}}"))

    check_shares(profiles[f"GET /{kind}/{{number}}"])
    # What a request does is part of its test, too.
    check_shares(profiles["the test"])


def test_a_plain_function_is_seen() -> None:
    def run() -> None:
        for _ in range(ROUNDS):
            work()

    check_shares(captured(run)["the test"])


@pytest.fixture(scope="module")
def tasks() -> celery.Celery:
    made = celery.Celery("shop", broker="memory://", backend="cache+memory://")
    made.conf.broker_transport_options = {"polling_interval": 0.01}

    made.task(name="shop.work")(work)
    return made


@pytest.fixture(scope="module")
def in_worker(tasks: celery.Celery) -> Iterator[celery.Celery]:
    with start_worker(tasks, pool="solo", perform_ping_check=False, shutdown_timeout=60):
        yield tasks


def test_an_eager_task_is_seen(tasks: celery.Celery) -> None:
    def run() -> None:
        for _ in range(ROUNDS):
            tasks.tasks["shop.work"].apply().get()

    check_shares(captured(run)["task shop.work"])


def test_a_task_in_a_worker_is_seen(in_worker: celery.Celery) -> None:
    def run() -> None:
        for _ in range(ROUNDS):
            in_worker.tasks["shop.work"].delay().get(timeout=60)

    check_shares(captured(run)["task shop.work"])


def test_a_coroutine_is_charged_with_the_time_in_which_it_waits() -> None:
    async def send() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            await asyncio.gather(*(client.get("/waits/0.05") for _ in range(3)))

    profile = captured(lambda: asyncio.run(send()))["GET /waits/{seconds}"]

    (hottest,) = profile.hottest(1)
    assert hottest.frame.function == "waiting_endpoint"
    # Three that wait at the same time wait for three times as long.
    assert hottest.seconds > 0.14
    assert "[await]" in {stack.frames[-1].function for stack in profile.stacks}


def test_nothing_is_left_wrapped() -> None:
    before = [FastAPI.__call__, asyncio.to_thread]

    captured(lambda: in_loop("/sync/{number}"))

    assert [FastAPI.__call__, asyncio.to_thread] == before


def test_a_stack_ends_at_the_code_of_the_span() -> None:
    profile = captured(lambda: in_test_client("/sync/{number}"))["GET /sync/{number}"]

    files = {frame.file for stack in profile.stacks for frame in stack.frames}
    assert not any("pytest_perfguard" in file for file in files)
    assert not any(file.startswith("/") for file in files)
    functions = {frame.function for stack in profile.stacks for frame in stack.frames}
    assert "in_test_client" not in functions


def test_a_comprehension_belongs_to_its_function() -> None:
    def serialize() -> list[float]:
        return [math.sqrt(number) for number in range(100_000)]

    def run() -> None:
        for _ in range(10):
            sum(math.sqrt(number) for number in serialize())

    hottest = captured(run)["the test"].hottest(2)

    assert {hot.frame.function for hot in hottest} == {"serialize", "run"}


def test_a_server_in_a_thread_is_seen() -> None:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]

        def run() -> None:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                for number in range(ROUNDS):
                    assert client.get(f"/sync/{number}").json() == number

        profiles = captured(run)
    finally:
        server.should_exit = True
        thread.join()

    check_shares(profiles["GET /sync/{number}"])


def test_what_waits_for_a_greenlet_is_on_its_stack() -> None:
    async def endpoint() -> None:
        # As SQLAlchemy's async engines run their synchronous core.
        for _ in range(5):
            await greenlet_spawn(work)

    profile = captured(lambda: asyncio.run(endpoint()))["the test"]

    stacks = {
        tuple(frame.function for frame in stack.frames if frame.user)[-3:]
        for stack in profile.stacks
        if any(frame.function == "large" for frame in stack.frames)
    }
    assert stacks == {("endpoint", "work", "large")}


def test_the_page_of_many_deep_stacks_stays_small() -> None:
    frame = "down\x00/app/deep.py\x003\x01l4"
    records = [([frame] * depth, 0.001) for depth in range(1, 2000)]
    page = pyinstrument_internals.html(records, "deep", 2.0, 2.0)
    assert "more frames" in page
    assert len(page) < 1_000_000
