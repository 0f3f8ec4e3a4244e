"""A screen tells how many symbols it tested on how many bars."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "screens",
        sa.Column(
            "symbols_by_bars", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
    )
