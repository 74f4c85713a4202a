"""Contrast and colour blindness, computed: WCAG 2's contrast, Machado's simulation, CIE Lab."""

from __future__ import annotations

from itertools import combinations
from math import dist

import pytest

from pytest_perfguard.reports.palette import FOUND, FRAMES, MUTED, PAGE, Paint, rules

PAINTS = {"page": PAGE, "muted": MUTED, "found": FOUND, **FRAMES}

Colour = tuple[float, float, float]
# How reds, greens and blues are seen without one kind of cones, in linear light.
BLIND = {
    "no red cones": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "no green cones": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "no blue cones": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
    "all cones": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
}


def linear(colour: str) -> Colour:
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return _linear(red), _linear(green), _linear(blue)


def _linear(part: float) -> float:
    return part / 12.92 if part <= 0.04045 else float(((part + 0.055) / 1.055) ** 2.4)


def luminance(colour: Colour) -> float:
    return 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2]


def contrast(first: Colour, second: Colour) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def mixed(colour: Colour, page: Colour) -> Colour:
    red, green, blue = ((a + b) / 2 for a, b in zip(colour, page, strict=True))
    return red, green, blue


def seen(colour: Colour, eyes: str) -> Colour:
    red, green, blue = (
        min(1.0, max(0.0, sum(a * b for a, b in zip(row, colour, strict=True))))
        for row in BLIND[eyes]
    )
    return red, green, blue


def lab(colour: Colour) -> Colour:
    red, green, blue = colour
    axes = (
        (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.95047,
        luminance(colour),
        (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.08883,
    )
    x, y, z = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in axes)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def fills(paint: Paint) -> tuple[str, str]:
    return paint.light, paint.dark


@pytest.mark.parametrize("name", PAINTS)
def test_text_can_be_read_on_its_fill(name: str) -> None:
    paint = PAINTS[name]
    assert contrast(linear(paint.light), linear(paint.light_ink)) >= 4.5
    assert contrast(linear(paint.dark), linear(paint.dark_ink)) >= 4.5


@pytest.mark.parametrize("name", FRAMES)
def test_text_can_be_read_on_a_faded_caller(name: str) -> None:
    paint = FRAMES[name]
    light = mixed(linear(paint.light), linear(PAGE.light))
    dark = mixed(linear(paint.dark), linear(PAGE.dark))
    assert contrast(light, linear(paint.light_ink)) >= 4.5
    assert contrast(dark, linear(paint.dark_ink)) >= 4.5


@pytest.mark.parametrize("eyes", BLIND)
@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    "groups",
    [
        [("g2", "g3"), ("s2", "s3"), ("l0", "l1")],
        [("u0", "u1"), ("l0", "l1")],
        [("u0", "u1", "l0", "l1", "g3", "s3"), ("found",)],
    ],
    ids=["grew, shrank, same", "own, library", "found"],
)
def test_kinds_of_frames_are_told_apart_by_all_eyes(
    eyes: str, mode: int, groups: list[tuple[str, ...]]
) -> None:
    for first, second in combinations(groups, 2):
        for one in first:
            for other in second:
                colours = [lab(seen(linear(fills(PAINTS[n])[mode]), eyes)) for n in (one, other)]
                # 2.3 can just be told apart side by side.
                assert dist(*colours) > 15, (one, other)


def test_colours_are_written_as_every_viewer_reads_them() -> None:
    for paint in PAINTS.values():
        for colour in (paint.light, paint.light_ink, paint.dark, paint.dark_ink):
            assert len(colour) == 7
            int(colour.removeprefix("#"), 16)
    assert "(--" not in rules()
    assert rules().count("prefers-color-scheme:dark") == 1
