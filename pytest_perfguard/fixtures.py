"""The ``perf`` fixture."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

from pytest_perfguard.budgets import Budget, read_limits
from pytest_perfguard.errors import LimitError
from pytest_perfguard.recorder import Measurement

if TYPE_CHECKING:
    import pytest

    from pytest_perfguard.guard import Guard


class Perf:
    """What a test asks of perfguard while it runs."""

    def __init__(self, guard: Guard, item: pytest.Item) -> None:
        self._guard = guard
        self._item = item

    def measure(self, name: str, /, **limits: float | str) -> Block:
        """Measure a block under a name, with budgets of its own.

        ``with perf.measure("report", sql_queries=5) as m:`` gives every metric as ``m["..."]``,
        inside the block and after it. Budgets are judged with those of the test, when it ends.

        Args:
            name: how the block is called in reports.
            limits: a limit for each metric that is budgeted, written as in ``perf_budget``.

        Raises:
            LimitError: if a metric is unknown or a limit cannot be read; all mistakes at once.
        """
        __tracebackhide__ = True
        if not isinstance(name, str):
            raise TypeError(
                f"perf.measure needs a name first, as in measure('report'), not {name!r}"
            )
        frame = sys._getframe(1)
        file = self._guard.recorder.sites.show(frame.f_code.co_filename)
        mistakes: list[str] = []
        where = f"perf.measure, {file}:{frame.f_lineno}"
        budgets = read_limits(limits, where, mistakes)
        if mistakes:
            raise LimitError("\n".join(mistakes))
        block = Block(self._guard, self._item, name, budgets, where)
        self._guard.expect(
            self._item, block, f"{where}: the block was never entered: write 'with' before it"
        )
        return block


class Block:
    """A named block that is measured between ``__enter__`` and ``__exit__``."""

    def __init__(
        self, guard: Guard, item: pytest.Item, name: str, budgets: list[Budget], where: str
    ) -> None:
        self._where = where
        self._guard = guard
        self._item = item
        self._name = name
        self._budgets = guard.with_levels(item, budgets)
        self._measurement: Measurement | None = None

    def __enter__(self) -> Measurement:
        if self._measurement is not None:
            raise RuntimeError(f"the block {self._name!r} has been entered already")
        recorder = self._guard.recorder
        recorder.start()
        span = recorder.open(self._guard.block_name(self._item, self._name), "block")
        span.explain |= any(budget.metric.on_request for budget in self._budgets)
        self._measurement = Measurement(recorder, span)
        self._guard.expect(self._item, self, f"{self._where}: the block was left open")
        return self._measurement

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._measurement is None:
            raise RuntimeError(f"the block {self._name!r} has not been entered")
        span = self._measurement.close()
        self._guard.expect(self._item, self, None)
        if error is None:
            self._guard.judge_block(self._item, span, self._budgets)
