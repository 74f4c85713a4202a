"""What Locust and its listener have counted, read from their files: pure data and arithmetic."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from pytest_perfguard import stats
from pytest_perfguard.errors import LoadError
from pytest_perfguard.probes.http import fold_path
from pytest_perfguard.units import several

PERCENTILES = ("p95", "p99")
ALL_REQUESTS = "all requests"
_MILLI = 1e-3


@dataclass(frozen=True, slots=True)
class EndpointLoad:
    """The requests that one endpoint got, or all of them together.

    Attributes:
        name: as in ``GET /api/items/{id}``.
        requests: how many were answered or failed.
        failures: how many of them failed.
        rps: requests per second, of the time in which the load lasted.
        times: how many took how long, by seconds, as far as Locust tells them apart: to the
            millisecond below 100 ms, to two digits above.
    """

    name: str
    requests: int
    failures: int
    rps: float
    times: Mapping[float, int] = field(repr=False)

    def percentile(self, name: str) -> float | None:
        """Return ``p95`` or ``p99`` in seconds (nearest rank); None for too few requests."""
        total = sum(self.times.values())
        if total < stats.lookup(name).fewest:
            return None
        rank = -(-int(name.removeprefix("p")) * total // 100)
        for seconds in sorted(self.times):
            rank -= self.times[seconds]
            if rank <= 0:
                return seconds
        raise AssertionError(name)

    @property
    def p95(self) -> float | None:
        """The time that 95 % of the requests do not exceed; None for fewer than 20 of them."""
        return self.percentile("p95")

    @property
    def p99(self) -> float | None:
        """The time that 99 % of the requests do not exceed; None for fewer than 100 of them."""
        return self.percentile("p99")


@dataclass(frozen=True, slots=True)
class Note:
    """How often something was seen, and when first and last, as a time of day in seconds."""

    count: int
    first: float
    last: float
    text: str = ""
    place: str = ""

    def __add__(self, other: Note) -> Note:
        first, _ = sorted((self, other), key=lambda note: note.first)
        return Note(
            self.count + other.count,
            first.first,
            max(self.last, other.last),
            first.text,
            first.place,
        )


@dataclass(frozen=True, slots=True)
class Notes:
    """What the listener noted, in all processes of Locust.

    Attributes:
        started: when the load began; Locust's JSON only tells when the first request had ended.
        failures: of requests, by endpoint.
        errors: what the locustfile raised, by class and text.
        instances: which of them answered, by what they are called.
    """

    started: float | None = None
    failures: Mapping[str, Note] = field(default_factory=dict)
    errors: Mapping[str, Note] = field(default_factory=dict)
    instances: Mapping[str, Note] = field(default_factory=dict)

    @classmethod
    def read(cls, texts: Iterable[str]) -> Self:
        """Read what each process wrote, and add it up."""
        merged: dict[str, dict[str, Note]] = {"failures": {}, "errors": {}, "instances": {}}
        started: list[float] = []
        for text in texts:
            data = json.loads(text)
            started += data["started"]
            for kind, known in merged.items():
                for key, note in data[kind].items():
                    name = endpoint_name(*key.split(" ", 1)) if kind == "failures" else key
                    known[name] = known[name] + Note(**note) if name in known else Note(**note)
        return cls(min(started, default=None), **merged)

    def first_failure(self) -> tuple[str, Note] | None:
        """Return the endpoint that failed first, and what is known of its failures."""
        return min(self.failures.items(), key=lambda item: item[1].first, default=None)


def endpoint_name(method: str, name: str) -> str:
    """Return what an endpoint is called, as the requests of test clients are: with ids folded."""
    if name.startswith("/"):
        name = fold_path(name.partition("?")[0])
    return f"{method} {name}".strip()


def read_stats(text: str, started: float | None = None) -> tuple[EndpointLoad, ...]:
    """Return the endpoints of Locust's JSON, those of one name as one, the busiest first.

    Args:
        text: the JSON.
        started: when the load began; when the first request had ended by default.

    Raises:
        LoadError: if it is not what Locust writes.
    """
    try:
        return _endpoints(json.loads(text), started)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise LoadError(
            f"the JSON that Locust has written cannot be read ({type(error).__name__}: {error}): "
            "is it a version that is not known here?"
        ) from None


def _endpoints(
    entries: Sequence[Mapping[str, Any]], started: float | None
) -> tuple[EndpointLoad, ...]:
    named: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        if entry["num_requests"]:
            name = endpoint_name(entry["method"] or "", entry["name"])
            named.setdefault(name, []).append(entry)
    counted = [entry for group in named.values() for entry in group]
    if not counted:
        return ()
    began = min(float(entry["start_time"]) for entry in counted) if started is None else started
    lasted = max(float(entry["last_request_timestamp"]) for entry in counted) - began
    found = [_endpoint(name, group, lasted) for name, group in named.items()]
    return tuple(sorted(found, key=lambda endpoint: -endpoint.requests))


def _endpoint(name: str, entries: Iterable[Mapping[str, Any]], lasted: float) -> EndpointLoad:
    requests = failures = 0
    times: dict[float, int] = {}
    for entry in entries:
        requests += int(entry["num_requests"])
        failures += int(entry["num_failures"])
        for milliseconds, count in entry["response_times"].items():
            seconds = float(milliseconds) * _MILLI
            times[seconds] = times.get(seconds, 0) + int(count)
    # One request may be answered in the moment in which the clock was started.
    return EndpointLoad(name, requests, failures, requests / max(lasted, _MILLI), times)


def total(endpoints: Iterable[EndpointLoad]) -> EndpointLoad:
    """Return all requests together."""
    endpoints = tuple(endpoints)
    times: dict[float, int] = {}
    for endpoint in endpoints:
        for seconds, count in endpoint.times.items():
            times[seconds] = times.get(seconds, 0) + count
    return EndpointLoad(
        ALL_REQUESTS,
        sum(endpoint.requests for endpoint in endpoints),
        sum(endpoint.failures for endpoint in endpoints),
        math.fsum(endpoint.rps for endpoint in endpoints),
        times,
    )


def imbalance(counts: Iterable[int]) -> float | None:
    """Return by how much the busiest instance has more than its share; None for fewer than two."""
    known = list(counts)
    if len(known) < 2:  # noqa: PLR2004 - one alone shares with nobody
        return None
    return max(known) * len(known) / sum(known) - 1


def recovery(began: float, notes: Notes, *, with_instances: bool) -> tuple[float | None, str]:
    """Return how long a service took to be whole again after a disturbance, and how that is known.

    Args:
        began: when it was disturbed.
        with_instances: whether instances are told apart, so that each that went has to be
            replaced.

    Returns:
        Seconds until no request failed any more and as many instances answered as before; None if
        fewer did to the end.
    """
    failed = [note.last for note in notes.failures.values() if note.last >= began]
    ends = [began, *failed]
    text = f"requests failed until {max(ends) - began:.1f} s after it" if failed else "none failed"
    if not with_instances:
        return max(ends) - began, text
    before = {name: n for name, n in notes.instances.items() if n.first < began}
    new = {name: n for name, n in notes.instances.items() if name not in before}
    came = max((note.first for note in new.values()), default=math.inf)
    gone = [name for name, note in before.items() if note.last < came]
    if not new:
        return None, (
            f"{several(len(before), 'instance')} answered before it, and no new one after it: none "
            "has taken a place, or the load ended too soon to see it, or connections that are kept "
            "open never led to it"
        )
    if len(new) < len(gone):
        return None, f"{several(len(gone), 'instance')} went, and only {len(new)} took their places"
    # Of those that came, as many as went are needed.
    needed = sorted(note.first for note in new.values())[: max(len(gone), 1)]
    ends.append(needed[-1])
    return max(ends) - began, (
        f"{text}; {several(len(gone), 'instance')} went, the new one answered "
        f"{needed[-1] - began:.1f} s after it"
    )
