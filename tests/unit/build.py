"""Hand-made data: each function fills in what a test does not care about."""

from __future__ import annotations

from typing import Any

from pytest_perfguard.model import Finding, Site, Span, Tally

# What a name, a statement or a path may hold, and no report may act upon.
HOSTILE = [
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=document.title='owned'>",
    "\x1b[31mred\x00\u202e",
    "caf\udce9",
    "{{ 7 * 7 }} {% raw %}",
    "]]>--><!--\u2028",
    "' onclick='x' \"",
]


def site(line: int = 7, file: str = "app/crud.py", **fields: Any) -> Site:
    return Site(**{"file": file, "line": line, "function": "rows", "end_line": line, **fields})


def tally(operation: str = "SELECT a FROM t", **fields: Any) -> Tally:
    return Tally(
        **{
            "probe": "sql",
            "operation": operation,
            "kind": "read",
            "label": "SELECT t",
            "site": site(),
            "count": 1,
            **fields,
        }
    )


def span(*tallies: Tally, **fields: Any) -> Span:
    return Span(
        **{"name": "test_it", "kind": "test", "tallies": tallies, "probes": ("sql",), **fields}
    )


def finding(metric: str = "sql_n_plus_one", **fields: Any) -> Finding:
    return Finding(**{"metric": metric, "tally": tally(), "weight": 1, **fields})
