"""What a test asks for by the methods of ``perf``, run at once or awaited."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from inspect import isawaitable
from types import FrameType
from typing import TYPE_CHECKING, Any

from pytest_perfguard.budgets import Budget, requested
from pytest_perfguard.errors import CacheError, RoundError
from pytest_perfguard.model import Level, Site, Span, Verdict
from pytest_perfguard.recorder import Measurement

if TYPE_CHECKING:
    import pytest

    from pytest_perfguard.guard import Guard

Steps = Generator[Any, Any, Any]
_WORKED = range(200, 400)


@dataclass(frozen=True, slots=True)
class Job:
    """What a test asks of perfguard beyond a block: a contract, or timed rounds.

    Its steps are written once, for calls and for coroutine functions: a generator that yields
    whatever may have to be awaited and is sent what came of it.

    Attributes:
        where: the line that asks for it, e.g. ``perf.cold_warm, tests/test_api.py:9``.
    """

    guard: Guard
    item: pytest.Item
    where: str
    frame: FrameType | None

    def site(self) -> Site | None:
        """Return the line that asks for it; None if that is a mark."""
        if self.frame is None:
            return None
        return self.guard.recorder.sites.site(self.frame, "")

    def run(self, steps: Steps, *, lazily: bool = False) -> Any:
        """Run the steps; where they have to wait for something, return what is to be awaited.

        Args:
            lazily: run none of them before it is awaited.
        """
        __tracebackhide__ = True
        token = object()
        self.guard.expect(self.item, token, f"{self.where}: not awaited: write 'await' before it")
        if lazily:
            return self._run_async(steps, None, token)
        try:
            value = next(steps)
            while not isawaitable(value):
                value = steps.send(value)
        except StopIteration as done:
            self.guard.expect(self.item, token, None)
            return done.value
        except BaseException:
            self.guard.expect(self.item, token, None)
            raise
        return self._run_async(steps, value, token)

    async def _run_async(self, steps: Steps, value: Any, token: object) -> Any:
        __tracebackhide__ = True
        self.guard.expect(self.item, token, f"{self.where}: the test ended before it did")
        try:
            while True:
                if isawaitable(value):
                    try:
                        value = await value
                    except BaseException as error:  # noqa: BLE001 - the steps close their spans
                        value = steps.throw(error)
                        continue
                value = steps.send(value)
        except StopIteration as done:
            return done.value
        finally:
            self.guard.expect(self.item, token, None)

    def open(
        self, name: str, budgets: Iterable[Budget] = (), asked: frozenset[str] = frozenset()
    ) -> Measurement:
        """Open a block of its own."""
        recorder = self.guard.recorder
        recorder.start()
        span = recorder.open(
            self.guard.block_name(self.item, name),
            "block",
            owner=self,
            asked=requested(budgets) | asked,
        )
        return Measurement(recorder, span)

    def unmeasured(self, call: Callable[[], Any] | None) -> Steps:
        """Call something that belongs to no measurement."""
        if call is None:
            return
        with self.guard.recorder.unmeasured(self):
            yield call()

    def refuse_error(self, result: object, at: str) -> None:
        """Refuse the response of an HTTP client that is an error: what it costs says nothing.

        Args:
            at: which call it was, such as ``n = 50``.

        Raises:
            RoundError: if its status is not 2xx or 3xx.
        """
        __tracebackhide__ = True
        status = getattr(result, "status_code", None)
        if isinstance(status, int) and status not in _WORKED:
            raise RoundError(
                f"{self.where}, {at}",
                f"it answered {status}: what an error costs says nothing. Ask for what works, or "
                "return something else than the response if that is what you mean",
            )

    def judge(self, span: Span, budgets: Iterable[Budget]) -> None:
        """Judge a block together with its test."""
        self.guard.judge_block(self.item, span, self.guard.with_levels(self.item, budgets))

    def note(self, span: Span, verdicts: Iterable[Verdict]) -> None:
        """Add verdicts on a block to those of its test, with what each does in it."""
        level = self.guard.rules.level
        self.guard.note(
            self.item,
            span,
            [
                replace(verdict, level=level(self.item.nodeid, verdict.metric))
                if verdict.level is Level.FAIL
                else verdict
                for verdict in verdicts
            ],
        )

    def mistake(self, text: str) -> None:
        """Note that the contract proves nothing, which fails the test."""
        if not self.guard.expect(self.item, object(), f"{self.where}: {text}"):
            raise CacheError(f"{self.where}: {text}")
