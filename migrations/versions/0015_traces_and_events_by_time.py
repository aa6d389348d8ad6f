"""Traces of jobs, and an index of the events that change a job's state by time, for monitoring"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("traceparent", sa.Text(), nullable=True))
    op.create_index(
        "ix_events_lifecycle",
        "events",
        ["created_at"],
        postgresql_where=sa.text(
            "type IN ('queued', 'claimed', 'released', 'lost', 'succeeded', 'failed', 'cancelled')"
        ),
    )


def downgrade() -> None:
    op.drop_index("ix_events_lifecycle", table_name="events")
    op.drop_column("jobs", "traceparent")
