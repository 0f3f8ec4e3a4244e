"""Where the market comes from and what moves it.

A source owns a market and, unless it is led by the hand, moves it from close to close by
calling the venue. The venue alone decides what a close does.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import structlog

from services.paper_exchange.candles import Candles
from services.paper_exchange.charts import KlineRow, kline
from services.paper_exchange.market import Listing, Market, list_market
from services.paper_exchange.refusals import RefusalError
from services.paper_exchange.settings import Settings
from shared.book.instrument import venue_id
from shared.clock import monotonic_seconds, ms_of_instant, timeframe_ms, utc_now
from shared.errors import SettingsError
from shared.quant.bar_checks import BarCheckSettings
from shared.venues.market import load_market
from shared.venues.simulated import BAR_MS, DAY_MS, SIMULATED, SimulatedDay, SimulatedMarket

RETRY_SECONDS = 1.0
"""Pause before a close is tried again that the store could not record."""

_SPARE_DAYS = 2

logger = structlog.get_logger()

Move = Callable[[int], object]
"""Moves the venue to a close."""


class Source(Protocol):
    """What the venue knows of its source.

    Attributes
    ----------
    name
        `lockstep`, `simulated`, `recorded` or `live`.
    identity
        What the prices are made from: a store with orders is of one such market.
    market
        What it shows; the source makes it grow.
    starts_at_ms
        Where a venue without a past begins.
    """

    name: str
    identity: str
    market: Market
    starts_at_ms: int

    @property
    def speed(self) -> float | None:
        """Seconds of the market in one of ours, `None` if it does not move by itself."""
        ...

    @property
    def fault(self) -> str | None:
        """What keeps the market from moving, for people; `None` while nothing does."""
        ...

    def state(self) -> str:
        """Return, for people, what it is doing."""
        ...

    def stand_at(self, market_at_ms: int) -> None:
        """Make the market ready to be shown at an instant and to go on from there."""
        ...

    def next_close(self, after_ms: int) -> int | None:
        """Return the close that the market will reach next, `None` if that is not known."""
        ...

    async def run(self, move: Move) -> None:
        """Move the market until there is nothing left to move it through."""
        ...

    async def klines(
        self,
        listing: Listing,
        interval: str,
        start_ms: int | None,
        end_ms: int | None,
        limit: int,
        at_ms: int,
    ) -> list[KlineRow]:
        """Return bars of a symbol as `Listing.candles` does, in Binance's shape.

        Raises
        ------
        RefusalError
            -1120 if there are no bars of this interval.
        """
        ...


class Lockstep:
    """A market that stands still until `POST /paper/advance` moves it.

    Parameters
    ----------
    market
        The whole recording.
    """

    name = "lockstep"
    identity = ""
    speed = None
    fault = None

    def __init__(self, market: Market) -> None:
        self.market = market
        self.starts_at_ms = market.opens_at_ms

    def state(self) -> str:
        """Return, for people, what it is doing."""
        return "running"

    def stand_at(self, market_at_ms: int) -> None:
        """Nothing: the whole recording is at hand."""

    def next_close(self, after_ms: int) -> int | None:
        """Return `None`: only who moves it knows."""
        return None

    async def run(self, move: Move) -> None:
        """Return at once: others move this market."""

    async def klines(
        self,
        listing: Listing,
        interval: str,
        start_ms: int | None,
        end_ms: int | None,
        limit: int,
        at_ms: int,
    ) -> list[KlineRow]:
        """Return bars of a symbol, of the market's own timeframe or a longer one."""
        return _klines(self.market, listing, interval, start_ms, end_ms, limit, at_ms)


class Feed(Protocol):
    """Bars that a paced market is made of."""

    name: str
    identity: str
    market: Market

    def stand_at(self, market_at_ms: int) -> None:
        """Have the bars around an instant at hand."""
        ...

    def next_close(self, after_ms: int) -> int | None:
        """Return the next close and have its bars at hand; `None` where the bars end."""
        ...


class Paced:
    """A market that goes from close to close at a speed of its own.

    Parameters
    ----------
    feed
        Its bars.
    starts_at_ms
        Where it stands at first.
    speed
        Seconds of the market in a second of ours.
    """

    fault = None

    def __init__(self, feed: Feed, starts_at_ms: int, speed: float) -> None:
        self._feed = feed
        self.name = feed.name
        self.identity = feed.identity
        self.market = feed.market
        self.starts_at_ms = starts_at_ms
        self.speed = speed
        self._market_at_ms = starts_at_ms
        self._is_ended = False

    def state(self) -> str:
        """Return, for people, what it is doing."""
        if self._is_ended:
            return "ended: the recording has no later bar; record more, or set another start"
        return "running"

    def stand_at(self, market_at_ms: int) -> None:
        """Have the bars around an instant at hand, and go on from there."""
        self._market_at_ms = market_at_ms
        self._feed.stand_at(market_at_ms)

    def next_close(self, after_ms: int) -> int | None:
        """Return the close that the market will reach next."""
        return self._feed.next_close(after_ms)

    async def run(self, move: Move) -> None:
        """Move the market close by close; return at the end of the bars.

        A close that comes late, because this machine was busy or asleep, is not made up for
        by a burst of closes.
        """
        due_seconds = monotonic_seconds()
        while (close_ms := self._feed.next_close(self._market_at_ms)) is not None:
            due_seconds += (close_ms - self._market_at_ms) / 1000 / self.speed
            due_seconds = max(due_seconds, monotonic_seconds())
            await asyncio.sleep(due_seconds - monotonic_seconds())
            try:
                move(close_ms)
            except sqlite3.Error as error:
                logger.error("close not recorded, it is tried again", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self._market_at_ms = close_ms
        self._is_ended = True
        logger.info("the recording has ended", market_at_ms=self._market_at_ms)

    async def klines(
        self,
        listing: Listing,
        interval: str,
        start_ms: int | None,
        end_ms: int | None,
        limit: int,
        at_ms: int,
    ) -> list[KlineRow]:
        """Return bars of a symbol, of the market's own timeframe or a longer one."""
        return _klines(self.market, listing, interval, start_ms, end_ms, limit, at_ms)


class RecordedFeed:
    """Bars of files.

    Parameters
    ----------
    market
        All of them.
    """

    name = "recorded"
    identity = "recorded"

    def __init__(self, market: Market) -> None:
        self.market = market

    def stand_at(self, market_at_ms: int) -> None:
        """Nothing: all bars are at hand."""

    def next_close(self, after_ms: int) -> int | None:
        """Return the first close after an instant."""
        closes = self.market.closes_at_ms
        row = int(closes.searchsorted(after_ms, "right"))
        return None if row == len(closes) else int(closes[row])


class SimulatedFeed:
    """Bars made from a seed, a day at a time and a day ahead.

    Parameters
    ----------
    seed, start_ms, history_days
        What they are made from; bars reach back so many days from where the market stands.
    timeframe
        The bars that orders trade against.
    """

    name = "simulated"

    def __init__(self, seed: int, start_ms: int, history_days: int, timeframe: str) -> None:
        self.identity = f"simulated, seed {seed}, start {start_ms}, history_days {history_days}"
        self._history_days = history_days
        self._first_day = start_ms // DAY_MS - history_days
        self._simulated = SimulatedMarket(seed, self._first_day)
        self._next_day = self._first_day
        bar_ms = timeframe_ms(timeframe)
        listings = {
            venue_id(symbol): Listing(venue_id(symbol), instrument, bar_ms, Candles.none())
            for symbol, instrument in self._simulated.instruments.items()
        }
        self.market = Market(listings, np.empty(0, dtype=np.int64), bar_ms)

    def stand_at(self, market_at_ms: int) -> None:
        """Make the history of an instant and the day it lies in."""
        wanted = market_at_ms // DAY_MS - self._history_days - _SPARE_DAYS
        while self._next_day < max(wanted, self._first_day):
            self._simulated.day(self._next_day)  # each begins where the one before ended
            self._next_day += 1
        while self._next_day * DAY_MS <= market_at_ms:
            self._grow()

    def next_close(self, after_ms: int) -> int | None:
        """Return the next close, making its day if need be."""
        close_ms = after_ms // self.market.bar_ms * self.market.bar_ms + self.market.bar_ms
        while self._next_day * DAY_MS < close_ms:
            self._grow()
        return close_ms

    def _grow(self) -> None:
        made = self._simulated.day(self._next_day)
        self._next_day += 1
        bars = _columns(made, self.market.bar_ms)
        closes_at_ms = next(iter(bars.values())).closes_at_ms
        self.market.grow(closes_at_ms, bars)
        oldest_ms = (self._next_day - self._history_days - _SPARE_DAYS) * DAY_MS
        if self.market.opens_at_ms < oldest_ms:
            self.market.forget(oldest_ms)


def _columns(made: SimulatedDay, bar_ms: int) -> dict[str, Candles]:
    by_symbol = {}
    for column, symbol in enumerate(made.symbols):
        prices = (made.open, made.high, made.low, made.close, made.volume)
        candles = Candles(made.closes_at_ms, *(values[:, column].copy() for values in prices))
        by_symbol[venue_id(symbol)] = candles if bar_ms == BAR_MS else candles.longer(bar_ms)
    return by_symbol


def _klines(
    market: Market,
    listing: Listing,
    interval: str,
    start_ms: int | None,
    end_ms: int | None,
    limit: int,
    at_ms: int,
) -> list[KlineRow]:
    bar_ms = market.intervals.get(interval)
    if bar_ms is None:
        raise RefusalError(
            -1120, f"Invalid interval. This market has {', '.join(market.intervals)}."
        )
    return [kline(each) for each in listing.candles(bar_ms, start_ms, end_ms, limit, at_ms)]


def make_source(settings: Settings) -> Source:
    """Return the source that the settings name; a replay goes before everything else.

    Raises
    ------
    DataError
        If a recording cannot be used.
    SettingsError
        If the recorded market has no file.
    """
    market = settings.market
    if settings.replay.bars:
        replay = settings.replay
        return Lockstep(
            _recorded(replay.bars, settings.trade_timeframe, settings.ingest, replay.end_ms)
        )
    if market.source == "recorded":
        if not market.bars:
            raise SettingsError(
                "MNT_MARKET__SOURCE is recorded but no file is named: set MNT_MARKET__BARS, or "
                f"MNT_MARKET__SOURCE={SIMULATED}"
            )
        recorded = _recorded(market.bars, settings.trade_timeframe, settings.ingest, None)
        start_ms = market.start_ms // recorded.bar_ms * recorded.bar_ms
        return Paced(RecordedFeed(recorded), max(start_ms, recorded.opens_at_ms), market.speed)
    bar_ms = timeframe_ms(settings.trade_timeframe)
    start_ms = market.start_ms // bar_ms * bar_ms
    feed = SimulatedFeed(market.seed, start_ms, market.history_days, settings.trade_timeframe)
    return Paced(feed, start_ms, market.speed)


def _recorded(
    files: tuple[Path, ...], timeframe: str, checks: BarCheckSettings, end_ms: int | None
) -> Market:
    """Return the recorded market exactly as the fleet's ingest sees it."""
    recorded = load_market(files, (), timeframe, checks, ms_of_instant(utc_now()))
    accepted = {
        name: each.accepted.between(None, end_ms) for name, each in recorded.checked.items()
    }
    trade_bars = accepted.pop(timeframe)
    bar_ms = timeframe_ms(timeframe)
    longer = [bars for bars in accepted.values() if timeframe_ms(bars.timeframe) > bar_ms]
    pa.default_memory_pool().release_unused()  # 200 MB that reading a year of bars leaves behind
    return list_market(trade_bars, recorded.instruments, longer)
