"""The history on SQLite and on PostgreSQL: what is kept, by two at once, and across versions."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, create_engine, inspect, text

from pytest_perfguard import history_schema
from pytest_perfguard.errors import HistoryError
from pytest_perfguard.history import History
from pytest_perfguard.metrics import measure_all
from pytest_perfguard.model import Level, Record, Run, Status, Verdict
from pytest_perfguard.trends import check, keep
from tests.unit.build import span, tally

START = datetime(2026, 1, 1, tzinfo=UTC)
PYTHON = {"implementation": "CPython", "python": "3.12.1", "system": "Linux", "machine": "x86_64"}
WRITER = """
import sys
from pathlib import Path
from tests.services.test_history import run
from pytest_perfguard.history import History

name, url = sys.argv[1:]
history = History(url, Path())
runs = [run(day, {f"test_{name}.py::test_it": day + 1, "test_both.py::test_it": 1}, branch=name)
        for day in range(8)]
print("ready", flush=True)
sys.stdin.readline()
for one in runs:
    history.add(one)
"""


def record(nodeid: str, queries: int, **fields: object) -> Record:
    measured = span(tally(count=queries, sums={"roundtrips": queries}))
    metrics = measure_all(measured)
    known = {"outcome": "passed", "engines": {"1": "sqlite+pysqlite"}, **fields}
    return Record(nodeid=nodeid, span=measured, metrics=metrics, **known)  # type: ignore[arg-type]


def run(day: int, queries: dict[str, int], branch: str = "main", **fields: object) -> Run:
    return Run(
        environment=PYTHON,
        source={
            "started": (START + timedelta(days=day)).isoformat(timespec="seconds"),
            "commit": f"{day:040x}",
            "branch": branch,
        },
        records=tuple(record(nodeid, count, **fields) for nodeid, count in queries.items()),
    )


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where there is nothing yet."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/below/history.db"
        return
    admin, _ = request.getfixturevalue("postgres_admin")
    schema = f"history_{uuid.uuid4().hex[:12]}"
    with admin.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    options = admin.url.set(query={"options": f"-csearch_path={schema}"})
    yield options.render_as_string(hide_password=False)
    with admin.begin() as connection:
        connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))


@pytest.fixture
def history(url: str) -> History:
    return History(url, Path())


@pytest.fixture
def other(url: str, history: History) -> Iterator[Engine]:
    """Another way to the same database, with a run in it."""
    history.add(run(0, {"test_a.py::test_it": 3}))
    engine = create_engine(url)
    yield engine
    engine.dispose()


def test_a_run_is_kept_with_what_it_is_of(history: History) -> None:
    for day in range(3):
        history.add(run(day, {"test_a.py::test_it": 3 + day, "test_b.py::test_it": 1}))
    history.add(run(3, {"test_a.py::test_it": 99}, branch="other"))

    runs = history.runs(branch="main", since=START + timedelta(days=1))
    assert [(r.commit[-1], r.started[:10], r.tests, r.dirty) for r in runs] == [
        ("1", "2026-01-02", 2, False),
        ("2", "2026-01-03", 2, False),
    ]
    assert runs[0].environment == "CPython 3.12 Linux x86_64"
    assert [r.branch for r in history.runs(limit=1)] == ["other"]
    found = history.series(runs, metrics=["sql_queries"])
    assert [(s.nodeid, s.databases, list(s.values.values())) for s in found] == [
        ("test_a.py::test_it", "sqlite", [4, 5]),
        ("test_b.py::test_it", "sqlite", [1, 1]),
    ]
    changing = history.series(runs, changing=True)
    assert [(s.nodeid, s.metric) for s in changing] == [
        ("test_a.py::test_it", "sql_queries"),
        ("test_a.py::test_it", "sql_roundtrips"),
    ]
    assert history.names()[1] == ["test_a.py::test_it", "test_b.py::test_it"]


def test_only_tests_that_came_to_their_end_are_kept(history: History) -> None:
    over = Verdict("sql_queries", "test_it", 9, 3, Status.OVER, Level.FAIL, "here")
    broken = record("test_broken", 2, outcome="failed")
    breached = record("test_over", 9, outcome="failed", verdicts=(over,))
    history.add(Run(environment=PYTHON, source=run(0, {}).source, records=(broken, breached)))
    assert history.names()[1] == ["test_over"]
    with pytest.raises(HistoryError, match="no test was measured to its end"):
        history.add(Run(environment=PYTHON, source=run(0, {}).source, records=(broken,)))


def test_names_that_a_database_may_not_like_are_kept(history: History) -> None:
    names = ["a" * 5_000, "test_x[\ud800\0'\";<b>]", "test_é[\u202e]"]
    history.add(run(0, dict.fromkeys(names, 1)))
    history.add(run(1, dict.fromkeys(names, 2)))
    assert len(history.names()[1]) == len(names)
    assert len(history.series(history.runs(), metrics=["sql_queries"])) == len(names)


def test_two_writers_at_once_lose_nothing(url: str, history: History) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, name, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            cwd=Path(__file__).parents[2],
        )
        for name in ("left", "right")
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    # Neither has looked at the database yet, in which there is not a table.
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        with closing(writer.stdin), closing(writer.stdout):  # type: ignore[type-var] # both are pipes
            assert writer.wait(timeout=60) == 0
    runs = history.runs()
    assert sorted(r.branch for r in runs) == ["left"] * 8 + ["right"] * 8
    lengths = {s.nodeid: len(s.values) for s in history.series(runs, metrics=["sql_queries"])}
    assert lengths == {
        "test_both.py::test_it": 16,
        "test_left.py::test_it": 8,
        "test_right.py::test_it": 8,
    }


def test_a_newer_schema_is_refused_and_left_as_it_is(history: History, other: Engine) -> None:
    with other.begin() as connection:
        connection.execute(text("UPDATE perfguard_schema SET version = 99"))
    for use in (lambda: history.add(run(1, {"test_a.py::test_it": 4})), history.runs):
        with pytest.raises(HistoryError, match="has schema 99, this version knows 1: install"):
            use()
    with other.begin() as connection:
        assert connection.scalar(text("SELECT version FROM perfguard_schema")) == 99
        assert connection.scalar(text("SELECT count(*) FROM perfguard_runs")) == 1


def test_an_older_schema_is_brought_up_to_date_by_the_next_run(
    history: History, other: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add_column(connection: Connection) -> None:
        connection.execute(text("ALTER TABLE perfguard_runs ADD COLUMN host VARCHAR(20)"))

    def fill_column(connection: Connection) -> None:
        connection.execute(text("UPDATE perfguard_runs SET host = 'somewhere'"))

    monkeypatch.setattr(history_schema, "MIGRATIONS", [add_column, fill_column])
    with pytest.raises(HistoryError, match="has schema 1, this version reads 3: the next pytest"):
        history.runs()
    history.add(run(1, {"test_a.py::test_it": 4}))
    history.add(run(2, {"test_a.py::test_it": 4}))
    with other.begin() as connection:
        assert connection.scalar(text("SELECT version FROM perfguard_schema")) == 3
        hosts = connection.scalars(text("SELECT host FROM perfguard_runs ORDER BY id")).all()
    assert list(hosts) == ["somewhere", None, None]
    assert len(history.runs()) == 3


def test_a_migration_that_fails_leaves_the_store_as_it_was(
    history: History, other: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(connection: Connection) -> None:
        connection.execute(text("ALTER TABLE perfguard_runs ADD COLUMN host VARCHAR(20)"))
        connection.execute(text("UPDATE nowhere SET host = 'x'"))

    monkeypatch.setattr(history_schema, "MIGRATIONS", [fail])
    with pytest.raises(HistoryError, match=r"cannot be written: .*nowhere"):
        history.add(run(1, {"test_a.py::test_it": 4}))
    with other.begin() as connection:
        assert connection.scalar(text("SELECT version FROM perfguard_schema")) == 1
    assert "host" not in {column["name"] for column in inspect(other).get_columns("perfguard_runs")}


def test_old_runs_are_cleared_with_what_only_they_knew(history: History) -> None:
    history.add(run(0, {"test_gone.py::test_it": 1, "test_a.py::test_it": 1}))
    history.add(run(20, {"test_a.py::test_it": 1}))
    (gone, _) = history.series(history.runs(), metrics=["sql_queries"])[::-1]
    history.accept(gone, 1, "seen")
    assert history.add(run(40, {"test_a.py::test_it": 1}), keep_days=30).cleared == 1
    assert history.names()[1] == ["test_a.py::test_it"]
    assert history.clear_before(START + timedelta(days=30)) == 1
    assert [r.started[:10] for r in history.runs()] == ["2026-02-10"]
    assert history.clear_before(START) == 0


def test_a_creep_is_told_until_somebody_accepts_it(url: str, history: History) -> None:
    for day in range(12):
        notices = keep(run(day, {"test_a.py::test_it": 3 + day // 3}), url, root=Path())[1]
    expected = (
        "sql_queries 3 -> 6 in 3 steps since 000000000 (2026-01-04): test_a.py::test_it on sqlite"
    )
    assert notices[0] == f"warning: worse over many runs: {expected}"
    worse = check(history).worse
    assert str(worse[0]) == expected
    for one in worse:
        history.accept(one.series, history.runs()[-1].id, "paging")
    assert check(history).worse == ()
    for day in range(12, 20):
        history.add(run(day, {"test_a.py::test_it": 3 + day // 3}))
    assert str(check(history).worse[0]).startswith("sql_queries 6 -> 8 in 2 steps")
