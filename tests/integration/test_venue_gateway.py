"""What the gateway makes of answers that prove something, and of those that do not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal

import pytest
from aiohttp import web

from shared.book.orders import OrderState, Side
from shared.errors import (
    DataError,
    VenueError,
    VenueNotFoundError,
    VenueRejectedError,
    VenueUnknownError,
)
from shared.venues.gateway import VenueGateway
from shared.venues.paper_control import PaperControl
from tests.paper_venue import connected

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

FILTERS = [
    {"filterType": "PRICE_FILTER", "tickSize": "0.10", "minPrice": "1", "maxPrice": "9"},
    {"filterType": "LOT_SIZE", "stepSize": "0.001", "minQty": "0.001", "maxQty": "9"},
    {"filterType": "MARKET_LOT_SIZE", "stepSize": "0.001", "minQty": "0.001", "maxQty": "9"},
    {"filterType": "MIN_NOTIONAL", "notional": "100"},
]
LISTING = {
    "symbol": "BTCUSDT",
    "baseAsset": "BTC",
    "quoteAsset": "USDT",
    "marginAsset": "USDT",
    "contractType": "PERPETUAL",
    "status": "TRADING",
    "pricePrecision": 1,
    "quantityPrecision": 3,
    "filters": FILTERS,
}
ORDER = {
    "clientOrderId": "one",
    "orderId": 7,
    "status": "EXPIRED_IN_MATCH",
    "executedQty": "0.100",
}


@asynccontextmanager
async def venue(
    answer: Answer, listing: object = LISTING, page: str | None = None
) -> AsyncIterator[str]:
    """Serve a venue that answers every question about orders in one way.

    Asked what it lists, it shows a page, if one is given.
    """

    async def info(_: web.Request) -> web.Response:
        if page is not None:
            return web.Response(text=page, content_type="text/html")
        return web.json_response({"symbols": [listing]})

    async def time(_: web.Request) -> web.Response:
        return web.json_response({"serverTime": 1_700_000_000_000})

    app = web.Application()
    app.router.add_get("/fapi/v1/exchangeInfo", info)
    app.router.add_get("/fapi/v1/time", time)
    app.router.add_route("*", "/{rest:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def text(status: int, body: str, content_type: str = "application/json") -> Answer:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text=body, content_type=content_type)

    return answer


async def hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def break_off(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"orderId": 7')
    assert request.transport is not None
    request.transport.close()
    return response


async def submit(gateway: VenueGateway) -> object:
    return await gateway.submit_market_order("one", "BTC/USDT", Side.BUY, Decimal("0.1"))


@pytest.mark.parametrize(
    "answer",
    [
        hang_up,
        break_off,
        text(200, "<html>welcome</html>", "text/html"),
        text(200, ""),
        text(200, "null"),
        text(200, "[]"),
        text(200, "5"),
        text(200, "{}"),
        text(200, '{"orderId": 7, "clientOrderId": "another", "status": "NEW"}'),
        text(200, '{"orderId": 7, "clientOrderId": "one", "status": "MELTED"}'),
        text(200, '{"orderId": 7, "clientOrderId": "one", "status": "NEW", "executedQty": "?"}'),
        text(400, "<html>bad gateway in front</html>", "text/html"),
        text(401, "<html>who are you</html>", "text/html"),
        text(403, "<html>firewall</html>", "text/html"),
        text(404, "<html>nothing here</html>", "text/html"),
        text(408, '{"code": -1007, "msg": "Timeout waiting for response."}'),
        text(418, '{"code": -1003, "msg": "Way too much request weight used."}'),
        text(429, '{"code": -1003, "msg": "Too many requests."}'),
        text(400, '{"code": -1000, "msg": "An unknown error occurred."}'),
        text(400, '{"code": -1001, "msg": "Internal error."}'),
        text(400, '{"code": -1006, "msg": "Execution status unknown."}'),
        text(400, '{"code": -1008, "msg": "Server is currently overloaded."}'),
        text(400, '{"code": -1021, "msg": "Timestamp is outside of the recvWindow."}'),
        text(400, '{"code": -4116, "msg": "ClientOrderId is duplicated."}'),
        text(500, "oops", "text/plain"),
        text(503, '{"code": -4164, "msg": "a code that would prove something at 400"}'),
        text(503, "Unknown error, please check your request or try again later.", "text/plain"),
    ],
)
async def test_without_proof_an_order_is_unknown(answer: Answer) -> None:
    async with venue(answer) as url, connected(url) as gateway:
        with pytest.raises(VenueUnknownError):
            await submit(gateway)


@pytest.mark.parametrize(
    ("status", "body", "shown"),
    [
        (400, '{"code": -4164, "msg": "notional must be no smaller than 100"}', "-4164 notional"),
        (400, '{"code": -2019, "msg": "Margin is insufficient."}', "-2019 Margin"),
        (400, '{"code": -1111, "msg": "Precision is over the maximum."}', "-1111"),
        (401, '{"code": -2015, "msg": "Invalid API-key."}', "-2015"),
        (400, '{"code": -9999, "msg": "a refusal of next year"}', "-9999 a refusal"),
        (400, '{"code": -2010, "msg": "Market is closed."}', "Market is closed"),
    ],
)
async def test_a_code_of_the_venue_proves_that_nothing_was_placed(
    status: int, body: str, shown: str
) -> None:
    async with venue(text(status, body)) as url, connected(url) as gateway:
        with pytest.raises(VenueRejectedError, match=shown):
            await submit(gateway)


async def test_a_request_is_sent_once_whatever_the_answer() -> None:
    seen = []

    async def answer(request: web.Request) -> web.StreamResponse:
        seen.append(request.method)
        return await hang_up(request)

    async with venue(answer) as url, connected(url) as gateway:
        with pytest.raises(VenueUnknownError):
            await submit(gateway)
    assert seen == ["POST"]


async def test_states_of_the_venue_are_translated() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(ORDER)

    async with venue(answer) as url, connected(url) as gateway:
        found = await gateway.fetch_order("one", "BTC/USDT")
    assert (found.venue_order_id, found.state, found.filled) == (
        "7",
        OrderState.EXPIRED,
        Decimal("0.1"),
    )


async def test_the_units_of_a_real_listing_are_exact() -> None:
    async with venue(hang_up) as url, connected(url) as gateway:
        instrument = gateway.instruments()["BTC/USDT"]
    assert (instrument.price_decimals, instrument.lot_decimals) == (1, 3)
    assert (instrument.min_notional_e8, instrument.price_source) == (10_000_000_000, "perpetual")


async def test_a_dated_future_of_the_same_coins_is_left_out() -> None:
    dated = {**LISTING, "symbol": "BTCUSDT_250926", "contractType": "CURRENT_QUARTER"}
    async with venue(hang_up, dated) as url, connected(url) as gateway:
        assert gateway.instruments() == {}


async def test_a_page_in_place_of_the_listings_is_no_venue_without_markets() -> None:
    async with venue(hang_up, page="<html><body>Checking the weather.</body></html>") as url:
        with pytest.raises(VenueUnknownError, match="the venue listed none"):
            await VenueGateway.connect(url, "key", "secret")


async def test_a_symbol_listed_after_the_connection_is_learnt_when_it_is_held() -> None:
    listing = dict(LISTING)
    position = {
        "symbol": "ETHUSDT",
        "positionAmt": "0.5",
        "notional": "1",
        "unrealizedProfit": "0",
    }
    account = {"totalWalletBalance": "10", "positions": [position]}
    answer = text(200, json.dumps(account))
    async with venue(answer, listing) as url, connected(url) as gateway:
        listing |= {"symbol": "ETHUSDT", "baseAsset": "ETH"}
        assert (await gateway.fetch_account()).positions == {"ETH/USDT": Decimal("0.5")}


async def test_a_step_that_is_no_power_of_ten_is_refused() -> None:
    coarse = {"filterType": "PRICE_FILTER", "tickSize": "0.05", "minPrice": "1", "maxPrice": "9"}
    async with venue(hang_up, {**LISTING, "filters": [coarse, *FILTERS[1:]]}) as url:
        with pytest.raises(DataError, match=r"BTCUSDT has a step of 0\.05"):
            await VenueGateway.connect(url, "key", "secret")


async def test_more_fills_than_one_answer_holds_are_not_passed_off_as_all() -> None:
    fill = {"id": 1, "price": "1", "qty": "1", "commission": "0", "time": 1}

    async def answer(_: web.Request) -> web.Response:
        return web.json_response([fill] * 1000)

    async with venue(answer) as url, connected(url) as gateway:
        with pytest.raises(VenueUnknownError, match="fewer than 1000"):
            await gateway.fetch_fills("7", "BTC/USDT")


async def test_fills_come_in_the_order_of_their_ids() -> None:
    def fill(number: int) -> dict[str, object]:
        return {"id": number, "price": "1.5", "qty": "2", "commission": "0.01", "time": number}

    async def answer(_: web.Request) -> web.Response:
        return web.json_response([fill(3), fill(1), fill(2)])

    async with venue(answer) as url, connected(url) as gateway:
        fills = await gateway.fetch_fills("7", "BTC/USDT")
    assert [each.trade_id for each in fills] == [1, 2, 3]


async def test_a_venue_that_is_not_there_is_unknown_and_leaves_nothing_open() -> None:
    async with venue(hang_up) as url:
        pass
    with pytest.raises(VenueUnknownError, match="load the markets"):
        await VenueGateway.connect(url, "key", "secret")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (text(401, "{}"), VenueRejectedError),
        (text(200, "<html>", "text/html"), VenueUnknownError),
        (text(200, "{}"), VenueUnknownError),
        (text(200, "not json"), VenueUnknownError),
        (text(503, "{}"), VenueUnknownError),
        (hang_up, VenueUnknownError),
    ],
)
async def test_an_advance_is_known_to_have_happened_or_is_not(
    answer: Answer, expected: type[VenueError]
) -> None:
    async with venue(answer) as url:
        control = PaperControl(url, "token")
        with pytest.raises(expected, match="for close 1704067500000"):
            await control.advance(1_704_067_500_000)
        await control.close()


async def test_a_question_is_asked_again_after_the_clocks_have_parted() -> None:
    codes = [-1021, -2013]

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"code": codes.pop(0), "msg": ""}, status=400)

    async with venue(answer) as url, connected(url) as gateway:
        with pytest.raises(VenueNotFoundError):
            await gateway.fetch_order("one", "BTC/USDT")
    assert codes == []
