"""The report as one HTML file: it opens from a disk, asks for nothing, and bears very many tests.

What is needed to list and search the tests stands in the page as JSON; what is known of each test
is packed (zlib, base64) in parts that the page unpacks when they are looked at. So a report of a
thousand tests is small, and what a test or a statement is called can end no script.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from pytest_perfguard.errors import MissingExtraError
from pytest_perfguard.model import Run
from pytest_perfguard.reports.html.details import Series, by_test, details
from pytest_perfguard.reports.html.overview import known, overview
from pytest_perfguard.reports.html.pictures import picture
from pytest_perfguard.reports.sheet import embedded_script, embedded_style

if TYPE_CHECKING:
    import jinja2

# Concatenated in this order: later ones use what earlier ones declare.
_SCRIPTS = ("elements.js", "unpack.js", "charts.js", "detail.js", "list.js", "main.js")
# How many tests are packed together: unpacking that many takes a few milliseconds.
_PART = 40
MAX_DETAILS = 2_000_000
"""How large the packed details are together; those of tests that are kept go first."""
MAX_PICTURES = 500_000
"""How large the packed flame graphs are together."""


def to_html(run: Run) -> str:
    """Return a run as an HTML page.

    Raises:
        MissingExtraError: if Jinja2 is not installed.
    """
    environment = _environment()
    run = known(run)
    found = overview(run)
    parts, places = _pack_details(run, found["tests"], by_test(run.trends))
    pictures, drawn = _pack_pictures(run)
    found["tests"] = [
        [*test, place, drawn.get(record.nodeid, -1)]
        for test, place, record in zip(found["tests"], places, run.records, strict=True)
    ]
    script = "\n".join([embedded_script(), *map(_asset, _SCRIPTS)])
    style = f"{_asset('report.css')}\n{embedded_style()}"
    text: str = environment.get_template("page.html").render(
        overview=found,
        index=_json({"tests": found["tests"], "statuses": found["statuses"]}),
        parts=[_json(part) for part in (parts, pictures)],
        script=script,
        style=style,
        script_hash=_hash(script),
        style_hash=_hash(style),
    )
    return text


def _environment() -> jinja2.Environment:
    try:
        import jinja2  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingExtraError("Jinja2", "html") from None
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _asset(name: str) -> str:
    return files("pytest_perfguard.reports.html").joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    """Return what the page's policy lets run, and nothing else."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _json(data: object) -> str:
    """Return data as JSON that can stand in a script element: nothing in it ends one."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _packed(data: object) -> str:
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def _pack_details(
    run: Run, tests: list[list[Any]], trends: Mapping[str, list[Series]]
) -> tuple[list[str], list[Any]]:
    """Return the details in parts, and for each test in which part and where in it they are.

    Those that need a look come first: where there is no room for all, the others have none.
    """
    order = sorted(range(len(run.records)), key=lambda number: tests[number][1])
    parts: list[str] = []
    places: list[Any] = [-1] * len(run.records)
    room = MAX_DETAILS
    for at in range(0, len(order), _PART):
        numbers = order[at : at + _PART]
        part = _packed(
            [details(r, trends.get(r.nodeid, ())) for r in map(run.records.__getitem__, numbers)]
        )
        room -= len(part)
        if room < 0:
            break
        for place, number in enumerate(numbers):
            places[number] = [len(parts), place]
        parts.append(part)
    return parts, places


def _pack_pictures(run: Run) -> tuple[list[str], Mapping[str, int]]:
    """Return the flame graphs, a part for each test, and which part is whose."""
    parts: list[str] = []
    drawn: dict[str, int] = {}
    room = MAX_PICTURES
    measured = {record.nodeid for record in run.records}
    for nodeid in sorted(measured & run.profiles.keys()):
        part = _packed(list(_pictures(run.profiles[nodeid])))
        if len(part) <= room:
            room -= len(part)
            drawn[nodeid] = len(parts)
            parts.append(part)
    return parts, drawn


def _pictures(profiles: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, str]]:
    for data in profiles:
        drawn = picture(data)
        if drawn is not None:
            yield drawn
