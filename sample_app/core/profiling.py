"""Profiles functions into the log, where ``SAMPLE_APP_PROFILING`` asks for it.

Without it a decorated function costs one look at the settings, so the decorator may stay where it
is. There is no way to switch it on by a request: whoever could, could slow the service down.
"""

from __future__ import annotations

import cProfile
import io
import logging
import pstats
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager
from functools import cache, wraps
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any, ParamSpec, TypeVar, cast

from sample_app.core.config import Settings

logger = logging.getLogger(__name__)

# Functions in one profile: those below took next to nothing.
_MOST = 50

_P = ParamSpec("_P")
_R = TypeVar("_R")


@cache
def asked_for() -> bool:
    """Return whether the settings of this process ask for profiles."""
    return Settings().profiling


def profile_function(
    function: Callable[_P, _R], *, enabled: Callable[[], bool] = asked_for
) -> Callable[_P, _R]:
    """Log where the time of each call goes, whether it returns or raises.

    Of a coroutine function only its own steps are profiled, not what runs while it waits. Where
    another profiler is active already, that of a profiled caller for instance, the call is left
    to it.

    Raises:
        TypeError: for generator functions, whose work is done after the call.
    """
    if isgeneratorfunction(function) or isasyncgenfunction(function):
        msg = f"{function.__qualname__} is a generator function: profile what iterates over it"
        raise TypeError(msg)

    @wraps(function)
    def profiled(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if not enabled():
            return function(*args, **kwargs)
        profile = cProfile.Profile()
        try:
            with _running(profile):
                return function(*args, **kwargs)
        finally:
            _log(function, profile)

    async def profiled_async(*args: Any, **kwargs: Any) -> Any:
        coroutine = cast("Callable[..., Coroutine[Any, Any, Any]]", function)(*args, **kwargs)
        if not enabled():
            return await coroutine
        profile = cProfile.Profile()
        try:
            return await _Steps(coroutine, profile)
        finally:
            _log(function, profile)

    if iscoroutinefunction(function):
        return cast("Callable[_P, _R]", wraps(function)(profiled_async))
    return profiled


class _Steps(Awaitable[Any]):
    """A coroutine that is profiled while it runs, and not while it waits."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], profile: cProfile.Profile) -> None:
        self._coroutine = coroutine
        self._profile = profile

    def __await__(self) -> Generator[Any, Any, Any]:
        step: Callable[[Any], Any] = self._coroutine.send
        argument: Any = None
        while True:
            try:
                with _running(self._profile):
                    waits_for = step(argument)
            except StopIteration as done:
                return done.value
            try:
                argument = yield waits_for
                step = self._coroutine.send
            except BaseException as error:  # noqa: BLE001 - the coroutine is told of it
                step, argument = self._coroutine.throw, error


@contextmanager
def _running(profile: cProfile.Profile) -> Generator[None]:
    """Let a profile run, unless another profiler does: they would take each other's place."""
    runs = sys.getprofile() is None
    if runs:
        try:
            profile.enable()
        except ValueError:  # since Python 3.12 there is one for all threads
            runs = False
    try:
        yield
    finally:
        if runs:
            profile.disable()


def _log(function: Callable[..., Any], profile: cProfile.Profile) -> None:
    profile.create_stats()
    if not profile.stats:
        logger.info("No profile for %s: another profiler is active", function.__name__)
        return
    text = io.StringIO()
    pstats.Stats(profile, stream=text).sort_stats("cumulative").print_stats(_MOST)
    logger.info("Profile for %s:\n%s", function.__name__, text.getvalue())
