"""The data that flows through perfguard: plain, frozen, and the same on both sides of a pipe.

A :class:`Record` says what one test did and how it was judged; a :class:`Run` is all records of
a session and where they were made. ``to_dict`` gives plain JSON data and ``from_dict`` reads it
back, so a record survives the way from an xdist worker and a run the way through ``run.json``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum
from typing import Any, Self

SCHEMA_VERSION = 2


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, StrEnum):
        return str(value)
    if isinstance(value, Mapping):
        return {_plain(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return encodable(value) if isinstance(value, str) else value


def encodable(text: str) -> str:
    """Return the text as it can be sent through a pipe or written into a file.

    A lone surrogate in a statement or a node id would break either.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class _Data:
    """Gives a frozen dataclass its plain form."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Return this object as JSON data: dicts, lists, strings, numbers, booleans and None."""
        plain: dict[str, Any] = _plain(self)
        return plain


@dataclass(frozen=True, slots=True)
class Site(_Data):
    """A line of the user's own code.

    Attributes:
        file: path below the root directory with forward slashes, or absolute outside it.
        line: 1-based.
        function: qualified name of the function that the line belongs to.
        end_line: last line of the same expression (equal to ``line`` for most).
        through: library function that the line called and that ran the operation, if it was not
            the probed library itself, e.g. ``pydantic.main.BaseModel.model_validate``.
        callers: the user's lines that led here, nearest first, as ``file:line in function``.
    """

    file: str
    line: int
    function: str
    end_line: int
    through: str | None = None
    callers: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote."""
        return cls(**{**data, "callers": tuple(data["callers"])})


@dataclass(frozen=True, slots=True)
class Tally(_Data):
    """All events of one operation from one line within one span, added up.

    Attributes:
        probe: who saw it, e.g. ``sql``.
        operation: what was done, without any value, e.g. a statement with ``?`` for literals.
        kind: class of the operation, as the probe defines it (SQL: ``read``, ``write``, ...).
        label: short name for time lines, e.g. ``SELECT users``.
        site: line that did it, or None where no line of the user's code was on the stack.
        subject: what it was done for, e.g. ``Resource.owner`` for a lazy load.
        fix: what to write instead when it repeats; code that can be pasted where possible.
        facts: what else the probe knows, by name: ``cause`` (``lazy``, ``refresh``), ``error`` of
            a failed statement, ``plan`` of one that scans a table, ``sort`` of one that sorts it,
            ``asked`` what they ask of it, ``index`` what would help, ``indexes`` that are used,
            ``through`` which library it came where no line of the user's code was on the stack.
        count: logical operations.
        repeats: those of ``count`` that could have been part of a batch.
        distinct: different parameter sets among ``repeats``.
        duplicates: operations that asked again for what the same span had asked for already.
        sums: totals by name, e.g. ``roundtrips``, ``rows``, ``seconds``, ``errors``.
        peaks: highest single values by name, e.g. ``seconds``.
        samples: parameters of the first operations; only kept when the user asked for them.
    """

    probe: str
    operation: str
    kind: str
    label: str
    site: Site | None = None
    subject: str | None = None
    fix: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    count: int = 0
    repeats: int = 0
    distinct: int = 0
    duplicates: int = 0
    sums: Mapping[str, float] = field(default_factory=dict)
    peaks: Mapping[str, float] = field(default_factory=dict)
    samples: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote."""
        site = data["site"]
        return cls(
            **{
                **data,
                "site": None if site is None else Site.from_dict(site),
                "samples": tuple(data["samples"]),
            }
        )


@dataclass(frozen=True, slots=True)
class Moment(_Data):
    """An entry of a span's time line: ``count`` operations in a row of the same label.

    Times are in seconds; ``start`` counts from the beginning of the outermost span.
    """

    label: str
    count: int
    start: float
    seconds: float

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote."""
        return cls(**data)


@dataclass(frozen=True, slots=True)
class Finding(_Data):
    """A pattern worth a look: a candidate, never a proof.

    Attributes:
        metric: the metric that counts it, e.g. ``sql_n_plus_one``.
        tally: the evidence.
        weight: how much of the metric's value it makes up.
        waiver: the reason that an inline waiver gives; a waived finding is not counted.
    """

    metric: str
    tally: Tally
    weight: int
    waiver: str | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote."""
        return cls(**{**data, "tally": Tally.from_dict(data["tally"])})


@dataclass(frozen=True, slots=True)
class Span(_Data):
    """Something that was measured: a test's call phase, a named block, a request.

    An event belongs to the innermost span that was open where it happened, so a span's own
    tallies exclude those of its ``children``; :meth:`walk` gives both.

    Attributes:
        kind: ``test``, ``block``, ``request``, ``task`` (one try of a background task),
            ``call`` (a function that is timed), ``load`` (users of ``perf.load``) or ``endpoint``
            (what one got of a load).
        start: when it was opened, in seconds since the outermost span was.
        seconds: wall time from opening to closing.
        calls: how many spans this one stands for; more than 1 where many were folded into one.
        peaks: highest levels by name, e.g. ``pool_peak``.
        probes: names of the probes that listened.
        facts: what explains the value of a metric, in words, by the metric's name.
        timing: what its timed rounds took, as ``timing.Summary`` gives it; they are not part of
            ``seconds`` or of anything that is counted.
        growth: what was measured with more and more data, by metric, as ``perf.scales`` gives it.
        timeline_dropped: operations that no longer fitted into ``timeline``.
    """

    name: str
    kind: str
    start: float = 0.0
    seconds: float = 0.0
    calls: int = 1
    tallies: tuple[Tally, ...] = ()
    peaks: Mapping[str, float] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    timeline: tuple[Moment, ...] = ()
    timeline_dropped: int = 0
    probes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    timing: Mapping[str, Any] | None = None
    growth: Mapping[str, Any] | None = None
    children: tuple[Span, ...] = ()

    def walk(self) -> Iterator[Span]:
        """Yield this span and every span below it."""
        yield self
        for child in self.children:
            yield from child.walk()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote."""
        return cls(
            **{
                **data,
                "tallies": tuple(Tally.from_dict(item) for item in data["tallies"]),
                "findings": tuple(Finding.from_dict(item) for item in data["findings"]),
                "timeline": tuple(Moment.from_dict(item) for item in data["timeline"]),
                "probes": tuple(data["probes"]),
                "notes": tuple(data["notes"]),
                "children": tuple(cls.from_dict(item) for item in data["children"]),
            }
        )


class Level(StrEnum):
    """What a breach does to the test."""

    FAIL = "fail"
    WARN = "warn"


class Status(StrEnum):
    """The outcome of judging one metric, by a budget or by a baseline."""

    OK = "ok"
    OVER = "over budget"
    REGRESSED = "regressed"
    IMPROVED = "improved"
    CHANGED = "changed"
    NEW = "new"
    UNPROVEN = "unproven"
    UNDECIDED = "undecided"


_AGAINST = (Status.OVER, Status.REGRESSED, Status.UNPROVEN, Status.UNDECIDED)


class Rule(StrEnum):
    """What a metric was judged by."""

    BUDGET = "budget"
    BASELINE = "baseline"
    TIMES = "stored times"


@dataclass(frozen=True, slots=True)
class Verdict(_Data):
    """One metric of one span against its limit.

    ``value`` and ``limit`` are in the metric's base unit; ``value`` is None where nothing was
    observed. ``where`` says where the limit was written, ``reason`` why it is unproven.

    Attributes:
        rule: whether ``limit`` is a budget or what a baseline holds.
        changes: what differs from the baseline, one operation a line.
        waiver: why a breach is tolerated and until when; it is none then.
    """

    metric: str
    span: str
    value: float | None
    limit: float
    status: Status
    level: Level
    where: str
    reason: str = ""
    rule: Rule = Rule.BUDGET
    changes: tuple[str, ...] = ()
    waiver: str = ""

    @property
    def breached(self) -> bool:
        """Whether the limit was not shown to be kept, and nobody tolerates it."""
        return self.status in _AGAINST and not self.idle and not self.waiver

    @property
    def idle(self) -> bool:
        """Whether it is a default of a whole suite that met a test with nothing to observe."""
        return self.status is Status.UNPROVEN and self.where.startswith("perfguard_budgets")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote."""
        known = {**data, "status": Status(data["status"]), "level": Level(data["level"])}
        if "rule" in data:
            known |= {"rule": Rule(data["rule"]), "changes": tuple(data["changes"])}
        return cls(**known)


@dataclass(frozen=True, slots=True)
class Record(_Data):
    """What one test did and how it was judged.

    Attributes:
        outcome: of the call phase: ``passed``, ``failed`` or ``skipped``.
        span: the measured phase, with the blocks and requests inside it.
        metrics: every metric of the span that was observed, in base units.
        errors: mistakes that make the judgement void, such as a waiver without a reason.
        waivers: inline waivers that were passed, as ``file:line metric``, and whether each one
            covered a finding.
        engines: one label for each database engine seen, e.g. ``postgresql+psycopg``, by an
            identity that holds within one process.
        baseline: the file that holds the test's baseline, or will when it has one; empty for a
            test that has none to be compared with.
        is_new: there was nothing in that file to compare the test with.
        line: of the test, in the file that its node id begins with; 0 where it is not known.
        raised: class of the exception by which the test failed for a reason of its own, whatever
            was judged besides.
    """

    nodeid: str
    outcome: str
    span: Span
    metrics: Mapping[str, float] = field(default_factory=dict)
    verdicts: tuple[Verdict, ...] = ()
    errors: tuple[str, ...] = ()
    waivers: Mapping[str, bool] = field(default_factory=dict)
    engines: Mapping[str, str] = field(default_factory=dict)
    baseline: str = ""
    is_new: bool = False
    line: int = 0
    raised: str = ""

    @property
    def breaches(self) -> tuple[Verdict, ...]:
        """The verdicts that are against the test, at whichever level."""
        return tuple(verdict for verdict in self.verdicts if verdict.breached)

    @property
    def fails(self) -> bool:
        """Whether the test has to fail: for a breach at level ``fail``, or for a mistake."""
        return bool(self.errors) or any(v.level is Level.FAIL for v in self.breaches)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote."""
        return cls(
            **{
                **data,
                "span": Span.from_dict(data["span"]),
                "verdicts": tuple(Verdict.from_dict(item) for item in data["verdicts"]),
                "errors": tuple(data["errors"]),
            }
        )


@dataclass(frozen=True, slots=True)
class Run(_Data):
    """All records of a session, what is to be said of all of them, and where they were made.

    Attributes:
        environment: interpreter, system and versions that the numbers depend on.
        source: of what and when: ``commit``, ``branch``, ``dirty``, ``folder`` (the root directory
            below the top of the repository) and ``started`` (ISO 8601, UTC), as far as they are
            known.
        tests: how many tests were found, measured or not.
        notices: what is to be said of the suite as a whole; warnings begin with ``warning:``.
        lost: node ids of tests that were measured by a process which died with what it knew.
        trends: how the numbers went over the last runs, where a history is kept; see
            :func:`pytest_perfguard.trends.drawable`.
        profiles: of tests that were run once more under a profiler, by node id: stacks and seconds
            as ``stacks.Profile`` gives them, small enough to be kept, the one to look at first.
    """

    schema: int = SCHEMA_VERSION
    environment: Mapping[str, str] = field(default_factory=dict)
    source: Mapping[str, str] = field(default_factory=dict)
    tests: int = 0
    notices: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    records: tuple[Record, ...] = ()
    trends: Mapping[str, Any] = field(default_factory=dict)
    profiles: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)

    @property
    def fails(self) -> bool:
        """Whether any test of it has to fail, or was lost and so not judged."""
        return bool(self.lost) or any(record.fails for record in self.records)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote."""
        return cls(
            **{
                **data,
                "notices": tuple(data["notices"]),
                "lost": tuple(data["lost"]),
                "records": tuple(Record.from_dict(item) for item in data["records"]),
                "profiles": {
                    nodeid: tuple(kept) for nodeid, kept in data.get("profiles", {}).items()
                },
            }
        )
