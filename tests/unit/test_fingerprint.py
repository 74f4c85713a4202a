# ruff: noqa: S608 - no statement here is sent anywhere

from __future__ import annotations

import pytest

from pytest_perfguard.fingerprint import (
    MAX_LENGTH,
    Kind,
    fingerprint,
    shorten,
    varying_text,
    varying_values,
)


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        # literals
        ("SELECT a FROM t WHERE b = 42", "SELECT a FROM t WHERE b = ?"),
        ("SELECT a FROM t WHERE b = 'x'", "SELECT a FROM t WHERE b = ?"),
        ("SELECT a FROM t WHERE b = 'O''Brien'", "SELECT a FROM t WHERE b = ?"),
        ("SELECT 'a', 'b'", "SELECT ?, ?"),
        ("SELECT ''", "SELECT ?"),
        (r"SELECT '\', 'b'", "SELECT ?, ?"),
        (r"SELECT E'it\'s', e'\\', 'b'", "SELECT ?, ?, ?"),
        ("SELECT N'a', b'01', X'FF', U&'a'", "SELECT ?, ?, ?, ?"),
        ("SELECT 1.5, .5, 5., 1e5, 1.5E-3, 0xFF, 1_000", "SELECT ?, ?, ?, ?, ?, ?, ?"),
        ("SELECT 0b101, 0o17", "SELECT ?, ?"),
        ("SELECT -3", "SELECT -?"),
        ("SELECT a FROM t WHERE b = 42AND c = 1", "SELECT a FROM t WHERE b = ?AND c = ?"),
        # names keep their digits and their quotes
        ("SELECT t1.c2 FROM t1", "SELECT t1.c2 FROM t1"),
        ('SELECT "a 1""b" FROM "My 2"', 'SELECT "a 1""b" FROM "My 2"'),
        ("SELECT `a 1` FROM `my 2`", "SELECT `a 1` FROM `my 2`"),
        # dollar quotes
        ("SELECT $$it's$$, $$a$$", "SELECT ?, ?"),
        ("SELECT $q$a $$ b$q$", "SELECT ?"),
        ("SELECT $q1$a 'b$q1$", "SELECT ?"),
        ("SELECT $é$a 'b$é$", "SELECT ?"),
        # comments and layout
        ("SELECT a -- it's\nFROM t", "SELECT a FROM t"),
        ("SELECT a /* it's\n; */ FROM t", "SELECT a FROM t"),
        ("SELECT a/**/FROM t", "SELECT a FROM t"),
        ("/* app */ SELECT a FROM t -- end", "SELECT a FROM t"),
        ("\n  SELECT\ta\n  FROM  t ;\n", "SELECT a FROM t"),
        ("SELECT '-- no comment', a", "SELECT ?, a"),
        ("SELECT count( a ) FROM t", "SELECT count(a) FROM t"),
        # what is cut short
        ("SELECT 'open", "SELECT ?"),
        ("SELECT $$open", "SELECT ?"),
        ("SELECT a /* open", "SELECT a"),
        ("SELECT a -- open", "SELECT a"),
        ("", ""),
        (" ;", ""),
    ],
)
def test_values_comments_and_layout_go(sql: str, text: str) -> None:
    assert fingerprint(sql).text == text


@pytest.mark.parametrize(
    "parameter",
    [
        "?",
        "%s",
        "%(id_1)s",
        "%(id_1)s::INTEGER",
        ":id_1",
        "$1",
        "$12::UUID",
        "$1::INTEGER[]",
        "$1::DOUBLE PRECISION",
        "$1::TIMESTAMP WITHOUT TIME ZONE",
        "?1",
    ],
)
def test_every_style_of_parameters_reads_the_same(parameter: str) -> None:
    found = fingerprint(f"SELECT a FROM t WHERE b = {parameter} AND c = 1")
    assert found.text == "SELECT a FROM t WHERE b = ? AND c = ?"


def test_a_cast_is_no_parameter() -> None:
    assert fingerprint("SELECT a::text FROM t").text == "SELECT a::text FROM t"


@pytest.mark.parametrize("literal", ["1", "'x'", "E'x'", "$$x$$", "0xFF"])
def test_a_statement_with_a_literal_says_so(literal: str) -> None:
    assert fingerprint(f"SELECT a FROM t WHERE b = {literal}").literal


@pytest.mark.parametrize(
    "sql",
    ["SELECT a1 FROM t WHERE b = ? LIMIT ?", 'SELECT "1" FROM t', "SELECT a -- 1"],
)
def test_parameters_names_and_comments_are_no_literals(sql: str) -> None:
    assert not fingerprint(sql).literal


@pytest.mark.parametrize(
    ("sql", "text", "batched"),
    [
        ("a IN (?)", "a IN (...)", False),
        ("a IN (1)", "a IN (...)", False),
        ("a IN (?, ?)", "a IN (...)", True),
        ("a IN (1,2,3)", "a IN (...)", True),
        ("a IN ('x', 'y')", "a IN (...)", True),
        ("a NOT IN (?, ?)", "a NOT IN (...)", True),
        ("a IN (%(a_1)s, %(a_2)s)", "a IN (...)", True),
        ("a IN ($1::UUID, $2::UUID)", "a IN (...)", True),
        ("(a, b) IN ((?, ?))", "(a, b) IN (...)", False),
        ("(a, b) IN ((?, ?), (?, ?))", "(a, b) IN (...)", True),
        ("a IN ( ? , ? )", "a IN (...)", True),
        ("a IN(?, ?)", "a IN (...)", True),
        ("a IN (SELECT b FROM u WHERE c = ?)", "a IN (SELECT b FROM u WHERE c = ?)", False),
        ("a = ANY(?)", "a = ANY(?)", True),
        ("a = ANY ($1::INTEGER[])", "a = ANY (?)", True),
        ("a = ANY (SELECT b FROM u)", "a = ANY (SELECT b FROM u)", False),
        ("f(?, ?) = 1", "f(?, ?) = ?", False),
        ("a = ? AND b = ?", "a = ? AND b = ?", False),
    ],
)
def test_lists_of_keys_become_one_and_say_whether_they_hold_several(
    sql: str, text: str, batched: bool
) -> None:
    found = fingerprint(f"SELECT a FROM t WHERE {sql} ORDER BY a")
    assert found.text == f"SELECT a FROM t WHERE {text} ORDER BY a"
    assert found.batched is batched


def test_a_list_of_an_array_is_batched_and_its_length_is_no_part_of_the_text() -> None:
    two = fingerprint("SELECT a FROM t WHERE b = ANY (ARRAY[?, ?])")
    three = fingerprint("SELECT a FROM t WHERE b = ANY (ARRAY[?, ?, ?])")
    assert two.batched
    assert two.text == three.text


def test_a_lower_case_list_is_the_same_statement_whatever_its_length() -> None:
    two = fingerprint("select a from t where b in(1,2)")
    three = fingerprint("select a from t where b in(1,2,3)")
    assert two.batched
    assert two.text == three.text


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ("(?, ?)", "(?, ?)"),
        ("(?, ?), (?, ?)", "(...)"),
        ("(1,'a'),(2,'b'),(3,'c')", "(...)"),
        ("(?, now()), (?, now())", "(...)"),
        ("(?, f(g(?))), (?, f(g(?)))", "(...)"),
        ("(?, f(?, ?))", "(?, f(?, ?))"),
    ],
)
@pytest.mark.parametrize(
    "rest",
    [
        "",
        " RETURNING id",
        " RETURNING coalesce(a, b), (c)",
        " ON CONFLICT (a) DO UPDATE SET b = excluded.b WHERE (c)",
    ],
)
def test_rows_of_values_become_one_and_what_follows_is_kept(
    rows: str, text: str, rest: str
) -> None:
    found = fingerprint(f"INSERT INTO t (a, b) VALUES {rows}{rest}")
    assert found.text == f"INSERT INTO t (a, b) VALUES {text}{rest}"
    assert found.batched is (text == "(...)")


def test_values_before_the_main_statement_do_not_hide_it() -> None:
    found = fingerprint("WITH v AS (VALUES (1), (2)) SELECT a FROM t JOIN (VALUES (3), (4)) w")
    assert found.text == "WITH v AS (VALUES (...)) SELECT a FROM t JOIN (VALUES (...)) w"


@pytest.mark.parametrize(
    ("sql", "paging"),
    [
        ("SELECT a FROM t LIMIT ? OFFSET ?", {0, 1}),
        ("SELECT a FROM t WHERE b = ? LIMIT ? OFFSET ?", {1, 2}),
        ("SELECT a FROM t WHERE b = $2 LIMIT $1", {0}),
        ("SELECT a FROM t WHERE b = %(b)s LIMIT %(n)s OFFSET %(m)s", {"n", "m"}),
        ("SELECT a FROM t WHERE b = :b LIMIT :n", {"n"}),
        ("SELECT a FROM t ORDER BY a OFFSET ? ROWS FETCH NEXT ? ROWS ONLY", {0, 1}),
        ("SELECT a FROM t ORDER BY a FETCH FIRST (?) ROWS ONLY", {0}),
        ("SELECT TOP (?) a FROM t", {0}),
        ("select a from t limit ?", {0}),
        # a keyset page: ordered, limited, and bounded by the last row of the page before
        ("SELECT a FROM t WHERE a < ? ORDER BY a LIMIT ?", {0, 1}),
        ("SELECT a FROM t WHERE b = ? AND a > :after ORDER BY a LIMIT :n", {"after", "n"}),
        ("SELECT a FROM t WHERE (a, b) < (?, ?) ORDER BY a, b LIMIT ?", {0, 1, 2}),
        ("SELECT a FROM t WHERE (a, b) < (?, ?) AND c = ? ORDER BY a LIMIT ?", {0, 1, 3}),
        ("SELECT a FROM t WHERE a >= ? ORDER BY a FETCH FIRST ? ROWS ONLY", {0, 1}),
        # no keyset page
        ("SELECT a FROM t WHERE a < ? LIMIT ?", {1}),
        ("SELECT a FROM t WHERE a < ? ORDER BY a", set()),
        ("SELECT a FROM t WHERE a <> ? ORDER BY a LIMIT ?", {1}),
        ("SELECT a FROM t WHERE a != ? ORDER BY a LIMIT ?", {1}),
        ("SELECT a FROM t WHERE a = ? ORDER BY a LIMIT ?", {1}),
        ("DELETE FROM t WHERE a = ? LIMIT ?", set()),
    ],
)
def test_parameters_that_only_choose_the_page_are_found(sql: str, paging: set[int | str]) -> None:
    assert fingerprint(sql).paging == paging


@pytest.mark.parametrize(
    ("parameters", "paging", "varying"),
    [
        ((7, 10, 20), {1, 2}, (7,)),
        ({"b": 7, "n": 10, "m": 20}, {"n", "m"}, (7,)),
        ([7, 8], set(), (7, 8)),
        ((), {0}, ()),
        ({}, {"n"}, ()),
        # a < x OR (a = x AND id < y): the second x has no comparison that shows it to be a bound
        ((7, "x", "x", "y", 10), {1, 3, 4}, (7,)),
    ],
)
def test_values_that_choose_the_page_do_not_vary(
    parameters: tuple[object, ...] | dict[str, object],
    paging: set[int | str],
    varying: tuple[object, ...],
) -> None:
    assert varying_values(parameters, frozenset(paging)) == varying


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("LIMIT 10 OFFSET 20", "LIMIT 5 OFFSET 30"),
        ("LIMIT 20, 10", "LIMIT 40, 5"),
        ("limit 10", "limit 20"),
        ("OFFSET 20 ROWS FETCH NEXT 10 ROWS ONLY", "OFFSET 0 ROWS FETCH NEXT 5 ROWS ONLY"),
        ("FETCH FIRST (10) ROWS ONLY", "FETCH FIRST (20) ROWS ONLY"),
    ],
)
def test_literals_that_only_choose_the_page_do_not_vary(one: str, other: str) -> None:
    head = "SELECT a FROM t WHERE b = "
    assert varying_text(f"{head}1 {one}") == varying_text(f"{head}1 {other}")
    assert varying_text(f"{head}1 {one}") != varying_text(f"{head}2 {one}")


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("SELECT 1", Kind.READ),
        ("select 1", Kind.READ),
        ("(SELECT a FROM t) UNION (SELECT b FROM u)", Kind.READ),
        ("VALUES (1)", Kind.READ),
        ("TABLE t", Kind.READ),
        ("WITH x AS (SELECT 1) SELECT a FROM x", Kind.READ),
        ("WITH x AS (SELECT 1) INSERT INTO t SELECT a FROM x", Kind.WRITE),
        ("WITH x AS (DELETE FROM t RETURNING a) SELECT a FROM x", Kind.WRITE),
        ("INSERT INTO t VALUES (1)", Kind.WRITE),
        ("UPDATE t SET a = 1", Kind.WRITE),
        ("DELETE FROM t", Kind.WRITE),
        ("MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE", Kind.WRITE),
        ("REPLACE INTO t VALUES (1)", Kind.WRITE),
        ("CREATE TABLE t (a INT)", Kind.SCHEMA),
        ("ALTER TABLE t ADD b INT", Kind.SCHEMA),
        ("DROP TABLE t", Kind.SCHEMA),
        ("TRUNCATE t", Kind.SCHEMA),
        ("PRAGMA table_info(t)", Kind.CATALOGUE),
        ("EXPLAIN SELECT 1", Kind.CATALOGUE),
        ("SHOW TABLES", Kind.CATALOGUE),
        ("SELECT relname FROM pg_catalog.pg_class", Kind.CATALOGUE),
        ("SELECT name FROM sqlite_master", Kind.CATALOGUE),
        ("SELECT table_name FROM information_schema.tables", Kind.CATALOGUE),
        ("SELECT a FROM t WHERE b = 'pg_catalog'", Kind.READ),
        ("BEGIN", Kind.TRANSACTION),
        ("START TRANSACTION", Kind.TRANSACTION),
        ("COMMIT;", Kind.TRANSACTION),
        ("ROLLBACK TO SAVEPOINT a", Kind.TRANSACTION),
        ("SAVEPOINT a", Kind.TRANSACTION),
        ("RELEASE SAVEPOINT a", Kind.TRANSACTION),
        ("PREPARE TRANSACTION 'a'", Kind.TRANSACTION),
        ("PREPARE a AS SELECT 1", Kind.OTHER),
        ("SET a = 1", Kind.OTHER),
        ("CALL f()", Kind.OTHER),
        ("/* app */ SELECT 1", Kind.READ),
        ("", Kind.OTHER),
        ("()", Kind.OTHER),
    ],
)
def test_the_leading_words_and_the_tables_give_the_class(sql: str, kind: Kind) -> None:
    assert fingerprint(sql).kind is kind


@pytest.mark.parametrize(
    ("sql", "label"),
    [
        ("SELECT a FROM users", "SELECT users"),
        ("select a from users", "SELECT users"),
        ("SELECT a FROM shop.users AS u JOIN posts ON 1 = 1", "SELECT users"),
        ('SELECT a FROM "shop"."My Users"', "SELECT My Users"),
        ("SELECT a FROM `users`", "SELECT users"),
        ("INSERT INTO users (a) VALUES (?)", "INSERT users"),
        ("UPDATE users SET a = ?", "UPDATE users"),
        ("UPDATE ONLY users SET a = ?", "UPDATE users"),
        ("DELETE FROM users WHERE a = ?", "DELETE users"),
        ("SELECT 1", "SELECT"),
        ("COMMIT", "COMMIT"),
        ("", "?"),
        ("WITH x AS (SELECT 1) INSERT INTO users SELECT a FROM x", "INSERT users"),
        ("SELECT EXTRACT(year FROM users.born) FROM users", "SELECT users"),
        ("SELECT a FROM (SELECT a FROM users) AS x", "SELECT users"),
    ],
)
def test_the_label_is_the_verb_and_the_first_table(sql: str, label: str) -> None:
    assert fingerprint(sql).label == label


@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ("SELECT a FROM Users JOIN shop.Posts ON 1 = 1", {"users", "posts"}),
        ('SELECT a FROM "Users" LEFT OUTER JOIN `posts` ON 1 = 1', {"users", "posts"}),
        ("SELECT a FROM users, posts WHERE users.id = posts.a", {"users", "posts"}),
        ("SELECT a FROM users AS u, shop.posts p, tags WHERE 1 = 1", {"users", "posts", "tags"}),
        ("SELECT a FROM users WHERE b IN (SELECT c FROM posts)", {"users", "posts"}),
        ("SELECT EXTRACT(year FROM users.born) FROM users", {"users"}),
        ("SELECT a FROM users WHERE a IS DISTINCT FROM b", {"users"}),
        ("INSERT INTO users (a) SELECT a FROM posts", {"users", "posts"}),
        ("INSERT INTO users (a) VALUES (?) ON CONFLICT (a) DO UPDATE SET a = ?", {"users"}),
        ("INSERT INTO users (a) VALUES (?) ON DUPLICATE KEY UPDATE b = ?", {"users"}),
        ("SELECT a FROM users FOR UPDATE", {"users"}),
        ("SELECT a FROM users FOR UPDATE OF users SKIP LOCKED", {"users"}),
        ("SELECT 'x FROM posts' FROM users -- FROM tags", {"users"}),
        ("SELECT 1", set()),
    ],
)
def test_every_table_is_named_without_schema_and_in_lower_case(sql: str, tables: set[str]) -> None:
    assert fingerprint(sql).tables == tables


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        (r"SELECT a FROM t WHERE b = 'it\'s' AND c = 'x'", "SELECT a FROM t WHERE b = ? AND c = ?"),
        (r"SELECT '\\', 'b'", "SELECT ?, ?"),
        (r'SELECT "say \"hi\"", "b"', "SELECT ?, ?"),
        ("SELECT `a 1` FROM `t`", "SELECT `a 1` FROM `t`"),
        ("SELECT 'open", "SELECT ?"),
        ("/* don't */ SELECT a FROM t WHERE b = 'x'", "SELECT a FROM t WHERE b = ?"),
        ("SELECT a -- don't\nFROM t WHERE b = 'x'", "SELECT a FROM t WHERE b = ?"),
        ("SELECT a # don't\nFROM t WHERE b = 'x'", "SELECT a FROM t WHERE b = ?"),
        ("SELECT `it's` FROM t WHERE b = 'x'", "SELECT `it's` FROM t WHERE b = ?"),
    ],
)
def test_mysql_strings_end_where_mysql_ends_them(sql: str, text: str) -> None:
    assert fingerprint(sql, backslash_escapes=True).text == text


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT a FROM t WHERE b IN (" + ", ".join(map(str, range(150_000))) + ")",
        "INSERT INTO t VALUES " + ", ".join("('secret', 1)" for _ in range(70_000)),
        "SELECT '" + "secret" * 170_000 + "'",
        "SELECT " + "(" * 1_000_000,
        "SELECT " + ", ".join("a" * 9 for _ in range(100_000)),
        "SELECT a FROM t " + "/* secret 1 */" * 75_000,
        "VALUES (" * 125_000,
        "IN ((?, " * 125_000,
    ],
    ids=["keys", "rows", "string", "parentheses", "columns", "comments", "values", "lists"],
)
@pytest.mark.parametrize("backslash_escapes", [False, True])
def test_a_megabyte_is_cut_and_says_so(sql: str, backslash_escapes: bool) -> None:
    found = fingerprint(sql, backslash_escapes=backslash_escapes)
    assert len(sql) > 900_000
    assert len(found.text) <= MAX_LENGTH + 2
    assert found.text.endswith(" …")
    assert "secret" not in found.text


def test_what_is_cut_within_a_list_of_keys_is_one_statement_whatever_the_keys() -> None:
    head = "SELECT a FROM t WHERE b IN ("
    short = fingerprint(head + ", ".join(map(str, range(9_000))) + ")")
    long = fingerprint(head + ", ".join(map(str, range(900_000, 909_000))) + ")")
    assert short.text == long.text
    assert short.batched
    assert long.batched


@pytest.mark.parametrize(
    ("text", "width", "short"),
    [
        ("SELECT a, b FROM t", 18, "SELECT a, b FROM t"),
        ("SELECT a, b, c FROM t WHERE d = ?", 32, "SELECT a, … FROM t WHERE d = ?"),
        ("SELECT DISTINCT a, b, cc FROM t", 30, "SELECT DISTINCT a, … FROM t"),
        ("SELECT abcdefgh, b, c FROM t WHERE d = ?", 30, "SELECT … FROM t WHERE d = ?"),
        ("SELECT abcdefgh, b, c FROM t WHERE d = ?", 20, "SELECT … FROM t WHE…"),
        ("SELECT abcdefgh FROM t WHERE d = ?", 20, "SELECT abcdefgh FRO…"),
        ("UPDATE t SET a = ?, b = ?", 12, "UPDATE t SE…"),
        ("", 5, ""),
    ],
)
def test_a_long_statement_is_cut_in_its_columns_first(text: str, width: int, short: str) -> None:
    assert shorten(text, width) == short
    assert len(short) <= width


@pytest.mark.parametrize(
    ("sql", "offset"),
    [
        ("SELECT a FROM t LIMIT ? OFFSET ?", 1),
        ("SELECT a FROM t LIMIT %(n)s::INTEGER OFFSET %(skipped)s::INTEGER", "skipped"),
        ("SELECT a FROM t WHERE b = $1 LIMIT $2 OFFSET $3", 2),
        ("SELECT a FROM t LIMIT %s, %s", 0),
        ("SELECT a FROM t WHERE b = ? OFFSET ? ROWS FETCH FIRST ? ROWS ONLY", 1),
        ("SELECT a FROM (SELECT a FROM t LIMIT ? OFFSET ?) u JOIN v ON a = b", 1),
        ("SELECT a FROM t LIMIT ?", None),
        ("SELECT a FROM t LIMIT 10 OFFSET 2000", None),
        ("UPDATE t SET a = ?", None),
    ],
)
def test_the_parameter_that_skips_rows_is_found(sql: str, offset: int | str | None) -> None:
    assert fingerprint(sql).offset == offset


@pytest.mark.parametrize(
    ("sql", "locks"),
    [
        ("SELECT a FROM t FOR UPDATE", True),
        ("SELECT a FROM t FOR UPDATE OF t NOWAIT", True),
        ("WITH u AS (SELECT a FROM t FOR NO KEY UPDATE) SELECT a FROM u", True),
        ("SELECT a FROM t FOR KEY SHARE", True),
        ("SELECT a FROM t LOCK IN SHARE MODE", True),
        ("select pg_catalog.pg_advisory_lock(?)", True),
        ("SELECT pg_advisory_unlock(?)", False),
        ("SELECT pg_advisory_lock FROM t", False),
        ("LOCK TABLE t", True),
        ("SELECT a INTO b FROM t", True),
        ("SELECT a INTO @b FROM t", False),
        ("SELECT a FROM t WHERE b = 'FOR UPDATE; DELETE FROM t'", False),
        ('SELECT "FOR", "update" FROM t', False),
        ("SELECT a FROM t -- FOR UPDATE", False),
        ("SELECT a FROM t;", False),
        ("SELECT a; SELECT b", False),
        ("SELECT a; DELETE FROM t", True),
        ("BEGIN; UPDATE t SET a = 1; COMMIT", False),
        ("BEGIN; UPDATE t SET a = 1; ROLLBACK TO b", True),
        ("EXPLAIN UPDATE t SET a = 1", False),
        ("EXPLAIN ANALYZE SELECT a FROM t", False),
        ("EXPLAIN (ANALYZE, BUFFERS) UPDATE t SET a = 1", True),
        ("UPDATE alembic_version SET version_num = 'a'", False),
    ],
)
def test_what_locks_without_being_a_write_is_told(sql: str, locks: bool) -> None:
    assert fingerprint(sql).locks is locks
