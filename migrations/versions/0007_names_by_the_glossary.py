"""Columns are called what they hold: writer, reads_curves, finished_jobs, finished_at"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

RENAMED = (
    ("uploads", "turn", "writer"),
    ("studies", "watches", "reads_curves"),
    ("studies", "seen", "finished_jobs"),
    ("spent_checkpoints", "ended_at", "finished_at"),
)
INDEX_BEFORE, INDEX_AFTER = "ix_spent_checkpoints_ended_at", "ix_spent_checkpoints_finished_at"


def upgrade() -> None:
    for table, before, after in RENAMED:
        op.alter_column(table, before, new_column_name=after)
    op.execute(f"ALTER INDEX {INDEX_BEFORE} RENAME TO {INDEX_AFTER}")


def downgrade() -> None:
    op.execute(f"ALTER INDEX {INDEX_AFTER} RENAME TO {INDEX_BEFORE}")
    for table, before, after in RENAMED:
        op.alter_column(table, after, new_column_name=before)
