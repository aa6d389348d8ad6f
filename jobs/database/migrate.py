"""Brings the schema up to date with Alembic, one process at a time."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, func, select

from jobs.database.connection import database_url

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"
LOCK = 0x4C495401


def upgrade(url: str, revision: str = "head") -> None:
    """Run the missing migrations. A second process waits for the first and then finds nothing to do."""
    engine = create_engine(database_url(url))
    try:
        with engine.begin() as connection:
            connection.execute(select(func.pg_advisory_xact_lock(LOCK)))
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
    finally:
        engine.dispose()


def is_current(connection: Connection) -> bool:
    """Whether the schema is the one that this code needs."""
    current = MigrationContext.configure(connection).get_current_revision()
    return current == ScriptDirectory.from_config(_config()).get_current_head()


def schema_fault(connection: Connection) -> str | None:
    """What is wrong with the schema and what to do; None if it is the one that this code needs."""
    current = MigrationContext.configure(connection).get_current_revision()
    scripts = ScriptDirectory.from_config(_config())
    if current == scripts.get_current_head():
        return None
    if current is None or current in {script.revision for script in scripts.walk_revisions()}:
        return "the database's schema is older than this version's: run `litc migrate`"
    return f"the database's schema {current} is of another, newer version: update this checkout and its packages"


def _config() -> Config:
    config = Config()
    # Doubled, because the option is interpolated.
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config
