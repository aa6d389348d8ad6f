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
        _rename_column(table, before, after)
    op.execute(f"ALTER INDEX {INDEX_BEFORE} RENAME TO {INDEX_AFTER}")


def downgrade() -> None:
    op.execute(f"ALTER INDEX {INDEX_AFTER} RENAME TO {INDEX_BEFORE}")
    for table, before, after in RENAMED:
        _rename_column(table, after, before)


def _rename_column(table: str, before: str, after: str) -> None:
    op.alter_column(table, before, new_column_name=after)
    # PostgreSQL 18 names the constraints of NOT NULL after their columns; earlier versions have none.
    old, new = f"{table}_{before}_not_null", f"{table}_{after}_not_null"
    op.execute(
        f"""
        DO $$ BEGIN
            IF EXISTS (SELECT FROM pg_constraint WHERE conname = '{old}' AND conrelid = '{table}'::regclass) THEN
                ALTER TABLE {table} RENAME CONSTRAINT {old} TO {new};
            END IF;
        END $$
        """
    )
