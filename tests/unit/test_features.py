from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from shared.errors import DataError
from shared.quant.typing import Float1D, Float2D
from shared.sleeves.pairs.features import (
    FeatureSettings,
    FeatureStreams,
    SpreadSpace,
    feature_names,
    held_z,
    pair_features,
    warmup_bars,
)
from tests.support import OneStream

SMALL = FeatureSettings(beta_window=30, z_window=20, lags=3, volume_window=6, trend_window=5)
Columns = tuple[Float1D, Float1D, Float1D, Float1D]


def a_pair(n_bars: int, seed: int = 1) -> Columns:
    rng = np.random.default_rng(seed)
    log_x = 4 + rng.normal(0, 0.01, n_bars).cumsum()
    log_y = 1 + 0.8 * log_x + rng.normal(0, 0.005, n_bars)
    volume_y, volume_x = rng.exponential(100, (2, n_bars))
    return np.exp(log_y), np.exp(log_x), volume_y, volume_x


def part(columns: Columns, bars: slice) -> Columns:
    close_y, close_x, volume_y, volume_x = columns
    return close_y[bars], close_x[bars], volume_y[bars], volume_x[bars]


def column(rows: Float2D, name: str, settings: FeatureSettings = SMALL) -> Float1D:
    return rows[:, feature_names(settings).index(name)]


def expected_features(columns: Columns, settings: FeatureSettings) -> dict[str, pd.Series]:
    """The definitions once more, in pandas."""
    close_y, close_x = pd.Series(columns[0]), pd.Series(columns[1])
    is_log = settings.spread_space == "log"
    log_x = pd.Series(np.log(columns[1]))
    y, x = (pd.Series(np.log(columns[0])), log_x) if is_log else (close_y, close_x)
    window = settings.z_window
    beta = y.rolling(settings.beta_window).cov(x) / x.rolling(settings.beta_window).var()
    alpha = y.rolling(settings.beta_window).mean() - beta * x.rolling(settings.beta_window).mean()
    spread = y - (beta * x + alpha)
    mean, std = spread.rolling(window).mean(), spread.rolling(window).std()
    z_score = (spread - mean) / std
    level = spread.shift().rolling(window - 1)
    slope = level.cov(spread.diff()) / level.var()
    half_life = (math.log(2) / -slope).where(slope < 0, np.inf).clip(upper=window)
    volatility = spread.diff().rolling(window).std()
    turnover_y = pd.Series(np.log1p(columns[0] * columns[2]))
    turnover_x = pd.Series(np.log1p(columns[1] * columns[3]))
    usual_y = turnover_y.rolling(settings.volume_window).mean()
    usual_x = turnover_x.rolling(settings.volume_window).mean()
    expected = {
        "beta": beta,
        "alpha": alpha,
        "spread": spread,
        "spread_mean": mean,
        "spread_std": std,
        "z_score": z_score,
        "z_velocity": z_score.diff(),
        "z_acceleration": z_score.diff().diff(),
        "half_life_bars": half_life,
        "spread_volatility": volatility,
        "relative_volume_y": turnover_y - usual_y,
        "relative_volume_x": turnover_x - usual_x,
        "liquidity_y": usual_y,
        "liquidity_x": usual_x,
        "spread_trend": spread.diff(settings.trend_window) / std,
        "market_trend": log_x.diff(settings.trend_window),
        "volatility_ratio": spread.diff().rolling(settings.trend_window).std() / volatility,
    }
    for lag in range(1, settings.lags + 1):
        expected[f"z_lag_{lag}"] = z_score.shift(lag)
    return expected


@pytest.mark.parametrize("spread_space", ["log", "price"])
def test_every_feature_agrees_with_its_definition_in_pandas(spread_space: SpreadSpace) -> None:
    settings = SMALL.model_copy(update={"spread_space": spread_space})
    columns = a_pair(300)
    rows = pair_features(*columns, settings)
    expected = expected_features(columns, settings)
    assert tuple(expected) == feature_names(settings)
    warm = warmup_bars(settings) - 1
    for name, values in expected.items():
        np.testing.assert_allclose(
            column(rows, name)[warm:], values[warm:], rtol=1e-6, atol=1e-9, err_msg=name
        )


def test_default_settings_need_1309_bars() -> None:
    # 1000 bars for the first spread, 299 more for the first z, 10 more for its tenth lag.
    assert warmup_bars(FeatureSettings()) == 1309


@pytest.mark.parametrize(
    "settings",
    [
        SMALL,
        FeatureSettings(beta_window=10, z_window=10, lags=0),
        FeatureSettings(beta_window=10, z_window=10, lags=0, volume_window=70),
        FeatureSettings(beta_window=12, z_window=11, lags=20, trend_window=2),
    ],
)
def test_the_first_full_row_is_the_last_of_the_warm_up(settings: FeatureSettings) -> None:
    rows = pair_features(*a_pair(120), settings)
    n_warm_up = warmup_bars(settings)
    assert np.isnan(rows[: n_warm_up - 1]).all()
    assert np.isfinite(rows[n_warm_up - 1 :]).all()


def test_names_depend_on_the_lags_alone() -> None:
    assert feature_names(FeatureSettings(lags=0)) == feature_names(SMALL)[:-3]
    assert feature_names(SMALL)[-3:] == ("z_lag_1", "z_lag_2", "z_lag_3")
    assert feature_names(SMALL) == feature_names(FeatureSettings(lags=3, spread_space="price"))


def test_a_leg_without_volume_has_finite_features() -> None:
    close_y, close_x, volume_y, _ = a_pair(120)
    rows = pair_features(close_y, close_x, volume_y, np.zeros(120), SMALL)
    assert np.isfinite(rows[warmup_bars(SMALL) - 1 :]).all()
    assert np.nanmax(np.abs(column(rows, "liquidity_x"))) == 0
    assert np.nanmax(np.abs(column(rows, "relative_volume_x"))) == 0


def test_a_pair_of_equal_prices_has_z_of_zero() -> None:
    _, close_x, volume_y, volume_x = a_pair(120)
    # Seven times the price is a constant in log space, but for rounding.
    for close_y in (close_x, 7 * close_x):
        last = pair_features(close_y, close_x, volume_y, volume_x, SMALL)[-1]
        values = dict(zip(feature_names(SMALL), last.tolist(), strict=True))
        assert values["beta"] == pytest.approx(1)
        assert [values[name] for name in ("z_score", "z_velocity", "z_lag_3")] == [0, 0, 0]
        assert values["spread_trend"] == 0
        assert np.isfinite(last).all()


def test_while_the_hedge_ratio_is_undefined_there_is_no_row() -> None:
    close_y, close_x, volume_y, volume_x = a_pair(300)
    close_x[100 : 100 + SMALL.beta_window] = close_x[100]  # one window without a move
    rows = pair_features(close_y, close_x, volume_y, volume_x, SMALL)
    undefined_at = 100 + SMALL.beta_window - 1
    last_z_with_it = undefined_at + SMALL.z_window - 1
    n_without = last_z_with_it + SMALL.lags - undefined_at + 1
    is_missing = np.isnan(rows[warmup_bars(SMALL) - 1 :])
    assert np.count_nonzero(is_missing.all(axis=1)) == n_without
    assert np.count_nonzero(is_missing.any(axis=1)) == n_without
    stream = OneStream((close_y[:200], close_x[:200], volume_y[:200], volume_x[:200]), SMALL)
    assert np.isfinite(rows[200]).all()
    assert stream.update(close_y[200], close_x[200], volume_y[200], volume_x[200]) is not None


def test_half_life_is_never_longer_than_its_window() -> None:
    half_life = column(pair_features(*a_pair(2000), SMALL), "half_life_bars")
    half_life = half_life[~np.isnan(half_life)]
    assert half_life.min() > 0
    assert half_life.max() <= SMALL.z_window


def test_the_stream_warms_up_bar_by_bar_from_nothing() -> None:
    n_warm_up = warmup_bars(SMALL)
    columns = a_pair(n_warm_up + 1)
    nothing = np.empty(0)
    stream = OneStream((nothing, nothing, nothing, nothing), SMALL)
    rows = [stream.update(*bar) for bar in zip(*columns, strict=True)]
    assert rows[: n_warm_up - 1] == [None] * (n_warm_up - 1)
    expected = pair_features(*columns, SMALL)
    for row, expected_row in zip(rows[n_warm_up - 1 :], expected[n_warm_up - 1 :], strict=True):
        assert row is not None
        assert row.tobytes() == expected_row.tobytes()


def test_a_returned_row_is_not_changed_by_the_next_update() -> None:
    columns = a_pair(102)
    stream = OneStream(part(columns, slice(100)), SMALL)
    bars = list(zip(*columns, strict=True))
    first = stream.update(*bars[100])
    assert first is not None
    kept = first.copy()
    stream.update(*bars[101])
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    "bar",
    [
        (0.0, 1.0, 1.0, 1.0),
        (1.0, -1.0, 1.0, 1.0),
        (1.0, math.nan, 1.0, 1.0),
        (math.inf, 1.0, 1.0, 1.0),
        (1.0, 1.0, -1.0, 1.0),
        (1.0, 1.0, 1.0, math.nan),
    ],
)
def test_a_faulty_bar_is_refused_and_leaves_the_stream_as_it_was(
    bar: tuple[float, float, float, float],
) -> None:
    columns = a_pair(101)
    stream = OneStream(part(columns, slice(100)), SMALL)
    with pytest.raises(DataError, match="closes must be positive"):
        stream.update(*bar)
    row = stream.update(*(float(values[100]) for values in columns))
    assert row is not None
    assert row.tobytes() == pair_features(*columns, SMALL)[100].tobytes()
    for position, value in enumerate(bar):
        columns[position][50] = value
    with pytest.raises(DataError, match="of bar 50 is"):
        pair_features(*columns, SMALL)


@pytest.mark.parametrize("n_pairs", [21, 400])  # on one core, on all
def test_many_pairs_together_are_each_as_alone(n_pairs: int) -> None:
    settings = FeatureSettings(**SMALL.model_dump())
    n_bars = 150
    all_columns = [np.array(a_pair(n_bars)) * (1 + n / 10) for n in range(n_pairs)]
    expected = [pair_features(y, x, vy, vx, settings) for y, x, vy, vx in all_columns]
    names = [(f"Y{n}", f"X{n}") for n in range(n_pairs)]
    streams = FeatureStreams(settings)
    for n, name in enumerate(names):
        streams.learn(name, *all_columns[n][:, : 70 + n % 21])
    streams.forget(names[3])
    streams.learn(names[3], *all_columns[3][:, :73])
    for n, name in enumerate(names[:4]):  # learnt anew, in place
        streams.learn(name, *all_columns[n][:, : 70 + n % 21])
    for step in range(60):
        chosen = [n for n in range(n_pairs) if (n + step) % 3]
        at = {n: 70 + n % 21 + sum(bool((n + s) % 3) for s in range(step)) for n in chosen}
        chosen = [n for n in chosen if at[n] < n_bars]
        bars = np.array([all_columns[n][:, at[n]] for n in chosen]).T.copy()
        rows = streams.update([names[n] for n in chosen], *bars)
        for n, row in zip(chosen, rows, strict=True):
            assert row.tobytes() == expected[n][at[n]].tobytes()
    assert names[3] in streams
    streams.forget(names[3])
    assert names[3] not in streams


def test_columns_of_different_length_are_refused() -> None:
    close_y, close_x, volume_y, volume_x = a_pair(100)
    with pytest.raises(DataError, match="joined on bar time"):
        pair_features(close_y, close_x[1:], volume_y, volume_x, SMALL)


def test_read_only_columns_are_taken() -> None:
    columns = a_pair(100)
    expected = pair_features(*columns, SMALL)
    for values in columns:
        values.setflags(write=False)
    np.testing.assert_array_equal(pair_features(*columns, SMALL), expected)


@pytest.mark.parametrize("fault", [{"beta_window": 9}, {"z_window": 9}, {"z_windw": 20}])
def test_settings_out_of_bounds_are_refused(fault: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        FeatureSettings(**fault)


def test_held_z_by_hand() -> None:
    # Price space: 12 - (2 * 5 + 1) = 1; (1 - 0.25) / 0.5 = 1.5.
    assert held_z(12.0, 5.0, 2.0, 1.0, 0.25, 0.5, "price") == 1.5
    # Log space: 3 - (2 * 1 + 0.5) = 0.5; (0.5 - 0.1) / 0.2 = 2.
    by_log = held_z(math.exp(3), math.e, 2.0, 0.5, 0.1, 0.2, "log")
    assert by_log == pytest.approx(2)
    assert type(by_log) is float


def test_held_z_of_columns_is_that_of_each_row() -> None:
    rng = np.random.default_rng(3)
    columns = rng.uniform(1, 2, (6, 50))
    y, x, beta, alpha, mean, std = columns
    together = held_z(y, x, beta, alpha, mean, std, "log")
    alone = [
        held_z(y, x, beta, alpha, mean, std, "log")
        for y, x, beta, alpha, mean, std in columns.T.tolist()
    ]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


@pytest.mark.parametrize("spread_space", ["log", "price"])
def test_held_z_at_the_bar_of_entry_is_its_z_score(spread_space: SpreadSpace) -> None:
    settings = SMALL.model_copy(update={"spread_space": spread_space})
    close_y, close_x, volume_y, volume_x = a_pair(200)
    rows = pair_features(close_y, close_x, volume_y, volume_x, settings)
    beta, alpha, mean, std, z_score = (
        column(rows, name) for name in ("beta", "alpha", "spread_mean", "spread_std", "z_score")
    )
    at_entry = held_z(close_y, close_x, beta, alpha, mean, std, spread_space)
    np.testing.assert_allclose(at_entry, z_score, rtol=1e-9)
