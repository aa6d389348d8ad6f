"""Growth: one row for an epoch's metrics, tags in the order of lists, and an index for each list and each duty"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

QUEUED = sa.text("state = 'queued'")
RUNNING = sa.text("state = 'running'")
PLANNED = sa.text("state = 'pending' AND due_at IS NOT NULL")

NOTE_TAGS = """
CREATE FUNCTION note_{one}_tags() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO {one}_tags (owner, tag, created_at, {one}_id)
    SELECT DISTINCT NEW.owner, tag, NEW.created_at, NEW.id FROM unnest(NEW.tags) AS tag;
    RETURN NULL;
END $$;

CREATE TRIGGER note_{one}_tags AFTER INSERT ON {many}
FOR EACH ROW WHEN (cardinality(NEW.tags) > 0)
EXECUTE FUNCTION note_{one}_tags();

INSERT INTO {one}_tags (owner, tag, created_at, {one}_id)
SELECT DISTINCT owner, tag, created_at, id FROM {many}, unnest(tags) AS tag;
"""

# Statements that add many rows write the owner's row once. Changes of jobs do it by row: most of them change no sizes,
# and a trigger for statements would copy each row. A job's deletion needs the row of its files, which goes with it. It locks that row before the owner's, as
# retention does: if the files are just being removed, it waits, and then does not count them again.
COUNT_BYTES = """
CREATE FUNCTION add_owner_bytes(of_owner text, more bigint) RETURNS void LANGUAGE sql AS $$
    INSERT INTO owner_bytes AS known (owner, bytes) VALUES (of_owner, more)
    ON CONFLICT (owner) DO UPDATE SET bytes = known.bytes + EXCLUDED.bytes;
$$;

CREATE FUNCTION count_new_uploads() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM add_owner_bytes(owner, sum(size)::bigint) FROM added GROUP BY owner ORDER BY owner;
    RETURN NULL;
END $$;
CREATE TRIGGER count_new_uploads AFTER INSERT ON uploads REFERENCING NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION count_new_uploads();

CREATE FUNCTION count_deleted_uploads() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM add_owner_bytes(owner, -sum(size)::bigint) FROM removed GROUP BY owner ORDER BY owner;
    RETURN NULL;
END $$;
CREATE TRIGGER count_deleted_uploads AFTER DELETE ON uploads REFERENCING OLD TABLE AS removed
FOR EACH STATEMENT EXECUTE FUNCTION count_deleted_uploads();

CREATE FUNCTION count_new_jobs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM add_owner_bytes(owner, sum(stored_bytes)::bigint) FROM added
    WHERE stored_bytes > 0 GROUP BY owner ORDER BY owner;
    RETURN NULL;
END $$;
CREATE TRIGGER count_new_jobs AFTER INSERT ON jobs REFERENCING NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION count_new_jobs();

CREATE FUNCTION count_job_files() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM add_owner_bytes(NEW.owner, NEW.stored_bytes - OLD.stored_bytes);
    RETURN NULL;
END $$;
CREATE TRIGGER count_job_files AFTER UPDATE OF stored_bytes ON jobs
FOR EACH ROW WHEN (NEW.stored_bytes <> OLD.stored_bytes) EXECUTE FUNCTION count_job_files();

CREATE FUNCTION count_deleted_job() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    counted_at timestamptz;
BEGIN
    SELECT removed_at INTO counted_at FROM job_files WHERE job_id = OLD.id FOR UPDATE;
    IF counted_at IS NULL THEN
        PERFORM add_owner_bytes(OLD.owner, -OLD.stored_bytes);
    END IF;
    RETURN OLD;
END $$;
CREATE TRIGGER count_deleted_job BEFORE DELETE ON jobs
FOR EACH ROW WHEN (OLD.stored_bytes > 0) EXECUTE FUNCTION count_deleted_job();

CREATE FUNCTION count_removed_files() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM add_owner_bytes(owner, -stored_bytes) FROM jobs WHERE id = NEW.job_id AND stored_bytes > 0;
    RETURN NULL;
END $$;
CREATE TRIGGER count_removed_files AFTER UPDATE OF removed_at ON job_files
FOR EACH ROW WHEN (OLD.removed_at IS NULL AND NEW.removed_at IS NOT NULL) EXECUTE FUNCTION count_removed_files();

INSERT INTO owner_bytes (owner, bytes)
SELECT owner, sum(size) FROM (
    SELECT owner, size FROM uploads
    UNION ALL
    SELECT owner, stored_bytes FROM jobs LEFT JOIN job_files ON job_id = jobs.id
    WHERE stored_bytes > 0 AND removed_at IS NULL
) AS stored GROUP BY owner;
"""
COUNTING = {
    "count_new_uploads": "uploads",
    "count_deleted_uploads": "uploads",
    "count_new_jobs": "jobs",
    "count_job_files": "jobs",
    "count_deleted_job": "jobs",
    "count_removed_files": "job_files",
}

# A job's row is changed once a second while it runs, and leaves the queue's index when it is claimed. With free space
# in its page the change costs no index entry; without early vacuuming claims would pass over what the index still has.
STORAGE_OF_JOBS = """
ALTER TABLE jobs SET (
    fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02
)
"""
STORAGE_OF_JOBS_BEFORE = """
ALTER TABLE jobs RESET (
    fillfactor, autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold,
    autovacuum_vacuum_insert_scale_factor, autovacuum_analyze_scale_factor
)
"""


def upgrade() -> None:
    _gather_metrics()
    _make_tags("job", "jobs")
    _make_tags("study", "studies")
    for table in ("jobs", "studies"):
        op.create_index(
            f"ix_{table}_owner_state_created_at_id", table, ["owner", "state", "created_at", "id"], unique=False
        )
        op.create_index(
            f"ix_{table}_owner_name_created_at_id",
            table,
            ["owner", "name", "created_at", "id"],
            unique=False,
            postgresql_where=sa.text("name IS NOT NULL"),
        )
    op.create_index(
        "ix_jobs_study_id_created_at_id",
        "jobs",
        ["study_id", "created_at", "id"],
        unique=False,
        postgresql_where=sa.text("study_id IS NOT NULL"),
    )
    op.drop_index("ix_jobs_queued", "jobs")
    op.create_index(
        "ix_jobs_queued",
        "jobs",
        ["device", "created_at", "id"],
        unique=False,
        postgresql_where=QUEUED,
        postgresql_include=["owner", "spec_version"],
    )
    op.drop_index("ix_jobs_owner_queued", "jobs")
    op.create_index(
        "ix_jobs_owner_queued",
        "jobs",
        ["owner", "created_at", "id"],
        unique=False,
        postgresql_where=QUEUED,
        postgresql_include=["device", "spec_version"],
    )
    op.drop_index("ix_jobs_running", "jobs")
    op.create_index("ix_jobs_running", "jobs", ["owner"], unique=False, postgresql_where=RUNNING)
    op.execute(STORAGE_OF_JOBS)
    op.drop_index("ix_jobs_owner_stored_bytes", "jobs")
    op.create_table(
        "owner_bytes",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("owner", name=op.f("pk_owner_bytes")),
    )
    op.execute(COUNT_BYTES)

    op.create_index(
        "ix_uploads_unfinished", "uploads", ["id"], unique=False, postgresql_where=sa.text("state = 'uploading'")
    )
    op.add_column("uploads", sa.Column("unused_since", sa.DateTime(timezone=True), nullable=True))
    op.create_index(
        "ix_uploads_unused_since",
        "uploads",
        [sa.text("coalesce(unused_since, completed_at)")],
        unique=False,
        postgresql_where=sa.text("state = 'complete'"),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"], unique=False)
    op.drop_index("ix_audit_log_object_id", "audit_log")
    for column in ("key_id", "action", "object_id"):
        op.create_index(f"ix_audit_log_{column}_created_at_id", "audit_log", [column, "created_at", "id"], unique=False)
    op.create_index(
        "ix_webhook_deliveries_webhook_id_state_created_at_id",
        "webhook_deliveries",
        ["webhook_id", "state", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        "ix_webhook_deliveries_webhook_id_due",
        "webhook_deliveries",
        ["webhook_id", "due_at", "id"],
        unique=False,
        postgresql_where=PLANNED,
    )


def downgrade() -> None:
    op.drop_index("ix_webhook_deliveries_webhook_id_due", "webhook_deliveries")
    op.drop_index("ix_webhook_deliveries_webhook_id_state_created_at_id", "webhook_deliveries")
    for column in ("key_id", "action", "object_id"):
        op.drop_index(f"ix_audit_log_{column}_created_at_id", "audit_log")
    op.create_index("ix_audit_log_object_id", "audit_log", ["object_id"])
    op.drop_index("ix_idempotency_keys_created_at", "idempotency_keys")
    op.drop_index("ix_uploads_unused_since", "uploads")
    op.drop_column("uploads", "unused_since")
    op.drop_index("ix_uploads_unfinished", "uploads")

    for name, table in COUNTING.items():
        op.execute(f"DROP TRIGGER {name} ON {table}")
        op.execute(f"DROP FUNCTION {name}")
    op.execute("DROP FUNCTION add_owner_bytes")
    op.drop_table("owner_bytes")
    op.create_index(
        "ix_jobs_owner_stored_bytes", "jobs", ["owner", "stored_bytes"], postgresql_where=sa.text("stored_bytes > 0")
    )
    op.execute(STORAGE_OF_JOBS_BEFORE)
    op.drop_index("ix_jobs_running", "jobs")
    op.create_index("ix_jobs_running", "jobs", ["lease_expires_at"], unique=False, postgresql_where=RUNNING)
    op.drop_index("ix_jobs_queued", "jobs")
    op.create_index("ix_jobs_queued", "jobs", ["created_at", "id"], unique=False, postgresql_where=QUEUED)
    op.drop_index("ix_jobs_owner_queued", "jobs")
    op.create_index(
        "ix_jobs_owner_queued", "jobs", ["owner", "created_at", "id"], unique=False, postgresql_where=QUEUED
    )
    op.drop_index("ix_jobs_study_id_created_at_id", "jobs")
    for table in ("jobs", "studies"):
        op.drop_index(f"ix_{table}_owner_name_created_at_id", table)
        op.drop_index(f"ix_{table}_owner_state_created_at_id", table)
    _drop_tags("study", "studies")
    _drop_tags("job", "jobs")
    _spread_metrics()


def _gather_metrics() -> None:
    op.create_table(
        "epoch_metrics",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("values", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
    )
    op.execute(
        "INSERT INTO epoch_metrics SELECT job_id, phase, epoch, jsonb_object_agg(name, value), max(attempt) "
        "FROM metrics GROUP BY job_id, phase, epoch"
    )
    # After the rows: an index is built faster than it grows, and one join checks all of them.
    op.create_primary_key(op.f("pk_epoch_metrics"), "epoch_metrics", ["job_id", "phase", "epoch"])
    op.create_foreign_key(
        op.f("fk_epoch_metrics_job_id"), "epoch_metrics", "jobs", ["job_id"], ["id"], ondelete="CASCADE"
    )
    op.drop_table("metrics")


def _spread_metrics() -> None:
    op.create_table(
        "metrics",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
    )
    op.execute(
        "INSERT INTO metrics SELECT job_id, phase, epoch, number.key, number.value::double precision, attempt "
        "FROM epoch_metrics, jsonb_each_text(values) AS number"
    )
    op.create_primary_key(op.f("pk_metrics"), "metrics", ["job_id", "phase", "epoch", "name"])
    op.create_foreign_key(op.f("fk_metrics_job_id"), "metrics", "jobs", ["job_id"], ["id"], ondelete="CASCADE")
    op.drop_table("epoch_metrics")


def _make_tags(one: str, many: str) -> None:
    table, reference = f"{one}_tags", f"{one}_id"
    op.create_table(
        table,
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("tag", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(reference, sa.Text(), nullable=False),
        sa.ForeignKeyConstraint([reference], [f"{many}.id"], name=op.f(f"fk_{table}_{reference}"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("owner", "tag", "created_at", reference, name=op.f(f"pk_{table}")),
    )
    op.create_index(op.f(f"ix_{table}_{reference}"), table, [reference], unique=False)
    op.execute(NOTE_TAGS.format(one=one, many=many))
    op.drop_index(f"ix_{many}_tags", many)


def _drop_tags(one: str, many: str) -> None:
    op.create_index(f"ix_{many}_tags", many, ["tags"], unique=False, postgresql_using="gin")
    op.execute(f"DROP TRIGGER note_{one}_tags ON {many}")
    op.execute(f"DROP FUNCTION note_{one}_tags")
    op.drop_table(f"{one}_tags")
