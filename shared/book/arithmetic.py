"""The book's whole-number arithmetic, in the form that compiles.

The backtest's compiled loop calls these functions; the services run the very same source in
the interpreter (`interpreted`), where whole numbers know no bounds. A quantity, a price or a
charge is the same integer in both. Compiled, amounts must stay below 9.2e18 units of 1e-8;
the settings see to that.
"""

from __future__ import annotations

import math

from shared.quant.compiled import compiled

PARTS_PER_MILLION = 1_000_000

MOST_UNITS = 10**14
"""Ticks or lots below which a float crosses into whole units without a decimal."""

MOST_RATIO_PPM = 9 * 10**12
"""A hedge ratio beyond nine million to one counts as that: either way one leg is nothing."""


@compiled
def units_below(value: float, scale: float) -> int:
    """Return how many whole units a value holds.

    Parameters
    ----------
    value
        Not negative; `value * scale` below `MOST_UNITS`. It counts as the shortest decimal
        that reads back as it.
    scale
        Units in one, a power of ten up to 1e8.

    Notes
    -----
    A decimal of at most 15 digits is the shortest one of the float it reads as, so of n units
    and a value the decimals compare as their floats do. Both `n` and `scale` are exact
    floats, and a quotient of exact floats is the float nearest to the decimal.
    """
    nearest = math.floor(value * scale + 0.5)
    return nearest if nearest / scale <= value else nearest - 1


@compiled
def units_nearest(value: float, scale: float) -> int:
    """Return a value in the nearest number of whole units, halves up; as `units_below`."""
    below = units_below(value, scale)
    half = (10 * below + 5) / (10.0 * scale)
    return below + 1 if value >= half else below


@compiled
def share_below(amount: int, numerator: int, denominator: int) -> int:
    """Return floor(amount * numerator / denominator) where the product may not fit.

    `numerator * denominator` must fit.
    """
    whole, rest = amount // denominator, amount % denominator
    return whole * numerator + rest * numerator // denominator


@compiled
def charge(notional_e8: int, rate_ppm: int) -> int:
    """Return a rate of an unsigned notional, rounded up: costs never round away."""
    whole, rest = notional_e8 // PARTS_PER_MILLION, notional_e8 % PARTS_PER_MILLION
    return whole * rate_ppm - (-rest * rate_ppm // PARTS_PER_MILLION)


@compiled
def lots_available(volume_lots: int, remaining_lots: int, participation_ppm: int) -> int:
    """Return how much of an order one bar's volume leaves room for."""
    whole, rest = volume_lots // PARTS_PER_MILLION, volume_lots % PARTS_PER_MILLION
    room = whole * participation_ppm + rest * participation_ppm // PARTS_PER_MILLION
    return min(remaining_lots, room)


@compiled
def fill_ticks(
    side: int, open_ticks: int, lots: int, volume_lots: int, slippage_ppm: int, impact_ppm: int
) -> int:
    """Return the price of a fill: the open moved against the order, halves against it too.

    Parameters
    ----------
    side
        +1 buys, -1 sells.
    open_ticks
        Open of the bar.
    lots, volume_lots
        Filled, and traded in the whole bar.
    slippage_ppm, impact_ppm
        The distance is `slippage_ppm + impact_ppm * sqrt(lots / volume_lots)` millionths.
    """
    distance_ppm = slippage_ppm
    if impact_ppm > 0:
        distance_ppm += math.floor(impact_ppm * math.sqrt(lots / volume_lots) + 0.5)
    ticks = (2 * open_ticks * distance_ppm + PARTS_PER_MILLION) // (2 * PARTS_PER_MILLION)
    return max(1, open_ticks + side * ticks)


@compiled
def leg_targets(gross_e8: int, ratio: float) -> tuple[int, int]:
    """Split a gross notional 1 : ratio over the legs y and x, the ratio in whole millionths.

    The one place at which a hedge ratio becomes an integer.
    """
    ratio_ppm = MOST_RATIO_PPM
    if ratio < MOST_RATIO_PPM / PARTS_PER_MILLION:
        ratio_ppm = round(ratio * PARTS_PER_MILLION)
    target_y_e8 = share_below(gross_e8, PARTS_PER_MILLION, PARTS_PER_MILLION + ratio_ppm)
    return target_y_e8, gross_e8 - target_y_e8
