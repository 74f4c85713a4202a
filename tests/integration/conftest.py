"""A small shop with a database, and pytest run on tests of it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from pytest_perfguard import read_run
from pytest_perfguard.model import Record

# Inner runs share this process. What they import is forgotten with each of them, so what is
# costly to import, or does not survive a second import, is imported here.
for _module in (
    "aiosqlite",
    "celery.app.autoretry",
    "celery.contrib.testing.worker",
    "celery.signals",
    "django.test.client",
    "fastapi.testclient",
    "flask.testing",
    "httpx",
    "httpx2",
    "kombu.transport.memory",
    "pytest_perfguard.fixtures",
    "pytest_perfguard.guard",
    "pytest_perfguard.plans",
    "pytest_perfguard.probes.sql",
    "pytest_perfguard.probes.sql_conditions",
    "pytest_perfguard.probes.sqlalchemy_internals",
    "pytest_perfguard.profiles",
    "pytest_perfguard.suite",
    "requests",
    "sqlalchemy.ext.asyncio",
    "uvicorn",
    "xdist.dsession",
):
    import_module(_module)


SHOP = '''
import tempfile
from pathlib import Path

from sqlalchemy import ForeignKey, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.orm import relationship, selectinload


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]


class Resource(Base):
    __tablename__ = "resources"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    owner: Mapped[User] = relationship()


_, database = tempfile.mkstemp(".db", dir=Path(__file__).parent)
engine = create_engine(f"sqlite:///{database}")


def seed():
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        for n in range(1, 21):
            session.add(Resource(id=n, name=f"resource {n}", owner=User(id=n, email=f"{n}@shop")))
        session.commit()


seed()


def list_lazily():
    """21 statements."""
    with Session(engine) as session:
        resources = session.scalars(select(Resource)).all()
        return [(resource.name, resource.owner.email) for resource in resources]


def list_eagerly():
    """2 statements."""
    with Session(engine) as session:
        resources = session.scalars(select(Resource).options(selectinload(Resource.owner))).all()
        return [(resource.name, resource.owner.email) for resource in resources]


def get_email(number):
    """1 statement."""
    with Session(engine) as session:
        return session.get(User, number).email
'''
CONFTEST = """
import sys


def pytest_unconfigure():
    if "shop" in sys.modules:
        sys.modules["shop"].engine.dispose()
"""
# The plugins of other libraries only cost time, except where they are what is tested.
LEAN = (
    "-p", "no:anyio", "-p", "no:asyncio", "-p", "no:hypothesispytest", "-p", "no:locust",
)  # fmt: skip


# Tests of a module that are repeated on two workers, which takes several times as long; all of them
# where PERFGUARD_TEST_ALL is set, as in tox -e xdist.
_ON_WORKERS = 2


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out most of what repeats a test on workers: the way there is the same for all."""
    if os.environ.get("PERFGUARD_TEST_ALL") or any("::" in argument for argument in config.args):
        return
    kept: dict[str, set[str]] = {}
    left_out = []
    for item in items:
        module, _, name = item.nodeid.partition("::")
        function, _, variant = name.partition("[")
        if "xdist" not in variant or not item.path.is_relative_to(Path(__file__).parent):
            continue
        functions = kept.setdefault(module, set())
        if function not in functions and len(functions) < _ON_WORKERS:
            functions.add(function)
        else:
            left_out.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        dropped = set(left_out)
        items[:] = [item for item in items if item not in dropped]


@pytest.fixture(scope="session")
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a place for the bytecode of inner runs."""
    return tmp_path_factory.mktemp("bytecode")


@pytest.fixture(autouse=True)
def shop(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, bytecode: Path) -> None:
    """Write the shop: 20 resources, each with an owner of its own."""
    monkeypatch.setenv("COLUMNS", "120")
    if sys.dont_write_bytecode:
        # Otherwise every worker would compile again what all of them import.
        monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(bytecode))
    pytester.makefile(".py", shop=SHOP)
    pytester.makeconftest(CONFTEST)


@pytest.fixture
def run_once(pytester: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    """Run pytest in one process."""

    def run(*arguments: str) -> pytest.RunResult:
        return pytester.runpytest_inprocess(*LEAN, *arguments)

    return run


@pytest.fixture(params=[(), ("-n2",)], ids=["one process", "xdist"])
def run(
    request: pytest.FixtureRequest, run_once: Callable[..., pytest.RunResult]
) -> Callable[..., pytest.RunResult]:
    """Run pytest, once in one process and once in two workers of pytest-xdist."""

    def run(*arguments: str) -> pytest.RunResult:
        return run_once(*request.param, *arguments)

    return run


@pytest.fixture
def failed() -> Callable[[pytest.RunResult], list[str]]:
    """Read the names of the tests that failed from the short summary."""

    def read(result: pytest.RunResult) -> list[str]:
        found = re.findall(r"^FAILED \S+?::(.+?)(?: - .*)?$", result.stdout.str(), re.MULTILINE)
        return sorted(name.rpartition("::")[2] for name in found)

    return read


@pytest.fixture
def records(pytester: pytest.Pytester) -> Callable[[], dict[str, Record]]:
    """Read the records of ``run.json``, by the test's name."""

    def read() -> dict[str, Record]:
        run = read_run(pytester.path / "run.json")
        return {record.nodeid.rpartition("::")[2]: record for record in run.records}

    return read
