from __future__ import annotations

from pathlib import Path

import pytest

from pytest_perfguard.places import mark_line


def _here(source: str) -> int | None:
    """Return the number of the line that ends in ``# here``."""
    lines = [n for n, line in enumerate(source.splitlines(), 1) if line.endswith("# here")]
    return lines[0] if lines else None


@pytest.fixture
def module(tmp_path: Path) -> Path:
    return tmp_path / "test_it.py"


_ONE_LINE = """\
import pytest

@pytest.mark.perf_budget(sql_queries=3)  # here
def test_a(): ...
"""
_KEYWORDS = """\
import pytest

@pytest.mark.slow
@pytest.mark.perf_budget(
    sql_rows=9,
    sql_queries=3,  # here
)
@pytest.mark.usefixtures("db")
async def test_a(): ...
"""
_VALUE_BELOW = """\
@pytest.mark.perf_budget(
    sql_queries=
        3,  # here
)
def test_a(): ...
"""
_SECOND_MARK = """\
@pytest.mark.perf_budget(sql_rows=9)
@mark.perf_budget(sql_queries=3)  # here
def test_a(): ...
"""
_PARAMETER = """\
@pytest.mark.parametrize(
    "n",
    [
        1,
        pytest.param(2, marks=pytest.mark.perf_budget(sql_queries=3)),  # here
    ],
)
def test_a(n): ...
"""
_ALIAS = """\
few = pytest.mark.perf_budget(sql_queries=3)

@few
def test_a(): ...  # here
"""
_UNPACKED = """\
@pytest.mark.perf_budget(**LIMITS)
def test_a(): ...  # here
"""
_TWICE = """\
@pytest.mark.perf_budget(sql_queries=1)
def test_a(): ...

@pytest.mark.perf_budget(sql_queries=3)  # here
def test_a(): ...
"""


@pytest.mark.parametrize(
    "source",
    [_ONE_LINE, _KEYWORDS, _VALUE_BELOW, _SECOND_MARK, _PARAMETER, _ALIAS, _UNPACKED, _TWICE],
    ids=["one line", "keywords", "value below", "second mark", "parameter", "alias", "unpacked",
         "defined twice"],
)  # fmt: skip
def test_the_line_of_the_keyword_or_of_the_function_is_found(source: str, module: Path) -> None:
    module.write_text(source, encoding="utf-8")
    assert mark_line(module, ("test_a",), "perf_budget", "sql_queries") == _here(source)


def test_the_mark_itself_is_found_where_no_keyword_is_asked_for(module: Path) -> None:
    source = "@pytest.mark.skip\n@pytest.mark.perf_budget(  # here\n  3)\ndef test_a(): ...\n"
    module.write_text(source, encoding="utf-8")
    assert mark_line(module, ("test_a",), "perf_budget", None) == _here(source)


_ON_CLASS = """\
@pytest.mark.perf_budget(sql_queries=3)  # here
class TestA:
    def test_b(self): ...
"""
_IN_CLASS = """\
class TestA:
    limit = 3
    pytestmark = [
        pytest.mark.slow,
        pytest.mark.perf_budget(sql_queries=3),  # here
    ]

    @pytest.mark.perf_budget(sql_queries=9)
    def test_b(self): ...
"""
_TYPED_IN_CLASS = """\
class TestA:
    pytestmark: ClassVar = pytest.mark.perf_budget(sql_queries=3)  # here
"""
_ALIAS_ON_CLASS = """\
few = pytest.mark.perf_budget(sql_queries=3)

@few
class TestA:  # here
    def test_b(self): ...
"""


@pytest.mark.parametrize(
    "source",
    [_ON_CLASS, _IN_CLASS, _TYPED_IN_CLASS, _ALIAS_ON_CLASS],
    ids=["decorator", "pytestmark", "typed pytestmark", "alias"],
)
def test_the_line_of_a_mark_on_a_class_is_found(source: str, module: Path) -> None:
    module.write_text(source, encoding="utf-8")
    assert mark_line(module, ("TestA",), "perf_budget", "sql_queries") == _here(source)


def test_the_line_of_a_mark_on_a_method_of_an_inner_class_is_found(module: Path) -> None:
    source = """\
def test_c(): ...

class TestA:
    class TestB:
        @pytest.mark.perf_budget(sql_queries=3)  # here
        def test_c(self): ...

    @pytest.mark.perf_budget(sql_queries=9)
    def test_c(self): ...
"""
    module.write_text(source, encoding="utf-8")
    names = ("TestA", "TestB", "test_c")
    assert mark_line(module, names, "perf_budget", "sql_queries") == _here(source)


@pytest.mark.parametrize(
    "source",
    [
        "pytestmark = pytest.mark.perf_budget(sql_queries=3)  # here\n",
        "pytestmark = [\n  pytest.mark.slow,\n  pytest.mark.perf_budget(sql_queries=3)  # here\n]",
        "pytestmark: list = [pytest.mark.perf_budget(sql_queries=3)]  # here\n",
        "few = pytest.mark.perf_budget(sql_queries=3)\npytestmark = few\n",
        "pytestmark = pytest.mark.slow\n",
        "def test_a(): ...\n",
    ],
    ids=["one", "list", "typed", "alias", "another mark", "none"],
)
def test_the_line_of_a_mark_on_a_module_is_found_where_it_is_written_out(
    source: str, module: Path
) -> None:
    module.write_text(source, encoding="utf-8")
    assert mark_line(module, (), "perf_budget", "sql_queries") == _here(source)


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"def test_b(): ...",
        b"test_a = lambda: None",
        b"def test_a(: ...",
        b"\x00",
        b"name = '\xff'\ndef test_a(): ...",
    ],
    ids=["missing", "no such test", "no function", "no Python", "null byte", "no UTF-8"],
)
@pytest.mark.parametrize("names", [("test_a",), ("TestA", "test_a")], ids=len)
def test_what_cannot_be_read_has_no_line(
    content: bytes | None, names: tuple[str, ...], module: Path
) -> None:
    if content is not None:
        module.write_bytes(content)
    assert mark_line(module, names, "perf_budget", "sql_queries") is None
