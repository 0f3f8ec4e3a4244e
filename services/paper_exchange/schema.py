"""The tables of the venue's store, and the two statements that belong to all of them."""

from __future__ import annotations

from services.paper_exchange.matching import OPEN_STATUSES

OPEN = ", ".join(f"'{status}'" for status in OPEN_STATUSES)
"""The statuses of an open order, as SQL lists them."""

VERSION = 2
"""Of the schema; a store of another version is refused."""

SCHEMA = f"""
PRAGMA user_version = {VERSION};
CREATE TABLE IF NOT EXISTS venue (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    market_at_ms INTEGER NOT NULL,
    clock_ms INTEGER NOT NULL,
    wallet_e8 INTEGER NOT NULL,
    spot_e8 INTEGER NOT NULL,
    identity TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS listings (
    symbol TEXT PRIMARY KEY,
    recorded_symbol TEXT NOT NULL,
    price_decimals INTEGER NOT NULL,
    lot_decimals INTEGER NOT NULL,
    min_notional_e8 INTEGER NOT NULL,
    price_source TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS orders (
    order_id INTEGER PRIMARY KEY AUTOINCREMENT,
    client_order_id TEXT NOT NULL,
    symbol TEXT NOT NULL REFERENCES listings,
    side TEXT NOT NULL,
    quantity_lots INTEGER NOT NULL CHECK (quantity_lots > 0),
    filled_lots INTEGER NOT NULL CHECK (filled_lots BETWEEN 0 AND quantity_lots),
    quote_e8 INTEGER NOT NULL,
    reduce_only INTEGER NOT NULL,
    status TEXT NOT NULL,
    market_at_ms INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    product TEXT NOT NULL,
    price_ticks INTEGER CHECK (price_ticks > 0),
    time_in_force TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS one_open_order_per_client_order_id
    ON orders (product, client_order_id) WHERE status IN ({OPEN});
CREATE INDEX IF NOT EXISTS orders_by_client_order_id ON orders (client_order_id);
CREATE INDEX IF NOT EXISTS orders_by_symbol ON orders (product, symbol, order_id);
CREATE TABLE IF NOT EXISTS trades (
    trade_id INTEGER PRIMARY KEY AUTOINCREMENT,
    order_id INTEGER NOT NULL REFERENCES orders,
    symbol TEXT NOT NULL,
    side TEXT NOT NULL,
    lots INTEGER NOT NULL CHECK (lots > 0),
    price_ticks INTEGER NOT NULL,
    quote_e8 INTEGER NOT NULL,
    fee_e8 INTEGER NOT NULL,
    realised_e8 INTEGER NOT NULL,
    traded_at_ms INTEGER NOT NULL,
    product TEXT NOT NULL,
    is_maker INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS trades_by_order ON trades (order_id);
CREATE INDEX IF NOT EXISTS trades_by_symbol ON trades (product, symbol, trade_id);
CREATE TABLE IF NOT EXISTS positions (
    product TEXT NOT NULL,
    symbol TEXT NOT NULL,
    lots INTEGER NOT NULL,
    cost_e8 INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    PRIMARY KEY (product, symbol)
) STRICT;
CREATE TABLE IF NOT EXISTS funding (
    funding_id INTEGER PRIMARY KEY AUTOINCREMENT,
    symbol TEXT NOT NULL,
    paid_e8 INTEGER NOT NULL,
    at_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS countdowns (
    symbol TEXT PRIMARY KEY,
    due_ms INTEGER NOT NULL
) STRICT;
"""

MOVE_MARKET = (
    "UPDATE venue SET market_at_ms = ?, clock_ms = ?, wallet_e8 = wallet_e8 + ?, "
    "spot_e8 = spot_e8 + ?"
)
INCOME = """
WITH income (symbol, kind, income_e8, at_ms, number) AS (
SELECT symbol, 'REALIZED_PNL', realised_e8, traded_at_ms, trade_id FROM trades
    WHERE product = 'usdm' AND realised_e8 <> 0
UNION ALL
SELECT symbol, 'COMMISSION', -fee_e8, traded_at_ms, trade_id FROM trades
    WHERE product = 'usdm' AND fee_e8 <> 0
UNION ALL
SELECT symbol, 'FUNDING_FEE', -paid_e8, at_ms, funding_id FROM funding
) SELECT * FROM income
"""
