"""What the executor tells the fleet of a settled close."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from shared.book.ledger import Settlement
from shared.book.orders import Order
from shared.clock import instant_of_ms
from shared.events.executor import (
    BookedFill,
    FillsBooked,
    OrderStatus,
    OrdersUpdated,
    PositionsChanged,
    PositionStatus,
)


def orders_updated(closes_at: datetime, orders: Iterable[Order]) -> OrdersUpdated:
    """Return the event that tells of changed orders."""
    return OrdersUpdated(
        closes_at=closes_at,
        orders=tuple(
            OrderStatus(
                client_order_id=order.client_order_id,
                intent_id=order.intent_id,
                pair=order.pair,
                leg=order.leg,
                symbol=order.symbol,
                side=order.side.value,
                quantity_lots=order.quantity_lots,
                filled_lots=order.filled_lots,
                reduce_only=order.reduce_only,
                state=order.state.value,
                reason=order.reason,
            )
            for order in orders
        ),
    )


def fills_booked(closes_at: datetime, settlement: Settlement) -> FillsBooked:
    """Return the event that tells of booked fills."""
    return FillsBooked(
        closes_at=closes_at,
        fills=tuple(
            BookedFill(
                client_order_id=fill.client_order_id,
                fill_number=fill.fill_number,
                pair=fill.pair,
                leg=fill.leg,
                symbol=fill.symbol,
                side=fill.side.value,
                lots=fill.lots,
                price_ticks=fill.price_ticks,
                fee_e8=fill.fee_e8,
                filled_at=instant_of_ms(fill.filled_at_ms),
            )
            for fill in settlement.fills
        ),
    )


def positions_changed(closes_at: datetime, settlement: Settlement) -> PositionsChanged:
    """Return the event that tells of the account and of changed positions."""
    return PositionsChanged(
        closes_at=closes_at,
        cash_e8=settlement.ledger.cash_e8,
        equity_e8=settlement.equity_e8,
        gross_e8=settlement.gross_e8,
        positions=tuple(
            PositionStatus(
                position_id=position.position_id,
                pair=position.pair,
                state=position.state.value,
                lots_y=position.lots_y,
                lots_x=position.lots_x,
                cash_e8=position.cash_e8,
            )
            for position in settlement.positions
        ),
    )
