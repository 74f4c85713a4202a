"""What the service uses: CPU, memory, connections, and the time of the event loop."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import psutil
import pytest

from pytest_perfguard import Perf
from sample_app.core.config import Settings
from sample_app.core.database import Database
from sample_app.main import create_app
from sample_app.tests.running import RunningClient

pytestmark = [pytest.mark.performance]


@pytest.mark.perf_budget(cpu_percent="70%", cpu_time="1.4s", sql_errors=0)
def test_twenty_requests_a_second_leave_the_cpu_time_for_others(reader: RunningClient) -> None:
    """The guide's limit: less than 70 % of a core on average. Trap: slow_checksum.

    Where others keep the machine busy the share of any process is small, the time is not.
    """
    pause = threading.Event()
    for number in range(1, 21):
        assert reader.get(f"/api/resources?page={number}").status_code == 200
        pause.wait(0.05)


@pytest.mark.perf_budget(memory_percent="80%", memory_peak="64MiB")
def test_the_largest_pages_fit_into_memory(reader: RunningClient) -> None:
    """The guide's limit: less than 80 % of what the process may have.

    A trap that takes 80 % of a machine would take the tests with it: leaking_dict and
    counted_in_memory, which lead there, are seen by what they keep and by the rows that they load.
    """
    for page in range(1, 11):
        assert reader.get(f"/api/resources?page={page}&page_size=100").status_code == 200


def test_walking_on_and_on_takes_no_more_memory(reader: RunningClient, perf: Perf) -> None:
    """Trap: leaking_dict."""
    starts = count(1, 10)
    perf.repeat(
        lambda: reader.get(f"/api/resources/after?after={next(starts)}"),
        times=25,
        warmup=15,
        memory_growth="4KiB",
    )


@pytest.mark.perf_budget(pool_peak="80%", pool_wait="100ms", pool_leaks=0, sql_errors=0)
def test_eight_at_once_leave_connections_for_others(reader: RunningClient) -> None:
    """The guide's limit: less than 80 % of the pool. Trap: leaked_session."""
    with ThreadPoolExecutor(8) as threads:
        asked = [f"/api/resources/after?after={number}" for number in range(1, 18)]
        assert {answer.status_code for answer in threads.map(reader.get, asked)} == {200}


@pytest.mark.perf_baseline
@pytest.mark.perf_budget(pool_leaks=0, sql_queries=2)
def test_a_listing_gives_its_connection_back(reader: RunningClient) -> None:
    """Trap: leaked_session."""
    assert reader.get("/api/resources/after").status_code == 200


# A machine that is busy stops every process now and then.
@pytest.mark.perf_budget(loop_stall="200ms")
def test_nobody_waits_for_what_another_waits_for(reader: RunningClient) -> None:
    """Trap: sleep_in_loop."""
    for id_ in range(1, 6):
        assert reader.get(f"/api/resources/{id_}").status_code == 200


def test_the_monitor_ends_with_the_service(settings: Settings, database: Database) -> None:
    """And begins with a reading, not with 0 %. Trap: unstoppable_monitor."""
    threads, ports = set(threading.enumerate()), _ports()
    with RunningClient(create_app(settings, database)) as client:
        shown = client.get("/metrics").text
        assert _ports() == ports, "the monitor took a port: serve /metrics by the application"
    left = set(threading.enumerate()) - threads
    assert not left, f"{left} went on after the service: wait for an event instead of sleeping"
    assert "cpu_usage_percent 0.0" not in shown, (
        "0 % CPU is what the first reading always says: read once before the first interval"
    )


def _ports() -> set[int]:
    """Return the ports on which this process listens."""
    connections = psutil.Process().net_connections("tcp")
    return {each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN}
