"""The paper venue through unmodified ccxt and ccxt.pro, spot and USD-M; only URLs are rewritten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import ccxt.pro
import pytest
from aiohttp import ClientSession
from ccxt.base.errors import (
    BadRequest,
    ExchangeError,
    InsufficientFunds,
    InvalidOrder,
    OrderNotFound,
)

from shared.book.execution import FillTerms
from shared.venues.settings import MarketSettings
from tests.paper_venue import (
    BAR_MS,
    RecordedBar,
    ccxt_client,
    close_ms,
    controlled,
    moving_in,
    open_ms,
    raw_client,
    serving,
    settings_in,
)
from tests.support import eventually_async

SPOT, USDM = ccxt.pro.binance, ccxt.pro.binanceusdm
SYMBOLS = {SPOT: "AAA/USDT", USDM: "AAA/USDT:USDT"}
BOTH = pytest.mark.parametrize("kind", [SPOT, USDM])
Kind = Callable[[dict[str, Any]], Any]


# --- the market -------------------------------------------------------------------------------


async def test_both_products_are_listed_with_default_options(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as url, ccxt_client(SPOT, url) as client:
        markets = await client.load_markets()
        assert sorted(markets) == ["AAA/USDT", "AAA/USDT:USDT", "BBB/USDT", "BBB/USDT:USDT"]
        spot = markets["AAA/USDT"]
        assert (spot["spot"], spot["active"], spot["limits"]["cost"]["min"]) == (True, True, 5.0)
        assert (spot["precision"]["amount"], spot["precision"]["price"]) == (0.001, 0.001)


@BOTH
async def test_bars_are_fetched_as_at_binance(tmp_path: Path, kind: Kind) -> None:
    symbol = SYMBOLS[kind]
    async with (
        serving(settings_in(tmp_path)) as url,
        controlled(url) as control,
        ccxt_client(kind, url) as client,
    ):
        await control.advance(close_ms(3))
        bars = await client.fetch_ohlcv(symbol, "5m")
        assert bars[:4] == [
            [open_ms(i), 100.0 + i, 100.5 + i, 100.0 + i, 100.5 + i, 1000.0] for i in range(4)
        ]
        assert bars[4:] == [[open_ms(4), 103.5, 103.5, 103.5, 103.5, 0.0]]  # it forms
        assert await client.fetch_ohlcv(symbol, "5m", since=open_ms(1), limit=2) == bars[1:3]
        until = {"until": open_ms(2)}
        assert await client.fetch_ohlcv(symbol, "5m", params=until) == bars[:3]
        quarter, forming = await client.fetch_ohlcv(symbol, "15m")
        assert quarter == [open_ms(0), 100.0, 102.5, 100.0, 102.5, 3000.0]
        assert forming == [open_ms(3), 103.0, 103.5, 103.0, 103.5, 1000.0]
        with pytest.raises(BadRequest, match="-1120"):
            await client.fetch_ohlcv(symbol, "1m")
        assert (await client.fetch_time()) - close_ms(3) < 60_000


async def test_tickers_and_funding_are_told(tmp_path: Path) -> None:
    async with (
        serving(settings_in(tmp_path)) as url,
        controlled(url) as control,
        ccxt_client(USDM, url) as client,
    ):
        await control.advance(close_ms(3))
        symbol = SYMBOLS[USDM]
        ticker = await client.fetch_ticker(symbol)
        assert (ticker["last"], ticker["open"], ticker["baseVolume"]) == (103.5, 100.0, 4000.0)
        assert sorted(await client.fetch_tickers()) == [symbol, "BBB/USDT:USDT"]
        assert (await client.fetch_last_prices())[symbol]["price"] == 103.5
        funding = await client.fetch_funding_rate(symbol)
        assert (funding["fundingRate"], funding["markPrice"]) == (0.0001, 103.5)
        assert funding["fundingTimestamp"] == open_ms(0) + 8 * 3_600_000
        assert (await client.fetch_funding_intervals())[symbol]["interval"] == "8h"


@asynccontextmanager
async def collecting(watch: Callable[[], Awaitable[Any]]) -> AsyncIterator[list[Any]]:
    """Yield what a watching client has been told so far; it watches all the time."""
    told: list[Any] = []

    async def listen() -> None:
        while True:
            told.append(await watch())

    task = asyncio.create_task(listen())
    try:
        yield told
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


# --- streams ----------------------------------------------------------------------------------


@BOTH
async def test_bars_are_watched_close_by_close(tmp_path: Path, kind: Kind) -> None:
    symbol = SYMBOLS[kind]
    async with (
        serving(settings_in(tmp_path)) as url,
        controlled(url) as control,
        ccxt_client(kind, url) as client,
    ):
        await control.advance(close_ms(1))
        await client.load_markets()
        async with collecting(lambda: client.watch_ohlcv(symbol, "5m")) as told:

            async def seen() -> dict[int, list[Any]]:
                return {bar[0]: bar for bars in told for bar in bars}

            async def has_begun(number: int) -> bool:
                return open_ms(number) in await seen()

            await eventually_async(lambda: has_begun(2))
            assert told == [[[open_ms(2), 101.5, 101.5, 101.5, 101.5, 0.0]]]
            for number in range(2, 6):
                await control.advance(close_ms(number))
            await eventually_async(lambda: has_begun(6))
            fetched = await client.fetch_ohlcv(symbol, "5m", since=open_ms(2))
            assert [bar for _, bar in sorted((await seen()).items())] == fetched


async def test_several_symbols_and_timeframes_are_watched_at_once(tmp_path: Path) -> None:
    pairs = [["AAA/USDT:USDT", "5m"], ["BBB/USDT:USDT", "15m"]]
    async with (
        serving(settings_in(tmp_path)) as url,
        controlled(url) as control,
        ccxt_client(USDM, url) as client,
    ):
        await control.advance(close_ms(1))
        await client.load_markets()
        async with collecting(lambda: client.watch_ohlcv_for_symbols(pairs)) as told:

            async def seen() -> dict[tuple[str, str, int], list[Any]]:
                return {
                    (symbol, timeframe, bar[0]): bar
                    for each in told
                    for symbol, by_timeframe in each.items()
                    for timeframe, bars in by_timeframe.items()
                    for bar in bars
                }

            async def is_seen(*keys: tuple[str, str, int]) -> bool:
                return set(keys) <= (await seen()).keys()

            five, fifteen = ("AAA/USDT:USDT", "5m"), ("BBB/USDT:USDT", "15m")
            await eventually_async(lambda: is_seen((*five, open_ms(2)), (*fifteen, open_ms(0))))
            await control.advance(close_ms(2))
            await eventually_async(lambda: is_seen((*five, open_ms(3)), (*fifteen, open_ms(3))))
            quarter = (await seen())[(*fifteen, open_ms(0))]
            assert quarter == [open_ms(0), 5000.0, 5020.5, 5000.0, 5020.5, 3000.0]


async def test_tickers_and_marks_are_watched(tmp_path: Path) -> None:
    async with (
        serving(settings_in(tmp_path)) as url,
        controlled(url) as control,
        ccxt_client(USDM, url) as client,
    ):
        await control.advance(close_ms(1))
        assert (await client.watch_ticker("AAA/USDT:USDT"))["last"] == 101.5
        assert sorted(await client.watch_tickers()) == ["AAA/USDT:USDT", "BBB/USDT:USDT"]
        assert (await client.watch_mark_price("AAA/USDT:USDT"))["markPrice"] == 101.5


async def test_a_market_that_moves_by_itself_is_followed_without_a_gap(tmp_path: Path) -> None:
    market = MarketSettings(speed=3_000.0, history_days=2)
    symbol = "ASH/USDT:USDT"
    async with serving(moving_in(tmp_path, market)) as url, ccxt_client(USDM, url) as client:
        await client.load_markets()
        async with collecting(lambda: client.watch_ohlcv(symbol, "5m")) as told:

            async def is_enough() -> bool:
                return len({bar[0] for bars in told for bar in bars}) >= 12

            await eventually_async(is_enough)
        seen = {bar[0]: bar for bars in told for bar in bars}
        seen.pop(max(seen))  # still forms
        assert sorted(seen) == list(range(min(seen), max(seen) + 1, BAR_MS))
        fetched = await client.fetch_ohlcv(symbol, "5m", since=min(seen), limit=len(seen))
        assert fetched == [seen[at] for at in sorted(seen)]
        assert len(await client.fetch_ohlcv(symbol, "1h", limit=1000)) >= 48  # the history


async def test_a_stream_that_is_no_longer_wanted_falls_silent(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as url, controlled(url) as control:
        await control.advance(close_ms(1))
        async with ClientSession() as session, session.ws_connect(f"{url}/ws") as socket:
            streams = ["aaausdt@kline_5m", "bbbusdt@kline_5m"]
            await socket.send_json({"method": "SUBSCRIBE", "params": streams, "id": 1})
            assert await socket.receive_json() == {"result": None, "id": 1}
            assert {(await socket.receive_json())["s"] for _ in streams} == {"AAAUSDT", "BBBUSDT"}
            await socket.send_json({"method": "UNSUBSCRIBE", "params": streams[:1], "id": 2})
            assert await socket.receive_json() == {"result": None, "id": 2}
            await socket.send_json({"method": "LIST_SUBSCRIPTIONS", "id": "three"})
            assert await socket.receive_json() == {"result": streams[1:], "id": "three"}
            await control.advance(close_ms(2))
            ended, forming = [await socket.receive_json() for _ in range(2)]
            assert (ended["s"], ended["k"]["x"], ended["k"]["T"]) == (
                "BBBUSDT",
                True,
                open_ms(3) - 1,
            )
            assert (forming["s"], forming["k"]["x"], forming["k"]["t"]) == (
                "BBBUSDT",
                False,
                open_ms(3),
            )


# --- orders -----------------------------------------------------------------------------------

NO_SLIPPAGE = FillTerms(fee_ppm=500, slippage_ppm=0)


@asynccontextmanager
async def trading(
    tmp_path: Path, kind: Kind, terms: FillTerms = NO_SLIPPAGE
) -> AsyncIterator[tuple[Any, Callable[[int], Awaitable[None]]]]:
    """Yield a client at the close of bar 1, and how to move on to the close of a later bar."""
    async with (
        serving(settings_in(tmp_path, terms=terms)) as url,
        controlled(url) as control,
        ccxt_client(kind, url) as client,
    ):

        async def move_to(number: int) -> None:
            await control.advance(close_ms(number))
            await client.load_time_difference()

        await client.load_markets()
        await move_to(1)
        yield client, move_to


@BOTH
async def test_a_market_order_lives_its_life(tmp_path: Path, kind: Kind) -> None:
    symbol = SYMBOLS[kind]
    async with trading(tmp_path, kind) as (client, move_to):
        placed = await client.create_order(
            symbol, "market", "buy", 2, None, {"newClientOrderId": "mine"}
        )
        assert (placed["status"], placed["clientOrderId"]) == ("open", "mine")
        (waiting,) = await client.fetch_open_orders(symbol)
        assert (waiting["id"], waiting["type"], waiting["amount"]) == (placed["id"], "market", 2)
        await move_to(2)
        filled = await client.fetch_order(placed["id"], symbol)
        assert (filled["status"], filled["filled"], filled["average"]) == ("closed", 2, 102)
        assert await client.fetch_open_orders(symbol) == []
        (trade,) = await client.fetch_my_trades(symbol)
        assert (trade["order"], trade["price"], trade["amount"]) == (placed["id"], 102, 2)
        assert (trade["takerOrMaker"], trade["fee"]["cost"]) == ("taker", 0.102)
        assert trade["fee"]["currency"] == "USDT"
        assert [each["id"] for each in await client.fetch_orders(symbol)] == [placed["id"]]


@BOTH
async def test_a_limit_order_rests_and_fills_as_maker(tmp_path: Path, kind: Kind) -> None:
    symbol = SYMBOLS[kind]
    async with trading(tmp_path, kind) as (client, move_to):
        # Bars only rise here: a sale above the market is reached by bar 4, which opens at 104.
        if kind is SPOT:
            await client.create_order(symbol, "market", "buy", 3)
            await move_to(2)
        placed = await client.create_order(symbol, "limit", "sell", 1, 104.2)
        assert (placed["type"], placed["price"], placed["timeInForce"]) == ("limit", 104.2, "GTC")
        await move_to(3)
        assert (await client.fetch_order(placed["id"], symbol))["status"] == "open"
        await move_to(4)
        filled = await client.fetch_order(placed["id"], symbol)
        assert (filled["status"], filled["average"]) == ("closed", 104.2)
        assert (await client.fetch_my_trades(symbol))[-1]["takerOrMaker"] == "maker"


@BOTH
async def test_a_resting_order_is_withdrawn(tmp_path: Path, kind: Kind) -> None:
    symbol = SYMBOLS[kind]
    async with trading(tmp_path, kind) as (client, _):
        one = await client.create_order(symbol, "limit", "buy", 1, 50)
        two = await client.create_order(symbol, "limit", "buy", 1, 51, {"postOnly": True})
        assert two["postOnly"] is True
        gone = await client.cancel_order(one["id"], symbol)
        assert (gone["id"], gone["status"]) == (one["id"], "canceled")
        await client.cancel_all_orders(symbol)
        assert await client.fetch_open_orders(symbol) == []
        with pytest.raises(OrderNotFound):
            await client.cancel_order(one["id"], symbol)
        with pytest.raises(OrderNotFound):
            await client.fetch_order("999", symbol)


@BOTH
async def test_orders_that_would_break_a_rule_are_refused_in_ccxts_own_classes(
    tmp_path: Path, kind: Kind
) -> None:
    symbol = SYMBOLS[kind]
    async with trading(tmp_path, kind) as (client, _):
        with pytest.raises(InvalidOrder):
            await client.create_order(symbol, "limit", "buy", 1, 101.6, {"postOnly": True})
        with pytest.raises(ExchangeError, match=r"(?i)notional"):
            await client.create_order(symbol, "market", "buy", 0.01)  # about one USDT
        if kind is SPOT:
            with pytest.raises(InsufficientFunds):
                await client.create_order(symbol, "market", "sell", 1)
            with pytest.raises(InsufficientFunds):
                await client.create_order(symbol, "limit", "buy", 1_001, 100)


async def test_the_spot_wallet_holds_what_was_bought_and_locks_what_is_offered(
    tmp_path: Path,
) -> None:
    async with trading(tmp_path, SPOT) as (client, move_to):
        await client.create_market_buy_order_with_cost("AAA/USDT", 1_000)
        await move_to(2)
        balance = await client.fetch_balance()
        # At 101.5, fee included, 1,000 pay for 9.847; they are bought at 102.
        assert balance["AAA"] == {"free": 9.847, "used": 0.0, "total": 9.847}
        assert balance["USDT"]["free"] == 100_000 - 9.847 * 102 - 0.502197
        await client.create_order("AAA/USDT", "limit", "sell", 9, 500)
        await client.create_order("AAA/USDT", "limit", "buy", 1, 100)
        balance = await client.fetch_balance()
        assert balance["AAA"] == {"free": 0.847, "used": 9.0, "total": 9.847}
        assert balance["USDT"]["used"] == 100.05
        with pytest.raises(InsufficientFunds):  # what is offered cannot be offered again
            await client.create_order("AAA/USDT", "market", "sell", 1)


async def test_each_product_has_a_wallet_and_orders_of_its_own(tmp_path: Path) -> None:
    async with (
        serving(settings_in(tmp_path, terms=NO_SLIPPAGE)) as url,
        controlled(url) as control,
        ccxt_client(SPOT, url) as spot,
        ccxt_client(USDM, url) as usdm,
    ):
        await control.advance(close_ms(1))
        for client, symbol in ((spot, "AAA/USDT"), (usdm, "AAA/USDT:USDT")):
            await client.load_time_difference()
            same = {"newClientOrderId": "same"}
            await client.create_order(symbol, "market", "buy", 1, None, same)
        await control.advance(close_ms(2))
        for client, symbol in ((spot, "AAA/USDT"), (usdm, "AAA/USDT:USDT")):
            await client.load_time_difference()
            (order,) = await client.fetch_orders(symbol)
            assert (order["clientOrderId"], order["filled"]) == ("same", 1)
            assert len(await client.fetch_my_trades(symbol)) == 1
        assert (await spot.fetch_balance())["USDT"]["total"] == 100_000 - 102 - 0.051
        # USD-M pays the fee alone; the position is marked half above its price.
        assert (await usdm.fetch_balance())["USDT"]["total"] == 100_000 - 0.051 + 0.5
        (position,) = await usdm.fetch_positions()
        assert (position["contracts"], position["leverage"]) == (1, 1)


async def test_the_usdm_account_is_set_up_in_the_one_way_there_is(tmp_path: Path) -> None:
    symbol = SYMBOLS[USDM]
    async with trading(tmp_path, USDM) as (client, _):
        await client.set_leverage(1, symbol)
        await client.set_margin_mode("cross", symbol)
        await client.set_position_mode(False)
        for refused in (
            client.set_leverage(2, symbol),
            client.set_margin_mode("isolated", symbol),
            client.set_position_mode(True),
        ):
            with pytest.raises(ExchangeError):
                await refused
        assert (await client.fetch_leverages())[symbol]["longLeverage"] == 1
        fee = await client.fetch_trading_fee(symbol)
        assert (fee["maker"], fee["taker"]) == (0.0005, 0.0005)


async def test_funding_is_told_as_history_and_in_the_wallet(tmp_path: Path) -> None:
    # Bars of the hour around eight o'clock: bar 95 closes at eight.
    bars = [RecordedBar("AAA/USDT", number, 100.0, 100.0) for number in (93, 94, 95, 96, 97)]
    terms = FillTerms(fee_ppm=0, slippage_ppm=0, funding_ppm=100)
    async with (
        serving(settings_in(tmp_path, bars, terms)) as url,
        controlled(url) as control,
        ccxt_client(USDM, url) as client,
    ):
        await control.advance(close_ms(93))
        await client.load_time_difference()
        await client.create_order("AAA/USDT:USDT", "market", "sell", 10)
        await control.advance(close_ms(96))
        await client.load_time_difference()
        (paid,) = await client.fetch_funding_history("AAA/USDT:USDT")
        assert (paid["amount"], paid["timestamp"]) == (-0.1, close_ms(95))
        assert (await client.fetch_balance())["USDT"]["total"] == 100_000 - 0.1
        kinds = {each["info"]["incomeType"] for each in await client.fetch_ledger()}
        assert kinds == {"FUNDING_FEE"}


# --- the account's streams --------------------------------------------------------------------


@BOTH
async def test_orders_and_balances_are_watched(tmp_path: Path, kind: Kind) -> None:
    symbol = SYMBOLS[kind]
    async with (
        trading(tmp_path, kind) as (client, move_to),
        collecting(client.watch_orders) as orders,
        collecting(client.watch_balance) as balances,
        collecting(client.watch_my_trades) as trades,
    ):
        await is_heard(client)

        async def seen(status: str) -> bool:
            return any(order["status"] == status for told in orders for order in told)

        placed = await client.create_order(symbol, "market", "buy", 2)
        await eventually_async(lambda: seen("open"))
        await move_to(2)
        await eventually_async(lambda: seen("closed"))
        last = next(order for told in orders[::-1] for order in told)
        assert (last["id"], last["symbol"], last["filled"]) == (placed["id"], symbol, 2)

        async def has_traded() -> bool:
            return len(trades) == 1 and bool(balances)

        await eventually_async(has_traded)
        (trade,) = trades[0]
        assert (trade["price"], trade["amount"], trade["fee"]["cost"]) == (102, 2, 0.102)
        total = balances[-1]["USDT"]["total"]
        assert total == (100_000 - 204 - 0.102 if kind is SPOT else 100_000 - 0.102)
        resting = await client.create_order(symbol, "limit", "buy", 1, 50)
        await client.cancel_order(resting["id"], symbol)
        await eventually_async(lambda: seen("canceled"))


async def test_positions_are_watched(tmp_path: Path) -> None:
    symbol = SYMBOLS[USDM]
    async with (
        trading(tmp_path, USDM) as (client, move_to),
        collecting(client.watch_positions) as told,
    ):
        await is_heard(client)
        await client.create_order(symbol, "market", "sell", 2)
        await move_to(2)

        async def is_short() -> bool:
            return any(
                (each["symbol"], each["side"], each["contracts"]) == (symbol, "short", 2)
                for positions in told
                for each in positions
            )

        await eventually_async(is_short)


async def is_heard(client: Any) -> None:
    """Wait until the venue has somebody who listens to the account."""
    url = client.urls["api"]["fapiPublic"].removesuffix("/fapi/v1")
    async with raw_client(url) as raw:

        async def has_listener() -> bool:
            return bool((await raw.get("/status"))[1]["streams"] == 1)

        await eventually_async(has_listener)


async def test_a_client_that_signs_by_its_own_clock_may_trade_in_a_fast_market(
    tmp_path: Path,
) -> None:
    market = MarketSettings(speed=3_000.0, history_days=1)
    async with serving(moving_in(tmp_path, market)) as url, ccxt_client(USDM, url) as client:
        placed = await client.create_order("ASH/USDT:USDT", "market", "buy", 100)

        async def is_filled() -> bool:
            found = await client.fetch_order(placed["id"], "ASH/USDT:USDT")
            return bool(found["status"] == "closed")

        await eventually_async(is_filled)
        assert (await client.fetch_positions())[0]["contracts"] == 100
