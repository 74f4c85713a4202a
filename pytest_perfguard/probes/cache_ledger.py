"""What the cache probe keeps of one span."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pytest_perfguard.model import Site, Tally
from pytest_perfguard.spans import MAX_TALLIES

# Keys are remembered as hashes: this many for each tally, to tell one from another.
_MAX_KEYS = 1_024
# Writes whose key may still be given an expiry.
_MAX_LASTING = 50_000


class CacheTally:
    """A tally that is still being added to."""

    __slots__ = (
        "advice",
        "blocking",
        "bytes_in",
        "bytes_out",
        "count",
        "errors",
        "facts",
        "hits",
        "keys",
        "kind",
        "label",
        "lasting",
        "misses",
        "moment",
        "operation",
        "peak",
        "repeats",
        "roundtrips",
        "samples",
        "seconds",
        "shown",
        "site",
        "unstable",
    )

    def __init__(
        self, operation: str, kind: str, site: Site | None = None, advice: str | None = None
    ) -> None:
        self.operation = operation
        self.kind = kind
        self.label = operation
        self.site = site
        self.advice = advice
        self.facts: dict[str, str] = {}
        # Stands on the time line.
        self.shown = kind != "connect"
        self.count = 0
        self.repeats = 0
        self.keys: dict[int, None] = {}
        self.hits = 0
        self.misses = 0
        self.roundtrips = 0
        self.bytes_out = 0
        self.bytes_in = 0
        self.blocking = 0
        self.errors = 0
        # Writes that left their key without an expiry.
        self.lasting = 0
        # Keys with the address of an object in them.
        self.unstable = 0
        self.seconds = 0.0
        self.peak = 0.0
        self.samples: list[str] = []
        self.moment: list[Any] = ["", 0, 0.0, 0.0]

    def remember(self, key: int) -> None:
        """Note a key of a command that could have been part of a larger one."""
        if len(self.keys) < _MAX_KEYS:
            self.keys[key] = None

    def freeze(self) -> Tally:
        """Return what has been added up so far."""
        sums = {
            "hits": self.hits,
            "misses": self.misses,
            "roundtrips": self.roundtrips,
            "bytes_out": self.bytes_out,
            "bytes_in": self.bytes_in,
            "blocking": self.blocking,
            "errors": self.errors,
            "lasting": self.lasting,
            "unstable": self.unstable,
            "seconds": self.seconds,
        }
        return Tally(
            probe="cache",
            operation=self.operation,
            kind=self.kind,
            label=self.label,
            site=self.site,
            fix=self.advice,
            facts=dict(self.facts),
            count=self.count,
            repeats=self.repeats,
            distinct=len(self.keys),
            sums={name: value for name, value in sums.items() if value},
            peaks={"seconds": self.peak} if self.peak else {},
            samples=tuple(self.samples),
        )


class CacheLedger:
    """What the probe has seen in one span."""

    __slots__ = ("_lasting", "_tallies", "by_place", "sites")

    def __init__(self) -> None:
        # By command, pattern of its keys and place in the code: for commands seen before.
        self.by_place: dict[tuple[object, ...], CacheTally] = {}
        self.sites: dict[tuple[object, int], Site | None] = {}
        self._tallies: dict[tuple[object, ...], CacheTally] = {}
        self._lasting: dict[int, CacheTally] = {}

    def tallies(self) -> Iterable[Tally]:
        """Return what has been added up so far."""
        return [tally.freeze() for tally in list(self._tallies.values())]

    def tally(
        self, operation: str, kind: str, site: Site | None, advice: str | None = None
    ) -> CacheTally:
        """Return the tally of an operation at a line, a new one at first sight."""
        key = (operation, kind, site and (site.file, site.line))
        tally = self._tallies.get(key)
        if tally is None:
            if len(self._tallies) >= MAX_TALLIES:
                operation, site, advice = "(other commands)", None, None
                key = (operation, kind, site)
            tally = self._tallies.setdefault(key, CacheTally(operation, kind, site, advice))
        return tally

    def lasts(self, tally: CacheTally, key: int) -> None:
        """Note that a key has no expiry now."""
        tally.lasting += 1
        if len(self._lasting) < _MAX_LASTING:
            self.expires(key)
            self._lasting[key] = tally

    def expires(self, key: int) -> None:
        """Note that a key has an expiry now, or is gone: its last write is not to blame."""
        tally = self._lasting.pop(key, None)
        if tally is not None:
            tally.lasting -= 1
