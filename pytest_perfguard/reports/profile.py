"""What a failure says of a profile: the hottest lines of the user's code, and where the rest is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pytest_perfguard.model import Verdict
from pytest_perfguard.stacks import Profile

_HOTTEST = 3
# What would be told as 0 %.
_LEAST = 0.005
# Which of the files is the one to look at first.
_PICTURES = ("svg", "html")


def profile_lines(profile: Profile, artefacts: Mapping[str, str]) -> list[str]:
    """Return the lines about a profile.

    Args:
        artefacts: the files that were written of it, by their endings.
    """
    hottest = profile.hottest(_HOTTEST)
    lines = [f"profile of {profile.name}, in a pass of its own:"]
    told = [hot for hot in hottest if hot.share >= _LEAST]
    lines += [f"    {hot}" for hot in told or hottest[:1]]
    if not hottest:
        lines.append("    none of its time was seen in your own code")
    lines += [f"    {note}" for note in profile.notes]
    for ending in _PICTURES:
        if ending in artefacts:
            lines.append(f"    picture: {artefacts[ending]}")
            break
    return lines


def main_of(profiles: Sequence[Profile], verdicts: Iterable[Verdict]) -> Profile:
    """Return the profile that explains a test: of what went red, of its request, or of all."""
    kinds = {"http": "request", "time": "call"}
    verdicts = list(verdicts)
    for verdict in verdicts:
        wanted = kinds.get(verdict.metric.partition("_")[0])
        named = [each for each in profiles if each.name == verdict.span and each.kind != "test"]
        for each in (*named, *(each for each in profiles if each.kind == wanted)):
            return each
    requests = [each for each in profiles if each.kind == "request"]
    if len(requests) == 1 and not verdicts:
        return requests[0]
    return next((each for each in profiles if each.kind == "test"), profiles[0])
