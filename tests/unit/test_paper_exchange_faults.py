"""Faults of the paper venue: each kind as it strikes, and that the seed alone decides."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from services.paper_exchange.faults import Family, Fate, Fault, Faults, chance
from services.paper_exchange.in_process import InProcessVenue
from services.paper_exchange.matching import Product
from services.paper_exchange.settings import load_settings
from shared.clock import instant_of_ms
from shared.errors import ContractError, SettingsError
from shared.venues.faults import (
    FaultSettings,
    Maintenance,
    OrderFaults,
    RequestFaults,
    StreamFaults,
)
from tests.in_process_venue import T0, close_ms, find, n_orders, place, rest, venue_with

EVERY_REQUEST = RequestFaults(**dict.fromkeys(RequestFaults.model_fields, 0.1))
MIXED = FaultSettings(
    seed=3,
    orders=OrderFaults(**dict.fromkeys(OrderFaults.model_fields, 0.08)),
    cancels=EVERY_REQUEST,
    queries=EVERY_REQUEST,
    market=EVERY_REQUEST,
    streams=StreamFaults(disconnect=0.05, duplicate=0.2, reorder=0.2),
    partial_fill=0.5,
    invisible_order=0.5,
    ban_seconds=1,
)


def orders(**probabilities: float) -> FaultSettings:
    return FaultSettings(orders=OrderFaults(**probabilities))


def code_of(answer: Any) -> int:
    return int(answer.document["code"])


# --- what decides -----------------------------------------------------------------------------


def test_the_numbers_behind_the_decisions_never_change() -> None:
    # A recorded seed must find the same faults in every version to come; by coreutils' b2sum.
    assert chance(7, "lost_answer", "POST /fapi/v1/order", 0) == 0.4083384698716982
    assert chance(7, "lost_answer", "POST /fapi/v1/order", 1) == 0.7624222684241337


def test_the_numbers_behind_the_decisions_are_uniform() -> None:
    numbers = np.array([chance(1, "html", "GET /fapi/v1/time", i) for i in range(20_000)])
    assert 0.0 <= numbers.min() < numbers.max() < 1.0
    counts, _ = np.histogram(numbers, bins=20, range=(0.0, 1.0))
    assert ((counts - 1_000) ** 2 / 1_000).sum() < 43.8  # chi-square, 19 degrees, one in 1,000


@pytest.mark.parametrize(
    "other",
    [
        (2, "html", "GET /a", 5),
        (1, "ban", "GET /a", 5),
        (1, "html", "GET /b", 5),
        (1, "html", "GET /a", 6),
    ],
)
def test_each_part_of_a_decision_counts(other: tuple[int, str, str, int]) -> None:
    assert chance(*other) != chance(1, "html", "GET /a", 5)


def test_nothing_strikes_by_default() -> None:
    faults = Faults()
    fates = [faults.of_request(Family.ORDERS, "POST /fapi/v1/order") for _ in range(100)]
    assert fates == [Fate(ordinal=i) for i in range(100)]
    assert faults.of_message("aaausdt@kline_5m") is None
    assert faults.injected == {}


def test_the_fate_of_a_route_does_not_depend_on_what_else_is_asked() -> None:
    alone, among_others = Faults(MIXED), Faults(MIXED)
    expected = [alone.of_request(Family.ORDERS, "POST /fapi/v1/order") for _ in range(200)]
    found = []
    for number in range(200):
        for _ in range(number % 3):
            among_others.of_request(Family.QUERIES, "GET /fapi/v1/order")
        found.append(among_others.of_request(Family.ORDERS, "POST /fapi/v1/order"))
    assert found == expected
    assert len({fate.fault for fate in found}) > 5


def test_one_kind_does_not_disturb_the_decisions_on_another() -> None:
    def struck(settings: FaultSettings) -> set[int]:
        faults = Faults(settings)
        fates = [faults.of_request(Family.ORDERS, "POST /fapi/v1/order") for _ in range(300)]
        return {fate.ordinal for fate in fates if fate.fault is Fault.DISCONNECT}

    assert struck(orders(disconnect=0.1)) == struck(orders(disconnect=0.1, late_answer=0.5))


def test_a_probability_is_how_often_it_strikes() -> None:
    faults = Faults(orders(lost_answer=0.25))
    fates = [faults.of_request(Family.ORDERS, "POST /fapi/v1/order") for _ in range(4_000)]
    share = sum(fate.fault is Fault.LOST_ANSWER for fate in fates) / 4_000
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / 4_000) ** 0.5


def test_settings_given_anew_begin_the_count_of_every_route_again() -> None:
    faults = Faults(MIXED)
    before = [faults.of_request(Family.ORDERS, "POST /fapi/v1/order") for _ in range(50)]
    faults.change(MIXED)
    assert [faults.of_request(Family.ORDERS, "POST /fapi/v1/order") for _ in range(50)] == before


def transcript(settings: FaultSettings) -> list[Any]:
    """Return all that a client sees of an hour in which it trades and asks."""
    seen: list[Any] = []
    with venue_with(settings) as venue:
        inbox = venue.listen([Product.USDM, "aaausdt@kline_5m"])
        for number in range(1, 13):
            for name in (f"a{number}", f"b{number}"):
                seen.append(place(venue, name))
                venue.wait_until(venue.now_ms + 700)
                seen.append(find(venue, name))
            seen.append(venue.request("GET", "/fapi/v1/time"))
            seen.append(venue.advance(close_ms(number)))
            seen.append(inbox.take())
            if inbox.is_cut:
                inbox = venue.listen([Product.USDM, "aaausdt@kline_5m"])
        seen.append(venue.faults.injected)
    return seen


def test_the_same_seed_makes_the_same_hour() -> None:
    first = transcript(MIXED)
    assert transcript(MIXED) == first
    assert transcript(MIXED.model_copy(update={"seed": 4})) != first
    assert len(first[-1]) > 10  # kinds that struck


# --- requests ---------------------------------------------------------------------------------


def test_a_connection_cut_at_once_has_done_nothing() -> None:
    with venue_with(orders(disconnect=1.0)) as venue:
        assert place(venue, "one").is_lost
        assert n_orders(venue) == 0


def test_an_answer_that_is_lost_leaves_the_order() -> None:
    with venue_with(orders(lost_answer=1.0)) as venue:
        assert place(venue, "one").is_lost
        assert find(venue, "one").document["status"] == "NEW"


def test_a_late_answer_tells_of_an_order_that_works_already() -> None:
    with venue_with(orders(late_answer=1.0)) as venue:
        answers = [place(venue, f"o{i}") for i in range(200)]
        assert n_orders(venue) == 200
    assert {answer.document["status"] for answer in answers} == {"NEW"}
    lateness = np.array([answer.late_ms for answer in answers])
    assert 0 < lateness.min() < 10_000
    assert 80_000 < lateness.max() <= 90_000


def test_a_rate_limit_says_when_to_come_back_and_does_nothing() -> None:
    with venue_with(orders(rate_limit=1.0)) as venue:
        venue.wait_until(close_ms(0) + 15_000)
        answer = place(venue, "one")
        assert (answer.status, code_of(answer), answer.headers["Retry-After"]) == (429, -1003, "45")
        assert n_orders(venue) == 0
        assert find(venue, "one").status == 400


def test_a_ban_holds_for_every_route_until_it_ends() -> None:
    with venue_with(orders(ban=1.0)) as venue:
        answer = place(venue, "one")
        assert (answer.status, answer.headers["Retry-After"]) == (418, "120")
        venue.wait_until(close_ms(0) + 119_001)
        answer = find(venue, "one")
        assert (answer.status, answer.headers["Retry-After"]) == (418, "1")
        venue.wait_until(close_ms(0) + 120_000)
        assert code_of(find(venue, "one")) == -2013
        assert n_orders(venue) == 0


def test_a_server_error_leaves_open_whether_the_order_was_accepted() -> None:
    with venue_with(orders(server_error=1.0)) as venue:
        answers = [place(venue, f"o{i}") for i in range(100)]
        assert {answer.status for answer in answers} == {500, 502, 503, 504}
        assert {code_of(answer) for answer in answers} == {-1000, -1001, -1006, -1007}
        assert 25 < n_orders(venue) < 75


def test_a_page_in_place_of_json_leaves_it_open_unless_it_is_a_refusal() -> None:
    with venue_with(orders(html=1.0)) as venue:
        for number in range(100):
            before = n_orders(venue)
            answer = place(venue, f"o{number}")
            assert answer.content_type == "text/html"
            assert answer.body.startswith(b"<html>")
            assert answer.status in (200, 502) or n_orders(venue) == before
        assert 25 < n_orders(venue) < 75


@pytest.mark.parametrize(
    ("path", "extra", "code"),
    [
        ("/fapi/v1/order", {}, -2019),
        ("/fapi/v1/order", {"reduceOnly": "true"}, -2022),
        ("/api/v3/order", {}, -2010),
    ],
)
def test_an_order_is_rejected_in_the_words_of_its_product(
    path: str, extra: dict[str, str], code: int
) -> None:
    order = {"symbol": "AAAUSDT", "side": "BUY", "type": "MARKET", "quantity": "1", **extra}
    with venue_with(orders(reject=1.0)) as venue:
        answer = venue.request("POST", path, order)
        assert (answer.status, code_of(answer), n_orders(venue)) == (400, code, 0)


def test_an_order_may_be_too_small_at_the_venue_but_not_one_that_reduces() -> None:
    with venue_with() as venue:
        place(venue, "held")
        venue.advance(close_ms(1))
        venue.faults.change(orders(min_notional=1.0))
        answer = place(venue, "more")
        assert code_of(answer) == -4164
        assert "no smaller than 5 " in answer.document["msg"]
        assert place(venue, "less", side="SELL", reduceOnly="true").status == 200
        assert venue.faults.injected == {"orders.min_notional": 1}


def test_the_families_are_apart() -> None:
    with venue_with(FaultSettings(queries=RequestFaults(disconnect=1.0))) as venue:
        assert rest(venue, "one").status == 200
        assert find(venue, "one").is_lost
        assert venue.request("GET", "/fapi/v2/balance").status == 200
        asked = {"symbol": "AAAUSDT", "origClientOrderId": "one"}
        assert venue.request("DELETE", "/fapi/v1/order", asked).document["status"] == "CANCELED"


# --- messages ---------------------------------------------------------------------------------


def closes_told(faults: FaultSettings, n_closes: int = 3) -> list[int]:
    """Return the venue times of the tickers that a listener hears, close by close."""
    with venue_with(faults) as venue:
        inbox = venue.listen(["aaausdt@miniTicker"])
        for number in range(1, n_closes + 1):
            venue.advance(close_ms(number))
        return [(event["E"] - T0) // 300_000 - 1 for event in inbox.take()]


def test_messages_come_once_and_in_order_by_default() -> None:
    assert closes_told(FaultSettings()) == [1, 2, 3]


def test_a_message_may_come_twice() -> None:
    assert closes_told(FaultSettings(streams=StreamFaults(duplicate=1.0))) == [1, 1, 2, 2, 3, 3]


def test_a_message_may_come_after_the_next_one_but_is_never_lost_by_it() -> None:
    assert closes_told(FaultSettings(streams=StreamFaults(reorder=1.0)), 4) == [2, 1, 4, 3]
    assert closes_told(FaultSettings(streams=StreamFaults(reorder=1.0)), 3) == [2, 1, 3]


def test_a_connection_may_be_cut_and_opened_again() -> None:
    with venue_with(FaultSettings(streams=StreamFaults(disconnect=1.0))) as venue:
        inbox = venue.listen(["aaausdt@miniTicker"])
        venue.advance(close_ms(1))
        assert (inbox.is_cut, inbox.take()) == (True, [])
        venue.faults.change(FaultSettings())
        again = venue.listen(["aaausdt@miniTicker"])
        venue.advance(close_ms(2))
        assert (len(inbox.take()), len(again.take())) == (0, 1)


def test_the_fate_of_an_accounts_messages_does_not_hang_on_its_secret_listen_key() -> None:
    settings = FaultSettings(streams=StreamFaults(duplicate=0.5))
    fates = []
    for key in ("one secret", "another"):
        faults = Faults(settings, {key: "account usdm"})
        fates.append([faults.of_message(key) for _ in range(50)])
    assert fates[0] == fates[1]


# --- orders -----------------------------------------------------------------------------------


def test_a_bar_may_fill_a_part_and_the_next_ones_the_rest() -> None:
    shares = []
    with venue_with(FaultSettings(partial_fill=1.0)) as venue:
        for number in range(30):
            place(venue, f"o{number}")
        venue.advance(close_ms(1))
        for number in range(30):
            order = find(venue, f"o{number}").document
            assert order["status"] == "PARTIALLY_FILLED"
            shares.append(float(order["executedQty"]))
        venue.faults.change(FaultSettings())
        venue.advance(close_ms(2))
        assert {find(venue, f"o{number}").document["status"] for number in range(30)} == {"FILLED"}
    assert 0.01 <= min(shares) < 0.2
    assert 0.8 < max(shares) <= 0.99


def test_an_order_to_be_filled_whole_or_not_at_all_is_not_filled_in_part() -> None:
    with venue_with(FaultSettings(partial_fill=1.0)) as venue:
        place(venue, "whole", type="LIMIT", timeInForce="FOK", price="20")
        venue.advance(close_ms(1))
        assert find(venue, "whole").document["executedQty"] == "1.000"


def test_the_part_depends_on_the_order_and_the_bar_alone() -> None:
    def part(*others: str) -> str:
        with venue_with(FaultSettings(partial_fill=1.0)) as venue:
            for name in (*others, "one"):
                place(venue, name)
            venue.advance(close_ms(1))
            return str(find(venue, "one").document["executedQty"])

    assert part() == part("another", "third")


def test_a_new_order_cannot_be_queried_at_once_but_works_and_can_be_withdrawn() -> None:
    faults = FaultSettings(invisible_order=1.0, invisible_seconds=2.0)
    with venue_with(faults) as venue:
        rest(venue, "one")
        symbol = {"symbol": "AAAUSDT"}
        assert code_of(find(venue, "one")) == -2013
        assert venue.request("GET", "/fapi/v1/openOrders", symbol).document == []
        assert venue.request("GET", "/fapi/v1/allOrders", symbol).document == []
        again = rest(venue, "one")
        assert code_of(again) == -4116  # for all that, its id is taken
        venue.wait_until(venue.now_ms + 2_000)
        assert find(venue, "one").document["status"] == "NEW"
        rest(venue, "two")
        asked = {**symbol, "origClientOrderId": "two"}
        assert venue.request("DELETE", "/fapi/v1/order", asked).document["status"] == "CANCELED"


def test_a_client_order_id_is_taken_again_once_its_order_is_filled() -> None:
    with venue_with() as venue:
        place(venue, "one")
        assert code_of(place(venue, "one")) == -4116
        venue.advance(close_ms(1))
        assert place(venue, "one").status == 200
        venue.advance(close_ms(2))
        (position,) = venue.request("GET", "/fapi/v3/positionRisk").document
        assert position["positionAmt"] == "2.000"  # what who re-sends an unknown order gets


# --- maintenance and clocks -------------------------------------------------------------------


def closed(first: int, last: int) -> FaultSettings:
    window = Maintenance(start=instant_of_ms(close_ms(first)), end=instant_of_ms(close_ms(last)))
    return FaultSettings(maintenance=(window,))


def test_during_maintenance_nothing_is_answered_and_nothing_trades() -> None:
    with venue_with(closed(1, 3)) as venue:
        rest(venue, "limit", price="12")
        place(venue, "one")
        assert venue.advance(close_ms(1)) == 2  # the bar opened before
        place(venue, "two")
        for number in (1, 2):
            venue.advance(close_ms(number))
            answer = place(venue, "three")
            assert (answer.status, code_of(answer)) == (503, -1001)
            assert "until 2024-01-01T00:20:00+00:00" in answer.document["msg"]
            assert venue.request("GET", "/sapi/v1/system/status").document["status"] == 1
        venue.advance(close_ms(3))
        assert n_orders(venue) == 2
        assert venue.request("GET", "/sapi/v1/system/status").document["status"] == 0


def test_an_order_that_waits_through_maintenance_trades_at_the_first_open_after_it() -> None:
    with venue_with(closed(0, 2)) as venue:
        venue.faults.change(FaultSettings())
        place(venue, "one")
        venue.faults.change(closed(0, 2))
        assert venue.advance(close_ms(2)) == 0
        assert venue.advance(close_ms(3)) == 1
        (trade,) = venue.request("GET", "/fapi/v1/userTrades", {"symbol": "AAAUSDT"}).document
        assert (trade["price"], trade["time"]) == ("13.00", close_ms(2))


@pytest.mark.parametrize("skew_ms", [-6_000, 6_000])
def test_a_client_must_set_its_clock_again_when_the_venues_has_leapt(skew_ms: int) -> None:
    with venue_with() as venue:
        stale_ms = venue.request("GET", "/fapi/v1/time").document["serverTime"]
        venue.faults.change(FaultSettings(clock_skew_ms=skew_ms))
        assert code_of(place(venue, "one", timestamp=stale_ms)) == -1021
        shown_ms = venue.request("GET", "/fapi/v1/time").document["serverTime"]
        assert shown_ms == stale_ms + skew_ms
        assert place(venue, "one", timestamp=shown_ms).status == 200


def test_a_small_skew_stays_inside_the_receive_window() -> None:
    with venue_with(FaultSettings(clock_skew_ms=4_000)) as venue:
        assert place(venue, "one", timestamp=venue.now_ms).status == 200
        assert code_of(place(venue, "two", timestamp=venue.now_ms, recvWindow=3_000)) == -1021


# --- the timer that withdraws everything ------------------------------------------------------


def countdown(venue: InProcessVenue, countdown_ms: int) -> Any:
    asked = {"symbol": "AAAUSDT", "countdownTime": countdown_ms}
    return venue.request("POST", "/fapi/v1/countdownCancelAll", asked).document


def status_of(venue: InProcessVenue, client_order_id: str) -> str:
    return str(find(venue, client_order_id).document["status"])


def test_the_timer_withdraws_every_open_order_of_its_symbol_when_it_has_run_out() -> None:
    with venue_with() as venue:
        rest(venue, "one")
        rest(venue, "two")
        assert countdown(venue, 5_000) == {"symbol": "AAAUSDT", "countdownTime": "5000"}
        inbox = venue.listen([Product.USDM])
        venue.wait_until(venue.now_ms + 4_999)
        assert status_of(venue, "one") == "NEW"
        venue.wait_until(venue.now_ms + 1)
        assert [status_of(venue, name) for name in ("one", "two")] == ["CANCELED"] * 2
        assert [event["o"]["X"] for event in inbox.take()] == ["CANCELED"] * 2
        rest(venue, "three")
        venue.advance(close_ms(1))
        assert status_of(venue, "three") == "NEW"  # it ran out once


def test_a_request_finds_what_a_timer_has_withdrawn_meanwhile() -> None:
    with venue_with() as venue:
        rest(venue, "one")
        countdown(venue, 5_000)
        venue.exchange.set_clock(venue.now_ms + 5_000)
        assert status_of(venue, "one") == "CANCELED"


def test_a_timer_is_set_again_or_stopped() -> None:
    with venue_with() as venue:
        rest(venue, "one")
        countdown(venue, 5_000)
        venue.wait_until(venue.now_ms + 4_000)
        countdown(venue, 5_000)
        venue.wait_until(venue.now_ms + 4_000)
        assert status_of(venue, "one") == "NEW"
        countdown(venue, 0)
        venue.advance(close_ms(1))
        assert status_of(venue, "one") == "NEW"


def test_a_bar_that_opened_before_the_timer_ran_out_has_traded() -> None:
    with venue_with() as venue:
        rest(venue, "rests", price="9")
        place(venue, "fills")
        countdown(venue, 310_000)  # ten seconds into the bar that closes next but one
        assert venue.advance(close_ms(5)) == 1
        assert [status_of(venue, name) for name in ("fills", "rests")] == ["FILLED", "CANCELED"]


def test_of_an_order_that_fills_bar_by_bar_the_timer_withdraws_the_rest() -> None:
    with venue_with(FaultSettings(partial_fill=1.0)) as venue:
        place(venue, "big", quantity="100")
        countdown(venue, 1)
        venue.advance(close_ms(9))
        order = find(venue, "big").document
        trades = venue.request("GET", "/fapi/v1/userTrades", {"symbol": "AAAUSDT"}).document
        assert (order["status"], len(trades)) == ("CANCELED", 1)


def test_a_timer_without_a_time_is_refused() -> None:
    with venue_with() as venue:
        answer = venue.request("POST", "/fapi/v1/countdownCancelAll", {"symbol": "AAAUSDT"})
        assert code_of(answer) == -1102


# --- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: orders(lost_answer=1.1),
        lambda: orders(lost_answer=float("nan")),
        lambda: FaultSettings(late_seconds=90.5),
        lambda: FaultSettings.model_validate({"orders": {"lost_anser": 0.1}}),
        lambda: FaultSettings.model_validate({"queries": {"reject": 0.1}}),
        lambda: closed(2, 2),
    ],
)
def test_settings_out_of_bounds_are_refused(make: Callable[[], FaultSettings]) -> None:
    with pytest.raises(ValidationError):
        make()


def test_of_two_closures_that_overlap_the_later_end_counts() -> None:
    at = instant_of_ms(T0)

    def window(start: int, end: int) -> Maintenance:
        return Maintenance(start=at + timedelta(hours=start), end=at + timedelta(hours=end))

    settings = FaultSettings(maintenance=(window(1, 3), window(2, 5)))

    def ends(hour: float) -> datetime | None:
        return settings.closed_until(at + timedelta(hours=hour))

    assert [ends(0.5), ends(5)] == [None, None]
    assert [ends(1), ends(2.5)] == [at + timedelta(hours=3), at + timedelta(hours=5)]


def test_the_venue_reads_its_faults_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = [{"start": "2024-01-01T04:00:00Z", "end": "2024-01-01T05:00:00Z"}]
    for name, value in {
        "VENUE_API_KEY": "k",
        "VENUE_API_SECRET": "s",
        "FAULTS__SEED": "11",
        "FAULTS__ORDERS__LOST_ANSWER": "0.25",
        "FAULTS__MAINTENANCE": json.dumps(windows),
    }.items():
        monkeypatch.setenv(f"MNT_{name}", value)
    faults = load_settings().faults
    assert (faults.seed, faults.orders.lost_answer) == (11, 0.25)
    assert [each.end_ms - each.start_ms for each in faults.maintenance] == [3_600_000]
    monkeypatch.setenv("MNT_FAULTS__ORDERS__LOST_ANSWER", "2")
    with pytest.raises(SettingsError, match="MNT_FAULTS__ORDERS__LOST_ANSWER: "):
        load_settings()


def test_a_route_that_the_venue_does_not_have_is_named() -> None:
    with venue_with() as venue, pytest.raises(ContractError, match="GET /fapi/v9/time"):
        venue.request("GET", "/fapi/v9/time")
