"""What to write instead of a statement that repeats, and what to say of one that failed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_perfguard.fingerprint import Fingerprint, Kind

if TYPE_CHECKING:
    from pytest_perfguard.probes.sqlalchemy_internals import Cause

_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"|\b\d+\b")
_EQUALS = re.compile(r"WHERE (?:\S+\.)?\"?(\w+)\"? = \?(?: |$)")


def fix(  # noqa: PLR0911 - one way out for each kind of statement
    found: Fingerprint, cause: Cause | None, entity: str | None
) -> str | None:
    """Return what to write instead, should the statement turn out to be repeated."""
    if cause is not None:
        if cause.how == "refresh":
            return (
                f"the attributes of {cause.subject} had expired (commit) or were deferred: read "
                "what is needed before the commit, or load all rows again with one select()"
            )
        return f"{cause.fix}  # or joinedload" if cause.how == "lazy to-one" else cause.fix
    if found.kind is Kind.READ:
        column = _EQUALS.search(found.text)
        if entity and column:
            return (
                "load them in one query before the loop: "
                f"select({entity}).where({entity}.{column[1]}.in_(keys))"
            )
        if column:
            return f"load them in one query before the loop: ... WHERE {column[1]} IN (...)"
        return "load them in one query before the loop"
    if found.kind is Kind.WRITE:
        if found.label.startswith("INSERT"):
            return (
                "insert them together: session.add_all(objects) and one flush, or "
                "session.execute(insert(Model), list_of_dicts)"
            )
        return (
            "write them together: session.execute(update(Model), list_of_dicts), or one statement "
            "WHERE key IN (...)"
        )
    return None


def describe(error: BaseException, operation: str) -> str:
    """Return the error of a failed statement, by its type and what is no data of its message."""
    return f"{type(error).__name__}: {_without_values(str(error), operation)}"


def _without_values(message: str, operation: str) -> str:
    """Return the first line of a driver's message without what may be data.

    What the statement's own text names, such as a column, is kept.
    """

    def replacement(match: re.Match[str]) -> str:
        inside = match[1] or match[2]
        return match[0] if inside and inside in operation else "?"

    return _QUOTED.sub(replacement, message.strip().partition("\n")[0])[:200]
