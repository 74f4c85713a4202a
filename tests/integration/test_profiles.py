"""Profiles: which tests get one, what a failure says, and that the reported run has none."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from pytest_perfguard.artifacts import FORMATS
from pytest_perfguard.model import Record
from pytest_perfguard.runs import read_run
from pytest_perfguard.stacks import Profile
from tests.integration.conftest import LEAN

Run = Callable[..., pytest.RunResult]
Failed = Callable[[pytest.RunResult], list[str]]
Records = Callable[[], dict[str, Record]]

WORK = '''
import json
import sys
import threading
from pathlib import Path

from pyinstrument.stack_sampler import get_stack_sampler


def note(name):
    """Write down that a test runs, and whether anything watches it."""
    watched = sys.getprofile() is not None or bool(get_stack_sampler().subscribers)
    with Path(__file__).with_name("runs.txt").open("a") as file:
        file.write(json.dumps([name, watched]) + "\\n")


def step(number):
    return number * number


def serialize(steps=100_000):
    for number in range(steps // 10):
        sum(range(300))
        step(number)
'''


@pytest.fixture(autouse=True)
def work(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(work=WORK)


@pytest.fixture
def runs(pytester: pytest.Pytester) -> Callable[[], list[tuple[str, bool]]]:
    """Read which tests ran, in this order, and whether each was profiled; forget them."""

    def read() -> list[tuple[str, bool]]:
        path = pytester.path / "runs.txt"
        found = [json.loads(line) for line in path.read_text().splitlines()]
        path.unlink()
        return sorted((name, watched) for name, watched in found)

    return read


Runs = Callable[[], list[tuple[str, bool]]]


@pytest.fixture
def profiles(pytester: pytest.Pytester) -> Callable[[], dict[str, Profile]]:
    """Read the profiles that were written, by their kind and name."""

    def read() -> dict[str, Profile]:
        found = {}
        for path in pytester.path.joinpath(".perfguard").rglob("*.profile.json"):
            profile = Profile.from_dict(json.loads(path.read_text("utf-8")))
            found[f"{profile.kind} {profile.name}"] = profile
        return found

    return read


Profiles = Callable[[], dict[str, Profile]]


def test_a_marked_test_is_run_once_more_and_its_hottest_lines_are_told(
    pytester: pytest.Pytester, run: Run, runs: Runs, profiles: Profiles
) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest, work

        @pytest.mark.perf_profile
        def test_it():
            work.note("test_it")
            work.serialize()

        def test_other():
            work.note("test_other")
        """
    )

    result = run()

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [
            "test_it.py::test_it:",
            "profile of test_it, in a pass of its own:",
            "    `serialize` work.py:2? * %",
            "    picture: .perfguard/profiles/test_it.py-test_it-*/test-test_it-*.svg",
        ]
    )
    assert runs() == [("test_it", False), ("test_it", True), ("test_other", False)]
    (hottest, *_) = profiles()["test test_it"].hottest()
    assert hottest.frame.file == "work.py"
    assert hottest.share > 0.5
    files = [path.name for path in pytester.path.glob(".perfguard/*/*/*")]
    assert {name.partition(".")[2] for name in files} == set(FORMATS)


@pytest.mark.parametrize(
    ("word", "workers"),
    [
        ("marked", ()),
        ("never", ()),
        ("failed", ()),
        ("failed", ("-n2",)),
        ("slow:3", ()),
        ("slow:3", ("-n2",)),
        ("all", ()),
    ],
    ids=lambda value: value if isinstance(value, str) else "xdist" if value else "one process",
)
def test_which_tests_are_profiled(
    pytester: pytest.Pytester, run_once: Run, runs: Runs, word: str, workers: tuple[str, ...]
) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest, work

        @pytest.mark.perf_profile
        def test_marked():
            work.note("marked")

        def test_measured(perf):
            work.note("measured")

        @pytest.mark.perf_budget(time_median="1us")
        def test_red(perf):
            work.note("red")
            perf.time(lambda: work.serialize(1000), rounds=5)

        @pytest.mark.perf_budget(sql_queries=0)
        def test_red_for_statements():
            import shop
            work.note("statements")
            shop.get_email(1)

        def test_slowest():
            work.note("slowest")
            work.serialize(1_000_000)
        """
    )

    result = run_once(f"--perfguard-profile={word}", "--perfguard-json=run.json", *workers)

    result.assert_outcomes(passed=3, failed=2)
    found = runs()
    assert sorted(name for name, watched in found if not watched) == [
        "marked",
        "measured",
        "red",
        "slowest",
        "statements",
    ]
    profiled = {name for name, watched in found if watched}
    wanted = {
        "marked": {"marked"},
        "never": set(),
        "failed": {"marked", "red"},
        "slow:3": {"marked", "slowest"},
        "all": {"marked", "measured", "red", "statements"},
    }[word]
    if word.startswith("slow"):
        # Each worker has a slowest test of its own.
        assert profiled >= wanted
    else:
        assert profiled == wanted
    # Those that take next to no time are not seen.
    run = read_run(pytester.path / "run.json")
    kept = {name.rpartition("_")[2] for name in run.profiles}
    assert {"red", "slowest"} & profiled <= kept <= profiled


def test_a_red_time_is_explained_in_the_text_of_the_failure(
    pytester: pytest.Pytester, run: Run, failed: Failed, profiles: Profiles
) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest, work

        @pytest.mark.perf_budget(time_median="1us")
        def test_red(perf):
            perf.time(work.serialize, rounds=5)
        """
    )

    result = run("--perfguard-profile=failed", "--show-capture=no")

    assert failed(result) == ["test_red"]
    result.stdout.fnmatch_lines(
        [
            "perfguard: 1 of 1 budget exceeded in *",
            "  time_median *",
            "profile of serialize, in a pass of its own:",
            "    `serialize` work.py:2? * %",
            "    picture: .perfguard/profiles/*.svg",
            "*short test summary*",
        ]
    )
    assert {"test test_red", "call serialize"} == set(profiles())


def test_the_counts_and_times_reported_are_those_of_the_run_without_a_profiler(
    pytester: pytest.Pytester, run: Run, records: Records, runs: Runs
) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest, shop, work

        @pytest.fixture
        def made():
            shop.get_email(1)
            yield shop
            shop.get_email(2)

        @pytest.mark.perf_budget(sql_queries=3, time_median="10s")
        def test_it(perf, made):
            work.note("test_it")
            made.list_eagerly()
            timed = perf.time(work.serialize, rounds=5)
            assert timed.timing.rounds == 5
            with perf.measure("block", sql_queries=1):
                made.get_email(3)
        """
    )

    def measured() -> Record:
        return records()["test_it"]

    run("--perfguard-json=run.json", "--perfguard-profile=never").assert_outcomes(passed=1)
    without = measured()
    assert runs() == [("test_it", False)]
    run("--perfguard-json=run.json", "--perfguard-profile=all").assert_outcomes(passed=1)
    profiled = measured()
    assert runs() == [("test_it", False), ("test_it", True)]

    def counts(record: Record) -> dict[str, float]:
        return {
            name: value
            for name, value in record.metrics.items()
            if name in ("sql_queries", "sql_roundtrips", "sql_rows", "sql_commits")
        }

    assert counts(profiled) == counts(without)
    assert counts(profiled)["sql_queries"] == 3
    assert [v.to_dict()["metric"] for v in profiled.verdicts] == [
        v.to_dict()["metric"] for v in without.verdicts
    ]
    names = [[span.name for span in record.span.walk()] for record in (profiled, without)]
    assert names[0] == names[1]


def test_fixtures_are_made_anew_for_the_pass_and_those_around_it_are_kept(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest
        from pathlib import Path

        def log(text):
            with Path(__file__).with_name("log.txt").open("a") as file:
                file.write(text + "\\n")

        @pytest.fixture(scope="module")
        def module():
            log("module up")
            yield
            log("module down")

        @pytest.fixture
        def items(module):
            log("items up")
            yield []
            log("items down")

        @pytest.mark.perf_profile
        @pytest.mark.parametrize("n", [1, 2])
        def test_it(items, n, capsys, caplog, tmp_path, monkeypatch, recwarn):
            items.append(n)
            assert not list(tmp_path.iterdir())
            tmp_path.joinpath("made").touch()
            print("said", n)
            assert items == [n]
            assert capsys.readouterr().out == f"said {n}\\n"
        """
    )

    result = run_once("-k", "1")

    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*torn down*")
    result.stdout.no_fnmatch_line("*ended early*")
    assert pytester.path.joinpath("log.txt").read_text().split("\n")[:-1] == [
        "module up",
        "items up",
        "items down",
        "items up",
        "items down",
        "module down",
    ]


def test_the_slowest_are_run_again_before_what_all_share_is_taken_down(
    pytester: pytest.Pytester, run_once: Run, runs: Runs
) -> None:
    for name in ("test_a", "test_b"):
        pytester.makepyfile(
            **{
                name: f"""
                import pytest, work

                @pytest.fixture(scope="session")
                def once():
                    work.note("session up")

                def test_slow(once, caplog, tmp_path):
                    work.note("{name} slow")
                    work.serialize(300_000)

                def test_fast(once, caplog, tmp_path):
                    work.note("{name} fast")
                """
            }
        )
    pytester.makeconftest(
        """
        import pytest, work

        @pytest.fixture(scope="session", autouse=True)
        def everything():
            work.note("everything up")
            yield
            work.note("everything down")
        """
    )

    result = run_once("--perfguard-profile=slow:2")

    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines_random(
        ["test_a.py::test_slow, *s:", "test_b.py::test_slow, *s:", "profile of test_slow, *"]
    )
    result.stdout.no_fnmatch_line("*torn down*")
    found = [name for name, _ in runs()]
    assert found.count("everything up") == 1
    assert found.count("test_a slow") == found.count("test_b slow") == 2
    assert found.count("test_a fast") == found.count("test_b fast") == 1


def test_the_report_tells_of_some_and_where_the_others_are(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest, work

        @pytest.mark.perf_profile
        @pytest.mark.parametrize("n", range(4))
        def test_it(n):
            work.serialize()
        """
    )

    result = run_once("--perfguard-top=1")

    result.stdout.fnmatch_lines(
        ["test_it.py::test_it[[]0]:", "    picture: *", "3 more profiles in *.perfguard/profiles"]
    )
    result.stdout.no_fnmatch_line("test_it.py::test_it[[]1]:")


def test_a_block_is_profiled_in_the_pass_alone(
    pytester: pytest.Pytester, run_once: Run, runs: Runs, profiles: Profiles
) -> None:
    pytester.makepyfile(
        test_it="""
        import work

        def test_it(perf):
            work.note("before")
            with perf.profile("report"):
                work.note("inside")
                work.serialize()
        """
    )

    run_once().assert_outcomes(passed=1)

    assert runs() == [("before", False), ("before", True), ("inside", False), ("inside", True)]
    assert profiles()["block report"].hottest(1)[0].frame.file == "work.py"

    run_once("--perfguard-profile=never").assert_outcomes(passed=1)
    assert runs() == [("before", False), ("inside", False)]


def test_rounds_are_profiled_by_their_endpoint(
    pytester: pytest.Pytester, run_once: Run, profiles: Profiles
) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest, work
        from fastapi import FastAPI
        from fastapi.testclient import TestClient

        app = FastAPI()

        @app.get("/items/{number}")
        def item(number: int) -> int:
            work.serialize(20_000)
            return number

        @pytest.mark.perf_budget(http_median="1us")
        def test_it(perf):
            perf.http(TestClient(app)).get("/items/7", rounds=20)
        """
    )

    result = run_once("--perfguard-profile=failed")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["profile of GET /items/{number}, in a pass of its own:", "    `serialize` work.py:2? *"]
    )
    profile = profiles()["request GET /items/{number}"]
    functions = {frame.function for stack in profile.stacks for frame in stack.frames}
    assert "item" in functions


CASE = """
class TestIt(unittest.TestCase):
  @classmethod
  def setUpClass(cls):
    pass

  @pytest.mark.perf_profile
  def test_it(self):"""


@pytest.mark.parametrize(
    ("test", "why"),
    [
        (
            "@pytest.mark.perf_profile(rerun=False)\ndef test_it(items):",
            "perf_profile(rerun=False)",
        ),
        ("@pytest.mark.perf_profile\n@pytest.mark.flaky\ndef test_it(items):", "another plugin"),
        (CASE, "it is a method of a unittest.TestCase"),
    ],
)
def test_where_fixtures_cannot_be_made_anew_the_function_alone_is_profiled(
    pytester: pytest.Pytester, run_once: Run, runs: Runs, profiles: Profiles, test: str, why: str
) -> None:
    body = "\n    work.note('test_it')\n    work.serialize()"
    body = body.replace("\n", "\n  ") if test is CASE else body
    pytester.makepyfile(
        test_it=f"""
import pytest, unittest, work

@pytest.fixture
def items():
    work.note("fixture")

{test}{body}
"""
    )

    result = run_once("--perfguard-json=run.json")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "    `serialize` work.py:2? * %",
            f"    the function of the test alone was run again: {why}*",
        ]
    )
    names = [name for name, _ in runs()]
    assert names.count("test_it") == 2
    assert names.count("fixture") <= 1
    assert profiles()["test test_it"].hottest(1)[0].frame.file == "work.py"


def test_what_goes_wrong_in_the_pass_is_told_and_changes_no_outcome(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest, work

        seen = []

        @pytest.mark.perf_profile
        def test_crashes():
            seen.append(1)
            work.serialize()
            assert len(seen) == 1, "a second run"

        @pytest.fixture
        def only_once():
            seen.append("up")
            assert seen.count("up") == 1

        @pytest.mark.perf_profile
        def test_cannot_be_set_up(only_once):
            pass

        @pytest.fixture
        def breaks():
            yield
            seen.append("down")
            assert seen.count("down") > 1, "torn down badly"

        @pytest.mark.perf_profile
        def test_cannot_be_torn_down(breaks):
            pass

        @pytest.mark.perf_profile
        def test_fails():
            assert False
        """
    )

    result = run("-v")

    result.assert_outcomes(passed=3, failed=1, errors=1)
    result.stdout.fnmatch_lines_random(
        [
            "    the profiled pass ended early, with AssertionError: a second run*",
            "    no profile: it could not be set up for one more run: AssertionError*",
            "    no profile: its fixtures could not be torn down for one more run",
            "*torn down badly*",
            "no profile: the test itself fails",
        ]
    )


def test_an_interrupt_in_the_pass_ends_the_session_and_loses_no_verdict(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        """
        import pytest
        seen = []

        @pytest.mark.perf_profile
        def test_it():
            seen.append(1)
            if len(seen) == 2:
                raise KeyboardInterrupt

        def test_never_run():
            pass
        """
    )

    result = pytester.runpytest_subprocess(*LEAN)

    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*KeyboardInterrupt*"])


def test_an_expected_failure_stays_one_and_is_not_explained(
    pytester: pytest.Pytester, run_once: Run, runs: Runs
) -> None:
    pytester.makepyfile(
        """
        import pytest, work

        @pytest.mark.xfail
        @pytest.mark.perf_budget(time_median="1us")
        def test_expected(perf):
            work.note("expected")
            perf.time(work.serialize, rounds=5)

        @pytest.mark.skip
        @pytest.mark.perf_profile
        def test_skipped():
            pass
        """
    )

    run_once("--perfguard-profile=failed").assert_outcomes(xfailed=1, skipped=1)

    assert runs() == [("expected", False)]


IDS = [
    "a/b\\\\c",
    "\"quoted\" and 'quoted'",
    "</script><script>alert(1)</script>",
    "x" * 300,
    "y" * 300,
    "\u540d\u524d \u00e9",
    "CON",
    "nul.txt",
    "..",
    "A",
    "a",
]


def test_any_node_id_has_files_of_its_own(
    pytester: pytest.Pytester, run: Run, profiles: Profiles
) -> None:
    pytester.makepyfile(
        f"""
        import pytest, work

        @pytest.mark.perf_profile
        @pytest.mark.parametrize("n", range({len(IDS)}), ids={IDS!r})
        def test_it(perf, n):
            with perf.profile("</script>/../" + str(n)):
                work.serialize(30_000)
        """
    )

    run().assert_outcomes(passed=len(IDS))

    root = pytester.path / ".perfguard"
    folders = list(root.glob("profiles/*"))
    assert len({folder.name.casefold() for folder in folders}) == len(IDS)
    for path in root.rglob("*"):
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,100}", path.name), path
    for page in root.rglob("*.html"):
        text = page.read_text("utf-8")
        assert "<script>alert" not in text
        assert [u for u in re.findall(r"https?://[^\"'\s`)]+", text) if "w3.org" not in u] == []
        assert text.count("</script>") == 2


def test_an_async_test_shows_its_awaits(
    pytester: pytest.Pytester, run_once: Run, profiles: Profiles
) -> None:
    pytester.makepyfile(
        """
        import asyncio, pytest, work

        async def fetch():
            await asyncio.sleep(0.05)

        @pytest.mark.anyio
        @pytest.mark.perf_profile
        async def test_it():
            work.serialize(20_000)
            await fetch()

        @pytest.fixture
        def anyio_backend():
            return "asyncio"
        """
    )

    result = pytester.runpytest_inprocess("-p", "no:asyncio", "-p", "no:hypothesispytest")

    result.assert_outcomes(passed=1)
    lines = {hot.frame.function: hot.seconds for hot in profiles()["test test_it"].hottest()}
    assert lines["fetch"] > 0.04


def test_without_pyinstrument_the_extra_is_named(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import sys; sys.modules['pyinstrument'] = None")
    pytester.makepyfile(
        test_marked="""
        import pytest

        @pytest.mark.perf_profile
        def test_marked():
            pass
        """,
        test_block="""
        def test_block(perf):
            with perf.profile("it"):
                pass
        """,
        test_other="def test_other(): pass",
    )
    missing = (
        "*pyinstrument is not installed: install pytest-perfguard with the extra [[]profile[]]*"
    )

    result = pytester.runpytest_subprocess(*LEAN, "test_marked.py")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([missing])
    result = pytester.runpytest_subprocess(*LEAN, "test_block.py")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([missing])
    result = pytester.runpytest_subprocess(*LEAN, "--perfguard-profile=all")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([missing])
    for arguments in (["test_other.py"], ["--perfguard-profile=never", "test_marked.py"]):
        pytester.runpytest_subprocess(*LEAN, *arguments).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    "word", ["sometimes", "slow:", "slow:0", "slow:many", "all:3", ""], ids=lambda word: word or "-"
)
def test_a_word_that_is_none_is_refused(
    pytester: pytest.Pytester, run_once: Run, word: str
) -> None:
    result = run_once(f"--perfguard-profile={word}")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*perfguard_profile = '{word}': *"])


def test_a_mark_that_cannot_be_read_is_refused(pytester: pytest.Pytester, run_once: Run) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.perf_profile(reruns=3)
        def test_it():
            pass
        """
    )

    result = run_once()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*perf_profile takes nothing but rerun=False, not 'reruns'*"])


def test_a_deep_recursion_has_all_its_files(
    pytester: pytest.Pytester, run_once: Run, profiles: Profiles
) -> None:
    pytester.makepyfile(
        """
        import pytest, sys

        def down(levels):
            return down(levels - 1) if levels else sum(range(2_000_000))

        @pytest.mark.perf_profile
        def test_it():
            before = sys.getrecursionlimit()
            sys.setrecursionlimit(4000)
            try:
                down(2000)
            finally:
                sys.setrecursionlimit(before)
        """
    )

    result = run_once()

    result.assert_outcomes(passed=1)
    files = [path.name for path in pytester.path.glob(".perfguard/*/*/*")]
    assert {name.partition(".")[2] for name in files} == set(FORMATS)
    assert max(len(stack.frames) for stack in profiles()["test test_it"].stacks) > 2000


def test_a_folder_that_cannot_be_written_is_told(pytester: pytest.Pytester, run_once: Run) -> None:
    pytester.path.joinpath("taken").write_text("")
    pytester.makepyfile(
        """
        import pytest, work

        @pytest.mark.perf_profile
        def test_it(perf):
            with perf.profile("it"):
                work.serialize()
        """
    )

    result = run_once("--perfguard-artifacts=taken")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["    `serialize` *", "    *taken*cannot be written*"])
    assert result.stdout.str().count("cannot be written") == 1

    result = run_once("--perfguard-profile=all", "--perfguard-artifacts=")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*perfguard_artifacts is empty: name a folder*"])


def test_nothing_is_loaded_that_nobody_asks_for(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_it(perf):
            with perf.measure("it"):
                pass
            assert not [name for name in sys.modules if "pyinstrument" in name]
            assert "pytest_perfguard.profiles" not in sys.modules
        """
    )

    pytester.runpytest_subprocess(*LEAN, "--perfguard").assert_outcomes(passed=1)


def test_what_moved_since_the_baseline_profile_is_told_beside_a_failure(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makepyfile(
        test_it="""
        import os, pytest, work

        LIMIT, MORE = os.environ["LIMIT"], int(os.environ["MORE"])

        @pytest.mark.perf_budget(time_median=LIMIT)
        def test_it(perf):
            perf.time(lambda: work.serialize(10_000 * MORE), name="all", rounds=10)
        """
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIMIT", "10s")
        patch.setenv("MORE", "1")
        run("--perfguard-update").assert_outcomes(passed=1)
        assert not list(pytester.path.glob("__perfguard__/profiles/*"))
        result = run("--perfguard-update", "--perfguard-profile=all")
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines(
            ["    baseline profile: __perfguard__/profiles/test_it-test_it-*"]
        )
        (kept,) = pytester.path.glob("__perfguard__/profiles/*/*")
        text = kept.read_text()
        patch.setenv("LIMIT", "1us")
        patch.setenv("MORE", "4")
        result = run("--perfguard-profile=failed")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "    picture: *",
            "    since the baseline profile, per call: * became *: +*",
            "        +* ms in `*`",
            "    what moved: .perfguard/profiles/*.diff.svg",
        ]
    )
    assert len(list(pytester.path.glob(".perfguard/profiles/*/*.diff.svg"))) == 1
    assert kept.read_text() == text
