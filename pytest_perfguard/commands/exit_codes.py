"""How the command ends; scripts rely on these."""

from __future__ import annotations

OK = 0
BREACH = 1
"""A budget was not kept, or something has become worse."""
USAGE = 2
"""Wrong arguments; argparse uses this one, too."""
FAULT = 3
"""The tool itself failed, or a file cannot be used: nothing is said of the tests."""
