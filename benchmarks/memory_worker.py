"""One process of ``memory.py``: a span of so many statements, and what it made the process keep.

Arguments: how the statements differ (``parameters``, ``literals`` or ``texts``), their number,
and ``on`` or ``off`` for the recording. Writes one JSON object.
"""

from __future__ import annotations

import gc
import json
import re
import resource
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from sqlalchemy import Connection, Integer, bindparam, column, create_engine, select, table

ITEMS = table("items", column("id", Integer))
BY_ID = select(ITEMS).where(ITEMS.c.id == bindparam("n"))
# Numbers of statements before the span, to fill the caches of SQLAlchemy and to load perfguard;
# what perfguard itself caches counts as kept.
WARM_UP = 5_000
LOAD = 10


def parameters(conn: Connection, n: int) -> None:
    """Run the same text with another parameter."""
    conn.execute(BY_ID, {"n": n}).all()


def literals(conn: Connection, n: int) -> None:
    """Run a text that differs by the literal in it."""
    conn.exec_driver_sql(f"SELECT id FROM items WHERE id = {n}").all()  # noqa: S608 - the point


def texts(conn: Connection, n: int) -> None:
    """Run a text that differs by a name in it, so that no two are the same statement."""
    conn.exec_driver_sql(f"SELECT id AS id_{n} FROM items WHERE id = ?", (n,)).all()  # noqa: S608


def peak_kib() -> int:
    """Return the most memory that the process has had resident, in KiB."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage() would begin with what the process was forked from.
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii"))
        if found:
            return int(found[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak


def main() -> None:
    """Run the span and say what it took."""
    kind, number, recording = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "on"
    kinds: dict[str, Callable[[Connection, int], None]] = {
        "parameters": parameters,
        "literals": literals,
        "texts": texts,
    }
    run = kinds[kind]
    engine = create_engine("sqlite://")
    kept: dict[str, float] = {}
    with engine.connect() as conn, ExitStack() as stack:
        conn.exec_driver_sql("CREATE TABLE items (id INTEGER PRIMARY KEY)")
        before = range(10_000_000, 10_000_000 + WARM_UP)
        for n in before:
            run(conn, n)
        if recording:
            from pytest_perfguard import Recorder  # noqa: PLC0415 - not loaded when off

            recorder = stack.enter_context(Recorder())
            with recorder.measure("warm-up"):
                for n in before[:LOAD]:
                    run(conn, n)
        gc.collect()
        peak, blocks = peak_kib(), sys.getallocatedblocks()
        measured = stack.enter_context(recorder.measure("span")) if recording else None
        for n in range(number):
            run(conn, n)
        gc.collect()
        kept["peak_kib"] = peak_kib() - peak
        kept["blocks"] = sys.getallocatedblocks() - blocks
        if measured is not None:
            kept["queries"] = measured["sql_queries"]
        stack.close()
        if measured is not None and measured.span is not None:
            span = measured.span
            kept["tallies"] = len(span.tallies)
            kept["moments"] = len(span.timeline)
            kept["hashes"] = sum(tally.distinct for tally in span.tallies)
    print(json.dumps(kept))


if __name__ == "__main__":
    main()
