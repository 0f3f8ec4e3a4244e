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
from ccxt.base.errors import BadRequest

from shared.venues.settings import MarketSettings
from tests.paper_venue import (
    BAR_MS,
    ccxt_client,
    close_ms,
    controlled,
    moving_in,
    open_ms,
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
