"""One process of ``sql_overhead.py``: runs statements under one variant and answers the times.

It reads one job a line from its standard input (``core``, ``orm``, ``request`` or ``span``) and
writes one JSON number a line: CPU seconds for each statement, for a session that takes a
connection, begins, writes a row and commits, or for the whole of a one-statement recording.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from time import perf_counter, process_time
from typing import Any, cast

from sqlalchemy import Connection, QueuePool, Table, create_engine, event, insert, select, update
from sqlalchemy.engine import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

DEPTH = 40
STATEMENTS = 200
WARM_UP = 20
SPANS = 20

# Opens a recording and yields a function that tells how many statements it has seen; None where
# the variant does not count.
Recording = Callable[[], AbstractContextManager[Callable[[], float] | None]]


class Base(DeclarativeBase):
    """The base of the mapped classes."""


class User(Base):
    """A row with a few columns, as most are."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    name: Mapped[str]


TABLE = cast("Table", User.__table__)


@contextmanager
def _nothing() -> Iterator[None]:
    yield None


def _bare() -> Recording:
    return _nothing


def _timer() -> Recording:
    def before(*_: object) -> None:
        perf_counter()

    def after(*_: object) -> None:
        perf_counter()

    event.listen(Engine, "before_cursor_execute", before)
    event.listen(Engine, "after_cursor_execute", after)
    return _nothing


def _perfguard() -> Recording:
    from pytest_perfguard import Recorder  # noqa: PLC0415 - only where it is measured

    recorder = Recorder()
    recorder.start()

    @contextmanager
    def recording() -> Iterator[Callable[[], float]]:
        with recorder.measure("block") as measured:
            yield lambda: measured["sql_queries"]

    return recording


def _perfguard_idle() -> Recording:
    from pytest_perfguard import Recorder  # noqa: PLC0415

    Recorder().start()
    return _nothing


def _queryguard() -> Recording:
    record_queries = import_module("pytest_queryguard").record_queries

    @contextmanager
    def recording() -> Iterator[Callable[[], float]]:
        with record_queries() as log:
            yield lambda: log.count

    return recording


def _querycount() -> Recording:
    new_recorder = import_module("pytest_querycount").Recorder
    backends = import_module("pytest_querycount.backends")
    backends.install_all()

    @contextmanager
    def recording() -> Iterator[Callable[[], float]]:
        # What its fixture's `with querycount()` does.
        recorder = new_recorder()
        backends.push(recorder)
        try:
            yield lambda: recorder.count
        finally:
            backends.pop(recorder)

    return recording


def _queryspy() -> Recording:
    record = import_module("queryspy").record

    @contextmanager
    def recording() -> Iterator[Callable[[], float]]:
        with record() as recorder:
            yield lambda: recorder.query_count

    return recording


VARIANTS: dict[str, Callable[[], Recording]] = {
    "bare": _bare,
    "bare-again": _bare,
    "timer": _timer,
    "perfguard": _perfguard,
    "perfguard-idle": _perfguard_idle,
    "queryguard": _queryguard,
    "querycount": _querycount,
    "queryspy": _queryspy,
}


def _core(conn: Connection, ids: range) -> None:
    for n in ids:
        conn.execute(select(TABLE).where(TABLE.c.id == n)).all()


def _orm(session: Session, ids: range) -> None:
    for n in ids:
        session.scalars(select(User).where(User.id == n)).all()


def _request(engine: Engine, ids: range) -> None:
    for n in ids:
        with Session(engine) as session:
            session.execute(update(TABLE).where(TABLE.c.id == n).values(name=f"Name {n}"))
            session.commit()


def _deep(depth: int, run: Callable[[Any, range], None], on: Any, ids: range) -> float:
    """Call ``run`` below ``depth`` more frames, as a request of a web framework would be."""
    if depth:
        return _deep(depth - 1, run, on, ids)
    started = process_time()
    run(on, ids)
    return process_time() - started


def _block(record: Recording, run: Callable[[Any, range], None], on: Any) -> float:
    """Return CPU seconds a statement, once the line has been seen; each asks for another row."""
    with record() as count:
        _deep(DEPTH, run, on, range(1, 1 + WARM_UP))
        seconds = _deep(DEPTH, run, on, range(1 + WARM_UP, 1 + WARM_UP + STATEMENTS))
        seen = count() if count else None
    if seen not in (None, WARM_UP + STATEMENTS):
        raise SystemExit(f"{WARM_UP + STATEMENTS} statements were run and {seen} recorded")
    return seconds / STATEMENTS


def _span(record: Recording, conn: Connection) -> float:
    """Return CPU seconds of opening a recording, one statement, and closing it."""
    started = process_time()
    for _ in range(SPANS):
        with record():
            _deep(DEPTH, _core, conn, range(1, 2))
    return (process_time() - started) / SPANS


def main() -> None:
    """Answer jobs until there are no more."""
    record = VARIANTS[sys.argv[1]]()
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    rows = [
        {"id": n, "email": f"{n}@example.com", "name": f"User {n}"}
        for n in range(1, 1 + WARM_UP + STATEMENTS)
    ]
    pooled = create_engine("sqlite://", poolclass=QueuePool, pool_size=1, max_overflow=0)
    Base.metadata.create_all(pooled)
    with pooled.begin() as conn:
        conn.execute(insert(User), rows)
    with engine.connect() as conn, Session(engine) as session:
        conn.execute(insert(User), rows)
        jobs: dict[str, Callable[[], float]] = {
            "core": lambda: _block(record, _core, conn),
            "orm": lambda: _block(record, _orm, session),
            "request": lambda: _block(record, _request, pooled),
            "span": lambda: _span(record, conn),
        }
        for job in jobs.values():
            job()
        gc.disable()
        print(json.dumps("ready"), flush=True)
        for line in sys.stdin:
            seconds = jobs[line.strip()]()
            gc.collect()
            print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main()
