"""The history: what the tests of many runs have cost, in a database.

Kept are the numbers, not what they are made of: ``run.json`` has that. A value is a row of three
numbers and itself; a test that did not run, or in which nothing was observed, has none.
SQLAlchemy is imported when a history is used.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from os import environ
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_perfguard.errors import HistoryError, MissingExtraError
from pytest_perfguard.history_rows import Key, environment_key, in_utc, values_of
from pytest_perfguard.model import Run, encodable
from pytest_perfguard.run_comparison import is_whole

if TYPE_CHECKING:
    from sqlalchemy import URL, ColumnElement, Connection, Table

# What an option without a URL stands for: what the variable says, else a file.
DEFAULT = "default"
URL_VARIABLE = "PERFGUARD_HISTORY_URL"
_FILE = ".perfguard/history.db"
# Rows, or words of a condition, that are sent at once.
_BATCH = 500


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run as the history knows it.

    Attributes:
        started: ISO 8601, in UTC.
        environment: what times depend on, in words.
        tests: how many it measured.
    """

    id: int
    started: str
    commit: str
    branch: str
    dirty: bool
    environment: str
    tests: int


@dataclass(frozen=True, slots=True)
class Series:
    """The values of one metric of one test on one kind of database, the oldest first.

    Attributes:
        values: by the id of the run.
        accepted: the run that it is judged from, as somebody has looked at it; 0 for none.
    """

    nodeid: str
    databases: str
    metric: str
    values: Mapping[int, float]
    accepted: int = 0


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of a run that was added.

    Attributes:
        where: URL of the history, without a password.
        cleared: how many older runs were cleared away.
    """

    where: str
    run: int
    values: int
    cleared: int = 0


class History:
    """A history in a database.

    Args:
        url: of the database, as SQLAlchemy writes it; :data:`DEFAULT` for the one that is named by
            the variable, or a file.
        root: folder that a relative file of SQLite is below.

    Raises:
        HistoryError: if it is no such URL.
        MissingExtraError: if SQLAlchemy is not installed.
    """

    def __init__(self, url: str, root: Path) -> None:
        try:
            from pytest_perfguard import history_schema  # noqa: PLC0415 - it loads SQLAlchemy
        except ImportError as error:
            if error.name and error.name.partition(".")[0] == "sqlalchemy":
                raise MissingExtraError("sqlalchemy", "sql") from None
            raise
        self._schema = history_schema
        if url == DEFAULT:
            url = environ.get(URL_VARIABLE) or f"sqlite:///{_FILE}"
        self._url: URL = history_schema.read_url(url)
        if self._url.get_backend_name() == "sqlite" and "uri" not in self._url.query:
            self._url = self._url.set(database=str(root / str(self._url.database)))

    @property
    def where(self) -> str:
        """The URL, without a password."""
        return self._schema.shown(self._url)

    @property
    def is_missing(self) -> bool:
        """Whether there is nothing yet; of a database on a server, reading tells."""
        return self._file is not None and not self._file.is_file()

    @property
    def _file(self) -> Path | None:
        is_file = self._url.get_backend_name() == "sqlite" and "uri" not in self._url.query
        return Path(str(self._url.database)) if is_file else None

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._schema.told(self._url, "cannot be written"):
            if self._file is not None:
                try:
                    self._file.parent.mkdir(parents=True, exist_ok=True)
                except OSError as error:
                    raise HistoryError(
                        f"the history at {self.where} cannot be written: {error.strerror}"
                    ) from None
            engine = self._schema.open_engine(self._url, writes=True)
            self._schema.prepare(engine)
            with engine.begin() as connection:
                self._schema.lock(connection, self._url)
                yield connection

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._schema.told(self._url, "cannot be read"):
            if self.is_missing:
                # SQLite would make an empty one.
                raise HistoryError(
                    f"there is no history at {self.where}: "
                    "pytest --perfguard-history=URL writes one"
                )
            engine = self._schema.open_engine(self._url, writes=False)
            with engine.begin() as connection:
                self._schema.check_readable(connection, self._url)
                yield connection

    # -- writing ---------------------------------------------------------------------------

    def add(self, run: Run, *, keep_days: int = 0) -> Kept:
        """Add a run, all of it or nothing, and clear away what is older than is kept.

        Args:
            keep_days: how many days before this run are kept; 0 for all.

        Raises:
            HistoryError: if it cannot be written.
        """
        found = {Key.of(record): values_of(record) for record in run.records if is_whole(record)}
        if not found:
            raise HistoryError(
                f"nothing was added to the history at {self.where}: no test was measured to its "
                "end; mark tests, or run with --perfguard"
            )
        with self._writing() as connection:
            tests = self._ids(
                connection,
                self._schema.TESTS,
                "digest",
                {key.digest: {"nodeid": key.nodeid, "databases": key.databases} for key in found},
            )
            names = sorted({name for values in found.values() for name in values})
            metrics = self._ids(
                connection, self._schema.METRICS, "name", {name: {} for name in names}
            )
            number = self._add_run(connection, run, len(found))
            rows = [
                {
                    "run_id": number,
                    "test_id": tests[key.digest],
                    "metric_id": metrics[name],
                    "value": value,
                }
                for key, values in found.items()
                for name, value in values.items()
            ]
            if rows:
                connection.execute(self._schema.VALUES.insert(), rows)
            cleared = 0
            if keep_days:
                now = datetime.fromisoformat(run.source["started"])
                cleared = self._clear(connection, now - timedelta(days=keep_days))
        return Kept(self.where, number, len(rows), cleared)

    def _add_run(self, connection: Connection, run: Run, tests: int) -> int:
        result = connection.execute(
            self._schema.RUNS.insert().values(
                started=run.source["started"],
                commit_id=run.source.get("commit", "")[:64],
                branch=encodable(run.source.get("branch", ""))[:255],
                dirty=int("dirty" in run.source),
                environment=environment_key(run.environment),
                details=json.dumps(dict(run.environment), sort_keys=True),
                tests=tests,
            )
        )
        (number,) = result.inserted_primary_key or (0,)
        return int(number)

    def _ids(
        self,
        connection: Connection,
        table: Table,
        key: str,
        wanted: Mapping[str, Mapping[str, str]],
    ) -> dict[str, int]:
        """Return the id of each name, and give those one that have none yet."""
        known = self._known(connection, table, key, wanted)
        missing = [{key: name, **wanted[name]} for name in sorted(set(wanted) - set(known))]
        if missing:
            connection.execute(table.insert(), missing)
            known = self._known(connection, table, key, wanted)
        return known

    @staticmethod
    def _known(
        connection: Connection, table: Table, key: str, wanted: Iterable[str]
    ) -> dict[str, int]:
        from sqlalchemy import select  # noqa: PLC0415

        known: dict[str, int] = {}
        for batch in _batches(sorted(wanted)):
            query = select(table.c[key], table.c.id).where(table.c[key].in_(batch))
            known |= {name: number for name, number in connection.execute(query)}  # noqa: C416 - rows are no pairs for dict() in every version
        return known

    def clear_before(self, day: datetime) -> int:
        """Clear away the runs that started before, and return how many there were.

        Raises:
            HistoryError: if it cannot be written.
        """
        with self._reading():
            pass
        with self._writing() as connection:
            return self._clear(connection, day)

    def _clear(self, connection: Connection, before: datetime) -> int:
        from sqlalchemy import delete, exists, select  # noqa: PLC0415

        runs, values = self._schema.RUNS, self._schema.VALUES
        old = runs.c.started < in_utc(before)
        gone = connection.scalars(select(runs.c.id).where(old)).all()
        if not gone:
            return 0
        for batch in _batches(gone):
            connection.execute(delete(values).where(values.c.run_id.in_(batch)))
        connection.execute(delete(runs).where(old))
        tests, accepted = self._schema.TESTS, self._schema.ACCEPTED
        unused = ~exists().where(values.c.test_id == tests.c.id)
        connection.execute(
            delete(accepted).where(accepted.c.test_id.in_(select(tests.c.id).where(unused)))
        )
        connection.execute(delete(tests).where(unused))
        return len(gone)

    def accept(self, series: Series, run: int, reason: str) -> None:
        """Take note that somebody has looked at a series: it is judged from that run on.

        Raises:
            HistoryError: if it cannot be written.
        """
        from sqlalchemy import delete  # noqa: PLC0415

        table = self._schema.ACCEPTED
        digest = Key(series.nodeid, series.databases).digest
        with self._writing() as connection:
            (test,) = self._known(connection, self._schema.TESTS, "digest", [digest]).values()
            (metric,) = self._known(
                connection, self._schema.METRICS, "name", [series.metric]
            ).values()
            of_series = (table.c.test_id == test) & (table.c.metric_id == metric)
            connection.execute(delete(table).where(of_series))
            connection.execute(
                table.insert().values(
                    test_id=test, metric_id=metric, run_id=run, reason=encodable(reason)
                )
            )

    # -- reading ---------------------------------------------------------------------------

    def runs(
        self, *, branch: str | None = None, since: datetime | None = None, limit: int = 0
    ) -> list[StoredRun]:
        """Return runs, the oldest first.

        Args:
            branch: those of that branch alone.
            since: those that started then or later.
            limit: the newest of them; 0 for all.

        Raises:
            HistoryError: if they cannot be read.
        """
        from sqlalchemy import select  # noqa: PLC0415

        table = self._schema.RUNS
        query = select(table).order_by(table.c.started.desc(), table.c.id.desc())
        if branch is not None:
            query = query.where(table.c.branch == branch)
        if since is not None:
            query = query.where(table.c.started >= in_utc(since))
        if limit:
            query = query.limit(limit)
        with self._reading() as connection:
            rows = connection.execute(query).all()
        return [
            StoredRun(
                row.id,
                row.started,
                row.commit_id,
                row.branch,
                bool(row.dirty),
                row.environment,
                row.tests,
            )
            for row in reversed(rows)
        ]

    def names(self) -> tuple[list[str], list[str]]:
        """Return the metrics and the node ids that there are values of, in order.

        Raises:
            HistoryError: if they cannot be read.
        """
        from sqlalchemy import select  # noqa: PLC0415

        metrics, tests = self._schema.METRICS, self._schema.TESTS
        with self._reading() as connection:
            return (
                sorted(connection.scalars(select(metrics.c.name))),
                sorted(set(connection.scalars(select(tests.c.nodeid)))),
            )

    def series(
        self,
        runs: Sequence[StoredRun],
        *,
        metrics: Iterable[str] = (),
        changing: bool = False,
    ) -> list[Series]:
        """Return series of values in some runs, ordered by test and metric.

        Args:
            runs: the oldest first.
            metrics: those alone; all if there are none.
            changing: leave out those that have the same value in every run: most counts.

        Raises:
            HistoryError: if they cannot be read.
        """
        from sqlalchemy import and_, func, select  # noqa: PLC0415

        tests, names = self._schema.TESTS, self._schema.METRICS
        values, accepted = self._schema.VALUES, self._schema.ACCEPTED
        order = {run.id: place for place, run in enumerate(runs)}
        of_runs = values.c.run_id.in_(list(order))
        narrowed: list[ColumnElement[bool]] = [of_runs]
        if wanted := sorted(set(metrics)):
            narrowed.append(names.c.name.in_(wanted))
        query = (
            select(
                tests.c.nodeid,
                tests.c.databases,
                names.c.name,
                values.c.run_id,
                values.c.value,
                func.coalesce(accepted.c.run_id, 0),
            )
            .select_from(values)
            .join(tests, tests.c.id == values.c.test_id)
            .join(names, names.c.id == values.c.metric_id)
            .outerjoin(
                accepted,
                and_(
                    accepted.c.test_id == values.c.test_id,
                    accepted.c.metric_id == values.c.metric_id,
                ),
            )
            .where(*narrowed)
        )
        if changing:
            moved = (
                select(values.c.test_id, values.c.metric_id)
                .where(of_runs)
                .group_by(values.c.test_id, values.c.metric_id)
                .having(func.min(values.c.value) != func.max(values.c.value))
                .subquery()
            )
            query = query.join(
                moved,
                and_(moved.c.test_id == values.c.test_id, moved.c.metric_id == values.c.metric_id),
            )
        found: dict[tuple[str, str, str, int], dict[int, float]] = {}
        with self._reading() as connection:
            for nodeid, kinds, metric, run, value, from_run in connection.execute(query):
                found.setdefault((nodeid, kinds, metric, from_run), {})[run] = value
        return [
            Series(
                nodeid,
                kinds,
                metric,
                dict(sorted(of_run.items(), key=lambda pair: order[pair[0]])),
                from_run,
            )
            for (nodeid, kinds, metric, from_run), of_run in sorted(found.items())
        ]


def _batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]
