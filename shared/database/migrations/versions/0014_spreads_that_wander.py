"""A check of drift tells whether spreads have begun to wander."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("drift_checks", sa.Column("walk_log_odds", sa.Double()))


def downgrade() -> None:
    op.drop_column("drift_checks", "walk_log_odds")
