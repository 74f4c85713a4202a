"""Names for files, of texts that may hold anything, such as a node id.

A file's name may hold very little: what is lost on the way is made up for by a hash, so that two
texts never share a file, whatever process writes it.
"""

from __future__ import annotations

import hashlib
import re

_MAX_NAME = 60
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
# What Windows keeps for itself, with any ending.
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)


def safe_name(text: str) -> str:
    """Return a name for a file or folder, the same for the same text and for no other."""
    name = _UNSAFE.sub("-", text).strip("-.")[:_MAX_NAME].strip("-.")
    # Two names that differ in case alone are one on some systems.
    if name and name == text == name.lower() and not _RESERVED.fullmatch(name):
        return name
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    # In front of a dot, what Windows keeps for itself would be recognised.
    return f"{name.replace('.', '_') if _RESERVED.fullmatch(name) else name}-{digest}".lstrip("-")
