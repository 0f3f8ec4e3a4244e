"""Payloads of the log are kept as they are: to compress one took longer than all else of a hop."""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE event_log ALTER COLUMN payload SET STORAGE EXTERNAL")


def downgrade() -> None:
    op.execute("ALTER TABLE event_log ALTER COLUMN payload SET STORAGE EXTENDED")
