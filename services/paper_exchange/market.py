"""The recorded market of the venue: what is listed, and its bars by symbol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shared.book.instrument import Instrument, perpetual_symbol, venue_id
from shared.clock import timeframe_ms
from shared.errors import DataError
from shared.quant.bars import Bars
from shared.quant.typing import Float1D, Int1D


class TradableBar(NamedTuple):
    """What a market order can trade against: the open in the quote, the volume in the base."""

    opens_at_ms: int
    open: float
    volume: float


@dataclass(frozen=True, eq=False, slots=True)
class Listing:
    """One perpetual and its recorded bars.

    Attributes
    ----------
    venue_symbol
        Its name at the venue, such as `BTCUSDT`.
    instrument
        Its units; `instrument.symbol` is its name in the recording.
    closes_at_ms : ndarray of int64, shape (n,)
        Closes of its bars, ascending.
    open, close, volume : ndarray of float64, shape (n,)
        Of the same bars.
    """

    venue_symbol: str
    instrument: Instrument
    bar_ms: int
    closes_at_ms: Int1D
    open: Float1D
    close: Float1D
    volume: Float1D

    @property
    def opens_at_ms(self) -> int:
        """When its first bar opens; 0 if it has none."""
        return int(self.closes_at_ms[0]) - self.bar_ms if len(self.closes_at_ms) else 0

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
        row = int(self.closes_at_ms.searchsorted(closes_at_ms))
        if row == len(self.closes_at_ms) or self.closes_at_ms[row] != closes_at_ms:
            return None
        opens_at_ms = closes_at_ms - self.bar_ms
        return TradableBar(opens_at_ms, float(self.open[row]), float(self.volume[row]))

    def last_price_ticks(self, at_ms: int) -> int | None:
        """Return the close of the last bar up to an instant, `None` before the first."""
        row = int(self.closes_at_ms.searchsorted(at_ms, "right")) - 1
        if row < 0:
            return None
        return self.instrument.price_ticks(float(self.close[row]), "nearest")


@dataclass(frozen=True, eq=False, slots=True)
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

    listings: Mapping[str, Listing]
    closes_at_ms: Int1D
    bar_ms: int
    asset: str = "USDT"

    @property
    def opens_at_ms(self) -> int:
        """When the first bar opens; 0 for an empty market."""
        return int(self.closes_at_ms[0]) - self.bar_ms if len(self.closes_at_ms) else 0

    def closes_between(self, after_ms: int, up_to_ms: int) -> list[int]:
        """Return the closes in (after, up to], in order."""
        first = self.closes_at_ms.searchsorted(after_ms, "right")
        last = self.closes_at_ms.searchsorted(up_to_ms, "right")
        closes: list[int] = self.closes_at_ms[first:last].tolist()
        return closes


def empty_market(timeframe: str) -> Market:
    """Return a market that lists nothing."""
    return Market({}, np.array([], dtype=np.int64), timeframe_ms(timeframe))


def list_market(bars: Bars, instruments: Mapping[str, Instrument]) -> Market:
    """Return the market of checked bars.

    Parameters
    ----------
    bars
        Accepted bars of the trade timeframe.
    instruments
        Units by symbol; a symbol without an entry is not listed.

    Raises
    ------
    DataError
        If two symbols have one name at the venue or the symbols are of several quotes: the
        venue has one account in one currency.
    """
    bar_ms = timeframe_ms(bars.timeframe)
    order = np.argsort(bars.symbol_code, kind="stable")  # keeps the order of closes
    codes = bars.symbol_code[order]
    listings: dict[str, Listing] = {}
    for symbol, instrument in instruments.items():
        code = bars.symbols.index(symbol)
        rows = order[codes.searchsorted(code, "left") : codes.searchsorted(code, "right")]
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
            bars.closes_at_ms[rows],
            bars.open[rows],
            bars.close[rows],
            bars.volume[rows],
        )
    quotes = sorted({listing.quote for listing in listings.values()})
    if len(quotes) > 1:
        raise DataError(
            f"the bars are priced in {', '.join(quotes)} but the account has one currency: "
            "replay files of one quote"
        )
    return Market(listings, bars.closes(), bar_ms, *quotes)
