"""What a failed test is told of its profile, be it made right away or after all tests have run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from pytest_perfguard.baseline_profiles import compare, kept_profiles
from pytest_perfguard.errors import ProfileFileError
from pytest_perfguard.model import Record, Verdict
from pytest_perfguard.naming import safe_name
from pytest_perfguard.options import option
from pytest_perfguard.processes import FreshProcessError, run_again
from pytest_perfguard.profile_files import read_profile
from pytest_perfguard.progress import note
from pytest_perfguard.reports.profile import main_of, profile_lines
from pytest_perfguard.run_profiles import Kept
from pytest_perfguard.stacks import Profile
from pytest_perfguard.units import several

_PROFILE = ".profile.json"
# A fresh process only profiles: nothing that it finds may stop a test from getting there.
_ONLY_PROFILE = (
    "--perfguard-profile=all",
    "--perfguard-baseline=off",
    "--perfguard-time=off",
    "--perfguard-level=warn",
    "--perfguard-unproven=warn",
)


def directory_of(config: pytest.Config, nodeid: str) -> Path:
    """Return where the files of a test's profiles are."""
    folder: Path = config.rootpath / option(config, "artifacts")
    return folder / "profiles" / safe_name(nodeid)


def shown_path(config: pytest.Config, path: Path) -> str:
    """Return a path as it is shown: from the root directory on, where it is below it."""
    root = config.rootpath
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def explained(config: pytest.Config, profile: Profile, files: Mapping[str, Path]) -> list[str]:
    """Return what is said of a profile.

    Args:
        files: that were written of it, by their endings.
    """
    return profile_lines(
        profile, {ending: shown_path(config, path) for ending, path in files.items()}
    )


def compared(
    config: pytest.Config, module: Path, nodeid: str, profile: Profile, svg: Path | None
) -> list[str]:
    """Return what has moved in a test since a profile of it was kept; the picture is drawn.

    Args:
        module: that the test is in.
        svg: the flame graph of the profile, beside which the other one goes.
    """
    picture = svg.with_suffix(".diff.svg") if svg else None
    told = shown_path(config, picture) if picture else ""
    return compare(kept_profiles(module, nodeid), profile, picture, told)


class LateProfiles:
    """Explains tests that fail when all of them have run: by the times that are stored."""

    def __init__(self, config: pytest.Config, profiled: Iterable[Sequence[str]]) -> None:
        """Take over what is to be said of tests that were profiled when they ran."""
        self._config = config
        self._profiled = {lines[0].removesuffix(":") for lines in profiled}
        self._problem = ""

    def make(self, nodeids: Iterable[str]) -> Mapping[str, Kept]:
        """Profile tests in a fresh process, if that was asked for and has not been done.

        Returns:
            What a run keeps of these profiles, by node id.
        """
        missing = [nodeid for nodeid in nodeids if nodeid not in self._profiled]
        if not missing or option(self._config, "profile") != "failed":
            return {}
        count = several(len(missing), "test")
        note(self._config, f"profiling {count} in a fresh process")
        for nodeid in missing:
            for path, _ in self._profiles(nodeid):
                # One of another day must not be taken for that of today.
                with suppress(OSError):
                    path.unlink()
        self._profiled.update(missing)
        try:
            return run_again(self._config, missing, *_ONLY_PROFILE).profiles
        except FreshProcessError as error:
            self._problem = f"{error}"
        return {}

    def lines(self, record: Record, verdicts: Sequence[Verdict]) -> list[str]:
        """Return what is to be said of a test by its profile.

        Args:
            verdicts: of its times, that it fails by.
        """
        if record.nodeid not in self._profiled:
            return []
        found = self._profiles(record.nodeid)
        if not found:
            return [f"no profile: {self._problem or 'none was made when the test was run again'}"]
        main = main_of([profile for _, profile in found], verdicts)
        path = next(path for path, profile in found if profile is main)
        svg = path.with_name(f"{path.name.removesuffix(_PROFILE)}.svg")
        files = {"svg": svg} if svg.exists() else {}
        module = self._config.rootpath / record.nodeid.partition("::")[0]
        return [
            *explained(self._config, main, files),
            *compared(self._config, module, record.nodeid, main, files.get("svg")),
        ]

    def _profiles(self, nodeid: str) -> list[tuple[Path, Profile]]:
        found = []
        for path in sorted(directory_of(self._config, nodeid).glob(f"*{_PROFILE}")):
            with suppress(ProfileFileError):
                found.append((path, read_profile(path)))
        return found
