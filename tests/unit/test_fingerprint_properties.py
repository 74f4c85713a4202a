"""Whatever the statement: reading it ends well, and no value in it gets through."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_perfguard.fingerprint import fingerprint, shorten

_MARK = "ZQX"
_NAMES = st.from_regex(r"[a-w]{1,6}", fullmatch=True)
_SIGNS = st.sampled_from(["=", "<", "<>", "(", ")", ",", "IN", "IN (", "VALUES (", "FROM", "LIMIT"])
# Every secret holds the mark, and whatever could end a literal too early.
_SECRETS = st.text("ab1'\"\\-/*;:?%() \n", max_size=6).map(lambda end: _MARK + end)


def _standard(secret: str) -> str:
    return "'" + secret.replace("'", "''") + "'"


def _backslashed(quote: str, secret: str) -> str:
    return quote + secret.replace("\\", "\\\\").replace(quote, f"\\{quote}") + quote


_NUMBERS = st.one_of(
    st.integers(0).map(str),
    st.floats(0, allow_infinity=False).map(str),
    st.integers(0).map(hex),
)
_COMMENTS = st.text("abZQX1'\" ", max_size=8).flatmap(
    lambda text: st.sampled_from([f"-- {text}\n", f"/* {text} */"])
)
_STANDARD_LITERALS = st.one_of(
    _NUMBERS,
    _SECRETS.map(_standard),
    _SECRETS.map(lambda secret: "E" + _backslashed("'", secret)),
    st.builds("${0}${1}${0}$".format, st.from_regex(r"([a-w_][a-w0-9_]{0,4})?", fullmatch=True),
              _SECRETS),
)  # fmt: skip
_MYSQL_LITERALS = st.one_of(
    _NUMBERS,
    _SECRETS.map(lambda secret: _backslashed("'", secret)),
    _SECRETS.map(lambda secret: _backslashed('"', secret)),
)


def _statements(literals: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Return statements that end in a literal, after anything that could confuse their reader."""
    parts = st.lists(st.one_of(_NAMES, _SIGNS, literals, _COMMENTS), max_size=12)
    return st.builds(lambda parts, last: " ".join([*parts, last]), parts, literals)


def _assert_no_value_survives(text: str) -> None:
    assert _MARK not in text
    assert not any(character.isdigit() for character in text)


@settings(deadline=None)
@given(_statements(_STANDARD_LITERALS))
def test_no_value_of_a_statement_survives(sql: str) -> None:
    _assert_no_value_survives(fingerprint(sql).text)


@settings(deadline=None)
@given(_statements(_MYSQL_LITERALS))
def test_no_value_of_a_mysql_statement_survives(sql: str) -> None:
    _assert_no_value_survives(fingerprint(sql, backslash_escapes=True).text)


@settings(deadline=None)
@given(_statements(_STANDARD_LITERALS))
def test_a_statement_with_values_says_so(sql: str) -> None:
    assert fingerprint(f"SELECT {sql} AND b = 1").literal


_ANYTHING = st.one_of(
    st.text(),
    st.text("SELCTFROMINVAUW ?'\"`$():;,.%\\-/*<>=10eExX_\n"),
    _statements(_STANDARD_LITERALS),
)


@settings(deadline=None)
@given(_ANYTHING, st.booleans())
def test_any_text_can_be_read(sql: str, backslash_escapes: bool) -> None:
    found = fingerprint(sql, backslash_escapes=backslash_escapes)
    assert found.label
    assert len(shorten(found.text, 20)) <= max(20, 1)


@settings(deadline=None)
@given(_ANYTHING)
def test_a_normalised_text_is_its_own(sql: str) -> None:
    text = fingerprint(sql).text
    assert fingerprint(text).text == text


@settings(deadline=None)
@given(_statements(_STANDARD_LITERALS), st.sampled_from([" ", "\n", " -- x'\n", "/* 'x */"]))
def test_layout_and_comments_do_not_make_another_statement(sql: str, gap: str) -> None:
    plain, spaced = f"SELECT a WHERE b = {sql}", f"SELECT{gap}a{gap}WHERE{gap}b{gap}= {sql}{gap}"
    assert fingerprint(spaced).text == fingerprint(plain).text
