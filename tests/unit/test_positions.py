from __future__ import annotations

from dataclasses import replace

import pytest

from shared.book.execution import Execution, FillTerms
from shared.book.orders import Order, Side
from shared.book.positions import (
    PairPosition,
    PairState,
    apply_execution,
    charge_funding,
    value_e8,
)
from shared.errors import PermanentError
from tests.support import INSTRUMENTS

EMPTY = PairPosition("p", "Y/USDT~X/USDT", "Y/USDT", "X/USDT", PairState.OPENING, 1_000)
UNIT = 10**8


def order(leg: str, side: Side, lots: int, *, reduce_only: bool = False) -> Order:
    symbol = "Y/USDT" if leg == "y" else "X/USDT"
    return Order("id", "i", EMPTY.pair, leg, 0, symbol, side, lots, reduce_only, 1_000)


def trade(
    position: PairPosition,
    leg: str,
    side: Side,
    execution: Execution,
    *,
    reduce_only: bool = False,
) -> PairPosition:
    placed = order(leg, side, 10**6, reduce_only=reduce_only)
    return apply_execution(position, placed, execution, INSTRUMENTS[placed.symbol])


def test_a_round_trip_leaves_its_profit_as_cash() -> None:
    # Y: 2.000 bought at 10.00, sold at 10.50. X: 1 sold at 20, bought at 19. Fees of 0.01 each.
    position = trade(EMPTY, "y", Side.BUY, Execution(2_000, 1_000, 10**6))
    assert (position.lots_y, position.lots_x, position.cash_e8) == (2_000, 0, -20 * UNIT - 10**6)
    assert position.is_single_legged
    position = trade(position, "x", Side.SELL, Execution(1, 20, 10**6))
    assert (position.lots_y, position.lots_x, position.cash_e8) == (2_000, -1, -2 * 10**6)
    assert not position.is_single_legged
    assert not position.is_flat
    position = trade(position, "y", Side.SELL, Execution(2_000, 1_050, 10**6), reduce_only=True)
    position = trade(position, "x", Side.BUY, Execution(1, 19, 10**6), reduce_only=True)
    assert position.is_flat
    assert (position.cash_e8, position.fees_e8) == (2 * UNIT - 4 * 10**6, 4 * 10**6)


@pytest.mark.parametrize(
    ("held", "side", "lots"),
    [
        (0, Side.SELL, 1),  # nothing to reduce
        (5, Side.BUY, 1),  # the wrong way
        (-5, Side.SELL, 1),
        (5, Side.SELL, 6),  # would turn around
        (-5, Side.BUY, 6),
    ],
)
def test_a_reduce_only_fill_that_opens_or_turns_a_leg_is_refused(
    held: int, side: Side, lots: int
) -> None:
    position = replace(EMPTY, lots_y=held, lots_x=100)
    with pytest.raises(PermanentError, match="reconcile them"):
        trade(position, "y", side, Execution(lots, 1_000, 0), reduce_only=True)


@pytest.mark.parametrize(("held", "side", "left"), [(5, Side.SELL, 2), (-5, Side.BUY, -2)])
def test_a_reduce_only_fill_reduces_its_own_leg(held: int, side: Side, left: int) -> None:
    position = replace(EMPTY, lots_y=7, lots_x=held)
    after = trade(position, "x", side, Execution(3, 20, 0), reduce_only=True)
    assert (after.lots_y, after.lots_x) == (7, left)


def test_funding_is_charged_on_the_notional_of_every_leg_against_us() -> None:
    # 2 Y at 10 and 3 X short at 100: 320 of notional, 1 bp twice. Each leg is rounded up.
    position = replace(EMPTY, lots_y=2_000, lots_x=-3, cash_e8=7)
    marks = {"Y/USDT": 1_000, "X/USDT": 100}
    [after] = charge_funding([position], marks, INSTRUMENTS, FillTerms(), 2)
    assert after.funding_e8 == 2 * (200_000 + 3_000_000)
    assert after.cash_e8 == 7 - after.funding_e8
    assert (after.lots_y, after.lots_x, after.fees_e8) == (2_000, -3, 0)


def test_borrowing_is_charged_on_the_short_leg_alone() -> None:
    position = replace(EMPTY, lots_y=2_000, lots_x=-3)
    terms = FillTerms(funding_ppm=0, borrow_ppm=50)
    [after] = charge_funding([position], {"Y/USDT": 1_000, "X/USDT": 100}, INSTRUMENTS, terms, 2)
    assert after.funding_e8 == 2 * 1_500_000 == -after.cash_e8


def test_each_funding_instant_is_rounded_up_by_itself() -> None:
    # One lot of Y at 0.01 is worth 1000e-8; 1 ppm of it is charged as 1e-8 each time.
    position = replace(EMPTY, lots_y=1)
    terms = FillTerms(funding_ppm=1)
    [after] = charge_funding([position], {"Y/USDT": 1}, INSTRUMENTS, terms, 3)
    assert after.funding_e8 == 3


def test_a_leg_that_never_filled_needs_no_mark() -> None:
    position = replace(EMPTY, lots_y=1_000)
    [after] = charge_funding([position], {"Y/USDT": 1_000}, INSTRUMENTS, FillTerms(), 1)
    assert after.funding_e8 == 100_000
    assert value_e8(position, {"Y/USDT": 1_000}, INSTRUMENTS) == (10 * UNIT, 10 * UNIT)


@pytest.mark.parametrize(
    ("lots", "shares"),
    [
        # Of Y at 10, 1 bp; a lot is a thousandth. Two pairs hold it the same way.
        ((2_000, 1_000), (200_000, 100_000)),
        # Against each other: 1.000 net costs 100000, borne by lots.
        ((2_000, -1_000), (66_666, 33_334)),
        ((-1_000, 2_000), (33_333, 66_667)),
        ((1_000, -1_000), (0, 0)),
        ((1_000, 0), (100_000, 0)),
    ],
)
def test_pairs_that_share_a_symbol_pay_what_the_venue_charges_on_the_net(
    lots: tuple[int, int], shares: tuple[int, int]
) -> None:
    positions = [replace(EMPTY, position_id=f"p{n}", lots_y=held) for n, held in enumerate(lots)]
    after = charge_funding(positions, {"Y/USDT": 1_000}, INSTRUMENTS, FillTerms(), 1)
    assert tuple(position.funding_e8 for position in after) == shares
    assert tuple(position.cash_e8 for position in after) == tuple(-share for share in shares)


@pytest.mark.parametrize(
    ("lots_y", "lots_x", "net", "gross"),
    [(0, 0, 0, 0), (2_000, -3, -280, 320), (-2_000, 3, 280, 320), (2_000, 3, 320, 320)],
)
def test_value_is_net_and_exposure_is_gross(lots_y: int, lots_x: int, net: int, gross: int) -> None:
    position = replace(EMPTY, lots_y=lots_y, lots_x=lots_x)
    marks = {"Y/USDT": 1_000, "X/USDT": 100}
    assert value_e8(position, marks, INSTRUMENTS) == (net * UNIT, gross * UNIT)


def test_legs_know_their_symbol_and_holding() -> None:
    position = replace(EMPTY, lots_y=2, lots_x=-3)
    assert position.holding("y") == ("Y/USDT", 2)
    assert position.holding("x") == ("X/USDT", -3)
