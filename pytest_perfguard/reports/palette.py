"""The colours of the pictures, on light and on dark pages.

Orange against blue and gold against grey are told apart with every kind of colour blindness, and
all text has a contrast of at least 4.5 to 1 on what it stands on; tests compute both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Paint:
    """A fill and the text on it, on a light page and on a dark one."""

    light: str
    light_ink: str
    dark: str
    dark_ink: str


_INK, _DARK_INK = "#1b1b1b", "#f4f4f4"

PAGE = Paint("#ffffff", _INK, "#16181d", "#e8eaed")
MUTED = Paint("#ffffff", "#555b66", "#16181d", "#a9b0bc")
# Found by a search: unlike anything else in the picture, and dark where the rest is light.
FOUND = Paint("#6a1b9a", "#ffffff", "#e6c6f0", _INK)

FRAMES = {
    # The user's own code, and libraries; two shades each, so that neighbours are told apart.
    "u0": Paint("#ffd166", _INK, "#7a5500", _DARK_INK),
    "u1": Paint("#ffdf94", _INK, "#664700", _DARK_INK),
    "l0": Paint("#dfe2e7", _INK, "#3a404a", _DARK_INK),
    "l1": Paint("#e9ebef", _INK, "#313640", _DARK_INK),
    # What was left out.
    "o": Paint("#ffffff", "#555b66", "#16181d", "#a9b0bc"),
    # Grown: the more, the stronger.
    "g1": Paint("#fde3c8", _INK, "#54310f", _DARK_INK),
    "g2": Paint("#fbb675", _INK, "#7d430a", _DARK_INK),
    "g3": Paint("#f07f1b", _INK, "#a65200", _DARK_INK),
    # Shrunk.
    "s1": Paint("#d4e6f8", _INK, "#1c3450", _DARK_INK),
    "s2": Paint("#95c3ee", _INK, "#1f4f82", _DARK_INK),
    "s3": Paint("#4e97de", _INK, "#2468b2", _DARK_INK),
}


def rules() -> str:
    """Return the style sheet's part about colours."""
    light = _rules(lambda paint: (paint.light, paint.light_ink))
    dark = _rules(lambda paint: (paint.dark, paint.dark_ink))
    # On paper everything is light.
    return f"{light}\n@media screen and (prefers-color-scheme:dark){{\n{dark}\n}}"


def rules_by_scheme() -> str:
    """Return the part about colours for a page that decides itself which of them it shows."""
    return _rules(
        lambda paint: (
            f"light-dark({paint.light},{paint.dark})",
            f"light-dark({paint.light_ink},{paint.dark_ink})",
        )
    )


def _rules(pick: Callable[[Paint], tuple[str, str]]) -> str:
    page, ink = pick(PAGE)
    muted = pick(MUTED)[1]
    found, on_found = pick(FOUND)
    lines = [
        # The page around a picture that is smaller than the window.
        f".pgf{{background:{page}}}",
        f".pgf .page{{fill:{page}}}.pgf text{{fill:{ink}}}.pgf .muted{{fill:{muted}}}",
        f".pgf rect{{stroke:{page}}}",
        *(
            f".pgf .{name} rect,.pgf rect.{name}{{fill:{fill}}}.pgf .{name} text{{fill:{on}}}"
            for name, (fill, on) in ((name, pick(paint)) for name, paint in FRAMES.items())
        ),
        f".pgf .o rect,.pgf rect.o{{stroke:{muted}}}",
        f".pgf .new rect,.pgf rect.new,.pgf .gone rect,.pgf rect.gone{{stroke:{ink}}}",
        f".pgf .m rect{{fill:{found}}}.pgf .m text{{fill:{on_found}}}",
        f".pgf .f:hover rect,.pgf .f:focus rect{{stroke:{ink}}}",
        f".pgf input,.pgf button{{color:{ink};background:{page};border:1px solid {muted}}}",
        f".pgf .status{{color:{ink}}}",
    ]
    return "\n".join(lines)
