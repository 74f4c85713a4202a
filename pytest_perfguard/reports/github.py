"""A run as annotations of GitHub Actions: each problem on the line of the code that caused it.

These are commands that a step prints. The platform shows ten errors and ten warnings of a step, so
those of one cause are one, and what is left out is said.
"""

from __future__ import annotations

from pytest_perfguard.model import Run
from pytest_perfguard.reports.problems import Problem, in_repository, is_below, problems
from pytest_perfguard.visible import visible

MOST = 10
"""How many errors, and how many warnings, of one step are shown."""
_MAX_TITLE = 200
_MAX_MESSAGE = 4_000
_TESTS = 3


def to_annotations(run: Run) -> str:
    """Return the commands that annotate what is against a run, one a line."""
    return "".join(f"{line}\n" for line in commands(run))


def commands(run: Run) -> list[str]:
    """Return the commands, errors first."""
    found = problems(run)
    lines = []
    for level, fails in (("error", True), ("warning", False)):
        of_level = [problem for problem in found if problem.fails is fails]
        lines += [_command(level, run, problem) for problem in of_level[:MOST]]
        if more := len(of_level) - MOST:
            noun = f"{level}{'' if more == 1 else 's'}"
            told = f"{more:,} more {noun} of perfguard: the report of the run has all"
            lines += [f"::notice title=perfguard::{told}"] if more > 0 else []
    return lines


def _command(level: str, run: Run, problem: Problem) -> str:
    place = problem.worst.place
    title = f"perfguard: {visible(problem.title)}"
    properties = {"title": title if len(title) <= _MAX_TITLE else f"{title[: _MAX_TITLE - 1]}…"}
    if is_below(place.file):
        line = {"line": str(place.line)} if place.line else {}
        properties = {"file": visible(in_repository(run, place.file)), **line, **properties}
    told = ",".join(f"{name}={_property(text)}" for name, text in properties.items())
    return f"::{level} {told}::{_message(_text(problem))}"


def _text(problem: Problem) -> str:
    nodeid = problem.worst.record.nodeid
    others = [test for test in problem.tests if test != nodeid]
    title, *rest = problem.lines()
    lines = [f"{', '.join(problem.limits)} in {nodeid}"]
    lines += [f"and in {test}" for test in others[:_TESTS]]
    lines += [f"and in {len(others) - _TESTS:,} more tests"] if len(others) > _TESTS else []
    # The title stands above the message.
    lines += [line for line in (title, *rest) if line not in (problem.title, *problem.limits)]
    text = "\n".join(visible(part) for line in lines for part in line.splitlines())
    return text if len(text) <= _MAX_MESSAGE else f"{text[: _MAX_MESSAGE - 1]}…"


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
