"""What a statement asks of its tables, read from SQLAlchemy's tree of expressions.

So no SQL has to be parsed, and aliases, eager loads and subqueries are what they are. A statement
that was written as text has no tree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pytest_perfguard.indexes import Asked, Condition, How, Part
from pytest_perfguard.probes import sqlalchemy_internals as internals

_HOW = {
    **dict.fromkeys(("eq", "is_", "is_not_distinct_from"), How.EQUAL),
    "in_op": How.MANY,
    **dict.fromkeys(("lt", "le", "gt", "ge", "between_op"), How.RANGE),
    **dict.fromkeys(("like_op", "startswith_op"), How.PATTERN),
}
# Any other expression needs parentheses in an index.
_CALL = re.compile(r"\w+\([^()]*\)")
_MIRRORED = ("eq", "lt", "le", "gt", "ge")
_WILDCARDS = ("contains_op", "icontains_op", "endswith_op", "iendswith_op")
_LIKE = ("like_op", "ilike_op")


@dataclass(slots=True)
class _Table:
    """What is gathered of one table, or of one alias of it."""

    table: Any
    conditions: dict[Condition, None] = field(default_factory=dict)
    either: list[tuple[Condition, ...]] = field(default_factory=list)
    order: list[tuple[Part, bool]] = field(default_factory=list)


def asked_of(context: Any) -> tuple[Asked, ...]:
    """Return what the statement of an execution context asks; empty where it cannot be read.

    An alias of a table is one more table of the same name.
    """
    try:
        tree = internals.tree(context)
        return () if tree is None else _Reader(context).read(tree)
    except Exception:  # noqa: BLE001 - whatever a tree may hold, the statement must not suffer
        return ()


class _UnknownColumnError(Exception):
    """A part of the statement was written as text."""


class _Reader:
    def __init__(self, context: Any) -> None:
        from sqlalchemy.sql import elements, schema, visitors  # noqa: PLC0415 - an optional library

        self._context = context
        self._elements = elements
        self._column = schema.Column
        self._inside: Callable[[Any], Iterator[Any]] = visitors.iterate
        self._found: dict[int, _Table] = {}

    def read(self, tree: Any) -> tuple[Asked, ...]:
        for element in self._inside(tree):
            kind = element.__visit_name__
            if kind == "textclause":
                raise _UnknownColumnError
            if kind in ("select", "update", "delete"):
                self._note_all(element.whereclause)
            if kind == "select":
                self._note_order(internals.order_of(element))
                # Only there are joins what they will be in the statement.
                for source in element.get_final_froms():
                    self._note_joins(source)
        return tuple(
            Asked(
                each.table.name,
                tuple(each.conditions),
                tuple(each.either),
                tuple(each.order),
                tuple(column.name for column in each.table.primary_key),
            )
            for each in self._found.values()
        )

    def _note_joins(self, source: Any) -> None:
        if source.__visit_name__ == "join":
            self._note_joins(source.left)
            self._note_joins(source.right)
            self._note_all(source.onclause)

    def _note_all(self, clause: Any) -> None:
        for condition in self._all_of(clause):
            self._note(condition)

    def _all_of(self, clause: Any) -> Iterator[Any]:
        """Yield the conditions that all have to hold."""
        clause = self._bare(clause)
        if clause is None:
            return
        if _is(clause, "and_"):
            for part in clause.clauses:
                yield from self._all_of(part)
        else:
            yield clause

    def _bare(self, clause: Any) -> Any:
        while isinstance(clause, self._elements.Grouping):
            clause = clause.element
        return clause

    def _note(self, clause: Any) -> None:
        if not _is(clause, "or_"):
            for table, condition in self._conditions(clause):
                table.conditions[condition] = None
            return
        # Of each alternative the first condition: an index that serves it serves the whole.
        ways = [next(self._all_of(part), None) for part in clause.clauses]
        found = [next(iter(self._conditions(way)), None) for way in ways]
        tables = {id(pair[0]): pair[0] for pair in found if pair}
        if None in found or len(tables) != 1:
            for pair in found:
                if pair:
                    pair[0].conditions[Condition(pair[1].part, How.OTHER, usable=False)] = None
            return
        (table,) = tables.values()
        group = tuple(pair[1] for pair in found if pair)
        if {c.how for c in group} <= {How.EQUAL, How.MANY} and len({c.part for c in group}) == 1:
            table.conditions[Condition(group[0].part, How.MANY)] = None
        else:
            table.either.append(group)

    def _conditions(self, clause: Any) -> Iterable[tuple[_Table, Condition]]:
        """Return what a clause says of each of its tables."""
        clause = self._bare(clause)
        elements = self._elements
        flag = clause
        if isinstance(clause, elements.UnaryExpression):  # NOT flag, flag = 1
            flag = self._bare(clause.element)
        if isinstance(flag, self._column):
            return self._said(flag, How.EQUAL)
        if not isinstance(clause, elements.BinaryExpression):
            return self._mentioned(clause)
        return self._compared(clause)

    def _compared(self, clause: Any) -> Iterable[tuple[_Table, Condition]]:
        elements = self._elements
        name = getattr(clause.operator, "__name__", "")
        left, right = self._bare(clause.left), self._bare(clause.right)
        how = _HOW.get(name, How.OTHER)
        if isinstance(right, elements.CollectionAggregate) and how is How.EQUAL:
            how = How.MANY
        if how is How.EQUAL and self._is_column(left) and self._is_column(right):
            if self._table(left) is self._table(right):
                return self._mentioned(clause)
            return [*self._said(left, How.JOIN), *self._said(right, How.JOIN)]
        if name in _MIRRORED and not self._columns(left):
            left, right = right, left
        if self._columns(right) and not self._has_query(right):
            return self._mentioned(clause)
        if isinstance(left, elements.Tuple):
            if how not in (How.RANGE, How.EQUAL):
                return self._mentioned(clause)
            firsts = left.clauses if how is How.EQUAL else left.clauses[:1]
            return [pair for each in firsts for pair in self._said(self._bare(each), how)]
        wildcard = name in _WILDCARDS or (name in _LIKE and self._begins_with_wildcard(right))
        return self._said(left, How.OTHER if wildcard else how, wildcard=wildcard)

    def _said(
        self, side: Any, how: How, *, wildcard: bool = False
    ) -> list[tuple[_Table, Condition]]:
        """Return what is said of one side of a comparison."""
        columns = self._columns(side)
        tables = [self._table(column) for column in columns]
        if not columns or None in tables or len(set(map(id, tables))) != 1:
            return self._mentioned(side)
        table, column = tables[0], columns[0]
        assert table is not None
        if self._is_column(side):
            condition = Condition(Part(_name(column)), how, wildcard, how is not How.OTHER)
        else:
            sql = self._sql(side)
            usable = bool(sql) and how is not How.OTHER
            condition = Condition(Part(_name(column), sql), how, wildcard, usable)
        return [(table, condition)]

    def _mentioned(self, clause: Any) -> list[tuple[_Table, Condition]]:
        """Return the tables of what no index can be made of."""
        if self._has_query(clause):
            return []  # what is asked inside of it is read by itself
        pairs = [(self._table(column), column) for column in self._columns(clause)]
        return [
            (table, Condition(Part(_name(column)), How.OTHER, usable=False))
            for table, column in pairs
            if table is not None
        ]

    def _is_column(self, side: Any) -> bool:
        return isinstance(side, self._column) or (
            isinstance(side, self._elements.ColumnClause) and len(side.base_columns) == 1
        )

    def _columns(self, side: Any) -> list[Any]:
        return [each for each in self._inside(side) if self._is_column(each)]

    def _has_query(self, side: Any) -> bool:
        return any(each.__visit_name__ == "select" for each in self._inside(side))

    def _table(self, column: Any) -> _Table | None:
        """Return what is gathered of the table that a column is of, through any subquery."""
        of = table = column.table
        while hasattr(table, "element"):  # an alias, of an alias
            table = table.element
        if table is None:
            raise _UnknownColumnError
        if not _is_table(table):
            of = table = getattr(next(iter(column.base_columns)), "table", None)
        return self._found.setdefault(hash(of), _Table(table)) if _is_table(table) else None

    def _sql(self, side: Any) -> str:
        """Return the text of an expression; empty where it holds a value, which is nobody's."""
        if any(each.__visit_name__ == "bindparam" for each in self._inside(side)):
            return ""
        names_alone = {"include_table": False}
        sql = str(side.compile(dialect=self._context.dialect, compile_kwargs=names_alone))
        return sql if _CALL.fullmatch(sql) else f"({sql})"

    def _begins_with_wildcard(self, pattern: Any) -> bool:
        value = internals.value_of(self._context, pattern)
        return isinstance(value, str) and value[:1] in ("%", "_")

    def _note_order(self, clauses: Iterable[Any]) -> None:
        """Note what is sorted by, up to where it changes to another table."""
        first: _Table | None = None
        for clause in clauses:
            side, descending = self._bare(clause), False
            while not self._is_column(side) and hasattr(side, "element"):
                operator = getattr(getattr(side, "modifier", None), "__name__", "")
                descending |= operator == "desc_op"
                side = self._bare(side.element)
            members = side.clauses if isinstance(side, self._elements.Tuple) else [side]
            for member in members:
                table = self._table(member) if self._is_column(member) else None
                if table is None or (first is not None and table is not first):
                    return
                first = table
                part = Part(_name(member))
                if part not in [known for known, _ in table.order]:
                    table.order.append((part, descending))


def _is(clause: Any, operator: str) -> bool:
    found = getattr(clause, "operator", None)
    return hasattr(clause, "clauses") and getattr(found, "__name__", "") == operator


def _is_table(table: Any) -> bool:
    return bool(getattr(table, "__visit_name__", "") == "table")


def _name(column: Any) -> str:
    """Return the column's name in its own table."""
    (base,) = column.base_columns
    return str(base.name)
