"""The batch test against statsmodels and against published figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from statsmodels.regression.linear_model import OLS
from statsmodels.tools.sm_exceptions import CollinearityWarning
from statsmodels.tsa.adfvalues import mackinnonp
from statsmodels.tsa.stattools import adfuller, coint

from shared.errors import DataError
from shared.quant.cointegration import (
    COLLINEAR_SHARE,
    EngleGrangerResult,
    engle_granger_all_pairs,
    mackinnon_p_values,
)
from shared.quant.typing import Float1D, Float2D

WINDOWS = (60, 251, 500, 1000)
PAIRS_PER_WINDOW = 50


@pytest.fixture(scope="module")
def hourly_log_prices(data_folder: Path) -> pd.DataFrame:
    bars = pd.read_parquet(
        data_folder / "crypto/binance_spot_1h_2024.parquet", columns=["ts", "symbol", "close"]
    )
    return bars.pivot(index="ts", columns="symbol", values="close").apply(np.log)


@pytest.fixture(scope="module")
def reference(data_folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(
        (data_folder / "reference/reference_values.json").read_text()
    )
    return values


def random_pair(log_prices: pd.DataFrame, n_bars: int, rng: np.random.Generator) -> Float2D:
    while True:
        first = int(rng.integers(0, len(log_prices) - n_bars + 1))
        columns = rng.choice(log_prices.shape[1], size=2, replace=False)
        pair: Float2D = log_prices.iloc[first : first + n_bars, columns].to_numpy()
        if np.isfinite(pair).all() and (pair.max(axis=0) > pair.min(axis=0)).all():
            return pair


def assert_equals_statsmodels(
    result: EngleGrangerResult,
    y: Float1D,
    x: Float1D,
    max_lag: int | None,
    autolag: str | None,
    trend: str = "c",
) -> None:
    """Entry [0, 1] of the result is statsmodels' test of y on x."""
    expected = coint(y, x, trend=trend, method="aeg", maxlag=max_lag, autolag=autolag)
    assert result.statistic[0, 1] == pytest.approx(expected[0], rel=1e-8, abs=1e-8)
    assert result.p_value[0, 1] == pytest.approx(expected[1], rel=1e-8, abs=1e-12)
    line = np.arange(len(x)) - (len(x) - 1) / 2
    n_terms = {"n": 1, "c": 2, "ct": 3}[trend]
    regression = OLS(y, np.column_stack([x, np.ones(len(x)), line])[:, :n_terms]).fit()
    hedge_ratio, intercept = [*regression.params, 0.0][:2]
    assert result.hedge_ratio[0, 1] == pytest.approx(hedge_ratio, rel=1e-8, abs=1e-10)
    assert result.intercept[0, 1] == pytest.approx(intercept, rel=1e-8, abs=1e-8)
    residual_test = adfuller(
        regression.resid, maxlag=max_lag, autolag=autolag, regression="n", result_object=True
    )
    assert result.lag[0, 1] == residual_test.lags


@pytest.mark.parametrize("n_bars", WINDOWS)
def test_real_pairs_equal_statsmodels(hourly_log_prices: pd.DataFrame, n_bars: int) -> None:
    rng = np.random.default_rng(n_bars)
    lags = set()
    for _ in range(PAIRS_PER_WINDOW):
        pair = random_pair(hourly_log_prices, n_bars, rng)
        result = engle_granger_all_pairs(pair)
        assert_equals_statsmodels(result, pair[:, 0], pair[:, 1], None, "aic")
        lags.add(int(result.lag[0, 1]))
    assert len(lags) > 3  # the lag was chosen, not always the same


@pytest.mark.parametrize(
    ("max_lag", "autolag"), [(0, "aic"), (0, None), (1, None), (5, "aic"), (7, None), (40, "aic")]
)
def test_a_given_lag_equals_statsmodels(
    hourly_log_prices: pd.DataFrame, max_lag: int, autolag: str | None
) -> None:
    pair = random_pair(hourly_log_prices, 300, np.random.default_rng(max_lag))
    result = engle_granger_all_pairs(pair, max_lag=max_lag, autolag=autolag)
    assert_equals_statsmodels(result, pair[:, 0], pair[:, 1], max_lag, autolag)


@pytest.mark.parametrize("autolag", ["aic", "bic", None])
@pytest.mark.parametrize("trend", ["n", "c", "ct"])
def test_trends_and_criteria_equal_statsmodels(
    hourly_log_prices: pd.DataFrame, trend: str, autolag: str | None
) -> None:
    rng = np.random.default_rng(5)
    for _ in range(15):
        pair = random_pair(hourly_log_prices, 400, rng)
        result = engle_granger_all_pairs(pair, trend=trend, autolag=autolag)
        assert_equals_statsmodels(result, pair[:, 0], pair[:, 1], None, autolag, trend)


@pytest.mark.parametrize("noise", [0.3, 0.1, 0.05, 0.03])
@pytest.mark.parametrize("trend", ["n", "c", "ct"])
def test_nearly_collinear_pairs_equal_statsmodels(trend: str, noise: float) -> None:
    # Down to a millionth of the variance, where moments of the series alone lose every digit.
    rng = np.random.default_rng(9)
    walk = rng.normal(size=600).cumsum()
    close = 1.0 + 2.0 * walk + noise * rng.normal(size=600)
    result = engle_granger_all_pairs(np.column_stack([close, walk]), trend=trend)
    assert_equals_statsmodels(result, close, walk, None, "aic", trend)


@pytest.mark.parametrize("n_bars", [5, 7, 9, 21, 23])
def test_the_fewest_bars_equal_statsmodels(n_bars: int) -> None:
    walks = np.random.default_rng(n_bars).normal(size=(n_bars, 2)).cumsum(axis=0)
    result = engle_granger_all_pairs(walks)
    assert_equals_statsmodels(result, walks[:, 0], walks[:, 1], None, "aic")


@pytest.mark.parametrize("moved_at", [1, 3, 200, 297, 299])
def test_a_series_that_moves_once_equals_statsmodels(moved_at: int) -> None:
    walk = np.random.default_rng(0).normal(size=300).cumsum()
    step = np.where(np.arange(300) < moved_at, 0.0, 1.0)
    result = engle_granger_all_pairs(np.column_stack([walk, step]))
    assert_equals_statsmodels(result, walk, step, None, "aic")
    mirrored = engle_granger_all_pairs(np.column_stack([step, walk]))
    assert_equals_statsmodels(mirrored, step, walk, None, "aic")


@pytest.mark.filterwarnings("ignore::statsmodels.tools.sm_exceptions.SingularMatrixWarning")
@pytest.mark.parametrize(("max_lag", "autolag"), [(None, "aic"), (5, None)])
def test_lags_without_any_movement_equal_statsmodels(
    max_lag: int | None, autolag: str | None
) -> None:
    # Both series move once, so late that the higher lags never move within the sample.
    time = np.arange(300)
    y, x = np.where(time < 298, 0.0, 1.0), np.where(time < 299, 0.0, 1.0)
    result = engle_granger_all_pairs(np.column_stack([y, x]), max_lag=max_lag, autolag=autolag)
    assert_equals_statsmodels(result, y, x, max_lag, autolag)


def test_macrodata_equals_the_figure_of_statsmodels(
    data_folder: Path, reference: dict[str, Any]
) -> None:
    expected = reference["engle_granger_macrodata"]
    table = pd.read_parquet(data_folder / "reference/us_macrodata_quarterly.parquet")
    series = table[["realcons", "realgdp"]].to_numpy()
    result = engle_granger_all_pairs(series, max_lag=0, autolag=None)
    assert result.statistic[0, 1] == pytest.approx(expected["published"]["t"], abs=1e-10)
    assert result.p_value[0, 1] == pytest.approx(expected["recomputed"]["p"], abs=1e-6)


def test_australia_and_canada_equal_the_figures_of_chan(
    data_folder: Path, reference: dict[str, Any]
) -> None:
    expected = reference["chan_ewa_ewc_cadf"]
    table = pd.read_parquet(data_folder / "reference/chan_ewa_ewc_ige.parquet")
    result = engle_granger_all_pairs(table[["EWC", "EWA"]].to_numpy(), max_lag=1, autolag=None)
    recomputed = expected["recomputed"]
    assert result.statistic[0, 1] == pytest.approx(
        expected["published"]["cadf_t"], abs=expected["tolerance"]
    )
    assert result.hedge_ratio[0, 1] == pytest.approx(expected["published"]["hedge_ratio"], abs=5e-5)
    assert result.statistic[0, 1] == pytest.approx(recomputed["cadf_t"], abs=1e-6)
    assert result.statistic[1, 0] == pytest.approx(
        recomputed["cadf_t_reverse_regression"], abs=1e-6
    )
    assert result.intercept[0, 1] == pytest.approx(recomputed["const"], abs=1e-6)
    assert result.p_value[0, 1] == pytest.approx(recomputed["mackinnon_p"], abs=1e-6)


def test_gold_and_its_miners_equal_the_published_figures(
    data_folder: Path, reference: dict[str, Any]
) -> None:
    # Of the book's figures only the hedge ratio: its test of the residual is another program's,
    # which no regression of statsmodels reproduces.
    published = reference["chan_gld_gdx_first252"]["published"]
    recomputed = reference["chan_gld_gdx_first252"]["recomputed"]
    prices = pd.read_parquet(data_folder / "reference/chan_gld_gdx.parquet")[["GLD", "GDX"]]
    pair = prices.to_numpy(dtype=np.float64)[:252]
    result = engle_granger_all_pairs(pair, trend="n", max_lag=1, autolag=None)
    assert result.hedge_ratio[0, 1] == pytest.approx(published["hedge_ratio"], abs=1e-3)
    assert result.hedge_ratio[0, 1] == pytest.approx(recomputed["hedge_ratio"], abs=1e-12)


@pytest.mark.parametrize("trend", ["n", "c", "ct"])
def test_p_values_equal_those_of_statsmodels(trend: str) -> None:
    statistic = np.concatenate([np.linspace(-25.0, 2.0, 2001), [-2.62, -18.86, 0.92, -np.inf]])
    expected = [mackinnonp(value, regression=trend, N=2) for value in statistic]
    np.testing.assert_allclose(
        mackinnon_p_values(statistic, trend), expected, rtol=1e-12, atol=1e-300
    )


@pytest.mark.parametrize(("share", "is_collinear"), [(0.5, True), (2.0, False)])
def test_nearly_collinear_series_are_told_as_statsmodels_does(
    share: float, is_collinear: bool
) -> None:
    rng = np.random.default_rng(9)
    x = rng.normal(size=400).cumsum()
    noise = rng.normal(size=400)
    noise *= np.sqrt(share * COLLINEAR_SHARE * x.var() / noise.var())
    y = 3.0 + x + noise
    result = engle_granger_all_pairs(np.column_stack([y, x]))
    if not is_collinear:
        assert_equals_statsmodels(result, y, x, None, "aic")
        return
    with pytest.warns(CollinearityWarning):
        expected = coint(y, x)
    assert (expected[0], expected[1]) == (-np.inf, 0.0)
    assert (result.statistic[0, 1], result.p_value[0, 1]) == (-np.inf, 0.0)
    assert result.lag[0, 1] == 0


def test_a_residual_that_its_own_lags_explain_makes_no_test() -> None:
    time = np.arange(200.0)
    waves = np.column_stack([np.sin(0.3 * time), np.sin(0.11 * time)])
    result = engle_granger_all_pairs(waves)
    assert np.isnan(result.statistic[0, 1])
    assert result.p_value[0, 1] == 1.0


def test_the_diagonal_is_no_test() -> None:
    walks = np.random.default_rng(3).normal(size=(100, 3)).cumsum(axis=0)
    result = engle_granger_all_pairs(walks)
    off_diagonal = ~np.eye(3, dtype=np.bool_)
    for entries in (
        result.statistic,
        result.p_value,
        result.lag,
        result.hedge_ratio,
        result.intercept,
    ):
        assert entries.shape == (3, 3)
        assert entries.dtype == np.float64
        assert np.isnan(np.diag(entries)).all()
        assert np.isfinite(entries[off_diagonal]).all()
    assert result.n_bars == 100


def test_what_cannot_be_tested_is_refused() -> None:
    walks = np.random.default_rng(3).normal(size=(100, 3)).cumsum(axis=0)
    with pytest.raises(DataError, match="trend 'ctt' is not offered"):
        engle_granger_all_pairs(walks, trend="ctt")
    with pytest.raises(DataError, match="autolag 't-stat' is not offered"):
        engle_granger_all_pairs(walks, autolag="t-stat")
    with pytest.raises(DataError, match=r"shape \(100,\)"):
        engle_granger_all_pairs(walks[:, 0])
    with pytest.raises(DataError, match=r"shape \(100, 1\)"):
        engle_granger_all_pairs(walks[:, :1])
    with pytest.raises(DataError, match=r"shape \(2, 3\)"):
        engle_granger_all_pairs(walks[:2])
    with pytest.raises(DataError, match="max_lag is -1"):
        engle_granger_all_pairs(walks, max_lag=-1)
    with pytest.raises(DataError, match="100 bars cannot carry 49 lags: give at least 101"):
        engle_granger_all_pairs(walks, max_lag=49)
    walks[:, 1] = 5.0
    with pytest.raises(DataError, match="column 1 of the log prices never changes"):
        engle_granger_all_pairs(walks)
    walks[4, 2] = np.inf
    with pytest.raises(DataError, match="column 2 of the log prices holds a value"):
        engle_granger_all_pairs(walks)
