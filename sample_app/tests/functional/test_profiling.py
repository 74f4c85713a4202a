"""The decorator that profiles: what it logs, and that it gets into nobody's way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from sample_app.core.config import Settings
from sample_app.core.profiling import asked_for, profile_function


def inner(number: int) -> int:
    return number + 1


def outer(number: int) -> int:
    return inner(number) * 2


def fails(number: int) -> int:
    raise ValueError(inner(number))


def on() -> bool:
    return True


@pytest.fixture
def profiles(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Read the profiles that were logged, and forget them."""
    caplog.set_level("INFO", "sample_app.core.profiling")

    def read() -> list[str]:
        messages = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return messages

    return read


Profiles = Callable[[], list[str]]


def test_a_call_is_logged_with_what_it_called(profiles: Profiles) -> None:
    assert profile_function(outer, enabled=on)(1) == 4

    (message,) = profiles()
    assert message.startswith("Profile for outer:\n")
    assert "Ordered by: cumulative time" in message
    assert "(inner)" in message
    assert outer.__name__ == profile_function(outer).__name__


def test_a_call_that_raises_loses_neither_error_nor_profile(profiles: Profiles) -> None:
    with pytest.raises(ValueError, match="2"):
        profile_function(fails, enabled=on)(1)

    (message,) = profiles()
    assert "(inner)" in message
    # What it left behind would profile all that follows.
    profile_function(outer, enabled=on)(1)
    (message,) = profiles()
    assert "(fails)" not in message


def test_a_coroutine_is_profiled_while_it_runs_and_not_while_others_do(profiles: Profiles) -> None:
    async def waits(number: int) -> int:
        await asyncio.sleep(0)
        return inner(number)

    async def others() -> None:
        for number in range(3):
            outer(number)
            await asyncio.sleep(0)

    async def both() -> int:
        result, _ = await asyncio.gather(profile_function(waits, enabled=on)(1), others())
        return result

    assert asyncio.run(both()) == 2
    (message,) = profiles()
    assert message.startswith("Profile for waits:\n")
    assert "(inner)" in message
    assert "(outer)" not in message


def test_a_coroutine_that_is_cancelled_leaves_its_profile(profiles: Profiles) -> None:
    cleaned = []

    async def waits_for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(inner(1))

    async def cancel() -> None:
        task = asyncio.ensure_future(profile_function(waits_for_ever, enabled=on)())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    (message,) = profiles()
    assert "(inner)" in message
    assert cleaned == [2]


def test_two_coroutines_at_a_time_have_a_profile_each(profiles: Profiles) -> None:
    async def waits(number: int) -> int:
        await asyncio.sleep(0)
        return inner(number)

    async def both() -> tuple[int, int]:
        wrapped = profile_function(waits, enabled=on)
        first, second = await asyncio.gather(wrapped(1), wrapped(2))
        return first, second

    assert asyncio.run(both()) == (2, 3)
    assert ["(inner)" in message for message in profiles()] == [True, True]


def test_a_profiled_function_may_call_another(profiles: Profiles) -> None:
    nested = profile_function(inner, enabled=on)

    def calls(number: int) -> int:
        return nested(number)

    assert profile_function(calls, enabled=on)(1) == 2
    first, second = profiles()
    assert first == "No profile for inner: another profiler is active"
    assert second.startswith("Profile for calls:\n")
    assert "(calls)" in second


@pytest.fixture
def unread() -> Iterator[None]:
    """Let the settings be read anew."""
    asked_for.cache_clear()
    yield
    asked_for.cache_clear()


@pytest.mark.usefixtures("unread")
def test_it_is_off_unless_the_settings_ask_for_it(
    profiles: Profiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAMPLE_APP_PROFILING", raising=False)
    assert not Settings().profiling

    async def coroutine() -> int:
        return 7

    assert profile_function(outer)(1) == 4
    assert asyncio.run(profile_function(coroutine)()) == 7
    assert profiles() == []

    asked_for.cache_clear()
    monkeypatch.setenv("SAMPLE_APP_PROFILING", "true")
    profile_function(outer)(1)
    assert len(profiles()) == 1


def test_a_generator_function_is_refused() -> None:
    def numbers() -> Iterator[int]:
        yield 1

    with pytest.raises(TypeError, match="numbers is a generator function"):
        profile_function(numbers)
