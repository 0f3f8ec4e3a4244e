"""Benchmarks of the screen: every ordered pair against `statsmodels`."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from statsmodels.tools.sm_exceptions import CollinearityWarning
from statsmodels.tsa.stattools import adfuller, coint

from cli.bench.figure import Figure, best_seconds, faster
from shared.quant.cointegration import engle_granger_all_pairs
from shared.quant.cross_moments import lagged_products, pack
from shared.quant.streaming_cointegration import StreamingEngleGranger
from shared.quant.typing import Float2D

N_SYMBOLS = 500
_REFERENCE_PAIRS = 3
_LONG_BARS = 8_760
_SHORT_BARS = 1_000
_LAGS_OF_SHORT = 22


def _walks(n_bars: int, n_symbols: int = N_SYMBOLS) -> Float2D:
    rng = np.random.default_rng(7)
    return 0.01 * rng.normal(size=(n_bars, n_symbols)).cumsum(axis=0)


def all_pairs(n_bars: int) -> Figure:
    """Time one test of all ordered pairs against `coint` on one thread."""
    prices = _walks(n_bars)
    n_tests = N_SYMBOLS * (N_SYMBOLS - 1)
    seconds = best_seconds(lambda: engle_granger_all_pairs(prices), 5) / n_tests
    repeats = 5 if n_bars <= _SHORT_BARS else 2
    reference = min(
        best_seconds(lambda pair=pair: coint(prices[:, pair], prices[:, pair + 1]), repeats)  # type: ignore[misc]
        for pair in range(_REFERENCE_PAIRS)
    )
    data = f"{N_SYMBOLS} random walks of {n_bars:,} bars, {n_tests:,} ordered tests"
    return faster(f"screen_{n_bars}", seconds, reference, "us a test", data)


def stream_moments() -> Figure:
    """Time bringing the moments up to date against making them from the window."""
    prices = _walks(_LONG_BARS + 60)
    stream = StreamingEngleGranger(N_SYMBOLS, _LONG_BARS, max_lag=_LAGS_OF_SHORT, anchor_every=50)
    rows = iter(prices)
    for _ in range(_LONG_BARS + 41):  # past an anchor, and none among those to come
        stream.update(next(rows))
    seconds = best_seconds(lambda: stream.update(next(rows)), 8)
    levels = np.ascontiguousarray(prices[-_LONG_BARS:][::-1].T)
    changes = levels[:, :-1] - levels[:, 1:]
    reference = best_seconds(lambda: lagged_products(pack(changes), _LAGS_OF_SHORT), 2)
    data = f"{N_SYMBOLS} random walks, {_LONG_BARS:,} bars, {_LAGS_OF_SHORT} lags"
    return faster("stream_moments", seconds, reference, "us a bar", data)


def stream_rescreen() -> Figure:
    """Time a whole re-screen of a long window against one of a short window, lags alike."""

    def seconds_of(n_bars: int) -> float:
        prices = _walks(n_bars + 60)
        stream = StreamingEngleGranger(N_SYMBOLS, n_bars, max_lag=_LAGS_OF_SHORT, anchor_every=50)
        rows = iter(prices)
        first_anchor = -(-n_bars // 50) * 50
        for _ in range(first_anchor + 1):
            stream.update(next(rows))

        def rescreen() -> None:
            stream.update(next(rows))
            stream.result()

        return best_seconds(rescreen, 5)

    short, long = seconds_of(_SHORT_BARS), seconds_of(_LONG_BARS)
    data = (
        f"{N_SYMBOLS} random walks, {_LAGS_OF_SHORT} lags, {_LONG_BARS:,} against "
        f"{_SHORT_BARS:,} bars"
    )
    return Figure("stream_rescreen", long * 1e3, "ms a bar", short * 1e3, long / short, data)


def exactness(data_folder: Path, n_pairs: int) -> Figure:
    """Return the largest relative difference from `statsmodels` over random real pairs."""
    bars = pd.read_parquet(
        data_folder / "crypto" / "binance_spot_1h_2024.parquet", columns=["ts", "symbol", "close"]
    )
    prices = bars.pivot(index="ts", columns="symbol", values="close").apply(np.log)
    rng = np.random.default_rng(2)
    largest, n_done = 0.0, 0
    while n_done < n_pairs:
        n_bars = int(rng.choice([60, 120, 250, 500]))
        first = int(rng.integers(0, len(prices) - n_bars + 1))
        columns = rng.choice(prices.shape[1], size=2, replace=False)
        pair = prices.iloc[first : first + n_bars, columns].to_numpy()
        if not np.isfinite(pair).all() or (np.ptp(pair, axis=0) == 0).any():
            continue
        largest = max(largest, _difference(pair))
        n_done += 1
    data = f"{n_pairs:,} random pairs of real hourly closes, 60 to 500 bars"
    return Figure("exactness", largest, "relative difference", 0.0, largest, data)


def _difference(pair: Float2D) -> float:
    result = engle_granger_all_pairs(pair)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollinearityWarning)
        statistic, p_value, _ = coint(pair[:, 0], pair[:, 1])
    if not np.isfinite(statistic):
        return 0.0 if result.statistic[0, 1] == statistic else np.inf
    residual = pair[:, 0] - result.hedge_ratio[0, 1] * pair[:, 1] - result.intercept[0, 1]
    lags = adfuller(residual, regression="n", result_object=True).lags
    if lags != result.lag[0, 1]:
        return np.inf
    return float(
        max(abs(result.statistic[0, 1] / statistic - 1), abs(result.p_value[0, 1] / p_value - 1))
    )
