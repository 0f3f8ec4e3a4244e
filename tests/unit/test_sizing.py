from __future__ import annotations

import pytest
from pydantic import ValidationError

from shared.book.sizing import PairSize, SizingSettings, fraction_of_e8, size_pair
from tests.support import X, Y

UNIT = 10**8


def test_in_log_space_the_hedge_ratio_is_one_of_notionals() -> None:
    # 3000 at 1 : 0.5 are 2000 and 1000: 200 Y at 10, and 10 X at 100.
    size = size_pair(3_000 * UNIT, 0.5, "log", 10.0, 100.0, Y, X)
    assert size == PairSize(200_000, 10, 2_000 * UNIT, 1_000 * UNIT)


def test_in_price_space_the_hedge_ratio_is_one_of_units() -> None:
    # One X for every 10 Y: 100 of X for 100 of Y.
    size = size_pair(3_000 * UNIT, 0.1, "price", 10.0, 100.0, Y, X)
    assert size == PairSize(150_000, 15, 1_500 * UNIT, 1_500 * UNIT)


def test_lots_are_rounded_down() -> None:
    # 1000 at 1 : 2 are 333.33 and 666.67: 33.333 Y, and 6 X of which a seventh is not whole.
    size = size_pair(1_000 * UNIT, 2.0, "log", 10.0, 100.0, Y, X)
    assert size == PairSize(33_333, 6, 33_333 * 10**6, 600 * UNIT)


def test_sizes_are_taken_at_the_price_in_ticks() -> None:
    # 10.006 is 1001 ticks: of 10.01 there are 99.900 in 1000.
    size = size_pair(2_000 * UNIT, 1.0, "log", 10.006, 100.4, Y, X)
    assert (size.lots_y, size.notional_y_e8) == (99_900, 99_900 * 1_001 * 1_000)
    assert (size.lots_x, size.notional_x_e8) == (10, 1_000 * UNIT)


def test_a_leg_too_small_for_a_lot_comes_out_as_none() -> None:
    assert size_pair(150 * UNIT, 1.0, "log", 10.0, 100.0, Y, X) == PairSize(7_500, 0, 75 * UNIT, 0)


def test_a_hedge_ratio_counts_in_millionths() -> None:
    for hedge_ratio in (1.0000016, 1.000002, 1.0000024):
        size = size_pair(2_000_002 * UNIT, hedge_ratio, "log", 10.0, 1.0, Y, X)
        assert (size.lots_y, size.lots_x) == (100_000_000, 1_000_002)


@pytest.mark.parametrize(
    ("amount", "fraction", "part"),
    [
        (100, 0.3, 30),
        (100, 2.01, 201),
        (10, 0.25, 2),
        (10**20, 0.1, 10**19),
        (1_000_000, 0.0000014, 1),
        (7, 2.0, 14),
    ],
)
def test_a_fraction_is_taken_to_six_decimals_and_rounded_down(
    amount: int, fraction: float, part: int
) -> None:
    assert fraction_of_e8(amount, fraction) == part


def test_pairs_share_the_gross_of_the_book() -> None:
    settings = SizingSettings(capital_usdt=90_000, top_k=7, gross_cap=1.5)
    assert settings.capital_e8 == 90_000 * UNIT
    assert settings.pair_gross_e8 == 135_000 * UNIT // 7


@pytest.mark.parametrize(
    "settings", [{"capital_usdt": 0}, {"top_k": 0}, {"gross_cap": 0}, {"symbol_cap": 11}, {"k": 1}]
)
def test_settings_out_of_bounds_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        SizingSettings.model_validate(settings)
