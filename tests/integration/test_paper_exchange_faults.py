"""The faulty paper venue over sockets: as unmodified ccxt sees it, and its control."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import ccxt.pro
import pytest
from ccxt.base import errors

from services.paper_exchange.faults import Family, Faults
from shared.book.orders import OrderState, Side
from shared.clock import instant_of_ms
from shared.errors import VenueNotFoundError, VenueRejectedError, VenueUnknownError
from shared.venues.faults import (
    FaultSettings,
    Maintenance,
    OrderFaults,
    RequestFaults,
    StreamFaults,
)
from tests.paper_venue import (
    TOKEN,
    RawClient,
    ccxt_client,
    close_ms,
    connected,
    controlled,
    raw_client,
    serving,
    settings_in,
)
from tests.support import eventually_async

SYMBOL = "AAA/USDT:USDT"
Kind = Callable[[dict[str, Any]], Any]
# All but a ban, whose end is a matter of time.
EVERYTHING = FaultSettings(
    orders=OrderFaults(**{**dict.fromkeys(OrderFaults.model_fields, 0.08), "ban": 0.0}),
    late_seconds=0.001,
)


@pytest.mark.parametrize(
    ("fault", "error", "is_placed"),
    [
        ("disconnect", errors.NetworkError, False),
        ("lost_answer", errors.NetworkError, True),
        ("rate_limit", errors.DDoSProtection, False),
        ("ban", errors.DDoSProtection, False),
        # ccxt knows the codes of USD-M by the address of Binance, which is not this one.
        ("reject", errors.ExchangeError, False),
        ("min_notional", errors.ExchangeError, False),
    ],
)
async def test_ccxt_sees_a_fault_in_its_own_classes(
    tmp_path: Path, fault: str, error: type[Exception], is_placed: bool
) -> None:
    async with (
        serving(settings_in(tmp_path)) as url,
        controlled(url) as control,
        ccxt_client(ccxt.pro.binanceusdm, url) as client,
    ):
        await control.advance(close_ms(2))
        await client.load_time_difference()
        await client.load_markets()
        await control.set_faults(FaultSettings(orders=OrderFaults(**{fault: 1.0})))
        with pytest.raises(error):
            await client.create_order(SYMBOL, "market", "buy", 1, None, {"clientOrderId": "one"})
        assert await control.injected() == {f"orders.{fault}": 1}
        await control.set_faults(FaultSettings())
        if fault == "ban":  # it outlasts the settings
            with pytest.raises(errors.DDoSProtection, match="418"):
                await client.fetch_open_orders(SYMBOL)
            await control.advance(close_ms(3))
            await client.load_time_difference()
        assert len(await client.fetch_orders(SYMBOL)) == is_placed


async def test_the_gateway_calls_unknown_what_proves_nothing(tmp_path: Path) -> None:
    kinds = ("server_error", "html", "lost_answer", "disconnect", "rate_limit", "ban")
    async with (
        serving(settings_in(tmp_path)) as url,
        controlled(url) as control,
        connected(url) as gateway,
    ):
        await control.advance(close_ms(2))
        await gateway.synchronise()
        for kind in kinds:
            faults = FaultSettings(orders=OrderFaults(**{kind: 1.0}), ban_seconds=1)
            # A page with status 403 is a refusal; the first requests of this seed are none.
            await control.set_faults(faults.model_copy(update={"seed": 1}))
            with pytest.raises(VenueUnknownError):
                await gateway.submit_market_order(kind, "AAA/USDT", Side.BUY, Decimal(1))


async def test_a_late_answer_is_a_timeout_to_who_waits_less(tmp_path: Path) -> None:
    async with (
        serving(settings_in(tmp_path)) as url,
        controlled(url) as control,
        ccxt_client(ccxt.pro.binanceusdm, url) as client,
    ):
        await control.advance(close_ms(2))
        await client.load_time_difference()
        await client.load_markets()
        client.timeout = 200
        await control.set_faults(FaultSettings(orders=OrderFaults(late_answer=1.0)))
        with pytest.raises(errors.RequestTimeout):
            await client.create_order(SYMBOL, "market", "buy", 1, None, {"clientOrderId": "one"})
        client.timeout = 10_000
        (order,) = await client.fetch_open_orders(SYMBOL)
        assert order["clientOrderId"] == "one"


async def test_a_late_answer_takes_venue_time(tmp_path: Path) -> None:
    settings = FaultSettings(seed=2, market=RequestFaults(late_answer=1.0), late_seconds=0.3)
    late_ms = Faults(settings).of_request(Family.MARKET, "GET /fapi/v1/time").late_ms
    async with (
        serving(settings_in(tmp_path)) as url,
        raw_client(url) as client,
        controlled(url) as control,
    ):
        await control.set_faults(settings)
        _, before = await client.get("/fapi/v1/time")
        _, after = await client.get("/fapi/v1/time")
        # The second was asked when the first had come; each tells when it was asked.
        assert after["serverTime"] - before["serverTime"] >= late_ms - 1 > 100


async def test_an_order_that_cannot_be_queried_yet_is_not_found_and_then_is(
    tmp_path: Path,
) -> None:
    async with (
        serving(settings_in(tmp_path)) as url,
        controlled(url) as control,
        connected(url) as gateway,
    ):
        await control.advance(close_ms(2))
        await gateway.synchronise()
        await control.set_faults(FaultSettings(invisible_order=1.0, invisible_seconds=60))
        await gateway.submit_market_order("one", "AAA/USDT", Side.BUY, Decimal(1))
        with pytest.raises(VenueNotFoundError):
            await gateway.fetch_order("one", "AAA/USDT")
        await control.advance(close_ms(3))
        await gateway.synchronise()
        assert (await gateway.fetch_order("one", "AAA/USDT")).state is OrderState.FILLED


async def test_ccxt_reads_the_weight_and_sets_the_timer(tmp_path: Path) -> None:
    async with (
        serving(settings_in(tmp_path)) as url,
        controlled(url) as control,
        ccxt_client(ccxt.pro.binanceusdm, url) as client,
    ):
        await control.advance(close_ms(2))
        await client.load_time_difference()
        await client.load_markets()
        await client.create_order(SYMBOL, "limit", "buy", 1, 50)
        assert client.last_response_headers["X-MBX-ORDER-COUNT-1M"] == "1"
        asked = {"symbol": "AAAUSDT", "countdownTime": 1_000}
        answer = await client.fapiPrivatePostCountdownCancelAll(asked)
        assert answer == {"symbol": "AAAUSDT", "countdownTime": "1000"}
        assert int(client.last_response_headers["X-MBX-USED-WEIGHT-1M"]) >= 10
        await control.advance(close_ms(3))
        await client.load_time_difference()
        (order,) = await client.fetch_orders(SYMBOL)
        assert order["status"] == "canceled"


async def test_a_timer_survives_a_restart(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    order = {
        "symbol": "AAAUSDT",
        "side": "BUY",
        "type": "LIMIT",
        "quantity": "1",
        "price": "50",
        "timeInForce": "GTC",
        "newClientOrderId": "one",
    }
    async with serving(settings) as url, controlled(url) as control, raw_client(url) as client:
        await control.advance(close_ms(2))
        await client.send("POST", "/fapi/v1/order", order)
        timer = {"symbol": "AAAUSDT", "countdownTime": 250_000}
        assert (await client.send("POST", "/fapi/v1/countdownCancelAll", timer))[0] == 200
    async with serving(settings) as url, controlled(url) as control, raw_client(url) as client:
        asked = {"symbol": "AAAUSDT", "origClientOrderId": "one"}
        _, found = await client.send("GET", "/fapi/v1/order", asked)
        assert found["status"] == "NEW"
        await control.advance(close_ms(3))
        _, found = await client.send("GET", "/fapi/v1/order", asked)
        assert found["status"] == "CANCELED"


async def test_ccxt_sees_maintenance(tmp_path: Path) -> None:
    window = Maintenance(start=instant_of_ms(close_ms(1)), end=instant_of_ms(close_ms(3)))
    settings = settings_in(tmp_path).model_copy(
        update={"faults": FaultSettings(maintenance=(window,))}
    )
    async with (
        serving(settings) as url,
        controlled(url) as control,
        ccxt_client(ccxt.pro.binance, url) as client,
    ):
        await control.advance(close_ms(2))
        assert (await client.fetch_status())["status"] == "maintenance"
        with pytest.raises(errors.OperationFailed, match="closed for maintenance"):
            await client.load_markets()
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
                await session.ws_connect(f"{url}/ws/aaausdt@miniTicker")
        await control.advance(close_ms(3))
        assert (await client.fetch_status())["status"] == "ok"
        assert "AAA/USDT" in await client.load_markets()


# --- streams ----------------------------------------------------------------------------------


async def tickers(url: str, faults: FaultSettings, n_expected: int) -> list[int]:
    """Return which closes a listener hears of, in order."""
    async with controlled(url) as control, aiohttp.ClientSession() as session:
        await control.advance(close_ms(0))
        async with session.ws_connect(f"{url}/ws/aaausdt@miniTicker") as socket:
            await socket.receive()  # what is now
            await control.set_faults(faults)
            for number in (1, 2, 3):
                await control.advance(close_ms(number))
            told = [json.loads((await socket.receive()).data) for _ in range(n_expected)]
            return [int(float(event["c"]) - 100.5) for event in told]


@pytest.mark.parametrize(
    ("kind", "expected"), [("duplicate", [1, 1, 2, 2, 3, 3]), ("reorder", [2, 1, 3])]
)
async def test_messages_come_twice_or_out_of_order(
    tmp_path: Path, kind: str, expected: list[int]
) -> None:
    faults = FaultSettings(streams=StreamFaults(**{kind: 1.0}))
    async with serving(settings_in(tmp_path)) as url:
        assert await tickers(url, faults, len(expected)) == expected


async def test_a_websocket_is_cut_and_ccxt_connects_again(tmp_path: Path) -> None:
    async with (
        serving(settings_in(tmp_path)) as url,
        controlled(url) as control,
        ccxt_client(ccxt.pro.binanceusdm, url) as client,
    ):
        await control.advance(close_ms(0))
        await client.load_markets()
        assert (await client.watch_ticker(SYMBOL))["last"] == 100.5
        await control.set_faults(FaultSettings(streams=StreamFaults(disconnect=1.0)))
        watching = asyncio.create_task(client.watch_ticker(SYMBOL))
        await asyncio.sleep(0)
        await control.advance(close_ms(1))
        with pytest.raises(errors.NetworkError):
            await watching
        await control.set_faults(FaultSettings())
        assert (await client.watch_ticker(SYMBOL))["last"] == 101.5


# --- control ----------------------------------------------------------------------------------


async def session_of(home: Path, seed: int) -> list[int]:
    """Return the statuses of a session, 0 where no answer came and -1 where it was a page."""
    async with (
        serving(settings_in(home)) as url,
        controlled(url) as control,
        raw_client(url) as client,
    ):
        await control.advance(close_ms(0))
        await control.set_faults(EVERYTHING.model_copy(update={"seed": seed}))
        return [await status_of(client) for _ in range(60)]


async def status_of(client: RawClient) -> int:
    order = {"symbol": "AAAUSDT", "side": "BUY", "type": "MARKET", "quantity": "1"}
    try:
        status, _ = await client.send("POST", "/fapi/v1/order", order)
    except aiohttp.ContentTypeError:
        return -1
    except aiohttp.ClientError:
        return 0
    return status


async def test_the_same_seed_makes_the_same_faults_over_sockets(tmp_path: Path) -> None:
    homes = [tmp_path / name for name in ("one", "two", "three")]
    for home in homes:
        home.mkdir()
    first = await session_of(homes[0], 5)
    assert await session_of(homes[1], 5) == first
    assert await session_of(homes[2], 6) != first
    assert {0, -1, 200, 400, 429} <= set(first)


async def test_faults_are_set_by_the_bearer_of_the_token_alone(tmp_path: Path) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with serving(settings_in(tmp_path)) as url, raw_client(url) as client:
        for method in ("GET", "PUT"):
            status, answer = await client.request(method, "/paper/faults", data=b"{}")
            assert (status, answer["code"]) == (401, -2015)
        status, answer = await client.request(
            "PUT", "/paper/faults", data=b'{"orders": {"lost_answer": 2}}', headers=headers
        )
        assert (status, answer["code"]) == (400, -1135)
        assert "orders.lost_answer: Input should be less than or equal to 1" in answer["msg"]
        status, answer = await client.request("PUT", "/paper/faults", data=b"x", headers=headers)
        assert (status, answer["code"]) == (400, -1135)
        _, shown = await client.request("GET", "/paper/faults", headers=headers)
        assert FaultSettings.model_validate(shown["settings"]) == FaultSettings()


async def test_a_wrong_token_is_a_rejection(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as url, controlled(url) as control:
        control._headers = {"Authorization": "Bearer wrong"}
        with pytest.raises(VenueRejectedError, match="answered 401"):
            await control.set_faults(FaultSettings())


async def test_faults_are_counted_for_prometheus(tmp_path: Path) -> None:
    faults = FaultSettings(market=RequestFaults(disconnect=1.0))
    settings = settings_in(tmp_path).model_copy(update={"faults": faults})
    async with serving(settings) as url, raw_client(url) as client:
        before = await struck(client)
        with pytest.raises(aiohttp.ClientError):
            await client.get("/fapi/v1/time")

        async def is_counted() -> bool:
            return await struck(client) >= before + 1

        await eventually_async(is_counted)
        _, health = await client.get("/health")  # what is no route of Binance's stays well
        assert health["healthy"]


async def struck(client: RawClient) -> float:
    name = 'mnt_paper_exchange_faults_total{family="market",fault="disconnect"} '
    lines = (await client.text("/metrics")).splitlines()
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))
