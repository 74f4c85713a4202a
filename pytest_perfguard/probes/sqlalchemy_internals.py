"""Everything perfguard uses of SQLAlchemy that is not in its documented interface.

Each use has a fallback or a test that runs on the lowest and the highest supported version, so
that a release that moves one of these names is noticed here and nowhere else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any

import sqlalchemy
from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.engine import cursor as _cursor
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.event.api import _event_key

LIBRARY = str(Path(sqlalchemy.__file__).parent)
_STRATEGIES = str(Path(LIBRARY, "orm", "strategies.py"))
_CREATE = str(Path(LIBRARY, "engine", "create.py"))
_SESSION = str(Path(LIBRARY, "orm", "session.py"))
_SELECTIN_FUNCTIONS = ("_load_via_parent", "_load_via_child")

_FETCHING = (
    _cursor.CursorFetchStrategy,
    _cursor.BufferedRowCursorFetchStrategy,
    _cursor.FullyBufferedCursorFetchStrategy,
)


@dataclass(frozen=True, slots=True)
class Cause:
    """Why the ORM ran a statement.

    Attributes:
        subject: the attribute it was for, e.g. ``Resource.owner``, or the entity.
        how: ``lazy`` or ``lazy to-one`` for a relationship loaded on access, ``refresh`` for
            attributes that were expired or deferred.
        root: entity that the query selects, whose rows lead to the attribute.
        loaders: loader options that would have loaded it in time; empty for ``refresh``.
        target: entity that the attribute leads to.
    """

    subject: str
    how: str
    root: str = ""
    loaders: str = ""
    target: str = ""


def cause(context: Any) -> Cause | None:
    """Return why the ORM ran the statement of this execution context, if it can be known."""
    try:
        options = context.execution_options.get("_sa_orm_load_options")
        if options is None:
            return None
        if options._lazy_loaded_from is not None:
            return _lazy(context.invoked_statement._compile_options._current_path.path)
        refreshed = options._refresh_state
    except (AttributeError, IndexError):
        return None
    if refreshed is None:
        return None
    return Cause(refreshed.mapper.class_.__name__, "refresh")


def _lazy(path: Any) -> Cause:
    # The path holds mappers and attributes in turn; it begins with what the query selected.
    steps = [step for step in path if hasattr(step, "uselist")]
    loaders = ".".join(f"selectinload({_attribute(step)})" for step in steps)
    return Cause(
        subject=_attribute(steps[-1]),
        how="lazy" if steps[-1].uselist else "lazy to-one",
        root=steps[0].parent.class_.__name__,
        loaders=loaders,
        target=steps[-1].mapper.class_.__name__,
    )


def _attribute(step: Any) -> str:
    return f"{step.parent.class_.__name__}.{step.key}"


def entity(context: Any) -> str | None:
    """Return the name of the one mapped class that the statement selects, if it is one."""
    try:
        descriptions = context.invoked_statement.column_descriptions
    except Exception:  # noqa: BLE001 - statements of other kinds raise errors of many kinds
        return None
    entities = {item.get("entity") for item in descriptions}
    found = entities.pop() if len(entities) == 1 else None
    return getattr(found, "__name__", None)


def is_batched_load(frames: Iterator[FrameType]) -> bool:
    """Return whether the ORM sends this statement in several batches, as select-in loads are."""
    return any(
        frame.f_code.co_filename == _STRATEGIES and frame.f_code.co_name in _SELECTIN_FUNCTIONS
        for frame in frames
    )


def is_first_connect(frames: Iterator[FrameType]) -> bool:
    """Return whether the dialect is asking a new database about itself."""
    return any(
        frame.f_code.co_filename == _CREATE and frame.f_code.co_name == "first_connect"
        for frame in frames
    )


def is_embedded(frame: FrameType) -> bool:
    """Return whether SQLAlchemy runs the statement on behalf of another, as for a sequence."""
    return frame.f_code.co_name == "_cursor_execute"


def in_flush(frame: FrameType | None) -> bool:
    """Return whether a flush of a session is running on this stack."""
    while frame is not None:
        code = frame.f_code
        if code.co_name == "_flush" and code.co_filename == _SESSION:
            return True
        frame = frame.f_back
    return False


def watch_commits(commit: Callable[[], None]) -> Callable[[], None]:
    """Call ``commit()`` for each COMMIT that goes to a database; returns the undo.

    The documented ``commit`` event would do, but a listener for it makes SQLAlchemy take the
    slow path for every statement.
    """
    undo: list[tuple[str, Any]] = []
    for name in ("_commit_impl", "_commit_twophase_impl"):
        original = getattr(Connection, name)
        undo.append((name, original))
        setattr(Connection, name, _before(commit, original))

    def restore() -> None:
        for name, original in undo:
            setattr(Connection, name, original)

    return restore


def _before(first: Callable[[], None], then: Any) -> Any:
    @wraps(then)
    def both(*args: Any, **kwargs: Any) -> Any:
        first()
        return then(*args, **kwargs)

    return both


def listen_first(target: type, name: str, listener: Any) -> Callable[[], None]:
    """Listen before all others, since one that executes a statement ends the row.

    ``event.listen(..., insert=True)`` says so, but has no effect for events of dialects.
    """
    key: Any = _event_key(target, name, listener)
    key.dispatch_target._has_events = True
    key.base_listen(insert=True)
    return lambda: event.remove(target, name, listener)


def watch_rows(attribute: str, count: Callable[[Any, int], None]) -> Callable[[], None]:
    """Call ``count(found, rows)`` for the rows that the code fetches; returns the undo.

    Cursors of SQLite do not know how many rows they hold, so rows are counted as they are
    fetched. ``found`` is what ``attribute`` of the statement's execution context holds; as an
    attribute of the class it reads as None where nothing was left on the context.
    """
    undo: list[tuple[type, str, Any, Any]] = []

    def fetched(context: Any, rows: int) -> None:
        # Under somebody else's wrapper ours stays when it has been taken away.
        found = getattr(context, attribute, None)
        if found is not None and (
            not context._is_implicit_returning or _returns_to_code(context, attribute)
        ):
            count(found, rows)

    for strategy in _FETCHING:
        for name in ("fetchone", "fetchmany", "fetchall"):
            original = vars(strategy).get(name)
            if original is not None:
                wrapper = (_one if name == "fetchone" else _many)(original, fetched)
                undo.append((strategy, name, original, wrapper))
                setattr(strategy, name, wrapper)
    setattr(DefaultExecutionContext, attribute, None)

    def restore() -> None:
        for strategy, name, original, wrapper in undo:
            if vars(strategy).get(name) is wrapper:
                setattr(strategy, name, original)
        delattr(DefaultExecutionContext, attribute)

    return restore


def _returns_to_code(context: Any, attribute: str) -> bool:
    """Return whether rows that SQLAlchemy fetches for itself are handed to the code as well.

    It fetches all of them, takes the keys, and rewinds: only the first time is counted.
    """
    if not getattr(context, "_is_supplemental_returning", False) or in_flush(sys._getframe(2)):
        return False
    first = not hasattr(context, f"{attribute}_rows")
    setattr(context, f"{attribute}_rows", True)
    return first


def _one(original: Any, count: Callable[[Any, int], None]) -> Any:
    def fetchone(self: Any, result: Any, *args: Any, **kwargs: Any) -> Any:
        row = original(self, result, *args, **kwargs)
        if row is not None:
            count(result.context, 1)
        return row

    return fetchone


def _many(original: Any, count: Callable[[Any, int], None]) -> Any:
    def fetch(self: Any, result: Any, *args: Any, **kwargs: Any) -> Any:
        rows = original(self, result, *args, **kwargs)
        if rows:
            count(result.context, len(rows))
        return rows

    return fetch


def tree(context: Any) -> Any:
    """Return the expression that a statement was compiled from; None of one written as text.

    That is the one that was sent: the ORM adds joins for eager loads and criteria to the one
    that the code wrote.
    """
    compiled = context.compiled
    if compiled is None:
        return None
    sent = getattr(getattr(compiled, "compile_state", None), "statement", None)
    found = compiled.statement if sent is None else sent
    return found if hasattr(found, "whereclause") or hasattr(found, "selects") else None


def order_of(select: Any) -> Any:
    """Return what a SELECT is sorted by."""
    return select._order_by_clauses


def value_of(context: Any, parameter: Any) -> Any:
    """Return what a parameter stands for in this execution; None of anything else."""
    name = context.compiled.bind_names.get(parameter)
    return context.compiled_parameters[0].get(name) if name else getattr(parameter, "value", None)


def connect_beside(connection: Connection) -> Any:
    """Open a connection of the driver to the same database, outside of the pool."""
    create: Any = connection.engine.pool._creator
    return create()
