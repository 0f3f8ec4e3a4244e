"""Units of an instrument and the only crossings between floats, decimals and whole units.

A tick is the smallest step of the price, a lot the smallest step of the quantity. Both are
powers of ten whose product is a multiple of 1e-8 of the quote, so the notional of any
order is an exact integer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Context, Decimal
from typing import Literal

import numpy as np

from shared.book.arithmetic import MOST_UNITS, units_below, units_nearest
from shared.errors import DataError
from shared.quant.bars import Bars
from shared.quant.compiled import interpreted

NOTIONAL_DECIMALS = 8
"""Notionals are counted in 10**-8 of the quote currency."""

SIGNIFICANT_DIGITS = 6
"""Digits of the reference price that a derived tick resolves."""

MIN_NOTIONAL_QUOTE = 5
"""Smallest order of a derived instrument, in units of the quote currency."""

SPOT_STAND_IN = "spot price standing in for the perpetual"
PERPETUAL = "perpetual"

SCALES = tuple(float(10**decimals) for decimals in range(NOTIONAL_DECIMALS + 1))
"""Units in one of the currency, by decimals."""

_NOTIONAL_STEPS = tuple(int(10**decimals) for decimals in range(NOTIONAL_DECIMALS, -1, -1))
_units_below = interpreted(units_below)
_units_nearest = interpreted(units_nearest)

Rounding = Literal["up", "down", "nearest"]

_ROUNDINGS: Mapping[Rounding, str] = {
    "up": ROUND_CEILING,
    "down": ROUND_FLOOR,
    "nearest": ROUND_HALF_UP,
}
# A float has at most 17 significant digits and a venue's decimal some 30: 80 keep every
# shift of the decimal point exact, whatever the context of the calling thread.
_EXACT = Context(prec=80)
_SYMBOL = re.compile(r"(?P<base>[^/:\s]+)/(?P<quote>[^/:\s]+)(?::(?P<settle>[^/:\s]+))?")


@dataclass(frozen=True, slots=True)
class Instrument:
    """Units in which one symbol is priced and traded.

    Attributes
    ----------
    symbol
        As in the bars, for example `BTC/USDT`.
    price_decimals
        A tick is 10**-price_decimals of the quote currency.
    lot_decimals
        A lot is 10**-lot_decimals of the base currency.
    min_notional_e8
        Smallest order, in 1e-8 of the quote currency.
    price_source
        What the prices are prices of, in words.

    Raises
    ------
    DataError
        If the decimals are negative or add up to more than `NOTIONAL_DECIMALS`.

    Examples
    --------
    >>> bitcoin = derive_instrument("BTC/USDT", 42283.58)
    >>> bitcoin.price_ticks(42283.58, "nearest"), bitcoin.lots_of(0.123456)
    (422836, 12345)
    >>> bitcoin.notional_e8(422836, 12345)
    521991042000
    """

    symbol: str
    price_decimals: int
    lot_decimals: int
    min_notional_e8: int
    price_source: str

    def __post_init__(self) -> None:
        if min(self.price_decimals, self.lot_decimals) < 0 or (
            self.price_decimals + self.lot_decimals > NOTIONAL_DECIMALS
        ):
            raise DataError(
                f"{self.symbol}: price_decimals {self.price_decimals} and lot_decimals "
                f"{self.lot_decimals} must not be negative and may add up to "
                f"{NOTIONAL_DECIMALS} at most, or a notional is no whole number of 1e-8"
            )

    def price_ticks(self, price: float | Decimal, rounding: Rounding) -> int:
        """Return a price in whole ticks: the one crossing from float prices to the book.

        Parameters
        ----------
        price
            In the quote currency, finite and positive. A float counts as the shortest
            decimal that reads back as it.
        rounding
            `up`, `down` or `nearest` (halves go up).

        Returns
        -------
        int
            At least one: no venue quotes a price of zero.

        Raises
        ------
        DataError
            If the price is not finite or not positive.
        """
        if rounding == "nearest" and _is_small(price, self.price_decimals):
            return max(1, _units_nearest(float(price), SCALES[self.price_decimals]))
        exact = _decimal_of(price)
        if not exact.is_finite() or exact <= 0:
            raise DataError(f"{self.symbol}: price {price} is not a positive number")
        return max(1, _whole_units(exact, self.price_decimals, _ROUNDINGS[rounding]))

    def price_of(self, ticks: int) -> Decimal:
        """Return ticks as a price in the quote currency, exactly."""
        return Decimal(ticks).scaleb(-self.price_decimals, _EXACT)

    def lots_of(self, quantity: float | Decimal) -> int:
        """Return a quantity of the base currency in whole lots, rounded down.

        Raises
        ------
        DataError
            If the quantity is not finite or is negative.
        """
        if _is_small(quantity, self.lot_decimals):
            return _units_below(float(quantity), SCALES[self.lot_decimals])
        exact = _decimal_of(quantity)
        if not exact.is_finite() or exact < 0:
            raise DataError(
                f"{self.symbol}: quantity {quantity} is not zero or positive; "
                "the side of an order carries its sign"
            )
        return _whole_units(exact, self.lot_decimals, ROUND_FLOOR)

    def quantity_of(self, lots: int) -> Decimal:
        """Return lots as a quantity of the base currency, exactly."""
        return Decimal(lots).scaleb(-self.lot_decimals, _EXACT)

    def notional_e8(self, price_ticks: int, lots: int) -> int:
        """Return price times quantity in 1e-8 of the quote currency, exactly.

        Lots may carry a sign; the notional then has the same.
        """
        return int(price_ticks * lots * self.notional_step)

    @property
    def notional_step(self) -> int:
        """Notional of one lot at one tick, in 1e-8 of the quote currency."""
        return _NOTIONAL_STEPS[self.price_decimals + self.lot_decimals]


def derive_instrument(symbol: str, reference_price: float) -> Instrument:
    """Return units fitted to a price, for a venue that states none of its own.

    Parameters
    ----------
    symbol
        `BASE/QUOTE` (spot) or `BASE/QUOTE:QUOTE` (perpetual).
    reference_price
        In the quote currency.

    Returns
    -------
    Instrument
        With a tick that resolves six significant digits of the price but is no finer than
        1e-8, a lot worth at most one unit of the quote (a whole coin where the coin is worth
        less, 1e-8 of it where it is worth more than 1e8), and a smallest order of five
        units of the quote.

    Raises
    ------
    DataError
        If the symbol is of another form or the price is not finite or is below 1e-8.
    """
    price = _decimal_of(reference_price)
    if not price.is_finite() or price < Decimal(1).scaleb(-NOTIONAL_DECIMALS):
        raise DataError(
            f"{symbol}: no tick fits a reference price of {reference_price}: "
            f"give a finite price of at least 1e-{NOTIONAL_DECIMALS}"
        )
    magnitude = price.adjusted()  # floor(log10(price)) without a float logarithm's rounding
    price_decimals = min(max(SIGNIFICANT_DIGITS - 1 - magnitude, 0), NOTIONAL_DECIMALS)
    lot_decimals = min(max(magnitude + 1, 0), NOTIONAL_DECIMALS - price_decimals)
    return Instrument(
        symbol=symbol,
        price_decimals=price_decimals,
        lot_decimals=lot_decimals,
        min_notional_e8=MIN_NOTIONAL_QUOTE * 10**NOTIONAL_DECIMALS,
        price_source=SPOT_STAND_IN if _parse(symbol)[2] is None else PERPETUAL,
    )


def instruments_from_bars(bars: Bars) -> dict[str, Instrument]:
    """Derive the instrument of every symbol from the open of its first bar.

    Parameters
    ----------
    bars
        Accepted bars; later bars of a symbol do not change its instrument, so a prefix of
        the same recording gives the same units.

    Returns
    -------
    dict of str to Instrument
        One per symbol that has a bar, by symbol in ascending order.

    Raises
    ------
    DataError
        As `derive_instrument`.
    """
    codes, first_rows = np.unique(bars.symbol_code, return_index=True)
    return {
        bars.symbols[code]: derive_instrument(bars.symbols[code], opening)
        for code, opening in zip(codes.tolist(), bars.open[first_rows].tolist(), strict=True)
    }


def perpetual_symbol(symbol: str) -> str:
    """Return the perpetual settled in its quote: `BTC/USDT` gives `BTC/USDT:USDT`.

    A perpetual's symbol comes back as it is.

    Raises
    ------
    DataError
        If the symbol is not `BASE/QUOTE` or `BASE/QUOTE:QUOTE`.
    """
    base, quote, _ = _parse(symbol)
    return f"{base}/{quote}:{quote}"


def venue_id(symbol: str) -> str:
    """Return the name a venue's REST interface uses: `BTC/USDT` gives `BTCUSDT`.

    Spot and perpetual share it, as on the venues, which keep them on different hosts.

    Raises
    ------
    DataError
        If the symbol is not `BASE/QUOTE` or `BASE/QUOTE:QUOTE`.
    """
    base, quote, _ = _parse(symbol)
    return base + quote


def _parse(symbol: str) -> tuple[str, str, str | None]:
    match = _SYMBOL.fullmatch(symbol)
    if match is None or match["settle"] not in (None, match["quote"]):
        raise DataError(
            f"symbol {symbol!r} is neither BASE/QUOTE nor BASE/QUOTE:QUOTE: "
            "write it like BTC/USDT or BTC/USDT:USDT"
        )
    return match["base"], match["quote"], match["settle"]


def _decimal_of(value: float | Decimal) -> Decimal:
    # repr of a plain float: the shortest decimal that reads back as the same float. The
    # call of float() is for numpy's scalars, whose repr names their type.
    return value if isinstance(value, Decimal) else Decimal(repr(float(value)))


def _is_small(value: float | Decimal, decimals: int) -> bool:
    """Tell whether a value is a positive float that compiled arithmetic takes exactly."""
    return not isinstance(value, Decimal) and 0 < value * SCALES[decimals] < MOST_UNITS


def _whole_units(value: Decimal, decimals: int, rounding: str) -> int:
    return int(value.scaleb(decimals, _EXACT).to_integral_value(rounding, _EXACT))
