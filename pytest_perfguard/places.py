"""Where in a test module a budget mark was written.

A mark does not know its line, so the module is read once and its decorators and ``pytestmark``
are looked through.
"""

from __future__ import annotations

import ast
from functools import lru_cache
from pathlib import Path

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def mark_line(path: Path, names: tuple[str, ...], mark: str, keyword: str | None) -> int | None:
    """Return the line of ``mark(keyword=...)`` on a function, class or module.

    Args:
        names: the classes and the function that lead to the marked object; empty for the module.
        keyword: the argument whose line is wanted; None for the mark's own.

    Returns:
        Line of the keyword, of the decorated object where the mark is not written out on it, or
        None where there is nothing to read.
    """
    tree = _parse(path)
    found = _find(tree, names)
    if found is None:
        return None
    if isinstance(found, ast.Module):
        return _line_in_pytestmark(found.body, mark, keyword)
    lines = [_line_in(decorator, mark, keyword) for decorator in found.decorator_list]
    if isinstance(found, ast.ClassDef):
        lines.append(_line_in_pytestmark(found.body, mark, keyword))
    return next((line for line in lines if line is not None), found.lineno)


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


def _line_in_pytestmark(body: list[ast.stmt], mark: str, keyword: str | None) -> int | None:
    for node in body:
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        if any(isinstance(target, ast.Name) and target.id == "pytestmark" for target in targets):
            return _line_in(node, mark, keyword)
    return None


def _line_in(node: ast.AST, mark: str, keyword: str | None) -> int | None:
    for call in ast.walk(node):
        if not isinstance(call, ast.Call):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else None
        if name != mark:
            continue
        if keyword is None:
            return call.lineno
        for argument in call.keywords:
            if argument.arg == keyword:
                return argument.value.lineno
    return None
