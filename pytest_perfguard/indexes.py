"""Which index could serve a statement: pure data, no database.

What a statement asks of a table is read elsewhere. From it this module makes candidates, the
likeliest first: columns that are compared for equality before those that are compared by a range
or sorted by, as an index is searched by its first columns only as far as these are known.
Whether one of them is of use is for the database to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

# Each candidate costs a plan.
_MAX_CANDIDATES = 12
# PostgreSQL cuts longer names.
_MAX_NAME = 63


class How(StrEnum):
    """How a condition compares."""

    EQUAL = "="
    MANY = "IN"
    RANGE = "range"
    PATTERN = "LIKE"
    JOIN = "joined"
    OTHER = "compared"


@dataclass(frozen=True, slots=True)
class Part:
    """What one place of an index holds.

    Attributes:
        column: the column, or the first one in the expression.
        expression: SQL of what is not a plain column, e.g. ``lower(email)``; empty for one.
        opclass: class of operators that PostgreSQL is to use for it.
    """

    column: str
    expression: str = ""
    opclass: str = ""

    def __str__(self) -> str:
        return self.expression or self.column

    @property
    def sql(self) -> str:
        """How the part stands in a CREATE INDEX."""
        sql = self.expression or quoted(self.column)
        return f"{sql} {self.opclass}" if self.opclass else sql


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on one table.

    Attributes:
        wildcard: it is a LIKE whose pattern begins with a wildcard.
        usable: an index could hold what it compares; False where a value is part of that.
    """

    part: Part
    how: How
    wildcard: bool = False
    usable: bool = True

    def __str__(self) -> str:
        return f"{self.part} {self.how}"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a statement asks of one table.

    Attributes:
        conditions: that all have to hold.
        either: conditions of which one has to hold, for each OR.
        order: what the result is sorted by, as far as it is in this table, and whether that is
            descending.
        key: columns of the primary key.
    """

    table: str
    conditions: tuple[Condition, ...] = ()
    either: tuple[tuple[Condition, ...], ...] = ()
    order: tuple[tuple[Part, bool], ...] = ()
    key: tuple[str, ...] = ()

    @property
    def narrowed(self) -> bool:
        """Whether anything is asked of it but what other tables have."""
        return bool(self.either) or any(c.how is not How.JOIN for c in self.conditions)

    def __str__(self) -> str:
        own = [c for c in self.conditions if c.how is not How.JOIN]
        parts = [str(condition) for condition in (own or self.conditions)]
        parts += [" or ".join(map(str, group)) for group in self.either]
        if self.order:
            names = ", ".join(f"{part}{' DESC' if down else ''}" for part, down in self.order)
            parts.append(f"ORDER BY {names}")
        return f"{self.table} by {', '.join(dict.fromkeys(parts))}"


@dataclass(frozen=True, slots=True)
class Index:
    """An index that there is, or could be."""

    table: str
    parts: tuple[Part, ...]
    name: str = ""

    @property
    def code(self) -> str:
        """The operation of Alembic that makes it."""
        columns = ", ".join(
            f'sa.text("{p.expression}")' if p.expression else f'"{p.column}"' for p in self.parts
        )
        ops = ", ".join(f'"{p.column}": "{p.opclass}"' for p in self.parts if p.opclass)
        options = f", postgresql_ops={{{ops}}}" if ops else ""
        return f'op.create_index("{name_of(self)}", "{self.table}", [{columns}]{options})'


def quoted(name: str) -> str:
    """Return a name as SQL takes any name."""
    return '"' + name.replace('"', '""') + '"'


def name_of(index: Index) -> str:
    """Return the name of an index that is advised: ``ix_table_columns``, with its functions."""
    words = [f"ix_{index.table}"]
    for part in index.parts:
        words.append(part.column)
        if part.expression:
            inside = re.findall(r"\w+", part.expression.replace("DESC", ""))
            words += [w.lower() for w in inside if w not in (part.column, "COLLATE")]
        if part.opclass:
            words.append("pattern")
    return "_".join(words)[:_MAX_NAME]


def candidates(asked: Asked, dialect: str, there: Iterable[Index]) -> list[tuple[Index, ...]]:
    """Return the indexes that could serve what is asked of a table, the likeliest first.

    Args:
        there: indexes that there are, which need not be made.
    """
    exist = {index.parts for index in there if index.table == asked.table}
    exist |= {tuple(map(Part, asked.key))}
    found: dict[tuple[Index, ...], None] = {}
    for indexes in (*_candidates(asked, dialect), *_either(asked, dialect, exist)):
        missing = tuple(i for i in indexes if i.parts and i.parts not in exist)
        if missing and all(_distinct(index.parts) for index in missing):
            found[missing] = None
    return list(islice(found, _MAX_CANDIDATES))


def _candidates(asked: Asked, dialect: str) -> Iterator[tuple[Index, ...]]:
    for parts in _orders(asked, dialect):
        yield (Index(asked.table, tuple(dict.fromkeys(parts))),)


def _orders(asked: Asked, dialect: str) -> Iterator[Sequence[Part]]:
    """Yield what an index could hold, in its order."""
    by = {how: _parts(asked.conditions, how) for how in How}
    # One row is found by its key; what else is asked of it needs no index.
    equal = [part for part in by[How.EQUAL] if (part.column,) != asked.key]
    many, ranges, order = by[How.MANY], by[How.RANGE], _order(asked)
    patterns = [p for part in by[How.PATTERN] for p in _patterns(part, dialect)]
    if order and (equal or not (many or ranges or patterns)):
        yield [*equal, *order]
        yield from ([*equal, *order, part] for part in ranges[:1])
    elif order[:1] == ranges[:1]:
        yield order
    if equal or many:
        yield from ([*equal, *many, part] for part in (*ranges[:1], *patterns))
        yield [*equal, *many]
    yield from ([part] for part in (*equal, *many, *ranges, *patterns))
    for part in by[How.JOIN]:
        yield [part]
        yield [part, *equal, *order]
    yield order


def _either(
    asked: Asked, dialect: str, exist: Iterable[tuple[Part, ...]]
) -> Iterator[tuple[Index, ...]]:
    """Yield an index for each condition of an OR that none begins with."""
    begun = {parts[0] for parts in exist if parts}
    for group in asked.either:
        parts = [c.part for c in group if c.usable and c.part not in begun]
        pattern = {c.part for c in group if c.how is How.PATTERN}
        yield tuple(
            Index(asked.table, (list(_patterns(p, dialect))[-1] if p in pattern else p,))
            for p in parts
        )


def _parts(conditions: Iterable[Condition], how: How) -> list[Part]:
    return list(dict.fromkeys(c.part for c in conditions if c.how is how and c.usable))


def _patterns(part: Part, dialect: str) -> Iterator[Part]:
    """Yield what serves a LIKE: by default only an index of the C locale, or one without case."""
    yield part
    if dialect == "postgresql" and not part.expression:
        yield Part(part.column, opclass="text_pattern_ops")
    elif dialect == "sqlite" and not part.expression:
        yield Part(part.column, f"{part.column} COLLATE NOCASE")


def _order(asked: Asked) -> list[Part]:
    """Return the parts that give the order: those that all go one way need not say which.

    The key at the end tells rows apart that are equal otherwise; to sort those few is no work.
    """
    order = list(asked.order)
    while len(order) > 1 and order[-1][0].column in asked.key:
        order.pop()
    if len({descending for _, descending in order}) < 2:  # noqa: PLR2004 - ways
        return [part for part, _ in order]
    return [Part(p.column, f"{p} DESC" if down else p.expression) for p, down in order]


def _distinct(parts: Sequence[Part]) -> bool:
    """Return whether no place repeats what another one has decided."""
    return len({part.column for part in parts}) == len(parts)


def reason(asked: Asked, index: Sequence[Index], there: Iterable[Index]) -> str:
    """Return why an index that seems to be there does not serve; empty if there is none.

    Args:
        index: what is advised.
        there: indexes of the table that there are.
    """
    wanted = [part for one in index for part in one.parts]
    conditions = (*asked.conditions, *(c for group in asked.either for c in group))
    for one in there:
        if one.table != asked.table:
            continue
        columns = ", ".join(map(str, one.parts))
        if len(wanted) > 1 and {p.column for p in wanted} <= {p.column for p in one.parts}:
            return f"{one.name} has them in another order: {columns}"
        for condition in conditions:
            part = condition.part
            if part.expression and Part(part.column) == one.parts[0]:
                return f"{one.name} is on {part.column}, what is compared is {part}"
            if not part.expression and part in one.parts[1:]:
                return f"{one.name} has {part} behind {one.parts[0]}"
    return ""


def hopeless(asked: Iterable[Asked]) -> str:
    """Return why no index helps, as far as it can be told from the conditions."""
    conditions = [c for each in asked for c in (*each.conditions, *sum(each.either, ()))]
    if any(condition.wildcard for condition in conditions):
        return (
            "a LIKE that begins with a wildcard is searched by no plain index: search from the "
            "start, or by trigrams (pg_trgm) or a full-text index"
        )
    return "no index that was tried changes the plan: ask for what a column holds, as it holds it"
