"""The queue by owner within a device and a number of devices, and nodes in the index from which the queue is counted"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _index("ix_jobs_queued", ["device", "created_at", "id"], ["owner", "spec_version", "devices", "nodes"])
    _index("ix_jobs_owner_queued", ["device", "devices", "owner", "created_at", "id"], ["spec_version"])


def downgrade() -> None:
    _index("ix_jobs_owner_queued", ["owner", "created_at", "id"], ["device", "spec_version"])
    _index("ix_jobs_queued", ["device", "created_at", "id"], ["owner", "spec_version", "devices"])


def _index(name: str, columns: Sequence[str], included: Sequence[str]) -> None:
    op.drop_index(name, table_name="jobs")
    op.create_index(
        name,
        "jobs",
        columns,
        unique=False,
        postgresql_where=sa.text("state = 'queued'"),
        postgresql_include=included,
    )
