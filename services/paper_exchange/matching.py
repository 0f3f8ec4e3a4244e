"""What becomes of orders and positions when a bar trades.

The market stands still between two closes: an order accepted while it stands at T trades at
the open of the first bar of its symbol that opens at or after T, however many milliseconds
after T it came. What that bar's volume does not allow goes on to the next bar.

A limit order that the open satisfies trades there, as a market order would but never beyond
its price. Otherwise it rests, and trades at its price once a bar has gone through it: a bar
that only touched the price may have left others in front of it in the queue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from services.paper_exchange.market import Listing, TradableBar
from shared.book.arithmetic import PARTS_PER_MILLION
from shared.book.execution import (
    Execution,
    FillTerms,
    carry_e8,
    charge_e8,
    execute_market_order,
)
from shared.book.instrument import Instrument
from shared.book.ledger import FUNDING_INTERVAL_MS
from shared.book.orders import Side


class Product(StrEnum):
    """The two markets of the venue; each has a wallet, orders and positions of its own."""

    USDM = "usdm"
    SPOT = "spot"


class OrderStatus(StrEnum):
    """The life of an order, in the venue's words."""

    NEW = "NEW"
    PARTIALLY_FILLED = "PARTIALLY_FILLED"
    FILLED = "FILLED"
    CANCELED = "CANCELED"
    EXPIRED = "EXPIRED"


class TimeInForce(StrEnum):
    """How long a limit order may work, in the venue's words.

    `GTC` until cancelled; `IOC` in its first bar, at the open; `FOK` the same, whole or not
    at all; `GTX` like `GTC`, but refused if it would trade at the price of the moment.
    """

    GTC = "GTC"
    IOC = "IOC"
    FOK = "FOK"
    GTX = "GTX"


OPEN_STATUSES = (OrderStatus.NEW, OrderStatus.PARTIALLY_FILLED)


@dataclass(frozen=True, slots=True)
class PaperOrder:
    """An order at the venue.

    Attributes
    ----------
    symbol
        Its name at the venue.
    quote_e8
        What was paid or received so far, in 1e-8 of the quote.
    market_at_ms
        It trades from the first bar that opens then: the close at which the market stood
        when it was accepted.
    created_at_ms, updated_at_ms
        Venue time.
    product
        Where it was placed.
    price_ticks, time_in_force
        Of a limit order; the price of a market order is `None`.
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
    product: Product = Product.USDM
    price_ticks: int | None = None
    time_in_force: TimeInForce = TimeInForce.GTC

    @property
    def is_open(self) -> bool:
        """Whether it may still trade."""
        return self.status in OPEN_STATUSES

    @property
    def remaining_lots(self) -> int:
        """Lots not yet filled."""
        return self.quantity_lots - self.filled_lots


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
    product: Product
    is_maker: bool


class Step(NamedTuple):
    """What happened to an order: its form afterwards, and the trade, `None` if it expired.

    The id of the trade is given by the store, 0 until then.
    """

    order: PaperOrder
    trade: Trade | None


@dataclass(frozen=True, slots=True)
class FundingPayment:
    """What a position was charged for being held at a funding instant."""

    symbol: str
    paid_e8: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class NetPosition:
    """The net position in one symbol; of spot, the holding of its base.

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

Share = Callable[[PaperOrder, int, int], int]
"""How many of the lots that the bar of a close would fill of an order it does fill."""


def all_of_it(order: PaperOrder, closes_at_ms: int, lots: int) -> int:
    """Return the lots: a bar fills what it would fill."""
    return lots


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
    """What a walk of one product through some closes has changed.

    Attributes
    ----------
    product
        Whose orders they are.
    positions
        All positions of the product by symbol, in their present form.
    quote_e8
        What spot orders may still spend.
    steps
        What happened to orders, in order.
    funding
        What positions were charged, in order.
    """

    product: Product
    positions: dict[str, NetPosition]
    quote_e8: int = 0
    steps: list[Step] = field(default_factory=list)
    funding: list[FundingPayment] = field(default_factory=list)

    @property
    def orders(self) -> dict[int, PaperOrder]:
        """Changed orders by id, in their present form."""
        return {step.order.order_id: step.order for step in self.steps}

    @property
    def trades(self) -> list[Trade]:
        """Trades in the order they happened."""
        return [step.trade for step in self.steps if step.trade is not None]

    @property
    def wallet_change_e8(self) -> int:
        """What it did to the product's balance in the quote.

        Of USD-M realised profit less fees and funding, of spot what was received less what
        was paid.
        """
        if self.product is Product.SPOT:
            return sum(-each.side.sign * each.quote_e8 - each.fee_e8 for each in self.trades)
        charged_e8 = sum(payment.paid_e8 for payment in self.funding)
        return sum(each.realised_e8 - each.fee_e8 for each in self.trades) - charged_e8


def match_closes(
    product: Product,
    open_orders: Iterable[PaperOrder],
    closes: Sequence[int],
    positions: Mapping[str, NetPosition],
    listings: Mapping[str, Listing],
    terms: FillTerms,
    *,
    funded_to_ms: int = 0,
    quote_e8: int = 0,
    share: Share = all_of_it,
) -> Matching:
    """Trade the open orders of a product through some closes.

    Parameters
    ----------
    product
        USD-M positions pay funding; spot orders are bounded by what the wallet holds.
    open_orders
        Of the product, in order of arrival.
    closes
        In order.
    positions
        Net positions by symbol before the first close.
    listings, terms
        The market and its costs.
    funded_to_ms
        The close before the first one.
    quote_e8
        Spot balance in the quote.
    share
        What a bar does fill of what it would fill.

    Notes
    -----
    At every close in the order of the book: fills of the bar that closes, then the funding
    of the positions they left, at the last prices. A funding instant without a close is
    charged at the next one.
    """
    matching = Matching(product, dict(positions), quote_e8)
    working = list(open_orders)
    is_funded = product is Product.USDM and terms.funding_ppm + terms.borrow_ppm > 0
    for closes_at_ms in closes:
        if not working and not (is_funded and any(p.lots for p in matching.positions.values())):
            break
        working = [
            after
            for order in working
            if (
                after := _match(order, closes_at_ms, matching, listings[order.symbol], terms, share)
            ).is_open
        ]
        if is_funded:
            _charge_funding(matching, funded_to_ms, closes_at_ms, listings, terms)
        funded_to_ms = closes_at_ms
    return matching


def _charge_funding(
    matching: Matching,
    previous_ms: int,
    closes_at_ms: int,
    listings: Mapping[str, Listing],
    terms: FillTerms,
) -> None:
    last = closes_at_ms // FUNDING_INTERVAL_MS
    instants = last - previous_ms // FUNDING_INTERVAL_MS
    if instants <= 0:
        return
    for symbol, position in matching.positions.items():
        ticks = listings[symbol].last_price_ticks(closes_at_ms) if position.lots else None
        if ticks is not None:
            notional_e8 = listings[symbol].instrument.notional_e8(ticks, position.lots)
            paid_e8 = instants * carry_e8(position.lots, abs(notional_e8), terms)
            matching.funding.append(FundingPayment(symbol, paid_e8, last * FUNDING_INTERVAL_MS))


def _match(
    order: PaperOrder,
    closes_at_ms: int,
    matching: Matching,
    listing: Listing,
    terms: FillTerms,
    share: Share,
) -> PaperOrder:
    """Let one bar act on one order."""
    bar = listing.bar_at(closes_at_ms)
    if bar is None or order.market_at_ms > bar.opens_at_ms:
        return order
    position = matching.positions.get(order.symbol, FLAT)
    wanted = order.remaining_lots
    if order.reduce_only or (order.product is Product.SPOT and order.side is Side.SELL):
        wanted = min(wanted, max(0, -order.side.sign * position.lots))
        if wanted == 0:
            return _expire(order, bar, matching)
    filled = _execute(order, wanted, bar, listing.instrument, terms)
    if filled is not None and order.product is Product.SPOT and order.side is Side.BUY:
        filled = _within_balance(filled, matching.quote_e8, listing.instrument, terms)
        if filled is None:
            return _expire(order, bar, matching)
    if filled is not None:
        lots, price_ticks = filled.execution.lots, filled.execution.price_ticks
        shared_lots = share(order, closes_at_ms, lots)
        if shared_lots == 0:  # the venue trades nothing at present
            return order
        if shared_lots < lots:
            execution = _priced(shared_lots, price_ticks, listing.instrument, terms)
            filled = filled._replace(execution=execution)
    if order.time_in_force is TimeInForce.FOK and (
        filled is None or filled.execution.lots < order.quantity_lots
    ):
        return _expire(order, bar, matching)
    if filled is not None:
        order = _book(order, filled, bar.opens_at_ms, position, matching, listing.instrument)
    if order.time_in_force is TimeInForce.IOC and order.is_open:
        return _expire(order, bar, matching)
    return order


class _Filled(NamedTuple):
    execution: Execution
    is_maker: bool


def _execute(
    order: PaperOrder, wanted: int, bar: TradableBar, instrument: Instrument, terms: FillTerms
) -> _Filled | None:
    """Return what a bar gives to an order, whatever the wallet says to it."""
    taken = execute_market_order(order.side, wanted, bar.open, bar.volume, instrument, terms)
    if order.price_ticks is None or taken is None:
        return None if taken is None else _Filled(taken, is_maker=False)
    sign, limit_ticks = order.side.sign, order.price_ticks
    if sign * (instrument.price_ticks(bar.open, "nearest") - limit_ticks) <= 0:
        price_ticks = sign * min(sign * taken.price_ticks, sign * limit_ticks)
        return _Filled(_priced(taken.lots, price_ticks, instrument, terms), is_maker=False)
    best = bar.low if order.side is Side.BUY else bar.high
    is_through = sign * (instrument.price_ticks(best, "nearest") - limit_ticks) < 0
    if not is_through or order.time_in_force in (TimeInForce.IOC, TimeInForce.FOK):
        return None
    return _Filled(_priced(taken.lots, limit_ticks, instrument, terms), is_maker=True)


def affordable_lots(
    quote_e8: int, price_ticks: int, instrument: Instrument, terms: FillTerms
) -> int:
    """Return how many lots an amount of the quote pays for, fee included."""
    lot_e8 = instrument.notional_e8(price_ticks, 1) * (PARTS_PER_MILLION + terms.fee_ppm)
    return max(0, quote_e8) * PARTS_PER_MILLION // lot_e8


def _within_balance(
    filled: _Filled, quote_e8: int, instrument: Instrument, terms: FillTerms
) -> _Filled | None:
    """Return as much of a purchase as the balance pays for."""
    execution = filled.execution
    lots = affordable_lots(quote_e8, execution.price_ticks, instrument, terms)
    if lots >= execution.lots:
        return filled
    if lots == 0:
        return None
    return filled._replace(execution=_priced(lots, execution.price_ticks, instrument, terms))


def _priced(lots: int, price_ticks: int, instrument: Instrument, terms: FillTerms) -> Execution:
    fee_e8 = charge_e8(instrument.notional_e8(price_ticks, lots), terms.fee_ppm)
    return Execution(lots, price_ticks, fee_e8)


def _expire(order: PaperOrder, bar: TradableBar, matching: Matching) -> PaperOrder:
    updated_at_ms = max(order.updated_at_ms, bar.opens_at_ms)
    expired = replace(order, status=OrderStatus.EXPIRED, updated_at_ms=updated_at_ms)
    matching.steps.append(Step(expired, None))
    return expired


def _book(
    order: PaperOrder,
    filled: _Filled,
    traded_at_ms: int,
    position: NetPosition,
    matching: Matching,
    instrument: Instrument,
) -> PaperOrder:
    execution = filled.execution
    quote_e8 = instrument.notional_e8(execution.price_ticks, execution.lots)
    matching.positions[order.symbol], realised_e8 = trade_position(
        position, order.side, execution.lots, execution.price_ticks, instrument
    )
    matching.quote_e8 -= order.side.sign * quote_e8 + execution.fee_e8
    filled_lots = order.filled_lots + execution.lots
    is_filled = filled_lots == order.quantity_lots
    after = replace(
        order,
        filled_lots=filled_lots,
        quote_e8=order.quote_e8 + quote_e8,
        status=OrderStatus.FILLED if is_filled else OrderStatus.PARTIALLY_FILLED,
        updated_at_ms=max(order.updated_at_ms, traded_at_ms),
    )
    trade = Trade(
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
        product=order.product,
        is_maker=filled.is_maker,
    )
    matching.steps.append(Step(after, trade))
    return after
