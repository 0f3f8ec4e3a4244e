"""SQL of the executor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.book.ledger import Fill, Ledger, Settlement
from shared.book.orders import Order, OrderState, Side
from shared.book.positions import PairPosition, PairState
from shared.clock import instant_of_ms, ms_of_instant
from shared.database.engine import insert_rows
from shared.database.tables import account, fills, orders, pair_positions

_ORDER_UPDATES = ("state", "filled_lots", "reason")
_POSITION_UPDATES = (
    "state",
    "lots_y",
    "lots_x",
    "cash_e8",
    "fees_e8",
    "funding_e8",
    "closed_at",
)
_ACCOUNT_UPDATES = ("cash_e8", "equity_e8", "gross_e8", "n_positions", "marks_ticks")
_WORKING = tuple(
    state.value
    for state in (
        OrderState.INITIALISED,
        OrderState.SUBMITTED,
        OrderState.UNKNOWN,
        OrderState.ACCEPTED,
        OrderState.PARTIALLY_FILLED,
    )
)


async def load_ledger(
    connection: AsyncConnection, capital_e8: int
) -> tuple[Ledger, dict[str, int]]:
    """Return the book after the last settled close, and when in-flight orders were sent."""
    last = (
        await connection.execute(select(account).order_by(account.c.closes_at.desc()).limit(1))
    ).one_or_none()
    if last is None:
        return Ledger(capital_e8), {}
    working, submitted_at_ms = {}, {}
    live = select(orders).where(orders.c.state.in_(_WORKING)).order_by(orders.c.client_order_id)
    for row in await connection.execute(live):
        working[row.client_order_id] = _order(row)
        if row.submitted_at is not None:
            submitted_at_ms[row.client_order_id] = ms_of_instant(row.submitted_at)
    counts = await connection.execute(
        select(fills.c.client_order_id, func.count())
        .where(fills.c.client_order_id.in_(list(working)))
        .group_by(fills.c.client_order_id)
    )
    held = await connection.execute(
        select(pair_positions).where(pair_positions.c.state != PairState.CLOSED.value)
    )
    ledger = Ledger(
        cash_e8=int(last.cash_e8),
        closes_at_ms=ms_of_instant(last.closes_at),
        positions={row.position_id: _position(row) for row in held},
        orders=working,
        fill_counts={row[0]: row[1] for row in counts},
        marks_ticks=dict(last.marks_ticks),
    )
    return ledger, submitted_at_ms


def _order(row: Any) -> Order:
    return Order(
        client_order_id=row.client_order_id,
        intent_id=row.intent_id,
        pair=row.pair,
        leg=row.leg,
        attempt=row.attempt,
        symbol=row.symbol,
        side=Side(row.side),
        quantity_lots=row.quantity_lots,
        reduce_only=row.reduce_only,
        created_at_ms=ms_of_instant(row.created_at),
        state=OrderState(row.state),
        filled_lots=row.filled_lots,
        reason=row.reason,
    )


def _position(row: Any) -> PairPosition:
    return PairPosition(
        position_id=row.position_id,
        pair=row.pair,
        symbol_y=row.symbol_y,
        symbol_x=row.symbol_x,
        state=PairState(row.state),
        opened_at_ms=ms_of_instant(row.opened_at),
        lots_y=row.lots_y,
        lots_x=row.lots_x,
        cash_e8=int(row.cash_e8),
        fees_e8=int(row.fees_e8),
        funding_e8=int(row.funding_e8),
        closed_at_ms=None if row.closed_at is None else ms_of_instant(row.closed_at),
    )


async def intents_with_orders(connection: AsyncConnection, ids: Sequence[str]) -> frozenset[str]:
    """Return which of some intents have orders already."""
    found = await connection.execute(
        select(orders.c.intent_id).where(orders.c.intent_id.in_(ids)).distinct()
    )
    return frozenset(found.scalars())


async def save_settlement(
    connection: AsyncConnection,
    closes_at: datetime,
    settlement: Settlement,
    submitted_at_ms: int | None,
    lineage: Mapping[str, str],
) -> None:
    """Record everything a settled close changed."""
    sent = {order.client_order_id for order in settlement.submit}
    rows = [
        {
            **_order_row(order),
            "submitted_at": instant_of_ms(submitted_at_ms)
            if submitted_at_ms is not None and order.client_order_id in sent
            else None,
            **lineage,
        }
        for order in settlement.orders
    ]
    await insert_rows(connection, orders, rows, update=_ORDER_UPDATES)
    await insert_rows(connection, fills, [{**_fill_row(f), **lineage} for f in settlement.fills])
    positions = [{**_position_row(p), **lineage} for p in settlement.positions]
    await insert_rows(connection, pair_positions, positions, update=_POSITION_UPDATES)
    ledger = settlement.ledger
    if ledger.closes_at_ms != ms_of_instant(closes_at) and not positions:
        return
    row = {
        "closes_at": instant_of_ms(ledger.closes_at_ms or ms_of_instant(closes_at)),
        "cash_e8": ledger.cash_e8,
        "equity_e8": settlement.equity_e8,
        "gross_e8": settlement.gross_e8,
        "n_positions": len(ledger.positions),
        "marks_ticks": dict(ledger.marks_ticks),
        **lineage,
    }
    await insert_rows(connection, account, [row], update=_ACCOUNT_UPDATES)


def _order_row(order: Order) -> dict[str, Any]:
    return {
        "client_order_id": order.client_order_id,
        "intent_id": order.intent_id,
        "pair": order.pair,
        "leg": order.leg,
        "attempt": order.attempt,
        "symbol": order.symbol,
        "side": order.side.value,
        "quantity_lots": order.quantity_lots,
        "filled_lots": order.filled_lots,
        "reduce_only": order.reduce_only,
        "created_at": instant_of_ms(order.created_at_ms),
        "state": order.state.value,
        "reason": order.reason,
    }


def _fill_row(fill: Fill) -> dict[str, Any]:
    return {
        "client_order_id": fill.client_order_id,
        "fill_number": fill.fill_number,
        "pair": fill.pair,
        "leg": fill.leg,
        "symbol": fill.symbol,
        "side": fill.side.value,
        "lots": fill.lots,
        "price_ticks": fill.price_ticks,
        "fee_e8": fill.fee_e8,
        "filled_at": instant_of_ms(fill.filled_at_ms),
    }


def _position_row(position: PairPosition) -> dict[str, Any]:
    return {
        "position_id": position.position_id,
        "pair": position.pair,
        "symbol_y": position.symbol_y,
        "symbol_x": position.symbol_x,
        "state": position.state.value,
        "opened_at": instant_of_ms(position.opened_at_ms),
        "lots_y": position.lots_y,
        "lots_x": position.lots_x,
        "cash_e8": position.cash_e8,
        "fees_e8": position.fees_e8,
        "funding_e8": position.funding_e8,
        "closed_at": None
        if position.closed_at_ms is None
        else instant_of_ms(position.closed_at_ms),
    }


async def update_orders(connection: AsyncConnection, changed: Iterable[Order]) -> None:
    """Record new states of orders that exist."""
    for order in changed:
        await connection.execute(
            update(orders)
            .where(orders.c.client_order_id == order.client_order_id)
            .values(state=order.state.value, reason=order.reason)
        )


async def note_submission(
    connection: AsyncConnection, ids: Sequence[str], submitted_at: datetime
) -> None:
    """Record the venue time at which orders are about to be sent."""
    await connection.execute(
        text("UPDATE orders SET submitted_at = :at WHERE client_order_id = ANY(:ids)"),
        {"at": submitted_at, "ids": list(ids)},
    )
