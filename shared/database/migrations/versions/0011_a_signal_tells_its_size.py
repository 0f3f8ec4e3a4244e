"""A signal tells how much of a pair's gross notional it is to get."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "signals", sa.Column("size_ppm", sa.Integer(), server_default="1000000", nullable=False)
    )
