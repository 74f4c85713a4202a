"""What to write instead of a statement that repeats, and what to say of one that failed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_perfguard.fingerprint import Fingerprint, Kind

if TYPE_CHECKING:
    from pytest_perfguard.probes.sqlalchemy_internals import Cause

# How older versions of SQLAlchemy let the errors of asyncpg begin.
_CLASS = re.compile(r"^<class '[\w.]+'>: ")
_QUOTE = re.compile(r"['\"]")
_QUOTED = re.compile(r"(['\"])(\w+)\1")
_DATABASE_SAYS = re.compile(
    r"no such (?:column|table|index|function)|constraint|syntax error|does not exist|not authorized"
    r"|is locked|deadlock|timeout|canceling statement|could not (?:serialize|obtain)"
    r"|JSON .*error|malformed JSON"
    r"|must not be negative|FROM-clause|transaction (?:is|block)|division by zero"
    r"|out of (?:range|memory)|invalid input|incomplete input|too many|ambiguous|must appear in"
    r"|already exists|mismatch"
    r"|permission denied|read-?only|connection|argument \$\d+|unrecognized token|wrong number",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\b\d+\b")
_MAX_LENGTH = 200
# A column that is compared with one value, and what tells the key among several of them.
_EQUALS = re.compile(r"\b(?:WHERE|AND) (?:\S+\.)?\"?(\w+)\"? = \?", re.IGNORECASE)
_KEY = re.compile(r"(?:.*_)?id", re.IGNORECASE)


def fix(  # noqa: PLR0911 - one way out for each kind of statement
    found: Fingerprint, cause: Cause | None, entity: str | None
) -> str | None:
    """Return what to write instead, should the statement turn out to be repeated."""
    if cause is not None:
        if cause.how == "refresh":
            return (
                f"{cause.subject} was expired by a commit, deferred or refreshed: read what is "
                "needed before the commit, or load all rows again with one select()"
            )
        options = f"select({cause.root}).options({cause.loaders})"
        return f"{options}  # or joinedload" if cause.how == "lazy to-one" else options
    if found.kind is Kind.READ:
        advice = "load them in one query before the loop"
        column = _key_column(found.text)
        if column is None:
            return advice
        if entity is None:
            return f"{advice}: ... WHERE {column} IN (...)"
        return f"{advice}: select({entity}).where({entity}.{column}.in_(keys))"
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


def _key_column(text: str) -> str | None:
    """Return the column that varies from one execution to the next, if there is no doubt."""
    columns: list[str] = _EQUALS.findall(text)
    keys = columns if text.count("?") == 1 else [name for name in columns if _KEY.fullmatch(name)]
    return keys[0] if len(keys) == 1 else None


def describe(error: BaseException, operation: str) -> str:
    """Return the error of a failed statement: its type, and what is no data of its message.

    Only messages that databases are known to write are kept: a message of the user's own, as of
    RAISE in a function, may hold anything.
    """
    name = type(error).__name__
    try:
        message = _CLASS.sub("", str(error).strip().partition("\n")[0])
    except Exception:  # noqa: BLE001 - a __str__ of the user's
        return name
    if not _DATABASE_SAYS.search(message):
        return name
    return f"{name}: {_without_values(message, operation)}"[:_MAX_LENGTH]


def _without_values(message: str, operation: str) -> str:
    """Return a driver's message up to the first quote that may hold data, without numbers.

    What the statement's own text names, such as a column, is kept.
    """
    kept = ""
    rest = message
    while match := _QUOTE.search(rest):
        quoted = _QUOTED.match(rest, match.start())
        if quoted is None or quoted[2] not in operation:
            kept += f"{rest[: match.start()]}?"
            rest = ""
        else:
            kept += rest[: quoted.end()]
            rest = rest[quoted.end() :]
    return _NUMBER.sub("?", kept + rest)
