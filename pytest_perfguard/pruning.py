"""Removes baselines of tests that are gone, without running the others: they are only collected."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from pytest_perfguard.approval import Approval, Gone, find_gone, prune
from pytest_perfguard.plugin import collected
from pytest_perfguard.suite import names_tests


class _Collector:
    """Takes down which tests pytest finds, and which of them are compared with a baseline."""

    def __init__(self) -> None:
        self.root = Path.cwd()
        self.gone: list[Gone] = []
        self.reasons: list[str] = []

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Compare what was found with what the files hold."""
        self.root = session.config.rootpath
        # What is deselected was found before; these leave tests out of what is found.
        if names_tests(session.config):
            self.reasons.append("single tests were named")
        if session.config.getoption("lf", default=False):
            self.reasons.append("--lf")
        if not self.reasons:
            self.gone = find_gone(session.config, collected(session.config))


def prune_suite(arguments: Sequence[str], *, dry_run: bool) -> Approval:
    """Collect a suite and remove the baselines of tests that it does not have.

    Args:
        arguments: of pytest, as the whole suite is run with.
        dry_run: only tell what would be removed.
    """
    collector, output = _Collector(), StringIO()
    with redirect_stdout(output):
        code = pytest.main(["--collect-only", "-q", "--perfguard", *arguments], plugins=[collector])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        return Approval(problems=[f"the tests cannot be collected:\n{output.getvalue().strip()}"])
    if collector.reasons:
        reasons = ", ".join(collector.reasons)
        return Approval(problems=[f"only the whole suite tells which tests are gone: {reasons}"])
    if dry_run:
        lines = [f"  {entry.told(collector.root)}" for entry in collector.gone]
        return Approval([*(["baselines to be removed:"] if lines else []), *lines])
    return prune(collector.root, collector.gone)
