"""Probes: one file for each kind of source that can be listened to."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_perfguard.spans import Probe


_LEAST_REDIS = 5


def available() -> list[Probe]:
    """Return a new instance of every probe whose library is installed.

    The libraries themselves are imported when a probe is started, that is, when something is
    first measured.
    """
    from pytest_perfguard.probes.http import HttpProbe  # noqa: PLC0415 - lazy by design
    from pytest_perfguard.probes.loop import LoopProbe  # noqa: PLC0415 - lazy by design
    from pytest_perfguard.probes.process import ProcessProbe  # noqa: PLC0415 - lazy by design

    probes: list[Probe] = []
    if find_spec("sqlalchemy") is not None:
        from pytest_perfguard.probes.sql import SqlProbe  # noqa: PLC0415 - lazy by design

        probes.append(SqlProbe())
    if _major_version("redis") >= _LEAST_REDIS:
        from pytest_perfguard.probes.cache import CacheProbe  # noqa: PLC0415 - lazy by design

        probes.append(CacheProbe())
    probes += [HttpProbe(), ProcessProbe(), LoopProbe()]
    if find_spec("celery") is not None:
        from pytest_perfguard.probes.celery_queue import CeleryQueue  # noqa: PLC0415 - lazy
        from pytest_perfguard.probes.tasks import TaskProbe  # noqa: PLC0415 - lazy by design

        probes.append(TaskProbe([CeleryQueue()]))
    return probes


def _major_version(distribution: str) -> int:
    """Return the first number of an installed distribution's version, 0 if there is none."""
    try:
        return int(version(distribution).partition(".")[0])
    except (PackageNotFoundError, ValueError):
        return 0
