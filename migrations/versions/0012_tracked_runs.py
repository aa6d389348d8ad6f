"""Tracked runs: which run of a tracking server follows which job, and how far it is"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    now = sa.text("clock_timestamp()")
    op.create_table(
        "tracked_runs",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("tracking_uri", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("experiment_id", sa.Text(), nullable=True),
        sa.Column("stage", sa.Text(), server_default="new", nullable=False),
        sa.Column("event_seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("epochs", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("registered", postgresql.JSONB(none_as_null=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("failures", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("turn", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.CheckConstraint(
            "stage IN ('new', 'live', 'ended', 'stored', 'complete')", name=op.f("ck_tracked_runs_stage")
        ),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_tracked_runs")),
    )
    op.create_index("ix_tracked_runs_due", "tracked_runs", ["due_at"], postgresql_where=sa.text("stage <> 'complete'"))


def downgrade() -> None:
    op.drop_table("tracked_runs")
