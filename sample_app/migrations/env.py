"""What Alembic runs first: find the connection, then migrate."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from sample_app.core.config import Settings
from sample_app.core.database import make_engine
from sample_app.models import Base


def _migrate(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        context.run_migrations()


def _migrate_from_settings() -> None:
    """Started by the ``alembic`` command: nobody has handed us a connection."""
    settings = Settings()
    context.config.attributes["traps"] = settings.traps
    engine = make_engine(settings)
    try:
        with engine.begin() as connection:
            _migrate(connection)
    finally:
        engine.dispose()


if context.is_offline_mode():
    msg = "these migrations need a database: run them without --sql"
    raise RuntimeError(msg)

given: Connection | None = context.config.attributes.get("connection")
if given is None:
    _migrate_from_settings()
else:
    _migrate(given)
