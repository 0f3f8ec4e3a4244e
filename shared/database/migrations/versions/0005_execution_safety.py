"""Leases with fencing tokens, adjustments, quarantined orders; targets and exposure of a pair."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    zero = sa.text("0")
    for column in (
        sa.Column("target_lots_y", sa.BigInteger(), server_default=zero, nullable=False),
        sa.Column("target_lots_x", sa.BigInteger(), server_default=zero, nullable=False),
        sa.Column("is_residue", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("exposed_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("exposed_ms", sa.BigInteger(), server_default=zero, nullable=False),
    ):
        op.add_column("pair_positions", column)
    op.create_index(op.f("orders_submitted_at_idx"), "orders", ["submitted_at"])
    op.create_table(
        "execution_leases",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column(
            "acquired_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint("token > 0", name=op.f("execution_leases_token_check")),
        sa.PrimaryKeyConstraint("account", name=op.f("execution_leases_pkey")),
    )
    op.create_table(
        "adjustments",
        sa.Column("adjustment_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("from_closes_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=True),
        sa.Column("position_id", sa.Text(), nullable=True),
        sa.Column("lots", sa.BigInteger(), nullable=False),
        sa.Column("price_ticks", sa.BigInteger(), nullable=True),
        sa.Column("amount_e8", sa.Numeric(38, 0), nullable=False),
        sa.Column("book_value", sa.Numeric(38, 0), nullable=False),
        sa.Column("venue_value", sa.Numeric(38, 0), nullable=False),
        *_lineage(),
        sa.CheckConstraint(
            "kind IN ('baseline', 'cash', 'position')", name=op.f("adjustments_kind_check")
        ),
        sa.CheckConstraint(
            "(kind = 'position') = (symbol IS NOT NULL)", name=op.f("adjustments_symbol_check")
        ),
        sa.CheckConstraint(
            "(kind = 'position') = (lots <> 0)", name=op.f("adjustments_lots_check")
        ),
        sa.PrimaryKeyConstraint("adjustment_id", name=op.f("adjustments_pkey")),
    )
    op.create_index(
        "adjustments_baseline_idx",
        "adjustments",
        ["account"],
        unique=True,
        postgresql_where=sa.text("kind = 'baseline'"),
    )
    op.create_table(
        "quarantined_orders",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("venue_order_id", sa.Text(), nullable=False),
        sa.Column("client_order_id", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("side", sa.Text(), nullable=False),
        sa.Column("quantity", sa.Numeric(), nullable=False),
        *_lineage(),
        sa.PrimaryKeyConstraint("account", "venue_order_id", name=op.f("quarantined_orders_pkey")),
    )


def _lineage() -> tuple[sa.Column[object], ...]:
    return (
        sa.Column(
            "ingested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("source_uri", sa.Text(), nullable=False),
        sa.Column("transform_id", sa.Text(), nullable=False),
    )
