"""``perf_scales`` on a test: the test itself is the call that is made with more and more data."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial, wraps
from inspect import iscoroutinefunction, unwrap
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.unittest import TestCaseFunction

from pytest_perfguard.errors import GrowthError
from pytest_perfguard.jobs import Job
from pytest_perfguard.scaling import SIZES, Contract, read_contract, scales
from pytest_perfguard.units import shown

if TYPE_CHECKING:
    from pytest_perfguard.guard import Guard

MARK = "perf_scales"
_EXAMPLE = "write the name of a fixture that gives populate(n), as in perf_scales('make_users')"
_FIXTURES = ("flush", "session")


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a mark asks for.

    Attributes:
        fixtures: by what they are for: ``populate``, ``flush``, ``session``.
    """

    where: str
    contract: Contract
    fixtures: dict[str, str]


_WISH = pytest.StashKey[_Wish]()


class ScaleMarks:
    """Makes contracts of the tests that are marked so."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def read(self, item: pytest.Item) -> str:
        """Read the mark of a test, and return what is wrong with it."""
        node, mark = next(iter(item.iter_markers_with_node(MARK)))
        where = self._guard.where(item, node, MARK)
        if not isinstance(item, pytest.Function) or isinstance(item, TestCaseFunction):
            return f"{where}: only test functions and methods of plain classes can be called again"
        keywords = dict(mark.kwargs)
        fixtures = {name: keywords.pop(name) for name in _FIXTURES if name in keywords}
        named = [keywords.pop("populate"), *mark.args] if "populate" in keywords else mark.args
        if len(named) != 1:
            return f"{where}: {_EXAMPLE}"
        fixtures["populate"] = named[0]
        for use, name in fixtures.items():
            if not isinstance(name, str):
                return f"{where}: {use} is {shown(name)}, not the name of a fixture"
        try:
            contract = read_contract(keywords.pop("sizes", SIZES), keywords, where)
        except GrowthError as error:
            return str(error)
        item.stash[_WISH] = _Wish(where, contract, fixtures)
        item.fixturenames += [name for name in fixtures.values() if name not in item.fixturenames]
        return ""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Put the contract in the place of the test."""
        wish = item.stash.get(_WISH, None)
        if wish is None or not isinstance(item, pytest.Function):
            return (yield)
        test = item.obj
        item.obj = self._contract(item, wish, test)
        try:
            return (yield)
        finally:
            item.obj = test

    def _contract(
        self, item: pytest.Function, wish: _Wish, test: Callable[..., Any]
    ) -> Callable[..., Any]:
        code = getattr(unwrap(test), "__func__", unwrap(test))
        used: dict[str, Any] = {use: item.funcargs[name] for use, name in wish.fixtures.items()}

        def begin(arguments: dict[str, Any]) -> Any:
            __tracebackhide__ = True
            for use in ("populate", "flush"):
                if use in used and not callable(used[use]):
                    raise GrowthError(
                        f"{wish.where}: the fixture {wish.fixtures[use]!r} gives "
                        f"{type(used[use]).__name__}, not a function to call"
                    )
            job = Job(self._guard, item, wish.where, None)
            steps = scales(
                job,
                used["populate"],
                partial(test, **arguments),
                wish.contract,
                flush=used.get("flush"),
                session=used.get("session"),
            )
            return job.run(steps)

        @wraps(code)
        def scaled(**arguments: Any) -> None:
            __tracebackhide__ = True
            begin(arguments)

        @wraps(code)
        async def scaled_async(**arguments: Any) -> None:
            __tracebackhide__ = True
            await begin(arguments)

        return scaled_async if iscoroutinefunction(test) else scaled
