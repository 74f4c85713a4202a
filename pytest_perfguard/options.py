"""Every option, once: its command-line form, its ini twin and its help come from one table.

This module is loaded by every pytest that has the plugin installed, so it imports nothing but
pytest's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pytest


class Option(NamedTuple):
    """An option ``--perfguard-NAME`` with the ini twin ``perfguard_NAME``.

    Attributes:
        ini_type: type of the ini value, as pytest names it; ``linelist`` options may be given
            several times on the command line, after the lines of the ini file.
    """

    name: str
    help: str
    ini_type: str = "string"
    default: Any = None
    metavar: str | None = None
    choices: tuple[str, ...] | None = None

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
        "'PATTERN: LEVEL' or 'PATTERN METRIC: LEVEL'; later lines win (may be repeated)",
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
    ),
    Option("top", "length of the lists in the report", "int", default=5, metavar="N"),
    Option(
        "packages",
        "installed package that counts as your own code when a line is named (may be repeated)",
        "linelist",
        default=[],
        metavar="NAME",
    ),
    Option(
        "show_parameters",
        "keep and show the parameters of statements; they stay out of every file",
        "bool",
        default=False,
    ),
)
_BY_NAME = {option.name: option for option in OPTIONS}


def add_options(parser: pytest.Parser) -> None:
    """Register every option with pytest."""
    group = parser.getgroup("perfguard", "performance budgets (pytest-perfguard)")
    for option in OPTIONS:
        attributes: dict[str, Any] = {"dest": option.key, "default": None}
        match option.ini_type:
            case "bool":
                attributes |= {"action": "store_true"}
            case "linelist":
                attributes |= {"action": "append", "metavar": option.metavar}
            case "int":
                attributes |= {"type": int, "metavar": option.metavar}
            case _:
                attributes |= {"metavar": option.metavar, "choices": option.choices}
        group.addoption(option.flag, help=option.help, **attributes)
        parser.addini(option.key, option.help, type=option.ini_type, default=option.default)  # type: ignore[arg-type] # one of pytest's literals


def is_asked_for(config: pytest.Config) -> bool:
    """Return whether any option differs from its default."""
    return any(option(config, known.name) != known.default for known in OPTIONS)


def option(config: pytest.Config, name: str) -> Any:
    """Return the value of an option: the command line's, else the ini file's, else the default.

    Raises:
        SettingError: if the ini value is not one of the option's choices.
    """
    known = _BY_NAME[name]
    given = config.getoption(known.key)
    if known.ini_type == "linelist":
        return [*config.getini(known.key), *(given or ())]
    value = config.getini(known.key) if given is None else given
    if known.choices and value not in known.choices:
        from pytest_perfguard.errors import SettingError  # noqa: PLC0415 - only on a mistake

        raise SettingError(f"{known.key} = {value!r}: one of {', '.join(known.choices)}")
    return value
