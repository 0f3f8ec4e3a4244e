from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.book.execution import Execution, FillTerms, charge_e8, execute_market_order
from shared.book.instrument import Instrument
from shared.book.orders import Side
from shared.errors import DataError
from tests.support import X, Y

FREE = FillTerms(fee_ppm=0, slippage_ppm=0, max_participation_ppm=1_000_000, funding_ppm=0)


def fill(
    side: Side = Side.BUY,
    lots: int = 100,
    open_price: float = 10.0,
    volume: float = 1_000.0,
    instrument: Instrument = Y,
    **terms: int,
) -> Execution | None:
    return execute_market_order(
        side, lots, open_price, volume, instrument, FREE.model_copy(update=terms)
    )


def test_an_order_fills_at_the_open_of_the_bar() -> None:
    assert fill(open_price=10.05) == Execution(100, 1005, 0)


@pytest.mark.parametrize(
    ("side", "slippage_ppm", "price_ticks"),
    [
        (Side.BUY, 1_000, 1001),  # 10 bps of 1000 ticks are exactly one
        (Side.SELL, 1_000, 999),
        (Side.BUY, 499, 1000),  # 0.499 of a tick
        (Side.SELL, 499, 1000),
        (Side.BUY, 500, 1001),  # half a tick goes against the order
        (Side.SELL, 500, 999),
        (Side.BUY, 1_499, 1001),
        (Side.SELL, 1_500, 998),
    ],
)
def test_slippage_is_against_the_order_to_the_nearest_tick(
    side: Side, slippage_ppm: int, price_ticks: int
) -> None:
    execution = fill(side, slippage_ppm=slippage_ppm)
    assert execution is not None
    assert execution.price_ticks == price_ticks


@pytest.mark.parametrize(
    ("side", "lots", "price_ticks"),
    [
        (Side.BUY, 10_000, 1010),  # a hundredth of the volume moves it by a tenth
        (Side.SELL, 10_000, 990),
        (Side.BUY, 40_000, 1020),
        (Side.BUY, 1_000_000, 1100),
    ],
)
def test_impact_grows_with_the_root_of_the_share_of_the_volume(
    side: Side, lots: int, price_ticks: int
) -> None:
    execution = fill(side, lots, impact_ppm=100_000)
    assert execution is not None
    assert execution.price_ticks == price_ticks


def test_no_slippage_takes_a_price_to_zero() -> None:
    coarse = fill(Side.SELL, lots=1, open_price=1.0, instrument=X, slippage_ppm=100_000)
    assert coarse == Execution(1, 1, 0)
    # At a tick of 1 the slippage of 0.6 ticks would leave nothing.
    assert fill(Side.SELL, lots=1, open_price=6.0, instrument=X, slippage_ppm=100_000) == (
        Execution(1, 5, 0)
    )


@pytest.mark.parametrize(
    ("volume", "participation_ppm", "lots"),
    [
        (0.5, 1_000_000, 500),  # 0.5 of the base are 500 lots of 0.001
        (0.5009, 1_000_000, 500),  # part of a lot is none
        (50.0, 10_000, 500),
        (50.09, 10_000, 500),  # 500.9 lots
        (1e6, 100_000, 700),  # more than the order wants
    ],
)
def test_a_bar_gives_no_more_than_its_share_of_the_volume(
    volume: float, participation_ppm: int, lots: int
) -> None:
    execution = fill(lots=700, volume=volume, max_participation_ppm=participation_ppm)
    assert execution is not None
    assert execution.lots == lots


@pytest.mark.parametrize(("volume", "participation_ppm"), [(0.0, 1_000_000), (0.0099, 100_000)])
def test_a_bar_without_room_for_a_lot_gives_nothing(volume: float, participation_ppm: int) -> None:
    assert fill(volume=volume, max_participation_ppm=participation_ppm) is None


def test_a_bar_of_an_impossible_volume_is_refused() -> None:
    with pytest.raises(DataError, match="zero or positive"):
        fill(volume=-1.0)


def test_a_fee_is_charged_on_the_notional_at_the_filled_price() -> None:
    # 0.1 bought at 10.01 cost 1.001; 0.05 % of that are 0.0005005.
    assert fill(fee_ppm=500, slippage_ppm=1_000) == Execution(100, 1001, 50_050)


@pytest.mark.parametrize(
    ("notional_e8", "rate_ppm", "charge"),
    [
        (1_000_000, 500, 500),
        (1, 1, 1),  # a millionth of a unit is charged as one
        (-1, 1, 1),
        (1_000_001, 500, 501),
        (-1_000_001, 500, 501),
        (0, 500, 0),
        (1_000_001, 0, 0),
    ],
)
def test_costs_are_rounded_up_whichever_side(notional_e8: int, rate_ppm: int, charge: int) -> None:
    assert charge_e8(notional_e8, rate_ppm) == charge


@given(
    st.sampled_from(Side),
    st.integers(1, 10**9),
    st.floats(0.01, 1e6),
    st.floats(0, 1e9),
    st.integers(0, 100_000),
    st.integers(1, 1_000_000),
)
def test_no_fill_is_better_than_the_open_or_larger_than_its_share(
    side: Side,
    lots: int,
    open_price: float,
    volume: float,
    slippage_ppm: int,
    participation_ppm: int,
) -> None:
    execution = fill(
        side,
        lots,
        open_price,
        volume,
        slippage_ppm=slippage_ppm,
        max_participation_ppm=participation_ppm,
    )
    share = Y.lots_of(volume) * participation_ppm // 1_000_000
    if execution is None:
        assert share == 0
        return
    assert execution.lots == min(lots, share)
    open_ticks = Y.price_ticks(open_price, "nearest")
    against_us = side.sign * (execution.price_ticks - open_ticks)
    assert against_us >= 0
    assert abs(2 * (against_us * 1_000_000 - open_ticks * slippage_ppm)) <= 1_000_000


@pytest.mark.parametrize(
    "terms", [{"fee_ppm": -1}, {"max_participation_ppm": 0}, {"slippage_ppm": 100_001}, {"fee": 1}]
)
def test_terms_out_of_bounds_are_refused(terms: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        FillTerms.model_validate(terms)
