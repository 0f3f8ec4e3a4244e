"""Fills are held against the model's, and every training says what it was for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("drift_checks", sa.Column("slippage", JSONB()))
    # A check of fills is of no model, so a model and a close are no primary key any more.
    op.drop_constraint(op.f("drift_checks_pkey"), "drift_checks", type_="primary")
    op.alter_column("drift_checks", "sha256", nullable=True)
    op.create_unique_constraint(
        op.f("drift_checks_sha256_closes_at_key"),
        "drift_checks",
        ["sha256", "closes_at"],
        postgresql_nulls_not_distinct=True,
    )
    op.create_check_constraint(
        op.f("drift_checks_subject_check"), "drift_checks", "sha256 IS NULL OR slippage IS NULL"
    )
    op.create_table(
        "trainings",
        sa.Column("training_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("closes_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("occasion", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text()),
        sa.Column("fault", sa.Text()),
        sa.Column(
            "ingested_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.Column("source_uri", sa.Text(), nullable=False),
        sa.Column("transform_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("training_id", name=op.f("trainings_pkey")),
        sa.ForeignKeyConstraint(["sha256"], ["models.sha256"], name=op.f("trainings_sha256_fkey")),
        sa.CheckConstraint(
            "occasion IN ('request', 'first', 'schedule', 'roster', 'drift', 'age')",
            name=op.f("trainings_occasion_check"),
        ),
        sa.CheckConstraint(
            "(sha256 IS NULL) <> (fault IS NULL)", name=op.f("trainings_outcome_check")
        ),
        sa.CheckConstraint("length(reason) > 0", name=op.f("trainings_reason_check")),
    )
    op.create_index(op.f("trainings_closes_at_idx"), "trainings", ["closes_at"])
