"""A fresh process that ``gate.py`` judges: measures each workload once, with some work injected.

``gate_worker.py measure '{"testclient": 20, ...}'`` runs each workload with so many units of work,
and prints what it has found as JSON. ``gate_worker.py calibrate`` prints which share of a call one
unit is. Units are counted where they are run: how much was injected rests on no clock.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from statistics import fmean, median
from time import process_time_ns
from typing import Any

import httpx2
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import StaticPool

from pytest_perfguard.pinning import pinned
from pytest_perfguard.references import References, make_references
from pytest_perfguard.samples import Readings, Sample, faster_half
from pytest_perfguard.windows import measure_window
from pytest_perfguard.work import count_calls

WINDOWS = 3
BASE = {"testclient": 20, "asgi": 12, "function": 100}
# More units for the calibration: the more, the better their share is known.
MORE = 20
CALIBRATION_ROUNDS = 150
ROWS = [{"id": n, "name": f"an item called {n}", "price": n / 7} for n in range(6)]


class Base(DeclarativeBase):
    """The tables."""


class Item(Base):
    """A row."""

    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    price: Mapped[float]


class ItemOut(BaseModel):
    """What the endpoint returns of it."""

    id: int
    name: str
    price: float


engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
app = FastAPI()


class Knob:
    """How many units a call runs, and how many have been run."""

    def __init__(self) -> None:
        self.units = 0
        self.done = 0


knob = Knob()


def unit() -> int:
    """Do a little of what endpoints spend their time with: make objects, and text from them."""
    knob.done += 1
    found = {row["id"]: str(row["name"]).title() for row in json.loads(json.dumps(ROWS))}
    return len(sorted(found.values()))


def distance(one: str, other: str) -> int:
    """Return how many letters have to be changed to make one word from the other."""
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        above, row[0] = row[0], i
        for j, another in enumerate(other, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (letter != another))
    return row[-1]


@app.get("/items")
async def items() -> list[ItemOut]:
    """Query twenty rows, and run the units of work."""
    for _ in range(knob.units):
        unit()
    with Session(engine) as session:
        return [
            ItemOut.model_validate(item, from_attributes=True)
            for item in session.scalars(select(Item).limit(20))
        ]


def function() -> int:
    """Run the units of work of a plain function."""
    total = 0
    for _ in range(knob.units):
        knob.done += 1
        total += distance("kitten", "sitting")
    return total


class Workload:
    """One call with its references, whether it is awaited or not."""

    def __init__(
        self, call: Callable[[], Any], references: References, threads: tuple[Any, ...] = ()
    ) -> None:
        self.call = call
        self.references = references
        self.threads = threads

    def finish(self, pending: Any) -> Any:
        """Return a result, after it has been awaited if it has to be."""
        return runner.run(pending) if asyncio.iscoroutine(pending) else pending

    def once(self) -> None:
        """Call it."""
        self.finish(self.call())


runner = asyncio.Runner()


def workloads(opened: ExitStack) -> Iterator[tuple[str, Workload]]:
    """Make each workload."""
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Item(name=f"an item called {n}", price=n / 7) for n in range(40)])
        session.commit()
    opened.callback(engine.dispose)
    client = opened.enter_context(TestClient(app))
    in_loop: Any = httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=app), base_url="http://test"
    )
    for name, call, used, awaited in (
        ("testclient", lambda: client.get("/items"), client, False),
        ("asgi", lambda: in_loop.get("/items"), in_loop, True),
        ("function", function, None, False),
    ):
        references = make_references(used, awaited=awaited)
        opened.callback(references.close)
        # The event loop of a TestClient runs in a thread of its own.
        portal = getattr(used, "portal", None)
        yield name, Workload(call, references, (portal.call,) if portal else ())


def measure(units: dict[str, int]) -> dict[str, Any]:
    """Measure each workload in several windows, in turns."""
    found: dict[str, Any] = {}
    with ExitStack() as opened:
        pinning = opened.enter_context(pinned())
        made = dict(workloads(opened))
        windows: dict[str, list[Readings]] = {name: [] for name in made}
        for _ in range(WINDOWS):
            for name, workload in made.items():
                knob.units = units[name]
                window = workload.finish(measure_window(workload.call, workload.references))
                windows[name].append(window)
        for name, workload in made.items():
            knob.units, knob.done = units[name], 0
            workload.once()
            done = knob.done
            sample = Sample.of(workload.references.name, windows[name])
            counted = workload.finish(count_calls(workload.call, threads=workload.threads))
            walls = [ns / one.loops / 1e9 for one in windows[name] for ns in one.wall]
            found[name] = {
                "sample": sample.to_dict(),
                "raw": {"min": min(walls), "median": median(walls), "mean": fmean(walls)},
                "units": done,
                "calls": counted.calls,
            }
        runner.close()
    return {"core": pinning.core, "workloads": found}


def calibrate() -> dict[str, float]:
    """Return the share of a call with the usual number of units that one of them is."""
    shares = {}
    with ExitStack() as opened:
        opened.enter_context(pinned())
        for name, workload in workloads(opened):
            levels = BASE[name], BASE[name] + MORE
            times: dict[int, list[float]] = {level: [] for level in levels}
            for _ in range(CALIBRATION_ROUNDS):
                for level in levels:
                    knob.units = level
                    before = process_time_ns()
                    workload.once()
                    times[level].append(process_time_ns() - before)
            few, many = (faster_half(times[level]) for level in levels)
            shares[name] = (many - few) / MORE / few
        runner.close()
    return shares


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[2])) if sys.argv[1] == "measure" else calibrate()))
