"""What a SQL statement is, apart from its values; pure text, no database library.

Two executions are *the same statement* when their normalised texts are equal: literals and
parameters become ``?``, lists of them ``(...)``, comments and layout go. The same reading of the
text also finds the class of the statement, the tables it names, whether it serves many keys at
once, and which parameters only say *which page* of a result is wanted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

# Beyond this a statement is cut before it is read: no identifier that matters comes so late, and
# reading megabytes of literals would cost more than the statement itself.
MAX_LENGTH = 20_000


class Kind(StrEnum):
    """The class of a statement, by its leading words and the tables it names."""

    READ = "read"
    WRITE = "write"
    SCHEMA = "schema"
    CATALOGUE = "catalogue"
    TRANSACTION = "transaction"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A statement without its values.

    Attributes:
        text: normalised statement.
        kind: its class.
        label: leading verb and first table, e.g. ``SELECT users``.
        tables: names of the tables it reads or writes, lower case, without their schema.
        batched: it serves several keys at once (an IN list of two or more, ``= ANY(array)``).
        paging: parameters that choose the page of a result: those of LIMIT and OFFSET, and the
            bounds of a keyset page. Positions count from 0; named parameters by their name.
        offset: parameter that says how many rows are skipped, if it is one.
        literal: it holds literals, so that what it asks for is said by the statement as it was
            sent, and not by ``text``.
        locks: it locks something until the transaction ends though its class does not say so:
            ``FOR UPDATE``, ``LOCK``, ``SELECT INTO``, a write behind a semicolon or in an
            ``EXPLAIN ANALYZE``, an advisory lock. What other functions do is not known.
    """

    text: str
    kind: Kind
    label: str
    tables: frozenset[str]
    batched: bool
    paging: frozenset[int | str]
    offset: int | str | None
    literal: bool
    locks: bool = False


def fingerprint(sql: str, *, backslash_escapes: bool = False) -> Fingerprint:
    r"""Read one statement.

    Args:
        sql: the text as the driver gets it.
        backslash_escapes: the dialect takes ``\'`` and ``"..."`` as parts of string literals and
            ``#`` as a comment (MySQL and MariaDB do by default).
    """
    source = sql[:MAX_LENGTH]
    if not _DECEPTIVE.search(source):
        source = _PLAIN_LITERAL.sub(_same_kind_of_literal, source)
    return _read(source, backslash_escapes, len(sql) > MAX_LENGTH)


# Statements that differ in plain literals alone are read once: where neither a comment nor a
# quoted name can hold an apostrophe, one substitution makes them equal.
_DECEPTIVE = re.compile(r"--|/\*|[#$\\\"`]")
_PLAIN_LITERAL = re.compile(r"'(?:[^']|'')*(?:'|\Z)|(?<![\w:?.%])\d+(?![\w.])")


def _same_kind_of_literal(match: re.Match[str]) -> str:
    return "''" if match[0][0] == "'" else "0"


@lru_cache(maxsize=4_096)
def _read(source: str, backslash_escapes: bool, cut: bool) -> Fingerprint:  # noqa: FBT001 - a cache's key
    tokens = _without_quoted_values(_tokens(source, _MYSQL if backslash_escapes else _STANDARD))
    solid = [token for token in tokens if token.kind != "space"]
    tables = _tables(solid)
    verb = _verb(solid)
    kind = _kind(verb, solid)
    is_bookkeeping = bool(tables) and all(name.lower() in _BOOKKEEPING for _, name in tables)
    if is_bookkeeping:
        kind = Kind.CATALOGUE
    text, batched = _normalise(tokens)
    batched |= _is_range(solid)
    first = min(tables, key=lambda table: table[0] > 0, default=None)
    return Fingerprint(
        text=f"{text} …" if cut else text,
        kind=kind,
        label=f"{verb} {first[1]}" if first else verb or "?",
        tables=frozenset(name.lower() for _, name in tables),
        batched=batched,
        paging=_paging(solid) if kind is Kind.READ else frozenset(),
        offset=_offset(solid) if kind is Kind.READ else None,
        literal=any(token.kind == "value" for token in solid),
        locks=not is_bookkeeping and _locks(solid),
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


def varying_text(sql: str) -> str:
    """Return a statement with literals, but without those that only choose the page."""
    return _PAGE_LITERAL.sub(r"\1", sql)


_PAGE_LITERAL = re.compile(
    r"\b(LIMIT|OFFSET|FETCH\s+FIRST|FETCH\s+NEXT|TOP)\s*\(?\s*\d+(?:\s*,\s*\d+)?", re.IGNORECASE
)


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


# -- tokens --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Token:
    """A piece of a statement.

    ``kind`` is ``space``, ``value`` (a literal), ``param``, ``name`` (quoted), ``word`` or
    ``sign``; ``key`` is a parameter's name or position.
    """

    kind: str
    text: str
    key: int | str | None = None

    @property
    def upper(self) -> str:
        return self.text.upper() if self.kind == "word" else self.text


_COMMON = r"""
  | (?P<value>   0[xX][0-9a-fA-F_]+ | 0[bB][01_]+ | 0[oO][0-7_]+
               | (?:\d[\d_]*(?:\.[\d_]*)?|\.\d[\d_]*)(?:[eE][+-]?\d+)? )
  | (?P<param>   (?: %\((?P<pyformat>\w+)\)s | %s | \?\d* | (?<!:):(?P<named>[^\W\d]\w*)
                   | \$(?P<position>\d+) )
                 (?:::[^\W\d]\w*
                   (?:[ ](?:PRECISION|VARYING|WITH(?:OUT)?[ ]TIME[ ]ZONE))?
                   (?:\(\d+(?:,[ ]?\d+)?\))?(?:\[\])*)? )
  | (?P<word>    [^\W\d][\w$]* )
  | (?P<sign>    ->>? | \#>>? | @> | <@ | <[-\#=]> | << | >> | <> | != | <= | >= | :: | . )
"""
_STANDARD = re.compile(
    r"""
    (?P<space>   (?: \s | --[^\n]*(?:\n|\Z) | /\*.*?(?:\*/|\Z) )+ )
  | (?P<string>  [eE]'(?:[^'\\]|\\.|'')*(?:'|\\?\Z)
               | (?:[bBxXnN]|[uU]&)?'(?:[^']|'')*(?:'|\Z)
               | \$(?P<tag>(?:[^\W\d]\w*)?)\$.*?(?:\$(?P=tag)\$|\Z) )
  | (?P<name>    "(?:[^"]|"")*(?:"|\Z) | `(?:[^`]|``)*(?:`|\Z) )
"""
    + _COMMON,
    re.VERBOSE | re.DOTALL,
)
_MYSQL = re.compile(
    r"""
    (?P<space>   (?: \s | (?:--|\#)[^\n]*(?:\n|\Z) | /\*.*?(?:\*/|\Z) )+ )
  | (?P<string>  [bBxXnN]?'(?:[^'\\]|\\.|'')*(?:'|\\?\Z) | "(?:[^"\\]|\\.|"")*(?:"|\\?\Z) )
  | (?P<name>    `(?:[^`]|``)*(?:`|\Z) )
"""
    + _COMMON,
    re.VERBOSE | re.DOTALL,
)


def _tokens(source: str, grammar: re.Pattern[str]) -> Iterator[_Token]:
    positions = 0
    for match in grammar.finditer(source):
        groups = match.groupdict()
        if groups["space"] is not None:
            yield _Token("space", " ")
        elif groups["string"] is not None or groups["value"] is not None:
            yield _Token("value", "?")
        elif groups["param"] is not None:
            key: int | str | None = groups["pyformat"] or groups["named"]
            if groups["position"]:
                key = int(groups["position"]) - 1
            elif key is None:
                key = positions
                positions += 1
            yield _Token("param", "?", key)
        else:
            kind = next(kind for kind in ("name", "word", "sign") if groups[kind] is not None)
            yield _Token(kind, match.group())


def _without_quoted_values(tokens: Iterator[_Token]) -> list[_Token]:
    """Return the tokens, with what SQLite takes for a string though it is quoted as a name.

    It does so where no column has the name. Compared with something, or in a list, a name
    without a table is rare, and a value would be private.
    """
    read = list(tokens)
    solid = [number for number, token in enumerate(read) if token.kind != "space"]
    for place, number in enumerate(solid):
        before = read[solid[place - 1]].upper if place else ""
        after = read[solid[place + 1]].text if place + 1 < len(solid) else ""
        if (
            read[number].kind == "name"
            and read[number].text[0] == '"'
            and after != "."
            and (before in _COMPARING or (before == "(" and _opens_list(read, solid, place)))
        ):
            read[number] = _Token("value", "?")
    return read


_COMPARING = ("=", "==", "<>", "!=", "<", ">", "<=", ">=", "LIKE", "GLOB", "IS", "NOT", "BETWEEN")


def _opens_list(read: Sequence[_Token], solid: Sequence[int], place: int) -> bool:
    return place > 1 and read[solid[place - 2]].upper in ("IN", "VALUES")


# -- the class, and the tables -------------------------------------------------------------

_WRITES = ("INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE", "COPY")
_KINDS = {
    **dict.fromkeys(("SELECT", "VALUES", "TABLE"), Kind.READ),
    **dict.fromkeys(_WRITES, Kind.WRITE),
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
_CATALOGUES = {
    "pg_catalog", "information_schema", "sqlite_master", "sqlite_schema", "sqlite_temp_master",
}  # fmt: skip
# What a migration tool notes for itself, one row at a time.
_BOOKKEEPING = ("alembic_version",)
_BEFORE_TABLES = ("FROM", "JOIN", "INTO", "UPDATE")
# An UPDATE or FROM behind one of these begins no clause: FOR UPDATE, DO UPDATE, ON DUPLICATE KEY
# UPDATE, IS DISTINCT FROM.
_NO_CLAUSE_AFTER = ("FOR", "DO", "KEY", "DISTINCT")
_BETWEEN = ("ONLY", "LATERAL", "IGNORE", "TABLE")
_QUERY_WORDS = ("SELECT", "WITH", "VALUES", *_WRITES)
_ENDS_TABLES = (
    "WHERE",
    "ON",
    "USING",
    "SET",
    "GROUP",
    "ORDER",
    "LIMIT",
    "HAVING",
    "UNION",
    "VALUES",
)


def _verb(solid: Sequence[_Token]) -> str:
    """Return the leading verb; of a WITH the first write in it, or SELECT."""
    words = [token.upper for token in solid if token.kind == "word"]
    if not words or words[0] != "WITH":
        return words[0] if words else ""
    for number, word in enumerate(words):
        if word in _WRITES and words[number - 1] not in _NO_CLAUSE_AFTER:
            return word
    return "SELECT"


def _kind(verb: str, solid: Sequence[_Token]) -> Kind:
    if verb == "PREPARE" and any(token.upper == "TRANSACTION" for token in solid[1:2]):
        return Kind.TRANSACTION
    kind = _KINDS.get(verb, Kind.OTHER)
    if kind is Kind.READ and any(token.text.strip('"`').lower() in _CATALOGUES for token in solid):
        return Kind.CATALOGUE
    return kind


_ENDS_TRANSACTION = ("COMMIT", "ROLLBACK", "ABORT", "END")
_LOCK_CLAUSES = (
    ("FOR", "UPDATE"), ("FOR", "SHARE"), ("FOR", "NO", "KEY", "UPDATE"), ("FOR", "KEY", "SHARE"),
    ("LOCK", "IN", "SHARE", "MODE"),
)  # fmt: skip
_ADVISORY = re.compile(r"PG_(?:TRY_)?ADVISORY_(?:XACT_)?LOCK(?:_SHARED)?")


def _locks(solid: Sequence[_Token]) -> bool:
    """Return whether the text of one or several statements leaves something locked."""
    locked = False
    start = 0
    for end in (*(n for n, token in enumerate(solid) if token.text == ";"), len(solid)):
        part, start = solid[start:end], end + 1
        verb = _verb(part)
        kind = _kind(verb, part)
        if kind is Kind.SCHEMA:
            # A trigger holds statements that are not executed now.
            return True
        if verb in _ENDS_TRANSACTION and not any(token.upper == "TO" for token in part):
            locked = False
        else:
            locked |= kind is Kind.WRITE or _locks_alone(verb, part)
    return locked


def _locks_alone(verb: str, part: Sequence[_Token]) -> bool:
    words = [token.upper for token in part]
    if verb == "EXPLAIN":
        start = next((n for n, word in enumerate(words) if word in _QUERY_WORDS), len(words))
        return bool({"ANALYZE", "ANALYSE"} & set(words[:start])) and _locks(part[start:])
    if verb == "LOCK":
        return True
    return verb == "SELECT" and any(
        (word == "INTO" and _at(part, number + 1) != "@")
        or any(tuple(words[number : number + len(each)]) == each for each in _LOCK_CLAUSES)
        or (_ADVISORY.fullmatch(word) and _at(part, number + 1) == "(")
        for number, word in enumerate(words)
    )


def _tables(solid: Sequence[_Token]) -> list[tuple[int, str]]:
    """Return the tables in the order they are named, each with the depth of its parentheses."""
    found: list[tuple[int, str]] = []
    # For each open parenthesis, whether what is inside it is a query: FROM is a clause only in
    # one, and something else in EXTRACT(year FROM born).
    queries = [True]
    wanted = listed = False
    for number, token in enumerate(solid):
        word = token.upper
        before = solid[number - 1].upper if number else ""
        if word == "(":
            inside = solid[number + 1].upper if number + 1 < len(solid) else ""
            queries.append(inside in _QUERY_WORDS)
            wanted &= inside not in _QUERY_WORDS
        elif word == ")":
            wanted = False
            if len(queries) > 1:
                queries.pop()
        elif wanted and token.kind in ("word", "name") and word not in (*_BETWEEN, *_QUERY_WORDS):
            if _at(solid, number + 1) != ".":
                found.append((len(queries) - 1, _unquoted(token.text)))
                wanted = False
        elif token.kind == "word" and word in _BEFORE_TABLES:
            is_clause = word == "JOIN" or (queries[-1] and before not in _NO_CLAUSE_AFTER)
            wanted = is_clause
            listed = word == "FROM" and is_clause
        elif word == "," and listed and queries[-1]:
            wanted = True
        elif word in _ENDS_TABLES:
            wanted = listed = False
    return found


def _at(solid: Sequence[_Token], number: int) -> str:
    return solid[number].text if number < len(solid) else ""


def _unquoted(name: str) -> str:
    return name.strip('"`')


# -- pages ---------------------------------------------------------------------------------

_PAGING_WORDS = ("LIMIT", "OFFSET", "FIRST", "NEXT", "TOP")
_BOUNDING = ("<", ">", "<=", ">=")


def _follows_paging_word(solid: Sequence[_Token], number: int) -> bool:
    """Return whether a value says how long a page is or where it begins, as in ``LIMIT 10``."""
    before = [token.upper for token in solid[max(number - 3, 0) : number]]
    if before[-1:] == ["("]:
        before.pop()
    elif before[-2:] == ["?", ","]:  # LIMIT 20, 10
        del before[-2:]
    return before[-1:] != [] and before[-1] in _PAGING_WORDS


def _paging(solid: Sequence[_Token]) -> frozenset[int | str]:
    pages: set[int | str] = set()
    bounds: set[int | str] = set()
    depth = 0
    row_value: int | None = None
    for number, token in enumerate(solid):
        follows_bound = number > 0 and solid[number - 1].text in _BOUNDING
        if token.text == "(":
            depth += 1
            if follows_bound and row_value is None:
                row_value = depth
        elif token.text == ")":
            if row_value == depth:
                row_value = None
            depth -= 1
        elif token.key is not None:
            if _follows_paging_word(solid, number):
                pages.add(token.key)
            elif follows_bound or row_value is not None:
                bounds.add(token.key)
    words = {token.upper for token in solid if token.kind == "word"}
    # A range is a keyset page's bound only where rows are also ordered and limited.
    is_keyset = "ORDER" in words and bool({"LIMIT", "FETCH", "TOP"} & words)
    return frozenset(pages | bounds if is_keyset else pages)


def _offset(solid: Sequence[_Token]) -> int | str | None:
    """Return the last parameter that says how many rows are skipped."""
    found: int | str | None = None
    for number, token in enumerate(solid):
        before = solid[number - 1].upper if number else ""
        if token.key is not None and (
            before == "OFFSET" or (before == "LIMIT" and _at(solid, number + 1) == ",")
        ):
            found = token.key
    return found


def _is_range(solid: Sequence[_Token]) -> bool:
    """Return whether rows are chosen by a range with two ends and no key: a batch of many."""
    compared = {
        solid[number - 1].upper
        for number, token in enumerate(solid)
        if number and token.key is not None
    }
    two_ends = bool({"<", "<="} & compared) and bool({">", ">="} & compared)
    return "=" not in compared and ("BETWEEN" in compared or two_ends)


# -- the text ------------------------------------------------------------------------------


def _normalise(tokens: Sequence[_Token]) -> tuple[str, bool]:
    """Return the text, and whether it holds a list of several keys."""
    parts: list[str] = []
    batched = False
    number = 0
    while number < len(tokens):
        token = tokens[number]
        word = token.upper
        parts.append(token.text)
        number += 1
        opening = number + (_kind_at(tokens, number) == "space")
        if token.kind == "word" and word in ("IN", "ANY", "ALL", "SOME"):
            end, items = _values(tokens, opening)
            if items:
                batched |= items > 1 or word != "IN"
                if items > 1 or word == "IN":
                    parts.append(" (...)")
                    number = end
        elif token.kind == "word" and word == "VALUES":
            end, rows = _rows(tokens, opening)
            if rows > 1:
                batched = True
                parts.append(" (...)")
                number = end
    text = "".join(parts).replace("( ", "(").replace(" )", ")")
    # What a terminal would take for a command is not part of any name worth reading.
    text = _CONTROL.sub("?", re.sub(" +", " ", text))
    return text.strip(" ;"), batched


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def _kind_at(tokens: Sequence[_Token], number: int) -> str:
    return tokens[number].kind if number < len(tokens) else ""


def _values(tokens: Sequence[_Token], opening: int) -> tuple[int, int]:
    """Read a parenthesis that holds nothing but values, or rows of them.

    Returns:
        Where it ends, and how many values or rows it holds; 0 if there is anything else in it.
    """
    if opening >= len(tokens) or tokens[opening].text != "(":
        return opening, 0
    depth, items = 0, 1
    for number in range(opening, len(tokens)):
        text = tokens[number].text
        if text in ("(", "["):
            depth += 1
        elif text in (")", "]"):
            depth -= 1
            if depth == 0:
                return number + 1, items if number > opening + 1 else 0
        elif text == ",":
            items += depth == _list_depth(tokens, opening)
        elif tokens[number].kind not in ("space", "value", "param") and text.upper() != "ARRAY":
            return opening, 0
    # The statement was cut within the list.
    return len(tokens), items


def _list_depth(tokens: Sequence[_Token], opening: int) -> int:
    """Return how deep the commas are that part the values: one more in ``(ARRAY[?, ?])``."""
    return 1 + any(token.upper == "ARRAY" for token in tokens[opening : opening + 3])


def _rows(tokens: Sequence[_Token], opening: int) -> tuple[int, int]:
    """Read the rows of a VALUES; returns where the last one ends, and how many there are."""
    rows, end, number = 0, opening, opening
    while number < len(tokens) and tokens[number].text == "(":
        depth = 0
        while number < len(tokens):
            depth += (tokens[number].text == "(") - (tokens[number].text == ")")
            number += 1
            if depth == 0:
                break
        rows, end = rows + 1, number
        while number < len(tokens) and (
            tokens[number].kind == "space" or tokens[number].text == ","
        ):
            number += 1
    return end, rows
