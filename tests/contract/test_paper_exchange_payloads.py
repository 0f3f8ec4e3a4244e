"""The paper venue's answers have the fields of Binance USD-M futures, and their types.

The fields are those of the venue's documentation of each route. A client may read any of
them, so none may be missing; two more in a listing are ours.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.paper_venue import (
    TOKEN,
    RawClient,
    close_ms,
    controlled,
    raw_client,
    serving,
    settings_in,
)


def fields(names: str) -> frozenset[str]:
    return frozenset(names.split())


ORDER = fields(
    """
    avgPrice clientOrderId closePosition cumQuote executedQty goodTillDate orderId origQty
    origType positionSide price priceMatch priceProtect reduceOnly selfTradePreventionMode
    side status stopPrice symbol time timeInForce type updateTime workingType
    """
)
PLACED = (ORDER - {"time"}) | {"cumQty"}
TRADE = fields(
    """
    buyer commission commissionAsset id maker orderId positionSide price qty quoteQty
    realizedPnl side symbol time
    """
)
SYMBOL = fields(
    """
    baseAsset baseAssetPrecision contractType deliveryDate filters liquidationFee
    marginAsset marketTakeBound maintMarginPercent onboardDate orderTypes pair
    pricePrecision quantityPrecision quoteAsset quotePrecision requiredMarginPercent
    settlePlan status symbol timeInForce triggerProtect underlyingSubType underlyingType
    """
)
ACCOUNT = fields(
    """
    assets availableBalance maxWithdrawAmount positions totalCrossUnPnl
    totalCrossWalletBalance totalInitialMargin totalMaintMargin totalMarginBalance
    totalOpenOrderInitialMargin totalPositionInitialMargin totalUnrealizedProfit
    totalWalletBalance
    """
)
ACCOUNT_POSITION = fields(
    """
    initialMargin isolatedWallet maintMargin notional positionAmt positionSide symbol
    unrealizedProfit updateTime
    """
)
BALANCE = fields(
    """
    accountAlias asset availableBalance balance crossUnPnl crossWalletBalance
    marginAvailable maxWithdrawAmount updateTime
    """
)
POSITION_RISK = fields(
    """
    adl breakEvenPrice entryPrice initialMargin isolatedMargin isolatedWallet
    liquidationPrice maintMargin marginAsset markPrice notional openOrderInitialMargin
    positionAmt positionInitialMargin positionSide symbol unRealizedProfit updateTime
    """
)
DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?")
AMOUNTS = fields(
    """
    avgPrice commission cumQuote cumQty entryPrice executedQty markPrice notional origQty
    positionAmt price qty quoteQty realizedPnl unRealizedProfit walletBalance balance
    totalWalletBalance availableBalance
    """
)


def assert_has(payload: dict[str, Any], expected: frozenset[str]) -> None:
    """Check that fields are there, amounts are decimal strings, and nothing is a float."""
    assert expected <= payload.keys()
    for name, value in payload.items():
        assert not isinstance(value, float), name
        if name in AMOUNTS:
            assert isinstance(value, str), name
            assert DECIMAL.fullmatch(value), (name, value)


@pytest.fixture
async def traded(tmp_path: Path) -> AsyncIterator[RawClient]:
    """A venue with one filled order, one working order and a position."""
    async with (
        serving(settings_in(tmp_path)) as url,
        controlled(url) as control,
        raw_client(url) as raw,
    ):
        await control.advance(close_ms(0))
        for client_order_id, number in (("filled", 1), ("working", 2)):
            order = {
                "symbol": "AAAUSDT",
                "side": "SELL",
                "type": "MARKET",
                "quantity": "3",
                "newClientOrderId": client_order_id,
            }
            status, placed = await raw.send("POST", "/fapi/v1/order", order)
            assert status == 200
            assert_has(placed, PLACED)
            if number == 1:
                await control.advance(close_ms(number))
        yield raw


async def test_orders(traded: RawClient) -> None:
    asked = {"symbol": "AAAUSDT", "origClientOrderId": "filled"}
    _, found = await traded.send("GET", "/fapi/v1/order", asked)
    assert_has(found, ORDER)
    assert (found["status"], found["side"], found["type"]) == ("FILLED", "SELL", "MARKET")
    _, by_id = await traded.send(
        "GET", "/fapi/v1/order", {"symbol": "AAAUSDT", "orderId": found["orderId"]}
    )
    assert by_id == found
    _, (working,) = await traded.send("GET", "/fapi/v1/openOrders", {})
    assert_has(working, ORDER)
    assert (working["status"], working["clientOrderId"]) == ("NEW", "working")
    _, other = await traded.send("GET", "/fapi/v1/openOrders", {"symbol": "BBBUSDT"})
    assert other == []
    cancel = {"symbol": "AAAUSDT", "origClientOrderId": "working"}
    _, cancelled = await traded.send("DELETE", "/fapi/v1/order", cancel)
    assert_has(cancelled, PLACED)
    assert cancelled["status"] == "CANCELED"


async def test_trades(traded: RawClient) -> None:
    _, (trade,) = await traded.send("GET", "/fapi/v1/userTrades", {"symbol": "AAAUSDT"})
    assert_has(trade, TRADE)
    _, none = await traded.send(
        "GET", "/fapi/v1/userTrades", {"symbol": "AAAUSDT", "orderId": trade["orderId"] + 1}
    )
    assert none == []


async def test_the_account_in_both_versions(traded: RawClient) -> None:
    _, brief = await traded.send("GET", "/fapi/v3/account", {})
    assert_has(brief, ACCOUNT)
    (position,) = brief["positions"]
    assert_has(position, ACCOUNT_POSITION)
    assert position["positionAmt"] == "-3.000"
    _, full = await traded.send("GET", "/fapi/v2/account", {})
    assert [each["symbol"] for each in full["positions"]] == ["AAAUSDT", "BBBUSDT"]
    for version in (2, 3):
        _, (balance,) = await traded.send("GET", f"/fapi/v{version}/balance", {})
        assert_has(balance, BALANCE)
        assert balance["balance"] == brief["totalWalletBalance"]


async def test_positions_with_their_marks(traded: RawClient) -> None:
    _, (position,) = await traded.send("GET", "/fapi/v3/positionRisk", {})
    assert_has(position, POSITION_RISK)
    # sold at 101 less a hundredth of a percent, marked at 101.5
    assert (position["entryPrice"], position["markPrice"]) == ("100.99000000", "101.500")
    assert position["unRealizedProfit"] == "-1.53000000"
    _, every = await traded.send("GET", "/fapi/v2/positionRisk", {})
    assert len(every) == 2


async def test_listings(traded: RawClient) -> None:
    status, info = await traded.get("/fapi/v1/exchangeInfo")
    assert status == 200
    for listing in info["symbols"]:
        assert_has(listing, SYMBOL | {"recordedSymbol", "priceSource"})
        filters = {each["filterType"]: each for each in listing["filters"]}
        assert filters["PRICE_FILTER"].keys() == {
            "filterType",
            "minPrice",
            "maxPrice",
            "tickSize",
        }
        for name in ("LOT_SIZE", "MARKET_LOT_SIZE"):
            assert filters[name].keys() == {"filterType", "minQty", "maxQty", "stepSize"}
        assert filters["MIN_NOTIONAL"] == {
            "filterType": "MIN_NOTIONAL",
            "notional": "5.00000000",
        }


async def test_public_answers(traded: RawClient) -> None:
    assert await traded.get("/fapi/v1/ping") == (200, {})
    status, clock = await traded.get("/fapi/v1/time")
    assert status == 200
    assert clock.keys() == {"serverTime"}


async def test_an_unknown_route_is_answered_with_those_that_exist(traded: RawClient) -> None:
    for method, path in (("GET", "/fapi/v1/moon"), ("PUT", "/fapi/v1/order")):
        status, answer = await traded.request(method, path)
        assert (status, answer["code"]) == (404, -5000)
        assert f"Path {path}, Method {method} is invalid" in answer["msg"]
        assert {"POST /fapi/v1/order", "POST /paper/advance"} <= set(answer["routes"])


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"symbol": None}, -1102),
        ({"symbol": "AAA/USDT"}, -1121),
        ({"side": None}, -1102),
        ({"side": "HOLD"}, -1117),
        ({"type": None}, -1102),
        ({"type": "LIMIT"}, -1102),
        ({"type": "STOP_MARKET"}, -1116),
        ({"quantity": None}, -1102),
        ({"quantity": "much"}, -1100),
        ({"quantity": "1e3"}, -1100),
        ({"quantity": "\N{ARABIC-INDIC DIGIT ONE}"}, -1100),
        ({"quantity": "NaN"}, -1100),
        ({"quantity": "0.000"}, -4003),
        ({"quantity": "-1"}, -4003),
        ({"quantity": "1.0001"}, -1111),
        ({"quantity": "10000000000"}, -4005),
        ({"quantity": "0.049"}, -4164),
        ({"price": "100"}, -1106),
        ({"timeInForce": "GTC"}, -1106),
        ({"positionSide": "LONG"}, -4061),
        ({"reduceOnly": "perhaps"}, -1100),
        ({"reduceOnly": "true"}, -2022),
        ({"newClientOrderId": "x" * 37}, -4015),
        ({"newClientOrderId": "a b"}, -4015),
        ({"newClientOrderId": "working"}, -4116),
    ],
)
async def test_refusals_of_an_order(
    traded: RawClient, parameters: dict[str, str | None], code: int
) -> None:
    order: dict[str, str | None] = {
        "symbol": "AAAUSDT",
        "side": "SELL",
        "type": "MARKET",
        "quantity": "1",
    }
    status, answer = await traded.send("POST", "/fapi/v1/order", {**order, **parameters})
    assert (status, answer["code"]) == (400, code)
    assert answer.keys() == {"code", "msg"}


@pytest.mark.parametrize(
    ("method", "path", "parameters", "code"),
    [
        ("GET", "/fapi/v1/order", {"symbol": "AAAUSDT", "orderId": "99"}, -2013),
        ("GET", "/fapi/v1/order", {"symbol": "BBBUSDT", "origClientOrderId": "filled"}, -2013),
        ("GET", "/fapi/v1/order", {"symbol": "AAAUSDT"}, -1102),
        ("GET", "/fapi/v1/order", {"symbol": "AAAUSDT", "orderId": "one"}, -1100),
        ("DELETE", "/fapi/v1/order", {"symbol": "AAAUSDT", "origClientOrderId": "filled"}, -2011),
        ("GET", "/fapi/v1/userTrades", {}, -1102),
        ("GET", "/fapi/v1/userTrades", {"symbol": "AAAUSDT", "limit": "all"}, -1100),
        ("GET", "/fapi/v3/positionRisk", {"symbol": "NONE"}, -1121),
    ],
)
async def test_refusals_of_a_question(
    traded: RawClient, method: str, path: str, parameters: dict[str, str], code: int
) -> None:
    status, answer = await traded.send(method, path, parameters)
    assert (status, answer["code"]) == (400, code)


async def test_all_open_orders_of_a_symbol_are_cancelled_at_once(traded: RawClient) -> None:
    _, answer = await traded.send("DELETE", "/fapi/v1/allOpenOrders", {"symbol": "AAAUSDT"})
    assert answer["code"] == 200
    assert await traded.send("GET", "/fapi/v1/openOrders", {}) == (200, [])


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"\xff", 400),
        (b"[]", 400),
        (b"[" * 60_000, 400),
        (b"{", 400),
        (b'{"closes_at_ms": "soon"}', 400),
        (b'{"closes_at_ms": true}', 400),
        (b'{"closes_at_ms": 1.5}', 400),
        (b'{"closes_at_ms": -1}', 400),
        (b'{"closes_at_ms": 1e400}', 400),
        (b'{"closes_at_ms": 99999999999999999999}', 400),
        (b"x" * 100_000, 413),
    ],
)
async def test_malformed_control_is_refused_and_harms_nothing(
    tmp_path: Path, body: bytes, status: int
) -> None:
    async with serving(settings_in(tmp_path)) as url, raw_client(url) as raw:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answered, answer = await raw.request("POST", "/paper/advance", data=body, headers=headers)
        assert (answered, answer.keys()) == (status, {"code", "msg"})
        assert (await raw.get("/health"))[0] == 200


@pytest.mark.parametrize(
    "query",
    [
        "symbol=%FF%FE",
        "symbol=AAAUSDT&symbol=BBBUSDT",
        "&".join(f"p{i}=1" for i in range(100)),
        "symbol=%00",
        "=&=&=",
        "timestamp=1704067200000&signature=%F0%9F%92%A3",
    ],
)
async def test_malformed_requests_are_refused_and_harm_nothing(
    traded: RawClient, query: str
) -> None:
    for method in ("GET", "POST", "DELETE"):
        status, answer = await traded.request(method, f"/fapi/v1/order?{query}")
        assert (status, answer.keys()) == (400, {"code", "msg"})
    assert (await traded.get("/health"))[0] == 200


async def test_metrics_name_the_routes_and_not_what_was_asked(traded: RawClient) -> None:
    await traded.request("GET", "/fapi/v1/moon")
    text = await traded.text("/metrics")
    assert 'mnt_paper_exchange_orders_total{side="sell"}' in text
    assert 'route="/fapi/v1/order",status="200"' in text
    assert 'method="any",route="unknown"' in text
    assert "mnt_paper_exchange_open_orders 1.0" in text
    assert "moon" not in text
