"""What operators decide: limits, trading states and rollbacks; indexes for reading back."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "limit_changes",
        sa.Column("change_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("from_closes_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("capital_usdt", sa.BigInteger(), nullable=False),
        sa.Column("top_k", sa.Integer(), nullable=False),
        sa.Column("gross_cap", sa.Double(), nullable=False),
        sa.Column("symbol_cap", sa.Double(), nullable=False),
        *_decision(),
        sa.CheckConstraint(
            "capital_usdt > 0 AND top_k > 0 AND gross_cap > 0 AND symbol_cap > 0",
            name=op.f("limit_changes_positive_check"),
        ),
        sa.CheckConstraint("length(reason) > 0", name=op.f("limit_changes_reason_check")),
        sa.PrimaryKeyConstraint("change_id", name=op.f("limit_changes_pkey")),
    )
    op.create_table(
        "trading_states",
        sa.Column("change_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("from_closes_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("is_flattening", sa.Boolean(), nullable=False),
        *_decision(),
        sa.CheckConstraint(
            "state IN ('active', 'reduce_only', 'halted')",
            name=op.f("trading_states_state_check"),
        ),
        sa.CheckConstraint(
            "NOT is_flattening OR state <> 'active'", name=op.f("trading_states_flattening_check")
        ),
        sa.CheckConstraint("length(reason) > 0", name=op.f("trading_states_reason_check")),
        sa.PrimaryKeyConstraint("change_id", name=op.f("trading_states_pkey")),
    )
    op.add_column(
        "promotions",
        sa.Column("is_rollback", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    op.alter_column("promotions", "sha256", nullable=True)
    op.create_check_constraint(
        op.f("promotions_rollback_check"),
        "promotions",
        "NOT is_rollback OR (alias = 'champion' AND is_override)",
    )
    op.create_check_constraint(
        op.f("promotions_model_check"), "promotions", "sha256 IS NOT NULL OR is_rollback"
    )
    op.drop_constraint(op.f("promotions_name_alias_sha256_from_closes_at_key"), "promotions")
    op.create_index(
        "promotions_challenger_idx",
        "promotions",
        ["name", "sha256", "from_closes_at"],
        unique=True,
        postgresql_where=sa.text("alias = 'challenger'"),
    )
    for table, columns in (
        ("features", ["y", "x", "closes_at"]),
        ("orders", ["created_at"]),
        ("fills", ["filled_at"]),
        ("pair_positions", ["opened_at"]),
    ):
        op.create_index(op.f(f"{table}_{'_'.join(columns)}_idx"), table, columns)


def _decision() -> tuple[sa.Column[object], ...]:
    return (
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("decided_by", sa.Text(), nullable=False),
        sa.Column(
            "ingested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("source_uri", sa.Text(), nullable=False),
        sa.Column("transform_id", sa.Text(), nullable=False),
    )
