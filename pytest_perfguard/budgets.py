"""Budgets: reading them from marks and ini lines, and judging a span by them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from pytest_perfguard.errors import LimitError, MetricError, MissingExtraError, SettingError
from pytest_perfguard.metrics import METRICS, Metric, lookup
from pytest_perfguard.model import Level, Rule, Span, Status, Verdict
from pytest_perfguard.units import parse

# A method, or * for any, before a path.
_ENDPOINT = re.compile(r"(?:[A-Z]+|\*) [/*]")
_BUDGET_LINE = re.compile(r"(?:(?P<pattern>.+?)\s*:\s*)?(?P<limits>\w+\s*=.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit for one metric.

    Attributes:
        limit: in the metric's base unit.
        where: what set it and where, e.g. ``perf_budget, tests/test_api.py:9``.
        rule: the ini or command-line line that it came from, if it was not written on the test.
    """

    metric: Metric
    limit: float
    where: str
    level: Level = Level.FAIL
    rule: str | None = None


def read_limits(
    limits: Mapping[str, object], where: str, mistakes: list[str], rule: str | None = None
) -> list[Budget]:
    """Return the budgets of ``{"sql_queries": 3, ...}``; what is wrong goes to ``mistakes``."""
    budgets = []
    for name, value in limits.items():
        try:
            metric = lookup(name)
            budgets.append(Budget(metric, parse(value, metric.unit), where, rule=rule))
        except MetricError as error:
            mistakes.append(f"{where}: {error}")
        except LimitError as error:
            mistakes.append(f"{where}: {name}: {error}")
    return budgets


def matches(pattern: str, nodeid: str) -> bool:
    """Return whether a pattern covers a test.

    It is compared with the node id and with its path; ``*`` and ``?`` are the only wildcards,
    since node ids hold brackets, ``*`` crosses slashes, and a directory covers all below it.
    """
    path = nodeid.partition("::")[0]
    pattern = pattern.replace("[", "[[]")
    return (
        fnmatchcase(nodeid, pattern)
        or fnmatchcase(path, pattern)
        or fnmatchcase(path, f"{pattern.rstrip('/')}/*")
    )


def is_endpoint(pattern: str) -> bool:
    """Return whether a pattern, or the line that begins with it, is about requests."""
    return _ENDPOINT.match(pattern) is not None


@dataclass(slots=True)
class BudgetRule:
    """A line of ``perfguard_budgets``; ``tests`` counts those, or the requests, that it covers."""

    line: str
    pattern: str
    budgets: tuple[Budget, ...]
    tests: int = 0

    @property
    def is_endpoint(self) -> bool:
        """Whether it is about requests such as ``GET /api/*``, not about tests."""
        return is_endpoint(self.pattern)


@dataclass(frozen=True, slots=True)
class LevelRule:
    """A line of ``perfguard_level``; without a metric or a rule it is about all of them."""

    pattern: str
    metric: str | None
    level: Level
    rule: Rule | None = None

    def covers(self, nodeid: str, endpoint: str | None) -> bool:
        """Return whether it is about a test, or about an endpoint that a test called."""
        if is_endpoint(self.pattern):
            return endpoint is not None and matches_endpoint(self.pattern, endpoint)
        return matches(self.pattern, nodeid)


def matches_endpoint(pattern: str, name: str) -> bool:
    """Return whether ``GET /api/*`` covers a request's name; ``*`` crosses slashes."""
    return fnmatchcase(name, pattern.replace("[", "[[]"))


@dataclass(slots=True)
class Rules:
    """The suite's defaults.

    Raises:
        SettingError: from :meth:`read`, with every mistake in every line.
    """

    budgets: list[BudgetRule] = field(default_factory=list)
    levels: list[LevelRule] = field(default_factory=list)

    @classmethod
    def read(cls, budget_lines: Iterable[str], level_lines: Iterable[str]) -> Rules:
        """Read the lines of ``perfguard_budgets`` and ``perfguard_level``."""
        mistakes: list[str] = []
        budgets = [_budget_rule(line, mistakes) for line in budget_lines]
        levels = [_level_rule(line, mistakes) for line in level_lines]
        rules = cls([rule for rule in budgets if rule], [rule for rule in levels if rule])
        if mistakes:
            raise SettingError("\n".join(mistakes))
        return rules

    def defaults(self, nodeid: str, *, count: bool = True) -> dict[str, Budget]:
        """Return the budgets that the rules give a test, by metric; later lines win.

        Args:
            count: count the test among those that the rules cover.
        """
        found: dict[str, Budget] = {}
        for rule in self.budgets:
            if not rule.is_endpoint and matches(rule.pattern, nodeid):
                rule.tests += count
                found |= {budget.metric.name: budget for budget in rule.budgets}
        return found

    @property
    def requested(self) -> frozenset[str]:
        """What budgets of requests are about that is only measured on request."""
        return requested(
            budget for rule in self.budgets if rule.is_endpoint for budget in rule.budgets
        )

    @property
    def endpoints(self) -> bool:
        """Whether any rule is about requests."""
        return any(rule.is_endpoint for rule in self.budgets)

    def endpoint(self, name: str, *, count: bool = False) -> list[Budget]:
        """Return the budgets of a request such as ``GET /api/users/{id}``; later lines win.

        Args:
            count: count the request among those that the rules cover.
        """
        found: dict[str, Budget] = {}
        for rule in self.budgets:
            if rule.is_endpoint and matches_endpoint(rule.pattern, name):
                rule.tests += count
                found |= {budget.metric.name: budget for budget in rule.budgets}
        return list(found.values())

    def level(
        self,
        nodeid: str,
        metric: str,
        endpoint: str | None = None,
        judged_by: Rule = Rule.BUDGET,
    ) -> Level:
        """Return what a breach of the metric does in a test; later lines win."""
        level = Level.FAIL
        for rule in self.levels:
            if (
                rule.metric in (None, metric)
                and rule.rule in (None, judged_by)
                and rule.covers(nodeid, endpoint)
            ):
                level = rule.level
        return level


def _budget_rule(line: str, mistakes: list[str]) -> BudgetRule | None:
    where = f"perfguard_budgets, {line!r}"
    match = _BUDGET_LINE.fullmatch(line.strip())
    if not match:
        mistakes.append(f"{where}: write 'PATTERN: METRIC=LIMIT, METRIC=LIMIT'")
        return None
    limits: dict[str, object] = {}
    for part in match["limits"].split(","):
        name, equals, value = part.partition("=")
        if part.strip() and not equals:
            mistakes.append(f"{where}: {part.strip()!r} has no limit: write METRIC=LIMIT")
        elif part.strip():
            limits[name.strip()] = value.strip().strip("'\"")
    pattern = match["pattern"] or "*"
    return BudgetRule(line, pattern, tuple(read_limits(limits, where, mistakes, rule=line)))


def _level_rule(line: str, mistakes: list[str]) -> LevelRule | None:
    where = f"perfguard_level, {line!r}"
    selector, _, level = (part.strip() for part in line.rpartition(":"))
    words = selector.split()
    metric = words.pop() if words and words[-1] in METRICS else None
    rule = _RULES[words.pop()] if words and words[-1] in _RULES else None
    if level not in tuple(Level):
        mistakes.append(
            f"{where}: {level!r} is not a level: write 'PATTERN METRIC: fail' or 'warn'"
        )
    elif len(words) > 1 and not is_endpoint(" ".join(words)):
        mistakes.append(f"{where}: write 'PATTERN METRIC: LEVEL'")
    elif len(words) == 1 and words[0].isidentifier() and metric is rule is None:
        try:
            lookup(words[0])
        except MetricError as error:
            mistakes.append(f"{where}: {error} A directory is written '{words[0]}/'.")
    else:
        return LevelRule(" ".join(words) or "*", metric, Level(level), rule)
    return None


# What a line may name in place of a metric, or before it.
_RULES = {"budgets": Rule.BUDGET, "baselines": Rule.BASELINE}


# What has to be installed for a probe to listen, and what it then did not hear.
_SOURCES = {
    "sql": ("sqlalchemy", "no SQL"),
    "cache": ("redis 5 or newer", "no command to a cache"),
    "http": ("", "no request"),
    "time": ("", "no timed call"),
    # They need no library to listen; what does says so in the span's facts.
    "process": ("", "nothing of the process"),
    "loop": ("", "no running event loop"),
    "tasks": ("celery", "no task"),
    "load": ("", "no load of perf.load"),
    "prometheus": ("", "no limit of perf.prometheus"),
}


def requested(budgets: Iterable[Budget]) -> frozenset[str]:
    """Return the metrics among the budgets that are only measured on request."""
    return frozenset(budget.metric.name for budget in budgets if budget.metric.on_request)


def judge(span: Span, budgets: Iterable[Budget], unproven: Level) -> tuple[Verdict, ...]:
    """Return a verdict for each budget.

    Where nothing was observed that the metric is about, a limit of 0 is kept, and any other is
    *unproven*: a test that has come loose from what it guards must not stay green. A limit that
    was set for many tests by a pattern only informs then, since it cannot know which of them
    have anything to observe.

    Args:
        unproven: what an unproven budget does.
    """
    return tuple(_verdict(span, budget, unproven) for budget in budgets)


def _verdict(span: Span, budget: Budget, unproven: Level) -> Verdict:
    metric = budget.metric
    value = metric.measure(span)
    status, level, reason = Status.OK, budget.level, ""
    if not metric.observed(span):
        # Where nobody listened, not even a limit of 0 is proved.
        if (
            budget.limit
            or metric.higher_is_better
            or metric.probe not in span.probes
            or (value is None and any(p.notes or metric.name in p.facts for p in span.walk()))
        ):
            status = Status.UNPROVEN
            level = Level.WARN if budget.rule or Level.WARN in (level, unproven) else Level.FAIL
            reason = _why_unproven(metric, span)
    elif value is not None and not metric.keeps(value, budget.limit):
        status = Status.OVER
    return Verdict(metric.name, span.name, value, budget.limit, status, level, budget.where, reason)


def _why_unproven(metric: Metric, span: Span) -> str:
    told = [part.facts[metric.name] for part in span.walk() if metric.name in part.facts]
    if told:
        return told[0]
    library, what = _SOURCES[metric.probe]
    if library and metric.probe not in span.probes:
        return str(MissingExtraError(library, metric.probe))
    if metric.measure(span) is None and metric.probe == "sql":
        notes = [note for part in span.walk() for note in part.notes]
        return "; ".join(dict.fromkeys(notes)) or f"nothing was observed for it in {span.name}"
    what = metric.needs or what
    return f"{what} was observed in {span.name}, so the budget proves nothing"
