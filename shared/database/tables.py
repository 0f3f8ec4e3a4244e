"""Every table of the record, grouped by the service that writes it.

Each row carries its lineage: when it was recorded (`ingested_at`), what it was derived from
(`source_uri`: a file, a stream entry or a log position) and by which transformation
(`transform_id`).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from shared.quant.gate_settings import ALL_GATES, BACKTEST_GATES

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    }
)

Instant = DateTime(timezone=True)


def _lineage() -> tuple[Column[Any], ...]:
    return (
        Column("ingested_at", Instant, nullable=False, server_default=func.now()),
        Column("source_uri", Text, nullable=False),
        Column("transform_id", Text, nullable=False),
    )


def _required(name: str, kind: Any) -> Column[Any]:
    return Column(name, kind, nullable=False)


def _passed(*gates: str) -> str:
    """Return the condition that each of these gates is recorded as passed."""
    elements = ", ".join(f'{{"gate": "{gate}", "verdict": "passed"}}' for gate in gates)
    return f"gates @> '[{elements}]'::jsonb"


def _key(name: str, kind: Any) -> Column[Any]:
    return Column(name, kind, primary_key=True)


# --- the log ---------------------------------------------------------------------------

stream_head = Table(
    "stream_head",
    metadata,
    _key("topic", Text),
    _required("seq", BigInteger),
    CheckConstraint("seq >= 0", name="seq"),
)

event_log = Table(
    "event_log",
    metadata,
    _key("topic", Text),
    _key("seq", BigInteger),
    _required("closes_at", Instant),
    # Stored as it is: to compress it took longer than the rest of a hop, and saved a third.
    _required("payload", Text),
    _required("payload_sha256", LargeBinary),
    Column("foreign_entry_id", Text),
    *_lineage(),
    CheckConstraint("seq > 0", name="seq"),
    UniqueConstraint("topic", "foreign_entry_id"),
)

consumer_offset = Table(
    "consumer_offset",
    metadata,
    _key("consumer", Text),
    _key("topic", Text),
    _required("seq", BigInteger),
    CheckConstraint("seq >= 0", name="seq"),
)

adoption_cursor = Table(
    "adoption_cursor",
    metadata,
    _key("topic", Text),
    _required("entry_id", Text),
)

dead_letter = Table(
    "dead_letter",
    metadata,
    Column("dead_letter_id", BigInteger, Identity(always=True), primary_key=True),
    _required("topic", Text),
    _required("consumer", Text),
    Column("entry_id", Text),
    Column("seq", BigInteger),
    _required("payload", LargeBinary),
    _required("error", Text),
    _required("attempts", Integer),
    Column("status", Text, nullable=False, server_default="open"),
    Column("replayed_at", Instant),
    *_lineage(),
    CheckConstraint("status IN ('open', 'replayed')", name="status"),
    CheckConstraint("(entry_id IS NULL) <> (seq IS NULL)", name="origin"),
    UniqueConstraint("consumer", "topic", "entry_id"),
    UniqueConstraint("consumer", "topic", "seq"),
)

service_control = Table(
    "service_control",
    metadata,
    _key("service", Text),
    _required("is_paused", Boolean),
    _required("changed_at", Instant),
)

# --- ingest ----------------------------------------------------------------------------

instruments = Table(
    "instruments",
    metadata,
    _key("venue", Text),
    _key("symbol", Text),
    _required("price_decimals", SmallInteger),
    _required("lot_decimals", SmallInteger),
    _required("min_notional_e8", BigInteger),
    _required("price_source", Text),
    *_lineage(),
    CheckConstraint("price_decimals >= 0 AND lot_decimals >= 0", name="decimals"),
    CheckConstraint("price_decimals + lot_decimals <= 8", name="exact"),
)

bars = Table(
    "bars",
    metadata,
    _key("venue", Text),
    _key("timeframe", Text),
    _key("closes_at", Instant),
    _key("symbol", Text),
    _required("open", Double),
    _required("high", Double),
    _required("low", Double),
    _required("close", Double),
    _required("volume", Double),
    *_lineage(),
    CheckConstraint("low > 0", name="positive"),
    CheckConstraint(
        "low <= open AND low <= close AND open <= high AND close <= high", name="range"
    ),
    CheckConstraint("high < 'infinity' AND volume >= 0 AND volume < 'infinity'", name="finite"),
)

bar_quarantine = Table(
    "bar_quarantine",
    metadata,
    Column("quarantine_id", BigInteger, Identity(always=True), primary_key=True),
    _required("venue", Text),
    _required("timeframe", Text),
    Column("symbol", Text),
    Column("closes_at", Instant),
    Column("open", Double),
    Column("high", Double),
    Column("low", Double),
    Column("close", Double),
    Column("volume", Double),
    _required("reason", Text),
    _required("message", Text),
    *_lineage(),
    Index(None, "symbol", "timeframe", "closes_at"),
)

replay_progress = Table(
    "replay_progress",
    metadata,
    _key("replay", Text),
    _required("is_history_loaded", Boolean),
    Column("closes_at", Instant),
    _required("n_closes", BigInteger),
    _required("is_finished", Boolean),
)

# --- screener --------------------------------------------------------------------------

screens = Table(
    "screens",
    metadata,
    _key("timeframe", Text),
    _key("closes_at", Instant),
    _required("method", Text),
    _required("level", Double),
    _required("n_symbols", Integer),
    _required("n_tests", Integer),
    _required("n_accepted", Integer),
    _required("excluded", JSONB),
    Column("symbols_by_bars", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    _required("summary", Text),
    *_lineage(),
    CheckConstraint("level > 0 AND level < 1", name="level"),
    CheckConstraint("n_accepted <= n_tests", name="accepted"),
)

roster = Table(
    "roster",
    metadata,
    _key("closes_at", Instant),
    _key("y", Text),
    _key("x", Text),
    _required("status", Text),
    _required("accepted_screens", Integer),
    _required("missed_screens", Integer),
    Column("entered_at", Instant),
    Column("left_at", Instant),
    _required("statistic", Double),
    _required("p_value", Double),
    _required("q_value", Double),
    _required("lag", Integer),
    _required("hedge_ratio", Double),
    _required("intercept", Double),
    _required("half_life_bars", Double),
    _required("hurst", Double),
    _required("correlation", Double),
    _required("crossings", Integer),
    _required("n_bars", Integer),
    *_lineage(),
    CheckConstraint("status IN ('candidate', 'active', 'closing_only')", name="status"),
    CheckConstraint("y <> x", name="legs"),
    CheckConstraint("p_value BETWEEN 0 AND 1", name="p_value"),
    CheckConstraint("(status = 'candidate') = (entered_at IS NULL)", name="entered"),
    CheckConstraint("status <> 'closing_only' OR left_at IS NOT NULL", name="left"),
)

# --- features --------------------------------------------------------------------------

feature_sets = Table(
    "feature_sets",
    metadata,
    _key("feature_set", Text),
    _required("names", ARRAY(Text)),
)

features = Table(
    "features",
    metadata,
    _key("closes_at", Instant),
    _key("y", Text),
    _key("x", Text),
    _required("status", Text),
    Column("roster_closes_at", Instant),
    _required("close_y", Double),
    _required("close_x", Double),
    # Of `feature_sets`: written with the row, and never deleted.
    _required("feature_set", Text),
    _required("feature_values", ARRAY(Double)),
    *_lineage(),
    CheckConstraint("roster_closes_at < closes_at", name="no_look_ahead"),
    Index(None, "y", "x", "closes_at"),
)

# --- trainer ---------------------------------------------------------------------------

datasets = Table(
    "datasets",
    metadata,
    _key("dataset_id", Text),
    _required("name", Text),
    _required("from_closes_at", Instant),
    _required("to_closes_at", Instant),
    _required("n_rows", Integer),
    _required("n_positive", Integer),
    _required("manifest", JSONB),
    *_lineage(),
    CheckConstraint("n_positive BETWEEN 0 AND n_rows", name="positive"),
)

models = Table(
    "models",
    metadata,
    _key("sha256", Text),
    _required("name", Text),
    _required("model_version", Integer),
    _required("document", LargeBinary),
    Column("dataset_id", Text, ForeignKey("datasets.dataset_id"), nullable=False),
    _required("trained_at_close", Instant),
    _required("metrics", JSONB),
    _required("mlflow_run_id", Text),
    *_lineage(),
    UniqueConstraint("name", "model_version"),
    CheckConstraint("sha256 = encode(sha256(document), 'hex')", name="identity"),
)

promotions = Table(
    "promotions",
    metadata,
    Column("promotion_id", BigInteger, Identity(always=True), primary_key=True),
    _required("name", Text),
    _required("alias", Text),
    # Of the alias's model from now on; none where a rollback left the alias without one.
    Column("sha256", Text, ForeignKey("models.sha256")),
    _required("from_closes_at", Instant),
    _required("mode", Text),
    Column("cv_roc_auc", Double),
    Column("sharpe_net", Double),
    Column("max_drawdown", Double),
    Column("deflated_sharpe", Double),
    Column("backtest_overfitting_probability", Double),
    Column("n_trials", Integer),
    Column("shadow_days", Integer),
    _required("gates_passed", Boolean),
    _required("is_override", Boolean),
    Column("is_rollback", Boolean, nullable=False, server_default=text("false")),
    Column("override_reason", Text),
    _required("decided_by", Text),
    *_lineage(),
    # Every gate as it was judged: gate, value, comparison, threshold, verdict.
    Column("gates", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    Column("reason", Text),
    CheckConstraint(
        "alias IN ('candidate', 'challenger', 'shadow', 'champion', 'retired')", name="alias"
    ),
    CheckConstraint("mode IN ('paper', 'live')", name="mode"),
    CheckConstraint(
        "alias NOT IN ('shadow', 'champion') OR gates_passed OR (is_override AND mode = 'paper') "
        "OR is_rollback",
        name="gates",
    ),
    CheckConstraint(
        f"NOT gates_passed OR (alias = 'shadow' AND {_passed(*BACKTEST_GATES)}) "
        f"OR (alias = 'champion' AND {_passed(*ALL_GATES)})",
        name="evidence",
    ),
    CheckConstraint(
        "NOT is_override OR length(coalesce(override_reason, '')) > 0", name="override"
    ),
    CheckConstraint(
        "NOT is_rollback OR (alias = 'champion' AND length(coalesce(override_reason, reason, '')) "
        "> 0)",
        name="rollback",
    ),
    CheckConstraint("sha256 IS NOT NULL OR is_rollback", name="model"),
    # A training repeated on the same rows is the same challenger; an operator's decision
    # repeated is another one.
    Index(
        "promotions_challenger_idx",
        "name",
        "sha256",
        "from_closes_at",
        unique=True,
        postgresql_where=text("alias = 'challenger'"),
    ),
    Index(None, "sha256", "promotion_id"),
)

model_evidence = Table(
    "model_evidence",
    metadata,
    Column("sha256", Text, ForeignKey("models.sha256"), primary_key=True),
    _required("measured_to", Instant),
    _required("evidence", JSONB),
    *_lineage(),
)

trials = Table(
    "trials",
    metadata,
    _key("trial_id", Text),
    Column("made", BigInteger, Identity(always=True), nullable=False),
    _required("subject", Text),
    _required("parameters", JSONB),
    _required("dataset_id", Text),
    Column("loss", Double),
    Column("sharpe_ratio", Double),
    *_lineage(),
)

drift_checks = Table(
    "drift_checks",
    metadata,
    # Of the champion; none where the fills were checked, which is no model's doing.
    Column("sha256", Text, ForeignKey("models.sha256")),
    _required("closes_at", Instant),
    _required("features", JSONB),
    Column("calibration_gap", Double),
    Column("walk_log_odds", Double),
    # Of the fills: how many, realised and modelled in millionths; none without a fill.
    Column("slippage", JSONB),
    _required("is_tripped", Boolean),
    _required("action", Text),
    _required("reasons", JSONB),
    *_lineage(),
    CheckConstraint("is_tripped = (jsonb_array_length(reasons) > 0)", name="reasons"),
    CheckConstraint("sha256 IS NULL OR slippage IS NULL", name="subject"),
    UniqueConstraint("sha256", "closes_at", postgresql_nulls_not_distinct=True),
)

trainings = Table(
    "trainings",
    metadata,
    Column("training_id", BigInteger, Identity(always=True), primary_key=True),
    _required("closes_at", Instant),
    _required("occasion", Text),
    _required("reason", Text),
    # Of the best model it made; none where it made none, and then why.
    Column("sha256", Text, ForeignKey("models.sha256")),
    Column("fault", Text),
    *_lineage(),
    CheckConstraint(
        "occasion IN ('request', 'first', 'schedule', 'roster', 'drift', 'age')", name="occasion"
    ),
    CheckConstraint("(sha256 IS NULL) <> (fault IS NULL)", name="outcome"),
    CheckConstraint("length(reason) > 0", name="reason"),
    Index(None, "closes_at"),
)

# --- signals ---------------------------------------------------------------------------

signals = Table(
    "signals",
    metadata,
    _key("closes_at", Instant),
    _key("y", Text),
    _key("x", Text),
    _key("action", Text),
    _required("sleeve", Text),
    _required("side", SmallInteger),
    _required("reason", Text),
    _required("strength", Double),
    Column("confidence", Double),
    _required("z_score", Double),
    _required("hedge_ratio", Double),
    _required("intercept", Double),
    _required("spread_mean", Double),
    _required("spread_std", Double),
    _required("entered_at", Instant),
    _required("close_y", Double),
    _required("close_x", Double),
    Column("roster_closes_at", Instant),
    Column("model_sha256", Text),
    Column("size_ppm", Integer, nullable=False, server_default="1000000"),
    *_lineage(),
    CheckConstraint("action IN ('enter', 'exit')", name="action"),
    CheckConstraint("side IN (-1, 1)", name="side"),
    CheckConstraint("entered_at <= closes_at", name="entered"),
)

# Read through the view `pair_trades`. One row, because most of it changes at every close.
rule_memory = Table(
    "rule_memory",
    metadata,
    _key("service", Text),
    _required("trades", JSON),
)

shadow_closes = Table(
    "shadow_closes",
    metadata,
    Column("sha256", Text, ForeignKey("models.sha256"), primary_key=True),
    _key("closes_at", Instant),
    _required("n_rows", Integer),
    # What the shadow would have decided at this close, and what it remembers after it.
    _required("signals", JSONB),
    _required("trades", JSONB),
    *_lineage(),
    CheckConstraint("n_rows >= 0", name="rows"),
)

# --- portfolio -------------------------------------------------------------------------

targets = Table(
    "targets",
    metadata,
    _key("closes_at", Instant),
    _key("y", Text),
    _key("x", Text),
    _key("action", Text),
    _required("is_accepted", Boolean),
    _required("reason", Text),
    Column("intent_id", Text),
    *_lineage(),
    CheckConstraint("is_accepted = (intent_id IS NOT NULL)", name="accepted"),
)

intents = Table(
    "intents",
    metadata,
    _key("intent_id", Text),
    _required("closes_at", Instant),
    _required("sleeve", Text),
    _required("y", Text),
    _required("x", Text),
    _required("action", Text),
    _required("position_id", Text),
    _required("reason", Text),
    _required("hedge_ratio", Double),
    _required("legs", JSONB),
    *_lineage(),
    CheckConstraint("action IN ('open', 'close')", name="action"),
)

# Read through the view `live_targets`.
slot_memory = Table(
    "slot_memory",
    metadata,
    _key("service", Text),
    _required("targets", JSON),
)

limit_changes = Table(
    "limit_changes",
    metadata,
    Column("change_id", BigInteger, Identity(always=True), primary_key=True),
    # In force for closes after this one; for every close where none had been handled yet.
    Column("from_closes_at", Instant),
    _required("capital_usdt", BigInteger),
    _required("top_k", Integer),
    _required("gross_cap", Double),
    _required("symbol_cap", Double),
    _required("reason", Text),
    _required("decided_by", Text),
    *_lineage(),
    CheckConstraint(
        "capital_usdt > 0 AND top_k > 0 AND gross_cap > 0 AND symbol_cap > 0", name="positive"
    ),
    CheckConstraint("length(reason) > 0", name="reason"),
)

# --- executor --------------------------------------------------------------------------

_ORDER_STATES = (
    "'initialised', 'denied', 'submitted', 'unknown', 'accepted', 'rejected', "
    "'partially_filled', 'filled', 'cancelled', 'expired'"
)

orders = Table(
    "orders",
    metadata,
    _key("client_order_id", Text),
    _required("intent_id", Text),
    _required("pair", Text),
    _required("leg", Text),
    _required("attempt", Integer),
    _required("symbol", Text),
    _required("side", Text),
    _required("quantity_lots", BigInteger),
    _required("filled_lots", BigInteger),
    _required("reduce_only", Boolean),
    _required("created_at", Instant),
    Column("submitted_at", Instant),
    _required("state", Text),
    _required("reason", Text),
    *_lineage(),
    UniqueConstraint("intent_id", "leg", "attempt"),
    CheckConstraint("leg IN ('y', 'x')", name="leg"),
    CheckConstraint("side IN ('buy', 'sell')", name="side"),
    CheckConstraint(f"state IN ({_ORDER_STATES})", name="state"),
    CheckConstraint("quantity_lots > 0", name="quantity"),
    CheckConstraint("filled_lots BETWEEN 0 AND quantity_lots", name="filled"),
    CheckConstraint("(state = 'filled') = (filled_lots = quantity_lots)", name="complete"),
    Index(
        "orders_working_idx",
        "pair",
        postgresql_where=text(
            "state IN ('initialised', 'submitted', 'unknown', 'accepted', 'partially_filled')"
        ),
    ),
    Index(None, "created_at"),
    Index(None, "submitted_at"),
)

fills = Table(
    "fills",
    metadata,
    Column("client_order_id", Text, ForeignKey("orders.client_order_id"), primary_key=True),
    _key("fill_number", Integer),
    _required("pair", Text),
    _required("leg", Text),
    _required("symbol", Text),
    _required("side", Text),
    _required("lots", BigInteger),
    _required("price_ticks", BigInteger),
    _required("fee_e8", BigInteger),
    _required("filled_at", Instant),
    *_lineage(),
    CheckConstraint("lots > 0 AND price_ticks > 0 AND fee_e8 >= 0", name="amounts"),
    Index(None, "filled_at"),
)

pair_positions = Table(
    "pair_positions",
    metadata,
    _key("position_id", Text),
    _required("pair", Text),
    _required("symbol_y", Text),
    _required("symbol_x", Text),
    _required("state", Text),
    _required("opened_at", Instant),
    _required("lots_y", BigInteger),
    _required("lots_x", BigInteger),
    _required("cash_e8", Numeric(38, 0)),
    _required("fees_e8", Numeric(38, 0)),
    _required("funding_e8", Numeric(38, 0)),
    Column("closed_at", Instant),
    Column("target_lots_y", BigInteger, nullable=False, server_default=text("0")),
    Column("target_lots_x", BigInteger, nullable=False, server_default=text("0")),
    Column("is_residue", Boolean, nullable=False, server_default=text("false")),
    # How long the legs have been out of proportion: since when they are, and before that.
    Column("exposed_since", Instant),
    Column("exposed_ms", BigInteger, nullable=False, server_default=text("0")),
    *_lineage(),
    CheckConstraint("state IN ('opening', 'open', 'closing', 'closed')", name="state"),
    CheckConstraint("(state = 'closed') = (closed_at IS NOT NULL)", name="closed"),
    CheckConstraint("state <> 'closed' OR (lots_y = 0 AND lots_x = 0)", name="flat"),
    Index(
        "pair_positions_live_idx",
        "pair",
        unique=True,
        postgresql_where=text("state <> 'closed'"),
    ),
    Index(None, "opened_at"),
)

account = Table(
    "account",
    metadata,
    _key("closes_at", Instant),
    _required("cash_e8", Numeric(38, 0)),
    _required("equity_e8", Numeric(38, 0)),
    _required("gross_e8", Numeric(38, 0)),
    _required("n_positions", Integer),
    _required("marks_ticks", JSONB),
    *_lineage(),
    CheckConstraint("gross_e8 >= 0", name="gross"),
)

trading_states = Table(
    "trading_states",
    metadata,
    Column("change_id", BigInteger, Identity(always=True), primary_key=True),
    # The last close handled before the change; none where it came before the first.
    Column("from_closes_at", Instant),
    _required("state", Text),
    _required("is_flattening", Boolean),
    _required("reason", Text),
    _required("decided_by", Text),
    *_lineage(),
    CheckConstraint("state IN ('active', 'reduce_only', 'halted')", name="state"),
    CheckConstraint("NOT is_flattening OR state <> 'active'", name="flattening"),
    CheckConstraint("length(reason) > 0", name="reason"),
)

execution_leases = Table(
    "execution_leases",
    metadata,
    _key("account", Text),
    # Grows with every executor that takes the account over; a write bearing an older one is
    # refused.
    _required("token", BigInteger),
    _required("holder", Text),
    Column("acquired_at", Instant, nullable=False, server_default=func.now()),
    CheckConstraint("token > 0", name="token"),
)

adjustments = Table(
    "adjustments",
    metadata,
    Column("adjustment_id", BigInteger, Identity(always=True), primary_key=True),
    _required("account", Text),
    # The last close settled before; none where it came before the first.
    Column("from_closes_at", Instant),
    _required("kind", Text),
    # Empty for cash; of a position without an id, no pair holds it.
    Column("symbol", Text),
    Column("position_id", Text),
    _required("lots", BigInteger),
    Column("price_ticks", BigInteger),
    _required("amount_e8", Numeric(38, 0)),
    _required("book_value", Numeric(38, 0)),
    _required("venue_value", Numeric(38, 0)),
    *_lineage(),
    CheckConstraint("kind IN ('baseline', 'cash', 'position')", name="kind"),
    CheckConstraint("(kind = 'position') = (symbol IS NOT NULL)", name="symbol"),
    CheckConstraint("(kind = 'position') = (lots <> 0)", name="lots"),
    Index(
        "adjustments_baseline_idx",
        "account",
        unique=True,
        postgresql_where=text("kind = 'baseline'"),
    ),
)

quarantined_orders = Table(
    "quarantined_orders",
    metadata,
    _key("account", Text),
    _key("venue_order_id", Text),
    _required("client_order_id", Text),
    _required("symbol", Text),
    _required("side", Text),
    _required("quantity", Numeric),
    *_lineage(),
)

# --- access ----------------------------------------------------------------------------

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("token_id", BigInteger, Identity(always=True), primary_key=True),
    _required("sha256", LargeBinary),
    _required("label", Text),
    _required("scopes", ARRAY(Text)),
    Column("created_at", Instant, nullable=False, server_default=func.now()),
    _required("expires_at", Instant),
    Column("revoked_at", Instant),
    Column("last_used_at", Instant),
    CheckConstraint("length(sha256) = 32", name="sha256"),
    CheckConstraint(
        "cardinality(scopes) > 0 AND scopes <@ ARRAY['read', 'control', 'trade']", name="scopes"
    ),
    CheckConstraint("expires_at > created_at", name="expiry"),
    UniqueConstraint("sha256"),
    Index(
        "api_tokens_label_idx",
        "label",
        unique=True,
        postgresql_where=text("revoked_at IS NULL"),
    ),
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("request_id", BigInteger, Identity(always=True), primary_key=True),
    _required("service", Text),
    _required("method", Text),
    _required("path", Text),
    _required("operator", Text),
    _required("client", Text),
    _required("body", Text),
    _required("request_sha256", LargeBinary),
    Column("idempotency_key", Text),
    Column("attempts", Integer, nullable=False, server_default=text("1")),
    Column("asked_at", Instant, nullable=False, server_default=func.now()),
    # Set in the transaction of the effect; the answer is recorded after it.
    Column("is_done", Boolean, nullable=False, server_default=text("false")),
    Column("status", Integer),
    Column("answered_at", Instant),
    Column("answer", Text),
    UniqueConstraint("service", "operator", "idempotency_key"),
    Index(None, "asked_at"),
)
