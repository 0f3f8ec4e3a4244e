"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "account",
        sa.Column("closes_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("cash_e8", sa.Numeric(precision=38, scale=0), nullable=False),
        sa.Column("equity_e8", sa.Numeric(precision=38, scale=0), nullable=False),
        sa.Column("gross_e8", sa.Numeric(precision=38, scale=0), nullable=False),
        sa.Column("n_positions", sa.Integer(), nullable=False),
        sa.Column("marks_ticks", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "ingested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("source_uri", sa.Text(), nullable=False),
        sa.Column("transform_id", sa.Text(), nullable=False),
        sa.CheckConstraint("gross_e8 >= 0", name=op.f("account_gross_check")),
        sa.PrimaryKeyConstraint("closes_at", name=op.f("account_pkey")),
    )
    op.create_table(
        "adoption_cursor",
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("entry_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("topic", name=op.f("adoption_cursor_pkey")),
    )
    op.create_table(
        "bar_quarantine",
        sa.Column("quarantine_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("venue", sa.Text(), nullable=False),
        sa.Column("timeframe", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=True),
        sa.Column("closes_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("open", sa.Double(), nullable=True),
        sa.Column("high", sa.Double(), nullable=True),
        sa.Column("low", sa.Double(), nullable=True),
        sa.Column("close", sa.Double(), nullable=True),
        sa.Column("volume", sa.Double(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column(
            "ingested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("source_uri", sa.Text(), nullable=False),
        sa.Column("transform_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("quarantine_id", name=op.f("bar_quarantine_pkey")),
    )
    op.create_index(
        op.f("bar_quarantine_symbol_timeframe_closes_at_idx"),
        "bar_quarantine",
        ["symbol", "timeframe", "closes_at"],
        unique=False,
    )
    op.create_table(
        "bars",
        sa.Column("venue", sa.Text(), nullable=False),
        sa.Column("timeframe", sa.Text(), nullable=False),
        sa.Column("closes_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("open", sa.Double(), nullable=False),
        sa.Column("high", sa.Double(), nullable=False),
        sa.Column("low", sa.Double(), nullable=False),
        sa.Column("close", sa.Double(), nullable=False),
        sa.Column("volume", sa.Double(), nullable=False),
        sa.Column(
            "ingested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("source_uri", sa.Text(), nullable=False),
        sa.Column("transform_id", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "high < 'infinity' AND volume >= 0 AND volume < 'infinity'",
            name=op.f("bars_finite_check"),
        ),
        sa.CheckConstraint(
            "low <= open AND low <= close AND open <= high AND close <= high",
            name=op.f("bars_range_check"),
        ),
        sa.CheckConstraint("low > 0", name=op.f("bars_positive_check")),
        sa.PrimaryKeyConstraint(
            "venue", "timeframe", "closes_at", "symbol", name=op.f("bars_pkey")
        ),
    )
    op.create_table(
        "consumer_offset",
        sa.Column("consumer", sa.Text(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("seq >= 0", name=op.f("consumer_offset_seq_check")),
        sa.PrimaryKeyConstraint("consumer", "topic", name=op.f("consumer_offset_pkey")),
    )
    op.create_table(
        "datasets",
        sa.Column("dataset_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("from_closes_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("to_closes_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("n_rows", sa.Integer(), nullable=False),
        sa.Column("n_positive", sa.Integer(), nullable=False),
        sa.Column("manifest", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "ingested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("source_uri", sa.Text(), nullable=False),
        sa.Column("transform_id", sa.Text(), nullable=False),
        sa.CheckConstraint("n_positive BETWEEN 0 AND n_rows", name=op.f("datasets_positive_check")),
        sa.PrimaryKeyConstraint("dataset_id", name=op.f("datasets_pkey")),
    )
    op.create_table(
        "dead_letter",
        sa.Column("dead_letter_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("consumer", sa.Text(), nullable=False),
        sa.Column("entry_id", sa.Text(), nullable=True),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), server_default="open", nullable=False),
        sa.Column("replayed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "ingested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("source_uri", sa.Text(), nullable=False),
        sa.Column("transform_id", sa.Text(), nullable=False),
        sa.CheckConstraint("status IN ('open', 'replayed')", name=op.f("dead_letter_status_check")),
        sa.CheckConstraint(
            "(entry_id IS NULL) <> (seq IS NULL)", name=op.f("dead_letter_origin_check")
        ),
        sa.PrimaryKeyConstraint("dead_letter_id", name=op.f("dead_letter_pkey")),
        sa.UniqueConstraint(
            "consumer", "topic", "entry_id", name=op.f("dead_letter_consumer_topic_entry_id_key")
        ),
        sa.UniqueConstraint(
            "consumer", "topic", "seq", name=op.f("dead_letter_consumer_topic_seq_key")
        ),
    )
    op.create_table(
        "event_log",
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("closes_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("payload_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("foreign_entry_id", sa.Text(), nullable=True),
        sa.Column(
            "ingested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("source_uri", sa.Text(), nullable=False),
        sa.Column("transform_id", sa.Text(), nullable=False),
        sa.CheckConstraint("seq > 0", name=op.f("event_log_seq_check")),
        sa.PrimaryKeyConstraint("topic", "seq", name=op.f("event_log_pkey")),
        sa.UniqueConstraint(
            "topic", "foreign_entry_id", name=op.f("event_log_topic_foreign_entry_id_key")
        ),
    )
    op.create_table(
        "feature_sets",
        sa.Column("feature_set", sa.Text(), nullable=False),
        sa.Column("names", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("feature_set", name=op.f("feature_sets_pkey")),
    )
    op.create_table(
        "instruments",
        sa.Column("venue", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("price_decimals", sa.SmallInteger(), nullable=False),
        sa.Column("lot_decimals", sa.SmallInteger(), nullable=False),
        sa.Column("min_notional_e8", sa.BigInteger(), nullable=False),
        sa.Column("price_source", sa.Text(), nullable=False),
        sa.Column(
            "ingested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("source_uri", sa.Text(), nullable=False),
        sa.Column("transform_id", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "price_decimals + lot_decimals <= 8", name=op.f("instruments_exact_check")
        ),
        sa.CheckConstraint(
            "price_decimals >= 0 AND lot_decimals >= 0", name=op.f("instruments_decimals_check")
        ),
        sa.PrimaryKeyConstraint("venue", "symbol", name=op.f("instruments_pkey")),
    )
    op.create_table(
        "intents",
        sa.Column("intent_id", sa.Text(), nullable=False),
        sa.Column("closes_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sleeve", sa.Text(), nullable=False),
        sa.Column("y", sa.Text(), nullable=False),
        sa.Column("x", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("position_id", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("hedge_ratio", sa.Double(), nullable=False),
        sa.Column("legs", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "ingested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("source_uri", sa.Text(), nullable=False),
        sa.Column("transform_id", sa.Text(), nullable=False),
        sa.CheckConstraint("action IN ('open', 'close')", name=op.f("intents_action_check")),
        sa.PrimaryKeyConstraint("intent_id", name=op.f("intents_pkey")),
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
    op.create_table(
        "orders",
        sa.Column("client_order_id", sa.Text(), nullable=False),
        sa.Column("intent_id", sa.Text(), nullable=False),
        sa.Column("pair", sa.Text(), nullable=False),
        sa.Column("leg", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("side", sa.Text(), nullable=False),
        sa.Column("quantity_lots", sa.BigInteger(), nullable=False),
        sa.Column("filled_lots", sa.BigInteger(), nullable=False),
        sa.Column("reduce_only", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column(
            "ingested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("source_uri", sa.Text(), nullable=False),
        sa.Column("transform_id", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "(state = 'filled') = (filled_lots = quantity_lots)", name=op.f("orders_complete_check")
        ),
        sa.CheckConstraint("leg IN ('y', 'x')", name=op.f("orders_leg_check")),
        sa.CheckConstraint("side IN ('buy', 'sell')", name=op.f("orders_side_check")),
        sa.CheckConstraint(
            "state IN ('initialised', 'denied', 'submitted', 'unknown', 'accepted', 'rejected', 'partially_filled', 'filled', 'cancelled', 'expired')",
            name=op.f("orders_state_check"),
        ),
        sa.CheckConstraint(
            "filled_lots BETWEEN 0 AND quantity_lots", name=op.f("orders_filled_check")
        ),
        sa.CheckConstraint("quantity_lots > 0", name=op.f("orders_quantity_check")),
        sa.PrimaryKeyConstraint("client_order_id", name=op.f("orders_pkey")),
        sa.UniqueConstraint(
            "intent_id", "leg", "attempt", name=op.f("orders_intent_id_leg_attempt_key")
        ),
    )
    op.create_index(
        "orders_working_idx",
        "orders",
        ["pair"],
        unique=False,
        postgresql_where=sa.text(
            "state IN ('initialised', 'submitted', 'unknown', 'accepted', 'partially_filled')"
        ),
    )
    op.create_table(
        "pair_positions",
        sa.Column("position_id", sa.Text(), nullable=False),
        sa.Column("pair", sa.Text(), nullable=False),
        sa.Column("symbol_y", sa.Text(), nullable=False),
        sa.Column("symbol_x", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lots_y", sa.BigInteger(), nullable=False),
        sa.Column("lots_x", sa.BigInteger(), nullable=False),
        sa.Column("cash_e8", sa.Numeric(precision=38, scale=0), nullable=False),
        sa.Column("fees_e8", sa.Numeric(precision=38, scale=0), nullable=False),
        sa.Column("funding_e8", sa.Numeric(precision=38, scale=0), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "ingested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("source_uri", sa.Text(), nullable=False),
        sa.Column("transform_id", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "(state = 'closed') = (closed_at IS NOT NULL)", name=op.f("pair_positions_closed_check")
        ),
        sa.CheckConstraint(
            "state <> 'closed' OR (lots_y = 0 AND lots_x = 0)",
            name=op.f("pair_positions_flat_check"),
        ),
        sa.CheckConstraint(
            "state IN ('opening', 'open', 'closing', 'closed')",
            name=op.f("pair_positions_state_check"),
        ),
        sa.PrimaryKeyConstraint("position_id", name=op.f("pair_positions_pkey")),
    )
    op.create_index(
        "pair_positions_live_idx",
        "pair_positions",
        ["pair"],
        unique=True,
        postgresql_where=sa.text("state <> 'closed'"),
    )
    op.create_table(
        "pair_trades",
        sa.Column("y", sa.Text(), nullable=False),
        sa.Column("x", sa.Text(), nullable=False),
        sa.Column("side", sa.SmallInteger(), nullable=False),
        sa.Column("entered_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("hedge_ratio", sa.Double(), nullable=False),
        sa.Column("intercept", sa.Double(), nullable=False),
        sa.Column("spread_mean", sa.Double(), nullable=False),
        sa.Column("spread_std", sa.Double(), nullable=False),
        sa.Column("last_close_y", sa.Double(), nullable=False),
        sa.Column("last_close_x", sa.Double(), nullable=False),
        sa.Column("bars_held", sa.Integer(), nullable=False),
        sa.Column("missing_closes", sa.Integer(), nullable=False),
        sa.Column("cooldown_left", sa.Integer(), nullable=False),
        sa.Column("model_sha256", sa.Text(), nullable=True),
        sa.CheckConstraint("side IN (-1, 0, 1)", name=op.f("pair_trades_side_check")),
        sa.PrimaryKeyConstraint("y", "x", name=op.f("pair_trades_pkey")),
    )
    op.create_table(
        "replay_progress",
        sa.Column("replay", sa.Text(), nullable=False),
        sa.Column("is_history_loaded", sa.Boolean(), nullable=False),
        sa.Column("closes_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("n_closes", sa.BigInteger(), nullable=False),
        sa.Column("is_finished", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("replay", name=op.f("replay_progress_pkey")),
    )
    op.create_table(
        "roster",
        sa.Column("closes_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("y", sa.Text(), nullable=False),
        sa.Column("x", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("accepted_screens", sa.Integer(), nullable=False),
        sa.Column("missed_screens", sa.Integer(), nullable=False),
        sa.Column("entered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("left_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("statistic", sa.Double(), nullable=False),
        sa.Column("p_value", sa.Double(), nullable=False),
        sa.Column("q_value", sa.Double(), nullable=False),
        sa.Column("lag", sa.Integer(), nullable=False),
        sa.Column("hedge_ratio", sa.Double(), nullable=False),
        sa.Column("intercept", sa.Double(), nullable=False),
        sa.Column("half_life_bars", sa.Double(), nullable=False),
        sa.Column("hurst", sa.Double(), nullable=False),
        sa.Column("correlation", sa.Double(), nullable=False),
        sa.Column("crossings", sa.Integer(), nullable=False),
        sa.Column("n_bars", sa.Integer(), nullable=False),
        sa.Column(
            "ingested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("source_uri", sa.Text(), nullable=False),
        sa.Column("transform_id", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "(status = 'candidate') = (entered_at IS NULL)", name=op.f("roster_entered_check")
        ),
        sa.CheckConstraint(
            "status <> 'closing_only' OR left_at IS NOT NULL", name=op.f("roster_left_check")
        ),
        sa.CheckConstraint(
            "status IN ('candidate', 'active', 'closing_only')", name=op.f("roster_status_check")
        ),
        sa.CheckConstraint("p_value BETWEEN 0 AND 1", name=op.f("roster_p_value_check")),
        sa.CheckConstraint("y <> x", name=op.f("roster_legs_check")),
        sa.PrimaryKeyConstraint("closes_at", "y", "x", name=op.f("roster_pkey")),
    )
    op.create_table(
        "screens",
        sa.Column("timeframe", sa.Text(), nullable=False),
        sa.Column("closes_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("level", sa.Double(), nullable=False),
        sa.Column("n_symbols", sa.Integer(), nullable=False),
        sa.Column("n_tests", sa.Integer(), nullable=False),
        sa.Column("n_accepted", sa.Integer(), nullable=False),
        sa.Column("excluded", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column(
            "ingested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("source_uri", sa.Text(), nullable=False),
        sa.Column("transform_id", sa.Text(), nullable=False),
        sa.CheckConstraint("level > 0 AND level < 1", name=op.f("screens_level_check")),
        sa.CheckConstraint("n_accepted <= n_tests", name=op.f("screens_accepted_check")),
        sa.PrimaryKeyConstraint("timeframe", "closes_at", name=op.f("screens_pkey")),
    )
    op.create_table(
        "service_control",
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("is_paused", sa.Boolean(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("service", name=op.f("service_control_pkey")),
    )
    op.create_table(
        "signals",
        sa.Column("closes_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("y", sa.Text(), nullable=False),
        sa.Column("x", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("sleeve", sa.Text(), nullable=False),
        sa.Column("side", sa.SmallInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("strength", sa.Double(), nullable=False),
        sa.Column("confidence", sa.Double(), nullable=True),
        sa.Column("z_score", sa.Double(), nullable=False),
        sa.Column("hedge_ratio", sa.Double(), nullable=False),
        sa.Column("intercept", sa.Double(), nullable=False),
        sa.Column("spread_mean", sa.Double(), nullable=False),
        sa.Column("spread_std", sa.Double(), nullable=False),
        sa.Column("entered_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("close_y", sa.Double(), nullable=False),
        sa.Column("close_x", sa.Double(), nullable=False),
        sa.Column("roster_closes_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("model_sha256", sa.Text(), nullable=True),
        sa.Column(
            "ingested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("source_uri", sa.Text(), nullable=False),
        sa.Column("transform_id", sa.Text(), nullable=False),
        sa.CheckConstraint("action IN ('enter', 'exit')", name=op.f("signals_action_check")),
        sa.CheckConstraint("entered_at <= closes_at", name=op.f("signals_entered_check")),
        sa.CheckConstraint("side IN (-1, 1)", name=op.f("signals_side_check")),
        sa.PrimaryKeyConstraint("closes_at", "y", "x", "action", name=op.f("signals_pkey")),
    )
    op.create_table(
        "stream_head",
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("seq >= 0", name=op.f("stream_head_seq_check")),
        sa.PrimaryKeyConstraint("topic", name=op.f("stream_head_pkey")),
    )
    op.create_table(
        "targets",
        sa.Column("closes_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("y", sa.Text(), nullable=False),
        sa.Column("x", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("is_accepted", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("intent_id", sa.Text(), nullable=True),
        sa.Column(
            "ingested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("source_uri", sa.Text(), nullable=False),
        sa.Column("transform_id", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "is_accepted = (intent_id IS NOT NULL)", name=op.f("targets_accepted_check")
        ),
        sa.PrimaryKeyConstraint("closes_at", "y", "x", "action", name=op.f("targets_pkey")),
    )
    op.create_table(
        "features",
        sa.Column("closes_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("y", sa.Text(), nullable=False),
        sa.Column("x", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("roster_closes_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("close_y", sa.Double(), nullable=False),
        sa.Column("close_x", sa.Double(), nullable=False),
        sa.Column("feature_set", sa.Text(), nullable=False),
        sa.Column("feature_values", postgresql.ARRAY(sa.Double()), nullable=False),
        sa.Column(
            "ingested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("source_uri", sa.Text(), nullable=False),
        sa.Column("transform_id", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "roster_closes_at < closes_at", name=op.f("features_no_look_ahead_check")
        ),
        sa.ForeignKeyConstraint(
            ["feature_set"], ["feature_sets.feature_set"], name=op.f("features_feature_set_fkey")
        ),
        sa.PrimaryKeyConstraint("closes_at", "y", "x", name=op.f("features_pkey")),
    )
    op.create_table(
        "fills",
        sa.Column("client_order_id", sa.Text(), nullable=False),
        sa.Column("fill_number", sa.Integer(), nullable=False),
        sa.Column("pair", sa.Text(), nullable=False),
        sa.Column("leg", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("side", sa.Text(), nullable=False),
        sa.Column("lots", sa.BigInteger(), nullable=False),
        sa.Column("price_ticks", sa.BigInteger(), nullable=False),
        sa.Column("fee_e8", sa.BigInteger(), nullable=False),
        sa.Column("filled_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "ingested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("source_uri", sa.Text(), nullable=False),
        sa.Column("transform_id", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "lots > 0 AND price_ticks > 0 AND fee_e8 >= 0", name=op.f("fills_amounts_check")
        ),
        sa.ForeignKeyConstraint(
            ["client_order_id"], ["orders.client_order_id"], name=op.f("fills_client_order_id_fkey")
        ),
        sa.PrimaryKeyConstraint("client_order_id", "fill_number", name=op.f("fills_pkey")),
    )
    op.create_table(
        "models",
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("model_version", sa.Integer(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("dataset_id", sa.Text(), nullable=False),
        sa.Column("trained_at_close", sa.DateTime(timezone=True), nullable=False),
        sa.Column("metrics", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("mlflow_run_id", sa.Text(), nullable=False),
        sa.Column(
            "ingested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("source_uri", sa.Text(), nullable=False),
        sa.Column("transform_id", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "sha256 = encode(sha256(document), 'hex')", name=op.f("models_identity_check")
        ),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.dataset_id"], name=op.f("models_dataset_id_fkey")
        ),
        sa.PrimaryKeyConstraint("sha256", name=op.f("models_pkey")),
        sa.UniqueConstraint("name", "model_version", name=op.f("models_name_model_version_key")),
    )
    op.create_table(
        "promotions",
        sa.Column("promotion_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("alias", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("from_closes_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("cv_roc_auc", sa.Double(), nullable=True),
        sa.Column("sharpe_net", sa.Double(), nullable=True),
        sa.Column("max_drawdown", sa.Double(), nullable=True),
        sa.Column("deflated_sharpe", sa.Double(), nullable=True),
        sa.Column("backtest_overfitting_probability", sa.Double(), nullable=True),
        sa.Column("n_trials", sa.Integer(), nullable=True),
        sa.Column("shadow_days", sa.Integer(), nullable=True),
        sa.Column("gates_passed", sa.Boolean(), nullable=False),
        sa.Column("is_override", sa.Boolean(), nullable=False),
        sa.Column("override_reason", sa.Text(), nullable=True),
        sa.Column("decided_by", sa.Text(), nullable=False),
        sa.Column(
            "ingested_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("source_uri", sa.Text(), nullable=False),
        sa.Column("transform_id", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "alias <> 'champion' OR gates_passed OR (is_override AND mode = 'paper')",
            name=op.f("promotions_gates_check"),
        ),
        sa.CheckConstraint(
            "alias IN ('challenger', 'champion')", name=op.f("promotions_alias_check")
        ),
        sa.CheckConstraint("mode IN ('paper', 'live')", name=op.f("promotions_mode_check")),
        sa.CheckConstraint(
            "NOT is_override OR length(override_reason) > 0", name=op.f("promotions_override_check")
        ),
        sa.ForeignKeyConstraint(["sha256"], ["models.sha256"], name=op.f("promotions_sha256_fkey")),
        sa.PrimaryKeyConstraint("promotion_id", name=op.f("promotions_pkey")),
        sa.UniqueConstraint(
            "name",
            "alias",
            "sha256",
            "from_closes_at",
            name=op.f("promotions_name_alias_sha256_from_closes_at_key"),
        ),
    )
