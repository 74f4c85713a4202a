from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_perfguard import PrometheusError
from pytest_perfguard.scrapes import Scrape, Selector, change, less_own

TEXT = """
# HELP hits_total Hits.
# TYPE hits_total counter
hits_total{kind="a",zone="x"} 3.0
hits_total{kind="b",zone="x"} 4.0
# TYPE hits_created gauge
hits_created{kind="a",zone="x"} 1.7e+09
# TYPE took_seconds histogram
took_seconds_bucket{le="0.1"} 1.0
took_seconds_bucket{le="+Inf"} 2.0
took_seconds_count 2.0
took_seconds_sum 0.75
# TYPE misses_total counter
# TYPE temperature gauge
temperature 20.0
"""


def family(name: str, kind: str, **values: float) -> SimpleNamespace:
    samples = [(name, {"kind": label}, value) for label, value in values.items()]
    return SimpleNamespace(name=name.removesuffix("_total"), type=kind, samples=samples)


def scrape(*families: Any) -> Scrape:
    return Scrape.of(families)


def hits(**values: float) -> Scrape:
    return scrape(family("hits_total", "counter", **values))


def level(**values: float) -> Scrape:
    return scrape(family("level", "gauge", **values))


@pytest.mark.parametrize(
    ("text", "selector"),
    [
        ("hits_total", Selector("hits_total")),
        (" hits_total{} ", Selector("hits_total")),
        ('a:b{x="1",y="2",}', Selector("a:b", {"x": "1", "y": "2"})),
        (r"""a{x='it"s', y="a\"b,c}"}""", Selector("a", {"x": 'it"s', "y": 'a"b,c}'})),
    ],
)
def test_selectors(text: str, selector: Selector) -> None:
    assert Selector.parse(text) == selector


@pytest.mark.parametrize(
    "text", ["", "1a", "a b", "a{x=1}", 'a{x=~"b"}', 'a{x!="b"}', "a{", "a{x}"]
)
def test_what_is_no_selector(text: str) -> None:
    with pytest.raises(PrometheusError, match=r"names no metric|cannot be read"):
        Selector.parse(text)


@pytest.mark.parametrize(
    ("before", "after", "value"),
    [
        (hits(a=3, b=1), hits(a=5, b=1), 2),
        (hits(a=3), hits(a=5, b=1), 3),  # a series that begins
        (hits(a=3, b=2), hits(a=1, b=2), 1),  # restarted
        (hits(a=3, b=2), hits(b=2), 0),  # restarted, and not there again
        (hits(a=3), hits(a=3), 0),
    ],
)
def test_what_only_rises(before: Scrape, after: Scrape, value: float) -> None:
    assert change(before, after, Selector("hits_total")).value == value


def test_a_restart_is_told() -> None:
    found = change(hits(a=3, b=2), hits(a=1, b=6), Selector("hits_total"))
    assert str(found) == 'hits_total: {kind="b"} +4, {kind="a"} +1 (it was restarted meanwhile)'


def test_levels_may_fall() -> None:
    assert change(level(a=5), level(a=3), Selector("level", {"kind": "a"})).value == -2
    for before, after, when in ((level(), level(a=1), "before"), (level(a=1), level(), "after")):
        with pytest.raises(PrometheusError, match=f"had no value {when} the span"):
            change(before, after, Selector("level"))
    with pytest.raises(PrometheusError, match="is not a number"):
        change(level(a=float("nan")), level(a=1), Selector("level"))


def test_only_the_largest_parts_are_told() -> None:
    after = hits(**{name: number for number, name in enumerate("abcdef", start=1)})
    assert str(change(hits(), after, Selector("hits_total"))) == (
        'hits_total: {kind="f"} +6, {kind="e"} +5, {kind="d"} +4, and 3 more'
    )


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("hit_total", r"there is no metric 'hit_total': did you mean 'hits_total'"),
        ("took_seconds", r"did you mean 'took_seconds_bucket', 'took_seconds_count'"),
        ("zzz", r"there is no metric 'zzz': there are 'hits_total', .*'took_seconds_bucket'"),
        ("hits_created", r"did you mean 'hits_total'"),
        ('hits_total{kinds="a"}', r"hits_total has no label 'kinds': it has 'kind', 'zone'"),
        ('temperature{a="b"}', r"temperature has no label 'a': it has no labels"),
        ('hits_total{kind="c"}', r'does not exist: there are \{kind="a",zone="x"\}.*absent=0'),
        ("misses_total", r"misses_total is known and has no value yet: .*absent=0"),
        ("took_seconds_bucket", r"say which, with le="),
    ],
)
def test_what_is_not_there_is_never_zero(selector: str, message: str) -> None:
    pytest.importorskip("prometheus_client")
    page = Scrape.read(TEXT)
    with pytest.raises(PrometheusError, match=message):
        change(page, page, Selector.parse(selector))


def test_absent_series_of_known_metrics_may_count_as_nothing() -> None:
    pytest.importorskip("prometheus_client")
    page = Scrape.read(TEXT)
    for text in ("misses_total", 'hits_total{kind="c"}'):
        assert change(page, page, Selector.parse(text), absent=0).value == 0
    for text in ("miss_total", 'hits_total{kinds="a"}'):
        with pytest.raises(PrometheusError):
            change(page, page, Selector.parse(text), absent=0)


def test_histograms() -> None:
    pytest.importorskip("prometheus_client")
    before = Scrape.read(TEXT)
    after = Scrape.read(
        TEXT.replace("_count 2.0", "_count 5.0").replace("sum 0.75", "sum 1.25")
        .replace('le="0.1"} 1.0', 'le="0.10"} 1.0').replace('le="+Inf"} 2.0', 'le="+Inf"} 5.0')
    )  # fmt: skip
    assert change(before, after, Selector("took_seconds_count")).value == 3
    assert change(before, after, Selector("took_seconds_sum")).value == 0.5
    assert change(before, after, Selector("took_seconds_bucket", {"le": "+Inf"})).value == 3


@pytest.mark.parametrize("text", ["", "<html>", "a{b 1", "{"])
def test_what_is_no_page_of_metrics(text: str) -> None:
    pytest.importorskip("prometheus_client")
    with pytest.raises(PrometheusError, match=r"no page of metrics|no metric on the page"):
        Scrape.read(text)


def test_openmetrics_is_read_as_such() -> None:
    pytest.importorskip("prometheus_client")
    page = Scrape.read("# TYPE hits counter\nhits_total 3\nhits_created 1\n# EOF\n")
    assert page.samples == {"hits_total": {(): 3}}


def test_what_a_look_adds_is_taken_off() -> None:
    """Of three looks, the first has not been counted yet when it is answered."""
    first, second, after = hits(a=0), hits(a=1, b=3), hits(a=4, b=3)
    own = less_own(first, second)
    assert change(own, after, Selector("hits_total", {"kind": "a"})).value == 2
    assert change(less_own(hits(a=9), hits(a=2)), hits(a=3), Selector("hits_total")).value == 1
