"""The paper venue's websockets as any client may use or misuse them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType
from pydantic import SecretStr

from services.paper_exchange import streams
from services.paper_exchange.authentication import Credentials
from services.paper_exchange.matching import Product
from tests.paper_venue import (
    KEY,
    SECRET,
    RawClient,
    close_ms,
    controlled,
    open_ms,
    raw_client,
    serving,
    settings_in,
)
from tests.support import eventually_async

CREDENTIALS = Credentials(SecretStr(KEY), SecretStr(SECRET))
ORDER = {"symbol": "AAAUSDT", "side": "BUY", "type": "MARKET", "quantity": "1"}


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    """A venue that stands at the close of bar 1."""
    async with serving(settings_in(tmp_path)) as address, controlled(address) as control:
        await control.advance(close_ms(1))
        yield address


@asynccontextmanager
async def socket_to(address: str, **options: Any) -> AsyncIterator[ClientWebSocketResponse]:
    async with ClientSession() as session, session.ws_connect(address, **options) as socket:
        yield socket


async def said(socket: ClientWebSocketResponse) -> Any:
    return await asyncio.wait_for(socket.receive_json(), 20)


async def has_streams(url: str, n: int) -> None:
    """Wait until somebody listens to so many streams."""
    async with raw_client(url) as raw:

        async def is_so() -> bool:
            return bool((await raw.get("/status"))[1]["streams"] == n)

        await eventually_async(is_so)


# --- public streams ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["ws", "market/ws", "public/ws", "private/ws", "stream/ws"])
async def test_a_stream_named_in_the_address_is_heard_at_once(url: str, path: str) -> None:
    async with socket_to(f"{url}/{path}/aaausdt@kline_15m") as socket:
        event = await said(socket)
        assert (event["e"], event["s"]) == ("kline", "AAAUSDT")
        bar = event["k"]
        assert (bar["t"], bar["T"], bar["i"], bar["x"]) == (
            open_ms(0),
            open_ms(3) - 1,
            "15m",
            False,
        )
        assert (bar["o"], bar["c"], bar["v"]) == ("100.0", "101.5", "2000.0")


async def test_combined_streams_name_what_they_carry(url: str) -> None:
    names = ["aaausdt@kline_5m", "bbbusdt@miniTicker", "!ticker@arr", "aaausdt@markPrice@1s"]
    async with socket_to(f"{url}/stream?streams={'/'.join(names)}") as socket:
        heard = [await said(socket) for _ in names]
        assert [each["stream"] for each in heard] == names
        kline, mini, every, mark = (each["data"] for each in heard)
        assert kline["k"]["c"] == "101.5"
        assert (mini["e"], mini["c"], mini["o"]) == ("24hrMiniTicker", "5010.5", "5000.0")
        assert [each["s"] for each in every] == ["AAAUSDT", "BBBUSDT"]
        assert (mark["e"], mark["p"], mark["r"]) == ("markPriceUpdate", "101.5", "0.00010000")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", 3),
        ("[]", 2),
        ("7", 2),
        ('{"id": {}}', 2),
        ('{"method": "DANCE", "id": 1}', 2),
        ('{"method": "SUBSCRIBE", "id": 1}', 2),
        ('{"method": "SUBSCRIBE", "params": "x", "id": 1}', 2),
        ('{"method": "SUBSCRIBE", "params": [{}], "id": 1}', 2),
        ('{"method": "SUBSCRIBE", "params": [' + '"x",' * 1_100 + '"x"], "id": 1}', 2),
    ],
)
async def test_what_makes_no_sense_is_answered_and_harms_nothing(
    url: str, text: str, code: int
) -> None:
    async with socket_to(f"{url}/ws") as socket:
        await socket.send_str(text)
        assert (await said(socket))["error"]["code"] == code
        await socket.send_json({"method": "SUBSCRIBE", "params": ["aaausdt@kline_5m"], "id": 2})
        assert await said(socket) == {"result": None, "id": 2}
        assert (await said(socket))["e"] == "kline"


@pytest.mark.parametrize(
    "name",
    [
        "nonsense",
        "cccusdt@kline_5m",
        "aaausdt@kline_7m",
        "aaausdt@kline",
        "aaausdt@depth",
        "!x@arr",
    ],
)
async def test_an_unknown_stream_is_silent_as_at_binance(url: str, name: str) -> None:
    async with socket_to(f"{url}/ws") as socket, controlled(url) as control:
        names = [name, "bbbusdt@kline_5m"]
        await socket.send_json({"method": "SUBSCRIBE", "params": names, "id": 1})
        assert (await said(socket))["id"] == 1
        await control.advance(close_ms(2))
        assert {(await said(socket))["s"] for _ in range(3)} == {"BBBUSDT"}


async def test_a_reader_that_answers_no_ping_is_let_go(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.1)
    async with socket_to(f"{url}/ws/aaausdt@kline_5m", autoping=False):
        await has_streams(url, 1)
        await has_streams(url, 0)


async def test_open_sockets_do_not_hold_up_the_end(tmp_path: Path) -> None:
    async with ClientSession() as session:
        async with serving(settings_in(tmp_path)) as url:
            socket = await session.ws_connect(f"{url}/ws/aaausdt@kline_5m")
            await has_streams(url, 1)
        goodbye = await asyncio.wait_for(socket.receive(), 20)
        while goodbye.type is WSMsgType.TEXT:
            goodbye = await asyncio.wait_for(socket.receive(), 20)
        assert (goodbye.type, goodbye.data) == (WSMsgType.CLOSE, 1001)


# --- the account's streams --------------------------------------------------------------------


async def listen_key(raw: RawClient, path: str) -> str:
    status, answer = await raw.request("POST", path)
    assert status == 200
    return str(answer["listenKey"])


async def test_a_listen_key_needs_the_accounts_key_and_stays_the_same(url: str) -> None:
    async with raw_client(url) as raw:
        usdm = await listen_key(raw, "/fapi/v1/listenKey")
        spot = await listen_key(raw, "/api/v3/userDataStream")
        assert (
            usdm
            == await listen_key(raw, "/fapi/v1/listenKey")
            == CREDENTIALS.listen_key(Product.USDM)
        )
        assert spot != usdm
        for method in ("POST", "PUT", "DELETE"):
            assert (await raw.request(method, "/fapi/v1/listenKey", None))[0] == 401
            assert (await raw.request(method, "/fapi/v1/listenKey", "another"))[0] == 401
            assert (await raw.request(method, "/fapi/v1/listenKey"))[0] == 200


@pytest.mark.parametrize(
    "place", ["ws/{key}", "private/ws?listenKey={key}", "stream?streams={key}"]
)
async def test_the_usdm_account_is_heard_by_its_listen_key(url: str, place: str) -> None:
    async with raw_client(url) as raw, controlled(url) as control:
        key = await listen_key(raw, "/fapi/v1/listenKey")
        async with socket_to(f"{url}/{place.format(key=key)}") as socket:
            await has_streams(url, 1)
            await raw.send("POST", "/fapi/v1/order", {**ORDER, "newClientOrderId": "one"})
            await control.advance(close_ms(2))
            heard = [await said(socket) for _ in range(3)]
        events = [each.get("data", each) for each in heard]
        assert [each["e"] for each in events] == [
            "ORDER_TRADE_UPDATE",
            "ACCOUNT_UPDATE",
            "ORDER_TRADE_UPDATE",
        ]
        new, account, traded = events
        assert (new["o"]["x"], new["o"]["X"], new["o"]["c"]) == ("NEW", "NEW", "one")
        assert (account["a"]["m"], account["a"]["P"][0]["pa"]) == ("ORDER", "1.000")
        order = traded["o"]
        assert (order["x"], order["X"], order["l"], order["t"]) == ("TRADE", "FILLED", "1.000", 1)
        _, (trade,) = await raw.send("GET", "/fapi/v1/userTrades", {"symbol": "AAAUSDT"})
        assert (order["L"], order["n"], order["T"]) == (
            trade["price"],
            trade["commission"],
            trade["time"],
        )
        _, wallet = await raw.send("GET", "/fapi/v3/account", {})
        assert account["a"]["B"][0]["wb"] == wallet["totalWalletBalance"]


async def test_without_the_listen_key_nothing_is_heard_of_the_account(url: str) -> None:
    async with (
        socket_to(f"{url}/private/ws?listenKey={'0' * 63}x") as socket,
        raw_client(url) as raw,
        controlled(url) as control,
    ):
        await has_streams(url, 1)
        await raw.send("POST", "/fapi/v1/order", ORDER)
        await control.advance(close_ms(2))
        await socket.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 1})
        assert (await said(socket))["id"] == 1


def signed(params: dict[str, Any], secret: str = SECRET) -> dict[str, Any]:
    text = "&".join(f"{name}={params[name]}" for name in sorted(params))
    signer = Credentials(SecretStr(KEY), SecretStr(secret))
    return {**params, "signature": signer.sign(text)}


async def test_the_spot_account_is_heard_on_the_websocket_api(url: str) -> None:
    async with (
        socket_to(f"{url}/ws-api/v3") as socket,
        raw_client(url) as raw,
        controlled(url) as control,
    ):
        _, clock = await raw.get("/api/v3/time")
        params = signed({"apiKey": KEY, "timestamp": clock["serverTime"]})
        subscribe = {"id": "s", "method": "userDataStream.subscribe.signature", "params": params}
        await socket.send_json(subscribe)
        assert await said(socket) == {"id": "s", "status": 200, "result": {"subscriptionId": 0}}
        await raw.send("POST", "/api/v3/order", ORDER)
        await control.advance(close_ms(2))
        heard = [(await said(socket))["event"] for _ in range(4)]
        assert [each["e"] for each in heard] == 2 * ["executionReport", "outboundAccountPosition"]
        report, position = heard[2:]
        assert (report["x"], report["X"], report["z"]) == ("TRADE", "FILLED", "1.000")
        assert [each["a"] for each in position["B"]] == ["USDT", "AAA"]
        await socket.send_json({"id": 7, "method": "userDataStream.unsubscribe"})
        assert await said(socket) == {"id": 7, "status": 200, "result": {}}


async def test_who_cannot_sign_is_refused_on_the_websocket_api(url: str) -> None:
    async with socket_to(f"{url}/ws-api/v3") as socket, raw_client(url) as raw:
        _, clock = await raw.get("/api/v3/time")
        good = {"apiKey": KEY, "timestamp": clock["serverTime"]}
        for params, code in (
            (None, -2014),
            ({}, -2014),
            (signed({**good, "apiKey": "another"}), -2015),
            (signed(good, "another"), -1022),
            ({**signed(good), "timestamp": good["timestamp"] + 1}, -1022),
            (signed({**good, "timestamp": good["timestamp"] - 60_000}), -1021),
            (good, -1102),
        ):
            method = "userDataStream.subscribe.signature"
            await socket.send_json({"id": 1, "method": method, "params": params})
            answer = await said(socket)
            assert answer["status"] in (400, 401)
            assert answer["error"]["code"] == code
        for text in ("{", "[]", '{"id": 1, "method": "order.place"}'):
            await socket.send_str(text)
            assert "error" in await said(socket)
    await has_streams(url, 0)
