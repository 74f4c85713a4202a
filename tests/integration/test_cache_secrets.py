"""Nothing of a cached value, and of a key no more than its pattern, reaches any output."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration.cached_shop import write

# One for each shape that something in a key, a value or a result may have.
SECRETS = {
    "token": "kq7Zp2Wm9xTv4LrB8sNc",
    "password": "correct-horse-battery",
    "email": "planted.person@secret.example",
    "uuid": "5d3c0c8e-90aa-4b1b-9d5e-1f6a7c2b8e44",
    "hex": "deadc0de8badf00dfeedface0ddba115",
    "number": "4929317750016683",
    "word": "plantedword",
    "numbered": "planted_8812",
    "path": "/planted/home/secret",
    "dotted": "planted.dotted.name",
    "text": "planted words with blanks",
    "quoted": "planted'quotes\\\"both",
    "other script": "gepflänzt-тайна-秘密",
    "bytes": "planted\\xff\\x00bytes",
    "object": "<shop.Session object at 0x7f00dead>",
    "list": "[planted, inside, brackets]",
    "json": "{planted: true}",
    "long": "plantedlong" * 30,
    "lines": "planted\\nlines\\nof text",
    "glob": "planted*?[a-z]",
    "markup": "<planted>&amp;</planted>",
}
# What shows that one of them got out: no fragment of them is part of anything else here.
TRACES = (
    "planted", "gepfl", "тайна", "秘密", "kq7Zp2", "horse", "5d3c0c8e", "1f6a7c2b", "deadc0de",
    "0ddba115", "49293177", "7f00dead", "gepfl\\xe4", "\\u79d8", "&#31192;",
)  # fmt: skip

IMPORTS = """
import asyncio, functools, itertools
from contextlib import suppress

import pytest

from cached_shop import NAME, client, connect_async, load
from vault import SECRETS

every = pytest.mark.parametrize("kind", list(SECRETS))


def bare(secret):
    # The first word of a key of several parts is shown: a program's own name for its keys.
    return secret if not set(":/|.#") & set(secret) else f"{NAME}:{secret}"


def flush():
    client.flushall()
"""
SUITE = """
@every
def test_keys(perf, kind):
    secret = SECRETS[kind]
    for key in (
        bare(secret), bare(secret) + ":", ":" + bare(secret), bare(secret).encode(),
        f"{NAME}:{secret}", f"{NAME}:7:{secret}", f"{NAME}:{secret}:7", f"{NAME}: {secret}",
    ):
        client.get(key)
        client.set(key, "x")
        client.exists(key)
        client.expire(key, 5)
        client.delete(key)


@every
@pytest.mark.perf_budget(
    cache_commands=0, cache_bytes=0, cache_n_plus_one=0, cache_writes_without_ttl=0,
    cache_misses=0, cache_hit_ratio="100%", cache_hits=99, cache_unstable_keys=0,
)
def test_keys_in_failures(kind):
    secret = SECRETS[kind]
    for number in range(6):
        client.get(f"{NAME}:{secret}:{number}")
    client.mget([f"{NAME}:{secret}", bare(secret)])
    client.set(f"{NAME}:{secret}", "x")
    with client.pipeline() as pipeline:
        pipeline.get(f"{NAME}:{secret}")
        pipeline.set(f"{NAME}:{secret}:{secret}", secret)
        pipeline.execute()


@every
@pytest.mark.perf_budget(cache_commands=0, cache_bytes=0)
def test_values(kind):
    secret = SECRETS[kind]
    client.set(f"{NAME}:7", secret)
    client.set(f"{NAME}:8", secret, nx=True, ex=5)
    client.getset(f"{NAME}:7", secret)
    client.mset({f"{NAME}:7": secret})
    client.get(f"{NAME}:7")
    client.hset(f"{NAME}:h", secret, secret)
    client.hset(f"{NAME}:h", mapping={secret: 1})
    client.hget(f"{NAME}:h", secret)
    client.hmget(f"{NAME}:h", [secret, "other"])
    client.hgetall(f"{NAME}:h")
    client.sadd(f"{NAME}:s", secret)
    client.sismember(f"{NAME}:s", secret)
    client.zadd(f"{NAME}:z", {secret: 1})
    client.zscore(f"{NAME}:z", secret)
    client.lpush(f"{NAME}:l", secret)
    client.publish(f"{NAME}:c", secret)
    client.eval("return ARGV[1]", 1, f"{NAME}:7", secret)
    client.eval("return #'" + "".join(c for c in secret if c.isalnum()) + "'", 0)


@every
@pytest.mark.perf_budget(cache_errors=0)
def test_error_replies(kind):
    secret = SECRETS[kind]
    client.set(f"{NAME}:7", secret, ex=5)
    for wrong in (
        lambda: client.incr(f"{NAME}:7"),
        lambda: client.lpush(f"{NAME}:7", secret),
        lambda: client.execute_command("NONSENSE", bare(secret), secret),
        lambda: client.eval("return redis.error_reply(ARGV[1])", 0, secret),
        lambda: client.set(f"{NAME}:7", secret, ex=-1),
    ):
        with suppress(Exception):
            wrong()
    with client.pipeline() as pipeline:
        pipeline.lpush(f"{NAME}:7", secret)
        pipeline.execute(raise_on_error=False)


@every
def test_keys_that_changed(perf, kind):
    secret = SECRETS[kind]
    turns = itertools.count()

    def call():
        key = f"{NAME}:{secret}{next(turns)}:{secret}"
        if client.get(key) is None:
            client.set(key, secret, ex=5)

    perf.cold_warm(call, flush=flush)


@every
def test_stored_under_another_key(perf, kind):
    secret = SECRETS[kind]

    def call():
        if client.get(f"{NAME}:{secret}") is None:
            client.set(f"{NAME}:{secret}:{secret}", secret, ex=5)

    perf.cold_warm(call, flush=flush)


def changed(secret):
    rows = [{"id": 1, "note": secret}]
    return [
        (secret, secret + "x"),
        ({"note": secret}, {"note": secret + "x"}),
        ({"note": secret}, {"note": [secret]}),
        (rows, [{"id": 1, "note": secret + "x"}]),
        ({secret + " ": 1}, {secret + " ": 2}),
        ({secret: 1}, {secret + "x": 1}),
        ({secret}, {secret + "x"}),
        (secret.encode(), secret.encode() + b"x"),
        (Out(secret), Out(secret + "x")),
    ]


class Out:
    def __init__(self, note):
        self.note = note

    def __eq__(self, other):
        return self.note == other.note

    __hash__ = None

    def __repr__(self):
        return f"Out({self.note})"


@every
@pytest.mark.parametrize("pair", range(9))
def test_results_that_differ(perf, kind, pair):
    cold, warm = changed(SECRETS[kind])[pair]
    turns = iter([cold, warm])

    def call():
        if client.get(f"{NAME}:7") is None:
            client.set(f"{NAME}:7", "x", ex=5)
        return next(turns)

    perf.cold_warm(call, flush=flush)


@every
def test_stampede(perf, kind):
    secret = SECRETS[kind]

    def call():
        if client.get(f"{NAME}:{secret}") is None:
            client.set(f"{NAME}:{secret}", secret, ex=5)

    perf.stampede(call, flush=flush, concurrency=2)


@every
@pytest.mark.perf_budget(cache_blocking_calls=0, cache_commands=0)
def test_async(kind):
    secret = SECRETS[kind]

    async def main():
        client.get(f"{NAME}:{secret}")
        async with connect_async() as redis:
            await redis.set(f"{NAME}:{secret}", secret)
            await redis.get(f"{NAME}:{secret}")
            async with redis.pipeline() as pipeline:
                pipeline.hset(f"{NAME}:h", secret, secret)
                await pipeline.execute()

    asyncio.run(main())


@every
def test_watched(perf, kind):
    secret = SECRETS[kind]

    @functools.lru_cache
    def remembered(key):
        return key

    perf.cache.watch(remembered)
    with perf.measure("lookups", cache_hits=9, cache_misses=0):
        remembered(secret)
        remembered(secret)
"""
# What is wrong with the test itself is told in an error, which pytest shows with its frames.
ERRORS = """
class Named:
    # Equal to itself only, and its repr tells all.
    def __init__(self, note):
        self.note = note

    def __repr__(self):
        return f"Named({self.note})"


class Broken(Named):
    def __eq__(self, other):
        raise TypeError("not comparable")

    __hash__ = None


@every
@pytest.mark.parametrize("kind_of_result", [Named, Broken])
def test_cannot_be_compared(perf, kind, kind_of_result):
    def call():
        if client.get(f"{NAME}:7") is None:
            client.set(f"{NAME}:7", "x", ex=5)
        return [kind_of_result(SECRETS[kind])]

    perf.cold_warm(call, flush=flush)


def test_a_result_instead_of_a_call(perf):
    perf.cold_warm(SECRETS["token"])


def test_a_result_instead_of_a_flush(perf):
    perf.stampede(load, flush=SECRETS["token"])
"""


@pytest.fixture
def vault(pytester: pytest.Pytester) -> None:
    """Write the suite; the secrets stand in a file of their own, which no output quotes."""
    write(pytester)
    lines = "\n".join(f"    {kind!r}: '{secret}'," for kind, secret in SECRETS.items())
    lines = lines.replace("planted'quotes", "planted\\'quotes")
    pytester.makepyfile(vault="")
    (pytester.path / "vault.py").write_text(f"SECRETS = {{\n{lines}\n}}\n", encoding="utf-8")
    (pytester.path / "test_secrets.py").write_text(IMPORTS + SUITE, encoding="utf-8")
    (pytester.path / "test_errors.py").write_text(IMPORTS + ERRORS, encoding="utf-8")


def leaks(pytester: pytest.Pytester, result: pytest.RunResult) -> list[str]:
    """Return the first lines in which a secret got out."""
    artefacts = {
        "output": result.stdout.str(),
        "errors": result.stderr.str(),
        "run.json": (pytester.path / "run.json").read_text("utf-8"),
        "junit.xml": (pytester.path / "junit.xml").read_text("utf-8"),
    }
    found = {
        f"{name}: {line.strip()[:120]}"
        for name, text in artefacts.items()
        for line in text.splitlines()
        if any(trace in line for trace in TRACES)
    }
    return sorted(found)[:20]


REPORTS = ("--perfguard", "--perfguard-json=run.json", "--junitxml=junit.xml", "-rA")
every_way = pytest.mark.parametrize(
    "arguments", [(), ("--tb=long", "-vv"), ("--tb=short",), ("-n2",)],
    ids=["one process", "long tracebacks", "short tracebacks", "xdist"],
)  # fmt: skip


@pytest.mark.usefixtures("vault")
@every_way
def test_no_secret_is_in_any_output(
    pytester: pytest.Pytester, run_once: Callable[..., pytest.RunResult], arguments: tuple[str, ...]
) -> None:
    result = run_once(*REPORTS, "--perfguard-top=500", "test_secrets.py", *arguments)

    output = result.stdout.str()
    assert "INTERNALERROR" not in output
    assert "mistake" not in output
    for shown in ("GET resources_", "the key changed between", "another str", "failed: Response"):
        assert shown in output
    assert leaks(pytester, result) == []


@pytest.mark.usefixtures("vault")
@every_way
def test_no_secret_is_in_the_errors_of_contracts(
    pytester: pytest.Pytester, run_once: Callable[..., pytest.RunResult], arguments: tuple[str, ...]
) -> None:
    result = run_once(*REPORTS, "test_errors.py", *arguments)

    output = result.stdout.str()
    assert "result[0] cannot be compared: objects of the class Named" in output
    assert " cannot be compared: TypeError when two " in output
    assert "cannot be called: pass a function" in output
    assert leaks(pytester, result) == []


@pytest.mark.usefixtures("vault")
def test_parameters_that_were_asked_for_are_on_the_terminal_only(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]
) -> None:
    result = run(
        "--perfguard", "--perfguard-json=run.json", "--junitxml=junit.xml",
        "--perfguard-show-parameters", "-k", "test_values and token",
    )  # fmt: skip

    assert SECRETS["token"] in result.stdout.str()
    for name in ("run.json", "junit.xml"):
        assert SECRETS["token"] not in (pytester.path / name).read_text("utf-8")
