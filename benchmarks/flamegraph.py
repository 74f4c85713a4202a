"""How long a picture of very many stacks takes, and how large it is.

The goals are those of the widest pictures that are of use: 200,000 stacks in less than two seconds
of the processor, and a file of less than 2 MB, whatever the shape of the stacks.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

from pytest_perfguard.reports.flamegraph import differential, flamegraph
from pytest_perfguard.stacks import Frame, Profile

SIZE = 200_000
GOAL_SECONDS = 2.0
GOAL_BYTES = 2_000_000
Samples = Iterator[tuple[list[Frame], float]]


def frame(number: int) -> Frame:
    """Return one of any number of frames, each fifth of them the user's own."""
    return Frame(f"function_{number}", f"package_{number % 40}/module.py", 1, number % 5 == 0)


def wide(size: int) -> Samples:
    """Return stacks that have nothing in common."""
    for number in range(size):
        yield [frame(number)], 0.001


def deep(size: int) -> Samples:
    """Return stacks that part at the end of a long way."""
    way = [frame(number) for number in range(100)]
    for number in range(size):
        yield [*way, frame(1000 + number)], 0.001


def bushy(size: int) -> Samples:
    """Return stacks that part anywhere, more often into what is common."""
    choice = random.Random(1)  # noqa: S311 - the same stacks every time
    known = [frame(number) for number in range(3000)]
    for _ in range(size):
        length = choice.randint(10, 30)
        yield [known[min(2999, int(choice.expovariate(0.3)))] for _ in range(length)], 0.001


def recursive(size: int) -> Samples:
    """Return stacks of functions that call each other, in stacks of any depth up to 200."""
    pair = [frame(0), frame(1)]
    for number in range(size):
        yield [*pair * (number % 100), frame(2 + number)], 0.001


SHAPES: dict[str, Callable[[int], Samples]] = {
    function.__name__: function for function in (wide, deep, bushy, recursive)
}


def main() -> int:
    """Print the table; the exit status is 1 if a goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=SIZE, metavar="N", help="number of stacks")
    size = parser.parse_args().size
    print(f"{'stacks':<10} {'of':>8} {'picture':<12} {'CPU time':>9} {'size':>9}")
    missed = False
    for name, shape in SHAPES.items():
        profile = Profile.build(name, "benchmark", shape(size))
        for kind, draw in (
            ("flame graph", partial(flamegraph, profile)),
            ("difference", partial(differential, profile, profile)),
        ):
            start = time.process_time()
            length = len(draw().encode("utf-8"))
            seconds = time.process_time() - start
            missed = missed or length > GOAL_BYTES
            # A difference is one of two profiles.
            missed = missed or seconds > GOAL_SECONDS * (1 + (kind == "difference"))
            print(
                f"{name:<10} {len(profile.stacks):>8,} {kind:<12} {seconds:>7.2f} s"
                f" {length / 1000:>6,.0f} kB",
                flush=True,
            )
    print(f"\nless than {GOAL_SECONDS:g} s for each profile and {GOAL_BYTES / 1e6:g} MB: ", end="")
    print("NO" if missed else "yes")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
