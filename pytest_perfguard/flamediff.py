"""What ``perfguard flamediff`` does: two profiles compared, as text and as a picture."""

from __future__ import annotations

from pathlib import Path

from pytest_perfguard.errors import ProfileFileError
from pytest_perfguard.profile_files import read_profile, write_artefact
from pytest_perfguard.reports.flamegraph import Change, differential
from pytest_perfguard.stacks import movers
from pytest_perfguard.visible import visible


def flamediff(base: Path, head: Path, picture: Path, *, normalised: bool, top: int) -> str:
    """Draw what changed between two files and return it in words.

    Args:
        picture: where the SVG file is written.
        normalised: the colours tell shares of all time instead of seconds.
        top: how many changes are told.

    Raises:
        ProfileFileError: if a file cannot be read or written, or would be overwritten.
    """
    before, after = read_profile(base).per_call(), read_profile(head).per_call()
    for compared in (base, head):
        if picture.exists() and picture.samefile(compared):
            raise ProfileFileError(
                f"{picture} is one of the files that are compared: name another place with -o"
            )
    write_artefact(differential(before, after, normalised=normalised), picture)
    change = Change(before.total, after.total, normalised)
    found = movers(before, after, top)
    return "\n".join(
        [
            change.headline,
            *(f"  {mover}" for mover in found or ["nothing moved"]),
            *(f"base: {visible(note)}" for note in before.notes),
            *(f"head: {visible(note)}" for note in after.notes),
            f"picture: {picture}",
        ]
    )
