"""How a test fails that did all that it should and cost too much."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from _pytest.outcomes import Failed as _Failed
else:
    _Failed = pytest.fail.Exception


class BudgetFailure(_Failed):
    """A test passed by itself and did not keep its budgets."""

    # pytest prints this name before the message, as it does for pytest.fail().
    __module__ = "builtins"
    __qualname__ = "Failed"
