"""``perfguard doctor``: what is installed, what is measured, and which gates are off."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from textwrap import wrap
from typing import TYPE_CHECKING

from pytest_perfguard.commands.exit_codes import BREACH, OK

if TYPE_CHECKING:
    from pytest_perfguard.diagnosis import Diagnosis, Line

_WIDTH = 96


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "doctor",
        help="tell what is measured in this project, and which gates are off and why",
        description="Read the project's settings as pytest does, without running a test.",
        epilog="exit codes: 0 fine, 1 a gate is off that the settings ask for, 2 wrong usage, "
        "3 it cannot tell, as pytest does not start",
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.add_argument(
        "arguments", nargs="*", metavar="-- PYTEST_ARGS", help="as the suite is run"
    )
    parser.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    from pytest_perfguard.diagnosis import diagnose  # noqa: PLC0415 - it loads pytest

    found = diagnose(options.arguments)
    if options.json:
        print(json.dumps({"fine": found.is_fine, **asdict(found)}, indent=1))
    else:
        print("\n".join(_lines(found)))
    return OK if found.is_fine else BREACH


def _lines(found: Diagnosis) -> list[str]:
    lines = [f"project   {found.root}", f"settings  {found.file or 'no file'}", "", "installed:"]
    have = [f"{name} {number}" for name, number in found.installed.items() if number]
    missing = [name for name, number in found.installed.items() if number is None]
    lines += _wrapped(", ".join(have))
    if missing:
        lines += _wrapped(f"not installed: {', '.join(missing)}")
    if found.probes:
        lines += ["", "probes:", *_table(found.probes)]
    lines += ["", "gates:", *_table(found.gates)]
    if found.settings:
        lines += ["", "settings that are not the default:"]
        lines += [f"  {name} = {value}  ({where})" for name, value, where in found.settings]
    for hint in found.hints:
        lines += ["", *wrap(f"hint: {hint}", _WIDTH, subsequent_indent="  ")]
    wrong = [line.name for line in (*found.probes, *found.gates) if line.is_wrong]
    if wrong:
        lines += ["", f"off, though the settings ask for it: {', '.join(wrong)}"]
    else:
        lines += ["", "nothing is off that the settings ask for"]
    return lines


def _wrapped(text: str) -> list[str]:
    return wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def _table(rows: list[Line]) -> list[str]:
    width = max(len(row.name) for row in rows)
    states = max(len(row.state) for row in rows)
    lines = []
    for row in rows:
        first = f"{'!' if row.is_wrong else ' '} {row.name:<{width}}  {row.state:<{states}}  "
        text = wrap(row.text, max(_WIDTH - len(first), 40), break_on_hyphens=False) or [""]
        lines.append(f"{first}{text[0]}".rstrip())
        lines += [f"{'':{len(first)}}{part}" for part in text[1:]]
    return lines
