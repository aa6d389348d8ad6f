"""Failures of inspections: how often an inspecting worker was lost"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("uploads", sa.Column("inspection_failures", sa.BigInteger(), server_default="0", nullable=False))


def downgrade() -> None:
    op.drop_column("uploads", "inspection_failures")
