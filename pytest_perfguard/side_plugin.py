"""A pytest plugin for the processes of a comparison: tells what they have loaded, and from where.

Each process writes a file of its own into a folder that the environment names: which modules it
has loaded from one of the trees, or has under a name of the code under test; which tests it has
found and how they ended. Nothing is judged here.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pytest_perfguard.session_windows import in_a_line
from pytest_perfguard.writing import replace_file

VARIABLE = "PERFGUARD_AB_SIDE"
PLUGIN = "pytest_perfguard.side_plugin"
PROGRESS = "progress"
# In the folder: node ids, if only some tests are wanted.
CHOSEN = "chosen.json"
# Settings may ask for what has failed before, which is nothing in a tree of its own.
_OF_EARLIER_RUNS = ("lf", "failedfirst", "newfirst", "stepwise", "stepwise_skip")


def described(folder: Path, trees: Sequence[Path], names: Sequence[str]) -> str:
    """Return the value of the variable that tells a process what to report.

    Args:
        folder: where it writes.
        trees: modules from these are reported.
        names: of the code under test; modules of these names are reported wherever they are from.
    """
    return json.dumps({"folder": str(folder), "trees": [*map(str, trees)], "names": [*names]})


def origins(trees: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Return the file of every loaded module from one of the trees, or of one of the names."""
    roots = tuple(f"{os.path.realpath(tree)}{os.sep}" for tree in trees)
    wanted = frozenset(names)
    found = {}
    for name, file in _files():
        real = os.path.realpath(file)
        if real.startswith(roots) or name.partition(".")[0] in wanted:
            found[name] = real
    return found


def _files() -> Iterator[tuple[str, str]]:
    for name, module in list(sys.modules.items()):
        # Some modules are objects that do anything when they are asked for an attribute.
        with suppress(Exception):
            file = vars(module).get("__file__")
            if isinstance(file, str):
                yield name, file


class _Report:
    """What one process tells."""

    def __init__(self, config: pytest.Config, wish: Mapping[str, Any]) -> None:
        self._config = config
        self._wish = wish
        self._folder = Path(wish["folder"])
        self._is_worker = hasattr(config, "workerinput")
        self._tests: list[str] = []
        self._files: set[str] = set()
        self._outcomes: dict[str, dict[str, str]] = {}
        self._collect_errors: dict[str, str] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Keep the tests that are wanted."""
        chosen = self._folder / CHOSEN
        if chosen.exists():
            wanted = set(json.loads(chosen.read_bytes()))
            others = [item for item in items if item.nodeid not in wanted]
            items[:] = [item for item in items if item.nodeid in wanted]
            config.hook.pytest_deselected(items=others)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep why a file could not be collected."""
        if report.failed:
            self._collect_errors[report.nodeid] = _reason(report)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Tell which tests there are, before anything could kill this process."""
        self._tests = [item.nodeid for item in session.items]
        # What makes tests of a module that is code, as doctest does, makes it no file of tests.
        self._files = {
            str(item.path)
            for item in session.items
            if isinstance(item, pytest.Function) or item.path.suffix != ".py"
        }
        self._write()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep how each test ended; the controller of xdist is told by its workers."""
        if self._is_worker:
            return
        known = self._outcomes.setdefault(report.nodeid, {})
        if report.when == "setup":
            known.clear()
        said: str = report.outcome
        if hasattr(report, "wasxfail"):
            said = "xfailed" if report.skipped else "xpassed"
        known[report.when] = said if report.passed else f"{said}: {_reason(report)}"
        if report.when == "teardown":
            with self._folder.joinpath(PROGRESS).open("a", encoding="ascii") as file:
                file.write(".")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Tell what has been loaded while tests ran."""
        self._write()

    def _write(self) -> None:
        config = self._config
        data = {
            "origins": origins(self._wish["trees"], self._wish["names"]),
            "root": str(config.rootpath),
            "ini": str(config.inipath or ""),
            "tests": self._tests,
            "files": sorted(self._files),
            "outcomes": self._outcomes,
            "collect_errors": self._collect_errors,
            "conftests": [
                file
                for plugin in config.pluginmanager.get_plugins()
                if (file := getattr(plugin, "__file__", None))
                and os.path.basename(file) == "conftest.py"  # noqa: PTH119 - it may be anything
            ],
        }
        replace_file(self._folder / f"process-{os.getpid()}.json", json.dumps(data))


def _reason(report: pytest.CollectReport | pytest.TestReport) -> str:
    return in_a_line(report).removeprefix("Skipped: ")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Choose no tests by earlier runs, before anything reads these options."""
    for name in _OF_EARLIER_RUNS:
        if hasattr(config.option, name):
            setattr(config.option, name, False)


def pytest_configure(config: pytest.Config) -> None:
    """Report, where the environment says where to."""
    # A pytest that a test starts is none of the comparison's.
    known, own, _ = os.environ.get("PYTEST_ADDOPTS", "").partition(f"-p {PLUGIN}")
    if own:
        os.environ["PYTEST_ADDOPTS"] = known.strip()
    if wish := os.environ.get(VARIABLE):
        config.pluginmanager.register(_Report(config, json.loads(wish)), "perfguard-side")
