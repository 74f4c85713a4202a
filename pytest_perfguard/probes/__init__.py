"""Probes: one file for each kind of source that can be listened to."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_perfguard.spans import Probe


def available() -> list[Probe]:
    """Return a new instance of every probe whose library is installed.

    The libraries themselves are imported when a probe is started, that is, when something is
    first measured.
    """
    from pytest_perfguard.probes.requests import RequestProbe  # noqa: PLC0415 - lazy by design

    probes: list[Probe] = []
    if find_spec("sqlalchemy") is not None:
        from pytest_perfguard.probes.sql import SqlProbe  # noqa: PLC0415 - lazy by design

        probes.append(SqlProbe())
    probes.append(RequestProbe())
    return probes
