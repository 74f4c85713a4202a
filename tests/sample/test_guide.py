"""The table of the guide: each file, test and trap in it is there, and no trap is missing."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from pytest_perfguard import METRICS
from sample_app.core.traps import KNOWN
from sample_app.tests.catches import CATCHES, node_id

ROOT = Path(__file__).parents[2]
_CODE = re.compile(r"`([^`]+)`")


class Row(NamedTuple):
    asked: str
    where: str
    guarded: str
    test: str
    trap: str


def _rows() -> list[Row]:
    lines = (ROOT / "docs/guide.md").read_text("utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    rows = [Row(*row) for row in cells if row[0] != "asked for" and set(row[0]) != {"-"}]
    assert len(rows) > 30
    return rows


ROWS = _rows()
in_each_row = pytest.mark.parametrize("row", ROWS, ids=[row.asked for row in ROWS])


def _functions(file: Path) -> set[str]:
    tree = ast.parse(file.read_text("utf-8"))
    found = set()
    for node in tree.body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        functions = (n for n in inside if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
        found |= {prefix + function.name for function in functions}
    return found


@in_each_row
def test_what_a_row_names_is_there(row: Row) -> None:
    (where,) = _CODE.findall(row.where)
    assert (ROOT / "sample_app" / where).is_file()
    for test in [*_CODE.findall(row.test), *(c for c in _CODE.findall(row.trap) if "::" in c)]:
        file, _, name = test.partition("::")
        assert name.partition("[")[0] in _functions(ROOT / "sample_app/tests" / file)
    metrics = re.findall(r"(\w+)=[\"\d]", " ".join(_CODE.findall(row.guarded)))
    assert {name for name in metrics if name not in {"backoff", "rounds", "concurrency"}} <= set(
        METRICS
    )


@in_each_row
def test_the_trap_of_a_row_turns_its_test_red(row: Row) -> None:
    if row.trap.startswith("none: "):
        return
    traps = [name for name in _CODE.findall(row.trap) if "::" not in name]
    tests = {
        node_id(f"sample_app/tests/{test}") for test in _CODE.findall(f"{row.test} {row.trap}")
    }
    assert traps
    for trap in traps:
        assert node_id(CATCHES[trap].test) in tests


def test_every_trap_is_in_the_table() -> None:
    named = {name for row in ROWS for name in _CODE.findall(row.trap) if "::" not in name}
    assert named == set(KNOWN)
