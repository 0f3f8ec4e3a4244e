"""The record by the names of a lakehouse: what came in, what was cleaned, what is used.

Views only: a row is where its service wrote it, and says there what it was derived from.
`ts` of a bar is its open, as in files; of anything derived from it, its close.
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# Columns of a feature row by name: the numbers of a set are in the order of its names.
_NAMED = (
    "beta",
    "alpha",
    "spread",
    "spread_mean",
    "spread_std",
    "z_score",
    "z_velocity",
    "z_acceleration",
    "half_life_bars",
    "spread_volatility",
    "relative_volume_y",
    "relative_volume_x",
    "liquidity_y",
    "liquidity_x",
    "spread_trend",
    "market_trend",
    "volatility_ratio",
)

_BARS = """
    CREATE VIEW bronze_ohlcv_{timeframe} AS
    SELECT closes_at - interval '{length}' AS ts, venue, symbol, open, high, low, close, volume,
           ingested_at, source_uri, transform_id
    FROM bars WHERE timeframe = '{timeframe}'
"""

_PAIRS = """
    CREATE VIEW silver_pairs_screened AS
    SELECT roster.closes_at AS ts, y, x, status, statistic, p_value, q_value, lag, hedge_ratio,
           intercept, half_life_bars, hurst, correlation, crossings, n_bars, entered_at, left_at,
           screens.method, screens.level, screens.n_tests, roster.ingested_at, roster.source_uri,
           roster.transform_id
    FROM roster LEFT JOIN screens USING (closes_at)
"""

_FEATURES = """
    CREATE VIEW gold_features_5m AS
    SELECT closes_at AS ts, y, x, status, roster_closes_at, close_y, close_x, {columns},
           feature_values AS values, feature_sets.names, ingested_at, source_uri, transform_id
    FROM features JOIN feature_sets USING (feature_set)
"""

_COMPATIBLE = """
    CREATE VIEW silver_features_5m AS
    SELECT DISTINCT ts, symbol, close FROM (
        SELECT closes_at AS ts, y AS symbol, close_y AS close FROM features
        UNION ALL
        SELECT closes_at, x, close_x FROM features
    ) AS legs
"""

_PRICES = """
    CREATE VIEW prices_5m AS
    SELECT closes_at AS ts, venue, symbol, close FROM bars WHERE timeframe = '5m'
"""

# In log space, as by default. A pair without a later row has no label yet: the future is not
# known. Rows that are not the next bar, because a leg had none, are no answer either.
_DATASET = """
    CREATE VIEW gold_dataset AS
    SELECT ts, y, x, close_y, close_x, beta, z_score, values, names, next_spread_increment,
           (-sign(z_score) * next_spread_increment > 0)::integer AS next_bar_sign,
           CASE WHEN abs(z_score) >= 1.5 AND horizon_ts = ts + interval '15 minutes'
                THEN (nearest_z < 1.5)::integer END AS z_threshold
    FROM (
        SELECT *,
               CASE WHEN lead(ts) OVER pair = ts + interval '5 minutes' THEN
                   ln(lead(close_y) OVER pair / close_y)
                   - beta * ln(lead(close_x) OVER pair / close_x) END AS next_spread_increment,
               lead(ts, 3) OVER pair AS horizon_ts,
               least({distances}) AS nearest_z
        FROM gold_features_5m
        WINDOW pair AS (PARTITION BY y, x ORDER BY ts)
    ) AS followed
"""
_DISTANCE = """
    abs((ln(lead(close_y, {ahead}) OVER pair) - beta * ln(lead(close_x, {ahead}) OVER pair)
         - alpha - spread_mean) / nullif(spread_std, 0))
"""

_SIGNALS = """
    CREATE VIEW gold_signals AS
    SELECT closes_at AS ts, y, x, y || '~' || x AS pair, action,
           CASE action WHEN 'enter' THEN side ELSE 0 END AS signal, side, strength, confidence,
           z_score, hedge_ratio, intercept, reason, model_sha256, roster_closes_at, ingested_at,
           source_uri, transform_id
    FROM signals
"""


def upgrade() -> None:
    for timeframe, length in (("1h", "1 hour"), ("5m", "5 minutes")):
        op.execute(_BARS.format(timeframe=timeframe, length=length))
    op.execute(_PAIRS)
    columns = ", ".join(
        f"feature_values[array_position(feature_sets.names, '{name}')] AS {name}" for name in _NAMED
    )
    op.execute(_FEATURES.format(columns=columns))
    op.execute(_COMPATIBLE)
    op.execute(_PRICES)
    distances = ", ".join(_DISTANCE.format(ahead=ahead) for ahead in (1, 2, 3))
    op.execute(_DATASET.format(distances=distances))
    op.execute(_SIGNALS)
