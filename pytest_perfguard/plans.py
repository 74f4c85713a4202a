"""Asks a database whether an index could serve a statement.

The question is not what the planner does today, on a test's few rows, but whether it has any
choice: PostgreSQL is asked with sequential scans made unattractive, and SQLite prefers an index
whenever one fits. A scan that remains is one that no index could replace.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pytest_perfguard.errors import PerfguardError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from pytest_perfguard.fingerprint import Fingerprint

_SAVEPOINT = "perfguard_explain"
_SQLITE_SCAN = re.compile(
    r"^SCAN (?!\(|CONSTANT|SUBQUERY)(?:TABLE )?(\S+)(?! USING| VIRTUAL)(?: |$)"
)
_WHERE = re.compile(r"\bWHERE\b", re.IGNORECASE)
_POSTGRES_INDEX = re.compile(
    r"(?:(?:Index|Index Only) Scan (?:Backward )?using|Bitmap Index Scan on) "
    r"(\"(?:[^\"]|\"\")+\"|\S+)"
)
_POSTGRES_SCAN = re.compile(r"(?:Seq|Index|Index Only) Scan (?:Backward )?(?:using \S+ )?on \S+")


class UnknownPlanError(PerfguardError):
    """The database could not be asked how it would run a statement."""


def full_scan(conn: Connection, statement: str, parameters: Any, found: Fingerprint) -> str | None:
    """Return what the database says of a table that it must scan, or None.

    A statement without a WHERE asks for the whole table and is no finding. The EXPLAIN goes
    through a cursor of its own, so no listener hears it, and leaves the transaction as it was.

    Raises:
        UnknownPlanError: if the database is of a kind that is not asked, or refuses to answer.
    """
    if not _WHERE.search(found.text):
        return None
    if ";" in found.text:
        # An EXPLAIN would explain the first statement and run the others.
        raise UnknownPlanError("several statements in one string are not explained")
    ask = _DATABASES.get(conn.dialect.name)
    if ask is None:
        raise UnknownPlanError(f"the plans of {conn.dialect.name} are not known to perfguard")
    try:
        with closing(conn.connection.cursor()) as cursor:
            return ask(cursor, statement, () if parameters is None else (parameters,))
    except Exception as error:
        raise UnknownPlanError(
            f"EXPLAIN of {found.label} failed with {type(error).__name__}"
        ) from error


def _sqlite(cursor: Any, statement: str, parameters: Any) -> str | None:
    cursor.execute(f"EXPLAIN QUERY PLAN {statement}", *parameters)
    for row in cursor.fetchall():
        match = _SQLITE_SCAN.match(row[3])
        if match or "AUTOMATIC" in row[3]:
            return str(row[3])
    return None


def _postgresql(cursor: Any, statement: str, parameters: Any) -> str | None:
    try:
        cursor.execute(f"SAVEPOINT {_SAVEPOINT}")
        undo = [f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}", f"RELEASE SAVEPOINT {_SAVEPOINT}"]
    except Exception:  # noqa: BLE001 - each driver has an error of its own for it
        # In autocommit mode there is no transaction to return into.
        cursor.execute("BEGIN")
        undo = ["ROLLBACK"]
    try:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(f"EXPLAIN {statement}", *parameters)
        plan = [str(row[0]) for row in cursor.fetchall()]
        return _postgresql_scan(plan) or _postgresql_late_column(cursor, plan)
    finally:
        for command in undo:
            cursor.execute(command)


def _postgresql_scan(plan: list[str]) -> str | None:
    """Return the first node that reads a whole table to filter it.

    An index scan with a filter but no condition is one too: it only reads in another order.
    """
    nodes = [number for number, line in enumerate(plan) if "->" in line or number == 0]
    for start, end in zip(nodes, [*nodes[1:], len(plan)], strict=True):
        match = _POSTGRES_SCAN.search(plan[start])
        details = " ".join(plan[start + 1 : end])
        if match and "Filter:" in details and "Cond:" not in details:
            return match[0]
    return None


def _postgresql_late_column(cursor: Any, plan: list[str]) -> str | None:
    """Return the first index that is read from end to end, its first column being unknown."""
    for line, below in pairwise(plan):
        match = _POSTGRES_INDEX.search(line)
        if match is None or "Index Cond:" not in below:
            continue
        name = match[1].replace("'", "''")
        cursor.execute(
            "SELECT pg_get_indexdef(i.indexrelid, 1, true), a.amname FROM pg_index i"  # noqa: S608 - a name from the database itself, quoted
            " JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam"
            f" WHERE i.indexrelid = to_regclass('{name}')"
        )
        found = cursor.fetchall()
        if found and found[0][1] == "btree" and _bare(found[0][0]) not in _bare(below):
            return match[0]
    return None


def _bare(expression: str) -> str:
    return re.sub(r"[()\s]", "", expression)


_DATABASES: dict[str, Callable[[Any, str, Any], str | None]] = {
    "sqlite": _sqlite,
    "postgresql": _postgresql,
}
