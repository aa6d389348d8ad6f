"""Jobs of several processes: how many each wants, how many a worker can run, and the seats of workers that join"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("devices", "nodes"):
        op.add_column("jobs", sa.Column(name, sa.BigInteger(), nullable=False, server_default="1"))
    _index_queue(["owner", "spec_version", "devices"])
    processes = sa.Column("processes", postgresql.JSONB(), nullable=False, server_default=sa.text("'{}'::jsonb"))
    op.add_column("workers", processes)
    op.create_table(
        "seats",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("node", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=True),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("lease_expires_at IS NULL OR worker_id IS NOT NULL", name=op.f("ck_seats_lease")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_seats_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "node", name=op.f("pk_seats")),
    )
    op.create_index("ix_seats_open", "seats", ["job_id"], postgresql_where=sa.text("worker_id IS NULL"))


def downgrade() -> None:
    op.drop_table("seats")
    op.drop_column("workers", "processes")
    _index_queue(["owner", "spec_version"])
    for name in ("devices", "nodes"):
        op.drop_column("jobs", name)


def _index_queue(included: list[str]) -> None:
    """The head of the queue is read from this index alone."""
    op.drop_index("ix_jobs_queued", table_name="jobs")
    op.create_index(
        "ix_jobs_queued",
        "jobs",
        ["device", "created_at", "id"],
        postgresql_where=sa.text("state = 'queued'"),
        postgresql_include=included,
    )
