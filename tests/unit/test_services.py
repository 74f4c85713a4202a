from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from types import ModuleType
from urllib.parse import urlsplit

import pytest

from pytest_perfguard import ServiceError, ServiceMissingError, services
from pytest_perfguard.services import Service, redacted


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (services.POSTGRES, services.REDIS):
        monkeypatch.delenv(kind.variable, raising=False)
        monkeypatch.delenv(kind.image_variable, raising=False)


def use(service: AbstractContextManager[Service]) -> None:
    with service:
        pytest.fail("there is no such server")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:geheim@host:5432/shop?password=geheim", "postgresql://me:***@host:5432/shop"),
        ("redis://:geheim@host", "redis://:***@host"),
        ("redis://host/1", "redis://host/1"),
        ("unix:///run/redis.sock?password=geheim", "unix:///run/redis.sock"),
        ("redis://host:geheim", "a URL that cannot be read"),
        ("redis://[geheim", "a URL that cannot be read"),
    ],
)  # fmt: skip
def test_what_is_shown_of_a_url_holds_no_password(url: str, shown: str) -> None:
    assert redacted(url) == shown
    assert "geheim" not in repr(Service(url, "a test"))


def test_the_url_for_another_driver() -> None:
    service = Service("postgresql+psycopg://me:a+b@host/shop", "a test")
    assert service.with_driver("asyncpg") == "postgresql+asyncpg://me:a+b@host/shop"
    assert service.with_driver("") == "postgresql://me:a+b@host/shop"


@pytest.mark.parametrize(
    ("url", "other"),
    [
        ("redis://:secret@host:6379", "redis://:secret@host:6379/3"),
        ("rediss://host/9?ssl_cert_reqs=none&db=7", "rediss://host/3?ssl_cert_reqs=none"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=3"),
    ],
)
def test_another_database_of_a_redis_server(url: str, other: str) -> None:
    assert services._with_database(urlsplit(url), 3) == other


@pytest.mark.parametrize("kind", [services.POSTGRES, services.REDIS], ids=lambda kind: kind.module)
@pytest.mark.parametrize("url", ["http://host", "nonsense", "redis:/[", "postgresql://[host"])
def test_what_is_no_url_of_such_a_server_is_an_error(
    monkeypatch: pytest.MonkeyPatch, kind: services.Kind, url: str
) -> None:
    driver = {"postgres": "psycopg", "redis": "redis"}[kind.module]
    pytest.importorskip(driver)
    monkeypatch.setenv(kind.variable, url)
    with pytest.raises(ServiceError, match=kind.variable) as raised:
        use(getattr(services, kind.module)())
    assert not isinstance(raised.value, ServiceMissingError)


@pytest.mark.parametrize("name", ["postgres", "redis"])
def test_without_testcontainers_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, "testcontainers", None)
    for loaded in [each for each in sys.modules if each.startswith("testcontainers.")]:
        monkeypatch.delitem(sys.modules, loaded)
    message = (
        r"testcontainers is not installed: install pytest-perfguard with the extra \[services\], "
        rf"or name a server in PERFGUARD_{name.upper()}_URL"
    )
    with pytest.raises(ServiceMissingError, match=message):
        use(getattr(services, name)())


@pytest.mark.parametrize("library", ["psycopg", "redis"])
def test_a_server_that_is_named_and_no_driver_is_an_error(
    monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    kind = services.POSTGRES if library == "psycopg" else services.REDIS
    monkeypatch.setenv(kind.variable, f"{kind.name.lower()}://127.0.0.1")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        ServiceError, match=rf"{library} is not installed: .*\[services\]"
    ) as raised:
        use(getattr(services, kind.module)())
    assert not isinstance(raised.value, ServiceMissingError)


def test_the_classes_of_older_versions_are_found_where_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = ModuleType("testcontainers.postgres")
    old.PostgresContainer = made = object()  # type: ignore[attr-defined]
    package = ModuleType("testcontainers")
    package.__path__ = []
    for loaded in [each for each in sys.modules if each.startswith("testcontainers.")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, "testcontainers", package)
    monkeypatch.setitem(sys.modules, "testcontainers.postgres", old)
    assert services._container_class(services.POSTGRES) is made
