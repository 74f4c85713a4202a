from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_perfguard.model import Finding
from pytest_perfguard.waivers import Waiver, Waivers, loaded_files
from tests.unit.build import finding, site, tally

_FILE = "app/crud.py"
_IGNORE = "# perfguard: ignore[sql_n_plus_one]"
_WAIVABLE = "sql_n_plus_one, sql_duplicates, cache_n_plus_one and task_n_plus_one"


@pytest.fixture
def waivers(tmp_path: Path) -> Callable[[str | bytes], Waivers]:
    """Write the source of the one file that there is."""

    def write(source: str | bytes) -> Waivers:
        path = tmp_path / _FILE
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(source if isinstance(source, bytes) else source.encode())
        return Waivers(tmp_path)

    return write


def _at(line: int, end_line: int | None = None, metric: str = "sql_n_plus_one") -> Finding:
    where = site(line, _FILE, end_line=end_line or line)
    return finding(metric, tally=tally(site=where))


@pytest.mark.parametrize(
    ("source", "line", "end_line"),
    [
        (f"rows = load()  {_IGNORE} few rows\n", 1, 1),
        (f"{_IGNORE} few rows\nrows = load()\n", 2, 2),
        (f"if True:\n    {_IGNORE} few rows\n    rows = load()\n", 3, 3),
        (f"rows = [\n    load(n)  {_IGNORE} few rows\n    for n in ids\n]\n", 1, 4),
        (f"rows = [\n    {_IGNORE} few rows\n    load(n)\n    for n in ids\n]\n", 3, 3),
        (f"rows = [\n    load(n)\n    for n in ids\n]  {_IGNORE} few rows\n", 1, 4),
        (f"if a:\n    rows()\n{_IGNORE} few rows\nrows()\n", 4, 4),
        (f"text = '''\n'''  {_IGNORE} few rows\n", 2, 2),
        (f"rows()  {_IGNORE} few rows\r\n", 1, 1),
        (f"é = rows()  {_IGNORE} few rows\n", 1, 1),
    ],
    ids=["on the line", "above", "above, indented", "inside the expression",
         "above a part", "at the end of the expression", "above, after a block",
         "after a string of several lines", "Windows", "not ASCII"],
)  # fmt: skip
def test_a_waiver_covers_the_finding_on_its_line(
    waivers: Callable[[str], Waivers], source: str, line: int, end_line: int
) -> None:
    (found,) = waivers(source).apply([_at(line, end_line)])
    assert found.waiver == "few rows"


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (f"rows()  {_IGNORE} few rows\nother()\n", 2),
        (f"other()\nrows()  {_IGNORE} few rows\n", 1),
        (f"{_IGNORE} few rows\n\nrows()\n", 3),
        (f"text = '''\n{_IGNORE} few rows\n'''\n", 3),
        (f'rows("{_IGNORE} few rows")\n', 1),
        ("rows()  # no waiver\n", 1),
        ("rows()\n", 1),
    ],
    ids=["line before", "line after", "two above", "in a long string", "in a string",
         "other comment", "none"],
)  # fmt: skip
def test_a_waiver_covers_no_other_line(
    waivers: Callable[[str], Waivers], source: str, line: int
) -> None:
    assert waivers(source).apply([_at(line)]) == (_at(line),)


def test_a_waiver_covers_only_the_metrics_that_it_names(
    waivers: Callable[[str], Waivers],
) -> None:
    duplicate = _at(1, metric="sql_duplicates")
    assert waivers(f"rows()  {_IGNORE} few rows").apply([duplicate]) == (duplicate,)
    both = "rows()  # perfguard: ignore[sql_n_plus_one, sql_duplicates] few rows"
    found = waivers(both).apply([_at(1), duplicate])
    assert [one.waiver for one in found] == ["few rows", "few rows"]


def test_a_waiver_above_and_one_on_the_line_both_count(waivers: Callable[[str], Waivers]) -> None:
    source = f"{_IGNORE} few rows\nrows()  # perfguard: ignore[sql_duplicates] cheap\n"
    found = waivers(source).apply([_at(2), _at(2, metric="sql_duplicates")])
    assert [one.waiver for one in found] == ["few rows", "cheap"]


def test_two_waivers_within_an_expression_both_count(waivers: Callable[[str], Waivers]) -> None:
    source = f"rows(\n  a,  {_IGNORE} few rows\n  b,  # perfguard: ignore[sql_duplicates] cheap\n)"
    found = waivers(source).apply([_at(1, 4), _at(1, 4, metric="sql_duplicates")])
    assert [one.waiver for one in found] == ["few rows", "cheap"]


def test_a_waiver_for_commands_to_a_cache_covers_those_only(
    waivers: Callable[[str], Waivers],
) -> None:
    source = "rows()  # perfguard: ignore[cache_n_plus_one] two keys at most\n"
    in_sql, in_cache = waivers(source).apply([_at(1), _at(1, metric="cache_n_plus_one")])
    assert (in_sql.waiver, in_cache.waiver) == (None, "two keys at most")


@pytest.mark.parametrize("between", [" ", ": ", " - ", " \N{EM DASH} ", "\t"])
def test_the_reason_may_be_set_off_by_a_dash_or_a_colon(
    waivers: Callable[[str], Waivers], between: str
) -> None:
    (found,) = waivers(f"rows()  {_IGNORE}{between}few rows (#12)").apply([_at(1)])
    assert found.waiver == "few rows (#12)"


@pytest.mark.parametrize(
    "comment", ["#perfguard:ignore[sql_n_plus_one]a", "#  perfguard:  ignore [ sql_n_plus_one ]  a"]
)
def test_spaces_do_not_matter(waivers: Callable[[str], Waivers], comment: str) -> None:
    (found,) = waivers(f"rows()  {comment}").apply([_at(1)])
    assert found.waiver == "a"


@pytest.mark.parametrize(
    ("comment", "problem"),
    [
        (_IGNORE, "the waiver gives no reason: write "),
        (f"{_IGNORE} --", "the waiver gives no reason: write "),
        ("# perfguard: ignore[] why", "the waiver names no metric: write "),
        ("# perfguard: ignore[ , ] why", "the waiver names no metric: write "),
        ("# perfguard: ignore why", "this is not a waiver: write "),
        ("# perfguard: ignore[sql_n_plus_one why", "this is not a waiver: write "),
        ("# perfguard: noqa", "this is not a waiver: write "),
        ("# perfguard:", "this is not a waiver: write "),
        (
            "# perfguard: ignore[sql_n_plus_on] why",
            f"sql_n_plus_on cannot be waived on a line; {_WAIVABLE} can",
        ),
        (
            "# perfguard: ignore[wall] why",
            f"wall cannot be waived on a line; {_WAIVABLE} can",
        ),
    ],
)
def test_a_waiver_that_cannot_be_honoured_covers_nothing_and_says_why(
    waivers: Callable[[str], Waivers], comment: str, problem: str
) -> None:
    read = waivers(f"rows()  {comment}\n")
    assert read.apply([_at(1)]) == (_at(1),)
    (passed,) = read.passed([_at(1).tally])
    assert (passed.file, passed.line, passed.metrics) == (_FILE, 1, ())
    assert passed.problem.startswith(problem)


def test_a_waiver_is_passed_once_however_many_operations_pass_it(
    waivers: Callable[[str], Waivers],
) -> None:
    read = waivers(f"rows()  {_IGNORE} few rows\nother()\n")
    tallies = [_at(1).tally, _at(1, metric="sql_duplicates").tally, _at(2).tally]
    assert read.passed(tallies) == (Waiver(_FILE, 1, ("sql_n_plus_one",), "few rows"),)


def test_operations_of_no_known_line_pass_no_waiver(waivers: Callable[[str], Waivers]) -> None:
    read = waivers(f"rows()  {_IGNORE} few rows\n")
    nowhere = finding(tally=tally(site=None))
    assert read.apply([nowhere]) == (nowhere,)
    assert read.passed([nowhere.tally]) == ()


def test_every_waiver_of_a_file_is_listed(
    waivers: Callable[[str], Waivers], tmp_path: Path
) -> None:
    read = waivers(f"a()  {_IGNORE} why\n\n{_IGNORE}\nb()\n")
    listed = read.in_files([(_FILE, str(tmp_path / _FILE)), ("gone.py", str(tmp_path / "gone.py"))])
    assert [(one.line, bool(one.problem)) for one in listed] == [(1, False), (3, True)]


@pytest.mark.parametrize(
    "content",
    [
        b"rows()  # perfguard: ignore[sql_n_plus_one] \xff\n",
        b"# coding: nonsense\nrows()  # perfguard: ignore[sql_n_plus_one] why\n",
        b"rows()  # \x00 perfguard: ignore\n",
    ],
    ids=["no UTF-8", "unknown coding", "null byte"],
)
def test_a_file_that_cannot_be_read_holds_no_waivers(
    waivers: Callable[[bytes], Waivers], content: bytes
) -> None:
    assert waivers(content).apply([_at(1)]) == (_at(1),)


def test_a_file_that_is_not_there_or_no_file_holds_no_waivers(tmp_path: Path) -> None:
    (tmp_path / _FILE).mkdir(parents=True)
    assert Waivers(tmp_path).apply([_at(1)]) == (_at(1),)
    assert Waivers(tmp_path / "gone").apply([_at(1)]) == (_at(1),)


def test_what_comes_before_broken_code_still_holds(waivers: Callable[[str], Waivers]) -> None:
    (found,) = waivers(f"rows()  {_IGNORE} why\n(\n").apply([_at(1)])
    assert found.waiver == "why"


def test_loaded_files_are_those_of_the_modules_of_this_process() -> None:
    files = loaded_files()
    assert pytest.__file__ in files
    assert all(file.endswith(".py") for file in files)
