"""Asks a database whether an index could serve a statement, and which one would.

The question is not what the planner does today, on a test's few rows, but whether it has any
choice: PostgreSQL is asked with sequential scans made unattractive, and SQLite about an empty
copy of the schema, without statistics. A scan that remains is one that no index could replace.

What is advised has been tried: the index is made where nobody sees it, and the plan has to
change. Nothing of that is left: SQLite's copy is in memory, and in PostgreSQL everything happens
inside a savepoint that is rolled back, or, where that would give a transaction that has only read
a number of its own, on another connection.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_perfguard.errors import PerfguardError
from pytest_perfguard.indexes import (
    Asked,
    Index,
    Part,
    candidates,
    hopeless,
    quoted,
    reason,
)

if TYPE_CHECKING:
    import sqlite3

    from sqlalchemy.engine import Connection

    from pytest_perfguard.fingerprint import Fingerprint

# Making an index on more rows would be felt, and locks the table for writers meanwhile.
MAX_ROWS = 100_000
_MAX_BYTES = 64 * 1024**2
_LOCK_TIMEOUT = "50ms"
_MAX_KNOWN = 1_000
_SAVEPOINT = "perfguard_explain"
_TRIED = "perfguard_tried"
_WHERE = re.compile(r"\bWHERE\b", re.IGNORECASE)
_SORTED_PAGE = re.compile(
    r"\bORDER BY\b.*\b(?:LIMIT|FETCH (?:FIRST|NEXT))\b", re.IGNORECASE | re.DOTALL
)
_GROUPED = re.compile(r"\b(?:GROUP BY|DISTINCT|UNION|INTERSECT|EXCEPT|OVER)\b", re.IGNORECASE)


class UnknownPlanError(PerfguardError):
    """The database could not be asked how it would run a statement."""


@dataclass(frozen=True, slots=True)
class Scan:
    """A table that is read whole.

    Attributes:
        text: what the database says of it.
        ordered: it is read in the order of an index, from end to end.
        filtered: whether rows of it are picked by conditions, as far as the plan tells it.
    """

    table: str
    text: str
    ordered: bool = False
    filtered: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """What a database says of how it would run a statement.

    Attributes:
        sort: what it says of a sort of all rows; empty if there is none.
        used: names of the indexes that it uses.
    """

    scans: tuple[Scan, ...] = ()
    sort: str = ""
    used: tuple[str, ...] = ()

    def reads_whole(self, table: str) -> bool:
        """Return whether a table is among those that are scanned."""
        return any(scan.table == table for scan in self.scans)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is to be said of a statement's plan.

    Attributes:
        scan: what the database says of a table that it must read whole; empty if there is none.
        sort: the same of a sort of all rows for the few that are wanted.
        used: names of the indexes that it uses, in order.
        asked: what the statement asks of the tables that are read whole.
        advice: what to do about it; empty if nothing can be said.
    """

    scan: str = ""
    sort: str = ""
    used: str = ""
    asked: str = ""
    advice: str = ""


Answers = dict[tuple[str, Plan, tuple[Asked, ...]], Answer]


def look_at(
    conn: Connection,
    statement: str,
    parameters: Any,
    found: Fingerprint,
    read: Callable[[], tuple[Asked, ...]],
    connect: Callable[[], Any],
    known: Answers,
) -> Answer | None:
    """Return what a database says of a statement; None for one that asks for a whole table.

    The EXPLAIN goes through a cursor of its own, so no listener hears it, and leaves the
    transaction as it was.

    Args:
        read: returns what the statement asks of its tables; empty if that cannot be known.
        connect: opens another connection of the driver.
        known: what was advised on this engine before: indexes are tried once.

    Raises:
        UnknownPlanError: if the database is of a kind that is not asked, or refuses to answer.
    """
    paged = bool(_SORTED_PAGE.search(found.text)) and not _GROUPED.search(found.text)
    if not paged and not _WHERE.search(found.text):
        return None
    if ";" in found.text:
        # An EXPLAIN would explain the first statement and run the others.
        raise UnknownPlanError("several statements in one string are not explained")
    kind = _DATABASES.get(conn.dialect.name)
    if kind is None:
        raise UnknownPlanError(f"the plans of {conn.dialect.name} are not known to perfguard")
    arguments = () if parameters is None else (parameters,)
    narrowed = bool(_WHERE.search(found.text))
    try:
        with closing(conn.connection.cursor()) as cursor:
            database = kind(conn, cursor, statement, arguments, connect)
            plan = database.plan()
            if not (narrowed and plan.scans) and not (paged and plan.sort):
                return Answer(used=", ".join(plan.used))
            asked = read()
            key = (statement, plan, asked)
            if key in known:
                return known[key]
            try:
                answer = _judge(database, plan, asked, narrowed=narrowed, paged=paged)
                if answer.advice and len(known) < _MAX_KNOWN:
                    known[key] = answer
                return answer  # noqa: TRY300 - short as it is
            except Exception:  # noqa: BLE001 - that there is a scan is known all the same
                scans = [s.text for s in plan.scans if narrowed and _counts(s, ())]
                sort = plan.sort if paged else ""
                return Answer("".join(scans[:1]), sort, ", ".join(plan.used))
    except UnknownPlanError:
        raise
    except Exception as error:
        raise UnknownPlanError(
            f"EXPLAIN of {found.label} failed with {type(error).__name__}"
        ) from error


def _judge(
    database: _Sqlite | _Postgresql,
    plan: Plan,
    asked: tuple[Asked, ...],
    *,
    narrowed: bool,
    paged: bool,
) -> Answer:
    """Tell scans that an index could replace from those that are meant, and try the indexes."""
    with database.trial(plan) as trial:
        plan = trial.first
        scans = [scan for scan in plan.scans if narrowed and _counts(scan, asked)]
        loose = [scan for scan in plan.scans if narrowed and scan not in scans]
        sort = plan.sort if paged else ""
        made: list[Index] = []
        told: list[Asked] = []
        tables = dict.fromkeys(scan.table for scan in (*scans, *loose))
        if sort and not scans:
            tables |= dict.fromkeys(each.table for each in asked if each.order)
        for table in tables:
            of_table = [each for each in asked if each.table == table]
            certain = any(scan.table == table for scan in scans)
            whole = plan.reads_whole(table) and narrowed
            best = trial.best(of_table, made, whole=whole, sort=bool(sort))
            if best is not None:
                made += best
            if certain or not whole or best is not None:
                told += of_table
                scans += [s for s in loose if s.table == table and best is not None]
    said = " and ".join(dict.fromkeys(map(str, told)))
    first = scans[0].text if scans else ""
    if not first and not sort:
        return Answer(used=", ".join(plan.used))
    return Answer(first, sort, ", ".join(plan.used), said, _advice(trial, made, told))


def _counts(scan: Scan, asked: Sequence[Asked]) -> bool:
    """Return whether a scan is one that somebody asked to be narrowed.

    A table of which nothing is asked but what another one has may be meant to be read whole.
    """
    if not asked:
        return scan.filtered and not scan.ordered
    return any(each.narrowed for each in asked if each.table == scan.table)


def _advice(trial: _Trial, made: Sequence[Index], told: Sequence[Asked]) -> str:
    if made:
        codes = " and ".join(dict.fromkeys(index.code for index in made))
        for each in told:
            if why := reason(each, [i for i in made if i.table == each.table], trial.there):
                return f"{codes}  # {why}"
        return codes
    if trial.refused:
        if trial.untried:
            return f"{' and '.join(i.code for i in trial.untried)}  # not tried: {trial.refused}"
        return ""
    return hopeless(told) if told else ""


class _Trial:
    """Tries indexes.

    Attributes:
        first: the plan without any of them.
        there: indexes that there are.
        refused: why indexes cannot be tried; empty if they can.
        untried: what would be advised if it could be tried, where it is fair to say so.
    """

    def __init__(
        self,
        dialect: str,
        first: Plan,
        there: Sequence[Index],
        plan_with: Callable[[Sequence[Index]], Plan | None],
    ) -> None:
        self.first = first
        self.there = there
        self.refused = ""
        self.untried: list[Index] = []
        self._dialect = dialect
        self._plan_with = plan_with

    def best(
        self, asked: Sequence[Asked], made: Sequence[Index], *, whole: bool, sort: bool
    ) -> tuple[Index, ...] | None:
        """Return the indexes that keep a table from being read whole, or from being sorted.

        Args:
            asked: what is asked of that table.
            made: what is made anyway.
            whole: it is read whole, and should not be.
            sort: there is a sort that it would be well to be rid of.
        """
        found: tuple[Index, ...] | None = None
        narrowed = whole or any(each.narrowed for each in asked)
        tried: set[tuple[Index, ...]] = set()
        for each in asked:
            for indexes in candidates(each, self._dialect, self.there):
                if self.refused:
                    return None
                if indexes in tried:
                    continue
                tried.add(indexes)
                plan = self._plan_with((*made, *indexes))
                if plan is None or (narrowed and plan.reads_whole(each.table)):
                    continue
                if not sort or not plan.sort:
                    return indexes
                found = found or (indexes if whole else None)
        return found


# -- SQLite --------------------------------------------------------------------------------

_SQLITE_SCAN = re.compile(
    r"^SCAN (?!\(|CONSTANT|SUBQUERY)(?:TABLE )?(\S+)(?! VIRTUAL)(?: AS (\S+))?"
    r"(?: USING (?:COVERING )?INDEX (\S+))?(?: |$)"
)
_SQLITE_AUTOMATIC = re.compile(r"^SEARCH (?:TABLE )?(\S+).* USING AUTOMATIC ")
_SQLITE_INDEX = re.compile(r" USING (?:COVERING )?INDEX (\S+)| USING (INTEGER PRIMARY KEY)")
_SQLITE_SORT = "USE TEMP B-TREE FOR ORDER BY"
_PLAIN = (int, float, str, bytes)


class _Sqlite:
    """SQLite, asked about a copy of its schema: without rows or statistics, and in memory.

    So no lock is taken, no statement that is being read from is cut short, and a database that
    was analysed while it was small answers as a large one.
    """

    def __init__(
        self, _conn: Connection, cursor: Any, statement: str, arguments: Any, _connect: Any
    ) -> None:
        self._cursor = cursor
        self._statement = statement
        self._arguments = arguments

    def plan(self) -> Plan:
        self._cursor.execute(f"EXPLAIN QUERY PLAN {self._statement}", *self._arguments)
        return self._read([str(row[3]) for row in self._cursor.fetchall()])

    def _read(self, lines: Iterable[str], partial: Sequence[str] = ()) -> Plan:
        scans, used, sort = [], [], ""
        for line in lines:
            if scan := _SQLITE_SCAN.match(line):
                # A partial index holds what it is to find, and nothing else.
                if scan[3] is None or scan[3] not in partial:
                    table = self._table(scan[1])
                    scans.append(Scan(table, line, ordered=scan[3] is not None))
            elif scan := _SQLITE_AUTOMATIC.match(line):
                scans.append(Scan(self._table(scan[1]), line))
            elif line == _SQLITE_SORT:
                sort = line
            used += [name or "primary key" for name, _ in _SQLITE_INDEX.findall(line)]
        return Plan(tuple(scans), sort, tuple(dict.fromkeys(used)))

    def _table(self, alias: str) -> str:
        """Return the table that a name in a plan stands for."""
        found = re.findall(
            rf"(?:\bFROM|\bJOIN|,)\s+(?:\w+\.)?[\"`\[]?([\w$]+)[\"`\]]?\s+(?:AS\s+)?"
            rf"[\"`\[]?{re.escape(alias)}\b",
            self._statement,
            re.IGNORECASE,
        )
        return str(found[-1]) if found else alias

    @contextmanager
    def trial(self, plan: Plan) -> Iterator[_Trial]:
        import sqlite3  # noqa: PLC0415 - may be missing from a Python that was built without it

        with closing(sqlite3.connect(":memory:")) as copy:
            try:
                self._cursor.execute(
                    "SELECT type, sql FROM sqlite_master UNION ALL"
                    " SELECT type, sql FROM sqlite_temp_master"
                )
                schema = [row for row in self._cursor.fetchall() if row[1]]
                partial = self._make(copy, schema)
                tables = _names(copy)
                first = self._ask(copy, partial)
            except sqlite3.Error as error:
                # A function or a collation of the user's, or an attached database.
                trial = _Trial("sqlite", plan, (), lambda _: None)
                trial.refused = f"{error}"
                yield trial
                return
            first = Plan(
                tuple(scan for scan in first.scans if scan.table.lower() in tables),
                first.sort,
                plan.used,
            )

            def plan_with(indexes: Sequence[Index]) -> Plan | None:
                copy.execute(f"SAVEPOINT {_TRIED}")
                try:
                    for number, index in enumerate(indexes):
                        copy.execute(_create(f"{_TRIED}_{number}", index))
                    return self._ask(copy, partial)
                except sqlite3.Error:
                    return None
                finally:
                    copy.execute(f"ROLLBACK TO {_TRIED}")
                    copy.execute(f"RELEASE {_TRIED}")

            there = [index for index in _sqlite_indexes(copy) if index.name not in partial]
            yield _Trial("sqlite", first, there, plan_with)

    def _make(self, copy: sqlite3.Connection, schema: Iterable[Sequence[str]]) -> list[str]:
        """Make the schema; returns the names of partial indexes."""
        copy.isolation_level = None
        for kind in ("table", "index", "view"):
            for type_, sql in schema:
                if type_ == kind:
                    # What cannot be made here is missed by the statement if that needs it.
                    with suppress(Exception):
                        copy.execute(sql)
        return [
            row[0]
            for row in copy.execute(
                "SELECT name FROM sqlite_master WHERE type = 'index' AND sql LIKE '%) WHERE %'"
            )
        ]

    def _ask(self, copy: sqlite3.Connection, partial: Sequence[str]) -> Plan:
        arguments = tuple(_plain(each) for each in self._arguments)
        rows = copy.execute(f"EXPLAIN QUERY PLAN {self._statement}", *arguments)
        return self._read([str(row[3]) for row in rows], partial)


def _plain(parameters: Any) -> Any:
    """Return parameters of which SQLite takes each as it is: plans depend on hardly any."""
    if isinstance(parameters, dict):
        return {name: _plain_value(value) for name, value in parameters.items()}
    return tuple(map(_plain_value, parameters))


def _plain_value(value: object) -> object:
    return value if type(value) in _PLAIN else None


def _names(copy: sqlite3.Connection) -> set[str]:
    return {
        row[0].lower() for row in copy.execute("SELECT name FROM sqlite_master WHERE type='table'")
    }


def _sqlite_indexes(copy: sqlite3.Connection) -> list[Index]:
    found = []
    names = "SELECT name, tbl_name FROM sqlite_master WHERE type = 'index'"
    for name, table in copy.execute(names).fetchall():
        rows = copy.execute("SELECT name FROM pragma_index_info(?) ORDER BY seqno", (name,))
        columns = [row[0] for row in rows]
        if all(columns):  # one on an expression has no name there
            found.append(Index(table, tuple(map(Part, columns)), name))
    return found


def _create(name: str, index: Index, schema: str = "") -> str:
    table = quoted(index.table)
    where = f"{quoted(schema)}.{table}" if schema else table
    return f"CREATE INDEX {name} ON {where} ({', '.join(part.sql for part in index.parts)})"


# -- PostgreSQL ----------------------------------------------------------------------------

_INDEX_OF = """
SELECT pg_get_indexdef(i.indexrelid, 1, true), a.amname, i.indpred IS NOT NULL FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace n ON n.oid = t.relnamespace
WHERE c.relname = {name} AND {schema}
"""
_INDEXES_OF = """
SELECT c.relname, a.attname FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (number, place)
LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
WHERE i.indrelid = to_regclass({table}) AND i.indpred IS NULL AND place <= i.indnkeyatts
ORDER BY c.relname, place
"""
# An index on rows that this transaction has changed may not be used by it.
_UNUSABLE = f"""
SELECT bool_or(indcheckxmin) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE c.relname LIKE '{_TRIED}%'
"""  # noqa: S608 - a name of our own
_SESSION = "SELECT pg_backend_pid(), current_setting('search_path')"
_SIZE_OF = "SELECT reltuples, pg_relation_size(oid) FROM pg_class WHERE oid = to_regclass({table})"


class _Postgresql:
    """PostgreSQL, asked with sequential scans made unattractive."""

    def __init__(
        self,
        conn: Connection,
        cursor: Any,
        statement: str,
        arguments: Any,
        connect: Callable[[], Any],
    ) -> None:
        self._conn = conn
        self._cursor = cursor
        self._statement = statement
        self._arguments = arguments
        self._connect = connect
        # Whether a transaction was under way, and the schemas of the tables of the plan.
        self._joined = True
        self._schemas: dict[str, str] = {}

    def plan(self) -> Plan:
        with self._undone(self._cursor):
            return self._ask(self._cursor)

    @contextmanager
    def _undone(self, cursor: Any) -> Iterator[None]:
        try:
            cursor.execute(f"SAVEPOINT {_SAVEPOINT}")
            undo = [f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}", f"RELEASE SAVEPOINT {_SAVEPOINT}"]
        except Exception:  # noqa: BLE001 - each driver has an error of its own for it
            # In autocommit mode there is no transaction to return into.
            cursor.execute("BEGIN")
            undo = ["ROLLBACK"]
            self._joined = False
        try:
            cursor.execute("SET LOCAL enable_seqscan = off")
            yield
        finally:
            for command in undo:
                cursor.execute(command)

    def _ask(self, cursor: Any) -> Plan:
        plan = self._explain(cursor)
        if plan.sort:
            # A few rows are sorted where an index would have them in order.
            cursor.execute("SET LOCAL enable_sort = off")
            without = self._explain(cursor)
            cursor.execute("SET LOCAL enable_sort = on")
            if not without.sort and len(without.scans) <= len(plan.scans):
                plan = Plan(plan.scans, "", plan.used)
        return plan

    def _explain(self, cursor: Any) -> Plan:
        cursor.execute(
            f"EXPLAIN (FORMAT JSON, VERBOSE, COSTS OFF) {self._statement}", *self._arguments
        )
        ((found,),) = cursor.fetchall()
        data = json.loads(found) if isinstance(found, str | bytes) else found
        nodes = list(_nodes(data[0]["Plan"]))
        self._schemas |= {
            node["Relation Name"]: node["Schema"] for node, _ in nodes if "Schema" in node
        }
        scans = [scan for node, table in nodes if (scan := self._scan(cursor, node, table))]
        used = [node["Index Name"] for node, _ in nodes if "Index Name" in node]
        sorts = any(node["Node Type"] == "Sort" for node, _ in nodes)
        return Plan(tuple(scans), "Sort" if sorts else "", tuple(dict.fromkeys(used)))

    def _scan(self, cursor: Any, node: dict[str, Any], table: str) -> Scan | None:
        """Return the scan of a node that reads a whole table, or a whole index.

        An index scan with a filter but no condition is one too: it only reads in another order.
        So is one on a condition that the first column of the index has no part in.
        """
        kind = node["Node Type"]
        if kind == "Seq Scan":
            return Scan(table, f"Seq Scan on {table}", filtered="Filter" in node)
        if "Index Name" not in node:
            return None
        condition, name = node.get("Index Cond"), node["Index Name"]
        if condition is None:
            if "Filter" not in node or self._is_partial(cursor, name, table):
                return None
        elif self._begins(cursor, name, table, condition):
            return None
        if kind == "Bitmap Index Scan":
            return Scan(table, f"{kind} on {name}")
        return Scan(table, f"{kind} using {name} on {table}")

    def _is_partial(self, cursor: Any, name: str, table: str) -> bool:
        found = self._index(cursor, name, table)
        return found is not None and bool(found[2])

    def _begins(self, cursor: Any, name: str, table: str, condition: str) -> bool:
        """Return whether the first column of an index is among what is known."""
        found = self._index(cursor, name, table)
        if found is None or found[1] != "btree":
            return True
        return bool(re.search(rf"(?<!\w){re.escape(_bare(found[0]))}(?!\w)", _bare(condition)))

    def _index(self, cursor: Any, name: str, table: str) -> Sequence[Any] | None:
        schema = self._schemas.get(table)
        if schema is None:
            return None
        of_copy = "n.oid = pg_my_temp_schema()"
        where = of_copy if _is_temporary(schema) else f"n.nspname = {_literal(schema)}"
        cursor.execute(_INDEX_OF.format(name=_literal(name), schema=where))
        rows = cursor.fetchall()
        return rows[0] if rows else None

    @contextmanager
    def trial(self, plan: Plan) -> Iterator[_Trial]:
        there: list[Index] = []
        trial = _Trial("postgresql", plan, there, lambda _: None)
        with self._place(trial) as cursor:
            if cursor is None:
                yield trial
                return
            for table, schema in self._schemas.items():
                there += _postgresql_indexes(cursor, table, schema)

            def plan_with(indexes: Sequence[Index]) -> Plan | None:
                return self._plan_with(cursor, trial, indexes)

            trial._plan_with = plan_with
            yield trial

    @contextmanager
    def _place(self, trial: _Trial) -> Iterator[Any]:
        """Give a cursor in a transaction that will be rolled back."""
        if self._joined and not self._has_written():
            try:
                other = self._connect()
            except Exception as error:  # noqa: BLE001 - each driver has errors of its own
                trial.refused = f"no other connection ({type(error).__name__})"
                yield None
                return
            own, path = _one(self._cursor, _SESSION)
            with closing(other.cursor()) as cursor:
                if _one(cursor, _SESSION)[0] == own:
                    # The engine has but one connection, which is the code's.
                    trial.refused = "no other connection"
                    yield None
                    return
            try:
                with closing(other.cursor()) as cursor:
                    _one(cursor, f"SELECT set_config('search_path', {_literal(path)}, false)")
                    with self._undone(cursor):
                        yield cursor
            finally:
                with suppress(Exception):
                    other.rollback()
                other.close()
            return
        with self._undone(self._cursor):
            yield self._cursor

    def _has_written(self) -> bool:
        return bool(_one(self._cursor, "SELECT txid_current_if_assigned() IS NOT NULL")[0])

    def _plan_with(self, cursor: Any, trial: _Trial, indexes: Sequence[Index]) -> Plan | None:
        for index in indexes:
            if size := self._too_large(cursor, index.table):
                trial.refused = size
                trial.untried += indexes
                return None
        cursor.execute(f"SAVEPOINT {_TRIED}")
        schemas = dict(self._schemas)
        try:
            cursor.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
            for number, index in enumerate(indexes):
                cursor.execute(
                    _create(f"{_TRIED}_{number}", index, self._schemas.get(index.table, ""))
                )
            if not _one(cursor, _UNUSABLE)[0]:
                return self._ask(cursor)
            # An empty copy stands in for the table: its name comes before that of the table.
            tables = {index.table for index in indexes}
            for table in tables:
                original = f"{quoted(schemas[table])}.{quoted(table)}"
                cursor.execute(
                    f"CREATE TEMPORARY TABLE {quoted(table)} (LIKE {original} INCLUDING INDEXES)"
                )
            plan = self._ask(cursor)
            return plan if all(_is_temporary(self._schemas[table]) for table in tables) else None
        except Exception as error:  # noqa: BLE001 - each driver has errors of its own
            if _is_lock(error):
                trial.refused = "somebody holds a lock"
            return None
        finally:
            cursor.execute(f"ROLLBACK TO SAVEPOINT {_TRIED}")
            cursor.execute(f"RELEASE SAVEPOINT {_TRIED}")
            self._schemas = schemas

    def _too_large(self, cursor: Any, table: str) -> str:
        where = _literal(f"{quoted(self._schemas.get(table, ''))}.{quoted(table)}")
        cursor.execute(_SIZE_OF.format(table=where))
        rows = cursor.fetchall()
        if not rows:
            return f"{table} is not there for other connections"
        count, size = rows[0]
        if count > MAX_ROWS:
            return f"{table} has about {count:,.0f} rows"
        return f"{table} takes {size / 1024**2:,.0f} MiB" if size > _MAX_BYTES else ""


def _one(cursor: Any, query: str) -> Sequence[Any]:
    cursor.execute(query)
    (row,) = cursor.fetchall()
    found: Sequence[Any] = row
    return found


def _nodes(node: dict[str, Any], table: str = "?") -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the nodes of a plan, each with the table that it reads, itself or for another one."""
    table = node.get("Relation Name", table)
    yield node, table
    for inner in node.get("Plans", ()):
        yield from _nodes(inner, table)


def _postgresql_indexes(cursor: Any, table: str, schema: str) -> list[Index]:
    where = _literal(f"{quoted(schema)}.{quoted(table)}")
    cursor.execute(_INDEXES_OF.format(table=where))
    found: dict[str, list[str | None]] = {}
    for name, column in cursor.fetchall():
        found.setdefault(name, []).append(column)
    return [
        Index(table, tuple(Part(column) for column in columns if column), name)
        for name, columns in found.items()
        if all(columns)
    ]


def _is_temporary(schema: str) -> bool:
    return schema.startswith("pg_temp")


def _is_lock(error: BaseException) -> bool:
    """Return whether it is PostgreSQL's lock_not_available, as each driver gives it."""
    causes = (error, error.__cause__, getattr(error, "orig", None))
    return any(getattr(each, "sqlstate", None) == "55P03" for each in causes)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _bare(expression: str) -> str:
    """Return an expression without layout and the names of tables."""
    return re.sub(r"(?:\w+|\"[^\"]*\")\.(?=[\w\"])|[()]|(?<=\s)\s", "", expression)


_DATABASES: dict[str, type[_Sqlite | _Postgresql]] = {
    "sqlite": _Sqlite,
    "postgresql": _Postgresql,
}
