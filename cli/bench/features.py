"""Benchmark of the features: many pairs at one close against pandas' rolling windows."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cli.bench.figure import Figure, best_seconds, faster
from shared.quant.typing import Float1D
from shared.sleeves.pairs.features import FeatureSettings, FeatureStreams, warmup_bars

N_PAIRS = 1_000
_N_SYMBOLS = 40
_N_CLOSES = 100
_REFERENCE_PAIRS = 10


def one_close() -> Figure:
    """Time one 5m close of a thousand pairs against recomputing rolling windows in pandas."""
    settings = FeatureSettings()
    n_bars = warmup_bars(settings)
    rng = np.random.default_rng(7)
    close = 100 * np.exp(0.001 * rng.normal(size=(n_bars + _N_CLOSES, _N_SYMBOLS)).cumsum(axis=0))
    volume = rng.lognormal(8, 1, size=close.shape)
    legs = np.array([rng.choice(_N_SYMBOLS, 2, replace=False) for _ in range(N_PAIRS)])
    names = [(f"{n} {y}", f"{n} {x}") for n, (y, x) in enumerate(legs)]
    streams = FeatureStreams(settings)
    for name, (y, x) in zip(names, legs, strict=True):
        streams.learn(
            name, close[:n_bars, y], close[:n_bars, x], volume[:n_bars, y], volume[:n_bars, x]
        )
    y, x = legs.T
    bars = iter(range(n_bars, len(close)))

    def update() -> None:
        bar = next(bars)
        streams.update(names, close[bar, y], close[bar, x], volume[bar, y], volume[bar, x])

    seconds = best_seconds(update, _N_CLOSES - 1)

    def recompute() -> None:
        for y, x in legs[:_REFERENCE_PAIRS]:
            _by_pandas(close[:n_bars, y], close[:n_bars, x], volume[:n_bars, y], volume[:n_bars, x])

    reference = best_seconds(recompute, 3) * N_PAIRS / _REFERENCE_PAIRS
    data = f"{N_PAIRS:,} pairs of random walks, windows of {settings.beta_window:,} bars"
    return faster("features", seconds, reference, "us a close", data)


def _by_pandas(close_y: Float1D, close_x: Float1D, volume_y: Float1D, volume_x: Float1D) -> None:
    """Compute the same columns the way one would in a notebook."""
    settings = FeatureSettings()
    y, x = pd.Series(np.log(close_y)), pd.Series(np.log(close_x))
    window, z_window = settings.beta_window, settings.z_window
    beta = y.rolling(window).cov(x) / x.rolling(window).var()
    alpha = y.rolling(window).mean() - beta * x.rolling(window).mean()
    spread = y - (beta * x + alpha)
    std = spread.rolling(z_window).std()
    z_score = (spread - spread.rolling(z_window).mean()) / std
    change, level = spread.diff(), spread.shift(1)
    slope = change.rolling(z_window - 1).cov(level) / level.rolling(z_window - 1).var()
    columns = [beta, alpha, spread, z_score, z_score.diff(), z_score.diff().diff(), slope]
    columns += [change.rolling(z_window).std(), change.rolling(settings.trend_window).std()]
    for price, volume in ((close_y, volume_y), (close_x, volume_x)):
        turnover = pd.Series(np.log1p(price * volume))
        usual = turnover.rolling(settings.volume_window).mean()
        columns += [turnover - usual, usual]
    columns += [(spread - spread.shift(settings.trend_window)) / std]
    columns += [x - x.shift(settings.trend_window)]
    columns += [z_score.shift(lag) for lag in range(1, settings.lags + 1)]
    pd.concat(columns, axis=1)
