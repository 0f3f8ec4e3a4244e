"""A market that goes from close to close at a speed of its own."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping
from typing import Protocol

import structlog

from services.paper_exchange.charts import KlineRow
from services.paper_exchange.market import Listing, Market
from services.paper_exchange.sources.interface import Venue, own_klines
from shared.book.instrument import Instrument
from shared.clock import monotonic_seconds

RETRY_SECONDS = 1.0
"""Pause before a close is tried again that the store could not record."""

logger = structlog.get_logger()


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

    def __init__(self, feed: Feed, starts_at_ms: int, speed: float) -> None:
        self._feed = feed
        self.name = feed.name
        self.identity = feed.identity
        self.market = feed.market
        self.starts_at_ms = starts_at_ms
        self.speed = speed
        self.fault: str | None = None
        self._market_at_ms = starts_at_ms
        self._is_ended = False

    def state(self) -> str:
        """Return, for people, what it is doing."""
        if self._is_ended:
            return "ended: the recording has no later bar; record more, or set another start"
        return "running"

    def resume(self, market_at_ms: int, instruments: Mapping[str, Instrument]) -> None:
        """Have the bars around an instant at hand, and go on from there."""
        self._market_at_ms = market_at_ms
        self._feed.stand_at(market_at_ms)

    def next_close(self, after_ms: int) -> int | None:
        """Return the close that the market will reach next."""
        return self._feed.next_close(after_ms)

    async def run(self, venue: Venue) -> None:
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
                venue.move(close_ms)
            except sqlite3.Error as error:
                self.fault = f"a close cannot be recorded: {error}"
                logger.error("close not recorded, it is tried again", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self.fault = None
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
        return own_klines(self.market, listing, interval, start_ms, end_ms, limit, at_ms)
