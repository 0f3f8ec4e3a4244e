"""Stable hashes of what a run produced.

A digest covers the business columns of one kind of row, in the order of its natural key. No
wall-clock time, lineage or surrogate key is part of it, so that the same decisions give the
same digest wherever and however often they are taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import orjson

from shared.book.ledger import Fill
from shared.book.orders import Order
from shared.book.positions import PairPosition
from shared.clock import ms_of_instant
from shared.events.screener import PairsScreened
from shared.events.signals import Signal
from shared.quant.bars import Bars

KINDS = ("bars", "pairs", "features", "signals", "orders", "fills", "positions")

Row = tuple[Any, ...]


def digest(rows: Iterable[Row]) -> str:
    """Return the sha256 over rows as JSON lines; floats are written to round-trip."""
    total = hashlib.sha256()
    for row in rows:
        total.update(orjson.dumps(row))
        total.update(b"\n")
    return total.hexdigest()


def bars_digest(parts: Iterable[Bars]) -> str:
    """Return the digest of bars: by timeframe name, close and symbol."""
    total = hashlib.sha256()
    for bars in sorted(parts, key=lambda part: part.timeframe):
        names = np.array(bars.symbols, dtype=object)
        total.update(f"{bars.venue} {bars.timeframe} {len(bars)}\n".encode())
        total.update("\n".join(names[bars.symbol_code].tolist()).encode())
        for column in bars.columns()[1:]:
            total.update(np.ascontiguousarray(column).tobytes())
    return total.hexdigest()


def pair_rows(screened: PairsScreened) -> list[Row]:
    """Return the roster of a screen as rows: (closes_at_ms, y, x, ...)."""
    return [
        (
            screened.closes_at_ms,
            pair.y,
            pair.x,
            pair.status,
            pair.accepted_screens,
            pair.missed_screens,
            None if pair.entered_at is None else ms_of_instant(pair.entered_at),
            None if pair.left_at is None else ms_of_instant(pair.left_at),
            pair.statistic,
            pair.p_value,
            pair.q_value,
            pair.lag,
            pair.hedge_ratio,
            pair.intercept,
            pair.half_life_bars,
            pair.hurst,
            pair.correlation,
            pair.crossings,
            pair.n_bars,
        )
        for pair in screened.pairs
    ]


def signal_row(closes_at_ms: int, roster_closes_at: datetime | None, signal: Signal) -> Row:
    """Return a signal as a row: (closes_at_ms, y, x, action, ...)."""
    return (
        closes_at_ms,
        signal.y,
        signal.x,
        signal.action,
        signal.sleeve,
        signal.side,
        signal.reason,
        signal.strength,
        signal.confidence,
        signal.z_score,
        signal.hedge_ratio,
        signal.intercept,
        signal.spread_mean,
        signal.spread_std,
        ms_of_instant(signal.entered_at),
        signal.close_y,
        signal.close_x,
        None if roster_closes_at is None else ms_of_instant(roster_closes_at),
        signal.model_sha256,
    )


def order_row(order: Order) -> Row:
    """Return an order as a row: (client_order_id, ...)."""
    return (
        order.client_order_id,
        order.intent_id,
        order.pair,
        order.leg,
        order.attempt,
        order.symbol,
        order.side.value,
        order.quantity_lots,
        order.filled_lots,
        order.reduce_only,
        order.created_at_ms,
        order.state.value,
    )


def fill_row(fill: Fill) -> Row:
    """Return a fill as a row: (client_order_id, fill_number, ...)."""
    return (
        fill.client_order_id,
        fill.fill_number,
        fill.pair,
        fill.leg,
        fill.symbol,
        fill.side.value,
        fill.lots,
        fill.price_ticks,
        fill.fee_e8,
        fill.filled_at_ms,
    )


def position_row(position: PairPosition) -> Row:
    """Return a position as a row: (position_id, ...)."""
    return (
        position.position_id,
        position.pair,
        position.state.value,
        position.opened_at_ms,
        position.lots_y,
        position.lots_x,
        position.cash_e8,
        position.fees_e8,
        position.funding_e8,
        position.closed_at_ms,
    )


@dataclass(slots=True)
class Tally:
    """Counts and rows of a run, from which its report and digests are made."""

    closes: int = 0
    bars: int = 0
    quarantined: int = 0
    intents: int = 0
    dead_letters: int = 0
    rows: dict[str, list[Row]] = field(
        default_factory=lambda: {kind: [] for kind in KINDS if kind != "bars"}
    )

    def counts(self) -> dict[str, int]:
        """Return the counts of a report; `pairs` counts distinct pairs that were active."""
        active = {(row[1], row[2]) for row in self.rows["pairs"] if row[3] != "candidate"}
        return {
            "closes": self.closes,
            "bars": self.bars,
            "quarantined": self.quarantined,
            "pairs": len(active),
            "features": len(self.rows["features"]),
            "signals": len(self.rows["signals"]),
            "intents": self.intents,
            "orders": len(self.rows["orders"]),
            "fills": len(self.rows["fills"]),
            "dead_letters": self.dead_letters,
        }

    def digests(self, bars: str) -> dict[str, str]:
        """Return all digests, with that of the bars given."""
        found = {
            kind: digest(sorted(rows, key=_NATURAL_KEY[kind])) for kind, rows in self.rows.items()
        }
        return {"bars": bars, **found}


_NATURAL_KEY: Mapping[str, Callable[[Row], Row]] = {
    "pairs": lambda row: row[:3],
    "features": lambda row: row[:3],
    "signals": lambda row: row[:4],
    "orders": lambda row: row[:1],
    "fills": lambda row: row[:2],
    "positions": lambda row: row[:1],
}
