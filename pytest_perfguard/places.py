"""Where in a test module a budget mark was written.

A mark does not know its line, so the module is read once and its decorators and ``pytestmark``
are looked through.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from pytest_perfguard.units import shown

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def mark_line(
    path: Path, names: tuple[str, ...], mark: str, keyword: str | None, value: object = None
) -> int | None:
    """Return the line of ``mark(keyword=...)`` on a function, class or module.

    Args:
        names: the classes and the function that lead to the marked object; empty for the module.
        keyword: the argument whose line is wanted; None for the mark's own.
        value: of the keyword; tells which of several marks on one object it is.

    Returns:
        Line of the keyword, of the decorated object where the mark is not written out on it, or
        None where there is nothing to read.
    """
    tree = _parse(path)
    found = _find(tree, names)
    if found is None:
        return None
    marked = [] if isinstance(found, ast.Module) else list[ast.AST](found.decorator_list)
    if isinstance(found, ast.Module | ast.ClassDef):
        marked += [node for node in found.body if _is_pytestmark(node)]
    lines = [line for node in marked for line in _lines_in(node, mark, keyword)]
    if lines:
        return next(
            (line for line, written in lines if written == shown(value, len(written) + 1)),
            lines[0][0],
        )
    return None if isinstance(found, ast.Module) else found.lineno


def _find(tree: ast.Module | None, names: tuple[str, ...]) -> ast.Module | _Definition | None:
    found: ast.Module | _Definition | None = tree
    for name in names:
        body = found.body if found else []
        # The last definition of a name is the one that is there at run time.
        found = next(
            (
                node
                for node in reversed(body)
                if isinstance(node, _Definition) and node.name == name
            ),
            None,
        )
    return found


@lru_cache(maxsize=256)
def _parse(path: Path) -> ast.Module | None:
    try:
        return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None


def _is_pytestmark(node: ast.stmt) -> bool:
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    return any(isinstance(target, ast.Name) and target.id == "pytestmark" for target in targets)


def _lines_in(node: ast.AST, mark: str, keyword: str | None) -> Iterator[tuple[int, str]]:
    """Yield the line of each such mark, with the value as it is written."""
    for part in ast.walk(node):
        if keyword is None and isinstance(part, ast.Attribute) and part.attr == mark:
            yield part.lineno, ""
        elif (
            isinstance(part, ast.Call)
            and isinstance(part.func, ast.Attribute)
            and part.func.attr == mark
        ):
            for argument in part.keywords:
                if argument.arg == keyword:
                    yield argument.value.lineno, ast.unparse(argument.value)
