"""Bars made from a seed, as a market grows of them."""

from __future__ import annotations

import numpy as np

from services.paper_exchange.candles import Candles
from services.paper_exchange.market import Listing, Market
from shared.book.instrument import venue_id
from shared.clock import timeframe_ms
from shared.venues.simulated import BAR_MS, DAY_MS, SimulatedDay, SimulatedMarket

_SPARE_DAYS = 2


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
        oldest = market_at_ms // DAY_MS - self._history_days - _SPARE_DAYS
        self._next_day = max(oldest, self._next_day)
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
