from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from shared.errors import DataError
from shared.quant.mean_reversion import half_life_bars
from shared.quant.rolling import rolling_half_life, rolling_mean_std, rolling_ols
from shared.quant.typing import Float1D

WINDOW = 40


@pytest.fixture
def walk() -> Float1D:
    return np.random.default_rng(7).normal(size=400).cumsum() + 50


@pytest.fixture
def answer(walk: Float1D) -> Float1D:
    return 1.5 * walk - 3 + np.random.default_rng(8).normal(size=len(walk))


def test_ols_agrees_with_pandas_covariance_and_variance(walk: Float1D, answer: Float1D) -> None:
    beta, alpha = rolling_ols(answer, walk, WINDOW)
    y, x = pd.Series(answer).rolling(WINDOW), pd.Series(walk).rolling(WINDOW)
    expected = y.cov(pd.Series(walk)) / x.var()
    np.testing.assert_allclose(beta, expected, rtol=1e-9)
    np.testing.assert_allclose(alpha, y.mean() - expected * x.mean(), rtol=1e-8)


def test_mean_and_std_agree_with_pandas(walk: Float1D) -> None:
    mean, std = rolling_mean_std(walk, WINDOW)
    np.testing.assert_allclose(mean, pd.Series(walk).rolling(WINDOW).mean(), rtol=1e-12)
    np.testing.assert_allclose(std, pd.Series(walk).rolling(WINDOW).std(), rtol=1e-9)


def test_half_life_agrees_with_the_one_of_whole_spreads() -> None:
    noise = np.random.default_rng(9).normal(size=300)
    spread = np.zeros(300)
    for t in range(1, 300):
        spread[t] = 0.9 * spread[t - 1] + noise[t]
    half_life = rolling_half_life(spread, WINDOW, 1000.0)
    windows = np.lib.stride_tricks.sliding_window_view(spread, WINDOW)
    expected = np.minimum(half_life_bars(windows.T), 1000.0)
    assert np.isnan(half_life[: WINDOW - 1]).all()
    np.testing.assert_allclose(half_life[WINDOW - 1 :], expected, rtol=1e-9)


def test_half_life_of_what_does_not_revert_is_the_cap() -> None:
    assert rolling_half_life(np.array([1.0, 2.0, 4.0, 8.0]), 4, 99.0)[3] == 99.0
    assert rolling_half_life(np.array([5.0, 5.0, 5.0, 5.0]), 4, 99.0)[3] == 99.0
    assert rolling_half_life(np.array([5.0, 5.0, 5.0, 6.0]), 4, 99.0)[3] == 99.0


def test_half_life_slower_than_the_cap_is_the_cap() -> None:
    slow = np.power(0.99, np.arange(50), dtype=np.float64)  # g = -0.01: 69.3 bars
    assert rolling_half_life(slow, 50, 60.0)[-1] == 60.0
    assert rolling_half_life(slow, 50, 80.0)[-1] == pytest.approx(math.log(2) / 0.01)


def test_rows_before_the_first_full_window_are_nan(walk: Float1D, answer: Float1D) -> None:
    columns = [
        *rolling_ols(answer, walk, WINDOW),
        *rolling_mean_std(walk, WINDOW),
        rolling_half_life(walk, WINDOW, 100.0),
    ]
    for column in columns:
        assert np.isnan(column[: WINDOW - 1]).all()
        assert np.isfinite(column[WINDOW - 1 :]).all()


def test_columns_shorter_than_the_window_are_all_nan(walk: Float1D) -> None:
    assert np.isnan(rolling_mean_std(walk[:5], WINDOW)[0]).all()
    assert rolling_ols(walk[:0], walk[:0], WINDOW)[0].shape == (0,)


def test_nan_spoils_every_window_that_holds_it_and_no_other(walk: Float1D) -> None:
    spoilt = walk.copy()
    spoilt[100] = np.nan
    holds_it = (np.arange(len(walk)) >= 100) & (np.arange(len(walk)) < 100 + WINDOW)
    warm = np.arange(len(walk)) >= WINDOW - 1
    columns = [
        *rolling_ols(spoilt, walk, WINDOW),
        *rolling_ols(walk, spoilt, WINDOW),
        *rolling_mean_std(spoilt, WINDOW),
        rolling_half_life(spoilt, WINDOW, 100.0),
    ]
    for column in columns:
        np.testing.assert_array_equal(np.isnan(column), holds_it | ~warm)


def test_hedge_ratio_on_a_constant_is_undefined(walk: Float1D) -> None:
    constant = walk.copy()
    constant[50:150] = 0.1  # 0.1 has no exact sum: a mean of forty of them is not 0.1
    beta, alpha = rolling_ols(walk, constant, WINDOW)
    is_constant = np.zeros(len(walk), dtype=bool)
    is_constant[50 + WINDOW - 1 : 150] = True
    np.testing.assert_array_equal(np.isnan(beta[WINDOW - 1 :]), is_constant[WINDOW - 1 :])
    np.testing.assert_array_equal(np.isnan(alpha[WINDOW - 1 :]), is_constant[WINDOW - 1 :])


def test_std_of_a_constant_is_exactly_zero() -> None:
    mean, std = rolling_mean_std(np.full(50, 0.1), WINDOW)
    assert mean[-1] == 0.1
    assert std[-1] == 0.0


def test_a_large_level_does_not_drown_a_small_spread() -> None:
    small = np.array([1.0, 2.0, 3.0, 4.0])
    _, std = rolling_mean_std(small + 1e9, 4)
    assert std[-1] == pytest.approx(math.sqrt(5 / 3), rel=1e-12)


@pytest.mark.parametrize("first", [0, 1, 137, 359])
def test_a_value_is_to_the_bit_a_function_of_its_window(
    walk: Float1D, answer: Float1D, first: int
) -> None:
    last, window = first + WINDOW - 1, slice(first, first + WINDOW)
    for whole, alone in (
        *zip(
            rolling_ols(answer, walk, WINDOW),
            rolling_ols(answer[window], walk[window], WINDOW),
            strict=True,
        ),
        *zip(
            rolling_mean_std(walk, WINDOW),
            rolling_mean_std(walk[window], WINDOW),
            strict=True,
        ),
        (
            rolling_half_life(walk, WINDOW, 100.0),
            rolling_half_life(walk[window], WINDOW, 100.0),
        ),
    ):
        assert whole[last].tobytes() == alone[-1].tobytes()


def test_faulty_arguments_are_refused(walk: Float1D) -> None:
    with pytest.raises(DataError, match="join the two"):
        rolling_ols(walk, walk[1:], WINDOW)
    with pytest.raises(DataError, match="one dimension"):
        rolling_mean_std(walk.reshape(2, -1), WINDOW)
    with pytest.raises(DataError, match="window of 1 bars"):
        rolling_mean_std(walk, 1)
    with pytest.raises(DataError, match="window of 2 bars"):
        rolling_half_life(walk, 2, 10.0)
    with pytest.raises(DataError, match="cap of inf"):
        rolling_half_life(walk, WINDOW, math.inf)
