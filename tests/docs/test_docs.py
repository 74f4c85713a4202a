"""Every code block of the README and the docs does what it says.

A page is one project: blocks with a title are its files, ``console`` blocks are run in it and
their output is compared, other Python blocks are run as scripts. Blocks without a language are
drawings. In expected output ``...`` alone on a line stands for any lines, at the end of a line for
any text, and ``<time>`` for a duration. Of several blanks, the number does not matter.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from pytest_perfguard.metrics import METRICS
from pytest_perfguard.options import OPTIONS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TIME = re.compile(r"\d+(?:\.\d+)? ?(?:ns|µs|ms|s)\b")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


def blocks(page: Path) -> list[Token]:
    return [token for token in MarkdownIt().parse(page.read_text("utf-8")) if token.type == "fence"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page(page: Path, tmp_path: Path) -> None:
    for block in blocks(page):
        language, _, attributes = block.info.partition(" ")
        title = re.search(r'title="([^"]+)"', attributes)
        if title:
            tmp_path.joinpath(title[1]).parent.mkdir(parents=True, exist_ok=True)
            tmp_path.joinpath(title[1]).write_text(block.content, encoding="utf-8")
            if title[1].endswith(".toml"):
                tomllib.loads(block.content)
            continue
        match language:
            case "console":
                check_console(block.content, tmp_path)
            case "python":
                run(
                    [sys.executable, "-W", "error::DeprecationWarning", "-c", block.content],
                    tmp_path,
                )
            case "bash":
                check_is_run_by_ci(block.content)
            case _:
                assert not language, f"nobody runs blocks in {language!r}"


def run(command: list[str], folder: Path, *, may_fail: bool = False) -> str:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTEST")
    }
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}",
        "COLUMNS": "80",
        "PYTHONPATH": str(folder),
        "PYTHONIOENCODING": "utf-8",
        "PYTEST_ADDOPTS": "-p no:asyncio -p no:cacheprovider -p no:locust",
    }
    environment.pop("CI", None)
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False
    )
    assert may_fail or not done.returncode, done.stdout + done.stderr
    return done.stdout


def check_console(content: str, folder: Path) -> None:
    for session in re.split(r"^\$ ", content, flags=re.MULTILINE)[1:]:
        command, _, expected = session.partition("\n")
        output = run(command.split(), folder, may_fail=True)
        if not re.fullmatch(pattern(expected), plain(output)):
            pytest.fail(f"$ {command}\n{plain(output)}\n-- expected --\n{expected}", pytrace=False)


def plain(text: str) -> str:
    text = re.sub(r" in \d+\.\d+s\b.*", " in <time>", text)
    return TIME.sub("<time>", text).rstrip()


def pattern(expected: str) -> str:
    lines = []
    for line in plain(expected).splitlines():
        if line == "...":
            lines.append(r"(?:.*\n)*?")
        elif line.endswith(", ..."):
            lines.append(re.escape(line.removesuffix("...")) + ".*\n")
        else:
            # How wide a column is depends on the times in it.
            lines.append(re.sub(r"(?:\\ ){2,}", " {2,}", re.escape(line)) + "\n")
    return "".join(lines).removesuffix("\n")


def check_is_run_by_ci(content: str) -> None:
    script = ROOT.joinpath(".ci", "run").read_text("utf-8")
    for line in content.splitlines():
        environment = line.rpartition(" tox -e ")[2] or line.rpartition("/tox -e ")[2]
        assert f"readme_command {environment.rpartition(' ')[2]}" in script, line


def test_options_page_has_every_option() -> None:
    page = ROOT.joinpath("docs", "options.md").read_text("utf-8")
    for option in OPTIONS:
        twin = f"`{option.key}`" if option.in_ini else "none"
        assert re.search(rf"\| `{option.flag}(?:=\w+)?` \| {twin} \|", page), option.flag


def test_readme_has_every_metric() -> None:
    readme = ROOT.joinpath("README.md").read_text("utf-8")
    assert [name for name in METRICS if f"`{name}`" not in readme] == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = LINK.findall(page.read_text("utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []
