"""Looks every few seconds at what the process uses, from a thread that can be stopped.

What is asked for is told by whoever serves ``/metrics``: no port is taken here.
"""

from __future__ import annotations

import threading
from typing import Self

import psutil

from sample_app.core.metrics import Metrics


class Monitor:
    """Sets the gauges of CPU and memory; to be used in a ``with`` statement, once.

    Args:
        metrics: where the gauges are.
        interval: seconds between two readings; 0 for none at all.
    """

    def __init__(self, metrics: Metrics, interval: float) -> None:
        self._metrics = metrics
        self._interval = interval
        self._process = psutil.Process()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._interval:
            # The first answer is always 0.0: it is what the next one counts from.
            self._process.cpu_percent()
            self._thread = threading.Thread(target=self._watch, name="monitor", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def read(self) -> None:
        """Set the gauges; the share of the CPU is that since the reading before."""
        self._metrics.cpu_usage.set(self._process.cpu_percent())
        self._metrics.memory_usage.set(self._process.memory_info().rss)

    def _watch(self) -> None:
        while not self._stopped.wait(self._interval):
            self.read()
