"""Rate limits of the paper venue: what a request weighs, when it is too much, and bans."""

from __future__ import annotations

from typing import Any

import pytest

from services.paper_exchange.limits import PATIENCE, of_klines
from shared.venues.faults import FaultSettings
from tests.in_process_venue import close_ms, find, n_orders, place, rest, venue_with

LIMITED = FaultSettings(enforce_limits=True, usdm_weight_per_minute=10)
SYMBOL = {"symbol": "AAAUSDT"}


def used(answer: Any) -> int:
    return int(answer.headers["X-MBX-USED-WEIGHT-1M"])


@pytest.mark.parametrize(
    ("limit", "weight"),
    [("1", 1), ("99", 1), ("100", 2), ("", 5), ("499", 2), ("500", 5), ("1000", 5), ("1500", 10)],
)
def test_bars_weigh_by_their_number(limit: str, weight: int) -> None:
    assert of_klines({"limit": limit}) == weight


def test_weights_add_up_within_a_minute_of_venue_time_and_for_each_product() -> None:
    with venue_with() as venue:
        weights: list[tuple[str, dict[str, Any], int]] = [
            ("/fapi/v1/time", {}, 1),
            ("/fapi/v1/openOrders", SYMBOL, 2),
            ("/fapi/v1/openOrders", {}, 42),
            ("/fapi/v1/income", {}, 72),
            ("/api/v3/account", {}, 20),
            ("/api/v3/order", {**SYMBOL, "orderId": 1}, 24),
        ]
        for path, asked, expected in weights:
            assert used(venue.request("GET", path, asked)) == expected
        venue.wait_until(close_ms(0) + 59_999)
        assert used(venue.request("GET", "/fapi/v1/time")) == 73
        venue.wait_until(close_ms(0) + 60_000)
        assert used(venue.request("GET", "/fapi/v1/time")) == 1


def test_new_orders_are_counted_in_windows_of_their_own_and_weigh_nothing() -> None:
    with venue_with() as venue:
        rest(venue, "one")
        venue.wait_until(close_ms(0) + 10_000)
        answer = rest(venue, "two")
        names = ("X-MBX-ORDER-COUNT-10S", "X-MBX-ORDER-COUNT-1M", "X-MBX-USED-WEIGHT-1M")
        assert [answer.headers[name] for name in names] == ["1", "2", "0"]


def test_nobody_is_refused_while_limits_are_not_enforced() -> None:
    with venue_with(FaultSettings(usdm_weight_per_minute=1)) as venue:
        statuses = {venue.request("GET", "/fapi/v1/income").status for _ in range(50)}
        assert statuses == {200}
        info = venue.request("GET", "/fapi/v1/exchangeInfo").document
        assert info["rateLimits"] == []


def test_too_much_is_refused_until_the_next_minute() -> None:
    with venue_with(LIMITED) as venue:
        venue.wait_until(close_ms(0) + 20_500)
        statuses = [venue.request("GET", "/fapi/v1/time").status for _ in range(11)]
        assert statuses == [200] * 10 + [429]
        answer = place(venue, "one")
        assert (answer.status, answer.document["code"]) == (429, -1003)
        assert answer.headers["Retry-After"] == "40"
        assert n_orders(venue) == 0
        assert venue.request("GET", "/api/v3/time").status == 200  # spot has limits of its own
        venue.wait_until(close_ms(0) + 60_000)
        assert venue.request("GET", "/fapi/v1/time").status == 200


def test_who_goes_on_is_banned_and_each_time_for_twice_as_long() -> None:
    bans = []
    with venue_with(LIMITED) as venue:
        for _ in range(3):
            for _ in range(10):
                assert venue.request("GET", "/fapi/v1/time").status == 200
            for _ in range(PATIENCE):
                assert venue.request("GET", "/fapi/v1/time").status == 429
            answer = find(venue, "one")
            assert (answer.status, answer.document["code"]) == (418, -1003)
            banned_seconds = int(answer.headers["Retry-After"])
            bans.append(banned_seconds)
            venue.wait_until(venue.now_ms + banned_seconds * 1_000 - 1)
            assert venue.request("GET", "/fapi/v1/time").status == 418
            venue.wait_until(venue.now_ms + 1)
    assert bans == [120, 240, 480]


def test_too_many_new_orders_are_refused_and_other_requests_are_not() -> None:
    with venue_with(FaultSettings(enforce_limits=True)) as venue:
        statuses = [rest(venue, f"o{number}").status for number in range(301)]
        assert statuses == [200] * 300 + [429]
        answer = rest(venue, "another")
        assert (answer.document["code"], answer.headers["Retry-After"]) == (-1015, "10")
        assert find(venue, "o0").status == 200
        venue.wait_until(close_ms(0) + 10_000)
        assert rest(venue, "another").status == 200


def test_limits_that_are_enforced_are_listed() -> None:
    with venue_with(LIMITED) as venue:
        listed = venue.request("GET", "/fapi/v1/exchangeInfo").document["rateLimits"]
        rows = [tuple(each.values()) for each in listed]
        assert rows == [
            ("REQUEST_WEIGHT", "MINUTE", 1, 10),
            ("ORDERS", "SECOND", 10, 300),
            ("ORDERS", "MINUTE", 1, 1_200),
        ]
        spot = venue.request("GET", "/api/v3/exchangeInfo").document["rateLimits"]
        assert [tuple(each.values()) for each in spot][2] == ("ORDERS", "DAY", 1, 200_000)


def test_a_request_that_cannot_be_read_is_counted_all_the_same() -> None:
    with venue_with() as venue:
        answer = venue.request("GET", "/fapi/v1/klines", {"symbol": "AAAUSDT", "limit": "x"})
        assert answer.status == 400
        assert used(answer) == 5
