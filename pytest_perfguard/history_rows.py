"""What a history keeps of a run, and by which names: pure functions of records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from pytest_perfguard.baselines import databases
from pytest_perfguard.metrics import METRICS
from pytest_perfguard.model import Record, encodable


@dataclass(frozen=True, slots=True)
class Key:
    """A test on one kind of database, as it is told from others."""

    nodeid: str
    databases: str

    @classmethod
    def of(cls, record: Record) -> Key:
        """Return the key of a record."""
        # PostgreSQL's texts hold no zero byte.
        nodeid = encodable(record.nodeid).replace("\0", "\\x00")
        return cls(nodeid, databases(record)[:255])

    @property
    def digest(self) -> str:
        """What it is found by: node ids may be longer than what databases have an index on."""
        return sha256(f"{self.databases}\n{self.nodeid}".encode()).hexdigest()


def values_of(record: Record) -> dict[str, float]:
    """Return the values that are kept of a test: not what a probe that saw nothing has counted."""
    return {
        name: float(value)
        for name, value in record.metrics.items()
        if METRICS[name].observed(record.span)
    }


def environment_key(environment: Mapping[str, str]) -> str:
    """Return what times depend on, in words: the interpreter without its patch, and the machine.

    Libraries are not in it: what they change is what a trend shows.
    """
    python = ".".join(environment.get("python", "").split(".")[:2])
    words = [environment.get("implementation", ""), python]
    words += [environment.get(name, "") for name in ("system", "machine")]
    return " ".join(filter(None, words))[:255]


def in_utc(moment: datetime) -> str:
    """Return a moment as the history writes it; one without a zone is in UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return aware.astimezone(UTC).isoformat(timespec="seconds")
