from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from statsmodels.regression.linear_model import OLS

from shared.errors import DataError
from shared.quant.mean_reversion import (
    correlation_of_changes,
    half_life_bars,
    hurst_exponent,
    zero_crossings,
)
from shared.quant.typing import Float2D


def autoregression(coefficient: float, n_bars: int, n_columns: int = 1, seed: int = 0) -> Float2D:
    rng = np.random.default_rng(seed)
    spreads = np.zeros((n_bars, n_columns))
    for t in range(1, n_bars):
        spreads[t] = coefficient * spreads[t - 1] + rng.normal(size=n_columns)
    return spreads


def test_half_life_is_the_one_chan_published(data_folder: Path) -> None:
    reference = json.loads((data_folder / "reference/reference_values.json").read_text())
    published = reference["chan_ewa_ewc_johansen"]
    prices = pd.read_parquet(data_folder / "reference/chan_ewa_ewc_ige.parquet")
    weights = published["recomputed"]["triplet"]["first_eigenvector"]
    portfolio = prices[["EWA", "EWC", "IGE"]].to_numpy() @ np.array(weights)
    # The weights are printed to six digits.
    half_life = half_life_bars(portfolio[:, np.newaxis])[0]
    assert half_life == pytest.approx(published["published"]["half_life_days"], abs=1e-3)


def test_half_life_is_that_of_the_regression() -> None:
    spreads = autoregression(0.9, 400, 3)
    for column, half_life in enumerate(half_life_bars(spreads)):
        spread = spreads[:, column]
        regressors = np.column_stack([spread[:-1], np.ones(399)])
        reversion = OLS(np.diff(spread), regressors).fit().params[0]
        assert half_life == pytest.approx(-math.log(2.0) / reversion, rel=1e-10)


def test_a_spread_that_runs_away_has_no_half_life() -> None:
    growing = 1.05 ** np.arange(50.0)
    assert half_life_bars(growing[:, np.newaxis])[0] == np.inf


def test_a_spread_that_moves_in_its_last_bar_alone_has_no_half_life() -> None:
    spread = np.zeros((30, 1))
    spread[-1] = 1.0
    assert half_life_bars(spread)[0] == np.inf


def test_hurst_is_a_half_for_a_walk_and_one_for_a_line() -> None:
    walks = autoregression(1.0, 4000, 40)
    assert hurst_exponent(walks).mean() == pytest.approx(0.5, abs=0.02)
    line = np.arange(200.0)[:, np.newaxis]
    assert hurst_exponent(line)[0] == pytest.approx(1.0, abs=1e-12)


def test_hurst_is_near_nought_for_noise_and_below_a_half_for_what_comes_back() -> None:
    noise = np.random.default_rng(2).normal(size=(4000, 40))
    assert hurst_exponent(noise).mean() == pytest.approx(0.0, abs=0.02)
    reverting = hurst_exponent(autoregression(0.9, 4000, 40))
    assert reverting.min() > 0.15
    assert reverting.max() < 0.4


def test_hurst_by_hand_at_two_lags() -> None:
    # 20 bars allow the lags 1 and 2: exponent = log(size_2 / size_1) / log 2.
    spread = np.random.default_rng(4).normal(size=20)
    size_1 = math.sqrt(np.mean((spread[1:] - spread[:-1]) ** 2))
    size_2 = math.sqrt(np.mean((spread[2:] - spread[:-2]) ** 2))
    expected = math.log(size_2 / size_1) / math.log(2.0)
    assert hurst_exponent(spread[:, np.newaxis])[0] == pytest.approx(expected, rel=1e-12)


def test_hurst_of_a_spread_that_repeats_itself_is_not_defined() -> None:
    wave = np.tile([1.0, 2.0], 50)[:, np.newaxis]
    assert np.isnan(hurst_exponent(wave)[0])


def test_crossings_are_of_the_mean() -> None:
    spread = 100.0 + np.array([1.0, -1.0, -1.0, 1.0, 1.0] * 4)
    assert zero_crossings(spread[:, np.newaxis]).tolist() == [8]


def test_a_bar_on_the_mean_is_no_crossing() -> None:
    touches = np.array([0.0, 1.0, 0.0, 1.0, 0.0, -1.0, 0.0, -1.0, 0.0, 0.0] * 2)
    assert zero_crossings(touches[:, np.newaxis]).tolist() == [3]


def test_correlation_of_changes_is_numpys_of_the_differences() -> None:
    rng = np.random.default_rng(6)
    a = rng.normal(size=(300, 4)).cumsum(axis=0)
    b = 0.5 * a + rng.normal(size=(300, 4)).cumsum(axis=0)
    expected = [np.corrcoef(np.diff(a[:, k]), np.diff(b[:, k]))[0, 1] for k in range(4)]
    np.testing.assert_allclose(correlation_of_changes(a, b), expected, rtol=1e-12)


def test_correlation_with_a_straight_line_is_not_defined() -> None:
    line = np.arange(30.0)[:, np.newaxis]
    walk = autoregression(1.0, 30)
    assert np.isnan(correlation_of_changes(walk, line)[0])


def test_a_spread_does_not_feel_its_neighbours() -> None:
    spreads = autoregression(0.95, 333, 7)
    other = autoregression(0.5, 333, 7, seed=1)
    for column in range(7):
        alone, other_alone = spreads[:, [column]], other[:, [column]]
        assert half_life_bars(spreads)[column] == half_life_bars(alone)[0]
        assert hurst_exponent(spreads)[column] == hurst_exponent(alone)[0]
        assert zero_crossings(spreads)[column] == zero_crossings(alone)[0]
        together = correlation_of_changes(spreads, other)[column]
        assert together == correlation_of_changes(alone, other_alone)[0]


def test_no_spreads_give_no_figures() -> None:
    none = np.empty((100, 0))
    assert half_life_bars(none).shape == (0,)
    assert hurst_exponent(none).shape == (0,)
    assert zero_crossings(none).shape == (0,)
    assert correlation_of_changes(none, none).shape == (0,)


def test_unusable_spreads_are_refused() -> None:
    spreads = autoregression(0.9, 50, 3)
    with pytest.raises(DataError, match=r"shape \(19, 3\)"):
        half_life_bars(spreads[:19])
    with pytest.raises(DataError, match="shape"):
        hurst_exponent(spreads[:, 0])
    spreads[:, 2] = 1.0
    with pytest.raises(DataError, match="spread 2 never changes"):
        zero_crossings(spreads)
    spreads[7, 1] = np.nan
    with pytest.raises(DataError, match="spread 1 holds a value that is not finite"):
        half_life_bars(spreads)
    with pytest.raises(DataError, match="pairs of columns"):
        correlation_of_changes(spreads, spreads[:, :1])
