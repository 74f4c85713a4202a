"""pytest-perfguard: performance budgets as tests.

The names here are the documented interface. They are loaded at first use, because every pytest
that has the plugin installed imports this package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_perfguard.errors import (
        BaselineError,
        CacheError,
        ComparisonError,
        DiagnosisError,
        DuetError,
        GrowthError,
        HistoryError,
        LimitError,
        LoadError,
        MetricError,
        MissingExtraError,
        PerfguardError,
        ProfileFileError,
        PrometheusError,
        RevisionError,
        RoundError,
        RunFileError,
        ServiceError,
        ServiceMissingError,
        SettingError,
        StoreError,
        TaskError,
        TimingError,
        UsageError,
    )
    from pytest_perfguard.fixtures import Perf
    from pytest_perfguard.metrics import METRICS, Metric
    from pytest_perfguard.recorder import Measurement, Recorder
    from pytest_perfguard.runs import read_run
    from pytest_perfguard.spans import Settings

__version__ = "0.1.0"

__all__ = [
    "METRICS",
    "BaselineError",
    "CacheError",
    "ComparisonError",
    "DiagnosisError",
    "DuetError",
    "GrowthError",
    "HistoryError",
    "LimitError",
    "LoadError",
    "Measurement",
    "Metric",
    "MetricError",
    "MissingExtraError",
    "Perf",
    "PerfguardError",
    "ProfileFileError",
    "PrometheusError",
    "Recorder",
    "RevisionError",
    "RoundError",
    "RunFileError",
    "ServiceError",
    "ServiceMissingError",
    "SettingError",
    "Settings",
    "StoreError",
    "TaskError",
    "TimingError",
    "UsageError",
    "read_run",
]

_HOMES = {
    "METRICS": "metrics",
    "Measurement": "recorder",
    "Metric": "metrics",
    "Perf": "fixtures",
    "Recorder": "recorder",
    "Settings": "spans",
    "read_run": "runs",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
