"""How much of each leg: 1 : hedge ratio, within the caps, in whole lots."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import BaseModel, Field

from shared.book.arithmetic import PARTS_PER_MILLION, leg_targets, share_below
from shared.book.instrument import Instrument
from shared.quant.compiled import interpreted

E8 = 100_000_000
_RATIO_UNIT = 1_000_000
_share_below = interpreted(share_below)
_leg_targets = interpreted(leg_targets)


class SizingSettings(BaseModel, frozen=True, extra="forbid"):
    """Size of the book and its caps.

    Attributes
    ----------
    capital_usdt
        Capital the sizes are fractions of.
    top_k
        Most pairs held at once.
    gross_cap
        Most gross notional of the book, as a multiple of the capital. A pair gets
        `capital * gross_cap / top_k`.
    symbol_cap
        Most gross notional in one symbol over all pairs, as a multiple of the capital.
    """

    capital_usdt: int = Field(100_000, gt=0, le=10**9)
    top_k: int = Field(10, gt=0, le=1000)
    gross_cap: float = Field(1.0, gt=0, le=10)
    symbol_cap: float = Field(0.3, gt=0, le=10)

    @property
    def capital_e8(self) -> int:
        """Capital in 1e-8 of the quote."""
        return self.capital_usdt * E8

    @property
    def pair_gross_e8(self) -> int:
        """Gross notional of one pair in 1e-8 of the quote."""
        return fraction_of_e8(self.capital_e8, self.gross_cap) // self.top_k


def part_of_gross_e8(gross_e8: int, size_ppm: int) -> int:
    """Return the part of a pair's gross notional that an entry is to get, in millionths of it."""
    return _share_below(gross_e8, size_ppm, PARTS_PER_MILLION)


def fraction_of_e8(amount_e8: int, fraction: float) -> int:
    """Return a setting's fraction of an amount, the fraction taken to six decimals."""
    return amount_e8 * round(fraction * _RATIO_UNIT) // _RATIO_UNIT


class PairSize(NamedTuple):
    """Unsigned lots of each leg and the notionals they stand for at the sizing price."""

    lots_y: int
    lots_x: int
    notional_y_e8: int
    notional_x_e8: int


def size_pair(
    gross_e8: int,
    hedge_ratio: float,
    spread_space: Literal["log", "price"],
    price_y: float,
    price_x: float,
    instrument_y: Instrument,
    instrument_x: Instrument,
) -> PairSize:
    """Split a gross notional over the legs of a pair.

    Parameters
    ----------
    gross_e8
        Gross notional of both legs, in 1e-8 of the quote.
    hedge_ratio
        Positive. In log space the ratio of notionals x : y, in price space that of units.
    spread_space
        Space in which the hedge ratio was estimated.
    price_y, price_x
        Prices the size is computed at, in the quote currency.
    instrument_y, instrument_x
        Units of the legs.

    Returns
    -------
    PairSize
        Rounded down to whole lots; a leg may come out as zero lots, which the caller
        refuses together with one below its minimum notional.
    """
    ticks_y = instrument_y.price_ticks(price_y, "nearest")
    ticks_x = instrument_x.price_ticks(price_x, "nearest")
    ratio = hedge_ratio if spread_space == "log" else hedge_ratio * price_x / price_y
    target_y_e8, target_x_e8 = _leg_targets(gross_e8, ratio)
    lot_y_e8 = instrument_y.notional_e8(ticks_y, 1)
    lot_x_e8 = instrument_x.notional_e8(ticks_x, 1)
    lots_y, lots_x = target_y_e8 // lot_y_e8, target_x_e8 // lot_x_e8
    return PairSize(lots_y, lots_x, lots_y * lot_y_e8, lots_x * lot_x_e8)
