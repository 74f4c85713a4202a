"""The shop of these tests behind a cache in Redis, as text for inner runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from random import choices
from string import ascii_lowercase
from typing import NoReturn

import pytest

# See the conftest: they are costly to import, and what is wrapped is meant to be wrapped once.
for _module in ("fakeredis", "redis.asyncio"):
    import_module(_module)

STANDARD_REDIS = "redis://127.0.0.1:6379"
CACHED_SHOP = '''
import json
import os

import fakeredis
import redis
import redis.asyncio
from sqlalchemy.orm import Session

import shop

URL = "{url}"
# Two workers on one server must not meet.
NAME = "{name}" + {{"gw0": "_left", "gw1": "_right"}}.get(os.environ.get("PYTEST_XDIST_WORKER"), "")
server = fakeredis.FakeServer()


def connect():
    return redis.Redis.from_url(URL) if URL else fakeredis.FakeRedis(server=server)


def connect_async():
    if URL:
        return redis.asyncio.Redis.from_url(URL)
    return fakeredis.FakeAsyncRedis(server=server)


client = connect()


def flush():
    keys = list(client.scan_iter(NAME + ":*"))
    if keys:
        client.delete(*keys)


def load(number=7):
    """1 statement."""
    with Session(shop.engine) as session:
        return {{"id": number, "name": session.get(shop.Resource, number).name}}


def cached(number=7):
    """A right one: 1 statement when cold, none when warm."""
    key = f"{{NAME}}:{{number}}"
    found = client.get(key)
    if found is not None:
        return json.loads(found)
    value = load(number)
    client.set(key, json.dumps(value), ex=60)
    return value


async def cached_async(client, number=7):
    key = f"{{NAME}}:{{number}}"
    found = await client.get(key)
    if found is not None:
        return json.loads(found)
    value = load(number)
    await client.set(key, json.dumps(value), ex=60)
    return value
'''


def write(pytester: pytest.Pytester, url: str = "") -> str:
    """Write the module ``cached_shop``; return under which name its keys stand."""
    # Letters alone, which a pattern shows as they are.
    name = "resources_" + "".join(choices(ascii_lowercase, k=12))  # noqa: S311 - no secret
    pytester.makepyfile(cached_shop=CACHED_SHOP.format(url=url, name=name))
    return name


@contextmanager
def real_redis() -> Iterator[str]:
    """Find a Redis by PERFGUARD_TEST_REDIS_URL or at the standard local port; skip without one."""
    from redis import Redis
    from redis.exceptions import RedisError

    given = os.environ.get("PERFGUARD_TEST_REDIS_URL")
    url = given or STANDARD_REDIS
    with Redis.from_url(url, socket_connect_timeout=5) as client:
        try:
            client.ping()
        except (RedisError, OSError) as error:
            place = "PERFGUARD_TEST_REDIS_URL" if given else "the standard local port"
            _unavailable(f"no Redis at {place}: {error}")
        yield url
        keys = list(client.scan_iter("resources_*"))
        if keys:
            client.delete(*keys)


def _unavailable(reason: str) -> NoReturn:
    if os.environ.get("PERFGUARD_TEST_REQUIRE_SERVICES"):
        pytest.fail(f"perfguard service: {reason}", pytrace=False)
    pytest.skip(f"perfguard service: {reason}")
