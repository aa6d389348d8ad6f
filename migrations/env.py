"""Alembic's entry, for `jobs.database.migrate`, which gives the connection."""

from __future__ import annotations

from alembic import context

from jobs.database.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
