from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest

from pytest_perfguard.errors import MetricError
from pytest_perfguard.metrics import METRICS
from pytest_perfguard.model import Moment, Site, Tally
from pytest_perfguard.recorder import Recorder
from pytest_perfguard.spans import MAX_CHILDREN, MAX_REQUESTS, OpenSpan, Settings, Spans
from pytest_perfguard.stats import STATISTICS
from tests.unit.build import tally


class _Ledger:
    """The tallies of one span, added up by operation."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.site: Site | None = None

    def tallies(self) -> Iterable[Tally]:
        return [
            tally(name, count=count, repeats=count, distinct=count, site=self.site)
            for name, count in self.counts.items()
        ]


class _Probe:
    """A probe that hears what a test tells it, and keeps a diary of its life."""

    def __init__(self, name: str = "sql", diary: list[str] | None = None) -> None:
        self.name = name
        self.diary = [] if diary is None else diary
        self.spans: Spans | None = None

    def start(self, spans: Spans) -> None:
        self.diary.append(f"start {self.name}")
        self.spans = spans

    def stop(self) -> None:
        self.diary.append(f"stop {self.name}")

    def hear(self, operation: str, site: Site | None = None) -> str | None:
        """Add an operation to the innermost span and return the span's name."""
        assert self.spans is not None
        span = self.spans.innermost()
        if span is None:
            return None
        ledger = span.ledgers.setdefault(self.name, _Ledger())
        ledger.counts[operation] = ledger.counts.get(operation, 0) + 1
        ledger.site = site
        return span.name


@pytest.fixture
def probe() -> _Probe:
    return _Probe()


@pytest.fixture
def recorder(probe: _Probe) -> Iterable[Recorder]:
    with Recorder(probes=[probe]) as recorder:
        yield recorder


def _in_thread(function: Callable[[], object]) -> list[object]:
    results: list[object] = []
    thread = Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results


# -- spans --------------------------------------------------------------------------------------


def test_a_span_tells_when_it_began(recorder: Recorder) -> None:
    with recorder.measure("outer") as outer, recorder.measure("inner") as inner:
        pass
    assert outer.span is not None
    assert inner.span is not None
    assert outer.span.start == 0
    assert 0 < inner.span.start <= outer.span.seconds - inner.span.seconds


def test_an_event_belongs_to_the_innermost_span(recorder: Recorder, probe: _Probe) -> None:
    with recorder.measure("outer") as outer:
        probe.hear("a")
        with recorder.measure("inner", "request") as inner:
            probe.hear("b")
        probe.hear("c")
    assert outer.span is not None
    assert {one.operation for one in outer.span.tallies} == {"a", "c"}
    assert outer.span.children == (inner.span,)
    assert inner.span is not None
    assert (inner.span.name, inner.span.kind) == ("inner", "request")
    assert (inner["sql_queries"], outer["sql_queries"]) == (1, 3)


def test_nothing_is_kept_outside_of_spans(recorder: Recorder, probe: _Probe) -> None:
    assert probe.hear("before") is None
    with recorder.measure("block") as block:
        pass
    assert probe.hear("after") is None
    assert block["sql_queries"] == 0


def test_a_span_takes_at_least_as_long_as_those_inside_it(recorder: Recorder) -> None:
    with recorder.measure("outer") as outer, recorder.measure("inner") as inner:
        pass
    assert outer.span is not None
    assert inner.span is not None
    assert 0 <= inner.span.seconds <= outer.span.seconds


def test_a_block_that_raises_is_measured_and_closed(recorder: Recorder, probe: _Probe) -> None:
    def fail() -> None:
        probe.hear("a")
        raise ZeroDivisionError

    with suppress(ZeroDivisionError), recorder.measure("block") as block:
        fail()
    assert block["sql_queries"] == 1
    assert recorder.innermost() is None


def test_events_after_the_end_of_a_span_belong_to_its_parent(
    recorder: Recorder, probe: _Probe
) -> None:
    with recorder.measure("outer"):
        with recorder.measure("inner"), recorder.measure("innermost"):
            context = contextvars.copy_context()
            assert context.run(probe.hear, "a") == "innermost"
        assert context.run(probe.hear, "b") == "outer"
    assert context.run(probe.hear, "c") is None


def test_spans_may_end_in_any_order(recorder: Recorder, probe: _Probe) -> None:
    outer = recorder.open("outer", "block")
    inner = recorder.open("inner", "block")
    recorder.close(outer)
    assert probe.hear("a") == "inner"
    recorder.close(inner)
    assert probe.hear("b") is None


class _EndsInItsThread:
    """Closes a span in another thread, just when this one does."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.ended: Thread | None = None

    def opened(self, span: OpenSpan) -> None:
        """Nothing to do."""

    def closed(self, span: OpenSpan) -> None:
        if self.ended is None:
            self.ended = Thread(target=self._recorder.close, args=(span,))
            self.ended.start()
            self.ended.join()


def test_what_is_left_open_may_end_at_the_same_time(recorder: Recorder) -> None:
    watcher = _EndsInItsThread(recorder)
    recorder.watchers.append(watcher)
    recorder.open("a task", "task")
    recorder.abandon()
    assert watcher.ended is not None
    assert recorder.innermost() is None


def test_a_thread_falls_back_to_the_innermost_open_span(recorder: Recorder, probe: _Probe) -> None:
    with recorder.measure("outer"):
        with recorder.measure("inner"):
            assert _in_thread(lambda: probe.hear("a")) == ["inner"]
        assert _in_thread(lambda: probe.hear("b")) == ["outer"]
    assert _in_thread(lambda: probe.hear("c")) == [None]


def test_a_thread_with_a_context_keeps_to_its_span(recorder: Recorder, probe: _Probe) -> None:
    with recorder.measure("outer"):
        context = contextvars.copy_context()
        with recorder.measure("inner"):
            assert _in_thread(lambda: context.run(probe.hear, "a")) == ["outer"]


def test_concurrent_tasks_do_not_see_each_others_spans(recorder: Recorder, probe: _Probe) -> None:
    async def request(name: str, mine: asyncio.Event, other: asyncio.Event) -> list[str | None]:
        with recorder.measure(name, "request"):
            mine.set()
            await other.wait()
            return [probe.hear(name), await asyncio.to_thread(probe.hear, name)]

    async def requests() -> tuple[list[str | None], ...]:
        first, second = asyncio.Event(), asyncio.Event()
        both = request("a", first, second), request("b", second, first)
        return tuple(await asyncio.gather(*both))

    with recorder.measure("test") as whole:
        assert asyncio.run(requests()) == (["a", "a"], ["b", "b"])
        assert probe.hear("c") == "test"
    assert whole.span is not None
    children = {child.name: child for child in whole.span.children}
    assert {name: child.tallies[0].count for name, child in children.items()} == {"a": 2, "b": 2}


def test_a_task_that_outlives_its_span_goes_on_in_the_parent(
    recorder: Recorder, probe: _Probe
) -> None:
    async def late(ended: asyncio.Event) -> str | None:
        await ended.wait()
        return probe.hear("a")

    async def run() -> str | None:
        ended = asyncio.Event()
        with recorder.measure("request"):
            task = asyncio.create_task(late(ended))
        ended.set()
        return await task

    with recorder.measure("test"):
        assert asyncio.run(run()) == "test"


@pytest.mark.parametrize("children", [MAX_CHILDREN, MAX_CHILDREN + 1, 2 * MAX_CHILDREN + 50])
def test_however_many_spans_are_inside_the_totals_are_exact(
    recorder: Recorder, probe: _Probe, children: int
) -> None:
    with recorder.measure("test") as whole:
        for number in range(children):
            with recorder.measure(f"block {number}"):
                for _ in range(number % 3):
                    probe.hear("a")
                probe.hear("b")
    assert whole.span is not None
    expected = children + sum(number % 3 for number in range(children))
    assert whole["sql_queries"] == expected
    assert len(whole.span.children) <= MAX_CHILDREN + 1
    assert sum(child.calls for child in whole.span.children) == children


def test_the_spans_that_are_folded_say_how_many_they_are(recorder: Recorder) -> None:
    with recorder.measure("test") as whole:
        for number in range(MAX_CHILDREN + 7):
            with recorder.measure(f"block {number}"):
                pass
    assert whole.span is not None
    last = whole.span.children[-1]
    assert (last.name, last.kind, last.calls) == ("7 more", "block", 7)


def test_requests_stay_apart_for_longer(recorder: Recorder) -> None:
    with recorder.measure("test") as whole:
        for number in range(MAX_REQUESTS + 3):
            with recorder.measure(f"GET /{number}", "request"):
                pass
    assert whole.span is not None
    assert len(whole.span.children) == MAX_REQUESTS + 1
    assert whole.span.children[-1].calls == 3


def test_levels_keep_their_highest_and_notes_are_kept_once(recorder: Recorder) -> None:
    with recorder.measure("block") as block:
        span = recorder.innermost()
        assert span is not None
        for value in (0.25, 0.75, 0.5):
            span.level("pool_peak", value)
            span.notes["no limit"] = None
    assert block["pool_peak"] == 0.75
    assert block.span is not None
    assert block.span.notes == ("no limit",)


def test_a_level_of_zero_is_noted(recorder: Recorder) -> None:
    with recorder.measure("block") as block:
        span = recorder.innermost()
        assert span is not None
        span.level("pool_peak", 0)
    assert block["pool_peak"] == 0


def test_times_of_a_time_line_count_from_the_outermost_span(recorder: Recorder) -> None:
    with recorder.measure("outer"), recorder.measure("inner") as inner:
        outermost = recorder.innermost()
        assert outermost is not None
        assert outermost.parent is not None
        assert outermost.origin == outermost.parent.started
        outermost.moments.append(["SELECT t", 2, 0.5, 0.25])
    assert inner.span is not None
    assert inner.span.timeline == (Moment("SELECT t", 2, 0.5, 0.25),)


def test_plans_are_asked_for_in_all_that_is_inside(recorder: Recorder) -> None:
    opened = recorder.open("outer", "block", asked=frozenset({"sql_full_scans"}))
    with recorder.measure("inner") as inner:
        pass
    outer = recorder.close(opened)
    assert inner.span is not None
    assert outer.probes == inner.span.probes == ("sql", "plans")


# -- findings and waivers -----------------------------------------------------------------------


def test_repeats_are_looked_for_inside_one_span(recorder: Recorder, probe: _Probe) -> None:
    with recorder.measure("test") as whole:
        for number in range(2):
            with recorder.measure(f"GET /{number}", "request"):
                for _ in range(4):
                    probe.hear("a")
        assert whole["sql_n_plus_one"] == 0
        with recorder.measure("GET /2", "request"):
            for _ in range(5):
                probe.hear("a")
    assert whole["sql_n_plus_one"] == 1


def test_the_threshold_is_a_setting(probe: _Probe) -> None:
    settings = Settings(n_plus_one_threshold=3)
    with Recorder(settings, [probe]) as recorder, recorder.measure("block") as block:
        for _ in range(3):
            probe.hear("a")
    assert block["sql_n_plus_one"] == 1


@pytest.mark.parametrize(("events", "covered"), [(5, {"sql_n_plus_one"}), (1, set())])
def test_a_waiver_that_is_passed_is_known_and_whether_it_was_needed(
    probe: _Probe, tmp_path: Path, events: int, covered: set[str]
) -> None:
    waiver = "load()  # perfguard: ignore[sql_n_plus_one] few rows\n"
    (tmp_path / "app.py").write_text(waiver, encoding="utf-8")
    settings = Settings(root=tmp_path)
    with Recorder(settings, [probe]) as recorder, recorder.measure("block") as block:
        for _ in range(events):
            probe.hear("a", Site("app.py", 1, "load", 1))
    assert block["sql_n_plus_one"] == 0
    ((passed, used),) = recorder.passed_waivers.items()
    assert (passed.reason, used) == ("few rows", covered)


def test_of_two_waivers_on_a_line_only_the_one_that_covers_something_is_needed(
    probe: _Probe, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(
        "# perfguard: ignore[sql_duplicates] cheap\n"
        "load()  # perfguard: ignore[sql_n_plus_one] few rows\n",
        encoding="utf-8",
    )
    with Recorder(Settings(root=tmp_path), [probe]) as recorder, recorder.measure("block"):
        for _ in range(5):
            probe.hear("a", Site("app.py", 2, "load", 2))
    used = {waiver.reason: covered for waiver, covered in recorder.passed_waivers.items()}
    assert used == {"cheap": set(), "few rows": {"sql_n_plus_one"}}


# -- probes -------------------------------------------------------------------------------------


def test_probes_are_stopped_once_and_the_last_started_first() -> None:
    diary: list[str] = []
    recorder = Recorder(probes=[_Probe("sql", diary), _Probe("cache", diary)])
    assert diary == []
    with recorder:
        recorder.start()
        assert recorder.listening == ["sql", "cache"]
    recorder.stop()
    assert [entry for entry in diary if entry.startswith("stop")] == ["stop cache", "stop sql"]
    assert diary[:2] == ["start sql", "start cache"]
    assert diary[-2:] == ["stop cache", "stop sql"]
    assert recorder.listening == []


def test_a_recorder_can_be_started_again(probe: _Probe) -> None:
    recorder = Recorder(probes=[probe])
    for _ in range(2):
        with recorder, recorder.measure("block") as block:
            probe.hear("a")
        assert block["sql_queries"] == 1
    assert probe.diary == ["start sql", "stop sql"] * 2


def test_a_span_says_who_listened() -> None:
    with (
        Recorder(probes=[_Probe("sql"), _Probe("cache")]) as recorder,
        recorder.measure("block") as block,
    ):
        pass
    assert block.span is not None
    assert block.span.probes == ("sql", "cache")


def test_two_recorders_do_not_hear_each_other() -> None:
    first, second = _Probe(), _Probe()
    with (
        Recorder(probes=[first]) as one,
        Recorder(probes=[second]) as two,
        one.measure("one") as in_one,
        two.measure("two") as in_two,
    ):
        assert (first.hear("a"), second.hear("b")) == ("one", "two")
    assert (in_one["sql_queries"], in_two["sql_queries"]) == (1, 1)


# -- measurements -------------------------------------------------------------------------------


def test_a_measurement_can_be_read_while_it_runs_and_after(
    recorder: Recorder, probe: _Probe
) -> None:
    with recorder.measure("block") as block:
        assert block["sql_queries"] == 0
        probe.hear("a")
        assert block["sql_queries"] == 1
        assert block.span is None
        probe.hear("a")
    probe.hear("a")
    assert block["sql_queries"] == 2
    assert block.span is not None


def test_a_measurement_is_a_mapping_of_the_metrics_that_have_a_value(recorder: Recorder) -> None:
    with recorder.measure("block") as block:
        pass
    unknown = {
        "pool_peak", "tx_longest", "sql_full_scans", "sql_sorts", "cache_hit_ratio",
        "cache_rereads", "cache_differences", "cache_recomputations",
        "response_bytes", "response_bytes_decoded", "http_waiting", "time_waiting", "py_calls",
        "cpu_time", "cpu_percent", "memory_peak", "memory_growth", "memory_percent", "alloc_peak",
        "loop_stall",
        "task_slowest", "task_latency",
        *(name for name in METRICS if name.startswith(("prom_", "load_"))),
        *(f"{group}_{statistic}" for group in ("http", "time") for statistic in STATISTICS),
    }  # fmt: skip
    observed = set(METRICS) - unknown
    assert set(block) == observed
    assert len(block) == len(observed)
    assert dict(block) == dict.fromkeys(observed, 0)
    assert "sql_queries" in block
    assert "pool_peak" not in block
    assert "nothing" not in block
    assert block.get("pool_peak", 7) == 7


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sql_querys", "unknown metric 'sql_querys'. Did you mean 'sql_queries'?"),
        ("pool_peak", "nothing was observed for 'pool_peak' in 'block'"),
        ("cache_hit_ratio", "nothing was observed for 'cache_hit_ratio' in 'block'"),
    ],
)
def test_a_metric_without_a_value_is_an_error_that_says_why(
    recorder: Recorder, name: str, message: str
) -> None:
    with recorder.measure("block") as block:
        pass
    with pytest.raises(MetricError) as caught:
        block[name]
    assert str(caught.value) == message
    assert isinstance(caught.value, KeyError)


def test_a_measurement_shows_its_name_and_what_is_not_zero(
    recorder: Recorder, probe: _Probe
) -> None:
    with recorder.measure("block") as block:
        probe.hear("a")
    assert repr(block) == "<Measurement 'block': sql_queries=1>"
