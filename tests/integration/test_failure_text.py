"""What a person reads when a budget is not kept."""

from __future__ import annotations

import re
from collections.abc import Callable
from textwrap import dedent

import pytest

Run = Callable[..., pytest.RunResult]


def test_a_breach_reads_cause_first_without_a_traceback(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makepyfile(
        test_list="""
        import pytest, shop

        @pytest.mark.perf_budget(
            sql_queries=2,
            sql_n_plus_one=0,
            sql_rows=1_000,
        )
        def test_list():
            shop.list_lazily()
        """
    )

    result = run()

    result.assert_outcomes(failed=1)
    line = 1 + next(
        number
        for number, text in enumerate((pytester.path / "shop.py").read_text().splitlines())
        if "resource.owner.email" in text
    )
    assert failure(result, "test_list") == [
        "perfguard: 2 of 3 budgets exceeded in test_list",
        "  sql_queries     21 > 2   perf_budget, test_list.py:4",
        "  sql_n_plus_one   1 > 0   perf_budget, test_list.py:5",
        "20x Resource.owner lazy-loaded one row at a time",
        f"    at shop.py:{line} in list_lazily",
        "       from test_list.py:9 in test_list",
        (
            "    SELECT users.id, users.email FROM users WHERE users.id = ?"
            "    20 different parameter sets"
        ),
        "    fix: select(Resource).options(selectinload(Resource.owner))  # or joinedload",
        "timeline: 1x SELECT resources · 20x SELECT users",
    ]
    result.stdout.fnmatch_lines(
        [
            "FAILED test_list.py::test_list - Failed: perfguard: 2 of 3 budgets exceeded in *",
            "*= 1 failed in *",
        ],
        consecutive=True,
    )


@pytest.mark.parametrize("style", ["long", "short", "native", "no", "auto"])
def test_no_traceback_style_adds_frames_to_a_breach(
    pytester: pytest.Pytester, run_once: Run, style: str
) -> None:
    pytester.makepyfile(
        test_list="""
        import pytest, shop

        @pytest.mark.perf_budget(sql_queries=2)
        def test_list():
            shop.list_lazily()
        """
    )

    result = run_once(f"--tb={style}")

    result.assert_outcomes(failed=1)
    output = result.stdout.str()
    assert not re.search(r"(guard|recorder)\.py|Traceback|INTERNALERROR|^E  ", output, re.MULTILINE)
    assert style == "no" or "perfguard: 1 of 1 budget exceeded in test_list" in output


def test_the_fix_can_be_pasted(pytester: pytest.Pytester, run_once: Run) -> None:
    pytester.makepyfile(
        test_list="""
        import pytest, shop

        @pytest.mark.perf_budget(sql_n_plus_one=0)
        def test_list():
            shop.list_lazily()
        """
    )
    text = "\n".join(failure(run_once(), "test_list"))
    (fix,) = re.findall(r"fix: (.+)", text)
    shop = pytester.path / "shop.py"
    shop.write_text(
        shop.read_text().replace(
            "session.scalars(select(Resource))", f"session.scalars({fix.partition('  #')[0]})"
        )
    )

    run_once().assert_outcomes(passed=1)


def test_every_cause_is_named_where_there_are_several(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    pytester.makepyfile(
        test_causes="""
        import pytest, shop
        from sqlalchemy import text
        from sqlalchemy.exc import OperationalError
        from sqlalchemy.orm import Session

        @pytest.mark.perf_budget(sql_n_plus_one=0, sql_duplicates=0, sql_errors=0, sql_commits=0)
        def test_causes():
            for number in range(1, 7):
                shop.get_email(number)
            with Session(shop.engine) as session:
                for _ in range(3):
                    session.execute(text("SELECT name FROM resources"))
                try:
                    session.execute(text("SELECT wrong FROM users"))
                except OperationalError:
                    pass
                session.commit()
        """
    )

    lines = failure(run_once(), "test_causes")

    assert lines[:5] == [
        "perfguard: 4 of 4 budgets exceeded in test_causes",
        "  sql_n_plus_one  1 > 0   perf_budget, test_causes.py:6",
        "  sql_duplicates  2 > 0   perf_budget, test_causes.py:6",
        "  sql_errors      1 > 0   perf_budget, test_causes.py:6",
        "  sql_commits     1 > 0   perf_budget, test_causes.py:6",
    ]
    titles = [line for line in lines[5:] if not line.startswith(" ")]
    assert titles == [
        "6x SELECT users run one at a time with other parameters",
        "2x SELECT resources read again with the same parameters",
        "1x SELECT users failed: OperationalError: no such column: wrong",
        "1x COMMIT",
        "timeline: 6x SELECT users · 3x SELECT resources · 1x SELECT users",
    ]
    assert "    at test_causes.py:12 in test_causes" in lines
    commit = lines.index("1x COMMIT")
    assert lines[commit + 1 : commit + 3] == [
        "    at test_causes.py:17 in test_causes",
        "    fix: commit once, when all of it is done",
    ]
    assert any("select(User).where(User.id.in_(keys))" in line for line in lines)


def test_a_failure_of_the_tests_own_comes_first_and_the_evidence_in_a_section_below(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makepyfile(
        test_own="""
        import pytest, shop

        @pytest.mark.perf_budget(sql_queries=2)
        def test_own():
            print("printed by the test")
            assert len(shop.list_lazily()) == 21
        """
    )

    result = run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E       AssertionError: assert 20 == 21",
            "*- Captured stdout call -*",
            "printed by the test",
            "*- perfguard -*",
            "perfguard: 1 of 1 budget exceeded in test_own",
            "  sql_queries  21 > 2   perf_budget, test_own.py:3",
            "20x Resource.owner lazy-loaded one row at a time",
            "FAILED test_own.py::test_own - AssertionError: assert 20 == 21*",
        ]
    )


def test_a_failure_of_the_tests_own_has_no_section_where_nothing_was_found(
    pytester: pytest.Pytester, run_once: Run
) -> None:
    pytester.makepyfile(
        """
        import pytest, shop

        @pytest.mark.perf_budget(sql_queries=2)
        def test_own():
            assert len(shop.list_eagerly()) == 21
        """
    )

    result = run_once()

    result.assert_outcomes(failed=1)
    result.stdout.no_fnmatch_line("*- perfguard -*")


def failure(result: pytest.RunResult, test: str) -> list[str]:
    """Return the lines of a test's failure."""
    lines = iter(result.outlines)
    for line in lines:
        if re.fullmatch(rf"_+ {test} _+", line):
            break
    found = []
    for line in lines:
        if re.match(r"(=|_|-){3}", line):
            break
        found.append(line)
    # In one process the outer test's own line is on the stack too.
    return [line for line in found if not line.startswith(("[gw", "       from /"))]


WEB = """
    import pytest
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.gzip import GZipMiddleware
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route
    from starlette.testclient import TestClient

    async def large(request):
        return PlainTextResponse("x" * 50_000)

    async def broken(request):
        raise LookupError

    async def small(request):
        return PlainTextResponse("")

    routes = [Route(f"/{serve.__name__}", serve) for serve in (large, broken, small)]
    app = Starlette(routes=routes)
    zipping = Starlette(routes=routes, middleware=[Middleware(GZipMiddleware)])

    @pytest.fixture
    def client():
        return TestClient(app, raise_server_exceptions=False)
"""


def test_a_breach_of_a_limit_on_requests_names_the_request_and_its_line(
    pytester: pytest.Pytester, run: Run
) -> None:
    (pytester.path / "test_web.py").write_text(
        dedent(WEB)
        + dedent(
            """
            @pytest.mark.perf_budget(response_bytes="1KiB", response_bytes_decoded="1KiB")
            def test_large(client):
                client.get("/small")
                client.get("/large")  # plain

            @pytest.mark.perf_budget(response_bytes_decoded="1KiB")
            def test_zipped():
                TestClient(zipping).get("/large")  # zipped

            @pytest.mark.perf_budget(http_errors=0)
            def test_broken(client):
                client.get("/broken")  # raises

            @pytest.mark.perf_budget(http_requests=2)
            def test_many(client):
                for _ in range(3):
                    client.get("/small")  # many
            """
        )
    )

    result = run()

    result.assert_outcomes(failed=4)
    text = (pytester.path / "test_web.py").read_text().splitlines()
    lines = {part.rpartition("# ")[2]: n for n, part in enumerate(text, 1) if "  # " in part}
    through = "raise_server_exceptions=True, app.testing"
    less = "answer with less: fewer rows to a page, or fewer fields"
    assert failure(result, "test_large")[3:] == [
        "largest response: GET /large, 48.8 KiB",
        f"    at test_web.py:{lines['plain']} in test_large",
        f"    fix: compress it, as Starlette's GZipMiddleware does, or {less}",
    ]
    title, *zipped = failure(result, "test_zipped")[2:]
    assert re.fullmatch(
        r"largest response: GET /large, \d+ B on the wire, 48\.8 KiB decoded", title
    )
    assert zipped == [
        f"    at test_web.py:{lines['zipped']} in test_zipped",
        f"    fix: {less}",
    ]
    assert failure(result, "test_broken")[2:] == [
        "1x GET /broken failed: status 500",
        f"    at test_web.py:{lines['raises']} in test_broken",
        f"    fix: let what was raised through, to see where: {through}",
    ]
    assert failure(result, "test_many")[2:] == [
        "3x GET /small",
        f"    at test_web.py:{lines['many']} in test_many",
    ]
