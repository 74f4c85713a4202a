"""The names of the traps: known mistakes that can be switched on to see what catches them.

This module only knows names. What a trap breaks is in :mod:`sample_app.broken`, away from the
code that it breaks.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Self

KNOWN: Final = MappingProxyType(
    {
        "lazy_owner": "the list query does not load Resource.owner: one more SELECT per owner",
        "lazy_related": "the list query does not load related_items: one more SELECT per resource",
        "open_fields": "sort_by and filters reach any attribute of Resource, unchecked",
        "unchecked_page": "page=0 is let through and becomes a negative OFFSET",
        "unclamped_page_size": "page_size=5000 is let through: the whole table is one page",
        "missing_index": "migration 0002 leaves out idx_resource_status_created",
        "session_in_key": "the list's cache key is made from all arguments, with the session",
        "blocking_redis": "the cache is looked into with a client that stops the event loop",
        "falsy_is_a_miss": "an answer that is false, such as None, is not kept",
        "stampede": "nobody waits for what somebody else is loading already",
        "pickled_rows": "rows are cached as pickled ORM objects, which come back detached",
        "raw_path_labels": "request metrics are labelled by path: a time series for every id",
        "base_http_middleware": "a BaseHTTPMiddleware, a task a request, misses what raises",
        "mean_hides_outlier": "one request in sixteen waits: the mean does not show it",
        "task_metrics_per_try": "each try of a task is counted as a task that failed",
        "unstoppable_monitor": "the monitor's thread goes on for ever, and begins with 0 % CPU",
        "leaking_dict": "pages are remembered in a dict that nothing is ever taken out of",
        "leaked_session": "a listing's session is never closed, nor its connection given back",
        "sleep_in_loop": "an async endpoint waits with time.sleep, and everybody else with it",
        "task_per_row": "a message is published for each resource instead of one for all",
        "http_in_transaction": "the webhook is called before the transaction is committed",
        "deep_offset": "the listing by key skips what was seen by OFFSET",
        "index_order": "idx_resource_status_created holds created_at before status",
        "uncompressed": "responses are sent as they are, however long",
        "kept_for_ever": "answers are kept without a time to live",
        "retry_at_once": "a task that failed is tried again without any wait",
        "slow_checksum": "each response gets a checksum that is as slow as one of a password",
        "counted_in_memory": "the total of a list is the length of the list of all rows",
        "locust_without_id": "the load test's user never keeps the id of what it has created",
        "one_at_a_time": "a lock is held while the webhook is told: writers wait for each other",
        "lower_email": "a user is looked up by lower(users.email), which no index holds",
    }
)
"""Every trap by name, with what it breaks in one line."""


class UnknownTrapError(ValueError):
    """A trap was asked for that does not exist; a typo must not leave it silently off."""

    def __init__(self, name: str) -> None:
        close = difflib.get_close_matches(name, KNOWN, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        super().__init__(f"unknown trap {name!r}.{hint} Known traps: {', '.join(KNOWN)}")


@dataclass(frozen=True, slots=True)
class Traps:
    """The traps that are switched on; none by default."""

    names: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name in sorted(self.names):
            _check(name)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a comma-separated list, as it stands in the environment."""
        return cls.of(part.strip() for part in text.split(",") if part.strip())

    @classmethod
    def of(cls, names: Iterable[str]) -> Self:
        """Switch on these traps."""
        return cls(frozenset(names))

    def enabled(self, name: str) -> bool:
        """Whether the trap is on. Asking for an unknown one is an error, too."""
        _check(name)
        return name in self.names

    def __bool__(self) -> bool:
        return bool(self.names)


def _check(name: str) -> None:
    if name not in KNOWN:
        raise UnknownTrapError(name)
