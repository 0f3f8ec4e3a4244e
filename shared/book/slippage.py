"""What fills cost beside what the fill kernel would have charged for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shared.book.arithmetic import PARTS_PER_MILLION, fill_ticks
from shared.book.execution import FillTerms
from shared.book.instrument import Instrument
from shared.book.orders import Side
from shared.quant.compiled import interpreted


@dataclass(frozen=True, slots=True)
class FilledInBar:
    """A fill, and the bar of the market in which it came about.

    Attributes
    ----------
    open_price, volume
        Of that bar, in the quote and in the base currency.
    """

    instrument: Instrument
    side: Side
    lots: int
    price_ticks: int
    open_price: float
    volume: float


@dataclass(frozen=True, slots=True)
class Slippage:
    """How far fills were from the opens of their bars, against us, weighted by notional.

    Attributes
    ----------
    n_fills
        Fills measured.
    realised_ppm, modelled_ppm
        As they filled, and as the fill kernel would have filled them, in millionths.
    """

    n_fills: int
    realised_ppm: float
    modelled_ppm: float

    @property
    def excess_ppm(self) -> float:
        """How much worse than the model; negative where fills were better."""
        return self.realised_ppm - self.modelled_ppm


def measure_slippage(fills: Iterable[FilledInBar], terms: FillTerms) -> Slippage | None:
    """Hold fills against the prices that the backtest assumes for them.

    Parameters
    ----------
    fills
        In any order.
    terms
        Of the model: its slippage and impact.

    Returns
    -------
    Slippage or None
        None without a fill.

    Notes
    -----
    Of a fill at p in a bar that opened at o the slippage is side (p - o) / o. The kernel's own
    price is rounded to ticks like the venue's, so that on a venue that fills by the kernel the
    excess is zero to the bit. A bar that lists less volume than was filled of it, as one of
    another source may, counts as having had as much as the fill.

    Examples
    --------
    >>> coin = Instrument("A/USDT", 2, 3, min_notional_e8=0, price_source="perpetual")
    >>> bought = FilledInBar(coin, Side.BUY, 100, 10_030, open_price=100.0, volume=50.0)
    >>> found = measure_slippage([bought], FillTerms(slippage_ppm=1_000))
    >>> found.realised_ppm, found.modelled_ppm, found.excess_ppm
    (3000.0, 1000.0, 2000.0)
    """
    n_fills = weight = 0
    realised = modelled = 0.0
    for fill in fills:
        open_ticks = fill.instrument.price_ticks(fill.open_price, "nearest")
        modelled_ticks = interpreted(fill_ticks)(
            fill.side.sign,
            open_ticks,
            fill.lots,
            max(fill.lots, fill.instrument.lots_of(fill.volume)),
            terms.slippage_ppm,
            terms.impact_ppm,
        )
        notional_e8 = fill.instrument.notional_e8(open_ticks, fill.lots)
        of_one_tick = fill.side.sign * notional_e8 * PARTS_PER_MILLION / open_ticks
        realised += of_one_tick * (fill.price_ticks - open_ticks)
        modelled += of_one_tick * (modelled_ticks - open_ticks)
        n_fills, weight = n_fills + 1, weight + notional_e8
    return Slippage(n_fills, realised / weight, modelled / weight) if n_fills else None
