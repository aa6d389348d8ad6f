"""Turns of uploads: which request may write"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("uploads", sa.Column("turn", sa.BigInteger(), server_default="0", nullable=False))


def downgrade() -> None:
    op.drop_column("uploads", "turn")
