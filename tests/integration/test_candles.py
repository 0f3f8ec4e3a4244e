"""The client of public candles against a venue that is well, and one that is not."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import pytest

from shared.errors import VenueError, VenueRejectedError, VenueUnknownError
from shared.venues.candles import LiveCandle, VenueCandles
from tests.stub_venue import BAR_MS, HOUR_MS, Answer, StubVenue, kline, serving, values_at
from tests.support import eventually_async

START_MS = 1_704_067_200_000  # 2024-01-01T00:00Z


@asynccontextmanager
async def connected(venue: StubVenue, timeout_seconds: float = 10) -> AsyncIterator[VenueCandles]:
    candles = await VenueCandles.connect(venue.url, timeout_seconds=timeout_seconds)
    try:
        yield candles
    finally:
        await candles.close()


def stub(hours: int = 3_000, **symbols: int) -> StubVenue:
    return StubVenue(START_MS + hours * HOUR_MS, symbols or {"AAAUSDT": START_MS})


async def all_closes(candles: VenueCandles, venue: StubVenue, after_ms: int) -> list[int | None]:
    pages = candles.history("AAA/USDT", "1h", after_ms, venue.now_ms)
    return [row[1] for page in [page async for page in pages] for row in page]


async def test_history_comes_page_by_page_up_to_the_venues_time() -> None:
    async with serving(stub()) as venue, connected(venue) as candles:
        closes = await all_closes(candles, venue, START_MS)
        assert closes == [START_MS + (i + 1) * HOUR_MS for i in range(3_000)]
        assert len(venue.calls) == 3


async def test_the_candle_still_open_is_left_out() -> None:
    async with serving(stub(hours=5)) as venue, connected(venue) as candles:
        await venue.step(venue.now_ms + 20 * 60_000)
        assert (await all_closes(candles, venue, START_MS))[-1] == START_MS + 5 * HOUR_MS


async def test_values_are_those_of_the_venue() -> None:
    async with serving(stub(hours=5)) as venue, connected(venue) as candles:
        row = (await candles.page("AAA/USDT", "1h", START_MS, venue.now_ms, most=1))[0]
        assert row == ("AAA/USDT", START_MS + HOUR_MS, *values_at("AAAUSDT", START_MS))


async def test_an_empty_stretch_is_passed_over() -> None:
    venue = stub()
    hole = range(START_MS + 10 * HOUR_MS, START_MS + 2_500 * HOUR_MS, HOUR_MS)
    venue.missing.update(("AAAUSDT", "1h", at) for at in hole)
    async with serving(venue), connected(venue) as candles:
        assert len(await all_closes(candles, venue, START_MS)) == 10 + 500


async def test_a_venue_that_answers_for_a_window_only_is_asked_on() -> None:
    venue = stub()
    venue.is_windowed = True
    hole = range(START_MS + 200 * HOUR_MS, START_MS + 1_400 * HOUR_MS, HOUR_MS)
    venue.missing.update(("AAAUSDT", "1h", at) for at in hole)
    async with serving(venue), connected(venue) as candles:
        closes = await all_closes(candles, venue, START_MS)
        assert closes[199:201] == [START_MS + 200 * HOUR_MS, START_MS + 1_401 * HOUR_MS]
        assert len(closes) == 1_800


@pytest.mark.parametrize("answer", ["hang up", "html", "limit", "stall", "break off", "nonsense"])
async def test_an_answer_that_is_none_is_unknown_and_names_the_venue(answer: Answer) -> None:
    patience = 0.3 if answer == "stall" else 10
    async with serving(stub(hours=5)) as venue, connected(venue, patience) as candles:
        venue.answer = answer
        with pytest.raises(VenueUnknownError, match=venue.url):
            await candles.page("AAA/USDT", "1h", START_MS, venue.now_ms)
        with pytest.raises(VenueUnknownError, match=venue.url):
            await candles.venue_time_ms()
        with pytest.raises(VenueUnknownError, match=venue.url):
            await VenueCandles.connect(venue.url, timeout_seconds=patience)
        venue.answer = "well"
        assert await candles.venue_time_ms() == venue.now_ms


async def test_a_limited_client_is_told_how_long_to_wait() -> None:
    async with serving(stub(hours=5)) as venue, connected(venue) as candles:
        venue.answer = "limit"
        with pytest.raises(VenueUnknownError) as caught:
            await candles.venue_time_ms()
        assert caught.value.retry_after == 10


async def test_a_symbol_that_does_not_trade_is_refused() -> None:
    async with serving(stub()) as venue, connected(venue) as candles:
        with pytest.raises(VenueRejectedError, match="ZZZ/USDT does not trade"):
            await candles.page("ZZZ/USDT", "1h", START_MS, venue.now_ms)


async def test_a_venue_that_states_limits_is_paced() -> None:
    venue = stub()
    async with serving(venue), connected(venue) as candles:
        assert candles._exchange.enableRateLimit is False
    venue.rate_limits = [{"rateLimitType": "REQUEST_WEIGHT", "limit": 2400}]
    async with serving(venue), connected(venue) as candles:
        assert candles._exchange.enableRateLimit is True


# --- websocket ----------------------------------------------------------------------------

FIVE = {("5m", "AAA/USDT"), ("5m", "BBB/USDT")}


@asynccontextmanager
async def fed(venue: StubVenue) -> AsyncIterator[tuple[list[LiveCandle], asyncio.Task[None]]]:
    """Subscribe to two symbols and collect what comes."""
    async with connected(venue) as candles:
        taken: list[LiveCandle] = []
        feed = candles.open_feed(taken.append)
        lost = asyncio.create_task(feed.lost())
        try:
            feed.add(FIVE)
            await eventually_async(lambda: _is(len(venue.streams()) == 2 or lost.done()))
            yield taken, lost
        finally:
            lost.cancel()
            await asyncio.gather(lost, return_exceptions=True)
            await feed.close()


async def _is(found: object) -> bool:
    return bool(found)


def two_symbols() -> StubVenue:
    return StubVenue(START_MS, {"AAAUSDT": 0, "BBBUSDT": 0})


async def test_every_candle_of_a_burst_arrives_closed() -> None:
    async with serving(two_symbols()) as venue, fed(venue) as (taken, _):
        await venue.step(START_MS + 50 * BAR_MS)
        await eventually_async(lambda: _is(len(taken) == 100))
        assert all(candle.is_closed for candle in taken)
        of_one = [candle.row[1] for candle in taken if candle.row[0] == "BBB/USDT"]
        assert of_one == [START_MS + (i + 1) * BAR_MS for i in range(50)]
        assert taken[-1].venue_ms == venue.now_ms


async def test_a_later_candle_closes_the_one_before_it() -> None:
    async with serving(two_symbols()) as venue, fed(venue) as (taken, _):
        venue.now_ms += BAR_MS + 1
        await venue._send("AAAUSDT", "5m", START_MS, is_closed=False)
        await venue._send("AAAUSDT", "5m", START_MS + BAR_MS, is_closed=False)
        await eventually_async(lambda: _is(len(taken) == 3))
        assert [(c.row[1], c.is_closed) for c in taken] == [
            (START_MS + BAR_MS, False),
            (START_MS + BAR_MS, True),
            (START_MS + 2 * BAR_MS, False),
        ]


async def test_a_cut_ends_the_feed_with_the_address() -> None:
    async with serving(two_symbols()) as venue, fed(venue) as (_, lost):
        await venue.cut()
        with pytest.raises(VenueUnknownError, match=venue.url):
            await lost


GOOD = kline("AAAUSDT", "5m", START_MS, (1.0, 1.0, 1.0, 1.0, 1.0), True, START_MS + BAR_MS)


@pytest.mark.parametrize(
    "message",
    [
        {"e": "kline"},
        {**GOOD, "k": {"s": "AAAUSDT", "i": "5m"}},
        {**GOOD, "k": None},
        {**GOOD, "k": {**GOOD["k"], "i": "7m"}},
        {**GOOD, "k": {**GOOD["k"], "s": "ZZZUSDT"}},
        {**GOOD, "k": {**GOOD["k"], "t": "soon"}},
        {**GOOD, "k": {**GOOD["k"], "t": START_MS + HOUR_MS}},
        {**GOOD, "E": 10**17, "k": {**GOOD["k"], "t": 10**17}},
    ],
)
async def test_an_unreadable_candle_ends_the_feed(message: object) -> None:
    async with serving(two_symbols()) as venue, fed(venue) as (taken, lost):
        for socket in list(venue.subscriptions):
            await venue.send_raw(socket, orjson.dumps(message).decode())
        with pytest.raises(VenueUnknownError, match="unreadable"):
            await lost
        assert taken == []


async def test_a_value_that_is_no_number_is_left_to_the_checks() -> None:
    message = {**GOOD, "k": {**GOOD["k"], "h": "much"}}
    async with serving(two_symbols()) as venue, fed(venue) as (taken, _):
        for socket in list(venue.subscriptions):
            await venue.send_raw(socket, orjson.dumps(message).decode())
        await eventually_async(lambda: _is(taken))
        assert math.isnan(taken[0].row[3])


async def test_a_websocket_that_is_refused_ends_the_feed() -> None:
    venue = two_symbols()
    venue.accepts_websockets = False
    async with serving(venue), fed(venue) as (_, lost):
        with pytest.raises(VenueError, match=venue.url):
            await lost
