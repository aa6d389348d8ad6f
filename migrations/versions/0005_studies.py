"""Studies"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "studies",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("tags", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("study_version", sa.BigInteger(), nullable=False),
        sa.Column("request", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("spec", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("round", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column("watches", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("planned", sa.BigInteger(), nullable=False),
        sa.Column("seen", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("result", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("error", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("version", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'running') = (finished_at IS NULL)", name=op.f("ck_studies_finished_at")),
        sa.CheckConstraint("state IN ('running', 'succeeded', 'failed', 'cancelled')", name=op.f("ck_studies_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_studies")),
    )
    op.create_index("ix_studies_owner_created_at_id", "studies", ["owner", "created_at", "id"], unique=False)
    op.create_index(
        "ix_studies_running", "studies", ["created_at"], unique=False, postgresql_where=sa.text("state = 'running'")
    )
    op.create_index("ix_studies_tags", "studies", ["tags"], unique=False, postgresql_using="gin")
    op.create_table(
        "study_uploads",
        sa.Column("study_id", sa.Text(), nullable=False),
        sa.Column("upload_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_id"], ["studies.id"], name=op.f("fk_study_uploads_study_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("study_id", "upload_id", name=op.f("pk_study_uploads")),
    )
    op.create_index(op.f("ix_study_uploads_upload_id"), "study_uploads", ["upload_id"], unique=False)

    op.add_column("jobs", sa.Column("study_id", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("trial", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True))
    op.add_column("jobs", sa.Column("trial_round", sa.BigInteger(), nullable=True))
    op.add_column("jobs", sa.Column("trial_stopped", sa.Text(), nullable=True))
    op.create_foreign_key(op.f("fk_jobs_study_id"), "jobs", "studies", ["study_id"], ["id"])
    op.create_check_constraint(op.f("ck_jobs_trial"), "jobs", "(study_id IS NULL) = (trial IS NULL)")
    op.create_check_constraint(op.f("ck_jobs_trial_stopped"), "jobs", "trial_stopped IN ('hopeless', 'unneeded')")
    op.create_index(
        "ix_jobs_study_id_trial_trial_round",
        "jobs",
        ["study_id", "trial", "trial_round"],
        unique=True,
        postgresql_where=sa.text("study_id IS NOT NULL"),
    )
    op.create_index(
        "ix_jobs_study_id_state",
        "jobs",
        ["study_id", "state"],
        unique=False,
        postgresql_where=sa.text("study_id IS NOT NULL"),
    )

    op.alter_column("idempotency_keys", "job_id", existing_type=sa.Text(), nullable=True)
    op.add_column("idempotency_keys", sa.Column("study_id", sa.Text(), nullable=True))
    op.create_foreign_key(
        op.f("fk_idempotency_keys_study_id"), "idempotency_keys", "studies", ["study_id"], ["id"], ondelete="CASCADE"
    )
    op.create_check_constraint(
        op.f("ck_idempotency_keys_one_made"), "idempotency_keys", "num_nonnulls(job_id, study_id) = 1"
    )
    op.create_index(op.f("ix_idempotency_keys_study_id"), "idempotency_keys", ["study_id"], unique=False)


def downgrade() -> None:
    # Trials stay, as ordinary jobs; what was made of studies alone goes.
    op.execute("DELETE FROM idempotency_keys WHERE study_id IS NOT NULL")
    op.drop_index(op.f("ix_idempotency_keys_study_id"), table_name="idempotency_keys")
    op.drop_constraint(op.f("ck_idempotency_keys_one_made"), "idempotency_keys", type_="check")
    op.drop_constraint(op.f("fk_idempotency_keys_study_id"), "idempotency_keys", type_="foreignkey")
    op.drop_column("idempotency_keys", "study_id")
    op.alter_column("idempotency_keys", "job_id", existing_type=sa.Text(), nullable=False)

    op.drop_index("ix_jobs_study_id_state", table_name="jobs", postgresql_where=sa.text("study_id IS NOT NULL"))
    op.drop_index(
        "ix_jobs_study_id_trial_trial_round", table_name="jobs", postgresql_where=sa.text("study_id IS NOT NULL")
    )
    op.drop_constraint(op.f("ck_jobs_trial_stopped"), "jobs", type_="check")
    op.drop_constraint(op.f("ck_jobs_trial"), "jobs", type_="check")
    op.drop_constraint(op.f("fk_jobs_study_id"), "jobs", type_="foreignkey")
    for column in ("trial_stopped", "trial_round", "trial", "study_id"):
        op.drop_column("jobs", column)

    op.drop_index(op.f("ix_study_uploads_upload_id"), table_name="study_uploads")
    op.drop_table("study_uploads")
    op.drop_index("ix_studies_tags", table_name="studies", postgresql_using="gin")
    op.drop_index("ix_studies_running", table_name="studies", postgresql_where=sa.text("state = 'running'"))
    op.drop_index("ix_studies_owner_created_at_id", table_name="studies")
    op.drop_table("studies")
