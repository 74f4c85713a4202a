"""Which line of the user's own code an event came from.

The walk goes from the innermost frame outwards and stops at the first file that is neither part
of Python, nor of an installed package, nor of perfguard. SQLAlchemy's async engines run their
synchronous core in a greenlet, where a stack ends at the greenlet's first frame: the walk goes on
in the greenlet that waits for it.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType, FrameType

from pytest_perfguard.model import Site

_MAX_CALLERS = 4
_MAX_KNOWN = 4_096
_PACKAGE = str(Path(__file__).parent)
_PYTHON_DIRS = ("stdlib", "platstdlib", "purelib", "platlib", "scripts")
_INNER_SCOPES = ("<locals>", "<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")
_INSTALL_DIRS = ("site-packages", "dist-packages")


class CallSites:
    """Tells the user's files from all others and turns frames into :class:`Site`.

    Args:
        root: directory that file names are shown relative to.
        packages: names of installed packages that count as the user's own code.
    """

    def __init__(self, root: Path, packages: Sequence[str] = ()) -> None:
        self._root = str(root)
        self._own = tuple(f"/{name.replace('.', '/')}" for name in packages)
        paths = sysconfig.get_paths()
        self._library = tuple(
            {
                *(_directory(paths[key]) for key in _PYTHON_DIRS),
                _directory(_PACKAGE),
            }
        )
        self.is_user = _Memo(self)

    def classify(self, filename: str) -> bool:
        """Return whether the file holds the user's own code."""
        if filename.startswith("<"):
            return False
        path = str(Path(filename).absolute()).replace("\\", "/")
        for directory in _INSTALL_DIRS:
            _, found, inside = path.rpartition(f"/{directory}/")
            if found:
                inside = "/" + inside
                return any(inside.startswith((f"{own}/", f"{own}.py")) for own in self._own)
        return not path.startswith(self._library)

    def nearest(self, frame: FrameType | None) -> FrameType | None:
        """Return the first frame of the user's code, from ``frame`` outwards."""
        is_user = self.is_user
        for outer in outwards(frame):
            if is_user[outer.f_code.co_filename]:
                return outer
        return None

    def site(self, inner: FrameType | None, library: str) -> Site | None:
        """Describe the way from ``inner`` to the user's code.

        Args:
            inner: where the event was seen.
            library: path of the probed library's package; calls inside it are not worth naming.
        """
        through = self.through(inner, library)
        found: FrameType | None = None
        callers: dict[str, None] = {}
        for frame in outwards(inner):
            code = frame.f_code
            if self.is_user[code.co_filename]:
                if found is None:
                    found = frame
                elif len(callers) < _MAX_CALLERS:
                    called_at = f"{self.show(code.co_filename)}:{frame.f_lineno}"
                    callers[f"{called_at} in {_function(code)}"] = None
                else:
                    break
        if found is None:
            return None
        line, end_line = _lines(found)
        file, function = self.show(found.f_code.co_filename), _function(found.f_code)
        callers.pop(f"{file}:{line} in {function}", None)
        return Site(
            file=file,
            line=line,
            function=function,
            end_line=end_line,
            through=through,
            callers=tuple(callers),
        )

    def through(self, inner: FrameType | None, library: str) -> str | None:
        """Return the function of another library that runs nearest to ``inner``, if one does.

        The user's code ends the search: what lies beyond it did not run the event.
        """
        for frame in outwards(inner):
            code = frame.f_code
            if self.is_user[code.co_filename]:
                return None
            if self._is_named(code, library):
                return f"{_module(code)}.{code.co_qualname}"
        return None

    def show(self, filename: str) -> str:
        """Return the file relative to the root where it lies below it, with forward slashes."""
        path = Path(filename)
        if path.is_relative_to(self._root):
            path = path.relative_to(self._root)
        return path.as_posix()

    def show_library(self, filename: str) -> str:
        """Return the file of a library from its package on, one of Python's from its library."""
        path = filename.replace("\\", "/")
        for directory in _INSTALL_DIRS:
            _, found, inside = path.rpartition(f"/{directory}/")
            if found:
                return inside
        for directory in self._library:
            if path.startswith(directory):
                return path.removeprefix(directory)
        return self.show(filename)

    @staticmethod
    def _is_named(code: CodeType, library: str) -> bool:
        path = code.co_filename.replace("\\", "/")
        return not path.startswith((library, _PACKAGE)) and any(
            f"/{directory}/" in path for directory in _INSTALL_DIRS
        )


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


class _Memo(dict[str, bool]):
    """A dict that asks once for each file: a lookup in it is the cost of a step of the walk."""

    def __init__(self, sites: CallSites) -> None:
        super().__init__()
        self._sites = sites

    def __missing__(self, filename: str) -> bool:
        self[filename] = known = self._sites.classify(filename)
        return known


def outwards(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield ``frame`` and the frames that wait for it, across greenlets."""
    for start in (frame, *waiting_frames()):
        outer = start
        while outer is not None:
            yield outer
            outer = outer.f_back


def waiting_frames() -> Iterator[FrameType]:
    """Yield the frames at which the greenlets around the current one wait for it."""
    greenlet = sys.modules.get("greenlet")
    if greenlet is None:
        return
    waiting = greenlet.getcurrent().parent
    while waiting is not None:
        if waiting.gr_frame is not None:
            yield waiting.gr_frame
        waiting = waiting.parent


def waiting_user_frame(is_user: Mapping[str, bool]) -> FrameType | None:
    """Return the first frame of the user's code beyond the current greenlet, if there is one."""
    for waiting in waiting_frames():
        frame: FrameType | None = waiting
        while frame is not None:
            if is_user[frame.f_code.co_filename]:
                return frame
            frame = frame.f_back
    return None


def _function(code: CodeType) -> str:
    """Return the function's name; a comprehension, a function of its own before 3.12, is none."""
    names = [name for name in code.co_qualname.split(".") if name not in _INNER_SCOPES]
    return ".".join(names) or code.co_qualname


def _lines(frame: FrameType) -> tuple[int, int]:
    positions = list(frame.f_code.co_positions())
    index = frame.f_lasti // 2
    if index < len(positions):
        line, end_line, _, _ = positions[index]
        if line is not None and end_line is not None:
            return line, end_line
    return frame.f_lineno, frame.f_lineno


def _module(code: CodeType) -> str:
    path = code.co_filename.replace("\\", "/")
    for directory in _INSTALL_DIRS:
        path = path.rpartition(f"/{directory}/")[2]
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _directory(path: str) -> str:
    return path.replace("\\", "/").rstrip("/") + "/"
