from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shared.quant.typing import Float1D, Float2D
from shared.sleeves.pairs.features import (
    FeatureSettings,
    FeatureStreams,
    pair_features,
    warmup_bars,
)
from tests.support import OneStream

N_BARS = 160
Columns = tuple[Float1D, Float1D, Float1D, Float1D]

untimed = hypothesis_settings(deadline=None)  # the first example compiles the kernels

small_settings = st.builds(
    FeatureSettings,
    beta_window=st.integers(10, 25),
    z_window=st.integers(10, 20),
    lags=st.integers(0, 6),
    volume_window=st.integers(2, 12),
    trend_window=st.integers(2, 12),
    spread_space=st.sampled_from(["log", "price"]),
)


@st.composite
def pairs(draw: st.DrawFn) -> Columns:
    """Return a pair of any scale, at times without moves or without volume."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale_y, scale_x = (10.0 ** draw(st.integers(-6, 5)) for _ in "yx")
    close_x = np.exp(rng.normal(0, 0.01, N_BARS).cumsum())
    close_y = close_x**0.7 * np.exp(rng.normal(0, 0.005, N_BARS))
    volumes = rng.exponential(1000, (2, N_BARS))
    volumes[rng.random((2, N_BARS)) < 0.1] = 0
    if draw(st.booleans()):
        first = draw(st.integers(0, N_BARS - 1))
        close_x[first : first + draw(st.integers(1, 40))] = close_x[first]
    return scale_y * close_y, scale_x * close_x, volumes[0], volumes[1]


def part(columns: Columns, bars: slice) -> Columns:
    close_y, close_x, volume_y, volume_x = columns
    return close_y[bars], close_x[bars], volume_y[bars], volume_x[bars]


def assert_stream_agrees(
    columns: Columns, batch: Float2D, settings: FeatureSettings, restart: int, history_bars: int
) -> None:
    """Rebuild a stream before bar `restart` and compare it with the batch to the last bar."""
    history = slice(max(restart - history_bars, 0), restart)
    stream = OneStream(part(columns, history), settings)
    for t in range(restart, len(batch)):
        row = stream.update(*(float(values[t]) for values in columns))
        if row is None:
            assert np.isnan(batch[t]).all(), t
        else:
            assert row.tobytes() == batch[t].tobytes(), t


@untimed
@given(pairs(), small_settings, st.integers(0, N_BARS - 1))
def test_a_stream_restarted_at_any_bar_equals_the_batch_to_the_bit(
    columns: Columns, settings: FeatureSettings, restart: int
) -> None:
    batch = pair_features(*columns, settings)
    # A history one bar short of a full row is enough: the update brings the last bar.
    assert_stream_agrees(columns, batch, settings, restart, warmup_bars(settings) - 1)


@untimed
@given(pairs(), small_settings, st.integers(0, N_BARS - 1), st.integers(0, N_BARS))
def test_a_stream_given_more_history_than_needed_is_none_the_wiser(
    columns: Columns, settings: FeatureSettings, restart: int, more: int
) -> None:
    batch = pair_features(*columns, settings)
    assert_stream_agrees(columns, batch, settings, restart, warmup_bars(settings) + more)


@untimed
@given(pairs(), small_settings)
def test_a_row_is_finite_throughout_or_not_there(
    columns: Columns, settings: FeatureSettings
) -> None:
    is_finite = np.isfinite(pair_features(*columns, settings))
    np.testing.assert_array_equal(is_finite.all(axis=1), is_finite.any(axis=1))


@untimed
@given(pairs(), pairs(), small_settings, st.integers(1, N_BARS - 1))
def test_no_future_bar_changes_a_past_row(
    columns: Columns, others: Columns, settings: FeatureSettings, first_changed: int
) -> None:
    before = pair_features(*columns, settings)
    for values, other in zip(columns, others, strict=True):
        values[first_changed:] = other[first_changed:]
    after = pair_features(*columns, settings)
    assert before[:first_changed].tobytes() == after[:first_changed].tobytes()


@untimed
@given(pairs(), small_settings, st.data())
def test_no_bar_before_the_warm_up_window_changes_a_row(
    columns: Columns, settings: FeatureSettings, data: st.DataObject
) -> None:
    last = data.draw(st.integers(warmup_bars(settings) - 1, N_BARS - 1))
    window = slice(last - warmup_bars(settings) + 1, last + 1)
    alone = pair_features(*part(columns, window), settings)
    assert alone[-1].tobytes() == pair_features(*columns, settings)[last].tobytes()


@pytest.mark.parametrize("spread_space", ["log", "price"])
def test_recorded_bars_stream_as_they_batch(data_folder: Path, spread_space: str) -> None:
    bars = pd.read_parquet(
        data_folder / "crypto" / "binance_spot_5m_2024.parquet",
        columns=["ts", "symbol", "close", "volume"],
        filters=[
            ("symbol", "in", ["ETC/USDT", "LTC/USDT"]),
            ("ts", "<", pd.Timestamp("2024-02-15", tz="UTC")),
        ],
    )
    joined = bars.pivot_table(index="ts", columns="symbol", values=["close", "volume"]).dropna()
    columns: Columns = (
        joined["close", "LTC/USDT"].to_numpy(),
        joined["close", "ETC/USDT"].to_numpy(),
        joined["volume", "LTC/USDT"].to_numpy(),
        joined["volume", "ETC/USDT"].to_numpy(),
    )
    settings = FeatureSettings.model_validate({"spread_space": spread_space})
    batch = pair_features(*columns, settings)
    n_bars, n_warm_up = len(joined), warmup_bars(settings)
    assert n_bars == 14 * 288
    assert np.isfinite(batch[n_warm_up - 1 :]).all()
    for restart in (n_warm_up - 1, n_warm_up, 2000, 2 * n_warm_up + 1, n_bars - 1):
        assert_stream_agrees(columns, batch, settings, restart, n_warm_up)


def test_seven_months_stream_as_they_batch_whatever_the_roster(data_folder: Path) -> None:
    bars = pd.read_parquet(
        data_folder / "crypto" / "binance_spot_5m_2024.parquet",
        columns=["ts", "symbol", "close", "volume"],
    )
    close, volume = (
        bars.pivot(index="ts", columns="symbol", values=name).to_numpy()
        for name in ("close", "volume")
    )
    n_bars = len(close)
    assert n_bars == 62_784
    rng = np.random.default_rng(20)
    legs = [rng.choice(close.shape[1], 2, replace=False).tolist() for _ in range(10)]
    columns = {
        (f"{n}", f"{y} {x}"): (close[:, y], close[:, x], volume[:, y], volume[:, x])
        for n, (y, x) in enumerate(legs)
    }
    settings = FeatureSettings()
    batch = {pair: pair_features(*values, settings) for pair, values in columns.items()}
    streams, followed = FeatureStreams(settings), list[tuple[str, str]]()
    n_restarts = n_changes = n_rows = 0
    for t in range(n_bars):
        unknown = []
        if rng.random() < 0.001:
            streams, unknown = FeatureStreams(settings), followed
            n_restarts += 1
        if t == 0 or rng.random() < 0.003:
            kept = {pair for pair in columns if rng.random() < 0.5}
            for pair in set(followed) - kept - set(unknown):
                streams.forget(pair)
            unknown = [pair for pair in sorted(kept) if pair in unknown or pair not in followed]
            followed = sorted(kept)
            n_changes += 1
        history = slice(max(0, t - warmup_bars(settings)), t)
        for pair in unknown:
            streams.learn(pair, *part(columns[pair], history))
        bar = [[values[t] for values in columns[pair]] for pair in followed]
        close_y, close_x, volume_y, volume_x = np.array(bar).reshape(-1, 4).T.copy()
        rows = streams.update(followed, close_y, close_x, volume_y, volume_x)
        expected = np.array([batch[pair][t] for pair in followed]).reshape(rows.shape)
        assert rows.tobytes() == expected.tobytes(), t
        n_rows += int(np.count_nonzero(~np.isnan(rows[:, 0])))
    assert n_restarts > 30
    assert n_changes > 100
    assert n_rows > 4 * n_bars
