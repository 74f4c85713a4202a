"""Makes pages of other libraries safe to open: no request leaves them, no name ends a script."""

from __future__ import annotations

import re

# pyinstrument's page asks a server for its fonts, which tells that server who looks at it.
_FONTS = re.compile(r"https?://fonts\.(?:googleapis|gstatic)\.com[^\"'`\s)]*")
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline' data:; "
    "img-src data: blob:; font-src data:"
)
_DATA = re.compile(
    r"(const sessionData = )(.*?)(;\s*pyinstrumentHTMLRenderer\.render\()", re.DOTALL
)


def offline(page: str) -> str:
    """Return pyinstrument's page without what it would load, and forbid it to load anything."""
    page = _DATA.sub(lambda m: m[1] + m[2].replace("<", "\\u003c") + m[3], page)
    page = _FONTS.sub("data:text/css,", page)
    policy = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    return page.replace("<head>", f"<head>{policy}", 1)
