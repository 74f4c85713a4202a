"""What the SQL probe keeps of one span."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from types import CodeType
from typing import TYPE_CHECKING, Any

from pytest_perfguard.fingerprint import varying_values
from pytest_perfguard.model import Site, Tally
from pytest_perfguard.probes.sql_pages import MANY_ROWS
from pytest_perfguard.spans import MAX_TALLIES, OpenSpan

if TYPE_CHECKING:
    from pytest_perfguard.probes.sqlalchemy_internals import Cause
    from pytest_perfguard.probes.transactions import Marks, OpenTransaction

# Parameter sets are remembered as hashes to tell duplicates from repeats. A span remembers this
# many for each statement, and fewer once it holds many altogether.
_MAX_SETS = 1_024
_MANY_SETS = 50_000
_FEW_SETS = 64


# Parameter sets, by their hashes.
Remembered = dict[int, object]


class LiveTally:
    """A tally that is still being added to."""

    __slots__ = (
        "batched",
        "commits",
        "count",
        "deep_offsets",
        "distinct",
        "duplicates",
        "embedded",
        "errors",
        "facts",
        "fix",
        "flush",
        "full_scans",
        "kind",
        "label",
        "moment",
        "operation",
        "others",
        "peak",
        "repeats",
        "roundtrips",
        "rows",
        "samples",
        "seconds",
        "shown",
        "site",
        "sorts",
        "subject",
        "unbounded",
        "unplanned",
    )

    def __init__(self, operation: str, kind: str, label: str, site: Site | None = None) -> None:
        self.operation = operation
        self.kind = kind
        self.label = label
        self.site = site
        self.subject: str | None = None
        self.fix: str | None = None
        self.facts: dict[str, str] = {}
        # Sent in several batches by the ORM: those that follow each other are one.
        self.batched = False
        # Run on behalf of another statement, such as a sequence for its key.
        self.embedded = False
        # Stands on the time line.
        self.shown = True
        self.flush = -1
        self.count = 0
        self.repeats = 0
        # By engine: the same statement once on each of several is no repetition.
        self.distinct: dict[int, Remembered] = {}
        self.duplicates = 0
        self.roundtrips = 0
        self.rows = 0
        self.seconds = 0.0
        self.peak = 0.0
        self.errors = 0
        self.commits = 0
        self.full_scans = 0
        self.sorts = 0
        self.unplanned = 0
        # What few tallies have: waits, leaks, calls inside transactions.
        self.others: dict[str, float] = {}
        self.deep_offsets = 0
        # Nothing limits how many rows it brings.
        self.unbounded = False
        self.samples: list[str] = []
        self.moment: list[Any] = ["", 0, 0.0, 0.0]

    def add(self, name: str, value: float) -> None:
        """Add to a sum that few tallies have."""
        self.others[name] = self.others.get(name, 0) + value

    def freeze(self) -> Tally:
        """Return what has been added up so far."""
        sums = {
            **self.others,
            "roundtrips": self.roundtrips,
            "rows": self.rows,
            "seconds": self.seconds,
            "errors": self.errors,
            "commits": self.commits,
            "full_scans": self.full_scans,
            "sorts": self.sorts,
            "unplanned": self.unplanned,
            "deep_offsets": self.deep_offsets,
            "unbounded": int(self.unbounded and self.rows >= MANY_ROWS * max(self.count, 1)),
        }
        return Tally(
            probe="sql",
            operation=self.operation,
            kind=self.kind,
            label=self.label,
            site=self.site,
            subject=self.subject,
            fix=self.fix,
            facts=dict(self.facts),
            count=self.count,
            repeats=self.repeats,
            distinct=max(map(len, self.distinct.values()), default=0),
            duplicates=self.duplicates,
            sums={name: value for name, value in sums.items() if value},
            peaks={"seconds": self.peak} if self.peak else {},
            samples=tuple(self.samples),
        )


class Known:
    """What is known of one statement text from one place in the code.

    Attributes:
        tally: where it is added up.
        code: held so that its id, which is part of the key, is not given to another.
        holds: it writes or locks, so that others may wait until the transaction ends.
        exact: hash of what tells this statement from all others, apart from its parameters.
        basis: the same without what only chooses the page of a result.
        counted: it is a statement that the code asked for.
        offset: parameter that says how many rows are skipped, if one does.
        reads: parameter sets that this read was run with; None for other statements.
        writes: tables that this write forgets the reads of; None for other statements.
        repeatable: several executions could have been one.
        by_repr: its parameters are told apart by what they show, as their hashes say nothing.
    """

    __slots__ = (
        "basis",
        "by_repr",
        "code",
        "counted",
        "distinct",
        "exact",
        "holds",
        "offset",
        "paging",
        "reads",
        "repeatable",
        "tally",
        "writes",
    )

    def __init__(self, tally: LiveTally, code: CodeType | None, engine: int) -> None:
        self.tally = tally
        self.code = code
        self.distinct = tally.distinct.setdefault(engine, {})
        self.exact = 0
        self.basis = 0
        self.paging: frozenset[int | str] = frozenset()
        self.offset: int | str | None = None
        self.counted = True
        self.reads: Remembered | None = None
        self.writes: frozenset[str] | None = None
        self.holds = False
        self.repeatable = False
        self.by_repr = False


Key = tuple[str | int, int, int]


class SqlLedger:
    """What the probe has seen in one span."""

    __slots__ = (
        "_by_table", "_lazy", "_reads", "_tallies", "by_dialect", "kept", "longest", "selected",
    )  # fmt: skip

    def __init__(self) -> None:
        # Each engine has a dialect of its own.
        self.by_dialect: dict[object, dict[Key, Known]] = {}
        self.kept = 0
        # The transaction that was open longest, and how far the span was when it ended.
        self.longest: tuple[OpenTransaction, Marks] | None = None
        self._reads: dict[int, Remembered] = {}
        # Entities that a query of the code selected, and how the others were loaded at first.
        self.selected: set[str] = set()
        self._lazy: dict[str, Cause] = {}
        self._by_table: dict[str, list[Remembered]] = {}
        self._tallies: dict[tuple[object, ...], LiveTally] = {}

    def chained(self, cause: Cause | None) -> Cause | None:
        """Return the cause as seen from the query that began a chain of lazy loads.

        What a lazy load brought has no query of its own: the options belong to the query whose
        rows the first load started from.
        """
        if cause is None or not cause.loaders:
            return cause
        before = self._lazy.get(cause.root)
        if before is not None and cause.root not in self.selected:
            cause = replace(cause, root=before.root, loaders=f"{before.loaders}.{cause.loaders}")
        self._lazy.setdefault(cause.target, cause)
        return cause

    def tallies(self) -> Iterable[Tally]:
        """Return what has been added up so far."""
        return [tally.freeze() for tally in list(self._tallies.values())]

    def tally(
        self,
        operation: str,
        kind: str,
        label: str,
        site: Site | None,
        subject: str | None,
    ) -> LiveTally:
        """Return the tally of an operation at a line, a new one at first sight."""
        key = (operation, kind, site and (site.file, site.line), subject)
        if key not in self._tallies:
            if len(self._tallies) >= MAX_TALLIES:
                # Many different statements, none of which can be told to repeat.
                operation, label, site, subject = "(other statements)", "(other)", None, None
                key = (operation, kind, site, subject)
            tally = self._tallies.setdefault(key, LiveTally(operation, kind, label, site))
            tally.subject = subject
        return self._tallies[key]

    def reads(self, identity: int, tables: frozenset[str]) -> Remembered | None:
        """Return the parameter sets that a read has been run with; None if there are too many."""
        if identity not in self._reads:
            if len(self._reads) >= MAX_TALLIES:
                return None
            seen: Remembered = {}
            if self._reads.setdefault(identity, seen) is seen:
                for table in tables or ("",):
                    self._by_table.setdefault(table, []).append(seen)
        return self._reads[identity]

    def forget_reads(self, tables: frozenset[str]) -> None:
        """Forget what was read of tables that are written to now; of all if none is named."""
        for table in (*tables, "") if tables else tuple(self._by_table):
            for seen in self._by_table.get(table, ()):
                seen.clear()

    def recall(self, seen: Remembered, value: int) -> bool:
        """Return whether a parameter set was there already; it is remembered, while there is room.

        One step of a dict, so that of two threads only one is the first.
        """
        if value in seen:
            return True
        if len(seen) >= (_MAX_SETS if self.kept < _MANY_SETS else _FEW_SETS):
            return False
        self.kept += 1
        mine = object()
        return seen.setdefault(value, mine) is not mine


def ledger_of(span: OpenSpan) -> SqlLedger:
    """Return the probe's ledger of a span, a new one at first."""
    ledger: SqlLedger | None = span.ledgers.get("sql")
    if ledger is None:
        # Another thread may be here as well: what it has made is kept.
        ledger = span.ledgers.setdefault("sql", SqlLedger())
    assert ledger is not None
    return ledger


def hashes_by_identity(parameters: Any) -> bool:
    """Return whether a value has no hash of its own, as psycopg's Json has none."""
    values = parameters.values() if type(parameters) is dict else parameters or ()
    by_identity: object = object.__hash__
    return any(type(value).__hash__ is by_identity for value in values)


def compare(ledger: SqlLedger, known: Known, parameters: Any) -> None:
    """Compare the parameters with those that the statement was run with before.

    Whatever their classes do must not hinder the statement: then they are not compared.
    """
    tally = known.tally
    tally.repeats += known.repeatable
    try:
        if known.by_repr:
            value = _hash_by_repr(known.exact, parameters)
        elif type(parameters) is dict:
            value = hash((known.exact, *parameters.values()))
        else:
            value = hash((known.exact, parameters))
    except TypeError:
        # There is a list, a dict or another mutable value among them.
        value = _hash_by_repr(known.exact, parameters)
    except Exception:  # noqa: BLE001 - a __hash__ of the user's
        return
    seen = known.reads
    if (
        seen is not None
        and value is not None
        and ledger.recall(seen, value)
        and not _is_ambiguous(parameters)
    ):
        tally.duplicates += 1
    if known.repeatable:
        if known.paging or known.basis != known.exact:
            try:
                varying = varying_values(parameters or (), known.paging)
            except Exception:  # noqa: BLE001 - an __eq__ of the user's
                return
            value = _hash_by_repr(known.basis, varying)
        if value is not None:
            ledger.recall(known.distinct, value)


def _hash_by_repr(basis: int, parameters: Any) -> int | None:
    """Return a hash by what the values show, or None if they show no more than an address."""
    try:
        text = repr(parameters)
    except Exception:  # noqa: BLE001 - a __repr__ of the user's
        return None
    return None if " at 0x" in text else hash((basis, text))


def _is_ambiguous(parameters: Any) -> bool:
    """Return whether equal hashes say little: Python's hash of -1 is that of -2."""
    values = parameters.values() if type(parameters) is dict else parameters or ()
    return any(type(value) is int and value in (-1, -2) for value in values)
