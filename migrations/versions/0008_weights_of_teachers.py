"""Weights of teachers: which ones of a checkpoint with raw and averaged weights its owner wants"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("uploads", sa.Column("teacher_weights", sa.Text(), nullable=True))
    op.create_check_constraint(op.f("ck_uploads_teacher_weights"), "uploads", "teacher_weights IN ('raw', 'ema')")


def downgrade() -> None:
    op.drop_constraint(op.f("ck_uploads_teacher_weights"), "uploads", type_="check")
    op.drop_column("uploads", "teacher_weights")
