"""``perfguard ab`` on a small repository of the shop, with pytest in processes of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_perfguard import coordinator, read_run, workspaces
from pytest_perfguard.cli import main
from pytest_perfguard.duet import DuetResult
from pytest_perfguard.meetings import Blocks, Meeting
from pytest_perfguard.sides import Side

LEAN = ("-p", "no:anyio", "-p", "no:asyncio", "-p", "no:hypothesispytest", "-p", "no:benchmark")
TESTS = """
import shop


def test_list():
    assert len(shop.list_eagerly()) == 20


def test_nothing():
    pass
"""
Ab = Callable[..., int]


@pytest.fixture(autouse=True)
def project(
    pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shop: None
) -> Path:
    """Commit the shop, and tests of it, to a repository."""
    config = tmp_path / "gitconfig"
    config.write_text("[user]\nname=me\nemail=me@localhost\n[init]\ndefaultBranch=main\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for name in ("GITHUB_STEP_SUMMARY", "CI"):
        monkeypatch.delenv(name, raising=False)
    path = pytester.path
    path.joinpath("tests").mkdir()
    path.joinpath("tests", "test_shop.py").write_text(TESTS)
    path.joinpath("plain.py").touch()
    path.joinpath(".gitignore").write_text("*.db\n__pycache__\n")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "one")
    return path


def git(*arguments: str) -> str:
    done = workspaces.git(Path(), *arguments)
    assert not done.returncode, done.stderr
    return done.stdout


def state(project: Path) -> list[str]:
    """What a user would notice of a repository, and what is left in the temporary folder."""
    told = [git(*a.split()) for a in ("status --porcelain", "stash list", "worktree list")]
    index = project.joinpath(".git", "index").read_bytes()
    return [*told, git("for-each-ref"), repr(index), str(sorted(Path(".git").iterdir()))]


@pytest.fixture
def ab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project: Path) -> Ab:
    """Run the command, and see that it leaves nothing."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))

    def run(*arguments: str, pytest_args: Sequence[str] = ("tests",)) -> int:
        before = state(project)
        code = main(["ab", *arguments, "--", *LEAN, *pytest_args])
        assert state(project) == before
        assert [*temporary.iterdir()] == []
        return code

    return run


def edit(path: str, old: str, new: str) -> None:
    file = Path(path)
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_comment_changes_nothing(
    ab: Ab,
    project: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    edit("shop.py", '"""2 statements."""', "# Two statements.")
    edit("tests/test_shop.py", "import shop", "# The shop.\nimport shop")
    git("add", "tests")
    project.joinpath("untracked.py").write_text("")
    summary, out = tmp_path / "summary.md", tmp_path / "out"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    files = (f"--markdown={out / 'ab.md'}", f"--html={out / 'ab.html'}", f"--json={out}")
    assert ab("main", *files) == 0
    shown, progress = capsys.readouterr()
    assert re.sub(r"[\d.]+ m?s\)|\([0-9a-f]{10}\)", "…", shown) == (
        "perfguard ab: main … against the working tree (3 uncommitted files)\n"
        "note: no test times anything on both sides, so that only counts are compared\n"
        "\n"
        "1 test compared: 1 same; 1 without anything to compare (…\n"
    )
    assert progress.splitlines() == [
        "perfguard: checking out both revisions",
        "perfguard: counting head",
        "perfguard: counting base",
    ]
    markdown = out.joinpath("ab.md").read_text("utf-8")
    assert markdown.startswith("## perfguard: ✅ Nothing is costlier or slower\n")
    assert summary.read_text("utf-8") == f"before\n{markdown}"
    assert "1 test compared: 1 same" in out.joinpath("ab.html").read_text("utf-8")
    result = json.loads(out.joinpath("result.json").read_text("utf-8"))
    assert (result["fails"], result["tests"][0]["grades"]) == (False, ["same"])
    assert result["idle"] == ["tests/test_shop.py::test_nothing"]
    runs = [read_run(out / side / "run.json") for side in ("base", "head")]
    assert runs[0].source == {"commit": git("rev-parse", "main").strip()}
    assert runs[1].source["dirty"] == "yes"
    assert [run.records[0].metrics["sql_queries"] for run in runs] == [2, 2]


def test_what_changed_is_named_and_what_cannot_be_compared_too(
    ab: Ab, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All in one comparison, since each costs four runs of pytest."""
    runs = tmp_path / "runs"
    edit("shop.py", "def list_eagerly():", "def gone():\n    return 1\n\n\ndef list_eagerly():")
    git("commit", "-qam", "two")
    git("checkout", "-qb", "feature")
    edit("shop.py", "def gone():\n    return 1\n\n\n", "")
    edit("shop.py", ".options(selectinload(Resource.owner))", "")
    # Settings of head, that base does not have.
    project.joinpath("pyproject.toml").write_text(
        '[tool.pytest.ini_options]\npython_functions = ["test_", "check_"]\n'
    )
    with project.joinpath("tests", "test_shop.py").open("a") as file:
        file.write(f"""

def check_new_name():
    assert not hasattr(shop, "gone"), "still there"


def test_flaky():
    with open({str(runs)!r}, "a") as runs:
        runs.write("x")
    with open({str(runs)!r}) as runs:
        for number in range(len(runs.read())):
            shop.get_email(1)
""")
    edit("shop.py", "class User(Base)", "class Unknown: pass\n\n\nclass User(Base)")
    project.joinpath("tests", "test_new.py").write_text(
        "from shop import Unknown\n\n\ndef test_new():\n    Unknown()\n"
    )
    git("add", "-A")
    git("commit", "-qm", "three")
    assert ab("main", "feature") == 1
    shown = capsys.readouterr().out
    assert "COSTLIER tests/test_shop.py::test_list\n  sql_queries     2 -> 21\n" in shown
    lines = Path("shop.py").read_text().splitlines()
    line = max(number for number, text in enumerate(lines, 1) if "resource.owner.email" in text)
    assert re.search(rf"\n      \+20x SELECT users\.id, .*  at shop\.py:{line} in list_eag", shown)
    assert "fix: select(Resource).options(selectinload(Resource.owner))" in shown
    assert (
        "flaky: differs between two runs of one side, and is not judged (1):\n"
        "  tests/test_shop.py::test_flaky\n"
        "    sql_queries: 2 to 3 in base, 1 to 4 in head\n"
    ) in shown
    assert (
        "not comparable (2):\n"
        "  tests/test_new.py: cannot be collected with the code of base: ImportError: cannot "
        "import name 'Unknown' from 'shop' (shop.py)\n"
    ) in shown
    assert "  tests/test_shop.py::check_new_name: passes in head only; in base: failed: " in shown
    assert "2 tests compared: 1 costlier, 1 flaky; 2 not comparable; 1 without" in shown


def test_a_side_that_imports_other_code_is_refused(
    ab: Ab, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As an editable install does where it comes before the tree."""
    project.joinpath("tests", "conftest.py").write_text(
        f"import sys\nsys.path.insert(0, {str(project)!r})\n"
    )
    # pytest's own order would have the tree's root first again.
    assert ab("main", pytest_args=("tests", "--import-mode=importlib")) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert (
        "perfguard: head does not run the code of head:\n"
        f"  shop: {project}/shop.py (your checkout)\n"
        "name the folder that the code is imported from with --path DIR, or give each side"
    ) in err


def test_what_is_no_test_of_head_runs_with_the_code_of_each_side(
    ab: Ab, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Doctests are in the code, a pytest that a test starts is none of ours."""
    edit("shop.py", "def seed():", 'def seed():\n    """\n    >>> 1 + 1\n    2\n    """')
    project.joinpath("tests", "test_more.py").write_text(
        "import os, subprocess, sys\nimport shop\n\n\n"
        "def test_timed(perf):\n"
        "    shop.get_email(1)\n"
        "    if hasattr(shop, 'fast'):\n"
        "        perf.time(shop.fast, name='fast', rounds=5, warmup=0)\n\n\n"
        "def test_inner(tmp_path):\n"
        "    tmp_path.joinpath('test_in.py').write_text('def test_it(): pass')\n"
        "    assert 'perfguard' not in os.environ.get('PYTEST_ADDOPTS', '')\n"
        "    command = [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', 'test_in.py']\n"
        "    subprocess.run(command, cwd=tmp_path, check=True)\n"
    )
    git("add", "-A")
    git("commit", "-qm", "two")
    edit("shop.py", ".options(selectinload(Resource.owner))", "")
    edit("shop.py", "def seed():", "def fast():\n    pass\n\n\ndef seed():")
    assert ab("main", pytest_args=("--doctest-modules", "shop.py", "tests")) == 1
    shown = capsys.readouterr().out
    assert "COSTLIER tests/test_shop.py::test_list\n  sql_queries     2 -> 21\n" in shown
    assert "  tests/test_more.py::test_timed\n" in shown
    assert "not comparable: it is timed in head only" in shown
    assert "2 tests compared: 1 costlier, 1 not timed; 3 without anything to compare" in shown


def test_code_in_a_folder_of_tests_is_no_code_of_base(
    ab: Ab, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in ("shop.py", "plain.py"):
        git("mv", path, f"tests/{path}")
    git("commit", "-qm", "two")
    edit("tests/shop.py", ".options(selectinload(Resource.owner))", "")
    assert ab("main") == 3
    err = capsys.readouterr().err
    assert "nothing was loaded from the tree of head but tests" in err
    assert "where code is in a folder of tests, name what belongs to the tests with --tests" in err
    assert ab("main", "--tests=tests/test_shop.py") == 1


def test_what_fails_when_it_is_counted_again_is_not_passed(
    ab: Ab, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project.joinpath("tests", "test_shop.py").write_text(
        "import shop\nfrom pathlib import Path\n\n\ndef test_once():\n"
        f"    mark = Path({str(tmp_path)!r}, shop.__file__.replace('/', '_'))\n"
        "    assert not mark.exists()\n"
        "    mark.touch()\n"
        "    shop.list_eagerly()\n"
    )
    edit("shop.py", ".options(selectinload(Resource.owner))", "")
    assert ab("main") == 3
    assert (
        "no test can be compared:\n"
        "  tests/test_shop.py::test_once: passed once, and not when it was run again\n"
    ) in capsys.readouterr().err


def test_tests_of_nothing_compare_nothing(
    ab: Ab, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project.joinpath("tests", "test_shop.py").write_text("def test_it(): pass\n")
    assert ab("main") == 3
    assert "nothing was loaded from the tree of head but tests" in capsys.readouterr().err
    project.joinpath("tests", "test_shop.py").write_text("import plain\ndef test_it(): pass\n")
    assert ab("main") == 3
    assert (
        "no test can be compared:\n  1 that pass on both sides do nothing that is counted or timed"
    ) in capsys.readouterr().err
    assert ab("main", pytest_args=("tests", "-k", "missing")) == 3
    assert "no test was found in head by pytest" in capsys.readouterr().err


def test_wrong_usage_is_told(ab: Ab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "ab.md"
    assert ab("mian", f"--markdown={report}") == 2
    assert report.read_text("utf-8").startswith("## perfguard: ❔ No result\n\n```text\nthere is")
    assert capsys.readouterr().err.startswith("perfguard: there is no revision 'mian' here")
    assert ab("main", pytest_args=("--no-such-option",)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2] == "perfguard: pytest refuses its arguments on the side head:"
    assert lines[-1].endswith(": error: unrecognized arguments: --no-such-option")
    assert ab("main", "--path=nowhere") == 2
    assert "--path nowhere: neither revision has such a folder\n" in capsys.readouterr().err


def test_a_side_that_cannot_be_run_is_told_with_what_may_be_the_reason(
    ab: Ab, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project.joinpath("tests", "conftest.py").write_text("import new_library\n")
    project.joinpath("requirements.txt").write_text("new_library\n")
    git("add", "-A")
    assert ab("main") == 3
    err = capsys.readouterr().err
    assert "gave no result on the side head:\n" in err
    assert "ModuleNotFoundError: No module named 'new_library'" in err
    assert "note: requirements.txt differs, and both sides run in this environment" in err


def test_settings_that_ask_for_earlier_failures_are_let_be(
    ab: Ab, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project.joinpath("pytest.ini").write_text("[pytest]\naddopts = --lf --sw\n")
    git("add", "-A")
    assert ab("main") == 0
    assert "1 test compared: 1 same" in capsys.readouterr().out


def test_only_what_is_inside_a_revision_can_be_named_as_tests(
    ab: Ab, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit("tests/test_shop.py", "== 20", "> 0")
    files = {path: path.read_bytes() for path in project.rglob("*.py")}
    for given in (".", "../base", str(project), str(project.parent / "tmp")):
        assert ab("main", f"--tests={given}") == 2
        assert f"perfguard: --tests {given} is " in capsys.readouterr().err
    assert ab("main", f"--tests={project / 'tests'}") == 0
    assert {path: path.read_bytes() for path in project.rglob("*.py")} == files


def test_a_setup_that_does_not_do_is_told(ab: Ab, capsys: pytest.CaptureFixture[str]) -> None:
    assert ab("main", "--setup=echo no such lock file; exit 7") == 3
    assert capsys.readouterr().err.endswith(
        "--setup failed on the side base (exit code 7):\nno such lock file\n"
    )
    python = f"mkdir -p .venv/bin && ln -s {os.path.realpath(sys.executable)} .venv/bin/python"
    assert ab("main", f"--setup={python}") == 3
    err = capsys.readouterr().err
    assert "the environment of base cannot run the tests: ModuleNotFoundError: No module" in err
    assert "let --setup install pytest-perfguard into it, too" in err


def test_what_is_slower_is_told_with_what_moved(
    ab: Ab, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The times are made up; the profiles are not."""
    project.joinpath("tests", "test_shop.py").write_text(
        "import shop\n\n\ndef test_times(perf):\n"
        "    perf.time(shop.work, name='work', rounds=5, warmup=0)\n"
    )
    edit("shop.py", "def seed():", "def work():\n    return sum(range(400_000))\n\n\ndef seed():")
    git("add", "-A")
    git("commit", "-qm", "two")
    edit("shop.py", "sum(range(400_000))", "slow()")
    edit("shop.py", "def work", "def slow():\n    return sum(range(4_000_000))\n\n\ndef work")
    seen = []

    def run_duets(
        sides: tuple[Side, Side], tests: Sequence[str], **options: object
    ) -> dict[str, DuetResult]:
        seen.append(([side.environment["PERFGUARD_SIDE"] for side in sides], [*tests]))
        first = sides[0].folder != sides[1].folder
        blocks = Blocks((0.001,) * 40, (0.001,) * 40, (0.0,) * 40)
        slower = replace(blocks, cpu=(0.01,) * 40) if first else blocks
        meetings = [Meeting(blocks, slower, 3, 0.5)] * 3
        result = DuetResult.of("tests/test_shop.py::test_times", "work", meetings)
        return {result.key: result}

    monkeypatch.setattr(coordinator, "run_duets", run_duets)
    # A busy machine may well stretch one profile more than the other.
    monkeypatch.setattr("pytest_perfguard.moved._WITHIN", 100.0)
    out = tmp_path / "out"
    assert ab("main", "--aa", f"--json={out}", f"--html={out / 'ab.html'}") == 1
    assert seen == [(["base", "head"], ["tests/test_shop.py::test_times"])] * 2
    shown = capsys.readouterr().out
    assert "head against itself differed by up to 0.0 %" in shown
    assert (
        "SLOWER tests/test_shop.py::test_times\n"
        "  work: slower by 900 % (CPU time of a call 1 ms -> 10 ms)\n"
        "      profiled: "
    ) in shown
    assert re.search(r"\n      \+[\d.]+ ms in `sum` under `slow`\n", shown)
    assert [each["call"] for each in json.loads(out.joinpath("times.json").read_text())] == ["work"]
    (picture,) = out.glob("*.svg")
    assert "slow" in picture.read_text("utf-8")
    page = out.joinpath("ab.html").read_text("utf-8")
    assert 'class="times"' in page
    assert "srcdoc=" in page


def test_whatever_tests_do_the_result_is_told_and_nothing_is_left(
    ab: Ab, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """They remove what git knows a worktree by, hide a process, and run in a hook of git."""
    started, inherited = tmp_path / "started", tmp_path / "inherited"
    with project.joinpath("tests", "test_shop.py").open("a") as file:
        file.write(f"""

def test_hostile():
    import os, subprocess, sys
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={{}},
        start_new_session=True)
    with open({str(started)!r}, "a") as file:
        file.write(f"{{other.pid}} ")
    with open({str(inherited)!r}, "a") as file:
        file.write(" ".join(name for name in os.environ if name.startswith("GIT_INDEX")))
    os.unlink(".git")
""")
    git("commit", "-qam", "two")
    os.utime(project / "plain.py", (1, 1))
    monkeypatch.setenv("GIT_DIR", str(project / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(project / ".git" / "index"))
    index = project.joinpath(".git", "index").read_bytes()
    code = main(["ab", "main", "--", *LEAN, "tests"])
    assert project.joinpath(".git", "index").read_bytes() == index
    shown = capsys.readouterr()
    assert (code, "1 test compared: 1 same" in shown.out) == (0, True), shown
    assert inherited.read_text() == ""
    assert not any(_runs(int(number)) for number in started.read_text().split())
    assert len(git("worktree", "list").splitlines()) == 1
    assert [*tmp_path.joinpath("tmp").iterdir()] == []


def test_killed_it_leaves_nothing(project: Path, tmp_path: Path) -> None:
    """Whatever else it has started is gone with it, and the worktrees too."""
    before = state(project)
    started, temporary = tmp_path / "started", tmp_path / "temporary"
    temporary.mkdir()
    project.joinpath("tests", "test_shop.py").write_text(
        "import os, subprocess, sys\nfrom pathlib import Path\n\n\ndef test_it():\n"
        "    other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],\n"
        "        start_new_session=True)\n"
        f"    file = Path({str(started)!r})\n"
        "    file.with_suffix('.new').write_text(f'{os.getpid()} {other.pid}')\n"
        "    file.with_suffix('.new').rename(file)\n"
        "    other.wait()\n"
    )
    git("commit", "-qam", "two")
    before = state(project)
    command = "from pytest_perfguard.cli import main; raise SystemExit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", command, "ab", "main", "--", *LEAN, "tests"],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert _comes(started.exists)
    assert len(git("worktree", "list").splitlines()) == 3
    processes = [int(number) for number in started.read_text().split()]
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert _comes(lambda: not [*temporary.iterdir()])
    assert _comes(lambda: not any(map(_runs, processes)))
    assert state(project) == before


def _comes(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + 60
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def _runs(process: int) -> bool:
    try:
        # One that has ended may not have been waited for.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
