"""Inline waivers: ``# perfguard: ignore[sql_n_plus_one] reason`` on the line that is to blame.

The comment stands on the line itself, or alone on the line above it.
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_perfguard.findings import WAIVABLE
from pytest_perfguard.model import Finding, Site, Tally

_COMMENT = re.compile(r"#\s*perfguard:(?P<rest>.*)")
_LISTED = f"{', '.join(WAIVABLE[:-1])} and {WAIVABLE[-1]}"
_IGNORE = re.compile(r"\s*ignore\s*\[(?P<metrics>[^\]]*)\]\s*(?P<reason>.*)")


@dataclass(frozen=True, slots=True)
class Waiver:
    """A comment that tolerates one or more metrics' findings on one line.

    ``problem`` says why it cannot be honoured; such a waiver covers nothing.
    """

    file: str
    line: int
    metrics: tuple[str, ...] = ()
    reason: str = ""
    problem: str = ""


class Waivers:
    """Reads the waivers of source files once and matches them with findings.

    Args:
        root: directory that relative file names of sites are below.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: dict[str, dict[int, list[Waiver]]] = {}

    def apply(self, findings: Sequence[Finding]) -> tuple[Finding, ...]:
        """Return the findings, those that a waiver covers with its reason."""
        return tuple(self._apply(finding) for finding in findings)

    def _apply(self, finding: Finding) -> Finding:
        for waiver in self._at(finding.tally.site):
            if finding.metric in waiver.metrics:
                return replace(finding, waiver=waiver.reason)
        return finding

    def passed(self, tallies: Iterable[Tally]) -> tuple[Waiver, ...]:
        """Return the waivers on the lines that the tallies came from."""
        found = (waiver for tally in tallies for waiver in self._at(tally.site))
        return tuple(dict.fromkeys(found))

    def in_files(self, files: Iterable[tuple[str, str]]) -> tuple[Waiver, ...]:
        """Return every waiver in files given as ``(shown name, file name)``."""
        return tuple(
            waiver
            for name, filename in files
            for waivers in self._read(name, Path(filename)).values()
            for waiver in waivers
        )

    def _at(self, site: Site | None) -> list[Waiver]:
        if site is None:
            return []
        lines = self._read(site.file, self._root / site.file)
        if not lines:
            return []
        span = range(site.line, site.end_line + 1)
        return [waiver for line in span for waiver in lines.get(line, ())]

    def _read(self, name: str, path: Path) -> dict[int, list[Waiver]]:
        if name not in self._files:
            self._files[name] = found = dict[int, list[Waiver]]()
            for line, waiver in _parse(name, path):
                found.setdefault(line, []).append(waiver)
        return self._files[name]


def loaded_files() -> list[str]:
    """Return the source file of every module that the process has loaded."""
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return [file for file in files if isinstance(file, str) and file.endswith(".py")]


def _parse(name: str, path: Path) -> Iterable[tuple[int, Waiver]]:
    try:
        source = path.read_bytes()
    except OSError:
        return
    if b"perfguard:" not in source:
        return
    code_on_line = 0
    try:
        for token in tokenize.tokenize(io.BytesIO(source).readline):
            if token.type == tokenize.COMMENT:
                match = _COMMENT.match(token.string)
                if match:
                    line = token.start[0]
                    covered = line if code_on_line == line else line + 1
                    yield covered, _waiver(name, line, match["rest"])
            elif token.type not in (
                tokenize.NL,
                tokenize.NEWLINE,
                tokenize.INDENT,
                tokenize.DEDENT,
            ):
                code_on_line = token.end[0]
    except (tokenize.TokenError, SyntaxError, UnicodeDecodeError):
        return


def _waiver(file: str, line: int, text: str) -> Waiver:
    example = "write '# perfguard: ignore[sql_n_plus_one] why it is tolerated'"
    match = _IGNORE.fullmatch(text)
    if not match:
        return Waiver(file, line, problem=f"this is not a waiver: {example}")
    metrics = tuple(name.strip() for name in match["metrics"].split(",") if name.strip())
    reason = match["reason"].strip(" \t-:\N{EN DASH}\N{EM DASH}")
    unknown = [name for name in metrics if name not in WAIVABLE]
    if not metrics:
        return Waiver(file, line, problem=f"the waiver names no metric: {example}")
    if unknown:
        problem = f"{unknown[0]} cannot be waived on a line; {_LISTED} can"
        return Waiver(file, line, problem=problem)
    if not reason:
        return Waiver(file, line, problem=f"the waiver gives no reason: {example}")
    return Waiver(file, line, metrics, reason)
