"""Retention: what becomes of the files of finished jobs, and of uploads that nobody uses"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

NOTE_FILES = """
CREATE FUNCTION note_job_files() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO job_files (job_id, finished_at) VALUES (NEW.id, NEW.finished_at)
    ON CONFLICT (job_id) DO UPDATE SET finished_at = EXCLUDED.finished_at;
    RETURN NULL;
END $$;

CREATE TRIGGER note_job_files AFTER UPDATE OF state ON jobs
FOR EACH ROW WHEN (NEW.finished_at IS NOT NULL)
EXECUTE FUNCTION note_job_files();

INSERT INTO job_files (job_id, finished_at) SELECT id, finished_at FROM jobs WHERE finished_at IS NOT NULL;
"""


def upgrade() -> None:
    op.create_table(
        "job_files",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("kept", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_files_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_job_files")),
    )
    op.create_index(
        "ix_job_files_finished_at",
        "job_files",
        ["finished_at"],
        unique=False,
        postgresql_where=sa.text("removed_at IS NULL AND NOT kept"),
    )
    op.create_table(
        "storage_removals",
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("remove_after", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("prefix", name=op.f("pk_storage_removals")),
    )
    op.create_index(op.f("ix_storage_removals_remove_after"), "storage_removals", ["remove_after"], unique=False)
    op.add_column("uploads", sa.Column("used_at", sa.DateTime(timezone=True), nullable=True))
    op.execute(NOTE_FILES)


def downgrade() -> None:
    op.execute("DROP TRIGGER note_job_files ON jobs")
    op.execute("DROP FUNCTION note_job_files")
    op.drop_column("uploads", "used_at")
    op.drop_table("storage_removals")
    op.drop_table("job_files")
