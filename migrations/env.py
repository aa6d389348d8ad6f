"""Alembic's entry: `jobs.migrate` gives the connection; `alembic` on the command line takes DATABASE_URL."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, create_engine

from jobs.database import database_url
from jobs.models import Base
from jobs.settings import Settings


def run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata, transaction_per_migration=False)
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    url = Settings().database_url
    if url is None:
        raise SystemExit("set DATABASE_URL")
    with create_engine(database_url(url)).begin() as own:
        run(own)
