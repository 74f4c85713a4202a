"""What a person reads of plans and pages, and what a baseline keeps of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_perfguard.model import Record

Run = Callable[..., pytest.RunResult]

PLANS = """
import os

import pytest
from sqlalchemy import func, select, text

import shop


@pytest.fixture(autouse=True, scope="module")
def index():
    with shop.engine.begin() as connection:
        if not os.environ.get("NO_INDEX"):
            connection.execute(text("CREATE INDEX ix_email ON users (email)"))
    yield


@pytest.fixture
def session():
    with shop.Session(shop.engine) as session:
        yield session


User, Resource = shop.User, shop.Resource


@pytest.mark.perf_budget(sql_full_scans=0)
def test_name(session):
    session.scalars(select(Resource).where(Resource.name == "x")).all()


@pytest.mark.perf_budget(sql_full_scans=0)
def test_lower(session):
    session.scalars(select(User).where(func.lower(User.email) == "x")).all()


@pytest.mark.perf_budget(sql_full_scans=0)
def test_suffix(session):
    session.scalars(select(User).where(User.email.like("%x"))).all()


@pytest.mark.perf_budget(sql_full_scans=0)
def test_text(session):
    session.execute(text("SELECT id FROM resources WHERE name = 'x'")).all()


@pytest.mark.perf_budget(sql_full_scans=0, sql_sorts=0)
def test_served(session):
    session.scalars(select(User).where(User.email == "x")).all()


@pytest.mark.perf_budget(sql_sorts=0)
def test_sorted(session):
    session.scalars(select(Resource).order_by(Resource.name).limit(3)).all()


@pytest.mark.perf_budget(sql_deep_offsets=0)
def test_deep(session):
    session.scalars(select(User).order_by(User.email.desc(), User.id.desc()).offset(5000).limit(3))


@pytest.mark.perf_baseline
@pytest.mark.perf_budget(sql_full_scans=1)
def test_kept(session):
    session.scalars(select(User).where(User.email == "x")).all()
"""


def told(result: pytest.RunResult, test: str) -> str:
    text = result.stdout.str()
    return text.partition(f"_ {test} _")[2].partition("\ntimeline: ")[0]


def test_a_scan_names_its_columns_and_the_index_to_add(
    pytester: pytest.Pytester, run: Run, failed: Callable[[pytest.RunResult], list[str]]
) -> None:
    pytester.makepyfile(test_plans=PLANS)
    result = run("--perfguard-update")
    assert failed(result) == [
        "test_deep", "test_lower", "test_name", "test_sorted", "test_suffix", "test_text",
    ]  # fmt: skip
    lines = (pytester.path / "test_plans.py").read_text().splitlines()
    line = next(n for n, text in enumerate(lines, 1) if 'Resource.name == "x"' in text)
    name = told(result, "test_name")
    assert (
        "\nSELECT resources: no index could serve it (SCAN resources): resources by name =\n"
        f"    at test_plans.py:{line} in test_name\n"
    ) in name
    assert '\n    fix: op.create_index("ix_resources_name", "resources", ["name"])' in name
    assert (
        '    fix: op.create_index("ix_users_email_lower", "users", [sa.text("lower(email)")])'
        "  # ix_email is on email, what is compared is lower(email)"
    ) in told(result, "test_lower")
    assert "fix: a LIKE that begins with a wildcard is searched by no plain index" in told(
        result, "test_suffix"
    )
    text = told(result, "test_text")
    assert "fix: an index that begins with the columns that its WHERE compares" in text
    assert (
        "SELECT resources sorts all rows for a few (USE TEMP B-TREE FOR ORDER BY): resources by "
        "ORDER BY name\n"
    ) in told(result, "test_sorted")
    assert (
        "fix: keyset pagination: WHERE (users.email, users.id) < (those of the last row) ORDER BY "
        "... LIMIT, and no OFFSET"
    ) in told(result, "test_deep")


def test_an_index_that_is_used_no_more_is_told_of_what_is_within_the_limits(
    pytester: pytest.Pytester,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    records: Callable[[], dict[str, Record]],
) -> None:
    pytester.makepyfile(test_plans=PLANS)
    run("--perfguard-update", "-k", "kept").assert_outcomes(passed=1)
    held = pytester.path / "__perfguard__" / "test_plans.json"
    assert '"SELECT users.id, users.email FROM users WHERE users.email = ?": "ix_email"' in (
        held.read_text()
    )
    run("-k", "kept").assert_outcomes(passed=1)
    monkeypatch.setenv("NO_INDEX", "1")
    (pytester.path / "shop.py").touch()
    result = run("-k", "kept", "--perfguard-json=run.json")
    result.assert_outcomes(failed=1)
    (line,) = {line for verdict in records()["test_kept"].verdicts for line in verdict.changes}
    assert line == (
        "SELECT users.id, users.email FROM users WHERE users.email = ? used ix_email when the "
        "baseline was recorded and uses none now"
    )
    assert line in " ".join(result.stdout.str().split())
