"""The sample service's performance suite: green as it is, red with each trap, with the cause."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from pytest_perfguard import read_run
from pytest_perfguard.model import Run
from sample_app.core.traps import KNOWN

ROOT = Path(__file__).parents[2]
SUITE = "sample_app/tests/performance"


class Seen(NamedTuple):
    """What a trap must be seen to do.

    ``line`` is a piece of the source line to blame, in ``file``.
    """

    test: str
    headline: str
    breach: str
    cause: str
    file: str
    line: str
    advice: str


TRAPS = {
    "lazy_owner": Seen(
        "test_list.py::test_a_page_takes_three_statements",
        "2 of 5 budgets exceeded in GET /api/resources",
        "sql_n_plus_one   1 > 0",
        "20x Resource.owner lazy-loaded one row at a time",
        "sample_app/crud/resource.py",
        "UserRead.model_validate(resource.owner)",
        "fix: select(Resource).options(selectinload(Resource.owner))  # or joinedload",
    ),
    "lazy_related": Seen(
        "test_list.py::test_a_page_takes_three_statements",
        "2 of 5 budgets exceeded in GET /api/resources",
        "sql_n_plus_one   1 > 0",
        "20x Resource.related_items lazy-loaded one row at a time",
        "sample_app/crud/resource.py",
        "for item in resource.related_items",
        "fix: select(Resource).options(selectinload(Resource.related_items))",
    ),
    "open_fields": Seen(
        "test_refusals.py::test_sorting_by_a_relationship_reaches_no_database",
        "2 of 2 budgets exceeded in GET /api/resources",
        "sql_errors   1 > 0",
        "1x SELECT resources failed: OperationalError: no such column: users.id",
        "sample_app/crud/base.py",
        "Found(db.scalars(query).all(), total or 0, page, page_size)",
        "fix: check what the query is built from before it is sent",
    ),
    "unchecked_page": Seen(
        "test_refusals.py::test_page_zero_reaches_no_database",
        "1 of 2 budgets exceeded in GET /api/resources",
        "sql_queries  3 > 0",
        "1x SELECT resources",
        "sample_app/crud/base.py",
        "db.scalar(select(func.count()).select_from(self.model)",
        "fix: no statement repeats: join what belongs together",
    ),
    "missing_index": Seen(
        "test_plans.py::test_newest_of_a_status_is_served_by_an_index",
        "1 of 1 budget exceeded in GET /api/resources",
        "sql_full_scans  2 > 0",
        "SELECT resources: no index could serve it (SCAN resources)",
        "sample_app/crud/base.py",
        "db.scalar(select(func.count()).select_from(self.model)",
        "fix: an index that begins with the columns that its WHERE compares",
    ),
}


def run_suite(tmp_path: Path, traps: str, *options: str) -> tuple[str, Run]:
    file = tmp_path / "run.json"
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTEST")
    }
    environment |= {"SAMPLE_APP_TRAPS": traps, "PYTHONIOENCODING": "utf-8", "COLUMNS": "200"}
    environment.pop("SAMPLE_APP_TEST_DATABASE_URL", None)
    command = [
        sys.executable, "-m", "pytest", SUITE, "-q", "-p", "no:cacheprovider",
        f"--perfguard-json={file}", *options,
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", check=False
    )
    return done.stdout + done.stderr, read_run(file)


def test_every_trap_is_expected_here() -> None:
    assert set(TRAPS) == set(KNOWN)


@pytest.mark.parametrize("options", [(), ("-n2",)], ids=["alone", "xdist"])
def test_without_traps_the_suite_is_green(tmp_path: Path, options: tuple[str, ...]) -> None:
    text, run = run_suite(tmp_path, "", *options)
    assert {record.outcome for record in run.records} == {"passed"}, text
    assert not any(verdict.breached for record in run.records for verdict in record.verdicts)
    assert sum(len(record.verdicts) for record in run.records) > 60


@pytest.mark.parametrize("trap", TRAPS)
def test_trap_is_caught_with_its_cause(tmp_path: Path, trap: str) -> None:
    seen = TRAPS[trap]
    text, run = run_suite(tmp_path, trap)
    failed = {record.nodeid for record in run.records if record.outcome == "failed"}
    assert f"{SUITE}/{seen.test}" in failed, text
    section = text.partition(f"_ {seen.test.rpartition('::')[2]} _")[2].partition("\n____")[0]
    assert f"perfguard: {seen.headline}" in section, text
    assert f"  {seen.breach}" in section
    for expected in (seen.cause, f"    at {seen.file}:{line_of(seen)}", f"    {seen.advice}"):
        assert f"\n{expected}" in section, section


def line_of(seen: Seen) -> int:
    lines = (ROOT / seen.file).read_text("utf-8").splitlines()
    (number,) = (number for number, line in enumerate(lines, 1) if seen.line in line)
    return number
