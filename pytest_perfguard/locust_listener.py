"""What listens inside Locust: it is run by it, beside the user's locustfile, and by nobody else.

Locust's JSON holds counts and times; not what the first failure said, what a task of the
locustfile raised, or which instance of the service answered. Each process of Locust writes that
into a file of its own when it ends. Nothing of perfguard is imported here, so that Locust may live
in an environment without it.
"""

from __future__ import annotations

import json
import os
import re
import time
import traceback
from itertools import count
from pathlib import Path
from typing import Any

import gevent
from locust import events
from locust.runners import WorkerRunner

# Where the notes go, and which header tells the instance; all are set by who starts Locust.
_NOTES = Path(os.environ["PERFGUARD_LOAD_NOTES"])
_HEADER = os.environ["PERFGUARD_LOAD_INSTANCES"]
# Answers after which the load is under way, in this process.
_UNDER_WAY = int(os.environ["PERFGUARD_LOAD_UNDER_WAY"])
# No more of them are told apart, and no longer texts are kept.
_MOST = 1_000
_LONGEST = 200

_failures: dict[str, dict[str, Any]] = {}
_errors: dict[str, dict[str, Any]] = {}
_instances: dict[str, dict[str, Any]] = {}
_runners: list[Any] = []
_answers = count(1)
_started: list[float] = []


def _add(kept: dict[str, dict[str, Any]], key: str, now: float, **more: str) -> None:
    if key in kept or len(kept) < _MOST:
        note = kept.setdefault(key, {"count": 0, "first": now, "last": now, **more})
        note["count"] += 1
        note["last"] = now


@events.request.add_listener  # type: ignore[untyped-decorator]
def _request(
    request_type: str, name: str, response: Any = None, exception: Any = None, **_: Any
) -> None:
    now = time.time()
    if next(_answers) == _UNDER_WAY:
        _NOTES.joinpath(f"under-way-{os.getpid()}").touch()
    if exception is not None:
        _add(_failures, f"{request_type} {name}", now, text=_told(response, exception))
    if _HEADER:
        instance = (getattr(response, "headers", None) or {}).get(_HEADER)
        if instance is not None:
            _add(_instances, str(instance), now)


def _told(response: Any, exception: Any) -> str:
    """Return what a failure says; without the URL, which may hold what is nobody's business."""
    status = getattr(response, "status_code", 0)
    if status and type(exception).__name__ == "HTTPError":
        return f"status {status} {getattr(response, 'reason', None) or ''}".rstrip()
    text = f"{type(exception).__name__}: {exception}" if str(exception) else repr(exception)
    return re.sub(r"\?[^\s'\")]+", "?…", text)[:_LONGEST]


@events.user_error.add_listener  # type: ignore[untyped-decorator]
def _user_error(exception: BaseException, tb: Any, **_: Any) -> None:
    frames = traceback.extract_tb(tb)
    # The user's own line: Locust and what else is installed lie above and below it.
    own = [frame for frame in frames if "site-packages" not in frame.filename]
    place = f"{own[-1].filename}:{own[-1].lineno} in {own[-1].name}" if own else ""
    _add(_errors, f"{type(exception).__name__}: {exception}"[:_LONGEST], time.time(), place=place)


@events.init.add_listener  # type: ignore[untyped-decorator]
def _init(runner: Any, **_: Any) -> None:
    _runners.append(runner)
    # The time of the run would count from before everything was imported: a second or so is lost.
    gevent.get_hub().loop.update_now()


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def _test_start(**_: Any) -> None:
    _started.append(time.time())


@events.spawning_complete.add_listener  # type: ignore[untyped-decorator]
def _spawned(**_: Any) -> None:
    if not isinstance(_runners[0], WorkerRunner):
        _NOTES.joinpath("spawned").touch()


@events.quit.add_listener  # type: ignore[untyped-decorator]
def _quit(**_: Any) -> None:
    notes = {
        "started": _started,
        "failures": _failures,
        "errors": _errors,
        "instances": _instances,
    }
    _NOTES.joinpath(f"notes-{os.getpid()}.json").write_text(json.dumps(notes), encoding="utf-8")
