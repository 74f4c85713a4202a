"""What can go wrong, each with the place and the remedy in its message."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class PerfguardError(Exception):
    """Base of every error that perfguard raises on its own account."""


class UsageError(PerfguardError):
    """A command was asked for something that there is not, or that it does not do."""


class DiagnosisError(PerfguardError):
    """A project cannot be looked at, since pytest does not start in it."""


class MetricError(PerfguardError, KeyError):
    """A metric was asked for by a name that is not in the table."""

    def __str__(self) -> str:
        """Return the message as it is: ``KeyError`` would quote it."""
        return str(self.args[0])


class LimitError(PerfguardError, ValueError):
    """A budget's limit cannot be read or makes no sense for its metric."""


class SettingError(PerfguardError, ValueError):
    """An option or ini value cannot be read."""


class CacheError(PerfguardError, TypeError):
    """A cache cannot be watched, or a call cannot be compared with itself."""


class GrowthError(PerfguardError, ValueError):
    """Growth cannot be judged as it was asked for."""


class TimingError(PerfguardError, ValueError):
    """A timing cannot be made as it was asked for, or says too little."""


class RoundError(PerfguardError):
    """The result of a round is not what it should be.

    Attributes:
        round: which round it was, e.g. ``round 7 of 100``.
    """

    def __init__(self, where: str, reason: object) -> None:
        super().__init__(f"{where}: {reason}")
        self.round = where


class TaskError(PerfguardError, AssertionError):
    """A task is not retried as it should be, or nothing can be said of how it is."""


class LoadError(PerfguardError):
    """A load cannot be put on a server as it was asked for, or says nothing of it."""


class PrometheusError(PerfguardError, LookupError):
    """A metric of Prometheus cannot be read, or there is none of that name."""


class ServiceError(PerfguardError):
    """A server that tests need cannot be used."""


class ServiceMissingError(ServiceError):
    """There is no server that tests could use, and nothing that could start one."""


class BaselineError(PerfguardError):
    """A file of baselines cannot be used; it is left as it is."""

    def __init__(self, path: Path, reason: str, remedy: str) -> None:
        super().__init__(f"{path} {reason}: {remedy}")
        self.path = path
        self._said = f"{reason}: {remedy}"

    def below(self, root: Path) -> str:
        """Return the message with the path as it is below a folder."""
        path = self.path.relative_to(root) if self.path.is_relative_to(root) else self.path
        return f"{path.as_posix()} {self._said}"


class RunFileError(PerfguardError):
    """A ``run.json`` cannot be read or written."""


class StoreError(PerfguardError):
    """Stored times cannot be read or written; what is there is left as it is."""


class DuetError(PerfguardError):
    """Two sides cannot be compared at all."""


class HistoryError(PerfguardError):
    """A history cannot be read or written; what is there is left as it is."""


class ProfileFileError(PerfguardError):
    """A file with a profile cannot be read or written."""


class RevisionError(PerfguardError):
    """A comparison of revisions is asked for in a way that cannot be understood."""


class ComparisonError(PerfguardError):
    """Two revisions cannot be compared, or nothing can be said of them."""


class MissingExtraError(PerfguardError, ImportError):
    """An optional library is needed and not installed."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(
            f"{library} is not installed: install pytest-perfguard with the extra [{extra}]",
            name=library,
        )
