"""The fill kernel: what a market order does against the next bar.

The paper venue and the backtest call this one function, so a fill is the same number in
both.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, Field

from shared.book.arithmetic import charge, fill_ticks, lots_available
from shared.book.instrument import Instrument
from shared.book.orders import Side
from shared.quant.compiled import interpreted


class FillTerms(BaseModel, frozen=True, extra="forbid"):
    """What trading costs.

    Attributes
    ----------
    fee_ppm
        Fee in millionths of the notional, charged on every fill (500 = 0.0005).
    slippage_ppm
        Distance of the fill from the open of the bar, against us, in millionths.
    max_participation_ppm
        Largest share of a bar's volume that one order takes, in millionths.
    impact_ppm
        Square-root impact: how far an order of a bar's whole volume would move the price
        against itself, in millionths. A share s of the volume moves it by sqrt(s) of that.
    funding_ppm
        Funding charged on the notional of every held leg at 00:00, 08:00 and 16:00 UTC, in
        millionths and against us, where no funding series is recorded (100 = 1 bp).
    borrow_ppm
        Charged in the same way on the legs held short, for what is borrowed to sell.
    """

    fee_ppm: int = Field(500, ge=0, le=100_000)
    slippage_ppm: int = Field(100, ge=0, le=100_000)
    impact_ppm: int = Field(0, ge=0, le=1_000_000)
    max_participation_ppm: int = Field(100_000, gt=0, le=1_000_000)
    funding_ppm: int = Field(100, ge=0, le=100_000)
    borrow_ppm: int = Field(0, ge=0, le=100_000)


@dataclass(frozen=True, slots=True)
class Execution:
    """What one bar gave to one order.

    Attributes
    ----------
    lots
        Filled quantity, at least one.
    price_ticks
        In ticks of the instrument.
    fee_e8
        In 1e-8 of the quote currency.
    """

    lots: int
    price_ticks: int
    fee_e8: int


def execute_market_order(
    side: Side,
    remaining_lots: int,
    open_price: float,
    volume: float,
    instrument: Instrument,
    terms: FillTerms,
) -> Execution | None:
    """Fill a market order at the open of a bar.

    Parameters
    ----------
    side, remaining_lots
        The order.
    open_price
        Open of the first bar after the decision, in the quote currency.
    volume
        Volume of that bar in the base currency.
    instrument, terms
        Units and costs.

    Returns
    -------
    Execution or None
        `None` when the bar's volume leaves room for less than one lot: the order goes on
        to the next bar.

    Notes
    -----
    The price is the open moved by slippage and impact against the order and rounded to the
    nearest tick, halves against the order: rounding a whole tick away would cost a coarse
    instrument many times its slippage. The fee is rounded up to the next 1e-8.
    """
    volume_lots = instrument.lots_of(volume)
    lots = interpreted(lots_available)(volume_lots, remaining_lots, terms.max_participation_ppm)
    if lots <= 0:
        return None
    price_ticks = interpreted(fill_ticks)(
        side.sign,
        instrument.price_ticks(open_price, "nearest"),
        lots,
        volume_lots,
        terms.slippage_ppm,
        terms.impact_ppm,
    )
    notional_e8 = instrument.notional_e8(price_ticks, lots)
    return Execution(lots, price_ticks, charge_e8(notional_e8, terms.fee_ppm))


def carry_e8(lots: int, notional_e8: int, terms: FillTerms) -> int:
    """Return what one funding instant costs a holding of so many signed lots."""
    cost_e8 = charge_e8(notional_e8, terms.funding_ppm)
    return cost_e8 + charge_e8(notional_e8, terms.borrow_ppm) if lots < 0 else cost_e8


def charge_e8(notional_e8: int, rate_ppm: int) -> int:
    """Return a rate of a notional in 1e-8 of the quote, rounded up: costs never round away."""
    return interpreted(charge)(abs(notional_e8), rate_ppm)
