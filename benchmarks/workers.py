"""A process that runs blocks of work under one variant of a benchmark, told by its parent."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).resolve().parent


def last_cpu() -> int | None:
    """Return the processor that all workers share, where a process can be bound to one."""
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


class Worker:
    """A process of a script of this folder; it answers each line with one line of JSON."""

    def __init__(self, python: str, script: str, variant: str, cpu: int | None) -> None:
        self._variant = variant
        env = {**os.environ, "PYTHONPATH": str(HERE.parent)}
        self._process = subprocess.Popen(  # noqa: S603 - our own worker
            [python, str(HERE / script), variant],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        if cpu is not None:
            os.sched_setaffinity(self._process.pid, {cpu})

    def __enter__(self) -> Self:
        self._answer()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, job: str) -> Any:
        """Run one block and return what it took."""
        assert self._process.stdin is not None
        self._process.stdin.write(job + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the worker of {self._variant!r} ended early")
        return json.loads(line)
