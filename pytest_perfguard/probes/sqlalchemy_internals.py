"""Everything perfguard uses of SQLAlchemy that is not in its documented interface.

Each use has a fallback or a test that runs on the lowest and the highest supported version, so
that a release that moves one of these names is noticed here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import sqlalchemy
from sqlalchemy.engine import Connection
from sqlalchemy.engine import cursor as _cursor
from sqlalchemy.engine.default import DefaultExecutionContext

LIBRARY = str(Path(sqlalchemy.__file__).parent)
_STRATEGIES = str(Path(LIBRARY, "orm", "strategies.py"))
_CREATE = str(Path(LIBRARY, "engine", "create.py"))
_SESSION = str(Path(LIBRARY, "orm", "session.py"))
_SELECTIN_FUNCTIONS = ("_load_via_parent", "_load_via_child")

# Where the probe leaves the tally of a statement on its execution context. As an attribute of
# the class it reads as None on every context that was made while nobody listened.
TALLY = "_perfguard_tally"

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
        fix: loader options that would have loaded it in time; empty for ``refresh``.
    """

    subject: str
    how: str
    fix: str


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
    return Cause(refreshed.mapper.class_.__name__, "refresh", "")


def _lazy(path: Any) -> Cause:
    # The path holds mappers and attributes in turn; it begins with what the query selected.
    steps = [step for step in path if hasattr(step, "uselist")]
    loaders = ".".join(f"selectinload({_attribute(step)})" for step in steps)
    return Cause(
        subject=_attribute(steps[-1]),
        how="lazy" if steps[-1].uselist else "lazy to-one",
        fix=f"select({steps[0].parent.class_.__name__}).options({loaders})",
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


def is_implicit_returning(context: Any) -> bool:
    """Return whether the rows of the statement are keys that SQLAlchemy asked for itself."""
    return bool(getattr(context, "_is_implicit_returning", False))


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
    original = Connection._commit_impl

    def commit_impl(self: Connection) -> None:
        commit()
        original(self)

    Connection._commit_impl = commit_impl  # type: ignore[method-assign] # the seam

    def restore() -> None:
        Connection._commit_impl = original  # type: ignore[method-assign] # as it was

    return restore


def watch_rows(count: Callable[[Any, int], None]) -> Callable[[], None]:
    """Call ``count(execution_context, rows)`` for the rows of every fetch; returns the undo.

    Cursors of SQLite do not know how many rows they hold, so rows are counted as they are
    fetched.
    """
    undo: list[tuple[type, str, Any]] = []
    for strategy in _FETCHING:
        for name in ("fetchone", "fetchmany", "fetchall"):
            original = vars(strategy).get(name)
            if original is not None:
                undo.append((strategy, name, original))
                wrapper = _one if name == "fetchone" else _many
                setattr(strategy, name, wrapper(original, count))
    setattr(DefaultExecutionContext, TALLY, None)

    def restore() -> None:
        for strategy, name, original in undo:
            setattr(strategy, name, original)
        delattr(DefaultExecutionContext, TALLY)

    return restore


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
