"""Reads the record of a run into the counts and digests of its report."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
from psycopg.rows import dict_row

from shared.backtest.digests import Row, Tally, bars_digest, fill_row, order_row, position_row
from shared.book.ledger import Fill
from shared.book.orders import Order, OrderState, Side
from shared.book.positions import PairPosition, PairState
from shared.clock import ms_of_instant
from shared.quant.bars import Bars, RawBars

Connection = psycopg.Connection[dict[str, Any]]

_PAIRS = """
    SELECT closes_at, y, x, status, accepted_screens, missed_screens, entered_at, left_at,
           statistic, p_value, q_value, lag, hedge_ratio, intercept, half_life_bars, hurst,
           correlation, crossings, n_bars
    FROM roster
"""
_FEATURES = """
    SELECT closes_at, y, x, status, roster_closes_at, close_y, close_x, feature_values
    FROM features
"""
_SIGNALS = """
    SELECT closes_at, y, x, action, sleeve, side, reason, strength, confidence, z_score,
           hedge_ratio, intercept, spread_mean, spread_std, entered_at, close_y, close_x,
           roster_closes_at, model_sha256
    FROM signals
"""
_INSTANTS = ("closes_at", "entered_at", "left_at", "roster_closes_at")


def connect(database_url: str) -> Connection:
    """Open a connection for reading, from the URL that services have."""
    url = database_url.replace("+asyncpg", "")
    connection: Connection = psycopg.connect(url, row_factory=dict_row, autocommit=True)
    connection.execute("SET timezone = 'UTC'")
    return connection


def read_report(connection: Connection) -> dict[str, object]:
    """Return counts, account and digests of the recorded run."""
    tally = Tally()
    tally.closes = _count(connection, "SELECT coalesce(sum(n_closes), 0) AS n FROM replay_progress")
    tally.quarantined = _count(connection, "SELECT count(*) AS n FROM bar_quarantine")
    tally.intents = _count(connection, "SELECT count(*) AS n FROM intents")
    tally.dead_letters = _count(connection, "SELECT count(*) AS n FROM dead_letter")
    tally.rows["pairs"] = _rows(connection, _PAIRS)
    tally.rows["features"] = _rows(connection, _FEATURES)
    tally.rows["signals"] = _rows(connection, _SIGNALS)
    tally.rows["orders"] = [order_row(_order(r)) for r in connection.execute("TABLE orders")]
    tally.rows["fills"] = [fill_row(_fill(r)) for r in connection.execute("TABLE fills")]
    positions = [_position(r) for r in connection.execute("TABLE pair_positions")]
    tally.rows["positions"] = [position_row(position) for position in positions]
    parts = _bars(connection)
    tally.bars = sum(len(part) for part in parts)
    account = connection.execute("SELECT * FROM account ORDER BY closes_at DESC LIMIT 1").fetchone()
    return {
        "counts": tally.counts(),
        "cash_e8": None if account is None else int(account["cash_e8"]),
        "equity_e8": None if account is None else int(account["equity_e8"]),
        "positions": [
            {
                "position_id": position.position_id,
                "pair": position.pair,
                "lots_y": position.lots_y,
                "lots_x": position.lots_x,
            }
            for position in sorted(positions, key=lambda p: p.position_id)
            if not position.is_flat
        ],
        "digests": tally.digests(bars_digest(parts)),
    }


def _count(connection: Connection, query: str) -> int:
    row = connection.execute(query).fetchone()
    return 0 if row is None else int(row["n"])


def _rows(connection: Connection, query: str) -> list[Row]:
    """Return rows in the order of the query's columns, instants in milliseconds."""
    return [
        tuple(
            ms_of_instant(value) if name in _INSTANTS and value is not None else value
            for name, value in row.items()
        )
        for row in connection.execute(query)
    ]


def _order(row: dict[str, Any]) -> Order:
    return Order(
        row["client_order_id"],
        row["intent_id"],
        row["pair"],
        row["leg"],
        row["attempt"],
        row["symbol"],
        Side(row["side"]),
        row["quantity_lots"],
        row["reduce_only"],
        ms_of_instant(row["created_at"]),
        OrderState(row["state"]),
        row["filled_lots"],
    )


def _fill(row: dict[str, Any]) -> Fill:
    return Fill(
        row["client_order_id"],
        row["fill_number"],
        row["pair"],
        row["leg"],
        row["symbol"],
        Side(row["side"]),
        row["lots"],
        row["price_ticks"],
        row["fee_e8"],
        ms_of_instant(row["filled_at"]),
    )


def _position(row: dict[str, Any]) -> PairPosition:
    return PairPosition(
        row["position_id"],
        row["pair"],
        row["symbol_y"],
        row["symbol_x"],
        PairState(row["state"]),
        ms_of_instant(row["opened_at"]),
        row["lots_y"],
        row["lots_x"],
        int(row["cash_e8"]),
        int(row["fees_e8"]),
        int(row["funding_e8"]),
        None if row["closed_at"] is None else ms_of_instant(row["closed_at"]),
    )


_BARS = """
    COPY (SELECT symbol, (extract(epoch FROM closes_at) * 1000)::bigint, open, high, low, close,
                 volume
          FROM bars WHERE venue = %(venue)s AND timeframe = %(timeframe)s
          ORDER BY closes_at, symbol COLLATE "C")
    TO STDOUT
"""


def _bars(connection: Connection) -> list[Bars]:
    """Return every recorded bar, a part per venue and timeframe."""
    places = connection.execute(
        "SELECT DISTINCT venue, timeframe FROM bars ORDER BY venue, timeframe"
    ).fetchall()
    parts = []
    for place in places:
        with connection.cursor().copy(_BARS, place) as copy:
            copy.set_types(["text", "int8", *["float8"] * 5])
            symbols, closes, *values = zip(*copy.rows(), strict=True)
        names, codes = np.unique(np.array(symbols, dtype=object), return_inverse=True)
        raw = RawBars(
            place["venue"],
            place["timeframe"],
            tuple(names.tolist()),
            codes.astype(np.int32),
            np.array(closes, dtype=np.int64),
            *(np.array(column, dtype=np.float64) for column in values),
        )
        parts.append(Bars.from_raw(raw))
    return parts
