"""What the task probe keeps of one span: what was published in it, and the run that it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pytest_perfguard.model import Site, Tally
from pytest_perfguard.spans import MAX_TALLIES


class PublishedTally:
    """Messages of one task that one line has published, or calls of it that ran at once."""

    __slots__ = (
        "alone", "count", "group", "label", "moment", "name", "peak", "seconds", "shown", "site",
        "unheard",
    )  # fmt: skip

    def __init__(self, name: str, site: Site | None) -> None:
        self.name = name
        self.site = site
        self.label = f"publish {name}"
        self.shown = True
        self.count = 0
        # Those that were no part of a group.
        self.alone = 0
        # How many are published by one call, as the queue library writes it.
        self.group = "publish them as a group"
        # Those whose runs are not known.
        self.unheard = 0
        self.seconds = 0.0
        self.peak = 0.0
        self.moment: list[Any] = ["", 0, 0.0, 0.0]

    def freeze(self) -> Tally:
        """Return what has been added up so far."""
        short = self.name.rpartition(".")[2]
        return Tally(
            probe="tasks",
            operation=self.name,
            kind="publish",
            label=self.name,
            site=self.site,
            fix=f"publish one {short} for all ids, or {self.group}",
            count=self.count,
            repeats=self.alone,
            distinct=self.alone,
            sums={"unheard": self.unheard} if self.unheard else {},
        )


class Run:
    """One try of a task.

    Attributes:
        site: the line that published it, where it is known.
        latency: seconds from publishing to starting; None where no worker was needed.
        state: ``run``, ``retry`` (it will be tried again) or ``failure`` (it will not).
        error: class of what it raised.
    """

    __slots__ = ("error", "latency", "name", "seconds", "site", "state")

    def __init__(self, name: str, site: Site | None, latency: float | None) -> None:
        self.name = name
        self.site = site
        self.latency = latency
        self.state = "run"
        self.error: str | None = None
        self.seconds: float | None = None

    def freeze(self) -> Tally:
        """Return the try as a tally; it is none of what was published."""
        sums: dict[str, float] = {"runs": 1}
        if self.state != "run":
            sums["retries" if self.state == "retry" else "failures"] = 1
        peaks = {"seconds": self.seconds, "latency": self.latency}
        return Tally(
            probe="tasks",
            operation=self.name,
            kind=self.state,
            label=self.name,
            site=self.site,
            subject=self.error,
            facts={} if self.site else {"through": "a worker"},
            sums=sums,
            peaks={name: value for name, value in peaks.items() if value is not None},
        )


class TaskLedger:
    """What the probe has seen in one span."""

    __slots__ = ("_published", "run")

    def __init__(self) -> None:
        self.run: Run | None = None
        self._published: dict[tuple[str, str, int], PublishedTally] = {}

    def tallies(self) -> Iterable[Tally]:
        """Return what has been added up so far."""
        found = [tally.freeze() for tally in list(self._published.values())]
        # A try that has not ended is not known to have been one.
        if self.run is not None and self.run.seconds is not None:
            found.append(self.run.freeze())
        return found

    def published(self, name: str, site: Site | None) -> PublishedTally:
        """Return the tally of a task at a line, a new one at first sight."""
        key = (name, site.file if site else "", site.line if site else 0)
        if key not in self._published and len(self._published) >= MAX_TALLIES:
            name, site, key = "(other tasks)", None, ("(other tasks)", "", 0)
        return self._published.setdefault(key, PublishedTally(name, site))
