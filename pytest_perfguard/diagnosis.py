"""Finds out what a project's settings ask for and what of it does not happen.

pytest reads its configuration as it always does, conftest files included, and ends before it
collects anything.
"""

from __future__ import annotations

import configparser
import os
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from pytest_perfguard.baseline_checks import read_modes
from pytest_perfguard.baseline_files import FOLDER
from pytest_perfguard.budgets import Rules
from pytest_perfguard.errors import DiagnosisError, PerfguardError
from pytest_perfguard.history import History
from pytest_perfguard.model import Level
from pytest_perfguard.options import OPTIONS, Option, option, refuse_unread_table, tables
from pytest_perfguard.recorder import Recorder
from pytest_perfguard.time_mode import times_are_compared, why_not_compared
from pytest_perfguard.units import several

# What is measured with, by the extra that installs it and the probe that needs it.
_LIBRARIES = (
    ("sqlalchemy", "sql", "sql"),
    ("redis", "cache", "cache"),
    ("celery", "tasks", "tasks"),
    ("psutil", "process", "process"),
    ("pyinstrument", "profile", "profile"),
)
_OTHERS = (
    "pytest",
    "pytest-xdist",
    "pytest-benchmark",
    "locust",
    "httpx",
    "requests",
    "flask",
    "django",
)
# Variables of services for continuous integration, each of which sets CI where it is left alone.
_CI = ("GITHUB_ACTIONS", "GITLAB_CI", "BUILDKITE", "CIRCLECI", "JENKINS_URL", "TF_BUILD")
_INI_FILES = {
    "pytest.toml": ("pytest",),
    ".pytest.toml": ("pytest",),
    "pytest.ini": ("pytest",),
    ".pytest.ini": ("pytest",),
    "pyproject.toml": ("tool.pytest", "tool.pytest.ini_options"),
    "tox.ini": ("pytest",),
    "setup.cfg": ("tool:pytest",),
}
# Folders in which nobody keeps tests.
_SKIPPED = ("node_modules", "site-packages")


class State(StrEnum):
    """How something is."""

    ON = "on"
    UNUSED = "not used"
    WARNS = "only warns"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that was looked at.

    Attributes:
        asked: the settings ask for it, so that it must not be off.
        text: what there is to say, with the remedy where one is needed.
    """

    name: str
    state: State
    text: str = ""
    asked: bool = False

    @property
    def is_wrong(self) -> bool:
        """Whether it is off though it is asked for."""
        return self.asked and self.state is State.OFF


@dataclass(slots=True)
class Diagnosis:
    """What was found.

    Attributes:
        installed: versions by the name of the distribution; None where it is not installed.
        settings: each one that is not its default, with its value and where it was written.
    """

    root: str = ""
    file: str = ""
    installed: dict[str, str | None] = field(default_factory=dict)
    probes: list[Line] = field(default_factory=list)
    gates: list[Line] = field(default_factory=list)
    settings: list[tuple[str, str, str]] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)

    @property
    def is_fine(self) -> bool:
        """Whether everything that the settings ask for happens."""
        return not any(line.is_wrong for line in (*self.probes, *self.gates))


def diagnose(arguments: Sequence[str]) -> Diagnosis:
    """Look at a project as pytest sees it.

    Args:
        arguments: of pytest, as the suite is run with.

    Raises:
        DiagnosisError: if pytest does not come so far.
    """
    examiner, output = _Examiner(), StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        code = pytest.main([*arguments], plugins=[examiner])
    if examiner.error is not None:
        raise examiner.error
    if examiner.found is None:
        raise DiagnosisError(
            f"pytest does not start here (exit code {int(code)}):\n{output.getvalue().strip()}"
        )
    return examiner.found


class _Examiner:
    """Takes pytest's place once it has read its configuration."""

    def __init__(self) -> None:
        self.found: Diagnosis | None = None
        self.error: Exception | None = None

    @pytest.hookimpl
    def pytest_cmdline_main(self, config: pytest.Config) -> int:
        """Look at the configuration; what comes after it is left out."""
        try:
            self.found = examine(config)
        except Exception as error:  # noqa: BLE001 - pytest would print a traceback and go on
            self.error = error
        return 0


def examine(config: pytest.Config) -> Diagnosis:
    """Look at a configuration that pytest has read."""
    names = [*(library for library, _, _ in _LIBRARIES), *_OTHERS]
    found = Diagnosis(
        root=str(config.rootpath),
        file=str(config.inipath or ""),
        installed={"pytest-perfguard": _version("pytest-perfguard")}
        | {name: _version(name) for name in names},
    )
    for key, file in _unread(config):
        where = config.inipath or "no file"
        found.gates.append(
            Line(
                key,
                State.OFF,
                f"it stands in {file}, which pytest does not read here: it reads {where}",
                asked=True,
            )
        )
    if not config.pluginmanager.has_plugin("perfguard"):
        found.gates.append(
            Line(
                "plugin",
                State.OFF,
                "pytest does not load it: look for -p no:perfguard and "
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD",
                asked=True,
            )
        )
        return found
    try:
        refuse_unread_table(config)
        found.settings = list(_settings(config))
        rules = Rules.read(
            *(
                [*lines, *option(config, name)]
                for lines, name in zip(tables(config), ("budgets", "level"), strict=True)
            )
        )
    except PerfguardError as error:
        found.gates.append(Line("settings", State.OFF, f"pytest refuses them: {error}", asked=True))
        return found
    found.probes = list(_probes(config, rules))
    found.gates += _gates(config, rules)
    found.hints = list(_hints(config))
    return found


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _unread(config: pytest.Config) -> Iterator[tuple[str, Path]]:
    """Yield settings in files that pytest would read if another one did not come first."""
    for name, sections in _INI_FILES.items():
        file = config.rootpath / name
        if file == config.inipath or not file.is_file():
            continue
        for section in sections:
            for key in _keys(file, section):
                if key.startswith("perfguard"):
                    yield key, file


def _has(file: Path, key: str) -> bool:
    # A file of another name, as -c may give, has the sections of one of these.
    sections = {section for known in _INI_FILES.values() for section in known}
    return any(key in _keys(file, section) for section in sections)


def _keys(file: Path, section: str) -> Sequence[str]:
    """Return the keys of a section; none where it cannot be read, as then nobody reads it."""
    with suppress(OSError, ValueError, configparser.Error):
        text = file.read_text(encoding="utf-8")
        if file.suffix != ".toml":
            parser = configparser.RawConfigParser(strict=False)
            parser.read_string(text)
            return list(parser[section]) if parser.has_section(section) else []
        table: Any = tomllib.loads(text)
        for part in section.split("."):
            table = table.get(part, {})
        return list(table)
    return []


# -- settings ------------------------------------------------------------------------------


def _settings(config: pytest.Config) -> Iterator[tuple[str, str, str]]:
    for known in OPTIONS:
        value = option(config, known.name)
        if value not in (known.default, ""):
            yield known.key, _shown(known, value), _where(config, known)


def _shown(known: Option, value: object) -> str:
    if known.metavar == "URL":
        with suppress(PerfguardError):
            return History(str(value), Path()).where
        return "(not shown)"
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)


def _where(config: pytest.Config, known: Option) -> str:
    """Return where a setting was written."""
    places = []
    in_file = known.in_ini and config.inipath is not None and _has(config.inipath, known.key)
    given = config.getoption(known.key)
    if in_file and (given is None or known.repeated):
        places.append(str(config.inipath))
    if given is not None:
        flags = tuple(f"{known.flag}{end}" for end in ("", "="))

        def has(words: Sequence[str]) -> bool:
            return any(word == flags[0] or word.startswith(flags[1]) for word in words)

        if has([str(word) for word in config.invocation_params.args]):
            places.append("command line")
        elif has(os.environ.get("PYTEST_ADDOPTS", "").split()):
            places.append("PYTEST_ADDOPTS")
        else:
            places.append(f"addopts in {config.inipath}")
    return " and ".join(places) or "-o on the command line"


# -- probes --------------------------------------------------------------------------------


def _probes(config: pytest.Config, rules: Rules) -> Iterator[Line]:
    asked = {budget.metric.probe for rule in rules.budgets for budget in rule.budgets}
    refused = ""
    try:
        with Recorder() as recorder:
            live = set(recorder.listening)
    except PerfguardError as error:
        live, refused = set(), str(error)
    needs = {probe: (library, extra) for library, extra, probe in _LIBRARIES}
    for probe in ("sql", "cache", "tasks", "http", "process", "loop", "profile"):
        library, extra = needs.get(probe, ("", ""))
        missing = library and _version(library) is None
        if probe == "profile":
            is_asked = option(config, "profile") not in ("marked", "never")
            state = State.OFF if missing else State.ON if is_asked else State.UNUSED
        else:
            is_asked = probe in asked
            state = State.ON if probe in live else State.OFF
        text = ""
        if missing:
            text = f"{library} is not installed: pytest-perfguard with the extra [{extra}] has it"
            if probe == "process":
                # The processor's time needs no library.
                state, text = State.ON, f"without memory: {text}"
        elif state is State.OFF:
            text = refused or f"{library} {_version(library)} cannot be measured"
        yield Line(probe, state, text, asked=is_asked)


# -- gates ---------------------------------------------------------------------------------


def _gates(config: pytest.Config, rules: Rules) -> Iterator[Line]:
    yield from _budget_gates(config, rules)
    yield from _baseline_gates(config)
    yield _times(config)
    yield _history(config)


def _budget_gates(config: pytest.Config, rules: Rules) -> Iterator[Line]:
    number = len(rules.budgets)
    lines = f"{several(number, 'line')} of default budgets besides"
    yield Line("budgets", State.ON, f"those of marks; {lines}")
    for level in rules.levels:
        if level.level is Level.WARN:
            what = level.metric or level.rule or "every breach"
            yield Line("levels", State.WARNS, f"{what} in {level.pattern} does not fail a test")
    if option(config, "unproven") == "warn":
        yield Line("unproven", State.WARNS, "a budget that proves nothing does not fail its test")


def _baseline_gates(config: pytest.Config) -> Iterator[Line]:
    files = list(_baselines(config.rootpath))
    stored = f"{several(len(files), 'file')} of baselines"
    off = [rule.pattern for rule in read_modes(option(config, "baseline")) if rule.mode == "off"]
    if "*" in off:
        text = f"perfguard_baseline is off for all tests, and there are {stored}"
        yield Line("baselines", State.OFF, text, asked=bool(files))
    elif off:
        yield Line("baselines", State.OFF, f"perfguard_baseline is off for {', '.join(off)}")
    else:
        yield Line("baselines", State.ON if files else State.UNUSED, stored)
    service = next((name for name in _CI if os.environ.get(name)), "")
    new = option(config, "new")
    if service and not os.environ.get("CI") and new == "auto":
        text = (
            f"{service} is set and CI is not, so a test without a baseline only warns: set CI, or "
            "perfguard_new = fail"
        )
        yield Line("new tests", State.OFF, text, asked=bool(files))
    elif new == "warn" and files:
        yield Line("new tests", State.WARNS, "a test without a baseline passes (perfguard_new)")


def _baselines(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _SKIPPED]
        if Path(folder).name == FOLDER:
            yield from (Path(folder, name) for name in files if name.endswith(".json"))


def _times(config: pytest.Config) -> Line:
    store = option(config, "times")
    if not store:
        return Line("stored times", State.UNUSED)
    if not times_are_compared(config):
        return Line("stored times", State.OFF, why_not_compared(config), asked=True)
    from pytest_perfguard import times  # noqa: PLC0415 - rarely needed

    try:
        stored = times.read(config.rootpath / store, times.environment())
    except PerfguardError as error:
        return Line("stored times", State.OFF, str(error), asked=True)
    needed, number = option(config, "times_needed"), len(stored.processes)
    if number < needed:
        others = "".join(f"; {other}" for other in stored.others[:1])
        text = (
            f"{number} of {needed} processes are stored for this environment, so no time is judged "
            f"yet{others}: --perfguard-update --perfguard-processes={needed} stores them"
        )
        return Line("stored times", State.OFF, text, asked=True)
    return Line("stored times", State.ON, f"{number} processes are stored for this environment")


def _history(config: pytest.Config) -> Line:
    url = option(config, "history")
    if not url:
        return Line("history", State.UNUSED)
    try:
        history = History(url, config.rootpath)
        if history.is_missing:
            return Line("history", State.ON, f"nothing at {history.where} yet")
        runs = history.runs(limit=1)
    except PerfguardError as error:
        return Line("history", State.OFF, str(error), asked=True)
    newest = f"the newest run is of {runs[0].started[:16]}" if runs else "without a run"
    return Line("history", State.ON, f"{history.where}, {newest}")


def _hints(config: pytest.Config) -> Iterator[str]:
    plugins = {
        distribution.metadata["Name"]
        for _, distribution in config.pluginmanager.list_plugin_distinfo()
    }
    if "locust" in plugins and config.pluginmanager.has_plugin("locust"):
        yield (
            "locust has a pytest plugin whose fixtures 'session' and 'fastsession' import gevent, "
            "which patches the process of the tests: switch it off with -p no:locust"
        )
    if config.getoption("cov_source", None):
        yield "pytest-cov traces the tests, which makes their times those of nobody else"
    if config.getoption("benchmark_disable", default=False):
        yield "--benchmark-disable: the benchmark fixture times nothing, so limits on it fail"
