"""Everything perfguard uses of SQLAlchemy that is not in its documented interface.

Each use has a fallback or a test that runs on the lowest and the highest supported version, so
that a release that moves one of these names is noticed here and nowhere else.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from types import FrameType
from typing import Any

import sqlalchemy
from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.engine import cursor as _cursor
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.event.api import _event_key
from sqlalchemy.orm import Session
from sqlalchemy.orm import session as _session
from sqlalchemy.util import ScopedRegistry, ThreadLocalRegistry
from sqlalchemy.util import queue as _queue

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


def watch_transactions(
    began: Callable[[Connection], None],
    committing: Callable[[], None],
    ended: Callable[[Connection], None],
) -> Callable[[], None]:
    """Tell of each BEGIN, COMMIT and ROLLBACK that goes to a database; returns the undo.

    The documented events would do, but a listener for them makes SQLAlchemy take the slow path
    for every statement.

    Args:
        began: called after a transaction has begun, by itself or because it was asked for.
        committing: called before a COMMIT.
        ended: called after a COMMIT that succeeded, and after a ROLLBACK.
    """
    undo: list[tuple[str, Any, Any]] = []
    makers: dict[str, Callable[[Any], Any]] = {
        "begin": partial(_around, after=began),
        "commit": partial(_around, before=committing, after=ended),
        "rollback": partial(_finally, after=ended),
    }
    for action, make in makers.items():
        for name in (f"_{action}_impl", f"_{action}_twophase_impl"):
            original = getattr(Connection, name)
            wrapper = make(original)
            undo.append((name, original, wrapper))
            setattr(Connection, name, wrapper)

    def restore() -> None:
        for name, original, wrapper in undo:
            if vars(Connection).get(name) is wrapper:
                setattr(Connection, name, original)

    return restore


def _around(
    original: Any, after: Callable[[Connection], None], before: Callable[[], None] | None = None
) -> Any:
    @wraps(original)
    def both(self: Connection, *args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before()
        result = original(self, *args, **kwargs)
        after(self)
        return result

    return both


def _finally(original: Any, after: Callable[[Connection], None]) -> Any:
    @wraps(original)
    def both(self: Connection, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(self, *args, **kwargs)
        finally:
            after(self)

    return both


def commits_by_itself(connection: Connection) -> bool:
    """Return whether each statement is committed at once, so that BEGIN begins nothing."""
    return connection._is_autocommit_isolation()


def watch_waits(
    waiting: Callable[[], Callable[[float], None] | None], clock: Callable[[], float]
) -> Callable[[], None]:
    """Tell of each wait for a connection of a pool that has none left; returns the undo.

    Args:
        waiting: called before the wait; what it returns is called with the seconds it took.
    """
    undo: list[tuple[type, Any, Any]] = []

    def wrap(original: Any) -> Any:
        @wraps(original)
        def get(self: Any, block: bool = True, timeout: float | None = None) -> Any:  # noqa: FBT001, FBT002
            if not block or not self.empty():
                return original(self, block, timeout)
            waited = waiting()
            if waited is None:
                return original(self, block, timeout)
            started = clock()
            try:
                return original(self, block, timeout)
            finally:
                waited(clock() - started)

        return get

    for queue in (_queue.Queue, _queue.AsyncAdaptedQueue):
        original = vars(queue)["get"]
        wrapper = wrap(original)
        undo.append((queue, original, wrapper))
        setattr(queue, "get", wrapper)  # noqa: B010 - mypy lets no method be assigned

    def restore() -> None:
        for queue, original, wrapper in undo:
            if vars(queue).get("get") is wrapper:
                setattr(queue, "get", original)  # noqa: B010

    return restore


def pool_of(proxy: Any) -> Any:
    """Return the pool that a connection was checked out of."""
    return proxy._pool


def capacity(pool: Any) -> int | str:
    """Return how many connections a pool may hand out at once, or why there is no such number."""
    overflow = getattr(pool, "_max_overflow", None)
    if overflow is None or not hasattr(pool, "size"):
        return f"{type(pool).__name__} has no limit that pool_peak could be a share of"
    if overflow < 0:
        return "a pool with max_overflow=-1 has no limit that pool_peak could be a share of"
    size: int = pool.size()
    return size + int(overflow)


def label(pool: Any) -> str:
    """Return what the engine of a pool is called: its dialect and driver, nothing of its URL."""
    dialect = pool._dialect
    return f"{dialect.name}+{dialect.driver}"


def next_session() -> int:
    """Return a number that every Session made later exceeds in its ``hash_key``."""
    number: int = _session._new_sessionid()
    return number


def scoped_sessions() -> set[int]:
    """Return the ``hash_key`` of each session of a registry, which hands it out again and again.

    Of registries by thread only what this thread has is known. All objects of the process are
    looked at, so this is asked in doubt only.
    """
    # An AsyncSession is a shell around a Session.
    sessions = [
        getattr(each, "sync_session", each)
        for found in gc.get_objects()
        if issubclass(type(found), ScopedRegistry)
        for each in _registered(found)
    ]
    return {each.hash_key for each in sessions if isinstance(each, Session)}


def _registered(registry: Any) -> list[Any]:
    if isinstance(registry, ThreadLocalRegistry):
        return [registry.registry.value] if registry.has() else []
    return list(registry.registry.values())


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
