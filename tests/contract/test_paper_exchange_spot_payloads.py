"""The paper venue's answers on spot, and its public and account answers that are new on USD-M.

The fields are those of Binance's documentation of each route.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.paper_venue import (
    RawClient,
    close_ms,
    controlled,
    open_ms,
    raw_client,
    serving,
    settings_in,
)

DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?")


def fields(names: str) -> frozenset[str]:
    return frozenset(names.split())


ORDER = fields(
    """
    clientOrderId cummulativeQuoteQty executedQty icebergQty isWorking orderId orderListId
    origQty origQuoteOrderQty price selfTradePreventionMode side status stopPrice symbol time
    timeInForce type updateTime workingTime
    """
)
PLACED = (ORDER - {"icebergQty", "isWorking", "stopPrice", "time", "updateTime"}) | {
    "fills",
    "transactTime",
}
CANCELLED = (PLACED - {"fills"}) | {"origClientOrderId"}
TRADE = fields(
    """
    commission commissionAsset id isBestMatch isBuyer isMaker orderId orderListId price qty
    quoteQty symbol time
    """
)
ACCOUNT = fields(
    """
    accountType balances brokered buyerCommission canDeposit canTrade canWithdraw
    commissionRates makerCommission permissions preventSor requireSelfTradePrevention
    sellerCommission takerCommission updateTime
    """
)
SYMBOL = fields(
    """
    allowTrailingStop allowedSelfTradePreventionModes baseAsset baseAssetPrecision
    baseCommissionPrecision cancelReplaceAllowed defaultSelfTradePreventionMode filters
    icebergAllowed isMarginTradingAllowed isSpotTradingAllowed ocoAllowed orderTypes
    otoAllowed permissionSets permissions quoteAsset quoteAssetPrecision
    quoteCommissionPrecision quoteOrderQtyMarketAllowed quotePrecision status symbol
    """
)
TICKER = fields(
    """
    closeTime count firstId highPrice lastId lastPrice lastQty lowPrice openPrice openTime
    priceChange priceChangePercent quoteVolume symbol volume weightedAvgPrice
    """
)
PREMIUM = fields(
    """
    estimatedSettlePrice indexPrice interestRate lastFundingRate markPrice nextFundingTime
    symbol time
    """
)
INCOME = fields("asset income incomeType info symbol time tradeId tranId")


def assert_has(payload: dict[str, Any], expected: frozenset[str]) -> None:
    """Check that fields are there and that nothing is a float."""
    assert expected <= payload.keys()
    assert not [name for name, value in payload.items() if isinstance(value, float)]


@pytest.fixture
async def traded(tmp_path: Path) -> AsyncIterator[RawClient]:
    """A venue with coins bought on spot and one sale that rests."""
    async with (
        serving(settings_in(tmp_path)) as url,
        controlled(url) as control,
        raw_client(url) as raw,
    ):
        await control.advance(close_ms(1))
        bought = {"symbol": "AAAUSDT", "side": "BUY", "type": "MARKET", "quantity": "3"}
        status, placed = await raw.send(
            "POST", "/api/v3/order", {**bought, "newClientOrderId": "bought"}
        )
        assert status == 200
        assert_has(placed, PLACED)
        await control.advance(close_ms(2))
        status, placed = await raw.send(
            "POST",
            "/api/v3/order",
            {
                "symbol": "AAAUSDT",
                "side": "SELL",
                "type": "LIMIT",
                "timeInForce": "GTC",
                "quantity": "2",
                "price": "150.5",
                "newClientOrderId": "resting",
            },
        )
        assert status == 200
        yield raw


async def test_orders(traded: RawClient) -> None:
    asked = {"symbol": "AAAUSDT", "origClientOrderId": "bought"}
    _, found = await traded.send("GET", "/api/v3/order", asked)
    assert_has(found, ORDER)
    assert (found["status"], found["type"], found["executedQty"]) == ("FILLED", "MARKET", "3.000")
    _, (resting,) = await traded.send("GET", "/api/v3/openOrders", {"symbol": "AAAUSDT"})
    assert_has(resting, ORDER)
    assert (resting["price"], resting["timeInForce"]) == ("150.500", "GTC")
    _, every = await traded.send("GET", "/api/v3/allOrders", {"symbol": "AAAUSDT"})
    assert every == [found, resting]
    _, after = await traded.send(
        "GET", "/api/v3/allOrders", {"symbol": "AAAUSDT", "orderId": resting["orderId"]}
    )
    assert after == [resting]
    _, (cancelled,) = await traded.send("DELETE", "/api/v3/openOrders", {"symbol": "AAAUSDT"})
    assert_has(cancelled, CANCELLED)
    assert (cancelled["status"], cancelled["origClientOrderId"]) == ("CANCELED", "resting")
    status, again = await traded.send("DELETE", "/api/v3/openOrders", {"symbol": "AAAUSDT"})
    assert (status, again["code"]) == (400, -2011)


async def test_trades_and_balances(traded: RawClient) -> None:
    _, (trade,) = await traded.send("GET", "/api/v3/myTrades", {"symbol": "AAAUSDT"})
    assert_has(trade, TRADE)
    assert (trade["isBuyer"], trade["isMaker"], trade["commissionAsset"]) == (True, False, "USDT")
    _, account = await traded.send("GET", "/api/v3/account", {})
    assert_has(account, ACCOUNT)
    quote, base = account["balances"]
    assert base == {"asset": "AAA", "free": "1.000", "locked": "2.000"}
    assert quote["asset"] == "USDT"
    spent = float(trade["quoteQty"]) + float(trade["commission"])
    assert float(quote["free"]) == pytest.approx(100_000 - spent, abs=1e-8)
    _, fees = await traded.send("GET", "/sapi/v1/asset/tradeFee", {"symbol": "AAAUSDT"})
    assert fees == [{"symbol": "AAAUSDT", "makerCommission": "0.0005", "takerCommission": "0.0005"}]


async def test_listings_and_their_filters(traded: RawClient) -> None:
    _, info = await traded.get("/api/v3/exchangeInfo")
    for listing in info["symbols"]:
        assert_has(listing, SYMBOL | {"recordedSymbol", "priceSource"})
        filters = {each["filterType"]: each for each in listing["filters"]}
        assert filters.keys() == {"PRICE_FILTER", "LOT_SIZE", "MARKET_LOT_SIZE", "NOTIONAL"}
        assert filters["NOTIONAL"]["minNotional"] == "5.00000000"


@pytest.mark.parametrize("prefix", ["/fapi/v1", "/api/v3"])
async def test_public_answers(traded: RawClient, prefix: str) -> None:
    assert await traded.get(f"{prefix}/ping") == (200, {})
    _, ticker = await traded.get(f"{prefix}/ticker/24hr?symbol=AAAUSDT")
    assert_has(ticker, TICKER)
    _, prices = await traded.get(f"{prefix}/ticker/price")
    assert [(each["symbol"], each["price"]) for each in prices] == [
        ("AAAUSDT", "102.5"),
        ("BBBUSDT", "5020.5"),
    ]
    _, rows = await traded.get(f"{prefix}/klines?symbol=AAAUSDT&interval=5m&limit=2")
    ended, forming = rows
    assert ended == [
        *(open_ms(2), "102.0", "102.5", "102.0", "102.5", "1000.0"),
        *(close_ms(2) - 1, "102250.00000000", 0, "0", "0", "0"),
    ]
    assert forming[0] == close_ms(2)


async def test_funding_and_marks(traded: RawClient) -> None:
    _, premium = await traded.get("/fapi/v1/premiumIndex?symbol=AAAUSDT")
    assert_has(premium, PREMIUM)
    assert DECIMAL.fullmatch(premium["lastFundingRate"])
    _, info = await traded.get("/fapi/v1/fundingInfo")
    assert [each["fundingIntervalHours"] for each in info] == [8, 8]
    _, past = await traded.get("/fapi/v1/fundingRate?symbol=AAAUSDT")
    assert past == []  # the first bar opened at midnight and none has closed then


async def test_income(traded: RawClient) -> None:
    sold = {"symbol": "AAAUSDT", "side": "SELL", "type": "MARKET", "quantity": "1"}
    assert (await traded.send("POST", "/fapi/v1/order", sold))[0] == 200
    assert await traded.send("GET", "/fapi/v1/income", {}) == (200, [])
    status, refused = await traded.send("GET", "/fapi/v1/income", {"incomeType": "GIFT"})
    assert (status, refused["code"]) == (400, -1100)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("klines?interval=5m", -1102),
        ("klines?symbol=AAAUSDT", -1102),
        ("klines?symbol=NONE&interval=5m", -1121),
        ("klines?symbol=AAAUSDT&interval=1m", -1120),
        ("klines?symbol=AAAUSDT&interval=5m&limit=0", -1130),
        ("klines?symbol=AAAUSDT&interval=5m&limit=ten", -1100),
        ("klines?symbol=AAAUSDT&interval=5m&startTime=-1", -1100),
        ("ticker/24hr?symbol=NONE", -1121),
        ("ticker/price?symbol=AAAUSDT&symbol=BBBUSDT", -1101),
    ],
)
@pytest.mark.parametrize("prefix", ["/fapi/v1", "/api/v3"])
async def test_refusals_of_a_public_question(
    traded: RawClient, prefix: str, path: str, code: int
) -> None:
    status, answer = await traded.get(f"{prefix}/{path}")
    assert (status, answer["code"]) == (400, code)


LIMIT = {"type": "LIMIT", "timeInForce": "GTC", "price": "90"}


@pytest.mark.parametrize(
    ("parameters", "code", "words"),
    [
        ({"symbol": None}, -1102, "symbol"),
        ({"symbol": "NONE"}, -1121, "symbol"),
        ({"side": "HOLD"}, -1117, "side"),
        ({"type": "STOP_LOSS"}, -1116, "orderType"),
        ({"price": "90"}, -1106, "price"),
        ({"quantity": None}, -1102, "quoteOrderQty"),
        ({"quoteOrderQty": "10"}, -1128, "Combination"),
        ({"quantity": None, "quoteOrderQty": "1"}, -1013, "NOTIONAL"),
        ({"quantity": None, "quoteOrderQty": "0.0001"}, -1013, "NOTIONAL"),
        ({"quantity": "0"}, -1013, "quantity"),
        ({"quantity": "1.0001"}, -1013, "LOT_SIZE"),
        ({"quantity": "10000000000"}, -1013, "MARKET_LOT_SIZE"),
        ({"quantity": "0.048"}, -1013, "NOTIONAL"),
        ({"quantity": "1000"}, -2010, "insufficient balance"),
        ({"side": "SELL", "quantity": "1.001"}, -2010, "insufficient balance"),
        ({"symbol": "BBBUSDT", "side": "SELL"}, -2010, "insufficient balance"),
        ({**LIMIT, "timeInForce": None}, -1102, "timeInForce"),
        ({**LIMIT, "timeInForce": "GTX"}, -1115, "timeInForce"),
        ({**LIMIT, "price": None}, -1102, "price"),
        ({**LIMIT, "price": "0"}, -1013, "price"),
        ({**LIMIT, "price": "90.0001"}, -1013, "PRICE_FILTER"),
        ({**LIMIT, "quoteOrderQty": "5"}, -1106, "quoteOrderQty"),
        ({**LIMIT, "type": "LIMIT_MAKER", "timeInForce": None, "price": "103"}, -2010, "match"),
        ({"newClientOrderId": "a b"}, -1100, "Client order id"),
        (
            {**LIMIT, "side": "SELL", "price": "200", "newClientOrderId": "resting"},
            -2010,
            "Duplicate",
        ),
    ],
)
async def test_refusals_of_a_spot_order(
    traded: RawClient, parameters: dict[str, str | None], code: int, words: str
) -> None:
    order: dict[str, str | None] = {
        "symbol": "AAAUSDT",
        "side": "BUY",
        "type": "MARKET",
        "quantity": "1",
    }
    status, answer = await traded.send("POST", "/api/v3/order", {**order, **parameters})
    assert (status, answer["code"]) == (400, code)
    assert words in answer["msg"]


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"timeInForce": None}, -1102),
        ({"timeInForce": "DAY"}, -1115),
        ({"price": None}, -1102),
        ({"price": "0"}, -4001),
        ({"price": "-3"}, -4001),
        ({"price": "90.0001"}, -4014),
        ({"price": "10000000000"}, -4002),
        ({"price": "much"}, -1100),
        ({"quantity": "0.05", "price": "90"}, -4164),
        ({"stopPrice": "80"}, -1106),
        ({"timeInForce": "GTX", "price": "102.5"}, -5022),
        ({"timeInForce": "GTX", "side": "SELL", "price": "102.5"}, -5022),
    ],
)
async def test_refusals_of_a_usdm_limit_order(
    traded: RawClient, parameters: dict[str, str | None], code: int
) -> None:
    order: dict[str, str | None] = {"symbol": "AAAUSDT", "side": "BUY", "quantity": "1", **LIMIT}
    status, answer = await traded.send("POST", "/fapi/v1/order", {**order, **parameters})
    assert (status, answer["code"]) == (400, code)


@pytest.mark.parametrize(
    ("path", "parameters", "code"),
    [
        ("leverage", {"symbol": "AAAUSDT"}, -1102),
        ("leverage", {"symbol": "AAAUSDT", "leverage": "20"}, -4028),
        ("marginType", {"symbol": "AAAUSDT", "marginType": "ISOLATED"}, -4055),
        ("marginType", {"symbol": "NONE", "marginType": "CROSSED"}, -1121),
        ("multiAssetsMargin", {"multiAssetsMargin": "true"}, -4171),
        ("positionSide/dual", {"dualSidePosition": "true"}, -4067),
    ],
)
async def test_refusals_of_another_way_to_trade(
    traded: RawClient, path: str, parameters: dict[str, str], code: int
) -> None:
    status, answer = await traded.send("POST", f"/fapi/v1/{path}", parameters)
    assert (status, answer["code"]) == (400, code)
