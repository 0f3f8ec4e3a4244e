from __future__ import annotations

from collections.abc import Sequence

import pytest

from shared.book.control import TradingCommand, TradingControl, TradingState, obey
from shared.book.execution import Execution, FillTerms
from shared.book.instrument import Instrument, derive_instrument
from shared.book.ledger import (
    Identity,
    Ledger,
    OrderReport,
    Settlement,
    acknowledge,
    settle_close,
)
from shared.book.orders import Order, OrderState
from shared.book.positions import PairState
from shared.book.reports import positions_changed
from shared.book.targets import LiveTarget, release_closed
from shared.clock import instant_of_ms
from shared.events.portfolio import OrderLeg, OrdersRequested, SubmitOrder

BAR_MS = 300_000
FIRST_MS = 1_709_251_200_000
Y, X, PAIR = "AAA/USDT", "BBB/USDT", "AAA/USDT~BBB/USDT"
INSTRUMENTS = {symbol: derive_instrument(symbol, 100.0) for symbol in (Y, X)}
TERMS = FillTerms()
IDENTITY = Identity("paper", "run")
HALTED = TradingControl(TradingState.HALTED, reason="the venue is odd")
REDUCE_ONLY = TradingControl(TradingState.REDUCE_ONLY, reason="a quiet night")
FLATTENING = TradingControl(TradingState.REDUCE_ONLY, is_flattening=True, reason="all out")


def intent(action: str, closes_at_ms: int = FIRST_MS, y: str = Y, x: str = X) -> SubmitOrder:
    position_id = f"{FIRST_MS}:{y}~{x}:open"
    legs = (
        OrderLeg(leg="y", symbol=y, side="buy", quantity_lots=1000),
        OrderLeg(leg="x", symbol=x, side="sell", quantity_lots=1000),
    )
    return SubmitOrder(
        intent_id=position_id if action == "open" else f"{closes_at_ms}:{y}~{x}:close",
        sleeve="pairs",
        y=y,
        x=x,
        action="open" if action == "open" else "close",
        position_id=position_id,
        reason="z_score",
        hedge_ratio=1.0,
        legs=legs if action == "open" else (),
    )


def settle(
    ledger: Ledger,
    number: int,
    intents: Sequence[SubmitOrder] = (),
    reports: Sequence[OrderReport] = (),
    control: TradingControl = TradingControl(),
) -> Settlement:
    """Settle the close of a number, every symbol at 100."""
    requested = OrdersRequested(
        closes_at=instant_of_ms(FIRST_MS + number * BAR_MS),
        timeframe="5m",
        intents=tuple(intents),
        marks={Y: 100.0, X: 100.0},
    )
    return settle_close(ledger, requested, reports, INSTRUMENTS, TERMS, IDENTITY, control)


def accepted(settlement: Settlement) -> Ledger:
    """Return the book after the venue has accepted every order."""
    reports = [OrderReport(o.client_order_id, OrderState.ACCEPTED) for o in settlement.submit]
    return acknowledge(settlement.ledger, reports)[0]


def filled(orders: Sequence[Order]) -> list[OrderReport]:
    return [
        OrderReport(
            o.client_order_id,
            OrderState.FILLED,
            ((o.created_at_ms, Execution(o.quantity_lots, ticks(INSTRUMENTS[o.symbol]), 0)),),
        )
        for o in orders
    ]


def ticks(instrument: Instrument) -> int:
    return instrument.price_ticks(100.0, "nearest")


def opening() -> Settlement:
    """Settle a first close that opens the pair."""
    return settle(Ledger(10**13), 0, [intent("open")])


def held() -> Ledger:
    """Return a book that holds the pair."""
    begun = opening()
    return settle(accepted(begun), 1, reports=filled(begun.submit)).ledger


# --- commands -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "command", "state", "is_flattening"),
    [
        (TradingControl(), "halt", "halted", False),
        (TradingControl(), "reduce_only", "reduce_only", False),
        (TradingControl(), "flatten", "reduce_only", True),
        (REDUCE_ONLY, "flatten", "reduce_only", True),
        (HALTED, "flatten", "halted", True),
        (HALTED, "reduce_only", "reduce_only", False),
        (FLATTENING, "halt", "halted", True),
        (FLATTENING, "reduce_only", "reduce_only", True),
        (HALTED, "resume", "active", False),
        (FLATTENING, "resume", "active", False),
    ],
)
def test_a_command_leaves_the_stricter_wish_standing_until_resume(
    before: TradingControl, command: str, state: str, is_flattening: bool
) -> None:
    after = obey(before, TradingCommand(command), "because")
    assert after == TradingControl(TradingState(state), is_flattening, "because")


# --- opening ------------------------------------------------------------------------------


@pytest.mark.parametrize("control", [HALTED, REDUCE_ONLY, FLATTENING])
def test_an_opening_intent_is_denied_as_a_whole_and_its_slot_is_freed(
    control: TradingControl,
) -> None:
    settled = settle(Ledger(10**13), 0, [intent("open")], control=control)
    assert not settled.submit
    assert {order.state for order in settled.orders} == {OrderState.DENIED}
    reason = f"trading is {control.state}: {control.reason}"
    assert {order.reason for order in settled.orders} == {reason}
    assert not settled.ledger.orders
    assert not settled.ledger.positions
    live = {(Y, X): LiveTarget(Y, X, intent("open").position_id, 1, 1)}
    assert release_closed(live, positions_changed(instant_of_ms(FIRST_MS), settled)) == {}


def test_an_active_book_opens() -> None:
    settled = opening()
    assert len(settled.submit) == 2
    assert not settled.cancel


# --- orders that work ---------------------------------------------------------------------


def test_a_halt_withdraws_opening_orders_that_work() -> None:
    begun = opening()
    halted = settle(accepted(begun), 1, control=HALTED)
    assert {o.client_order_id for o in halted.cancel} == {o.client_order_id for o in begun.submit}
    reports = [OrderReport(o.client_order_id, OrderState.CANCELLED) for o in halted.cancel]
    after = settle(halted.ledger, 2, reports=reports, control=HALTED)
    assert not after.cancel
    [position] = after.positions
    assert position.state is PairState.CLOSED


def test_reduce_only_lets_opening_orders_work() -> None:
    assert not settle(accepted(opening()), 1, control=REDUCE_ONLY).cancel


def test_a_halt_does_not_withdraw_closing_orders() -> None:
    closing = settle(held(), 2, [intent("close")])
    assert len(closing.submit) == 2
    assert not settle(accepted(closing), 3, control=HALTED).cancel


def test_a_pair_that_a_halt_leaves_on_one_leg_is_unwound() -> None:
    begun = opening()
    y, x = begun.submit
    reports = [*filled([y]), OrderReport(x.client_order_id, OrderState.CANCELLED)]
    settled = settle(accepted(begun), 1, reports=reports, control=HALTED)
    [unwinding] = settled.submit
    assert (unwinding.symbol, unwinding.side, unwinding.reduce_only) == (Y, "sell", True)
    assert not settled.cancel


# --- closing ------------------------------------------------------------------------------


@pytest.mark.parametrize("control", [HALTED, REDUCE_ONLY])
def test_a_closing_intent_is_obeyed_in_every_state(control: TradingControl) -> None:
    settled = settle(held(), 2, [intent("close")], control=control)
    assert [order.reduce_only for order in settled.submit] == [True, True]


@pytest.mark.parametrize("control", [HALTED, REDUCE_ONLY])
def test_positions_are_kept_unless_they_are_to_be_flattened(control: TradingControl) -> None:
    assert not settle(held(), 2, control=control).submit


def test_flattening_closes_every_position_once() -> None:
    settled = settle(held(), 2, control=FLATTENING)
    assert [(o.symbol, o.side, o.quantity_lots) for o in settled.submit] == [
        (Y, "sell", 1000),
        (X, "buy", 1000),
    ]
    waiting = settle(accepted(settled), 3, control=FLATTENING)
    assert not waiting.submit
    done = settle(waiting.ledger, 4, reports=filled(settled.submit), control=FLATTENING)
    assert not done.ledger.positions
    assert done.gross_e8 == 0


def test_flattening_a_pair_that_is_just_opening_withdraws_its_orders() -> None:
    begun = opening()
    settled = settle(accepted(begun), 1, control=FLATTENING)
    assert {o.client_order_id for o in settled.cancel} == {o.client_order_id for o in begun.submit}
    [position] = settled.positions
    assert position.state is PairState.CLOSING


def test_a_closing_intent_and_a_flattening_of_one_close_make_one_order_a_leg() -> None:
    settled = settle(held(), 2, [intent("close", FIRST_MS + 2 * BAR_MS)], control=FLATTENING)
    assert len(settled.submit) == 2


def test_a_flattening_that_was_taken_back_closes_nothing() -> None:
    control = obey(FLATTENING, TradingCommand.RESUME, "a mistake")
    assert not settle(held(), 2, control=control).submit
