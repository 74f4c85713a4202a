"""Budgets of caches, watched caches of the process, and what reports say of caches."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from xml.etree import ElementTree as ET

import pytest

from pytest_perfguard import read_run
from pytest_perfguard.model import Record, Span, Tally
from tests.integration.cached_shop import write

Run = Callable[..., pytest.RunResult]
Failed = Callable[[pytest.RunResult], list[str]]
Records = Callable[[], dict[str, Record]]

IMPORTS = """
import functools
from types import SimpleNamespace

import pytest, shop
from pytest_perfguard import CacheError

from cached_shop import NAME, cached, client, flush, load


def look_up(hits, misses):
    '''As many lookups of each outcome.'''
    client.set(f"{NAME}:there", "x", ex=60)
    for _ in range(hits):
        client.get(f"{NAME}:there")
    for _ in range(misses):
        client.get(f"{NAME}:absent")
"""


@pytest.fixture
def name(pytester: pytest.Pytester) -> str:
    """Write the shop with its cache; the name under which its keys stand."""
    return write(pytester)


@pytest.fixture
def suite(pytester: pytest.Pytester, name: str) -> Callable[[str], None]:
    """Write a test file that has everything imported."""

    def make(text: str) -> None:
        (pytester.path / "test_calls.py").write_text(f"{IMPORTS}\n{text}", encoding="utf-8")

    return make


def tallies(span: Span, kind: str | None = None) -> list[Tally]:
    """Return what the cache probe saw in a span and not in those inside it."""
    return [t for t in span.tallies if t.probe == "cache" and kind in (None, t.kind)]


def in_process(span: Span) -> dict[str, tuple[float, float]]:
    """Return hits and misses of each watched cache in a span."""
    return {
        t.label: (t.sums.get("hits", 0), t.sums.get("misses", 0)) for t in tallies(span, "memory")
    }


# -- floors and ceilings ------------------------------------------------------------------------


def test_a_hit_ratio_is_a_floor_wherever_it_is_written(
    pytester: pytest.Pytester, suite: Callable[[str], None], run: Run, failed: Failed
) -> None:
    suite(
        """
@pytest.mark.perf_budget(cache_hit_ratio="80%")
def test_mark_over():
    look_up(1, 1)


@pytest.mark.perf_budget(cache_hit_ratio=0.8)
def test_mark_kept():
    look_up(4, 1)


def test_line_over():
    look_up(3, 1)


def test_line_kept():
    look_up(9, 1)


def test_block_over(perf):
    with perf.measure("look up", cache_hit_ratio="100%", cache_hits=4):
        look_up(3, 1)


def test_block_kept(perf):
    look_up(0, 9)
    with perf.measure("look up", cache_hit_ratio="75%", cache_hits=3, cache_misses=1) as m:
        look_up(3, 1)
    assert m["cache_hit_ratio"] == 0.75


@pytest.mark.perf_budget(cache_misses=1)
def test_ceiling_over():
    look_up(0, 2)
"""
    )
    pytester.makeini("[pytest]\nperfguard_budgets = *test_line_*: cache_hit_ratio=90%\n")

    result = run()

    assert failed(result) == [
        "test_block_over", "test_ceiling_over", "test_line_over", "test_mark_over",
    ]  # fmt: skip
    where = len(IMPORTS.splitlines()) + 3
    output = result.stdout.str()
    assert f"  cache_hit_ratio  50 % < 80 %   perf_budget, test_calls.py:{where}\n" in output
    assert "  cache_hit_ratio  75 % < 90 %   perfguard_budgets" in output
    assert "  cache_hit_ratio  75 % < 100 %   perf.measure, test_calls.py:" in output
    assert "  cache_hits              3 < 4   perf.measure, test_calls.py:" in output
    assert "  cache_misses  2 > 1   perf_budget, test_calls.py:" in output
    assert re.search(
        r"\nGET resources_\w+:\{word\}: 1 of 2 lookups hit\n"
        r"    at test_calls\.py:\d+ in look_up\n", output,
    ) or re.search(r"\nGET resources_\w+:\{word\}: 0 of 1 lookups hit\n", output)  # fmt: skip


def test_a_floor_without_a_lookup_is_not_proved(
    pytester: pytest.Pytester, suite: Callable[[str], None], run: Run, failed: Failed
) -> None:
    suite(
        """
@pytest.mark.perf_budget(cache_hit_ratio="80%")
def test_no_command():
    shop.get_email(1)


@pytest.mark.perf_budget(cache_hit_ratio="80%")
def test_no_lookup():
    client.set(NAME, "x", ex=60)


@pytest.mark.perf_budget(cache_hits=1)
def test_no_hits():
    shop.get_email(1)


@pytest.mark.perf_budget(cache_misses=0, cache_errors=0)
def test_ceilings_of_zero():
    shop.get_email(1)


@pytest.mark.perf_budget(cache_misses=1)
def test_other_ceilings():
    shop.get_email(1)


def test_block(perf):
    look_up(9, 0)
    with perf.measure("empty", cache_hit_ratio="1%"):
        pass


def test_by_line():
    shop.get_email(1)
"""
    )
    pytester.makeini("[pytest]\nperfguard_budgets = *test_by_line: cache_hit_ratio=90%\n")

    result = run()

    assert failed(result) == [
        "test_block", "test_no_command", "test_no_hits", "test_no_lookup", "test_other_ceilings",
    ]  # fmt: skip
    nothing = "so the budget proves nothing"
    result.stdout.fnmatch_lines_random(
        [
            "perfguard: 1 of 1 budget unproven in test_no_lookup",
            "  cache_hit_ratio  unproven (limit 80 %)   perf_budget, test_calls.py:*",
            f"      no lookup in a cache was observed in test_no_lookup, {nothing}",
            f"      no lookup in a cache was observed in test_no_command, {nothing}",
            f"      no command to a cache was observed in test_no_hits, {nothing}",
        ]
    )


def test_every_other_metric_of_commands_can_be_a_budget(
    suite: Callable[[str], None], run: Run, failed: Failed, name: str
) -> None:
    suite(
        """
import asyncio


@pytest.mark.perf_budget(cache_n_plus_one=0)
def test_n_plus_one():
    for number in range(6):
        client.get(f"{NAME}:{number}")


@pytest.mark.perf_budget(cache_n_plus_one=0)
def test_waived():
    for number in range(6):
        client.get(f"{NAME}:{number}")  # perfguard: ignore[cache_n_plus_one] six at most


@pytest.mark.perf_budget(cache_commands=2, cache_roundtrips=1)
def test_commands():
    with client.pipeline() as pipeline:
        for number in range(3):
            pipeline.get(f"{NAME}:{number}")
        pipeline.execute()


@pytest.mark.perf_budget(cache_bytes="1kB")
def test_bytes():
    client.set(NAME, "x" * 2000, ex=60)


@pytest.mark.perf_budget(cache_writes_without_ttl=0)
def test_lasting():
    client.set(f"{NAME}:7", "x")


@pytest.mark.perf_budget(cache_writes_without_ttl=0)
def test_not_lasting():
    client.set(f"{NAME}:7", "x")
    client.expire(f"{NAME}:7", 60)


@pytest.mark.perf_budget(cache_blocking_calls=0)
def test_blocking():
    async def main():
        client.get(f"{NAME}:7")

    asyncio.run(main())


@pytest.mark.perf_budget(cache_errors=0)
def test_errors():
    client.set(f"{NAME}:7", "x", ex=60)
    with pytest.raises(Exception):
        client.lpush(f"{NAME}:7", "y")


@pytest.mark.perf_budget(cache_unstable_keys=0)
def test_unstable():
    client.get(f"prices:{object()}")
"""
    )

    result = run("-Wignore::pytest.PytestWarning")

    assert failed(result) == [
        "test_blocking", "test_bytes", "test_commands", "test_errors", "test_lasting",
        "test_n_plus_one", "test_unstable",
    ]  # fmt: skip
    output = re.sub("_(left|right)", "", result.stdout.str())
    for line in (
        "  cache_n_plus_one  1 > 0   perf_budget, test_calls.py:",
        "  cache_commands  3 > 2   perf_budget, test_calls.py:",
        "  cache_writes_without_ttl  1 > 0   perf_budget, test_calls.py:",
        f"\n1x SET {name}:{{int}} without an expiry\n    at test_calls.py:",
        "    fix: give it one: ex=300 (seconds), or EXPIRE in the same pipeline\n",
        f"\n1x GET {name}:{{int}} held up the event loop\n    at test_calls.py:",
        "    fix: await a client of redis.asyncio, or send it from a thread: await asyncio.to_th",
        f"\n1x LPUSH {name}:{{int}} failed: ResponseError",
        "\nGET prices:{…}: the key holds the address of an object (object)\n",
        "    fix: ask once: client.mget(keys), or a pipeline where the keys are on several nodes\n",
        f"timeline: 6x GET {name}:{{int}}\n",
        " by 1x SET {word}\n",
    ):
        assert line in output, line
    assert "cache_bytes  2 KiB > 1,000 B" in output or "cache_bytes  1.9" in output


# -- watched caches -----------------------------------------------------------------------------


def test_what_watched_caches_count_belongs_to_the_block_and_request_it_happened_in(
    suite: Callable[[str], None], run: Run, records: Records
) -> None:
    suite(
        """
from fastapi import FastAPI
from fastapi.testclient import TestClient


@functools.lru_cache
def rates(number):
    return number * 2


class Counting:
    hits = misses = 0

    def get(self, hit):
        self.hits += hit
        self.misses += not hit


app = FastAPI()


@app.get("/rates/{number}")
def rate(number: int):
    return rates(number)


def test_blocks(perf):
    rates.cache_clear()
    rates(1)
    rates(1)
    assert perf.cache.watch(rates) is rates
    rates(1)
    with perf.measure("first", cache_misses=1, cache_hits=2) as first:
        rates(2)
        rates(2)
        with perf.measure("inner") as inner:
            rates(2)
        assert (first["cache_hits"], first["cache_misses"]) == (2, 1)
    rates(3)
    assert (inner["cache_hits"], inner["cache_misses"]) == (1, 0)
    assert first["cache_hit_ratio"] == 2 / 3


def test_requests(perf):
    rates.cache_clear()
    perf.cache.watch(rates, name="the rates")
    get = TestClient(app).get
    for _ in range(3):
        assert get("/rates/7").json() == 14


def test_two_caches(perf):
    mine, other = perf.cache.watch(Counting()), perf.cache.watch(Counting(), "other")
    mine.get(hit=True)
    other.get(hit=False)
    client.get(NAME)
    with perf.measure("both") as both:
        mine.get(hit=False)
        other.get(hit=True)
    assert (both["cache_hits"], both["cache_misses"], both["cache_commands"]) == (1, 1, 0)


def test_reset_while_watched(perf):
    perf.cache.watch(rates)
    rates.cache_clear()
    rates(1)
    rates.cache_clear()
    rates(1)
    rates(1)


@pytest.fixture
def watched(perf):
    rates.cache_clear()
    perf.cache.watch(rates)
    rates(1)
    yield
    rates(1)


def test_in_a_fixture(watched):
    rates(1)
    rates(2)


@pytest.mark.perf_budget(cache_hits=0)
def test_not_watched():
    rates(1)
"""
    )

    result = run("--perfguard-json=run.json")

    result.assert_outcomes(passed=5, failed=1)
    found = records()
    whole = found["test_blocks"].span
    assert in_process(whole) == {"rates": (1, 1)}
    (first,) = whole.children
    assert in_process(first) == {"rates": (1, 1)}
    assert in_process(first.children[0]) == {"rates": (1, 0)}
    assert [in_process(part) for part in found["test_requests"].span.children] == [
        {"the rates": (0, 1)},
        {"the rates": (1, 0)},
        {"the rates": (1, 0)},
    ]
    assert {part.kind for part in found["test_requests"].span.children} == {"request"}
    assert in_process(found["test_two_caches"].span) == {"Counting": (1, 0), "other": (0, 1)}
    assert found["test_two_caches"].metrics["cache_misses"] == 3
    assert found["test_reset_while_watched"].metrics["cache_hits"] == 1
    assert found["test_reset_while_watched"].metrics["cache_misses"] == 2
    assert found["test_in_a_fixture"].metrics["cache_hits"] == 1
    assert found["test_in_a_fixture"].metrics["cache_misses"] == 1
    assert in_process(found["test_not_watched"].span) == {}
    result.stdout.fnmatch_lines(["*no command to a cache was observed in test_not_watched*"])


def test_a_watched_cache_is_left_as_it_was_when_the_test_ends(
    suite: Callable[[str], None], run: Run, records: Records
) -> None:
    suite(
        """
from dogpile.cache import make_region

region = make_region().configure("dogpile.cache.memory")


@functools.lru_cache
def rates(number):
    return number * 2


before = dict(vars(rates)), dict(vars(region))


def test_watched(perf):
    perf.cache.watch(rates)
    perf.cache.watch(region)
    assert (vars(rates), vars(region)) != before
    region.get("absent")
    assert region.get_or_create("key", lambda: 1) == region.get("key")


def test_that_fails(perf):
    perf.cache.watch(rates)
    perf.cache.watch(region)
    raise LookupError


@pytest.fixture
def failing(perf):
    perf.cache.watch(rates)
    perf.cache.watch(region)
    raise LookupError


def test_set_up(failing):
    pass


def test_twice(perf):
    for _ in range(2):
        perf.cache.watch(rates, "one")
        perf.cache.watch(region, "other")
    rates(1)


def test_after():
    assert (vars(rates), vars(region)) == before


@pytest.mark.perf_budget(cache_misses=0)
def test_not_watched_any_more():
    rates(77)
    region.get("nothing")
"""
    )

    result = run("--perfguard-json=run.json", "-p", "no:randomly")

    result.assert_outcomes(passed=4, failed=1, errors=1)
    metrics = records()["test_watched"].metrics
    assert (metrics["cache_hits"], metrics["cache_misses"]) == (1, 2)


def test_what_cannot_be_watched_is_an_error_with_a_remedy(
    suite: Callable[[str], None], run: Run
) -> None:
    suite(
        """
class Store(dict):
    pass


def plain():
    pass


def test_store(perf):
    perf.cache.watch(Store())


def test_function(perf):
    perf.cache.watch(plain)


def test_redis(perf):
    perf.cache.watch(client)


def test_name(perf):
    perf.cache.watch(functools.lru_cache(plain), name=b"rates")


def test_goes_on(perf):
    with pytest.raises(CacheError):
        perf.cache.watch(Store())
    with perf.measure("after", sql_queries=1):
        shop.get_email(1)
"""
    )

    result = run()

    result.assert_outcomes(passed=1, failed=4)
    output = result.stdout.str()
    assert "TypeError: perf.cache.watch takes a text as name=, not b'rates'" in output
    assert "cache_counters.py" not in output
    assert "CacheError: Store shows no hits and misses: give it int attributes of these" in output
    assert (
        "CacheError: plain is a function that counts nothing: write @functools.lru_cache" in output
    )
    assert "need not be watched: the commands of every Redis client are counted already" in output


def test_names_fit_into_a_line_of_any_output(
    suite: Callable[[str], None], run: Run, records: Records
) -> None:
    suite(
        """
NAME = "\\x1b[31mrates\\x00\\n\\ud800 of " + "x" * 1_000


def test_watched(perf):
    cached = perf.cache.watch(functools.lru_cache(str), NAME)
    with perf.measure(NAME, cache_hit_ratio=1):
        cached(1)
"""
    )

    output = run("--perfguard-json=run.json").stdout.str()

    name = " [31mrates    of " + "x" * 82 + "…"
    assert f"1 of 1 budget exceeded in block '{name}'" in output
    assert f"{name}: 0 of 1 lookups hit" in output
    (block,) = records()["test_watched"].span.children
    (tally,) = (tally for tally in block.tallies if tally.probe == "cache")
    assert (block.name, tally.label) == (name, name)


def test_budgets_of_watched_caches_are_floors_too(
    suite: Callable[[str], None], run: Run, failed: Failed
) -> None:
    suite(
        """
@functools.lru_cache
def rates(number):
    return number * 2


@pytest.fixture(autouse=True)
def watched(perf):
    rates.cache_clear()
    perf.cache.watch(rates)


@pytest.mark.perf_budget(cache_hit_ratio="50%", cache_hits=1)
def test_kept():
    rates(1)
    rates(1)


@pytest.mark.perf_budget(cache_hit_ratio="50%")
def test_over():
    for number in (1, 1, 2, 3):
        rates(number)


@pytest.mark.perf_budget(cache_hit_ratio="50%")
def test_nothing_looked_up():
    pass


@pytest.mark.perf_budget(cache_commands=0, cache_hits=1)
def test_sends_nothing():
    rates(1)
    rates(1)
"""
    )

    result = run()

    assert failed(result) == ["test_nothing_looked_up", "test_over"]
    result.stdout.fnmatch_lines_random(
        [
            "  cache_hit_ratio  25 % < 50 %   perf_budget, test_calls.py:*",
            "rates: 1 of 4 lookups hit",
            "      no lookup in a cache was observed in test_nothing_looked_up, so the budget *",
        ]
    )


# -- reports ------------------------------------------------------------------------------------

REPORTED = """
@functools.lru_cache
def rates(number):
    return number * 2


def test_lookups(perf):
    rates.cache_clear()
    perf.cache.watch(rates)
    rates(1)
    look_up(3, 1)
    client.mget([f"{NAME}:{n}" for n in range(4)])


def test_contract(perf):
    perf.cold_warm(cached, flush=flush, cold={"sql_queries": 1})


def test_no_cache():
    shop.get_email(1)
"""


def test_what_is_wrong_without_any_budget_is_listed_with_its_line(
    suite: Callable[[str], None], run: Run, run_once: Run
) -> None:
    suite(
        """
import asyncio


def test_blocking():
    async def main():
        client.get("prices:1")

    asyncio.run(main())
    client.get("prices:2")


@pytest.mark.parametrize("turn", range(2))
def test_object_in_key(turn):
    client.get(f"prices:{object()}")
"""
    )
    line = len(IMPORTS.splitlines()) + 8

    result = run("--perfguard")

    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        [
            "2 faults with caches:",
            "  1x GET prices:{int} held up the event loop",
            f"      at test_calls.py:{line} in test_blocking.main",
            f"         from test_calls.py:{line + 2} in test_blocking",
            "      fix: await a client of redis.asyncio, or send it from a thread: *",
            "  GET prices:{…}: the key holds the address of an object (object)",
            f"      at test_calls.py:{line + 8} in test_object_in_key",
            "      fix: build the key from what the result depends on, not from the objects *",
        ],
    )
    short = run_once("--perfguard", "--perfguard-top=1").stdout
    short.fnmatch_lines(["2 faults with caches:", "  ... and 1 more"])
    assert "faults with caches" not in run_once().stdout.str()


def test_lookups_are_listed_by_command_and_pattern_those_that_miss_most_first(
    suite: Callable[[str], None], run: Run, name: str
) -> None:
    suite(REPORTED)

    result = run("--perfguard")

    result.assert_outcomes(passed=3)
    lines = [re.sub("_(left|right)", "", line) for line in result.outlines]
    start = lines.index("cache lookups, by command and key:")
    assert lines[start + 1 : start + 6] == [
        "  hits  misses  ratio",
        f"     0       4    0 %  MGET {name}:{{int}}",
        f"     3       1   75 %  GET {name}:{{word}}",
        f"     1       1   50 %  GET {name}:{{int}}",
        "     0       1    0 %  rates",
    ]
    assert re.search(
        r"^3 tests measured, 2 statements on \d engines?, \d+ cache commands, "
        r"6 budgets judged: 6 ok$",
        result.stdout.str(), re.MULTILINE,
    )  # fmt: skip


def test_the_list_has_the_asked_length_and_is_not_there_without_lookups(
    suite: Callable[[str], None], run_once: Run
) -> None:
    suite(REPORTED)

    short = run_once("--perfguard", "--perfguard-top=1").outlines
    start = short.index("cache lookups, by command and key:")
    assert short[start + 2].split()[:3] == ["0", "4", "0"]
    assert not short[start + 3].startswith("  ")
    assert "cache lookups" not in run_once("--perfguard", "-k", "no_cache").stdout.str()
    assert "cache command" not in run_once("--perfguard", "-k", "no_cache").stdout.str()
    assert "cache lookups" not in run_once().stdout.str()


def test_what_is_known_of_caches_comes_back_from_the_file(
    pytester: pytest.Pytester, suite: Callable[[str], None], run: Run, records: Records, name: str
) -> None:
    suite(
        REPORTED
        + """

def test_forgotten(perf):
    perf.cold_warm(lambda: client.get(f"{NAME}:absent") or load(), flush=flush)


def test_without_a_lock(perf):
    perf.stampede(cached, flush=flush, concurrency=2)
"""
    )

    run("--perfguard-json=run.json", "--junitxml=junit.xml")

    path = pytester.path / "run.json"
    run_read = read_run(path)
    assert json.loads(json.dumps(run_read.to_dict())) == json.loads(path.read_text("utf-8"))
    found = records()
    cold, warm = found["test_contract"].span.children
    used = {"cpu_time", "cpu_percent"}
    assert set(cold.peaks) - used == {"pool_peak", "tx_longest"}
    noted = {name: level for name, level in warm.peaks.items() if name not in used}
    assert noted == {"cache_rereads": 0, "cache_differences": 0}
    (get,) = tallies(warm)
    assert re.fullmatch(rf"GET {name}(_left|_right)?:\{{int\}}", get.operation)
    assert (get.kind, get.count, get.sums["hits"], get.sums["roundtrips"]) == ("read", 1, 1, 1)
    assert found["test_lookups"].metrics["cache_hit_ratio"] == 3 / 9
    facts = found["test_forgotten"].span.children[1].facts
    assert facts["cache_misses"].startswith("the cold call looked this up and stored nothing")
    assert facts["cache_rereads"].startswith("1x SELECT resources read again by the warm call")
    (whole,) = found["test_without_a_lock"].span.children
    assert whole.peaks["cache_recomputations"] == 2
    assert whole.facts["cache_recomputations"].startswith("SELECT resources by 2 of 2 concurrent")
    values = {
        case.get("name"): {p.get("name"): p.get("value") for p in case.iter("property")}
        for case in ET.parse(pytester.path / "junit.xml").getroot().iter("testcase")  # noqa: S314 - our own
    }
    assert values["test_contract"]["perfguard.cache_hits"] == "1"
    assert values["test_without_a_lock"]["perfguard.cache_recomputations"] == "2"
    assert "perfguard.cache_hit_ratio" not in values["test_no_cache"]


def test_words_of_keys_that_may_be_shown(suite: Callable[[str], None], run: Run, name: str) -> None:
    suite(
        """
def test_keys():
    client.get(f"{NAME}:7:profile")
    client.get(f"{NAME}:7:private")
"""
    )

    result = run("--perfguard", "--perfguard-key-words=profile")

    output = re.sub("_(left|right)", "", result.stdout.str())
    assert f"GET {name}:{{int}}:profile\n" in output
    assert f"GET {name}:{{int}}:{{word}}\n" in output
