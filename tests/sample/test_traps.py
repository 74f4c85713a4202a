"""The sample service's performance suite: green as it is, red with each trap, with the cause."""

from __future__ import annotations

import os
import re

import pytest

from sample_app.core.traps import KNOWN
from sample_app.tests.catches import APART, JUDGED, RAISED, node_id, place_of
from sample_app.tests.traps import Caught, Ran, all_together, check, main, run_tests


def test_every_trap_is_expected_here() -> None:
    assert sorted([*JUDGED, *RAISED]) == sorted(KNOWN)


in_both_ways = pytest.mark.parametrize("options", [(), ("-n2",)], ids=["alone", "xdist"])


def test_without_traps_the_suite_is_green_on_workers_too() -> None:
    ran = run_tests([], [""], "--perfguard-baseline=off", "-n2")
    assert {record.outcome for record in ran.records} == {"passed"}, ran.text
    assert not any(verdict.breached for record in ran.records for verdict in record.verdicts)
    assert sum(len(record.verdicts) for record in ran.records) > 60


# Those of a load have to be alone: tox -e alone tries them.
_LOADED = {trap for trap, (session, _) in APART.items() if session == "load"}


@pytest.mark.parametrize(
    ("trap", "options"),
    [
        *((trap, ()) for trap in JUDGED if trap not in _LOADED),
        ("lazy_owner", ("-n2",)),
        ("task_per_row", ("-n2",)),
    ],
)
def test_trap_is_caught_with_its_cause(trap: str, options: tuple[str, ...]) -> None:
    seen = JUDGED[trap]
    section = section_of_failure(trap, seen.test, options)
    assert "\nperfguard: " in section
    section = re.sub(" +", " ", section)
    assert seen.headline in section
    for expected in (
        f" {seen.breach} ",
        seen.cause,
        f" {seen.advice}",
    ):
        assert f"\n{expected}" in section, section
    if seen.file:
        assert re.search(rf"^ at {re.escape(place_of(seen))}\b", section, re.MULTILINE), section


@pytest.mark.parametrize("trap", [trap for trap in RAISED if trap not in _LOADED])
def test_trap_is_an_error_where_it_shows(trap: str) -> None:
    seen = RAISED[trap]
    section = section_of_failure(trap, seen.test)
    assert f"\n{place_of(seen)}: " in section, section
    assert re.search(f"^E +{seen.error}", section, re.MULTILINE), section


def section_of_failure(trap: str, test: str, options: tuple[str, ...] = ()) -> str:
    """Run a test with a trap, and return what is said of its failure."""
    # What budgets say is looked at here; test_traps_by_baselines does the rest.
    ran = run_tests([trap], [test], "--perfguard-baseline=off", *options)
    outcomes = [(record.nodeid, record.outcome) for record in ran.records]
    assert outcomes == [(node_id(test), "failed")], ran.text
    return ran.section(test)


def _printed(**changed: str) -> Ran:
    """Return a session in which lazy_owner was caught, in words of ours."""
    seen = JUDGED["lazy_owner"]
    said = {
        "breach": "  sql_n_plus_one    1 > 0   perf_budget, test_list.py:15",
        "place": f"    at {place_of(seen)} in serialize",
        "advice": f"    {seen.advice}",
        **changed,
    }
    name = seen.test.rpartition("::")[2]
    lines = [f"___ {name} ___", *said.values(), "_____ next _____"]
    return Ran("\n".join(lines), ())


def test_what_is_said_of_a_trap_is_compared_with_what_must_be_said() -> None:
    seen = JUDGED["lazy_owner"]
    found = check("lazy_owner", _printed())
    assert found.wrong == ""
    assert found.cells[:4] == ("lazy_owner", seen.test, "sql_n_plus_one 1 > 0", place_of(seen))


@pytest.mark.parametrize(
    ("changed", "wrong"),
    [
        ({"breach": "  sql_queries 23 > 3"}, "sql_n_plus_one is not named"),
        ({"place": "    at sample_app/crud/resource.py:1 in x"}, ":31 is not named"),
        ({"advice": "    fix: buy a faster machine"}, "the advice is another one than "),
    ],
)
def test_another_line_or_advice_is_wrong(changed: dict[str, str], wrong: str) -> None:
    wrong = wrong.replace(":31", place_of(JUDGED["lazy_owner"]))
    assert wrong in check("lazy_owner", _printed(**changed)).wrong


def test_a_trap_that_leaves_its_test_green_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sample_app.tests.traps.run_tests", lambda *_: Ran("1 passed", ()))
    assert main(["lazy_owner"]) == 1
    told = capsys.readouterr()
    assert "lazy_owner  STAYS GREEN" in told.out
    assert "lazy_owner: test_list.py::test_a_page_takes_three_statements should be red" in told.err


@pytest.mark.skipif(
    not os.environ.get("PERFGUARD_TEST_ALL"), reason="PERFGUARD_TEST_ALL is not set: it takes long"
)
def test_all_traps_together_are_all_named() -> None:
    rows: list[Caught] = all_together([*KNOWN])
    assert [row.trap for row in rows] == [*KNOWN]
    assert [f"{row.trap}: {row.wrong}" for row in rows if row.wrong] == []


@in_both_ways
def test_growth_tells_a_lazy_relationship_with_its_line(options: tuple[str, ...]) -> None:
    test = "test_growth.py::test_no_endpoint_asks_more_often_when_there_is_more"
    section = section_of_failure("lazy_owner", test, options)
    seen = JUDGED["lazy_owner"]
    assert "Resource.owner" in section
    assert place_of(seen) in section
    assert seen.advice.partition(" #")[0] in section
