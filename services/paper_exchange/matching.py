"""What becomes of orders and positions when a bar trades.

The market stands still between two closes: an order accepted while it stands at T trades at
the open of the first bar of its symbol that opens at or after T, however many milliseconds
after T it came. What that bar's volume does not allow goes on to the next bar.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from services.paper_exchange.market import Listing
from shared.book.execution import Execution, FillTerms, execute_market_order
from shared.book.instrument import Instrument
from shared.book.orders import Side


class OrderStatus(StrEnum):
    """The life of an order, in the venue's words."""

    NEW = "NEW"
    PARTIALLY_FILLED = "PARTIALLY_FILLED"
    FILLED = "FILLED"
    CANCELED = "CANCELED"
    EXPIRED = "EXPIRED"


OPEN_STATUSES = (OrderStatus.NEW, OrderStatus.PARTIALLY_FILLED)


@dataclass(frozen=True, slots=True)
class PaperOrder:
    """A market order at the venue.

    Attributes
    ----------
    symbol
        Its name at the venue.
    quote_e8
        What was paid or received so far, in 1e-8 of the quote.
    market_at_ms
        The close at which the market stood when it was accepted.
    created_at_ms, updated_at_ms
        Venue time.
    """

    order_id: int
    client_order_id: str
    symbol: str
    side: Side
    quantity_lots: int
    filled_lots: int
    quote_e8: int
    reduce_only: bool
    status: OrderStatus
    market_at_ms: int
    created_at_ms: int
    updated_at_ms: int

    @property
    def is_open(self) -> bool:
        """Whether it may still trade."""
        return self.status in OPEN_STATUSES


@dataclass(frozen=True, slots=True)
class Trade:
    """One fill; prices and quantities in units of the instrument, money in 1e-8 of the quote."""

    trade_id: int
    order_id: int
    symbol: str
    side: Side
    lots: int
    price_ticks: int
    quote_e8: int
    fee_e8: int
    realised_e8: int
    traded_at_ms: int


@dataclass(frozen=True, slots=True)
class NetPosition:
    """The net position in one symbol.

    Attributes
    ----------
    lots
        Negative when short.
    cost_e8
        What the open lots cost at entry, in 1e-8 of the quote, with the sign of the lots.
    """

    lots: int = 0
    cost_e8: int = 0


FLAT = NetPosition()


def trade_position(
    position: NetPosition, side: Side, lots: int, price_ticks: int, instrument: Instrument
) -> tuple[NetPosition, int]:
    """Return the position after a trade and the profit it realised, in 1e-8 of the quote.

    Lots are closed at their average cost. The share of the cost is rounded down and the
    rest stays with the open lots, so the profits of a position that has come home add up to
    its cash flows exactly.
    """
    change = side.sign * lots
    closing = min(lots, abs(position.lots)) if position.lots * change < 0 else 0
    closed_cost_e8 = position.cost_e8 * closing // abs(position.lots) if closing else 0
    proceeds_e8 = -side.sign * instrument.notional_e8(price_ticks, closing)
    opened_e8 = side.sign * instrument.notional_e8(price_ticks, lots - closing)
    after = NetPosition(position.lots + change, position.cost_e8 - closed_cost_e8 + opened_e8)
    return after, proceeds_e8 - closed_cost_e8


@dataclass(slots=True)
class Matching:
    """What a walk through some closes has changed.

    Attributes
    ----------
    orders
        Changed orders by id, in their present form.
    trades
        In the order they happened; the id of each is given by the store, 0 until then.
    positions
        Positions of the symbols concerned.
    """

    positions: dict[str, NetPosition]
    orders: dict[int, PaperOrder] = field(default_factory=dict)
    trades: list[Trade] = field(default_factory=list)

    @property
    def wallet_change_e8(self) -> int:
        """Realised profit less fees."""
        return sum(trade.realised_e8 - trade.fee_e8 for trade in self.trades)


def match_closes(
    open_orders: Iterable[PaperOrder],
    closes: Sequence[int],
    positions: Mapping[str, NetPosition],
    listings: Mapping[str, Listing],
    terms: FillTerms,
) -> Matching:
    """Trade open orders through some closes.

    Parameters
    ----------
    open_orders
        In order of arrival.
    closes
        In order.
    positions
        Net positions by symbol before the first close.
    listings, terms
        The market and its costs.
    """
    matching = Matching(dict(positions))
    working = list(open_orders)
    for closes_at_ms in closes:
        if not working:
            break
        working = [
            after
            for order in working
            if (
                after := _match(order, closes_at_ms, matching, listings[order.symbol], terms)
            ).is_open
        ]
    return matching


def _match(
    order: PaperOrder, closes_at_ms: int, matching: Matching, listing: Listing, terms: FillTerms
) -> PaperOrder:
    """Let one bar act on one order."""
    bar = listing.bar_at(closes_at_ms)
    if bar is None or order.market_at_ms > bar.opens_at_ms:
        return order
    position = matching.positions.get(order.symbol, FLAT)
    wanted = order.quantity_lots - order.filled_lots
    if order.reduce_only:
        wanted = min(wanted, max(0, -order.side.sign * position.lots))
        if wanted == 0:
            updated_at_ms = max(order.updated_at_ms, bar.opens_at_ms)
            expired = replace(order, status=OrderStatus.EXPIRED, updated_at_ms=updated_at_ms)
            matching.orders[order.order_id] = expired
            return expired
    execution = execute_market_order(
        order.side, wanted, bar.open, bar.volume, listing.instrument, terms
    )
    if execution is None:
        return order
    return _book(order, execution, bar.opens_at_ms, position, matching, listing.instrument)


def _book(
    order: PaperOrder,
    execution: Execution,
    traded_at_ms: int,
    position: NetPosition,
    matching: Matching,
    instrument: Instrument,
) -> PaperOrder:
    quote_e8 = instrument.notional_e8(execution.price_ticks, execution.lots)
    matching.positions[order.symbol], realised_e8 = trade_position(
        position, order.side, execution.lots, execution.price_ticks, instrument
    )
    filled_lots = order.filled_lots + execution.lots
    is_filled = filled_lots == order.quantity_lots
    after = replace(
        order,
        filled_lots=filled_lots,
        quote_e8=order.quote_e8 + quote_e8,
        status=OrderStatus.FILLED if is_filled else OrderStatus.PARTIALLY_FILLED,
        updated_at_ms=max(order.updated_at_ms, traded_at_ms),
    )
    matching.orders[order.order_id] = after
    matching.trades.append(
        Trade(
            trade_id=0,
            order_id=order.order_id,
            symbol=order.symbol,
            side=order.side,
            lots=execution.lots,
            price_ticks=execution.price_ticks,
            quote_e8=quote_e8,
            fee_e8=execution.fee_e8,
            realised_e8=realised_e8,
            traded_at_ms=traded_at_ms,
        )
    )
    return after
