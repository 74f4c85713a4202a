"""Frames come from code compiled under made-up file names: where a file lies is all that counts."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import pytest_perfguard
from pytest_perfguard.callsite import CallSites, outwards
from pytest_perfguard.model import Site

_ROOT = Path("/home/me/project")
_LIBS = "/venv/lib/python3/site-packages"
_ORM = f"{_LIBS}/orm/"


def _load(filename: str, source: str, **names: Any) -> dict[str, Any]:
    exec(compile(source, filename, "exec"), names)  # noqa: S102 - the file name is what is tested
    return names


@pytest.fixture
def sites() -> CallSites:
    return CallSites(_ROOT)


@pytest.fixture
def query(sites: CallSites) -> Callable[[], Site | None]:
    """A function of a probed library that returns the site of its caller."""

    def find(frame: FrameType) -> Site | None:
        return sites.site(frame, _ORM)

    source = (
        "def execute():\n    return find(sys._getframe())\ndef query():\n    return execute()\n"
    )
    found: Callable[[], Site | None] = _load(f"{_ORM}engine.py", source, find=find, sys=sys)[
        "query"
    ]
    return found


def _run(source: str, query: Callable[[], Site | None], **names: Any) -> Site | None:
    """Run ``main()`` of a module of the user's and return the site that it got."""
    found: Site | None = _load(str(_ROOT / "app" / "crud.py"), source, query=query, **names)[
        "main"
    ]()
    return found


def test_the_nearest_line_of_the_users_own_code_is_named(
    query: Callable[[], Site | None],
) -> None:
    found = _run("def rows():\n    return query()\n\ndef main():\n    return rows()\n", query)
    assert found is not None
    assert (found.file, found.line, found.end_line, found.function) == (
        "app/crud.py",
        2,
        2,
        "rows",
    )
    assert found.through is None
    assert found.callers[0] == "app/crud.py:5 in main"


def test_an_expression_of_several_lines_ends_where_it_ends(
    query: Callable[[], Site | None],
) -> None:
    found = _run("def main():\n    return query(\n        *[],\n    )\n", query)
    assert found is not None
    assert (found.line, found.end_line) == (2, 4)


@pytest.mark.parametrize(
    "expression",
    [
        "[query() for _ in range(2)][0]",
        "next(iter({query(): 1 for _ in range(2)}))",
        "{query() for _ in range(2)}.pop()",
        "next(query() for _ in range(2))",
        "[[query() for _ in range(2)] for _ in range(2)][0][0]",
    ],
)
def test_a_comprehension_is_part_of_its_function(
    query: Callable[[], Site | None], expression: str
) -> None:
    found = _run(
        f"class A:\n    def rows(self):\n        return {expression}\nmain = A().rows", query
    )
    assert found is not None
    assert (found.line, found.function) == (3, "A.rows")
    assert not any("app/crud.py:3 " in caller for caller in found.callers)


def test_a_function_inside_another_is_named_with_it(query: Callable[[], Site | None]) -> None:
    source = "def main():\n    def rows():\n        return query()\n    return rows()\n"
    found = _run(source, query)
    assert found is not None
    assert found.function == "main.rows"


def test_at_most_four_callers_are_named(query: Callable[[], Site | None]) -> None:
    calls = "".join(f"def f{n}():\n    return f{n - 1}()\n" for n in range(1, 9))
    found = _run(f"def f0():\n    return query()\n{calls}main = f8\n", query)
    assert found is not None
    assert [caller.rpartition(" ")[2] for caller in found.callers] == ["f1", "f2", "f3", "f4"]


def test_the_library_between_is_named_unless_it_is_the_probed_one(
    query: Callable[[], Site | None],
) -> None:
    source = "class Model:\n    def validate(self):\n        return query()\n"
    model = _load(f"{_LIBS}/schemas/main.py", source, query=query)["Model"]
    found = _run("def main():\n    return Model().validate()\n", query, Model=model)
    assert found is not None
    assert (found.function, found.through) == ("main", "schemas.main.Model.validate")


def test_no_site_is_given_where_no_code_of_the_user_is_on_the_stack(sites: CallSites) -> None:
    assert sites.site(None, _ORM) is None
    assert sites.nearest(None) is None


def test_code_without_a_file_is_passed_over(query: Callable[[], Site | None]) -> None:
    generated = _load("<string>", "def call():\n    return query()\n", query=query)["call"]
    found = _run("def main():\n    return call()\n", query, call=generated)
    assert found is not None
    assert (found.function, found.through) == ("main", None)


def test_the_nearest_frame_is_the_one_that_the_site_describes(sites: CallSites) -> None:
    frame = sys._getframe()
    library = _load(f"{_ORM}engine.py", "def run(f):\n    return f(sys._getframe())\n", sys=sys)
    assert library["run"](sites.nearest) is frame


_STDLIB = sysconfig.get_paths()["stdlib"]
_PERFGUARD = Path(pytest_perfguard.__file__).parent


@pytest.mark.parametrize(
    ("filename", "own"),
    [
        ("/home/me/project/app/crud.py", True),
        ("/home/me/project/tests/test_crud.py", True),
        ("/elsewhere/app.py", True),
        ("app/crud.py", True),
        (r"C:\project\app\crud.py", True),
        (f"{_LIBS}/orm/engine.py", False),
        (r"C:\venv\Lib\site-packages\orm\engine.py", False),
        ("/usr/lib/python3/dist-packages/orm/engine.py", False),
        (f"{_STDLIB}/json/decoder.py", False),
        (f"{_STDLIB}-project/app.py", True),
        (str(_PERFGUARD / "recorder.py"), False),
        (str(_PERFGUARD / "probes" / "sql.py"), False),
        (f"{_PERFGUARD}_project/app.py", True),
        ("<string>", False),
        ("<frozen importlib._bootstrap>", False),
    ],
)
def test_whose_code_a_file_holds_is_told_by_where_it_lies(
    sites: CallSites, filename: str, own: bool
) -> None:
    assert sites.classify(filename) is own
    assert sites.is_user[filename] is own


@pytest.mark.parametrize(
    ("filename", "own"),
    [
        (f"{_LIBS}/shop/models.py", True),
        (f"{_LIBS}/shop/api/views.py", True),
        (r"C:\venv\Lib\site-packages\shop\models.py", True),
        (f"{_LIBS}/single.py", True),
        (f"{_LIBS}/space/part/models.py", True),
        (f"{_LIBS}/space/other/models.py", False),
        (f"{_LIBS}/shopping/models.py", False),
        (f"{_LIBS}/orm/shop/models.py", False),
        (f"{_LIBS}/orm/engine.py", False),
    ],
)
def test_a_package_that_is_named_counts_as_the_users_own(filename: str, own: bool) -> None:
    packages = ("shop", "single", "space.part")
    assert CallSites(_ROOT, packages).classify(filename) is own


@pytest.mark.parametrize(
    ("filename", "shown"),
    [
        ("/home/me/project/app/crud.py", "app/crud.py"),
        ("/home/me/project2/app.py", "/home/me/project2/app.py"),
        ("app/crud.py", "app/crud.py"),
    ],
)
def test_a_file_is_shown_below_the_root(sites: CallSites, filename: str, shown: str) -> None:
    assert sites.show(filename) == shown


def test_the_walk_goes_on_in_the_greenlets_that_wait(query: Callable[[], Site | None]) -> None:
    greenlet = pytest.importorskip("greenlet").greenlet
    source = "def switch(function):\n    return greenlet(function).switch()\n"
    switch = _load(f"{_LIBS}/concurrency.py", source, greenlet=greenlet)["switch"]
    source = "def main():\n    return switch(query)\n"
    for depth in (1, 2, 3):
        found = _run(source, query, switch=switch)
        assert found is not None, depth
        assert (found.line, found.function) == (2, "main"), depth
        query = partial(switch, query)


def test_the_walk_starts_with_the_frame_itself() -> None:
    frame = sys._getframe()
    walked = list(outwards(frame))
    assert walked[0] is frame
    assert walked[1] is frame.f_back


def test_a_script_of_the_environment_is_not_the_users_own_whatever_path_it_was_started_by(
    sites: CallSites, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = Path(sysconfig.get_path("scripts"))
    monkeypatch.chdir(scripts.parent)
    assert not sites.classify(str(scripts / "pytest"))
    assert not sites.classify(str(Path(scripts.name, "pytest")))
    assert sites.classify(str(Path("app", "crud.py")))
