from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from pytest_perfguard.metrics import METRICS
from pytest_perfguard.model import Moment, Site, Span
from pytest_perfguard.probes.celery_internals import Publishing
from pytest_perfguard.probes.celery_queue import CeleryPost
from pytest_perfguard.probes.tasks import NEED_RUNS, TaskProbe, _placed
from pytest_perfguard.recorder import Measurement, Recorder
from pytest_perfguard.spans import MAX_TALLIES, OpenSpan, Settings
from tests.unit.build import site, span, tally


class Post:
    """Brings what a test has prepared, one batch for each time that it is asked."""

    def __init__(self, *batches: Sequence[Mapping[str, Any]]) -> None:
        self.batches = list(batches)
        self.closed = 0

    def receive(self, timeout: float) -> Iterable[Mapping[str, Any]]:
        assert timeout >= 0
        return self.batches.pop(0) if self.batches else ()

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def probe() -> TaskProbe:
    return TaskProbe()


@pytest.fixture
def recorder(probe: TaskProbe) -> Iterator[Recorder]:
    with Recorder(Settings(task_timeout=0.05), probes=[probe]) as recorder:
        yield recorder


def publish(probe: TaskProbe, name: str = "app.send", **options: Any) -> Site | None:
    return probe.publish(name, sys._getframe(1), **options)


def run(
    probe: TaskProbe, key: str, number: int = 0, state: str = "run", error: str | None = None
) -> None:
    probe.begin("app.send", (key, number), sent=key, number=number)
    probe.end((key, number), state, error, sent=key, number=number)


def asking(recorder: Recorder, *metrics: str) -> Measurement:
    """Open a block that has budgets for metrics."""
    names = metrics or NEED_RUNS
    return Measurement(recorder, recorder.open("block", "block", asked=frozenset(names)))


def record(
    key: str, number: int = 0, state: str = "run", task: str = "app.send", **fields: Any
) -> dict[str, Any]:
    """What a worker sends for a try."""
    name = {"retry": "retries", "failure": "failures"}.get(state)
    run = tally(
        task, probe="tasks", kind=state, site=None, count=0,
        sums={"runs": 1, **({name: 1} if name else {})}, peaks={"seconds": 2.0, "latency": 3.0},
    )  # fmt: skip
    tried = span(tally(), run, name=f"task {task}", kind="task")
    plain = {"id": key, "number": number, "state": state, "span": tried.to_dict(), "sent": []}
    return {**plain, "began": time.time(), **fields}


def counts(measured: Measurement) -> dict[str, float]:
    return {
        name.removeprefix("task_"): value
        for name, value in measured.items()
        if name in ("task_published", "task_runs", "task_retries", "task_failures")
    }


def test_what_a_worker_tells_is_placed_on_our_time_line() -> None:
    inner = span(start=0.25, timeline=(Moment("SELECT t", 1, 0.5, 0.1),))
    placed = _placed(span(start=0.125, children=(inner,)), None, 2.0)
    assert placed.start == 2.125
    assert placed.children[0].start == 2.25
    assert placed.children[0].timeline[0].start == 2.5


def test_nothing_is_counted_where_nothing_is_measured(probe: TaskProbe, recorder: Recorder) -> None:
    assert publish(probe, key="a") is None
    run(probe, "a")
    with recorder.measure("block") as measured:
        pass
    assert counts(measured) == {"published": 0, "runs": 0, "retries": 0, "failures": 0}


def test_a_call_that_runs_at_once_is_published_and_run(
    probe: TaskProbe, recorder: Recorder
) -> None:
    with recorder.measure("block") as measured:
        publish(probe)
        probe.begin("app.send", "a")
        probe.end("a")
    assert counts(measured) == {"published": 1, "runs": 1, "retries": 0, "failures": 0}
    assert measured["task_slowest"] >= 0
    assert "task_latency" not in measured
    assert measured.span is not None
    (task,) = measured.span.children
    assert (task.name, task.kind) == ("task app.send", "task")


def test_a_message_whose_run_nobody_waits_for_makes_runs_unknown(
    probe: TaskProbe, recorder: Recorder
) -> None:
    with recorder.measure("block") as measured:
        publish(probe, key="a")
        publish(probe, key="b")
        run(probe, "a")
    assert counts(measured) == {"published": 2}
    assert measured.span is not None
    for name in NEED_RUNS:
        told = measured.span.facts[name]
        assert told.startswith("nobody waited for 1 of 1 messages of app.send published")


def test_a_run_that_is_not_told_of_is_unknown_and_said_so(
    probe: TaskProbe, recorder: Recorder
) -> None:
    measured = asking(recorder, "task_failures")
    for key in "abc":
        publish(probe, key=key)
    run(probe, "a")
    line = sys._getframe().f_lineno - 2
    frozen = measured.close()
    assert counts(measured) == {"published": 3}
    assert frozen.facts["task_failures"] == (
        f"2 of 3 messages of app.send published at {__file__}:{line}: not run within 0.05 s, or no "
        "worker told of it: start the worker with -I pytest_perfguard.celery_worker, raise "
        "perfguard_task_timeout, or let tasks run at once: task_always_eager"
    ).replace(f"{os.getcwd()}/", "")  # noqa: PTH109


def test_what_another_thread_runs_is_waited_for(recorder: Recorder, probe: TaskProbe) -> None:
    with ThreadPoolExecutor(1) as pool:
        measured = asking(recorder)
        publish(probe, key="a")
        # Runs while the block is being closed, or before.
        pool.submit(run, probe, "a")
        frozen = measured.close()
    assert counts(measured)["runs"] == 1
    assert [child.name for child in frozen.children] == ["task app.send"]
    assert 0 <= measured["task_latency"] < 60


def test_a_run_in_another_thread_belongs_to_the_span_that_published_it(
    probe: TaskProbe, recorder: Recorder
) -> None:
    with ThreadPoolExecutor(1) as pool:
        first = recorder.open("first", "block")
        publish(probe, key="a")
        second = recorder.open("second", "block")
        publish(probe, key="b")
        for key in "ab":
            pool.submit(run, probe, key).result()
        inner, outer = recorder.close(second), recorder.close(first)
    assert [child.kind for child in inner.children] == ["task"]
    assert sorted(child.kind for child in outer.children) == ["block", "task"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_every_try_is_waited_for_in_whatever_order_they_come(
    probe: TaskProbe, recorder: Recorder, order: tuple[int, ...]
) -> None:
    measured = asking(recorder)
    publish(probe, key="a")
    states = ("retry", "retry", "failure")
    probe.post = Post(*([record("a", number, states[number])] for number in order))
    measured.close()
    assert counts(measured) == {"published": 1, "runs": 3, "retries": 2, "failures": 1}


def test_a_retry_that_does_not_come_back_is_unknown(probe: TaskProbe, recorder: Recorder) -> None:
    measured = asking(recorder)
    publish(probe, key="a")
    probe.post = Post([record("a", 0, "retry")], [record("a", 2, "failure")])
    measured.close()
    assert counts(measured) == {"published": 1}


def test_what_a_worker_measured_becomes_a_span_with_our_line(
    probe: TaskProbe, recorder: Recorder
) -> None:
    measured = asking(recorder)
    publish(probe, key="a")
    line = sys._getframe().f_lineno - 1
    probe.post = post = Post([record("a")])
    frozen = measured.close()
    (task,) = frozen.children
    assert measured["sql_queries"] == 1
    assert (measured["task_slowest"], measured["task_latency"]) == (2.0, 3.0)
    of_sql, of_run = task.tallies
    assert of_run.site is not None
    assert (of_run.site.line, of_sql.site) == (line, site())
    assert not of_run.facts
    assert post.closed == 1
    assert probe.post is None


@pytest.mark.parametrize("early", [False, True])
def test_tasks_that_a_worker_published_are_waited_for_too(
    probe: TaskProbe, recorder: Recorder, early: bool
) -> None:
    measured = asking(recorder)
    publish(probe, key="a")
    parent = record("a", sent=[["b", "app.other", site(3).to_dict()], ["c", "app.other", None]])
    others = [record(key, task="app.other") for key in "bc"]
    probe.post = Post(*([others, [parent]] if early else [[parent], others]))
    frozen = measured.close()
    # The worker's span holds what was published in it.
    assert counts(measured) == {"published": 1, "runs": 3, "retries": 0, "failures": 0}
    lines = [task.tallies[1].site for task in frozen.children]
    assert [place and place.line for place in lines[1:]] == [3, None]


def test_a_worker_that_published_more_than_was_run_makes_runs_unknown(
    probe: TaskProbe, recorder: Recorder
) -> None:
    measured = asking(recorder)
    publish(probe, key="a")
    probe.post = Post([record("a", sent=[["b", "app.other", site(3).to_dict()]])])
    frozen = measured.close()
    assert counts(measured) == {"published": 1}
    assert frozen.facts["task_runs"].startswith(
        "1 of 1 messages of app.other published at app/crud.py:3: not run within 0.05 s"
    )


def test_records_of_others_are_left_alone(probe: TaskProbe, recorder: Recorder) -> None:
    measured = asking(recorder)
    publish(probe, key="a")
    probe.post = Post([record("nobody's")], [record("a")], [record("a")])
    measured.close()
    assert counts(measured)["runs"] == 1


def test_a_task_does_not_wait_for_those_that_it_publishes(
    probe: TaskProbe, recorder: Recorder
) -> None:
    """Its worker may be the one that has to run them."""
    with ThreadPoolExecutor(1) as pool:
        measured = asking(recorder)
        publish(probe, key="a")

        def work() -> None:
            probe.begin("app.send", ("a", 0), sent="a")
            publish(probe, "app.other", key="b")
            with recorder.measure("inside"):
                publish(probe, "app.other", key="c")
            probe.end(("a", 0), sent="a")
            for key in "bc":
                run(probe, key)

        pool.submit(work).result()
        frozen = measured.close()
    assert counts(measured) == {"published": 3, "runs": 3, "retries": 0, "failures": 0}
    assert [child.name for child in frozen.children] == ["task app.send"] * 3


def test_what_is_left_behind_by_a_span_without_a_parent_is_forgotten(
    probe: TaskProbe, recorder: Recorder
) -> None:
    with recorder.measure("block"):
        publish(probe, key="a")
    with recorder.measure("other") as measured:
        run(probe, "a")
    assert counts(measured) == {"published": 0, "runs": 1, "retries": 0, "failures": 0}


def test_probes_that_are_off_for_a_while_forget_nothing(
    probe: TaskProbe, recorder: Recorder
) -> None:
    measured = asking(recorder)
    publish(probe, key="a")
    probe.post = post = Post([record("a")])
    recorder.stop()
    assert not post.closed
    recorder.start()
    measured.close()
    assert counts(measured)["runs"] == 1


def test_stopping_leaves_no_watcher_and_no_post(probe: TaskProbe) -> None:
    recorder = Recorder(probes=[probe])
    recorder.start()
    recorder.start()
    assert recorder.watchers == [probe]
    with recorder.measure("block"):
        publish(probe, key="a")
    recorder.stop()
    assert recorder.watchers == []
    assert publish(probe, key="b") is None


@pytest.mark.parametrize(
    ("published", "grouped", "found"), [(4, 0, 0), (5, 0, 1), (9, 9, 0), (9, 5, 0), (9, 4, 1)]
)
def test_as_many_messages_as_the_threshold_that_were_in_no_group_are_a_candidate(
    probe: TaskProbe, recorder: Recorder, published: int, grouped: int, found: int
) -> None:
    with recorder.measure("block") as measured:
        for number in range(published):
            publish(probe, in_group=number < grouped)
    assert (measured["task_published"], measured["task_n_plus_one"]) == (published, found)


def test_two_tasks_and_two_lines_are_no_n_plus_one(probe: TaskProbe, recorder: Recorder) -> None:
    with recorder.measure("block") as measured:
        for name in ("app.send", "app.other"):
            for _ in range(4):
                publish(probe, name)
        for _ in range(4):
            publish(probe)
    assert (measured["task_published"], measured["task_n_plus_one"]) == (12, 0)


def test_what_does_not_fit_any_more_is_added_up(probe: TaskProbe, recorder: Recorder) -> None:
    with recorder.measure("block") as measured:
        for number in range(MAX_TALLIES + 3):
            publish(probe, f"app.task{number}")
    assert measured["task_published"] == MAX_TALLIES + 3
    assert measured.span is not None
    (folded,) = [t for t in measured.span.tallies if t.operation == "(other tasks)"]
    assert folded.count == 3


@pytest.mark.parametrize("end", [lambda probe, key: None, run], ids=["never ends", "ends"])
def test_a_task_of_a_closed_span_is_nobodys(
    probe: TaskProbe, recorder: Recorder, end: Callable[[TaskProbe, str], None]
) -> None:
    with recorder.measure("block"):
        probe.begin("app.send", "a")
    recorder.abandon()
    probe.end("a")
    with recorder.measure("other") as measured:
        end(probe, "b")
    assert counts(measured)["published"] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_measures_nothing() -> None:
    code = """
import os, sys
from pytest_perfguard.probes.tasks import TaskProbe
from pytest_perfguard.recorder import Recorder

probe = TaskProbe()
with Recorder(probes=[probe]) as recorder, recorder.measure("block") as measured:
    child = os.fork()
    if not child:
        probe.publish("app.send", sys._getframe(), key="a")
        os._exit(int(measured["task_published"]))
    assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_worker_module_connects_nothing_by_being_part_of_the_package() -> None:
    code = """
import sys
import pytest_perfguard.fixtures
assert "celery" not in sys.modules and "kombu" not in sys.modules
assert "pytest_perfguard.celery_worker" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_limits_that_a_span_with_unknown_runs_does_not_keep() -> None:
    unknown: Span = span(tally(probe="tasks", sums={"unheard": 1, "runs": 5}), probes=("tasks",))
    for name in NEED_RUNS:
        assert METRICS[name].measure(unknown) is None
        assert METRICS[name].on_request


def test_the_fix_is_written_as_the_queue_library_writes_it(
    probe: TaskProbe, recorder: Recorder
) -> None:
    with recorder.measure("block") as measured:
        publish(probe, "app.send")
        publish(probe, "app.send", group="send.many(ids)")
    assert measured.span is not None
    assert [t.fix for t in measured.span.tallies] == [
        "publish one send for all ids, or publish them as a group",
        "publish one send for all ids, or send.many(ids)",
    ]


def test_a_queue_that_is_added_is_started_at_once_and_stopped_with_the_others(
    probe: TaskProbe, recorder: Recorder
) -> None:
    class Queue:
        def __init__(self) -> None:
            self.diary: list[str] = []

        def start(self, started: TaskProbe) -> None:
            assert started is probe
            self.diary.append("start")

        def stop(self) -> None:
            self.diary.append("stop")

    queue = Queue()
    for _ in range(2):
        recorder.probe(TaskProbe).add(queue)
    assert queue.diary == ["start"]
    recorder.stop()
    assert queue.diary == ["start", "stop"]


def test_a_recorder_without_the_probe_gets_it() -> None:
    with Recorder(probes=[]) as recorder:
        added = recorder.probe(TaskProbe)
        assert recorder.probe(TaskProbe) is added


class Broken:
    """A queue that does not start, or does not stop."""

    def __init__(self, broken: str) -> None:
        self.broken = broken

    def start(self, _: TaskProbe) -> None:
        if self.broken == "start":
            raise RuntimeError("start")

    def stop(self) -> None:
        if self.broken == "stop":
            raise RuntimeError("stop")


def test_a_queue_that_does_not_start_is_not_listened_to(
    probe: TaskProbe, recorder: Recorder
) -> None:
    with pytest.raises(RuntimeError):
        probe.add(Broken("start"))
    recorder.start()


def test_a_queue_that_does_not_stop_keeps_no_other_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopped: list[str] = []
    said: list[str] = []

    class Log:
        def warning(self, text: str, *values: object, **_: object) -> None:
            said.append(text % values)

    # What other tests do to logging in this process is their affair.
    monkeypatch.setattr("pytest_perfguard.probes.tasks._log", Log())

    class Good:
        def start(self, _: TaskProbe) -> None:
            """Do nothing."""

        def stop(self) -> None:
            stopped.append("good")

    probe = TaskProbe([Broken("stop"), Good()])
    with Recorder(probes=[probe]) as recorder:
        pass
    assert stopped == ["good"]
    assert recorder.watchers == []
    assert [line for line in said if "perfguard: Broken.stop() failed" in line]


def test_a_task_inside_one_of_the_same_identity_ends_by_itself(
    probe: TaskProbe, recorder: Recorder
) -> None:
    with recorder.measure("block") as measured:
        for name in ("app.outer", "app.inner"):
            publish(probe, name)
            probe.begin(name, ("a", 0))
        probe.end(("a", 0), "failure", "ValueError")
        probe.end(("a", 0))
        assert recorder.innermost() is measured.opened
    assert counts(measured) == {"published": 2, "runs": 2, "retries": 0, "failures": 1}
    assert measured.span is not None
    (outer,) = measured.span.children
    assert [child.name for child in (outer, *outer.children)] == [
        "task app.outer", "task app.inner",
    ]  # fmt: skip
    assert [[t.kind for t in each.tallies if not t.count] for each in (outer, *outer.children)] == [
        ["run"], ["failure"],
    ]  # fmt: skip


def test_tasks_of_the_same_identity_in_two_threads_end_in_their_own(
    probe: TaskProbe, recorder: Recorder
) -> None:
    with ThreadPoolExecutor(1) as pool, recorder.measure("block") as measured:
        probe.begin("app.here", ("a", 0))
        pool.submit(probe.begin, "app.there", ("a", 0)).result()
        probe.end(("a", 0), "failure")
        pool.submit(probe.end, ("a", 0), "retry").result()
    assert measured.span is not None
    ends = {span.name: t.kind for span in measured.span.walk() for t in span.tallies}
    assert ends == {"task app.here": "failure", "task app.there": "retry"}


@pytest.mark.parametrize("name", ["\x1b[31mred\x1b[0m\nFAILED \u202eapp.send", "x" * 10_000])
def test_the_name_of_a_task_is_safe_to_show(
    probe: TaskProbe, recorder: Recorder, name: str
) -> None:
    with recorder.measure("block") as measured:
        publish(probe, name)
        probe.begin(name, "a")
        probe.end("a", "failure", name)
    assert measured.span is not None
    texts = [
        text
        for each in measured.span.walk()
        for t in each.tallies
        for text in (each.name, t.operation, t.label, t.fix, t.subject)
        if text
    ] + [moment.label for each in measured.span.walk() for moment in each.timeline]
    assert all(text.isprintable() and len(text) < 300 for text in texts), texts


class Gone:
    """A post whose broker dies."""

    def __init__(self) -> None:
        self.asked = 0

    def receive(self, timeout: float) -> Iterable[Mapping[str, Any]]:
        self.asked += 1
        raise ConnectionError(f"ConnectionResetError after {timeout > 0}")

    def close(self) -> None:
        """Do nothing."""


def test_runs_that_a_dead_broker_cannot_tell_of_are_unproven(
    probe: TaskProbe, recorder: Recorder
) -> None:
    measured = asking(recorder)
    publish(probe, key="a")
    probe.post = post = Gone()
    frozen = measured.close()
    assert counts(measured) == {"published": 1}
    assert post.asked == 1
    told = frozen.facts["task_runs"]
    assert "the connection to the broker was lost (ConnectionResetError" in told
    with recorder.measure("next") as after:
        pass
    assert counts(after)["runs"] == 0
    assert probe.post is None


class Fails:
    """A watcher that fails, or takes note."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.told: list[str] = []

    def opened(self, _: OpenSpan) -> None:
        """Do nothing."""

    def closed(self, span: OpenSpan) -> None:
        self.told.append(span.name)
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("error", [OSError(), KeyboardInterrupt()])
def test_a_span_is_closed_even_if_a_watcher_fails(recorder: Recorder, error: BaseException) -> None:
    recorder.watchers += [broken := Fails(error), good := Fails()]
    around, inside = recorder.open("around", "block"), recorder.open("inside", "block")
    with pytest.raises(type(error)):
        recorder.close(inside)
    assert recorder.innermost() is around
    recorder.open("inside", "block")
    with pytest.raises(type(error)):
        recorder.abandon()
    assert recorder.innermost() is None
    assert broken.told == good.told == ["inside", "inside", "around"]
    recorder.abandon()


def test_a_task_that_is_replaced_in_a_worker_has_run_twice(
    probe: TaskProbe, recorder: Recorder
) -> None:
    """Its replacement is published under its own identity."""
    with ThreadPoolExecutor(1) as pool:
        measured = asking(recorder)
        publish(probe, "app.first", key="a")

        def work() -> None:
            probe.begin("app.first", ("a", 0), sent="a")
            publish(probe, "app.second", key="a")
            probe.end(("a", 0), sent="a")
            probe.begin("app.second", ("a", 0), sent="a")
            probe.end(("a", 0), sent="a")

        pool.submit(work).result()
        measured.close()
    assert counts(measured) == {"published": 2, "runs": 2, "retries": 0, "failures": 0}


def test_a_worker_tells_that_a_task_was_replaced(probe: TaskProbe, recorder: Recorder) -> None:
    """It knows nothing of the message that its task was published by."""
    block = recorder.open("worker", "block", asked=frozenset(NEED_RUNS))
    probe.begin("app.first", ("a", 0), sent="a")
    publish(probe, "app.second", key="a")
    probe.end(("a", 0), sent="a")
    assert [sent.name for sent in probe.take_sent(block).values()] == ["app.second"]
    recorder.close(block)


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_the_replacement_of_a_task_is_waited_for(
    probe: TaskProbe, recorder: Recorder, early: bool, known: bool
) -> None:
    measured = asking(recorder)
    publish(probe, key="a")
    first = record("a", sent=[["a", "app.second", None]])
    second = record("a", state="failure", task="app.second")
    batch = [first, second] if known else [first]
    probe.post = Post(*([[each] for each in (reversed(batch) if early else batch)]))
    measured.close()
    expected = {"published": 1, "runs": 2, "retries": 0, "failures": 1}
    assert counts(measured) == (expected if known else {"published": 1})


def test_an_inbox_whose_broker_has_gone_says_so_and_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("kombu")
    import kombu

    class App:
        def connection_for_read(self) -> Any:
            connection = kombu.Connection("memory://")
            connection.transport.driver_type = "other"
            made.append(connection)
            return connection

    def lost(*_: object, **__: object) -> None:
        raise made[0].connection_errors[0]

    made: list[Any] = []
    monkeypatch.setattr(kombu.Connection, "drain_events", lost)
    post = CeleryPost()
    assert post.reply(App())
    with pytest.raises(ConnectionError, match=made[0].connection_errors[0].__name__):
        post.receive(0.01)
    monkeypatch.setattr(made[0], "release", lost)
    post.close()


def test_what_is_published_is_surrounded_until_it_is_stopped() -> None:
    pytest.importorskip("kombu")
    import kombu

    diary: list[str] = []

    @contextmanager
    def around() -> Iterator[None]:
        diary.append("in")
        yield
        diary.append("out")

    original = kombu.Producer.publish
    publishing = Publishing(around)
    with kombu.Connection("memory://") as connection:
        for _ in range(2):
            publishing.start()
        kombu.Producer(connection).publish({}, routing_key="nobody's")
        assert diary == ["in", "out"]
        publishing.stop()
        kombu.Producer(connection).publish({}, routing_key="nobody's")
    assert diary == ["in", "out"]
    assert kombu.Producer.publish is original


def test_a_task_that_is_replaced_is_waited_for_until_it_ends(
    probe: TaskProbe, recorder: Recorder
) -> None:
    """The span around it may be closing when the replacement is published."""
    measured = asking(recorder)
    publish(probe, "app.first", key="a")
    with ThreadPoolExecutor(1) as pool:

        def begin() -> None:
            probe.begin("app.first", ("a", 0), sent="a")
            publish(probe, "app.second", key="a")

        def end() -> None:
            probe.end(("a", 0), sent="a")
            probe.begin("app.second", ("a", 0), sent="a")
            probe.end(("a", 0), sent="a")

        class Late:
            """Is asked only if the runs are still waited for."""

            def receive(self, timeout: float) -> Iterable[Mapping[str, Any]]:
                assert timeout >= 0
                pool.submit(end).result()
                return ()

            def close(self) -> None:
                """Do nothing."""

        pool.submit(begin).result()
        probe.post = Late()
        measured.close()
    assert counts(measured) == {"published": 2, "runs": 2, "retries": 0, "failures": 0}
