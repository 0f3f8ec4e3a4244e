"""Rows that repeat events have cursors of their own: up to here they went with the events."""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_RECORDED = (
    ("features", "features.computed"),
    ("signals", "signals.raised"),
    ("portfolio", "orders.requested"),
)


def upgrade() -> None:
    for owner, topic in _RECORDED:
        op.execute(
            f"""
            INSERT INTO consumer_offset (consumer, topic, seq)
            SELECT '{owner}', topic, seq FROM stream_head WHERE topic = '{topic}'
            """  # noqa: S608 - text of this file
        )


def downgrade() -> None:
    for owner, topic in _RECORDED:
        op.execute(
            f"DELETE FROM consumer_offset WHERE consumer = '{owner}' AND topic = '{topic}'"  # noqa: S608 - text of this file
        )
