"""Profiles that are made up, and strategies for any."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from pytest_perfguard.stacks import Frame, Profile


def user(function: str, line: int = 1, file: str = "app/crud.py") -> Frame:
    return Frame(function, file, line, user=True)


def library(function: str, line: int = 1, file: str = "json/encoder.py") -> Frame:
    return Frame(function, file, line, user=False)


def profile(
    *samples: tuple[Sequence[Frame], float], name: str = "GET /", notes: Sequence[str] = ()
) -> Profile:
    return Profile.build(name, "request", samples, notes=notes)


# Whatever a name can hold: what is not XML, halves of surrogate pairs, marks of direction.
HOSTILE = st.text(
    st.characters(codec=None) | st.sampled_from("<>&\"']\x00\x1b\ud800\u202e\ufffe\u2028\n\t日"),
    max_size=12,
)
FRAMES = st.builds(Frame, HOSTILE, HOSTILE, st.integers(0, 10**6), user=st.booleans())
SECONDS = st.integers(0, 10**7).map(lambda microseconds: microseconds / 10**6)


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    frames = draw(st.lists(FRAMES, min_size=1, max_size=5))
    paths = st.lists(st.sampled_from(frames), max_size=8)
    samples = draw(st.lists(st.tuples(paths, SECONDS), max_size=12))
    unseen = draw(st.none() | SECONDS)
    return Profile.build(
        draw(HOSTILE), draw(HOSTILE), samples, seconds=unseen, notes=draw(st.lists(HOSTILE))
    )
