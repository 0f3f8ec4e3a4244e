"""What fills cost beside the model's price."""

from __future__ import annotations

import numpy as np
import pytest

from shared.book.execution import FillTerms, execute_market_order
from shared.book.instrument import SPOT_STAND_IN, Instrument
from shared.book.orders import Side
from shared.book.slippage import FilledInBar, measure_slippage

COIN = Instrument(
    "AAA/USDT", price_decimals=4, lot_decimals=3, min_notional_e8=0, price_source=SPOT_STAND_IN
)
DEAR = Instrument(
    "BBB/USDT", price_decimals=2, lot_decimals=3, min_notional_e8=0, price_source=SPOT_STAND_IN
)
TERMS = FillTerms(slippage_ppm=200, impact_ppm=3_000, max_participation_ppm=1_000_000)


def by_the_kernel(worse_ticks: int = 0) -> list[FilledInBar]:
    """Return fills as the kernel gives them, each some ticks worse for us."""
    rng = np.random.default_rng(3)
    found = []
    for instrument, price in ((COIN, 7.1234), (DEAR, 40_000.0)) * 20:
        side = Side.BUY if rng.random() < 0.5 else Side.SELL
        lots, volume = int(rng.integers(1, 4_000)), float(rng.integers(5, 50))
        opened = float(price * np.exp(rng.normal(0, 0.1)))
        filled = execute_market_order(side, lots, opened, volume, instrument, TERMS)
        assert filled is not None
        ticks = filled.price_ticks + side.sign * worse_ticks
        found.append(FilledInBar(instrument, side, filled.lots, ticks, opened, volume))
    return found


def test_fills_of_the_kernel_cost_exactly_what_the_model_says() -> None:
    found = measure_slippage(by_the_kernel(), TERMS)
    assert found is not None
    assert (found.n_fills, found.excess_ppm) == (40, 0.0)
    assert 200 < found.realised_ppm < 3_200
    # With less impact in the model, what the venue takes beyond it shows.
    cheaper = measure_slippage(by_the_kernel(), TERMS.model_copy(update={"impact_ppm": 0}))
    assert cheaper is not None
    assert cheaper.excess_ppm > 100


def test_a_worse_fill_counts_against_us_on_either_side_and_by_its_notional() -> None:
    flat = FillTerms(slippage_ppm=0)
    bought = FilledInBar(COIN, Side.BUY, 1_000, 101_000, 10.0, 100.0)  # 1 % worse, 10 of notional
    sold = FilledInBar(COIN, Side.SELL, 3_000, 99_000, 10.0, 100.0)  # 1 % worse, 30
    found = measure_slippage([bought, sold], flat)
    assert found is not None
    assert found.excess_ppm == pytest.approx(10_000)
    better = FilledInBar(COIN, Side.SELL, 3_000, 101_000, 10.0, 100.0)
    found = measure_slippage([bought, better], flat)
    assert found is not None
    assert found.excess_ppm == pytest.approx((10_000 * 10 - 10_000 * 30) / 40)


def test_without_a_fill_nothing_is_said_and_a_bar_without_volume_is_borne() -> None:
    assert measure_slippage([], TERMS) is None
    found = measure_slippage([FilledInBar(COIN, Side.BUY, 5, 100_000, 10.0, 0.0)], TERMS)
    assert found is not None
    assert found.modelled_ppm == pytest.approx(3_200)
