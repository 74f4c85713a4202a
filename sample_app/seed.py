"""Fill a database with data that looks real and is the same each time.

``python -m sample_app.seed`` migrates the database of the settings and fills it, where it is empty.
"""

from __future__ import annotations

import argparse
import logging
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Engine, delete, func, insert, select, text

from sample_app.core.config import Settings
from sample_app.core.database import make_engine
from sample_app.core.migrate import upgrade
from sample_app.core.profiling import asked_for, profile_function
from sample_app.models import Base, RelatedItem, Resource, ResourceStatus, User

_START: Final = datetime(2024, 1, 1, tzinfo=UTC)
_MODELS: Final[tuple[type[Base], ...]] = (User, Resource, RelatedItem)
_FIRST: Final = ("Ada", "Alan", "Barbara", "Dennis", "Edsger", "Grace", "Ken", "Margaret")
_LAST: Final = ("Hamilton", "Hopper", "Liskov", "Lovelace", "Ritchie", "Thompson", "Turing")
_KIND: Final = ("report", "dataset", "dashboard", "notebook", "model", "pipeline")
_TOPIC: Final = ("sales", "traffic", "billing", "weather", "support", "inventory", "churn")
_LABEL: Final = ("source", "owner's note", "attachment", "review", "link", "draft")


class NotEmptyError(RuntimeError):
    """The database holds data that seeding would delete."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much data to make."""

    users: int = 200
    resources: int = 5_000
    related_items: int = 15_000


@profile_function
def seed(engine: Engine, size: Size | None = None, *, reset: bool = False) -> None:
    """Fill an empty, migrated database; with ``reset``, empty it first."""
    size = size or Size()
    rng = random.Random(20_240_314)  # noqa: S311 - the same data each time is the point
    with engine.begin() as connection:
        _make_room(connection, reset=reset)
        for model, rows in (
            (User, _users(rng, size)),
            (Resource, _resources(rng, size)),
            (RelatedItem, _related_items(rng, size)),
        ):
            connection.execute(insert(model), rows)
        _after_bulk_insert(connection)


def _make_room(connection: Connection, *, reset: bool) -> None:
    if reset:
        for model in reversed(_MODELS):
            connection.execute(delete(model))
    elif connection.scalar(select(func.count()).select_from(User)):
        msg = "the database is not empty: seed another one, or reset this one"
        raise NotEmptyError(msg)


def _after_bulk_insert(connection: Connection) -> None:
    """Tell the planner how large the tables are, and sequences where the next id is."""
    if connection.dialect.name == "postgresql":
        for model in _MODELS:
            table = model.__tablename__
            connection.execute(
                text("SELECT setval(pg_get_serial_sequence(:table, 'id'), :last)"),
                {"table": table, "last": connection.scalar(select(func.max(model.id)))},
            )
    connection.execute(text("ANALYZE"))


def _users(rng: random.Random, size: Size) -> list[dict[str, Any]]:
    users = []
    for number in range(1, size.users + 1):
        first, last = rng.choice(_FIRST), rng.choice(_LAST)
        email = f"{first}.{last}.{number}@example.com".lower()
        users.append({"id": number, "email": email, "name": f"{first} {last}"})
    return users


def _resources(rng: random.Random, size: Size) -> list[dict[str, Any]]:
    """Spread resources evenly over users, unevenly over statuses, one every 90 minutes or so."""
    statuses = rng.choices(list(ResourceStatus), weights=(10, 70, 20), k=size.resources)
    created = _START
    rows = []
    for number, status in enumerate(statuses, start=1):
        created += timedelta(seconds=rng.randint(60, 3 * 3600))
        topic, kind = rng.choice(_TOPIC), rng.choice(_KIND)
        rows.append(
            {
                "id": number,
                "name": f"{topic.title()} {kind} {number}",
                "description": f"The {kind} on {topic}." if rng.random() < 0.8 else None,  # noqa: PLR2004
                "status": status,
                "owner_id": rng.randint(1, size.users),
                "created_at": created,
                "updated_at": created + timedelta(seconds=rng.randint(0, 86_400)),
            }
        )
    return rows


def _related_items(rng: random.Random, size: Size) -> list[dict[str, Any]]:
    """Give some resources many related items, most a few and some none."""
    used: Counter[int] = Counter()
    rows = []
    for number in range(1, size.related_items + 1):
        resource_id = rng.randint(1, size.resources)
        used[resource_id] += 1
        rows.append(
            {
                "id": number,
                "resource_id": resource_id,
                "label": rng.choice(_LABEL),
                "position": used[resource_id],
            }
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Migrate and fill the database of the settings."""
    parser = argparse.ArgumentParser(prog="python -m sample_app.seed", description=main.__doc__)
    known = parser.add_mutually_exclusive_group()
    known.add_argument("--reset", action="store_true", help="delete what is there first")
    known.add_argument("--keep", action="store_true", help="leave what is there as it is")
    options = parser.parse_args(arguments)
    if asked_for():
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    filled = prepare(Settings(), reset=options.reset)
    if not filled and not options.keep:
        parser.exit(1, "the database is not empty: --reset fills it anew, --keep leaves it\n")


def prepare(settings: Settings, *, reset: bool = False) -> bool:
    """Migrate the database of the settings and fill it; return whether that was possible."""
    engine = make_engine(settings)
    try:
        upgrade(engine, traps=settings.traps)
        seed(engine, reset=reset)
    except NotEmptyError:
        return False
    finally:
        engine.dispose()
    return True


if __name__ == "__main__":
    main()
