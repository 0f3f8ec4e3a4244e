"""A live market, proved on a second paper venue in the place of the exchange."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from services.paper_exchange.settings import Settings
from services.paper_exchange.sources import live
from shared.venues.settings import MarketSettings
from tests.paper_venue import (
    RawClient,
    RecordedBar,
    calm_bars,
    close_ms,
    controlled,
    moving_in,
    open_ms,
    raw_client,
    serving,
    settings_in,
)
from tests.support import eventually_async


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon, and do not wait long for an answer."""
    monkeypatch.setattr(live, "_LONGEST_PAUSE_SECONDS", 0.5)
    monkeypatch.setattr(live, "TIMEOUT_MS", 1_000)
    monkeypatch.setattr(live, "STALLED_MS", 1_500)


def upstream_in(tmp_path: Path, bars: list[RecordedBar] | None = None) -> Settings:
    home = tmp_path / "upstream"
    home.mkdir(exist_ok=True)
    return settings_in(home, bars or calm_bars(40))


def follower_in(tmp_path: Path, url: str, *symbols: str) -> Settings:
    home = tmp_path / "follower"
    home.mkdir(exist_ok=True)
    return moving_in(home, MarketSettings(source="live", exchange_url=url, symbols=symbols))


async def status_of(raw: RawClient) -> dict[str, Any]:
    _, answer = await raw.get("/status")
    return dict(answer)


async def stands_at(raw: RawClient, market_at_ms: int) -> None:
    """Wait until the market is there and nothing is the matter."""

    async def is_there() -> bool:
        status = await status_of(raw)
        assert (status["market_at_ms"], status["state"]) == (market_at_ms, "running")
        return True

    await eventually_async(is_there)


async def has_lost_the_exchange(raw: RawClient) -> bool:
    return str((await status_of(raw))["state"]).startswith("waiting for binanceusdm: ")


ORDER = {"symbol": "AAAUSDT", "side": "BUY", "type": "MARKET", "quantity": "2"}


async def test_the_market_follows_the_exchange_close_by_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "STALLED_MS", 10**9)  # the streams alone move it
    async with (
        serving(upstream_in(tmp_path)) as upstream,
        controlled(upstream) as control,
        raw_client(upstream) as there,
    ):
        await control.advance(close_ms(20))
        async with serving(follower_in(tmp_path, upstream)) as url, raw_client(url) as raw:

            async def is_listening() -> bool:
                return bool((await status_of(there))["streams"] == 2)

            await eventually_async(is_listening)
            await control.advance(close_ms(21))
            await stands_at(raw, close_ms(21))
            status = await status_of(raw)
            assert (status["source"], status["speed"], status["symbols"]) == ("live", 1.0, 2)
            _, clock = await raw.get("/fapi/v1/time")
            _, clock_there = await there.get("/fapi/v1/time")
            assert abs(clock["serverTime"] - clock_there["serverTime"]) < 1_000

            sent, placed = await raw.send("POST", "/fapi/v1/order", ORDER)
            assert (sent, placed["status"]) == (200, "NEW")
            await control.advance(close_ms(22))
            await stands_at(raw, close_ms(22))
            _, (trade,) = await raw.send("GET", "/fapi/v1/userTrades", {"symbol": "AAAUSDT"})
            assert (trade["price"], trade["time"]) == ("122.012", open_ms(22))  # opens at 122
            # Nothing of it has reached the exchange.
            assert (await status_of(there))["orders"] == 0


async def test_history_of_any_timeframe_is_passed_on(tmp_path: Path) -> None:
    async with serving(upstream_in(tmp_path)) as upstream, controlled(upstream) as control:
        await control.advance(close_ms(30))
        async with (
            serving(follower_in(tmp_path, upstream)) as url,
            raw_client(url) as raw,
            raw_client(upstream) as there,
        ):
            await control.advance(close_ms(31))
            await stands_at(raw, close_ms(31))
            for path in ("/fapi/v1/klines", "/api/v3/klines"):
                for query in ("interval=5m&limit=7", f"interval=1h&startTime={open_ms(0)}"):
                    asked = f"{path}?symbol=BBBUSDT&{query}"
                    assert await raw.get(asked) == await there.get(asked)
            # What the exchange refuses is refused here, in its words.
            bad = "/fapi/v1/klines?symbol=AAAUSDT&interval=7m"
            assert await raw.get(bad) == await there.get(bad)
            assert (await raw.get(bad))[0] == 400


async def test_only_the_symbols_that_are_named_are_listed(tmp_path: Path) -> None:
    async with serving(upstream_in(tmp_path)) as upstream, controlled(upstream) as control:
        await control.advance(close_ms(5))
        settings = follower_in(tmp_path, upstream, "BBB/USDT:USDT")
        async with serving(settings) as url, raw_client(url) as raw:
            await control.advance(close_ms(6))
            await stands_at(raw, close_ms(6))
            _, info = await raw.get("/fapi/v1/exchangeInfo")
            assert [each["symbol"] for each in info["symbols"]] == ["BBBUSDT"]


async def test_a_symbol_the_exchange_does_not_have_is_named_and_nothing_crashes(
    tmp_path: Path,
) -> None:
    async with serving(upstream_in(tmp_path)) as upstream:
        settings = follower_in(tmp_path, upstream, "CCC/USDT:USDT")
        async with serving(settings) as url, raw_client(url) as raw:
            await eventually_async(lambda: has_lost_the_exchange(raw))
            assert "CCC/USDT:USDT" in (await status_of(raw))["state"]


async def test_a_bar_that_a_stream_does_not_tell_is_asked_for(tmp_path: Path) -> None:
    bars = [bar for bar in calm_bars(40) if (bar.symbol, bar.number) != ("BBB/USDT", 12)]
    async with serving(upstream_in(tmp_path, bars)) as upstream, controlled(upstream) as control:
        await control.advance(close_ms(10))
        async with serving(follower_in(tmp_path, upstream)) as url, raw_client(url) as raw:
            await control.advance(close_ms(11))
            await stands_at(raw, close_ms(11))
            await control.advance(close_ms(12))  # of one symbol alone
            await control.advance(close_ms(13))
            await stands_at(raw, close_ms(13))


async def test_after_a_cut_the_market_walks_through_what_it_missed(tmp_path: Path) -> None:
    settings = upstream_in(tmp_path)
    async with serving(settings) as upstream, controlled(upstream) as control:
        port = urlsplit(upstream).port or 0
        await control.advance(close_ms(10))
        follower = follower_in(tmp_path, upstream)
        serving_follower = serving(follower)
        url = await serving_follower.__aenter__()
        await control.advance(close_ms(11))
        async with raw_client(url) as raw:
            await stands_at(raw, close_ms(11))
            assert (await raw.send("POST", "/fapi/v1/order", ORDER))[0] == 200
    try:
        async with raw_client(url) as raw:
            await eventually_async(lambda: has_lost_the_exchange(raw))
            _, health = await raw.get("/health")
            assert health["healthy"] is True
            assert len(health["faults"]) == 1
            for path in ("klines?symbol=AAAUSDT&interval=5m", "ticker/24hr", "premiumIndex"):
                status, answer = await raw.get(f"/fapi/v1/{path}")
                assert (status, answer["code"]) == (503, -1001)
                assert "does not answer" in answer["msg"]
            # The account is the venue's own: it goes on, and orders may be withdrawn.
            assert (await raw.send("GET", "/fapi/v3/account", {}))[0] == 200
            assert (await raw.get("/fapi/v1/exchangeInfo"))[0] == 200
            async with serving(settings, port) as upstream, controlled(upstream) as control:
                await control.advance(close_ms(15))
                await stands_at(raw, close_ms(15))
                _, (trade,) = await raw.send("GET", "/fapi/v1/userTrades", {"symbol": "AAAUSDT"})
                assert trade["time"] == open_ms(12)
                assert (await raw.get("/health"))[1]["faults"] == []
    finally:
        await serving_follower.__aexit__(None, None, None)


async def test_after_a_restart_without_the_exchange_the_account_is_still_there(
    tmp_path: Path,
) -> None:
    async with serving(upstream_in(tmp_path)) as upstream, controlled(upstream) as control:
        await control.advance(close_ms(10))
        follower = follower_in(tmp_path, upstream)
        async with serving(follower) as url, raw_client(url) as raw:
            await control.advance(close_ms(11))
            await stands_at(raw, close_ms(11))
            await raw.send("POST", "/fapi/v1/order", ORDER)
            await control.advance(close_ms(12))
            await stands_at(raw, close_ms(12))
    async with serving(follower) as url, raw_client(url) as raw:
        await eventually_async(lambda: has_lost_the_exchange(raw))
        _, account = await raw.send("GET", "/fapi/v3/account", {})
        (position,) = account["positions"]
        assert (position["positionAmt"], position["unrealizedProfit"]) == ("2.000", "0.00000000")
        assert (await status_of(raw))["market_at_ms"] == close_ms(12)


@asynccontextmanager
async def answering(handle: Any) -> AsyncIterator[str]:
    """Serve one handler for every request; yields its URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("kind", ["page", "gateway", "list", "empty", "silence"])
async def test_an_exchange_that_talks_nonsense_or_not_at_all_crashes_nothing(
    tmp_path: Path, kind: str
) -> None:
    async def handle(_: web.Request) -> web.Response:
        if kind == "silence":
            await asyncio.sleep(2)
        status = 502 if kind == "gateway" else 200
        texts = {"list": "[1, 2]", "empty": ""}
        return web.Response(
            text=texts.get(kind, "<html>Bad Gateway</html>"),
            status=status,
            content_type="text/html",
        )

    async with (
        answering(handle) as upstream,
        serving(follower_in(tmp_path, upstream)) as url,
        raw_client(url) as raw,
    ):

        async def has_failed() -> bool:
            return len((await raw.get("/health"))[1]["faults"]) == 1 and "yet" not in str(
                await status_of(raw)
            )

        await eventually_async(has_failed)
        status, answer = await raw.get("/fapi/v1/exchangeInfo")
        assert (status, answer["code"]) == (503, -1001)
        assert (await raw.get("/fapi/v1/time"))[0] == 200
