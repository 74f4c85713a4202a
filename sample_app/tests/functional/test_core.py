"""What the service stands on: migrations, seed, settings, traps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic import command
from fastapi.testclient import TestClient
from sqlalchemy import Engine, inspect, select

from sample_app.core.config import Settings
from sample_app.core.database import make_engine
from sample_app.core.migrate import config, downgrade, upgrade
from sample_app.core.traps import KNOWN, Traps, UnknownTrapError
from sample_app.main import create_app
from sample_app.models import RelatedItem, Resource, User
from sample_app.seed import NotEmptyError, Size, seed

SMALL = Size(users=5, resources=20, related_items=30)


@pytest.fixture
def engine(new_database_url: Callable[[], str]) -> Iterator[Engine]:
    engine = make_engine(Settings(database_url=new_database_url()))
    yield engine
    engine.dispose()


def test_migrations_make_what_the_models_describe(engine: Engine) -> None:
    upgrade(engine)
    with engine.connect() as connection:
        command.check(config(connection))


def test_migrations_can_be_taken_back(engine: Engine) -> None:
    def indexes() -> set[str | None]:
        return {index["name"] for index in inspect(engine).get_indexes("resources")}

    upgrade(engine.url.render_as_string(hide_password=False), traps=Traps.of({"missing_index"}))
    assert indexes() == {"idx_resource_owner"}
    downgrade(engine)
    assert inspect(engine).get_table_names() == ["alembic_version"]
    upgrade(engine)
    assert indexes() == {"idx_resource_owner", "idx_resource_status_created"}


def test_the_seed_is_the_same_each_time(engine: Engine) -> None:
    def content() -> list[object]:
        with engine.connect() as connection:
            return [connection.execute(select(m)).all() for m in (User, Resource, RelatedItem)]

    upgrade(engine)
    seed(engine, SMALL)
    first = content()
    with pytest.raises(NotEmptyError):
        seed(engine, SMALL)
    seed(engine, SMALL, reset=True)
    assert content() == first


def test_a_row_can_be_added_after_the_seed(engine: Engine) -> None:
    upgrade(engine)
    seed(engine, SMALL)
    url = engine.url.render_as_string(hide_password=False)
    with TestClient(create_app(Settings(database_url=url))) as client:
        response = client.post("/api/resources", json={"name": "new", "owner_id": 1})
        assert response.json()["id"] == SMALL.resources + 1


def test_traps_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPLE_APP_TRAPS", "lazy_owner, open_fields,")
    traps = Settings().traps
    assert [name for name in KNOWN if traps.enabled(name)] == ["lazy_owner", "open_fields"]
    monkeypatch.delenv("SAMPLE_APP_TRAPS")
    assert not Settings().traps


def test_an_unknown_trap_is_an_error_with_a_hint() -> None:
    with pytest.raises(UnknownTrapError, match=r"Did you mean 'lazy_owner'\? Known traps: lazy_"):
        Traps.parse("lazy_ownr")
    with pytest.raises(UnknownTrapError, match="unknown trap 'x'"):
        Traps().enabled("x")


def test_a_database_in_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="name a file"):
        make_engine(Settings(database_url="sqlite://"))


def test_writers_wait_for_each_other(engine: Engine) -> None:
    upgrade(engine)
    seed(engine, SMALL)
    url = engine.url.render_as_string(hide_password=False)
    app = create_app(Settings(database_url=url))

    def write(number: int) -> int:
        change = {"name": f"name {number}"}
        return client.put(f"/api/resources/{number % 3 + 1}", json=change).status_code

    with TestClient(app) as client, ThreadPoolExecutor(4) as threads:
        assert set(threads.map(write, range(40))) == {200}
