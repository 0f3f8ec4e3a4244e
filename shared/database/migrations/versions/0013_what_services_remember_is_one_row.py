"""What signals and the portfolio remember is one row each, which each close writes anew.

The tables it was in before are views of it now.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_TRADES = (
    "y text, x text, side smallint, entered_at_ms bigint, hedge_ratio double precision, "
    "intercept double precision, spread_mean double precision, spread_std double precision, "
    "last_close_y double precision, last_close_x double precision, bars_held integer, "
    "missing_closes integer, cooldown_left integer, model_sha256 text"
)
_TARGETS = (
    "y text, x text, position_id text, notional_y_e8 bigint, notional_x_e8 bigint, "
    "is_closing boolean"
)
_ENTERED_AT = "to_timestamp(entered_at_ms / 1000.0)"


def upgrade() -> None:
    for name, column in (("rule_memory", "trades"), ("slot_memory", "targets")):
        op.create_table(
            name,
            sa.Column("service", sa.Text(), nullable=False),
            sa.Column(column, sa.JSON(), nullable=False),
            sa.PrimaryKeyConstraint("service", name=op.f(f"{name}_pkey")),
        )
        op.execute(f"ALTER TABLE {name} ALTER COLUMN {column} SET STORAGE EXTERNAL")
    op.execute(
        """
        INSERT INTO rule_memory
        SELECT 'signals', json_agg(trade) FROM (
            SELECT y, x, side, CAST(extract(epoch FROM entered_at) * 1000 AS bigint)
                     AS entered_at_ms,
                   hedge_ratio, intercept, spread_mean, spread_std, last_close_y, last_close_x,
                   bars_held, missing_closes, cooldown_left, model_sha256
            FROM pair_trades ORDER BY y, x
        ) AS trade HAVING count(*) > 0
        """
    )
    op.execute(
        """
        INSERT INTO slot_memory
        SELECT 'portfolio', json_agg(target) FROM (
            SELECT y, x, position_id, notional_y_e8, notional_x_e8, is_closing
            FROM live_targets ORDER BY y, x
        ) AS target HAVING count(*) > 0
        """
    )
    op.drop_table("pair_trades")
    op.drop_table("live_targets")
    op.execute(
        f"""
        CREATE VIEW pair_trades AS
        SELECT y, x, side, {_ENTERED_AT} AS entered_at, hedge_ratio, intercept, spread_mean,
               spread_std, last_close_y, last_close_x, bars_held, missing_closes, cooldown_left,
               model_sha256
        FROM rule_memory, json_to_recordset(trades) AS trade ({_TRADES})
        """  # noqa: S608 - text of this file
    )
    op.execute(
        f"""
        CREATE VIEW live_targets AS
        SELECT target.* FROM slot_memory, json_to_recordset(targets) AS target ({_TARGETS})
        """  # noqa: S608 - text of this file
    )


def downgrade() -> None:
    op.execute("ALTER VIEW pair_trades RENAME TO remembered_trades")
    op.execute("ALTER VIEW live_targets RENAME TO remembered_targets")
    op.create_table(
        "pair_trades",
        sa.Column("y", sa.Text(), nullable=False),
        sa.Column("x", sa.Text(), nullable=False),
        sa.Column("side", sa.SmallInteger(), nullable=False),
        sa.Column("entered_at", sa.DateTime(timezone=True), nullable=False),
        *(
            sa.Column(name, sa.Double(), nullable=False)
            for name in (
                "hedge_ratio",
                "intercept",
                "spread_mean",
                "spread_std",
                "last_close_y",
                "last_close_x",
            )
        ),
        sa.Column("bars_held", sa.Integer(), nullable=False),
        sa.Column("missing_closes", sa.Integer(), nullable=False),
        sa.Column("cooldown_left", sa.Integer(), nullable=False),
        sa.Column("model_sha256", sa.Text()),
        sa.CheckConstraint("side IN (-1, 0, 1)", name=op.f("pair_trades_side_check")),
        sa.PrimaryKeyConstraint("y", "x", name=op.f("pair_trades_pkey")),
    )
    op.create_table(
        "live_targets",
        sa.Column("y", sa.Text(), nullable=False),
        sa.Column("x", sa.Text(), nullable=False),
        sa.Column("position_id", sa.Text(), nullable=False),
        sa.Column("notional_y_e8", sa.BigInteger(), nullable=False),
        sa.Column("notional_x_e8", sa.BigInteger(), nullable=False),
        sa.Column("is_closing", sa.Boolean(), nullable=False),
        sa.CheckConstraint(
            "notional_y_e8 > 0 AND notional_x_e8 > 0", name=op.f("live_targets_notional_check")
        ),
        sa.PrimaryKeyConstraint("y", "x", name=op.f("live_targets_pkey")),
        sa.UniqueConstraint("position_id", name=op.f("live_targets_position_id_key")),
    )
    op.execute("INSERT INTO pair_trades SELECT * FROM remembered_trades")
    op.execute("INSERT INTO live_targets SELECT * FROM remembered_targets")
    op.execute("DROP VIEW remembered_trades")
    op.execute("DROP VIEW remembered_targets")
    op.drop_table("rule_memory")
    op.drop_table("slot_memory")
