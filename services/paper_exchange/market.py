"""The market of the venue: what is listed, and its bars by symbol.

It may know bars that have not closed yet (a recording holds all of them), so whoever asks
says at what instant the market stands, and nothing later is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from services.paper_exchange.candles import Candle, Candles
from shared.book.instrument import Instrument, perpetual_symbol, venue_id
from shared.clock import TIMEFRAME_MS, timeframe_ms
from shared.errors import DataError
from shared.quant.bars import Bars
from shared.quant.typing import Int1D


class TradableBar(NamedTuple):
    """What orders can trade against: prices in the quote, the volume in the base."""

    opens_at_ms: int
    open: float
    high: float
    low: float
    volume: float


@dataclass(eq=False, slots=True)
class Listing:
    """One symbol and its bars; it grows when the market does.

    Attributes
    ----------
    venue_symbol
        Its name at the venue, such as `BTCUSDT`, for the perpetual and for spot.
    instrument
        Its units; `instrument.symbol` is its name where the bars come from.
    bar_ms, bars
        The bars that orders trade against, and their length.
    longer
        Bars of longer timeframes as they were recorded, by length; where there are none they
        are made of `bars`.
    listed_at_ms
        When it was listed, where somebody else says so.
    """

    venue_symbol: str
    instrument: Instrument
    bar_ms: int
    bars: Candles
    longer: Mapping[int, Candles] = field(default_factory=dict)
    listed_at_ms: int | None = None

    @property
    def opens_at_ms(self) -> int:
        """When it was listed, else when its first bar of any length opens, else 0."""
        if self.listed_at_ms is not None:
            return self.listed_at_ms
        charts = {self.bar_ms: self.bars, **self.longer}
        return min(
            (int(bars.closes_at_ms[0]) - bar_ms for bar_ms, bars in charts.items() if len(bars)),
            default=0,
        )

    @property
    def base(self) -> str:
        """The currency that is traded."""
        return self.instrument.symbol.partition("/")[0]

    @property
    def quote(self) -> str:
        """The currency it is priced and settled in."""
        return perpetual_symbol(self.instrument.symbol).partition(":")[2]

    def bar_at(self, closes_at_ms: int) -> TradableBar | None:
        """Return the bar of a close, if the symbol has one there."""
        bars = self.bars
        row = int(bars.closes_at_ms.searchsorted(closes_at_ms))
        if row == len(bars) or bars.closes_at_ms[row] != closes_at_ms:
            return None
        return TradableBar(
            closes_at_ms - self.bar_ms,
            float(bars.open[row]),
            float(bars.high[row]),
            float(bars.low[row]),
            float(bars.volume[row]),
        )

    def last_price(self, at_ms: int) -> float | None:
        """Return the close of the last bar up to an instant, `None` before the first."""
        row = int(self.bars.closes_at_ms.searchsorted(at_ms, "right")) - 1
        return None if row < 0 else float(self.bars.close[row])

    def last_price_ticks(self, at_ms: int) -> int | None:
        """Return the last price in ticks, `None` before the first bar."""
        price = self.last_price(at_ms)
        return None if price is None else self.instrument.price_ticks(price, "nearest")

    def candles(
        self, bar_ms: int, start_ms: int | None, end_ms: int | None, limit: int, at_ms: int
    ) -> list[Candle]:
        """Return bars as a chart shows them at an instant, the forming one last.

        Parameters
        ----------
        bar_ms
            Length of the bars: that of the listing's own or a multiple.
        start_ms, end_ms
            Bounds of their opens, both inclusive; `None` leaves a side open.
        limit
            At most so many: the first ones after `start_ms`, the last ones without it.
        at_ms
            Where the market stands.
        """
        forming_ms = at_ms // bar_ms * bar_ms
        closed = self._closed(bar_ms, forming_ms)
        closed = closed.between(
            -1 if start_ms is None else start_ms + bar_ms - 1,
            forming_ms if end_ms is None else min(forming_ms, end_ms + bar_ms),
        )
        found = closed.rows(slice(-limit, None) if start_ms is None else slice(limit))
        candles = found.candles(bar_ms)
        forming = self.forming(bar_ms, at_ms)
        is_before = start_ms is not None and forming_ms < start_ms
        is_after = end_ms is not None and forming_ms > end_ms
        if forming is None or is_before or is_after:
            return candles
        candles.append(forming)
        return candles[-limit:] if start_ms is None else candles[:limit]

    def closed(self, bar_ms: int, closes_at_ms: int) -> Candle | None:
        """Return the bar of some length that closes at an instant, if there is one."""
        if bar_ms in self.longer or bar_ms == self.bar_ms:
            bars = self.longer.get(bar_ms, self.bars)
            found = bars.between(closes_at_ms - 1, closes_at_ms)
        else:
            found = self.bars.between(closes_at_ms - bar_ms, closes_at_ms).longer(bar_ms)
        candles = found.candles(bar_ms)
        return candles[0] if candles else None

    def forming(self, bar_ms: int, at_ms: int) -> Candle | None:
        """Return the bar that forms at an instant, `None` before the first bar.

        It is made of what has closed since it opened; at its very beginning it stands at the
        last price. The open of the bar to come is not told before it trades.
        """
        opens_at_ms = at_ms // bar_ms * bar_ms
        closes_at_ms = opens_at_ms + bar_ms
        so_far = self.bars.between(opens_at_ms, at_ms).longer(bar_ms).candles(bar_ms)
        if so_far:
            return so_far[0]
        price = self.last_price(at_ms)
        if price is None:
            return None
        return Candle(opens_at_ms, closes_at_ms, price, price, price, price, 0.0)

    def _closed(self, bar_ms: int, up_to_ms: int) -> Candles:
        if bar_ms == self.bar_ms or bar_ms in self.longer:
            return self.longer.get(bar_ms, self.bars).between(-1, up_to_ms)
        return self.bars.between(-1, up_to_ms).longer(bar_ms)


@dataclass(eq=False, slots=True)
class Market:
    """Everything that is listed.

    Attributes
    ----------
    listings
        By name at the venue.
    closes_at_ms : ndarray of int64, shape (m,)
        Every instant at which any bar closes, ascending.
    bar_ms
        Length of a bar.
    asset
        The currency of the account.
    """

    listings: dict[str, Listing]
    closes_at_ms: Int1D
    bar_ms: int
    asset: str = "USDT"

    @property
    def opens_at_ms(self) -> int:
        """When the first bar opens; 0 for an empty market."""
        return int(self.closes_at_ms[0]) - self.bar_ms if len(self.closes_at_ms) else 0

    @property
    def intervals(self) -> dict[str, int]:
        """Lengths of the bars it can show, by timeframe."""
        return {name: ms for name, ms in TIMEFRAME_MS.items() if ms % self.bar_ms == 0}

    def closes_between(self, after_ms: int, up_to_ms: int) -> list[int]:
        """Return the closes in (after, up to], in order."""
        first = self.closes_at_ms.searchsorted(after_ms, "right")
        last = self.closes_at_ms.searchsorted(up_to_ms, "right")
        closes: list[int] = self.closes_at_ms[first:last].tolist()
        return closes

    def last_close(self, at_ms: int) -> int | None:
        """Return the last close up to an instant, `None` before the first."""
        row = int(self.closes_at_ms.searchsorted(at_ms, "right")) - 1
        return None if row < 0 else int(self.closes_at_ms[row])

    def grow(self, closes_at_ms: Int1D, bars: Mapping[str, Candles]) -> None:
        """Add bars after those there are, by name at the venue."""
        self.closes_at_ms = np.concatenate([self.closes_at_ms, closes_at_ms])
        for name, later in bars.items():
            listing = self.listings[name]
            listing.bars = listing.bars.followed_by(later)

    def forget(self, up_to_ms: int) -> None:
        """Drop the bars that close up to an instant, and give their memory back."""
        self.closes_at_ms = self.closes_at_ms[self.closes_at_ms > up_to_ms].copy()
        for listing in self.listings.values():
            kept = listing.bars.between(up_to_ms, int(np.iinfo(np.int64).max))
            listing.bars = Candles.none().followed_by(kept)


def list_market(
    bars: Bars, instruments: Mapping[str, Instrument], longer: Iterable[Bars] = ()
) -> Market:
    """Return the market of checked bars.

    Parameters
    ----------
    bars
        Accepted bars of the trade timeframe.
    instruments
        Units by symbol; a symbol without an entry is not listed.
    longer
        Accepted bars of longer timeframes.

    Raises
    ------
    DataError
        If two symbols have one name at the venue or the symbols are of several quotes: the
        venue has one account in one currency.
    """
    bar_ms = timeframe_ms(bars.timeframe)
    candles = _by_symbol(bars)
    recorded = {timeframe_ms(each.timeframe): _by_symbol(each) for each in longer}
    listings: dict[str, Listing] = {}
    for symbol, instrument in instruments.items():
        name = venue_id(symbol)
        if name in listings:
            raise DataError(
                f"{symbol} and {listings[name].instrument.symbol} are both {name} at the venue: "
                "record them in files of their own and replay one"
            )
        listings[name] = Listing(
            name,
            instrument,
            bar_ms,
            candles[symbol],
            {ms: by_symbol[symbol] for ms, by_symbol in recorded.items() if symbol in by_symbol},
        )
    quotes = sorted({listing.quote for listing in listings.values()})
    if len(quotes) > 1:
        raise DataError(
            f"the bars are priced in {', '.join(quotes)} but the account has one currency: "
            "replay files of one quote"
        )
    return Market(listings, bars.closes(), bar_ms, *quotes)


def _by_symbol(bars: Bars) -> dict[str, Candles]:
    order = np.argsort(bars.symbol_code, kind="stable")  # keeps the order of closes
    codes = bars.symbol_code[order]
    every = Candles(bars.closes_at_ms, bars.open, bars.high, bars.low, bars.close, bars.volume)
    candles = {}
    for code, symbol in enumerate(bars.symbols):
        rows = order[codes.searchsorted(code, "left") : codes.searchsorted(code, "right")]
        candles[symbol] = every.rows(rows)
    return candles
