"""Legs that fill out of proportion, in every combination, and what is done about them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.book.compensation import COMPLETE_WITHIN_MS, Compensation, Remedy, compensate
from shared.book.control import TradingControl, TradingState
from shared.book.execution import Execution
from shared.book.instrument import Instrument
from shared.book.ledger import Ledger, OrderReport, Settlement, acknowledge
from shared.book.orders import OrderState
from shared.book.positions import PairPosition, PairState
from shared.events.portfolio import SubmitOrder
from tests.support import BAR_MS, MIDNIGHT_MS, closing, opening, settle

UNIT = 10**8
CAPITAL = 100_000 * UNIT
S = OrderState
# Both legs: ticks of 0.01, lots of 0.001, five of the quote at least.
INSTRUMENTS = {
    symbol: Instrument(symbol, 2, 3, 5 * UNIT, "perpetual") for symbol in ("Y/USDT", "X/USDT")
}
MARKS = {"Y/USDT": 10.0, "X/USDT": 100.0}
TICKS = {"Y/USDT": 1_000, "X/USDT": 10_000}
# 100 Y at 10 against 10 X at 100.
TARGET_Y, TARGET_X = 100_000, -10_000


def at(n_bars: int) -> int:
    return MIDNIGHT_MS + n_bars * BAR_MS


def held(
    lots_y: int, lots_x: int, target_y: int = TARGET_Y, target_x: int = TARGET_X
) -> Compensation:
    position = PairPosition(
        "p",
        "Y/USDT~X/USDT",
        "Y/USDT",
        "X/USDT",
        PairState.OPENING,
        at(0),
        lots_y=lots_y,
        lots_x=lots_x,
        target_lots_y=target_y,
        target_lots_x=target_x,
    )
    return compensate(position, TICKS, INSTRUMENTS, may_open=True)


@pytest.mark.parametrize(
    ("lots_y", "lots_x", "remedy"),
    [
        (100_000, -10_000, Compensation(Remedy.NONE)),
        (50_000, -5_000, Compensation(Remedy.NONE)),
        (99_999, -9_999, Compensation(Remedy.NONE)),
        # The excess is worth 4.99, below the smallest order; then 5.
        (100_000, -9_951, Compensation(Remedy.NONE)),
        (100_000, -9_950, Compensation(Remedy.COMPLETE, "x", 50)),
        (100_000, -9_000, Compensation(Remedy.COMPLETE, "x", 1_000)),
        (90_000, -10_000, Compensation(Remedy.COMPLETE, "y", 10_000)),
        (100_000, -8_999, Compensation(Remedy.RESIZE, "y", 10_010)),
        (100_000, -5_000, Compensation(Remedy.RESIZE, "y", 50_000)),
        (50_000, -10_000, Compensation(Remedy.RESIZE, "x", 5_000)),
        (100_000, -4_999, Compensation(Remedy.UNWIND)),
        (100_000, 0, Compensation(Remedy.UNWIND)),
        (0, -10_000, Compensation(Remedy.UNWIND)),
        (-100_000, 5_000, Compensation(Remedy.RESIZE, "y", 50_000)),
    ],
)
def test_what_a_disproportion_needs(lots_y: int, lots_x: int, remedy: Compensation) -> None:
    targets = (TARGET_Y, TARGET_X) if lots_y >= 0 else (-TARGET_Y, -TARGET_X)
    assert held(lots_y, lots_x, *targets) == remedy


def test_a_position_from_before_targets_were_kept_is_left_alone_unless_on_one_leg() -> None:
    assert held(100_000, -1, 0, 0) == Compensation(Remedy.NONE)
    assert held(100_000, 0, 0, 0) == Compensation(Remedy.UNWIND)


def test_one_lot_of_a_coarse_leg_is_no_disproportion() -> None:
    # One of three coarse lots against a half: two thirds would be as far off the other way.
    assert held(500_000, -1, 1_000_000, -3) == Compensation(Remedy.NONE)
    assert held(500_000, -2, 1_000_000, -3) != Compensation(Remedy.COMPLETE)


FATES = [
    (S.FILLED, 1.0),
    (S.CANCELLED, 0.95),
    (S.EXPIRED, 0.6),
    (S.CANCELLED, 0.2),
    (S.EXPIRED, 0.0),
    (S.REJECTED, 0.0),
]


class Venue:
    """Fills everything after the opening orders, which meet the fate they are given."""

    def __init__(self) -> None:
        self.ledger = Ledger(CAPITAL)
        self.closes = 0
        self.control = TradingControl()
        self.sent: list[str] = []
        self.settled: Settlement | None = None

    def close(self, *reports: OrderReport, intents: tuple[SubmitOrder, ...] = ()) -> Settlement:
        self.closes += 1
        settled = settle(
            self.ledger,
            at(self.closes),
            intents=intents,
            reports=reports,
            marks=MARKS,
            instruments=INSTRUMENTS,
            control=self.control,
        )
        assert len({o.client_order_id for o in settled.submit}) == len(settled.submit)
        self.sent += [f"{o.intent_id.rpartition(':')[2]} {o.leg}" for o in settled.submit]
        self.ledger, self.settled = settled.ledger, settled
        return settled

    def accept(self, settled: Settlement) -> None:
        reports = [OrderReport(o.client_order_id, S.ACCEPTED) for o in settled.submit]
        self.ledger, _ = acknowledge(self.ledger, reports)

    def open(self, *fates: tuple[OrderState, float]) -> Settlement:
        """Open the pair with a fate for either leg, and settle the close that tells."""
        sent = self.close(intents=(opening("p", TARGET_Y, -TARGET_X),))
        answers, reports = [], []
        for order, (state, share) in zip(sent.submit, fates, strict=True):
            lots = round(order.quantity_lots * share)
            key = order.client_order_id
            answers.append(OrderReport(key, S.REJECTED if state is S.REJECTED else S.ACCEPTED))
            if state is not S.REJECTED:
                execution = Execution(lots, TICKS[order.symbol], 0)
                done = ((at(1), execution),) if lots else ()
                reports.append(OrderReport(key, state, done))
        self.ledger, _ = acknowledge(self.ledger, answers)
        return self.close(*reports)

    def fill(self) -> Settlement:
        """Fill whatever works, and settle the close that tells."""
        assert self.settled is not None
        self.accept(self.settled)
        return self.close(
            *(
                OrderReport(
                    o.client_order_id,
                    S.FILLED,
                    ((at(self.closes), Execution(o.quantity_lots, TICKS[o.symbol], 0)),),
                )
                for o in self.ledger.orders.values()
            )
        )


@pytest.mark.parametrize("fate_y", FATES, ids=lambda fate: f"{fate[0]} {fate[1]}")
@pytest.mark.parametrize("fate_x", FATES, ids=lambda fate: f"{fate[0]} {fate[1]}")
@pytest.mark.parametrize("state", list(TradingState))
def test_whatever_becomes_of_the_legs_the_pair_ends_in_proportion_or_flat(
    fate_y: tuple[OrderState, float], fate_x: tuple[OrderState, float], state: TradingState
) -> None:
    venue = Venue()
    first = venue.open(fate_y, fate_x)
    venue.control = TradingControl(state)
    opened_orders = len(venue.sent)
    for _ in range(3):
        venue.fill()
    positions = list(venue.ledger.positions.values())
    assert not venue.ledger.orders
    for position in positions:
        assert position.state is PairState.OPEN
        left = compensate(position, TICKS, INSTRUMENTS, may_open=False)
        assert left == Compensation(Remedy.NONE)
        assert position.exposed_since_ms is None
    shares = sorted((fate_y[1], fate_x[1]))
    assert len(positions) == (shares[0] > 0 and 2 * shares[0] >= shares[1])
    remedies = {order.split()[0] for order in venue.sent[2:opened_orders]}
    if shares[0] == shares[1]:
        assert remedies == set()
    elif 2 * shares[0] < shares[1]:
        assert remedies == {"unwind"}
    elif 10 * shares[0] >= 9 * shares[1]:
        assert remedies == {"complete"}
    else:
        assert remedies == {"resize"}
    exposed = [p.exposed_ms for p in (*first.positions, *venue.ledger.positions.values())]
    assert (max(exposed, default=0) > 0) == bool(remedies and positions)


@pytest.mark.parametrize("state", [TradingState.REDUCE_ONLY, TradingState.HALTED])
def test_a_book_that_may_not_open_resizes_where_it_would_complete(state: TradingState) -> None:
    venue = Venue()
    venue.control = TradingControl()
    venue.close()
    sent = venue.close(intents=(opening("p", TARGET_Y, -TARGET_X),))
    venue.accept(sent)
    venue.control = TradingControl(state)
    y, x = sent.submit
    done = venue.close(
        OrderReport(y.client_order_id, S.FILLED, ((at(2), Execution(100_000, 1_000, 0)),)),
        OrderReport(x.client_order_id, S.EXPIRED, ((at(2), Execution(9_500, 10_000, 0)),)),
    )
    [order] = done.submit
    assert (order.leg, order.side, order.quantity_lots, order.reduce_only) == (
        "y",
        "sell",
        5_000,
        True,
    )


def test_a_disproportion_that_is_old_is_resized_and_not_completed() -> None:
    venue = Venue()
    sent = venue.close(intents=(opening("p", TARGET_Y, -TARGET_X),))
    venue.accept(sent)
    y, x = sent.submit
    filled = OrderReport(y.client_order_id, S.FILLED, ((at(1), Execution(100_000, 1_000, 0)),))
    part = ((at(1), Execution(9_500, 10_000, 0)),)
    working = venue.close(filled, OrderReport(x.client_order_id, S.PARTIALLY_FILLED, part))
    assert [p.exposed_since_ms for p in working.positions] == [at(2)]
    venue.closes += COMPLETE_WITHIN_MS // BAR_MS
    late = venue.close(OrderReport(x.client_order_id, S.EXPIRED, part))
    assert [(o.leg, o.quantity_lots, o.reduce_only) for o in late.submit] == [("y", 5_000, True)]
    opened = venue.fill()
    [position] = opened.positions
    assert (position.state, position.exposed_since_ms) == (PairState.OPEN, None)
    assert position.exposed_ms == COMPLETE_WITHIN_MS + 2 * BAR_MS


def test_a_closing_intent_comes_before_a_compensation_of_the_same_close() -> None:
    venue = Venue()
    sent = venue.close(intents=(opening("p", TARGET_Y, -TARGET_X),))
    venue.accept(sent)
    y, x = sent.submit
    done = venue.close(
        OrderReport(y.client_order_id, S.FILLED, ((at(1), Execution(100_000, 1_000, 0)),)),
        OrderReport(x.client_order_id, S.EXPIRED, ((at(1), Execution(6_000, 10_000, 0)),)),
        intents=(closing("close", "p"),),
    )
    assert [(o.intent_id, o.leg, o.quantity_lots) for o in done.submit] == [
        ("close", "y", 100_000),
        ("close", "x", 6_000),
    ]
    assert done.cancel == ()


# --- orders that the venue would not take ----------------------------------------------------


def test_a_cancel_that_got_lost_is_repeated_at_every_close_until_the_order_has_ended() -> None:
    venue = Venue()
    sent = venue.close(intents=(opening("p", TARGET_Y, -TARGET_X),))
    venue.accept(sent)
    y, x = sent.submit
    filled = OrderReport(y.client_order_id, S.FILLED, ((at(1), Execution(100_000, 1_000, 0)),))
    working = OrderReport(x.client_order_id, S.ACCEPTED)
    leaving = venue.close(filled, working, intents=(closing("close", "p"),))
    assert [order.leg for order in leaving.cancel] == ["x"]
    for _ in range(2):
        again = venue.close(working)
        assert [order.leg for order in again.cancel] == ["x"]
    ended = venue.close(OrderReport(x.client_order_id, S.CANCELLED))
    assert ended.cancel == ()
    assert [(o.leg, o.side) for o in ended.submit] == [("y", "sell")]


def holding(lots_y: int, *others: tuple[str, int]) -> Ledger:
    """Return a book with a closing pair on Y and other pairs on the same leg."""
    main = PairPosition(
        "p", "Y/USDT~X/USDT", "Y/USDT", "X/USDT", PairState.CLOSING, at(0), lots_y=lots_y
    )
    rest = [
        PairPosition(
            name, name, "Y/USDT", "X/USDT", PairState.OPEN, at(0), lots_y=lots, lots_x=-lots
        )
        for name, lots in others
    ]
    return Ledger(CAPITAL, at(0), {p.position_id: p for p in (main, *rest)}, marks_ticks=TICKS)


def close_at(ledger: Ledger, n_bars: int) -> Settlement:
    return settle(ledger, at(n_bars), marks=MARKS, instruments=INSTRUMENTS)


def test_a_small_rest_is_a_residue_and_sent_as_reduce_only() -> None:
    settled = close_at(holding(400), 1)  # worth 4
    [order] = settled.submit
    assert (order.quantity_lots, order.side, order.reduce_only) == (400, "sell", True)
    assert settled.ledger.reduces_at_venue(order)
    assert [(p.state, p.is_residue) for p in settled.positions] == [(PairState.CLOSING, True)]


def test_a_residue_that_the_venue_refuses_is_offered_again_at_the_next_funding_only() -> None:
    first = close_at(holding(400), 1)
    refused = [OrderReport(o.client_order_id, S.REJECTED, reason="-4164") for o in first.submit]
    ledger, _ = acknowledge(first.ledger, refused)
    for n_bars in (2, 3, 95):
        settled = close_at(ledger, n_bars)
        assert settled.submit == ()
        ledger = settled.ledger
    assert [o.quantity_lots for o in close_at(ledger, 96).submit] == [400]


def test_a_residue_that_has_grown_to_an_order_is_closed() -> None:
    first = close_at(holding(400), 1)
    refused = [OrderReport(o.client_order_id, S.REJECTED) for o in first.submit]
    ledger, _ = acknowledge(first.ledger, refused)
    dearer = settle(ledger, at(2), marks={"Y/USDT": 12.5}, instruments=INSTRUMENTS)
    assert [o.quantity_lots for o in dearer.submit] == [400]
    assert [(p.state, p.is_residue) for p in dearer.positions] == [(PairState.CLOSING, False)]


@pytest.mark.parametrize(
    ("others", "reduces"),
    [
        ([], True),
        ([("q", 5_000)], True),
        # The venue's net position is smaller than the leg, nothing, or the other way.
        ([("q", -300)], False),
        ([("q", -1_000)], False),
        ([("q", -5_000)], False),
    ],
)
def test_an_order_is_reduce_only_at_the_venue_where_its_net_position_covers_it(
    others: list[tuple[str, int]], reduces: bool
) -> None:
    settled = close_at(holding(1_000, *others), 1)  # worth 10: large enough either way
    [order] = settled.submit
    assert settled.ledger.reduces_at_venue(order) is reduces


def test_what_another_order_may_sell_first_is_not_there_to_be_reduced() -> None:
    ledger = holding(1_000, ("q", 1_000))
    both = replace(
        ledger,
        positions={k: replace(p, state=PairState.CLOSING) for k, p in ledger.positions.items()},
    )
    settled = close_at(both, 1)
    sells = [o for o in settled.submit if o.symbol == "Y/USDT"]
    assert [settled.ledger.reduces_at_venue(order) for order in sells] == [True, True]
    short = settle(
        replace(
            both,
            positions={
                **both.positions,
                "r": replace(
                    both.positions["q"],
                    position_id="r",
                    pair="r",
                    lots_y=-500,
                    lots_x=500,
                    state=PairState.OPEN,
                ),
            },
        ),
        at(1),
        marks=MARKS,
        instruments=INSTRUMENTS,
    )
    sells = [o for o in short.submit if o.symbol == "Y/USDT"]
    assert [short.ledger.reduces_at_venue(order) for order in sells] == [False, False]


def test_a_small_rest_that_another_pair_covers_up_is_for_the_venue_to_refuse() -> None:
    settled = close_at(holding(400, ("q", -5_000)), 1)
    [order] = settled.submit
    assert not settled.ledger.reduces_at_venue(order)
    assert [p.is_residue for p in settled.positions if p.position_id == "p"] == [True]
