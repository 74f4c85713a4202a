"""A comparison of two revisions as one HTML file that loads nothing.

Of each timed call the times of both sides are drawn over each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from operator import attrgetter

from pytest_perfguard.ab_results import Compared, Comparison, Grade
from pytest_perfguard.duet import DuetResult, Outcome, Verdict
from pytest_perfguard.reports.ab_text import about_times, apart, brief, explained, headline, worse
from pytest_perfguard.units import Unit, several, show
from pytest_perfguard.visible import visible

_BINS, _WIDTH, _HEIGHT = 40, 560, 110
# Shares of the times that are left out at the upper end: a single pause would make all else a line.
_OUTLIERS = 0.02
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --base: #2f6fb3; --head: #c65a11; --line: #8886; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1rem; overflow-wrap: anywhere; }
section { border-top: 1px solid var(--line); margin-top: 1.5rem; }
pre { overflow-x: auto; background: #8881; padding: .6rem; }
figure { margin: 1rem 0; } figcaption { overflow-wrap: anywhere; }
.base { fill: var(--base); stroke: var(--base); } .head { fill: var(--head); stroke: var(--head); }
svg.times rect { fill-opacity: .45; stroke: none; } svg.times { max-width: 100%; height: auto; }
svg.times text { fill: currentColor; font: 11px system-ui, sans-serif; stroke: none; }
.key { font-weight: 600; } .key.base { color: var(--base); } .key.head { color: var(--head); }
iframe { width: 100%; height: 36rem; border: 1px solid var(--line); } .worse h2 { color: #c0392b; }
"""


def page(comparison: Comparison) -> str:
    """Return the whole of it."""
    title = f"perfguard: {comparison.base} against {comparison.head}"
    ordered = sorted(comparison.compared, key=lambda test: [*Grade].index(test.grade))
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>",
        f'<h1><span class="key base">{_text(comparison.base)}</span> against',
        f'<span class="key head">{_text(comparison.head)}</span></h1>',
        f"<p><strong>{_text(headline(comparison))}</strong></p>",
        f"<p>{_text(comparison.totals)}</p>",
        *_list([*comparison.notes, *about_times(comparison)]),
        *(part for test in ordered for part in _section(test)),
    ]
    if comparison.apart:
        told = _list(apart(comparison))
        parts += ["<section><h2>Not comparable</h2>", *told, "</section>"]
    return "\n".join([*parts, "</body></html>\n"])


def _section(test: Compared) -> Iterable[str]:
    failing = test.fails
    lines = explained(test) if failing else brief(test)
    if not lines and not any(each.meetings for each in test.duets):
        return
    yield f'<section class="{"worse" if failing else "fine"}">'
    said = " and ".join(worse(test)) or str(test.grade)
    yield f"<h2>{_text(test.nodeid)}: {said}</h2>"
    if lines:
        yield f"<pre>{_text(chr(10).join(lines))}</pre>"
    for each in test.duets:
        if each.meetings:
            yield from _distributions(each)
    for moved in test.moved:
        if moved.picture:
            # A document of its own: its style and its script are about nothing else.
            yield f'<figure><iframe title="What moved" srcdoc="{escape(moved.picture)}"></iframe>'
            yield f"<figcaption>{_text(moved.call)}: what moved</figcaption></figure>"
    yield "</section>"


def _distributions(result: DuetResult) -> Iterable[str]:
    """Draw what was judged: CPU time, and waiting where that is another one."""
    yield f"<p>{_text(result.call)}: {_text(result.text)}</p>"
    if result.cpu is not None:
        base, head = (
            [seconds for meeting in result.meetings for seconds in side(meeting).cpu]
            for side in (attrgetter("base"), attrgetter("head"))
        )
        yield from _figure(base, head, "CPU time", result.cpu)
    if result.waiting is not None and result.waiting.verdict is not Verdict.SAME:
        base, head = (
            [max(0.0, seconds) for meeting in result.meetings for seconds in side(meeting).waiting]
            for side in (attrgetter("base"), attrgetter("head"))
        )
        yield from _figure(base, head, "waiting", result.waiting)


def _figure(
    base: Sequence[float], head: Sequence[float], what: str, outcome: Outcome
) -> Iterable[str]:
    effects = ", ".join(f"{100 * effect:+.1f} %" for effect in outcome.effects)
    yield f"<figure>{histograms(base, head, what)}<figcaption>"
    yield (
        f'{what} of a call: <span class="key base">base {_median(base)}</span>, '
        f'<span class="key head">head {_median(head)}</span> (the lines: medians; the last bar has '
        f"all that took longer); {several(len(base), 'pair')} of blocks; head by pair of "
        f"processes {effects}, limit {100 * outcome.limit:.0f} %</figcaption></figure>"
    )


def histograms(base: Sequence[float], head: Sequence[float], what: str = "CPU time") -> str:
    """Return the distributions of both sides over each other, as SVG."""
    everything = sorted([*base, *head])
    low = everything[0]
    high = everything[math.ceil((len(everything) - 1) * (1 - _OUTLIERS))]
    width = (high - low) / _BINS or low / _BINS or 1.0
    counts = {}
    for name, values in (("base", base), ("head", head)):
        bins = [0] * _BINS
        for value in values:
            bins[min(int((value - low) / width), _BINS - 1)] += 1
        counts[name] = [number / len(values) for number in bins]
    most = max(map(max, counts.values()))
    parts = [
        f'<svg class="times" role="img" viewBox="0 0 {_WIDTH} {_HEIGHT + 18}" width="{_WIDTH}">',
        f"<title>Distribution of the {what} of a call on both sides</title>",
    ]
    for name, shares in counts.items():
        parts.append(f'<g class="{name}">')
        for number, share in enumerate(shares):
            if share:
                height = _HEIGHT * share / most
                parts.append(
                    f'<rect x="{number * _WIDTH / _BINS:.1f}" y="{_HEIGHT - height:.1f}" '
                    f'width="{_WIDTH / _BINS:.1f}" height="{height:.1f}"/>'
                )
        values = sorted(base if name == "base" else head)
        at = min((values[len(values) // 2] - low) / width / _BINS, 1.0) * _WIDTH
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{_HEIGHT}"/></g>')
    parts += [
        f'<text x="0" y="{_HEIGHT + 14}">{show(low, Unit.SECONDS)}</text>',
        f'<text x="{_WIDTH}" y="{_HEIGHT + 14}" text-anchor="end">',
        f"{show(low + _BINS * width, Unit.SECONDS)}</text></svg>",
    ]
    return "".join(parts)


def _median(values: Sequence[float]) -> str:
    return show(sorted(values)[len(values) // 2], Unit.SECONDS)


def _list(lines: Sequence[str]) -> list[str]:
    return ["<ul>", *(f"<li>{_text(line)}</li>" for line in lines), "</ul>"] if lines else []


def _text(text: str) -> str:
    return escape("\n".join(map(visible, text.split("\n"))))
