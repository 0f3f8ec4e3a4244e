"""The compiled arithmetic of the book against decimals and unbounded integers."""

from __future__ import annotations

import math
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal

from hypothesis import assume, given
from hypothesis import strategies as st

from shared.book.arithmetic import (
    MOST_UNITS,
    charge,
    leg_targets,
    lots_available,
    share_below,
    units_below,
    units_nearest,
)

DECIMALS = st.integers(0, 8)
E18 = 10**18


@st.composite
def near_edges(draw: st.DrawFn) -> float:
    """Return a value of few digits, or a neighbour of one: where rounding is decided."""
    digits, decimals = draw(st.integers(1, 10**14)), draw(st.integers(0, 9))
    value = float(Decimal(digits).scaleb(-decimals))
    return math.nextafter(value, draw(st.sampled_from([value, 0.0, math.inf])))


def check_crossing(value: float, decimals: int) -> None:
    assume(0 < value * 10**decimals < MOST_UNITS)
    exact, unit = Decimal(repr(value)), Decimal(1).scaleb(-decimals)
    scale = 10.0**decimals
    assert units_below(value, scale) == int((exact / unit).to_integral_value(ROUND_FLOOR))
    assert units_nearest(value, scale) == int((exact / unit).to_integral_value(ROUND_HALF_UP))


@given(near_edges(), DECIMALS)
def test_a_value_near_an_edge_crosses_as_its_shortest_decimal_does(
    value: float, decimals: int
) -> None:
    check_crossing(value, decimals)


@given(st.floats(1e-9, 1e14), DECIMALS)
def test_any_value_crosses_as_its_shortest_decimal_does(value: float, decimals: int) -> None:
    check_crossing(value, decimals)


@given(st.integers(0, E18), st.integers(0, 1_000_000))
def test_a_charge_is_the_exact_product_rounded_up(notional_e8: int, rate_ppm: int) -> None:
    assert charge(notional_e8, rate_ppm) == -(-notional_e8 * rate_ppm // 1_000_000)


@given(st.integers(0, E18), st.integers(0, 1_000_000), st.integers(1, 9 * 10**12))
def test_a_share_is_the_exact_product_rounded_down(
    amount: int, numerator: int, denominator: int
) -> None:
    assume(numerator <= denominator)
    assert share_below(amount, numerator, denominator) == amount * numerator // denominator


@given(st.integers(0, E18), st.floats(0, 1e9))
def test_the_targets_of_the_legs_add_up_and_stand_in_the_ratio(gross: int, ratio: float) -> None:
    target_y, target_x = leg_targets(gross, ratio)
    ratio_ppm = min(round(ratio * 1_000_000), 9 * 10**12)
    assert target_y == gross * 1_000_000 // (1_000_000 + ratio_ppm)
    assert target_y + target_x == gross


@given(st.integers(0, 10**14), st.integers(1, 10**14), st.integers(1, 1_000_000))
def test_an_order_takes_no_more_than_its_share_of_the_volume(
    volume: int, remaining: int, participation_ppm: int
) -> None:
    lots = lots_available(volume, remaining, participation_ppm)
    assert lots == min(remaining, volume * participation_ppm // 1_000_000)
