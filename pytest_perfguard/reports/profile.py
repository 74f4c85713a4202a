"""What a failure says of a profile: the hottest lines of the user's code, and where the rest is."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_perfguard.stacks import Profile

_HOTTEST = 3
# Which of the files is the one to look at first.
_PICTURES = ("svg", "html")


def profile_lines(profile: Profile, artefacts: Mapping[str, str]) -> list[str]:
    """Return the lines about a profile.

    Args:
        artefacts: the files that were written of it, by their endings.
    """
    hottest = profile.hottest(_HOTTEST)
    lines = [f"profile of {profile.name}, in a pass of its own:"]
    lines += [f"    {hot}" for hot in hottest]
    if not hottest:
        lines.append("    none of its time was seen in your own code")
    lines += [f"    {note}" for note in profile.notes]
    for ending in _PICTURES:
        if ending in artefacts:
            lines.append(f"    picture: {artefacts[ending]}")
            break
    return lines
