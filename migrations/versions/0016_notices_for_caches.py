"""Notifications of what API processes keep in memory: API keys, and jobs that are deleted"""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

NOTIFY = """
CREATE FUNCTION notify_of_keys() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('lit', 'api-keys');
    RETURN NULL;
END $$;

CREATE TRIGGER notify_of_keys
AFTER INSERT OR DELETE OR UPDATE OF id, name, owner, scopes, hash, expires_at, revoked_at ON api_keys
FOR EACH STATEMENT EXECUTE FUNCTION notify_of_keys();

CREATE FUNCTION notify_of_deleted_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('lit', OLD.id);
    RETURN NULL;
END $$;

CREATE TRIGGER notify_of_deleted_job AFTER DELETE ON jobs
FOR EACH ROW EXECUTE FUNCTION notify_of_deleted_job();
"""


def upgrade() -> None:
    op.execute(NOTIFY)


def downgrade() -> None:
    op.execute("DROP TRIGGER notify_of_deleted_job ON jobs")
    op.execute("DROP FUNCTION notify_of_deleted_job")
    op.execute("DROP TRIGGER notify_of_keys ON api_keys")
    op.execute("DROP FUNCTION notify_of_keys")
