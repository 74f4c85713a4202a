"""Lines of the user's code that take, begin and end things again and again."""

from __future__ import annotations

from types import CodeType, FrameType
from typing import TYPE_CHECKING

from pytest_perfguard.callsite import waiting_user_frame

if TYPE_CHECKING:
    from pytest_perfguard.callsite import CallSites
    from pytest_perfguard.model import Site

_MAX_KNOWN = 4_096


class Places:
    """Describes each line once: to walk to it costs a tenth of describing it.

    Args:
        library: path of the library whose own functions are not worth naming.
    """

    def __init__(self, sites: CallSites, library: str) -> None:
        self._sites = sites
        self._library = library
        # The code is held, so that no other has its identity.
        self._known: dict[tuple[int, int], tuple[CodeType, Site | None]] = {}

    def site(self, inner: FrameType) -> Site | None:
        """Return the nearest line of the user's code from a frame outwards, or None."""
        is_user = self._sites.is_user
        frame: FrameType | None = inner
        while frame is not None and not is_user[frame.f_code.co_filename]:
            frame = frame.f_back
        if frame is None:
            frame = waiting_user_frame(is_user)
            if frame is None:
                return None
        code = frame.f_code
        key = (id(code), frame.f_lasti)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            known = self._known[key] = (code, self._sites.site(inner, self._library))
        return known[1]
