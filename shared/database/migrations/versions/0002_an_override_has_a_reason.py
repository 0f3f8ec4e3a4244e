"""An override has a reason: the check was unknown, not false, of none at all."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NAME = op.f("promotions_override_check")


def upgrade() -> None:
    op.drop_constraint(NAME, "promotions")
    op.create_check_constraint(
        NAME, "promotions", "NOT is_override OR length(coalesce(override_reason, '')) > 0"
    )
