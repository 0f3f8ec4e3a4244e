from __future__ import annotations

from dataclasses import replace

import pytest

from shared.book.orders import (
    IN_FLIGHT,
    TERMINAL,
    Order,
    OrderState,
    Side,
    advance_order,
    client_order_id,
    fill_order,
)
from shared.errors import PermanentError

ORDER = Order("id", "intent", "Y~X", "y", 0, "Y/USDT", Side.BUY, 10, False, 1_000)

# What each state does when the state above the column is reported: it moves (M), stays as it
# is because the report is late or a repeat (.), or the report contradicts the record (!).
REPORTED = """
initialised denied submitted unknown accepted rejected partially_filled filled cancelled expired
"""
TABLE = """
initialised       .  M  M  !  !  !  !  !  !  !
denied            !  .  !  !  !  !  !  !  !  !
submitted         !  !  .  M  M  M  M  M  M  M
unknown           !  !  M  .  M  M  M  M  M  M
accepted          !  !  .  .  .  !  M  M  M  M
rejected          !  !  .  .  !  .  !  !  !  !
partially_filled  !  !  .  .  .  !  .  M  M  M
filled            !  !  .  .  .  !  .  .  !  !
cancelled         !  !  .  .  .  !  .  !  .  !
expired           !  !  .  .  .  !  .  !  !  .
"""
MOVES = [
    (OrderState(state), OrderState(reported), mark)
    for state, *marks in (line.split() for line in TABLE.strip().splitlines())
    for reported, mark in zip(REPORTED.split(), marks, strict=True)
]


def in_state(state: OrderState, filled_lots: int = 0) -> Order:
    return replace(ORDER, state=state, filled_lots=filled_lots, reason="before")


@pytest.mark.parametrize(("state", "reported", "mark"), MOVES)
def test_a_report_moves_an_order_or_is_late_or_contradicts_the_record(
    state: OrderState, reported: OrderState, mark: str
) -> None:
    order = in_state(state)
    if mark == "!":
        with pytest.raises(PermanentError, match=f"is {state} and cannot become {reported}"):
            advance_order(order, reported, "after")
    elif mark == ".":
        assert advance_order(order, reported, "after") is order
    else:
        assert advance_order(order, reported, "after") == replace(
            order, state=reported, reason="after"
        )


def test_every_state_is_in_the_table() -> None:
    assert len(MOVES) == len(OrderState) ** 2
    assert {state for state, _, _ in MOVES} == set(OrderState)


def test_a_move_without_a_reason_keeps_the_one_before() -> None:
    assert advance_order(in_state(OrderState.SUBMITTED), OrderState.ACCEPTED).reason == "before"


def test_an_order_works_until_its_end_and_is_in_flight_until_the_venue_has_it() -> None:
    assert {state.value for state in TERMINAL} == {
        "denied",
        "rejected",
        "filled",
        "cancelled",
        "expired",
    }
    assert {state.value for state in IN_FLIGHT} == {"initialised", "submitted", "unknown"}
    for state in OrderState:
        assert in_state(state).is_working == (state not in TERMINAL)


def test_a_fill_leaves_an_order_partially_filled_until_it_is_whole() -> None:
    part = fill_order(in_state(OrderState.ACCEPTED), 4)
    assert (part.state, part.filled_lots, part.remaining_lots) == ("partially_filled", 4, 6)
    more = fill_order(part, 5)
    assert (more.state, more.filled_lots, more.remaining_lots) == ("partially_filled", 9, 1)
    whole = fill_order(more, 1)
    assert (whole.state, whole.filled_lots, whole.remaining_lots) == ("filled", 10, 0)


@pytest.mark.parametrize("state", [OrderState.SUBMITTED, OrderState.UNKNOWN])
def test_a_fill_proves_that_the_venue_has_the_order(state: OrderState) -> None:
    assert fill_order(in_state(state), 4).state is OrderState.PARTIALLY_FILLED
    assert fill_order(in_state(state), 10).state is OrderState.FILLED


@pytest.mark.parametrize("state", [OrderState.INITIALISED, OrderState.DENIED, OrderState.REJECTED])
@pytest.mark.parametrize("lots", [4, 10])
def test_an_order_the_venue_never_had_takes_no_fill(state: OrderState, lots: int) -> None:
    with pytest.raises(PermanentError, match="contradicts what was recorded"):
        fill_order(in_state(state), lots)


def test_a_fill_beyond_the_order_is_refused() -> None:
    with pytest.raises(PermanentError, match="11 of 10 lots filled"):
        fill_order(in_state(OrderState.PARTIALLY_FILLED, 9), 2)


@pytest.mark.parametrize("lots", [0, -1])
def test_an_order_of_no_lots_is_refused(lots: int) -> None:
    with pytest.raises(PermanentError, match="needs at least one lot"):
        replace(ORDER, quantity_lots=lots)


def test_a_side_has_a_sign() -> None:
    assert (Side.BUY.sign, Side.SELL.sign) == (1, -1)


def test_an_order_id_is_a_pure_function_of_what_it_names() -> None:
    key = ("paper", "run", "1704067500000:pairs:A/USDT~B/USDT:open", "y", 0)
    # sha256 of the five parts, joined by the unit separator: computed once by other means.
    assert client_order_id(*key) == "9ed765c62fd0b21b96d0299b7cd9099a"
    assert len(client_order_id(*key)) == 32
    others = {
        client_order_id("live", *key[1:]),
        client_order_id(key[0], "other run", *key[2:]),
        client_order_id(*key[:2], "1704067800000:pairs:A/USDT~B/USDT:open", *key[3:]),
        client_order_id(*key[:3], "x", 0),
        client_order_id(*key[:3], "y", 1),
    }
    assert len(others | {client_order_id(*key)}) == 6


def test_parts_of_an_order_id_do_not_run_into_each_other() -> None:
    assert client_order_id("a", "bc", "i", "y", 0) != client_order_id("ab", "c", "i", "y", 0)
    assert client_order_id("a", "r", "i1", "y", 0) != client_order_id("a", "r", "i", "1y", 0)
