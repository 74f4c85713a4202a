"""Options that change what is measured and shown, and what never leaves the process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_perfguard.model import Record

Run = Callable[..., pytest.RunResult]
Failed = Callable[[pytest.RunResult], list[str]]
Records = Callable[[], dict[str, Record]]


def test_fixtures_count_where_that_is_asked_for(
    pytester: pytest.Pytester, run: Run, run_once: Run, records: Records
) -> None:
    pytester.makepyfile(
        test_phases="""
        import pytest, shop

        @pytest.fixture
        def prepared():
            shop.list_eagerly()
            yield
            shop.list_lazily()

        @pytest.fixture
        def broken(prepared):
            raise LookupError("in set-up")

        @pytest.mark.perf_budget(sql_queries=1)
        def test_one(prepared):
            shop.get_email(1)

        @pytest.mark.perf_budget(sql_queries=1)
        def test_broken(broken):
            pass

        @pytest.mark.perf_budget(sql_queries=1)
        def test_after():
            shop.get_email(1)
        """
    )

    call = run_once("--perfguard-json=run.json")
    call.assert_outcomes(passed=2, errors=1)
    assert {n: r.metrics["sql_queries"] for n, r in records().items()} == {
        "test_one": 1,
        "test_after": 1,
    }

    both = run("--perfguard-json=run.json", "--perfguard-phases=setup+call")
    both.assert_outcomes(passed=1, failed=1, errors=1)
    assert {n: r.metrics["sql_queries"] for n, r in records().items()} == {
        "test_one": 3,
        "test_after": 1,
    }
    both.stdout.fnmatch_lines("perfguard: 1 of 1 budget exceeded in test_one")


@pytest.mark.parametrize(("threshold", "found"), [(None, 1), (20, 1), (21, 0)])
@pytest.mark.parametrize("ini", [False, True], ids=["option", "ini"])
def test_the_threshold_of_a_candidate_can_be_set(
    pytester: pytest.Pytester, run_once: Run, threshold: int | None, found: int, ini: bool
) -> None:
    pytester.makepyfile(
        f"""
        import shop

        def test_list(perf):
            with perf.measure("list") as m:
                shop.list_lazily()
            assert m["sql_n_plus_one"] == {found}
        """
    )
    arguments = [] if threshold is None else [f"--perfguard-n-plus-one={threshold}"]
    if ini and threshold is not None:
        pytester.makeini(f"[pytest]\nperfguard_n_plus_one = {threshold}\n")
        arguments = []

    run_once(*arguments).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("packages", "place"),
    [
        ([], "    at test_lib.py:5 in test_list, through vendored.db.load"),
        (["other", "vend"], "    at test_lib.py:5 in test_list, through vendored.db.load"),
        (["vendored"], "    at */site-packages/vendored/db.py:7 in load"),
        (["vendored.db"], "    at */site-packages/vendored/db.py:7 in load"),
    ],
)
def test_an_installed_package_can_be_named_as_ones_own(
    pytester: pytest.Pytester, run_once: Run, packages: list[str], place: str
) -> None:
    library = pytester.mkpydir("vendored").rename(_site_packages(pytester) / "vendored")
    (library / "db.py").write_text(
        "import shop\n"
        "from sqlalchemy.orm import Session\n\n\n"
        "def load(number):\n"
        "    with Session(shop.engine) as session:\n"
        "        return session.get(shop.User, number)\n"
    )
    pytester.syspathinsert(library.parent)
    pytester.makepyfile(
        test_lib="""
        import pytest
        from vendored.db import load
        @pytest.mark.perf_budget(sql_n_plus_one=0)
        def test_list():
            [load(number) for number in range(1, 11)]
        """
    )

    result = run_once(*(f"--perfguard-packages={name}" for name in packages))

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([place])


def _site_packages(pytester: pytest.Pytester) -> Path:
    path = pytester.path / "lib" / "site-packages"
    path.mkdir(parents=True)
    return path


# -- privacy -------------------------------------------------------------------------------

SECRETS = ("hunter2-parameter", "hunter2-literal", "hunter2-error", "hunter2-named")
SECRET_TESTS = """
    import pytest, shop
    from sqlalchemy import text
    from sqlalchemy.exc import OperationalError
    from sqlalchemy.orm import Session

    def ask():
        with Session(shop.engine) as session:
            for number in range(6):
                session.execute(
                    text("SELECT name FROM resources WHERE name = :name AND id = :id"),
                    {"name": "hunter2-parameter", "id": number},
                )
                literals = f"email = 'hunter2-literal' AND id = {number}"
                session.execute(text(f"SELECT id FROM users WHERE {literals}"))
            for _ in range(2):
                session.execute(
                    text("SELECT id FROM users WHERE email = :email"), {"email": "hunter2-named"}
                )
            try:
                # SQLite quotes the path in its message.
                session.execute(text("SELECT json_extract('{}', :path)"), {"path": "hunter2-error"})
            except OperationalError:
                pass

    @pytest.mark.perf_budget(
        sql_n_plus_one=0, sql_duplicates=0, sql_errors=0, sql_rows=0, sql_slowest="1ns"
    )
    def test_over():
        ask()

    @pytest.mark.perf_budget(sql_queries=1)
    def test_failing():
        ask()
        assert False
"""


def everything(pytester: pytest.Pytester, result: pytest.RunResult) -> dict[str, str]:
    """Return all that the run has said and written, by where."""
    files = {
        path.name: path.read_text(encoding="utf-8")
        for path in (pytester.path / "out").rglob("*")
        if path.is_file()
    }
    return {"stdout": result.stdout.str(), "stderr": result.stderr.str(), **files}


FILES = (
    "--perfguard",
    "--perfguard-json=out/run.json",
    "--junitxml=out/junit.xml",
    "-rA",
    "--tb=line",
    "-o",
    "cache_dir=out/cache",
)


def test_no_value_appears_in_any_output_or_file(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(test_secret=SECRET_TESTS)

    result = run(*FILES)

    result.assert_outcomes(failed=2)
    texts = everything(pytester, result)
    assert {"run.json", "junit.xml"} <= set(texts)
    assert "SELECT name FROM resources" in texts["stdout"]
    assert "OperationalError: JSON path error near ?" in texts["stdout"]
    assert [
        (where, secret) for where, text in texts.items() for secret in SECRETS if secret in text
    ] == []


def test_parameters_are_shown_in_the_terminal_on_request(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makepyfile(test_secret=SECRET_TESTS)

    result = run(*FILES, "--perfguard-show-parameters")

    result.stdout.fnmatch_lines(
        [
            "parameters in test_secret.py::test_over:",
            "  6x SELECT name FROM resources WHERE name = [?] AND id = [?]",
            "      ('hunter2-parameter', 0)",
            "      ('hunter2-parameter', 1)",
        ]
    )
    assert "hunter2-" not in everything(pytester, result)["run.json"]


def test_parameters_that_are_shown_stay_out_of_every_file(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    pytester.makepyfile(test_secret=SECRET_TESTS)

    result = run_once(*FILES, "--perfguard-show-parameters")

    texts = everything(pytester, result)
    assert "hunter2-parameter" in texts.pop("stdout")
    assert [where for where, text in texts.items() if "hunter2-" in text] == []


def test_the_password_of_an_engine_is_kept_out(pytester: pytest.Pytester, run_once: Run) -> None:
    pytester.makepyfile(
        test_engine="""
        import pytest, shop
        from sqlalchemy import create_engine, text

        @pytest.mark.perf_budget(sql_queries=0)
        def test_engine():
            engine = create_engine(
                "sqlite://scott:hunter2-password@/x?y=1", creator=shop.engine.raw_connection
            )
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
            engine.dispose()
        """
    )

    result = run_once(*FILES)

    result.assert_outcomes(failed=1)
    assert [t for t, text in everything(pytester, result).items() if "hunter2" in text] == []
