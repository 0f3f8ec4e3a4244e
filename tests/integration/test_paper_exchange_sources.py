"""Where the paper venue's market comes from, and what moves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.paper_exchange.sources.choice import make_source
from services.paper_exchange.sources.simulated import SimulatedFeed
from shared.clock import instant_of_ms
from shared.errors import SettingsError, VenueRejectedError
from shared.venues.settings import MarketSettings
from tests.paper_venue import (
    BAR_MS,
    RawClient,
    calm_bars,
    close_ms,
    controlled,
    moving_in,
    open_ms,
    raw_client,
    serving,
    settings_in,
    write_bars,
)
from tests.support import eventually_async

START_MS = open_ms(0)
DAY_MS = 86_400_000


def recorded_in(home: Path, *, n_bars: int = 12, start_ms: int, speed: float) -> MarketSettings:
    """Return a market of `calm_bars` written into a folder."""
    return MarketSettings(
        source="recorded",
        bars=(write_bars(home / "paced.parquet", calm_bars(n_bars)),),
        start=instant_of_ms(start_ms),
        speed=speed,
    )


async def status_of(raw: RawClient) -> dict[str, Any]:
    status, answer = await raw.get("/status")
    assert status == 200
    return dict(answer)


# --- recorded ---------------------------------------------------------------------------------


async def test_a_recorded_market_moves_by_itself_to_the_end_of_its_file_and_says_so(
    tmp_path: Path,
) -> None:
    market = recorded_in(tmp_path, start_ms=close_ms(5), speed=30_000.0)
    async with serving(moving_in(tmp_path, market)) as url, raw_client(url) as raw:
        _, shown = await raw.get("/fapi/v1/klines?symbol=AAAUSDT&interval=5m&limit=1000")
        assert shown[0][0] == open_ms(0)  # what lies before the start is history

        async def is_ended() -> bool:
            return str((await status_of(raw))["state"]).startswith("ended")

        await eventually_async(is_ended)
        ended = await status_of(raw)
        assert (ended["source"], ended["speed"], ended["market_at_ms"]) == (
            "recorded",
            30_000.0,
            close_ms(11),
        )
        # The clock runs on, so that signed requests are still answered.
        assert (await raw.send("GET", "/fapi/v3/account", {}))[0] == 200


async def test_a_recorded_market_goes_on_where_it_stopped(tmp_path: Path) -> None:
    slow = recorded_in(tmp_path, start_ms=close_ms(5), speed=1.0)
    fast = slow.model_copy(update={"speed": 3_000.0})
    async with serving(moving_in(tmp_path, fast)) as url, raw_client(url) as raw:

        async def is_at_eight() -> bool:
            return bool((await status_of(raw))["market_at_ms"] >= close_ms(8))

        await eventually_async(is_at_eight)
        stopped_ms = (await status_of(raw))["market_at_ms"]
    async with serving(moving_in(tmp_path, slow)) as url, raw_client(url) as raw:
        assert (await status_of(raw))["market_at_ms"] >= stopped_ms


async def test_a_market_that_moves_by_itself_is_not_moved_by_hand(tmp_path: Path) -> None:
    market = recorded_in(tmp_path, start_ms=close_ms(5), speed=1.0)
    async with (
        serving(moving_in(tmp_path, market)) as url,
        controlled(url) as control,
        raw_client(url) as raw,
    ):
        with pytest.raises(VenueRejectedError, match=r"409.*moves by itself"):
            await control.advance(close_ms(9))
        assert (await status_of(raw))["market_at_ms"] == close_ms(5)


def test_a_recorded_market_without_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="MNT_MARKET__BARS"):
        make_source(moving_in(tmp_path, MarketSettings(source="recorded")))


def test_a_replay_goes_before_every_other_market(tmp_path: Path) -> None:
    settings = settings_in(tmp_path).model_copy(update={"market": MarketSettings()})
    source = make_source(settings)
    assert (source.name, source.speed) == ("lockstep", None)


# --- simulated --------------------------------------------------------------------------------


def feed_at(at_ms: int, *, timeframe: str = "5m") -> SimulatedFeed:
    feed = SimulatedFeed(7, START_MS, 3, timeframe)
    feed.stand_at(at_ms)
    return feed


def test_the_bars_are_the_same_whether_the_venue_was_restarted_or_not() -> None:
    at_ms = START_MS + 9 * DAY_MS + 7 * BAR_MS
    steady = feed_at(START_MS)
    now_ms: int | None = START_MS
    while now_ms is not None and now_ms < at_ms:
        now_ms = steady.next_close(now_ms)
    restarted = feed_at(at_ms)
    for name, listing in restarted.market.listings.items():
        fresh = listing.bars.between(at_ms - 3 * DAY_MS, at_ms)
        lived = steady.market.listings[name].bars.between(at_ms - 3 * DAY_MS, at_ms)
        assert len(fresh) == 3 * 288
        assert fresh.candles(BAR_MS) == lived.candles(BAR_MS)


def test_the_history_is_there_and_memory_is_bounded() -> None:
    feed = feed_at(START_MS)
    assert feed.market.opens_at_ms == START_MS - 3 * DAY_MS
    now_ms: int | None = START_MS
    most = 0
    while now_ms is not None and now_ms < START_MS + 30 * DAY_MS:
        now_ms = feed.next_close(now_ms)
        most = max(most, len(feed.market.listings["ASHUSDT"].bars))
    assert most <= (3 + 2) * 288
    assert feed.market.opens_at_ms <= START_MS + 27 * DAY_MS


def test_longer_trade_bars_are_made_of_the_same_five_minutes() -> None:
    five, quarter = feed_at(START_MS), feed_at(START_MS, timeframe="15m")
    assert quarter.next_close(START_MS) == START_MS + 900_000
    made = five.market.listings["ASHUSDT"].candles(900_000, None, None, 50, START_MS)
    assert quarter.market.listings["ASHUSDT"].candles(900_000, None, None, 50, START_MS) == made


async def test_a_simulated_market_is_called_simulated_everywhere(tmp_path: Path) -> None:
    market = MarketSettings(speed=1.0, history_days=1)
    async with serving(moving_in(tmp_path, market)) as url, raw_client(url) as raw:
        assert (await status_of(raw))["source"] == "simulated"
        for path in ("/fapi/v1/exchangeInfo", "/api/v3/exchangeInfo"):
            _, info = await raw.get(path)
            assert info["marketSource"] == "simulated"
            assert {each["priceSource"] for each in info["symbols"]} == {"simulated"}
            assert len(info["symbols"]) == 24
