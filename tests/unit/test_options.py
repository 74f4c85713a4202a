from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from pytest_perfguard.errors import SettingError
from pytest_perfguard.options import OPTIONS, Option, is_asked_for, option

_every = pytest.mark.parametrize("known", OPTIONS, ids=lambda known: known.flag)


@pytest.fixture
def config(pytester: pytest.Pytester) -> Callable[..., pytest.Config]:
    """Make a session's configuration of command-line arguments and the lines of an ini file."""

    def make(*arguments: str, ini: str = "") -> pytest.Config:
        pytester.makeini(f"[pytest]\n{ini}\n")
        return pytester.parseconfig(*arguments)

    return make


@_every
def test_every_option_has_a_flag_an_ini_twin_and_a_help(known: Option) -> None:
    assert re.fullmatch(r"--perfguard(-[a-z]+)*", known.flag)
    assert known.key == known.flag.removeprefix("--").replace("-", "_")
    assert known.help
    assert not known.help.endswith(".")


def test_flags_are_not_shared() -> None:
    flags = [known.flag for known in OPTIONS]
    assert len(set(flags)) == len(flags)


def test_the_help_of_pytest_shows_every_option_and_its_twin(pytester: pytest.Pytester) -> None:
    shown = " ".join(pytester.runpytest_subprocess("--help").stdout.str().split())
    for known in OPTIONS:
        start = " ".join(known.help.split()[:4])
        named = f"[{known.metavar}]" if known.bare else known.metavar
        metavar = f"={named}" if known.metavar else ""
        choices = f"={{{','.join(known.choices)}}}" if known.choices and not known.bare else ""
        assert re.search(rf"{known.flag}{re.escape(metavar or choices)} {re.escape(start)}", shown)
        twin = re.search(rf" {known.key} \(\w+\): {re.escape(start)}", shown)
        assert bool(twin) is known.in_ini


@_every
def test_an_option_has_its_default_where_nobody_sets_it(
    config: Callable[..., pytest.Config], known: Option
) -> None:
    found = option(config(), known.name)
    assert found == known.default or (found == "" and known.default is None)


def test_an_option_that_nobody_sets_leaves_perfguard_idle(
    config: Callable[..., pytest.Config],
) -> None:
    assert not is_asked_for(config())


# Each option as it is written on the command line and in an ini file, and what it is read as.
_WRITTEN: dict[str, tuple[list[str], str, object]] = {
    "": (["--perfguard"], "true", True),
    "json": (["--perfguard-json=run.json"], "run.json", "run.json"),
    "summary": (["--perfguard-summary=run.json"], "run.json", "run.json"),
    "sarif": (["--perfguard-sarif=run.json"], "run.json", "run.json"),
    "openmetrics": (["--perfguard-openmetrics=run.json"], "run.json", "run.json"),
    "github": (["--perfguard-github=off"], "off", "off"),
    "html": (["--perfguard-html=report.html"], "report.html", "report.html"),
    "budgets": (["--perfguard-budgets=sql_rows=9"], "sql_rows=9", ["sql_rows=9"]),
    "level": (["--perfguard-level", "warn"], "warn", ["warn"]),
    "unproven": (["--perfguard-unproven=warn"], "warn", "warn"),
    "phases": (["--perfguard-phases=setup+call"], "setup+call", "setup+call"),
    "n_plus_one": (["--perfguard-n-plus-one=3"], "3", 3),
    "top": (["--perfguard-top=9"], "9", 9),
    "packages": (["--perfguard-packages=shop"], "shop", ["shop"]),
    "show_parameters": (["--perfguard-show-parameters"], "true", True),
    "task_timeout": (["--perfguard-task-timeout=3"], "3", 3),
    "baseline": (["--perfguard-baseline=all"], "all", ["all"]),
    "update": (["--perfguard-update"], "", "all"),
    "new": (["--perfguard-new=fail"], "fail", "fail"),
    "ratchet": (["--perfguard-ratchet"], "true", True),
    "times": (["--perfguard-times=times"], "times", "times"),
    "add_times": (["--perfguard-add-times"], "true", True),
    "time": (["--perfguard-time=off"], "off", "off"),
    "times_needed": (["--perfguard-times-needed=5"], "5", 5),
    "undecided": (["--perfguard-undecided=fail"], "fail", "fail"),
    "processes": (["--perfguard-processes=3"], "", 3),
    "profile": (["--perfguard-profile=slow:3"], "slow:3", "slow:3"),
    "artifacts": (["--perfguard-artifacts=out"], "out", "out"),
    "history": (["--perfguard-history"], "default", "default"),
    "history_keep": (["--perfguard-history-keep=90"], "90", 90),
    "key_words": (["--perfguard-key-words=profile"], "profile", ["profile"]),
}


@_every
def test_an_option_and_its_twin_mean_the_same(
    config: Callable[..., pytest.Config], known: Option
) -> None:
    arguments, ini, value = _WRITTEN[known.name]
    on_command_line = config(*arguments)
    in_file = [config(ini=f"{known.key} = {ini}")] if known.in_ini else []
    for made in (on_command_line, *in_file):
        assert option(made, known.name) == value
        assert is_asked_for(made)


def test_an_option_that_may_stand_alone_leaves_the_path_after_it(
    config: Callable[..., pytest.Config],
) -> None:
    made = config("--perfguard-update", "tests")
    assert (option(made, "update"), made.args) == ("all", ["tests"])
    assert option(config("--perfguard-update=verify", "tests"), "update") == "verify"
    with pytest.raises(pytest.UsageError, match="ignored explicit argument 'twice'"):
        config("--perfguard-update=twice")


def test_the_command_line_wins_over_the_file(config: Callable[..., pytest.Config]) -> None:
    made = config("--perfguard-top=2", "--perfguard-unproven=fail",
                  ini="perfguard_top = 9\nperfguard_unproven = warn")  # fmt: skip
    assert (option(made, "top"), option(made, "unproven")) == (2, "fail")


def test_lines_of_the_command_line_come_after_those_of_the_file(
    config: Callable[..., pytest.Config],
) -> None:
    made = config("--perfguard-level=b", "--perfguard-level=c",
                  ini="perfguard_level =\n    x\n    a")  # fmt: skip
    assert option(made, "level") == ["x", "a", "b", "c"]


@pytest.mark.parametrize(("name", "choices"), [("unproven", "fail, warn"),
                                               ("phases", "call, setup+call")])  # fmt: skip
def test_a_value_that_is_no_choice_is_refused_wherever_it_stands(
    config: Callable[..., pytest.Config], name: str, choices: str
) -> None:
    made = config(ini=f"perfguard_{name} = loud")
    with pytest.raises(SettingError) as caught:
        option(made, name)
    assert str(caught.value) == f"perfguard_{name} = 'loud': one of {choices}"
    with pytest.raises(pytest.UsageError, match="invalid choice: 'loud'"):
        config(f"--perfguard-{name}=loud")
