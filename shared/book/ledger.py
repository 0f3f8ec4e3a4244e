"""The executor's book, one close after another.

`settle_close` is the one kernel that books fills, charges funding, compensates a pair left
on one leg, and turns intents into orders. The executor service feeds it what the venue
reported, the backtest what the fill kernel gave.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from shared.book.compensation import COMPLETE_WITHIN_MS, Remedy, compensate
from shared.book.control import TradingControl, TradingState
from shared.book.execution import Execution, FillTerms
from shared.book.instrument import Instrument
from shared.book.limits import Exposure, Guard, exposure_of
from shared.book.netting import net_lots, reduces_at_venue
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
    unattributed_lots
        What the venue holds beyond the pairs, by symbol: known, valued and never traded.
    """

    cash_e8: int
    closes_at_ms: int | None = None
    positions: Mapping[str, PairPosition] = field(default_factory=dict)
    orders: Mapping[str, Order] = field(default_factory=dict)
    fill_counts: Mapping[str, int] = field(default_factory=dict)
    marks_ticks: Mapping[str, int] = field(default_factory=dict)
    unattributed_lots: Mapping[str, int] = field(default_factory=dict)

    def equity_e8(self, instruments: Mapping[str, Instrument]) -> tuple[int, int]:
        """Return equity and gross exposure at the marks, in 1e-8 of the quote."""
        values = [value_e8(p, self.marks_ticks, instruments) for p in self.positions.values()]
        for symbol, lots in self.unattributed_lots.items():
            notional_e8 = instruments[symbol].notional_e8(self.marks_ticks[symbol], lots)
            values.append((notional_e8, abs(notional_e8)))
        return self.cash_e8 + sum(net for net, _ in values), sum(gross for _, gross in values)

    def net_lots(self, symbol: str) -> int:
        """Return the signed lots of a symbol that the venue should hold, by the fills booked."""
        return net_lots(self.positions.values(), symbol) + self.unattributed_lots.get(symbol, 0)

    def reduces_at_venue(self, order: Order) -> bool:
        """Tell whether an order can be sent as reduce-only."""
        held_lots = self.net_lots(order.symbol)
        return order.reduce_only and reduces_at_venue(held_lots, self.orders.values(), order)


@dataclass(frozen=True, slots=True)
class Settlement:
    """What one close did to the book.

    Attributes
    ----------
    orders, positions
        Those that changed, in their new form; closed and terminal ones included.
    submit, cancel
        Orders to send to and to withdraw from the venue once this is recorded.
    breach
        Why nothing may be opened from now on until a person says so, where a limit of the
        account was broken.
    """

    ledger: Ledger
    fills: tuple[Fill, ...]
    orders: tuple[Order, ...]
    positions: tuple[PairPosition, ...]
    submit: tuple[Order, ...]
    cancel: tuple[Order, ...]
    equity_e8: int
    gross_e8: int
    breach: str | None = None


class _Draft:
    """The book while one close is being settled."""

    def __init__(
        self,
        ledger: Ledger,
        instruments: Mapping[str, Instrument],
        closes_at_ms: int,
        guard: Guard | None,
    ) -> None:
        self.instruments = instruments
        self.guard = guard
        self.breach: str | None = None
        self.closes_at_ms = closes_at_ms
        self.previous_ms = ledger.closes_at_ms
        self.cash_e8 = ledger.cash_e8
        self.positions = dict(ledger.positions)
        self.orders = dict(ledger.orders)
        self.fill_counts = dict(ledger.fill_counts)
        self.marks_ticks = dict(ledger.marks_ticks)
        self.unattributed_lots = ledger.unattributed_lots
        self.fresh_symbols: set[str] = set()
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
    guard: Guard | None = None,
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
    guard
        The limits of the account; `None` sets none. They deny what opens and stop no close.

    Notes
    -----
    In this order: marks, fills, funding, what closing left behind, intents, what `control`
    withdraws and closes, compensation of legs that filled out of proportion. An order decided
    here trades from the next bar on. The book's time never goes back: of a late close the marks
    are stale and left out, and it opens nothing. Compensation is sent once a close, so that its
    order ids are never used twice, however many events the close has.
    """
    draft = _Draft(ledger, instruments, requested.closes_at_ms, guard)
    for report in reports:
        _watch_slippage(draft, report)
    for symbol, price in requested.marks.items():
        if symbol in instruments and not draft.is_late:
            draft.marks_ticks[symbol] = instruments[symbol].price_ticks(price, "nearest")
            draft.fresh_symbols.add(symbol)
    for report in reports:
        _book_report(draft, report)
    _charge_due_funding(draft, terms)
    for position in sorted(draft.positions.values(), key=lambda p: p.position_id):
        _move_on(draft, position, identity)
    _watch_losses(draft)
    for intent in requested.intents:
        if intent.action == "open":
            _open(draft, intent, identity, control)
        elif intent.position_id in draft.positions:
            _close(draft, draft.positions[intent.position_id], intent.intent_id, identity)
    _enforce(draft, control, identity)
    for position in sorted(draft.positions.values(), key=lambda p: p.position_id):
        _compensate(draft, position, identity, control)
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


def _funding_instants(draft: _Draft) -> int:
    """Return how many instants of funding lie between the last close and this one."""
    if draft.previous_ms is None:
        return 0
    return draft.closes_at_ms // FUNDING_INTERVAL_MS - draft.previous_ms // FUNDING_INTERVAL_MS


def _charge_due_funding(draft: _Draft, terms: FillTerms) -> None:
    if terms.funding_ppm == terms.borrow_ppm == 0:
        return
    settlements = _funding_instants(draft)
    if settlements <= 0:
        return
    held = [position for position in draft.positions.values() if not position.is_flat]
    for position in charge_funding(held, draft.marks_ticks, draft.instruments, terms, settlements):
        draft.put_position(position)


def _move_on(draft: _Draft, position: PairPosition, identity: Identity) -> None:
    """Take a position to its next state once its orders have all ended.

    A close that left something behind is repeated. Orders that a closing pair had withdrawn
    and that still work are withdrawn again, for the first time may have been lost.
    """
    position = _note_exposure(draft, position)
    working = draft.working_orders_of(position.pair)
    if working:
        if position.state is PairState.CLOSING:
            draft.withdraw(order for order in working if not order.reduce_only)
    elif position.is_flat:
        draft.put_position(
            replace(position, state=PairState.CLOSED, closed_at_ms=draft.closes_at_ms)
        )
    elif position.state is PairState.OPENING:
        if position.exposed_since_ms is None:
            draft.put_position(replace(position, state=PairState.OPEN))
    elif position.state is not PairState.OPEN and draft.is_new_close:
        _repeat_closing(draft, position, identity)


def _note_exposure(draft: _Draft, position: PairPosition) -> PairPosition:
    """Return the position with the time counted for which its legs are out of proportion."""
    is_exposed = not position.is_flat and (
        compensate(position, draft.marks_ticks, draft.instruments, may_open=False).remedy
        is not Remedy.NONE
    )
    since_ms = position.exposed_since_ms
    if is_exposed == (since_ms is not None):
        return position
    if since_ms is None:
        noted = replace(position, exposed_since_ms=draft.closes_at_ms)
    else:
        exposed_ms = position.exposed_ms + max(0, draft.closes_at_ms - since_ms)
        noted = replace(position, exposed_since_ms=None, exposed_ms=exposed_ms)
    draft.put_position(noted)
    return noted


def _compensate(
    draft: _Draft, position: PairPosition, identity: Identity, control: TradingControl
) -> None:
    """Bring legs that are out of proportion back into it, or unwind them.

    A pair is never left single-legged. Comes after the intents, which may have closed the
    pair, and sends once a close, so that an order id is never used twice.
    """
    is_held = position.state in {PairState.OPENING, PairState.OPEN} and not position.is_flat
    if not is_held or not draft.is_new_close or draft.working_orders_of(position.pair):
        return
    plan = compensate(
        position,
        draft.marks_ticks,
        draft.instruments,
        may_open=_may_complete(draft, position, control),
    )
    if plan.remedy is Remedy.COMPLETE:
        symbol, lots = position.holding(plan.leg)
        added = _signed_notional(draft, symbol, plan.lots if lots > 0 else -plan.lots)
        if draft.guard is not None and draft.guard.denial(_exposure(draft), [added]):
            plan = compensate(position, draft.marks_ticks, draft.instruments, may_open=False)
    if plan.remedy is Remedy.NONE:
        return
    intent_id = f"{draft.closes_at_ms}:{position.pair}:{plan.remedy}"
    if plan.remedy is Remedy.UNWIND:
        draft.put_position(replace(position, state=PairState.CLOSING))
        _submit_closing_orders(draft, position, intent_id, identity)
        return
    is_reducing = plan.remedy is Remedy.RESIZE
    is_long = position.holding(plan.leg)[1] > 0
    side = Side.BUY if is_long != is_reducing else Side.SELL
    _submit(
        draft,
        _leg_order(draft, position, plan.leg, side, plan.lots, intent_id, identity, is_reducing),
    )


def _may_complete(draft: _Draft, position: PairPosition, control: TradingControl) -> bool:
    """Whether what a leg lacks may still be ordered: it opens risk, and ages."""
    since_ms = position.exposed_since_ms
    return (
        control.state is TradingState.ACTIVE
        and draft.breach is None
        and (draft.guard is None or draft.guard.staleness() is None)
        and position.state is PairState.OPENING
        and since_ms is not None
        and draft.closes_at_ms - since_ms <= COMPLETE_WITHIN_MS
    )


def _repeat_closing(draft: _Draft, position: PairPosition, identity: Identity) -> None:
    """Send what a close has left behind.

    Below the venue's smallest order that is a residue. A venue that does not let it be reduced
    either is asked again at the next instant of funding, not at every close.
    """
    is_residue = not any(
        _is_sizeable(draft, *holding) for holding in (position.holding("y"), position.holding("x"))
    )
    if is_residue and position.is_residue and _funding_instants(draft) <= 0:
        return
    if position.is_residue != is_residue:
        draft.put_position(replace(position, is_residue=is_residue))
    intent_id = f"{draft.closes_at_ms}:{position.pair}:unwind"
    _submit_closing_orders(draft, position, intent_id, identity)


def _open(draft: _Draft, intent: SubmitOrder, identity: Identity, control: TradingControl) -> None:
    """Open a position on both legs, or deny both."""
    if intent.position_id in draft.positions:
        return
    pair = f"{intent.y}~{intent.x}"
    targets = {leg.leg: Side(leg.side).sign * leg.quantity_lots for leg in intent.legs}
    position = PairPosition(
        intent.position_id,
        pair,
        intent.y,
        intent.x,
        PairState.OPENING,
        draft.closes_at_ms,
        target_lots_y=targets.get("y", 0),
        target_lots_x=targets.get("x", 0),
    )
    denial = control.denial or _denial(draft, intent) or _limit_denial(draft, intent)
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
    if draft.is_late:
        return "the close is late: a later one has been settled"
    for leg in intent.legs:
        instrument = draft.instruments.get(leg.symbol)
        if instrument is None or leg.symbol not in draft.marks_ticks:
            return f"{leg.symbol} has no instrument or no mark"
        if leg.symbol not in draft.fresh_symbols:
            return f"{leg.symbol} has no bar of this close"
        notional_e8 = instrument.notional_e8(draft.marks_ticks[leg.symbol], leg.quantity_lots)
        if notional_e8 < instrument.min_notional_e8:
            return (
                f"{leg.symbol}: {notional_e8}e-8 is below the minimum notional of "
                f"{instrument.min_notional_e8}e-8"
            )
    return None


def _limit_denial(draft: _Draft, intent: SubmitOrder) -> str | None:
    """Return which limit of the account an opening intent breaks, or `None`.

    One that would be one order too many is a breach: its producer is cut off.
    """
    if draft.guard is None:
        return None
    if draft.breach is None:
        n_orders = len(draft.submit) + len(intent.legs)
        draft.breach = draft.guard.breach(_equity_e8(draft), n_orders)
    return (
        draft.breach
        or draft.guard.staleness()
        or draft.guard.denial(
            _exposure(draft),
            [
                _signed_notional(draft, leg.symbol, Side(leg.side).sign * leg.quantity_lots)
                for leg in intent.legs
            ],
        )
    )


def _watch_slippage(draft: _Draft, report: OrderReport) -> None:
    """Compare new executions with the marks their orders were decided at, while they last."""
    order = draft.orders.get(report.client_order_id)
    if draft.guard is None or order is None or order.symbol not in draft.marks_ticks:
        return
    booked = draft.fill_counts.get(order.client_order_id, 0)
    for _, execution in report.executions[booked:]:
        mark_ticks = draft.marks_ticks[order.symbol]
        found = draft.guard.slippage(order, mark_ticks, execution.price_ticks)
        draft.breach = draft.breach or found


def _watch_losses(draft: _Draft) -> None:
    if draft.guard is not None and draft.breach is None:
        draft.breach = draft.guard.breach(_equity_e8(draft), len(draft.submit))


def _equity_e8(draft: _Draft) -> int:
    net_e8 = sum(
        value_e8(position, draft.marks_ticks, draft.instruments)[0]
        for position in draft.positions.values()
    )
    for symbol, lots in draft.unattributed_lots.items():
        net_e8 += _signed_notional(draft, symbol, lots)[1]
    return draft.cash_e8 + net_e8


def _signed_notional(draft: _Draft, symbol: str, lots: int) -> tuple[str, int]:
    return symbol, draft.instruments[symbol].notional_e8(draft.marks_ticks[symbol], lots)


def _exposure(draft: _Draft) -> Exposure:
    return exposure_of(
        draft.positions.values(),
        draft.orders.values(),
        draft.unattributed_lots,
        draft.marks_ticks,
        draft.instruments,
    )


def _close(draft: _Draft, position: PairPosition, intent_id: str, identity: Identity) -> None:
    """Close what is held of a position; orders that still work are withdrawn first."""
    if position.state not in {PairState.OPENING, PairState.OPEN}:
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
        _, lots = position.holding(leg)
        if lots:
            side = Side.SELL if lots > 0 else Side.BUY
            order = _leg_order(
                draft, position, leg, side, abs(lots), intent_id, identity, reduce_only=True
            )
            _submit(draft, order)


def _leg_order(
    draft: _Draft,
    position: PairPosition,
    leg: str,
    side: Side,
    lots: int,
    intent_id: str,
    identity: Identity,
    reduce_only: bool,
) -> Order:
    return Order(
        client_order_id(identity.account, identity.run, intent_id, leg, 0),
        intent_id,
        position.pair,
        leg,
        0,
        position.holding(leg)[0],
        side,
        lots,
        reduce_only=reduce_only,
        created_at_ms=draft.closes_at_ms,
    )


def _is_sizeable(draft: _Draft, symbol: str, lots: int) -> bool:
    """Whether signed lots at the mark make the venue's smallest order."""
    if not lots:
        return False
    instrument = draft.instruments[symbol]
    notional_e8 = instrument.notional_e8(draft.marks_ticks[symbol], abs(lots))
    return notional_e8 >= instrument.min_notional_e8


def _submit(draft: _Draft, order: Order) -> None:
    submitted = advance_order(order, OrderState.SUBMITTED)
    draft.put_order(submitted)
    draft.submit.append(submitted)


def _conclude(draft: _Draft) -> Settlement:
    """Drop what has ended from the book and value the rest."""
    orders = {key: order for key, order in draft.orders.items() if order.is_working}
    positions = {k: p for k, p in draft.positions.items() if p.state is not PairState.CLOSED}
    held = {s for p in positions.values() for s in (p.symbol_y, p.symbol_x)}
    held |= draft.unattributed_lots.keys()
    ledger = Ledger(
        draft.cash_e8,
        draft.previous_ms if draft.is_late else draft.closes_at_ms,
        positions,
        orders,
        {key: count for key, count in draft.fill_counts.items() if key in orders},
        {symbol: ticks for symbol, ticks in draft.marks_ticks.items() if symbol in held},
        draft.unattributed_lots,
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
        draft.breach,
    )
