"""What broken workers do: news sent twice, checkpoints left behind, storage of another ledger"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


NOTE_SPENT_CHECKPOINTS = """
CREATE FUNCTION note_spent_checkpoints() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO spent_checkpoints (job_id) VALUES (NEW.id);
    RETURN NULL;
END $$;

CREATE TRIGGER note_spent_checkpoints AFTER UPDATE OF state ON jobs
FOR EACH ROW WHEN (NEW.attempt > 0 AND NEW.state IN ('succeeded', 'failed', 'cancelled'))
EXECUTE FUNCTION note_spent_checkpoints();

INSERT INTO spent_checkpoints (job_id)
SELECT id FROM jobs WHERE attempt > 0 AND state IN ('succeeded', 'failed', 'cancelled');
"""


def upgrade() -> None:
    op.add_column("jobs", sa.Column("batch", sa.Text(), nullable=True))
    op.create_table(
        "spent_checkpoints",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_spent_checkpoints_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_spent_checkpoints")),
    )
    op.create_index(op.f("ix_spent_checkpoints_ended_at"), "spent_checkpoints", ["ended_at"], unique=False)
    op.execute(NOTE_SPENT_CHECKPOINTS)
    op.create_table(
        "storage_marker",
        sa.Column("id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_storage_marker")),
    )
    op.execute("INSERT INTO storage_marker (id) VALUES (gen_random_uuid()::text)")


def downgrade() -> None:
    op.drop_table("storage_marker")
    op.execute("DROP TRIGGER note_spent_checkpoints ON jobs")
    op.execute("DROP FUNCTION note_spent_checkpoints")
    op.drop_index(op.f("ix_spent_checkpoints_ended_at"), table_name="spent_checkpoints")
    op.drop_table("spent_checkpoints")
    op.drop_column("jobs", "batch")
