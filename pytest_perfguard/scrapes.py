"""What a Prometheus registry or a page of metrics says, and what has changed between two looks.

Counters, and the counts, sums and buckets of histograms and summaries, only rise: one that is
lower than before has been restarted in between, and all that it says since has been added since,
as ``increase()`` of PromQL takes it. Of all else the change is a difference.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final

from pytest_perfguard.errors import MissingExtraError, PrometheusError

Labels = tuple[tuple[str, str], ...]
_RISING: Final = ("counter", "histogram", "summary")
_SELECTOR: Final = re.compile(r"\s*([a-zA-Z_:][\w:]*)\s*(?:\{(.*)\}\s*)?", re.DOTALL)
_MATCHER: Final = re.compile(
    r"""\s*([a-zA-Z_]\w*)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)')\s*(?:,|$)"""
)
_MOST_NAMES: Final = 5
_MOST_SERIES: Final = 3


@dataclass(frozen=True, slots=True)
class Selector:
    """Names series: those of a metric that have all these labels, whatever others they have."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, labels: Mapping[str, object] | None = None) -> Selector:
        """Read ``name`` or ``name{label="value"}``, with labels that are given beside it.

        Raises:
            PrometheusError: if it is anything else.
        """
        match = _SELECTOR.fullmatch(text)
        if not match:
            raise PrometheusError(
                f'{text!r} names no metric: write a name, or name{{label="value"}}'
            )
        found: dict[str, str] = {}
        rest = match[2] or ""
        while rest.strip():
            matcher = _MATCHER.match(rest)
            if not matcher:
                raise PrometheusError(
                    f"{text!r}: {rest.strip()!r} cannot be read: labels are compared by "
                    'label="value", and by nothing else'
                )
            found[matcher[1]] = re.sub(r"\\(.)", r"\1", matcher[2] or matcher[3] or "")
            rest = rest[matcher.end() :]
        return cls(match[1], found | {name: str(value) for name, value in (labels or {}).items()})

    def covers(self, labels: Labels) -> bool:
        """Return whether a series has all labels that are asked for."""
        known = dict(labels)
        return all(
            name in known
            and (known[name] == value or (name == "le" and _equal(known[name], value)))
            for name, value in self.labels.items()
        )

    def __str__(self) -> str:
        return self.name + shown(tuple(self.labels.items()))


@dataclass(frozen=True, slots=True)
class Change:
    """How much the series that a selector names have changed, together and each."""

    selector: Selector
    value: float
    parts: Mapping[Labels, float]
    restarted: bool = False

    def __str__(self) -> str:
        """Return what has changed, by series where there are several."""
        moved = sorted(self.parts.items(), key=lambda part: -abs(part[1]))
        told = [f"{shown(labels)} {change:+g}" for labels, change in moved if change]
        more = f", and {len(told) - _MOST_SERIES} more" if len(told) > _MOST_SERIES else ""
        text = str(self.selector)
        if len(self.parts) > 1 and told:
            text += f": {', '.join(told[:_MOST_SERIES])}{more}"
        return text + (" (it was restarted meanwhile)" if self.restarted else "")


@dataclass(frozen=True, slots=True)
class Scrape:
    """All samples of one look.

    Attributes:
        samples: values by the name of the sample and its labels.
        families: the type of each metric, by its name, be there samples of it or not.
        types: the type of the metric that a sample belongs to, by the sample's name.
    """

    samples: Mapping[str, Mapping[Labels, float]]
    families: Mapping[str, str]
    types: Mapping[str, str]

    @classmethod
    def of(cls, families: Iterable[Any]) -> Scrape:
        """Read what a registry or a parser gives."""
        samples: dict[str, dict[Labels, float]] = {}
        known: dict[str, str] = {}
        types: dict[str, str] = {}
        for family in families:
            known[family.name] = family.type
            for name, labels, value, *_ in family.samples:
                types[name] = family.type
                samples.setdefault(name, {})[tuple(sorted(labels.items()))] = value
        # When a series began is told beside it, and is no metric of anybody's.
        for name in [each for each in samples if each.endswith("_created")]:
            if known.get(name.removesuffix("_created")) in _RISING:
                del samples[name]
                known.pop(name, None)
        return cls(samples, known, types)

    @classmethod
    def read(cls, text: str) -> Scrape:
        """Read a page in the text format of Prometheus, or in that of OpenMetrics.

        Raises:
            PrometheusError: if it is in neither.
            MissingExtraError: if prometheus-client is not installed.
        """
        try:
            from prometheus_client import parser  # noqa: PLC0415 - optional
            from prometheus_client.openmetrics import parser as openmetrics  # noqa: PLC0415
        except ImportError:
            raise MissingExtraError("prometheus-client", "prometheus") from None
        is_open = text.rstrip().endswith("# EOF")
        try:
            made = cls.of((openmetrics if is_open else parser).text_string_to_metric_families(text))
        except (ValueError, KeyError, IndexError) as error:
            raise PrometheusError(f"this is no page of metrics: {error}") from None
        if not made.families:
            raise PrometheusError("there is no metric on the page")
        return made

    def rises(self, name: str) -> bool:
        """Return whether a sample belongs to a metric that only rises."""
        return self.types.get(name) in _RISING


def change(
    before: Scrape, after: Scrape, selector: Selector, absent: float | None = None
) -> Change:
    """Return how much has changed between two looks.

    Args:
        absent: what a series has changed by that is in neither, where its metric is known.

    Raises:
        PrometheusError: if there is no such metric or series, or its change is not known.
    """
    name = selector.name
    known = {**before.samples.get(name, {}), **after.samples.get(name, {})}
    found = [labels for labels in known if selector.covers(labels)]
    if not found:
        if absent is not None and _may_come(before, after, selector, known):
            return Change(selector, absent, {})
        raise PrometheusError(_unknown(before, after, selector, known))
    if name.endswith("_bucket") and "le" not in selector.labels and after.rises(name):
        raise PrometheusError(f"{selector}: buckets hold those below them: say which, with le=")
    parts, restarted = {}, False
    for labels in found:
        old = before.samples.get(name, {}).get(labels)
        new = after.samples.get(name, {}).get(labels)
        if after.rises(name) or before.rises(name):
            fell = old is not None and (new is None or new < old)
            restarted |= fell
            parts[labels] = (new or 0.0) - (0.0 if fell else old or 0.0)
        elif old is None or new is None:
            when = "before" if old is None else "after"
            raise PrometheusError(
                f"{name}{shown(labels)} had no value {when} the span, so nobody knows its change"
            )
        else:
            parts[labels] = new - old
    value = math.fsum(parts.values())
    if not math.isfinite(value):
        raise PrometheusError(f"{selector} is not a number, so nobody knows its change")
    return Change(selector, value, parts, restarted)


def less_own(before: Scrape, again: Scrape) -> Scrape:
    """Return the second of two looks with what a look itself adds to rising metrics on top.

    An application counts the request that asks for its metrics once it is answered, so of three
    looks each of the later two shows one more.
    """
    samples = {
        name: {
            labels: value + _rise(before.samples.get(name, {}).get(labels, 0.0), value)
            if again.rises(name)
            else value
            for labels, value in series.items()
        }
        for name, series in again.samples.items()
    }
    return Scrape(samples, again.families, again.types)


def _rise(old: float, new: float) -> float:
    return new - old if new > old else 0.0


def shown(labels: Labels) -> str:
    """Return labels as Prometheus writes them; nothing for none."""
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels) + "}" if labels else ""


def _equal(one: str, other: str) -> bool:
    try:
        return float(one) == float(other)
    except ValueError:
        return False


def _may_come(
    before: Scrape, after: Scrape, selector: Selector, known: Mapping[Labels, float]
) -> bool:
    """Return whether a series is only not there yet: its metric is, with these names of labels."""
    if known:
        return any(set(selector.labels) <= dict(labels).keys() for labels in known)
    return any(
        selector.name in _names(family, kind)
        for scrape in (before, after)
        for family, kind in scrape.families.items()
    )


def _names(family: str, kind: str) -> Iterator[str]:
    """Return what the samples of a metric are called."""
    match kind:
        case "counter":
            yield f"{family}_total"
        case "histogram" | "summary":
            yield from (f"{family}_count", f"{family}_sum", f"{family}_bucket")
        case _:
            yield family


def _unknown(
    before: Scrape, after: Scrape, selector: Selector, known: Mapping[Labels, float]
) -> str:
    name = selector.name
    if not known:
        families = {**before.families, **after.families}
        names = {*before.samples, *after.samples}
        names.update(each for family, kind in families.items() for each in _names(family, kind))
        if name in names:
            return (
                f"{name} is known and has no value yet: set it to 0 where the application starts, "
                "or say absent=0 if there may be none"
            )
        close = sorted(each for each in names if each.startswith(name))
        close = close or get_close_matches(name, names, n=_MOST_NAMES, cutoff=0.5)
        hint = f"did you mean {_listed(close)}?" if close else f"there are {_listed(sorted(names))}"
        return f"there is no metric {name!r}: {hint}"
    labels = sorted({label for each in known for label, _ in each})
    if missing := sorted(set(selector.labels) - set(labels)):
        has = f"has {_listed(labels)}" if labels else "has no labels"
        return f"{name} has no label {missing[0]!r}: it {has}"
    return (
        f"{selector} does not exist: there are {_listed(map(shown, known), '')}; "
        "say absent=0 if there may be none"
    )


def _listed(names: Iterable[str], quote: str = "'") -> str:
    given = list(names)
    more = f" and {len(given) - _MOST_NAMES} more" if len(given) > _MOST_NAMES else ""
    return ", ".join(f"{quote}{name}{quote}" for name in given[:_MOST_NAMES]) + more
