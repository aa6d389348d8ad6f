"""When a running job's training will have finished"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("estimated_finish", sa.DateTime(timezone=True), nullable=True))
    op.create_check_constraint(
        op.f("ck_jobs_estimated_finish"), "jobs", "estimated_finish IS NULL OR state = 'running'"
    )


def downgrade() -> None:
    op.drop_constraint(op.f("ck_jobs_estimated_finish"), "jobs", type_="check")
    op.drop_column("jobs", "estimated_finish")
