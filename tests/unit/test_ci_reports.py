"""What the reports for CI say: problems by their cause, and each format's own rules."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from pytest_perfguard.metrics import METRICS
from pytest_perfguard.model import Level, Record, Rule, Run, Span, Status, Tally, Verdict
from pytest_perfguard.reports import problems as of
from pytest_perfguard.reports.escaping import code, fenced, prose
from pytest_perfguard.reports.formats import render
from pytest_perfguard.reports.markdown import LIMIT
from tests.unit.build import finding, site, span, tally

_OWNER = "SELECT users.id FROM users WHERE users.id = ?"


def lazy(count: int = 20, line: int = 105, **known: Any) -> Tally:
    return tally(
        _OWNER,
        label="SELECT users",
        site=site(line, "app/crud.py"),
        count=count,
        repeats=count,
        distinct=count,
        subject="Order.owner",
        facts={"cause": "lazy"},
        fix="selectinload(Order.owner)",
        **known,
    )


def over(metric: str = "sql_n_plus_one", value: float = 1, **known: Any) -> Verdict:
    told: dict[str, Any] = {"limit": 0, "status": Status.OVER, "level": Level.FAIL}
    return Verdict(metric, value=value, **{"span": "test_it", "where": "a mark", **told, **known})


def record(name: str, *tallies: Tally, verdicts: tuple[Verdict, ...] = (), **known: Any) -> Record:
    """Return a test; of tallies that repeat there are findings."""
    found = tuple(finding(tally=t) for t in tallies if t.distinct)
    told = {"span": span(*tallies, findings=found), "outcome": "failed", "line": 4, **known}
    return Record(f"tests/test_a.py::{name}", verdicts=verdicts, **told)


def lazy_run(tests: int = 3, line: int = 105) -> Run:
    return Run(
        source={"commit": "0123456789abcdef", "branch": "topic"},
        records=tuple(
            record(f"test_{n}", lazy(20 + n, line), verdicts=(over(), over("sql_queries", 20 + n)))
            for n in range(tests)
        ),
    )


# -- problems ------------------------------------------------------------------------------


def test_tests_that_one_line_fails_are_one_problem() -> None:
    (problem,) = of.problems(lazy_run())
    assert problem.title == "22x Order.owner lazy-loaded one row at a time"
    assert str(problem.worst.place) == "app/crud.py:105 in rows"
    assert problem.limits == ("sql_n_plus_one 1 > 0", "sql_queries 22 > 0")
    assert problem.fix == "selectinload(Order.owner)"
    assert len(problem.tests) == 3


def test_what_fails_comes_before_what_warns_and_what_concerns_most_tests_first() -> None:
    warns = over("sql_commits", 2, level=Level.WARN)
    commit = tally("COMMIT", label="COMMIT", kind="transaction", sums={"commits": 2}, site=site(3))
    records = (
        *(record(f"w{n}", commit, verdicts=(warns,)) for n in range(3)),
        record("one", tally(site=site(9)), verdicts=(over("sql_queries", 1),)),
        *lazy_run(2).records,
    )
    found = of.problems(Run(records=records))
    assert [(p.fails, len(p.tests)) for p in found] == [(True, 2), (True, 1), (False, 3)]


def test_a_metric_that_no_line_can_be_blamed_for_is_a_problem_of_its_test() -> None:
    verdicts = (over("loop_stall", 0.3), over("cpu_percent", 0.9))
    facts = {"loop_stall": "the loop stood still in app/slow.py:7"}
    stalled = span(facts=facts, peaks={"loop_stall": 0.3, "cpu_percent": 0.9})
    (problem,) = of.problems(Run(records=(record("a", verdicts=verdicts, span=stalled),)))
    assert problem.title == "loop_stall 300 ms > 0 s"
    assert str(problem.worst.place) == "tests/test_a.py:4"
    assert facts["loop_stall"] in problem.lines()


def test_a_mistake_is_a_problem_at_its_own_line() -> None:
    wrong = record("a", errors=("app/crud.py:7: the waiver gives no reason",))
    (problem,) = of.problems(Run(records=(wrong,)))
    assert problem.fails
    assert str(problem.worst.place) == "app/crud.py:7"


def test_what_was_added_since_the_baseline_is_blamed_rather_than_what_was_there() -> None:
    added = tally("SELECT b FROM u", label="SELECT u", site=site(50, "app/new.py"))
    other = tally("SELECT c FROM v", label="SELECT v", site=site(40, "app/new.py"))
    was = Verdict(
        "sql_queries", "test_it", 2, 1, Status.REGRESSED, Level.FAIL, "baseline",
        rule=Rule.BASELINE,
        changes=(
            # The same line, with another statement.
            "+1x SELECT c FROM v  at app/new.py:40 in rows",
            "-1x SELECT d FROM v  at app/new.py:40 in rows",
            "+1x SELECT b FROM u  at app/new.py:50 in rows",
        ),
    )  # fmt: skip
    test = record("a", tally(count=9), other, added, verdicts=(was,))
    (problem,) = of.problems(Run(records=(test,)))
    assert problem.title == "1x SELECT u, more than in the baseline"
    assert problem.worst.place.line == 50


@pytest.mark.parametrize("file", ["/usr/lib/x.py", "C:/x.py", "../x.py"])
def test_a_line_outside_the_root_directory_gives_way_to_the_test(file: str) -> None:
    elsewhere = replace(lazy(), site=site(3, file))
    (problem,) = of.problems(Run(records=(record("a", elsewhere, verdicts=(over(),)),)))
    assert str(problem.worst.place) == "tests/test_a.py:4"


# -- Markdown ------------------------------------------------------------------------------


def test_the_cause_its_line_and_its_fix_come_first() -> None:
    lines = render(lazy_run(), "markdown").splitlines()
    assert lines[0] == "## ❌ perfguard: 3 of 3 measured tests over the limits"
    assert "commit `0123456789ab` of `topic`" in lines[2]
    assert lines[4] == "### 22x Order.owner lazy-loaded one row at a time"
    assert lines[6].startswith("`app/crud.py:105` in `rows` · 3 tests, worst in `tests/test_a.py::")
    assert "    fix: selectinload(Order.owner)" in lines
    assert "<details><summary>3 tests, 6 limits</summary>" in lines


def test_waivers_differences_and_what_was_not_judged_are_told() -> None:
    waived = over("sql_rows", 5, waiver="until 2027-03-01: being rewritten")
    better = over("sql_queries", 2, limit=5, status=Status.IMPROVED, rule=Rule.BASELINE)
    inline = finding(tally=lazy(), waiver="a known loop")
    records = (
        record("a", verdicts=(waived, better), outcome="passed"),
        record("b", span=span(findings=(inline,)), outcome="failed"),
    )
    text = render(Run(records=records, tests=5, notices=("warning: look here",)), "markdown")
    assert text.startswith(
        "## ❌ perfguard: 2 measured tests within the limits, 1 failed for other reasons"
    )
    assert "| until 2027-03-01: being rewritten | `sql_rows 5 > 0` | `tests/test_a.py::a` |" in text
    assert "| without an end: a known loop | `sql_n_plus_one` | `app/crud.py:105 in rows` |" in text
    assert "| `tests/test_a.py::a` | `sql_queries 5 -> 2, improved` |" in text
    assert "- 3 tests of 5: not measured, or not run" in text
    assert "- warning: look here" in text


def test_code_is_never_ended_by_what_is_in_it() -> None:
    assert fenced(["a", "````\n```b"]) == ["`````text", "a", "````", "```b", "`````"]
    assert code("a[1] <b>") == "`a[1] <b>`"
    assert code("a|b`c") == "<code>a&#124;b&#96;c</code>"
    assert code("a|b") == "<code>a&#124;b</code>"
    assert code(" a ") == "<code> a </code>"


def test_words_are_no_markup_and_nobody_is_mentioned() -> None:
    assert prose("1. *a* @b") == "1\\. \\*a\\* \\@&#8288;b"
    assert prose("warning: look at a.py::b") == "warning: look at a.py::b"
    assert prose("a\nb") == "a\\\\nb"
    assert prose("x" * 1_000, 5) == "xxxx…"


def test_a_run_without_tests_is_no_success() -> None:
    assert render(Run(), "markdown").startswith("## ⚠️ perfguard: no test was measured")


def test_what_does_not_fit_is_cut_from_the_end_and_counted() -> None:
    records = [record(f"test_{n}", lazy(line=n + 1), verdicts=(over(),)) for n in range(400)]
    text = render(Run(records=tuple(records), notices=("look here",)), "markdown")
    assert LIMIT - 2_000 < len(text) <= LIMIT
    assert "- look here" in text
    shown = text.count("\n### ") - 1
    # No table of tests has taken their room.
    assert shown > 150
    last = text.splitlines()[-1]
    problems, _, tables = last.partition(", ")[2].partition(", ")
    assert problems == f"without {400 - shown:,} problems"
    assert re.match(r"\d+ tables\. All of it: `perfguard report", tables)
    assert "app/crud.py:1`" in text


# -- GitHub --------------------------------------------------------------------------------


def test_an_annotation_stands_on_the_line_that_is_to_blame() -> None:
    (line,) = render(lazy_run(), "github").splitlines()
    start = (
        "::error file=app/crud.py,line=105,title=perfguard%3A 22x Order.owner lazy-loaded one row"
    )
    assert line.startswith(start)
    assert "%0A    fix: selectinload(Order.owner)" in line
    assert "22 > 0 in tests/test_a.py::test_2%0Aand in tests/test_a.py::test_0%0A" in line


def test_signs_that_mean_something_are_escaped() -> None:
    wrong = record("a", errors=("50%, or:\r\n::error::more",))
    (line,) = render(Run(records=(wrong,)), "github").splitlines()
    title = "perfguard%3A 50%25%2C or%3A\\r\\n%3A%3Aerror%3A%3Amore"
    assert line.startswith(f"::error file=tests/test_a.py,line=4,title={title}::50%25, or:")


def test_a_file_outside_the_repository_is_not_named() -> None:
    outside = replace(record("a", verdicts=(over("loop_stall"),)), nodeid="../test_a.py::a")
    (line,) = render(Run(records=(outside,)), "github").splitlines()
    assert line.startswith("::error title=perfguard%3A loop_stall")


def test_the_platform_is_given_no_more_than_it_shows() -> None:
    levels = [*[Level.FAIL] * 13, *[Level.WARN] * 11]
    records = [
        record(f"test_{n}", lazy(line=n + 1), verdicts=(over(level=level),))
        for n, level in enumerate(levels)
    ]
    lines = render(Run(records=tuple(records)), "github").splitlines()
    starts = [line.partition(" ")[0] for line in lines]
    assert starts == ["::error"] * 10 + ["::notice"] + ["::warning"] * 10 + ["::notice"]
    assert lines[10] == (
        "::notice title=perfguard::3 more errors of perfguard: the report of the run has all"
    )


@pytest.mark.parametrize("name", ["github", "sarif", "markdown"])
def test_a_root_directory_below_the_top_of_the_repository_is_named(name: str) -> None:
    run = replace(lazy_run(), source={"folder": "services/shop"})
    assert "services/shop/app/crud.py" in render(run, name)


# -- SARIF ---------------------------------------------------------------------------------


def results(run: Run) -> list[dict[str, Any]]:
    log = json.loads(render(run, "sarif"))
    found: list[dict[str, Any]] = log["runs"][0]["results"]
    return found


def test_a_result_is_one_metric_of_one_cause() -> None:
    found = results(lazy_run())
    assert [(r["ruleId"], r["occurrenceCount"], r["level"]) for r in found] == [
        ("sql_n_plus_one", 3, "error"),
        ("sql_queries", 3, "error"),
    ]
    where = found[0]["locations"][0]["physicalLocation"]
    assert where["artifactLocation"] == {"uri": "app/crud.py", "uriBaseId": "%SRCROOT%"}
    assert where["region"] == {"startLine": 105}
    assert "fix: selectinload(Order.owner)" in found[0]["message"]["text"]
    assert [r["message"]["text"][-6:] for r in found[0]["relatedLocations"]] == [
        "test_0", "test_1", "test_2",
    ]  # fmt: skip


def test_every_metric_is_a_rule_with_help() -> None:
    (run,) = json.loads(render(lazy_run(), "sarif"))["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == list(METRICS)
    assert all(rule["help"]["text"] and rule["fullDescription"]["text"] for rule in rules)
    assert [rules[r["ruleIndex"]]["id"] for r in run["results"]] == [
        "sql_n_plus_one",
        "sql_queries",
    ]


def fingerprints(run: Run) -> set[str]:
    return {r["partialFingerprints"]["perfguard/v1"] for r in results(run)}


def test_a_result_is_known_again_when_its_line_has_moved() -> None:
    moved = fingerprints(lazy_run(tests=5, line=300))
    assert moved == fingerprints(lazy_run())
    renamed = replace(lazy(), operation="SELECT other")
    assert moved != fingerprints(Run(records=(record("a", renamed, verdicts=(over(),)),)))


def test_what_is_tolerated_is_suppressed() -> None:
    waived = over(waiver="until 2027-03-01: being rewritten")
    inline = finding("sql_duplicates", tally=lazy(), waiver="a known loop")
    records = (record("a", lazy(), verdicts=(waived,)), record("b", span=span(findings=(inline,))))
    found = {r["ruleId"]: r["suppressions"] for r in results(Run(records=records))}
    assert found == {
        "sql_n_plus_one": [
            {
                "kind": "external",
                "status": "accepted",
                "justification": "until 2027-03-01: being rewritten",
            }
        ],
        "sql_duplicates": [
            {"kind": "inSource", "status": "accepted", "justification": "a known loop"}
        ],
    }


def test_the_session_itself_is_told_of() -> None:
    run = Run(
        environment={"pytest-perfguard": "1.2"},
        source={"started": "2026-11-28T13:00:00+02:00"},
        notices=("warning: look", "recorded 3 baselines"),
        lost=("a.py::gone",),
        records=(record("a", errors=("tests/test_a.py:2: no {reason}",)),),
    )
    (told,) = json.loads(render(run, "sarif"))["runs"]
    (invocation,) = told["invocations"]
    assert told["tool"]["driver"]["version"] == "1.2"
    assert invocation["startTimeUtc"] == "2026-11-28T11:00:00Z"
    assert invocation["executionSuccessful"] is False
    levels = [n["level"] for n in invocation["toolExecutionNotifications"]]
    assert levels == ["error", "warning", "note"]
    (mistake,) = invocation["toolConfigurationNotifications"]
    # Braces would be places for arguments.
    assert mistake["message"]["text"].startswith("tests/test_a.py:2: no {{reason}}, in tests/")
    assert mistake["locations"][0]["physicalLocation"]["region"] == {"startLine": 2}


# -- JUnit ---------------------------------------------------------------------------------


def test_junit_has_a_case_for_each_test_with_its_metrics_and_its_failure() -> None:
    warned = over("sql_rows", 5, level=Level.WARN)
    run = Run(
        records=(
            record("C::test_a[x::y]", lazy(), verdicts=(over(),), metrics={"sql_queries": 20}),
            record("test_b", verdicts=(warned,), outcome="passed"),
            record("test_c", outcome="failed"),
            record("test_d", outcome="skipped"),
        ),
        lost=("tests/test_a.py::gone",),
    )
    (suite,) = ET.fromstring(render(run, "junit"))  # noqa: S314 - written here
    counts = {name: suite.attrib[name] for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "5", "failures": "2", "errors": "1", "skipped": "1"}
    cases = {case.attrib["name"]: case for case in suite.iter("testcase")}
    first = cases["test_a[x::y]"]
    assert first.attrib["classname"] == "tests.test_a.C"
    assert [p.attrib for p in first.iter("property")] == [
        {"name": "perfguard.sql_queries", "value": "20"}
    ]
    (failed,) = first.iter("failure")
    assert failed.attrib["message"] == "perfguard: 1 of 1 budget exceeded in test_it"
    assert failed.text is not None
    assert "    fix: selectinload(Order.owner)" in failed.text.splitlines()
    assert [child.tag for child in cases["test_b"]] == ["properties", "system-out"]
    assert cases["test_c"].find("failure") is not None
    assert cases["test_d"].find("skipped") is not None
    assert cases["gone"].find("error") is not None


# -- OpenMetrics ---------------------------------------------------------------------------


def families(run: Run) -> dict[str, Any]:
    parser = pytest.importorskip("prometheus_client.openmetrics.parser")
    found = parser.text_string_to_metric_families(render(run, "openmetrics"))
    return {family.name: family for family in found}


def test_every_metric_has_a_family_with_its_base_unit() -> None:
    pytest.importorskip("prometheus_client")
    from pytest_perfguard.reports.openmetrics import family

    names = {metric.name: family(metric)[0] for metric in METRICS.values()}
    assert len(set(names.values())) == len(METRICS)
    assert names["sql_queries"] == "perfguard_sql_queries"
    assert names["sql_time"] == "perfguard_sql_time_seconds"
    assert names["cache_hit_ratio"] == "perfguard_cache_hit_ratio"
    assert names["cpu_percent"] == "perfguard_cpu_ratio"
    assert names["response_bytes"] == "perfguard_response_bytes"
    assert names["response_bytes_decoded"] == "perfguard_response_decoded_bytes"
    assert family(METRICS["sql_time"], limit=True) == (
        "perfguard_sql_time_limit_seconds",
        "seconds",
    )
    every = Run(records=(record("a", metrics=dict.fromkeys(METRICS, 0.5)),))
    known = families(every)
    assert {name for name in known if name in set(names.values())} == set(names.values())
    assert all(f.unit == "" or f.name.endswith(f"_{f.unit}") for f in known.values())
    assert not any(name.endswith(("_total", "_count", "_sum", "_bucket")) for name in known)


def test_values_limits_and_verdicts_are_samples() -> None:
    inner = Span("GET /", "request")
    verdicts = (
        over("sql_queries", 20, limit=3),
        over("sql_queries", 20, limit=2),
        over("sql_queries", 9, limit=1, span="GET /", rule=Rule.BASELINE, status=Status.REGRESSED),
        over("sql_rows", 5, limit=9, status=Status.OK, waiver=""),
    )
    outer = span(lazy(), children=(inner,))
    run = Run(
        environment={"pytest-perfguard": "1.2"},
        source={"commit": "0123", "started": "2026-11-28T11:00:00+00:00"},
        tests=7,
        records=(record("a", verdicts=verdicts, metrics={"sql_queries": 20.0}, span=outer),),
    )
    known = families(run)

    def samples(name: str) -> list[tuple[dict[str, str], float]]:
        return [(sample.labels, sample.value) for sample in known[name].samples]

    test = {"test": "tests/test_a.py::a"}
    assert samples("perfguard_sql_queries") == [(test, 20), ({**test, "span": "GET /"}, 9)]
    assert samples("perfguard_sql_queries_limit") == [
        ({**test, "rule": "budget"}, 2),
        ({**test, "span": "GET /", "rule": "baseline"}, 1),
    ]
    told = {labels["status"]: value for labels, value in samples("perfguard_verdicts")}
    assert (told["over"], told["regressed"], told["ok"], told["waived"]) == (2, 1, 1, 0)
    assert samples("perfguard_test_failing") == [(test, 1)]
    about = {"pytest_perfguard": "1.2", "commit": "0123", "started": "2026-11-28T11:00:00+00:00"}
    assert samples("perfguard_run_info") == [(about, 1)]
    assert samples("perfguard_run_started_timestamp_seconds") == [({}, 1795863600)]
    tests = {labels["state"]: value for labels, value in samples("perfguard_tests")}
    assert tests == {"found": 7, "measured": 1, "failing": 1, "lost": 0}


def test_long_names_of_tests_stay_apart() -> None:
    records = [record("t" * 1_000 + end, metrics={"sql_queries": 1.0}) for end in "ab"]
    assert len(families(Run(records=tuple(records)))["perfguard_sql_queries"].samples) == 2
