"""What a SQL statement is, apart from its values; pure text, no database library.

Two executions are *the same statement* when their normalised texts are equal: literals and
parameters become ``?``, lists of them ``(...)``, comments and layout go. The same pass over the
text also finds the class of the statement, the tables it names, whether it serves many keys at
once, and which parameters only say *which page* of a result is wanted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

# Beyond this a statement is cut before it is read: no identifier that matters comes so late, and
# reading megabytes of literals would cost more than the statement itself.
MAX_LENGTH = 20_000

_TOKEN = re.compile(
    r"""
    (?P<space>   (?:\s|--[^\n]*(?:\n|\Z)|/\*.*?(?:\*/|\Z))+ )
  | (?P<string>  (?:[eE]'(?:[^'\\]|\\.|'')*(?:'|\Z))
               | (?:[bBxXnN]|[uU]&)?'(?:[^']|'')*(?:'|\Z)
               | \$(?P<tag>[A-Za-z_]*)\$.*?(?:\$(?P=tag)\$|\Z) )
  | (?P<name>    "(?:[^"]|"")*(?:"|\Z) | `(?:[^`]|``)*(?:`|\Z) )
  | (?P<param>   (?: %\((?P<py>\w+)\)s | %s | \?\d* | (?<!:):(?P<named>[A-Za-z_]\w*)
                   | \$(?P<pos>\d+) )
                 (?:::[A-Za-z_]\w*
                   (?:[ ](?:PRECISION|VARYING|WITH(?:OUT)?[ ]TIME[ ]ZONE))?(?:\[\])*)? )
  | (?P<word>    [^\W\d][\w$]* )
  | (?P<number>  0[xX][0-9a-fA-F]+ | (?:\d[\d_]*)?\.?\d+(?:[eE][+-]?\d+)?\b\.? )
  | (?P<compare> <> | != | <= | >= | < | > )
  | (?P<other>   . )
    """,
    re.VERBOSE | re.DOTALL,
)
_BACKSLASH_STRING = re.compile(
    r"""'(?:[^'\\]|\\.|'')*(?:'|\Z)|"(?:[^"\\]|\\.|"")*(?:"|\Z)""", re.DOTALL
)

_LIST = r"\((?:\?|\(\?(?:, ?\?)*\))(?:, ?(?:\?|\(\?(?:, ?\?)*\)))*\)"
_IN_LIST = re.compile(rf"\bIN {_LIST}", re.IGNORECASE)
_VALUES = re.compile(r"\bVALUES \(.*\)(?:, ?\(.*\))+", re.IGNORECASE)
_ARRAY = re.compile(r"= (?:ANY|ALL) ?\(\?", re.IGNORECASE)
_TABLE = re.compile(
    r"\b(?:FROM|JOIN|INTO|UPDATE)\s+(?:ONLY\s+)?((?:[\w$]+|\"[^\"]+\"|`[^`]+`)(?:\.(?:[\w$]+|\"[^\"]+\"|`[^`]+`))*)",
    re.IGNORECASE,
)
_CATALOGUE = re.compile(
    r"\b(?:pg_catalog|information_schema|sqlite_(?:master|schema|temp_master))\b", re.IGNORECASE
)


class Kind(StrEnum):
    """The class of a statement, by its leading words and the tables it names."""

    READ = "read"
    WRITE = "write"
    SCHEMA = "schema"
    CATALOGUE = "catalogue"
    TRANSACTION = "transaction"
    OTHER = "other"


_KINDS = {
    **dict.fromkeys(("SELECT", "VALUES", "TABLE"), Kind.READ),
    **dict.fromkeys(("INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE", "COPY"), Kind.WRITE),
    **dict.fromkeys(
        ("CREATE", "ALTER", "DROP", "TRUNCATE", "COMMENT", "GRANT", "REVOKE", "REINDEX"),
        Kind.SCHEMA,
    ),
    **dict.fromkeys(("PRAGMA", "SHOW", "DESCRIBE", "DESC", "EXPLAIN"), Kind.CATALOGUE),
    **dict.fromkeys(
        ("BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE"),
        Kind.TRANSACTION,
    ),
}


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A statement without its values.

    Attributes:
        text: normalised statement.
        kind: its class.
        label: leading verb and first table, e.g. ``SELECT users``.
        tables: names of the tables after FROM, JOIN, INTO and UPDATE, lower case, no schema.
        batched: it serves several keys at once (an IN list of two or more, ``= ANY(array)``).
        paging: parameters that choose the page of a result: those of LIMIT and OFFSET, and the
            bounds of a keyset page. Positions count from 0; named parameters by their name.
        literal: it holds literals, so that its text says which values it asks for.
    """

    text: str
    kind: Kind
    label: str
    tables: frozenset[str]
    batched: bool
    paging: frozenset[int | str]
    literal: bool


def fingerprint(sql: str, *, backslash_escapes: bool = False) -> Fingerprint:
    r"""Read one statement.

    Args:
        sql: the text as the driver gets it.
        backslash_escapes: the dialect takes ``\'`` and ``"..."`` as parts of string literals
            (MySQL and MariaDB do by default).
    """
    cut = len(sql) > MAX_LENGTH
    source = sql[:MAX_LENGTH] if cut else sql
    if backslash_escapes:
        source = _BACKSLASH_STRING.sub("'?'", source)
    reader = _Reader(source)
    text = "".join(reader.parts).strip().rstrip(";").rstrip()
    batched = reader.has_list or bool(_ARRAY.search(text))
    text = _IN_LIST.sub("IN (...)", text)
    text = _VALUES.sub("VALUES (...)", text)
    tables = tuple(_bare(match[1]) for match in _TABLE.finditer(text))
    kind = _kind(reader.words, text)
    verb = reader.words[0] if reader.words else "?"
    if verb == "WITH":
        verb = _main_verb(reader.words)
    return Fingerprint(
        text=text + (" …" if cut else ""),
        kind=kind,
        label=f"{verb} {tables[0]}" if tables else verb,
        tables=frozenset(name.lower() for name in tables),
        batched=batched,
        paging=frozenset(reader.paging) if kind is Kind.READ else frozenset(),
        literal=reader.literal,
    )


def varying_values(
    parameters: Sequence[object] | Mapping[str, object], paging: frozenset[int | str]
) -> tuple[object, ...]:
    """Return the parameter values without those that only choose the page.

    A keyset page repeats its bound (``a < x OR (a = x AND id < y)``): values that equal a
    paging value are left out too.
    """
    items: list[tuple[int | str, object]]
    if isinstance(parameters, Mapping):
        items = list(parameters.items())
    else:
        items = list(enumerate(parameters))
    bounds = [value for key, value in items if key in paging]
    return tuple(value for key, value in items if key not in paging and value not in bounds)


def shorten(text: str, width: int) -> str:
    """Return a statement that fits into ``width`` characters, keeping its FROM and WHERE."""
    if len(text) <= width:
        return text
    match = re.match(
        r"(SELECT (?:DISTINCT )?[^,]+?),.*?( FROM .*)", text, re.IGNORECASE | re.DOTALL
    )
    if match and len(match[1]) + len(match[2]) + 3 <= width:
        return f"{match[1]}, …{match[2]}"
    if match:
        text = f"SELECT …{match[2]}"
    return text if len(text) <= width else f"{text[: width - 1]}…"


class _Reader:
    """One pass over the tokens of a statement."""

    def __init__(self, source: str) -> None:
        self.parts: list[str] = []
        self.words: list[str] = []
        self.paging: set[int | str] = set()
        self.literal = False
        self.has_list = False
        self._parameters = 0
        self._bounds: list[int | str] = []
        self._read(source)
        # A range predicate is a keyset bound only where rows are also ordered and limited.
        if {"LIMIT", "FETCH"} & set(self.words) and "ORDER" in self.words:
            self.paging.update(self._bounds)

    def _read(self, source: str) -> None:  # noqa: C901, PLR0912 - one case for each kind of token
        last_word = ""
        after_compare = False
        bound_depth: int | None = None
        depth = 0
        in_list: list[int] = []
        for kind, match in _tokens(source):
            text = match.group()
            match kind:
                case "space":
                    if self.parts and self.parts[-1] not in (" ", "("):
                        self.parts.append(" ")
                    continue
                case "param":
                    key = self._parameter_key(match)
                    if last_word in ("LIMIT", "OFFSET", "FIRST", "NEXT", "TOP"):
                        self.paging.add(key)
                    elif after_compare or bound_depth is not None:
                        self._bounds.append(key)
                    self.parts.append("?")
                case "string" | "number":
                    # The value of a paging literal says nothing about what is asked for.
                    self.literal |= last_word not in ("LIMIT", "OFFSET", "FIRST", "NEXT", "TOP")
                    self.parts.append("?")
                case "word":
                    last_word = text.upper()
                    self.words.append(last_word)
                    self.parts.append(text)
                case "other" if text == "(":
                    depth += 1
                    if after_compare and bound_depth is None:
                        bound_depth = depth
                    if "".join(self.parts[-2:]).strip().upper() == "IN":
                        in_list.append(depth)
                    self.parts.append(text)
                case "other" if text == ")":
                    if bound_depth == depth:
                        bound_depth = None
                    if in_list and in_list[-1] == depth:
                        in_list.pop()
                    depth -= 1
                    if self.parts[-1:] == [" "]:
                        self.parts.pop()
                    self.parts.append(text)
                case "other" if text == ",":
                    # A comma directly in the parentheses after IN parts two keys.
                    self.has_list |= bool(in_list) and in_list[-1] == depth and last_word == "IN"
                    self.parts.append(text)
                case _:
                    self.parts.append(text)
            after_compare = kind == "compare" and text not in ("<>", "!=")

    def _parameter_key(self, match: re.Match[str]) -> int | str:
        if name := match["py"] or match["named"]:
            return name
        if match["pos"]:
            return int(match["pos"]) - 1
        self._parameters += 1
        return self._parameters - 1


def _tokens(source: str) -> Iterator[tuple[str, re.Match[str]]]:
    for match in _TOKEN.finditer(source):
        kind = match.lastgroup or "other"
        yield (
            ({"tag": "string", "py": "param", "named": "param", "pos": "param"}.get(kind, kind)),
            match,
        )


def _bare(name: str) -> str:
    return name.rpartition(".")[2].strip('"`')


def _main_verb(words: Sequence[str]) -> str:
    verbs = [word for word in words if word in ("INSERT", "UPDATE", "DELETE", "MERGE")]
    return verbs[0] if verbs else "SELECT"


def _kind(words: Sequence[str], text: str) -> Kind:
    if not words:
        return Kind.OTHER
    verb = _main_verb(words) if words[0] == "WITH" else words[0]
    kind = _KINDS.get(verb, Kind.OTHER)
    if verb == "PREPARE" and words[1:2] == ["TRANSACTION"]:
        return Kind.TRANSACTION
    if kind is Kind.READ and _CATALOGUE.search(text):
        return Kind.CATALOGUE
    return kind
