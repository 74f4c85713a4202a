"""Every option, once: its command-line form, its ini twin and its help come from one table.

This module is loaded by every pytest that has the plugin installed, so it imports nothing but
pytest's own.
"""

from __future__ import annotations

from argparse import SUPPRESS
from typing import Any, NamedTuple

import pytest

from pytest_perfguard.errors import SettingError


class Option(NamedTuple):
    """An option ``--perfguard-NAME`` with the ini twin ``perfguard_NAME``.

    Attributes:
        ini_type: type of the ini value, as pytest names it; ``linelist`` options may be given
            several times on the command line, after the lines of the ini file.
        bare: value where the option is given without one; with one it takes the form
            ``--perfguard-NAME=CHOICE`` alone, so that it never swallows a path that follows it.
            Where there are no choices, a path that follows it is refused.
        in_ini: False for what nobody should have switched on for good.
    """

    name: str
    help: str
    ini_type: str = "string"
    default: Any = None
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    least: int | None = None
    bare: str | None = None
    in_ini: bool = True

    @property
    def repeated(self) -> bool:
        """Whether each use adds a line to those before."""
        return self.ini_type == "linelist"

    @property
    def key(self) -> str:
        """Name of the ini key and of the parsed option."""
        return f"perfguard_{self.name}" if self.name else "perfguard"

    @property
    def flag(self) -> str:
        """Name on the command line."""
        return f"--{self.key.replace('_', '-')}"


OPTIONS = (
    Option("", "measure every test and report, with no edits", "bool", default=False),
    Option("json", "write all records to FILE as JSON", metavar="FILE"),
    Option("html", "write a report to FILE that a browser opens from the disk", metavar="FILE"),
    Option("summary", "write a report for a pull request to FILE as Markdown", metavar="FILE"),
    Option("sarif", "write what is over a limit to FILE as SARIF", metavar="FILE"),
    Option("openmetrics", "write all metrics to FILE as OpenMetrics text", metavar="FILE"),
    Option(
        "github",
        "what GitHub Actions is told where a session runs there: 'auto' (annotations, and the "
        "step's summary) or 'off'",
        default="auto",
        choices=("auto", "off"),
    ),
    Option(
        "budgets",
        "default budgets: 'PATTERN: METRIC=LIMIT, ...' for the tests whose path or node id "
        "matches; later lines win over earlier ones and marks over both (may be repeated)",
        "linelist",
        default=[],
        metavar="LINE",
    ),
    Option(
        "level",
        "what a breach does: 'fail' (default) or 'warn', for all or as 'METRIC: LEVEL', "
        "'PATTERN: LEVEL' or 'PATTERN METRIC: LEVEL', where METRIC may be 'budgets' or "
        "'baselines', too; later lines win (may be repeated)",
        "linelist",
        default=[],
        metavar="LINE",
    ),
    Option(
        "unproven",
        "what a budget does in a test in which nothing was observed",
        default="fail",
        choices=("fail", "warn"),
    ),
    Option(
        "phases",
        "what is measured of a test: its 'call' phase, or 'setup+call' (fixtures too)",
        default="call",
        choices=("call", "setup+call"),
    ),
    Option(
        "n_plus_one",
        "how many different parameter sets make a repeated statement a candidate N+1",
        "int",
        default=5,
        metavar="N",
        least=2,
    ),
    Option(
        "baseline",
        "which tests are compared with their baselines: 'marked' with perf_baseline (default), "
        "'all' or 'off', also as 'PATTERN: MODE'; later lines win (may be repeated)",
        "linelist",
        default=[],
        metavar="LINE",
    ),
    Option(
        "update",
        "record and approve the baselines of the tests that run; '=verify' measures them twice, "
        "the second time in a fresh process, and stores a range where the two differ",
        choices=("all", "verify"),
        bare="all",
        in_ini=False,
    ),
    Option(
        "new",
        "what a test does that has no baseline yet: 'fail' or 'warn'; by default it fails where "
        "CI is set",
        default="auto",
        choices=("auto", "fail", "warn"),
    ),
    Option(
        "ratchet",
        "tighten a baseline by itself when a test has become better than it",
        "bool",
        default=False,
    ),
    Option(
        "times",
        "compare times with those that processes have stored in DIR, relative to the root "
        "directory, for tests that have baselines",
        metavar="DIR",
    ),
    Option(
        "add_times",
        "add what this process has measured to the stored times, if the session is green",
        "bool",
        default=False,
    ),
    Option(
        "time",
        "where times are compared: 'auto' (not under xdist), 'off', or 'force'",
        default="auto",
        choices=("auto", "off", "force"),
    ),
    Option(
        "times_needed",
        "how many stored processes it takes before a time may fail a test",
        "int",
        default=10,
        metavar="N",
        least=5,
    ),
    Option(
        "undecided",
        "what a time does that the state of the machine does not let judge",
        default="warn",
        choices=("warn", "fail"),
    ),
    Option(
        "processes",
        "with --perfguard-update: store times anew, of N processes, one after the other",
        "int",
        default=0,
        metavar="N",
        least=0,
        in_ini=False,
    ),
    Option("top", "length of the lists in the report", "int", default=5, metavar="N", least=0),
    Option(
        "packages",
        "installed package that counts as your own code when a line is named (may be repeated)",
        "linelist",
        default=[],
        metavar="NAME",
    ),
    Option(
        "show_parameters",
        "keep and show the parameters of statements and the words of cache commands; they stay "
        "out of every file",
        "bool",
        default=False,
    ),
    Option(
        "profile",
        "which tests are run once more under a profiler: those that ask for it ('marked', the "
        "default), 'never' any, those whose time or CPU is over a limit ('failed'), the N slowest "
        "('slow:N'), or 'all' that are measured",
        default="marked",
        metavar="WHEN",
    ),
    Option(
        "artifacts",
        "folder for the files that explain a run, such as profiles",
        default=".perfguard",
        metavar="DIR",
    ),
    Option(
        "key_words",
        "word that may be shown wherever it stands in a cache key, such as 'profile' in "
        "'user:{int}:profile' (may be repeated)",
        "linelist",
        default=[],
        metavar="WORD",
    ),
    Option(
        "task_timeout",
        "seconds for which a span waits for the tasks that were published in it to be run, where "
        "a budget needs their runs",
        "int",
        default=10,
        metavar="SECONDS",
        least=0,
    ),
    Option(
        "history",
        "add the run to the history in the database at URL, such as sqlite:///FILE; without one, "
        "to that of PERFGUARD_HISTORY_URL or to .perfguard/history.db",
        metavar="URL",
        bare="default",
    ),
    Option(
        "history_keep",
        "clear runs from the history that are older than DAYS; 0 keeps all",
        "int",
        default=0,
        metavar="DAYS",
        least=0,
    ),
)
_DEFAULTS = [option.default for option in OPTIONS]
_BY_NAME = {option.name: option for option in OPTIONS}


def add_options(parser: pytest.Parser) -> None:
    """Register every option with pytest."""
    group = parser.getgroup("perfguard", "performance budgets (pytest-perfguard)")
    for option in OPTIONS:
        attributes: dict[str, Any] = {"dest": option.key, "default": None}
        if option.bare is not None and option.choices:
            _add_with_choices(group, option, attributes)
            continue
        match option.ini_type:
            case "bool":
                attributes |= {"action": "store_true"}
            case "linelist":
                attributes |= {"action": "append", "metavar": option.metavar}
            case "int":
                attributes |= {"type": int, "metavar": option.metavar}
            case _ if option.bare is not None:
                attributes |= {"nargs": "?", "const": option.bare, "metavar": option.metavar}
            case _:
                attributes |= {"metavar": option.metavar, "choices": option.choices}
        group.addoption(option.flag, help=option.help, **attributes)
        if option.in_ini:
            parser.addini(option.key, option.help, type=option.ini_type, default=option.default)  # type: ignore[arg-type] # one of pytest's literals


def _add_with_choices(
    group: pytest.OptionGroup, option: Option, attributes: dict[str, Any]
) -> None:
    """Register an option that may stand alone, and one more for each of its choices.

    argparse's own optional value would take the next argument for it, which is a path.
    """
    attributes["action"] = "store_const"
    group.addoption(option.flag, help=option.help, const=option.bare, **attributes)
    for choice in option.choices or ():
        group.addoption(f"{option.flag}={choice}", help=SUPPRESS, const=choice, **attributes)


def refuse_unread_table(config: pytest.Config) -> None:
    """Refuse settings in a table that this version of pytest does not read.

    Raises:
        SettingError: if there are any: before pytest 9 ``[tool.pytest]`` is passed over in
            silence, and every budget in it with it.
    """
    file = config.rootpath / "pyproject.toml"
    if pytest.version_tuple >= (9,) or not file.is_file():
        return
    import tomllib  # noqa: PLC0415 - not needed by newer versions

    try:
        table = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {}).get("pytest", {})
    except (ValueError, OSError):
        return
    unread = [key for key in table if key.startswith("perfguard")]
    if unread:
        raise SettingError(
            f"{file}: {unread[0]} stands in [tool.pytest], which pytest {pytest.__version__} "
            "does not read: move it to [tool.pytest.ini_options]"
        )


def tables(config: pytest.Config) -> tuple[list[str], list[str]]:
    """Return the budgets of ``[tool.perfguard.budgets]`` as the lines of the two ini keys.

    A key of the table is a pattern, its value a table of limits, in which ``level`` may say what
    a breach does: ``"GET /api/*" = { http_p95 = "200ms", level = "warn" }``.

    Raises:
        SettingError: if ``pyproject.toml`` has such a table and it cannot be read.
    """
    file = config.rootpath / "pyproject.toml"
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return [], []
    if "perfguard" not in text:
        return [], []
    import tomllib  # noqa: PLC0415 - not needed otherwise

    try:
        table = tomllib.loads(text).get("tool", {}).get("perfguard", {})
    except ValueError as error:
        raise SettingError(f"{file}: {error}") from None
    unknown = set(table) - {"budgets"} if isinstance(table, dict) else set()
    budgets, levels = table.get("budgets", {}) if isinstance(table, dict) else None, []
    if unknown or not isinstance(budgets, dict):
        raise SettingError(
            f"{file}: [tool.perfguard] has a table 'budgets' and nothing else"
            + (f", not {min(unknown)!r}" if unknown else "")
        )
    lines = []
    for pattern, limits in budgets.items():
        if not isinstance(limits, dict):
            raise SettingError(
                f"{file}: [tool.perfguard.budgets] {pattern!r}: write "
                f'"{pattern}" = {{ sql_queries = 5 }}'
            )
        metrics = {name: limit for name, limit in limits.items() if name != "level"}
        lines.append(f"{pattern}: " + ", ".join(f"{n}={limit}" for n, limit in metrics.items()))
        levels += [f"{pattern} {name}: {limits.get('level', 'fail')}" for name in metrics]
    return lines, levels


def is_asked_for(config: pytest.Config) -> bool:
    """Return whether any option differs from its default; every one of them is read.

    Raises:
        SettingError: if one of them cannot be read.
    """
    return [option(config, known.name) for known in OPTIONS] != _DEFAULTS or any(tables(config))


def option(config: pytest.Config, name: str) -> Any:
    """Return the value of an option: the command line's, else the ini file's, else the default.

    Raises:
        SettingError: if the ini value has a wrong type or is not one of the option's choices.
    """
    known = _BY_NAME[name]
    given = config.getoption(known.key)
    if not known.in_ini:
        return given if given is not None else known.default
    try:
        value = config.getini(known.key) if given is None or known.repeated else given
    except (TypeError, ValueError) as error:
        raise SettingError(f"{known.key}: {error}") from None
    if known.repeated:
        return [*value, *(given or ())]
    if known.choices and value not in known.choices:
        raise SettingError(f"{known.key} = {value!r}: one of {', '.join(known.choices)}")
    if known.metavar == "URL" and value and value != known.bare and ":/" not in value:
        given = repr(value) if "@" not in value else "(not shown)"  # there may be a password in it
        raise SettingError(
            f"{known.key} = {given}: a URL such as sqlite:///FILE; without one, {known.flag} "
            "stands last or before another option"
        )
    if known.least is not None and value < known.least:
        raise SettingError(f"{known.key} = {value}: {known.least} or more")
    return value
