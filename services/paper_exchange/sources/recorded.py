"""Recorded bars: moved by hand in a replay, or paced."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from services.paper_exchange.charts import KlineRow
from services.paper_exchange.market import Listing, Market, list_market
from services.paper_exchange.sources.interface import Venue, own_klines
from shared.book.instrument import Instrument
from shared.clock import ms_of_instant, timeframe_ms, utc_now
from shared.quant.bar_checks import BarCheckSettings
from shared.venues.market import load_market


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

    def resume(self, market_at_ms: int, instruments: Mapping[str, Instrument]) -> None:
        """Nothing: the whole recording is at hand."""

    def next_close(self, after_ms: int) -> int | None:
        """Return `None`: only who moves it knows."""
        return None

    async def run(self, venue: Venue) -> None:
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
        return own_klines(self.market, listing, interval, start_ms, end_ms, limit, at_ms)


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


def read_recording(
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
