"""Who may do what: owners, scopes and expiry of keys; quotas of owners; the audit log"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

BYTES_OF_ARTIFACTS = """
UPDATE jobs
SET stored_bytes = (SELECT coalesce(sum((file ->> 'size')::bigint), 0) FROM jsonb_array_elements(manifest) AS file)
WHERE manifest IS NOT NULL
"""


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("owner", sa.Text(), nullable=True))
    # Each key was an owner of its own, and could do all that there was to do.
    op.execute("UPDATE api_keys SET owner = id")
    op.alter_column("api_keys", "owner", nullable=False)
    op.add_column(
        "api_keys",
        sa.Column(
            "scopes", postgresql.ARRAY(sa.Text()), server_default=sa.text("ARRAY['read', 'submit']"), nullable=False
        ),
    )
    op.alter_column("api_keys", "scopes", server_default=None)
    for name in ("expires_at", "last_used_at"):
        op.add_column("api_keys", sa.Column(name, sa.DateTime(timezone=True), nullable=True))
    op.add_column("api_keys", sa.Column("replaced_by", sa.Text(), nullable=True))
    op.create_index("ix_api_keys_created_at_id", "api_keys", ["created_at", "id"])

    op.create_table(
        "owner_quotas",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("limits", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("owner", name=op.f("pk_owner_quotas")),
    )
    op.add_column("jobs", sa.Column("stored_bytes", sa.BigInteger(), server_default="0", nullable=False))
    # Among others the trigger that refuses to change finished jobs.
    op.execute("ALTER TABLE jobs DISABLE TRIGGER USER")
    op.execute(BYTES_OF_ARTIFACTS)
    op.execute("ALTER TABLE jobs ENABLE TRIGGER USER")
    op.create_index(
        "ix_jobs_owner_stored_bytes",
        "jobs",
        ["owner", "stored_bytes"],
        postgresql_where=sa.text("stored_bytes > 0"),
    )
    op.create_index(
        "ix_jobs_owner_queued", "jobs", ["owner", "created_at", "id"], postgresql_where=sa.text("state = 'queued'")
    )

    op.create_table(
        "audit_log",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("key_id", sa.Text(), nullable=True),
        sa.Column("subject", sa.Text(), nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("object_id", sa.Text(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("detail", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.CheckConstraint("outcome IN ('done', 'denied')", name=op.f("ck_audit_log_outcome")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
    )
    op.create_index("ix_audit_log_created_at_id", "audit_log", ["created_at", "id"])
    op.create_index("ix_audit_log_owner_created_at_id", "audit_log", ["owner", "created_at", "id"])
    op.create_index("ix_audit_log_object_id", "audit_log", ["object_id"])


def downgrade() -> None:
    op.drop_table("audit_log")
    op.drop_index("ix_jobs_owner_queued", "jobs")
    op.drop_index("ix_jobs_owner_stored_bytes", "jobs")
    op.drop_column("jobs", "stored_bytes")
    op.drop_table("owner_quotas")
    op.drop_index("ix_api_keys_created_at_id", "api_keys")
    for name in ("replaced_by", "last_used_at", "expires_at", "scopes", "owner"):
        op.drop_column("api_keys", name)
