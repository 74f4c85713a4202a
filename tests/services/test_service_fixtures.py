"""``perf_postgres`` and ``perf_redis``, on real servers and by the real testcontainers."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from sqlalchemy.engine import Engine

from pytest_perfguard import ServiceError, ServiceMissingError, services
from pytest_perfguard.services import Service
from tests.services.fake_docker import Engine as Docker
from tests.services.fake_docker import fake_docker

_NOBODY = "127.0.0.1:1"


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Name no server, whoever runs these tests, and no engine that may be there."""
    for kind in (services.POSTGRES, services.REDIS):
        monkeypatch.delenv(kind.variable, raising=False)
        monkeypatch.delenv(kind.image_variable, raising=False)
    monkeypatch.delenv(services.REQUIRE, raising=False)
    monkeypatch.setenv("DOCKER_HOST", f"tcp://{_NOBODY}")
    return monkeypatch


@pytest.fixture
def postgres_url(postgres_admin: tuple[Engine, str]) -> str:
    return postgres_admin[0].url.render_as_string(hide_password=False)


def enter(service: AbstractContextManager[Service]) -> None:
    with service:
        pytest.fail("there is no such server")


def test_a_postgresql_database_is_made_and_dropped(
    alone: pytest.MonkeyPatch, postgres_url: str
) -> None:
    alone.setenv("PERFGUARD_POSTGRES_URL", postgres_url)
    with services.postgres() as one, services.postgres() as other:
        assert one.url.startswith("postgresql+psycopg://")
        with psycopg.connect(one.with_driver("")) as left_open:
            left_open.execute("CREATE TABLE things ()")
            left_open.commit()
            with psycopg.connect(other.with_driver("")) as connection:
                found = connection.execute("SELECT to_regclass('things')").fetchone()
                assert found == (None,)
        left_open = psycopg.connect(one.with_driver(""))
    try:
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            psycopg.connect(one.with_driver(""))
    finally:
        left_open.close()


def test_a_redis_database_is_claimed_and_emptied(
    alone: pytest.MonkeyPatch, own_redis_port: int
) -> None:
    server = f"redis://127.0.0.1:{own_redis_port}"
    alone.setenv("PERFGUARD_REDIS_URL", server)
    with redis.Redis.from_url(server, db=1, decode_responses=True) as somebody:
        somebody.set("theirs", 1)
        with services.redis() as one, services.redis() as other:
            # The first is where the claims are, the second somebody else's.
            assert [urlsplit(each.url).path for each in (one, other)] == ["/2", "/3"]
            with redis.Redis.from_url(one.url) as client:
                client.set("ours", 1)
        assert somebody.keys() == ["theirs"]
        somebody.delete("theirs")
    with redis.Redis.from_url(server) as admin:
        assert list(admin.info("keyspace")) == []


def test_a_redis_server_with_nothing_free_is_an_error(
    alone: pytest.MonkeyPatch, own_redis_port: int
) -> None:
    server = f"redis://127.0.0.1:{own_redis_port}/5"
    alone.setenv("PERFGUARD_REDIS_URL", server)
    alone.setattr(services, "_count_databases", lambda *_: 2)
    nothing = pytest.raises(ServiceError, match=r"no database of redis://.* is empty and free")
    with services.redis(), services.redis(), nothing:
        enter(services.redis())


@pytest.mark.parametrize(
    ("name", "url", "said"),
    [
        ("postgres", f"postgresql://me:geheim@{_NOBODY}/shop", "Connection refused"),
        ("redis", f"redis://:geheim@{_NOBODY}", "Connection refused"),
        ("redis", f"redis://:geheim@{_NOBODY}/geheim", "cannot be used"),
    ],
)
def test_a_named_server_that_is_not_there_is_an_error(
    alone: pytest.MonkeyPatch, name: str, url: str, said: str
) -> None:
    variable = f"PERFGUARD_{name.upper()}_URL"
    alone.setenv(variable, url)
    with pytest.raises(ServiceError, match=f"^{variable}: .*{said}") as raised:
        enter(getattr(services, name)())
    assert not isinstance(raised.value, ServiceMissingError)
    assert "geheim@" not in str(raised.value)
    assert "\n" not in str(raised.value)


# -- containers -----------------------------------------------------------------------------------


@pytest.fixture
def docker(alone: pytest.MonkeyPatch, redis_url: str) -> Any:
    """Run an engine whose containers are the Redis that is there."""
    pytest.importorskip("testcontainers")
    alone.setenv("TESTCONTAINERS_RYUK_DISABLED", "true")
    # It may have been read by now.
    config = pytest.importorskip("testcontainers.core.config").testcontainers_config
    attribute = "_ryuk_disabled" if hasattr(config, "_ryuk_disabled") else "ryuk_disabled"
    alone.setattr(config, attribute, True)
    images = (services.POSTGRES.image, services.REDIS.image)
    with fake_docker(*images, port=urlsplit(redis_url).port or 6379) as engine:
        alone.setenv("DOCKER_HOST", engine.url)
        yield engine


def test_a_container_is_started_and_removed(docker: Docker) -> None:
    with services.postgres() as service:
        assert docker.running == {"c1"}
        assert re.fullmatch(
            rf"postgresql\+psycopg://perfguard:\w{{32}}@127.0.0.1:{docker.port}/perfguard",
            service.url,
        )
        assert service.source == services.POSTGRES.image
    with services.redis() as service:
        assert service.url == f"redis://127.0.0.1:{docker.port}/0"
    assert docker.running == set()
    assert [each["Image"] for each in docker.created] == [
        services.POSTGRES.image,
        services.REDIS.image,
    ]


def test_an_image_that_cannot_be_had_is_an_error(
    docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERFGUARD_POSTGRES_IMAGE", "nobody/nothing:1")
    with pytest.raises(ServiceError, match=r"Docker does not .* nobody/nothing:1: 404") as raised:
        enter(services.postgres())
    assert not isinstance(raised.value, ServiceMissingError)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["postgres", "redis"])
def test_without_an_engine_what_docker_says_is_the_reason(
    alone: pytest.MonkeyPatch, name: str
) -> None:
    pytest.importorskip("testcontainers")
    with pytest.raises(ServiceMissingError, match=r"no Docker engine for .*refused") as raised:
        enter(getattr(services, name)())
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith(f"or name a server in PERFGUARD_{name.upper()}_URL")


# -- the fixtures ---------------------------------------------------------------------------------

TESTS = """
    import os
    import pytest

    @pytest.mark.parametrize("number", [1, 2])
    def test_postgres(perf_postgres, number):
        import psycopg

        with psycopg.connect(perf_postgres.with_driver("")) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS things (id int)")
        print("USED", perf_postgres)

    @pytest.mark.perf_budget(cache_commands=2)
    @pytest.mark.parametrize("number", [1, 2])
    def test_redis(request, number):
        import redis

        url = request.getfixturevalue("perf_redis").url
        with redis.Redis.from_url(url) as client:
            client.set(f"key{number}", 1, ex=60)
            assert client.dbsize() == number
"""


def test_workers_have_databases_of_their_own(
    pytester: pytest.Pytester, alone: pytest.MonkeyPatch, postgres_url: str, own_redis_port: int
) -> None:
    alone.setenv("PERFGUARD_POSTGRES_URL", postgres_url)
    alone.setenv("PERFGUARD_REDIS_URL", f"redis://127.0.0.1:{own_redis_port}")
    pytester.makepyfile(TESTS)
    # Each worker runs all of them.
    result = pytester.runpytest_subprocess("-p", "no:asyncio", "-n2", "--dist=each", "-rP")
    result.assert_outcomes(passed=8)
    used = re.findall(r"^USED (.*)$", result.stdout.str(), re.MULTILINE)
    assert len(used) == 4
    assert len(set(used)) == 2


def test_a_skip_gives_the_reason_and_can_be_forbidden(
    pytester: pytest.Pytester, alone: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("testcontainers")
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess("-p", "no:asyncio", "-rs", "-W", "error")
    result.assert_outcomes(skipped=4)
    result.stdout.fnmatch_lines(
        ["SKIPPED * perfguard: no Docker engine for PostgreSQL: *refused*PERFGUARD_POSTGRES_URL"]
    )
    alone.setenv(services.REQUIRE, "1")
    result = pytester.runpytest_subprocess("-p", "no:asyncio", "-k", "postgres", "-W", "error")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        ["perfguard: no Docker engine for PostgreSQL: *(PERFGUARD_REQUIRE_SERVICES is set)"]
    )
    result.stdout.no_fnmatch_line("*During handling*")
