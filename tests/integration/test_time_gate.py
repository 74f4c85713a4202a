"""Times that are compared with stored ones; the stored ones are made up, so that none is close."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from pytest_perfguard import read_run
from pytest_perfguard.model import Status

CALLS = """
import os

import pytest


def work(n):
    return sum(i * i for i in range(n))


@pytest.mark.perf_baseline
def test_work(perf):
    first = "PERFGUARD_FRESH_PROCESS" not in os.environ
    more = int(os.environ.get("MORE_WORK", 1)) if first else int(os.environ.get("MORE_AGAIN", 1))
    perf.time(lambda: work(4000 * more), name="work", rounds=20)


def test_other():
    pass
"""
TEST = "test_calls.py::test_work"
LEAN = ("-p", "no:anyio", "-p", "no:asyncio", "-p", "no:hypothesispytest", "-p", "no:benchmark")
Run = Callable[..., pytest.RunResult]


@pytest.fixture(autouse=True)
def calls(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    # Otherwise pytest-benchmark takes inner runs for workers.
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    pytester.makepyfile(test_calls=CALLS)


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    def run(*arguments: str) -> pytest.RunResult:
        return pytester.runpytest_subprocess(
            *LEAN, "--perfguard-times=times", "--perfguard-times-needed=5", *arguments
        )

    return run


@pytest.fixture
def store(pytester: pytest.Pytester, run: Run, recorded: Path | None) -> Path:
    """Return a store with one process; it is recorded once for all tests."""
    path = pytester.path / "times"
    if recorded is not None and any(recorded.iterdir()):
        shutil.copytree(recorded, path)
    else:
        assert run("--perfguard-add-times").ret == 0
        if recorded is not None:
            shutil.copytree(path, recorded, dirs_exist_ok=True)
    return path


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("times")


def process_files(store: Path) -> list[Path]:
    return sorted(path for path in store.glob("*/*.json") if path.name != "environment.json")


def make_up(store: Path, *, cpu: float = 1.0, machine: float = 1.0, processes: int = 5) -> None:
    """Make processes of one: their calls that many times as long, on that much slower a machine."""
    (file,) = process_files(store)
    data = json.loads(file.read_text())
    for window in windows(data):
        window["cpu"] += math.log(cpu * machine)
        window["references"] = [time + math.log(machine) for time in window["references"]]
    for number in range(processes):
        file.with_name(f"{number:016x}.json").write_text(json.dumps(data))
    file.unlink()


def windows(data: dict[str, Any]) -> list[dict[str, Any]]:
    samples = [t["sample"] for named in data["timings"].values() for t in named.values()]
    return [window for s in samples for window in (s["pooled"], *s["windows"])]


def outcome(pytester: pytest.Pytester) -> dict[str, Status]:
    """Return what was said of each metric by stored times, in the run that was written last."""
    run = read_run(pytester.path / "run.json")
    found = [v for record in run.records for v in record.verdicts if v.rule == "stored times"]
    return {verdict.metric: verdict.status for verdict in found}


def test_a_process_is_stored_with_windows_that_are_spread_over_the_session(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makeconftest(
        """
        def pytest_runtest_setup(item):
            with open("order", "a") as file:
                file.write(item.name + " ")
        """
    )

    result = run("--perfguard-add-times", "--perfguard-json=run.json")

    result.assert_outcomes(passed=2)
    assert outcome(pytester) == {"time_cpu": Status.NEW}
    assert (pytester.path / "order").read_text().split() == [
        "test_work", "test_other", "test_work", "test_work",
    ]  # fmt: skip
    (file,) = process_files(pytester.path / "times")
    times = json.loads(file.read_text())["timings"][TEST]["work"]
    assert (times["kind"], len(times["sample"]["windows"])) == ("function", 3)
    assert times["py_calls"] > 4000
    assert times["statistics"]["median"] > 0


def test_further_runs_are_not_reported_and_have_fixtures_of_their_own(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makeconftest(
        """
        import pytest

        def log(word):
            with open("order", "a") as file:
                file.write(word + " ")

        def pytest_runtest_logreport(report):
            log(report.when)

        @pytest.fixture(autouse=True)
        def each():
            log("up")
            yield
            log("down")

        @pytest.fixture(autouse=True, scope="session")
        def once():
            log("begin")
            yield
            log("end")
        """
    )

    run(TEST).assert_outcomes(passed=1)

    assert (pytester.path / "order").read_text().split() == [
        "begin", "up", "setup", "call", "down", "teardown", "up", "down", "up", "down", "end",
    ]  # fmt: skip


def test_nothing_is_stored_unless_it_is_asked_for(pytester: pytest.Pytester, run: Run) -> None:
    assert run().ret == 0
    assert not (pytester.path / "times").exists()


@pytest.mark.parametrize("failure", ["@pytest.mark.perf_budget(sql_queries=1)", ""])
def test_nothing_is_stored_of_a_session_that_is_red(
    pytester: pytest.Pytester, run: Run, failure: str
) -> None:
    pytester.makepyfile(
        test_red=f"""
        import pytest

        {failure}
        def test_red():
            assert {bool(failure)}
        """
    )

    result = run("--perfguard-add-times")

    assert result.ret == 1
    assert "times not added to times, since the session is not green" in result.stdout.str()
    assert not (pytester.path / "times").exists()


def test_what_is_slower_twice_fails_with_a_report_of_its_own(
    pytester: pytest.Pytester, run: Run, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_up(store)
    monkeypatch.setenv("MORE_WORK", "5")
    monkeypatch.setenv("MORE_AGAIN", "5")

    result = run("--perfguard-json=run.json", "--junitxml=junit.xml")

    result.assert_outcomes(failed=1, passed=1)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "perfguard: measuring 1 test again in a fresh process",
            "perfguard: 2 metrics worse than the stored times in work",
            "  time_cpu * > *   stored times, times",
            "      CPU time *x of 5 stored processes*; a fresh process confirms it",
            "  py_calls * > *   stored times, times",
            "FAILED test_calls.py::test_work - perfguard: 2 metrics worse than the stored*",
        ]
    )
    assert outcome(pytester)["time_cpu"] is Status.REGRESSED
    record = next(r for r in read_run(pytester.path / "run.json").records if r.nodeid == TEST)
    assert record.outcome == "failed"
    cases = ET.parse(pytester.path / "junit.xml").iter("testcase")  # noqa: S314 - of the inner run
    (case,) = [case for case in cases if case.attrib["name"] == "test_work"]
    assert [child.tag for child in case] == ["properties", "failure"]
    message = case.find("failure").attrib["message"]  # type: ignore[union-attr] # see above
    assert message == "perfguard: 2 metrics worse than the stored times in work"
    (suite,) = ET.parse(pytester.path / "junit.xml").getroot()  # noqa: S314 - of the inner run
    assert (suite.attrib["tests"], suite.attrib["failures"]) == ("2", "1")
    assert process_files(store) != []


def test_a_level_may_let_slower_times_only_warn(
    pytester: pytest.Pytester, run: Run, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_up(store)
    monkeypatch.setenv("MORE_WORK", "5")
    monkeypatch.setenv("MORE_AGAIN", "5")

    result = run("--perfguard-json=run.json", "--perfguard-level=test_calls.py: warn")

    result.assert_outcomes(passed=2)
    assert outcome(pytester)["time_cpu"] is Status.REGRESSED
    result.stdout.fnmatch_lines(["warning: test_calls.py::test_work: 2 metrics worse than *"])


def test_a_mark_may_tolerate_slower_times(
    pytester: pytest.Pytester, run: Run, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waived = '@pytest.mark.perf_waive("time_cpu", "py_calls", reason="known", until="2199-01-01")'
    pytester.makepyfile(
        test_calls=CALLS.replace("@pytest.mark.perf_b", f"{waived}\n@pytest.mark.perf_b")
    )
    make_up(store)
    monkeypatch.setenv("MORE_WORK", "5")
    monkeypatch.setenv("MORE_AGAIN", "5")

    result = run("--perfguard-json=run.json")

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["waived until 2199-01-01: known", "  time_cpu * > * in *"])
    assert "covers nothing" not in result.stdout.str()


def test_what_is_slower_once_is_not(
    pytester: pytest.Pytester, run: Run, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_up(store)
    monkeypatch.setenv("MORE_WORK", "5")

    result = run("--perfguard-json=run.json")

    assert "measuring 1 test again" in result.stdout.str()
    assert result.ret == 0
    assert outcome(pytester)["time_cpu"] is Status.OK


def test_what_is_faster_is_told(pytester: pytest.Pytester, run: Run, store: Path) -> None:
    make_up(store, cpu=5)

    result = run("--perfguard-json=run.json")

    assert result.ret == 0
    assert outcome(pytester)["time_cpu"] is Status.IMPROVED
    result.stdout.fnmatch_lines(["better than *", "  time_cpu * -> * in test_calls.py::test_work"])


@pytest.mark.parametrize("level", ["warn", "fail"])
def test_a_machine_in_another_state_leaves_it_undecided(
    pytester: pytest.Pytester, run: Run, store: Path, level: str
) -> None:
    make_up(store, machine=10)

    result = run("--perfguard-json=run.json", f"--perfguard-undecided={level}")

    assert result.ret == (1 if level == "fail" else 0)
    assert outcome(pytester)["time_cpu"] is Status.UNDECIDED
    assert "undecided, the machine differs by" in result.stdout.str()


def test_fewer_processes_than_are_needed_judge_nothing(
    pytester: pytest.Pytester, run: Run, store: Path
) -> None:
    make_up(store, cpu=0.1, processes=4)

    result = run("--perfguard-json=run.json")

    assert result.ret == 0
    assert outcome(pytester)["time_cpu"] is Status.NEW
    told = "1 time not judged yet: new (4 of 5 processes stored)"
    result.stdout.fnmatch_lines([told.replace("[", "[[]")])


def test_another_environment_is_not_comparable_and_said_so(
    run: Run, store: Path, pytester: pytest.Pytester
) -> None:
    from pytest_perfguard.times import digest

    make_up(store, cpu=0.1)
    (folder,) = store.iterdir()
    file = folder / "environment.json"
    data = json.loads(file.read_text())
    data["environment"]["python"] = "3.99.0"
    data["digest"] = digest(data["environment"])
    file.write_text(json.dumps(data))
    folder.rename(folder.with_name(data["digest"]))

    result = run("--perfguard-json=run.json")

    assert result.ret == 0
    assert outcome(pytester)["time_cpu"] is Status.NEW
    result.stdout.fnmatch_lines(
        ["warning: times are not comparable: 5 processes of another environment (python 3.99.0 *"]
    )


@pytest.mark.parametrize("content", ["", "{", '{"schema": 99}', "[]"])
def test_a_store_that_cannot_be_read_is_no_success(run: Run, store: Path, content: str) -> None:
    (file,) = process_files(store)
    file.write_text(content)

    result = run("--perfguard-add-times")

    assert result.ret not in (0, 1)
    assert file.name in result.stdout.str()
    assert file.read_text() == content
    assert process_files(store) == [file]


def test_under_xdist_times_are_not_compared_unless_forced(
    pytester: pytest.Pytester, run: Run, store: Path
) -> None:
    make_up(store, cpu=0.1)

    told = run("-n2", "--perfguard-json=run.json")
    assert told.ret == 0
    reason = "times are not compared with stored ones under xdist, where processes share the cores"
    told.stdout.fnmatch_lines([f"perfguard: {reason}*", f"warning: {reason}*"])
    assert outcome(pytester) == {}

    forced = run("-n2", "--perfguard-time=force", "--perfguard-json=run.json")
    assert forced.ret == 1
    assert outcome(pytester)["time_cpu"] is Status.REGRESSED


def test_a_comparison_that_is_switched_off_says_so(run: Run, store: Path) -> None:
    make_up(store, cpu=0.1)

    result = run("--perfguard-time=off")

    assert result.ret == 0
    result.stdout.fnmatch_lines(["*times are not compared with stored ones: perfguard_time is off"])


def test_an_update_stores_processes_anew(pytester: pytest.Pytester, run: Run, store: Path) -> None:
    make_up(store, cpu=0.1)

    result = run("--perfguard-update", "--perfguard-processes=2")

    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "perfguard: measuring times, process 2 of 2",
            "times recorded: 1 test in 2 processes, 5 are needed before they judge",
        ]
    )
    assert len(process_files(store)) == 2
    assert run("--perfguard-json=run.json").ret == 0
    assert outcome(pytester)["time_cpu"] is Status.NEW


def test_an_update_of_counts_leaves_times_as_they_are(run: Run, store: Path) -> None:
    make_up(store)
    before = {file: file.read_text() for file in process_files(store)}

    result = run("--perfguard-update")

    assert result.ret == 0
    result.stdout.fnmatch_lines(["stored times are left as they are: --perfguard-processes=N *"])
    assert {file: file.read_text() for file in process_files(store)} == before


@pytest.mark.parametrize("again", ["assert False", "pytest.skip('once')"])
def test_a_test_that_cannot_be_run_again_is_undecided(
    pytester: pytest.Pytester, run: Run, store: Path, again: str
) -> None:
    make_up(store)
    pytester.makeconftest(
        f"""
        import pytest

        runs = []

        def pytest_runtest_setup(item):
            runs.append(item.name)
            if runs.count("test_work") > 1:
                {again}
        """
    )

    result = run("--perfguard-json=run.json")

    result.assert_outcomes(passed=2)
    assert outcome(pytester)["time_cpu"] is Status.UNDECIDED
    assert "did not pass when it was run for another window" in result.stdout.str()


def test_wall_times_are_compared_where_a_mark_names_them(
    pytester: pytest.Pytester, run: Run, store: Path
) -> None:
    named = CALLS.replace("perf_baseline", 'perf_baseline(time_median="10000%")')
    pytester.makepyfile(test_calls=named)
    make_up(store)
    assert run("--perfguard-json=run.json").ret == 0
    assert outcome(pytester)["time_median"] is Status.OK
    for file in process_files(store):
        data = json.loads(file.read_text())
        data["timings"][TEST]["work"]["statistics"]["median"] = 1e-9
        file.write_text(json.dumps(data))

    assert run("--perfguard-json=run.json").ret == 1
    assert outcome(pytester)["time_median"] is Status.REGRESSED


def test_a_wall_time_cannot_be_named_where_none_is_stored(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_calls=CALLS.replace("perf_baseline", 'perf_baseline(time_median="50%")')
    )

    result = pytester.runpytest_subprocess(*LEAN)

    assert result.ret != 0
    assert "or store times (perfguard_times)" in result.stdout.str()


def test_what_pytest_benchmark_times_is_compared_too(
    pytester: pytest.Pytester, store: Path
) -> None:
    shutil.rmtree(store)
    pytester.makepyfile(
        test_calls="""
        import pytest

        @pytest.mark.perf_baseline
        def test_work(benchmark):
            benchmark.pedantic(lambda: sum(i * i for i in range(4000)), rounds=5)
        """
    )
    arguments = [
        *(argument for argument in LEAN if argument != "no:benchmark"), "no:cacheprovider",
        "--perfguard-times=times", "--perfguard-times-needed=5", "--perfguard-json=run.json",
    ]  # fmt: skip

    assert pytester.runpytest_subprocess(*arguments, "--perfguard-add-times").ret == 0
    make_up(store, cpu=0.1)

    assert pytester.runpytest_subprocess(*arguments).ret == 1
    assert outcome(pytester)["time_cpu"] is Status.REGRESSED


@pytest.mark.parametrize("options", [(), ("-n2",)], ids=["one process", "xdist"])
def test_python_calls_have_budgets_without_any_store(
    pytester: pytest.Pytester, options: tuple[str, ...]
) -> None:
    pytester.makepyfile(
        test_calls="""
        import pytest

        def step():
            return 1

        def work():
            return sum(step() for _ in range(50))

        @pytest.mark.perf_budget(py_calls=40)
        def test_many(perf):
            perf.time(work, rounds=2)

        @pytest.mark.perf_budget(py_calls=110)
        def test_enough(perf):
            perf.time(work, rounds=2)

        @pytest.mark.perf_budget(py_calls=110)
        def test_nothing():
            pass
        """
    )

    result = pytester.runpytest_subprocess(*LEAN, *options)

    result.assert_outcomes(failed=2, passed=1)
    assert "no timed call whose calls could be counted" in result.stdout.str()


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["--perfguard-add-times"], "say where times are stored, with --perfguard-times=DIR"),
        (["--perfguard-update", "--perfguard-processes=3"], "with --perfguard-times=DIR"),
        (["--perfguard-times=t", "--perfguard-processes=3"], "with --perfguard-update"),
    ],
)
def test_what_would_do_nothing_is_refused(
    pytester: pytest.Pytester, arguments: list[str], remedy: str
) -> None:
    result = pytester.runpytest_subprocess(*LEAN, *arguments)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert remedy in result.stderr.str()


@pytest.mark.parametrize("mark", ["", "@pytest.mark.perf_profile\n"])
def test_what_fails_by_stored_times_is_explained_by_a_profile(
    pytester: pytest.Pytester, run: Run, store: Path, monkeypatch: pytest.MonkeyPatch, mark: str
) -> None:
    pytest.importorskip("pyinstrument")
    make_up(store)
    monkeypatch.setenv("MORE_WORK", "5")
    monkeypatch.setenv("MORE_AGAIN", "5")
    if mark:
        module = pytester.path / "test_calls.py"
        text = module.read_text()
        module.write_text(
            text.replace("@pytest.mark.perf_baseline\n", f"@pytest.mark.perf_baseline\n{mark}")
        )

    result = run("--perfguard-profile=failed", "--perfguard-json=run.json")

    result.assert_outcomes(failed=1, passed=1)
    assert outcome(pytester)["time_cpu"] is Status.REGRESSED
    result.stdout.fnmatch_lines(
        [
            "perfguard: 2 metrics worse than the stored times in work",
            "profile of work, in a pass of its own:",
            "    `*` test_calls.py:* %",
            "    picture: .perfguard/profiles/test_calls.py-test_work-*/call-work-*.svg",
            "*short test summary*",
        ]
    )
    assert ("profiling 1 test in a fresh process" in result.stdout.str()) is not bool(mark)
    assert list(read_run(pytester.path / "run.json").profiles) == ["test_calls.py::test_work"]
