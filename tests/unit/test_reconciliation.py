"""The book is brought to the venue, whatever differs, and then nothing differs any more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.book.execution import Execution
from shared.book.ledger import Ledger, OrderReport
from shared.book.orders import Order, OrderState, Side
from shared.book.positions import PairPosition, PairState
from shared.book.reconciliation import (
    CASH_TOLERANCE_E8,
    AdjustmentKind,
    Reconciliation,
    VenueBook,
    reconcile,
)
from tests.support import BAR_MS, INSTRUMENTS, MIDNIGHT_MS, settle

UNIT = 10**8
NOW = MIDNIGHT_MS + 10 * BAR_MS
MARKS = {"Y/USDT": 1_000, "X/USDT": 100}
BASELINE = 7 * UNIT


def pair(name: str, lots_y: int, lots_x: int) -> PairPosition:
    return PairPosition(
        name, name, "Y/USDT", "X/USDT", PairState.OPEN, MIDNIGHT_MS, lots_y=lots_y, lots_x=lots_x
    )


def book(
    *positions: PairPosition,
    unattributed: Mapping[str, int] | None = None,
    orders: tuple[Order, ...] = (),
) -> Ledger:
    return Ledger(
        cash_e8=1_000 * UNIT,
        closes_at_ms=NOW,
        positions={p.position_id: p for p in positions},
        orders={o.client_order_id: o for o in orders},
        marks_ticks=MARKS,
        unattributed_lots=unattributed or {},
    )


def venue_of(ledger: Ledger, cash_e8: int = 0, **lots: int) -> VenueBook:
    """Return a venue that agrees with a book, but for what is given."""
    held = {symbol: ledger.net_lots(symbol) for symbol in INSTRUMENTS}
    held |= {f"{name.upper()}/USDT": value for name, value in lots.items()}
    return VenueBook(ledger.cash_e8 + BASELINE + cash_e8, held, MARKS, NOW)


def reconciled(ledger: Ledger, venue: VenueBook, *reports: OrderReport) -> Reconciliation:
    return reconcile(ledger, reports, venue, INSTRUMENTS, BASELINE)


def agrees(ledger: Ledger, venue: VenueBook) -> bool:
    return all(ledger.net_lots(symbol) == venue.lots.get(symbol, 0) for symbol in INSTRUMENTS) and (
        abs(venue.cash_e8 - BASELINE - ledger.cash_e8) <= CASH_TOLERANCE_E8
    )


BOOKS = {
    "nothing held": book(),
    "one pair": book(pair("a", 1_000, -1)),
    "two pairs the same way": book(pair("a", 1_000, -2), pair("b", 500, -1)),
    "two pairs against each other": book(pair("a", 1_000, -2), pair("b", -400, 1)),
    "some of it unattributed": book(pair("a", 1_000, -1), unattributed={"Y/USDT": -300}),
}
VENUES: dict[str, dict[str, int]] = {
    "more of a leg": {"y": 2_500},
    "less of a leg": {"y": 250},
    "a leg gone": {"y": 0},
    "a leg turned round": {"y": -700},
    "both legs gone": {"y": 0, "x": 0},
    "both legs the other way": {"y": -50, "x": 5},
    "more money": {"cash_e8": 50 * UNIT},
    "less money": {"cash_e8": -50 * UNIT},
    "a leg gone and its money": {"x": 0, "cash_e8": -100 * UNIT},
    "everything at once": {"y": 33, "x": 7, "cash_e8": 123_456_789},
}


@pytest.mark.parametrize("held", BOOKS)
@pytest.mark.parametrize("difference", VENUES)
def test_a_difference_is_recorded_once_and_then_the_book_is_the_venue(
    held: str, difference: str
) -> None:
    ledger = BOOKS[held]
    venue = venue_of(ledger, **VENUES[difference])
    found = reconciled(ledger, venue)
    assert agrees(found.ledger, venue)
    assert bool(found.adjustments) != agrees(ledger, venue)
    again = reconciled(found.ledger, venue)
    assert (again.adjustments, again.positions, again.ledger) == ((), (), found.ledger)
    # What was recorded is what changed: a reader of the rows comes to the same book.
    lots = {symbol: ledger.net_lots(symbol) for symbol in INSTRUMENTS}
    for row in found.adjustments:
        if row.symbol is not None:
            lots[row.symbol] += row.lots
    assert all(found.ledger.net_lots(symbol) == count for symbol, count in lots.items())
    gained_e8 = sum(row.amount_e8 for row in found.adjustments)
    assert found.ledger.cash_e8 == ledger.cash_e8 + gained_e8


@given(
    pairs=st.lists(
        st.tuples(st.integers(-2_000, 2_000), st.integers(-20, 20)), min_size=0, max_size=4
    ),
    foreign=st.dictionaries(st.sampled_from(sorted(INSTRUMENTS)), st.integers(1, 500)),
    venues=st.lists(
        st.tuples(st.integers(-3_000, 3_000), st.integers(-30, 30), st.integers(-(10**12), 10**12)),
        min_size=1,
        max_size=5,
    ),
)
def test_any_history_of_differences_ends_with_the_book_at_the_venue(
    pairs: list[tuple[int, int]],
    foreign: dict[str, int],
    venues: list[tuple[int, int, int]],
) -> None:
    positions = [pair(f"p{n}", *lots) for n, lots in enumerate(pairs)]
    ledger = book(*positions, unattributed=foreign)
    for lots_y, lots_x, cash_e8 in venues:
        venue = venue_of(ledger, y=lots_y, x=lots_x, cash_e8=cash_e8)
        found = reconciled(ledger, venue)
        assert agrees(found.ledger, venue)
        assert reconciled(found.ledger, venue).adjustments == ()
        for name, position in found.ledger.positions.items():
            before = ledger.positions[name]
            for leg in ("y", "x"):
                # A pair is given nothing it did not order: it only ever loses.
                held, had = position.holding(leg)[1], before.holding(leg)[1]
                assert held * had >= 0
                assert abs(held) <= abs(had)
        assert found.ledger.equity_e8(INSTRUMENTS)[1] >= 0
        ledger = found.ledger


def test_the_first_comparison_takes_the_difference_of_money_for_the_baseline() -> None:
    ledger = book(pair("a", 1_000, -1))
    venue = venue_of(ledger)
    [row] = reconcile(ledger, (), venue, INSTRUMENTS, None).adjustments
    assert (row.kind, row.amount_e8) == (AdjustmentKind.BASELINE, BASELINE)
    assert reconciled(ledger, venue).adjustments == ()


def test_the_baseline_is_not_money_of_the_book() -> None:
    ledger = book()
    assert reconcile(ledger, (), venue_of(ledger), INSTRUMENTS, None).ledger == ledger


def order(side: Side, lots: int, *, reduce_only: bool) -> Order:
    return Order("o", "i", "a", "y", 0, "Y/USDT", side, lots, reduce_only, NOW, OrderState.ACCEPTED)


def test_fills_that_the_next_close_will_book_are_no_difference() -> None:
    ledger = book(pair("a", 1_000, -1), orders=(order(Side.SELL, 1_000, reduce_only=True),))
    sold = Execution(1_000, 990, 12_345)
    proceeds_e8 = 990 * UNIT // 100 - 12_345
    venue = venue_of(ledger, y=0, cash_e8=proceeds_e8)
    report = OrderReport("o", OrderState.FILLED, ((NOW, sold),))
    assert reconciled(ledger, venue, report).adjustments == ()
    assert reconciled(ledger, venue).adjustments != (), "without the report it is one"


def test_only_fills_that_are_not_booked_yet_are_expected_on_top_of_the_book() -> None:
    half = replace(order(Side.SELL, 1_000, reduce_only=True), filled_lots=400)
    ledger = replace(
        book(pair("a", 600, -1), orders=(half,)), fill_counts={half.client_order_id: 1}
    )
    fills = ((NOW - BAR_MS, Execution(400, 990, 0)), (NOW, Execution(100, 1_000, 0)))
    venue = venue_of(ledger, y=500, cash_e8=1 * UNIT)
    report = OrderReport("o", OrderState.PARTIALLY_FILLED, fills)
    assert reconciled(ledger, venue, report).adjustments == ()


def test_a_leg_with_a_closing_order_at_work_is_left_alone() -> None:
    ledger = book(pair("a", 1_000, -1), orders=(order(Side.SELL, 1_000, reduce_only=True),))
    found = reconciled(ledger, venue_of(ledger, y=400))
    assert found.positions == ()
    assert found.ledger.unattributed_lots == {"Y/USDT": -600}


def test_money_is_not_compared_between_an_instant_of_funding_and_its_close() -> None:
    ledger = book(pair("a", 1_000, -1))
    paid = venue_of(ledger, cash_e8=-5 * UNIT)
    after = VenueBook(paid.cash_e8, paid.lots, paid.prices_ticks, MIDNIGHT_MS + 8 * 3_600_000)
    assert reconciled(ledger, after).adjustments == ()
    assert [row.amount_e8 for row in reconciled(ledger, paid).adjustments] == [-5 * UNIT]


def test_a_leg_that_the_venue_took_away_has_its_pair_unwound_at_the_next_close() -> None:
    ledger = book(pair("Y/USDT~X/USDT", 1_000, -1))
    found = reconciled(ledger, venue_of(ledger, x=0))
    settled = settle(found.ledger, NOW + BAR_MS)
    assert [(o.leg, o.side, o.quantity_lots) for o in settled.submit] == [("y", "sell", 1_000)]
    assert [p.state for p in settled.positions] == [PairState.CLOSING]


def test_a_pair_that_the_venue_took_away_is_closed_at_the_next_close() -> None:
    ledger = book(pair("Y/USDT~X/USDT", 1_000, -1))
    found = reconciled(ledger, venue_of(ledger, y=0, x=0))
    settled = settle(found.ledger, NOW + BAR_MS)
    assert (settled.submit, [p.state for p in settled.positions]) == ((), [PairState.CLOSED])


def test_what_no_pair_holds_counts_in_equity_and_gross_and_is_never_traded() -> None:
    ledger = book()
    # Somebody bought 2 X at 100 beside us.
    found = reconciled(ledger, venue_of(ledger, x=2, cash_e8=-200 * UNIT))
    assert found.ledger.equity_e8(INSTRUMENTS) == (1_000 * UNIT, 200 * UNIT)
    settled = settle(found.ledger, NOW + BAR_MS, marks={"X/USDT": 110.0})
    assert settled.submit == ()
    assert (settled.equity_e8, settled.gross_e8) == (1_020 * UNIT, 220 * UNIT)
    assert settled.ledger.unattributed_lots == {"X/USDT": 2}
