"""Alembic, run from code: the service and its tests get their schema in the same way."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine

from sample_app.core.config import Settings
from sample_app.core.database import make_engine
from sample_app.core.traps import Traps

_FOLDER: Final = Path(__file__).resolve().parents[1] / "migrations"


def config(connection: Connection, traps: Traps | None = None) -> Config:
    """Tell Alembic where the migrations are and which connection to use."""
    made = Config()
    made.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    made.attributes["connection"] = connection
    made.attributes["traps"] = traps or Traps()
    return made


def upgrade(target: Engine | str, revision: str = "head", *, traps: Traps | None = None) -> None:
    """Bring the database up to ``revision`` in one transaction."""
    if isinstance(target, str):
        engine = make_engine(Settings(database_url=target))
        try:
            upgrade(engine, revision, traps=traps)
        finally:
            engine.dispose()
        return
    with target.begin() as connection:
        command.upgrade(config(connection, traps), revision)


def downgrade(engine: Engine, revision: str = "base") -> None:
    """Take the schema back to ``revision`` in one transaction."""
    with engine.begin() as connection:
        command.downgrade(config(connection), revision)
