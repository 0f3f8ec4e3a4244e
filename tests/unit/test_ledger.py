from __future__ import annotations

from dataclasses import replace

import pytest

from shared.book.execution import Execution, FillTerms
from shared.book.ledger import Ledger, OrderReport, Settlement, acknowledge, in_flight
from shared.book.orders import Order, OrderState, client_order_id
from shared.book.positions import PairState
from shared.book.reports import fills_booked, orders_updated, positions_changed
from shared.clock import instant_of_ms
from shared.errors import PermanentError
from shared.events.portfolio import OrderLeg
from tests.support import BAR_MS, INSTRUMENTS, MIDNIGHT_MS, closing, opening, settle

UNIT = 10**8
CAPITAL = 10_000 * UNIT
EMPTY = Ledger(CAPITAL)
S = OrderState

# The pair of these tests: 1.000 Y bought at 10 and 1 X sold at 100, for a fee of 1000e-8 each.
BOUGHT_Y, SOLD_X = Execution(1_000, 1_000, 1_000), Execution(1, 100, 1_000)


def at(n_bars: int) -> int:
    """Return a close, counted in bars from midnight."""
    return MIDNIGHT_MS + n_bars * BAR_MS


def report(order: Order, state: OrderState, *executions: Execution) -> OrderReport:
    """Return what the venue says of an order, its executions a second apart."""
    dated = tuple((at(0) + 1_000 * n, execution) for n, execution in enumerate(executions))
    return OrderReport(order.client_order_id, state, dated, "as the venue says")


def answer(settled: Settlement, *states: OrderState) -> Ledger:
    """Return the book after the venue answered what was sent, y first."""
    reports = [report(o, state) for o, state in zip(settled.submit, states, strict=True)]
    return acknowledge(settled.ledger, reports)[0]


def opened() -> Settlement:
    return settle(EMPTY, at(1), intents=[opening("open")])


def held() -> Ledger:
    """Return a book that holds the pair of these tests."""
    sent = opened()
    y, x = sent.submit
    reports = [report(y, S.FILLED, BOUGHT_Y), report(x, S.FILLED, SOLD_X)]
    return settle(answer(sent, S.ACCEPTED, S.ACCEPTED), at(2), reports=reports).ledger


def lots(ledger: Ledger) -> list[tuple[int, int]]:
    return [(position.lots_y, position.lots_x) for position in ledger.positions.values()]


def states(settled: Settlement) -> list[PairState]:
    return [position.state for position in settled.positions]


def test_an_opening_intent_sends_both_legs_and_moves_no_money() -> None:
    sent = opened()
    described = [(o.leg, o.symbol, o.side, o.quantity_lots, o.reduce_only) for o in sent.submit]
    assert described == [
        ("y", "Y/USDT", "buy", 1_000, False),
        ("x", "X/USDT", "sell", 1, False),
    ]
    for order in sent.submit:
        assert order.client_order_id == client_order_id("paper", "run", "open", order.leg, 0)
        assert (order.state, order.created_at_ms) == (S.SUBMITTED, at(1))
    assert sent.orders == sent.submit == tuple(sent.ledger.orders.values())
    assert states(sent) == [PairState.OPENING]
    assert sent.positions[0].opened_at_ms == at(1)
    assert (sent.fills, sent.cancel) == ((), ())
    assert (sent.ledger.cash_e8, sent.equity_e8, sent.gross_e8) == (CAPITAL, CAPITAL, 0)
    assert Ledger(CAPITAL) == EMPTY


def test_fills_of_both_legs_open_the_position() -> None:
    sent = opened()
    y, x = sent.submit
    # Y in two parts: 0.400 at 10.00 and 0.600 at 10.05, each with its own fee.
    parts = Execution(400, 1_000, 11), Execution(600, 1_005, 22)
    reports = [report(y, S.FILLED, *parts), report(x, S.FILLED, SOLD_X)]
    settled = settle(answer(sent, S.ACCEPTED, S.ACCEPTED), at(2), reports=reports)
    fills = [(f.leg, f.fill_number, f.lots, f.price_ticks, f.fee_e8) for f in settled.fills]
    assert fills == [("y", 0, 400, 1_000, 11), ("y", 1, 600, 1_005, 22), ("x", 0, 1, 100, 1_000)]
    assert [f.filled_at_ms - at(0) for f in settled.fills] == [0, 1_000, 0]
    assert [(o.state, o.filled_lots) for o in settled.orders] == [(S.FILLED, 1_000), (S.FILLED, 1)]
    assert states(settled) == [PairState.OPEN]
    assert settled.ledger.cash_e8 == CAPITAL - 1_003 * 10**6 + 100 * UNIT - 1_033
    # At marks of 10 and 100 the legs are worth 10 and -100.
    assert settled.equity_e8 == settled.ledger.cash_e8 - 90 * UNIT
    assert settled.gross_e8 == 110 * UNIT
    assert not settled.ledger.orders
    assert not settled.ledger.fill_counts


def test_fills_come_in_parts_over_several_closes() -> None:
    sent = opened()
    y, x = sent.submit
    first, rest = Execution(400, 1_000, 0), Execution(600, 1_000, 0)
    reports = [report(y, S.PARTIALLY_FILLED, first), report(x, S.FILLED, SOLD_X)]
    part = settle(answer(sent, S.ACCEPTED, S.ACCEPTED), at(2), reports=reports)
    assert states(part) == [PairState.OPENING]
    assert part.ledger.fill_counts == {y.client_order_id: 1}
    whole = settle(part.ledger, at(3), reports=[report(y, S.FILLED, first, rest)])
    assert [(fill.fill_number, fill.lots) for fill in whole.fills] == [(1, 600)]
    assert states(whole) == [PairState.OPEN]


def test_a_repeated_or_late_report_books_nothing() -> None:
    sent = opened()
    y, _ = sent.submit
    parts = Execution(300, 1_000, 5), Execution(200, 1_000, 5)
    now = report(y, S.PARTIALLY_FILLED, *parts)
    late = [report(y, S.PARTIALLY_FILLED, parts[0]), report(y, S.ACCEPTED), report(y, S.UNKNOWN)]
    once = settle(answer(sent, S.ACCEPTED, S.ACCEPTED), at(2), reports=[now])
    assert settle(answer(sent, S.ACCEPTED, S.ACCEPTED), at(2), reports=[now, now, *late]) == once
    again = settle(once.ledger, at(3), reports=[now, *late])
    assert (again.fills, again.orders, again.positions) == ((), (), ())
    assert again.ledger == replace(once.ledger, closes_at_ms=at(3))


def test_a_report_of_an_order_that_is_not_in_the_book_stops_the_books() -> None:
    stranger = replace(opened().submit[0], client_order_id="stranger")
    with pytest.raises(PermanentError, match="stranger, which is not a working order"):
        settle(held(), at(3), reports=[report(stranger, S.FILLED, BOUGHT_Y)])


def test_a_fill_without_a_position_stops_the_books() -> None:
    sent = opened()
    broken = replace(sent.ledger, positions={})
    with pytest.raises(PermanentError, match="no position to go to"):
        settle(broken, at(2), reports=[report(sent.submit[0], S.FILLED, BOUGHT_Y)])


# --- the venue's answers --------------------------------------------------------------------


def test_orders_are_in_flight_until_the_venue_says_what_became_of_them() -> None:
    sent = opened()
    assert in_flight(sent.ledger) == sent.submit
    unknown = answer(sent, S.ACCEPTED, S.UNKNOWN)
    assert [order.leg for order in in_flight(unknown)] == ["x"]
    assert in_flight(answer(sent, S.ACCEPTED, S.REJECTED)) == ()


def test_an_answer_is_recorded_with_its_reason_and_a_repeat_is_no_change() -> None:
    sent = opened()
    ledger, changed = acknowledge(sent.ledger, [report(sent.submit[0], S.REJECTED)])
    assert [(o.leg, o.state, o.reason) for o in changed] == [("y", S.REJECTED, "as the venue says")]
    again, unchanged = acknowledge(ledger, [report(sent.submit[0], S.REJECTED)])
    assert (again, unchanged) == (ledger, ())


@pytest.mark.parametrize("state", [S.PARTIALLY_FILLED, S.FILLED, S.CANCELLED, S.EXPIRED])
def test_fills_of_an_order_that_ended_at_once_are_booked_at_the_next_close(
    state: OrderState,
) -> None:
    sent = opened()
    y, x = sent.submit
    ledger = answer(sent, state, S.ACCEPTED)
    assert ledger.orders[y.client_order_id].state is S.ACCEPTED
    lots_y = 1_000 if state is S.FILLED else 400
    reports = [report(y, state, Execution(lots_y, 1_000, 0)), report(x, S.FILLED, SOLD_X)]
    settled = settle(ledger, at(2), reports=reports)
    assert lots(settled.ledger) == [(lots_y, -1)]


def test_an_order_called_filled_works_until_its_executions_are_listed() -> None:
    sent = opened()
    y, x = sent.submit
    part, rest = Execution(400, 1_000, 0), Execution(600, 1_000, 0)
    ledger = answer(sent, S.ACCEPTED, S.ACCEPTED)
    reports = [report(y, S.FILLED, part), report(x, S.FILLED)]
    first = settle(ledger, at(2), reports=reports)
    assert {o.leg: o.state for o in first.ledger.orders.values()} == {
        "y": S.PARTIALLY_FILLED,
        "x": S.ACCEPTED,
    }
    reports = [report(y, S.FILLED, part, rest), report(x, S.FILLED, SOLD_X)]
    assert lots(settle(first.ledger, at(3), reports=reports).ledger) == [(1_000, -1)]


# --- a pair is one position -----------------------------------------------------------------


def test_a_pair_left_on_one_leg_is_unwound_once_both_orders_have_ended() -> None:
    sent = opened()
    y, x = sent.submit
    ledger = answer(sent, S.ACCEPTED, S.REJECTED)
    working = settle(
        ledger, at(2), reports=[report(y, S.PARTIALLY_FILLED, Execution(300, 1_000, 0))]
    )
    assert working.submit == ()
    whole = report(y, S.FILLED, Execution(300, 1_000, 0), Execution(700, 1_000, 0))
    unwinding = settle(working.ledger, at(3), reports=[whole])
    (order,) = unwinding.submit
    assert (order.leg, order.side, order.quantity_lots, order.reduce_only) == (
        "y",
        "sell",
        1_000,
        True,
    )
    assert order.client_order_id not in {y.client_order_id, x.client_order_id}
    assert states(unwinding) == [PairState.CLOSING]
    sold = report(order, S.FILLED, Execution(1_000, 990, 0))
    done = settle(answer(unwinding, S.ACCEPTED), at(4), reports=[sold])
    assert states(done) == [PairState.CLOSED]
    assert (done.positions[0].closed_at_ms, done.positions[0].is_flat) == (at(4), True)
    assert done.ledger == Ledger(CAPITAL - UNIT // 10, at(4))


def test_a_pair_of_which_nothing_filled_is_closed_without_an_order() -> None:
    done = settle(answer(opened(), S.REJECTED, S.REJECTED), at(2))
    assert (states(done), done.submit) == ([PairState.CLOSED], ())
    assert done.ledger == Ledger(CAPITAL, at(2))


def test_an_unknown_order_holds_back_what_would_follow_from_it() -> None:
    sent = opened()
    ledger = answer(sent, S.ACCEPTED, S.UNKNOWN)
    reports = [report(sent.submit[0], S.FILLED, BOUGHT_Y)]
    waiting = settle(ledger, at(2), reports=reports)
    assert (waiting.submit, states(waiting)) == ((), [PairState.OPENING])


def test_unwinding_is_tried_again_at_every_close_under_new_ids() -> None:
    sent = opened()
    ledger = answer(sent, S.ACCEPTED, S.REJECTED)
    reports = [report(sent.submit[0], S.FILLED, BOUGHT_Y)]
    ids = []
    for n_bars in (2, 3, 4):
        unwinding = settle(ledger, at(n_bars), reports=reports)
        ids += [order.client_order_id for order in unwinding.submit]
        ledger, reports = answer(unwinding, S.REJECTED), []
    assert len(set(ids)) == 3


@pytest.mark.parametrize("again_at", [at(2), at(1)])
def test_a_close_that_comes_in_two_events_unwinds_once(again_at: int) -> None:
    sent = opened()
    reports = [report(sent.submit[0], S.FILLED, BOUGHT_Y)]
    unwinding = settle(answer(sent, S.ACCEPTED, S.REJECTED), at(2), reports=reports)
    rejected = answer(unwinding, S.REJECTED)
    assert settle(rejected, again_at).submit == ()
    assert len(settle(rejected, at(3)).submit) == 1


def test_a_closing_intent_sends_what_is_held_the_other_way() -> None:
    leaving = settle(held(), at(3), intents=[closing("close", "open")])
    described = [(o.leg, o.side, o.quantity_lots, o.reduce_only) for o in leaving.submit]
    assert described == [("y", "sell", 1_000, True), ("x", "buy", 1, True)]
    for order in leaving.submit:
        assert order.client_order_id == client_order_id("paper", "run", "close", order.leg, 0)
    assert states(leaving) == [PairState.CLOSING]
    y, x = leaving.submit
    reports = [report(y, S.FILLED, Execution(1_000, 1_100, 0)), report(x, S.FILLED, SOLD_X)]
    done = settle(answer(leaving, S.ACCEPTED, S.ACCEPTED), at(4), reports=reports)
    assert states(done) == [PairState.CLOSED]
    # Y made 1, X nothing; three fees of 1000e-8 were paid.
    assert done.ledger.cash_e8 == CAPITAL + UNIT - 3_000


def test_a_close_of_which_one_leg_was_refused_is_repeated_for_that_leg() -> None:
    leaving = settle(held(), at(3), intents=[closing("close", "open")])
    ledger = answer(leaving, S.ACCEPTED, S.REJECTED)
    reports = [report(leaving.submit[0], S.FILLED, BOUGHT_Y)]
    again = settle(ledger, at(4), reports=reports)
    assert [(o.leg, o.side, o.quantity_lots) for o in again.submit] == [("x", "buy", 1)]


def test_closing_withdraws_orders_that_still_work_before_it_sells() -> None:
    sent = opened()
    y, x = sent.submit
    reports = [report(y, S.PARTIALLY_FILLED, Execution(300, 1_000, 0)), report(x, S.FILLED, SOLD_X)]
    ledger = answer(sent, S.ACCEPTED, S.ACCEPTED)
    leaving = settle(ledger, at(2), reports=reports, intents=[closing("close", "open")])
    assert [order.client_order_id for order in leaving.cancel] == [y.client_order_id]
    assert leaving.submit == ()
    assert states(leaving) == [PairState.CLOSING]
    cancelled = report(y, S.CANCELLED, Execution(300, 1_000, 0), Execution(50, 1_000, 0))
    unwinding = settle(leaving.ledger, at(3), reports=[cancelled])
    assert [(o.leg, o.quantity_lots) for o in unwinding.submit] == [("y", 350), ("x", 1)]


def test_closing_what_is_closing_or_not_held_does_nothing() -> None:
    leaving = settle(held(), at(3), intents=[closing("close", "open")])
    intents = [closing("close again", "open"), closing("close other", "other")]
    settled = settle(answer(leaving, S.ACCEPTED, S.ACCEPTED), at(4), intents=intents)
    assert (settled.submit, settled.cancel, settled.positions) == ((), (), ())


# --- denials --------------------------------------------------------------------------------


def leg(name: str, symbol: str, quantity_lots: int) -> OrderLeg:
    return OrderLeg.model_validate(
        {"leg": name, "symbol": symbol, "side": "buy", "quantity_lots": quantity_lots}
    )


@pytest.mark.parametrize(
    ("legs", "reason"),
    [
        ([leg("y", "Y/USDT", 1_000)], "exactly the legs"),
        ([leg("y", "Y/USDT", 1_000), leg("y", "Y/USDT", 1_000)], "exactly the legs"),
        ([leg("y", "X/USDT", 1), leg("x", "Y/USDT", 1_000)], "exactly the legs"),
        ([leg("y", "Y/USDT", 1_000), leg("x", "OTHER/USDT", 1)], "exactly the legs"),
        ([leg("y", "Y/USDT", 499), leg("x", "X/USDT", 1)], "Y/USDT: 499000000e-8 is below"),
    ],
)
def test_an_intent_is_denied_as_a_whole(legs: list[OrderLeg], reason: str) -> None:
    intent = opening("open").model_copy(update={"legs": tuple(legs)})
    denied = settle(EMPTY, at(1), intents=[intent])
    assert denied.submit == ()
    assert {(order.state, order.filled_lots) for order in denied.orders} == {(S.DENIED, 0)}
    assert all(reason in order.reason for order in denied.orders)
    assert denied.ledger == Ledger(CAPITAL, at(1))
    # Reported as closed, so that the portfolio frees the slot.
    assert [(p.position_id, p.state) for p in denied.positions] == [("open", PairState.CLOSED)]


@pytest.mark.parametrize("missing", ["Y/USDT", "X/USDT"])
def test_an_intent_without_a_price_or_units_is_denied(missing: str) -> None:
    marks = {symbol: 10.0 for symbol in INSTRUMENTS if symbol != missing}
    units = {symbol: unit for symbol, unit in INSTRUMENTS.items() if symbol != missing}
    for denied in (
        settle(EMPTY, at(1), intents=[opening("open")], marks=marks),
        settle(EMPTY, at(1), intents=[opening("open")], instruments=units),
    ):
        assert {o.reason for o in denied.orders} == {f"{missing} has no instrument or no mark"}
        assert denied.submit == ()


def test_a_leg_at_the_minimum_of_the_venue_is_sent() -> None:
    assert len(settle(EMPTY, at(1), intents=[opening("open", lots_y=500)]).submit) == 2


def test_a_second_position_of_a_held_pair_is_denied_and_the_first_stays() -> None:
    before = held()
    denied = settle(before, at(3), intents=[opening("second")])
    assert {o.reason for o in denied.orders} == {"the pair's last position is not closed yet"}
    assert [(p.position_id, p.state) for p in denied.positions] == [("second", PairState.CLOSED)]
    assert denied.ledger == replace(before, closes_at_ms=at(3))


def test_an_intent_that_comes_again_does_nothing() -> None:
    sent = opened()
    again = settle(sent.ledger, at(1), intents=[opening("open")])
    assert (again.submit, again.orders, again.positions) == ((), (), ())
    assert again.ledger == sent.ledger


# --- time, marks and funding ----------------------------------------------------------------


def funding(ledger: Ledger) -> int:
    return sum(position.funding_e8 for position in ledger.positions.values())


@pytest.mark.parametrize(
    ("closes_at", "n_settlements"),
    [
        (at(96) - BAR_MS, 0),
        (at(96), 1),
        (at(97), 1),
        (at(2 * 96 - 1), 1),
        (at(3 * 96), 3),
    ],
)
def test_funding_falls_due_at_every_eighth_hour_since_the_last_close(
    closes_at: int, n_settlements: int
) -> None:
    before = held()
    after = settle(before, closes_at).ledger
    # 1 bp of 10 and of 100.
    assert funding(after) == n_settlements * 1_100_000
    assert after.cash_e8 == before.cash_e8 - funding(after)


def test_funding_is_charged_once() -> None:
    first = settle(held(), at(96)).ledger
    for later in (at(96), at(97), at(95)):
        assert settle(first, later).ledger.cash_e8 == first.cash_e8


def test_funding_is_charged_at_the_last_marks_when_a_close_has_none() -> None:
    before = settle(held(), at(3), marks={"Y/USDT": 12.0, "X/USDT": 90.0}).ledger
    assert funding(settle(before, at(96), marks={}).ledger) == 1_020_000


def test_what_was_bought_at_a_funding_instant_pays_and_what_was_sold_does_not() -> None:
    sent = settle(Ledger(CAPITAL, at(94)), at(95), intents=[opening("open")])
    y, x = sent.submit
    filled = [report(y, S.FILLED, BOUGHT_Y), report(x, S.FILLED, SOLD_X)]
    assert funding(settle(answer(sent, S.ACCEPTED, S.ACCEPTED), at(96), reports=filled).ledger) > 0
    leaving = settle(held(), at(95), intents=[closing("close", "open")])
    y, x = leaving.submit
    filled = [report(y, S.FILLED, BOUGHT_Y), report(x, S.FILLED, SOLD_X)]
    done = settle(answer(leaving, S.ACCEPTED, S.ACCEPTED), at(96), reports=filled)
    assert done.positions[0].funding_e8 == 0


def test_no_funding_is_charged_where_the_terms_have_none() -> None:
    assert funding(settle(held(), at(96), terms=FillTerms(funding_ppm=0)).ledger) == 0


def test_the_time_of_the_book_never_goes_back() -> None:
    now = settle(held(), at(97), marks={"Y/USDT": 11.0, "X/USDT": 90.0}).ledger
    late = settle(now, at(95), marks={"Y/USDT": 5.0, "X/USDT": 5.0})
    assert late.ledger == now
    assert settle(late.ledger, at(98), marks={}).ledger.cash_e8 == now.cash_e8


def test_marks_follow_the_market_and_only_those_of_held_symbols_are_kept() -> None:
    marked = settle(held(), at(3), marks={"Y/USDT": 10.5})
    assert marked.ledger.marks_ticks == {"Y/USDT": 1_050, "X/USDT": 100}
    assert marked.equity_e8 == marked.ledger.cash_e8 + 1_050 * 10**6 - 100 * UNIT
    assert settle(EMPTY, at(1)).ledger.marks_ticks == {}
    unlisted = settle(held(), at(3), marks={"OTHER/USDT": 1.0})
    assert unlisted.ledger.marks_ticks == {"Y/USDT": 1_000, "X/USDT": 100}


def test_a_leg_that_was_never_marked_is_valued_at_its_fill() -> None:
    sent = opened()
    y, x = sent.submit
    unmarked = replace(answer(sent, S.ACCEPTED, S.ACCEPTED), marks_ticks={})
    reports = [report(y, S.FILLED, Execution(1_000, 1_003, 0)), report(x, S.FILLED, SOLD_X)]
    settled = settle(unmarked, at(2), reports=reports, marks={})
    assert settled.ledger.marks_ticks == {"Y/USDT": 1_003, "X/USDT": 100}
    assert settled.equity_e8 == CAPITAL - 1_000


# --- what the fleet is told -----------------------------------------------------------------


def test_the_fleet_is_told_what_changed() -> None:
    sent = opened()
    y, x = sent.submit
    reports = [report(y, S.FILLED, BOUGHT_Y), report(x, S.FILLED, SOLD_X)]
    settled = settle(answer(sent, S.ACCEPTED, S.ACCEPTED), at(2), reports=reports)
    now = instant_of_ms(at(2))
    told = orders_updated(now, settled.orders)
    assert told.closes_at == now
    assert told.orders[0].model_dump() == {
        "client_order_id": y.client_order_id,
        "intent_id": "open",
        "pair": "Y/USDT~X/USDT",
        "leg": "y",
        "symbol": "Y/USDT",
        "side": "buy",
        "quantity_lots": 1_000,
        "filled_lots": 1_000,
        "reduce_only": False,
        "state": "filled",
        "reason": "as the venue says",
    }
    fills = fills_booked(now, settled)
    assert fills.closes_at == now
    assert fills.fills[1].model_dump() == {
        "client_order_id": x.client_order_id,
        "fill_number": 0,
        "pair": "Y/USDT~X/USDT",
        "leg": "x",
        "symbol": "X/USDT",
        "side": "sell",
        "lots": 1,
        "price_ticks": 100,
        "fee_e8": 1_000,
        "filled_at": instant_of_ms(at(0)),
    }
    positions = positions_changed(now, settled)
    assert positions.model_dump() == {
        "version": 1,
        "closes_at": now,
        "cash_e8": CAPITAL + 90 * UNIT - 2_000,
        "equity_e8": CAPITAL - 2_000,
        "gross_e8": 110 * UNIT,
        "positions": (
            {
                "position_id": "open",
                "pair": "Y/USDT~X/USDT",
                "state": "open",
                "lots_y": 1_000,
                "lots_x": -1,
                "cash_e8": 90 * UNIT - 2_000,
            },
        ),
    }
