"""Events published by the executor."""

from __future__ import annotations

from typing import Literal

from shared.events.base import Event, Fact, Instant, Symbol


class OrderStatus(Fact):
    """Where one order stands."""

    client_order_id: str
    intent_id: str
    pair: str
    leg: str
    symbol: Symbol
    side: Literal["buy", "sell"]
    quantity_lots: int
    filled_lots: int
    reduce_only: bool
    state: str
    reason: str


class OrdersUpdated(Event):
    """Orders whose state changed since the last event."""

    orders: tuple[OrderStatus, ...]


class BookedFill(Fact):
    """One fill, attributed to its order and leg."""

    client_order_id: str
    fill_number: int
    pair: str
    leg: str
    symbol: Symbol
    side: Literal["buy", "sell"]
    lots: int
    price_ticks: int
    fee_e8: int
    filled_at: Instant


class FillsBooked(Event):
    """Fills booked at one close."""

    fills: tuple[BookedFill, ...]


class PositionStatus(Fact):
    """Where the position of one pair stands."""

    position_id: str
    pair: str
    state: str
    lots_y: int
    lots_x: int
    cash_e8: int


class PositionsChanged(Event):
    """The account at one close, with the positions that changed; one event every close."""

    cash_e8: int
    equity_e8: int
    gross_e8: int
    positions: tuple[PositionStatus, ...]


class RiskChanged(Event):
    """A person, a limit or drift changed what the executor may trade.

    Attributes
    ----------
    closes_at
        The close before the first at which the change is in force: the last one handled, or of
        drift the one that was checked; the beginning of 1970 where none had been handled yet.
    state
        `active`: everything. `reduce_only`: nothing that opens or adds. `halted`: as before,
        and opening orders that work are withdrawn. Closing is always allowed.
    is_flattening
        Whether every open pair is being closed.
    """

    state: Literal["active", "reduce_only", "halted"]
    is_flattening: bool
    reason: str
    decided_by: str
