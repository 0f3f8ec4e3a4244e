"""The executor's book, one close after another.

`settle_close` is the one kernel that books fills, charges funding, compensates a pair left
on one leg, and turns intents into orders. The executor service feeds it what the venue
reported, the backtest what the fill kernel gave.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from shared.book.control import TradingControl, TradingState
from shared.book.execution import Execution, FillTerms
from shared.book.instrument import Instrument
from shared.book.orders import (
    IN_FLIGHT,
    TAKEN,
    Order,
    OrderState,
    Side,
    advance_order,
    client_order_id,
    fill_order,
)
from shared.book.positions import (
    PairPosition,
    PairState,
    apply_execution,
    charge_funding,
    value_e8,
)
from shared.errors import PermanentError
from shared.events.portfolio import OrdersRequested, SubmitOrder

FUNDING_INTERVAL_MS = 8 * 3_600_000


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose orders these are: part of every client order id."""

    account: str
    run: str


@dataclass(frozen=True, slots=True)
class Fill:
    """A booked fill; `fill_number` counts the fills of its order from zero."""

    client_order_id: str
    fill_number: int
    pair: str
    leg: str
    symbol: str
    side: Side
    lots: int
    price_ticks: int
    fee_e8: int
    filled_at_ms: int


@dataclass(frozen=True, slots=True)
class OrderReport:
    """What the venue says of one order.

    Attributes
    ----------
    executions
        All its executions so far with the instant of each, oldest first.
    state
        State of the order when it was asked.
    """

    client_order_id: str
    state: OrderState
    executions: tuple[tuple[int, Execution], ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Ledger:
    """The account: cash, positions that are not closed, orders that still work, marks.

    Attributes
    ----------
    cash_e8
        Capital and all cash that moved since, in 1e-8 of the quote.
    closes_at_ms
        Close of the last step, `None` before the first.
    fill_counts
        Fills booked so far of each working order.
    """

    cash_e8: int
    closes_at_ms: int | None = None
    positions: Mapping[str, PairPosition] = field(default_factory=dict)
    orders: Mapping[str, Order] = field(default_factory=dict)
    fill_counts: Mapping[str, int] = field(default_factory=dict)
    marks_ticks: Mapping[str, int] = field(default_factory=dict)

    def equity_e8(self, instruments: Mapping[str, Instrument]) -> tuple[int, int]:
        """Return equity and gross exposure at the marks, in 1e-8 of the quote."""
        values = [value_e8(p, self.marks_ticks, instruments) for p in self.positions.values()]
        return self.cash_e8 + sum(net for net, _ in values), sum(gross for _, gross in values)


@dataclass(frozen=True, slots=True)
class Settlement:
    """What one close did to the book.

    Attributes
    ----------
    orders, positions
        Those that changed, in their new form; closed and terminal ones included.
    submit, cancel
        Orders to send to and to withdraw from the venue once this is recorded.
    """

    ledger: Ledger
    fills: tuple[Fill, ...]
    orders: tuple[Order, ...]
    positions: tuple[PairPosition, ...]
    submit: tuple[Order, ...]
    cancel: tuple[Order, ...]
    equity_e8: int
    gross_e8: int


class _Draft:
    """The book while one close is being settled."""

    def __init__(
        self, ledger: Ledger, instruments: Mapping[str, Instrument], closes_at_ms: int
    ) -> None:
        self.instruments = instruments
        self.closes_at_ms = closes_at_ms
        self.previous_ms = ledger.closes_at_ms
        self.cash_e8 = ledger.cash_e8
        self.positions = dict(ledger.positions)
        self.orders = dict(ledger.orders)
        self.fill_counts = dict(ledger.fill_counts)
        self.marks_ticks = dict(ledger.marks_ticks)
        self.fills: list[Fill] = []
        self.changed_orders: dict[str, Order] = {}
        self.changed_positions: dict[str, PairPosition] = {}
        self.submit: list[Order] = []
        self.cancel: dict[str, Order] = {}

    @property
    def is_new_close(self) -> bool:
        """Whether time moves on: a close may come in several events, an event late."""
        return self.previous_ms is None or self.closes_at_ms > self.previous_ms

    @property
    def is_late(self) -> bool:
        return self.previous_ms is not None and self.closes_at_ms < self.previous_ms

    def put_order(self, order: Order) -> None:
        self.changed_orders[order.client_order_id] = order
        self.orders[order.client_order_id] = order

    def put_position(self, position: PairPosition) -> None:
        previous = self.positions.get(position.position_id)
        self.cash_e8 += position.cash_e8 - (previous.cash_e8 if previous else 0)
        self.changed_positions[position.position_id] = position
        self.positions[position.position_id] = position

    def withdraw(self, orders: Iterable[Order]) -> None:
        self.cancel |= {order.client_order_id: order for order in orders}

    def working_orders_of(self, pair: str) -> list[Order]:
        return [o for o in self.orders.values() if o.pair == pair and o.is_working]

    def position_of(self, pair: str) -> PairPosition | None:
        return next((p for p in self.positions.values() if p.pair == pair), None)


def settle_close(
    ledger: Ledger,
    requested: OrdersRequested,
    reports: Sequence[OrderReport],
    instruments: Mapping[str, Instrument],
    terms: FillTerms,
    identity: Identity,
    control: TradingControl = TradingControl(),
) -> Settlement:
    """Settle one close.

    Parameters
    ----------
    ledger
        The book after the previous close.
    requested
        Intents and marks of this close.
    reports
        What the venue reports of working orders; fills booked earlier are recognised.
    instruments, terms, identity
        Units, costs, and the names that make order ids.
    control
        What a person lets the book trade.

    Notes
    -----
    In this order: marks, fills, funding, compensation of what fills and refusals left
    behind, intents, what `control` withdraws and closes. An order decided here trades from
    the next bar on. The book's time never goes back: of a late close the marks are stale and
    left out. Compensation is sent once a close, so that its order ids are never used twice,
    however many events the close has.
    """
    draft = _Draft(ledger, instruments, requested.closes_at_ms)
    for mark in requested.marks:
        if mark.symbol in instruments and not draft.is_late:
            instrument = instruments[mark.symbol]
            draft.marks_ticks[mark.symbol] = instrument.price_ticks(mark.price, "nearest")
    for report in reports:
        _book_report(draft, report)
    _charge_due_funding(draft, terms)
    for position in sorted(draft.positions.values(), key=lambda p: p.position_id):
        _move_on(draft, position, identity)
    for intent in requested.intents:
        if intent.action == "open":
            _open(draft, intent, identity, control)
        elif intent.position_id in draft.positions:
            _close(draft, draft.positions[intent.position_id], intent.intent_id, identity)
    _enforce(draft, control, identity)
    return _conclude(draft)


def acknowledge(ledger: Ledger, reports: Sequence[OrderReport]) -> tuple[Ledger, tuple[Order, ...]]:
    """Record the venue's answers to submissions.

    Fills wait for the next close, and so does the end of an order that the venue took: one
    that has ended is not asked for again, and the fills it had would be lost.
    """
    orders = dict(ledger.orders)
    changed = []
    for report in reports:
        order = orders[report.client_order_id]
        state = OrderState.ACCEPTED if report.state in TAKEN else report.state
        moved = advance_order(order, state, report.reason)
        if moved is not order:
            orders[order.client_order_id] = moved
            changed.append(moved)
    return replace(ledger, orders=orders), tuple(changed)


def in_flight(ledger: Ledger) -> tuple[Order, ...]:
    """Return orders of which we do not know whether the venue has them."""
    return tuple(order for order in ledger.orders.values() if order.state in IN_FLIGHT)


def _book_report(draft: _Draft, report: OrderReport) -> None:
    """Book what is new in a report."""
    order = draft.orders.get(report.client_order_id)
    if order is None:
        raise PermanentError(
            f"the venue reports order {report.client_order_id}, which is not a working order of "
            "the book: reconcile before trading goes on"
        )
    booked = draft.fill_counts.get(order.client_order_id, 0)
    for number, (filled_at_ms, execution) in enumerate(report.executions):
        if number < booked:
            continue
        order = fill_order(order, execution.lots)
        position = draft.position_of(order.pair)
        if position is None:
            raise PermanentError(f"fill of {order.client_order_id} has no position to go to")
        instrument = draft.instruments[order.symbol]
        draft.put_position(apply_execution(position, order, execution, instrument))
        draft.marks_ticks.setdefault(order.symbol, execution.price_ticks)
        draft.fill_counts[order.client_order_id] = number + 1
        draft.fills.append(
            Fill(
                order.client_order_id,
                number,
                order.pair,
                order.leg,
                order.symbol,
                order.side,
                execution.lots,
                execution.price_ticks,
                execution.fee_e8,
                filled_at_ms,
            )
        )
    # What was filled is told by the executions alone: a venue may call an order filled before
    # it lists the last of them, and an order that has ended is not asked for again.
    is_trading = report.state in {OrderState.PARTIALLY_FILLED, OrderState.FILLED}
    state = OrderState.ACCEPTED if is_trading else report.state
    moved = advance_order(order, state, report.reason)
    if moved is not draft.orders[order.client_order_id]:
        draft.put_order(moved)


def _charge_due_funding(draft: _Draft, terms: FillTerms) -> None:
    if draft.previous_ms is None or terms.funding_ppm == terms.borrow_ppm == 0:
        return
    previous = draft.previous_ms // FUNDING_INTERVAL_MS
    settlements = draft.closes_at_ms // FUNDING_INTERVAL_MS - previous
    if settlements <= 0:
        return
    for position in tuple(draft.positions.values()):
        if not position.is_flat:
            draft.put_position(
                charge_funding(
                    position,
                    draft.marks_ticks,
                    draft.instruments,
                    terms,
                    settlements,
                )
            )


def _move_on(draft: _Draft, position: PairPosition, identity: Identity) -> None:
    """Take a position whose orders have all ended to its next state.

    A pair that opened on one leg only is unwound, and a close that left something behind is
    repeated: a pair is never left single-legged.
    """
    if draft.working_orders_of(position.pair):
        return
    if position.is_flat and position.state is not PairState.OPEN:
        draft.put_position(
            replace(position, state=PairState.CLOSED, closed_at_ms=draft.closes_at_ms)
        )
    elif position.state is PairState.OPENING and not position.is_single_legged:
        draft.put_position(replace(position, state=PairState.OPEN))
    elif position.state is not PairState.OPEN and draft.is_new_close:
        draft.put_position(replace(position, state=PairState.CLOSING))
        intent_id = f"{draft.closes_at_ms}:{position.pair}:unwind"
        _submit_closing_orders(draft, position, intent_id, identity)


def _open(draft: _Draft, intent: SubmitOrder, identity: Identity, control: TradingControl) -> None:
    """Open a position on both legs, or deny both."""
    if intent.position_id in draft.positions:
        return
    pair = f"{intent.y}~{intent.x}"
    position = PairPosition(
        intent.position_id, pair, intent.y, intent.x, PairState.OPENING, draft.closes_at_ms
    )
    denial = control.denial or _denial(draft, intent)
    for leg in intent.legs:
        order = Order(
            client_order_id(identity.account, identity.run, intent.intent_id, leg.leg, 0),
            intent.intent_id,
            pair,
            leg.leg,
            0,
            leg.symbol,
            Side(leg.side),
            leg.quantity_lots,
            reduce_only=False,
            created_at_ms=draft.closes_at_ms,
        )
        if denial is None:
            _submit(draft, order)
        else:
            draft.put_order(advance_order(order, OrderState.DENIED, denial))
    if denial is not None:
        position = replace(position, state=PairState.CLOSED, closed_at_ms=draft.closes_at_ms)
    draft.put_position(position)


def _denial(draft: _Draft, intent: SubmitOrder) -> str | None:
    """Return why an opening intent is refused as a whole, or `None`."""
    if sorted((leg.leg, leg.symbol) for leg in intent.legs) != [("x", intent.x), ("y", intent.y)]:
        return f"an opening intent needs exactly the legs y of {intent.y} and x of {intent.x}"
    if draft.position_of(f"{intent.y}~{intent.x}") is not None:
        return "the pair's last position is not closed yet"
    for leg in intent.legs:
        instrument = draft.instruments.get(leg.symbol)
        if instrument is None or leg.symbol not in draft.marks_ticks:
            return f"{leg.symbol} has no instrument or no mark"
        notional_e8 = instrument.notional_e8(draft.marks_ticks[leg.symbol], leg.quantity_lots)
        if notional_e8 < instrument.min_notional_e8:
            return (
                f"{leg.symbol}: {notional_e8}e-8 is below the minimum notional of "
                f"{instrument.min_notional_e8}e-8"
            )
    return None


def _close(draft: _Draft, position: PairPosition, intent_id: str, identity: Identity) -> None:
    """Close what is held of a position; orders that still work are withdrawn first."""
    if position.state in {PairState.CLOSING, PairState.CLOSED}:
        return
    draft.put_position(replace(position, state=PairState.CLOSING))
    working = draft.working_orders_of(position.pair)
    if working:
        draft.withdraw(working)
    else:
        _submit_closing_orders(draft, position, intent_id, identity)


def _enforce(draft: _Draft, control: TradingControl, identity: Identity) -> None:
    """Withdraw the orders and close the positions that may not stay."""
    if control.state is TradingState.HALTED:
        draft.withdraw(o for o in draft.orders.values() if o.is_working and not o.reduce_only)
    if control.is_flattening:
        for position in sorted(draft.positions.values(), key=lambda p: p.position_id):
            intent_id = f"{draft.closes_at_ms}:{position.pair}:flatten"
            _close(draft, position, intent_id, identity)


def _submit_closing_orders(
    draft: _Draft, position: PairPosition, intent_id: str, identity: Identity
) -> None:
    for leg in ("y", "x"):
        symbol, lots = position.holding(leg)
        if lots:
            _submit(
                draft,
                Order(
                    client_order_id(identity.account, identity.run, intent_id, leg, 0),
                    intent_id,
                    position.pair,
                    leg,
                    0,
                    symbol,
                    Side.SELL if lots > 0 else Side.BUY,
                    abs(lots),
                    reduce_only=True,
                    created_at_ms=draft.closes_at_ms,
                ),
            )


def _submit(draft: _Draft, order: Order) -> None:
    submitted = advance_order(order, OrderState.SUBMITTED)
    draft.put_order(submitted)
    draft.submit.append(submitted)


def _conclude(draft: _Draft) -> Settlement:
    """Drop what has ended from the book and value the rest."""
    orders = {key: order for key, order in draft.orders.items() if order.is_working}
    positions = {k: p for k, p in draft.positions.items() if p.state is not PairState.CLOSED}
    held = {s for p in positions.values() for s in (p.symbol_y, p.symbol_x)}
    ledger = Ledger(
        draft.cash_e8,
        draft.previous_ms if draft.is_late else draft.closes_at_ms,
        positions,
        orders,
        {key: count for key, count in draft.fill_counts.items() if key in orders},
        {symbol: ticks for symbol, ticks in draft.marks_ticks.items() if symbol in held},
    )
    equity_e8, gross_e8 = ledger.equity_e8(draft.instruments)
    return Settlement(
        ledger,
        tuple(draft.fills),
        tuple(draft.changed_orders.values()),
        tuple(draft.changed_positions.values()),
        tuple(draft.submit),
        tuple(draft.cancel.values()),
        equity_e8,
        gross_e8,
    )
